//! Users that come and go.

use super::*;
use crate::base::limits;
use crate::core::connection::role::Traffic;
use crate::core::keys::{PoolKey, UserId};
use crate::core::user::credentials::Password;

#[test]
fn pools_of_users_that_have_gone_are_used_again() {
    let mut sim = Sim::new(&[("auth", "passthrough")]);
    let pools = |sim: &Sim| sim.broker.shared.connections.pools().count();
    let before = pools(&sim);
    for number in 0..200u32 {
        let user = sim.broker.shared.users.register(&number.to_le_bytes(), &Password::new(b"p"));
        sim.broker.shared.users.enter(user);
        let shared = &mut sim.broker.shared;
        for db in 0..3 {
            let pool = PoolKey { user, db, proto: 2, no_touch: false, replica: 0 };
            let lane = shared.connections.shared_lane(&shared.env, pool, Traffic::Ordinary);
            shared.connections.want(&mut shared.env, lane);
        }
        sim.broker.shared.users.leave(user, sim.now);
        sim.pass(limits::USER_LINGER / 4);
        assert!(pools(&sim) <= before + 6 * 3, "{} pools", pools(&sim));
    }
    sim.pass(2 * limits::USER_LINGER);
    assert_eq!(sim.broker.shared.connections.lanes().count(), 2, "control and probe");
    let upstream = PoolKey { user: UserId::UPSTREAM, db: 0, proto: 3, no_touch: false, replica: 0 };
    assert_eq!(sim.broker.shared.connections.pool_of(upstream).0, 0, "the broker's own stays where it is");
}

/// The default user may be given a password at any time, and nobody tells.
#[test]
fn a_newcomer_is_the_default_user_if_that_was_open_a_moment_ago() {
    let (mut sim, [early]) = Sim::with(&[("auth", "passthrough")]);
    assert_eq!(sim.ask(early, "GET a"), "$1 a");
    sim.frozen = vec![LaneRole::Probe];
    sim.pass(limits::DEFAULT_FRESH + 1);
    let late = sim.child();
    assert_eq!(sim.ask(late, "GET a"), "", "it waits for the answer");
    let probe = sim.link(LaneRole::Probe);
    sim.inject(probe, b"+RESET\r\n-NOAUTH Authentication required.\r\n");
    assert_eq!(sim.received(late), "-NOAUTH Authentication required.");
    assert_eq!(sim.ask(early, "GET a"), "$1 a", "who has been let in stays");
}

/// Redis answers PING with an error for many reasons; all but one say that it knows who asks.
#[test]
fn a_default_user_that_is_told_of_trouble_needs_no_password() {
    for trouble in ["MISCONF Redis is configured to save RDB snapshots", "LOADING x", "NOPERM x"] {
        let mut sim = Sim::new(&[("auth", "passthrough")]);
        sim.frozen = vec![LaneRole::Probe];
        sim.pass(limits::DEFAULT_FRESH + 1);
        let child = sim.child();
        assert_eq!(sim.ask(child, "GET a"), "");
        let probe = sim.link(LaneRole::Probe);
        sim.inject(probe, format!("+RESET\r\n-{trouble}\r\n").as_bytes());
        assert_eq!(sim.received(child), "$1 a", "{trouble}");
    }
}

/// Redis 8.2 does not answer an AUTH that it refuses and has read together with what came before.
#[test]
fn a_password_that_is_not_answered_is_not_accepted() {
    let (mut sim, [a, b]) = Sim::with(&[("auth", "passthrough")]);
    let probe = sim.link(LaneRole::Probe);
    sim.silent.push(probe);
    sim.send(a, "AUTH ann wrong");
    sim.send(b, "AUTH bob wrong");
    // The answer to the first is missing, and what is behind it comes in its place.
    sim.answer_next(probe, b"+RESET\r\n");
    assert_eq!((sim.received(a), sim.received(b)), (String::new(), String::new()));
    sim.thaw();
    sim.pass(1000);
    let refused = "-WRONGPASS invalid username-password pair or user is disabled.";
    assert_eq!((sim.received(a).as_str(), sim.received(b).as_str()), (refused, refused));
    assert_eq!(sim.ask(a, "AUTH ann pa"), "+OK");
    assert_eq!(sim.ask(b, "AUTH bob pb\nGET x"), "+OK $1 x");
}
