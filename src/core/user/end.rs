//! The end of a user: the upstream refuses its password, or no child has been it for a while. Closes its children, lanes
//! and pools, and tells who waits for them what the upstream has said. Never decides that a user is refused.

use crate::base::failure::Failure;
use crate::command::texts;
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::connection::bar::is_lasting;
use crate::core::connection::handshake::GreetingStep;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::LaneRole;
use crate::core::keys::{LaneKey, PoolKey, UserId};
use crate::core::shared::Shared;
use crate::core::sweeps::Sweep;
use crate::resp::reply;

impl Shared {
    pub(super) fn user_refused(&mut self, user: UserId) {
        if user == UserId::DEFAULT {
            self.probe.default_refused();
        }
        self.env.sweeps.begin(Sweep::UserRefused(user));
    }

    pub(crate) fn end_abandoned_users(&mut self) {
        for user in self.users.abandoned(self.env.now) {
            self.end_user(user);
        }
    }

    /// Closes every connection of a user that no child is, and forgets what was said on them.
    pub(super) fn end_user(&mut self, user: UserId) {
        let is_its = |lane: &Lane| !lane.role().is_own() && self.connections.key_of(lane).user == user;
        for key in self.connections.keys_where(is_its) {
            // The end of one lane may remove another.
            if self.connections.find(key).is_some() {
                self.end_lane(key);
            }
        }
        self.connections.free_pools_of(user);
        self.hubs.forget_user(user);
        self.users.forget(user);
    }

    /// Removes a lane for good, whatever is on it: it belongs to children that are gone.
    fn end_lane(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.known(key) else { return };
        if lane.lease().is_some() {
            return self.abandon_lease(key);
        }
        self.connections.drop_connection(&mut self.env, key);
        let slots = self.connections.known_mut(key).map(Lane::take_all).unwrap_or_default();
        self.fail_slots(key, slots, Failure::LOST);
        self.connections.remove(&mut self.env, key);
    }

    /// True if a refused greeting is the user's own affair and dealt with here: its password, a db it may not select, MULTI.
    pub(crate) fn greeting_refused(&mut self, key: LaneKey, step: GreetingStep, frame: &[u8]) -> bool {
        let Some(lane) = self.connections.known(key) else { return true };
        if step == GreetingStep::Multi {
            let refused = texts::is_lack(frame);
            if refused {
                self.multi_refused(key, frame);
            }
            return refused;
        }
        let pool = *self.connections.key_of(lane);
        if lane.role().is_own() {
            return false;
        }
        // The upstream's own db is nobody's choice.
        let is_chosen = pool.no_touch || pool.db != self.env.upstream.db || pool.user != UserId::UPSTREAM;
        if step == GreetingStep::Choice && is_lasting(frame) && is_chosen {
            self.refuse_pool(key, &pool, frame);
            return true;
        }
        if pool.user == UserId::UPSTREAM {
            return false;
        }
        let refused = matches!(reply::error_code(frame), Some(b"WRONGPASS" | b"NOAUTH" | b"NOPERM"));
        if refused {
            self.user_refused(pool.user);
        }
        refused
    }

    /// Children that wait for this lane are told what the upstream has said. The next request tries again, after a pause.
    /// Nobody else has chosen the same: the upstream is not barred.
    fn refuse_pool(&mut self, key: LaneKey, pool: &PoolKey, frame: &[u8]) {
        let text = reply::error_text(frame).unwrap_or_default();
        self.connections.drop_connection(&mut self.env, key);
        let Some(lane) = self.connections.known_mut(key) else { return };
        debug_assert!(lane.is_dormant());
        let failures = lane.count_failure(false);
        if lane.role() == LaneRole::Shared {
            if lane.carries_blocks() {
                self.fail_blocks(key, &text);
                return self.back_off(key, failures);
            }
            let slots = lane.take_all();
            self.fail_slots(key, slots, text.into());
            self.connections.account(&mut self.env, key);
            return self.back_off(key, failures);
        }
        self.end_lane(key);
        let id = self.connections.pool_of(*pool);
        self.fail_groups_of(id, &text);
        self.env.sweeps.begin(Sweep::PoolRefused(*pool, text));
    }

    /// As a connection of its own would have been closed. None goes on as another user.
    pub(crate) fn end_child_of(&mut self, child: &mut Child, user: UserId) -> bool {
        let is_its = child.user() == user;
        if is_its {
            self.close(child);
        }
        is_its
    }

    /// The child is a user of `auth_file` that is not there any more.
    pub(crate) fn end_child_without_account(&mut self, child: &mut Child) -> bool {
        let is_gone = child.account().is_some_and(|account| !self.users.has_account(account));
        if is_gone {
            self.close(child);
        }
        is_gone
    }

    /// The children that were this user have ended. False if others have become it meanwhile: they end first.
    pub(crate) fn end_refused_user(&mut self, user: UserId, count: usize) -> bool {
        if self.users.children_of(user) > 0 {
            return false;
        }
        let name = String::from_utf8_lossy(self.users.name(user, &self.env.upstream));
        let name: String = name.chars().take(64).collect();
        log::warn!("the upstream refuses user {name:?}: closed its {count} children");
        self.end_user(user);
        true
    }

    /// A child that waits for a lease of this pool is told what the upstream has said.
    pub(crate) fn fail_lease_waiter(&mut self, child: &mut Child, pool: &PoolKey, text: &str) -> bool {
        let waits = child.hold() == Hold::LeaseQueue && child.pool_key() == *pool;
        if waits {
            self.leave_line(child);
            self.fail_front(child, text);
        }
        waits
    }
}
