//! A lane: one upstream connection's FIFO of slots and the bytes on their way, without the connection. A shared lane outlives
//! its connections: what has not left stays, and the next connection carries on from there. Owns what it is for, the state of
//! its connection and its requests; never other lanes, nor what is told to children.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::base::outgoing::Fragment;
use crate::base::pipeline::{Entry, Pipeline};
use crate::base::secured::Secured;
use crate::core::connection::canary::{Canaries, Withheld};
use crate::core::connection::forsaken::Forsaken;
use crate::core::connection::handshake::Handshake;
use crate::core::connection::role::{LaneRole, RoleData, Traffic};
use crate::core::connection::slot::{Slot, SlotFlags, SlotKind};
use crate::core::connection::timing::{RequestStamps, Timing};
use crate::core::env::Moment;
use crate::core::keys::{ChildKey, LeaseKind, PoolId};
use crate::core::lease::state::LeaseState;
use crate::resp::{Inbox, ReplyScanner};
use std::collections::VecDeque;

/// Where the lane's connection stands, with what it has there. "Counted" means against `upstream_connections_max`.
#[derive(Debug)]
pub(crate) enum LaneState {
    /// No connection and no need of one.
    Dormant,
    /// Needs a connection, and all there may be are in use; stands in `Capacity`'s line.
    Waiting,
    /// The same, though there is room: a subscriber lane fits in only when a lease ends, or the upstream sends everybody away
    /// and others try.
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

/// Where the bytes of a reply go that is taken in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passing {
    /// To the child of the front slot.
    ToChild,
    /// Nowhere: nobody waits for them.
    Dropped,
    /// Nowhere: there is no room for them.
    Refused,
    /// Nowhere: they are a message, for which no slot stands.
    Missed,
}

/// A reply that is taken in parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Large {
    pub passing: Passing,
    /// Bytes of it that have come.
    pub len: usize,
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
    pub times: RequestStamps,
}

impl LaneState {
    pub(crate) fn is_counted(&self) -> bool {
        use LaneState::*;
        matches!(self, Connecting | Handshaking { .. } | Ready { .. } | Yielding { .. })
    }
}

/// What a lane knows of its connection, the one it has or had last. Only the lane writes it.
#[derive(Debug, Default)]
pub(crate) struct LaneRecord {
    /// CLIENT ID of the connection, from HELLO.
    pub upstream_id: i64,
    /// How the connection is secured, where it is.
    pub secured: Option<Secured>,
    pub connected_at: Millis,
    /// When a byte of a reply last came; or when the first request behind an idle time was written.
    pub last_reply: Millis,
    /// Milliseconds that the fastest reply took: at least the way there and back. None before the first one.
    pub fastest_reply: Option<u32>,
    /// When it was last given a request, or to a child.
    pub last_used: Millis,
    /// A reply has come on this connection: the upstream works, dialling again needs no delay.
    pub has_replied: bool,
    /// Its state upstream is not known to be clean: it must not be lent again, and is closed when its lease ends.
    pub close_needed: bool,
    /// Which upstream it leads to, or was dialled for last (`Env::upstream_number`).
    pub upstream_number: u32,
    /// It leads to an upstream that has been replaced since.
    pub is_on_previous_upstream: bool,
    /// Its server is the master no more: nothing is written on it, and it is closed at this time.
    former_until: Option<Millis>,
    /// Its server was greeted as a replica.
    is_replica: bool,
    /// The number of the replica that it leads to, or is being connected to; zero for the upstream itself.
    leads_to: u8,
    /// Connections lost so far: two requests were on the same one if this had the same value.
    pub losses: u32,
    pub failures: u32,
    /// The timer that is meant; older ones find another number and do nothing.
    pub timer: u32,
}

