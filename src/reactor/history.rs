//! What the loop has done in the last 15 minutes, sampled every 5 s from the totals: for the status page. Owns the samples.
//! Costs nothing for a request, wakes no loop (the core's own timers come often enough; where none is due a sample is
//! late), and is empty where nobody can ask for it.

use super::Loop;
use crate::base::clock::Millis;
use crate::base::limits;
use crate::core::{Counters, LeaseKind};
use std::collections::VecDeque;
use std::time::Duration;

/// How long requests took from being read to being answered, in microseconds, within one sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LatencySample {
    /// Half of them took no longer; `None`: not measured, or there were none.
    pub(super) p50_us: Option<u64>,
    /// 99 of 100 took no longer.
    pub(super) p99_us: Option<u64>,
}

/// The state at one time. Totals are those since the start.
#[derive(Debug, Clone, Copy)]
pub(super) struct HistorySample {
    at: Millis,
    totals: Counters,
    children: usize,
    waiting: usize,
    /// The longest turn since the sample before, in processor time.
    turn: Duration,
    latency: LatencySample,
}

impl HistorySample {
    fn failures(&self) -> u64 {
        let Counters { requests_lost, requests_down, requests_limited, requests_timed_out, .. } = self.totals;
        requests_lost + requests_down + requests_limited + requests_timed_out
    }
}

/// What the page draws, from one sample to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct HistoryPoint {
    /// How long ago its end was.
    pub(super) age_ms: Millis,
    pub(super) requests_per_s: f64,
    pub(super) failures_per_s: f64,
    /// At its end.
    pub(super) children: usize,
    pub(super) waiting: usize,
    pub(super) turn: Duration,
    pub(super) latency: LatencySample,
}

/// The samples, the oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<HistorySample>,
}

impl History {
    fn is_due(&self, now: Millis) -> bool {
        self.samples.back().is_none_or(|last| last.at + limits::HISTORY_STEP <= now)
    }

    fn add(&mut self, sample: HistorySample) {
        if self.samples.len() == limits::HISTORY_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// Between each two samples what has happened, the oldest first.
    pub(super) fn points(&self, now: Millis) -> impl Iterator<Item = HistoryPoint> {
        self.samples.iter().zip(self.samples.iter().skip(1)).map(move |(before, after)| {
            let lasted = (after.at - before.at).max(1) as f64 / 1000.0;
            HistoryPoint {
                age_ms: now.saturating_sub(after.at),
                requests_per_s: (after.totals.requests - before.totals.requests) as f64 / lasted,
                failures_per_s: (after.failures() - before.failures()) as f64 / lasted,
                children: after.children,
                waiting: after.waiting,
                turn: after.turn,
                latency: after.latency,
            }
        })
    }
}

impl Loop {
    /// Takes a sample where one is due and somebody may ask for it.
    #[inline]
    pub(super) fn sample_history(&mut self) {
        if self.serves_http() && self.history.is_due(self.told) {
            let sample = self.sample();
            self.history.add(sample);
        }
    }

    fn sample(&mut self) -> HistorySample {
        HistorySample {
            at: self.told,
            totals: *self.core.counters(),
            children: self.core.children_len(),
            waiting: LeaseKind::ALL.into_iter().map(|kind| self.core.leases_waiting_for(kind)).sum(),
            turn: self.pace.take_longest_lately(),
            latency: self.latency_lately(),
        }
    }

    /// The latency of requests of the last ten seconds.
    fn latency_lately(&self) -> LatencySample {
        let lately = self.core.latency_of_late();
        LatencySample { p50_us: lately.map(|(_, p50, _)| p50), p99_us: lately.map(|(_, _, p99)| p99) }
    }

    /// No samples are kept of a loop whose last listener for HTTP has gone.
    pub(super) fn forget_history(&mut self) {
        if !self.serves_http() {
            self.history = History::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: Millis, requests: u64, requests_lost: u64) -> HistorySample {
        let mut totals = Counters::default();
        (totals.requests, totals.requests_lost) = (requests, requests_lost);
        HistorySample {
            at,
            totals,
            children: requests as usize,
            waiting: 0,
            turn: Duration::ZERO,
            latency: LatencySample::default(),
        }
    }

    #[test]
    fn points_are_what_was_done_between_samples_however_late_these_were() {
        let mut history = History::default();
        assert!(history.is_due(0) && history.points(0).next().is_none());
        for (at, requests, lost) in [(0, 0, 0), (5_000, 50, 0), (17_000, 170, 60)] {
            history.add(sample(at, requests, lost));
            assert!(
                !history.is_due(at + limits::HISTORY_STEP - 1) && history.is_due(at + limits::HISTORY_STEP)
            );
        }
        let points: Vec<_> = history.points(18_000).collect();
        let seen: Vec<_> =
            points.iter().map(|point| (point.age_ms, point.requests_per_s, point.failures_per_s)).collect();
        assert_eq!(seen, [(13_000, 10.0, 0.0), (1_000, 10.0, 5.0)]);
        assert_eq!(points[1].children, 170);
    }

    #[test]
    fn there_are_never_more_than_fifteen_minutes() {
        let mut history = History::default();
        (0..1_000).for_each(|at| history.add(sample(at * 5_000, at, 0)));
        assert_eq!(history.samples.len(), limits::HISTORY_SAMPLES);
        assert_eq!(history.points(4_995_000).count(), 180);
        assert_eq!(history.points(4_995_000).next().unwrap().age_ms, 895_000);
    }
}
