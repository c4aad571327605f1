//! Connections that two processes share while one gives all to the other: both together never have more than there may be.
//! Owns nothing; the count is the capacity's.

use crate::core::broker::Broker;

impl Broker {
    /// How many connections to the upstream may be this process' from now on; `None`: all that the settings allow. Those
    /// beyond are given up as soon as nothing is on them: `upstream_connections` says when that is.
    pub fn set_places(&mut self, places: Option<usize>) {
        self.shared.connections.grant(&mut self.shared.env, places);
        self.deliver_notices();
    }

    /// How many it has use for now: those that carry something, and its own.
    pub fn places_in_use(&self) -> usize {
        self.shared.connections.in_use()
    }

    /// How many connections are the broker's own, whatever children do.
    pub fn own_connections(&self) -> usize {
        self.shared.connections.own_len()
    }

    /// Whether it could serve children: the upstream has greeted it and told of its commands.
    pub fn is_ready(&self) -> bool {
        self.shared.upstream_is_up() && self.shared.commands.table().is_some()
    }
}
