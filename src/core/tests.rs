//! What goes wrong in rare orders of events, played through on the simulation.

mod armed;
mod barred;
mod busy;
mod failovers;
mod fan_in;
mod handover;
mod lanes;
mod reading;
mod ready;
mod refusals;
mod roles;
mod standing;
mod steering;
mod turns;
mod upstream_loss;
mod users;

use super::sim::{Sim, packed};
use crate::core::connection::role::LaneRole;

const LOST: &str =
    "-BROKERLOST upstream connection lost before the reply; the command may have been executed";
const DOWN: &str = "-BROKERDOWN no upstream connection; the command was not executed";
/// The same where dials are refused.
const REFUSED: &str =
    "-BROKERDOWN no upstream connection; the command was not executed; last attempt: refused";

/// With canaries everything reads as without.
#[test]
fn the_simulation_speaks_like_redis() {
    for integrity in ["off", "sampled", "always"] {
        let (mut sim, [a, b]) = Sim::with(&[("integrity", integrity), ("integrity_sample", "2")]);
        assert_eq!(sim.ask(a, "SET k v\nGET nonce\nPING"), "+OK $5 nonce +PONG");
        assert_eq!(sim.ask(a, "MULTI\nSET k v\nGET x\nEXEC"), "+OK +QUEUED +QUEUED *2 +OK $1 x");
        assert_eq!(sim.ask(a, "MULTI") + &sim.ask(a, "GET x") + &sim.ask(a, "EXEC"), "+OK+QUEUED*1 $1 x");
        assert_eq!(sim.ask(a, "WATCH k\nMULTI\nGET y\nEXEC"), "+OK +OK +QUEUED *1 $1 y");
        assert_eq!(sim.ask(b, "BLPOP x 0"), "");
        assert_eq!(sim.ask(a, "RPUSH x e"), ":1");
        assert_eq!(sim.received(b), "*2 $1 x $1 e");
        assert_eq!(sim.broker.counters().canaries > 2, integrity != "off", "{integrity}");
        assert_eq!(sim.broker.counters().integrity_failures, 0);
        assert_eq!(sim.broker.leases_lent(), (0, 0, 0));
        assert_eq!(sim.ask(b, "SUBSCRIBE c"), "*3 $9 subscribe $1 c :1");
        assert_eq!(sim.ask(a, "PUBLISH c m"), ":1");
        assert_eq!(sim.received(b), "*3 $7 message $1 c $1 m");
    }
}

#[test]
fn client_ids_are_whole_numbers_everywhere() {
    use crate::config::{Settings, parse_upstream};
    let upstream = parse_upstream("redis://h").unwrap();
    let mut bases = std::collections::HashSet::new();
    for seed in 0..1000 {
        let mut broker = super::Broker::new(Settings::default(), upstream.clone(), seed, 0);
        let key = broker.child_open(super::ChildKind::Socket, "peer", 0).unwrap();
        let id = broker.children.get(key).map_or(0, |child| child.session().id);
        assert!((1..1 << 46).contains(&id), "{id}");
        assert!(bases.insert(id), "{id} again");
    }
}

#[test]
fn a_child_held_by_a_full_leased_lane_goes_on_when_the_lane_dies() {
    let (mut sim, [child]) = Sim::with(&[]);
    assert_eq!(sim.ask(child, "WATCH k"), "+OK");
    sim.full = true;
    sim.send(child, &format!("SET k {}", "x".repeat(5 << 20)));
    sim.send(child, "GET after");
    sim.full = false;
    sim.lose_one(LaneRole::Lease);
    assert_eq!(sim.received(child), format!("{DOWN} $5 after"));
}

