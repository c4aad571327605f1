//! New settings in a running broker: bounds and timeouts at once, lanes and leases as they become free, and
//! the move to another upstream. What has been written to the former one is answered by it, what has not
//! goes to the new one; no request is on both.

use crate::config::Settings;
use crate::config::Upstream;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::connection::failure::LOST;
use crate::core::connection::lane::Lane;
use crate::core::connection::lane::LaneRole;
use crate::core::connection::lane::LaneState;
use crate::core::connection::lane::Slot;
use crate::core::keys::LaneKey;
use crate::core::keys::LeaseKind;
use crate::core::keys::PoolId;
use crate::core::notice::Notice;
use crate::core::questions::ask::policy_of;
use crate::core::questions::control::Question;
use crate::core::shared::Shared;
use crate::core::timers::Timer;

impl Shared {
    /// Shared lanes beyond `lanes` take no new child; they go once nothing is on them.
    fn retire_surplus_lanes(&mut self) {
        let most = self.env.settings.lanes;
        for pool in &mut self.connections.pools {
            // Those with most on them stay: the others are free soonest.
            let depth = |key: &LaneKey| self.connections.lanes.get(*key).map_or(0, Lane::depth);
            pool.shared.sort_by_key(|key| std::cmp::Reverse(depth(key)));
            let kept = most.min(pool.shared.len());
            for key in pool.shared.drain(kept..) {
                if let Some(lane) = self.connections.lanes.get_mut(key) {
                    lane.retired = true;
                }
            }
        }
        self.remove_retired_lanes();
    }

    pub(in crate::core) fn remove_retired_lanes(&mut self) {
        for key in self.connections.lanes.keys() {
            let Some(lane) = self.connections.lanes.get(key).filter(|lane| lane.retired && lane.is_idle())
            else {
                continue;
            };
            let pool = lane.pool;
            self.drop_connection(key);
            self.forget_lane(key, pool);
        }
    }

    /// Idle leased lanes that the caps leave no use for.
    fn close_surplus_leases(&mut self, former: &Settings) {
        let caps = LeaseKind::ALL.into_iter().map(|kind| self.lease_cap(kind));
        let most = caps.fold(self.env.settings.leases_warm, usize::saturating_add);
        while self.connections.places.leases > most && self.close_idle_lease() {}
        if self.env.settings.leases_warm < former.leases_warm {
            for index in 0..self.connections.pools.len() {
                let pool = PoolId(index as u32);
                while self.connections.pools[index].idle.len() > self.env.settings.leases_warm {
                    let key = self.pool(pool).idle[0];
                    self.disconnect(key);
                }
            }
        }
    }

    pub(in crate::core) fn close_idle_lease(&mut self) -> bool {
        let idle = self.connections.pools.iter().find_map(|pool| pool.idle.first().copied());
        idle.inspect(|key| self.disconnect(*key)).is_some()
    }

    /// Connections beyond `upstream_connections_max`: idle ones are closed, busy shared ones yield, leases
    /// end in their own time. Shared lanes do not make room for leases that are too many.
    fn shed_places(&mut self) {
        let max = self.env.settings.upstream_connections_max;
        while self.connections.places.open - self.connections.places.yielding > max && self.close_idle_lease()
        {
        }
        while self.connections.places.open - self.connections.places.yielding - self.connections.places.leases
            > max
        {
            let shared = self.connections.lanes.iter().filter(|(_, lane)| lane.role == LaneRole::Shared);
            let ready = shared.filter(|(_, lane)| lane.state == LaneState::Ready);
            let Some((key, _)) = ready.min_by_key(|(_, lane)| (lane.depth(), lane.last_used)) else { return };
            self.start_yield(key);
        }
    }

    /// What is written is answered first; the rest goes on the next connection, as after a loss.
    fn move_shared(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        lane.failures = 0;
        match lane.state {
            LaneState::Ready => {
                lane.former = true;
                self.start_yield(key);
            }
            LaneState::Yielding => lane.former = true,
            LaneState::Connecting | LaneState::Handshaking | LaneState::Backoff => self.dial_afresh(key),
            LaneState::Dormant | LaneState::Waiting => {}
        }
    }

    /// Nothing is on the connection, or nothing that matters: the next one goes to the upstream of now.
    pub(in crate::core) fn dial_afresh(&mut self, key: LaneKey) {
        self.drop_connection(key);
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        if lane.state == LaneState::Backoff {
            lane.set_state(LaneState::Dormant);
            lane.timer = lane.timer.wrapping_add(1);
        }
        if self.is_needed(key) {
            self.want_connection(key);
        }
    }

    /// Whether a leased lane is one too many since a cap was lowered.
    pub(in crate::core) fn has_lease_too_many(&self) -> bool {
        let max = self.env.settings.upstream_connections_max;
        self.connections.places.leases > self.lease_places(LeaseKind::Transaction)
            || self.connections.places.open + self.connections.places.closing > max
    }

    /// Whether a child's lane takes no more requests; then it changes once nothing of it is in flight.
    pub(in crate::core) fn lane_is_closed_to(&self, child: &Child) -> bool {
        self.connections.lanes.get(child.lane).is_some_and(|lane| lane.retired || lane.detached)
    }

    // ---- another upstream -----------------------------------------------------------------------------

