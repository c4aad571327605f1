//! WAIT and WAITAOF. Redis counts replicas that have what *the connection* wrote last, and blocks the connection until
//! there are enough. So a child's WAIT goes on the very lane that carried its last write, and that lane is detached
//! meanwhile: nobody else's requests stand behind it. If the lane has been lost since, no other one can tell.

use super::broker::Broker;
use super::child::{Child, Hold, Wait};
use super::dispatch::Flow;
use super::lane::{Lane, LaneRole, LaneState, Slot, SlotKind};
use super::lease::LeaseKind;
use super::timers::Timer;
use crate::base::key::Key;
use crate::command::CommandId;
use crate::resp::Request;

const WRITES_LOST: &str =
    "BROKERLOST the connection that carried the last write was lost; its replicas are not known";

/// Which connection a child's last write went on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum LastWrite {
    /// It has written nothing.
    #[default]
    None,
    /// On this lane, while it had lost so many connections.
    On(Key<Lane>, u32),
    /// Perhaps executed, on a connection that is gone.
    Lost,
}

impl Broker {
    /// A write of a child has been answered, or will not be.
    pub(super) fn note_write(&mut self, lane: Key<Lane>, slot: &Slot, frame: &[u8]) {
        let Some(child) = self.children.get_mut(slot.child) else { return };
        match self.lanes.get(lane) {
            _ if frame.starts_with(b"-BROKERLOST") => child.last_write = LastWrite::Lost,
            Some(lane_now) if lane_now.holds_place() => {
                child.last_write = LastWrite::On(lane, lane_now.losses)
            }
            // It was never sent.
            _ => {}
        }
    }

    pub(super) fn wait_for_replicas(
        &mut self,
        key: Key<Child>,
        request: &Request<'_>,
        id: CommandId,
    ) -> Flow {
        let lane_key = match self.lane_of_writes(key, id) {
            Ok(lane) => lane,
            Err(flow) => return flow,
        };
        let Some(lane) = self.lanes.get_mut(lane_key) else { return Flow::Gone };
        if lane.role == LaneRole::Lease {
            self.send_for(key, lane_key, request.bytes, id, SlotKind::Blocking, 0);
            return Flow::Hold(Hold::Element);
        }
        lane.detached = true;
        self.send_for(key, lane_key, request.bytes, id, SlotKind::Wait, 0);
        Flow::Hold(Hold::Element)
    }

    /// Whether a child that holds a lease has written on a shared lane since.
    pub(super) fn wrote_elsewhere(&self, key: Key<Child>, lease: Key<Lane>) -> bool {
        match self.children.get(key).map(|child| child.last_write) {
            Some(LastWrite::On(lane, _)) => {
                lane != lease && self.lanes.get(lane).is_some_and(|lane| lane.role == LaneRole::Shared)
            }
            Some(LastWrite::Lost) => true,
            _ => false,
        }
    }

    /// The lane that carried the child's last write, for a request that may block it; or why there is none.
    fn lane_of_writes(&mut self, key: Key<Child>, id: CommandId) -> Result<Key<Lane>, Flow> {
        let Some(child) = self.children.get(key) else { return Err(Flow::Gone) };
        let lane_key = match child.last_write {
            LastWrite::None => self.shared_lane_for(key, id, 0)?,
            LastWrite::Lost => return Err(self.reject(key, WRITES_LOST)),
            LastWrite::On(lane, losses) => {
                let found = self.lanes.get(lane).filter(|lane| lane.losses == losses);
                let elsewhere = child.lane != lane || child.lease.is_some();
                match found.map(|lane| lane.state) {
                    Some(LaneState::Ready) if child.is_under_way() && elsewhere => {
                        return Err(Flow::Hold(Hold::Drained));
                    }
                    Some(LaneState::Ready) => lane,
                    _ => return Err(self.reject(key, WRITES_LOST)),
                }
            }
        };
        if !self.may_detach(lane_key) || !self.lend_for_wait(key, lane_key) {
            return Err(self.wait_for_lane(key));
        }
        if let Some(child) = self.children.get_mut(key) {
            child.lane = lane_key;
        }
        Ok(lane_key)
    }

    /// Whether a shared lane may be blocked now. Nobody else's WAIT is on it, and not too many are: each one has
    /// the others' requests go on a connection more.
    fn may_detach(&self, key: Key<Lane>) -> bool {
        let Some(lane) = self.lanes.get(key) else { return false };
        let detached = self.lanes.iter().filter(|(_, lane)| lane.detached).count();
        lane.role == LaneRole::Lease || (!lane.detached && detached < self.settings.leases_session_max)
    }

    /// A leased lane that has been given back is lent once more to the child whose write it carried.
    fn lend_for_wait(&mut self, key: Key<Child>, lane_key: Key<Lane>) -> bool {
        let Some(lane) = self.lanes.get(lane_key) else { return false };
        if lane.role != LaneRole::Lease {
            return true;
        }
        let pool = lane.pool;
        let in_use = self.leases.line_ref(LeaseKind::Blocking).in_use;
        let idle = &mut self.pool(pool).idle;
        let Some(at) = idle.iter().position(|idle| *idle == lane_key) else { return false };
        if in_use >= self.lease_cap(LeaseKind::Blocking) {
            return false;
        }
        self.pool(pool).idle.remove(at);
        self.lend(lane_key, key, LeaseKind::Blocking, None);
        true
    }

    /// Until the lane is free, or for `lease_wait_timeout`.
    fn wait_for_lane(&mut self, key: Key<Child>) -> Flow {
        let now = self.now;
        let Some(child) = self.children.get_mut(key) else { return Flow::Gone };
        let begun = Wait::new(LeaseKind::Session, now);
        let due = child.wait.get_or_insert(begun).since + self.settings.lease_wait_timeout;
        if due <= now {
            return self.wait_lane_over(key);
        }
        self.timers.arm(due, Timer::Child(key));
        self.lane_waiters.push(key);
        Flow::Hold(Hold::WaitLane)
    }

    /// The lane was not free in time.
    pub(super) fn wait_lane_over(&mut self, key: Key<Child>) -> Flow {
        let limit = self.settings.lease_wait_timeout;
        self.reject(
            key,
            format!("BROKERLIMIT the connection that carried the last write is busy for {limit} ms"),
        )
    }

    /// A lane is free again: whoever waits for one looks whether it is theirs.
    pub(super) fn wake_lane_waiters(&mut self) {
        for key in std::mem::take(&mut self.lane_waiters) {
            if self.children.get(key).is_some_and(|child| child.hold == Hold::WaitLane) {
                self.lift(key);
            }
        }
    }

    /// A WAIT has been answered: the lane is shared again.
    pub(super) fn wait_answered(&mut self, lane: Key<Lane>) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.detached = false;
        }
        self.wake_lane_waiters();
    }

    /// Closes lanes that are blocked for a child that has died: its WAIT may have been for ever.
    pub(super) fn close_orphaned_waits(&mut self) {
        for key in self.lanes.keys() {
            let front = self.lanes.get(key).filter(|lane| lane.detached).and_then(Lane::front);
            let orphaned = front
                .is_some_and(|slot| slot.kind == SlotKind::Wait && self.children.get(slot.child).is_none());
            if orphaned {
                self.lane_lost(key, "blocked by the WAIT of a child that has died");
                self.wake_lane_waiters();
            }
        }
    }
}