#[test]
fn a_transaction_on_a_full_leased_lane_has_to_wait() {
    let (mut sim, [child]) = Sim::with(&[("transactions", "leased")]);
    assert_eq!(sim.ask(child, "MULTI"), "+OK");
    sim.full = true;
    for _ in 0..8 {
        sim.send(child, &format!("SET k {}", "x".repeat(1 << 20)));
    }
    let lease = sim.conns[&sim.link(LaneRole::Lease)].lane;
    let owed =
        sim.broker.shared.connections.find(lease).map(|lane| lane.out().bytes().len()).unwrap_or_default();
    assert!(owed < 5 << 20, "{owed} bytes for a socket that takes none");
    sim.full = false;
    sim.settle();
    assert!(sim.ask(child, "EXEC").ends_with("*8 +OK +OK +OK +OK +OK +OK +OK +OK"));
}

#[test]
fn an_old_lease_that_dies_does_not_take_the_new_one_with_it() {
    let (mut sim, [a, b, c]) = Sim::with(&[("leases_blocking_max", "2"), ("leases_warm", "0")]);
    sim.send(a, "BLPOP x 0");
    sim.send(b, "BLPOP x 0");
    let lanes = sim.links(LaneRole::Lease);
    // b's lease, the youngest, is taken back for c; b is served before CLIENT UNBLOCK is answered.
    sim.frozen = vec![LaneRole::Control];
    sim.send(c, "BLPOP y 0");
    sim.inject(lanes[1], b"*2\r\n$1\r\nx\r\n$1\r\ne\r\n");
    assert_eq!(sim.received(b), "*2 $1 x $1 e");
    assert_eq!(sim.ask(b, "WATCH k"), "+OK");
    sim.lose(lanes[1]);
    sim.frozen.clear();
    assert_eq!(sim.ask(b, "MULTI\nGET k\nEXEC"), "+OK +QUEUED *1 $1 k");
    assert_eq!(sim.received(a), "");
}

/// Where another pool has them all, and where places are scarce.
#[test]
fn a_group_in_another_pool_gets_a_lease_of_a_crowded_one() {
    for (few, after) in [(("leases_blocking_max", "2"), 0), (("upstream_connections_max", "8"), 100)] {
        let (mut sim, [y, other]) = Sim::with(&[few, ("leases_warm", "0")]);
        for _ in 0..6 {
            let child = sim.child();
            sim.send(child, "BLPOP x 0");
        }
        sim.ask(y, "SELECT 3");
        sim.send(y, "BLPOP y 0");
        sim.pass(after);
        assert_eq!(sim.ask(other, "SELECT 3\nRPUSH y e"), "+OK :1");
        assert_eq!(sim.received(y), "*2 $1 y $1 e");
    }
}

#[test]
fn a_transaction_in_another_pool_is_served_in_its_turn() {
    let (mut sim, [a, b, c]) = Sim::with(&[("leases_transaction_max", "1"), ("leases_warm", "0")]);
    sim.ask(b, "SELECT 3");
    assert_eq!(sim.ask(a, "WATCH k"), "+OK");
    assert_eq!(sim.ask(b, "WATCH k"), "");
    assert_eq!(sim.ask(c, "WATCH k"), "");
    assert_eq!(sim.ask(a, "UNWATCH"), "+OK");
    assert_eq!((sim.received(b), sim.received(c)), ("+OK".into(), "".into()), "b came before c");
    assert_eq!(sim.ask(b, "UNWATCH"), "+OK");
    assert_eq!(sim.received(c), "+OK");
}

/// It listens, and the upstream is replaced while it waits for a lease: nobody is lent one after that.
#[test]
fn who_is_sent_away_leaves_the_line() {
    let (mut sim, [a, b, c]) = Sim::with(&[("leases_transaction_max", "1"), ("leases_warm", "0")]);
    assert_eq!(sim.ask(a, "WATCH k"), "+OK");
    sim.ask(b, "HELLO 3\nSUBSCRIBE ch");
    // It stays until it has taken what it was told.
    sim.set_room(b, 0);
    sim.send(b, "GET x\nWATCH k");
    assert_eq!(sim.ask(c, "WATCH k"), "");
    sim.reload("redis://other/0", &[]);
    assert_eq!(sim.ask(a, "UNWATCH"), "+OK");
    assert_eq!(sim.received(c), "+OK");
}

