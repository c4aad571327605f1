//! Finds where an upstream's reply ends, RESP2 or RESP3, and reads parts of whole replies for the few that the
//! broker handles itself. Bytes that Redis would not send are a desync: the lane is closed, never resynchronised.
//! Never copies or owns a reply.

use super::FrameScanner;
use super::frame::usual_string;
use crate::base::limits::{BULK_MAX, LINE_MAX, REPLY_DEPTH};
use memchr::memchr;
use std::ops::Range;

/// Bytes of a status, an error or a big number. Scripts can make them as long as strings, and others share the
/// lane: what Redis sends for a script must never be taken for a desync.
const TEXT_LINE_MAX: usize = BULK_MAX as usize;
/// Elements of one aggregate; keys and values of a map each count.
const ELEMENTS_MAX: u64 = 1 << 40;
/// Bytes of one string: Redis' own bound is 512 MiB, and a module's or a configured one may be more.
const STRING_MAX: u64 = 1 << 32;
/// Entries of `ReplyScanner::outer` whose capacity is kept between replies.
const OUTER_KEPT: usize = 128;
/// Bytes of the shortest value.
const VALUE_MIN: u64 = 3;
/// Digits of the greatest length that either bound allows.
const LENGTH_DIGITS: usize = 13;

/// The result of a scan of its bytes.
#[allow(missing_docs)] // Said of each variant as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyScan {
    /// No value can be complete below this number of bytes, always more than were given: that of a string as it is
    /// announced, and the least for each missing element.
    NeedMore { at_least: usize },
    /// One whole value, an attribute before it included, and its own type byte; the scanner is ready for the next.
    Frame { len: usize, kind: u8 },
    /// These bytes are not replies: close the connection. The text is for the log.
    Desync(&'static str),
}

/// A part of a reply that is taken as it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Bytes of it.
    pub len: usize,
    /// Whether it is the last one.
    pub is_last: bool,
}

/// Where in a value a scanner stands whose reply is taken in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    /// At the start of one.
    Nothing,
    /// In a string; so many bytes of it are missing, its end included.
    String(u64),
    /// In a line; so many more bytes it may have before its end.
    Line(usize),
}

/// Finds replies in one upstream connection's input, resuming at any byte. Uses heap only once a reply
/// has nested, and then at most 16 bytes per level.
#[derive(Debug)]
pub struct ReplyScanner {
    /// The reply is taken in parts; else it is kept until it is whole.
    in_parts: bool,
    inside: Inside,
    /// Bytes parsed so far; a value's type byte is here.
    pos: usize,
    /// Bytes already searched for the end of the line at `pos`.
    searched: usize,
    /// Number of missing values in the innermost aggregate that lacks any.
    left: u64,
    /// How many aggregates enclose them.
    depth: u32,
    /// The same for the enclosing aggregates, only those that lack values.
    outer: Vec<(u64, u32)>,
    /// The type byte of the outermost value.
    kind: u8,
}

impl Default for ReplyScanner {
    fn default() -> Self {
        ReplyScanner {
            in_parts: false,
            inside: Inside::Nothing,
            pos: 0,
            searched: 0,
            left: 1,
            depth: 0,
            outer: Vec::new(),
            kind: 0,
        }
    }
}

/// The content of a value's header.
pub(super) enum ValueHeader {
    /// A value without elements, this many bytes in all.
    Leaf(usize),
    /// A header of `len` bytes, followed by `count` elements.
    Elements { count: u64, len: usize },
    /// A header of `len` bytes, followed by `count` elements and then the value they describe.
    Attribute { count: u64, len: usize },
}

