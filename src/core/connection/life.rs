//! The life of a lane's connection: who may dial, who makes room for another, who yields, who is closed. Owns the moves
//! between states; never what children are told when a move was not on purpose.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::config::Settings;
use crate::core::action::Action;
use crate::core::connection::Connections;
use crate::core::connection::capacity::Capacity;
use crate::core::connection::lane::{Lane, LaneState};
use crate::core::connection::lanes::lift;
use crate::core::connection::role::LaneRole;
use crate::core::connection::slot::Slot;
use crate::core::env::Env;
use crate::core::keys::{LaneKey, LeaseKind};
use crate::core::notice::{ChildNotice, Notice};
use crate::core::timers::Timer;

impl Connections {
    /// Moves a lane to another state, and with it the lines and the counts.
    pub(super) fn change_state(&mut self, key: LaneKey, to: LaneState) {
        let Some(lane) = self.lanes.get_mut(key) else { return debug_assert!(false, "no lane {key:?}") };
        let role = lane.role();
        self.capacity.enter(key, role, &to);
        let from = lane.set_state(to);
        self.capacity.leave(key, role, &from);
    }

    pub(crate) fn want(&mut self, env: &mut Env, key: LaneKey) {
        let Some(lane) = self.known(key).filter(|lane| lane.is_dormant()) else { return };
        let role = lane.role();
        if !self.may_dial_as(role, env.now) {
            return self.change_state(key, LaneState::Parked);
        }
        let leased = self.capacity.leases >= self.leases_max(&env.settings, LeaseKind::Session);
        if leased && role == LaneRole::Subscriber {
            // No shared lane has to yield for it: what it waits for is the end of a lease.
            self.close_idle_lease(env, None);
            return self.change_state(key, LaneState::Parked);
        }
        if self.make_room(env, role, false) {
            return self.dial(env, key);
        }
        self.change_state(key, LaneState::Waiting);
        self.ask_to_yield(env);
    }

    /// The same of a lane that may have no use for a connection.
    pub(super) fn want_if_needed(&mut self, env: &mut Env, key: LaneKey) {
        if self.known(key).is_some_and(Lane::is_needed) {
            self.want(env, key);
        }
    }

