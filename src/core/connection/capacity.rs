//! How many connections there are, and which lanes wait until there is room for theirs. Owns the counts and the lines; never
//! which connection makes room.

use crate::config::Settings;
use crate::core::connection::lane::LaneState;
use crate::core::connection::role::LaneRole;
use crate::core::keys::LaneKey;
use std::collections::VecDeque;

#[derive(Debug, Default)]
pub(crate) struct Capacity {
    pub(super) open: usize,
    /// Given up, but the upstream has not closed its side yet: it still counts them.
    pub(super) closing: usize,
    /// Of the open ones, leased lanes, lent or idle, and those for subscriptions.
    pub(super) leases: usize,
    /// Of the open ones, lanes in state Yielding.
    pub(super) yielding: usize,
    /// Lanes in state Waiting, oldest first.
    pub(super) waiting: VecDeque<LaneKey>,
    pub(super) parked: Vec<LaneKey>,
    /// A lease could not be opened for want of a connection.
    pub(super) lease_wanted: bool,
    /// A connection was given up; lanes that wait are served at the end of the event, not in its middle.
    pub(super) changed: bool,
    /// How many of the `upstream_connections_max` places are this process', while another one has the rest.
    pub(super) granted: Option<usize>,
}

impl Capacity {
    pub(super) fn wanted(&self) -> usize {
        self.waiting.len() + usize::from(self.lease_wanted)
    }

    pub(crate) fn held(&self) -> usize {
        self.open + self.closing
    }

    /// How many connections there may be: all that the settings allow, unless another process has some of them.
    pub(crate) fn places(&self, settings: &Settings) -> usize {
        let max = settings.upstream_connections_max;
        self.granted.map_or(max, |granted| granted.min(max))
    }

    /// Leased lanes and those for subscriptions, connected or dialling.
    pub(crate) fn leases(&self) -> usize {
        self.leases
    }

    /// Open, of these leases, yielding; and closing.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize, usize, usize) {
        (self.open, self.leases, self.yielding, self.closing)
    }

    #[cfg(test)]
    pub(crate) fn in_line(&self) -> impl Iterator<Item = LaneKey> {
        self.waiting.iter().chain(&self.parked).copied()
    }

    pub(super) fn enter(&mut self, key: LaneKey, role: LaneRole, state: &LaneState) {
        match state {
            // Room for one is always kept: it only waits until the upstream closes a connection given up before.
            LaneState::Waiting if role.is_own() => self.waiting.push_front(key),
            LaneState::Waiting => self.waiting.push_back(key),
            LaneState::Parked => self.parked.push(key),
            LaneState::Yielding { .. } => self.yielding += 1,
            _ => {}
        }
        if state.is_counted() {
            self.open += 1;
            self.leases += usize::from(role.counts_as_lease());
        }
    }

    pub(super) fn leave(&mut self, key: LaneKey, role: LaneRole, state: &LaneState) {
        match state {
            LaneState::Waiting if self.waiting.front() == Some(&key) => drop(self.waiting.pop_front()),
            LaneState::Waiting => self.waiting.retain(|waiting| *waiting != key),
            LaneState::Parked => self.parked.retain(|parked| *parked != key),
            LaneState::Yielding { .. } => self.yielding -= 1,
            _ => {}
        }
        if state.is_counted() {
            self.open -= 1;
            self.leases -= usize::from(role.counts_as_lease());
        }
    }
}
