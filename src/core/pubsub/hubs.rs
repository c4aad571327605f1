//! Every shared subscription: the topics of each user, which children listen to them, and what the user's connection has
//! been asked about them. Changes both sides of a subscription, the topic's and the child's, in one function. Never
//! touches a child itself, and never decides when one is answered.

use crate::base::clock::Millis;
use crate::base::key::{Arena, Key};
use crate::command::{Family, NO_COMMAND, Subscribe};
use crate::core::connection::Connections;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::{LaneRole, RoleData};
use crate::core::connection::slot::{SlotFlags, SlotKind};
use crate::core::env::Env;
use crate::core::keys::{ChildKey, LaneKey, PoolKey, TopicKey, TopicName, UserId};
use crate::core::notice::{ChildNotice, Notice};
use crate::core::pubsub::push::{Push, confirmation, push_of, verb};
use crate::core::pubsub::shared::SharedSubscriptions;
use crate::core::pubsub::{SubscriberLoss, family_index};
use crate::resp::{Request, encode, reply};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// A channel, pattern or shard channel that a child listens to, or wants to.
#[derive(Debug)]
struct Topic {
    user: UserId,
    family: Family,
    name: Arc<[u8]>,
    /// What the upstream was asked last on the present connection: to subscribe, not to unsubscribe.
    wanted: bool,
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

/// What a user's connection has been asked and has not answered. Answers come in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Join(TopicKey),
    Leave(TopicKey),
    /// SUBSCRIBE of a topic that is on, for the request behind which the fence of this number stands: may one more
    /// child join it? Redis confirms it once more.
    Check(TopicKey, ChildKey, u64),
    /// A PING whose answer shows that everything before it has been answered. It carries a number that no other has.
    Fence(ChildKey, u64),
    /// A PING of the janitor's: is the connection alive?
    Probe(u64),
}

/// What a frame on a user's connection means for children.
#[derive(Debug, Clone, Copy)]
pub(super) enum Received {
    Nothing,
    /// A message for the listeners of this topic.
    Message(TopicKey),
    /// All that was asked before this fence of this child has been answered.
    FenceAnswered(ChildKey, u64),
}

/// One user's subscriptions.
#[derive(Debug)]
struct Hub {
    lane: LaneKey,
    names: [HashMap<Arc<[u8]>, TopicKey>; 3],
    asked: VecDeque<Asked>,
    /// What children call the commands, where the upstream has renamed them.
    renamed: HashMap<&'static [u8], Vec<u8>>,
}

impl Default for Hub {
    fn default() -> Self {
        let (names, renamed) = (Default::default(), HashMap::new());
        Hub { lane: Key::NONE, names, asked: VecDeque::new(), renamed }
    }
}

/// Every shared subscription there is.
#[derive(Debug, Default)]
pub(crate) struct Hubs {
    by_user: HashMap<UserId, Hub>,
    topics: Arena<Topic, TopicName>,
    /// The number of the last PING.
    pings: u64,
    /// Unused topics that a busy upstream has refused to leave.
    to_leave: Vec<TopicKey>,
}

impl Hubs {
    // ---- the connection -------------------------------------------------------------------------------

    /// The lane for the user's subscriptions, once there was a need of one.
    pub(super) fn lane_of(&self, user: UserId) -> Option<LaneKey> {
        self.by_user.get(&user).map(|hub| hub.lane).filter(|lane| !lane.is_none())
    }

    /// Sees to it that the user's connection is dialled.
    pub(super) fn want(&mut self, connections: &mut Connections, env: &mut Env, user: UserId) {
        let known = self.lane_of(user).filter(|lane| connections.find(*lane).is_some());
        let lane = known.unwrap_or_else(|| {
            // Channels belong to no db, so none is selected.
            let pool = connections.pool_of(PoolKey { user, db: 0, proto: 3, no_touch: false });
            connections.add(Lane::new(pool, RoleData::Subscriber { listened: false }, env.now))
        });
        self.by_user.entry(user).or_default().lane = lane;
        self.tell_lane(connections, user);
        connections.want(env, lane);
    }

    /// Whether the user's connection can be asked something.
    pub(super) fn is_ready(&self, connections: &Connections, user: UserId) -> bool {
        let lane = self.lane_of(user).and_then(|lane| connections.find(lane));
        lane.is_some_and(|lane| lane.is_ready())
    }

