//! Children that read from replicas: what goes there and what does not, and in which order.

use super::*;
use crate::base::limits;

/// A child that reads from a replica, with the connection of its reads and that of all else.
fn reader() -> (Sim, usize, [i64; 2]) {
    let mut sim = Sim::new(&[]);
    sim.read_from_replicas(2);
    let child = sim.child();
    assert_eq!(sim.ask(child, "GET a\nPING"), "$1 a +PONG");
    let conns = [sim.ran("GET a")[0], sim.ran("PING").last().copied().expect("it was run")];
    assert_ne!(conns[0], conns[1]);
    (sim, child, conns)
}

fn link_of(sim: &Sim, conn: i64) -> usize {
    let links = sim.links(LaneRole::Shared);
    links.into_iter().find(|link| *link as i64 + 1000 == conn).expect("a connection of children")
}

#[test]
fn what_a_child_has_written_it_reads_from_the_master() {
    let (mut sim, child, [replica, master]) = reader();
    assert_eq!(sim.ask(child, "SET k v"), "+OK");
    sim.pass(limits::OWN_WRITES - 1);
    sim.ask(child, "GET b");
    sim.pass(1);
    sim.ask(child, "GET c");
    sim.ask(child, "EVAL x 0\nGET d");
    sim.pass(limits::OWN_WRITES);
    assert_eq!(sim.ask(child, "MULTI\nGET e\nEXEC\nGET f"), "+OK +QUEUED *1 $1 e $1 f");
    let on = |what: &str| sim.ran(what)[0];
    assert_eq!((on("GET b"), on("GET c"), on("GET d")), (master, replica, master));
    assert_ne!(on("GET e"), replica);
}

/// A write waits for the replies to what was read before it, and a read behind a write goes where that went.
#[test]
fn requests_of_one_child_do_not_overtake_each_other() {
    let (mut sim, child, [replica, master]) = reader();
    let link = link_of(&sim, replica);
    sim.silent.push(link);
    sim.send(child, "GET b\nSET k v\nGET c\nGET d");
    sim.pass(50);
    assert!(sim.ran("SET k v").is_empty());
    sim.silent.clear();
    sim.settle();
    assert_eq!(sim.received(child), "$1 b +OK $1 c $1 d");
    assert_eq!([sim.ran("SET k v"), sim.ran("GET c"), sim.ran("GET d")], [[master], [master], [master]]);
}

#[test]
fn another_replica_or_the_master_answers_for_one_that_cannot() {
    let (mut sim, child, [replica, _]) = reader();
    let lead_to = |sim: &Sim| -> Vec<u8> {
        let lanes = sim.broker.shared.connections.lanes();
        let ready = lanes.filter(|(_, lane)| lane.is_shared() && lane.is_ready());
        let mut led: Vec<u8> = ready.map(|(_, lane)| lane.leads_to()).collect();
        led.sort_unstable();
        led
    };
    assert_eq!(lead_to(&sim), [0, 1]);
    let link = link_of(&sim, replica);
    sim.silent.push(link);
    sim.send(child, "GET b");
    sim.silent.clear();
    sim.answer_next(link, b"-MASTERDOWN Link with MASTER is down\r\n");
    assert!(sim.received(child).starts_with("-MASTERDOWN"), "it was this one's answer");
    assert_eq!(sim.ask(child, "GET c"), "$1 c");
    assert_eq!(lead_to(&sim), [0, 2]);
    // It goes back once the sentinels have been asked again and its rest is over.
    sim.pass(limits::REPLICA_REST);
    sim.read_from_replicas(2);
    assert_eq!(sim.ask(child, "GET d"), "$1 d");
    assert_eq!(lead_to(&sim), [0, 1]);
    // No replica is left: what has not left is answered by the master.
    sim.read_from_replicas(0);
    assert_eq!(sim.ask(child, "GET e"), "$1 e");
    assert_eq!(lead_to(&sim), [0, 0]);
    assert_eq!((sim.broker.counters().requests_lost, sim.broker.counters().upstream_switches), (0, 0));
}
