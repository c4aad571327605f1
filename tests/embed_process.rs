//! What a loop inside another program does to that program's process: nothing. No thread, no descriptor that
//! outlives an exec, no trace in a forked copy, no connection kept open by one. Each test has a process of
//! its own, since threads and descriptors are counted.

use crate::support::broker::PATIENT;
use crate::support::{self, PATIENCE, Redis, upstream_clients, wait_until};
use broker::config::Settings;
use broker::reactor::{Loop, RunMode};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Set in the process that runs a test's body.
const ALONE: &str = "BROKER_TEST_ALONE";
/// Set in the process that is to be killed, with the URL of its Redis and the path of its socket.
const VICTIM: &str = "BROKER_TEST_VICTIM";

/// Runs `body` in a process with nothing else in it.
fn alone(name: &str, body: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let status = this_test(name).env(ALONE, "1").status().expect("run the test again");
    assert!(status.success(), "in its own process: {status}");
}

fn this_test(name: &str) -> Command {
    support::this_program(module_path!(), name)
}

fn settings(upstream: &str, listen: &str) -> Settings {
    let mut settings = Settings::default();
    settings.set("upstream", upstream).expect("a URL");
    settings.set("listen", listen).expect("a URL");
    for (key, value) in PATIENT {
        settings.set(key, value).expect("a setting");
    }
    settings
}

fn run_until(lp: &mut Loop, what: &str, mut done: impl FnMut(&mut Loop) -> bool) {
    let start = Instant::now();
    while !done(lp) {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        lp.run(RunMode::Once).expect("a turn");
    }
}

/// A socket that a loop in the same thread serves, and what it has read.
struct Client {
    stream: UnixStream,
    got: Vec<u8>,
}

