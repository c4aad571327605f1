//! Which lane serves whom, and how many connections there may be. A pool is the lanes of one (user, db,
//! protocol); places are the connections allowed over all pools together. Opens, closes and evicts lanes;
//! what travels on them is `core::dispatch` and `core::answer`.

use crate::base::clock::Millis;
use crate::core::keys::LaneKey;
use crate::core::keys::PoolKey;
use std::collections::VecDeque;

/// The lanes of one (user, db, protocol).
#[derive(Debug)]
pub(in crate::core) struct Pool {
    pub(in crate::core) key: PoolKey,
    /// Shared lanes, made on demand up to `lanes`; they stay, their connections come and go.
    pub(in crate::core) shared: Vec<LaneKey>,
    /// One more, for what is large; made when there is such.
    pub(in crate::core) bulk: Option<LaneKey>,
    /// Leased lanes nobody holds: connected, clean, the most recently used last.
    pub(in crate::core) idle: Vec<LaneKey>,
    /// Somebody has needed a lease here: `leases_warm` are kept ready.
    pub(in crate::core) warm: bool,
    /// Why the last attempt to connect failed; none once a connection stands.
    pub(in crate::core) refusal: Option<Refusal>,
}

/// Connections allowed over all pools.
#[derive(Debug, Default)]
pub(in crate::core) struct Places {
    /// Connections held, of any role.
    pub(in crate::core) open: usize,
    /// Given up, but the upstream has not closed its side yet: it still counts them.
    pub(in crate::core) closing: usize,
    /// Of these, leased lanes, lent or idle.
    pub(in crate::core) leases: usize,
    /// Lanes in state Waiting, oldest first.
    pub(in crate::core) waiters: VecDeque<LaneKey>,
    /// Lanes for subscriptions in state Waiting that wait for a lease to end.
    pub(in crate::core) parked: Vec<LaneKey>,
    /// A lease could not be opened for want of a place.
    pub(in crate::core) lease_wanted: bool,
    /// Shared lanes in state Yielding.
    pub(in crate::core) yielding: usize,
}

impl Places {
    /// How many places are asked for.
    pub(in crate::core) fn wanted(&self) -> usize {
        self.waiters.len() + usize::from(self.lease_wanted)
    }
}

/// Why the last attempt to connect came to nothing.
#[derive(Debug)]
pub(in crate::core) struct Refusal {
    pub(in crate::core) text: String,
    pub(in crate::core) at: Millis,
}
