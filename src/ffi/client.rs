//! `broker_client_t`: a client with sockets, a client of a loop, or a session of either. Checks, converts and delegates to
//! where a handle's requests are kept.

use super::border::{HandleRef, NotMade, Shell, WaitStep, enter_waiting, free, gate, making, shield};
use super::calling::{CallInput, call};
use super::calls::{Call, Calls};
use super::codes::*;
use super::config::{self, broker_config_t, code_of};
use super::embed::broker_req_t;
use super::fork;
use super::home::{Beside, Home, Keeper, enter_at, find, find_own, home_of};
use super::own::{Own, conclude, finish_step, look_and_wait, with_own};
use super::reply::broker_reply_t;
use super::text::{bytes, give, give_none, millis, opt_str, own_fd, own_words, patience, waiting_time};
use super::transaction::broker_transaction_t;
use crate::client::{Client, Family, Unusable};
use std::ffi::{c_char, c_int, c_void};
use std::os::fd::AsRawFd;
use std::ptr;

/// A client: of a broker, of Redis itself (broker_client_new()), or of a loop in the same process
/// (broker_loop_client()); or a session, one connection of another client for the caller alone
/// (broker_client_session()).
///
/// For one thread at a time; only functions marked [any thread] may be called from any. Its callbacks run in that
/// thread, inside broker_client_process(), _call() and _free(), and nowhere else. It connects automatically, and
/// reconnects after a loss.
///
/// In a forked process a fork handler has closed every descriptor of the client, and every function returns
/// BROKER_EFORKED until broker_client_after_fork() creates it anew. broker_client_follow_fork() is the exception.
///
/// Methods: broker_client_new, _session, _free, _after_fork, _follow_fork, _error, _connected; _submit,
/// _submit_transaction, _call, _call_transaction, _subscribe, _cancel; _fd, _timeout, _process, _wakeup, _post;
/// _on_push, _on_state; _set_data, _data.
#[allow(non_camel_case_types)]
pub struct broker_client_t(
    #[expect(dead_code, reason = "reached through a cast pointer")] Shell<broker_client_t>,
);

/// A channel by name, as in SUBSCRIBE.
pub const BROKER_CHANNEL: c_int = 0;
/// All channels that match a pattern, as in PSUBSCRIBE.
pub const BROKER_PATTERN: c_int = 1;
/// A shard channel by name, as in SSUBSCRIBE.
pub const BROKER_SHARD: c_int = 2;

/// Receives the outcome of a request. Runs exactly once if the request was submitted with BROKER_OK, else never; never
/// inside the submitting function. With `status` 0, `reply` is the reply, borrowed until the callback returns (an error
/// from Redis is a reply of type ERROR). With a `status` below 0, a code, `reply` is NULL. Outcomes arrive in the order
/// of submission, except timeouts, cancellations and blocking commands.
///
/// May use the client and free it (it is then closed when the callback has returned). Must not process or call:
/// BROKER_EREENTRANT. Must not free a loop that is running it. Must not throw, longjmp or end its thread (pthread_exit);
/// a pthread_cancel() takes effect when the function around the callback waits.
#[allow(non_camel_case_types)]
pub type broker_reply_cb = Option<
    unsafe extern "C" fn(
        client: *mut broker_client_t,
        status: c_int,
        reply: *const broker_reply_t,
        data: *mut c_void,
    ),
>;

/// Receives a push that belongs to no subscription, borrowed until the callback returns; see broker_client_on_push().
/// Otherwise as broker_reply_cb.
#[allow(non_camel_case_types)]
pub type broker_push_cb = Option<
    unsafe extern "C" fn(client: *mut broker_client_t, push: *const broker_reply_t, data: *mut c_void),
>;

/// Runs when the client has connected (`connected` 1, `reason` 0), and when its connection was lost or could not be made
/// (0 and a code); the client then retries by itself. Otherwise as broker_reply_cb.
#[allow(non_camel_case_types)]
pub type broker_state_cb = Option<
    unsafe extern "C" fn(client: *mut broker_client_t, connected: c_int, reason: c_int, data: *mut c_void),
>;

