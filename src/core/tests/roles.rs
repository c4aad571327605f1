//! A master that becomes a replica: what is written there no more, what is still answered, and what is served instead.

use super::*;
use crate::base::limits;

/// The server becomes a replica, and the broker has learnt it from a write that was refused.
fn demoted<const CHILDREN: usize>(settings: &[(&str, &str)]) -> (Sim, [usize; CHILDREN]) {
    let (mut sim, children) = Sim::with(settings);
    sim.ask(children[0], "SET k v");
    sim.become_replica();
    let told = sim.ask(children[0], "SET k w");
    assert!(told.starts_with("-READONLY "), "{told}");
    (sim, children)
}

fn switches(sim: &Sim) -> u64 {
    sim.broker.counters().upstream_switches
}

#[test]
fn where_no_other_is_found_reads_go_on_and_writes_are_refused() {
    let (mut sim, [child]) = demoted(&[]);
    assert_eq!(sim.ask(child, "GET a"), "", "another server is looked for");
    sim.pass(limits::DEMOTED_PATIENCE + 500);
    assert_eq!(sim.received(child), "$1 a");
    for _ in 0..3 {
        assert!(sim.ask(child, "SET k w").starts_with("-READONLY "));
        sim.pass(limits::ROLE_RECHECK);
    }
    assert_eq!(switches(&sim), 1, "nothing more can be done about it");
    sim.become_master();
    sim.pass(limits::ROLE_RECHECK);
    assert_eq!(sim.ask(child, "SET k x"), "+OK");
    sim.become_replica();
    assert!(sim.ask(child, "SET k y").starts_with("-READONLY "));
    assert_eq!(switches(&sim), 3, "left when it was a master again, which it must stay");
}

#[test]
fn a_script_that_speaks_like_a_replica_moves_nobody() {
    let (mut sim, [child, watches]) = Sim::with(&[]);
    sim.ask(watches, "WATCH k");
    sim.ask(child, "GET a");
    let link = sim.link(LaneRole::Shared);
    sim.silent.push(link);
    sim.send(child, "EVAL x 0");
    sim.silent.clear();
    sim.answer_next(link, b"-READONLY by a script\r\n");
    sim.pass(2000);
    assert_eq!(sim.received(child), "-READONLY by a script");
    assert_eq!(sim.ask(watches, "MULTI\nGET k\nEXEC"), "+OK +QUEUED *1 $1 k");
    assert_eq!((switches(&sim), sim.links(LaneRole::Shared)), (0, vec![link]));
}

#[test]
fn with_upstream_role_master_a_replica_serves_nothing() {
    let (mut sim, [child]) = demoted(&[("upstream_role", "master"), ("queue_timeout", "1000")]);
    sim.send(child, "GET a");
    sim.pass(2000);
    let told = sim.received(child);
    assert!(told.starts_with("-BROKERDOWN ") && told.contains("the server is a replica"), "{told}");
    sim.become_master();
    sim.pass(1000);
    assert_eq!(sim.ask(child, "SET k w"), "+OK");
}

#[test]
fn a_replica_is_served_where_it_was_asked_for() {
    let (mut sim, [child]) = demoted(&[("upstream_role", "any")]);
    assert_eq!(sim.ask(child, "GET a"), "$1 a");
    assert_eq!(switches(&sim), 0);
}

/// What was written may be answered for a while. Meanwhile everybody else goes on, and nothing is written there.
#[test]
fn a_former_master_may_answer_for_a_while_and_nobody_waits_for_it() {
    let (mut sim, [teller, early, late, other]) =
        Sim::with(&[("failover_grace", "1000"), ("queue_timeout", "5000"), ("lanes", "2")]);
    sim.ask(teller, "SET k v");
    let former = sim.link(LaneRole::Shared);
    sim.silent.push(former);
    sim.send(early, "GET early");
    assert_eq!(sim.ask(late, "GET late"), "$4 late");
    let lanes = sim.links(LaneRole::Shared);
    assert_eq!(lanes.len(), 2);
    sim.silent = lanes.clone();
    sim.send(late, "GET late2");
    sim.become_replica();
    sim.tell_role();
    assert_eq!(switches(&sim), 1);
    sim.become_master();
    sim.pass(100);
    assert_eq!(sim.ask(other, "SET k w"), "+OK", "on another connection");
    sim.send(early, "GET again");
    sim.pass(700);
    assert_eq!(sim.received(early), "", "in order");
    sim.answer_next(lanes[0], b"$5\r\nearly\r\n");
    sim.pass(50);
    assert_eq!(sim.received(early), "$5 early $5 again");
    sim.pass(1000);
    assert!(sim.received(late).starts_with(LOST), "its time is over");
    sim.silent.clear();
    assert_eq!(sim.ask(late, "GET x"), "$1 x");
    assert!(sim.ran("GET again").iter().all(|conn| *conn != 1000 + lanes[0] as i64));
}

