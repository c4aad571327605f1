//! `broker_client_t`: a process's side of a broker. Converts and delegates to `crate::client::Client`; owns the
//! callbacks until they are called, and the order in which they run.

use super::border::{Ended, Handle, Rule, Shell, enter, enter_dispatching, shield};
use super::calls::{Calls, Delivery, code_of_fault, code_of_refusal};
use super::codes::*;
use super::config::{self, broker_config_t, code_of};
use super::embed::{broker_req_t, give_req, millis};
use super::log;
use super::reply::{Owned, broker_reply_t, hand_out, hand_out_nothing};
use super::text::{bytes, copy_out, opt_str, own_words, words};
use super::transaction::{self, broker_transaction_t};
use crate::client::{Block, Client, Event, Family, Request, SessionKey, Unusable};
use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A client of a broker, or of Redis itself. One thread at a time; broker_client_wakeup() alone may be called from
/// any. Its callbacks run in that thread, inside broker_client_process(), _wait(), _call() and _free(), and nowhere
/// else. It connects by itself, and again after a loss.
///
/// A forked process must not use an inherited client: every function returns BROKER_EFORKED there without touching
/// a descriptor, until broker_client_after_fork().
///
/// Methods: broker_client_new, _free, _after_fork, _error, _connected; _submit, _transaction, _cancel, _flush;
/// _call, _call_transaction; _fd, _timeout, _process, _wait, _wakeup; _on_push, _on_state; _subscribe,
/// _unsubscribe.
#[allow(non_camel_case_types)]
#[derive(Debug)]
pub struct broker_client_t(#[expect(dead_code, reason = "reached through a cast pointer")] Shell<Handled>);

/// Names a subscription; 0 names none. Never used again.
#[allow(non_camel_case_types)]
pub type broker_sub_t = u64;

/// A channel by its name, as SUBSCRIBE.
pub const BROKER_CHANNEL: c_int = 0;
/// All channels that match a pattern, as PSUBSCRIBE.
pub const BROKER_PATTERN: c_int = 1;
/// A shard channel by its name, as SSUBSCRIBE.
pub const BROKER_SHARD: c_int = 2;

/// Gets the outcome of a request, exactly once if and only if it was submitted with BROKER_OK, and never from
/// inside the submitting function. `status` 0: `reply` is the reply, borrowed until the callback returns (an error
/// of Redis' is a reply of type ERROR). Below 0: a code, and `reply` is NULL. Outcomes come in the order in which
/// requests were submitted, except timeouts, cancellations and blocking commands.
///
/// May use the client and free it (which then happens when the callback has returned); may not process, wait or
/// call: BROKER_EREENTRANT. Must not throw or longjmp.
#[allow(non_camel_case_types)]
pub type broker_reply_cb = Option<
    unsafe extern "C" fn(
        client: *mut broker_client_t,
        status: c_int,
        reply: *const broker_reply_t,
        data: *mut c_void,
    ),
>;

/// Gets what broker_client_on_push() asks for: a push that belongs to no subscription, borrowed until the callback
/// returns. As broker_reply_cb otherwise.
#[allow(non_camel_case_types)]
pub type broker_push_cb = Option<
    unsafe extern "C" fn(client: *mut broker_client_t, push: *const broker_reply_t, data: *mut c_void),
>;

/// Told when the client's connection is there (`connected` 1, `reason` 0) and when it is gone or could not be made
/// (0 and a code); then it is tried again by itself. As broker_reply_cb otherwise.
#[allow(non_camel_case_types)]
pub type broker_state_cb = Option<
    unsafe extern "C" fn(client: *mut broker_client_t, connected: c_int, reason: c_int, data: *mut c_void),
>;

type Callback = unsafe extern "C" fn(*mut broker_client_t, c_int, *const broker_reply_t, *mut c_void);
type PushCallback = unsafe extern "C" fn(*mut broker_client_t, *const broker_reply_t, *mut c_void);
type StateCallback = unsafe extern "C" fn(*mut broker_client_t, c_int, c_int, *mut c_void);

#[derive(Debug)]
pub(super) struct Handled {
    pub(super) client: Client,
    pub(super) calls: Calls<Callback>,
    on_push: Option<(PushCallback, *mut c_void)>,
    on_state: Option<(StateCallback, *mut c_void)>,
    words: CString,
}

impl Handle for Handled {
    fn ended() -> &'static Ended<Self> {
        static ENDED: Ended<Handled> = Ended::new();
        &ENDED
    }
}

