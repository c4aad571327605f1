//! The broker as a process: how it starts, what it refuses, how it ends, and what it never shows.

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::broker::BINARY;
use crate::support::raw::pipeline;
use crate::support::{self, Broker, End, Raw, Redis, is_running, request, upstream_clients, wait_until};

const SECRET: &str = "hunter2-never-shown";

/// Everything sent before the signal is answered, the connections end at a frame's border, and nothing of the
/// broker is left.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn sigterm_answers_what_was_sent() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    let mut children: Vec<Raw> = (0..20).map(|_| broker.connect()).collect();
    children.iter_mut().for_each(|raw| raw.expect("PING", "+PONG\r\n"));
    for (number, raw) in children.iter_mut().enumerate() {
        let mut bytes = pipeline(&vec![format!("INCR sent:{number}").as_str(); 50]);
        // Half a frame after the last complete one is not answered.
        bytes.extend_from_slice(b"*2\r\n$4\r\nINCR\r\n$4\r\nnev");
        raw.write(&bytes);
    }
    // In the accept queue, with a request already written.
    let mut queued = broker.connect();
    queued.send("INCR queued");
    broker.term();
    for (number, raw) in children.iter_mut().enumerate() {
        for value in 1..=50 {
            assert_eq!(raw.read_text(), format!(":{value}\r\n"), "child {number}");
        }
        assert_eq!(raw.try_reply(), Err(End::Closed));
    }
    assert_eq!(queued.read_text(), ":1\r\n");
    assert_eq!(queued.try_reply(), Err(End::Closed));
    assert_eq!(broker.wait_exit(Duration::from_secs(10)).code(), Some(0));
    nothing_is_left(&broker, &redis);
}

/// Under load, what a child counted is what is in Redis: no reply lost, none cut in half.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn sigterm_under_load_loses_no_answer() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    let answered = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (raw, answered) = (broker.connect(), &answered);
            scope.spawn(move || load_until_closed(raw, 1 + number % 3 * 10, answered));
        }
        wait_until("there is load", || answered.load(Ordering::SeqCst) > 1_000);
        broker.term();
        assert_eq!(broker.wait_exit(Duration::from_secs(15)).code(), Some(0));
    });
    let total = answered.load(Ordering::SeqCst).to_string();
    assert_eq!(redis.ask("GET load"), format!("${}\r\n{total}\r\n", total.len()));
    nothing_is_left(&broker, &redis);
}

fn load_until_closed(mut raw: Raw, batch: usize, answered: &AtomicU64) {
    let bytes = pipeline(&vec!["INCR load"; batch]);
    while raw.try_write(&bytes).is_ok() {
        for _ in 0..batch {
            match raw.try_reply() {
                Ok(reply) => {
                    assert!(reply.starts_with(b":"), "{}", support::show(&reply));
                    answered.fetch_add(1, Ordering::SeqCst);
                }
                Err(End::Closed) => {
                    let (rest, _) = raw.read_all();
                    assert!(rest.is_empty(), "half a reply: {}", support::show(&rest));
                    return;
                }
                Err(End::Silent) => panic!("neither a reply nor the end"),
            }
        }
    }
}

fn nothing_is_left(broker: &Broker, redis: &Redis) {
    assert!(!broker.socket().exists(), "the socket file is gone");
    wait_until("no upstream connection is left", || upstream_clients(redis).is_empty());
}

/// Waiters and transactions that watch keys are ended at `drain_timeout`; subscribers before.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn drain_timeout_ends_waiters() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[("drain_timeout", "300")]);
    let mut held = hold_leases(&broker, &redis);
    broker.term();
    assert_eq!(broker.wait_exit(Duration::from_secs(10)).code(), Some(0));
    for raw in &mut held {
        assert!(raw.is_closed());
    }
    nothing_is_left(&broker, &redis);
}

