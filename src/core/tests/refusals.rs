//! What an upstream refuses that has changed its mind, and what children are told of it.

use super::LOST;
use crate::core::connection::role::LaneRole;
use crate::core::sim::Sim;

const PREVIOUS: &str = "-EXECABORT Transaction discarded because of previous errors.";

/// A busy script lets WATCH and MULTI be answered, and no canary: the reply to WATCH is withheld then.
#[test]
fn a_reply_without_a_canary_does_not_overtake_one_that_is_withheld() {
    let (mut sim, [a, b]) = Sim::with(&[("integrity", "always")]);
    assert_eq!(sim.ask(a, "WATCH k"), "+OK");
    sim.send(b, "EVAL loop 0 x");
    sim.pass(100);
    assert_eq!(sim.ask(a, "WATCH l"), "");
    assert_eq!(sim.ask(a, "MULTI"), format!("{LOST} +OK"));
    assert_eq!(sim.ask(a, "EXEC").split(' ').next(), Some("-EXECABORT"));
}

/// The next canary would tell, but a lane that yields writes none.
#[test]
fn what_a_busy_upstream_has_left_unproven_ends_with_a_lane_that_yields() {
    let settings = [("integrity", "always"), ("lanes", "2"), ("upstream_lifetime", "150")];
    let (mut sim, [a, b]) = Sim::with(&settings);
    sim.send(b, "EVAL loop 0 x");
    sim.pass(60);
    assert_eq!(sim.ask(a, "MULTI\nSET k v\nEXEC"), "");
    sim.pass(2000);
    assert_eq!(sim.received(a), [LOST; 3].join(" "));
}

/// A MULTI that is refused is no MULTI for what has been sent behind it.
#[test]
fn nothing_is_taken_for_queued_behind_a_multi_that_is_known_to_be_refused() {
    let mut sim = Sim::new(&[]);
    sim.deny("multi");
    sim.lose_one(LaneRole::Control);
    sim.pass(500);
    let child = sim.child();
    assert_eq!(sim.ask(child, "WATCH k"), "+OK");
    let denied = "-NOPERM this user has no permissions to run the 'multi' command";
    assert_eq!(sim.ask(child, "MULTI\nCLIENT SETNAME me\nGET x"), format!("{denied} +OK $1 x"));
}

/// A name that is unknown here is looked up upstream: whatever the answer, the command was not queued.
#[test]
fn a_look_up_that_is_refused_spoils_multi() {
    let (mut sim, [child]) = Sim::with(&[]);
    sim.deny("command");
    assert_eq!(sim.ask(child, "MULTI\nSET k v"), "+OK +QUEUED");
    assert!(sim.ask(child, "NOSUCH").starts_with("-NOPERM"));
    assert_eq!(sim.ask(child, "EXEC"), PREVIOUS);
}

/// The child was told QUEUED here; the upstream looked at the command when SELECT had moved it to a lease.
#[test]
fn an_exec_says_what_was_refused_when_its_block_went_to_a_lease() {
    let (mut sim, [child]) = Sim::with(&[("upstream_role", "any")]);
    assert_eq!(sim.ask(child, "MULTI\nSET k v"), "+OK +QUEUED");
    sim.become_replica();
    assert_eq!(sim.ask(child, "SELECT 1"), "+QUEUED");
    let why = "READONLY You can't write against a read only replica.";
    assert_eq!(sim.ask(child, "EXEC"), format!("-EXECABORT Transaction discarded because of: {why}"));
    assert_eq!(sim.ask(child, "GET x"), "$1 x");
}

/// DISCARD is sent, too, in the place of an EXEC that cannot succeed. Refused, it leaves the connection inside MULTI, and
/// the lane is not used again.
#[test]
fn a_discard_that_is_refused_leaves_multi_open() {
    let denied = "-NOPERM this user has no permissions to run the 'discard' command +QUEUED";
    for (asked, told) in [("NOSUCH", "-ERR unknown command"), ("DISCARD\nSET k v", denied)] {
        let (mut sim, [child]) = Sim::with(&[]);
        assert_eq!(sim.ask(child, "WATCH k\nMULTI"), "+OK +OK");
        sim.deny("discard");
        assert!(sim.ask(child, asked).starts_with(told));
        assert_eq!(sim.ask(child, "EXEC"), PREVIOUS);
        assert_eq!(sim.ask(child, "GET k"), "$1 k");
    }
}

