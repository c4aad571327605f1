//! A lane: one upstream connection's FIFO of slots and the bytes on their way, without the connection.
//!
//! A shared lane outlives its connections. Requests enter it whether or not it is connected; when a
//! connection dies, what may have left is failed, what has not stays in place, and the next connection
//! carries on from there. Nothing is ever written twice: offsets are absolute and only move forward.

use crate::base::bytes::ByteQueue;
use crate::base::clock::Millis;
use crate::base::pipeline::Entry;
use crate::base::pipeline::Pipeline;
use crate::command::CommandId;
use crate::core::connection::canary::Withheld;
use crate::core::connection::handshake::Handshake;
use crate::core::keys::ChildKey;
use crate::core::keys::LeaseKind;
use crate::core::keys::PoolId;
use crate::core::lease::state::LeaseState;
use crate::resp::ReplyScanner;

/// What a lane is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneRole {
    /// The broker's own questions: COMMAND, SELECT checks, CLIENT UNBLOCK, probes.
    Control,
    /// Pipelined for all children of its pool.
    Shared,
    /// Bound to one child at a time.
    Lease,
    /// Carries the shared subscriptions of one user's children.
    Subscriber,
    /// Questions about users, with the passwords of children.
    Probe,
}

impl LaneRole {
    /// Whether it takes one of the places that leases share.
    pub(in crate::core) fn counts_as_lease(self) -> bool {
        matches!(self, LaneRole::Lease | LaneRole::Subscriber)
    }
}

/// Where the lane's connection stands. "Holds a place" means it counts against `upstream_connections_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum LaneState {
    /// No connection and no need of one.
    Dormant,
    /// Needs a connection; stands in `Places::waiters`.
    Waiting,
    /// Needs a connection; dials again at its timer.
    Backoff,
    /// Dialling. Holds a place.
    Connecting,
    /// Greeting the upstream; no request has been written. Holds a place.
    Handshaking,
    /// Carries requests. Holds a place.
    Ready,
    /// Writes nothing more; gives its place away once what it wrote is answered. Holds a place.
    Yielding,
}

/// What happens when a slot's reply arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum SlotKind {
    /// The reply is the child's, byte for byte.
    Relay,
    /// The child had its answer already (MULTI and QUEUED of a block sent at EXEC); errors are remembered.
    Swallow,
    /// EXEC: its reply is patched and its effects on the session applied.
    Exec,
    /// A DISCARD sent in place of the EXEC of a spoilt transaction; answered as an aborted EXEC.
    AbortedExec,
    /// MULTI on a leased lane.
    Multi,
    /// DISCARD on a leased lane.
    Discard,
    /// WATCH on a leased lane.
    Watch,
    /// UNWATCH on a leased lane.
    Unwatch,
    /// SELECT on a leased lane; the db rides in the lease.
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
    /// What a blocking command asks in its child's name where it got no lease: the same without waiting.
    Look,
    /// WAIT or WAITAOF; its lane is detached until the reply.
    Wait,
    /// PING of a RESP2 subscriber: what is no error becomes the array that such a connection is answered with.
    SubscriberPing,
    /// A (un)subscription: answered by as many confirmations as it has names.
    Subscribe,
    /// An ECHO of the broker's own; see `core::integrity`.
    Canary,
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
    /// Whether keys are no longer watched once the command has been sent, whatever becomes of it.
    pub(in crate::core) fn ends_watch(self) -> bool {
        matches!(self, SlotKind::Exec | SlotKind::AbortedExec | SlotKind::Discard | SlotKind::Unwatch)
    }
}

/// The next slot was written together with this one and means nothing without it.
pub(in crate::core) const FLAG_UNIT: u8 = 1;

/// Answered already (BROKERTIMEOUT); the late reply is dropped.
pub(in crate::core) const FLAG_TIMED_OUT: u8 = 2;