/// The second signal does not wait.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_second_signal_ends_at_once() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[("drain_timeout", "60000")]);
    let mut held = hold_leases(&broker, &redis);
    broker.term();
    wait_until("it drains: nobody new is let in", || Raw::try_unix(broker.socket()).is_err());
    let start = Instant::now();
    broker.term();
    broker.wait_exit(Duration::from_secs(10));
    assert!(start.elapsed() < Duration::from_secs(10));
    for raw in &mut held {
        assert!(raw.is_closed());
    }
    nothing_is_left(&broker, &redis);
}

fn hold_leases(broker: &Broker, redis: &Redis) -> Vec<Raw> {
    let (mut waiter, mut subscriber, mut watcher) = (broker.connect(), broker.connect(), broker.connect());
    waiter.send("BLPOP none 0");
    subscriber.expect("SUBSCRIBE a", "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    watcher.expect("WATCH k", "+OK\r\n");
    wait_until("the waiter is blocked", || {
        upstream_clients(redis).iter().any(|client| client.field("flags").contains('b'))
    });
    vec![waiter, subscriber, watcher]
}

/// A living broker's socket is refused by name, and the living one notices nothing.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_second_broker_on_a_path_is_refused() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    let path = broker.socket().display().to_string();
    for _ in 0..3 {
        let line = refused(&["serve", "--listen", &format!("unix://{path}"), "--upstream", &redis.url()]);
        assert!(line.contains(&path), "it names the socket: {line}");
    }
    raw.expect("PING", "+PONG\r\n");
    broker.connect().expect("SET k v", "+OK\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_stale_socket_is_replaced() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    broker.kill();
    assert!(broker.socket().exists(), "SIGKILL leaves the file");
    let url = format!("unix://{}", broker.socket().display());
    let next = Broker::start_args(&["serve", "--listen", &url, "--upstream", &redis.url()], 1);
    next.connect().expect("PING", "+PONG\r\n");
    // One left behind by any other program.
    let other = broker.directory().join("other.sock");
    drop(UnixListener::bind(&other).expect("bind"));
    let url = format!("unix://{}", other.display());
    let third = Broker::start_args(&["serve", "--listen", &url, "--upstream", &redis.url()], 1);
    third.connect().expect("PING", "+PONG\r\n");
}

/// What is no socket is not the broker's to remove.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn other_files_are_never_removed() {
    let redis = Redis::start();
    let path = redis.directory().join("precious");
    std::fs::write(&path, "data").expect("write");
    refused(&["serve", "--listen", &format!("unix://{}", path.display()), "--upstream", &redis.url()]);
    assert_eq!(std::fs::read_to_string(&path).expect("it is still there"), "data");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_socket_has_its_permissions() {
    let redis = Redis::start();
    for mode in [0o600, 0o660, 0o666] {
        let path = redis.directory().join(format!("mode-{mode:o}.sock"));
        let url = format!("unix://{}?mode=0{mode:o}", path.display());
        let _broker = Broker::start_args(&["serve", "--listen", &url, "--upstream", &redis.url()], 1);
        let data = std::fs::metadata(&path).expect("the socket");
        assert!(data.file_type().is_socket());
        assert_eq!(data.permissions().mode() & 0o777, mode);
        Raw::unix(&path).expect("PING", "+PONG\r\n");
    }
}

/// Several listeners at once; port 0 is answered with the real one.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn it_listens_on_tcp_and_unix_at_once() {
    let redis = Redis::start();
    let unix = format!("unix://{}", redis.directory().join("b.sock").display());
    let args = ["serve", "--listen", "tcp://127.0.0.1:0", "--listen", &unix, "--upstream", &redis.url()];
    let mut broker = Broker::start_args(&args, 2);
    let listening = broker.listening().to_vec();
    let address = listening.iter().find_map(|url| url.strip_prefix("tcp://")).expect("a TCP listener");
    assert!(!address.ends_with(":0"), "{address}");
    let mut tcp = Raw::tcp(address);
    tcp.expect("SET over tcp", "+OK\r\n");
    Raw::unix(&redis.directory().join("b.sock")).expect("GET over", "$3\r\ntcp\r\n");
    broker.term();
    assert_eq!(broker.wait_exit(Duration::from_secs(10)).code(), Some(0));
    assert_eq!(tcp.try_reply(), Err(End::Closed));
}

