//! What must hold after every step. Numbers are those of this list, the same in every message:
//!
//! 1. Every reply carries the nonce of its own request. (`script`)
//! 2. Every request is answered once, in order. (`script`)
//! 3. Only canonical requests reach a server. (`redis`)
//! 4. A write acknowledged was executed; one refused was not. (`ledger`)
//! 5. Nothing is executed or delivered twice. (`ledger`)
//! 6. Nothing of a child that has died, or given its lane back, is left on a connection. (here)
//! 7. Connections never exceed the cap, as Redis counts them. (here)
//! 8. A MULTI block stands contiguous on its connection. (`redis`)
//! 9. An EXEC succeeds exactly if no watched key was written between. (`script`)
//! 10. A request is executed on its child's own db, protocol and user. (`script`)
//! 11. Nothing that changes a connection's state reaches a shared lane. (`redis`)
//! 12. A subscriber gets every later message once, in order. (`script`)
//! 13. Whoever may go on, goes on: nobody is forgotten. (here)
//! 14. Memory held is memory measured, within its bound. (here)
//! 15. The core's own books agree with what they count. (here)
//! 16. What no FIFO can explain closes the lane; with `integrity = always`, neither does a reply lost, doubled or
//!     slipped in reach anybody. (`player`)
//! 22. WAIT never speaks of less than its child has written. (`redis`)
//! 23. What a child is told of the server is so, or was between its request and the reply: a null, a PONG, a role, a
//!     refusal; and BROKERDOWN and BROKERLIMIT say what the server said. (`script`)
//! 24. Whoever is sent away by the server again and again comes back ever later. (`dials`)

use super::{Sim, broken};
use crate::core::child::ChildState;
use crate::core::child::hold::Hold;
use crate::core::connection::role::LaneRole;
use crate::core::connection::slot::SlotKind;
use crate::core::keys::ChildKey;
use crate::core::keys::LeaseKind;
use std::collections::HashMap;

impl Sim {
    /// What holds whenever the broker is at rest, bytes on their way or not.
    pub(super) fn check(&self) {
        self.check_caps();
        self.check_places();
        self.check_leases();
        self.check_slots();
        self.check_memory();
        self.check_holds();
        self.check_forgotten();
        self.check_remains();
    }

    /// 7: as Redis counts, at any moment.
    pub(super) fn check_caps(&self) {
        let (counted, max) = (self.redis.clients.len(), self.broker.settings().upstream_connections_max);
        if counted > max && !self.over_max {
            broken(7, &format!("{counted} connections where {max} are allowed"));
        }
    }

    /// 15: places.
    fn check_places(&self) {
        let (broker, places) = (&self.broker, self.broker.shared.connections.capacity());
        let (mut open, mut leases, mut yielding) = (0, 0, 0);
        for (_, lane) in broker.shared.connections.lanes() {
            open += usize::from(lane.is_counted());
            leases += usize::from(lane.is_counted() && lane.role().counts_as_lease());
            yielding += usize::from(lane.is_yielding());
        }
        let leaving = self.conns.values().filter(|conn| conn.leaving).count();
        let kept = places.counts();
        if kept != (open, leases, yielding, leaving) {
            broken(
                15,
                &format!(
                    "places (open, leases, yielding, closing): {kept:?} kept, \
                                 {:?} counted",
                    (open, leases, yielding, leaving)
                ),
            );
        }
        for (key, lane) in broker.shared.connections.lanes() {
            let in_line = places.is_in_line(key);
            if lane.is_waiting() && !in_line {
                broken(13, "a lane waits for a place and stands in no line");
            }
        }
        if places.waiting().any(|key| broker.shared.connections.find(key).is_none()) {
            broken(15, "a lane that is gone stands in line for a place");
        }
    }

