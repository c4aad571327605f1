//! The connection of a user's subscriptions: when there is one, what is asked on it, whose its messages are,
//! and what its loss means. It is always read, and says nothing twice to anybody.

use crate::base::key::Key;
use crate::command::Family;
use crate::command::NO_COMMAND;
use crate::command::Subscribe;
use crate::config::value::OnSubscriberLoss;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::connection::lane::Lane;
use crate::core::connection::lane::LaneRole;
use crate::core::connection::lane::LaneState;
use crate::core::connection::lane::SlotKind;
use crate::core::keys::ChildKey;
use crate::core::keys::LaneKey;
use crate::core::keys::LeaseKind;
use crate::core::keys::PoolKey;
use crate::core::keys::TopicKey;
use crate::core::keys::UserId;
use crate::core::notice::Notice;
use crate::core::pubsub::Asked;
use crate::core::pubsub::Heard;
use crate::core::pubsub::Loss;
use crate::core::pubsub::Topic;
use crate::core::pubsub::push::Push;
use crate::core::pubsub::push::confirmation;
use crate::core::pubsub::push::index;
use crate::core::pubsub::push::push_of;
use crate::core::pubsub::push::verb;
use crate::core::pubsub::shared::Fence;
use crate::core::shared::Shared;
use crate::resp::encode;
use crate::resp::reply;

impl Shared {
    // ---- the connection -------------------------------------------------------------------------------

    /// Whether the user's connection can be asked something.
    pub(in crate::core) fn hub_is_ready(&self, user: UserId) -> bool {
        let lane = self.hubs.by_user.get(&user).and_then(|hub| self.connections.lanes.get(hub.lane));
        lane.is_some_and(|lane| lane.state == LaneState::Ready)
    }

    /// Sees to it that the user's connection is dialled.
    pub(in crate::core) fn want_hub(&mut self, user: UserId) {
        let hub = self.hubs.by_user.entry(user).or_default();
        if self.connections.lanes.get(hub.lane).is_none() {
            // Channels belong to no db, so none is selected.
            let key = PoolKey { user, db: 0, proto: 3, no_touch: false };
            let pool = self.pool_of(key);
            let lane = self.connections.lanes.insert(Lane::new(pool, LaneRole::Subscriber, self.env.now));
            self.hubs.by_user.entry(user).or_default().lane = lane;
        }
        let lane = self.hubs.by_user.get(&user).map_or(Key::NONE, |hub| hub.lane);
        self.want_connection(lane);
    }

    fn user_of(&self, lane: LaneKey) -> Option<UserId> {
        self.connections.lanes.get(lane).map(|lane| self.connections.pools[lane.pool.0 as usize].key.user)
    }

    /// Whether somebody listens by this lane, or wants to.
    pub(in crate::core) fn carries_topics(&self, lane: LaneKey) -> bool {
        let hub = self.user_of(lane).and_then(|user| self.hubs.by_user.get(&user));
        hub.is_some_and(|hub| hub.lane == lane && hub.is_used())
    }

    /// Whether one more connection for subscriptions fits beside the leases.
    pub(in crate::core) fn has_subscriber_place(&self) -> bool {
        self.connections.places.leases < self.lease_places(LeaseKind::Session)
    }

    fn topics_of_user(&self, user: UserId) -> Vec<TopicKey> {
        self.hubs.topics.iter().filter(|(_, topic)| topic.user == user).map(|(key, _)| key).collect()
    }

    /// Sends one question; its answer is awaited in the order of asking.
    pub(in crate::core) fn ask_upstream(&mut self, user: UserId, asked: Asked) {
        let mut bytes = Vec::new();
        match asked {
            Asked::Join(key) | Asked::Leave(key) => {
                let leave = matches!(asked, Asked::Leave(_));
                let Some(topic) = self.hubs.topics.get_mut(key) else { return };
                topic.wanted = !leave;
                topic.pending += 1;
                topic.refusal = None;
                let name = verb(Subscribe { family: topic.family, leave });
                let typed = self.hubs.by_user.get(&user).and_then(|hub| hub.renamed.get(name));
                encode::request(&mut bytes, &[typed.map_or(name, Vec::as_slice), &topic.name]);
            }
            Asked::Check(key, ..) => {
                let Some(topic) = self.hubs.topics.get_mut(key) else { return };
                topic.checks += 1;
                let name = verb(Subscribe { family: topic.family, leave: false });
                let typed = self.hubs.by_user.get(&user).and_then(|hub| hub.renamed.get(name));
                encode::request(&mut bytes, &[typed.map_or(name, Vec::as_slice), &topic.name]);
            }
            Asked::Fence(_, number) | Asked::Probe(number) => {
                encode::request(&mut bytes, &[b"PING", number.to_string().as_bytes()]);
            }
        }
        let Some(hub) = self.hubs.by_user.get_mut(&user) else { return };
        hub.asked.push_back(asked);
        let lane = hub.lane;
        self.send(lane, &bytes, Key::NONE, NO_COMMAND, SlotKind::Topic, 0);
    }

