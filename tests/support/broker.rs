//! The standalone binary as a test runs it: started on a socket in a private directory, its log kept for the
//! failing test's output, ended whatever happens.

use std::io::{BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use super::http::Http;
use super::name_server::NameServer;
use super::raw::Raw;
use super::redis::Redis;
use super::{PATIENCE, comes_true, direct, end_within, signal};

/// Path of the binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_broker");

/// How long the broker waits for the upstream where that is not a test's subject: a busy machine must not answer for
/// it. Shorter than a test waits for a reply. And children are told of losses, so that a test sees what became of which
/// request.
pub(crate) const PATIENT: [(&str, &str); 3] =
    [("queue_timeout", "10s"), ("connect_timeout", "10s"), ("on_upstream_loss", "error")];

/// The settings of a test, and patience where it asks for nothing else. Who stalls is found out within
/// `connect_timeout`, so that one stays as it is where that is looked at.
pub(crate) fn with_patience<'a>(settings: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let has = |name: &str| settings.iter().any(|(key, _)| *key == name);
    let keeps = |name: &str| has(name) || (name == "connect_timeout" && has("lane_stall_timeout"));
    let more = PATIENT.into_iter().filter(|(key, _)| !keeps(key));
    more.chain(settings.iter().copied()).collect()
}

/// A running broker; in direct mode, Redis' own socket in its place.
pub(crate) struct Broker {
    directory: TempDir,
    socket: PathBuf,
    listening: Vec<String>,
    /// The URLs it serves metrics at.
    metrics: Vec<String>,
    process: Option<Child>,
    /// What it was started with.
    args: Vec<String>,
    log: Arc<Mutex<String>>,
    /// What it logs at `info` is seen.
    talks: bool,
}

/// The longest step and turn of a broker, in microseconds of its own processor time, and what that step was about.
#[derive(Debug)]
pub(crate) struct Pace {
    pub(crate) step: u64,
    pub(crate) turn: u64,
    pub(crate) about: String,
}

/// Bounds of every broker of the suite. The program promises 1 ms and 20 ms; a build for tests takes ten to twenty times
/// as long, and a processor that many share forgets what it had at hand.
const STEP_MAX: u64 = if cfg!(debug_assertions) { 100_000 } else { 10_000 };
const TURN_MAX: u64 = if cfg!(debug_assertions) { 150_000 } else { 40_000 };

impl Broker {
    /// Serves `redis` on a unix socket with the given settings; returns once it listens.
    pub(crate) fn start(redis: &Redis, settings: &[(&str, &str)]) -> Broker {
        Broker::start_url(&redis.url(), &redis.socket(), settings)
    }

    /// The same in front of any upstream socket, such as a fault proxy.
    pub(crate) fn start_at(upstream: &Path, settings: &[(&str, &str)]) -> Broker {
        Broker::start_url(&format!("unix://{}", upstream.display()), upstream, settings)
    }

    pub(crate) fn start_url(url: &str, instead: &Path, settings: &[(&str, &str)]) -> Broker {
        let directory = tempfile::Builder::new().prefix("broker-").tempdir().expect("a directory");
        if direct() {
            let socket = instead.to_owned();
            let (listening, metrics, log) = (Vec::new(), Vec::new(), Arc::default());
            let args = Vec::new();
            return Broker { directory, socket, listening, metrics, process: None, args, log, talks: false };
        }
        Broker::serve(directory, url, settings, |_| {})
    }

    /// The same in front of what this name server knows about.
    pub(crate) fn start_named(names: &NameServer, url: &str, settings: &[(&str, &str)]) -> Broker {
        let directory = tempfile::Builder::new().prefix("broker-").tempdir().expect("a directory");
        Broker::serve(directory, url, settings, |command| names.serve(command))
    }

    /// The same with options of its listener, `?read=replica`.
    pub(crate) fn start_listening(options: &str, url: &str, settings: &[(&str, &str)]) -> Broker {
        let directory = tempfile::Builder::new().prefix("broker-").tempdir().expect("a directory");
        let listen = format!("unix://{}{options}", directory.path().join("b.sock").display());
        let settings: Vec<String> = settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut args = vec!["serve", "--listen", &listen, "--upstream", url];
        args.extend(settings.iter().flat_map(|pair| ["--set", pair]));
        let mut broker = Broker::start_args(&args, 1);
        broker.directory = directory;
        broker
    }

    /// The same, with more about the process: its environment, what it inherits.
    pub(crate) fn start_prepared(
        redis: &Redis,
        settings: &[(&str, &str)],
        prepare: impl FnOnce(&mut Command),
    ) -> Broker {
        let directory = tempfile::Builder::new().prefix("broker-").tempdir().expect("a directory");
        Broker::serve(directory, &redis.url(), settings, prepare)
    }