    /// The connection stands: everything that is listened to is asked for, in one go.
    pub(crate) fn connected(&mut self, connections: &mut Connections, env: &mut Env, lane: LaneKey) {
        let Some(user) = user_of(connections, lane) else { return };
        for topic in self.topics_of(user) {
            if self.topics.get(topic).is_some_and(Topic::is_used) {
                self.ask(connections, env, user, Asked::Join(topic));
            } else {
                self.release(connections, env, topic);
            }
        }
        env.notify(Notice::HubReady(user));
    }

    /// The connection is gone: nothing that was asked will be answered, and nothing is subscribed any more. Children that
    /// wait for a first confirmation wait for the next connection.
    pub(crate) fn disconnected(
        &mut self,
        connections: &mut Connections,
        env: &mut Env,
        lane: LaneKey,
        loss: SubscriberLoss,
    ) {
        let Some(user) = user_of(connections, lane) else { return };
        let Some(hub) = self.by_user.get_mut(&user) else { return debug_assert!(false, "no such hub") };
        hub.asked.clear();
        connections.known_mut(lane).map(Lane::take_all);
        for key in self.topics_of(user) {
            if let Some(topic) = self.known(key) {
                (topic.wanted, topic.pending, topic.checks) = (false, 0, 0);
            }
            self.release(connections, env, key);
        }
        env.notify(Notice::SubscribersLost(user, loss));
    }

    /// No child is this user any more, or listens as this user, and its connection has gone.
    pub(crate) fn forget_user(&mut self, user: UserId) {
        for topic in self.topics_of(user) {
            self.topics.remove(topic);
        }
        self.by_user.remove(&user);
    }

    /// Has the user's lane, if there is one yet, know whether it is needed.
    fn tell_lane(&self, connections: &mut Connections, user: UserId) {
        let used = self.by_user.get(&user).is_some_and(|hub| hub.names.iter().any(|names| !names.is_empty()));
        if let Some(lane) = self.lane_of(user) {
            connections.set_listened(lane, used);
        }
    }

    // ---- asking the upstream --------------------------------------------------------------------------

    /// A number for a PING, which no other has.
    pub(super) fn next_ping(&mut self) -> u64 {
        self.pings += 1;
        self.pings
    }

    /// The upstream may know the command by another name only: that by which a child has called it.
    pub(super) fn learn_verb(&mut self, user: UserId, verb: &'static [u8], typed: &[u8]) {
        let renamed = &mut self.by_user.entry(user).or_default().renamed;
        if !typed.eq_ignore_ascii_case(verb) {
            renamed.insert(verb, typed.to_vec());
        } else if !renamed.is_empty() {
            renamed.remove(verb);
        }
    }

    /// Asks the user's connection, which is ready. Its answer is awaited in the order of asking.
    pub(super) fn ask(&mut self, connections: &mut Connections, env: &mut Env, user: UserId, asked: Asked) {
        debug_assert!(self.is_ready(connections, user), "asked without a connection");
        let Some(hub) = self.by_user.get_mut(&user) else { return };
        let mut bytes = Vec::new();
        match asked {
            Asked::Join(key) | Asked::Leave(key) | Asked::Check(key, ..) => {
                let Some(topic) = self.topics.get_mut(key) else { return debug_assert!(false, "no topic") };
                let leave = matches!(asked, Asked::Leave(_));
                if let Asked::Check(..) = asked {
                    topic.checks += 1;
                } else {
                    (topic.wanted, topic.refusal) = (!leave, None);
                    topic.pending += 1;
                }
                let verb = verb(Subscribe { family: topic.family, leave });
                let typed = hub.renamed.get(verb).map_or(verb, Vec::as_slice);
                encode::request(&mut bytes, &[typed, &topic.name]);
            }
            Asked::Fence(_, number) | Asked::Probe(number) => {
                encode::request(&mut bytes, &[b"PING", number.to_string().as_bytes()]);
            }
        }
        hub.asked.push_back(asked);
        connections.send(env, hub.lane, &bytes, Key::NONE, NO_COMMAND, SlotKind::Topic, SlotFlags::NONE);
    }

