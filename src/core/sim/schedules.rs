//! Schedules one after the other, for a while: the tests that play them, and the line that says what was done.

use super::player::{Played, play, play_moving};
use super::run::variable;
use crate::base::clock::Clock;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Schedules of a default run.
const DEFAULT: u64 = 300;

const PROMISES_KEPT: [u64; 11] =
    [244_970_514_359, 20171, 103_423, 201_174, 201_808, 208_361, 217_398, 309_862, 329_188, 338_420, 345_461];

/// `BROKER_TEST_SEED=n` plays that one schedule, or begins with it where `BROKER_TEST_SECONDS=n` says for how
/// long; `BROKER_SIM_SCHEDULES=n` says how many.
#[test]
fn random_schedules_keep_the_invariants() {
    play_many(play);
}

/// The same where children go to another process at any moment.
#[test]
fn children_that_move_keep_the_invariants() {
    play_many(play_moving);
}

fn play_many(play: fn(u64) -> Played) {
    let clock = Clock::new();
    let (seed, seconds) = (variable("BROKER_TEST_SEED"), variable("BROKER_TEST_SECONDS"));
    let first = seed.unwrap_or_else(|| if seconds.is_some() { fastrand::u64(..1 << 40) } else { 0 });
    let most = match (seconds, seed) {
        (Some(_), _) => u64::MAX,
        (None, Some(_)) => 1,
        (None, None) => variable("BROKER_SIM_SCHEDULES").unwrap_or(DEFAULT),
    };
    let mut total = Played::default();
    let mut schedules = 0;
    while schedules < most && seconds.is_none_or(|seconds| clock.now() < seconds * 1000) {
        let seed = first.wrapping_add(schedules);
        match catch_unwind(AssertUnwindSafe(|| play(seed))) {
            Ok(played) => add(&mut total, played),
            Err(panic) => {
                eprintln!("schedule {schedules}: replay with BROKER_TEST_SEED={seed}");
                resume_unwind(panic);
            }
        }
        schedules += 1;
    }
    let faults = total.faults.iter().map(|(fault, count)| format!("{fault} {count}"));
    report(format!(
        "sim: {schedules} schedules from seed {first} in {} ms, {} steps, {} commands, faults: {}; violations 0",
        clock.now(),
        total.steps,
        total.commands,
        faults.collect::<Vec<_>>().join(", ")
    ));
}

/// Each met a bug once. Model and settings change, and with them what a seed plays: for each a mutant of tests/mutants
/// puts the bug back, so that `make mutants` tells when one has become an idle run.
#[test]
fn schedules_that_once_broke_something() {
    // A subscriber that was sent away while it stood in a line, and was lent a lane after its end.
    play(15507);
    // A SUBSCRIBE that ended in BROKERDOWN, whose channel the next request then subscribed to.
    play(1383);
    // A lease that was left to its child when its request had been answered without it: the next pop ran at once.
    play(47_427);
    // Pushes that a request let go which is answered late: they were written with its reply.
    play(262_891_590_896);
    // Slots that had been told of a timeout, counted on when their connection had been given up.
    play(1_104_326);
    // A pop that had been taken back, whose null came when its time was over and its list filled.
    play(43582);
    // A MULTI that was answered in part when its server was left: its rest went on on the next connection.
    play(793_677_534_205);
    // A SELECT of a greeting that was answered BUSY: children were told, as of a right that they lack.
    play(921_158_144_466);
    // An EXEC that went nowhere, behind which the leased lane still watched.
    play(4969);
}

/// Each was once taken for a failure, by a check that asked for more than is promised.
#[test]
fn schedules_that_keep_what_is_promised() {
    for seed in PROMISES_KEPT {
        play(seed);
    }
}

fn add(total: &mut Played, played: Played) {
    total.steps += played.steps;
    total.commands += played.commands;
    for (fault, count) in played.faults {
        *total.faults.entry(fault).or_default() += count;
    }
}

/// Says what was done, and writes it where the run is told to.
pub(super) fn report(line: String) {
    eprintln!("{line}");
    if let Ok(path) = std::env::var("BROKER_SUMMARY") {
        std::fs::write(path, line + "\n").expect("the summary can be written");
    }
}
