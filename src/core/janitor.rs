//! The periodic pass over lanes and children: requests that are overdue, lanes that stall, connections and children that are
//! idle for too long, memory to spare. Owns no state; what is urgent has a timer of its own.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::closing::CloseReason;
use crate::core::child::hold::Hold;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::LaneRole;
use crate::core::connection::slot::Slot;
use crate::core::keys::LeaseKind;
use crate::core::notice::{ChildNotice, Notice};
use crate::core::shared::Shared;
use crate::core::sweeps::Sweep;
use crate::core::timers::Timer;

impl Shared {
    /// Short timeouts want a shorter period: at most a quarter of the shortest.
    fn janitor_period(&self, period: u64) -> u64 {
        let timeouts = [self.env.settings.request_timeout, self.env.settings.queue_timeout];
        let shortest = timeouts.into_iter().filter(|timeout| *timeout > 0).min().unwrap_or(u64::MAX);
        period.min((shortest / 4).max(10))
    }

    fn close_idle_lanes(&mut self) {
        let limit = self.env.settings.upstream_idle_timeout;
        if limit > 0 {
            let linger = limit.min(limits::LEASE_LINGER);
            self.connections.close_rested_leases(&mut self.env, linger);
            self.connections.close_rested_block_lanes(&mut self.env, linger);
            self.connections.close_unused(&mut self.env, limit);
        }
    }

    /// A shared lane past `upstream_lifetime` finishes what it has written and dials anew.
    fn replace_old_lanes(&mut self) {
        let lifetime = self.env.settings.upstream_lifetime;
        if lifetime == 0 {
            return;
        }
        for key in self.connections.keys() {
            let Some(lane) = self.connections.find_mut(key) else { continue };
            let old = self.env.now.saturating_sub(lane.record().connected_at) >= lifetime;
            if !old || !lane.is_ready() || lane.lease().is_some() {
                continue;
            }
            match lane.role() {
                LaneRole::Shared => self.connections.start_yield(&mut self.env, key),
                LaneRole::Lease if lane.is_idle() => self.connections.disconnect(&mut self.env, key),
                LaneRole::Lease | LaneRole::Control | LaneRole::Subscriber | LaneRole::Probe => {}
            }
        }
    }

    /// A pool that has needed a lease keeps `leases_warm` connected.
    fn keep_leases_warm(&mut self) {
        if !self.env.draining && self.upstream_is_up() && self.leases.may_dial(self.env.now) {
            self.connections.open_warm(&mut self.env);
        }
    }

    /// Unless the last pass is still under way.
    fn begin_timeouts(&mut self) {
        if self.env.sweeps.begin_once(Sweep::Timeouts) {
            self.processes.begin_count();
        }
    }

