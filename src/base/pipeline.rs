//! Requests pipelined on one connection, without the connection: the bytes that wait to be written, and an entry for
//! every request without a reply. Offsets are absolute and only grow, so that no byte is written twice; each request begins
//! where the one before it ends. Owns the arithmetic of what may have left; never what an entry means.

use super::outgoing::{Fragment, Outgoing};
use std::collections::VecDeque;

/// Entries for which an empty pipeline keeps room.
const ENTRIES_KEPT: usize = 1024;

/// What a pipeline remembers of a request.
pub trait Entry {
    /// Absolute offset where the request's bytes end, as it was told when it was made.
    fn end(&self) -> u64;

    /// Whether the next request was put on together with this one and means nothing without it. Such requests are a
    /// unit: a byte of one has left as soon as a byte of any has.
    fn is_bound_to_next(&self) -> bool {
        false
    }
}

/// See the module.
#[derive(Debug)]
pub struct Pipeline<T> {
    /// Oldest first.
    entries: VecDeque<T>,
    /// What has not been written.
    bytes: Outgoing,
    /// Where the front request begins.
    start: u64,
    /// The front request is of a unit of which requests have been answered: it belongs to the connection that did.
    inside_unit: bool,
}

impl<T> Default for Pipeline<T> {
    fn default() -> Self {
        Pipeline { entries: VecDeque::new(), bytes: Outgoing::default(), start: 0, inside_unit: false }
    }
}

impl<T: Entry> Pipeline<T> {
    /// Puts a whole request on. `make` is told where it ends.
    #[inline]
    pub fn push(&mut self, request: &[u8], make: impl FnOnce(u64) -> T) {
        self.bytes.append(request);
        self.entries.push_back(make(self.bytes.appended()));
    }

    /// The same of a request that lies in a fragment.
    pub fn push_fragment(&mut self, request: Fragment, make: impl FnOnce(u64) -> T) {
        self.bytes.append_fragment(request);
        self.entries.push_back(make(self.bytes.appended()));
    }

    /// Puts many requests on at once; each is told where it ends in `requests`.
    pub fn push_all(
        &mut self,
        requests: &[u8],
        entries: impl Iterator<Item = (usize, T)>,
        at: impl Fn(T, u64) -> T,
    ) {
        let start = self.bytes.appended();
        self.bytes.append(requests);
        self.entries.extend(entries.map(|(end, entry)| at(entry, start + end as u64)));
        debug_assert!(self.entries.back().is_none_or(|last| last.end() == self.bytes.appended()));
    }

