//! The child side without its sockets: requests in, bytes out; bytes in, outcomes out. Owns every request until its
//! outcome is known, and the channels they travel on. Does no I/O and reads no clock; whoever drives it carries out its
//! actions, as the reactor does for the core.

use super::channel::{Channel, OpenRequest, Purpose, State};
use super::guard::{self, Connection};
use super::request::{ClientRequest, Event, Fault, Outcome, Refusal};
use super::topics::{Family, Joined, Subscription, Topics};
use crate::base::bytes::Spares;
use crate::base::clock::Millis;
use crate::base::key::{Arena, Key};
use crate::base::seed::seed;
use crate::command::Setting;
use crate::config::ClientSettings;
use crate::resp::{ReplyScanner, SharedScanner, Tree};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// What every connection begins with, and whom it is made to.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    pub(super) settings: ClientSettings,
    /// Straight to Redis, which is asked whether this user may MULTI; a broker answers for that itself.
    pub(super) direct: bool,
    /// Connects before the first request, and stays connected.
    pub(super) eager: bool,
    /// Lost connections can be made again.
    pub(super) lasting: bool,
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) tag: usize,
    pub(super) channel: Key<Channel>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionAction {
    /// Make a connection for this channel; answer with `connected` or `failed`.
    Connect(Key<Channel>),
    /// Close it, whatever became of it.
    Close(Key<Channel>),
}

/// Something to be told; about a subscription only while it lasts.
#[derive(Debug)]
pub(super) enum Told {
    Event(Event),
    Message(Key<Subscription>, Tree),
}

#[derive(Debug)]
pub(super) struct Mux {
    pub(super) profile: Profile,
    pub(super) now: Millis,
    pub(super) rng: fastrand::Rng,
    pub(super) requests: Arena<Pending>,
    pub(super) channels: Arena<Channel>,
    pub(super) main: Key<Channel>,
    /// Channels of blocking commands that have come to their end.
    pub(super) idle: Vec<Key<Channel>>,
    pub(super) messages: Key<Channel>,
    pub(super) topics: Topics,
    pub(super) deadlines: BinaryHeap<Reverse<(Millis, u64)>>,
    /// Bytes of requests not given to a socket.
    pub(super) waiting_bytes: usize,
    pub(super) told: VecDeque<Told>,
    pub(super) actions: Vec<ConnectionAction>,
    pub(super) dirty: Vec<Key<Channel>>,
    /// For whichever channel is read and not inside a reply.
    pub(super) scanner: SharedScanner<ReplyScanner>,
    pub(super) spares: Spares,
    /// Settings made by accepted commands, to be made again.
    pub(super) again: Vec<(Setting, Box<[u8]>)>,
    /// Whether the main connection was last said to be there; `None` before the first word.
    pub(super) said_connected: Option<bool>,
    pub(super) closed: bool,
    /// The last failure, for people.
    pub(super) words: Option<String>,
}

impl Mux {
    /// For a process behind so many forks: no request, session or subscription is named as one of those before it.
    pub(super) fn new(profile: Profile, now: Millis, forks: u64) -> Mux {
        let (requests, topics) = (Arena::of_copy(forks), Topics::of_copy(forks));
        let mut channels = Arena::of_copy(forks);
        let main = channels.insert(Channel::new(Purpose::Main, now));
        let mut mux = Mux {
            profile,
            now,
            rng: fastrand::Rng::with_seed(seed()),
            requests,
            channels,
            main,
            idle: Vec::new(),
            messages: Key::NONE,
            topics,
            deadlines: BinaryHeap::new(),
            waiting_bytes: 0,
            told: VecDeque::new(),
            actions: Vec::new(),
            dirty: Vec::new(),
            scanner: SharedScanner::default(),
            spares: Spares::default(),
            again: Vec::new(),
            said_connected: None,
            closed: false,
            words: None,
        };
        if mux.profile.eager {
            mux.want(main);
        }
        mux
    }

    /// Takes a request; its outcome comes as an event with `tag`. `timeout` in milliseconds, 0 for none.
    pub(super) fn submit(
        &mut self,
        to: Option<Key<Channel>>,
        request: &ClientRequest<'_>,
        timeout: Millis,
        tag: usize,
    ) -> Result<Key<Pending>, Refusal> {
        let (channel, setting) = self.way(to, request)?;
        let key = self.requests.insert(Pending { tag, channel });
        if timeout > 0 {
            self.deadlines.push(Reverse((self.now + timeout, key.to_bits())));
            self.prune_deadlines();
        }
        if let Some(Channel { line, .. }) = self.channels.get_mut(channel) {
            let (before, left, since) = (line.bytes().len(), request.replies(), self.now);
            let (error, bytes) = (None, None);
            let asked = |end| OpenRequest { request: key, end, left, error, since, setting, bytes };
            line.push_with(|out| request.write(out), asked);
            self.waiting_bytes += line.bytes().len() - before;
        }
        self.want(channel);
        self.mark(channel);
        Ok(key)
    }

