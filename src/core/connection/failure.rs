//! What goes wrong upstream, and what each child is told. A request of which a byte may have left is failed at once and never
//! repeated; one that has not left waits for the next connection. Never how the next connection is made.

use crate::base::failure::{Failure, Lost};
use crate::base::limits;
use crate::base::pipeline::Entry;
use crate::core::child::Child;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::LaneRole;
use crate::core::connection::slot::{Slot, SlotFlags, SlotKind};
use crate::core::keys::{LaneKey, LeaseKind};
use crate::core::notice::{ChildNotice, Notice};
use crate::core::pubsub::SubscriberLoss;
use crate::core::shared::Shared;
use crate::core::timers::Timer;

impl Shared {
    /// Answers a request that was on hold with an error, and lets the next one run. Inside MULTI the
    /// transaction is spoilt, as for any rejected command. A MULTI itself is open all the same, and spoilt: what its
    /// child has sent behind it must not be run one by one.
    pub(crate) fn fail_front(&mut self, child: &mut Child, error: impl Into<Failure>) {
        let error = error.into();
        if self.ends_with(child, &error) {
            return self.lose_child(child, None, &error);
        }
        child.front_mut().set_answered();
        if self.front_begins_multi(child) {
            child.session_mut().transaction.begin_spoilt(Some(error.to_string()));
            self.answer(child, b"+OK\r\n");
        } else {
            child.session_mut().transaction.spoil();
            self.answer_error(child, error);
        }
        self.lift(child);
    }

    /// Dialling or greeting the upstream has failed.
    pub(crate) fn lane_failed(&mut self, key: LaneKey, reason: &str) {
        self.attempt_failed(key, reason, false);
    }

    /// The same; `lasts`: for a reason that does not pass by itself.
    pub(super) fn attempt_failed(&mut self, key: LaneKey, reason: &str, lasts: bool) {
        // What failed may have been given up since.
        let Some(lane) = self.connections.find_mut(key).filter(|lane| lane.is_connecting()) else { return };
        let (failures, role, pool) = (lane.count_failure(false), lane.role(), lane.pool());
        let is_reached = lane.link().is_some();
        self.env.counters.upstream_connect_failures += 1;
        self.sentinels.doubt(self.env.now);
        self.note_refusal(pool, reason);
        let is_of_replica = self.replica_failed(key);
        if is_of_replica {
            // Another one is connected to, or the master.
        } else if lasts {
            self.bar_others(key, pool, failures);
        } else if !is_reached {
            self.connections.not_reached(key);
        }
        self.take_lost(key);
        if role != LaneRole::Lease {
            return self.back_off(key, failures);
        }
        self.connections.remove(&mut self.env, key);
        if !lasts {
            self.leases.open_failed(&mut self.env);
        }
    }

    pub(crate) fn back_off(&mut self, key: LaneKey, failures: u32) {
        self.connections.back_off(&mut self.env, key, failures);
        self.expire_unwritten(key);
    }

    /// The timer of an attempt or of a backoff.
    pub(crate) fn lane_timer(&mut self, key: LaneKey, number: u32) {
        // The lane may have gone since, or have another timer.
        let Some(lane) = self.connections.find(key).filter(|lane| lane.record().timer == number) else {
            return;
        };
        if lane.is_backing_off() {
            self.connections.dial_afresh(&mut self.env, key);
        } else if lane.is_connecting() {
            let reason = match self.address() {
                Some(_) => format!("no answer within {} ms", self.env.settings.connect_timeout),
                None => self.sentinels.trouble(),
            };
            self.lane_failed(key, &reason);
        } else if lane.is_ready() && key == self.control.lane() && self.control.is_leaving() {
            self.replace_control();
        }
    }

