//! Subscriptions on a child's leased lane (`pubsub = leased`): how they are changed, and which frames on the lane are
//! pushes. Redis alone knows what is subscribed; shared subscriptions are `pubsub::topics`'.

use crate::base::limits;
use crate::command::{Family, Subscribe};
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::hold::{HeldLease, Hold};
use crate::core::child::outbox::Frame;
use crate::core::connection::lane::Lane;
use crate::core::connection::slot::{SlotFlags, SlotKind};
use crate::core::keys::{LaneKey, LeaseKind};
use crate::core::lease::pinning::is_monitor_line;
use crate::core::lease::state::LeaseState;
use crate::core::pubsub::push::{Push, append_push, confirmation, push_of};
use crate::core::request::flow::{Decided, Flow, canonical_int};
use crate::core::shared::Shared;
use crate::resp::{Request, reply};

impl Shared {
    /// (P|S)(UN)SUBSCRIBE on the child's own lane. Nothing of the child follows before its last confirmation.
    pub(crate) fn change_subscription(
        &mut self,
        child: &mut Child,
        Decided { request, id, .. }: Decided<'_>,
        change: Subscribe,
        lane: LaneKey,
    ) -> Flow {
        if child.is_under_way() {
            return Flow::Hold(Hold::OwnReplies);
        }
        let names = (request.argc() - 1) as u32;
        child.subscriptions_mut().get_or_insert_default().begin_change(change, names);
        self.send_for(child, lane, request.bytes, id, SlotKind::Subscribe, SlotFlags::NONE);
        self.convert_to_session(child, lane);
        Flow::Hold(Hold::Reply)
    }

    /// A child that watched keys and now subscribes or is pinned keeps its lane, but it counts as a session.
    pub(crate) fn convert_to_session(&mut self, child: &mut Child, lane_key: LaneKey) {
        let lane = self.connections.find_mut(lane_key);
        if let Some(lease) = lane.and_then(Lane::lease_mut) {
            self.leases.convert_to_session(lease);
            *child.lease_mut() = Some(HeldLease { lane: lane_key, kind: LeaseKind::Session });
        }
    }

    /// Unsubscribing where nothing is subscribed: confirmed all the same, without going upstream.
    pub(crate) fn leave_nothing(&mut self, child: &mut Child, family: Family, request: &Request<'_>) -> Flow {
        let proto = child.session().proto;
        let change = Subscribe { family, leave: true };
        let mut out = Vec::new();
        let from = child.front().arguments_done().max(1);
        let end = request.argc().min(from + limits::LEAVE_STEP);
        for name in (from..end).map(|index| request.arg(index)) {
            confirmation(&mut out, proto, change, Some(name), 0);
        }
        if request.argc() == 1 {
            confirmation(&mut out, proto, change, None, 0);
        }
        self.confirm(child, &out, true);
        if end < request.argc() {
            child.front_mut().set_arguments_done(end);
            child.spend(limits::CHILD_TURN as usize);
            return Flow::More;
        }
        Flow::Done
    }

    /// Gives a push to the child that leases the lane. The last confirmation of a change completes its slot.
    fn push_to_tenant(&mut self, child: &mut Child, lane_key: LaneKey, frame: Frame<'_>) {
        let Some(Push::Confirmation(change)) = push_of(frame.bytes()) else {
            if !append_push(child, &mut self.env, frame) {
                self.close(child);
            }
            return;
        };
        let frame = frame.bytes();
        self.confirm(child, frame, change.leave);
        let Some(subscriptions) = child.subscriptions_mut() else { return };
        let count = reply::element(frame, 2).and_then(|range| canonical_int(reply::text(&frame[range])?));
        let count = count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
        if !subscriptions.confirmed(change, count) {
            return;
        }
        if !change.leave {
            let sent = child.sent_bytes();
            child.outbox_mut().order_pushes(sent);
        }
        let completes = |lane: &&mut Lane| lane.front().is_some_and(|slot| slot.kind == SlotKind::Subscribe);
        let lane = self.connections.find_mut(lane_key).filter(completes);
        if let Some(slot) = lane.and_then(Lane::pop) {
            self.settle(child, lane_key, slot, b"", None);
        }
    }
}

impl Broker {
    /// Whether a frame on this lane belongs to no slot but to the subscriptions of the child that leases
    /// it. In RESP2 a message looks like any array, so it depends on who listens.
    pub(crate) fn is_push(&self, lane_key: LaneKey, kind: u8, frame: &[u8]) -> bool {
        let lease = || self.shared.connections.known(lane_key).and_then(Lane::lease);
        // The lease of a child that has gone is over, and its lane not yet closed.
        let child = |lease: &LeaseState| self.children.get(lease.child());
        let listens = |child: &Child| {
            child.session().proto == 2 && child.subscriptions().is_some_and(|own| own.expects_pushes())
        };
        match kind {
            b'>' => true,
            b'+' => {
                let monitors = lease().and_then(child).is_some_and(|child| child.session().monitoring);
                monitors && is_monitor_line(frame)
            }
            b'*' => {
                let session = lease().filter(|lease| lease.kind() == LeaseKind::Session);
                session.and_then(child).is_some_and(listens) && push_of(frame).is_some()
            }
            _ => false,
        }
    }

    /// Delivers a push to the child that leases the lane. False when the lane may not carry one.
    pub(crate) fn push_arrived(&mut self, lane_key: LaneKey, frame: Frame<'_>) -> bool {
        let lane = self.shared.connections.find(lane_key);
        // A child with another lease has asked for none: whatever it is, it is not for this child.
        let session = lane.and_then(Lane::lease).filter(|lease| lease.kind() == LeaseKind::Session);
        let Some(lease) = session else {
            // Redis tells some things to every RESP3 connection: no reply, so it is dropped. RESP2 has none.
            return lane.is_some_and(|lane| self.shared.connections.key_of(lane).proto == 3);
        };
        if let Some(child) = self.children.get_mut(lease.child()) {
            self.shared.push_to_tenant(child, lane_key, frame);
        }
        true
    }
}
