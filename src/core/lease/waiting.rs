//! How a child's request waits for a lease, and how the child gives it back. Lending itself is `lease::lending`'s.

use crate::base::clock::Millis;
use crate::base::failure::Failure;
use crate::base::limits;
use crate::core::child::Child;
use crate::core::child::hold::{HeldLease, Hold, Wait};
use crate::core::connection::lane::Lane;
use crate::core::keys::{ChildKey, GroupKey, LaneKey, LeaseKind};
use crate::core::lease::leases::Waiter;
use crate::core::lease::state::{LeaseState, Tenant};
use crate::core::notice::{ChildNotice, Notice};
use crate::core::questions::control::Question;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::core::timers::Timer;
use crate::resp::encode;

/// What a request asks of the queue it joins.
#[derive(Debug, Default)]
pub(crate) struct Want {
    /// Waiters with the same group wait for the same thing; one of them may be asked to step back.
    pub(crate) group: Option<u64>,
    /// The request's own timeout, if it ever gives up.
    pub(crate) timeout: Option<Millis>,
}

impl Shared {
    /// The child needs a leased lane for the request at hand. `Ok` when it has one now; otherwise the
    /// request waits: for earlier replies, or in the queue.
    pub(crate) fn lease_for(
        &mut self,
        child: &mut Child,
        kind: LeaseKind,
        want: impl FnOnce() -> Want,
    ) -> Result<LaneKey, Flow> {
        if let Some(lease) = child.lease() {
            debug_assert!(
                lease.kind != LeaseKind::Blocking || !child.is_under_way(),
                "a lease of another request"
            );
            return Ok(lease.lane);
        }
        if child.is_under_way() {
            return Err(Flow::Hold(Hold::OwnReplies));
        }
        let (pool, earlier) = (child.pool_key(), child.front().wait());
        let pool = self.connections.pool_of(pool);
        self.connections.keep_warm(pool);
        let ticket = earlier.map_or_else(|| self.leases.ticket(), |wait| wait.ticket);
        let arrived = earlier.map_or(self.env.now, |wait| wait.arrived);
        let want = want();
        let group: Option<GroupKey> = want.group.map(|group| (pool, group));
        let expires = want.timeout.map(|timeout| arrived.saturating_add(timeout + limits::LEASE_GRACE));
        self.leases.join(kind, ticket, Waiter { tenant: Tenant::of(child), pool, group });
        *child.front_mut().wait_mut() =
            Some(Wait { ticket, arrived, expires, ..Wait::new(kind, self.env.now) });
        child.set_hold(Hold::LeaseQueue);
        self.pump_leases();
        if let Some(lease) = self.take_notice_of_lease(child.key()) {
            child.set_lease(lease);
            child.set_hold(Hold::None);
            return Ok(lease.lane);
        }
        let until = (self.env.now + self.wait_bound()).min(expires.unwrap_or(Millis::MAX));
        self.env.timers.arm(until, Timer::Child(child.key()));
        Err(Flow::Hold(Hold::LeaseQueue))
    }

    /// The soonest a waiter may have to be told something: the upstream may be missing, or go missing.
    fn wait_bound(&self) -> Millis {
        self.env.settings.lease_wait_timeout.min(self.env.settings.queue_timeout.max(10))
    }

    /// Takes the child out of the queue it stands in.
    pub(crate) fn leave_line(&mut self, child: &mut Child) {
        if let (Hold::LeaseQueue, Some(wait)) = (child.hold(), child.front().wait()) {
            self.leases.leave(wait.kind, wait.ticket);
        }
    }

    /// A child's deadline: it stands in a queue, or waits for the upstream.
    pub(crate) fn child_timer(&mut self, child: &mut Child) {
        self.let_go_if_blocked(child);
        match (child.hold(), child.front().wait()) {
            (Hold::Upstream | Hold::OwnReplies, _) if child.front().is_overdue(self.env.now) => {
                self.upstream_wait_over(child);
            }
            (Hold::Question, _) if child.front().question_is_overdue(self.env.now) => {
                self.proof_wait_over(child);
            }
            (Hold::LeaseQueue, Some(wait)) => self.lease_wait_over(child, wait),
            (Hold::AuthDelay, _) if child.front().auth_due().is_none_or(|due| due <= self.env.now) => {
                self.lift(child)
            }
            // Looks whether its time is up.
            (Hold::WriteLane, _) => self.lift(child),
            (Hold::Subscription, _) => self.topics_wait_over(child),
            (Hold::OutputFull, _) => self.read_further(child),
            _ => {}
        }
    }

