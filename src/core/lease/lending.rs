//! Lending lanes: opening them for those who wait, granting, giving back, taking back. Moves a lane, its lease and the
//! counts together; never looks at a child, which learns of its lease by a notice.

use crate::base::limits;
use crate::core::child::hold::HeldLease;
use crate::core::connection::Connections;
use crate::core::connection::lane::Lane;
use crate::core::env::Env;
use crate::core::keys::{GroupKey, LaneKey, LeaseKind, PoolId};
use crate::core::lease::leases::{Leases, Waiter};
use crate::core::lease::state::{LeaseState, Tenant};
use crate::core::notice::{ChildNotice, Notice};
use crate::core::timers::Timer;

impl Leases {
    /// The waiters that are due get an idle lane of their pool; for the others lanes are opened, as far as the caps
    /// allow.
    pub(super) fn serve(&mut self, connections: &mut Connections, env: &mut Env, kind: LeaseKind) {
        let cap = kind.cap(&env.settings);
        let free = cap.saturating_sub(self.lent(kind)).min(self.room_for(connections, env, kind));
        let mut short: Vec<PoolId> = Vec::new();
        for (ticket, pool) in self.due(kind, free) {
            if !self.grant(connections, env, kind, ticket, pool) {
                short.push(pool);
            }
        }
        if short.is_empty() || !self.may_dial(env.now) {
            return;
        }
        let mut opening = self.opening_by_pool(kind);
        for pool in short {
            if let Some(count) = opening.get_mut(&pool).filter(|count| **count > 0) {
                *count -= 1;
                continue;
            }
            let full = self.lent(kind) + self.opening(kind) >= cap;
            if full || !connections.open_lease(env, pool, kind) {
                return;
            }
            self.begin_opening(kind, pool);
        }
    }

    /// How many leases of the kind the capacity allows to begin: on idle lanes, on those being opened for it, on new
    /// ones. Were more waiters due than that, one in a pool with an idle lane could take it from one in another
    /// pool, for whom it has to be closed.
    fn room_for(&self, connections: &Connections, env: &Env, kind: LeaseKind) -> usize {
        let free = connections.leases_idle() + self.opening(kind);
        let used = connections.capacity().leases().saturating_sub(free);
        connections.leases_max(&env.settings, kind).saturating_sub(used)
    }

    fn grant(
        &mut self,
        connections: &mut Connections,
        env: &mut Env,
        kind: LeaseKind,
        ticket: u64,
        pool: PoolId,
    ) -> bool {
        let Some(lane) = connections.take_idle(pool) else { return false };
        let Some(Waiter { tenant, group, .. }) = self.leave(kind, ticket) else { return false };
        let child = tenant.child();
        let lease = self.lend(connections, env, lane, tenant, kind, group);
        env.notify(Notice::Child(child, ChildNotice::Lent(lease)));
        true
    }

    /// The lane is the child's from now on.
    pub(crate) fn lend(
        &mut self,
        connections: &mut Connections,
        env: &Env,
        lane: LaneKey,
        tenant: Tenant,
        kind: LeaseKind,
        group: Option<GroupKey>,
    ) -> HeldLease {
        let lease = self.begin(tenant, kind, group);
        if let Some(lane) = connections.known_mut(lane) {
            lane.lend(lease, env.now);
        }
        HeldLease { lane, kind }
    }

    // ---- opening --------------------------------------------------------------------------------------

    /// The lane is ready, or will not be: it is not being opened for anybody any more.
    pub(crate) fn opening_is_over(&mut self, lane: &mut Lane) {
        if let Some(kind) = lane.take_opening_for() {
            self.end_opening(kind, lane.pool());
        }
    }

    /// A leased lane is connected and clean: anybody may have it.
    pub(crate) fn lane_ready(&mut self, connections: &mut Connections, env: &mut Env, key: LaneKey) {
        let Some(lane) = connections.known_mut(key) else { return };
        let pool = lane.pool();
        self.opening_is_over(lane);
        self.opened();
        if connections.has_lease_too_many(&env.settings) {
            connections.disconnect(env, key);
        } else {
            connections.offer(pool, key);
        }
    }

    /// An attempt to open a leased lane has failed.
    pub(crate) fn lane_failed(&mut self, connections: &mut Connections, env: &mut Env, key: LaneKey) {
        let Some(lane) = connections.known_mut(key) else { return };
        self.opening_is_over(lane);
        connections.remove(env, key);
        self.open_failed(env);
    }

