//! The broker's own conversation with the upstream: what it asks and what it knows. The state is in `commands`, `control`,
//! `known`, `own_rights`, `probe`, `rights` and `work`; what asks and is answered in `ask`, `busy`, `fresh`, `ready`, `scripts` and
//! `user::proof`.

pub(crate) mod ask;
pub(crate) mod busy;
pub(crate) mod commands;
pub(crate) mod control;
pub(crate) mod fresh;
mod known;
pub(crate) mod own_rights;
pub(crate) mod probe;
pub(crate) mod ready;
pub(crate) mod rights;
pub(crate) mod scripts;
pub(crate) mod work;
