//! Upstream dies, stalls, lies or is not there: each request has exactly one answer, the answer says what may
//! have happened, and nothing a child did not ask for ever reaches it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::support::raw::pipeline;
use crate::support::{Broker, Proxy, Raw, Redis, upstream_clients, wait_until};

const LOST: &str =
    "-BROKERLOST upstream connection lost before the reply; the command may have been executed\r\n";
/// What every BROKERDOWN begins with; the reason follows.
const DOWN: &str = "-BROKERDOWN no upstream connection; the command was not executed";

/// What one child saw of its own counter.
#[derive(Debug, Default)]
struct Ledger {
    done: u64,
    lost: u64,
    down: u64,
}

/// What all of them have been answered so far.
#[derive(Debug, Default)]
struct Seen {
    done: AtomicU64,
    down: AtomicU64,
}

/// Sends INCR after INCR, a few at a time, and sorts the answers.
fn count(broker: &Broker, number: usize, stop: &AtomicBool, seen: &Seen) -> Ledger {
    let mut raw = broker.connect();
    let mut ledger = Ledger::default();
    let line = format!("INCR ledger:{number}");
    let mut last = 0;
    while !stop.load(Ordering::SeqCst) {
        let batch = 1 + number % 4;
        raw.write(&pipeline(&vec![line.as_str(); batch]));
        for _ in 0..batch {
            let reply = raw.read_text();
            match reply.as_str() {
                LOST => ledger.lost += 1,
                text if text.starts_with(DOWN) => {
                    ledger.down += 1;
                    seen.down.fetch_add(1, Ordering::SeqCst);
                }
                // It is back, and still reads its file: nothing was executed.
                loading if loading.starts_with("-LOADING ") => {}
                _ => {
                    let value: u64 =
                        reply.strip_prefix(':').and_then(|text| text.trim_end().parse().ok()).expect(&reply);
                    assert!(value > last, "{line} went from {last} to {value}");
                    last = value;
                    ledger.done += 1;
                    seen.done.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }
    ledger
}

/// Redis killed with SIGKILL under load, several times: an OK counts exactly once, a BROKERLOST once or not
/// at all, a BROKERDOWN never; nobody hangs, and traffic flows soon after Redis is back.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_ledger_survives_killed_redis() {
    let redis = Redis::start_durable();
    let broker = Broker::start(&redis, &[("queue_timeout", "200"), ("reconnect_backoff_max", "200")]);
    let (stop, seen) = (AtomicBool::new(false), Seen::default());
    let ledgers = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (broker, stop, seen, ledgers) = (&broker, &stop, &seen, &ledgers);
            scope.spawn(move || {
                let ledger = count(broker, number, stop, seen);
                ledgers.lock().expect("ledgers").push((number, ledger));
            });
        }
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| kill_and_return(&redis, &seen)));
        stop.store(true, Ordering::SeqCst);
        outcome.expect("traffic flows after each return");
    });
    let ledgers = ledgers.into_inner().expect("ledgers");
    assert_eq!(ledgers.len(), 8, "nobody hung");
    for (number, ledger) in &ledgers {
        let reply = redis.ask(&format!("GET ledger:{number}"));
        let value: u64 = reply.split("\r\n").nth(1).expect("a bulk").parse().expect("a number");
        let most = ledger.done + ledger.lost;
        assert!((ledger.done..=most).contains(&value), "child {number}: {value} in Redis, {ledger:?}");
    }
}