/// Why there is no header.
pub(super) enum NoHeader {
    /// The header, or the leaf it announces, needs this many bytes.
    Short(usize),
    Desync(&'static str),
}

impl ReplyScanner {
    /// Looks for one reply at the start of `bytes`; after [`ReplyScan::NeedMore`] it is the same bytes and more.
    pub fn scan(&mut self, bytes: &[u8]) -> ReplyScan {
        debug_assert!(!self.in_parts, "begun in parts");
        if self.is_idle()
            && let Some(len) = usual_length(bytes)
        {
            return ReplyScan::Frame { len, kind: b'$' };
        }
        loop {
            if self.is_whole() {
                let (len, kind) = (self.pos, self.kind);
                self.reset();
                return ReplyScan::Frame { len, kind };
            }
            if let Err(stop) = self.value(bytes) {
                return match stop {
                    NoHeader::Short(len) => ReplyScan::NeedMore { at_least: self.at_least(len) },
                    NoHeader::Desync(reason) => ReplyScan::Desync(reason),
                };
            }
        }
    }

    /// Leaves the aggregates that lack no value any more. True if there is none left.
    fn is_whole(&mut self) -> bool {
        while self.left == 0 {
            let Some(outer) = self.outer.pop() else { return true };
            (self.left, self.depth) = outer;
        }
        false
    }

    /// The least length of a reply whose next value has `len` bytes or more.
    fn at_least(&self, len: usize) -> usize {
        let missing = self.outer.iter().map(|(left, _)| *left).fold(self.left - 1, u64::saturating_add);
        let missing = usize::try_from(missing.saturating_mul(VALUE_MIN)).unwrap_or(usize::MAX);
        (self.pos + len).saturating_add(missing)
    }

    /// Takes the reply at the start of `bytes` in parts, from now on until its last. What is not taken is given again, with
    /// more behind it. After [`ReplyScan::NeedMore`] the first part begins where the reply does.
    pub fn next_part(&mut self, bytes: &[u8]) -> Result<Part, &'static str> {
        self.in_parts = true;
        loop {
            if self.inside == Inside::Nothing && self.is_whole() {
                let len = self.pos;
                self.reset();
                return Ok(Part { len, is_last: true });
            }
            let goes_on = match self.inside {
                Inside::Nothing => self.value_in_parts(bytes)?,
                Inside::String(missing) => self.string_part(bytes, missing)?,
                Inside::Line(room) => self.line_part(bytes, room)?,
            };
            if !goes_on {
                let len = std::mem::take(&mut self.pos);
                self.searched = 0;
                return Ok(Part { len, is_last: false });
            }
        }
    }