/// While a request waits for a lease the settings may change, and it is answered without one.
#[test]
fn a_lease_that_is_not_needed_goes_to_the_next() {
    let lease = [("leases_blocking_max", "1"), ("commands_lease", "get")];
    let (mut sim, [a, b, c, other]) = Sim::with(&lease);
    assert_eq!((sim.ask(a, "BLPOP x 0"), sim.ask(b, "GET k")), (String::new(), String::new()));
    sim.reload("redis://sim/0", &[("commands_lease", ""), ("commands_deny", "get")]);
    sim.ask(other, "RPUSH x e");
    assert_eq!(sim.received(a), "*2 $1 x $1 e");
    assert!(sim.received(b).starts_with("-NOPERM "));
    assert_eq!(sim.ask(c, "BLPOP y 0"), "");
    sim.ask(other, "RPUSH y f");
    assert_eq!(sim.received(c), "*2 $1 y $1 f");
}

#[test]
fn an_unblock_that_comes_too_early_is_asked_again() {
    let (mut sim, [a, b, y]) = Sim::with(&[("leases_blocking_max", "2")]);
    *sim.early_unblocks() = 3;
    sim.send(a, "BLPOP x 0");
    sim.send(b, "BLPOP x 0");
    sim.send(y, "BLPOP y 0");
    sim.pass(50);
    let other = sim.child();
    sim.ask(other, "RPUSH y e");
    assert_eq!(sim.received(y), "*2 $1 y $1 e");
    assert_eq!(*sim.early_unblocks(), 0);
    sim.ask(other, "RPUSH x f");
    sim.ask(other, "RPUSH x g");
    let mut told = [sim.received(a), sim.received(b)];
    told.sort();
    assert_eq!(told, ["*2 $1 x $1 f", "*2 $1 x $1 g"], "both wait again");
}

#[test]
fn many_waiters_on_many_keys_cost_no_more_each() {
    let mut sim = Sim::new(&[("leases_blocking_max", "2")]);
    for index in 0..2000 {
        let child = sim.child();
        sim.send(child, &format!("BLPOP key{index} 0"));
    }
}

#[test]
fn a_lost_watch_is_not_healed_by_another_one() {
    for transactions in ["shared", "leased"] {
        let (mut sim, [child]) = Sim::with(&[("transactions", transactions)]);
        assert_eq!(sim.ask(child, "WATCH a"), "+OK");
        sim.lose_one(LaneRole::Lease);
        assert_eq!(sim.ask(child, "WATCH b"), "+OK");
        assert_eq!(sim.ask(child, "MULTI\nSET a 1\nEXEC"), "+OK +QUEUED *-1", "{transactions}");
        assert_eq!(sim.ask(child, "MULTI\nGET a\nEXEC"), "+OK +QUEUED *1 $1 a", "{transactions}");
    }
}

#[test]
fn a_subscriber_whose_watch_was_lost_is_told_too() {
    let (mut sim, [child]) = Sim::with(&[]);
    sim.ask(child, "HELLO 3");
    assert_eq!(sim.ask(child, "WATCH a"), "+OK");
    sim.lose_one(LaneRole::Lease);
    sim.ask(child, "SUBSCRIBE c");
    assert_eq!(sim.ask(child, "WATCH b"), "+OK");
    assert_eq!(sim.ask(child, "MULTI\nSET a 1\nEXEC"), "+OK +QUEUED _");
}

/// As Redis does it: an EXEC that is rejected forgets the watched keys, lost ones too.
#[test]
fn a_refused_exec_ends_a_lost_watch() {
    for (proto, refused) in [(2, "EXEC"), (2, "EXEC a"), (3, "EXEC a")] {
        let (mut sim, [child]) = Sim::with(&[("pubsub", "leased")]);
        sim.ask(child, &format!("HELLO {proto}\nWATCH a"));
        sim.lose_one(LaneRole::Lease);
        sim.ask(child, "SUBSCRIBE c");
        assert!(sim.ask(child, refused).starts_with('-'), "RESP{proto}: {refused}");
        sim.ask(child, "UNSUBSCRIBE c");
        assert_eq!(sim.ask(child, "MULTI\nGET a\nEXEC"), "+OK +QUEUED *1 $1 a", "RESP{proto}: {refused}");
    }
}

