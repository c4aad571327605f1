//! commands_allow, commands_deny, commands_lease: which commands go where is as the settings say, for a running
//! broker too, and what could hurt others stays off their connections whatever they say.

use crate::support::embedded::{Desk, send, settings};
use crate::support::raw::pipeline;
use crate::support::{Broker, Raw, Redis, upstream_clients, wait_until};
use broker::config::Settings;
use broker::reactor::Loop;

fn refusal(name: &str) -> String {
    format!("-NOPERM this user has no permissions to run the '{name}' command\r\n")
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn refused_commands_are_allowed_and_others_refused() {
    let redis = Redis::start();
    let settings = [
        ("commands_allow", "config|set,swapdb,save,acl|getuser,get"),
        ("commands_deny", "flushall,config|get,get,object,client|list"),
    ];
    let broker = Broker::start(&redis, &settings);
    let mut raw = broker.connect();
    raw.expect("SET k v", "+OK\r\n");
    raw.expect("CONFIG SET hz 11", "+OK\r\n");
    raw.expect("SWAPDB 0 1", "+OK\r\n");
    raw.expect("EXISTS k", ":0\r\n");
    raw.expect("SAVE", "+OK\r\n");
    assert!(raw.ask("ACL GETUSER default").starts_with('*'));
    for (line, name) in [
        ("FLUSHALL", "flushall"),
        ("flushALL async", "flushall"),
        ("GET k", "get"),
        ("CONFIG GET hz", "config|get"),
        ("OBJECT ENCODING k", "object|encoding"),
        ("CLIENT LIST", "client|list"),
        ("ACL SETUSER x", "acl|setuser"),
    ] {
        raw.expect(line, &refusal(name));
    }
    // In a transaction a refusal spoils it, queued here or written whole.
    raw.expect("MULTI", "+OK\r\n");
    raw.expect("GET k", &refusal("get"));
    raw.expect("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n");
    raw.write(&pipeline(&["MULTI", "SET k 2", "FLUSHALL", "EXEC", "EXISTS k"]));
    let replies: Vec<String> = (0..5).map(|_| raw.read_text()).collect();
    assert!(replies[2].starts_with("-NOPERM") && replies[3].starts_with("-EXECABORT"), "{replies:?}");
    assert_eq!(replies[4], ":0\r\n");
    // Nor does a lease make a difference.
    raw.expect("WATCH k", "+OK\r\n");
    raw.expect("GET k", &refusal("get"));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn what_must_never_be_allowed_is_no_setting() {
    for name in
        ["sync", "psync", "replconf", "script|debug", "sentinel", "sentinel|masters", "client|something"]
    {
        let mut settings = Settings::default();
        settings.set("commands_allow", &format!("config|set,{name}")).expect("a list");
        let error = settings.validate().expect_err(name).to_string();
        assert!(error.starts_with(&format!("commands_allow = \"{name}\": ")), "{error}");
    }
    let output =
        Broker::run(&["serve", "--check", "--upstream", "redis://h", "--set", "commands_allow=sync"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_leased_command_has_a_lane_to_itself() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("commands_lease", "eval"), ("lane_stall_timeout", "0")]);
    let mut raw = broker.connect();
    raw.expect("SET k v", "+OK\r\n");
    raw.expect("EVAL return(1) 0", ":1\r\n");
    let ran = |name: &str| {
        let clients = upstream_clients(&redis);
        clients.iter().find(|client| client.field("cmd") == name).map(|client| client.name().to_owned())
    };
    assert_eq!(ran("eval").as_deref(), Some("broker-lease"));
    raw.expect("EVALSHA_RO 00 0", "-NOSCRIPT No matching script. Please use EVAL.\r\n");
    assert_eq!(ran("evalsha_ro").as_deref(), Some("broker-lane"));
    // In a transaction it runs with the others.
    raw.write(&pipeline(&["MULTI", "EVAL return(2) 0", "EXEC"]));
    assert_eq!((0..3).map(|_| raw.read_text()).last().as_deref(), Some("*1\r\n:2\r\n"));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn monitor_shows_what_redis_shows_and_ends_with_reset() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("commands_allow", "monitor")]);
    let (mut watcher, mut other) = (broker.connect(), broker.connect());
    watcher.expect("MONITOR", "+OK\r\n");
    let line_with = |raw: &mut Raw, text: &str| loop {
        let line = raw.read_text();
        assert!(line.starts_with('+') && line.contains(" ["), "{line}");
        if line.contains(text) {
            return;
        }
    };
    other.expect("SET k v", "+OK\r\n");
    line_with(&mut watcher, "\"SET\" \"k\" \"v\"");
    // Its own requests are answered among the lines.
    watcher.expect("GET k", "-ERR Replica can't interact with the keyspace\r\n");
    watcher.send("TIME");
    assert!(watcher.read_text().starts_with("*2\r\n$10\r\n"));
    line_with(&mut watcher, "\"TIME\"");
    // A second MONITOR has no answer, as with Redis.
    watcher.write(&pipeline(&["MONITOR", "RESET", "GET k"]));
    assert_eq!(watcher.read_text(), "+RESET\r\n");
    assert_eq!(watcher.read_text(), "$1\r\nv\r\n");
    wait_until("its lane is closed", || {
        upstream_clients(&redis).iter().all(|client| !client.field("flags").contains('O'))
    });
    watcher.expect("MONITOR", "+OK\r\n");
    watcher.send("QUIT");
    assert!(watcher.is_closed());
    wait_until("its lane is closed", || {
        upstream_clients(&redis).iter().all(|client| !client.field("flags").contains('O'))
    });
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn shutdown_and_pause_go_beside_the_lanes() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("commands_allow", "shutdown,client|pause,client|unpause")]);
    let (mut raw, mut other) = (broker.connect(), broker.connect());
    raw.expect("CLIENT PAUSE 100000 WRITE", "+OK\r\n");
    other.send("SET k v");
    raw.expect("CLIENT UNPAUSE", "+OK\r\n");
    assert_eq!(other.read_text(), "+OK\r\n");
    raw.send("SHUTDOWN NOSAVE");
    assert!(raw.read_text().starts_with("-BROKERLOST"));
}