/// The command may have changed data.
pub(in crate::core) const FLAG_WRITE: u8 = 4;

/// Its reply waits for the canary behind it.
pub(in crate::core) const FLAG_GUARDED: u8 = 8;

/// Redis queues it, inside a MULTI on a leased lane, and no canary can follow: the reply is known beforehand.
pub(in crate::core) const FLAG_QUEUED: u8 = 16;

/// Its reply may never come: the command waits for an element, a message or a replica.
pub(in crate::core) const FLAG_MAY_WAIT: u8 = 32;

/// A place in a lane's FIFO: whose reply comes next.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct Slot {
    /// The child, alive or not: a reply for a key that finds nobody is dropped.
    pub child: ChildKey,
    /// Absolute offset in the lane's outgoing bytes where this request ends.
    pub end: u64,
    /// When it entered the lane: milliseconds, modulo 2^32.
    pub stamp: u32,
    /// The command, for the log.
    pub command: CommandId,
    /// What to do with the reply.
    pub kind: SlotKind,
    pub(in crate::core) flags: u8,
}

const _: () = assert!(std::mem::size_of::<Slot>() <= 24, "a slot is small and fixed");

impl Entry for Slot {
    fn end(&self) -> u64 {
        self.end
    }

    fn is_bound_to_next(&self) -> bool {
        self.flags & FLAG_UNIT != 0
    }
}

impl Slot {
    /// Whether a child waits for just this reply.
    pub(in crate::core) fn is_owed_to_a_child(&self) -> bool {
        use SlotKind::*;
        let own = matches!(self.kind, Question | Proof | Swallow | Housekeeping | Topic | Canary);
        !own && self.flags & FLAG_TIMED_OUT == 0
    }

    /// Whether its reply may never come, whatever becomes of the upstream.
    pub(in crate::core) fn may_wait(&self) -> bool {
        self.flags & FLAG_MAY_WAIT != 0
    }

    /// Milliseconds since it entered the lane.
    pub(in crate::core) fn age(&self, now: Millis) -> u32 {
        (now as u32).wrapping_sub(self.stamp)
    }
}

/// One upstream connection's queue.
#[derive(Debug)]
pub struct Lane {
    pub(in crate::core) pool: PoolId,
    pub(in crate::core) role: LaneRole,
    pub(in crate::core) state: LaneState,
    /// The driver's handle for the connection; opaque here.
    pub link: usize,
    /// Requests on their way, and the FIFO of their slots.
    pub(in crate::core) out: Pipeline<Slot>,
    pub(in crate::core) handshake: Option<Handshake>,
    pub(in crate::core) input: ByteQueue,
    pub(in crate::core) scanner: ReplyScanner,
    /// Replies that have come and wait for their canary; older than every slot in `out`.
    pub(in crate::core) withheld: Vec<Withheld>,
    /// Heap bytes of these.
    pub(in crate::core) withheld_bytes: usize,
    /// Makes its canaries' words its own; zero until there is one.
    pub(in crate::core) secret: u64,
    /// Units put on it since the last canary.
    pub(in crate::core) since_canary: u32,
    /// This many slots at the front have timed out; others behind them may have.
    pub(in crate::core) timed_out: usize,
    /// CLIENT ID of the connection, from HELLO.
    pub(in crate::core) upstream_id: i64,
    /// Failed attempts in a row.
    pub(in crate::core) failures: u32,
    /// The timer that is currently meant; older ones find another number and do nothing.
    pub(in crate::core) timer: u32,
    pub(in crate::core) connected_at: Millis,
    /// When a byte of a reply last came; or when the first request behind an idle time was written.
    pub(in crate::core) last_reply: Millis,
    pub(in crate::core) last_used: Millis,
    /// Since when the front slot is the front slot.
    pub(in crate::core) front_since: Millis,
    pub(in crate::core) lease: Option<LeaseState>,
    /// The kind of lease it is being opened for, until it is ready.
    pub(in crate::core) opening_for: Option<LeaseKind>,
    /// A reply has come on this connection: the upstream works, dialling again needs no delay.
    pub(in crate::core) replied: bool,
    /// Must not be lent again: its state upstream is not known to be clean.
    pub(in crate::core) burnt: bool,
    /// Its connection leads to an upstream that has been replaced since.
    pub(in crate::core) former: bool,
    /// A shared lane too many: no child begins to use it, and it goes once nothing is on it.
    pub(in crate::core) retired: bool,
    /// Connections it has lost: two requests were on the same one if this had the same value.
    pub(in crate::core) losses: u32,
    /// A shared lane that a WAIT blocks: nobody's requests are put on it meanwhile.
    pub(in crate::core) detached: bool,
    /// A shared lane for what is large.
    pub(in crate::core) bulk: bool,
    /// Children waiting until it owes its socket less.
    pub(in crate::core) held: Vec<ChildKey>,
    /// While yielding: bytes up to here may still be written, so that no request is cut in two.
    pub(in crate::core) yield_end: u64,
    pub(in crate::core) dirty: bool,
    pub(in crate::core) footprint: usize,
}

