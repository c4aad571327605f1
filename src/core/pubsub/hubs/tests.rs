//! Shared subscriptions in rare orders of events, played through on the simulation.

use super::*;
use crate::base::clock::Millis;
use crate::base::failure::{Down, Failure};
use crate::core::broker::Broker;
use crate::core::child::hold::Hold;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::LaneRole;
use crate::core::sim::Sim;
use crate::resp::encode;

/// What holds whenever the broker is at rest.
fn check(broker: &Broker) {
    for (key, topic) in broker.shared.hubs.topics.iter() {
        assert!(topic.is_used() || topic.wanted || topic.pending > 0, "a topic for nobody");
        let hub = &broker.shared.hubs.by_user[&topic.user];
        assert_eq!(hub.names[topic.family as usize].get(&topic.name), Some(&key), "its name finds another");
        for child in &topic.subscribers {
            let child = broker.children.get(Key::from_bits(*child));
            let own = child.and_then(|child| child.topics());
            assert!(own.is_some_and(|own| own.holds(key)), "a subscriber that does not know of it");
        }
        let pins = broker.children.iter().filter_map(|(_, child)| child.topics());
        let pins = pins.map(|own| own.pinned().iter().filter(|pinned| **pinned == key).count());
        assert_eq!(pins.sum::<usize>(), topic.pins as usize, "pins");
        let asked = hub.asked.iter().filter(|asked| [Asked::Join(key), Asked::Leave(key)].contains(asked));
        assert_eq!(asked.count(), topic.pending as usize, "pending");
        let checks = hub.asked.iter().filter(|asked| matches!(asked, Asked::Check(of, ..) if *of == key));
        assert_eq!(checks.count(), topic.checks as usize, "checks");
    }
    for (key, child) in broker.children.iter() {
        let Some(own) = child.topics() else { continue };
        assert_eq!(own.total() as usize, own.held().count(), "counts");
        let fence = if let Fence::Asked(number) = own.fence() { Some(number) } else { None };
        let waits = child.hold() == Hold::Subscription;
        assert_eq!(fence.is_some(), waits, "a fence, and {:?}", child.hold());
        let hub = &broker.shared.hubs.by_user[&own.user()];
        let lane = broker.shared.connections.find(hub.lane);
        if let (Some(number), Some(true)) = (fence, lane.map(Lane::is_ready)) {
            assert!(hub.asked.contains(&Asked::Fence(key, number)), "nothing will ever end its wait");
        }
    }
    for hub in broker.shared.hubs.by_user.values() {
        let listened = broker.shared.connections.find(hub.lane).is_some_and(Lane::is_listened);
        let used = hub.names.iter().any(|names| !names.is_empty());
        assert!(hub.lane.is_none() || listened == used, "a lane that does not know whether it is needed");
        let is_asked = |slot: &&Slot| slot.kind == SlotKind::Topic;
        let asked = |lane: &Lane| lane.out().entries().iter().filter(is_asked).count();
        let slots = broker.shared.connections.find(hub.lane).map_or(0, asked);
        assert_eq!(hub.asked.len(), slots, "questions and slots");
    }
}

/// The requests about subscriptions that were executed, without the fences.
fn asked(sim: &Sim) -> Vec<&str> {
    let all = sim.executed().iter().map(|(_, request)| request.as_str());
    all.filter(|request| request.starts_with("subscribe ") || request.starts_with("unsubscribe ")).collect()
}

/// A broker with children, the first of which listens to a channel.
fn begin_listening<const N: usize>(settings: &[(&str, &str)]) -> (Sim, [usize; N]) {
    let (mut sim, children) = Sim::with(settings);
    sim.ask(children[0], "SUBSCRIBE c");
    (sim, children)
}

/// The upstream runs nothing of subscriptions until `thaw`.
fn freeze(sim: &mut Sim) {
    sim.frozen = vec![LaneRole::Subscriber];
}

fn thaw(sim: &mut Sim) {
    sim.thaw();
    check(&sim.broker);
}

/// The upstream says all this at once.
fn inject(sim: &mut Sim, frames: &[&[u8]]) {
    let link = connection(sim);
    sim.inject(link, &frames.concat());
    check(&sim.broker);
}

/// The same, and then answers the last fence.
fn answer(sim: &mut Sim, frames: &[&[u8]]) {
    let pong = pong(sim, 0);
    inject(sim, &[&frames.concat(), &pong]);
}

