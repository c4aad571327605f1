//! Limits how many log lines one place in the code may write, and how many of them about one child, since children can
//! cause most of them at any rate. Owns the counts of every place, and of the lines that were not written. Writes nothing
//! and reads no clock. Code that logs does not know of it: it says whom a line is about, and the loggers ask here.

use super::clock::Millis;
use super::limits::{
    LOG_INTERVAL, LOG_LINE_MAX, LOG_LINES, LOG_LINES_PLACE, LOG_LINES_SOURCE, LOG_PEERS_COUNTED,
    LOG_SOURCES_MAX,
};
use super::log_area;
use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, Record};
use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

/// Lines that a logger had no room for.
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// Lines that were summed up instead.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// Log lines of this process that were lost because whoever takes them had no room, since its start.
pub fn log_lines_dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Log lines of this process that its limits left out and summed up, since its start.
pub fn log_lines_left_out() -> u64 {
    LEFT_OUT.load(Ordering::Relaxed)
}

/// For loggers: so many lines were lost.
pub fn count_dropped(lines: u64) {
    DROPPED.fetch_add(lines, Ordering::Relaxed);
}

/// The budgets of all places that have logged recently.
#[derive(Debug, Default)]
pub struct LogLimit {
    /// By file and line.
    places: HashMap<(&'static str, u32), LogPlace>,
    /// When the first interval with suppressed lines ends.
    due: Option<Millis>,
}

/// What one place has written in the interval that has begun with its first line.
#[derive(Debug)]
struct LogPlace {
    since: Millis,
    written: u32,
    /// Of these, the lines about each. Only a line that is written makes an entry, which bounds them.
    written_about: HashMap<Whom, u32>,
    /// How many of the keys are processes and addresses.
    sources: usize,
    left_out: u64,
    /// About whom those were, up to a bound.
    left_out_about: HashSet<Whom>,
    /// The first of them.
    like: Option<LogLine>,
}

/// Whose budget a line is charged to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Whom {
    /// By CLIENT ID.
    Child(u64),
    Process(i64),
    /// Without the port.
    Address(String),
    /// Nobody in particular, or somebody whose process and address are unknown.
    Unknown,
    /// All processes and addresses that came after `LOG_SOURCES_MAX` of them.
    Others,
}

/// Whom a line is about, as far as it says so with the keys `child`, `pid`, `uid` and `peer`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// The child, by CLIENT ID.
    pub child: Option<u64>,
    /// Its process.
    pub pid: Option<i64>,
    /// Its user of this host.
    pub uid: Option<u64>,
    /// Its process or network address in words.
    pub peer: Option<String>,
}

/// A line to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// How important it is.
    pub level: Level,
    /// Its text, without a line end of its own; quoted parts may contain some.
    pub text: String,
    /// The area of the program that it comes from, as `log_area` names it.
    pub area: &'static str,
    /// Whom it is about.
    pub subject: Subject,
    /// The place in the code; empty and 0 if it has none.
    pub file: &'static str,
    /// See `file`.
    pub line: u32,
}

impl LogLimit {
    /// The line to write for a record; `None` if its place has written enough. Only `trace` has no limit.
    pub fn admit(&mut self, record: &Record<'_>, now: Millis) -> Option<LogLine> {
        let subject = Subject::of(record);
        if record.level() == Level::Trace {
            return Some(LogLine::of(record, subject));
        }
        let site = (record.file_static().unwrap_or_default(), record.line().unwrap_or_default());
        let place = self.places.entry(site).or_insert_with(|| LogPlace::new(now));
        if now >= place.ends() && place.left_out == 0 {
            *place = LogPlace::new(now);
        }
        if place.charge(&subject) {
            return Some(LogLine::of(record, subject));
        }
        place.leave_out(record, subject);
        let ends = place.ends();
        self.due = Some(self.due.map_or(ends, |due| due.min(ends)));
        None
    }

    /// Summaries of suppressed lines whose interval has ended. Call before `admit`, and when it is due.
    pub fn summaries(&mut self, now: Millis) -> Vec<LogLine> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.sum_up(now, |place| now >= place.ends())
    }

    /// The same for all lines suppressed so far, when no more will come.
    pub fn last_summaries(&mut self, now: Millis) -> Vec<LogLine> {
        self.sum_up(now, |_| true)
    }

    fn sum_up(&mut self, now: Millis, is_over: impl Fn(&LogPlace) -> bool) -> Vec<LogLine> {
        let mut lines = Vec::new();
        self.places.retain(|_, place| {
            let over = is_over(place);
            if over {
                lines.extend(place.summary(now));
            }
            !over
        });
        let unsaid = self.places.values().filter(|place| place.left_out > 0);
        self.due = unsaid.map(LogPlace::ends).min();
        lines
    }

    /// When the next summary is due; `None` if no lines were suppressed.
    pub fn due(&self) -> Option<Millis> {
        self.due
    }
}

