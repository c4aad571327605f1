//! The program as a service: sockets that it is started with, and what it tells the service manager. The manager is the test:
//! a socket of its own in NOTIFY_SOCKET, and a store that keeps what it is given.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::broker::BINARY;
use crate::support::raw::Raw;
use crate::support::{Broker, PATIENCE, Redis, Running, end_within, signal, wait_until};

/// What the program tells, and what it would have kept.
pub(crate) struct Manager {
    _directory: TempDir,
    pub(crate) path: PathBuf,
    socket: UnixDatagram,
}

#[derive(Debug)]
pub(crate) struct Message {
    text: String,
    pub(crate) fd: Option<OwnedFd>,
}

impl Message {
    pub(crate) fn has(&self, line: &str) -> bool {
        self.text.lines().any(|own| own == line)
    }

    pub(crate) fn value(&self, name: &str) -> &str {
        let value = self.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }
}

impl Manager {
    pub(crate) fn new() -> Manager {
        let directory = tempfile::Builder::new().prefix("manager-").tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        Manager { _directory: directory, path, socket }
    }

    /// As systemd starts a service.
    pub(crate) fn start(&self, command: &mut Command) {
        command.env("NOTIFY_SOCKET", &self.path);
    }

    /// The next message, if there is one within this time.
    pub(crate) fn next_within(&self, limit: Duration) -> Option<Message> {
        self.socket.set_read_timeout(Some(limit)).expect("settable");
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let got = recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
        let fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fd = fds.flatten().next();
        Some(Message { text: String::from_utf8_lossy(&bytes[..got.bytes]).into_owned(), fd })
    }

    pub(crate) fn next(&self) -> Message {
        self.next_within(PATIENCE).expect("a message")
    }

    /// Reads on to the message with this line.
    pub(crate) fn wait_for(&self, line: &str) -> Message {
        let start = Instant::now();
        loop {
            let message = self.next();
            if message.has(line) {
                return message;
            }
            assert!(start.elapsed() < PATIENCE, "no {line}");
        }
    }
}

/// A broker that is started with these sockets: the first is its descriptor 3. The shell puts them there, and says whose
/// they are as systemd does: it becomes the broker.
fn start_with(manager: &Manager, sockets: Vec<(OwnedFd, String)>, args: &[&str], fdstore: bool) -> Running {
    assert!((1..=2).contains(&sockets.len()), "they come as standard input and output");
    let names: Vec<_> = sockets.iter().map(|(_, name)| name.as_str()).collect();
    let mut command = Command::new("sh");
    let moves = if sockets.len() == 2 { "exec 3<&0 4<&1 </dev/null >&2" } else { "exec 3<&0 </dev/null >&2" };
    command
        .arg("-c")
        .arg(format!("{moves}; export LISTEN_PID=$$; exec \"$0\" \"$@\""))
        .arg(BINARY)
        .args(args);
    command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    manager.start(&mut command);
    if fdstore {
        command.env("FDSTORE", "8");
    }
    let mut sockets = sockets.into_iter().map(|(socket, _)| Stdio::from(socket));
    command.stdin(sockets.next().expect("one"));
    if let Some(second) = sockets.next() {
        command.stdout(second);
    }
    Running(command.spawn().expect("start the broker"))
}

fn unix(path: &Path) -> String {
    format!("unix://{}", path.display())
}

fn expect_pong(stream: &mut (impl Read + Write)) {
    stream.write_all(b"PING\r\n").expect("sent");
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"+PONG\r\n");
}

fn connect_tcp(url: &str) -> TcpStream {
    let stream = TcpStream::connect(url.trim_start_matches("tcp://")).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("settable");
    stream
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("settable");
    stream
}

