//! Connections to the sentinels of the upstream's master. Carries out what the core asks for them, and carries bytes; never
//! knows what they mean.

use super::dial::Caller;
use super::{Link, Loop, key_of, link_of};
use crate::base::key::Key;
use crate::base::limits;
use crate::core::{SentinelAction, SentinelId};
use crate::transport::conn::{Fill, Flush};

impl Loop {
    /// Connects, closes and writes. Whether there was anything.
    pub(super) fn serve_sentinels(&mut self) -> bool {
        let mut actions = Vec::new();
        self.core.sentinels().take_actions(&mut actions);
        for action in &actions {
            match *action {
                SentinelAction::Connect(id) => self.dial(Caller::Sentinel(id)),
                SentinelAction::Cancel(id) => self.cancel_dial(Caller::Sentinel(id)),
                SentinelAction::Close { link } => self.close_link(key_of(link)),
            }
        }
        let writable: Vec<SentinelId> = self.core.sentinels().writable().collect();
        let wrote = writable.into_iter().filter(|id| self.write_to_sentinel(*id)).count();
        !actions.is_empty() || wrote > 0
    }

    /// Whether it has taken something.
    fn write_to_sentinel(&mut self, id: SentinelId) -> bool {
        let Some((link, bytes)) = self.core.sentinels().outgoing(id) else { return false };
        let key = key_of(link);
        let Some(link) = self.links.get_mut(key) else { return false };
        match link.conn.flush_some(self.poll.registry(), bytes, &mut limits::WRITE_TURN.clone()) {
            Ok(Flush::Wrote(count)) => {
                self.core.sentinels().wrote(id, count);
                true
            }
            Ok(Flush::Done | Flush::TurnOver) => false,
            Err(error) => {
                self.lose_sentinel(key, id, &error.to_string());
                true
            }
        }
    }

    pub(super) fn sentinel_filled(&mut self, key: Key<Link>, id: SentinelId, fill: Fill) {
        if self.core.sentinels().outgoing(id).map(|(link, _)| link) != Some(link_of(key)) {
            // The core has just given this connection up.
            return;
        }
        match fill {
            Fill::Bytes(count) => self.core.sentinels().input(id, &self.scratch[..count], self.told),
            Fill::Empty => {}
            Fill::End => self.lose_sentinel(key, id, "closed by the sentinel"),
            Fill::Broken(error) => self.lose_sentinel(key, id, &error.to_string()),
        }
    }

    fn lose_sentinel(&mut self, key: Key<Link>, id: SentinelId, why: &str) {
        self.close_link(key);
        self.core.sentinels().lost(id, why, self.told);
    }
}
