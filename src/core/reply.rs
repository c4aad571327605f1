//! Replies from upstream: each complete frame takes the front slot of its lane and nothing else decides
//! whose it is. A frame nobody asked for closes the lane; nothing is ever resynchronised.

use crate::base::limits;
use crate::command::Local;
use crate::command::texts;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::ChildState;
use crate::core::child::hold::Hold;
use crate::core::connection::handshake::GreetingStep;
use crate::core::connection::lane::FLAG_GUARDED;
use crate::core::connection::lane::FLAG_TIMED_OUT;
use crate::core::connection::lane::FLAG_WRITE;
use crate::core::connection::lane::Lane;
use crate::core::connection::lane::LaneRole;
use crate::core::connection::lane::LaneState;
use crate::core::connection::lane::Slot;
use crate::core::connection::lane::SlotKind;
use crate::core::keys::ChildKey;
use crate::core::keys::LaneKey;
use crate::core::shared::Shared;
use crate::core::transaction::queue::AfterExec;
use crate::core::transaction::queue::Queued;
use crate::core::transaction::queue::Transaction;
use crate::resp::ReplyScan;
use crate::resp::encode;
use crate::resp::reply;

impl Broker {
    /// Bytes have arrived from the upstream.
    pub fn lane_input(&mut self, key: LaneKey, bytes: &[u8]) {
        let Some(lane) = self.shared.connections.lanes.get_mut(key) else { return };
        if !matches!(lane.state, LaneState::Handshaking | LaneState::Ready | LaneState::Yielding) {
            // Of a connection given up a moment ago, which the driver has not heard of yet.
            return;
        }
        lane.last_reply = self.shared.env.now;
        self.shared.control.heard_at = self.shared.env.now;
        let connection = lane.incarnation();
        if lane.input.is_empty() {
            let (used, at_least) = self.take_frames(key, bytes);
            if let Some(lane) = self.shared.connections.lanes.get_mut(key)
                && lane.incarnation() == connection
                && used < bytes.len()
            {
                let rest = &bytes[used..];
                lane.input.reserve(at_least.clamp(rest.len(), rest.len() + limits::READ_TURN));
                lane.input.append(rest);
            }
        } else {
            lane.input.append(bytes);
            let mut input = std::mem::take(&mut lane.input);
            let (used, _) = self.take_frames(key, input.as_slice());
            if let Some(lane) = self.shared.connections.lanes.get_mut(key)
                && lane.incarnation() == connection
            {
                input.consume(used);
                lane.input = input;
            }
        }
        self.shared.account_lane(key);
        self.deliver_notices();
    }

