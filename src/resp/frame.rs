//! Finds the end of a child's request and its arguments, exactly as Redis 7.0 does, and makes it safe to forward: what an
//! upstream reads never depends on bytes Redis would not have checked. Owns the state of one incomplete frame; never the
//! bytes, and never the meaning of a command.

use super::{FrameScanner, encode, inline};
use crate::base::limits::{BULK_MAX, LINE_MAX};
use memchr::memchr2;
use std::fmt;
use std::ops::Range;

/// Byte range of one argument, start and end, relative to [`Request::bytes`].
pub type ArgRange = (u32, u32);

/// Arguments a request may have before its child has authenticated.
const UNAUTHENTICATED_ARGS: i64 = 10;
/// Bytes an argument may have before its child has authenticated.
const UNAUTHENTICATED_BULK: i64 = 16 * 1024;
/// Argument ranges kept from one request to the next, and most that are reserved because a child announces them.
const ARGS_KEPT: usize = 256;
/// Bytes of the shortest argument.
const ARG_MIN: usize = "$0\r\n\r\n".len();
/// Bytes of scratch kept from one rewritten request to the next.
const SCRATCH_KEPT: usize = 4096;

/// One complete request in canonical RESP, safe to forward: bulk strings, canonical numbers, CRLF everywhere.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The whole frame.
    pub bytes: &'a [u8],
    args: &'a [ArgRange],
}

impl<'a> Request<'a> {
    /// A request whose arguments lie at `args` within `bytes`.
    pub fn new(bytes: &'a [u8], args: &'a [ArgRange]) -> Self {
        Request { bytes, args }
    }

    /// Number of arguments, the command's name included. At least one after a [`Scan::Frame`].
    pub fn argc(&self) -> usize {
        self.args.len()
    }

    /// Argument `i`; 0 is the command's name. Empty if there is none, but do ask [`Request::argc`] first.
    pub fn arg(&self, i: usize) -> &'a [u8] {
        self.get(i).unwrap_or_default()
    }

    /// The same; none if there is none.
    pub fn get(&self, i: usize) -> Option<&'a [u8]> {
        self.args.get(i).map(|&range| slice(self.bytes, range))
    }

    /// All arguments, the command's name first.
    pub fn args(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.args.iter().map(move |&range| slice(bytes, range))
    }
}

impl fmt::Debug for Request<'_> {
    /// Sizes only: arguments may be passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("len", &self.bytes.len()).field("argc", &self.argc()).finish()
    }
}

fn slice(bytes: &[u8], (start, end): ArgRange) -> &[u8] {
    bytes.get(start as usize..end as usize).unwrap_or_default()
}

/// The limits of one request. Passed to every scan.
#[derive(Debug, Clone, Copy)]
pub struct FrameLimits {
    /// Bytes of one whole request, as sent and as forwarded. Taken as 4 GiB - 1 if it is more.
    pub request_max: usize,
    /// Whether the child has authenticated, or need not. If not, Redis' own limits apply, except to inline requests.
    pub authenticated: bool,
}

/// The result of a scan of its bytes.
#[allow(missing_docs)] // Said of each variant as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// No frame can be complete below this number of bytes, always more than were given. The child announces it: cap the
    /// memory reserved for it. An error can appear earlier, so scan whenever bytes arrive.
    NeedMore { at_least: usize },
    /// A frame without a command (`*0`, `*-1`, an empty line), dropped without a reply. The scanner is ready for the next
    /// frame without a reset.
    Empty { len: usize },
    /// A request, see [`Scanner::request`], which may have another length than the input it takes. Until the reset,
    /// scanning the same bytes again has the same result.
    Frame { len: usize },
    /// Not a request, nor will later bytes be one. Redis answers [`ProtocolError::reply`] and closes. The result is the
    /// same until the reset.
    Error(ProtocolError),
}

/// Why bytes are not a request.
#[allow(missing_docs)] // Each is named after its text, which is that of Redis, except the last two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolError {
    InvalidMultibulkLength,
    UnauthenticatedMultibulkLength,
    ExpectedBulk(u8),
    InvalidBulkLength,
    UnauthenticatedBulkLength,
    MultibulkLineTooBig,
    BulkLineTooBig,
    InlineTooBig,
    UnbalancedQuotes,
    /// It begins as a handshake of TLS does. Redis would wait for its line to end, and the client for an answer.
    Tls,
    /// The request is, or announces to become, longer than [`FrameLimits::request_max`].
    RequestTooBig,
}

