//! Blocking commands on leased lanes: the replies of a real Redis, progress for everyone when leases are
//! short, and no element lost or given twice.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::support::raw::pipeline;
use crate::support::{self, Broker, Raw, Redis, Twin, direct, upstream_clients, wait_until};

#[test]
fn timeouts_and_nulls_are_the_same() {
    let twin = Twin::start();
    for resp3 in [false, true] {
        let mut pair = if resp3 { twin.pair_resp3() } else { twin.pair() };
        for line in [
            "BLPOP none 0.02",
            "BRPOP none other 0.02",
            "BRPOPLPUSH none x 0.02",
            "BLMOVE none x LEFT RIGHT 0.02",
            "BLMPOP 0.02 1 none LEFT",
            "BZPOPMIN none 0.02",
            "BZPOPMAX none 0.02",
            "BZMPOP 0.02 1 none MIN",
            "XREAD BLOCK 20 STREAMS none $",
            "XREAD COUNT 2 BLOCK 20 STREAMS none 0",
            "xread block 20 streams none 0",
            "BLPOP none -1",
            "BLPOP none abc",
            "BLPOP none inf",
            "BLPOP none",
            "SET text 1",
            "BLPOP text 0",
            "BZPOPMIN text 0",
            "XREAD BLOCK 0 STREAMS text 0",
            "XREADGROUP GROUP g me BLOCK 0 STREAMS none >",
            "XREAD BLOCK",
            "XREAD BLOCK 0",
            "XREAD BLOCK 0 STREAMS",
            "XREAD COUNT BLOCK STREAMS a 0",
            "PING",
        ] {
            pair.same(line);
        }
    }
}

#[test]
fn elements_already_there_come_at_once() {
    let twin = Twin::start();
    for resp3 in [false, true] {
        let mut pair = if resp3 { twin.pair_resp3() } else { twin.pair() };
        pair.same("FLUSHALL");
        pair.same("RPUSH l a b c d e f");
        pair.same("ZADD z 1 a 2 b 3 c 4 d");
        pair.same("XADD s 1-1 f v");
        pair.same("XGROUP CREATE s g 0");
        for line in [
            "BLPOP l 0",
            "BRPOP none l 0",
            "BLMOVE l m LEFT LEFT 0",
            "BRPOPLPUSH l m 0",
            "BLMPOP 0 2 none l LEFT COUNT 2",
            "BZPOPMIN z 0",
            "BZPOPMAX none z 0",
            "BZMPOP 0 1 z MIN COUNT 2",
            "XREAD BLOCK 0 STREAMS s 0",
            "XREADGROUP GROUP g me BLOCK 0 STREAMS s >",
            "LRANGE m 0 -1",
        ] {
            pair.same(line);
        }
    }
}

/// What a waiter is woken with, in both protocols.
#[test]
fn waiters_wake_with_the_same_reply() {
    let twin = Twin::start();
    let cases = [
        ("BLPOP l 0", "RPUSH l one"),
        ("BRPOP k l 0", "RPUSH l one two"),
        ("BLMOVE l m LEFT RIGHT 0", "RPUSH l one"),
        ("BLMPOP 0 2 k l LEFT COUNT 2", "RPUSH l one two three"),
        ("BZPOPMIN z 0", "ZADD z 1.5 one"),
        ("BZMPOP 0 1 z MAX", "ZADD z 1 one 2 two"),
        ("XREAD BLOCK 0 STREAMS s $", "XADD s 5-5 f v"),
        ("XREAD COUNT 1 BLOCK 10000 STREAMS s t $ $", "XADD t 5-5 f v"),
    ];
    for resp3 in [false, true] {
        for (wait, push) in cases {
            let mut waiter = if resp3 { twin.pair_resp3() } else { twin.pair() };
            let mut pusher = twin.pair();
            pusher.same("FLUSHALL");
            waiter.direct.send(wait);
            waiter.brokered.send(wait);
            wait_blocked(&twin.direct, 1);
            wait_blocked(&twin.behind, 1);
            pusher.same(push);
            waiter.same_replies(wait, 1);
            waiter.same("PING");
        }
    }
}

