//! Subscriptions by name: who wants which messages, what was asked of the server about it and not yet confirmed.
//! Owns no connection; says what to send and whom a push is for.

use crate::base::key::{Arena, Key};
pub use crate::command::Family;
use crate::command::Subscribe;
use crate::resp::{Tree, encode};
use std::collections::{HashMap, VecDeque};

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) tag: usize,
    topic: SubscriptionName,
}

pub(super) type SubscriptionName = (Family, Box<[u8]>);

#[derive(Debug, Default)]
struct Interest {
    subscriptions: Vec<Key<Subscription>>,
    /// The server's confirmation on the present connection.
    confirmed: Option<Box<[u8]>>,
}

#[derive(Debug, Default)]
pub(super) struct Topics {
    subscriptions: Arena<Subscription>,
    interests: HashMap<SubscriptionName, Interest>,
    /// Questions to the server that are not yet confirmed: whether each joins.
    asked: VecDeque<(SubscriptionName, bool)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// The first of its name: the server has to be asked.
    First,
    /// Another is confirmed already, with these bytes.
    Confirmed(Box<[u8]>),
    /// Another is being asked for.
    Asked,
}

impl Topics {
    /// None yet, in a process behind so many forks: no name of those before it is given again.
    pub(super) fn of_copy(forks: u64) -> Topics {
        Topics { subscriptions: Arena::of_copy(forks), ..Topics::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.interests.is_empty()
    }

    pub(super) fn get(&self, key: Key<Subscription>) -> Option<&Subscription> {
        self.subscriptions.get(key)
    }

    pub(super) fn join(&mut self, family: Family, name: &[u8], tag: usize) -> (Key<Subscription>, Joined) {
        let topic: SubscriptionName = (family, name.into());
        let key = self.subscriptions.insert(Subscription { tag, topic: topic.clone() });
        let interest = self.interests.entry(topic).or_default();
        interest.subscriptions.push(key);
        let joined = match &interest.confirmed {
            _ if interest.subscriptions.len() == 1 => Joined::First,
            Some(confirmation) => Joined::Confirmed(confirmation.clone()),
            None => Joined::Asked,
        };
        (key, joined)
    }

    /// Ends a subscription; its tag, and what the server is to be told if it was the last of its name.
    pub(super) fn leave(&mut self, key: Key<Subscription>) -> Option<(usize, Option<SubscriptionName>)> {
        let subscription = self.subscriptions.remove(key)?;
        let interest = self.interests.get_mut(&subscription.topic)?;
        interest.subscriptions.retain(|other| *other != key);
        if !interest.subscriptions.is_empty() {
            return Some((subscription.tag, None));
        }
        self.interests.remove(&subscription.topic);
        Some((subscription.tag, Some(subscription.topic)))
    }

    /// Writes SUBSCRIBE, or what takes it back, for one name, and remembers to expect a confirmation.
    pub(super) fn ask(&mut self, family: Family, name: &[u8], join: bool, out: &mut Vec<u8>) {
        let command = Subscribe { family, leave: !join }.name();
        encode::request(out, &[command.as_bytes(), name]);
        self.asked.push_back(((family, name.into()), join));
    }

    /// Asks for everything anew: the connection is a new one.
    pub(super) fn ask_all(&mut self, out: &mut Vec<u8>) {
        self.asked.clear();
        for interest in self.interests.values_mut() {
            interest.confirmed = None;
        }
        for (family, name) in self.interests.keys().cloned().collect::<Vec<_>>() {
            self.ask(family, &name, true, out);
        }
    }

    /// Whom a push is for. `None`: it is about no subscription at all.
    pub(super) fn push(&mut self, push: &Tree) -> Option<Vec<Key<Subscription>>> {
        let mut elements = push.elements(0);
        let (kind, name) = (push.text(elements.next()?)?, push.text(elements.next()?));
        match kind {
            b"message" => Some(self.wanting(Family::Channel, name?)),
            b"pmessage" => Some(self.wanting(Family::Pattern, name?)),
            b"smessage" => Some(self.wanting(Family::Shard, name?)),
            kind => {
                let change = Subscribe::of_name(kind)?;
                Some(self.confirmed(name?, !change.leave, push.raw(0)))
            }
        }
    }

    /// Only after its confirmation: what comes before is the echo of an earlier subscription.
    fn wanting(&self, family: Family, name: &[u8]) -> Vec<Key<Subscription>> {
        let interest = self.interests.get(&(family, name.into()) as &SubscriptionName);
        let confirmed = interest.filter(|interest| interest.confirmed.is_some());
        confirmed.map(|interest| interest.subscriptions.clone()).unwrap_or_default()
    }

    fn confirmed(&mut self, name: &[u8], join: bool, frame: &[u8]) -> Vec<Key<Subscription>> {
        let asked = self.asked.front().is_some_and(|(topic, joins)| *joins == join && &*topic.1 == name);
        let Some((topic, _)) = asked.then(|| self.asked.pop_front()).flatten() else {
            // Redis ends a shard subscription by itself when the slot moves; nobody asked.
            return Vec::new();
        };
        match self.interests.get_mut(&topic) {
            Some(interest) if join => {
                interest.confirmed = Some(frame.into());
                interest.subscriptions.clone()
            }
            _ => Vec::new(),
        }
    }

    /// The server has refused what was asked first. Whose subscriptions are over; `None`: nothing was asked.
    pub(super) fn refused(&mut self) -> Option<Vec<usize>> {
        let (topic, joins) = self.asked.pop_front()?;
        let interest = if joins { self.interests.remove(&topic) } else { None };
        let over = interest
            .unwrap_or_default()
            .subscriptions
            .into_iter()
            .filter_map(|key| self.subscriptions.remove(key));
        Some(over.map(|subscription| subscription.tag).collect())
    }

    pub(super) fn end_all(&mut self) -> Vec<usize> {
        let over = self.subscriptions.keys();
        let tags = over.into_iter().filter_map(|key| Some(self.subscriptions.remove(key)?.tag)).collect();
        self.interests.clear();
        self.asked.clear();
        tags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(kind: &str, name: &str) -> Tree {
        Tree::parse(format!(">3\r\n+{kind}\r\n+{name}\r\n:1\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn many_of_one_name_are_one_to_the_server() {
        let (mut topics, mut out) = (Topics::default(), Vec::new());
        let (a, first) = topics.join(Family::Channel, b"c", 1);
        assert_eq!(first, Joined::First);
        topics.ask(Family::Channel, b"c", true, &mut out);
        assert_eq!(topics.join(Family::Channel, b"c", 2).1, Joined::Asked);
        assert_eq!(topics.push(&push("message", "c")), Some(vec![]), "not confirmed yet");
        assert_eq!(topics.push(&push("subscribe", "c")).unwrap().len(), 2);
        let (b, joined) = topics.join(Family::Channel, b"c", 3);
        assert!(matches!(joined, Joined::Confirmed(_)));
        assert_eq!(topics.push(&push("message", "c")).unwrap().len(), 3);
        assert_eq!(topics.push(&push("pmessage", "c")).unwrap().len(), 0);
        assert_eq!(topics.leave(a), Some((1, None)));
        assert_eq!(topics.leave(a), None);
        assert_eq!(topics.leave(b), Some((3, None)));
        assert_eq!(topics.push(&push("invalidate", "c")), None);
    }

    #[test]
    fn a_refusal_ends_those_who_asked() {
        let (mut topics, mut out) = (Topics::default(), Vec::new());
        topics.join(Family::Channel, b"c", 1);
        topics.ask(Family::Channel, b"c", true, &mut out);
        let (other, _) = topics.join(Family::Channel, b"d", 2);
        topics.ask(Family::Channel, b"d", true, &mut out);
        assert_eq!(topics.refused(), Some(vec![1]));
        assert_eq!(topics.push(&push("subscribe", "d")), Some(vec![other]));
        assert_eq!(topics.refused(), None);
    }

    /// UNSUBSCRIBE and SUBSCRIBE of the same name at once: the messages of the first are not those of the second.
    #[test]
    fn a_message_before_the_confirmation_is_an_echo() {
        let (mut topics, mut out) = (Topics::default(), Vec::new());
        let (a, _) = topics.join(Family::Channel, b"c", 1);
        topics.ask(Family::Channel, b"c", true, &mut out);
        topics.push(&push("subscribe", "c"));
        let (_, told) = topics.leave(a).unwrap();
        assert!(told.is_some());
        topics.ask(Family::Channel, b"c", false, &mut out);
        topics.join(Family::Channel, b"c", 2);
        topics.ask(Family::Channel, b"c", true, &mut out);
        assert_eq!(topics.push(&push("message", "c")), Some(vec![]));
        assert_eq!(topics.push(&push("unsubscribe", "c")), Some(vec![]));
        assert_eq!(topics.push(&push("subscribe", "c")).unwrap().len(), 1);
    }
}
