//! A lease in force, kept in its lane: which child or group has the lane to itself, what for, and what the upstream has still to
//! answer about it. The counts that go with it are `lease::leases`', which alone begins and ends one.

use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::core::child::Child;
use crate::core::child::origin::Origin;
use crate::core::connection::slot::SlotKind;
use crate::core::keys::{ChildKey, GroupKey, LeaseKind, ProcessKey};
use crate::core::lease::pinning::Pinning;
use crate::resp::reply;

#[derive(Debug, Clone)]
pub(crate) enum Tenant {
    Child {
        key: ChildKey,
        /// CLIENT ID.
        id: u64,
        /// To whom it belongs, for the message that all leases are lent.
        origin: Origin,
    },
    /// The command of a group waits on the lane.
    Group(GroupKey),
    /// The command of a group is looked at without waiting.
    Look(GroupKey),
}

impl Tenant {
    pub(crate) fn of(child: &Child) -> Self {
        Tenant::Child { key: child.key(), id: child.session().id, origin: child.origin().clone() }
    }

    /// Names nobody where it is a group.
    pub(crate) fn child(&self) -> ChildKey {
        if let Tenant::Child { key, .. } = self { *key } else { Key::NONE }
    }

    /// The process it belongs to; none where it is a group.
    pub(crate) fn process(&self) -> ProcessKey {
        if let Tenant::Child { origin, .. } = self { origin.process() } else { Key::NONE }
    }

    pub(crate) fn group(&self) -> Option<GroupKey> {
        match self {
            Tenant::Child { .. } => None,
            Tenant::Group(key) | Tenant::Look(key) => Some(*key),
        }
    }

    #[cfg(test)]
    pub(super) fn nobody() -> Self {
        Tenant::Child { key: Key::NONE, id: 0, origin: Origin::default() }
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
    since: Millis,
    /// The child has changed the connection, and keeps it until it has changed that back, or goes.
    kept: bool,
    watching: bool,
    change: Option<Change>,
    /// CLIENT UNBLOCK that have not been answered: until then the lane must not have another tenant.
    unblocking: u8,
    /// The child is done with it, but an answer to CLIENT UNBLOCK is still to come.
    over: bool,
}

impl LeaseState {
    pub(super) fn new(tenant: Tenant, kind: LeaseKind) -> Self {
        LeaseState {
            tenant,
            kind,
            since: 0,
            kept: false,
            watching: false,
            change: None,
            unblocking: 0,
            over: false,
        }
    }

    /// It is lent now.
    pub(crate) fn begin(&mut self, now: Millis) {
        self.since = now;
    }

    /// When it was lent.
    pub(crate) fn since(&self) -> Millis {
        self.since
    }

    pub(crate) fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Names nobody where a group has it.
    pub(crate) fn child(&self) -> ChildKey {
        self.tenant.child()
    }

    pub(crate) fn group(&self) -> Option<GroupKey> {
        self.tenant.group()
    }

    pub(crate) fn kind(&self) -> LeaseKind {
        self.kind
    }

    /// Whether this child has it, and is not done with it.
    pub(crate) fn is_lent_to(&self, child: ChildKey) -> bool {
        !self.over && self.tenant.child() == child
    }

    /// Whether the child of this CLIENT ID has it to itself for good.
    pub(crate) fn is_kept_by(&self, id: i64) -> bool {
        let is_its = matches!(self.tenant, Tenant::Child { id: own, .. } if u64::try_from(id) == Ok(own));
        self.kept && !self.over && is_its
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

    /// From now on the child keeps it. Returns what it was for before.
    pub(super) fn become_session(&mut self) -> LeaseKind {
        self.kept = true;
        std::mem::replace(&mut self.kind, LeaseKind::Session)
    }
}
