//! Children that wait for the same on a few lanes, in rare orders of events.

use super::LOST;
use crate::core::connection::role::LaneRole;
use crate::core::sim::Sim;

/// What a lane answers goes to the waiter of its rank, and one write of the command stands for one element.
#[test]
fn lanes_of_a_group_serve_in_the_order_in_which_they_were_asked() {
    let (mut sim, waiting) = Sim::with::<5>(&[("leases_per_group_max", "2")]);
    waiting.iter().for_each(|child| sim.send(*child, "BLPOP q 0"));
    let lanes = sim.links(LaneRole::Lease);
    assert_eq!((lanes.len(), sim.ran("BLPOP q 0").len()), (2, 2));
    // The second lane answers before the first.
    sim.inject(lanes[1], b"*2\r\n$1\r\nq\r\n$1\r\nb\r\n");
    assert_eq!(sim.received(waiting[1]), "*2 $1 q $1 b");
    sim.inject(lanes[0], b"*2\r\n$1\r\nq\r\n$1\r\na\r\n");
    assert_eq!(sim.received(waiting[0]), "*2 $1 q $1 a");
    assert!(waiting[2..].iter().all(|child| sim.received(*child).is_empty()));
}

/// The lane of a waiter that has died answers for one that lives.
#[test]
fn an_element_on_its_way_to_a_dead_waiter_goes_to_the_next() {
    let (mut sim, [a, b, c]) = Sim::with(&[("leases_per_group_max", "2")]);
    sim.send(a, "BLPOP q 0");
    sim.send(b, "BLPOP q 0");
    let lanes = sim.links(LaneRole::Lease);
    sim.frozen = vec![LaneRole::Control];
    sim.kill(a);
    assert_eq!(sim.ask(c, "RPUSH q e"), ":1");
    assert_eq!(sim.received(b), "*2 $1 q $1 e");
    sim.thaw();
    assert_eq!(sim.broker.leases_lent().0, 0);
    assert!(sim.links(LaneRole::Lease).iter().all(|link| lanes.contains(link)), "no other was dialled");
}

/// An error may be about the time before the one came who has the rank now: who has come since the command was written asks
/// anew.
#[test]
fn an_error_from_before_its_time_is_told_to_no_waiter() {
    let (mut sim, [a, b, c]) = Sim::with(&[("leases_per_group_max", "1")]);
    sim.send(a, "BLPOP q 0");
    sim.send(b, "BLPOP q 0");
    sim.kill(a);
    sim.become_replica();
    sim.settle();
    assert_eq!(sim.ran("BLPOP q 0").len(), 2);
    assert_eq!(sim.received(b), "-READONLY You can't write against a read only replica.");
    assert_eq!(sim.ask(c, "GET x"), "$1 x");
}

/// A waiter with a short time beside one that waits for ever: the lane that both share goes on for the other.
#[test]
fn a_null_for_one_leaves_the_others_waiting() {
    let (mut sim, [a, b, c]) = Sim::with(&[("leases_per_group_max", "1")]);
    sim.send(a, "BLPOP q 0");
    sim.send(b, "BLPOP q 0.1");
    sim.pass(99);
    assert_eq!(sim.received(b), "");
    sim.pass(2);
    assert_eq!((sim.received(a).as_str(), sim.received(b).as_str()), ("", "*-1"));
    assert_eq!(sim.ran("CLIENT UNBLOCK").len(), 1);
    sim.ask(c, "RPUSH q e");
    assert_eq!(sim.received(a), "*2 $1 q $1 e");
}

/// A lane is lost with the command on it: one waiter is told, and the others wait on.
#[test]
fn a_lost_lane_costs_one_waiter() {
    let (mut sim, waiting) = Sim::with::<3>(&[("leases_per_group_max", "1")]);
    waiting.iter().for_each(|child| sim.send(*child, "BLPOP q 0"));
    sim.lose_one(LaneRole::Lease);
    assert_eq!(sim.received(waiting[0]), LOST);
    let other = sim.child();
    sim.ask(other, "RPUSH q a b");
    assert_eq!(sim.received(waiting[1]), "*2 $1 q $1 a");
    assert_eq!(sim.received(waiting[2]), "*2 $1 q $1 b");
}

/// Crowds come and go at the same moments: what is asked does not grow with them.
#[test]
fn those_whose_time_is_over_together_are_told_together() {
    let mut sim = Sim::new(&[]);
    let crowd: Vec<usize> = (0..50).map(|_| sim.child()).collect();
    crowd.iter().for_each(|child| sim.send(*child, "BLPOP q 0.1"));
    let patient = sim.child();
    sim.send(patient, "BLPOP q 0");
    sim.pass(200);
    assert!(crowd.iter().all(|child| sim.received(*child) == "*-1"));
    assert_eq!(sim.received(patient), "");
    assert!(sim.ran("CLIENT UNBLOCK").len() < 6, "{:?}", sim.ran("CLIENT UNBLOCK"));
}

/// It is kept until it is whole, since it is nobody's before; what cannot be kept is an error, and never null.
#[test]
fn a_long_element_is_given_whole_or_refused() {
    for (memory_max, is_given) in [("64MiB", true), ("16MiB", false)] {
        let (mut sim, [a, b]) = Sim::with(&[("memory_max", memory_max), ("leases_per_group_max", "1")]);
        sim.send(a, "BLPOP q 0");
        sim.send(b, "BLPOP q 0");
        let element = "e".repeat(9 << 20);
        let frame = format!("*2\r\n$1\r\nq\r\n${}\r\n{element}\r\n", element.len());
        let link = sim.link(LaneRole::Lease);
        for part in frame.as_bytes().chunks(1 << 20) {
            sim.inject(link, part);
        }
        let told = sim.received(a);
        assert_eq!(told.ends_with(&element), is_given, "{}", &told[..60]);
        assert!(is_given || told.starts_with("-BROKERLOST "), "{told}");
        assert_eq!(sim.received(b), "");
    }
}

/// WAIT is about the connection that took the child's element, and that serves others meanwhile: they get another one.
#[test]
fn a_wait_gets_the_lane_that_popped() {
    let (mut sim, [a, b, other]) = Sim::with(&[("leases_per_group_max", "1")]);
    sim.send(a, "BLPOP q 0");
    sim.send(b, "BLPOP q 0");
    sim.ask(other, "RPUSH q e");
    assert_eq!(sim.received(a), "*2 $1 q $1 e");
    let popped = sim.ran("BLPOP q 0")[0];
    assert_eq!(sim.ask(a, "WAIT 0 7"), ":0");
    assert_eq!(sim.ran("WAIT 0 7"), [popped]);
    assert_eq!(
        sim.executed().iter().rfind(|(conn, _)| *conn == popped).map(|(_, text)| &**text),
        Some("WAIT 0 7")
    );
    assert_eq!(sim.received(b), "");
    sim.ask(other, "RPUSH q f");
    assert_eq!(sim.received(b), "*2 $1 q $1 f");
}

/// The control connection cannot be asked: the lane is given up when its own time is over, and its waiter is told then.
#[test]
fn a_lane_that_cannot_be_freed_still_tells_its_waiter() {
    let (mut sim, [a, b, other]) = Sim::with(&[("leases_per_group_max", "1")]);
    sim.send(a, "BLPOP q 0.3");
    sim.send(b, "BLPOP q 0.3");
    sim.ask(other, "RPUSH q e");
    sim.deny("client|unblock");
    sim.send(a, "WAIT 0 7");
    sim.pass(400);
    assert_eq!((sim.received(a).as_str(), sim.received(b).as_str()), ("*2 $1 q $1 e :0", "*-1"));
}
