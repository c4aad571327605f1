//! One request of a child: which way it goes, and the ways that belong to no other room.

pub(crate) mod blocking;
pub(crate) mod dispatch;
pub(crate) mod flow;
pub(crate) mod intake;
pub(crate) mod local;
pub(crate) mod pinned;
pub(crate) mod reading;
pub(crate) mod roster;
pub(crate) mod run;
pub(crate) mod upstream_loss;
pub(crate) mod wait;
