//! Names of upstreams, looked up while everything else goes on: by the program, by a loop inside another program and by a
//! client, with name servers that are silent, late, or lead elsewhere by now.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use broker::config::Settings;
use broker::reactor::{Loop, RunMode};

use crate::support::name_server::{Manner, NameServer, with_etc};
use crate::support::{self, Broker, PATIENCE, Raw, Redis, wait_until};

/// Set in the process that runs a test's body.
const ALONE: &str = "BROKER_TEST_ALONE";
/// The directory that is /etc to it.
const ETC: &str = "BROKER_TEST_ETC";

/// A Redis that is reached at this address alone, and the port.
pub(crate) fn redis_at(ip: &str) -> (Redis, u16) {
    let port = std::net::TcpListener::bind((ip, 0)).and_then(|listener| listener.local_addr());
    let port = port.expect("a port").port();
    (redis_at_port(ip, port), port)
}

pub(crate) fn redis_at_port(ip: &str, port: u16) -> Redis {
    Redis::start_with(&["--bind", ip, "--port", &port.to_string()])
}

/// A request whose upstream cannot be reached is told so.
fn why_down(child: &mut Raw) -> String {
    let reply = child.ask("GET k");
    assert!(reply.starts_with("-BROKERDOWN"), "{reply}");
    reply
}

// ---- the program -----------------------------------------------------------------------------------------

