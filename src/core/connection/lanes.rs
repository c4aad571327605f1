//! Large requests and replies, kept off the lanes that small ones share: while a megabyte passes, nothing behind it
//! does. Each pool has one more shared lane for them. Owns who goes there; what travels on it is as on any other.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::core::action::Action;
use crate::core::broker::Broker;
use crate::core::connection::handshake::Handshake;
use crate::core::connection::lane::FLAG_TIMED_OUT;
use crate::core::connection::lane::Lane;
use crate::core::connection::lane::LaneRole;
use crate::core::connection::lane::LaneState;
use crate::core::connection::pool::Pool;
use crate::core::keys::LaneKey;
use crate::core::keys::LeaseKind;
use crate::core::keys::PoolId;
use crate::core::keys::PoolKey;
use crate::core::keys::UserId;
use crate::core::notice::Notice;
use crate::core::shared::Shared;
use crate::core::timers::Timer;

impl Shared {
    /// The pool's lane for what is large.
    pub(in crate::core) fn bulk_lane(&mut self, id: PoolId) -> LaneKey {
        if let Some(key) = self.pool(id).bulk.filter(|key| self.connections.lanes.get(*key).is_some()) {
            return key;
        }
        let mut lane = Lane::new(id, LaneRole::Shared, self.env.now);
        lane.bulk = true;
        let key = self.connections.lanes.insert(lane);
        self.pool(id).bulk = Some(key);
        key
    }

    /// Which pool serves a child of this user, db and protocol. With Sentinel or Cluster behind us, this is
    /// where they would be asked.
    pub(in crate::core) fn pool_of(&mut self, key: PoolKey) -> PoolId {
        debug_assert!(key.user != UserId::NOBODY && key.user != UserId::UNDECIDED, "a pool for nobody");
        // A few pools, the usual case, are looked through faster than a map.
        if let Some(index) = self.connections.pools.iter().take(4).position(|pool| pool.key == key) {
            return PoolId(index as u32);
        }
        if let Some(id) = self.connections.pool_ids.get(&key) {
            return *id;
        }
        let pool = Pool { key, shared: Vec::new(), bulk: None, idle: Vec::new(), warm: false, refusal: None };
        let index = match self.connections.pools.iter().position(|pool| pool.key == PoolKey::FREE) {
            Some(index) => {
                self.connections.pools[index] = pool;
                index
            }
            None => {
                self.connections.pools.push(pool);
                self.connections.pools.len() - 1
            }
        };
        let id = PoolId(index as u32);
        self.connections.pool_ids.insert(key, id);
        id
    }

    /// The pool has no lane left and its user has gone: another may have its place.
    pub(in crate::core) fn free_pool(&mut self, id: PoolId) {
        let pool = self.pool(id);
        let key = std::mem::replace(&mut pool.key, PoolKey::FREE);
        (pool.shared, pool.bulk, pool.idle, pool.warm) = (Vec::new(), None, Vec::new(), false);
        pool.refusal = None;
        self.connections.pool_ids.remove(&key);
        debug_assert!(
            self.connections.lanes.iter().all(|(_, lane)| lane.pool != id),
            "a pool freed with its lanes"
        );
    }

    pub(in crate::core) fn pool(&mut self, id: PoolId) -> &mut Pool {
        &mut self.connections.pools[id.0 as usize]
    }

    /// The shared lane with the least waiting on it; a new one while fewer than `lanes` exist and all are
    /// busy.
    pub(in crate::core) fn shared_lane(&mut self, id: PoolId) -> LaneKey {
        let depth = |key: &LaneKey| self.connections.lanes.get(*key).map_or(usize::MAX, Lane::depth);
        let detached = |key: &LaneKey| self.connections.lanes.get(*key).is_some_and(|lane| lane.detached);
        // One that took the place of a detached lane rests when that is back.
        let shared = self.connections.pools[id.0 as usize].shared.iter().copied();
        let usable = shared.filter(|key| !detached(key)).take(self.env.settings.lanes);
        let count = usable.clone().count();
        match usable.min_by_key(depth) {
            Some(key) if depth(&key) == 0 || count >= self.env.settings.lanes => key,
            _ => {
                let key = self.connections.lanes.insert(Lane::new(id, LaneRole::Shared, self.env.now));
                self.pool(id).shared.push(key);
                key
            }
        }
    }

