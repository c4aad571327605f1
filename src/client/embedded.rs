//! The broker's loop inside another program, together with that program's own requests, which are children without a
//! socket. Moves bytes between the loop and the mux; decides nothing about either.

use super::channel::Channel;
use super::mux::{Action, Mux, Profile};
use super::request::{Event, Fault, Refusal, Request};
use crate::base::clock::{Clock, Millis};
use crate::base::error::{Error, Result};
use crate::base::key::Key;
use crate::config::{ClientSettings, Settings};
use crate::reactor::{Local, LocalEvent, Loop};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// A loop and the requests of the program around it; see the header's `broker_loop_t`.
#[derive(Debug)]
pub struct Embedded {
    lp: Loop,
    mux: Mux,
    clock: Clock,
    told: Millis,
    locals: HashMap<Key<Channel>, Local>,
    channels: HashMap<Local, Key<Channel>>,
    events: Vec<LocalEvent>,
    /// To be drained, within that many milliseconds if they are given, once the loop has all own requests.
    drain_when_sent: Option<Option<u64>>,
}

impl Embedded {
    /// Around a loop that has not run yet. `queue_timeout` is that of the loop, which answers by itself what has
    /// waited longer: even the greeting waits in it for the upstream, and is not to be given up before.
    pub fn new(lp: Loop, queue_timeout: Millis) -> Embedded {
        let mut settings = ClientSettings::default();
        settings.client_queue_timeout = settings.client_queue_timeout.max(queue_timeout);
        settings.client_connect_timeout = settings.client_queue_timeout;
        let profile = Profile { settings, direct: false, eager: false, lasting: true };
        Embedded {
            lp,
            mux: Mux::new(profile, 0),
            clock: Clock::new(),
            told: 0,
            locals: HashMap::new(),
            channels: HashMap::new(),
            events: Vec::new(),
            drain_when_sent: None,
        }
    }

    /// The loop alone, for a forked copy to get rid of.
    pub fn into_loop(self) -> Loop {
        self.lp
    }

    /// Waits for an event, if it may; see [`Loop::wait`].
    pub fn wait(&mut self, limit: Option<u64>) -> Result<()> {
        let due = self.mux_timeout();
        self.lp.wait_at_most([limit, due].into_iter().flatten().min())
    }

    /// The rest of the turn; false when nothing is left to do.
    pub fn work(&mut self) -> Result<bool> {
        let goes_on = self.lp.work()?;
        self.settle();
        if !goes_on {
            // Drained: whoever still waits would wait for ever.
            self.mux.end(Fault::NotSent);
        }
        Ok(goes_on)
    }

    /// Moves the program's own requests and replies on.
    pub fn settle(&mut self) {
        self.told = self.clock.now();
        self.mux.advance(self.told);
        let mut actions = Vec::new();
        let mut dirty = Vec::new();
        loop {
            self.lp.local_events(&mut self.events);
            for event in std::mem::take(&mut self.events) {
                self.take_event(event, &mut dirty);
            }
            self.mux.take_actions(&mut actions);
            let moved = !actions.is_empty();
            for action in actions.drain(..) {
                self.carry_out(action);
            }
            self.mux.take_dirty(&mut dirty);
            if dirty.is_empty() && !moved {
                break;
            }
            for key in dirty.drain(..) {
                self.write(key);
            }
        }
        if !self.mux.is_waiting()
            && let Some(timeout_ms) = self.drain_when_sent.take()
        {
            self.lp.drain_within(timeout_ms);
            self.lp.wake();
        }
    }

