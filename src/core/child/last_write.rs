//! WAIT and WAITAOF. Redis counts replicas that have what *the connection* wrote last, and blocks the connection until
//! there are enough. So a child's WAIT goes on the very lane that carried its last write, and that lane is detached
//! meanwhile: nobody else's requests stand behind it. If the lane has been lost since, no other one can tell.

use crate::core::keys::LaneKey;

/// Which connection a child's last write went on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::core) enum LastWrite {
    /// It has written nothing.
    #[default]
    None,
    /// On this lane, while it had lost so many connections.
    On(LaneKey, u32),
    /// Perhaps executed, on a connection that is gone.
    Lost,
}
