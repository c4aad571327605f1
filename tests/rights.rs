//! Upstreams that send the broker away, or whose user lets it do little: what children are told, how often it dials, how much it
//! logs, and that it serves as soon as the cause is gone.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::redis::server_program;
use crate::support::{Broker, Raw, Redis, Running, upstream_clients, wait_until, wait_within};

/// How long the pause between two attempts takes to become as long as it gets.
const PAUSE_GROWS: Duration = Duration::from_secs(10);
/// For so long attempts are counted then.
const COUNTED: Duration = Duration::from_secs(8);
/// The longest pause between two attempts, and what the rest may take on a busy machine.
const RECOVERY: Duration = Duration::from_secs(12);
/// Children are told soon.
const SOON: (&str, &str) = ("queue_timeout", "500ms");

fn stat(raw: &mut Raw, name: &str) -> u64 {
    let reply = raw.ask("INFO stats");
    let line = reply.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.expect("a figure").trim().parse().expect("a number")
}

/// Connections that the server has seen, let in or not.
fn seen(raw: &mut Raw) -> u64 {
    stat(raw, "total_connections_received") + stat(raw, "rejected_connections")
}

fn log_lines(broker: &Broker) -> usize {
    broker.log().lines().count()
}

/// Children that ask all the time, in the two protocols and two databases, so that there are lanes of several pools.
fn crowd(broker: &Broker) -> Vec<Raw> {
    let mut first = broker.connect();
    wait_until("it is up", || first.ask("PING") == "+PONG\r\n");
    let mut crowd = vec![first, broker.connect_resp3(), broker.connect()];
    crowd[2].expect("SELECT 1", "+OK\r\n");
    for raw in &mut crowd {
        raw.expect("SET k v", "+OK\r\n");
    }
    crowd
}

/// While the crowd asks on: fewer than two attempts a second, and fewer than ten lines a minute; everybody is told `why`.
fn check_patience(redis: &mut Raw, broker: &Broker, crowd: &mut [Raw], why: &str) {
    let (begun, lines) = (Instant::now(), log_lines(broker));
    let ask = |crowd: &mut [Raw]| {
        for raw in crowd {
            let told = raw.ask("GET k");
            assert!(told.starts_with("-BROKERDOWN") && told.contains(why), "{told}");
        }
    };
    while begun.elapsed() < PAUSE_GROWS {
        ask(crowd);
    }
    let (begun, before) = (Instant::now(), seen(redis));
    while begun.elapsed() < COUNTED {
        ask(crowd);
    }
    let dials = seen(redis) - before;
    assert!(dials < 2 * COUNTED.as_secs(), "{dials} in {COUNTED:?}");
    let said = log_lines(broker) - lines;
    assert!(said < 10, "{said} lines:\n{}", broker.log());
}

fn check_recovery(crowd: &mut [Raw]) {
    wait_within("served again", RECOVERY, || crowd[0].ask("GET k") == "$1\r\nv\r\n");
    for raw in crowd {
        wait_until("all are served", || raw.ask("GET k") == "$1\r\nv\r\n");
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_password_that_was_changed_is_tried_less_and_less_often() {
    let redis = Redis::start_with(&["--requirepass", "pw"]);
    let broker = Broker::start(&redis, &[("upstream_password", "pw"), SOON]);
    let mut crowd = crowd(&broker);
    let mut admin = redis.connect();
    admin.expect("CONFIG SET requirepass other", "+OK\r\n");
    admin.ask("CLIENT KILL TYPE normal SKIPME yes");
    let why = "HELLO was answered with: WRONGPASS";
    // What was in flight is lost first.
    for raw in &mut crowd {
        wait_until("it is told", || raw.ask("GET k").contains(why));
    }
    check_patience(&mut admin, &broker, &mut crowd, why);
    admin.expect("CONFIG SET requirepass pw", "+OK\r\n");
    check_recovery(&mut crowd);
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_server_with_too_many_clients_is_tried_less_and_less_often() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[SOON]);
    let mut crowd = crowd(&broker);
    let mut admin = redis.connect();
    admin.expect("CONFIG SET maxclients 1", "+OK\r\n");
    admin.ask("CLIENT KILL TYPE normal SKIPME yes");
    let why = "ERR max number of clients reached";
    for raw in &mut crowd {
        wait_until("it is told", || raw.ask("GET k").contains(why));
    }
    check_patience(&mut admin, &broker, &mut crowd, why);
    admin.expect("CONFIG SET maxclients 1000", "+OK\r\n");
    check_recovery(&mut crowd);
}

/// Redis takes a connection before it refuses to serve one, and the user's database is refused at each greeting.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_right_that_is_missing_for_good_is_asked_for_less_and_less_often() {
    let redis = Redis::start();
    redis.ask("ACL SETUSER lim on >pw ~* &* +@all -select");
    let url = format!("{}?db=1&user=lim&pass=pw", redis.url());
    let broker = Broker::start_url(&url, &redis.socket(), &[SOON]);
    let mut crowd: Vec<Raw> = (0..2).map(|_| broker.connect()).collect();
    let mut admin = redis.connect();
    check_patience(&mut admin, &broker, &mut crowd, "SELECT was answered with: NOPERM");
    admin.expect("ACL SETUSER lim +select", "+OK\r\n");
    admin.ask("SELECT 1");
    admin.ask("SET k v");
    check_recovery(&mut crowd);
}

