//! When two replies are the same although their bytes are not: identities, addresses, times, random picks, and
//! the order of what has none. Everything else must be equal byte for byte. Owns the list of such commands.

use super::frames::Frame;
use crate::support::redis::{is_before_7, release};

/// How the replies of a command are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    Exact,
    /// The order of the elements is by hash.
    Unordered,
    /// The same, and of whatever they hold.
    DeepUnordered,
    /// Keys and values alternate, in RESP2 without saying so.
    Pairs,
    /// Types and sizes are equal, what is in them is by chance.
    Shape,
    /// Only what kind of reply it is.
    Kind,
    /// Integers that may differ by so much.
    Near(i64),
    /// An array of such.
    EachNear(i64),
    /// A cursor and elements; comparable where nothing is left to scan.
    Scan(bool),
    /// Replication offsets. Since Redis 7.2 they grow without a replica, and what the broker does in a MULTI of its own
    /// has that propagated.
    Offsets,
    /// HELLO: what follows `id`.
    Id,
    /// CLIENT's lines: what a client has chosen and is doing.
    Clients,
    /// What follows these names, and the third of four in a row of pending entries, are times.
    Times,
    /// Zero or not: what a script publishes is counted by connections, and those of a broker are few.
    Some,
}

/// Whether subscribers share an upstream connection, so that scripts count them differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sharing {
    pub(crate) pubsub: bool,
}

/// Whether two replies to a command are the same.
pub(crate) fn same(argv: &[Vec<u8>], direct: &Frame, broker: &Frame, sharing: Sharing) -> bool {
    if direct == broker {
        return true;
    }
    if direct.is_error() || broker.is_error() {
        return false;
    }
    let (direct, broker) = (without_ids(direct), without_ids(broker));
    match rule(argv, sharing) {
        Rule::Exact => direct == broker,
        Rule::Unordered => sorted(&direct) == sorted(&broker),
        Rule::DeepUnordered => deeply_sorted(&direct) == deeply_sorted(&broker),
        Rule::Pairs => paired(&direct) == paired(&broker),
        Rule::Shape => shape(&direct) == shape(&broker),
        Rule::Kind => (direct.kind, direct.null) == (broker.kind, broker.null),
        Rule::Near(distance) => near(&direct, &broker, distance),
        Rule::EachNear(distance) => {
            (direct.kind, direct.items.len()) == (broker.kind, broker.items.len())
                && direct.items.iter().zip(&broker.items).all(|(a, b)| a == b || near(a, b, distance))
        }
        // From the beginning, if nothing is left to scan.
        Rule::Scan(pairs) if argv.iter().take(3).any(|arg| arg == b"0") => same_scan(&direct, &broker, pairs),
        Rule::Scan(_) => (direct.kind, direct.items.len()) == (broker.kind, broker.items.len()),
        Rule::Offsets => without_integers(&direct) == without_integers(&broker),
        Rule::Id => without(&direct, &[b"id"]) == without(&broker, &[b"id"]),
        Rule::Clients => clients(&direct) == clients(&broker),
        Rule::Times => timeless(&direct) == timeless(&broker),
        Rule::Some => some(&direct) == some(&broker),
    }
}

fn rule(argv: &[Vec<u8>], sharing: Sharing) -> Rule {
    let upper = |index: usize| argv.get(index).map(|arg| arg.to_ascii_uppercase()).unwrap_or_default();
    let (name, sub) = (upper(0), upper(1));
    let has = |word: &[u8]| argv.iter().any(|arg| arg.eq_ignore_ascii_case(word));
    match (name.as_slice(), sub.as_slice()) {
        (b"SMEMBERS" | b"SINTER" | b"SUNION" | b"SDIFF" | b"HKEYS" | b"HVALS" | b"KEYS", _) => {
            Rule::Unordered
        }
        (b"ACL", b"CAT") | (b"COMMAND", b"LIST") | (b"PUBSUB", b"CHANNELS" | b"SHARDCHANNELS") => {
            Rule::Unordered
        }
        (b"COMMAND", b"" | b"DOCS" | b"INFO") | (b"FUNCTION", b"LIST") => Rule::DeepUnordered,
        (b"HGETALL", _) | (b"CONFIG", b"GET") => Rule::Pairs,
        (b"SRANDMEMBER" | b"HRANDFIELD" | b"ZRANDMEMBER" | b"SPOP", _) => Rule::Shape,
        // The nodes of a vector set have levels by chance.
        (b"VINFO" | b"VRANDMEMBER", _) => Rule::Shape,
        (b"VLINKS", _) => Rule::Kind,
        // Ties are in the order of the set, which has none.
        (b"SORT" | b"SORT_RO", _) if has(b"BY") => Rule::Shape,
        (b"RANDOMKEY" | b"TIME" | b"DUMP" | b"INFO" | b"LOLWUT", _) => Rule::Kind,
        (b"CLIENT", b"INFO") => Rule::Clients,
        (b"CLIENT", b"LIST") if has(b"ID") => Rule::Clients,
        (b"CLIENT", b"ID" | b"LIST") | (b"ACL", b"GENPASS") | (b"FUNCTION", b"DUMP") => Rule::Kind,
        (b"MEMORY", b"STATS" | b"DOCTOR" | b"MALLOC-STATS" | b"USAGE")
        | (b"LATENCY", b"DOCTOR" | b"HISTOGRAM") => Rule::Kind,
        (b"TTL" | b"EXPIRETIME", _) | (b"OBJECT", b"IDLETIME") => Rule::Near(10),
        (b"PTTL" | b"PEXPIRETIME", _) => Rule::Near(10_000),
        (b"HTTL" | b"HEXPIRETIME", _) => Rule::EachNear(10),
        (b"HPTTL" | b"HPEXPIRETIME", _) => Rule::EachNear(10_000),
        (b"ROLE", _) => Rule::Offsets,
        (b"LASTSAVE", _) => Rule::Near(600),
        (b"SCAN" | b"SSCAN", _) => Rule::Scan(false),
        (b"HSCAN" | b"ZSCAN", _) => Rule::Scan(true),
        (b"HELLO", _) => Rule::Id,
        (b"XPENDING", _) | (b"XINFO", _) => Rule::Times,
        (b"EVAL", _) if sharing.pubsub && argv.get(1).is_some_and(|script| script.ends_with(b"ARGV[1])")) => {
            Rule::Some
        }
        _ => Rule::Exact,
    }
}

