//! Lending lanes: joining a queue, opening lanes for it, granting, giving back, taking back. The counts and the order are
//! `lease::leases`'; here they meet lanes and children.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::core::child::Child;
use crate::core::child::hold::HeldLease;
use crate::core::child::hold::Hold;
use crate::core::child::hold::Wait;
use crate::core::connection::lane::Lane;
use crate::core::connection::lane::LaneRole;
use crate::core::connection::lane::LaneState;
use crate::core::keys::ChildKey;
use crate::core::keys::GroupKey;
use crate::core::keys::LaneKey;
use crate::core::keys::LeaseKind;
use crate::core::keys::PoolId;
use crate::core::lease::leases::Waiter;
use crate::core::lease::state::LeaseState;
use crate::core::lease::state::Tenant;
use crate::core::notice::Notice;
use crate::core::questions::control::Question;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::core::timers::Timer;
use crate::resp::encode;

/// What a request asks of the queue it joins.
#[derive(Debug, Default)]
pub(in crate::core) struct Want {
    /// Waiters with the same group wait for the same thing; one of them may be asked to step back.
    pub(in crate::core) group: Option<u64>,
    /// The request's own timeout, if it ever gives up.
    pub(in crate::core) timeout: Option<Millis>,
}

impl Shared {
    /// The child needs a leased lane for the request at hand. `Ok` when it has one now; otherwise the
    /// request waits: for earlier replies, or in the queue.
    pub(in crate::core) fn lease_for(
        &mut self,
        child: &mut Child,
        kind: LeaseKind,
        want: impl FnOnce() -> Want,
    ) -> Result<LaneKey, Flow> {
        if let Some(lease) = child.lease {
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
        let pool = self.pool_of(pool);
        self.pool(pool).warm = true;
        let ticket = earlier.map_or_else(|| self.leases.ticket(), |wait| wait.ticket);
        let arrived = earlier.map_or(self.env.now, |wait| wait.arrived);
        let want = want();
        let group: Option<GroupKey> = want.group.map(|group| (pool, group));
        let expires = want.timeout.map(|timeout| arrived.saturating_add(timeout + limits::LEASE_GRACE));
        self.leases.join(kind, ticket, Waiter { tenant: Tenant::of(child), pool, group });
        child.front_mut().set_wait(Wait { ticket, arrived, expires, ..Wait::new(kind, self.env.now) });
        child.hold = Hold::LeaseQueue;
        self.pump_leases();
        if let Some(lease) = self.take_notice_of_lease(child.key) {
            child.lease = Some(lease);
            child.hold = Hold::None;
            return Ok(lease.lane);
        }
        let until = (self.env.now + self.wait_bound()).min(expires.unwrap_or(Millis::MAX));
        self.env.timers.arm(until, Timer::Child(child.key));
        Err(Flow::Hold(Hold::LeaseQueue))
    }

    /// The soonest a waiter may have to be told something: the upstream may be missing, or go missing.
    fn wait_bound(&self) -> Millis {
        self.env.settings.lease_wait_timeout.min(self.env.settings.queue_timeout.max(10))
    }

    /// Takes the child out of the line it stands in.
    pub(in crate::core) fn leave_line(&mut self, child: &mut Child) {
        if let (Hold::LeaseQueue, Some(wait)) = (child.hold, child.front().wait()) {
            self.leases.leave(wait.kind, wait.ticket);
        }
    }

    /// A child's deadline: it stands in a line, or waits for the upstream.
    pub(in crate::core) fn child_timer(&mut self, child: &mut Child) {
        self.let_go_if_blocked(child);
        match (child.hold, child.front().wait()) {
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
            return self.fail_front(child, &down);
        }
        let limit = self.env.settings.lease_wait_timeout;
        if waited >= limit {
            self.leave_line(child);
            let text = self.no_lease_for(child, wait);
            return self.fail_front(child, &text);
        }
        let mut next = wait.since + limit;
        if !self.upstream_is_up() {
            next = next.min(wait.since + self.env.settings.queue_timeout).max(self.env.now + 1);
        } else if self.env.settings.queue_timeout < limit {
            // Looks in from time to time, should the upstream go away meanwhile.
            next = next.min(self.env.now + self.env.settings.queue_timeout.max(10));
        }
        self.env.timers.arm(next.min(wait.expires.unwrap_or(Millis::MAX)), Timer::Child(child.key));
    }

    pub(in crate::core) fn no_lease_for(&mut self, child: &mut Child, wait: Wait) -> String {
        let pool = self.pool_of(child.pool_key());
        self.no_lease(wait.kind, pool, wait.since)
    }

    /// A waiting blocking command's own timeout has passed: the answer Redis would give, which has the
    /// same form for every blocking command of 7.0.
    pub(in crate::core) fn answer_blocking_timeout(&mut self, child: &mut Child) {
        child.front_mut().set_answered();
        let mut reply = Vec::new();
        encode::null_array(&mut reply, child.session.proto);
        self.answer(child, &reply);
    }

    /// Grants idle lanes, opens new ones, takes back surplus ones: whatever brings the queues forward.
    pub(in crate::core) fn pump_leases(&mut self) {
        for kind in LeaseKind::ALL {
            self.serve_queue(kind);
        }
        self.take_back_surplus();
    }

    /// The waiters that are due get an idle lane of their pool; for the others lanes are opened, as far as the caps
    /// allow.
    fn serve_queue(&mut self, kind: LeaseKind) {
        let cap = self.lease_cap(kind);
        let free = cap.saturating_sub(self.leases.lent(kind)).min(self.places_for(kind));
        let mut short: Vec<PoolId> = Vec::new();
        for (ticket, pool) in self.leases.due(kind, free) {
            if !self.grant(kind, ticket, pool) {
                short.push(pool);
            }
        }
        if short.is_empty() || !self.leases.may_dial(self.env.now) {
            return;
        }
        let mut opening = self.leases.opening_by_pool(kind);
        for pool in short {
            if let Some(count) = opening.get_mut(&pool).filter(|count| **count > 0) {
                *count -= 1;
                continue;
            }
            let full = self.leases.lent(kind) + self.leases.opening(kind) >= cap;
            if full || !self.open_lease(pool, kind) {
                return;
            }
        }
    }

    /// How many leases of the kind the places allow to begin: on idle lanes, on those being opened for it, on new
    /// ones. Were more waiters due than that, one in a pool with an idle lane could take it from one in another
    /// pool, for whom it has to be closed.
    fn places_for(&self, kind: LeaseKind) -> usize {
        let free = self.leases_idle() + self.leases.opening(kind);
        self.lease_places(kind).saturating_sub(self.connections.places.leases.saturating_sub(free))
    }

    fn grant(&mut self, kind: LeaseKind, ticket: u64, pool: PoolId) -> bool {
        let Some(lane) = self.pool(pool).idle.pop() else { return false };
        let Some(Waiter { tenant, group, .. }) = self.leases.leave(kind, ticket) else { return false };
        let child = tenant.child();
        let lease = self.lend(lane, tenant, kind, group);
        self.env.notices.push_back(Notice::Lent(child, lease));
        true
    }

    /// The lease that has just been granted to the child at hand.
    fn take_notice_of_lease(&mut self, key: ChildKey) -> Option<HeldLease> {
        let at =
            self.env.notices.iter().position(|one| matches!(one, Notice::Lent(child, _) if *child == key))?;
        match self.env.notices.remove(at)? {
            Notice::Lent(_, lease) => Some(lease),
            _ => None,
        }
    }

    /// The lane is the child's from now on.
    pub(in crate::core) fn lend(
        &mut self,
        lane_key: LaneKey,
        tenant: Tenant,
        kind: LeaseKind,
        group: Option<GroupKey>,
    ) -> HeldLease {
        let lease = self.leases.begin(tenant, kind, group);
        if let Some(lane) = self.connections.lanes.get_mut(lane_key) {
            lane.lend(lease, self.env.now);
        }
        HeldLease { lane: lane_key, kind }
    }

    fn open_lease(&mut self, pool: PoolId, kind: LeaseKind) -> bool {
        if self.connections.places.leases >= self.lease_places(kind) && !self.evict_idle_lease(pool) {
            return false;
        }
        self.connections.places.lease_wanted = false;
        if !self.make_place(LaneRole::Lease) {
            self.connections.places.lease_wanted = true;
            self.ask_to_yield();
            return false;
        }
        let mut lane = Lane::new(pool, LaneRole::Lease, self.env.now);
        lane.opening_for = Some(kind);
        let key = self.connections.lanes.insert(lane);
        self.leases.begin_opening(kind, pool);
        self.dial(key);
        true
    }

    /// Opens a leased lane nobody waits for yet.
    pub(in crate::core) fn open_warm(&mut self, pool: PoolId) -> bool {
        let max = self.env.settings.upstream_connections_max - 1 - self.probe.slots();
        if self.connections.places.leases >= self.lease_places(LeaseKind::Blocking)
            || self.connections.places.open + self.connections.places.closing >= max
        {
            return false;
        }
        let key = self.connections.lanes.insert(Lane::new(pool, LaneRole::Lease, self.env.now));
        self.dial(key);
        true
    }

    /// Closes an idle leased lane of another pool.
    fn evict_idle_lease(&mut self, wanted: PoolId) -> bool {
        let victim = self.connections.pools.iter().enumerate().find_map(|(index, pool)| {
            if index == wanted.0 as usize { None } else { pool.idle.first().copied() }
        });
        victim.inspect(|key| self.disconnect(*key)).is_some()
    }

    /// A leased lane is connected and clean: anybody may have it.
    pub(in crate::core) fn lease_ready(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        let pool = lane.pool();
        if let Some(kind) = lane.take_opening_for() {
            self.leases.end_opening(kind, pool);
        }
        self.leases.opened();
        if self.has_lease_too_many() {
            self.disconnect(key);
        } else {
            self.pool(pool).idle.push(key);
        }
        self.pump_leases();
    }

    /// An attempt to open a leased lane has failed.
    pub(in crate::core) fn lease_open_failed(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        let pool = lane.pool();
        if let Some(kind) = lane.take_opening_for() {
            self.leases.end_opening(kind, pool);
        }
        self.forget_lane(key, pool);
        self.leases.open_failed(&mut self.env);
    }

    /// The child no longer needs its lease. A lane that is provably clean is lent again; any other is
    /// closed.
    pub(in crate::core) fn end_lease(&mut self, child: &mut Child) {
        let Some(held) = child.lease.take() else { return };
        let Some(lane) = self.connections.lanes.get_mut(held.lane) else { return };
        if let Some(lease) = lane.lease_mut() {
            lease.end();
            let watching = lease.is_watching();
            lane.need_close_if(watching);
        }
        self.return_lane(held.lane);
        // A draining child had only this left to wait for.
        self.nudge(child);
    }

    /// Whether a drain waits for what the child has not sent yet: the end of a transaction that began with WATCH.
    /// One that only listens, or keeps its connection for what it has changed there, has nothing to wait for.
    pub(in crate::core) fn watches_keys(&self, child: &Child) -> bool {
        let Some(held) = child.lease else { return false };
        let lease = self.connections.lanes.get(held.lane).and_then(|lane| lane.lease());
        held.kind == LeaseKind::Transaction || lease.is_some_and(LeaseState::is_watching)
    }

    /// A blocking command that was lent a lane has been answered without using it. The lane must not stay with the
    /// child: its next blocking command would overtake what is in flight elsewhere.
    pub(in crate::core) fn end_unused_lease(&mut self, child: &mut Child) {
        let Some(held) = child.lease else { return };
        let unused = self.connections.lanes.get(held.lane).is_some_and(Lane::is_idle);
        if held.kind == LeaseKind::Blocking && unused {
            self.end_lease(child);
        }
    }

    /// The child of this lane has died. Whatever it left behind upstream goes with the connection.
    pub(in crate::core) fn abandon_lease(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        lane.need_close();
        if let Some(lease) = lane.lease_mut() {
            lease.end();
        }
        self.return_lane(key);
    }

    /// Takes a lane whose lease is over back into the pool, once nothing about it is unsettled.
    pub(in crate::core) fn return_lane(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        let unblocking = lane.lease().is_some_and(LeaseState::is_unblocking);
        if unblocking && !lane.is_close_needed() && lane.is_ready() {
            // Lent again now, the CLIENT UNBLOCK under way could hit the next tenant.
            return;
        }
        let Some(lease) = lane.take_lease(self.env.now) else { return };
        let (pool, clean) = (lane.pool(), !lane.is_close_needed() && lane.is_idle() && lane.is_ready());
        self.leases.end(lease);
        if clean && !self.has_lease_too_many() {
            self.pool(pool).idle.push(key);
        } else {
            self.drop_connection(key);
            self.forget_lane(key, pool);
        }
        self.wake_lane_waiters();
        // The queues are served at the end of the event: the caller may be in the middle of one.
        self.connections.places_changed = true;
    }

    /// Every group that waits and holds nothing gets one lease of the most crowded group: its youngest
    /// waiter is unblocked on the control connection and stands in the queue again.
    fn take_back_surplus(&mut self) {
        let kind = LeaseKind::Blocking;
        let possible = self.upstream_is_up() && self.control.may_unblock();
        if self.leases.waiting(kind) == 0 || self.leases.opening(kind) > 0 || !possible {
            return;
        }
        let full = self.leases.lent(kind) >= self.lease_cap(kind)
            || self.connections.places.leases >= self.lease_places(kind);
        while full && self.leases.must_take_back() {
            let Some(key) = self.surplus_lane() else { return };
            let Some(lane) = self.connections.lanes.get_mut(key) else { return };
            let id = lane.upstream_id();
            if let Some(lease) = lane.lease_mut() {
                self.leases.take_back(lease);
            }
            self.ask(Question::Unblock { lane: key, id });
        }
    }

    /// The youngest lease of the group that holds most, if that is more than one.
    fn surplus_lane(&self) -> Option<LaneKey> {
        let leases = self.connections.lanes.iter().filter_map(|(key, lane)| Some((key, lane.lease()?)));
        leases
            .filter(|(_, lease)| !lease.is_unblocking())
            .map(|(key, lease)| ((self.leases.crowd_of(lease), lease.granted()), key))
            .filter(|((held, _), _)| *held > 1)
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, key)| key)
    }

    /// CLIENT UNBLOCK has been answered; or its answer will never come.
    pub(in crate::core) fn unblock_answered(&mut self, key: LaneKey, answer: Option<&[u8]>) {
        // The lane may have been lost since.
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        // Unanswered, the command may still reach the upstream after this lane has a new tenant.
        lane.need_close_if(answer.is_none());
        let (moved, id) = (lane.is_on_previous_upstream(), lane.upstream_id());
        let Some(lease) = lane.lease_mut() else { return };
        if moved && self.control.is_leaving() && answer == Some(b":0\r\n") && !lease.is_over() {
            // It came before the command it was to end, and this connection may ask only now.
            return self.ask(Question::Unblock { lane: key, id });
        }
        lease.unblock_answered();
        // Anything but 1: the child was no longer blocked, its reply is its own.
        let missed = answer.is_some_and(|frame| frame != b":1\r\n");
        if missed && self.leases.stay(lease) && answer == Some(b":0\r\n") {
            // It may have come before the command it was to end: whoever needs a lease still does.
            self.env.timers.arm(self.env.now + limits::UNBLOCK_RETRY, Timer::Leases);
        }
        if lease.is_over() {
            self.return_lane(key);
        }
    }
}
