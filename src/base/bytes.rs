//! Bytes that wait for a socket: a queue that counts all bytes that have ever left it, and a stock of spare buffers.
//! Owns nothing but memory; never blocks, never fails.

use std::fmt;

/// An emptied queue keeps at most this capacity, bytes, so that the memory of a burst does not stay.
const KEEP: usize = 16 * 1024;

/// From this capacity on, bytes, a queue grows by a quarter: what it may yet need counts as held.
const GROWS_SLOWLY: usize = 1024 * 1024;

/// Consumed bytes at the front are removed only when they are at least this many and more than half.
const COMPACT: usize = 64 * 1024;

/// A byte queue. Offsets are absolute: they count every byte ever appended or consumed, so that a slot can
/// store where its request ends and need not be updated at each write.
#[derive(Default)]
pub struct ByteQueue {
    buffer: Vec<u8>,
    head: usize,
    consumed: u64,
}

impl fmt::Debug for ByteQueue {
    /// Sizes only: the bytes may be passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteQueue").field("len", &self.len()).field("consumed", &self.consumed).finish()
    }
}

impl ByteQueue {
    /// The queued bytes, oldest first.
    pub fn as_slice(&self) -> &[u8] {
        &self.buffer[self.head..]
    }

    /// How many bytes are queued.
    pub fn len(&self) -> usize {
        self.buffer.len() - self.head
    }

    /// Whether none is queued.
    pub fn is_empty(&self) -> bool {
        self.head == self.buffer.len()
    }

    /// Heap bytes in use.
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Absolute offset of the first queued byte.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Absolute offset just past the last byte appended.
    pub fn appended(&self) -> u64 {
        self.consumed + self.len() as u64
    }

    /// A queue of what stands in this memory from `head` on.
    pub fn of(buffer: Vec<u8>, head: usize) -> ByteQueue {
        debug_assert!(head <= buffer.len());
        ByteQueue { buffer, head, consumed: 0 }
    }

    /// All of its memory, and where in it the queued bytes begin.
    pub fn into_buffer(self) -> (Vec<u8>, usize) {
        (self.buffer, self.head)
    }

    /// Adds bytes at the end.
    #[inline]
    pub fn append(&mut self, bytes: &[u8]) {
        self.compact();
        if bytes.len() > self.buffer.capacity() - self.buffer.len() {
            self.grow(bytes.len());
        }
        self.buffer.extend_from_slice(bytes);
    }

    #[inline(never)]
    fn grow(&mut self, len: usize) {
        let capacity = self.buffer.capacity();
        if capacity >= GROWS_SLOWLY {
            self.buffer.reserve_exact(len.max(capacity / 4));
        }
    }

    /// Adds bytes at the end of a queue that may grow to `max` bytes, and reserves no capacity beyond that.
    pub fn append_within(&mut self, bytes: &[u8], max: usize) {
        self.compact();
        let (needed, capacity) = (self.buffer.len() + bytes.len(), self.buffer.capacity());
        if needed > capacity && capacity * 2 > max {
            self.buffer.reserve_exact(max.max(needed) - self.buffer.len());
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Makes room for so many bytes in all, and for no more.
    pub fn make_room(&mut self, len: usize) {
        if self.head + len > self.buffer.capacity() && len > self.len() {
            self.buffer.drain(..self.head);
            self.head = 0;
            self.buffer.reserve_exact(len - self.buffer.len());
        }
    }

    /// The end of the queue as a plain vector, for encoders. Only ever append to it.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        self.compact();
        &mut self.buffer
    }

    /// Drops `count` bytes from the front; they were written or scanned.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        self.head += count;
        self.consumed += count as u64;
        if self.head == self.buffer.len() {
            self.buffer.clear();
            self.head = 0;
            if self.buffer.capacity() > KEEP {
                self.buffer = Vec::new();
            }
        }
    }

    /// Gives the queue a spare buffer if it has none.
    #[inline]
    pub fn adopt(&mut self, spares: &mut Spares) {
        if self.buffer.capacity() == 0 {
            self.buffer = spares.take();
        }
    }

    /// Returns the buffer of an empty queue to the stock, so that an idle child has none.
    #[inline]
    pub fn retire(&mut self, spares: &mut Spares) {
        if self.is_empty() && self.buffer.capacity() > 0 {
            self.head = 0;
            spares.give(std::mem::take(&mut self.buffer));
        }
    }

    #[inline]
    fn compact(&mut self) {
        if self.head >= COMPACT && self.head > self.buffer.len() / 2 {
            self.buffer.drain(..self.head);
            self.head = 0;
        }
    }
}

/// Empty buffers shared by all children: taken when a reply is written, returned when it has been sent. Saves an
/// allocation per request, while ten thousand idle children need no buffers.
#[derive(Debug, Default)]
pub struct Spares {
    buffers: Vec<Vec<u8>>,
}

impl Spares {
    /// Buffers kept at most: as many children as are commonly answered in one turn.
    const MAX: usize = 256;

    fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_default()
    }

    #[inline]
    fn give(&mut self, mut buffer: Vec<u8>) {
        if self.buffers.len() < Self::MAX && buffer.capacity() <= KEEP {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }

    /// Frees everything: called when the loop has been idle.
    pub fn clear(&mut self) {
        self.buffers = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_count_every_byte_ever() {
        let mut queue = ByteQueue::default();
        queue.append(b"hello");
        queue.consume(2);
        queue.append(b"!");
        assert_eq!(queue.as_slice(), b"llo!");
        assert_eq!((queue.consumed(), queue.appended()), (2, 6));
        queue.consume(4);
        assert!(queue.is_empty());
        assert_eq!((queue.consumed(), queue.appended()), (6, 6));
    }

    #[test]
    fn a_burst_is_given_back() {
        let mut queue = ByteQueue::default();
        queue.append(&vec![0; 1 << 20]);
        queue.consume(1 << 20);
        assert_eq!(queue.capacity(), 0);
    }

    #[test]
    fn compaction_keeps_the_order() {
        let mut queue = ByteQueue::default();
        let bytes: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        queue.append(&bytes);
        queue.consume(150_000);
        queue.append(b"end");
        assert_eq!(&queue.as_slice()[..50_000], &bytes[150_000..]);
        assert_eq!(&queue.as_slice()[50_000..], b"end");
        assert_eq!(queue.consumed(), 150_000);
    }
}
