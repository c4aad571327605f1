//! Pauses, and moves to another upstream: what an operator does to a broker that runs, while its children stay.

pub(crate) mod face;
pub(crate) mod moves;
pub(crate) mod pause;
pub(crate) mod resting;
pub(crate) mod standstill;
