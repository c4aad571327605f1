//! One Redis connection pool per host, shared by every process on it.
//!
//! One process runs a [`reactor::Loop`]; all others connect to its listeners as they would to Redis. Their
//! requests share a few upstream connections, and each process gets its own replies, in the order of its requests, as
//! with a direct connection.
//!
//! ```no_run
//! use broker::config::Settings;
//! use broker::reactor::{Loop, RunMode};
//!
//! let mut settings = Settings::default();
//! settings.set("upstream", "redis://127.0.0.1:6379")?;
//! settings.set("listen", "unix:///tmp/broker.sock?mode=0660")?;
//! let mut broker = Loop::new(settings)?;
//! broker.run(RunMode::Default)?;
//! # Ok::<(), broker::base::error::Error>(())
//! ```
//!
//! The rooms, from the ground up; each uses only those before it: [`base`] (errors, bounds, bytes, keys,
//! time), [`resp`] (boundaries of frames), [`command`] (classes of requests), [`config`] (one table of
//! keys), [`core`] (children, lanes, pools and the rules between them; no I/O, no clock), [`transport`]
//! (sockets), `monitor` (what is said over HTTP), [`reactor`] (the loop), [`client`] (the sending side), [`ffi`] (the C interface).
//! ARCHITECTURE.md follows one request through them.
#![deny(unsafe_code)]

pub mod base;
pub mod client;
pub mod command;
pub mod config;
pub mod core;
pub mod ffi;
mod monitor;
pub mod reactor;
pub mod resp;
pub mod transport;