fn kill_and_return(redis: &Redis, seen: &Seen) {
    let (done, down) = (|| seen.done.load(Ordering::SeqCst), || seen.down.load(Ordering::SeqCst));
    for round in 0..3 {
        let before = done();
        wait_until("traffic flows", || done() > before + 500);
        redis.kill();
        let (answered, told) = (done(), down());
        wait_until("each of them could have been told that Redis is away", || down() >= told + 8);
        assert!(done() <= answered + 8 * 4, "no answers from a dead server");
        redis.restart();
        let (back, before) = (Instant::now(), done());
        wait_until("traffic flows after the return", || done() > before + 50);
        eprintln!("round {round}: traffic {:?} after Redis' return", back.elapsed());
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn without_redis_requests_wait_and_are_told() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("queue_timeout", "300")]);
    let mut raw = broker.connect();
    wait_until("it is connected", || raw.ask("SET k 1") == "+OK\r\n");
    redis.kill();
    // The end of a killed process is there before its parent has reaped it: nothing is written any more.
    assert!(raw.ask("INCR k").starts_with(DOWN));
    raw.write(&pipeline(&["INCR k", "ECHO local", "GET k", "NOSUCH x"]));
    assert!(raw.read_text().starts_with(DOWN));
    assert_eq!(raw.read_text(), "$5\r\nlocal\r\n");
    assert!(raw.read_text().starts_with(DOWN));
    assert!(raw.read_text().starts_with('-'));
    for line in ["BLPOP l 0", "WATCH k"] {
        let reply = raw.ask(line);
        assert!(reply.starts_with(DOWN) || reply.starts_with("-BROKERLIMIT "), "{line}: {reply}");
    }
    redis.restart();
    wait_until("requests are answered again", || raw.ask("GET k") == "$-1\r\n");
}

/// A short absence is not seen at all by what had not been written yet, and an end already delivered on an
/// idle lane is seen before the next write.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn requests_wait_for_a_quick_return() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("queue_timeout", "15000"), ("reconnect_backoff_max", "50")]);
    let mut raw = broker.connect();
    raw.expect("SET k 1", "+OK\r\n");
    redis.kill();
    let mut children: Vec<Raw> = (0..10).map(|_| broker.connect()).collect();
    for (number, raw) in children.iter_mut().enumerate() {
        raw.write(&pipeline(&[&format!("SET w:{number} a"), &format!("APPEND w:{number} b"), "ECHO on"]));
    }
    redis.restart();
    for raw in &mut children {
        assert_eq!(raw.read_text(), "+OK\r\n");
        assert_eq!(raw.read_text(), ":2\r\n");
        assert_eq!(raw.read_text(), "$2\r\non\r\n");
    }
}

/// Started before Redis: it serves as soon as Redis is there.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_broker_may_be_first() {
    let redis = Redis::start();
    redis.kill();
    let broker = Broker::start(&redis, &[("queue_timeout", "100")]);
    let mut raw = broker.connect();
    let reply = raw.ask("GET k");
    assert!(reply.starts_with(DOWN), "{reply}");
    redis.restart();
    wait_until("requests are answered", || raw.ask("GET k") == "$-1\r\n");
}

/// A reply that comes too late belongs to nobody any more.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_late_reply_is_not_the_next_ones() {
    let redis = Redis::start();
    let settings = [("request_timeout", "300"), ("lane_stall_timeout", "60000")];
    let broker = Broker::start(&redis, &settings);
    let (mut raw, mut other) = (broker.connect(), broker.connect());
    raw.expect("SET k first", "+OK\r\n");
    redis.stop();
    raw.send("GETSET k second");
    other.send("INCR m");
    let told = "-BROKERTIMEOUT no reply within 300 ms; the command may have been executed\r\n";
    assert_eq!(raw.read_text(), told);
    assert_eq!(other.read_text(), told);
    raw.send("ECHO local");
    assert_eq!(raw.read_text(), "$5\r\nlocal\r\n");
    redis.cont();
    wait_until("Redis answers again", || {
        let reply = raw.ask("STRLEN k");
        assert!(reply == told || reply == ":6\r\n", "{reply}");
        reply != told
    });
    raw.expect("GET k", "$6\r\nsecond\r\n");
    other.expect("ECHO mine", "$4\r\nmine\r\n");
    other.expect("GET m", "$1\r\n1\r\n");
    // A popper's wait is its own affair.
    other.expect("BLPOP none 0.6", "*-1\r\n");
}