    /// An established connection is gone, or has to go: end of file, an error, a desync, a stall.
    pub(crate) fn lane_lost(&mut self, key: LaneKey, reason: &str) {
        // The driver, a timer or a notice may name one that has gone since.
        let Some(lane) = self.connections.find_mut(key) else { return };
        if lane.is_connecting() {
            return self.lane_failed(key, reason);
        }
        if !lane.is_counted() {
            return;
        }
        let role = lane.role();
        let (proven, carries) = (lane.record().has_replied, lane.is_listened());
        // A control connection works once the command table has come on it.
        let proven = proven && (role != LaneRole::Control || self.commands.is_confirmed());
        let quiet = lane.is_idle() && (role != LaneRole::Control || !proven) && !carries;
        let level = if quiet { log::Level::Debug } else { log::Level::Warn };
        log::log!(level, "upstream connection lost ({role:?}, {} in flight): {reason}", lane.depth());
        self.env.counters.upstream_losses += 1;
        self.sentinels.doubt(self.env.now);
        let (failures, pool) = (lane.count_failure(proven), lane.pool());
        let user = self.connections.pool(pool).key.user;
        let lost = self.take_lost(key);
        match role {
            LaneRole::Lease => self.lease_lane_lost(key, lost),
            LaneRole::Control | LaneRole::Probe => {
                if role == LaneRole::Control {
                    self.control_lost();
                } else {
                    self.probe_lost();
                }
                self.fail_slots(key, lost, Failure::LOST);
                // Questions that never left were asked of an incarnation that is gone.
                self.fail_unwritten(key);
                self.back_off(key, failures);
            }
            LaneRole::Shared => {
                self.note_suspects(key, &lost);
                self.fail_slots(key, lost, Failure::LOST);
                self.revive(key, failures);
            }
            LaneRole::Subscriber => {
                self.fail_slots(key, lost, Failure::LOST);
                // They were to be counted on this very connection.
                self.fail_unwritten(key);
                let loss = SubscriberLoss::Broken { failures };
                self.live_hubs().disconnected(key, loss);
            }
        }
        self.connections.account(&mut self.env, key);
        if !role.is_own() {
            self.recheck(user);
        }
    }

    /// A shared lane is lost, perhaps because of one of the requests on it: the server closes a connection whose reply is
    /// too long for it. So the next one of that command has a lane to itself, and nobody else suffers twice. On a lane for
    /// blocks nobody else does. Of a block in one piece its EXEC is what has the reply.
    fn note_suspects(&mut self, key: LaneKey, lost: &[Slot]) {
        let replied = |slot: &&Slot| slot.kind == SlotKind::Relay && !slot.is_bound_to_next();
        // A write has a long reply less often.
        let (writes, reads): (Vec<&Slot>, Vec<&Slot>) =
            lost.iter().filter(replied).partition(|slot| slot.flags.has(SlotFlags::WRITE));
        let suspects: Vec<_> = reads.iter().chain(&writes).map(|slot| (slot.child, slot.command)).collect();
        if suspects.is_empty() || self.connections.known(key).is_some_and(Lane::carries_blocks) {
            return;
        }
        self.env.notify(Notice::SharedLaneLost(suspects));
    }

    /// Closes the lane's connection. Returns what may have left on it.
    pub(crate) fn take_lost(&mut self, key: LaneKey) -> Vec<Slot> {
        self.connections.drop_connection(&mut self.env, key);
        self.connections.known_mut(key).map(Lane::take_written).unwrap_or_default()
    }

    /// Fails what has not left on a lane.
    pub(crate) fn fail_unwritten(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.find_mut(key) else { return };
        let unwritten = lane.take_all();
        let down = self.down_on(key);
        self.fail_slots(key, unwritten, down);
    }

    /// A shared lane carries on from its first unwritten request.
    fn revive(&mut self, key: LaneKey, failures: u32) {
        let Some(lane) = self.connections.known_mut(key) else { return };
        if lane.is_idle() {
            return;
        }
        if failures == 0 {
            self.connections.want(&mut self.env, key);
        } else {
            self.back_off(key, failures);
        }
    }

    /// A leased lane dies with its lease. What that means depends on what the lease was for.
    fn lease_lane_lost(&mut self, key: LaneKey, lost: Vec<Slot>) {
        let Some(lane) = self.connections.known_mut(key) else { return };
        lane.need_close();
        let unwritten = lane.take_all();
        let pool = lane.pool();
        let Some(lease) = lane.lease_mut() else { return self.connections.remove(&mut self.env, key) };
        if !lease.end() {
            // Its child has gone on without it, perhaps to another lease.
            return self.give_back(key);
        }
        let (child, kind, watching) = (lease.child(), lease.kind(), lease.is_watching());
        if let Some(group) = lease.group() {
            self.give_back(key);
            return self.group_lane_lost(group, key, &lost);
        }
        self.env.notify(Notice::Child(child, ChildNotice::LeaseLost { kind, watching }));
        self.give_back(key);
        if kind == LeaseKind::Session {
            return;
        }
        self.fail_slots(key, lost, Failure::LOST);
        let down = self.down(pool);
        self.fail_slots(key, unwritten, down);
    }

