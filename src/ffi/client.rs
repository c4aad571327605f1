//! `broker_client_t`: a client with sockets, a client of a loop, or a session of either. Finds where a handle's requests
//! are kept, converts and delegates to `crate::client`; owns the order in which callbacks run.

use super::border::{Ended, Handle, Rule, Shell, WaitStep, enter_dispatching, enter_waiting, making, shield};
use super::calling::{CallInput, call};
use super::calls::{Call, Calls, Due};
use super::cancel::FdWait;
use super::codes::*;
use super::config::{self, broker_config_t, code_of};
use super::embed::{Looping, broker_loop_t, broker_req_t, millis};
use super::fork;
use super::home::{Home, HomeAccess, enter_at, enter_own, find, find_tenant};
use super::log;
use super::reply::{broker_reply_t, hand_out_nothing};
use super::text::{bytes, copy_out, opt_str, own_words, patience, waiting_time, words};
use super::thread;
use super::transaction::{self, broker_transaction_t};
use crate::client::{Border, Client, ClientKey, ClientRequest, Family, Recipe, SessionKey, Unusable};
use std::cell::UnsafeCell;
use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

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
#[derive(Debug)]
pub struct broker_client_t(#[expect(dead_code, reason = "reached through a cast pointer")] Shell<Handled>);

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

pub(super) type Callback =
    unsafe extern "C" fn(*mut broker_client_t, c_int, *const broker_reply_t, *mut c_void);
pub(super) type PushCallback = unsafe extern "C" fn(*mut broker_client_t, *const broker_reply_t, *mut c_void);
pub(super) type StateCallback = unsafe extern "C" fn(*mut broker_client_t, c_int, c_int, *mut c_void);

/// The three kinds of handle.
#[derive(Debug)]
pub(super) enum Handled {
    /// A client with its own sockets.
    Own(Box<Own>),
    /// A client of a loop, which owns its requests.
    OfLoop(OfLoop),
    /// A session of another client, which owns its requests.
    Session(SessionHandle),
}

#[derive(Debug)]
pub(super) struct Own {
    pub(super) client: Client,
    pub(super) calls: Calls,
}

/// The serials distinguish successive handles in the same memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct OfLoop {
    pub(super) home: *mut broker_loop_t,
    pub(super) serial: u64,
    pub(super) key: ClientKey,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct SessionHandle {
    pub(super) of: *mut broker_client_t,
    pub(super) serial: u64,
    pub(super) key: SessionKey,
}

/// What broker_client_after_fork() creates a client from.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Never changed.
    recipe: Option<Recipe>,
    on_push: CallbackCell<PushCallback>,
    on_state: CallbackCell<StateCallback>,
}

/// A callback that a forked copy can read, even if a thread was setting it at the fork: of two cells, the unused one is
/// written, and only then made the used one.
#[derive(Debug)]
struct CallbackCell<C> {
    places: [UnsafeCell<Option<(C, *mut c_void)>>; 2],
    used: AtomicUsize,
}

impl<C> Default for CallbackCell<C> {
    fn default() -> Self {
        CallbackCell { places: [UnsafeCell::new(None), UnsafeCell::new(None)], used: AtomicUsize::new(0) }
    }
}

impl<C: Copy> CallbackCell<C> {
    /// The caller has claimed the handle.
    fn set(&self, callback: Option<(C, *mut c_void)>) {
        let other = 1 - self.used.load(Ordering::Relaxed);
        // SAFETY: no other thread reads this cell before `used` names it, and one thread at a time sets.
        unsafe { *self.places[other].get() = callback };
        self.used.store(other, Ordering::Release);
    }

    /// For a forked copy, where no other thread sets.
    fn get(&self) -> Option<(C, *mut c_void)> {
        // SAFETY: written completely before `used` named it.
        unsafe { *self.places[self.used.load(Ordering::Acquire)].get() }
    }
}

impl Handle for Handled {
    type Post = Post;
    type Beside = Beside;
    fn ended() -> &'static Ended<Self> {
        static ENDED: Ended<Handled> = Ended::new();
        &ENDED
    }
}

