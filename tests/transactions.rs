//! MULTI, EXEC, DISCARD, WATCH and UNWATCH: in one write and command by command, in RESP2 and RESP3, the
//! replies of a real Redis; and under concurrency, what the transactions promise.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::support::raw::pipeline;
use crate::support::{self, Broker, Redis, Twin, direct, request};

/// Each list runs on fresh connections: command by command, then in one write, both protocols.
const SEQUENCES: &[&[&str]] = &[
    &["MULTI", "SET a 1", "GET a", "EXEC", "GET a"],
    &["MULTI", "EXEC", "PING"],
    &["MULTI", "SET a 1", "DISCARD", "EXISTS a", "EXEC"],
    &["MULTI", "MULTI", "SET a 1", "MULTI", "EXEC", "GET a"],
    &["MULTI", "WATCH a", "SET a 1", "EXEC", "GET a"],
    &["EXEC", "DISCARD", "MULTI", "EXEC"],
    &["MULTI", "SET a", "SET b 1", "EXEC", "EXISTS b", "EXEC"],
    &["MULTI", "NOSUCH a b", "SET b 1", "EXEC", "EXISTS b"],
    &["MULTI", "CONFIG NOSUCH", "EXEC"],
    &["MULTI", "GET a", "EXEC x", "EXEC", "GET a"],
    &["MULTI", "SET a 1", "DISCARD x", "EXEC", "EXISTS a"],
    &["MULTI", "MULTI x", "EXEC"],
    &["MULTI", "EXEC x", "PING", "EXEC"],
    &["MULTI", "NOSUCH", "EXEC x", "PING"],
    &["SET s text", "MULTI", "INCR s", "LPUSH s a", "SET t 1", "GET t", "EXEC", "GET t"],
    &["MULTI", "EVAL return{err='oops'} 0", "SET t 1", "EXEC", "GET t"],
    &["MULTI", "PING", "PING x", "ECHO y", "EXEC", "PING"],
    &["MULTI", "CLIENT SETNAME inside", "CLIENT GETNAME", "EXEC", "CLIENT GETNAME"],
    &["CLIENT SETNAME before", "MULTI", "CLIENT GETNAME", "DISCARD", "CLIENT GETNAME"],
    &["SET a zero", "MULTI", "SELECT 1", "SET a one", "GET a", "EXEC", "GET a", "SELECT 0", "GET a"],
    &["MULTI", "SELECT 99", "SET a x", "EXEC", "GET a"],
    &["MULTI", "SELECT 2", "SET a two", "DISCARD", "SET a still", "SELECT 2", "EXISTS a"],
    &["MULTI", "SELECT 2", "SELECT 3", "SET a three", "SELECT 0", "EXEC", "GET a", "SELECT 3", "GET a"],
    &[
        "MULTI",
        "BLPOP none 0",
        "BRPOP none 5",
        "BLMOVE none x LEFT LEFT 0",
        "XREAD BLOCK 0 STREAMS none 0",
        "EXEC",
    ],
    &["RPUSH q 1 2 3", "MULTI", "BLPOP q 0", "BRPOP q 0", "BZPOPMIN none 0", "BLMPOP 0 1 none LEFT", "EXEC"],
    &["MULTI", "UNWATCH", "SET a 1", "EXEC"],
    &["WATCH a", "MULTI", "SET a 1", "EXEC", "GET a"],
    &["WATCH a", "SET a 1", "MULTI", "SET a 2", "EXEC", "GET a", "MULTI", "SET a 3", "EXEC", "GET a"],
    &["WATCH a b c", "SET c 1", "UNWATCH", "MULTI", "SET a 2", "EXEC"],
    &["WATCH a", "DISCARD", "SET a 1", "MULTI", "GET a", "EXEC"],
    &["WATCH a", "SET a 1", "MULTI", "DISCARD", "MULTI", "GET a", "EXEC"],
    &["SET a 1", "WATCH a", "DEL a", "SET a 1", "MULTI", "GET a", "EXEC"],
    &["WATCH none", "FLUSHALL", "MULTI", "PING", "EXEC"],
    &["SET a 1", "WATCH a", "FLUSHALL", "MULTI", "PING", "EXEC"],
    &["WATCH none", "SET none 1", "DEL none", "MULTI", "PING", "EXEC"],
    &["WATCH a", "SELECT 1", "SET a other", "MULTI", "GET a", "EXEC", "SELECT 0"],
    &["WATCH a", "SELECT 1", "SELECT 0", "SET a 1", "MULTI", "GET a", "EXEC"],
    &[
        "SELECT 1", "WATCH a", "SELECT 0", "SET a 1", "MULTI", "GET a", "EXEC", "GET a", "SELECT 1",
        "EXISTS a",
    ],
    &["WATCH a", "SELECT 5", "MULTI", "SET five 5", "EXEC", "GET five", "SELECT 0", "EXISTS five"],
    &["WATCH a", "GET a", "PING", "CLIENT SETNAME w", "ECHO x", "SET b 1", "MULTI", "CLIENT GETNAME", "EXEC"],
    &["WATCH a", "MULTI", "NOSUCH", "EXEC", "MULTI", "EXEC"],
    &["WATCH a", "SET a 1", "MULTI", "SET a", "EXEC", "GET a"],
    &["WATCH a", "MULTI", "WATCH b", "MULTI", "SET a 1", "EXEC"],
    &["WATCH a", "WATCH b", "SET b 1", "MULTI", "PING", "EXEC"],
    &["WATCH", "UNWATCH x", "WATCH a", "UNWATCH", "UNWATCH", "EXEC"],
    &["WATCH a", "BLPOP none 0.01", "MULTI", "SET a 1", "EXEC"],
    &["WATCH a", "MULTI", "SET a 1", "RESET", "EXEC", "EXISTS a", "MULTI", "SET a 2", "EXEC"],
    &["MULTI", "INCR n", "INCR n", "INCR n", "EXEC", "MULTI", "INCR n", "EXEC", "GET n"],
    &[
        "MULTI",
        "MSET a 1 b 2",
        "MGET a b none",
        "LPOP none 2",
        "ZADD z 1 m",
        "ZSCORE z m",
        "HGETALL none",
        "EXEC",
    ],
    &["MULTI", "PUBLISH ch x", "EXEC", "MULTI", "COMMAND COUNT", "ROLE", "EXEC"],
    &["MULTI", "SCRIPT LOAD return(1)", "EVAL return(ARGV[1]) 0 z", "EXEC"],
    &["MULTI", "XADD s 1-1 f v", "XREAD STREAMS s 0", "XREAD BLOCK 0 STREAMS s 1-1", "EXEC"],
    &["MULTI", "FLUSHALL", "DBSIZE", "EXEC"],
];

