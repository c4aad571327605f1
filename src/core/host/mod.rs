//! This host, as far as children come from it: their processes, users and what those add up to.

pub(crate) mod executables;
pub(crate) mod identity;
pub(crate) mod leak_watch;
pub(crate) mod leaks;
pub(crate) mod processes;
pub(crate) mod usage;
