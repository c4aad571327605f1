//! Every shared subscription: each user's topics, who listens to them, and what the user's connection has been asked.
//! Changes both sides of a subscription, the topic's and the child's, in one function. Never touches a child itself.

pub(crate) mod moved;

use crate::base::key::{Arena, Key};
use crate::base::limits;
use crate::base::outgoing::Fragment;
use crate::command::{Count, Family, Subscribe};
use crate::config::value::OnSubscriberLoss;
use crate::core::connection::Connections;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::{LaneRole, RoleData};
use crate::core::connection::slot::{Slot, SlotKind};
use crate::core::env::Env;
use crate::core::keys::{ChildKey, LaneKey, PoolKey, TopicKey, TopicName, UserId};
use crate::core::notice::{ChildNotice, Notice};
use crate::core::pubsub::SubscriberLoss;
use crate::core::pubsub::glob::{self, Steps};
use crate::core::pubsub::own::{Fence, SharedSubscriptions};
use crate::core::pubsub::push::{Push, confirmation, push_of};
use crate::core::sweeps::Sweep;
use crate::resp::{Request, encode, reply};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// A channel, pattern or shard channel that a child listens to, or wants to.
#[derive(Debug)]
struct Topic {
    user: UserId,
    family: Family,
    name: Arc<[u8]>,
    /// What the upstream was asked last on the present connection: to subscribe, not to unsubscribe.
    wanted: bool,
    /// The upstream has confirmed that the present connection has it, and not yet that it has left.
    carried: bool,
    /// `Join` and `Leave` that the upstream has not answered.
    pending: u32,
    /// `Check` that the upstream has not answered.
    checks: u32,
    /// Children with a confirmation, by the bits of their keys.
    subscribers: BTreeSet<u64>,
    /// Requests at the front of a child that name it; one that names it twice counts twice.
    pins: u32,
    /// The upstream's answer to the last command about it, where that was an error.
    refusal: Option<Vec<u8>>,
}

impl Topic {
    fn is_on(&self) -> bool {
        self.wanted && self.pending == 0
    }

    fn is_used(&self) -> bool {
        !self.subscribers.is_empty() || self.pins > 0
    }
}

/// Steps that looking a name up costs.
const NAME_STEPS: usize = 32;

/// What a user's connection has been asked and has not answered. Answers come in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Join(TopicKey),
    Leave(TopicKey),
    /// SUBSCRIBE of a topic that is on, or being left, for the request behind which this fence stands: may one more child
    /// join?
    Check(TopicKey, ChildKey, u64),
    /// A PING whose answer shows that everything before it has been answered. It carries a number that no other has. It
    /// is nobody's where the janitor asks whether the connection is alive.
    Fence(ChildKey, u64),
}

/// What a frame on a user's connection means for children.
#[derive(Debug, Clone, Copy)]
pub(super) enum Received {
    Nothing,
    Message(TopicKey),
    FenceAnswered(ChildKey, u64),
}

#[derive(Debug, Default)]
pub(super) struct Hub {
    lane: LaneKey,
    /// Its connection is gone, and carries nothing, whatever its topics do not know yet.
    is_lost: bool,
    /// In order, since a hash table of very many names would move all of them at once when it grows.
    names: [BTreeMap<Arc<[u8]>, TopicKey>; 3],
    asked: VecDeque<Asked>,
    /// What children call the commands, where the upstream has renamed them.
    renamed: HashMap<&'static str, Vec<u8>>,
}

impl Hub {
    pub(super) fn lane(&self) -> LaneKey {
        self.lane
    }

    /// Whether a message on this channel reaches a topic of this user's, or a question about it is about one.
    pub(super) fn has_topic_of(&self, count: Count, name: &[u8], steps: &mut Steps) -> bool {
        self.topics_of(count, name, steps).next().is_some()
    }

