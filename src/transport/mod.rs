//! Sockets: the listeners children connect to and the streams both sides speak over. Knows bytes, not
//! Redis.

pub mod conn;
pub mod listener;
pub mod stream;
pub mod wake;