    /// The channel a request goes on. Only when nothing speaks against the request is one taken or opened for it.
    fn way(
        &mut self,
        to: Option<Key<Channel>>,
        request: &ClientRequest<'_>,
    ) -> Result<(Key<Channel>, Option<Setting>), Refusal> {
        self.check_open()?;
        request.check().map_err(Refusal::Invalid)?;
        self.check_room(request)?;
        if let Some(session) = to {
            let channel = self.channels.get(session).ok_or(Refusal::Closed("the session is closed"))?;
            if channel.state == State::Dead {
                return Err(Refusal::NotConnected("the session's connection is lost"));
            }
            if let ClientRequest::Command(words) = request {
                guard::session(words).map_err(Refusal::Unsupported)?;
            }
            return Ok((session, None));
        }
        let way = match request {
            ClientRequest::Command(words) => guard::shared(words).map_err(Refusal::Unsupported)?,
            ClientRequest::Transaction(_) => Connection::Shared,
        };
        match way {
            Connection::Blocking => Ok((self.blocking_channel()?, None)),
            Connection::Shared => Ok((self.main_channel()?, None)),
            Connection::Setting(setting) => Ok((self.main_channel()?, Some(setting))),
        }
    }

    fn check_open(&self) -> Result<(), Refusal> {
        if self.closed { Err(Refusal::Closed("the handle is closed")) } else { Ok(()) }
    }

    pub(super) fn main_channel(&self) -> Result<Key<Channel>, Refusal> {
        match self.channels.get(self.main) {
            Some(main) if main.state != State::Dead => Ok(self.main),
            _ => Err(Refusal::NotConnected("the connection is lost and cannot be made again")),
        }
    }

    fn blocking_channel(&mut self) -> Result<Key<Channel>, Refusal> {
        while let Some(key) = self.idle.pop() {
            if self.is_ready(key) {
                return Ok(key);
            }
        }
        self.open(Purpose::Blocking)
    }

    fn open(&mut self, purpose: Purpose) -> Result<Key<Channel>, Refusal> {
        self.main_channel()?;
        let full = |mux: &Mux| mux.channels.len() > mux.profile.settings.client_connections_max;
        while full(self)
            && let Some(kept) = self.idle.pop()
        {
            self.remove(kept);
        }
        if full(self) {
            return Err(Refusal::Full("client_connections_max connections are in use"));
        }
        Ok(self.channels.insert(Channel::new(purpose, self.now)))
    }

    fn check_room(&self, request: &ClientRequest<'_>) -> Result<(), Refusal> {
        let settings = &self.profile.settings;
        if self.requests.len() >= settings.client_requests_max {
            return Err(Refusal::Full("client_requests_max requests have no outcome yet"));
        }
        if self.waiting_bytes > 0 && self.waiting_bytes + request.size() > settings.client_bytes_max {
            return Err(Refusal::Full("client_bytes_max bytes are waiting to be sent"));
        }
        Ok(())
    }

    /// Gives a request up; false if its outcome is known already.
    pub(super) fn give_up(&mut self, key: Key<Pending>, fault: Fault) -> bool {
        let Some(channel) = self.requests.get(key).map(|pending| pending.channel) else { return false };
        self.complete(key, Err(fault));
        if self.is_for(channel, Purpose::Blocking) {
            // Nobody is there for an element that it may still pop: its connection ends with it.
            self.remove(channel);
        }
        true
    }

    pub(super) fn open_session(&mut self) -> Result<Key<Channel>, Refusal> {
        self.check_open()?;
        let key = self.open(Purpose::Session)?;
        self.want(key);
        Ok(key)
    }

    /// Subscribes; pushes come as events with `tag`.
    pub(super) fn subscribe(
        &mut self,
        family: Family,
        name: &[u8],
        tag: usize,
    ) -> Result<Key<Subscription>, Refusal> {
        self.check_open()?;
        if self.channels.get(self.messages).is_none() {
            self.messages = self.open(Purpose::Messages)?;
        }
        let (key, joined) = self.topics.join(family, name, tag);
        match joined {
            Joined::Confirmed(frame) => {
                self.told.extend(Tree::parse(&frame).map(|push| Told::Message(key, push)));
            }
            Joined::Asked => {}
            Joined::First => self.ask(family, name, true),
        }
        self.want(self.messages);
        Ok(key)
    }

