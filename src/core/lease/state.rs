//! A lease in force, kept in its lane: which child has the lane to itself, what for, and what the upstream has still to
//! answer about it. The counts that go with it are `lease::leases`', which alone begins and ends one.

use crate::core::child::Child;
use crate::core::child::origin::Origin;
use crate::core::connection::slot::SlotKind;
use crate::core::keys::{ChildKey, GroupKey, LeaseKind};
use crate::core::lease::pinning::Pinning;
use crate::resp::reply;

#[derive(Debug, Clone)]
pub(crate) struct Tenant {
    child: ChildKey,
    /// CLIENT ID.
    id: u64,
    /// To whom it belongs, for the message that all leases are lent.
    origin: Origin,
}

impl Tenant {
    pub(crate) fn of(child: &Child) -> Self {
        Tenant { child: child.key(), id: child.session().id, origin: child.origin().clone() }
    }

    pub(crate) fn child(&self) -> ChildKey {
        self.child
    }

    #[cfg(test)]
    pub(super) fn nobody() -> Self {
        Tenant { child: crate::base::key::Key::NONE, id: 0, origin: Origin::default() }
    }
}

/// What a command in flight will have changed once it has succeeded. Nothing of the child follows before.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    /// SELECT.
    Db(u32),
    /// A HELLO of the broker's.
    Protocol(u8),
    /// A command of kind `SlotKind::Pin`.
    Pin(Pinning),
}

#[derive(Debug)]
pub(crate) struct LeaseState {
    tenant: Tenant,
    kind: LeaseKind,
    /// Of a blocking one.
    group: Option<GroupKey>,
    /// CLIENT UNBLOCK was sent to give this lease to a group that has none: a null is not the child's.
    taking_back: bool,
    /// The child has changed the connection, and keeps it until it has changed that back, or goes.
    kept: bool,
    watching: bool,
    change: Option<Change>,
    /// Order of granting; a take-back picks the youngest.
    granted: u64,
    /// CLIENT UNBLOCK that have not been answered: until then the lane must not have another tenant.
    unblocking: u8,
    /// The child is done with it, but an answer to CLIENT UNBLOCK is still to come.
    over: bool,
}

impl LeaseState {
    pub(super) fn new(tenant: Tenant, kind: LeaseKind, group: Option<GroupKey>, granted: u64) -> Self {
        LeaseState {
            tenant,
            kind,
            group,
            taking_back: false,
            kept: false,
            watching: false,
            change: None,
            granted,
            unblocking: 0,
            over: false,
        }
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.tenant.origin
    }

    pub(crate) fn child(&self) -> ChildKey {
        self.tenant.child
    }

    pub(crate) fn kind(&self) -> LeaseKind {
        self.kind
    }

    /// Whether this child has it, and is not done with it.
    pub(crate) fn is_lent_to(&self, child: ChildKey) -> bool {
        !self.over && self.tenant.child == child
    }

    /// Whether the child of this CLIENT ID has it to itself for good.
    pub(crate) fn is_kept_by(&self, id: i64) -> bool {
        self.kept && !self.over && u64::try_from(id) == Ok(self.tenant.id)
    }

    pub(crate) fn is_watching(&self) -> bool {
        self.watching
    }

    /// A command that would have ended the watch got no reply.
    pub(crate) fn forget_watch(&mut self) {
        self.watching = false;
    }

    pub(super) fn note_watch(&mut self, kind: SlotKind, frame: &[u8]) {
        match kind {
            SlotKind::Watch => self.watching |= frame == b"+OK\r\n",
            SlotKind::Exec => self.watching &= frame.starts_with(b"-ERR EXEC without MULTI"),
            SlotKind::Unwatch => self.watching &= reply::is_error(frame),
            // Refused for any other reason, the lane is inside MULTI for good, and goes.
            SlotKind::Discard | SlotKind::AbortedExec => {
                self.watching &= frame.starts_with(b"-ERR DISCARD without MULTI");
            }
            _ => {}
        }
    }

    pub(crate) fn begin_change(&mut self, change: Change) {
        self.change = Some(change);
    }

    pub(crate) fn take_change(&mut self) -> Option<Change> {
        self.change.take()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// The child is done with it. False if it was before.
    pub(crate) fn end(&mut self) -> bool {
        !std::mem::replace(&mut self.over, true)
    }

    pub(crate) fn unblock_asked(&mut self) {
        self.unblocking += 1;
    }

    pub(super) fn unblock_answered(&mut self) {
        self.unblocking = self.unblocking.saturating_sub(1);
    }

    /// Whether a CLIENT UNBLOCK is under way, which could hit the next tenant.
    pub(crate) fn is_unblocking(&self) -> bool {
        self.unblocking > 0
    }

    pub(crate) fn is_taken_back(&self) -> bool {
        self.taking_back
    }

    pub(crate) fn take_back(&mut self) {
        self.unblock_asked();
        self.taking_back = true;
    }

    /// CLIENT UNBLOCK did not end its command: the reply is its child's own. True if that was to take it back.
    pub(super) fn stay(&mut self) -> bool {
        std::mem::take(&mut self.taking_back)
    }

    pub(crate) fn may_be_taken_back(&self) -> bool {
        self.group.is_some() && !self.taking_back && !self.over
    }

    pub(super) fn group(&self) -> Option<&GroupKey> {
        self.group.as_ref()
    }

    pub(super) fn granted(&self) -> u64 {
        self.granted
    }

    /// From now on the child keeps it. Returns what it was for before.
    pub(super) fn become_session(&mut self) -> LeaseKind {
        self.kept = true;
        std::mem::replace(&mut self.kind, LeaseKind::Session)
    }
}
