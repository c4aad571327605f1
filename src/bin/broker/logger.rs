//! The log on standard error: one line per record, as text, JSON or for the journal. Writes no more lines than
//! `log_limit` admits, and never blocks on its reader.

use crate::stderr::Stderr;
use broker::base::clock::{Clock, Millis};
use broker::base::log_limit::{LogLimit, LogLine};
use broker::config::value::LogFormat;
use humantime::format_rfc3339_millis;
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// While lines are queued, they are retried after this many milliseconds.
const RETRY: Millis = 100;

struct Logger {
    format: LogFormat,
    clock: Clock,
    /// No lines are queued in `state`: saves a lock in every turn.
    at_rest: AtomicBool,
    state: Mutex<LoggerState>,
}

struct LoggerState {
    limit: LogLimit,
    out: Stderr,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Makes this the process' logger. Later calls change nothing.
pub(crate) fn install(format: LogFormat, level: LevelFilter) {
    // Without a free descriptor for it the loop cannot start either.
    let Ok(fd) = std::io::stderr().as_fd().try_clone_to_owned() else { return };
    let about_lost = move |lost| {
        rendered(format, Level::Warn, &format!("{lost} lines lost: standard error accepted no more"))
    };
    let state = Mutex::new(LoggerState { limit: LogLimit::default(), out: Stderr::new(fd, about_lost) });
    let logger =
        LOGGER.get_or_init(|| Logger { format, clock: Clock::new(), at_rest: AtomicBool::new(true), state });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level);
    }
}

/// Writes what is due: queued lines, and summaries of suppressed ones. Returns when to call it again, in
/// milliseconds; `None` means not before a line is logged.
pub(crate) fn settle() -> Option<Millis> {
    let logger = LOGGER.get().filter(|logger| !logger.at_rest.load(Ordering::Relaxed))?;
    let mut state = logger.state();
    logger.tell_left_out(&mut state);
    state.out.settle();
    logger.note_rest(&state);
    let retry = state.out.is_behind().then_some(RETRY);
    let summary = state.limit.due().map(|due| due.saturating_sub(logger.clock.now()));
    [retry, summary].into_iter().flatten().min()
}

/// How long the end of the process waits for a slow reader of the log, milliseconds.
const LAST_WAIT: Millis = 1000;

/// The last lines: summaries of everything suppressed so far. Lines that find no room within a second are lost.
pub(crate) fn finish() {
    let Some(logger) = LOGGER.get() else { return };
    let mut state = logger.state();
    for line in state.limit.last_summaries(logger.clock.now()) {
        logger.write(&mut state.out, &line);
    }
    let due = logger.clock.now() + LAST_WAIT;
    state.out.settle();
    while state.out.is_behind() && logger.clock.now() < due {
        std::thread::sleep(Duration::from_millis(RETRY / 10));
        state.out.settle();
    }
}

impl Logger {
    fn state(&self) -> MutexGuard<'_, LoggerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, out: &mut Stderr, line: &LogLine) {
        out.put(rendered(self.format, line.level, &line.text));
    }

    fn tell_left_out(&self, state: &mut LoggerState) {
        for line in state.limit.summaries(self.clock.now()) {
            self.write(&mut state.out, &line);
        }
    }

    fn note_rest(&self, state: &LoggerState) {
        let at_rest = !state.out.is_behind() && state.limit.due().is_none();
        self.at_rest.store(at_rest, Ordering::Relaxed);
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut state = self.state();
        self.tell_left_out(&mut state);
        if let Some(line) = state.limit.admit(record, self.clock.now()) {
            self.write(&mut state.out, &line);
        }
        self.note_rest(&state);
    }

    fn flush(&self) {
        settle();
    }
}

fn rendered(format: LogFormat, level: Level, text: &str) -> String {
    // `humantime` refuses a time before 1970, which a clock that was never set can show.
    render(format, SystemTime::now().max(UNIX_EPOCH), level, text)
}

fn render(format: LogFormat, now: SystemTime, level: Level, message: &str) -> String {
    let name = level.as_str().to_ascii_lowercase();
    let time = format_rfc3339_millis(now);
    match format {
        LogFormat::Text => format!("{time} {name:<5} {}\n", one_line(message)),
        LogFormat::Json => {
            let line = serde_json::json!({ "time": time.to_string(), "level": name, "message": message });
            format!("{line}\n")
        }
        LogFormat::Journal => format!("<{}>{}\n", priority(level), one_line(message)),
    }
}

/// syslog(3) priorities, which the journal reads at the beginning of a line.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Control characters, which may come from a child (its name, for example), must not forge a line.
fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for ch in message.chars() {
        if ch.is_control() { line.extend(ch.escape_default()) } else { line.push(ch) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_utc_in_milliseconds() {
        let now = UNIX_EPOCH + Duration::from_millis(1_709_210_096_789);
        let text = render(LogFormat::Text, now, Level::Info, "a");
        assert_eq!(text, "2024-02-29T12:34:56.789Z info  a\n");
    }

    #[test]
    fn a_message_stays_one_line_in_every_format() {
        let render = |format| render(format, UNIX_EPOCH, Level::Warn, "a\nb\"c");
        assert_eq!(render(LogFormat::Text), "1970-01-01T00:00:00.000Z warn  a\\nb\"c\n");
        assert_eq!(render(LogFormat::Journal), "<4>a\\nb\"c\n");
        let json = render(LogFormat::Json);
        assert_eq!(json.matches('\n').count(), 1);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["message"], "a\nb\"c");
    }
}
