//! A child that is told BROKERDOWN or BROKERLIMIT, and whoever reads the log, learns the reason: the last real one, in
//! the upstream's own words.

use crate::support::{Broker, Raw, Redis, upstream_clients, wait_until};

/// Short enough not to wait for.
const SHORT_LEASE_WAIT: (&str, &str) = ("lease_wait_timeout", "400ms");
/// The same for who is to be told that there is no connection, and long enough for several attempts to connect.
const SHORT: [(&str, &str); 2] = [("queue_timeout", "400ms"), SHORT_LEASE_WAIT];

fn short(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [&SHORT[..], more].concat()
}

/// What stands at the beginning of a reply and what it must name.
#[track_caller]
fn tells(raw: &mut Raw, line: &str, begins: &str, names: &str) {
    let reply = raw.ask(line);
    assert!(reply.starts_with(begins) && reply.contains(names), "{line}: {reply}");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_server_without_room_is_named() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &short(&[]));
    let mut raw = broker.connect();
    wait_until("it is connected", || raw.ask("SET k v") == "+OK\r\n");
    // As many as there are, and one for the test: the server lets nobody else in.
    let mut direct = redis.connect();
    direct.expect(&format!("CONFIG SET maxclients {}", upstream_clients(&redis).len() + 1), "+OK\r\n");
    let full = "ERR max number of clients reached";
    raw.expect("GET k", "$1\r\nv\r\n");
    tells(&mut raw, "BLPOP l 0", "-BROKERLIMIT no leased connection within 400 ms", full);
    tells(&mut raw, "WATCH k", "-BROKERLIMIT no leased connection within 400 ms", full);
    tells(&mut raw, "SUBSCRIBE c", "-BROKER", full);
    raw.expect("SELECT 1", "+OK\r\n");
    tells(&mut raw, "GET k", "-BROKERDOWN", full);
    let log = broker.log();
    assert!(log.contains(full), "at the level that is the default: {log}");
    assert!(log.matches(full).count() < 10, "and not for each attempt: {log}");
    direct.expect("CONFIG SET maxclients 1000", "+OK\r\n");
    wait_until("it is let in again", || raw.ask("GET k") == "$-1\r\n");
    wait_until("leases are too", || raw.ask("WATCH k") == "+OK\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_wrong_password_is_named() {
    let redis = Redis::start_with(&["--requirepass", "right"]);
    let wrong = Broker::start(&redis, &short(&[("upstream_password", "wrong")]));
    tells(&mut wrong.connect(), "GET k", "-BROKERDOWN", "HELLO was answered with: WRONGPASS");
    tells(&mut wrong.connect(), "PING", "-BROKERDOWN", "WRONGPASS");
    let none = Broker::start(&redis, &short(&[]));
    tells(&mut none.connect(), "GET k", "-BROKERDOWN", "HELLO was answered with: NOAUTH");
    // One that changes while connections stand: those go on, new ones do not.
    let broker = Broker::start(&redis, &[SHORT_LEASE_WAIT, ("upstream_password", "right")]);
    let mut raw = broker.connect();
    raw.expect("RPUSH l e", ":1\r\n");
    let mut direct = redis.connect();
    direct.expect("CONFIG SET requirepass other", "+OK\r\n");
    tells(&mut raw, "WATCH l", "-BROKERLIMIT", "WRONGPASS");
    tells(&mut raw, "BLPOP none 0", "-BROKERLIMIT", "WRONGPASS");
    // Nobody could look, so nobody says null.
    tells(&mut raw, "BLPOP l 0.1", "-BROKERLIMIT", "WRONGPASS");
    raw.expect("LLEN l", ":1\r\n");
    assert!(broker.log().contains("WRONGPASS"), "{}", broker.log());
    direct.expect("CONFIG SET requirepass right", "+OK\r\n");
    wait_until("it is right again", || raw.ask("WATCH l") == "+OK\r\n");
}

/// A name in CLIENT LIST is a help, and no connection fails for want of it.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_server_without_client_serves() {
    for name in ["\"\"", "cl13nt"] {
        let redis = Redis::start_with(&["--rename-command", "CLIENT", name.trim_matches('"')]);
        let broker = Broker::start(&redis, &[]);
        let mut raw = broker.connect();
        raw.expect("SET k v", "+OK\r\n");
        raw.expect("WATCH k", "+OK\r\n");
        raw.expect("UNWATCH", "+OK\r\n");
        raw.expect("SELECT 1", "+OK\r\n");
        raw.expect("GET k", "$-1\r\n");
        raw.expect("BLPOP l 0.01", "*-1\r\n");
    }
}

/// The text of a limit says which, and that it can be raised.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_limit_is_named_with_what_raises_it() {
    let redis = Redis::start();
    let settings = [
        SHORT_LEASE_WAIT,
        ("leases_session_max", "1"),
        ("leases_transaction_max", "1"),
        ("leases_blocking_max", "0"),
    ];
    let broker = Broker::start(&redis, &settings);
    let (mut tracks, mut watches, mut other) = (broker.connect(), broker.connect(), broker.connect());
    tracks.expect("CLIENT TRACKING ON", "+OK\r\n");
    watches.expect("WATCH k", "+OK\r\n");
    let limit = "-BROKERLIMIT no leased connection within 400 ms: ";
    tells(
        &mut other,
        "CLIENT TRACKING ON",
        limit,
        "leases_session_max is 1 and all are lent, 0 more wait; raise it for more",
    );
    tells(
        &mut other,
        "WATCH k",
        limit,
        "leases_transaction_max is 1 and all are lent, 0 more wait; raise it for more",
    );
    tells(&mut other, "BLPOP l 0", limit, "leases_blocking_max is 0, raise it");
}
