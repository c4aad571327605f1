//! A lane: one upstream connection's FIFO of slots and the bytes on their way, without the connection. Owns what it is for, the
//! state of its connection and its requests; never other lanes, nor what is told to children.
//!
//! A shared lane outlives its connections. Requests enter it whether or not it is connected. When a connection dies, what may
//! have left is failed, what has not left stays, and the next connection carries on from there. Nothing is ever written twice:
//! offsets are absolute and only move forward.

use crate::base::bytes::Spares;
use crate::base::clock::Millis;
use crate::base::limits;
use crate::base::pipeline::Pipeline;
use crate::command::CommandId;
use crate::core::connection::canary::{CANARY, Canaries, Withheld};
use crate::core::connection::handshake::Handshake;
use crate::core::connection::role::{LaneRole, RoleData};
use crate::core::connection::slot::{Slot, SlotFlags, SlotKind};
use crate::core::keys::{ChildKey, LeaseKind, PoolId};
use crate::core::lease::state::LeaseState;
use crate::resp::{Frames, Inbox, ReplyScanner, SharedScanner};

/// Where the lane's connection stands, with what it has there. "Counted" means against `upstream_connections_max`.
#[derive(Debug)]
pub(crate) enum LaneState {
    /// No connection and no need of one.
    Dormant,
    /// Needs a connection, and all there may be are in use; stands in `Capacity`'s line.
    Waiting,
    /// The same of a subscriber lane that fits in only when a lease ends.
    Parked,
    /// Needs a connection; dials again at its timer.
    Backoff,
    /// Dialling. Counted.
    Connecting,
    /// Greeting the upstream; no request has been written. Counted.
    Handshaking { link: usize, handshake: Box<Handshake> },
    /// Carries requests. Counted.
    Ready { link: usize },
    /// Writes nothing from `end` on; gives its connection slot away once what it wrote is answered. Counted.
    Yielding { link: usize, end: u64 },
}

/// A slot whose reply has come, and what its lane was like then.
#[derive(Debug)]
pub(crate) struct Answered {
    pub slot: Slot,
    /// Since when it was the front slot.
    pub front_since: Millis,
    pub role: LaneRole,
    /// No replies from before it are withheld.
    pub is_proven: bool,
    pub is_yielding: bool,
}

impl LaneState {
    /// Whether it counts against `upstream_connections_max`.
    pub(crate) fn is_counted(&self) -> bool {
        use LaneState::*;
        matches!(self, Connecting | Handshaking { .. } | Ready { .. } | Yielding { .. })
    }

    /// The driver's handle for the connection; opaque here.
    fn link(&self) -> Option<usize> {
        use LaneState::*;
        match self {
            Handshaking { link, .. } | Ready { link } | Yielding { link, .. } => Some(*link),
            Dormant | Waiting | Parked | Backoff | Connecting => None,
        }
    }
}

/// One upstream connection's queue.
#[derive(Debug)]
pub struct Lane {
    pool: PoolId,
    role: RoleData,
    state: LaneState,
    /// Requests on their way, and the FIFO of their slots.
    out: Pipeline<Slot>,
    inbox: Inbox<ReplyScanner>,
    /// The replies withheld here are older than every slot in `out`.
    canaries: Canaries,
    /// This many slots at the front have timed out; others behind them may have.
    timed_out: usize,
    /// CLIENT ID of the connection, from HELLO.
    upstream_id: i64,
    /// Failed attempts in a row.
    failures: u32,
    /// The timer that is currently meant; older ones find another number and do nothing.
    timer: u32,
    connected_at: Millis,
    /// When a byte of a reply last came; or when the first request behind an idle time was written.
    last_reply: Millis,
    last_used: Millis,
    /// Since when the front slot is the front slot.
    front_since: Millis,
    /// A reply has come on this connection: the upstream works, dialling again needs no delay.
    replied: bool,
    /// Must not be lent again: its state upstream is not known to be clean.
    close_needed: bool,
    /// Its connection leads to an upstream that has been replaced since.
    on_previous_upstream: bool,
    /// Connections it has lost: two requests were on the same one if this had the same value.
    losses: u32,
    /// Children that wait until it has less to write.
    held: Vec<ChildKey>,
    /// In the driver's list of lanes to write.
    dirty: bool,
    /// Heap bytes as they were counted last.
    footprint: usize,
}

