//! Sockets: the listeners children connect to, the streams both sides speak over, and where a server is (`resolver`). Knows bytes, not
//! Redis.

pub mod conn;
pub mod listener;
pub mod resolver;
pub mod stream;
pub mod wake;
