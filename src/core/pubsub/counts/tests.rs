//! What children are told of how many listen, in rare orders of events, played through on the simulation.

use super::*;
use crate::core::connection::role::LaneRole;
use crate::core::sim::Sim;

const MESSAGE: &str = "*3 $7 message $1 c $1 m";
const ASKED: &str = "PUBSUB NUMSUB c d\nPUBSUB SHARDNUMSUB c d";

/// A broker with children, as many of which listen to a channel.
fn listening<const N: usize>(settings: &[(&str, &str)], count: usize) -> (Sim, [usize; N]) {
    let (mut sim, children) = Sim::with(settings);
    for child in &children[..count] {
        assert_eq!(sim.ask(*child, "SUBSCRIBE c"), "*3 $9 subscribe $1 c :1");
    }
    (sim, children)
}

/// The upstream runs nothing on connections of these roles until `thaw`.
fn freeze(sim: &mut Sim, roles: &[LaneRole]) {
    sim.frozen = roles.to_vec();
}

/// The roles of the connections that ran requests which begin so.
fn ran_on_topics_lane(sim: &Sim, start: &str) -> Vec<bool> {
    let subscribed = sim.ran("subscribe");
    sim.ran(start).iter().map(|connection| subscribed.contains(connection)).collect()
}

#[test]
fn every_listener_is_counted() {
    for integrity in ["off", "always", "sampled"] {
        let settings = [("integrity", integrity), ("integrity_sample", "1")];
        let (mut sim, [a, b, c, p]) = listening(&settings, 3);
        assert_eq!(sim.ask(p, "PUBLISH c m"), ":3", "{integrity}");
        for child in [a, b, c] {
            assert_eq!(sim.received(child), MESSAGE);
        }
        sim.ask(a, "PSUBSCRIBE c* x*");
        sim.ask(b, "PSUBSCRIBE c*");
        sim.ask(c, "SSUBSCRIBE c");
        assert_eq!(sim.ask(p, "PUBLISH c m"), ":5", "a child counts once for each of its topics");
        assert_eq!(sim.ask(p, "PUBLISH cc m"), ":2", "only patterns match");
        assert_eq!(sim.ask(p, "SPUBLISH c m"), ":1", "patterns are none of shard channels");
        assert_eq!(sim.ask(p, "PUBLISH d m"), ":0");
        let told = "*4 $1 c :3 $1 d :0 *4 $1 c :1 $1 d :0";
        assert_eq!(sim.ask(p, ASKED), told);
        assert_eq!(sim.ask(p, "PUBSUB NUMSUB"), "*0");
        assert_eq!(sim.ask(p, "HELLO 3\nGET x").matches("$1 x").count(), 1);
        assert_eq!(sim.ask(p, &format!("PUBLISH c m\n{ASKED}")), format!(":5 {told}"), "in RESP3, too");
        for child in [a, b] {
            sim.kill(child);
        }
        assert_eq!(sim.ask(p, "PUBLISH c m"), ":1", "{integrity}");
    }
}

/// What nobody here listens to goes where it always goes, in one pipeline with all else.
#[test]
fn a_channel_without_listeners_is_published_to_on_a_shared_lane() {
    let (mut sim, [_, p]) = listening(&[], 1);
    freeze(&mut sim, &[LaneRole::Subscriber]);
    assert_eq!(
        sim.ask(p, "SET a 1\nPUBLISH d m\nPUBSUB NUMSUB d e\nGET b"),
        "+OK :0 *4 $1 d :0 $1 e :0 $1 b"
    );
    assert_eq!(ran_on_topics_lane(&sim, "PUBLISH"), [false]);
    sim.thaw();
    assert_eq!(sim.ask(p, "PUBLISH c m"), ":1");
    assert_eq!(ran_on_topics_lane(&sim, "PUBLISH"), [false, true]);
}

/// Messages must not wait for a long answer, and an answer that cannot be kept must not close their connection.
#[test]
fn a_long_question_is_none_for_the_connection_of_messages() {
    let (mut sim, [_, _, p]) = listening(&[], 2);
    let names = "x ".repeat(crate::base::limits::BULK_MIN / 7);
    let told = sim.ask(p, &format!("PUBSUB NUMSUB c {names}"));
    assert!(told.starts_with("*") && told.contains(" $1 c :2 $1 x :0 "), "{:.80}", told);
    assert_eq!(ran_on_topics_lane(&sim, "PUBSUB"), [false]);
}

