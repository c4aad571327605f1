//! The log of the program: one line per record, on standard error or for the journal. Owns the levels of all areas, which
//! may change at any time. Writes no more lines than `log_limit` admits, and never waits for whoever takes them.

use crate::journal::{JOURNAL_SOCKET, Journal};
use crate::render::rendered;
use crate::stderr::Stderr;
use broker::base::clock::{Clock, Millis};
use broker::base::log_area::{self, LOG_AREA_COUNT};
use broker::base::log_limit::{LogLimit, LogLine};
use broker::config::Settings;
use broker::config::value::{LogAreas, LogFormat, LogLevel};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// While the journal has no room, it is asked again after this many milliseconds.
const RETRY: Millis = 100;
/// How long the end of the process waits for a slow reader of the log, milliseconds.
const LAST_WAIT: Millis = 1000;

struct Logger {
    levels: Levels,
    clock: Clock,
    /// Nothing is queued or unsaid in `state`: saves a lock in every turn.
    at_rest: AtomicBool,
    state: Mutex<LoggerState>,
}

/// The level of each area as a number, and the least of them. What is more detailed than all of them is kept away by
/// `log::max_level`, one comparison for whoever logs.
struct Levels {
    of_areas: [AtomicUsize; LOG_AREA_COUNT],
    least: AtomicUsize,
}

struct LoggerState {
    format: LogFormat,
    limit: LogLimit,
    out: Stderr,
    journal: Journal,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// The settings of the log, as they were last applied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogSettings {
    level: LogLevel,
    areas: LogAreas,
    format: LogFormat,
}

impl LogSettings {
    pub(crate) fn of(settings: &Settings) -> LogSettings {
        LogSettings { level: settings.log_level, areas: settings.log_areas, format: settings.log_format }
    }

    /// Applies those that have changed. A few bytes are compared, so that it may be asked in every turn.
    #[inline]
    pub(crate) fn follow(&mut self, settings: &Settings) {
        let wanted = LogSettings::of(settings);
        if *self != wanted {
            *self = wanted;
            set(wanted.level, &wanted.areas);
            set_format(wanted.format);
        }
    }
}

/// Makes this the process' logger. Later calls change nothing.
pub(crate) fn install(settings: LogSettings) {
    // Without a free descriptor for it the loop cannot start either.
    let Ok(fd) = std::io::stderr().as_fd().try_clone_to_owned() else { return };
    let logger = LOGGER.get_or_init(|| Logger::new(settings.format, fd, Journal::new(JOURNAL_SOCKET)));
    if log::set_logger(logger).is_ok() {
        set(settings.level, &settings.areas);
    }
}

/// Sets the levels: `areas` for those it names, `level` for the others. From the next line on they hold.
pub(crate) fn set(level: LogLevel, areas: &LogAreas) {
    if let Some(logger) = LOGGER.get() {
        log::set_max_level(logger.levels.set(level, areas));
    }
}

/// Sets how the next lines look, and where they go.
pub(crate) fn set_format(format: LogFormat) {
    if let Some(logger) = LOGGER.get() {
        logger.state().format = format;
    }
}

/// Writes what is due: queued lines, and summaries of suppressed ones. Returns when to call it again, in
/// milliseconds; `None` means not before a line is logged.
pub(crate) fn settle() -> Option<Millis> {
    let logger = LOGGER.get().filter(|logger| !logger.at_rest.load(Ordering::Relaxed))?;
    let mut state = logger.state();
    state.tell_left_out(logger.clock.now());
    state.settle();
    logger.note_rest(&state);
    let summary = state.limit.due().map(|due| due.saturating_sub(logger.clock.now()));
    [state.retry(), summary].into_iter().flatten().min()
}

/// The last lines: summaries of everything suppressed so far. Lines that find no room within a second are lost.
pub(crate) fn finish() {
    let Some(logger) = LOGGER.get() else { return };
    let mut state = logger.state();
    for line in state.limit.last_summaries(logger.clock.now()) {
        state.write(&line);
    }
    let due = logger.clock.now() + LAST_WAIT;
    state.settle();
    while state.is_behind() && logger.clock.now() < due {
        std::thread::sleep(Duration::from_millis(RETRY / 10));
        state.settle();
    }
}

