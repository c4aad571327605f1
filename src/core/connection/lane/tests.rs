//! What a lane knows of the requests on it.

use super::*;

fn at(now: Millis) -> Moment {
    Moment { now, ..Moment::default() }
}

use crate::core::connection::slot::SlotFlags;

const NONE: SlotFlags = SlotFlags::NONE;
const UNIT: SlotFlags = SlotFlags::UNIT;

fn lane(requests: &[(&[u8], SlotFlags)]) -> Lane {
    let mut lane = Lane::new(PoolId(0), RoleData::shared(Traffic::Ordinary), 0);
    for (bytes, flags) in requests {
        lane.push(bytes, Slot { flags: *flags, ..Slot::own(SlotKind::Relay) }, &at(0));
    }
    lane
}

/// The arithmetic is the pipeline's, which must be told what a unit is.
#[test]
fn a_block_is_lost_as_a_whole() {
    let mut lane = lane(&[(b"multi", UNIT), (b"set", UNIT), (b"exec", NONE), (b"get", NONE)]);
    lane.wrote(1, 0);
    assert_eq!(lane.take_written().len(), 3);
    assert_eq!(lane.out.bytes().front(), b"get");
}

#[test]
fn what_has_waited_too_long_unwritten_is_taken() {
    let mut lane = lane(&[]);
    lane.push(b"bb", Slot::own(SlotKind::Relay), &at(7));
    lane.push(b"cc", Slot::own(SlotKind::Relay), &at(8));
    assert_eq!(lane.take_expired(7, 1, 9).len(), 0);
    assert_eq!(lane.take_expired(8, 1, 9).len(), 1);
    assert_eq!(lane.out.bytes().front(), b"cc");
}

#[test]
fn slots_that_were_told_are_told_once_whatever_becomes_of_their_connection() {
    let mut lane = lane(&[(b"a", NONE), (b"b", NONE), (b"c", NONE), (b"d", NONE)]);
    lane.wrote(2, 0);
    assert_eq!(lane.time_out(10, 5, 9).len(), 4, "of those that have not left too");
    assert_eq!(lane.pop().map(|slot| slot.is_timed_out()), Some(true), "it stays until its reply has come");
    assert_eq!(lane.take_written().len(), 1);
    assert_eq!(lane.time_out(10, 5, 9).len(), 0, "c and d were told");
    assert_eq!(lane.take_expired(10, 5, 9).len(), 2);
    lane.push(b"e", Slot::own(SlotKind::Relay), &at(10));
    lane.push(b"f", Slot::own(SlotKind::Relay), &at(10));
    assert_eq!(lane.time_out(15, 5, 9).iter().map(|slot| slot.end).collect::<Vec<_>>(), [5, 6]);
}

#[test]
fn where_the_time_of_a_request_goes_is_known_when_it_is_answered() {
    let mut lane = Lane::new(PoolId(0), RoleData::shared(Traffic::Ordinary), 0);
    let push = |lane: &mut Lane, bytes: &[u8], micros, input_us| {
        let moment = Moment { now: micros / 1000, input_us, keeps_prefix: true };
        lane.push(bytes, Slot::own(SlotKind::Relay), &moment);
        lane.note_pushed(micros);
    };
    push(&mut lane, b"aa", 1000, 0);
    push(&mut lane, b"bb", 2000, 700);
    push(&mut lane, b"cc", 2000, 0);
    lane.wrote(3, 5000);
    lane.wrote(3, 6000);
    let mut times = Vec::new();
    while let Some(answered) = lane.take_answered(9) {
        let RequestStamps { pushed_at, written_at, input_us } = answered.times;
        times.push((pushed_at, written_at, input_us));
        assert!(lane.prefix_of(&answered.slot).is_some());
    }
    assert_eq!(times, [(1000, 5000, 0), (2000, 6000, 700), (2000, 6000, 0)]);
}

#[test]
fn what_is_known_of_requests_that_expire_is_forgotten() {
    let mut lane = Lane::new(PoolId(0), RoleData::shared(Traffic::Ordinary), 0);
    for second in 1..=400 {
        let moment = Moment { now: second * 1000, input_us: 5, keeps_prefix: false };
        lane.push(b"aa", Slot::own(SlotKind::Relay), &moment);
        lane.note_pushed(second * 1_000_000);
        lane.take_expired(second * 1000 + 500, 1000, 10);
    }
    lane.wrote(lane.out().bytes().len(), 400_000_000);
    let answered = lane.take_answered(400_000).expect("the last one");
    assert_eq!((answered.times.pushed_at, lane.timing.waited.len()), (400_000_000, 0));
}

/// A long reply is no stall, however long it is the next one.
#[test]
fn a_lane_on_which_bytes_come_is_not_silent() {
    let mut lane = lane(&[]);
    lane.push(b"aa", Slot::own(SlotKind::Relay), &at(7));
    assert_eq!(lane.silent_since(), 7);
    lane.note_input(9_000);
    assert_eq!((lane.oldest_since(), lane.silent_since()), (7, 9_000));
}