/// A server that holds its sockets open and says nothing is found out.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_stalled_redis_is_given_up() {
    let redis = Redis::start();
    let settings = [("lane_stall_timeout", "400"), ("connect_timeout", "300")];
    let broker = Broker::start(&redis, &settings);
    let mut raw = broker.connect();
    raw.expect("SET k 1", "+OK\r\n");
    redis.stop();
    raw.send("INCR k");
    let reply = raw.read_text();
    redis.cont();
    assert_eq!(reply, LOST);
    wait_until("requests are answered again", || raw.ask("EXISTS k") == ":1\r\n");
    raw.expect("ECHO own", "$3\r\nown\r\n");
    let value = raw.ask("GET k");
    assert!(value == "$1\r\n1\r\n" || value == "$1\r\n2\r\n", "{value}");
}

/// A command that takes long is no stall: the probe on the control connection decides, and Redis answers.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_blocked_popper_is_no_stall() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("lane_stall_timeout", "200"), ("connect_timeout", "10s")]);
    let mut raw = broker.connect();
    raw.expect("BLPOP none 1", "*-1\r\n");
    raw.expect("PING", "+PONG\r\n");
}

/// A connection Redis closed while it was idle is no one's loss.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn idle_lanes_closed_by_redis_are_replaced() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    let mut direct = redis.connect();
    for round in 1..=30 {
        for client in upstream_clients(&redis) {
            if client.name() != "broker-control" || round % 5 == 0 {
                direct.ask(&format!("CLIENT KILL ID {}", client.field("id")));
            }
        }
        raw.expect("INCR k", &format!(":{round}\r\n"));
        raw.expect("WATCH k", "+OK\r\n");
        raw.expect("UNWATCH", "+OK\r\n");
        raw.expect("BLPOP none 0.01", "*-1\r\n");
    }
}

/// Redis closes its idle connections itself; with nothing in flight no child hears of it.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn redis_own_idle_timeout_is_not_seen() {
    let redis = Redis::start_with(&["--timeout", "1"]);
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    raw.expect("SET k 1", "+OK\r\n");
    let ids =
        || upstream_clients(&redis).iter().map(|client| client.field("id").to_owned()).collect::<Vec<_>>();
    let before = ids();
    wait_until("Redis closed the first connections", || ids().iter().all(|id| !before.contains(id)));
    raw.expect("GET k", "$1\r\n1\r\n");
}

/// A lease that dies takes the watch along: the next EXEC is refused, never run unguarded.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_lost_watch_never_lets_an_exec_through() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut direct = redis.connect();
    let mut raw = broker.connect();
    raw.expect("WATCH k", "+OK\r\n");
    kill_leases(&redis, &mut direct);
    raw.expect("MULTI", "+OK\r\n");
    raw.expect("SET k mine", "+QUEUED\r\n");
    raw.expect("EXEC", "*-1\r\n");
    raw.expect("EXISTS k", ":0\r\n");
    raw.expect("WATCH k", "+OK\r\n");
    raw.expect("MULTI", "+OK\r\n");
    raw.expect("SET k mine", "+QUEUED\r\n");
    kill_leases(&redis, &mut direct);
    let reply = raw.ask("EXEC");
    let refused = reply == "*-1\r\n" || reply.starts_with("-EXECABORT ") || reply == LOST;
    assert!(refused, "{reply}");
    raw.expect("EXISTS k", ":0\r\n");
    raw.expect("PING", "+PONG\r\n");
}

/// A blocked popper whose lease dies is told: an element may have been popped for it.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_lost_blocking_lease_is_told() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut direct = redis.connect();
    let mut raw = broker.connect();
    raw.send("BLPOP l 0");
    wait_until("it is blocked", || {
        upstream_clients(&redis).iter().any(|client| client.field("flags").contains('b'))
    });
    kill_leases(&redis, &mut direct);
    assert_eq!(raw.read_text(), LOST);
    raw.expect("PING", "+PONG\r\n");
}

