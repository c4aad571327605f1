//! Requests as the model Redis reads them: only the canonical form ever reaches a server.

use super::broken;
use super::ledger::Nonce;

pub(super) type Argv = Vec<Vec<u8>>;

/// The first request in `bytes` and its length. Only the canonical form ever reaches a server.
pub(super) fn take_request(bytes: &[u8]) -> Option<(Argv, usize)> {
    let mut at = 0;
    let count = header(bytes, &mut at, b'*')?;
    let mut argv = Vec::with_capacity(count);
    for _ in 0..count {
        let len = header(bytes, &mut at, b'$')?;
        let argument = bytes.get(at..at + len)?;
        let end = bytes.get(at + len..at + len + 2)?;
        if end != b"\r\n" {
            broken!(3, "not canonical: {}", bytes.escape_ascii());
        }
        argv.push(argument.to_vec());
        at += len + 2;
    }
    Some((argv, at))
}

fn header(bytes: &[u8], at: &mut usize, kind: u8) -> Option<usize> {
    let rest = &bytes[*at..];
    let first = *rest.first()?;
    let end = rest.iter().position(|byte| *byte == b'\n');
    let digits = &rest[1..end.unwrap_or(rest.len())];
    let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
    let canonical =
        digits.iter().all(u8::is_ascii_digit) && (digits.first() != Some(&b'0') || digits.len() == 1);
    if first != kind || !canonical || digits.len() > 9 {
        broken!(3, "not canonical: {}", bytes.escape_ascii());
    }
    *at += end? + 1;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Lower-case name, with the subcommand of a container.
pub(super) fn full_name(argv: &[Vec<u8>]) -> String {
    let lower = |arg: &Vec<u8>| String::from_utf8_lossy(arg).to_ascii_lowercase();
    let name = argv.first().map(lower).unwrap_or_default();
    let containers = ["client", "acl", "config", "pubsub", "script", "function", "command"];
    match argv.get(1) {
        Some(sub) if containers.contains(&name.as_str()) => format!("{name}|{}", lower(sub)),
        _ => name,
    }
}

pub(super) fn shown(argv: &[Vec<u8>]) -> String {
    argv.iter().map(|arg| String::from_utf8_lossy(arg)).collect::<Vec<_>>().join(" ")
}

/// The nonce among the arguments: the first or the last.
pub(super) fn nonce_in(argv: &[Vec<u8>]) -> Option<Nonce> {
    Nonce::of(argv.get(1)?).or_else(|| Nonce::of(argv.last()?))
}
