//! Who waits for a leased lane, and who gets the next one. Three lines that never stand in each other's
//! way: blocking commands, transactions (WATCH), sessions (subscriptions). Owns the lines and the counts;
//! lanes themselves belong to `core::pool`.

use crate::core::child::Child;
use crate::core::child::origin::Origin;
use crate::core::keys::ChildKey;
use crate::core::keys::GroupKey;
use crate::core::keys::LeaseKind;
use crate::core::lease::pinning::Pinning;

/// A lease in force, kept in its lane.
#[derive(Debug)]
pub(in crate::core) struct LeaseState {
    pub(in crate::core) child: ChildKey,
    /// CLIENT ID of the child.
    pub(in crate::core) child_id: u64,
    /// To whom the child belongs.
    pub(in crate::core) origin: Origin,
    /// The child keeps it until it undoes what it has changed there, or goes.
    pub(in crate::core) kept: bool,
    pub(in crate::core) kind: LeaseKind,
    /// Keys are watched on this lane.
    pub(in crate::core) watching: bool,
    /// The db of a SELECT sent on this lane, until answered.
    pub(in crate::core) selecting: Option<u32>,
    /// The protocol of a HELLO sent on this lane, until answered.
    pub(in crate::core) switching: Option<u8>,
    /// What a command of kind `SlotKind::Pin` sent on this lane will change, until answered.
    pub(in crate::core) pinning: Option<Pinning>,
    /// The group it serves, for blocking commands.
    pub(in crate::core) group: Option<GroupKey>,
    /// Order of granting; a take-back picks the youngest.
    pub(in crate::core) granted: u64,
    /// CLIENT UNBLOCK was sent to give this lease to a group that has none: a null is not the child's.
    pub(in crate::core) taking_back: bool,
    /// So many CLIENT UNBLOCK have not been answered yet: until then the lane must not have another tenant.
    pub(in crate::core) unblocking: u8,
    /// The child is done with it, but the answer to CLIENT UNBLOCK is still to come.
    pub(in crate::core) over: bool,
}

impl LeaseState {
    /// Whether the child of this CLIENT ID has it to itself for good.
    pub(in crate::core) fn is_kept_by(&self, id: i64) -> bool {
        self.kept && !self.over && u64::try_from(id) == Ok(self.child_id)
    }
}

/// A child as far as the lines know it.
#[derive(Debug, Clone)]
pub(in crate::core) struct Tenant {
    pub(in crate::core) child: ChildKey,
    /// CLIENT ID.
    pub(in crate::core) id: u64,
    /// To whom it belongs, for whoever asks who has all the leases.
    pub(in crate::core) origin: Origin,
}

impl Tenant {
    pub(in crate::core) fn of(child: &Child) -> Self {
        Tenant { child: child.key, id: child.session.id, origin: child.origin() }
    }
}
