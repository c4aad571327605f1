//! The same random commands on a direct connection and through the broker: every reply must be the same, byte for
//! byte, but for what `tests/twin/normalise.rs` says is by chance and `tests/twin/waivers.toml` says is meant.
//!
//! `BROKER_TEST_SEED` replays a run, or with `BROKER_TWIN_ONE=1` the one sequence a failure names;
//! `BROKER_TEST_SECONDS` sets how long to run. `make twin SECONDS=n SEED=s` does so with a release build.

#[path = "twin/coverage.rs"]
mod coverage;
#[path = "twin/frames.rs"]
mod frames;
#[path = "generator/mod.rs"]
mod generator;
#[path = "twin/grammar.rs"]
mod grammar;
#[path = "twin/link.rs"]
mod link;
#[path = "twin/manners.rs"]
mod manners;
#[path = "twin/normalise.rs"]
mod normalise;
#[path = "twin/plan.rs"]
mod plan;
#[path = "twin/play.rs"]
mod play;
mod support;
#[path = "twin/waivers.rs"]
mod waivers;

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use coverage::Coverage;
use fastrand::Rng;
use generator::{Sequence, Settings, Speaker, value_of};
use grammar::Grammar;
use normalise::Sharing;
use play::{Difference, Outcome, Rig};
use support::redis::{is_before_7, release};
use support::{Twin, run};
use waivers::Waivers;

/// Sequences of each worker where no time is given.
const SHORT: u64 = 160;
/// Each with servers of its own, half of them for each protocol.
const WORKERS: u64 = 4;
/// A pair of servers is used for so many sequences, then others with other settings are started.
const BATCH: u64 = 2500;
/// A run shows so many differences and goes on counting.
const SHOWN: usize = 12;
/// What both servers run with: timeouts are noticed soon, and the data can be compared.
/// Order in a skiplist is by chance where the scores do not make it, in a listpack it is not. What a subscriber may be owed
/// is the server's and the broker's own.
#[rustfmt::skip]
const REDIS: &[&str] = &[
    "--hz", "100", "--client-output-buffer-limit", "pubsub", "0", "0", "0",
    "--enable-debug-command", "yes", "--zset-max-listpack-value", "100000",
];
/// The same before Redis 7.0.
#[rustfmt::skip]
const REDIS_BEFORE_7: &[&str] = &[
    "--hz", "100", "--client-output-buffer-limit", "pubsub", "0", "0", "0", "--zset-max-ziplist-value", "100000",
];

/// What all workers have done together.
#[derive(Default)]
struct Total {
    sequences: [u64; 2],
    commands: u64,
    pipelined: u64,
    differences: u64,
    /// Of each kind and command one is enough to look at.
    failures: Vec<String>,
    coverage: Coverage,
}

struct Run {
    seed: u64,
    deadline: Option<Instant>,
    waivers: Waivers,
    total: Mutex<Total>,
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_broker_cannot_be_told_from_redis() {
    let seed = run::seed();
    let seconds = run::variable("BROKER_TEST_SECONDS");
    let deadline = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let run = Run { seed, deadline, waivers: Waivers::load(), total: Mutex::default() };
    if std::env::var_os("BROKER_TWIN_ONE").is_some() {
        replay(&run);
        return report(&run);
    }
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            let run = &run;
            scope.spawn(move || work(run, seed.wrapping_add(worker), if worker % 2 == 0 { 2 } else { 3 }));
        }
    });
    report(&run);
}

/// One sequence, by the seed its failure has named.
fn replay(run: &Run) {
    for proto in [2, 3] {
        for (lanes, integrity) in [("shared", "off"), ("leased", "off"), ("shared", "always")] {
            let ways = vec![("transactions", lanes), ("pubsub", lanes), ("integrity", integrity)];
            let mut rig = rig(&ways);
            let grammar = rig.grammar();
            judge(run, &mut rig, &grammar, &plan::sequence(&grammar, run.seed, proto), &ways);
        }
    }
}

/// Servers under settings by which what may be done in more than one way must look the same in each.
fn rig(ways: &Settings) -> Rig {
    let redis = if is_before_7() { REDIS_BEFORE_7 } else { REDIS };
    Rig::new(Twin::start_with(redis, ways), Sharing { pubsub: value_of(ways, "pubsub") == "shared" })
}

