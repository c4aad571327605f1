//! Sentinels that name another master, as children see it.

use super::*;

#[test]
fn from_the_turn_on_in_which_another_master_is_known_nothing_is_written_to_the_former_one() {
    let (mut sim, children) = Sim::watched::<13>(&[]);
    let (watches, others) = (children[0], &children[1..]);
    assert_eq!(sim.ask(watches, "WATCH k"), "+OK");
    assert_eq!(sim.ask(others[0], "GET a"), "$1 a");
    let shared = sim.link(LaneRole::Shared);
    sim.silent.push(shared);
    others.iter().for_each(|child| sim.send(*child, "GET b"));
    sim.elect(1);
    // So many are told of the loss that it takes more than one step.
    sim.lose_and_hear(shared, watches, "SET k v");
    sim.pass(100);
    let lost = others.iter().filter(|child| sim.received(**child).starts_with(LOST)).count();
    assert!(lost > 10, "{lost} of {} were lost", others.len());
    sim.received(watches);
    assert_eq!(sim.ask(watches, "SET l v"), "+OK");
    assert_eq!(sim.servers_of("SET l v"), [1]);
    assert!(sim.servers_of("SET k v").iter().all(|server| *server == 1), "{:?}", sim.servers_of("SET k v"));
}

/// Each answer has its time from the first switch on that is behind it.
#[test]
fn a_second_switch_lengthens_no_wait() {
    let (mut sim, [child, other]) = Sim::watched(&[("failover_grace", "1000")]);
    assert_eq!(sim.ask(child, "GET a"), "$1 a");
    let shared = sim.link(LaneRole::Shared);
    sim.silent.push(shared);
    sim.send(child, "GET b");
    sim.elect(1);
    sim.hear_sentinels();
    sim.pass(600);
    assert_eq!(sim.ask(other, "SET c v"), "+OK");
    sim.elect(2);
    sim.hear_sentinels();
    sim.pass(500);
    assert_eq!(sim.ask(other, "SET d v"), "+OK");
    assert_eq!((sim.servers_of("SET c"), sim.servers_of("SET d")), (vec![1], vec![2]));
    let told = sim.received(child);
    assert!(told.starts_with(LOST), "{told}");
}
