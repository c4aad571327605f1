//! `broker_client_t`: a process's side of a broker, one of a loop's own clients, or a session of either. Finds where a
//! handle's requests are kept, converts and delegates to `crate::client`; owns the order in which callbacks run.

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
use crate::client::{Border, Client, ClientKey, Family, Recipe, Request, SessionKey, Unusable};
use std::cell::UnsafeCell;
use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A client: of a broker, of Redis itself (broker_client_new()), of a loop in the same process
/// (broker_loop_client()), or one connection of another client for the caller alone, a session
/// (broker_client_session()).
///
/// One thread at a time; what is marked [any thread] alone may be called from any. Its callbacks run in that
/// thread, inside broker_client_process(), _call() and _free(), and nowhere else. It connects by itself, and
/// again after a loss.
///
/// In a forked process every function returns BROKER_EFORKED, and no descriptor of the client is open any more,
/// until broker_client_after_fork() makes it anew. broker_client_follow_fork() makes an exception.
///
/// Methods: broker_client_new, _session, _free, _after_fork, _follow_fork, _error, _connected; _submit,
/// _submit_transaction, _call, _call_transaction, _subscribe, _cancel; _fd, _timeout, _process, _wakeup, _post;
/// _on_push, _on_state; _set_data, _data.
#[allow(non_camel_case_types)]
#[derive(Debug)]
pub struct broker_client_t(#[expect(dead_code, reason = "reached through a cast pointer")] Shell<Handled>);

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
/// May use the client and free it (which then happens when the callback has returned); may not process or call:
/// BROKER_EREENTRANT. Nor may it free a loop that is running it. Must not throw, longjmp or end its thread
/// (pthread_exit); a pthread_cancel() waits until the function around it waits.
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

/// Gets what was posted to a client, exactly once: `status` 0 from inside its processing, BROKER_ECANCELED from
/// inside broker_client_free() or that of its loop. May do what a broker_reply_cb may.
#[allow(non_camel_case_types)]
pub type broker_client_cb =
    Option<unsafe extern "C" fn(client: *mut broker_client_t, status: c_int, data: *mut c_void)>;

pub(super) type Callback =
    unsafe extern "C" fn(*mut broker_client_t, c_int, *const broker_reply_t, *mut c_void);
pub(super) type PushCallback = unsafe extern "C" fn(*mut broker_client_t, *const broker_reply_t, *mut c_void);
pub(super) type StateCallback = unsafe extern "C" fn(*mut broker_client_t, c_int, c_int, *mut c_void);

/// What a handle stands for.
#[derive(Debug)]
pub(super) enum Handled {
    /// A client with sockets of its own.
    Own(Box<Own>),
    /// A client of a loop, which has all that belongs to it.
    OfLoop(OfLoop),
    /// A session of another client, which has all that belongs to it.
    Session(SessionHandle),
}

#[derive(Debug)]
pub(super) struct Own {
    pub(super) client: Client,
    pub(super) calls: Calls,
}

/// The serials tell which tenant of a handle's memory is meant.
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

/// What broker_client_after_fork() makes a client from.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Never changed.
    recipe: Option<Recipe>,
    on_push: CallbackCell<PushCallback>,
    on_state: CallbackCell<StateCallback>,
}

