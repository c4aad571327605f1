//! An upstream that sends connections away for good, and one whose user lacks what the broker would ask.

use crate::base::limits;
use crate::core::connection::role::LaneRole;
use crate::core::sim::Sim;

fn dials(sim: &Sim) -> u64 {
    sim.broker.counters().upstream_connects
}

/// A broker with lanes of several kinds, all of them lost, and none of them let in again.
fn locked_out() -> (Sim, [usize; 3]) {
    let (mut sim, children) = Sim::with(&[]);
    assert_eq!(sim.ask(children[0], "GET x"), "$1 x");
    assert_eq!(sim.ask(children[1], "HELLO 3\nGET y").split(' ').next_back(), Some("y"));
    assert_eq!(sim.ask(children[2], "WATCH k"), "+OK");
    sim.change_password();
    for role in [LaneRole::Control, LaneRole::Shared, LaneRole::Shared, LaneRole::Lease] {
        sim.lose_one(role);
    }
    (sim, children)
}

#[test]
fn one_connection_tries_for_all_and_less_and_less_often() {
    let (mut sim, children) = locked_out();
    for _ in 0..20 {
        for child in children {
            sim.send(child, "GET x");
        }
        sim.pass(500);
    }
    let told = sim.received(children[0]);
    assert!(told.ends_with("; last attempt: HELLO was answered with: NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time"), "{told}");
    let before = dials(&sim);
    for _ in 0..40 {
        for child in children {
            sim.send(child, "GET x\nWATCH k");
        }
        sim.pass(500);
    }
    let tries = dials(&sim) - before;
    assert!((4..=8).contains(&tries), "{tries} in 20 s");
    sim.clear_up();
    sim.pass(limits::BAR_PAUSE_MAX);
    for child in children {
        sim.received(child);
        let told = sim.ask(child, "GET x");
        assert!(told.ends_with("$1 x"), "{told}");
    }
}

/// The control connection stands, so it is another lane that tries.
#[test]
fn too_many_clients_are_no_reason_to_hurry() {
    let (mut sim, [known, other, third]) = Sim::with(&[("lease_wait_timeout", "2s")]);
    assert_eq!(sim.ask(known, "GET x"), "$1 x");
    sim.take_no_more();
    let before = dials(&sim);
    for round in 0..30 {
        sim.send(other, &format!("BLPOP q{round} 0"));
        sim.send(third, "SELECT 1\nGET x");
        assert_eq!(sim.ask(known, "GET x"), "$1 x");
        sim.pass(1000);
    }
    let tries = dials(&sim) - before;
    assert!((10..=30).contains(&tries), "{tries} in 30 s");
    assert!(sim.received(other).contains("BROKERLIMIT"));
    let told = sim.received(third);
    assert!(
        told.contains("last attempt: HELLO was answered with: ERR max number of clients reached"),
        "{told}"
    );
    sim.clear_up();
    sim.pass(limits::BAR_PAUSE_MAX + 100);
    sim.received(third);
    assert_eq!(sim.ask(third, "GET x"), "$1 x");
}

/// A db that the broker's user may not select, as one of a child's choice may be gone after a failover.
#[test]
fn what_one_child_has_chosen_bars_nobody_else() {
    let (mut sim, [odd, other]) = Sim::with(&[("queue_timeout", "1s")]);
    assert_eq!(sim.ask(odd, "SELECT 1\nGET x"), "+OK $1 x");
    sim.deny("select");
    sim.links(LaneRole::Shared).into_iter().for_each(|link| sim.lose(link));
    let before = dials(&sim);
    for _ in 0..100 {
        sim.send(odd, "GET x");
        assert_eq!(sim.ask(other, "WATCH k\nUNWATCH"), "+OK +OK");
        sim.pass(100);
        assert!(!sim.broker.shared.connections.is_barred());
    }
    let told = sim.received(odd);
    assert!(told.contains("-NOPERM") && !told.contains("BROKER"), "{told}");
    let tries = dials(&sim) - before;
    assert!(tries <= 40, "{tries} for 100 requests in 10 s");
    sim.pass(5000);
    sim.received(odd);
    let told = sim.ask(odd, "WATCH x");
    assert!(told.starts_with("-NOPERM"), "{told}");
}

/// An EXEC that is refused ends its transaction, and says so.
#[test]
fn a_transaction_on_a_db_that_is_refused_is_discarded() {
    let (mut sim, [child]) = Sim::with(&[("queue_timeout", "1s")]);
    assert_eq!(sim.ask(child, "SELECT 1\nMULTI"), "+OK +OK");
    sim.deny("select");
    assert_eq!(sim.ask(child, "GET x"), "+QUEUED");
    let told = sim.ask(child, "EXEC");
    assert!(told.starts_with("-EXECABORT Transaction discarded because of: NOPERM "), "{told}");
    assert!(sim.ask(child, "EXEC").starts_with("-ERR EXEC without MULTI"));
}