/// The null of an EXEC that a watched key stopped, in both protocols, comes out of these as well.
#[test]
fn sequences_are_the_same_command_by_command() {
    let twin = Twin::start();
    run_sequences(&twin, false);
}

#[test]
fn sequences_are_the_same_in_one_write() {
    let twin = Twin::start();
    run_sequences(&twin, true);
}

/// The strict mode holds a lease from MULTI on and must look no different.
#[test]
fn sequences_are_the_same_on_leased_lanes() {
    let twin = Twin::start_with(&[], &[("transactions", "leased")]);
    run_sequences(&twin, false);
    run_sequences(&twin, true);
}

fn run_sequences(twin: &Twin, in_one_write: bool) {
    for resp3 in [false, true] {
        for lines in SEQUENCES {
            let mut pair = if resp3 { twin.pair_resp3() } else { twin.pair() };
            pair.same("FLUSHALL");
            if in_one_write {
                pair.same_pipeline(&pipeline(lines), lines.len());
            } else {
                for line in *lines {
                    pair.same(line);
                }
            }
        }
    }
}

/// Split at every byte: a transaction half arrived is neither lost nor run early.
#[test]
fn a_transaction_may_arrive_in_two_pieces() {
    let twin = Twin::start();
    let lines = ["MULTI", "SET a 1", "INCR a", "EXEC", "GET a"];
    let bytes = pipeline(&lines);
    for at in (1..bytes.len()).step_by(3) {
        let mut pair = twin.pair();
        let (head, tail) = bytes.split_at(at);
        pair.direct.write(head);
        pair.brokered.write(head);
        std::thread::yield_now();
        pair.same_pipeline(tail, lines.len());
    }
}

#[test]
fn a_null_exec_has_the_form_of_its_protocol() {
    let twin = Twin::start();
    for (resp3, null) in [(false, "*-1\r\n"), (true, "_\r\n")] {
        let mut pair = if resp3 { twin.pair_resp3() } else { twin.pair() };
        pair.same("WATCH w");
        pair.same("INCR w");
        pair.same("MULTI");
        assert_eq!(pair.same("EXEC"), null);
    }
}

