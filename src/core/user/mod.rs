//! Users: who children are, and as whom their requests go upstream.

pub(in crate::core) mod auth;
pub(in crate::core) mod credentials;
pub(in crate::core) mod end;
pub(in crate::core) mod guesses;
pub(in crate::core) mod proof;
pub(in crate::core) mod users;
