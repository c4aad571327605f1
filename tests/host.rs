//! The broker among the other processes of its host: signals, what it shows of passwords, whom it lets in without a word,
//! and what children send besides bytes.

use std::fs;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::broker::BINARY;
use crate::support::{Broker, PATIENCE, Raw, Redis, Running, request, upstream_clients, wait_until};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, Signal, kill_process};

const SECRET: &str = "hunter2-never-shown";

fn send(broker: &Broker, signal: Signal) {
    let pid = Pid::from_raw(broker.pid().cast_signed()).expect("a process");
    kill_process(pid, signal).expect("signal the broker");
}

// ---- signals ------------------------------------------------------------------------------------------

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_signal_without_a_meaning_is_logged_and_changes_nothing() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    for signal in [Signal::PIPE, Signal::USR2] {
        send(&broker, signal);
    }
    wait_until("it says so", || broker.log().contains("SIGUSR2 is ignored"));
    raw.expect("PING", "+PONG\r\n");
    broker.connect().expect("SET k v", "+OK\r\n");
    assert!(!broker.log().contains("SIGPIPE"), "ignored without a word");
    broker.term();
    assert_eq!(broker.wait_exit(PATIENCE).code(), Some(0));
    assert!(!broker.socket().exists());
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn sigquit_ends_at_once_and_leaves_nothing() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[("drain_timeout", "3600000")]);
    let mut waiter = broker.connect();
    waiter.send("BLPOP none 0");
    wait_until("it waits", || {
        upstream_clients(&redis).iter().any(|client| client.field("flags").contains('b'))
    });
    send(&broker, Signal::QUIT);
    assert_eq!(broker.wait_exit(PATIENCE).code(), Some(0));
    assert!(waiter.is_closed() && !broker.socket().exists());
    wait_until("no upstream connection is left", || upstream_clients(&redis).is_empty());
}

/// Whoever only listens, or keeps a connection for what it has changed there, has nothing to wait for.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn idle_listeners_do_not_hold_up_a_drain() {
    let redis = Redis::start();
    for pubsub in ["shared", "leased"] {
        let settings = [("drain_timeout", "3600000"), ("pubsub", pubsub), ("commands_allow", "monitor")];
        let mut broker = Broker::start(&redis, &settings);
        let mut subscriber = broker.connect();
        subscriber.expect("SUBSCRIBE a", "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
        let mut tracker = broker.connect_resp3();
        tracker.expect("CLIENT TRACKING on", "+OK\r\n");
        let mut monitor = broker.connect();
        monitor.expect("MONITOR", "+OK\r\n");
        let mut idle = broker.connect();
        idle.expect("PING", "+PONG\r\n");
        broker.term();
        assert_eq!(broker.wait_exit(PATIENCE).code(), Some(0), "{pubsub}");
        for raw in [&mut subscriber, &mut tracker, &mut monitor, &mut idle] {
            assert!(raw.is_closed());
        }
    }
}

/// What a subscriber still has to read is written first.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_drain_delivers_the_messages_that_were_there() {
    let redis = Redis::start();
    for pubsub in ["shared", "leased"] {
        let mut broker = Broker::start(&redis, &[("drain_timeout", "3600000"), ("pubsub", pubsub)]);
        let (mut slow, mut quick) = (broker.connect(), broker.connect());
        for raw in [&mut slow, &mut quick] {
            raw.expect("SUBSCRIBE a", "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
        }
        let payload = "x".repeat(64 * 1024);
        let (mut publisher, mut listed) = (redis.connect(), broker.connect());
        for _ in 0..64 {
            publisher.call(&["PUBLISH", "a", &payload]);
        }
        for _ in 0..64 {
            assert!(quick.read_text().ends_with("xx\r\n"));
        }
        // The slow one has its own way there: what it is owed is 4 MiB, most of which no socket holds.
        wait_until("the slow one is owed as much", || {
            let list = listed.ask("CLIENT LIST TYPE pubsub");
            let owed = |line: &str| line.split(" obl=").nth(1)?.split(' ').next()?.parse::<usize>().ok();
            list.lines().filter_map(owed).any(|owed| owed > 3 * 1024 * 1024)
        });
        broker.term();
        for _ in 0..64 {
            assert!(slow.read_text().ends_with("xx\r\n"), "{pubsub}");
        }
        assert!(slow.is_closed());
        assert_eq!(broker.wait_exit(PATIENCE).code(), Some(0));
    }
}

/// A transaction that watches keys has its time to end, as before.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_drain_waits_for_the_end_of_a_transaction() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[("drain_timeout", "3600000")]);
    let mut watcher = broker.connect();
    watcher.expect("WATCH k", "+OK\r\n");
    broker.term();
    wait_until("nobody new is let in", || Raw::try_unix(broker.socket()).is_err());
    watcher.expect("MULTI", "+OK\r\n");
    watcher.expect("SET k v", "+QUEUED\r\n");
    watcher.expect("EXEC", "*1\r\n+OK\r\n");
    assert!(watcher.is_closed());
    assert_eq!(broker.wait_exit(PATIENCE).code(), Some(0));
}