    /// 15: leases, by both sides that know of them.
    fn check_leases(&self) {
        let broker = &self.broker;
        let (mut in_use, mut opening) = ([0; 3], [0; 3]);
        for (key, lane) in broker.shared.connections.lanes() {
            opening[index(lane.opening_for())] += usize::from(lane.opening_for().is_some());
            let Some(lease) = lane.lease() else { continue };
            in_use[index(Some(lease.kind()))] += 1;
            let held = broker.children.get(lease.child()).and_then(|child| child.lease());
            if !lease.is_over() && held.map(|held| (held.lane, held.kind)) != Some((key, lease.kind())) {
                broken(15, "a lane is lent to a child that does not know it, or what for");
            }
        }
        for kind in LeaseKind::ALL {
            let leases = &broker.shared.leases;
            let (kept, counted) = (
                (leases.lent(kind), leases.opening(kind).len()),
                (in_use[index(Some(kind))], opening[index(Some(kind))]),
            );
            if kept != counted {
                broken(15, &format!("{kind:?} leases (lent, opening): {kept:?} kept, {counted:?} counted"));
            }
        }
        for (_, pool) in broker.shared.connections.pools() {
            for key in pool.idle() {
                let fits = broker.shared.connections.find(*key).is_some_and(|lane| {
                    lane.lease().is_none() && lane.is_ready() && !lane.record().close_needed && lane.is_idle()
                });
                if !fits {
                    broken(6, "a lane that is not clean and free is offered to the next child");
                }
            }
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
        for (key, child) in self.broker.children.iter() {
            let counted = owed.get(&key).copied().unwrap_or_default();
            let kept = (
                child.sent().in_flight(),
                child.outbox().expected(),
                child.session().transaction.execs_len(),
            );
            if kept != counted {
                broken(15, &format!("slots, replies, EXECs of a child: {kept:?} kept, {counted:?} counted"));
            }
        }
    }

    /// 14.
    fn check_memory(&self) {
        let broker = &self.broker;
        let mut kept = 0;
        for (key, child) in broker.children.iter() {
            kept += child.footprint();
            if broker.children.by_id(child.session().id as i64) != Some(key) {
                broken(2, "a child is not found by its id");
            }
            if child.footprint() != child.measure() {
                broken(
                    14,
                    &format!("a child holds {} bytes, {} are known", child.measure(), child.footprint()),
                );
            }
        }
        for (_, lane) in broker.shared.connections.lanes() {
            kept += lane.footprint();
            if lane.footprint() != lane.measure() {
                broken(14, &format!("a lane holds {} bytes, {} are known", lane.measure(), lane.footprint()));
            }
        }
        if broker.shared.env.memory != kept {
            broken(14, &format!("{kept} bytes are held, {} counted", broker.shared.env.memory));
        }
        let bound = broker.settings().memory_max;
        if bound > 0 && kept > bound && !broker.children.is_empty() {
            broken(14, &format!("{kept} bytes are held where {bound} are allowed"));
        }
    }

    /// 13: a hold whose reason can no longer go away.
    fn check_holds(&self) {
        let broker = &self.broker;
        for (key, child) in broker.children.iter() {
            let stuck = match child.hold() {
                Hold::OwnReplies => !child.is_under_way(),
                Hold::InFlightMax | Hold::Reply | Hold::BlockingReply => child.sent().in_flight() == 0,
                Hold::LaneFull => {
                    !broker.shared.connections.lanes().any(|(_, lane)| lane.held().contains(&key))
                }
                Hold::LeaseQueue => child.lease().is_some() || child.front().wait().is_none(),
                Hold::AuthDelay => child.front().auth_due().is_none_or(|due| due < broker.shared.env.now),
                _ => false,
            };
            if stuck {
                broken(13, &format!("nothing will ever end {:?} of a child", child.hold()));
            }
            if child.lease().is_some_and(|held| broker.shared.connections.find(held.lane).is_none()) {
                broken(15, "a child holds a lane that is gone");
            }
        }
    }

    /// 13: bytes that could move and are remembered by nobody.
    fn check_forgotten(&self) {
        let broker = &self.broker;
        if broker.settings().memory_max > 0 && broker.has_work() {
            let (held, actions) = (broker.shared.env.memory, &broker.shared.env.actions);
            broken(13, &format!("work is left after a turn: {held} bytes held, actions {actions:?}"));
        }
        for (key, lane) in broker.shared.connections.lanes() {
            let writes = broker.lane_outgoing(key).is_some_and(|(_, bytes)| !bytes.is_empty());
            let known = lane.link().and_then(|link| self.conns.get(&link)).is_none_or(|conn| conn.blocked);
            if writes && !known {
                broken(13, "a lane has bytes to write and is not written");
            }
            if !lane.is_idle() && lane.is_dormant() {
                broken(13, "requests stand on a lane that nobody connects");
            }
        }
        for (key, child) in broker.children.iter() {
            let peer = &self.peers[child.link()];
            if !child.outbox().is_empty() && !peer.blocked {
                broken(13, "a child has replies to take and is not written");
            }
            let unread = (!peer.outbox.is_empty() || peer.shut) && !peer.armed;
            if unread && broker.wants_read(key) && child.state() == ChildState::Open {
                broken(13, "a child has sent requests and is not read");
            }
        }
    }

    /// 6: on a lane nobody uses and no byte travels on, the connection is as it was greeted.
    fn check_remains(&self) {
        for (key, lane) in self.broker.shared.connections.lanes() {
            let ready = lane.is_ready() && lane.is_idle() && lane.lease().is_none();
            let Some(link) = lane.link().filter(|_| ready) else { continue };
            let Some(conn) = self.conns.get(&link) else { continue };
            let Some(client) = self.redis.clients.get(&link) else { continue };
            let shared = matches!(lane.role(), LaneRole::Shared | LaneRole::Lease | LaneRole::Subscriber);
            if !conn.to_redis.is_empty() || !client.input.is_empty() || !shared {
                continue;
            }
            let pool = self.broker.shared.connections.key_of(lane);
            let clean = client.multi.is_none()
                && client.watched.is_empty()
                && client.blocked.is_none()
                && (client.subscriptions() == 0 || lane.role() == LaneRole::Subscriber)
                && !client.silent
                // None where the right to it was missing.
                && (client.name.is_empty() || client.name.starts_with("broker-"))
                && (client.db, client.proto) == (pool.db, pool.proto);
            if !clean {
                broken(6, &format!("left on lane {key:?} of {pool:?}: {client:?}"));
            }
        }
    }
}

fn index(kind: Option<LeaseKind>) -> usize {
    match kind {
        Some(LeaseKind::Blocking) | None => 0,
        Some(LeaseKind::Transaction) => 1,
        Some(LeaseKind::Session) => 2,
    }
}
