//! The log callback, the only process-wide state of the library: passes log lines to a C function, no more of them than
//! `base::log_limit` admits. Owns the current callback; writes nowhere itself.

use super::border::{gate, is_inside};
use super::codes::{BROKER_EINVAL, BROKER_ESTATE, BROKER_OK};
use super::errno;
use super::fork::{self, EachProcess};
use crate::base::clock::{Clock, Millis};
use crate::base::limits::LOG_QUEUE;
use crate::base::log_limit::{LogLimit, LogLine, count_dropped};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

/// No lines.
pub const BROKER_LOG_OFF: c_int = 0;
/// Failures that need attention.
pub const BROKER_LOG_ERROR: c_int = 1;
/// Problems the library has handled.
pub const BROKER_LOG_WARN: c_int = 2;
/// Events of interest to an operator.
pub const BROKER_LOG_INFO: c_int = 3;
/// Details of interest to a developer.
pub const BROKER_LOG_DEBUG: c_int = 4;
/// All lines.
pub const BROKER_LOG_TRACE: c_int = 5;

/// Receives one log line. `msg` has `len` bytes and no line end, is followed by a NUL, and is valid until the callback
/// returns. `handle` is the broker_loop_t or broker_client_t in use, or NULL; use it only for comparison. The callback
/// runs in the thread that caused the line, at the end of its step. No lock is held then that a fork() would wait for, but
/// calls on that handle return BROKER_EREENTRANT. It must not fork, throw, longjmp or end the thread.
#[allow(non_camel_case_types)]
pub type broker_log_cb = Option<
    unsafe extern "C" fn(
        level: c_int,
        msg: *const c_char,
        len: usize,
        handle: *const c_void,
        data: *mut c_void,
    ),
>;

type LogCallback = unsafe extern "C" fn(c_int, *const c_char, usize, *const c_void, *mut c_void);

#[derive(Clone, Copy)]
struct Sink {
    level: c_int,
    callback: LogCallback,
    data: *mut c_void,
}

/// The current one; null for none. Never freed.
static SINK: AtomicPtr<Sink> = AtomicPtr::new(std::ptr::null_mut());
/// How many lines may still be written. Not locked while the callback runs, since it may itself cause lines.
static LIMIT: EachProcess<(Clock, Mutex<LogLimit>)> = EachProcess::new();
/// Suppressed lines may be waiting for their summary.
static LEFT_OUT: AtomicBool = AtomicBool::new(false);
static OURS: AtomicBool = AtomicBool::new(false);

/// Lines of a thread that is inside a handle, kept until it has left.
#[derive(Default)]
struct Queue {
    lines: Vec<LogLine>,
    /// How many lines did not fit, and the level of the first of them.
    left_out: Option<(usize, Level)>,
}

thread_local! {
    /// Whether `QUEUE` has lines: most threads never need it.
    static QUEUED: Cell<bool> = const { Cell::new(false) };
    static QUEUE: RefCell<Queue> = const { RefCell::new(Queue { lines: Vec::new(), left_out: None }) };
}

struct Forward;

impl Log for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if present(record.level()).is_none() {
            return;
        }
        tell_left_out();
        say_all(|limit, now| limit.admit(record, now));
    }

    fn flush(&self) {}
}

/// A copy, so that the function may set another callback. `None` if it does not want lines of this level.
fn present(level: Level) -> Option<Sink> {
    // SAFETY: null, or one leaked by `broker_log_set`.
    let sink = unsafe { SINK.load(Ordering::Acquire).as_ref() }.copied();
    sink.filter(|sink| level as c_int <= sink.level)
}

/// Writes the summaries that are due. Called with every line, and when a thread leaves a handle.
pub(super) fn tell_left_out() {
    if !LEFT_OUT.load(Ordering::Relaxed) {
        return;
    }
    say_all(LogLimit::summaries);
}

fn say_all<L: IntoIterator<Item = LogLine>>(lines: impl FnOnce(&mut LogLimit, Millis) -> L) {
    let (clock, limit) = LIMIT.get();
    let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = lines(&mut limit, clock.now());
    LEFT_OUT.store(limit.due().is_some(), Ordering::Relaxed);
    drop(limit);
    lines.into_iter().for_each(say);
}

