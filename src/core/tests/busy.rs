//! A script that does not end, and those whom its upstream keeps waiting.

use crate::core::connection::role::LaneRole;
use crate::core::sim::Sim;

const BUSY: &str = "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.";
/// Long enough for the broker to have asked.
const KNOWN: u64 = 1000;

fn is_busy(settings: &[(&str, &str)]) -> (Sim, usize, usize) {
    let (mut sim, [script, other]) = Sim::with(settings);
    assert_eq!(sim.ask(other, "GET x"), "$1 x");
    sim.send(script, "EVAL loop 0 x");
    (sim, script, other)
}

/// Written whole it would stand behind the script, and run when its child has been told that it is lost.
#[test]
fn a_block_that_comes_whole_is_answered_as_one_by_one() {
    let (mut sim, _, child) = is_busy(&[]);
    sim.pass(KNOWN);
    let told = sim.ask(child, "MULTI\nSET k v\nEXEC");
    assert_eq!(told, format!("+OK {BUSY} -EXECABORT Transaction discarded because of: {}", &BUSY[1..]));
}

/// Many clients send it behind what they wait for.
#[test]
fn whoever_waits_for_a_script_may_end_it() {
    let (mut sim, _, child) = is_busy(&[("lane_stall_timeout", "1s"), ("on_upstream_loss", "close")]);
    sim.send(child, "GET y\nSCRIPT KILL");
    sim.pass(3000);
    let told = sim.received(child);
    let told = told.strip_prefix("-BROKERLOST no reply within 1000 ms from an upstream that runs a script");
    assert!(told.is_some_and(|told| told.ends_with(" +OK")), "nothing is lost that it would be closed for");
}

/// What is known of a script that was killed is asked again at once: its child goes on with the next request. The script's
/// own reply cannot tell, since its connection was lost.
#[test]
fn whoever_kills_a_script_is_not_told_of_it_any_more() {
    let (mut sim, _, child) = is_busy(&[]);
    sim.pass(KNOWN);
    sim.lose_one(LaneRole::Shared);
    assert_eq!(sim.ask(child, "GET x"), BUSY);
    assert_eq!(sim.ask(child, "SCRIPT KILL"), "+OK");
    assert_eq!(sim.ask(child, "GET x"), "$1 x");
}

/// The same of one that ends by itself while all lanes are quiet, and the janitor looks once a second.
#[test]
fn the_end_of_a_script_is_heard_soon() {
    // With a shorter one the janitor looks more often.
    let (mut sim, [script, child]) = Sim::with(&[("queue_timeout", "10s")]);
    assert_eq!(sim.ask(child, "GET x"), "$1 x");
    sim.send(script, "EVAL loop=1300 0 x");
    sim.pass(KNOWN);
    sim.lose_one(LaneRole::Shared);
    assert_eq!(sim.ask(child, "GET x"), BUSY);
    sim.pass(650);
    assert_eq!(sim.ask(child, "GET x"), "$1 x");
}

/// The connection that can end the script is made anew while it runs.
#[test]
fn a_new_control_connection_is_of_use_while_a_script_is_busy() {
    let (mut sim, _, child) = is_busy(&[("queue_timeout", "3s")]);
    sim.pass(KNOWN);
    sim.lose_one(LaneRole::Control);
    sim.pass(KNOWN);
    assert_eq!(sim.ask(child, "GET x"), BUSY);
    sim.send(child, "SCRIPT KILL");
    sim.pass(KNOWN);
    assert_eq!(sim.received(child), "+OK");
    let newcomer = sim.child();
    sim.send(newcomer, "GET x");
    sim.pass(KNOWN);
    assert_eq!(sim.received(newcomer), "$1 x");
}

/// What kept others of its lane waiting has another one the next time; what kept nobody waiting has not.
#[test]
fn a_command_that_ran_long_before_others_goes_on_a_lane_apart() {
    for waits in [false, true] {
        let (mut sim, [script, other]) = Sim::with(&[]);
        sim.say_busy_after(1000);
        for _ in 0..2 {
            sim.send(script, "EVAL loop=400 0 x");
            if waits {
                sim.send(other, "GET x");
            }
            sim.pass(500);
            assert_eq!((sim.received(script).is_empty(), sim.received(other).is_empty()), (false, !waits));
        }
        assert_eq!(sim.links(LaneRole::Shared).len(), if waits { 2 } else { 1 });
    }
}