/// One upstream connection's queue.
#[derive(Debug)]
pub struct Lane {
    pool: PoolId,
    role: RoleData,
    state: LaneState,
    out: Pipeline<Slot>,
    /// A reply that has not come to its end.
    inbox: Inbox<ReplyScanner>,
    /// That reply, if it is taken in parts.
    large: Option<Large>,
    /// It has stood still for a reader, or carried a very long reply, since it was idle last.
    slow: bool,
    /// The replies withheld here are older than every slot in `out`.
    canaries: Canaries,
    record: LaneRecord,
    front_since: Millis,
    /// Slots of newcomers.
    newcomers: usize,
    /// Children that wait until it has less to write, or fewer newcomers.
    held: VecDeque<ChildKey>,
    /// How much it may have had to write when it last held one back.
    held_window: usize,
    forsaken: Forsaken,
    dirty: bool,
    timing: Timing,
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
            timing: Timing::default(),
            inbox: Inbox::default(),
            large: None,
            slow: false,
            canaries: Canaries::default(),
            record: LaneRecord { last_reply: now, last_used: now, ..LaneRecord::default() },
            front_since: now,
            newcomers: 0,
            held: VecDeque::new(),
            held_window: limits::LANE_WINDOW,
            forsaken: Forsaken::default(),
            dirty: false,
            footprint: 0,
        }
    }

    pub(crate) fn pool(&self) -> PoolId {
        self.pool
    }

    pub(crate) fn set_pool(&mut self, pool: PoolId) {
        self.pool = pool;
    }

    pub(crate) fn role(&self) -> LaneRole {
        self.role.name()
    }

    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.role, RoleData::Shared { .. })
    }

    /// Whether a very long reply passes on it.
    pub(crate) fn is_slow(&self) -> bool {
        self.slow
    }

    /// Since when its first slot is the first, on the present connection.
    /// Since when its next request waits and no byte of a reply has come.
    pub(crate) fn silent_since(&self) -> Millis {
        self.oldest_since().max(self.record.last_reply)
    }

    pub(crate) fn oldest_since(&self) -> Millis {
        self.front_since.max(self.record.connected_at)
    }

    pub(crate) fn is_detached(&self) -> bool {
        matches!(self.role, RoleData::Shared { detached: true, .. })
    }

    /// For a WAIT that is put on it next. It ends with the last WAIT that leaves the lane, whatever becomes of that.
    pub(crate) fn detach(&mut self) {
        if let RoleData::Shared { detached, .. } = &mut self.role {
            *detached = true;
        }
    }

    /// What is short keeps off it until it is idle.
    pub(super) fn set_slow(&mut self) {
        self.slow = true;
    }

    /// Whether it takes no request that is expected to be short, though it is there for such.
    pub(crate) fn is_kept_from_others(&self) -> bool {
        self.slow && self.is_shared() && !self.carries_bulk()
    }

    /// Whether requests that are expected to be short may be put on it.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        !self.slow && !self.is_detached()
    }

    /// What keeps others off it may have left.
    #[inline]
    fn reopen(&mut self) {
        if self.slow && self.out.is_idle() {
            self.slow = false;
        }
        if let RoleData::Shared { detached, .. } = &mut self.role
            && *detached
        {
            *detached = self.out.entries().iter().any(|slot| slot.kind == SlotKind::Wait);
        }
    }

    /// Whether it is a shared lane that takes such requests of its children.
    pub(super) fn takes(&self, wanted: Traffic) -> bool {
        (!self.slow || wanted == Traffic::Bulk)
            && matches!(self.role, RoleData::Shared { detached: false, surplus: false, traffic } if traffic == wanted)
    }

    /// Whether it carries what is long.
    pub(crate) fn carries_bulk(&self) -> bool {
        matches!(self.role, RoleData::Shared { traffic: Traffic::Bulk, .. })
    }

    /// Whether it carries transactions, one at a time: it writes no further one before the MULTI for that is accepted.
    pub(crate) fn carries_blocks(&self) -> bool {
        matches!(self.role, RoleData::Shared { traffic: Traffic::Blocks, .. })
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
        if let RoleData::Lease { lease, .. } = &self.role { lease.as_ref() } else { None }
    }

    pub(crate) fn lease_mut(&mut self) -> Option<&mut LeaseState> {
        if let RoleData::Lease { lease, .. } = &mut self.role { lease.as_mut() } else { None }
    }

    pub(crate) fn lend(&mut self, mut to: LeaseState, now: Millis) {
        to.begin(now);
        debug_assert!(self.lease().is_none(), "lent twice");
        self.record.last_used = now;
        if let RoleData::Lease { lease, .. } = &mut self.role {
            *lease = Some(to);
        }
    }

    pub(crate) fn take_lease(&mut self, now: Millis) -> Option<LeaseState> {
        let RoleData::Lease { lease, .. } = &mut self.role else { return None };
        self.record.last_used = now;
        lease.take()
    }

    pub(crate) fn is_listened(&self) -> bool {
        matches!(self.role, RoleData::Subscriber { listened: true })
    }

    pub(crate) fn set_listened(&mut self, is: bool) {
        let RoleData::Subscriber { listened } = &mut self.role else {
            return debug_assert!(false, "no lane for subscriptions");
        };
        *listened = is;
    }

    pub(super) fn is_opening_for(&self, kind: LeaseKind) -> bool {
        self.is_connecting()
            && matches!(self.role, RoleData::Lease { opened_for, .. } if opened_for == Some(kind))
    }

    pub(crate) fn record(&self) -> &LaneRecord {
        &self.record
    }

    pub(crate) fn need_close(&mut self) {
        self.record.close_needed = true;
    }

    pub(crate) fn need_close_if(&mut self, unclean: bool) {
        self.record.close_needed |= unclean;
    }

    pub(crate) fn leave_on_previous_upstream(&mut self) {
        self.record.is_on_previous_upstream = true;
    }

    pub(super) fn is_needed(&self) -> bool {
        self.role().is_own() || !self.is_idle() || self.is_listened()
    }

    /// Whether it has a connection that is not needed at the moment.
    pub(super) fn is_unused(&self) -> bool {
        self.is_ready() && !self.is_needed() && self.lease().is_none()
    }

    /// See `nodes::leaving`: it has until then to answer what was written.
    pub(crate) fn become_former(&mut self, until: Millis) {
        self.leave_on_previous_upstream();
        self.record.close_needed = true;
        // One that is left again has had part of its time.
        self.record.former_until.get_or_insert(until);
    }

    pub(crate) fn former_until(&self) -> Option<Millis> {
        self.record.former_until
    }

    pub(crate) fn is_former(&self) -> bool {
        self.record.former_until.is_some()
    }

    /// It is dialled for this upstream.
    pub(super) fn note_upstream(&mut self, number: u32) {
        self.record.upstream_number = number;
    }

    pub(crate) fn lead_to(&mut self, replica: u8) {
        self.record.leads_to = replica;
    }

    pub(crate) fn leads_to(&self) -> u8 {
        self.record.leads_to
    }

    pub(crate) fn set_replica(&mut self, is: bool) {
        self.record.is_replica = is;
    }

    pub(crate) fn is_replica(&self) -> bool {
        self.record.is_replica
    }

    pub(crate) fn state(&self) -> &LaneState {
        &self.state
    }

    /// Asserts that the move is one of ARCHITECTURE.md. The lists and counts that go with it are the caller's.
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

    pub(crate) fn is_connecting(&self) -> bool {
        matches!(self.state, LaneState::Connecting | LaneState::Handshaking { .. })
    }

    pub(crate) fn is_counted(&self) -> bool {
        self.state.is_counted()
    }

    /// The driver's handle for the connection; opaque here.
    pub(crate) fn link(&self) -> Option<usize> {
        use LaneState::*;
        match self.state {
            Handshaking { link, .. } | Ready { link } | Yielding { link, .. } => Some(link),
            _ => None,
        }
    }

    pub(super) fn handshake_mut(&mut self) -> Option<&mut Handshake> {
        if let LaneState::Handshaking { handshake, .. } = &mut self.state { Some(handshake) } else { None }
    }

    /// The connection carries requests from now on. `id` is its CLIENT ID. Greeting and ready are counted alike, and stand
    /// in no line: nothing but the lane changes.
    pub(super) fn become_ready(&mut self, link: usize, id: i64, now: Millis) {
        self.set_state(LaneState::Ready { link });
        let record = &mut self.record;
        (record.upstream_id, record.connected_at, record.has_replied) = (id, now, false);
        (record.last_reply, record.last_used, record.fastest_reply) = (now, now, None);
    }

    /// The driver has another handle of its connection.
    pub(super) fn relink(&mut self, handle: usize) {
        if let LaneState::Ready { link } = &mut self.state {
            *link = handle;
        }
    }

    pub(super) fn note_secured(&mut self, secured: Option<Secured>) {
        self.record.secured = secured;
    }

    /// Nothing that was half said on the connection is of any use to the next one, and no timer set for it may hit that.
    pub(super) fn forget_connection(&mut self) {
        self.inbox.clear();
        self.large = None;
        let record = &mut self.record;
        (record.is_on_previous_upstream, record.former_until, record.secured) = (false, None, None);
        self.record.losses = self.record.losses.wrapping_add(1);
        self.next_timer();
    }

    /// If the connection had `proven` that the upstream works, the next attempt needs no delay.
    pub(crate) fn count_failure(&mut self, proven: bool) -> u32 {
        self.record.failures = if proven { 0 } else { self.record.failures.saturating_add(1) };
        self.record.failures
    }

    pub(crate) fn forget_failures(&mut self) {
        self.record.failures = 0;
    }

    /// No timer set before is meant any more.
    pub(super) fn next_timer(&mut self) -> u32 {
        self.record.timer = self.record.timer.wrapping_add(1);
        self.record.timer
    }

    #[inline]
    pub(super) fn push(&mut self, bytes: &[u8], slot: Slot, moment: &Moment) {
        self.begin_push(moment.now);
        self.newcomers += usize::from(slot.flags.has(SlotFlags::NEWCOMER));
        self.out.push(bytes, |end| Slot { end, stamp: moment.now as u32, ..slot });
        self.timing.has_waited(self.out.bytes().appended(), moment.input_us);
        if moment.keeps_prefix && self.out.entries().len() <= limits::PREFIXES_KEPT {
            self.keep_prefix(bytes);
        }
    }

    pub(super) fn push_fragment(&mut self, request: Fragment, slot: Slot, moment: &Moment) {
        self.begin_push(moment.now);
        self.newcomers += usize::from(slot.flags.has(SlotFlags::NEWCOMER));
        let prefix = request.part(0..request.len().min(limits::PREFIX_LEN));
        self.out.push_fragment(request, |end| Slot { end, stamp: moment.now as u32, ..slot });
        self.timing.has_waited(self.out.bytes().appended(), moment.input_us);
        if moment.keeps_prefix {
            self.keep_prefix(&prefix);
        }
    }

    /// The same for many requests: each slot with where its request ends in `bytes`.
    pub(super) fn push_all(
        &mut self,
        bytes: &[u8],
        slots: impl Iterator<Item = (usize, Slot)>,
        moment: &Moment,
    ) {
        self.begin_push(moment.now);
        self.out.push_all(bytes, slots, |slot, end| Slot { end, stamp: moment.now as u32, ..slot });
        self.timing.has_waited(self.out.bytes().appended(), moment.input_us);
    }

    /// The request that was put on it last begins with these bytes.
    #[inline]
    fn keep_prefix(&mut self, request: &[u8]) {
        let end = self.out.bytes().appended();
        self.timing.keep_prefix(request, end);
    }

    /// Nothing is on it: what is known of earlier requests is forgotten.
    pub(super) fn forget_times(&mut self) {
        if self.out.is_idle() {
            self.timing = Timing::default();
        }
    }

    /// The first bytes of a request that was on it lately, if they were kept.
    pub(crate) fn prefix_of(&self, slot: &Slot) -> Option<&[u8]> {
        self.timing.prefix_of(slot.end)
    }

    #[inline]
    fn begin_push(&mut self, now: Millis) {
        if self.out.is_idle() {
            // A stall is counted from the first unanswered request, not from the last idle reply.
            self.record.last_reply = now;
            self.front_since = now;
        }
        self.record.last_used = now;
    }

    pub(crate) fn front(&self) -> Option<&Slot> {
        self.out.front()
    }

    pub(crate) fn out(&self) -> &Pipeline<Slot> {
        &self.out
    }

    pub(super) fn note_input(&mut self, now: Millis) {
        self.record.last_reply = now;
    }

    pub(crate) fn inbox(&self) -> &Inbox<ReplyScanner> {
        &self.inbox
    }

    pub(super) fn inbox_mut(&mut self) -> &mut Inbox<ReplyScanner> {
        &mut self.inbox
    }

    /// The reply at the front is taken in parts from now on.
    pub(crate) fn begin_large(&mut self, passing: Passing) {
        self.large = Some(Large { passing, len: 0 });
    }

    /// So many more bytes of it have come.
    pub(crate) fn note_large(&mut self, len: usize) -> Option<Large> {
        let large = self.large.as_mut()?;
        large.len += len;
        Some(*large)
    }

    pub(crate) fn end_large(&mut self) {
        self.large = None;
    }

    /// Whether a reply is taken in parts.
    pub(crate) fn is_in_large(&self) -> bool {
        self.large.is_some()
    }

    /// Whether the front slot's reply is being given to its child.
    pub(crate) fn is_giving(&self) -> bool {
        self.large.is_some_and(|large| large.passing == Passing::ToChild)
    }

    /// Whether a frame of this type on its connection is a reply for the front slot, whatever is in it.
    pub(crate) fn is_reply(&self, kind: u8) -> bool {
        kind != b'>' && self.is_shared() && !self.is_connecting()
    }

    /// Takes the slot a complete reply belongs to. `None` is a desync: nobody asked, or the question has not even left.
    #[inline(always)]
    pub(crate) fn take_answered(&mut self, now: Millis) -> Option<Answered> {
        let is_proven = self.withheld().is_empty();
        let slot = self.pop()?;
        self.record.has_replied = true;
        let took = (now as u32).wrapping_sub(slot.stamp);
        self.record.fastest_reply = Some(self.record.fastest_reply.map_or(took, |least| least.min(took)));
        let front_since = std::mem::replace(&mut self.front_since, now);
        let times = self.timing.take(slot.end);
        let (role, is_yielding) = (self.role(), self.is_yielding());
        Some(Answered { slot, front_since, role, is_proven, is_yielding, times })
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Slot> {
        let slot = self.out.take_answered();
        self.newcomers -= usize::from(slot.is_some_and(|slot| slot.flags.has(SlotFlags::NEWCOMER)));
        self.reopen();
        slot
    }

    /// Takes the slot whose request has left in part. The rest of it goes with the connection.
    pub(crate) fn take_half_written(&mut self) -> Option<Slot> {
        let of_a_child = self.front().is_some_and(|slot| !slot.kind.is_own());
        let slot = if self.has_written() && of_a_child { self.out.take_front() } else { None };
        self.count_newcomers();
        slot
    }

    /// Whether nothing is waiting: no slot, written or not, and no reply for its canary.
    pub(crate) fn is_idle(&self) -> bool {
        self.out.is_idle() && self.withheld().is_empty()
    }

    pub(super) fn canaries(&self) -> &Canaries {
        &self.canaries
    }

    pub(super) fn canaries_mut(&mut self) -> &mut Canaries {
        &mut self.canaries
    }

    pub(crate) fn withheld(&self) -> &[Withheld] {
        self.canaries.withheld()
    }

    /// Requests that wait for their reply, the broker's own not counted.
    pub(crate) fn owed(&self) -> usize {
        self.out.entries().iter().filter(|slot| !slot.kind.is_own()).count() + self.withheld().len()
    }

    pub(crate) fn depth(&self) -> usize {
        self.out.entries().len()
    }

    /// Whether so much stands on it that children have no more than a share of it.
    #[inline]
    pub(crate) fn is_deep(&self) -> bool {
        self.depth() >= limits::LANE_DEEP.saturating_mul(self.away())
    }

    /// Whether something has to come of this very connection: a reply, its proof, or the rest of what was answered in part.
    pub(crate) fn is_owed_replies(&self) -> bool {
        self.has_written() || self.out.is_inside_unit() || !self.withheld().is_empty()
    }

    pub(crate) fn has_written(&self) -> bool {
        self.out.has_written()
    }

    pub(super) fn holds_back(&mut self, child: ChildKey, window: usize) -> bool {
        let full = self.out.bytes().len() >= window;
        if full {
            self.held_window = window;
            self.held.push_back(child);
        }
        full
    }

    /// Whether a newcomer has to wait until fewer requests of such are on the lane: each may have megabytes of a reply, which
    /// stand before everybody.
    pub(super) fn holds_newcomer(&mut self, child: ChildKey) -> bool {
        let full = self.newcomers >= self.newcomers_max();
        if full {
            self.held.push_back(child);
        }
        full
    }

    /// As many as there are while it has no connection: each has its own time to wait for that, and is told in it.
    fn newcomers_max(&self) -> usize {
        if self.is_ready() { limits::LANE_NEWCOMERS.saturating_mul(self.away()) } else { usize::MAX }
    }

    /// Milliseconds to the upstream and back, as far as is known; at least one.
    fn away(&self) -> usize {
        self.record.fastest_reply.map_or(1, |took| took.max(1) as usize)
    }

    fn count_newcomers(&mut self) {
        let new = |slot: &&Slot| slot.flags.has(SlotFlags::NEWCOMER);
        self.newcomers = self.out.entries().iter().filter(new).count();
    }

    pub(crate) fn held(&self) -> &VecDeque<ChildKey> {
        &self.held
    }

    pub(super) fn take_held(&mut self) -> impl Iterator<Item = ChildKey> {
        self.held.drain(..)
    }

    /// As many of the first ones as it has room for, if each has one request.
    pub(super) fn take_next_held(&mut self) -> impl Iterator<Item = ChildKey> {
        let count = self.held.len().min(self.newcomers_max() / 2);
        self.held.drain(..count)
    }

    pub(super) fn has_room_for_held(&self) -> bool {
        !self.held.is_empty()
            && self.out.bytes().len() < self.held_window / 2
            && self.newcomers <= self.newcomers_max() / 2
    }

    pub(super) fn outgoing(&self) -> &[u8] {
        match &self.state {
            LaneState::Handshaking { handshake, .. } => handshake.outgoing(),
            LaneState::Ready { .. } | LaneState::Yielding { .. } if self.is_former() => &[],
            LaneState::Ready { .. } if self.carries_blocks() => self.out.bytes_until(self.out.end_of_unit()),
            LaneState::Ready { .. } => self.out.bytes().front(),
            LaneState::Yielding { end, .. } => self.out.bytes_until(*end),
            _ => &[],
        }
    }

    pub(super) fn wrote(&mut self, count: usize, micros: u64) {
        match &mut self.state {
            LaneState::Handshaking { handshake, .. } => handshake.wrote(count),
            _ => {
                self.out.wrote(count);
                self.timing.wrote(self.out.bytes().consumed(), micros);
            }
        }
    }

    /// Marks it as one to be written; false if it is marked.
    pub(super) fn mark_dirty(&mut self) -> bool {
        !std::mem::replace(&mut self.dirty, true)
    }

    /// All that has been put on it since this was last said was so at this time.
    pub(super) fn note_pushed(&mut self, micros: u64) {
        self.timing.pushed(self.out.bytes().appended(), micros);
    }

    pub(super) fn clear_dirty(&mut self) {
        self.dirty = false;
    }

    /// The connection is gone: takes what may have left. What remains has never been written.
    pub(crate) fn take_written(&mut self) -> Vec<Slot> {
        let written = self.out.take_written();
        self.timing.forget_before(self.out.front().map(Slot::end));
        self.count_newcomers();
        self.reopen();
        // Replies without proof are none.
        self.canaries.take_withheld().into_iter().map(|withheld| withheld.slot).chain(written).collect()
    }

    pub(crate) fn take_all(&mut self) -> Vec<Slot> {
        let slots = self.out.take_all();
        self.timing.forget_before(None);
        self.count_newcomers();
        self.reopen();
        self.forsaken = Forsaken::default();
        slots
    }

    pub(super) fn forsake(&mut self, child: ChildKey) {
        self.forsaken.add(child);
    }

    /// Before a connection is used: children that were closed meanwhile ask for nothing more. Whether they had asked for
    /// anything.
    pub(super) fn drop_forsaken(&mut self) -> bool {
        let found = self.forsaken.leave(&mut self.out, &self.canaries);
        if found {
            self.timing = Timing::default();
            self.count_newcomers();
            self.reopen();
        }
        found
    }

    /// Those that have waited `timeout` or longer. Only while nothing is being written: the oldest is at the front.
    /// About `max` of them at most: a unit is never cut.
    pub(crate) fn take_expired(&mut self, now: Millis, timeout: Millis, max: usize) -> Vec<Slot> {
        debug_assert!(!self.has_written());
        let mut expired: Vec<Slot> = Vec::new();
        while self.front().is_some_and(|slot| u64::from(slot.age(now)) >= timeout)
            && (expired.len() < max || expired.last().is_some_and(Slot::is_bound_to_next))
        {
            expired.extend(self.out.take_unwritten(|slot, _| slot));
        }
        self.timing.forget_before(self.out.front().map(Slot::end));
        self.count_newcomers();
        self.reopen();
        expired
    }

    /// Marks slots that wait longer than `timeout` for their reply, and returns them, about `max` at most: a unit is never
    /// cut. They stay: the replies will come.
    pub(crate) fn time_out(&mut self, now: Millis, timeout: Millis, max: usize) -> Vec<Slot> {
        let mut late = Vec::new();
        if self.canaries.withheld().iter().any(|one| one.slot.may_wait()) {
            // What was waited for has come, and only its canary has not been answered yet.
            return late;
        }
        let old = |slot: &&mut Slot| u64::from(slot.age(now)) >= timeout && !slot.is_timed_out();
        late.extend(self.canaries.withheld_mut().filter(old).map(Slot::time_out));
        // What is being given is no longer awaited, and whoever waits for a topic has a timer.
        let given = usize::from(self.is_giving());
        let told = |slot: &&mut Slot| !slot.is_timed_out() && slot.kind != SlotKind::Topic;
        for slot in self.out.iter_mut().skip(given).filter(told) {
            // What waits has a timeout of its own.
            let enough = late.len() >= max && !late.last().is_some_and(Slot::is_bound_to_next);
            if u64::from(slot.age(now)) < timeout || slot.may_wait() || enough {
                break;
            }
            late.push(slot.time_out());
        }
        late
    }

    pub(crate) fn may_wait(&self) -> bool {
        self.out.entries().iter().any(Slot::may_wait)
    }

    /// Marks what has waited for the command of another child at the front for too long, and returns it. It stays too.
    pub(crate) fn give_up_behind_front(&mut self) -> Vec<Slot> {
        let Some(owner) = self.front().map(|front| front.child) else { return Vec::new() };
        let own = |slot: &Slot| slot.kind.is_own() || slot.may_wait();
        let behind = |slot: &&mut Slot| slot.child != owner && !slot.is_timed_out() && !own(slot);
        self.out.iter_mut().filter(behind).map(Slot::time_out).collect()
    }

    pub(super) fn account(&mut self, total: &mut usize) {
        let measured = self.measure();
        *total = *total + measured - self.footprint;
        self.footprint = measured;
    }

    pub(crate) fn footprint(&self) -> usize {
        self.footprint
    }

    pub(crate) fn measure(&self) -> usize {
        self.out.footprint() + self.inbox.footprint() + self.canaries.footprint() + self.timing.footprint()
    }

    /// Swaps the front slot's child with the next other one: the broken FIFO that every check must notice.
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
