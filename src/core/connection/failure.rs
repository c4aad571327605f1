//! What goes wrong upstream, and what each child is told. A request of which a byte may have left is
//! failed at once and never repeated; one that has not left waits for the next connection.

use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::connection::lane::Lane;
use crate::core::connection::lane::LaneRole;
use crate::core::connection::lane::LaneState;
use crate::core::connection::lane::Slot;
use crate::core::connection::lane::SlotKind;
use crate::core::keys::LaneKey;
use crate::core::keys::LeaseKind;
use crate::core::notice::Notice;
use crate::core::shared::Shared;
use crate::core::timers::Timer;
use crate::core::transaction::queue::Queued;
use crate::core::transaction::queue::Transaction;
use crate::resp::encode;

pub(in crate::core) const LOST: &str =
    "BROKERLOST upstream connection lost before the reply; the command may have been executed";

/// Why the EXEC of a MULTI whose leased lane was lost aborts.
pub(in crate::core) const MULTI_LOST: &str = "BROKERLOST upstream connection lost";

impl Shared {
    /// Answers a request that was on hold with an error, and lets the next one run. Inside MULTI the
    /// transaction is spoilt, as for any rejected command. A MULTI itself is open all the same, and spoilt: what its
    /// child has sent behind it must not be run one by one.
    pub(in crate::core) fn fail_front(&mut self, child: &mut Child, text: &str) {
        let begins = self.front_begins_multi(child);
        if begins {
            let abort_reason = Some(text.to_owned());
            let spoilt = Queued { dirty: true, abort_reason, ..Queued::default() };
            child.session.transaction = Transaction::Queued(Box::new(spoilt));
            child.front_done = true;
            self.answer(child, b"+OK\r\n");
            return self.lift(child);
        }
        if let Some(queued) = child.session.transaction.queued_mut() {
            queued.dirty = true;
        }
        child.front_done = true;
        self.answer_error(child, text);
        self.lift(child);
    }

    /// Dialling or greeting the upstream has failed.
    pub(in crate::core) fn lane_failed(&mut self, key: LaneKey, reason: &str) {
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        if !matches!(lane.state, LaneState::Connecting | LaneState::Handshaking) {
            return;
        }
        lane.failures = lane.failures.saturating_add(1);
        self.env.counters.upstream_connect_failures += 1;
        let (failures, role, pool) = (lane.failures, lane.role, lane.pool);
        self.note_refusal(pool, reason);
        self.drop_connection(key);
        if let Some(lane) = self.connections.lanes.get_mut(key) {
            lane.take_written();
        }
        match role {
            LaneRole::Lease => self.lease_open_failed(key),
            LaneRole::Shared | LaneRole::Control | LaneRole::Subscriber | LaneRole::Probe => {
                self.back_off(key, failures);
            }
        }
    }

    pub(in crate::core) fn back_off(&mut self, key: LaneKey, failures: u32) {
        let delay = self.backoff(failures);
        let due = self.env.now + delay;
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        lane.set_state(LaneState::Backoff);
        lane.timer = lane.timer.wrapping_add(1);
        let timer = Timer::Lane(key, lane.timer);
        self.env.timers.arm(due, timer);
        self.expire_unwritten(key);
    }

    /// The timer of an attempt or of a backoff.
    pub(in crate::core) fn lane_timer(&mut self, key: LaneKey, number: u32) {
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        if lane.timer != number {
            return;
        }
        match lane.state {
            LaneState::Backoff => {
                lane.set_state(LaneState::Dormant);
                if self.is_needed(key) {
                    self.want_connection(key);
                }
            }
            LaneState::Connecting | LaneState::Handshaking => {
                let reason = format!("no answer within {} ms", self.env.settings.connect_timeout);
                self.lane_failed(key, &reason);
            }
            LaneState::Ready if key == self.control.lane && self.control.leaving => self.replace_control(),
            _ => {}
        }
    }

