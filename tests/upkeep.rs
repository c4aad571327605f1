//! What the janitor does about connections and slow subscribers, each by the setting that governs it.

use crate::support::{Broker, Redis, upstream_clients, wait_until};

/// The ids of the upstream connections of that name.
fn ids(redis: &Redis, name: &str) -> Vec<String> {
    let clients = upstream_clients(redis);
    clients
        .iter()
        .filter(|client| client.name() == name)
        .map(|client| client.field("id").to_owned())
        .collect()
}

/// A lane past its lifetime is replaced under load, and no request is lost or failed for it.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn upstream_lifetime_replaces_lanes_unnoticed() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("upstream_lifetime", "100")]);
    let mut raw = broker.connect();
    let mut seen: Vec<String> = Vec::new();
    let mut count = 0;
    wait_until("five lanes have come and gone", || {
        for _ in 0..50 {
            count += 1;
            raw.expect("INCR counted", &format!(":{count}\r\n"));
        }
        let now = ids(&redis, "broker-lane");
        seen.extend(now.into_iter().filter(|id| !seen.contains(id)).collect::<Vec<_>>());
        seen.len() >= 5
    });
    assert!(ids(&redis, "broker-lane").len() <= 1, "a lane is replaced, not added");
}

/// Over the soft limit for longer than its time: closed and named, though far from the hard limit.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn subscriber_output_soft_time_ends_a_slow_subscriber() {
    let redis = Redis::start();
    let settings = [("subscriber_output_soft", "256KiB"), ("subscriber_output_soft_time", "300")];
    let broker = Broker::start(&redis, &settings);
    let (mut slow, mut quick) = (broker.connect(), broker.connect());
    let id = slow.ask("CLIENT ID");
    slow.expect("SUBSCRIBE news", "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    quick.expect("SUBSCRIBE news", "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
    let mut publisher = broker.connect();
    let message = "m".repeat(100_000);
    for _ in 0..20 {
        publisher.call(&["PUBLISH", "news", &message]);
        assert_eq!(
            quick.read_reply().len(),
            "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$100000\r\n\r\n".len() + 100_000
        );
    }
    wait_until("the slow one is named", || {
        let log = broker.log();
        log.lines()
            .any(|line| line.contains("subscriber_output_soft_time") && line.contains(id[1..].trim_end()))
    });
    publisher.call(&["PUBLISH", "news", "after"]);
    assert!(quick.read_text().ends_with("after\r\n"), "the quick one is served on");
}

/// Once a lease has been needed, so many leased connections stay ready.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn leases_warm_stay_connected() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("leases_warm", "3")]);
    let mut raw = broker.connect();
    raw.expect("SET k v", "+OK\r\n");
    assert!(ids(&redis, "broker-lease").is_empty(), "nobody has needed one yet");
    raw.expect("WATCH k", "+OK\r\n");
    raw.expect("UNWATCH", "+OK\r\n");
    wait_until("three are ready", || ids(&redis, "broker-lease").len() == 3);
}

/// What a burst of blocking commands has opened is closed again soon after it, but for the warm ones.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn leases_of_a_burst_go_within_seconds() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("leases_warm", "2")]);
    let mut waiting: Vec<_> = (0..40).map(|_| broker.connect()).collect();
    for (index, raw) in waiting.iter_mut().enumerate() {
        raw.send(&format!("BLPOP list{index} 0"));
    }
    wait_until("each waits on a connection of its own", || ids(&redis, "broker-lease").len() == 40);
    let mut pusher = broker.connect();
    for (index, raw) in waiting.iter_mut().enumerate() {
        pusher.expect(&format!("RPUSH list{index} e"), ":1\r\n");
        assert!(raw.read_text().ends_with("$1\r\ne\r\n"));
    }
    // Far below upstream_idle_timeout, which is five minutes.
    wait_until("two are left", || ids(&redis, "broker-lease").len() == 2);
}