impl ProtocolError {
    /// The bytes to send before closing.
    pub fn reply(&self) -> Vec<u8> {
        let text = match self {
            ProtocolError::InvalidMultibulkLength => "invalid multibulk length",
            ProtocolError::UnauthenticatedMultibulkLength => "unauthenticated multibulk length",
            ProtocolError::ExpectedBulk(_) => "expected '$', got '",
            ProtocolError::InvalidBulkLength => "invalid bulk length",
            ProtocolError::UnauthenticatedBulkLength => "unauthenticated bulk length",
            ProtocolError::MultibulkLineTooBig => "too big mbulk count string",
            ProtocolError::BulkLineTooBig => "too big bulk count string",
            ProtocolError::InlineTooBig => "too big inline request",
            ProtocolError::UnbalancedQuotes => "unbalanced quotes in request",
            ProtocolError::Tls => "TLS on a plaintext port",
            ProtocolError::RequestTooBig => "request exceeds child_input_max",
        };
        let mut reply = [b"-ERR Protocol error: ", text.as_bytes()].concat();
        if let ProtocolError::ExpectedBulk(byte) = *self {
            // Unchanged, valid UTF-8 or not.
            reply.extend_from_slice(&[encode::one_line(byte), b'\'']);
        }
        reply.extend_from_slice(b"\r\n");
        reply
    }
}

/// How a client with TLS begins: the type of a handshake's record, the first byte of every version.
const TLS_HANDSHAKE: &[u8] = &[22, 3];

/// The scanner's position in a frame.
#[derive(Debug, Default, Clone, Copy)]
enum Stage {
    #[default]
    Start,
    /// In an inline request: looking for its LF.
    Inline,
    Count,
    /// At an argument's `$n` line.
    Header,
    /// In an argument of this many bytes.
    Body(usize),
    /// In an argument of a request that is skipped; so many bytes of it are missing, its end included.
    Skipped(usize),
    /// Behind an argument.
    Done {
        len: usize,
        rewritten: bool,
    },
    /// At the end, after an error.
    Failed(ProtocolError),
}

impl From<ProtocolError> for Scan {
    fn from(error: ProtocolError) -> Scan {
        Scan::Error(error)
    }
}

/// The content of a `*n` or `$n` line.
struct HeaderLine {
    /// `None` if it is not a canonical number.
    value: Option<i64>,
    end: usize,
    /// Whether it ends in CRLF: Redis accepts any byte after the CR.
    crlf: bool,
}

/// Finds requests in one child's input, frame by frame, resuming where it stopped. Uses no heap until
/// the first frame starts, and little between frames.
#[derive(Default)]
pub struct Scanner {
    stage: Stage,
    /// Arguments found so far.
    args: Vec<ArgRange>,
    /// The canonical form of a request that was sent in another form.
    scratch: Vec<u8>,
    /// Bytes parsed so far; the line or body of `stage` starts here.
    pos: usize,
    /// Bytes already searched for the end of the line at `pos`: no less than `pos`, no more than were given.
    searched: usize,
    /// Where the count line ends.
    count_end: usize,
    /// Number of missing arguments.
    args_left: usize,
    /// A position that Redis does not check had other bytes than CRLF.
    odd: bool,
}

impl fmt::Debug for Scanner {
    /// No bytes: arguments may be passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner")
            .field("stage", &self.stage)
            .field("pos", &self.pos)
            .field("args", &self.args.len())
            .field("args_left", &self.args_left)
            .finish_non_exhaustive()
    }
}

impl Scanner {
    /// Looks for one frame at the start of `bytes`; after [`Scan::NeedMore`] it is the same bytes and more.
    pub fn scan(&mut self, bytes: &[u8], limits: &FrameLimits) -> Scan {
        match self.stage {
            Stage::Done { len, .. } => return Scan::Frame { len },
            Stage::Failed(error) => return Scan::Error(error),
            _ => {}
        }
        // Ranges are u32; bytes behind request_max belong to no acceptable frame and must not affect the error.
        let request_max = limits.request_max.min(u32::MAX as usize);
        let view = &bytes[..bytes.len().min(request_max)];
        if let Stage::Start = self.stage
            && let Some(len) = self.usual(view)
        {
            return Scan::Frame { len };
        }
        let found = match self.searched > view.len() {
            // The limit has been lowered since the last scan.
            true => Err(ProtocolError::RequestTooBig.into()),
            false => self.advance(view, request_max, limits.authenticated),
        };
        let error = match found.unwrap_or_else(|stopped| stopped) {
            Scan::NeedMore { at_least } if at_least > request_max => ProtocolError::RequestTooBig,
            Scan::Error(error) => error,
            found => return found,
        };
        self.reset();
        self.stage = Stage::Failed(error);
        Scan::Error(error)
    }

