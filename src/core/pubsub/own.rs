//! A child's side of its subscriptions: how many it has on its leased lane, where Redis alone knows which they are; and
//! which topics it shares, and how far its request about them is. `pubsub::hubs` alone changes what it shares.

use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::command::{Family, Subscribe};
use crate::core::keys::{ChildKey, TopicKey, UserId};
use std::collections::BTreeSet;

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

/// What a subscription costs beside its name: the entries that remember it here and in its topic.
const SUBSCRIPTION_BYTES: usize = 128;

/// How far a request about subscriptions is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fence {
    #[default]
    NotAsked,
    /// What is needed is being asked, a part in each of the child's turns; the PING of this number will stand behind it.
    Asking(u64),
    /// The upstream has to answer the PING of this number.
    Asked(u64),
    /// All that the request needed has been answered.
    Answered,
}

/// What a child's request at the front, if it is about subscriptions, has come to. Replaced as a whole.
#[derive(Debug, Default)]
struct FrontChange {
    /// What a SUBSCRIBE names, in order, as far as it has been read.
    pinned: Vec<TopicKey>,
    /// Of these, those that have been asked for before the fence that is to come; that were on when it was answered; that
    /// the child listens to. Where there are many, each takes several turns of the child.
    asked: usize,
    checked: usize,
    joined: usize,
    /// Names of an UNSUBSCRIBE that are left and confirmed.
    left: usize,
    fence: Fence,
    /// The upstream's answer to a SUBSCRIBE of what other children have already, if that was an error.
    refusal: Option<Vec<u8>>,
    since: Option<Millis>,
}

#[derive(Debug)]
pub(crate) struct SharedSubscriptions {
    child: ChildKey,
    user: UserId,
    counts: [u32; 3],
    /// The topics of each family, by the bits of their keys.
    held: [BTreeSet<u64>; 3],
    names_bytes: usize,
    front: FrontChange,
}

impl SharedSubscriptions {
    pub(crate) fn new(child: ChildKey, user: UserId) -> Box<SharedSubscriptions> {
        let (held, front) = Default::default();
        Box::new(SharedSubscriptions { child, user, counts: [0; 3], held, names_bytes: 0, front })
    }

    pub(super) fn child(&self) -> ChildKey {
        self.child
    }

    pub(crate) fn user(&self) -> UserId {
        self.user
    }

    pub(crate) fn total(&self) -> u32 {
        self.counts.iter().sum()
    }

    pub(crate) fn counts(&self) -> (u32, u32, u32) {
        (self.counts[0], self.counts[1], self.counts[2])
    }

    /// The count Redis puts into a confirmation.
    pub(super) fn count(&self, family: Family) -> u32 {
        match family {
            Family::Channel | Family::Pattern => self.counts[0] + self.counts[1],
            Family::Shard => self.counts[2],
        }
    }

    pub(crate) fn footprint(&self) -> usize {
        std::mem::size_of::<SharedSubscriptions>()
            + self.names_bytes
            + self.total() as usize * SUBSCRIPTION_BYTES
            + self.front.pinned.capacity() * std::mem::size_of::<TopicKey>()
    }

    pub(super) fn holds(&self, topic: TopicKey) -> bool {
        self.held.iter().any(|held| held.contains(&topic.to_bits()))
    }

    pub(super) fn held(&self) -> impl Iterator<Item = TopicKey> {
        self.held.iter().flatten().map(|bits| Key::from_bits(*bits))
    }

    pub(super) fn held_of(&self, family: Family) -> impl Iterator<Item = TopicKey> {
        self.held[family as usize].iter().map(|bits| Key::from_bits(*bits))
    }

    /// How much there is to undo when it ends.
    pub(super) fn entries(&self) -> usize {
        self.total() as usize + self.front.pinned.len() - self.front.joined
    }

    /// False if it has the topic already.
    pub(super) fn add(&mut self, topic: TopicKey, family: Family, name: &[u8]) -> bool {
        let added = self.held[family as usize].insert(topic.to_bits());
        if added {
            self.counts[family as usize] += 1;
            self.names_bytes += name.len();
        }
        added
    }

