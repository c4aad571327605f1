//! The broker's mind: children, lanes, pools and the rules between them. No socket, no clock, no mio: it is
//! told what arrived and what time it is, and says what is to be written.
//!
//! Read it along the line of one request: `broker` (events in) -> `dispatch` -> `pool` -> `lane`, and back
//! through `answer` -> `child`. `local`, `multi`, `leased`, `pubsub`, `subscription` are the ways a request can go
//! other than straight; `failure`, `janitor` and `leasing` are what happens beside the line.

mod ahead;
mod answer;
mod auth;
mod blocking;
mod broker;
mod bulk;
mod busy;
mod child;
mod children;
mod control;
mod dispatch;
mod failure;
mod fresh;
mod greeting;
mod guesses;
mod handshake;
mod holders;
mod integrity;
mod janitor;
mod lane;
mod lease;
mod leased;
mod leasing;
mod local;
mod memory;
mod multi;
mod notice;
mod pinned;
mod pool;
mod probe;
mod pubsub;
mod reason;
mod reload;
mod replies;
mod roster;
mod run;
mod scripts;
mod session;
mod shared;
mod stats;
mod subscription;
mod timers;
mod transaction;
mod upstream_limits;
mod users;
mod wait;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

pub use broker::{Action, Broker, Counters};
pub use child::{Child, ChildKind};
pub use lane::{Lane, LaneRole};
pub use session::{ReplyMode, Session};