    /// The request just found; `bytes` as given to the scan that returned [`Scan::Frame`]. At any other time
    /// an empty request. Repeatable until the reset.
    pub fn request<'a>(&'a self, bytes: &'a [u8]) -> Request<'a> {
        match self.stage {
            Stage::Done { rewritten: true, .. } => Request::new(&self.scratch, &self.args),
            Stage::Done { len, .. } => Request::new(bytes.get(..len).unwrap_or_default(), &self.args),
            _ => Request::new(&[], &[]),
        }
    }

    /// Whether the request just found stands here in another form than it was sent.
    pub fn is_rewritten(&self) -> bool {
        matches!(self.stage, Stage::Done { rewritten: true, .. })
    }

    /// The least length of the request that has begun: what was last found to be missing, and the shortest arguments
    /// behind that.
    pub fn announced(&self, at_least: usize) -> usize {
        at_least.max(self.pos.saturating_add(self.args_left.saturating_mul(ARG_MIN)))
    }

    /// Passes over the request at the start of `bytes`, which is not to be kept, from now on until its end. Returns how many
    /// bytes can be dropped, and whether they are the last of it; the others are given again, with more behind them. Begins
    /// after a [`Scan::NeedMore`], once the number of arguments is known.
    pub fn skip(&mut self, bytes: &[u8], authenticated: bool) -> Result<(usize, bool), ProtocolError> {
        while self.args_left > 0 {
            match self.stage {
                Stage::Body(len) => self.stage = Stage::Skipped(len + 2),
                Stage::Skipped(missing) => {
                    let len = (bytes.len() - self.pos).min(missing);
                    if len < missing {
                        self.enter(Stage::Skipped(missing - len), self.pos + len);
                        break;
                    }
                    self.args_left -= 1;
                    self.enter(Stage::Header, self.pos + len);
                }
                _ => match self.line(bytes, ProtocolError::BulkLineTooBig) {
                    Ok(HeaderLine { value, end, .. }) => {
                        let len = bulk_len(bytes[self.pos], value, authenticated)?;
                        self.enter(Stage::Body(len), end);
                    }
                    Err(Scan::Error(error)) => return Err(error),
                    Err(_) => break,
                },
            }
        }
        let len = std::mem::take(&mut self.pos);
        self.searched = self.searched.saturating_sub(len);
        (self.args, self.odd) = (Vec::new(), false);
        Ok((len, self.args_left == 0))
    }

    /// Drops the frame: the next scan starts another. Keeps enough capacity for usual requests.
    pub fn reset(&mut self) {
        self.stage = Stage::Start;
        self.pos = 0;
        self.searched = 0;
        self.odd = false;
        self.args.clear();
        self.scratch.clear();
        if self.args.capacity() > ARGS_KEPT {
            self.args = Vec::new();
        }
        if self.scratch.capacity() > SCRATCH_KEPT {
            self.scratch = Vec::new();
        }
    }

    /// Reads a request of the usual form in one pass: canonical, whole, at most nine arguments of at most 999 bytes. So
    /// no limit but the length of `view` applies to it. None if it is of another form; then nothing has changed.
    fn usual(&mut self, view: &[u8]) -> Option<usize> {
        let [b'*', count @ b'1'..=b'9', b'\r', b'\n', ..] = *view else { return None };
        let count = usize::from(count - b'0');
        self.args.reserve_exact(count);
        let mut pos = 4;
        for _ in 0..count {
            let Some(Range { start, end }) = view.get(pos..).and_then(usual_string) else {
                self.args.clear();
                return None;
            };
            self.args.push(((pos + start) as u32, (pos + end) as u32));
            pos += end + 2;
        }
        self.pos = pos;
        self.stage = Stage::Done { len: pos, rewritten: false };
        Some(pos)
    }

