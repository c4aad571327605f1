//! Replies from upstream: each complete frame takes the front slot of its lane and nothing else decides
//! whose it is. A frame nobody asked for closes the lane; nothing is ever resynchronised.

use super::broker::Broker;
use super::child::{Child, Hold};
use super::handshake::Step;
use super::lane::{FLAG_GUARDED, FLAG_TIMED_OUT, FLAG_WRITE, Lane, LaneRole, LaneState, Slot, SlotKind};
use super::transaction::{AfterExec, Queued, Transaction};
use crate::base::key::Key;
use crate::base::limits;
use crate::command::texts;
use crate::resp::{ReplyScan, encode, reply};

impl Broker {
    /// Bytes have arrived from the upstream.
    pub fn lane_input(&mut self, key: Key<Lane>, bytes: &[u8]) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if !matches!(lane.state, LaneState::Handshaking | LaneState::Ready | LaneState::Yielding) {
            // Of a connection given up a moment ago, which the driver has not heard of yet.
            return;
        }
        lane.last_reply = self.now;
        self.control.heard_at = self.now;
        let connection = lane.incarnation();
        if lane.input.is_empty() {
            let (used, at_least) = self.take_frames(key, bytes);
            let Some(lane) = self.lanes.get_mut(key) else { return };
            let rest = &bytes[used..];
            if lane.incarnation() == connection && !rest.is_empty() {
                lane.input.reserve(at_least.clamp(rest.len(), rest.len() + limits::READ_TURN));
                lane.input.append(rest);
            }
        } else {
            lane.input.append(bytes);
            let mut input = std::mem::take(&mut lane.input);
            let (used, _) = self.take_frames(key, input.as_slice());
            let Some(lane) = self.lanes.get_mut(key) else { return };
            if lane.incarnation() == connection {
                input.consume(used);
                lane.input = input;
            }
        }
        self.account_lane(key);
    }

    /// Takes every complete frame off `bytes`. Returns how many bytes that were.
    fn take_frames(&mut self, key: Key<Lane>, bytes: &[u8]) -> (usize, usize) {
        let Some(lane) = self.lanes.get_mut(key) else { return (0, 0) };
        let connection = lane.incarnation();
        let mut scanner = std::mem::take(&mut lane.scanner);
        let (mut used, mut needed) = (0, 0);
        while used < bytes.len() {
            match scanner.scan(&bytes[used..]) {
                ReplyScan::NeedMore { at_least } => {
                    needed = at_least;
                    break;
                }
                ReplyScan::Frame { len, kind } => {
                    self.take_frame(key, &bytes[used..used + len], kind);
                    used += len;
                }
                ReplyScan::Desync(why) => self.desync(key, why),
            }
            let alive = self.lanes.get(key).is_some_and(|lane| lane.incarnation() == connection);
            if !alive {
                return (used, 0);
            }
        }
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.scanner = scanner;
        }
        (used, needed)
    }

    fn take_frame(&mut self, key: Key<Lane>, frame: &[u8], kind: u8) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if lane.state == LaneState::Handshaking {
            return self.greeted(key, frame);
        }
        if lane.role == LaneRole::Subscriber {
            if let Err(why) = self.hub_said(key, frame, kind) {
                self.desync(key, why);
            }
            return;
        }
        if lane.role != LaneRole::Shared && self.is_push(key, kind, frame) {
            if !self.withhold_push(key, frame) && !self.push_arrived(key, frame) {
                self.desync(key, "a push on a lane that cannot have one");
            }
            return;
        }
        let Some(lane) = self.lanes.get_mut(key) else { return };
        if kind == b'>' {
            if self.pools[lane.pool.0 as usize].key.proto != 3 {
                self.desync(key, "a push on a RESP2 lane");
            }
            return;
        }
        #[cfg(feature = "sabotage")]
        if self.sabotaged && self.rng.u8(..) == 0 {
            lane.swap_front(|child| self.children.get(child).is_some());
        }
        let Some(slot) = lane.pop() else { return self.stray_reply(key, frame) };
        lane.replied = true;
        let front_since = std::mem::replace(&mut lane.front_since, self.now);
        let (role, yielding) = (lane.role, lane.state == LaneState::Yielding);
        self.note_work(role, &slot, front_since, frame);
        match slot.kind {
            SlotKind::Question => self.question_answered(Some(frame)),
            SlotKind::Proof => self.proof_answered(Some(frame)),
            SlotKind::Canary => self.canary_answered(key, &slot, frame),
            _ if slot.flags & FLAG_GUARDED != 0 => self.withhold(key, slot, frame),
            _ if !lane_is_proven(self.lanes.get(key)) => {
                // It must not overtake what a busy upstream has left without proof, and no canary can follow it.
                self.withhold(key, slot, frame);
                self.lane_lost(key, "integrity: a busy upstream has left replies unproven");
            }
            _ if !Self::is_plausible(&slot, frame) => {
                // The slot is off the lane already: it is told with the others.
                self.withhold(key, slot, frame);
                self.desync(key, "a reply that its command cannot have");
            }
            _ => self.settle(key, slot, frame, true),
        }
        if yielding {
            self.finish_yield(key);
        }
        if role == LaneRole::Control {
            self.leave_if_answered();
        }
    }

    /// A reply to the broker's greeting.
    fn greeted(&mut self, key: Key<Lane>, frame: &[u8]) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        let Some(handshake) = &mut lane.handshake else { return };
        let is_choice = handshake.is_choosing();
        match handshake.reply(frame) {
            Step::More => {}
            Step::Refused(why) => {
                if !self.greeting_refused(key, is_choice, frame) {
                    self.lane_failed(key, &why);
                }
            }
            Step::Ready(greeting) => {
                lane.handshake = None;
                lane.upstream_id = greeting.id;
                lane.connected_at = self.now;
                lane.last_reply = self.now;
                lane.last_used = self.now;
                lane.replied = false;
                lane.set_state(LaneState::Ready);
                let (role, pool) = (lane.role, lane.pool);
                self.mark_lane(key);
                if role != LaneRole::Control {
                    self.forget_refusal(pool);
                }
                match role {
                    LaneRole::Control => self.control_ready(greeting),
                    LaneRole::Lease => self.lease_ready(key),
                    LaneRole::Shared => self.ask_to_yield(),
                    LaneRole::Subscriber => self.hub_ready(key),
                    // It is not greeted.
                    LaneRole::Probe => {}
                }
            }
        }
    }

    /// A reply in whose place no whole request has left. The one that is leaving may be what the server will not read to
    /// its end: it says so, closes the connection and has run nothing behind it.
    fn stray_reply(&mut self, key: Key<Lane>, frame: &[u8]) {
        let refused = frame.starts_with(b"-ERR Protocol error");
        let slot = self.lanes.get_mut(key).filter(|_| refused).and_then(Lane::take_half_written);
        let Some(slot) = slot else { return self.desync(key, "a reply nobody asked for") };
        let text = String::from_utf8_lossy(&frame[1..]).trim_end().to_owned();
        let label = self.children.get(slot.child).map(Child::label).unwrap_or_default();
        log::warn!("the upstream refuses a request of child {label}, which is closed: {text}");
        self.settle(key, slot, frame, true);
        self.finish(slot.child);
        self.lane_lost(key, &text);
        self.ask_upstream_limits();
    }

    pub(super) fn desync(&mut self, key: Key<Lane>, why: &str) {
        self.counters.desyncs += 1;
        log::error!("upstream {} is out of step: {why}; closing the lane", self.upstream);
        self.lane_lost(key, why);
    }

    /// Completes one slot with its reply, or with the error that stands for it (`real` is false).
    pub(super) fn settle(&mut self, lane: Key<Lane>, slot: Slot, frame: &[u8], real: bool) {
        if slot.flags & FLAG_TIMED_OUT != 0 {
            if let Some(child) = self.children.get_mut(slot.child) {
                child.late -= 1;
                self.after_reply(slot.child);
            }
            return;
        }
        if slot.flags & FLAG_WRITE != 0 {
            self.note_write(lane, &slot, frame);
        }
        let overflow = self.settings.child_output_max;
        let Some(child) = self.children.get_mut(slot.child) else {
            self.counters.orphaned_replies += 1;
            return;
        };
        child.in_flight -= 1;
        if child.output.len() >= overflow {
            return self.close_full(slot.child);
        }
        child.output.adopt(&mut self.spares);
        match slot.kind {
            SlotKind::Relay => {
                child.weigh(slot.command, frame.len());
                child.replies.deliver(frame, &mut child.output);
            }
            _ => self.settle_special(lane, slot, frame, real),
        }
        self.mark_child(slot.child);
        self.after_reply(slot.child);
    }

    /// Closes a child that has more replies to take than it may leave unread.
    fn close_full(&mut self, key: Key<Child>) {
        if let Some(child) = self.children.get(key) {
            let (label, held) = (child.label(), child.output.len());
            log::warn!("child_output_max reached: closing child {label}, {held} bytes unread");
        }
        self.close_child(key);
    }

    fn settle_special(&mut self, lane: Key<Lane>, slot: Slot, frame: &[u8], real: bool) {
        let key = slot.child;
        if real {
            self.lease_replied(lane, slot.kind, frame);
        } else if slot.kind.ends_watch() {
            self.transaction_lost(lane, key);
        }
        match slot.kind {
            SlotKind::Swallow => self.remember_error(key, frame),
            SlotKind::Exec => self.settle_exec(slot, frame, real),
            SlotKind::Wait => {
                self.deliver(key, frame);
                self.wait_answered(lane);
            }
            SlotKind::Look => self.looked(key, frame, real),
            SlotKind::Blocking => self.settle_blocking(key, lane, frame, real),
            SlotKind::AbortedExec if real => {
                let mut aborted = Vec::new();
                encode::error(&mut aborted, texts::EXECABORT_PREVIOUS);
                self.deliver(key, &aborted);
            }
            SlotKind::Discard => {
                let refused = real && frame.first() == Some(&b'-') && !frame.starts_with(b"-ERR ");
                if let Some(child) = self.children.get_mut(key).filter(|_| refused) {
                    // Its lane goes, but for the child MULTI is as open as before, and spoilt.
                    let spoilt = Queued { dirty: true, ..Queued::default() };
                    child.session.transaction = Transaction::Queued(Box::new(spoilt));
                }
                self.deliver(key, frame);
            }
            SlotKind::Multi => {
                if !real {
                    // Lost with its lane, it is open all the same, and spoilt: what a child has sent behind
                    // it must not be run one by one.
                    return self.deliver(key, b"+OK\r\n");
                }
                if let (Some(b'-'), Some(child)) = (frame.first(), self.children.get_mut(key)) {
                    child.session.transaction = Transaction::None;
                }
                self.deliver(key, frame);
            }
            SlotKind::Subscribe => {
                if let Some(child) = self.children.get_mut(key) {
                    // Empty when it was confirmed; else an error.
                    if !child.session.is_muted() {
                        child.output.append(frame);
                    }
                    if let Some(subscriptions) = &mut child.subscriptions {
                        subscriptions.settled();
                    }
                }
            }
            SlotKind::SubscriberPing => {
                let pong = subscriber_pong(frame);
                self.deliver(key, pong.as_deref().unwrap_or(frame));
            }
            SlotKind::TrackingInfo => {
                let patched = self.tracking_info(key, frame);
                self.deliver(key, &patched);
            }
            SlotKind::Housekeeping => self.proto_switched(key, lane, frame, real),
            _ => self.deliver(key, frame),
        }
    }

    pub(super) fn deliver(&mut self, key: Key<Child>, frame: &[u8]) {
        if let Some(child) = self.children.get_mut(key) {
            child.output.adopt(&mut self.spares);
            child.replies.deliver(frame, &mut child.output);
        }
    }

    fn remember_error(&mut self, key: Key<Child>, frame: &[u8]) {
        let Some(child) = self.children.get_mut(key) else { return };
        let sent = child.execs.front_mut();
        // Of a MULTI that went on a leased lane before its EXEC has come.
        let open = child.session.transaction.queued_mut().map(|queued| &mut queued.after);
        if let (Some(b'-'), Some(after)) = (frame.first(), sent.or(open))
            && after.first_error.is_none()
        {
            after.first_error = reply::text(frame).map(<[u8]>::to_vec);
        }
    }

    /// EXEC: says why it aborted where Redis said so earlier, fills in what the broker answers itself, and
    /// carries out what the transaction changed about the session.
    fn settle_exec(&mut self, slot: Slot, frame: &[u8], real: bool) {
        let key = slot.child;
        let Some(child) = self.children.get_mut(key) else { return };
        let after = child.execs.pop_front().unwrap_or_default();
        child.weigh(slot.command, frame.len());
        if !real {
            return self.deliver(key, frame);
        }
        if let (true, Some(error)) = (frame.starts_with(b"-EXECABORT"), &after.first_error) {
            let mut aborted = Vec::new();
            encode::error(&mut aborted, texts::exec_aborted(&String::from_utf8_lossy(error)));
            return self.deliver(key, &aborted);
        }
        let executed = frame.first() == Some(&b'*') && !reply::is_null(frame);
        if !executed || (after.local.is_empty() && after.selects.is_empty()) {
            return self.deliver(key, frame);
        }
        match self.patch_exec(key, frame, &after) {
            Some(patched) => self.deliver(key, &patched),
            None => self.close_full(key),
        }
    }

    /// None if what the broker has to say in it is more than a child may have unread.
    fn patch_exec(&mut self, key: Key<Child>, frame: &[u8], after: &AfterExec) -> Option<Vec<u8>> {
        // Both lists are in the order of the elements, so each is met in one pass over the reply.
        let (mut selects, mut selected) = (after.selects.iter().peekable(), None);
        for (index, range) in reply::elements(frame).enumerate().take_while(|_| !after.selects.is_empty()) {
            if let Some((_, db)) = selects.next_if(|(select, _)| *select as usize == index)
                && &frame[range] == b"+OK\r\n"
            {
                selected = Some(*db);
            }
        }
        if let (Some(db), Some(child)) = (selected, self.children.get_mut(key)) {
            child.session.db = db;
        }
        let (mut patched, mut copied) = (Vec::with_capacity(frame.len()), 0);
        let (mut locals, mut said) = (after.local.iter().peekable(), 0);
        for (index, range) in reply::elements(frame).enumerate() {
            let Some((_, local, argv)) = locals.next_if(|(element, ..)| *element as usize == index) else {
                continue;
            };
            let reply = self.late_reply(key, *local, argv);
            said += reply.len();
            if said > self.settings.child_output_max {
                return None;
            }
            patched.extend_from_slice(&frame[copied..range.start]);
            patched.extend_from_slice(&reply);
            copied = range.end;
        }
        patched.extend_from_slice(&frame[copied..]);
        Some(patched)
    }

    /// A blocking command is done, or was taken back: then its child stands in line again, in its old
    /// place, and is told nothing.
    fn settle_blocking(&mut self, key: Key<Child>, lane: Key<Lane>, frame: &[u8], real: bool) {
        let taken = self.lanes.get(lane).and_then(|lane| lane.lease.as_ref()).is_some_and(|l| l.taking_back);
        let expired = |child: &Child| {
            child.wait.and_then(|wait| wait.expires).is_some_and(|expires| expires <= self.now)
        };
        if real
            && taken
            && reply::is_null(frame)
            && let Some(child) = self.children.get(key)
            && !expired(child)
        {
            self.end_lease(key);
            if let Some(child) = self.children.get_mut(key) {
                child.replies.retract_one();
                self.lift(key);
            }
            return;
        }
        self.deliver(key, frame);
        if real {
            self.end_lease(key);
        }
    }

    /// What a reply makes possible: the next request, the end of a lease.
    fn after_reply(&mut self, key: Key<Child>) {
        let in_flight_resume = (self.settings.child_in_flight_max * 3 / 4) as u32;
        let Some(child) = self.children.get_mut(key) else { return };
        if child.lease.is_some() {
            self.end_lease_if_done(key);
        }
        let Some(child) = self.children.get_mut(key) else { return };
        match child.hold {
            Hold::InFlight if child.in_flight <= in_flight_resume => self.lift(key),
            // What is only overdue may be no hindrance, and has a timer if it is.
            Hold::Drained if child.in_flight == 0 => self.lift(key),
            Hold::Blocked | Hold::Element if child.in_flight == 0 => {
                child.front_done = true;
                self.lift(key);
            }
            _ => {}
        }
    }

    /// The driver has written what it could of a lane's bytes.
    pub fn lane_flushed(&mut self, key: Key<Lane>) {
        self.account_lane(key);
        self.finish_yield(key);
    }

    /// The driver's handle of a lane's present connection.
    pub fn lane_link(&self, key: Key<Lane>) -> Option<usize> {
        self.lanes.get(key).map(|lane| lane.link).filter(|link| *link != usize::MAX)
    }

    /// The driver's handle of a lane and what it may write now.
    pub fn lane_outgoing(&self, key: Key<Lane>) -> Option<(usize, &[u8])> {
        self.lanes.get(key).filter(|lane| lane.link != usize::MAX).map(|lane| (lane.link, lane.outgoing()))
    }

    /// `count` bytes of it were taken by the socket.
    pub fn lane_wrote(&mut self, key: Key<Lane>, count: usize) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.wrote(count);
        }
    }
}

/// The reply to PING in the form that Redis has for a RESP2 connection with subscriptions; none for an error.
fn subscriber_pong(frame: &[u8]) -> Option<Vec<u8>> {
    let message = match frame.first()? {
        b'+' => b"$0\r\n\r\n",
        b'$' => frame,
        _ => return None,
    };
    Some([b"*2\r\n$4\r\npong\r\n", message].concat())
}

/// Whether every reply that has come on the lane has been given to its child.
fn lane_is_proven(lane: Option<&Lane>) -> bool {
    lane.is_none_or(|lane| lane.withheld().is_empty())
}