impl LogPlace {
    fn new(now: Millis) -> LogPlace {
        LogPlace {
            since: now,
            written: 0,
            written_about: HashMap::new(),
            sources: 0,
            left_out: 0,
            left_out_about: HashSet::new(),
            like: None,
        }
    }

    fn ends(&self) -> Millis {
        self.since + LOG_INTERVAL
    }

    /// Takes a line from every budget it is charged to; false if one of them is used up, and nothing is taken.
    fn charge(&mut self, subject: &Subject) -> bool {
        let source = self.known_source(subject.source());
        let (child, of_source) = (subject.child.map(Whom::Child), self.about(&source));
        let source_max = if child.is_some() { LOG_LINES_SOURCE } else { LOG_LINES };
        if of_source >= source_max || child.as_ref().is_some_and(|child| self.about(child) >= LOG_LINES) {
            return false;
        }
        let is_source = matches!(source, Whom::Process(_) | Whom::Address(_));
        let is_new = is_source && of_source == 0;
        if self.written >= LOG_LINES_PLACE && !is_new {
            return false;
        }
        self.written += 1;
        self.sources += usize::from(is_new);
        for whom in child.into_iter().chain([source]) {
            *self.written_about.entry(whom).or_default() += 1;
        }
        true
    }

    fn about(&self, whom: &Whom) -> u32 {
        self.written_about.get(whom).copied().unwrap_or_default()
    }

    /// Itself while the place can tell it apart.
    fn known_source(&self, source: Whom) -> Whom {
        let is_full = self.sources >= LOG_SOURCES_MAX;
        if is_full && source != Whom::Unknown && self.about(&source) == 0 { Whom::Others } else { source }
    }

    fn leave_out(&mut self, record: &Record<'_>, subject: Subject) {
        LEFT_OUT.fetch_add(1, Ordering::Relaxed);
        self.left_out += 1;
        // One above the bound shows that there were more.
        if self.left_out_about.len() <= LOG_PEERS_COUNTED {
            self.left_out_about.insert(subject.child.map_or_else(|| subject.source(), Whom::Child));
        }
        if self.like.is_none() {
            self.like = Some(LogLine::of(record, subject));
        }
    }

    /// One line for all that were left out. It is about somebody if all of them were.
    fn summary(&mut self, now: Millis) -> Option<LogLine> {
        let mut like = self.like.take()?;
        let (seconds, peers) = ((now - self.since) / 1000, self.left_out_about.len());
        let of_peers = match peers {
            0 | 1 => String::new(),
            2..=LOG_PEERS_COUNTED => format!(", of {peers} peers"),
            _ => format!(", of more than {LOG_PEERS_COUNTED} peers"),
        };
        if peers > 1 {
            like.subject = Subject::default();
        }
        let left_out = self.left_out;
        like.text = format!("and {left_out} more like this in the last {seconds} s{of_peers}: {}", like.text);
        Some(like)
    }
}

impl Subject {
    fn of(record: &Record<'_>) -> Subject {
        let mut subject = Subject::default();
        // No visit of ours fails.
        let _ = record.key_values().visit(&mut subject);
        subject
    }

    /// Whose child it is: of which process, or else at which address.
    fn source(&self) -> Whom {
        match (self.pid, self.peer.as_deref()) {
            (Some(pid), _) => Whom::Process(pid),
            (None, Some(peer)) if !peer.is_empty() => Whom::Address(without_port(peer).to_owned()),
            (None, _) => Whom::Unknown,
        }
    }
}

impl<'kvs> VisitSource<'kvs> for Subject {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        match key.as_str() {
            "child" => self.child = value.to_u64(),
            "pid" => self.pid = value.to_i64(),
            "uid" => self.uid = value.to_u64(),
            // Whoever is not there has no text.
            "peer" => self.peer = value.to_borrowed_str().map(str::to_owned),
            _ => {}
        }
        Ok(())
    }
}

/// `10.0.0.1:4242` and `[::1]:4242` without what follows the last colon; other words stay as they are.
fn without_port(peer: &str) -> &str {
    match peer.rsplit_once(':') {
        Some((address, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => address,
        _ => peer,
    }
}

impl LogLine {
    /// A line of a logger's own: about nobody, from `module`.
    pub fn plain(level: Level, module: &str, text: String) -> LogLine {
        let area = log_area::name_of(module);
        LogLine { level, text, area, subject: Subject::default(), file: "", line: 0 }
    }

    fn of(record: &Record<'_>, subject: Subject) -> LogLine {
        LogLine {
            level: record.level(),
            text: text_of(record.args()),
            area: log_area::name_of(record.target()),
            subject,
            file: record.file_static().unwrap_or_default(),
            line: record.line().unwrap_or_default(),
        }
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
mod tests;
