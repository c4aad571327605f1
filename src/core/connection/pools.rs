//! Which lane serves whom: finding the pool of a child, a shared lane of it, an idle leased one. Owns the pools; never
//! whether a lane of them is connected.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::command::{CommandId, Renumbering};
use crate::config::Settings;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::{LaneRole, RoleData, Traffic};
use crate::core::connection::{Connections, Pool};
use crate::core::env::Env;
use crate::core::keys::{LaneKey, LeaseKind, PoolId, PoolKey, UserId};

impl Connections {
    /// Which pool serves a child of this user, db and protocol. Sentinel or Cluster would be asked here.
    pub(crate) fn pool_of(&mut self, key: PoolKey) -> PoolId {
        debug_assert!(key.user != UserId::NOBODY && key.user != UserId::UNDECIDED, "a pool for nobody");
        // A few pools, the usual case, are looked through faster than a map.
        if let Some(index) = self.pools.iter().take(4).position(|pool| pool.key == key) {
            return PoolId(index as u32);
        }
        if let Some(id) = self.pool_ids.get(&key) {
            return *id;
        }
        let free = self.pools.iter().position(|pool| pool.key == PoolKey::FREE);
        let id = PoolId(free.unwrap_or(self.pools.len()) as u32);
        match free {
            Some(index) => self.pools[index] = Pool::new(key),
            None => self.pools.push(Pool::new(key)),
        }
        self.pool_ids.insert(key, id);
        id
    }

    pub(crate) fn pool(&self, id: PoolId) -> &Pool {
        &self.pools[id.0 as usize]
    }

    pub(super) fn pool_mut(&mut self, id: PoolId) -> &mut Pool {
        &mut self.pools[id.0 as usize]
    }

    pub(crate) fn pools(&self) -> impl Iterator<Item = (PoolId, &Pool)> {
        self.pools.iter().enumerate().map(|(index, pool)| (PoolId(index as u32), pool))
    }

    pub(crate) fn key_of(&self, lane: &Lane) -> &PoolKey {
        &self.pool(lane.pool()).key
    }

    /// The user has gone, and its pools have no lane left: the pools may become others.
    pub(crate) fn free_pools_of(&mut self, user: UserId) {
        let of_user = |lane: &Lane| self.key_of(lane).user == user;
        debug_assert!(!self.lanes.iter().any(|(_, lane)| of_user(lane)), "a pool freed with its lanes");
        for pool in self.pools.iter_mut().filter(|pool| pool.key.user == user) {
            let pool = std::mem::replace(pool, Pool::new(PoolKey::FREE));
            self.pool_ids.remove(&pool.key);
        }
    }

    /// A reply on this lane was long or late; for certain because of its command, or perhaps.
    pub(crate) fn note_heavy(&mut self, lane: LaneKey, command: CommandId, is_certain: bool, now: Millis) {
        if let Some(pool) = self.known(lane).map(Lane::pool) {
            self.pool_mut(pool).note_heavy(command, is_certain, now);
        }
    }

    /// Whether the upstream has nothing else to execute than what is on this lane, as far as is known here.
    pub(crate) fn is_alone_at_work(&self, key: LaneKey) -> bool {
        let works = |lane: &Lane| lane.front().is_some_and(|slot| !slot.kind.is_own() && !slot.may_wait());
        !self.lanes.iter().any(|(other, lane)| other != key && works(lane))
    }

    /// Whether replies to this command were so of late, to children that had just come.
    pub(crate) fn is_heavy_of_late(&mut self, pool: PoolKey, command: CommandId, now: Millis) -> bool {
        let id = self.pool_of(pool);
        self.pool(id).is_heavy(command, now)
    }

    /// Commands have other numbers now.
    pub(crate) fn renumber_commands(&mut self, renumbering: &Renumbering) {
        self.pools.iter_mut().for_each(|pool| pool.renumber_commands(renumbering));
    }

    /// Whether requests may follow those on this lane. A leased one that its child has given back may have gone.
    pub(crate) fn still_serves(&self, lane: LaneKey, pool: &PoolKey, traffic: Traffic) -> bool {
        let serves = |lane: &Lane| lane.takes(traffic) && self.key_of(lane) == pool;
        self.find(lane).is_some_and(serves)
    }

    pub(crate) fn shared_lane(&mut self, env: &Env, key: PoolKey, traffic: Traffic) -> LaneKey {
        let (id, lanes_max, now) = (self.pool_of(key), env.settings.lanes, env.now);
        // One, the usual case, needs no comparison.
        if traffic == Traffic::Ordinary
            && lanes_max == 1
            && let [only] = self.pool(id).shared[..]
            && self.known(only).is_some_and(Lane::is_open)
        {
            return only;
        }
        match traffic {
            Traffic::Ordinary => self.least_busy_lane(id, lanes_max, now),
            Traffic::Bulk => self.bulk_lane(id, lanes_max, now),
            Traffic::Blocks => self.block_lane(env, id),
        }
    }