/// Ends it as systemd does.
fn stop(broker: &mut Running) {
    signal(&broker.0, Signal::TERM);
    assert_eq!(end_within(&mut broker.0, PATIENCE).expect("it ends").code(), Some(0));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn it_says_when_it_listens_what_it_is_about_and_when_it_ends() {
    let (redis, manager) = (Redis::start(), Manager::new());
    let mut broker = Broker::start_prepared(&redis, &[], |command| manager.start(command));
    let ready = manager.next();
    assert!(ready.has("READY=1"), "nothing comes before it without a store: {ready:?}");
    assert!(ready.value("STATUS").starts_with("serving 0 children at 1 addresses;"), "{ready:?}");
    let mut child = broker.connect();
    child.expect("PING", "+PONG\r\n");
    manager.wait_for("STATUS=serving 1 children at 1 addresses; the upstream answers");
    redis.kill();
    manager.wait_for("STATUS=serving 1 children at 1 addresses; the upstream does not answer");
    broker.term();
    let stopping = manager.wait_for("STOPPING=1");
    // The default of drain_timeout, and some time to spare.
    assert_eq!(stopping.value("EXTEND_TIMEOUT_USEC"), "15000000");
    assert!(stopping.value("STATUS").starts_with("draining: 1 children"), "{stopping:?}");
    assert_eq!(broker.wait_exit(PATIENCE).code(), Some(0));
    assert!(!broker.socket().exists(), "nobody keeps it");
}

/// An abstract name is written with an @.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_manager_may_have_an_abstract_name_and_a_wrong_one_is_done_without() {
    use std::os::linux::net::SocketAddrExt;
    let redis = Redis::start();
    let name = format!("broker-test-{}-{:x}", std::process::id(), fastrand::u64(..));
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("an address");
    let socket = UnixDatagram::bind_addr(&address).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("settable");
    let broker = Broker::start_prepared(&redis, &[], |command| {
        command.env("NOTIFY_SOCKET", format!("@{name}"));
    });
    let mut bytes = [0; 64];
    let count = socket.recv(&mut bytes).expect("a message");
    assert!(bytes[..count].starts_with(b"READY=1\n"));
    drop(broker);
    for wrong in ["vsock:2:1", "/nonexistent/notify", ""] {
        let broker = Broker::start_prepared(&redis, &[("log_level", "warn")], |command| {
            command.env("NOTIFY_SOCKET", wrong).env("WATCHDOG_USEC", "1000");
        });
        broker.connect().expect("PING", "+PONG\r\n");
        wait_until("a warning", || {
            broker.log().contains("service manager") || broker.log().contains("NOTIFY_SOCKET")
        });
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_watchdog_is_fed_by_a_loop_that_runs_and_by_no_other() {
    let (redis, manager) = (Redis::start(), Manager::new());
    let period = Duration::from_millis(300);
    let watched = |pid: Option<&'static str>| {
        Broker::start_prepared(&redis, &[("log_level", "warn")], |command| {
            manager.start(command);
            command.env("WATCHDOG_USEC", period.as_micros().to_string());
            pid.map(|pid| command.env("WATCHDOG_PID", pid));
        })
    };
    let broker = watched(None);
    let process = rustix::process::Pid::from_raw(broker.pid().cast_signed()).expect("a pid");
    manager.wait_for("READY=1");
    // It has nothing to do, and says that it runs all the same, each half of the period.
    let begun = Instant::now();
    for _ in 0..8 {
        manager.wait_for("WATCHDOG=1");
    }
    let took = begun.elapsed();
    assert!(took > period * 3, "not more often than that: {took:?}");
    assert!(took < period * 8, "as a whole often enough: {took:?}");
    rustix::process::kill_process(process, Signal::STOP).expect("signal a process of ours");
    // What it had sent before it stopped.
    while manager.next_within(Duration::from_millis(50)).is_some() {}
    let hungry = manager.next_within(period * 4);
    assert!(hungry.is_none(), "a loop that does not run says nothing: {hungry:?}");
    rustix::process::kill_process(process, Signal::CONT).expect("signal a process of ours");
    manager.wait_for("WATCHDOG=1");
    drop(broker);
    while manager.next_within(Duration::from_millis(50)).is_some() {}

    // Another process is watched.
    let _broker = watched(Some("1"));
    manager.wait_for("READY=1");
    // Long enough for some.
    let begun = Instant::now();
    while let Some(message) = manager.next_within((period * 3).saturating_sub(begun.elapsed())) {
        assert!(!message.has("WATCHDOG=1"));
        if begun.elapsed() > period * 2 {
            break;
        }
    }
}

/// Each message waits for a manager that reads nothing, and no child for any of them.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_manager_that_is_busy_holds_up_nobody() {
    let (redis, manager) = (Redis::start(), Manager::new());
    let mut broker = Broker::start_prepared(&redis, &[], |command| {
        manager.start(command);
        command.env("WATCHDOG_USEC", "10000");
    });
    manager.wait_for("READY=1");
    // Several, since one alone may have no more room of its own before that of the manager is used up.
    let others: Vec<UnixDatagram> = (0..8).map(|_| UnixDatagram::unbound().expect("a socket")).collect();
    others.iter().for_each(|other| other.set_nonblocking(true).expect("settable"));
    let fill = || others.iter().for_each(|other| while other.send_to(b"x", &manager.path).is_ok() {});
    fill();
    let mut child = broker.connect();
    for _ in 0..100 {
        child.expect("PING", "+PONG\r\n");
        fill();
    }
    // It keeps the broker for drain_timeout.
    child.send("BLPOP nothing 0");
    broker.term();
    // It reads again: what matters has waited.
    manager.wait_for("STOPPING=1");
    assert_eq!(broker.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_store_keeps_listeners_while_the_service_restarts() {
    let (redis, manager) = (Redis::start(), Manager::new());
    let directory = tempfile::Builder::new().prefix("broker-").tempdir().expect("a directory");
    let path = directory.path().join("b.sock");
    let listen = format!("{},tcp://127.0.0.1:0", unix(&path));
    let upstream = redis.url();
    let args = |listen: &'static str| {
        let listen = if listen.is_empty() { format!("listen={}", unix(&path)) } else { listen.to_owned() };
        ["serve", "--upstream", &upstream, "--set", "admin_listen=none", "--set", &listen].map(str::to_owned)
    };
    let both =
        args("").map(|arg| arg.replace(&format!("listen={}", unix(&path)), &format!("listen={listen}")));
    let run = |sockets: Vec<(OwnedFd, String)>, args: &[String]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        start_with(&manager, sockets, &args, true)
    };
    let mut first = Command::new(BINARY);
    manager.start(first.args(&both).env("FDSTORE", "8").stdin(Stdio::null()).stdout(Stdio::null()));
    let mut first = Running(first.spawn().expect("start the broker"));
    // What comes before it is ready is for the store.
    let mut stored: Vec<(OwnedFd, String)> = Vec::new();
    loop {
        let message = manager.next();
        if message.has("READY=1") {
            break;
        }
        assert!(message.has("FDSTORE=1"), "{message:?}");
        let name = message.value("FDNAME").to_owned();
        stored.push((message.fd.expect("a socket with it"), name));
    }
    let names: Vec<_> = stored.iter().map(|(_, name)| name.clone()).collect();
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|name| name.starts_with("listen.") && name.len() == 23), "{names:?}");
    let copy = |stored: &[(OwnedFd, String)]| -> Vec<(OwnedFd, String)> {
        stored.iter().map(|(fd, name)| (fd.try_clone().expect("a copy"), name.clone())).collect()
    };
    let port = TcpListener::from(stored[1].0.try_clone().expect("a copy")).local_addr().expect("its port");
    let url = format!("tcp://{port}");
    expect_pong(&mut connect(&path));

    // Nobody runs, and nobody is refused.
    stop(&mut first);
    assert!(manager.wait_for("STOPPING=1").has("STOPPING=1"));
    let (mut early, mut early_tcp) = (connect(&path), connect_tcp(&url));
    early.write_all(b"ECHO early\r\n").expect("it waits");
    let mut second = run(copy(&stored), &both);
    let ready = manager.next();
    assert!(ready.has("READY=1"), "the store has all of it: {ready:?}");
    let mut echoed = [0; 11];
    early.read_exact(&mut echoed).expect("an answer");
    assert_eq!(&echoed, b"$5\r\nearly\r\n");
    expect_pong(&mut early);
    expect_pong(&mut early_tcp);

    // Nor where it was killed.
    signal(&second.0, Signal::KILL);
    end_within(&mut second.0, PATIENCE).expect("it ends");
    let mut early = connect(&path);
    let mut third = run(copy(&stored), &both);
    manager.wait_for("READY=1");
    expect_pong(&mut early);
    expect_pong(&mut connect_tcp(&url));
    stop(&mut third);
    manager.wait_for("STOPPING=1");

    // What is wanted no more is ended, and taken back.
    let mut fourth = run(copy(&stored), &args(""));
    let removed = manager.wait_for("FDSTOREREMOVE=1");
    assert_eq!(removed.value("FDNAME"), names[1]);
    manager.wait_for("READY=1");
    expect_pong(&mut connect(&path));
    let refused = TcpStream::connect(port).expect_err("nobody listens").kind();
    assert_eq!(refused, std::io::ErrorKind::ConnectionRefused, "though the store still had a copy");
    stop(&mut fourth);
}

