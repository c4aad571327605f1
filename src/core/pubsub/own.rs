//! How many subscriptions a child has on its leased lane (`pubsub = leased`); Redis alone knows which they are.

use crate::command::{Family, Subscribe};

#[derive(Debug, Default)]
pub(crate) struct OwnSubscriptions {
    counts: [u32; 3],
    /// Confirmations that the change in flight has not had yet.
    owed: u32,
}

impl OwnSubscriptions {
    pub(crate) fn total(&self) -> u32 {
        self.counts.iter().sum()
    }

    /// Whether pushes are expected: messages, or confirmations of the change in flight.
    pub(super) fn expects_pushes(&self) -> bool {
        self.total() > 0 || self.owed > 0
    }

    /// Channels, patterns, shard channels.
    pub(crate) fn counts(&self) -> (u32, u32, u32) {
        (self.counts[0], self.counts[1], self.counts[2])
    }

    /// A change of so many names is sent. Without a name it is about all of the family, and confirmed at least once.
    pub(super) fn begin_change(&mut self, change: Subscribe, names: u32) {
        let all = self.counts[change.family as usize].max(1);
        self.owed = if names > 0 { names } else { all };
    }

    pub(crate) fn change_is_over(&mut self) {
        self.owed = 0;
    }

    /// One confirmation has come; its `count` is Redis' own, of channels and patterns together, or of shard channels.
    /// True for the last one of the change in flight.
    pub(super) fn confirmed(&mut self, change: Subscribe, count: u32) -> bool {
        let others = match change.family {
            Family::Channel => self.counts[1],
            Family::Pattern => self.counts[0],
            Family::Shard => 0,
        };
        self.counts[change.family as usize] = count.saturating_sub(others);
        let was_owed = self.owed;
        self.owed = was_owed.saturating_sub(1);
        was_owed == 1
    }
}
