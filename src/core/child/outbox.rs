//! What goes to a child: whole frames, in the order of its requests, those that come from upstream, those that the broker
//! gives itself, and pushes. Owns that order, the bytes that the child's socket has not taken, and whether the driver knows
//! that there is something to write. Never looks into a reply.
//!
//! A push has no place in the order of the replies but one: it stands behind the replies to all requests that had been read
//! when its subscription was confirmed, as it does on a connection to Redis, which has answered them by then. It waits for no
//! later request, and for none that may wait itself.

use crate::base::bytes::Spares;
use crate::base::clock::Millis;
use crate::base::limits;
use crate::base::outgoing::{Fragment, Ledger, Outgoing};
use std::collections::VecDeque;

/// Replies awaited one after the other, all of them wanted or all of them not (CLIENT REPLY).
#[derive(Debug, Default, Clone, Copy)]
struct Run {
    awaited: u32,
    muted: bool,
}

/// A whole frame, several, or a part of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    bytes: &'a [u8],
    /// Has the same bytes, and is to be shared rather than copied.
    shared: Option<&'a Fragment>,
}

impl<'a> Frame<'a> {
    /// To be copied.
    #[inline]
    pub(crate) fn of(bytes: &'a [u8]) -> Frame<'a> {
        Frame { bytes, shared: None }
    }

    /// To be shared, unless it is short.
    pub(crate) fn shared(fragment: &'a Fragment) -> Frame<'a> {
        Frame { bytes: fragment, shared: Some(fragment).filter(|_| fragment.len() >= limits::FRAGMENT_MIN) }
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    pub(crate) fn to_fragment(self, ledger: &Ledger) -> Fragment {
        let copied = || ledger.fragment(self.bytes.to_vec(), 0..self.bytes.len());
        self.shared.cloned().unwrap_or_else(copied)
    }
}

/// Frames that wait for replies before them.
#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    /// Each behind so many of `bytes`. No heap while there is none, as is usual.
    fragments: Vec<(usize, Fragment)>,
}

impl Kept {
    fn add(&mut self, frame: Frame<'_>) {
        match frame.shared {
            Some(fragment) => self.fragments.push((self.bytes.len(), fragment.clone())),
            None => self.bytes.extend_from_slice(frame.bytes),
        }
    }

    fn len(&self) -> usize {
        self.bytes.len() + self.in_fragments()
    }

    fn in_fragments(&self) -> usize {
        self.fragments.iter().map(|(_, fragment)| fragment.len()).sum()
    }

    fn add_all(&mut self, other: Kept) {
        let before = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.fragments.extend(other.fragments.into_iter().map(|(at, fragment)| (before + at, fragment)));
    }

    fn append_to(self, output: &mut Outgoing) {
        let mut done = 0;
        for (at, fragment) in self.fragments {
            output.append(&self.bytes[done..at]);
            output.append_fragment(fragment);
            done = at;
        }
        output.append(&self.bytes[done..]);
    }

    fn footprint(&self) -> usize {
        self.bytes.capacity() + self.fragments.capacity() * size_of::<(usize, Fragment)>()
    }
}

/// What stands behind replies still awaited, and what is awaited behind that in turn.
#[derive(Debug, Default)]
struct Behind {
    kept: Kept,
    then: Run,
}

/// For which replies pushes wait. There is none while they wait for no reply.
#[derive(Debug, Default)]
struct PushOrder {
    /// The oldest so many of the awaited replies.
    replies: u32,
    /// The requests up to here, by the bytes the child has sent, are before the pushes too, and have not all been run.
    until: Option<u64>,
    /// The same for those of a later subscription.
    next_until: Option<u64>,
    /// Pushes, while there is an `until`.
    held: Kept,
}

/// A child's outgoing bytes, and the replies that it is owed. A reply that is ready early waits for the ones before it.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    output: Outgoing,
    /// Replies still upstream that come before everything in `behind`. None only if that is empty.
    front: Run,
    /// Of the oldest awaited reply a part has been given: nothing may come between it and the rest.
    begun: bool,
    /// Holds no heap while every reply is upstream's, as it mostly is.
    behind: VecDeque<Behind>,
    push_order: Option<Box<PushOrder>>,
    /// Bytes in `behind`, and pushes held.
    waiting: usize,
    /// Since when the output has been over the soft limit of subscribers.
    over_soft_since: Option<Millis>,
    dirty: bool,
}

impl Outbox {
    /// A request went upstream that will be replied to. The reply has its place and is dropped there if it is `muted`.
    #[inline]
    pub(crate) fn expect(&mut self, muted: bool) {
        if self.push_order.is_some() {
            self.push_waits_for_one_more();
        }
        let newest = self.newest();
        if newest.awaited == 0 || newest.muted == muted {
            newest.muted = muted;
            newest.awaited += 1;
        } else {
            self.behind.push_back(Behind { kept: Kept::default(), then: Run { awaited: 1, muted } });
        }
    }