/// A callback of any kind that is due.
enum Due {
    Reply(Delivery<Callback>),
    Push((PushCallback, *mut c_void), Owned),
    State((StateCallback, *mut c_void), c_int, c_int),
}

impl Due {
    fn call(self, client: *mut broker_client_t) {
        // SAFETY: each function was given to be called so, in the thread that uses the client.
        unsafe {
            match self {
                Due::Reply(delivery) => {
                    delivery.call(|cb, status, reply, data| cb(client, status, reply, data))
                }
                Due::Push((cb, data), push) => cb(client, push.borrowed(), data),
                Due::State((cb, data), connected, reason) => cb(client, connected, reason, data),
            }
        }
    }
}

impl Handled {
    fn next_due(&mut self) -> Option<Due> {
        while let Some(event) = self.client.next_event() {
            let due = match event {
                Event::Push(push) => self.on_push.map(|callback| Due::Push(callback, Owned::new(push))),
                Event::State { connected, reason } => {
                    let reason = reason.map_or(BROKER_OK, code_of_fault);
                    self.on_state.map(|callback| Due::State(callback, c_int::from(connected), reason))
                }
                event => self.calls.complete(event).map(Due::Reply),
            };
            if due.is_some() {
                return due;
            }
        }
        None
    }

    pub(super) fn refuse(&mut self, refusal: &crate::client::Refusal) -> c_int {
        self.words = own_words(refusal.words());
        code_of_refusal(refusal)
    }

    pub(super) fn submit(
        &mut self,
        to: Option<SessionKey>,
        request: &Request<'_>,
        timeout_ms: u32,
        req: *mut broker_req_t,
        callback: (broker_reply_cb, *mut c_void),
    ) -> c_int {
        let (Some(cb), data) = callback else { return BROKER_EINVAL };
        let tag = self.calls.reserve(cb, data);
        match self.client.submit(to, request, u64::from(timeout_ms), tag) {
            Ok(id) => {
                give_req(req, id);
                BROKER_OK
            }
            Err(refusal) => {
                self.calls.forget(tag);
                self.refuse(&refusal)
            }
        }
    }
}

pub(super) fn shell(pointer: *const broker_client_t) -> *const Shell<Handled> {
    pointer.cast()
}

/// Makes a client of `endpoint` and begins to connect; requests may be submitted at once and wait for the connection
/// up to "queue_timeout".
///
/// - "unix:///run/broker/broker.sock", "tcp://host:port": a broker's socket (or Redis' own: it speaks the same).
/// - "fd://3": a connected socket, such as the other end of what broker_loop_adopt_fd() took. The client owns and
///   closes it. It cannot be connected again once lost.
/// - "redis://[user[:password]@]host[:port][/db]": straight to Redis.
/// - NULL: what the environment variable BROKER_ENDPOINT says.
///
/// `config` gives the user, password, database, name and protocol (the "client_..." keys of docs/c-api.md), which are
/// set again on every connection; NULL means the defaults. A host name is looked up in here, blocking. On failure
/// *out is NULL and `errbuf` has the words, cut to `errlen` bytes (NULL and 0 if they are not wanted).
///
/// BROKER_EINVAL for a NULL `out`, a malformed endpoint, or NULL without BROKER_ENDPOINT; BROKER_ECONFIG for settings
/// that do not fit together; BROKER_ESYS without descriptors, or for a name that cannot be looked up.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_new(
    out: *mut *mut broker_client_t,
    endpoint: *const c_char,
    config: *const broker_config_t,
    errbuf: *mut c_char,
    errlen: usize,
) -> c_int {
    shield(BROKER_EPANIC, || {
        if out.is_null() {
            return BROKER_EINVAL;
        }
        // SAFETY: not NULL; the header asks for a place for a pointer.
        unsafe { out.write(std::ptr::null_mut()) };
        copy_out("", errbuf, errlen);
        let Ok(endpoint) = opt_str(endpoint) else {
            copy_out("the endpoint is not UTF-8", errbuf, errlen);
            return BROKER_EINVAL;
        };
        let settings = match config::read(config, |config| config.client.clone()) {
            Ok(settings) => settings,
            Err(code) => {
                copy_out(config::UNUSABLE, errbuf, errlen);
                return code;
            }
        };
        let client = match Client::new(endpoint, settings, own_fd) {
            Ok(client) => client,
            Err(Unusable::Endpoint(error)) => {
                copy_out(&error.to_string(), errbuf, errlen);
                return BROKER_EINVAL;
            }
            Err(Unusable::Other(error)) => {
                copy_out(&error.to_string(), errbuf, errlen);
                return code_of(&error);
            }
        };
        let bell = client.bell();
        let handled = Handled {
            client,
            calls: Calls::default(),
            on_push: None,
            on_state: None,
            words: CString::default(),
        };
        // SAFETY: as above.
        unsafe { out.write(Shell::create(handled, bell).cast()) };
        BROKER_OK
    })
}

