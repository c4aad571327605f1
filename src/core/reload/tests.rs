//! New settings in rare moments, played through on the simulation.

use crate::base::failure::Failure;
use crate::config::parse_upstream;
use crate::core::connection::role::LaneRole;
use crate::core::sim::{Sim, packed};

const DOWN: &str = "-BROKERDOWN no upstream connection; the command was not executed; last attempt: refused";

#[test]
fn another_upstream_gets_what_the_former_one_has_not() {
    let (mut sim, [a, b]) = Sim::with(&[]);
    assert_eq!(sim.ask(a, "GET first"), "$5 first");
    let before = sim.conns.keys().copied().collect::<Vec<_>>();
    sim.frozen = vec![LaneRole::Shared];
    sim.send(a, "GET old");
    sim.full = true;
    sim.send(a, "GET new");
    sim.send(b, "GET b");
    sim.reload("redis://other/0", &[]);
    sim.full = false;
    assert_eq!(sim.links(LaneRole::Shared).len(), 1, "it waits for the reply it is owed");
    sim.thaw();
    assert_eq!((sim.received(a), sim.received(b)), ("$3 old $3 new".into(), "$1 b".into()));
    let (old, new) = (sim.ran("GET old"), sim.ran("GET new"));
    assert!(old.len() == 1 && new.len() == 1 && old != new, "each once, on different connections");
    assert!(before.iter().all(|link| !sim.conns.contains_key(link)), "a connection is left");
    assert_eq!(sim.ask(a, "SELECT 3\nGET on"), "+OK $2 on");
}

#[test]
fn whoever_waits_for_an_element_waits_at_the_new_upstream() {
    let (mut sim, [a, other]) = Sim::with(&[]);
    sim.send(a, "BLPOP x 0");
    let subscriber = sim.child();
    sim.ask(subscriber, "SUBSCRIBE c");
    let watcher = sim.child();
    assert_eq!(sim.ask(watcher, "WATCH k"), "+OK");
    let before = sim.conns.keys().copied().collect::<Vec<_>>();
    *sim.early_unblocks() = 2;
    sim.reload("redis://other/0", &[]);
    assert!(sim.is_closed(subscriber), "it would hear nothing any more");
    let left: Vec<_> = before.iter().filter(|link| sim.conns.contains_key(link)).collect();
    assert_eq!(left.len(), 1, "only the watched keys' connection may stay");
    assert_eq!(sim.ask(watcher, "MULTI\nGET k\nEXEC"), "+OK +QUEUED *1 $1 k");
    assert!(before.iter().all(|link| !sim.conns.contains_key(link)));
    assert_eq!(sim.received(a), "");
    assert_eq!(sim.ask(other, "RPUSH x e"), ":1");
    assert_eq!(sim.received(a), "*2 $1 x $1 e");
}

#[test]
fn a_former_upstream_that_is_silent_holds_nobody_up() {
    let (mut sim, [a, b]) = Sim::with(&[("lane_stall_timeout", "2s")]);
    assert_eq!(sim.ask(a, "GET first"), "$5 first");
    sim.send(b, "BLPOP x 0");
    sim.silent = sim.conns.keys().copied().collect();
    sim.send(a, "GET lost");
    sim.reload("redis://other/0", &[]);
    sim.pass(1100);
    let c = sim.child();
    assert_eq!(sim.ask(c, "SELECT 3\nGET c"), "+OK $1 c", "the control connection is not waited for");
    sim.pass(3000);
    assert_eq!(sim.received(a), format!("-{}", Failure::LOST));
    assert_eq!(sim.ask(a, "GET a"), "$1 a");
}

/// While the new upstream's commands are not known, EXEC cannot be told from others; it ends MULTI all the same.
#[test]
fn an_exec_that_finds_no_upstream_ends_its_multi() {
    for (transactions, end) in
        [("shared", "EXEC"), ("shared", "DISCARD"), ("leased", "EXEC"), ("leased", "DISCARD")]
    {
        let (mut sim, [child]) = Sim::with(&[("transactions", transactions)]);
        assert_eq!(sim.ask(child, "MULTI") + &sim.ask(child, "SET k v"), "+OK+QUEUED");
        sim.refuses = true;
        sim.reload("redis://other/0", &[]);
        let told = sim.ask(child, end);
        sim.pass(1500);
        let told = told + &sim.received(child);
        let leased = if end == "EXEC" { "*1 +OK" } else { "+OK" };
        assert_eq!(told, if transactions == "shared" { DOWN } else { leased });
        sim.refuses = false;
        sim.pass(1000);
        assert_eq!(sim.ask(child, "GET a"), "$1 a", "{end} of {transactions} transactions");
    }
}

#[test]
fn what_a_transaction_sets_here_is_set_though_the_commands_are_forgotten() {
    let (mut sim, [child]) = Sim::with(&[]);
    assert_eq!(
        (sim.ask(child, "MULTI"), sim.ask(child, "GET a\nEXEC")),
        ("+OK".into(), "+QUEUED *1 $1 a".into())
    );
    sim.frozen = vec![LaneRole::Shared];
    sim.send(child, "MULTI");
    sim.send(child, "CLIENT SETNAME me\nEXEC");
    sim.refuses = true;
    sim.reload("redis://other/0", &[]);
    sim.thaw();
    assert_eq!(sim.received(child), "+OK +QUEUED *1 +OK");
}

