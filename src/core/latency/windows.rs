//! Times of the last 10 seconds, minute and 15 minutes, and how many there were ever, in buckets. Nothing moves while nothing
//! is counted: what has become old is left out when somebody asks. Owns histograms; reads no clock.

use hdrhistogram::Histogram;
use std::collections::VecDeque;

/// The longest time that is told apart, microseconds: a minute.
const LONGEST_US: u64 = 60_000_000;
/// Digits that are told apart: within six percent. One more takes seven times the memory.
const DIGITS: u8 = 1;
/// Microseconds of the shortest window.
const TICK_US: u64 = 2_000_000;
/// Of how many of the shorter ones a longer window is made, and how many of each are kept: 2 s, 10 s, 60 s.
const IN_TEN: u64 = 5;
const IN_MINUTE: u64 = 30;
const KEPT: [usize; 3] = [5, 6, 15];

/// Which past is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span {
    TenSeconds,
    Minute,
    Quarter,
}

impl Span {
    pub(crate) const ALL: [Span; 3] = [Span::TenSeconds, Span::Minute, Span::Quarter];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Span::TenSeconds => "10s",
            Span::Minute => "1m",
            Span::Quarter => "15m",
        }
    }
}

/// Figures of a span, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Figures {
    pub(crate) count: u64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

type Times = Histogram<u32>;

fn empty() -> Times {
    // Its bounds are constants that it takes.
    Histogram::new_with_bounds(1, LONGEST_US, DIGITS).expect("bounds of a histogram")
}

/// A past window and the tick with which it ended.
#[derive(Debug)]
struct Past {
    ended: u64,
    times: Times,
}

#[derive(Debug)]
pub(crate) struct Windows {
    /// The number of the present tick.
    tick: u64,
    /// When it ends, microseconds.
    tick_ends: u64,
    present: Times,
    /// Windows of 2 s, 10 s and 60 s, the oldest first; those of which a longer one was made are among the shorter ones.
    past: [VecDeque<Past>; 3],
    ever: Ever,
}

/// All that were ever counted, by the power of two that they are below, in microseconds, and their sum.
#[derive(Debug, Clone, Default)]
struct Ever {
    counts: [u64; BOUNDS],
    longer: u64,
    sum_us: u64,
}

impl Ever {
    fn note(&mut self, took_us: u64, times: u64) {
        self.sum_us += took_us * times;
        let power =
            (u64::BITS - took_us.saturating_sub(1).leading_zeros()).saturating_sub(FIRST_POWER) as usize;
        match self.counts.get_mut(power) {
            Some(bucket) => *bucket += times,
            None => self.longer += times,
        }
    }
}

/// Powers of two that bound the buckets of all times: 64 us to 33.5 s.
const FIRST_POWER: u32 = 6;
const BOUNDS: usize = 20;

impl Windows {
    pub(crate) fn new(now_us: u64) -> Windows {
        Windows {
            tick: now_us / TICK_US,
            tick_ends: (now_us / TICK_US + 1) * TICK_US,
            present: empty(),
            past: Default::default(),
            ever: Ever::default(),
        }
    }

    /// So many requests took so long.
    pub(crate) fn note(&mut self, took_us: u64, count: u32, now_us: u64) {
        if now_us >= self.tick_ends {
            self.turn_over(now_us / TICK_US);
        }
        self.present.saturating_record_n(took_us, count);
        self.ever.note(took_us, count.into());
    }

    /// The present window is over, and perhaps longer ones with it.
    #[inline(never)]
    fn turn_over(&mut self, tick: u64) {
        let ended = self.tick;
        let times = std::mem::replace(&mut self.present, empty());
        self.keep(0, Past { ended, times });
        for (level, length) in [(1, IN_TEN), (2, IN_MINUTE)] {
            if tick / length != ended / length {
                let times = self.merged(level - 1, ended / length * length, ended);
                self.keep(level, Past { ended, times });
            }
        }
        (self.tick, self.tick_ends) = (tick, (tick + 1) * TICK_US);
    }

    fn keep(&mut self, level: usize, past: Past) {
        let line = &mut self.past[level];
        if line.len() == KEPT[level] {
            line.pop_front();
        }
        line.push_back(past);
    }

    /// All windows of this level that ended between these ticks.
    fn merged(&self, level: usize, from: u64, to: u64) -> Times {
        let mut times = empty();
        for past in self.past[level].iter().filter(|past| (from..=to).contains(&past.ended)) {
            // Both have the same bounds.
            let _ = times.add(&past.times);
        }
        times
    }

