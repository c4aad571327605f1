//! Requests about shared subscriptions, and how they wait for the upstream. What is subscribed is `pubsub::hubs`'.

use crate::base::clock::Millis;
use crate::base::failure::{Failure, Limit};
use crate::base::limits;
use crate::command::{Family, Subscribe};
use crate::config::value::Pubsub as Mode;
use crate::core::child::Child;
use crate::core::child::closing::CloseReason;
use crate::core::child::hold::Hold;
use crate::core::keys::UserId;
use crate::core::pubsub::own::Fence;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::core::timers::Timer;
use crate::resp::Request;

/// The request goes on in the child's next turn.
fn more(child: &mut Child) -> Flow {
    child.spend(limits::CHILD_TURN as usize);
    Flow::More
}

impl Shared {
    /// Whether the child's subscriptions are shared ones. What it has decides; if it has none, the setting. But the
    /// invalidations that others redirect to a child come to a connection of its own.
    pub(crate) fn subscribes_shared(&self, child: &Child, request: &Request<'_>, change: Subscribe) -> bool {
        let joins = !change.leave && change.family == Family::Channel;
        let invalidations = || joins && request.args().skip(1).any(|name| name == b"__redis__:invalidate");
        let shared = self.env.settings.pubsub == Mode::Shared && !child.listens_on_lease();
        child.topics().is_some() || (shared && !invalidations())
    }

