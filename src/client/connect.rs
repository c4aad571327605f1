//! A channel's connection: what it begins with, how it is lost, whether there will be another. Sends no request and
//! settles none but those that a loss or a refusal decides.

use super::channel::{Channel, Purpose, State, Step};
use super::mux::{ConnectionAction, Mux};
use super::request::{Event, Fault};
use crate::base::key::Key;
use crate::base::limits::BACKOFF_FIRST;
use crate::resp::{encode, reply};

impl Mux {
    /// Writes what every connection begins with.
    pub(super) fn greet(&mut self, key: Key<Channel>) {
        let settings = &self.profile.settings;
        let Some(channel) = self.channels.get_mut(key) else { return };
        let proto: &[u8] = match channel.purpose {
            Purpose::Messages => b"3",
            _ if settings.client_protocol == 2 => b"2",
            _ => b"3",
        };
        let mut hello: Vec<&[u8]> = vec![b"HELLO", proto];
        if let Some(password) = &settings.client_password {
            let user = settings.client_username.as_deref().unwrap_or("default");
            hello.extend([&b"AUTH"[..], user.as_bytes(), password.expose().as_bytes()]);
        }
        if let Some(name) = &settings.client_name {
            hello.extend([&b"SETNAME"[..], name.as_bytes()]);
        }
        let steps = &mut channel.greeting;
        channel.out.write_unasked(|out| {
            if !self.profile.direct {
                encode::request(out, &[b"BROKER", b"ERRORS"]);
                steps.push_back(Step::Errors);
            }
            encode::request(out, &hello);
            steps.push_back(Step::Hello);
            if let Some(db) = settings.client_db {
                encode::request(out, &[b"SELECT", db.to_string().as_bytes()]);
                steps.push_back(Step::Select);
            }
            if self.profile.direct && matches!(channel.purpose, Purpose::Main | Purpose::Session) {
                encode::request(out, &[b"MULTI"]);
                encode::request(out, &[b"DISCARD"]);
                steps.extend([Step::Multi, Step::Discard]);
            }
            if channel.purpose == Purpose::Main {
                for (_, bytes) in &self.again {
                    out.extend_from_slice(bytes);
                    steps.push_back(Step::Again);
                }
            }
        });
    }

    pub(super) fn greeted(&mut self, key: Key<Channel>, frame: &[u8]) {
        let Some(channel) = self.channels.get_mut(key) else { return };
        let step = channel.greeting.pop_front();
        let refused = frame.first() == Some(&b'-');
        match step {
            Some(Step::Hello | Step::Select) if refused => return self.turned_away(key, frame),
            Some(Step::Hello) if !matches!(frame.first(), Some(b'%' | b'*')) => {
                return self.desync(key, "no answer to HELLO");
            }
            Some(Step::Multi) => channel.no_multi = refused.then(|| frame.into()),
            _ => {}
        }
        if channel.greeting.is_empty() {
            self.ready(key);
        }
    }

    pub(super) fn ready(&mut self, key: Key<Channel>) {
        let Some(channel) = self.channels.get_mut(key) else { return };
        channel.set_state(State::Ready);
        channel.failures = 0;
        match channel.purpose {
            Purpose::Messages => channel.out.write_unasked(|out| self.topics.ask_all(out)),
            Purpose::Main => self.say(None),
            Purpose::Blocking | Purpose::Session => {}
        }
        self.mark(key);
    }

    /// The peer refuses us: what waits has no chance, unless the peer is only too busy or has lost its connection.
    pub(super) fn turned_away(&mut self, key: Key<Channel>, frame: &[u8]) {
        let text =
            reply::text(frame).map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default();
        let temporary = ["BROKER", "ERR max number of clients", "LOADING", "BUSY", "MASTERDOWN"];
        let denied = !temporary.iter().any(|start| text.starts_with(start));
        let protocol = text.starts_with("NOPROTO") || text.starts_with("ERR unknown command");
        let fault = if protocol { Fault::Protocol } else { Fault::Denied };
        self.words = Some(text);
        self.drop_connection(key);
        if denied {
            self.fail_waiting(key, fault);
            if self.is_for(key, Purpose::Messages) {
                self.end_subscriptions(fault);
            }
        }
        self.after_loss(key, if denied { fault } else { Fault::NotSent });
    }

    /// Somebody needs this channel's connection.
    pub(super) fn want(&mut self, key: Key<Channel>) {
        let channel = self.channels.get_mut(key);
        if let Some(channel) = channel.filter(|channel| channel.state == State::Idle) {
            channel.down_since = self.now;
            self.connect(key);
        }
    }

