//! The log on standard error: one line per record, as text, JSON or for the journal. Writes no more than
//! `log_limit` admits, and never waits for whoever reads it.

use crate::stderr::Stderr;
use broker::base::clock::{Clock, Millis};
use broker::base::log_limit::{Line, LogLimit};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// While lines wait for room they are tried again after so many milliseconds.
const RETRY: Millis = 100;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `2026-01-31T12:00:00.000Z info message`
    Text,
    /// One JSON object.
    Json,
    /// `<6>message`; the journal knows the time.
    Journal,
}

#[derive(Debug)]
struct Logger {
    format: Format,
    clock: Clock,
    /// Nothing waits in `state`: spares a lock in every turn.
    at_rest: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: LogLimit,
    out: Stderr,
}

/// Lives as long as the process.
static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Makes this the process' logger. Later calls change nothing.
pub(crate) fn install(format: Format, level: LevelFilter) {
    // Without a descriptor to spare for it there will be no loop either.
    let Ok(fd) = std::io::stderr().as_fd().try_clone_to_owned() else { return };
    let state = Mutex::new(State { limit: LogLimit::default(), out: Stderr::new(fd) });
    let logger =
        LOGGER.get_or_init(|| Logger { format, clock: Clock::new(), at_rest: AtomicBool::new(true), state });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level);
    }
}

/// Says what is due: lines that found no room, and sums of those left out. Returns when to call it again, in
/// milliseconds; `None` is never, unless something is logged.
pub(crate) fn settle() -> Option<Millis> {
    let logger = LOGGER.get().filter(|logger| !logger.at_rest.load(Ordering::Relaxed))?;
    let mut state = logger.state();
    logger.tell_left_out(&mut state);
    state.out.settle(|lost| logger.about_lost(lost));
    logger.note_rest(&state);
    let retry = state.out.is_behind().then_some(RETRY);
    let summary = state.limit.due().map(|due| due.saturating_sub(logger.clock.now()));
    [retry, summary].into_iter().flatten().min()
}

/// How many milliseconds the end waits for a slow reader of the log.
const LAST_WAIT: Millis = 1000;

/// The last word: sums up everything left out so far. What finds no room within a second is lost.
pub(crate) fn finish() {
    let Some(logger) = LOGGER.get() else { return };
    let mut state = logger.state();
    for line in state.limit.last_summaries(logger.clock.now()) {
        logger.write(&mut state.out, &line);
    }
    let due = logger.clock.now() + LAST_WAIT;
    state.out.settle(|lost| logger.about_lost(lost));
    while state.out.is_behind() && logger.clock.now() < due {
        std::thread::sleep(Duration::from_millis(RETRY / 10));
        state.out.settle(|lost| logger.about_lost(lost));
    }
}

impl Logger {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, out: &mut Stderr, line: &Line) {
        out.put(self.render(line.level, &line.text), |lost| self.about_lost(lost));
    }

    fn tell_left_out(&self, state: &mut State) {
        for line in state.limit.summaries(self.clock.now()) {
            self.write(&mut state.out, &line);
        }
    }

    fn about_lost(&self, lost: u64) -> String {
        self.render(Level::Warn, &format!("{lost} lines lost: standard error took no more"))
    }

    fn render(&self, level: Level, text: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        render(self.format, now, level, text)
    }

    fn note_rest(&self, state: &State) {
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

fn render(format: Format, now: Duration, level: Level, message: &str) -> String {
    let name = level.as_str().to_ascii_lowercase();
    match format {
        Format::Text => format!("{} {name:<5} {}\n", utc(now), one_line(message)),
        Format::Json => {
            format!("{}\n", serde_json::json!({ "time": utc(now), "level": name, "message": message }))
        }
        Format::Journal => format!("<{}>{}\n", priority(level), one_line(message)),
    }
}

/// syslog(3) priorities, as the journal reads them from a line's beginning.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Control characters, which a child may have chosen (its name, say), must not forge a line.
fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for ch in message.chars() {
        if ch.is_control() { line.extend(ch.escape_default()) } else { line.push(ch) }
    }
    line
}

/// RFC 3339 in UTC with milliseconds, from the time since 1970.
fn utc(now: Duration) -> String {
    let (days, second) = (now.as_secs() / 86_400, now.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let (second, milli) = (second % 60, now.subsec_millis());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// The Gregorian date of a day counted from 1970-01-01. Counts years from 1 March, so that the leap day
/// is a year's last, in eras of 400 years (146,097 days).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_and_know_leap_days() {
        assert_eq!(utc(Duration::ZERO), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(Duration::from_millis(1_709_210_096_789)), "2024-02-29T12:34:56.789Z");
        assert_eq!(utc(Duration::from_secs(4_107_542_400)), "2100-03-01T00:00:00.000Z");
        assert_eq!(utc(Duration::from_secs(1_798_761_599)), "2026-12-31T23:59:59.000Z");
    }

    #[test]
    fn a_message_stays_one_line_in_every_format() {
        let render = |format| render(format, Duration::ZERO, Level::Warn, "a\nb\"c");
        assert_eq!(render(Format::Text), "1970-01-01T00:00:00.000Z warn  a\\nb\"c\n");
        assert_eq!(render(Format::Journal), "<4>a\\nb\"c\n");
        let json = render(Format::Json);
        assert_eq!(json.matches('\n').count(), 1);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["message"], "a\nb\"c");
    }
}