    #[inline(never)]
    fn push_waits_for_one_more(&mut self) {
        if let Some(order) = self.push_order.as_mut().filter(|order| order.until.is_some()) {
            order.replies += 1;
        }
    }

    #[inline]
    fn newest(&mut self) -> &mut Run {
        self.behind.back_mut().map_or(&mut self.front, |own| &mut own.then)
    }

    /// The oldest awaited reply has come, or the rest of it.
    #[inline]
    pub(crate) fn deliver(&mut self, frame: &[u8], spares: &mut Spares) {
        self.output.adopt(spares);
        debug_assert!(self.front.awaited > 0, "a reply nobody awaits");
        if self.front.awaited > 0 && !self.front.muted {
            self.output.append(frame);
        }
        self.reply_is_whole();
    }

    /// The same of one that is not copied.
    pub(crate) fn deliver_shared(&mut self, frame: &Fragment, spares: &mut Spares) {
        self.deliver_part(Frame::shared(frame), spares);
        self.reply_is_whole();
    }

    #[inline(always)]
    fn reply_is_whole(&mut self) {
        self.begun = false;
        if self.front.awaited == 0 {
            return;
        }
        self.front.awaited -= 1;
        if self.push_order.is_some() {
            self.reply_given();
        }
        while self.front.awaited == 0
            && let Some(next) = self.behind.pop_front()
        {
            self.waiting -= next.kept.len();
            next.kept.append_to(&mut self.output);
            self.front = next.then;
            if self.behind.is_empty() {
                self.behind = VecDeque::new();
            }
        }
    }

    /// A part of the oldest awaited reply has come; the rest follows.
    pub(crate) fn deliver_part(&mut self, part: Frame<'_>, spares: &mut Spares) {
        debug_assert!(self.front.awaited > 0, "a reply nobody awaits");
        if self.front.awaited > 0 && !self.front.muted {
            self.write(part, spares);
        }
        self.begun = true;
    }

    /// The broker answers a request itself, behind all that came before it.
    pub(crate) fn answer(&mut self, frame: Frame<'_>, spares: &mut Spares) {
        if self.front.awaited == 0 {
            return self.write(frame, spares);
        }
        self.waiting += frame.bytes().len();
        match self.behind.back_mut() {
            Some(own) if own.then.awaited == 0 => own.kept.add(frame),
            _ => {
                let mut own = Behind::default();
                own.kept.add(frame);
                self.behind.push_back(own);
            }
        }
    }

    fn write(&mut self, frame: Frame<'_>, spares: &mut Spares) {
        match frame.shared {
            Some(fragment) => self.output.append_fragment(fragment.clone()),
            None => {
                self.output.adopt(spares);
                self.output.append(frame.bytes);
            }
        }
    }

