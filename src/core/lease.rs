//! Who waits for a leased lane, and who gets the next one. Three lines that never stand in each other's
//! way: blocking commands, transactions (WATCH), sessions (subscriptions). Owns the lines and the counts;
//! lanes themselves belong to `core::pool`.

use super::child::Child;
use super::holders::Origin;
use super::pinned::Pinning;
use super::pool::PoolId;
use crate::base::clock::Millis;
use crate::base::key::Key;
use std::collections::{BTreeMap, HashMap, HashSet};

/// What a lease is taken for; each kind has its own cap and its own line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LeaseKind {
    /// One blocking command, until its reply.
    Blocking,
    /// WATCH or a MULTI that cannot be queued here, until EXEC, DISCARD or UNWATCH.
    Transaction,
    /// A subscription, until the last one is given up or the child goes.
    Session,
}

impl LeaseKind {
    pub(super) const ALL: [LeaseKind; 3] = [LeaseKind::Transaction, LeaseKind::Session, LeaseKind::Blocking];

    /// The configuration key of its cap.
    pub(super) fn limit_name(self) -> &'static str {
        match self {
            LeaseKind::Blocking => "leases_blocking_max",
            LeaseKind::Transaction => "leases_transaction_max",
            LeaseKind::Session => "leases_session_max",
        }
    }
}

/// What blocking waiters of one group have in common: the pool and the command without its timeout.
/// Hashed, so that a waiter holds no second copy of its keys; two groups that collide are merely served as one.
pub(super) type GroupKey = (PoolId, u64);

/// A lease in force, kept in its lane.
#[derive(Debug)]
pub(crate) struct LeaseState {
    pub(super) child: Key<Child>,
    /// CLIENT ID of the child.
    pub(super) child_id: u64,
    /// To whom the child belongs.
    pub(super) origin: Origin,
    /// The child keeps it until it undoes what it has changed there, or goes.
    pub(super) kept: bool,
    pub(super) kind: LeaseKind,
    /// Keys are watched on this lane.
    pub(super) watching: bool,
    /// The db of a SELECT sent on this lane, until answered.
    pub(super) selecting: Option<u32>,
    /// The protocol of a HELLO sent on this lane, until answered.
    pub(super) switching: Option<u8>,
    /// What a command of kind `SlotKind::Pin` sent on this lane will change, until answered.
    pub(super) pinning: Option<Pinning>,
    /// The group it serves, for blocking commands.
    pub(super) group: Option<GroupKey>,
    /// Order of granting; a take-back picks the youngest.
    pub(super) granted: u64,
    /// CLIENT UNBLOCK was sent to give this lease to a group that has none: a null is not the child's.
    pub(super) taking_back: bool,
    /// So many CLIENT UNBLOCK have not been answered yet: until then the lane must not have another tenant.
    pub(super) unblocking: u8,
    /// The child is done with it, but the answer to CLIENT UNBLOCK is still to come.
    pub(super) over: bool,
}

impl LeaseState {
    /// Whether the child of this CLIENT ID has it to itself for good.
    pub(super) fn is_kept_by(&self, id: i64) -> bool {
        self.kept && !self.over && u64::try_from(id) == Ok(self.child_id)
    }
}

/// A child as far as the lines know it.
#[derive(Debug, Clone)]
pub(super) struct Tenant {
    pub(super) child: Key<Child>,
    /// CLIENT ID.
    pub(super) id: u64,
    /// To whom it belongs, for whoever asks who has all the leases.
    pub(super) origin: Origin,
}

impl Tenant {
    pub(super) fn of(child: &Child) -> Self {
        Tenant { child: child.key, id: child.session.id, origin: child.origin() }
    }
}

/// One child in a line.
#[derive(Debug, Clone)]
pub(super) struct Waiter {
    pub(super) tenant: Tenant,
    pub(super) pool: PoolId,
    pub(super) group: Option<GroupKey>,
}

/// The waiters of one kind, oldest first, and how many leases of the kind there are.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiting: BTreeMap<u64, Waiter>,
    pub(super) in_use: usize,
    opening: HashMap<PoolId, usize>,
}

impl Line {
    pub(super) fn opening(&self) -> usize {
        self.opening.values().sum()
    }

    pub(super) fn begin_opening(&mut self, pool: PoolId) {
        *self.opening.entry(pool).or_default() += 1;
    }

    pub(super) fn end_opening(&mut self, pool: PoolId) {
        if let Some(count) = self.opening.get_mut(&pool) {
            *count -= 1;
            if *count == 0 {
                self.opening.remove(&pool);
            }
        }
    }