/// The answer to the last fence, or to one so many before it.
fn pong(sim: &Sim, before: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::bulk(&mut bytes, (sim.broker.shared.hubs.pings - before).to_string().as_bytes());
    bytes
}

/// As Redis confirms a channel, for the first time or once more.
const CONFIRMED: &[u8] = b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n";
const MESSAGE: &[u8] = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n";

fn connection(sim: &Sim) -> usize {
    let links = sim.links(LaneRole::Subscriber);
    assert_eq!(links.len(), 1, "one connection for all subscriptions");
    links[0]
}

#[test]
fn one_upstream_subscription_serves_all() {
    let (mut sim, [a, b, publisher]) = Sim::with(&[]);
    sim.ask(b, "HELLO 3");
    assert_eq!(sim.ask(a, "SUBSCRIBE c"), "*3 $9 subscribe $1 c :1");
    assert_eq!(sim.ask(b, "SUBSCRIBE d c"), ">3 $9 subscribe $1 d :1 >3 $9 subscribe $1 c :2");
    let names = ["subscribe c", "subscribe d", "subscribe c"];
    assert_eq!(asked(&sim), names, "the right is asked for each time");
    assert_eq!(sim.ask(publisher, "PUBLISH c m"), ":2");
    assert_eq!(sim.received(a), "*3 $7 message $1 c $1 m");
    assert_eq!(sim.received(b), ">3 $7 message $1 c $1 m");
    assert_eq!(sim.ask(a, "UNSUBSCRIBE"), "*3 $11 unsubscribe $1 c :0");
    assert_eq!(asked(&sim).len(), 3, "another still listens");
    sim.kill(b);
    assert_eq!(asked(&sim)[3..], ["unsubscribe c", "unsubscribe d"]);
    assert_eq!(sim.ask(publisher, "PUBLISH c m"), ":0");
    check(&sim.broker);
}

#[test]
fn whoever_leaves_last_hears_everything_until_the_upstream_knows() {
    let (mut sim, [a, publisher]) = begin_listening(&[]);
    freeze(&mut sim);
    assert_eq!(sim.ask(a, "UNSUBSCRIBE c"), "");
    let first = sim.broker.shared.hubs.by_user.values().find_map(|hub| hub.asked.front());
    assert!(matches!(first, Some(Asked::Leave(_))), "the upstream is told before the child is");
    // On a lane that goes on.
    assert_eq!(sim.ask(publisher, "MULTI\nPUBLISH c last\nEXEC"), "+OK +QUEUED *1 :1");
    assert_eq!(sim.received(a), "*3 $7 message $1 c $4 last");
    thaw(&mut sim);
    assert_eq!(sim.received(a), "*3 $11 unsubscribe $1 c :0");
}

/// Whoever has left upstream hears nothing that comes because another child has joined since, and gone.
#[test]
fn who_has_left_upstream_hears_nothing_more() {
    let (mut sim, [a, b, p]) = begin_listening(&[]);
    freeze(&mut sim);
    sim.send(a, "UNSUBSCRIBE c");
    sim.send(p, "PUBLISH c 1");
    sim.send(b, "SUBSCRIBE c");
    sim.send(p, "PUBLISH c 2");
    sim.kill(b);
    thaw(&mut sim);
    assert_eq!(sim.received(a), "*3 $11 unsubscribe $1 c :0");
    assert_eq!(sim.received(p), ":0 :0");
    assert_eq!(sim.broker.shared.hubs.topics.len(), 0);
}

/// What a child has published counts it in, although it says in the same breath that it goes.
#[test]
fn a_listener_that_goes_was_there_before() {
    for leave in ["RESET", "QUIT", "UNSUBSCRIBE c"] {
        let (mut sim, [child]) = Sim::with(&[]);
        sim.ask(child, "HELLO 3\nSUBSCRIBE c");
        freeze(&mut sim);
        assert_eq!(sim.ask(child, &format!("PUBLISH c x\n{leave}")), "", "{leave}");
        thaw(&mut sim);
        let told = sim.received(child);
        assert!(told.starts_with(">3 $7 message $1 c $1 x :1 "), "{leave}: {told}");
    }
}