    /// A push. RESP2 has none, so there it becomes an array.
    pub(crate) fn push(&mut self, frame: Frame<'_>, proto: u8, spares: &mut Spares) {
        if proto == 2 && frame.bytes().first() == Some(&b'>') {
            self.put_push(Frame::of(b"*"), spares);
            return match frame.shared {
                None => self.put_push(Frame::of(&frame.bytes[1..]), spares),
                Some(fragment) => self.put_push(Frame::shared(&fragment.clone().without_first(1)), spares),
            };
        }
        self.put_push(frame, spares);
    }

    /// A push that answers a request, and so has its place among the replies. `leaves`: no push may come behind it that came
    /// before.
    pub(crate) fn confirm(&mut self, frame: &[u8], leaves: bool, spares: &mut Spares) {
        if leaves {
            self.let_pushes_go();
        }
        self.answer(Frame::of(frame), spares);
    }

    /// Pushes are given one behind the other: whatever the first of them waits for, the next does.
    fn put_push(&mut self, frame: Frame<'_>, spares: &mut Spares) {
        match &mut self.push_order {
            Some(order) if order.until.is_some() => {
                self.waiting += frame.bytes().len();
                order.held.add(frame);
            }
            _ => match self.place_of_pushes() {
                0 => self.write(frame, spares),
                replies => {
                    self.waiting += frame.bytes().len();
                    self.kept_behind(replies).add(frame);
                }
            },
        }
    }

    /// Behind how many of the awaited replies a push stands that comes now.
    fn place_of_pushes(&self) -> u32 {
        let ordered = self.push_order.as_ref().map_or(0, |order| order.replies);
        ordered.max(u32::from(self.begun))
    }

    /// What stands right behind the oldest so many of the awaited replies: one at least, and behind all where there are
    /// fewer.
    fn kept_behind(&mut self, mut replies: u32) -> &mut Kept {
        let (mut run, mut next) = (&mut self.front, 0);
        for behind in &mut self.behind {
            if replies <= run.awaited {
                break;
            }
            replies -= run.awaited;
            run = &mut behind.then;
            next += 1;
        }
        if replies < run.awaited {
            let then = Run { awaited: run.awaited - replies, muted: run.muted };
            run.awaited = replies;
            self.behind.insert(next, Behind { kept: Kept::default(), then });
        } else if next == self.behind.len() {
            self.behind.push_back(Behind::default());
        }
        &mut self.behind[next].kept
    }

    /// A subscription is confirmed, behind which the pushes of it come; the child has sent so many bytes so far.
    pub(crate) fn order_pushes(&mut self, sent: u64) {
        let awaited = self.front.awaited + self.behind.iter().map(|own| own.then.awaited).sum::<u32>();
        let order = self.push_order.get_or_insert_default();
        order.replies = awaited;
        let later = if order.until.is_some() { &mut order.next_until } else { &mut order.until };
        *later = Some(sent);
    }

    /// Whether pushes wait for requests that have not been run.
    pub(crate) fn holds_pushes(&self) -> bool {
        self.push_order.as_ref().is_some_and(|order| order.until.is_some())
    }

    /// All requests up to this byte of what the child has sent have been run.
    pub(crate) fn requests_run(&mut self, up_to: u64) {
        while self.push_order.as_ref().and_then(|order| order.until).is_some_and(|until| until <= up_to) {
            self.release_pushes();
        }
    }

    /// Whatever the child has sent further will be run later, or may itself wait: pushes do not wait for it.
    pub(crate) fn let_pushes_go(&mut self) {
        while self.holds_pushes() {
            self.release_pushes();
        }
    }

    /// Every request is run that the pushes held stand behind.
    fn release_pushes(&mut self) {
        let replies = self.place_of_pushes();
        let Some(order) = &mut self.push_order else { return };
        let held = std::mem::take(&mut order.held);
        order.until = order.next_until.take();
        if order.until.is_none() && order.replies == 0 {
            self.push_order = None;
        }
        if replies == 0 {
            self.waiting -= held.len();
            held.append_to(&mut self.output);
        } else if held.len() > 0 {
            self.kept_behind(replies).add_all(held);
        }
    }

