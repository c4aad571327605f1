//! What canaries are for: with `integrity = always` one stands behind every request, and no reply is given to a child before
//! the canary behind it is answered; with `sampled`, behind one of so many. Owns where canaries are put and what a wrong
//! answer means; never their words.

use crate::base::key::Key;
use crate::base::limits;
use crate::command::{NO_COMMAND, texts};
use crate::config::value::Integrity;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::outbox::Frame;
use crate::core::connection::canary::{Withheld, is_like_answer};
use crate::core::connection::lane::Lane;
use crate::core::connection::slot::{Slot, SlotFlags, SlotKind};
use crate::core::keys::LaneKey;
use crate::core::questions::own_rights::OwnRight;
use crate::core::shared::Shared;
use crate::resp::reply;

impl Shared {
    /// Which flags the slot of a child's request has, and whether a canary follows it.
    pub(crate) fn guard(
        &self,
        child: &Child,
        lane: LaneKey,
        kind: SlotKind,
        flags: SlotFlags,
    ) -> (SlotFlags, bool) {
        if self.env.settings.integrity != Integrity::Always {
            return (flags, false);
        }
        // Behind each unit on a lane for blocks comes a MULTI, and its OK is as good as a canary's word: what comes before
        // it in such a unit is known but for EXEC's own reply.
        if self.connections.known(lane).is_some_and(Lane::carries_blocks) {
            return (flags.with(SlotFlags::GUARDED), false);
        }
        // What ends a busy script goes on the control connection, where no canary would be answered meanwhile.
        if self.connections.known(lane).is_some_and(|lane| lane.role().is_own()) {
            return (flags, false);
        }
        if !may_be_guarded(child, kind) {
            let queued = child.session().transaction.is_leased();
            return (if queued { flags.with(SlotFlags::QUEUED) } else { flags }, false);
        }
        // The canary is the last of its unit: it must not stay behind when the lane yields.
        (flags.with(SlotFlags::GUARDED).with(SlotFlags::UNIT), !flags.has(SlotFlags::UNIT))
    }

    /// Puts a request of a group on its leased lane, with the canary that proves its reply. None can stand inside a MULTI.
    pub(crate) fn send_for_group(&mut self, key: LaneKey, bytes: &[u8], kind: SlotKind, flags: SlotFlags) {
        let in_multi = matches!(kind, SlotKind::LookMulti | SlotKind::LookQueued);
        let integrity = self.env.settings.integrity;
        let flags = match integrity {
            Integrity::Always if in_multi => flags.with(SlotFlags::QUEUED),
            // The canary is the last of its unit.
            Integrity::Always => flags.with(SlotFlags::GUARDED).with(SlotFlags::UNIT),
            Integrity::Off | Integrity::Sampled => flags,
        };
        self.connections.send(&mut self.env, key, bytes, Slot::of(Key::NONE, NO_COMMAND, kind, flags));
        let every = self.env.settings.integrity_sample as u32;
        let Some(lane) = self.connections.known_mut(key).filter(|_| !in_multi) else { return };
        let is_due = integrity == Integrity::Sampled && lane.canaries_mut().is_due(every);
        if is_due || integrity == Integrity::Always {
            self.connections.send_canary(&mut self.env, key);
        }
    }

    /// A request of a child has been put on the lane: with `integrity = sampled` every so often a canary follows.
    pub(crate) fn sample(&mut self, lane_key: LaneKey, child: &Child, kind: SlotKind, flags: SlotFlags) {
        if self.env.settings.integrity != Integrity::Sampled || flags.has(SlotFlags::UNIT) {
            return;
        }
        let every = self.env.settings.integrity_sample as u32;
        let Some(lane) = self.connections.known_mut(lane_key) else { return };
        if lane.canaries_mut().is_due(every) && may_be_guarded(child, kind) {
            self.connections.send_canary(&mut self.env, lane_key);
        }
    }

