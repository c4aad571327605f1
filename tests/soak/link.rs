//! One connection through the fault proxy: two streams of values, and the fault it has been given.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::generator::Fault;
use super::wire::Scanner;

/// Bytes that wait for one side; above it the other is not read.
const WINDOW: usize = 1024 * 1024;
/// Values after which a cut waits no longer for one that is long enough.
const VALUES_TRIED: usize = 40;
/// Values of a greeting: HELLO, SETNAME, SELECT. Bytes are cut there, values are left alone: nothing stands
/// behind the last one by which a broker could know.
const GREETING: usize = 3;
/// A connection on which something came this lately is at work.
const BUSY: Duration = Duration::from_millis(20);
/// Replies longer than this are not kept to be put elsewhere.
const KEPT_MAX: usize = 256;

/// A fault that waits for its moment.
#[derive(Debug)]
pub(crate) enum Armed {
    /// Both sides are closed when `offset` bytes of a value have passed.
    Cut { requests: bool, offset: usize },
    /// One direction is held back.
    Delay { requests: bool, time: Duration },
    /// The next bytes of one direction pass one by one.
    Split { requests: bool, bytes: usize },
    /// A whole reply is sent twice, kept back, or given company.
    Frame { kind: Fault, strange: Vec<u8>, before: bool },
}

/// What is to become of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Open,
    /// Both sides have ended.
    Ended,
    /// The near side is closed at once; Redis learns of it in its own time.
    Cut,
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    scanner: Scanner,
    /// Bytes of the present value that have come.
    at: usize,
    /// Values that have come whole.
    values: usize,
    /// Bytes to be passed on.
    out: Vec<u8>,
    held_until: Option<Instant>,
    /// Bytes that still pass one by one.
    trickle: usize,
    ended: bool,
    told: bool,
    /// What the stream says is no longer followed.
    opaque: bool,
}

pub(crate) struct Link {
    pub(crate) near: UnixStream,
    pub(crate) far: UnixStream,
    requests: Flow,
    replies: Flow,
    armed: Option<Armed>,
    /// Values the armed cut has seen pass because they were too short.
    passed: usize,
    /// The present reply, while it may have to be sent twice or not at all.
    kept: Option<Vec<u8>>,
    /// A cut that happens when what came before it has been passed on.
    cut: bool,
    pub(crate) fate: Fate,
    /// Faults that took effect, with the offset.
    pub(crate) done: Vec<(Fault, usize)>,
    /// The first bytes sent: the connection's name is among them.
    head: Vec<u8>,
    /// The broker has closed it; what it wrote before may still be on its way to Redis.
    pub(crate) closed: bool,
    /// Has asked for messages.
    subscribes: bool,
    /// When something last came from either side.
    last: Instant,
    /// Had a fault of whole values: another one could hide it.
    tampered: bool,
}

impl Link {
    pub(crate) fn new(near: UnixStream, far: UnixStream) -> Link {
        Link {
            near,
            far,
            requests: Flow::default(),
            replies: Flow::default(),
            armed: None,
            passed: 0,
            kept: None,
            cut: false,
            fate: Fate::Open,
            done: Vec::new(),
            head: Vec::new(),
            closed: false,
            subscribes: false,
            last: Instant::now(),
            tampered: false,
        }
    }

    /// Whether bytes pass one by one now.
    pub(crate) fn trickles(&self) -> bool {
        [&self.requests, &self.replies].iter().any(|flow| flow.trickle > 0 && !flow.out.is_empty())
    }

    pub(crate) fn near_flags(&self) -> PollFlags {
        flags(&self.requests, &self.replies)
    }

    pub(crate) fn far_flags(&self) -> PollFlags {
        flags(&self.replies, &self.requests)
    }

    /// Whether a fault would soon take effect.
    pub(crate) fn is_busy(&self, kind: Fault) -> bool {
        let fits = !Fault::FRAMES.contains(&kind) || !self.tampered && self.is_guarded();
        fits && self.armed.is_none() && !self.cut && self.last.elapsed() < BUSY
    }

