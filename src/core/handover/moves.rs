//! Which children are about to go to another process, and where the search for the next ones goes on. Owns that list; what
//! moves and when is `handover::give`'s.

use crate::core::keys::ChildKey;

#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// They run no further request. Some of them may have gone since.
    pub(super) moving: Vec<ChildKey>,
    /// Where among the children the search goes on.
    pub(super) next: usize,
}
