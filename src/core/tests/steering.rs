//! Pauses and moves in situations that are rare.

use super::super::sim::Sim;
use crate::base::key::Key;

#[test]
fn a_pause_waits_for_a_multi_on_the_lane_of_a_session() {
    let (mut sim, [child]) = Sim::with(&[]);
    sim.ask(child, "HELLO 3\nCLIENT TRACKING ON");
    assert_eq!(sim.ask(child, "MULTI\nINCR k"), "+OK +QUEUED");
    sim.broker.shared.ask_for_pause(Key::NONE, Some(60_000));
    sim.pass(50);
    assert!(!sim.broker.shared.pause.is_at_rest());
    assert_eq!(sim.ask(child, "EXEC"), "*1 :1");
    sim.pass(50);
    assert!(sim.broker.shared.pause.is_at_rest());
    assert_eq!(sim.ask(child, "INCR k"), "", "the next one waits");
}