    /// Reads a value, or enters one that is not there to its end. False if nothing more can be read.
    fn value_in_parts(&mut self, bytes: &[u8]) -> Result<bool, &'static str> {
        match self.value(bytes) {
            Ok(()) => return Ok(true),
            Err(NoHeader::Desync(reason)) => return Err(reason),
            Err(NoHeader::Short(_)) => {}
        }
        let rest = bytes.get(self.pos..).unwrap_or_default();
        let (inside, header) = match rest.first() {
            Some(b'$' | b'=' | b'!') => match length(rest) {
                Ok((Some(size), header)) => (Inside::String(size + 2), header),
                _ => return Ok(false),
            },
            Some(b'+' | b'-' | b'(') => (Inside::Line(TEXT_LINE_MAX), 1),
            _ => return Ok(false),
        };
        self.inside = inside;
        self.pos += header;
        Ok(true)
    }

    fn string_part(&mut self, bytes: &[u8], missing: u64) -> Result<bool, &'static str> {
        let rest = bytes.get(self.pos..).unwrap_or_default();
        let len = rest.len().min(usize::try_from(missing).unwrap_or(usize::MAX));
        for (from_end, byte) in [(2, b'\r'), (1, b'\n')] {
            let at = missing.checked_sub(from_end).and_then(|at| usize::try_from(at).ok());
            if at.and_then(|at| rest[..len].get(at)).is_some_and(|found| *found != byte) {
                return Err("string without its end in reply");
            }
        }
        self.pos += len;
        let missing = missing - len as u64;
        self.inside = Inside::String(missing);
        if missing == 0 {
            self.leave();
        }
        Ok(missing == 0)
    }

    fn line_part(&mut self, bytes: &[u8], room: usize) -> Result<bool, &'static str> {
        let rest = bytes.get(self.pos..).unwrap_or_default();
        let mut len = 0;
        let ended = loop {
            match memchr(b'\r', &rest[len..]) {
                None => {
                    len = rest.len();
                    break false;
                }
                Some(offset) => len += offset,
            }
            match rest.get(len + 1) {
                Some(b'\n') => break true,
                Some(_) => len += 1,
                None => break false,
            }
        };
        let room = room.checked_sub(len).ok_or("reply line too long")?;
        self.pos += len + if ended { 2 } else { 0 };
        self.inside = Inside::Line(room);
        if ended {
            self.leave();
        }
        Ok(ended)
    }

    /// The value at hand has come to its end.
    fn leave(&mut self) {
        self.inside = Inside::Nothing;
        self.left -= 1;
    }

    /// Drops an incomplete reply.
    pub fn reset(&mut self) {
        self.outer.clear();
        self.outer.shrink_to(OUTER_KEPT);
        (self.pos, self.searched, self.left, self.depth) = (0, 0, 1, 0);
        (self.in_parts, self.inside) = (false, Inside::Nothing);
    }

    /// Reads one value or the header of one. Changes nothing but `searched` unless it succeeds.
    #[inline(always)]
    fn value(&mut self, bytes: &[u8]) -> Result<(), NoHeader> {
        let rest = bytes.get(self.pos..).unwrap_or_default();
        let mut searched = self.searched.saturating_sub(self.pos);
        let head = head(rest, &mut searched);
        self.searched = self.pos + searched;
        let (count, len) = match head? {
            ValueHeader::Leaf(len) => (0, len),
            _ if self.depth as usize >= REPLY_DEPTH => return Err(NoHeader::Desync("reply nested too deep")),
            ValueHeader::Elements { count, len } => (count, len),
            ValueHeader::Attribute { count, len } => {
                // The value that it describes follows, and counts.
                self.left += 1;
                (count, len)
            }
        };
        self.left -= 1;
        if self.depth == 0 {
            self.kind = rest.first().copied().unwrap_or_default();
        }
        self.pos += len;
        if count > 0 {
            if self.left > 0 {
                self.outer.push((self.left, self.depth));
            }
            self.left = count;
            self.depth += 1;
        }
        Ok(())
    }
}

impl FrameScanner for ReplyScanner {
    fn is_idle(&self) -> bool {
        self.pos == 0 && self.searched == 0 && !self.in_parts
    }

    fn footprint(&self) -> usize {
        self.outer.capacity() * size_of::<(u64, u32)>()
    }
}

/// Reads the header of the value at the start of `rest`, and a leaf's body. `searched` bytes have no line end.
pub(super) fn head(rest: &[u8], searched: &mut usize) -> Result<ValueHeader, NoHeader> {
    let &kind = rest.first().ok_or(NoHeader::Short(3))?;
    match kind {
        b'$' | b'=' | b'!' => string(kind, rest).map(ValueHeader::Leaf),
        b'*' | b'~' | b'>' | b'%' | b'|' => aggregate(kind, rest),
        // A script can return any text as a big number.
        b'+' | b'-' | b'(' => line(rest, searched, TEXT_LINE_MAX).map(ValueHeader::Leaf),
        b':' | b'_' | b'#' | b',' => {
            let len = line(rest, searched, LINE_MAX)?;
            match scalar(kind, &rest[1..len - 2]) {
                true => Ok(ValueHeader::Leaf(len)),
                false => Err(NoHeader::Desync("malformed scalar in reply")),
            }
        }
        _ => Err(NoHeader::Desync("unknown reply type")),
    }
}

/// The length of a string of the usual form at the start of `bytes`: null, or whole and of at most 999 bytes.
fn usual_length(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'$', b'-', b'1', b'\r', b'\n', ..] => Some(5),
        _ => Some(usual_string(bytes)?.end + 2),
    }
}

