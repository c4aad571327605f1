//! The loop against a real redis-server: many children, ends of file, large values, storms, drains and an
//! upstream that comes late. What each command means is tested elsewhere.

use broker::config::Settings;
use broker::reactor::{Loop, RunMode};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::support::redis::server_program;
use crate::support::{Raw, wait_until};

/// No reply takes this long unless something is stuck.
const PATIENCE: Duration = Duration::from_secs(20);

const GO_ON: u8 = 0;
const DRAIN: u8 = 1;
const CLOSE: u8 = 2;

/// A redis-server of our own, ended when dropped.
struct Redis(Child);

impl Redis {
    /// Listens at `dir/redis.sock`, and at a port unless that is zero.
    fn start(dir: &Path, port: u16) -> Redis {
        let socket = dir.join("redis.sock");
        let mut command = Command::new(server_program());
        command.args(["--save", "", "--appendonly", "no", "--port", &port.to_string(), "--dir"]);
        command.arg(dir).arg("--unixsocket").arg(&socket).stdout(Stdio::null());
        let redis = Redis(command.spawn().expect("redis-server is installed"));
        wait_until("redis-server listens", || UnixStream::connect(&socket).is_ok());
        redis
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How many connections wait for an element in the Redis of this directory.
fn blocked(dir: &Path) -> usize {
    let info = Raw::unix(&dir.join("redis.sock")).ask("INFO clients");
    let count = info.lines().find_map(|line| line.strip_prefix("blocked_clients:"));
    count.and_then(|count| count.trim().parse().ok()).expect("a count")
}

/// A loop in a thread of its own.
struct Running {
    socket: PathBuf,
    wake: UnixStream,
    order: Arc<AtomicU8>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(dir: &Path, settings: &[(&str, &str)]) -> Running {
        let mut lp = Loop::new(configured(dir, settings)).expect("the loop");
        let wake = lp.wake_pipe().expect("the pipe");
        let order = Arc::new(AtomicU8::new(GO_ON));
        let orders = order.clone();
        let thread = thread::spawn(move || {
            let mut obeyed = GO_ON;
            while lp.run(RunMode::Once).expect("a turn") {
                let order = orders.load(Ordering::SeqCst);
                match std::mem::replace(&mut obeyed, order) {
                    before if before == order => {}
                    _ if order == DRAIN => lp.drain(),
                    _ => lp.close(),
                }
            }
        });
        Running { socket: dir.join("broker.sock"), wake, order, thread: Some(thread) }
    }

    fn tell(&self, order: u8) {
        self.order.store(order, Ordering::SeqCst);
        let _ = (&self.wake).write(b"!");
    }

    fn join(&mut self) {
        self.thread.take().expect("joined once").join().expect("the loop's thread");
    }

    fn connect(&self) -> Peer {
        let stream = UnixStream::connect(&self.socket).expect("the broker listens");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Peer(stream)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tell(CLOSE);
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            assert!(outcome.is_ok() || thread::panicking(), "the loop's thread has panicked");
        }
    }
}

fn configured(dir: &Path, pairs: &[(&str, &str)]) -> Settings {
    let mut settings = Settings::default();
    settings.set("upstream", &format!("unix://{}/redis.sock", dir.display())).unwrap();
    settings.set("listen", &format!("unix://{}/broker.sock", dir.display())).unwrap();
    // A busy machine must not answer for the upstream.
    for (key, value) in [("queue_timeout", "15s"), ("connect_timeout", "15s")].iter().chain(pairs) {
        settings.set(key, value).unwrap();
    }
    settings
}

/// A child that speaks raw RESP.
struct Peer(UnixStream);

impl Peer {
    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the broker reads");
    }

    fn expect(&mut self, reply: &[u8]) {
        let mut got = vec![0; reply.len()];
        self.0.read_exact(&mut got).expect("a reply");
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(reply));
    }

    fn ask(&mut self, request: &str, reply: &str) {
        self.send(request.as_bytes());
        self.expect(reply.as_bytes());
    }

    /// Everything up to the end of file.
    fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        match self.0.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
        String::from_utf8(bytes).unwrap()
    }
}

