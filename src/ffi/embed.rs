//! `broker_loop_t`: the broker inside another program. Converts and delegates to `crate::client::Embedded`; owns
//! the callbacks of the program's own clients until they are called.

use super::border::{
    Ended, Handle, Rule, Shell, WaitStep, enter, enter_waiting, making, shield, this_thread,
};
use super::calls::{Calls, Due};
use super::cancel::FdWait;
use super::client::{self, broker_client_t};
use super::codes::*;
use super::config::{self, broker_config_t, code_of};
use super::fork;
use super::log;
use super::loops;
use super::text::{copy_out, own_words, required_str, waiting_time};
use super::thread;
use crate::client::{ClientKey, Embedded, Requests};
use crate::reactor::{Loop, Prepared};
use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::Ordering;

/// Until broker_loop_stop(), or until nothing is left to do.
pub const BROKER_RUN_DEFAULT: c_int = 0;
/// One turn; waits for an event.
pub const BROKER_RUN_ONCE: c_int = 1;
/// One turn; never waits.
pub const BROKER_RUN_NOWAIT: c_int = 2;

/// The broker itself, embedded: it owns the connections to Redis and serves the processes that connect. One
/// thread at a time; what is marked [any thread] alone may be called from any. It starts no thread, but for one
/// that looks the upstream's name up again when a connection to it has failed or was lost, takes no signal and
/// ends with that. It installs no signal handler, touches no resource limit and never raises SIGPIPE; the
/// descriptors it opens are close-on-exec.
///
/// In a forked process every function returns BROKER_EFORKED, and no descriptor of the loop is open any more: a
/// fork handler has closed them. broker_loop_free() only frees there. broker_loop_follow_fork() makes an
/// exception.
///
/// Methods: broker_loop_new, _free, _follow_fork; _run, _stop, _post, _fd, _timeout; _drain, _reload, _error,
/// _endpoint, _adopt, _stat, _stat_name, _set_data, _data; _client.
#[allow(non_camel_case_types)]
#[derive(Debug)]
pub struct broker_loop_t(#[expect(dead_code, reason = "reached through a cast pointer")] Shell<Looping>);

/// Names a request or a subscription while it is under way; 0 names none. Never used again, so one that is over is
/// harmless.
#[allow(non_camel_case_types)]
pub type broker_req_t = u64;

/// Gets what was posted to a loop, exactly once: `status` 0 from inside broker_loop_run(), BROKER_ECANCELED from
/// inside broker_loop_free(). May do what a broker_reply_cb may.
#[allow(non_camel_case_types)]
pub type broker_loop_cb =
    Option<unsafe extern "C" fn(r#loop: *mut broker_loop_t, status: c_int, data: *mut c_void)>;

type LoopCallback = unsafe extern "C" fn(*mut broker_loop_t, c_int, *mut c_void);

#[derive(Debug)]
pub(super) struct Looping {
    /// Always there but while a closed handle has its last callbacks.
    pub(super) embedded: Option<Embedded>,
    /// The program's own clients.
    own: Vec<OwnClient>,
    /// Freed in a callback: they end when it has returned.
    ending: Vec<ClientKey>,
    words: CString,
}

#[derive(Debug)]
struct OwnClient {
    key: ClientKey,
    calls: Calls,
}

impl Handle for Looping {
    type Post = (LoopCallback, *mut c_void);
    type Beside = ();
    fn ended() -> &'static Ended<Self> {
        static ENDED: Ended<Looping> = Ended::new();
        &ENDED
    }
}

impl Looping {
    fn embedded(&mut self) -> Result<&mut Embedded, c_int> {
        self.embedded.as_mut().ok_or(BROKER_ESTATE)
    }

    /// The same for what a draining loop does not do any more.
    fn serving(&mut self) -> Result<&mut Embedded, c_int> {
        if self.embedded()?.is_serving() { self.embedded() } else { Err(BROKER_ESTATE) }
    }

    /// Notes a failure's words; its code.
    fn fail(&mut self, error: &crate::base::error::Error) -> c_int {
        self.words = own_words(&error.to_string());
        code_of(error)
    }

    /// What a turn waits for, if it waits.
    pub(super) fn next_wait(&mut self) -> Option<FdWait> {
        let embedded = self.embedded.as_ref()?;
        FdWait::new(embedded.as_raw_fd(), embedded.patience())
    }

    /// What may be asked of one of the program's own clients, and who waits for answers; `ESTATE` if it has ended.
    pub(super) fn with_client<R>(
        &mut self,
        key: ClientKey,
        body: impl FnOnce(&mut Requests<'_>, &mut Calls) -> R,
    ) -> Result<R, c_int> {
        let Looping { embedded: Some(embedded), own, .. } = self else { return Err(BROKER_ESTATE) };
        let own = own.iter_mut().find(|own| own.key == key).ok_or(BROKER_ESTATE)?;
        embedded.with_requests(key, |requests| body(requests, &mut own.calls)).ok_or(BROKER_ESTATE)
    }

    /// Ends one of the program's own clients: now, giving what is left to call, or after the callback that is
    /// running.
    pub(super) fn end_client(&mut self, key: ClientKey, in_callback: bool) -> Vec<Due> {
        if in_callback {
            self.ending.push(key);
            return Vec::new();
        }
        let events = self.embedded.as_mut().map(|embedded| embedded.close_client(key)).unwrap_or_default();
        let Some(at) = self.own.iter().position(|own| own.key == key) else { return Vec::new() };
        let mut own = self.own.swap_remove(at);
        events.into_iter().filter_map(|event| own.calls.take(event)).collect()
    }

    fn end_clients(&mut self) -> Vec<Due> {
        std::mem::take(&mut self.ending).into_iter().flat_map(|key| self.end_client(key, false)).collect()
    }

    /// The program's own clients for which something is due, and how much.
    fn due(&mut self) -> Vec<(ClientKey, usize)> {
        let Looping { embedded: Some(embedded), own, .. } = self else { return Vec::new() };
        let events = own.iter().filter_map(|own| {
            let count = embedded.with_requests(own.key, |requests| requests.events())?;
            (count > 0).then_some((own.key, count))
        });
        events.collect()
    }
}

pub(super) fn shell(pointer: *const broker_loop_t) -> *const Shell<Looping> {
    pointer.cast()
}

/// Makes a broker and binds its listeners; Redis is not dialled before the first broker_loop_run(). With a NULL
/// `config` there is no upstream, which is BROKER_ECONFIG: the key "upstream" is required, "listen" is not. Blocks
/// while names are resolved and files read. On failure *out is NULL and `errbuf` has the words, cut to `errlen`
/// bytes (NULL and 0 if they are not wanted).
///
/// BROKER_EINVAL for a NULL `out`; BROKER_ECONFIG, BROKER_ESYS. [not while another call is in progress with
/// `config`]
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_new(
    out: *mut *mut broker_loop_t,
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
        let settings = match config::read(config, |config| config.broker.clone()) {
            Ok(settings) => settings,
            Err(code) => {
                copy_out(config::UNUSABLE, errbuf, errlen);
                return code;
            }
        };
        let queue_timeout = settings.queue_timeout;
        let made = Loop::embedded_with(settings, thread::start).map(|lp| Embedded::new(lp, queue_timeout));
        let (pointer, code) = match made {
            Ok(embedded) => {
                let (bell, urls) = (embedded.bell(), embedded.listeners());
                let looping = Looping {
                    embedded: Some(embedded),
                    own: Vec::new(),
                    ending: Vec::new(),
                    words: CString::default(),
                };
                let pointer = Shell::create_as(number, looping, bell, ());
                if let Ok(shell) = Shell::of(pointer) {
                    loops::add(shell, urls);
                }
                (pointer.cast(), BROKER_OK)
            }
            Err(error) => {
                copy_out(&error.to_string(), errbuf, errlen);
                (std::ptr::null_mut(), code_of(&error))
            }
        };
        // SAFETY: not NULL; the header asks for a place for a pointer.
        unsafe { out.write(pointer) };
        code
    })
}

