//! Why there is no connection, and what is said of it to those who wait for one: BROKERDOWN and BROKERLIMIT, with the cause.
//! Owns the last refusal of each pool, in the words of the upstream or of the system, which is kept until a connection of the
//! pool stands again. Never what is done about it.

use crate::base::clock::Millis;
use crate::base::failure::{Down, Failure, Limit, Shortage};
use crate::core::child::Child;
use crate::core::child::hold::Wait;
use crate::core::child::origin::{Origin, describe};
use crate::core::connection::bar::LastRefusal;
use crate::core::host::processes::Process;
use crate::core::keys::{LaneKey, LeaseKind, PoolId, UserId};
use crate::core::lease::state::Tenant;
use crate::core::shared::Shared;

/// Characters of a refusal that are kept: an upstream may say anything.
const REFUSAL_MAX: usize = 256;

impl Shared {
    /// An attempt to connect has come to nothing. Said in the log when it is news.
    pub(crate) fn note_refusal(&mut self, pool: PoolId, text: &str) {
        let text: String = text.chars().take(REFUSAL_MAX).collect();
        let is_old = self.connections.bar().remembers(&text, self.env.now);
        let refusal = &mut self.connections.pool_mut(pool).refusal;
        let before = refusal.take();
        let is_same = before.as_ref().is_some_and(|before| before.text == text);
        let is_news = !is_same && !is_old;
        let level = if is_news { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "cannot connect to upstream {}: {text}", self.env.upstream);
        let is_told = is_news || is_same && before.is_some_and(|before| before.is_told);
        *refusal = Some(LastRefusal { text, at: self.env.now, is_told });
    }

    /// What has just been noted does not pass by itself: the others wait for one that tries.
    pub(crate) fn bar_others(&mut self, key: LaneKey, pool: PoolId, failures: u32) {
        if let Some(refusal) = self.connections.pool(pool).refusal.clone() {
            self.connections.raise_bar(&mut self.env, key, failures, refusal);
        }
    }

    /// Why this pool has no connection: what was said to one of its own, or to the one that tries for all.
    fn refusal_of(&self, pool: PoolId) -> Option<&LastRefusal> {
        self.connections.pool(pool).refusal.as_ref().or(self.connections.bar().refusal())
    }

    /// A connection of the pool stands.
    pub(super) fn forget_refusal(&mut self, pool: PoolId) {
        if let Some(refusal) = self.connections.pool_mut(pool).refusal.take() {
            let level = if refusal.is_told { log::Level::Info } else { log::Level::Debug };
            log::log!(level, "connected to upstream {} again", self.env.upstream);
        }
    }

    /// The control connection works. What another one of its pool was refused since it was made still stands.
    pub(crate) fn forget_refusal_of_control(&mut self) {
        let made = self.connections.known(self.control.lane()).map_or(0, |lane| lane.record().connected_at);
        let pool = self.control_pool();
        let refusal = self.connections.pool(pool).refusal.as_ref();
        if refusal.is_some_and(|refusal| refusal.at <= made || self.commands.put_off_at() == Some(refusal.at))
        {
            self.forget_refusal(pool);
        }
    }

    pub(crate) fn down(&self, pool: PoolId) -> Failure {
        let refusal = self.refusal_of(pool).map(|refusal| refusal.text.clone());
        Failure::Down(Down::Unreachable(refusal))
    }

    pub(super) fn down_on(&self, key: LaneKey) -> Failure {
        let connections_max = self.env.settings.upstream_connections_max;
        match self.connections.known(key) {
            Some(lane) if !lane.is_waiting() || self.connections.bar().is_up() => self.down(lane.pool()),
            Some(_) => Failure::Down(Down::AllInUse { connections_max }),
            None => Failure::Down(Down::Unreachable(None)),
        }
    }

    /// For those who wait for the broker's own connections.
    pub(crate) fn down_at_all(&mut self) -> Failure {
        let pool = self.control_pool();
        self.down(pool)
    }