/// Runs exactly once for each broker_client_post(): with `status` 0 while the client is processed, with
/// BROKER_ECANCELED inside broker_client_free() or the free of its loop. May do what a broker_reply_cb may do.
#[allow(non_camel_case_types)]
pub type broker_client_cb =
    Option<unsafe extern "C" fn(client: *mut broker_client_t, status: c_int, data: *mut c_void)>;

/// Creates a client of `endpoint` and begins to connect. Requests may be submitted at once; they wait for the connection
/// up to "client_queue_timeout".
///
/// - "unix:///run/broker/broker.sock", "tcp://host:port": a broker's socket (or that of Redis: the protocol is the same).
/// - "fd://3": a connected socket, such as the other end of one passed to broker_loop_adopt(). The client owns and
///   closes it. It cannot be connected again once lost.
/// - "tls://host:port": a broker's listener with TLS.
/// - "redis://[user[:password]@]host[:port][/db]": Redis itself; "rediss://..." with TLS.
/// - NULL: the value of the environment variable BROKER_ENDPOINT.
///
/// `config` has the user, password, database, name and protocol (the "client_..." keys of docs/c-api.md), which
/// are set on every new connection, and whom to trust where TLS is used (the "client_tls_..." keys, whose files are read in
/// here); NULL means the defaults. A host name is looked up while the client runs, in /etc/hosts and by DNS, without
/// blocking; one that is unknown is like a server that is down. On failure *out is NULL and `errbuf` has the reason,
/// truncated to `errlen` bytes (pass NULL and 0 to omit it).
///
/// BROKER_EINVAL for a NULL `out`, a malformed endpoint, or NULL without BROKER_ENDPOINT; BROKER_ECONFIG for
/// settings that contradict each other or name files of TLS that cannot be used; BROKER_ESYS without descriptors.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_new(
    out: *mut *mut broker_client_t,
    endpoint: *const c_char,
    config: *const broker_config_t,
    errbuf: *mut c_char,
    errlen: usize,
) -> c_int {
    making(out, (errbuf, errlen), |number| {
        let wrong = |_| NotMade(BROKER_EINVAL, "the endpoint is not UTF-8".to_owned());
        let endpoint = opt_str(endpoint).map_err(wrong)?;
        let settings = config::read(config, |config| config.client.clone())?;
        let made = Client::new(endpoint, settings, own_fd);
        let (client, recipe) = made.map_err(|unusable| match unusable {
            Unusable::Endpoint(error) => NotMade(BROKER_EINVAL, error.to_string()),
            Unusable::Other(error) => error.into(),
        })?;
        let beside = Beside { recipe: Some(recipe), ..Beside::default() };
        let shell = Shell::create(number, None, client.bell(), beside);
        let filled = shell.borrow(|own| *own = Some(Box::new(Own { client, calls: Calls::new(shell) })));
        debug_assert!(filled.is_ok(), "not known elsewhere yet");
        Ok(shell)
    })
}

/// Opens a session of a client: one connection for commands that depend on connection state, such as WATCH ... EXEC. A
/// session accepts commands that the client's shared connection does not (WATCH, UNWATCH, MULTI, EXEC, DISCARD, SELECT,
/// AUTH; and a blocking command, behind which the next one waits). It does not support subscriptions, on_push and
/// on_state, nor commands after which a connection takes no more requests. State that a command leaves on the connection
/// stays until the session is freed, which closes the connection. If the connection is lost, all later requests return
/// BROKER_ECONN, so that lost state is never unnoticed. Driving the client drives its sessions too: their _fd, _timeout,
/// _process, _wakeup and _post are those of the client. Free the session before or after its client. On failure *out is
/// NULL.
///
/// BROKER_EINVAL for NULL; BROKER_EAGAIN above "client_connections_max"; BROKER_ECONN for a client that cannot open
/// further connections; BROKER_EUNSUPPORTED for a session of a session; BROKER_ESTATE, BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_session(
    out: *mut *mut broker_client_t,
    client: *mut broker_client_t,
) -> c_int {
    gate(|| {
        give_none(out)?;
        let (home, session) = find(client)?;
        let key = home.with(session, |at| {
            at.no_session()?;
            at.requests.open_session().map_err(|refusal| at.calls.refuse(&refusal))
        })?;
        let parent = Shell::of(client)?;
        let made = Keeper::Client(HandleRef::new(parent), key).create();
        made.post_at(parent);
        match home {
            Home::Own(_) => made.belongs_to(parent),
            Home::Loop(shell, _) => made.belongs_to(shell),
        }
        // A fork of another thread may have moved its client meanwhile.
        parent.check()?;
        give(out, made.pointer());
        Ok(BROKER_OK)
    })
}