/// A callback that a copy may read, whatever the thread that sets it was at: of two places, the one that is not
/// in use is written to, and only then used.
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
    /// Whoever calls has the handle claimed.
    fn set(&self, callback: Option<(C, *mut c_void)>) {
        let other = 1 - self.used.load(Ordering::Relaxed);
        // SAFETY: nobody reads this place before `used` names it, and one thread at a time sets.
        unsafe { *self.places[other].get() = callback };
        self.used.store(other, Ordering::Release);
    }

    /// For a copy, where no other thread sets.
    fn get(&self) -> Option<(C, *mut c_void)> {
        // SAFETY: written whole before `used` named it.
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

/// Something posted: to a session, its client has it.
#[derive(Debug)]
pub(super) struct Post {
    callback: unsafe extern "C" fn(*mut broker_client_t, c_int, *mut c_void),
    handle: *mut broker_client_t,
    /// Which tenant of the handle's memory is meant.
    serial: u64,
    data: *mut c_void,
}

impl Post {
    /// What it is told: a session may have been freed since.
    pub(super) fn status(&self) -> c_int {
        match Shell::of(shell(self.handle)) {
            Ok(shell) if shell.serial() == self.serial && shell.check() != Err(BROKER_ESTATE) => BROKER_OK,
            _ => BROKER_ECANCELED,
        }
    }

    pub(super) fn run(self, status: c_int) {
        // SAFETY: the function was given to be called so, in the thread that uses the client.
        unsafe { (self.callback)(self.handle, status, self.data) }
    }
}

/// Whether anything waits that was posted to a client of a loop.
pub(super) fn has_posts(handle: *mut broker_client_t) -> bool {
    Shell::of(shell(handle)).is_ok_and(Shell::has_posts)
}

/// What has been posted to a client of a loop.
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

/// Makes a client of `endpoint` and begins to connect; requests may be submitted at once and wait for the
/// connection up to "queue_timeout".
///
/// - "unix:///run/broker/broker.sock", "tcp://host:port": a broker's socket (or Redis' own: it speaks the same).
/// - "fd://3": a connected socket, such as the other end of what broker_loop_adopt() took. The client owns and
///   closes it. It cannot be connected again once lost.
/// - "redis://[user[:password]@]host[:port][/db]": straight to Redis.
/// - NULL: what the environment variable BROKER_ENDPOINT says.
///
/// `config` gives the user, password, database, name and protocol (the "client_..." keys of docs/c-api.md), which
/// are set again on every connection; NULL means the defaults. A host name is looked up in here, blocking, and
/// after a failed or lost connection again, by a thread that takes no signal and ends with that. On failure *out
/// is NULL and `errbuf` has the words, cut to `errlen` bytes (NULL and 0 if they are not wanted).
///
/// BROKER_EINVAL for a NULL `out`, a malformed endpoint, or NULL without BROKER_ENDPOINT; BROKER_ECONFIG for
/// settings that do not fit together; BROKER_ESYS without descriptors, or for a name that cannot be looked up.
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
            debug_assert!(named.is_ok(), "nobody else knows of it yet");
        }
        // SAFETY: as above.
        unsafe { out.write(pointer.cast()) };
        BROKER_OK
    })
}