/// The length of a string with header and ends.
fn string(kind: u8, rest: &[u8]) -> Result<usize, NoHeader> {
    let (size, body) = match length(rest)? {
        (None, len) if kind == b'$' => return Ok(len),
        (Some(size), len) if size <= STRING_MAX && (kind != b'=' || size >= 4) => (size as usize, len),
        _ => return Err(NoHeader::Desync("impossible string length in reply")),
    };
    let end = body + size;
    match rest.get(end..end + 2) {
        Some(b"\r\n") => Ok(end + 2),
        Some(_) => Err(NoHeader::Desync("string without its end in reply")),
        None => Err(NoHeader::Short(end + 2)),
    }
}

fn aggregate(kind: u8, rest: &[u8]) -> Result<ValueHeader, NoHeader> {
    let (count, len) = match length(rest)? {
        (None, len) if kind == b'*' => return Ok(ValueHeader::Leaf(len)),
        (Some(count), len) if matches!(kind, b'%' | b'|') => (count.saturating_mul(2), len),
        (Some(count), len) => (count, len),
        (None, _) => return Err(NoHeader::Desync("impossible element count in reply")),
    };
    match kind {
        _ if count > ELEMENTS_MAX => Err(NoHeader::Desync("impossible element count in reply")),
        b'|' => Ok(ValueHeader::Attribute { count, len }),
        _ => Ok(ValueHeader::Elements { count, len }),
    }
}

/// The number in a length line, `None` for -1, and the line's length. Strict, since Redis is: only the shortest
/// form is accepted, so a longer line is a desync before it ends.
fn length(rest: &[u8]) -> Result<(Option<u64>, usize), NoHeader> {
    const MALFORMED: NoHeader = NoHeader::Desync("malformed length in reply");
    match rest.get(1).ok_or(NoHeader::Short(4))? {
        b'-' => {
            return match rest.get(1..5) {
                Some(b"-1\r\n") => Ok((None, 5)),
                None if b"-1\r\n".starts_with(&rest[1..]) => Err(NoHeader::Short(5)),
                _ => Err(MALFORMED),
            };
        }
        b'?' => return Err(NoHeader::Desync("streamed reply")),
        _ => {}
    }
    let mut value = 0;
    let mut at = 1;
    while let Some(digit @ b'0'..=b'9') = rest.get(at).copied() {
        if at > LENGTH_DIGITS || (at == 2 && rest[1] == b'0') {
            return Err(MALFORMED);
        }
        value = value * 10 + u64::from(digit - b'0');
        at += 1;
    }
    match rest[at..] {
        [b'\r', b'\n', ..] if at > 1 => Ok((Some(value), at + 2)),
        [] | [b'\r'] if at > 1 => Err(NoHeader::Short(at + 2)),
        _ => Err(MALFORMED),
    }
}

/// The length of the line at the start of `rest` with its CRLF. A CR or an LF alone does not end it.
fn line(rest: &[u8], searched: &mut usize, max: usize) -> Result<usize, NoHeader> {
    const TOO_LONG: NoHeader = NoHeader::Desync("reply line too long");
    let mut from = (*searched).max(1).min(rest.len());
    while let Some(offset) = memchr(b'\r', &rest[from..]) {
        from += offset;
        match rest.get(from + 1) {
            Some(b'\n') if from <= max => return Ok(from + 2),
            Some(b'\n') => return Err(TOO_LONG),
            Some(_) => from += 1,
            None => {
                *searched = from;
                return if from > max { Err(TOO_LONG) } else { Err(NoHeader::Short(from + 2)) };
            }
        }
    }
    *searched = rest.len();
    if rest.len() > max { Err(TOO_LONG) } else { Err(NoHeader::Short((rest.len() + 1).max(3))) }
}

/// Whether `text` is valid in a one-line value of this kind.
fn scalar(kind: u8, text: &[u8]) -> bool {
    match kind {
        b'_' => text.is_empty(),
        b'#' => matches!(text, b"t" | b"f"),
        b',' => !text.is_empty(),
        _ => {
            let digits = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
            (1..=20).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
        }
    }
}

