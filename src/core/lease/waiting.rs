//! How a child's request waits for a lease, and how the child gives it back. Lending itself is `lease::lending`'s.

use crate::core::child::Child;
use crate::core::child::hold::{HeldLease, Hold, Wait};
use crate::core::connection::lane::Lane;
use crate::core::keys::{ChildKey, LaneKey, LeaseKind};
use crate::core::lease::leases::Demand;
use crate::core::lease::state::{LeaseState, Tenant};
use crate::core::notice::{ChildNotice, Notice};
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::core::timers::Timer;
impl Shared {
    /// The lane of the child's lease, now; or the request waits: for earlier replies, or in the queue.
    pub(crate) fn lease_for(&mut self, child: &mut Child, kind: LeaseKind) -> Result<LaneKey, Flow> {
        if let Some(lease) = child.lease() {
            let fits = lease.kind != LeaseKind::Blocking || !child.is_under_way();
            debug_assert!(fits, "a lease of another request");
            return Ok(lease.lane);
        }
        if child.is_under_way() {
            return Err(Flow::Hold(Hold::OwnReplies));
        }
        self.check_lease_cap(child, kind).map_err(|failure| self.reject(child, failure))?;
        let (pool, earlier) = (child.pool_key(), child.front().wait());
        let pool = self.connections.pool_of(pool);
        self.connections.keep_warm(pool);
        let ticket = earlier.map_or_else(|| self.leases.ticket(), |wait| wait.ticket);
        let arrived = earlier.map_or(self.env.now, |wait| wait.arrived);
        self.leases.join(kind, ticket, Demand { tenant: Tenant::of(child), pool, since: arrived });
        *child.front_mut().wait_mut() = Some(Wait { ticket, arrived, ..Wait::new(kind, self.env.now) });
        child.set_hold(Hold::LeaseQueue);
        self.pump_leases();
        if let Some(lease) = self.take_notice_of_lease(child.key()) {
            *child.lease_mut() = Some(lease);
            child.set_hold(Hold::None);
            return Ok(lease.lane);
        }
        // The soonest it may have to be told something: the upstream may be missing, or go missing.
        let settings = &self.env.settings;
        let bound = settings.lease_wait_timeout.min(settings.queue_timeout.max(10));
        self.env.timers.arm(self.env.now + bound, Timer::Child(child.key()));
        Err(Flow::Hold(Hold::LeaseQueue))
    }

    /// It waits no longer: for a lease, or in its group.
    pub(crate) fn leave_line(&mut self, child: &mut Child) {
        match (child.hold(), child.front().wait()) {
            (Hold::LeaseQueue, Some(wait)) => {
                self.leases.leave(wait.kind, wait.ticket);
            }
            (Hold::Element, Some(wait)) => self.leave_group(wait),
            _ => {}
        }
    }

    /// A child's deadline: it stands in a queue, or waits for the upstream.
    pub(crate) fn child_timer(&mut self, child: &mut Child) {
        self.let_go_if_blocked(child);
        if child.end_is_due(self.env.now) {
            return self.mark_child(child);
        }
        match (child.hold(), child.front().wait()) {
            (Hold::Upstream | Hold::OwnReplies | Hold::Question, _) => self.front_wait_over(child),
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

    /// A wait that the front request has a deadline for may be over, or have been prolonged by a pause.
    fn front_wait_over(&mut self, child: &mut Child) {
        let Some((since, until)) = child.front().upstream_wait() else { return };
        if self.env.waited(since) < until - since {
            if self.env.standstill.within(since, self.env.now) > 0 {
                self.env.timers.arm(self.env.wait_ends(since, until - since), Timer::Child(child.key()));
            }
        } else if child.hold() != Hold::Question {
            self.upstream_wait_over(child);
        } else if child.front().has_question() {
            self.proof_wait_over(child);
        }
    }

    fn lease_wait_over(&mut self, child: &mut Child, wait: Wait) {
        let (now, up) = (self.env.now, self.upstream_is_up());
        let (limit, queue_timeout) = (self.env.settings.lease_wait_timeout, self.env.settings.queue_timeout);
        let waited = self.env.waited(wait.since);
        let is_down = !up && waited >= queue_timeout;
        if is_down || waited >= limit {
            self.leave_line(child);
            let failure = if is_down { self.down_for(child) } else { self.no_lease_for(child, wait) };
            return self.fail_front(child, failure);
        }
        let mut next = self.env.wait_ends(wait.since, limit);
        if !up {
            next = next.min(self.env.wait_ends(wait.since, queue_timeout)).max(now + 1);
        } else if queue_timeout < limit {
            // Looks in from time to time, should the upstream go away meanwhile.
            next = next.min(now + queue_timeout.max(10));
        }
        self.env.timers.arm(next, Timer::Child(child.key()));
    }

    /// The lease that has just been granted to the child at hand.
    fn take_notice_of_lease(&mut self, key: ChildKey) -> Option<HeldLease> {
        let is_lease =
            |one: &Notice| matches!(one, Notice::Child(child, ChildNotice::Lent(_)) if *child == key);
        let Notice::Child(_, ChildNotice::Lent(lease)) = self.env.take_back(is_lease)? else { return None };
        Some(lease)
    }

    /// The child no longer needs its lease. A provably clean lane is lent again; any other is closed.
    pub(crate) fn end_lease(&mut self, child: &mut Child) {
        let Some(held) = child.lease_mut().take() else { return };
        // The lane may have been lost in this event: the child hears of that at its end.
        let Some(lane) = self.connections.find_mut(held.lane) else { return };
        if let Some(lease) = lane.lease_mut() {
            lease.end();
            let watching = lease.is_watching();
            lane.need_close_if(watching);
        }
        self.give_back(held.lane);
        // A draining child had only this left to wait for.
        self.nudge(child);
    }

    /// Whether a drain waits for the end of the child's transaction: one that began with WATCH, or a MULTI wherever it is
    /// queued. For no other lease.
    pub(crate) fn is_in_transaction(&self, child: &Child) -> bool {
        if child.session().transaction.is_open() {
            return true;
        }
        self.leases_transaction(child)
    }

    /// Whether its lease is for a transaction: it watches keys, or has begun a MULTI there.
    pub(crate) fn leases_transaction(&self, child: &Child) -> bool {
        let Some(held) = child.lease() else { return false };
        let lease = self.connections.find(held.lane).and_then(|lane| lane.lease());
        held.kind == LeaseKind::Transaction || lease.is_some_and(LeaseState::is_watching)
    }

    /// A blocking command was answered without its lane. The child's next one would overtake what is in flight elsewhere.
    pub(crate) fn end_unused_lease(&mut self, child: &mut Child) {
        let Some(held) = child.lease() else { return };
        let unused = self.connections.find(held.lane).is_some_and(Lane::is_idle);
        if held.kind == LeaseKind::Blocking && unused {
            self.end_lease(child);
        }
    }
}