/// Closes and frees the client. Pending requests and subscriptions get BROKER_ECANCELED before this function returns
/// (those of a session in the next processing). Called from a callback, all of this happens when the outermost callback
/// has returned. Its sessions end with it and must still be freed. In a forked process it only frees memory, and no
/// callback runs.
///
/// NULL is BROKER_OK; BROKER_ESTATE the second time.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_free(client: *mut broker_client_t) -> c_int {
    free(client, |shell| {
        let silent = shell.check().is_err();
        if !silent && let Ok((home, _)) = home_of(shell) {
            // Not while the owner of its requests is in use elsewhere.
            home.with(None, |_| Ok(()))?;
        }
        if let Some(own) = shell.end()? {
            conclude(shell, own, silent);
        }
        Ok(())
    })
}

/// In a forked process: creates the client anew and connects it, with the same endpoint, configuration, on_push and
/// on_state. Pending requests and subscriptions of the parent are not carried over. Inherited sessions stay unusable:
/// free them.
///
/// BROKER_ESTATE in the process that created the client, and when it is freed; BROKER_ECONN for "fd://", which
/// cannot be connected again; BROKER_EUNSUPPORTED for a session and for a client of a loop; BROKER_ESYS;
/// BROKER_EREENTRANT from a log callback; BROKER_EINVAL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_after_fork(client: *mut broker_client_t) -> c_int {
    gate(|| {
        let shell = Shell::of(client)?;
        shell.adopt_after_fork(|beside| {
            // A session and a client of a loop have none.
            let recipe = beside.recipe.as_ref().ok_or(BROKER_EUNSUPPORTED)?;
            let client = recipe.renew(fork::count()).map_err(|error| {
                shell.set_refusal(own_words(&error.to_string()));
                code_of(&error)
            })?;
            let bell = client.bell();
            let code = if recipe.is_lasting() { BROKER_OK } else { BROKER_ECONN };
            Ok((Some(Box::new(Own { client, calls: Calls::new(shell) })), bell, code))
        })
    })
}

/// While `on` is not 0, a fork() in the thread that uses the client moves it to the child process, with its descriptors,
/// requests, subscriptions and sessions; in the parent it then returns BROKER_EFORKED. For daemon() and double forks:
/// turn it on, fork, turn it off. A fork() while another thread uses the client does not move it.
///
/// BROKER_EUNSUPPORTED for a session and for a client of a loop, which move with their client or loop;
/// BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_follow_fork(client: *mut broker_client_t, on: c_int) -> c_int {
    gate(|| {
        let shell = Shell::of(client)?;
        shell.check()?;
        if shell.beside().recipe.is_none() {
            return Err(BROKER_EUNSUPPORTED);
        }
        shell.follow_fork(on != 0)
    })
}

/// The text of this client's last failure: why a call was refused, or why the connection was lost or could not
/// be made. "" before the first. Valid until the next call with the client. NULL for an invalid handle, except in a
/// forked process after a failed broker_client_after_fork(), whose reason it returns.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_error(client: *const broker_client_t) -> *const c_char {
    if let Ok(shell) = Shell::of(client)
        && shell.check() == Err(BROKER_EFORKED)
    {
        return shell.refusal();
    }
    enter_at(client, |at| {
        if let Some(words) = at.requests.take_words() {
            at.calls.words = own_words(&words);
        }
        Ok(at.calls.words.as_ptr())
    })
}

/// 1 while the client is connected, else 0; a code for an invalid handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_connected(client: *const broker_client_t) -> c_int {
    enter_at(client, |at| Ok(c_int::from(at.requests.is_connected(at.session))))
}