    /// An error, too, is what the scan ends with.
    fn advance(&mut self, view: &[u8], request_max: usize, authenticated: bool) -> Result<Scan, Scan> {
        if let Stage::Start = self.stage {
            self.stage = match view.first() {
                None => return Err(Scan::NeedMore { at_least: 1 }),
                Some(b'*') => Stage::Count,
                Some(_) => Stage::Inline,
            };
        }
        if let Stage::Inline = self.stage {
            return self.inline(view, request_max);
        }
        if let Stage::Count = self.stage
            && let Some(empty) = self.count(view, authenticated)?
        {
            return Ok(empty);
        }
        self.arguments(view, authenticated)
    }

    /// Reads the `*n` line; none if arguments follow it.
    fn count(&mut self, view: &[u8], authenticated: bool) -> Result<Option<Scan>, Scan> {
        let HeaderLine { value, end, crlf } = self.line(view, ProtocolError::MultibulkLineTooBig)?;
        let count = value.filter(|count| *count <= i64::from(i32::MAX));
        let count = count.ok_or(ProtocolError::InvalidMultibulkLength)?;
        if count > UNAUTHENTICATED_ARGS && !authenticated {
            return Err(ProtocolError::UnauthenticatedMultibulkLength.into());
        }
        if count <= 0 {
            self.reset();
            return Ok(Some(Scan::Empty { len: end }));
        }
        self.args_left = count as usize;
        self.args.reserve_exact(self.args_left.min(ARGS_KEPT));
        self.odd = !crlf;
        self.count_end = end;
        self.enter(Stage::Header, end);
        Ok(None)
    }

    /// Reads arguments until the frame or the bytes end.
    fn arguments(&mut self, view: &[u8], authenticated: bool) -> Result<Scan, Scan> {
        while self.args_left > 0 {
            let len = match self.stage {
                Stage::Body(len) => len,
                _ => {
                    let HeaderLine { value, end, crlf } = self.line(view, ProtocolError::BulkLineTooBig)?;
                    let len = bulk_len(view[self.pos], value, authenticated)?;
                    self.odd |= !crlf;
                    self.enter(Stage::Body(len), end);
                    len
                }
            };
            let end = self.pos + len;
            let tail = view.get(end..end + 2).ok_or(Scan::NeedMore { at_least: end + 2 })?;
            self.odd |= tail != b"\r\n";
            self.args.push((self.pos as u32, end as u32));
            self.args_left -= 1;
            self.enter(Stage::Header, end + 2);
        }
        if self.odd {
            self.rewrite(view);
        }
        self.stage = Stage::Done { len: self.pos, rewritten: self.odd };
        Ok(Scan::Frame { len: self.pos })
    }

    fn enter(&mut self, stage: Stage, pos: usize) {
        self.stage = stage;
        self.pos = pos;
        self.searched = pos;
    }

    /// Reads the line at `pos`: a type byte, a number, CR and one more byte.
    fn line(&mut self, view: &[u8], too_big: ProtocolError) -> Result<HeaderLine, Scan> {
        if let Some(b'*' | b'$') = view.get(self.pos)
            && let Some((value, digits_end)) = short_number(view, self.pos + 1)
            && let [b'\r', after, ..] = view[digits_end..]
        {
            return Ok(HeaderLine { value: Some(value), end: digits_end + 2, crlf: after == b'\n' });
        }
        // Nothing but the CR ends the line.
        let missing = match self.find(b'\r', view) {
            Some(true) => {
                let end = self.searched;
                let &after = view.get(end + 1).ok_or(Scan::NeedMore { at_least: end + 2 })?;
                let value = canonical_number(&view[self.pos + 1..end.max(self.pos + 1)]);
                return Ok(HeaderLine { value, end: end + 2, crlf: after == b'\n' });
            }
            Some(false) => self.pos + LINE_MAX + 1,
            None => view.len() + 1,
        };
        match view.len() - self.pos > LINE_MAX {
            true => Err(too_big.into()),
            false => Err(Scan::NeedMore { at_least: missing }),
        }
    }

    /// Searches on for the end of a line, to the end of `view` or to the first `end`. Redis looks for it with strchr, which
    /// stops at a NUL: then the answer is false.
    fn find(&mut self, end: u8, view: &[u8]) -> Option<bool> {
        let found = memchr2(end, 0, &view[self.searched..]);
        self.searched = found.map_or(view.len(), |offset| self.searched + offset);
        found.map(|_| view[self.searched] == end)
    }

