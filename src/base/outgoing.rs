//! Bytes that wait for a socket. Short ones are copied behind each other; long ones stand in fragments, which several queues
//! may share and which move from queue to queue without being copied. Owns nothing but memory; never blocks, never fails.

use super::bytes::{ByteQueue, Spares};
use std::collections::VecDeque;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the heap bytes of all fragments that were made with it, each once, however many queues hold it.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<AtomicUsize>);

impl Ledger {
    /// Heap bytes of the fragments that are alive.
    pub fn held(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Makes a fragment of the bytes of `buffer` in `range`; what stands around them is kept with it, and counts.
    pub fn fragment(&self, buffer: Vec<u8>, range: Range<usize>) -> Fragment {
        debug_assert!(range.end <= buffer.len());
        self.0.fetch_add(buffer.capacity(), Ordering::Relaxed);
        let ledger = self.clone();
        Fragment { memory: Arc::new(Memory { buffer, ledger }), range }
    }
}

/// The memory behind fragments: given back when the last of them is dropped.
#[derive(Debug)]
struct Memory {
    buffer: Vec<u8>,
    ledger: Ledger,
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.ledger.0.fetch_sub(self.buffer.capacity(), Ordering::Relaxed);
    }
}

/// Bytes that do not change any more. A copy of it is another handle to the same memory.
#[derive(Debug, Clone)]
pub struct Fragment {
    memory: Arc<Memory>,
    range: Range<usize>,
}

impl Fragment {
    /// A part of it, which keeps all of its memory.
    pub fn part(&self, range: Range<usize>) -> Fragment {
        debug_assert!(range.start <= range.end && range.end <= self.len());
        let start = self.range.start;
        Fragment { memory: Arc::clone(&self.memory), range: start + range.start..start + range.end }
    }

    /// The part of it that these bytes are, if they lie in it.
    pub fn part_at(&self, bytes: &[u8]) -> Option<Fragment> {
        let start = (bytes.as_ptr() as usize).checked_sub(self.as_ptr() as usize)?;
        (start + bytes.len() <= self.len()).then(|| self.part(start..start + bytes.len()))
    }

    /// Its memory, and where in it the fragment begins, unless there is another one of that memory.
    pub fn into_buffer(mut self) -> Result<(Vec<u8>, usize), Fragment> {
        let start = self.range.start;
        match Arc::get_mut(&mut self.memory) {
            Some(memory) => {
                let buffer = std::mem::take(&mut memory.buffer);
                memory.ledger.0.fetch_sub(buffer.capacity(), Ordering::Relaxed);
                Ok((buffer, start))
            }
            None => Err(self),
        }
    }

    /// The same without its first `count` bytes.
    pub fn without_first(mut self, count: usize) -> Fragment {
        self.range.start = (self.range.start + count).min(self.range.end);
        self
    }
}

impl Deref for Fragment {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory.buffer[self.range.clone()]
    }
}

/// A fragment's place in a queue.
#[derive(Debug)]
struct Piece {
    /// It stands behind so many of the queue's own bytes, all counted that were ever appended.
    at: u64,
    fragment: Fragment,
}

/// A queue of bytes. Offsets are absolute: they count every byte ever appended or consumed.
#[derive(Debug, Default)]
pub struct Outgoing {
    own: ByteQueue,
    /// Holds no heap while there is no fragment, as is usual.
    pieces: VecDeque<Piece>,
    /// Bytes in `pieces` that are not consumed.
    pieces_len: usize,
    /// Bytes of fragments ever consumed.
    pieces_consumed: u64,
}

impl Outgoing {
    /// An empty queue that so many bytes have left.
    pub fn from_offset(consumed: u64) -> Outgoing {
        Outgoing { pieces_consumed: consumed, ..Outgoing::default() }
    }

    /// The next bytes that lie in one place: all of them where there is no fragment.
    #[inline]
    pub fn front(&self) -> &[u8] {
        match self.pieces.front() {
            None => self.own.as_slice(),
            Some(piece) if piece.at == self.own.consumed() => &piece.fragment,
            Some(piece) => &self.own.as_slice()[..(piece.at - self.own.consumed()) as usize],
        }
    }

    /// How many bytes are queued.
    pub fn len(&self) -> usize {
        self.own.len() + self.pieces_len
    }

    /// Whether none is queued.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Heap bytes of its own. Those of the fragments are in their ledger.
    pub fn footprint(&self) -> usize {
        self.own.capacity() + self.pieces.capacity() * size_of::<Piece>()
    }

    /// Bytes in fragments.
    pub fn in_fragments(&self) -> usize {
        self.pieces_len
    }

    /// Absolute offset of the first queued byte.
    #[inline]
    pub fn consumed(&self) -> u64 {
        self.own.consumed() + self.pieces_consumed
    }

    /// Absolute offset just past the last byte appended.
    pub fn appended(&self) -> u64 {
        self.consumed() + self.len() as u64
    }

    /// Adds a copy of these bytes at the end.
    #[inline]
    pub fn append(&mut self, bytes: &[u8]) {
        self.own.append(bytes);
    }

