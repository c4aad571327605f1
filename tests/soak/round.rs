//! One round: a Redis, the fault proxy, a broker with settings of its own, workers that are started again as
//! they die, and whoever torments them; then the checks.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;

use super::checks::{Caps, Verdict, check_ledger, check_traces, wait_quiet, watch_caps};
use super::faults::{FaultProxy, Plan, Seen};
use super::generator::{Fault, Settings, Speaker, settings, value_of};
use super::report::{Tally, read_report};
use super::worker::{BOUND, CROSSED, DBS, Orders};
use crate::support::leases::every_lease_is_free;
use crate::support::{Broker, Redis, pid_of, signal, upstream_clients, wait_until};

/// The variable that makes this program a worker.
pub(crate) const WORKER: &str = "BROKER_SOAK_WORKER";
/// Workers alive at any time.
const WORKERS: usize = 10;

/// How replies are protected, and what is expected of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Faults of bytes only: nothing may cross.
    Plain,
    /// Faults of whole replies as well, and `integrity = always`: nothing may cross.
    Always,
    /// The same, and only some requests are followed by a canary: what crosses is counted.
    Sampled,
    /// The same without canaries.
    Off,
}

/// What a round is.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub(crate) mode: Mode,
    pub(crate) time: Duration,
    pub(crate) seed: u64,
    /// Workers' numbers begin here.
    pub(crate) first_worker: u32,
    /// The broker swaps replies on purpose.
    pub(crate) sabotage: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) seen: Seen,
    pub(crate) verdict: Verdict,
    pub(crate) kills: u64,
    pub(crate) stops: u64,
    pub(crate) redis_kills: u64,
    pub(crate) redis_pauses: u64,
    pub(crate) samples: u64,
    /// Lanes closed because of what came over them.
    pub(crate) detected: u64,
    pub(crate) next_worker: u32,
}

/// Settings drawn for a round.
fn draw_settings(rng: &mut Rng, mode: Mode) -> Settings {
    let mut settings = settings(rng, Speaker::Soak);
    match mode {
        Mode::Plain | Mode::Off => {}
        Mode::Always => settings.push(("integrity", "always")),
        Mode::Sampled => settings.push(("integrity", "sampled")),
    }
    settings
}

pub(crate) fn number(settings: &Settings, key: &str) -> usize {
    value_of(settings, key).parse().expect("a number")
}

/// How often what happens between broker and Redis, per second.
fn plan(mode: Mode) -> Plan {
    let mut plan: Plan = Fault::BYTES.iter().map(|kind| (*kind, 12.0)).collect();
    if mode != Mode::Plain {
        plan.iter_mut().for_each(|(_, rate)| *rate = 4.0);
        plan.extend(Fault::FRAMES.iter().map(|kind| (*kind, 16.0)));
    }
    plan
}

/// Runs a round and checks what is left of it.
pub(crate) fn run(round: &Round) -> Outcome {
    let mut rng = Rng::with_seed(round.seed);
    let settings = draw_settings(&mut rng, round.mode);
    eprintln!("round {:?}, {:?}: {settings:?}", round.mode, round.time);
    let redis = Redis::start_durable();
    for db in DBS {
        let mut raw = redis.connect();
        raw.expect(&format!("SELECT {db}"), "+OK\r\n");
        raw.expect(&format!("SET whoami db{db}"), "+OK\r\n");
    }
    let proxy = FaultProxy::start(&redis, plan(round.mode), rng.u64(..));
    let mut broker = start_broker(&redis, &proxy, &settings, round.sabotage);
    let stop = AtomicBool::new(false);
    let caps = Caps {
        connections: number(&settings, "upstream_connections_max"),
        blocked: number(&settings, "leases_blocking_max"),
        // The shared one, or leases.
        subscribed: number(&settings, "leases_session_max") + 1,
    };
    let mut outcome = thread::scope(|scope| {
        let sampler = scope.spawn(|| watch_caps(&redis, || proxy.ghosts(), caps, &stop));
        let tormentor = scope.spawn({
            let seed = rng.u64(..);
            let (redis, stop) = (&redis, &stop);
            move || torment(redis, &mut Rng::with_seed(seed), stop)
        });
        let mut herd = Herd::new(round, broker.socket(), rng.u64(..));
        herd.run(round.time);
        stop.store(true, Ordering::SeqCst);
        let (kills, pauses) = tormentor.join().expect("the tormentor");
        let (samples, exceeded) = sampler.join().expect("the sampler");
        proxy.be_quiet();
        let mut outcome = herd.end();
        (outcome.redis_kills, outcome.redis_pauses, outcome.samples) = (kills, pauses, samples);
        outcome.verdict.other.extend(exceeded);
        outcome
    });
    outcome.seen = proxy.take_seen();
    if outcome.seen.peak > caps.connections {
        outcome.verdict.other.push(format!("{} connections: {caps:?}", outcome.seen.peak));
    }
    let failed = round.mode.nothing_crosses() && !outcome.tally.crossed.is_empty();
    if !round.mode.nothing_crosses() {
        // A connection that is out of step answers wrongly until it ends, and nobody notices.
        proxy.cut_all();
    }
    if !failed && !round.sabotage {
        afterwards(&redis, &mut broker, &settings, round.mode, &mut outcome);
    }
    outcome
}