// ---- a user that may do little ------------------------------------------------------------------------------

fn start_as(redis: &Redis, rules: &str, settings: &[(&str, &str)]) -> Broker {
    redis.ask(&format!("ACL SETUSER lim on >pw ~* &* {rules}"));
    let url = format!("{}?user=lim&pass=pw", redis.url());
    Broker::start_url(&url, &redis.socket(), settings)
}

/// The user that the page for operators describes lacks nothing.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_user_of_the_page_has_all_rights() {
    let redis = Redis::start();
    let page = include_str!("../docs/operations.md");
    let lines = page.lines().filter(|line| line.starts_with("ACL SETUSER broker "));
    assert_eq!(lines.map(|line| redis.ask(line)).collect::<Vec<_>>(), ["+OK\r\n", "+OK\r\n"]);
    let url = format!("{}?user=broker&pass=PASSWORD&db=1", redis.url());
    let settings = [("integrity", "always"), ("commands_deny", "[\"flushall\"]")];
    let broker = Broker::start_url(&url, &redis.socket(), &settings);
    let mut raw = broker.connect();
    raw.expect("MULTI", "+OK\r\n");
    raw.expect("SET k v", "+QUEUED\r\n");
    raw.expect("EXEC", "*1\r\n+OK\r\n");
    raw.expect("EVAL return(1) 0", ":1\r\n");
    raw.expect("BLPOP q 0.01", "*-1\r\n");
    assert!(!broker.log().contains("no right"), "{}", broker.log());
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_user_that_may_only_read_and_write_is_served() {
    let redis = Redis::start();
    let broker = start_as(&redis, "-@all +@read +@write", &[]);
    let mut raw = broker.connect();
    raw.expect("SET k v", "+OK\r\n");
    raw.expect("GET k", "$1\r\nv\r\n");
    raw.expect("CLIENT GETNAME", "$-1\r\n");
    for line in ["MULTI", "SELECT 1", "CONFIG GET maxmemory", "PING", "SUBSCRIBE c"] {
        let told = raw.ask(line);
        assert!(told.starts_with("-NOPERM"), "{line}: {told}");
    }
    let told = raw.ask("NOSUCH x");
    assert!(told.starts_with("-NOPERM"), "nobody can tell what it is: {told}");
    raw.expect("GET k", "$1\r\nv\r\n");
    let log = broker.log();
    let line = log.lines().find(|line| line.contains("has no right to")).expect("a line about it");
    for part in
        ["command,", "ping", "echo", "client|unblock", "config|get", "commands are taken for those of"]
    {
        assert!(line.contains(part), "{line}");
    }
    assert_eq!(log.matches("has no right to").count(), 1, "{log}");
}