/// Runs the loop: BROKER_RUN_DEFAULT until broker_loop_stop() or until nothing is left to do, BROKER_RUN_ONCE for
/// one turn that waits for an event, BROKER_RUN_NOWAIT for one that does not. Callbacks run in here.
///
/// Returns 1 while there is work to come, 0 when there will be none (drained). BROKER_EINVAL for NULL or an
/// unknown mode; BROKER_EREENTRANT from a callback; BROKER_ESTATE when closed; BROKER_EFORKED; BROKER_ESYS if the
/// poll itself fails (no failing connection causes that). A thread may be cancelled in here while it waits.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn broker_loop_run(r#loop: *mut broker_loop_t, mode: c_int) -> c_int {
    if !matches!(mode, BROKER_RUN_DEFAULT | BROKER_RUN_ONCE | BROKER_RUN_NOWAIT) {
        return BROKER_EINVAL;
    }
    let running = Running { r#loop, mode, waited: false, stopped: false };
    enter_waiting(shell(r#loop), running, go_on_running)
}

/// What broker_loop_run() remembers from one turn to the next.
#[derive(Clone, Copy)]
struct Running {
    r#loop: *mut broker_loop_t,
    mode: c_int,
    waited: bool,
    /// This turn is the last.
    stopped: bool,
}

/// Notes that this thread drives the loop.
pub(super) fn drive(shell: &Shell<Looping>) {
    shell.driver.store(this_thread(), Ordering::Relaxed);
}

fn go_on_running(shell: &'static Shell<Looping>, running: &mut Running) -> Result<WaitStep, c_int> {
    drive(shell);
    let forever = running.mode == BROKER_RUN_DEFAULT;
    loop {
        if !std::mem::take(&mut running.waited) {
            running.stopped = shell.stopped.swap(false, Ordering::Relaxed) && forever;
            let may_wait = running.mode != BROKER_RUN_NOWAIT && !running.stopped;
            if may_wait && let Some(wait) = shell.borrow_to_wait(Looping::next_wait)? {
                running.waited = true;
                return Ok(WaitStep::Wait(wait));
            }
        }
        let goes_on = turn(shell, running.r#loop)?;
        if !goes_on {
            return Ok(WaitStep::Done(0));
        }
        if running.stopped || !forever {
            return Ok(WaitStep::Done(1));
        }
    }
}

/// One turn with its callbacks, which never waits; whether there will be another.
pub(super) fn turn(shell: &Shell<Looping>, pointer: *mut broker_loop_t) -> Result<bool, c_int> {
    let goes_on = shell.borrow(|looping| {
        log::tell_left_out();
        let embedded = looping.embedded()?;
        let worked = embedded.wait(Some(0)).and_then(|()| embedded.work());
        worked.map_err(|error| looping.fail(&error))
    })??;
    run_posts(shell, pointer)?;
    deliver(shell)?;
    // What callbacks have submitted goes out now, not after the next event.
    shell.borrow(|looping| looping.embedded().map(Embedded::settle))??;
    Ok(goes_on)
}

/// Runs a callback of the loop's or of one of its clients'.
fn call_out(shell: &Shell<Looping>, callback: impl FnOnce()) -> Result<(), c_int> {
    if !shell.call_out(callback) {
        shell.check()?;
    }
    // Those freed in it, and those freed in theirs.
    loop {
        let ended = shell.borrow(Looping::end_clients)?;
        if ended.is_empty() {
            return Ok(());
        }
        for due in ended {
            if !shell.call_out(|| due.call()) {
                shell.check()?;
            }
        }
    }
}

fn run_posts(shell: &Shell<Looping>, pointer: *mut broker_loop_t) -> Result<(), c_int> {
    let generation = fork::generation();
    let mut posts = shell.take_posts().into_iter();
    while let Some((callback, data)) = posts.next() {
        // SAFETY: the callback was given to be called so, in the thread that runs the loop.
        if let Err(code) = call_out(shell, || unsafe { callback(pointer, BROKER_OK, data) }) {
            // A copy has none of the parent's.
            if fork::generation() == generation {
                cancel_all(pointer, posts);
            }
            return Err(code);
        }
    }
    let handles = shell.borrow(|looping| {
        let handles = looping.own.iter().map(|own| own.calls.handle());
        handles.filter(|handle| client::has_posts(*handle)).collect::<Vec<_>>()
    })?;
    for handle in handles {
        let mut posts = client::take_posts(handle).into_iter();
        while let Some(post) = posts.next() {
            let status = post.status();
            if let Err(code) = call_out(shell, || post.run(status)) {
                if fork::generation() == generation {
                    client::cancel_all(posts);
                }
                return Err(code);
            }
        }
    }
    Ok(())
}

/// Tells that what was posted will not run, in this process alone: a copy that one of them makes has none of the
/// others.
fn cancel_all(pointer: *mut broker_loop_t, posts: impl IntoIterator<Item = (LoopCallback, *mut c_void)>) {
    let generation = fork::generation();
    for (callback, data) in posts {
        if fork::generation() != generation {
            return;
        }
        // SAFETY: the callback was given to be called so; the handle's memory is there, whatever became of the loop.
        unsafe { callback(pointer, BROKER_ECANCELED, data) };
    }
}

/// Calls back for what was due when this began: what callbacks cause is due in the next turn.
fn deliver(shell: &Shell<Looping>) -> Result<(), c_int> {
    for (key, mut left) in shell.borrow(Looping::due)? {
        while let Ok(Some(due)) = shell.borrow(|looping| {
            looping.with_client(key, |requests, calls| calls.next_due(requests, &mut left))
        })? {
            call_out(shell, || due.call())?;
        }
    }
    Ok(())
}

/// Makes broker_loop_run() return soon: the present call with BROKER_RUN_DEFAULT, or the next one after a turn.
/// [any thread; async-signal-safe, one send(2)]
///
/// BROKER_EINVAL for NULL; BROKER_ESTATE when closed; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_stop(r#loop: *mut broker_loop_t) -> c_int {
    let rung = Shell::of(shell(r#loop))
        .and_then(|shell| shell.ring(|shell| shell.stopped.store(true, Ordering::Release)));
    rung.map_or_else(|code| code, |()| BROKER_OK)
}

/// Has `cb` run once in the thread that runs the loop, from inside broker_loop_run(), and wakes that; if the loop
/// is freed first, it runs in broker_loop_free() with BROKER_ECANCELED. In the order in which they were posted.
/// When it returns an error, `cb` is never called. [any thread]
///
/// BROKER_EINVAL for NULL; BROKER_EAGAIN when 65,536 wait to be run, and while a fork() moves the handle;
/// BROKER_ESTATE when closed; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_post(
    r#loop: *mut broker_loop_t,
    cb: broker_loop_cb,
    data: *mut c_void,
) -> c_int {
    shield(BROKER_EPANIC, || {
        let Some(cb) = cb else { return BROKER_EINVAL };
        let posted = Shell::of(shell(r#loop)).and_then(|shell| shell.post((cb, data)));
        posted.map_or_else(|code| code, |()| BROKER_OK)
    })
}

/// The descriptor to watch for readable in another loop (epoll, poll, libuv): the same for the life of the loop.
/// When it is readable, or broker_loop_timeout() has passed, call broker_loop_run(loop, BROKER_RUN_NOWAIT). Watch
/// it level-triggered; never read or close it.
///
/// A negative code for a bad handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_fd(r#loop: *const broker_loop_t) -> c_int {
    enter(shell(r#loop), Rule::Anywhere, |looping| match looping.embedded() {
        Ok(embedded) => embedded.as_raw_fd(),
        Err(code) => code,
    })
}

/// How long another loop may sleep before the next broker_loop_run(), in milliseconds: 0 while work is deferred,
/// whatever the descriptor says; -1 until the descriptor is readable. Ask after each broker_loop_run(); what is
/// submitted or changed outside of it makes the descriptor readable.
///
/// A negative code other than -1 for a bad handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_timeout(r#loop: *const broker_loop_t) -> c_int {
    let posted = Shell::of(shell(r#loop)).is_ok_and(Shell::has_posts);
    enter(shell(r#loop), Rule::Anywhere, |looping| match looping.embedded() {
        Ok(_) if posted => 0,
        Ok(embedded) => millis(embedded.timeout()),
        Err(code) => code,
    })
}

/// Milliseconds for C; -1 for ever.
pub(super) fn millis(timeout: Option<u64>) -> c_int {
    timeout.map_or(-1, |timeout| c_int::try_from(timeout).unwrap_or(c_int::MAX))
}

/// Ends the service in good order: closes the listeners, answers what has been received complete, then closes each
/// child. Blocked commands and transactions that watch keys have `timeout_ms`, the others as long as they
/// take. broker_loop_run() returns 0 when all have gone. A second call can only shorten it.
///
/// BROKER_EINVAL for a `timeout_ms` below -1; BROKER_ESTATE when closed; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_drain(r#loop: *mut broker_loop_t, timeout_ms: c_int) -> c_int {
    // Longer than any process lives, and short enough to be added to.
    const FOR_EVER: u64 = 1 << 48;
    let patience = match waiting_time(timeout_ms) {
        Ok(patience) => patience.unwrap_or(FOR_EVER),
        Err(code) => return code,
    };
    enter(shell(r#loop), Rule::Anywhere, |looping| match looping.embedded() {
        Ok(embedded) => {
            embedded.drain(Some(patience));
            BROKER_OK
        }
        Err(code) => code,
    })
}

/// Closes every connection and listener at once and frees the handle. Requests of its clients that are pending get
/// BROKER_ECANCELED first, before it returns; the clients answer BROKER_ESTATE then and are still to be freed. In a
/// forked process it only frees.
///
/// NULL is BROKER_OK; BROKER_EREENTRANT from a callback of the loop's or its clients', and nothing is closed;
/// BROKER_ESTATE a second time.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_free(r#loop: *mut broker_loop_t) -> c_int {
    if r#loop.is_null() {
        return BROKER_OK;
    }
    shield(BROKER_EPANIC, || {
        let closed = Shell::of(shell(r#loop)).and_then(|shell| {
            if shell.in_callback() {
                return Err(BROKER_EREENTRANT);
            }
            let poisoned = shell.is_poisoned();
            // None: a forked copy, which frees nothing of the parent's.
            let Some(looping) = shell.end()? else { return Ok(BROKER_OK) };
            loops::remove(shell);
            let posts = shell.take_posts();
            if poisoned {
                // A broken handle's state is not trusted; it is closed and no more.
                return Ok(BROKER_OK);
            }
            let generation = fork::generation();
            let left = close(looping);
            cancel_all(r#loop, posts);
            for one in left {
                if fork::generation() == generation {
                    one.tell();
                }
            }
            Ok(BROKER_OK)
        });
        closed.unwrap_or_else(|code| code)
    })
}

/// What is left to tell about a client of a loop that has ended.
struct Left {
    dues: Vec<Due>,
    posts: Vec<client::Post>,
}

impl Left {
    fn tell(self) {
        let generation = fork::generation();
        client::call_all(self.dues);
        if fork::generation() == generation {
            client::cancel_all(self.posts);
        }
    }
}

/// Closes a loop before the first of the last callbacks: should one fork, the copy has nothing left to close a
/// second time.
fn close(mut looping: Looping) -> Vec<Left> {
    let clients: Vec<_> = looping.own.iter().map(|own| (own.key, own.calls.handle())).collect();
    let left = clients.into_iter().map(|(key, handle)| Left {
        dues: looping.end_client(key, false),
        posts: client::take_posts(handle),
    });
    let left = left.collect();
    if let Some(embedded) = &mut looping.embedded {
        embedded.close();
    }
    left
}

/// Takes new settings while it runs, every key of docs/config.md; on any failure nothing has changed. Blocks while
/// names are resolved and files read; a fork elsewhere does not wait for that.
///
/// BROKER_ECONFIG, BROKER_ESYS with the words in broker_loop_error(); BROKER_EINVAL for NULL; BROKER_ESTATE when
/// closed or draining; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_reload(r#loop: *mut broker_loop_t, config: *const broker_config_t) -> c_int {
    if config.is_null() {
        return BROKER_EINVAL;
    }
    let settings = config::read(config, |config| config.broker.clone());
    let loop_ = shell(r#loop);
    let lookup = Shell::of(loop_).and_then(|shell| {
        shell.check()?;
        shell.borrow(|looping| looping.serving().map(|embedded| embedded.lookup()))?
    });
    let (settings, lookup) = match (lookup, settings) {
        (Ok(lookup), Ok(settings)) => (settings, lookup),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    // What may take long, with nothing of the loop in hand.
    let Some(prepared) = shield(None, || Some(Prepared::new(settings, lookup))) else { return BROKER_EPANIC };
    enter(loop_, Rule::Anywhere, |looping| {
        let outcome =
            looping.serving().map(|embedded| prepared.and_then(|prepared| embedded.apply(prepared)));
        match outcome {
            Ok(Ok(())) => {
                if let (Ok(shell), Some(embedded)) = (Shell::of(loop_), &looping.embedded) {
                    loops::set_urls(shell, embedded.listeners());
                }
                BROKER_OK
            }
            Ok(Err(error)) => looping.fail(&error),
            Err(code) => code,
        }
    })
}

/// The last failure of this loop in words; "" before the first. Valid until the next call with it. NULL for a bad
/// handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_error(r#loop: *const broker_loop_t) -> *const c_char {
    enter(shell(r#loop), Rule::Anywhere, |looping| looping.words.as_ptr())
}

/// Copies the URL of listener `i`, with the port that the system chose, into `buf` as snprintf() does; returns its
/// length. It is what broker_client_new() takes.
///
/// BROKER_EINVAL for NULL or beyond the last listener; BROKER_ESTATE, BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_endpoint(
    r#loop: *const broker_loop_t,
    i: usize,
    buf: *mut c_char,
    len: usize,
) -> c_int {
    enter(shell(r#loop), Rule::Anywhere, |looping| match looping.embedded() {
        Ok(embedded) => embedded.listeners().get(i).map_or(BROKER_EINVAL, |url| copy_out(url, buf, len)),
        Err(code) => code,
    })
}

/// Makes a child of a connected stream socket: one end of a socketpair(), or one that the program accepted itself.
/// With the other end as "fd://N", a forked worker needs no path on disk. On success the loop owns `fd` and closes
/// it; on failure it is the caller's still.
///
/// BROKER_EINVAL if it is no connected stream socket, or the loop has it already; BROKER_ELIMIT above
/// "children_max"; BROKER_ESYS; BROKER_ESTATE when closed or draining; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_adopt(r#loop: *mut broker_loop_t, fd: c_int) -> c_int {
    enter(shell(r#loop), Rule::Anywhere, |looping| {
        let embedded = match looping.serving() {
            Ok(embedded) => embedded,
            Err(code) => return code,
        };
        // SAFETY: fcntl only asks whether the number is an open descriptor.
        if fd < 0 || unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
            return BROKER_EINVAL;
        }
        // SAFETY: open, as just seen, and the caller's to give away.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        match embedded.adopt(socket) {
            Ok(()) => {
                if let Ok(shell) = Shell::of(shell(r#loop)) {
                    loops::set_adopted(shell);
                }
                BROKER_OK
            }
            Err((socket, error)) => {
                // Given back unclosed.
                let _ = socket.into_raw_fd();
                looping.words = own_words(&error.to_string());
                match code_of(&error) {
                    BROKER_ECONFIG => BROKER_EINVAL,
                    code => code,
                }
            }
        }
    })
}

/// While `on` is not 0, a fork() in the thread that uses the loop moves it to the child, with its descriptors,
/// its children and its clients; in the parent it is BROKER_EFORKED then. For daemon() and double forks: on,
/// fork, off. A fork() while another thread is at work on the loop does not move it.
///
/// BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_follow_fork(r#loop: *mut broker_loop_t, on: c_int) -> c_int {
    shield(BROKER_EPANIC, || {
        Shell::of(shell(r#loop)).map_or_else(|code| code, |shell| shell.follow_fork(on != 0))
    })
}

/// Makes a client of the loop's own, for the program's own requests: it needs no socket and is driven by
/// broker_loop_run(), in which its callbacks run. Everything of a client works on it (transactions, sessions,
/// blocking commands, subscriptions) but what would drive it: broker_client_fd(), _timeout() and _process()
/// return BROKER_EUNSUPPORTED, and broker_client_call() runs the loop while it waits. To be freed with
/// broker_client_free(), before or after the loop; after it, all it returns is BROKER_ESTATE.
///
/// BROKER_EINVAL for NULL; BROKER_ESTATE when closed or draining; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_client(out: *mut *mut broker_client_t, r#loop: *mut broker_loop_t) -> c_int {
    if out.is_null() {
        return BROKER_EINVAL;
    }
    // SAFETY: not NULL; the header asks for a place for a pointer.
    unsafe { out.write(std::ptr::null_mut()) };
    let Ok(home) = Shell::of(shell(r#loop)) else { return BROKER_EINVAL };
    enter(shell(r#loop), Rule::Anywhere, |looping| {
        let key = match looping.serving() {
            Ok(embedded) => embedded.open_client(),
            Err(code) => return code,
        };
        let handle = client::create_of_loop(home, r#loop, key);
        let mut calls = Calls::default();
        calls.set_handle(handle);
        looping.own.push(OwnClient { key, calls });
        // SAFETY: as above.
        unsafe { out.write(handle) };
        BROKER_OK
    })
}

/// Keeps a pointer of the program's with the loop; NULL at first. [any thread]
///
/// BROKER_EINVAL for a NULL loop; BROKER_ESTATE when closed; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_set_data(r#loop: *mut broker_loop_t, data: *mut c_void) -> c_int {
    Shell::of(shell(r#loop)).map_or_else(|code| code, |shell| shell.set_data(data))
}

/// What broker_loop_set_data() has kept; NULL for a bad handle. [any thread, in callbacks, after a fork]
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_data(r#loop: *const broker_loop_t) -> *mut c_void {
    Shell::of(shell(r#loop)).map_or(std::ptr::null_mut(), Shell::data)
}

pub(super) fn give_req(to: *mut broker_req_t, id: u64) {
    if !to.is_null() {
        // SAFETY: the header asks for NULL or a place for a broker_req_t.
        unsafe { to.write(id) };
    }
}

/// Reads one number about the loop by its name: see docs/c-api.md, or broker_loop_stat_name().
///
/// BROKER_EINVAL for NULL or an unknown name; BROKER_ESTATE, BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_stat(
    r#loop: *const broker_loop_t,
    name: *const c_char,
    value: *mut u64,
) -> c_int {
    enter(shell(r#loop), Rule::Anywhere, |looping| {
        let Ok(name) = required_str(name) else { return BROKER_EINVAL };
        match looping.embedded().map(|embedded| embedded.stat(name)) {
            Ok(Some(number)) if !value.is_null() => {
                // SAFETY: not NULL; the header asks for a place for a uint64_t.
                unsafe { value.write(number) };
                BROKER_OK
            }
            Ok(_) => BROKER_EINVAL,
            Err(code) => code,
        }
    })
}

/// The name of number `i`, from 0; NULL beyond the last. Static. [any thread, in callbacks, after a fork]
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_stat_name(i: usize) -> *const c_char {
    shield(std::ptr::null(), || super::stats::name(i).map_or(std::ptr::null(), std::ffi::CStr::as_ptr))
}