fn kill_leases(redis: &Redis, direct: &mut Raw) {
    for client in upstream_clients(redis) {
        if client.name() == "broker-lease" {
            direct.ask(&format!("CLIENT KILL ID {}", client.field("id")));
        }
    }
}

/// A reply nobody asked for: the lane is closed, the bytes reach no one, the next request simply works.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_reply_too_many_closes_the_lane() {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis);
    let broker = Broker::start_at(proxy.socket(), &[]);
    let mut raw = broker.connect();
    raw.expect("SET k v", "+OK\r\n");
    for extra in ["+EXTRA\r\n", "$5\r\nextra\r\n", "-ERR extra\r\n", ">2\r\n+message\r\n+x\r\n", "*0\r\n"] {
        proxy.inject("broker-lane", extra.as_bytes());
        proxy.wait_closed("broker-lane");
        raw.expect("GET k", "$1\r\nv\r\n");
        raw.expect("ECHO own", "$3\r\nown\r\n");
    }
}

/// Bytes that are no reply while requests wait: all of them are told, none is guessed at.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn garbage_from_upstream_fails_all_in_flight() {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis);
    let broker = Broker::start_at(proxy.socket(), &[]);
    broker.connect().expect("SET k v", "+OK\r\n");
    let garbage = ["@?!\r\n", "$abc\r\n", "*x\r\n", "HTTP/1.1 400\r\n", "$-7\r\n", "\r\n", "\0\0\0\0"];
    for (round, garbage) in garbage.into_iter().enumerate() {
        // A command with which a lane was lost has one to itself, if the same child sends it again.
        let (mut first, mut second) = (broker.connect(), broker.connect());
        second.expect("GET none", "$-1\r\n");
        proxy.hold("broker-lane", true);
        first.write(&pipeline(&["GET k", "GET k"]));
        // A name of its own: the connection of the round before may still be seen.
        let marker = format!("one:more:{round}");
        second.send(&format!("GET {marker}"));
        proxy.wait_sent("broker-lane", marker.as_bytes());
        proxy.inject("broker-lane", garbage.as_bytes());
        assert_eq!(first.read_text(), LOST, "after {garbage:?}");
        assert_eq!(first.read_text(), LOST);
        assert_eq!(second.read_text(), LOST);
        first.expect("GET k", "$1\r\nv\r\n");
        second.expect("GET one:more", "$-1\r\n");
    }
}

/// A leased lane that lies is closed just the same.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn garbage_on_a_lease_is_told() {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis);
    let broker = Broker::start_at(proxy.socket(), &[]);
    let mut raw = broker.connect();
    raw.send("BLPOP garbage:list 0");
    proxy.wait_sent("broker-lease", b"garbage:list");
    proxy.inject("broker-lease", b"?\r\n");
    assert_eq!(raw.read_text(), LOST);
    raw.expect("SET k v", "+OK\r\n");
    raw.expect("BLPOP none 0.01", "*-1\r\n");
}

/// Half a reply, then the end.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn half_a_reply_is_none() {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis);
    let broker = Broker::start_at(proxy.socket(), &[("queue_timeout", "5000")]);
    let mut raw = broker.connect();
    raw.expect("SET k v", "+OK\r\n");
    proxy.hold("broker-lane", true);
    raw.send("GET half:reply");
    proxy.wait_sent("broker-lane", b"half:reply");
    proxy.inject("broker-lane", b"$10\r\nhalf");
    let mut direct = redis.connect();
    for client in upstream_clients(&redis) {
        direct.ask(&format!("CLIENT KILL ID {}", client.field("id")));
    }
    proxy.hold("broker-lane", false);
    // What was held comes after it and makes nine bytes of the ten announced; then the end.
    assert_eq!(raw.read_text(), LOST);
    raw.expect("GET k", "$1\r\nv\r\n");
}