    /// (P|S)(UN)SUBSCRIBE of a child without a connection of its own.
    pub(crate) fn change_topics(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        change: Subscribe,
    ) -> Flow {
        if child.is_under_way() {
            return Flow::Hold(Hold::OwnReplies);
        }
        if !change.leave && self.subscribes_elsewhere(child) {
            return Flow::Hold(Hold::Moving);
        }
        let user = child.topics().map_or(child.user(), |own| own.user());
        self.hubs.learn_name(user, change, request.arg(0));
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

    fn join_topics(&mut self, child: &mut Child, request: &Request<'_>, change: Subscribe) -> Flow {
        let own = child.topics_or_new();
        let user = own.user();
        if own.pinned().is_empty() {
            let max = limits::CHILD_TOPICS_MAX;
            if own.total() as usize + request.argc() > max {
                return self.reject(child, Failure::Limited(Limit::Subscriptions { max }));
            }
            // Where there is no connection yet, nothing waits to be written.
            let lane = self.hubs.lane_of(user).filter(|lane| self.connections.find(*lane).is_some());
            if lane.is_some_and(|lane| self.connections.holds_back(lane, own.child())) {
                return Flow::Hold(Hold::LaneFull);
            }
        }
        if own.pinned().len() < request.argc() - 1 {
            self.live_hubs().pin(own, change.family, request, limits::TOPICS_STEP);
            if own.pinned().len() < request.argc() - 1 {
                return more(child);
            }
        }
        if own.fence() != Fence::Answered {
            return self.await_fence(child);
        }
        if let Some(refusal) = own.take_refusal() {
            self.answer(child, &refusal);
            return Flow::Done;
        }
        // Nothing is told before all of them are known to be on.
        let some = own.to_check(limits::TOPICS_STEP);
        match self.live_hubs().are_on(user, some) {
            Ok(true) => {}
            Err(refusal) => {
                self.answer(child, &refusal);
                return Flow::Done;
            }
            // The connection was lost meanwhile.
            Ok(false) => return self.await_fence(child),
        }
        let count = some.len();
        own.checked(count);
        if own.to_check(1).is_empty() { self.join_checked(child, change) } else { more(child) }
    }

    /// The upstream has all that a SUBSCRIBE names: the child listens to it, name by name, as on a connection of its own.
    fn join_checked(&mut self, child: &mut Child, change: Subscribe) -> Flow {
        let proto = child.session().proto;
        let Some(own) = child.topics_mut() else { return Flow::Gone };
        match self.live_hubs().are_on(own.user(), own.to_join(limits::TOPICS_STEP)) {
            Ok(true) => {}
            // Those who listen to such a topic end: so does one that listens to others of its request.
            Err(_) if own.has_joined_any() => {
                CloseReason::SubscriptionRefused.log(child);
                self.close(child);
                return Flow::Gone;
            }
            Err(refusal) => {
                self.answer(child, &refusal);
                return Flow::Done;
            }
            Ok(false) => return self.await_fence(child),
        }
        let confirmations = self.hubs.join(own, (change, proto), limits::TOPICS_STEP);
        let is_done = own.to_join(1).is_empty();
        self.confirm(child, &confirmations, false);
        let sent = child.sent_bytes();
        child.outbox_mut().order_pushes(sent);
        if is_done { Flow::Done } else { more(child) }
    }

    /// Leaves what the request names; of very many names so many at a time, each lot with a fence of its own.
    fn leave_topics(&mut self, child: &mut Child, request: &Request<'_>, change: Subscribe) -> Flow {
        let proto = child.session().proto;
        let Some(own) = child.topics_mut() else { return self.leave_nothing(child, change.family, request) };
        let named = self.hubs.named(own, change.family, request, limits::TOPICS_STEP);
        match self.live_hubs().may_leave(own, &named) {
            Ok(true) => {}
            Err(refusal) => {
                self.answer(child, &refusal);
                return Flow::Done;
            }
            Ok(false) => return self.await_fence(child),
        }
        let confirmations = self.live_hubs().leave(own, (change, proto), &named, request);
        own.add_left(named.len());
        let is_done = match request.argc() {
            1 => own.held_of(change.family).next().is_none(),
            argc => own.left() + 1 >= argc,
        };
        self.confirm(child, &confirmations, true);
        if is_done { Flow::Done } else { more(child) }
    }

    /// RESET: leaves everything as UNSUBSCRIBE would, but unconfirmed. What the child published before counts it in.
    pub(crate) fn reset_topics(&mut self, child: &mut Child) -> Result<(), Flow> {
        // It has none where it never listened.
        let Some(own) = child.topics_mut() else { return Ok(()) };
        if own.total() > 0 && child.is_under_way() {
            return Err(Flow::Hold(Hold::OwnReplies));
        }
        let Some(own) = child.topics_mut() else { return Ok(()) };
        let some: Vec<_> = own.held().take(limits::TOPICS_STEP).collect();
        if self.live_hubs().may_leave(own, &some) == Ok(false) {
            return Err(self.await_fence(child));
        }
        for topic in &some {
            self.live_hubs().unsubscribe(own, *topic);
        }
        own.add_left(some.len());
        if own.total() > 0 {
            return Err(more(child));
        }
        self.drop_topics(child);
        Ok(())
    }

    /// A child ends, or has left everything: its topics go on without it.
    pub(crate) fn drop_topics(&mut self, child: &mut Child) {
        if let Some(own) = child.take_topics() {
            self.live_hubs().leave_all(own);
        }
    }

    /// The request at the front is done, or will not be: what it waited for may go.
    pub(crate) fn forget_front_topics(&mut self, child: &mut Child) {
        // It has none where it never listened.
        let Some(own) = child.topics_mut() else { return };
        self.live_hubs().unpin(own);
        if own.total() == 0 {
            child.take_topics();
        }
    }

    /// Holds the child until what its request needs and everything asked before is answered.
    fn await_fence(&mut self, child: &mut Child) -> Flow {
        let Some(own) = child.topics_mut() else {
            debug_assert!(false, "a fence for a child without topics");
            return Flow::Gone;
        };
        if !self.live_hubs().ask_fence(own) {
            return more(child);
        }
        self.arm_topics_wait(child, self.env.now + self.topics_patience());
        Flow::Hold(Hold::Subscription)
    }

    /// One timer at a time: a child that comes and goes all day must not leave one each time.
    fn arm_topics_wait(&mut self, child: &mut Child, due: Millis) {
        if child.topics_due() <= self.env.now {
            child.set_topics_due(due);
            self.env.timers.arm(due, Timer::Child(child.key()));
        }
    }

    /// The soonest a child that waits may have to be told something.
    fn topics_patience(&self) -> Millis {
        let settings = &self.env.settings;
        let waits = [settings.lease_wait_timeout, settings.queue_timeout, settings.request_timeout];
        waits.into_iter().filter(|wait| *wait > 0).min().unwrap_or(0).max(10)
    }

    /// A child's deadline: the connection for subscriptions does not come, or does not answer.
    pub(crate) fn topics_wait_over(&mut self, child: &mut Child) {
        // The timer may be that of an earlier wait.
        let Some(own) = child.topics() else { return };
        let (Some(since), user) = (own.waits_since(), own.user()) else { return };
        if child.topics_due() > self.env.now {
            // Another timer is meant.
            return;
        }
        let waited = self.env.waited(since);
        if let Some(failure) = self.topics_wait_failure(user, waited) {
            if let Some(own) = child.topics_mut() {
                self.live_hubs().leave_unwanted(own);
            }
            self.forget_front_topics(child);
            return self.fail_front(child, failure);
        }
        let patience = self.topics_patience();
        let from = if waited < patience { since } else { self.env.now };
        self.arm_topics_wait(child, self.env.wait_ends(from, patience));
    }

    /// What a child is told that has waited for its user's connection for so long; none, if it has to wait on.
    fn topics_wait_failure(&self, user: UserId, waited: Millis) -> Option<Failure> {
        let settings = &self.env.settings;
        // There may be no connection, nor any need of one, when another child's request has just failed.
        let lane = self.hubs.lane_of(user).and_then(|lane| self.connections.find(lane));
        if lane.is_some_and(|lane| lane.is_ready()) {
            let after_ms = settings.request_timeout;
            return (after_ms > 0 && waited >= after_ms).then_some(Failure::TimedOut { after_ms });
        }
        let failing = lane.filter(|lane| lane.record().failures > 0 || !self.upstream_is_up());
        if let Some(lane) = failing.filter(|_| waited >= settings.queue_timeout) {
            return Some(self.down(lane.pool()));
        }
        let pool = lane.map(|lane| lane.pool());
        (waited >= settings.lease_wait_timeout).then(|| self.no_subscriber(pool))
    }
}
