//! Users: who children are, and which user their requests are sent as.

pub(in crate::core) mod auth;
pub(in crate::core) mod credentials;
pub(in crate::core) mod end;
pub(in crate::core) mod guesses;
pub(in crate::core) mod proof;
pub(in crate::core) mod users;