    pub(super) fn connect(&mut self, key: Key<Channel>) {
        let until = self.now + self.profile.settings.client_connect_timeout;
        if let Some(channel) = self.channels.get_mut(key) {
            channel.set_state(State::Connecting { until });
            self.actions.push(ConnectionAction::Connect(key));
        }
    }

    /// Has the driver close what it holds for the channel.
    pub(super) fn drop_connection(&mut self, key: Key<Channel>) {
        if self.channels.get(key).is_some_and(Channel::is_connected) {
            self.actions.push(ConnectionAction::Close(key));
        }
    }

    /// Sent requests get `fault`; those of which nothing has left go back into the line.
    pub(super) fn fail_sent(&mut self, key: Key<Channel>, fault: Fault) {
        let Some(channel) = self.channels.get_mut(key) else { return };
        let (lost, returned) = channel.lose();
        self.waiting_bytes += returned;
        for request in lost {
            self.complete(request, Err(fault));
        }
    }

    pub(super) fn fail_waiting(&mut self, key: Key<Channel>, fault: Fault) {
        while let Some(channel) = self.channels.get_mut(key)
            && let Some(request) = channel.line.front().map(|front| front.request)
        {
            self.waiting_bytes -= channel.drop_front();
            self.complete(request, Err(fault));
        }
    }

    /// The channel has no connection now: whether there will be another depends on what it is for.
    pub(super) fn after_loss(&mut self, key: Key<Channel>, fault: Fault) {
        // Where nothing was sent, this forgets half a greeting.
        self.fail_sent(key, Fault::Lost);
        let Some(channel) = self.channels.get_mut(key) else { return };
        // An attempt that got as far as the greeting was no connection: what waits has waited all along.
        if channel.state == State::Ready {
            channel.down_since = self.now;
        }
        let (purpose, nothing_waits) = (channel.purpose, channel.line.is_idle());
        if purpose == Purpose::Main {
            self.say(Some(fault));
        }
        match purpose {
            Purpose::Session => self.end_for_good(key),
            Purpose::Main if !self.profile.lasting => self.end_for_good(key),
            Purpose::Blocking if nothing_waits => self.remove(key),
            Purpose::Main if !self.profile.eager && nothing_waits => {
                if let Some(channel) = self.channels.get_mut(key) {
                    channel.set_state(State::Idle);
                }
            }
            _ if self.main_channel().is_err() => {
                self.end_subscriptions(Fault::NotSent);
                self.end_channel(key, Fault::NotSent);
            }
            _ => self.pause(key),
        }
    }

    /// Tries again after a pause that grows with every failure; at once after the first.
    fn pause(&mut self, key: Key<Channel>) {
        let max = self.profile.settings.client_reconnect_backoff_max;
        let Some(channel) = self.channels.get_mut(key) else { return };
        let pause = match channel.failures {
            0 => self.rng.u64(0..=BACKOFF_FIRST),
            failures => {
                let pause = (BACKOFF_FIRST << failures.min(16)).min(max);
                self.rng.u64(pause / 2..=pause)
            }
        };
        channel.failures += 1;
        channel.set_state(State::Pausing { until: self.now + pause });
    }

    /// No other connection will be made for it; what waits is told so.
    pub(super) fn end_for_good(&mut self, key: Key<Channel>) {
        self.fail_waiting(key, Fault::NotSent);
        if let Some(channel) = self.channels.get_mut(key) {
            channel.set_state(State::Dead);
        }
        if key == self.main {
            for other in self.channels.keys() {
                // What is connected is told by its own loss.
                let Some(channel) = self.channels.get(other) else { continue };
                match channel.purpose {
                    _ if channel.is_connected() || channel.state == State::Dead => {}
                    Purpose::Session => self.end_for_good(other),
                    Purpose::Messages => self.end_subscriptions(Fault::NotSent),
                    Purpose::Main | Purpose::Blocking => self.end_channel(other, Fault::NotSent),
                }
            }
        }
    }

    pub(super) fn end_channel(&mut self, key: Key<Channel>, fault: Fault) {
        let Some(channel) = self.channels.get(key) else { return };
        for request in channel.requests() {
            self.complete(request, Err(fault));
        }
        self.remove(key);
    }

    pub(super) fn remove(&mut self, key: Key<Channel>) {
        self.drop_connection(key);
        self.idle.retain(|idle| *idle != key);
        if let Some(channel) = self.channels.remove(key) {
            self.waiting_bytes -= channel.line.bytes().len();
        }
    }

    pub(super) fn end_subscriptions(&mut self, fault: Fault) {
        for tag in self.topics.end_all() {
            self.tell(Event::Done { tag, outcome: Err(fault) });
        }
        self.remove(self.messages);
    }
}
