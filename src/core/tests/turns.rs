//! What one child may have done before the others are heard again, and how far one is read that takes no replies.

use crate::base::limits;
use crate::core::child::ChildKind;
use crate::core::latency::Timed;
use crate::core::latency::windows::Span;
use crate::core::sim::{Sim, packed};

/// Rows of a table that are made in one turn of the driver, however many there are.
const ROWS_A_TURN: usize = limits::CHILD_TURN as usize / limits::ROW_COST;

/// How many turns these bytes of a child take.
fn turns_for(sim: &mut Sim, child: usize, bytes: &[u8], other: usize) -> usize {
    sim.broker.child_input(sim.key(child), bytes);
    turns_taken(sim, other)
}

/// How many turns of the driver it takes until the broker has nothing left to run. Another child's question that comes
/// after the second is answered before the third.
fn turns_taken(sim: &mut Sim, other: usize) -> usize {
    // What is due is no work of the child's.
    sim.broker.advance(sim.now);
    for turn in 1.. {
        assert!(turn < 10_000, "it never ends");
        sim.broker.begin_turn();
        while sim.broker.run() {}
        if sim.broker.timeout() != Some(0) {
            sim.settle();
            return turn;
        }
        if turn == 2 {
            let key = sim.key(other);
            sim.broker.child_input(key, &packed("ECHO other"));
            let output = sim.broker.child_output(key).map(|(_, output)| output.front().to_vec());
            assert_eq!(output.as_deref(), Some(&b"$5\r\nother\r\n"[..]));
        }
    }
    unreachable!()
}

#[test]
fn frames_without_a_request_are_cut_into_turns() {
    for frame in ["\n", "*0\r\n", "*-1\r\n"] {
        let (mut sim, [child, other]) = Sim::with(&[]);
        let bytes = [frame.repeat(30_000).into_bytes(), packed("ECHO end")].concat();
        let least = 30_000 * limits::REQUEST_COST_MIN / limits::RUN_TURN;
        assert!(turns_for(&mut sim, child, &bytes, other) >= least as usize, "{frame:?}");
        assert_eq!(sim.received(child), "$3 end");
    }
}

/// Nothing is ever unread, nothing in flight: nothing but the turn holds such a child back.
#[test]
fn requests_without_a_reply_are_cut_into_turns() {
    let (mut sim, [child, other]) = Sim::with(&[]);
    let lines = ["CLIENT REPLY OFF\n", &"ECHO x\n".repeat(30_000), "CLIENT REPLY ON"].concat();
    assert!(turns_for(&mut sim, child, &packed(&lines), other) > 10);
    assert_eq!(sim.received(child), "+OK");
}

/// One request that names many children, or none, and takes as long as many.
#[test]
fn a_long_list_is_cut_into_turns() {
    let (mut sim, [child, other]) = Sim::with(&[]);
    let id = sim.ask(child, "CLIENT ID")[1..].to_owned();
    let line = sim.ask(child, &format!("CLIENT LIST ID {id}"));
    assert!(line.contains(&format!("id={id} ")), "{line}");
    let list_of = |ids: &str| packed(&format!("CLIENT LIST ID{ids}"));
    assert!(turns_for(&mut sim, child, &list_of(&" 1".repeat(100_000)), other) > 2);
    assert_eq!(sim.received(child), "$0");
    let many = format!(" {id}").repeat(20_000);
    assert!(turns_for(&mut sim, child, &list_of(&many), other) > 4);
    assert_eq!(sim.received(child).matches(&format!("id={id} ")).count(), 20_000);
    // An id that is none is an error all the same, and what was made is forgotten.
    turns_for(&mut sim, child, &list_of(&(many + " x")), other);
    assert_eq!(sim.received(child), "-ERR Invalid client ID");
    assert_eq!(sim.ask(child, &format!("CLIENT LIST ID {id}")).matches("id=").count(), 1);
}

/// Who comes or goes while the list is made does not disturb it.
#[test]
fn a_list_of_all_is_cut_into_turns() {
    let mut sim = Sim::new(&[("children_max", "20000")]);
    let children: Vec<usize> = (0..10_000).map(|_| sim.child()).collect();
    let (child, other) = (children[0], children[1]);
    let last = sim.key(children[9_999]);
    sim.broker.child_input(sim.key(child), &packed("CLIENT LIST"));
    sim.broker.begin_turn();
    while sim.broker.run() {}
    sim.broker.child_gone(last);
    assert!(turns_taken(&mut sim, other) >= 9_000 / ROWS_A_TURN);
    let list = sim.received(child);
    assert_eq!(list.matches("id=").count() - list.matches("mid=").count(), 9_999);
}

