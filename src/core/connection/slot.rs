//! A slot: a place in a lane's FIFO, which says whose reply comes next and what becomes of it. Knows nothing of the lane it
//! is in.

use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::base::pipeline::Entry;
use crate::command::{CommandId, NO_COMMAND};
use crate::core::keys::ChildKey;
use crate::resp::reply;

/// What happens when a slot's reply arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotKind {
    /// The reply is the child's, byte for byte.
    Relay,
    /// The child had its answer already (MULTI and QUEUED of a block sent at EXEC); errors are remembered.
    Swallow,
    /// EXEC: its reply is patched and its effects on the session applied.
    Exec,
    /// A DISCARD sent in place of the EXEC of a spoilt transaction; answered as an aborted EXEC.
    AbortedExec,
    // On a leased lane, down to `LookExec`:
    Multi,
    Discard,
    Watch,
    Unwatch,
    /// The db rides in the lease.
    Select,
    /// A command that pins its child to the leased lane, or lets it go; which is in the lease.
    Pin,
    /// A push among replies that are withheld; in no FIFO.
    Push,
    /// CLIENT CACHING, which is about the very next request on its lane.
    Caching,
    /// CLIENT TRACKINGINFO, whose reply names a connection upstream.
    TrackingInfo,
    /// A blocking or dedicated command; its reply ends the lease.
    Blocking,
    /// The command of a group; whose the answer is, the group knows.
    Element,
    /// A look for a group: its MULTI, its command inside, its EXEC.
    LookMulti,
    LookQueued,
    LookExec,
    /// A PING of the broker's own before a WAIT: the connection has done nothing since its last write.
    Stir,
    /// WAIT or WAITAOF on a shared lane, which is detached as long as this is on it.
    Wait,
    /// PING of a RESP2 subscriber: what is no error becomes the array that such a connection is answered with.
    SubscriberPing,
    /// A (un)subscription: answered by as many confirmations as it has names.
    Subscribe,
    /// An ECHO of the broker's own; see `core::connection::integrity`.
    Canary,
    /// A MULTI or DISCARD of the broker's own on a lane for blocks; see `core::transaction::armed`.
    Arming,
    /// PUBLISH or a question about listeners, of whom the upstream knows one connection; its reply is corrected.
    Count,
    /// A question about shared subscriptions; which one is in the user's hub.
    Topic,
    /// The broker's own question; what to do with the answer is in `Control::questions`.
    Question,
    /// A request on the probe; what to do with the answer is in `Probe::proofs`.
    Proof,
    /// A HELLO of the broker on a leased lane, for a child that changes its protocol.
    Housekeeping,
}

impl SlotKind {
    /// Whether it stands for a question of the broker's, which no child has asked for.
    pub(crate) fn is_own(self) -> bool {
        matches!(
            self,
            SlotKind::Question
                | SlotKind::Proof
                | SlotKind::Canary
                | SlotKind::Stir
                | SlotKind::Arming
                | SlotKind::Topic
        )
    }

    /// Whether it stands for a command of a group.
    pub(crate) fn is_of_group(self) -> bool {
        use SlotKind::{Element, LookExec, LookMulti, LookQueued};
        matches!(self, Element | LookMulti | LookQueued | LookExec)
    }

    /// Whether keys are no longer watched once the command has been sent, whatever becomes of it.
    pub(crate) fn ends_watch(self) -> bool {
        matches!(self, SlotKind::Exec | SlotKind::AbortedExec | SlotKind::Discard | SlotKind::Unwatch)
    }
}

/// What else is known of a slot: a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotFlags(u8);

impl SlotFlags {
    #[inline(always)]
    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    pub(crate) const NONE: SlotFlags = SlotFlags(0);
    /// The next slot was written together with this one and means nothing without it.
    pub(crate) const UNIT: SlotFlags = SlotFlags(1);
    /// Answered already (BROKERTIMEOUT); the late reply is dropped.
    pub(crate) const TIMED_OUT: SlotFlags = SlotFlags(2);
    /// The command may have changed data.
    pub(crate) const WRITE: SlotFlags = SlotFlags(4);
    /// Its reply waits for the canary behind it.
    pub(crate) const GUARDED: SlotFlags = SlotFlags(8);
    /// Redis queues it, inside a MULTI on a leased lane or one for blocks, and no canary can follow: the reply is known
    /// beforehand.
    pub(crate) const QUEUED: SlotFlags = SlotFlags(16);
    /// Its reply may never come: the command waits for an element, a message or a replica.
    pub(crate) const MAY_WAIT: SlotFlags = SlotFlags(32);
    /// Of a child that has just come: how long its reply may be nobody knows.
    pub(crate) const NEWCOMER: SlotFlags = SlotFlags(64);

    pub(crate) const fn has(self, flag: SlotFlags) -> bool {
        self.0 & flag.0 != 0
    }

    pub(crate) const fn with(self, flag: SlotFlags) -> SlotFlags {
        SlotFlags(self.0 | flag.0)
    }
}

/// A place in a lane's FIFO: whose reply comes next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    /// Alive or not: the reply of a child that has gone is dropped.
    pub child: ChildKey,
    /// Absolute offset in the lane's outgoing bytes where this request ends.
    pub end: u64,
    /// When it entered the lane: milliseconds, modulo 2^32.
    pub stamp: u32,
    /// For the log.
    pub command: CommandId,
    pub kind: SlotKind,
    pub flags: SlotFlags,
}

const _: () = assert!(std::mem::size_of::<Slot>() <= 24, "a slot is small and fixed");

