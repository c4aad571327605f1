//! One connection's input: the bytes of frames that are not complete, and where their scanner stands. Owns both between
//! reads; never what a frame means, nor what becomes of a connection whose bytes are none.

use super::reply::Part;
use super::{FrameLimits, FrameScanner, ProtocolError, ReplyScan, ReplyScanner, Request, Scan, Scanner};
use crate::base::bytes::{ByteQueue, Spares};
use crate::base::limits::READ_TURN;
use crate::base::outgoing::{Fragment, Ledger};

/// The scanner that all inboxes of one owner share. It is with one of them at a time, from [`Inbox::begin`] to
/// [`Inbox::end`], and stays with one if it stands inside a frame there.
pub type SharedScanner<S> = Option<Box<S>>;

/// The bytes that one connection has sent and that are not done with. Holds no heap while there are none.
///
/// They are read in three steps: [`Inbox::begin`] takes them all out, [`Frames`] finds one complete frame after the other,
/// [`Inbox::end`] puts back what is left. The inbox is not borrowed meanwhile, so that the owner may be called, and may close
/// the connection: it drops the inbox or calls [`Inbox::clear`]. [`Inbox::is_in_use`] then says no, the owner stops reading,
/// and `end` puts nothing back.
#[derive(Debug, Default)]
pub struct Inbox<S> {
    bytes: ByteQueue,
    /// The scanner of the incomplete frame at the start of `bytes`, if it has got anywhere.
    scanner: Option<Box<S>>,
    /// Between `begin` and `end`, and not cleared since.
    in_use: bool,
}

impl<S: FrameScanner> Inbox<S> {
    /// The bytes that wait. None between `begin` and `end`.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no byte waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Heap bytes held.
    pub fn footprint(&self) -> usize {
        let scanner = |scanner: &S| size_of::<S>() + scanner.footprint();
        self.bytes.capacity() + self.scanner.as_deref().map_or(0, scanner)
    }

    /// Adds bytes without a look at them. The inbox may grow to `len_max` bytes, and takes no room beyond.
    pub fn append_within(&mut self, bytes: &[u8], len_max: usize) {
        debug_assert!(!self.in_use, "its bytes have been taken out");
        self.bytes.append_within(bytes, len_max);
    }

    /// Forgets all bytes: the connection they came from is of no use any more.
    pub fn clear(&mut self) {
        *self = Inbox::default();
    }

    /// Whether frames are being taken from the connection, which has not been closed meanwhile.
    pub fn is_in_use(&self) -> bool {
        self.in_use
    }

    /// Takes out all bytes that wait, with `fresh` behind them. `shared` is lent until [`Inbox::end`].
    pub fn begin<'a>(&mut self, fresh: &'a [u8], shared: &mut SharedScanner<S>) -> Frames<'a, S> {
        debug_assert!(!self.in_use, "its bytes have been taken out already");
        self.in_use = true;
        let mut kept = std::mem::take(&mut self.bytes);
        if !kept.is_empty() {
            kept.append(fresh);
        }
        let scanner = self.scanner.take().or_else(|| shared.take()).unwrap_or_default();
        Frames { kept, fresh, scanner, used: 0, needed: 0, admitted: 0 }
    }

    /// Puts back what is left of `frames`. Room is made for what its first frame still lacks: all of it, if that was
    /// [admitted](Frames::make_room); else up to one read's worth, where it has to be copied.
    #[inline(always)]
    pub fn end(&mut self, frames: Frames<'_, S>, shared: &mut SharedScanner<S>, spares: &mut Spares) {
        if !std::mem::take(&mut self.in_use) {
            return;
        }
        let Frames { mut kept, fresh, scanner, used, needed, admitted } = frames;
        let keeper = if scanner.is_idle() { shared } else { &mut self.scanner };
        *keeper = Some(scanner);
        if !kept.is_empty() {
            kept.consume(used);
            kept.make_room(admitted);
        } else if used < fresh.len() {
            let left = &fresh[used..];
            kept.adopt(spares);
            kept.tail()
                .reserve(needed.clamp(left.len(), left.len() + READ_TURN).min(admitted.max(READ_TURN)));
            kept.make_room(admitted);
            kept.append(left);
        }
        kept.retire(spares);
        self.bytes = kept;
    }
}

/// What was taken out of an [`Inbox`]. Dropped with its connection, or given back to [`Inbox::end`].
#[derive(Debug)]
pub struct Frames<'a, S> {
    /// Old bytes and new; empty if there were no old ones.
    kept: ByteQueue,
    /// The new bytes.
    fresh: &'a [u8],
    scanner: Box<S>,
    /// Bytes done with.
    used: usize,
    /// Bytes that the incomplete frame at the end has at least.
    needed: usize,
    /// Bytes it is given room for at once.
    admitted: usize,
}