/// A posted function. Those of a session are kept by its client.
#[derive(Debug)]
pub(super) struct Post {
    callback: unsafe extern "C" fn(*mut broker_client_t, c_int, *mut c_void),
    handle: *mut broker_client_t,
    /// Distinguishes successive handles in the same memory.
    serial: u64,
    data: *mut c_void,
}

impl Post {
    /// The status it gets: the session may have been freed since.
    pub(super) fn status(&self) -> c_int {
        match Shell::of(shell(self.handle)) {
            Ok(shell) if shell.serial() == self.serial && shell.check() != Err(BROKER_ESTATE) => BROKER_OK,
            _ => BROKER_ECANCELED,
        }
    }

    pub(super) fn run(self, status: c_int) {
        // SAFETY: this is how the program allowed the function to be called, in the thread that uses the client.
        unsafe { (self.callback)(self.handle, status, self.data) }
    }
}

/// Whether functions posted to a client of a loop are queued.
pub(super) fn has_posts(handle: *mut broker_client_t) -> bool {
    Shell::of(shell(handle)).is_ok_and(Shell::has_posts)
}

/// The functions posted to a client of a loop.
pub(super) fn take_posts(handle: *mut broker_client_t) -> Vec<Post> {
    Shell::of(shell(handle)).map(Shell::take_posts).unwrap_or_default()
}

/// A handle for a client of a loop.
pub(super) fn create_of_loop(
    home: &'static Shell<Looping>,
    pointer: *mut broker_loop_t,
    key: ClientKey,
) -> *mut broker_client_t {
    let of = OfLoop { home: pointer, serial: home.serial(), key };
    let handle = Shell::create(Handled::OfLoop(of), -1);
    if let Ok(shell) = Shell::of(handle) {
        shell.ring_at(home);
        shell.belongs_to(home);
    }
    handle.cast()
}

pub(super) fn shell(pointer: *const broker_client_t) -> *const Shell<Handled> {
    pointer.cast()
}

