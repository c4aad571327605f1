//! Connections to the upstream: every lane and pool, how many there may be, and which are to be written. Owns the keys of
//! lanes; never what a request means, nor who is told what when a connection fails. A state of a lane, the line it stands
//! in and the counts change in one function, `Connections::change_state`.

pub(crate) mod canary;
pub(crate) mod capacity;
pub(crate) mod events;
pub(crate) mod failure;
pub(crate) mod handshake;
pub(crate) mod integrity;
pub(crate) mod lane;
pub(crate) mod lanes;
pub(crate) mod life;
pub(crate) mod pool;
pub(crate) mod pools;
pub(crate) mod role;
pub(crate) mod shortage;
pub(crate) mod slot;

use crate::base::key::Arena;
use crate::core::connection::capacity::Capacity;
use crate::core::connection::lane::Lane;
use crate::core::connection::pool::Pool;
use crate::core::keys::{ChildKey, LaneKey, LaneName, PoolId, PoolKey};
use crate::resp::{ReplyScanner, SharedScanner};
use std::collections::HashMap;

#[derive(Debug, Default)]
pub(crate) struct Connections {
    lanes: Arena<Lane, LaneName>,
    /// The broker's own: control, and the probe where there is one.
    own: Vec<LaneKey>,
    pools: Vec<Pool>,
    pool_ids: HashMap<PoolKey, PoolId>,
    capacity: Capacity,
    dirty: Vec<LaneKey>,
    /// Children with `Hold::WriteLane`.
    lane_waiters: Vec<ChildKey>,
    /// Finds the replies of all lanes, but for those of which half a reply has come.
    scanner: SharedScanner<ReplyScanner>,
}