impl<S> Frames<'_, S> {
    /// All bytes that are not done with.
    pub fn rest(&self) -> &[u8] {
        rest(&self.kept, self.fresh, self.used)
    }

    /// The incomplete frame that the bytes begin with now is given room for so many bytes.
    pub fn make_room(&mut self, bytes: usize) {
        self.admitted = bytes;
    }
}

fn rest<'b>(kept: &'b ByteQueue, fresh: &'b [u8], used: usize) -> &'b [u8] {
    let all = if kept.is_empty() { fresh } else { kept.as_slice() };
    &all[used..]
}

impl Frames<'_, Scanner> {
    /// What the next frame is. A frame stays the next one until [`Frames::done`], as an error does for good.
    #[inline]
    pub fn next_request(&mut self, limits: &FrameLimits) -> Scan {
        let found = match rest(&self.kept, self.fresh, self.used) {
            [] => Scan::NeedMore { at_least: 1 },
            rest => self.scanner.scan(rest, limits),
        };
        if let Scan::NeedMore { at_least } = found {
            self.needed = at_least;
        }
        found
    }

    /// The request just found.
    pub fn request(&self) -> Request<'_> {
        self.scanner.request(self.rest())
    }

    /// The request just found, of `len` bytes, and what stands behind it.
    #[inline]
    pub fn request_and_rest(&self, len: usize) -> (Request<'_>, &[u8]) {
        let rest = self.rest();
        (self.scanner.request(rest), &rest[len..])
    }

    /// The least length of the incomplete request at the start.
    pub fn announced(&self) -> usize {
        self.scanner.announced(self.needed)
    }

    /// Drops what there is of the incomplete request at the start. True if that was the last of it; else call again when more
    /// has come.
    pub fn skip(&mut self, authenticated: bool) -> Result<bool, ProtocolError> {
        let rest = rest(&self.kept, self.fresh, self.used);
        let (len, is_last) = self.scanner.skip(rest, authenticated)?;
        self.used += len;
        if is_last {
            self.scanner.reset();
        }
        Ok(is_last)
    }

    /// Takes the request just found, of `len` bytes, out of the inbox without copying it, with all that stands behind it:
    /// until [`Frames::take_back`], these are read there. None where it does not lie in memory of its own, or is the lesser
    /// part of it.
    pub fn lend(&mut self, len: usize, ledger: &Ledger) -> Option<Fragment> {
        let is_most = !self.kept.is_empty() && self.rest().len() <= 2 * len;
        if !is_most || self.scanner.is_rewritten() {
            return None;
        }
        let used = std::mem::take(&mut self.used);
        let (buffer, head) = std::mem::take(&mut self.kept).into_buffer();
        self.fresh = &[];
        let end = buffer.len();
        Some(ledger.fragment(buffer, head + used..end))
    }

    /// The request at the start of what was lent, of `len` bytes, and what stands behind it.
    pub fn lent_request<'l>(&'l self, lent: &'l Fragment, len: usize) -> (Request<'l>, &'l [u8]) {
        (self.scanner.request(lent), &lent[len..])
    }

    /// Ends what [`Frames::lend`] began. Returns how many bytes of the request are still here: none, if another holds them.
    pub fn take_back(&mut self, lent: Fragment, len: usize) -> usize {
        match lent.into_buffer() {
            Ok((buffer, head)) => {
                self.kept = ByteQueue::of(buffer, head);
                len
            }
            Err(lent) => {
                self.kept.append(&lent[len..]);
                0
            }
        }
    }

    /// Drops the frame just found, and whatever else stands in the first `len` bytes: whole frames.
    pub fn done(&mut self, len: usize) {
        debug_assert!(len <= self.rest().len());
        self.used += len;
        self.scanner.reset();
    }
}