/// Over TCP as over the unix socket: large pipelines, transactions, blocking pops.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn tcp_children_are_children() {
    let redis = Redis::start();
    let args = ["serve", "--listen", "tcp://127.0.0.1:0", "--upstream", &redis.url()];
    let broker = Broker::start_args(&args, 1);
    let address = broker.listening()[0].strip_prefix("tcp://").expect("a TCP listener").to_owned();
    let mut raw = Raw::tcp(&address);
    let value = "x".repeat(300_000);
    raw.call(&["SET", "big", &value]);
    raw.write(&pipeline(&[
        "GET big",
        "MULTI",
        "INCR n",
        "EXEC",
        "WATCH n",
        "UNWATCH",
        "BLPOP none 0.01",
        "PING",
    ]));
    assert_eq!(raw.read_reply().len(), value.len() + "$300000\r\n\r\n".len());
    for wanted in ["+OK\r\n", "+QUEUED\r\n", "*1\r\n:1\r\n", "+OK\r\n", "+OK\r\n", "*-1\r\n", "+PONG\r\n"] {
        assert_eq!(raw.read_text(), wanted);
    }
}

/// Whoever connects gets the broker's rights: beyond loopback that has to be asked for.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn tcp_beyond_loopback_is_refused() {
    let redis = Redis::start();
    for host in ["0.0.0.0", "[::]"] {
        let line = refused(&["serve", "--listen", &format!("tcp://{host}:0"), "--upstream", &redis.url()]);
        assert!(line.contains("insecure"), "{line}");
    }
    let args = ["serve", "--listen", "tcp://0.0.0.0:0?insecure=1", "--upstream", &redis.url()];
    let broker = Broker::start_args(&args, 1);
    let port = broker.listening()[0].rsplit(':').next().expect("a port");
    let port = port.split('?').next().expect("a port");
    Raw::tcp(&format!("127.0.0.1:{port}")).expect("PING", "+PONG\r\n");
}

