//! Replies from upstream: each complete frame takes the front slot of its lane, and nothing else decides whose it is. Owns what
//! a reply does to its child. A frame without a slot closes the lane; nothing is ever resynchronised.

use crate::base::failure::Failure;
use crate::base::limits;
use crate::base::outgoing::Fragment;
use crate::command::texts;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::closing::CloseReason;
use crate::core::child::hold::Hold;
use crate::core::child::outbox::Frame;
use crate::core::connection::lane::{Answered, Lane, LaneState};
use crate::core::connection::role::LaneRole;
use crate::core::connection::slot::{Slot, SlotFlags, SlotKind};
use crate::core::keys::LaneKey;
use crate::core::questions::control::Needed;
use crate::core::shared::Shared;
use crate::resp::{encode, reply};

impl Broker {
    /// Bytes have arrived from the upstream. Of very many replies in them some are left for the next steps (`run`).
    pub fn lane_input(&mut self, key: LaneKey, bytes: &[u8]) {
        let subscriber =
            self.shared.connections.find(key).is_some_and(|lane| lane.role() == LaneRole::Subscriber);
        self.take_replies(key, bytes, if subscriber { limits::PUSHES_STEP } else { limits::REPLIES_STEP });
    }

    /// Takes replies that were left, and those in `bytes`, so many of them.
    pub(crate) fn take_replies(&mut self, key: LaneKey, bytes: &[u8], mut left: usize) {
        let now = self.shared.env.now;
        // The driver may not have heard yet that the connection was given up.
        let Some(mut frames) = self.shared.connections.begin_input(key, bytes, now) else { return };
        self.shared.work.heard(now);
        let Some(lane) = self.shared.connections.input_of(key) else { return };
        let hears = lane.role() == LaneRole::Subscriber;
        let mut goes_on = !lane.is_in_large() || self.take_part(key, &mut frames);
        while goes_on
            && left > 0
            && !frames.rest().is_empty()
            && let Some(lane) = self.shared.connections.input_of(key)
            && !(hears && self.shared.hubs.is_delivering_of(key))
        {
            #[cfg(feature = "sabotage")]
            if self.sabotaged && self.shared.env.rng.u8(..) == 0 {
                lane.swap_front(|child| self.children.get(child).is_some());
            }
            match frames.next_reply() {
                Some(Ok((frame, kind))) if lane.is_reply(kind) => {
                    let answered = lane.take_answered(now);
                    if frame.len() < limits::BULK_MIN {
                        self.take_reply(key, answered, frame);
                    } else {
                        let len = frame.len();
                        let fragment = frames.last_as_fragment(len, &self.shared.env.fragments);
                        self.take_long_reply(key, answered, &fragment);
                    }
                }
                Some(Ok((frame, kind))) if frame.len() < limits::FRAGMENT_MIN => {
                    self.take_frame(key, Frame::of(frame), kind);
                }
                Some(Ok((frame, kind))) => {
                    let len = frame.len();
                    let fragment = frames.last_as_fragment(len, &self.shared.env.fragments);
                    self.shared.env.reply = Some(fragment.clone());
                    self.take_frame(key, Frame::shared(&fragment), kind);
                    self.shared.env.reply = None;
                }
                Some(Err(why)) => self.shared.desync(key, why),
                None => {
                    goes_on = frames.announced() >= limits::BULK_MIN && self.begin_large(key, &mut frames);
                }
            }
            self.deliver_notices();
            left -= 1;
        }
        if left == 0 && goes_on && !frames.rest().is_empty() {
            self.shared.connections.note_unread(key);
        }
        self.shared.connections.end_input(&mut self.shared.env, key, frames);
        self.deliver_notices();
    }

    fn take_frame(&mut self, key: LaneKey, whole: Frame<'_>, kind: u8) {
        let frame = whole.bytes();
        let Some(lane) = self.shared.connections.known(key) else { return };
        if matches!(lane.state(), LaneState::Handshaking { .. }) {
            return self.shared.greeted(key, frame);
        }
        // What is no push, and not about topics, is the reply to a child's request.
        let is_replied = kind != b'>' && lane.front().is_some_and(|slot| slot.kind != SlotKind::Topic);
        if lane.role() == LaneRole::Subscriber && !is_replied {
            if let Err(why) = self.hub_said(key, whole, kind) {
                self.shared.desync(key, why);
            }
            return;
        }
        if lane.is_shared() {
            // Something Redis tells every RESP3 connection.
            if self.shared.connections.key_of(lane).proto != 3 {
                self.shared.desync(key, "a push on a RESP2 lane");
            }
            return;
        }
        let now = self.shared.env.now;
        if self.is_push(key, kind, frame) {
            if !self.shared.connections.withhold_push(key, frame, now) && !self.push_arrived(key, whole) {
                self.shared.desync(key, "a push on a lane that cannot have one");
            }
            return;
        }
        let answered = self.shared.connections.known_mut(key).and_then(|lane| lane.take_answered(now));
        self.take_reply(key, answered, frame);
    }

