//! What the broker's program and its demo have in common: a private Redis, programs that end with their parent, standard
//! output, the limit of open files. Knows nothing of either command line.

// Each program uses its own part of this module.
#![allow(dead_code)]

pub(crate) mod dev;
pub(crate) mod files;
pub(crate) mod guard;
pub(crate) mod say;

/// The environment variable with the upstream's password.
pub(crate) const PASSWORD_VARIABLE: &str = "BROKER_UPSTREAM_PASSWORD";
