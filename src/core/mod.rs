//! The broker's mind: children, lanes, pools and the rules between them. No socket, no clock, no mio: it is
//! told what arrived and what time it is, and says what is to be written.
//!
//! Read it along the line of one request: `broker` (events in) -> `dispatch` -> `pool` -> `lane`, and back
//! through `answer` -> `child`. `local`, `multi`, `leased`, `pubsub`, `subscription` are the ways a request can go
//! other than straight; `failure`, `janitor` and `leasing` are what happens beside the line.

mod action;
mod broker;
mod child;
mod connection;
mod counters;
mod deliver;
mod env;
mod janitor;
mod keys;
mod lease;
mod memory;
mod notice;
mod pubsub;
mod questions;
mod reload;
mod reply;
mod request;
mod route;
mod shared;
mod stats;
mod timers;
mod transaction;
mod user;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

pub use action::Action;
pub use broker::Broker;
pub use child::{Child, ChildKind};
pub use connection::lane::Lane;
pub use connection::role::LaneRole;
pub use counters::Counters;
pub use keys::{ChildKey, LaneKey};
