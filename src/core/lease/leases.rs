//! Who waits for a lease, who gets the next one, and how many there are. Three queues that never delay each other:
//! blocking commands, transactions (WATCH), sessions (subscriptions). Owns the queues and the counts, and changes a lease
//! together with them; never opens or closes a connection.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::core::env::Env;
use crate::core::keys::{LeaseKind, PoolId};
use crate::core::lease::state::{LeaseState, Tenant};
use crate::core::timers::Timer;
use std::collections::BTreeMap;

/// A place in a line.
#[derive(Debug, Clone)]
pub(super) struct Demand {
    pub(super) tenant: Tenant,
    pub(super) pool: PoolId,
    /// When it came.
    pub(super) since: Millis,
}

#[derive(Debug, Default)]
struct LeaseQueue {
    /// By ticket, oldest first: those that have no lease at all.
    urgent: BTreeMap<u64, Demand>,
    /// Groups that have a lease and have use for another one.
    others: BTreeMap<u64, Demand>,
    lent: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Leases {
    /// By `LeaseKind`.
    queues: [LeaseQueue; 3],
    failures: u32,
    /// No lane could be opened; tried again at this time.
    retry_at: Millis,
    last_ticket: u64,
    /// Who had the leases of a kind when that was last found out.
    holders: [Option<(Millis, String)>; 3],
}

impl Leases {
    fn queue(&self, kind: LeaseKind) -> &LeaseQueue {
        &self.queues[kind as usize]
    }

    fn queue_mut(&mut self, kind: LeaseKind) -> &mut LeaseQueue {
        &mut self.queues[kind as usize]
    }

    /// How many stand in the line.
    pub(crate) fn waiting(&self, kind: LeaseKind) -> usize {
        self.urgent(kind) + self.queue(kind).others.len()
    }

    /// How many of them are children that stand for themselves.
    pub(crate) fn waiting_alone(&self, kind: LeaseKind) -> usize {
        let alone = |demand: &&Demand| matches!(demand.tenant, Tenant::Child { .. });
        self.queue(kind).urgent.values().filter(alone).count()
    }

    /// How many wait, for anything but a blocking command, that are of one kind.
    pub(crate) fn waiting_of(&self, is_meant: impl Fn(&Tenant) -> bool) -> usize {
        let kinds = [LeaseKind::Transaction, LeaseKind::Session];
        let demands = kinds.into_iter().flat_map(|kind| self.queue(kind).urgent.values());
        demands.filter(|demand| is_meant(&demand.tenant)).count()
    }

    /// How many wait for a lease of this pool, and since when the first of them.
    pub(crate) fn waiting_in(&self, pool: PoolId) -> (usize, Option<Millis>) {
        let all = self.queues.iter().flat_map(|queue| queue.urgent.values());
        let since = all.filter(|demand| demand.pool == pool).map(|demand| demand.since);
        since.fold((0, None), |(count, first), since| {
            (count + 1, Some(first.map_or(since, |first: Millis| first.min(since))))
        })
    }

    /// Those that have no lease at all, by arrival.
    pub(crate) fn line(&self, kind: LeaseKind) -> impl Iterator<Item = &Tenant> {
        self.queue(kind).urgent.values().map(|demand| &demand.tenant)
    }

    /// How many of them have no lease at all.
    pub(crate) fn urgent(&self, kind: LeaseKind) -> usize {
        self.queue(kind).urgent.len()
    }

    /// Whether somebody could use a lease that a group has had: who has none of this kind, or waits for another kind.
    pub(super) fn is_short(&self) -> bool {
        LeaseKind::ALL.into_iter().any(|kind| self.urgent(kind) > 0)
    }

    pub(crate) fn lent(&self, kind: LeaseKind) -> usize {
        self.queue(kind).lent
    }

    /// Who holds the leases of a kind, in words; as it was at most `HOLDERS_FRESH` ago.
    pub(crate) fn holders(&mut self, kind: LeaseKind, now: Millis, find: impl FnOnce() -> String) -> String {
        let known = &mut self.holders[kind as usize];
        match known {
            Some((told, text)) if *told + limits::HOLDERS_FRESH > now => text.clone(),
            _ => known.insert((now, find())).1.clone(),
        }
    }

    /// The last number that was given out.
    pub(crate) fn last_ticket(&self) -> u64 {
        self.last_ticket
    }

