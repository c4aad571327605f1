//! How many listen: PUBLISH, SPUBLISH, PUBSUB NUMSUB and SHARDNUMSUB are answered as if each child had a connection of its
//! own, although shared subscriptions are one connection upstream. Compared with a real Redis.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::raw::pipeline;
use crate::support::{Broker, Pair, Raw, Redis, Twin, request, seeded, wait_until};
use fastrand::Rng;

/// What may be asked about these channels.
const ASKED: [&str; 3] = ["PUBSUB NUMSUB a b none a", "PUBSUB SHARDNUMSUB a none", "PUBSUB NUMPAT"];

fn pair_of(twin: &Twin, resp3: bool) -> Pair {
    if resp3 { twin.pair_resp3() } else { twin.pair() }
}

/// Children that listen to `lines`, half of them in RESP3.
fn listeners(twin: &Twin, count: usize, lines: &[&str]) -> Vec<Pair> {
    let listen = |number: usize| {
        let mut pair = pair_of(twin, number % 2 == 1);
        lines.iter().for_each(|line| drop(pair.same(line)));
        pair
    };
    (0..count).map(listen).collect()
}

#[test]
fn every_child_that_listens_is_counted() {
    for integrity in ["off", "always"] {
        let twin = Twin::start_with(&[], &[("integrity", integrity)]);
        let mut all = listeners(&twin, 4, &["SUBSCRIBE a", "SSUBSCRIBE a"]);
        all.extend(listeners(&twin, 3, &["SUBSCRIBE a", "PSUBSCRIBE a*", "PSUBSCRIBE *"]));
        all.extend(listeners(&twin, 2, &["SUBSCRIBE b"]));
        // One that is no child of the broker.
        let mut beside = Pair { direct: twin.direct.connect_plain(), brokered: twin.behind.connect_plain() };
        beside.same("SUBSCRIBE a");
        for resp3 in [false, true] {
            let mut other = pair_of(&twin, resp3);
            let published = ["PUBLISH a x", "PUBLISH b x", "PUBLISH ab x", "PUBLISH none x", "SPUBLISH a x"];
            for line in published.iter().chain(&ASKED) {
                other.same(line);
            }
            let lines: Vec<&str> =
                published.into_iter().chain(ASKED).chain(["GET k", "PUBLISH a x"]).collect();
            other.same_pipeline(&pipeline(&lines), lines.len());
        }
        // Those who go are counted no more.
        let mut other = twin.pair();
        let mut left = |all: &mut Vec<Pair>, count: usize| {
            all.truncate(count);
            let told = format!(":{}\r\n", count + 1);
            wait_until("the dead are counted no more", || {
                let ask = |raw: &mut Raw| {
                    raw.ask("PUBSUB NUMSUB a").ends_with(&told) && raw.ask("PUBSUB NUMPAT") == ":0\r\n"
                };
                ask(&mut other.direct) && ask(&mut other.brokered)
            });
            ["PUBLISH a x", "PUBLISH b x"].iter().chain(&ASKED).for_each(|line| drop(other.same(line)));
        };
        left(&mut all, 4);
        left(&mut all, 1);
        left(&mut all, 0);
    }
}

/// Each child hears what it has published itself before it is told how many did, in RESP3, and never behind it.
#[test]
fn own_messages_come_before_their_number() {
    for integrity in ["off", "always"] {
        let twin = Twin::start_with(&[], &[("integrity", integrity)]);
        let _others = listeners(&twin, 3, &["SUBSCRIBE a"]);
        let mut pair = twin.pair_resp3();
        pair.same_pipeline(&pipeline(&["SUBSCRIBE a", "PSUBSCRIBE a?"]), 2);
        for _ in 0..20 {
            let lines =
                ["SET k v", "PUBLISH a 1", "GET k", "PUBLISH ab 2", "PUBLISH none 3", "PUBLISH a 4", "GET k"];
            pair.same_pipeline(&pipeline(&lines), lines.len() + 3);
        }
    }
}

/// So does one that has begun to listen in the same write.
#[test]
fn own_messages_come_before_their_number_at_once() {
    for pubsub in ["shared", "leased"] {
        let twin = Twin::start_with(&[], &[("pubsub", pubsub)]);
        let mut pair = twin.pair_resp3();
        for number in 0..30 {
            let (join, say) = (format!("SUBSCRIBE c{number}"), format!("PUBLISH c{number} x"));
            let lines = ["SET k v", &join, "GET k", &say, "GET k", &say, "PING"];
            pair.same_pipeline(&pipeline(&lines), lines.len() + 2);
            if pubsub == "leased" {
                // What a script publishes goes where all of this child goes.
                let (join, channel) = (request(&["SUBSCRIBE", "s"]), format!("s{number}"));
                let join = [join, request(&["SUBSCRIBE", &channel])].concat();
                let script = "return redis.call('PUBLISH', KEYS[1], 'x')";
                let bytes = [join, request(&["EVAL", script, "1", &channel]), request(&["PING"])].concat();
                pair.same_pipeline(&bytes, 5);
            }
        }
    }
}

