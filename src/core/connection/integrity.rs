//! Canaries: proof that a lane's replies are those of its requests. Behind a request the broker puts an ECHO of a word
//! that no other request has; if the reply in its place is not that word, replies were lost, doubled or slipped in, and
//! the lane is closed. With `integrity = always` one stands behind every request, and no reply is given to a child
//! before the canary behind it has come home. Owns the word and the withheld replies.

use crate::base::key::Key;
use crate::base::limits;
use crate::command::NO_COMMAND;
use crate::config::value::Integrity;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::connection::canary::CANARY;
use crate::core::connection::canary::HEAD;
use crate::core::connection::canary::WORD;
use crate::core::connection::canary::Withheld;
use crate::core::connection::canary::is_canary;
use crate::core::connection::canary::is_like_canary;
use crate::core::connection::canary::word;
use crate::core::connection::lane::FLAG_GUARDED;
use crate::core::connection::lane::FLAG_QUEUED;
use crate::core::connection::lane::FLAG_TIMED_OUT;
use crate::core::connection::lane::FLAG_UNIT;
use crate::core::connection::lane::Lane;
use crate::core::connection::lane::LaneState;
use crate::core::connection::lane::Slot;
use crate::core::connection::lane::SlotKind;
use crate::core::keys::LaneKey;
use crate::core::shared::Shared;
use crate::core::transaction::queue::Transaction;

impl Shared {
    /// Which flags the slot of a child's request has, and whether a canary follows it.
    pub(in crate::core) fn guard(
        &self,
        child: &Child,
        lane: LaneKey,
        kind: SlotKind,
        flags: u8,
    ) -> (u8, bool) {
        // What ends a busy script goes on the control connection, where no canary would be answered meanwhile.
        let own = self.connections.lanes.get(lane).is_some_and(|lane| lane.role.is_own());
        if self.env.settings.integrity != Integrity::Always || own {
            return (flags, false);
        }
        if !self.may_be_guarded(child, kind) {
            let queued = if self.is_queued_upstream(child) { FLAG_QUEUED } else { 0 };
            return (flags | queued, false);
        }
        // The canary is the last of its unit: it must not stay behind when the lane yields.
        (flags | FLAG_GUARDED | FLAG_UNIT, flags & FLAG_UNIT == 0)
    }

    /// Inside a MULTI on a leased lane an ECHO would be queued, a RESP2 subscriber may not ask for one, and behind CLIENT
    /// CACHING it would be the request that is meant. Their lanes are nobody else's meanwhile.
    fn may_be_guarded(&self, child: &Child, kind: SlotKind) -> bool {
        // One of RESP3 may be about to become one of RESP2.
        let resp2 = child.session.proto == 2 || kind == SlotKind::Housekeeping;
        let listens = child.lease.is_some() && child.is_subscribed() && resp2;
        !matches!(kind, SlotKind::Subscribe | SlotKind::Caching)
            && !listens
            && !self.is_queued_upstream(child)
    }

    fn is_queued_upstream(&self, child: &Child) -> bool {
        matches!(child.session.transaction, Transaction::Leased(_))
    }

    /// A request of a child has been put on the lane: with `integrity = sampled` every so often a canary follows.
    pub(in crate::core) fn sample(&mut self, lane_key: LaneKey, child: &Child, kind: SlotKind, flags: u8) {
        let every = self.env.settings.integrity_sample as u32;
        if self.env.settings.integrity != Integrity::Sampled || flags & FLAG_UNIT != 0 {
            return;
        }
        let may = self.may_be_guarded(child, kind);
        let Some(lane) = self.connections.lanes.get_mut(lane_key) else { return };
        lane.since_canary += 1;
        if may && lane.since_canary >= every {
            self.send_canary(lane_key);
        }
    }

    pub(in crate::core) fn send_canary(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        lane.since_canary = 0;
        if lane.secret == 0 {
            lane.secret = self.env.rng.u64(1..);
        }
        let end = lane.out.appended() + CANARY as u64;
        let mut canary = [0; CANARY];
        canary[..HEAD.len()].copy_from_slice(HEAD);
        canary[HEAD.len()..HEAD.len() + WORD].copy_from_slice(&word(lane.secret, end));
        canary[CANARY - 2..].copy_from_slice(b"\r\n");
        self.env.counters.canaries += 1;
        self.send(key, &canary, Key::NONE, NO_COMMAND, SlotKind::Canary, 0);
    }

