//! New settings in a running loop, against two real redis-servers: nothing is lost, nothing is crossed, nothing
//! is left behind; and what is refused changes nothing.

use crate::support::embedded::{Desk, run_until, send, settings};
use crate::support::{self, Redis, seeded, upstream_clients};
use broker::config::{Settings, rows};
use broker::reactor::{LocalKey, Loop, RunMode};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;

fn with(lp_settings: &Settings, pairs: &[(&str, &str)]) -> Settings {
    let mut settings = lp_settings.clone();
    for (key, value) in pairs {
        settings.set(key, value).expect("a setting");
    }
    settings
}

/// Runs the loop until this Redis has no connection of the broker.
fn expect_abandoned(lp: &mut Loop, redis: &Redis) {
    let mut raw = redis.connect();
    run_until(lp, "the last connection to the former upstream", |_| {
        support::redis::list_clients(&mut raw).is_empty()
    });
}

/// A child that counts on whichever Redis it reaches, and what it was told.
struct Counter {
    local: LocalKey,
    number: usize,
    sent: usize,
    owed: usize,
    /// The last count of each Redis.
    last: [i64; 2],
}

impl Counter {
    /// Asks a few times: which Redis it is, then a count, alone or in a transaction.
    fn ask(&mut self, lp: &mut Loop, rng: &mut fastrand::Rng) {
        for _ in 0..rng.usize(1..8) {
            let n = self.number;
            let text = match rng.u8(0..3) {
                0 => format!("EVAL \"return {{redis.call('GET','who'),redis.call('INCR','n{n}')}}\" 0\r\n"),
                1 => format!("MULTI\r\nGET who\r\nINCR n{n}\r\nEXEC\r\n"),
                _ => format!("WATCH w{n}\r\nMULTI\r\nGET who\r\nINCR n{n}\r\nEXEC\r\n"),
            };
            if lp.local_write(self.local, text.as_bytes()) == text.len() {
                self.sent += 1;
                self.owed += 1;
            }
        }
    }

    /// Takes complete answers: each is of one Redis, and that one's next count.
    fn check(&mut self, desk: &mut Desk) {
        let Some(bytes) = desk.output.get_mut(&self.local) else { return };
        let text = String::from_utf8_lossy(bytes).into_owned();
        let mut used = 0;
        while let Some(end) = text[used..].find("*2\r\n$1\r\n") {
            let answer = &text[used + end + 8..];
            let Some((who, rest)) = answer.split_once("\r\n:") else { break };
            let Some((count, _)) = rest.split_once("\r\n") else { break };
            let quiet = text[used..used + end].replace("+OK\r\n", "").replace("+QUEUED\r\n", "");
            assert_eq!(quiet, "", "child {} was told something else", self.number);
            let last = &mut self.last[usize::from(who == "b")];
            *last += 1;
            assert_eq!(count, last.to_string(), "child {} at {who}", self.number);
            used += end + 8 + who.len() + 3 + count.len() + 2;
            self.owed -= 1;
        }
        bytes.drain(..used);
    }
}

