//! `on_upstream_loss = close`: who is closed when something is lost, when, and what is not done any more.

use super::*;
use crate::base::limits;
use crate::core::child::ChildKind;

/// The longest that a child which has just asked stays connected after a loss.
const CLOSED_BY: u64 = limits::LOSS_CLOSE_MIN + limits::LOSS_CLOSE_SPREAD;

fn closing<const CHILDREN: usize>(settings: &[(&str, &str)]) -> (Sim, [usize; CHILDREN]) {
    Sim::with(&[&[("on_upstream_loss", "close")], settings].concat())
}

#[test]
fn whoever_has_lost_something_is_closed_and_nobody_else() {
    let (mut sim, [asks, rests, knows]) = closing(&[]);
    assert_eq!(sim.ask(knows, "BROKER ERRORS\nGET a"), "+OK $1 a");
    sim.ask(rests, "GET b");
    let link = sim.link(LaneRole::Shared);
    sim.silent.push(link);
    sim.send(asks, "GET c\nSET d 1");
    sim.send(knows, "GET e");
    sim.answer_next(link, b"$1\r\nc\r\n");
    sim.silent.clear();
    sim.lose(link);
    assert_eq!(sim.received(knows), LOST);
    sim.pass(limits::LOSS_CLOSE_MIN - 1);
    assert!(!sim.is_closed(asks), "it would be back at once");
    assert_eq!(sim.ask(asks, "PING"), "$1 c", "what had come before is given, and nothing else");
    sim.pass(CLOSED_BY);
    assert_eq!((sim.received(asks).as_str(), sim.is_closed(asks)), ("", true));
    assert_eq!(sim.ask(rests, "GET f") + &sim.ask(knows, "GET g"), "$1 f$1 g");
    let counters = sim.broker.counters();
    assert_eq!((counters.children_lost, counters.requests_lost), (1, 2));
}

/// The others' requests go on where they were, with `integrity` too.
#[test]
fn what_a_closed_child_had_asked_for_is_not_done_any_more() {
    for integrity in ["off", "always"] {
        let (mut sim, [closed, other]) = closing(&[("integrity", integrity)]);
        sim.ask(closed, "GET a");
        sim.ask(other, "GET b");
        let link = sim.link(LaneRole::Shared);
        sim.silent.push(link);
        sim.send(closed, "INCR n");
        sim.full = true;
        sim.send(other, "GET before");
        sim.send(closed, "MULTI\nINCR multi\nEXEC\nINCR after");
        sim.send(other, "GET behind");
        (sim.full, sim.refuses) = (false, true);
        sim.silent.clear();
        sim.lose(link);
        sim.refuses = false;
        sim.pass(CLOSED_BY);
        assert!(sim.is_closed(closed));
        assert_eq!(sim.received(other), "$6 before $6 behind", "{integrity}");
        let done = |what: &str| sim.ran(what).len();
        assert_eq!((done("INCR multi"), done("INCR after"), done("GET be")), (0, 0, 2), "{integrity}");
        assert_eq!(sim.broker.counters().integrity_failures, 0);
    }
}

#[test]
fn whoever_has_waited_queue_timeout_is_closed_and_asks_for_nothing_more() {
    let (mut sim, [early, late]) = closing(&[("queue_timeout", "1000")]);
    sim.ask(early, "GET a");
    sim.ask(late, "GET b");
    sim.refuses = true;
    sim.lose_one(LaneRole::Shared);
    sim.send(early, "INCR early");
    sim.pass(600);
    sim.send(early, "INCR second");
    sim.send(late, "INCR late");
    sim.pass(700);
    assert!(!sim.is_closed(late));
    sim.refuses = false;
    sim.pass(CLOSED_BY);
    assert!(sim.is_closed(early), "{}", sim.received(early));
    assert_eq!((sim.received(early).as_str(), sim.received(late).as_str()), ("", ":1"));
    assert_eq!((sim.ran("INCR early").len(), sim.ran("INCR second").len()), (0, 0));
}

#[test]
fn blocked_children_are_closed_and_their_group_goes_on() {
    let (mut sim, [first, second, pusher]) = closing(&[("leases_per_group_max", "1")]);
    sim.send(first, "BLPOP x 0");
    sim.send(second, "BLPOP x 0");
    sim.lose_one(LaneRole::Lease);
    sim.pass(CLOSED_BY);
    let closed = [sim.is_closed(first), sim.is_closed(second)];
    assert_eq!(closed, [true, false], "the command was out for one of them");
    assert_eq!(sim.ask(pusher, "RPUSH x e"), ":1");
    assert_eq!(sim.received(second), "*2 $1 x $1 e");
}

