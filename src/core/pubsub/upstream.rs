//! What the connection of a user's shared subscriptions means for children. What is subscribed is `pubsub::hubs`'.

use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::closing::CloseReason;
use crate::core::child::hold::Hold;
use crate::core::keys::{ChildKey, LaneKey, TopicKey, UserId};
use crate::core::pubsub::SubscriberLoss;
use crate::core::pubsub::hubs::{Asked, LiveHubs, Received};
use crate::core::pubsub::own::Fence;
use crate::core::pubsub::push::{append_push, confirmation};
use crate::core::shared::Shared;

impl Shared {
    pub(crate) fn live_hubs(&mut self) -> LiveHubs<'_> {
        self.hubs.live(&mut self.connections, &mut self.env)
    }

    /// The listeners have been seen to: the others need another connection.
    fn reconnect_hub(&mut self, user: UserId, loss: SubscriberLoss) {
        if self.env.sweeps.is_lost(user) {
            // Lost once more meanwhile.
            return;
        }
        // The user may have ended with its listeners.
        let Some(lane) = self.hubs.lane_of(user) else { return };
        let known = self.connections.known(lane);
        let (listened, connected) =
            (known.is_some_and(|lane| lane.is_listened()), known.is_some_and(|lane| lane.is_counted()));
        match loss {
            SubscriberLoss::Broken { .. } if !listened => {}
            SubscriberLoss::Broken { failures: 0 } => self.connections.want(&mut self.env, lane),
            SubscriberLoss::Broken { failures } => self.back_off(lane, failures),
            // It is dialled already.
            SubscriberLoss::UpstreamReplaced if connected => {}
            SubscriberLoss::UpstreamReplaced => {
                self.connections.dial_afresh(&mut self.env, lane);
                self.connections.account(&mut self.env, lane);
            }
        }
    }

    /// A child that waits for a confirmation asks for its fence on a new connection.
    pub(crate) fn ask_fence_again(&mut self, child: &mut Child, user: UserId) -> bool {
        let own = child.topics().filter(|own| own.user() == user);
        let (Some(Fence::Asked(number)), Hold::Subscription) = (own.map(|own| own.fence()), child.hold())
        else {
            return false;
        };
        let mut hubs = self.live_hubs();
        // It may be lost again.
        if hubs.is_ready(user) {
            hubs.ask(user, Asked::Fence(child.key(), number));
        }
        true
    }

    /// A child that listens may miss messages from now on: it ends, or messages are missing, as the setting says.
    pub(crate) fn subscriber_lost(
        &mut self,
        child: &mut Child,
        user: UserId,
        loss: SubscriberLoss,
        closes: bool,
    ) -> bool {
        let listens = child.topics().is_some_and(|own| own.user() == user && own.total() > 0);
        match loss {
            SubscriberLoss::UpstreamReplaced if listens && closes => self.finish(child),
            SubscriberLoss::Broken { .. } if listens && closes => self.close(child),
            _ => {}
        }
        listens
    }

    /// All who listened have been seen to, so many.
    pub(crate) fn subscribers_were_lost(
        &mut self,
        user: UserId,
        loss: SubscriberLoss,
        closes: bool,
        count: usize,
    ) {
        if !closes && count > 0 {
            self.env.counters.subscriber_gaps += 1;
            log::warn!("{count} subscribers may have missed messages: subscribing again for them");
        }
        self.reconnect_hub(user, loss);
    }
}

impl Broker {
    pub(crate) fn hub_said(&mut self, lane: LaneKey, frame: &[u8], kind: u8) -> Result<(), &'static str> {
        match self.shared.live_hubs().received(lane, kind, frame)? {
            Received::Nothing => {}
            Received::Message(topic) => self.push_to_listeners(topic, frame),
            Received::FenceAnswered(child, number) => self.fence_answered(child, number),
        }
        Ok(())
    }

    /// One message to every child that listens. Those that cannot take it are closed when all have it.
    fn push_to_listeners(&mut self, topic: TopicKey, frame: &[u8]) {
        let mut full = Vec::new();
        for key in self.shared.hubs.listeners(topic) {
            // One that had very many topics may have gone before it is off all of them.
            let child = self.children.get_mut(key);
            if child.is_some_and(|child| !append_push(child, &mut self.shared.env, frame)) {
                full.push(key);
            }
        }
        for key in full {
            if let Some(child) = self.children.get_mut(key) {
                self.shared.close(child);
            }
        }
    }

    /// The child goes on at once: what the connection says next, it says to a child that has been confirmed.
    fn fence_answered(&mut self, key: ChildKey, number: u64) {
        // The child may have gone, or given up, since the fence was asked.
        if let Some(child) = self.children.get_mut(key)
            && child.hold() == Hold::Subscription
            && child.topics_mut().is_some_and(|own| own.fence_answered(number))
        {
            child.set_hold(Hold::None);
            self.run_child(key, &[]);
        }
    }

    /// The upstream does not let anybody listen to this topic any more.
    pub(crate) fn close_listeners(&mut self, topic: TopicKey) {
        for child in self.shared.hubs.listeners(topic).collect::<Vec<_>>() {
            if let Some(child) = self.children.get_mut(child) {
                CloseReason::SubscriptionRefused.log(child);
                self.shared.close(child);
            }
        }
        self.shared.live_hubs().release(topic);
    }

    /// The upstream has ended the subscription itself: the slot of a shard channel has moved.
    pub(crate) fn topic_moved(&mut self, topic: TopicKey) {
        // The topic may have been forgotten since.
        let Some((change, name)) = self.shared.hubs.moved(topic) else { return };
        for key in self.shared.hubs.listeners(topic).collect::<Vec<_>>() {
            let Some(child) = self.children.get_mut(key) else { continue };
            let proto = child.session().proto;
            let Some(own) = child.topics_mut() else { continue };
            self.shared.live_hubs().unsubscribe(own, topic);
            let mut out = Vec::new();
            confirmation(&mut out, proto, change, Some(&name), own.count(change.family));
            if !append_push(child, &mut self.shared.env, &out) {
                self.shared.close(child);
            }
        }
    }
}
