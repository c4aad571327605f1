//! Who goes on which lane in which order, and the canaries between them.

use super::*;
use crate::core::connection::role::LaneRole;

/// Which connection ran each request that begins so, in order.
fn ran(sim: &Sim, start: &str) -> Vec<i64> {
    sim.executed().iter().filter(|(_, request)| request.starts_with(start)).map(|(conn, _)| *conn).collect()
}

#[test]
fn a_deep_pipeline_lets_others_in_between() {
    let mut sim = Sim::new(&[]);
    let (deep, other) = (sim.child(), sim.child());
    let many: String = (0..500).map(|n| format!("GET deep{n}\n")).collect();
    // Both arrive in the same turn, the deep one first.
    sim.broker.child_input(sim.key(deep), &packed(&many));
    sim.broker.child_input(sim.key(other), &packed("GET other"));
    sim.settle();
    let at = sim.executed().iter().position(|(_, request)| request == "GET other").expect("it ran");
    let before = sim.executed()[..at].iter().filter(|(_, request)| request.starts_with("GET deep")).count();
    assert_eq!(before, 32, "one turn's worth");
    assert_eq!(ran(&sim, "GET deep").len(), 500);
    let replies = sim.received(deep);
    assert!(replies.starts_with("$5 deep0 ") && replies.ends_with("$7 deep499"), "in order, to the last");
}

#[test]
fn a_child_that_ends_behind_a_deep_pipeline_gets_all_of_it() {
    let mut sim = Sim::new(&[]);
    let child = sim.child();
    let many: String = (0..100).map(|n| format!("GET {n}\n")).collect();
    sim.broker.child_input(sim.key(child), &packed(&many));
    sim.half_close(child);
    assert!(sim.received(child).ends_with("$2 99"));
    assert!(sim.is_closed(child));
}

#[test]
fn what_is_large_has_a_lane_of_its_own() {
    let mut sim = Sim::new(&[]);
    let (large, small) = (sim.child(), sim.child());
    let value = "v".repeat(300 * 1024);
    sim.send(small, "GET a");
    sim.send(large, &format!("SET k {value}"));
    assert_eq!(sim.received(large), "+OK");
    assert_ne!(ran(&sim, "GET a"), ran(&sim, "SET k"));
    // What comes next is small again, and goes where small requests go.
    sim.ask(large, "GET b");
    assert_eq!(ran(&sim, "GET b"), ran(&sim, "GET a"));
    // Whoever was answered at length expects it again, and unlearns it.
    let link = sim.links(LaneRole::Shared)[0];
    sim.silent.push(link);
    sim.send(large, "GET c");
    let mut reply = Vec::new();
    crate::resp::encode::bulk(&mut reply, value.as_bytes());
    sim.silent.clear();
    sim.answer_next(link, &reply);
    assert_eq!(sim.received(large).len(), "$307200 ".len() + value.len());
    sim.ask(large, "GET d");
    assert_eq!(ran(&sim, "GET d"), ran(&sim, "SET k"));
    sim.ask(large, "SET d v");
    assert_eq!(ran(&sim, "SET d"), ran(&sim, "GET a"), "only the command that was answered at length");
    for n in 0..16 {
        sim.ask(large, &format!("GET e{n}"));
    }
    sim.ask(large, "GET f");
    assert_eq!(ran(&sim, "GET f"), ran(&sim, "GET a"));
}

