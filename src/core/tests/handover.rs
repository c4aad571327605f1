//! Children that go to another process: what goes with them, who goes when, and connections that are given up meanwhile.

use super::super::sim::Sim;
use crate::base::limits;
use crate::core::connection::role::LaneRole;
use crate::core::handover::hubs::HubRest;
use crate::core::handover::image::ChildImage;

/// Has everybody who may go come to rest and taken out.
fn give_all(sim: &mut Sim) -> Vec<(usize, ChildImage)> {
    let mut given = Vec::new();
    for _ in 0..8 {
        sim.broker.begin_moves(64);
        sim.settle();
        given.extend(sim.broker.give_rested(64, usize::MAX));
    }
    given
}

fn take_all(sim: &mut Sim, given: Vec<(usize, ChildImage)>) {
    for (link, image) in given {
        sim.take_in(link, image);
    }
    sim.settle();
}

/// A broker, and another one that has never heard of its children. Both serve the same data in the model's eyes: none.
fn two() -> (Sim, Sim) {
    (Sim::new(&[]), Sim::new(&[]))
}

#[test]
fn everything_that_a_connection_remembers_goes_with_it() {
    let (mut one, mut other) = two();
    let child = one.child();
    assert_eq!(other.child(), child, "the same socket");
    other.kill(child);
    one.ask(child, "SELECT 3\nCLIENT SETNAME me\nCLIENT NO-EVICT ON\nBROKER ERRORS");
    let id = one.ask(child, "CLIENT ID");
    assert_eq!(one.ask(child, "MULTI\nGET a\nCLIENT ID"), "+OK +QUEUED +QUEUED");
    // Half a request, and one that is not run before the other half has come.
    one.post_raw(child, b"*2\r\n$3\r\nGET\r\n$1\r\n");
    one.settle();
    let given = give_all(&mut one);
    assert_eq!((given.len(), one.broker.children_len()), (1, 0));
    take_all(&mut other, given);
    other.post_raw(child, b"b\r\n");
    other.settle();
    assert_eq!(other.received(child), "+QUEUED");
    assert_eq!(other.ask(child, "EXEC"), format!("*3 $1 a {id} $1 b"));
    assert_eq!(other.ask(child, "CLIENT GETNAME\nCLIENT ID"), format!("$2 me {id}"));
    let info = other.ask(child, "CLIENT INFO");
    for part in ["db=3", "flags=e"] {
        assert!(info.contains(part), "{part}: {info}");
    }
    let newcomer = other.child();
    let higher = other.ask(newcomer, "CLIENT ID");
    assert!(higher > id, "{higher} after {id}");
}

#[test]
fn what_the_child_has_not_taken_goes_with_it() {
    let (mut one, mut other) = two();
    let child = one.child();
    other.child();
    other.kill(child);
    one.set_room(child, 0);
    one.send(child, "GET first\nGET second");
    let given = give_all(&mut one);
    assert_eq!((given.len(), one.received(child)), (1, String::new()));
    take_all(&mut other, given);
    assert_eq!(other.received(child), "$5 first $6 second");
}

#[test]
fn replies_that_are_not_wanted_are_not_wanted_afterwards() {
    for (asked, told) in [("CLIENT REPLY OFF", ""), ("CLIENT REPLY SKIP", "$1 b")] {
        let (mut one, mut other) = two();
        let child = one.child();
        other.child();
        other.kill(child);
        one.ask(child, asked);
        let given = give_all(&mut one);
        assert_eq!(given.len(), 1, "{asked}");
        take_all(&mut other, given);
        assert_eq!(other.ask(child, "GET a\nGET b"), told, "{asked}");
    }
}