/// A refusal is one line on standard error and an exit code; returns the line.
#[track_caller]
fn refused(args: &[&str]) -> String {
    let output = Broker::run(args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code();
    assert!(matches!(code, Some(1 | 2)), "{args:?} ended with {:?}: {text}", output.status);
    assert_eq!(text.trim_end().lines().count(), 1, "{args:?} said more or less than a line: {text}");
    assert!(!text.contains("panicked"), "{text}");
    assert!(output.stdout.is_empty(), "{args:?} wrote to standard output");
    text
}

/// The same for what is wrong with the configuration, which has its own exit code.
#[track_caller]
fn misconfigured(args: &[&str]) -> String {
    let line = refused(args);
    assert_eq!(Broker::run(args).status.code(), Some(2), "{args:?}: {line}");
    line
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn what_cannot_be_is_refused_in_one_line() {
    let cases: [(&[&str], &str); 28] = [
        (&[], "serve"),
        (&["nosuch"], "nosuch"),
        (&["serve", "--nosuch"], "--nosuch"),
        (&["serve", "--listen"], "--listen"),
        (&["serve"], "upstream"),
        (&["serve", "--upstream", "unix:///tmp/x", "--dev"], "--dev"),
        (&["serve", "--upstream", "nonsense"], "nonsense"),
        (&["serve", "--upstream", "http://localhost"], "http"),
        (&["serve", "--upstream", "redis+cluster://localhost"], "not supported yet"),
        (&["serve", "--upstream", "sentinel://localhost"], "redis+sentinel://"),
        (&["serve", "--upstream", "redis+sentinel://localhost"], "no name of a master"),
        (&["serve", "--upstream", "rediss://localhost", "--set", "tls_ca_file=/no.pem"], "/no.pem"),
        (&["serve", "--upstream", "unix:///tmp/x", "--listen", "tls://localhost:1"], "?cert="),
        (&["serve", "--upstream", "redis://localhost:99999"], "99999"),
        (&["serve", "--upstream", "redis://localhost/notadb"], "notadb"),
        (&["serve", "--upstream", "unix:///tmp/x", "--listen", "nonsense"], "nonsense"),
        (&["serve", "--upstream", "unix:///tmp/x", "--listen", "http://localhost:1"], "http"),
        (&["serve", "--upstream", "unix:///tmp/x", "--listen", "unix:///tmp/y?mode=999"], "mode"),
        (&["serve", "--upstream", "unix:///tmp/x", "--listen", "unix:///tmp/y?nosuch=1"], "nosuch"),
        (&["serve", "--upstream", "unix:///tmp/x", "--listen", "tcp://localhost"], "localhost"),
        (&["serve", "--upstream", "unix:///tmp/x", "--set", "nosuch=1"], "nosuch"),
        (&["serve", "--upstream", "unix:///tmp/x", "--set", "lanes"], "lanes"),
        (&["serve", "--upstream", "unix:///tmp/x", "--set", "lanes=many"], "many"),
        (&["serve", "--upstream", "unix:///tmp/x", "--set", "lanes=0"], "lanes"),
        (&["serve", "--upstream", "unix:///tmp/x", "--set", "queue_timeout=-1"], "queue_timeout"),
        (&["serve", "--upstream", "unix:///tmp/x", "--set", "transactions=maybe"], "shared"),
        (&["serve", "--upstream", "unix:///tmp/x", "--set", "children_max=999999"], "children_max"),
        (&["serve", "--config", "/nonexistent/broker.toml"], "/nonexistent/broker.toml"),
    ];
    for (args, part) in cases {
        // Never the default place to listen: a test must not touch it.
        let line = misconfigured(args);
        assert!(line.contains(part), "{args:?} names {part}: {line}");
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn bad_toml_is_refused_in_one_line() {
    let redis = Redis::start();
    let path = redis.directory().join("broker.toml");
    let name = path.display().to_string();
    let cases = [
        ("lanes = ", "broker.toml"),
        ("nosuch = 1", "nosuch"),
        ("lanes = \"many\"", "lanes"),
        ("lanes = 0", "lanes"),
        ("lanes = 1\nlanes = 2", "duplicate"),
        ("[section]\nlanes = 1", "section"),
        ("queue_timeout = \"5 parsecs\"", "queue_timeout"),
        ("memory_max = true", "memory_max"),
        ("\u{0}", "broker.toml"),
    ];
    for (text, part) in cases {
        std::fs::write(&path, text).expect("write");
        let line = misconfigured(&["serve", "--config", &name, "--upstream", &redis.url()]);
        assert!(line.contains(part), "{text:?} names {part}: {line}");
    }
    std::fs::write(&path, "lanes = 2\nqueue_timeout = \"5s\"\nmemory_max = \"64MiB\"\n").expect("write");
    let output = Broker::run(&["serve", "--config", &name, "--upstream", &redis.url(), "--check"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The file gives settings, `--set` stands above it, and both are in force.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn settings_come_from_file_and_flags() {
    let redis = Redis::start();
    let (path, socket) = (redis.directory().join("broker.toml"), redis.directory().join("b.sock"));
    let text = format!(
        "upstream = \"{}\"\nlisten = [\"unix://{}\"]\nchildren_max = 1\n",
        redis.url(),
        socket.display()
    );
    std::fs::write(&path, text).expect("write");
    let name = path.display().to_string();
    let broker = Broker::start_args(&["serve", "--config", &name], 1);
    let mut raw = Raw::unix(&socket);
    raw.expect("PING", "+PONG\r\n");
    assert!(Raw::unix(&socket).is_closed());
    drop((raw, broker));
    let _broker = Broker::start_args(&["serve", "--config", &name, "--set", "children_max=2"], 1);
    let (mut first, mut second) = (Raw::unix(&socket), Raw::unix(&socket));
    first.expect("PING", "+PONG\r\n");
    second.expect("PING", "+PONG\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn config_lists_every_key() {
    let output = Broker::run(&["config"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for (key, default) in [
        ("upstream", ""),
        ("upstream_username", ""),
        ("upstream_password", ""),
        ("upstream_password_file", ""),
        ("listen", ""),
        ("lanes", "1"),
        ("leases_blocking_max", "256"),
        ("leases_transaction_max", "64"),
        ("leases_session_max", "32"),
        ("leases_warm", "1"),
        ("upstream_connections_max", "384"),
        ("lease_wait_timeout", "5000"),
        ("connect_timeout", "1000"),
        ("reconnect_backoff_max", "500"),
        ("queue_timeout", "1000"),
        ("request_timeout", "0"),
        ("lane_stall_timeout", "10000"),
        ("upstream_idle_timeout", "300000"),
        ("upstream_lifetime", "0"),
        ("children_max", "10000"),
        ("child_in_flight_max", "1024"),
        ("child_input_max", "512MiB"),
        ("child_output_max", "64MiB"),
        ("subscriber_output_max", "32MiB"),
        ("subscriber_output_soft", "8MiB"),
        ("subscriber_output_soft_time", "60000"),
        ("memory_max", "1GiB"),
        ("idle_child_timeout", "0"),
        ("idle_transaction_timeout", "60000"),
        ("transactions", "shared"),
        ("drain_timeout", "5000"),
        ("log_level", "info"),
        ("log_format", "text"),
    ] {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(key));
        let line = line.unwrap_or_else(|| panic!("no line for {key}:\n{text}"));
        assert!(line.contains(default), "{key} has the default {default}: {line}");
    }
}

/// The private Redis of `--dev` goes with the broker, however that goes.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_private_redis_ends_with_its_broker() {
    let place = tempfile::tempdir().expect("a directory");
    for by_kill in [true, false] {
        let url = format!("unix://{}", place.path().join(format!("dev-{by_kill}.sock")).display());
        let mut broker = Broker::start_args(&["serve", "--dev", "--listen", &url], 1);
        broker.connect().expect("SET k v", "+OK\r\n");
        let redis = child_of(broker.pid());
        assert!(is_running(redis));
        if by_kill {
            broker.kill();
        } else {
            broker.term();
            assert_eq!(broker.wait_exit(Duration::from_secs(10)).code(), Some(0));
        }
        wait_until("the private Redis is gone", || !is_running(redis));
    }
}

fn child_of(parent: u32) -> u32 {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let children = pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        fields.get(1).is_some_and(|field| *field == parent.to_string())
    });
    let children: Vec<u32> = children.collect();
    assert_eq!(children.len(), 1, "one child process: {children:?}");
    children[0]
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_missing_redis_server_is_named() {
    let place = tempfile::tempdir().expect("a directory");
    let url = format!("unix://{}", place.path().join("b.sock").display());
    let output = Command::new(BINARY)
        .args(["serve", "--dev", "--listen", &url])
        .env("PATH", place.path())
        .output()
        .expect("run the broker");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{:?}: {text}", output.status);
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    assert!(text.contains("redis-server") && text.contains("install"), "{text}");
}

/// Given in the URL, in a setting, in a file: the password works and is seen nowhere.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn passwords_are_never_shown() {
    let redis = Redis::start_with(&["--requirepass", SECRET]);
    let file = redis.directory().join("password");
    std::fs::write(&file, format!("{SECRET}\n")).expect("write");
    let in_url = format!("{}?pass={SECRET}", redis.url());
    let in_setting = format!("upstream_password={SECRET}");
    let in_file = format!("upstream_password_file={}", file.display());
    let plain = redis.url();
    let ways: [&[&str]; 3] = [
        &["--upstream", &in_url],
        &["--upstream", &plain, "--set", &in_setting],
        &["--upstream", &plain, "--set", &in_file],
    ];
    for (number, way) in ways.iter().enumerate() {
        let listen = format!("unix://{}", redis.directory().join(format!("b{number}.sock")).display());
        let mut args = vec!["serve", "--listen", &listen, "--set", "log_level=trace"];
        args.extend(*way);
        let mut broker = Broker::start_args(&args, 1);
        let mut raw = broker.connect();
        raw.expect("SET k v", "+OK\r\n");
        raw.expect("BLPOP none 0.01", "*-1\r\n");
        let info = raw.ask("CLIENT INFO");
        assert!(!info.contains(SECRET));
        let clients = format!("{:?}", upstream_clients(&redis));
        assert!(!clients.contains(SECRET), "{clients}");
        assert!(!shows_secret(broker.pid()), "the command line hides it, given as {number}");
        broker.term();
        broker.wait_exit(Duration::from_secs(10));
        assert!(!broker.log().contains(SECRET), "{}", broker.log());
    }
}

/// A wrong one is said to be wrong, not what it was.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_wrong_password_is_not_shown_either() {
    let redis = Redis::start_with(&["--requirepass", "another"]);
    let settings = [("queue_timeout", "300"), ("upstream_password", SECRET), ("log_level", "trace")];
    let broker = Broker::start(&redis, &settings);
    let reply = broker.connect().ask("GET k");
    assert!(reply.starts_with('-') && !reply.contains(SECRET), "{reply}");
    wait_until("the log says why", || broker.log().contains("WRONGPASS"));
    assert!(!broker.log().contains(SECRET), "{}", broker.log());
    let url = format!("redis://user:{SECRET}@localhost:99999");
    assert!(!misconfigured(&["serve", "--upstream", &url]).contains(SECRET));
    let line =
        misconfigured(&["serve", "--upstream", &redis.url(), "--set", &format!("upstream_pasword={SECRET}")]);
    assert!(!line.contains(SECRET), "{line}");
}

fn shows_secret(pid: u32) -> bool {
    let holds = |name: &str| {
        let bytes = std::fs::read(Path::new("/proc").join(pid.to_string()).join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains(SECRET)
    };
    holds("cmdline") || holds("comm")
}

/// Children come and go by the thousand: nothing of them stays.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn short_lived_children_leave_nothing() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    broker.connect().expect("PING", "+PONG\r\n");
    let descriptors =
        || std::fs::read_dir(format!("/proc/{}/fd", broker.pid())).expect("descriptors").count();
    wait_until("the first child is gone", || descriptors() < 64);
    let before = descriptors();
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (broker, failed) = (&broker, &failed);
            scope.spawn(move || {
                for round in 0..500 {
                    let mut raw = broker.connect();
                    // redis-plus-plus opens a connection for each transaction by default.
                    let mut bytes = pipeline(&["MULTI", "INCR n", "EXEC"]);
                    bytes.extend(request(&["ECHO", &format!("{number}-{round}")]));
                    raw.write(&bytes);
                    let replies: Vec<String> = (0..4).map(|_| raw.read_text()).collect();
                    if !replies[3].ends_with(&format!("{number}-{round}\r\n")) {
                        failed.store(true, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    assert!(!failed.load(Ordering::SeqCst));
    broker.connect().expect("GET n", "$4\r\n2000\r\n");
    wait_until("all descriptors are closed", || descriptors() <= before + 1);
}

/// As Redis does, who finds out that nobody takes its replies when it writes them.
#[test]
fn what_was_sent_before_hanging_up_is_executed() {
    let redis = Redis::start();
    // Every MULTI waits for a connection, and what is behind it with it.
    let broker = Broker::start(&redis, &[("transactions", "leased"), ("leases_warm", "0")]);
    let mut witness = broker.connect();
    for round in 1..=10 {
        let mut child = broker.connect();
        child.write(b"SUNION\r\nMULTI\r\nEXEC\r\nINCR sent\r\n");
        drop(child);
        wait_until("it is executed", || witness.ask("GET sent").ends_with(&format!("\r\n{round}\r\n")));
    }
    // One that has an answer to read breaks the connection by not reading it.
    for round in 11..=20 {
        let mut child = UnixStream::connect(broker.socket()).expect("connect");
        child.write_all(b"PING\r\n").expect("write");
        child.read_exact(&mut [0]).expect("the beginning of the answer");
        child.write_all(b"MULTI\r\nEXEC\r\nINCR sent\r\n").expect("write");
        drop(child);
        wait_until("it is executed", || witness.ask("GET sent").ends_with(&format!("\r\n{round}\r\n")));
    }
}