impl Entry for Slot {
    fn end(&self) -> u64 {
        self.end
    }

    fn is_bound_to_next(&self) -> bool {
        self.flags.has(SlotFlags::UNIT)
    }
}

impl Slot {
    /// For a request of this child. Where and when it is put, the lane knows.
    #[inline]
    pub(crate) fn of(child: ChildKey, command: CommandId, kind: SlotKind, flags: SlotFlags) -> Self {
        Slot { child, end: 0, stamp: 0, command, kind, flags }
    }

    pub(crate) fn own(kind: SlotKind) -> Self {
        Slot::of(Key::NONE, NO_COMMAND, kind, SlotFlags::NONE)
    }

    /// Whether a child waits for just this reply.
    pub(crate) fn is_owed_to_a_child(&self) -> bool {
        let unasked = matches!(self.kind, SlotKind::Swallow | SlotKind::Housekeeping);
        !self.kind.is_own() && !self.kind.is_of_group() && !unasked && !self.is_timed_out()
    }

    pub(crate) fn may_wait(&self) -> bool {
        self.flags.has(SlotFlags::MAY_WAIT)
    }

    /// Whether its child remembers what in the reply may be a number of listeners.
    pub(crate) fn may_count(&self) -> bool {
        matches!(self.kind, SlotKind::Count | SlotKind::Exec) && !self.is_timed_out()
    }

    pub(crate) fn is_timed_out(&self) -> bool {
        self.flags.has(SlotFlags::TIMED_OUT)
    }

    /// Marks it as such. Returns it as it was.
    pub(crate) fn time_out(&mut self) -> Slot {
        let told = *self;
        self.flags = self.flags.with(SlotFlags::TIMED_OUT);
        told
    }

    /// Whether a reply without a canary behind it can be what it stands for. An error can be anywhere; inside a MULTI
    /// there is one other, a subscription is answered by pushes, which no slot is for, and counts are numbers.
    #[inline(always)]
    pub(crate) fn is_plausible(&self, frame: &[u8]) -> bool {
        let queued = self.flags.has(SlotFlags::QUEUED);
        (self.kind == SlotKind::Relay && !queued) || self.is_one_of_few(frame, queued)
    }

    #[inline(never)]
    fn is_one_of_few(&self, frame: &[u8], queued: bool) -> bool {
        match self.kind {
            SlotKind::Relay if !queued => true,
            _ if reply::is_error(frame) => true,
            SlotKind::Subscribe => frame.is_empty(),
            SlotKind::Count => matches!(frame.first(), Some(b':' | b'*')),
            SlotKind::Exec => matches!(frame.first(), Some(b'*' | b'_')),
            SlotKind::Wait => frame.first() != Some(&b'+'),
            SlotKind::Multi | SlotKind::LookMulti if queued => frame == b"+OK\r\n",
            // While its MULTI may stay open no canary can follow it.
            SlotKind::Discard | SlotKind::AbortedExec => frame == b"+OK\r\n",
            SlotKind::Caching if !queued => frame == b"+OK\r\n",
            SlotKind::Relay if queued => frame == b"+QUEUED\r\n",
            _ if queued => frame == b"+QUEUED\r\n" || frame == b"+OK\r\n",
            _ => true,
        }
    }

    /// Whether Redis answers at once, whatever else it does, where no canary can follow: what does not come was lost.
    pub(crate) fn needs_no_work(&self) -> bool {
        let at_once = matches!(self.kind, SlotKind::Caching | SlotKind::Subscribe | SlotKind::Arming);
        at_once || self.flags.has(SlotFlags::QUEUED)
    }

    pub(crate) fn age(&self, now: Millis) -> u32 {
        (now as u32).wrapping_sub(self.stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_canary_can_stand_few_replies_are_believed() {
        let believed = |kind: SlotKind, flags: SlotFlags, frame: &[u8]| {
            Slot::of(Key::NONE, 0, kind, flags).is_plausible(frame)
        };
        let (none, queued) = (SlotFlags::NONE, SlotFlags::QUEUED);
        assert!(believed(SlotKind::Subscribe, none, b"-ERR wrong\r\n"), "a subscription may be refused");
        assert!(!believed(SlotKind::Subscribe, none, b"$1\r\nx\r\n"), "it is confirmed by pushes");
        assert!(believed(SlotKind::Count, none, b":1\r\n") && believed(SlotKind::Count, none, b"*0\r\n"));
        assert!(!believed(SlotKind::Count, none, b"$1\r\n1\r\n"), "a fence is answered so");
        assert!(believed(SlotKind::Multi, queued, b"+OK\r\n"));
        assert!(!believed(SlotKind::Multi, queued, b"+QUEUED\r\n"));
        assert!(believed(SlotKind::Relay, queued, b"+QUEUED\r\n"));
        assert!(!believed(SlotKind::Relay, queued, b"+OK\r\n"));
        assert!(believed(SlotKind::Relay, none, b"$1\r\nx\r\n"), "its canary will tell");
        assert!(believed(SlotKind::Exec, none, b"*-1\r\n") && believed(SlotKind::Exec, none, b"_\r\n"));
        assert!(!believed(SlotKind::Exec, none, b"+QUEUED\r\n"), "it is none of its own MULTI");
        for kind in [SlotKind::Discard, SlotKind::AbortedExec, SlotKind::Caching] {
            assert!(believed(kind, none, b"+OK\r\n") && !believed(kind, none, b"+QUEUED\r\n"), "{kind:?}");
        }
        assert!(!believed(SlotKind::Wait, none, b"+QUEUED\r\n"), "it counts replicas");
    }
}