impl Lane {
    pub(crate) fn new(pool: PoolId, role: RoleData, now: Millis) -> Self {
        Lane {
            pool,
            role,
            state: LaneState::Dormant,
            out: Pipeline::default(),
            inbox: Inbox::default(),
            canaries: Canaries::default(),
            timed_out: 0,
            upstream_id: 0,
            failures: 0,
            timer: 0,
            connected_at: 0,
            last_reply: now,
            last_used: now,
            front_since: now,
            replied: false,
            close_needed: false,
            on_previous_upstream: false,
            losses: 0,
            held: Vec::new(),
            dirty: false,
            footprint: 0,
        }
    }

    // ---- what it is ------------------------------------------------------------------------------------

    pub(crate) fn pool(&self) -> PoolId {
        self.pool
    }

    /// The control connection follows the upstream's db.
    pub(crate) fn set_pool(&mut self, pool: PoolId) {
        self.pool = pool;
    }

    pub(crate) fn role(&self) -> LaneRole {
        self.role.name()
    }

    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.role, RoleData::Shared { .. })
    }

    pub(crate) fn is_bulk(&self) -> bool {
        matches!(self.role, RoleData::Shared { bulk: true, .. })
    }

    /// Whether a WAIT blocks it.
    pub(crate) fn is_detached(&self) -> bool {
        matches!(self.role, RoleData::Shared { detached: true, .. })
    }

    /// A WAIT is put on it, or has been answered.
    pub(crate) fn set_detached(&mut self, is: bool) {
        if let RoleData::Shared { detached, .. } = &mut self.role {
            *detached = is;
        }
    }

    /// Whether it is a shared lane that takes requests of its children.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.role, RoleData::Shared { detached: false, surplus: false, .. })
    }

    pub(crate) fn is_surplus(&self) -> bool {
        matches!(self.role, RoleData::Shared { surplus: true, .. })
    }

    pub(crate) fn mark_surplus(&mut self) {
        if let RoleData::Shared { surplus, .. } = &mut self.role {
            *surplus = true;
        }
    }

    pub(crate) fn lease(&self) -> Option<&LeaseState> {
        match &self.role {
            RoleData::Lease { lease, .. } => lease.as_ref(),
            _ => None,
        }
    }

    pub(crate) fn lease_mut(&mut self) -> Option<&mut LeaseState> {
        match &mut self.role {
            RoleData::Lease { lease, .. } => lease.as_mut(),
            _ => None,
        }
    }

    /// It is the child's of this lease from now on.
    pub(crate) fn lend(&mut self, to: LeaseState, now: Millis) {
        debug_assert!(self.lease().is_none(), "lent twice");
        self.last_used = now;
        if let RoleData::Lease { lease, .. } = &mut self.role {
            *lease = Some(to);
        }
    }

    /// The lease is over.
    pub(crate) fn take_lease(&mut self, now: Millis) -> Option<LeaseState> {
        let RoleData::Lease { lease, .. } = &mut self.role else { return None };
        self.last_used = now;
        lease.take()
    }

    /// Whether the subscriptions of its user need it.
    pub(crate) fn is_listened(&self) -> bool {
        matches!(self.role, RoleData::Subscriber { listened: true })
    }

    pub(super) fn set_listened(&mut self, is: bool) {
        debug_assert!(matches!(self.role, RoleData::Subscriber { .. }), "no lane for subscriptions");
        if let RoleData::Subscriber { listened } = &mut self.role {
            *listened = is;
        }
    }

    #[cfg(test)]
    pub(crate) fn opening_for(&self) -> Option<LeaseKind> {
        match self.role {
            RoleData::Lease { opening_for, .. } => opening_for,
            _ => None,
        }
    }

    /// It is ready, or will never be.
    pub(crate) fn take_opening_for(&mut self) -> Option<LeaseKind> {
        match &mut self.role {
            RoleData::Lease { opening_for, .. } => opening_for.take(),
            _ => None,
        }
    }

    /// Whether it must not be lent again.
    pub(crate) fn is_close_needed(&self) -> bool {
        self.close_needed
    }

    /// Its state upstream is not known to be clean: it is closed when its lease ends.
    pub(crate) fn need_close(&mut self) {
        self.close_needed = true;
    }

    pub(crate) fn need_close_if(&mut self, unclean: bool) {
        self.close_needed |= unclean;
    }

    pub(crate) fn is_on_previous_upstream(&self) -> bool {
        self.on_previous_upstream
    }

    /// The upstream has been replaced under its connection.
    pub(crate) fn leave_on_previous_upstream(&mut self) {
        self.on_previous_upstream = true;
    }

    /// Whether it has any use for a connection.
    pub(super) fn is_needed(&self) -> bool {
        self.role().is_own() || !self.is_idle() || self.is_listened()
    }

    /// Whether it has a connection that is not needed at the moment.
    pub(super) fn is_unused(&self) -> bool {
        self.is_ready() && !self.is_needed() && self.lease().is_none()
    }

    // ---- its connection --------------------------------------------------------------------------------

    pub(crate) fn state(&self) -> &LaneState {
        &self.state
    }

    /// Moves the state and asserts that the move is one of the life drawn in ARCHITECTURE.md. The lists and counts that
    /// go with it are the caller's.
    pub(super) fn set_state(&mut self, to: LaneState) -> LaneState {
        use LaneState::*;
        let legal = matches!(
            (&self.state, &to),
            (Dormant, Waiting | Parked | Backoff | Connecting)
                | (Waiting, Connecting | Dormant)
                | (Parked | Backoff, Dormant)
                | (Connecting, Handshaking { .. } | Ready { .. } | Dormant)
                | (Handshaking { .. }, Ready { .. } | Dormant)
                | (Ready { .. }, Yielding { .. } | Dormant)
                | (Yielding { .. }, Dormant)
        );
        debug_assert!(legal, "lane {:?} -> {to:?}", self.state);
        std::mem::replace(&mut self.state, to)
    }

    pub(crate) fn is_dormant(&self) -> bool {
        matches!(self.state, LaneState::Dormant)
    }

    /// Whether it needs a connection and there is no room for one.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.state, LaneState::Waiting | LaneState::Parked)
    }

    pub(crate) fn is_backing_off(&self) -> bool {
        matches!(self.state, LaneState::Backoff)
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.state, LaneState::Ready { .. })
    }

    pub(crate) fn is_yielding(&self) -> bool {
        matches!(self.state, LaneState::Yielding { .. })
    }

    /// Whether it dials or greets.
    pub(crate) fn is_connecting(&self) -> bool {
        matches!(self.state, LaneState::Connecting | LaneState::Handshaking { .. })
    }

    /// Whether its connection, or the attempt at one, counts against `upstream_connections_max`.
    pub(crate) fn is_counted(&self) -> bool {
        self.state.is_counted()
    }

    /// The driver's handle for the connection; opaque here.
    pub(crate) fn link(&self) -> Option<usize> {
        self.state.link()
    }

    pub(super) fn handshake_mut(&mut self) -> Option<&mut Handshake> {
        match &mut self.state {
            LaneState::Handshaking { handshake, .. } => Some(handshake),
            _ => None,
        }
    }

    /// The connection carries requests from now on. `id` is its CLIENT ID.
    pub(super) fn become_ready(&mut self, link: usize, id: i64, now: Millis) {
        self.set_state(LaneState::Ready { link });
        (self.upstream_id, self.connected_at, self.replied) = (id, now, false);
        (self.last_reply, self.last_used) = (now, now);
    }

    /// Nothing that was half said on the connection is of any use to the next one, and no timer set for it may hit that.
    pub(super) fn forget_connection(&mut self) -> LaneState {
        self.inbox.clear();
        self.on_previous_upstream = false;
        self.losses = self.losses.wrapping_add(1);
        self.set_detached(false);
        self.next_timer();
        self.set_state(LaneState::Dormant)
    }

    /// CLIENT ID of the connection.
    pub(crate) fn upstream_id(&self) -> i64 {
        self.upstream_id
    }

    pub(crate) fn connected_at(&self) -> Millis {
        self.connected_at
    }

    pub(crate) fn last_reply(&self) -> Millis {
        self.last_reply
    }

    /// When it was last given a request, or to a child.
    pub(crate) fn last_used(&self) -> Millis {
        self.last_used
    }

    /// Connections lost so far: equal values name the same connection.
    pub(crate) fn losses(&self) -> u32 {
        self.losses
    }

    /// Whether a reply has come on this connection.
    pub(crate) fn has_replied(&self) -> bool {
        self.replied
    }

    /// Failed attempts in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// One more attempt has come to nothing.
    pub(super) fn count_failure(&mut self) -> u32 {
        self.failures = self.failures.saturating_add(1);
        self.failures
    }

    /// The connection was lost. If it has proven that the upstream works, the next attempt needs no delay.
    pub(super) fn count_loss(&mut self, proven: bool) -> u32 {
        self.failures = if proven { 0 } else { self.failures.saturating_add(1) };
        self.failures
    }

    /// The next attempt is the first to a working upstream, or to another one.
    pub(crate) fn forget_failures(&mut self) {
        self.failures = 0;
    }

    /// The number of the timer that is meant.
    pub(crate) fn timer(&self) -> u32 {
        self.timer
    }

    /// No timer set before is meant any more.
    pub(super) fn next_timer(&mut self) -> u32 {
        self.timer = self.timer.wrapping_add(1);
        self.timer
    }

    // ---- its requests ----------------------------------------------------------------------------------

    /// Appends one whole request and its slot.
    #[inline]
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        child: ChildKey,
        command: CommandId,
        kind: SlotKind,
        flags: SlotFlags,
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
    pub(crate) fn front(&self) -> Option<&Slot> {
        self.out.front()
    }

    /// The slot put on it last.
    pub(crate) fn back(&self) -> Option<&Slot> {
        self.out.back()
    }

    /// Whether a canary stands behind every request on it.
    #[cfg(test)]
    pub(crate) fn is_guarded(&self) -> bool {
        self.out.iter().all(|slot| slot.flags.has(SlotFlags::GUARDED) || slot.kind == SlotKind::Canary)
    }

    /// All slots, oldest first.
    #[cfg(test)]
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.out.iter()
    }

    // ---- its replies -----------------------------------------------------------------------------------

    /// Bytes have arrived. `end_input` is told what is left of them.
    pub(super) fn begin_input<'a>(
        &mut self,
        bytes: &'a [u8],
        scanner: &mut SharedScanner<ReplyScanner>,
        now: Millis,
    ) -> Frames<'a, ReplyScanner> {
        self.last_reply = now;
        self.inbox.begin(bytes, scanner)
    }

    /// Whether the bytes that are being read are still those of its connection.
    pub(super) fn is_input_valid(&self) -> bool {
        self.inbox.is_in_use()
    }

    pub(super) fn end_input(
        &mut self,
        frames: Frames<'_, ReplyScanner>,
        scanner: &mut SharedScanner<ReplyScanner>,
        spares: &mut Spares,
    ) {
        self.inbox.end(frames, scanner, spares);
    }

    /// Bytes of a reply that has not come to its end.
    pub(crate) fn unread(&self) -> usize {
        self.inbox.len()
    }

    /// Whether a frame of this type on its connection is a reply for the front slot, whatever is in it.
    pub(crate) fn is_reply(&self, kind: u8) -> bool {
        kind != b'>' && self.is_shared() && !self.is_connecting()
    }

    pub(crate) fn is_greeting(&self) -> bool {
        matches!(self.state, LaneState::Handshaking { .. })
    }

    /// Takes the slot a complete reply belongs to. `None` is a desync.
    #[inline(always)]
    pub(crate) fn take_answered(&mut self, now: Millis) -> Option<Answered> {
        let is_proven = self.withheld().is_empty();
        let slot = self.pop()?;
        self.replied = true;
        let front_since = std::mem::replace(&mut self.front_since, now);
        Some(Answered { slot, front_since, role: self.role(), is_proven, is_yielding: self.is_yielding() })
    }

    /// Takes the slot a complete reply belongs to. `None` is a desync: nobody asked, or the question has
    /// not even left.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Slot> {
        let slot = self.out.take_answered()?;
        self.forget_timed_out(1);
        Some(slot)
    }

    /// Takes the slot whose request has left in part. The rest of it goes with the connection.
    pub(crate) fn take_half_written(&mut self) -> Option<Slot> {
        let of_a_child =
            |slot: &Slot| !matches!(slot.kind, SlotKind::Canary | SlotKind::Question | SlotKind::Proof);
        if !self.has_written() || !self.front().is_some_and(of_a_child) {
            return None;
        }
        self.forget_timed_out(1);
        self.out.take_front()
    }

    /// So many slots have left the front.
    pub(crate) fn forget_timed_out(&mut self, count: usize) {
        self.timed_out = self.timed_out.saturating_sub(count);
    }

    /// Whether nothing is waiting: no slot, written or not, and no reply for its canary.
    pub(crate) fn is_idle(&self) -> bool {
        self.out.is_idle() && self.withheld().is_empty()
    }

    /// Whether an answer to the canary at the back of this unit is due, where one of `every` has one.
    pub(super) fn is_canary_due(&mut self, every: u32) -> bool {
        self.canaries.is_due(every)
    }

    /// The request of a canary that is put on the lane next.
    pub(super) fn next_canary(&mut self, rng: &mut fastrand::Rng) -> [u8; CANARY] {
        self.canaries.request(self.out.appended() + CANARY as u64, rng)
    }

    /// Whether this is the answer of the canary that ends there.
    pub(super) fn is_canary_answer(&self, frame: &[u8], end: u64) -> bool {
        self.canaries.is_answer(frame, end)
    }

    /// Whether this is the answer of the next canary.
    pub(super) fn is_next_canary_answer(&self, frame: &[u8]) -> bool {
        let next = self.out.iter().find(|slot| slot.kind == SlotKind::Canary);
        next.is_some_and(|slot| self.is_canary_answer(frame, slot.end))
    }

    /// Keeps a reply until the canary behind it has been answered.
    pub(super) fn withhold(&mut self, slot: Slot, frame: &[u8]) {
        self.canaries.withhold(slot, frame);
    }

    /// The replies that wait for a canary, oldest first.
    pub(crate) fn withheld(&self) -> &[Withheld] {
        self.canaries.withheld()
    }

    /// Takes them: they are proven, or lost.
    pub(super) fn take_withheld(&mut self) -> Vec<Withheld> {
        self.canaries.take_withheld()
    }

    /// Requests that wait for their reply, the broker's canaries not counted.
    pub(crate) fn owed(&self) -> usize {
        self.out.iter().filter(|slot| slot.kind != SlotKind::Canary).count() + self.withheld().len()
    }

    /// How many slots wait.
    pub(crate) fn depth(&self) -> usize {
        self.out.depth()
    }

    /// Whether the front slot's request has begun to leave: one byte handed to the socket is enough.
    pub(crate) fn has_written(&self) -> bool {
        self.out.has_written()
    }

    /// Whether the connection is still needed for what was written on it.
    pub(crate) fn owes_replies(&self) -> bool {
        self.has_written() || !self.withheld().is_empty()
    }

    /// Bytes that wait to be written.
    pub(crate) fn unwritten(&self) -> usize {
        self.out.len()
    }

    /// Whether it has so much to write that the child has to wait until it has less.
    pub(crate) fn holds_back(&mut self, child: ChildKey) -> bool {
        let full = self.out.len() >= limits::LANE_WINDOW;
        if full {
            self.held.push(child);
        }
        full
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> &[ChildKey] {
        &self.held
    }

    /// Children that waited and may go on.
    pub(crate) fn take_held(&mut self) -> Vec<ChildKey> {
        std::mem::take(&mut self.held)
    }

    /// Whether children wait that need not any more.
    pub(super) fn has_room_for_held(&self) -> bool {
        !self.held.is_empty() && self.out.len() < limits::LANE_WINDOW / 2
    }

    /// What may be written now.
    pub(super) fn outgoing(&self) -> &[u8] {
        match &self.state {
            LaneState::Handshaking { handshake, .. } => handshake.outgoing(),
            LaneState::Ready { .. } => self.out.as_slice(),
            LaneState::Yielding { end, .. } => {
                let allowed = end.saturating_sub(self.out.consumed()) as usize;
                &self.out.as_slice()[..allowed.min(self.out.len())]
            }
            _ => &[],
        }
    }

    /// `count` bytes of `outgoing` were taken by the socket.
    pub(super) fn wrote(&mut self, count: usize) {
        match &mut self.state {
            LaneState::Handshaking { handshake, .. } => handshake.wrote(count),
            _ => self.out.wrote(count),
        }
    }

    /// Marks it as one to be written; false if it is marked.
    pub(super) fn mark_dirty(&mut self) -> bool {
        !std::mem::replace(&mut self.dirty, true)
    }

    /// The driver is about to write it.
    pub(super) fn clear_dirty(&mut self) {
        self.dirty = false;
    }

    /// Where the request ends that has begun to leave.
    pub(super) fn end_of_written(&self) -> u64 {
        self.out.end_of_written()
    }

    /// The connection is gone: takes every slot of which a byte may have left (a block counts as one), and
    /// drops the unsent rest of the last of them. What remains has never been written.
    pub(crate) fn take_written(&mut self) -> Vec<Slot> {
        let written = self.out.take_written();
        self.forget_timed_out(written.len());
        // Replies without proof are none.
        self.take_withheld().into_iter().map(|withheld| withheld.slot).chain(written).collect()
    }

    /// Takes every slot left, written or not; the lane will not be used again for them.
    pub(crate) fn take_all(&mut self) -> Vec<Slot> {
        self.timed_out = 0;
        self.out.take_all()
    }

    /// Takes slots that have waited `timeout` or longer without being written. Only while nothing is
    /// being written: then every slot is unwritten, and the oldest is at the front.
    pub(crate) fn take_expired(&mut self, now: Millis, timeout: Millis) -> Vec<Slot> {
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
    pub(crate) fn time_out(&mut self, now: Millis, timeout: Millis) -> Vec<Slot> {
        let mut late = Vec::new();
        if self.canaries.withheld().iter().any(|one| one.slot.may_wait()) {
            // What was waited for has come, and only its canary has not been answered yet.
            return late;
        }
        for slot in self.canaries.withheld_mut() {
            if u64::from(slot.age(now)) >= timeout && !slot.is_timed_out() {
                late.push(slot.time_out());
            }
        }
        while let Some(slot) = self.out.get_mut(self.timed_out) {
            if slot.is_timed_out() {
                // It was told already, for what stood in front of it.
                self.timed_out += 1;
                continue;
            }
            // What waits has a timeout of its own.
            if u64::from(slot.age(now)) < timeout || slot.may_wait() {
                break;
            }
            late.push(slot.time_out());
            self.timed_out += 1;
        }
        late
    }

    /// Whether any request on it may never be answered, whatever becomes of the upstream.
    pub(crate) fn may_wait(&self) -> bool {
        self.out.iter().any(Slot::may_wait)
    }

    /// Marks what stands behind the front slot and is not of the same child, and returns it: it has waited for that child's
    /// command for too long. It stays in the FIFO, as what has timed out.
    pub(crate) fn give_up_behind_front(&mut self) -> Vec<Slot> {
        let Some(owner) = self.front().map(|front| front.child) else { return Vec::new() };
        let own = |slot: &Slot| slot.kind == SlotKind::Canary || slot.may_wait();
        let behind = |slot: &&mut Slot| slot.child != owner && !slot.is_timed_out() && !own(slot);
        self.out.iter_mut().filter(behind).map(Slot::time_out).collect()
    }

    /// Brings the total up to date with what it holds.
    pub(super) fn account(&mut self, total: &mut usize) {
        let measured = self.measure();
        *total = *total + measured - self.footprint;
        self.footprint = measured;
    }

    /// Heap bytes it held when it was accounted last.
    pub(crate) fn footprint(&self) -> usize {
        self.footprint
    }

    /// Heap bytes it holds.
    pub(crate) fn measure(&self) -> usize {
        self.out.footprint() + self.inbox.footprint() + self.canaries.footprint()
    }

    /// Gives the front slot to the next other child that waits, and that child's slot to its own: each
    /// still gets as many replies as it asked for, one of them the other's. The broken FIFO that every
    /// check must notice.
    #[cfg(feature = "sabotage")]
    pub(crate) fn swap_front(&mut self, is_alive: impl Fn(ChildKey) -> bool) {
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
mod tests;
