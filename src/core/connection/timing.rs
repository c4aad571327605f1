//! When a lane's requests were put on it and written, and how some of them begin: what is known of where the time of each
//! goes once its reply comes. Owns the marks, by the absolute offsets of the lane's outgoing bytes; decides nothing.

use crate::base::limits;
use crate::base::stamps::Stamps;
use std::collections::VecDeque;

/// When a request was where, microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RequestStamps {
    pub(crate) pushed_at: u64,
    pub(crate) written_at: u64,
    /// For how long it had stood in its child's input before.
    pub(crate) input_us: u64,
}

/// When requests were put on a lane and written, and what some of them look like.
#[derive(Debug, Default)]
pub(super) struct Timing {
    pushed: Stamps,
    written: Stamps,
    /// What `pushed` and `written` say of the bytes up to an offset, behind those that were asked for last: nearly all
    /// requests are written with others.
    known: (u64, RequestStamps),
    /// Those that had stood in their child's input: where they end, and for how long.
    pub(super) waited: VecDeque<(u64, u64)>,
    prefixes: Option<Box<Prefixes>>,
    /// Heap bytes, which are asked for more often than they change.
    held: usize,
}

/// The first bytes of the youngest requests, should one of them turn out to be slow.
#[derive(Debug)]
struct Prefixes {
    kept: [Prefix; limits::PREFIXES_KEPT],
    next: usize,
}

#[derive(Debug, Clone, Copy)]
struct Prefix {
    end: u64,
    len: u8,
    bytes: [u8; limits::PREFIX_LEN],
}

impl Prefixes {
    fn new() -> Box<Prefixes> {
        let none = Prefix { end: 0, len: 0, bytes: [0; limits::PREFIX_LEN] };
        Box::new(Prefixes { kept: [none; limits::PREFIXES_KEPT], next: 0 })
    }

    #[inline]
    fn keep(&mut self, request: &[u8], end: u64) {
        let prefix = &mut self.kept[self.next];
        let len = request.len().min(limits::PREFIX_LEN);
        prefix.bytes[..len].copy_from_slice(&request[..len]);
        (prefix.end, prefix.len) = (end, len as u8);
        self.next = (self.next + 1) % limits::PREFIXES_KEPT;
    }
}

impl Timing {
    /// What was put on the lane up to `end`, since this was last said. Noted before the clock moves, or once it is looked at what
    /// there is to write, rather than for each request.
    pub(super) fn pushed(&mut self, end: u64, micros: u64) {
        self.pushed.note(end, micros);
        self.measure();
    }

    /// The request that ends at `end` had stood in its child's input.
    #[inline]
    pub(super) fn has_waited(&mut self, end: u64, input_us: u64) {
        if input_us > 0 {
            self.waited.push_back((end, input_us));
            self.measure();
        }
    }

    /// The lane's socket has taken all bytes up to `end`.
    #[inline]
    pub(super) fn wrote(&mut self, end: u64, micros: u64) {
        self.written.note(end, micros);
        self.measure();
    }

    /// The request that ends at `end` begins with these bytes.
    #[inline]
    pub(super) fn keep_prefix(&mut self, request: &[u8], end: u64) {
        if self.prefixes.is_none() {
            self.prefixes = Some(Prefixes::new());
            self.measure();
        }
        if let Some(prefixes) = &mut self.prefixes {
            prefixes.keep(request, end);
        }
    }

    /// The first bytes of the request that ended there, if they were kept.
    pub(super) fn prefix_of(&self, end: u64) -> Option<&[u8]> {
        let prefix = self.prefixes.as_ref()?.kept.iter().find(|prefix| prefix.end == end)?;
        Some(&prefix.bytes[..usize::from(prefix.len)])
    }

    #[inline]
    pub(super) fn take(&mut self, end: u64) -> RequestStamps {
        if end > self.known.0 {
            self.find(end);
        }
        let input_us = if self.waited.is_empty() { 0 } else { self.take_wait(end) };
        RequestStamps { input_us, ..self.known.1 }
    }

    #[inline(never)]
    fn find(&mut self, end: u64) {
        let (pushed, written) = (self.pushed.take(end), self.written.take(end));
        let (pushed_to, pushed_at) = pushed.or(written).unwrap_or((end, 0));
        let (written_to, written_at) = written.unwrap_or((end, pushed_at));
        let stamps = RequestStamps { pushed_at, written_at, input_us: 0 };
        self.known = (pushed_to.min(written_to), stamps);
    }

    /// Requests were taken off the lane without a reply: what is known of them is forgotten, up to the one that is at the front
    /// now.
    pub(super) fn forget_before(&mut self, front: Option<u64>) {
        self.known.0 = 0;
        let Some(end) = front else {
            self.pushed.clear();
            self.written.clear();
            return self.waited.clear();
        };
        self.pushed.take(end);
        self.written.take(end);
        while self.waited.front().is_some_and(|(other, _)| *other < end) {
            self.waited.pop_front();
        }
    }

    #[inline(never)]
    fn take_wait(&mut self, end: u64) -> u64 {
        while let Some((other, waited)) = self.waited.front().copied()
            && other <= end
        {
            self.waited.pop_front();
            if other == end {
                return waited;
            }
        }
        0
    }

    fn measure(&mut self) {
        let prefixes = self.prefixes.as_ref().map_or(0, |_| size_of::<Prefixes>());
        let waited = self.waited.capacity() * size_of::<(u64, u64)>();
        self.held = self.pushed.footprint() + self.written.footprint() + waited + prefixes;
    }

    #[inline(always)]
    pub(super) fn footprint(&self) -> usize {
        self.held
    }
}
