//! Connections whose last read may have left bytes behind without an edge (`transport::conn`): they are read once more
//! after a time without input. Any further input makes an edge, so a busy connection costs nothing here.

use super::{Link, Loop};
use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::base::limits::QUIET_AFTER;

#[derive(Debug, Default)]
pub(super) struct Quiet {
    links: Vec<Key<Link>>,
    /// When to check next which of them are quiet.
    due: Option<Millis>,
}

impl Quiet {
    pub(super) fn timeout(&self, now: Millis) -> Option<Millis> {
        self.due.map(|due| due.saturating_sub(now))
    }
}

impl Loop {
    pub(super) fn note_read(&mut self, key: Key<Link>) {
        let Some(link) = self.links.get_mut(key) else { return };
        link.read_lately = true;
        if link.conn.is_doubtful() && !link.watched {
            link.watched = true;
            self.quiet.links.push(key);
            self.quiet.due.get_or_insert(self.told + QUIET_AFTER);
        }
    }

    /// Lists those for reading that were not read since the last check.
    pub(super) fn read_quiet(&mut self) {
        if self.quiet.due.is_none_or(|due| due > self.told) {
            return;
        }
        let mut links = std::mem::take(&mut self.quiet.links);
        links.retain(|key| {
            let Some(link) = self.links.get_mut(*key) else { return false };
            let busy = std::mem::take(&mut link.read_lately);
            link.watched = busy && link.conn.is_doubtful();
            let stays = link.watched;
            if link.conn.is_doubtful() && !busy {
                link.conn.look_again();
                self.list(*key);
            }
            stays
        });
        self.quiet.due = (!links.is_empty()).then_some(self.told + QUIET_AFTER);
        // An empty list keeps no capacity.
        self.quiet.links = if links.is_empty() { Vec::new() } else { links };
    }
}
