//! A master that becomes a replica under its children (`upstream_role`), by `REPLICAOF` on a real pair.

use crate::support::console::rows;
use crate::support::native::free_port;
use crate::support::{Broker, Raw, Redis, upstream_clients, wait_until};

const READONLY: &str = "-READONLY You can't write against a read only replica.\r\n";

/// Two servers, of which the first is a master; and its port.
fn pair() -> (Redis, Redis, u16) {
    let ports = [free_port(), free_port()];
    let [first, second] = ports.map(|port| Redis::start_with(&["--port", &port.to_string()]));
    (first, second, ports[1])
}

fn demote(redis: &Redis, port: u16) {
    assert_eq!(redis.ask(&format!("REPLICAOF 127.0.0.1 {port}")), "+OK\r\n");
}

/// What the broker says of its upstream.
fn upstream(console: &mut Raw, column: &str) -> String {
    rows(console, "UPSTREAM")[0][column].clone()
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn reads_go_on_where_the_only_server_has_become_a_replica() {
    let (first, _second, port) = pair();
    let broker = Broker::start(&first, &[]);
    let [mut raw, mut watches, mut console] = [(); 3].map(|()| broker.connect());
    raw.expect("SET k v", "+OK\r\n");
    watches.expect("WATCH k", "+OK\r\n");
    demote(&first, port);
    wait_until("the write is refused", || raw.ask("SET k w") == READONLY);
    wait_until("its connections are left", || upstream(&mut console, "switches") != "0");
    wait_until("the role is told", || raw.ask("HELLO").contains("replica"));
    assert!(["$1\r\nv\r\n", "$-1\r\n"].contains(&raw.ask("GET k").as_str()));
    raw.expect("SET k x", READONLY);
    // What was watched is lost with its connection.
    watches.expect("MULTI", "+OK\r\n");
    watches.expect("GET k", "+QUEUED\r\n");
    watches.expect("EXEC", "*-1\r\n");
    let before = upstream(&mut console, "switches");
    first.ask("REPLICAOF NO ONE");
    wait_until("writes go on", || raw.ask("SET k y") == "+OK\r\n");
    assert_eq!(upstream(&mut console, "switches"), before, "the server is the same");
    wait_until("the role is told", || raw.ask("HELLO").contains("master"));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn where_a_master_is_asked_for_no_replica_serves() {
    let (first, _second, port) = pair();
    let broker = Broker::start(&first, &[("upstream_role", "master"), ("queue_timeout", "500")]);
    let mut raw = broker.connect();
    raw.expect("SET k v", "+OK\r\n");
    demote(&first, port);
    wait_until("the broker knows", || {
        let told = raw.ask("SET k w");
        assert!(told == READONLY || told.starts_with("-BROKERDOWN "), "{told}");
        told.contains("the server is a replica")
    });
    let told = raw.ask("GET k");
    assert!(told.starts_with("-BROKERDOWN ") && told.contains("the server is a replica"), "{told}");
    assert!(upstream_clients(&first).iter().all(|client| client.field("cmd") != "get"));
    first.ask("REPLICAOF NO ONE");
    wait_until("it serves again", || raw.ask("SET k x") == "+OK\r\n");
}

/// A blocked pop is sent away by a server that becomes a replica. Nothing was popped, so it waits where requests go now.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn whoever_is_blocked_waits_for_the_master_that_is_missed() {
    let (first, _second, port) = pair();
    let broker = Broker::start(&first, &[("upstream_role", "master"), ("reconnect_backoff_max", "50")]);
    let [mut blocked, mut other] = [(); 2].map(|()| broker.connect());
    blocked.send("BLPOP list 0");
    wait_until("it is blocked", || {
        upstream_clients(&first).iter().any(|client| client.field("cmd") == "blpop")
    });
    demote(&first, port);
    wait_until("it is sent away", || {
        upstream_clients(&first).iter().all(|client| client.field("cmd") != "blpop")
    });
    first.ask("REPLICAOF NO ONE");
    wait_until("writes go on", || other.ask("RPUSH list e") == ":1\r\n");
    assert_eq!(blocked.read_text(), "*2\r\n$4\r\nlist\r\n$1\r\ne\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_server_first_met_as_a_replica_is_meant() {
    let (first, second, _) = pair();
    second.ask("SET k v");
    let port = second.ask("CONFIG GET port");
    let port = port.split("\r\n").nth(4).expect("a number").parse().expect("a number");
    demote(&first, port);
    wait_until("it has the data", || first.ask("GET k") == "$1\r\nv\r\n");
    let broker = Broker::start(&first, &[]);
    let mut raw = broker.connect();
    raw.expect("GET k", "$1\r\nv\r\n");
    raw.expect("SET k w", READONLY);
    let mut console = broker.connect();
    assert_eq!(upstream(&mut console, "switches"), "0");
}
