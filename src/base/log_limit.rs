//! Limits how many log lines one place in the code may write, since children can cause most of them at any rate. Owns the
//! counts of every place. Writes nothing and reads no clock. Code that logs does not know of it: the loggers ask here.

use super::clock::Millis;
use super::limits::{LOG_INTERVAL, LOG_LINE_MAX, LOG_LINES};
use log::{Level, Record};
use std::collections::HashMap;
use std::fmt::{self, Write};

/// The budgets of all places that have logged recently.
#[derive(Debug, Default)]
pub struct LogLimit {
    /// By file and line.
    sites: HashMap<(&'static str, u32), Budget>,
    /// When the first interval with suppressed lines ends.
    due: Option<Millis>,
}

#[derive(Debug)]
struct Budget {
    /// The beginning of the interval.
    since: Millis,
    written: u32,
    left_out: u64,
    level: Level,
    /// The last line that was written, an example of the suppressed ones.
    like: String,
}

/// A line to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How important it is.
    pub level: Level,
    /// Its text, without a line end of its own; quoted parts may contain some.
    pub text: String,
}

impl LogLimit {
    /// The line to write for a record; `None` if its place has written enough. Only `trace` has no limit.
    pub fn admit(&mut self, record: &Record<'_>, now: Millis) -> Option<LogLine> {
        let level = record.level();
        if level == Level::Trace {
            return Some(LogLine { level, text: text_of(record.args()) });
        }
        let site = (record.file_static().unwrap_or_default(), record.line().unwrap_or_default());
        let budget = self.sites.entry(site).or_insert_with(|| Budget::new(level, now));
        if now >= budget.ends() && budget.left_out == 0 {
            *budget = Budget::new(level, now);
        }
        if budget.written >= LOG_LINES {
            budget.left_out += 1;
            let ends = budget.ends();
            self.due = Some(self.due.map_or(ends, |due| due.min(ends)));
            return None;
        }
        budget.written += 1;
        budget.like = text_of(record.args());
        Some(LogLine { level, text: budget.like.clone() })
    }

    /// Summaries of suppressed lines whose interval has ended. Call before `admit`, and when it is due.
    pub fn summaries(&mut self, now: Millis) -> Vec<LogLine> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.sum_up(now, |budget| now >= budget.ends())
    }

    /// The same for all lines suppressed so far, when no more will come.
    pub fn last_summaries(&mut self, now: Millis) -> Vec<LogLine> {
        self.sum_up(now, |_| true)
    }

    fn sum_up(&mut self, now: Millis, is_over: impl Fn(&Budget) -> bool) -> Vec<LogLine> {
        let mut lines = Vec::new();
        self.sites.retain(|_, budget| {
            let over = is_over(budget);
            if over && budget.left_out > 0 {
                lines.push(budget.summary(now));
            }
            !over
        });
        let unsaid = self.sites.values().filter(|budget| budget.left_out > 0);
        self.due = unsaid.map(Budget::ends).min();
        lines
    }

    /// When the next summary is due; `None` if no lines were suppressed.
    pub fn due(&self) -> Option<Millis> {
        self.due
    }
}

impl Budget {
    fn new(level: Level, now: Millis) -> Budget {
        Budget { since: now, written: 0, left_out: 0, level, like: String::new() }
    }

    fn ends(&self) -> Millis {
        self.since + LOG_INTERVAL
    }

    fn summary(&self, now: Millis) -> LogLine {
        let seconds = (now - self.since) / 1000;
        let text = format!("and {} more like this in the last {seconds} s: {}", self.left_out, self.like);
        LogLine { level: self.level, text }
    }
}

/// The text of a record, cut to `LOG_LINE_MAX`: a child may have chosen quoted parts.
fn text_of(args: &fmt::Arguments<'_>) -> String {
    let mut text = Cut(String::new());
    // An error is the cut itself, or a `Display` that failed half-way: the text so far is enough.
    let _ = text.write_fmt(*args);
    text.0
}