    /// The topics that a message on this channel reaches, or that a question about it is about.
    fn topics_of(&self, count: Count, name: &[u8], steps: &mut Steps) -> impl Iterator<Item = TopicKey> {
        let names = &self.names[count.family as usize];
        let own = if steps.take(NAME_STEPS) { names.get(name) } else { None };
        let has_patterns = count.publishes && count.family == Family::Channel;
        let patterns = self.names[Family::Pattern as usize].iter().filter(move |_| has_patterns);
        let matching = patterns.filter(move |(pattern, _)| glob::matches(pattern, name, steps));
        own.copied().into_iter().chain(matching.map(|(_, key)| *key))
    }
}

/// Who listens to a channel here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Audience {
    /// Topics that the upstream sends it for, and counts.
    pub(super) topics: i64,
    pub(super) listeners: i64,
}

/// A topic as an operator sees it.
#[derive(Debug)]
pub(crate) struct AboutTopic<'a> {
    pub(crate) user: UserId,
    pub(crate) kind: &'static str,
    pub(crate) name: &'a [u8],
    pub(crate) listeners: usize,
    pub(crate) state: &'static str,
}

#[derive(Debug, Default)]
pub(crate) struct Hubs {
    by_user: HashMap<UserId, Hub>,
    topics: Arena<Topic, TopicName>,
    pings: u64,
    /// Unused topics that a busy upstream has refused to leave.
    to_leave: Vec<TopicKey>,
    /// What children have left behind that ended with very many topics, or gave them up.
    leftovers: VecDeque<Box<SharedSubscriptions>>,
    /// Messages on their way to their listeners, one of a connection at most.
    under_way: VecDeque<Delivery>,
}

/// A message that not all listeners have. What its connection says next waits for it, so that nobody begins to listen, or
/// is confirmed to have left, in the middle.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) lane: LaneKey,
    pub(super) topic: TopicKey,
    pub(super) message: Fragment,
    /// The last listener that has it, by the bits of its key.
    pub(super) reached: u64,
}