/// Opens a session of a client: a connection of its own within it, for what depends on one, WATCH ... EXEC above
/// all. It is a client in a mode of its own: it takes what the other's shared connection may not (WATCH, UNWATCH,
/// MULTI, EXEC, DISCARD, SELECT, AUTH; a blocking command, behind which the next one waits), but neither
/// subscriptions, on_push and on_state nor what ends a connection's use for requests. Whatever state a command
/// leaves on it stays until the session is freed, which closes the connection; if that is lost, everything after
/// returns BROKER_ECONN, so that no state is ever lost in silence. What drives the client drives its sessions
/// too, and their _fd, _timeout, _process, _wakeup and _post are those of the client. Free it before or after its
/// client.
///
/// BROKER_EINVAL for NULL; BROKER_EAGAIN above "client_connections_max"; BROKER_ECONN for a client that cannot open
/// connections any more; BROKER_EUNSUPPORTED for a session of a session; BROKER_ESTATE, BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_session(
    out: *mut *mut broker_client_t,
    client: *mut broker_client_t,
) -> c_int {
    if out.is_null() {
        return BROKER_EINVAL;
    }
    // SAFETY: not NULL; the header asks for a place for a pointer.
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

/// Closes the client. Pending requests and subscriptions get BROKER_ECANCELED before it returns (those of a
/// session in the next processing); called from a callback, all of this happens when the outermost callback has
/// returned. Its sessions end with it, and are still to be freed. In a forked process it only frees; no callback
/// runs.
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
            if !silent && let Ok((home, _)) = find(client) {
                // Not while whoever has its requests is at work elsewhere.
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
fn conclude(handled: Handled, posts: Vec<Post>, silent: bool) {
    match handled {
        // A state that is not to be trusted: descriptors are closed and nothing else.
        Handled::Own(own) if silent => return own.client.abandon(),
        // What it was within has ended before it.
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

/// Closes it before the first callback: should one fork, the copy has nothing left to close a second time.
fn conclude_own(mut own: Own) {
    own.client.close();
    let mut all = usize::MAX;
    let dues = std::iter::from_fn(|| own.next_due(&mut all)).collect();
    drop(own);
    call_all(dues);
}

/// Calls back, in this process alone: a copy that one of them makes has none of the others.
pub(super) fn call_all(dues: Vec<Due>) {
    let generation = fork::generation();
    for due in dues {
        if fork::generation() != generation {
            return;
        }
        due.call();
    }
}

/// Tells that what was posted will not run, in the same way.
pub(super) fn cancel_all(posts: impl IntoIterator<Item = Post>) {
    let generation = fork::generation();
    for post in posts {
        if fork::generation() != generation {
            return;
        }
        post.run(BROKER_ECANCELED);
    }
}

/// In a forked process: makes the client anew and connects; endpoint, configuration, on_push and on_state are as
/// they were, pending requests and subscriptions of the parent are unknown to it. Inherited sessions are dead:
/// free them.
///
/// BROKER_ESTATE in the process that made the client, and when it is freed; BROKER_ECONN for "fd://", which
/// cannot be connected again; BROKER_EUNSUPPORTED for a session and for a client of a loop; BROKER_ESYS;
/// BROKER_EREENTRANT from a log callback; BROKER_EINVAL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_after_fork(client: *mut broker_client_t) -> c_int {
    shield(BROKER_EPANIC, || {
        let renewed = Shell::of(shell(client)).and_then(|shell| {
            shell.adopt_after_fork(|beside| {
                // A session or a client of a loop's has none.
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

/// While `on` is not 0, a fork() in the thread that uses the client moves it to the child, with its descriptors,
/// requests, subscriptions and sessions; in the parent it is BROKER_EFORKED then. For daemon() and double forks:
/// on, fork, off. A fork() while another thread is at work on the client does not move it.
///
/// BROKER_EUNSUPPORTED for a session and for a client of a loop, which move with what they belong to;
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

/// The last failure of this client in words: why a call was refused, or why the connection was lost or could not
/// be made. "" before the first. Valid until the next call with the client. NULL for a bad handle, but in a
/// forked process the words of a broker_client_after_fork() that has failed.
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

/// 1 while the client's connection is there, 0 while it is not; a code for a bad handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_connected(client: *const broker_client_t) -> c_int {
    enter_at(client, Rule::Anywhere, |at| {
        Ok(c_int::from(match at.session {
            Some(session) => at.requests.session_is_connected(session),
            None => at.requests.is_connected(),
        }))
    })
}

/// Sends a request; its outcome comes to `cb`. `argv` has `argc` words, copied, the command's name first; with a
/// NULL `argvlen` each ends at its NUL, else word i has argvlen[i] bytes of any value. With BROKER_FOREVER it
/// waits for as long as it takes. `req` may be NULL, and else gets the name of the request. It is sent from the
/// client's processing, with whatever else was submitted by then. When it returns an error, `cb` is never called.
///
/// All requests share one connection and are answered in order, but blocking commands (BLPOP, XREAD BLOCK, ...):
/// each has a connection of its own for as long as it waits, and giving it up closes that.
///
/// BROKER_EINVAL for NULL, no word, a `timeout_ms` of 0 or below -1; BROKER_EAGAIN above "client_requests_max" or
/// "client_bytes_max"; BROKER_ESTATE, BROKER_EFORKED; BROKER_EUNSUPPORTED for commands that would change the
/// shared connection under the feet of others: MULTI, EXEC, DISCARD (broker_client_submit_transaction() is for
/// them), WATCH, UNWATCH (a session), SUBSCRIBE and its family (broker_client_subscribe()), SELECT, AUTH, HELLO,
/// RESET, CLIENT SETNAME (the client_... keys), CLIENT REPLY, CLIENT CACHING, QUIT, MONITOR, SYNC, PSYNC,
/// REPLCONF, SCRIPT DEBUG, ASKING, READONLY, READWRITE. CLIENT TRACKING, NO-EVICT, NO-TOUCH and SETINFO are sent,
/// and once accepted set again on every new connection.
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
        Ok(at.calls.submit(at.requests, at.session, &Request::Command(&words), patience, req, call))
    })
}

/// Sends a transaction: all its commands are executed, one behind the other with nothing between, or none is. One
/// outcome: the reply of EXEC, an array with the reply of each command. If Redis refused a command (and so
/// executed none), it is that command's error. On a session on which a watched key has changed, none of it is
/// executed and the reply is NIL: read again and try anew. Everything else as in broker_client_submit().
///
/// BROKER_EINVAL for NULL or a transaction without commands; else as broker_client_submit().
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
            at.calls.submit(at.requests, at.session, &Request::Transaction(block), patience, req, call)
        })
    })
}

/// Gives a request or a subscription up: its callback gets BROKER_ECANCELED, its last call, from the next
/// processing. Of a request that was sent, the command may be executed all the same (a blocking command stops
/// waiting: its connection is closed); one that was not sent is not.
///
/// BROKER_ESTATE if it is over already (its last callback has run or is about to); BROKER_EFORKED.
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

/// Sends a request and waits for its outcome, `timeout_ms` at most. BROKER_OK: *out has the reply, to be freed
/// with broker_reply_free(); else it is NULL (`out` may be NULL). Callbacks of other requests run meanwhile.
/// Arguments and codes as in broker_client_submit(), and those of an outcome: BROKER_ECONN, BROKER_ELOST,
/// BROKER_ETIMEDOUT, BROKER_ELIMIT, BROKER_EAUTH, BROKER_EPROTO. On a client of a loop it runs the loop.
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

/// Sends a transaction and waits for its outcome: broker_client_submit_transaction() and broker_client_call() in
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

/// The first half of a step: what has come by now is read before anything is written, so that no request leaves
/// on a connection whose end has been here before it. Then what to wait for, at most `limit` milliseconds;
/// `None`: go on at once.
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

/// The rest: reads, writes, runs callbacks. How many ran.
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

/// Runs one callback; what it freed ends when the outermost has returned. False: the handle is another by now,
/// since the callback has forked and this is the copy, in which it was made anew.
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

/// Runs what has been posted by now; how much that was.
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
        // Freed in it: the others are told so, before those that were posted later. A copy has none of the parent's.
        if fork::generation() == generation {
            cancel_all(posts);
        }
        end_freed(shell);
        return shell.check().map(|()| ran);
    }
    Ok(ran)
}