/// A stream or its group may go while someone waits on it.
#[test]
fn waiters_are_told_when_their_stream_goes() {
    let twin = Twin::start();
    for end in ["DEL s", "XGROUP DESTROY s g"] {
        let mut waiter = twin.pair();
        let mut other = twin.pair();
        other.same("XADD s 1-1 f v");
        other.same("XGROUP CREATE s g $");
        waiter.direct.send("XREADGROUP GROUP g me BLOCK 0 STREAMS s >");
        waiter.brokered.send("XREADGROUP GROUP g me BLOCK 0 STREAMS s >");
        wait_blocked(&twin.direct, 1);
        wait_blocked(&twin.behind, 1);
        other.same(end);
        waiter.same_replies(end, 1);
        waiter.same("PING");
        other.same("DEL s");
    }
}

/// What follows a blocking command in the pipeline waits for it.
#[test]
fn later_requests_wait_their_turn() {
    let twin = Twin::start();
    let mut waiter = twin.pair();
    let bytes = pipeline(&["BLPOP l 0", "PING", "SET after 1", "GET after", "SELECT 1", "DBSIZE"]);
    waiter.direct.write(&bytes);
    waiter.brokered.write(&bytes);
    wait_blocked(&twin.direct, 1);
    wait_blocked(&twin.behind, 1);
    let mut other = twin.pair();
    assert_eq!(other.same("EXISTS after"), ":0\r\n");
    other.same("RPUSH l x");
    waiter.same_replies("the rest", 6);
}

#[test]
fn waiters_have_their_own_database() {
    let twin = Twin::start();
    let mut waiter = twin.pair();
    waiter.same("SELECT 3");
    waiter.direct.send("BLPOP l 0");
    waiter.brokered.send("BLPOP l 0");
    wait_blocked(&twin.direct, 1);
    wait_blocked(&twin.behind, 1);
    let mut other = twin.pair();
    other.same("RPUSH l wrong");
    other.same("SELECT 3");
    other.same("RPUSH l right");
    assert!(waiter.same_replies("BLPOP", 1)[0].ends_with(b"right\r\n"));
    other.same("SELECT 0");
    other.same("LLEN l");
}

/// Two hundred poppers of one list under a cap of sixteen: neither a popper of another list nor users of
/// WATCH stand still, and each of the two hundred waits for as long as it takes.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_crowd_on_one_list_starves_nobody() {
    let redis = Redis::start();
    let settings =
        [("leases_blocking_max", "16"), ("leases_per_group_max", "32"), ("lease_wait_timeout", "500")];
    let broker = Broker::start(&redis, &settings);
    let mut crowd: Vec<Raw> = (0..200).map(|_| broker.connect()).collect();
    crowd.iter_mut().for_each(|raw| raw.send("BLPOP x 0"));
    wait_until("the crowd holds leases", || blocked(&redis) >= 15);
    let mut lone = broker.connect();
    lone.send("BLPOP y 0");
    watch_users_make_progress(&broker);
    let mut pusher = broker.connect();
    pusher.expect("RPUSH y for-y", ":1\r\n");
    assert_eq!(lone.read_text(), "*2\r\n$1\r\ny\r\n$5\r\nfor-y\r\n");
    for element in 0..200 {
        assert!(pusher.ask(&format!("RPUSH x e{element}")).starts_with(':'));
    }
    let mut served = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !crowd.is_empty() {
        assert!(Instant::now() < deadline, "{} are not served", crowd.len());
        let outcome = collect(&mut crowd, Duration::from_millis(300));
        assert_eq!(outcome.told, 0, "whoever is served in its turn is told nothing");
        served.extend(outcome.served);
    }
    check_each_element_once(&served, &redis.ask("LRANGE x 0 -1"), 200);
}

