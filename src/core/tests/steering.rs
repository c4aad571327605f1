//! Pauses and moves in situations that are rare.

use super::super::sim::Sim;
use crate::base::key::Key;
use crate::config::{Upstream, parse_upstream};
use crate::core::connection::role::LaneRole;

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

fn other() -> Upstream {
    parse_upstream("redis://other").expect("a URL")
}

/// Of a server that is only being tried nobody is told anything, however much is known of it.
#[test]
fn nobody_is_answered_by_what_a_server_that_is_tried_says_of_itself() {
    let (mut sim, [child]) = Sim::with(&[]);
    assert_eq!(sim.ask(child, "GET a"), "$1 a");
    sim.broker.begin_move(other()).expect("it may begin");
    let known = sim.go_on_until(|broker| {
        broker.shared.moving.is_elsewhere() && broker.shared.commands.table().is_some()
    });
    assert!(known, "its commands are known before its verdict");
    let control = sim.link(LaneRole::Control);
    sim.silent.push(control);
    assert_eq!(sim.ask(child, "SET k"), "", "not even that something is missing");
    sim.thaw();
    sim.pass(5_000);
    assert!(sim.received(child).starts_with("-ERR wrong number of arguments"));
}

#[test]
fn the_control_connection_alone_leads_to_a_server_that_is_tried() {
    let (mut sim, [child]) = Sim::with(&[("connect_timeout", "1000"), ("queue_timeout", "60000")]);
    assert_eq!(sim.ask(child, "GET a"), "$1 a");
    sim.refuses = true;
    sim.lose_one(LaneRole::Shared);
    assert_eq!(sim.ask(child, "GET a"), "", "it stands on a lane that is not connected");
    sim.refuses = false;
    sim.frozen = vec![LaneRole::Control];
    sim.broker.begin_move(other()).expect("it may begin");
    sim.pass(500);
    assert!(sim.broker.shared.moving.is_elsewhere());
    assert_eq!((sim.links(LaneRole::Control).len(), sim.links(LaneRole::Shared).len()), (1, 0));
    sim.frozen.clear();
    sim.pass(5_000);
    assert_eq!(sim.received(child), "$1 a");
}
