//! What must hold after every step. Numbers are those of the invariants in ARCHITECTURE.md, the same in every message;
//! those of replies are judged in `script`, those of what reaches a server in `redis` and `ledger`, that of dials in `dials`.

use super::{Sim, holds};
use crate::base::clock::Millis;
use crate::core::child::ChildState;
use crate::core::child::front::Progress;
use crate::core::child::hold::Hold;
use crate::core::connection::role::LaneRole;
use crate::core::connection::slot::SlotKind;
use crate::core::keys::{ChildKey, LaneKey, LeaseKind};
use std::collections::HashMap;

impl Sim {
    /// What holds whenever the broker is at rest, bytes on their way or not.
    pub(super) fn check(&self) {
        self.check_caps();
        self.check_places();
        self.check_leases();
        self.check_groups();
        self.check_slots();
        self.check_memory();
        self.check_holds();
        self.check_forgotten();
        self.check_remains();
        self.check_former();
    }

    /// 7: as Redis counts, at any moment.
    pub(super) fn check_caps(&self) {
        let (counted, max) = (self.redis.clients.len(), self.broker.settings().upstream_connections_max);
        holds!(7, counted <= max || self.over_max, "{counted} connections where {max} are allowed");
    }

    /// 15: places.
    fn check_places(&self) {
        let connections = &self.broker.shared.connections;
        let places = connections.capacity();
        let (mut open, mut leases, mut yielding) = (0, 0, 0);
        for (_, lane) in connections.lanes() {
            open += usize::from(lane.is_counted());
            leases += usize::from(lane.is_counted() && lane.role().counts_as_lease());
            yielding += usize::from(lane.is_yielding());
        }
        let leaving = self.conns.values().filter(|conn| conn.leaving).count();
        let (kept, counted) = (places.counts(), (open, leases, yielding, leaving));
        let what = "places (open, leases, yielding, closing)";
        holds!(15, kept == counted, "{what}: {kept:?} kept, {counted:?} counted");
        for (key, lane) in connections.lanes() {
            let stands = !lane.is_waiting() || places.in_line().any(|waits| waits == key);
            holds!(13, stands, "a lane waits for a place and stands in no line");
        }
        let all_known = places.in_line().all(|key| connections.find(key).is_some());
        holds!(15, all_known, "a lane that is gone stands in line for a place");
    }

    /// 15: leases, by both sides that know of them.
    fn check_leases(&self) {
        let (broker, leases) = (&self.broker, &self.broker.shared.leases);
        let connections = &broker.shared.connections;
        let mut in_use = [0; 3];
        for (key, lane) in connections.lanes() {
            let Some(lease) = lane.lease() else { continue };
            in_use[lease.kind() as usize] += 1;
            let held = broker.children.get(lease.child()).and_then(|child| child.lease());
            let group = lease.group().and_then(|group| broker.shared.groups.get(group));
            let agrees = group.is_some_and(|group| group.has(key))
                || held.is_some_and(|held| (held.lane, held.kind) == (key, lease.kind()));
            holds!(15, lease.is_over() || agrees, "a lane is lent to who does not know it, or what for");
        }
        for kind in LeaseKind::ALL {
            let (kept, counted) = (leases.lent(kind), in_use[kind as usize]);
            holds!(15, kept == counted, "{kind:?} leases lent: {kept} kept, {counted} counted");
        }
        for key in connections.pools().flat_map(|(_, pool)| pool.idle()) {
            let fits = connections.find(*key).is_some_and(|lane| {
                lane.lease().is_none() && lane.is_ready() && !lane.record().close_needed && lane.is_idle()
            });
            holds!(6, fits, "a lane that is not clean and free is offered to the next child");
        }
    }

