//! A master that sentinels name: real sentinels, real failovers, children that go on.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::console::rows;
use crate::support::native::free_port;
use crate::support::raw::pipeline;
use crate::support::sentinel::{MASTER, SentinelGroup};
use crate::support::{Broker, Raw, Redis, upstream_clients, wait_until, wait_within};

/// A master, a replica of it, their ports.
struct Pair {
    servers: [Redis; 2],
    ports: [u16; 2],
}

impl Pair {
    fn start(more: &[&str]) -> Pair {
        let ports = [free_port(), free_port()];
        let start = |port: u16| {
            let port = port.to_string();
            let own = ["--port", &port, "--bind", "127.0.0.1", "--repl-diskless-sync-delay", "0"];
            Redis::start_with(&[&own, more].concat())
        };
        let servers = ports.map(start);
        assert_eq!(servers[1].ask(&format!("REPLICAOF 127.0.0.1 {}", ports[0])), "+OK\r\n");
        wait_until("the replica is in step", || is_in_step(&servers[1]));
        Pair { servers, ports }
    }

    fn at(&self, port: u16) -> &Redis {
        let at = self.ports.iter().position(|one| *one == port).expect("one of the two");
        &self.servers[at]
    }
}

fn broker(sentinels: &SentinelGroup, settings: &[(&str, &str)]) -> Broker {
    let url = format!("redis+sentinel://{}/{MASTER}", sentinels.hosts());
    Broker::start_url(&url, std::path::Path::new("/nonexistent"), settings)
}

fn is_replica(server: &Redis) -> bool {
    server.try_ask("ROLE").is_some_and(|role| role.contains("slave"))
}

fn is_in_step(replica: &Redis) -> bool {
    replica.try_ask("INFO replication").is_some_and(|info| info.contains("master_link_status:up"))
}

/// What the broker says of its upstream.
fn upstream(console: &mut Raw, column: &str) -> String {
    rows(console, "UPSTREAM")[0][column].clone()
}

/// Counts on a key of its own until it is stopped. What has been acknowledged, and when each was asked for.
fn count(broker: &Broker, number: usize, stop: &AtomicBool) -> (u64, u64) {
    let mut raw = broker.connect();
    let (mut done, mut failed) = (0, 0);
    while !stop.load(Ordering::SeqCst) {
        let reply = raw.ask(&format!("INCR count:{number}"));
        match reply.as_bytes()[0] {
            b':' => done += 1,
            _ => {
                assert!(reply.starts_with("-BROKER") || reply.starts_with("-READONLY"), "{reply}");
                failed += 1;
            }
        }
    }
    (done, failed)
}

