//! What may be asked of one client, whoever drives it: requests, transactions, sessions, subscriptions. Turns keys into
//! the numbers that callers hold. Owns nothing; whoever lent the mux wakes its driver if `moved`.

use super::channel::Channel;
use super::mux::Mux;
use super::request::{ClientRequest, Event, Fault, Refusal};
use super::topics::Family;
use crate::base::clock::{Clock, Millis};
use crate::base::key::Key;

/// Set in the numbers of subscriptions: no arena grows to such an index.
const SUBSCRIPTION: u64 = 1 << 31;

/// Names a session of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionKey(Key<Channel>);

/// See the module.
#[derive(Debug)]
pub struct Requests<'a> {
    pub(super) mux: &'a mut Mux,
    pub(super) clock: &'a Clock,
    /// Whoever drives the client takes new work.
    pub(super) open: bool,
    /// There is something for the driver to do.
    pub(super) moved: bool,
}

impl Requests<'_> {
    fn begin(&mut self) -> Result<(), Refusal> {
        if !self.open {
            return Err(Refusal::Closed("the loop is closed or drains"));
        }
        self.mux.now = self.mux.now.max(self.clock.now());
        self.moved = true;
        Ok(())
    }

    /// See [`Mux::submit`].
    pub fn submit(
        &mut self,
        to: Option<SessionKey>,
        request: &ClientRequest<'_>,
        timeout: Millis,
        tag: usize,
    ) -> Result<u64, Refusal> {
        self.begin()?;
        Ok(self.mux.submit(to.map(|key| key.0), request, timeout, tag)?.to_bits())
    }

    /// Gives a request or a subscription up, whose last event says `Canceled`; false if it is over already.
    pub fn cancel(&mut self, number: u64) -> bool {
        self.moved = true;
        match number & SUBSCRIPTION {
            0 => self.mux.give_up(Key::from_bits(number), Fault::Canceled),
            _ => self.mux.unsubscribe(Key::from_bits(number & !SUBSCRIPTION)),
        }
    }

    /// Opens a connection for the caller alone.
    pub fn open_session(&mut self) -> Result<SessionKey, Refusal> {
        self.begin()?;
        self.mux.open_session().map(SessionKey)
    }

    /// Closes it; its requests are canceled.
    pub fn close_session(&mut self, session: SessionKey) {
        self.moved = true;
        self.mux.end_channel(session.0, Fault::Canceled);
    }

    /// Subscribes to one name.
    pub fn subscribe(&mut self, family: Family, name: &[u8], tag: usize) -> Result<u64, Refusal> {
        self.begin()?;
        Ok(self.mux.subscribe(family, name, tag)?.to_bits() | SUBSCRIPTION)
    }

    /// The next thing that happened.
    pub fn next_event(&mut self) -> Option<Event> {
        self.mux.next_event()
    }

    /// How many things have happened that `next_event` has not told: what one step delivers.
    pub fn events(&self) -> usize {
        self.mux.told.len()
    }

    /// Whether the connection of requests, or of that session, is there.
    pub fn is_connected(&self, session: Option<SessionKey>) -> bool {
        self.mux.is_ready(session.map_or(self.mux.main, |session| session.0))
    }

    /// Has the state told again, if it is a good one.
    pub fn report_state(&mut self) {
        self.moved = true;
        if self.is_connected(None) {
            self.mux.tell(Event::State(None));
        }
    }

    /// The last failure in words, once.
    pub fn take_words(&mut self) -> Option<String> {
        self.mux.words.take()
    }
}
