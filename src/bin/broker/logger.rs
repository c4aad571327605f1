//! The log on standard error: one line per record, as text, JSON or for the journal.

use log::{Level, LevelFilter, Log, Metadata, Record};
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
}

/// Makes this the process' logger. Later calls change nothing.
pub(crate) fn install(format: Format, level: LevelFilter) {
    // A logger lives as long as the process.
    if log::set_logger(Box::leak(Box::new(Logger { format }))).is_ok() {
        log::set_max_level(level);
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let line = render(self.format, now, record.level(), &record.args().to_string());
            // A log that cannot be written has nowhere to say so.
            let _ = std::io::stderr().lock().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
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
