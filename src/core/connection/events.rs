//! What the driver tells of lanes, and what it asks of them. Finds the lane that an event is about; a lane may have gone
//! before the driver hears of it. Never what a reply means.

use crate::core::broker::Broker;
use crate::core::connection::handshake::{GreetingStep, Handshake};
use crate::core::connection::lane::Lane;
use crate::core::connection::role::LaneRole;
use crate::core::keys::LaneKey;
use crate::core::shared::Shared;

impl Shared {
    /// There may be room for more connections: the lane that has waited longest gets it, then leases.
    pub(crate) fn serve_waiting(&mut self) {
        if self.connections.serve_waiting(&mut self.env) {
            self.pump_leases();
        }
        self.connections.ask_to_yield(&mut self.env);
    }

    /// A reply to the broker's greeting.
    pub(crate) fn greeted(&mut self, key: LaneKey, frame: &[u8]) {
        let Some(lane) = self.connections.known(key) else { return };
        let (role, pool) = (lane.role(), lane.pool());
        match self.connections.take_greeting(key, frame) {
            GreetingStep::More => {}
            GreetingStep::Refused { why, by_choice } => {
                if !self.greeting_refused(key, by_choice, frame) {
                    self.lane_failed(key, &why);
                }
            }
            GreetingStep::Ready(greeting) => {
                self.connections.greeted(key, greeting.id, self.env.now);
                if role != LaneRole::Control {
                    self.connections.forget_refusal(&self.env, pool);
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
        self.shared.connections.closed();
    }

    /// The driver's connection for a lane stands: greet the upstream.
    pub fn lane_connected(&mut self, key: LaneKey, link: usize) {
        let (connections, env) = (&mut self.shared.connections, &self.shared.env);
        // The attempt may have been given up since.
        let Some(lane) = connections.find(key).filter(|lane| lane.is_connecting()) else { return };
        let pool = connections.key_of(lane);
        let is_probe = lane.role() == LaneRole::Probe;
        if lane.role() == LaneRole::Control {
            self.shared.control.greets();
        }
        // The probe says nothing before a child does.
        let greeting = (!is_probe).then(|| {
            let user = self.shared.users.get(pool.user, &env.upstream);
            Handshake::new(user, lane.role().client_name(), pool, self.shared.commands.names())
        });
        connections.connected(key, link, greeting, env.now);
        if is_probe {
            self.shared.probe_ready();
            self.deliver_notices();
        }
    }

    /// Dialling or greeting the upstream has failed.
    pub fn lane_failed(&mut self, key: LaneKey, reason: &str) {
        self.shared.lane_failed(key, reason);
        self.deliver_notices();
    }

    /// An established connection is gone, or has to go: end of file, an error.
    pub fn lane_lost(&mut self, key: LaneKey, reason: &str) {
        self.shared.lane_lost(key, reason);
        self.deliver_notices();
    }

    /// The driver has written what it could of a lane's bytes.
    pub fn lane_flushed(&mut self, key: LaneKey) {
        self.shared.connections.flushed(&mut self.shared.env, key);
        self.deliver_notices();
    }

    /// The driver's handle of a lane's present connection.
    pub fn lane_link(&self, key: LaneKey) -> Option<usize> {
        self.shared.connections.find(key).and_then(Lane::link)
    }

    /// The driver's handle of a lane and what it may write now.
    pub fn lane_outgoing(&self, key: LaneKey) -> Option<(usize, &[u8])> {
        self.shared.connections.outgoing(key)
    }

    /// `count` bytes of it were taken by the socket.
    pub fn lane_wrote(&mut self, key: LaneKey, count: usize) {
        self.shared.connections.wrote(key, count);
    }
}