#[test]
fn transactions_and_leases_count_children() {
    for transactions in ["shared", "leased"] {
        let twin = Twin::start_with(&[], &[("transactions", transactions)]);
        let _listening = listeners(&twin, 3, &["SUBSCRIBE a", "PSUBSCRIBE a*", "SSUBSCRIBE a"]);
        for resp3 in [false, true] {
            let mut pair = pair_of(&twin, resp3);
            let block = [
                "MULTI",
                "PUBLISH a x",
                "SET k v",
                "SPUBLISH a x",
                ASKED[0],
                ASKED[1],
                "PUBLISH none x",
                "EXEC",
            ];
            pair.same_pipeline(&pipeline(&block), block.len());
            block.iter().for_each(|line| drop(pair.same(line)));
            for line in
                ["MULTI", "CLIENT GETNAME", "PUBLISH a x", "SELECT 1", "PUBLISH a x", ASKED[0], "EXEC"]
            {
                pair.same(line);
            }
            for line in ["WATCH k", "PUBLISH a x", ASKED[0], "MULTI", "PUBLISH a x", "EXEC", "PUBLISH a x"] {
                pair.same(line);
            }
            // Refused where they stand, all the same.
            for line in
                ["PUBLISH a", "MULTI", "PUBLISH a", "PUBLISH a x", "EXEC", "PUBSUB NUMSUB", "PUBLISH a x"]
            {
                pair.same(line);
            }
        }
    }
}

/// CLIENT TRACKING keeps a connection, and so does MONITOR where it is allowed: what is published on it counts as well.
#[test]
fn children_with_a_connection_of_their_own_count_others() {
    let twin = Twin::start();
    let _listening = listeners(&twin, 3, &["SUBSCRIBE a"]);
    let mut pair = twin.pair_resp3();
    for line in ["CLIENT TRACKING ON", "PUBLISH a x", ASKED[0], "CLIENT TRACKING OFF", "PUBLISH a x"] {
        pair.same(line);
    }
}

// ---- patterns --------------------------------------------------------------------------------------------

fn random_text(rng: &mut Rng, len: usize, alphabet: &[u8]) -> Vec<u8> {
    (0..rng.usize(..=len)).map(|_| alphabet[rng.usize(..alphabet.len())]).collect()
}

/// A pattern matches here what it matches in Redis: or else a message that three children hear were counted once.
#[test]
fn patterns_match_as_in_redis() {
    let mut rng = seeded();
    let twin = Twin::start();
    let mut all = listeners(&twin, 3, &["SUBSCRIBE first"]);
    let mut publisher = twin.pair();
    for round in 0..400 {
        let pattern = random_text(&mut rng, 8, b"ab**??[[]]^-\\\\\x7f\x80\xff");
        for pair in &mut all {
            pair.same_call(&[b"PSUBSCRIBE".as_slice(), &pattern]);
        }
        for _ in 0..8 {
            let channel = random_text(&mut rng, 5, b"aabb*?[]^-\\\x7f\x80\xff");
            let counted = publisher.same_call(&[b"PUBLISH".as_slice(), &channel, b""]);
            for pair in &mut all {
                for _ in 0..usize::from(counted == b":3\r\n") {
                    pair.same_replies("the message", 1);
                }
            }
        }
        let leave = if round % 2 == 0 { b"PUNSUBSCRIBE".as_slice() } else { b"punsubscribe" };
        all.iter_mut().for_each(|pair| drop(pair.same_call(&[leave])));
    }
}

/// Looking for patterns has an end: beyond it the upstream's number stands, and nobody waits for it.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_look_at_patterns_costs_others_little() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut listening: Vec<Raw> = (0..2).map(|_| broker.connect()).collect();
    let costly = format!("*{}b", "a".repeat(3000));
    for raw in &mut listening {
        raw.ask(&format!("PSUBSCRIBE {costly}"));
        raw.ask("SUBSCRIBE fine");
    }
    let mut publisher = broker.connect();
    publisher.expect(&format!("PUBLISH {} x", "a".repeat(20_000)), ":0\r\n");
    publisher.expect("PUBLISH fine x", ":2\r\n");
    publisher.expect(&format!("PUBLISH {}b x", "a".repeat(3001)), ":2\r\n");
}

// ---- many ------------------------------------------------------------------------------------------------

/// How often each child comes and goes.
const ROUNDS: usize = 60;

/// What is published is told to as many as are counted, whoever comes and goes meanwhile.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn as_many_are_counted_as_hear_it() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    // So that somebody always listens.
    let mut anchor = broker.connect();
    anchor.ask("SUBSCRIBE feed");
    let leaving = AtomicUsize::new(6);
    let (mut counted, heard) = thread::scope(|scope| {
        let goer = |resp3: bool| (resp3, &broker, &leaving);
        let goers = (0..6).map(|number| goer(number % 2 == 0));
        let children: Vec<_> = goers
            .map(|(resp3, broker, leaving)| scope.spawn(move || come_and_go(broker, resp3, leaving)))
            .collect();
        let publisher = scope.spawn(|| {
            let (mut raw, mut counted) = (broker.connect(), Vec::new());
            while leaving.load(Ordering::SeqCst) > 0 {
                counted.push(count(&raw.ask(&format!("PUBLISH feed {}", counted.len()))));
            }
            counted
        });
        let heard: Vec<usize> =
            children.into_iter().flat_map(|child| child.join().expect("a child")).collect();
        (publisher.join().expect("the publisher"), heard)
    });
    assert!(heard.len() >= 6 * ROUNDS);
    heard.into_iter().for_each(|number| counted[number] -= 1);
    let wrong: Vec<_> = counted.iter().enumerate().filter(|(_, left)| **left != 1).collect();
    assert!(wrong.is_empty(), "beside the one that always listens: {wrong:?}");
}