/// A message from before the confirmation is not the new subscriber's, though others get it.
#[test]
fn a_late_subscriber_hears_nothing_older() {
    let (mut sim, [a, b]) = begin_listening(&[]);
    freeze(&mut sim);
    sim.send(b, "SUBSCRIBE c");
    let old = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$3\r\nold\r\n";
    let pong = pong(&sim, 0);
    inject(&mut sim, &[old, CONFIRMED, old, &pong, MESSAGE]);
    let told = "*3 $7 message $1 c $3 old *3 $7 message $1 c $3 old *3 $7 message $1 c $1 m";
    assert_eq!(sim.received(a), told);
    assert_eq!(sim.received(b), "*3 $9 subscribe $1 c :1 *3 $7 message $1 c $1 m");
}

#[test]
fn joining_while_the_last_one_leaves() {
    let (mut sim, [a, b, publisher]) = begin_listening(&[]);
    freeze(&mut sim);
    sim.send(a, "UNSUBSCRIBE c");
    sim.send(b, "SUBSCRIBE c");
    check(&sim.broker);
    thaw(&mut sim);
    assert_eq!(sim.received(a), "*3 $11 unsubscribe $1 c :0");
    assert_eq!(sim.received(b), "*3 $9 subscribe $1 c :1");
    assert_eq!(asked(&sim), ["subscribe c", "unsubscribe c", "subscribe c"]);
    assert_eq!(sim.ask(publisher, "PUBLISH c m"), ":1");
    assert_eq!((sim.received(a).as_str(), sim.received(b).as_str()), ("", "*3 $7 message $1 c $1 m"));
    check(&sim.broker);
}

#[test]
fn two_that_leave_together_leave_upstream() {
    let (mut sim, [a, b]) = begin_listening(&[]);
    sim.ask(b, "SUBSCRIBE c");
    freeze(&mut sim);
    sim.send(a, "UNSUBSCRIBE c c");
    sim.send(b, "UNSUBSCRIBE c");
    thaw(&mut sim);
    assert_eq!(sim.received(a), "*3 $11 unsubscribe $1 c :0 *3 $11 unsubscribe $1 c :0");
    assert_eq!(sim.received(b), "*3 $11 unsubscribe $1 c :0");
    assert_eq!(asked(&sim), ["subscribe c", "subscribe c", "unsubscribe c"]);
    assert_eq!(sim.broker.shared.hubs.topics.len(), 0);
}

#[test]
fn a_child_that_dies_waiting_leaves_nothing_behind() {
    for words in ["SUBSCRIBE c d", "SUBSCRIBE c\nUNSUBSCRIBE c"] {
        let (mut sim, [a]) = Sim::with(&[]);
        freeze(&mut sim);
        sim.send(a, words);
        sim.kill(a);
        check(&sim.broker);
        thaw(&mut sim);
        assert_eq!(sim.broker.shared.hubs.topics.len(), 0, "{words}");
        let b = sim.child();
        assert_eq!(sim.ask(b, "SUBSCRIBE c"), "*3 $9 subscribe $1 c :1");
    }
}

#[test]
fn a_refusal_is_the_answer_of_whoever_asked() {
    let (mut sim, [_, b]) = begin_listening(&[]);
    freeze(&mut sim);
    sim.send(b, "SUBSCRIBE c denied");
    answer(&mut sim, &[CONFIRMED, b"-NOPERM not this one\r\n"]);
    assert_eq!(sim.received(b), "-NOPERM not this one");
    assert_eq!(sim.ask(b, "GET k"), "$1 k", "it is no subscriber");
    check(&sim.broker);
    assert_eq!(sim.broker.shared.hubs.topics.len(), 1, "only the other's is left");
}

/// Rights may go while somebody listens: Redis lets those listen on, and nobody join them.
#[test]
fn a_right_that_has_gone_is_missed_by_newcomers_alone() {
    let (mut sim, [a, b]) = begin_listening(&[("request_timeout", "500")]);
    freeze(&mut sim);
    sim.send(b, "SUBSCRIBE c");
    answer(&mut sim, &[b"-NOPERM c\r\n"]);
    assert_eq!(sim.received(b), "-NOPERM c");
    inject(&mut sim, &[MESSAGE]);
    assert_eq!((sim.received(a).as_str(), sim.received(b).as_str()), ("*3 $7 message $1 c $1 m", ""));
    // An answer that comes too late is not the next request's.
    sim.send(b, "SUBSCRIBE c");
    let late = pong(&sim, 0);
    sim.pass(1000);
    assert!(sim.received(b).starts_with("-BROKERTIMEOUT"));
    sim.send(b, "SUBSCRIBE c");
    answer(&mut sim, &[b"-NOPERM c\r\n", &late, CONFIRMED]);
    assert_eq!(sim.received(b), "*3 $9 subscribe $1 c :1");
}

