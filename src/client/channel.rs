//! One connection of a client, without its socket: what waits to be sent, what was sent and awaits its reply, the
//! greeting at its start. Knows which request a reply belongs to; not what becomes of it.

use super::mux::Pending;
use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::base::pipeline::{Entry, Pipeline};
use crate::command::Setting;
use crate::resp::{Inbox, ReplyScanner};
use std::collections::VecDeque;

/// Bytes handed to the socket's queue at once: what lies there cannot be taken back.
const WINDOW: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Purpose {
    /// All requests that need no connection of their own.
    #[default]
    Main,
    /// One blocking command at a time.
    Blocking,
    /// A caller's own.
    Session,
    /// Subscriptions.
    Messages,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody needs a connection.
    #[default]
    Idle,
    /// The next attempt is due then.
    Pausing {
        until: Millis,
    },
    /// The driver was asked to connect; too late then.
    Connecting {
        until: Millis,
    },
    /// Connected; what every connection begins with is under way. Too late then.
    Greeting {
        until: Millis,
    },
    Ready,
    /// Its connection is gone and there will be no other.
    Dead,
}

/// A step of the greeting: what its reply must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A broker is told that its errors are known here, so that it does not close us for losses; any reply.
    Errors,
    Hello,
    Select,
    /// MULTI straight to Redis: whether this user may. In a block, a refused MULTI would let the rest run one by one.
    Multi,
    /// DISCARD behind it; any reply.
    Discard,
    /// A setting made again; any reply.
    Again,
}

/// A request that has no outcome.
#[derive(Debug)]
pub(super) struct OpenRequest {
    pub(super) request: Key<Pending>,
    pub(super) end: u64,
    /// Replies to come; the last one is the outcome.
    pub(super) left: u32,
    /// The first error among the replies before the last.
    pub(super) error: Option<Box<[u8]>>,
    pub(super) since: Millis,
    pub(super) setting: Option<Setting>,
    /// The request itself, if it makes a setting and has been given to the socket.
    pub(super) bytes: Option<Box<[u8]>>,
}

impl Entry for OpenRequest {
    fn end(&self) -> u64 {
        self.end
    }
}

#[derive(Debug, Default)]
pub(super) struct Channel {
    pub(super) purpose: Purpose,
    pub(super) state: State,
    /// Requests that can still be taken back: nothing of them is ever written from here.
    pub(super) line: Pipeline<OpenRequest>,
    /// Requests given to the socket.
    pub(super) out: Pipeline<OpenRequest>,
    pub(super) inbox: Inbox<ReplyScanner>,
    pub(super) greeting: VecDeque<Step>,
    /// MULTI's error, if this user may not.
    pub(super) no_multi: Option<Box<[u8]>>,
    /// Attempts that failed in a row.
    pub(super) failures: u32,
    /// Since when there has been no connection.
    pub(super) down_since: Millis,
    pub(super) dirty: bool,
}

impl Channel {
    pub(super) fn new(purpose: Purpose, now: Millis) -> Channel {
        Channel { purpose, down_since: now, ..Channel::default() }
    }

    /// Moves the state; all there is to the life of a channel.
    pub(super) fn set_state(&mut self, to: State) {
        let legal = match (self.state, to) {
            (State::Dead, _) => false,
            (_, State::Dead | State::Pausing { .. } | State::Idle) => true,
            (State::Idle | State::Pausing { .. }, State::Connecting { .. }) => true,
            (State::Connecting { .. }, State::Greeting { .. }) => true,
            (State::Greeting { .. }, State::Ready) => true,
            _ => false,
        };
        debug_assert!(legal, "channel {:?} -> {to:?}", self.state);
        self.state = to;
    }

    /// Whether the driver holds a connection for it, or is making one.
    pub(super) fn is_connected(&self) -> bool {
        matches!(self.state, State::Connecting { .. } | State::Greeting { .. } | State::Ready)
    }

    /// Drops the request at the front of the line. Returns its bytes.
    pub(super) fn drop_front(&mut self) -> usize {
        self.line.take_unwritten(|_, bytes| bytes.len()).unwrap_or(0)
    }

    /// Gives the socket's queue what `is_wanted` still knows. Returns the bytes that have left the line.
    pub(super) fn refill(&mut self, is_wanted: impl Fn(Key<Pending>) -> bool) -> usize {
        let before = self.line.bytes().len();
        while self.state == State::Ready && self.out.bytes().len() < WINDOW && !self.line.is_idle() {
            self.line.take_unwritten(|asked, bytes| {
                if is_wanted(asked.request) {
                    let setting = asked.setting.map(|_| bytes.into());
                    self.out.push(bytes, |end| OpenRequest { end, bytes: setting, ..asked });
                }
            });
        }
        before - self.line.bytes().len()
    }

    /// The connection is gone. Hands out the requests of which a byte may have left; the others go back to the front of
    /// the line, in order. Returns also the bytes that went back.
    pub(super) fn lose(&mut self) -> (Vec<Key<Pending>>, usize) {
        let lost = self.out.take_written().iter().map(|sent| sent.request).collect();
        let mut unsent = std::mem::take(&mut self.out);
        let returned = unsent.bytes().len();
        if !unsent.is_idle() {
            let mut behind = std::mem::take(&mut self.line);
            let mut put =
                |asked: OpenRequest, bytes: &[u8]| self.line.push(bytes, |end| OpenRequest { end, ..asked });
            while unsent.take_unwritten(&mut put).is_some() {}
            while behind.take_unwritten(&mut put).is_some() {}
        }
        self.inbox.clear();
        self.greeting.clear();
        (lost, returned)
    }

    pub(super) fn requests(&self) -> Vec<Key<Pending>> {
        self.out.entries().iter().chain(self.line.entries()).map(|asked| asked.request).collect()
    }
}
