//! A child's replies in the order of its requests: those that come from upstream, and those that the broker gives itself.
//! One that is ready early waits for the ones before it. One that the child does not want (CLIENT REPLY) has its place
//! too, and is dropped there. Owns the order; never looks into a reply.
//!
//! Pushes (messages, invalidations) have no place in it: the output holds whole frames only, so a push is appended at
//! once.

use crate::base::bytes::ByteQueue;
use std::collections::VecDeque;

/// Replies awaited one after the other, all of them wanted or all of them not.
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

/// The ordered replies of one child. Holds no heap while every reply is upstream's, as it mostly is.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    /// Replies still upstream that come before everything in `behind`. None only if that is empty.
    front: Run,
    behind: VecDeque<OwnReply>,
    /// Bytes in `behind`.
    waiting: usize,
}

impl Replies {
    /// A request went upstream that will be replied to; the child will see it unless it is `muted`.
    pub(crate) fn expect_one(&mut self, muted: bool) {
        let newest = self.newest();
        if newest.awaited == 0 || newest.muted == muted {
            newest.muted = muted;
            newest.awaited += 1;
        } else {
            self.behind.push_back(OwnReply { bytes: Vec::new(), then: Run { awaited: 1, muted } });
        }
    }

    fn newest(&mut self) -> &mut Run {
        self.behind.back_mut().map_or(&mut self.front, |local| &mut local.then)
    }

    /// The broker answers a request itself, behind all that came before it.
    pub(crate) fn local(&mut self, bytes: &[u8], output: &mut ByteQueue) {
        if self.front.awaited == 0 {
            return output.append(bytes);
        }
        self.waiting += bytes.len();
        match self.behind.back_mut() {
            Some(local) if local.then.awaited == 0 => local.bytes.extend_from_slice(bytes),
            _ => self.behind.push_back(OwnReply { bytes: bytes.to_vec(), then: Run::default() }),
        }
    }

    /// The oldest awaited reply has come; `bytes` is one whole frame.
    pub(crate) fn deliver(&mut self, bytes: &[u8], output: &mut ByteQueue) {
        if self.front.awaited == 0 {
            debug_assert!(false, "a reply nobody awaits");
            return;
        }
        if !self.front.muted {
            output.append(bytes);
        }
        self.front.awaited -= 1;
        while self.front.awaited == 0
            && let Some(local) = self.behind.pop_front()
        {
            output.append(&local.bytes);
            self.waiting -= local.bytes.len();
            self.front = local.then;
            if self.behind.is_empty() {
                self.behind = VecDeque::new();
            }
        }
    }

    /// The newest awaited reply will not come after all: the request will be sent again later.
    pub(crate) fn retract_one(&mut self) {
        let newest = &mut self.newest().awaited;
        debug_assert!(*newest > 0, "nothing awaited to retract");
        *newest = newest.saturating_sub(1);
    }

    /// Whether every request so far has been answered.
    pub(crate) fn is_empty(&self) -> bool {
        self.front.awaited == 0
    }

    /// Whether nothing will ever come out of this but what is added from now on.
    pub(crate) fn is_silent(&self) -> bool {
        let muted = |run: &Run| run.awaited == 0 || run.muted;
        muted(&self.front) && self.behind.iter().all(|local| local.bytes.is_empty() && muted(&local.then))
    }

    /// Bytes given by the broker that wait for replies before them.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many replies are awaited, wherever they stand.
    #[cfg(test)]
    pub(crate) fn expected(&self) -> u32 {
        self.front.awaited + self.behind.iter().map(|local| local.then.awaited).sum::<u32>()
    }

    /// Heap bytes held.
    pub(crate) fn footprint(&self) -> usize {
        if self.behind.capacity() == 0 {
            return 0;
        }
        let held: usize = self.behind.iter().map(|local| local.bytes.capacity()).sum();
        held + self.behind.capacity() * std::mem::size_of::<OwnReply>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_replies_wait_for_the_ones_before_them() {
        let (mut replies, mut output) = (Replies::default(), ByteQueue::default());
        replies.local(b"0", &mut output);
        replies.expect_one(false);
        replies.expect_one(false);
        replies.local(b"3", &mut output);
        replies.local(b"4", &mut output);
        replies.expect_one(false);
        assert_eq!((output.as_slice(), replies.waiting()), (&b"0"[..], 2));
        replies.deliver(b"1", &mut output);
        assert_eq!(output.as_slice(), b"01");
        replies.deliver(b"2", &mut output);
        assert_eq!(output.as_slice(), b"01234");
        replies.deliver(b"5", &mut output);
        assert_eq!(output.as_slice(), b"012345");
        assert!(replies.is_empty());
        assert_eq!(replies.waiting(), 0);
        assert_eq!(replies.footprint(), 0, "and no heap is kept");
    }

    #[test]
    fn a_retracted_reply_leaves_the_order_as_it_was() {
        let (mut replies, mut output) = (Replies::default(), ByteQueue::default());
        replies.expect_one(false);
        replies.local(b"1", &mut output);
        replies.expect_one(false);
        replies.retract_one();
        replies.local(b"2", &mut output);
        replies.deliver(b"0", &mut output);
        assert_eq!(output.as_slice(), b"012");
        replies.expect_one(false);
        replies.retract_one();
        assert!(replies.is_empty());
    }

    #[test]
    fn muted_replies_keep_their_places_and_are_dropped_there() {
        let (mut replies, mut output) = (Replies::default(), ByteQueue::default());
        replies.expect_one(true);
        assert!(replies.is_silent() && !replies.is_empty());
        replies.expect_one(false);
        replies.expect_one(true);
        replies.local(b"3", &mut output);
        replies.expect_one(false);
        assert!(!replies.is_silent());
        for frame in [b"0", b"1", b"2", b"4"] {
            replies.deliver(frame, &mut output);
        }
        assert_eq!(output.as_slice(), b"134");
        replies.expect_one(false);
        replies.expect_one(true);
        replies.retract_one();
        replies.deliver(b"5", &mut output);
        assert!(replies.is_empty() && replies.is_silent());
        assert_eq!((output.as_slice(), replies.footprint()), (&b"1345"[..], 0));
    }
}