    fn overdue(&self, child: &Child) -> Option<&'static str> {
        let settings = &self.env.settings;
        let over = |since: u64, limit: u64| limit > 0 && self.env.now.saturating_sub(since) >= limit;
        let soft = settings.subscriber_output_soft_time;
        if child.is_subscribed() && child.outbox().over_soft_since().is_some_and(|since| over(since, soft)) {
            return Some("subscriber_output_soft_time");
        }
        let waits = child.sent().in_flight() > 0 || child.hold() != Hold::None;
        if waits || child.is_subscribed() || !child.outbox().output().is_empty() {
            return None;
        }
        let in_transaction =
            child.session().transaction.is_open() || child.lease().is_some() && !child.session().is_pinned();
        let counted = self.env.now - self.env.waited(child.last_request());
        if in_transaction && over(counted, settings.idle_transaction_timeout) {
            return Some("idle_transaction_timeout");
        }
        over(child.last_request(), settings.idle_child_timeout).then_some("idle_child_timeout")
    }

    pub(crate) fn end_if_overdue(&mut self, child: &mut Child) -> bool {
        let overdue = self.overdue(child);
        if let Some(setting) = overdue {
            if setting == "idle_child_timeout" {
                self.note_idle(child);
            }
            CloseReason::TimedOut(setting).log(child);
            self.close(child);
        }
        overdue.is_some()
    }

    /// A stalled lane may wait for a slow command. If the control connection gets no answer either, the upstream is gone;
    /// if it does, the command is not slow but waits, as it must not on a lane that others share; or a reply was lost, which
    /// only one that needs no work can tell by not coming.
    fn check_stalls(&mut self) {
        self.ask_if_busy();
        let limit = self.env.settings.lane_stall_timeout;
        if limit == 0 || !self.connections.lanes().any(|(_, lane)| self.is_stalled(lane, limit)) {
            return;
        }
        self.give_up_behind_scripts(limit);
        // Nobody probes an upstream that has been replaced. And whoever stops in the middle of a reply has nothing to
        // wait for: what was taken for its beginning was none.
        let of_no_use = |lane: &Lane| {
            self.is_stalled(lane, limit)
                && (lane.record().is_on_previous_upstream || !lane.inbox().is_empty())
        };
        for key in self.connections.keys_where(of_no_use) {
            self.lane_lost(key, "the upstream does not go on");
        }
        let patience = self.env.settings.connect_timeout;
        let long_stalled = |lane: &Lane| self.is_stalled(lane, limit.saturating_add(patience));
        let stalled = self.connections.keys_where(long_stalled);
        if !stalled.is_empty() && self.is_upstream_dead(patience) {
            log::error!("upstream {} gives no sign of life: closing its connections", self.env.upstream);
            for key in self.connections.keys() {
                self.lane_lost(key, "the upstream does not answer");
            }
            return;
        }
        for key in stalled {
            let Some(lane) = self.connections.find(key) else { continue };
            if lane.front().is_some_and(Slot::needs_no_work) {
                self.lane_lost(key, "a reply that takes no time does not come");
            } else if let Some(slot) = lane.front().copied().filter(|slot| self.is_held(lane, slot, limit)) {
                let command = self.commands.name(slot.command);
                log::warn!("lane_stall_timeout: a '{command}' blocks a connection that others share");
                self.env.notify(Notice::Child(slot.child, ChildNotice::KeepApart(slot.command)));
                self.lane_lost(key, "a command holds it that was not known to block");
            }
        }
    }

    /// Whether the upstream has had nothing to do since the lane stalled: then the command at its front is not at work but
    /// waits for something, and with it those of other children behind it.
    fn is_held(&self, lane: &Lane, front: &Slot, limit: Millis) -> bool {
        let others = |slot: &Slot| slot.child != front.child && !slot.kind.is_own();
        lane.is_shared()
            && self.work.was_idle_since(lane.record().last_reply.saturating_add(limit))
            && lane.out().entries().iter().any(others)
    }
}

impl Broker {
    pub(crate) fn janitor(&mut self) {
        for key in self.shared.connections.keys() {
            self.shared.expire_unwritten(key);
            self.shared.time_out_written(key);
        }
        self.deliver_notices();
        self.shared.remove_surplus_lanes();
        self.close_orphaned_waits();
        self.shared.repeat_canaries();
        self.shared.live_hubs().check();
        self.shared.look_after_standing(&mut self.children);
        self.shared.check_stalls();
        self.shared.close_idle_lanes();
        self.shared.replace_old_lanes();
        self.shared.begin_timeouts();
        self.shared.processes.forget_unused(self.shared.env.now);
        self.close_standing_still();
        self.shared.end_abandoned_users();
        self.shared.ask_default_again();
        self.shared.keep_leases_warm();
        let waits = |lane: &Lane| lane.lease().is_some_and(|lease| lease.kind() == LeaseKind::Blocking);
        let busy = self.shared.connections.lanes().any(|(_, lane)| !lane.is_idle() && !waits(lane));
        if !busy {
            self.shared.env.spares.clear();
            self.shared.env.timers.shrink();
            self.shared.connections.forget_times(&mut self.shared.env);
            self.children.shrink();
            self.shared.processes.shrink();
        }
        let held = self.shared.env.held() + self.children.own_bytes();
        self.trim.check(held, self.shared.env.now);
        let period = if busy { limits::JANITOR_BUSY } else { limits::JANITOR_IDLE };
        self.shared.env.timers.arm(self.shared.env.now + self.shared.janitor_period(period), Timer::Janitor);
    }
}