    /// One that had to be kept until it was whole.
    #[inline(never)]
    fn take_long_reply(&mut self, key: LaneKey, answered: Option<Answered>, reply: &Fragment) {
        self.shared.env.reply = Some(reply.clone());
        self.take_reply(key, answered, reply);
        self.shared.env.reply = None;
    }

    /// A reply was long, or late: the next to this command will be, too. Its child may have gone meanwhile.
    #[inline(never)]
    pub(super) fn note_heavy(&mut self, lane: LaneKey, slot: &Slot, len: usize) {
        let is_certain = len >= limits::BULK_MIN || self.shared.connections.is_alone_at_work(lane);
        if self.children.is_new(slot.child) {
            self.shared.connections.note_heavy(lane, slot.command, is_certain, self.shared.env.now);
        }
        match self.children.get_mut(slot.child) {
            Some(child) if is_certain => child.sent_mut().expect_heavy(slot.command),
            Some(child) => child.sent_mut().blame(slot.command),
            None => {}
        }
    }

    fn take_reply(&mut self, key: LaneKey, answered: Option<Answered>, frame: &[u8]) {
        let Some(answered) = answered else { return self.stray_reply(key, frame) };
        self.shared.note_latency(&self.children, key, &answered);
        let Answered { slot, front_since, role, is_proven, is_yielding, .. } = answered;
        let is_refusal = reply::is_error(frame);
        let is_of_replica = is_refusal && self.shared.note_refusal_of_read(key, frame);
        if is_refusal && !is_of_replica {
            self.shared.note_refusal_of_write(key, role, frame);
        }
        let ran_long = !is_of_replica && self.shared.note_work(key, role, &slot, front_since, frame);
        if ran_long || frame.len() >= limits::BULK_MIN {
            self.note_heavy(key, &slot, frame.len());
        }
        match slot.kind {
            SlotKind::Question => self.shared.question_answered(Some(frame)),
            SlotKind::Proof => self.shared.proof_answered(Some(frame)),
            SlotKind::Canary => self.canary_answered(key, &slot, frame),
            SlotKind::Stir => {}
            SlotKind::Arming => {
                if self.shared.is_in_step(key, frame) {
                    self.release(key);
                    self.shared.go_on_armed(key, frame);
                }
            }
            _ if slot.flags.has(SlotFlags::GUARDED) && slot.is_plausible(frame) => {
                self.withhold_reply(key, slot, frame);
            }
            _ if !is_proven && slot.is_plausible(frame) => {
                // It must not overtake what a busy upstream has left without proof, and no canary can follow it.
                self.withhold_reply(key, slot, frame);
                self.shared.lane_lost(key, "integrity: a busy upstream has left replies unproven");
            }
            _ if !slot.is_plausible(frame) => {
                // The slot is off the lane already: it is told with the others.
                self.shared.withhold(key, slot, frame);
                self.shared.desync(key, "a reply that its command cannot have");
            }
            _ => self.settle(key, slot, frame, None),
        }
        if role == LaneRole::Control && slot.kind == SlotKind::Relay {
            self.shared.kill_answered(frame);
        }
        self.reply_taken(key, role, is_yielding);
    }

    /// What follows every reply for its lane.
    #[inline]
    pub(crate) fn reply_taken(&mut self, key: LaneKey, role: LaneRole, is_yielding: bool) {
        if is_yielding {
            self.shared.connections.finish_yield(&mut self.shared.env, key);
        }
        match role {
            LaneRole::Subscriber => self.shared.move_topics_if_answered(key),
            LaneRole::Control => self.shared.leave_if_answered(),
            LaneRole::Lease => self.shared.leave_lease_if_answered(key),
            LaneRole::Shared | LaneRole::Probe => {}
        }
    }

    /// A reply in whose place no whole request has left. The one that is leaving may be what the server will not read to
    /// its end: it says so, closes the connection and has run nothing behind it.
    fn stray_reply(&mut self, key: LaneKey, frame: &[u8]) {
        let refused = frame.starts_with(b"-ERR Protocol error");
        let lane = self.shared.connections.known_mut(key).filter(|_| refused);
        let Some(slot) = lane.and_then(Lane::take_half_written) else {
            return self.shared.desync(key, "a reply nobody asked for");
        };
        let text = String::from_utf8_lossy(&frame[1..]).trim_end().to_owned();
        self.settle(key, slot, frame, None);
        if let Some(child) = self.children.get_mut(slot.child) {
            CloseReason::RequestRefused(&text).log(child);
            self.shared.finish(child);
        }
        self.shared.lane_lost(key, &text);
        self.shared.ask_fresh(Needed::Limits);
    }