impl Hubs {
    pub(super) fn live<'a>(&'a mut self, connections: &'a mut Connections, env: &'a mut Env) -> LiveHubs<'a> {
        LiveHubs { hubs: self, connections, env }
    }

    /// Every topic there is.
    pub(crate) fn topic_keys(&self) -> Vec<TopicKey> {
        self.topics.keys()
    }

    pub(crate) fn about(&self, key: TopicKey) -> Option<AboutTopic<'_>> {
        let topic = self.topics.get(key)?;
        let kind = match topic.family {
            Family::Channel => "channel",
            Family::Pattern => "pattern",
            Family::Shard => "shard",
        };
        let state = match topic {
            topic if topic.is_on() => "on",
            topic if topic.wanted => "joining",
            _ => "leaving",
        };
        let (user, name, listeners) = (topic.user, &*topic.name, topic.subscribers.len());
        Some(AboutTopic { user, kind, name, listeners, state })
    }

    /// The lane for the user's subscriptions, once there was a need of one.
    pub(super) fn lane_of(&self, user: UserId) -> Option<LaneKey> {
        self.by_user.get(&user).map(|hub| hub.lane).filter(|lane| !lane.is_none())
    }

    /// No child is this user any more, or listens as this user, and its connection has gone.
    pub(crate) fn forget_user(&mut self, user: UserId) {
        for topic in self.topics_of(user) {
            self.topics.remove(topic);
        }
        self.by_user.remove(&user);
    }

    /// The upstream may know the command by another name only: that by which a child has called it.
    pub(super) fn learn_name(&mut self, user: UserId, change: Subscribe, typed: &[u8]) {
        let renamed = &mut self.by_user.entry(user).or_default().renamed;
        if !typed.eq_ignore_ascii_case(change.name().as_bytes()) {
            renamed.insert(change.name(), typed.to_vec());
        } else if !renamed.is_empty() {
            renamed.remove(change.name());
        }
    }

    /// The child listens to the next `count` of what its SUBSCRIBE names. Returns its confirmations.
    pub(super) fn join(
        &mut self,
        own: &mut SharedSubscriptions,
        (change, proto): (Subscribe, u8),
        count: usize,
    ) -> Vec<u8> {
        let mut out = Vec::new();
        for key in own.to_join(count).to_vec() {
            own.joined();
            let Some(topic) = self.known(key) else { continue };
            topic.pins -= 1;
            if own.add(key, topic.family, &topic.name) {
                topic.subscribers.insert(own.child().to_bits());
            }
            confirmation(&mut out, proto, change, Some(&topic.name), own.count(change.family));
        }
        out
    }

    /// The next `count` topics that an UNSUBSCRIBE is about, in its order; `Key::NONE` for a name without a topic.
    pub(super) fn named(
        &self,
        own: &SharedSubscriptions,
        family: Family,
        request: &Request<'_>,
        count: usize,
    ) -> Vec<TopicKey> {
        if request.argc() == 1 {
            return own.held_of(family).take(count).collect();
        }
        let find = |index| self.find(own.user(), family, request.arg(index)).unwrap_or(Key::NONE);
        let from = 1 + own.left();
        (from..request.argc().min(from + count)).map(find).collect()
    }

    /// The children that listen to a topic. None, if it has been forgotten since.
    pub(super) fn listeners(&self, topic: TopicKey) -> impl Iterator<Item = ChildKey> {
        let topic = self.topics.get(topic).into_iter();
        topic.flat_map(|topic| &topic.subscribers).map(|child| Key::from_bits(*child))
    }

    /// Whether nobody has any shared subscription.
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// The user's hub, and whether others have one.
    pub(super) fn hub_of(&self, user: UserId) -> (Option<&Hub>, bool) {
        let own = self.by_user.get(&user);
        (own, self.by_user.len() > usize::from(own.is_some()))
    }

    /// What listens to this channel here: on how many topics the upstream knows of it, and how many children it reaches
    /// through them. A child that has two of them counts twice, as it does for Redis.
    pub(super) fn audience(&self, count: Count, name: &[u8], steps: &mut Steps) -> Audience {
        let mut audience = Audience::default();
        for hub in self.by_user.values().filter(|hub| !hub.is_lost) {
            let topics = hub.topics_of(count, name, steps).filter_map(|key| self.topics.get(key));
            for topic in topics.filter(|topic| topic.carried) {
                audience.topics += 1;
                audience.listeners += topic.subscribers.len() as i64;
            }
        }
        audience
    }

    /// The next of them in the order of their keys, behind the one that was `reached` last.
    pub(super) fn next_listeners(&self, topic: TopicKey, reached: Option<u64>) -> impl Iterator<Item = u64> {
        let from = reached.map_or(Bound::Unbounded, Bound::Excluded);
        let topic = self.topics.get(topic).into_iter();
        topic.flat_map(move |topic| topic.subscribers.range((from, Bound::Unbounded))).copied()
    }

    pub(super) fn keep_delivery(&mut self, delivery: Delivery) {
        self.under_way.push_back(delivery);
    }

    pub(super) fn next_delivery(&mut self) -> Option<Delivery> {
        self.under_way.pop_front()
    }

    pub(crate) fn is_delivering(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Whether what this connection says has to wait.
    pub(crate) fn is_delivering_of(&self, lane: LaneKey) -> bool {
        self.under_way.iter().any(|delivery| delivery.lane == lane)
    }

    /// The upstream has ended the subscription itself. Returns what its listeners are told, if it is still known.
    pub(super) fn moved(&mut self, key: TopicKey) -> Option<(Subscribe, Arc<[u8]>)> {
        let topic = self.topics.get_mut(key)?;
        (topic.wanted, topic.carried) = (false, false);
        Some((Subscribe { family: topic.family, leave: true }, Arc::clone(&topic.name)))
    }

    /// A topic that is used, or that the upstream has to answer about: it must exist.
    fn known(&mut self, key: TopicKey) -> Option<&mut Topic> {
        let topic = self.topics.get_mut(key);
        debug_assert!(topic.is_some(), "a topic in use was forgotten");
        topic
    }

    fn find(&self, user: UserId, family: Family, name: &[u8]) -> Option<TopicKey> {
        self.by_user.get(&user)?.names[family as usize].get(name).copied()
    }

    fn topics_of(&self, user: UserId) -> Vec<TopicKey> {
        self.topics.iter().filter(|(_, topic)| topic.user == user).map(|(key, _)| key).collect()
    }
}

