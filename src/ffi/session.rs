//! `broker_session_t`: one connection of a client that is the caller's alone. Converts and delegates to the client
//! it came from.

use super::border::{Ended, Handle, Rule, Shell, enter, shield};
use super::client::{Handled, broker_client_t, broker_reply_cb, call, shell as client_shell};
use super::codes::*;
use super::embed::broker_req_t;
use super::reply::{broker_reply_t, hand_out_nothing};
use super::text::words;
use super::transaction::{self, broker_transaction_t};
use crate::client::{Block, Request, SessionKey};
use std::ffi::{c_char, c_int, c_void};

/// A connection of its own within a client, for what depends on one: WATCH ... EXEC above all. Whatever state a command
/// leaves on it stays until the session is freed, which closes the connection; if the connection is lost, everything
/// after returns BROKER_ECONN, so that no state is ever lost in silence. Same thread and same processing as its client,
/// whose callbacks get the outcomes.
///
/// Methods: broker_session_new, _free, _submit, _transaction, _call, _call_transaction.
#[allow(non_camel_case_types)]
#[derive(Debug)]
pub struct broker_session_t(#[expect(dead_code, reason = "reached through a cast pointer")] Shell<Session>);

#[derive(Debug, Clone, Copy)]
pub(super) struct Session {
    client: *mut broker_client_t,
    /// Which tenant of that memory.
    serial: u64,
    key: SessionKey,
}

impl Handle for Session {
    fn ended() -> &'static Ended<Self> {
        static ENDED: Ended<Session> = Ended::new();
        &ENDED
    }
}

/// The client of a session, if it still lives.
fn client_of<'a>(session: *const broker_session_t) -> Result<(&'a Shell<Handled>, Session), c_int> {
    let own = Shell::of(session.cast::<Shell<Session>>())?;
    own.check()?;
    let session = own.borrow(|session| *session)?;
    let shell = Shell::of(client_shell(session.client))?;
    if shell.serial() != session.serial {
        return Err(BROKER_ESTATE);
    }
    shell.check()?;
    Ok((shell, session))
}

/// The gate of functions that go on to the session's client.
fn enter_client(
    session: *const broker_session_t,
    rule: Rule,
    body: impl FnOnce(&Shell<Handled>, Session) -> Result<c_int, c_int>,
) -> c_int {
    shield(BROKER_EPANIC, || {
        let entered = client_of(session).and_then(|(shell, session)| {
            shell.check_rule(rule)?;
            body(shell, session)
        });
        entered.unwrap_or_else(|code| code)
    })
}

/// Opens a session. Free it before or after its client.
///
/// BROKER_EINVAL for NULL; BROKER_EAGAIN above "client_connections_max"; BROKER_ECONN for a client that cannot open
/// connections any more; BROKER_ESTATE, BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_session_new(out: *mut *mut broker_session_t, client: *mut broker_client_t) -> c_int {
    if out.is_null() {
        return BROKER_EINVAL;
    }
    // SAFETY: not NULL; the header asks for a place for a pointer.
    unsafe { out.write(std::ptr::null_mut()) };
    enter(client_shell(client), Rule::Anywhere, |handled| match handled.client.open_session() {
        Ok(key) => {
            let serial = Shell::of(client_shell(client)).map_or(0, Shell::serial);
            let session = Shell::create(Session { client, serial, key }, -1);
            // SAFETY: as above.
            unsafe { out.write(session.cast()) };
            BROKER_OK
        }
        Err(refusal) => handled.refuse(&refusal),
    })
}

/// Closes the session's connection; pending requests get BROKER_ECANCELED in the client's next processing. Allowed in
/// callbacks and in forked processes.
///
/// NULL is BROKER_OK; BROKER_ESTATE a second time.
#[unsafe(no_mangle)]
pub extern "C" fn broker_session_free(session: *mut broker_session_t) -> c_int {
    if session.is_null() {
        return BROKER_OK;
    }
    shield(BROKER_EPANIC, || {
        let client = client_of(session);
        let freed = Shell::of(session.cast::<Shell<Session>>()).and_then(|own| {
            own.end()?;
            if let Ok((shell, session)) = client {
                shell.borrow(|handled| handled.client.close_session(session.key))?;
            }
            Ok(BROKER_OK)
        });
        freed.unwrap_or_else(|code| code)
    })
}

/// Sends a command on the session; as broker_client_submit(), but also WATCH, UNWATCH, MULTI, EXEC, DISCARD, SELECT, AUTH
/// and blocking commands, behind which the next one waits.
///
/// BROKER_ECONN once the connection is lost; BROKER_EUNSUPPORTED for subscriptions, CLIENT REPLY, HELLO, RESET, QUIT,
/// MONITOR, SYNC, PSYNC and REPLCONF.
#[unsafe(no_mangle)]
pub extern "C" fn broker_session_submit(
    session: *mut broker_session_t,
    argc: usize,
    argv: *const *const c_char,
    argvlen: *const usize,
    timeout_ms: u32,
    req: *mut broker_req_t,
    cb: broker_reply_cb,
    data: *mut c_void,
) -> c_int {
    enter_client(session, Rule::Anywhere, |shell, session| {
        let words = words(argc, argv, argvlen)?;
        shell.borrow(|handled| {
            handled.submit(Some(session.key), &Request::Command(&words), timeout_ms, req, (cb, data))
        })
    })
}

/// Sends a transaction on the session; as broker_client_transaction(). If a key watched on this session has changed, none
/// of it is executed and the reply is NIL: read again and try anew.
#[unsafe(no_mangle)]
pub extern "C" fn broker_session_transaction(
    session: *mut broker_session_t,
    transaction: *const broker_transaction_t,
    timeout_ms: u32,
    req: *mut broker_req_t,
    cb: broker_reply_cb,
    data: *mut c_void,
) -> c_int {
    enter_client(session, Rule::Anywhere, |shell, session| {
        transaction::read(transaction, |block| {
            shell.borrow(|handled| {
                handled.submit(Some(session.key), &Request::Transaction(block), timeout_ms, req, (cb, data))
            })
        })?
    })
}

/// Sends a command on the session and waits for its outcome; as broker_client_call().
#[unsafe(no_mangle)]
pub extern "C" fn broker_session_call(
    session: *mut broker_session_t,
    argc: usize,
    argv: *const *const c_char,
    argvlen: *const usize,
    timeout_ms: u32,
    out: *mut *mut broker_reply_t,
) -> c_int {
    hand_out_nothing(out);
    enter_client(session, Rule::OutsideCallbacks, |shell, session| {
        let words = words(argc, argv, argvlen)?;
        call(shell, session.client, Some(session.key), &Request::Command(&words), timeout_ms, out)
    })
}

/// Sends a transaction on the session and waits for its outcome: broker_session_transaction() and broker_session_call() in
/// one.
#[unsafe(no_mangle)]
pub extern "C" fn broker_session_call_transaction(
    session: *mut broker_session_t,
    transaction: *const broker_transaction_t,
    timeout_ms: u32,
    out: *mut *mut broker_reply_t,
) -> c_int {
    hand_out_nothing(out);
    enter_client(session, Rule::OutsideCallbacks, |shell, session| {
        let block = transaction::read(transaction, Block::clone)?;
        call(shell, session.client, Some(session.key), &Request::Transaction(&block), timeout_ms, out)
    })
}
