//! `broker ctl` and `broker reload` beside real brokers: what they print, how they end, and what they never show.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::broker::BINARY;
use crate::support::console::{rows, said};
use crate::support::native_child::NativeChild;
use crate::support::{Broker, PATIENCE, Raw, Redis, admin_beside, wait_until};

fn ctl(broker: &Broker, words: &str) -> Output {
    let socket = broker.socket().display().to_string();
    let words: Vec<&str> = words.split(' ').collect();
    Broker::run(&[&["ctl", "--socket", &socket, "--timeout", "20s"], &words[..]].concat())
}

/// Its exit code, and what it has printed on both.
fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn done(broker: &Broker, words: &str) -> String {
    let (code, out, err) = told(&ctl(broker, words));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{words}: {out}");
    out
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn verbs_are_carried_out_and_what_is_refused_has_its_own_code() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    assert_eq!(done(&broker, "SET lanes 3"), "OK\n");
    let table = done(&broker, "show config where key lanes");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(lines[0].starts_with("key   value default reloadable source"), "{table}");
    let words: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!(words, ["lanes", "3", "1", "yes", "console"]);
    assert_eq!(done(&broker, "UNSET lanes"), "OK\n");
    assert_eq!(done(&broker, "RELOAD"), "nothing has changed\n");
    assert!(done(&broker, "HELP").lines().any(|line| line.starts_with("BROKER KILL PID pid")));

    let refused = ctl(&broker, "SET lanes 0");
    let expected = "broker: lanes = \"0\": out of range; allowed 1 to 1024\n";
    assert_eq!(told(&refused), (Some(1), String::new(), expected.to_owned()));
    assert_eq!(told(&ctl(&broker, "DANCE")).0, Some(1));
    assert_eq!(told(&Broker::run(&["ctl", "--socket", "/nowhere/b.sock", "HELP"])).0, Some(2));
    assert_eq!(told(&Broker::run(&["ctl"])).0, Some(2), "no words");
    assert_eq!(told(&Broker::run(&["ctl", "--socket", "x@y", "HELP"])).0, Some(2));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_process_is_closed_as_a_whole() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let other = NativeChild::start(broker.socket(), "multi", &[], &[]);
    let mut own: Vec<Raw> = (0..300).map(|_| broker.connect()).collect();
    own.iter_mut().for_each(|raw| raw.expect("ECHO a", "$1\r\na\r\n"));
    let pid = std::process::id();
    let mut admin = Raw::unix(&admin_beside(broker.socket()));
    assert_eq!(rows(&mut admin, &format!("PROCESSES WHERE pid {pid}"))[0]["children"], "301");
    assert_eq!(done(&broker, &format!("KILL PID {pid}")), "301\n");
    assert!(own.iter_mut().all(Raw::is_closed) && admin.is_closed());
    assert_eq!(done(&broker, &format!("KILL PID {pid}")), "0\n");
    for wrong in ["0", "-3", "x"] {
        assert_eq!(told(&ctl(&broker, &format!("KILL PID {wrong}"))).0, Some(1), "{wrong}");
    }
    let mut admin = Raw::unix(&admin_beside(broker.socket()));
    admin.expect(&format!("BROKER KILL PID {pid}"), ":1\r\n");
    assert!(admin.is_closed(), "its own child goes last");
    let left = rows(&mut Raw::unix(&admin_beside(broker.socket())), "CHILDREN WHERE waits_for -");
    assert!(left.iter().any(|row| row["pid"] == other.pid().to_string()), "{left:?}");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_password_is_read_from_standard_input() {
    const SECRET: &str = "hunter2-never-shown";
    let redis = Redis::start();
    redis.ask(&format!("ACL SETUSER app on >first >{SECRET} ~* &* +@all"));
    let broker = Broker::start(&redis, &[("upstream_username", "app"), ("upstream_password", "first")]);
    let mut child = Command::new(BINARY)
        .args(["ctl", "--socket", &broker.socket().display().to_string(), "SET", "upstream_password", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start it");
    writeln!(child.stdin.take().expect("its input"), "{SECRET}").expect("write");
    let output = child.wait_with_output().expect("its end");
    assert_eq!(told(&output), (Some(0), "OK\n".to_owned(), String::new()));
    redis.ask("ACL SETUSER app <first");
    Raw::unix(broker.socket()).expect("SET k v", "+OK\r\n");
    assert!(!broker.log().contains(SECRET));
    assert!(!done(&broker, "SHOW CONFIG").contains(SECRET));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn reload_finds_the_broker_by_its_configuration() {
    let redis = Redis::start();
    let file = redis.directory().join("broker.toml");
    let config = file.display().to_string();
    let at = |name: &str| format!("unix://{}", redis.directory().join(name).display());
    for admin in ["", &format!("admin_listen = '{}'", at("elsewhere.sock"))] {
        let write = |more: &str| {
            let (upstream, listen) = (redis.url(), at("b.sock"));
            let text = format!("upstream = '{upstream}'\nlisten = ['{listen}']\n{admin}\n{more}\n");
            fs::write(&file, text).expect("a file");
        };
        write("");
        let mut broker = Broker::start_args(&["serve", "--config", &config], 1);
        let reload = || told(&Broker::run(&["reload", "--config", &config, "--timeout", "20s"]));
        assert_eq!(reload(), (Some(0), "nothing has changed\n".to_owned(), String::new()));
        write("lanes = 4\nslowlog_max = 3");
        let (code, out, _) = reload();
        assert_eq!((code, out.as_str()), (Some(0), "lanes: 1 -> 4\nslowlog_max: 128 -> 3\n"));
        write("lanes = 0");
        let (code, out, err) = reload();
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        assert!(err.contains(":4: lanes = \"0\": out of range"), "{err}");
        wait_until("the log says so", || broker.log().contains("the former settings go on: "));
        fs::write(&file, "listen = ").expect("a file");
        assert_eq!(reload().0, Some(1));
        broker.term();
        broker.wait_exit(PATIENCE);
        write("");
        assert_eq!(reload().0, Some(2), "nobody is there");
    }
    write_none(&file);
    let (code, _, err) = told(&Broker::run(&["reload", "--config", &config]));
    assert_eq!(code, Some(1));
    assert!(err.contains("admin_listen = none: send SIGHUP instead"), "{err}");
}

fn write_none(file: &Path) {
    fs::write(file, "admin_listen = 'none'").expect("a file");
}

/// A broker that hangs is told from one that is at work.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_broker_that_hangs_is_not_waited_for() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let pid = Pid::from_raw(broker.pid().cast_signed()).expect("a process");
    kill_process(pid, Signal::STOP).expect("stop it");
    let socket = broker.socket().display().to_string();
    for words in [&["RELOAD"][..], &["SHOW", "STATS"], &["DRAIN"]] {
        let output = Broker::run(&[&["ctl", "--socket", &socket, "--timeout", "100ms"], words].concat());
        let (code, _, err) = told(&output);
        assert_eq!((code, err.contains("no answer within 100 ms")), (Some(2), true), "{err}");
    }
    kill_process(pid, Signal::CONT).expect("let it go on");
    done(&broker, "HELP");
}

/// It waits until everybody has been let go, however long that takes, and the broker with it.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_drain_is_waited_for() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[("drain_timeout", "50ms")]);
    let mut watcher = broker.connect();
    watcher.expect("WATCH k", "+OK\r\n");
    let socket = broker.socket().display().to_string();
    let mut drain = Command::new(BINARY)
        .args(["ctl", "--socket", &socket, "--timeout", "5s", "DRAIN"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start it");
    wait_until("it drains", || !broker.socket().exists());
    assert!(watcher.is_silent(Duration::from_millis(300)), "drain_timeout does not bound it");
    assert_eq!(drain.try_wait().expect("its state"), None);
    watcher.expect("MULTI", "+OK\r\n");
    watcher.expect("EXEC", "*0\r\n");
    assert!(watcher.is_closed());
    assert_eq!(drain.wait_with_output().expect("its end").stdout, b"OK\n");
    assert_eq!(broker.wait_exit(PATIENCE).code(), Some(0));
    let refused = Broker::run(&["ctl", "--socket", &socket, "HELP"]);
    assert_eq!(told(&refused).0, Some(2));
    assert!(said(&mut redis.connect(), "PING").starts_with('+'));
}
