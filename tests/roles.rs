//! A master that becomes a replica under its children (`upstream_role`), by `REPLICAOF` on a real pair.

use crate::name_lookups::{redis_at, redis_at_port};
use crate::support::console::rows;
use crate::support::name_server::NameServer;
use crate::support::native::free_port;
use crate::support::{Broker, Proxy, Raw, Redis, upstream_clients, wait_until};

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

/// As a managed service does it that keeps the old server alive: the name leads to the new master, the old one has become a
/// replica and says so to whoever writes.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_name_that_leads_to_the_new_master_is_followed_by_all() {
    let (old, port) = redis_at("127.0.0.2");
    let new = redis_at_port("127.0.0.3", port);
    let names = NameServer::start("");
    names.set("db.test", &["127.0.0.2"]);
    let broker = Broker::start_named(&names, &format!("redis://db.test:{port}"), &[("lanes", "2")]);
    let mut children: Vec<Raw> = (0..4).map(|_| broker.connect()).collect();
    for (number, child) in children.iter_mut().enumerate() {
        wait_until("it is served", || child.ask(&format!("SET {number} old")) == "+OK\r\n");
    }
    let mut blocked = broker.connect();
    blocked.send("BLPOP list 0");
    wait_until("it is blocked", || {
        upstream_clients(&old).iter().any(|client| client.field("cmd") == "blpop")
    });
    names.set("db.test", &["127.0.0.3"]);
    // A name is looked up once a second at most, and this one has just been.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(old.ask(&format!("REPLICAOF 127.0.0.3 {port}")), "+OK\r\n");
    // One of them finds out for all.
    wait_until("the new master", || children[0].ask("SET 0 new") == "+OK\r\n");
    for (number, child) in children.iter_mut().enumerate() {
        child.expect(&format!("SET {number} new"), "+OK\r\n");
        assert_eq!(new.ask(&format!("GET {number}")), "$3\r\nnew\r\n", "it is the new master that has it");
    }
    children[0].expect("RPUSH list e", ":1\r\n");
    assert_eq!(blocked.read_text(), "*2\r\n$4\r\nlist\r\n$1\r\ne\r\n");
    assert!(upstream_clients(&old).iter().all(|client| !client.name().starts_with("broker-")));
}

/// Of two servers of one name the other one is the master now.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_other_address_of_a_name_may_be_the_master() {
    let (first, port) = redis_at("127.0.0.2");
    let second = redis_at_port("127.0.0.3", port);
    let names = NameServer::start("");
    names.set("db.test", &["127.0.0.2", "127.0.0.3"]);
    let broker = Broker::start_named(&names, &format!("redis://db.test:{port}"), &[]);
    let mut child = broker.connect();
    wait_until("it is served", || child.ask("SET k 1") == "+OK\r\n");
    let (master, other) = if first.ask("GET k") == "$1\r\n1\r\n" {
        (first, (second, "127.0.0.3"))
    } else {
        (second, (first, "127.0.0.2"))
    };
    assert_eq!(master.ask(&format!("REPLICAOF {} {port}", other.1)), "+OK\r\n");
    wait_until("the other one is written to", || child.ask("SET k 2") == "+OK\r\n");
    assert_eq!(other.0.ask("GET k"), "$1\r\n2\r\n");
}

/// Behind a balancer only new connections lead to the new master. Those that stand follow it once a write is refused there.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn connections_that_stand_follow_a_balancer() {
    let (old, new, port) = pair();
    let proxy = Proxy::start(&old);
    let broker = Broker::start_at(proxy.socket(), &[]);
    let [mut child, mut watches] = [(); 2].map(|()| broker.connect());
    child.expect("SET k 1", "+OK\r\n");
    watches.expect("WATCH k", "+OK\r\n");
    proxy.lead_to(&new);
    let clients = upstream_clients(&old);
    let control = clients.iter().find(|client| client.name() == "broker-control").expect("it is there");
    assert_eq!(old.ask(&format!("CLIENT KILL ID {}", control.field("id"))), ":1\r\n");
    wait_until("the control connection leads to the new one", || {
        upstream_clients(&new).iter().any(|client| client.name() == "broker-control")
    });
    demote(&old, port);
    watches.expect("SET k 2", READONLY);
    child.expect("SET k 3", READONLY);
    wait_until("writes go to the new master", || child.ask("SET k 4") == "+OK\r\n");
    assert_eq!(new.ask("GET k"), "$1\r\n4\r\n");
    watches.expect("UNWATCH", "+OK\r\n");
    wait_until("none is left", || {
        upstream_clients(&old).iter().all(|client| !client.name().starts_with("broker-"))
    });
}
