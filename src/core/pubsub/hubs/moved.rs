//! The subscriptions of a user that go to another process, with the connection that carries them and all who listen. Upstream
//! nothing changes, so a message is heard once, here or there. Owns when they may go; the connection is `connection::moved`'s.

use super::{Hub, Hubs, Topic};
use crate::base::key::Key;
use crate::command::Family;
use crate::core::connection::Connections;
use crate::core::keys::{ChildKey, LaneKey, TopicKey, UserId};
use crate::core::pubsub::own::SharedSubscriptions;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Names by which families travel.
const FAMILIES: [(&str, Family); 3] =
    [("channel", Family::Channel), ("pattern", Family::Pattern), ("shard", Family::Shard)];

/// A topic that a child listens to: the name of its family, its own.
pub type TopicImage = (String, Vec<u8>);

impl Hubs {
    /// Those who have a connection for subscriptions.
    pub(crate) fn users(&self) -> Vec<UserId> {
        self.by_user.iter().filter(|(_, hub)| !hub.lane.is_none()).map(|(user, _)| *user).collect()
    }

    /// The connection of this user's subscriptions.
    pub(crate) fn lane_of_user(&self, user: UserId) -> Option<LaneKey> {
        self.lane_of(user)
    }

    /// All who listen as this user.
    pub(crate) fn listeners_of(&self, user: UserId) -> Vec<ChildKey> {
        let topics = self.topics.iter().filter(|(_, topic)| topic.user == user);
        let listeners: BTreeSet<u64> = topics.flat_map(|(_, topic)| &topic.subscribers).copied().collect();
        listeners.into_iter().map(Key::from_bits).collect()
    }

    /// Whether everything that is listened to is on, nothing is asked, and no message is on its way.
    pub(crate) fn is_at_rest(&self, user: UserId, connections: &Connections) -> bool {
        let Some(hub) = self.by_user.get(&user).filter(|hub| hub.asked.is_empty() && !hub.is_lost) else {
            return false;
        };
        let rests = |topic: &Topic| {
            topic.is_on()
                && topic.carried
                && topic.checks == 0
                && topic.pins == 0
                && !topic.subscribers.is_empty()
        };
        let mut topics = self.topics.iter().map(|(_, topic)| topic).filter(|topic| topic.user == user);
        connections.is_at_rest(hub.lane) && !self.is_delivering_of(hub.lane) && topics.all(rests)
    }

    /// What the upstream calls the commands, where it has renamed them.
    pub(crate) fn renamed_of(&self, user: UserId) -> Vec<(String, Vec<u8>)> {
        let renamed = self.by_user.get(&user).map(|hub| &hub.renamed);
        let pairs = renamed.into_iter().flatten().map(|(name, typed)| ((*name).to_owned(), typed.clone()));
        pairs.collect()
    }

    /// A child goes: it is off the lists of its topics, of which none is left upstream. What it has listened to.
    pub(crate) fn take_off(&mut self, own: &SharedSubscriptions) -> Vec<TopicImage> {
        let mut images = Vec::with_capacity(own.total() as usize);
        for (name, family) in FAMILIES {
            for key in own.held_of(family) {
                if let Some(topic) = self.topics.get_mut(key) {
                    topic.subscribers.remove(&own.child().to_bits());
                    images.push((name.to_owned(), topic.name.to_vec()));
                }
            }
        }
        images
    }

    /// A child goes on here with what it has listened to, which the connection carries.
    pub(crate) fn put_on(&mut self, own: &mut SharedSubscriptions, topics: &[TopicImage]) {
        for (family, name) in topics {
            let Some((_, family)) = FAMILIES.iter().find(|(known, _)| known == family) else { continue };
            let key = self.carried(own.user(), *family, name);
            if let Some(topic) = self.topics.get_mut(key)
                && own.add(key, *family, name)
            {
                topic.subscribers.insert(own.child().to_bits());
            }
        }
    }

    /// The topic of that name, which is on.
    fn carried(&mut self, user: UserId, family: Family, name: &[u8]) -> TopicKey {
        let names = &mut self.by_user.entry(user).or_default().names[family as usize];
        if let Some(key) = names.get(name) {
            return *key;
        }
        let name: Arc<[u8]> = name.into();
        let (refusal, subscribers) = Default::default();
        let key = self.topics.insert(Topic {
            user,
            family,
            name: Arc::clone(&name),
            wanted: true,
            carried: true,
            pending: 0,
            checks: 0,
            subscribers,
            pins: 0,
            refusal,
        });
        names.insert(name, key);
        key
    }

    /// Whether subscriptions of this user could come: it has none here, nor a connection for them.
    pub(crate) fn has_room_for(&self, user: UserId) -> bool {
        let is_free = |hub: &Hub| hub.lane.is_none() && hub.names.iter().all(|names| names.is_empty());
        self.by_user.get(&user).is_none_or(is_free)
    }

    /// They have come, on this connection.
    pub(crate) fn take_in(&mut self, user: UserId, lane: LaneKey, renamed: &[(String, Vec<u8>)]) {
        let hub = self.by_user.entry(user).or_default();
        (hub.lane, hub.is_lost) = (lane, false);
        for (name, typed) in renamed {
            if let Some(change) = crate::command::Subscribe::of_name(name.as_bytes()) {
                hub.renamed.insert(change.name(), typed.clone());
            }
        }
    }
}