#[test]
fn new_children_begin_in_the_new_home_db() {
    let (mut sim, [before]) = Sim::with(&[]);
    sim.ask(before, "GET k");
    sim.reload("redis://sim/3", &[]);
    let after = sim.child();
    let db = |sim: &Sim, child| sim.broker.children.get(sim.key(child)).map(|child| child.session().db);
    assert_eq!((db(&sim, before), db(&sim, after)), (Some(0), Some(3)));
    assert_eq!((sim.ask(before, "GET k"), sim.ask(after, "GET k")), ("$1 k".into(), "$1 k".into()));
}

#[test]
fn fewer_lanes_are_left_once_they_are_empty() {
    let (mut sim, children) = Sim::with::<3>(&[("lanes", "3")]);
    sim.frozen = vec![LaneRole::Shared];
    for child in &children {
        sim.send(*child, &format!("GET {child}"));
    }
    assert_eq!(sim.links(LaneRole::Shared).len(), 3);
    sim.reload("redis://sim/0", &[("lanes", "1")]);
    for child in &children {
        sim.send(*child, &format!("GET {child}{child}"));
    }
    assert_eq!(sim.links(LaneRole::Shared).len(), 3, "each is owed a reply");
    sim.thaw();
    for child in &children {
        assert_eq!(sim.received(*child), format!("$1 {child} $2 {child}{child}"), "in order");
    }
    sim.pass(1000);
    assert_eq!(sim.links(LaneRole::Shared).len(), 1);
    let lanes = sim.broker.shared.connections.lanes();
    assert_eq!(lanes.filter(|(_, lane)| lane.role() == LaneRole::Shared).count(), 1);
    sim.reload("redis://sim/0", &[("lanes", "2")]);
    sim.frozen = vec![LaneRole::Shared];
    sim.send(children[0], "GET a");
    sim.send(children[1], "GET b");
    assert_eq!(sim.links(LaneRole::Shared).len(), 2, "more are made on demand");
}

/// What is idle goes, what is busy finishes, and nobody else has to wait for it.
#[test]
fn fewer_connections_are_left_once_they_are_free() {
    let (mut sim, crowd) = Sim::with::<20>(&[("upstream_connections_max", "40")]);
    for child in &crowd {
        sim.send(*child, &format!("BLPOP x{child} 0"));
    }
    let other = sim.child();
    for db in 0..5 {
        assert_eq!(sim.ask(other, &format!("SELECT {db}\nGET k")), "+OK $1 k");
    }
    assert!(sim.conns.len() >= 26);
    sim.over_max = true;
    sim.reload("redis://sim/0", &[("upstream_connections_max", "8")]);
    let late = sim.child();
    sim.send(late, "BLPOP x 0");
    assert_eq!(sim.links(LaneRole::Lease).len(), 20, "nothing new, and the old ones finish");
    sim.lose_one(LaneRole::Shared);
    assert_eq!(sim.ask(other, "SELECT 1\nGET k\nSELECT 0\nGET k"), "+OK $1 k +OK $1 k");
    for child in &crowd {
        sim.ask(other, &format!("RPUSH x{child} e"));
        let list = format!("x{child}");
        assert_eq!(sim.received(*child), format!("*2 ${} {list} $1 e", list.len()));
    }
    sim.pass(100);
    sim.over_max = false;
    sim.settle();
    assert!(sim.conns.len() <= 8);
    assert_eq!(sim.ask(other, "RPUSH x e"), ":1");
    assert_eq!(sim.received(late), "*2 $1 x $1 e");
}

#[test]
fn waits_follow_the_new_timeouts() {
    let waits = [("queue_timeout", "1h"), ("lease_wait_timeout", "1h"), ("leases_session_max", "0")];
    let settings = [&waits[..], &[("pubsub", "leased"), ("child_in_flight_max", "2")]].concat();
    let (mut sim, [a, b, c]) = Sim::with(&settings);
    sim.send(a, "SUBSCRIBE c");
    sim.frozen = vec![LaneRole::Shared];
    sim.send(c, "GET 1\nGET 2\nGET 3\nGET 4");
    let timeouts = [("queue_timeout", "50"), ("lease_wait_timeout", "50")];
    let changes = [("pubsub", "leased"), ("child_in_flight_max", "3"), timeouts[0], timeouts[1]];
    sim.reload("redis://sim/0", &changes);
    let lane = sim.conns[&sim.link(LaneRole::Shared)].lane;
    assert_eq!(sim.broker.shared.connections.find(lane).map(|lane| lane.depth()), Some(3));
    sim.pass(60);
    assert!(sim.received(a).starts_with("-BROKERLIMIT no leased connection within 50 ms"));
    sim.frozen.clear();
    sim.refuses = true;
    sim.lose_one(LaneRole::Control);
    sim.reload("redis://sim/0", &[("queue_timeout", "1h")]);
    sim.send(b, "HELLO");
    sim.pass(1000);
    assert_eq!(sim.received(b), "");
    sim.reload("redis://sim/0", &[("queue_timeout", "1s")]);
    sim.pass(50);
    assert_eq!(sim.received(b), DOWN);
}

/// A driver that has not yet begun to dial must not be told to close what it has not opened.
#[test]
fn a_connection_given_up_before_it_was_dialled_costs_nothing() {
    let (mut sim, [child]) = Sim::with(&[]);
    sim.broker.child_input(sim.key(child), &packed("GET k"));
    let settings = sim.broker.settings().clone();
    let other = parse_upstream("redis://other/0").expect("a URL");
    (0..2).for_each(|_| sim.broker.reload(settings.clone(), other.clone()));
    sim.settle();
    assert_eq!(sim.received(child), "$1 k");
    assert_eq!(sim.conns.len(), 2);
}