    fn serve(
        directory: TempDir,
        url: &str,
        settings: &[(&str, &str)],
        prepare: impl FnOnce(&mut Command),
    ) -> Broker {
        let socket = directory.path().join("b.sock");
        let listen = format!("unix://{}", socket.display());
        let mut args = vec!["serve", "--listen", &listen, "--upstream", url];
        let settings = with_patience(settings);
        let pairs: Vec<String> = settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        for pair in &pairs {
            args.extend(["--set", pair]);
        }
        let mut broker = Broker::spawn(directory, socket, &args, prepare);
        broker.listening = broker.wait_listening(1);
        broker
    }

    /// Starts the binary with any arguments and waits for `listeners` lines of `listening`.
    pub(crate) fn start_args(args: &[&str], listeners: usize) -> Broker {
        let directory = tempfile::Builder::new().prefix("broker-").tempdir().expect("a directory");
        let mut args = args.to_vec();
        let own = |name: &str| args.iter().any(|arg| arg.starts_with(name));
        let pairs = PATIENT.iter().filter(|(key, _)| !own(key)).map(|(key, value)| format!("{key}={value}"));
        let pairs: Vec<String> = pairs.collect();
        if args.first() == Some(&"serve") {
            args.extend(pairs.iter().flat_map(|pair| ["--set", pair]));
        }
        let mut broker = Broker::spawn(directory, PathBuf::new(), &args, |_| {});
        broker.listening = broker.wait_listening(listeners);
        if let Some(path) = broker.listening.first().and_then(|url| url.strip_prefix("unix://")) {
            broker.socket = PathBuf::from(path.split('?').next().unwrap_or(path));
        }
        broker
    }

    fn spawn(
        directory: TempDir,
        socket: PathBuf,
        args: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> Broker {
        let mut command = Command::new(BINARY);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        prepare(&mut command);
        let mut process = command.spawn().expect("start the broker");
        let log = Arc::new(Mutex::new(String::new()));
        let errors = process.stderr.take().expect("its standard error");
        let copy = Arc::clone(&log);
        thread::spawn(move || keep_log(errors, &copy));
        let talks = !args.iter().any(|arg| arg.starts_with("log_level=") || arg.starts_with("--config"));
        let (listening, metrics) = (Vec::new(), Vec::new());
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Broker { directory, socket, listening, metrics, process: Some(process), args, log, talks }
    }

    fn wait_listening(&mut self, count: usize) -> Vec<String> {
        let output = self.process_mut().stdout.take().expect("its standard output");
        let (sender, lines): (_, Receiver<String>) = channel();
        // Keeps reading after the last line awaited: a closed pipe would be an error for the broker.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let deadline = Instant::now() + PATIENCE;
        let mut urls = Vec::new();
        while urls.len() < count {
            let line = lines.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|_| panic!("no `listening` line; its log:\n{}", self.log()));
            if let Some(url) = line.strip_prefix("listening ") {
                urls.push(url.to_owned());
            } else if let Some(url) = line.strip_prefix("metrics ") {
                self.metrics.push(url.to_owned());
            }
        }
        urls
    }

    /// Serves `redis` with further flags of `broker serve`.
    pub(crate) fn start_flagged(redis: &Redis, flags: &[&str]) -> Broker {
        let directory = tempfile::Builder::new().prefix("broker-").tempdir().expect("a directory");
        let (listen, url) = (format!("unix://{}", directory.path().join("b.sock").display()), redis.url());
        let args = [&["serve", "--listen", &listen, "--upstream", &url], flags].concat();
        let listeners = args.iter().filter(|arg| **arg == "--listen").count();
        let mut broker = Broker::start_args(&args, listeners);
        broker.directory = directory;
        broker
    }

    /// Starts the broker that is to follow it, with the same arguments and some more. Returns at once.
    pub(crate) fn start_successor(&self, more: &[&str]) -> Broker {
        let directory = tempfile::Builder::new().prefix("broker-").tempdir().expect("a directory");
        // It is not to die as this one may have to.
        let dies =
            self.args.iter().position(|arg| arg == "--sabotage-handover").map_or(0..0, |at| at..at + 2);
        let own =
            self.args.iter().enumerate().filter(|(at, _)| !dies.contains(at)).map(|(_, arg)| arg.as_str());
        let args: Vec<&str> = own.chain(["--takeover"]).chain(more.iter().copied()).collect();
        Broker::spawn(directory, self.socket.clone(), &args, |command| {
            command.stdout(Stdio::null());
        })
    }