/// Creates a client of `endpoint` and begins to connect. Requests may be submitted at once; they wait for the connection
/// up to "client_queue_timeout".
///
/// - "unix:///run/broker/broker.sock", "tcp://host:port": a broker's socket (or that of Redis: the protocol is the same).
/// - "fd://3": a connected socket, such as the other end of one passed to broker_loop_adopt(). The client owns and
///   closes it. It cannot be connected again once lost.
/// - "redis://[user[:password]@]host[:port][/db]": Redis itself.
/// - NULL: the value of the environment variable BROKER_ENDPOINT.
///
/// `config` has the user, password, database, name and protocol (the "client_..." keys of docs/c-api.md), which
/// are set on every new connection; NULL means the defaults. A host name is looked up in here, which blocks. After a
/// failed or lost connection it is looked up again by a thread that takes no signal and ends with the answer. On failure
/// *out is NULL and `errbuf` has the reason, truncated to `errlen` bytes (pass NULL and 0 to omit it).
///
/// BROKER_EINVAL for a NULL `out`, a malformed endpoint, or NULL without BROKER_ENDPOINT; BROKER_ECONFIG for
/// settings that contradict each other; BROKER_ESYS without descriptors, or if the host name cannot be looked up.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_new(
    out: *mut *mut broker_client_t,
    endpoint: *const c_char,
    config: *const broker_config_t,
    errbuf: *mut c_char,
    errlen: usize,
) -> c_int {
    making(|number| {
        if out.is_null() {
            return BROKER_EINVAL;
        }
        // SAFETY: not NULL; the header requires a pointer to a pointer.
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
        let (client, recipe) = match Client::new(endpoint, settings, Border { own_fd, start: thread::start })
        {
            Ok(made) => made,
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
        let beside = Beside { recipe: Some(recipe), ..Beside::default() };
        let handled = Handled::Own(Box::new(Own { client, calls: Calls::default() }));
        let pointer = Shell::create_as(number, handled, bell, beside);
        if let Ok(shell) = Shell::of(pointer) {
            let named = with_own(shell, |own| own.calls.set_handle(pointer.cast()));
            debug_assert!(named.is_ok(), "not known elsewhere yet");
        }
        // SAFETY: as above.
        unsafe { out.write(pointer.cast()) };
        BROKER_OK
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
    if out.is_null() {
        return BROKER_EINVAL;
    }
    // SAFETY: not NULL; the header requires a pointer to a pointer.
    unsafe { out.write(std::ptr::null_mut()) };
    let home = shield(Err(BROKER_EPANIC), || find(client).map(|(home, _)| home));
    enter_at(client, Rule::Anywhere, |at| {
        at.no_session()?;
        let home = home?;
        let key = at.requests.open_session().map_err(|refusal| at.calls.refuse(&refusal))?;
        let parent = Shell::of(shell(client))?;
        let session = SessionHandle { of: client, serial: parent.serial(), key };
        let handle = Shell::create(Handled::Session(session), -1);
        let made = Shell::of(handle)?;
        made.post_at(parent);
        match home {
            Home::Own(..) => made.belongs_to(parent),
            Home::Loop(shell, ..) => made.belongs_to(shell),
        }
        // SAFETY: as above.
        unsafe { out.write(handle.cast()) };
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
    if client.is_null() {
        return BROKER_OK;
    }
    shield(BROKER_EPANIC, || {
        let freed = Shell::of(shell(client)).and_then(|shell| {
            let silent = shell.check().is_err();
            if !silent && let Ok((home, _)) = find(client) {
                // Not while the owner of its requests is in use elsewhere.
                home.with(None, |_| Ok(()))?;
            }
            if let Some(handled) = shell.end()? {
                conclude(handled, shell.take_posts(), silent);
            }
            Ok(BROKER_OK)
        });
        freed.unwrap_or_else(|code| code)
    })
}

/// Takes ownership of a descriptor from the program.
fn own_fd(fd: c_int) -> Option<OwnedFd> {
    // SAFETY: fcntl only checks whether the number is an open descriptor.
    if fd < 0 || unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return None;
    }
    // SAFETY: open, as just checked, and owned by the caller, who gives it away.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The last callbacks of a client that has ended. Its handle already returns BROKER_ESTATE.
fn conclude(handled: Handled, posts: Vec<Post>, silent: bool) {
    match handled {
        // After a panic the state is not trusted: descriptors are closed and nothing else is done.
        Handled::Own(own) if silent => return own.client.abandon(),
        // The loop or client it belonged to has ended before it.
        _ if silent => {}
        Handled::Own(own) => conclude_own(*own),
        Handled::OfLoop(of) => {
            if let Ok(Home::Loop(shell, _, key)) = of.find::<()>() {
                let in_callback = shell.in_callback();
                let ended = shell.borrow(|looping| looping.end_client(key, in_callback));
                call_all(ended.unwrap_or_default());
            }
        }
        Handled::Session(session) => {
            let closed = find_tenant(session.of, Some(session.serial)).and_then(|(home, _)| {
                home.with(None, |at| {
                    at.requests.close_session(session.key);
                    Ok(())
                })
            });
            // Its client has ended, and the session with it.
            let _ = closed;
        }
    }
    cancel_all(posts);
}

/// Closes the client before its last callbacks: if one of them forks, the copy has nothing left to close a second time.
fn conclude_own(mut own: Own) {
    own.client.close();
    let mut all = usize::MAX;
    let dues = std::iter::from_fn(|| own.next_due(&mut all)).collect();
    drop(own);
    call_all(dues);
}

/// Runs callbacks in this process only: if one of them forks, the copy runs none of the others.
pub(super) fn call_all(dues: Vec<Due>) {
    let generation = fork::generation();
    for due in dues {
        if fork::generation() != generation {
            return;
        }
        due.call();
    }
}

/// Tells posted functions that they will not run, in the same way.
pub(super) fn cancel_all(posts: impl IntoIterator<Item = Post>) {
    let generation = fork::generation();
    for post in posts {
        if fork::generation() != generation {
            return;
        }
        post.run(BROKER_ECANCELED);
    }
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
    shield(BROKER_EPANIC, || {
        let renewed = Shell::of(shell(client)).and_then(|shell| {
            shell.adopt_after_fork(|beside| {
                // A session and a client of a loop have none.
                let recipe = beside.recipe.as_ref().ok_or(BROKER_EUNSUPPORTED)?;
                let client = recipe.renew(fork::count()).map_err(|error| {
                    shell.set_refusal(own_words(&error.to_string()));
                    code_of(&error)
                })?;
                let bell = client.bell();
                let mut calls = Calls::default();
                (calls.on_push, calls.on_state) = (beside.on_push.get(), beside.on_state.get());
                calls.set_handle(std::ptr::from_ref(shell).cast_mut().cast());
                let code = if recipe.is_lasting() { BROKER_OK } else { BROKER_ECONN };
                Ok((Handled::Own(Box::new(Own { client, calls })), bell, code))
            })
        });
        renewed.unwrap_or_else(|code| code)
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
    shield(BROKER_EPANIC, || {
        let set = Shell::of(shell(client)).and_then(|shell| {
            shell.check()?;
            if shell.beside().recipe.is_none() {
                Err(BROKER_EUNSUPPORTED)
            } else {
                Ok(shell.follow_fork(on != 0))
            }
        });
        set.unwrap_or_else(|code| code)
    })
}

/// The text of this client's last failure: why a call was refused, or why the connection was lost or could not
/// be made. "" before the first. Valid until the next call with the client. NULL for an invalid handle, except in a
/// forked process after a failed broker_client_after_fork(), whose reason it returns.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_error(client: *const broker_client_t) -> *const c_char {
    if let Ok(shell) = Shell::of(shell(client))
        && shell.check() == Err(BROKER_EFORKED)
    {
        return shell.refusal();
    }
    enter_at(client, Rule::Anywhere, |at| {
        if let Some(words) = at.requests.take_words() {
            at.calls.words = own_words(&words);
        }
        Ok(at.calls.words.as_ptr())
    })
}

/// 1 while the client is connected, else 0; a code for an invalid handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_connected(client: *const broker_client_t) -> c_int {
    enter_at(client, Rule::Anywhere, |at| {
        Ok(c_int::from(match at.session {
            Some(session) => at.requests.session_is_connected(session),
            None => at.requests.is_connected(),
        }))
    })
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
    enter_at(client, Rule::Anywhere, |at| {
        let callback = cb.ok_or(BROKER_EINVAL)?;
        let (words, patience) = (words(argc, argv, argvlen)?, patience(timeout_ms)?);
        let call = Call { callback, data, handle: client };
        Ok(at.calls.submit(at.requests, at.session, &ClientRequest::Command(&words), patience, req, call))
    })
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
    enter_at(client, Rule::Anywhere, |at| {
        let callback = cb.ok_or(BROKER_EINVAL)?;
        let patience = patience(timeout_ms)?;
        let call = Call { callback, data, handle: client };
        transaction::read(transaction, |block| {
            at.calls.submit(at.requests, at.session, &ClientRequest::Transaction(block), patience, req, call)
        })
    })
}

/// Cancels a request or a subscription: its callback gets BROKER_ECANCELED, its last call, in the next processing. A
/// request that was sent may still be executed (a blocking command stops waiting, since its connection is closed); one
/// that was not sent is not.
///
/// BROKER_ESTATE if it has ended already (its last callback has run or is about to run); BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_cancel(client: *mut broker_client_t, req: broker_req_t) -> c_int {
    enter_at(
        client,
        Rule::Anywhere,
        |at| {
            if at.requests.cancel(req) { Ok(BROKER_OK) } else { Err(BROKER_ESTATE) }
        },
    )
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
    hand_out_nothing(out);
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
    hand_out_nothing(out);
    call(client, CallInput::Transaction(transaction), timeout_ms, out)
}

/// The first half of a step: everything that has arrived is read before anything is written, so that no request is sent
/// on a connection whose end of file has already arrived. Returns what to wait for, at most `limit` milliseconds;
/// `None`: continue at once.
pub(super) fn look_and_wait(
    shell: &'static Shell<Handled>,
    limit: Option<u64>,
) -> Result<Option<FdWait>, c_int> {
    if limit == Some(0) {
        return Ok(None);
    }
    look(shell)?;
    shell.borrow_to_wait(|handled| match handled {
        Handled::Own(own) => FdWait::new(own.client.as_raw_fd(), own.client.patience(limit)),
        _ => None,
    })
}

/// The second half: reads, writes, runs callbacks. Returns how many ran.
pub(super) fn finish_step(shell: &Shell<Handled>) -> Result<c_int, c_int> {
    look(shell)?;
    let ran = run_posts(shell)? + deliver(shell)?;
    with_own(shell, |own| own.client.end_step())?;
    Ok(ran)
}

pub(super) fn with_own<R>(shell: &Shell<Handled>, body: impl FnOnce(&mut Own) -> R) -> Result<R, c_int> {
    shell.borrow(|handled| match handled {
        Handled::Own(own) => Ok(body(own)),
        _ => Err(BROKER_ESTATE),
    })?
}

fn look(shell: &Shell<Handled>) -> Result<(), c_int> {
    with_own(shell, |own| match own.client.wait(Some(Duration::ZERO)) {
        Ok(()) => {
            log::tell_left_out();
            own.client.work();
            Ok(())
        }
        Err(error) => {
            own.calls.words = own_words(&error.to_string());
            Err(code_of(&error))
        }
    })?
}

/// Runs one callback; handles freed in it end when the outermost callback has returned. False if the callback has forked
/// and this is the copy, in which the handle was created anew.
fn call_out(shell: &Shell<Handled>, callback: impl FnOnce()) -> Result<bool, c_int> {
    if shell.call_out(callback) {
        return Ok(true);
    }
    end_freed(shell);
    shell.check().map(|()| false)
}

fn end_freed(shell: &Shell<Handled>) {
    let silent = shell.is_forked();
    if let Some(handled) = shell.finish() {
        conclude(handled, shell.take_posts(), silent);
    }
}

/// Runs the functions posted so far; returns how many.
fn run_posts(shell: &Shell<Handled>) -> Result<c_int, c_int> {
    let mut ran = 0;
    let generation = fork::generation();
    let mut posts = shell.take_posts().into_iter();
    while let Some(post) = posts.next() {
        ran += 1;
        let status = post.status();
        if shell.call_out(|| post.run(status)) {
            continue;
        }
        // The client was freed in it: the remaining functions are told so, before those posted later. A forked copy runs
        // none of the parent's.
        if fork::generation() == generation {
            cancel_all(posts);
        }
        end_freed(shell);
        return shell.check().map(|()| ran);
    }
    Ok(ran)
}

/// Runs the callbacks that were due when this began; those they cause are due in the next step. Returns how many ran.
fn deliver(shell: &Shell<Handled>) -> Result<c_int, c_int> {
    let mut ran = 0;
    let mut left = with_own(shell, |own| own.client.with_requests(|requests| requests.events()))?;
    while let Some(due) = with_own(shell, |own| own.next_due(&mut left))? {
        ran += 1;
        if !call_out(shell, || due.call())? {
            break;
        }
    }
    Ok(ran)
}

/// The descriptor to watch for readability in any loop: the same through reconnects, for the life of the client.
/// When it is readable, or broker_client_timeout() has passed, call broker_client_process(). Watch it
/// level-triggered; never read or close it. broker_client_after_fork() changes it.
///
/// A negative code for an invalid handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_fd(client: *const broker_client_t) -> c_int {
    enter_own(client, Rule::Anywhere, |own| own.client.as_raw_fd())
}

/// How long a loop may sleep before the next broker_client_process(), in milliseconds: 0 while work is deferred, even if
/// the descriptor is not readable; -1 until it is readable. Ask again after each processing.
///
/// A negative code other than -1 for an invalid handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_timeout(client: *const broker_client_t) -> c_int {
    let posted = matches!(find(client), Ok((Home::Own(shell, _), _)) if shell.has_posts());
    enter_own(client, Rule::Anywhere, |own| if posted { 0 } else { millis(own.client.timeout()) })
}

/// One step: reads, runs the callbacks that are due, writes. With a `timeout_ms` of 0 it never waits. Otherwise it waits
/// for an event, at most that many milliseconds or without a limit with BROKER_FOREVER; it may return earlier with 0.
/// Returns how many callbacks ran; those they cause are due in the next step. Cancellation point if it waits.
///
/// BROKER_EINVAL below -1; BROKER_EREENTRANT from a callback; BROKER_ESTATE when freed, also by one of these callbacks;
/// BROKER_EUNSUPPORTED for a client of a loop; BROKER_EFORKED; BROKER_ESYS if the poll itself fails.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn broker_client_process(client: *mut broker_client_t, timeout_ms: c_int) -> c_int {
    // Waits with nothing to drop on the stack: see `enter_waiting`.
    match shield(Err(BROKER_EPANIC), || begin_processing(client, timeout_ms)) {
        Ok((root, Some(0))) => enter_dispatching(shell(root), finish_step),
        Ok((root, limit)) => enter_waiting(shell(root), (limit, false), go_on_processing),
        Err(code) => code,
    }
}

fn begin_processing(
    pointer: *mut broker_client_t,
    timeout_ms: c_int,
) -> Result<(*mut broker_client_t, Option<u64>), c_int> {
    let (home, _) = find(pointer)?;
    let limit = waiting_time(timeout_ms)?;
    match home {
        Home::Own(_, root) => Ok((root, limit)),
        Home::Loop(..) => Err(BROKER_EUNSUPPORTED),
    }
}

fn go_on_processing(
    shell: &'static Shell<Handled>,
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
    let rung = Shell::of(shell(client)).and_then(|shell| shell.ring(|_| ()));
    rung.map_or_else(|code| code, |()| BROKER_OK)
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
    shield(BROKER_EPANIC, || {
        let Some(callback) = cb else { return BROKER_EINVAL };
        let posted = Shell::of(shell(client))
            .and_then(|shell| shell.post(Post { callback, handle: client, serial: shell.serial(), data }));
        posted.map_or_else(|code| code, |()| BROKER_OK)
    })
}

/// Stores a pointer for the program with the client; initially NULL. [any thread]
///
/// BROKER_EINVAL for a NULL client; BROKER_ESTATE when freed; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_set_data(client: *mut broker_client_t, data: *mut c_void) -> c_int {
    Shell::of(shell(client)).map_or_else(|code| code, |shell| shell.set_data(data))
}

