//! Messages between workers: subscribed by channel, pattern and shard channel, published among other requests,
//! each expected once and each channel's in order.

use std::collections::HashMap;

use super::generator::Family;
use super::wire::{Conn, NoReply, bulk, bulk_text, elements};
use super::worker::{Expect, Worker};
use crate::support::ledger::fate_of;
use crate::support::{End, request};

/// What comes after the last confirmation of an end.
const FENCE: &str = "the fence";
/// Channels that every worker may publish to and subscribe.
const COMMON: usize = 3;

/// What a subscriber listens to: a name, or a pattern that ends in `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Topic {
    family: Family,
    name: String,
}

/// A subscribed connection.
#[derive(Debug)]
pub(crate) struct Subscriber {
    conn: Conn,
    proto: u8,
    topics: Vec<Topic>,
    /// The last number seen by channel and publisher: it only grows.
    seen: HashMap<(String, String), u64>,
    /// Messages that may come, or may have come to nothing.
    late: Vec<String>,
}

impl Subscriber {
    /// The requests that begin or end all of `topics`.
    fn requests(command: &str, topics: &[Topic]) -> Vec<u8> {
        let of = |family: Family| {
            let names = topics.iter().filter(move |topic| topic.family == family).map(|topic| &topic.name);
            let args: Vec<String> =
                std::iter::once(family.command(command).to_uppercase()).chain(names.cloned()).collect();
            if args.len() > 1 { request(&args) } else { Vec::new() }
        };
        Family::ALL.into_iter().flat_map(of).collect()
    }

    /// Which of its topics a confirmation of this kind is about.
    fn confirmed(&self, kind: &str, topics: &[Topic], frame: &[u8]) -> Option<usize> {
        let found = elements(frame)?;
        topics.iter().position(|topic| {
            found.len() == 3
                && found[0] == bulk(&topic.family.command(kind))
                && found[1] == bulk(&topic.name)
                && frame[0] == self.mark()
        })
    }

    fn mark(&self) -> u8 {
        if self.proto == 3 { b'>' } else { b'*' }
    }
}

impl Worker {
    fn subscribe(&mut self) -> Option<Subscriber> {
        let proto = 2 + self.rng.u8(..2);
        let conn = self.open(0, proto);
        let prefix = format!("{}:{}", self.orders.id, conn.number);
        let topic = |family, name| Topic { family, name };
        let mut topics: Vec<Topic> = (0..self.rng.usize(1..4))
            .map(|n| topic(Family::Channel, format!("c:{prefix}:{n}")))
            .chain((0..self.rng.usize(..=COMMON)).map(|n| topic(Family::Channel, format!("all:{n}"))))
            .collect();
        if self.rng.u8(..3) == 0 {
            topics.push(topic(Family::Pattern, format!("p:{prefix}:*")));
        }
        if self.rng.u8(..3) == 0 {
            topics.push(topic(Family::Shard, format!("s:{prefix}")));
        }
        let mut sub = Subscriber { conn, proto, topics: Vec::new(), seen: HashMap::new(), late: Vec::new() };
        sub.conn.write(&Subscriber::requests("subscribe", &topics));
        for wanted in &topics {
            loop {
                let frame = self.heard(&mut sub)?;
                if sub.confirmed("subscribe", std::slice::from_ref(wanted), &frame).is_some() {
                    break;
                }
                if fate_of(&String::from_utf8_lossy(&frame)).is_some() {
                    return None;
                }
                self.message(&mut sub, &frame, &mut Vec::new())?;
            }
            sub.topics.push(wanted.clone());
        }
        Some(sub)
    }

    /// What comes next for a subscriber. None: its connection was closed, as it may be at any time when
    /// the one upstream is lost.
    fn heard(&mut self, sub: &mut Subscriber) -> Option<Vec<u8>> {
        match sub.conn.reply() {
            Ok(frame) => Some(frame),
            Err(NoReply::Ended(End::Closed)) => None,
            Err(end) => {
                self.foreign(sub.conn.number, b"SUBSCRIBE", format!("{end:?}").as_bytes(), "a message");
                None
            }
        }
    }

    /// Checks a message: of a topic subscribed, each publisher's in order, each once.
    fn message(&mut self, sub: &mut Subscriber, frame: &[u8], due: &mut Vec<String>) -> Option<()> {
        if message_fits(sub, frame, due).is_none() {
            let wanted = format!("a message to {:?}, due {due:.200?}", sub.topics);
            self.foreign(sub.conn.number, b"SUBSCRIBE", frame, &wanted);
            return None;
        }
        self.report.nonces += 1;
        Some(())
    }