/// The right comes between the first who asks and the second.
#[test]
fn who_is_confirmed_listens_whatever_the_first_was_told() {
    let (mut sim, [a, b, c]) = Sim::with(&[]);
    sim.ask(a, "SUBSCRIBE other");
    freeze(&mut sim);
    sim.send(b, "SUBSCRIBE c");
    sim.send(c, "SUBSCRIBE c");
    let (first, last) = (pong(&sim, 1), pong(&sim, 0));
    inject(&mut sim, &[b"-NOPERM c\r\n", &first, CONFIRMED, &last]);
    assert_eq!(sim.received(b), "-NOPERM c");
    assert_eq!(sim.received(c), "*3 $9 subscribe $1 c :1");
    inject(&mut sim, &[MESSAGE]);
    assert_eq!(sim.received(c), "*3 $7 message $1 c $1 m");
}

#[test]
fn an_upstream_out_of_step_is_left() {
    let wrong: [(&str, &[u8]); 6] = [
        ("d", b"$1\r\n0\r\n"),
        ("d", b">3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n"),
        ("d", b">3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:1\r\n"),
        ("d", b"+PONG\r\n"),
        ("d", b"$1\r\nx\r\n"),
        // The answer to the first fence once more: with it the next one would pass too early.
        ("c", b"$1\r\n1\r\n"),
    ];
    for (joined, bytes) in wrong {
        let (mut sim, [a, b]) = begin_listening(&[]);
        assert_eq!(pong(&sim, 0), b"$1\r\n1\r\n");
        freeze(&mut sim);
        sim.send(b, &format!("SUBSCRIBE {joined}"));
        inject(&mut sim, &[bytes]);
        assert_eq!(sim.broker.counters().desyncs, 1);
        assert!(sim.is_closed(a) && !sim.is_closed(b));
        thaw(&mut sim);
        assert_eq!(sim.received(b), format!("*3 $9 subscribe $1 {joined} :1"), "on the next connection");
    }
}

/// Those who may have missed something are closed, or not, as the setting says. Those who wait for a confirmation have it
/// of the next connection.
#[test]
fn a_lost_connection_closes_its_listeners_or_goes_unnoticed() {
    for (mode, stays, replaced) in [
        ("close", false, false),
        ("close", false, true),
        ("resubscribe", true, false),
        ("resubscribe", true, true),
    ] {
        let (mut sim, [a, b, c, publisher]) = Sim::with(&[("on_subscriber_loss", mode)]);
        sim.ask(a, "SUBSCRIBE c d");
        sim.ask(c, "SUBSCRIBE c");
        let link = connection(&sim);
        freeze(&mut sim);
        sim.send(b, "SUBSCRIBE c");
        sim.send(c, "UNSUBSCRIBE c");
        if replaced {
            sim.reload("redis://other/0", &[]);
        } else {
            sim.lose(link);
        }
        check(&sim.broker);
        thaw(&mut sim);
        assert_ne!(connection(&sim), link);
        assert_eq!((sim.is_closed(a), sim.is_closed(b), sim.is_closed(c)), (!stays, false, !stays), "{mode}");
        assert_eq!(sim.broker.counters().subscriber_gaps, u64::from(stays));
        assert_eq!(sim.received(b), "*3 $9 subscribe $1 c :1");
        assert_eq!(sim.received(c), if stays { "*3 $11 unsubscribe $1 c :0" } else { "" });
        let (count, told) = match stays {
            true => (":2 :1", "*3 $7 message $1 c $1 1 *3 $7 message $1 d $1 2"),
            false => (":1 :0", ""),
        };
        assert_eq!(sim.ask(publisher, "PUBLISH c 1\nPUBLISH d 2"), count);
        assert_eq!((sim.received(a).as_str(), sim.received(b).as_str()), (told, "*3 $7 message $1 c $1 1"));
        check(&sim.broker);
    }
}