/// A MULTI that was refused leaves nothing that a refused DISCARD could leave open: what comes next is run.
#[test]
fn a_discard_that_is_refused_opens_no_multi() {
    let (mut sim, [child]) = Sim::with(&[]);
    assert_eq!(sim.ask(child, "WATCH k"), "+OK");
    sim.deny("multi");
    sim.deny("discard");
    let denied = |name| format!("-NOPERM this user has no permissions to run the '{name}' command");
    let told = sim.ask(child, "MULTI\nDISCARD\nGET k");
    assert_eq!(told, format!("{} {} $1 k", denied("multi"), denied("discard")));
}

/// The same of a child that keeps its lane: it would go on inside MULTI.
#[test]
fn a_lane_that_is_kept_goes_when_multi_cannot_be_left() {
    let (mut sim, [child]) = Sim::with(&[]);
    sim.ask(child, "HELLO 3\nCLIENT TRACKING ON");
    assert_eq!(sim.ask(child, "MULTI"), "+OK");
    sim.deny("discard");
    let told = sim.ask(child, "DISCARD\nGET k\nEXEC\nGET k");
    assert!(!told.ends_with("+QUEUED"), "{told}");
}

/// The pool was refused long ago, and the attempt that is under way has had no answer: that is still the last reason.
#[test]
fn a_refusal_is_told_however_old_it_is() {
    let (mut sim, [child]) = Sim::with(&[("lease_wait_timeout", "0"), ("queue_timeout", "100")]);
    assert_eq!(sim.ask(child, "GET x"), "$1 x");
    sim.change_password();
    sim.lose_one(LaneRole::Shared);
    sim.send(child, "GET x");
    sim.pass(500);
    let why = "; last attempt: HELLO was answered with: NOAUTH";
    assert!(sim.received(child).contains(why));
    sim.pass(5000);
    sim.frozen = vec![LaneRole::Lease];
    sim.send(child, "WATCH k");
    sim.pass(100);
    let told = sim.received(child);
    assert!(told.starts_with("-BROKERLIMIT") && told.contains(why), "{told}");
}

/// What takes the control connection away is told to whoever waits for it.
#[test]
fn a_control_connection_that_is_given_up_for_an_answer_says_so() {
    let (mut sim, [child]) = Sim::with(&[]);
    let control = sim.link(LaneRole::Control);
    sim.silent.push(control);
    sim.send(child, "SELECT 1");
    sim.answer_next(control, b"+OK\r\n");
    assert_eq!(sim.received(child), "+OK");
    sim.frozen = vec![LaneRole::Control];
    sim.answer_next(control, b"-NOPERM no SELECT\r\n");
    sim.send(child, "SELECT 2");
    sim.pass(1500);
    assert!(sim.received(child).ends_with("; last attempt: SELECT was answered with: NOPERM no SELECT"));
}

/// A control connection was greeted by a master; by the time a child says HELLO the server is a replica.
#[test]
fn a_hello_is_told_no_role_from_before_it() {
    let (mut sim, [child]) = Sim::with(&[]);
    sim.frozen = vec![LaneRole::Control];
    sim.lose_one(LaneRole::Control);
    sim.pass(50);
    let link = sim.link(LaneRole::Control);
    sim.answer_next(link, b"%3\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:9\r\n$4\r\nrole\r\n$6\r\nmaster\r\n");
    sim.become_replica();
    assert_eq!(sim.ask(child, "HELLO 3"), "");
    sim.thaw();
    let told = sim.received(child);
    assert!(told.ends_with("$4 role $7 replica"), "{told}");
}

/// A canary that is refused as well proves nothing: a reply may have been lost before it, of a request that was executed.
#[test]
fn what_a_busy_upstream_refuses_is_believed_once_nothing_is_due() {
    const BUSY: &[u8] = b"-BUSY Redis is busy running a script.\r\n";
    for lost in [false, true] {
        let (mut sim, [a, b]) = Sim::with(&[("integrity", "always")]);
        sim.ask(a, "GET x");
        let link = sim.link(LaneRole::Shared);
        sim.silent = vec![link];
        sim.send(a, "INCR n");
        sim.send(b, "GET y");
        if lost {
            sim.swallow_next(link);
        } else {
            sim.answer_next(link, BUSY);
        }
        for _ in 0..3 {
            assert_eq!((sim.received(a), sim.received(b)), (String::new(), String::new()));
            sim.answer_next(link, BUSY);
        }
        sim.thaw();
        sim.pass(2000);
        let told = if lost { LOST } else { "-BUSY Redis is busy running a script." };
        assert_eq!((sim.received(a), sim.received(b)), (told.to_owned(), told.to_owned()));
    }
}
