//! `broker_loop_t`: the broker inside another program. Converts and delegates to `crate::client::Embedded`; owns
//! the callbacks of the loop's own clients until they have run.

use super::border::{
    EndedHandles, Handle, HandleRef, Shell, WaitStep, enter, enter_waiting, free, gate, making, this_thread,
};
use super::calls::{Calls, Due};
use super::cancel::FdWait;
use super::client::broker_client_t;
use super::codes::*;
use super::config::{self, broker_config_t, fail};
use super::fork;
use super::home::Keeper;
use super::log;
use super::loops;
use super::posts::{Post, run_all};
use super::text::{copy_out, give, give_none, millis, own_fd, required_str, waiting_time};
use crate::client::{ClientKey, Embedded, Requests};
use crate::reactor::{Loop, Prepared};
use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

/// Runs until broker_loop_stop(), or until the loop has drained.
pub const BROKER_RUN_DEFAULT: c_int = 0;
/// One turn; waits for an event.
pub const BROKER_RUN_ONCE: c_int = 1;
/// One turn; never waits.
pub const BROKER_RUN_NOWAIT: c_int = 2;

/// The broker, embedded in a program: it owns the connections to Redis and serves the processes that connect. For one
/// thread at a time; only functions marked [any thread] may be called from any. The library starts no thread; the loop
/// looks the upstream's host name up by itself, in /etc/hosts and by DNS, and never waits for a name server. It installs
/// no signal handler, changes no resource limit and never raises SIGPIPE. Its descriptors are close-on-exec.
///
/// In a forked process a fork handler has closed every descriptor of the loop, and every function returns
/// BROKER_EFORKED. broker_loop_free() only frees memory there. broker_loop_follow_fork() is the exception.
///
/// Methods: broker_loop_new, _free, _follow_fork; _run, _stop, _post, _fd, _timeout; _drain, _reload, _error,
/// _endpoint, _adopt, _stat, _stat_name, _set_data, _data; _client.
#[allow(non_camel_case_types)]
pub struct broker_loop_t(
    #[expect(dead_code, reason = "reached through a cast pointer")] Shell<broker_loop_t>,
);

/// Identifies a pending request or a subscription; 0 identifies none. Numbers are never reused, so one that has ended is
/// harmless.
#[allow(non_camel_case_types)]
pub type broker_req_t = u64;

/// Runs exactly once for each broker_loop_post(): with `status` 0 inside broker_loop_run(), with BROKER_ECANCELED inside
/// broker_loop_free(). May do what a broker_reply_cb may do.
#[allow(non_camel_case_types)]
pub type broker_loop_cb =
    Option<unsafe extern "C" fn(r#loop: *mut broker_loop_t, status: c_int, data: *mut c_void)>;

pub(super) struct Looping {
    pub(super) embedded: Embedded,
    own: Vec<(ClientKey, Calls)>,
    /// Clients freed in a callback: they end when it has returned.
    ending: Vec<ClientKey>,
    words: CString,
}

impl Handle for broker_loop_t {
    type Inner = Looping;
    type Beside = ();
    fn ended() -> &'static EndedHandles<Self> {
        static ENDED: EndedHandles<broker_loop_t> = EndedHandles::new();
        &ENDED
    }
}

impl Looping {
    /// `ESTATE` for a loop that drains.
    fn serving(&mut self) -> Result<&mut Embedded, c_int> {
        if self.embedded.is_serving() { Ok(&mut self.embedded) } else { Err(BROKER_ESTATE) }
    }

    /// The descriptor and the time a turn waits for, if it waits.
    pub(super) fn next_wait(&mut self) -> Option<FdWait> {
        FdWait::new(self.embedded.as_raw_fd(), self.embedded.patience())
    }