// ---- secrets and doors --------------------------------------------------------------------------------

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn no_mistake_on_the_command_line_shows_a_password() {
    let url = format!("redis://:{SECRET}@h");
    let mistakes: [&[&str]; 8] = [
        &["serve", &url],
        &["serve", SECRET],
        &["serve", "--upsteam", &url],
        &["serve", "--set", "upstream_password", SECRET],
        &["serve", &format!("upstream_password={SECRET}")],
        &["serve", &format!("--dev={url}")],
        &[&url],
        &["serve", "--listen", &url],
    ];
    for args in mistakes {
        let output = Broker::run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(!said.contains(SECRET) && !said.is_empty(), "{args:?}: {said}");
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_file_with_secrets_that_everybody_can_read_draws_a_warning() {
    let redis = Redis::start_with(&["--requirepass", SECRET]);
    let (password, users) = (redis.directory().join("password"), redis.directory().join("users.toml"));
    let config = redis.directory().join("broker.toml");
    fs::write(&password, format!("{SECRET}\n")).expect("write");
    fs::write(&users, "[[user]]\nname = \"default\"\nnopass = true\n").expect("write");
    fs::write(&config, format!("upstream = \"{}\"\nupstream_password = \"{SECRET}\"\n", redis.url()))
        .expect("write");
    let listen = format!("unix://{}", redis.directory().join("b.sock").display());
    let password_file = format!("upstream_password_file={}", password.display());
    let auth_file = format!("auth_file={}", users.display());
    let in_pieces = [
        "serve",
        "--listen",
        &listen,
        "--upstream",
        &redis.url(),
        "--set",
        &password_file,
        "--set",
        "auth=users",
        "--set",
        &auth_file,
    ];
    let in_one = ["serve", "--listen", &listen, "--config", config.to_str().expect("UTF-8")];
    let cases: [(&[&str], &[&Path]); 2] = [(&in_pieces, &[&password, &users]), (&in_one, &[&config])];
    for (args, files) in cases {
        for (mode, warned) in [(0o644, true), (0o602, true), (0o640, false)] {
            for file in files {
                fs::set_permissions(file, PermissionsExt::from_mode(mode)).expect("chmod");
            }
            let broker = Broker::start_args(args, 1);
            broker.connect().expect("SET k v", "+OK\r\n");
            wait_until("it is up", || broker.log().contains("is up"));
            let log = broker.log();
            for file in files {
                let name = file.display().to_string();
                let line = log.lines().find(|line| line.contains(&name));
                assert_eq!(line.is_some(), warned, "{mode:o}: {log}");
                assert!(line.is_none_or(|line| line.contains(&format!("{mode:04o}"))), "{log}");
            }
            assert!(!log.contains(SECRET), "{log}");
        }
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_tcp_listener_that_asks_nobody_is_said_to() {
    let redis = Redis::start();
    let args = ["serve", "--listen", "tcp://127.0.0.1:0", "--upstream", &redis.url()];
    for (auth, warned) in [("auth=broker", true), ("auth=passthrough", false)] {
        let broker = Broker::start_args(&[&args[..], &["--set", auth]].concat(), 1);
        wait_until("it is up", || broker.log().contains("is up"));
        let line = broker.log().lines().find(|line| line.contains("the broker's rights")).map(str::to_owned);
        assert_eq!(line.is_some(), warned, "{}", broker.log());
        assert!(line.is_none_or(|line| line.contains(&broker.listening()[0]) && line.contains("warn")));
    }
}

/// `--check` and a start refuse the same, with the same words.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_check_says_what_a_start_would_say() {
    let redis = Redis::start();
    let place = redis.directory();
    let open = place.join("open");
    fs::create_dir(&open).expect("a directory");
    fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).expect("chmod");
    fs::write(place.join("file"), "data").expect("write");
    let path = |name: &str| format!("unix://{}/{name}", place.display());
    let listens = [
        "tcp://0.0.0.0:0".to_owned(),
        "tcp://0:0".to_owned(),
        "tcp://[::ffff:0.0.0.0]:0".to_owned(),
        "tcp://no-such-host.invalid:0".to_owned(),
        "tcp://192.0.2.1:0?insecure=1".to_owned(),
        path("none/b.sock"),
        path("open/b.sock"),
        path("file"),
        path("b.sock?user=no-such-user"),
        path("b.sock?group=no-such-group"),
    ];
    let upstream = redis.url();
    let mut cases: Vec<Vec<String>> = Vec::new();
    for listen in &listens {
        cases.push(["--upstream", &upstream, "--listen", listen].map(str::to_owned).to_vec());
    }
    let (missing, good) = (format!("{}/none", place.display()), path("b.sock"));
    for pair in [format!("upstream_password_file={missing}"), format!("auth_file={missing}")] {
        let args = ["--upstream", &upstream, "--listen", &good, "--set", "auth=users", "--set", &pair];
        cases.push(args.map(str::to_owned).to_vec());
    }
    for case in cases {
        let args: Vec<&str> = std::iter::once("serve").chain(case.iter().map(String::as_str)).collect();
        let started = Broker::run(&args);
        let checked = Broker::run(&[&args[..], &["--check"]].concat());
        let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(started.status.code(), Some(1 | 2)), "{case:?}: {}", said(&started));
        assert_eq!(checked.status.code(), started.status.code(), "{case:?}: {}", said(&checked));
        assert_eq!(said(&checked), said(&started), "{case:?}");
    }
    assert_eq!(fs::read_dir(&open).expect("the directory").count(), 0);
}

/// A check of the very settings a broker runs with is a good one, and the broker does not notice.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_check_beside_a_running_broker_passes() {
    let redis = Redis::start();
    let unix = format!("unix://{}", redis.directory().join("b.sock").display());
    let broker = Broker::start_args(
        &["serve", "--listen", &unix, "--listen", "tcp://127.0.0.1:0", "--upstream", &redis.url()],
        2,
    );
    let tcp = broker.listening()[1].clone();
    let mut raw = Raw::unix(&redis.directory().join("b.sock"));
    let output =
        Broker::run(&["serve", "--listen", &unix, "--listen", &tcp, "--upstream", &redis.url(), "--check"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"ok\n");
    raw.expect("PING", "+PONG\r\n");
    Raw::unix(&redis.directory().join("b.sock")).expect("PING", "+PONG\r\n");
    Raw::tcp(tcp.strip_prefix("tcp://").expect("a TCP listener")).expect("PING", "+PONG\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_directory_of_the_private_redis_is_private_under_every_umask() {
    let place = tempfile::tempdir().expect("a directory");
    let url = format!("unix://{}", place.path().join("b.sock").display());
    let child = Command::new("sh")
        .args(["-c", "umask 0; exec \"$@\"", "sh", BINARY, "serve", "--dev", "--listen", &url])
        .env("TMPDIR", place.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("start the broker");
    let _running = Running(child);
    wait_until("it serves", || Raw::try_unix(&place.path().join("b.sock")).is_ok());
    let entries = fs::read_dir(place.path()).expect("the directory");
    let made = entries.flatten().find(|entry| entry.file_name().to_string_lossy().starts_with("broker-dev-"));
    let mode = made.expect("its directory").metadata().expect("metadata").permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
}

// ---- what children send besides bytes -----------------------------------------------------------------

/// Descriptors with a request end the broker's read there; what comes behind them is served all the same.
#[test]
fn requests_that_come_with_descriptors_are_answered_without_another_byte() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let child = UnixStream::connect(broker.socket()).expect("connect");
    child.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // It has been a child like any other for a while.
    for _ in 0..100 {
        (&child).write_all(b"*1\r\n$4\r\nPING\r\n").expect("send");
        (&child).read_exact(&mut [0; 7]).expect("a reply");
    }
    let null = fs::File::open("/dev/null").expect("/dev/null");
    let fds = [null.as_fd(); 100];
    for number in 0..100 {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(100))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let bytes = request(&["SET", "k", &number.to_string()]);
        sendmsg(&child, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()).expect("send");
    }
    let mut replies = [0; 500];
    (&child).read_exact(&mut replies).expect("a reply to each");
    assert!(replies.chunks(5).all(|reply| reply == b"+OK\r\n"));
    broker.connect().expect("GET k", "$2\r\n99\r\n");
}

/// An urgent byte ends the broker's read at its mark, and is no part of the stream.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn requests_around_urgent_data_are_answered_without_another_byte() {
    let redis = Redis::start();
    let broker =
        Broker::start_args(&["serve", "--listen", "tcp://127.0.0.1:0", "--upstream", &redis.url()], 1);
    let address = broker.listening()[0].strip_prefix("tcp://").expect("a TCP listener").to_owned();
    let child = std::net::TcpStream::connect(address).expect("connect");
    child.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    child.set_nodelay(true).expect("no delay");
    for _ in 0..100 {
        (&child).write_all(&request(&["SET", "a", "1"])).expect("send");
        rustix::net::send(&child, b"!", SendFlags::OOB).expect("send out of band");
        (&child).write_all(&request(&["SET", "b", "2"])).expect("send");
        let mut replies = [0; 10];
        (&child).read_exact(&mut replies).expect("a reply to each");
        assert_eq!(&replies, b"+OK\r\n+OK\r\n");
    }
}