/// Without a store nothing is left, whoever is told.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn without_a_store_a_stop_removes_the_socket() {
    let (redis, manager) = (Redis::start(), Manager::new());
    let mut broker = Broker::start_prepared(&redis, &[], |command| {
        manager.start(command);
        command.env("FDSTORE", "0");
    });
    assert!(manager.next().has("READY=1"));
    let lock = broker.socket().with_extension("sock.lock");
    assert!(broker.socket().exists() && lock.exists());
    broker.term();
    assert_eq!(broker.wait_exit(PATIENCE).code(), Some(0));
    assert!(!broker.socket().exists() && !lock.exists());
}

/// `systemd-socket-activate` starts the broker with the first connection.
struct Activated {
    process: Running,
    directory: TempDir,
}

impl Activated {
    fn new(more: &[&str], listen: &[&str], broker: &[&str]) -> Activated {
        let directory = tempfile::Builder::new().prefix("broker-").tempdir().expect("a directory");
        let mut command = Command::new("systemd-socket-activate");
        command.args(more);
        for name in listen {
            let path = directory.path().join(name);
            command.arg("-l").arg(if name.contains(':') { Path::new(name) } else { &path });
        }
        let log = std::fs::File::create(directory.path().join("log")).expect("a file");
        command.arg(BINARY).args(broker).env_remove("NOTIFY_SOCKET").current_dir(directory.path());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a copy")).stderr(log);
        let activated =
            Activated { process: Running(command.spawn().expect("systemd is installed")), directory };
        for name in listen.iter().filter(|name| !name.contains(':')) {
            wait_until("it listens", || UnixStream::connect(activated.path(name)).is_ok());
        }
        activated
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).expect("readable")
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_socket_unit_starts_it_and_keeps_its_socket() {
    let redis = Redis::start();
    let url = redis.url();
    let mut activated = Activated::new(&[], &["b.sock"], &["serve", "--upstream", &url]);
    let path = activated.path("b.sock");
    let mut raw = Raw::unix(&path);
    raw.expect("PING", "+PONG\r\n");
    let admin = activated.path("b.sock.admin");
    assert!(admin.exists(), "beside the socket, as ever");
    wait_until("it says where", || activated.log().contains(&format!("listening {}\n", unix(&path))));
    stop(&mut activated.process);
    assert!(path.exists() && !admin.exists(), "each is removed by whoever has made it");
    assert!(!activated.path("b.sock.lock").exists());
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn sockets_are_told_apart_by_their_names_or_by_the_settings() {
    let redis = Redis::start();
    let upstream = redis.url();
    let names = "--fdname=anything:admin_listen:metrics_listen";
    let listen = ["b.sock", "admin", "metrics"];
    let mut activated = Activated::new(&[names], &listen, &["serve", "--upstream", &upstream]);
    Raw::unix(&activated.path("b.sock")).expect("PING", "+PONG\r\n");
    let mut admin = Raw::unix(&activated.path("admin"));
    assert_eq!(admin.ask("BROKER SET log_level warn"), "+OK\r\n");
    let mut http = connect(&activated.path("metrics"));
    http.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").expect("sent");
    let mut answer = String::new();
    http.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert!(!activated.path("b.sock.admin").exists(), "there is one already");
    stop(&mut activated.process);

    // Without names, and the settings say which is which. A mode that the socket does not have is refused.
    let path = activated.path("c.sock");
    let theirs = UnixListener::bind(&path).expect("a socket");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("settable");
    let manager = Manager::new();
    let serve = |options: &str| {
        let listen = format!("listen={}{options}", unix(&path));
        let socket = OwnedFd::from(theirs.try_clone().expect("a copy"));
        let args = ["serve", "--upstream", &upstream, "--set", "admin_listen=none", "--set", &listen];
        start_with(&manager, vec![(socket, String::new())], &args, true)
    };
    let mut broker = serve("?mode=0600&label=web");
    assert!(manager.next().has("READY=1"), "what the unit keeps is not stored again");
    expect_pong(&mut connect(&path));
    stop(&mut broker);
    assert!(path.exists());
    let mut refused = serve("?mode=0666");
    assert_eq!(end_within(&mut refused.0, PATIENCE).expect("it ends").code(), Some(2));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn what_is_no_stream_socket_is_refused_with_a_reason() {
    let redis = Redis::start();
    let upstream = redis.url();
    let mut command = Command::new("systemd-socket-activate");
    let directory = tempfile::Builder::new().prefix("broker-").tempdir().expect("a directory");
    let path = directory.path().join("d.sock");
    command.arg("-d").arg("-l").arg(&path).arg(BINARY).args(["serve", "--upstream", &upstream]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = Running(command.spawn().expect("systemd is installed"));
    let other = UnixDatagram::unbound().expect("a socket");
    wait_until("it listens", || other.send_to(b"x", &path).is_ok());
    assert_eq!(end_within(&mut process.0, PATIENCE).expect("it ends").code(), Some(1));
    let mut said = String::new();
    process.0.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    let last = said.lines().last().expect("a line");
    assert!(last.starts_with("broker: a socket of LISTEN_FDS cannot be a listener:"), "{said}");
}

/// These variables may have been inherited from the service that has started the broker's parent.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn sockets_of_another_process_are_not_taken() {
    let redis = Redis::start();
    let broker = Broker::start_prepared(&redis, &[], |command| {
        command.env("LISTEN_FDS", "1").env("LISTEN_PID", std::process::id().to_string());
    });
    broker.connect().expect("PING", "+PONG\r\n");
    let broker = Broker::start_prepared(&redis, &[], |command| {
        command.env("LISTEN_FDS", "1");
    });
    broker.connect().expect("PING", "+PONG\r\n");
}