/// What a RESP2 subscriber may not say, it is not told to have said where nobody knows what it means.
#[test]
fn a_subscriber_opens_no_transaction_while_the_upstream_is_replaced() {
    let settings = [("on_subscriber_loss", "resubscribe"), ("queue_timeout", "300")];
    let (mut sim, [a]) = begin_listening(&settings);
    sim.refuses = true;
    sim.reload("redis://other/0", &[]);
    assert_eq!(sim.ask(a, "MULTI\nGET k"), "");
    sim.pass(1000);
    let told = sim.received(a);
    assert!(told.starts_with("-BROKERDOWN") && !told.contains("QUEUED"), "{told}");
    sim.refuses = false;
    sim.pass(3000);
    assert!(sim.ask(a, "MULTI").starts_with("-ERR Can't execute 'multi'"));
    check(&sim.broker);
}

#[test]
fn timers_do_not_pile_up() {
    let (mut sim, [a]) = Sim::with(&[("queue_timeout", "1h"), ("lease_wait_timeout", "1h")]);
    for _ in 0..200 {
        assert_eq!(sim.ask(a, "SUBSCRIBE c\nUNSUBSCRIBE c").matches("subscribe").count(), 2);
    }
    let mut left = 0;
    while sim.broker.shared.env.timers.pop_due(Millis::MAX).is_some() {
        left += 1;
    }
    assert!(left < 20, "{left} timers");
}

#[test]
fn a_shard_channel_that_moves_is_told_as_redis_tells() {
    let (mut sim, [a, b]) = Sim::with(&[]);
    sim.ask(b, "HELLO 3");
    sim.ask(a, "SUBSCRIBE c");
    sim.ask(a, "UNSUBSCRIBE c");
    for child in [a, b] {
        freeze(&mut sim);
        sim.send(child, "SSUBSCRIBE s");
        answer(&mut sim, &[b">3\r\n$10\r\nssubscribe\r\n$1\r\ns\r\n:1\r\n"]);
    }
    inject(&mut sim, &[b">3\r\n$12\r\nsunsubscribe\r\n$1\r\ns\r\n:0\r\n"]);
    assert_eq!(sim.received(a), "*3 $10 ssubscribe $1 s :1 *3 $12 sunsubscribe $1 s :0");
    assert_eq!(sim.received(b), ">3 $10 ssubscribe $1 s :1 >3 $12 sunsubscribe $1 s :0");
    assert_eq!(sim.ask(a, "GET k"), "$1 k");
    check(&sim.broker);
}

#[test]
fn a_subscription_that_is_refused_after_a_loss_closes_its_listeners() {
    let (mut sim, [a, b]) = begin_listening(&[("on_subscriber_loss", "resubscribe")]);
    sim.ask(b, "SUBSCRIBE d");
    freeze(&mut sim);
    // As after a loss.
    let topic = sim.broker.shared.hubs.by_user[&UserId::UPSTREAM].names[0][&b"c"[..]];
    let lost = sim.broker.shared.hubs.topics.get_mut(topic).expect("a topic");
    (lost.wanted, lost.carried) = (false, false);
    sim.broker.shared.live_hubs().ask(UserId::UPSTREAM, Asked::Join(topic));
    sim.settle();
    inject(&mut sim, &[b"-NOPERM not any more\r\n"]);
    assert!(sim.is_closed(a) && !sim.is_closed(b));
}

#[test]
fn without_an_upstream_a_subscription_is_not_made() {
    let (mut sim, [a]) = Sim::with(&[("queue_timeout", "500"), ("lease_wait_timeout", "10s")]);
    sim.refuses = true;
    sim.send(a, "SUBSCRIBE c");
    sim.pass(400);
    assert_eq!(sim.received(a), "");
    sim.pass(700);
    let down = Failure::Down(Down::Unreachable(Some("refused".into())));
    assert_eq!(sim.received(a), format!("-{down}"));
    check(&sim.broker);
    sim.refuses = false;
    sim.pass(2000);
    assert_eq!(sim.ask(a, "SUBSCRIBE c"), "*3 $9 subscribe $1 c :1");
}

#[test]
fn leases_can_leave_no_place() {
    let leases = [("leases_transaction_max", "6"), ("leases_blocking_max", "0")];
    let settings =
        [&leases[..], &[("upstream_connections_max", "8"), ("lease_wait_timeout", "500")]].concat();
    let (mut sim, [a, b, watchers @ ..]) = Sim::with::<7>(&settings);
    for child in watchers {
        assert_eq!(sim.ask(child, "WATCH k"), "+OK");
    }
    sim.send(a, "SUBSCRIBE c");
    assert_eq!(sim.ask(b, "GET k"), "$1 k", "others go on");
    sim.pass(600);
    assert!(sim.received(a).starts_with("-BROKERLIMIT no connection for subscriptions within 500 ms"));
    sim.send(a, "SUBSCRIBE c");
    assert_eq!(sim.ask(watchers[0], "UNWATCH"), "+OK");
    assert_eq!(sim.received(a), "*3 $9 subscribe $1 c :1");
    sim.pass(100_000);
    assert_eq!(sim.links(LaneRole::Subscriber).len(), 1, "it never has to yield");
    check(&sim.broker);
}

