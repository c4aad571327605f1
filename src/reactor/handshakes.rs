//! TLS handshakes, of children that are not yet any and of connections to the upstream, a few steps in each turn; and what of
//! a child's last bytes the socket has not taken when the child ends. Decides nothing about children.
//!
//! Who is in a handshake is no child: the core hears of it when it can be spoken to. Of such *guests* there is a bound, and
//! each has its time. Guests that dawdle give way to newcomers; as long as none does, newcomers wait in the kernel.

use super::accept::PolledListener;
use super::adopt::NotAdmitted;
use super::dial::Caller;
use super::pace::StepKind;
use super::{Link, Loop, Owner, link_of};
use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::base::limits;
use crate::config::ChildProfile;
use crate::core::{ChildKind, Newcomer};
use crate::transport::secure::HandshakeStep;
use crate::transport::stream::Stream;
use crate::transport::tls::{ServerTls, TlsSession};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// A connection that a client has opened, until its handshake is done.
#[derive(Debug)]
struct Guest {
    profile: ChildProfile,
    /// The URL of its listener, for the log.
    at: Arc<str>,
}

/// Handshakes under way, and ends that are.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    guests: HashMap<Key<Link>, Guest>,
    /// Since when each is one, the oldest first; those who are none any more among them.
    since: VecDeque<(Millis, Key<Link>)>,
    /// Links that may get on by a step.
    pub(super) ready: VecDeque<Key<Link>>,
    /// Links of children that have ended, and when to stop waiting for the socket to take the rest; oldest first.
    parting: VecDeque<(Millis, Key<Link>)>,
    /// Handshakes that failed, of children and with the upstream.
    failed: (u64, u64),
}

impl Handshakes {
    /// Milliseconds until something is due.
    pub(super) fn timeout(&self, now: Millis) -> Option<Millis> {
        if !self.ready.is_empty() {
            return Some(0);
        }
        let slow = self.since.front().map(|(since, _)| since + limits::HANDSHAKE_PATIENCE);
        let parting = self.parting.front().map(|(due, _)| *due);
        slow.into_iter().chain(parting).min().map(|due| due.saturating_sub(now))
    }

    /// Whether everybody who has ended has been sent all.
    pub(super) fn have_parted(&self) -> bool {
        self.parting.is_empty()
    }

    /// Whether nobody is in the middle of one.
    pub(super) fn are_over(&self) -> bool {
        self.guests.is_empty()
    }

    /// How many have failed: of children, and with the upstream.
    pub(super) fn failed(&self) -> (u64, u64) {
        self.failed
    }

    /// Guests now.
    pub(super) fn guests(&self) -> usize {
        self.guests.len()
    }

    /// The guest that has been one for longest, and since when.
    fn oldest(&mut self) -> Option<(Millis, Key<Link>)> {
        while let Some((since, key)) = self.since.front().copied() {
            if self.guests.contains_key(&key) {
                return Some((since, key));
            }
            self.since.pop_front();
        }
        None
    }
}

impl Loop {
    /// Until when no further guest may come, if there are as many as there may be and none has dawdled.
    pub(super) fn full_until(&mut self) -> Option<Millis> {
        let (since, _) = self.handshakes.oldest()?;
        let is_full = self.handshakes.guests.len() >= limits::HANDSHAKES_MAX;
        Some(since + limits::HANDSHAKE_FAIR).filter(|until| is_full && self.told < *until)
    }

    /// A client has connected to a listener with TLS.
    pub(super) fn receive_guest(
        &mut self,
        stream: Stream,
        tls: &ServerTls,
        profile: ChildProfile,
        at: Arc<str>,
    ) {
        let session = match TlsSession::server(tls) {
            Ok(session) => session,
            Err(error) => return log::warn!("{at}: TLS cannot be begun: {error}"),
        };
        if self.handshakes.guests.len() >= limits::HANDSHAKES_MAX
            && let Some((_, oldest)) = self.handshakes.oldest()
        {
            self.guest_failed(oldest, "too slow while others waited");
        }
        match self.add_link(stream, Owner::Guest) {
            Ok(key) => {
                if let Some(link) = self.links.get_mut(key) {
                    link.conn.begin_tls(session);
                }
                self.handshakes.guests.insert(key, Guest { profile, at });
                self.handshakes.since.push_back((self.told, key));
            }
            Err((stream, error)) => {
                log::debug!("a connection cannot be watched: {error}");
                let _ = stream.shutdown();
            }
        }
    }

