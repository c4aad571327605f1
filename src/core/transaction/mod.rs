//! Transactions: queued here, sent in one piece, or open on a leased lane.

pub(in crate::core) mod multi;
pub(in crate::core) mod state;