    /// The same for this child, whose own pool may know more.
    pub(crate) fn down_for(&mut self, child: &mut Child) -> Failure {
        if matches!(child.user(), UserId::NOBODY | UserId::UNDECIDED) {
            return self.down_at_all();
        }
        let pool = self.connections.pool_of(child.pool_key());
        self.down_in(pool)
    }

    /// The same for those who wait in this pool.
    pub(crate) fn down_in(&mut self, pool: PoolId) -> Failure {
        if self.connections.pool(pool).refusal.is_some() { self.down(pool) } else { self.down_at_all() }
    }

    /// For those who have waited for the connection that carries subscriptions.
    pub(crate) fn no_subscriber(&self, pool: Option<PoolId>) -> Failure {
        let settings = &self.env.settings;
        let why = match pool.and_then(|pool| self.refusal_of(pool)) {
            Some(refusal) => Shortage::Refused(refusal.text.clone()),
            None => Shortage::AllLeased { max: self.connections.leases_max(settings, LeaseKind::Session) },
        };
        Failure::Limited(Limit::Subscriber { after_ms: settings.lease_wait_timeout, why })
    }

    pub(crate) fn no_lease_for(&mut self, child: &mut Child, Wait { kind, since, .. }: Wait) -> Failure {
        let pool = self.connections.pool_of(child.pool_key());
        self.no_lease_in(pool, kind, since)
    }

    /// For those who have waited since then for a lease of this pool.
    pub(crate) fn no_lease_in(&mut self, pool: PoolId, kind: LeaseKind, since: Millis) -> Failure {
        let why = self.lease_shortage(pool, kind, since);
        Failure::Limited(Limit::Lease { after_ms: self.env.settings.lease_wait_timeout, why })
    }

    fn lease_shortage(&mut self, pool: PoolId, kind: LeaseKind, since: Millis) -> Shortage {
        let (setting, max) = (kind.limit_name(), kind.cap(&self.env.settings));
        let waiting = self.waiting_for(kind);
        if max == 0 {
            return Shortage::NoneAllowed { setting };
        }
        if self.leases.lent(kind) >= max {
            return Shortage::AllLent { setting, max, waiting, holders: self.lease_holders(kind) };
        }
        let settings = &self.env.settings;
        let refusal = self.refusal_of(pool);
        let fresh = refusal.filter(|refusal| refusal.at + settings.reconnect_backoff_max >= since);
        let (capacity, leases_max) =
            (&self.connections.capacity, self.connections.leases_max(settings, kind));
        let used_up = capacity.lease_wanted || capacity.leases >= leases_max;
        // Where no attempt was made since, the last refusal still holds.
        match fresh.or(refusal.filter(|_| !used_up)) {
            Some(refusal) => Shortage::Refused(refusal.text.clone()),
            None if used_up => {
                Shortage::AllInUse { connections_max: settings.upstream_connections_max, waiting }
            }
            None => Shortage::Unknown,
        }
    }

    /// Children that wait for a lease of this kind.
    pub(crate) fn waiting_for(&self, kind: LeaseKind) -> usize {
        if kind == LeaseKind::Blocking {
            self.leases.waiting_alone(kind) + self.groups.bare_waiters()
        } else {
            self.leases.waiting(kind)
        }
    }

    fn lease_holders(&mut self, kind: LeaseKind) -> String {
        let (connections, groups, processes) = (&self.connections, &self.groups, &self.processes);
        let find = || {
            let leases = connections.lanes().filter_map(|(key, lane)| Some((key, lane.lease()?)));
            let of_kind = leases.filter(|(_, lease)| lease.kind() == kind && !lease.is_over());
            let origins = of_kind.filter_map(|(key, lease)| match lease.tenant() {
                Tenant::Child { origin, .. } => Some(origin),
                Tenant::Group(group) | Tenant::Look(group) => groups.get(*group)?.origin_at(key),
            });
            describe(origins.map(Origin::holder), &|pid| processes.by_pid(pid).map(Process::name))
        };
        self.leases.holders(kind, self.env.now, find)
    }
}
