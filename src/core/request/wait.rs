//! WAIT and WAITAOF. Redis counts replicas that have what *the connection* wrote last, and blocks the connection until
//! there are enough. So a child's WAIT goes on the very lane that carried its last write, and that lane is detached
//! meanwhile: nobody else's requests stand behind it. If the lane has been lost since, no other one can tell.

use crate::base::failure::{Failure, FailureKind, Limit, Lost};
use crate::command::CommandId;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::hold::{Hold, Wait};
use crate::core::child::sent::LastWrite;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::LaneRole;
use crate::core::connection::slot::{Slot, SlotFlags, SlotKind};
use crate::core::keys::{LaneKey, LeaseKind};
use crate::core::lease::state::{LeaseState, Tenant};
use crate::core::request::flow::{Decided, Flow, FlowResult};
use crate::core::shared::Shared;
use crate::core::timers::Timer;

const STIR: &[u8] = b"*1\r\n$4\r\nPING\r\n";

const WRITES_LOST: Failure = Failure::Lost(Lost::LastWrite);

impl Shared {
    pub(crate) fn wait_for_replicas(&mut self, child: &mut Child, decided: Decided<'_>) -> FlowResult {
        let Decided { request, id, .. } = decided;
        let lane_key = self.lane_of_writes(child, id)?;
        let lane = self.connections.known_mut(lane_key).ok_or(Flow::Gone)?;
        let (is_leased, armed) = (lane.role() == LaneRole::Lease, lane.carries_blocks());
        if is_leased {
            // Redis 7.0 takes what the connection had written when it began to wait for what it has written at all.
            self.connections.send(&mut self.env, lane_key, STIR, Slot::own(SlotKind::Stir));
        } else {
            lane.detach();
        }
        let kind = if is_leased { SlotKind::Blocking } else { SlotKind::Wait };
        if armed {
            self.send_wait_unarmed(child, lane_key, request.bytes, id);
        } else {
            self.send_for(child, lane_key, request.bytes, id, kind, SlotFlags::MAY_WAIT);
        }
        Ok(Flow::Hold(Hold::BlockingReply))
    }

    /// Whether a child that holds a lease has written on a shared lane since.
    pub(crate) fn wrote_elsewhere(&self, child: &Child, lease: LaneKey) -> bool {
        match child.sent().last_write() {
            LastWrite::On(lane, _) => {
                lane != lease
                    && self.connections.find(lane).is_some_and(|lane| lane.role() == LaneRole::Shared)
            }
            LastWrite::Lost => true,
            LastWrite::None => false,
        }
    }

    /// The lane that carried the child's last write, for a request that may block it; or why there is none.
    fn lane_of_writes(&mut self, child: &mut Child, id: CommandId) -> Result<LaneKey, Flow> {
        let lane_key = match child.sent().last_write() {
            LastWrite::None => self.shared_lane_for(child, id, 0)?,
            LastWrite::Lost => return Err(self.reject(child, WRITES_LOST)),
            LastWrite::On(lane, losses) => {
                let found = self.connections.find(lane);
                if !found.is_some_and(|lane| lane.record().losses == losses && lane.is_ready()) {
                    return Err(self.reject(child, WRITES_LOST));
                }
                let elsewhere = child.sent().lane() != lane || child.lease().is_some();
                if child.is_under_way() && elsewhere {
                    return Err(Flow::Hold(Hold::OwnReplies));
                }
                lane
            }
        };
        if !self.take_for_wait(child, lane_key) {
            return Err(self.wait_for_lane(child));
        }
        child.sent_mut().set_lane(lane_key);
        Ok(lane_key)
    }

    /// Whether the lane may be blocked now. A leased one that has been given back is lent once more, to the child whose
    /// write it carried. On a shared one there is no WAIT, and not on too many: each one has the others' requests go on a
    /// connection more.
    fn take_for_wait(&mut self, child: &mut Child, lane_key: LaneKey) -> bool {
        let Some(lane) = self.connections.known(lane_key) else { return false };
        if lane.role() != LaneRole::Lease {
            let detached = self.connections.lanes().filter(|(_, lane)| lane.is_detached()).count();
            return !lane.is_detached() && detached < self.env.settings.leases_session_max;
        }
        let pool = lane.pool();
        if let Some(group) = lane.lease().filter(|lease| !lease.is_over()).and_then(LeaseState::group) {
            self.free_from_group(group, lane_key);
            return false;
        }
        let full = self.leases.lent(LeaseKind::Blocking) >= LeaseKind::Blocking.cap(&self.env.settings);
        if full || !self.connections.take_idle_lane(pool, lane_key) {
            return false;
        }
        *child.lease_mut() = Some(self.lend(lane_key, Tenant::of(child), LeaseKind::Blocking));
        true
    }

    /// Until the lane is free, or for `lease_wait_timeout`.
    fn wait_for_lane(&mut self, child: &mut Child) -> Flow {
        let (now, after_ms) = (self.env.now, self.env.settings.lease_wait_timeout);
        let begun = Wait::new(LeaseKind::Session, now);
        let since = child.front_mut().wait_mut().get_or_insert(begun).since;
        if self.env.waited(since) >= after_ms {
            return self.reject(child, Failure::Limited(Limit::LastWriteBusy { after_ms }));
        }
        self.env.timers.arm(self.env.wait_ends(since, after_ms), Timer::Child(child.key()));
        self.connections.wait_for_lane(child.key());
        Flow::Hold(Hold::WriteLane)
    }

    /// A lane of a group has taken an element for this child.
    pub(crate) fn note_pop(&mut self, child: &mut Child, lane: LaneKey) {
        let write = self
            .connections
            .find(lane)
            .map_or(LastWrite::Lost, |found| LastWrite::On(lane, found.record().losses));
        child.sent_mut().set_last_write(write);
        child.reads_mut().wrote(self.env.now);
    }

    /// A write of a child has been answered, or will not be.
    pub(crate) fn note_write(
        &mut self,
        child: &mut Child,
        lane: LaneKey,
        frame: &[u8],
        failure: Option<&Failure>,
    ) {
        child.reads_mut().wrote(self.env.now);
        let kind = match failure {
            Some(failure) => failure.kind(),
            // The upstream may be another broker.
            None => frame.strip_prefix(b"-").and_then(FailureKind::of_line),
        };
        match self.connections.find(lane) {
            _ if kind == Some(FailureKind::Lost) => child.sent_mut().set_last_write(LastWrite::Lost),
            Some(now) if now.is_counted() => {
                child.sent_mut().set_last_write(LastWrite::On(lane, now.record().losses));
            }
            // It was never sent.
            _ => {}
        }
    }
}

impl Broker {
    /// Closes lanes that are blocked for a child that has died: its WAIT may have been for ever.
    pub(crate) fn close_orphaned_waits(&mut self) {
        let orphaned = |slot: &Slot| slot.kind == SlotKind::Wait && self.children.get(slot.child).is_none();
        let is_orphaned = |lane: &Lane| lane.is_detached() && lane.front().is_some_and(orphaned);
        for key in self.shared.connections.keys_where(is_orphaned) {
            self.shared.lane_lost(key, "blocked by the WAIT of a child that has died");
        }
    }
}
