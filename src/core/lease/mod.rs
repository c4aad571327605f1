//! Leases: who waits for a lane of its own, who has one, and how it is taken back.

pub(in crate::core) mod leased;
pub(in crate::core) mod lending;
pub(in crate::core) mod lines;
pub(in crate::core) mod pinning;
pub(in crate::core) mod state;