    /// A connection that has long said nothing is asked whether it lives: a stall is noticed only where an answer is
    /// owed. One that carries nothing any more is forgotten. What the upstream was too busy to leave is asked again.
    pub(crate) fn check(&mut self, connections: &mut Connections, env: &mut Env) {
        for topic in std::mem::take(&mut self.to_leave) {
            self.release(connections, env, topic);
        }
        let quiet = env.settings.lane_stall_timeout / 2;
        for key in connections.keys_where(|lane| lane.role() == LaneRole::Subscriber) {
            let used = connections.is_listened(key);
            let (Some(user), Some(lane)) = (user_of(connections, key), connections.known(key)) else {
                continue;
            };
            let silent = lane.is_idle() && env.now.saturating_sub(lane.last_reply()) >= quiet;
            if used && lane.is_ready() && silent && quiet > 0 {
                let asked = Asked::Probe(self.next_ping());
                self.ask(connections, env, user, asked);
            } else if !used && lane.is_dormant() {
                connections.remove(env, key);
                self.forget_user(user);
            }
        }
    }

    // ---- what a child asks for ------------------------------------------------------------------------

    /// Finds the topics that a SUBSCRIBE names, or makes them, and keeps them for it.
    pub(super) fn pin(
        &mut self,
        connections: &mut Connections,
        user: UserId,
        family: Family,
        request: &Request<'_>,
    ) -> Vec<TopicKey> {
        let names = &mut self.by_user.entry(user).or_default().names[family_index(family)];
        let mut pinned = Vec::with_capacity(request.argc() - 1);
        for name in request.args().skip(1) {
            let key = names.get(name).copied().unwrap_or_else(|| {
                let name: Arc<[u8]> = name.into();
                let key = self.topics.insert(Topic {
                    user,
                    family,
                    name: Arc::clone(&name),
                    wanted: false,
                    pending: 0,
                    checks: 0,
                    subscribers: BTreeSet::new(),
                    pins: 0,
                    refusal: None,
                });
                names.insert(name, key);
                key
            });
            if let Some(topic) = self.topics.get_mut(key) {
                topic.pins += 1;
            }
            pinned.push(key);
        }
        self.tell_lane(connections, user);
        pinned
    }

    /// The request at the front of a child is done, or will not be: what it waited for may go.
    pub(super) fn unpin(
        &mut self,
        connections: &mut Connections,
        env: &mut Env,
        own: &mut SharedSubscriptions,
    ) {
        for key in own.take_front() {
            if let Some(topic) = self.known(key) {
                topic.pins -= 1;
            }
            self.release(connections, env, key);
        }
    }

    /// Whether the upstream has subscribed to all of these topics. An error is the upstream's, for one of them.
    pub(super) fn are_on(&self, topics: &[TopicKey]) -> Result<bool, Vec<u8>> {
        let mut topics = topics.iter().filter_map(|topic| self.topics.get(*topic));
        match topics.find(|topic| !topic.is_on()) {
            None => Ok(true),
            Some(Topic { refusal: Some(refusal), wanted: false, .. }) => Err(refusal.clone()),
            Some(_) => Ok(false),
        }
    }

    /// Asks what the SUBSCRIBE at the front of a child needs, before the fence of this number.
    pub(super) fn ask_to_join(
        &mut self,
        connections: &mut Connections,
        env: &mut Env,
        own: &SharedSubscriptions,
        child: ChildKey,
        fence: u64,
    ) {
        let user = own.user();
        if !self.is_ready(connections, user) {
            return;
        }
        for key in own.pinned() {
            match self.known(*key).map(|topic| topic.wanted) {
                Some(false) => self.ask(connections, env, user, Asked::Join(*key)),
                // That the user may listen to it was true when another child joined.
                Some(true) if !own.has_asked() => {
                    self.ask(connections, env, user, Asked::Check(*key, child, fence));
                }
                _ => {}
            }
        }
    }

    /// The child listens to what its SUBSCRIBE names. Returns its confirmations.
    pub(super) fn join(
        &mut self,
        own: &mut SharedSubscriptions,
        child: ChildKey,
        change: Subscribe,
        proto: u8,
    ) -> Vec<u8> {
        let mut out = Vec::new();
        for key in own.pinned().to_vec() {
            let Some(topic) = self.known(key) else { continue };
            if own.add(key, topic.family, &topic.name) {
                topic.subscribers.insert(child.to_bits());
            }
            confirmation(&mut out, proto, change, Some(&topic.name), own.count(change.family));
        }
        out
    }

