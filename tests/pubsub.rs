//! SUBSCRIBE and its family: confirmations, messages in order, what a subscribed child may send, and the way
//! back to an ordinary connection; compared with a real Redis in RESP2 and RESP3, with subscriptions that are
//! shared and with those on a lane of the child's own. What only shared ones do is in `pubsub_shared`.

use crate::support::raw::pipeline;
use crate::support::twin::{Expect, without_id};
use crate::support::{Broker, End, Pair, Redis, Twin, request, show, wait_until};

/// One frame per channel, in order.
fn same_frames(pair: &mut Pair, line: &str, count: usize) {
    pair.same_pipeline(&pipeline(&[line]), count);
}

fn pair_of(twin: &Twin, resp3: bool) -> Pair {
    if resp3 { twin.pair_resp3() } else { twin.pair() }
}

const LEASED: [(&str, &str); 1] = [("pubsub", "leased")];

/// Two servers for each way to subscribe.
fn twins() -> [Twin; 2] {
    [Twin::start(), Twin::start_with(&[], &LEASED)]
}

#[test]
fn confirmations_are_the_same() {
    for twin in twins() {
        for resp3 in [false, true] {
            let mut pair = pair_of(&twin, resp3);
            for (line, frames) in [
                ("UNSUBSCRIBE", 1),
                ("PUNSUBSCRIBE", 1),
                ("SUNSUBSCRIBE", 1),
                ("UNSUBSCRIBE a b", 2),
                ("SUBSCRIBE a", 1),
                ("SUBSCRIBE a b c a", 4),
                ("PSUBSCRIBE p* q*", 2),
                ("SSUBSCRIBE s t", 2),
                ("UNSUBSCRIBE nosuch", 1),
                ("UNSUBSCRIBE b", 1),
                ("PUNSUBSCRIBE q*", 1),
                ("SUNSUBSCRIBE s", 1),
                ("PING", 1),
                ("PING hello", 1),
                ("UNSUBSCRIBE a c", 2),
                ("PUNSUBSCRIBE", 1),
                ("SUNSUBSCRIBE", 1),
                ("PING", 1),
                ("GET none", 1),
                ("SUBSCRIBE", 1),
                ("PSUBSCRIBE", 1),
            ] {
                same_frames(&mut pair, line, frames);
            }
        }
    }
}

/// In RESP2 a subscribed child may only subscribe, ping and leave; in RESP3 it may do anything.
#[test]
fn restrictions_are_the_same() {
    for twin in twins() {
        for resp3 in [false, true] {
            let mut pair = pair_of(&twin, resp3);
            same_frames(&mut pair, "SUBSCRIBE a", 1);
            for line in [
                "GET k",
                "SET k v",
                "GET",
                "NOSUCH x",
                "MULTI",
                "EXEC",
                "CLIENT GETNAME",
                "CLIENT NOSUCH",
                "CONFIG GET save",
                "SELECT 1",
                "ECHO x",
                "WATCH k",
                "UNWATCH",
                "BLPOP l 0.01",
                "PUBLISH other x",
                "AUTH x",
                "PING",
                "PING x",
            ] {
                // RESP3 opens a transaction here; it must not swallow the lines that follow.
                if resp3 && line == "EXEC" {
                    pair.same("DISCARD");
                }
                pair.same(line);
            }
            same_frames(&mut pair, "UNSUBSCRIBE a", 1);
            for line in ["GET k", "SET k v", "GET k", "PING"] {
                pair.same(line);
            }
        }
    }
}

#[test]
fn messages_are_the_same() {
    for twin in twins() {
        for resp3 in [false, true] {
            let mut pair = pair_of(&twin, resp3);
            same_frames(&mut pair, "SUBSCRIBE news other", 2);
            same_frames(&mut pair, "PSUBSCRIBE n* *s", 2);
            same_frames(&mut pair, "SSUBSCRIBE shard", 1);
            let mut publisher = twin.pair();
            publisher.same("PUBLISH other 1");
            pair.same_replies("one message", 1);
            publisher.same("SPUBLISH shard 1");
            pair.same_replies("one shard message", 1);
            publisher.same("PUBLISH none 1");
            pair.same_replies("one pattern message", 1);
            publisher.same_call(&[&b"PUBLISH"[..], b"other", b"\0\r\n\xff"]);
            pair.same_replies("a binary message", 1);
            publisher.same("PUBLISH news 1");
            let first = pair.same_replies("the channel's message", 1).remove(0);
            assert!(show(&first).contains("$7\\r\\nmessage"), "the channel comes before its patterns");
            // The order of two patterns is by chance.
            let mut both = [Vec::new(), Vec::new()];
            for _ in 0..2 {
                both[0].push(pair.direct.read_reply());
                both[1].push(pair.brokered.read_reply());
            }
            both.iter_mut().for_each(|frames| frames.sort());
            assert_eq!(both[0], both[1]);
        }
    }
}

/// A RESP3 child hears its own message before the reply of its PUBLISH.
#[test]
fn own_messages_come_before_the_reply() {
    for twin in twins() {
        let mut pair = twin.pair_resp3();
        same_frames(&mut pair, "SUBSCRIBE me", 1);
        let frames = pair.same_pipeline(&pipeline(&["PUBLISH me hello"]), 2);
        assert!(frames[0].starts_with(b">3"));
        pair.same("GET none");
        same_frames(&mut pair, "UNSUBSCRIBE me", 1);
        pair.same("PUBLISH me nobody");
    }
}

