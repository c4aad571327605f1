//! A child that goes to another process: its image, in plain values, is taken out here and taken in there. Owns which
//! children are about to go, and what of a child goes with it. Never sends a byte: descriptors and order are the driver's.
//!
//! A child goes at rest: nothing of it is upstream, and it has all that it was owed but for what its socket has not taken.
//! To come to rest it is *moving*: no further request of it is run, and none is read.

pub(crate) mod format;
pub(crate) mod give;
pub(crate) mod hubs;
pub(crate) mod image;
pub(crate) mod moves;
pub(crate) mod places;
pub(crate) mod take;

pub use format::FORMAT;
