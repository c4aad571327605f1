//! New settings in a running broker: bounds and timeouts hold at once, for lanes and leases as they become free. Another
//! upstream: requests written to the previous one are answered by it, the others go to the new one, and none goes to both.

use crate::base::failure::Failure;
use crate::config::{Settings, Upstream};
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::LaneRole;
use crate::core::connection::slot::Slot;
use crate::core::keys::{GroupKey, LaneKey, LeaseKind};
use crate::core::lease::groups::Group;
use crate::core::lease::state::LeaseState;
use crate::core::notice::{ChildNotice, Notice};
use crate::core::pubsub::SubscriberLoss;
use crate::core::questions::ask::policy_of;
use crate::core::questions::control::{Needed, Question};
use crate::core::shared::Shared;
use crate::core::sweeps::Sweep;
use crate::core::timers::Timer;

impl Shared {
    /// Shared lanes that are too many go once nothing is on them.
    pub(crate) fn remove_surplus_lanes(&mut self) {
        for key in self.connections.keys_where(|lane| lane.is_surplus() && lane.is_idle()) {
            self.connections.remove(&mut self.env, key);
        }
    }

    /// Idle leased lanes that the caps leave no use for.
    fn close_surplus_leases(&mut self, previous: &Settings) {
        let caps = LeaseKind::ALL.into_iter().map(|kind| kind.cap(&self.env.settings));
        let most = caps.fold(self.env.settings.leases_warm, usize::saturating_add);
        self.connections.close_idle_leases(&mut self.env, most);
        if self.env.settings.leases_warm < previous.leases_warm {
            self.connections.close_rested_leases(&mut self.env, 0);
        }
    }

    /// The same for a child that waits.
    pub(crate) fn shorten_wait(&mut self, child: &mut Child) -> bool {
        let (now, timeout) = (self.env.now, self.env.settings.queue_timeout);
        let due = match child.hold() {
            Hold::InFlightMax => {
                self.lift(child);
                return true;
            }
            // Looks at its deadlines afresh, and sets the next timer.
            Hold::LeaseQueue => now,
            Hold::Subscription => {
                child.set_topics_due(now);
                now
            }
            Hold::Upstream => child.front_mut().set_queue_timeout(timeout, now),
            _ => return false,
        };
        self.env.timers.arm(due, Timer::Child(child.key()));
        true
    }

    /// What is written is answered first; the rest goes on the next connection, as after a loss.
    fn move_shared(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.known_mut(key) else { return };
        lane.forget_failures();
        if lane.is_ready() || lane.is_yielding() {
            lane.leave_on_previous_upstream();
        }
        if lane.is_ready() {
            self.connections.start_yield(&mut self.env, key);
        } else if lane.is_connecting() || lane.is_backing_off() {
            self.connections.dial_afresh(&mut self.env, key);
        }
    }

    fn move_to(&mut self, upstream: Upstream) {
        log::info!("upstream {} is followed by {upstream}", self.env.upstream);
        let same_home = Upstream { db: upstream.db, ..self.env.upstream.clone() } == upstream;
        let password = upstream.password.clone();
        // Redis does not ask who has authenticated again. What cannot be replaced unseen stays with the same user.
        let same_user = Upstream { db: upstream.db, password, ..self.env.upstream.clone() } == upstream;
        self.env.upstream = upstream;
        if same_home {
            let pool = self.control_pool();
            if let Some(lane) = self.connections.find_mut(self.control.lane()) {
                lane.set_pool(pool);
            }
            // The password may be another one.
            self.connections.forget_bar();
            return self.move_control();
        }
        self.env.upstream_number = self.env.next_upstream_number();
        self.lead_control();
        self.move_lanes(same_user);
        self.move_control();
    }

    /// The control connection leads to the upstream that there is now, of which nothing is known.
    pub(crate) fn lead_control(&mut self) {
        let pool = self.control_pool();
        if let Some(lane) = self.connections.find_mut(self.control.lane()) {
            lane.set_pool(pool);
        }
        self.connections.forget_bar();
        // Another server knows other commands.
        self.control.forget_upstream();
        self.master.forget();
        self.sentinels.watch(self.env.upstream.watched(), self.env.now);
        self.commands.forget();
        self.leases.upstream_replaced(self.env.now);
    }

