//! The broker's loop inside another program, together with that program's own clients, which are children without a
//! socket. Moves bytes between the loop and their muxes; decides nothing about either.

use super::channel::Channel;
use super::mux::{ConnectionAction, Mux, Profile};
use super::request::{Event, Fault};
use super::requests::Requests;
use crate::base::clock::{Clock, Millis};
use crate::base::error::{Error, Result};
use crate::base::key::{Arena, Key};
use crate::config::ClientSettings;
use crate::reactor::{LocalEvent, LocalKey, Loop, Prepared};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Names one of the program's own clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientKey(Key<Inner>);

#[derive(Debug)]
struct Inner {
    mux: Mux,
    locals: HashMap<Key<Channel>, LocalKey>,
}

/// A connection's place: whose it is, and which of its channels.
type ChannelKeys = (Key<Inner>, Key<Channel>);

/// A loop and the clients of the program around it; see the header's `broker_loop_t`.
#[derive(Debug)]
pub struct Embedded {
    lp: Loop,
    profile: Profile,
    clients: Arena<Inner>,
    places: HashMap<LocalKey, ChannelKeys>,
    clock: Clock,
    events: Vec<LocalEvent>,
    /// To be drained within that many milliseconds, once the loop has all own requests.
    drain_when_sent: Option<u64>,
}

impl Embedded {
    /// Around a loop that has not run yet. `queue_timeout` is that of the loop, which answers by itself what has
    /// waited longer: even the greeting waits in it for the upstream, and is not to be given up before.
    pub fn new(lp: Loop, queue_timeout: Millis) -> Embedded {
        let mut settings = ClientSettings::default();
        settings.client_queue_timeout = settings.client_queue_timeout.max(queue_timeout);
        settings.client_connect_timeout = settings.client_queue_timeout;
        Embedded {
            lp,
            profile: Profile { settings, direct: false, eager: false, lasting: true },
            clients: Arena::default(),
            places: HashMap::new(),
            clock: Clock::new(),
            events: Vec::new(),
            drain_when_sent: None,
        }
    }

    /// Makes a client of the program's own.
    pub fn open_client(&mut self) -> ClientKey {
        let mux = Mux::new(self.profile.clone(), self.clock.now(), 0);
        ClientKey(self.clients.insert(Inner { mux, locals: HashMap::new() }))
    }

    /// Ends it; what is still to be told about its requests.
    pub fn close_client(&mut self, client: ClientKey) -> Vec<Event> {
        let Some(mut inner) = self.clients.remove(client.0) else { return Vec::new() };
        inner.mux.end(Fault::Canceled);
        for local in inner.locals.into_values() {
            self.places.remove(&local);
            self.lp.local_close(local);
        }
        self.lp.wake();
        std::iter::from_fn(|| inner.mux.next_event()).collect()
    }

