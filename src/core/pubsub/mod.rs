//! Shared subscriptions: one connection of a user's own carries every subscription of all its children, each
//! channel, pattern and shard channel once. Owns the topics and who listens to them; decides what the
//! connection is asked and when a child is answered. What travels on the connection is `pubsub::upstream`'s.
//!
//! A child's request stays at the front of its input until the connection has answered a *fence*, a PING sent
//! behind whatever the request needs. So each child stands, in the order of the upstream, where it would with
//! a connection of its own: it hears what was published after its confirmation and nothing from before it,
//! and everything from before it left.

pub(in crate::core) mod leased;
pub(in crate::core) mod own;
pub(in crate::core) mod push;
pub(in crate::core) mod shared;
#[cfg(test)]
mod tests;
pub(in crate::core) mod topics;
pub(in crate::core) mod upstream;

use crate::base::key::Arena;
use crate::base::key::Key;
use crate::command::Family;
use crate::core::keys::ChildKey;
use crate::core::keys::LaneKey;
use crate::core::keys::TopicKey;
use crate::core::keys::TopicName;
use crate::core::keys::UserId;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// A channel, pattern or shard channel that somebody listens to, or wants to.
#[derive(Debug)]
pub(in crate::core) struct Topic {
    pub(in crate::core) user: UserId,
    pub(in crate::core) family: Family,
    pub(in crate::core) name: Arc<[u8]>,
    /// The last the upstream was told on the present connection: to subscribe, and not to unsubscribe.
    pub(in crate::core) wanted: bool,
    /// Commands about it that the upstream has not answered.
    pub(in crate::core) pending: u32,
    /// Of `Asked::Check`, those not answered.
    pub(in crate::core) checks: u32,
    /// Children with a confirmation, by the bits of their keys.
    pub(in crate::core) subscribers: BTreeSet<u64>,
    /// Requests at the front of a child that wait for it; a child that names it twice counts twice.
    pub(in crate::core) pins: u32,
    /// The upstream's answer to the last command about it, where that was an error.
    pub(in crate::core) refusal: Option<Vec<u8>>,
}

impl Topic {
    pub(in crate::core) fn is_on(&self) -> bool {
        self.wanted && self.pending == 0
    }

    pub(in crate::core) fn is_used(&self) -> bool {
        !self.subscribers.is_empty() || self.pins > 0
    }
}

/// What a user's connection was asked and has not answered; answers come in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum Asked {
    Join(TopicKey),
    Leave(TopicKey),
    /// SUBSCRIBE of a topic that is on, for the request behind which the fence of this number stands: may one more
    /// child join it? Redis confirms it once more.
    Check(TopicKey, ChildKey, u64),
    /// A PING whose answer shows that all before it is done. It carries the number, which no other has.
    Fence(ChildKey, u64),
    /// A PING of the janitor's: does the connection live?
    Probe(u64),
}

/// One user's subscriptions.
#[derive(Debug)]
pub(in crate::core) struct Hub {
    pub(in crate::core) lane: LaneKey,
    pub(in crate::core) names: [HashMap<Arc<[u8]>, TopicKey>; 3],
    pub(in crate::core) asked: VecDeque<Asked>,
    /// What children call the commands, where the upstream has renamed them.
    pub(in crate::core) renamed: HashMap<&'static [u8], Vec<u8>>,
}

impl Default for Hub {
    fn default() -> Self {
        let (names, renamed) = (Default::default(), HashMap::new());
        Hub { lane: Key::NONE, names, asked: VecDeque::new(), renamed }
    }
}

impl Hub {
    /// The upstream may know the command by another name only.
    pub(in crate::core) fn learn_verb(&mut self, verb: &'static [u8], typed: &[u8]) {
        if !typed.eq_ignore_ascii_case(verb) {
            self.renamed.insert(verb, typed.to_vec());
        } else if !self.renamed.is_empty() {
            self.renamed.remove(verb);
        }
    }

    pub(in crate::core) fn is_used(&self) -> bool {
        self.names.iter().any(|names| !names.is_empty())
    }
}

/// Every shared subscription there is.
#[derive(Debug, Default)]
pub(in crate::core) struct Hubs {
    pub(in crate::core) by_user: HashMap<UserId, Hub>,
    pub(in crate::core) topics: Arena<Topic, TopicName>,
    pub(in crate::core) fences: u64,
    /// Topics of nobody that a busy upstream would not let go.
    pub(in crate::core) to_leave: Vec<TopicKey>,
}

/// How a user's connection was lost.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) enum Loss {
    /// It broke, after so many failed attempts in a row.
    Broken(u32),
    /// The upstream has been replaced.
    Moved,
}

/// What a frame on a user's connection means for children.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) enum Heard {
    Nothing,
    /// A message for the listeners of this topic.
    Message(TopicKey),
    /// All that was asked before the fence of this child has been answered.
    Fence(ChildKey, u64),
}