/// The same of the console, also while it puts rows in order; of one that has gone it says so, where it knows of it.
#[test]
fn a_table_of_all_is_cut_into_turns() {
    let mut sim = Sim::new(&[("children_max", "10000")]);
    let operator = sim.child_of(ChildKind::Local);
    let children: Vec<usize> = (0..5_000).map(|_| sim.child()).collect();
    let last = sim.key(children[4_999]);
    for (order, rounds, gone) in [("", 1, 1), (" SORT age_ms", 2, 0)] {
        sim.broker.child_input(sim.key(operator), &packed(&format!("BROKER SHOW CHILDREN{order}")));
        sim.broker.begin_turn();
        while sim.broker.run() {}
        sim.broker.child_gone(last);
        let turns = turns_taken(&mut sim, children[0]);
        assert!(turns >= rounds * 4_900 / ROWS_A_TURN, "{order}: {turns}");
        let table = sim.received(operator);
        let lines = table.matches(" $").count();
        assert_eq!((lines, table.matches("gone").count()), (5_001 + gone, gone), "{order}");
    }
}

/// So are others that are killed meanwhile.
#[test]
fn a_kill_of_all_is_cut_into_turns() {
    let mut sim = Sim::new(&[("children_max", "20000")]);
    let children: Vec<usize> = (0..5_000).map(|_| sim.child()).collect();
    let (child, other) = (children[0], sim.child());
    sim.ask(other, "HELLO 3\nSUBSCRIBE c");
    assert!(turns_for(&mut sim, child, &packed("CLIENT KILL TYPE normal"), other) > 2);
    assert_eq!(sim.received(child), ":4999");
    assert!(children[1..].iter().all(|child| sim.is_closed(*child)));
    assert_eq!(sim.ask(child, "CLIENT KILL TYPE normal"), ":0");
    turns_for(&mut sim, child, &packed("CLIENT KILL TYPE normal SKIPME no"), other);
    assert_eq!(sim.received(child), ":1");
    assert!(sim.is_closed(child));
}