/// Absence and "no expiry" are no times.
fn near(direct: &Frame, broker: &Frame, distance: i64) -> bool {
    match (direct.int(), broker.int()) {
        (Some(a), Some(b)) => a >= 0 && b >= 0 && a.abs_diff(b) <= distance as u64,
        _ => false,
    }
}

/// Entry ids the server made itself are times.
fn without_ids(frame: &Frame) -> Frame {
    let mut out = frame.clone();
    if out.kind == b'$' && is_made_id(&out.text) {
        out.text = b"<id>".to_vec();
    }
    out.items = out.items.iter().map(without_ids).collect();
    out
}

fn is_made_id(text: &[u8]) -> bool {
    // Milliseconds of this century: 13 digits.
    let Some(dash) = text.iter().position(|byte| *byte == b'-') else { return false };
    dash == 13
        && text[0] == b'1'
        && text.iter().enumerate().all(|(at, byte)| at == dash || byte.is_ascii_digit())
}

fn sorted(frame: &Frame) -> Frame {
    let mut out = frame.clone();
    out.items.sort();
    out
}

fn deeply_sorted(frame: &Frame) -> Frame {
    let items: Vec<Frame> = frame.items.iter().map(deeply_sorted).collect();
    let out = Frame { items, ..frame.clone() };
    if out.kind == b'%' { paired(&out) } else { sorted(&out) }
}

fn paired(frame: &Frame) -> Frame {
    let mut pairs: Vec<Vec<Frame>> = frame.items.chunks(2).map(<[Frame]>::to_vec).collect();
    pairs.sort();
    Frame { items: pairs.into_iter().flatten().collect(), ..frame.clone() }
}

fn shape(frame: &Frame) -> Frame {
    let items = frame.items.iter().map(shape).collect();
    Frame { text: Vec::new(), items, ..frame.clone() }
}

fn same_scan(direct: &Frame, broker: &Frame, pairs: bool) -> bool {
    let ([cursor, found], [other_cursor, other_found]) = (direct.items.as_slice(), broker.items.as_slice())
    else {
        return false;
    };
    if cursor.text != b"0" || other_cursor.text != b"0" {
        return (cursor.kind, found.kind) == (other_cursor.kind, other_found.kind);
    }
    let order = if pairs { paired } else { sorted };
    order(found) == order(other_found)
}

/// Without the values of some names in a map or an array of pairs.
fn without(frame: &Frame, names: &[&[u8]]) -> Frame {
    let mut out = frame.clone();
    for at in 1..out.items.len() {
        if names.contains(&out.items[at - 1].text.as_slice()) {
            out.items[at].text.clear();
        }
    }
    out
}

fn without_integers(frame: &Frame) -> Frame {
    let mut out = frame.clone();
    if out.kind == b':' {
        out.text.clear();
    }
    out.items = out.items.iter().map(without_integers).collect();
    out
}

fn clients(frame: &Frame) -> (u8, Vec<String>) {
    // Not `multi`: while EXEC runs, Redis counts its commands, and a child's have been counted out by then.
    const FIELDS: &[&str] = &["name", "db", "sub", "psub", "ssub", "user", "redir", "resp"];
    // What the broker has more than an old server.
    let newer: &[&str] = if is_before_7() { &["ssub", "resp"] } else { &[] };
    let text = String::from_utf8_lossy(&frame.text).into_owned();
    let chosen = |line: &str| {
        let name = |field: &str| field.split('=').next().unwrap_or_default().to_owned();
        let is_chosen = |name: &str| FIELDS.contains(&name) && !newer.contains(&name);
        let fields = line.split(' ').filter(|field| is_chosen(&name(field)));
        fields.collect::<Vec<_>>().join(" ")
    };
    // Without their ids there is no order that both would have.
    let mut lines: Vec<String> = text.lines().map(chosen).collect();
    lines.sort();
    // Redis and the broker list a client as often as it is named, Valkey once.
    if release().starts_with("valkey-") {
        lines.dedup();
    }
    (frame.kind, lines)
}

fn timeless(frame: &Frame) -> Frame {
    let mut out = without(frame, &[b"idle", b"inactive", b"seen-time", b"active-time", b"pel-time"]);
    let row = &mut out.items;
    // A pending entry: id, consumer, milliseconds, deliveries; or without the consumer.
    if row.len() == 4 && row[2].kind == b':' && row[3].kind == b':' {
        row[2].text.clear();
    } else if row.len() == 3 && row[1].kind == b':' && row[2].kind == b':' {
        row[1].text.clear();
    }
    out.items = out.items.iter().map(timeless).collect();
    out
}

fn some(frame: &Frame) -> Frame {
    let mut out = frame.clone();
    if out.kind == b':' && out.text != b"0" {
        out.text = b"some".to_vec();
    }
    out.items = out.items.iter().map(some).collect();
    out
}
