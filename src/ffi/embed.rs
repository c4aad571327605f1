//! `broker_loop_t`: the broker inside another program. Converts and delegates to `crate::client::Embedded`; owns
//! the callbacks of the program's own requests until they are called.

use super::bell::ring;
use super::border::{Ended, Handle, Rule, Shell, enter, enter_dispatching, shield};
use super::calls::{Calls, Delivery, code_of_refusal};
use super::codes::*;
use super::config::{self, broker_config_t, code_of};
use super::log;
use super::reply::broker_reply_t;
use super::text::{copy_out, own_words, required_str, words};
use super::transaction::{self, broker_transaction_t};
use crate::client::{Embedded, Request};
use crate::reactor::Loop;
use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

/// Until broker_stop(), or until nothing is left to do.
pub const BROKER_RUN_DEFAULT: c_int = 0;
/// One turn; waits for an event.
pub const BROKER_RUN_ONCE: c_int = 1;
/// One turn; never waits.
pub const BROKER_RUN_NOWAIT: c_int = 2;

/// The broker itself, embedded: it owns the connections to Redis and serves the processes that connect. One
/// thread at a time; broker_stop() alone may be called from any. It starts no thread, installs no signal handler,
/// touches no resource limit and never raises SIGPIPE; the descriptors it opens are close-on-exec.
///
/// A forked process must not use an inherited loop: every function returns BROKER_EFORKED there without touching
/// a descriptor, until broker_loop_after_fork().
///
/// Methods: broker_loop_new, _close, _drain, _reload, _error, _endpoint, _adopt_fd, _after_fork, _stat,
/// _stat_name; broker_run, broker_stop, broker_backend_fd, broker_backend_timeout; broker_submit,
/// broker_submit_transaction, broker_cancel.
#[allow(non_camel_case_types)]
#[derive(Debug)]
pub struct broker_loop_t(#[expect(dead_code, reason = "reached through a cast pointer")] Shell<Looping>);

/// Names a request while it is under way; 0 names none. Never used again, so one that is over is harmless.
#[allow(non_camel_case_types)]
pub type broker_req_t = u64;

/// Gets the outcome of one of the loop's own requests, exactly once, from inside broker_run() or
/// broker_loop_close(). `status` 0: `reply` is the reply, borrowed until the callback returns (an error of Redis'
/// is a reply of type ERROR). Below 0: a code, and `reply` is NULL. May submit, cancel and drain; broker_run()
/// returns BROKER_EREENTRANT in it and broker_loop_close() BROKER_EBUSY. Must not throw or longjmp.
#[allow(non_camel_case_types)]
pub type broker_loop_reply_cb = Option<
    unsafe extern "C" fn(
        r#loop: *mut broker_loop_t,
        status: c_int,
        reply: *const broker_reply_t,
        data: *mut c_void,
    ),
>;

type Callback = unsafe extern "C" fn(*mut broker_loop_t, c_int, *const broker_reply_t, *mut c_void);

#[derive(Debug)]
pub(super) struct Looping {
    /// `None` after broker_loop_after_fork().
    pub(super) embedded: Option<Embedded>,
    calls: Calls<Callback>,
    /// What broker_stop() writes to; closed with the handle.
    _bell: Option<UnixStream>,
    words: CString,
}

impl Handle for Looping {
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

    fn next_delivery(&mut self) -> Option<Delivery<Callback>> {
        while let Some(event) = self.embedded.as_mut()?.next_event() {
            if let Some(delivery) = self.calls.complete(event) {
                return Some(delivery);
            }
        }
        None
    }
}

fn shell(pointer: *const broker_loop_t) -> *const Shell<Looping> {
    pointer.cast()
}

/// Makes a broker and binds its listeners; Redis is not dialled before the first broker_run(). With a NULL
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
    shield(BROKER_EPANIC, || {
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
        let made = Loop::embedded(settings).and_then(|lp| {
            let bell = lp.wake_pipe()?;
            Ok((Embedded::new(lp, queue_timeout), bell))
        });
        let (pointer, code) = match made {
            Ok((embedded, bell)) => {
                let raw = bell.as_raw_fd();
                let looping = Looping {
                    embedded: Some(embedded),
                    calls: Calls::default(),
                    _bell: Some(bell),
                    words: CString::default(),
                };
                (Shell::create(looping, raw).cast(), BROKER_OK)
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

/// Runs the loop: BROKER_RUN_DEFAULT until broker_stop() or until nothing is left to do, BROKER_RUN_ONCE for one
/// turn that waits for an event, BROKER_RUN_NOWAIT for one that does not. Callbacks run in here.
///
/// Returns 1 while there is work to come, 0 when there will be none (drained). BROKER_EINVAL for NULL or an
/// unknown mode; BROKER_EREENTRANT from a callback; BROKER_ESTATE when closed; BROKER_EFORKED; BROKER_ESYS if the
/// poll itself fails (no failing connection causes that).
#[unsafe(no_mangle)]
pub extern "C" fn broker_run(r#loop: *mut broker_loop_t, mode: c_int) -> c_int {
    if !matches!(mode, BROKER_RUN_DEFAULT | BROKER_RUN_ONCE | BROKER_RUN_NOWAIT) {
        return BROKER_EINVAL;
    }
    enter_dispatching(shell(r#loop), |shell| {
        loop {
            let stopped = shell.stopped.swap(false, Ordering::Relaxed) && mode == BROKER_RUN_DEFAULT;
            let may_wait = mode != BROKER_RUN_NOWAIT && !stopped;
            let goes_on = turn(shell, r#loop, may_wait)?;
            if !goes_on {
                return Ok(0);
            }
            if stopped || mode != BROKER_RUN_DEFAULT {
                return Ok(1);
            }
        }
    })
}

/// One turn with its callbacks; whether there will be another.
fn turn(shell: &Shell<Looping>, pointer: *mut broker_loop_t, may_wait: bool) -> Result<bool, c_int> {
    let waited = shell.borrow_waiting(|looping| {
        looping.embedded().map(|embedded| embedded.wait(if may_wait { None } else { Some(0) }))
    })??;
    shell.check()?;
    if let Err(error) = waited {
        return Err(shell.borrow(|looping| looping.fail(&error))?);
    }
    let goes_on = shell.borrow(|looping| {
        log::tell_left_out();
        let worked = looping.embedded()?.work();
        worked.map_err(|error| looping.fail(&error))
    })??;
    deliver(shell, pointer)?;
    // What callbacks have submitted goes out now, not after the next event.
    shell.borrow(|looping| looping.embedded().map(Embedded::settle))??;
    Ok(goes_on)
}

fn deliver(shell: &Shell<Looping>, pointer: *mut broker_loop_t) -> Result<(), c_int> {
    while let Some(delivery) = shell.borrow(Looping::next_delivery)? {
        // SAFETY: the callback was given to be called so, in the thread that runs the loop.
        if !shell
            .call_out(|| delivery.call(|cb, code, reply, data| unsafe { cb(pointer, code, reply, data) }))
        {
            return shell.check();
        }
    }
    Ok(())
}

/// Makes broker_run() return soon: the present call with BROKER_RUN_DEFAULT, or the next one after a turn.
/// [any thread; async-signal-safe, one send(2)]
///
/// BROKER_EINVAL for NULL; BROKER_ESTATE when closed; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_stop(r#loop: *mut broker_loop_t) -> c_int {
    let shell = match Shell::of(shell(r#loop)) {
        Ok(shell) => shell,
        Err(code) => return code,
    };
    if let Err(code) = shell.check() {
        return code;
    }
    let bell = shell.bell.load(Ordering::Acquire);
    if bell < 0 {
        return BROKER_ESTATE;
    }
    shell.stopped.store(true, Ordering::Release);
    ring(bell);
    BROKER_OK
}

/// The descriptor to watch for readable in another loop (epoll, poll, libuv): the same for the life of the loop.
/// When it is readable, or broker_backend_timeout() has passed, call broker_run(loop, BROKER_RUN_NOWAIT). Watch it
/// level-triggered; never read or close it.
///
/// A negative code for a bad handle.
#[unsafe(no_mangle)]
pub extern "C" fn broker_backend_fd(r#loop: *const broker_loop_t) -> c_int {
    enter(shell(r#loop), Rule::Anywhere, |looping| match looping.embedded() {
        Ok(embedded) => embedded.as_raw_fd(),
        Err(code) => code,
    })
}

/// How long another loop may sleep before the next broker_run(), in milliseconds: 0 while work is deferred,
/// whatever the descriptor says; -1 until the descriptor is readable. Ask after each broker_run(); what is submitted or
/// changed outside of it makes the descriptor readable.
///
/// A code below -1 for a bad handle; BROKER_EINVAL, which is -1, for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_backend_timeout(r#loop: *const broker_loop_t) -> c_int {
    enter(shell(r#loop), Rule::Anywhere, |looping| match looping.embedded() {
        Ok(embedded) => millis(embedded.timeout()),
        Err(code) => code,
    })
}

/// Milliseconds for C; -1 for ever.
pub(super) fn millis(timeout: Option<u64>) -> c_int {
    timeout.map_or(-1, |timeout| c_int::try_from(timeout).unwrap_or(c_int::MAX))
}

/// Ends the service in good order: closes the listeners, answers what has been received complete, then closes each
/// child. Blocked commands and transactions that watch keys have `timeout_ms` (-1: the key "drain_timeout").
/// broker_run() returns 0 when all have gone.
///
/// BROKER_ESTATE when closed; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_drain(r#loop: *mut broker_loop_t, timeout_ms: c_int) -> c_int {
    enter(shell(r#loop), Rule::Anywhere, |looping| match looping.embedded() {
        Ok(embedded) => {
            embedded.drain(u64::try_from(timeout_ms).ok());
            BROKER_OK
        }
        Err(code) => code,
    })
}

/// Closes every connection and listener at once and frees the handle. Requests of its own that are pending get
/// BROKER_ECANCELED first, before it returns. In a forked process it only frees.
///
/// NULL is BROKER_OK; BROKER_EBUSY from a callback, and nothing is closed; BROKER_ESTATE a second time.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_close(r#loop: *mut broker_loop_t) -> c_int {
    if r#loop.is_null() {
        return BROKER_OK;
    }
    shield(BROKER_EPANIC, || {
        let closed = Shell::of(shell(r#loop)).and_then(|shell| {
            let forked = shell.check() == Err(BROKER_EFORKED);
            if shell.in_callback() {
                return Err(BROKER_EBUSY);
            }
            let poisoned = shell.is_poisoned();
            let Some(mut looping) = shell.end()? else { return Err(BROKER_EBUSY) };
            if forked || poisoned {
                // Inherited descriptors are closed by their owners; a broken handle's state is not trusted.
                if let Some(embedded) = looping.embedded.take() {
                    embedded.into_loop().after_fork();
                }
                return Ok(BROKER_OK);
            }
            if let Some(embedded) = &mut looping.embedded {
                embedded.close();
            }
            while let Some(delivery) = looping.next_delivery() {
                // SAFETY: as in `deliver`; the handle answers BROKER_ESTATE now, but its memory is there.
                delivery.call(|cb, code, reply, data| unsafe { cb(r#loop, code, reply, data) });
            }
            Ok(BROKER_OK)
        });
        closed.unwrap_or_else(|code| code)
    })
}

/// Takes new settings while it runs, every key of docs/config.md; on any failure nothing has changed. Blocks while
/// names are resolved and files read.
///
/// BROKER_ECONFIG, BROKER_ESYS with the words in broker_loop_error(); BROKER_EINVAL for NULL; BROKER_ESTATE when
/// closed or draining; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_reload(r#loop: *mut broker_loop_t, config: *const broker_config_t) -> c_int {
    if config.is_null() {
        return BROKER_EINVAL;
    }
    let settings = config::read(config, |config| config.broker.clone());
    enter(shell(r#loop), Rule::Anywhere, |looping| {
        let settings = match settings {
            Ok(settings) => settings,
            Err(code) => return code,
        };
        match looping.serving().map(|embedded| embedded.reload(settings)) {
            Ok(Ok(())) => BROKER_OK,
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
/// BROKER_EINVAL if it is no connected stream socket; BROKER_ELIMIT above "children_max"; BROKER_ESTATE when closed
/// or draining; BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_adopt_fd(r#loop: *mut broker_loop_t, fd: c_int) -> c_int {
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
            Ok(()) => BROKER_OK,
            Err((socket, error)) => {
                // Given back unclosed.
                let _ = socket.into_raw_fd();
                looping.words = own_words(&error.to_string());
                match error.kind() {
                    crate::base::error::ErrorKind::Config => BROKER_EINVAL,
                    crate::base::error::ErrorKind::System => BROKER_ELIMIT,
                }
            }
        }
    })
}

/// In a forked process: closes every inherited descriptor of the loop, without a word to the parent's connections.
/// The handle is then only good for broker_loop_close(); all else returns BROKER_ESTATE. Call it first thing after
/// fork(), or the parent's connections outlive the parent.
///
/// BROKER_ESTATE in the process that made the loop, and when closed; BROKER_EINVAL for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn broker_loop_after_fork(r#loop: *mut broker_loop_t) -> c_int {
    shield(BROKER_EPANIC, || {
        let renewed = Shell::of(shell(r#loop)).and_then(|shell| {
            let code = shell.adopt_after_fork(|looping| {
                if let Some(embedded) = looping.embedded.take() {
                    embedded.into_loop().after_fork();
                }
                looping._bell = None;
                looping.calls = Calls::default();
                BROKER_OK
            })?;
            shell.bell.store(-1, Ordering::Relaxed);
            Ok(code)
        });
        renewed.unwrap_or_else(|code| code)
    })
}

/// Sends a request of the program's own; its outcome comes to `cb` from inside broker_run(), never from in here.
/// `argv` has `argc` words, copied, the command's name first; with a NULL `argvlen` each ends at its NUL.
/// `timeout_ms` 0: it waits for as long as it takes. `req` may be NULL, and else gets the name of the request.
/// Blocking commands run beside the others. When it returns an error, `cb` is never called.
///
/// BROKER_EINVAL for NULL; BROKER_EUNSUPPORTED for commands that would change the connection (see
/// broker_client_submit()); BROKER_EAGAIN when too much is queued; BROKER_ESTATE when closed or draining;
/// BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_submit(
    r#loop: *mut broker_loop_t,
    argc: usize,
    argv: *const *const c_char,
    argvlen: *const usize,
    timeout_ms: u32,
    req: *mut broker_req_t,
    cb: broker_loop_reply_cb,
    data: *mut c_void,
) -> c_int {
    enter(shell(r#loop), Rule::Anywhere, |looping| {
        let Some(cb) = cb else { return BROKER_EINVAL };
        match words(argc, argv, argvlen) {
            Ok(words) => submit(looping, req, cb, data, timeout_ms, &Request::Command(&words)),
            Err(code) => code,
        }
    })
}

/// Sends a transaction of the program's own: all its commands are executed, one behind the other with nothing
/// between, or none is. The reply is that of EXEC, as in broker_client_transaction(), and everything else as in
/// broker_submit().
#[unsafe(no_mangle)]
pub extern "C" fn broker_submit_transaction(
    r#loop: *mut broker_loop_t,
    transaction: *const broker_transaction_t,
    timeout_ms: u32,
    req: *mut broker_req_t,
    cb: broker_loop_reply_cb,
    data: *mut c_void,
) -> c_int {
    enter(shell(r#loop), Rule::Anywhere, |looping| {
        let Some(cb) = cb else { return BROKER_EINVAL };
        let submitted = transaction::read(transaction, |block| {
            submit(looping, req, cb, data, timeout_ms, &Request::Transaction(block))
        });
        submitted.unwrap_or_else(|code| code)
    })
}

fn submit(
    looping: &mut Looping,
    req: *mut broker_req_t,
    cb: Callback,
    data: *mut c_void,
    timeout_ms: u32,
    request: &Request<'_>,
) -> c_int {
    let Looping { embedded: Some(embedded), calls, .. } = looping else { return BROKER_ESTATE };
    let tag = calls.reserve(cb, data);
    match embedded.submit(request, u64::from(timeout_ms), tag) {
        Ok(id) => {
            give_req(req, id);
            BROKER_OK
        }
        Err(refusal) => {
            calls.forget(tag);
            looping.words = own_words(refusal.words());
            code_of_refusal(&refusal)
        }
    }
}

pub(super) fn give_req(to: *mut broker_req_t, id: u64) {
    if !to.is_null() {
        // SAFETY: the header asks for NULL or a place for a broker_req_t.
        unsafe { to.write(id) };
    }
}

/// Gives a request up: its callback gets BROKER_ECANCELED from the next broker_run(). What was sent may be executed
/// all the same; what was not is not.
///
/// BROKER_ESTATE if its outcome is known already (the callback has run or is about to); BROKER_EFORKED.
#[unsafe(no_mangle)]
pub extern "C" fn broker_cancel(r#loop: *mut broker_loop_t, req: broker_req_t) -> c_int {
    enter(shell(r#loop), Rule::Anywhere, |looping| match looping.embedded().map(|lp| lp.cancel(req)) {
        Ok(true) => BROKER_OK,
        Ok(false) => BROKER_ESTATE,
        Err(code) => code,
    })
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