    pub(super) fn remove(&mut self, topic: TopicKey, family: Family, name: &[u8]) {
        let was_held = self.held[family as usize].remove(&topic.to_bits());
        debug_assert!(was_held, "a topic taken twice");
        self.counts[family as usize] -= 1;
        self.names_bytes -= name.len();
    }

    pub(super) fn pinned(&self) -> &[TopicKey] {
        &self.front.pinned
    }

    pub(super) fn pin(&mut self, topic: TopicKey) {
        self.front.pinned.push(topic);
    }

    /// One that is pinned and no longer needs to be, from the end.
    pub(super) fn pop_pinned(&mut self) -> Option<TopicKey> {
        if self.front.pinned.len() > self.front.joined { self.front.pinned.pop() } else { None }
    }

    /// Takes the next few that are still to be asked for before the fence.
    pub(super) fn take_to_ask(&mut self, count: usize) -> Vec<TopicKey> {
        let from = self.front.asked;
        self.front.asked = self.front.pinned.len().min(from + count);
        self.front.pinned[from..self.front.asked].to_vec()
    }

    pub(super) fn has_asked(&self) -> bool {
        self.front.asked == self.front.pinned.len()
    }

    /// The next few that have not been looked at since the fence was answered.
    pub(super) fn to_check(&self, count: usize) -> &[TopicKey] {
        let rest = &self.front.pinned[self.front.checked..];
        &rest[..rest.len().min(count)]
    }

    pub(super) fn checked(&mut self, count: usize) {
        self.front.checked += count;
    }

    /// The next few that the child does not listen to yet.
    pub(super) fn to_join(&self, count: usize) -> &[TopicKey] {
        let rest = &self.front.pinned[self.front.joined..];
        &rest[..rest.len().min(count)]
    }

    pub(super) fn joined(&mut self) {
        self.front.joined += 1;
    }

    pub(super) fn has_joined_any(&self) -> bool {
        self.front.joined > 0
    }

    /// How many names of an UNSUBSCRIBE are done.
    pub(super) fn left(&self) -> usize {
        self.front.left
    }

    /// So many more are. What comes next needs a fence of its own.
    pub(super) fn add_left(&mut self, count: usize) {
        self.front.left += count;
        self.front.fence = Fence::NotAsked;
    }

    /// What is to come before the fence of this number is being asked.
    pub(super) fn begin_to_ask(&mut self, number: u64) {
        self.front.fence = Fence::Asking(number);
    }

    pub(super) fn fence(&self) -> Fence {
        self.front.fence
    }

    pub(super) fn await_fence(&mut self, number: u64, now: Millis) {
        self.front.fence = Fence::Asked(number);
        // If what it needs is lost after that, it is asked for again.
        (self.front.asked, self.front.checked) = (self.front.joined, self.front.joined);
        self.front.since.get_or_insert(now);
    }

    /// The upstream has answered this fence. False if the request waits for another one.
    pub(super) fn fence_answered(&mut self, number: u64) -> bool {
        let awaited = self.front.fence == Fence::Asked(number);
        if awaited {
            self.front.fence = Fence::Answered;
        }
        awaited
    }

    /// The upstream has refused a topic that the request before this fence names.
    pub(crate) fn join_refused(&mut self, fence: u64, frame: Vec<u8>) {
        if [Fence::Asked(fence), Fence::Asking(fence)].contains(&self.front.fence) {
            self.front.refusal.get_or_insert(frame);
        }
    }

    pub(super) fn take_refusal(&mut self) -> Option<Vec<u8>> {
        self.front.refusal.take()
    }

    pub(super) fn waits_since(&self) -> Option<Millis> {
        self.front.since
    }

    /// Forgets the request, of which nothing is pinned any more.
    pub(super) fn forget_front(&mut self) {
        debug_assert!(self.front.pinned.len() == self.front.joined, "a pin that nobody takes back");
        self.front = FrontChange::default();
    }

    /// The same, with what is still pinned: it is given back by degrees, for a child that does not wait for it.
    pub(super) fn split_front(&mut self) -> Box<SharedSubscriptions> {
        let mut rest = SharedSubscriptions::new(self.child, self.user);
        rest.front = std::mem::take(&mut self.front);
        rest
    }
}