#[test]
fn a_lost_exec_ends_the_watch() {
    let (mut sim, [child]) = Sim::with(&[]);
    for last in ["EXEC", "DISCARD"] {
        assert_eq!(sim.ask(child, "WATCH a\nMULTI\nSET a 1"), "+OK +OK +QUEUED");
        sim.frozen = vec![LaneRole::Lease];
        sim.send(child, last);
        sim.frozen.clear();
        let lease = *sim.links(LaneRole::Lease).last().expect("a lease");
        sim.lose(lease);
        assert_eq!(sim.received(child), LOST);
        assert_eq!(sim.ask(child, "MULTI\nGET a\nEXEC"), "+OK +QUEUED *1 $1 a", "after a lost {last}");
    }
}

#[test]
fn commands_answered_here_count_against_transaction_max() {
    let (mut sim, [child]) = Sim::with(&[("transaction_max", "64KiB")]);
    sim.ask(child, "MULTI");
    let name = "n".repeat(40_000);
    assert_eq!(sim.ask(child, &format!("CLIENT SETNAME {name}")), "+QUEUED");
    let told = sim.ask(child, &format!("CLIENT SETNAME {name}"));
    assert_eq!(told, "-BROKERLIMIT transaction_max is 65536 bytes");
}

#[test]
fn a_wait_for_the_upstream_is_not_cut_short_by_an_older_one() {
    let settings = [("pubsub", "leased"), ("leases_session_max", "0"), ("lease_wait_timeout", "1500")];
    let (mut sim, [child]) = Sim::with(&settings);
    sim.send(child, "SUBSCRIBE c");
    sim.pass(1400);
    // Something else ends the wait: here, the child's own timeout would have; the timer stays behind.
    sim.broker.shared.env.settings.leases_session_max = 1;
    sim.broker.shared.pump_leases();
    sim.broker.deliver_notices();
    sim.settle();
    assert_eq!(sim.received(child), "*3 $9 subscribe $1 c :1");
    sim.ask(child, "UNSUBSCRIBE c");
    sim.refuses = true;
    sim.lose_one(LaneRole::Control);
    assert_eq!(sim.ask(child, "PING"), "");
    sim.pass(900);
    assert_eq!(sim.received(child), "", "queue_timeout has not passed");
    sim.pass(200);
    assert_eq!(sim.received(child), REFUSED);
}

#[test]
fn each_wait_for_the_upstream_has_its_own_time() {
    let (mut sim, [child]) = Sim::with(&[("queue_timeout", "3000"), ("reconnect_backoff_max", "20")]);
    for _ in 0..2 {
        sim.refuses = true;
        sim.lose_one(LaneRole::Control);
        assert_eq!(sim.ask(child, "NOSUCH x"), "");
        // Each wait is longer than what is left of the one before it.
        sim.pass(2000);
        assert_eq!(sim.received(child), "", "queue_timeout has not passed");
        sim.refuses = false;
        sim.pass(500);
        assert!(sim.received(child).starts_with("-ERR unknown command"));
    }
}

#[test]
fn a_blocking_command_of_a_watching_child_has_no_request_timeout() {
    let (mut sim, [child]) = Sim::with(&[("request_timeout", "500")]);
    assert_eq!(sim.ask(child, "WATCH k\nBLPOP x 0"), "+OK");
    sim.pass(2000);
    assert_eq!(sim.received(child), "");
    let other = sim.child();
    sim.ask(other, "RPUSH x e");
    assert_eq!(sim.received(child), "*2 $1 x $1 e");
}