    /// From now on numbers are higher than this one.
    pub(crate) fn number_from(&mut self, ticket: u64) {
        self.last_ticket = self.last_ticket.max(ticket);
    }

    /// A number that orders arrivals and grants.
    pub(crate) fn ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }

    pub(super) fn join(&mut self, kind: LeaseKind, ticket: u64, demand: Demand) {
        self.queue_mut(kind).urgent.insert(ticket, demand);
    }

    /// The same of one that has a lease already.
    pub(super) fn join_for_more(&mut self, kind: LeaseKind, ticket: u64, demand: Demand) {
        self.queue_mut(kind).others.insert(ticket, demand);
    }

    pub(super) fn stands(&self, kind: LeaseKind, ticket: u64) -> bool {
        let queue = self.queue(kind);
        queue.urgent.contains_key(&ticket) || queue.others.contains_key(&ticket)
    }

    pub(super) fn leave(&mut self, kind: LeaseKind, ticket: u64) -> Option<Demand> {
        let queue = self.queue_mut(kind);
        queue.urgent.remove(&ticket).or_else(|| queue.others.remove(&ticket))
    }

    /// Whose turn it is when `free` more leases may begin: those that have none, then the others, each by arrival. Who
    /// finds no lane in its pool keeps its turn, so that lanes cannot go round in one pool while another starves.
    pub(super) fn due(&self, kind: LeaseKind, free: usize) -> Vec<(u64, PoolId)> {
        let queue = self.queue(kind);
        let all = queue.urgent.iter().chain(&queue.others);
        all.take(free).map(|(ticket, demand)| (*ticket, demand.pool)).collect()
    }

    /// Whether lanes may be dialled: not for a while after one could not be opened.
    pub(crate) fn may_dial(&self, now: Millis) -> bool {
        now >= self.retry_at
    }

    pub(super) fn opened(&mut self) {
        self.failures = 0;
    }

    pub(crate) fn open_failed(&mut self, env: &mut Env) {
        if !self.may_dial(env.now) {
            // One of several that were dialled together.
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.retry_at = env.now + env.backoff(self.failures).max(1);
        env.timers.arm(self.retry_at, Timer::Leases);
    }

    pub(crate) fn upstream_replaced(&mut self, now: Millis) {
        (self.failures, self.retry_at) = (0, now);
    }

    /// The next attempt is made by this time, at the latest.
    pub(crate) fn retry_by(&mut self, env: &mut Env, due: Millis) {
        if self.retry_at > due {
            self.retry_at = due;
            env.timers.arm(due, Timer::Leases);
        }
    }

    pub(super) fn begin(&mut self, tenant: Tenant, kind: LeaseKind) -> LeaseState {
        self.queue_mut(kind).lent += 1;
        LeaseState::new(tenant, kind)
    }

    pub(super) fn end(&mut self, lease: LeaseState) {
        self.queue_mut(lease.kind()).lent -= 1;
    }

    /// Its child keeps the lane from now on, whatever it was lent for.
    pub(crate) fn convert_to_session(&mut self, lease: &mut LeaseState) {
        debug_assert!(lease.group().is_none(), "a lease of a group became a session");
        let before = lease.become_session();
        self.queue_mut(before).lent -= 1;
        self.queue_mut(LeaseKind::Session).lent += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_lease_goes_first_then_arrival() {
        let (mut leases, kind) = (Leases::default(), LeaseKind::Blocking);
        let demand = || Demand { tenant: Tenant::nobody(), pool: PoolId(0), since: 0 };
        let lease = leases.begin(Tenant::nobody(), kind);
        leases.join_for_more(kind, 1, demand());
        leases.join_for_more(kind, 2, demand());
        leases.join(kind, 3, demand());
        leases.join(kind, 4, demand());
        let due = |leases: &Leases, free| -> Vec<u64> {
            leases.due(kind, free).into_iter().map(|(ticket, _)| ticket).collect()
        };
        assert!(due(&leases, 0).is_empty() && leases.is_short());
        assert_eq!(due(&leases, 3), [3, 4, 1]);
        assert!(leases.leave(kind, 3).is_some() && leases.leave(kind, 4).is_some());
        assert!(leases.leave(kind, 4).is_none() && !leases.is_short());
        assert_eq!((due(&leases, 9), leases.waiting(kind)), (vec![1, 2], 2));
        leases.end(lease);
        assert_eq!(leases.lent(kind), 0);
    }
}
