//! What children are told that wait for a connection and get none: BROKERDOWN and BROKERLIMIT, with the cause. Never what is
//! done about it.

use crate::base::failure::{Failure, Limit, Shortage};
use crate::core::child::Child;
use crate::core::child::hold::Wait;
use crate::core::child::origin::describe;
use crate::core::keys::{LeaseKind, UserId};
use crate::core::shared::Shared;

impl Shared {
    /// The control connection works at last. What another connection of its pool was refused since it was made
    /// still stands.
    pub(crate) fn forget_refusal_of_control(&mut self) {
        let made = self.connections.known(self.control.lane()).map_or(0, |lane| lane.record().connected_at);
        let pool = self.control_pool();
        let refusal = self.connections.pool(pool).refusal();
        if refusal.is_some_and(|refusal| refusal.at <= made || self.commands.put_off_at() == Some(refusal.at))
        {
            self.connections.forget_refusal(&self.env, pool);
        }
    }

    /// For those who wait for the broker's own connections.
    pub(crate) fn down_at_all(&mut self) -> Failure {
        let pool = self.control_pool();
        self.connections.down(pool)
    }

    /// The same for this child, whose own pool may know more.
    pub(crate) fn down_for(&mut self, child: &mut Child) -> Failure {
        let known = !matches!(child.user(), UserId::NOBODY | UserId::UNDECIDED);
        let pool = known.then(|| self.connections.pool_of(child.pool_key()));
        match pool.filter(|pool| self.connections.pool(*pool).refusal().is_some()) {
            Some(pool) => self.connections.down(pool),
            None => self.down_at_all(),
        }
    }

    /// For a child that has waited for a lease.
    pub(crate) fn no_lease_for(&mut self, child: &mut Child, wait: Wait) -> Failure {
        let why = self.lease_shortage(child, wait);
        Failure::Limited(Limit::Lease { after_ms: self.env.settings.lease_wait_timeout, why })
    }

    fn lease_shortage(&mut self, child: &mut Child, Wait { kind, since, .. }: Wait) -> Shortage {
        let pool = self.connections.pool_of(child.pool_key());
        let (setting, max) = (kind.limit_name(), kind.cap(&self.env.settings));
        let waiting = self.leases.waiting(kind);
        if max == 0 {
            return Shortage::NoneAllowed { setting };
        }
        if self.leases.lent(kind) >= max {
            return Shortage::AllLent { setting, max, waiting, holders: self.lease_holders(kind) };
        }
        let settings = &self.env.settings;
        let refusal = self.connections.pool(pool).refusal();
        let fresh = refusal.filter(|refusal| refusal.at + settings.reconnect_backoff_max >= since);
        let used_up = self.connections.are_leases_used_up(settings, kind);
        // Where no attempt was made since, the last refusal still holds.
        match fresh.or(refusal.filter(|_| !used_up)) {
            Some(refusal) => Shortage::Refused(refusal.text.clone()),
            None if used_up => {
                Shortage::AllInUse { connections_max: settings.upstream_connections_max, waiting }
            }
            None => Shortage::Unknown,
        }
    }

    /// Who holds the leases of a kind, in words.
    fn lease_holders(&mut self, kind: LeaseKind) -> String {
        let leases = self.connections.lanes().filter_map(|(_, lane)| lane.lease());
        let of_kind = leases.filter(|lease| lease.kind() == kind && !lease.is_over());
        let find = || describe(of_kind.map(|lease| lease.tenant().origin().holder()));
        self.leases.holders(kind, self.env.now, find)
    }
}