/// Takes text up to `LOG_LINE_MAX` bytes.
struct Cut(String);

impl Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LOG_LINE_MAX.saturating_sub(self.0.len());
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let end = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        self.0.push_str(&text[..end]);
        self.0.push_str("...");
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written for one more line of the place `line`.
    fn say(limit: &mut LogLimit, line: u32, text: &str, now: Millis) -> Option<String> {
        let mut record = Record::builder();
        record.level(Level::Info).file_static(Some("src/a.rs")).line(Some(line));
        limit.admit(&record.args(format_args!("{text}")).build(), now).map(|line| line.text)
    }

    fn summaries(limit: &mut LogLimit, now: Millis) -> Vec<String> {
        limit.summaries(now).into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn a_place_that_has_written_enough_is_summed_up() {
        let mut limit = LogLimit::default();
        let written = (0..1000).filter(|n| say(&mut limit, 1, &format!("no {n}"), 5).is_some()).count();
        assert_eq!(written, LOG_LINES as usize);
        assert_eq!(say(&mut limit, 2, "another place", 6).as_deref(), Some("another place"));
        assert_eq!(limit.due(), Some(5 + LOG_INTERVAL));
        assert!(summaries(&mut limit, 4 + LOG_INTERVAL).is_empty());
        let left = 1000 - u64::from(LOG_LINES);
        let like = format!("no {}", LOG_LINES - 1);
        assert_eq!(
            summaries(&mut limit, 5 + LOG_INTERVAL),
            [format!("and {left} more like this in the last {} s: {like}", LOG_INTERVAL / 1000)]
        );
        assert_eq!(limit.due(), None);
        (0..u64::from(LOG_LINES) + 2).for_each(|_| _ = say(&mut limit, 2, "x", 6 + LOG_INTERVAL));
        let last = limit.last_summaries(1006 + LOG_INTERVAL).pop().unwrap().text;
        assert_eq!(last, "and 2 more like this in the last 1 s: x");
        assert!(say(&mut limit, 1, "a new interval", 5 + LOG_INTERVAL).is_some());
    }

    /// A line now and then is never left out, whatever there was before.
    #[test]
    fn a_quiet_place_always_has_its_budget() {
        let mut limit = LogLimit::default();
        for n in 0..100 {
            assert!(say(&mut limit, 1, "now and then", n * LOG_INTERVAL).is_some());
        }
        assert_eq!(limit.due(), None);
    }

    #[test]
    fn nothing_left_out_goes_unsaid() {
        let mut limit = LogLimit::default();
        let (mut written, mut told) = (0, 0);
        for n in 0..10_000_u64 {
            let now = n * LOG_INTERVAL / 1000;
            told += count_of(summaries(&mut limit, now));
            written += u64::from(say(&mut limit, 1, "x", now).is_some());
        }
        told += count_of(summaries(&mut limit, 1000 * LOG_INTERVAL));
        assert_eq!(written + told, 10_000);
        assert!(written <= 11 * u64::from(LOG_LINES), "{written}");
    }

    fn count_of(lines: Vec<String>) -> u64 {
        lines.iter().map(|line| line.split(' ').nth(1).unwrap().parse::<u64>().unwrap()).sum()
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let mut limit = LogLimit::default();
        let text = say(&mut limit, 1, &"\u{e9}".repeat(LOG_LINE_MAX), 0).unwrap();
        assert!(text.len() <= LOG_LINE_MAX + 3 && text.ends_with("\u{e9}..."));
    }

    #[test]
    fn trace_shows_everything() {
        let mut limit = LogLimit::default();
        for _ in 0..1000 {
            let mut record = Record::builder();
            record.level(Level::Trace).file_static(Some("src/a.rs")).line(Some(1));
            assert!(limit.admit(&record.args(format_args!("x")).build(), 0).is_some());
        }
    }
}