/// The old master lives on, and acknowledges writes for as long as nobody tells it better: nobody writes to it.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_failover_is_followed_by_all_in_one_step() {
    let pair = Pair::start(&[]);
    let sentinels = SentinelGroup::start(pair.ports[0], 1, 3, None);
    let broker = broker(&sentinels, &[]);
    let (stop, counts, mut console) = (AtomicBool::new(false), Mutex::new(Vec::new()), broker.connect());
    wait_until("it is served", || console.ask("SET k v") == "+OK\r\n");
    assert!(!broker.log().contains(" warn "), "a sentinel that had no time to speak is nobody's trouble");
    assert_eq!(upstream(&mut console, "master"), format!("127.0.0.1:{}", pair.ports[0]));
    let mut blocked = broker.connect();
    blocked.send("BLPOP list 0");
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (broker, stop, counts) = (&broker, &stop, &counts);
            scope.spawn(move || {
                let count = count(broker, number, stop);
                counts.lock().expect("counts").push((number, count));
            });
        }
        let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 1..=2 {
                let former = sentinels.master_port(0);
                sentinels.fail_over();
                wait_until("the broker has followed", || {
                    upstream(&mut console, "master") != format!("127.0.0.1:{former}")
                });
                let now = sentinels.master_port(0);
                assert_eq!(upstream(&mut console, "master"), format!("127.0.0.1:{now}"));
                let (old, new) = (pair.at(former), pair.at(now));
                let before = new.ask("GET count:0");
                wait_until("writes go on at the new one", || new.ask("GET count:0") != before);
                // All of them are there, and nobody else's.
                let lanes = |redis: &Redis| {
                    upstream_clients(redis).iter().filter(|client| client.name() == "broker-lane").count()
                };
                wait_until("nobody is left at the old one", || lanes(old) == 0);
                assert!(lanes(new) > 0, "round {round}");
                wait_until("the old one is a replica", || is_replica(old));
                wait_until("it is in step", || is_in_step(old));
            }
        }));
        stop.store(true, Ordering::SeqCst);
        judged.expect("each failover is followed");
    });
    let new = pair.at(sentinels.master_port(0));
    for (number, (done, failed)) in counts.into_inner().expect("counts") {
        let value = new.ask(&format!("GET count:{number}"));
        let value: u64 = value.split("\r\n").nth(1).expect("a value").parse().expect("a number");
        // Between the promotion and the word of the sentinels the old one takes writes, which are lost with it.
        assert!(value > 0 && value <= done + failed, "child {number}: {value}, {done} done, {failed} failed");
    }
    console.expect("RPUSH list e", ":1\r\n");
    assert_eq!(blocked.read_text(), "*2\r\n$4\r\nlist\r\n$1\r\ne\r\n", "it has waited all the time");
    assert!(upstream(&mut console, "switches").parse::<u32>().expect("a number") >= 2);
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_master_that_dies_is_followed() {
    let pair = Pair::start(&[]);
    let mut sentinels = SentinelGroup::start(pair.ports[0], 1, 3, None);
    // Other sentinels are learnt from the one that the URL names, which is gone when they are needed.
    // The others know it by another address.
    let first = sentinels.hosts().split(',').next().expect("one").replace("127.0.0.1", "localhost");
    let url = format!("redis+sentinel://{first}/{MASTER}");
    let settings = [("queue_timeout", "20s")];
    let broker = Broker::start_url(&url, std::path::Path::new("/nonexistent"), &settings);
    let mut raw = broker.connect();
    raw.expect("SET k v", "+OK\r\n");
    wait_until("all sentinels are known", || {
        rows(&mut raw, "SENTINELS").iter().filter(|row| row["state"] == "up").count() == 3
    });
    let known = rows(&mut raw, "SENTINELS");
    assert_eq!(known.len(), 3, "each is known once: {known:?}");
    wait_until("the replica has it", || pair.servers[1].ask("GET k") == "$1\r\nv\r\n");
    sentinels.kill(0);
    pair.servers[0].kill();
    raw.expect("SET k w", "+OK\r\n");
    assert_eq!(pair.servers[1].ask("GET k"), "$1\r\nw\r\n");
    let trouble = rows(&mut raw, "SENTINELS");
    assert!(trouble.iter().any(|row| row["state"] != "up" && row["sentinel"] == first), "{trouble:?}");
    // It comes back with its old configuration, takes itself for a master, and is written to by nobody.
    pair.servers[0].restart();
    raw.expect("INCR n", ":1\r\n");
    wait_until("it is a replica", || is_replica(&pair.servers[0]));
    wait_until("it is in step", || pair.servers[0].try_ask("GET n").as_deref() == Some("$1\r\n1\r\n"));
}

/// Those of the data never go to a sentinel, nor the other way.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn sentinels_have_credentials_of_their_own() {
    let pair = Pair::start(&[]);
    let sentinels = SentinelGroup::start(pair.ports[0], 1, 1, Some("s3ntinel"));
    let told = |settings: &[(&str, &str)]| {
        let settings = [&[("queue_timeout", "300ms")], settings].concat();
        let broker = broker(&sentinels, &settings);
        let mut raw = broker.connect();
        let mut reply = String::new();
        wait_until("an answer with its reason", || {
            reply = raw.ask("SET k v");
            reply == "+OK\r\n" || reply.contains("sentinel 127.0.0.1") || reply.contains("127.0.0.1:")
        });
        reply
    };
    assert!(told(&[]).contains("HELLO was answered with: NOAUTH"), "{}", told(&[]));
    assert!(told(&[("upstream_password", "s3ntinel")]).contains("NOAUTH"), "it is not for sentinels");
    assert!(told(&[("sentinel_password", "wrong")]).contains("WRONGPASS"));
    assert_eq!(told(&[("sentinel_password", "s3ntinel")]), "+OK\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_name_that_the_sentinels_do_not_know_is_asked_for_again() {
    let pair = Pair::start(&[]);
    let sentinels = SentinelGroup::start(pair.ports[0], 1, 1, None);
    let url = format!("redis+sentinel://{}/other", sentinels.hosts());
    let settings = [("queue_timeout", "300ms")];
    let broker = Broker::start_url(&url, std::path::Path::new("/nonexistent"), &settings);
    let mut raw = broker.connect();
    let unknown = "no sentinel has named the master \"other\"";
    wait_until("it is told why", || {
        let told = raw.ask("GET k");
        told.contains(unknown) && told.contains("No such master with that name")
    });
    let monitor = format!("SENTINEL MONITOR other 127.0.0.1 {} 1", pair.ports[0]);
    assert_eq!(sentinels.ask(0, &monitor).as_deref(), Some("+OK\r\n"));
    wait_until("it is found", || raw.ask("GET k") == "$-1\r\n");
}

/// How many calls of a command the server has counted.
fn calls(server: &Redis, command: &str) -> u64 {
    let stats = server.ask("INFO commandstats");
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().and_then(|calls| calls.parse().ok()).expect("a number"))
}

