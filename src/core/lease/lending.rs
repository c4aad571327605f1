//! Lending lanes: opening them for those who wait, granting, giving back, taking back. Moves a lane, its lease and the
//! counts together; never looks at a child, which learns of its lease by a notice.

use crate::core::child::hold::HeldLease;
use crate::core::connection::lane::Lane;
use crate::core::keys::{LaneKey, LeaseKind, PoolId};
use crate::core::lease::leases::Demand;
use crate::core::lease::state::{LeaseState, Tenant};
use crate::core::notice::{ChildNotice, Notice};
use crate::core::questions::control::Question;
use crate::core::shared::Shared;

impl Shared {
    /// Grants idle lanes, opens new ones, takes back surplus ones: whatever brings the queues forward.
    pub(crate) fn pump_leases(&mut self) {
        for kind in LeaseKind::ALL {
            self.serve_queue(kind);
        }
        while self.upstream_is_up() && self.control.may_unblock() && self.take_back_next().is_some() {}
    }

    /// The waiters that are due get an idle lane of their pool, or one is opened, as far as the caps allow.
    fn serve_queue(&mut self, kind: LeaseKind) {
        if self.leases.waiting(kind) == 0 || self.pause.holds() {
            return;
        }
        let mut opening = self.connections.opening_for(kind);
        let (cap, room) = (kind.cap(&self.env.settings), self.room_for(kind, opening.len()));
        let free = cap.saturating_sub(self.leases.lent(kind)).min(room);
        let mut short: Vec<PoolId> = Vec::new();
        for (ticket, pool) in self.leases.due(kind, free) {
            if !self.grant(kind, ticket, pool) {
                short.push(pool);
            }
        }
        let now = self.env.now;
        if short.is_empty() || !self.leases.may_dial(now) || !self.connections.may_dial(now) {
            return;
        }
        let mut busy = self.leases.lent(kind) + opening.len();
        for pool in short {
            if let Some(at) = opening.iter().position(|opening| *opening == pool) {
                opening.swap_remove(at);
                continue;
            }
            let may_dial = busy < cap && self.connections.may_dial(now);
            if !may_dial || !self.connections.open_lease(&mut self.env, pool, kind) {
                return;
            }
            busy += 1;
        }
    }

    /// How many leases of the kind may begin: on idle lanes, on those `opening` for it, on new ones. Were more waiters due,
    /// one in a pool with an idle lane could take it from one in another pool, for whom it has to be closed.
    fn room_for(&self, kind: LeaseKind, opening: usize) -> usize {
        let free = self.connections.leases_idle() + opening;
        let used = self.connections.capacity().leases().saturating_sub(free);
        self.connections.leases_max(&self.env.settings, kind).saturating_sub(used)
    }

    fn grant(&mut self, kind: LeaseKind, ticket: u64, pool: PoolId) -> bool {
        // Whoever was served before may have left the line for it.
        if !self.leases.stands(kind, ticket) {
            return true;
        }
        // None may be idle: then one is opened.
        let Some(lane) = self.connections.take_idle(pool) else { return false };
        let Some(Demand { tenant, .. }) = self.leases.leave(kind, ticket) else { return false };
        let lease = self.lend(lane, tenant.clone(), kind);
        match tenant {
            Tenant::Child { key, .. } => self.env.notify(Notice::Child(key, ChildNotice::Lent(lease))),
            Tenant::Group(group) => self.lent_to_group(group, lane, ticket),
            Tenant::Look(group) => self.lent_to_look(group, lane),
        }
        true
    }

    pub(crate) fn lend(&mut self, lane: LaneKey, tenant: Tenant, kind: LeaseKind) -> HeldLease {
        let lease = self.leases.begin(tenant, kind);
        if let Some(lane) = self.connections.known_mut(lane) {
            lane.lend(lease, self.env.now);
        }
        HeldLease { lane, kind }
    }

