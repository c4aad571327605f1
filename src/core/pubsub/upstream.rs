//! What the connection of a user's shared subscriptions means for children. What is subscribed is `pubsub::hubs`'.

use crate::base::key::Key;
use crate::config::value::OnSubscriberLoss;
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::closing::CloseReason;
use crate::core::child::hold::Hold;
use crate::core::child::outbox::Frame;
use crate::core::keys::{ChildKey, LaneKey, TopicKey, UserId};
use crate::core::pubsub::SubscriberLoss;
use crate::core::pubsub::hubs::{Asked, Delivery, LiveHubs, Received};
use crate::core::pubsub::own::Fence;
use crate::core::pubsub::push::{append_push, confirmation, cost_of_push};
use crate::core::shared::Shared;

/// Listeners that are looked up at a time.
const LISTENERS_STEP: usize = 64;

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
    pub(crate) fn hub_said(&mut self, lane: LaneKey, frame: Frame<'_>, kind: u8) -> Result<(), &'static str> {
        match self.shared.live_hubs().received(lane, kind, frame.bytes())? {
            Received::Nothing => {}
            Received::Message(topic) => {
                if let Err(reached) = self.push_to_listeners(topic, frame, None) {
                    let message = frame.to_fragment(&self.shared.env.fragments);
                    self.shared.hubs.keep_delivery(Delivery { lane, topic, message, reached });
                }
            }
            Received::FenceAnswered(child, number) => self.fence_answered(child, number),
        }
        Ok(())
    }

    /// One message to every child that listens, behind the one that was `reached` last. A child that cannot take it is
    /// closed. Ends where the turn has no room for more: then it says who was reached.
    fn push_to_listeners(
        &mut self,
        topic: TopicKey,
        frame: Frame<'_>,
        mut reached: Option<u64>,
    ) -> Result<(), u64> {
        let shared = &mut self.shared;
        loop {
            let mut some = [0; LISTENERS_STEP];
            let mut found = 0;
            for (place, bits) in some.iter_mut().zip(shared.hubs.next_listeners(topic, reached)) {
                *place = bits;
                found += 1;
            }
            for bits in &some[..found] {
                if shared.turn.pushes <= 0
                    && let Some(reached) = reached
                {
                    return Err(reached);
                }
                reached = Some(*bits);
                // One that had very many topics may have gone before it is off all of them.
                let Some(child) = self.children.get_mut(Key::from_bits(*bits)) else { continue };
                shared.turn.pushes -= cost_of_push(child, frame);
                if !append_push(child, &mut shared.env, frame) {
                    shared.close(child);
                }
            }
            if found < LISTENERS_STEP {
                return Ok(());
            }
        }
    }

    /// Goes on with the messages that have not reached all their listeners, as far as the turn has room. Then what their
    /// connections have said since is read. True if there was anything to do.
    pub(crate) fn go_on_delivering(&mut self) -> bool {
        let mut worked = false;
        while self.shared.turn.pushes > 0
            && let Some(delivery) = self.shared.hubs.next_delivery()
        {
            worked = true;
            let Delivery { lane, topic, message, reached } = delivery;
            match self.push_to_listeners(topic, Frame::shared(&message), Some(reached)) {
                Err(reached) => {
                    self.shared.hubs.keep_delivery(Delivery { lane, topic, message, reached });
                }
                Ok(()) => self.lane_input(lane, &[]),
            }
            self.deliver_notices();
        }
        worked
    }

    /// The child goes on at once: what the connection says next, it says to a child that has been confirmed. What it has not
    /// been told yet may be that it was refused.
    fn fence_answered(&mut self, key: ChildKey, number: u64) {
        self.deliver_all_notices();
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

    /// A message to this topic is too long to be kept: its listeners end, or miss it, as the setting says.
    pub(crate) fn message_missed(&mut self, topic: TopicKey) {
        let closes = self.shared.env.settings.on_subscriber_loss == OnSubscriberLoss::Close;
        if !closes {
            self.shared.env.counters.subscriber_gaps += 1;
            return log::warn!("a message is longer than half of memory_max: its listeners miss it");
        }
        for key in self.shared.hubs.listeners(topic).collect::<Vec<_>>() {
            if let Some(child) = self.children.get_mut(key) {
                CloseReason::MessageTooLong.log(child);
                self.shared.close(child);
            }
        }
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
            if !append_push(child, &mut self.shared.env, Frame::of(&out)) {
                self.shared.close(child);
            }
        }
    }
}
