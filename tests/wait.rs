//! WAIT: how many replicas have what this child wrote, told of the connection that wrote it and of no other, and
//! without standing in anybody's way.

use crate::support::{Broker, Redis, Twin, list_clients, upstream_clients, wait_until};

/// A master with one replica that is up to date.
struct Replicated {
    master: Redis,
    replica: Redis,
}

impl Replicated {
    fn start() -> Replicated {
        // A replica needs a port to find its master; the master takes one that is free.
        let port = free_port().to_string();
        let master =
            Redis::start_with(&["--port", &port, "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"]);
        let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]);
        let replicated = Replicated { master, replica };
        wait_until("the replica is up to date", || replicated.acknowledged());
        replicated
    }

    fn acknowledged(&self) -> bool {
        let mut raw = self.master.connect();
        raw.ask("SET warm 1");
        raw.ask("WAIT 1 200") == ":1\r\n"
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

fn lanes(redis: &Redis) -> usize {
    upstream_clients(redis).iter().filter(|client| client.name() == "broker-lane").count()
}

#[test]
fn without_replicas_it_is_as_with_redis() {
    let twin = Twin::start();
    let mut pair = twin.pair();
    pair.same("WAIT 0 0");
    pair.same("SET k v");
    pair.same("WAIT 0 0");
    pair.same("WAIT 1 20");
    pair.same("WAIT 1 -1");
    pair.same("WAIT x 1");
    pair.same("WAIT 1 x");
    pair.same("WAIT 1");
    pair.same("GET k");
    pair.same("MULTI");
    pair.same("SET k w");
    pair.same("WAIT 1 0");
    pair.same("EXEC");
    pair.same("WATCH k");
    pair.same("WAIT 1 20");
    pair.same("MULTI");
    pair.same("SET k x");
    pair.same("EXEC");
    pair.same("WAIT 1 20");
    pair.same_pipeline(b"SET k 1\r\nWAIT 1 20\r\nGET k\r\nWAIT 1 20\r\nPING\r\n", 5);
}

/// Whether or not it has written anything before.
#[test]
fn a_subscriber_is_told_as_by_redis() {
    let twin = Twin::start();
    let mut pair = twin.pair();
    pair.same("SET k v");
    pair.same("SUBSCRIBE c");
    pair.same("WAIT 0 10");
    pair.same("PING");
}

#[test]
fn it_counts_the_replicas_that_have_the_write() {
    let replicated = Replicated::start();
    let broker = Broker::start(&replicated.master, &[]);
    let mut child = broker.connect();
    child.expect("SET a 1", "+OK\r\n");
    child.expect("WAIT 1 10000", ":1\r\n");
    child.expect("WAIT 1 10000", ":1\r\n");
    // As the first thing a child says.
    broker.connect().expect("WAIT 1 10000", ":1\r\n");
    // What was written on a leased lane.
    child.expect("WATCH a", "+OK\r\n");
    child.expect("MULTI", "+OK\r\n");
    child.expect("SET a 2", "+QUEUED\r\n");
    child.expect("EXEC", "*1\r\n+OK\r\n");
    child.expect("WAIT 1 10000", ":1\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_replica_that_has_stopped_is_never_counted_and_nobody_waits_for_it() {
    let replicated = Replicated::start();
    let broker = Broker::start(&replicated.master, &[]);
    let (mut waits, mut other) = (broker.connect(), broker.connect());
    other.expect("SET other 0", "+OK\r\n");
    // A leased lane lies ready whose last command the replica has heard of: a WAIT on it would count the replica.
    other.expect("BLPOP none 0.01", "*-1\r\n");
    other.expect("WAIT 1 10000", ":1\r\n");
    // The replica is stopped, its connection stays: what is written from now on it has not.
    replicated.replica.stop();
    for round in 0..5 {
        waits.expect(&format!("SET a {round}"), "+OK\r\n");
        waits.expect("WAIT 1 50", ":0\r\n");
        waits.expect("WATCH a", "+OK\r\n");
        waits.expect("MULTI", "+OK\r\n");
        waits.expect("SET a 2", "+QUEUED\r\n");
        waits.expect("EXEC", "*1\r\n+OK\r\n");
        waits.expect("WAIT 1 50", ":0\r\n");
    }
    waits.expect("SET a 1", "+OK\r\n");
    waits.send("WAIT 1 0");
    let mut raw = replicated.master.connect();
    wait_until("it waits", || list_clients(&mut raw).iter().any(|client| client.field("cmd") == "wait"));
    // Everybody else goes on, on another connection, and may wait too.
    for round in 0..100 {
        other.expect(&format!("SET other {round}"), "+OK\r\n");
    }
    other.expect("WAIT 1 50", ":0\r\n");
    replicated.replica.cont();
    assert_eq!(waits.read_text(), ":1\r\n");
    wait_until("the other's is there too", || other.ask("WAIT 1 1000") == ":1\r\n");
    assert!(lanes(&replicated.master) <= 3, "one lane, and one for each that waited");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_write_whose_connection_was_lost_is_not_vouched_for() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut child = broker.connect();
    child.expect("SET a 1", "+OK\r\n");
    child.expect("WAIT 0 10", ":0\r\n");
    let mut raw = redis.connect();
    for client in list_clients(&mut raw).iter().filter(|client| client.name() == "broker-lane") {
        raw.ask(&format!("CLIENT KILL ID {}", client.field("id")));
    }
    // Another child has found out: the lane has a new connection.
    wait_until("the lane is back", || broker.connect().ask("GET a") == "$1\r\n1\r\n");
    let lost = child.ask("WAIT 0 10");
    assert!(lost.starts_with("-BROKERLOST "), "{lost}");
    child.expect("SET a 2", "+OK\r\n");
    child.expect("WAIT 0 10", ":0\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_child_that_dies_waiting_leaves_no_lane_blocked() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = redis.connect();
    for _ in 0..3 {
        let mut child = broker.connect();
        child.expect("SET a 1", "+OK\r\n");
        child.send("WAIT 1 0");
        wait_until("it waits", || list_clients(&mut raw).iter().any(|client| client.field("cmd") == "wait"));
    }
    wait_until("no lane waits any more", || {
        !list_clients(&mut raw).iter().any(|client| client.field("cmd") == "wait")
    });
    broker.connect().expect("GET a", "$1\r\n1\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn as_many_lanes_wait_as_there_may_be_sessions() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("leases_session_max", "2"), ("lease_wait_timeout", "1500ms")]);
    let mut waiting = Vec::new();
    let mut raw = redis.connect();
    for number in 1..=2 {
        let mut child = broker.connect();
        child.expect("SET a 1", "+OK\r\n");
        child.send("WAIT 1 0");
        wait_until("it waits", || {
            let clients = list_clients(&mut raw);
            clients.iter().filter(|client| client.field("cmd") == "wait").count() == number
        });
        waiting.push(child);
    }
    let mut third = broker.connect();
    third.expect("SET a 1", "+OK\r\n");
    let refused = third.ask("WAIT 1 0");
    assert!(refused.starts_with("-BROKERLIMIT "), "{refused}");
    third.expect("GET a", "$1\r\n1\r\n");
}