    /// A leased lane is connected and clean: anybody may have it.
    pub(crate) fn lease_ready(&mut self, key: LaneKey) {
        self.leases.opened();
        self.connections.offer(&mut self.env, key, true);
        self.pump_leases();
    }

    /// The child of this lane has died, or all that wait for what is on it. Whatever was left behind upstream goes with the
    /// connection.
    pub(crate) fn abandon_lease(&mut self, key: LaneKey) {
        // The lane may have been lost with the event at hand.
        let Some(lane) = self.connections.find_mut(key) else { return };
        lane.need_close();
        if let Some(group) = lane.lease().and_then(LeaseState::group)
            && self.groups.get(group).is_some()
        {
            self.part(group, key);
            return self.tend(group);
        }
        let Some(lane) = self.connections.find_mut(key) else { return };
        if let Some(lease) = lane.lease_mut() {
            lease.end();
        }
        self.give_back(key);
    }

    /// Takes a lane whose lease is over back into the pool, once nothing about it is unsettled.
    pub(crate) fn give_back(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.known_mut(key) else { return };
        let usable = !lane.record().close_needed && lane.is_ready();
        if usable && lane.lease().is_some_and(LeaseState::is_unblocking) {
            // Lent again now, the CLIENT UNBLOCK under way could hit the next tenant.
            return;
        }
        let Some(lease) = lane.take_lease(self.env.now) else { return };
        let clean = usable && lane.is_idle();
        self.leases.end(lease);
        self.connections.offer(&mut self.env, key, clean);
        self.connections.wake_lane_waiters(&mut self.env);
        // The queues are served at the end of the event: the caller may be in the middle of one.
        self.connections.mark_changed();
    }

    /// Whoever has no lease for a blocking command gets one of the group that has most of them, if there are no others.
    fn take_back_next(&mut self) -> Option<()> {
        let (kind, settings) = (LeaseKind::Blocking, &self.env.settings);
        let needy = self.leases.urgent(kind);
        let full = || {
            self.leases.lent(kind) >= kind.cap(settings)
                || self.connections.capacity().leases() >= self.connections.leases_max(settings, kind)
        };
        if needy == 0 || !full() || !self.connections.opening_for(kind).is_empty() {
            return None;
        }
        let ending = |lane: &Lane| lane.lease().is_some_and(LeaseState::is_unblocking);
        if self.connections.lanes().filter(|(_, lane)| ending(lane)).count() >= needy {
            return None;
        }
        let groups = self.connections.lanes().filter_map(|(_, lane)| lane.lease()?.group());
        let crowded = groups.filter_map(|key| Some((self.groups.get(key)?.idle_waits().count(), key)));
        let (_, group) = crowded.filter(|(held, _)| *held > 1).max_by_key(|(held, _)| *held)?;
        let (youngest, _) = self.groups.get(group)?.idle_waits().next()?;
        self.unblock_lane(group, youngest).then_some(())
    }

    /// CLIENT UNBLOCK has been answered; or its answer will never come.
    pub(crate) fn unblock_answered(&mut self, key: LaneKey, answer: Option<&[u8]>) {
        let Some(lane) = self.connections.find_mut(key) else { return };
        // Unanswered, the command may still reach the upstream after this lane has a new tenant.
        lane.need_close_if(answer.is_none());
        let (moved, id) = (lane.record().is_on_previous_upstream, lane.record().upstream_id);
        let Some(lease) = lane.lease_mut() else { return };
        let none_blocked = answer == Some(b":0\r\n");
        if moved && self.control.is_leaving() && none_blocked && !lease.is_over() {
            // It came before the command it was to end, and this connection may ask only now.
            return self.ask(Question::Unblock { lane: key, id });
        }
        lease.unblock_answered();
        match lease.group() {
            _ if lease.is_over() => self.give_back(key),
            Some(_) if lease.is_unblocking() => {}
            Some(group) => self.group_unblock_answered(group, key, answer),
            None => {}
        }
    }
}