#[test]
fn waiters_are_served_in_the_order_they_came() {
    for leases in ["1", "2", "3"] {
        let mut sim = Sim::new(&[("leases_blocking_max", leases), ("leases_warm", "0")]);
        let waiting: Vec<usize> = (0..6).map(|_| sim.child()).collect();
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
    let mut sim = Sim::new(&[("lanes", "2"), ("request_timeout", "500")]);
    let (child, other) = (sim.child(), sim.child());
    sim.ask(child, "GET warm");
    sim.silent = sim.links(LaneRole::Shared);
    sim.send(child, "SET k old");
    sim.pass(1000);
    assert!(sim.received(child).starts_with("-BROKERTIMEOUT"));
    sim.ask(other, "GET free");
    assert!(sim.received(child).is_empty());
    // The other lane is idle, and the one of the first request is not answered.
    sim.send(child, "SET k new");
    assert!(ran(&sim, "SET k").is_empty());
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
    sim.silent.clear();
    sim.settle();
    let order: Vec<&str> = sim.executed().iter().map(|(_, request)| request.as_str()).collect();
    let sets: Vec<&&str> = order.iter().filter(|request| request.starts_with("SET")).collect();
    assert_eq!(sets.iter().filter(|set| set.starts_with("SET k")).count(), 2);
    let at = |set: &str| sets.iter().position(|other| **other == set);
    assert!(at("SET k old") < at("SET k new"), "{sets:?}");
    assert_eq!(sim.ask(child, "GET on"), "$2 on");
}

// ---- canaries --------------------------------------------------------------------------------------------

#[test]
fn with_canaries_everything_reads_as_without() {
    for setting in ["sampled", "always"] {
        let mut sim = Sim::new(&[("integrity", setting), ("integrity_sample", "2")]);
        let (a, b) = (sim.child(), sim.child());
        assert_eq!(sim.ask(a, "SET k v\nGET x\nPING"), "+OK $1 x +PONG");
        assert_eq!(sim.ask(a, "MULTI\nGET x\nEXEC"), "+OK +QUEUED *1 $1 x");
        assert_eq!(sim.ask(a, "MULTI") + &sim.ask(a, "GET x") + &sim.ask(a, "EXEC"), "+OK+QUEUED*1 $1 x");
        assert_eq!(sim.ask(a, "WATCH k\nMULTI\nGET y\nEXEC"), "+OK +OK +QUEUED *1 $1 y");
        assert_eq!(sim.ask(b, "BLPOP x 0"), "");
        assert_eq!(sim.ask(a, "RPUSH x e"), ":1");
        assert_eq!(sim.received(b), "*2 $1 x $1 e");
        assert!(sim.broker.counters().canaries > 2, "{setting}");
        assert_eq!(sim.broker.counters().integrity_failures, 0);
        assert_eq!(sim.broker.leases_lent(), (0, 0, 0));
    }
}

#[test]
fn no_reply_passes_without_its_proof() {
    let faults: [&[u8]; 3] = [b"$1\r\nx\r\n", b"+OK\r\n", b"-ERR another child's\r\n"];
    for injected in faults {
        let mut sim = Sim::new(&[("integrity", "always")]);
        let (a, b) = (sim.child(), sim.child());
        sim.ask(a, "GET warm");
        let link = sim.links(LaneRole::Shared)[0];
        sim.silent.push(link);
        sim.send(a, "GET mine");
        sim.send(b, "GET yours");
        sim.silent.clear();
        sim.inject(link, injected);
        assert_eq!((sim.received(a).as_str(), sim.received(b).as_str()), (LOST, LOST));
        assert_eq!(sim.broker.counters().integrity_failures, 1);
        assert_eq!(sim.ask(a, "GET again"), "$5 again");
    }
}

#[test]
fn a_reply_that_was_lost_is_noticed_before_anyone_has_another() {
    let mut sim = Sim::new(&[("integrity", "always")]);
    let (a, b) = (sim.child(), sim.child());
    sim.ask(a, "GET warm");
    let link = sim.links(LaneRole::Shared)[0];
    sim.silent.push(link);
    sim.send(a, "GET mine");
    sim.send(b, "GET yours");
    sim.silent.clear();
    sim.swallow_next(link);
    assert_eq!((sim.received(a).as_str(), sim.received(b).as_str()), (LOST, LOST));
}

#[test]
fn a_canary_that_was_lost_is_missed() {
    let mut sim = Sim::new(&[("integrity", "always")]);
    let child = sim.child();
    sim.ask(child, "GET warm");
    let link = sim.links(LaneRole::Shared)[0];
    sim.silent.push(link);
    sim.send(child, "GET mine");
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
        let mut sim = Sim::new(&[("integrity", "always"), ("transactions", "leased")]);
        let child = sim.child();
        assert_eq!(sim.ask(child, "MULTI"), "+OK");
        let link = sim.links(LaneRole::Lease)[0];
        sim.silent.push(link);
        sim.send(child, "GET mine");
        sim.inject(link, injected);
        assert_eq!(sim.received(child), LOST);
    }
}

#[test]
fn a_lost_reply_is_noticed_although_nothing_follows_its_canary() {
    let mut sim = Sim::new(&[("integrity", "always")]);
    let child = sim.child();
    sim.ask(child, "GET warm");
    let link = sim.links(LaneRole::Shared)[0];
    sim.silent.push(link);
    sim.send(child, "GET mine");
    sim.silent.clear();
    sim.swallow_next(link);
    assert_eq!(sim.received(child), LOST);
}

#[test]
fn withheld_replies_have_a_request_timeout_too() {
    let mut sim = Sim::new(&[("integrity", "always"), ("request_timeout", "500")]);
    let child = sim.child();
    sim.ask(child, "GET warm");
    let link = sim.links(LaneRole::Shared)[0];
    sim.silent.push(link);
    sim.send(child, "GET mine");
    sim.inject(link, b"$4\r\nmine\r\n");
    assert_eq!(sim.received(child), "", "its canary has not come");
    sim.pass(2000);
    assert!(sim.received(child).starts_with("-BROKERTIMEOUT"));
    sim.silent.clear();
    sim.settle();
    assert_eq!(sim.received(child), "");
}

#[test]
fn a_push_on_a_lease_is_for_a_child_that_has_asked_for_some() {
    let mut sim = Sim::new(&[]);
    let child = sim.child();
    sim.ask(child, "HELLO 3");
    assert_eq!(sim.ask(child, "WATCH k"), "+OK");
    let link = sim.links(LaneRole::Lease)[0];
    sim.inject(link, b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$5\r\nyours\r\n");
    assert_eq!(sim.received(child), "");
    assert_eq!(sim.ask(child, "GET mine"), "$4 mine");
}

#[test]
fn a_subscriber_that_has_written_may_not_wait_either() {
    let mut sim = Sim::new(&[("pubsub", "leased")]);
    let child = sim.child();
    sim.ask(child, "SET k v\nSUBSCRIBE c");
    assert!(sim.ask(child, "WAIT 0 1").starts_with("-ERR Can't execute 'wait'"));
}
