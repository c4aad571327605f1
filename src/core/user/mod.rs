//! Users: who children are, and which user their requests are sent as.

pub(crate) mod auth;
pub(crate) mod credentials;
pub(crate) mod end;
pub(crate) mod guesses;
pub(crate) mod proof;
pub(crate) mod users;
