//! What bytes from outside may do to the broker: nothing but be answered. Each target takes any bytes and
//! panics when something that must hold for all bytes does not. `corpus` feeds them.

use super::Sim;
use super::ledger::Nonce;
use super::reply::{Reply, parse};
use super::table::recorded;
use crate::command::{self, Policy, Route, Table, Verdict, WaitRequest};
use crate::core::connection::role::LaneRole;
use crate::resp::tests::{Event, check_replies, check_requests, encoded, words_of};
use crate::resp::{FrameLimits, Request, Scan, Scanner, value};
use std::collections::VecDeque;

/// Where a target's corpus lies, and what it does with one input.
pub(super) type Target = (&'static str, fn(&[u8]));

pub(super) const TARGETS: [Target; 5] =
    [("request", request), ("reply", reply), ("inline", inline_line), ("classify", classify), ("core", core)];

/// Inputs for the scanners: two bytes that say where to cut and how strictly to read, then the stream.
fn cuts(input: &[u8]) -> (u8, Vec<usize>, &[u8]) {
    let Some(([how, seed], stream)) = input.split_first_chunk::<2>() else { return (0, Vec::new(), &[]) };
    let mut rng = fastrand::Rng::with_seed(u64::from(*seed) << 32 | stream.len() as u64);
    (*how, (0..rng.usize(..8)).map(|_| rng.usize(..=stream.len())).collect(), stream)
}

fn request(input: &[u8]) {
    let (how, cuts, stream) = cuts(input);
    let request_max = if how & 2 == 0 { usize::MAX } else { 1 + usize::from(how) };
    check_requests(stream, &cuts, &FrameLimits { request_max, authenticated: how & 1 == 0 });
}

/// A reply ends at the same byte however it arrives, and where an independent reader finds its end.
fn reply(input: &[u8]) {
    let (_, cuts, stream) = cuts(input);
    let mut at = 0;
    for event in &check_replies(stream, &cuts) {
        let Event::Reply { len, .. } = event else { continue };
        let frame = &stream[at..at + len];
        at += len;
        // Values are taken from frames the scanner has passed: whatever is in them, they are read or not.
        value::parse(frame);
        if let Ok(Some((_, known))) = parse(frame) {
            assert_eq!(known, *len, "{}", frame.escape_ascii());
        }
    }
}

/// An inline line has words within it, and words written as quotes are the same words.
fn inline_line(input: &[u8]) {
    let line: Vec<u8> = input.iter().copied().filter(|byte| *byte != b'\n').collect();
    let Ok(words) = words_of(&line) else { return };
    let mut quoted = Vec::new();
    for word in &words {
        quoted.push(b'"');
        word.iter().for_each(|byte| quoted.extend_from_slice(format!("\\x{byte:02x}").as_bytes()));
        quoted.extend_from_slice(b"\" ");
    }
    assert_eq!(words_of(&quoted), Ok(words), "{}", line.escape_ascii());
}

thread_local! {
    static TABLE: Table = {
        let reply = recorded();
        Table::from_command_reply(&value::parse(&reply).expect("a reply"), Policy::default()).expect("a table")
    };
}

/// Commands that must go to a shared lane under no spelling.
const POISON: &str = "select hello auth reset quit watch multi exec discard unwatch subscribe psubscribe \
                      ssubscribe monitor blpop brpop blmove brpoplpush bzpopmin bzpopmax blmpop bzmpop wait sync \
                      psync replconf shutdown debug readonly readwrite asking";

const LIMITS: FrameLimits = FrameLimits { request_max: usize::MAX, authenticated: true };

/// A request has one class, however its name is spelt, and what is said of its arguments is so.
fn classify(input: &[u8]) {
    let (mut scanner, mut rest) = (Scanner::default(), input);
    loop {
        match scanner.scan(rest, &LIMITS) {
            Scan::Frame { len } => {
                TABLE.with(|table| classify_one(table, &scanner.request(rest)));
                rest = &rest[len..];
            }
            Scan::Empty { len } => rest = &rest[len..],
            Scan::NeedMore { .. } | Scan::Error(_) => return,
        }
        scanner.reset();
    }
}

fn classify_one(table: &Table, request: &Request<'_>) {
    let verdict = table.classify(request);
    let mut other: Vec<Vec<u8>> = request.args().map(<[u8]>::to_vec).collect();
    other[0].iter_mut().for_each(|byte| *byte ^= 0x20 * u8::from(byte.is_ascii_alphabetic()));
    with_scanned(&encoded(&other), |spelt| {
        assert_eq!(format!("{:?}", table.classify(spelt)), format!("{verdict:?}"), "by its spelling");
    });
    let Verdict::Known(known) = verdict else { return };
    assert_eq!(table.name(known.id), known.name);
    if known.arity_ok && known.route == Route::Shared {
        assert!(!POISON.split_whitespace().any(|name| name == known.name), "{} is shared", known.name);
    }
    let Route::Blocking(blocking) = known.route else { return };
    assert!(blocking.timeout < request.argc(), "{}: the timeout is no argument", known.name);
    let group = WaitRequest::of(request, &blocking);
    if command::timeout_ms(request, &blocking).is_some() {
        let mut shortened = Vec::new();
        group.append(Some(1234), &mut shortened);
        with_scanned(&shortened, |shortened| {
            assert_eq!(command::timeout_ms(shortened, &blocking), Some(1234));
            assert_eq!(WaitRequest::of(shortened, &blocking), group, "it waits for something else");
        });
    }
}

fn with_scanned(bytes: &[u8], use_it: impl FnOnce(&Request<'_>)) {
    let mut scanner = Scanner::default();
    assert_eq!(scanner.scan(bytes, &LIMITS), Scan::Frame { len: bytes.len() });
    use_it(&scanner.request(bytes));
}

/// The core under any bytes: of three children, one that asks properly, and of the upstream if the first
/// byte says so. Nothing panics, the books are right, and the proper child is answered.
fn core(input: &[u8]) {
    let Some((how, mut rest)) = input.split_first() else { return };
    let upstream_lies = how & 1 == 1;
    let transactions = if how & 2 == 0 { "shared" } else { "leased" };
    let settings =
        [("transactions", transactions), ("upstream_connections_max", "9"), ("child_input_max", "64KiB")];
    let mut sim = Sim::begin(&settings, "redis://sim/0", u64::from(*how));
    sim.settle();
    let (mut wild, honest) = ([sim.child(), sim.child()], sim.child());
    let (mut asked, mut number) = (VecDeque::new(), 0);
    while let Some(([what, len], after)) = rest.split_first_chunk::<2>() {
        let (bytes, after) = after.split_at(after.len().min(usize::from(*len)));
        rest = after;
        match what % 8 {
            0..3 => {
                let child = &mut wild[usize::from(what & 1)];
                if sim.is_closed(*child) {
                    *child = sim.child();
                }
                sim.send_bytes(*child, bytes);
            }
            3 => sim.pass(u64::from(*len) + 1),
            4 if upstream_lies => lie(&mut sim, *what, bytes),
            5 => {
                sim.half_close(wild[0]);
                wild[0] = sim.child();
            }
            6 => {
                sim.frozen = if *len < 128 { vec![LaneRole::Lease] } else { Vec::new() };
                sim.settle();
            }
            _ => {
                number += 1;
                let nonce = Nonce::new(honest, number);
                sim.send(honest, &format!("GET {nonce}"));
                asked.push_back(nonce);
            }
        }
        hear(&mut sim, honest, &mut asked, upstream_lies);
    }
    sim.frozen.clear();
    // Half a reply from a liar takes in those behind it; that is noticed after `lane_stall_timeout`.
    sim.pass(15_000);
    hear(&mut sim, honest, &mut asked, upstream_lies);
    let lied_to = upstream_lies && sim.is_closed(honest);
    assert!(asked.is_empty() || lied_to, "the honest child is owed {asked:?}");
    assert!(!sim.is_closed(honest) || upstream_lies, "the honest child was closed");
}

fn lie(sim: &mut Sim, which: u8, bytes: &[u8]) {
    let lanes = sim.broker.shared.connections.lanes().filter(|(_, lane)| lane.is_ready());
    let lanes: Vec<_> = lanes.map(|(key, _)| key).collect();
    if let Some(lane) = lanes.get(usize::from(which / 8) % lanes.len().max(1)) {
        sim.broker.lane_input(*lane, bytes);
        sim.settle();
    }
}

/// The honest child reads: its own values in order, or, if the upstream lies, anything.
fn hear(sim: &mut Sim, honest: usize, asked: &mut VecDeque<Nonce>, upstream_lies: bool) {
    let bytes = std::mem::take(&mut sim.peers[honest].received);
    let mut at = 0;
    while at < bytes.len() {
        let Ok(Some((reply, len))) = parse(&bytes[at..]) else {
            assert!(upstream_lies, "the honest child got {}", bytes[at..].escape_ascii());
            return asked.clear();
        };
        at += len;
        let nonce = asked.pop_front();
        let own = nonce.map(|nonce| Reply::Bulk(format!("{nonce}@0.2.default").into_bytes()));
        assert!(upstream_lies || own.as_ref() == Some(&reply), "{nonce:?} was answered {reply:?}");
    }
}