    #[inline(never)]
    fn reply_given(&mut self) {
        let Some(order) = &mut self.push_order else { return };
        order.replies = order.replies.saturating_sub(1);
        if order.replies == 0 && order.until.is_none() {
            self.push_order = None;
        }
    }

    pub(crate) fn take(&mut self) -> &mut Outgoing {
        self.dirty = false;
        &mut self.output
    }

    /// No reply that is awaited will come: what stands behind the oldest of them is dropped.
    pub(crate) fn lose(&mut self) {
        (self.front, self.behind, self.push_order) = (Run::default(), VecDeque::new(), None);
        self.waiting = 0;
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
        if self.unread() >= soft {
            self.over_soft_since.get_or_insert(now);
        }
    }

    pub(crate) fn over_soft_since(&self) -> Option<Millis> {
        self.over_soft_since
    }

    /// What the socket has not taken.
    pub(crate) fn output(&self) -> &Outgoing {
        &self.output
    }

    /// Bytes that the child has not taken, those included that wait for replies before them.
    pub(crate) fn unread(&self) -> usize {
        self.output.len() + self.waiting
    }

    /// Whether nothing is awaited, begun or kept back: what the socket has not taken is all there is.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_answered() && self.behind.is_empty() && !self.begun && self.waiting == 0
    }

    /// The child has taken so many bytes from another process.
    pub(crate) fn go_on_from(&mut self, taken: u64) {
        debug_assert!(self.output.is_empty(), "bytes without an offset");
        self.output = Outgoing::from_offset(taken);
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.front.awaited == 0
    }

    /// Whether a part of a reply has been given whose rest is awaited.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether the oldest awaited reply is dropped.
    pub(crate) fn drops_next(&self) -> bool {
        self.front.muted
    }

