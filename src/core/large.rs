//! Replies that are too long to be kept until they are whole. One that its child may have byte for byte is given to it as it
//! comes; one that is kept, because the broker has to read it, holds at most half of `memory_max`, which is set aside when
//! its length is announced; what cannot be kept is dropped, with an error in its place. Owns that choice; whose a reply is
//! is `core::reply`'s.

use crate::base::failure::{Failure, Lost};
use crate::base::limits;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::outbox::Frame;
use crate::core::connection::lane::{Answered, Large, Passing};
use crate::core::connection::role::LaneRole;
use crate::core::connection::slot::{Slot, SlotFlags, SlotKind};
use crate::core::keys::LaneKey;
use crate::core::shared::Shared;
use crate::resp::{Frames, ReplyScanner, encode};

/// What becomes of a reply of which only a part has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It waits in the lane for the rest.
    Keep,
    Pass(Passing),
    /// It cannot be kept, and nothing can stand in its place: its lane is closed.
    Give,
}

impl Shared {
    /// Bytes that one frame may hold while it is incomplete.
    pub(crate) fn frame_max(&self) -> usize {
        self.env.settings.memory_max / 2 + limits::REQUEST_WORDS
    }

    /// A part of a reply has come for this child.
    fn give_part(&mut self, child: &mut Child, part: &[u8]) {
        if !child.is_deaf() {
            if part.len() < limits::FRAGMENT_MIN {
                child.outbox_mut().deliver_part(Frame::of(part), &mut self.env.spares);
            } else {
                // It comes free as it is read, and not with the last of the reply.
                let fragment = self.env.fragments.fragment(part.to_vec(), 0..part.len());
                child.outbox_mut().deliver_part(Frame::shared(&fragment), &mut self.env.spares);
            }
            self.mark_child(child);
        }
    }

    /// The last part of a reply has come for this child, and with it the end of its request.
    fn settle_large(&mut self, child: &mut Child, key: LaneKey, slot: Slot, part: &[u8], len: usize) {
        if child.is_deaf() {
            return;
        }
        if slot.flags.has(SlotFlags::WRITE) {
            self.note_write(child, key, b"", None);
        }
        child.sent_mut().end();
        if slot.kind == SlotKind::Exec {
            self.lease_replied(child, key, slot.kind, b"*");
            child.session_mut().transaction.exec_answered();
        }
        child.sent_mut().weigh(slot.command, len);
        child.outbox_mut().deliver(part, &mut self.env.spares);
        self.finish_settling(child);
    }
}

impl Broker {
    /// A reply has begun to come and is long. True if it has ended since, so that there may be another behind it.
    #[inline(never)]
    pub(crate) fn begin_large(&mut self, key: LaneKey, frames: &mut Frames<'_, ReplyScanner>) -> bool {
        let announced = frames.announced();
        match self.fate(key, frames.rest(), announced) {
            Fate::Keep => {
                frames.make_room(announced);
                false
            }
            Fate::Pass(passing) => {
                let Some(lane) = self.shared.connections.known_mut(key) else { return false };
                lane.begin_large(passing);
                // Those that ask for the same meanwhile should not stand behind it.
                let front = lane.front().copied().filter(|_| passing != Passing::Missed);
                if let Some(slot) = front.filter(|slot| self.children.is_new(slot.child)) {
                    self.shared.connections.note_heavy(key, slot.command, true, self.shared.env.now);
                }
                self.take_part(key, frames)
            }
            Fate::Give => {
                self.shared.lane_lost(
                    key,
                    "a frame longer than half of memory_max, which the broker would have to keep",
                );
                false
            }
        }
    }

    /// More of a reply has come that is taken in parts. True if that was the end of it.
    pub(crate) fn take_part(&mut self, key: LaneKey, frames: &mut Frames<'_, ReplyScanner>) -> bool {
        let (part, is_last) = match frames.next_part() {
            Ok(taken) => taken,
            Err(why) => {
                self.shared.desync(key, why);
                return false;
            }
        };
        let now = self.shared.env.now;
        let Some(lane) = self.shared.connections.known_mut(key) else { return false };
        let Some(large) = lane.note_large(part.len()) else { return false };
        if !is_last {
            let child = lane.front().filter(|_| large.passing == Passing::ToChild).map(|slot| slot.child);
            if large.len >= limits::SLOW_REPLY {
                self.shared.connections.keep_short_off(&self.shared.env.settings, key);
            }
            if let Some(child) = child.and_then(|child| self.children.get_mut(child)) {
                self.shared.give_part(child, part);
                let child = child.key();
                self.shared.stand_still_if_short(&self.children, key, child);
            }
            return false;
        }
        lane.end_large();
        if large.passing == Passing::Missed {
            return true;
        }
        match lane.take_answered(now) {
            Some(answered) => self.large_ended(key, answered, large, part),
            None => self.shared.desync(key, "a reply nobody asked for"),
        }
        self.deliver_notices();
        true
    }