/// Groups of waiters come and go under a small cap, so leases are taken back all the time while elements
/// arrive: each element is given once or still there.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn taking_a_lease_back_loses_no_element() {
    let redis = Redis::start();
    let settings =
        [("leases_blocking_max", "8"), ("leases_per_group_max", "8"), ("lease_wait_timeout", "15000")];
    let broker = Broker::start(&redis, &settings);
    let mut crowd: Vec<Raw> = (0..60).map(|_| broker.connect()).collect();
    crowd.iter_mut().for_each(|raw| raw.send("BLPOP x 0"));
    wait_until("the crowd holds the leases", || blocked(&redis) >= 7);
    let mut pusher = broker.connect();
    let mut pushed = 0;
    for round in 0..6 {
        let mut others: Vec<(String, Raw)> = Vec::new();
        for group in 0..6 {
            let key = format!("k{round}-{group}");
            let mut raw = broker.connect();
            raw.send(&format!("BLPOP {key} 0"));
            others.push((key, raw));
            pusher.write(&pipeline(&[&format!("RPUSH x e{pushed}")]));
            assert!(pusher.read_text().starts_with(':'));
            pushed += 1;
        }
        for (key, raw) in &mut others {
            assert!(pusher.ask(&format!("RPUSH {key} mine")).starts_with(':'));
            assert!(raw.read_text().ends_with("$4\r\nmine\r\n"), "{key}");
        }
    }
    let mut served = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while served.len() < pushed && Instant::now() < deadline {
        served.extend(collect(&mut crowd, Duration::from_millis(200)).served);
    }
    let left = redis.ask("LRANGE x 0 -1");
    check_each_element_once(&served, &left, pushed);
}

/// At the cap and without a place for its own group, a waiter is told.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn waiters_without_a_lease_are_told() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("leases_blocking_max", "2"), ("lease_wait_timeout", "1500")]);
    let mut holders: Vec<Raw> = (0..2).map(|_| broker.connect()).collect();
    for (number, raw) in holders.iter_mut().enumerate() {
        raw.send(&format!("BLPOP held{number} 0"));
    }
    wait_until("both leases are in use", || blocked(&redis) == 2);
    let mut late = broker.connect();
    let reply = late.ask("BLPOP third 0");
    assert!(reply.starts_with("-BROKERLIMIT "), "{reply}");
    late.expect("PING", "+PONG\r\n");
    let mut pusher = broker.connect();
    for (number, raw) in holders.iter_mut().enumerate() {
        pusher.expect(&format!("RPUSH held{number} e"), ":1\r\n");
        assert!(raw.read_text().ends_with("$1\r\ne\r\n"));
    }
    pusher.expect("RPUSH third e", ":1\r\n");
    late.expect("BLPOP third 0", "*2\r\n$5\r\nthird\r\n$1\r\ne\r\n");
}

/// The command's own timeout runs while its child waits for a lease.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_short_timeout_ends_in_the_queue_as_in_redis() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("leases_blocking_max", "1"), ("lease_wait_timeout", "15000")]);
    let mut holder = broker.connect();
    holder.send("BLPOP held 0");
    wait_until("the lease is in use", || blocked(&redis) == 1);
    broker.connect().expect("BLPOP held 0.1", "*-1\r\n");
    broker.connect_resp3().expect("BLPOP held 0.1", "_\r\n");
    broker.connect().expect("BLPOP other 0.1", "*-1\r\n");
    broker.connect().expect("PING", "+PONG\r\n");
}

/// A popper that leaves takes nothing with it: the element goes to a living one.
#[test]
fn elements_pass_by_the_dead() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    for round in 0..20 {
        let mut dead = broker.connect();
        dead.send("BLPOP l 0");
        wait_blocked(&redis, 1);
        drop(dead);
        wait_blocked(&redis, 0);
        let mut pusher = broker.connect();
        pusher.expect(&format!("RPUSH l {round}"), ":1\r\n");
        let value = round.to_string();
        pusher.expect("LPOP l", &format!("${}\r\n{value}\r\n", value.len()));
    }
    if !direct() {
        let leases = upstream_clients(&redis).iter().filter(|client| client.name() == "broker-lease").count();
        assert!(leases <= 2, "dead poppers leave no leases behind: {leases}");
    }
}

