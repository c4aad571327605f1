//! Who holds most of what has run out: children and leases, by the user and the process they belong to. Looked up only
//! when somebody is refused, and seldom; decides nothing.

use crate::base::clock::Millis;
use crate::core::keys::GroupKey;
use crate::core::keys::LeaseKind;
use crate::core::keys::PoolId;
use crate::core::lease::state::Tenant;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;

/// Who had the leases of a kind when that was last found out.
pub(in crate::core) type LeaseHolders = [Option<(Millis, String)>; 3];

/// One child in a line.
#[derive(Debug, Clone)]
pub(in crate::core) struct Waiter {
    pub(in crate::core) tenant: Tenant,
    pub(in crate::core) pool: PoolId,
    pub(in crate::core) group: Option<GroupKey>,
}

/// The waiters of one kind, oldest first, and how many leases of the kind there are.
#[derive(Debug, Default)]
pub(in crate::core) struct Line {
    pub(in crate::core) waiting: BTreeMap<u64, Waiter>,
    pub(in crate::core) in_use: usize,
    pub(in crate::core) opening: HashMap<PoolId, usize>,
}

impl Line {
    pub(in crate::core) fn opening(&self) -> usize {
        self.opening.values().sum()
    }

    pub(in crate::core) fn begin_opening(&mut self, pool: PoolId) {
        *self.opening.entry(pool).or_default() += 1;
    }

    pub(in crate::core) fn end_opening(&mut self, pool: PoolId) {
        if let Some(count) = self.opening.get_mut(&pool) {
            *count -= 1;
            if *count == 0 {
                self.opening.remove(&pool);
            }
        }
    }

    /// Lanes being opened, by pool.
    pub(in crate::core) fn opening_by_pool(&self) -> HashMap<PoolId, usize> {
        self.opening.clone()
    }
}

/// A blocking group: how many leases it has, and how many of it wait.
#[derive(Debug, Default)]
pub(in crate::core) struct Group {
    pub(in crate::core) held: usize,
    pub(in crate::core) waiting: usize,
}

impl Group {
    pub(in crate::core) fn is_needy(&self) -> bool {
        self.held == 0 && self.waiting > 0
    }
}

/// All lines.
#[derive(Debug, Default)]
pub(in crate::core) struct Leases {
    pub(in crate::core) blocking: Line,
    pub(in crate::core) transaction: Line,
    pub(in crate::core) session: Line,
    pub(in crate::core) groups: HashMap<GroupKey, Group>,
    /// Blocking groups that wait and hold nothing.
    pub(in crate::core) needy_groups: usize,
    /// Blocking waiters of no group.
    pub(in crate::core) ungrouped: usize,
    /// Take-backs under way.
    pub(in crate::core) taking_back: usize,
    /// Attempts to open a lane that failed in a row.
    pub(in crate::core) failures: u32,
    /// No lane could be opened; tried again at this time.
    pub(in crate::core) retry_at: Millis,
    pub(in crate::core) next_ticket: u64,
}

impl Leases {
    pub(in crate::core) fn line(&mut self, kind: LeaseKind) -> &mut Line {
        match kind {
            LeaseKind::Blocking => &mut self.blocking,
            LeaseKind::Transaction => &mut self.transaction,
            LeaseKind::Session => &mut self.session,
        }
    }

    pub(in crate::core) fn line_ref(&self, kind: LeaseKind) -> &Line {
        match kind {
            LeaseKind::Blocking => &self.blocking,
            LeaseKind::Transaction => &self.transaction,
            LeaseKind::Session => &self.session,
        }
    }

    pub(in crate::core) fn waiting(&self, kind: LeaseKind) -> usize {
        self.line_ref(kind).waiting.len()
    }

    /// A number that orders arrivals and grants.
    pub(in crate::core) fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    pub(in crate::core) fn join(&mut self, kind: LeaseKind, ticket: u64, waiter: Waiter) {
        self.count_group(waiter.group.as_ref(), |group| group.waiting += 1);
        self.ungrouped += usize::from(kind == LeaseKind::Blocking && waiter.group.is_none());
        self.line(kind).waiting.insert(ticket, waiter);
    }

    pub(in crate::core) fn leave(&mut self, kind: LeaseKind, ticket: u64) -> Option<Waiter> {
        let waiter = self.line(kind).waiting.remove(&ticket)?;
        self.count_group(waiter.group.as_ref(), |group| group.waiting -= 1);
        self.ungrouped -= usize::from(kind == LeaseKind::Blocking && waiter.group.is_none());
        Some(waiter)
    }

    /// The waiters to serve when `free` more leases may begin: the first of every blocking group that has
    /// none, and those of no group; then by arrival. Where its turn finds no lane in its pool, a waiter
    /// keeps its turn, so that lanes cannot go round in one pool while another starves.
    pub(in crate::core) fn due(&self, kind: LeaseKind, free: usize) -> Vec<(u64, PoolId)> {
        let waiting = &self.line_ref(kind).waiting;
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

    /// Counts a lease that begins.
    pub(in crate::core) fn granted(&mut self, kind: LeaseKind, group: Option<&GroupKey>) {
        self.line(kind).in_use += 1;
        self.count_group(group, |group| group.held += 1);
    }

    /// Counts a lease that ends.
    pub(in crate::core) fn returned(&mut self, kind: LeaseKind, group: Option<&GroupKey>) {
        self.line(kind).in_use -= 1;
        self.count_group(group, |group| group.held -= 1);
    }

    pub(in crate::core) fn count_group(&mut self, key: Option<&GroupKey>, change: impl FnOnce(&mut Group)) {
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

    /// How many leases a blocking group holds.
    pub(in crate::core) fn held_by(&self, group: &GroupKey) -> usize {
        self.groups.get(group).map_or(0, |group| group.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::key::Key;
    use crate::core::child::origin::Origin;

    pub(in crate::core) fn waiter(group: u64) -> Waiter {
        Waiter {
            tenant: Tenant { child: Key::NONE, id: 0, origin: Origin::nobody() },
            pool: PoolId(0),
            group: Some((PoolId(0), group)),
        }
    }

    #[test]
    pub(in crate::core) fn a_group_without_a_lease_goes_first_then_arrival() {
        let mut leases = Leases::default();
        leases.granted(LeaseKind::Blocking, waiter(1).group.as_ref());
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
        leases.returned(LeaseKind::Blocking, waiter(1).group.as_ref());
        assert_eq!(leases.held_by(&(PoolId(0), 1)), 0);
    }
}