/// The sequences of one protocol, on servers of their own.
fn work(run: &Run, seed: u64, proto: u8) {
    let mut rng = Rng::with_seed(seed);
    let mut done = 0;
    let more = |done| run.deadline.map_or(done < SHORT, |deadline| Instant::now() < deadline);
    while more(done) {
        let ways = generator::settings(&mut rng, Speaker::Twin);
        let mut rig = rig(&ways);
        let grammar = rig.grammar();
        if done == 0 {
            // The walk is part of every worker's run.
            run.total.lock().expect("total").coverage.expect(&mut rig, &grammar);
            let mut lines = grammar.lines(plan::WALK);
            rng.shuffle(&mut lines);
            for lines in lines.chunks(plan::WALK_LINES) {
                judge(run, &mut rig, &grammar, &plan::walk(&grammar, rng.u64(..), proto, lines), &ways);
            }
            let missing = run.total.lock().expect("total").coverage.missing();
            judge(run, &mut rig, &grammar, &plan::unspoken(&grammar, rng.u64(..), proto, &missing), &ways);
        }
        for _ in 0..BATCH {
            if !more(done) {
                break;
            }
            judge(run, &mut rig, &grammar, &plan::sequence(&grammar, rng.u64(..), proto), &ways);
            done += 1;
        }
    }
}

/// Plays a sequence and records what came of it.
fn judge(run: &Run, rig: &mut Rig, grammar: &Grammar, sequence: &Sequence, ways: &Settings) {
    let outcome = rig.play(grammar, &run.waivers, sequence);
    let mut failure = None;
    if let Some(difference) = &outcome.difference {
        let label = format!("{} {}", difference.kind, difference.command);
        let known = {
            let total = run.total.lock().expect("total");
            total.failures.len() >= SHOWN || total.failures.contains(&label)
        };
        if !known {
            eprintln!("{}", explain(run, rig, grammar, sequence, difference, ways));
            failure = Some(label);
        }
    }
    let mut total = run.total.lock().expect("total");
    total.record(sequence, &outcome);
    total.failures.extend(failure);
}

impl Total {
    fn record(&mut self, sequence: &Sequence, outcome: &Outcome) {
        self.sequences[usize::from(sequence.proto == 3)] += 1;
        self.commands += outcome.commands;
        self.pipelined += u64::from(sequence.pipelines());
        self.differences += u64::from(outcome.difference.is_some());
        self.coverage.add(&outcome.used);
    }
}

/// The smallest script that shows the same difference.
fn explain(
    run: &Run,
    rig: &mut Rig,
    grammar: &Grammar,
    sequence: &Sequence,
    found: &Difference,
    ways: &Settings,
) -> String {
    let patience = std::mem::replace(&mut rig.patience, Duration::from_secs(2));
    let mut last = found.clone();
    let small = generator::shrink(sequence, |candidate| {
        let Some(difference) = rig.play(grammar, &run.waivers, candidate).difference else { return false };
        let same = difference.kind == found.kind && difference.command == found.command;
        if same {
            last = difference;
        }
        same
    });
    rig.patience = patience;
    let Difference { kind, command, step, direct, broker } = last;
    format!(
        "difference ({kind}) {command} at step {step}, {ways:?}, \
         replay with BROKER_TWIN_ONE=1 BROKER_TEST_SEED={}\n  direct: {direct}\n  broker: {broker}\n{}",
        sequence.seed,
        small.script()
    )
}

fn report(run: &Run) {
    let total = run.total.lock().expect("total");
    let (waivers, needed, idle) = run.waivers.needed();
    let sequences = total.sequences[0] + total.sequences[1];
    let share = 100 * total.pipelined / sequences.max(1);
    if !needed.is_empty() {
        eprintln!("waivers, and how often: {}", needed.join(", "));
    }
    if run.deadline.is_some() && !idle.is_empty() {
        eprintln!("waivers that nothing needed: {}", idle.join(", "));
    }
    let missing = total.coverage.write();
    let summary = format!(
        "twin: {} sequences in RESP2, {} in RESP3, {} commands, {share} % pipelined, {} of {} commands covered, \
         {} differences, {} of {waivers} waivers used, {}, seed {}",
        total.sequences[0],
        total.sequences[1],
        total.commands,
        total.coverage.used(),
        total.coverage.expected(),
        total.differences,
        needed.len(),
        release(),
        run.seed,
    );
    eprintln!("{summary}");
    if let Some(path) = std::env::var_os("BROKER_SUMMARY") {
        std::fs::write(path, format!("{summary}\n")).expect("write the summary");
    }
    assert_eq!(total.differences, 0, "the broker can be told from Redis; see above");
    if sequences > 100 {
        assert!(missing.is_empty(), "never used: {}", missing.join(" "));
        assert!(share >= 30, "only {share} % of the sequences pipeline");
    }
}