    /// Lends what may be asked of a client; `None` if it has ended.
    pub fn with_requests<R>(
        &mut self,
        client: ClientKey,
        body: impl FnOnce(&mut Requests<'_>) -> R,
    ) -> Option<R> {
        let open = self.is_serving();
        let inner = self.clients.get_mut(client.0)?;
        let mut requests = Requests { mux: &mut inner.mux, clock: &self.clock, open, moved: false };
        let result = body(&mut requests);
        if requests.moved {
            self.lp.wake();
        }
        Some(result)
    }

    /// A turn that never waits; false when nothing is left to do.
    pub fn work(&mut self) -> Result<bool> {
        self.lp.wait_at_most(Some(0))?;
        let goes_on = self.lp.work()?;
        self.settle();
        if !goes_on {
            // Drained: whoever still waits would wait for ever.
            self.clients.values_mut().for_each(|inner| inner.mux.end(Fault::NotSent));
        }
        Ok(goes_on)
    }

    /// Moves the program's own requests and replies on.
    pub fn settle(&mut self) {
        let now = self.clock.now();
        self.clients.values_mut().for_each(|inner| inner.mux.advance(now));
        let clients = self.clients.keys();
        let mut dirty = Vec::new();
        loop {
            self.lp.local_events(&mut self.events);
            for event in std::mem::take(&mut self.events) {
                self.take_event(event, &mut dirty);
            }
            let mut moved = false;
            for key in &clients {
                moved |= self.carry_out(*key, &mut dirty);
            }
            if dirty.is_empty() && !moved {
                break;
            }
            for place in dirty.drain(..) {
                self.write(place);
            }
        }
        if !self.clients.iter().any(|(_, inner)| inner.mux.is_waiting())
            && let Some(timeout_ms) = self.drain_when_sent.take()
        {
            self.lp.drain_within(Some(timeout_ms));
            self.lp.wake();
        }
    }

    fn take_event(&mut self, event: LocalEvent, dirty: &mut Vec<ChannelKeys>) {
        match event {
            LocalEvent::Readable(local) => {
                let Some((client, channel)) = self.places.get(&local) else { return };
                let Some(inner) = self.clients.get_mut(*client) else { return };
                self.lp.local_read(local, |bytes| {
                    inner.mux.input(*channel, bytes);
                    bytes.len()
                });
            }
            LocalEvent::Writable(local) => dirty.extend(self.places.get(&local)),
            LocalEvent::Closed(local) => {
                let Some((client, channel)) = self.places.remove(&local) else { return };
                let Some(inner) = self.clients.get_mut(client) else { return };
                inner.locals.remove(&channel);
                inner.mux.lost(channel, "closed by the broker");
            }
        }
    }

    /// Does what a client's mux asks for, and collects what it has to write; whether it asked for anything.
    fn carry_out(&mut self, client: Key<Inner>, dirty: &mut Vec<ChannelKeys>) -> bool {
        let Some(inner) = self.clients.get_mut(client) else { return false };
        let actions = inner.mux.take_actions();
        for action in &actions {
            match action {
                ConnectionAction::Connect(channel) => match self.lp.local_open() {
                    Some(local) => {
                        inner.locals.insert(*channel, local);
                        self.places.insert(local, (client, *channel));
                        inner.mux.connected(*channel);
                    }
                    None => inner.mux.failed(*channel, "the broker takes no more children"),
                },
                ConnectionAction::Close(channel) => {
                    if let Some(local) = inner.locals.remove(channel) {
                        self.places.remove(&local);
                        self.lp.local_close(local);
                    }
                }
            }
        }
        let mut channels = Vec::new();
        inner.mux.take_dirty(&mut channels);
        dirty.extend(channels.into_iter().map(|channel| (client, channel)));
        !actions.is_empty()
    }

    fn write(&mut self, (client, channel): ChannelKeys) {
        let Some(inner) = self.clients.get_mut(client) else { return };
        let Some(local) = inner.locals.get(&channel).copied() else { return };
        loop {
            let bytes = inner.mux.outgoing(channel);
            if bytes.is_empty() {
                return;
            }
            match self.lp.local_write(local, bytes) {
                0 => return,
                count => inner.mux.wrote(channel, count),
            }
        }
    }

    fn own_timeout(&self) -> Option<u64> {
        let now = self.clock.now();
        self.clients.iter().filter_map(|(_, inner)| inner.mux.timeout(now)).min()
    }

    /// How long to wait for an event before `work`; see [`Loop::patience`].
    pub fn patience(&self) -> Option<u64> {
        [self.lp.patience(), self.own_timeout()].into_iter().flatten().min()
    }

    /// As [`Loop::backend_timeout`], the program's own clients included.
    pub fn timeout(&self) -> Option<u64> {
        [self.lp.backend_timeout(), self.own_timeout()].into_iter().flatten().min()
    }

    /// Whether it is neither closed nor draining.
    pub fn is_serving(&self) -> bool {
        self.drain_when_sent.is_none() && self.lp.is_serving()
    }

    /// See [`Loop::drain_within`]; begins when the loop has got what was submitted before.
    pub fn drain(&mut self, timeout_ms: u64) {
        self.drain_when_sent = Some(timeout_ms);
        self.settle();
        self.lp.wake();
    }

    /// Closes everything; clients are closed by themselves.
    pub fn close(&mut self) {
        self.lp.close();
    }

    /// The loop itself, to look at.
    pub fn reactor(&self) -> &Loop {
        &self.lp
    }

    /// See [`Loop::apply`].
    pub fn apply(&mut self, prepared: Prepared) -> Result<Vec<String>> {
        let outcome = self.lp.apply(prepared);
        self.lp.wake();
        outcome
    }

    /// See [`Loop::take_listeners_changed`].
    pub fn take_listeners_changed(&mut self) -> bool {
        self.lp.take_listeners_changed()
    }

    /// See [`Loop::adopt`].
    pub fn adopt(&mut self, socket: OwnedFd) -> std::result::Result<(), (OwnedFd, Error)> {
        self.lp.adopt(socket)?;
        self.lp.wake();
        Ok(())
    }
}

impl AsRawFd for Embedded {
    fn as_raw_fd(&self) -> RawFd {
        self.lp.as_raw_fd()
    }
}
