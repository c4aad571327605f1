//! When the bytes of a queue came, or went: one mark for all that do so at the same time. Offsets are those of the queue, and
//! only grow. Owns the marks; reads no clock.

use std::collections::VecDeque;

/// Marks of one queue: beyond these, bytes have the mark of those before them.
const MARKS_MAX: usize = 256;

/// Marks in the order of their offsets: (end of the bytes, when).
#[derive(Debug, Default)]
pub struct Stamps {
    marks: VecDeque<(u64, u64)>,
}

impl Stamps {
    /// The bytes up to `end` that have no mark get this one.
    #[inline]
    pub fn note(&mut self, end: u64, at: u64) {
        let count = self.marks.len();
        match self.marks.back_mut() {
            Some((marked, _)) if *marked >= end => {}
            Some((marked, then)) if *then == at => *marked = end,
            // Whoever sends byte by byte has no mark for each.
            Some((marked, _)) if count >= MARKS_MAX => *marked = end,
            _ => self.marks.push_back((end, at)),
        }
    }

    /// The mark of the byte that ends at `end`, and where the last byte ends that has it; forgets those of all before it.
    #[inline]
    pub fn take(&mut self, end: u64) -> Option<(u64, u64)> {
        while let Some((marked, at)) = self.marks.front() {
            if *marked >= end {
                return Some((*marked, *at));
            }
            self.marks.pop_front();
        }
        None
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.marks.clear();
    }

    /// Heap bytes.
    pub fn footprint(&self) -> usize {
        self.marks.capacity() * size_of::<(u64, u64)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_has_the_mark_of_its_moment() {
        let mut stamps = Stamps::default();
        for (end, at) in [(10, 1), (20, 1), (30, 2), (25, 3), (40, 4)] {
            stamps.note(end, at);
        }
        assert_eq!(stamps.marks.len(), 3, "one mark for a moment, and none for what has one");
        let taken = [5, 20, 21, 30, 40].map(|end| stamps.take(end));
        assert_eq!(taken, [(20, 1), (20, 1), (30, 2), (30, 2), (40, 4)].map(Some));
        assert_eq!(stamps.take(41), None);
        (1..100_000).for_each(|at| stamps.note(100 + at, at));
        assert!(stamps.marks.len() <= MARKS_MAX, "one byte at a time");
        assert_eq!(stamps.take(100 + 99_999), Some((100 + 99_999, MARKS_MAX as u64)));
    }
}