    fn take_event(&mut self, event: LocalEvent, dirty: &mut Vec<Key<Channel>>) {
        match event {
            LocalEvent::Readable(local) => {
                let (mux, channels) = (&mut self.mux, &self.channels);
                let Some(key) = channels.get(&local) else { return };
                self.lp.local_read(local, |bytes| {
                    mux.input(*key, bytes);
                    bytes.len()
                });
            }
            LocalEvent::Writable(local) => dirty.extend(self.channels.get(&local)),
            LocalEvent::Closed(local) => {
                if let Some(key) = self.channels.remove(&local) {
                    self.locals.remove(&key);
                    self.mux.lost(key, "closed by the broker");
                }
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Connect(key) => match self.lp.local_open() {
                Some(local) => {
                    self.locals.insert(key, local);
                    self.channels.insert(local, key);
                    self.mux.connected(key);
                }
                None => self.mux.failed(key, "the broker takes no more children"),
            },
            Action::Close(key) => {
                if let Some(local) = self.locals.remove(&key) {
                    self.channels.remove(&local);
                    self.lp.local_close(local);
                }
            }
        }
    }

    fn write(&mut self, key: Key<Channel>) {
        let Some(local) = self.locals.get(&key).copied() else { return };
        loop {
            let bytes = self.mux.outgoing(key);
            if bytes.is_empty() {
                return;
            }
            match self.lp.local_write(local, bytes) {
                0 => return,
                count => self.mux.wrote(key, count),
            }
        }
    }

    /// Takes a request of the program's own.
    pub fn submit(
        &mut self,
        request: &Request<'_>,
        timeout: Millis,
        tag: usize,
    ) -> std::result::Result<u64, Refusal> {
        if !self.is_serving() {
            return Err(Refusal::Closed("the loop is closed or drains"));
        }
        self.mux.touch(self.clock.now());
        let key = self.mux.submit(None, request, timeout, tag)?;
        self.lp.wake();
        Ok(key.to_bits())
    }

    /// Whether it is neither closed nor draining.
    pub fn is_serving(&self) -> bool {
        self.drain_when_sent.is_none() && self.lp.is_serving()
    }

    /// Gives a request up; false if its outcome is known already.
    pub fn cancel(&mut self, request: u64) -> bool {
        self.lp.wake();
        self.mux.cancel(Key::from_bits(request))
    }

    /// The next thing that happened to one of the program's own requests.
    pub fn next_event(&mut self) -> Option<Event> {
        self.mux.next_event()
    }

    fn mux_timeout(&self) -> Option<u64> {
        let passed = self.clock.now().saturating_sub(self.told);
        self.mux.timeout().map(|timeout| timeout.saturating_sub(passed))
    }

    /// As [`Loop::backend_timeout`], the program's own requests included.
    pub fn timeout(&self) -> Option<u64> {
        [self.lp.backend_timeout(), self.mux_timeout()].into_iter().flatten().min()
    }

    /// See [`Loop::drain_within`]; begins when the loop has got what was submitted before.
    pub fn drain(&mut self, timeout_ms: Option<u64>) {
        self.drain_when_sent = Some(timeout_ms);
        self.settle();
        self.lp.wake();
    }

    /// Cancels the program's own requests, and closes everything.
    pub fn close(&mut self) {
        self.mux.close();
        self.lp.close();
    }

    /// See [`Loop::reload`].
    pub fn reload(&mut self, settings: Settings) -> Result<()> {
        let outcome = self.lp.reload(settings);
        self.lp.wake();
        outcome
    }

    /// See [`Loop::adopt`].
    pub fn adopt(&mut self, socket: OwnedFd) -> std::result::Result<(), (OwnedFd, Error)> {
        self.lp.adopt(socket)?;
        self.lp.wake();
        Ok(())
    }

    /// See [`Loop::listeners`].
    pub fn listeners(&self) -> Vec<String> {
        self.lp.listeners()
    }

    /// See [`Loop::stat`].
    pub fn stat(&self, name: &str) -> Option<u64> {
        self.lp.stat(name)
    }
}

impl AsRawFd for Embedded {
    fn as_raw_fd(&self) -> RawFd {
        self.lp.as_raw_fd()
    }
}