    /// A lane has something to send: connects it if need be.
    pub(in crate::core) fn want_connection(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.lanes.get(key) else { return };
        if lane.state != LaneState::Dormant {
            return;
        }
        let role = lane.role;
        if role == LaneRole::Subscriber && !self.has_subscriber_place() {
            // No shared lane has to yield for it: what it waits for is the end of a lease.
            self.close_idle_lease();
            self.connections.places.parked.push(key);
            return self.connections.lanes.get_mut(key).expect("just seen").set_state(LaneState::Waiting);
        }
        if self.make_place(role) {
            return self.dial(key);
        }
        self.connections.lanes.get_mut(key).expect("just seen").set_state(LaneState::Waiting);
        match role {
            // Its place is kept; it only waits for the upstream to close a connection given up before.
            LaneRole::Control | LaneRole::Probe => self.connections.places.waiters.push_front(key),
            LaneRole::Shared | LaneRole::Lease | LaneRole::Subscriber => {
                self.connections.places.waiters.push_back(key)
            }
        }
        self.ask_to_yield();
    }

    /// Whether one more connection may be opened now. If not, and none is closing already for whoever asks,
    /// an idle one is evicted: its place comes free once the upstream has closed it. Whoever asks does not
    /// stand among those that wait. One place is always kept for each of the broker's own connections.
    pub(in crate::core) fn make_place(&mut self, role: LaneRole) -> bool {
        let own = [Some(self.control.lane), self.probe.lane].into_iter().flatten();
        let own = own.filter_map(|key| self.connections.lanes.get(key));
        let kept = own.filter(|lane| lane.role != role && !lane.holds_place()).count();
        let max = self.env.settings.upstream_connections_max - kept;
        if self.counted() < max {
            return true;
        }
        if self.connections.places.closing <= self.connections.places.wanted()
            && let Some(victim) = self.evictable()
        {
            log::debug!("upstream connections: all {max} in use, closing an idle one");
            self.disconnect(victim);
        }
        false
    }

    /// Connections held, as far as they count against a new one. After the cap was lowered there may be more
    /// leases lent than it allows; whoever needs no lease must not have to wait for their end.
    fn counted(&self) -> usize {
        let too_many =
            self.connections.places.leases.saturating_sub(self.lease_places(LeaseKind::Transaction));
        self.connections.places.open + self.connections.places.closing - too_many
    }

    /// The idle lane unused for longest: nobody holds it, nothing is on it.
    fn evictable(&self) -> Option<LaneKey> {
        self.connections
            .lanes
            .iter()
            .filter(|(_, lane)| lane.state == LaneState::Ready && lane.is_idle() && lane.lease.is_none())
            .filter(|(key, lane)| !lane.role.is_own() && !self.carries_topics(*key))
            .min_by_key(|(_, lane)| lane.last_used)
            .map(|(key, _)| key)
    }

    /// Somebody needs a place and nothing is idle: the shared lane connected for longest finishes what it
    /// has written and passes its place on.
    pub(in crate::core) fn ask_to_yield(&mut self) {
        while self.connections.places.yielding + self.connections.places.closing
            < self.connections.places.wanted()
        {
            let victim = self
                .connections
                .lanes
                .iter()
                .filter(|(_, lane)| lane.role == LaneRole::Shared && lane.state == LaneState::Ready)
                .filter(|(_, lane)| !lane.detached)
                .min_by_key(|(_, lane)| lane.connected_at)
                .map(|(key, lane)| (key, lane.connected_at + limits::LANE_HOLD_MIN));
            match victim {
                Some((key, due)) if due <= self.env.now => self.start_yield(key),
                Some((_, due)) => return self.env.timers.arm(due, Timer::Places),
                None => return,
            }
        }
    }