    /// 15: every slot is somebody's, and nobody waits for more than there is.
    fn check_slots(&self) {
        let mut owed: HashMap<ChildKey, (u32, u32, usize)> = HashMap::new();
        for (_, lane) in self.broker.shared.connections.lanes() {
            let unproven = lane.withheld().iter().map(|withheld| &withheld.slot);
            for slot in lane.out().entries().iter().chain(unproven).filter(|slot| !slot.is_timed_out()) {
                let owed = owed.entry(slot.child).or_default();
                let unseen =
                    matches!(slot.kind, SlotKind::Swallow | SlotKind::Subscribe | SlotKind::Housekeeping);
                owed.0 += 1;
                owed.1 += u32::from(!unseen);
                owed.2 += usize::from(slot.kind == SlotKind::Exec);
            }
        }
        // Nothing is kept of one that is about to be closed.
        for (key, child) in self.broker.children.iter().filter(|(_, child)| !child.is_deaf()) {
            let counted = owed.get(&key).copied().unwrap_or_default();
            let execs = child.session().transaction.execs_len();
            // The reply to an EXEC that is filled in has come, and is still being given.
            let given = u32::from(child.front().progress() == Progress::Filling);
            let kept = (child.sent().in_flight(), child.outbox().expected() - given, execs);
            let what = "slots, replies, EXECs of a child";
            holds!(15, kept == counted, "{what}: {kept:?} kept, {counted:?} counted");
        }
    }

    /// 14.
    fn check_memory(&self) {
        let broker = &self.broker;
        let (mut held, mut claimed) = (0, 0);
        for (key, child) in broker.children.iter() {
            claimed += child.claim().map_or(0, |claim| claim.bytes);
            let (known, measured) = (child.footprint(), child.measure());
            held += known;
            let found = broker.children.by_id(child.session().id as i64) == Some(key);
            holds!(2, found, "a child is not found by its id");
            holds!(14, known == measured, "a child holds {measured} bytes, {known} are known");
        }
        for (_, lane) in broker.shared.connections.lanes() {
            let (known, measured) = (lane.footprint(), lane.measure());
            held += known;
            holds!(14, known == measured, "a lane holds {measured} bytes, {known} are known");
        }
        held += broker.shared.groups.footprint();
        let counted = broker.shared.env.memory;
        holds!(14, counted == held, "{held} bytes are held, {counted} counted");
        let intake = broker.shared.intake.held();
        holds!(
            14,
            intake == claimed,
            "{claimed} bytes are claimed by requests read in part, {intake} counted"
        );
        let held = broker.shared.env.held();
        let bound = broker.settings().memory_max;
        let within = bound == 0 || held <= bound || broker.children.is_empty();
        holds!(14, within, "{held} bytes are held where {bound} are allowed");
    }

    /// 13: a hold whose reason can no longer go away.
    fn check_holds(&self) {
        let (broker, connections) = (&self.broker, &self.broker.shared.connections);
        for (key, child) in broker.children.iter() {
            let ends = match child.hold() {
                Hold::OwnReplies => child.is_under_way(),
                Hold::InFlightMax | Hold::Reply | Hold::BlockingReply => child.sent().in_flight() > 0,
                Hold::LaneFull => connections.lanes().any(|(_, lane)| lane.held().contains(&key)),
                Hold::LeaseQueue => child.lease().is_none() && child.front().wait().is_some(),
                Hold::Element => child.front().wait().is_some_and(|wait| {
                    let group = broker.shared.groups.get(wait.group);
                    group.is_some_and(|group| group.has_waiter(wait.ticket, key))
                }),
                Hold::Intake => broker.shared.intake.is_waiting(key),
                Hold::AuthDelay => child.front().auth_due().is_some_and(|due| due >= broker.shared.env.now),
                _ => true,
            };
            holds!(13, ends, "nothing will ever end {:?} of a child", child.hold());
            let there = child.lease().is_none_or(|held| connections.find(held.lane).is_some());
            holds!(15, there, "a child holds a lane that is gone");
        }
    }