impl Mode {
    /// Whether a foreign reply fails the run.
    pub(crate) fn nothing_crosses(self) -> bool {
        matches!(self, Mode::Plain | Mode::Always)
    }

    /// Whether what children were told of their writes can be held against the broker.
    pub(crate) fn ledger_holds(self) -> bool {
        self.nothing_crosses()
    }
}

fn start_broker(redis: &Redis, proxy: &FaultProxy, settings: &Settings, sabotage: bool) -> Broker {
    let listen = format!("unix://{}", redis.directory().join("broker.sock").display());
    let upstream = format!("unix://{}", proxy.socket().display());
    let mut args = vec!["serve", "--listen", &listen, "--upstream", &upstream];
    let pairs: Vec<String> = settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.iter().for_each(|pair| args.extend(["--set", pair]));
    if sabotage {
        args.push("--sabotage");
    }
    Broker::start_args(&args, 1)
}

/// Kills and pauses Redis until told to stop; leaves it running.
fn torment(redis: &Redis, rng: &mut Rng, stop: &AtomicBool) -> (u64, u64) {
    let (mut kills, mut pauses) = (0, 0);
    while !stop.load(Ordering::SeqCst) {
        // The times here are drawn: when it happens, and how long it lasts.
        thread::sleep(Duration::from_millis(rng.u64(20..220)));
        if rng.bool() {
            kills += 1;
            redis.kill();
            // Drawn.
            thread::sleep(Duration::from_millis(rng.u64(..40)));
            redis.restart();
        } else {
            pauses += 1;
            redis.stop();
            // Drawn.
            thread::sleep(Duration::from_millis(rng.u64(1..80)));
            redis.cont();
        }
    }
    (kills, pauses)
}

/// The checks of a round whose workers have ended.
fn afterwards(redis: &Redis, broker: &mut Broker, settings: &Settings, mode: Mode, outcome: &mut Outcome) {
    wait_until("the broker answers", || broker.connect().ask("GET whoami").starts_with("$3"));
    wait_quiet(redis, number(settings, "leases_warm") * DBS.len() * 2);
    check_traces(redis, &outcome.tally.left, &mut outcome.verdict);
    every_lease_is_free(broker, |key| {
        // What no lease may take, however many there may be: `PLACES_KEPT_FROM_...`.
        let kept = match key {
            "leases_transaction_max" => 2,
            "leases_session_max" => 3,
            _ => 4,
        };
        number(settings, key).min(number(settings, "upstream_connections_max") - kept)
    });
    wait_quiet(redis, number(settings, "leases_warm") * DBS.len() * 2);
    if mode.ledger_holds() {
        check_ledger(redis, &outcome.tally, &mut outcome.verdict);
    }
    let log = broker.log();
    let desyncs = log.matches("out of step").count();
    outcome.detected = desyncs as u64;
    if log.contains("panicked") || mode == Mode::Plain && desyncs > 0 {
        let lines = log.lines().filter(|line| line.contains("panicked") || line.contains("out of step"));
        outcome.verdict.other.push(lines.take(5).collect::<Vec<_>>().join("\n"));
    }
    let socket = broker.socket().to_owned();
    broker.term();
    assert!(broker.wait_exit(BOUND).success(), "SIGTERM ends it well");
    assert!(!socket.exists(), "the socket file is removed");
    wait_until("no connection is left upstream", || upstream_clients(redis).is_empty());
}

