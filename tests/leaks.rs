//! What children do not give back: found, named with process, unit and command, in the log, in the console, in a metric and on
//! the status page; closed where the settings say so. Honest programs of the same size are not accused.

use crate::support::console::{Row, rows, said};
use crate::support::native_child::NativeChild;
use crate::support::{Broker, Redis, upstream_clients, wait_until};
use serde_json::Value;

/// Short, so that a test takes seconds.
const THRESHOLD: &str = "600ms";

fn start(redis: &Redis, settings: &[(&str, &str)]) -> Broker {
    let own = [("leak_threshold", THRESHOLD), ("metrics_listen", "tcp://127.0.0.1:0")];
    let all: Vec<_> = own.into_iter().chain(settings.iter().copied()).collect();
    Broker::start(redis, &all)
}

/// The metrics count a leak of this kind, and the status page's table has a row with these cells.
fn assert_shown(broker: &Broker, kind: &str, cells: &[(&str, &str)]) {
    let found = format!("broker_suspected_leaks_found_total{{kind=\"{kind}\"}} ");
    let metrics = broker.http().get("/metrics").body;
    let count = metrics.lines().find_map(|line| line.strip_prefix(found.as_str()));
    assert!(count.is_some_and(|count| count != "0"), "{kind}: {count:?}");
    let status: Value = serde_json::from_str(&broker.http().get("/status.json").body).expect("JSON");
    let cell = |row: &Value, name: &str| row[name].to_string().trim_matches('"').to_owned();
    let is_meant =
        |row: &&Value| cell(row, "kind") == kind && cells.iter().all(|(name, text)| cell(row, name) == *text);
    let rows = status["leaks"].as_array().expect("a table");
    assert!(rows.iter().any(|row| is_meant(&row)), "{kind}: {rows:?}");
}

/// Waits for a suspected leak of this kind; its row.
fn leak(broker: &Broker, kind: &str) -> Row {
    let mut raw = broker.connect();
    let mut found = None;
    wait_until(&format!("a leak: {kind}"), || {
        found = rows(&mut raw, &format!("LEAKS WHERE kind {kind}")).into_iter().next();
        found.is_some()
    });
    found.expect("just found")
}