    /// The lane writes nothing more and passes its place on once it has the replies to what it wrote.
    pub(in crate::core) fn start_yield(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        lane.begin_yield();
        self.connections.places.yielding += 1;
        self.mark_lane(key);
        self.finish_yield(key);
    }

    /// A yielding lane with nothing written left to wait for gives its place away.
    pub(in crate::core) fn finish_yield(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.lanes.get(key) else { return };
        if lane.state == LaneState::Yielding && lane.outgoing().is_empty() && !lane.owes_replies() {
            self.disconnect(key);
        }
    }

    /// A place may have come free: the longest waiting lane gets it, then leases.
    pub(in crate::core) fn serve_places(&mut self) {
        for key in std::mem::take(&mut self.connections.places.parked) {
            if let Some(lane) =
                self.connections.lanes.get_mut(key).filter(|lane| lane.state == LaneState::Waiting)
            {
                lane.set_state(LaneState::Dormant);
                if self.is_needed(key) {
                    self.want_connection(key);
                }
            }
        }
        while let Some(key) = self.connections.places.waiters.pop_front() {
            let needed = self.is_needed(key);
            let waiting = self.connections.lanes.get_mut(key).filter(|lane| lane.state == LaneState::Waiting);
            let role = waiting.as_ref().filter(|_| needed).map(|lane| lane.role);
            if let Some(lane) = waiting.filter(|_| !needed) {
                // What it was to carry has expired meanwhile.
                lane.set_state(LaneState::Dormant);
            }
            if role.is_some_and(|role| !self.make_place(role)) {
                self.connections.places.waiters.push_front(key);
                break;
            }
            if role.is_some() {
                self.dial(key);
            }
        }
        if self.connections.places.lease_wanted {
            self.connections.places.lease_wanted = false;
            self.pump_leases();
        }
        self.ask_to_yield();
    }

    /// Whether the lane has any use for a connection.
    pub(in crate::core) fn is_needed(&self, key: LaneKey) -> bool {
        let busy = |lane: &Lane| lane.role.is_own() || !lane.is_idle();
        self.connections.lanes.get(key).is_some_and(busy) || self.carries_topics(key)
    }

    /// Opens a connection for `key`; the place has been made.
    pub(in crate::core) fn dial(&mut self, key: LaneKey) {
        let deadline = self.env.now + self.env.settings.connect_timeout;
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        lane.set_state(LaneState::Connecting);
        lane.timer = lane.timer.wrapping_add(1);
        self.env.timers.arm(deadline, Timer::Lane(key, lane.timer));
        self.connections.places.open += 1;
        if lane.role.counts_as_lease() {
            self.connections.places.leases += 1;
        }
        debug_assert!(self.counted() <= self.env.settings.upstream_connections_max);
        self.env.counters.upstream_connects += 1;
        self.env.actions.push(Action::Connect(key));
    }

    /// Closes a lane's connection on purpose. Nothing written may be waiting on it.
    pub(in crate::core) fn disconnect(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.lanes.get(key) else { return };
        debug_assert!(!lane.has_written(), "closing a lane that owes replies");
        self.drop_connection(key);
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        if !lane.is_idle() {
            lane.set_state(LaneState::Waiting);
            self.connections.places.waiters.push_back(key);
        }
        if lane.role == LaneRole::Lease {
            let pool = lane.pool;
            self.forget_lane(key, pool);
        }
    }