/// The pointer stored by broker_client_set_data(); NULL for an invalid handle. [any thread, in callbacks, after a fork]
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_data(client: *const broker_client_t) -> *mut c_void {
    Shell::of(shell(client)).map_or(std::ptr::null_mut(), Shell::data)
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
    enter_at(client, Rule::Anywhere, |at| {
        at.no_session()?;
        at.calls.on_push = cb.map(|cb| (cb, data));
        if let Ok(shell) = Shell::of(shell(client)) {
            shell.beside().on_push.set(at.calls.on_push);
        }
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
    enter_at(client, Rule::Anywhere, |at| {
        at.no_session()?;
        at.calls.on_state = cb.map(|cb| (cb, data));
        if let Ok(shell) = Shell::of(shell(client)) {
            shell.beside().on_state.set(at.calls.on_state);
        }
        if cb.is_some() {
            at.requests.report_state();
        }
        Ok(BROKER_OK)
    })
}

impl HomeAccess<'_, '_> {
    fn no_session(&self) -> Result<(), c_int> {
        if self.session.is_some() { Err(BROKER_EUNSUPPORTED) } else { Ok(()) }
    }
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
    enter_at(client, Rule::Anywhere, |at| {
        let family = match kind {
            BROKER_CHANNEL => Family::Channel,
            BROKER_PATTERN => Family::Pattern,
            BROKER_SHARD => Family::Shard,
            _ => return Err(BROKER_EINVAL),
        };
        let callback = cb.ok_or(BROKER_EINVAL)?;
        let name = bytes(name, len)?;
        at.no_session()?;
        Ok(at.calls.subscribe(at.requests, family, name, req, Call { callback, data, handle: client }))
    })
}
