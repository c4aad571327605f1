//! What all children share: connections, leases, users, subscriptions, and what is known of the upstream. A function
//! that serves one child has that child and this, so it can touch no other child: what others are to hear is a notice
//! (`core::notice`), which the broker delivers once the child at hand is done.

pub(in crate::core) mod canary;
pub(in crate::core) mod failure;
pub(in crate::core) mod handshake;
pub(in crate::core) mod integrity;
pub(in crate::core) mod lane;
pub(in crate::core) mod lanes;
pub(in crate::core) mod pool;
pub(in crate::core) mod reason;

use crate::base::key::Arena;
use crate::core::connection::lane::Lane;
use crate::core::connection::pool::Places;
use crate::core::connection::pool::Pool;
use crate::core::keys::ChildKey;
use crate::core::keys::LaneKey;
use crate::core::keys::LaneName;
use crate::core::keys::PoolId;
use crate::core::keys::PoolKey;
use std::collections::HashMap;

/// Every lane and pool.
#[derive(Debug, Default)]
pub(in crate::core) struct Connections {
    pub(in crate::core) lanes: Arena<Lane, LaneName>,
    pub(in crate::core) pools: Vec<Pool>,
    pub(in crate::core) pool_ids: HashMap<PoolKey, PoolId>,
    pub(in crate::core) places: Places,
    /// Set when a connection was given up; waiters are served at the end of the event, not in its middle.
    pub(in crate::core) places_changed: bool,
    pub(in crate::core) dirty_lanes: Vec<LaneKey>,
    /// Children with `Hold::WaitLane`.
    pub(in crate::core) lane_waiters: Vec<ChildKey>,
}
