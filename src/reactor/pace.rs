//! How long the loop is at one thing: its steps and its turns, the longest of each, and when a turn has lasted long enough.
//! A step is what is done between two looks at what else is due. Measures and says so; ends nothing by itself.

use super::Loop;
use crate::base::clock::{Mark, Millis, Stopwatch};
use crate::base::distribution::Distribution;
use std::fmt;
use std::time::Duration;

/// So many short steps are measured as one, and counted as if one of them had taken all of it.
const SHORT_STEPS: u32 = 8;

const fn micros<const N: usize>(bounds: [u64; N]) -> [Duration; N] {
    let (mut made, mut index) = ([Duration::ZERO; N], 0);
    while index < N {
        made[index] = Duration::from_micros(bounds[index]);
        index += 1;
    }
    made
}

/// By which turns are counted: most take less than the first, none should take longer than 20 ms.
static TURN_BOUNDS: [Duration; 11] =
    micros([50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 20_000, 50_000, 100_000]);
/// The same for how late the loop was. Its clock has milliseconds.
static LAG_BOUNDS: [Duration; 10] =
    micros([0, 1_000, 2_000, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_000_000]);

/// What a step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// Time was told to the core: timers that are due.
    Timers,
    /// A child was read, and ran what it may.
    ChildInput,
    /// A lane was read, and its replies were given to children.
    LaneInput,
    /// A connection was accepted.
    Accept,
    /// A TLS handshake got on by a step.
    Handshake,
    /// What the core had put off: the turn of a child in line, a piece of a longer work.
    Run,
    /// A connection was opened or closed.
    Connection,
    /// A lane was written.
    LaneOutput,
    /// A child was written.
    ChildOutput,
    /// New settings were applied.
    Reload,
    /// A drain began.
    Drain,
    /// Metrics or health were asked for.
    Http,
    /// Children or connections went to another process, or came from one.
    Handover,
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StepKind::Timers => "timers",
            StepKind::ChildInput => "child input",
            StepKind::LaneInput => "lane input",
            StepKind::Accept => "accept",
            StepKind::Handshake => "handshake",
            StepKind::Run => "deferred work",
            StepKind::Connection => "connection",
            StepKind::LaneOutput => "lane output",
            StepKind::ChildOutput => "child output",
            StepKind::Reload => "reload",
            StepKind::Drain => "drain",
            StepKind::Http => "http",
            StepKind::Handover => "hand-over",
        })
    }
}

/// Measures the turn at hand.
#[derive(Debug)]
pub(super) struct Pace {
    watch: Stopwatch,
    began: Mark,
    /// Milliseconds that the turn had lasted at the last look at the clock, whoever had the processor meanwhile.
    lasted: u64,
    /// Short steps that have not been measured yet, and what the last of them was about.
    unmeasured: u32,
    kind: StepKind,
    longest_step: (Duration, StepKind),
    longest_turn: Duration,
    /// The longest turn since somebody last asked for this.
    longest_lately: Duration,
    pub(super) turns: Distribution<11>,
    /// How much later the loop came to something than it was due.
    pub(super) lags: Distribution<10>,
    /// When the next thing is due that no event announces.
    due: Option<Millis>,
}

impl Default for Pace {
    fn default() -> Self {
        let mut watch = Stopwatch::default();
        let began = watch.begin();
        let longest_step = (Duration::ZERO, StepKind::Timers);
        Pace {
            watch,
            began,
            lasted: 0,
            unmeasured: 0,
            kind: StepKind::Timers,
            longest_step,
            longest_turn: Duration::ZERO,
            longest_lately: Duration::ZERO,
            turns: Distribution::new(&TURN_BOUNDS),
            lags: Distribution::new(&LAG_BOUNDS),
            due: None,
        }
    }
}

impl Pace {
    pub(super) fn begin_turn(&mut self) {
        self.began = self.watch.begin();
        (self.unmeasured, self.lasted) = (0, 0);
    }

    pub(super) fn end_turn(&mut self) {
        if self.unmeasured > 0 {
            self.step(self.kind);
        }
        let used = self.watch.used_since(&self.began);
        self.longest_turn = self.longest_turn.max(used);
        self.longest_lately = self.longest_lately.max(used);
        self.turns.note(used);
    }

    /// The longest turn since this was last asked for.
    pub(super) fn take_longest_lately(&mut self) -> Duration {
        std::mem::take(&mut self.longest_lately)
    }

