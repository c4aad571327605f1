//! CLIENT REPLY: who asks for no replies gets none, whichever way the requests go, and nobody else gets them.
//! Everything is compared with Redis itself.

use std::time::Duration;

use crate::support::raw::pipeline;
use crate::support::twin::Expect;
use crate::support::{self, Broker, Pair, Redis, Twin, wait_until};

/// Long enough for a reply that was due to arrive.
const MOMENT: Duration = Duration::from_millis(200);

/// Each is one write; what comes back up to a sentinel must be equal.
#[rustfmt::skip]
const PIPELINES: &[&[&str]] = &[
    &["CLIENT REPLY ON", "PING"],
    &["CLIENT REPLY OFF", "PING", "GET k", "CLIENT REPLY ON", "GET k"],
    &["CLIENT REPLY SKIP", "PING", "GET k"],
    &["CLIENT REPLY SKIP", "GET k", "PING"],
    &["CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "PING", "PING"],
    &["CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "GET k", "GET k"],
    &["CLIENT REPLY SKIP", "CLIENT REPLY ON", "GET k"],
    &["CLIENT REPLY SKIP", "CLIENT REPLY OFF", "GET k", "CLIENT REPLY ON", "GET k"],
    &["CLIENT REPLY OFF", "CLIENT REPLY SKIP", "GET k", "GET k", "CLIENT REPLY ON", "GET k"],
    &["CLIENT REPLY OFF", "CLIENT REPLY nonsense", "CLIENT REPLY", "NOSUCH", "GET", "CLIENT REPLY ON"],
    &["CLIENT REPLY nonsense", "CLIENT REPLY", "CLIENT REPLY ON x", "PING"],
    &["CLIENT REPLY SKIP", "NOSUCH a b", "NOSUCH a b"],
    &["CLIENT REPLY SKIP", "CLIENT REPLY nonsense", "GET k"],
    &["CLIENT REPLY SKIP", "INCR text", "INCR text"],
    &["GET k", "CLIENT REPLY OFF", "GET k", "ECHO a", "CLIENT REPLY ON", "ECHO b", "GET k"],
    // Transactions: queued here, as one block, and on a lane of their own.
    &["CLIENT REPLY OFF", "MULTI", "INCR n", "EXEC", "CLIENT REPLY ON", "GET n"],
    &["CLIENT REPLY SKIP", "MULTI", "INCR n", "EXEC", "GET n"],
    &["CLIENT REPLY SKIP", "GET n", "MULTI", "INCR n", "EXEC", "GET n"],
    &["MULTI", "INCR n", "INCR text", "EXEC", "CLIENT REPLY OFF", "MULTI", "SET", "EXEC", "CLIENT REPLY ON", "GET n"],
    &["WATCH k", "CLIENT REPLY OFF", "GET k", "MULTI", "INCR n", "EXEC", "CLIENT REPLY ON", "GET n"],
    &["CLIENT REPLY SKIP", "WATCH k", "MULTI", "INCR n", "EXEC", "GET n"],
    &["CLIENT REPLY OFF", "MULTI", "SELECT 3", "SET in3 x", "EXEC", "CLIENT REPLY ON", "GET in3", "SELECT 0"],
    // Blocking commands.
    &["CLIENT REPLY OFF", "BLPOP none 0.01", "RPUSH l a b", "BLPOP l 0", "CLIENT REPLY ON", "LRANGE l 0 -1", "DEL l"],
    &["CLIENT REPLY SKIP", "BLPOP none 0.01", "GET k"],
    // What the broker answers itself, and asks the upstream about.
    &["CLIENT REPLY OFF", "SELECT 7", "SET in7 x", "SELECT 99", "CLIENT REPLY ON", "GET in7", "SELECT 0"],
    &["CLIENT REPLY SKIP", "SELECT 99", "SELECT 99"],
    &["CLIENT REPLY OFF", "SCRIPT KILL", "CLIENT REPLY ON", "SCRIPT KILL"],
    &["CLIENT REPLY SKIP", "SCRIPT KILL", "FUNCTION KILL"],
    &["CLIENT REPLY OFF", "HELLO 3", "CLIENT REPLY ON", "HGETALL none", "HELLO 2 SETNAME"],
    // RESET lifts OFF and is told; a reply to be skipped is skipped all the same.
    &["CLIENT REPLY OFF", "RESET", "PING"],
    &["CLIENT REPLY SKIP", "RESET", "PING"],
    // Confirmations are no replies.
    &["CLIENT REPLY OFF", "SUBSCRIBE a b", "PSUBSCRIBE p*", "PING", "UNSUBSCRIBE a b", "PUNSUBSCRIBE", "UNSUBSCRIBE none",
      "GET k", "CLIENT REPLY ON", "GET k"],
    &["CLIENT REPLY SKIP", "SUBSCRIBE a", "PING", "UNSUBSCRIBE a", "GET k"],
    &["CLIENT REPLY OFF", "SUBSCRIBE", "UNSUBSCRIBE x y", "CLIENT REPLY ON"],
];

fn prepare(pair: &mut Pair) {
    for line in ["SET k v", "SET text x", "DEL n"] {
        pair.same(line);
    }
}

#[test]
fn pipelines_are_answered_as_by_redis() {
    for settings in [&[][..], &[("transactions", "leased")], &[("integrity", "always")]] {
        let twin = Twin::start_with(&[], settings);
        for lines in PIPELINES {
            for resp3 in [false, true] {
                let mut pair = if resp3 { twin.pair_resp3() } else { twin.pair() };
                prepare(&mut pair);
                pair.same_transcript(&pipeline(lines), Expect::Open);
            }
        }
    }
}

/// The same requests, each sent when the one before has done its work.
#[test]
fn requests_one_by_one_are_answered_as_by_redis() {
    let twin = Twin::start();
    for lines in PIPELINES {
        let mut pair = twin.pair();
        prepare(&mut pair);
        for raw in [&mut pair.direct, &mut pair.brokered] {
            for line in *lines {
                raw.send(line);
                std::thread::yield_now();
            }
        }
        pair.same_transcript(b"", Expect::Open);
    }
}

#[test]
fn random_pipelines_are_answered_as_by_redis() {
    let mut rng = support::seeded();
    let twin = Twin::start();
    let words = [
        "CLIENT REPLY ON",
        "CLIENT REPLY OFF",
        "CLIENT REPLY SKIP",
        "CLIENT REPLY x",
        "PING",
        "GET k",
        "INCR n",
        "NOSUCH",
        "MULTI",
        "EXEC",
        "DISCARD",
        "WATCH k",
        "UNWATCH",
        "SET k v",
        "BLPOP none 0.001",
        "SELECT 1",
        "SELECT 0",
        "CLIENT GETNAME",
        "RESET",
        "ECHO e",
    ];
    for _ in 0..300 {
        let count = rng.usize(2..14);
        let mut lines: Vec<&str> = Vec::new();
        let mut in_multi = false;
        while lines.len() < count {
            let word = words[rng.usize(..words.len())];
            // Inside MULTI Redis breaks its own framing, and a SELECT there is a lease's affair.
            if in_multi && (word.starts_with("CLIENT REPLY") || word.starts_with("SELECT")) {
                continue;
            }
            in_multi = match word {
                "MULTI" => true,
                "EXEC" | "DISCARD" | "RESET" => false,
                _ => in_multi,
            };
            lines.push(word);
        }
        lines.extend(in_multi.then_some("DISCARD"));
        lines.push("CLIENT REPLY ON");
        let mut pair = twin.pair();
        for line in ["FLUSHALL", "SET k v"] {
            pair.same(line);
        }
        let bytes = pipeline(&lines);
        let cut = rng.usize(..bytes.len());
        for raw in [&mut pair.direct, &mut pair.brokered] {
            raw.write(&bytes[..cut]);
        }
        pair.same_transcript(&bytes[cut..], Expect::Open);
    }
}

/// An empty line is a request to Redis: it uses a SKIP up.
#[test]
fn an_empty_request_uses_a_skip_up() {
    let twin = Twin::start();
    for empty in [&b"\r\n"[..], b"*0\r\n", b"\n"] {
        let mut bytes = pipeline(&["CLIENT REPLY SKIP"]);
        bytes.extend_from_slice(empty);
        bytes.extend_from_slice(&pipeline(&["PING", "PING"]));
        twin.same_and_open(&bytes);
    }
}

#[test]
fn messages_reach_a_child_that_wants_no_replies() {
    let twin = Twin::start();
    for resp3 in [false, true] {
        let mut pair = if resp3 { twin.pair_resp3() } else { twin.pair() };
        let mut other = twin.pair();
        for raw in [&mut pair.direct, &mut pair.brokered] {
            raw.write(&pipeline(&["CLIENT REPLY OFF", &format!("SUBSCRIBE ch{resp3}")]));
        }
        pair.same_replies("the confirmation", 1);
        other.same(&format!("PUBLISH ch{resp3} hello"));
        let message = pair.same_replies("the message", 1).remove(0);
        assert!(String::from_utf8_lossy(&message).contains("hello"));
    }
}

/// QUIT and protocol errors say nothing either, and then Redis never closes.
#[test]
fn who_leaves_without_a_word_is_left_connected() {
    let twin = Twin::start();
    for mode in ["OFF", "SKIP"] {
        for last in [&b"QUIT\r\n"[..], b"*x\r\n"] {
            let mut pair = twin.pair();
            let mut bytes = pipeline(&[&format!("CLIENT REPLY {mode}")]);
            bytes.extend_from_slice(last);
            bytes.extend_from_slice(&pipeline(&["CLIENT REPLY ON", "SET after x", "PING"]));
            pair.same_transcript(&bytes, Expect::Silent);
            pair.same_transcript(&pipeline(&["PING", "CLIENT REPLY ON", "PING"]), Expect::Silent);
            twin.pair().same("EXISTS after");
        }
    }
    // With something left to write it does close.
    for mode in ["ON", "OFF"] {
        let quit = [format!("CLIENT REPLY {mode}"), "QUIT".into()];
        let lines = ["PING", "GET k", &quit[0], &quit[1], "PING"];
        twin.same_until_closed(&pipeline(&lines));
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_end_of_who_left_without_a_word_is_noticed() {
    let twin = Twin::start();
    let mut raw = twin.broker.connect();
    raw.write(&pipeline(&["CLIENT REPLY OFF", "QUIT"]));
    assert!(raw.is_silent(MOMENT));
    raw.half_close();
    raw.set_patience(support::PATIENCE);
    assert!(raw.is_closed());
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn inside_multi_it_is_refused_and_spoils_the_transaction() {
    let redis = Redis::start();
    for transactions in ["shared", "leased"] {
        let broker = Broker::start(&redis, &[("transactions", transactions)]);
        let mut raw = broker.connect();
        raw.expect("MULTI", "+OK\r\n");
        raw.expect("CLIENT REPLY OFF", "-ERR CLIENT REPLY inside MULTI is not supported by the broker\r\n");
        raw.expect("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n");
        raw.expect("PING", "+PONG\r\n");
    }
}

/// Errors that are the broker's own are not told either.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_lost_upstream_is_not_told() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    raw.expect("SET k v", "+OK\r\n");
    raw.write(&pipeline(&["CLIENT REPLY OFF", "BLPOP none 0"]));
    wait_until("the pop waits upstream", || {
        support::upstream_clients(&redis).iter().any(|client| client.field("cmd") == "blpop")
    });
    redis.kill();
    raw.send("CLIENT REPLY ON");
    assert_eq!(raw.read_text(), "+OK\r\n");
}
