//! Sockets: the listeners children connect to, the streams of both sides, and a server's address (`resolver`). Knows
//! bytes, not Redis.

pub mod conn;
pub mod handover;
pub mod listener;
pub mod process;
pub mod resolver;
pub mod secure;
pub mod stream;
pub mod tls;
pub mod wake;