/// A key changed by someone else, on whatever lane that was.
#[test]
fn watched_keys_see_the_changes_of_others() {
    let twin = Twin::start();
    for resp3 in [false, true] {
        let mut watcher = if resp3 { twin.pair_resp3() } else { twin.pair() };
        let mut other = twin.pair();
        for change in
            ["SET a 2", "DEL a", "EXPIRE a 100", "APPEND a x", "FLUSHDB", "GET a", "SET b 1", "PING"]
        {
            other.same("SET a 1");
            watcher.same("WATCH a");
            watcher.same("GET a");
            other.same(change);
            watcher.same("MULTI");
            watcher.same("SET a mine");
            watcher.same("EXEC");
            watcher.same("GET a");
        }
    }
}

/// CLIENT ID is the child's own number inside a transaction too.
#[test]
fn client_id_is_the_same_inside_a_transaction() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    let id = raw.ask("CLIENT ID");
    for prefix in [None, Some("WATCH a")] {
        if let Some(line) = prefix {
            raw.expect(line, "+OK\r\n");
        }
        raw.expect("MULTI", "+OK\r\n");
        raw.expect("CLIENT ID", "+QUEUED\r\n");
        raw.expect("GET none", "+QUEUED\r\n");
        raw.expect("EXEC", &format!("*2\r\n{id}$-1\r\n"));
    }
    raw.write(&pipeline(&["MULTI", "CLIENT ID", "EXEC"]));
    let replies: Vec<String> = (0..3).map(|_| raw.read_text()).collect();
    assert_eq!(replies[2], format!("*1\r\n{id}"));
}

/// A refused command spoils the transaction as a missing permission does in Redis.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn refusals_inside_a_transaction_abort_it() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    for start in [&["MULTI"][..], &["WATCH a", "MULTI"]] {
        for line in start {
            raw.expect(line, "+OK\r\n");
        }
        raw.expect("SET a 1", "+QUEUED\r\n");
        raw.expect("DEBUG SLEEP 0", "-NOPERM this user has no permissions to run the 'debug' command\r\n");
        raw.expect("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n");
        raw.expect("EXISTS a", ":0\r\n");
    }
}

/// A child that leaves in the middle leaves nothing behind.
#[test]
fn an_unfinished_transaction_dies_with_its_child() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    for lines in
        [&["MULTI", "SET a 1"][..], &["WATCH w", "MULTI", "SET a 1"], &["MULTI", "SELECT 1", "SET a 1"]]
    {
        let mut raw = broker.connect();
        for line in lines {
            assert!(raw.ask(line).starts_with('+'));
        }
        drop(raw);
        let mut raw = broker.connect();
        raw.expect("EXEC", "-ERR EXEC without MULTI\r\n");
        raw.expect("EXISTS a", ":0\r\n");
    }
    if !direct() {
        support::wait_until("no lane keeps the state of a dead child", || {
            let lanes = support::upstream_clients(&redis);
            // Not `multi`, which Valkey leaves at 0 behind a DISCARD; `x` is one that is open.
            lanes.iter().all(|lane| ["N", "U"].contains(&lane.field("flags")))
        });
    }
}

/// The whole transaction was there when the child left: Redis runs what it has read, and so does the broker.
#[test]
fn a_complete_transaction_runs_though_its_child_left() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    raw.write(&pipeline(&["MULTI", "INCR left", "INCR left", "EXEC"]));
    drop(raw);
    let mut raw = broker.connect();
    support::wait_until("the transaction runs", || raw.ask("GET left") == "$1\r\n2\r\n");
}

/// Sixteen children increment one counter under WATCH: what they count as theirs is what is there.
#[test]
fn optimistic_counters_add_up() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("leases_transaction_max", "8"), ("lease_wait_timeout", "20000")]);
    let successes = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for number in 0..16 {
            let (broker, successes) = (&broker, &successes);
            scope.spawn(move || {
                let mut raw = if number % 2 == 0 { broker.connect() } else { broker.connect_resp3() };
                let null = if number % 2 == 0 { "*-1\r\n" } else { "_\r\n" };
                for _ in 0..60 {
                    raw.expect("WATCH counter", "+OK\r\n");
                    let reply = raw.ask("GET counter");
                    let value: u64 =
                        reply.split("\r\n").nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
                    raw.write(&pipeline(&["MULTI", &format!("SET counter {}", value + 1), "EXEC"]));
                    assert_eq!(raw.read_text(), "+OK\r\n");
                    assert_eq!(raw.read_text(), "+QUEUED\r\n");
                    match raw.read_text().as_str() {
                        "*1\r\n+OK\r\n" => successes.fetch_add(1, Ordering::SeqCst),
                        reply => {
                            assert_eq!(reply, null);
                            0
                        }
                    };
                }
            });
        }
    });
    let total = successes.load(Ordering::SeqCst);
    assert!(total > 0);
    assert_eq!(redis.ask("GET counter"), format!("${}\r\n{total}\r\n", total.to_string().len()));
}

