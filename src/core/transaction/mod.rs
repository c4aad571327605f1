//! Transactions: queued here, sent in one piece, or open on a leased lane.

pub(crate) mod filling;
pub(crate) mod multi;
pub(crate) mod state;