    fn move_to(&mut self, upstream: Upstream) {
        log::info!("upstream {} is followed by {upstream}", self.env.upstream);
        let same_home = Upstream { db: upstream.db, ..self.env.upstream.clone() } == upstream;
        self.env.upstream = upstream;
        let pool = self.control_pool();
        if let Some(lane) = self.connections.lanes.get_mut(self.control.lane) {
            lane.pool = pool;
        }
        if !same_home {
            // Another server knows other commands.
            self.control.forget_upstream();
            (self.leases.failures, self.leases.retry_at) = (0, self.env.now);
            for key in self.connections.lanes.keys() {
                match self.connections.lanes.get(key).map(|lane| lane.role) {
                    Some(LaneRole::Shared) => self.move_shared(key),
                    Some(LaneRole::Lease) => self.move_lease(key),
                    Some(LaneRole::Subscriber) => self.move_hub(key),
                    Some(LaneRole::Probe) => self.lane_lost(key, "the upstream has been replaced"),
                    Some(LaneRole::Control) | None => {}
                }
            }
        }
        self.move_control();
    }

    /// An idle lease is closed, one that is lent is not lent again. Whoever waits for an element is asked
    /// to wait at the new upstream; a subscriber would hear nothing any more, and is closed as if the
    /// upstream had gone.
    fn move_lease(&mut self, key: LaneKey) {
        let may_unblock = self.control_is_ready() && !self.control.unblock_refused;
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        lane.former = true;
        lane.burnt = true;
        let (pool, id) = (lane.pool, lane.upstream_id);
        let waits = lane.front().is_some_and(Slot::may_wait);
        let Some(lease) = &mut lane.lease else {
            if let Some(kind) = lane.opening_for.take() {
                self.leases.line(kind).end_opening(pool);
            }
            self.drop_connection(key);
            return self.forget_lane(key, pool);
        };
        let child = lease.child;
        if lease.kind == LeaseKind::Session && !lease.over {
            return self.env.notices.push_back(Notice::Finish(child));
        }
        let may_step_back = waits && lease.group.is_some() && !lease.over && !lease.taking_back;
        if may_step_back && may_unblock {
            lease.taking_back = true;
            lease.unblocking += 1;
            self.leases.taking_back += 1;
            self.ask(Question::Unblock { lane: key, id });
        }
    }

    /// The control connection stays for what was asked on it, but never for longer than it takes to connect.
    fn move_control(&mut self) {
        let key = self.control.lane;
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        lane.failures = 0;
        if lane.state == LaneState::Ready && !lane.is_idle() {
            self.control.leaving = true;
            self.env
                .timers
                .arm(self.env.now + self.env.settings.connect_timeout, Timer::Lane(key, lane.timer));
            return;
        }
        if lane.state != LaneState::Waiting {
            self.replace_control();
        }
    }

    /// Its last answer has come, or will not be waited for.
    pub(in crate::core) fn replace_control(&mut self) {
        let key = self.control.lane;
        self.control_lost();
        self.drop_connection(key);
        let lost = self.connections.lanes.get_mut(key).map(Lane::take_written).unwrap_or_default();
        self.fail_slots(key, lost, LOST);
        self.drop_questions(key);
        self.account_lane(key);
        self.dial_afresh(key);
    }
}

impl Broker {
    /// Takes settings that have been validated, and the upstream they name. The driver dials the new one
    /// from now on. A child keeps its db, and RESET takes it back to the one it began with; the db of a new
    /// upstream URL is where new children begin.
    pub fn reload(&mut self, settings: Settings, upstream: Upstream) {
        let former = std::mem::replace(&mut self.shared.env.settings, settings);
        self.shared.control.set_policy(&policy_of(&self.shared.env.settings));
        self.shared.forget_script_rights();
        if self.shared.env.upstream != upstream {
            self.shared.move_to(upstream);
        }
        self.shared.retire_surplus_lanes();
        self.shared.close_surplus_leases(&former);
        self.shared.shed_places();
        self.shorten_waits(&former);
        // Raised bounds may let somebody in.
        self.shared.connections.places_changed = true;
        self.deliver_notices();
    }

    // ---- bounds ---------------------------------------------------------------------------------------

    /// Deadlines that were armed under the former settings.
    fn shorten_waits(&mut self, former: &Settings) {
        for key in self.children.keys() {
            let Some(child) = self.children.get_mut(key) else { continue };
            match child.hold {
                Hold::InFlight => self.shared.lift(child),
                // Looks at its deadlines afresh, and sets the next timer.
                Hold::Lease => self.shared.env.timers.arm(self.shared.env.now, Timer::Child(key)),
                Hold::Topics => {
                    child.topics_due = self.shared.env.now;
                    self.shared.env.timers.arm(self.shared.env.now, Timer::Child(key));
                }
                Hold::Upstream => {
                    let since = child.upstream_until.map(|until| until.saturating_sub(former.queue_timeout));
                    let until = since.unwrap_or(self.shared.env.now) + self.shared.env.settings.queue_timeout;
                    child.upstream_until = Some(until);
                    self.shared.env.timers.arm(until, Timer::Child(key));
                }
                _ => {}
            }
        }
        let attempt_due = self.shared.env.now + self.shared.env.settings.connect_timeout;
        let pause_due = self.shared.env.now + self.shared.backoff(0);
        for (key, lane) in self.shared.connections.lanes.iter() {
            match lane.state {
                LaneState::Connecting | LaneState::Handshaking => {
                    self.shared.env.timers.arm(attempt_due, Timer::Lane(key, lane.timer));
                }
                LaneState::Backoff
                    if self.shared.env.settings.reconnect_backoff_max < former.reconnect_backoff_max =>
                {
                    self.shared.env.timers.arm(pause_due, Timer::Lane(key, lane.timer));
                }
                _ => {}
            }
        }
        if self.shared.leases.retry_at > pause_due {
            self.shared.leases.retry_at = pause_due;
            self.shared.env.timers.arm(pause_due, Timer::Leases);
        }
    }
}

#[cfg(test)]
mod tests;
