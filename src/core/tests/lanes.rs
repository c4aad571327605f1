//! Who goes on which lane in which order, and the canaries between them.

use super::*;
use crate::base::limits;
use crate::core::action::Action;
use crate::core::connection::lane::Lane;

#[test]
fn a_deep_pipeline_lets_others_in_between() {
    let (mut sim, [deep, other]) = Sim::with(&[]);
    sim.ask(deep, &"GET known\n".repeat(100));
    let many: String = (0..500).map(|n| format!("GET deep{n}\n")).collect();
    // Both arrive in the same turn, the deep one first.
    sim.broker.child_input(sim.key(deep), &packed(&many));
    sim.broker.child_input(sim.key(other), &packed("GET other"));
    sim.settle();
    let before = sim.executed().iter().take_while(|(_, request)| request != "GET other");
    let before = before.filter(|(_, request)| request.starts_with("GET deep")).count();
    assert_eq!(before, 32, "one turn's worth");
    assert_eq!(sim.ran("GET other").len(), 1);
    assert_eq!(sim.ran("GET deep").len(), 500);
    let replies = sim.received(deep);
    assert!(replies.starts_with("$5 deep0 ") && replies.ends_with("$7 deep499"), "in order, to the last");
}

#[test]
fn a_child_that_ends_behind_a_deep_pipeline_gets_all_of_it() {
    let (mut sim, [child]) = Sim::with(&[]);
    let many: String = (0..100).map(|n| format!("GET {n}\n")).collect();
    sim.broker.child_input(sim.key(child), &packed(&many));
    sim.half_close(child);
    assert!(sim.received(child).ends_with("$2 99"));
    assert!(sim.is_closed(child));
}

#[test]
fn what_is_large_has_a_lane_of_its_own() {
    let (mut sim, [large, small]) = Sim::with(&[]);
    let value = "v".repeat(300 * 1024);
    sim.send(small, "GET a");
    sim.send(large, &format!("SET k {value}"));
    assert_eq!(sim.received(large), "+OK");
    assert_ne!(sim.ran("GET a"), sim.ran("SET k"));
    // What comes next is small again, and goes where small requests go.
    sim.ask(large, "GET b");
    assert_eq!(sim.ran("GET b"), sim.ran("GET a"));
    // Whoever was answered at length expects it again, and unlearns it.
    let link = sim.link(LaneRole::Shared);
    sim.silent.push(link);
    sim.send(large, "GET c");
    sim.silent.clear();
    sim.answer_next(link, format!("${}\r\n{value}\r\n", value.len()).as_bytes());
    assert_eq!(sim.received(large).len(), "$307200 ".len() + value.len());
    sim.ask(large, "GET d");
    assert_eq!(sim.ran("GET d"), sim.ran("SET k"));
    sim.ask(large, "SET d v");
    assert_eq!(sim.ran("SET d"), sim.ran("GET a"), "only the command that was answered at length");
    for n in 0..16 {
        sim.ask(large, &format!("GET e{n}"));
    }
    sim.ask(large, "GET f");
    assert_eq!(sim.ran("GET f"), sim.ran("GET a"));
}

/// Children come, ask for something long and go: those that come after them ask for it on the lane for what is large.
#[test]
fn children_that_have_just_come_are_known_by_those_before_them() {
    let (mut sim, [first, second, known]) = Sim::with(&[]);
    let value = "v".repeat(300 * 1024);
    for n in 0..4 {
        sim.ask(known, &format!("GET {n}"));
    }
    sim.ask(second, "SET a b");
    let link = sim.link(LaneRole::Shared);
    sim.silent.push(link);
    sim.send(first, "GET a");
    sim.silent.clear();
    sim.answer_next(link, format!("${}\r\n{value}\r\n", value.len()).as_bytes());
    sim.received(first);
    sim.ask(second, "GET b");
    let home = sim.ran("SET a");
    assert_ne!(sim.ran("GET b"), home);
    sim.ask(known, "GET c");
    assert_eq!(sim.ran("GET c"), home, "its own replies say more");
    sim.ask(second, "SET c d");
    assert_eq!(sim.ran("SET c"), home, "only the command that was answered at length");
    sim.pass(61_000);
    let third = sim.child();
    sim.ask(third, "GET d");
    assert_eq!(sim.ran("GET d"), home, "it is long ago");
}