/// Behind the child's earlier requests, and before its later ones.
#[test]
fn what_a_child_asks_stays_in_its_order() {
    let (mut sim, [_, _, p]) = listening(&[], 2);
    freeze(&mut sim, &[LaneRole::Shared]);
    assert_eq!(sim.ask(p, "SET k 1\nPUBLISH c m\nPUBLISH c m\nGET k\nPUBSUB NUMSUB c"), "");
    assert_eq!(sim.ran("PUBLISH").len(), 0, "not before what the child has asked earlier");
    sim.thaw();
    assert_eq!(sim.received(p), "+OK :2 :2 $1 1 *2 $1 c :2");
}

/// What proves a reply may be late: whoever leaves meanwhile has heard the message.
#[test]
fn a_reply_that_is_withheld_counts_who_listened_when_it_came() {
    let (mut sim, [a, _, p]) = listening(&[("integrity", "always")], 2);
    freeze(&mut sim, &[LaneRole::Subscriber]);
    sim.send(p, "PUBLISH c m");
    let message = ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n";
    let lane = sim.link(LaneRole::Subscriber);
    sim.answer_next(lane, format!("{message}:1\r\n").as_bytes());
    assert_eq!(sim.received(p), "");
    assert_eq!(sim.received(a), MESSAGE);
    sim.kill(a);
    sim.thaw();
    assert_eq!(sim.received(p), ":2");
    assert_eq!(sim.ask(p, "PUBLISH c m"), ":1");
}

#[test]
fn so_does_an_exec_that_is_withheld() {
    let (mut sim, [a, _, p]) = listening(&[("integrity", "always")], 2);
    assert_eq!(sim.ask(p, "GET k"), "$1 k");
    freeze(&mut sim, &[LaneRole::Shared]);
    let block = "MULTI\nPUBLISH c m\nEXEC";
    sim.send(p, &format!("{block}\n{block}"));
    let lane = sim.link(LaneRole::Shared);
    for reply in ["+OK\r\n", "+QUEUED\r\n", "*1\r\n:1\r\n"] {
        sim.answer_next(lane, reply.as_bytes());
    }
    sim.kill(a);
    sim.thaw();
    assert_eq!(sim.received(p), "+OK +QUEUED *1 :2 +OK +QUEUED *1 :1");
}

/// What the upstream did not leave is still carried, whoever was refused to join it meanwhile.
#[test]
fn a_topic_that_could_neither_be_left_nor_joined_is_known_to_be_carried() {
    const BUSY: &[u8] = b"-BUSY Redis is busy running a script.\r\n";
    let (mut sim, [a, b, p]) = listening(&[], 1);
    freeze(&mut sim, &[LaneRole::Subscriber]);
    sim.kill(a);
    sim.send(b, "SUBSCRIBE c");
    let lane = sim.link(LaneRole::Subscriber);
    for _ in ["unsubscribe", "subscribe"] {
        sim.answer_next(lane, BUSY);
    }
    sim.thaw();
    assert_eq!(sim.received(b), "-BUSY Redis is busy running a script.");
    sim.deny("unsubscribe");
    assert_eq!(sim.ask(p, "PUBLISH c m\nPUBSUB NUMSUB c"), ":0 *2 $1 c :0");
    assert_eq!(sim.ask(b, "SUBSCRIBE c"), "*3 $9 subscribe $1 c :1");
    assert_eq!(sim.ask(p, "PUBLISH c m"), ":1");
    assert_eq!(sim.received(b), MESSAGE);
}

/// On its own connection a child reads its message before the number.
#[test]
fn a_child_hears_itself_before_the_reply() {
    for integrity in ["off", "always"] {
        let (mut sim, [a, _]) = listening(&[("integrity", integrity)], 2);
        sim.ask(a, "UNSUBSCRIBE c\nHELLO 3\nSUBSCRIBE c");
        let own = ">3 $7 message $1 c $1 m";
        assert_eq!(sim.ask(a, "PUBLISH c m\nGET k\nPUBLISH c m"), format!("{own} :2 $1 k {own} :2"));
    }
}

/// Whoever asked to listen before the message was published is counted, and nobody who asked later.
#[test]
fn the_order_of_the_upstream_counts() {
    let (mut sim, [a, b, p, q]) = listening(&[], 1);
    freeze(&mut sim, &[LaneRole::Subscriber]);
    sim.send(q, "PUBLISH c 1");
    sim.send(b, "SUBSCRIBE c");
    sim.send(p, "PUBLISH c 2");
    sim.send(a, "UNSUBSCRIBE c");
    sim.send(q, "PUBLISH c 3");
    sim.send(b, "UNSUBSCRIBE c");
    sim.send(p, "PUBLISH c 4");
    sim.thaw();
    assert_eq!(sim.received(q), ":1 :1");
    // That it leaves is looked at once it has joined.
    assert_eq!(sim.received(p), ":2 :1");
    assert_eq!(sim.received(a), "*3 $7 message $1 c $1 1 *3 $7 message $1 c $1 2 *3 $11 unsubscribe $1 c :0");
    let heard = ["2", "3", "4"].map(|number| format!("*3 $7 message $1 c $1 {number}")).join(" ");
    let told = format!("*3 $9 subscribe $1 c :1 {heard} *3 $11 unsubscribe $1 c :0");
    assert_eq!(sim.received(b), told);
}

