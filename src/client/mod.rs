//! The library's child side: what a process that sends requests needs, and a program that embeds the loop for its own.
//! `mux` holds every request until its outcome is known and does no I/O. `net` drives a mux over sockets, `embedded` several
//! through a loop in the same process.

mod channel;
mod connect;
mod embedded;
mod endpoint;
mod guard;
mod mux;
mod net;
mod replies;
mod request;
mod requests;
mod topics;

#[cfg(test)]
mod tests;

pub use embedded::{ClientKey, Embedded};
pub use endpoint::{OwnFd, Unusable, VARIABLE};
pub use net::{Client, Peering, Recipe};
pub use request::{BLOCK_MAX, Block, ClientRequest, Event, Fault, Outcome, Refusal};
pub use requests::{Requests, SessionKey};
pub use topics::Family;
