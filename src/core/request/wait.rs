//! WAIT and WAITAOF. Redis counts replicas that have what *the connection* wrote last, and blocks the connection until
//! there are enough. So a child's WAIT goes on the very lane that carried its last write, and that lane is detached
//! meanwhile: nobody else's requests stand behind it. If the lane has been lost since, no other one can tell.

use crate::command::CommandId;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::child::hold::Wait;
use crate::core::child::last_write::LastWrite;
use crate::core::connection::lane::Lane;
use crate::core::connection::lane::LaneRole;
use crate::core::connection::lane::LaneState;
use crate::core::connection::slot::SlotFlags;
use crate::core::connection::slot::SlotKind;
use crate::core::keys::LaneKey;
use crate::core::keys::LeaseKind;
use crate::core::lease::state::Tenant;
use crate::core::notice::Notice;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::core::timers::Timer;
use crate::resp::Request;

pub(in crate::core) const WRITES_LOST: &str =
    "BROKERLOST the connection that carried the last write was lost; its replicas are not known";

impl Shared {
    pub(in crate::core) fn wait_for_replicas(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        id: CommandId,
    ) -> Flow {
        let lane_key = match self.lane_of_writes(child, id) {
            Ok(lane) => lane,
            Err(flow) => return flow,
        };
        let Some(lane) = self.connections.lanes.get_mut(lane_key) else { return Flow::Gone };
        if lane.role() == LaneRole::Lease {
            self.send_for(child, lane_key, request.bytes, id, SlotKind::Blocking, SlotFlags::MAY_WAIT);
            return Flow::Hold(Hold::BlockingReply);
        }
        lane.set_detached(true);
        self.send_for(child, lane_key, request.bytes, id, SlotKind::Wait, SlotFlags::MAY_WAIT);
        Flow::Hold(Hold::BlockingReply)
    }

    /// Whether a child that holds a lease has written on a shared lane since.
    pub(in crate::core) fn wrote_elsewhere(&self, child: &Child, lease: LaneKey) -> bool {
        match Some(child.last_write) {
            Some(LastWrite::On(lane, _)) => {
                lane != lease
                    && self.connections.lanes.get(lane).is_some_and(|lane| lane.role() == LaneRole::Shared)
            }
            Some(LastWrite::Lost) => true,
            _ => false,
        }
    }

    /// The lane that carried the child's last write, for a request that may block it; or why there is none.
    fn lane_of_writes(&mut self, child: &mut Child, id: CommandId) -> Result<LaneKey, Flow> {
        let lane_key = match child.last_write {
            LastWrite::None => self.shared_lane_for(child, id, 0)?,
            LastWrite::Lost => return Err(self.reject(child, WRITES_LOST)),
            LastWrite::On(lane, losses) => {
                let found = self.connections.lanes.get(lane).filter(|lane| lane.losses() == losses);
                let elsewhere = child.lane != lane || child.lease.is_some();
                match found.map(|lane| lane.state) {
                    Some(LaneState::Ready) if child.is_under_way() && elsewhere => {
                        return Err(Flow::Hold(Hold::OwnReplies));
                    }
                    Some(LaneState::Ready) => lane,
                    _ => return Err(self.reject(child, WRITES_LOST)),
                }
            }
        };
        if !self.may_detach(lane_key) || !self.lend_for_wait(child, lane_key) {
            return Err(self.wait_for_lane(child));
        }
        child.lane = lane_key;
        Ok(lane_key)
    }

    /// Whether a shared lane may be blocked now. Nobody else's WAIT is on it, and not too many are: each one has
    /// the others' requests go on a connection more.
    fn may_detach(&self, key: LaneKey) -> bool {
        let Some(lane) = self.connections.lanes.get(key) else { return false };
        let detached = self.connections.lanes.iter().filter(|(_, lane)| lane.is_detached()).count();
        lane.role() == LaneRole::Lease
            || (!lane.is_detached() && detached < self.env.settings.leases_session_max)
    }

    /// A leased lane that has been given back is lent once more to the child whose write it carried.
    fn lend_for_wait(&mut self, child: &mut Child, lane_key: LaneKey) -> bool {
        let Some(lane) = self.connections.lanes.get(lane_key) else { return false };
        if lane.role() != LaneRole::Lease {
            return true;
        }
        let pool = lane.pool();
        let in_use = self.leases.lent(LeaseKind::Blocking);
        let idle = &mut self.pool(pool).idle;
        let Some(at) = idle.iter().position(|idle| *idle == lane_key) else { return false };
        if in_use >= self.lease_cap(LeaseKind::Blocking) {
            return false;
        }
        self.pool(pool).idle.remove(at);
        child.lease = Some(self.lend(lane_key, Tenant::of(child), LeaseKind::Blocking, None));
        true
    }

    /// Until the lane is free, or for `lease_wait_timeout`.
    fn wait_for_lane(&mut self, child: &mut Child) -> Flow {
        let now = self.env.now;
        let begun = Wait::new(LeaseKind::Session, now);
        let due = child.front_mut().waits_since(begun) + self.env.settings.lease_wait_timeout;
        if due <= now {
            return self.wait_lane_over(child);
        }
        self.env.timers.arm(due, Timer::Child(child.key));
        self.connections.lane_waiters.push(child.key);
        Flow::Hold(Hold::WriteLane)
    }

    /// The lane was not free in time.
    pub(in crate::core) fn wait_lane_over(&mut self, child: &mut Child) -> Flow {
        let limit = self.env.settings.lease_wait_timeout;
        self.reject(
            child,
            format!("BROKERLIMIT the connection that carried the last write is busy for {limit} ms"),
        )
    }

    /// A lane is free again: whoever waits for one looks whether it is theirs.
    pub(in crate::core) fn wake_lane_waiters(&mut self) {
        for child in std::mem::take(&mut self.connections.lane_waiters) {
            self.env.notices.push_back(Notice::Lift(child, Hold::WriteLane));
        }
    }

    /// A WAIT has been answered: the lane is shared again.
    pub(in crate::core) fn wait_answered(&mut self, lane: LaneKey) {
        if let Some(lane) = self.connections.lanes.get_mut(lane) {
            lane.set_detached(false);
        }
        self.wake_lane_waiters();
    }

    /// A write of a child has been answered, or will not be.
    pub(in crate::core) fn note_write(&mut self, child: &mut Child, lane: LaneKey, frame: &[u8]) {
        match self.connections.lanes.get(lane) {
            _ if frame.starts_with(b"-BROKERLOST") => child.last_write = LastWrite::Lost,
            Some(lane_now) if lane_now.holds_place() => {
                child.last_write = LastWrite::On(lane, lane_now.losses)
            }
            // It was never sent.
            _ => {}
        }
    }
}

impl Broker {
    /// Closes lanes that are blocked for a child that has died: its WAIT may have been for ever.
    pub(in crate::core) fn close_orphaned_waits(&mut self) {
        for key in self.shared.connections.lanes.keys() {
            let front = self
                .shared
                .connections
                .lanes
                .get(key)
                .filter(|lane| lane.is_detached())
                .and_then(Lane::front);
            let orphaned = front
                .is_some_and(|slot| slot.kind == SlotKind::Wait && self.children.get(slot.child).is_none());
            if orphaned {
                self.shared.lane_lost(key, "blocked by the WAIT of a child that has died");
                self.shared.wake_lane_waiters();
            }
        }
    }
}
