//! The listeners in the loop. A failed accept uses up the listener's edge, so a listener counts as pending until accept
//! has returned that no connection waits. Decides nothing about children.

use super::adopt::refuse;
use super::pace::StepKind;
use super::{FIRST_LISTENER, Link, Loop, Owner, link_of, reserved};
use crate::base::clock::Millis;
use crate::base::error::{self, Error};
use crate::base::key::Key;
use crate::base::limits;
use crate::config::value::Auth;
use crate::config::{ChildProfile, ListenUrl};
use crate::core::ChildKind;
use crate::transport::conn::Conn;
use crate::transport::listener::{InheritedSocket, Listener, SocketOwner};
use crate::transport::stream::Stream;
use crate::transport::tls::ServerTls;
use mio::{Registry, Token};
use std::io;
use std::os::fd::OwnedFd;

/// Whom a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// `listen`
    Children,
    /// `admin_listen`
    Admin,
    /// `metrics_listen`
    Http,
}

impl Door {
    /// Each of them.
    pub const ALL: [Door; 3] = [Door::Children, Door::Admin, Door::Http];

    /// The setting that asks for such listeners.
    pub fn key(self) -> &'static str {
        match self {
            Door::Children => "listen",
            Door::Admin => "admin_listen",
            Door::Http => "metrics_listen",
        }
    }
}

/// A listener in the loop.
#[derive(Debug)]
pub(super) struct PolledListener {
    listener: Listener,
    pub(super) door: Door,
    /// Its URL in the settings.
    pub(super) asked: ListenUrl,
    /// What it shows, where it is one with TLS.
    tls: Option<ServerTls>,
    pub(super) token: Token,
    /// An edge has arrived, and accept has not yet returned that no connection waits.
    pub(super) pending: bool,
    /// The system lacks a resource; not before this time.
    pause: Option<Millis>,
    /// It is in use no more, and goes once those who have connected to it are accepted: so many at most.
    leaves_after: Option<usize>,
    /// The shortage has been logged; it lasts until no connection waits, even if some are accepted in between.
    short: bool,
}

impl PolledListener {
    /// Listens anew, or with the socket that is there. `number` is one that no listener of the loop has had.
    pub(super) fn open(
        (door, url): (Door, &ListenUrl),
        inherited: Option<InheritedSocket>,
        guarded: bool,
        tls: Option<ServerTls>,
        registry: &Registry,
        number: usize,
    ) -> error::Result<PolledListener> {
        if url.tls().is_some() && tls.is_none() {
            return Err(error::Error::system(format!("{url}: its TLS is missing")));
        }
        let listener = match inherited {
            Some(socket) => Listener::inherit(url, guarded, socket)?,
            None => Listener::bind(url, guarded)?,
        };
        let token = reserved(FIRST_LISTENER + number);
        listener.register(registry, token).map_err(Error::attempting(format!("cannot watch {url}")))?;
        Ok(PolledListener {
            listener,
            door,
            asked: url.clone(),
            tls,
            token,
            pending: false,
            pause: None,
            leaves_after: None,
            short: false,
        })
    }

    /// Warns if children need no password here. Called for listeners in use, not for those given up again.
    pub(super) fn warn_if_unguarded(&self, auth: Auth) {
        let is_open = matches!(self.asked, ListenUrl::Tcp { .. }) && auth == Auth::Broker;
        let is_open = is_open && self.asked.tls().is_none_or(|tls| tls.client_ca.is_none());
        if is_open && self.door == Door::Children {
            log::warn!(
                "{}: every process that can connect there has the broker's rights to Redis, on a loopback address \
                 every user of this host: a unix:// path has permissions, and auth = \"passthrough\" or \"users\" \
                 requires passwords, client_ca of tls:// a certificate",
                self.url()
            );
        }
    }

    pub(super) fn apply(&mut self, url: &ListenUrl, guarded: bool) -> error::Result<()> {
        self.listener.apply(url, guarded)?;
        self.asked = url.clone();
        Ok(())
    }

    /// Shows this from now on. Clients can resume their sessions if the same CAs vouch for them.
    pub(super) fn secure(&mut self, tls: Option<ServerTls>) {
        let former = self.tls.take();
        self.tls = tls;
        if let (Some(tls), Some(former)) = (&mut self.tls, &former) {
            tls.keep_sessions_of(former);
        }
    }

    pub(super) fn url(&self) -> String {
        match &self.tls {
            Some(_) => self.listener.url().replacen("tcp:", "tls:", 1),
            None => self.listener.url(),
        }
    }

    pub(super) fn close(self, registry: &Registry) {
        self.listener.close(registry);
    }

    /// Who has the say over its socket.
    pub(super) fn owner(&self) -> SocketOwner {
        self.listener.owner()
    }