fn watch_users_make_progress(broker: &Broker) {
    std::thread::scope(|scope| {
        for number in 0..10 {
            scope.spawn(move || {
                let mut raw = broker.connect();
                let key = format!("own{number}");
                for round in 1..=10 {
                    raw.expect(&format!("WATCH {key}"), "+OK\r\n");
                    raw.ask(&format!("GET {key}"));
                    raw.expect("MULTI", "+OK\r\n");
                    raw.expect(&format!("INCR {key}"), "+QUEUED\r\n");
                    raw.expect("EXEC", &format!("*1\r\n:{round}\r\n"));
                }
            });
        }
    });
}

struct Outcome {
    served: Vec<String>,
    told: usize,
}

/// Reads the answers that arrive until none has come for `quiet`; the answered children are taken out.
fn collect(crowd: &mut Vec<Raw>, quiet: Duration) -> Outcome {
    let mut outcome = Outcome { served: Vec::new(), told: 0 };
    let mut last = Instant::now();
    crowd.iter_mut().for_each(|raw| raw.set_patience(Duration::from_millis(1)));
    while !crowd.is_empty() && last.elapsed() < quiet {
        crowd.retain_mut(|raw| {
            let Ok(reply) = raw.try_reply() else { return true };
            last = Instant::now();
            let text = String::from_utf8_lossy(&reply).into_owned();
            if text.starts_with("-BROKERLIMIT ") {
                outcome.told += 1;
            } else {
                let element = text.split("\r\n").nth(4);
                outcome
                    .served
                    .push(element.unwrap_or_else(|| panic!("neither served nor told: {text}")).to_owned());
            }
            false
        });
    }
    outcome
}

fn check_each_element_once(served: &[String], left: &str, pushed: usize) {
    let left: Vec<&str> = left.split("\r\n").filter(|part| part.starts_with('e')).collect();
    let distinct: HashSet<&str> = served.iter().map(String::as_str).chain(left.iter().copied()).collect();
    assert_eq!(distinct.len(), pushed, "every element is somewhere");
    assert_eq!(served.len() + left.len(), pushed, "no element is given twice");
}

fn blocked(redis: &Redis) -> usize {
    upstream_clients(redis).iter().filter(|client| client.field("flags").contains('b')).count()
}

fn wait_blocked(redis: &Redis, count: usize) {
    wait_until(&format!("{count} blocked in Redis"), || blocked(redis) == count);
}

/// A request and the end of file in one write: what can be answered at once is answered, as by Redis, which
/// sees the request before the end. The element must not be lost.
#[test]
fn an_element_that_is_there_reaches_a_child_that_sends_no_more() {
    let twin = Twin::start();
    let mut served = 0;
    for round in 0..20 {
        let mut pair = twin.pair();
        pair.same(&format!("RPUSH ready:{round} element"));
        for raw in [&mut pair.direct, &mut pair.brokered] {
            raw.send(&format!("BLPOP ready:{round} 0"));
            raw.half_close();
        }
        let reply = pair.direct.read_reply();
        assert!(reply.ends_with(b"element\r\n"), "{}", support::show(&reply));
        // The broker's patience with a child that has ended is short, and a busy machine may outlast it.
        match pair.brokered.try_reply() {
            Ok(same) => {
                assert_eq!(support::show(&same), support::show(&reply));
                served += 1;
            }
            Err(end) => assert_eq!(end, support::End::Closed),
        }
        assert!(pair.brokered.is_closed());
    }
    assert!(served > 0, "no element came through");
}

/// A user that may not CLIENT UNBLOCK: no lease can be taken back, so the waiter beyond the cap is told, and
/// those before it wait on.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn without_the_right_to_unblock_waiters_are_told() {
    let redis = Redis::start();
    redis.connect().expect("ACL SETUSER meek on >pw ~* &* +@all -client|unblock", "+OK\r\n");
    let settings = [
        ("upstream_username", "meek"),
        ("upstream_password", "pw"),
        ("leases_blocking_max", "2"),
        ("lease_wait_timeout", "1500"),
    ];
    let broker = Broker::start(&redis, &settings);
    let (mut one, mut two, mut other) = (broker.connect(), broker.connect(), broker.connect());
    one.send("BLPOP x 0");
    two.send("BLPOP x 0");
    wait_until("both are blocked", || blocked(&redis) == 2);
    assert!(other.ask("BLPOP y 0").starts_with("-BROKERLIMIT "));
    broker.connect().expect("RPUSH x a b", ":2\r\n");
    let mut served = [one.read_text(), two.read_text()];
    served.sort();
    assert_eq!(served, ["*2\r\n$1\r\nx\r\n$1\r\na\r\n", "*2\r\n$1\r\nx\r\n$1\r\nb\r\n"]);
    let said = || broker.log().matches("the user has no right to client|unblock").count();
    wait_until("it is said in the log", || said() > 0);
    assert_eq!(said(), 1);
}

