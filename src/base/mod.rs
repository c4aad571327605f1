//! The ground floor: errors, bounds, bytes, keys, time and how long things take, areas and limits of the log, owners of
//! descriptors. Knows nothing of Redis.

pub mod bytes;
pub mod clock;
pub mod distribution;
pub mod error;
pub mod failure;
pub mod fds;
pub mod fork;
pub mod key;
pub mod limits;
pub mod log_area;
pub mod log_limit;
pub mod outgoing;
pub mod peer_certificate;
pub mod pipeline;
pub mod process;
pub mod secured;
pub mod seed;
pub mod stamps;
