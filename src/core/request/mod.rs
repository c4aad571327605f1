//! One request of a child: which way it goes, and the ways that belong to no other room.

pub(in crate::core) mod blocking;
pub(in crate::core) mod dispatch;
pub(in crate::core) mod flow;
pub(in crate::core) mod local;
pub(in crate::core) mod pinned;
pub(in crate::core) mod reading;
pub(in crate::core) mod roster;
pub(in crate::core) mod run;
pub(in crate::core) mod wait;