    /// All other connections that lead elsewhere, or were to, are left. Where it is the `same_user` at the same server, what cannot
    /// be replaced unseen stays.
    pub(crate) fn move_lanes(&mut self, same_user: bool) {
        let number = self.env.upstream_number;
        for key in self.connections.keys_where(|lane| lane.record().upstream_number != number) {
            if same_user && self.cannot_be_replaced(key) {
                self.connections.keep_for(key, number);
                continue;
            }
            match self.connections.find(key).map(Lane::role) {
                Some(LaneRole::Shared) => self.move_shared(key),
                Some(LaneRole::Lease) => self.move_lease(key),
                Some(LaneRole::Subscriber) => self.move_topics(key),
                Some(LaneRole::Probe) => self.lane_lost(key, "the upstream has been replaced"),
                Some(LaneRole::Control) | None => {}
            }
        }
    }

    /// Whether the connection has a state that its child would miss: a subscription, tracking.
    fn cannot_be_replaced(&self, key: LaneKey) -> bool {
        let Some(lane) = self.connections.find(key) else { return false };
        let is_session =
            lane.lease().is_some_and(|lease| lease.kind() == LeaseKind::Session && !lease.is_over());
        is_session || lane.role() == LaneRole::Subscriber && lane.is_ready()
    }

    /// What the new one publishes comes on a new connection, once what children have asked on this one is answered.
    fn move_topics(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.known_mut(key) else { return };
        lane.forget_failures();
        if lane.owed() > 0 && lane.is_ready() {
            return lane.leave_on_previous_upstream();
        }
        self.live_hubs().disconnected(key, SubscriberLoss::UpstreamReplaced);
    }

    /// The connection for a user's topics has answered a child.
    pub(crate) fn move_topics_if_answered(&mut self, key: LaneKey) {
        let is_done = |lane: &Lane| lane.record().is_on_previous_upstream && lane.owed() == 0;
        // It may have gone with that answer.
        if self.connections.find(key).is_some_and(is_done) {
            self.live_hubs().disconnected(key, SubscriberLoss::UpstreamReplaced);
        }
    }

    /// An idle lease is closed, one that is lent is not lent again. A child that waits for an element is asked
    /// to wait at the new upstream; a subscriber would hear nothing any more, and is closed as if the
    /// upstream had gone.
    pub(crate) fn move_lease(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.known_mut(key) else { return };
        lane.leave_on_previous_upstream();
        lane.need_close();
        let Some(lease) = lane.lease() else { return self.connections.remove(&mut self.env, key) };
        let (child, group) = (lease.child(), lease.group());
        if lease.kind() == LeaseKind::Session && !lease.is_over() {
            return self.env.notify(Notice::Child(child, ChildNotice::Finish));
        }
        self.end_wait(key);
        if let Some(group) = group.and_then(|group| self.groups.get_mut(group)) {
            group.let_go(key);
        }
    }

    /// Has the command of a group end that waits at a previous upstream, where the control connection still leads: what may
    /// be asked again waits at the new one.
    pub(crate) fn end_wait(&mut self, key: LaneKey) {
        let may_unblock = self.control_is_ready() && self.control.may_unblock();
        let Some(lane) = self.connections.known_mut(key) else { return };
        let id = lane.record().upstream_id;
        let waits = lane.front().is_some_and(Slot::may_wait);
        let Some(lease) = lane.lease_mut() else { return };
        let group =
            lease.group().filter(|_| waits && may_unblock && !lease.is_over() && !lease.is_unblocking());
        let now = self.env.now;
        if let Some(group) =
            group.and_then(|group| self.groups.get_mut(group)).filter(|group| group.restarts())
        {
            lease.unblock_asked();
            group.unblock_asked(key, now);
            self.ask(Question::Unblock { lane: key, id });
        }
    }

    /// RECONNECT: every connection is replaced, to the same upstream, once what is on it is answered; one that is lent, when
    /// its lease ends. Subscriptions are made anew as after a loss.
    pub(crate) fn reconnect(&mut self) {
        self.connections.forget_bar();
        for key in self.connections.keys() {
            // The end of one may be the end of another.
            let Some(lane) = self.connections.find_mut(key) else { continue };
            lane.forget_failures();
            let (is_ready, is_lent) = (lane.is_ready(), lane.lease().is_some());
            match lane.role() {
                LaneRole::Shared if is_ready => self.connections.start_yield(&mut self.env, key),
                LaneRole::Lease if is_lent => self.replace_lease(key),
                LaneRole::Lease if is_ready => self.connections.remove(&mut self.env, key),
                LaneRole::Subscriber if is_ready => self.move_topics(key),
                LaneRole::Probe if is_ready => self.lane_lost(key, "RECONNECT"),
                // It is being connected, and so new.
                LaneRole::Shared | LaneRole::Lease | LaneRole::Subscriber | LaneRole::Probe => {}
                LaneRole::Control => {}
            }
        }
        self.move_control();
        self.connections.mark_changed();
    }