    /// The requests and callbacks of one of the loop's own clients; `ESTATE` if it has ended.
    pub(super) fn with_client<R>(
        &mut self,
        key: ClientKey,
        body: impl FnOnce(&mut Requests<'_>, &mut Calls) -> R,
    ) -> Result<R, c_int> {
        let (_, calls) = self.own.iter_mut().find(|(own, _)| *own == key).ok_or(BROKER_ESTATE)?;
        self.embedded.with_requests(key, |requests| body(requests, calls)).ok_or(BROKER_ESTATE)
    }

    /// Ends one of the loop's own clients: at once, returning its last callbacks, or after the running callback.
    pub(super) fn end_client(&mut self, key: ClientKey, in_callback: bool) -> Vec<Due> {
        if in_callback {
            self.ending.push(key);
            return Vec::new();
        }
        let events = self.embedded.close_client(key);
        let Some(at) = self.own.iter().position(|(own, _)| *own == key) else { return Vec::new() };
        let (_, mut calls) = self.own.swap_remove(at);
        events.into_iter().filter_map(|event| calls.take(event)).collect()
    }

    fn end_clients(&mut self) -> Vec<Due> {
        std::mem::take(&mut self.ending).into_iter().flat_map(|key| self.end_client(key, false)).collect()
    }

    /// The loop's own clients with callbacks due, and how many.
    fn due(&mut self) -> Vec<(ClientKey, usize)> {
        let events = self.own.iter().filter_map(|(key, _)| {
            let count = self.embedded.with_requests(*key, |requests| requests.events())?;
            (count > 0).then_some((*key, count))
        });
        events.collect()
    }
}

/// Creates a broker and binds its listeners. It connects to Redis at the first broker_loop_run(). The key "upstream" is
/// required, so a NULL `config` is BROKER_ECONFIG; "listen" is optional. Blocks while files are read and names in "listen"
/// resolved; the upstream's name is looked up while the loop runs, and one that is unknown is like an upstream that is
/// down. On failure *out is NULL and `errbuf` has the reason, truncated to `errlen` bytes (pass NULL and 0 to omit it).
///
/// BROKER_EINVAL for a NULL `out`; BROKER_ECONFIG, BROKER_ESYS. [not while another call with `config` is in progress]
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_new(
    out: *mut *mut broker_loop_t,
    config: *const broker_config_t,
    errbuf: *mut c_char,
    errlen: usize,
) -> c_int {
    making(out, (errbuf, errlen), |number| {
        let settings = config::read(config, |config| config.broker.clone())?;
        let queue_timeout = settings.queue_timeout;
        let embedded = Embedded::new(Loop::new(settings)?, queue_timeout);
        let (bell, urls) = (embedded.reactor().wake_fd(), embedded.reactor().listeners());
        let (own, ending, words) = (Vec::new(), Vec::new(), CString::default());
        let shell = Shell::create(number, Looping { embedded, own, ending, words }, bell, ());
        loops::add(shell, urls);
        Ok(shell)
    })
}

/// Runs the loop: with BROKER_RUN_DEFAULT until broker_loop_stop() or until it has drained, with BROKER_RUN_ONCE for
/// one turn that waits for an event, with BROKER_RUN_NOWAIT for one turn that does not wait. Callbacks run in here.
///
/// Returns 1 while the loop has work to come, 0 when it has drained. BROKER_EINVAL for NULL or an unknown mode;
/// BROKER_EREENTRANT from a callback; BROKER_ESTATE when closed; BROKER_EFORKED; BROKER_ESYS if the poll itself fails
/// (a failing connection does not cause that). Cancellation point: the thread may be cancelled in here while it waits.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn broker_loop_run(r#loop: *mut broker_loop_t, mode: c_int) -> c_int {
    if !matches!(mode, BROKER_RUN_DEFAULT | BROKER_RUN_ONCE | BROKER_RUN_NOWAIT) {
        return BROKER_EINVAL;
    }
    match Shell::of(r#loop) {
        Ok(shell) => enter_waiting(shell, Running { mode, waited: false, stopped: false }, go_on_running),
        Err(code) => code,
    }
}

#[derive(Clone, Copy)]
struct Running {
    mode: c_int,
    waited: bool,
    /// This turn is the last one.
    stopped: bool,
}

fn go_on_running(shell: &'static Shell<broker_loop_t>, running: &mut Running) -> Result<WaitStep, c_int> {
    let forever = running.mode == BROKER_RUN_DEFAULT;
    drive(shell);
    loop {
        if !std::mem::take(&mut running.waited) {
            running.stopped = shell.stopped.swap(false, Ordering::Relaxed) && forever;
            let may_wait = running.mode != BROKER_RUN_NOWAIT && !running.stopped;
            if may_wait && let Some(wait) = shell.borrow_to_wait(Looping::next_wait)? {
                running.waited = true;
                return Ok(WaitStep::Wait(wait));
            }
        }
        let goes_on = turn(shell)?;
        if !goes_on || running.stopped || !forever {
            return Ok(WaitStep::Done(c_int::from(goes_on)));
        }
    }
}

/// This thread drives the loop from now on, also while it waits.
pub(super) fn drive(shell: &Shell<broker_loop_t>) {
    shell.driver.store(this_thread(), Ordering::Relaxed);
}