#[test]
fn a_child_that_waits_is_not_idle() {
    let settings = [("pubsub", "leased"), ("idle_child_timeout", "1000"), ("leases_session_max", "0")];
    let (mut sim, [child]) = Sim::with(&settings);
    sim.send(child, "SUBSCRIBE c");
    sim.pass(5000);
    assert!(sim.received(child).starts_with("-BROKERLIMIT"));
    assert!(!sim.is_closed(child));
}

/// Redis looks before it gives up, so the shortest timeout asks for what is there.
#[test]
fn a_lease_that_comes_late_still_asks_for_what_is_there() {
    let (mut sim, [child]) = Sim::with(&[("leases_warm", "0")]);
    sim.ask(child, "GET a");
    sim.refuses = true;
    sim.send(child, "BLPOP there 0.002");
    sim.pass(5);
    assert_eq!(sim.received(child), "", "its own timeout has passed, its lane may come yet");
    sim.refuses = false;
    sim.pass(30);
    assert_eq!(sim.ran("BLPOP there 0.001").len(), 1, "{:?}", sim.executed());
}

#[test]
fn late_replies_find_nobody_and_the_next_ones_their_own() {
    let (mut sim, [child, queues]) = Sim::with(&[("request_timeout", "500")]);
    assert_eq!(sim.ask(child, "GET first"), "$5 first");
    let queue =
        |sim: &mut Sim| ["MULTI", "GET c", "EXEC"].into_iter().for_each(|line| sim.send(queues, line));
    queue(&mut sim);
    assert_eq!(sim.received(queues), "+OK +QUEUED *1 $1 c");
    sim.frozen = vec![LaneRole::Shared];
    sim.send(child, "GET a\nMULTI\nGET b\nEXEC");
    queue(&mut sim);
    sim.pass(1000);
    for (child, late) in [(child, 4), (queues, 1)] {
        let told = sim.received(child);
        assert_eq!(told.matches("-BROKERTIMEOUT").count(), late, "{told}");
    }
    sim.thaw();
    for child in [child, queues] {
        assert_eq!(sim.received(child), "");
        assert_eq!(sim.ask(child, "GET d"), "$1 d");
    }
    queue(&mut sim);
    assert_eq!(sim.received(queues), "+OK +QUEUED *1 $1 c");
}

#[test]
fn a_block_expires_whole_and_is_never_sent() {
    let (mut sim, [child]) = Sim::with(&[]);
    sim.refuses = true;
    ["MULTI", "SET b 1", "EXEC"].into_iter().for_each(|line| sim.send(child, line));
    sim.pass(500);
    assert_eq!(sim.received(child), "+OK +QUEUED");
    sim.pass(1500);
    assert_eq!(sim.received(child), REFUSED);
    sim.refuses = false;
    sim.pass(1000);
    assert_eq!(sim.ask(child, "GET c"), "$1 c");
    assert!(sim.ran("SET b").is_empty());
}

#[test]
fn one_waiting_lane_costs_one_idle_connection() {
    let (mut sim, [child]) = Sim::with(&[("upstream_connections_max", "8")]);
    for db in 0..7 {
        sim.ask(child, &format!("SELECT {db}\nGET a"));
    }
    assert_eq!(sim.broker.shared.connections.capacity().counts().0, 8, "control and seven lanes, all idle");
    sim.lingers = true;
    sim.send(child, "SELECT 7\nGET a");
    assert_eq!(sim.broker.shared.connections.capacity().counts().0, 7, "one closes, to be replaced");
    sim.let_go();
    sim.settle();
    assert_eq!(sim.broker.shared.connections.capacity().counts().0, 8);
    sim.lingers = true;
    sim.send(child, "WATCH k");
    assert_eq!(sim.broker.shared.connections.capacity().counts().0, 7, "for a lease it is the same");
}