impl Frames<'_, ReplyScanner> {
    /// The reply that was taken last, of `len` bytes.
    pub fn last(&self, len: usize) -> &[u8] {
        let all = if self.kept.is_empty() { self.fresh } else { self.kept.as_slice() };
        &all[self.used - len..self.used]
    }

    /// The same as a fragment: in its own memory, if it is most of what has been read.
    pub fn last_as_fragment(&mut self, len: usize, ledger: &Ledger) -> Fragment {
        let rest = self.rest().len();
        if self.kept.is_empty() || len < self.kept.len() / 2 {
            return ledger.fragment(self.last(len).to_vec(), 0..len);
        }
        let used = std::mem::take(&mut self.used);
        let (mut buffer, head) = std::mem::take(&mut self.kept).into_buffer();
        let end = head + used;
        if rest > 0 {
            self.kept.append(&buffer[end..]);
        } else {
            self.fresh = &[];
        }
        buffer.truncate(end);
        ledger.fragment(buffer, end - len..end)
    }

    /// Takes the next reply and its type byte; or says why the bytes are none, and no later ones will be.
    #[inline]
    pub fn next_reply(&mut self) -> Option<Result<(&[u8], u8), &'static str>> {
        let rest = rest(&self.kept, self.fresh, self.used);
        if rest.is_empty() {
            return None;
        }
        match self.scanner.scan(rest) {
            ReplyScan::NeedMore { at_least } => {
                self.needed = at_least;
                None
            }
            ReplyScan::Frame { len, kind } => {
                self.used += len;
                Some(Ok((&rest[..len], kind)))
            }
            ReplyScan::Desync(why) => Some(Err(why)),
        }
    }

    /// The least length of the incomplete reply at the start.
    pub fn announced(&self) -> usize {
        self.needed
    }

    /// Takes what there is of the incomplete reply at the start, and from now on until its end. True for the last of it.
    pub fn next_part(&mut self) -> Result<(&[u8], bool), &'static str> {
        let rest = rest(&self.kept, self.fresh, self.used);
        let Part { len, is_last } = self.scanner.next_part(rest)?;
        self.used += len;
        Ok((&rest[..len], is_last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: FrameLimits = FrameLimits { request_max: 1 << 20, authenticated: true };
    const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
    const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n";

    #[derive(Default)]
    struct SharedStock<S> {
        scanner: SharedScanner<S>,
        spares: Spares,
    }

    /// Takes every reply there is.
    fn replies(
        inbox: &mut Inbox<ReplyScanner>,
        shared: &mut SharedStock<ReplyScanner>,
        fresh: &[u8],
    ) -> Vec<Vec<u8>> {
        let mut frames = inbox.begin(fresh, &mut shared.scanner);
        let mut found = Vec::new();
        while let Some(reply) = frames.next_reply() {
            found.push(reply.expect("a reply").0.to_vec());
        }
        inbox.end(frames, &mut shared.scanner, &mut shared.spares);
        found
    }

    /// Takes every request there is.
    fn requests(inbox: &mut Inbox<Scanner>, shared: &mut SharedStock<Scanner>, fresh: &[u8]) -> Vec<Vec<u8>> {
        let mut frames = inbox.begin(fresh, &mut shared.scanner);
        let mut found = Vec::new();
        loop {
            match frames.next_request(&LIMITS) {
                Scan::NeedMore { .. } => break,
                Scan::Empty { len } => frames.done(len),
                Scan::Frame { len } => {
                    found.push(frames.request().bytes.to_vec());
                    frames.done(len);
                }
                Scan::Error(error) => panic!("{error:?}"),
            }
        }
        inbox.end(frames, &mut shared.scanner, &mut shared.spares);
        found
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let replies_sent = b"+OK\r\n*2\r\n$1\r\na\r\n*1\r\n:12\r\n$-1\r\n%1\r\n+k\r\n$3\r\nabc\r\n";
        let requests_sent = [GET, b"*0\r\n", SET, b"PING\r\n", GET].concat();
        let whole_replies = replies(&mut Inbox::default(), &mut SharedStock::default(), replies_sent);
        let whole_requests = requests(&mut Inbox::default(), &mut SharedStock::default(), &requests_sent);
        assert_eq!((whole_replies.len(), whole_requests.len()), (4, 4));
        for size in 1..requests_sent.len() {
            let (mut inbox, mut shared) = (Inbox::default(), SharedStock::default());
            let chunks = replies_sent.chunks(size);
            let found: Vec<_> = chunks.flat_map(|chunk| replies(&mut inbox, &mut shared, chunk)).collect();
            assert_eq!(found, whole_replies, "{size} bytes at a time");
            assert_eq!(inbox.footprint(), 0, "nothing is left");
            let (mut inbox, mut shared) = (Inbox::default(), SharedStock::default());
            let chunks = requests_sent.chunks(size);
            let found: Vec<_> = chunks.flat_map(|chunk| requests(&mut inbox, &mut shared, chunk)).collect();
            assert_eq!(found, whole_requests, "{size} bytes at a time");
            assert_eq!(inbox.footprint(), 0, "nothing is left");
        }
    }

    /// Whatever is read of a frame, others that share the scanner read theirs.
    #[test]
    fn a_scanner_inside_a_frame_is_its_inboxs_own() {
        let mut shared = SharedStock::default();
        let (mut one, mut other) = (Inbox::default(), Inbox::default());
        assert!(requests(&mut one, &mut shared, &SET[..20]).is_empty());
        assert_eq!(requests(&mut other, &mut shared, GET), [GET]);
        assert_eq!(other.footprint(), 0);
        assert!(one.footprint() >= 20 + size_of::<Scanner>());
        assert_eq!(requests(&mut one, &mut shared, &SET[20..]), [SET]);
        assert_eq!(one.footprint(), 0);
        let scanner = shared.scanner.expect("it is back");
        assert!(scanner.is_idle() && scanner.footprint() > 0, "it keeps its room for the next");
    }

    #[test]
    fn a_request_stays_until_it_is_done_with() {
        let (mut inbox, mut shared) = (Inbox::default(), SharedStock::default());
        let sent = [GET, SET].concat();
        let mut frames = inbox.begin(&sent, &mut shared.scanner);
        assert_eq!(frames.next_request(&LIMITS), Scan::Frame { len: GET.len() });
        inbox.end(frames, &mut shared.scanner, &mut shared.spares);
        assert_eq!((inbox.as_slice(), inbox.len()), (&sent[..], sent.len()));
        inbox.append_within(GET, 1 << 10);
        let mut frames = inbox.begin(&[], &mut shared.scanner);
        assert_eq!(frames.next_request(&LIMITS), Scan::Frame { len: GET.len() });
        assert_eq!(frames.request().arg(0), b"GET");
        frames.done(GET.len() + SET.len());
        assert_eq!(frames.rest(), GET);
        inbox.end(frames, &mut shared.scanner, &mut shared.spares);
        assert_eq!(requests(&mut inbox, &mut shared, &[]), [GET]);
    }

    /// The rest of a frame is copied once, and the bytes that complete it find room.
    #[test]
    fn room_is_made_for_the_frame_that_has_begun() {
        let (mut inbox, mut shared) = (Inbox::default(), SharedStock::default());
        let reply = [&b"$40000\r\n"[..], &[b'x'; 40_000], b"\r\n"].concat();
        assert!(replies(&mut inbox, &mut shared, &reply[..100]).is_empty());
        let room = inbox.footprint();
        assert!(room >= reply.len(), "{room}");
        assert!(replies(&mut inbox, &mut shared, &reply[100..30_000]).is_empty());
        assert_eq!(inbox.footprint(), room, "no second allocation");
        assert_eq!(replies(&mut inbox, &mut shared, &reply[30_000..]), [reply]);
        assert!(replies(&mut inbox, &mut shared, b"$400000000\r\nx").is_empty());
        assert!(inbox.footprint() <= 2 * READ_TURN, "but a length is only the peer's word");
    }

    /// What was taken out belongs to a connection that is no more, and must not be read as the next one's.
    #[test]
    fn nothing_returns_to_an_inbox_that_was_cleared_meanwhile() {
        let (mut inbox, mut shared) = (Inbox::default(), SharedStock::default());
        let mut frames = inbox.begin(b"+one\r\n*2\r\n+tw", &mut shared.scanner);
        assert_eq!(frames.next_reply(), Some(Ok((&b"+one\r\n"[..], b'+'))));
        assert!(inbox.is_in_use());
        inbox.clear();
        assert!(!inbox.is_in_use());
        assert_eq!(frames.next_reply(), None);
        inbox.end(frames, &mut shared.scanner, &mut shared.spares);
        assert_eq!(inbox.footprint(), 0);
        assert_eq!(replies(&mut inbox, &mut shared, b"+three\r\n"), [b"+three\r\n"]);
    }

    #[test]
    fn what_is_no_frame_says_so() {
        let (mut inbox, mut shared) = (Inbox::default(), SharedStock::default());
        let mut frames = inbox.begin(b"+OK\r\nhello", &mut shared.scanner);
        assert!(matches!(frames.next_reply(), Some(Ok(_))));
        assert_eq!(frames.next_reply(), Some(Err("unknown reply type")));
        let mut shared = SharedStock::<Scanner>::default();
        let mut inbox = Inbox::default();
        let mut frames = inbox.begin(b"*1\r\n:1\r\n", &mut shared.scanner);
        assert!(matches!(frames.next_request(&LIMITS), Scan::Error(_)));
        assert!(matches!(frames.next_request(&LIMITS), Scan::Error(_)), "and will not be one");
    }
}