#[test]
fn a_hundred_children_get_their_own_replies_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let _redis = Redis::start(dir.path(), 0);
    let broker = Running::start(dir.path(), &[]);
    let mut peers: Vec<_> = (0..100).map(|_| broker.connect()).collect();
    for round in 0..20 {
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.send(format!("INCR c{number}\r\nECHO {number}.{round}\r\n").repeat(3).as_bytes());
        }
        for (number, peer) in peers.iter_mut().enumerate() {
            let echo = format!("{number}.{round}");
            for again in 1..=3 {
                let count = round * 3 + again;
                peer.expect(format!(":{count}\r\n${}\r\n{echo}\r\n", echo.len()).as_bytes());
            }
        }
    }
}

/// All complete requests before the end are run and answered, then the connection ends.
#[test]
fn a_half_closed_child_gets_its_replies() {
    let dir = tempfile::tempdir().unwrap();
    let _redis = Redis::start(dir.path(), 0);
    let broker = Running::start(dir.path(), &[]);
    let mut peer = broker.connect();
    // More than child_in_flight_max, so that reading stops in between and must go on without an edge.
    let count = 5000;
    peer.send("INCR n\r\n".repeat(count).as_bytes());
    peer.send(b"INCR cut off");
    peer.0.shutdown(Shutdown::Write).unwrap();
    let wanted: String = (1..=count).map(|n| format!(":{n}\r\n")).collect();
    assert!(peer.rest() == wanted, "replies are missing");
    broker.connect().ask("GET n\r\n", "$4\r\n5000\r\n");
}

/// Requests of a child that has gone altogether are run all the same.
#[test]
fn what_a_child_left_behind_is_run() {
    let dir = tempfile::tempdir().unwrap();
    let _redis = Redis::start(dir.path(), 0);
    let broker = Running::start(dir.path(), &[]);
    let mut peer = broker.connect();
    peer.send("INCR n\r\n".repeat(100).as_bytes());
    drop(peer);
    let mut other = broker.connect();
    wait_until("the last INCR", || {
        other.send(b"GETRANGE n 0 -1\r\n");
        let mut reply = [0; 9];
        let count = other.0.read(&mut reply).unwrap();
        reply[..count].ends_with(b"100\r\n")
    });
}

/// A child that blocks and goes away must not have an element popped for it.
#[test]
fn a_blocked_child_that_hangs_up_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let _redis = Redis::start(dir.path(), 0);
    let broker = Running::start(dir.path(), &[]);
    let mut other = broker.connect();
    for request in ["BLPOP q 0\r\n", "PING\r\nBLPOP q 0\r\n"] {
        let mut waiting = broker.connect();
        waiting.send(request.as_bytes());
        wait_until("it waits in Redis", || blocked(dir.path()) == 1);
        drop(waiting);
        // And one that has gone before the broker sees its request.
        let mut gone = broker.connect();
        gone.send(request.as_bytes());
        drop(gone);
        let mut eyes = Raw::unix(&broker.socket);
        // They are asked on the third connection, of three that are left when both have gone.
        wait_until("both have gone", || eyes.ask("CLIENT LIST").matches("id=").count() == 2);
        wait_until("nobody waits", || blocked(dir.path()) == 0);
        other.ask("RPUSH q x\r\nLPOP q\r\n", ":1\r\n$1\r\nx\r\n");
    }
}

