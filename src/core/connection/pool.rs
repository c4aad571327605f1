//! A pool: the lanes of one (user, db, protocol). Owns which lanes those are; never whether they are connected.

use crate::base::clock::Millis;
use crate::core::keys::{LaneKey, PoolKey};

#[derive(Debug)]
pub(crate) struct Pool {
    pub(super) key: PoolKey,
    /// Shared lanes, made on demand up to `lanes`; they stay, their connections come and go.
    pub(super) shared: Vec<LaneKey>,
    /// One more, for what is large; made when there is such.
    pub(super) bulk: Option<LaneKey>,
    /// Leased lanes that are not lent: connected, clean, the most recently used last.
    pub(super) idle: Vec<LaneKey>,
    /// A child has needed a lease here: `leases_warm` are kept ready.
    pub(super) warm: bool,
    /// Why the last attempt to connect failed; none once a connection stands.
    pub(super) refusal: Option<LastRefusal>,
}

impl Pool {
    pub(super) fn new(key: PoolKey) -> Self {
        Pool { key, shared: Vec::new(), bulk: None, idle: Vec::new(), warm: false, refusal: None }
    }

    pub(super) fn forget(&mut self, lane: LaneKey) {
        self.shared.retain(|shared| *shared != lane);
        self.idle.retain(|idle| *idle != lane);
        self.bulk = self.bulk.filter(|bulk| *bulk != lane);
    }

    #[cfg(test)]
    pub(crate) fn idle(&self) -> &[LaneKey] {
        &self.idle
    }
}

#[derive(Debug)]
pub(crate) struct LastRefusal {
    pub text: String,
    pub at: Millis,
}
