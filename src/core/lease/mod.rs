//! Leases: who waits for a lane of its own, who has one, and how it is given back or taken back.

pub(in crate::core) mod leased;
pub(in crate::core) mod leases;
pub(in crate::core) mod lending;
pub(in crate::core) mod pinning;
pub(in crate::core) mod state;
pub(in crate::core) mod waiting;