/// One turn with its callbacks, which never waits; returns whether there will be another.
pub(super) fn turn(shell: &'static Shell<broker_loop_t>) -> Result<bool, c_int> {
    drive(shell);
    let goes_on = shell.borrow(|looping| {
        log::tell_left_out();
        let goes_on = looping.embedded.work().map_err(|error| fail(&mut looping.words, &error));
        if looping.embedded.take_listeners_changed() {
            loops::set_urls(shell, looping.embedded.reactor().listeners());
        }
        goes_on
    })??;
    run_posts(shell)?;
    deliver(shell)?;
    // Requests submitted by callbacks are sent now, not after the next event.
    shell.borrow(|looping| looping.embedded.settle())?;
    Ok(goes_on)
}

fn call_out(shell: &Shell<broker_loop_t>, callback: impl FnOnce()) -> Result<(), c_int> {
    if !shell.call_out(callback) {
        shell.check()?;
    }
    // Clients freed in it, and those freed in their callbacks.
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

fn run_posts(shell: &Shell<broker_loop_t>) -> Result<(), c_int> {
    run_all(shell.take_posts(), |post| call_out(shell, || post.run()))?;
    let handles = shell.borrow(|looping| {
        let handles = looping.own.iter().map(|(_, calls)| calls.handle);
        handles.filter(|handle| handle.has_posts()).collect::<Vec<_>>()
    })?;
    for handle in handles {
        run_all(handle.take_posts(), |post| call_out(shell, || post.run()))?;
    }
    Ok(())
}

/// Runs the callbacks that were due when this began; those they cause are due in the next turn.
fn deliver(shell: &Shell<broker_loop_t>) -> Result<(), c_int> {
    for (key, mut left) in shell.borrow(Looping::due)? {
        while let Ok(Some(due)) = shell.borrow(|looping| {
            looping.with_client(key, |requests, calls| calls.next_due(requests, &mut left))
        })? {
            call_out(shell, || due.call())?;
        }
    }
    Ok(())
}

/// Makes broker_loop_run() return soon: the current call with BROKER_RUN_DEFAULT, or the next one after one turn.
/// [any thread; async-signal-safe, one send(2)]
///
/// BROKER_EINVAL for NULL; BROKER_ESTATE when closed; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_stop(r#loop: *mut broker_loop_t) -> c_int {
    let stop = |shell: &Shell<_>| shell.stopped.store(true, Ordering::Release);
    code(Shell::of(r#loop).and_then(|shell| shell.ring(stop)))
}

/// Queues `cb` and wakes the thread that runs the loop. `cb` runs once, inside broker_loop_run(), in the order of the
/// posts. If the loop is freed first, it runs inside broker_loop_free() with BROKER_ECANCELED. When this function returns
/// an error, `cb` never runs. [any thread]
///
/// BROKER_EINVAL for NULL; BROKER_EAGAIN when 65,536 functions are queued, and while a fork() moves the handle;
/// BROKER_ESTATE when closed; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_post(
    r#loop: *mut broker_loop_t,
    cb: broker_loop_cb,
    data: *mut c_void,
) -> c_int {
    gate(|| {
        let callback = cb.ok_or(BROKER_EINVAL)?;
        Shell::of(r#loop)?.post(callback, data)
    })
}

/// The descriptor to watch for readability in another loop (epoll, poll, libuv): the same for the life of the loop.
/// When it is readable, or broker_loop_timeout() has passed, call broker_loop_run(loop, BROKER_RUN_NOWAIT). Watch
/// it level-triggered; never read or close it.
///
/// A negative code for an invalid handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_fd(r#loop: *const broker_loop_t) -> c_int {
    enter(r#loop, |looping| Ok(looping.embedded.as_raw_fd()))
}

/// How long another loop may sleep before the next broker_loop_run(), in milliseconds: 0 while work is deferred, even if
/// the descriptor is not readable; -1 until the descriptor is readable. Ask after each broker_loop_run(); requests
/// submitted and changes made outside of it make the descriptor readable.
///
/// A negative code other than -1 for an invalid handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_timeout(r#loop: *const broker_loop_t) -> c_int {
    enter(r#loop, |looping| {
        let posted = Shell::of(r#loop)?.has_posts();
        Ok(if posted { 0 } else { millis(looping.embedded.timeout()) })
    })
}

/// Ends the service gracefully: closes the listeners, answers the complete requests received so far, then closes each
/// child. Blocked commands and open transactions have `timeout_ms` milliseconds; other requests are answered
/// however long they take. broker_loop_run() returns 0 when all children are closed. A second call can only shorten the
/// time.
///
/// BROKER_EINVAL for a `timeout_ms` below -1; BROKER_ESTATE when closed; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_drain(r#loop: *mut broker_loop_t, timeout_ms: c_int) -> c_int {
    // Longer than any process lives, and small enough to be added to a time.
    const FOR_EVER: u64 = 1 << 48;
    let patience = match waiting_time(timeout_ms) {
        Ok(patience) => patience.unwrap_or(FOR_EVER),
        Err(code) => return code,
    };
    enter(r#loop, |looping| {
        looping.embedded.drain(patience);
        Ok(BROKER_OK)
    })
}

