//! Shared subscriptions: one connection of a user's own carries every subscription of all its children, each
//! channel, pattern and shard channel once. Owns the topics and who listens to them; decides what the
//! connection is asked and when a child is answered. What travels on the connection is `pubsub::upstream`'s.
//!
//! A child's request stays at the front of its input until the connection has answered a *fence*, a PING sent
//! behind whatever the request needs. So each child stands, in the order of the upstream, where it would with
//! a connection of its own: it hears what was published after its confirmation and nothing from before it,
//! and everything from before it left.

use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::base::limits;
use crate::command::Family;
use crate::command::Local;
use crate::command::Route;
use crate::command::Subscribe;
use crate::config::value::Pubsub as Mode;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::connection::lane::LaneState;
use crate::core::connection::reason::DOWN;
use crate::core::keys::ChildKey;
use crate::core::keys::TopicKey;
use crate::core::keys::UserId;
use crate::core::pubsub::Asked;
use crate::core::pubsub::Topic;
use crate::core::pubsub::push::confirmation;
use crate::core::pubsub::push::index;
use crate::core::pubsub::push::verb;
use crate::core::pubsub::shared::Fence;
use crate::core::pubsub::shared::SharedSubscriptions;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::core::timers::Timer;
use crate::resp::Request;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Shared {
    /// Whether the child's subscriptions are shared ones. What it has decides; if it has none, the setting.
    pub(in crate::core) fn subscribes_shared(&self, child: &Child) -> bool {
        let on_lease = child.subscriptions.as_ref().is_some_and(|own| own.total() > 0);
        child.topics.is_some() || (self.env.settings.pubsub == Mode::Shared && !on_lease)
    }

    /// Whether a request asks for the invalidations that other children redirect to this one: those come to a
    /// connection, so it must have one.
    pub(in crate::core) fn hears_invalidations(
        &self,
        child: &Child,
        request: &Request<'_>,
        change: Subscribe,
    ) -> bool {
        let named = request.args().skip(1).any(|name| name == b"__redis__:invalidate");
        named && !change.leave && change.family == Family::Channel && child.topics.is_none()
    }

    /// Whether Redis would refuse the command because its child listens, and may say little else in RESP2.
    pub(in crate::core) fn is_out_of_context(&self, child: &Child, route: Route) -> bool {
        let allowed = matches!(
            route,
            Route::Subscribe(_) | Route::Local(Local::Ping | Local::Quit | Local::Reset) | Route::Refused
        );
        child.listens_in_resp2() && !allowed
    }

    /// (P|S)(UN)SUBSCRIBE of a child without a connection of its own.
    pub(in crate::core) fn change_topics(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        change: Subscribe,
    ) -> Flow {
        if child.is_under_way() {
            return Flow::Hold(Hold::Drained);
        }
        let user = child.topics.as_ref().map_or(child.user, |own| own.user);
        self.hubs.by_user.entry(user).or_default().learn_verb(verb(change), request.arg(0));
        let flow = if change.leave {
            self.leave_topics(child, request, change)
        } else {
            self.join_topics(child, request, change)
        };
        if flow == Flow::Done {
            self.forget_front_topics(child);
        }
        flow
    }

    // ---- joining --------------------------------------------------------------------------------------

    fn join_topics(&mut self, child: &mut Child, request: &Request<'_>, change: Subscribe) -> Flow {
        let user = child.user;
        let own = child.topics.get_or_insert_with(|| SharedSubscriptions::new(user));
        let user = own.user;
        if own.pinned.is_empty() {
            if own.held.len() + request.argc() > limits::CHILD_TOPICS_MAX {
                let max = limits::CHILD_TOPICS_MAX;
                return self.reject(child, format!("BROKERLIMIT a child has at most {max} subscriptions"));
            }
            if let Some(flow) = self.hold_for_window(child, user) {
                return flow;
            }
            let pinned =
                request.args().skip(1).map(|name| self.pin_topic(user, change.family, name)).collect();
            if let Some(own) = child.topics.as_deref_mut() {
                own.pinned = pinned;
            }
        }
        let Some(own) = child.topics.as_deref_mut() else { return Flow::Gone };
        let (passed, pinned) = (own.fence == Fence::Passed, own.pinned.clone());
        if let Some(refusal) = own.refusal.take().filter(|_| passed) {
            self.answer(child, &refusal);
            return Flow::Done;
        }
        let asked_before = own.fence != Fence::None;
        let off = |topic: &&Topic| !topic.is_on();
        let mut topics = pinned.iter().filter_map(|topic| self.hubs.topics.get(*topic));
        match topics.find(off) {
            None if passed => {
                self.commit_join(child, &pinned, change);
                return Flow::Done;
            }
            Some(Topic { refusal: Some(refusal), wanted: false, .. }) if passed => {
                let refusal = refusal.clone();
                self.answer(child, &refusal);
                return Flow::Done;
            }
            _ => {}
        }
        if self.hub_is_ready(user) {
            for topic in pinned {
                match self.hubs.topics.get(topic).map(|topic| topic.wanted) {
                    Some(false) => self.ask_upstream(user, Asked::Join(topic)),
                    // That the user may listen to it was true when somebody else joined.
                    Some(true) if !asked_before => {
                        self.ask_upstream(user, Asked::Check(topic, child.key, self.hubs.fences + 1));
                    }
                    _ => {}
                }
            }
        }
        self.await_fence(child, user)
    }

    /// Finds a topic or makes it, and keeps it for the request that names it.
    fn pin_topic(&mut self, user: UserId, family: Family, name: &[u8]) -> TopicKey {
        let hub = self.hubs.by_user.entry(user).or_default();
        let names = &mut hub.names[index(family)];
        let key = names.get(name).copied().unwrap_or_else(|| {
            let name: Arc<[u8]> = name.into();
            let key = self.hubs.topics.insert(Topic {
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
        if let Some(topic) = self.hubs.topics.get_mut(key) {
            topic.pins += 1;
        }
        key
    }

    fn commit_join(&mut self, child: &mut Child, topics: &[TopicKey], change: Subscribe) {
        let proto = child.session.proto;
        let Some(own) = &mut child.topics else { return };
        let mut out = Vec::new();
        for topic_key in topics {
            let Some(topic) = self.hubs.topics.get_mut(*topic_key) else { continue };
            if !own.holds(*topic_key) {
                own.held.insert(topic_key.to_bits());
                own.counts[index(change.family)] += 1;
                own.bytes += topic.name.len();
                topic.subscribers.insert(child.key.to_bits());
            }
            confirmation(&mut out, proto, change, Some(&topic.name), own.count(change.family));
        }
        self.confirm(child, &out);
    }

    // ---- leaving --------------------------------------------------------------------------------------

    fn leave_topics(&mut self, child: &mut Child, request: &Request<'_>, change: Subscribe) -> Flow {
        let all = request.argc() == 1;
        let family = index(change.family);
        let named: Vec<TopicKey> = if all {
            self.held_topics(child, Some(change.family))
        } else {
            let hub = child.topics.as_ref().and_then(|own| self.hubs.by_user.get(&own.user));
            let find = |name| hub.and_then(|hub| hub.names[family].get(name).copied());
            request.args().skip(1).map(|name| find(name).unwrap_or(Key::NONE)).collect()
        };
        match self.may_leave(child, &named) {
            Ok(None) => {}
            Ok(Some(refusal)) => {
                self.answer(child, &refusal);
                return Flow::Done;
            }
            Err(flow) => return flow,
        }
        let mut out = Vec::new();
        let typed = request.args().skip(1).map(Some).chain(std::iter::repeat(None));
        for (topic, typed) in named.iter().zip(typed) {
            let known = self.hubs.topics.get(*topic).map(|topic| Arc::clone(&topic.name));
            self.remove_subscriber(child, *topic);
            self.confirm_leave(child, &mut out, change, typed.or(known.as_deref()));
        }
        if named.is_empty() {
            self.confirm_leave(child, &mut out, change, None);
        }
        self.confirm(child, &out);
        Flow::Done
    }

    fn confirm_leave(&self, child: &Child, out: &mut Vec<u8>, change: Subscribe, name: Option<&[u8]>) {
        let count = child.topics.as_ref().map_or(0, |own| own.count(change.family));
        confirmation(out, child.session.proto, change, name, count);
    }

    /// RESET: leaves everything as UNSUBSCRIBE would, but without a word. What the child published before counts
    /// it in.
    pub(in crate::core) fn reset_topics(&mut self, child: &mut Child) -> Result<(), Flow> {
        let held = self.held_topics(child, None);
        if !held.is_empty() && self.is_owed_replies(child) {
            return Err(Flow::Hold(Hold::Drained));
        }
        self.may_leave(child, &held)?;
        self.drop_topics(child);
        Ok(())
    }

    /// The topics a child has, of one family or of all.
    fn held_topics(&self, child: &Child, family: Option<Family>) -> Vec<TopicKey> {
        let Some(own) = child.topics.as_ref() else {
            return Vec::new();
        };
        let of_family = |key: &TopicKey| {
            let topic = self.hubs.topics.get(*key);
            topic.is_some_and(|topic| family.is_none_or(|family| family == topic.family))
        };
        own.held.iter().map(|bits| Key::from_bits(*bits)).filter(of_family).collect()
    }

    /// Whether the upstream has done its part for a child to leave: topics with no other listener are left
    /// upstream first, and everything published until then has come. `Err`: the child has to wait for that.
    /// An error is the upstream's, which does not let it leave.
    fn may_leave(&mut self, child: &mut Child, named: &[TopicKey]) -> Result<Option<Vec<u8>>, Flow> {
        let Some(own) = &child.topics else { return Ok(None) };
        let user = own.user;
        let held: Vec<TopicKey> = named.iter().copied().filter(|topic| own.holds(*topic)).collect();
        if held.is_empty() || !self.hub_is_ready(user) {
            // Without a connection there is nothing to leave upstream, and nothing more will come.
            return Ok(None);
        }
        let passed = own.fence == Fence::Passed;
        let last = |topic: &Topic| topic.wanted && topic.subscribers.len() == 1 && topic.pins == 0;
        let last = |topic: &TopicKey| self.hubs.topics.get(*topic).is_some_and(last);
        let lasting: Vec<TopicKey> = held.into_iter().filter(last).collect();
        if passed {
            let mut topics = lasting.iter().filter_map(|topic| self.hubs.topics.get(*topic));
            let refusal = topics.find_map(|topic| topic.refusal.clone());
            if refusal.is_some() || lasting.is_empty() {
                return Ok(refusal);
            }
        }
        for topic in lasting {
            // Named twice, it has been asked already.
            if self.hubs.topics.get(topic).is_some_and(|topic| topic.wanted) {
                self.ask_upstream(user, Asked::Leave(topic));
            }
        }
        Err(self.await_fence(child, user))
    }

    /// Takes a child off a topic's list, which is left upstream if nobody else is on it.
    pub(in crate::core) fn remove_subscriber(&mut self, child: &mut Child, topic_key: TopicKey) {
        let Some(topic) = self.hubs.topics.get_mut(topic_key) else { return };
        let Some(own) = child.topics.as_mut() else { return };
        if own.held.remove(&topic_key.to_bits()) {
            own.counts[index(topic.family)] -= 1;
            own.bytes -= topic.name.len();
            topic.subscribers.remove(&child.key.to_bits());
            self.release_topic(topic_key);
        }
    }

    /// Leaves a topic upstream that nobody needs, and forgets it once that is settled.
    pub(in crate::core) fn release_topic(&mut self, key: TopicKey) {
        let Some(topic) = self.hubs.topics.get(key).filter(|topic| !topic.is_used()) else { return };
        let (user, family) = (topic.user, index(topic.family));
        if topic.wanted && self.hub_is_ready(user) {
            return self.ask_upstream(user, Asked::Leave(key));
        }
        if topic.pending == 0 && topic.checks == 0 {
            let Some(topic) = self.hubs.topics.remove(key) else { return };
            if let Some(hub) = self.hubs.by_user.get_mut(&user) {
                hub.names[family].remove(&topic.name);
            }
        }
    }

    /// A child ends, or hears nothing any more: its topics go on without it.
    pub(in crate::core) fn drop_topics(&mut self, child: &mut Child) {
        for topic in self.held_topics(child, None) {
            self.remove_subscriber(child, topic);
        }
        self.forget_front_topics(child);
    }

    /// The request at the front is done, or will not be: what it waited for may go.
    pub(in crate::core) fn forget_front_topics(&mut self, child: &mut Child) {
        let Some(own) = child.topics.as_deref_mut() else { return };
        let pinned = std::mem::take(&mut own.pinned);
        (own.fence, own.since, own.refusal) = (Fence::None, None, None);
        let unused = own.held.is_empty();
        for topic_key in pinned {
            if let Some(topic) = self.hubs.topics.get_mut(topic_key) {
                topic.pins -= 1;
            }
            self.release_topic(topic_key);
        }
        if unused {
            child.topics = None;
        }
    }

    // ---- waiting --------------------------------------------------------------------------------------

    /// The connection has more to take than it should: the request waits until it has less.
    fn hold_for_window(&mut self, child: &mut Child, user: UserId) -> Option<Flow> {
        let lane = self.hubs.by_user.get(&user)?.lane;
        let lane =
            self.connections.lanes.get_mut(lane).filter(|lane| lane.out.len() >= limits::LANE_WINDOW)?;
        lane.held.push(child.key);
        Some(Flow::Hold(Hold::Lane))
    }

    /// Holds the child until everything asked so far is answered. Without a connection one is dialled, and
    /// what the request needs is asked when it is ready.
    fn await_fence(&mut self, child: &mut Child, user: UserId) -> Flow {
        self.hubs.fences += 1;
        let number = self.hubs.fences;
        let now = self.env.now;
        let Some(own) = child.topics.as_deref_mut() else { return Flow::Gone };
        own.since.get_or_insert(now);
        own.fence = Fence::Awaited(number);
        if self.hub_is_ready(user) {
            self.ask_upstream(user, Asked::Fence(child.key, number));
        } else {
            self.want_hub(user);
        }
        self.arm_topics_wait(child, now + self.topics_patience());
        Flow::Hold(Hold::Topics)
    }

    /// Has the child looked at when it may have to be told something. One timer at a time: a child that comes
    /// and goes all day must not leave one each time.
    fn arm_topics_wait(&mut self, child: &mut Child, due: Millis) {
        let now = self.env.now;
        if child.topics_due <= now {
            child.topics_due = due;
            self.env.timers.arm(due, Timer::Child(child.key));
        }
    }

    /// The soonest a child that waits may have to be told something.
    fn topics_patience(&self) -> Millis {
        let settings = &self.env.settings;
        let waits = [settings.lease_wait_timeout, settings.queue_timeout, settings.request_timeout];
        waits.into_iter().filter(|wait| *wait > 0).min().unwrap_or(0).max(10)
    }

    /// A child's deadline: the connection for subscriptions does not come, or does not answer.
    pub(in crate::core) fn topics_wait_over(&mut self, child: &mut Child) {
        let Some(since) = child.topics.as_ref().and_then(|own| own.since) else { return };
        if child.topics_due > self.env.now {
            // Another timer is meant.
            return;
        }
        let waited = self.env.now - since;
        let user = child.topics.as_ref().map_or(child.user, |own| own.user);
        let lane = self.hubs.by_user.get(&user).and_then(|hub| self.connections.lanes.get(hub.lane));
        let (ready, failing) = lane.map_or((false, false), |lane| {
            (lane.state == LaneState::Ready, lane.failures > 0 || !self.upstream_is_up())
        });
        let settings = &self.env.settings;
        let text = if ready {
            let limit = settings.request_timeout;
            (limit > 0 && waited >= limit).then(|| {
                format!("BROKERTIMEOUT no reply within {limit} ms; the command may have been executed")
            })
        } else if failing && waited >= settings.queue_timeout {
            Some(lane.map_or_else(|| DOWN.to_owned(), |lane| self.down(lane.pool)))
        } else {
            let pool = lane.map(|lane| lane.pool);
            (waited >= settings.lease_wait_timeout).then(|| self.no_subscriber(pool))
        };
        match text {
            Some(text) => {
                if ready {
                    self.finish_leaving(child);
                }
                self.forget_front_topics(child);
                self.fail_front(child, &text);
            }
            None => {
                let patience = self.topics_patience();
                let due = if waited < patience { since + patience } else { self.env.now + patience };
                self.arm_topics_wait(child, due);
            }
        }
    }

    /// A child is told nothing more about what it wanted to leave. What the upstream has been asked to leave for it
    /// may be left already: it would listen in vain.
    fn finish_leaving(&mut self, child: &mut Child) {
        for topic in self.held_topics(child, None) {
            if self.hubs.topics.get(topic).is_some_and(|topic| !topic.wanted) {
                self.remove_subscriber(child, topic);
            }
        }
    }
}

impl Broker {
    /// Everything asked before this fence has been answered. The child goes on at once: what the connection
    /// says next, it says to a child that has been confirmed.
    pub(in crate::core) fn fence_passed(&mut self, key: ChildKey, number: u64) {
        if let Some(child) = self.children.get_mut(key)
            && child.hold == Hold::Topics
            && let Some(own) = &mut child.topics
            && own.fence == Fence::Awaited(number)
        {
            own.fence = Fence::Passed;
            child.hold = Hold::None;
            self.run_buffered(key);
        }
    }

    /// Children of a user with a confirmed subscription.
    pub(in crate::core) fn listeners(&self, user: UserId) -> Vec<ChildKey> {
        let listens =
            |child: &Child| child.topics.as_ref().is_some_and(|own| own.user == user && own.total() > 0);
        self.children.iter().filter(|(_, child)| listens(child)).map(|(key, _)| key).collect()
    }
}
