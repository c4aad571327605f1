//! The ground floor: errors, bounds, bytes, keys, time and how much is logged. Knows nothing of Redis or sockets.

pub mod bytes;
pub mod clock;
pub mod error;
pub mod key;
pub mod limits;
pub mod log_limit;
pub mod seed;