    /// A push behind replies that are withheld waits with them: what it tells of came after them. False when there are
    /// none.
    pub(in crate::core) fn withhold_push(&mut self, key: LaneKey, frame: &[u8]) -> bool {
        let stamp = self.env.now as u32;
        let Some(lane) = self.connections.lanes.get_mut(key).filter(|lane| !lane.withheld().is_empty())
        else {
            return false;
        };
        // Nobody is owed it: where its lane is lost, it is lost.
        let (end, flags) = (0, FLAG_TIMED_OUT);
        let slot = Slot { child: Key::NONE, end, stamp, command: NO_COMMAND, kind: SlotKind::Push, flags };
        lane.withhold(Withheld { slot, frame: frame.to_vec() });
        true
    }

    /// Whether a reply without a canary behind it can be what it stands for. An error can be anywhere; inside a MULTI
    /// there is one other, and a subscription is answered by pushes, which no slot is for.
    pub(in crate::core) fn is_plausible(slot: &Slot, frame: &[u8]) -> bool {
        let queued = slot.flags & FLAG_QUEUED != 0;
        match slot.kind {
            _ if frame.first() == Some(&b'-') => true,
            SlotKind::Subscribe => frame.is_empty(),
            SlotKind::Multi if queued => frame == b"+OK\r\n",
            SlotKind::Relay if queued => frame == b"+QUEUED\r\n",
            _ if queued => frame == b"+QUEUED\r\n" || frame == b"+OK\r\n",
            _ => true,
        }
    }

    /// Canaries for lanes whose last one was answered by a busy upstream, or not at all: if its reply was lost, the next
    /// one's comes in its place and tells.
    pub(in crate::core) fn repeat_canaries(&mut self) {
        let now = self.env.now;
        let old = |slot: &Slot| slot.age(now) >= limits::CANARY_PATIENCE;
        let overdue = |lane: &Lane| {
            let waits = lane.front().is_some_and(|slot| slot.kind == SlotKind::Canary && old(slot));
            waits && lane.has_written() && lane.back().is_some_and(old)
        };
        let unproven =
            |lane: &Lane| lane.holds_place() && ((lane.depth() == 0 && !lane.is_idle()) || overdue(lane));
        let keys: Vec<LaneKey> =
            self.connections.lanes.iter().filter(|(_, lane)| unproven(lane)).map(|(key, _)| key).collect();
        for key in keys {
            self.send_canary(key);
        }
        // A lane that yields writes nothing more, so nothing would ever tell.
        let stuck = |lane: &Lane| {
            lane.state == LaneState::Yielding && !lane.has_written() && !lane.withheld().is_empty()
        };
        let keys: Vec<LaneKey> =
            self.connections.lanes.iter().filter(|(_, lane)| stuck(lane)).map(|(key, _)| key).collect();
        for key in keys {
            self.lane_lost(key, "integrity: a busy upstream has left replies unproven");
        }
    }

    /// The reply to a guarded request is kept until its canary has come. Should it be the canary itself, a reply has
    /// been lost, and nothing may ever come for the canary's own place.
    pub(in crate::core) fn withhold(&mut self, key: LaneKey, slot: Slot, frame: &[u8]) {
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        lane.withhold(Withheld { slot, frame: frame.to_vec() });
        let canary = if is_like_canary(frame) { lane.next_canary() } else { None };
        if canary.is_some_and(|end| is_canary(frame, lane.secret, end)) {
            self.env.counters.integrity_failures += 1;
            self.desync(key, "integrity: a canary came home too early");
        }
    }
}

impl Broker {
    /// What stands in the place of a canary's reply. If it is the word, the replies before it are what they seem.
    pub(in crate::core) fn canary_answered(&mut self, key: LaneKey, slot: &Slot, frame: &[u8]) {
        let Some(lane) = self.shared.connections.lanes.get_mut(key) else { return };
        if !is_canary(frame, lane.secret, slot.end) {
            // While a script is busy, Redis answers nothing else; the next canary will tell.
            if frame.starts_with(b"-BUSY ") {
                // So were the requests before it, if they were sent as late.
                let busy =
                    |one: &Withheld| one.slot.kind == SlotKind::Push || one.frame.starts_with(b"-BUSY ");
                return if lane.withheld().iter().all(busy) {
                    self.release(key)
                };
            }
            self.shared.env.counters.integrity_failures += 1;
            let refused = frame.first() == Some(&b'-');
            let why =
                if refused { "integrity: ECHO was refused" } else { "integrity: a canary did not come home" };
            return self.shared.desync(key, why);
        }
        self.release(key);
    }

    fn release(&mut self, key: LaneKey) {
        let Some(lane) = self.shared.connections.lanes.get_mut(key) else { return };
        for Withheld { slot, frame } in lane.take_withheld() {
            if slot.kind == SlotKind::Push {
                self.push_arrived(key, &frame);
            } else {
                self.settle(key, slot, &frame, true);
            }
        }
    }
}