    /// An established connection is gone, or has to go: end of file, an error, a desync, a stall.
    pub(in crate::core) fn lane_lost(&mut self, key: LaneKey, reason: &str) {
        let carries = self.carries_topics(key);
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        if matches!(lane.state, LaneState::Connecting | LaneState::Handshaking) {
            return self.lane_failed(key, reason);
        }
        if !lane.holds_place() {
            return;
        }
        let role = lane.role;
        let user = self.connections.pools[lane.pool.0 as usize].key.user;
        // A control connection is of use once the command table has come on it.
        let proven = lane.replied && (role != LaneRole::Control || self.control.confirmed);
        let quiet = lane.is_idle() && (role != LaneRole::Control || !proven) && !carries;
        let level = if quiet { log::Level::Debug } else { log::Level::Warn };
        log::log!(level, "upstream connection lost ({role:?}, {} in flight): {reason}", lane.depth());
        self.env.counters.upstream_losses += 1;
        lane.failures = if proven { 0 } else { lane.failures.saturating_add(1) };
        let failures = lane.failures;
        self.drop_connection(key);
        let lost = self.connections.lanes.get_mut(key).map(Lane::take_written).unwrap_or_default();
        match role {
            LaneRole::Lease => self.lease_lane_lost(key, lost),
            LaneRole::Control => {
                self.control_lost();
                self.fail_slots(key, lost, LOST);
                self.drop_questions(key);
                self.back_off(key, failures);
            }
            LaneRole::Probe => {
                self.probe_lost();
                self.fail_slots(key, lost, LOST);
                self.drop_questions(key);
                self.back_off(key, failures);
            }
            LaneRole::Shared => {
                self.fail_slots(key, lost, LOST);
                self.revive(key, failures);
            }
            LaneRole::Subscriber => self.hub_lost(key, failures),
        }
        self.account_lane(key);
        if !role.is_own() {
            self.recheck(user);
        }
    }

    /// Closes a lane, connected or not, and fails all that is on it: what has not left will not.
    pub(in crate::core) fn empty_lane(&mut self, key: LaneKey, reason: &str) {
        let held = self.connections.lanes.get(key).map_or(0, |lane| lane.footprint);
        log::warn!("{reason}: emptying an upstream lane that holds {held} bytes");
        self.lane_lost(key, reason);
        if self.connections.lanes.get(key).is_some_and(|lane| lane.role == LaneRole::Subscriber) {
            // Nothing of a child's is on it.
            return;
        }
        let unwritten = self.connections.lanes.get_mut(key).map(Lane::take_all).unwrap_or_default();
        let down = self.down_on(key);
        self.fail_slots(key, unwritten, &down);
        self.account_lane(key);
    }

    /// A shared lane carries on from its first unwritten request.
    fn revive(&mut self, key: LaneKey, failures: u32) {
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        if lane.is_idle() {
            return;
        }
        if failures == 0 {
            self.want_connection(key);
        } else {
            self.back_off(key, failures);
        }
    }

    /// Questions that never left are dropped too: they were asked of an incarnation that is gone.
    pub(in crate::core) fn drop_questions(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        let unwritten = lane.take_all();
        let down = self.down_on(key);
        self.fail_slots(key, unwritten, &down);
    }

    /// A leased lane dies with its lease. What that means depends on what the lease was for.
    fn lease_lane_lost(&mut self, key: LaneKey, lost: Vec<Slot>) {
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        lane.burnt = true;
        let unwritten = lane.take_all();
        let pool = lane.pool;
        let Some(lease) = &mut lane.lease else { return self.forget_lane(key, pool) };
        if std::mem::replace(&mut lease.over, true) {
            // Its child has gone on without it, perhaps to another lease.
            return self.return_lane(key);
        }
        let (child, kind, watching) = (lease.child, lease.kind, lease.watching);
        self.env.notices.push_back(Notice::LeaseLost { child, kind, watching });
        if kind == LeaseKind::Session {
            return self.return_lane(key);
        }
        self.return_lane(key);
        self.fail_slots(key, lost, LOST);
        let down = self.down(pool);
        self.fail_slots(key, unwritten, &down);
    }