    /// Sends a canary where the last one was answered by a busy upstream, or not at all: if its reply was lost, the next
    /// one's comes in its place and tells. Lanes of which nothing would ever tell are closed.
    pub(crate) fn repeat_canaries(&mut self) {
        let now = self.env.now;
        let old = |slot: &Slot| slot.age(now) >= limits::CANARY_PATIENCE;
        let overdue = |lane: &Lane| {
            let waits = lane.front().is_some_and(|slot| slot.kind == SlotKind::Canary && old(slot));
            waits && lane.has_written() && lane.out().entries().back().is_some_and(old)
        };
        let unproven =
            |lane: &Lane| lane.is_counted() && ((lane.depth() == 0 && !lane.is_idle()) || overdue(lane));
        for key in self.connections.keys_where(unproven) {
            self.connections.send_canary(&mut self.env, key);
        }
        // A lane that yields writes nothing more.
        let never = |lane: &Lane| lane.is_yielding() && !lane.has_written() && !lane.withheld().is_empty();
        for key in self.connections.keys_where(never) {
            self.lane_lost(key, "integrity: a busy upstream has left replies unproven");
        }
    }

    /// The reply to a guarded request is kept until its canary is answered. Should it be the canary's own answer, a reply
    /// has been lost, and nothing may ever come in the canary's place.
    pub(crate) fn withhold(&mut self, key: LaneKey, slot: Slot, frame: &[u8]) {
        let Some(lane) = self.connections.known_mut(key) else { return };
        lane.canaries_mut().withhold(slot, frame);
        let next = || lane.out().entries().iter().find(|slot| slot.kind == SlotKind::Canary);
        if is_like_answer(frame) && next().is_some_and(|slot| lane.canaries().is_answer(frame, slot.end)) {
            self.env.counters.integrity_failures += 1;
            self.desync(key, "integrity: a canary was answered too early");
        }
    }
}

impl Broker {
    /// A reply has come for a canary's slot. If it is the canary's word, the replies before it are proven.
    pub(crate) fn canary_answered(&mut self, key: LaneKey, slot: &Slot, frame: &[u8]) {
        let Some(lane) = self.shared.connections.known(key) else { return };
        if lane.canaries().is_answer(frame, slot.end) {
            return self.release(key);
        }
        // While a script is busy, Redis answers nothing else; the next canary will tell.
        let is_busy = |frame: &[u8]| reply::error_code(frame) == Some(b"BUSY");
        if is_busy(frame) {
            // So were the requests before it, if they were sent as late. Of as many replies as there were requests, none
            // was lost.
            if lane.out().is_idle()
                && lane.withheld().iter().all(|one| one.slot.kind == SlotKind::Push || is_busy(&one.frame))
            {
                self.release(key);
            }
            return;
        }
        self.shared.env.counters.integrity_failures += 1;
        let refused = reply::is_error(frame);
        if texts::is_lack(frame) {
            self.shared.doubt_right(OwnRight::Echo);
            self.shared.doubt_right(OwnRight::Ping);
        }
        let why = if refused { "a canary was refused" } else { "a canary did not come home" };
        self.shared.desync(key, &format!("integrity: {why}"));
    }

    /// Keeps the reply to a child's request until the canary behind it is answered. A number of listeners is corrected as it
    /// comes: whoever leaves meanwhile was counted upstream, and whoever joins was not.
    pub(crate) fn withhold_reply(&mut self, key: LaneKey, mut slot: Slot, frame: &[u8]) {
        let mut corrected = None;
        if slot.may_count()
            && let Some(child) = self.children.get_mut(slot.child)
        {
            corrected = self.shared.hubs.corrected_early(child, &mut slot, frame);
            self.shared.mark_child(child);
        }
        self.shared.withhold(key, slot, corrected.as_deref().unwrap_or(frame));
    }

    pub(crate) fn release(&mut self, key: LaneKey) {
        let withheld = self.shared.connections.known_mut(key).map(|lane| lane.canaries_mut().take_withheld());
        for Withheld { slot, frame } in withheld.unwrap_or_default() {
            if slot.kind == SlotKind::Push {
                self.push_arrived(key, Frame::of(&frame));
            } else {
                self.settle(key, slot, &frame, None);
            }
        }
    }
}

/// Inside a MULTI on a leased lane an ECHO would be queued, a RESP2 subscriber may not ask for one, and behind CLIENT
/// CACHING it would be the request that is meant. No other child uses these lanes meanwhile.
fn may_be_guarded(child: &Child, kind: SlotKind) -> bool {
    // One of RESP3 may be about to become one of RESP2.
    let resp2 = child.session().proto == 2 || kind == SlotKind::Housekeeping;
    let listens = child.lease().is_some() && child.is_subscribed() && resp2;
    let queued = child.session().transaction.is_leased();
    !matches!(kind, SlotKind::Subscribe | SlotKind::Caching) && !listens && !queued
}