/// The hang-up comes while the child is held for its earlier replies: it must count when it blocks.
#[test]
fn a_child_that_blocks_after_its_hang_up_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let _redis = Redis::start(dir.path(), 0);
    let broker = Running::start(dir.path(), &[]);
    let mut peer = broker.connect();
    peer.send(&[&b"INCR n\r\n".repeat(2000)[..], b"BLPOP q 0\r\n"].concat());
    peer.0.shutdown(Shutdown::Write).unwrap();
    let wanted: String = (1..=2000).map(|n| format!(":{n}\r\n")).collect();
    assert!(peer.rest() == wanted, "replies are missing");
    broker.connect().ask("RPUSH q x\r\nLPOP q\r\n", ":1\r\n$1\r\nx\r\n");
}

#[test]
fn a_huge_value_does_not_hold_up_the_others() {
    const SIZE: usize = 100 << 20;
    let dir = tempfile::tempdir().unwrap();
    let _redis = Redis::start(dir.path(), 0);
    let broker = Running::start(dir.path(), &[("child_output_max", "512MiB"), ("memory_max", "4GiB")]);
    let mut large = broker.connect();
    let mut small = broker.connect();
    let done = Arc::new(AtomicBool::new(false));
    let finished = done.clone();
    let transfer = thread::spawn(move || {
        let value: Vec<u8> = (0..SIZE).map(|at| (at / 1000) as u8).collect();
        large.send(format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${SIZE}\r\n").as_bytes());
        large.send(&value);
        large.send(b"\r\n");
        large.expect(b"+OK\r\n");
        large.send(b"GET big\r\n");
        large.expect(format!("${SIZE}\r\n").as_bytes());
        let mut got = vec![0; SIZE];
        large.0.read_exact(&mut got).expect("the value");
        assert!(got == value, "the value came back changed");
        large.expect(b"\r\n");
        finished.store(true, Ordering::SeqCst);
    });
    let mut answered = 0;
    while !done.load(Ordering::SeqCst) && !transfer.is_finished() {
        small.ask("ECHO hello\r\n", "$5\r\nhello\r\n");
        answered += 1;
    }
    transfer.join().expect("the transfer");
    assert!(answered > 20, "only {answered} answers during the transfer");
}

#[test]
fn a_thousand_connects_at_once_are_all_served() {
    raise_file_limit(4096);
    let dir = tempfile::tempdir().unwrap();
    let _redis = Redis::start(dir.path(), 0);
    let broker = Running::start(dir.path(), &[]);
    let mut peers: Vec<_> = (0..1000).map(|_| broker.connect()).collect();
    for peer in &mut peers {
        peer.send(b"PING\r\n");
    }
    for peer in &mut peers {
        peer.expect(b"+PONG\r\n");
    }
    drop(peers);
    broker.connect().ask("PING\r\n", "+PONG\r\n");
}

/// Both ends of every connection are in this process.
fn raise_file_limit(wanted: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).expect("enough descriptors");
    }
}

#[test]
fn one_child_too_many_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let _redis = Redis::start(dir.path(), 0);
    let broker = Running::start(dir.path(), &[("children_max", "2")]);
    let (mut a, mut b) = (broker.connect(), broker.connect());
    a.ask("PING\r\n", "+PONG\r\n");
    b.ask("PING\r\n", "+PONG\r\n");
    assert_eq!(broker.connect().rest(), "-ERR max number of clients reached\r\n");
    drop(a);
    wait_until("the place", || {
        let mut peer = broker.connect();
        let _ = peer.0.write_all(b"PING\r\n");
        let mut reply = [0; 7];
        peer.0.read_exact(&mut reply).is_ok() && reply == *b"+PONG\r\n"
    });
}