fn count(reply: &str) -> i64 {
    reply.trim_start_matches(':').trim_end().parse().unwrap_or_else(|_| panic!("no count: {reply}"))
}

/// Listens again and again, each time until it has heard something. Returns all that it has heard.
fn come_and_go(broker: &Broker, resp3: bool, leaving: &AtomicUsize) -> Vec<usize> {
    let mut raw = if resp3 { broker.connect_resp3() } else { broker.connect() };
    let mut heard = Vec::new();
    for _ in 0..ROUNDS {
        raw.send("SUBSCRIBE feed");
        let before = heard.len();
        loop {
            let frame = raw.read_text();
            let parts: Vec<&str> = frame.split("\r\n").collect();
            match parts[2] {
                "message" => {
                    heard.push(parts[6].parse().expect("a number"));
                    if heard.len() == before + 1 {
                        raw.send("UNSUBSCRIBE feed");
                    }
                }
                "unsubscribe" => break,
                _ => {}
            }
        }
    }
    leaving.fetch_sub(1, Ordering::SeqCst);
    heard
}

/// Who floods the connection for messages delays nobody who joins, and messages of any size come whole.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_flood_of_messages_leaves_room_for_subscriptions() {
    let redis = Redis::start();
    let settings = [("subscriber_output_max", "1GiB"), ("subscriber_output_soft", "1GiB")];
    let broker = Broker::start(&redis, &settings);
    let mut keen = broker.connect();
    keen.ask("SUBSCRIBE flood");
    let payload = "x".repeat(300_000);
    const FLOODS: usize = 40;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut raw = broker.connect();
                let bytes = request(&["PUBLISH", "flood", &payload]);
                (0..FLOODS).for_each(|_| raw.write(&bytes));
                (0..FLOODS).for_each(|_| assert_eq!(raw.read_text(), ":1\r\n"));
            });
        }
        scope.spawn(|| {
            let mut raw = broker.connect();
            for number in 0..20 {
                assert!(raw.ask(&format!("SUBSCRIBE c{number}")).ends_with(&format!(":{}\r\n", number + 1)));
            }
        });
        for _ in 0..4 * FLOODS {
            assert!(keen.read_reply().len() > payload.len());
        }
    });
}

// ---- users -----------------------------------------------------------------------------------------------

/// Children of another user are counted too, on its own connection.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn children_of_other_users_are_counted() {
    let redis = Redis::start();
    redis.ask("ACL SETUSER ann on >annpw ~* &* +@all");
    redis.ask("ACL SETUSER few on >fewpw ~* resetchannels &fine +@all");
    let broker = Broker::start(&redis, &[("auth", "passthrough")]);
    let listen = |name: &str, count: usize| {
        let connected = |_| {
            let mut raw = broker.connect();
            raw.expect(&format!("AUTH {name} {name}pw"), "+OK\r\n");
            raw.ask("SUBSCRIBE fine");
            raw
        };
        (0..count).map(connected).collect::<Vec<Raw>>()
    };
    let (_ann, few) = (listen("ann", 3), listen("few", 2));
    let mut publisher = broker.connect();
    publisher.expect("AUTH few fewpw", "+OK\r\n");
    publisher.expect("PUBLISH fine x", ":5\r\n");
    publisher.expect("PUBSUB NUMSUB fine", "*2\r\n$4\r\nfine\r\n:5\r\n");
    assert!(publisher.ask("PUBLISH denied x").starts_with("-NOPERM"), "its rights are its own");
    drop(few);
    wait_until("its user's own have gone", || publisher.ask("PUBLISH fine x") == ":3\r\n");
    assert!(publisher.ask("PUBLISH denied x").starts_with("-NOPERM"));
}

/// Rights that are missing are told as Redis tells them, on the connection for messages as well.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_message_that_may_not_be_published_is_refused() {
    let twin = Twin::start();
    let mut listening = listeners(&twin, 2, &["SUBSCRIBE a"]);
    for redis in [&twin.direct, &twin.behind] {
        assert_eq!(redis.ask("ACL SETUSER default -publish"), "+OK\r\n");
    }
    let mut other = twin.pair();
    assert!(other.same("PUBLISH a x").starts_with("-NOPERM"));
    other.same(ASKED[0]);
    for redis in [&twin.direct, &twin.behind] {
        assert_eq!(redis.ask("ACL SETUSER default +publish"), "+OK\r\n");
    }
    other.same("PUBLISH a x");
    listening.iter_mut().for_each(|pair| drop(pair.same_replies("the message", 1)));
}