/// Passes a line to the callback, or keeps it until this thread has left the handle it is inside of.
fn say(line: LogLine) {
    if !is_inside() {
        return hand(&line, std::ptr::null());
    }
    QUEUED.set(true);
    // Refused in a thread that is ending.
    let _ = QUEUE.try_with(|queue| {
        let mut queue = queue.borrow_mut();
        if queue.lines.len() < LOG_QUEUE {
            queue.lines.push(line);
        } else {
            queue.left_out.get_or_insert((0, line.level)).0 += 1;
            count_dropped(1);
        }
    });
}

/// Passes on the lines of this thread, which has left the handle but still keeps other threads out of it.
pub(super) fn hand_over(handle: *const c_void) {
    if !QUEUED.replace(false) {
        return;
    }
    let Ok(Queue { mut lines, left_out }) = QUEUE.try_with(RefCell::take) else { return };
    if let Some((count, level)) = left_out {
        lines.push(LogLine::plain(level, module_path!(), format!("and {count} more lines in one step")));
    }
    for line in &lines {
        hand(line, handle);
    }
}

fn hand(line: &LogLine, handle: *const c_void) {
    let Some(sink) = present(line.level) else { return };
    let mut text = line.text.replace(['\n', '\r', '\0'], " ");
    let len = text.len();
    text.push('\0');
    // Behind BROKER_ESYS errno has the reason.
    errno::keep(|| {
        // SAFETY: this is how the program allowed the function to be called; `text` outlives the call and ends with a NUL.
        unsafe { (sink.callback)(line.level as c_int, text.as_ptr().cast(), len, handle, sink.data) }
    });
}

/// Sets the log callback of the whole process. Without one, and with a NULL `cb`, nothing is logged. Lines less
/// important than `level` (BROKER_LOG_*) are dropped. Each kind of line is logged at most ten times in ten seconds about
/// one child, and at most 30 times about all children of one process or address; one line with the number of suppressed
/// ones follows, with the next line or call. Set it before the program has threads and handles: another thread may still
/// be passing a line to the previous callback.
///
/// BROKER_EINVAL for an unknown level; BROKER_ESTATE if the program already has a logger of Rust's `log` crate.
#[unsafe(no_mangle)]
pub extern "C" fn broker_log_set(level: c_int, cb: broker_log_cb, data: *mut c_void) -> c_int {
    static FORWARD: Forward = Forward;
    gate(|| {
        let filter = match level {
            BROKER_LOG_OFF => LevelFilter::Off,
            BROKER_LOG_ERROR => LevelFilter::Error,
            BROKER_LOG_WARN => LevelFilter::Warn,
            BROKER_LOG_INFO => LevelFilter::Info,
            BROKER_LOG_DEBUG => LevelFilter::Debug,
            BROKER_LOG_TRACE => LevelFilter::Trace,
            _ => return Err(BROKER_EINVAL),
        };
        fork::install();
        if log::set_logger(&FORWARD).is_ok() {
            OURS.store(true, Ordering::Relaxed);
        } else if !OURS.load(Ordering::Relaxed) {
            return Err(BROKER_ESTATE);
        }
        let sink = cb.map(|callback| Box::into_raw(Box::new(Sink { level, callback, data })));
        // A thread may still be reading the previous one.
        fork::keep(SINK.swap(sink.unwrap_or(std::ptr::null_mut()), Ordering::AcqRel).cast());
        log::set_max_level(if cb.is_some() { filter } else { LevelFilter::Off });
        Ok(BROKER_OK)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::LOG_LINES;
    use std::ffi::CStr;
    use std::sync::atomic::AtomicUsize;

    static LINES: AtomicUsize = AtomicUsize::new(0);

    unsafe extern "C" fn count(_: c_int, msg: *const c_char, _: usize, _: *const c_void, _: *mut c_void) {
        // SAFETY: the line ends with a NUL.
        let line = unsafe { CStr::from_ptr(msg) };
        LINES.fetch_add(usize::from(line.to_bytes().ends_with(b"over and over")), Ordering::Relaxed);
    }

    #[test]
    fn a_line_over_and_over_reaches_the_function_a_few_times() {
        assert_eq!(broker_log_set(BROKER_LOG_INFO, Some(count), std::ptr::null_mut()), BROKER_OK);
        for _ in 0..1000 {
            ::log::info!("over and over");
        }
        assert_eq!(LINES.load(Ordering::Relaxed), LOG_LINES as usize);
        assert!(LEFT_OUT.load(Ordering::Relaxed));
        assert_eq!(broker_log_set(BROKER_LOG_OFF, None, std::ptr::null_mut()), BROKER_OK);
    }
}