impl Logger {
    fn new(format: LogFormat, stderr: OwnedFd, journal: Journal) -> Logger {
        let state = LoggerState { format, limit: LogLimit::default(), out: Stderr::new(stderr), journal };
        let (levels, at_rest) = (Levels::off(), AtomicBool::new(true));
        Logger { levels, clock: Clock::new(), at_rest, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, LoggerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_rest(&self, state: &LoggerState) {
        let at_rest = state.retry().is_none() && state.limit.due().is_none();
        self.at_rest.store(at_rest, Ordering::Relaxed);
    }
}

impl Levels {
    fn off() -> Levels {
        let of_areas = [const { AtomicUsize::new(LevelFilter::Off as usize) }; LOG_AREA_COUNT];
        Levels { of_areas, least: AtomicUsize::new(LevelFilter::Off as usize) }
    }

    /// Returns the most detailed of all.
    fn set(&self, level: LogLevel, areas: &LogAreas) -> LevelFilter {
        let filters =
            std::array::from_fn::<_, LOG_AREA_COUNT, _>(|area| filter(areas.level(area).unwrap_or(level)));
        for (own, filter) in self.of_areas.iter().zip(filters) {
            own.store(filter as usize, Ordering::Relaxed);
        }
        let (least, most) = (filters.iter().min(), filters.iter().max());
        self.least.store(least.map_or(0, |least| *least as usize), Ordering::Relaxed);
        most.copied().unwrap_or(LevelFilter::Off)
    }

    /// Whether lines of this level from there are logged. The area is only looked up where it matters.
    fn admit(&self, level: Level, target: &str) -> bool {
        let level = level as usize;
        level <= self.least.load(Ordering::Relaxed)
            || level <= self.of_areas[log_area::index_of(target)].load(Ordering::Relaxed)
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Trace => LevelFilter::Trace,
    }
}

impl LoggerState {
    /// To the journal, or to standard error where there is none.
    fn write(&mut self, line: &LogLine) {
        if self.format != LogFormat::Journal || !self.journal.put(line) {
            let format = self.format;
            self.out.put(line, |line| rendered(format, line));
        }
    }

    fn tell_left_out(&mut self, now: Millis) {
        for line in self.limit.summaries(now) {
            self.write(&line);
        }
    }

    fn settle(&mut self) {
        let format = self.format;
        self.out.settle(|line| rendered(format, line));
        self.journal.settle();
    }

    fn is_behind(&self) -> bool {
        self.out.is_behind() || self.journal.is_behind()
    }

    /// In how many milliseconds there may be room again for what waits or is unsaid.
    fn retry(&self) -> Option<Millis> {
        let of_journal = self.journal.is_behind().then_some(RETRY);
        [self.out.retry(), of_journal].into_iter().flatten().min()
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && self.levels.admit(metadata.level(), metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (mut state, now) = (self.state(), self.clock.now());
        state.tell_left_out(now);
        if let Some(line) = state.limit.admit(record, now) {
            state.write(&line);
        }
        self.note_rest(&state);
    }

    fn flush(&self) {
        settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixDatagram;

    fn areas(text: &str) -> LogAreas {
        let mut settings = Settings::default();
        settings.set("log_areas", text).unwrap();
        settings.log_areas
    }

    #[test]
    fn an_area_has_its_own_level_and_all_others_the_common_one() {
        let levels = Levels::off();
        assert!(!levels.admit(Level::Error, "broker::serve"));
        let most = levels.set(LogLevel::Info, &areas("lease=trace,child=error"));
        assert_eq!(most, LevelFilter::Trace);
        let admitted = |level, target: &str| levels.admit(level, &format!("broker::core::{target}"));
        assert!(admitted(Level::Trace, "lease::groups") && admitted(Level::Error, "child::closing"));
        assert!(!admitted(Level::Warn, "child::closing"));
        assert!(admitted(Level::Info, "pubsub::hubs") && !admitted(Level::Debug, "pubsub::hubs"));
        assert_eq!(levels.set(LogLevel::Warn, &areas("")), LevelFilter::Warn);
        assert!(!admitted(Level::Info, "lease::groups") && admitted(Level::Warn, "child::closing"));
    }

    /// The only test of the process' own logger.
    #[test]
    fn changed_settings_hold_from_the_next_line_on() {
        let mut settings = Settings::default();
        let mut applied = LogSettings::of(&settings);
        install(applied);
        let enabled = |level, target: &str| {
            let metadata = Metadata::builder().level(level).target(target).build();
            log::logger().enabled(&metadata)
        };
        assert_eq!(log::max_level(), LevelFilter::Info);
        settings.set("log_areas", "lease=debug").unwrap();
        settings.set("log_format", "json").unwrap();
        applied.follow(&settings);
        assert_eq!(log::max_level(), LevelFilter::Debug);
        assert!(enabled(Level::Debug, "broker::core::lease") && !enabled(Level::Debug, "broker::core::user"));
        assert_eq!(LOGGER.get().unwrap().state().format, LogFormat::Json);
        settings.set("log_areas", "").unwrap();
        settings.set("log_level", "error").unwrap();
        applied.follow(&settings);
        assert_eq!(log::max_level(), LevelFilter::Error);
        assert!(!enabled(Level::Debug, "broker::core::lease"));
    }

    #[test]
    fn lines_go_to_the_journal_and_without_one_to_standard_error() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("socket");
        let (mut reader, writer) = std::io::pipe().unwrap();
        let logger = Logger::new(LogFormat::Journal, writer.into(), Journal::new(&path));
        let say = |text: &str| {
            logger.state().write(&LogLine::plain(Level::Warn, "broker::serve", text.to_owned()));
        };
        say("nobody");
        let journal = UnixDatagram::bind(&path).unwrap();
        say("somebody");
        let mut buffer = [0; 1024];
        let length = journal.recv(&mut buffer).unwrap();
        assert!(buffer[..length].starts_with(b"MESSAGE=somebody\n"));
        drop(logger);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "<4>nobody\n");
    }
}