impl Lane {
    pub(in crate::core) fn new(pool: PoolId, role: LaneRole, now: Millis) -> Self {
        Lane {
            pool,
            role,
            state: LaneState::Dormant,
            link: usize::MAX,
            out: Pipeline::default(),
            handshake: None,
            input: ByteQueue::default(),
            scanner: ReplyScanner::default(),
            withheld: Vec::new(),
            withheld_bytes: 0,
            secret: 0,
            since_canary: 0,
            timed_out: 0,
            upstream_id: 0,
            failures: 0,
            timer: 0,
            connected_at: 0,
            last_reply: now,
            last_used: now,
            front_since: now,
            lease: None,
            opening_for: None,
            replied: false,
            burnt: false,
            former: false,
            retired: false,
            losses: 0,
            detached: false,
            bulk: false,
            held: Vec::new(),
            yield_end: 0,
            dirty: false,
            footprint: 0,
        }
    }

    /// Moves the state and asserts that the move is one of the life drawn in ARCHITECTURE.md.
    pub(in crate::core) fn set_state(&mut self, to: LaneState) {
        use LaneState::*;
        let legal = matches!(
            (self.state, to),
            (Dormant, Waiting | Backoff | Connecting)
                | (Waiting, Connecting | Dormant)
                | (Backoff, Dormant)
                | (Connecting, Handshaking | Dormant)
                | (Handshaking, Ready | Dormant)
                | (Ready, Yielding | Dormant)
                | (Yielding, Dormant)
        );
        debug_assert!(legal, "lane {:?} -> {to:?}", self.state);
        self.state = to;
    }

    /// Whether it counts against `upstream_connections_max`.
    pub(in crate::core) fn holds_place(&self) -> bool {
        use LaneState::*;
        matches!(self.state, Connecting | Handshaking | Ready | Yielding)
    }

    /// Names the connection the lane has now: another one has another number.
    pub(in crate::core) fn incarnation(&self) -> (u32, bool) {
        (self.timer, self.holds_place())
    }

    /// Appends one whole request and its slot.
    pub(in crate::core) fn push(
        &mut self,
        bytes: &[u8],
        child: ChildKey,
        command: CommandId,
        kind: SlotKind,
        flags: u8,
        now: Millis,
    ) {
        if self.out.is_idle() {
            // A stall is counted from the first unanswered request, not from the last idle reply.
            self.last_reply = now;
            self.front_since = now;
        }
        self.last_used = now;
        self.out.push(bytes, |end| Slot { child, end, stamp: now as u32, command, kind, flags });
    }

    /// The slot whose reply comes next.
    pub(in crate::core) fn front(&self) -> Option<&Slot> {
        self.out.front()
    }