    /// Figures of the last span, up to a fifth longer than it is called.
    pub(crate) fn figures(&self, span: Span, now_us: u64) -> Figures {
        figures_of_all(&[self], span, now_us)
    }

    fn add_to(&self, times: &mut Times, span: Span, now_us: u64) {
        // All have the same bounds, so they can be added.
        let now = now_us / TICK_US;
        if now.saturating_sub(self.tick) <= span.ticks() {
            let _ = times.add(&self.present);
        }
        // The longer windows, then the shorter ones since the last of them ended.
        let mut since = now.saturating_sub(span.ticks());
        for level in (0..=span as usize).rev() {
            for past in self.past[level].iter().filter(|past| past.ended >= since) {
                let _ = times.add(&past.times);
            }
            since = self.past[level].back().map_or(since, |past| since.max(past.ended + 1));
        }
    }

    /// All times ever: the bound of each bucket in microseconds and how many are in it and in none before, how many were
    /// longer, their sum.
    pub(crate) fn ever(&self) -> (impl Iterator<Item = (u64, u64)>, u64, u64) {
        let ever = &self.ever;
        let buckets = (FIRST_POWER..).zip(ever.counts).map(|(power, count)| (1 << power, count));
        (buckets, ever.longer, ever.sum_us)
    }
}

/// Figures of all of these together.
pub(crate) fn figures_of_all(all: &[&Windows], span: Span, now_us: u64) -> Figures {
    let mut times = empty();
    all.iter().for_each(|windows| windows.add_to(&mut times, span, now_us));
    Figures {
        count: times.len(),
        p50: times.value_at_quantile(0.5),
        p99: times.value_at_quantile(0.99),
        p999: times.value_at_quantile(0.999),
        max: times.max(),
    }
}

impl Span {
    fn ticks(self) -> u64 {
        match self {
            Span::TenSeconds => IN_TEN,
            Span::Minute => IN_MINUTE,
            Span::Quarter => 15 * IN_MINUTE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn each_span_has_its_own_past() {
        let mut windows = Windows::new(0);
        for second in 0..1200 {
            // One a second, as long as the minute it is in.
            windows.note(1000 * (1 + second / 60), 1, second * SECOND);
        }
        let now = 1200 * SECOND;
        let counts = Span::ALL.map(|span| windows.figures(span, now).count);
        assert!((8..=12).contains(&counts[0]), "{counts:?}");
        assert!((50..=70).contains(&counts[1]), "{counts:?}");
        assert!((840..=960).contains(&counts[2]), "{counts:?}");
        let quarter = windows.figures(Span::Quarter, now);
        assert!((12_000..=14_500).contains(&quarter.p50), "{quarter:?}");
        assert!((19_900..=21_000).contains(&quarter.max), "{quarter:?}");
        let later = windows.figures(Span::TenSeconds, now + 60 * SECOND);
        assert_eq!(later, Figures::default(), "nothing of late");
        assert_eq!(windows.figures(Span::Quarter, now + 3600 * SECOND).count, 0);
    }

    #[test]
    fn nothing_is_counted_twice_or_left_out() {
        let mut windows = Windows::new(0);
        for at in 0..50 {
            windows.note(100, 1, at * SECOND);
            assert_eq!(windows.figures(Span::Minute, at * SECOND).count, at + 1);
            assert_eq!(windows.figures(Span::Quarter, at * SECOND).count, at + 1);
        }
    }

    #[test]
    fn buckets_are_bounded_by_powers_of_two() {
        let mut windows = Windows::new(0);
        for took in [0, 1, 64, 65, 128, 129, 100_000_000] {
            windows.note(took, 1, 0);
        }
        let (buckets, longer, sum) = windows.ever();
        let buckets: Vec<_> = buckets.collect();
        assert_eq!(buckets[..3], [(64, 3), (128, 2), (256, 1)]);
        assert_eq!((buckets.len(), longer, sum), (BOUNDS, 1, 100_000_387));
    }

    #[test]
    fn percentiles_are_within_six_percent() {
        let mut windows = Windows::new(0);
        (1..=10_000).for_each(|took| windows.note(took, 1, 0));
        let figures = windows.figures(Span::TenSeconds, 0);
        let near = |value: u64, exact: u64| value.abs_diff(exact) * 100 <= exact * 6;
        assert!(
            near(figures.p50, 5000) && near(figures.p99, 9900) && near(figures.p999, 9990),
            "{figures:?}"
        );
    }
}
