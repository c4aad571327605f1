//! What goes to a child: whole frames, in the order of its requests. Owns the bytes that its socket has not taken, the
//! order of the replies before them, and whether the driver knows that there is something to write.

use crate::base::bytes::{ByteQueue, Spares};
use crate::base::clock::Millis;
use crate::core::child::replies::Replies;

/// A child's outgoing bytes.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    output: ByteQueue,
    replies: Replies,
    /// Since when the output has been over the soft limit of subscribers.
    over_soft_since: Option<Millis>,
    /// The driver has been told.
    dirty: bool,
}

impl Outbox {
    /// A request went upstream. Its reply is dropped if it is `muted`.
    pub(crate) fn expect(&mut self, muted: bool) {
        self.replies.expect_one(muted);
    }

    /// The newest of those will be sent again later.
    pub(crate) fn retract(&mut self) {
        self.replies.retract_one();
    }

    /// The oldest awaited reply has come.
    pub(crate) fn deliver(&mut self, frame: &[u8], spares: &mut Spares) {
        self.output.adopt(spares);
        self.replies.deliver(frame, &mut self.output);
    }

    /// The broker answers a request itself, behind all that came before it.
    pub(crate) fn answer(&mut self, bytes: &[u8], spares: &mut Spares) {
        self.output.adopt(spares);
        self.replies.local(bytes, &mut self.output);
    }

    /// The same with a reply that had better not be copied. Where something is before it, it is.
    pub(crate) fn answer_whole(&mut self, reply: Vec<u8>, spares: &mut Spares) {
        if self.is_settled() { self.output.fill(reply) } else { self.answer(&reply, spares) }
    }

    /// A push, or an error in the place of one: it has no place in the order of the replies. RESP2 has no pushes, so there
    /// it becomes an array.
    pub(crate) fn push(&mut self, frame: &[u8], proto: u8, spares: &mut Spares) {
        self.output.adopt(spares);
        match frame.split_first() {
            Some((b'>', rest)) if proto == 2 => {
                self.output.append(b"*");
                self.output.append(rest);
            }
            _ => self.output.append(frame),
        }
    }

    /// The driver takes the bytes.
    pub(crate) fn take(&mut self) -> &mut ByteQueue {
        self.dirty = false;
        &mut self.output
    }

    /// The driver has written what it could; the soft limit of subscribers is `soft` bytes.
    pub(crate) fn retire(&mut self, soft: usize, spares: &mut Spares) {
        if self.output.len() < soft {
            self.over_soft_since = None;
        }
        self.output.retire(spares);
    }

    /// There is something to write. False if the driver has been told before.
    pub(crate) fn mark(&mut self) -> bool {
        !std::mem::replace(&mut self.dirty, true)
    }

    /// A push was added; the soft limit of subscribers is `soft` bytes.
    pub(crate) fn note_soft_limit(&mut self, soft: usize, now: Millis) {
        if self.output.len() >= soft {
            self.over_soft_since.get_or_insert(now);
        }
    }

    /// Since when the output has been over the soft limit.
    pub(crate) fn over_soft_since(&self) -> Option<Millis> {
        self.over_soft_since
    }

    /// Bytes that the socket has not taken.
    pub(crate) fn len(&self) -> usize {
        self.output.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.output.is_empty()
    }

    /// Bytes that the child has not taken, those included that wait for replies before them.
    pub(crate) fn unread(&self) -> usize {
        self.output.len() + self.replies.waiting()
    }

    /// How many bytes its socket has taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.output.consumed()
    }

    /// Whether every request so far has been answered.
    pub(crate) fn is_answered(&self) -> bool {
        self.replies.is_empty()
    }

    /// Whether the child has been given everything, and has taken it.
    pub(crate) fn is_settled(&self) -> bool {
        self.replies.is_empty() && self.output.is_empty()
    }

    /// Whether nothing will ever be written but what is added from now on.
    pub(crate) fn is_silent(&self) -> bool {
        self.replies.is_silent() && self.output.is_empty()
    }

    /// How many replies are awaited.
    #[cfg(test)]
    pub(crate) fn expected(&self) -> u32 {
        self.replies.expected()
    }

    /// Heap bytes held.
    pub(crate) fn footprint(&self) -> usize {
        self.output.capacity() + self.replies.footprint()
    }
}