    /// Lanes being opened, by pool.
    pub(super) fn opening_by_pool(&self) -> HashMap<PoolId, usize> {
        self.opening.clone()
    }
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

/// All lines.
#[derive(Debug, Default)]
pub(super) struct Leases {
    blocking: Line,
    transaction: Line,
    session: Line,
    groups: HashMap<GroupKey, Group>,
    /// Blocking groups that wait and hold nothing.
    pub(super) needy_groups: usize,
    /// Blocking waiters of no group.
    ungrouped: usize,
    /// Take-backs under way.
    pub(super) taking_back: usize,
    /// Attempts to open a lane that failed in a row.
    pub(super) failures: u32,
    /// No lane could be opened; tried again at this time.
    pub(super) retry_at: Millis,
    next_ticket: u64,
}

impl Leases {
    pub(super) fn line(&mut self, kind: LeaseKind) -> &mut Line {
        match kind {
            LeaseKind::Blocking => &mut self.blocking,
            LeaseKind::Transaction => &mut self.transaction,
            LeaseKind::Session => &mut self.session,
        }
    }

    pub(super) fn line_ref(&self, kind: LeaseKind) -> &Line {
        match kind {
            LeaseKind::Blocking => &self.blocking,
            LeaseKind::Transaction => &self.transaction,
            LeaseKind::Session => &self.session,
        }
    }

    pub(super) fn waiting(&self, kind: LeaseKind) -> usize {
        self.line_ref(kind).waiting.len()
    }

    /// A number that orders arrivals and grants.
    pub(super) fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    pub(super) fn join(&mut self, kind: LeaseKind, ticket: u64, waiter: Waiter) {
        self.count_group(waiter.group.as_ref(), |group| group.waiting += 1);
        self.ungrouped += usize::from(kind == LeaseKind::Blocking && waiter.group.is_none());
        self.line(kind).waiting.insert(ticket, waiter);
    }

    pub(super) fn leave(&mut self, kind: LeaseKind, ticket: u64) -> Option<Waiter> {
        let waiter = self.line(kind).waiting.remove(&ticket)?;
        self.count_group(waiter.group.as_ref(), |group| group.waiting -= 1);
        self.ungrouped -= usize::from(kind == LeaseKind::Blocking && waiter.group.is_none());
        Some(waiter)
    }

    /// The waiters to serve when `free` more leases may begin: the first of every blocking group that has
    /// none, and those of no group; then by arrival. Where its turn finds no lane in its pool, a waiter
    /// keeps its turn, so that lanes cannot go round in one pool while another starves.
    pub(super) fn due(&self, kind: LeaseKind, free: usize) -> Vec<(u64, PoolId)> {
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
    pub(super) fn granted(&mut self, kind: LeaseKind, group: Option<&GroupKey>) {
        self.line(kind).in_use += 1;
        self.count_group(group, |group| group.held += 1);
    }

    /// Counts a lease that ends.
    pub(super) fn returned(&mut self, kind: LeaseKind, group: Option<&GroupKey>) {
        self.line(kind).in_use -= 1;
        self.count_group(group, |group| group.held -= 1);
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

    /// How many leases a blocking group holds.
    pub(super) fn held_by(&self, group: &GroupKey) -> usize {
        self.groups.get(group).map_or(0, |group| group.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(group: u64) -> Waiter {
        Waiter {
            tenant: Tenant { child: Key::NONE, id: 0, origin: Origin::nobody() },
            pool: PoolId(0),
            group: Some((PoolId(0), group)),
        }
    }

    #[test]
    fn a_group_without_a_lease_goes_first_then_arrival() {
        let mut leases = Leases::default();
        leases.granted(LeaseKind::Blocking, waiter(1).group.as_ref());
        for (ticket, group) in [(1, 1), (2, 1), (3, 2)] {
            leases.join(LeaseKind::Blocking, ticket, waiter(group));
        }
        assert_eq!(leases.needy_groups, 1);
        let due = |leases: &Leases, free| -> Vec<u64> {
            leases.due(LeaseKind::Blocking, free).into_iter().map(|(ticket, _)| ticket).collect()
        };
        assert_eq!(due(&leases, 0), []);
        assert_eq!(due(&leases, 2), [3, 1]);
        leases.leave(LeaseKind::Blocking, 3);
        assert_eq!(leases.needy_groups, 0);
        assert_eq!(due(&leases, 9), [1, 2]);
        leases.returned(LeaseKind::Blocking, waiter(1).group.as_ref());
        assert_eq!(leases.held_by(&(PoolId(0), 1)), 0);
    }
}
