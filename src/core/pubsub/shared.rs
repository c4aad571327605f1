//! Shared subscriptions: one connection of a user's own carries every subscription of all its children, each
//! channel, pattern and shard channel once. Owns the topics and who listens to them; decides what the
//! connection is asked and when a child is answered. What travels on the connection is `pubsub::upstream`'s.
//!
//! A child's request stays at the front of its input until the connection has answered a *fence*, a PING sent
//! behind whatever the request needs. So each child stands, in the order of the upstream, where it would with
//! a connection of its own: it hears what was published after its confirmation and nothing from before it,
//! and everything from before it left.

use crate::base::clock::Millis;
use crate::command::Family;
use crate::core::child::Child;
use crate::core::keys::TopicKey;
use crate::core::keys::UserId;
use std::collections::BTreeSet;

/// What a subscription costs beside its name: the entries that remember it here and in its topic.
pub(in crate::core) const SUBSCRIPTION_BYTES: usize = 128;

/// How far a request about subscriptions is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum Fence {
    /// Nothing has been asked for it on the present connection.
    None,
    /// The upstream has to answer first.
    Awaited(u64),
    /// All it needed has been answered.
    Passed,
}

/// A child's shared subscriptions.
#[derive(Debug)]
pub(in crate::core) struct SharedSubscriptions {
    /// Whose connection carries them.
    pub(in crate::core) user: UserId,
    pub(in crate::core) counts: [u32; 3],
    /// The topics, by the bits of their keys.
    pub(in crate::core) held: BTreeSet<u64>,
    /// What the SUBSCRIBE at the front names, in order.
    pub(in crate::core) pinned: Vec<TopicKey>,
    pub(in crate::core) fence: Fence,
    /// What the upstream has answered to the SUBSCRIBE at the front where others have the topic already, if that was
    /// an error.
    pub(in crate::core) refusal: Option<Vec<u8>>,
    /// Since when the request at the front waits.
    pub(in crate::core) since: Option<Millis>,
    /// Bytes of the names.
    pub(in crate::core) bytes: usize,
}

impl Child {
    /// The upstream has refused a topic that its request at the front names.
    pub(in crate::core) fn join_refused(&mut self, fence: u64, frame: Vec<u8>) {
        if let Some(own) = &mut self.topics
            && own.fence == Fence::Awaited(fence)
        {
            own.refusal.get_or_insert(frame);
        }
    }
}

impl SharedSubscriptions {
    pub(in crate::core) fn new(user: UserId) -> Box<SharedSubscriptions> {
        Box::new(SharedSubscriptions {
            user,
            counts: [0; 3],
            held: BTreeSet::new(),
            pinned: Vec::new(),
            fence: Fence::None,
            refusal: None,
            since: None,
            bytes: 0,
        })
    }

    pub(in crate::core) fn total(&self) -> u32 {
        self.counts.iter().sum()
    }

    /// Channels, patterns, shard channels.
    pub(in crate::core) fn counts(&self) -> (u32, u32, u32) {
        (self.counts[0], self.counts[1], self.counts[2])
    }

    /// Heap bytes held, by estimate.
    pub(in crate::core) fn footprint(&self) -> usize {
        std::mem::size_of::<SharedSubscriptions>()
            + self.bytes
            + self.held.len() * SUBSCRIPTION_BYTES
            + self.pinned.capacity() * std::mem::size_of::<TopicKey>()
    }

    pub(in crate::core) fn holds(&self, topic: TopicKey) -> bool {
        self.held.contains(&topic.to_bits())
    }

    /// The count Redis puts into a confirmation.
    pub(in crate::core) fn count(&self, family: Family) -> u32 {
        match family {
            Family::Channel | Family::Pattern => self.counts[0] + self.counts[1],
            Family::Shard => self.counts[2],
        }
    }
}