/// The name is completed from the search list, and the answer fits into no datagram; of its addresses only one is a
/// server's, so every new connection would fail if it tried one alone.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn every_address_of_a_name_is_tried() {
    let (redis, port) = redis_at("127.0.0.2");
    let names = NameServer::start("search else.test db.test\noptions timeout:30");
    names.set("master.db.test", &["127.0.0.3", "127.0.0.4", "127.0.0.2"]);
    names.behave(Manner::Truncates);
    let settings = [("queue_timeout", "10s"), ("lanes", "4")];
    let broker = Broker::start_named(&names, &format!("redis://master:{port}"), &settings);
    let mut child = broker.connect();
    assert_eq!(child.ask("SET k 1"), "+OK\r\n");
    assert_eq!(redis.ask("GET k"), "$1\r\n1\r\n");
    let asked = names.asked();
    assert_eq!(asked.iter().filter(|name| *name == "master.else.test").count(), 2, "{asked:?}");
    assert!(names.asked_over_tcp() >= 2, "{asked:?}");
    assert!(!broker.log().contains("cannot connect"), "one dial tries all: {}", broker.log());
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_name_server_that_is_silent_keeps_nobody_from_anything() {
    let (_redis, port) = redis_at("127.0.0.2");
    let names = NameServer::start("options timeout:30");
    names.set("db.test", &["127.0.0.2"]);
    names.behave(Manner::Silent);
    let settings = [("queue_timeout", "500ms"), ("connect_timeout", "200ms")];
    let broker = Broker::start_named(&names, &format!("redis://db.test:{port}"), &settings);
    let mut child = broker.connect();
    let silent = "cannot look up db.test: no answer from 127.0.0.1";
    wait_until("the reason", || why_down(&mut child).contains(silent));
    assert!(child.ask("BROKER SHOW CHILDREN").starts_with('*'), "others are served");
    assert_eq!(names.asked().len(), 2, "one look-up for all who wait");
    assert_eq!(broker.log().matches("cannot look up").count(), 1, "{}", broker.log());
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn what_name_servers_say_is_passed_on() {
    let names = NameServer::start("options attempts:1");
    let settings = [("queue_timeout", "200ms"), ("connect_timeout", "10s")];
    let broker = Broker::start_named(&names, "redis://gone.test:7", &settings);
    let mut child = broker.connect();
    let unknown = "cannot look up gone.test: 127.0.0.1 says that it does not exist";
    wait_until("the reason", || why_down(&mut child).contains(unknown));
    names.behave(Manner::Fails);
    let failing = "cannot look up gone.test: 127.0.0.1 says SERVFAIL";
    wait_until("the other reason", || why_down(&mut child).contains(failing));
    // The name is there now, and found without anybody's doing.
    let (_redis, port) = redis_at("127.0.0.2");
    drop(broker);
    let broker = Broker::start_named(&names, &format!("redis://gone.test:{port}"), &settings);
    let mut child = broker.connect();
    wait_until("the reason", || why_down(&mut child).contains("says SERVFAIL"));
    names.set("gone.test", &["127.0.0.2"]);
    names.behave(Manner::Answers);
    wait_until("the upstream", || child.ask("GET k") == "$-1\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn requests_wait_for_a_late_answer() {
    let (_redis, port) = redis_at("127.0.0.2");
    let names = NameServer::start("options timeout:30");
    names.set("db.test", &["127.0.0.2"]);
    names.behave(Manner::Holds);
    // Attempts are given up while the look-up goes on.
    let settings = [("queue_timeout", "20s"), ("connect_timeout", "50ms")];
    let broker = Broker::start_named(&names, &format!("redis://db.test:{port}"), &settings);
    let mut child = broker.connect();
    child.send("GET k");
    wait_until("a failed attempt", || broker.log().contains("cannot look up db.test"));
    names.behave(Manner::Answers);
    assert_eq!(child.read_text(), "$-1\r\n");
    assert_eq!(names.asked().len(), 2);
}

/// As a managed service does a failover. The old server is gone, or it is there and only its connections have ended.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_name_that_moves_is_followed() {
    let (old, port) = redis_at("127.0.0.2");
    let new = redis_at_port("127.0.0.3", port);
    let names = NameServer::start("options timeout:5");
    names.set("db.test", &["127.0.0.2"]);
    let broker = Broker::start_named(&names, &format!("redis://db.test:{port}"), &[]);
    let mut child = broker.connect();
    assert_eq!(child.ask("SET k old"), "+OK\r\n");
    // It is asked for once for all connections, and again when one is lost, though the answer holds.
    assert_eq!(names.asked().len(), 2);
    old.ask("CLIENT KILL TYPE normal");
    wait_until("another look-up", || names.asked().len() >= 4);
    wait_until("a connection", || child.ask("GET k") == "$3\r\nold\r\n");
    new.ask("SET k new");
    names.set("db.test", &["127.0.0.3"]);
    old.kill();
    wait_until("the new server", || child.ask("GET k") == "$3\r\nnew\r\n");
    // And back, while the name server is silent for a while: the address known before stays in use.
    names.behave(Manner::Silent);
    new.kill();
    new.restart();
    wait_until("the same server", || child.ask("GET k") == "$-1\r\n");
    let back = redis_at_port("127.0.0.2", port);
    back.ask("SET k back");
    names.set("db.test", &["127.0.0.2"]);
    names.behave(Manner::Answers);
    new.kill();
    wait_until("the first address", || child.ask("GET k") == "$4\r\nback\r\n");
}

// ---- a loop inside a program -----------------------------------------------------------------------------

/// Runs `body` in a process with nothing else in it, whose /etc is an empty directory.
fn alone(name: &str, body: impl FnOnce(&Path)) {
    if std::env::var_os(ALONE).is_some() {
        return body(Path::new(&std::env::var_os(ETC).expect("a directory")));
    }
    let etc = tempfile::tempdir().expect("a directory");
    let mut command = support::this_program(module_path!(), name);
    with_etc(&mut command, etc.path());
    let status = command.env(ALONE, "1").status().expect("run the test again");
    assert!(status.success(), "in its own process: {status}");
}

fn entries(directory: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).expect("proc");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// A turn that does not wait, and what it may take: far less than what the name server may, and any look-up that blocks
/// would.
fn turn(lp: &mut Loop) {
    let begun = Instant::now();
    lp.run(RunMode::NoWait).expect("a turn");
    assert!(begun.elapsed() < Duration::from_secs(5), "a turn has waited: {:?}", begun.elapsed());
}

/// It is made, runs, and answers, whatever becomes of the name; nothing of the look-up is left behind it.
#[test]
fn a_loop_does_not_wait_for_a_name_server() {
    alone("a_loop_does_not_wait_for_a_name_server", |etc| {
        let (redis, port) = redis_at("127.0.0.2");
        let names = NameServer::start_in(etc, "options timeout:30");
        names.set("db.test", &["127.0.0.2"]);
        names.behave(Manner::Holds);
        let mut settings = Settings::default();
        let url = format!("redis://db.test:{port}");
        for (key, value) in [("upstream", &url[..]), ("queue_timeout", "300ms"), ("connect_timeout", "200ms")]
        {
            settings.set(key, value).expect("a setting");
        }
        // Its children are told why.
        settings.set("on_upstream_loss", "error").expect("a setting");
        let threads = entries("/proc/self/task");
        let mut lp = Loop::new(settings).expect("made without the name");
        let (near, far) = UnixStream::pair().expect("a pair");
        lp.adopt(far.into()).expect("adopted");
        let mut child = Raw::of(near);
        let mut ask = |lp: &mut Loop| {
            child.send("GET k");
            let begun = Instant::now();
            while child.is_silent(Duration::from_millis(1)) {
                assert!(begun.elapsed() < PATIENCE, "no reply");
                turn(lp);
            }
            child.read_text()
        };
        let silent = "cannot look up db.test: no answer from 127.0.0.1";
        // On a busy machine a request may have waited long enough before the first attempt has failed.
        wait_until("the reason", || ask(&mut lp).contains(silent));
        assert!(ask(&mut lp).contains(silent));
        assert_eq!(entries("/proc/self/task"), threads, "no thread");
        assert_eq!(names.asked().len(), 2);
        names.behave(Manner::Answers);
        wait_until("the value", || ask(&mut lp) == "$-1\r\n");
        drop(lp);
        drop(redis);
    });
}

/// Sockets of a look-up end with its loop.
#[test]
fn a_loop_that_is_closed_looks_nothing_up() {
    alone("a_loop_that_is_closed_looks_nothing_up", |etc| {
        let names = NameServer::start_in(etc, "options timeout:30");
        names.behave(Manner::Silent);
        let mut settings = Settings::default();
        settings.set("upstream", "redis://db.test:7").expect("a URL");
        let before = entries("/proc/self/fd").len();
        let mut lp = Loop::new(settings).expect("made without the name");
        let made = entries("/proc/self/fd").len();
        let begun = Instant::now();
        while names.asked().is_empty() {
            assert!(begun.elapsed() < PATIENCE, "nobody asks");
            turn(&mut lp);
        }
        assert_eq!(entries("/proc/self/fd").len(), made + 1, "one socket");
        lp.close();
        assert_eq!(entries("/proc/self/fd").len(), made);
        drop(lp);
        assert_eq!(entries("/proc/self/fd").len(), before);
    });
}