    // ---- the end --------------------------------------------------------------------------------------

    /// The child of this lane has died. Whatever it left behind upstream goes with the connection.
    pub(crate) fn abandon(&mut self, connections: &mut Connections, env: &mut Env, key: LaneKey) {
        // The lane may have been lost with the event at hand.
        let Some(lane) = connections.find_mut(key) else { return };
        lane.need_close();
        if let Some(lease) = lane.lease_mut() {
            lease.end();
        }
        self.give_back(connections, env, key);
    }

    /// Takes a lane whose lease is over back into the pool, once nothing about it is unsettled.
    pub(crate) fn give_back(&mut self, connections: &mut Connections, env: &mut Env, key: LaneKey) {
        let Some(lane) = connections.known_mut(key) else { return };
        let unblocking = lane.lease().is_some_and(LeaseState::is_unblocking);
        if unblocking && !lane.is_close_needed() && lane.is_ready() {
            // Lent again now, the CLIENT UNBLOCK under way could hit the next tenant.
            return;
        }
        let Some(lease) = lane.take_lease(env.now) else { return };
        let (pool, clean) = (lane.pool(), !lane.is_close_needed() && lane.is_idle() && lane.is_ready());
        self.end(lease);
        if clean && !connections.has_lease_too_many(&env.settings) {
            connections.offer(pool, key);
        } else {
            connections.drop_connection(env, key);
            connections.remove(env, key);
        }
        connections.wake_lane_waiters(env);
        // The queues are served at the end of the event: the caller may be in the middle of one.
        connections.mark_changed();
    }

    // ---- taking back ----------------------------------------------------------------------------------

    /// Every blocking group that waits and holds nothing gets one lease of the most crowded group. Takes the next one
    /// back, if one has to be: its lane, and the CLIENT ID that is to be unblocked.
    pub(super) fn take_back_next(
        &mut self,
        connections: &mut Connections,
        env: &Env,
    ) -> Option<(LaneKey, i64)> {
        let kind = LeaseKind::Blocking;
        let full = self.lent(kind) >= kind.cap(&env.settings)
            || connections.capacity().leases() >= connections.leases_max(&env.settings, kind);
        if !full || self.waiting(kind) == 0 || self.opening(kind) > 0 || !self.must_take_back() {
            return None;
        }
        let key = self.youngest_of_most_crowded(connections)?;
        let lane = connections.known_mut(key)?;
        let id = lane.upstream_id();
        self.take_back(lane.lease_mut()?);
        Some((key, id))
    }

    /// The youngest lease of the group that holds most, if that is more than one.
    fn youngest_of_most_crowded(&self, connections: &Connections) -> Option<LaneKey> {
        let leases = connections.lanes().filter_map(|(key, lane)| Some((key, lane.lease()?)));
        leases
            .filter(|(_, lease)| !lease.is_unblocking())
            .map(|(key, lease)| ((self.crowd_of(lease), lease.granted()), key))
            .filter(|((held, _), _)| *held > 1)
            .max_by_key(|(rank, _)| *rank)
            .map(|(_, key)| key)
    }

    /// CLIENT UNBLOCK has been answered; or its answer will never come. Returns the CLIENT ID to be unblocked once more,
    /// where that `may_repeat`.
    pub(super) fn unblock_answered(
        &mut self,
        connections: &mut Connections,
        env: &mut Env,
        key: LaneKey,
        answer: Option<&[u8]>,
        may_repeat: bool,
    ) -> Option<i64> {
        // The lane may have been lost since.
        let lane = connections.find_mut(key)?;
        // Unanswered, the command may still reach the upstream after this lane has a new tenant.
        lane.need_close_if(answer.is_none());
        let (moved, id) = (lane.is_on_previous_upstream(), lane.upstream_id());
        let lease = lane.lease_mut()?;
        let none_blocked = answer == Some(b":0\r\n");
        if moved && may_repeat && none_blocked && !lease.is_over() {
            // It came before the command it was to end, and this connection may ask only now.
            return Some(id);
        }
        lease.unblock_answered();
        // Anything but 1: the child was no longer blocked, its reply is its own.
        let missed = answer.is_some_and(|frame| frame != b":1\r\n");
        if missed && self.stay(lease) && none_blocked {
            // It may have come before the command it was to end: whoever needs a lease still does.
            env.timers.arm(env.now + limits::UNBLOCK_RETRY, Timer::Leases);
        }
        if lease.is_over() {
            self.give_back(connections, env, key);
        }
        None
    }
}