#[test]
fn who_has_something_upstream_stays_until_that_ends() {
    let (mut sim, [watching, tracked, subscribed, plain]) = Sim::with(&[("pubsub", "leased")]);
    sim.ask(watching, "WATCH k");
    sim.ask(tracked, "HELLO 3\nCLIENT TRACKING ON");
    sim.ask(subscribed, "SUBSCRIBE c");
    let given = give_all(&mut sim);
    assert_eq!(given.iter().map(|(link, _)| *link).collect::<Vec<_>>(), [plain]);
    assert_eq!(sim.ask(watching, "MULTI\nGET k\nEXEC"), "+OK +QUEUED *1 $1 k", "it is served as ever");
    let given = give_all(&mut sim);
    assert_eq!(given.iter().map(|(link, _)| *link).collect::<Vec<_>>(), [watching]);
}

/// A request that is upstream is answered first, and what stands behind it is not run.
#[test]
fn a_child_goes_when_its_last_reply_is_out() {
    let (mut sim, [child]) = Sim::with(&[("child_in_flight_max", "1")]);
    sim.ask(child, "GET warm");
    sim.frozen = vec![LaneRole::Shared];
    // The second one has been read.
    sim.send(child, "GET a\nGET b");
    sim.broker.begin_moves(1);
    sim.send(child, "GET c");
    assert!(sim.broker.give_rested(1, usize::MAX).is_empty() && sim.broker.moving_len() == 1);
    sim.frozen.clear();
    sim.settle();
    assert_eq!(sim.received(child), "$1 a");
    sim.broker.end_moves();
    sim.settle();
    assert_eq!(sim.received(child), "$1 b $1 c", "nobody goes after all");
}

#[test]
fn those_who_wait_for_an_element_keep_their_order_and_their_time() {
    let (mut one, mut other) = two();
    let waiters: Vec<usize> = (0..3).map(|_| one.child()).collect();
    for _ in &waiters {
        let child = other.child();
        other.kill(child);
    }
    one.send(waiters[2], "BLPOP x 0");
    one.pass(10);
    one.send(waiters[0], "BLPOP x 0");
    one.pass(10);
    one.send(waiters[1], "BLPOP x 1");
    one.pass(600);
    let mut given = give_all(&mut one);
    assert_eq!((given.len(), one.broker.leases_lent()), (3, (0, 0, 0)), "nothing waits any more");
    let numbers = one.broker.numbers();
    other.broker.continue_numbers(numbers);
    // One that has come meanwhile stands behind them.
    let late = other.child();
    other.send(late, "BLPOP x 0");
    given.reverse();
    take_all(&mut other, given);
    other.pass(300);
    assert_eq!(other.received(waiters[1]), "", "its second is not over");
    other.pass(200);
    assert_eq!(other.received(waiters[1]), "*-1");
    let pusher = other.child();
    for (waiter, element) in [(waiters[2], "a"), (waiters[0], "b"), (late, "c")] {
        other.ask(pusher, &format!("RPUSH x {element}"));
        assert_eq!(other.received(waiter), format!("*2 $1 x $1 {element}"));
    }
}

#[test]
fn a_wait_that_is_taken_back_in_vain_is_asked_again() {
    let (mut sim, [waiter, pusher]) = Sim::with(&[]);
    sim.send(waiter, "BLPOP x 0");
    sim.broker.begin_moves(8);
    sim.settle();
    sim.broker.end_moves();
    sim.settle();
    sim.ask(pusher, "RPUSH x e");
    assert_eq!(sim.received(waiter), "*2 $1 x $1 e");
}

/// One of them cannot go, and is served where it is.
#[test]
fn who_stays_of_those_who_wait_for_the_same_goes_on_waiting() {
    let (mut sim, [stays, goes, pusher]) = Sim::with(&[]);
    let id = sim.ask(stays, "CLIENT ID").trim_start_matches(':').parse().unwrap();
    sim.broker.keep_child(id);
    sim.send(goes, "BLPOP x 0");
    sim.send(stays, "BLPOP x 0");
    let id = sim.ask(pusher, "CLIENT ID").trim_start_matches(':').parse().unwrap();
    sim.broker.keep_child(id);
    let given = give_all(&mut sim);
    assert_eq!(given.iter().map(|(link, _)| *link).collect::<Vec<_>>(), [goes]);
    sim.ask(pusher, "RPUSH x e");
    assert_eq!(sim.received(stays), "*2 $1 x $1 e");
}