fn assert_named(broker: &Broker, row: &Row, child: &NativeChild) {
    assert_eq!(
        (row["pid"].as_str(), row["process"].as_str()),
        (&*child.pid().to_string(), "hostchild"),
        "{row:?}"
    );
    let (kind, pid) = (format!("suspected leak, {}:", row["kind"]), format!("pid {}", child.pid()));
    wait_until("the log names it", || {
        broker
            .log()
            .lines()
            .any(|line| line.contains(&kind) && line.contains(&pid) && line.contains("hostchild"))
    });
    let count = broker.log().lines().filter(|line| line.contains(&kind) && line.contains(&pid)).count();
    assert_eq!(count, 1, "it is named once");
    let cells = [("pid", &*child.pid().to_string()), ("process", "hostchild"), ("unit", &row["unit"])];
    assert_shown(broker, &row["kind"], &cells[..if row["unit"] == "-" { 2 } else { 3 }]);
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn each_kind_is_named_with_who_and_what() {
    let redis = Redis::start();
    let broker = start(&redis, &[]);
    for (mode, kind, what) in [
        ("multi", "open-transaction", "MULTI open"),
        ("watch", "open-transaction", "WATCH open, holds lane"),
        ("half", "half-request", "bytes of a request came"),
        ("tracking", "unused-lease", "holds lane"),
    ] {
        let child = NativeChild::start(broker.socket(), mode, &[], &[("CHILD_SETNAME", "worker-7")]);
        let mut row = Row::new();
        let mut raw = broker.connect();
        wait_until(mode, || {
            let found = rows(&mut raw, &format!("LEAKS WHERE pid {}", child.pid()));
            found.into_iter().next().is_some_and(|found| {
                row = found;
                true
            })
        });
        assert_eq!((row["kind"].as_str(), row["state"].as_str()), (kind, "now"), "{mode}: {row:?}");
        assert!(row["what"].contains(what) && row["called"].contains("worker-7"), "{mode}: {row:?}");
        assert_named(&broker, &row, &child);
        let shown = rows(&mut raw, &format!("CHILDREN WHERE pid {}", child.pid()));
        assert_eq!(shown[0]["leak"], kind, "{shown:?}");
        drop(child);
        wait_until("it is gone", || {
            rows(&mut raw, &format!("LEAKS WHERE number {}", row["number"]))[0]["state"] == "gone"
        });
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_subscriber_that_never_reads_is_named() {
    let redis = Redis::start();
    let broker = start(&redis, &[]);
    let child = NativeChild::start(broker.socket(), "subscribe", &[], &[]);
    let mut publisher = broker.connect();
    let message = "x".repeat(100_000);
    for _ in 0..20 {
        assert_eq!(publisher.call(&["PUBLISH", "news", &message]), b":1\r\n");
    }
    let row = leak(&broker, "stuck-reader");
    assert_named(&broker, &row, &child);
    assert!(row["what"].contains("bytes wait, 1 subscriptions"), "{row:?}");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_process_that_opens_connections_without_end_is_named() {
    let redis = Redis::start();
    let broker = start(&redis, &[]);
    let child = NativeChild::start(broker.socket(), "grow", &["20"], &[]);
    let row = leak(&broker, "growing-process");
    assert_named(&broker, &row, &child);
    let mut raw = broker.connect();
    let process = rows(&mut raw, &format!("PROCESSES WHERE pid {}", child.pid()));
    assert_eq!(process[0]["leak"], "growing-process", "{process:?}");
}

/// Its unused connections are closed, again and again; those of others are not.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_unused_connections_of_one_that_grows_are_closed() {
    let redis = Redis::start();
    let broker = start(&redis, &[("leak_action", "close")]);
    let mut other = broker.connect();
    let child = NativeChild::start(broker.socket(), "grow", &["10"], &[]);
    wait_until("some are closed", || broker.log().contains("leak_action: closing child"));
    let mut raw = broker.connect();
    let process = rows(&mut raw, &format!("PROCESSES WHERE pid {}", child.pid()));
    assert_eq!(process.len(), 1, "{process:?}");
    other.expect("PING", "+PONG\r\n");
}

/// As many connections, opened as fast, listening, blocking, pooling: nobody is accused.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn honest_programs_are_not_accused() {
    let redis = Redis::start();
    let broker = start(&redis, &[("leak_action", "close")]);
    let modes =
        [("pool", &["20", "1000"][..]), ("listen", &[]), ("block", &[]), ("ping", &[]), ("copy-uses", &[])];
    let children = modes.map(|(mode, arguments)| NativeChild::start(broker.socket(), mode, arguments, &[]));
    // Longer than all the windows in which a leak would have been seen: one of the same size is seen meanwhile.
    let grows = NativeChild::start(broker.socket(), "grow", &["20"], &[]);
    leak(&broker, "growing-process");
    drop(grows);
    let mut raw = broker.connect();
    wait_until("the pool has grown as long", || {
        let pid = children[0].pid();
        let row = rows(&mut raw, &format!("PROCESSES WHERE pid {pid}")).into_iter().next();
        row.is_some_and(|row| row["children"].parse::<u32>().is_ok_and(|count| count >= 60))
    });
    let accused = rows(&mut raw, "LEAKS");
    let own: Vec<_> = accused.iter().filter(|row| row["kind"] != "growing-process").collect();
    assert!(own.is_empty() && accused.len() == 1, "{accused:?}");
    assert!(!broker.log().contains("pool"), "{}", broker.log());
}

/// Redis itself is rid of the connection, and whoever waited for the lease has it.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn closing_frees_the_lease() {
    let redis = Redis::start();
    let broker = start(
        &redis,
        &[("leak_action", "close"), ("leases_transaction_max", "1"), ("lease_wait_timeout", "20s")],
    );
    let holder = NativeChild::start(broker.socket(), "watch", &[], &[]);
    let mut waiting = broker.connect();
    waiting.expect("WATCH other", "+OK\r\n");
    waiting.expect("UNWATCH", "+OK\r\n");
    let row = leak(&broker, "open-transaction");
    assert_eq!(
        (row["state"].as_str(), row["pid"].as_str()),
        ("closed", &*holder.pid().to_string()),
        "{row:?}"
    );
    assert!(broker.log().contains("leak_action: closing child"));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_copy_that_keeps_the_socket_of_a_dead_process_is_named() {
    let redis = Redis::start();
    let broker = start(&redis, &[]);
    let parent = NativeChild::start(broker.socket(), "copy", &[], &[]);
    let row = leak(&broker, "orphaned-connection");
    assert_named(&broker, &row, &parent);
    assert!(row["what"].contains("its process has ended"), "{row:?}");
    let mut raw = broker.connect();
    let process = rows(&mut raw, &format!("PROCESSES WHERE pid {}", parent.pid()));
    assert_eq!(
        (process[0]["state"].as_str(), process[0]["children"].as_str()),
        ("ended", "1"),
        "{process:?}"
    );
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_killed_process_leaves_nothing() {
    let redis = Redis::start();
    let broker = start(&redis, &[]);
    let mut child = NativeChild::start(broker.socket(), "watch", &[], &[]);
    let mut raw = broker.connect();
    assert_eq!(rows(&mut raw, "LEASES")[0]["pid"], child.pid().to_string());
    child.kill();
    wait_until("its lease is over", || rows(&mut raw, "LEASES").is_empty());
    wait_until("Redis is rid of its connection", || {
        upstream_clients(&redis).iter().all(|client| client.field("cmd") != "watch")
    });
    assert!(rows(&mut raw, &format!("CHILDREN WHERE pid {}", child.pid())).is_empty());
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn an_idle_child_beyond_its_timeout_is_named_as_it_is_closed() {
    let redis = Redis::start();
    let broker = start(&redis, &[("idle_child_timeout", "500ms")]);
    let child = NativeChild::start(broker.socket(), "ping", &[], &[]);
    let row = leak(&broker, "idle-child");
    assert_eq!(
        (row["pid"].as_str(), row["state"].as_str()),
        (&*child.pid().to_string(), "closed"),
        "{row:?}"
    );
    assert_shown(&broker, "idle-child", &[("pid", &row["pid"]), ("state", "closed")]);
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn who_has_as_many_as_it_may_is_told_and_named() {
    let redis = Redis::start();
    let broker = start(&redis, &[("children_per_process_max", "3"), ("leases_per_process_max", "1")]);
    let (mut first, mut second, third) = (broker.connect(), broker.connect(), broker.connect());
    let own = std::process::id();
    let mut refused = broker.connect();
    let text = refused.read_text().trim_end().to_owned();
    assert!(text.starts_with("-BROKERLIMIT children_per_process_max is 3: pid "), "{text}");
    assert!(text.contains(&own.to_string()) && text.ends_with("has 3"), "{text}");
    first.expect("WATCH k", "+OK\r\n");
    let text = said(&mut second, "WATCH k");
    assert!(
        text.starts_with("-BROKERLIMIT leases_per_process_max is 1: pid ") && text.ends_with("has 1"),
        "{text}"
    );
    first.expect("UNWATCH", "+OK\r\n");
    second.expect("WATCH k", "+OK\r\n");
    second.expect("UNWATCH", "+OK\r\n");
    let kinds: Vec<String> = rows(&mut first, "LEAKS").into_iter().map(|row| row["kind"].clone()).collect();
    assert!(kinds.contains(&"process-at-cap".to_owned()), "{kinds:?}");
    assert!(kinds.contains(&"leases-at-cap".to_owned()), "{kinds:?}");
    for kind in ["process-at-cap", "leases-at-cap"] {
        assert_shown(&broker, kind, &[("pid", &own.to_string())]);
    }
    drop(third);
    wait_until("another one is let in", || said(&mut broker.connect(), "PING") == "+PONG");
    let child = NativeChild::start(broker.socket(), "ping", &[], &[]);
    wait_until("it is over", || {
        rows(&mut first, "LEAKS WHERE kind process-at-cap").iter().all(|row| row["state"] != "now")
    });
    drop(child);
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_user_has_a_cap_of_its_own() {
    let redis = Redis::start();
    let broker = start(&redis, &[("children_per_uid_max", "2")]);
    let mut first = broker.connect();
    let child = NativeChild::start(broker.socket(), "ping", &[], &[]);
    let uid = rustix::process::geteuid().as_raw();
    let text = broker.connect().read_text().trim_end().to_owned();
    assert_eq!(text, format!("-BROKERLIMIT children_per_uid_max is 2: uid {uid} has 2"));
    let row = &rows(&mut first, "LEAKS WHERE kind uid-at-cap")[0];
    assert_eq!(row["uid"], uid.to_string(), "{row:?}");
    assert_shown(&broker, "uid-at-cap", &[("uid", &uid.to_string())]);
    drop(child);
}