    /// Takes a fault if it has none.
    pub(crate) fn arm(&mut self, armed: Armed) {
        if self.armed.is_some() || self.cut {
            return;
        }
        match armed {
            Armed::Frame { .. } if self.tampered || !self.is_guarded() => return,
            Armed::Delay { requests, time } => {
                self.flow(requests).held_until = Some(Instant::now() + time);
            }
            Armed::Split { requests, bytes } => self.flow(requests).trickle = bytes,
            _ => {}
        }
        self.passed = 0;
        self.armed = Some(armed);
    }

    fn flow(&mut self, requests: bool) -> &mut Flow {
        if requests { &mut self.requests } else { &mut self.replies }
    }

    /// Whether its replies are such that a canary can stand behind them: those of children, no messages.
    fn is_guarded(&self) -> bool {
        let named = |name: &[u8]| contains(&self.head, name);
        let lane = named(b"broker-lane") || named(b"broker-lease") && !self.subscribes;
        self.replies.values >= GREETING && lane
    }

    pub(crate) fn read_near(&mut self, museum: &mut Vec<Vec<u8>>) {
        let Some(bytes) = read(&mut self.near, &mut self.requests) else { return };
        self.subscribes |= contains(&bytes, b"SUBSCRIBE");
        if self.head.len() < 512 {
            self.head.extend_from_slice(&bytes[..bytes.len().min(512)]);
        }
        self.pass(&bytes, true, museum);
    }

    pub(crate) fn read_far(&mut self, museum: &mut Vec<Vec<u8>>) {
        let Some(bytes) = read(&mut self.far, &mut self.replies) else { return };
        self.pass(&bytes, false, museum);
    }

    /// Follows the values in `bytes` and passes on what is to be passed on.
    fn pass(&mut self, bytes: &[u8], requests: bool, museum: &mut Vec<Vec<u8>>) {
        self.last = Instant::now();
        let mut rest = bytes;
        while !rest.is_empty() && !self.cut {
            if self.flow(requests).opaque {
                return self.flow(requests).out.extend_from_slice(rest);
            }
            let Ok((used, complete)) = self.flow(requests).scanner.take(rest) else {
                self.flow(requests).opaque = true;
                continue;
            };
            let (piece, after) = rest.split_at(used);
            let begins = self.flow(requests).at;
            self.piece(piece, requests, begins, complete, museum);
            let flow = self.flow(requests);
            flow.at = if complete { 0 } else { begins + used };
            flow.values += usize::from(complete);
            rest = after;
        }
    }

    /// A part of one value, or all of it.
    fn piece(
        &mut self,
        piece: &[u8],
        requests: bool,
        begins: usize,
        complete: bool,
        museum: &mut Vec<Vec<u8>>,
    ) {
        if let Some(Armed::Cut { requests: of_requests, offset }) = &mut self.armed
            && *of_requests == requests
        {
            if *offset < begins + piece.len() && *offset >= begins {
                let (kept, offset) = (*offset - begins, *offset);
                self.flow(requests).out.extend_from_slice(&piece[..kept]);
                self.cut = true;
                self.done.push((if requests { Fault::CutRequest } else { Fault::CutReply }, offset));
                return;
            }
            self.passed += usize::from(complete);
            if complete && self.passed >= VALUES_TRIED {
                *offset %= begins + piece.len();
            }
        }
        if !requests {
            if self.tamper(piece, begins, complete) {
                return;
            }
            if begins == 0 && complete && piece.len() <= KEPT_MAX && piece.len() > 5 && museum.len() < 128 {
                museum.push(piece.to_vec());
            }
        }
        self.flow(requests).out.extend_from_slice(piece);
    }