    /// Publishes among other requests and reads each message once and in order.
    pub(crate) fn messages(&mut self) {
        let Some(mut sub) = self.sub.take().or_else(|| self.subscribe()) else {
            return self.collect();
        };
        let own: Vec<Topic> =
            sub.topics.iter().filter(|topic| !topic.name.starts_with("all:")).cloned().collect();
        let (mut batch, mut sent) = (self.some(4), Vec::new());
        self.receivers.clear();
        let count = self.rng.usize(1..10);
        for index in 0..count {
            // One to a common channel: others cannot know that an earlier one may still come.
            let common = index == 0 && self.rng.bool();
            let topic = match common {
                true => {
                    let name = format!("all:{}", self.rng.usize(..COMMON));
                    Topic { family: Family::Channel, name }
                }
                false => own[self.rng.usize(..own.len())].clone(),
            };
            let channel = topic.name.replace('*', "x");
            let publisher = format!("{}/{}/{}", self.orders.id, self.main.number, self.epoch);
            let payload = format!("{publisher} {} {channel} {}", self.sequence(), self.nonce());
            let command = if topic.family == Family::Shard { "SPUBLISH" } else { "PUBLISH" };
            batch.push((request(&[command, &channel, &payload]), Expect::Published));
            sent.push(sub.topics.contains(&topic).then_some(payload));
            batch.push(self.plain());
        }
        self.run(batch);
        if self.receivers.len() < count {
            return;
        }
        let mut due = Vec::new();
        for (payload, told) in sent.into_iter().zip(std::mem::take(&mut self.receivers)) {
            match (payload, told) {
                // Nobody received what it listens to: its connection is about to be closed.
                (Some(_), Some(0)) => return,
                (Some(payload), Some(_)) => due.push(payload),
                (Some(payload), None) => sub.late.push(payload),
                (None, _) => {}
            }
        }
        while !due.is_empty() {
            let Some(frame) = self.heard(&mut sub) else { return self.collect() };
            if self.message(&mut sub, &frame, &mut due).is_none() {
                return self.collect();
            }
        }
        match self.rng.u8(..6) {
            0 => self.unsubscribe(sub),
            1 => {}
            _ => self.sub = Some(sub),
        }
    }

    /// After its confirmation no message of a topic comes; after the last, requests are answered.
    fn unsubscribe(&mut self, mut sub: Subscriber) {
        let bytes = [Subscriber::requests("unsubscribe", &sub.topics), request(&["ECHO", FENCE])].concat();
        sub.conn.write(&bytes);
        loop {
            let Some(frame) = self.heard(&mut sub) else { return };
            if frame == bulk(FENCE) && sub.topics.is_empty() {
                self.report.plain += 1;
                return;
            }
            if fate_of(&String::from_utf8_lossy(&frame)).is_some() {
                // What it still listens to is open.
                return;
            }
            if let Some(place) = sub.confirmed("unsubscribe", &sub.topics, &frame) {
                sub.topics.swap_remove(place);
            } else if self.message(&mut sub, &frame, &mut Vec::new()).is_none() {
                return self.collect();
            }
        }
    }
}

fn message_fits(sub: &mut Subscriber, frame: &[u8], due: &mut Vec<String>) -> Option<()> {
    let found = elements(frame)?;
    let text = |frame| Some(String::from_utf8_lossy(bulk_text(frame)?).into_owned());
    let (kind, name, channel, payload) = match found[..] {
        [kind, channel, payload] => (kind, text(channel)?, text(channel)?, text(payload)?),
        [kind, pattern, channel, payload] => (kind, text(pattern)?, text(channel)?, text(payload)?),
        _ => return None,
    };
    let known = sub.topics.iter().any(|topic| {
        let parts = if topic.family == Family::Pattern { 4 } else { 3 };
        topic.name == name && kind == bulk(&topic.family.command("message")) && found.len() == parts
    });
    let mut words = payload.split(' ');
    let (publisher, number) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
    if frame[0] != sub.mark() || !known || words.next()? != channel {
        return None;
    }
    if let Some(place) = sub.late.iter().position(|late| *late == payload) {
        sub.late.swap_remove(place);
        return Some(());
    }
    // The first of this channel that is due.
    match due.iter().position(|due| due.split(' ').nth(2) == Some(&channel)) {
        Some(place) if due[place] == payload => drop(due.remove(place)),
        _ if channel.starts_with("all:") => {}
        _ => return None,
    }
    let last = sub.seen.insert((channel, publisher), number).unwrap_or(0);
    (last < number).then_some(())
}
