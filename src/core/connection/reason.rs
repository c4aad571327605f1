//! Why no connection is to be had: the last refusal of each pool, in the words of the upstream or of the system, and
//! the texts of BROKERDOWN and BROKERLIMIT that carry it. A refusal is kept until a connection of the pool stands
//! again. Knows nothing of what is done about it.

use crate::base::clock::Millis;
use crate::core::child::Child;
use crate::core::connection::lane::LaneState;
use crate::core::connection::pool::Refusal;
use crate::core::keys::LaneKey;
use crate::core::keys::LeaseKind;
use crate::core::keys::PoolId;
use crate::core::keys::UserId;
use crate::core::shared::Shared;

/// What every BROKERDOWN begins with.
pub(in crate::core) const DOWN: &str = "BROKERDOWN no upstream connection; the command was not executed";

/// Characters of a refusal that are kept: an upstream may say anything.
pub(in crate::core) const REFUSAL_MAX: usize = 256;

impl Shared {
    /// An attempt to connect has come to nothing. Said in the log when it is news.
    pub(in crate::core) fn note_refusal(&mut self, pool: PoolId, text: &str) {
        let text: String = text.chars().take(REFUSAL_MAX).collect();
        let now = self.env.now;
        let before = self.pool(pool).refusal.replace(Refusal { text: text.clone(), at: now });
        let is_news = before.is_none_or(|before| before.text != text);
        let level = if is_news { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "cannot connect to upstream {}: {text}", self.env.upstream);
    }

    /// A connection of the pool stands.
    pub(in crate::core) fn forget_refusal(&mut self, pool: PoolId) {
        if self.pool(pool).refusal.take().is_some() {
            log::info!("connected to upstream {} again", self.env.upstream);
        }
    }

    /// The control connection is of use at last. What another connection of its pool was refused since it was made
    /// still stands.
    pub(in crate::core) fn forget_refusal_of_control(&mut self) {
        let made = self.connections.lanes.get(self.control.lane).map_or(0, |lane| lane.connected_at);
        let pool = self.control_pool();
        let refusal = self.pool(pool).refusal.as_ref();
        if refusal.is_some_and(|refusal| refusal.at <= made || refusal.text.starts_with("COMMAND")) {
            self.forget_refusal(pool);
        }
    }

    /// BROKERDOWN for whoever waits for a connection of this pool.
    pub(in crate::core) fn down(&self, pool: PoolId) -> String {
        match &self.connections.pools[pool.0 as usize].refusal {
            Some(refusal) => format!("{DOWN}; last attempt: {}", refusal.text),
            None => DOWN.to_owned(),
        }
    }

    /// The same for whoever waits for the broker's own connections.
    pub(in crate::core) fn down_at_all(&mut self) -> String {
        let pool = self.control_pool();
        self.down(pool)
    }

    /// The same for this child, whose own pool may know more.
    pub(in crate::core) fn down_for(&mut self, child: &mut Child) -> String {
        let user = Some((child.user, child.pool_key()));
        let known = user.filter(|(user, _)| !matches!(*user, UserId::NOBODY | UserId::UNDECIDED));
        let pool = known.map(|(_, pool)| self.pool_of(pool));
        match pool.filter(|pool| self.connections.pools[pool.0 as usize].refusal.is_some()) {
            Some(pool) => self.down(pool),
            None => self.down_at_all(),
        }
    }

    /// The same for what stands on this lane.
    pub(in crate::core) fn down_on(&self, key: LaneKey) -> String {
        match self.connections.lanes.get(key) {
            Some(lane) if lane.state == LaneState::Waiting => {
                format!(
                    "{DOWN}; all {} of upstream_connections_max are in use",
                    self.env.settings.upstream_connections_max
                )
            }
            Some(lane) => self.down(lane.pool),
            None => DOWN.to_owned(),
        }
    }

    /// BROKERLIMIT for whoever has waited for a lease of this pool since then, and what may be done about it.
    pub(in crate::core) fn no_lease(&mut self, kind: LeaseKind, pool: PoolId, since: Millis) -> String {
        let text =
            format!("BROKERLIMIT no leased connection within {} ms", self.env.settings.lease_wait_timeout);
        let (name, cap, max) =
            (kind.limit_name(), self.lease_cap(kind), self.env.settings.upstream_connections_max);
        let waiting = self.leases.waiting(kind);
        if cap == 0 {
            return format!("{text}: {name} is 0, raise it");
        }
        if self.leases.line_ref(kind).in_use >= cap {
            let holders = self.lease_holders(kind);
            let all = format!("{name} is {cap} and all are lent, {waiting} more wait; raise it for more");
            return format!("{text}: {all}; held by {holders}");
        }
        let refusal = self.connections.pools[pool.0 as usize].refusal.as_ref();
        let fresh = refusal.filter(|refusal| refusal.at + self.env.settings.reconnect_backoff_max >= since);
        let used_up =
            self.connections.places.leases >= self.lease_places(kind) || self.connections.places.lease_wanted;
        // Where nobody has tried since, what was said last still stands.
        match fresh.or(refusal.filter(|_| !used_up)) {
            Some(refusal) => format!("{text}; last attempt: {}", refusal.text),
            None if used_up => format!(
                "{text}: upstream_connections_max is {max} and all are in use, {waiting} more wait; raise it for more"
            ),
            None => text,
        }
    }

    /// BROKERLIMIT for whoever has waited for the connection that carries subscriptions.
    pub(in crate::core) fn no_subscriber(&self, pool: Option<PoolId>) -> String {
        let (limit, max) = (self.env.settings.lease_wait_timeout, self.lease_places(LeaseKind::Session));
        let text = format!("BROKERLIMIT no connection for subscriptions within {limit} ms");
        match pool.and_then(|pool| self.connections.pools[pool.0 as usize].refusal.as_ref()) {
            Some(refusal) => format!("{text}; last attempt: {}", refusal.text),
            None => format!("{text}: {max} of upstream_connections_max may be leased"),
        }
    }
}
