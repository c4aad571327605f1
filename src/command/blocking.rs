//! The arguments of blocking requests: where BLOCK stands, what the timeout says, who waits for the same
//! thing, and the same request with less time left. Pure functions over a request.

use super::classify::{Blocking, TimeoutUnit};
use crate::resp::{Request, encode};
use std::sync::Arc;

/// What stands where the server reads options of XREAD and XREADGROUP, and how many words each takes, itself included.
const OPTIONS: [(&[u8], usize); 5] = [(BLOCK, 2), (b"count", 2), (b"claim", 2), (b"group", 3), (STREAMS, 0)];
const BLOCK: &[u8] = b"block";
/// The end of the options: after that a stream may be named BLOCK, and so may a group.
const STREAMS: &[u8] = b"streams";

/// Where the server reads the option BLOCK in a request whose words are `word`.
fn blocks<'w>(word: impl Fn(usize) -> Option<&'w [u8]>) -> impl Iterator<Item = usize> {
    let mut next = 1;
    let options = std::iter::from_fn(move || {
        let index = next;
        // The server compares options as C strings.
        let typed = word(index)?.split(|&byte| byte == 0).next()?;
        let option = OPTIONS.into_iter().find(|(name, _)| typed.eq_ignore_ascii_case(name));
        let (name, words) = option.unwrap_or((b"", 1));
        next += words;
        (name != STREAMS).then_some((index, name))
    });
    options.filter(|(_, name)| *name == BLOCK).map(|(index, _)| index)
}

/// The timeout of an XREAD or XREADGROUP whose words are `word`, if BLOCK is among the options.
pub(super) fn stream_block<'w>(word: impl Fn(usize) -> Option<&'w [u8]>) -> Option<Blocking> {
    // The last one wins in the server, too; one without a value is a syntax error there.
    let last = blocks(&word).filter(|block| word(block + 1).is_some()).last()?;
    Some(Blocking { timeout: last + 1, unit: TimeoutUnit::Millis })
}

/// A blocking request but for its timeout. Two of them are equal if every byte is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WaitRequest {
    /// As it is written, the timeout left out.
    bytes: Arc<[u8]>,
    /// Where in these the timeout stands.
    timeout_at: usize,
    unit: TimeoutUnit,
}

impl WaitRequest {
    /// What the request waits for.
    pub fn of(request: &Request<'_>, blocking: &Blocking) -> Self {
        let (mut bytes, mut timeout_at) = (Vec::with_capacity(request.bytes.len()), 0);
        encode::array_header(&mut bytes, request.argc());
        for (index, arg) in request.args().enumerate() {
            if index == blocking.timeout {
                timeout_at = bytes.len();
            } else {
                encode::bulk(&mut bytes, arg);
            }
        }
        WaitRequest { bytes: bytes.into(), timeout_at, unit: blocking.unit }
    }

    /// Whether a waiter has to ask for itself: what it waits for depends on when, or as whom, it asks.
    pub fn is_alone(&self) -> bool {
        self.unit == TimeoutUnit::Millis
    }

    /// Appends the request with so many milliseconds as its timeout, at least one; none is for ever.
    pub fn append(&self, timeout_ms: Option<u64>, out: &mut Vec<u8>) {
        let ms = timeout_ms.map(|ms| ms.max(1));
        let text = match (ms, self.unit) {
            (None, _) => "0".to_owned(),
            (Some(ms), TimeoutUnit::Seconds) => format!("{}.{:03}", ms / 1000, ms % 1000),
            (Some(ms), TimeoutUnit::Millis) => ms.to_string(),
        };
        out.extend_from_slice(&self.bytes[..self.timeout_at]);
        encode::bulk(out, text.as_bytes());
        out.extend_from_slice(&self.bytes[self.timeout_at..]);
    }

    /// Heap bytes.
    pub fn footprint(&self) -> usize {
        self.bytes.len()
    }
}

/// The request's timeout in milliseconds as the server reads it; `Some(0)` is for ever, `None` is what
/// the server answers at once with an error.
pub fn timeout_ms(request: &Request<'_>, blocking: &Blocking) -> Option<u64> {
    let text = request.arg(blocking.timeout);
    match blocking.unit {
        TimeoutUnit::Seconds => seconds_to_ms(text),
        TimeoutUnit::Millis => canonical_ms(text),
    }
}

/// A signed 64-bit integer in its only accepted spelling: no plus, no blank, no leading zero.
fn canonical_ms(text: &[u8]) -> Option<u64> {
    let value: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (value.to_string().as_bytes() == text).then_some(value)?.try_into().ok()
}

/// What `strtold` takes as a whole, rounded up to a millisecond.
fn seconds_to_ms(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    // A second sign would get past `parse`.
    if digits.starts_with(['-', '+']) {
        return None;
    }
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let value = match hex {
        Some(hex) => hex_float(hex)?,
        None => digits.parse().ok().filter(|value: &f64| value.is_finite())?,
    };
    let ms = (value * 1000.0).ceil();
    if text.starts_with('-') {
        // -0.0001 s rounds up to 0 in the server and so waits for ever.
        return (value * 1000.0 < 1.0).then_some(0);
    }
    if ms >= i64::MAX as f64 {
        return None;
    }
    // Below the range of f64, not of long double: short, not for ever.
    let underflowed = ms == 0.0 && has_nonzero_digit(hex.unwrap_or(digits), hex.is_some());
    Some(if underflowed { 1 } else { ms as u64 })
}

