//! Whether the upstream serves, as whoever asks is told.

use super::*;
use crate::base::limits::{READY_FRESH, READY_PATIENCE};
use crate::core::Readiness;

fn ask(sim: &mut Sim) -> Readiness {
    let now = sim.now;
    sim.broker.readiness(now)
}

/// Asks, and again once the upstream has had a moment to answer.
fn ask_and_wait(sim: &mut Sim) -> Readiness {
    let since = sim.now;
    ask(sim);
    sim.settle();
    sim.broker.readiness(since)
}

fn not_ready(why: &str) -> Readiness {
    Readiness::NotReady(why.to_owned())
}

/// Questions ever asked on the control connection.
fn asked(sim: &Sim) -> u64 {
    sim.broker.shared.control.asked()
}

#[test]
fn the_upstream_is_asked_once_for_all_who_ask_and_not_for_others() {
    let (mut sim, [child]) = Sim::with(&[]);
    assert_eq!(sim.ask(child, "GET a"), "$1 a");
    let before = asked(&sim);
    sim.pass(10_000);
    assert_eq!(asked(&sim), before, "nobody has asked");
    let until = sim.now + READY_PATIENCE;
    for _ in 0..5 {
        assert_eq!(ask(&mut sim), Readiness::Asked { until });
    }
    sim.settle();
    assert_eq!((ask(&mut sim), asked(&sim)), (Readiness::Ready, before + 1));
    sim.pass(READY_FRESH);
    assert_eq!((ask(&mut sim), asked(&sim)), (Readiness::Ready, before + 1), "still fresh");
    sim.pass(1);
    assert_eq!(
        ask(&mut sim),
        Readiness::Asked { until: sim.now + READY_PATIENCE },
        "what it said is too old"
    );
    assert_eq!(asked(&sim), before + 2);
}

#[test]
fn an_upstream_that_hangs_is_not_ready_from_then_on() {
    let (mut sim, [_child]) = Sim::with(&[]);
    assert_eq!(ask_and_wait(&mut sim), Readiness::Ready);
    sim.frozen = vec![LaneRole::Control];
    sim.pass(READY_FRESH + 1);
    let since = sim.now;
    assert_eq!(ask_and_wait(&mut sim), Readiness::Asked { until: since + READY_PATIENCE });
    sim.pass(READY_PATIENCE - 1);
    assert_eq!(sim.broker.readiness(since), Readiness::Asked { until: since + READY_PATIENCE });
    sim.pass(1);
    for _ in 0..3 {
        assert_eq!(sim.broker.readiness(since), not_ready("the upstream does not answer"));
        assert_eq!(ask(&mut sim), not_ready("the upstream does not answer"), "known at once");
        sim.pass(100);
    }
    sim.frozen.clear();
    sim.settle();
    assert_eq!(ask(&mut sim), Readiness::Ready);
}

/// What was said on a connection that is lost says nothing of what is there now.
#[test]
fn a_lost_connection_is_no_readiness() {
    let (mut sim, [child]) = Sim::with(&[]);
    assert_eq!(ask_and_wait(&mut sim), Readiness::Ready);
    sim.refuses = true;
    sim.lose_one(LaneRole::Control);
    assert_eq!(ask(&mut sim), not_ready("no connection to the upstream"));
    sim.refuses = false;
    sim.pass(1_000);
    assert_eq!(ask_and_wait(&mut sim), Readiness::Ready);
    assert_eq!(sim.ask(child, "GET a"), "$1 a");
}

#[test]
fn a_busy_upstream_says_why_it_is_not_ready() {
    let (mut sim, [script, child]) = Sim::with(&[]);
    assert_eq!(sim.ask(child, "GET a"), "$1 a");
    sim.send(script, "EVAL loop 0 x");
    sim.pass(READY_FRESH + 1);
    let Readiness::NotReady(why) = ask_and_wait(&mut sim) else { panic!("ready") };
    assert!(why.starts_with("the upstream says: BUSY "), "{why}");
    assert_eq!(sim.ask(child, "SCRIPT KILL"), "+OK");
    sim.pass(READY_FRESH + 1);
    assert_eq!(ask_and_wait(&mut sim), Readiness::Ready);
}

#[test]
fn a_broker_that_drains_is_not_ready() {
    let (mut sim, [child]) = Sim::with(&[]);
    assert_eq!(ask_and_wait(&mut sim), Readiness::Ready);
    sim.send(child, "BLPOP x 0");
    sim.broker.drain(None);
    assert_eq!(ask(&mut sim), not_ready("the broker drains"));
}