#[test]
fn leases_end_with_the_server_they_led_to() {
    let (mut sim, [teller, watches, commits, blocked, pusher]) = Sim::with(&[("queue_timeout", "5000")]);
    sim.ask(teller, "SET k v");
    assert_eq!(sim.ask(watches, "WATCH k"), "+OK");
    assert_eq!(sim.ask(commits, "WATCH k\nMULTI\nGET a"), "+OK +OK +QUEUED");
    sim.send(blocked, "BLPOP x 0");
    sim.become_replica();
    sim.tell_role();
    sim.become_master();
    sim.pass(200);
    assert_eq!(sim.ask(watches, "MULTI\nGET b\nEXEC"), "+OK +QUEUED *-1");
    assert!(sim.ask(commits, "EXEC").starts_with("-EXECABORT "));
    assert_eq!(sim.ask(pusher, "RPUSH x e"), ":1");
    assert_eq!(sim.received(blocked), "*2 $1 x $1 e", "it waits at the new one");
}

/// Redis has ended the wait, or refuses it: what is at hand leads to the same server, until another one is known.
#[test]
fn what_waits_for_an_element_hears_of_no_role() {
    let (mut sim, [blocked, late, pusher]) =
        Sim::with(&[("upstream_role", "master"), ("queue_timeout", "5000")]);
    sim.send(blocked, "BLPOP x 0");
    sim.send(late, "BLPOP y 0");
    assert_eq!(sim.ask(pusher, "RPUSH y e"), ":1");
    assert_eq!(sim.received(late), "*2 $1 y $1 e", "a connection is left idle");
    sim.become_replica();
    sim.send(late, "BLPOP y 0");
    assert_eq!((sim.received(blocked), sim.received(late)), (String::new(), String::new()));
    sim.become_master();
    sim.pass(1000);
    assert_eq!(sim.ask(pusher, "RPUSH x e\nRPUSH y e"), ":1 :1");
    assert_eq!(sim.received(blocked), "*2 $1 x $1 e");
    assert_eq!(sim.received(late), "*2 $1 y $1 e");
}

/// What stands on a leased lane and has not left is never written by it: nobody waits for its answer.
#[test]
fn what_had_not_left_on_a_leased_lane_is_not_waited_for() {
    let (mut sim, [blocked, watches, pusher]) = Sim::with(&[("queue_timeout", "5000")]);
    assert_eq!(sim.ask(pusher, "RPUSH x e\nBLPOP x 0"), ":1 *2 $1 x $1 e");
    assert_eq!(sim.ask(watches, "WATCH k"), "+OK");
    sim.full = true;
    sim.send(blocked, "BLPOP x 0");
    sim.send(watches, "MULTI\nGET a");
    sim.broker.upstream_moved();
    sim.full = false;
    sim.pass(50);
    assert_eq!(sim.ask(pusher, "RPUSH x e2"), ":1");
    assert_eq!(sim.received(blocked), "*2 $1 x $2 e2");
    assert!(sim.ran("CLIENT UNBLOCK 1").is_empty());
    assert_eq!(sim.received(watches), "+OK -BROKERDOWN no upstream connection; the command was not executed");
    assert!(sim.ask(watches, "EXEC").starts_with("-EXECABORT "));
}

/// Its address is a number: it has led to the same server all the time.
#[test]
fn what_was_served_by_the_very_server_that_is_a_master_again_goes_on() {
    let (mut sim, [teller, watches]) = Sim::with(&[]);
    sim.reload("redis://127.0.0.1/0", &[]);
    sim.ask(teller, "SET k v");
    sim.become_replica();
    assert!(sim.ask(teller, "SET k w").starts_with("-READONLY "));
    sim.pass(100);
    assert_eq!(sim.ask(watches, "WATCH k"), "+OK", "on a connection that was greeted by a replica");
    sim.become_master();
    sim.pass(2 * limits::ROLE_RECHECK);
    assert_eq!(sim.ask(watches, "MULTI\nGET k\nEXEC"), "+OK +QUEUED *1 $1 v");
    assert_eq!(switches(&sim), 1);
}