/// Closes the client. Pending requests and subscriptions get BROKER_ECANCELED before it returns; called from a
/// callback, all of this happens when the outermost callback has returned. Its sessions end with it. In a forked
/// process it only closes the inherited descriptors; no callback runs.
///
/// NULL is BROKER_OK; BROKER_ESTATE a second time.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_free(client: *mut broker_client_t) -> c_int {
    if client.is_null() {
        return BROKER_OK;
    }
    shield(BROKER_EPANIC, || {
        let freed = Shell::of(shell(client)).and_then(|shell| {
            let silent = shell.check().is_err();
            if let Some(handled) = shell.end()? {
                conclude(handled, client, silent);
            }
            Ok(BROKER_OK)
        });
        freed.unwrap_or_else(|code| code)
    })
}

/// Takes a descriptor that the program gives away.
fn own_fd(fd: c_int) -> Option<OwnedFd> {
    // SAFETY: fcntl only asks whether the number is an open descriptor.
    if fd < 0 || unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return None;
    }
    // SAFETY: open, as just seen, and the caller's to give away.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The last callbacks of a client that has ended. Its handle answers BROKER_ESTATE by now.
fn conclude(mut handled: Handled, client: *mut broker_client_t, silent: bool) {
    if silent {
        // A forked copy, or a state that is not to be trusted: descriptors are closed and nothing else.
        return handled.client.abandon();
    }
    handled.client.close();
    while let Some(due) = handled.next_due() {
        due.call(client);
    }
}

/// In a forked process: closes the inherited descriptors without a word to the parent's connections, forgets pending
/// requests and subscriptions without calling back, and connects anew; endpoint, configuration, on_push and on_state
/// stay. Inherited sessions are dead: free them.
///
/// BROKER_ESTATE in the process that made the client, and when it is freed; BROKER_ECONN for "fd://", which cannot
/// be connected again; BROKER_ESYS; BROKER_EREENTRANT from a log callback; BROKER_EINVAL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_after_fork(client: *mut broker_client_t) -> c_int {
    shield(BROKER_EPANIC, || {
        let renewed = Shell::of(shell(client)).and_then(|shell| {
            let mut bell = -1;
            let code = shell.adopt_after_fork(|handled| {
                handled.calls = Calls::default();
                let renewed = handled.client.after_fork();
                bell = handled.client.bell();
                match renewed {
                    Ok(true) => BROKER_OK,
                    Ok(false) => BROKER_ECONN,
                    Err(error) => {
                        handled.words = own_words(&error.to_string());
                        code_of(&error)
                    }
                }
            })?;
            if code != BROKER_ESYS {
                shell.bell.store(bell, Ordering::Relaxed);
            }
            Ok(code)
        });
        renewed.unwrap_or_else(|code| code)
    })
}

/// The last failure of this client in words: why a call was refused, or why the connection was lost or could not be
/// made. "" before the first. Valid until the next call with the client. NULL for a bad handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_error(client: *const broker_client_t) -> *const c_char {
    enter(shell(client), Rule::Anywhere, |handled| {
        if let Some(words) = handled.client.take_words() {
            handled.words = own_words(&words);
        }
        handled.words.as_ptr()
    })
}

/// 1 while the client's connection is there, 0 while it is not; a code for a bad handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_connected(client: *const broker_client_t) -> c_int {
    enter(shell(client), Rule::Anywhere, |handled| c_int::from(handled.client.is_connected()))
}

