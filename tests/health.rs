//! What a health check, and whoever decides by it whether to write, is told of the server: what the server says now,
//! never what the broker remembers of it.

use std::time::Duration;

use crate::support::{Broker, Raw, Redis, Twin, wait_until};

const PONG: &str = "+PONG\r\n";

/// A server that loads its data set for as long as the test needs.
fn loading(redis: &Redis) {
    let mut direct = redis.connect();
    for batch in 0..40 {
        let values: Vec<String> = (0..50).map(|n| format!("key:{batch}:{n} value")).collect();
        direct.ask(&format!("MSET {}", values.join(" ")));
    }
    direct.expect("SAVE", "+OK\r\n");
    drop(direct);
    redis.restart_loading();
}

#[test]
fn ping_says_that_the_server_loads() {
    let redis = Redis::start_with(&["--save", "3600 1000000"]);
    let broker = Broker::start(&redis, &[]);
    broker.connect().expect("PING", PONG);
    loading(&redis);
    let mut raw = broker.connect();
    let loads = "-LOADING Redis is loading the dataset in memory\r\n";
    wait_until("the broker is connected again", || raw.ask("PING") == loads);
    raw.expect("PING hello", loads);
    raw.expect("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    raw.expect("PING", loads);
    assert!(broker.connect().ask("HELLO 3").starts_with('%'), "HELLO is answered all the same");
}

#[test]
fn ping_says_that_a_replica_may_not_serve() {
    let redis = Redis::start_with(&["--replica-serve-stale-data", "no"]);
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    raw.expect("PING", PONG);
    redis.ask("REPLICAOF 127.0.0.1 1");
    assert!(raw.ask("PING").starts_with("-MASTERDOWN"));
    redis.ask("REPLICAOF NO ONE");
    raw.expect("PING", PONG);
}

#[test]
fn ping_waits_for_a_server_that_hangs() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    raw.expect("PING", PONG);
    redis.stop();
    raw.send("PING");
    assert!(raw.is_silent(Duration::from_millis(200)));
    redis.cont();
    assert_eq!(raw.read_text(), PONG);
}

/// All the forms that PING has, wherever it stands.
#[test]
fn ping_has_the_form_that_its_connection_asks_for() {
    for settings in [&[][..], &[("ping", "local")], &[("pubsub", "leased")], &[("integrity", "always")]] {
        let twin = Twin::start_with(&[], settings);
        for hello in ["HELLO 2", "HELLO 3"] {
            let mut pair = twin.pair();
            pair.same_with(hello, |reply| reply.split("id").next().unwrap_or_default().to_owned());
            for line in [
                "PING",
                "PING x",
                "PING x y",
                "MULTI",
                "PING",
                "PING x",
                "EXEC",
                "WATCH k",
                "PING",
                "PING x",
                "UNWATCH",
                "SUBSCRIBE c",
                "PING",
                "PING x",
                "PING x y",
                "UNSUBSCRIBE c",
                "PING",
                "WATCH k",
                "PSUBSCRIBE p*",
                "PING x",
                "PUNSUBSCRIBE p*",
                "PING",
            ] {
                pair.same(line);
            }
        }
    }
}

/// With `ping = local` a metered server hears of no PING.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn ping_may_be_kept_here() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("ping", "local")]);
    let mut raw = broker.connect();
    raw.expect("SET k v", "+OK\r\n");
    let pings = |redis: &Redis| redis.ask("INFO commandstats").contains("cmdstat_ping");
    redis.ask("CONFIG RESETSTAT");
    raw.expect("PING", PONG);
    assert!(!pings(&redis));
    assert!(Broker::start(&redis, &[]).connect().ask("PING") == PONG && pings(&redis));
}

fn role(raw: &mut Raw) -> String {
    let greeting = raw.ask("HELLO 3");
    let role = greeting.split("$4\r\nrole\r\n").nth(1).unwrap_or_default();
    role.split("\r\n").nth(1).unwrap_or_default().to_owned()
}

/// A client decides by the role in HELLO whether it may write.
#[test]
fn hello_tells_the_role_that_the_server_has_now() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    for _ in 0..3 {
        assert_eq!(role(&mut broker.connect()), "master");
        redis.ask("REPLICAOF 127.0.0.1 1");
        assert_eq!(role(&mut broker.connect()), "replica");
        redis.ask("REPLICAOF NO ONE");
    }
    assert_eq!(role(&mut broker.connect()), "master");
}

/// Many who ask at once cost the server a question or two, and each is told of itself.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn hellos_that_wait_together_share_a_question() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut children: Vec<Raw> = (0..50).map(|_| broker.connect()).collect();
    children[0].expect("SET k v", "+OK\r\n");
    redis.ask("CONFIG RESETSTAT");
    redis.stop();
    for child in &mut children {
        child.send("CLIENT ID");
        child.send("HELLO 3");
    }
    // The broker has read all of them once it has read the last.
    for child in &mut children {
        assert!(child.read_text().starts_with(':'));
    }
    redis.cont();
    for child in &mut children {
        let greeting = child.read_text();
        assert!(greeting.starts_with("%7\r\n"), "{greeting}");
        child.expect("ECHO x", "$1\r\nx\r\n");
    }
    let stats = redis.ask("INFO commandstats");
    let hellos = stats.split("cmdstat_hello:calls=").nth(1).unwrap_or("0,").split(',').next();
    let hellos: u32 = hellos.and_then(|count| count.parse().ok()).unwrap_or(0);
    // The test's own connections do not say HELLO.
    assert!((1..=3).contains(&hellos), "{hellos} questions for 50 children");
}