/// Calls back for what was due when this began: what callbacks cause is due in the next step. How many ran.
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

/// The descriptor to watch for readable in any loop: the same through reconnects, for the life of the client.
/// When it is readable, or broker_client_timeout() has passed, call broker_client_process(). Watch it
/// level-triggered; never read or close it. It changes in broker_client_after_fork().
///
/// A negative code for a bad handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_fd(client: *const broker_client_t) -> c_int {
    enter_own(client, Rule::Anywhere, |own| own.client.as_raw_fd())
}

/// How long a loop may sleep before the next broker_client_process(), in milliseconds: 0 while something is
/// deferred, whatever the descriptor says; -1 until it is readable. Ask again after each processing.
///
/// A negative code other than -1 for a bad handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_timeout(client: *const broker_client_t) -> c_int {
    let posted = matches!(find(client), Ok((Home::Own(shell, _), _)) if shell.has_posts());
    enter_own(client, Rule::Anywhere, |own| if posted { 0 } else { millis(own.client.timeout()) })
}

/// One step: reads, runs the callbacks that are due, writes. With a `timeout_ms` of 0 it never waits; else it
/// waits that long for something to happen, or with BROKER_FOREVER for as long as it takes, and may return
/// earlier with 0. Returns how many callbacks ran; what these cause is due in the next step.
///
/// BROKER_EINVAL below -1; BROKER_EREENTRANT from a callback; BROKER_ESTATE when freed, by one of these callbacks
/// too; BROKER_EUNSUPPORTED for a client of a loop; BROKER_EFORKED; BROKER_ESYS if the poll itself fails.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn broker_client_process(client: *mut broker_client_t, timeout_ms: c_int) -> c_int {
    // Waits with nothing to drop: see `enter_waiting`.
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