#[test]
fn transactions_count_listeners() {
    for transactions in ["shared", "leased"] {
        let (mut sim, [_, _, p]) = listening(&[("transactions", transactions)], 2);
        let block = "MULTI\nSET k 1\nPUBLISH c m\nPUBSUB NUMSUB d c\nGET k\nPUBLISH d m\nEXEC";
        let queued = "+OK +QUEUED +QUEUED +QUEUED +QUEUED +QUEUED";
        let told = "*5 +OK :2 *4 $1 d :0 $1 c :2 $1 1 :0";
        // Whole, and one by one.
        assert_eq!(sim.ask(p, block), format!("{queued} {told}"), "{transactions}");
        let (lines, mut all) = (block.lines(), Vec::new());
        lines.for_each(|line| all.push(sim.ask(p, line)));
        assert_eq!(all.join(" "), format!("{queued} {told}"), "{transactions}");
        // With what the broker answers itself, behind a SELECT, and with watched keys.
        let own = sim.ask(p, "MULTI\nECHO x\nCLIENT GETNAME\nPUBLISH c m\nEXEC");
        assert_eq!(own, "+OK +QUEUED +QUEUED +QUEUED *3 $1 x $-1 :2", "{transactions}");
        let moved = sim.ask(p, "MULTI\nPUBLISH c m\nSELECT 1\nPUBLISH c m\nEXEC");
        assert_eq!(moved, "+OK +QUEUED +QUEUED +QUEUED *3 :2 +OK :2", "{transactions}");
        let watched = sim.ask(p, "WATCH k\nPUBLISH c m\nPUBSUB NUMSUB c\nMULTI\nPUBLISH c m\nEXEC");
        assert_eq!(watched, "+OK :2 *2 $1 c :2 +OK +QUEUED *1 :2", "{transactions}");
        assert_eq!(sim.ask(p, "PUBLISH c m"), ":2", "nothing of them is left");
    }
}

#[test]
fn channels_in_a_transaction_are_bounded() {
    let (mut sim, [_, p]) = listening(&[("transaction_max", "2KiB"), ("transactions", "leased")], 1);
    sim.ask(p, "WATCH k\nMULTI");
    let long = "x".repeat(600);
    let told =
        sim.ask(p, &format!("PUBLISH {long} m\nPUBLISH {long} m\nPUBLISH {long} m\nPUBLISH {long} m\nEXEC"));
    assert!(told.contains("transaction_max"), "{told}");
    assert!(told.ends_with("-EXECABORT Transaction discarded because of previous errors."), "{told}");
}

/// A child that wants no replies, and one that wants all but one.
#[test]
fn replies_nobody_wants_are_counted_for_nobody() {
    let (mut sim, [_, _, p]) = listening(&[], 2);
    assert_eq!(sim.ask(p, "CLIENT REPLY SKIP\nPUBLISH c m\nPUBLISH c m\nGET k"), ":2 $1 k");
    assert_eq!(
        sim.ask(p, "CLIENT REPLY OFF\nPUBLISH c m\nPUBSUB NUMSUB c\nCLIENT REPLY ON\nPUBLISH c m"),
        "+OK :2"
    );
}

// ---- losses ----------------------------------------------------------------------------------------------

/// Of a message that may have been published nobody says that it was not, and none is published twice.
#[test]
fn a_lost_connection_loses_what_was_published_on_it() {
    for mode in ["close", "resubscribe"] {
        let (mut sim, [a, p, q]) = listening(&[("on_subscriber_loss", mode)], 1);
        freeze(&mut sim, &[LaneRole::Subscriber]);
        sim.send(p, "PUBLISH c m\nGET k");
        sim.full = true;
        sim.send(q, "PUBLISH c m\nGET k");
        sim.frozen.clear();
        sim.full = false;
        sim.lose_one(LaneRole::Subscriber);
        assert!(sim.received(p).starts_with("-BROKERLOST"), "it may have been published");
        let down = sim.received(q);
        assert!(down.starts_with("-BROKERDOWN") && down.ends_with(" $1 k"), "no byte of it has left: {down}");
        assert_eq!(sim.ran("PUBLISH").len(), 0);
        sim.settle();
        let count = if mode == "close" { ":0" } else { ":1" };
        assert_eq!((sim.ask(p, "PUBLISH c m").as_str(), sim.is_closed(a)), (count, mode == "close"));
    }
}

