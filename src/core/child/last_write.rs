//! Which connection a child's last write went on: WAIT and WAITAOF count the replicas that have what their own connection
//! wrote. Data only; the rules are in `request::wait`.

use crate::core::keys::LaneKey;

/// Which connection a child's last write went on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum LastWrite {
    /// It has written nothing.
    #[default]
    None,
    /// On this lane, while it had lost so many connections.
    On(LaneKey, u32),
    /// Perhaps executed, on a connection that is gone.
    Lost,
}
