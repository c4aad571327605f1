//! Users that come and go.

use super::*;
use crate::base::limits;
use crate::core::pool::PoolKey;
use crate::core::users::{Password, UserId};

#[test]
fn pools_of_users_that_have_gone_are_used_again() {
    let mut sim = Sim::new(&[("auth", "passthrough")]);
    let before = sim.broker.pools.len();
    for number in 0..200u32 {
        let user = sim.broker.users.register(&number.to_le_bytes(), &Password::new(b"p"));
        sim.broker.users.enter(user);
        for db in 0..3 {
            let pool = sim.broker.pool_of(PoolKey { user, db, proto: 2, no_touch: false });
            let lane = sim.broker.shared_lane(pool);
            sim.broker.want_connection(lane);
        }
        sim.broker.users.leave(user, sim.now);
        sim.pass(limits::USER_LINGER / 4);
        assert!(sim.broker.pools.len() <= before + 6 * 3, "{} pools", sim.broker.pools.len());
    }
    sim.pass(2 * limits::USER_LINGER);
    assert_eq!(sim.broker.lanes.len(), 2, "control and probe");
    let upstream = PoolKey { user: UserId::UPSTREAM, db: 0, proto: 3, no_touch: false };
    assert_eq!(sim.broker.pool_of(upstream).0, 0, "the broker's own stays where it is");
}
