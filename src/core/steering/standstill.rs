//! While the broker is paused no request waits any longer for it: the time of a pause does not count for timeouts of waiting. Plain
//! data: the pauses of late. Owns how much of a wait counts; never whether there is a pause (`core::steering`).

use crate::base::clock::Millis;
use crate::base::limits;
use std::collections::VecDeque;

#[derive(Debug, Default)]
pub(crate) struct Standstill {
    since: Option<Millis>,
    /// When those that are over began and ended, the latest last.
    past: VecDeque<(Millis, Millis)>,
}

impl Standstill {
    pub(crate) fn begin(&mut self, now: Millis) {
        self.since.get_or_insert(now);
    }

    pub(crate) fn end(&mut self, now: Millis) {
        let Some(since) = self.since.take() else { return };
        if self.past.len() >= limits::PAUSES_KEPT {
            self.past.pop_front();
        }
        self.past.push_back((since, now));
    }

    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// How much of the time from `since` to `now` does not count.
    #[inline]
    pub(crate) fn within(&self, since: Millis, now: Millis) -> Millis {
        if self.since.is_none() && self.past.is_empty() { 0 } else { self.sum(since, now) }
    }

    #[inline(never)]
    fn sum(&self, since: Millis, now: Millis) -> Millis {
        let present = self.since.map(|began| (began, now));
        let all = self.past.iter().copied().chain(present);
        all.map(|(began, ended)| ended.saturating_sub(began.max(since))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_wait_the_time_of_pauses_does_not_count() {
        let mut standstill = Standstill::default();
        assert_eq!(standstill.within(0, 100), 0);
        standstill.begin(100);
        standstill.begin(120);
        assert_eq!((standstill.within(0, 150), standstill.within(140, 150)), (50, 10));
        standstill.end(200);
        assert_eq!((standstill.within(0, 900), standstill.within(150, 900)), (100, 50));
        assert_eq!((standstill.within(200, 900), standstill.within(250, 900)), (0, 0));
        standstill.begin(300);
        assert_eq!((standstill.within(150, 400), standstill.within(350, 400)), (150, 50));
        standstill.end(400);
        standstill.end(500);
        assert_eq!(standstill.within(0, 900), 200);
        for at in 0..limits::PAUSES_KEPT as u64 {
            standstill.begin(1_000 + at * 10);
            standstill.end(1_005 + at * 10);
        }
        assert_eq!(standstill.past.len(), limits::PAUSES_KEPT);
    }
}