#[test]
fn another_upstream_is_tried_at_once() {
    let (mut sim, children) = locked_out();
    sim.pass(20_000);
    sim.received(children[0]);
    sim.clear_up();
    sim.reload("redis://other/0", &[]);
    assert_eq!(sim.ask(children[0], "GET x"), "$1 x");
}

/// The rights of another upstream's user are not those of the one before.
#[test]
fn another_upstream_is_not_refused_for_the_rights_of_the_former() {
    let (mut sim, [child]) = lacking(&["ping", "echo"], &[("integrity", "off")]);
    assert_eq!(sim.ask(child, "GET x"), "$1 x");
    sim.clear_up();
    sim.reload("redis://other/0", &[("integrity", "always")]);
    assert_eq!(sim.ask(child, "GET y"), "$1 y");
}

/// The user has lost all these rights, and the broker its control connection.
fn lacking<const CHILDREN: usize>(
    rights: &[&'static str],
    settings: &[(&str, &str)],
) -> (Sim, [usize; CHILDREN]) {
    let mut sim = Sim::new(settings);
    rights.iter().for_each(|right| sim.deny(right));
    sim.lose_one(LaneRole::Control);
    sim.pass(100);
    let children = std::array::from_fn(|_| sim.child());
    (sim, children)
}

#[test]
fn without_command_a_table_is_built_in() {
    let (mut sim, [child]) = lacking(&["command"], &[]);
    sim.reload("redis://other/0", &[]);
    sim.pass(100);
    assert_eq!(sim.ask(child, "GET x\nSET k v\nCLIENT GETNAME"), "$1 x +OK $-1");
    assert!(sim.broker.shared.commands.release().is_some());
    let told = sim.ask(child, "NOSUCH x");
    assert!(told.starts_with("-NOPERM"), "what it means cannot be asked: {told}");
    // Given back, the upstream's own is taken.
    sim.clear_up();
    sim.lose_one(LaneRole::Control);
    sim.pass(100);
    assert!(sim.broker.shared.commands.release().is_none());
}

/// What is asked in the place of PING says as well that a script runs.
#[test]
fn a_script_is_noticed_without_ping() {
    for rights in [&["ping"][..], &["ping", "echo"]] {
        let (mut sim, [script, other]) = lacking(rights, &[]);
        assert_eq!(sim.ask(other, "GET x"), "$1 x");
        sim.send(script, "EVAL loop 0 x");
        sim.pass(1000);
        assert!(sim.ask(other, "GET x").starts_with("-BUSY"), "{rights:?}");
    }
}

#[test]
fn canaries_are_asked_for_by_what_the_user_may() {
    let (mut sim, [child]) = lacking(&["echo"], &[("integrity", "always")]);
    assert_eq!(sim.ask(child, "GET x"), "$1 x");
    assert!(sim.broker.counters().canaries > 0 && sim.broker.counters().integrity_failures == 0);
    let (mut sim, [child]) = lacking(&["echo", "ping"], &[("integrity", "always")]);
    sim.send(child, "GET x");
    sim.pass(2000);
    let told = sim.received(child);
    assert!(
        told.ends_with("last attempt: its user lacks ECHO and PING, one of which integrity needs"),
        "{told}"
    );
}

/// The one who is asked to end cannot be: a command must not be out for nobody.
#[test]
fn a_command_of_the_dead_ends_with_its_connection_where_it_cannot_be_unblocked() {
    let (mut sim, [a, b, c, giver]) = lacking(&["client|unblock"], &[]);
    for child in [a, b, c] {
        sim.send(child, "BLPOP q 0");
    }
    assert_eq!(sim.links(LaneRole::Lease).len(), 3);
    sim.kill(b);
    sim.pass(10);
    assert_eq!(sim.links(LaneRole::Lease).len(), 2);
    assert_eq!(sim.ask(giver, "RPUSH q e1 e2 e3"), ":3");
    assert_eq!((sim.received(a), sim.received(c)), ("*2 $1 q $2 e1".into(), "*2 $1 q $2 e2".into()));
    assert_eq!(sim.ask(giver, "BLPOP q 0"), "*2 $1 q $2 e3", "the third was for nobody");
    assert_eq!(sim.ran("CLIENT UNBLOCK 1").len(), 0);
}

#[test]
fn times_are_over_as_in_redis_where_nothing_can_be_unblocked() {
    let (mut sim, [a, b, c, giver]) = lacking(&["client|unblock"], &[]);
    sim.send(a, "BLPOP q 0.3");
    sim.send(b, "BLPOP q 0.1");
    sim.send(c, "BLPOP q 0.2");
    for child in [b, c, a] {
        sim.pass(95);
        assert_eq!(sim.received(child), "");
        sim.pass(6);
        assert_eq!(sim.received(child), "*-1");
    }
    assert_eq!(sim.ask(giver, "RPUSH q e"), ":1");
    assert_eq!(sim.ask(giver, "BLPOP q 0"), "*2 $1 q $1 e");
}