#[test]
fn the_control_connection_waits_for_its_place_too() {
    let mut sim = Sim::new(&[("upstream_connections_max", "8"), ("lanes", "7")]);
    sim.frozen = vec![LaneRole::Shared];
    for _ in 0..7 {
        let child = sim.child();
        sim.send(child, "GET a");
    }
    assert_eq!(sim.conns.len(), 8);
    // The broker itself gives the control connection up, and the upstream is slow to close its side.
    sim.lingers = true;
    let control = sim.link(LaneRole::Control);
    sim.inject(control, b"+nobody asked\r\n");
    sim.pass(500);
    assert!(!sim.broker.upstream_is_up());
    sim.let_go();
    sim.pass(500);
    assert!(sim.broker.upstream_is_up());
}

#[test]
fn half_a_push_does_not_survive_its_connection() {
    let (mut sim, [child]) = Sim::with(&[("upstream_idle_timeout", "1000")]);
    sim.ask(child, "HELLO 3");
    assert_eq!(sim.ask(child, "GET a"), "$1 a");
    let shared = sim.link(LaneRole::Shared);
    sim.inject(shared, b">2\r\n$10\r\ninv");
    sim.pass(3000);
    assert!(sim.links(LaneRole::Shared).is_empty());
    assert_eq!(sim.ask(child, "GET b"), "$1 b");
    assert_eq!(sim.broker.counters().desyncs, 0);
}

#[test]
fn what_an_old_connection_still_says_does_not_fail_the_next_attempt() {
    let (mut sim, [child]) = Sim::with(&[]);
    assert_eq!(sim.ask(child, "GET a"), "$1 a");
    let shared = sim.link(LaneRole::Shared);
    let lane = sim.conns[&shared].lane;
    sim.refuses = true;
    sim.lose(shared);
    sim.send(child, "GET b");
    sim.broker.lane_input(lane, b"+late\r\n");
    assert_eq!(sim.broker.counters().desyncs, 0);
    assert!(sim.broker.shared.connections.find(lane).is_some_and(|lane| lane.is_backing_off()));
    sim.refuses = false;
    sim.pass(500);
    assert_eq!(sim.received(child), "$1 b");
}

/// 7.0 has no CLIENT NO-TOUCH, so only this upstream can show it.
#[test]
fn no_touch_goes_with_the_connections_a_child_uses() {
    let (mut sim, [child, other]) = Sim::with(&[]);
    let told = |sim: &Sim, request: &str| {
        let conn = *sim.ran(request).last().expect("it was executed");
        sim.ran("CLIENT NO-TOUCH ON").contains(&conn)
    };
    assert_eq!(sim.ask(child, "CLIENT NO-TOUCH perhaps"), "-ERR syntax error");
    assert_eq!(sim.ask(child, "GET a\nCLIENT NO-TOUCH ON\nGET b"), "$1 a +OK $1 b");
    assert_eq!((told(&sim, "GET a"), told(&sim, "GET b")), (false, true));
    sim.ask(other, "GET c");
    sim.ask(child, "BLPOP x 0.1");
    sim.pass(200);
    assert_eq!((told(&sim, "GET c"), told(&sim, "BLPOP x 0.1")), (false, true));
    sim.received(child);
    assert_eq!(sim.ask(child, "CLIENT NO-TOUCH OFF\nGET d"), "+OK $1 d");
    assert!(!told(&sim, "GET d"));
    sim.ask(child, "CLIENT NO-TOUCH ON\nRESET\nGET e");
    assert!(!told(&sim, "GET e"));
    // A lane that it has to itself is told, and is nobody else's afterwards.
    sim.ask(child, "WATCH k\nCLIENT NO-TOUCH ON\nGET f\nUNWATCH");
    assert!(told(&sim, "GET f"));
    sim.ask(other, "WATCH k\nGET g\nUNWATCH");
    assert!(!told(&sim, "GET g"));
    assert_eq!(
        sim.ask(other, "CLIENT CAPA redirect\nCLIENT CAPA"),
        "+OK -ERR wrong number of arguments for 'client|capa' command"
    );
}