/// DEBUG may do anything to its connection: nobody else is on it.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn debug_runs_on_a_lane_of_its_own() {
    let redis = Redis::start_with(&["--enable-debug-command", "yes"]);
    let broker = Broker::start(&redis, &[("commands_allow", "debug")]);
    let mut raw = broker.connect();
    raw.expect("DEBUG SLEEP 0", "+OK\r\n");
    let clients = upstream_clients(&redis);
    let ran = clients.iter().find(|client| client.field("cmd").starts_with("debug")).expect("it ran");
    assert_eq!(ran.name(), "broker-lease");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn other_lists_hold_from_the_next_request_on() {
    let redis = Redis::start();
    let base = settings(&redis, &[]);
    let mut lp = Loop::new(base.clone()).expect("the loop");
    let mut desk = Desk::default();
    let local = lp.local_open().expect("a child");
    let no = |name: &str| refusal(name);
    let mut ask = |lp: &mut Loop, line: &str, reply: &str| {
        send(lp, local, &format!("{line}\r\n"));
        desk.expect(lp, local, reply);
    };
    ask(&mut lp, "SWAPDB 0 1", &no("swapdb"));
    let with = |pairs: &[(&str, &str)]| {
        let mut changed = base.clone();
        pairs.iter().for_each(|(key, value)| changed.set(key, value).expect("a setting"));
        changed
    };
    lp.reload(with(&[("commands_allow", "swapdb"), ("commands_deny", "get")])).expect("taken");
    ask(&mut lp, "SWAPDB 0 1", "+OK\r\n");
    ask(&mut lp, "GET k", &no("get"));
    lp.reload(with(&[("commands_allow", "sync")])).expect_err("never");
    ask(&mut lp, "SWAPDB 0 1", "+OK\r\n");
    lp.reload(base.clone()).expect("taken");
    ask(&mut lp, "SWAPDB 0 1", &no("swapdb"));
    ask(&mut lp, "GET k", "$-1\r\n");
}

/// A new connection upstream brings a new table.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn lists_hold_for_an_upstream_that_has_come_back() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("commands_deny", "get"), ("queue_timeout", "10s")]);
    let mut raw = broker.connect();
    raw.expect("GET k", &refusal("get"));
    redis.restart();
    raw.expect("PING", "+PONG\r\n");
    raw.expect("GET k", &refusal("get"));
}