/// Submits a request; `cb` receives its outcome. `argv` has `argc` words, the command's name first; they are copied. With
/// a NULL `argvlen` each word ends at its NUL, else word i has argvlen[i] bytes of any value. `timeout_ms` is the time
/// limit in milliseconds, or BROKER_FOREVER for none. `req` may be NULL, else it gets the number of the request. The next
/// processing of the client sends it, together with all others submitted by then. When this function returns an error,
/// `cb` never runs.
///
/// All requests share one connection and are answered in order, except blocking commands (BLPOP, XREAD BLOCK, ...):
/// each has its own connection while it waits, and canceling it closes that connection.
///
/// BROKER_EINVAL for NULL, no words, a `timeout_ms` of 0 or below -1; BROKER_EAGAIN above "client_requests_max" or
/// "client_bytes_max"; BROKER_ESTATE, BROKER_EFORKED; BROKER_EUNSUPPORTED for commands that would change the
/// shared connection: MULTI, EXEC, DISCARD (use broker_client_submit_transaction()), WATCH, UNWATCH (use a session),
/// SUBSCRIBE and its family (use broker_client_subscribe()), SELECT, AUTH, HELLO, RESET, CLIENT SETNAME (use the
/// client_... keys), CLIENT REPLY, CLIENT CACHING, QUIT, MONITOR, SYNC, PSYNC, REPLCONF, SCRIPT DEBUG, ASKING, READONLY,
/// READWRITE. CLIENT TRACKING, NO-EVICT, NO-TOUCH and SETINFO are sent, and once accepted set again on every new
/// connection.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_submit(
    client: *mut broker_client_t,
    argc: usize,
    argv: *const *const c_char,
    argvlen: *const usize,
    timeout_ms: c_int,
    req: *mut broker_req_t,
    cb: broker_reply_cb,
    data: *mut c_void,
) -> c_int {
    submit(client, CallInput::Words { argc, argv, argvlen }, timeout_ms, req, (cb, data))
}

/// Submits a transaction: either all its commands are executed, with no other command between them, or none is. It has
/// one outcome: the reply of EXEC, an array with the reply of each command. If Redis refused a command (and therefore
/// executed none), the reply is that command's error. On a session with a watched key that has changed, no command is
/// executed and the reply is NIL: read again and retry. Otherwise as broker_client_submit().
///
/// BROKER_EINVAL for NULL or a transaction without commands; otherwise as broker_client_submit().
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_submit_transaction(
    client: *mut broker_client_t,
    transaction: *const broker_transaction_t,
    timeout_ms: c_int,
    req: *mut broker_req_t,
    cb: broker_reply_cb,
    data: *mut c_void,
) -> c_int {
    submit(client, CallInput::Transaction(transaction), timeout_ms, req, (cb, data))
}

fn submit(
    client: *mut broker_client_t,
    asked: CallInput,
    timeout_ms: c_int,
    req: *mut broker_req_t,
    (cb, data): (broker_reply_cb, *mut c_void),
) -> c_int {
    enter_at(client, |at| {
        let call = Call { callback: cb.ok_or(BROKER_EINVAL)?, data, handle: client };
        let patience = patience(timeout_ms)?;
        asked.with(|request| {
            let (_, id) =
                at.calls.begin(Some(call), |tag| at.requests.submit(at.session, request, patience, tag))?;
            give(req, id);
            Ok(BROKER_OK)
        })?
    })
}

/// Cancels a request or a subscription: its callback gets BROKER_ECANCELED, its last call, in the next processing. A
/// request that was sent may still be executed (a blocking command stops waiting, since its connection is closed); one
/// that was not sent is not.
///
/// BROKER_ESTATE if it has ended already (its last callback has run or is about to run); BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_cancel(client: *mut broker_client_t, req: broker_req_t) -> c_int {
    enter_at(client, |at| if at.requests.cancel(req) { Ok(BROKER_OK) } else { Err(BROKER_ESTATE) })
}

