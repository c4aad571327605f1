//! What comes from the peer: replies to requests, to the greeting, and pushes. Each reply belongs to the oldest request
//! that was sent; one that nobody asked for ends the connection.

use super::channel::{Channel, OpenRequest, Purpose, State};
use super::mux::{Mux, Told};
use super::request::{Event, Fault, outcome_of};
use crate::base::key::Key;
use crate::resp::{Tree, reply};

/// Connections kept for the next blocking command.
const BLOCKING_KEPT: usize = 4;

impl Mux {
    pub(super) fn input(&mut self, key: Key<Channel>, bytes: &[u8]) {
        let Some(channel) = self.channels.get_mut(key) else { return };
        if !channel.is_connected() {
            return;
        }
        let mut frames = channel.inbox.begin(bytes, &mut self.scanner);
        while self.is_read(key)
            && let Some(reply) = frames.next_reply()
        {
            match reply {
                Ok((frame, kind)) => self.take_frame(key, frame, kind),
                Err(why) => self.desync(key, why),
            }
        }
        if let Some(channel) = self.channels.get_mut(key) {
            channel.inbox.end(frames, &mut self.scanner, &mut self.spares);
        }
    }

    /// Whether the connection that is being read is still there.
    fn is_read(&self, key: Key<Channel>) -> bool {
        self.channels.get(key).is_some_and(|channel| channel.inbox.is_in_use())
    }

    fn take_frame(&mut self, key: Key<Channel>, frame: &[u8], kind: u8) {
        let Some(channel) = self.channels.get_mut(key) else { return };
        if kind == b'>' {
            return self.pushed(frame);
        }
        if matches!(channel.state, State::Greeting { .. }) {
            return self.greeted(key, frame);
        }
        if channel.purpose == Purpose::Messages {
            return self.subscription_refused(key, frame);
        }
        let Some(front) = channel.out.front_mut() else {
            return self.desync(key, "a reply nobody asked for");
        };
        front.left -= 1;
        if front.left > 0 {
            if frame.first() == Some(&b'-') && front.error.is_none() {
                front.error = Some(frame.into());
            }
            return;
        }
        if let Some(sent) = channel.out.take_front() {
            self.answered(key, sent, frame);
        }
    }

    fn answered(&mut self, key: Key<Channel>, sent: OpenRequest, frame: &[u8]) {
        if let (Some(setting), Some(bytes), b"+OK\r\n") = (sent.setting, sent.bytes, frame) {
            self.again.retain(|(known, _)| *known != setting);
            self.again.push((setting, bytes));
        }
        // Why nothing was executed, where Redis said so earlier.
        let told = match &sent.error {
            Some(error) if frame.first() == Some(&b'-') => error,
            _ => frame,
        };
        let outcome = outcome_of(told);
        if outcome.is_err() {
            self.words = reply::text(told).map(|text| String::from_utf8_lossy(text).into_owned());
        }
        self.complete(sent.request, outcome);
        if self.is_for(key, Purpose::Blocking) {
            if self.idle.len() < BLOCKING_KEPT { self.idle.push(key) } else { self.remove(key) }
        }
    }

    fn pushed(&mut self, frame: &[u8]) {
        let Some(push) = Tree::parse(frame) else { return };
        let Some(mut keys) = self.topics.push(&push) else {
            return self.tell(Event::Push(push));
        };
        // Mostly there is one.
        let last = keys.pop();
        let copies = keys.into_iter().filter_map(|key| Some(Told::Message(key, Tree::parse(frame)?)));
        self.told.extend(copies.chain(last.map(|key| Told::Message(key, push))));
    }

    /// An answer on the channel of subscriptions that is no push: the one asked for first is refused.
    fn subscription_refused(&mut self, key: Key<Channel>, frame: &[u8]) {
        let Some(over) = self.topics.refused().filter(|_| frame.first() == Some(&b'-')) else {
            return self.desync(key, "a reply nobody asked for");
        };
        for tag in over {
            self.tell(Event::Done { tag, outcome: outcome_of(frame) });
        }
        if self.topics.is_empty() {
            self.remove(key);
        }
    }

    pub(super) fn desync(&mut self, key: Key<Channel>, why: &str) {
        log::error!("out of step with the peer: {why}; closing the connection");
        self.drop_connection(key);
        self.words = Some(why.to_owned());
        self.fail_sent(key, Fault::Protocol);
        self.after_loss(key, Fault::Protocol);
    }
}