/// Closes every connection and listener at once and frees the handle. Pending requests of its clients get
/// BROKER_ECANCELED before this function returns; afterwards the clients return BROKER_ESTATE and must still be freed. In
/// a forked process it only frees memory.
///
/// NULL is BROKER_OK; BROKER_EREENTRANT from a callback of the loop or of its clients, and nothing is closed;
/// BROKER_ESTATE the second time.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_free(r#loop: *mut broker_loop_t) -> c_int {
    free(r#loop, |shell| {
        shell.check_outside_callbacks()?;
        let poisoned = shell.is_poisoned();
        // None: a forked copy, which frees nothing of the parent.
        let Some(looping) = shell.end()? else { return Ok(()) };
        loops::remove(shell);
        let posts = shell.take_posts();
        if poisoned {
            // The state of a handle after a panic is not trusted: it is only closed.
            return Ok(());
        }
        let generation = fork::generation();
        let dues = close(looping);
        fork::each_here(posts, Post::cancel);
        if fork::generation() == generation {
            fork::each_here(dues, Due::call);
        }
        Ok(())
    })
}

/// Closes a loop before its last callbacks run: if one of them forks, the copy has nothing left to close a
/// second time. Returns those of its clients.
fn close(mut looping: Looping) -> Vec<Due> {
    let mut dues = Vec::new();
    for (key, handle) in looping.own.iter().map(|(key, calls)| (*key, calls.handle)).collect::<Vec<_>>() {
        dues.extend(looping.end_client(key, false));
        dues.extend(handle.take_posts().into_iter().map(Due::Canceled));
    }
    looping.embedded.close();
    dues
}

/// Applies new settings to a running loop, every key of docs/config.md; on failure nothing has changed. What the console had
/// changed (BROKER SET) is what `config` says again. Blocks while files are read and names in "listen" resolved; a fork in
/// another thread does not wait for it.
///
/// BROKER_ECONFIG, BROKER_ESYS with the reason in broker_loop_error(); BROKER_EINVAL for NULL; BROKER_ESTATE when
/// closed or draining; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_reload(r#loop: *mut broker_loop_t, config: *const broker_config_t) -> c_int {
    if config.is_null() {
        return BROKER_EINVAL;
    }
    gate(|| {
        let shell = Shell::of(r#loop)?;
        shell.check()?;
        shell.borrow(|looping| looping.serving().map(drop))??;
        let settings = config::read(config, |config| config.broker.clone()).map_err(|failed| failed.0)?;
        // Steps that may take long, without a claim on the loop.
        let prepared = Prepared::new(settings);
        Ok(enter(r#loop, |looping| {
            let embedded = looping.serving()?;
            prepared
                .and_then(|prepared| embedded.apply(prepared))
                .map_err(|error| fail(&mut looping.words, &error))?;
            looping.embedded.take_listeners_changed();
            loops::set_urls(shell, looping.embedded.reactor().listeners());
            Ok(BROKER_OK)
        }))
    })
}

/// The text of this loop's last failure; "" before the first. Valid until the next call with it. NULL for an invalid
/// handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_error(r#loop: *const broker_loop_t) -> *const c_char {
    enter(r#loop, |looping| Ok(looping.words.as_ptr()))
}

/// Copies the URL of listener `i`, with the port the system chose, into `buf` like snprintf(); returns its full
/// length. broker_client_new() accepts this URL.
///
/// BROKER_EINVAL for NULL or beyond the last listener; BROKER_ESTATE, BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_endpoint(
    r#loop: *const broker_loop_t,
    i: usize,
    buf: *mut c_char,
    len: usize,
) -> c_int {
    enter(r#loop, |looping| {
        let urls = looping.embedded.reactor().listeners();
        Ok(copy_out(urls.get(i).ok_or(BROKER_EINVAL)?, buf, len))
    })
}