#[test]
fn waiters_are_served_in_the_order_they_came() {
    for leases in ["1", "2", "3"] {
        let (mut sim, waiting) = Sim::with::<6>(&[("leases_blocking_max", leases), ("leases_warm", "0")]);
        let pusher = sim.child();
        for child in &waiting {
            assert_eq!(sim.ask(*child, "BLPOP q 0"), "");
        }
        for (element, child) in waiting.iter().enumerate() {
            sim.ask(pusher, &format!("RPUSH q {element}"));
            assert_eq!(sim.received(*child), format!("*2 $1 q $1 {element}"), "of {leases} leases");
        }
    }
}

#[test]
fn nothing_overtakes_a_request_whose_reply_is_overdue() {
    let (mut sim, [child, other]) = Sim::with(&[("lanes", "2"), ("request_timeout", "500")]);
    sim.ask(child, "GET warm");
    sim.silent = sim.links(LaneRole::Shared);
    sim.send(child, "SET k old");
    sim.pass(1000);
    assert!(sim.received(child).starts_with("-BROKERTIMEOUT"));
    sim.ask(other, "GET free");
    assert!(sim.received(child).is_empty());
    // The other lane is idle, and the one of the first request is not answered.
    sim.send(child, "SET k new");
    assert!(sim.ran("SET k").is_empty());
    // Something large would go on a third one: it waits, but not for ever.
    let value = "v".repeat(300 * 1024);
    let large = sim.child();
    sim.ask(large, "GET warm");
    sim.silent = sim.links(LaneRole::Shared);
    sim.send(large, "SET l old");
    sim.pass(1000);
    assert!(sim.received(large).starts_with("-BROKERTIMEOUT"));
    sim.send(large, &format!("SET l {value}"));
    sim.pass(1000);
    assert_eq!(sim.received(large), DOWN);
    assert!(sim.received(child).starts_with("-BROKERTIMEOUT"));
    sim.thaw();
    let requests = sim.executed().iter().map(|(_, request)| request.as_str());
    let sets: Vec<&str> = requests.filter(|request| request.starts_with("SET k")).collect();
    assert_eq!(sets, ["SET k old", "SET k new"]);
    assert_eq!(sim.ask(child, "GET on"), "$2 on");
}

/// Children whose GET is not answered, each reply to be proven; and the connection that should do both.
fn unanswered<const CHILDREN: usize>(settings: &[(&str, &str)]) -> (Sim, [usize; CHILDREN], usize) {
    let (mut sim, children) = Sim::with(&[&[("integrity", "always")], settings].concat());
    sim.ask(children[0], "GET warm");
    let link = sim.link(LaneRole::Shared);
    sim.silent.push(link);
    children.iter().for_each(|child| sim.send(*child, "GET mine"));
    (sim, children, link)
}

#[test]
fn no_reply_passes_without_its_proof() {
    let faults: [&[u8]; 3] = [b"$1\r\nx\r\n", b"+OK\r\n", b"-ERR another child's\r\n"];
    for injected in faults {
        let (mut sim, [a, b], link) = unanswered(&[]);
        sim.silent.clear();
        sim.inject(link, injected);
        assert_eq!((sim.received(a).as_str(), sim.received(b).as_str()), (LOST, LOST));
        assert_eq!(sim.broker.counters().integrity_failures, 1);
        assert_eq!(sim.ask(a, "GET again"), "$5 again");
    }
}

#[test]
fn a_reply_that_was_lost_is_noticed_before_anyone_has_another() {
    let (mut sim, [a, b], link) = unanswered(&[]);
    sim.silent.clear();
    sim.swallow_next(link);
    assert_eq!((sim.received(a).as_str(), sim.received(b).as_str()), (LOST, LOST));
}

#[test]
fn a_canary_that_was_lost_is_missed() {
    let (mut sim, [child], link) = unanswered(&[]);
    sim.answer_next(link, b"$4\r\nmine\r\n");
    sim.swallow_next(link);
    sim.silent.clear();
    assert_eq!(sim.received(child), "", "unproven");
    sim.pass(5000);
    assert_eq!(sim.received(child), LOST);
}

#[test]
fn a_queued_command_has_one_answer() {
    // Another's reply, and the one that MULTI itself has.
    for injected in [&b"$5\r\nyours\r\n"[..], b"+OK\r\n"] {
        let (mut sim, [child]) = Sim::with(&[("integrity", "always"), ("transactions", "leased")]);
        assert_eq!(sim.ask(child, "MULTI"), "+OK");
        let link = sim.link(LaneRole::Lease);
        sim.silent.push(link);
        sim.send(child, "GET mine");
        sim.inject(link, injected);
        assert_eq!(sim.received(child), LOST);
    }
}

