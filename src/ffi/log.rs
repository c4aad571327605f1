//! The log sink, the one thing that is process-wide: hands the library's log lines to a function of C's. Owns
//! the present sink; writes nowhere itself.

use super::border::shield;
use super::codes::{BROKER_EINVAL, BROKER_ESTATE, BROKER_OK};
use super::fork;
use log::{LevelFilter, Log, Metadata, Record};
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

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
/// The logger of the `log` crate is ours.
static OURS: AtomicBool = AtomicBool::new(false);

struct Forward;

impl Log for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        // Copied, so that the function may set another sink.
        let sink = *SINK.read().unwrap_or_else(PoisonError::into_inner);
        let Some(sink) = sink else { return };
        let level = record.level() as c_int;
        if level > sink.level {
            return;
        }
        let mut line = record.args().to_string().replace(['\n', '\r', '\0'], " ");
        let len = line.len();
        line.push('\0');
        // SAFETY: the function was given to be called so; `line` lives through the call and ends with a NUL.
        unsafe { (sink.callback)(level, line.as_ptr().cast(), len, sink.data) };
    }

    fn flush(&self) {}
}

/// Sets where the library's log goes, for the whole process; without it, and with a NULL `cb`, nowhere. Lines less
/// important than `level` (BROKER_LOG_*) are left out. Best called before there are threads and handles; a line
/// under way in another thread may still reach the old function.
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