/// More pools than places: idle connections make room, but not one that somebody listens by.
#[test]
fn a_connection_with_listeners_is_not_evicted() {
    let (mut sim, [a, b]) = begin_listening(&[("upstream_connections_max", "8"), ("leases_warm", "0")]);
    let link = connection(&sim);
    let visit = |sim: &mut Sim| {
        for db in 0..12 {
            assert_eq!(sim.ask(b, &format!("SELECT {db}\nGET k")), "+OK $1 k");
            sim.pass(50);
        }
    };
    for round in 0..3 {
        visit(&mut sim);
        assert_eq!(connection(&sim), link, "round {round}");
        assert_eq!(sim.ask(b, "PUBLISH c m"), ":1");
        assert_eq!(sim.received(a), "*3 $7 message $1 c $1 m");
    }
    sim.ask(a, "UNSUBSCRIBE c");
    visit(&mut sim);
    assert_eq!(sim.links(LaneRole::Subscriber).len(), 0, "an idle one is as any other");
    assert_eq!(sim.ask(a, "SUBSCRIBE c"), "*3 $9 subscribe $1 c :1");
    check(&sim.broker);
}

#[test]
fn a_quiet_connection_is_asked_whether_it_lives() {
    let (mut sim, [a]) = begin_listening(&[("lane_stall_timeout", "2s")]);
    let before = sim.executed().len();
    sim.pass(5000);
    let pings = sim.executed()[before..].iter().filter(|(_, request)| request.starts_with("PING ")).count();
    assert!((2..=5).contains(&pings), "{pings} in five seconds");
    let link = connection(&sim);
    sim.silent = sim.conns.keys().copied().collect();
    sim.pass(6000);
    assert!(!sim.conns.contains_key(&link) && sim.is_closed(a), "a frozen upstream is noticed");
}

#[test]
fn the_connection_goes_when_nobody_has_listened_for_long() {
    let (mut sim, [a]) = begin_listening(&[("upstream_idle_timeout", "3000")]);
    sim.pass(20_000);
    assert_eq!(sim.links(LaneRole::Subscriber).len(), 1);
    sim.ask(a, "UNSUBSCRIBE c");
    sim.pass(2000);
    assert_eq!(sim.links(LaneRole::Subscriber).len(), 1);
    sim.pass(5000);
    assert_eq!(sim.links(LaneRole::Subscriber).len(), 0);
    assert!(sim.broker.shared.hubs.by_user.is_empty(), "nothing is kept");
    assert_eq!(sim.ask(a, "SUBSCRIBE c"), "*3 $9 subscribe $1 c :1");
}

/// Whoever has subscribed goes on as it began; whoever has not follows the new setting.
#[test]
fn another_way_to_subscribe_is_for_new_subscribers() {
    for (before, after) in [("shared", "leased"), ("leased", "shared")] {
        let (mut sim, [a, b, c]) = begin_listening(&[("pubsub", before)]);
        sim.reload("redis://sim/0", &[("pubsub", after)]);
        assert_eq!(sim.ask(a, "SUBSCRIBE d"), "*3 $9 subscribe $1 d :2");
        assert_eq!(sim.ask(b, "SUBSCRIBE c"), "*3 $9 subscribe $1 c :1");
        assert_eq!(sim.ask(c, "PUBLISH c 1\nPUBLISH d 2"), ":2 :1");
        assert_eq!(sim.received(a), "*3 $7 message $1 c $1 1 *3 $7 message $1 d $1 2");
        assert_eq!(sim.received(b), "*3 $7 message $1 c $1 1");
        assert_eq!(sim.broker.leases_lent().2, 1, "{before} to {after}: one of them is leased");
        assert_eq!(sim.ask(a, "UNSUBSCRIBE c d").matches("unsubscribe").count(), 2);
        sim.ask(a, "SUBSCRIBE c");
        assert_eq!(sim.broker.leases_lent().2, if after == "leased" { 2 } else { 0 });
        check(&sim.broker);
    }
}