    fn pop_asked(&mut self, lane: LaneKey, user: UserId) -> Result<Asked, &'static str> {
        let lane = self.connections.lanes.get_mut(lane).ok_or("a lane that is gone")?;
        lane.pop().ok_or("a reply nobody asked for")?;
        lane.replied = true;
        let hub = self.hubs.by_user.get_mut(&user);
        hub.and_then(|hub| hub.asked.pop_front()).ok_or("a reply nobody asked for")
    }

    /// Whether one more child may join a topic. Those who have it keep it, as on connections of their own.
    fn checked(&mut self, key: TopicKey, child: ChildKey, fence: u64, refusal: Option<&[u8]>) {
        let Some(topic) = self.hubs.topics.get_mut(key) else { return };
        topic.checks -= 1;
        // What the first to ask was refused a moment before.
        let joins = refusal.is_none() && topic.pending == 0 && !topic.wanted;
        topic.wanted |= joins;
        if let Some(frame) = refusal {
            self.env.notices.push_back(Notice::JoinRefused(child, fence, frame.to_vec()));
        }
        self.release_topic(key);
    }

    // ---- its end --------------------------------------------------------------------------------------

    /// Nothing that was asked will be answered, and nothing is subscribed any more.
    fn forget_asked(&mut self, user: UserId) {
        if let Some(hub) = self.hubs.by_user.get_mut(&user) {
            hub.asked.clear();
        }
        for key in self.topics_of_user(user) {
            if let Some(topic) = self.hubs.topics.get_mut(key) {
                (topic.wanted, topic.pending, topic.checks) = (false, 0, 0);
            }
            self.release_topic(key);
        }
    }

    /// Nobody is the user any more, so nobody listens, and its connection has gone.
    pub(in crate::core) fn forget_hub(&mut self, user: UserId) {
        for topic in self.topics_of_user(user) {
            self.hubs.topics.remove(topic);
        }
        self.hubs.by_user.remove(&user);
    }

    // ---- the janitor ----------------------------------------------------------------------------------

    /// A connection that has long said nothing is asked whether it lives: a stall is noticed only where an
    /// answer is owed. One that carries nothing any more is forgotten with its user's empty lists.
    pub(in crate::core) fn check_hubs(&mut self) {
        for topic in std::mem::take(&mut self.hubs.to_leave) {
            self.release_topic(topic);
        }
        let quiet = self.env.settings.lane_stall_timeout / 2;
        let lanes = self.connections.lanes.iter().filter(|(_, lane)| lane.role == LaneRole::Subscriber);
        let lanes: Vec<LaneKey> = lanes.map(|(key, _)| key).collect();
        for key in lanes {
            let Some(user) = self.user_of(key) else { continue };
            let used = self.carries_topics(key);
            let Some(lane) = self.connections.lanes.get(key) else { continue };
            let silent = lane.is_idle() && self.env.now.saturating_sub(lane.last_reply) >= quiet;
            if used && lane.state == LaneState::Ready && silent && quiet > 0 {
                self.hubs.fences += 1;
                self.ask_upstream(user, Asked::Probe(self.hubs.fences));
            } else if !used && lane.state == LaneState::Dormant {
                let pool = lane.pool;
                self.forget_lane(key, pool);
                self.hubs.by_user.remove(&user);
            }
        }
    }

    /// The connection stands: everything somebody listens to is asked for, in one go.
    pub(in crate::core) fn hub_ready(&mut self, lane: LaneKey) {
        let Some(user) = self.user_of(lane) else { return };
        for topic in self.topics_of_user(user) {
            if self.hubs.topics.get(topic).is_some_and(Topic::is_used) {
                self.ask_upstream(user, Asked::Join(topic));
            } else {
                self.release_topic(topic);
            }
        }
        self.env.notices.push_back(Notice::HubReady(user));
    }

    // ---- what it says ---------------------------------------------------------------------------------

    /// One frame on a connection for subscriptions. `Err` says why it makes no sense there.
    fn hub_frame(&mut self, lane: LaneKey, frame: &[u8], kind: u8) -> Result<Heard, &'static str> {
        let Some(user) = self.user_of(lane) else { return Ok(Heard::Nothing) };
        if kind != b'>' {
            return self.hub_answered(lane, user, frame);
        }
        let Some(push) = push_of(frame) else { return Ok(Heard::Nothing) };
        let name = reply::element(frame, 1).and_then(|range| reply::text(&frame[range]));
        let family = match push {
            Push::Message(family) | Push::Confirmation(Subscribe { family, .. }) => family,
        };
        let hub = self.hubs.by_user.get(&user);
        let topic = name.and_then(|name| hub?.names[index(family)].get(name).copied());
        match (push, topic) {
            // Published before the upstream heard that nobody listens any more.
            (Push::Message(_), None) => Ok(Heard::Nothing),
            (Push::Message(_), Some(topic)) => Ok(Heard::Message(topic)),
            (Push::Confirmation(change), Some(topic)) => {
                self.hub_confirmed(lane, user, change, topic).map(|()| Heard::Nothing)
            }
            (Push::Confirmation(_), None) => Err("a confirmation of a subscription nobody has"),
        }
    }

    fn hub_confirmed(
        &mut self,
        lane: LaneKey,
        user: UserId,
        change: Subscribe,
        topic: TopicKey,
    ) -> Result<(), &'static str> {
        let front = self.hubs.by_user.get(&user).and_then(|hub| hub.asked.front().copied());
        let wanted = if change.leave { Asked::Leave(topic) } else { Asked::Join(topic) };
        if front == Some(wanted) {
            self.pop_asked(lane, user)?;
            self.settle_topic(topic, None);
            return Ok(());
        }
        if let Some(Asked::Check(checked, child, fence)) = front
            && checked == topic
            && !change.leave
        {
            self.pop_asked(lane, user)?;
            self.checked(topic, child, fence, None);
            return Ok(());
        }
        if change.leave && change.family == Family::Shard {
            self.env.notices.push_back(Notice::TopicMoved(topic));
            return Ok(());
        }
        Err("a confirmation nobody asked for")
    }

    /// A reply that is no push: of a PING, or a refusal.
    fn hub_answered(&mut self, lane: LaneKey, user: UserId, frame: &[u8]) -> Result<Heard, &'static str> {
        let refused = frame.first() == Some(&b'-');
        let asked = self.pop_asked(lane, user)?;
        if let Asked::Fence(_, number) | Asked::Probe(number) = asked {
            // Even a refused PING has been answered in its turn.
            if !refused && reply::text(frame) != Some(number.to_string().as_bytes()) {
                return Err("a PING was answered with another's number");
            }
        }
        match asked {
            Asked::Fence(child, number) => return Ok(Heard::Fence(child, number)),
            Asked::Probe(_) => {}
            Asked::Join(topic) | Asked::Leave(topic) if refused => self.settle_topic(topic, Some(frame)),
            Asked::Check(topic, child, fence) if refused => self.checked(topic, child, fence, Some(frame)),
            Asked::Join(_) | Asked::Leave(_) | Asked::Check(..) => {
                return Err("a subscription was answered with no push");
            }
        }
        Ok(Heard::Nothing)
    }

    /// The oldest command about a topic is done, or was refused with an error.
    fn settle_topic(&mut self, key: TopicKey, refusal: Option<&[u8]>) {
        let Some(topic) = self.hubs.topics.get_mut(key) else { return };
        topic.pending -= 1;
        if let Some(frame) = refusal.filter(|_| topic.pending == 0) {
            let text = String::from_utf8_lossy(&frame[1..]);
            log::info!("a subscription was refused: {}", text.trim_end());
            topic.refusal = Some(frame.to_vec());
            topic.wanted = !topic.wanted;
            if !topic.wanted {
                // They listened on the connection before this one; their right has gone since.
                return self.env.notices.push_back(Notice::TopicRefused(key));
            }
            if !topic.is_used() {
                // It may not be left: it stays, and its messages go to nobody. A busy upstream is asked again.
                if frame.starts_with(b"-BUSY") {
                    self.hubs.to_leave.push(key);
                }
                return;
            }
        }
        self.release_topic(key);
    }

    /// The connection is gone: messages may have been missed. Whoever waits for a first confirmation waits
    /// for the next one.
    pub(in crate::core) fn hub_lost(&mut self, lane: LaneKey, failures: u32) {
        let Some(user) = self.user_of(lane) else { return };
        if let Some(lane) = self.connections.lanes.get_mut(lane) {
            lane.take_all();
        }
        self.forget_asked(user);
        self.env.notices.push_back(Notice::SubscribersLost(user, Loss::Broken(failures)));
    }

    /// The listeners have been seen to: the others need another connection.
    fn hub_goes_on(&mut self, user: UserId, loss: Loss) {
        let lane = self.hubs.by_user.get(&user).map_or(Key::NONE, |hub| hub.lane);
        match loss {
            Loss::Broken(_) if !self.carries_topics(lane) => {}
            Loss::Broken(0) => self.want_connection(lane),
            Loss::Broken(failures) => self.back_off(lane, failures),
            Loss::Moved => {
                self.dial_afresh(lane);
                self.account_lane(lane);
            }
        }
    }

    /// Another upstream: what it publishes comes on a new connection, and from now on.
    pub(in crate::core) fn move_hub(&mut self, lane: LaneKey) {
        let Some(user) = self.user_of(lane) else { return };
        if let Some(lane) = self.connections.lanes.get_mut(lane) {
            lane.failures = 0;
            lane.take_all();
        }
        self.forget_asked(user);
        self.env.notices.push_back(Notice::SubscribersLost(user, Loss::Moved));
    }
}