#[test]
fn blocked_children_without_an_upstream_are_closed_after_queue_timeout() {
    let (mut sim, [blocked]) = closing(&[("queue_timeout", "1000")]);
    sim.refuses = true;
    for role in [LaneRole::Lease, LaneRole::Shared, LaneRole::Control] {
        sim.links(role).into_iter().for_each(|link| sim.lose(link));
    }
    sim.send(blocked, "BLPOP x 0");
    sim.pass(900);
    assert!(!sim.is_closed(blocked));
    sim.pass(100 + CLOSED_BY);
    assert_eq!((sim.received(blocked).as_str(), sim.is_closed(blocked)), ("", true));
}

#[test]
fn transactions_end_as_they_would_without_a_broker() {
    let (mut sim, [leased, queued, watches]) = closing(&[]);
    assert_eq!(sim.ask(leased, "WATCH k\nMULTI\nGET a"), "+OK +OK +QUEUED");
    assert_eq!(sim.ask(watches, "WATCH k"), "+OK");
    assert_eq!(sim.ask(queued, "MULTI\nGET b"), "+OK +QUEUED");
    sim.links(LaneRole::Lease).into_iter().for_each(|link| sim.lose(link));
    sim.links(LaneRole::Shared).into_iter().for_each(|link| sim.lose(link));
    sim.pass(CLOSED_BY);
    assert!(sim.is_closed(leased), "its MULTI stood on the connection");
    assert_eq!(sim.ask(watches, "MULTI\nGET c\nEXEC"), "+OK +QUEUED *-1");
    assert_eq!(sim.ask(queued, "EXEC"), "*1 $1 b");
}

#[test]
fn whoever_wants_no_replies_is_closed_for_a_lost_one_too() {
    let (mut sim, [child]) = closing(&[]);
    sim.ask(child, "GET a\nCLIENT REPLY OFF");
    let link = sim.link(LaneRole::Shared);
    sim.silent.push(link);
    sim.send(child, "INCR n");
    sim.silent.clear();
    sim.lose(link);
    sim.pass(CLOSED_BY);
    assert!(sim.is_closed(child));
}

/// Replies to earlier requests are on their way: they are given first.
#[test]
fn a_request_that_cannot_be_answered_ends_its_child_behind_earlier_replies() {
    let (mut sim, [child]) = closing(&[("queue_timeout", "1000")]);
    sim.ask(child, "GET a");
    let link = sim.link(LaneRole::Shared);
    sim.silent.push(link);
    sim.refuses = true;
    sim.lose_one(LaneRole::Control);
    sim.send(child, "GET b\nSELECT 9000\nGET c");
    sim.pass(1000 + CLOSED_BY);
    assert!(!sim.is_closed(child), "a reply is to come");
    sim.silent.clear();
    sim.settle();
    assert_eq!((sim.received(child).as_str(), sim.is_closed(child)), ("$1 b", true));
}

/// Limits and times are no losses; what embeds the broker knows its errors.
#[test]
fn what_is_no_loss_is_told() {
    let (mut sim, [waits]) =
        closing(&[("request_timeout", "100"), ("leases_transaction_max", "0"), ("lease_wait_timeout", "10")]);
    sim.send(waits, "WATCH k");
    sim.pass(20);
    assert!(sim.received(waits).starts_with("-BROKERLIMIT "));
    sim.ask(waits, "SET k v");
    sim.lose_one(LaneRole::Shared);
    let told = sim.ask(waits, "WAIT 0 0");
    assert!(told.starts_with("-BROKERLOST the connection that carried the last write"), "{told}");
    sim.ask(waits, "GET a");
    let link = sim.link(LaneRole::Shared);
    sim.silent.push(link);
    sim.send(waits, "GET b");
    sim.pass(1100);
    assert!(sim.received(waits).starts_with("-BROKERTIMEOUT "));
    let local = sim.child_of(ChildKind::Local);
    sim.send(local, "GET c");
    sim.lose(link);
    assert_eq!(sim.received(local), LOST);
    sim.pass(CLOSED_BY);
    assert!(!sim.is_closed(local) && !sim.is_closed(waits));
}