/// Submits a request and waits for its outcome, `timeout_ms` milliseconds at most. With BROKER_OK, *out is the reply, to
/// be freed with broker_reply_free(); otherwise it is NULL (`out` may be NULL). Callbacks of other requests run meanwhile.
/// Arguments and codes are those of broker_client_submit(), and the codes of an outcome: BROKER_ECONN, BROKER_ELOST,
/// BROKER_ETIMEDOUT, BROKER_ELIMIT, BROKER_EAUTH, BROKER_EPROTO. On a client of a loop it runs the loop. Cancellation
/// point.
///
/// BROKER_EREENTRANT from a callback; BROKER_ECANCELED if a callback frees the client.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn broker_client_call(
    client: *mut broker_client_t,
    argc: usize,
    argv: *const *const c_char,
    argvlen: *const usize,
    timeout_ms: c_int,
    out: *mut *mut broker_reply_t,
) -> c_int {
    call(client, CallInput::Words { argc, argv, argvlen }, timeout_ms, out)
}

/// Submits a transaction and waits for its outcome: broker_client_submit_transaction() and broker_client_call() in
/// one.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn broker_client_call_transaction(
    client: *mut broker_client_t,
    transaction: *const broker_transaction_t,
    timeout_ms: c_int,
    out: *mut *mut broker_reply_t,
) -> c_int {
    call(client, CallInput::Transaction(transaction), timeout_ms, out)
}

/// The descriptor to watch for readability in any loop: the same through reconnects, for the life of the client.
/// When it is readable, or broker_client_timeout() has passed, call broker_client_process(). Watch it
/// level-triggered; never read or close it. broker_client_after_fork() changes it.
///
/// A negative code for an invalid handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_fd(client: *const broker_client_t) -> c_int {
    gate(|| with_own(find_own(client)?, |own| own.client.as_raw_fd()))
}

/// How long a loop may sleep before the next broker_client_process(), in milliseconds: 0 while work is deferred, even if
/// the descriptor is not readable; -1 until it is readable. Ask again after each processing.
///
/// A negative code other than -1 for an invalid handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_timeout(client: *const broker_client_t) -> c_int {
    gate(|| {
        let shell = find_own(client)?;
        with_own(shell, |own| if shell.has_posts() { 0 } else { millis(own.client.timeout()) })
    })
}

/// One step: reads, runs the callbacks that are due, writes. With a `timeout_ms` of 0 it never waits. Otherwise it waits
/// for an event, at most that many milliseconds or without a limit with BROKER_FOREVER; it may return earlier with 0.
/// Returns how many callbacks ran; those they cause are due in the next step. Cancellation point if it waits.
///
/// BROKER_EINVAL below -1; BROKER_EREENTRANT from a callback; BROKER_ESTATE when freed, also by one of these callbacks;
/// BROKER_EUNSUPPORTED for a client of a loop; BROKER_EFORKED; BROKER_ESYS if the poll itself fails.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn broker_client_process(client: *mut broker_client_t, timeout_ms: c_int) -> c_int {
    let begun = || Ok((find_own(client)?, waiting_time(timeout_ms)?));
    // Waits with nothing to drop on the stack: see `enter_waiting`.
    match shield(Err(BROKER_EPANIC), begun) {
        Ok((shell, limit)) => enter_waiting(shell, (limit, false), go_on_processing),
        Err(code) => code,
    }
}

fn go_on_processing(
    shell: &'static Shell<broker_client_t>,
    (limit, waited): &mut (Option<u64>, bool),
) -> Result<WaitStep, c_int> {
    if !*waited && let Some(wait) = look_and_wait(shell, *limit)? {
        *waited = true;
        return Ok(WaitStep::Wait(wait));
    }
    finish_step(shell).map(WaitStep::Done)
}

/// Makes the descriptor readable and ends a wait, so that the client's own thread looks at a flag that a signal handler
/// has set; other threads may use broker_client_post(). [any thread; async-signal-safe]
///
/// BROKER_EINVAL for NULL; BROKER_ESTATE when freed; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_wakeup(client: *mut broker_client_t) -> c_int {
    code(Shell::of(client).and_then(|shell| shell.ring(|_| ())))
}