    /// Carries out a fault of whole replies. True: the piece has been dealt with.
    fn tamper(&mut self, piece: &[u8], begins: usize, complete: bool) -> bool {
        let guarded = self.is_guarded();
        let Some(Armed::Frame { kind, strange, before }) = &self.armed else { return false };
        if self.kept.is_none() && (begins > 0 || !guarded) {
            return false;
        }
        let mut whole = self.kept.take().unwrap_or_default();
        whole.extend_from_slice(piece);
        if !complete {
            self.kept = Some(whole);
            return true;
        }
        // Nobody could tell it from the true one, and nothing would be foreign. Inside a MULTI on a lease no canary can
        // stand, and an error may be anyone's; EXEC will show it.
        let unseen = *strange == whole || strange[0] == b'-' && !contains(&self.head, b"broker-lane");
        if *kind == Fault::Inject && unseen {
            self.replies.out.extend_from_slice(&whole);
            return true;
        }
        let out = &mut self.replies.out;
        match kind {
            Fault::Duplicate => out.extend_from_slice(&[&whole[..], &whole].concat()),
            Fault::Lose => {}
            _ if *before => out.extend_from_slice(&[strange, &whole[..]].concat()),
            _ => out.extend_from_slice(&[&whole[..], strange].concat()),
        }
        self.done.push((*kind, 0));
        (self.armed, self.tampered) = (None, true);
        true
    }

    /// Passes on what may pass, and notices what has ended.
    pub(crate) fn write(&mut self) {
        if self.fate != Fate::Open {
            return;
        }
        let fine = self.push(true) && self.push(false);
        let (requests, replies) = (&mut self.requests, &mut self.replies);
        let empty = requests.out.is_empty() && replies.out.is_empty();
        if self.cut && empty {
            self.fate = Fate::Cut;
        } else if replies.ended && (replies.out.is_empty() || !fine) {
            self.fate = Fate::Ended;
        } else if !fine {
            self.fate = Fate::Cut;
        } else if requests.ended && requests.out.is_empty() && !requests.told {
            requests.told = true;
            let _ = self.far.shutdown(std::net::Shutdown::Write);
        }
    }

    /// False: the other side takes nothing more.
    fn push(&mut self, requests: bool) -> bool {
        let (flow, to) = match requests {
            true => (&mut self.requests, &mut self.far),
            false => (&mut self.replies, &mut self.near),
        };
        let armed = &mut self.armed;
        if let Some(until) = flow.held_until {
            if Instant::now() < until {
                return true;
            }
            flow.held_until = None;
            if matches!(armed, Some(Armed::Delay { requests: held, .. }) if *held == requests) {
                *armed = None;
                if !flow.out.is_empty() {
                    self.done.push((Fault::Delay, 0));
                }
            }
        }
        while !flow.out.is_empty() {
            let most = if flow.trickle > 0 { 1 } else { flow.out.len() };
            match to.write(&flow.out[..most]) {
                Ok(count) => drop(flow.out.drain(..count)),
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
            if flow.trickle > 0 {
                flow.trickle -= 1;
                if flow.trickle == 0 {
                    *armed = None;
                    self.done.push((Fault::Split, 0));
                }
                break;
            }
        }
        true
    }
}

/// What has arrived on one side. None: nothing, or the end.
fn read(from: &mut UnixStream, flow: &mut Flow) -> Option<Vec<u8>> {
    if flow.ended || flow.out.len() > WINDOW {
        return None;
    }
    let mut chunk = vec![0u8; 64 * 1024];
    match from.read(&mut chunk) {
        Ok(length @ 1..) => {
            chunk.truncate(length);
            Some(chunk)
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => None,
        _ => {
            flow.ended = true;
            None
        }
    }
}

fn flags(inward: &Flow, outward: &Flow) -> PollFlags {
    let mut flags = PollFlags::empty();
    if !inward.ended && inward.out.len() <= WINDOW {
        flags |= PollFlags::IN;
    }
    let waits = outward.held_until.is_some() || outward.trickle > 0;
    if !outward.out.is_empty() && !waits {
        flags |= PollFlags::OUT;
    }
    flags
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