    /// Copies of its socket and of its lock.
    pub(super) fn copies(&self) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
        Ok((self.listener.copy()?, self.listener.lock_copy()?))
    }

    pub(super) fn leave(&mut self) {
        self.listener.leave();
    }

    pub(super) fn own(&mut self, guarded: bool) -> error::Result<()> {
        self.listener.own(&self.asked, guarded)
    }

    /// The settings do not name it any more.
    pub(super) fn retire(&mut self) {
        self.listener.retire();
        self.leaves_after = Some(limits::LISTEN_BACKLOG as usize);
        self.look_again();
    }

    /// Whether it is in use.
    pub(super) fn is_in_use(&self) -> bool {
        self.leaves_after.is_none()
    }

    /// Whether it can be what the settings name at this place: a file that has been removed cannot be found again.
    pub(super) fn stands_at(&self, url: &ListenUrl) -> bool {
        let may_stay = self.is_in_use() || matches!(url, ListenUrl::Tcp { .. });
        may_stay && (self.asked == *url || self.asked.same_place(url))
    }

    /// The settings name it, still or again.
    pub(super) fn keep(&mut self) {
        self.leaves_after = None;
    }

    fn has_left(&self) -> bool {
        self.leaves_after.is_some_and(|left| left == 0 || !self.may_accept())
    }

    /// Connections may wait.
    pub(super) fn look_again(&mut self) {
        (self.pending, self.pause) = (true, None);
    }

    /// Whether more may wait that can be accepted.
    pub(super) fn may_accept(&self) -> bool {
        self.pending && self.pause.is_none()
    }

    /// A resource was returned to the system.
    pub(super) fn retry(&mut self) {
        self.pause = None;
    }
}

/// Whether the connection failed (Linux returns its pending error from `accept`), not the listener.
fn is_of_the_connection(error: &io::Error) -> bool {
    use libc::{ECONNABORTED, EHOSTDOWN, EHOSTUNREACH, EINTR, ENETDOWN, ENETUNREACH, ENONET};
    use libc::{ENOPROTOOPT, EOPNOTSUPP, EPROTO};
    let network = [ECONNABORTED, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENONET];
    let others = [EINTR, ENOPROTOOPT, EOPNOTSUPP, EPROTO];
    error.raw_os_error().is_some_and(|os| network.contains(&os) || others.contains(&os))
}

impl Loop {
    /// Accepts at every pending listener, a bounded number of connections each. Returns how many.
    pub(super) fn accept_pending(&mut self) -> usize {
        if self.handover.keeps_out() {
            return 0;
        }
        self.pace.before(StepKind::Accept);
        let mut count = 0;
        for index in 0..self.listeners.len() {
            let PolledListener { pending, pause, .. } = self.listeners[index];
            if pending && pause.is_none_or(|until| until <= self.told) {
                count += self.accept_at(index);
            }
        }
        if !self.draining.is_under_way() {
            let registry = self.poll.registry();
            let gone = self.listeners.extract_if(.., |listener| listener.has_left());
            gone.for_each(|listener| listener.close(registry));
        }
        count
    }

    /// Milliseconds until a listener is to be retried without an event.
    pub(super) fn accept_timeout(&self, now: Millis) -> Option<Millis> {
        if self.handover.keeps_out() {
            return None;
        }
        let pending = self.listeners.iter().filter(|listener| listener.pending);
        pending.map(|listener| listener.pause.map_or(0, |until| until.saturating_sub(now))).min()
    }

    fn accept_at(&mut self, index: usize) -> usize {
        for count in 0..limits::ACCEPT_TURN {
            if count > 0 && self.pace.has_lasted(limits::TURN_ACCEPTS) {
                return count;
            }
            if self.listeners[index].tls.is_some()
                && let Some(until) = self.full_until()
            {
                self.listeners[index].pause = Some(until);
                return count;
            }
            let listener = &mut self.listeners[index];
            match listener.listener.accept() {
                Ok(stream) => {
                    listener.pause = None;
                    listener.leaves_after = listener.leaves_after.map(|left| left.saturating_sub(1));
                    let profile = listener.asked.profile().clone();
                    match listener.door {
                        Door::Http => self.admit_http(stream),
                        Door::Children if let Some(tls) = listener.tls.clone() => {
                            let at = listener.url().into();
                            self.receive_guest(stream, &tls, profile, at);
                        }
                        Door::Children => self.admit_child(stream, ChildKind::Socket, profile),
                        Door::Admin => self.admit_child(stream, ChildKind::Admin, profile),
                    }
                    self.pace.step(StepKind::Accept);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    listener.pending = false;
                    if std::mem::take(&mut listener.short) {
                        log::info!("{}: all waiting connections have been accepted", listener.url());
                    }
                    return count;
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    listener.pause = Some(self.told + limits::ACCEPT_PAUSE);
                    if !std::mem::replace(&mut listener.short, true) {
                        log::warn!("{}: cannot accept: {error}; retrying", listener.url());
                    }
                    return count;
                }
            }
        }
        limits::ACCEPT_TURN
    }

    fn admit_child(&mut self, stream: Stream, kind: ChildKind, profile: ChildProfile) {
        if let Err((stream, why)) = self.admit(stream, kind, profile) {
            refuse(&stream, &why);
        }
    }

    pub(super) fn add_link(
        &mut self,
        stream: Stream,
        owner: Owner,
    ) -> Result<Key<Link>, (Stream, io::Error)> {
        let link = Link {
            conn: Conn::thrifty(stream),
            owner,
            listed: false,
            deaf: false,
            hands_over: false,
            read_lately: false,
            watched: false,
            knows_writer: false,
        };
        let key = self.links.insert(link);
        self.links_peak = self.links_peak.max(self.links.len());
        let connecting = matches!(owner, Owner::Dial(_));
        let link = self.links.get_mut(key).expect("just inserted");
        let registered = link.conn.register(self.poll.registry(), Token(link_of(key)), connecting);
        registered.map(|()| key).map_err(|error| {
            let link = self.links.remove(key).expect("just inserted");
            (link.conn.into_stream(), error)
        })
    }
}