/// Makes the descriptor readable and ends a wait: how a signal handler tells the client's own thread to look at a
/// flag of the program's; other threads may use broker_client_post(). [any thread; async-signal-safe]
///
/// BROKER_EINVAL for NULL; BROKER_ESTATE when freed; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_wakeup(client: *mut broker_client_t) -> c_int {
    let rung = Shell::of(shell(client)).and_then(|shell| shell.ring(|_| ()));
    rung.map_or_else(|code| code, |()| BROKER_OK)
}

/// Has `cb` run once in the client's own thread, from inside its processing, and wakes that; if the client is
/// freed first, it runs in broker_client_free() with BROKER_ECANCELED (of a session, in the next processing of
/// its client). In the order in which they were posted. When it returns an error, `cb` is never called. [any
/// thread]
///
/// BROKER_EINVAL for NULL; BROKER_EAGAIN when 65,536 wait to be run, and while a fork() moves the handle;
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

/// Keeps a pointer of the program's with the client; NULL at first. [any thread]
///
/// BROKER_EINVAL for a NULL client; BROKER_ESTATE when freed; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_set_data(client: *mut broker_client_t, data: *mut c_void) -> c_int {
    Shell::of(shell(client)).map_or_else(|code| code, |shell| shell.set_data(data))
}

/// What broker_client_set_data() has kept; NULL for a bad handle. [any thread, in callbacks, after a fork]
#[unsafe(no_mangle)]
pub extern "C" fn broker_client_data(client: *const broker_client_t) -> *mut c_void {
    Shell::of(shell(client)).map_or(std::ptr::null_mut(), Shell::data)
}

/// Sets who gets pushes that belong to no subscription, such as invalidations after CLIENT TRACKING; NULL for
/// nobody.
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

/// Sets who is told of the connection's state; NULL for nobody. Told at once in the next processing if the client
/// is connected already.
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

/// Subscribes; `kind` is BROKER_CHANNEL, BROKER_PATTERN or BROKER_SHARD. `cb` gets, with `status` 0, every push
/// about that name, an array as Redis sends it: first ["subscribe", name, count], then a ["message", channel,
/// payload] (or ["pmessage", pattern, channel, payload], ["smessage", ...]) for each message. A second
/// "subscribe" means that the connection was lost and is there again: messages between may have been missed. A
/// reply of type ERROR (refused by Redis), or a `status` below 0, is the last call: BROKER_ECANCELED after
/// broker_client_cancel(). Several subscriptions of one name are one to Redis, and each gets every message. They
/// have a connection of their own, opened with the first and closed with the last. `req` may be NULL, and else
/// gets the name of the subscription. When it returns an error, `cb` is never called.
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
