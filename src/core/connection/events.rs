//! What the driver tells of lanes, and what it asks of them. Finds the lane that an event is about; a lane may have gone
//! before the driver hears of it. Never what a reply means.

use crate::base::secured::Secured;
use crate::core::broker::Broker;
use crate::core::connection::handshake::{GreetingRefusal, Handshake};
use crate::core::connection::lane::{Lane, LaneState};
use crate::core::connection::role::LaneRole;
use crate::core::keys::LaneKey;
use crate::core::shared::Shared;

impl Shared {
    /// There may be room for more connections: the lanes that have waited longest get them, then leases.
    pub(crate) fn serve_waiting(&mut self) {
        let (connections, env) = (&mut self.connections, &mut self.env);
        if !connections.may_dial(env.now) {
            return;
        }
        // The control connection first: all else depends on it.
        let mut parked = std::mem::take(&mut connections.capacity.parked);
        parked.sort_by_key(|key| connections.find(*key).is_none_or(|lane| lane.role() != LaneRole::Control));
        for key in parked {
            connections.change_state(key, LaneState::Dormant);
            connections.want_if_needed(env, key);
        }
        while let Some(key) = connections.capacity.waiting.front().copied() {
            let Some(lane) = connections.known(key) else { break };
            let role = lane.role();
            if !lane.is_needed() {
                // What it was to carry has expired meanwhile.
                connections.change_state(key, LaneState::Dormant);
            } else if connections.may_dial_as(role, env.now) && connections.make_room(env, role, true) {
                connections.dial(env, key);
            } else {
                break;
            }
        }
        if std::mem::take(&mut connections.capacity.lease_wanted) {
            self.pump_leases();
        }
        self.connections.ask_to_yield(&mut self.env);
    }

    pub(crate) fn greeted(&mut self, key: LaneKey, frame: &[u8]) {
        let Some(lane) = self.connections.known_mut(key) else { return };
        let (role, pool) = (lane.role(), lane.pool());
        let (Some(link), Some(handshake)) = (lane.link(), lane.handshake_mut()) else { return };
        match handshake.reply(frame) {
            Ok(None) => {}
            Err(GreetingRefusal { why, lasts }) => {
                let step = handshake.step();
                let is_of_replica = self.connections.find(key).is_some_and(|lane| lane.leads_to() != 0);
                if is_of_replica || !self.greeting_refused(key, step, frame) {
                    self.attempt_failed(key, &why, lasts);
                }
            }
            Ok(Some(greeting)) => {
                if let Err(why) = self.judge_role(key, &greeting) {
                    return self.lane_failed(key, why);
                }
                // What was found may have changed who is connected.
                let Some(lane) = self.connections.known_mut(key).filter(|lane| lane.is_connecting()) else {
                    return;
                };
                let is_freed = lane.drop_forsaken();
                lane.become_ready(link, greeting.id, self.env.now);
                if is_freed {
                    // A WAIT may have been among it.
                    self.connections.wake_lane_waiters(&mut self.env);
                }
                self.connections.let_in(key, self.env.now);
                self.connections.mark(key);
                self.connections.account(&mut self.env, key);
                if role != LaneRole::Control {
                    self.forget_refusal(pool);
                }
                match role {
                    LaneRole::Control => self.control_ready(greeting),
                    LaneRole::Lease => self.lease_ready(key),
                    LaneRole::Shared => self.connections.ask_to_yield(&mut self.env),
                    LaneRole::Subscriber => {
                        self.live_hubs().connected(key);
                    }
                    // It is not greeted.
                    LaneRole::Probe => {}
                }
            }
        }
    }
}

impl Broker {
    /// The driver has closed a connection for good, and so has the upstream as far as can be known.
    pub fn connection_closed(&mut self) {
        self.shared.connections.capacity.closing -= 1;
        self.shared.connections.mark_changed();
    }

    /// The driver's connection for a lane stands: greet the upstream.
    /// `secured`: how it is, if it is.
    pub fn lane_connected(&mut self, key: LaneKey, link: usize, secured: Option<Secured>) {
        let shared = &mut self.shared;
        // The attempt may have been given up since.
        let Some(lane) = shared.connections.find_mut(key).filter(|lane| lane.is_connecting()) else { return };
        lane.note_secured(secured);
        let (role, pool, arms) = (lane.role(), lane.pool(), lane.carries_blocks());
        // The probe says nothing before a child does.
        if role == LaneRole::Probe {
            lane.become_ready(link, 0, shared.env.now);
            shared.connections.mark(key);
            shared.probe_ready();
            return self.deliver_notices();
        }
        if role == LaneRole::Control {
            shared.control.greets();
        }
        let pool = &shared.connections.pool(pool).key;
        let user = shared.users.get(pool.user, &shared.env.upstream);
        let names = shared.commands.names();
        let handshake = Handshake::new(user, role.client_name(), pool, names, arms);
        let handshake = Box::new(handshake);
        shared.connections.change_state(key, LaneState::Handshaking { link, handshake });
        shared.connections.mark(key);
    }

    /// Dialling or greeting the upstream has failed.
    pub fn lane_failed(&mut self, key: LaneKey, reason: &str) {
        self.shared.lane_failed(key, reason);
        self.deliver_notices();
    }

    /// An established connection is gone, or has to go: end of file, an error.
    pub fn lane_lost(&mut self, key: LaneKey, reason: &str) {
        // What it has said before is taken first, whatever time that takes.
        if self.shared.connections.forget_unread(key) {
            self.take_replies(key, &[], usize::MAX);
        }
        self.shared.lane_lost(key, reason);
        self.deliver_notices();
    }

    /// The driver has written what it could of a lane's bytes.
    pub fn lane_flushed(&mut self, key: LaneKey) {
        let Shared { connections, env, .. } = &mut self.shared;
        // It may have failed in writing.
        connections.account(env, key);
        if connections.find(key).is_some_and(Lane::is_yielding) {
            connections.finish_yield(env, key);
        }
        self.deliver_notices();
    }

    /// The driver's handle of a lane's present connection.
    pub fn lane_link(&self, key: LaneKey) -> Option<usize> {
        self.shared.connections.find(key).and_then(Lane::link)
    }

    /// The driver's handle of a lane and what it may write now.
    pub fn lane_outgoing(&self, key: LaneKey) -> Option<(usize, &[u8])> {
        let lane = self.shared.connections.find(key)?;
        if self.shared.pause.is_at_rest() && lane.is_shared() && lane.is_ready() {
            // What stood on it without a connection waits for the end of the pause.
            return None;
        }
        Some((lane.link()?, lane.outgoing()))
    }

    /// `count` bytes of it were taken by the socket.
    pub fn lane_wrote(&mut self, key: LaneKey, count: usize) {
        let micros = self.shared.env.micros;
        if let Some(lane) = self.shared.connections.known_mut(key) {
            lane.wrote(count, micros);
        }
    }
}
