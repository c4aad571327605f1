//! Which master the core knows, from the moment it has read of it; and what must hold of everybody that is still connected
//! to another one. An account of its own: it goes by what the model sentinels have told, and by where bytes go.

use super::watchers::{SERVER_PORT, View};
use super::{Conn, Sim, holds, trace};
use crate::base::clock::Millis;
use crate::config::Address;
use std::collections::BTreeSet;

/// Time may be told anew between two looks of the driver.
const SLACK: Millis = 2;

#[derive(Debug, Default)]
pub(super) struct Sides {
    in_use: Option<View>,
    /// For each change of the master: until when what had been written before may be answered.
    changes: Vec<Millis>,
}

impl Sides {
    /// How often the master has changed.
    pub(super) fn count(&self) -> usize {
        self.changes.len()
    }
}

impl Sim {
    /// The server that the core has its lanes connected to; none as long as it knows none.
    pub(super) fn server_in_use(&self) -> Option<usize> {
        match self.broker.shared.address() {
            Some(Address::Tcp { port, .. }) if self.is_watched() => Some(usize::from(*port - SERVER_PORT)),
            Some(_) => Some(0),
            None => None,
        }
    }

    /// 31: the core has read something of a sentinel, and the whole of a view where there is one.
    pub(super) fn note_told(&mut self, told: Option<View>) {
        let (server, epoch) = (self.server_in_use(), self.broker.shared.sentinels.epoch());
        let in_use = server.zip(epoch).map(|(server, epoch)| View { epoch, server });
        let before = std::mem::replace(&mut self.sides.in_use, in_use);
        if let Some(told) = told {
            let known = in_use.is_some_and(|in_use| in_use.epoch >= told.epoch);
            holds!(31, known, "a sentinel has told {told:?}, and {in_use:?} is in use");
        }
        let (Some(before), Some(now)) = (before.or(told), in_use) else { return };
        if before == now {
            return;
        }
        let all: Vec<(usize, View)> = self.watchers.told().collect();
        holds!(31, told == Some(now), "{now:?} is in use since {told:?} was told");
        if now.epoch < before.epoch {
            let anew = all.iter().all(|(_, view)| view.epoch == now.epoch);
            holds!(31, anew, "epoch {} follows {} while sentinels say {all:?}", now.epoch, before.epoch);
        }
        if now.epoch == before.epoch {
            let voters = |view: View| all.iter().filter(move |(_, told)| *told == view);
            let votes = |view| voters(view).map(|(watcher, _)| watcher).collect::<BTreeSet<_>>().len();
            let most = votes(now) > votes(before);
            holds!(31, most, "{now:?} follows {before:?} while sentinels say {all:?}");
        }
        if now.server != before.server {
            trace!("{} ms: the core knows that {now:?} follows {before:?}", self.now);
            self.sides.changes.push(self.now + self.broker.settings().failover_grace);
        }
    }

    /// Whether a connection leads to a server that is known not to be the master.
    fn leads_to_former(&self, conn: &Conn) -> bool {
        self.server_in_use().is_some_and(|server| server != conn.server)
    }

    /// 30: not a byte more is written to it.
    pub(super) fn check_write(&self, link: usize) {
        let conn = &self.conns[&link];
        let may = conn.role.is_own() || !self.leads_to_former(conn);
        let (role, server, in_use) = (conn.role, conn.server, self.sides.in_use);
        holds!(30, may, "{role:?} {link} is written to server {server}, while {in_use:?} is in use");
    }

    /// 30: what was written to it is answered within `failover_grace`, or lost.
    pub(super) fn check_former(&self) {
        for (link, conn) in &self.conns {
            let lane = self.broker.shared.connections.find(conn.lane);
            let is_used = lane.is_some_and(|lane| lane.link() == Some(*link)) && !conn.leaving;
            let (true, Some(until)) = (is_used && !conn.role.is_own(), self.sides.changes.get(conn.side))
            else {
                continue;
            };
            let (role, late) = (conn.role, self.now > *until + SLACK && self.leads_to_former(conn));
            holds!(30, !late, "{role:?} {link} is still waited for at {} ms, until {until}", self.now);
        }
    }
}
