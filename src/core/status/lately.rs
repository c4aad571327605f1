//! What has failed within the last minute, and since when the upstream is seen not to serve: what neither a total nor a moment
//! tells. Owns the totals of a minute ago; counts nothing itself.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::core::status::figures::LastMinute;
use std::collections::VecDeque;

/// A minute, in milliseconds.
const MINUTE: Millis = 60_000;

#[derive(Debug, Default)]
pub(crate) struct Lately {
    /// Totals, the oldest first: one that is a minute old, and those since.
    totals: VecDeque<(Millis, LastMinute)>,
    /// Since when the upstream has been seen not to serve; `None` where it does, or nobody has asked.
    pub(super) not_ready_since: Option<Millis>,
}

impl Lately {
    #[inline]
    pub(super) fn is_due(&self, now: Millis) -> bool {
        self.totals.back().is_none_or(|(at, _)| at + limits::MINUTE_STEP <= now)
    }

    pub(super) fn add(&mut self, now: Millis, totals: LastMinute) {
        self.totals.push_back((now, totals));
        while self.totals.get(1).is_some_and(|(at, _)| at + MINUTE <= now) {
            self.totals.pop_front();
        }
    }

    /// What has happened since the youngest sample that is a minute old, or the first.
    pub(super) fn minute(&self, now: Millis, totals: &LastMinute) -> LastMinute {
        let old = self.totals.iter().rev().find(|(at, _)| at + MINUTE <= now);
        let Some((_, then)) = old.or(self.totals.front()) else { return LastMinute::default() };
        LastMinute {
            lost: totals.lost - then.lost,
            down: totals.down - then.down,
            limited: totals.limited - then.limited,
            timed_out: totals.timed_out - then.timed_out,
            refused: totals.refused - then.refused,
            log_lines_dropped: totals.log_lines_dropped - then.log_lines_dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_minute_is_a_minute_or_all_there_was() {
        let mut lately = Lately::default();
        let totals = |lost| LastMinute { lost, ..LastMinute::default() };
        let lost = |lately: &Lately, now, lost| lately.minute(now, &totals(lost)).lost;
        assert_eq!(lost(&lately, 0, 7), 0);
        assert!(lately.is_due(0));
        lately.add(1_000, totals(2));
        assert!(!lately.is_due(5_999) && lately.is_due(6_000));
        assert_eq!(lost(&lately, 3_000, 7), 5, "of a young broker, since the first sample");
        (1..30).for_each(|at| lately.add(1_000 + at * 5_000, totals(2 + at)));
        assert_eq!(lost(&lately, 146_000, 31), 31 - 2 - 17);
        assert_eq!(lost(&lately, 150_000, 31), 31 - 2 - 17, "and no more than five seconds beyond it");
        assert_eq!(lost(&lately, 1_000_000, 31), 0);
        assert!(lately.totals.len() <= 14, "{}", lately.totals.len());
    }
}