    /// Takes this process' place.
    pub(crate) fn become_successor(&mut self, mut successor: Broker) {
        std::mem::swap(&mut self.process, &mut successor.process);
        std::mem::swap(&mut self.log, &mut successor.log);
    }

    /// Runs the binary to its end. Where no other place to listen is given, a user without a session has one too.
    pub(crate) fn run(args: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(args).env("XDG_RUNTIME_DIR", "/nonexistent").stdin(Stdio::null());
        command.output().expect("run the broker")
    }

    fn process_mut(&mut self) -> &mut Child {
        self.process.as_mut().expect("a broker process; this test needs one")
    }

    /// The socket children connect to.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its private directory.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The URLs it said it listens on.
    pub(crate) fn listening(&self) -> &[String] {
        &self.listening
    }

    /// A connection to where it serves metrics, of several the first.
    pub(crate) fn http(&self) -> Http {
        Http::connect(&self.metrics[0])
    }

    /// The URLs at which it said that it serves metrics.
    pub(crate) fn metrics(&self) -> &[String] {
        &self.metrics
    }

    /// A child's connection.
    pub(crate) fn connect(&self) -> Raw {
        Raw::unix(&self.socket)
    }

    /// A child's connection speaking RESP3.
    pub(crate) fn connect_resp3(&self) -> Raw {
        let mut raw = self.connect();
        assert!(raw.ask("HELLO 3").starts_with('%'), "HELLO 3 answers a map");
        raw
    }

    /// What it has logged so far. Directories stand in it, whose names end in six random letters or digits: what must not
    /// be in it is longer than that or has another sign.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// How long its steps and turns have been; none if it does not say so.
    pub(crate) fn pace(&mut self) -> Option<Pace> {
        let (log, mut pace) = (Arc::clone(&self.log), None);
        let said = log.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).len();
        signal(self.process_mut(), Signal::USR1);
        comes_true(Duration::from_secs(5), || {
            let text = log.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            pace = pace_of(&text[said..]);
            pace.is_some()
        });
        pace
    }

    /// The scenario has a step that cannot be short: its end does not look.
    pub(crate) fn allow_long_steps(&mut self) {
        self.talks = false;
    }

    /// No scenario has kept the loop from everything else for long.
    fn check_pace(&mut self) {
        let runs = self.process.as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(None)));
        if !runs || !self.talks || thread::panicking() {
            return;
        }
        // One that has been stopped, or closed its log, says nothing.
        let Some(pace) = self.pace() else { return };
        let seen = format!("{pace:?}");
        if let Ok(path) = std::env::var("BROKER_TEST_PACE") {
            let line = format!("{seen} {:?}\n", thread::current().name());
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).expect("a file");
            file.write_all(line.as_bytes()).expect("write to it");
        }
        assert!(pace.step <= STEP_MAX && pace.turn <= TURN_MAX, "the loop was long at one thing: {seen}");
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("a broker process").id()
    }

    /// Asks it to drain and end (SIGTERM).
    pub(crate) fn term(&mut self) {
        signal(self.process_mut(), Signal::TERM);
    }

    /// Lets it run again that has been stopped.
    pub(crate) fn go_on(&self) {
        signal(self.process.as_ref().expect("a broker process"), Signal::CONT);
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        let process = self.process_mut();
        process.kill().expect("kill the broker");
        process.wait().expect("reap the broker");
    }

    /// Whether it runs no more.
    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.process_mut().try_wait(), Ok(Some(_)))
    }

    /// Waits for its end.
    pub(crate) fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let status = end_within(self.process_mut(), limit);
        status.unwrap_or_else(|| panic!("the broker still runs after {limit:?}"))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let checked = catch_unwind(AssertUnwindSafe(|| self.check_pace()));
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
        if thread::panicking() || checked.is_err() {
            eprintln!("the broker's log:\n{}", self.log());
        }
        if let Err(panic) = checked {
            resume_unwind(panic);
        }
    }
}

/// What the last line of statistics says.
fn pace_of(text: &str) -> Option<Pace> {
    let line = text.lines().rfind(|line| line.contains(" longest_step="))?;
    let number = |name: &str| line.split_once(name)?.1.split(' ').next()?.parse().ok();
    let (step, turn) = (number(" longest_step_us=")?, number(" longest_turn_us=")?);
    let about = line.split_once(" longest_step=")?.1.trim_matches('"').to_owned();
    Some(Pace { step, turn, about })
}

fn keep_log(mut errors: impl Read, log: &Mutex<String>) {
    let mut chunk = [0u8; 4096];
    while let Ok(length) = errors.read(&mut chunk) {
        if length == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&chunk[..length]);
        log.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push_str(&text);
    }
}
