//! What an operator is to see at a glance, for whoever shows it: a survey of the core's figures, made in steps, and what is
//! wrong in them. Owns no figure; shows nothing itself.

pub(crate) mod figures;
pub(crate) mod greatest;
pub(crate) mod lately;
pub(crate) mod survey;
pub(crate) mod watch;
pub(crate) mod wrong;