    /// Takes every complete frame off `bytes`. Returns how many bytes that were, and how many the next one needs at
    /// least.
    fn take_frames(&mut self, key: LaneKey, bytes: &[u8]) -> (usize, usize) {
        let Some(lane) = self.shared.connections.lanes.get_mut(key) else { return (0, 0) };
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
                    self.deliver_notices();
                    used += len;
                }
                ReplyScan::Desync(why) => {
                    self.shared.desync(key, why);
                    self.deliver_notices();
                }
            }
            let lane = self.shared.connections.lanes.get(key);
            if !lane.is_some_and(|lane| lane.incarnation() == connection) {
                return (used, 0);
            }
        }
        if let Some(lane) = self.shared.connections.lanes.get_mut(key) {
            lane.scanner = scanner;
        }
        (used, needed)
    }

    fn take_frame(&mut self, key: LaneKey, frame: &[u8], kind: u8) {
        let Some(lane) = self.shared.connections.lanes.get_mut(key) else { return };
        if lane.state == LaneState::Handshaking {
            return self.shared.greeted(key, frame);
        }
        if lane.role == LaneRole::Subscriber {
            if let Err(why) = self.hub_said(key, frame, kind) {
                self.shared.desync(key, why);
            }
            return;
        }
        if lane.role != LaneRole::Shared && self.is_push(key, kind, frame) {
            if !self.shared.withhold_push(key, frame) && !self.push_arrived(key, frame) {
                self.shared.desync(key, "a push on a lane that cannot have one");
            }
            return;
        }
        let Some(lane) = self.shared.connections.lanes.get_mut(key) else { return };
        if kind == b'>' {
            if self.shared.connections.pools[lane.pool.0 as usize].key.proto != 3 {
                self.shared.desync(key, "a push on a RESP2 lane");
            }
            return;
        }
        #[cfg(feature = "sabotage")]
        if self.sabotaged && self.shared.env.rng.u8(..) == 0 {
            lane.swap_front(|child| self.children.get(child).is_some());
        }
        let Some(slot) = lane.pop() else { return self.stray_reply(key, frame) };
        lane.replied = true;
        let front_since = std::mem::replace(&mut lane.front_since, self.shared.env.now);
        let (role, yielding) = (lane.role, lane.state == LaneState::Yielding);
        let proven = lane.withheld().is_empty();
        let ran_long = self.shared.note_work(role, &slot, front_since, frame);
        if ran_long && let Some(child) = self.children.get_mut(slot.child) {
            child.expect_long(slot.command);
        }
        match slot.kind {
            SlotKind::Question => self.shared.question_answered(Some(frame)),
            SlotKind::Proof => self.shared.proof_answered(Some(frame)),
            SlotKind::Canary => self.canary_answered(key, &slot, frame),
            _ if slot.flags & FLAG_GUARDED != 0 => self.shared.withhold(key, slot, frame),
            _ if !proven => {
                // It must not overtake what a busy upstream has left without proof, and no canary can follow it.
                self.shared.withhold(key, slot, frame);
                self.shared.lane_lost(key, "integrity: a busy upstream has left replies unproven");
            }
            _ if !Shared::is_plausible(&slot, frame) => {
                // The slot is off the lane already: it is told with the others.
                self.shared.withhold(key, slot, frame);
                self.shared.desync(key, "a reply that its command cannot have");
            }
            _ => self.settle(key, slot, frame, true),
        }
        if yielding {
            self.shared.finish_yield(key);
        }
        if role == LaneRole::Control {
            self.shared.leave_if_answered();
        }
    }

    /// A reply in whose place no whole request has left. The one that is leaving may be what the server will not read to
    /// its end: it says so, closes the connection and has run nothing behind it.
    fn stray_reply(&mut self, key: LaneKey, frame: &[u8]) {
        let refused = frame.starts_with(b"-ERR Protocol error");
        let lane = self.shared.connections.lanes.get_mut(key).filter(|_| refused);
        let Some(slot) = lane.and_then(Lane::take_half_written) else {
            return self.shared.desync(key, "a reply nobody asked for");
        };
        let text = String::from_utf8_lossy(&frame[1..]).trim_end().to_owned();
        self.settle(key, slot, frame, true);
        if let Some(child) = self.children.get_mut(slot.child) {
            let label = child.label();
            log::warn!("the upstream refuses a request of child {label}, which is closed: {text}");
            self.shared.finish(child);
        }
        self.shared.lane_lost(key, &text);
        self.shared.ask_upstream_limits();
    }

    /// Completes one slot with its reply, or with the error that stands for it (`real` is false).
    pub(in crate::core) fn settle(&mut self, lane: LaneKey, slot: Slot, frame: &[u8], real: bool) {
        match self.children.get_mut(slot.child) {
            Some(child) => {
                if let Some(after) = self.shared.settle(child, lane, slot, frame, real) {
                    self.fill_in_exec(slot.child, frame, &after);
                }
            }
            // What was told to be overdue has been counted then.
            None if slot.flags & FLAG_TIMED_OUT != 0 => {}
            None => self.shared.env.counters.orphaned_replies += 1,
        }
    }

    /// Fills into the reply to an EXEC what the broker answers itself, in the order of the commands.
    fn fill_in_exec(&mut self, key: ChildKey, frame: &[u8], after: &AfterExec) {
        let (mut patched, mut copied, mut said) = (Vec::with_capacity(frame.len()), 0, 0);
        // The list is in the order of the elements, so each is met in one pass over the reply.
        let mut locals = after.local.iter().peekable();
        for (index, range) in reply::elements(frame).enumerate() {
            let Some((_, local, argv)) = locals.next_if(|(element, ..)| *element as usize == index) else {
                continue;
            };
            let argv: Vec<&[u8]> = argv.iter().map(Vec::as_slice).collect();
            let reply = match self.children.get_mut(key) {
                Some(_) if *local == Local::ClientList => self.roster(key, &argv),
                Some(child) => self.shared.local_reply(child, *local, &argv),
                None => return,
            };
            said += reply.len();
            if said > self.shared.env.settings.child_output_max {
                break;
            }
            patched.extend_from_slice(&frame[copied..range.start]);
            patched.extend_from_slice(&reply);
            copied = range.end;
        }
        patched.extend_from_slice(&frame[copied..]);
        let Some(child) = self.children.get_mut(key) else { return };
        if said > self.shared.env.settings.child_output_max {
            return self.shared.close_full(child);
        }
        self.shared.deliver(child, &patched);
        self.shared.finish_settling(child);
    }

    /// The driver has written what it could of a lane's bytes.
    pub fn lane_flushed(&mut self, key: LaneKey) {
        self.shared.account_lane(key);
        self.shared.finish_yield(key);
        self.deliver_notices();
    }

    /// The driver's handle of a lane's present connection.
    pub fn lane_link(&self, key: LaneKey) -> Option<usize> {
        self.shared.connections.lanes.get(key).map(|lane| lane.link).filter(|link| *link != usize::MAX)
    }

    /// The driver's handle of a lane and what it may write now.
    pub fn lane_outgoing(&self, key: LaneKey) -> Option<(usize, &[u8])> {
        let lane = self.shared.connections.lanes.get(key).filter(|lane| lane.link != usize::MAX)?;
        Some((lane.link, lane.outgoing()))
    }

    /// `count` bytes of it were taken by the socket.
    pub fn lane_wrote(&mut self, key: LaneKey, count: usize) {
        if let Some(lane) = self.shared.connections.lanes.get_mut(key) {
            lane.wrote(count);
        }
    }
}