fn has_nonzero_digit(digits: &str, hex: bool) -> bool {
    let exponent: &[char] = if hex { &['p', 'P'] } else { &['e', 'E'] };
    digits.split(exponent).next().is_some_and(|mantissa| mantissa.bytes().any(|b| b != b'0' && b != b'.'))
}

/// The part of a C hexadecimal float after `0x`.
fn hex_float(text: &str) -> Option<f64> {
    let (mantissa, exponent) = match text.split_once(['p', 'P']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?.clamp(-100_000, 100_000)),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.len() + fraction.len() == 0 {
        return None;
    }
    let mut value = 0.0;
    for digit in whole.chars().chain(fraction.chars()) {
        value = value * 16.0 + f64::from(digit.to_digit(16)?);
    }
    let scale = exponent.saturating_sub(4 * fraction.len().min(100_000) as i32);
    let value = value * 2f64.powi(scale);
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::with_request;

    fn block_at(words: &str) -> Option<usize> {
        let args: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        stream_block(|index| args.get(index).copied()).map(|blocking| blocking.timeout)
    }

    #[test]
    fn block_counts_only_where_an_option_may_stand() {
        assert_eq!(block_at("xread BLOCK 5 streams a 0"), Some(2));
        assert_eq!(block_at("xread count 1 bLoCk 5 streams a 0"), Some(4));
        assert_eq!(block_at("xread block 5 block 6 streams a 0"), Some(4));
        assert_eq!(block_at("xread block\0x 5 streams a 0"), Some(2));
        assert_eq!(block_at("xreadgroup group block block streams block >"), None);
        assert_eq!(block_at("xreadgroup group block block noack block 1 streams block >"), Some(6));
        assert_eq!(block_at("xread streams block 0"), None);
        assert_eq!(block_at("xread count block streams a 0"), None);
        assert_eq!(block_at("xread count 1 block"), None);
        assert_eq!(block_at("xread nonsense block 1 streams a 0"), Some(3));
    }

    #[test]
    fn timeouts_are_read_as_the_server_reads_them() {
        for (text, expected) in [
            ("0", 0),
            ("1", 1000),
            (".25", 250),
            ("+1.0005", 1001),
            ("1e-400", 1),
            ("0e5", 0),
            ("-0.0001", 0),
            ("-0", 0),
            ("0x1p-9", 2),
            ("0X.1", 63),
            ("0x0", 0),
        ] {
            assert_eq!(seconds_to_ms(text.as_bytes()), Some(expected), "{text:?}");
        }
        for text in ["-1", "0x", "0x1p", "inf", "nan", "1e17", " 1", "1 ", "--1", "+-1", ""] {
            assert_eq!(seconds_to_ms(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(
            [&b"0"[..], b"15", b"015", b"+1", b"-1"].map(canonical_ms),
            [Some(0), Some(15), None, None, None]
        );
    }

    fn waits(args: &[&[u8]], timeout: usize, unit: TimeoutUnit) -> WaitRequest {
        with_request(args, |request| WaitRequest::of(request, &Blocking { timeout, unit }))
    }

    #[test]
    fn another_timeout_changes_nothing_else() {
        let written = |wait: &WaitRequest, timeout_ms| {
            let mut out = Vec::new();
            wait.append(timeout_ms, &mut out);
            String::from_utf8(out).unwrap()
        };
        let last = waits(&[b"BLPOP", b"k", b"10"], 2, TimeoutUnit::Seconds);
        assert_eq!(written(&last, Some(1234)), "*3\r\n$5\r\nBLPOP\r\n$1\r\nk\r\n$5\r\n1.234\r\n");
        assert_eq!(written(&last, None), "*3\r\n$5\r\nBLPOP\r\n$1\r\nk\r\n$1\r\n0\r\n");
        let first = waits(&[b"BZMPOP", b"1", b"1", b"k", b"min"], 1, TimeoutUnit::Seconds);
        let rest = "$1\r\n1\r\n$1\r\nk\r\n$3\r\nmin\r\n";
        // Never 0, which would mean for ever.
        assert_eq!(written(&first, Some(0)), format!("*5\r\n$6\r\nBZMPOP\r\n$5\r\n0.001\r\n{rest}"));
        let stream = waits(&[b"XREAD", b"BLOCK", b"10"], 2, TimeoutUnit::Millis);
        assert_eq!(written(&stream, Some(7)), "*3\r\n$5\r\nXREAD\r\n$5\r\nBLOCK\r\n$1\r\n7\r\n");
    }

    #[test]
    fn waits_are_equal_if_every_byte_but_the_timeout_is() {
        let wait = |args: &[&[u8]]| waits(args, args.len() - 1, TimeoutUnit::Seconds);
        assert_eq!(wait(&[b"BLPOP", b"k", b"1"]), wait(&[b"BLPOP", b"k", b"22"]));
        for other in [&[&b"blpop"[..], b"k", b"1"][..], &[b"BLPOP", b"K", b"1"], &[b"BRPOP", b"k", b"1"]] {
            assert_ne!(wait(&[b"BLPOP", b"k", b"1"]), wait(other));
        }
    }
}