impl Broker {
    /// One frame on a connection for subscriptions. `Err` says why it makes no sense there.
    pub(in crate::core) fn hub_said(
        &mut self,
        lane: LaneKey,
        frame: &[u8],
        kind: u8,
    ) -> Result<(), &'static str> {
        match self.shared.hub_frame(lane, frame, kind)? {
            Heard::Nothing => {}
            Heard::Message(topic) => self.fan_out(topic, frame),
            Heard::Fence(child, number) => self.fence_passed(child, number),
        }
        Ok(())
    }

    /// One message to every child that listens. Those that take none are closed when all have it.
    fn fan_out(&mut self, key: TopicKey, frame: &[u8]) {
        let Some(topic) = self.shared.hubs.topics.get_mut(key) else { return };
        let listeners = std::mem::take(&mut topic.subscribers);
        for child in &listeners {
            if let Some(child) = self.children.get_mut(Key::from_bits(*child))
                && !self.shared.append_push(child, frame)
            {
                self.shared.close(child);
            }
        }
        if let Some(topic) = self.shared.hubs.topics.get_mut(key) {
            topic.subscribers = listeners;
        }
    }

    /// The upstream does not let anybody listen to this topic any more.
    pub(in crate::core) fn close_listeners(&mut self, topic: TopicKey) {
        for child in self.listeners_of(topic) {
            if let Some(child) = self.children.get_mut(child) {
                log::warn!("its subscription is refused now: closing child {}", child.label());
                self.shared.close(child);
            }
        }
        self.shared.release_topic(topic);
    }

    fn listeners_of(&self, topic: TopicKey) -> Vec<ChildKey> {
        let topic = self.shared.hubs.topics.get(topic);
        topic.iter().flat_map(|topic| &topic.subscribers).map(|child| Key::from_bits(*child)).collect()
    }

    /// The upstream has ended the subscription itself: the slot of a shard channel has moved.
    pub(in crate::core) fn topic_moved(&mut self, key: TopicKey) {
        let Some(topic) = self.shared.hubs.topics.get_mut(key) else { return };
        topic.wanted = false;
        let change = Subscribe { family: topic.family, leave: true };
        let name = topic.name.clone();
        for child in self.listeners_of(key) {
            let Some(child) = self.children.get_mut(child) else { continue };
            self.shared.remove_subscriber(child, key);
            let count = child.topics.as_ref().map_or(0, |own| own.count(change.family));
            let mut out = Vec::new();
            confirmation(&mut out, child.session.proto, change, Some(&name), count);
            if !self.shared.append_push(child, &out) {
                self.shared.close(child);
            }
        }
    }

    /// Children that wait for a confirmation ask for their fences on a new connection.
    pub(in crate::core) fn ask_fences_again(&mut self, user: UserId) {
        let waits = |child: &Child| match child.topics.as_ref().filter(|own| own.user == user)?.fence {
            Fence::Awaited(number) if child.hold == Hold::Topics => Some(number),
            _ => None,
        };
        for (key, child) in self.children.iter() {
            if let Some(number) = waits(child) {
                self.shared.ask_upstream(user, Asked::Fence(key, number));
            }
        }
    }

    /// Children that listen may miss messages from now on: they end, or are told nothing.
    pub(in crate::core) fn subscribers_lost(&mut self, user: UserId, loss: Loss) {
        let listeners = self.listeners(user);
        match self.shared.env.settings.on_subscriber_loss {
            OnSubscriberLoss::Close => {
                for key in listeners {
                    match (loss, self.children.get_mut(key)) {
                        (Loss::Moved, Some(child)) => self.shared.finish(child),
                        (Loss::Moved, None) => {}
                        (Loss::Broken(_), _) => self.remove_child(key),
                    }
                }
            }
            OnSubscriberLoss::Resubscribe if !listeners.is_empty() => {
                let count = listeners.len();
                self.shared.env.counters.subscriber_gaps += 1;
                log::warn!("{count} subscribers may have missed messages: subscribing again for them");
            }
            OnSubscriberLoss::Resubscribe => {}
        }
        self.shared.hub_goes_on(user, loss);
    }
}
