//! Connections to a server that is the master no more. They write not one byte more, and may answer what was written for
//! `failover_grace`; what was not written goes where requests go from now on. All of them change sides in one step. Never
//! which server that is.

use crate::config::endpoint::{Address, UpstreamPlace};
use crate::core::connection::lane::Lane;
use crate::core::connection::role::LaneRole;
use crate::core::connection::slot::Slot;
use crate::core::keys::{LaneKey, LeaseKind};
use crate::core::lease::groups::Group;
use crate::core::lease::state::LeaseState;
use crate::core::nodes::sentinels::MasterChange;
use crate::core::pubsub::SubscriberLoss;
use crate::core::shared::Shared;
use crate::core::timers::Timer;

const FORMER: &str = "it leads to a server that is the master no more";

/// Whether anything was written that is to be answered. What was not is never written by a former lane.
fn owes_answers(lane: &Lane) -> bool {
    lane.has_written() || !lane.withheld().is_empty()
}

impl Shared {
    /// Where lanes are connected to; none as long as no sentinel has named a master.
    pub(crate) fn address(&self) -> Option<&Address> {
        match &self.env.upstream.place {
            UpstreamPlace::Server(address) => Some(address),
            UpstreamPlace::Watched(_) => self.sentinels.master(),
        }
    }

    /// Goes where the sentinels have said that the master is, if that is news. From then on not a byte more is written to the
    /// former one.
    pub(crate) fn follow_master(&mut self) -> bool {
        let Some(change) = self.sentinels.take_change() else { return false };
        let MasterChange { former, address, epoch, told_by, .. } = change;
        self.master.forget();
        let Some(former) = former else {
            log::info!("the master is {address}: sentinel {told_by}, epoch {epoch}");
            self.dial_at_once();
            return true;
        };
        log::warn!("the master is {address}, and was {former}: sentinel {told_by}, epoch {epoch}");
        self.leave_server(None);
        true
    }

    /// There is an address. What waits for one connects; what is connected leads to another upstream, from before a reload,
    /// and has been left.
    fn dial_at_once(&mut self) {
        self.connections.forget_bar();
        for key in self.connections.keys() {
            self.dial_if_unconnected(key);
        }
    }

    /// False if it is connected. A lease that is not has nothing on it: another is opened for whoever waits.
    fn dial_if_unconnected(&mut self, key: LaneKey) -> bool {
        let waits = |lane: &&mut Lane| lane.is_connecting() || lane.is_backing_off();
        let Some(lane) = self.connections.find_mut(key).filter(waits) else { return false };
        lane.forget_failures();
        if lane.role() == LaneRole::Lease {
            self.connections.remove(&mut self.env, key);
        } else {
            self.connections.dial_afresh(&mut self.env, key);
        }
        true
    }

    /// No request is written any more where the connections lead that there are, but for one.
    pub(crate) fn leave_server(&mut self, but: Option<LaneKey>) {
        self.control.forget_upstream();
        self.connections.forget_bar();
        self.leases.upstream_replaced(self.env.now);
        let keys = self.connections.keys().into_iter().filter(|key| Some(*key) != but);
        self.leave_lanes(keys.collect());
    }

    /// The same of some connections.
    pub(super) fn leave_lanes(&mut self, keys: Vec<LaneKey>) {
        self.env.counters.upstream_switches += 1;
        let mut leaves_control = false;
        for key in keys {
            // The end of one may be the end of another.
            match self.connections.find(key).map(Lane::role) {
                Some(role) if role != LaneRole::Control && self.dial_if_unconnected(key) => {}
                Some(LaneRole::Shared) => self.leave_shared(key),
                Some(LaneRole::Lease) => self.leave_lease(key),
                Some(LaneRole::Subscriber) => self.leave_subscriber(key),
                Some(LaneRole::Probe) => self.lane_lost(key, FORMER),
                Some(LaneRole::Control) => leaves_control = true,
                None => {}
            }
        }
        // Last: blocked commands are taken back on it.
        if leaves_control {
            self.move_control();
        }
        self.env.timers.arm(self.env.now + self.env.settings.failover_grace, Timer::Former);
    }

    /// Marks the lane. False if it has gone.
    fn become_former(&mut self, key: LaneKey) -> bool {
        let until = self.env.now + self.env.settings.failover_grace;
        let found = self.connections.find_mut(key);
        found.map(|lane| lane.become_former(until)).is_some()
    }

    /// Whoever has nothing on it goes on elsewhere at once: it is replaced, and takes no further request.
    fn leave_shared(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.known_mut(key) else { return };
        lane.forget_failures();
        if !(lane.is_ready() || lane.is_yielding()) {
            return;
        }
        let (is_ready, owes) = (lane.is_ready(), lane.is_owed_replies());
        self.become_former(key);
        if owes {
            self.connections.replace(key);
        }
        if is_ready {
            self.connections.start_yield(&mut self.env, key);
        } else {
            self.connections.finish_yield(&mut self.env, key);
        }
    }

    /// What is watched is lost, and so is a MULTI. What waits for an element is asked to end, and waits at the new server;
    /// what waits for what comes from now on has missed something.
    fn leave_lease(&mut self, key: LaneKey) {
        self.become_former(key);
        let Some(lane) = self.connections.known(key) else { return };
        let (owes, waits) = (owes_answers(lane), lane.front().is_some_and(Slot::may_wait));
        let Some(lease) = lane.lease() else { return self.connections.remove(&mut self.env, key) };
        if lease.is_over() {
            return;
        }
        let restarts = |lease: &LeaseState| {
            lease.group().is_some_and(|group| self.groups.get(group).is_some_and(Group::restarts))
        };
        let ends = match lease.kind() {
            LeaseKind::Session => true,
            LeaseKind::Transaction => false,
            LeaseKind::Blocking => waits && lease.group().is_some() && !restarts(lease),
        };
        if ends || !owes {
            return self.lane_lost(key, FORMER);
        }
        self.move_lease(key);
    }

    /// A leased lane has answered: it was to end with that. What had not left goes nowhere any more, and what stood behind
    /// a look may be all that waits.
    pub(crate) fn leave_lease_if_answered(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.find(key).filter(|lane| lane.is_former()) else { return };
        if lane.lease().is_none_or(LeaseState::is_over) {
            return;
        }
        if !owes_answers(lane) {
            self.lane_lost(key, FORMER);
        } else if self.control.is_leaving() {
            self.end_wait(key);
        }
    }

    fn leave_subscriber(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.known_mut(key) else { return };
        lane.forget_failures();
        if lane.owed() > 0 && lane.is_ready() {
            if owes_answers(lane) {
                self.become_former(key);
                return;
            }
            // They were to be counted on this very connection.
            self.fail_unwritten(key);
        }
        self.live_hubs().disconnected(key, SubscriberLoss::UpstreamReplaced);
    }

    /// Those that have not answered within `failover_grace` are lost.
    pub(crate) fn end_former(&mut self) {
        let now = self.env.now;
        let due = |lane: &Lane| lane.former_until().is_some_and(|until| until <= now);
        for key in self.connections.keys_where(due) {
            self.lane_lost(key, "no answer within failover_grace from a server that is the master no more");
        }
    }
}
