//! The listeners in the loop. An accept that the system refuses uses up the listener's edge, so a listener
//! counts as pending until it has said that nobody waits.

use super::{Link, Loop, Owner, link_of};
use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::base::limits;
use crate::core::ChildKind;
use crate::transport::conn::Conn;
use crate::transport::listener::Listener;
use crate::transport::stream::{Peer, Stream};
use mio::event::Source;
use mio::{Interest, Registry, Token};
use rustix::net::SendFlags;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::time::Duration;

/// What Redis says, too, before it closes.
const REFUSAL: &[u8] = b"-ERR max number of clients reached\r\n";
/// A child over TCP that went without a word is noticed after about this long, as in Redis
/// (`tcp-keepalive`).
const CHILD_KEEPALIVE: Duration = Duration::from_secs(300);

/// A listener in the loop.
#[derive(Debug)]
pub(super) struct Door {
    listener: Listener,
    /// An edge has come and nobody has said yet that no one waits.
    pub(super) pending: bool,
    /// The system is short of something; not before this time.
    pause: Option<Millis>,
    /// The shortage has been logged; it lasts until nobody waits, however many get in between.
    short: bool,
}

/// How one accept ended.
enum Accept {
    Taken(Stream, Peer),
    /// That one is gone; there may be another.
    Lost,
    Nobody,
    Refused(io::Error),
}

impl Door {
    pub(super) fn open(mut listener: Listener, registry: &Registry, token: Token) -> io::Result<Door> {
        listener.register(registry, token, Interest::READABLE)?;
        Ok(Door { listener, pending: false, pause: None, short: false })
    }

    pub(super) fn url(&self) -> String {
        self.listener.url()
    }

    /// Stops listening and removes the socket's file.
    pub(super) fn close(mut self, registry: &Registry) {
        // A listener that cannot be deregistered is closed just the same.
        let _ = self.listener.deregister(registry);
        self.listener.close();
    }

    /// Something was given back to the system.
    pub(super) fn retry(&mut self) {
        self.pause = None;
    }

    fn may_accept(&self, now: Millis) -> bool {
        self.pending && self.pause.is_none_or(|until| until <= now)
    }

    fn accept(&self) -> Accept {
        match self.listener.accept() {
            Ok((stream, peer)) => Accept::Taken(stream, peer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Accept::Nobody,
            Err(error) if is_of_the_connection(&error) => Accept::Lost,
            Err(error) => Accept::Refused(error),
        }
    }
}

/// Whether it was that connection that failed (Linux hands its pending error to `accept`), not the listener.
fn is_of_the_connection(error: &io::Error) -> bool {
    use libc::{
        ECONNABORTED, EHOSTDOWN, EHOSTUNREACH, EINTR, ENETDOWN, ENETUNREACH, ENONET, ENOPROTOOPT, EOPNOTSUPP,
        EPROTO,
    };
    matches!(
        error.raw_os_error(),
        Some(
            ECONNABORTED
                | EHOSTDOWN
                | EHOSTUNREACH
                | EINTR
                | ENETDOWN
                | ENETUNREACH
                | ENONET
                | ENOPROTOOPT
                | EOPNOTSUPP
                | EPROTO
        )
    )
}

impl Loop {
    /// Accepts at every listener that has somebody, a bounded number each.
    pub(super) fn accept_pending(&mut self) {
        for index in 0..self.doors.len() {
            if self.doors[index].may_accept(self.told) {
                self.accept_up_to(index, limits::ACCEPT_TURN);
            }
        }
    }

    /// Accepts whoever is waiting now: at most a full backlog.
    pub(super) fn accept_all(&mut self) {
        for index in 0..self.doors.len() {
            self.accept_up_to(index, limits::LISTEN_BACKLOG as usize + 1);
        }
    }

    /// Milliseconds until a listener is to be asked again without an event.
    pub(super) fn accept_timeout(&self, now: Millis) -> Option<Millis> {
        let pending = self.doors.iter().filter(|door| door.pending);
        pending.map(|door| door.pause.map_or(0, |until| until.saturating_sub(now))).min()
    }

    fn accept_up_to(&mut self, index: usize, count: usize) {
        for _ in 0..count {
            let door = &mut self.doors[index];
            match door.accept() {
                Accept::Taken(stream, peer) => {
                    door.pause = None;
                    self.welcome(stream, peer);
                }
                Accept::Lost => {}
                Accept::Nobody => {
                    door.pending = false;
                    if std::mem::take(&mut door.short) {
                        log::info!("{}: everybody who waited has been accepted", door.url());
                    }
                    return;
                }
                Accept::Refused(error) => {
                    door.pending = true;
                    door.pause = Some(self.told + limits::ACCEPT_PAUSE);
                    if !std::mem::replace(&mut door.short, true) {
                        log::warn!("{}: cannot accept: {error}; trying on", door.url());
                    }
                    return;
                }
            }
        }
        self.doors[index].pending = true;
    }

    /// Makes a child of an accepted connection, or says why not.
    fn welcome(&mut self, stream: Stream, peer: Peer) {
        if let Stream::Tcp(tcp) = &stream {
            // Without it the child works just as well until it vanishes.
            let _ = SockRef::from(tcp).set_tcp_keepalive(&TcpKeepalive::new().with_time(CHILD_KEEPALIVE));
        }
        let Some(child) = self.core.child_open(ChildKind::Socket, &peer.to_string(), usize::MAX) else {
            // A fresh socket has room for it; whoever has gone already does not need it.
            let _ = rustix::net::send(&stream, REFUSAL, SendFlags::NOSIGNAL);
            let _ = stream.shutdown();
            return;
        };
        match self.add_link(stream, Owner::Child(child), false) {
            Ok(key) => self.core.set_child_link(child, link_of(key)),
            Err(error) => {
                log::warn!("cannot watch a child ({peer}): {error}");
                self.core.child_gone(child);
            }
        }
    }

    /// Registers a connection under a key of its own.
    pub(super) fn add_link(&mut self, stream: Stream, owner: Owner, dialling: bool) -> io::Result<Key<Link>> {
        let key = self.links.insert(Link { conn: Conn::new(stream), owner, listed: false });
        self.links_peak = self.links_peak.max(self.links.len());
        let token = Token(link_of(key));
        let watched =
            self.links.get_mut(key).map(|link| link.conn.register(self.poll.registry(), token, dialling));
        match watched {
            Some(Err(error)) => {
                self.close_link(key);
                Err(error)
            }
            _ => Ok(key),
        }
    }
}