/// What stands behind any attributes at the start of `rest`, which is made of whole values.
pub(super) fn described(mut rest: &[u8]) -> Option<&[u8]> {
    let mut scanner = ReplyScanner::default();
    while rest.first() == Some(&b'|') {
        let Ok(ValueHeader::Attribute { count, len }) = head(rest, &mut 0) else { return None };
        rest = rest.get(len..)?;
        for _ in 0..count {
            let ReplyScan::Frame { len, .. } = scanner.scan(rest) else { return None };
            rest = rest.get(len..)?;
        }
    }
    Some(rest)
}

/// Byte range of element `i` of an array, push, set or map (keys and values counted), with any attribute
/// before it. `None` if the reply is no aggregate or has no such element. Walks over the elements before.
pub fn element(reply: &[u8], i: usize) -> Option<Range<usize>> {
    elements(reply).nth(i)
}

/// The byte ranges of all elements, as [`element`] returns them, in one pass. Empty if it is no aggregate.
pub fn elements(reply: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let opened = described(reply).and_then(|rest| match head(rest, &mut 0) {
        Ok(ValueHeader::Elements { count, len }) => Some((count, rest.get(len..)?)),
        _ => None,
    });
    let (count, rest) = opened.unwrap_or((0, &[]));
    let (mut scanner, mut at) = (ReplyScanner::default(), reply.len() - rest.len());
    (0..count).map_while(move |_| {
        let ReplyScan::Frame { len, .. } = scanner.scan(&reply[at..]) else { return None };
        at += len;
        Some(at - len..at)
    })
}

/// The length of the first of whole values that stand behind each other.
pub fn first_len(values: &[u8]) -> Option<usize> {
    if let ReplyScan::Frame { len, .. } = ReplyScanner::default().scan(values) { Some(len) } else { None }
}

/// The text of a string (a verbatim one without its format), a status, an error or a one-line scalar,
/// without type byte and ends. None for an aggregate and for null.
pub fn text(reply: &[u8]) -> Option<&[u8]> {
    let rest = described(reply)?;
    let Ok(ValueHeader::Leaf(len)) = head(rest, &mut 0) else { return None };
    rest.get(leaf_text(&rest[..len])?)
}

/// The range of the text of a whole value without elements. `None` for null.
pub(super) fn leaf_text(leaf: &[u8]) -> Option<Range<usize>> {
    let body = match leaf.first()? {
        b'+' | b'-' | b':' | b',' | b'(' | b'#' => 1,
        kind @ (b'$' | b'=' | b'!') => {
            let Ok((Some(_), header)) = length(leaf) else { return None };
            if *kind == b'=' { header + 4 } else { header }
        }
        _ => return None,
    };
    Some(body..leaf.len().checked_sub(2)?)
}

/// Whether the reply is an error.
#[inline]
pub fn is_error(reply: &[u8]) -> bool {
    reply.first() == Some(&b'-')
}

/// The first word of an error, which says of what kind it is. None for any other reply.
#[inline]
pub fn error_code(reply: &[u8]) -> Option<&[u8]> {
    let line = reply.strip_prefix(b"-")?;
    line.split(|byte| matches!(byte, b' ' | b'\r')).next()
}

/// The words of an error, for a log or for another error. None for any other reply.
pub fn error_text(reply: &[u8]) -> Option<String> {
    let line = reply.strip_prefix(b"-")?;
    Some(String::from_utf8_lossy(line).trim_end().to_owned())
}

