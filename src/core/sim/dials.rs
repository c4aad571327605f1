//! How often the broker dials, and what it has been told by those that sent it away.

use super::truth::Reason;
use super::{Sim, holds, trace};
use crate::base::clock::Millis;
use crate::base::limits::BACKOFF_FIRST;
use crate::config::value::Pubsub;
use crate::core::connection::role::LaneRole;
use crate::core::keys::{LaneKey, LeaseKind};
use std::collections::HashMap;

#[derive(Debug, Default)]
pub(super) struct Dials {
    /// How often a lane has been sent away in a row without having been of any use, and when last.
    refused: HashMap<LaneKey, (u32, Millis)>,
    /// Servers left so far: those that are dialled then have sent nobody away.
    switches: u64,
    /// The least `reconnect_backoff_max` so far.
    backoff_max: Millis,
}

impl Dials {
    /// Another upstream, or other settings: a lane that waited may go at once.
    pub(super) fn begin(&mut self, backoff_max: Millis) {
        self.refused.clear();
        self.backoff_max = backoff_max;
    }
}

impl Sim {
    /// The operator has asked for something that has lanes dialled at once.
    pub(super) fn expect_dials(&mut self) {
        self.dials.refused.clear();
    }

    /// 24: whoever is sent away again and again comes back ever later, by half of the backoff at least.
    pub(super) fn check_dial(&mut self, lane: LaneKey, role: LaneRole) {
        let switches = self.broker.counters().upstream_switches;
        if std::mem::replace(&mut self.dials.switches, switches) != switches {
            self.dials.refused.clear();
        }
        let Some((count, at)) = self.dials.refused.get(&lane) else { return };
        let least = (BACKOFF_FIRST << (*count).min(16)).min(self.dials.backoff_max) / 2;
        let waited = self.now - at;
        holds!(24, waited >= least, "{role:?} dialled after {waited} ms, sent away {count} times in a row");
    }

    /// Bytes were read that may have cost the connection its life: with which words, and to what use it was before. One
    /// to a former upstream was to go with its last answer, whatever that says.
    pub(super) fn note_end(&mut self, link: usize, lane: LaneKey, bytes: &[u8], replaced: bool) {
        let Some(conn) = self.conns.get_mut(&link) else { return };
        let (useful, truth) = (conn.useful, &mut self.redis.ledger.truth);
        if useful {
            self.dials.refused.remove(&lane);
        }
        // The words of each step of its greeting that was refused: the broker goes by one of them, once it has heard all.
        if !conn.ready || conn.role == LaneRole::Control {
            conn.unfinished.extend_from_slice(bytes);
            let whole = conn.unfinished.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let lines: Vec<u8> = conn.unfinished.drain(..whole).collect();
            let lines =
                lines.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\r\n"));
            let errors = lines.filter_map(|line| line.strip_prefix(b"-"));
            conn.refusals.extend(errors.map(|error| String::from_utf8_lossy(error).into_owned()));
        }
        if self.broker.lane_link(lane) == Some(link) {
            let ready = self.broker.shared.connections.find(lane).is_some_and(|lane| lane.is_ready());
            if ready {
                conn.refusals.clear();
            }
            if ready && !std::mem::replace(&mut conn.ready, true) {
                truth.went_otherwise();
            }
            return;
        }
        let refusals = std::mem::take(&mut conn.refusals);
        if refusals.is_empty() || replaced {
            return truth.went_otherwise();
        }
        conn.sent_away = true;
        let of = (conn.role != LaneRole::Control).then_some(conn.of);
        for text in refusals {
            trace!("  lane {lane:?} was sent away: {text}");
            truth.heard(text, of);
        }
        if !useful {
            let refused = self.dials.refused.entry(lane).or_default();
            *refused = (refused.0 + 1, self.now);
        }
    }

    /// Whether there is no room for one more connection: then a child that is told so is told the truth.
    pub(super) fn note_crowd(&mut self) {
        let (shared, settings) = (&self.broker.shared, self.broker.settings());
        let (leases, connections, places) =
            (&shared.leases, &shared.connections, shared.connections.capacity());
        let full = places.held() + 3 >= settings.upstream_connections_max;
        let lent = LeaseKind::ALL.into_iter().any(|kind| {
            leases.lent(kind) + connections.opening_for(kind).len() >= kind.cap(settings)
                || places.leases() >= connections.leases_max(settings, kind)
        });
        let truth = &mut self.redis.ledger.truth;
        truth.set(Reason::Crowded, full || lent);
        truth.set(Reason::Down, !self.broker.upstream_is_up());
        truth.set(Reason::Hurried, self.steps < usize::MAX);
        truth.subscriber = (settings.pubsub == Pubsub::Shared).then_some((0, 3));
        let table = shared.control_is_ready() && !shared.commands.is_confirmed() && !shared.commands.is_due();
        truth.asks_if_busy(table || shared.work.is_asking());
    }
}
