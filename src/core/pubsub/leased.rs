//! A child's subscriptions on a leased lane of its own (`pubsub = leased`): counting them, telling pushes
//! from replies, and knowing when the last one is gone. Shared ones are `core::pubsub`'s.

use crate::command::CommandId;
use crate::command::Family;
use crate::command::Subscribe;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::ChildState;
use crate::core::child::hold::Hold;
use crate::core::connection::lane::Lane;
use crate::core::connection::lane::SlotKind;
use crate::core::keys::LaneKey;
use crate::core::keys::LeaseKind;
use crate::core::lease::pinning::is_monitor_line;
use crate::core::pubsub::push::Push;
use crate::core::pubsub::push::confirmation;
use crate::core::pubsub::push::index;
use crate::core::pubsub::push::push_of;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::resp::Request;
use crate::resp::reply;

impl Shared {
    /// (P|S)(UN)SUBSCRIBE on the child's own lane. Answered by one confirmation a name; nothing of the
    /// child follows before the last of them.
    pub(in crate::core) fn change_subscription(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
        id: CommandId,
        subscribe: Subscribe,
        lane: LaneKey,
    ) -> Flow {
        if child.is_under_way() {
            return Flow::Hold(Hold::Drained);
        }
        let names = (request.argc() - 1) as u32;
        let subscriptions = child.subscriptions.get_or_insert_default();
        let of_family = subscriptions.counts[index(subscribe.family)];
        subscriptions.owed = if names > 0 { names } else { of_family.max(1) };
        self.send_for(child, lane, request.bytes, id, SlotKind::Subscribe, 0);
        self.convert_to_session(child, lane);
        Flow::Hold(Hold::Blocked)
    }

    /// A child that watched keys and now subscribes or is pinned keeps its lane, but it counts as a session.
    pub(in crate::core) fn convert_to_session(&mut self, child: &mut Child, lane_key: LaneKey) {
        let Some(lease) = self.connections.lanes.get_mut(lane_key).and_then(|lane| lane.lease.as_mut())
        else {
            return;
        };
        lease.kept = true;
        if lease.kind == LeaseKind::Session {
            return;
        }
        let before = std::mem::replace(&mut lease.kind, LeaseKind::Session);
        self.leases.returned(before, None);
        self.leases.granted(LeaseKind::Session, None);
        if let Some(held) = child.lease.as_mut() {
            held.kind = LeaseKind::Session;
        }
    }

    /// Unsubscribing where nothing is subscribed: confirmed all the same, without going upstream.
    pub(in crate::core) fn leave_nothing(
        &mut self,
        child: &mut Child,
        family: Family,
        request: &Request<'_>,
    ) {
        let proto = child.session.proto;
        let change = Subscribe { family, leave: true };
        let mut names: Vec<Option<&[u8]>> = request.args().skip(1).map(Some).collect();
        if names.is_empty() {
            names.push(None);
        }
        let mut out = Vec::new();
        for name in names {
            confirmation(&mut out, proto, change, name, 0);
        }
        self.confirm(child, &out);
    }

    /// Gives a push to the child that leases the lane. The last confirmation of a change completes its slot.
    fn push_to_tenant(&mut self, child: &mut Child, lane_key: LaneKey, frame: &[u8]) {
        if !self.append_push(child, frame) {
            return self.close(child);
        }
        let Some(Push::Confirmation(change)) = push_of(frame) else { return };
        let Some(subscriptions) = &mut child.subscriptions else { return };
        let count = reply::element(frame, 2).and_then(|range| number(&frame[range])).unwrap_or(0);
        let owed_before = subscriptions.owed;
        subscriptions.confirmed(change, count);
        let lane = self.connections.lanes.get_mut(lane_key).filter(|_| owed_before == 1);
        let completes = |lane: &&mut Lane| lane.front().is_some_and(|slot| slot.kind == SlotKind::Subscribe);
        if let Some(slot) = lane.filter(completes).and_then(Lane::pop) {
            self.settle(child, lane_key, slot, b"", true);
        }
    }

    /// On a RESP3 lane nobody leases, a push can only be something Redis tells every connection: not a
    /// reply, so it is dropped. A RESP2 lane cannot have one.
    fn stray_push(&self, lane_key: LaneKey) -> bool {
        self.connections
            .lanes
            .get(lane_key)
            .is_some_and(|lane| self.connections.pools[lane.pool.0 as usize].key.proto == 3)
    }

    /// Appends a push to the child's output in the child's protocol, within the bounds of subscribers.
    /// False if the child has to be closed.
    pub(in crate::core) fn append_push(&mut self, child: &mut Child, frame: &[u8]) -> bool {
        if child.state == ChildState::Finishing && child.replies.is_empty() {
            // It has had its last answer.
            return true;
        }
        let held = child.output.len();
        if held >= self.env.settings.subscriber_output_max {
            log::warn!("subscriber_output_max reached: closing child {}, {held} bytes unread", child.label());
            return false;
        }
        child.output.adopt(&mut self.env.spares);
        match frame.split_first() {
            Some((b'>', rest)) if child.session.proto == 2 => {
                child.output.append(b"*");
                child.output.append(rest);
            }
            _ => child.output.append(frame),
        }
        if child.output.len() >= self.env.settings.subscriber_output_soft {
            child.over_soft_since.get_or_insert(self.env.now);
        }
        self.mark_child(child);
        true
    }
}

impl Broker {
    /// Whether a frame on this lane belongs to no slot but to the subscriptions of the child that leases
    /// it. In RESP2 a message looks like any array, so it depends on who listens.
    pub(in crate::core) fn is_push(&self, lane_key: LaneKey, kind: u8, frame: &[u8]) -> bool {
        if kind == b'>' {
            return true;
        }
        if kind == b'+' {
            return self.is_monitoring(lane_key) && is_monitor_line(frame);
        }
        if kind != b'*' {
            return false;
        }
        let Some(lease) = self.shared.connections.lanes.get(lane_key).and_then(|lane| lane.lease.as_ref())
        else {
            return false;
        };
        if lease.kind != LeaseKind::Session {
            return false;
        }
        let Some(child) = self.children.get(lease.child) else { return false };
        let listens = child.subscriptions.as_ref().is_some_and(|subs| subs.total() > 0 || subs.owed > 0);
        listens && child.session.proto == 2 && push_of(frame).is_some()
    }

    fn is_monitoring(&self, lane: LaneKey) -> bool {
        let lease = self.shared.connections.lanes.get(lane).and_then(|lane| lane.lease.as_ref());
        let child = lease.and_then(|lease| self.children.get(lease.child));
        child.is_some_and(|child| child.session.monitoring)
    }

    /// Delivers a push to the child that leases the lane. False when the lane may not carry one.
    pub(in crate::core) fn push_arrived(&mut self, lane_key: LaneKey, frame: &[u8]) -> bool {
        let lease = self.shared.connections.lanes.get(lane_key).and_then(|lane| lane.lease.as_ref());
        // Its child has asked for none: whatever it is, it is not for this child.
        let Some(lease) = lease.filter(|lease| lease.kind == LeaseKind::Session) else {
            return self.shared.stray_push(lane_key);
        };
        if let Some(child) = self.children.get_mut(lease.child) {
            self.shared.push_to_tenant(child, lane_key, frame);
        }
        true
    }
}

pub(in crate::core) fn number(frame: &[u8]) -> Option<u32> {
    std::str::from_utf8(reply::text(frame)?).ok()?.parse().ok()
}