/// While there is no connection for topics nobody here hears a message, and none is counted.
#[test]
fn without_a_connection_nobody_is_counted() {
    let (mut sim, [_, _, p]) = listening(&[("on_subscriber_loss", "resubscribe")], 2);
    sim.ask(p, "GET k");
    let link = sim.link(LaneRole::Subscriber);
    sim.refuses = true;
    sim.lose(link);
    assert_eq!(sim.ask(p, "PUBLISH c m\nPUBSUB NUMSUB c"), ":0 *2 $1 c :0");
    sim.refuses = false;
    sim.pass(1000);
    assert_eq!(sim.ask(p, "PUBLISH c m\nPUBSUB NUMSUB c"), ":2 *2 $1 c :2");
}

/// A new upstream: what was asked of the former one is answered by it.
#[test]
fn a_reload_waits_for_what_was_published() {
    let (mut sim, [a, p]) = listening(&[], 1);
    let link = sim.link(LaneRole::Subscriber);
    freeze(&mut sim, &[LaneRole::Subscriber]);
    sim.send(p, "PUBLISH c m\nPUBLISH c m");
    sim.reload("redis://other/0", &[]);
    assert!(sim.links(LaneRole::Subscriber).contains(&link));
    assert_eq!(sim.ask(p, "PUBLISH c m"), "", "in its turn");
    sim.thaw();
    assert_eq!(sim.received(p), ":1 :1 :0");
    assert_eq!(sim.received(a), format!("{MESSAGE} {MESSAGE}"));
    assert!(sim.is_closed(a), "it would hear nothing any more");
    let b = sim.child();
    sim.ask(b, "SUBSCRIBE c");
    assert_eq!(sim.ask(p, "PUBLISH c m"), ":1");
}

#[test]
fn an_overdue_count_is_told_so_and_its_late_reply_dropped() {
    for integrity in ["off", "always"] {
        let (mut sim, [a, b, p]) = listening(&[("request_timeout", "300"), ("integrity", integrity)], 2);
        freeze(&mut sim, &[LaneRole::Subscriber]);
        sim.send(p, "PUBLISH c m\nPUBSUB NUMSUB c");
        sim.pass(1000);
        assert_eq!(sim.received(p).matches("-BROKERTIMEOUT").count(), 2, "{integrity}");
        sim.thaw();
        assert_eq!(sim.ask(p, "PUBSUB NUMSUB d c\nGET k"), "*4 $1 d :0 $1 c :2 $1 k", "{integrity}");
        assert_eq!([sim.received(a), sim.received(b)], [MESSAGE, MESSAGE]);
    }
}

/// A WAIT would keep all messages of its user.
#[test]
fn nobody_waits_for_replicas_where_messages_come() {
    let (mut sim, [_, p]) = listening(&[], 1);
    assert_eq!(sim.ask(p, "SET k 1\nPUBLISH c m\nWAIT 1 0"), "+OK :1 :0");
    assert_eq!(ran_on_topics_lane(&sim, "WAIT"), [false]);
}

/// A confirmation that comes where a child's reply is due: that has been lost.
#[test]
fn a_confirmation_in_the_place_of_a_number_closes_the_connection() {
    let (mut sim, [_, b, p]) = listening(&[], 1);
    let link = sim.link(LaneRole::Subscriber);
    sim.silent = vec![link];
    sim.send(p, "PUBLISH c m");
    sim.send(b, "SUBSCRIBE c");
    sim.swallow_next(link);
    sim.inject(link, b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    assert!(sim.received(p).starts_with("-BROKERLOST"));
    assert!(!sim.links(LaneRole::Subscriber).contains(&link));
    assert_eq!(sim.broker.counters().desyncs, 1);
    sim.thaw();
    assert_eq!(sim.received(b), "*3 $9 subscribe $1 c :1");
}

/// Nor can the answer to a question about topics be a number of listeners.
#[test]
fn what_is_no_number_is_no_count() {
    let (mut sim, [_, p]) = listening(&[], 1);
    let link = sim.link(LaneRole::Subscriber);
    sim.silent = vec![link];
    sim.send(p, "PUBLISH c m");
    sim.answer_next(link, b"$1\r\n1\r\n");
    assert!(sim.received(p).starts_with("-BROKERLOST"));
    assert_eq!(sim.broker.counters().desyncs, 1);
}

/// What the upstream says that does not know of the listeners any more stands.
#[test]
fn nobody_is_added_to_a_number_that_is_too_small() {
    let ours = |topics, listeners| Audience { topics, listeners };
    assert_eq!(ours(1, 4).correct(1), 4);
    assert_eq!(ours(2, 5).correct(4), 7);
    assert_eq!(ours(1, 0).correct(1), 0, "a topic that nobody needs any more");
    assert_eq!(ours(1, 4).correct(0), 0);
    assert_eq!(ours(0, 0).correct(3), 3);
}