#[test]
fn nothing_is_lost_or_crossed_between_two_upstreams() {
    let mut rng = seeded();
    let redis = [Redis::start(), Redis::start()];
    redis[0].ask("SET who a");
    redis[1].ask("SET who b");
    let base = settings(&redis[0], &[("lanes", "3"), ("transaction_max", "1MiB")]);
    let mut lp = Loop::new(base.clone()).expect("the loop");
    let mut desk = Desk::default();
    let mut counters: Vec<Counter> = (0..30)
        .map(|number| {
            let local = lp.local_open().expect("a child");
            Counter { local, number, sent: 0, owed: 0, last: [0, 0] }
        })
        .collect();
    for round in 0..24 {
        let sum = |counters: &[Counter]| counters.iter().map(|c| c.last[0] + c.last[1]).sum::<i64>();
        let enough = sum(&counters) + rng.i64(0..400);
        while sum(&counters) <= enough {
            for counter in &mut counters {
                counter.ask(&mut lp, &mut rng);
            }
            lp.run(RunMode::NoWait).expect("a turn");
            desk.take(&mut lp);
            counters.iter_mut().for_each(|counter| counter.check(&mut desk));
        }
        let lanes = rng.usize(1..4).to_string();
        let url = redis[(round + 1) % 2].url();
        lp.reload(with(&base, &[("upstream", &url), ("lanes", &lanes)])).expect("new settings");
    }
    run_until(&mut lp, "every reply", |lp| {
        desk.take(lp);
        counters.iter_mut().for_each(|counter| counter.check(&mut desk));
        counters.iter().all(|counter| counter.owed == 0)
    });
    // The last reload led back to the first.
    expect_abandoned(&mut lp, &redis[1]);
    let mut served = [0, 0];
    for counter in &counters {
        assert_eq!(counter.sent as i64, counter.last[0] + counter.last[1], "child {}", counter.number);
        for (index, redis) in redis.iter().enumerate() {
            let count: i64 =
                redis.ask(&format!("INCR n{}", counter.number))[1..].trim().parse().expect("a count");
            assert_eq!(count - 1, counter.last[index], "every count that Redis has made was told");
            served[index] += count - 1;
        }
    }
    assert!(served[0] > 500 && served[1] > 500, "both were used: {served:?}");
    let clean = ["requests_lost", "requests_down", "requests_limited", "upstream_losses", "desyncs"];
    for name in clean {
        assert_eq!(lp.stat(name), Some(0), "{name}");
    }
}