    /// The shared lane with the least waiting on it; a new one while all are busy and fewer than `lanes_max`.
    #[inline(never)]
    fn least_busy_lane(&mut self, id: PoolId, lanes_max: usize, now: Millis) -> LaneKey {
        // One that took the place of a detached or a slow lane rests when that is back.
        let shared = self.pool(id).shared.iter().filter_map(|key| Some((*key, self.lanes.get(*key)?)));
        let usable = shared.filter(|(_, lane)| lane.is_open()).take(lanes_max);
        let (mut count, mut best) = (0, None);
        for (key, lane) in usable {
            count += 1;
            let depth = lane.depth();
            if best.is_none_or(|(_, least)| depth < least) {
                best = Some((key, depth));
            }
        }
        match best {
            Some((key, depth)) if depth == 0 || count >= lanes_max => key,
            _ => {
                let key = self.add(Lane::new(id, RoleData::shared(Traffic::Ordinary), now));
                self.pool_mut(id).shared.push(key);
                key
            }
        }
    }

    /// The pool's lane for what is large: while a megabyte passes on a lane, nothing behind it does. Detached, it is
    /// not to be had.
    #[inline(never)]
    fn bulk_lane(&mut self, id: PoolId, lanes_max: usize, now: Millis) -> LaneKey {
        match self.pool(id).bulk {
            Some(key) if !self.known(key).is_none_or(Lane::is_detached) => return key,
            Some(_) => return self.least_busy_lane(id, lanes_max, now),
            None => {}
        }
        let key = self.add(Lane::new(id, RoleData::shared(Traffic::Bulk), now));
        self.pool_mut(id).bulk = Some(key);
        key
    }

    /// The lane for the next transaction: an idle one, else one more while there may be more and there is room for its
    /// connection, else the one with the least on it. One more at a time, since it may come too late to be of use.
    #[inline(never)]
    fn block_lane(&mut self, env: &Env, id: PoolId) -> LaneKey {
        let (mut best, mut dormant, mut count, mut opens): (Option<(LaneKey, usize)>, _, _, _) =
            (None, None, 0, false);
        for key in &self.pool(id).blocks {
            let Some(lane) = self.lanes.get(*key).filter(|lane| lane.is_open()) else { continue };
            if lane.is_ready() && lane.is_idle() {
                return *key;
            }
            count += 1;
            if lane.is_dormant() {
                dormant = dormant.or(Some(*key));
                continue;
            }
            opens |= !lane.is_ready();
            if best.is_none_or(|(_, least)| lane.depth() < least) {
                best = Some((*key, lane.depth()));
            }
        }
        let may_grow = !opens
            && (dormant.is_some() || count < limits::BLOCK_LANES_MAX)
            && self.has_room(&env.settings, LaneRole::Shared);
        match (best, dormant) {
            (Some((best, _)), _) if !may_grow => best,
            (_, Some(dormant)) => dormant,
            (_, None) => {
                let key = self.add(Lane::new(id, RoleData::shared(Traffic::Blocks), env.now));
                self.pool_mut(id).blocks.push(key);
                key
            }
        }
    }

    /// A burst of transactions leaves more lanes for them than the first of each pool. Those not used within `limit` go.
    pub(crate) fn close_rested_block_lanes(&mut self, env: &mut Env, limit: Millis) {
        let rested =
            |lane: &Lane| lane.is_unused() && env.now.saturating_sub(lane.record().last_used) >= limit;
        let further = self.pools.iter().flat_map(|pool| pool.blocks.iter().skip(1)).copied();
        let rested = further.filter(|key| self.lanes.get(*key).is_some_and(rested)).collect::<Vec<_>>();
        for key in rested {
            self.disconnect(env, key);
        }
    }

    /// Shared lanes beyond `lanes_max` take no new child; they go once nothing is on them.
    pub(crate) fn mark_surplus_lanes(&mut self, lanes_max: usize) {
        for pool in &mut self.pools {
            // Those with most on them stay: the others are free soonest.
            let depth = |key: &LaneKey| self.lanes.get(*key).map_or(0, Lane::depth);
            pool.shared.sort_by_key(|key| std::cmp::Reverse(depth(key)));
            let kept = lanes_max.min(pool.shared.len());
            for key in pool.shared.drain(kept..) {
                if let Some(lane) = self.lanes.get_mut(key) {
                    lane.mark_surplus();
                }
            }
        }
    }

