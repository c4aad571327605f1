//! Replies taken apart the way a careful client would: strictly, and by code that shares nothing with the
//! broker's own scanners, so that a mistake of theirs cannot hide itself.

use std::fmt;

/// One reply, as far as the simulation looks at it.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Simple(Vec<u8>),
    Error(Vec<u8>),
    Int(i64),
    Bulk(Vec<u8>),
    Null,
    Array(Vec<Reply>),
    Map(Vec<Reply>),
    Push(Vec<Reply>),
}

impl Reply {
    pub(super) fn text(&self) -> Option<&[u8]> {
        match self {
            Reply::Bulk(text) | Reply::Simple(text) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Simple(text) => write!(f, "+{}", text.escape_ascii()),
            Reply::Error(text) => write!(f, "-{}", text.escape_ascii()),
            Reply::Int(number) => write!(f, ":{number}"),
            Reply::Bulk(text) => write!(f, "\"{}\"", text.escape_ascii()),
            Reply::Null => f.write_str("null"),
            Reply::Array(parts) => write!(f, "*{parts:?}"),
            Reply::Map(parts) => write!(f, "%{parts:?}"),
            Reply::Push(parts) => write!(f, ">{parts:?}"),
        }
    }
}

/// The first reply in `bytes` and how long it is; `Ok(None)` while it is not whole.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Reply, usize)>, String> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let line = &bytes[1..end];
    let after = end + 2;
    let text = || line.to_vec();
    let whole = |reply| Ok(Some((reply, after)));
    match bytes[0] {
        b'+' => whole(Reply::Simple(text())),
        b'-' => whole(Reply::Error(text())),
        b':' => whole(Reply::Int(number(line)?)),
        b'_' => whole(Reply::Null),
        b'$' | b'=' => match number(line)? {
            -1 => whole(Reply::Null),
            count => bulk(bytes, after, count),
        },
        b'*' if line == b"-1" => whole(Reply::Null),
        b'*' => several(bytes, after, number(line)?, Reply::Array),
        b'%' => several(bytes, after, number(line)? * 2, Reply::Map),
        b'>' => several(bytes, after, number(line)?, Reply::Push),
        other => Err(format!("type byte {:?}", char::from(other))),
    }
}

fn number(line: &[u8]) -> Result<i64, String> {
    let text = std::str::from_utf8(line).map_err(|error| error.to_string())?;
    text.parse().map_err(|_| format!("not a number: {text:?}"))
}

fn bulk(bytes: &[u8], at: usize, count: i64) -> Result<Option<(Reply, usize)>, String> {
    let end = at + count as usize;
    match bytes.get(end..end + 2) {
        None => Ok(None),
        Some(b"\r\n") => Ok(Some((Reply::Bulk(bytes[at..end].to_vec()), end + 2))),
        Some(_) => Err("a bulk that does not end".into()),
    }
}

fn several(
    bytes: &[u8],
    mut at: usize,
    count: i64,
    make: fn(Vec<Reply>) -> Reply,
) -> Result<Option<(Reply, usize)>, String> {
    let mut elements = Vec::new();
    for _ in 0..count {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some((element, len)) = (if rest.is_empty() { None } else { parse(rest)? }) else {
            return Ok(None);
        };
        elements.push(element);
        at += len;
    }
    Ok(Some((make(elements), at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_taken_apart() {
        let bytes = b"*3\r\n$2\r\nab\r\n:7\r\n%1\r\n+k\r\n_\r\n-ERR x\r\n";
        let (reply, len) = parse(bytes).expect("valid").expect("whole");
        let map = Reply::Map(vec![Reply::Simple(b"k".to_vec()), Reply::Null]);
        assert_eq!(reply, Reply::Array(vec![Reply::Bulk(b"ab".to_vec()), Reply::Int(7), map]));
        assert_eq!(parse(&bytes[len..]), Ok(Some((Reply::Error(b"ERR x".to_vec()), 8))));
        for cut in 0..len {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
        assert!(parse(b"?\r\n").is_err());
    }
}
