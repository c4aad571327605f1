//! Reads from replicas (`?read=replica`). A child's reads go on lanes of a pool of their own, which leads to the replica that
//! the child keeps to; where that fails, the same lane leads to another one or to the master, so that what has not left is
//! answered all the same. Nothing but reads stands on such a lane, wherever it leads. Never which replicas are sound.

use crate::command::CommandId;
use crate::config::endpoint::Address;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::{LaneRole, Traffic};
use crate::core::keys::{LaneKey, PoolKey};
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::resp::reply;

impl Shared {
    /// The lane for a request of a child that reads from replicas. It reads what it has written: while anything of it is
    /// under way to the master, and for a moment after the last write, the master is asked.
    #[inline(never)]
    pub(crate) fn lane_by_reads(
        &mut self,
        child: &mut Child,
        id: CommandId,
        len: usize,
    ) -> Result<LaneKey, Flow> {
        if !self.commands.table().is_some_and(|table| table.is_replica_read(id)) {
            return self.shared_lane_for(child, id, len);
        }
        let replica = if child.is_under_way() {
            self.connections.find_with_key(child.sent().lane()).map_or(0, |(_, pool)| pool.replica)
        } else if child.reads().must_see_writes(self.env.now) {
            0
        } else {
            self.replica_of(child)
        };
        let traffic = if self.expects_heavy(child, id, len) { Traffic::Bulk } else { Traffic::Ordinary };
        let pool = PoolKey { replica, ..child.pool_key() };
        self.lane_in(child, pool, traffic)
    }

    fn replica_of(&mut self, child: &mut Child) -> u8 {
        if child.reads().replica() == 0 {
            let replica = self.sentinels.replicas_mut().give(self.env.now);
            child.reads_mut().keep_to(replica);
        }
        child.reads().replica()
    }

    /// Where a lane is to be connected to, which it is noted to lead to. None as long as no sentinel has named a master.
    fn dialled_address(&mut self, key: LaneKey) -> Option<(&Address, bool)> {
        let number = self.connections.find_with_key(key).map_or(0, |(_, pool)| pool.replica);
        let serving = self.sentinels.replicas().serving(number, self.env.now);
        let leads_to = serving.map_or(0, |(number, _)| number);
        if let Some(lane) = self.connections.find_mut(key) {
            lane.lead_to(leads_to);
        }
        let address = serving.map(|(_, address)| address).or_else(|| self.address());
        address.map(|address| (address, leads_to == 0))
    }

    /// A lane could not be connected. Whether that is a replica's own affair: the master knows nothing of it.
    pub(crate) fn replica_failed(&mut self, key: LaneKey) -> bool {
        let number = self.connections.find(key).map_or(0, Lane::leads_to);
        self.sentinels.replicas_mut().bar(number, self.env.now);
        number != 0
    }

    /// A request was answered with an error. A replica that loads its data, has lost its master or is busy is left for a while.
    /// Whether it was that: it says nothing of the master.
    pub(crate) fn note_refusal_of_read(&mut self, key: LaneKey, frame: &[u8]) -> bool {
        let cannot = matches!(reply::error_code(frame), Some(b"LOADING" | b"MASTERDOWN" | b"BUSY"));
        let is_of_replica = cannot && self.replica_failed(key);
        if is_of_replica {
            self.leave_replica(key);
        }
        is_of_replica
    }

    /// Lanes that lead elsewhere than they would if they were connected now are connected anew, once they are answered.
    pub(crate) fn follow_replicas(&mut self) {
        if !self.sentinels.replicas_mut().take_changed() {
            return;
        }
        for key in self.connections.keys_where(|lane| lane.role() == LaneRole::Shared) {
            let Some((lane, pool)) =
                self.connections.find_with_key(key).filter(|(_, pool)| pool.replica != 0)
            else {
                continue;
            };
            let serving = self.sentinels.replicas().serving(pool.replica, self.env.now);
            if serving.map_or(0, |(number, _)| number) != lane.leads_to() {
                self.leave_replica(key);
            }
        }
    }

    fn leave_replica(&mut self, key: LaneKey) {
        if self.connections.find(key).is_some_and(Lane::is_ready) {
            self.connections.start_yield(&mut self.env, key);
        }
    }
}

impl Broker {
    /// Where this lane is to be connected to, and whether that is the upstream itself; none as long as no sentinel has named a
    /// master.
    pub fn lane_address(&mut self, key: LaneKey) -> Option<(&Address, bool)> {
        self.shared.dialled_address(key)
    }
}