    pub(crate) fn dial(&mut self, env: &mut Env, key: LaneKey) {
        self.change_state(key, LaneState::Connecting);
        self.bar.begins_to_dial(key);
        debug_assert!(self.counted(&env.settings) <= self.capacity.places(&env.settings));
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.note_upstream(env.upstream_number);
        }
        self.arm(env, key, env.now + env.settings.connect_timeout);
        env.counters.upstream_connects += 1;
        env.actions.push(Action::Connect(key));
    }

    /// The connection leads to the upstream of this number, though it was dialled for another.
    pub(crate) fn keep_for(&mut self, key: LaneKey, upstream_number: u32) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.note_upstream(upstream_number);
        }
    }

    pub(super) fn back_off(&mut self, env: &mut Env, key: LaneKey, failures: u32) {
        let due = env.now + env.backoff(failures);
        self.change_state(key, LaneState::Backoff);
        self.arm(env, key, due);
    }

    fn arm(&mut self, env: &mut Env, key: LaneKey, due: Millis) {
        if let Some(lane) = self.lanes.get_mut(key) {
            env.timers.arm(due, Timer::Lane(key, lane.next_timer()));
        }
    }

    pub(crate) fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    pub(crate) fn is_changed(&self) -> bool {
        self.capacity.changed
    }

    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.capacity.changed)
    }

    /// There may be room for more connections or leases: those who wait are served at the end of the event.
    pub(crate) fn mark_changed(&mut self) {
        self.capacity.changed = true;
    }

    /// Whether one more connection may be opened now. If not, and none is closing already for this lane,
    /// an idle one is evicted: there is room once the upstream has closed it. Room for one is always kept for each of
    /// the broker's own lanes.
    pub(crate) fn make_room(&mut self, env: &mut Env, role: LaneRole, is_waiting: bool) -> bool {
        if self.has_room(&env.settings, role) {
            return true;
        }
        let max = self.capacity.places(&env.settings);
        let wanted_by_others = self.capacity.wanted() - usize::from(is_waiting);
        let unused = self.lanes.iter().filter(|(_, lane)| lane.is_unused());
        if self.capacity.closing <= wanted_by_others
            && let Some((longest, _)) = unused.min_by_key(|(_, lane)| lane.record().last_used)
        {
            log::debug!("upstream connections: all {max} in use, closing an idle one");
            self.disconnect(env, longest);
        }
        false
    }

    /// Whether one more connection may be opened without the end of another.
    pub(super) fn has_room(&self, settings: &Settings, role: LaneRole) -> bool {
        let own = self.own.iter().filter_map(|key| self.lanes.get(*key));
        let kept = own.filter(|lane| lane.role() != role && !lane.is_counted()).count();
        self.counted(settings) + kept < self.capacity.places(settings)
    }

    /// What counts against a new one. Other lanes must not wait for the end of leases that a lowered cap made too many.
    fn counted(&self, settings: &Settings) -> usize {
        if self.capacity.granted.is_some() {
            // What is beyond may be another process'.
            return self.capacity.held();
        }
        let leases_max = self.leases_max(settings, LeaseKind::Transaction);
        self.capacity.held() - self.capacity.leases.saturating_sub(leases_max)
    }

    /// The shared lane connected for longest finishes what it has written and gives its connection to who needs one.
    pub(crate) fn ask_to_yield(&mut self, env: &mut Env) {
        if !self.may_dial(env.now) {
            // Nobody could use what is given up.
            return;
        }
        while self.capacity.yielding + self.capacity.closing < self.capacity.wanted() {
            let may_yield = |lane: &Lane| lane.is_shared() && lane.is_ready() && !lane.is_detached();
            let shared = self.lanes.iter().filter(|(_, lane)| may_yield(lane));
            let due = |lane: &Lane| lane.record().connected_at + limits::LANE_HOLD_MIN;
            let victim = shared.map(|(key, lane)| (key, due(lane))).min_by_key(|(_, due)| *due);
            match victim {
                Some((key, due)) if due <= env.now => self.start_yield(env, key),
                Some((_, due)) => return env.timers.arm(due, Timer::Yield),
                None => return,
            }
        }
    }

    /// The lane writes only the rest of what has begun to leave, and gives its connection up once all is answered.
    pub(crate) fn start_yield(&mut self, env: &mut Env, key: LaneKey) {
        let Some(lane) = self.known(key) else { return };
        let Some(link) = lane.link() else { return debug_assert!(false, "yields without a connection") };
        let end = lane.out().end_of_written();
        self.change_state(key, LaneState::Yielding { link, end });
        self.mark(key);
        self.finish_yield(env, key);
    }

    /// A yielding lane with nothing written left to wait for gives its connection up.
    pub(crate) fn finish_yield(&mut self, env: &mut Env, key: LaneKey) {
        let is_done =
            |lane: &Lane| lane.is_yielding() && lane.outgoing().is_empty() && !lane.is_owed_replies();
        // Its last reply may have ended it.
        if self.lanes.get(key).is_some_and(is_done) {
            self.disconnect(env, key);
        }
    }

    /// Closes a lane's connection on purpose. Nothing written may be waiting on it.
    pub(crate) fn disconnect(&mut self, env: &mut Env, key: LaneKey) {
        let owes_nothing = |lane: &Lane| !lane.has_written();
        debug_assert!(self.known(key).is_some_and(owes_nothing), "closing a lane that owes replies");
        self.drop_connection(env, key);
        match self.known(key) {
            Some(lane) if lane.role() == LaneRole::Lease => self.remove(env, key),
            Some(lane) if !lane.is_idle() => self.change_state(key, LaneState::Waiting),
            _ => {}
        }
    }

    /// Has the driver close the connection, if there is one; the lane is Dormant then.
    pub(crate) fn drop_connection(&mut self, env: &mut Env, key: LaneKey) {
        let Some(lane) = self.known_mut(key).filter(|lane| lane.is_counted()) else { return };
        let link = lane.link();
        lane.forget_connection();
        self.change_state(key, LaneState::Dormant);
        self.account(env, key);
        self.capacity.changed = true;
        if let Some(at) = env.actions.iter().position(|action| *action == Action::Connect(key)) {
            // The driver has not even begun to dial.
            env.actions.remove(at);
        } else {
            self.capacity.closing += 1;
            env.actions.push(Action::CloseLane { lane: key, link });
        }
    }

    /// Nothing is on the connection, or nothing that matters: the next one goes to the upstream of now.
    pub(crate) fn dial_afresh(&mut self, env: &mut Env, key: LaneKey) {
        self.drop_connection(env, key);
        if let Some(lane) = self.lanes.get_mut(key)
            && lane.is_backing_off()
        {
            lane.next_timer();
            self.change_state(key, LaneState::Dormant);
        }
        self.want_if_needed(env, key);
    }

    /// Removes a lane for good, and its connection with it.
    pub(crate) fn remove(&mut self, env: &mut Env, key: LaneKey) {
        self.drop_connection(env, key);
        let Some(mut lane) = self.lanes.remove(key) else { return debug_assert!(false, "no lane {key:?}") };
        self.capacity.leave(key, lane.role(), lane.state());
        self.pool_mut(lane.pool()).forget(key);
        env.memory -= lane.footprint();
        lift(env, lane.take_held());
        // Replies that were overdue will not come any more: nothing has to wait for them.
        let overdue = lane.take_written().into_iter().chain(lane.take_all());
        for slot in overdue.filter(Slot::is_timed_out) {
            env.notify(Notice::Child(slot.child, ChildNotice::Overdue));
        }
    }

    pub(crate) fn close_all(&mut self, env: &mut Env) {
        for key in self.lanes.keys() {
            self.drop_connection(env, key);
            if let Some(lane) = self.lanes.remove(key) {
                env.memory -= lane.footprint();
            }
        }
        debug_assert_eq!(self.capacity.open, 0, "a connection was leaked");
    }

    /// Closes connections that have not been used for `limit`. Warm leases stay for as long as their pool is used at all.
    pub(crate) fn close_unused(&mut self, env: &mut Env, limit: Millis) {
        let now = env.now;
        let rests = |lane: &Lane| now.saturating_sub(lane.record().last_used) >= limit;
        for key in self.keys_where(|lane| lane.is_unused() && rests(lane)) {
            let Some(lane) = self.known(key) else { continue };
            if lane.role() == LaneRole::Lease {
                let id = lane.pool();
                let pool = self.pool(id);
                let used = pool.shared.iter().filter_map(|key| self.known(*key)).any(|lane| !rests(lane));
                if used && pool.idle.len() <= env.settings.leases_warm {
                    continue;
                }
                self.pool_mut(id).warm = used;
            }
            self.disconnect(env, key);
        }
    }

    /// Whether another process has a part of what the settings allow.
    pub(crate) fn are_shared_out(&self) -> bool {
        self.capacity.granted.is_some()
    }

    /// From now on only so many of the places are this process': connections beyond are given up as soon as nothing is on
    /// them. `None`: all that the settings allow.
    pub(crate) fn grant(&mut self, env: &mut Env, places: Option<usize>) {
        self.capacity.granted = places;
        self.capacity.changed = true;
        self.shed_strictly(env);
    }

    /// Connections that are not this process' any more: unused ones are closed, shared ones yield, the last of a pool too.
    /// Leases end in their own time.
    pub(crate) fn shed_strictly(&mut self, env: &mut Env) {
        let Some(max) = self.capacity.granted else { return };
        let over = |this: &Connections| this.capacity.open - this.capacity.yielding > max;
        while over(self) && self.close_idle_lease(env, None) {}
        while over(self) {
            let Some(key) = self.keys_where(Lane::is_connecting).pop() else { break };
            self.dial_afresh(env, key);
        }
        while over(self) {
            let unused = self.lanes.iter().filter(|(_, lane)| lane.is_unused() && lane.is_ready());
            let Some((longest, _)) = unused.min_by_key(|(_, lane)| lane.record().last_used) else { break };
            self.disconnect(env, longest);
        }
        while over(self) {
            let ready = self.lanes.iter().filter(|(_, lane)| lane.is_shared() && lane.is_ready());
            let Some((key, _)) = ready.min_by_key(|(_, lane)| (lane.depth(), lane.record().last_used)) else {
                return;
            };
            self.start_yield(env, key);
        }
    }

    pub(crate) fn own_len(&self) -> usize {
        self.own.len()
    }

    /// How many connections are in use, those included that this process cannot be without.
    pub(crate) fn in_use(&self) -> usize {
        let used = |lane: &Lane| lane.is_counted() && !lane.is_unused();
        self.lanes.iter().filter(|(_, lane)| used(lane)).count() + self.capacity.closing
    }

    /// Connections beyond the cap: idle ones are closed, busy shared ones yield, leases end in their own time.
    pub(crate) fn shed(&mut self, env: &mut Env) {
        let max = self.capacity.places(&env.settings);
        while self.capacity.open - self.capacity.yielding > max && self.close_idle_lease(env, None) {}
        while self.capacity.open - self.capacity.yielding - self.capacity.leases > max {
            let ready = self.lanes.iter().filter(|(_, lane)| lane.is_shared() && lane.is_ready());
            let Some((key, _)) = ready.min_by_key(|(_, lane)| (lane.depth(), lane.record().last_used)) else {
                return;
            };
            self.start_yield(env, key);
        }
    }
}