/// Places that are another process' are given up, and nothing is dialled beyond.
#[test]
fn places_that_are_given_away_are_given_up_first() {
    let (mut sim, [a, b, c]) = Sim::with(&[("upstream_connections_max", "8"), ("leases_warm", "2")]);
    sim.ask(a, "GET a");
    sim.ask(b, "SELECT 1\nGET b");
    sim.ask(c, "WATCH k");
    sim.pass(100);
    assert!(sim.broker.upstream_connections() > 4);
    sim.broker.set_places(Some(3));
    sim.settle();
    assert_eq!(sim.broker.upstream_connections(), 3, "control, the lease, one lane");
    assert_eq!(sim.ask(a, "GET a"), "$1 a");
    assert_eq!(sim.ask(c, "MULTI\nGET c\nEXEC"), "+OK +QUEUED *1 $1 c");
    sim.send(b, "WATCH k");
    sim.pass(10);
    assert!(sim.broker.upstream_connections() <= 3);
    sim.broker.set_places(None);
    sim.settle();
    assert_eq!(sim.received(b), "+OK");
}

#[test]
fn without_places_nothing_is_dialled_until_there_are_some() {
    let mut sim = Sim::unconnected(&[], |broker| broker.set_places(Some(0)));
    sim.pass(500);
    assert_eq!((sim.broker.upstream_connections(), sim.broker.is_ready()), (0, false));
    sim.broker.set_places(Some(2));
    sim.pass(500);
    assert!(sim.broker.is_ready());
    let child = sim.child();
    assert_eq!(sim.ask(child, "GET a"), "$1 a");
    assert_eq!(sim.broker.upstream_connections(), 2);
}

#[test]
fn what_cannot_be_taken_is_said_before() {
    let (mut sim, [child]) = Sim::with(&[]);
    let image = ChildImage { id: 5, proto: 2, ..ChildImage::default() };
    assert_eq!(sim.broker.may_take(&image), Ok(()));
    let id = sim.ask(child, "CLIENT ID").trim_start_matches(':').parse().unwrap();
    for wrong in [ChildImage { id, ..image.clone() }, ChildImage { id: limits::CHILD_ID_MAX, ..image }] {
        assert!(sim.broker.may_take(&wrong).is_err(), "{wrong:?}");
    }
}

/// What would stand on a connection that is about to go waits until it has gone, or has come back.
#[test]
fn nothing_stands_on_a_connection_that_is_about_to_go() {
    for goes in [true, false] {
        let (mut sim, [listener, publisher, watching]) = Sim::with(&[]);
        sim.ask(listener, "SUBSCRIBE news");
        sim.ask(publisher, "GET a");
        sim.ask(watching, "WATCH k");
        assert!(sim.broker.begin_hub_move());
        assert_eq!(sim.broker.hub_rest(), HubRest::Now);
        let (_, link, _) = sim.broker.hub_image().expect("a connection");
        sim.frozen = vec![LaneRole::Subscriber];
        assert_eq!(sim.ask(publisher, "PUBLISH news x"), "");
        assert_eq!(sim.ask(watching, "SUBSCRIBE other"), "");
        if goes {
            assert_eq!(sim.broker.give_listeners(64).len(), 1);
            sim.broker.forget_hub();
        } else {
            sim.broker.keep_hub(Some(link));
        }
        sim.frozen.clear();
        sim.settle();
        sim.pass(100);
        assert!(sim.received(publisher).starts_with(':'), "goes: {goes}");
        assert_eq!(sim.received(watching), "*3 $9 subscribe $5 other :1", "goes: {goes}");
        assert_eq!(sim.ask(publisher, "GET a"), "$1 a");
    }
}
