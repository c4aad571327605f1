//! The broker's rules: children, lanes, pools and what holds between them. No socket, no clock, no mio: the driver tells
//! it what has arrived and what time it is, and it says what is to be written.
//!
//! Read it along the line of one request: `broker` (events in), `request::run`, `request::dispatch`, `route`,
//! `connection::lanes`, and back through `reply` and `child::outbox`. ARCHITECTURE.md draws that line and says what each
//! folder owns.

mod action;
mod broker;
mod child;
mod connection;
mod console;
mod counters;
mod deliver;
mod env;
mod handover;
mod host;
mod intake;
mod janitor;
mod keys;
mod large;
mod latency;
mod lease;
mod memory;
mod nodes;
mod notice;
mod pubsub;
mod questions;
mod reload;
mod reply;
mod request;
mod route;
mod shared;
mod standing;
mod stats;
mod status;
mod steering;
mod sweep;
mod sweeps;
mod timers;
mod transaction;
mod user;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

pub use action::Action;
pub use broker::{Broker, Newcomer};
pub use child::{Child, ChildKind};
pub use connection::lane::Lane;
pub use connection::role::LaneRole;
pub(crate) use console::cell::Cell;
pub use console::console_tables;
pub use console::orders::{Order, OrderOutcome};
pub use counters::Counters;
pub use handover::FORMAT as HANDOVER_FORMAT;
pub use handover::format::{decode_hub, decode_images, encode_hub, encode_images};
pub use handover::hubs::HubRest;
pub use handover::image::{ChildImage, HubImage, PasswordImage, UserImage, WaitImage};
pub use keys::{ChildKey, LaneKey, LeaseKind, ProcessKey};
pub use nodes::sentinels::{SentinelAction, SentinelId, Sentinels};
pub use pubsub::hubs::moved::TopicImage;
pub use questions::ready::Readiness;
pub use standing::LaneReading;
pub use stats::RequestTimes;
pub use status::figures::{
    Fullness, HolderFigures, KindFigures, LastMinute, LeakFigures, StallFigures, StatusFigures,
};
pub(crate) use status::survey::{Survey, SurveyRow};
pub use status::wrong::{StatusTrouble, TroubleSeverity, wrong_now};
pub use transaction::state::moved::{CountImage, MultiImage};