/// HELLO, RESET and QUIT of a subscribed child.
#[test]
fn leaving_is_the_same() {
    for twin in twins() {
        for resp3 in [false, true] {
            let mut pair = pair_of(&twin, resp3);
            same_frames(&mut pair, "SUBSCRIBE a b", 2);
            pair.same("RESET");
            pair.same("GET none");
            twin.pair().same("PUBLISH a nobody");
            let mut pair = pair_of(&twin, resp3);
            same_frames(&mut pair, "SUBSCRIBE a", 1);
            pair.same_transcript(&request(&["QUIT"]), Expect::Closed);
            let mut pair = pair_of(&twin, resp3);
            same_frames(&mut pair, "SUBSCRIBE a", 1);
            pair.same_transcript(b"*abc\r\n", Expect::Closed);
        }
        // Back to RESP2 while subscribed: the subscriptions stay and the restrictions begin.
        let mut pair = twin.pair_resp3();
        same_frames(&mut pair, "SUBSCRIBE a", 1);
        pair.same_with("HELLO 2", without_id);
        pair.same("GET none");
        twin.pair().same("PUBLISH a x");
        pair.same_replies("the message", 1);
    }
}

/// Subscriptions and ordinary requests in one write.
#[test]
fn subscribing_in_a_pipeline_keeps_the_order() {
    for twin in twins() {
        for resp3 in [false, true] {
            let mut pair = pair_of(&twin, resp3);
            let lines =
                ["SET k v", "GET k", "SUBSCRIBE a", "PING", "UNSUBSCRIBE a", "GET k", "SELECT 1", "GET k"];
            pair.same_pipeline(&pipeline(&lines), 8);
            pair.same_pipeline(&pipeline(&["SELECT 0", "SUBSCRIBE a b", "UNSUBSCRIBE a b", "GET k"]), 6);
        }
    }
}

/// Every message after the confirmation, once, in order, for every subscriber.
#[test]
fn messages_come_in_order_to_everyone() {
    for settings in [&[][..], &LEASED[..]] {
        messages_to_everyone(settings);
    }
}

fn messages_to_everyone(settings: &[(&str, &str)]) {
    let redis = Redis::start();
    let broker = Broker::start(&redis, settings);
    let mut subscribers: Vec<_> = (0..8)
        .map(|number| {
            let mut raw = if number % 2 == 0 { broker.connect() } else { broker.connect_resp3() };
            raw.ask("SUBSCRIBE feed");
            raw
        })
        .collect();
    let mut publisher = broker.connect();
    let lines: Vec<String> = (0..2_000).map(|number| format!("PUBLISH feed {number}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let bytes = pipeline(&lines);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            publisher.write(&bytes);
            for _ in 0..2_000 {
                assert_eq!(publisher.read_text(), ":8\r\n");
            }
        });
        for (number, raw) in subscribers.iter_mut().enumerate() {
            scope.spawn(move || {
                let head = if number % 2 == 0 { '*' } else { '>' };
                for message in 0..2_000 {
                    let text = message.to_string();
                    let wanted =
                        format!("{head}3\r\n$7\r\nmessage\r\n$4\r\nfeed\r\n${}\r\n{text}\r\n", text.len());
                    assert_eq!(raw.read_text(), wanted);
                }
            });
        }
    });
}

/// Ordinary children go on while others are subscribed, and a dead subscriber is forgotten.
#[test]
fn dead_subscribers_are_forgotten() {
    for settings in [&[][..], &LEASED[..]] {
        let redis = Redis::start();
        let broker = Broker::start(&redis, settings);
        let mut subscribers: Vec<_> = (0..5).map(|_| broker.connect()).collect();
        for raw in &mut subscribers {
            raw.ask("SUBSCRIBE gone");
        }
        let mut raw = broker.connect();
        assert_ne!(raw.ask("PUBLISH gone x"), ":0\r\n");
        drop(subscribers);
        wait_until("Redis has no subscriber", || raw.ask("PUBLISH gone x") == ":0\r\n");
    }
}

/// A subscriber that does not read is closed at its limit, alone.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_deaf_subscriber_is_closed_alone() {
    for mode in ["shared", "leased"] {
        deaf_in(mode);
    }
}

fn deaf_in(mode: &str) {
    let redis = Redis::start();
    let settings =
        [("pubsub", mode), ("subscriber_output_max", "1MiB"), ("subscriber_output_soft", "512KiB")];
    let broker = Broker::start(&redis, &settings);
    let (mut deaf, mut keen) = (broker.connect(), broker.connect());
    deaf.ask("SUBSCRIBE flood");
    keen.ask("SUBSCRIBE flood");
    let mut publisher = broker.connect();
    let payload = "x".repeat(64 * 1024);
    for _ in 0..200 {
        publisher.write(&request(&["PUBLISH", "flood", &payload]));
        assert!(keen.read_reply().len() > payload.len());
        assert!(publisher.read_text().starts_with(':'));
    }
    let (bytes, end) = deaf.read_all();
    assert_eq!(end, End::Closed);
    assert!(bytes.len() < 200 * payload.len(), "it was closed before the end");
    publisher.expect("PUBLISH flood last", ":1\r\n");
    assert!(keen.read_text().ends_with("$4\r\nlast\r\n"));
}
