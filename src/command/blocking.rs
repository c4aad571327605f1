//! The arguments of blocking requests: where BLOCK stands, what the timeout says, who waits for the same
//! thing, and the same request with less time left. Pure functions over a request.

use super::classify::{Blocking, TimeoutUnit};
use super::facts::{AtOnceArgs, Facts, Popped, Waits};
use crate::resp::{Request, encode};

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

/// Names what a blocking request waits for: the request without its timeout, the command in lower case.
/// Requests with equal names wait for the same thing.
pub fn blocking_group(request: &Request<'_>, blocking: &Blocking) -> Box<[u8]> {
    let mut group = Vec::with_capacity(request.bytes.len() + 16);
    for (index, arg) in request.args().enumerate() {
        if index == blocking.timeout {
            continue;
        }
        encode::bulk(&mut group, arg);
        if index == 0 {
            let start = group.len() - arg.len() - 2;
            group[start..].make_ascii_lowercase();
        }
    }
    group.into_boxed_slice()
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

/// Appends the request with `remaining_ms` as its timeout. Never writes 0, which would mean for ever.
pub fn with_timeout(request: &Request<'_>, blocking: &Blocking, remaining_ms: u64, out: &mut Vec<u8>) {
    let remaining_ms = remaining_ms.max(1);
    let timeout = match blocking.unit {
        TimeoutUnit::Seconds => format!("{}.{:03}", remaining_ms / 1000, remaining_ms % 1000),
        TimeoutUnit::Millis => remaining_ms.to_string(),
    };
    let replaced = |(index, arg)| if index == blocking.timeout { timeout.as_bytes() } else { arg };
    encode::request_of(out, request.args().enumerate().map(replaced));
}

/// The command that does at once what the blocking command `name` does where there is something to take; its
/// arguments, the name aside, and what its reply is. None where that is not known.
pub fn at_once(
    name: &str,
    request: &Request<'_>,
    blocking: &Blocking,
) -> Option<(&'static str, Vec<Vec<u8>>, Popped)> {
    let Waits { name, args, popped, .. } = Facts::of_name(name).waits?;
    let mut blocks = blocks(|index| request.get(index)).peekable();
    let mut is_left_out = |index: usize| match args {
        AtOnceArgs::NoBlock => {
            while blocks.next_if(|block| block + 1 < index).is_some() {}
            blocks.peek().is_some_and(|block| (*block..=block + 1).contains(&index))
        }
        AtOnceArgs::NoTimeout | AtOnceArgs::CountedKeys(_) => index == blocking.timeout,
    };
    let rest = request.args().enumerate().skip(1).filter(|(index, _)| !is_left_out(*index));
    let mut words: Vec<Vec<u8>> = rest.map(|(_, arg)| arg.to_vec()).collect();
    if let AtOnceArgs::CountedKeys(end) = args {
        words.insert(0, words.len().to_string().into_bytes());
        words.push(end.into());
    }
    Some((name, words, popped))
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
    fn what_blocks_can_be_asked_at_once() {
        let asked = |words: &str| {
            let args: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
            with_request(&args, |request| {
                let seconds_at = |timeout| Blocking { timeout, unit: TimeoutUnit::Seconds };
                let name = words.split(' ').next().unwrap();
                let blocking = match name {
                    "blmpop" | "bzmpop" => seconds_at(1),
                    "xread" | "xreadgroup" => stream_block(|index| request.get(index)).unwrap(),
                    _ => seconds_at(args.len() - 1),
                };
                let (name, args, _) = at_once(name, request, &blocking)?;
                Some(format!("{name} {}", String::from_utf8_lossy(&args.join(&b' '))))
            })
        };
        for (words, expected) in [
            ("blpop a b 1", "lmpop 2 a b LEFT"),
            ("brpop a 1", "lmpop 1 a RIGHT"),
            ("bzpopmin a b 1", "zmpop 2 a b MIN"),
            ("bzpopmax a 1", "zmpop 1 a MAX"),
            ("blmove a b left right 1", "lmove a b left right"),
            ("brpoplpush a b 1", "rpoplpush a b"),
            ("blmpop 1 2 a b left count 3", "lmpop 2 a b left count 3"),
            ("bzmpop 1 1 a min", "zmpop 1 a min"),
            ("xread count 1 block 5 block 6 streams block 0", "xread count 1 streams block 0"),
            (
                "xreadgroup group block c block 1 noack streams s >",
                "xreadgroup group block c noack streams s >",
            ),
        ] {
            assert_eq!(asked(words).as_deref(), Some(expected));
        }
        assert_eq!(asked("ts.wait a 1"), None);
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

    #[test]
    fn a_shorter_timeout_changes_nothing_else() {
        let blocking = Blocking { timeout: 2, unit: TimeoutUnit::Seconds };
        let mut out = Vec::new();
        with_request(&[b"BLPOP", b"k", b"10"], |request| with_timeout(request, &blocking, 1234, &mut out));
        assert_eq!(out, b"*3\r\n$5\r\nBLPOP\r\n$1\r\nk\r\n$5\r\n1.234\r\n");
        out.clear();
        let blocking = Blocking { timeout: 2, unit: TimeoutUnit::Millis };
        with_request(&[b"XREAD", b"BLOCK", b"10"], |request| with_timeout(request, &blocking, 0, &mut out));
        assert_eq!(out, b"*3\r\n$5\r\nXREAD\r\n$5\r\nBLOCK\r\n$1\r\n1\r\n");
    }

    #[test]
    fn a_group_is_command_and_keys() {
        let blocking = Blocking { timeout: 2, unit: TimeoutUnit::Seconds };
        let group = |args: &[&[u8]]| with_request(args, |request| blocking_group(request, &blocking));
        assert_eq!(group(&[b"BLPOP", b"k", b"1"]), group(&[b"blpop", b"k", b"2"]));
        assert_ne!(group(&[b"BLPOP", b"k", b"1"]), group(&[b"BLPOP", b"K", b"1"]));
        assert_ne!(group(&[b"BLPOP", b"k", b"1"]), group(&[b"BRPOP", b"k", b"1"]));
    }
}