    /// The topics that an UNSUBSCRIBE is about, in its order; `Key::NONE` for a name without a topic.
    pub(super) fn named(
        &self,
        own: &SharedSubscriptions,
        family: Family,
        request: &Request<'_>,
    ) -> Vec<TopicKey> {
        if request.argc() == 1 {
            let of_family =
                |key: &TopicKey| self.topics.get(*key).is_some_and(|topic| topic.family == family);
            return own.held().filter(of_family).collect();
        }
        let names = self.by_user.get(&own.user()).map(|hub| &hub.names[family_index(family)]);
        let find = |name| names.and_then(|names| names.get(name).copied());
        request.args().skip(1).map(|name| find(name).unwrap_or(Key::NONE)).collect()
    }

    /// Whether the upstream has done its part for a child to leave these topics: those with no other listener are left
    /// upstream first, so that everything published until then comes. False: the child has to wait for that. An error is
    /// the upstream's, which does not let it leave.
    pub(super) fn may_leave(
        &mut self,
        connections: &mut Connections,
        env: &mut Env,
        own: &SharedSubscriptions,
        named: &[TopicKey],
    ) -> Result<bool, Vec<u8>> {
        let user = own.user();
        let mut held = named.iter().copied().filter(|topic| own.holds(*topic)).peekable();
        if held.peek().is_none() || !self.is_ready(connections, user) {
            // Without a connection there is nothing to leave upstream, and nothing more will come.
            return Ok(true);
        }
        let last = |topic: &Topic| topic.wanted && topic.subscribers.len() == 1 && topic.pins == 0;
        let last: Vec<TopicKey> = held.filter(|key| self.topics.get(*key).is_some_and(last)).collect();
        if own.is_fence_answered() {
            let mut topics = last.iter().filter_map(|topic| self.topics.get(*topic));
            if let Some(refusal) = topics.find_map(|topic| topic.refusal.clone()) {
                return Err(refusal);
            }
            if last.is_empty() {
                return Ok(true);
            }
        }
        for key in last {
            // Named twice, it has been asked already.
            if self.known(key).is_some_and(|topic| topic.wanted) {
                self.ask(connections, env, user, Asked::Leave(key));
            }
        }
        Ok(false)
    }