    /// Whether the child has been given everything, and has taken it.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_answered() && self.output.is_empty()
    }

    /// Whether nothing will ever be written but what is added from now on.
    pub(crate) fn is_silent(&self) -> bool {
        let muted = |run: &Run| run.awaited == 0 || run.muted;
        let unheard = |own: &Behind| own.kept.len() == 0 && muted(&own.then);
        self.output.is_empty() && muted(&self.front) && self.behind.iter().all(unheard)
    }

    #[cfg(test)]
    pub(crate) fn expected(&self) -> u32 {
        self.front.awaited + self.behind.iter().map(|own| own.then.awaited).sum::<u32>()
    }

    /// Heap bytes of its own, without those of fragments.
    pub(crate) fn footprint(&self) -> usize {
        if self.behind.capacity() == 0 && self.push_order.is_none() {
            return self.output.footprint();
        }
        let behind: usize = self.behind.iter().map(|own| own.kept.footprint()).sum();
        let order =
            self.push_order.as_ref().map_or(0, |order| order.held.footprint() + size_of::<PushOrder>());
        self.output.footprint() + behind + self.behind.capacity() * size_of::<Behind>() + order
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
                digit if std::mem::take(&mut own) => outbox.answer(Frame::of(&[digit]), &mut spares),
                digit => outbox.deliver(&[digit], &mut spares),
            }
        }
        String::from_utf8_lossy(outbox.output.front()).into_owned()
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
        outbox.output = Outgoing::default();
        assert!(outbox.is_silent());
    }

    /// The same with pushes: `p` is one, which the child reads as its number; `s` a subscription is confirmed when the child
    /// has sent all it ever sends; `d` all of that has been run; `g` what is left of it may wait itself.
    fn play_pushes(steps: &str) -> String {
        let (mut outbox, mut spares, mut pushes) = (Outbox::default(), Spares::default(), b'A'..);
        for step in steps.bytes() {
            match step {
                b's' => outbox.order_pushes(100),
                b'p' => {
                    let push = pushes.next().unwrap_or_default();
                    outbox.push(Frame::of(&[push]), 3, &mut spares);
                }
                b'd' => outbox.requests_run(100),
                b'g' => outbox.let_pushes_go(),
                other => drop(play(&mut outbox, &String::from(other as char))),
            }
        }
        assert_eq!(outbox.waiting, 0, "{steps}");
        String::from_utf8_lossy(outbox.output.front()).into_owned()
    }

    #[test]
    fn a_push_stands_behind_the_replies_to_what_was_read_before_its_subscription_and_no_others() {
        assert_eq!(play_pushes("ep1"), "A1", "without a subscription it waits for nothing");
        assert_eq!(play_pushes("sdepp1"), "AB1", "nor for what is read later");
        assert_eq!(play_pushes("seepd12"), "12A");
        assert_eq!(play_pushes("spepde12"), "1AB2", "the second request was read later");
        assert_eq!(play_pushes("seedp1p2"), "12AB", "pushes come one behind the other");
        assert_eq!(play_pushes("sepgpe12"), "1AB2", "what may wait itself is not waited for");
        assert_eq!(play_pushes("spd"), "A");
        assert_eq!(play_pushes("semedpe1234"), "13A4", "a reply that is dropped has its place too");
        let (mut outbox, mut spares) = (Outbox::default(), Spares::default());
        outbox.order_pushes(100);
        outbox.push(Frame::of(b"A"), 3, &mut spares);
        outbox.order_pushes(200);
        outbox.requests_run(150);
        outbox.push(Frame::of(b"B"), 3, &mut spares);
        assert_eq!(outbox.output.front(), b"A", "each waits for what was read before its own subscription");
        outbox.requests_run(200);
        assert_eq!(outbox.output.front(), b"AB");
        assert!(outbox.push_order.is_none());
    }

    #[test]
    fn nothing_stands_inside_a_reply_that_comes_in_parts() {
        let (mut outbox, mut spares) = (Outbox::default(), Spares::default());
        play(&mut outbox, "ee");
        outbox.deliver_part(Frame::of(b"1"), &mut spares);
        outbox.push(Frame::of(b"A"), 3, &mut spares);
        outbox.answer(Frame::of(b"own"), &mut spares);
        outbox.deliver_part(Frame::of(b"1"), &mut spares);
        assert_eq!((outbox.output.front(), outbox.has_begun()), (&b"11"[..], true));
        assert_eq!(play(&mut outbox, "12"), "111A2own");
        assert!(!outbox.has_begun() && outbox.is_answered());
    }

    #[test]
    fn a_fragment_waits_in_its_place_like_copied_bytes() {
        let (mut outbox, mut spares, ledger) = (Outbox::default(), Spares::default(), Ledger::default());
        let fragment =
            ledger.fragment([&b">"[..], &[b'x'; limits::FRAGMENT_MIN]].concat(), 0..limits::FRAGMENT_MIN + 1);
        outbox.order_pushes(1);
        play(&mut outbox, "e");
        outbox.push(Frame::of(b"one"), 3, &mut spares);
        outbox.push(Frame::shared(&fragment), 2, &mut spares);
        outbox.push(Frame::of(b"two"), 3, &mut spares);
        outbox.requests_run(1);
        play(&mut outbox, "1");
        assert_eq!((outbox.waiting, outbox.output.in_fragments()), (0, limits::FRAGMENT_MIN));
        let mut all = Vec::new();
        while !outbox.output.is_empty() {
            all.extend_from_slice(outbox.output.front());
            outbox.output.consume(outbox.output.front().len());
        }
        assert_eq!(all, [&b"1one*"[..], &[b'x'; limits::FRAGMENT_MIN], b"two"].concat());
    }
}