    /// Writes CRLF in place of other bytes. Numbers are canonical already, so no length changes.
    fn rewrite(&mut self, view: &[u8]) {
        self.scratch.clear();
        self.scratch.extend_from_slice(&view[..self.pos]);
        let mut end_line = |end: usize| self.scratch[end - 2..end].copy_from_slice(b"\r\n");
        end_line(self.count_end);
        for &(start, end) in &self.args {
            end_line(start as usize);
            end_line(end as usize + 2);
        }
    }

    /// Reads an inline request: a line up to LF, of any length if the LF has already arrived.
    fn inline(&mut self, view: &[u8], request_max: usize) -> Result<Scan, Scan> {
        if view.starts_with(TLS_HANDSHAKE) {
            return Err(ProtocolError::Tls.into());
        }
        let missing = match self.find(b'\n', view) {
            Some(true) => return Ok(self.inline_line(view, self.searched, request_max)?),
            Some(false) => LINE_MAX + 1,
            None => view.len() + 1,
        };
        match view.len() > LINE_MAX {
            true => Err(ProtocolError::InlineTooBig.into()),
            false => Err(Scan::NeedMore { at_least: missing }),
        }
    }

    /// Splits the line that ends at `newline` and writes it as an array.
    fn inline_line(
        &mut self,
        view: &[u8],
        newline: usize,
        request_max: usize,
    ) -> Result<Scan, ProtocolError> {
        let line = &view[..newline];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut text = Vec::new();
        inline::split(line, &mut text, &mut self.args)?;
        let len = newline + 1;
        if self.args.is_empty() {
            self.reset();
            return Ok(Scan::Empty { len });
        }
        self.scratch.clear();
        encode::array_header(&mut self.scratch, self.args.len());
        for range in &mut self.args {
            encode::bulk(&mut self.scratch, slice(&text, *range));
            if self.scratch.len() > request_max {
                return Err(ProtocolError::RequestTooBig);
            }
            let end = self.scratch.len() as u32 - 2;
            *range = (end - (range.1 - range.0), end);
        }
        self.stage = Stage::Done { len, rewritten: true };
        Ok(Scan::Frame { len })
    }
}

impl FrameScanner for Scanner {
    fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Start)
    }

    fn footprint(&self) -> usize {
        self.args.capacity() * size_of::<ArgRange>() + self.scratch.capacity()
    }
}

/// Checks an argument's `$n` line: its first byte and its number.
fn bulk_len(kind: u8, value: Option<i64>, authenticated: bool) -> Result<usize, ProtocolError> {
    if kind != b'$' {
        return Err(ProtocolError::ExpectedBulk(kind));
    }
    match value {
        Some(len) if len > UNAUTHENTICATED_BULK && len <= BULK_MAX as i64 && !authenticated => {
            Err(ProtocolError::UnauthenticatedBulkLength)
        }
        Some(len) if len >= 0 && len <= BULK_MAX as i64 => Ok(len as usize),
        _ => Err(ProtocolError::InvalidBulkLength),
    }
}