    /// Gives the place back and has the driver close the connection; the lane is Dormant then.
    pub(in crate::core) fn drop_connection(&mut self, key: LaneKey) {
        let Some(lane) = self.connections.lanes.get_mut(key) else { return };
        if !lane.holds_place() {
            return;
        }
        self.connections.places.open -= 1;
        self.connections.places.closing += 1;
        if lane.role.counts_as_lease() {
            self.connections.places.leases -= 1;
        }
        if lane.state == LaneState::Yielding {
            self.connections.places.yielding -= 1;
        }
        lane.set_state(LaneState::Dormant);
        // A timer set for this connection must not hit the next one.
        lane.timer = lane.timer.wrapping_add(1);
        lane.forget_connection();
        lane.losses = lane.losses.wrapping_add(1);
        lane.detached = false;
        let link = std::mem::replace(&mut lane.link, usize::MAX);
        self.account_lane(key);
        self.connections.places_changed = true;
        if let Some(at) = self.env.actions.iter().position(|action| *action == Action::Connect(key)) {
            // The driver has not even begun to dial.
            self.env.actions.remove(at);
            self.connections.places.closing -= 1;
        } else {
            self.env.actions.push(Action::CloseLane { lane: key, link });
        }
    }

    /// Removes a leased lane for good.
    pub(in crate::core) fn forget_lane(&mut self, key: LaneKey, pool: PoolId) {
        self.pool(pool).idle.retain(|idle| *idle != key);
        self.connections.places.waiters.retain(|waiter| *waiter != key);
        let Some(mut lane) = self.connections.lanes.remove(key) else { return };
        self.env.memory -= lane.footprint;
        self.lift_held(std::mem::take(&mut lane.held));
        // Replies that were overdue will not come any more: nothing has to wait for them.
        let overdue = lane.take_written().into_iter().chain(lane.take_all());
        for slot in overdue.filter(|slot| slot.flags & FLAG_TIMED_OUT != 0) {
            self.env.notices.push_back(Notice::Overdue(slot.child));
        }
    }

    /// The delay before the next attempt, doubling from `BACKOFF_FIRST`, jittered so that many brokers do
    /// not knock at once.
    pub(in crate::core) fn backoff(&mut self, failures: u32) -> Millis {
        let max = self.env.settings.reconnect_backoff_max.max(1);
        let base = (limits::BACKOFF_FIRST << failures.min(16)).min(max);
        base - self.env.rng.u64(0..=base / 2)
    }

    /// Effective cap on a kind of lease.
    pub(in crate::core) fn lease_cap(&self, kind: LeaseKind) -> usize {
        match kind {
            LeaseKind::Blocking => self.env.settings.leases_blocking_max,
            LeaseKind::Transaction => self.env.settings.leases_transaction_max,
            LeaseKind::Session => self.env.settings.leases_session_max,
        }
    }

    /// Leased lanes there may be, of all kinds, when one of `kind` is opened.
    pub(in crate::core) fn lease_places(&self, kind: LeaseKind) -> usize {
        let kept = match kind {
            LeaseKind::Blocking => limits::PLACES_KEPT_FROM_BLOCKING,
            LeaseKind::Transaction => limits::PLACES_KEPT_FROM_TRANSACTIONS,
            LeaseKind::Session => limits::PLACES_KEPT_FROM_SESSIONS,
        };
        self.env.settings.upstream_connections_max - kept - self.probe_places()
    }
}

impl Broker {
    /// The driver has closed a connection for good, and so has the upstream as far as can be known.
    pub fn connection_closed(&mut self) {
        self.shared.connections.places.closing -= 1;
        self.shared.connections.places_changed = true;
    }

    /// The driver's connection for a lane stands: greet the upstream.
    pub fn lane_connected(&mut self, key: LaneKey, link: usize) {
        let Some(lane) = self.shared.connections.lanes.get_mut(key) else { return };
        if lane.state != LaneState::Connecting {
            return;
        }
        let pool = &self.shared.connections.pools[lane.pool.0 as usize].key;
        lane.link = link;
        if lane.role == LaneRole::Probe {
            lane.set_state(LaneState::Handshaking);
            lane.set_state(LaneState::Ready);
            (lane.connected_at, lane.replied) = (self.shared.env.now, false);
            self.shared.mark_lane(key);
            self.shared.probe_ready();
            return self.deliver_notices();
        }
        let user = self.shared.users.get(pool.user, &self.shared.env.upstream);
        lane.handshake = Some(Handshake::new(user, lane.role, pool, &self.shared.control));
        lane.set_state(LaneState::Handshaking);
        self.shared.mark_lane(key);
    }
}