/// A pair with one sentinel, and a broker whose children read from replicas.
fn reading_from_replicas() -> (Pair, SentinelGroup, Broker) {
    let pair = Pair::start(&[]);
    let sentinels = SentinelGroup::start(pair.ports[0], 1, 1, None);
    let url = format!("redis+sentinel://{}/{MASTER}", sentinels.hosts());
    let broker = Broker::start_listening("?read=replica", &url, &[]);
    (pair, sentinels, broker)
}

/// Reads go to the replica, what a child has just written it reads from the master, and a replica that is gone is missed by
/// nobody.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn reads_go_to_a_replica_that_is_asked_for() {
    let (pair, _sentinels, broker) = reading_from_replicas();
    let [master, replica] = &pair.servers;
    let [mut reader, mut writer, mut console] = [(); 3].map(|()| broker.connect());
    wait_until("it is served", || writer.ask("SET k v0") == "+OK\r\n");
    wait_until("the replica is known", || {
        rows(&mut console, "REPLICAS").iter().any(|row| row["state"] == "used")
    });
    wait_until("the replica has it", || replica.ask("GET k").contains("v0"));
    let before = [master, replica].map(|server| calls(server, "get"));
    for _ in 0..100 {
        assert_eq!(reader.ask("GET k"), "$2\r\nv0\r\n");
    }
    let after = [master, replica].map(|server| calls(server, "get"));
    assert_eq!((after[0] - before[0], after[1] - before[1]), (0, 100));
    // What is not for a replica: cursors, a transaction, what has no key.
    for request in ["SSCAN s 0", "RANDOMKEY", "MULTI", "STRLEN k", "EXEC", "EVAL return(1) 0"] {
        let reply = reader.ask(request);
        assert!(!reply.starts_with('-'), "{request}: {reply}");
    }
    for command in ["sscan", "randomkey", "strlen", "eval"] {
        assert_eq!((calls(master, command), calls(replica, command)), (1, 0), "{command}");
    }
    // What was written is read where it was written.
    let before = calls(replica, "get");
    for number in 1..200 {
        writer.send(&format!("SET k v{number}"));
        assert_eq!(writer.read_reply(), b"+OK\r\n");
        assert_eq!(writer.ask("GET k"), format!("${}\r\nv{number}\r\n", format!("v{number}").len()));
    }
    assert_eq!(calls(replica, "get"), before);
    // In one write, and the other way round.
    writer.write(&pipeline(&["GET none", "SET k w", "GET k", "PING"]));
    for expected in ["$-1\r\n", "+OK\r\n", "$1\r\nw\r\n", "+PONG\r\n"] {
        assert_eq!(String::from_utf8_lossy(&writer.read_reply()), expected);
    }
    wait_until("it reads from the replica again", || {
        let before = calls(replica, "get");
        writer.ask("GET k");
        calls(replica, "get") > before
    });
    // Not one request is lost that had not left.
    replica.connect().send("SHUTDOWN NOSAVE");
    wait_until("the replica is gone", || {
        reader.ask("GET k");
        rows(&mut console, "LANES").iter().all(|lane| lane["replica"] == "-" || lane["state"] != "ready")
    });
    for _ in 0..50 {
        assert_eq!(reader.ask("GET k"), "$1\r\nw\r\n");
    }
}

/// The replica becomes the master and the master its replica: reads go on, in the end to the other one of the two, and no
/// write is refused by it.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn reads_from_replicas_outlive_a_failover() {
    let (pair, sentinels, broker) = reading_from_replicas();
    let [old, new] = &pair.servers;
    let [mut reader, mut writer, mut console] = [(); 3].map(|()| broker.connect());
    wait_until("it is served", || writer.ask("SET k v") == "+OK\r\n");
    wait_until("it reads from the replica", || reader.ask("GET k") == "$1\r\nv\r\n" && calls(new, "get") > 0);
    sentinels.fail_over();
    let mut lost = 0;
    let mut number = 0u64;
    // Sentinels turn the former master round ten seconds later, and are asked for replicas every ten seconds.
    wait_within("the former master is read from", Duration::from_secs(60), || {
        number += 1;
        for (child, request) in [(&mut reader, "GET k".to_owned()), (&mut writer, format!("SET n {number}"))]
        {
            let reply = child.ask(&request);
            if reply.starts_with("-BROKERLOST ") {
                lost += 1;
            } else {
                assert!(["$1\r\nv\r\n", "+OK\r\n"].contains(&reply.as_str()), "{request}: {reply}");
            }
        }
        is_replica(old) && rows(&mut console, "REPLICAS").iter().any(|row| row["state"] == "used")
    });
    assert!(lost <= 3, "what was written to servers that closed: {lost}");
    wait_until("it reads there", || {
        let before = calls(old, "get");
        reader.expect("GET k", "$1\r\nv\r\n");
        calls(old, "get") > before
    });
    assert_eq!(writer.ask("SET n end"), "+OK\r\n");
    assert_eq!(new.ask("GET n"), "$3\r\nend\r\n");
}