/// Whether the reply is one of the three nulls.
pub fn is_null(reply: &[u8]) -> bool {
    matches!(described(reply), Some(b"$-1\r\n" | b"*-1\r\n" | b"_\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(bytes: &[u8]) -> ReplyScan {
        ReplyScanner::default().scan(bytes)
    }

    #[test]
    fn every_type_is_one_frame() {
        let lines = [
            "+OK", "+", "-ERR x", ":-1", ":+1", "$-1", "*0", "*-1", "_", "#t", "#f", ",1.5", ",inf", "(",
            "%0",
        ];
        let longer = [
            "(-123456789012345678901234567890\r\n",
            "(not  a number\r\n",
            "$0\r\n\r\n",
            "$3\r\na\r\n\r\n",
            "*2\r\n:1\r\n*1\r\n$1\r\na\r\n",
            "!5\r\nERR x\r\n",
            "=6\r\ntxt:ab\r\n",
            "%2\r\n+a\r\n:1\r\n+b\r\n*0\r\n",
            "~1\r\n:1\r\n",
            ">2\r\n+message\r\n$1\r\nx\r\n",
        ];
        for reply in lines.map(|line| format!("{line}\r\n")).into_iter().chain(longer.map(String::from)) {
            let frame = ReplyScan::Frame { len: reply.len(), kind: reply.as_bytes()[0] };
            assert_eq!(scan(reply.as_bytes()), frame, "{reply:?}");
            assert_eq!(scan(format!("{reply}junk").as_bytes()), frame, "{reply:?}");
            for end in 0..reply.len() {
                let short = scan(&reply.as_bytes()[..end]);
                let ReplyScan::NeedMore { at_least } = short else { panic!("{reply:?} {end} {short:?}") };
                assert!((end + 1..=reply.len()).contains(&at_least), "{reply:?} {end} {at_least}");
            }
        }
    }

    #[test]
    fn an_attribute_belongs_to_the_value_behind_it() {
        let reply = b"|1\r\n+ttl\r\n:3600\r\n$1\r\na\r\n";
        assert_eq!(scan(reply), ReplyScan::Frame { len: reply.len(), kind: b'$' });
        assert_eq!(text(reply), Some(&b"a"[..]));
        let reply = b"|0\r\n|1\r\n+a\r\n|1\r\n+b\r\n*0\r\n_\r\n*2\r\n|1\r\n+c\r\n:1\r\n:2\r\n:3\r\n";
        assert_eq!(scan(reply), ReplyScan::Frame { len: reply.len(), kind: b'*' });
        assert_eq!(elements(reply).count(), 2);
        assert_eq!(element(reply, 0).map(|range| &reply[range]), Some(&b"|1\r\n+c\r\n:1\r\n:2\r\n"[..]));
        assert_eq!(element(reply, 1).map(|range| &reply[range]), Some(&b":3\r\n"[..]));
        assert!(is_null(b"|1\r\n+a\r\n:1\r\n_\r\n"));
    }

    #[test]
    fn what_redis_would_not_send_is_a_desync() {
        let wrong = [
            "\r\n", "x", ".\r\n", "$?\r\n", "*?\r\n", "$+1", "$01\r\n", "$-2\r\n", "*-0\r\n", "$\r\n",
            "%-1\r\n", "~-1\r\n", ">-1\r\n", "|-1\r\n", "=-1\r\n", "!-1\r\n", "$1\rx", ":\r\n", ":1a\r\n",
            "_x\r\n", "#1\r\n", ",\r\n", "*1\r\n?",
        ];
        let longer = [
            "PING\r\n",
            "=3\r\nabc\r\n",
            "$1\r\nabc",
            "$4294967297\r\n",
            "*1099511627777\r\n",
            "%549755813889\r\n",
            "*99999999999999",
            ":123456789012345678901\r\n",
        ];
        for reply in wrong.into_iter().chain(longer) {
            let mut scanner = ReplyScanner::default();
            assert!(matches!(scanner.scan(reply.as_bytes()), ReplyScan::Desync(_)), "{reply:?}");
            assert!(matches!(scanner.scan(reply.as_bytes()), ReplyScan::Desync(_)), "{reply:?} again");
        }
        assert!(matches!(scan(b"$4294967296\r\n"), ReplyScan::NeedMore { .. }));
        assert!(matches!(scan(b"*1099511627776\r\n"), ReplyScan::NeedMore { .. }));
    }

    #[test]
    fn lines_may_be_long_but_not_endless() {
        let text = |kind: &str, len: usize| [kind, &"1".repeat(len), "\r\n"].concat().into_bytes();
        for kind in ["-", "+", "("] {
            assert!(matches!(scan(&text(kind, 3_000_000)), ReplyScan::Frame { .. }));
        }
        let reply = text(",", LINE_MAX);
        assert_eq!(scan(&reply), ReplyScan::Desync("reply line too long"));
        assert_eq!(scan(&reply[..LINE_MAX + 1]), ReplyScan::Desync("reply line too long"));
        // The bound of texts would take half a gigabyte to reach.
        assert!(line(&text("+", 9), &mut 0, 10).is_ok());
        assert!(matches!(line(&text("+", 10), &mut 0, 10), Err(NoHeader::Desync(_))));
        let lone = b"+a\rb\nc\r\r\n";
        assert_eq!(scan(lone), ReplyScan::Frame { len: lone.len(), kind: b'+' });
    }

    #[test]
    fn depth_is_bounded_and_counted_by_enclosure() {
        let nested = |depth: usize| [&b"*1\r\n".repeat(depth)[..], b":1\r\n"].concat();
        assert!(matches!(scan(&nested(REPLY_DEPTH)), ReplyScan::Frame { .. }));
        assert_eq!(scan(&nested(REPLY_DEPTH + 1)), ReplyScan::Desync("reply nested too deep"));
        let wide = [&b"*300\r\n"[..], &b"*1\r\n*1\r\n:1\r\n".repeat(300)].concat();
        assert_eq!(scan(&wide), ReplyScan::Frame { len: wide.len(), kind: b'*' });
        assert_eq!(element(&nested(200_000), 0), None);
    }

    #[test]
    fn a_deep_reply_leaves_little_heap() {
        let mut scanner = ReplyScanner::default();
        let deep = [&b"*2\r\n".repeat(REPLY_DEPTH)[..], &b":1\r\n".repeat(REPLY_DEPTH + 1)].concat();
        assert_eq!(scanner.scan(&deep), ReplyScan::Frame { len: deep.len(), kind: b'*' });
        assert!(scanner.outer.capacity() <= OUTER_KEPT);
    }

    /// Takes the reply at the start of `bytes` in parts, which come `size` at a time. Returns it, and what is behind it.
    fn in_parts(bytes: &[u8], size: usize) -> Result<(Vec<u8>, Vec<u8>), &'static str> {
        let (mut scanner, mut taken, mut held) = (ReplyScanner::default(), Vec::new(), Vec::new());
        for (index, chunk) in bytes.chunks(size).enumerate() {
            held.extend_from_slice(chunk);
            if index == 0 {
                match scanner.scan(&held) {
                    ReplyScan::NeedMore { .. } => {}
                    ReplyScan::Frame { len, .. } => {
                        return Ok((bytes[..len].to_vec(), bytes[len..].to_vec()));
                    }
                    ReplyScan::Desync(why) => return Err(why),
                }
            }
            let Part { len, is_last } = scanner.next_part(&held)?;
            taken.extend(held.drain(..len));
            if is_last {
                assert!(scanner.is_idle(), "and is ready for the next");
                held.extend_from_slice(bytes.get((index + 1) * size..).unwrap_or_default());
                return Ok((taken, held));
            }
            assert!(!scanner.is_idle() && held.len() < 40, "little is kept: {}", held.escape_ascii());
        }
        panic!("it does not end: {}", bytes.escape_ascii())
    }

    #[test]
    fn a_reply_in_parts_is_the_same_however_it_is_cut() {
        let replies = [
            &b"$11\r\nhello world\r\n"[..],
            b"$0\r\n\r\n",
            b"$4\r\n\r\n\r\n\r\n",
            b"+a\rb\nc\r\r\n",
            b"-ERR x\r\n",
            b"(1234567890\r\n",
            b"*3\r\n$3\r\nabc\r\n*2\r\n:1\r\n+OK\r\n$-1\r\n",
            b"*0\r\n",
            b"%2\r\n+a\r\n:1\r\n$1\r\nb\r\n~1\r\n#t\r\n",
            b"=8\r\ntxt:abcd\r\n",
            b"*1\r\n|1\r\n+ttl\r\n:3600\r\n$1\r\na\r\n",
        ];
        for reply in replies {
            let sent = [reply, b"+next\r\n"].concat();
            for size in 1..=sent.len() {
                let (taken, behind) = in_parts(&sent, size).expect("a reply");
                assert_eq!((&taken[..], &behind[..]), (reply, &b"+next\r\n"[..]), "{size} bytes at a time");
            }
        }
        let wrong =
            [&b"$3\r\nabcd\r\n"[..], b"$3\r\nabc\rx", b"*2\r\n$1\r\na\r\n?", b"*2\r\n$1\r\na\r\n:x\r\n"];
        for reply in wrong {
            for size in 1..=reply.len() {
                assert!(in_parts(reply, size).is_err(), "{} {size}", reply.escape_ascii());
            }
        }
    }

    #[test]
    fn missing_elements_are_announced_at_their_least() {
        let least = |bytes: &[u8]| match scan(bytes) {
            ReplyScan::NeedMore { at_least } => at_least,
            other => panic!("{other:?}"),
        };
        assert_eq!(least(b"*1000\r\n"), 7 + 3000);
        assert_eq!(least(b"*1000\r\n:1\r\n%500\r\n$100\r\n"), 7 + 4 + 6 + 6 + 102 + 3 * (998 + 999));
        assert!(least(b"*1099511627776\r\n") > 3 << 40);
    }

    #[test]
    fn a_flat_reply_takes_no_heap() {
        let mut scanner = ReplyScanner::default();
        assert!(matches!(scanner.scan(b"*3\r\n:1\r\n:2\r\n:3\r\n"), ReplyScan::Frame { .. }));
        assert_eq!(scanner.outer.capacity(), 0);
        assert!(matches!(scanner.scan(b"*2\r\n*1\r\n"), ReplyScan::NeedMore { .. }));
        scanner.reset();
        assert!(matches!(scanner.scan(b"+OK\r\n"), ReplyScan::Frame { len: 5, .. }));
    }

    #[test]
    fn looking_into_replies() {
        let reply = b"*3\r\n$7\r\nmessage\r\n*2\r\n:1\r\n:2\r\n$-1\r\n";
        let part = |i| element(reply, i).map(|range| &reply[range]);
        assert_eq!(elements(reply).count(), 3);
        assert_eq!(part(0), Some(&b"$7\r\nmessage\r\n"[..]));
        assert_eq!(part(1), Some(&b"*2\r\n:1\r\n:2\r\n"[..]));
        assert!(part(2).is_some_and(is_null));
        assert_eq!(part(3), None);
        assert_eq!(elements(b"%2\r\n+a\r\n:1\r\n+b\r\n:2\r\n").count(), 4);
        for none in [&b"+OK\r\n"[..], b"*-1\r\n", b"_\r\n", b"", b"*1\r\n"] {
            assert_eq!(element(none, 0), None);
        }
        assert_eq!(elements(b"*5\r\n:1\r\n").count(), 1, "the others have not come");
        assert_eq!(text(b"-ERR x\r\n"), Some(&b"ERR x"[..]));
        assert_eq!(text(b":12\r\n"), Some(&b"12"[..]));
        assert_eq!(text(b"$2\r\nab\r\n"), Some(&b"ab"[..]));
        assert_eq!(text(b"=6\r\ntxt:ab\r\n"), Some(&b"ab"[..]));
        for none in [&b"$-1\r\n"[..], b"_\r\n", b"*0\r\n", b"$2\r\nab", b"", b"x"] {
            assert_eq!(text(none), None);
        }
    }
}