/// What a connection of its own has brought a child by then comes before the reply to RESET, which ends all of it.
#[test]
fn nothing_is_heard_behind_a_reset() {
    let (mut sim, [a]) = begin_listening(&[("pubsub", "leased")]);
    sim.frozen = vec![LaneRole::Lease];
    sim.send(a, "SUBSCRIBE d\nRESET");
    let confirmed = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nd\r\n:2\r\n";
    let message = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n";
    sim.answer_next(sim.link(LaneRole::Lease), &[&confirmed[..], message].concat());
    assert_eq!(sim.received(a), "*3 $9 subscribe $1 d :2 *3 $7 message $1 c $1 m +RESET");
}

#[test]
fn watching_goes_on_beside_listening() {
    let (mut sim, [a]) = Sim::with(&[]);
    sim.ask(a, "HELLO 3");
    assert_eq!(sim.ask(a, "WATCH k\nSUBSCRIBE c"), "+OK >3 $9 subscribe $1 c :1");
    assert_eq!(sim.ask(a, "MULTI\nGET k\nEXEC"), "+OK +QUEUED *1 $1 k");
    let (_, transactions, sessions) = sim.broker.leases_lent();
    assert_eq!((transactions, sessions), (0, 0), "the lease has ended with EXEC");
    assert_eq!(sim.ask(a, "WATCH k"), "+OK");
    let lease = *sim.links(LaneRole::Lease).last().expect("a lease");
    sim.lose(lease);
    assert!(!sim.is_closed(a), "its subscriptions were not on it");
    assert_eq!(sim.ask(a, "RESET"), "+RESET");
    assert_eq!(asked(&sim), ["subscribe c", "unsubscribe c"]);
}

/// Numbered messages of three channels: what was sent, what was answered, how many were counted and how many heard it.
#[derive(Default)]
struct Feed {
    last: [u64; 3],
    answered: [u64; 3],
    unanswered: VecDeque<(usize, u64)>,
    counted: HashMap<(usize, u64), i64>,
    heard: HashMap<(usize, u64), i64>,
}

impl Feed {
    fn publish(&mut self, sim: &mut Sim, publisher: usize, channel: usize) {
        self.last[channel] += 1;
        self.unanswered.push_back((channel, self.last[channel]));
        sim.send(publisher, &format!("PUBLISH ch{channel} {}", self.last[channel]));
    }

    /// Reads what the publisher has been told.
    fn read(&mut self, told: &str) {
        for word in told.split_whitespace().filter(|word| word.starts_with([':', '-'])) {
            let (channel, number) = self.unanswered.pop_front().expect("it has published");
            self.answered[channel] = number;
            if let Some(count) = word.strip_prefix(':') {
                self.counted.insert((channel, number), count.parse().expect("a count"));
            }
        }
    }
}

/// What one child should hear of one channel, told by what it has received.
#[derive(Default)]
struct Listener {
    listens: bool,
    last: u64,
    /// The channel's answered number when each SUBSCRIBE without a confirmation was sent, and the one confirmed.
    floors: VecDeque<u64>,
    floor: u64,
}

