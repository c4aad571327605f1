//! As whom connections upstream are authenticated. Owns what is sent with HELLO AUTH; decides nothing about
//! who may be whom.

use crate::config::Upstream;
use crate::config::endpoint::Secret;

/// Names a user of the upstream for as long as the broker knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct UserId(u32);

impl UserId {
    /// The one in the upstream's settings.
    pub(super) const UPSTREAM: UserId = UserId(0);
}

/// What a connection tells the upstream about itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Credentials<'a> {
    /// The user's name; the default user when `None`.
    pub(super) name: Option<&'a str>,
    /// Nothing is said when there is none.
    pub(super) password: Option<&'a Secret>,
}

/// Every user that connections are made for.
#[derive(Debug, Default)]
pub(super) struct Users {}

impl Users {
    /// What to say for `id`; the upstream's own user may change when settings are reloaded.
    pub(super) fn get<'a>(&'a self, id: UserId, upstream: &'a Upstream) -> Credentials<'a> {
        debug_assert_eq!(id, UserId::UPSTREAM);
        Credentials { name: upstream.username.as_deref(), password: upstream.password.as_ref() }
    }
}
