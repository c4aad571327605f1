//! How far a child that takes no replies is read ahead. Clients write a whole pipeline before they read a reply: such a
//! client is in the middle of a write and takes nothing before the rest of it has been read. Owns the bound and the next
//! look; `request::reading` decides.

use crate::base::clock::Millis;
use crate::base::limits;

/// How far a child that takes no replies is read, and since when it has taken none.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct ReadAhead {
    /// Bytes of requests it may have waiting.
    pub(in crate::core) bound: usize,
    /// When it is looked at again; none while it is below the bound.
    pub(in crate::core) due: Option<Millis>,
    /// Bytes it had taken when it was last looked at.
    pub(in crate::core) taken: u64,
}

impl Default for ReadAhead {
    fn default() -> Self {
        ReadAhead { bound: limits::CHILD_READ_AHEAD, due: None, taken: 0 }
    }
}
