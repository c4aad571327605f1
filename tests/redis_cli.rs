//! redis-cli as people use it, at a terminal: what they see is what Redis itself would have shown them.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{self, Broker, Redis};

const SESSION: &str = "\
    ping\nset a 1\nincr a\nget nosuch\nincr\nnosuch a b\nselect 3\ndbsize\nselect 0\nlpush l x y\nlrange l 0 -1\n\
    multi\nincr a\nget a\nexec\nmulti\nset a 9\ndiscard\nwatch a\nmulti\nget a\nexec\nblpop l 1\n\
    hset h f v\nhgetall h\ncommand count\nhelp get\nreset\nget a\nquit\n";

/// What a terminal shows of the session. A dumb one: a clever one is asked where its cursor is.
fn terminal(socket: &Path) -> String {
    let redis_cli = format!("TERM=dumb exec redis-cli -s {}", socket.display());
    let mut process = Command::new("timeout")
        .args(["30", "script", "-qec", &redis_cli, "/dev/null"])
        .env_remove("REDISCLI_AUTH")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run redis-cli; install the package redis-tools");
    let mut input = process.stdin.take().expect("its standard input");
    input.write_all(SESSION.as_bytes()).expect("type");
    let output = process.wait_with_output().expect("its end");
    let text =
        String::from_utf8_lossy(&output.stdout).replace(socket.to_str().expect("plain text"), "SOCKET");
    assert!(output.status.success(), "{}: {text}", output.status);
    // Typed lines are echoed whenever the terminal gets to it, so only what redis-cli itself wrote counts.
    let typed = |line: &&str| SESSION.lines().any(|typed| typed == line.trim_end());
    text.lines().filter(|line| !typed(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_session_at_a_terminal_looks_the_same() {
    let redis = Redis::start();
    let expected = terminal(&redis.socket());
    assert!(expected.contains("SOCKET> PONG") && expected.contains("(TX)> QUEUED"), "{expected}");
    assert!(expected.contains("Get the value of a key"), "{expected}");
    redis.ask("FLUSHALL");
    redis.ask("CONFIG RESETSTAT");
    let broker = Broker::start(&redis, &[]);
    let seen = terminal(broker.socket());
    assert_eq!(seen, expected);
    let calls = redis.ask("INFO commandstats");
    assert!(calls.contains("cmdstat_command|docs:"), "it asks for the documentation: {calls}");
}

/// What needs a connection to itself ends with a sentence that says why, at once; and a script that was to be debugged,
/// with its writes undone, does not run for good instead.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn modes_that_take_a_connection_over_say_why_they_end() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let directory = broker.directory().display().to_string();
    let script = format!("{directory}/script.lua");
    std::fs::write(&script, "return redis.call('SET', 'k', 'v')\n").expect("write a script");
    let dump = format!("{directory}/dump.rdb");
    for mode in [
        &["--rdb", &dump][..],
        &["--functions-rdb", &dump],
        &["--replica"],
        &["--ldb", "--eval", &script],
        &["--ldb-sync-mode", "--eval", &script],
    ] {
        let output = Command::new("timeout")
            .args(["20", "redis-cli", "-s"])
            .arg(broker.socket())
            .args(mode)
            .stdin(Stdio::null())
            .output()
            .expect("run redis-cli");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("connect to the server itself"), "{mode:?}: {text}");
        assert_ne!(output.status.code(), Some(124), "{mode:?} does not end: {text}");
    }
    assert_eq!(redis.ask("EXISTS k"), ":0\r\n");
    let mut raw = broker.connect();
    assert!(raw.ask("SCRIPT DEBUG YES").starts_with("-NOPERM"));
    raw.write(&support::raw::pipeline(&["MULTI", "EVAL return 0", "EXEC"]));
    (0..3).for_each(|_| drop(raw.read_reply()));
    assert!(raw.call(&["EVAL", "return 1", "0"]).starts_with(b"-ERR SCRIPT DEBUG was refused"));
    assert!(raw.ask("SCRIPT DEBUG NO").starts_with("-NOPERM"));
    assert_eq!(raw.call(&["EVAL", "return 1", "0"]), b":1\r\n");
}
