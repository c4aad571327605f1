//! The soak: child processes whose every request carries a nonce, a proxy that makes faults between broker and
//! Redis, a Redis that is killed and paused, children that are killed, stopped, stall and lose patience. A reply
//! that is not its request's fails the run at once. Beside it: writes answered well are there exactly once,
//! nothing of a dead child stays upstream, the broker keeps within its caps.
//!
//! `BROKER_TEST_SECONDS` sets the length, `BROKER_SOAK_TARGET` the replies to be checked (and a ten-thousandth
//! of it the faults of each kind and the killed children); a run ends when both are reached.
//! `BROKER_TEST_SEED` replays the choices of the run and of every worker.

#[path = "soak/asking.rs"]
mod asking;
#[path = "soak/checks.rs"]
mod checks;
#[path = "soak/faults.rs"]
mod faults;
#[path = "generator/mod.rs"]
mod generator;
#[path = "soak/link.rs"]
mod link;
#[path = "soak/messages.rs"]
mod messages;
#[path = "soak/proofs.rs"]
mod proofs;
#[path = "soak/report.rs"]
mod report;
#[path = "soak/round.rs"]
mod round;
#[path = "soak/steps.rs"]
mod steps;
mod support;
#[path = "soak/totals.rs"]
mod totals;
#[path = "soak/wire.rs"]
mod wire;
#[path = "soak/worker.rs"]
mod worker;

use std::time::{Duration, Instant};

use round::{Mode, Round, WORKER};
use support::run::variable;
use support::seeded;
use totals::Totals;
use worker::Orders;

/// The longest one turn of all modes takes: each round ends with the checks, and the next has other settings.
const TURN_MAX: Duration = Duration::from_secs(45);
/// A round takes so long at least.
const ROUND_MIN: Duration = Duration::from_millis(1500);

#[test]
#[ignore = "what the children of a run do"]
fn worker() {
    let orders = std::env::var(WORKER).ok().and_then(|text| Orders::from_text(&text));
    worker::run(orders.expect("what a run has given it to do"));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn soak() {
    let mut rng = seeded();
    let least = Duration::from_secs(variable("BROKER_TEST_SECONDS").unwrap_or(10));
    let mut totals = Totals::new(variable("BROKER_SOAK_TARGET").unwrap_or(0), &rng);
    let sabotage = cfg!(feature = "sabotage") && std::env::var_os("BROKER_SOAK_SABOTAGE").is_some();
    let modes = modes(sabotage);
    let start = Instant::now();
    let mut first_worker = 1;
    for index in 0.. {
        let (mode, share) = modes[index % modes.len()];
        // One turn of all modes fits into a short run; a long one has many turns.
        let time = least.min(TURN_MAX).mul_f64(share).max(ROUND_MIN);
        let round = Round { mode, time, seed: rng.u64(..), first_worker, sabotage };
        let outcome = round::run(&round);
        first_worker = outcome.next_worker;
        totals.add(mode, &outcome);
        let done = index + 1 >= modes.len() && start.elapsed() >= least && totals.reached();
        if totals.failed() || done {
            break;
        }
    }
    totals.say(start.elapsed());
    assert!(!totals.failed(), "the soak has failed:\n{}", totals.why());
}

/// The modes in turn, each with its share of the time.
fn modes(sabotage: bool) -> Vec<(Mode, f64)> {
    match sabotage {
        true => vec![(Mode::Plain, 1.0)],
        false => vec![(Mode::Plain, 0.4), (Mode::Always, 0.4), (Mode::Sampled, 0.1), (Mode::Off, 0.1)],
    }
}

/// The checks can fail: with replies swapped on purpose, the run ends with the first of them.
#[cfg(feature = "sabotage")]
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_swapped_reply_fails_the_run() {
    let soak = |seconds: &str| {
        let output = std::process::Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "soak", "--nocapture"])
            .env("BROKER_SOAK_SABOTAGE", "1")
            .env("BROKER_TEST_SECONDS", seconds)
            .env_remove("BROKER_SOAK_TARGET")
            .output()
            .expect("run the soak");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), text)
    };
    // On a machine that is busy, few replies come between the faults, and perhaps none of those that are swapped.
    let mut runs = ["10", "20", "40", "80"].into_iter().map(soak);
    let failed = runs.find(|(succeeded, _)| !succeeded);
    let (_, text) = failed.expect("a run that fails");
    let crossed = text.lines().find(|line| line.starts_with("soak: ")).and_then(|line| {
        line.split(", ").find_map(|field| field.strip_prefix("crossed ")?.parse::<u64>().ok())
    });
    assert!(crossed.is_some_and(|crossed| crossed > 0), "the last line counts them:\n{text}");
    for wanted in ["CROSSED: worker ", "\n  request ", "\n  reply   ", "the soak has failed"] {
        assert!(text.contains(wanted), "{wanted:?} is missing:\n{text}");
    }
}