    /// The child leaves these topics. Returns its confirmations.
    pub(super) fn leave(
        &mut self,
        connections: &mut Connections,
        env: &mut Env,
        (own, child): (&mut SharedSubscriptions, ChildKey),
        (change, proto): (Subscribe, u8),
        (named, request): (&[TopicKey], &Request<'_>),
    ) -> Vec<u8> {
        let mut out = Vec::new();
        let typed = request.args().skip(1).map(Some).chain(std::iter::repeat(None));
        for (key, typed) in named.iter().zip(typed) {
            let name = self.topics.get(*key).map(|topic| Arc::clone(&topic.name));
            self.unsubscribe(connections, env, own, child, *key);
            confirmation(&mut out, proto, change, typed.or(name.as_deref()), own.count(change.family));
        }
        if named.is_empty() {
            confirmation(&mut out, proto, change, None, own.count(change.family));
        }
        out
    }

    /// Takes a child off a topic's list, if it is on it. The topic is left upstream if no other child is.
    pub(super) fn unsubscribe(
        &mut self,
        connections: &mut Connections,
        env: &mut Env,
        own: &mut SharedSubscriptions,
        child: ChildKey,
        key: TopicKey,
    ) {
        if own.holds(key)
            && let Some(topic) = self.known(key)
        {
            own.remove(key, topic.family, &topic.name);
            topic.subscribers.remove(&child.to_bits());
            self.release(connections, env, key);
        }
    }

    /// A child leaves everything, and its request at the front is forgotten.
    pub(super) fn leave_all(
        &mut self,
        connections: &mut Connections,
        env: &mut Env,
        own: &mut SharedSubscriptions,
        child: ChildKey,
    ) {
        for topic in own.held().collect::<Vec<_>>() {
            self.unsubscribe(connections, env, own, child, topic);
        }
        self.unpin(connections, env, own);
    }

    /// The child leaves what the upstream has been asked to leave for it: that may be left already, and it would listen
    /// in vain.
    pub(super) fn leave_unwanted(
        &mut self,
        connections: &mut Connections,
        env: &mut Env,
        own: &mut SharedSubscriptions,
        child: ChildKey,
    ) {
        for key in own.held().collect::<Vec<_>>() {
            if self.known(key).is_some_and(|topic| !topic.wanted) {
                self.unsubscribe(connections, env, own, child, key);
            }
        }
    }

    /// Leaves a topic upstream that nobody needs, and forgets it once that is answered.
    pub(super) fn release(&mut self, connections: &mut Connections, env: &mut Env, key: TopicKey) {
        // Where a notice or a later look names it, it may have been forgotten since.
        let Some(topic) = self.topics.get(key).filter(|topic| !topic.is_used()) else { return };
        if topic.wanted && self.is_ready(connections, topic.user) {
            return self.ask(connections, env, topic.user, Asked::Leave(key));
        }
        if topic.pending == 0 && topic.checks == 0 {
            let user = topic.user;
            let hub = self.by_user.get_mut(&user);
            hub.and_then(|hub| hub.names[family_index(topic.family)].remove(&topic.name));
            self.topics.remove(key);
            self.tell_lane(connections, user);
        }
    }

    /// The children that listen to a topic. None, if it has been forgotten since.
    pub(super) fn listeners(&self, topic: TopicKey) -> impl Iterator<Item = ChildKey> {
        let topic = self.topics.get(topic).into_iter();
        topic.flat_map(|topic| &topic.subscribers).map(|child| Key::from_bits(*child))
    }

    /// The upstream has ended the subscription itself. Returns what its listeners are told: that they have left, and
    /// what. The topic may have been forgotten since.
    pub(super) fn moved(&mut self, key: TopicKey) -> Option<(Subscribe, Arc<[u8]>)> {
        let topic = self.topics.get_mut(key)?;
        topic.wanted = false;
        Some((Subscribe { family: topic.family, leave: true }, Arc::clone(&topic.name)))
    }

    // ---- what the connection says ---------------------------------------------------------------------

    /// One frame on the user's connection. `Err` says why it makes no sense there.
    pub(super) fn received(
        &mut self,
        connections: &mut Connections,
        env: &mut Env,
        lane: LaneKey,
        (kind, frame): (u8, &[u8]),
    ) -> Result<Received, &'static str> {
        let user = user_of(connections, lane).ok_or("a lane that is gone")?;
        if kind != b'>' {
            return self.replied(connections, env, user, frame);
        }
        let Some(push) = push_of(frame) else { return Ok(Received::Nothing) };
        let name = reply::element(frame, 1).and_then(|range| reply::text(&frame[range]));
        let family = match push {
            Push::Message(family) | Push::Confirmation(Subscribe { family, .. }) => family,
        };
        let hub = self.by_user.get(&user);
        let topic = name.and_then(|name| hub?.names[family_index(family)].get(name).copied());
        match (push, topic) {
            // Published before the upstream heard that nobody listens any more.
            (Push::Message(_), None) => Ok(Received::Nothing),
            (Push::Message(_), Some(topic)) => Ok(Received::Message(topic)),
            (Push::Confirmation(change), Some(topic)) => {
                self.confirmed(connections, env, user, change, topic).map(|()| Received::Nothing)
            }
            (Push::Confirmation(_), None) => Err("a confirmation of a subscription nobody has"),
        }
    }

