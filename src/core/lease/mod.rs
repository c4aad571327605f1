//! Leases: who waits for a lane of its own, who has one, and how it is given back or taken back.

pub(crate) mod backlog;
pub(crate) mod fan_in;
pub(crate) mod groups;
pub(crate) mod leased;
pub(crate) mod leases;
pub(crate) mod lending;
pub(crate) mod look;
pub(crate) mod pinning;
pub(crate) mod state;
pub(crate) mod waiting;
