//! What one child may have done before the others are heard again.

use super::super::sim::{Sim, packed};
use crate::base::limits;

/// How many turns of the driver it takes until the broker has nothing left to run. Another child's question that comes
/// after the second is answered before the third.
fn turns_taken(sim: &mut Sim, other: usize) -> usize {
    // What is due is no work of the child's.
    sim.broker.advance(sim.now);
    for turn in 1.. {
        assert!(turn < 10_000, "it never ends");
        sim.broker.begin_turn();
        while sim.broker.run() {}
        if sim.broker.timeout() != Some(0) {
            sim.settle();
            return turn;
        }
        if turn == 2 {
            let key = sim.key(other);
            sim.broker.child_input(key, &packed("ECHO other"));
            let output = sim.broker.child_output(key).map(|(_, output)| output.as_slice().to_vec());
            assert_eq!(output.as_deref(), Some(&b"$5\r\nother\r\n"[..]));
        }
    }
    unreachable!()
}

#[test]
fn frames_without_a_request_are_cut_into_turns() {
    for frame in ["\n", "*0\r\n", "*-1\r\n"] {
        let mut sim = Sim::new(&[]);
        let (child, other) = (sim.child(), sim.child());
        let key = sim.key(child);
        let bytes = frame.repeat(30_000).into_bytes();
        sim.broker.child_input(key, &[bytes, packed("ECHO end")].concat());
        let least = 30_000 * limits::REQUEST_COST_MIN / limits::RUN_TURN;
        assert!(turns_taken(&mut sim, other) >= least as usize, "{frame:?}");
        assert_eq!(sim.received(child), "$3 end");
    }
}

/// Nothing is ever unread, nothing in flight: nothing but the turn holds such a child back.
#[test]
fn requests_without_a_reply_are_cut_into_turns() {
    let mut sim = Sim::new(&[]);
    let (child, other) = (sim.child(), sim.child());
    let key = sim.key(child);
    let bytes = ["CLIENT REPLY OFF\n", &"ECHO x\n".repeat(30_000), "CLIENT REPLY ON"].concat();
    sim.broker.child_input(key, &packed(&bytes));
    assert!(turns_taken(&mut sim, other) > 10);
    assert_eq!(sim.received(child), "+OK");
}

/// One request that names many children, or none, and takes as long as many.
#[test]
fn a_long_list_is_cut_into_turns() {
    let mut sim = Sim::new(&[]);
    let (child, other) = (sim.child(), sim.child());
    let id = sim.ask(child, "CLIENT ID")[1..].to_owned();
    let line = sim.ask(child, &format!("CLIENT LIST ID {id}"));
    assert!(line.contains(&format!("id={id} ")), "{line}");
    let key = sim.key(child);
    sim.broker.child_input(key, &packed(&format!("CLIENT LIST ID{}", " 1".repeat(100_000))));
    assert!(turns_taken(&mut sim, other) > 2);
    assert_eq!(sim.received(child), "$0");
    sim.broker.child_input(key, &packed(&format!("CLIENT LIST ID{}", format!(" {id}").repeat(20_000))));
    assert!(turns_taken(&mut sim, other) > 4);
    assert_eq!(sim.received(child).matches(&format!("id={id} ")).count(), 20_000);
    // An id that is none is an error all the same, and what was made is forgotten.
    sim.broker.child_input(key, &packed(&format!("CLIENT LIST ID{} x", format!(" {id}").repeat(20_000))));
    turns_taken(&mut sim, other);
    assert_eq!(sim.received(child), "-ERR Invalid client ID");
    assert_eq!(sim.ask(child, &format!("CLIENT LIST ID {id}")).matches("id=").count(), 1);
}

/// Who comes or goes while the list is made does not disturb it.
#[test]
fn a_list_of_all_is_cut_into_turns() {
    let mut sim = Sim::new(&[("children_max", "20000")]);
    let children: Vec<usize> = (0..10_000).map(|_| sim.child()).collect();
    let (child, other) = (children[0], children[1]);
    let last = sim.key(children[9_999]);
    sim.broker.child_input(sim.key(child), &packed("CLIENT LIST"));
    sim.broker.begin_turn();
    while sim.broker.run() {}
    sim.broker.child_gone(last);
    assert!(turns_taken(&mut sim, other) > 1);
    let list = sim.received(child);
    assert_eq!(list.matches("id=").count() - list.matches("mid=").count(), 9_999);
}

#[test]
fn a_reply_made_here_has_its_bound_before_it_is_made() {
    let mut sim = Sim::new(&[("child_output_max", "64KiB")]);
    let child = sim.child();
    let id = sim.ask(child, "CLIENT ID")[1..].to_owned();
    let many = format!("CLIENT LIST ID{}", format!(" {id}").repeat(1_000));
    assert_eq!(sim.ask(child, &many), "-BROKERLIMIT child_output_max is 65536 bytes, and the reply longer");
    assert_eq!(sim.ask(child, "GET a"), "$1 a");
}
