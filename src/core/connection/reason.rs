//! Why there is no connection. Owns the last refusal of each pool, in the words of the upstream or of the system, which is
//! kept until a connection of the pool stands again, and what is said of it to those who wait. Never who is told.

use crate::base::failure::{Down, Failure, Limit, Shortage};
use crate::config::Settings;
use crate::core::connection::Connections;
use crate::core::connection::pool::LastRefusal;
use crate::core::env::Env;
use crate::core::keys::{LaneKey, LeaseKind, PoolId};

/// Characters of a refusal that are kept: an upstream may say anything.
const REFUSAL_MAX: usize = 256;

impl Connections {
    /// An attempt to connect has come to nothing. Said in the log when it is news.
    pub(crate) fn note_refusal(&mut self, env: &Env, pool: PoolId, text: &str) {
        let text: String = text.chars().take(REFUSAL_MAX).collect();
        let before = self.pool_mut(pool).refusal.replace(LastRefusal { text: text.clone(), at: env.now });
        let is_news = before.is_none_or(|before| before.text != text);
        let level = if is_news { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "cannot connect to upstream {}: {text}", env.upstream);
    }

    /// A connection of the pool stands.
    pub(crate) fn forget_refusal(&mut self, env: &Env, pool: PoolId) {
        if self.pool_mut(pool).refusal.take().is_some() {
            log::info!("connected to upstream {} again", env.upstream);
        }
    }

    /// For those who wait for a connection of this pool.
    pub(crate) fn down(&self, pool: PoolId) -> Failure {
        let refusal = self.pool(pool).refusal().map(|refusal| refusal.text.clone());
        Failure::Down(Down::Unreachable(refusal))
    }

    /// For what stands on this lane.
    pub(crate) fn down_on(&self, key: LaneKey, settings: &Settings) -> Failure {
        match self.known(key) {
            Some(lane) if !lane.is_waiting() => self.down(lane.pool()),
            Some(_) => Failure::Down(Down::AllInUse { connections_max: settings.upstream_connections_max }),
            None => Failure::Down(Down::Unreachable(None)),
        }
    }

    /// For those who have waited for the connection that carries subscriptions.
    pub(crate) fn no_subscriber(&self, settings: &Settings, pool: Option<PoolId>) -> Failure {
        let why = match pool.and_then(|pool| self.pool(pool).refusal()) {
            Some(refusal) => Shortage::Refused(refusal.text.clone()),
            None => Shortage::AllLeased { max: self.leases_max(settings, LeaseKind::Session) },
        };
        Failure::Limited(Limit::Subscriber { after_ms: settings.lease_wait_timeout, why })
    }
}