    /// The lane that a child had to itself is gone.
    pub(in crate::core) fn lease_lost(&mut self, child: &mut Child, kind: LeaseKind, watching: bool) {
        if kind == LeaseKind::Session || child.listens_on_lease() {
            // Messages may have been missed. A direct connection would have been closed as well.
            return self.close(child);
        }
        child.lease = None;
        child.session.watch_lost |= watching;
        if let Transaction::Leased(queued) = &mut child.session.transaction {
            let abort_reason = Some(MULTI_LOST.to_owned());
            let lost = Queued { dirty: true, abort_reason, ..std::mem::take(&mut **queued) };
            child.session.transaction = Transaction::Queued(Box::new(lost));
        }
    }

    /// Completes slots without a reply from upstream. The broker's own at once; children are told when the event at hand
    /// is over.
    pub(in crate::core) fn fail_slots(&mut self, lane: LaneKey, slots: Vec<Slot>, text: &str) {
        let told = slots.iter().filter(|slot| slot.is_owed_to_a_child()).count();
        self.env.counters.failed(text.as_bytes(), told as u64);
        let mut failed = Vec::new();
        for slot in slots {
            match slot.kind {
                SlotKind::Question => self.question_answered(None),
                SlotKind::Canary => {}
                SlotKind::Proof => self.proof_answered(None),
                _ => failed.push(slot),
            }
        }
        if !failed.is_empty() {
            let mut reply = Vec::new();
            encode::error(&mut reply, text);
            self.env.notices.push_back(Notice::Failed { lane, slots: failed, reply });
        }
    }

    /// Requests that have waited `queue_timeout` for a connection are told that they were not executed.
    pub(in crate::core) fn expire_unwritten(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        if matches!(lane.state, LaneState::Ready | LaneState::Yielding) || lane.is_idle() {
            return;
        }
        let expired = lane.take_expired(self.env.now, self.env.settings.queue_timeout);
        if !expired.is_empty() {
            let down = self.down_on(key);
            self.fail_slots(key, expired, &down);
        }
        self.account_lane(key);
    }

    /// Requests whose reply is overdue are told so; their slots stay, the late replies are dropped.
    pub(in crate::core) fn time_out_written(&mut self, key: LaneKey) {
        let timeout = self.env.settings.request_timeout;
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        if timeout == 0 || !lane.has_written() {
            return;
        }
        if lane.role.is_own() || lane.role == LaneRole::Subscriber {
            return;
        }
        let leased = lane.lease.is_some();
        let late = lane.time_out(self.env.now, timeout);
        if late.is_empty() {
            return;
        }
        let owed = || late.iter().filter(|slot| slot.is_owed_to_a_child());
        if let (Some(table), Some(oldest)) = (&self.control.table, owed().next()) {
            let oldest = table.name(oldest.command);
            log::info!("request_timeout: {} requests unanswered, the oldest is '{oldest}'", owed().count());
        }
        let text = format!("BROKERTIMEOUT no reply within {timeout} ms; the command may have been executed");
        self.tell_late(key, late, &text);
        if leased {
            // What the late reply would have told about the session is lost: the lane cannot be trusted.
            self.lane_lost(key, "request_timeout on a leased lane");
        }
    }
}

impl Broker {
    /// Dialling or greeting the upstream has failed.
    pub fn lane_failed(&mut self, key: LaneKey, reason: &str) {
        self.shared.lane_failed(key, reason);
        self.deliver_notices();
    }

    /// An established connection is gone, or has to go: end of file, an error.
    pub fn lane_lost(&mut self, key: LaneKey, reason: &str) {
        self.shared.lane_lost(key, reason);
        self.deliver_notices();
    }
}