impl Shared {
    /// A reply to the broker's greeting.
    fn greeted(&mut self, key: LaneKey, frame: &[u8]) {
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        let Some(handshake) = &mut lane.handshake else { return };
        let is_choice = handshake.is_choosing();
        match handshake.reply(frame) {
            GreetingStep::More => {}
            GreetingStep::Refused(why) => {
                if !self.greeting_refused(key, is_choice, frame) {
                    self.lane_failed(key, &why);
                }
            }
            GreetingStep::Ready(greeting) => {
                lane.handshake = None;
                lane.upstream_id = greeting.id;
                lane.connected_at = self.env.now;
                lane.last_reply = self.env.now;
                lane.last_used = self.env.now;
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

    pub(in crate::core) fn desync(&mut self, key: LaneKey, why: &str) {
        self.env.counters.desyncs += 1;
        log::error!("upstream {} is out of step: {why}; closing the lane", self.env.upstream);
        self.lane_lost(key, why);
    }

    /// Completes one slot of a child with its reply, or with the error that stands for it. Returns what an EXEC still
    /// has to be filled in with.
    pub(in crate::core) fn settle(
        &mut self,
        child: &mut Child,
        lane: LaneKey,
        slot: Slot,
        frame: &[u8],
        real: bool,
    ) -> Option<AfterExec> {
        if slot.flags & FLAG_TIMED_OUT != 0 {
            child.late -= 1;
            self.after_reply(child);
            return None;
        }
        if slot.flags & FLAG_WRITE != 0 {
            self.note_write(child, lane, frame);
        }
        child.in_flight -= 1;
        if child.state == ChildState::Closed {
            return None;
        }
        if child.output.len() >= self.env.settings.child_output_max {
            self.close_full(child);
            return None;
        }
        child.output.adopt(&mut self.env.spares);
        if slot.kind == SlotKind::Relay {
            child.weigh(slot.command, frame.len());
            child.replies.deliver(frame, &mut child.output);
        } else {
            if real {
                self.lease_replied(child, lane, slot.kind, frame);
            } else if slot.kind.ends_watch() {
                self.transaction_lost(child, lane);
            }
            if slot.kind == SlotKind::Exec {
                if let Some(after) = self.settle_exec(child, slot, frame, real) {
                    return Some(after);
                }
            } else {
                self.settle_special(child, lane, slot, frame, real);
            }
        }
        self.finish_settling(child);
        None
    }

    fn finish_settling(&mut self, child: &mut Child) {
        self.mark_child(child);
        self.after_reply(child);
    }

    /// Closes a child that has more replies to take than it may leave unread.
    fn close_full(&mut self, child: &mut Child) {
        let (label, held) = (child.label(), child.output.len());
        log::warn!("child_output_max reached: closing child {label}, {held} bytes unread");
        self.close(child);
    }

    /// Every kind of reply but the plain one and EXEC's.
    fn settle_special(&mut self, child: &mut Child, lane: LaneKey, slot: Slot, frame: &[u8], real: bool) {
        match slot.kind {
            SlotKind::Swallow => remember_error(child, frame),
            SlotKind::Wait => {
                self.deliver(child, frame);
                self.wait_answered(lane);
            }
            SlotKind::Look => self.looked(child, frame, real),
            SlotKind::Blocking => self.settle_blocking(child, lane, frame, real),
            SlotKind::AbortedExec if real => {
                let mut aborted = Vec::new();
                encode::error(&mut aborted, texts::EXECABORT_PREVIOUS);
                self.deliver(child, &aborted);
            }
            SlotKind::Discard => {
                if real && frame.first() == Some(&b'-') && !frame.starts_with(b"-ERR ") {
                    // Its lane goes, but for the child MULTI is as open as before, and spoilt.
                    let spoilt = Queued { dirty: true, ..Queued::default() };
                    child.session.transaction = Transaction::Queued(Box::new(spoilt));
                }
                self.deliver(child, frame);
            }
            SlotKind::Multi => {
                if !real {
                    // Lost with its lane, it is open all the same, and spoilt: what a child has sent behind
                    // it must not be run one by one.
                    return self.deliver(child, b"+OK\r\n");
                }
                if frame.first() == Some(&b'-') {
                    child.session.transaction = Transaction::None;
                }
                self.deliver(child, frame);
            }
            SlotKind::Subscribe => {
                // Empty when it was confirmed; else an error.
                if !child.session.is_muted() {
                    child.output.append(frame);
                }
                if let Some(subscriptions) = &mut child.subscriptions {
                    subscriptions.settled();
                }
            }
            SlotKind::SubscriberPing => {
                let pong = subscriber_pong(frame);
                self.deliver(child, pong.as_deref().unwrap_or(frame));
            }
            SlotKind::TrackingInfo => {
                let patched = self.tracking_info(child, frame);
                self.deliver(child, &patched);
            }
            SlotKind::Housekeeping => self.proto_switched(child, lane, frame, real),
            _ => self.deliver(child, frame),
        }
    }

    pub(in crate::core) fn deliver(&mut self, child: &mut Child, frame: &[u8]) {
        child.output.adopt(&mut self.env.spares);
        child.replies.deliver(frame, &mut child.output);
    }

    /// EXEC: says why it aborted where Redis said so earlier, and carries out what the transaction changed about the
    /// session. Returns what the broker still has to fill in.
    fn settle_exec(&mut self, child: &mut Child, slot: Slot, frame: &[u8], real: bool) -> Option<AfterExec> {
        let after = child.execs.pop_front().unwrap_or_default();
        child.weigh(slot.command, frame.len());
        if let (true, true, Some(error)) = (real, frame.starts_with(b"-EXECABORT"), &after.first_error) {
            let mut aborted = Vec::new();
            encode::error(&mut aborted, texts::exec_aborted(&String::from_utf8_lossy(error)));
            self.deliver(child, &aborted);
            return None;
        }
        let executed = real && frame.first() == Some(&b'*') && !reply::is_null(frame);
        if executed && let Some(db) = after.selected_db(frame) {
            child.session.db = db;
        }
        if executed && !after.local.is_empty() {
            return Some(after);
        }
        self.deliver(child, frame);
        None
    }

    /// A blocking command is done, or was taken back: then its child stands in line again, in its old
    /// place, and is told nothing.
    fn settle_blocking(&mut self, child: &mut Child, lane: LaneKey, frame: &[u8], real: bool) {
        let lease = self.connections.lanes.get(lane).and_then(|lane| lane.lease.as_ref());
        let taken = lease.is_some_and(|lease| lease.taking_back);
        let expires = child.wait.and_then(|wait| wait.expires);
        let expired = expires.is_some_and(|expires| expires <= self.env.now);
        if real && taken && reply::is_null(frame) && !expired {
            self.end_lease(child);
            child.replies.retract_one();
            return self.lift(child);
        }
        self.deliver(child, frame);
        if real {
            self.end_lease(child);
        }
    }

    /// What a reply makes possible: the next request, the end of a lease.
    pub(in crate::core) fn after_reply(&mut self, child: &mut Child) {
        let in_flight_resume = (self.env.settings.child_in_flight_max * 3 / 4) as u32;
        if child.lease.is_some() {
            self.end_lease_if_done(child);
        }
        match child.hold {
            Hold::InFlight if child.in_flight <= in_flight_resume => self.lift(child),
            // What is only overdue may be no hindrance, and has a timer if it is.
            Hold::Drained if child.in_flight == 0 => self.lift(child),
            Hold::Blocked | Hold::Element if child.in_flight == 0 => {
                child.front_done = true;
                self.lift(child);
            }
            _ => {}
        }
    }
}

pub(in crate::core) fn remember_error(child: &mut Child, frame: &[u8]) {
    let sent = child.execs.front_mut();
    // Of a MULTI that went on a leased lane before its EXEC has come.
    let open = child.session.transaction.queued_mut().map(|queued| &mut queued.after);
    if let (Some(b'-'), Some(after)) = (frame.first(), sent.or(open))
        && after.first_error.is_none()
    {
        after.first_error = reply::text(frame).map(<[u8]>::to_vec);
    }
}

/// The reply to PING in the form that Redis has for a RESP2 connection with subscriptions; none for an error.
pub(in crate::core) fn subscriber_pong(frame: &[u8]) -> Option<Vec<u8>> {
    let message = match frame.first()? {
        b'+' => b"$0\r\n\r\n",
        b'$' => frame,
        _ => return None,
    };
    Some([b"*2\r\n$4\r\npong\r\n", message].concat())
}