    fn large_ended(&mut self, key: LaneKey, answered: Answered, large: Large, part: &[u8]) {
        self.shared.note_latency(&self.children, key, &answered);
        let Answered { slot, front_since, role, is_yielding, .. } = answered;
        let ran_long = self.shared.note_work(key, role, &slot, front_since, b"");
        if ran_long || large.len >= limits::BULK_MIN {
            self.note_heavy(key, &slot, large.len);
        }
        let child = self.children.get_mut(slot.child);
        let is_heard = child.is_some() || slot.kind.is_of_group();
        match (large.passing, child) {
            (Passing::ToChild, Some(child)) => self.shared.settle_large(child, key, slot, part, large.len),
            (Passing::Refused, _) if is_heard => {
                let max_bytes = self.shared.env.settings.memory_max / 2;
                let failure = Failure::Lost(Lost::Reply { max_bytes });
                self.shared.env.counters.failed(failure.kind(), 1);
                let mut error = Vec::new();
                encode::error(&mut error, failure.line());
                self.settle(key, slot, &error, None);
            }
            // Whatever it was, nobody hears it.
            (Passing::Dropped | Passing::Missed | Passing::Refused, _) | (_, None) => {
                self.settle(key, slot, b"_\r\n", None)
            }
        }
        self.reply_taken(key, role, is_yielding);
    }

    /// `rest` is what there is of it.
    fn fate(&mut self, key: LaneKey, rest: &[u8], announced: usize) -> Fate {
        let shared = &mut self.shared;
        let fits = announced <= shared.frame_max();
        let Some(lane) = shared.connections.known(key) else { return Fate::Keep };
        let kept_or = |otherwise| if fits { Fate::Keep } else { otherwise };
        let refused = kept_or(Fate::Pass(Passing::Refused));
        let has_slots = matches!(lane.role(), LaneRole::Shared | LaneRole::Lease) && !lane.is_connecting();
        if !fits && lane.role() == LaneRole::Subscriber && !lane.is_connecting() {
            return self.fate_of_message(key, rest);
        }
        let kind = rest.first().copied().unwrap_or_default();
        let written = lane.front().filter(|slot| slot.end <= lane.out().bytes().consumed());
        let Some(slot) = written.copied().filter(|_| has_slots && !matches!(kind, b'>' | b'|')) else {
            return kept_or(Fate::Give);
        };
        let is_proven = lane.withheld().is_empty() && !slot.flags.has(SlotFlags::GUARDED);
        if slot.kind.is_of_group() {
            // Whose it is shows when it is whole.
            return refused;
        }
        let Some(child) = self.children.get_mut(slot.child) else { return Fate::Pass(Passing::Dropped) };
        // On its own lane whatever comes may be a push: which it is shows when it is whole.
        let may_be_push =
            lane.role() == LaneRole::Lease && (child.listens_on_lease() || child.session().monitoring);
        if slot.is_timed_out() || child.is_deaf() {
            return Fate::Pass(Passing::Dropped);
        }
        if may_be_push && child.session().proto == 2 {
            return kept_or(Fate::Give);
        }
        let is_plain = match slot.kind {
            SlotKind::Relay => true,
            SlotKind::Exec => kind == b'*' && child.session().transaction.exec_is_plain(),
            _ => false,
        };
        if !is_plain || !is_proven {
            return refused;
        }
        if child.outbox().drops_next() && slot.kind == SlotKind::Relay {
            return Fate::Pass(Passing::Dropped);
        }
        if child.outbox().output().len() >= shared.env.settings.child_output_max {
            shared.close_full(child);
            return Fate::Pass(Passing::Dropped);
        }
        Fate::Pass(Passing::ToChild)
    }

    /// A message that does not fit: those who listen to its topic are told in the way of a loss.
    fn fate_of_message(&mut self, key: LaneKey, rest: &[u8]) -> Fate {
        match self.shared.live_hubs().topic_of_message(key, rest) {
            Some(topic) => {
                self.message_missed(topic);
                Fate::Pass(Passing::Missed)
            }
            None => Fate::Give,
        }
    }
}