    /// Adds a fragment at the end.
    pub fn append_fragment(&mut self, fragment: Fragment) {
        if !fragment.is_empty() {
            self.pieces_len += fragment.len();
            self.pieces.push_back(Piece { at: self.own.appended(), fragment });
        }
    }

    /// The end of the queue as a plain vector, for encoders. Only ever append to it.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        self.own.tail()
    }

    /// Drops `count` bytes from the front.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        if self.pieces.is_empty() { self.own.consume(count) } else { self.consume_pieces(count) }
    }

    #[inline(never)]
    fn consume_pieces(&mut self, mut count: usize) {
        while let Some(piece) = self.pieces.front_mut()
            && count > 0
        {
            let before = ((piece.at - self.own.consumed()) as usize).min(count);
            self.own.consume(before);
            let taken = (count - before).min(piece.fragment.len());
            piece.fragment.range.start += taken;
            count -= before + taken;
            self.pieces_len -= taken;
            self.pieces_consumed += taken as u64;
            if !piece.fragment.is_empty() {
                return;
            }
            self.pieces.pop_front();
            if self.pieces.is_empty() {
                self.pieces = VecDeque::new();
            }
        }
        self.own.consume(count);
    }

    /// Moves the first `len` bytes behind the last. They lie in one place, or are a part of what does.
    pub fn rotate(&mut self, len: usize) {
        match self.pieces.front() {
            Some(piece) if piece.at == self.own.consumed() => {
                let again = piece.fragment.part(0..len);
                self.append_fragment(again);
            }
            _ => {
                let again = self.own.as_slice()[..len].to_vec();
                self.own.append(&again);
            }
        }
        self.consume(len);
    }

    /// Gives the queue a spare buffer if it has none.
    pub fn adopt(&mut self, spares: &mut Spares) {
        self.own.adopt(spares);
    }

    /// Returns the buffer to the stock if it holds nothing, so that an idle connection has none.
    pub fn retire(&mut self, spares: &mut Spares) {
        self.own.retire(spares);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes everything out, `step` bytes at most at a time.
    fn drain(queue: &mut Outgoing, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !queue.is_empty() {
            let (before, count) = (queue.consumed(), queue.front().len().min(step));
            assert!(count > 0, "a queue that is not empty has a front");
            all.extend_from_slice(&queue.front()[..count]);
            queue.consume(count);
            assert_eq!(queue.consumed(), before + count as u64);
        }
        all
    }

    #[test]
    fn fragments_keep_their_place_among_copied_bytes() {
        for step in [1, 2, 3, 100] {
            let (ledger, mut queue) = (Ledger::default(), Outgoing::default());
            let fragment = ledger.fragment(b"__three__".to_vec(), 2..7);
            queue.append(b"one");
            queue.append_fragment(fragment.clone());
            queue.append_fragment(fragment.clone().without_first(1));
            queue.append(b"two");
            queue.append_fragment(fragment);
            assert_eq!((queue.len(), queue.in_fragments(), queue.appended()), (20, 14, 20));
            assert_eq!(drain(&mut queue, step), b"onethreehreetwothree");
            assert_eq!((queue.appended(), queue.pieces.capacity(), ledger.held()), (20, 0, 0));
            queue.append(b"end");
            assert_eq!(drain(&mut queue, step), b"end");
        }
    }

    #[test]
    fn a_consumed_stretch_may_reach_over_many_fragments() {
        let (ledger, mut queue) = (Ledger::default(), Outgoing::default());
        for word in ["ab", "cd", "ef"] {
            queue.append(word.as_bytes());
            queue.append_fragment(ledger.fragment(word.as_bytes().to_vec(), 0..2));
        }
        queue.consume(7);
        assert_eq!((queue.front(), queue.len(), queue.consumed()), (&b"d"[..], 5, 7));
        assert_eq!(drain(&mut queue, 9), b"defef");
    }

    #[test]
    fn what_is_moved_behind_the_last_keeps_its_order() {
        let (ledger, mut queue) = (Ledger::default(), Outgoing::default());
        let fragment = ledger.fragment(b"FOUR".to_vec(), 0..4);
        queue.append(b"onetwo");
        queue.append_fragment(fragment);
        queue.append(b"three");
        let consumed = queue.consumed();
        for len in [3, 3, 4, 5] {
            queue.rotate(len);
        }
        assert_eq!((queue.consumed(), queue.len(), queue.in_fragments()), (consumed + 15, 15, 4));
        assert_eq!(drain(&mut queue, 4), b"onetwoFOURthree");
        assert_eq!(ledger.held(), 0);
    }

    #[test]
    fn a_fragment_counts_once_however_many_hold_it() {
        let ledger = Ledger::default();
        let fragment = ledger.fragment(vec![b'x'; 1000], 0..1000);
        let mut queues: Vec<Outgoing> = (0..10).map(|_| Outgoing::default()).collect();
        queues.iter_mut().for_each(|queue| queue.append_fragment(fragment.clone()));
        drop(fragment);
        assert_eq!(ledger.held(), 1000);
        queues.truncate(1);
        assert_eq!((ledger.held(), queues[0].len()), (1000, 1000));
        queues[0].consume(1000);
        assert_eq!(ledger.held(), 0);
    }
}