    /// It is not lent again. What waits on it for an element, and may be asked again, waits on another.
    fn replace_lease(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.known_mut(key) else { return };
        lane.need_close();
        let waits = lane.front().is_some_and(Slot::may_wait);
        let group = lane.lease().filter(|lease| waits && !lease.is_unblocking()).and_then(LeaseState::group);
        let restarts = |group: &GroupKey| self.groups.get(*group).is_some_and(Group::restarts);
        if let Some(group) = group.filter(restarts) {
            self.unblock_lane(group, key);
        }
    }

    /// The control connection stays for what was asked on it, but never for longer than it takes to connect.
    pub(crate) fn move_control(&mut self) {
        let key = self.control.lane();
        // There is none before the first is dialled.
        let Some(lane) = self.connections.find_mut(key) else { return };
        lane.forget_failures();
        if lane.is_ready() && !lane.is_idle() {
            self.control.leave();
            let due = self.env.now + self.env.settings.connect_timeout;
            self.env.timers.arm(due, Timer::Lane(key, lane.record().timer));
        } else if !lane.is_waiting() {
            self.replace_control();
        }
    }

    /// Its last answer has come, or will not be waited for.
    pub(crate) fn replace_control(&mut self) {
        let key = self.control.lane();
        self.control_lost();
        let lost = self.take_lost(key);
        self.fail_slots(key, lost, Failure::LOST);
        self.fail_unwritten(key);
        self.connections.account(&mut self.env, key);
        self.connections.dial_afresh(&mut self.env, key);
    }
}

impl Broker {
    /// Takes settings that have been validated, and the upstream they name. The driver dials the new one
    /// from now on. A child keeps its db, and RESET takes it back to the one it began with; the db of a new
    /// upstream URL is where new children begin.
    pub fn reload(&mut self, settings: Settings, upstream: Upstream) {
        let previous = std::mem::replace(&mut self.shared.env.settings, settings);
        self.shared.commands.set_policy(&policy_of(&self.shared.env.settings));
        self.shared.forget_script_rights();
        self.shared.sentinels.want_replicas(self.shared.env.settings.reads_from_replicas());
        if self.shared.env.upstream == upstream {
            self.shared.refuse_without_canaries();
        } else {
            // It is judged by what its own user may do, once that is known.
            self.shared.move_to(upstream);
        }
        if self.shared.env.settings.upstream_role != previous.upstream_role {
            // Connections were let in by another rule: the server says again what it is.
            self.shared.ask_fresh(Needed::Greeting);
        }
        self.shared.connections.mark_surplus_lanes(self.shared.env.settings.lanes);
        self.shared.remove_surplus_lanes();
        self.shared.close_surplus_leases(&previous);
        self.shared.connections.shed(&mut self.shared.env);
        self.shorten_waits(&previous);
        // Raised bounds may let somebody in.
        self.shared.connections.mark_changed();
        self.deliver_notices();
    }

    /// Deadlines that were armed under the previous settings.
    fn shorten_waits(&mut self, previous: &Settings) {
        self.shared.env.sweeps.begin(Sweep::SettingsChanged);
        let now = self.shared.env.now;
        let env = &mut self.shared.env;
        let (attempt_due, pause_due) = (now + env.settings.connect_timeout, now + env.backoff(0));
        let shortened = env.settings.reconnect_backoff_max < previous.reconnect_backoff_max;
        for (key, lane) in self.shared.connections.lanes() {
            if lane.is_connecting() {
                env.timers.arm(attempt_due, Timer::Lane(key, lane.record().timer));
            } else if lane.is_backing_off() && shortened {
                env.timers.arm(pause_due, Timer::Lane(key, lane.record().timer));
            }
        }
        self.shared.leases.retry_by(&mut self.shared.env, pause_due);
        self.shared.tend_all();
    }
}

#[cfg(test)]
mod tests;