/// The shared subscriptions with the connections that carry them.
pub(crate) struct LiveHubs<'a> {
    hubs: &'a mut Hubs,
    connections: &'a mut Connections,
    env: &'a mut Env,
}

impl LiveHubs<'_> {
    fn want(&mut self, user: UserId) {
        let known = self.hubs.lane_of(user).filter(|lane| self.connections.find(*lane).is_some());
        let lane = known.unwrap_or_else(|| {
            // Channels belong to no db, so none is selected.
            let pool =
                self.connections.pool_of(PoolKey { user, db: 0, proto: 3, no_touch: false, replica: 0 });
            self.connections.add(Lane::new(pool, RoleData::Subscriber { listened: false }, self.env.now))
        });
        self.hubs.by_user.entry(user).or_default().lane = lane;
        self.tell_lane(user);
        if !self.env.sweeps.is_lost(user) {
            self.connections.want(self.env, lane);
        }
    }

    pub(super) fn is_ready(&self, user: UserId) -> bool {
        self.hubs.lane_of(user).and_then(|lane| self.connections.find(lane)).is_some_and(Lane::is_ready)
    }

    /// Whether the upstream has subscribed to all of these topics, on a connection that stands. An error is the upstream's,
    /// for one of them.
    pub(super) fn are_on(&self, user: UserId, topics: &[TopicKey]) -> Result<bool, Vec<u8>> {
        let mut topics = topics.iter().filter_map(|topic| self.hubs.topics.get(*topic));
        match topics.find(|topic| !topic.is_on()) {
            None => Ok(self.is_ready(user)),
            Some(Topic { refusal: Some(refusal), wanted: false, .. }) => Err(refusal.clone()),
            Some(_) => Ok(false),
        }
    }

    /// The connection stands: everything that is listened to is asked for.
    pub(crate) fn connected(&mut self, lane: LaneKey) {
        let Some(user) = self.user_of(lane) else { return };
        if let Some(hub) = self.hubs.by_user.get_mut(&user) {
            hub.is_lost = false;
        }
        self.env.sweeps.begin(Sweep::HubTopics(user));
    }

    /// Nothing that was asked will be answered. Who waits for a first confirmation waits for the next connection, which
    /// is not dialled before all have been seen to.
    pub(crate) fn disconnected(&mut self, lane: LaneKey, loss: SubscriberLoss) {
        let Some(user) = self.user_of(lane) else { return };
        let Some(hub) = self.hubs.by_user.get_mut(&user) else {
            return debug_assert!(false, "no such hub");
        };
        hub.asked.clear();
        hub.is_lost = true;
        self.connections.known_mut(lane).map(Lane::take_all);
        if loss == SubscriberLoss::UpstreamReplaced {
            // What the former one says no longer reaches anybody.
            self.connections.drop_connection(self.env, lane);
        }
        self.env.sweeps.begin(Sweep::LostTopics(user));
        let closes = self.env.settings.on_subscriber_loss == OnSubscriberLoss::Close;
        self.env.sweeps.begin(Sweep::SubscribersLost { user, loss, closes });
    }

    /// Visits the next topic: of one whose connection is lost nothing that was asked is known, and on a new connection
    /// what is listened to is asked for. Returns where to go on.
    pub(crate) fn visit_topic(&mut self, user: UserId, lost: bool, from: usize) -> Option<usize> {
        let (next, key) = self.hubs.topics.from(from)?;
        let topic = self.hubs.topics.get_mut(key).filter(|topic| topic.user == user);
        if let Some(topic) = topic {
            if lost {
                (topic.wanted, topic.carried) = (false, false);
                (topic.pending, topic.checks) = (0, 0);
            }
            if !topic.is_used() {
                self.release(key);
            } else if !lost && !topic.wanted && self.is_ready(user) {
                self.ask(user, Asked::Join(key));
            }
        }
        Some(next)
    }

    /// Has the user's lane, if there is one yet, know whether it is needed.
    fn tell_lane(&mut self, user: UserId) {
        let hub = self.hubs.by_user.get(&user);
        let used = hub.is_some_and(|hub| hub.names.iter().any(|names| !names.is_empty()));
        // It may have gone with its user.
        if let Some(lane) = self.hubs.lane_of(user).and_then(|lane| self.connections.find_mut(lane)) {
            lane.set_listened(used);
        }
    }

    fn user_of(&self, lane: LaneKey) -> Option<UserId> {
        self.connections.known(lane).map(|lane| self.connections.key_of(lane).user)
    }

    /// Asks the user's connection, which is ready. Its answer is awaited in the order of asking.
    pub(super) fn ask(&mut self, user: UserId, asked: Asked) {
        debug_assert!(self.is_ready(user), "asked without a connection");
        let Some(hub) = self.hubs.by_user.get_mut(&user) else { return };
        let mut bytes = Vec::new();
        match asked {
            Asked::Join(key) | Asked::Leave(key) | Asked::Check(key, ..) => {
                let Some(topic) = self.hubs.topics.get_mut(key) else {
                    return debug_assert!(false, "no topic");
                };
                let leave = matches!(asked, Asked::Leave(_));
                if let Asked::Check(..) = asked {
                    topic.checks += 1;
                } else {
                    (topic.wanted, topic.refusal) = (!leave, None);
                    topic.pending += 1;
                }
                let name = Subscribe { family: topic.family, leave }.name();
                let typed = hub.renamed.get(name).map_or(name.as_bytes(), Vec::as_slice);
                encode::request(&mut bytes, &[typed, &topic.name]);
            }
            Asked::Fence(_, number) => {
                encode::request(&mut bytes, &[b"PING", number.to_string().as_bytes()]);
            }
        }
        hub.asked.push_back(asked);
        self.connections.send(self.env, hub.lane, &bytes, Slot::own(SlotKind::Topic));
    }

    /// A connection that has long said nothing is asked whether it lives: a stall is noticed only where an answer is
    /// owed. One that carries nothing any more is forgotten. What the upstream was too busy to leave is asked again.
    pub(crate) fn check(&mut self) {
        for topic in std::mem::take(&mut self.hubs.to_leave) {
            self.release(topic);
        }
        let quiet = self.env.settings.lane_stall_timeout / 2;
        for key in self.connections.keys_where(|lane| lane.role() == LaneRole::Subscriber) {
            let (Some(user), Some(lane)) = (self.user_of(key), self.connections.known(key)) else { continue };
            let used = lane.is_listened();
            let silent = lane.is_idle() && self.env.now.saturating_sub(lane.record().last_reply) >= quiet;
            if used && lane.is_ready() && silent && quiet > 0 {
                self.hubs.pings += 1;
                self.ask(user, Asked::Fence(Key::NONE, self.hubs.pings));
            } else if !used && lane.is_dormant() {
                self.connections.remove(self.env, key);
                self.hubs.forget_user(user);
            }
        }
    }

    /// Finds the next `count` topics that a SUBSCRIBE names, or makes them, and keeps them for it.
    pub(super) fn pin(
        &mut self,
        own: &mut SharedSubscriptions,
        family: Family,
        request: &Request<'_>,
        count: usize,
    ) {
        let user = own.user();
        let Hubs { by_user, topics, .. } = &mut *self.hubs;
        let names = &mut by_user.entry(user).or_default().names[family as usize];
        let from = 1 + own.pinned().len();
        for name in (from..request.argc().min(from + count)).map(|index| request.arg(index)) {
            let key = names.get(name).copied().unwrap_or_else(|| {
                let name: Arc<[u8]> = name.into();
                let key = topics.insert(Topic {
                    user,
                    family,
                    name: Arc::clone(&name),
                    wanted: false,
                    carried: false,
                    pending: 0,
                    checks: 0,
                    subscribers: BTreeSet::new(),
                    pins: 0,
                    refusal: None,
                });
                names.insert(name, key);
                key
            });
            if let Some(topic) = topics.get_mut(key) {
                topic.pins += 1;
            }
            own.pin(key);
        }
        self.tell_lane(user);
    }

    /// The request at the front needs its topics no longer.
    pub(super) fn unpin(&mut self, own: &mut SharedSubscriptions) {
        if own.entries() - own.total() as usize > limits::TOPICS_STEP {
            let rest = own.split_front();
            return self.leave_behind(rest);
        }
        while let Some(key) = own.pop_pinned() {
            self.unpin_one(key);
        }
        own.forget_front();
    }

    fn unpin_one(&mut self, key: TopicKey) {
        if let Some(topic) = self.hubs.known(key) {
            topic.pins -= 1;
        }
        self.release(key);
    }

    fn leave_behind(&mut self, own: Box<SharedSubscriptions>) {
        self.hubs.leftovers.push_back(own);
        self.env.sweeps.begin(Sweep::Leftovers);
    }

    /// Gives back one of what children have left behind. False if there is no more.
    pub(crate) fn clear_leftover(&mut self) -> bool {
        let Some(mut own) = self.hubs.leftovers.pop_front() else { return false };
        let held = own.held().next();
        match held {
            Some(key) => self.unsubscribe(&mut own, key),
            None => match own.pop_pinned() {
                Some(key) => self.unpin_one(key),
                None => return true,
            },
        }
        self.hubs.leftovers.push_front(own);
        true
    }

    /// Asks what the request at the front of a child needs, and a fence behind it; false if there is more to ask in the
    /// child's next turn. Without a connection one is dialled, and this is asked when it is ready.
    pub(super) fn ask_fence(&mut self, own: &mut SharedSubscriptions) -> bool {
        let first = own.fence() == Fence::NotAsked;
        let (user, fence) = match own.fence() {
            Fence::Asking(number) => (own.user(), number),
            _ => {
                self.hubs.pings += 1;
                (own.user(), self.hubs.pings)
            }
        };
        if !self.is_ready(user) {
            self.want(user);
            own.await_fence(fence, self.env.now);
            return true;
        }
        for key in own.take_to_ask(limits::TOPICS_STEP) {
            let asks = first || matches!(own.fence(), Fence::Asking(_));
            match self.hubs.known(key).map(|topic| (topic.wanted, topic.pending)) {
                Some((false, 0)) => self.ask(user, Asked::Join(key)),
                // That the user may listen to it was true when another child joined. What is being left may stay, and this
                // child be refused.
                Some((wanted, _)) if asks || !wanted => {
                    self.ask(user, Asked::Check(key, own.child(), fence));
                }
                _ => {}
            }
        }
        if !own.has_asked() {
            own.begin_to_ask(fence);
            return false;
        }
        self.ask(user, Asked::Fence(own.child(), fence));
        own.await_fence(fence, self.env.now);
        true
    }

    /// Whether a child may leave these topics now: those with no other listener are left upstream first, so that all
    /// that is published until then comes. An error is the upstream's, which does not let it leave.
    pub(super) fn may_leave(
        &mut self,
        own: &SharedSubscriptions,
        named: &[TopicKey],
    ) -> Result<bool, Vec<u8>> {
        let user = own.user();
        let mut held = named.iter().copied().filter(|topic| own.holds(*topic)).peekable();
        if held.peek().is_none() || !self.is_ready(user) {
            // Without a connection there is nothing to leave upstream, and nothing more will come.
            return Ok(true);
        }
        // What has been left for it, and was joined again for another, is not carried until that is confirmed.
        let last =
            |topic: &Topic| topic.wanted && topic.carried && topic.subscribers.len() == 1 && topic.pins == 0;
        let last: Vec<TopicKey> = held.filter(|key| self.hubs.topics.get(*key).is_some_and(last)).collect();
        if own.fence() == Fence::Answered {
            let mut topics = last.iter().filter_map(|topic| self.hubs.topics.get(*topic));
            if let Some(refusal) = topics.find_map(|topic| topic.refusal.clone()) {
                return Err(refusal);
            }
            if last.is_empty() {
                return Ok(true);
            }
        }
        for key in last {
            // Named twice, it has been asked already.
            if self.hubs.known(key).is_some_and(|topic| topic.wanted) {
                self.ask(user, Asked::Leave(key));
            }
        }
        Ok(false)
    }

    /// The child leaves these topics. Returns its confirmations.
    pub(super) fn leave(
        &mut self,
        own: &mut SharedSubscriptions,
        (change, proto): (Subscribe, u8),
        named: &[TopicKey],
        request: &Request<'_>,
    ) -> Vec<u8> {
        let mut out = Vec::new();
        let from = 1 + own.left();
        for (index, key) in named.iter().enumerate() {
            let typed = Some(from + index).filter(|index| *index < request.argc());
            let typed = typed.map(|index| request.arg(index));
            let name = self.hubs.topics.get(*key).map(|topic| Arc::clone(&topic.name));
            self.unsubscribe(own, *key);
            confirmation(&mut out, proto, change, typed.or(name.as_deref()), own.count(change.family));
        }
        if named.is_empty() {
            confirmation(&mut out, proto, change, None, own.count(change.family));
        }
        out
    }

    /// Takes a child off a topic's list, if it is on it. The topic is left upstream if no other child is.
    pub(super) fn unsubscribe(&mut self, own: &mut SharedSubscriptions, key: TopicKey) {
        if own.holds(key)
            && let Some(topic) = self.hubs.known(key)
        {
            own.remove(key, topic.family, &topic.name);
            topic.subscribers.remove(&own.child().to_bits());
            self.release(key);
        }
    }

    pub(super) fn leave_all(&mut self, mut own: Box<SharedSubscriptions>) {
        if own.entries() > limits::TOPICS_STEP {
            return self.leave_behind(own);
        }
        for topic in own.held().collect::<Vec<_>>() {
            self.unsubscribe(&mut own, topic);
        }
        self.unpin(&mut own);
    }

    /// The child leaves what a connection that stands has been asked to leave for it: that may be left already, and it
    /// would listen in vain.
    pub(super) fn leave_unwanted(&mut self, own: &mut SharedSubscriptions) {
        let ready = self.is_ready(own.user());
        for key in own.held().filter(|_| ready).collect::<Vec<_>>() {
            if self.hubs.known(key).is_some_and(|topic| !topic.wanted) {
                self.unsubscribe(own, key);
            }
        }
    }

    /// Leaves a topic upstream that nobody needs, and forgets it once that is answered.
    pub(super) fn release(&mut self, key: TopicKey) {
        // Where a notice or a later look names it, it may have been forgotten since.
        let Some(topic) = self.hubs.topics.get(key).filter(|topic| !topic.is_used()) else { return };
        let user = topic.user;
        if topic.wanted && self.is_ready(user) {
            return self.ask(user, Asked::Leave(key));
        }
        if topic.pending == 0 && topic.checks == 0 {
            let hub = self.hubs.by_user.get_mut(&user);
            hub.and_then(|hub| hub.names[topic.family as usize].remove(&topic.name));
            self.hubs.topics.remove(key);
            self.tell_lane(user);
        }
    }

    /// One frame on the user's connection. `Err` says why it makes no sense there.
    pub(super) fn received(
        &mut self,
        lane: LaneKey,
        kind: u8,
        frame: &[u8],
    ) -> Result<Received, &'static str> {
        let user = self.user_of(lane).ok_or("a lane that is gone")?;
        if kind != b'>' {
            return self.replied(user, frame);
        }
        let Some(push) = push_of(frame) else { return Ok(Received::Nothing) };
        let name = reply::element(frame, 1).and_then(|range| reply::text(&frame[range]));
        let family = match push {
            Push::Message(family) | Push::Confirmation(Subscribe { family, .. }) => family,
        };
        match (push, name.and_then(|name| self.hubs.find(user, family, name))) {
            // Published before the upstream heard that nobody listens any more.
            (Push::Message(_), None) => Ok(Received::Nothing),
            (Push::Message(_), Some(topic)) => Ok(Received::Message(topic)),
            (Push::Confirmation(change), Some(topic)) => {
                self.confirmed(user, change, topic).map(|()| Received::Nothing)
            }
            (Push::Confirmation(_), None) => Err("a confirmation of a subscription nobody has"),
        }
    }

    /// The topic of a message of which only the beginning has come.
    pub(crate) fn topic_of_message(&self, lane: LaneKey, beginning: &[u8]) -> Option<TopicKey> {
        let Some(Push::Message(family)) = push_of(beginning) else { return None };
        let name = reply::text(&beginning[reply::element(beginning, 1)?])?;
        self.hubs.find(self.user_of(lane)?, family, name)
    }

    fn confirmed(&mut self, user: UserId, change: Subscribe, topic: TopicKey) -> Result<(), &'static str> {
        let front = self.hubs.by_user.get(&user).and_then(|hub| hub.asked.front());
        let was_asked = match front {
            Some(Asked::Leave(asked)) => *asked == topic && change.leave,
            Some(Asked::Join(asked) | Asked::Check(asked, ..)) => *asked == topic && !change.leave,
            Some(Asked::Fence(..)) | None => false,
        };
        if was_asked {
            let asked = self.pop_asked(user)?;
            self.settle(asked, None);
        } else if change.leave && change.family == Family::Shard {
            self.env.notify(Notice::TopicMoved(topic));
        } else {
            return Err("a confirmation nobody asked for");
        }
        Ok(())
    }

    /// A reply that is no push: of a PING, or a refusal.
    fn replied(&mut self, user: UserId, frame: &[u8]) -> Result<Received, &'static str> {
        let refused = reply::is_error(frame);
        match self.pop_asked(user)? {
            // Even a refused PING has been answered in its turn.
            Asked::Fence(child, number)
                if refused || reply::text(frame) == Some(number.to_string().as_bytes()) =>
            {
                Ok(Received::FenceAnswered(child, number))
            }
            Asked::Fence(..) => Err("a PING was answered with another's number"),
            asked if refused => {
                self.settle(asked, Some(frame));
                Ok(Received::Nothing)
            }
            _ => Err("a subscription was answered with no push"),
        }
    }

    fn pop_asked(&mut self, user: UserId) -> Result<Asked, &'static str> {
        let hub = self.hubs.by_user.get_mut(&user).ok_or("a reply nobody asked for")?;
        let lane = self.connections.find_mut(hub.lane).ok_or("a lane that is gone")?;
        // A confirmation that comes before the reply of a child's request: that has been lost.
        lane.front().filter(|slot| slot.kind == SlotKind::Topic).ok_or("a reply out of its turn")?;
        lane.take_answered(self.env.now).ok_or("a reply nobody asked for")?;
        hub.asked.pop_front().ok_or("a reply nobody asked for")
    }

    /// The oldest command about a topic has been carried out, or was refused with an error.
    fn settle(&mut self, asked: Asked, refusal: Option<&[u8]>) {
        let (Asked::Join(key) | Asked::Leave(key) | Asked::Check(key, ..)) = asked else { return };
        let Some(topic) = self.hubs.known(key) else { return };
        if refusal.is_none() {
            topic.carried = !matches!(asked, Asked::Leave(_));
        }
        if let Asked::Check(_, child, fence) = asked {
            topic.checks -= 1;
            // What the first child to ask was refused a moment before.
            topic.wanted |= refusal.is_none() && topic.pending == 0;
            if let Some(frame) = refusal {
                // Those who have the topic keep it, as on connections of their own.
                self.env.notify(Notice::Child(child, ChildNotice::JoinRefused(fence, frame.to_vec())));
            }
            return self.release(key);
        }
        topic.pending -= 1;
        if let Some(frame) = refusal.filter(|_| topic.pending == 0) {
            log::info!("a subscription was refused: {}", reply::error_text(frame).unwrap_or_default());
            topic.refusal = Some(frame.to_vec());
            // What was refused changed nothing, whatever it was.
            topic.wanted = topic.carried;
            if !topic.wanted {
                // They listened on the connection before this one; their right has gone since.
                return self.env.notify(Notice::TopicRefused(key));
            }
            if !topic.is_used() {
                // It may not be left: it stays, and its messages go to nobody. A busy upstream is asked again.
                if reply::error_code(frame) == Some(b"BUSY") {
                    self.hubs.to_leave.push(key);
                }
                return;
            }
        }
        self.release(key);
    }
}

#[cfg(test)]
mod tests;