/// Nothing can be unblocked for it: waiters are told in time all the same, and leave no command behind.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn blocking_commands_of_a_user_without_client_lose_no_element() {
    let redis = Redis::start();
    let broker = start_as(&redis, "-@all +@read +@write", &[]);
    let mut waiters: Vec<Raw> = (0..3).map(|_| broker.connect()).collect();
    for (at, raw) in waiters.iter_mut().enumerate() {
        raw.send(["BLPOP q 0", "BLPOP q 0.4", "BLPOP q 0"][at]);
    }
    let blocked = || upstream_clients(&redis).iter().filter(|one| one.field("flags").contains('b')).count();
    wait_until("all wait", || blocked() == 3);
    assert_eq!(waiters[1].read_text(), "*-1\r\n");
    drop(waiters.pop());
    wait_until("only one is waited for", || blocked() == 1);
    redis.connect().expect("RPUSH q a b", ":2\r\n");
    assert_eq!(waiters[0].read_text(), "*2\r\n$1\r\nq\r\n$1\r\na\r\n");
    redis.connect().expect("LLEN q", ":1\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn without_command_all_else_is_as_ever() {
    let redis = Redis::start();
    let broker = start_as(&redis, "+@all -command", &[("integrity", "always")]);
    let mut raw = broker.connect();
    raw.expect("MULTI", "+OK\r\n");
    raw.expect("SET k v", "+QUEUED\r\n");
    raw.expect("EXEC", "*1\r\n+OK\r\n");
    raw.expect("SELECT 1", "+OK\r\n");
    raw.expect("GET k", "$-1\r\n");
    raw.expect("SELECT 0", "+OK\r\n");
    raw.expect("OBJECT ENCODING k", "$6\r\nembstr\r\n");
    raw.expect("GET", "-ERR wrong number of arguments for 'get' command\r\n");
    let told = raw.ask("CLIENT NOSUCH");
    assert!(told.starts_with("-ERR unknown subcommand 'NOSUCH'"), "{told}");
    raw.expect("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    assert!(broker.log().contains("has no right to command"), "{}", broker.log());
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn commands_that_are_renamed_away_are_gone_without() {
    let mut args = Vec::new();
    for name in ["CLIENT", "COMMAND", "ECHO", "CONFIG"] {
        args.extend(["--rename-command", name, ""]);
    }
    let redis = Redis::start_with(&args[..9]);
    let broker = Broker::start(&redis, &[("integrity", "always")]);
    let mut raw = broker.connect();
    raw.expect("SET k v", "+OK\r\n");
    raw.expect("MULTI", "+OK\r\n");
    raw.expect("GET k", "+QUEUED\r\n");
    raw.expect("EXEC", "*1\r\n$1\r\nv\r\n");
    let mut waiter = broker.connect();
    waiter.send("BLPOP q 5");
    raw.expect("RPUSH q e", ":1\r\n");
    assert_eq!(waiter.read_text(), "*2\r\n$1\r\nq\r\n$1\r\ne\r\n");
}

/// What the settings promise of replies cannot be kept, so none is given.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn integrity_without_a_canary_is_refused_in_words() {
    let redis = Redis::start();
    let broker = start_as(&redis, "+@all -echo -ping", &[("integrity", "always"), SOON]);
    let mut raw = broker.connect();
    let why = "its user lacks ECHO and PING, one of which integrity needs";
    wait_until("it is told", || raw.ask("GET k").contains(why));
    assert!(broker.log().contains(why));
    redis.ask("ACL SETUSER lim +ping");
    wait_within("served again", RECOVERY, || raw.ask("GET k") == "$-1\r\n");
}

/// Redis 6.0 has no RESET: each question about a user is asked on a connection of its own.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn users_are_proven_where_there_is_no_reset() {
    let redis = Redis::start_with(&["--rename-command", "RESET", ""]);
    redis.ask("ACL SETUSER ann on >annpw ~* &* +@all");
    redis.ask("ACL SETUSER bob on >bobpw ~* &* +@all -select");
    let broker = Broker::start(&redis, &[("auth", "passthrough")]);
    let (mut ann, mut bob) = (broker.connect(), broker.connect());
    for _ in 0..3 {
        assert!(ann.ask("AUTH ann wrong").starts_with("-WRONGPASS"));
        ann.expect("AUTH ann annpw", "+OK\r\n");
        ann.expect("ACL WHOAMI", "$3\r\nann\r\n");
        ann.expect("SELECT 1", "+OK\r\n");
        bob.expect("AUTH bob bobpw", "+OK\r\n");
        bob.expect("ACL WHOAMI", "$3\r\nbob\r\n");
        assert!(bob.ask("SELECT 1").starts_with("-NOPERM"));
    }
    let mut nobody = broker.connect();
    nobody.expect("ACL WHOAMI", "$7\r\ndefault\r\n");
}

// ---- other kinds of servers ---------------------------------------------------------------------------------

fn check_refusal(broker: &Broker, why: &str) {
    let mut raw = broker.connect();
    wait_until("it is told", || raw.ask("GET k").contains(why));
    assert_eq!(broker.log().matches(why).count(), 1, "{}", broker.log());
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_node_of_a_cluster_is_refused_in_one_line() {
    // The port of its bus is asked for by name; nobody connects to it.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("a port").port();
    let args = ["--cluster-enabled", "yes", "--bind", "127.0.0.1", "--cluster-port", &port.to_string()];
    let redis = Redis::start_with(&args);
    let broker = Broker::start(&redis, &[SOON]);
    let why = "it is a node of a Redis Cluster, which is not supported";
    let mut crowd: Vec<Raw> = (0..2).map(|_| broker.connect()).collect();
    check_refusal(&broker, why);
    check_patience(&mut redis.connect(), &broker, &mut crowd, why);
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_sentinel_is_refused_in_one_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let (socket, file) = (directory.path().join("s.sock"), directory.path().join("sentinel.conf"));
    let text = format!("port 0\nunixsocket {}\ndir {}\n", socket.display(), directory.path().display());
    std::fs::write(&file, text).expect("its configuration");
    let _sentinel = start_sentinel(&file);
    wait_until("it listens", || Raw::try_unix(&socket).is_ok());
    let broker = Broker::start_at(&socket, &[SOON]);
    check_refusal(&broker, "it is a sentinel, which has no keys");
}

fn start_sentinel(file: &Path) -> Running {
    let mut command = Command::new(server_program());
    command.arg(file).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null());
    Running(command.spawn().expect("a sentinel"))
}
