//! Transactions: queued here and sent behind a MULTI that is accepted, sent in one piece, or open on a leased lane.

pub(crate) mod armed;
pub(crate) mod filling;
pub(crate) mod multi;
pub(crate) mod state;
