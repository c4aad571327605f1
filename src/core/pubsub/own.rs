//! A child's subscriptions on a leased lane of its own (`pubsub = leased`): counting them, telling pushes
//! from replies, and knowing when the last one is gone. Shared ones are `core::pubsub`'s.

use crate::command::Family;
use crate::command::Subscribe;
use crate::core::pubsub::push::index;

/// How many subscriptions a child has, by family, and which change is under way.
#[derive(Debug, Default)]
pub(in crate::core) struct OwnSubscriptions {
    pub(in crate::core) counts: [u32; 3],
    /// Confirmations still owed for the (un)subscription in flight.
    pub(in crate::core) owed: u32,
}

impl OwnSubscriptions {
    pub(in crate::core) fn total(&self) -> u32 {
        self.counts.iter().sum()
    }

    /// Channels, patterns, shard channels.
    pub(in crate::core) fn counts(&self) -> (u32, u32, u32) {
        (self.counts[0], self.counts[1], self.counts[2])
    }

    /// The change in flight has been answered, or refused.
    pub(in crate::core) fn settled(&mut self) {
        self.owed = 0;
    }

    /// Redis' count stands in the confirmation: of channels and patterns together, or of shard channels.
    pub(in crate::core) fn confirmed(&mut self, change: Subscribe, count: u32) {
        let others = match change.family {
            Family::Channel => self.counts[1],
            Family::Pattern => self.counts[0],
            Family::Shard => 0,
        };
        self.counts[index(change.family)] = count.saturating_sub(others);
        self.owed = self.owed.saturating_sub(1);
    }
}
