//! The broker's own conversation with the upstream: what it asks and what it knows.

pub(in crate::core) mod ask;
pub(in crate::core) mod busy;
pub(in crate::core) mod commands;
pub(in crate::core) mod control;
pub(in crate::core) mod fresh;
mod known;
pub(in crate::core) mod probe;
pub(in crate::core) mod rights;
pub(in crate::core) mod scripts;
pub(in crate::core) mod work;