/// What was sent before the drain is answered, even on connections nobody had accepted yet.
#[test]
fn a_drain_answers_what_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    let _redis = Redis::start(dir.path(), 0);
    let mut lp = Loop::new(configured(dir.path(), &[])).unwrap();
    let socket = dir.path().join("broker.sock");
    assert_eq!(lp.listeners(), [format!("unix://{}", socket.display())]);
    assert_eq!(lp.backend_timeout(), Some(0), "the upstream has not been dialled");

    let mut early = UnixStream::connect(&socket).unwrap();
    early.write_all(b"SET k early\r\n").unwrap();
    while lp.children_len() == 0 || lp.stat("requests") == Some(0) {
        assert!(lp.run(RunMode::Once).unwrap());
    }
    early.write_all(b"GET k\r\n").unwrap();
    let mut late = UnixStream::connect(&socket).unwrap();
    late.write_all(&b"ECHO late\r\n".repeat(3)).unwrap();
    let mut idle = UnixStream::connect(&socket).unwrap();

    lp.drain();
    assert!(!socket.exists());
    assert!(UnixStream::connect(&socket).is_err());
    assert!(!lp.run(RunMode::Default).unwrap(), "drained");
    assert!(!lp.run(RunMode::Once).unwrap(), "and stays so");
    assert_eq!((lp.children_len(), lp.backend_timeout()), (0, None));
    for (stream, wanted) in [
        (&mut early, "+OK\r\n$5\r\nearly\r\n".to_owned()),
        (&mut late, "$4\r\nlate\r\n".repeat(3)),
        (&mut idle, String::new()),
    ] {
        let mut got = String::new();
        stream.read_to_string(&mut got).unwrap();
        assert_eq!(got, wanted);
    }
}

#[test]
fn closing_ends_everything_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let _redis = Redis::start(dir.path(), 0);
    let mut broker = Running::start(dir.path(), &[]);
    let mut peer = broker.connect();
    peer.ask("PING\r\n", "+PONG\r\n");
    peer.send(b"BLPOP nothing 0\r\n");
    broker.tell(CLOSE);
    assert_eq!(peer.rest(), "");
    broker.join();
    assert!(!broker.socket.exists());
}

#[test]
fn draining_in_a_thread_ends_the_loop() {
    let dir = tempfile::tempdir().unwrap();
    let _redis = Redis::start(dir.path(), 0);
    let mut broker = Running::start(dir.path(), &[("drain_timeout", "200ms")]);
    let mut peer = broker.connect();
    peer.ask("PING\r\n", "+PONG\r\n");
    let mut waiting = broker.connect();
    waiting.send(b"BLPOP nothing 0\r\n");
    wait_until("it waits in Redis", || blocked(dir.path()) == 1);
    broker.tell(DRAIN);
    assert_eq!(peer.rest(), "");
    broker.join();
}

#[test]
fn a_byte_in_the_pipe_ends_the_wait() {
    let dir = tempfile::tempdir().unwrap();
    let mut lp = Loop::new(configured(dir.path(), &[])).unwrap();
    assert!(lp.run(RunMode::NoWait).unwrap());
    let mut pipe = lp.wake_pipe().unwrap();
    for _ in 0..3 {
        // A full pipe refuses; it never blocks.
        while pipe.write(&[0; 1000]).is_ok() {}
        assert!(lp.run(RunMode::Once).unwrap());
    }
}

/// The upstream is a name, over TCP, and starts after the broker.
#[test]
fn an_upstream_that_comes_late_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    let upstream = format!("redis://localhost:{port}");
    let broker =
        Running::start(dir.path(), &[("upstream", &upstream), ("queue_timeout", "15s"), ("lanes", "2")]);
    let mut early = broker.connect();
    early.send(b"ECHO early\r\n");
    // It has tried before there is a Redis.
    drop(nobody.accept().unwrap());
    drop(nobody);
    let redis = Redis::start(dir.path(), port);
    early.expect(b"$5\r\nearly\r\n");

    drop(redis);
    let _redis = Redis::start(dir.path(), port);
    let mut late = broker.connect();
    late.ask("ECHO late\r\n", "$4\r\nlate\r\n");
    early.ask("ECHO again\r\n", "$5\r\nagain\r\n");
}

#[test]
fn a_loop_without_an_upstream_is_refused() {
    let error = Loop::new(Settings::default()).unwrap_err().to_string();
    assert!(error.starts_with("upstream = "), "{error}");
}