    /// Completes one slot with its reply, or with the error of a failure.
    pub(crate) fn settle(&mut self, lane: LaneKey, slot: Slot, frame: &[u8], failure: Option<&Failure>) {
        if slot.kind == SlotKind::Wait {
            self.shared.connections.wake_lane_waiters(&mut self.shared.env);
        }
        match self.children.get_mut(slot.child) {
            Some(child) => self.shared.settle(child, lane, slot, frame, failure),
            // One that has failed is lost with its lane, and its group has heard of that.
            None if slot.kind.is_of_group() && failure.is_some() => {}
            None if slot.kind == SlotKind::LookQueued && frame == b"+QUEUED\r\n" => {}
            None if slot.kind.is_of_group() => {
                for (waiter, part) in self.shared.group_answered(lane, slot.kind, frame) {
                    if let Some(child) = self.children.known_mut(waiter.child) {
                        self.shared.serve_from(child, lane, waiter.writes, frame, part);
                    }
                }
            }
            // What was told to be overdue has been counted then.
            None if slot.is_timed_out() => {}
            None => self.shared.env.counters.orphaned_replies += 1,
        }
    }
}

impl Shared {
    pub(crate) fn desync(&mut self, key: LaneKey, why: &str) {
        self.env.counters.desyncs += 1;
        log::error!("upstream {} is out of step: {why}; closing the lane", self.env.upstream);
        self.lane_lost(key, why);
    }

    /// Completes one slot of a child with its reply, or with the error of a failure.
    #[inline(always)]
    pub(crate) fn settle(
        &mut self,
        child: &mut Child,
        lane: LaneKey,
        slot: Slot,
        frame: &[u8],
        failure: Option<&Failure>,
    ) {
        let real = failure.is_none();
        if child.is_deaf() {
            return;
        }
        if slot.is_timed_out() {
            child.sent_mut().end_late();
            return self.after_reply(child);
        }
        if slot.flags.has(SlotFlags::WRITE) {
            self.note_write(child, lane, frame, failure);
        }
        child.sent_mut().end();
        if let Some(failure) = failure
            && self.ends_with(child, failure)
            && slot.is_owed_to_a_child()
        {
            return self.lose_child(child, Some(lane), failure);
        }
        if !real && child.outbox().has_begun() {
            // It has a part of the reply, and the rest will not come.
            CloseReason::ReplyCutShort.log(child);
            return self.close(child);
        }
        if child.outbox().output().len() >= self.env.settings.child_output_max {
            return self.close_full(child);
        }
        if slot.kind == SlotKind::Relay {
            if real {
                child.sent_mut().weigh(slot.command, frame.len());
            } else {
                self.weigh_lost(child, lane, &slot, failure);
            }
            self.deliver(child, frame);
        } else {
            if real {
                self.lease_replied(child, lane, slot.kind, frame);
            } else if slot.kind.ends_watch() {
                self.transaction_lost(child, lane);
            }
            if slot.kind == SlotKind::Exec {
                if self.settle_exec(child, slot, frame, real) {
                    return;
                }
            } else {
                self.settle_special(child, lane, slot, frame, real);
            }
        }
        self.finish_settling(child);
    }

    pub(crate) fn finish_settling(&mut self, child: &mut Child) {
        self.mark_child(child);
        self.after_reply(child);
    }

    /// Closes a child that has more replies to take than it may leave unread.
    pub(crate) fn close_full(&mut self, child: &mut Child) {
        CloseReason::OutputMax("child_output_max").log(child);
        self.close(child);
    }

    /// A command that was suspected of having cost a lane has cost the one that it had to itself.
    fn weigh_lost(&self, child: &mut Child, lane: LaneKey, slot: &Slot, failure: Option<&Failure>) {
        let shared = self.connections.find(lane).is_some_and(Lane::is_shared);
        if matches!(failure, Some(Failure::Lost(_))) && !shared && child.sent().goes_apart(slot.command) {
            child.sent_mut().convict(slot.command);
        }
    }