/// Where the text lies of a string at the start of `bytes` whose `$n` line has one to three digits; none if it is not whole.
#[inline]
pub(super) fn usual_string(bytes: &[u8]) -> Option<Range<usize>> {
    let digit = |byte: u8| usize::from(byte - b'0');
    let (len, start) = match *bytes {
        [b'$', a @ b'0'..=b'9', b'\r', b'\n', ..] => (digit(a), 4),
        [b'$', a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => (digit(a) * 10 + digit(b), 5),
        [b'$', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', b'\n', ..] => {
            (digit(a) * 100 + digit(b) * 10 + digit(c), 6)
        }
        _ => return None,
    };
    let end = start + len;
    (bytes.get(end..end + 2)? == b"\r\n").then_some(start..end)
}

/// The canonical non-negative number of up to nine digits that starts at `start`, and where it ends. `None`
/// for everything else, which the slow path handles.
fn short_number(view: &[u8], start: usize) -> Option<(i64, usize)> {
    let rest = view.get(start..)?;
    let mut value = 0;
    let mut digits = 0;
    while let Some(digit @ b'0'..=b'9') = rest.get(digits).copied() {
        value = value * 10 + i64::from(digit - b'0');
        digits += 1;
        if digits > 9 {
            return None;
        }
    }
    let canonical = digits == 1 || (digits > 1 && rest[0] != b'0');
    canonical.then_some((value, start + digits))
}

/// A number as Redis' `string2ll` accepts it: no sign but `-`, no leading zero, no blank, within 64 bits.
fn canonical_number(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', rest @ ..] => text.len() <= 20 && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !canonical {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::tests::encoded;

    const LIMITS: FrameLimits = FrameLimits { request_max: 1 << 30, authenticated: true };

    fn scan(bytes: &[u8]) -> Scan {
        Scanner::default().scan(bytes, &LIMITS)
    }

    /// A request is passed over like it would have been read, however it is cut, and the next one is found behind it.
    #[test]
    fn what_is_skipped_ends_where_it_would_have() {
        let long = b"*3\r\n$3\r\nSET\r\n$13\r\n\r\n$1\r\nx\r\n*1\r\n\r\n$0\r\n\r\n";
        let sent = [&long[..], b"*1\r\n$4\r\nPING\r\n"].concat();
        for first in b"*3\r\n".len()..long.len() {
            for size in 1..=sent.len() {
                let (mut scanner, mut held) = (Scanner::default(), sent[..first].to_vec());
                assert!(matches!(scanner.scan(&held, &LIMITS), Scan::NeedMore { .. }));
                let mut pieces = sent[first..].chunks(size);
                loop {
                    let (len, is_last) = scanner.skip(&held, true).expect("a request");
                    held.drain(..len);
                    if is_last {
                        break;
                    }
                    assert!(held.len() < 8, "next to nothing is kept: {}", held.escape_ascii());
                    held.extend_from_slice(pieces.next().expect("it ends before the bytes do"));
                }
                scanner.reset();
                held.extend(pieces.flatten());
                assert_eq!(scanner.scan(&held, &LIMITS), Scan::Frame { len: 14 }, "{first} and {size}");
                assert_eq!(scanner.request(&held).arg(0), b"PING");
            }
        }
        let mut scanner = Scanner::default();
        scanner.scan(b"*2\r\n$1\r\n", &LIMITS);
        assert_eq!(scanner.skip(b"*2\r\n$1\r\nx\r\n:1\r\n", true), Err(ProtocolError::ExpectedBulk(b':')));
    }

    #[test]
    fn missing_arguments_are_announced_at_their_least() {
        let mut scanner = Scanner::default();
        let found = scanner.scan(b"*1000\r\n$100\r\n", &LIMITS);
        assert_eq!(found, Scan::NeedMore { at_least: 7 + 6 + 102 });
        assert_eq!(scanner.announced(115), 13 + 6 * 1000);
        assert_eq!(scanner.announced(1 << 20), 1 << 20);
    }

    #[track_caller]
    fn check_error(bytes: &[u8], limits: &FrameLimits, text: &str) {
        let Scan::Error(error) = Scanner::default().scan(bytes, limits) else {
            panic!("no error in {}", bytes.escape_ascii());
        };
        assert_eq!(error.reply().escape_ascii().to_string(), format!("-ERR Protocol error: {text}\\r\\n"));
    }

    #[track_caller]
    fn check_frame(bytes: &[u8], len: usize, canonical: &[u8]) {
        let mut scanner = Scanner::default();
        for _ in 0..2 {
            assert_eq!(scanner.scan(bytes, &LIMITS), Scan::Frame { len });
            let request = scanner.request(bytes);
            assert_eq!(request.bytes.escape_ascii().to_string(), canonical.escape_ascii().to_string());
            let rebuilt = encoded(&request.args().collect::<Vec<_>>());
            assert_eq!(rebuilt, canonical, "the ranges do not cover the arguments");
        }
    }

    #[test]
    fn a_canonical_request_is_not_copied() {
        let bytes = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n";
        let mut scanner = Scanner::default();
        assert_eq!(scanner.scan(bytes, &LIMITS), Scan::Frame { len: 20 });
        let request = scanner.request(bytes);
        assert_eq!(request.bytes.as_ptr(), bytes.as_ptr());
        assert_eq!((request.argc(), request.arg(0), request.arg(1)), (2, &b"GET"[..], &b"k"[..]));
        assert_eq!(request.arg(2), b"");
        assert_eq!(format!("{request:?}"), "Request { len: 20, argc: 2 }");
    }

    #[test]
    fn bytes_redis_does_not_look_at_are_replaced() {
        check_frame(b"*1\rX$4\r\nPING\r\n", 14, b"*1\r\n$4\r\nPING\r\n");
        check_frame(b"*1\r\n$4\r\rPING\r\n", 14, b"*1\r\n$4\r\nPING\r\n");
        check_frame(b"*2\r\n$4\r\nECHO$1$1\r\na\n\r+", 21, b"*2\r\n$4\r\nECHO\r\n$1\r\na\r\n");
        check_frame(b"*1\r\n$0\r\n**", 10, b"*1\r\n$0\r\n\r\n");
    }

    #[test]
    fn inline_requests_become_arrays() {
        check_frame(b"PING\r\nPING\r\n", 6, b"*1\r\n$4\r\nPING\r\n");
        check_frame(b" *1\n", 4, b"*1\r\n$2\r\n*1\r\n");
        check_frame(b"set 'a b' \"\\x00\"\n", 17, b"*3\r\n$3\r\nset\r\n$3\r\na b\r\n$1\r\n\0\r\n");
        check_frame(b"\"\" a\n", 5, b"*2\r\n$0\r\n\r\n$1\r\na\r\n");
        check_error(b"get \"a\n", &LIMITS, "unbalanced quotes in request");
    }

    #[test]
    fn frames_without_a_command_are_skipped() {
        for frame in [&b"*0\r\n"[..], b"*-1\r\n", b"*-10\rX", b"\r\n", b"\n", b" \t\r\n", b"\x0b\n"] {
            let mut scanner = Scanner::default();
            assert_eq!(scanner.scan(frame, &LIMITS), Scan::Empty { len: frame.len() });
            assert!(scanner.is_idle());
        }
        assert_eq!(scan(b"*-9223372036854775808\r\n"), Scan::Empty { len: 23 });
    }

    #[test]
    fn counts_and_lengths_must_be_canonical() {
        for count in ["", "abc", " 1", "+1", "01", "-0", "1 ", "-", "2147483648", "9999999999999999999999"] {
            check_error(format!("*{count}\r\n").as_bytes(), &LIMITS, "invalid multibulk length");
        }
        check_error(b"*-9223372036854775809\r\n", &LIMITS, "invalid multibulk length");
        check_error(b"*1\n$4\r\n", &LIMITS, "invalid multibulk length");
        for len in ["", "a", "-1", "00", "536870913", "99999999999", "-9223372036854775808"] {
            check_error(format!("*1\r\n${len}\r\n").as_bytes(), &LIMITS, "invalid bulk length");
        }
        assert_eq!(scan(b"*2147483647\r\n"), Scan::NeedMore { at_least: 14 });
        assert_eq!(scan(b"*1\r\n$536870912\r\n"), Scan::NeedMore { at_least: 16 + (512 << 20) + 2 });
    }

    #[test]
    fn the_byte_in_the_place_of_a_dollar_is_shown_on_one_line() {
        check_error(b"*1\r\nx\r\n", &LIMITS, "expected \\'$\\', got \\'x\\'");
        check_error(b"*1\r\n\r\n", &LIMITS, "expected \\'$\\', got \\' \\'");
        check_error(b"*1\r\n\nabc\r\n", &LIMITS, "expected \\'$\\', got \\' \\'");
        check_error(b"*1\r\n\xff\r\n", &LIMITS, "expected \\'$\\', got \\'\\xff\\'");
        assert_eq!(scan(b"*1\r\nx\n"), Scan::NeedMore { at_least: 7 }, "no CR, no verdict");
    }

    #[test]
    fn a_nul_hides_the_end_of_its_line() {
        for start in [&b"GET \0\r\n"[..], b"*1\0\r\n", b"*1\r\n$4\0\r\nPING\r\n", b"*1\r\n\x004\r\n"] {
            let mut bytes = start.to_vec();
            assert!(matches!(scan(&bytes), Scan::NeedMore { at_least } if at_least > LINE_MAX));
            bytes.resize(LINE_MAX + 16, b'\n');
            assert!(matches!(scan(&bytes), Scan::Error(_)));
        }
    }

    #[test]
    fn endless_lines_are_refused_but_long_ones_that_have_arrived_are_not() {
        let long = |start: &str, len: usize, end: &str| [start, &"a".repeat(len), end].concat().into_bytes();
        check_error(&long("", LINE_MAX + 1, ""), &LIMITS, "too big inline request");
        check_error(&long("*", LINE_MAX, ""), &LIMITS, "too big mbulk count string");
        check_error(&long("*1\r\n", LINE_MAX + 1, ""), &LIMITS, "too big bulk count string");
        assert_eq!(scan(&long("", LINE_MAX, "")), Scan::NeedMore { at_least: LINE_MAX + 1 });
        assert_eq!(scan(&long("*", LINE_MAX - 1, "")), Scan::NeedMore { at_least: LINE_MAX + 1 });
        assert_eq!(scan(&long("", 70_000, "\n")), Scan::Frame { len: 70_001 });
        check_error(&long("*", 70_000, "\r\n"), &LIMITS, "invalid multibulk length");
    }

    #[test]
    fn an_unauthenticated_child_gets_little_room() {
        let limits = FrameLimits { authenticated: false, ..LIMITS };
        check_error(b"*11\r\n", &limits, "unauthenticated multibulk length");
        check_error(b"*2\r\n$16385\r\n", &limits, "unauthenticated bulk length");
        check_error(b"*2\r\n$536870913\r\n", &limits, "invalid bulk length");
        let mut scanner = Scanner::default();
        assert_eq!(scanner.scan(b"*10\r\n$16384\r\n", &limits), Scan::NeedMore { at_least: 16399 });
        let inline = b"a b c d e f g h i j k l\n";
        assert_eq!(Scanner::default().scan(inline, &limits), Scan::Frame { len: inline.len() });
    }

    #[test]
    fn a_request_beyond_the_limit_is_refused_as_soon_as_it_shows() {
        let limits = FrameLimits { request_max: 20, authenticated: true };
        let text = "request exceeds child_input_max";
        let fits = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n";
        assert_eq!(Scanner::default().scan(fits, &limits), Scan::Frame { len: 20 });
        check_error(b"*2\r\n$3\r\nGET\r\n$2\r\n", &limits, text);
        check_error(b"*3\r\n$3\r\nGET\r\n$1\r\nk\r\n", &limits, text);
        check_error(b"*3\r\n$3\r\nGET\r\n$1\r\nk\r\nx\r\n", &limits, text);
        check_error(b"inline without its end", &limits, text);
        check_error(b"\x16\x03\x01\x02\x00\x01", &LIMITS, "TLS on a plaintext port");
        check_error(b"a bcde\n", &limits, text); // 7 bytes, but 21 once it is an array
        assert_eq!(Scanner::default().scan(b"a\n", &limits), Scan::Frame { len: 2 });
    }

    #[test]
    fn a_limit_lowered_within_a_frame_is_an_error() {
        let bytes = b"*2\r\n$3\r\nGET\r\n$100\r\nk";
        let mut scanner = Scanner::default();
        assert!(matches!(scanner.scan(bytes, &LIMITS), Scan::NeedMore { .. }));
        let limits = FrameLimits { request_max: 5, authenticated: true };
        assert_eq!(scanner.scan(bytes, &limits), Scan::Error(ProtocolError::RequestTooBig));
    }

    #[test]
    fn an_error_stays_until_the_reset() {
        let mut scanner = Scanner::default();
        assert!(matches!(scanner.scan(b"*x\r\n", &LIMITS), Scan::Error(_)));
        assert!(matches!(scanner.scan(b"*0\r\n", &LIMITS), Scan::Error(_)));
        assert!(!scanner.is_idle());
        assert_eq!(scanner.request(b"*0\r\n").argc(), 0);
        scanner.reset();
        assert_eq!(scanner.scan(b"*0\r\n", &LIMITS), Scan::Empty { len: 4 });
    }

    #[test]
    fn room_is_kept_for_usual_requests_only() {
        let mut scanner = Scanner::default();
        assert_eq!(scanner.footprint(), 0);
        assert!(matches!(scanner.scan(b"*2147483647\r\n", &LIMITS), Scan::NeedMore { .. }));
        assert!(scanner.footprint() <= ARGS_KEPT * size_of::<ArgRange>());
        scanner.reset();
        let many = [&b"*300\r\n"[..], &b"$1\r\na\r\n".repeat(300)].concat();
        assert_eq!(scanner.scan(&many, &LIMITS), Scan::Frame { len: many.len() });
        scanner.reset();
        assert_eq!(scanner.footprint(), 0);
        let long = [&b"a".repeat(5000)[..], b"\n"].concat();
        assert_eq!(scanner.scan(&long, &LIMITS), Scan::Frame { len: 5001 });
        scanner.reset();
        assert!(scanner.footprint() < 64);
        assert_eq!(scanner.scan(b"PING\n", &LIMITS), Scan::Frame { len: 5 });
        scanner.reset();
        assert!(scanner.is_idle() && scanner.footprint() < 128);
    }
}