impl Client {
    fn connect(path: &Path) -> Client {
        let stream = UnixStream::connect(path).expect("the broker listens");
        stream.set_nonblocking(true).expect("non-blocking");
        Client { stream, got: Vec::new() }
    }

    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("room in the socket");
    }

    fn take(&mut self) {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => panic!("closed by the broker after {:?}", String::from_utf8_lossy(&self.got)),
            Ok(count) => self.got.extend_from_slice(&bytes[..count]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

fn redis_at_a_port() -> (Redis, u16) {
    let port = free_port();
    (Redis::start_with(&["--port", &port.to_string()]), port)
}

fn entries(directory: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).expect("proc");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// The descriptors of this process, without the one that lists them.
fn descriptors() -> BTreeSet<String> {
    let all = entries("/proc/self/fd");
    all.into_iter().filter(|fd| std::fs::metadata(format!("/proc/self/fd/{fd}")).is_ok()).collect()
}

#[allow(unsafe_code)]
fn fork() -> i32 {
    // SAFETY: the process has one thread that does anything; the copy ends in `exit_now` or is killed.
    unsafe { libc::fork() }
}

/// Ends a forked copy without running anything of the test harness.
#[allow(unsafe_code)]
fn exit_now(code: i32) -> ! {
    // SAFETY: never returns and touches nothing.
    unsafe { libc::_exit(code) }
}

#[allow(unsafe_code)]
fn wait_for_exit(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result, `pid` a child of ours.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(waited, pid);
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -1 }
}

// ---- no thread, no signal, no environment ----------------------------------------------------------------

#[test]
fn an_embedded_loop_starts_no_thread() {
    alone("an_embedded_loop_starts_no_thread", || {
        let (redis, port) = redis_at_a_port();
        let path = redis.directory().join("broker.sock");
        let status = |name: &str| {
            let status = std::fs::read_to_string("/proc/self/status").expect("status");
            let line = status.lines().find(|line| line.starts_with(name)).map(str::to_owned);
            line.unwrap_or_else(|| panic!("no {name}"))
        };
        let state = || {
            let limits = std::fs::read_to_string("/proc/self/limits").expect("limits");
            let variables: Vec<_> = std::env::vars_os().collect();
            (
                entries("/proc/self/task"),
                status("SigCgt"),
                status("SigIgn"),
                status("SigBlk"),
                limits,
                variables,
            )
        };
        let before = state();
        let url = format!("redis://localhost:{port}");
        let mut lp = Loop::new(settings(&url, &format!("unix://{}", path.display()))).expect("the loop");
        let mut client = Client::connect(&path);
        client.send("BLPOP q 0.01\r\nWATCH k\r\nMULTI\r\nGET k\r\nEXEC\r\n");
        let wanted = "*-1\r\n+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n$-1\r\n";
        run_until(&mut lp, "the replies", |_| {
            client.take();
            assert!(before == state(), "something of the process has changed");
            client.got.len() == wanted.len()
        });
        assert_eq!(String::from_utf8_lossy(&client.got), wanted);
        drop(lp);
        assert!(before == state());
    });
}

// ---- descriptors -----------------------------------------------------------------------------------------

#[test]
fn no_descriptor_outlives_an_exec() {
    alone("no_descriptor_outlives_an_exec", || {
        let (redis, port) = redis_at_a_port();
        let path = redis.directory().join("broker.sock");
        let before = descriptors();
        let listen = format!("unix://{},tcp://127.0.0.1:0", path.display());
        for upstream in [redis.url(), format!("redis://127.0.0.1:{port}")] {
            let mut lp = Loop::new(settings(&upstream, &listen)).expect("the loop");
            let tcp = lp.listeners()[1].strip_prefix("tcp://").expect("a URL").to_owned();
            let mut client = Client::connect(&path);
            let tcp = TcpStream::connect(tcp).expect("the broker listens");
            let (_near, far) = UnixStream::pair().expect("a pair");
            lp.adopt(far.into()).expect("adopted");
            client.send("PING\r\nWATCH k\r\nGET k\r\n");
            run_until(&mut lp, "the replies", |lp| {
                client.take();
                lp.children_len() == 3 && client.got.ends_with(b"$-1\r\n")
            });
            let pipe = lp.wake_pipe().expect("the pipe");
            let opened: Vec<String> = descriptors().difference(&before).cloned().collect();
            // Two listeners, a lock, the poll, the waker, the pipe and its copy, three children with their
            // other ends, three lanes.
            assert!(opened.len() >= 16, "{opened:?}");
            for fd in opened {
                let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("its flags");
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim();
                let flags = i32::from_str_radix(flags, 8).expect("octal");
                let target = std::fs::read_link(format!("/proc/self/fd/{fd}"));
                assert!(flags & libc::O_CLOEXEC != 0, "{fd} ({target:?}) survives an exec");
            }
            drop((lp, pipe, client, tcp));
        }
        assert_eq!(descriptors().difference(&before).count(), 0, "some were left open");
    });
}

// ---- forks -----------------------------------------------------------------------------------------------

/// A copy in the middle of a turn, with every kind of connection busy, takes nothing with it.
#[test]
fn a_forked_copy_closes_without_a_trace() {
    alone("a_forked_copy_closes_without_a_trace", || {
        let redis = Redis::start();
        let path = redis.directory().join("broker.sock");
        let before = descriptors().len();
        let listen = format!("unix://{}", path.display());
        let mut lp = Loop::new(settings(&redis.url(), &listen)).expect("the loop");
        let (near, far) = UnixStream::pair().expect("a pair");
        near.set_nonblocking(true).expect("non-blocking");
        lp.adopt(far.into()).expect("adopted");
        let mut clients: Vec<Client> = (0..10).map(|_| Client::connect(&path)).collect();
        clients.push(Client { stream: near, got: Vec::new() });
        let mut blocked = Client::connect(&path);
        blocked.send("BLPOP q 0\r\n");
        run_until(&mut lp, "all children", |lp| lp.stat("leases_blocking") == Some(1));
        let own = clients.len() + 1;
        let rounds = 200;
        for round in 0..rounds {
            for (number, client) in clients.iter_mut().enumerate() {
                client.send(&format!("INCR n{number}\r\n"));
            }
            lp.wait(false).expect("a look");
            if round % 50 == 0 {
                lp = copied(lp, round == 0, before + own);
            }
            lp.work().expect("the work");
            clients.iter_mut().for_each(Client::take);
        }
        let wanted: String = (1..=rounds).map(|n| format!(":{n}\r\n")).collect();
        run_until(&mut lp, "the replies", |_| {
            clients.iter_mut().for_each(Client::take);
            clients.iter().all(|client| client.got.len() >= wanted.len())
        });
        assert!(clients.iter().all(|client| client.got == wanted.as_bytes()), "a reply is lost or wrong");
        let mut late = Client::connect(&path);
        late.send("RPUSH q x\r\n");
        run_until(&mut lp, "the element", |_| {
            blocked.take();
            !blocked.got.is_empty()
        });
        let taken = Loop::new(settings(&redis.url(), &listen)).expect_err("the path is taken");
        assert!(taken.to_string().contains("already listening"), "{taken}");
        assert_eq!(lp.stat("upstream_losses"), Some(0));
        drop(lp);
        assert!(!path.exists(), "the loop itself removes what it has made");
    });
}

/// Forks; the copy gives up its loop and looks at its descriptors. The original goes on with its own.
fn copied(lp: Loop, by_dropping: bool, left: usize) -> Loop {
    let pid = fork();
    if pid == 0 {
        if by_dropping {
            drop(lp)
        } else {
            lp.after_fork()
        }
        exit_now(if descriptors().len() == left { 7 } else { 8 });
    }
    assert!(pid > 0, "fork");
    assert_eq!(wait_for_exit(pid), 7, "the copy has kept descriptors of the loop");
    lp
}

/// A worker that lives on must not keep the connections of a parent that was killed.
#[test]
fn a_copy_does_not_keep_a_killed_parents_connections() {
    if let Ok(places) = std::env::var(VICTIM) {
        let (url, path) = places.split_once(' ').expect("two places");
        victim(url, path);
    }
    let name = "a_copy_does_not_keep_a_killed_parents_connections";
    let redis = Redis::start();
    let path = redis.directory().join("broker.sock");
    let places = format!("{} {}", redis.url(), path.display());
    let mut parent =
        this_test(name).env(VICTIM, places).stdout(Stdio::piped()).spawn().expect("run the victim");
    let output = BufReader::new(parent.stdout.take().expect("its output"));
    // The harness has begun a line of its own.
    let mut lines = output.lines().map_while(Result::ok);
    let line = lines.find_map(|line| line.split_once("the copy is ").map(|(_, pid)| pid.to_owned()));
    let copy: i32 = line.expect("the copy's number").parse().expect("a number");
    let mut client = UnixStream::connect(&path).expect("the parent listens");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client.write_all(b"WATCH k\r\nGET k\r\n").expect("sent");
    let mut reply = [0; 10];
    client.read_exact(&mut reply).expect("a reply");
    assert!(upstream_clients(&redis).len() >= 2);
    parent.kill().expect("SIGKILL");
    parent.wait().expect("reaped");
    let copied = support::is_running(copy as u32);
    let end = client.read(&mut reply);
    let gone = support::comes_true(PATIENCE, || upstream_clients(&redis).is_empty());
    let pid = rustix::process::Pid::from_raw(copy).expect("a number");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("the copy was still there");
    assert!(copied, "the copy has died too, nothing is proven");
    assert!(matches!(end, Ok(0)), "the child still waits: {end:?}");
    assert!(gone, "connections are left at Redis");
    wait_until("the copy's end", || !support::is_running(copy as u32));
}

/// The process that will be killed: a loop with a copy of itself that lives on.
fn victim(url: &str, path: &str) -> ! {
    let mut lp = Loop::new(settings(url, &format!("unix://{path}"))).expect("the loop");
    run_until(&mut lp, "the upstream", |lp| lp.stat("upstream_up") == Some(1));
    // Connections made before the fork are the ones a copy could keep.
    let mut client = Client::connect(Path::new(path));
    client.send("WATCH k\r\nGET k\r\n");
    run_until(&mut lp, "a lease", |_| {
        client.take();
        client.got.ends_with(b"$-1\r\n")
    });
    let pid = fork();
    if pid == 0 {
        lp.after_fork();
        drop(client);
        loop {
            std::thread::park();
        }
    }
    std::io::stdout().write_all(format!("the copy is {pid}\n").as_bytes()).expect("a reader");
    while lp.run(RunMode::Once).expect("a turn") {}
    exit_now(1);
}