    fn settle_special(&mut self, child: &mut Child, lane: LaneKey, slot: Slot, frame: &[u8], real: bool) {
        match slot.kind {
            SlotKind::Swallow => child.session_mut().transaction.note_reply(frame),
            SlotKind::Count => self.settle_count(child, frame, real),
            SlotKind::Blocking => {
                self.deliver(child, frame);
                if real {
                    self.end_lease(child);
                }
            }
            SlotKind::AbortedExec if real => {
                let mut aborted = Vec::new();
                encode::error(&mut aborted, texts::EXECABORT_PREVIOUS);
                self.deliver(child, &aborted);
            }
            SlotKind::Discard => {
                let refused = real && reply::error_code(frame).is_some_and(|code| code != b"ERR");
                let transaction = &mut child.session_mut().transaction;
                if refused && transaction.is_open() {
                    // Its lane goes, but for the child MULTI is as open as before, and spoilt.
                    transaction.begin_spoilt(None);
                } else {
                    transaction.end();
                }
                self.deliver(child, frame);
            }
            // Lost with its lane, it is open all the same, and spoilt: what a child has sent behind it must not be run one
            // by one.
            SlotKind::Multi if !real => self.deliver(child, b"+OK\r\n"),
            SlotKind::Multi => {
                let transaction = &mut child.session_mut().transaction;
                if reply::is_error(frame) {
                    transaction.multi_refused()
                } else {
                    transaction.multi_accepted()
                }
                self.deliver(child, frame);
            }
            SlotKind::Subscribe => {
                // Empty when it was confirmed; else an error.
                if !child.session().is_muted() {
                    child.outbox_mut().answer(Frame::of(frame), &mut self.env.spares);
                }
                if let Some(subscriptions) = child.subscriptions_mut() {
                    subscriptions.change_is_over();
                }
            }
            SlotKind::SubscriberPing => match frame.first() {
                // The form that Redis has for a RESP2 connection with subscriptions.
                Some(b'+') => self.deliver(child, b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"),
                Some(b'$') => self.deliver(child, &[b"*2\r\n$4\r\npong\r\n", frame].concat()),
                _ => self.deliver(child, frame),
            },
            SlotKind::TrackingInfo => {
                let patched = self.tracking_info(child, frame);
                self.deliver(child, &patched);
            }
            SlotKind::Housekeeping => self.proto_switched(child, lane, frame, real),
            _ => self.deliver(child, frame),
        }
    }

    #[inline]
    pub(crate) fn deliver(&mut self, child: &mut Child, frame: &[u8]) {
        if frame.len() < limits::FRAGMENT_MIN {
            return child.outbox_mut().deliver(frame, &mut self.env.spares);
        }
        self.deliver_long(child, frame);
    }

    #[inline(never)]
    fn deliver_long(&mut self, child: &mut Child, frame: &[u8]) {
        match self.env.reply.as_ref().and_then(|reply| reply.part_at(frame)) {
            Some(fragment) => child.outbox_mut().deliver_shared(&fragment, &mut self.env.spares),
            None => child.outbox_mut().deliver(frame, &mut self.env.spares),
        }
    }

    /// EXEC: says why it aborted where Redis said so earlier, and carries out what the transaction changed about the
    /// session. True if the reply is given as it is filled in.
    fn settle_exec(&mut self, child: &mut Child, slot: Slot, frame: &[u8], real: bool) -> bool {
        let after = child.session_mut().transaction.exec_answered();
        child.sent_mut().weigh(slot.command, frame.len());
        let has_aborted = real && reply::error_code(frame) == Some(b"EXECABORT");
        if let Some(error) = after.first_error().filter(|_| has_aborted) {
            let mut aborted = Vec::new();
            encode::error(&mut aborted, texts::exec_aborted(&String::from_utf8_lossy(error)));
            self.deliver(child, &aborted);
            return false;
        }
        let executed = real && frame.first() == Some(&b'*') && !reply::is_null(frame);
        if executed && let Some(db) = after.selected_db(frame) {
            child.session_mut().db = db;
        }
        let corrected = if executed { self.hubs.corrected_exec(after.counts(), frame) } else { None };
        let frame = corrected.as_deref().unwrap_or(frame);
        let is_filled = executed && after.has_local();
        if is_filled {
            self.begin_filling(child, frame, after);
        } else {
            self.deliver(child, frame);
        }
        is_filled
    }

    /// What a reply makes possible: the next request, the end of a lease.
    #[inline]
    pub(crate) fn after_reply(&mut self, child: &mut Child) {
        if child.lease().is_some() {
            self.end_lease_if_done(child);
        }
        match child.hold() {
            Hold::InFlightMax if child.sent().in_flight() <= self.in_flight_max(child) / 2 => {
                self.lift(child);
            }
            // What is only overdue may be no hindrance, and has a timer if it is.
            Hold::OwnReplies if child.sent().in_flight() == 0 => self.lift(child),
            Hold::Reply | Hold::BlockingReply if child.sent().in_flight() == 0 => {
                child.front_mut().set_answered();
                self.lift(child);
            }
            _ => {}
        }
    }
}