    /// Ends a subscription; false if it is over already.
    pub(super) fn unsubscribe(&mut self, key: Key<Subscription>) -> bool {
        let Some((tag, last)) = self.topics.leave(key) else { return false };
        if self.topics.is_empty() {
            self.remove(self.messages);
        } else if let Some((family, name)) = last {
            self.ask(family, &name, false);
        }
        self.tell(Event::Done { tag, outcome: Err(Fault::Canceled) });
        true
    }

    /// Tells the server at once if it can be told; else all is asked for when it can.
    fn ask(&mut self, family: Family, name: &[u8], join: bool) {
        let messages = self.messages;
        if let Some(channel) = self.channels.get_mut(messages)
            && channel.state == State::Ready
        {
            channel.out.write_unasked(|out| self.topics.ask(family, name, join, out));
            self.mark(messages);
        }
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        std::iter::from_fn(|| self.told.pop_front()).find_map(|told| match told {
            Told::Event(event) => Some(event),
            Told::Message(key, push) => Some(Event::Message { tag: self.topics.get(key)?.tag, push }),
        })
    }

    /// Has an event told behind what has happened so far.
    pub(super) fn tell(&mut self, event: Event) {
        self.told.push_back(Told::Event(event));
    }

    /// Ends everything with this fault; nothing is taken any more.
    pub(super) fn end(&mut self, fault: Fault) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        for key in self.channels.keys() {
            self.end_channel(key, fault);
        }
        self.end_subscriptions(fault);
    }

    /// Whether there are requests of which nothing has been sent.
    pub(super) fn is_waiting(&self) -> bool {
        self.channels.iter().any(|(_, channel)| !channel.line.is_idle())
    }

    pub(super) fn is_ready(&self, key: Key<Channel>) -> bool {
        self.channels.get(key).is_some_and(|channel| channel.state == State::Ready)
    }

    pub(super) fn is_for(&self, key: Key<Channel>, purpose: Purpose) -> bool {
        self.channels.get(key).is_some_and(|channel| channel.purpose == purpose)
    }

    /// Tells the time, and lets what is due happen.
    pub(super) fn advance(&mut self, now: Millis) {
        self.now = self.now.max(now);
        while let Some(Reverse((at, bits))) = self.deadlines.peek().copied()
            && at <= self.now
        {
            self.deadlines.pop();
            self.give_up(Key::from_bits(bits), Fault::TimedOut);
        }
        if self.channels_due().is_some_and(|at| at <= self.now) {
            for key in self.channels.keys() {
                self.channel_due(key);
                self.expire(key);
            }
        }
    }

    fn channel_due(&mut self, key: Key<Channel>) {
        let Some(channel) = self.channels.get(key) else { return };
        match channel.state {
            State::Pausing { until } if until <= self.now => self.connect(key),
            State::Connecting { until } | State::Greeting { until } if until <= self.now => {
                self.drop_connection(key);
                self.failed(key, "not connected within client_connect_timeout");
            }
            _ => {}
        }
    }

    /// Requests that have waited too long for a connection.
    fn expire(&mut self, key: Key<Channel>) {
        let patience = self.profile.settings.client_queue_timeout;
        while let Some(channel) = self.channels.get_mut(key)
            && channel.state != State::Ready
            && let Some(front) = channel.line.front()
        {
            let (request, since) = (front.request, front.since.max(channel.down_since));
            if self.requests.get(request).is_some() && since + patience > self.now {
                return;
            }
            self.waiting_bytes -= channel.drop_front();
            self.complete(request, Err(Fault::NotSent));
        }
        let Some(channel) = self.channels.get(key) else { return };
        if channel.purpose == Purpose::Blocking && channel.state != State::Ready && channel.line.is_idle() {
            self.remove(key);
        }
    }

    /// Milliseconds from `now` until something is due.
    pub(super) fn timeout(&self, now: Millis) -> Option<Millis> {
        if !self.told.is_empty() || !self.actions.is_empty() || !self.dirty.is_empty() {
            return Some(0);
        }
        let deadline = self.deadlines.peek().map(|Reverse((at, _))| *at);
        let due = self.channels_due().into_iter().chain(deadline).min();
        due.map(|at| at.saturating_sub(now))
    }

    /// When a channel, or a request that waits in one, has waited long enough.
    fn channels_due(&self) -> Option<Millis> {
        let patience = self.profile.settings.client_queue_timeout;
        let of_channel = |channel: &Channel| {
            let state = match channel.state {
                State::Pausing { until } | State::Connecting { until } | State::Greeting { until } => {
                    Some(until)
                }
                State::Idle | State::Ready | State::Dead => None,
            };
            let front = channel.line.front().filter(|_| channel.state != State::Ready);
            let front = front.map(|front| front.since.max(channel.down_since) + patience);
            state.into_iter().chain(front).min()
        };
        self.channels.iter().filter_map(|(_, channel)| of_channel(channel)).min()
    }

    pub(super) fn take_actions(&mut self) -> Vec<ConnectionAction> {
        std::mem::take(&mut self.actions)
    }

    /// Moves the keys of channels with something to write into `into`.
    pub(super) fn take_dirty(&mut self, into: &mut Vec<Key<Channel>>) {
        for key in &self.dirty {
            if let Some(channel) = self.channels.get_mut(*key) {
                channel.dirty = false;
            }
        }
        into.append(&mut self.dirty);
    }

    pub(super) fn connected(&mut self, key: Key<Channel>) {
        let until = self.now + self.profile.settings.client_connect_timeout;
        if let Some(channel) = self.channels.get_mut(key)
            && matches!(channel.state, State::Connecting { .. })
        {
            channel.set_state(State::Greeting { until });
            self.greet(key);
            self.mark(key);
        }
    }

    /// How long a connection may take to stand, and to be greeted.
    pub(super) fn connect_timeout(&self) -> Millis {
        self.profile.settings.client_connect_timeout
    }

    pub(super) fn failed(&mut self, key: Key<Channel>, why: &str) {
        self.words = Some(why.to_owned());
        self.after_loss(key, Fault::NotSent);
    }

    pub(super) fn lost(&mut self, key: Key<Channel>, why: &str) {
        self.words = Some(why.to_owned());
        self.after_loss(key, Fault::Lost);
    }

    /// What the socket may be given now.
    pub(super) fn outgoing(&mut self, key: Key<Channel>) -> &[u8] {
        self.refuse_transactions(key);
        let Some(channel) = self.channels.get_mut(key) else { return &[] };
        let requests = &self.requests;
        self.waiting_bytes -= channel.refill(|request| requests.get(request).is_some());
        channel.out.bytes().front()
    }

    /// Where this user may not MULTI, transactions get that answer here: see [`Step::Multi`].
    fn refuse_transactions(&mut self, key: Key<Channel>) {
        let Some(channel) = self.channels.get(key) else { return };
        let Some(error) = channel.no_multi.clone() else { return };
        let blocks = channel.line.entries().iter().filter(|waiting| waiting.left > 1);
        for request in blocks.map(|waiting| waiting.request).collect::<Vec<_>>() {
            self.complete(request, Tree::parse(&error).ok_or(Fault::Protocol));
        }
    }

    pub(super) fn wrote(&mut self, key: Key<Channel>, count: usize) {
        if let Some(channel) = self.channels.get_mut(key) {
            channel.out.wrote(count);
        }
    }

    /// Whether a driver that hands descriptors over may do so on this channel now: between two requests.
    pub(super) fn is_between_requests(&self, key: Key<Channel>) -> bool {
        self.channels.get(key).is_some_and(|channel| channel.is_connected() && channel.out.bytes().is_empty())
    }

    pub(super) fn complete(&mut self, key: Key<Pending>, outcome: Outcome) {
        if let Some(pending) = self.requests.remove(key) {
            self.tell(Event::Done { tag: pending.tag, outcome });
        }
    }

    /// Says whether the main connection is there, if that is news.
    pub(super) fn say(&mut self, lost: Option<Fault>) {
        if self.said_connected.replace(lost.is_none()) != Some(lost.is_none()) {
            self.tell(Event::State(lost));
        }
    }

    pub(super) fn mark(&mut self, key: Key<Channel>) {
        if let Some(channel) = self.channels.get_mut(key)
            && channel.is_connected()
            && !channel.dirty
        {
            channel.dirty = true;
            self.dirty.push(key);
        }
    }

    /// Deadlines of requests that are long done would pile up under a long timeout.
    fn prune_deadlines(&mut self) {
        if self.deadlines.len() > 1024 && self.deadlines.len() > 4 * self.requests.len() {
            let requests = &self.requests;
            self.deadlines.retain(|Reverse((_, bits))| requests.get(Key::from_bits(*bits)).is_some());
        }
    }
}