/// The reply to a queued command that has come twice.
#[test]
fn a_discard_has_one_answer() {
    let (mut sim, [child]) = Sim::with(&[("integrity", "always"), ("transactions", "leased")]);
    assert_eq!(sim.ask(child, "MULTI\nGET mine"), "+OK +QUEUED");
    let link = sim.link(LaneRole::Lease);
    sim.silent.push(link);
    sim.send(child, "DISCARD");
    sim.inject(link, b"+QUEUED\r\n");
    assert_eq!(sim.received(child), LOST);
}

#[test]
fn a_lost_reply_is_noticed_although_nothing_follows_its_canary() {
    let (mut sim, [child], link) = unanswered(&[]);
    sim.silent.clear();
    sim.swallow_next(link);
    assert_eq!(sim.received(child), LOST);
}

#[test]
fn withheld_replies_have_a_request_timeout_too() {
    let (mut sim, [child], link) = unanswered(&[("request_timeout", "500")]);
    sim.inject(link, b"$4\r\nmine\r\n");
    assert_eq!(sim.received(child), "", "its canary has not come");
    sim.pass(2000);
    assert!(sim.received(child).starts_with("-BROKERTIMEOUT"));
    sim.thaw();
    assert_eq!(sim.received(child), "");
}

#[test]
fn a_push_on_a_lease_is_for_a_child_that_has_asked_for_some() {
    let (mut sim, [child]) = Sim::with(&[]);
    sim.ask(child, "HELLO 3");
    assert_eq!(sim.ask(child, "WATCH k"), "+OK");
    let link = sim.link(LaneRole::Lease);
    sim.inject(link, b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$5\r\nyours\r\n");
    assert_eq!(sim.received(child), "");
    assert_eq!(sim.ask(child, "GET mine"), "$4 mine");
}

#[test]
fn a_subscriber_that_has_written_may_not_wait_either() {
    let (mut sim, [child]) = Sim::with(&[("pubsub", "leased")]);
    sim.ask(child, "SET k v\nSUBSCRIBE c");
    assert!(sim.ask(child, "WAIT 0 1").starts_with("-ERR Can't execute 'wait'"));
}

/// Its child may have died, and what is answered to nobody is no reason to stand apart for ever.
#[test]
fn a_lane_takes_requests_again_once_its_wait_is_answered() {
    let (mut sim, [child, other]) = Sim::with(&[]);
    sim.ask(child, "SET k v");
    sim.silent = sim.links(LaneRole::Shared);
    sim.send(child, "WAIT 1 100");
    sim.kill(child);
    sim.answer_next(sim.silent[0], b":0\r\n");
    sim.thaw();
    sim.ask(other, "GET a");
    assert_eq!(sim.ran("GET a"), sim.ran("SET k"));
}

/// Whether or not the one that waited is still there to be answered.
#[test]
fn whoever_waits_for_the_end_of_a_wait_is_woken_by_it() {
    for dies in [false, true] {
        let (mut sim, [child, other]) = Sim::with(&[]);
        sim.ask(child, "SET k v");
        sim.ask(other, "SET k w");
        sim.silent = sim.links(LaneRole::Shared);
        sim.send(child, "WAIT 1 100");
        sim.send(other, "WAIT 0 100");
        if dies {
            sim.kill(child);
        }
        sim.answer_next(sim.silent[0], b":0\r\n");
        sim.thaw();
        assert_eq!(sim.received(other), ":0", "dies: {dies}");
    }
}

#[test]
fn nobody_stands_behind_a_wait_that_has_waited_for_its_connection() {
    let (mut sim, [child, other]) = Sim::with(&[]);
    sim.ask(other, "GET warm");
    sim.frozen = vec![LaneRole::Shared];
    sim.lose_one(LaneRole::Shared);
    sim.send(child, "WAIT 1 0");
    sim.lose_one(LaneRole::Shared);
    sim.send(other, "GET a");
    sim.thaw();
    sim.pass(200);
    assert_eq!((sim.received(child), sim.received(other)), (":0".into(), "$1 a".into()));
    assert_ne!(sim.ran("GET a"), sim.ran("WAIT"));
}

#[test]
fn nothing_large_stands_behind_a_wait_either() {
    let (mut sim, [child, other]) = Sim::with(&[]);
    let value = "v".repeat(300 * 1024);
    assert_eq!(sim.ask(child, &format!("SET k {value}")), "+OK");
    sim.silent = sim.links(LaneRole::Shared);
    sim.send(child, "WAIT 1 0");
    sim.send(other, &format!("SET l {value}"));
    sim.thaw();
    assert_eq!(sim.received(other), "+OK");
    assert_ne!(sim.ran("SET l"), sim.ran("WAIT"));
    assert_eq!(sim.received(child), ":0");
    sim.ask(other, &format!("SET m {value}"));
    assert_eq!((sim.ran("SET m"), sim.ran("WAIT")), (sim.ran("SET k"), sim.ran("SET k")));
}

/// No canary can stand inside a MULTI, and the upstream answers everybody else.
#[test]
fn a_lost_reply_in_a_block_is_not_waited_for() {
    let settings = [("integrity", "always"), ("lane_stall_timeout", "1s"), ("connect_timeout", "500")];
    let (mut sim, [child, other]) = Sim::with(&settings);
    assert_eq!(sim.ask(child, "WATCH k\nMULTI"), "+OK +OK");
    let lease = sim.link(LaneRole::Lease);
    sim.silent = vec![lease];
    sim.send(child, "SET k v");
    sim.swallow_next(lease);
    for _ in 0..10 {
        assert_eq!(sim.received(child), "", "it may come yet");
        assert_eq!(sim.ask(other, "GET a"), "$1 a");
        sim.pass(100);
    }
    sim.pass(1500);
    assert_eq!(sim.received(child), LOST);
    assert!(sim.ask(child, "EXEC").starts_with("-EXECABORT "), "nothing of it was executed");
}

/// Nor can it stand behind these.
#[test]
fn a_lost_confirmation_is_not_waited_for() {
    let settings = [("pubsub", "leased"), ("lane_stall_timeout", "1s"), ("connect_timeout", "500")];
    for (before, request) in
        [("", "SUBSCRIBE c"), ("HELLO 3\nCLIENT TRACKING ON OPTIN", "CLIENT CACHING YES")]
    {
        let (mut sim, [child]) = Sim::with(&settings);
        sim.ask(child, before);
        // It is free again, and the next to be lent.
        sim.ask(child, "WATCH k\nUNWATCH");
        let lease = sim.link(LaneRole::Lease);
        sim.silent = vec![lease];
        sim.send(child, request);
        sim.swallow_next(lease);
        sim.pass(1000);
        assert!(!sim.is_closed(child), "{request}: it may come yet");
        sim.pass(1500);
        assert!(sim.is_closed(child), "{request}");
    }
}

/// Each of those who have just come may ask for megabytes, before everybody who comes later: few of their requests stand on
/// a lane at a time, and whoever is known does not wait for the others.
#[test]
fn few_requests_of_newcomers_stand_on_a_lane() {
    let (mut sim, [known]) = Sim::with(&[]);
    for _ in 0..8 {
        assert_eq!(sim.ask(known, "GET a"), "$1 a");
    }
    let link = sim.link(LaneRole::Shared);
    sim.silent.push(link);
    let newcomers: Vec<usize> = (0..limits::LANE_NEWCOMERS * 3).map(|_| sim.child()).collect();
    newcomers.iter().for_each(|child| sim.send(*child, "GET b\nGET c"));
    sim.send(known, "GET d");
    let depth = |sim: &Sim| sim.broker.shared.connections.find(sim.conns[&link].lane).map(Lane::depth);
    assert_eq!(depth(&sim), Some(limits::LANE_NEWCOMERS + 1));
    sim.thaw();
    assert_eq!(sim.received(known), "$1 d");
    assert!(newcomers.iter().all(|child| sim.received(*child) == "$1 b $1 c"));
}

/// Those who wait for a lane are let go a few at a time: all of them at once would mostly wait again. The first ones may have
/// nothing for it any more.
#[test]
fn newcomers_are_let_go_a_few_at_a_time() {
    let (mut sim, [first]) = Sim::with(&[]);
    assert_eq!(sim.ask(first, "GET a"), "$1 a");
    let link = sim.link(LaneRole::Shared);
    let lane = sim.conns[&link].lane;
    sim.silent.push(link);
    let newcomers: Vec<usize> = (0..limits::LANE_NEWCOMERS * 6).map(|_| sim.child()).collect();
    newcomers.iter().for_each(|child| sim.send(*child, "GET b"));
    let held = |sim: &Sim| sim.broker.shared.connections.find(lane).map(|lane| lane.held().len());
    assert_eq!(held(&sim), Some(limits::LANE_NEWCOMERS * 5));
    let (gone, left) = newcomers[limits::LANE_NEWCOMERS..].split_at(limits::LANE_NEWCOMERS * 2);
    gone.iter().for_each(|child| sim.kill(*child));
    for _ in 0..limits::LANE_NEWCOMERS / 2 {
        assert_eq!(held(&sim), Some(limits::LANE_NEWCOMERS * 5));
        sim.answer_next(link, b"$1\r\nb\r\n");
    }
    let part = limits::LANE_NEWCOMERS / 2;
    for left in [9, 8, 7, 6, 5, 5] {
        assert_eq!(held(&sim), Some(part * left));
        sim.pass(1);
    }
    sim.thaw();
    assert_eq!(held(&sim), Some(0));
    assert!(left.iter().all(|child| sim.received(*child) == "$1 b"));
}

/// Nobody could know how long the reply would be: those who come while it passes do not stand behind it.
#[test]
fn what_is_short_keeps_off_a_lane_with_a_very_long_reply() {
    let (mut sim, [before, long, after]) = Sim::with(&[]);
    for child in [before, after] {
        (0..8).for_each(|_| assert_eq!(sim.ask(child, "GET a"), "$1 a"));
    }
    let link = sim.link(LaneRole::Shared);
    sim.silent.push(link);
    sim.send(long, "GET long");
    sim.send(before, "GET b");
    let part = vec![b'v'; 1 << 20];
    sim.answer_next(link, format!("${}\r\n", 8 << 20).as_bytes());
    (0..4).for_each(|_| sim.inject(link, &part));
    assert_eq!(sim.ask(after, "GET c"), "$1 c");
    assert_eq!(sim.links(LaneRole::Shared).len(), 2);
    sim.send(before, "GET d");
    (0..4).for_each(|_| sim.inject(link, &part));
    sim.inject(link, b"\r\n");
    sim.thaw();
    assert_eq!(sim.received(before), "$1 b $1 d");
    let lane = sim.conns[&link].lane;
    assert!(
        sim.broker
            .shared
            .connections
            .find(lane)
            .is_some_and(|lane| lane.is_idle() && !lane.is_kept_from_others())
    );
    assert_eq!(sim.ask(after, "GET e"), "$1 e");
}

/// A lane without a connection would be no better.
#[test]
fn what_is_short_stays_where_no_further_connection_may_be_opened() {
    let (mut sim, [long, short]) = Sim::with(&[("upstream_connections_max", "8")]);
    for db in 1..8 {
        let other = sim.child();
        sim.ask(other, &format!("SELECT {db}\nGET a"));
    }
    (0..8).for_each(|_| assert_eq!(sim.ask(short, "GET a"), "$1 a"));
    let lane = sim.broker.children.get(sim.key(short)).map(|child| child.sent().lane()).expect("a lane");
    let link = *sim.conns.iter().find(|(_, conn)| conn.lane == lane).expect("its connection").0;
    sim.silent.push(link);
    sim.send(long, "GET long");
    sim.answer_next(link, format!("${}\r\n", 8 << 20).as_bytes());
    (0..6).for_each(|_| sim.inject(link, &vec![b'v'; 1 << 20]));
    let is_kept = sim.broker.shared.connections.find(lane).map(Lane::is_kept_from_others);
    assert_eq!(is_kept, Some(false), "{:?}", sim.broker.shared.connections.capacity().counts());
}

/// Whoever has one request waits for all that stand before it: on a deep lane nobody has more than a share.
#[test]
fn a_deep_lane_is_shared_evenly() {
    let (mut sim, [alone, other, short]) = Sim::with(&[]);
    let pipeline = "GET a\n".repeat(100);
    for child in [alone, other, short, alone, other, short] {
        sim.ask(child, &pipeline);
    }
    let link = sim.link(LaneRole::Shared);
    let lane = sim.conns[&link].lane;
    sim.silent.push(link);
    sim.send(alone, &pipeline);
    sim.send(other, &pipeline);
    sim.send(short, "GET b");
    let on_lane = |child| {
        let key = sim.key(child);
        let slots = sim.broker.shared.connections.find(lane).map(|lane| lane.out().entries().iter());
        slots.into_iter().flatten().filter(|slot| slot.child == key).count()
    };
    let share = limits::LANE_SHARE as usize;
    assert_eq!([alone, other, short].map(on_lane), [limits::LANE_DEEP, share, 1]);
    sim.thaw();
    assert_eq!(sim.received(short), "$1 b");
    let all = ["$1 a"; 100].join(" ");
    assert_eq!([sim.received(alone), sim.received(other)], [all.clone(), all]);
}

/// The replies on the next connection could come before the errors for what was lost on the last one.
#[test]
fn nothing_is_connected_before_all_have_been_told() {
    let (mut sim, [child]) = Sim::with(&[]);
    (0..8).for_each(|_| assert_eq!(sim.ask(child, "GET a"), "$1 a"));
    let link = sim.link(LaneRole::Shared);
    let lane = sim.conns[&link].lane;
    sim.silent.push(link);
    sim.send(child, &"GET b\n".repeat(limits::NOTICES_STEP * 3));
    sim.broker.lane_lost(lane, "lost");
    let mut actions: Vec<Action> = Vec::new();
    sim.broker.take_actions(&mut actions);
    assert!(actions.is_empty() && sim.broker.has_work(), "{actions:?}");
    while sim.broker.run() {}
    sim.broker.take_actions(&mut actions);
    assert!(actions.iter().any(|action| matches!(action, Action::Connect(_))), "{actions:?}");
}

/// It would send its next request to the lane that is gone, and take the reply behind it for the answer.
#[test]
fn nobody_goes_on_before_it_has_been_told_that_its_lane_is_gone() {
    let (mut sim, [owner, other]) = Sim::with(&[]);
    (0..8).for_each(|_| assert_eq!(sim.ask(other, "GET a"), "$1 a"));
    assert_eq!(sim.ask(owner, "WATCH k"), "+OK");
    let lanes = [LaneRole::Shared, LaneRole::Lease].map(|role| sim.conns[&sim.link(role)].lane);
    let link = sim.link(LaneRole::Shared);
    sim.silent.push(link);
    sim.send(other, &"GET b\n".repeat(limits::NOTICES_STEP * 4));
    for lane in lanes {
        sim.broker.lane_lost(lane, "lost");
    }
    assert!(sim.broker.shared.env.has_notices());
    let key = sim.key(owner);
    sim.broker.child_input(key, &packed("SET c d\nGET e"));
    sim.settle();
    assert_eq!(sim.received(owner), "+OK $1 e");
    assert_eq!(sim.ask(owner, "MULTI\nGET f\nEXEC"), "+OK +QUEUED *-1", "what it watched is lost");
    assert_eq!(sim.ask(owner, "GET g"), "$1 g");
}

/// Else it would be let in, and hear what it may not.
#[test]
fn a_subscriber_is_told_that_it_was_refused_before_it_goes_on() {
    let (mut sim, [listener, newcomer, other]) = Sim::with(&[]);
    (0..8).for_each(|_| assert_eq!(sim.ask(other, "GET a"), "$1 a"));
    sim.ask(listener, "SUBSCRIBE c");
    sim.frozen = vec![LaneRole::Subscriber];
    sim.send(newcomer, "SUBSCRIBE c");
    let shared = sim.link(LaneRole::Shared);
    sim.silent.push(shared);
    sim.send(other, &"GET b\n".repeat(limits::NOTICES_STEP * 8));
    let [lane, topics] = [LaneRole::Shared, LaneRole::Subscriber].map(|role| sim.conns[&sim.link(role)].lane);
    sim.broker.lane_lost(lane, "lost");
    let refusal = "-NOPERM this user has no permissions to access one of the channels used as arguments";
    sim.broker.lane_input(topics, format!("{refusal}\r\n$1\r\n2\r\n").as_bytes());
    sim.settle();
    assert_eq!(sim.received(newcomer), refusal);
}

/// Where there is no upstream all are told so in time, and not a few at a time.
#[test]
fn newcomers_are_told_together_that_there_is_no_upstream() {
    let (mut sim, [first]) = Sim::with(&[("queue_timeout", "1s")]);
    assert_eq!(sim.ask(first, "GET a"), "$1 a");
    let link = sim.link(LaneRole::Shared);
    sim.silent.push(link);
    sim.refuses = true;
    let newcomers: Vec<usize> = (0..limits::LANE_NEWCOMERS * 4).map(|_| sim.child()).collect();
    let (before, after) = newcomers.split_at(limits::LANE_NEWCOMERS * 2);
    before.iter().for_each(|child| sim.send(*child, "GET b"));
    sim.lose(link);
    after.iter().for_each(|child| sim.send(*child, "GET b"));
    sim.pass(1500);
    let told = newcomers.iter().filter(|child| sim.received(**child).contains("-BROKER")).count();
    assert_eq!(told, newcomers.len());
}