    /// The loop is about to wait, and something is due then.
    #[inline]
    pub(super) fn expect(&mut self, due: Option<Millis>) {
        self.due = due;
    }

    /// The wait has ended at this time.
    #[inline]
    pub(super) fn arrive(&mut self, now: Millis) {
        if let Some(due) = self.due.take().filter(|due| *due <= now) {
            self.lags.note(Duration::from_millis(now - due));
        }
    }

    /// A step has ended.
    #[inline]
    pub(super) fn step(&mut self, kind: StepKind) {
        self.unmeasured = 0;
        let took = self.watch.split();
        self.lasted = self.watch.since(&self.began).as_millis() as u64;
        if took > self.longest_step.0 {
            self.longest_step = (took, kind);
        }
    }

    /// A step of this kind is next: what has not been measured yet was none of it.
    #[inline]
    pub(super) fn before(&mut self, kind: StepKind) {
        if self.unmeasured > 0 && self.kind != kind {
            self.step(self.kind);
        }
    }

    /// A step has ended that is one of very many and takes microseconds as a rule: a few of them are measured together.
    #[inline]
    pub(super) fn short_step(&mut self, kind: StepKind) {
        (self.kind, self.unmeasured) = (kind, self.unmeasured + 1);
        if self.unmeasured == SHORT_STEPS {
            self.step(kind);
        }
    }

    /// Whether the turn has lasted so many milliseconds.
    #[inline]
    pub(super) fn has_lasted(&self, limit_ms: u64) -> bool {
        self.lasted >= limit_ms
    }
}

impl Loop {
    /// The longest step so far, and what it was about; in processor time of the thread. A step is what the loop does
    /// between two looks at what else is due.
    pub fn longest_step(&self) -> (Duration, StepKind) {
        self.pace.longest_step
    }

    /// The longest turn so far, in processor time of the thread; without the wait before it.
    pub fn longest_turn(&self) -> Duration {
        self.pace.longest_turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::spin;

    #[test]
    fn the_longest_step_and_turn_are_kept() {
        let mut pace = Pace::default();
        pace.begin_turn();
        pace.step(StepKind::Timers);
        assert!(!pace.has_lasted(5));
        spin(Duration::from_millis(5));
        pace.step(StepKind::LaneInput);
        assert!(pace.has_lasted(5));
        pace.short_step(StepKind::ChildInput);
        pace.end_turn();
        assert_eq!(pace.longest_step.1, StepKind::LaneInput);
        assert!(pace.longest_step.0 >= Duration::from_millis(5), "{pace:?}");
        assert!(pace.longest_turn >= pace.longest_step.0, "{pace:?}");
        assert_eq!(pace.take_longest_lately(), pace.longest_turn);
        assert_eq!(pace.take_longest_lately(), Duration::ZERO);
        pace.begin_turn();
        assert!(!pace.has_lasted(5), "the next turn begins anew");
    }

    #[test]
    fn turns_are_counted_and_what_was_due_by_its_delay() {
        let mut pace = Pace::default();
        pace.begin_turn();
        pace.end_turn();
        let counts =
            |lengths: Vec<(Duration, u64)>| lengths.into_iter().map(|(_, count)| count).collect::<Vec<_>>();
        assert_eq!(counts(pace.turns.buckets().collect()).iter().sum::<u64>() + pace.turns.longer(), 1);
        for (due, now) in [(Some(5), 4), (Some(5), 5), (Some(5), 7), (None, 9), (Some(0), 9_000)] {
            pace.expect(due);
            pace.arrive(now);
            pace.arrive(now + 50);
        }
        assert_eq!(counts(pace.lags.buckets().collect()), [1, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((pace.lags.longer(), pace.lags.sum()), (1, Duration::from_millis(9_002)));
    }

    #[test]
    fn short_steps_are_measured_before_one_of_another_kind() {
        let mut pace = Pace::default();
        pace.begin_turn();
        pace.short_step(StepKind::ChildInput);
        spin(Duration::from_millis(2));
        pace.short_step(StepKind::ChildInput);
        pace.before(StepKind::LaneInput);
        pace.short_step(StepKind::LaneInput);
        assert_eq!((pace.longest_step.1, pace.unmeasured), (StepKind::ChildInput, 1));
        (0..SHORT_STEPS - 1).for_each(|_| pace.short_step(StepKind::LaneInput));
        assert_eq!(pace.unmeasured, 0);
    }
}