/// Where another lane waits as well, a late reply does not tell whose command it was that took so long. Twice does.
#[test]
fn a_command_that_may_have_waited_itself_is_not_blamed_at_once() {
    for (also, wanted) in [(false, &[true][..]), (true, &[false, true])] {
        let (mut sim, [late, behind, large]) = Sim::with(&[]);
        let value = "v".repeat(300 * 1024);
        sim.ask(late, "GET a");
        let lane = sim.link(LaneRole::Shared);
        sim.ask(large, &format!("SET k {value}"));
        let other = sim.links(LaneRole::Shared).into_iter().find(|link| *link != lane).expect("another");
        let mut blamed = Vec::new();
        for round in 0..wanted.len() {
            sim.silent.extend([lane, other]);
            if also {
                sim.send(large, &format!("SET k{round} {value}"));
            }
            sim.send(late, &format!("GET late{round}"));
            sim.send(behind, &format!("GET behind{round}"));
            sim.pass(300);
            sim.answer_next(lane, b"$1\r\nx\r\n");
            sim.silent.clear();
            sim.pass(1);
            assert_eq!(sim.received(late), "$1 x");
            sim.ask(late, &format!("GET next{round}"));
            blamed.push(sim.ran(&format!("GET next{round}")) != sim.ran("GET a"));
        }
        assert_eq!(blamed, wanted);
    }
}

/// Nobody listens, so PUBLISH counts nobody, once the upstream can be told.
#[test]
fn a_topic_that_could_not_be_left_is_left_afterwards() {
    let (mut sim, _, child) = is_busy(&[]);
    let listener = sim.child();
    sim.send(listener, "SUBSCRIBE c");
    sim.pass(KNOWN);
    assert_eq!(sim.received(listener), BUSY, "it is too late for that");
    assert_eq!(sim.ask(child, "SCRIPT KILL"), "+OK");
    sim.pass(KNOWN);
    assert_eq!(sim.ask(listener, "SUBSCRIBE c"), "*3 $9 subscribe $1 c :1");
    let script = sim.child();
    sim.send(script, "EVAL loop 0 x");
    sim.pass(KNOWN);
    sim.kill(listener);
    sim.pass(KNOWN);
    assert_eq!(sim.ask(child, "SCRIPT KILL"), "+OK");
    sim.pass(2 * KNOWN);
    assert_eq!(sim.ask(child, "PUBLISH c m"), ":0");
}

/// The control connection alone is silent: HELLO waits for it, and nothing else shows it.
#[test]
fn a_control_connection_that_does_not_answer_is_given_up() {
    let (mut sim, [child]) = Sim::with(&[("lane_stall_timeout", "1s"), ("connect_timeout", "500")]);
    sim.silent = sim.links(LaneRole::Control);
    sim.send(child, "HELLO 3");
    sim.pass(3000);
    assert!(sim.received(child).starts_with('%'), "it was asked on the next one");
}

/// A MULTI that the broker could not send is open all the same: what stands behind it must not run one by one.
#[test]
fn nothing_runs_behind_a_multi_that_could_not_be_sent() {
    for max in ["0", "1"] {
        let settings =
            [("transactions", "leased"), ("leases_transaction_max", max), ("lease_wait_timeout", "50")];
        let (mut sim, [holder, child]) = Sim::with(&settings);
        sim.send(holder, "WATCH k");
        sim.send(child, "MULTI\nSET once 1\nEXEC\nGET x");
        sim.pass(200);
        let told = sim.received(child);
        let aborted = "+OK +QUEUED -EXECABORT Transaction discarded because of: BROKERLIMIT";
        assert!(told.starts_with(aborted) && told.ends_with("$1 x"), "{told}");
        assert!(sim.ran("SET once").is_empty(), "{:?}", sim.executed());
    }
}
