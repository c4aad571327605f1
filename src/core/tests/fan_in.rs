//! Children that wait for the same on a few lanes, in rare orders of events.

use super::LOST;
use crate::base::limits;
use crate::core::connection::role::LaneRole;
use crate::core::sim::Sim;
use std::collections::HashSet;

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
    let (mut sim, [a, b, c]) = Sim::with(&[("leases_per_group_max", "1"), ("upstream_role", "any")]);
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
    assert_eq!(sim.ran("CLIENT UNBLOCK 1").len(), 1);
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
    assert!(sim.ran("CLIENT UNBLOCK 1").len() < 6, "{:?}", sim.ran("CLIENT UNBLOCK 1"));
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

/// So many children that wait for the same, on so many lanes at most, and one that pushes.
fn crowd(waiting: usize, lanes: &str) -> (Sim, Vec<usize>, usize) {
    let mut sim = Sim::new(&[("leases_per_group_max", lanes)]);
    let crowd: Vec<usize> = (0..waiting).map(|_| sim.child()).collect();
    crowd.iter().for_each(|child| sim.send(*child, "BLPOP q 0"));
    let pusher = sim.child();
    (sim, crowd, pusher)
}

fn push(sim: &mut Sim, pusher: usize, elements: std::ops::Range<usize>) {
    let elements: Vec<String> = elements.map(|element| element.to_string()).collect();
    sim.ask(pusher, &format!("RPUSH q {}", elements.join(" ")));
}

/// Where many elements lie, a lane takes many at once, and each still goes to the waiter whose turn it is.
#[test]
fn a_backlog_is_taken_many_at_a_time() {
    for lanes in [1, 2, 4] {
        let (mut sim, crowd, pusher) = crowd(100, &lanes.to_string());
        push(&mut sim, pusher, 0..100);
        let mut seen = HashSet::new();
        for (rank, child) in crowd.iter().enumerate() {
            let told = sim.received(*child);
            let element: usize = told.rsplit(' ').next().and_then(|last| last.parse().ok()).expect(&told);
            assert!(element.abs_diff(rank) < lanes, "{rank} was given {element} on {lanes} lanes");
            assert!(seen.insert(element), "{element} was given twice");
        }
        let looks = sim.ran("EXEC").len();
        assert!((1..20).contains(&looks), "{looks} looks on {lanes} lanes");
        assert_eq!(sim.broker.leases_lent().0, 0);
    }
}

/// How many a look serves is known once it is answered: no other lane takes an element meanwhile, or nobody could tell whose
/// that is.
#[test]
fn while_one_lane_looks_no_other_one_takes_the_command() {
    let mut sim = Sim::new(&[("leases_per_group_max", "2")]);
    sim.broker.shared.groups.look_soon();
    let [pusher, crowd @ ..]: [usize; 13] = std::array::from_fn(|_| sim.child());
    crowd.iter().for_each(|child| sim.send(*child, "BLPOP q 0"));
    assert_eq!(sim.broker.leases_lent().0, 2);
    sim.frozen = vec![LaneRole::Lease];
    push(&mut sim, pusher, 0..2);
    assert_eq!(told(&mut sim, &crowd[..2]), ["*2 $1 q $1 0", "*2 $1 q $1 1"]);
    assert_eq!(sim.broker.leases_lent().0, 1);
}

/// What a look does not find, the others wait for; nobody is told null.
#[test]
fn a_look_that_finds_too_few_leaves_the_others_waiting() {
    let (mut sim, crowd, pusher) = crowd(60, "2");
    push(&mut sim, pusher, 0..30);
    assert!(!sim.ran("EXEC").is_empty());
    let heard = told(&mut sim, &crowd);
    assert!(heard[..30].iter().all(|told| told.starts_with("*2 $1 q")), "{heard:?}");
    assert!(heard[30..].iter().all(String::is_empty), "{heard:?}");
    assert_eq!(sim.links(LaneRole::Lease).len(), 2);
    push(&mut sim, pusher, 30..60);
    assert!(crowd[30..].iter().all(|child| sim.received(*child).starts_with("*2 $1 q")));
}