    /// No child begins to use this shared lane, which goes once nothing is on it: another is opened in its place.
    pub(crate) fn replace(&mut self, key: LaneKey) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        lane.mark_surplus();
        let id = lane.pool();
        self.pool_mut(id).forget(key);
    }

    /// The most recently used one. It is lent, or put back with `offer`.
    pub(crate) fn take_idle(&mut self, id: PoolId) -> Option<LaneKey> {
        self.pool_mut(id).idle.pop()
    }

    pub(crate) fn take_idle_lane(&mut self, id: PoolId, key: LaneKey) -> bool {
        let idle = &mut self.pool_mut(id).idle;
        let at = idle.iter().position(|idle| *idle == key);
        at.map(|at| idle.remove(at)).is_some()
    }

    /// A leased lane is not lent, or not any more: the next child may have it, if it is `clean` and not one too many.
    pub(crate) fn offer(&mut self, env: &mut Env, key: LaneKey, clean: bool) {
        if !clean || self.has_lease_too_many(&env.settings) {
            return self.remove(env, key);
        }
        let Some(lane) = self.known(key) else { return };
        debug_assert!(lane.is_unused(), "not free");
        self.pool_mut(lane.pool()).idle.push(key);
    }

    pub(crate) fn leases_idle(&self) -> usize {
        self.pools.iter().map(|pool| pool.idle.len()).sum()
    }

    /// Somebody has needed a lease here: `leases_warm` are kept connected from now on.
    pub(crate) fn keep_warm(&mut self, id: PoolId) {
        self.pool_mut(id).warm = true;
    }

    /// Leased lanes there may be, of all kinds, when one of `kind` is opened.
    pub(crate) fn leases_max(&self, settings: &Settings, kind: LeaseKind) -> usize {
        let kept = match kind {
            LeaseKind::Blocking => limits::PLACES_KEPT_FROM_BLOCKING,
            LeaseKind::Transaction => limits::PLACES_KEPT_FROM_TRANSACTIONS,
            LeaseKind::Session => limits::PLACES_KEPT_FROM_SESSIONS,
        };
        // That of the control connection is among those kept.
        self.capacity.places(settings).saturating_sub(kept + self.own.len().saturating_sub(1))
    }

    /// Whether a leased lane is one too many since a cap was lowered.
    pub(crate) fn has_lease_too_many(&self, settings: &Settings) -> bool {
        self.capacity.leases > self.leases_max(settings, LeaseKind::Transaction)
            || self.capacity.held() > self.capacity.places(settings)
    }

    pub(crate) fn opening_for(&self, kind: LeaseKind) -> Vec<PoolId> {
        let opening = self.lanes.iter().filter(|(_, lane)| lane.is_opening_for(kind));
        opening.map(|(_, lane)| lane.pool()).collect()
    }

    /// Opens a leased lane of this pool for those who wait for this kind. False if there is no room for it now.
    pub(crate) fn open_lease(&mut self, env: &mut Env, pool: PoolId, kind: LeaseKind) -> bool {
        let full = self.capacity.leases >= self.leases_max(&env.settings, kind);
        if full && !self.close_idle_lease(env, Some(pool)) {
            return false;
        }
        self.capacity.lease_wanted = false;
        if !self.make_room(env, LaneRole::Lease, false) {
            self.capacity.lease_wanted = true;
            self.ask_to_yield(env);
            return false;
        }
        let key = self.add(Lane::new(pool, RoleData::Lease { lease: None, opened_for: Some(kind) }, env.now));
        self.dial(env, key);
        true
    }

    pub(crate) fn open_warm(&mut self, env: &mut Env) {
        let max = self.capacity.places(&env.settings).saturating_sub(self.own.len());
        let leases_max = self.leases_max(&env.settings, LeaseKind::Blocking);
        let warm: Vec<PoolId> = self.pools().filter(|(_, pool)| pool.warm).map(|(id, _)| id).collect();
        for id in warm {
            let leased = |(_, lane): &(LaneKey, &Lane)| lane.pool() == id && lane.role() == LaneRole::Lease;
            for _ in self.lanes().filter(leased).count()..env.settings.leases_warm {
                let full = self.capacity.leases >= leases_max || self.capacity.held() >= max;
                if full || !self.may_dial(env.now) {
                    return;
                }
                let key = self.add(Lane::new(id, RoleData::Lease { lease: None, opened_for: None }, env.now));
                self.dial(env, key);
            }
        }
    }

    pub(crate) fn close_idle_leases(&mut self, env: &mut Env, leases_max: usize) {
        while self.capacity.leases > leases_max && self.close_idle_lease(env, None) {}
    }

    /// A burst leaves more idle leases than `leases_warm`. Those not taken up within `limit` go: Redis counts every one.
    pub(crate) fn close_rested_leases(&mut self, env: &mut Env, limit: Millis) {
        for index in 0..self.pools.len() {
            // The most recently used stand last.
            while let Some(key) = self.pools[index].idle.first().copied() {
                let rested = |lane: &Lane| env.now.saturating_sub(lane.record().last_used) >= limit;
                let surplus = self.pools[index].idle.len() > env.settings.leases_warm;
                if !surplus || !self.known(key).is_some_and(rested) {
                    break;
                }
                self.disconnect(env, key);
            }
        }
    }

    /// Closes a leased lane that is not lent, if there is one in another pool than `kept`.
    pub(super) fn close_idle_lease(&mut self, env: &mut Env, kept: Option<PoolId>) -> bool {
        let others = self.pools().filter(|(id, _)| Some(*id) != kept);
        let idle = others.filter_map(|(_, pool)| pool.idle.first()).next().copied();
        idle.inspect(|key| self.disconnect(env, *key)).is_some()
    }
}