    /// The lane that a child had to itself is gone.
    pub(crate) fn lease_lost(&mut self, child: &mut Child, kind: LeaseKind, watching: bool) {
        if kind == LeaseKind::Session || child.listens_on_lease() {
            // Messages may have been missed. A direct connection would have been closed as well.
            return self.close(child);
        }
        child.lease_mut().take();
        let lost = Failure::Lost(Lost::Transaction);
        if child.session().transaction.is_leased() && self.ends_with(child, &lost) {
            return self.lose_child(child, None, &lost);
        }
        child.session_mut().transaction.lane_lost(watching, &Failure::Lost(Lost::Transaction).to_string());
    }

    /// Completes slots without a reply: the broker's own at once, children's when the event at hand is over.
    pub(crate) fn fail_slots(&mut self, lane: LaneKey, slots: Vec<Slot>, failure: Failure) {
        let told = slots.iter().filter(|slot| slot.is_owed_to_a_child()).count();
        self.env.counters.failed(failure.kind(), told as u64);
        for slot in &slots {
            match slot.kind {
                SlotKind::Question => self.question_answered(None),
                SlotKind::Proof => self.proof_answered(None),
                _ => {}
            }
        }
        if slots.iter().any(|slot| !slot.kind.is_own()) {
            let slots = slots.into_iter();
            self.env.notify(Notice::Failed { lane, slots, failure });
        }
    }

    /// Requests that have waited `queue_timeout` for a connection are told that they were not executed.
    pub(crate) fn expire_unwritten(&mut self, key: LaneKey) {
        // The janitor's pass may have closed it.
        let Some(lane) = self.connections.find_mut(key) else { return };
        if lane.is_ready() || lane.is_yielding() || lane.is_idle() || self.env.standstill.is_on() {
            return;
        }
        // That of the oldest holds for all: they are told in their order.
        let still = lane.front().map_or(0, |slot| {
            let since = self.env.now - u64::from(slot.age(self.env.now));
            self.env.standstill.within(since, self.env.now)
        });
        let patience = self.env.settings.queue_timeout.saturating_add(still);
        let expired = lane.take_expired(self.env.now, patience, limits::OVERDUE_STEP);
        if expired.len() >= limits::OVERDUE_STEP {
            self.env.timers.arm(self.env.now, Timer::Overdue(key));
        }
        let down = self.down_on(key);
        self.fail_slots(key, expired, down);
        self.connections.account(&mut self.env, key);
    }

    /// Requests whose reply is overdue are told so; their slots stay, the late replies are dropped.
    pub(crate) fn time_out_written(&mut self, key: LaneKey) {
        let timeout = self.env.settings.request_timeout;
        let Some(lane) = self.connections.find_mut(key) else { return };
        if timeout == 0 || lane.role().is_own() || !lane.has_written() {
            return;
        }
        let leased = lane.lease().is_some();
        let late = lane.time_out(self.env.now, timeout, limits::OVERDUE_STEP);
        if late.len() >= limits::OVERDUE_STEP {
            self.env.timers.arm(self.env.now, Timer::Overdue(key));
        }
        if late.is_empty() {
            return;
        }
        let owed = || late.iter().filter(|slot| slot.is_owed_to_a_child());
        if let (Some(table), Some(oldest)) = (self.commands.table(), owed().next()) {
            let oldest = table.name(oldest.command);
            log::info!("request_timeout: {} requests unanswered, the oldest is '{oldest}'", owed().count());
        }
        self.tell_late(key, late, Failure::TimedOut { after_ms: timeout });
        if leased {
            // The late reply will not say what became of the session. The lane goes once its child has been told.
            self.env.notify(Notice::LoseLane(key, "request_timeout on a leased lane"));
        }
    }
}
