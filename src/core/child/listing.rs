//! A CLIENT LIST as far as it is made. Owns the text and the position; `request::roster` makes it go on.

use crate::core::keys::ChildKey;

/// A CLIENT LIST as far as it is made: with many children, or many ids, it takes more than one turn.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) lines: String,
    /// Those to show, unless the request names them: all there were when it began.
    pub(crate) keys: Option<Vec<ChildKey>>,
    /// How many of them have been looked at.
    pub(crate) done: usize,
}

impl Listing {
    /// Heap bytes held.
    pub(crate) fn footprint(&self) -> usize {
        let keys = self.keys.as_ref().map_or(0, Vec::capacity) * std::mem::size_of::<ChildKey>();
        std::mem::size_of::<Listing>() + keys + self.lines.capacity()
    }
}