    /// The slot put on it last.
    pub(in crate::core) fn back(&self) -> Option<&Slot> {
        self.out.back()
    }

    /// Whether a canary stands behind every request on it.
    #[cfg(test)]
    pub(in crate::core) fn is_guarded(&self) -> bool {
        self.out.iter().all(|slot| slot.flags & FLAG_GUARDED != 0 || slot.kind == SlotKind::Canary)
    }

    /// All slots, oldest first.
    #[cfg(test)]
    pub(in crate::core) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.out.iter()
    }

    /// Takes the slot a complete reply belongs to. `None` is a desync: nobody asked, or the question has
    /// not even left.
    pub(in crate::core) fn pop(&mut self) -> Option<Slot> {
        let slot = self.out.take_answered()?;
        self.forget_timed_out(1);
        Some(slot)
    }

    /// Takes the slot whose request has left in part. The rest of it goes with the connection.
    pub(in crate::core) fn take_half_written(&mut self) -> Option<Slot> {
        let of_a_child =
            |slot: &Slot| !matches!(slot.kind, SlotKind::Canary | SlotKind::Question | SlotKind::Proof);
        if !self.has_written() || !self.front().is_some_and(of_a_child) {
            return None;
        }
        self.forget_timed_out(1);
        self.out.take_front()
    }

    /// So many slots have left the front.
    pub(in crate::core) fn forget_timed_out(&mut self, count: usize) {
        self.timed_out = self.timed_out.saturating_sub(count);
    }

    /// Whether nothing is waiting: no slot, written or not, and no reply for its canary.
    pub(in crate::core) fn is_idle(&self) -> bool {
        self.out.is_idle() && self.withheld.is_empty()
    }

    /// Where the next canary ends that has no reply yet.
    pub(in crate::core) fn next_canary(&self) -> Option<u64> {
        self.out.iter().find(|slot| slot.kind == SlotKind::Canary).map(|slot| slot.end)
    }

    /// Keeps a reply until the canary behind it has come.
    pub(in crate::core) fn withhold(&mut self, withheld: Withheld) {
        self.withheld_bytes += withheld.footprint();
        self.withheld.push(withheld);
    }

    /// The replies that wait for a canary, oldest first.
    pub(in crate::core) fn withheld(&self) -> &[Withheld] {
        &self.withheld
    }

    /// Takes them: they are proven, or lost.
    pub(in crate::core) fn take_withheld(&mut self) -> Vec<Withheld> {
        self.withheld_bytes = 0;
        std::mem::take(&mut self.withheld)
    }

    /// Requests that wait for their reply, the broker's canaries not counted.
    pub(in crate::core) fn owed(&self) -> usize {
        self.out.iter().filter(|slot| slot.kind != SlotKind::Canary).count() + self.withheld.len()
    }

    /// How many slots wait.
    pub(in crate::core) fn depth(&self) -> usize {
        self.out.depth()
    }

    /// Whether the front slot's request has begun to leave: one byte handed to the socket is enough.
    pub(in crate::core) fn has_written(&self) -> bool {
        self.out.has_written()
    }

    /// Whether the connection is still needed for what was written on it.
    pub(in crate::core) fn owes_replies(&self) -> bool {
        self.has_written() || !self.withheld.is_empty()
    }

    /// What may be written now.
    pub(in crate::core) fn outgoing(&self) -> &[u8] {
        match self.state {
            LaneState::Handshaking => self.handshake.as_ref().map_or(&[], |handshake| handshake.outgoing()),
            LaneState::Ready => self.out.as_slice(),
            LaneState::Yielding => {
                let allowed = self.yield_end.saturating_sub(self.out.consumed()) as usize;
                &self.out.as_slice()[..allowed.min(self.out.len())]
            }
            _ => &[],
        }
    }

    /// `count` bytes of `outgoing` were taken by the socket.
    pub(in crate::core) fn wrote(&mut self, count: usize) {
        match &mut self.handshake {
            Some(handshake) if self.state == LaneState::Handshaking => handshake.wrote(count),
            _ => self.out.wrote(count),
        }
    }

    /// Stops writing at the end of the request that has begun to leave.
    pub(in crate::core) fn begin_yield(&mut self) {
        self.yield_end = self.out.end_of_written();
        self.set_state(LaneState::Yielding);
    }

    /// The connection is gone: takes every slot of which a byte may have left (a block counts as one), and
    /// drops the unsent rest of the last of them. What remains has never been written.
    pub(in crate::core) fn take_written(&mut self) -> Vec<Slot> {
        let written = self.out.take_written();
        self.forget_timed_out(written.len());
        // Replies without proof are none.
        self.take_withheld().into_iter().map(|withheld| withheld.slot).chain(written).collect()
    }

    /// Nothing that was half said on the connection is of any use to the next one.
    pub(in crate::core) fn forget_connection(&mut self) {
        self.input = ByteQueue::default();
        self.scanner = ReplyScanner::default();
        self.handshake = None;
        self.former = false;
    }

    /// Takes every slot left, written or not; the lane will not be used again for them.
    pub(in crate::core) fn take_all(&mut self) -> Vec<Slot> {
        self.timed_out = 0;
        self.out.take_all()
    }

    /// Takes slots that have waited `timeout` or longer without being written. Only while nothing is
    /// being written: then every slot is unwritten, and the oldest is at the front.
    pub(in crate::core) fn take_expired(&mut self, now: Millis, timeout: Millis) -> Vec<Slot> {
        debug_assert!(!self.has_written());
        let mut expired = Vec::new();
        while self.front().is_some_and(|slot| u64::from(slot.age(now)) >= timeout) {
            expired.extend(self.out.take_unwritten(|slot, _| slot));
        }
        self.forget_timed_out(expired.len());
        expired
    }

    /// Marks slots that wait longer than `timeout` for their reply, and returns them. They stay in the
    /// FIFO: their replies will still come.
    pub(in crate::core) fn time_out(&mut self, now: Millis, timeout: Millis) -> Vec<Slot> {
        let mut late = Vec::new();
        for Withheld { slot, .. } in &mut self.withheld {
            if u64::from(slot.age(now)) >= timeout && slot.flags & FLAG_TIMED_OUT == 0 {
                late.push(*slot);
                slot.flags |= FLAG_TIMED_OUT;
            }
        }
        while let Some(slot) = self.out.get_mut(self.timed_out) {
            if slot.flags & FLAG_TIMED_OUT != 0 {
                // It was told already, for what stood in front of it.
                self.timed_out += 1;
                continue;
            }
            // What waits has a timeout of its own.
            if u64::from(slot.age(now)) < timeout || slot.may_wait() {
                break;
            }
            late.push(*slot);
            slot.flags |= FLAG_TIMED_OUT;
            self.timed_out += 1;
        }
        late
    }

    /// Marks what stands behind the front slot and is not of the same child, and returns it: it has waited for that child's
    /// command for too long. It stays in the FIFO, as what has timed out.
    pub(in crate::core) fn give_up_behind_front(&mut self) -> Vec<Slot> {
        let Some(owner) = self.front().map(|front| front.child) else { return Vec::new() };
        let own = |slot: &Slot| slot.kind == SlotKind::Canary || slot.may_wait();
        let behind = |slot: &&mut Slot| slot.child != owner && slot.flags & FLAG_TIMED_OUT == 0 && !own(slot);
        let mark = |slot: &mut Slot| {
            let told = *slot;
            slot.flags |= FLAG_TIMED_OUT;
            told
        };
        self.out.iter_mut().filter(behind).map(mark).collect()
    }

    /// Heap bytes it holds.
    pub(in crate::core) fn measure(&self) -> usize {
        self.out.footprint() + self.input.capacity() + self.withheld_bytes
    }

    /// Gives the front slot to the next other child that waits, and that child's slot to its own: each
    /// still gets as many replies as it asked for, one of them the other's. The broken FIFO that every
    /// check must notice.
    #[cfg(feature = "sabotage")]
    pub(in crate::core) fn swap_front(&mut self, is_alive: impl Fn(ChildKey) -> bool) {
        let fits = |slot: &Slot| slot.kind == SlotKind::Relay && is_alive(slot.child);
        let Some(front) = self.front().filter(|slot| fits(slot)).map(|slot| slot.child) else { return };
        let other = self.out.iter_mut().find(|slot| slot.child != front && fits(slot));
        let other = other.map(|slot| std::mem::replace(&mut slot.child, front));
        if let (Some(other), Some(slot)) = (other, self.out.front_mut()) {
            slot.child = other;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::key::Key;

    pub(in crate::core) fn lane(requests: &[(&[u8], u8)]) -> Lane {
        let mut lane = Lane::new(PoolId(0), LaneRole::Shared, 0);
        for (bytes, flags) in requests {
            lane.push(bytes, Key::NONE, 0, SlotKind::Relay, *flags, 0);
        }
        lane
    }

    /// The arithmetic is the pipeline's, which must be told what a unit is.
    #[test]
    pub(in crate::core) fn a_block_is_lost_as_a_whole() {
        let mut lane = lane(&[(b"multi", FLAG_UNIT), (b"set", FLAG_UNIT), (b"exec", 0), (b"get", 0)]);
        lane.wrote(1);
        assert_eq!(lane.take_written().len(), 3);
        assert_eq!(lane.out.as_slice(), b"get");
    }

    #[test]
    pub(in crate::core) fn what_has_waited_too_long_unwritten_is_taken() {
        let mut lane = lane(&[]);
        lane.push(b"bb", Key::NONE, 0, SlotKind::Relay, 0, 7);
        lane.push(b"cc", Key::NONE, 0, SlotKind::Relay, 0, 8);
        assert_eq!(lane.take_expired(7, 1).len(), 0);
        assert_eq!(lane.take_expired(8, 1).len(), 1);
        assert_eq!(lane.out.as_slice(), b"cc");
    }

    #[test]
    pub(in crate::core) fn timed_out_slots_are_reported_once_and_stay() {
        let mut lane = lane(&[(b"a", 0), (b"b", 0)]);
        lane.wrote(2);
        assert_eq!(lane.time_out(10, 5).len(), 2);
        assert_eq!(lane.time_out(10, 5).len(), 0);
        assert_eq!(lane.pop().map(|slot| slot.flags & FLAG_TIMED_OUT), Some(FLAG_TIMED_OUT));
    }

    #[test]
    pub(in crate::core) fn slots_that_were_told_are_told_once_whatever_becomes_of_their_connection() {
        let mut lane = lane(&[(b"a", 0), (b"b", 0), (b"c", 0)]);
        lane.wrote(1);
        assert_eq!(lane.time_out(10, 5).len(), 3, "of those that have not left too");
        assert_eq!(lane.take_written().len(), 1);
        assert_eq!(lane.time_out(10, 5).len(), 0, "b and c were told");
        assert_eq!(lane.take_expired(10, 5).len(), 2);
        lane.push(b"d", Key::NONE, 0, SlotKind::Relay, 0, 10);
        lane.push(b"e", Key::NONE, 0, SlotKind::Relay, 0, 10);
        assert_eq!(lane.time_out(15, 5).iter().map(|slot| slot.end).collect::<Vec<_>>(), [4, 5]);
    }
}

impl LaneRole {
    /// Whether its connection is the broker's own and stays open, whatever children do.
    pub(in crate::core) fn is_own(self) -> bool {
        matches!(self, LaneRole::Control | LaneRole::Probe)
    }
}