/// One request that names very many channels is read, asked and confirmed in parts, in order.
#[test]
fn a_long_subscription_is_cut_into_turns() {
    let (mut sim, [child, other]) = Sim::with(&[]);
    let names: Vec<String> = (0..1_000).map(|number| format!("c{number}")).collect();
    let bytes = packed(&format!("SUBSCRIBE {}", names.join(" ")));
    assert!(turns_for(&mut sim, child, &bytes, other) > 5);
    let confirmed = |kind: &str, count: &dyn Fn(usize) -> usize| -> String {
        let one = |(at, name): (usize, &String)| {
            format!("*3 ${} {kind} ${} {name} :{}", kind.len(), name.len(), count(at))
        };
        names.iter().enumerate().map(one).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(sim.received(child), confirmed("subscribe", &|at| at + 1));
    let bytes = packed(&format!("UNSUBSCRIBE {}", names.join(" ")));
    assert!(turns_for(&mut sim, child, &bytes, other) > 0);
    assert_eq!(sim.received(child), confirmed("unsubscribe", &|at| 999 - at));
    sim.received(other);
    assert_eq!(sim.ask(other, "PUBLISH c0 m"), ":0");
}

#[test]
fn a_reply_made_here_has_its_bound_before_it_is_made() {
    let (mut sim, [child]) = Sim::with(&[("child_output_max", "64KiB")]);
    let id = sim.ask(child, "CLIENT ID")[1..].to_owned();
    let many = format!("CLIENT LIST ID{}", format!(" {id}").repeat(1_000));
    assert_eq!(sim.ask(child, &many), "-BROKERLIMIT child_output_max is 65536 bytes, and the reply longer");
    assert_eq!(sim.ask(child, "GET a"), "$1 a");
}

const MIB: usize = 1 << 20;

/// A child whose first reply is 2 MiB, that takes none of it, and has so many bytes of other requests written behind.
fn deaf_child(sim: &mut Sim, behind: usize) -> usize {
    let child = sim.child();
    sim.set_room(child, 0);
    sim.send(child, &format!("GET {}\nCLIENT REPLY OFF", "r".repeat(2 * MIB)));
    send_echoes(sim, child, behind / (10 * MIB));
    child
}

/// So many ECHOs of 10 MiB each, with all that belongs to them.
fn send_echoes(sim: &mut Sim, child: usize, count: usize) {
    let text = "x".repeat(10 * MIB - "*2\r\n$4\r\nECHO\r\n$12345678\r\n\r\n".len());
    let echo = format!("*2\r\n$4\r\nECHO\r\n${}\r\n{text}\r\n", text.len());
    (0..count).for_each(|_| sim.send_bytes(child, echo.as_bytes()));
}

#[test]
fn a_child_that_takes_nothing_is_read_to_the_end_of_its_write() {
    let mut sim = Sim::new(&[("child_input_max", "256MiB")]);
    let child = deaf_child(&mut sim, 200 * MIB);
    assert!(sim.unsent(child) >= 130 * MIB, "first it is held back");
    sim.pass(1000);
    assert_eq!(sim.unsent(child), 0);
    assert!(!sim.is_closed(child));
    sim.set_room(child, usize::MAX);
    sim.received(child);
    assert_eq!(sim.ask(child, "CLIENT REPLY ON"), "+OK");
}

#[test]
fn a_child_that_takes_something_is_held_back() {
    let mut sim = Sim::new(&[("child_input_max", "256MiB")]);
    let child = deaf_child(&mut sim, 100 * MIB);
    for _ in 0..20 {
        sim.set_room(child, 100);
        sim.pass(50);
    }
    assert!(sim.unsent(child) >= 30 * MIB, "{} bytes", sim.unsent(child));
}

/// Beyond the bound the child is told, once it has got rid of what it had to say.
#[test]
fn a_child_that_says_too_much_is_told() {
    let (mut sim, [child]) = Sim::with(&[("child_input_max", "1MiB")]);
    sim.set_room(child, 0);
    sim.send(child, &format!("GET {}", "r".repeat(MIB - 100)));
    sim.send(child, &format!("GET {}", "more".repeat(100)));
    send_echoes(&mut sim, child, 9);
    sim.pass(1000);
    assert_eq!(sim.unsent(child), 0, "it is not left in the middle of its write");
    assert!(!sim.is_closed(child), "nor closed before it could be told");
    sim.set_room(child, usize::MAX);
    let told = sim.received(child);
    let text = "-BROKERLIMIT child_input_max is 1048576 bytes, and requests waited beyond it";
    assert!(told.starts_with("$1048476 rrr") && told.ends_with(&format!("more {text}")), "{}", told.len());
    assert!(sim.is_closed(child));
}

/// A protocol error behind unread replies is no different.
#[test]
fn a_child_that_was_told_its_last_gets_rid_of_its_write() {
    let (mut sim, [child]) = Sim::with(&[]);
    sim.set_room(child, 0);
    sim.send(child, "QUIT");
    sim.send_bytes(child, &vec![b'x'; 10 * MIB]);
    assert_eq!(sim.unsent(child), 0);
    sim.set_room(child, usize::MAX);
    assert_eq!(sim.received(child), "+OK");
    assert!(sim.is_closed(child));
}

#[test]
fn a_blocked_child_is_read_too() {
    let (mut sim, [child, other]) = Sim::with(&[("child_input_max", "10MiB")]);
    sim.send(child, "BLPOP k 0\nCLIENT REPLY OFF");
    send_echoes(&mut sim, child, 6);
    sim.send(child, "CLIENT REPLY ON");
    assert_eq!(sim.unsent(child), 0);
    sim.ask(other, "RPUSH k e");
    assert_eq!(sim.received(child), "*2 $1 k $1 e +OK");
    // Beyond the bound it is closed, as by Redis: nothing can be said before the reply it waits for.
    sim.send(child, "BLPOP k 0");
    send_echoes(&mut sim, child, 7);
    assert!(sim.is_closed(child));
    assert_eq!(sim.ask(other, "GET a"), "$1 a");
}

/// The end of a child is noticed although it is blocked and there is more to read: no element is popped for it.
#[test]
fn a_blocked_child_that_ends_is_let_go_before_it_is_read() {
    let (mut sim, [child, other]) = Sim::with(&[]);
    sim.send(child, "BLPOP k 0");
    sim.pass(100);
    sim.hang_up_before(child, "GET never", other, "RPUSH k e");
    assert!(sim.is_closed(child));
    assert_eq!(sim.received(other) + &sim.ask(other, "RPUSH k e"), ":1:2");
    assert!(sim.ran("GET never").is_empty());
}

/// Requests that make a child the largest holder of memory are given up, and it hears why.
#[test]
fn memory_max_is_told_to_a_child_that_only_asked() {
    let (mut sim, [child]) = Sim::with(&[("memory_max", "16MiB")]);
    sim.set_room(child, 0);
    sim.send(child, &format!("GET {}", "r".repeat(2 * MIB)));
    send_echoes(&mut sim, child, 4);
    assert_eq!(sim.unsent(child), 0);
    sim.set_room(child, usize::MAX);
    let told = sim.received(child);
    assert!(told.ends_with("-BROKERLIMIT memory_max is 16777216 bytes, and requests waited beyond it"));
    assert!(sim.is_closed(child));
}

/// A program that embeds the loop may come back to it late: what it has asked has waited in the queue since then.
#[test]
fn a_request_is_put_on_its_lane_before_the_clock_moves() {
    let (mut sim, [child]) = Sim::with(&[]);
    sim.ask(child, "GET k");
    sim.broker.child_input(sim.key(child), &packed("GET k"));
    sim.now += 50;
    sim.broker.advance(sim.now);
    sim.settle();
    let queued = sim.broker.shared.latency.windows(Timed::Queue).expect("it has waited");
    let figures = queued.figures(Span::TenSeconds, sim.now * 1000);
    assert_eq!(figures.count, 1);
    assert!((45_000..=55_000).contains(&figures.max), "{figures:?}");
}