#[test]
fn who_left_without_a_word_ends_with_its_process_or_with_the_broker() {
    let mut sim = Sim::new(&[]);
    let children = [sim.child(), sim.child(), sim.child()];
    for child in children {
        assert_eq!(sim.ask(child, "CLIENT REPLY OFF\nQUIT\nCLIENT REPLY ON\nGET a"), "");
        assert!(!sim.is_closed(child));
        assert_eq!(sim.ask(child, "GET b"), "");
    }
    assert!(sim.ran("GET").is_empty(), "it is not heard");
    sim.half_close(children[0]);
    sim.kill(children[1]);
    assert!(sim.is_closed(children[0]) && sim.is_closed(children[1]) && !sim.is_closed(children[2]));
    sim.broker.drain(None);
    sim.broker.dismiss();
    sim.settle();
    assert!(sim.is_closed(children[2]) && sim.broker.is_drained());
}

/// Invariant 11 has a watchman: whatever sends such a request, a debug build stops.
#[test]
#[cfg(debug_assertions)]
fn poison_for_a_shared_lane_is_noticed() {
    use crate::core::connection::slot::{SlotFlags, SlotKind};
    let poison = ["SELECT 1", "WATCH k", "BLPOP x 0", "SUBSCRIBE c", "CLIENT SETNAME x", "RESET", "NOSUCH"];
    for request in poison {
        let (mut sim, [child]) = Sim::with(&[]);
        sim.ask(child, "GET a");
        let lane = sim.conns[&sim.link(LaneRole::Shared)].lane;
        let (key, bytes) = (sim.key(child), packed(request));
        let sent = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let child = sim.broker.children.get_mut(key).expect("it is there");
            sim.broker.shared.send_for(child, lane, &bytes, 0, SlotKind::Relay, SlotFlags::NONE);
        }));
        assert!(sent.is_err(), "{request}");
    }
}

#[test]
fn hello_of_a_subscriber_changes_form_between_two_messages() {
    let (mut sim, [child, other]) = Sim::with(&[("pubsub", "leased")]);
    sim.ask(child, "HELLO 3");
    assert_eq!(sim.ask(child, "SUBSCRIBE c"), ">3 $9 subscribe $1 c :1");
    sim.frozen = vec![LaneRole::Lease];
    sim.send(child, "HELLO 2");
    sim.ask(other, "PUBLISH c before");
    sim.thaw();
    sim.ask(other, "PUBLISH c after");
    let told = sim.received(child);
    let order = [">3 $7 message $1 c $6 before", "*6 $5 proto :2", "*3 $7 message $1 c $5 after"];
    let found: Vec<usize> = order.iter().filter_map(|part| told.find(part)).collect();
    assert!(found.len() == 3 && found.is_sorted(), "{told}");
}

#[test]
fn a_lane_over_memory_max_is_emptied_whatever_its_state() {
    for connected in [true, false] {
        let (mut sim, children) = Sim::with::<12>(&[("memory_max", "8MiB"), ("queue_timeout", "60s")]);
        if connected {
            assert_eq!(sim.ask(children[0], "GET a"), "$1 a");
        }
        sim.refuses = !connected;
        sim.full = true;
        for child in &children {
            sim.send(*child, &format!("SET k {}", "x".repeat(900_000)));
        }
        (sim.full, sim.refuses) = (false, false);
        sim.pass(2000);
        for child in children {
            sim.received(child);
            let told = if sim.is_closed(child) { "$1 b".into() } else { sim.ask(child, "GET b") };
            assert_eq!(told, "$1 b", "no child is left on hold");
        }
    }
}

#[test]
fn a_memory_max_that_nothing_can_meet_is_no_endless_loop() {
    let mut sim = Sim::new(&[("memory_max", "1MiB")]);
    sim.broker.shared.env.settings.memory_max = 0;
    let child = sim.child();
    sim.send(child, "GET a");
    sim.pass(1000);
}

#[test]
fn memory_max_in_the_middle_of_a_request_leaves_nobody_on_hold() {
    let (mut sim, [child]) = Sim::with(&[("memory_max", "1MiB")]);
    assert_eq!(sim.ask(child, "WATCH k"), "+OK");
    sim.full = true;
    sim.send(child, &format!("BLPOP {} 0", "x".repeat(1 << 20)));
    sim.full = false;
    sim.settle();
    if !sim.is_closed(child) {
        sim.received(child);
        assert_eq!(sim.ask(child, "GET b"), "$1 b");
    }
}

