//! What programs that do not know the broker see of a Redis that goes away (`on_upstream_loss = close`): the end of their
//! connection, as without a broker, and only if they have lost something.

use std::time::{Duration, Instant};

use crate::support::console::rows;
use crate::support::raw::{End, pipeline};
use crate::support::{Broker, Raw, Redis, upstream_clients, wait_until};

const CLOSE: (&str, &str) = ("on_upstream_loss", "close");

/// The soonest that a child is closed behind its last request.
const SOONEST: Duration = Duration::from_millis(100);

/// A connection whose lane is known to stand.
fn served(broker: &Broker) -> Raw {
    let mut raw = broker.connect();
    wait_until("it is served", || raw.ask("PING") == "+PONG\r\n");
    raw
}

fn ends_without_a_word(raw: &mut Raw) {
    assert_eq!(raw.read_all(), (Vec::new(), End::Closed));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn whoever_waits_for_a_redis_that_dies_is_closed_and_nobody_else() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[CLOSE]);
    let mut idle: Vec<Raw> = (0..5).map(|_| served(&broker)).collect();
    let mut asking: Vec<Raw> = (0..5).map(|_| served(&broker)).collect();
    let mut blocked: Vec<Raw> = (0..5).map(|_| served(&broker)).collect();
    let mut silent = served(&broker);
    silent.write(&pipeline(&["CLIENT REPLY OFF"]));
    let mut queueing = served(&broker);
    queueing.expect("MULTI", "+OK\r\n");
    queueing.expect("SET queued 1", "+QUEUED\r\n");
    let mut watching = served(&broker);
    watching.expect("WATCH watched", "+OK\r\n");
    for (number, raw) in blocked.iter_mut().enumerate() {
        raw.send(&format!("BLPOP nothing:{number} 0"));
    }
    wait_until("they are blocked", || {
        upstream_clients(&redis).iter().filter(|client| client.field("cmd") == "blpop").count() == 5
    });
    redis.stop();
    for raw in &mut asking {
        raw.write(&pipeline(&["ECHO answered", "GET k", "GET k"]));
    }
    silent.send("INCR silent");
    let asked = Instant::now();
    for raw in &mut asking {
        assert_eq!(raw.read_text(), "$8\r\nanswered\r\n");
    }
    // What is written stands on the connection, for Redis to read.
    let mut console = broker.connect();
    wait_until("all of it is written", || {
        let lanes = rows(&mut console, "LANES WHERE role shared");
        lanes.iter().map(|lane| lane["in_flight"].parse::<u32>().expect("a number")).sum::<u32>() >= 11
            && lanes.iter().all(|lane| lane["output_bytes"] == "0")
    });
    redis.kill();
    asking.iter_mut().chain(&mut blocked).chain([&mut silent]).for_each(ends_without_a_word);
    assert!(asked.elapsed() >= SOONEST, "a client that is closed at once is back at once");
    redis.restart();
    for raw in &mut idle {
        raw.expect("GET k", "$-1\r\n");
    }
    queueing.expect("EXEC", "*1\r\n+OK\r\n");
    watching.expect("MULTI", "+OK\r\n");
    watching.expect("GET k", "+QUEUED\r\n");
    watching.expect("EXEC", "*-1\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn without_redis_children_wait_and_are_closed() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[CLOSE, ("queue_timeout", "300")]);
    let mut rests = served(&broker);
    let mut knows = served(&broker);
    knows.expect("BROKER ERRORS", "+OK\r\n");
    redis.kill();
    for line in ["GET k", "BLPOP l 0", "WATCH k", "HELLO 3", "SUBSCRIBE c"] {
        let (mut raw, begun) = (broker.connect(), Instant::now());
        raw.send(line);
        ends_without_a_word(&mut raw);
        assert!(begun.elapsed() >= Duration::from_millis(300), "{line}");
    }
    let told = knows.ask("GET k");
    assert!(told.starts_with("-BROKERDOWN "), "{told}");
    wait_until("it is logged", || broker.log().contains("on_upstream_loss: closing child"));
    redis.restart();
    wait_until("it is served again", || knows.ask("GET k") == "$-1\r\n");
    rests.expect("GET k", "$-1\r\n");
}

/// A connect to a unix socket always succeeds. Whoever tries again at once is held up each time.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_client_that_comes_back_at_once_does_not_spin() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[CLOSE, ("queue_timeout", "0")]);
    wait_until("it is up", || broker.log().contains(" is up"));
    redis.kill();
    let (begun, mut tries) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(2) {
        let mut raw = broker.connect();
        raw.send("GET k");
        ends_without_a_word(&mut raw);
        tries += 1;
    }
    assert!(tries <= 20, "{tries} connections in 2 s");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn anybody_may_ask_for_errors_before_saying_who_it_is() {
    let redis = Redis::start_with(&["--requirepass", "secret"]);
    let broker = Broker::start(
        &redis,
        &[CLOSE, ("auth", "passthrough"), ("upstream_password", "secret"), ("queue_timeout", "300")],
    );
    let mut raw = broker.connect();
    raw.expect("BROKER ERRORS", "+OK\r\n");
    raw.expect("AUTH secret", "+OK\r\n");
    raw.expect("RESET", "+RESET\r\n");
    raw.expect("AUTH secret", "+OK\r\n");
    redis.kill();
    wait_until("it is told", || raw.ask("GET k").starts_with("-BROKERDOWN "));
}
