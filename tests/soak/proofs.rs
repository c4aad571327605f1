//! That the soak's checks can fail: each is shown what it exists to find, made by hand on a real Redis.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::checks::{Caps, Verdict, check_ledger, check_traces, watch_caps};
use super::report::{Left, Tally, Told};
use super::wire::{Scanner, elements};
use crate::support::ledger::Fate;
use crate::support::{Raw, Redis, wait_until};

fn told(parts: usize, fate: Fate) -> Told {
    Told { db: 0, parts, fate, apart: false }
}

/// What the ledger says of these writes of worker 1 when Redis holds `values`.
fn ledger(writes: &[(u64, Told)], values: &[&str]) -> Verdict {
    let redis = Redis::start();
    let mut raw = redis.connect();
    for value in values {
        raw.ask(&format!("RPUSH l:1 {value}"));
    }
    let mut tally = Tally::default();
    tally.writes.extend(writes.iter().map(|(sequence, told)| ((1, *sequence), *told)));
    let mut verdict = Verdict::default();
    check_ledger(&redis, &tally, &mut verdict);
    verdict
}

#[test]
fn the_ledger_finds_what_is_lost_doubled_refused_and_torn() {
    let done = [(1, told(1, Fate::Done)), (2, told(2, Fate::Done)), (3, told(1, Fate::Maybe))];
    let fine = ledger(&done, &["1.1.", "1.2a.", "1.2b.", "1.4.unheard"]);
    assert!([&fine.lost, &fine.doubled, &fine.other].iter().all(|list| list.is_empty()), "{fine:?}");
    assert_eq!((fine.done, fine.open), (2, 1));
    assert_eq!(ledger(&done, &["1.2a.", "1.2b."]).lost.len(), 1, "an OK that is not there");
    assert_eq!(ledger(&done, &["1.1.", "1.2a."]).lost.len(), 1, "half an EXEC that was answered");
    assert_eq!(ledger(&done, &["1.1.", "1.2a.", "1.2b.", "1.1.y"]).doubled.len(), 1, "written twice");
    assert_eq!(ledger(&done, &["1.1.", "1.2a.", "1.3.", "1.2b."]).other.len(), 1, "taken apart");
    assert_eq!(ledger(&done, &["1.1.", "1.2a.", "1.2b.", "2.9."]).other.len(), 1, "in a list of another's");
    let never = [(1, told(1, Fate::Never)), (2, told(2, Fate::Maybe))];
    assert_eq!(ledger(&never, &["1.1."]).doubled.len(), 1, "refused and there");
    assert_eq!(ledger(&never, &["1.2b."]).doubled.len(), 1, "half a transaction");
}

#[test]
fn an_element_popped_twice_is_found() {
    let redis = Redis::start();
    let doubled = |popped: &[&str]| {
        let tally =
            Tally { popped: popped.iter().map(|text| text.to_string()).collect(), ..Tally::default() };
        let mut verdict = Verdict::default();
        check_ledger(&redis, &tally, &mut verdict);
        verdict.doubled.len()
    };
    assert_eq!(doubled(&["n1.1.", "n1.2.", "n2.1."]), 0);
    assert_eq!(doubled(&["n1.1.", "n1.2.", "n1.1."]), 1);
}

/// A connection that looks like a lane of the broker's.
fn lane(redis: &Redis) -> Raw {
    let mut raw = redis.connect_plain();
    raw.expect("CLIENT SETNAME broker-lane", "+OK\r\n");
    raw
}

/// What is found when a lane has been left in the state that these requests make.
fn traces(requests: &[&str]) -> Vec<String> {
    let redis = Redis::start();
    redis.ask("SET w:1 unwatched");
    let mut raw = lane(&redis);
    for request in requests {
        raw.send(request);
    }
    let last = requests.last().and_then(|line| line.split(' ').next()).unwrap_or("client").to_lowercase();
    wait_until("the lane is in its state", || redis.ask("CLIENT LIST").contains(&format!("cmd={last}")));
    let mut verdict = Verdict::default();
    check_traces(&redis, &[Left { db: 0, key: "dead:1".into() }], &mut verdict);
    verdict.leaked
}

#[test]
fn what_the_dead_leave_is_found() {
    assert_eq!(traces(&["GET k"]), [""; 0]);
    for state in [
        &["WATCH w:1"][..],
        &["WATCH dead:1"],
        &["MULTI"],
        &["BLPOP dead:1 0"],
        &["SUBSCRIBE c"],
        &["PSUBSCRIBE c*"],
        &["CLIENT SETNAME child"],
        &["SELECT 3"],
        &["CLIENT NO-EVICT on"],
    ] {
        assert!(!traces(state).is_empty(), "{state:?} leaves no trace");
    }
}

#[test]
fn too_many_connections_are_found() {
    let redis = Redis::start();
    let caps = Caps { connections: 2, blocked: 1, subscribed: 1 };
    let found = |ghosts: usize, lanes: &mut Vec<Raw>| {
        let stop = AtomicBool::new(false);
        lanes.iter_mut().for_each(|raw| raw.expect("PING", "+PONG\r\n"));
        let samples = AtomicU64::new(0);
        thread::scope(|scope| {
            // It asks twice for each sample, before it and after.
            let asked = || {
                samples.fetch_add(1, Ordering::SeqCst);
                ghosts
            };
            let (redis, stop) = (&redis, &stop);
            let sampler = scope.spawn(move || watch_caps(redis, asked, caps, stop));
            wait_until("it has seen enough", || samples.load(Ordering::SeqCst) > 120);
            stop.store(true, Ordering::SeqCst);
            sampler.join().expect("the sampler")
        })
    };
    let mut lanes: Vec<Raw> = (0..2).map(|_| lane(&redis)).collect();
    let (samples, wrong) = found(0, &mut lanes);
    assert!(samples > 0 && wrong.is_empty(), "{wrong:?}");
    lanes.push(lane(&redis));
    assert!(!found(0, &mut lanes).1.is_empty(), "one too many");
    assert!(found(1, &mut lanes).1.is_empty(), "one that Redis has not let go of yet");
}

#[test]
fn values_end_where_they_end_however_they_come() {
    let stream = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n:12\r\n$-1\r\n%1\r\n+a\r\n*2\r\n_\r\n#t\r\n$0\r\n\r\n>1\r\n$2\r\n\r\n\r\n";
    let lengths = |step: usize| {
        let (mut scanner, mut found, mut length) = (Scanner::default(), Vec::new(), 0);
        for piece in stream.chunks(step) {
            let mut rest = piece;
            while !rest.is_empty() {
                let (used, complete) = scanner.take(rest).expect("RESP");
                length += used;
                if complete {
                    found.push(std::mem::take(&mut length));
                }
                rest = &rest[used..];
            }
        }
        assert_eq!(length, 0, "nothing is left over");
        found
    };
    for step in 1..=stream.len() {
        assert_eq!(lengths(step), [20, 5, 5, 19, 6, 12], "in pieces of {step}");
    }
    assert!(Scanner::default().take(b"!x\r\n").is_err() && Scanner::default().take(b"GET\r\n").is_err());
    assert_eq!(
        elements(b"*2\r\n*1\r\n:1\r\n$1\r\na\r\n").expect("an array"),
        [&b"*1\r\n:1\r\n"[..], b"$1\r\na\r\n"]
    );
    assert_eq!(elements(b"*-1\r\n"), None);
}
