//! Which server the requests go to: whether it must be a master, what becomes of its connections when it is one no more.

pub(crate) mod leaving;
pub(crate) mod master;
pub(crate) mod reading;
pub(crate) mod replicas;
pub(crate) mod roles;
pub(crate) mod sentinel;
pub(crate) mod sentinels;