#[test]
fn a_multi_that_was_lost_is_open_and_spoilt() {
    let (mut sim, [child]) = Sim::with(&[("transactions", "leased")]);
    sim.ask(child, "MULTI\nEXEC");
    sim.frozen = vec![LaneRole::Lease];
    sim.send(child, "MULTI");
    sim.lose_one(LaneRole::Lease);
    assert_eq!(sim.received(child), "+OK");
    let aborted = "-EXECABORT Transaction discarded because of: BROKERLOST upstream connection lost";
    assert_eq!(sim.ask(child, "SET a b\nEXEC"), format!("+QUEUED {aborted}"));
    assert_eq!(sim.ask(child, "GET a"), "$1 a");
}

#[test]
fn nothing_is_pushed_behind_the_answer_to_quit() {
    let (mut sim, [child]) = Sim::with(&[("pubsub", "leased")]);
    sim.ask(child, "HELLO 3\nSUBSCRIBE c");
    sim.frozen = vec![LaneRole::Lease];
    sim.send(child, "GET a\nQUIT");
    let lease = sim.link(LaneRole::Lease);
    sim.inject(lease, b"$1\r\na\r\n>3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n");
    assert_eq!(sim.received(child), "$1 a +OK");
    assert!(sim.is_closed(child));
}

#[test]
fn leases_that_cannot_be_opened_are_tried_less_and_less() {
    let (mut sim, [child]) = Sim::with(&[]);
    sim.refuses = true;
    let before = sim.broker.counters().upstream_connects;
    sim.send(child, "WATCH k");
    sim.pass(2000);
    let dials = sim.broker.counters().upstream_connects - before;
    assert!((4..20).contains(&dials), "{dials} dials in two seconds");
}

#[test]
fn a_drain_ends_every_kind_of_child() {
    let (mut sim, children) = Sim::with::<7>(&[("leases_session_max", "1"), ("drain_timeout", "2000")]);
    sim.send(children[1], "GET a\nMULTI");
    sim.send(children[2], "WATCH k\nMULTI\nGET b");
    sim.send(children[3], "BLPOP x 0");
    sim.send(children[4], "SUBSCRIBE c");
    sim.send(children[5], "SUBSCRIBE c");
    sim.frozen = vec![LaneRole::Shared];
    sim.send(children[6], "GET last");
    sim.broker.drain(None);
    sim.broker.dismiss();
    sim.settle();
    let closed = |sim: &Sim| children.iter().filter(|child| sim.is_closed(**child)).count();
    assert_eq!(closed(&sim), 3, "the idle one and those who listen");
    sim.thaw();
    assert_eq!((sim.received(children[6]), closed(&sim)), ("$4 last".into(), 4));
    sim.send(children[1], "GET b\nEXEC");
    assert_eq!(sim.received(children[1]), "$1 a +OK +QUEUED *1 $1 b");
    assert_eq!(closed(&sim), 5, "the one whose transaction was only here, once it has ended");
    sim.pass(2000);
    assert_eq!(closed(&sim), 7);
    assert!(sim.broker.is_drained());
}

/// A broker that has not reached its upstream yet.
pub(super) fn broker_without_redis() -> super::Broker {
    let upstream = crate::config::endpoint::parse_upstream("redis://h:6379/0").expect("an address");
    super::Broker::new(crate::config::Settings::default(), upstream, 7, 0)
}

/// A broker with a child in each of some states, for the tables of the console.
pub(super) fn broker_for_tables() -> super::Broker {
    let (mut sim, [a, b, c]) = Sim::with(&[]);
    sim.ask(a, "WATCH k\nGET k");
    sim.ask(b, "SUBSCRIBE c");
    sim.ask(c, "BLPOP x 0");
    sim.broker
}