    /// 15: groups agree with the children in them and with the lanes that serve them.
    fn check_groups(&self) {
        let broker = &self.broker;
        for (_, group) in broker.shared.groups.iter() {
            for (lane, _) in group.lanes() {
                let lease = broker.shared.connections.find(lane).and_then(|lane| lane.lease());
                let own = lease.and_then(|lease| broker.shared.groups.get(lease.group()?));
                let its = own.is_some_and(|own| std::ptr::eq(own, group));
                holds!(15, its, "a group has a lane that it has not been lent");
            }
            for child in group.children() {
                let waits = broker.children.get(child).is_some_and(|child| child.hold() == Hold::Element);
                holds!(15, waits, "a child stands in a group and does not wait");
            }
            let needed = group.waiting() > 0 || group.lanes().next().is_some();
            holds!(15, needed, "a group that nobody needs is kept");
            let tended = group.waiting() == 0
                || group.held() + group.commands() > 0
                || group.is_looking()
                || group.is_moving()
                || (!group.line().is_empty() && group.has_timer());
            holds!(13, tended, "a group waits for nothing: {group:?}");
            let is_over = group.first_expiry().is_some_and(|at| at <= broker.shared.env.now);
            let ends = group.is_unblocking()
                || group.is_looking()
                || group.has_timer()
                || group.idle_waits().any(|(_, until)| until != Millis::MAX);
            // A lane whose server is left answers within its grace, or is lost.
            let leaves = group
                .lanes()
                .any(|(lane, _)| broker.shared.connections.find(lane).is_some_and(|lane| lane.is_former()));
            holds!(13, ends || leaves || !is_over, "nothing tells those whose time is over: {group:?}");
        }
    }

    /// 13: bytes that could move and are remembered by nobody.
    fn check_forgotten(&self) {
        let broker = &self.broker;
        let (held, actions) = (broker.shared.env.memory, &broker.shared.env.actions);
        let rests = broker.settings().memory_max == 0 || !broker.has_work();
        holds!(13, rests, "work is left after a turn: {held} bytes held, actions {actions:?}");
        for (key, lane) in broker.shared.connections.lanes() {
            let writes = broker.lane_outgoing(key).is_some_and(|(_, bytes)| !bytes.is_empty());
            let known = lane.link().and_then(|link| self.conns.get(&link)).is_none_or(|conn| conn.blocked);
            holds!(13, known || !writes, "a lane has bytes to write and is not written");
            let connects = lane.is_idle() || !lane.is_dormant();
            holds!(13, connects, "requests stand on a lane that nobody connects");
        }
        for (key, child) in broker.children.iter() {
            let peer = &self.peers[child.link()];
            let written = child.outbox().output().is_empty() || peer.blocked;
            holds!(13, written, "a child has replies to take and is not written");
            let unread = (!peer.outbox.is_empty() || peer.shut) && !peer.armed;
            let due = unread && broker.wants_read(key) && child.state() == ChildState::Open;
            holds!(13, !due, "a child has sent requests and is not read");
        }
    }

    /// 32: nothing of a child is written once all is at rest for a pause. What is done on a session's lane is its child's own.
    pub(super) fn check_pause(&self, lane: LaneKey) {
        let shared = &self.broker.shared;
        let Some(lane) = shared.connections.find(lane).filter(|_| shared.pause.is_at_rest()) else { return };
        let session = lane.lease().is_some_and(|lease| lease.kind() == LeaseKind::Session);
        let of_children = matches!(lane.role(), LaneRole::Shared | LaneRole::Lease) && !session;
        holds!(32, !(lane.is_ready() && of_children), "{:?} is written during a pause", lane.role());
    }

    /// 6: on a lane nobody uses and no byte travels on, the connection is as it was greeted.
    fn check_remains(&self) {
        let connections = &self.broker.shared.connections;
        for (key, lane) in connections.lanes() {
            let ready = lane.is_ready() && lane.is_idle() && lane.lease().is_none();
            let Some(link) = lane.link().filter(|_| ready) else { continue };
            let Some(conn) = self.conns.get(&link) else { continue };
            let Some(client) = self.redis.clients.get(&link) else { continue };
            let shared = matches!(lane.role(), LaneRole::Shared | LaneRole::Lease | LaneRole::Subscriber);
            if !conn.to_redis.is_empty() || !client.input.is_empty() || !shared {
                continue;
            }
            let pool = connections.key_of(lane);
            // A lane for blocks stands behind the MULTI of the next one.
            let multi = client.multi.as_ref().map(Vec::len) == lane.carries_blocks().then_some(0);
            let clean = multi
                && !client.spoilt
                && client.watched.is_empty()
                && client.blocked.is_none()
                && (client.subscriptions() == 0 || lane.role() == LaneRole::Subscriber)
                && !client.silent
                // None where the right to it was missing.
                && (client.name.is_empty() || client.name.starts_with("broker-"))
                && (client.db, client.proto) == (pool.db, pool.proto);
            holds!(6, clean, "left on lane {key:?} of {pool:?}: {client:?}");
        }
    }
}