/// Makes a connected stream socket a child: one end of a socketpair(), or a socket that the program accepted itself.
/// With the other end as "fd://N", a forked worker needs no path on disk. On success the loop owns `fd` and closes
/// it; on failure the caller still owns it.
///
/// BROKER_EINVAL if it is not a connected stream socket, or the loop already has it; BROKER_ELIMIT above
/// "children_max"; BROKER_ESYS; BROKER_ESTATE when closed or draining; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_adopt(r#loop: *mut broker_loop_t, fd: c_int) -> c_int {
    enter(r#loop, |looping| {
        let embedded = looping.serving()?;
        match embedded.adopt(own_fd(fd).ok_or(BROKER_EINVAL)?) {
            Ok(()) => {
                loops::set_adopted(Shell::of(r#loop)?);
                Ok(BROKER_OK)
            }
            Err((socket, error)) => {
                // Returned to the caller without closing it.
                let _ = socket.into_raw_fd();
                let code = fail(&mut looping.words, &error);
                Err(if code == BROKER_ECONFIG { BROKER_EINVAL } else { code })
            }
        }
    })
}

/// While `on` is not 0, a fork() in the thread that uses the loop moves it to the child process, with its descriptors,
/// its children and its clients; in the parent it then returns BROKER_EFORKED. For daemon() and double forks: turn it on,
/// fork, turn it off. A fork() while another thread uses the loop does not move it.
///
/// BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_follow_fork(r#loop: *mut broker_loop_t, on: c_int) -> c_int {
    gate(|| Shell::of(r#loop)?.follow_fork(on != 0))
}

/// Creates a client of the loop, for the program's own requests. It needs no socket; broker_loop_run() drives it and runs
/// its callbacks. It supports everything a client does (transactions, sessions, blocking commands, subscriptions) except
/// the functions that drive one: broker_client_fd(), _timeout() and _process() return BROKER_EUNSUPPORTED, and
/// broker_client_call() runs the loop while it waits. Free it with broker_client_free(), before or after the loop; once
/// the loop is freed, its functions return BROKER_ESTATE. On failure *out is NULL.
///
/// BROKER_EINVAL for NULL; BROKER_ESTATE when closed or draining; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_client(out: *mut *mut broker_client_t, r#loop: *mut broker_loop_t) -> c_int {
    gate(|| {
        give_none(out)?;
        let home = Shell::of(r#loop)?;
        Ok(enter(r#loop, |looping| {
            let key = looping.serving()?.open_client();
            let made = Keeper::Loop(HandleRef::new(home), key).create();
            made.belongs_to(home);
            looping.own.push((key, Calls::new(made)));
            give(out, made.pointer());
            Ok(BROKER_OK)
        }))
    })
}

/// Stores a pointer for the program with the loop; initially NULL. [any thread]
///
/// BROKER_EINVAL for a NULL loop; BROKER_ESTATE when closed; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_set_data(r#loop: *mut broker_loop_t, data: *mut c_void) -> c_int {
    code(Shell::of(r#loop).and_then(|shell| shell.set_data(data)))
}

/// The pointer stored by broker_loop_set_data(); NULL for an invalid handle. [any thread, in callbacks, after a fork]
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_data(r#loop: *const broker_loop_t) -> *mut c_void {
    Shell::of(r#loop).map_or(ptr::null_mut(), Shell::data)
}

/// Reads one statistic of the loop by name: see docs/c-api.md, or broker_loop_stat_name().
///
/// BROKER_EINVAL for NULL or an unknown name; BROKER_ESTATE, BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_stat(
    r#loop: *const broker_loop_t,
    name: *const c_char,
    value: *mut u64,
) -> c_int {
    enter(r#loop, |looping| {
        let number = looping.embedded.reactor().stat(required_str(name)?);
        give(value, number.filter(|_| !value.is_null()).ok_or(BROKER_EINVAL)?);
        Ok(BROKER_OK)
    })
}

/// The name of statistic `i`, from 0; NULL beyond the last. Static. [any thread, in callbacks, after a fork]
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_stat_name(i: usize) -> *const c_char {
    gate(|| {
        static NAMES: OnceLock<Vec<CString>> = OnceLock::new();
        let text = |name: &&str| CString::new(*name).unwrap_or_default();
        let names = NAMES.get_or_init(|| Loop::stat_names().iter().map(text).collect());
        Ok(names.get(i).map_or(ptr::null(), |name| name.as_ptr()))
    })
}
