//! Transactions that stand behind a MULTI which is accepted before they are sent.

use super::LOST;
use crate::core::connection::role::LaneRole;
use crate::core::sim::Sim;

const DENIED: &str = "NOPERM this user has no permissions to run the 'multi' command";

fn queue(sim: &mut Sim, child: usize, key: &str) {
    for line in ["MULTI", &format!("SET {key} v"), "EXEC"] {
        sim.send(child, line);
    }
}

/// Its MULTI, which has been accepted there, is not sent again.
#[test]
fn a_transaction_that_begins_with_select_moves_to_a_lease_with_one_multi() {
    for integrity in ["off", "always"] {
        let (mut sim, [child]) = Sim::with(&[("integrity", integrity)]);
        assert_eq!(sim.ask(child, "MULTI"), "+OK");
        assert_eq!(sim.ask(child, "SELECT 1"), "+QUEUED", "integrity {integrity}");
        assert_eq!(sim.ask(child, "GET a"), "+QUEUED");
        assert_eq!(sim.ask(child, "EXEC"), "*2 +OK $1 a");
        let on_lease = sim.ran("SELECT 1")[0];
        let multis = sim.ran("MULTI").into_iter().filter(|conn| *conn == on_lease).count();
        assert_eq!(multis, 1, "{:?}", sim.executed());
    }
}

#[test]
fn a_block_is_not_written_before_the_multi_for_it_is_accepted() {
    let (mut sim, [child]) = Sim::with(&[]);
    queue(&mut sim, child, "a");
    assert_eq!(sim.received(child), "+OK +QUEUED *1 +OK");
    sim.frozen = vec![LaneRole::Shared];
    queue(&mut sim, child, "b");
    queue(&mut sim, child, "c");
    sim.deny("multi");
    sim.thaw();
    let told =
        format!("+OK +QUEUED *1 +OK +OK +QUEUED -EXECABORT Transaction discarded because of: {DENIED}");
    assert_eq!(sim.received(child), told);
    assert_eq!((sim.ran("SET b").len(), sim.ran("SET c").len()), (1, 0));
}

/// The MULTI that a block has left behind is nobody's, and what has not been written goes on the next connection.
#[test]
fn only_blocks_that_were_written_are_lost_with_their_lane() {
    let (mut sim, [child]) = Sim::with(&[]);
    queue(&mut sim, child, "a");
    assert_eq!(sim.received(child), "+OK +QUEUED *1 +OK");
    let lost = |sim: &Sim| sim.broker.counters().requests_lost;
    sim.lose_one(LaneRole::Shared);
    assert_eq!((sim.received(child), lost(&sim)), (String::new(), 0), "a MULTI alone was on it");
    queue(&mut sim, child, "b");
    assert_eq!(sim.received(child), "+OK +QUEUED *1 +OK");
    sim.frozen = vec![LaneRole::Shared];
    queue(&mut sim, child, "c");
    queue(&mut sim, child, "d");
    sim.lose_one(LaneRole::Shared);
    sim.thaw();
    sim.pass(100);
    assert_eq!(sim.received(child), format!("+OK +QUEUED {LOST} +OK +QUEUED *1 +OK"));
    assert_eq!((lost(&sim), sim.ran("SET c").len(), sim.ran("SET d").len()), (1, 0, 1));
}

/// So many transactions at a time as there are lanes for them, and those are given up when they rest.
#[test]
fn more_lanes_carry_more_blocks_and_go_again() {
    let (mut sim, children) = Sim::with::<3>(&[]);
    queue(&mut sim, children[0], "a");
    sim.frozen = vec![LaneRole::Shared];
    for child in &children {
        queue(&mut sim, *child, "b");
    }
    sim.thaw();
    for child in &children {
        queue(&mut sim, *child, "c");
        assert!(sim.received(*child).ends_with("+OK +QUEUED *1 +OK"));
    }
    assert_eq!(sim.links(LaneRole::Shared).len(), 2, "one more, for the two that found the first at work");
    sim.pass(5000);
    assert_eq!(sim.links(LaneRole::Shared).len(), 1);
}

/// Nothing that is lost, doubled or slipped in on such a lane reaches a child under canaries, though none is on it.
#[test]
fn the_next_multi_proves_a_block() {
    for frame in
        [&b"+QUEUED\r\n"[..], b"*1\r\n$1\r\nx\r\n", b"+OK\r\n", b"-ERR slipped in\r\n", b"$1\r\nx\r\n"]
    {
        for at in 0..4 {
            let (mut sim, [child]) = Sim::with(&[("integrity", "always")]);
            queue(&mut sim, child, "a");
            assert_eq!(sim.received(child), "+OK +QUEUED *1 +OK");
            sim.silent = sim.links(LaneRole::Shared);
            let link = sim.silent[0];
            queue(&mut sim, child, "b");
            let replies = [&b"+QUEUED\r\n"[..], b"*1\r\n+OK\r\n", b"+OK\r\n"];
            for index in 0..=replies.len() {
                // The lane may be closed by now.
                if index == at && sim.links(LaneRole::Shared).contains(&link) {
                    sim.inject(link, frame);
                }
                if let Some(reply) = replies.get(index)
                    && sim.links(LaneRole::Shared).contains(&link)
                {
                    sim.answer_next(link, reply);
                }
            }
            let told = sim.received(child);
            // In its place another OK is as good as the true one.
            let good = if at == 3 || (at == 2 && frame == b"+OK\r\n") {
                "+OK +QUEUED *1 +OK".into()
            } else {
                format!("+OK +QUEUED {LOST}")
            };
            assert!(told == good, "{} at {at}: {told}", frame.escape_ascii());
        }
    }
}
