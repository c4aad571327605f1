//! The log sink, the one thing that is process-wide: hands the library's log lines to a function of C's, no more
//! than `base::log_limit` lets through. Owns the present sink; writes nowhere itself.

use super::border::shield;
use super::codes::{BROKER_EINVAL, BROKER_ESTATE, BROKER_OK};
use super::fork;
use crate::base::clock::Clock;
use crate::base::log_limit::{Line, LogLimit};
use log::{LevelFilter, Log, Metadata, Record};
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError, RwLock};

/// Nothing.
pub const BROKER_LOG_OFF: c_int = 0;
/// What needs somebody's attention.
pub const BROKER_LOG_ERROR: c_int = 1;
/// What is not as it should be, and is dealt with.
pub const BROKER_LOG_WARN: c_int = 2;
/// What an operator wants to read afterwards.
pub const BROKER_LOG_INFO: c_int = 3;
/// What a developer wants to read.
pub const BROKER_LOG_DEBUG: c_int = 4;
/// Everything.
pub const BROKER_LOG_TRACE: c_int = 5;

/// Gets a log line: `msg` has `len` bytes, no line end, and a NUL behind it; it ends with the call. Runs in
/// whatever thread is inside the library, while a handle is at work: calls on that handle return
/// BROKER_EREENTRANT. Must not fork, throw or longjmp.
#[allow(non_camel_case_types)]
pub type broker_log_cb =
    Option<unsafe extern "C" fn(level: c_int, msg: *const c_char, len: usize, data: *mut c_void)>;

#[derive(Clone, Copy)]
struct Sink {
    level: c_int,
    callback: unsafe extern "C" fn(c_int, *const c_char, usize, *mut c_void),
    data: *mut c_void,
}

// SAFETY: the header says that the function is called from any thread, with this pointer; nothing here follows
// it.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

static SINK: RwLock<Option<Sink>> = RwLock::new(None);
/// What may be written; never locked while the function runs, which may cause lines of its own.
static LIMIT: LazyLock<(Clock, Mutex<LogLimit>)> = LazyLock::new(Default::default);
/// There may be lines left out to be summed up.
static LEFT_OUT: AtomicBool = AtomicBool::new(false);
/// The logger of the `log` crate is ours.
static OURS: AtomicBool = AtomicBool::new(false);

struct Forward;

impl Log for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let Some(sink) = present().filter(|sink| record.level() as c_int <= sink.level) else { return };
        tell_left_out();
        // A fork waits: the copy would find the lock held for good.
        let inside = fork::enter();
        let (clock, limit) = &*LIMIT;
        let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
        let line = limit.admit(record, clock.now());
        LEFT_OUT.store(limit.due().is_some(), Ordering::Relaxed);
        drop(limit);
        drop(inside);
        if let Some(line) = line {
            sink.hand(&line);
        }
    }

    fn flush(&self) {}
}

/// Copied, so that the function may set another sink.
fn present() -> Option<Sink> {
    *SINK.read().unwrap_or_else(PoisonError::into_inner)
}

/// Sums up what was left out, where it is due. Called with every line, and where a handle is at work anyway.
pub(super) fn tell_left_out() {
    if !LEFT_OUT.load(Ordering::Relaxed) {
        return;
    }
    let inside = fork::enter();
    let (clock, limit) = &*LIMIT;
    let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = limit.summaries(clock.now());
    LEFT_OUT.store(limit.due().is_some(), Ordering::Relaxed);
    drop(limit);
    drop(inside);
    for line in lines {
        if let Some(sink) = present().filter(|sink| line.level as c_int <= sink.level) {
            sink.hand(&line);
        }
    }
}

impl Sink {
    fn hand(&self, line: &Line) {
        let mut text = line.text.replace(['\n', '\r', '\0'], " ");
        let len = text.len();
        text.push('\0');
        // SAFETY: the function was given to be called so; `text` lives through the call and ends with a NUL.
        unsafe { (self.callback)(line.level as c_int, text.as_ptr().cast(), len, self.data) };
    }
}

/// Sets where the library's log goes, for the whole process; without it, and with a NULL `cb`, nowhere. Lines less
/// important than `level` (BROKER_LOG_*) are left out. Of each kind of line ten come in ten seconds; how many more
/// there were is one line after them, with the next line or call. Best called before there are threads and handles; a line under way in another
/// thread may still reach the old function.
///
/// BROKER_EINVAL for an unknown level; BROKER_ESTATE if the program has a logger of Rust's `log` crate already.
#[unsafe(no_mangle)]
pub extern "C" fn broker_log_set(level: c_int, cb: broker_log_cb, data: *mut c_void) -> c_int {
    static FORWARD: Forward = Forward;
    shield(BROKER_ESTATE, || {
        let filter = match level {
            BROKER_LOG_OFF => LevelFilter::Off,
            BROKER_LOG_ERROR => LevelFilter::Error,
            BROKER_LOG_WARN => LevelFilter::Warn,
            BROKER_LOG_INFO => LevelFilter::Info,
            BROKER_LOG_DEBUG => LevelFilter::Debug,
            BROKER_LOG_TRACE => LevelFilter::Trace,
            _ => return BROKER_EINVAL,
        };
        // The lock must not be copied by a fork while it is held.
        fork::install();
        let _inside = fork::enter();
        let mut sink = SINK.write().unwrap_or_else(PoisonError::into_inner);
        if log::set_logger(&FORWARD).is_ok() {
            OURS.store(true, Ordering::Relaxed);
        } else if !OURS.load(Ordering::Relaxed) {
            return BROKER_ESTATE;
        }
        *sink = cb.map(|callback| Sink { level, callback, data });
        log::set_max_level(if cb.is_some() { filter } else { LevelFilter::Off });
        BROKER_OK
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::LOG_LINES;
    use std::ffi::CStr;
    use std::sync::atomic::AtomicUsize;

    static LINES: AtomicUsize = AtomicUsize::new(0);

    unsafe extern "C" fn count(_: c_int, msg: *const c_char, _: usize, _: *mut c_void) {
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