/// Children come, go, subscribe and unsubscribe while numbered messages are published; connections are lost
/// and frozen. Between its confirmations every child hears every number, once and in order; and where nothing is lost,
/// as many do as the publisher is told.
fn play(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let lossless = rng.bool();
    let mode = if lossless { "close" } else { ["close", "resubscribe"][rng.usize(..2)] };
    let mut sim =
        Sim::new(&[("on_subscriber_loss", mode), ("queue_timeout", "60s"), ("lease_wait_timeout", "60s")]);
    let publisher = sim.child();
    // What it publishes to nobody goes at once: whoever joins while it is on its way may hear it and not be counted.
    sim.ask(publisher, "GET k");
    let mut children: Vec<usize> = (0..6).map(|_| sim.child()).collect();
    let mut heard: HashMap<(usize, usize), Listener> = HashMap::new();
    let mut feed = Feed::default();
    for _ in 0..200 {
        let index = rng.usize(..children.len());
        let child = children[index];
        let channel = rng.usize(..3);
        match rng.u32(..12) {
            0..3 => {
                heard.entry((child, channel)).or_default().floors.push_back(feed.answered[channel]);
                sim.send(child, &format!("SUBSCRIBE ch{channel}"));
            }
            3..5 => sim.send(child, &format!("UNSUBSCRIBE ch{channel}")),
            5..9 => feed.publish(&mut sim, publisher, channel),
            9 => sim.frozen = if rng.bool() { vec![LaneRole::Subscriber] } else { Vec::new() },
            10 if rng.bool() => {
                sim.kill(child);
                children[index] = sim.child();
            }
            10 if !lossless => {
                if let Some(link) = sim.links(LaneRole::Subscriber).first().copied() {
                    sim.lose(link);
                }
            }
            _ => sim.pass(rng.u64(1..50)),
        }
        check(&sim.broker);
        feed.read(&sim.received(publisher));
        for child in &mut children {
            hear(&mut sim, *child, &mut heard, &mut feed, mode == "close");
            if sim.is_closed(*child) {
                *child = sim.child();
            }
        }
    }
    sim.frozen.clear();
    sim.pass(1000);
    feed.read(&sim.received(publisher));
    children.iter().for_each(|child| hear(&mut sim, *child, &mut heard, &mut feed, mode == "close"));
    assert!(feed.unanswered.is_empty(), "a publisher that is never answered");
    for (message, count) in feed.counted.iter().filter(|_| lossless) {
        assert_eq!(feed.heard.get(message).copied().unwrap_or(0), *count, "{message:?}");
    }
    for child in children {
        hear(&mut sim, child, &mut heard, &mut feed, mode == "close");
        for channel in 0..3 {
            if !heard.get(&(child, channel)).is_some_and(|listener| listener.listens) {
                continue;
            }
            feed.publish(&mut sim, publisher, channel);
            hear(&mut sim, child, &mut heard, &mut feed, mode == "close");
            assert_eq!(heard[&(child, channel)].last, feed.last[channel]);
        }
        sim.ask(child, "RESET");
        check(&sim.broker);
    }
}

fn hear(
    sim: &mut Sim,
    child: usize,
    heard: &mut HashMap<(usize, usize), Listener>,
    feed: &mut Feed,
    gapless: bool,
) {
    let told = sim.received(child);
    let words: Vec<&str> = told.split_whitespace().collect();
    for frame in words.split(|word| *word == "*3").filter(|frame| frame.len() >= 5) {
        let channel: usize = frame[3].trim_start_matches("ch").parse().expect("a channel");
        let listener = heard.entry((child, channel)).or_default();
        let asked = if frame[1] == "subscribe" { listener.floors.pop_front() } else { None };
        match frame[1] {
            "subscribe" if !listener.listens => {
                (listener.listens, listener.last, listener.floor) = (true, 0, asked.expect("it asked"));
            }
            "subscribe" => {}
            "unsubscribe" => listener.listens = false,
            "message" => {
                let number: u64 = frame[5].parse().expect("a number");
                assert!(listener.listens, "a message without a subscription: {told}");
                assert!(number > listener.floor || listener.last > 0, "older than its request: {told}");
                let next = listener.last == 0 || number == listener.last + 1;
                assert!(
                    next || (!gapless && number > listener.last),
                    "{number} after {}: {told}",
                    listener.last
                );
                listener.last = number;
                *feed.heard.entry((channel, number)).or_default() += 1;
            }
            other => panic!("{other}: {told}"),
        }
    }
}

#[test]
fn random_comings_and_goings_lose_nothing() {
    let seeds = std::env::var("SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    for seed in 0..seeds {
        if let Err(panic) = std::panic::catch_unwind(|| play(seed)) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// A subscription that may have ended upstream is none here either.
#[test]
fn a_leave_without_an_answer_leaves() {
    for leave in ["UNSUBSCRIBE", "UNSUBSCRIBE c", "RESET"] {
        let (mut sim, [a, b]) = Sim::with(&[("request_timeout", "200")]);
        assert_eq!(sim.ask(a, "SUBSCRIBE c"), "*3 $9 subscribe $1 c :1");
        freeze(&mut sim);
        sim.send(a, leave);
        sim.pass(1000);
        assert!(sim.received(a).starts_with("-BROKERTIMEOUT"), "{leave}");
        thaw(&mut sim);
        assert_eq!(sim.ask(a, "GET k"), "$1 k", "{leave}: it may say everything again");
        assert_eq!(sim.ask(a, "SUBSCRIBE c"), "*3 $9 subscribe $1 c :1");
        assert_eq!(sim.ask(b, "PUBLISH c m"), ":1");
        assert_eq!(sim.received(a), "*3 $7 message $1 c $1 m", "{leave}");
    }
}
