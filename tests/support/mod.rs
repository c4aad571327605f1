//! What the integration tests share: a real redis-server, the broker's own binary, a raw client that knows
//! nothing of the crate, and a bounded wait. Never a mock, never a fixed sleep.
//!
//! `BROKER_TEST_DIRECT=1` gives every test Redis' own socket in the broker's place: what a test expects of
//! Redis is then checked against Redis. Tests about the broker itself are ignored in that mode, by an attribute, so that
//! the summary counts them: `#[cfg_attr(direct, ignore = "about the broker itself")]`. No test returns before it has
//! checked anything; `rules.rs` looks.
//! `BROKER_TEST_SEED=n` replays a random run; the seed is printed when a test fails.

// Each test binary uses its own part of this module.
#![allow(dead_code, unused_imports)]

pub(crate) mod broker;
pub(crate) mod chromium;
pub(crate) mod console;
pub(crate) mod crowd;
pub(crate) mod embedded;
pub(crate) mod examples;
pub(crate) mod http;
pub(crate) mod leases;
pub(crate) mod ledger;
pub(crate) mod name_server;
pub(crate) mod native;
pub(crate) mod native_child;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod redis;
pub(crate) mod run;
pub(crate) mod sentinel;
pub(crate) mod tls;
pub(crate) mod twin;

use std::time::{Duration, Instant};

pub(crate) use broker::Broker;
pub(crate) use crowd::Crowd;
pub(crate) use http::{Http, HttpReply};
pub(crate) use proxy::Proxy;
pub(crate) use raw::{End, Raw, request, show};
pub(crate) use redis::{Redis, UpstreamClient, list_clients, upstream_clients};
pub(crate) use twin::{Pair, Twin};

/// Whether the tests talk to Redis itself instead of the broker.
pub(crate) const fn direct() -> bool {
    cfg!(direct)
}

/// How long anything observable may take before a test gives up on it: generous, since the machine is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Polls a condition until it holds; panics with `what` when it does not come true in time.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_within(what, PATIENCE, &mut holds);
}

/// [`wait_until`] with its own limit.
pub(crate) fn wait_within(what: &str, limit: Duration, holds: impl FnMut() -> bool) {
    assert!(comes_true(limit, holds), "waited {limit:?} in vain: {what}");
}

/// Whether a condition comes true in time, for a test that has something to end first when it does not.
pub(crate) fn comes_true(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > limit {
            return false;
        }
        // Between two looks at what nothing announces.
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Waits until a number has stopped to change, for what reaches a bound that the test cannot see. A machine that is busy
/// may take a pause for an end: what is checked then must hold at any time, and only shows less.
pub(crate) fn wait_still(what: &str, mut number: impl FnMut() -> u64) {
    let (mut last, mut looks) = (number(), 0);
    wait_until(what, || {
        let now = number();
        looks = if now == last { looks + 1 } else { 0 };
        last = now;
        looks == 40
    });
}

/// Waits for the end of a process; `None` if it runs on.
pub(crate) fn end_within(
    process: &mut std::process::Child,
    limit: Duration,
) -> Option<std::process::ExitStatus> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{PidfdFlags, pidfd_open};
    let descriptor = pidfd_open(pid_of(process), PidfdFlags::empty()).expect("a descriptor of the process");
    let timeout = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
    let mut one = [PollFd::new(&descriptor, PollFlags::IN)];
    let ended = rustix::io::retry_on_intr(|| poll(&mut one, Some(&timeout))).expect("poll") > 0;
    ended.then(|| process.wait().expect("its status"))
}

/// A generator seeded by `BROKER_TEST_SEED`, or by chance; the seed appears in a failing test's output.
pub(crate) fn seeded() -> fastrand::Rng {
    fastrand::Rng::with_seed(run::seed())
}

/// Raises this process' limit of open files to the hard limit, for tests with many children.
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .expect("raise the limit of open files");
}

/// Has make build the library that is installed and packed, once for all tests that do so at the same time.
pub(crate) fn made_library() {
    static MADE: std::sync::OnceLock<()> = std::sync::OnceLock::new();
    MADE.get_or_init(|| {
        examples::succeed(examples::make(std::path::Path::new(env!("CARGO_MANIFEST_DIR"))).arg("library"));
    });
}

/// This program once more, to run that one test of the module in a process of its own.
pub(crate) fn this_program(module: &str, test: &str) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().expect("our own path"));
    let path = module.split_once("::").map_or(test.to_owned(), |(_, path)| format!("{path}::{test}"));
    command.args(["--exact", &path, "--nocapture", "--test-threads=1"]);
    command
}

/// The process id as rustix wants it.
pub(crate) fn pid_of(child: &std::process::Child) -> rustix::process::Pid {
    rustix::process::Pid::from_child(child)
}

/// Sends a signal to a process this test started.
pub(crate) fn signal(child: &std::process::Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(pid_of(child), signal).expect("signal a process of ours");
}

/// Resident memory of a process in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Whether a process is there and not a zombie.
pub(crate) fn is_running(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")),
        Err(_) => false,
    }
}

/// Where the console's verbs are heard, unless `admin_listen` says otherwise: beside the first listener.
pub(crate) fn admin_beside(socket: &std::path::Path) -> std::path::PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".admin");
    path.into()
}

/// A process that ends with the test.
pub(crate) struct Running(pub(crate) std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
