//! A CLIENT LIST in the making. Owns how far it is; `request::roster` makes it.

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
    pub(crate) fn footprint(&self) -> usize {
        let keys = self.keys.as_ref().map_or(0, Vec::capacity) * size_of::<ChildKey>();
        keys + self.lines.capacity()
    }
}