/// Sends a request; its outcome comes to `cb`. `argv` has `argc` words, copied, the command's name first; with a NULL
/// `argvlen` each ends at its NUL, else word i has argvlen[i] bytes of any value. `timeout_ms` 0: it waits for as long
/// as it takes. `req` may be NULL, and else gets the name of the request. It is sent from the loop, with whatever else
/// was submitted by then; see broker_client_flush(). When it returns an error, `cb` is never called.
///
/// All requests share one connection and are answered in order, but blocking commands (BLPOP, XREAD BLOCK, ...): each
/// has a connection of its own for as long as it waits, and giving it up closes that.
///
/// BROKER_EINVAL for NULL or no word; BROKER_EAGAIN above "client_requests_max" or "client_bytes_max"; BROKER_ESTATE,
/// BROKER_EFORKED; BROKER_EUNSUPPORTED for commands that would change the shared connection under the feet of
/// others: MULTI, EXEC, DISCARD (broker_client_transaction() is for them), WATCH, UNWATCH (a session), SUBSCRIBE and its
/// family (broker_client_subscribe()), SELECT, AUTH, HELLO, RESET, CLIENT SETNAME (the client_... keys), CLIENT REPLY,
/// CLIENT CACHING, QUIT, MONITOR, SYNC, PSYNC, REPLCONF, SCRIPT DEBUG, ASKING, READONLY, READWRITE. CLIENT TRACKING,
/// NO-EVICT, NO-TOUCH and SETINFO are sent, and once accepted set again on every new connection.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_submit(
    client: *mut broker_client_t,
    argc: usize,
    argv: *const *const c_char,
    argvlen: *const usize,
    timeout_ms: u32,
    req: *mut broker_req_t,
    cb: broker_reply_cb,
    data: *mut c_void,
) -> c_int {
    enter(shell(client), Rule::Anywhere, |handled| match words(argc, argv, argvlen) {
        Ok(words) => handled.submit(None, &Request::Command(&words), timeout_ms, req, (cb, data)),
        Err(code) => code,
    })
}

/// Sends a transaction: all its commands are executed, one behind the other with nothing between, or none is. One
/// outcome: the reply of EXEC, an array with the reply of each command. If Redis refused a command (and so executed
/// none), it is that command's error. Everything else as in broker_client_submit(). To make it depend on values read
/// before, use a session.
///
/// BROKER_EINVAL for NULL or a transaction without commands; else as broker_client_submit().
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_transaction(
    client: *mut broker_client_t,
    transaction: *const broker_transaction_t,
    timeout_ms: u32,
    req: *mut broker_req_t,
    cb: broker_reply_cb,
    data: *mut c_void,
) -> c_int {
    enter(shell(client), Rule::Anywhere, |handled| {
        let submitted = transaction::read(transaction, |block| {
            handled.submit(None, &Request::Transaction(block), timeout_ms, req, (cb, data))
        });
        submitted.unwrap_or_else(|code| code)
    })
}

/// Gives a request up: its callback gets BROKER_ECANCELED from the next processing. What was sent may be executed all
/// the same (a blocking command stops waiting: its connection is closed); what was not sent is not.
///
/// BROKER_ESTATE if its outcome is known already (the callback has run or is about to); BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_cancel(client: *mut broker_client_t, req: broker_req_t) -> c_int {
    enter(shell(client), Rule::Anywhere, |handled| match handled.client.cancel(req) {
        true => BROKER_OK,
        false => BROKER_ESTATE,
    })
}

/// Writes what was submitted, as far as the socket takes it, without waiting for the loop. Never needed: submitting
/// makes the descriptor readable, and broker_client_process() writes.
///
/// BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_flush(client: *mut broker_client_t) -> c_int {
    enter(shell(client), Rule::Anywhere, |handled| {
        handled.client.flush();
        BROKER_OK
    })
}

/// Sends a request and waits for its outcome, `timeout_ms` at most (0: for as long as it takes). BROKER_OK: *out has the
/// reply, to be freed with broker_reply_free(); else it is NULL (`out` may be NULL). Callbacks of other requests run
/// meanwhile. Arguments and codes as in broker_client_submit(), and those of an outcome: BROKER_ECONN, BROKER_ELOST,
/// BROKER_ETIMEDOUT, BROKER_ELIMIT, BROKER_EAUTH, BROKER_EPROTO.
///
/// BROKER_EREENTRANT from a callback; BROKER_ECANCELED if a callback frees the client.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_call(
    client: *mut broker_client_t,
    argc: usize,
    argv: *const *const c_char,
    argvlen: *const usize,
    timeout_ms: u32,
    out: *mut *mut broker_reply_t,
) -> c_int {
    hand_out_nothing(out);
    enter_dispatching(shell(client), |shell| {
        let words = words(argc, argv, argvlen)?;
        call(shell, client, None, &Request::Command(&words), timeout_ms, out)
    })
}