    fn lease_wait_over(&mut self, child: &mut Child, wait: Wait) {
        let waited = self.env.now - wait.since;
        if wait.expires.is_some_and(|expires| expires <= self.env.now) {
            return self.look_without_lease(child);
        }
        if !self.upstream_is_up() && waited >= self.env.settings.queue_timeout {
            self.leave_line(child);
            let down = self.down_for(child);
            return self.fail_front(child, down);
        }
        let limit = self.env.settings.lease_wait_timeout;
        if waited >= limit {
            self.leave_line(child);
            let failure = self.no_lease_for(child, wait);
            return self.fail_front(child, failure);
        }
        let mut next = wait.since + limit;
        if !self.upstream_is_up() {
            next = next.min(wait.since + self.env.settings.queue_timeout).max(self.env.now + 1);
        } else if self.env.settings.queue_timeout < limit {
            // Looks in from time to time, should the upstream go away meanwhile.
            next = next.min(self.env.now + self.env.settings.queue_timeout.max(10));
        }
        self.env.timers.arm(next.min(wait.expires.unwrap_or(Millis::MAX)), Timer::Child(child.key()));
    }

    pub(crate) fn no_lease_for(&mut self, child: &mut Child, wait: Wait) -> Failure {
        let pool = self.connections.pool_of(child.pool_key());
        self.no_lease(wait.kind, pool, wait.since)
    }

    /// A waiting blocking command's own timeout has passed: the answer Redis would give, which has the
    /// same form for every blocking command of 7.0.
    pub(crate) fn answer_blocking_timeout(&mut self, child: &mut Child) {
        child.front_mut().set_answered();
        let mut reply = Vec::new();
        encode::null_array(&mut reply, child.session().proto);
        self.answer(child, &reply);
    }

    /// The lease that has just been granted to the child at hand.
    fn take_notice_of_lease(&mut self, key: ChildKey) -> Option<HeldLease> {
        let is_lease =
            |one: &Notice| matches!(one, Notice::Child(child, ChildNotice::Lent(_)) if *child == key);
        match self.env.take_back(is_lease)? {
            Notice::Child(_, ChildNotice::Lent(lease)) => Some(lease),
            _ => None,
        }
    }

    /// The child no longer needs its lease. A lane that is provably clean is lent again; any other is
    /// closed.
    pub(crate) fn end_lease(&mut self, child: &mut Child) {
        let Some(held) = child.take_lease() else { return };
        // The lane may have been lost in this event: the child hears of that at its end.
        let Some(lane) = self.connections.find_mut(held.lane) else { return };
        if let Some(lease) = lane.lease_mut() {
            lease.end();
            let watching = lease.is_watching();
            lane.need_close_if(watching);
        }
        self.leases.give_back(&mut self.connections, &mut self.env, held.lane);
        // A draining child had only this left to wait for.
        self.nudge(child);
    }

    /// Whether a drain waits for what the child has not sent yet: the end of a transaction that began with WATCH.
    /// One that only listens, or keeps its connection for what it has changed there, has nothing to wait for.
    pub(crate) fn watches_keys(&self, child: &Child) -> bool {
        let Some(held) = child.lease() else { return false };
        let lease = self.connections.find(held.lane).and_then(|lane| lane.lease());
        held.kind == LeaseKind::Transaction || lease.is_some_and(LeaseState::is_watching)
    }

    /// A blocking command that was lent a lane has been answered without using it. The lane must not stay with the
    /// child: its next blocking command would overtake what is in flight elsewhere.
    pub(crate) fn end_unused_lease(&mut self, child: &mut Child) {
        let Some(held) = child.lease() else { return };
        let unused = self.connections.find(held.lane).is_some_and(Lane::is_idle);
        if held.kind == LeaseKind::Blocking && unused {
            self.end_lease(child);
        }
    }

    /// Grants idle lanes, opens new ones, takes back surplus ones: whatever brings the queues forward.
    pub(crate) fn pump_leases(&mut self) {
        for kind in LeaseKind::ALL {
            self.leases.serve(&mut self.connections, &mut self.env, kind);
        }
        while self.upstream_is_up()
            && self.control.may_unblock()
            && let Some((lane, id)) = self.leases.take_back_next(&mut self.connections, &self.env)
        {
            self.ask(Question::Unblock { lane, id });
        }
    }

    /// CLIENT UNBLOCK has been answered; or its answer will never come.
    pub(crate) fn unblock_answered(&mut self, lane: LaneKey, answer: Option<&[u8]>) {
        let may_repeat = self.control.is_leaving();
        let again =
            self.leases.unblock_answered(&mut self.connections, &mut self.env, lane, answer, may_repeat);
        if let Some(id) = again {
            self.ask(Question::Unblock { lane, id });
        }
    }

    /// A leased lane is connected and clean: anybody may have it.
    pub(crate) fn lease_ready(&mut self, lane: LaneKey) {
        self.leases.lane_ready(&mut self.connections, &mut self.env, lane);
        self.pump_leases();
    }
}