/// Two counters raised together are equal in every concurrent read, and nothing slips in between.
#[test]
fn counter_pairs_are_always_equal() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..6)
            .map(|number| {
                let broker = &broker;
                scope.spawn(move || {
                    let mut raw = broker.connect();
                    for _ in 0..150 {
                        if number % 2 == 0 {
                            raw.write(&pipeline(&["MULTI", "INCR left", "INCR right", "EXEC"]));
                            (0..4).for_each(|_| drop(raw.read_reply()));
                        } else {
                            for line in ["MULTI", "INCR left", "INCR right", "EXEC"] {
                                raw.ask(line);
                            }
                        }
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                let mut raw = broker.connect();
                while !done.load(Ordering::SeqCst) {
                    let reply = raw.call(&["MGET", "left", "right"]);
                    let text = String::from_utf8_lossy(&reply).into_owned();
                    let (half, rest) = text[4..].split_at((text.len() - 4) / 2);
                    assert_eq!(half, rest, "{text}");
                }
            });
        }
        let outcomes: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::SeqCst);
        assert!(outcomes.iter().all(Result::is_ok), "a writer failed");
    });
    assert_eq!(redis.ask("MGET left right"), "*2\r\n$3\r\n900\r\n$3\r\n900\r\n");
}

/// A transaction too large for any buffer size in between, in one write and in many.
#[test]
fn long_transactions_are_the_same() {
    let twin = Twin::start();
    let mut bytes = request(&["MULTI"]);
    for index in 0..2_000 {
        bytes.extend(request(&["SET", &format!("key:{index}"), &"v".repeat(index % 300)]));
    }
    bytes.extend(request(&["EXEC"]));
    let mut pair = twin.pair();
    pair.same_pipeline(&bytes, 2_002);
    pair.same("DBSIZE");
    pair.same("MULTI");
    for index in 0..300 {
        pair.same(&format!("GET key:{index}"));
    }
    pair.same("EXEC");
}

/// An upstream user that may not MULTI: what follows must not run as if it had been in a transaction, but as
/// it does for anybody whose MULTI was refused.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_refused_multi_is_refused_at_once() {
    let redis = Redis::start();
    let mut direct = redis.connect();
    direct.expect("ACL SETUSER half on >pw ~* &* +@all -multi", "+OK\r\n");
    direct.expect("ACL SETUSER other on >pw ~* &* +@all -discard", "+OK\r\n");
    let credentials = |user| [("upstream_username", user), ("upstream_password", "pw")];
    let broker = Broker::start(&redis, &credentials("half"));
    let mut raw = broker.connect();
    raw.write(&pipeline(&["MULTI", "SET a 1", "EXEC"]));
    let mut half = redis.connect();
    half.expect("AUTH half pw", "+OK\r\n");
    let refusal = &half.ask("MULTI");
    assert!(refusal.starts_with("-NOPERM "), "{refusal}");
    assert_eq!(raw.read_text(), *refusal);
    assert_eq!(raw.read_text(), "+OK\r\n");
    assert_eq!(raw.read_text(), "-ERR EXEC without MULTI\r\n");
    raw.expect("MULTI", refusal);
    raw.expect("GET a", "$1\r\n1\r\n");
    // One that may not DISCARD must not cost the control connection.
    let broker = Broker::start(&redis, &credentials("other"));
    let mut raw = broker.connect();
    raw.expect("MULTI", "+OK\r\n");
    raw.expect("INCR a", "+QUEUED\r\n");
    raw.expect("EXEC", "*1\r\n:2\r\n");
}

/// EXEC under another name: a block that ended with the old one would leave its lane inside MULTI.
#[test]
fn a_renamed_exec_ends_its_block() {
    let redis = Redis::start_with(&["--rename-command", "EXEC", "go"]);
    let broker = Broker::start(&redis, &[]);
    let (mut raw, mut other) = (broker.connect(), broker.connect());
    raw.expect("MULTI", "+OK\r\n");
    raw.expect("SET a 1", "+QUEUED\r\n");
    raw.expect("GO", "*1\r\n+OK\r\n");
    other.expect("GET a", "$1\r\n1\r\n");
    raw.write(&pipeline(&["MULTI", "GET a", "go"]));
    let replies: Vec<String> = (0..3).map(|_| raw.read_text()).collect();
    assert_eq!(replies, ["+OK\r\n", "+QUEUED\r\n", "*1\r\n$1\r\n1\r\n"]);
    other.expect("PING", "+PONG\r\n");
    other.expect("GET a", "$1\r\n1\r\n");
}