/// Sends a transaction and waits for its outcome: broker_client_transaction() and broker_client_call() in one.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_call_transaction(
    client: *mut broker_client_t,
    transaction: *const broker_transaction_t,
    timeout_ms: u32,
    out: *mut *mut broker_reply_t,
) -> c_int {
    hand_out_nothing(out);
    enter_dispatching(shell(client), |shell| {
        // A copy, so that callbacks may go on using the original.
        let block = transaction::read(transaction, Block::clone)?;
        call(shell, client, None, &Request::Transaction(&block), timeout_ms, out)
    })
}

/// Submits and waits, running callbacks meanwhile.
pub(super) fn call(
    shell: &Shell<Handled>,
    client: *mut broker_client_t,
    to: Option<SessionKey>,
    request: &Request<'_>,
    timeout_ms: u32,
    out: *mut *mut broker_reply_t,
) -> Result<c_int, c_int> {
    let tag = shell.borrow(|handled| {
        let tag = handled.calls.reserve_waiting();
        handled.client.attend();
        match handled.client.submit(to, request, u64::from(timeout_ms), tag) {
            Ok(_) => Ok(tag),
            Err(refusal) => {
                handled.calls.forget(tag);
                handled.client.end_step();
                Err(handled.refuse(&refusal))
            }
        }
    })??;
    loop {
        if let Some(outcome) = shell.borrow(|handled| handled.calls.take_waited(tag))? {
            return match outcome {
                Ok(tree) => Ok(hand_out(Owned::new(tree), out)),
                Err(fault) => Err(code_of_fault(fault)),
            };
        }
        step(shell, client, None)
            .map_err(|code| if code == BROKER_ESTATE { BROKER_ECANCELED } else { code })?;
    }
}

/// One step: waits at most `limit` for something to happen, reads, writes, runs callbacks. How many ran.
fn step(
    shell: &Shell<Handled>,
    client: *mut broker_client_t,
    limit: Option<Duration>,
) -> Result<c_int, c_int> {
    // What has come by now is read before anything is written: no request leaves on a connection whose end has
    // been here before it.
    look(shell, Some(Duration::ZERO))?;
    if limit != Some(Duration::ZERO) {
        look(shell, limit)?;
    }
    let ran = deliver(shell, client)?;
    shell.borrow(|handled| handled.client.end_step())?;
    Ok(ran)
}

fn look(shell: &Shell<Handled>, limit: Option<Duration>) -> Result<(), c_int> {
    let waited = shell.borrow_waiting(|handled| handled.client.wait(limit))?;
    shell.check()?;
    shell.borrow(|handled| match waited {
        Ok(()) => {
            log::tell_left_out();
            handled.client.work();
            Ok(())
        }
        Err(error) => {
            handled.words = own_words(&error.to_string());
            Err(code_of(&error))
        }
    })?
}

fn deliver(shell: &Shell<Handled>, client: *mut broker_client_t) -> Result<c_int, c_int> {
    let mut ran = 0;
    while let Some(due) = shell.borrow(Handled::next_due)? {
        ran += 1;
        if !shell.call_out(|| due.call(client)) {
            let silent = shell.is_forked();
            if let Some(handled) = shell.finish() {
                conclude(handled, client, silent);
            }
            return shell.check().map(|()| ran);
        }
    }
    Ok(ran)
}

/// The descriptor to watch for readable in any loop: the same through reconnects, for the life of the client. When it is
/// readable, or broker_client_timeout() has passed, call broker_client_process(). Watch it level-triggered; never read
/// or close it. It changes in broker_client_after_fork().
///
/// A negative code for a bad handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_fd(client: *const broker_client_t) -> c_int {
    enter(shell(client), Rule::Anywhere, |handled| handled.client.as_raw_fd())
}

/// How long a loop may sleep before the next broker_client_process(), in milliseconds: 0 while something is deferred,
/// whatever the descriptor says; -1 until it is readable. Ask again after each processing.
///
/// A code below -1 for a bad handle; BROKER_EINVAL, which is -1, for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_timeout(client: *const broker_client_t) -> c_int {
    enter(shell(client), Rule::Anywhere, |handled| millis(handled.client.timeout()))
}