// ---- workers ---------------------------------------------------------------------------------------------

struct Running {
    process: Child,
    reader: JoinHandle<()>,
}

/// The workers of a round.
struct Herd<'a> {
    round: &'a Round,
    socket: &'a std::path::Path,
    rng: Rng,
    running: BTreeMap<u32, Running>,
    tally: Arc<Mutex<Tally>>,
    next: u32,
    outcome: Outcome,
}

impl<'a> Herd<'a> {
    fn new(round: &'a Round, socket: &'a std::path::Path, seed: u64) -> Herd<'a> {
        let rng = Rng::with_seed(seed);
        let (running, tally, outcome) = (BTreeMap::new(), Arc::default(), Outcome::default());
        Herd { round, socket, rng, running, tally, next: round.first_worker, outcome }
    }

    fn spawn(&mut self) {
        let id = self.next;
        self.next += 1;
        let orders = Orders {
            id,
            seed: self.round.seed.wrapping_add(u64::from(id)),
            tolerant: !self.round.mode.nothing_crosses(),
            socket: self.socket.to_owned(),
        };
        let program = std::env::current_exe().expect("this program");
        let mut process = Command::new(program)
            .args(["--exact", "worker", "--ignored", "--nocapture", "--test-threads=1"])
            .env(WORKER, orders.to_text())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start a worker");
        let (output, tally) = (process.stdout.take().expect("its output"), Arc::clone(&self.tally));
        let reader = thread::spawn(move || {
            read_report(id, output, |take| take(&mut tally.lock().expect("tally")));
        });
        self.running.insert(id, Running { process, reader });
    }

    fn run(&mut self, time: Duration) {
        let until = Instant::now() + time;
        let mut next_kill = Instant::now();
        while Instant::now() < until && self.reap(false) {
            while self.running.len() < WORKERS {
                self.spawn();
            }
            if Instant::now() >= next_kill {
                next_kill = Instant::now() + Duration::from_millis(self.rng.u64(50..250));
                self.molest();
            }
            // Between two looks at all of them.
            thread::sleep(Duration::from_millis(3));
        }
    }

    /// Kills a worker wherever it is, or stops it for a moment.
    fn molest(&mut self) {
        let ids: Vec<u32> = self.running.keys().copied().collect();
        let victim = &self.running[&ids[self.rng.usize(..ids.len())]].process;
        if self.rng.bool() {
            signal(victim, Signal::KILL);
        } else {
            self.outcome.stops += 1;
            signal(victim, Signal::STOP);
            // Drawn.
            thread::sleep(Duration::from_millis(self.rng.u64(1..40)));
            let _ = rustix::process::kill_process(pid_of(victim), Signal::CONT);
        }
    }

    /// Takes leave of those that have ended. False: one of them has found a foreign reply, or failed.
    fn reap(&mut self, ending: bool) -> bool {
        use std::os::unix::process::ExitStatusExt;
        let mut well = true;
        let ids: Vec<u32> = self.running.keys().copied().collect();
        for id in ids {
            let Some(running) = self.running.get_mut(&id) else { continue };
            let Some(status) = running.process.try_wait().expect("wait for a worker") else { continue };
            let Some(gone) = self.running.remove(&id) else { continue };
            let _ = gone.reader.join();
            match (status.signal(), status.code()) {
                (Some(9), _) => self.outcome.kills += 1,
                (_, Some(0)) if ending => {}
                (_, Some(CROSSED)) => well = false,
                _ => {
                    self.outcome.verdict.other.push(format!("worker {id} ended with {status}"));
                    well = false;
                }
            }
        }
        well
    }

    /// Has every worker come to its end.
    fn end(mut self) -> Outcome {
        for running in self.running.values_mut() {
            drop(running.process.stdin.take());
        }
        let deadline = Instant::now() + 2 * BOUND;
        while !self.running.is_empty() {
            self.reap(true);
            if Instant::now() > deadline {
                for (id, running) in &mut self.running {
                    self.outcome.verdict.other.push(format!("worker {id} does not end"));
                    let _ = running.process.kill();
                }
            }
            // Between two looks at all of them.
            thread::sleep(Duration::from_millis(3));
        }
        self.outcome.tally = std::mem::take(&mut *self.tally.lock().expect("tally"));
        self.outcome.next_worker = self.next;
        self.outcome
    }
}