/// Queues `cb` and wakes the client's own thread. `cb` runs once, while the client is processed, in the order of the
/// posts. If the client is freed first, it runs inside broker_client_free() with BROKER_ECANCELED (for a session, in the
/// next processing of its client). When this function returns an error, `cb` never runs. [any thread]
///
/// BROKER_EINVAL for NULL; BROKER_EAGAIN when 65,536 functions are queued, and while a fork() moves the handle;
/// BROKER_ESTATE when freed; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_post(
    client: *mut broker_client_t,
    cb: broker_client_cb,
    data: *mut c_void,
) -> c_int {
    gate(|| {
        let callback = cb.ok_or(BROKER_EINVAL)?;
        Shell::of(client)?.post(callback, data)
    })
}

/// Stores a pointer for the program with the client; initially NULL. [any thread]
///
/// BROKER_EINVAL for a NULL client; BROKER_ESTATE when freed; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_set_data(client: *mut broker_client_t, data: *mut c_void) -> c_int {
    code(Shell::of(client).and_then(|shell| shell.set_data(data)))
}

/// The pointer stored by broker_client_set_data(); NULL for an invalid handle. [any thread, in callbacks, after a fork]
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_data(client: *const broker_client_t) -> *mut c_void {
    Shell::of(client).map_or(ptr::null_mut(), Shell::data)
}

/// Sets the callback for pushes that belong to no subscription, such as invalidations after CLIENT TRACKING; NULL for
/// none.
///
/// BROKER_EUNSUPPORTED for a session; BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for a NULL client.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_on_push(
    client: *mut broker_client_t,
    cb: broker_push_cb,
    data: *mut c_void,
) -> c_int {
    enter_at(client, |at| {
        at.no_session()?;
        Shell::of(client)?.beside().on_push.set(cb.map(|cb| (cb, data)));
        Ok(BROKER_OK)
    })
}

/// Sets the callback for changes of the connection's state; NULL for none. If the client is already connected, it runs in
/// the next processing.
///
/// BROKER_EUNSUPPORTED for a session; BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for a NULL client.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_on_state(
    client: *mut broker_client_t,
    cb: broker_state_cb,
    data: *mut c_void,
) -> c_int {
    enter_at(client, |at| {
        at.no_session()?;
        Shell::of(client)?.beside().on_state.set(cb.map(|cb| (cb, data)));
        if cb.is_some() {
            at.requests.report_state();
        }
        Ok(BROKER_OK)
    })
}

/// Subscribes to one name; `kind` is BROKER_CHANNEL, BROKER_PATTERN or BROKER_SHARD. `name` has `len` bytes. `cb` gets
/// every push for the name, with `status` 0, an array as Redis sends it: first ["subscribe", name, count], then a
/// ["message", channel, payload] (or ["pmessage", pattern, channel, payload], ["smessage", ...]) for each message. A
/// second "subscribe" means that the connection was lost and established again: messages may have been missed. A reply of
/// type ERROR (refused by Redis) or a `status` below 0 is the last call: BROKER_ECANCELED after broker_client_cancel().
/// Several subscriptions to one name are one to Redis, and each gets every message. All subscriptions of a client share
/// one connection, opened with the first and closed with the last. `req` may be NULL, else it gets the number of the
/// subscription. When this function returns an error, `cb` never runs.
///
/// BROKER_EINVAL for NULL, an unknown kind; BROKER_EUNSUPPORTED for a session; BROKER_EAGAIN, BROKER_ESTATE,
/// BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_subscribe(
    client: *mut broker_client_t,
    kind: c_int,
    name: *const c_char,
    len: usize,
    req: *mut broker_req_t,
    cb: broker_reply_cb,
    data: *mut c_void,
) -> c_int {
    enter_at(client, |at| {
        let family = match kind {
            BROKER_CHANNEL => Family::Channel,
            BROKER_PATTERN => Family::Pattern,
            BROKER_SHARD => Family::Shard,
            _ => return Err(BROKER_EINVAL),
        };
        let call = Call { callback: cb.ok_or(BROKER_EINVAL)?, data, handle: client };
        let name = bytes(name, len)?;
        at.no_session()?;
        let (_, id) = at.calls.begin(Some(call), |tag| at.requests.subscribe(family, name, tag))?;
        give(req, id);
        Ok(BROKER_OK)
    })
}
