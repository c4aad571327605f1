//! The ground floor: errors, bounds, bytes, keys and time. Knows nothing of Redis or sockets.

pub mod bytes;
pub mod clock;
pub mod error;
pub mod key;
pub mod limits;
pub mod seed;