    /// Some steps of those that may get on.
    pub(super) fn shake_hands(&mut self) {
        self.pace.before(StepKind::Handshake);
        for _ in 0..self.handshakes.ready.len().min(limits::HANDSHAKES_TURN) {
            let Some(key) = self.handshakes.ready.pop_front() else { break };
            self.shake(key);
            self.pace.step(StepKind::Handshake);
        }
    }

    fn shake(&mut self, key: Key<Link>) {
        let Some(link) = self.links.get_mut(key) else { return };
        link.listed = false;
        let owner = link.owner;
        if !matches!(owner, Owner::Guest | Owner::Dial(_)) {
            return;
        }
        match link.conn.shake(self.poll.registry(), &mut self.scratch) {
            HandshakeStep::UnderWay => {}
            HandshakeStep::Done => match owner {
                Owner::Dial(caller) => self.dial_done(key, caller),
                _ => self.admit_guest(key),
            },
            HandshakeStep::Failed(why) => match owner {
                Owner::Dial(caller) => return self.dial_not_secured(key, caller, &why),
                _ => return self.guest_failed(key, &why),
            },
        }
        if self.links.get(key).is_some_and(|link| link.conn.unread()) {
            self.list(key);
        }
    }

    fn dial_not_secured(&mut self, key: Key<Link>, caller: Caller, why: &str) {
        self.handshakes.failed.1 += 1;
        self.close_link(key);
        self.dial_broke(caller, &format!("TLS: {why}"));
    }

    fn guest_failed(&mut self, key: Key<Link>, why: &str) {
        let Some(guest) = self.take_guest(key) else { return };
        self.handshakes.failed.0 += 1;
        if let Some(link) = self.links.get(key) {
            let peer = link.conn.stream().peer().to_string();
            log::warn!(peer = peer.as_str(); "{}: TLS handshake with {peer} failed: {why}", guest.at);
        }
        self.close_link(key);
    }

    fn take_guest(&mut self, key: Key<Link>) -> Option<Guest> {
        let guest = self.handshakes.guests.remove(&key)?;
        self.listeners.iter_mut().for_each(PolledListener::retry);
        Some(guest)
    }

    /// The handshake is done: it becomes a child, or is told why not.
    fn admit_guest(&mut self, key: Key<Link>) {
        let Some(guest) = self.take_guest(key) else { return };
        let Some(link) = self.links.get_mut(key) else { return };
        if self.core.is_draining() && !self.draining.is_under_way() {
            return self.close_link(key);
        }
        let Some(session) = link.conn.session() else { return };
        let newcomer = Newcomer {
            kind: ChildKind::Socket,
            peer: link.conn.stream().peer().to_string().into(),
            who: None,
            profile: guest.profile,
            link: link_of(key),
            secured: Some(session.secured()),
            certificate: session.peer_certificate(),
        };
        match self.core.child_admit(newcomer) {
            Ok(child) => link.owner = Owner::Child(child),
            Err(failure) => {
                let why = NotAdmitted::of(&failure, self.core.settings().children_max);
                // A new socket has room for it.
                let _ =
                    link.conn.flush_some(self.poll.registry(), why.reply(), &mut limits::WRITE_TURN.clone());
                self.close_link(key);
            }
        }
    }

    /// Gives up guests that have had their time, and what those who have ended do not take.
    pub(super) fn end_slow(&mut self) {
        while let Some((since, key)) = self.handshakes.oldest()
            && since + limits::HANDSHAKE_PATIENCE <= self.told
        {
            self.guest_failed(key, &format!("not done within {} ms", limits::HANDSHAKE_PATIENCE));
        }
        while let Some((due, key)) = self.handshakes.parting.front().copied()
            && (due <= self.told || self.links.get(key).is_none())
        {
            self.handshakes.parting.pop_front();
            self.close_link(key);
        }
    }

    /// A child has ended: its connection does once the socket has taken what counts as written.
    pub(super) fn part(&mut self, key: Key<Link>) {
        match self.links.get_mut(key).filter(|link| link.conn.has_unsent() && !link.deaf) {
            Some(link) => {
                link.owner = Owner::Parting;
                if self.handshakes.parting.len() >= limits::PARTINGS_MAX
                    && let Some((_, oldest)) = self.handshakes.parting.pop_front()
                {
                    self.close_link(oldest);
                }
                self.handshakes.parting.push_back((self.told + limits::PART_MAX, key));
            }
            None => self.close_link(key),
        }
    }

    /// The socket of one that has ended takes more.
    pub(super) fn go_on_parting(&mut self, key: Key<Link>) {
        let Some(link) = self.links.get_mut(key) else { return };
        let flushed = link.conn.flush_some(self.poll.registry(), &[], &mut 0);
        if flushed.is_err() || !link.conn.has_unsent() {
            self.close_link(key);
        }
    }
}