/// One lane that stands still: the first of twelve children has been served from it, and it carries the command once more,
/// with a look ahead of it.
fn looking() -> (Sim, Vec<usize>, usize) {
    let mut sim = Sim::new(&[("leases_per_group_max", "1"), ("memory_max", "16MiB")]);
    sim.broker.shared.groups.look_soon();
    let crowd: Vec<usize> = (0..12).map(|_| sim.child()).collect();
    crowd.iter().for_each(|child| sim.send(*child, "BLPOP q 0"));
    let lane = sim.link(LaneRole::Lease);
    sim.frozen = vec![LaneRole::Lease];
    sim.inject(lane, ELEMENT);
    assert_eq!(sim.received(crowd[0]), "*2 $1 q $1 e");
    (sim, crowd, lane)
}

const ELEMENT: &[u8] = b"*2\r\n$1\r\nq\r\n$1\r\ne\r\n";

fn told(sim: &mut Sim, children: &[usize]) -> Vec<String> {
    children.iter().map(|child| sim.received(*child)).collect()
}

/// What a lane would have brought is lost with it to those who would have had it; the others hear nothing of it.
#[test]
fn a_lost_look_costs_as_many_as_it_was_for() {
    let (mut sim, crowd, lane) = looking();
    sim.lose(lane);
    let (served, lost) = (1, 1 + limits::LOOK_FIRST);
    let heard = told(&mut sim, &crowd[served..]);
    assert!(heard[..lost].iter().all(|told| *told == LOST), "{heard:?}");
    assert!(heard[lost..].iter().all(String::is_empty), "{heard:?}");
    sim.thaw();
    let other = sim.child();
    sim.ask(other, "RPUSH q a");
    assert_eq!(sim.received(crowd[served + lost]), "*2 $1 q $1 a");
}

/// What is found goes to the next by arrival, and then what the command itself brings.
#[test]
fn what_a_look_finds_goes_to_the_next_by_arrival() {
    let (mut sim, crowd, lane) = looking();
    sim.answer_next(lane, b"+OK\r\n");
    (0..limits::LOOK_FIRST).for_each(|_| sim.answer_next(lane, b"+QUEUED\r\n"));
    assert_eq!(told(&mut sim, &crowd[1..3]), ["", ""]);
    sim.answer_next(lane, &[b"*4\r\n", ELEMENT, ELEMENT, b"*-1\r\n*-1\r\n"].concat());
    assert_eq!(told(&mut sim, &crowd[1..4]), ["*2 $1 q $1 e", "*2 $1 q $1 e", ""]);
    sim.answer_next(lane, ELEMENT);
    assert_eq!(told(&mut sim, &crowd[3..5]), ["*2 $1 q $1 e", ""]);
}

/// Refused in the meantime, MULTI leaves commands that take for themselves: their elements are not lost.
#[test]
fn what_a_look_takes_without_its_multi_is_not_lost() {
    let (mut sim, crowd, lane) = looking();
    sim.answer_next(lane, b"-NOPERM this user has no permissions to run the 'multi' command\r\n");
    sim.answer_next(lane, ELEMENT);
    (0..limits::LOOK_FIRST - 1).for_each(|_| sim.answer_next(lane, b"*-1\r\n"));
    sim.answer_next(lane, b"-ERR EXEC without MULTI\r\n");
    sim.answer_next(lane, ELEMENT);
    assert_eq!(told(&mut sim, &crowd[1..4]), ["*2 $1 q $1 e", "*2 $1 q $1 e", ""]);
    sim.thaw();
    let other = sim.child();
    sim.ask(other, "RPUSH q a");
    assert_eq!(told(&mut sim, &crowd[3..5]), ["*2 $1 q $1 a", ""]);
}

