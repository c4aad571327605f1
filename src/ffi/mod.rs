//! Where the crate meets C: checks, converts, delegates, and never decides. The only room besides shared
//! memory in which `unsafe` may stand, each with its reason.

pub mod heap;