    fn confirmed(
        &mut self,
        connections: &mut Connections,
        env: &mut Env,
        user: UserId,
        change: Subscribe,
        topic: TopicKey,
    ) -> Result<(), &'static str> {
        let front = self.by_user.get(&user).and_then(|hub| hub.asked.front().copied());
        match front {
            Some(Asked::Leave(asked)) if asked == topic && change.leave => {
                self.pop_asked(connections, env.now, user)?;
                self.settle(connections, env, topic, None);
            }
            Some(Asked::Join(asked)) if asked == topic && !change.leave => {
                self.pop_asked(connections, env.now, user)?;
                self.settle(connections, env, topic, None);
            }
            Some(Asked::Check(asked, child, fence)) if asked == topic && !change.leave => {
                self.pop_asked(connections, env.now, user)?;
                self.checked(connections, env, topic, (child, fence), None);
            }
            _ if change.leave && change.family == Family::Shard => {
                env.notify(Notice::TopicMoved(topic));
            }
            _ => return Err("a confirmation nobody asked for"),
        }
        Ok(())
    }

    /// A reply that is no push: of a PING, or a refusal.
    fn replied(
        &mut self,
        connections: &mut Connections,
        env: &mut Env,
        user: UserId,
        frame: &[u8],
    ) -> Result<Received, &'static str> {
        let refused = reply::is_error(frame);
        let asked = self.pop_asked(connections, env.now, user)?;
        if let Asked::Fence(_, number) | Asked::Probe(number) = asked {
            // Even a refused PING has been answered in its turn.
            if !refused && reply::text(frame) != Some(number.to_string().as_bytes()) {
                return Err("a PING was answered with another's number");
            }
        }
        match asked {
            Asked::Fence(child, number) => return Ok(Received::FenceAnswered(child, number)),
            Asked::Probe(_) => {}
            Asked::Join(topic) | Asked::Leave(topic) if refused => {
                self.settle(connections, env, topic, Some(frame));
            }
            Asked::Check(topic, child, fence) if refused => {
                self.checked(connections, env, topic, (child, fence), Some(frame));
            }
            Asked::Join(_) | Asked::Leave(_) | Asked::Check(..) => {
                return Err("a subscription was answered with no push");
            }
        }
        Ok(Received::Nothing)
    }

    fn pop_asked(
        &mut self,
        connections: &mut Connections,
        now: Millis,
        user: UserId,
    ) -> Result<Asked, &'static str> {
        let hub = self.by_user.get_mut(&user).ok_or("a reply nobody asked for")?;
        let lane = connections.find_mut(hub.lane).ok_or("a lane that is gone")?;
        lane.take_answered(now).ok_or("a reply nobody asked for")?;
        hub.asked.pop_front().ok_or("a reply nobody asked for")
    }

    /// The oldest command about a topic has been carried out, or was refused with an error.
    fn settle(
        &mut self,
        connections: &mut Connections,
        env: &mut Env,
        key: TopicKey,
        refusal: Option<&[u8]>,
    ) {
        let Some(topic) = self.known(key) else { return };
        topic.pending -= 1;
        if let Some(frame) = refusal.filter(|_| topic.pending == 0) {
            let text = String::from_utf8_lossy(&frame[1..]);
            log::info!("a subscription was refused: {}", text.trim_end());
            topic.refusal = Some(frame.to_vec());
            topic.wanted = !topic.wanted;
            if !topic.wanted {
                // They listened on the connection before this one; their right has gone since.
                return env.notify(Notice::TopicRefused(key));
            }
            if !topic.is_used() {
                // It may not be left: it stays, and its messages go to nobody. A busy upstream is asked again.
                if reply::error_code(frame) == Some(b"BUSY") {
                    self.to_leave.push(key);
                }
                return;
            }
        }
        self.release(connections, env, key);
    }

    /// Whether one more child may join a topic. Those who have it keep it, as on connections of their own.
    fn checked(
        &mut self,
        connections: &mut Connections,
        env: &mut Env,
        key: TopicKey,
        (child, fence): (ChildKey, u64),
        refusal: Option<&[u8]>,
    ) {
        let Some(topic) = self.known(key) else { return };
        topic.checks -= 1;
        // What the first child to ask was refused a moment before.
        topic.wanted |= refusal.is_none() && topic.pending == 0;
        if let Some(frame) = refusal {
            env.notify(Notice::Child(child, ChildNotice::JoinRefused(fence, frame.to_vec())));
        }
        self.release(connections, env, key);
    }

    // ---- look-ups -------------------------------------------------------------------------------------

    /// A topic that is used, or that the upstream has to answer about: it must exist.
    fn known(&mut self, key: TopicKey) -> Option<&mut Topic> {
        let topic = self.topics.get_mut(key);
        debug_assert!(topic.is_some(), "a topic in use was forgotten");
        topic
    }

    fn topics_of(&self, user: UserId) -> Vec<TopicKey> {
        self.topics.iter().filter(|(_, topic)| topic.user == user).map(|(key, _)| key).collect()
    }
}

/// Whose subscriptions a lane carries.
fn user_of(connections: &Connections, lane: LaneKey) -> Option<UserId> {
    connections.known(lane).map(|lane| connections.key_of(lane).user)
}

#[cfg(test)]
mod tests;
