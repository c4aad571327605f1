//! What goes to a child: whole frames, in the order of its requests, those that come from upstream and those that the
//! broker gives itself. Owns that order, the bytes that the child's socket has not taken, and whether the driver knows
//! that there is something to write. Never looks into a reply.

use crate::base::bytes::{ByteQueue, Spares};
use crate::base::clock::Millis;
use std::collections::VecDeque;

/// Replies awaited one after the other, all of them wanted or all of them not (CLIENT REPLY).
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Run {
    awaited: u32,
    muted: bool,
}

/// Bytes given by the broker behind replies still awaited, and what is awaited behind them in turn.
#[derive(Debug)]
pub(crate) struct OwnReply {
    bytes: Vec<u8>,
    then: Run,
}

/// A child's outgoing bytes, and the replies that it is owed. A reply that is ready early waits for the ones before it.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    output: ByteQueue,
    /// Replies still upstream that come before everything in `behind`. None only if that is empty.
    front: Run,
    /// Holds no heap while every reply is upstream's, as it mostly is.
    behind: VecDeque<OwnReply>,
    waiting: usize,
    /// Since when the output has been over the soft limit of subscribers.
    over_soft_since: Option<Millis>,
    dirty: bool,
}

impl Outbox {
    /// A request went upstream that will be replied to. The reply has its place and is dropped there if it is `muted`.
    pub(crate) fn expect(&mut self, muted: bool) {
        let newest = self.newest();
        if newest.awaited == 0 || newest.muted == muted {
            newest.muted = muted;
            newest.awaited += 1;
        } else {
            self.behind.push_back(OwnReply { bytes: Vec::new(), then: Run { awaited: 1, muted } });
        }
    }

    fn newest(&mut self) -> &mut Run {
        self.behind.back_mut().map_or(&mut self.front, |own| &mut own.then)
    }

    /// The oldest awaited reply has come; `frame` is whole.
    pub(crate) fn deliver(&mut self, frame: &[u8], spares: &mut Spares) {
        self.output.adopt(spares);
        if self.front.awaited == 0 {
            debug_assert!(false, "a reply nobody awaits");
            return;
        }
        if !self.front.muted {
            self.output.append(frame);
        }
        self.front.awaited -= 1;
        while self.front.awaited == 0
            && let Some(own) = self.behind.pop_front()
        {
            self.output.append(&own.bytes);
            self.waiting -= own.bytes.len();
            self.front = own.then;
            if self.behind.is_empty() {
                self.behind = VecDeque::new();
            }
        }
    }

    /// The broker answers a request itself, behind all that came before it.
    pub(crate) fn answer(&mut self, bytes: &[u8], spares: &mut Spares) {
        self.output.adopt(spares);
        if self.front.awaited == 0 {
            return self.output.append(bytes);
        }
        self.waiting += bytes.len();
        match self.behind.back_mut() {
            Some(own) if own.then.awaited == 0 => own.bytes.extend_from_slice(bytes),
            _ => self.behind.push_back(OwnReply { bytes: bytes.to_vec(), then: Run::default() }),
        }
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

    pub(crate) fn over_soft_since(&self) -> Option<Millis> {
        self.over_soft_since
    }

    /// What the socket has not taken.
    pub(crate) fn output(&self) -> &ByteQueue {
        &self.output
    }

    /// Bytes that the child has not taken, those included that wait for replies before them.
    pub(crate) fn unread(&self) -> usize {
        self.output.len() + self.waiting
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.front.awaited == 0
    }

    /// Whether the child has been given everything, and has taken it.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_answered() && self.output.is_empty()
    }

    /// Whether nothing will ever be written but what is added from now on.
    pub(crate) fn is_silent(&self) -> bool {
        let muted = |run: &Run| run.awaited == 0 || run.muted;
        let unheard = |own: &OwnReply| own.bytes.is_empty() && muted(&own.then);
        self.output.is_empty() && muted(&self.front) && self.behind.iter().all(unheard)
    }

    #[cfg(test)]
    pub(crate) fn expected(&self) -> u32 {
        self.front.awaited + self.behind.iter().map(|own| own.then.awaited).sum::<u32>()
    }

    pub(crate) fn footprint(&self) -> usize {
        if self.behind.capacity() == 0 {
            return self.output.capacity();
        }
        let behind: usize = self.behind.iter().map(|own| own.bytes.capacity()).sum();
        self.output.capacity() + behind + self.behind.capacity() * size_of::<OwnReply>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays steps: `e` a reply is expected, `m` one that is muted, `+` the broker answers with the digit behind it, a digit
    /// alone is a reply that comes. Returns what the child is to read.
    fn play(outbox: &mut Outbox, steps: &str) -> String {
        let (mut spares, mut own) = (Spares::default(), false);
        for step in steps.bytes() {
            match step {
                b'e' | b'm' => outbox.expect(step == b'm'),
                b'+' => own = true,
                digit if std::mem::take(&mut own) => outbox.answer(&[digit], &mut spares),
                digit => outbox.deliver(&[digit], &mut spares),
            }
        }
        String::from_utf8_lossy(outbox.output.as_slice()).into_owned()
    }

    #[test]
    fn local_replies_wait_for_the_ones_before_them() {
        let mut outbox = Outbox::default();
        assert_eq!((play(&mut outbox, "+0ee+3+4e").as_str(), outbox.waiting), ("0", 2));
        assert_eq!(play(&mut outbox, "1"), "01");
        assert_eq!(play(&mut outbox, "2"), "01234");
        assert_eq!((play(&mut outbox, "5").as_str(), outbox.waiting), ("012345", 0));
        assert!(outbox.is_answered());
        assert_eq!(outbox.behind.capacity(), 0, "and no heap is kept");
    }

    #[test]
    fn muted_replies_keep_their_places_and_are_dropped_there() {
        let mut outbox = Outbox::default();
        play(&mut outbox, "m");
        assert!(outbox.is_silent() && !outbox.is_answered());
        play(&mut outbox, "em+3e");
        assert!(!outbox.is_silent());
        assert_eq!(play(&mut outbox, "0124"), "134");
        assert_eq!(play(&mut outbox, "e5"), "1345");
        assert!(outbox.is_answered() && outbox.behind.capacity() == 0);
        outbox.output = ByteQueue::default();
        assert!(outbox.is_silent());
    }
}
