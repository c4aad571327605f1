//! Connections to the upstream: every lane and pool, how many there may be, and which are to be written. Owns the keys of
//! lanes; never what a request means, nor who is told what when a connection fails.
//!
//! A state of a lane, the line it stands in and the counts change in one function, `Connections::change_state`.

pub(in crate::core) mod canary;
pub(in crate::core) mod capacity;
pub(in crate::core) mod events;
pub(in crate::core) mod failure;
pub(in crate::core) mod handshake;
pub(in crate::core) mod integrity;
pub(in crate::core) mod lane;
pub(in crate::core) mod lanes;
pub(in crate::core) mod life;
pub(in crate::core) mod pool;
pub(in crate::core) mod pools;
pub(in crate::core) mod reason;
pub(in crate::core) mod role;
pub(in crate::core) mod shortage;
pub(in crate::core) mod slot;

use crate::base::key::Arena;
use crate::core::connection::capacity::Capacity;
use crate::core::connection::lane::Lane;
use crate::core::connection::pool::Pool;
use crate::core::keys::ChildKey;
use crate::core::keys::LaneKey;
use crate::core::keys::LaneName;
use crate::core::keys::PoolId;
use crate::core::keys::PoolKey;
use crate::resp::ReplyScanner;
use std::collections::HashMap;

/// Every lane and pool.
#[derive(Debug, Default)]
pub(in crate::core) struct Connections {
    lanes: Arena<Lane, LaneName>,
    /// The broker's own: control, and the probe where there is one.
    own: Vec<LaneKey>,
    pools: Vec<Pool>,
    pool_ids: HashMap<PoolKey, PoolId>,
    capacity: Capacity,
    /// Lanes with something to write.
    dirty: Vec<LaneKey>,
    /// Children with `Hold::WriteLane`.
    lane_waiters: Vec<ChildKey>,
    /// Finds the replies of all lanes, but for those of which half a reply has come.
    scanner: ReplyScanner,
}