/// One step that never waits: reads, runs the callbacks that are due, writes. Returns how many callbacks ran.
///
/// BROKER_EREENTRANT from a callback; BROKER_ESTATE when freed, by one of these callbacks too; BROKER_EFORKED;
/// BROKER_ESYS if the poll itself fails.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_process(client: *mut broker_client_t) -> c_int {
    enter_dispatching(shell(client), |shell| step(shell, client, Some(Duration::ZERO)))
}

/// For programs without a loop: as broker_client_process(), but waits up to `timeout_ms` for something to happen (-1: for
/// as long as it takes). May return earlier with 0.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_wait(client: *mut broker_client_t, timeout_ms: c_int) -> c_int {
    let limit = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
    enter_dispatching(shell(client), |shell| step(shell, client, limit))
}

/// Makes the descriptor readable and ends a wait: how another thread tells the client's own to look at a queue of the
/// program's. [any thread; async-signal-safe, one write(2)]
///
/// BROKER_EINVAL for NULL; BROKER_ESTATE when freed; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_wakeup(client: *mut broker_client_t) -> c_int {
    let shell = match Shell::of(shell(client)) {
        Ok(shell) => shell,
        Err(code) => return code,
    };
    if let Err(code) = shell.check() {
        return code;
    }
    super::bell::ring(shell.bell.load(Ordering::Acquire));
    BROKER_OK
}

/// Sets who gets pushes that belong to no subscription, such as invalidations after CLIENT TRACKING; NULL for nobody.
///
/// BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for a NULL client.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_on_push(
    client: *mut broker_client_t,
    cb: broker_push_cb,
    data: *mut c_void,
) -> c_int {
    enter(shell(client), Rule::Anywhere, |handled| {
        handled.on_push = cb.map(|cb| (cb, data));
        BROKER_OK
    })
}

/// Sets who is told of the connection's state; NULL for nobody. Told at once in the next processing if the client is
/// connected already.
///
/// BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for a NULL client.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_on_state(
    client: *mut broker_client_t,
    cb: broker_state_cb,
    data: *mut c_void,
) -> c_int {
    enter(shell(client), Rule::Anywhere, |handled| {
        handled.on_state = cb.map(|cb| (cb, data));
        if cb.is_some() {
            handled.client.report_state();
        }
        BROKER_OK
    })
}

/// Subscribes; `kind` is BROKER_CHANNEL, BROKER_PATTERN or BROKER_SHARD. `cb` gets, with `status` 0, every push about that
/// name, an array as Redis sends it: first ["subscribe", name, count], then a ["message", channel, payload] (or
/// ["pmessage", pattern, channel, payload], ["smessage", ...]) for each message. A second "subscribe" means that the
/// connection was lost and is there again: messages between may have been missed. A reply of type ERROR (refused by
/// Redis), or a `status` below 0, is the last call. Several subscriptions of one name are one to Redis, and each gets
/// every message. They have a connection of their own, opened with the first and closed with the last. `sub` may be NULL.
/// When it returns an error, `cb` is never called.
///
/// BROKER_EINVAL for NULL, an unknown kind; BROKER_EAGAIN, BROKER_ESTATE, BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_subscribe(
    client: *mut broker_client_t,
    kind: c_int,
    name: *const c_char,
    len: usize,
    cb: broker_reply_cb,
    data: *mut c_void,
    sub: *mut broker_sub_t,
) -> c_int {
    enter(shell(client), Rule::Anywhere, |handled| {
        let family = match kind {
            BROKER_CHANNEL => Family::Channel,
            BROKER_PATTERN => Family::Pattern,
            BROKER_SHARD => Family::Shard,
            _ => return BROKER_EINVAL,
        };
        let (Some(cb), Ok(name)) = (cb, bytes(name, len)) else { return BROKER_EINVAL };
        let tag = handled.calls.reserve(cb, data);
        match handled.client.subscribe(family, name, tag) {
            Ok(id) => {
                give_req(sub, id);
                BROKER_OK
            }
            Err(refusal) => {
                handled.calls.forget(tag);
                handled.refuse(&refusal)
            }
        }
    })
}

/// Ends a subscription; its callback is not called again.
///
/// BROKER_ESTATE if it is over already; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_unsubscribe(client: *mut broker_client_t, sub: broker_sub_t) -> c_int {
    enter(shell(client), Rule::Anywhere, |handled| match handled.client.unsubscribe(sub) {
        Some(tag) => {
            handled.calls.forget(tag);
            BROKER_OK
        }
        None => BROKER_ESTATE,
    })
}
