//! Deadlines of rare things: dialling, waiting in a line, the janitor. A request has no timer; its age is
//! checked at the head of its lane. Timers are never cancelled: one that is no longer meant finds that out
//! when it fires.

use crate::base::clock::Millis;
use crate::core::keys::{ChildKey, GroupKey, LaneKey};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    /// A lane's attempt or backoff; meant only while the lane's `timer` has this number.
    Lane(LaneKey, u32),
    /// A child that waits. Its hold says for what, and the child until when: new settings may have moved that, and
    /// it may have gone on since.
    Child(ChildKey),
    /// A group's time has come: somebody in it has waited for long enough, or may look again.
    Group(GroupKey),
    /// More requests on a lane are overdue than one step tells of.
    Overdue(LaneKey),
    /// A lane has room for more children than have been let go at once.
    Held(LaneKey),
    /// Leases could not be opened; they are tried again.
    Leases,
    /// The upstream has sent connections away; the next one may try.
    Bar,
    /// A shared lane may now be asked to yield.
    Yield,
    /// Servers that are masters no more have had their time to answer.
    Former,
    /// A replica is served where a master is missed: its role is looked at again.
    Role,
    /// The upstream was busy; it is asked whether it still is.
    Busy,
    /// A pause is looked at again, or is over.
    Pause,
    Janitor,
    Drain,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TimerEntry {
    at: Millis,
    /// In the order in which they were armed.
    number: u64,
    timer: Timer,
}

impl Ord for TimerEntry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for TimerEntry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<TimerEntry>,
    armed: u64,
    /// Those that had been armed when the time was told last. One that is armed for now waits until it is told again: what
    /// it is about may come first.
    told: u64,
}

impl Timers {
    pub(crate) fn arm(&mut self, at: Millis, timer: Timer) {
        self.heap.push(TimerEntry { at, number: self.armed, timer });
        self.armed += 1;
    }

    /// The time has been told.
    pub(crate) fn advance(&mut self) {
        self.told = self.armed;
    }

    pub(crate) fn next_at(&self) -> Option<Millis> {
        self.heap.peek().map(|entry| entry.at)
    }

    pub(crate) fn pop_due(&mut self, now: Millis) -> Option<Timer> {
        if self.has_due(now) { self.heap.pop().map(|entry| entry.timer) } else { None }
    }

    pub(crate) fn has_due(&self, now: Millis) -> bool {
        self.heap.peek().is_some_and(|entry| entry.at <= now && entry.number < self.told)
    }

    pub(crate) fn shrink(&mut self) {
        self.heap.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earliest_first_and_only_when_due() {
        let mut timers = Timers::default();
        timers.arm(20, Timer::Drain);
        timers.arm(10, Timer::Janitor);
        assert_eq!(timers.next_at(), Some(10));
        assert_eq!(timers.pop_due(20), None, "the time has not been told since");
        timers.advance();
        assert_eq!(timers.pop_due(9), None);
        assert_eq!(timers.pop_due(20), Some(Timer::Janitor));
        timers.arm(20, Timer::Busy);
        assert_eq!(timers.pop_due(20), Some(Timer::Drain));
        assert_eq!(timers.pop_due(20), None);
        timers.advance();
        assert_eq!(timers.pop_due(20), Some(Timer::Busy));
    }
}