/// Where no lease comes in time, what is there is delivered all the same, in the form that the blocking command has. A
/// null would lose it for its program.
#[test]
fn what_is_there_is_never_answered_by_null() {
    let twin = Twin::start_with(&[], &[("leases_blocking_max", "1")]);
    let mut holder = twin.broker.connect();
    holder.send("BLPOP nothing 0");
    if !direct() {
        wait_until("the only lease is lent", || {
            upstream_clients(&twin.behind).iter().any(|c| c.field("flags").contains('b'))
        });
    }
    for hello in ["HELLO 2", "HELLO 3"] {
        let mut pair = twin.pair();
        pair.same_with(hello, |reply| reply.split("id").next().unwrap_or_default().to_owned());
        for key in ["l", "m"] {
            pair.same(&format!("DEL {key}"));
            pair.same(&format!("RPUSH {key} 1 2 3 4 5 6 7 8 9"));
            pair.same(&format!("ZADD z{key} 1 a 2.5 b 3 c 4 d 5 e"));
        }
        pair.same("XADD s 1-1 f v");
        pair.same("XGROUP CREATE s g 0");
        for line in [
            "BLPOP none l m 0.02",
            "BRPOP none l 0.01",
            "BLMOVE l other LEFT LEFT 0.01",
            "BRPOPLPUSH l other 0.01",
            "BLMPOP 0.01 2 none l LEFT COUNT 2",
            "BZPOPMIN none zl 0.01",
            "BZPOPMAX zl zm 0.01",
            "BZMPOP 0.01 2 none zl MAX COUNT 2",
            "XREAD COUNT 1 BLOCK 10 STREAMS s 0",
            "XREADGROUP GROUP g c BLOCK 10 STREAMS s >",
            // Nothing is there.
            "BLPOP none 0.01",
            "BLMOVE none other LEFT LEFT 0.01",
            "BRPOPLPUSH none other 0.01",
            "BZPOPMIN none 0.01",
            "BLMPOP 0.01 1 none LEFT",
            "BZMPOP 0.01 1 none MAX",
            "XREAD BLOCK 10 STREAMS s $",
            // What is there is something else.
            "BLPOP s 0.01",
            "BZPOPMIN l 0.01",
        ] {
            pair.same(line);
        }
        pair.same("LRANGE l 0 -1");
        pair.same("LRANGE other 0 -1");
        pair.same("ZRANGE zl 0 -1 WITHSCORES");
        pair.same("DEL s");
    }
}

/// A user who may wait for an element but not look for it is told that it got no connection.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn without_the_right_to_look_it_is_a_limit() {
    let redis = Redis::start();
    redis.ask("ACL SETUSER default -multi");
    let settings = [("leases_blocking_max", "1"), ("leases_warm", "0")];
    let broker = Broker::start(&redis, &settings);
    let (mut holder, mut raw) = (broker.connect(), broker.connect());
    raw.expect("RPUSH l e", ":1\r\n");
    holder.send("BLPOP nothing 0");
    wait_until("the only lease is lent", || {
        upstream_clients(&redis).iter().any(|c| c.field("flags").contains('b'))
    });
    let reply = raw.ask("BLPOP l 0.01");
    assert!(reply.starts_with("-BROKERLIMIT no leased connection"), "{reply}");
    assert!(reply.contains("leases_blocking_max is 1 and all are lent"), "{reply}");
    raw.expect("LLEN l", ":1\r\n");
}