#[test]
fn those_that_wait_move_too() {
    let (a, b) = (Redis::start(), Redis::start());
    let base = settings(&a, &[]);
    let mut lp = Loop::new(base.clone()).expect("the loop");
    let mut desk = Desk::default();
    let [blocked, watcher, subscriber] = std::array::from_fn(|_| lp.local_open().expect("a child"));
    send(&mut lp, blocked, "BLPOP q 0\r\n");
    send(&mut lp, watcher, "WATCH k\r\n");
    desk.expect(&mut lp, watcher, "+OK\r\n");
    send(&mut lp, subscriber, "SUBSCRIBE c\r\n");
    desk.expect(&mut lp, subscriber, "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    run_until(&mut lp, "the blocked one", |lp| lp.stat("leases_blocking") == Some(1));
    lp.reload(with(&base, &[("upstream", &b.url())])).expect("new settings");
    run_until(&mut lp, "the end of the subscriber", |lp| {
        desk.take(lp);
        desk.closed == [subscriber]
    });
    run_until(&mut lp, "the blocked one at the new upstream", |_| b.ask("CLIENT LIST").contains("cmd=blpop"));
    let left: Vec<_> = upstream_clients(&a).iter().map(|client| client.field("cmd").to_owned()).collect();
    assert_eq!(left, ["watch"], "only the transaction finishes where it began");
    send(&mut lp, watcher, "MULTI\r\nSET k v\r\nEXEC\r\n");
    desk.expect(&mut lp, watcher, "+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n");
    assert_eq!((a.ask("GET k"), b.ask("GET k")), ("$1\r\nv\r\n".into(), "$-1\r\n".into()));
    expect_abandoned(&mut lp, &a);
    b.ask("RPUSH q x");
    desk.expect(&mut lp, blocked, "*2\r\n$1\r\nq\r\n$1\r\nx\r\n");
}

/// A former upstream that has stopped answering is what one reloads for.
#[test]
fn a_hung_upstream_can_be_left() {
    let (a, b) = (Redis::start(), Redis::start());
    let base = settings(&a, &[("queue_timeout", "20s"), ("lane_stall_timeout", "300ms")]);
    let mut lp = Loop::new(base.clone()).expect("the loop");
    let mut desk = Desk::default();
    let (early, late) = (lp.local_open().expect("a child"), lp.local_open().expect("a child"));
    send(&mut lp, early, "SET k v\r\n");
    desk.expect(&mut lp, early, "+OK\r\n");
    a.stop();
    send(&mut lp, early, "GET k\r\n");
    lp.run(RunMode::NoWait).expect("a turn");
    lp.reload(with(&base, &[("upstream", &b.url())])).expect("new settings");
    send(&mut lp, late, "SELECT 1\r\nSET k w\r\nGET k\r\n");
    desk.expect(&mut lp, late, "+OK\r\n+OK\r\n$1\r\nw\r\n");
    let lost =
        "-BROKERLOST upstream connection lost before the reply; the command may have been executed\r\n";
    desk.expect(&mut lp, early, lost);
    send(&mut lp, early, "GET k\r\n");
    desk.expect(&mut lp, early, "$-1\r\n");
    a.cont();
    expect_abandoned(&mut lp, &a);
}

#[test]
fn a_new_password_replaces_every_connection() {
    let redis = Redis::start();
    redis.ask("ACL SETUSER app on >old ~* &* +@all");
    let base = settings(&redis, &[("upstream_username", "app"), ("upstream_password", "old")]);
    let mut lp = Loop::new(base.clone()).expect("the loop");
    let mut desk = Desk::default();
    let local = lp.local_open().expect("a child");
    send(&mut lp, local, "SET k v\r\n");
    desk.expect(&mut lp, local, "+OK\r\n");
    let ids = |redis: &Redis| -> Vec<String> {
        upstream_clients(redis).iter().map(|client| client.field("id").to_owned()).collect()
    };
    let before = ids(&redis);
    lp.reload(base.clone()).expect("the same settings");
    for _ in 0..20 {
        lp.run(RunMode::NoWait).expect("a turn");
    }
    assert_eq!(ids(&redis), before, "nothing has changed, nothing is replaced");
    redis.ask("ACL SETUSER app >new <old");
    let path = redis.directory().join("password");
    fs::write(&path, "new\n").expect("a password file");
    let file = path.display().to_string();
    let new = with(&base, &[("upstream_password", ""), ("upstream_password_file", &file)]);
    lp.reload(new).expect("new settings");
    send(&mut lp, local, "GET k\r\n");
    desk.expect(&mut lp, local, "$1\r\nv\r\n");
    run_until(&mut lp, "other connections", |_| {
        let now = ids(&redis);
        now.len() >= 2 && before.iter().all(|id| !now.contains(id))
    });
}

#[test]
fn listeners_come_and_go() {
    let redis = Redis::start();
    let path = |name: &str| redis.directory().join(name);
    let url = |name: &str| format!("unix://{}", path(name).display());
    let base = settings(&redis, &[]);
    let list = |urls: &[&str]| with(&base, &[("listen", &urls.join(","))]);
    let (kept, gone, new) = (url("kept"), url("gone"), url("new"));
    let mut lp = Loop::new(list(&[&gone, &kept, "tcp://127.0.0.1:0"])).expect("the loop");
    let tcp = lp.listeners()[2].clone();
    let inode = |name: &str| fs::symlink_metadata(path(name)).map(|metadata| metadata.ino()).ok();
    let mode = |name: &str| fs::symlink_metadata(path(name)).expect("a socket").permissions().mode() & 0o777;
    let before = inode("kept");
    let mut child = UnixStream::connect(path("gone")).expect("it listens");
    run_until(&mut lp, "the child", |lp| lp.children_len() == 1);

    lp.reload(list(&["tcp://127.0.0.1:0", &format!("{kept}?mode=0600"), &new])).expect("new settings");
    assert_eq!(
        lp.listeners(),
        [tcp.clone(), kept.clone(), new.clone()],
        "in the new order, the port is the same"
    );
    assert_eq!((inode("kept"), mode("kept")), (before, 0o600));
    assert!(!path("gone").exists() && UnixStream::connect(path("gone")).is_err());
    ask_over(&mut lp, &mut child);
    let mut through_new = UnixStream::connect(path("new")).expect("it listens");
    let mut through_kept = UnixStream::connect(path("kept")).expect("it listens");
    ask_over(&mut lp, &mut through_new);
    ask_over(&mut lp, &mut through_kept);

    // Whatever is refused, nothing of it has been done.
    fs::write(path("file"), "no socket").expect("a file");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = format!("tcp://{}", taken.local_addr().expect("an address"));
    let wrong = [
        list(&[&format!("{kept}?mode=0666"), &url("other"), &url("file")]),
        list(&[&format!("{kept}?mode=0666&group=no-such-group"), &url("other")]),
        list(&[&url("other"), &taken]),
        with(&list(&[&url("other")]), &[("upstream", "")]),
        with(&list(&[&url("other")]), &[("subscriber_output_soft", "1GiB")]),
    ];
    for settings in wrong {
        let error = lp.reload(settings).expect_err("it is wrong").to_string();
        assert_eq!(lp.listeners(), [tcp.clone(), kept.clone(), new.clone()], "{error}");
        assert_eq!((inode("kept"), mode("kept")), (before, 0o600), "{error}");
        assert!(!path("other").exists(), "{error}");
        ask_over(&mut lp, &mut through_kept);
    }
    lp.reload(list(&[])).expect("no listener at all");
    assert_eq!(lp.listeners(), Vec::<String>::new());
    ask_over(&mut lp, &mut through_kept);
    lp.reload(list(&[&gone])).expect("one that was there before");
    ask_over(&mut lp, &mut UnixStream::connect(path("gone")).expect("it listens"));
    lp.drain();
    assert!(lp.reload(list(&[])).expect_err("draining").to_string().contains("the loop drains"));
}

fn ask_over(lp: &mut Loop, stream: &mut UnixStream) {
    use std::io::{Read, Write};
    stream.write_all(b"PING\r\n").expect("sent");
    stream.set_nonblocking(true).expect("non-blocking");
    let mut reply = [0; 7];
    run_until(lp, "a reply", |_| stream.read(&mut reply).is_ok());
    assert_eq!(&reply, b"+PONG\r\n");
}

/// The owner a URL no longer names is the one the socket was made with.
#[test]
fn a_listener_is_given_away_and_taken_back() {
    let redis = Redis::start();
    let path = redis.directory().join("broker.sock");
    let base = settings(&redis, &[]);
    let list = |options: &str| with(&base, &[("listen", &format!("unix://{}{options}", path.display()))]);
    let mut lp = Loop::new(list("")).expect("the loop");
    let owner =
        || fs::symlink_metadata(&path).map(|metadata| (metadata.uid(), metadata.gid())).expect("a socket");
    let own = owner();
    if own.0 != 0 {
        let error = lp.reload(list("?user=0&mode=0666")).expect_err("only root gives files away");
        assert!(error.to_string().contains("cannot set the owner"), "{error}");
        let mode = fs::symlink_metadata(&path).expect("a socket").permissions().mode() & 0o777;
        assert_eq!((owner(), mode), (own, 0o660));
    } else {
        lp.reload(list("?user=12345&group=54321")).expect("new settings");
        assert_eq!(owner(), (12345, 54321));
        lp.reload(list("?group=54321")).expect("new settings");
        assert_eq!(owner(), (own.0, 54321));
    }
    lp.reload(list("")).expect("new settings");
    assert_eq!(owner(), own);
}

#[test]
fn bounds_hold_at_once() {
    let redis = Redis::start();
    let base = settings(&redis, &[("upstream_connections_max", "30")]);
    let mut lp = Loop::new(base.clone()).expect("the loop");
    let mut desk = Desk::default();
    let crowd: Vec<LocalKey> = (0..20).map(|_| lp.local_open().expect("a child")).collect();
    for (number, local) in crowd.iter().enumerate() {
        send(&mut lp, *local, &format!("BLPOP q{number} 0\r\n"));
    }
    run_until(&mut lp, "all of them", |lp| lp.stat("leases_blocking") == Some(20));
    let other = lp.local_open().expect("a child");
    let new = with(&base, &[("children_max", "3"), ("upstream_connections_max", "8"), ("leases_warm", "0")]);
    lp.reload(new).expect("new settings");
    assert_eq!(lp.local_open(), None, "nobody new");
    assert_eq!(lp.children_len(), 21, "and nobody less");
    for number in 0..20 {
        send(&mut lp, other, &format!("RPUSH q{number} x\r\n"));
        desk.expect(&mut lp, other, ":1\r\n");
    }
    for (number, local) in crowd.iter().enumerate() {
        let key = format!("q{number}");
        desk.expect(&mut lp, *local, &format!("*2\r\n${}\r\n{key}\r\n$1\r\nx\r\n", key.len()));
    }
    run_until(&mut lp, "what is too many to go", |_| upstream_clients(&redis).len() <= 8);
    lp.reload(base).expect("the former settings");
    assert!(lp.local_open().is_some());
}

/// A running loop takes every key of which the table says so, and says no to the others.
/// Redis asks nobody again who has authenticated: whoever listens, or has a state of its own upstream, notices nothing.
#[test]
fn a_new_password_costs_no_subscriber() {
    for pubsub in ["shared", "leased"] {
        let redis = Redis::start();
        redis.ask("ACL SETUSER app on >old >new ~* &* +@all");
        let old = [("upstream_username", "app"), ("upstream_password", "old"), ("pubsub", pubsub)];
        let base = settings(&redis, &old);
        let mut lp = Loop::new(base.clone()).expect("the loop");
        let mut desk = Desk::default();
        let [listener, plain, blocked] = std::array::from_fn(|_| lp.local_open().expect("a child"));
        send(&mut lp, listener, "SUBSCRIBE c\r\n");
        desk.expect(&mut lp, listener, "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
        send(&mut lp, plain, "SET k v\r\n");
        desk.expect(&mut lp, plain, "+OK\r\n");
        send(&mut lp, blocked, "BLPOP q 0\r\n");
        run_until(&mut lp, "the blocked one", |lp| lp.stat("leases_blocking") == Some(1));
        lp.reload(with(&base, &[("upstream_password", "new")])).expect("new settings");
        send(&mut lp, plain, "GET k\r\n");
        desk.expect(&mut lp, plain, "$1\r\nv\r\n");
        assert_eq!(redis.ask("PUBLISH c m"), ":1\r\n", "{pubsub}");
        desk.expect(&mut lp, listener, "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n");
        send(&mut lp, listener, "SUBSCRIBE d\r\n");
        desk.expect(&mut lp, listener, "*3\r\n$9\r\nsubscribe\r\n$1\r\nd\r\n:2\r\n");
        redis.ask("RPUSH q x");
        desk.expect(&mut lp, blocked, "*2\r\n$1\r\nq\r\n$1\r\nx\r\n");
        assert!(desk.closed.is_empty());
        // Another user is another affair: it may not have the right to listen.
        redis.ask("ACL SETUSER other on >new ~* &* +@all");
        lp.reload(with(&base, &[("upstream_username", "other"), ("upstream_password", "new")]))
            .expect("taken");
        run_until(&mut lp, "the end of the subscriber", |lp| {
            desk.take(lp);
            desk.closed == [listener]
        });
    }
}

/// What was let in by another rule does not stay: a replica that was served is not, once the server must be a master.
#[test]
fn another_role_holds_for_connections_that_are_there() {
    let redis = Redis::start();
    redis.ask("SET k v");
    redis.ask("REPLICAOF 127.0.0.1 1");
    let base = settings(&redis, &[("upstream_role", "any"), ("queue_timeout", "50ms")]);
    let mut lp = Loop::new(base.clone()).expect("the loop");
    let mut desk = Desk::default();
    let local = lp.local_open().expect("a child");
    let get = |lp: &mut Loop, desk: &mut Desk| {
        send(lp, local, "GET k\r\n");
        let said = |desk: &mut Desk, lp: &mut Loop| {
            desk.take(lp);
            desk.text(local).ends_with("\r\n")
        };
        run_until(lp, "an answer", |lp| said(desk, lp));
        desk.output
            .remove(&local)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    };
    run_until(&mut lp, "it is served", |lp| get(lp, &mut desk).ends_with("v\r\n"));
    lp.reload(with(&base, &[("upstream_role", "master")])).expect("new settings");
    run_until(&mut lp, "it is not served", |lp| get(lp, &mut desk).starts_with("-BROKERDOWN"));
    lp.reload(base).expect("the former settings");
    run_until(&mut lp, "it is served again", |lp| get(lp, &mut desk).ends_with("v\r\n"));
}

/// The console of a loop inside a program sets what the program's next reload says again.
#[test]
fn what_the_console_sets_is_above_the_program_until_it_reloads() {
    let redis = Redis::start();
    let base = settings(&redis, &[("lanes", "2")]);
    let mut lp = Loop::new(base.clone()).expect("the loop");
    let mut desk = Desk::default();
    let local = lp.local_open().expect("a child");
    let mut ask = |lp: &mut Loop, words: &str, reply: &str| {
        send(lp, local, &format!("{words}\r\n"));
        desk.expect(lp, local, reply);
    };
    ask(&mut lp, "BROKER SET lanes 5", "+OK\r\n");
    ask(&mut lp, "BROKER SET auth users", "-ERR auth cannot change while the broker runs\r\n");
    let second = format!("unix://{}", redis.directory().join("second.sock").display());
    ask(&mut lp, &format!("BROKER SET listen {second}"), "+OK\r\n");
    assert!(lp.take_listeners_changed() && !lp.take_listeners_changed());
    assert_eq!((lp.settings().lanes, lp.listeners()), (5, vec![second]));
    let pairs: Vec<_> = lp.sourced().overrides().pairs().map(|(key, _)| key).collect();
    assert_eq!(pairs, ["lanes", "listen"]);
    ask(&mut lp, "BROKER RELOAD", "-ERR this is for the program that the broker is embedded in\r\n");
    ask(&mut lp, "BROKER UNSET listen", "+OK\r\n");
    assert!(lp.listeners().is_empty());
    let changes = lp.reload(with(&base, &[("slowlog_max", "3")])).expect("new settings");
    assert_eq!(changes, ["lanes: 5 -> 2", "slowlog_max: 128 -> 3"]);
    assert!(lp.sourced().overrides().is_empty());
}

#[test]
fn every_key_is_taken() {
    let redis = Redis::start();
    let other = Redis::start();
    let base = settings(&redis, &[]);
    let mut lp = Loop::new(base.clone()).expect("the loop");
    let mut desk = Desk::default();
    let local = lp.local_open().expect("a child");
    for row in rows() {
        if !row.reloadable {
            let other = if row.key == "admin_listen" { "none" } else { "another" };
            let value = row.choices.last().copied().unwrap_or(other);
            let error = lp.reload(with(&base, &[(row.key, value)])).expect_err("a fixed key");
            assert!(error.to_string().contains(row.key), "{error}");
            continue;
        }
        let value = match row.key {
            "upstream" => other.url(),
            "listen" => format!("unix://{}", redis.directory().join("broker.sock").display()),
            "upstream_username" | "upstream_password" | "upstream_password_file" => continue,
            _ if !row.choices.is_empty() => row.choices[row.choices.len() - 1].to_owned(),
            "subscriber_output_soft" => "1MiB".to_owned(),
            "children_max" | "drain_timeout" | "lane_stall_timeout" => "17".to_owned(),
            "queue_timeout" | "connect_timeout" | "lease_wait_timeout" => "7000".to_owned(),
            _ => base.get_text(row.key).expect("a key"),
        };
        lp.reload(with(&base, &[(row.key, &value)])).unwrap_or_else(|error| panic!("{}: {error}", row.key));
        send(&mut lp, local, "ECHO on\r\nBLPOP q 0.001\r\nMULTI\r\nPING\r\nEXEC\r\n");
        desk.expect(&mut lp, local, "$2\r\non\r\n*-1\r\n+OK\r\n+QUEUED\r\n*1\r\n+PONG\r\n");
    }
}
