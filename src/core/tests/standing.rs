//! Lanes that stand still for a child that takes its long reply more slowly than it comes.

use crate::base::limits;
use crate::core::connection::role::LaneRole;
use crate::core::keys::LaneKey;
use crate::core::sim::Sim;
use crate::core::standing::LaneReading;

const MEMORY: usize = 16 << 20;
const PART: usize = 1 << 20;
const REPLY: usize = 20 << 20;

/// Children that have come just now and ask for something, and one whose replies are known to be short. Redis answers
/// nothing by itself any more.
fn asked() -> (Sim, [usize; 2], usize, usize) {
    let (mut sim, [known, first, second]) = Sim::with(&[("memory_max", "16MiB")]);
    for _ in 0..8 {
        assert_eq!(sim.ask(known, "GET a"), "$1 a");
    }
    let link = sim.link(LaneRole::Shared);
    sim.silent.push(link);
    sim.set_room(first, 0);
    sim.send(first, "GET first");
    sim.send(second, "GET second");
    (sim, [first, second], known, link)
}

fn lane(sim: &Sim, link: usize) -> LaneKey {
    sim.conns[&link].lane
}

fn stands_still(sim: &Sim, link: usize) -> bool {
    sim.broker.lane_reading(lane(sim, link)) == LaneReading::WhenResumed
}

/// Gives as much of a long reply as is read, and returns how much that was.
fn give(sim: &mut Sim, link: usize) -> usize {
    sim.answer_next(link, format!("${REPLY}\r\n").as_bytes());
    go_on_giving(sim, link, 0)
}

fn go_on_giving(sim: &mut Sim, link: usize, mut given: usize) -> usize {
    while given < REPLY && !stands_still(sim, link) {
        sim.inject(link, &vec![b'v'; PART]);
        given += PART;
        assert!(sim.broker.shared.env.held() <= MEMORY);
    }
    if given == REPLY {
        sim.inject(link, b"\r\n");
    }
    given
}

#[test]
fn a_reply_is_read_as_it_is_taken_where_memory_is_short() {
    let (mut sim, [first, second], known, link) = asked();
    let given = give(&mut sim, link);
    assert!((MEMORY / 8 * 6..MEMORY).contains(&given), "{given}");
    // Whoever is known to ask for what is short does so elsewhere.
    assert_eq!(sim.ask(known, "GET b"), "$1 b");
    // Nobody is told that the upstream is silent, whom nobody hears.
    sim.set_room(first, limits::STANDING_TAKES_MIN as usize);
    sim.pass(limits::STANDING_PATIENCE - 1000);
    assert!(stands_still(&sim, link) && !sim.is_closed(first));
    sim.set_room(first, usize::MAX);
    assert!(!stands_still(&sim, link));
    assert_eq!(go_on_giving(&mut sim, link, given), REPLY);
    assert_eq!(sim.received(first).len(), format!("${REPLY} ").len() + REPLY);
    sim.answer_next(link, b"$6\r\nsecond\r\n");
    assert_eq!(sim.received(second), "$6 second");
}

#[test]
fn no_lane_stands_still_before_what_is_short() {
    let (mut sim, [first, second], known, link) = asked();
    sim.send(known, "GET b");
    sim.answer_next(link, format!("${REPLY}\r\n").as_bytes());
    for _ in 0..REPLY / PART {
        sim.inject(link, &vec![b'v'; PART]);
        assert!(!stands_still(&sim, link));
    }
    sim.inject(link, b"\r\n");
    assert!(sim.is_closed(first), "it has held more than there is");
    sim.answer_next(link, b"$6\r\nsecond\r\n");
    sim.answer_next(link, b"$1\r\nb\r\n");
    assert_eq!((sim.received(second).as_str(), sim.received(known).as_str()), ("$6 second", "$1 b"));
}

#[test]
fn whoever_takes_nothing_is_not_waited_for() {
    let (mut sim, [first, second], _, link) = asked();
    let given = give(&mut sim, link);
    sim.pass(limits::STANDING_PATIENCE + 1000);
    assert!(sim.is_closed(first) && !stands_still(&sim, link));
    assert_eq!(go_on_giving(&mut sim, link, given), REPLY);
    sim.answer_next(link, b"$6\r\nsecond\r\n");
    assert_eq!(sim.received(second), "$6 second");
}

/// Only so many lanes have another in their place.
#[test]
fn lanes_that_stand_still_are_few() {
    let (mut sim, [..], _, link) = asked();
    assert!(give(&mut sim, link) < REPLY);
    let mut standing = 1;
    for _ in 0..limits::SLOW_LANES {
        let (known, slow) = (sim.child(), sim.child());
        for _ in 0..8 {
            assert_eq!(sim.ask(known, "GET a"), "$1 a");
        }
        let next = *sim.links(LaneRole::Shared).last().expect("a lane in its place");
        sim.silent.push(next);
        sim.set_room(slow, 0);
        sim.broker.shared.connections.renumber_commands(&Default::default());
        sim.send(slow, "GET slow");
        sim.answer_next(next, format!("${REPLY}\r\n").as_bytes());
        sim.inject(next, &vec![b'v'; limits::STANDING_UNREAD]);
        sim.inject(next, b"v");
        standing += usize::from(stands_still(&sim, next));
    }
    assert_eq!(standing, limits::SLOW_LANES);
}