/// What cannot be kept is an error for all whom it would have served.
#[test]
fn a_look_that_brings_too_much_is_lost_to_those_it_was_for() {
    let (mut sim, crowd, lane) = looking();
    sim.answer_next(lane, b"+OK\r\n");
    (0..limits::LOOK_FIRST).for_each(|_| sim.answer_next(lane, b"+QUEUED\r\n"));
    let max = sim.broker.shared.env.settings.memory_max;
    let element = format!("*2\r\n$1\r\nq\r\n${}\r\n", max / 4);
    let mut sent = [b"*4\r\n", element.as_bytes()].concat();
    sim.answer_next(lane, &sent);
    sent = vec![b'e'; 1 << 20];
    for part in 0..4 {
        (0..(max / 4) >> 20).for_each(|_| sim.inject(lane, &sent));
        let end = if part < 3 { [b"\r\n", element.as_bytes()].concat() } else { b"\r\n".to_vec() };
        sim.inject(lane, &end);
    }
    let heard = told(&mut sim, &crowd[1..]);
    let (lost, others) = heard.split_at(limits::LOOK_FIRST);
    assert!(lost.iter().all(|told| told.starts_with("-BROKERLOST ")), "{lost:?}");
    assert!(others.iter().all(String::is_empty), "{others:?}");
}

/// MULTI may be refused for good: the elements come one by one.
#[test]
fn a_backlog_without_the_right_to_look_comes_one_by_one() {
    let (mut sim, crowd, pusher) = crowd(40, "1");
    sim.deny("multi");
    push(&mut sim, pusher, 0..40);
    for (rank, child) in crowd.iter().enumerate() {
        assert!(sim.received(*child).ends_with(&format!(" {rank}")));
    }
    assert_eq!(sim.ran("EXEC").len(), 1, "refused once, it is not tried again soon");
}

/// An error that a look finds is told to those who waited when it was written.
#[test]
fn an_error_in_a_look_is_told_to_nobody_who_came_after_it() {
    let (mut sim, mut crowd, lane) = looking();
    sim.answer_next(lane, b"+OK\r\n");
    (0..limits::LOOK_FIRST).for_each(|_| sim.answer_next(lane, b"+QUEUED\r\n"));
    let late = sim.child();
    sim.send(late, "BLPOP q 0");
    crowd.drain(..10).for_each(|child| sim.kill(child));
    sim.answer_next(lane, &[b"*4\r\n".as_slice(), &b"-WRONGTYPE x\r\n".repeat(4)].concat());
    assert_eq!(told(&mut sim, &[crowd[0], crowd[1], late]), ["-WRONGTYPE x", "-WRONGTYPE x", ""]);
}

/// A look is over at once: no more is asked for than there are children, whoever leaves.
#[test]
fn a_look_leaves_nothing_behind_for_those_who_go() {
    let (mut sim, crowd, pusher) = crowd(12, "1");
    push(&mut sim, pusher, 0..9);
    assert!(!sim.ran("EXEC").is_empty());
    crowd[9..11].iter().for_each(|child| sim.kill(*child));
    sim.ask(pusher, "RPUSH q a b");
    assert_eq!(sim.received(crowd[11]), "*2 $1 q $1 a");
    assert_eq!(sim.ask(pusher, "BLPOP q 0"), "*2 $1 q $1 b");
}

/// One lane is too many, and stands still with the command on it, while the control connection does not: it is not asked
/// again at once that there is nothing to end.
#[test]
fn a_lane_that_stands_still_is_not_asked_to_end_all_the_time() {
    let (mut sim, crowd, _) = crowd(3, "2");
    sim.frozen = vec![LaneRole::Lease];
    *sim.early_unblocks() = 1000;
    crowd[1..].iter().for_each(|child| sim.kill(*child));
    sim.pass(100);
    let asked = sim.ran("CLIENT UNBLOCK 1").len();
    assert!((2..30).contains(&asked), "{asked} times");
}
