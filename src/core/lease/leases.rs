//! Who waits for a lease, who gets the next one, and how many there are. Three queues that never delay each other:
//! blocking commands, transactions (WATCH), sessions (subscriptions). Owns the queues and the counts, and changes a lease
//! together with them; never opens or closes a connection.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::core::env::Env;
use crate::core::keys::{GroupKey, LeaseKind, PoolId};
use crate::core::lease::state::{LeaseState, Tenant};
use crate::core::timers::Timer;
use std::collections::{BTreeMap, HashMap, HashSet};

#[derive(Debug, Clone)]
pub(super) struct Waiter {
    pub(super) tenant: Tenant,
    pub(super) pool: PoolId,
    pub(super) group: Option<GroupKey>,
}

#[derive(Debug, Default)]
struct LeaseQueue {
    /// By ticket: oldest first.
    waiting: BTreeMap<u64, Waiter>,
    lent: usize,
}

/// A blocking group: how many leases it has, and how many of it wait.
#[derive(Debug, Default)]
struct Group {
    held: usize,
    waiting: usize,
}

impl Group {
    fn is_needy(&self) -> bool {
        self.held == 0 && self.waiting > 0
    }
}

#[derive(Debug, Default)]
pub(crate) struct Leases {
    /// By `LeaseKind`.
    queues: [LeaseQueue; 3],
    groups: HashMap<GroupKey, Group>,
    /// Blocking groups that wait and hold nothing.
    needy_groups: usize,
    /// Blocking waiters of no group.
    ungrouped: usize,
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

    pub(crate) fn waiting(&self, kind: LeaseKind) -> usize {
        self.queue(kind).waiting.len()
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

    /// A number that orders arrivals and grants.
    pub(super) fn ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }

    pub(super) fn join(&mut self, kind: LeaseKind, ticket: u64, waiter: Waiter) {
        self.count_group(waiter.group.as_ref(), |group| group.waiting += 1);
        self.ungrouped += usize::from(kind == LeaseKind::Blocking && waiter.group.is_none());
        self.queue_mut(kind).waiting.insert(ticket, waiter);
    }

    pub(super) fn leave(&mut self, kind: LeaseKind, ticket: u64) -> Option<Waiter> {
        let waiter = self.queue_mut(kind).waiting.remove(&ticket)?;
        self.count_group(waiter.group.as_ref(), |group| group.waiting -= 1);
        self.ungrouped -= usize::from(kind == LeaseKind::Blocking && waiter.group.is_none());
        Some(waiter)
    }

    /// The waiters to serve when `free` more leases may begin: the first of every blocking group that has
    /// none, and those of no group; then by arrival. Where its turn finds no lane in its pool, a waiter
    /// keeps its turn, so that lanes cannot go round in one pool while another starves.
    pub(super) fn due(&self, kind: LeaseKind, free: usize) -> Vec<(u64, PoolId)> {
        let waiting = &self.queue(kind).waiting;
        let urgent = if kind == LeaseKind::Blocking { self.needy_groups + self.ungrouped } else { 0 };
        let (mut due, mut seen) = (Vec::new(), HashSet::new());
        for (ticket, waiter) in waiting {
            if due.len() >= urgent.min(free) {
                break;
            }
            let first = waiter.group.as_ref().is_none_or(|group| {
                self.groups.get(group).is_some_and(Group::is_needy) && seen.insert(group)
            });
            if first {
                due.push((*ticket, waiter.pool));
            }
        }
        let ahead: HashSet<u64> = due.iter().map(|(ticket, _)| *ticket).collect();
        let others = waiting.iter().filter(|(ticket, _)| !ahead.contains(ticket));
        let room = free - due.len();
        due.extend(others.take(room).map(|(ticket, waiter)| (*ticket, waiter.pool)));
        due
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

    pub(super) fn begin(&mut self, tenant: Tenant, kind: LeaseKind, group: Option<GroupKey>) -> LeaseState {
        self.queue_mut(kind).lent += 1;
        self.count_group(group.as_ref(), |group| group.held += 1);
        LeaseState::new(tenant, kind, group, self.ticket())
    }

    pub(super) fn end(&mut self, lease: LeaseState) {
        self.queue_mut(lease.kind()).lent -= 1;
        self.count_group(lease.group(), |group| group.held -= 1);
    }

    /// Its child keeps the lane from now on, whatever it was lent for.
    pub(crate) fn convert_to_session(&mut self, lease: &mut LeaseState) {
        debug_assert!(lease.group().is_none(), "a blocking lease became a session");
        let before = lease.become_session();
        self.queue_mut(before).lent -= 1;
        self.queue_mut(LeaseKind::Session).lent += 1;
    }

    pub(super) fn needy_groups(&self) -> usize {
        self.needy_groups
    }

    /// How many leases the group holds that this one could be taken from for another group.
    pub(super) fn crowd_of(&self, lease: &LeaseState) -> usize {
        let group = lease.group().filter(|_| lease.may_be_taken_back());
        let group = group.and_then(|group| self.groups.get(group));
        group.map_or(0, |group| group.held)
    }

    fn count_group(&mut self, key: Option<&GroupKey>, change: impl FnOnce(&mut Group)) {
        let Some(key) = key else { return };
        let group = self.groups.entry(*key).or_default();
        let before = group.is_needy();
        change(group);
        let after = group.is_needy();
        if group.held == 0 && group.waiting == 0 {
            self.groups.remove(key);
        }
        self.needy_groups = self.needy_groups + usize::from(after) - usize::from(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(group: u64) -> Waiter {
        Waiter { tenant: Tenant::nobody(), pool: PoolId(0), group: Some((PoolId(0), group)) }
    }

    #[test]
    fn a_group_without_a_lease_goes_first_then_arrival() {
        let mut leases = Leases::default();
        let lease = leases.begin(Tenant::nobody(), LeaseKind::Blocking, waiter(1).group);
        for (ticket, group) in [(1, 1), (2, 1), (3, 2)] {
            leases.join(LeaseKind::Blocking, ticket, waiter(group));
        }
        assert_eq!(leases.needy_groups, 1);
        let due = |leases: &Leases, free| -> Vec<u64> {
            leases.due(LeaseKind::Blocking, free).into_iter().map(|(ticket, _)| ticket).collect()
        };
        assert!(due(&leases, 0).is_empty());
        assert_eq!(due(&leases, 2), [3, 1]);
        leases.leave(LeaseKind::Blocking, 3);
        assert_eq!(leases.needy_groups, 0);
        assert_eq!(due(&leases, 9), [1, 2]);
        assert_eq!(leases.crowd_of(&lease), 1);
        leases.end(lease);
        assert_eq!((leases.lent(LeaseKind::Blocking), leases.needy_groups), (0, 1));
    }
}