    /// The same of a request that `write` appends.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>), make: impl FnOnce(u64) -> T) {
        write(self.bytes.tail());
        self.entries.push_back(make(self.bytes.appended()));
    }

    /// Appends bytes that need no entry, as a greeting does. Only while there is none.
    pub fn write_unasked(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        debug_assert!(self.entries.is_empty(), "a reply to these bytes would be another's");
        write(self.bytes.tail());
        self.start = self.bytes.appended();
    }

    /// The oldest entry: the next reply is for it.
    pub fn front(&self) -> Option<&T> {
        self.entries.front()
    }

    /// The same.
    pub fn front_mut(&mut self) -> Option<&mut T> {
        self.entries.front_mut()
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> &VecDeque<T> {
        &self.entries
    }

    /// All entries, oldest first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut()
    }

    /// Whether there is no entry.
    pub fn is_idle(&self) -> bool {
        self.entries.is_empty()
    }

    /// The bytes that wait to be written. Their offsets are those of the requests.
    pub fn bytes(&self) -> &Outgoing {
        &self.bytes
    }

    /// Heap bytes held, without those of fragments.
    pub fn footprint(&self) -> usize {
        self.bytes.footprint() + self.entries.capacity() * size_of::<T>()
    }

    /// The socket has taken `count` bytes.
    pub fn wrote(&mut self, count: usize) {
        self.bytes.consume(count);
    }

    /// Takes the entry that a complete reply belongs to. `None`: nobody asked, or the request has not left whole.
    #[inline(always)]
    pub fn take_answered(&mut self) -> Option<T> {
        if self.front()?.end() > self.bytes.consumed() {
            return None;
        }
        let entry = self.take_front()?;
        self.inside_unit = entry.is_bound_to_next();
        Some(entry)
    }

    /// Takes the oldest entry, answered or not. The bytes of its request stay.
    #[inline(always)]
    pub fn take_front(&mut self) -> Option<T> {
        let entry = self.entries.pop_front()?;
        self.start = entry.end();
        if self.entries.is_empty() && self.entries.capacity() > ENTRIES_KEPT {
            self.entries = VecDeque::new();
        }
        Some(entry)
    }

    /// Takes the oldest entry with its request, of which no byte has left, and shows both to `take`.
    pub fn take_unwritten<R>(&mut self, take: impl FnOnce(T, &[u8]) -> R) -> Option<R> {
        debug_assert!(!self.has_written(), "a byte of it has left");
        let start = self.start;
        let entry = self.take_front()?;
        let len = (entry.end() - start) as usize;
        let taken = take(entry, &self.bytes.front()[..len]);
        self.bytes.consume(len);
        Some(taken)
    }

    /// Drops the units of which an entry is not to be kept, with their bytes; only while no byte of any has left. The others are
    /// put on anew, in order, so each is told afresh where it ends by `at`; where its bytes depend on that, `again` makes
    /// as many others.
    pub fn retain_units(
        &mut self,
        keeps: impl Fn(&T) -> bool,
        again: impl Fn(&T, u64) -> Option<Vec<u8>>,
        at: impl Fn(T, u64) -> T,
    ) {
        debug_assert!(!self.has_written() && !self.inside_unit, "a byte of it has left");
        let (mut in_unit, mut kept) = (false, false);
        for _ in 0..self.entries.len() {
            let Some(entry) = self.entries.pop_front() else { break };
            let len = (entry.end() - self.start) as usize;
            self.start = entry.end();
            if !in_unit {
                // The rest of its unit stands at the front now.
                let rest = 1 + self.entries.iter().take_while(|entry| entry.is_bound_to_next()).count();
                let rest = if entry.is_bound_to_next() { rest } else { 0 };
                kept = keeps(&entry) && self.entries.iter().take(rest).all(&keeps);
            }
            in_unit = entry.is_bound_to_next();
            if !kept {
                self.bytes.consume(len);
                continue;
            }
            match again(&entry, self.bytes.appended() + len as u64) {
                Some(bytes) => {
                    self.bytes.append(&bytes);
                    self.bytes.consume(len);
                }
                None => self.bytes.rotate(len),
            }
            self.entries.push_back(at(entry, self.bytes.appended()));
        }
        self.start = self.bytes.consumed();
    }

    /// Whether the front request has begun to leave: one byte handed to the socket is enough.
    pub fn has_written(&self) -> bool {
        !self.entries.is_empty() && self.start < self.bytes.consumed()
    }

    /// Whether a unit has been answered in part. What is left of it means nothing on another connection, though no byte of
    /// that may have left.
    pub fn is_inside_unit(&self) -> bool {
        self.inside_unit && !self.entries.is_empty()
    }

    /// Absolute offset where the last unit ends of which a byte may have left.
    pub fn end_of_written(&self) -> u64 {
        let consumed = self.bytes.consumed();
        let (mut end, mut in_unit) = (self.start, self.inside_unit);
        for entry in &self.entries {
            if end >= consumed && !in_unit {
                break;
            }
            end = entry.end();
            in_unit = entry.is_bound_to_next();
        }
        end
    }

    /// Absolute offset where the unit ends that the oldest entry is of.
    pub fn end_of_unit(&self) -> u64 {
        let last = self.entries.iter().find(|entry| !entry.is_bound_to_next());
        last.or(self.entries.back()).map_or(self.start, Entry::end)
    }

    /// Of the bytes that wait to be written and lie at the front, those before this offset.
    pub fn bytes_until(&self, end: u64) -> &[u8] {
        let count = end.saturating_sub(self.bytes.consumed()) as usize;
        let front = self.bytes.front();
        &front[..count.min(front.len())]
    }

    /// The connection is gone: takes every entry of which a byte may have left, a unit as a whole, and drops the rest of
    /// the last one's bytes. What remains has never been written.
    pub fn take_written(&mut self) -> Vec<T> {
        let end = self.end_of_written();
        let mut written = Vec::new();
        while self.front().is_some_and(|entry| entry.end() <= end) {
            written.extend(self.take_front());
        }
        self.bytes.consume(end.saturating_sub(self.bytes.consumed()) as usize);
        self.inside_unit = false;
        written
    }

    /// Takes every entry, written or not, and drops all bytes.
    pub fn take_all(&mut self) -> Vec<T> {
        self.bytes.consume(self.bytes.len());
        self.start = self.bytes.consumed();
        self.inside_unit = false;
        std::mem::take(&mut self.entries).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the request ends, and whether the next is bound to it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct TestEntry(u64, bool);

    impl Entry for TestEntry {
        fn end(&self) -> u64 {
            self.0
        }

        fn is_bound_to_next(&self) -> bool {
            self.1
        }
    }

    #[test]
    fn units_are_dropped_whole_and_the_others_are_told_where_they_end() {
        let mut pipeline = pipeline(&[
            (b"a", false),
            (b"bb", true),
            (b"bb", false),
            (b"ccc", false),
            (b"d", true),
            (b"e", false),
        ]);
        let longest = |entry: &TestEntry| entry.0 < 6 && entry.0 > 1;
        pipeline.retain_units(
            |entry| !longest(entry),
            |entry, end| (entry.0 == 10).then(|| (end % 10).to_string().into_bytes()),
            |entry, end| TestEntry(end, entry.1),
        );
        assert_eq!(pipeline.bytes.front(), b"acccd6", "the last one's byte is where it ends");
        let (entries, start): (Vec<_>, u64) = (pipeline.entries.iter().copied().collect(), pipeline.start);
        assert_eq!(start, pipeline.bytes.consumed());
        let ends: Vec<_> = entries.iter().map(|entry| (entry.0 - start, entry.1)).collect();
        assert_eq!(ends, [(1, false), (4, false), (5, true), (6, false)]);
        pipeline.wrote(2);
        assert_eq!(pipeline.take_written().len(), 2, "a byte of the second has left");
    }

    fn pipeline(requests: &[(&[u8], bool)]) -> Pipeline<TestEntry> {
        let mut pipeline = Pipeline::default();
        for (bytes, bound) in requests {
            pipeline.push(bytes, |end| TestEntry(end, *bound));
        }
        pipeline
    }

    fn ends(entries: &[TestEntry]) -> Vec<u64> {
        entries.iter().map(Entry::end).collect()
    }

    #[test]
    fn a_byte_that_left_makes_the_request_written() {
        let mut pipeline = pipeline(&[(b"aaaa", false), (b"bbbb", false), (b"cccc", false)]);
        assert!(!pipeline.has_written());
        pipeline.wrote(5);
        assert!(pipeline.has_written());
        assert_eq!(ends(&pipeline.take_written()), [4, 8]);
        assert_eq!(pipeline.bytes().front(), b"cccc", "the rest of b is dropped, c has never left");
        assert_eq!(pipeline.entries().len(), 1);
        assert!(!pipeline.has_written());
    }

    #[test]
    fn a_unit_is_lost_as_a_whole() {
        let mut pipeline = pipeline(&[(b"multi", true), (b"set", true), (b"exec", false), (b"get", false)]);
        pipeline.wrote(1);
        assert_eq!(pipeline.end_of_written(), 12);
        assert_eq!(pipeline.take_written().len(), 3);
        assert_eq!(pipeline.bytes().front(), b"get");
    }

    #[test]
    fn a_unit_whose_first_reply_has_come_is_lost_as_a_whole_too() {
        let mut pipeline = pipeline(&[(b"multi", true), (b"set", true), (b"exec", false), (b"get", false)]);
        pipeline.wrote(4);
        assert_eq!(pipeline.take_answered(), None, "it has not left whole");
        pipeline.wrote(1);
        assert!(pipeline.take_answered().is_some(), "MULTI is answered while the rest of the unit is here");
        assert_eq!(pipeline.take_written().len(), 2, "SET and EXEC mean nothing without it");
        assert_eq!(pipeline.bytes().front(), b"get");
        assert!(pipeline.take_written().is_empty(), "GET belongs to the next connection");
    }

    #[test]
    fn a_unit_is_written_without_the_next_one() {
        let mut pipeline = pipeline(&[(b"set", true), (b"exec", false), (b"get", true), (b"exec", false)]);
        assert_eq!(pipeline.bytes_until(pipeline.end_of_unit()), b"setexec");
        pipeline.wrote(7);
        assert!(pipeline.take_answered().is_some());
        assert_eq!(pipeline.bytes_until(pipeline.end_of_unit()), b"", "EXEC has not been answered");
        assert!(pipeline.take_answered().is_some());
        assert_eq!(pipeline.bytes_until(pipeline.end_of_unit()), b"getexec");
    }

    #[test]
    fn nothing_written_means_nothing_lost() {
        let mut pipeline = pipeline(&[(b"aaaa", false)]);
        assert!(pipeline.take_written().is_empty());
        assert_eq!(pipeline.bytes().front(), b"aaaa");
        pipeline.wrote(4);
        assert_eq!(pipeline.take_answered(), Some(TestEntry(4, false)));
        assert_eq!(pipeline.take_answered(), None);
        pipeline.push(b"bb", |end| TestEntry(end, false));
        assert_eq!(pipeline.take_answered(), None, "a reply before the request has left is nobody's");
    }

    #[test]
    fn what_has_not_left_is_taken_with_its_bytes() {
        let mut pipeline = pipeline(&[(b"aaaa", false), (b"bb", false), (b"c", false)]);
        pipeline.wrote(4);
        assert!(pipeline.take_answered().is_some());
        let taken = pipeline.take_unwritten(|entry, bytes| (entry, bytes.to_vec()));
        assert_eq!(taken, Some((TestEntry(6, false), b"bb".to_vec())));
        assert_eq!(
            (pipeline.bytes().front(), pipeline.bytes().consumed(), pipeline.bytes().appended()),
            (&b"c"[..], 6, 7)
        );
        assert_eq!(ends(&pipeline.take_all()), [7]);
        assert!(pipeline.is_idle() && pipeline.bytes().is_empty());
        pipeline.push_with(|out| out.extend_from_slice(b"dd"), |end| TestEntry(end, false));
        assert!(!pipeline.has_written(), "offsets go on where they were");
        assert_eq!(pipeline.take_unwritten(|entry, bytes| (entry.end(), bytes.len())), Some((9, 2)));
    }

    #[test]
    fn bytes_without_an_entry_make_no_request_written() {
        let mut pipeline = Pipeline::default();
        pipeline.write_unasked(|out| out.extend_from_slice(b"hello"));
        pipeline.push(b"aa", |end| TestEntry(end, false));
        pipeline.wrote(3);
        assert!(!pipeline.has_written());
        assert!(pipeline.take_written().is_empty());
        assert_eq!(
            pipeline.bytes().front(),
            b"aa",
            "the rest of the greeting is of no use to another connection"
        );
        pipeline.wrote(1);
        assert_eq!(ends(&pipeline.take_written()), [7]);
    }

    #[test]
    fn a_burst_is_given_back() {
        let mut pipeline = Pipeline::default();
        for _ in 0..4096 {
            pipeline.push(&[0; 16], |end| TestEntry(end, false));
        }
        pipeline.wrote(16 * 4096);
        while pipeline.take_answered().is_some() {}
        assert_eq!(pipeline.footprint(), 0);
    }
}
