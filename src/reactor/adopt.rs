//! Adopted connections: handed over by the program, or by a child that was itself handed over, so that a forked worker
//! with one inherited socket can open more without a path on disk. Accepts nothing.

use super::{Link, Loop, Owner};
use crate::base::clock::Millis;
use crate::base::error::Error;
use crate::base::failure::Failure;
use crate::base::key::Key;
use crate::base::limits;
use crate::config::ChildProfile;
use crate::core::{ChildKey, ChildKind, Newcomer};
use crate::resp::encode;
use crate::transport::conn::Fill;
use crate::transport::stream::{Peer, Stream};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::borrow::Cow;
use std::os::fd::OwnedFd;

/// The error that Redis sends before it closes, too.
const REFUSAL: &[u8] = b"-ERR max number of clients reached\r\n";

/// Descriptors received from adopted children that are to become children.
#[derive(Debug, Default)]
pub(super) struct Handed {
    fds: Vec<OwnedFd>,
    /// How many more may arrive in this turn; the rest waits for the next.
    left: usize,
}

impl Handed {
    pub(super) fn begin_turn(&mut self) {
        self.left = limits::HANDED_TURN;
    }

    pub(super) fn is_full(&self) -> bool {
        self.left == 0
    }

    pub(super) fn fill(&mut self, link: &mut Link, buffer: &mut [u8], now: Millis) -> Fill {
        if !link.hands_over {
            return link.conn.fill(buffer, now);
        }
        let before = self.fds.len();
        let fill = link.conn.fill_and_take(buffer, &mut self.fds, now);
        self.left = self.left.saturating_sub(self.fds.len() - before);
        fill
    }
}

impl Loop {
    /// Makes a connected stream socket a child, unix or TCP: one end of a socketpair, or a connection
    /// accepted elsewhere. A unix one may in turn hand over sockets as ancillary data (SCM_RIGHTS)
    /// of any byte it sends; an empty line (`\r\n`) is a byte that the protocol ignores.
    ///
    /// A refused socket is returned unchanged.
    pub fn adopt(&mut self, socket: OwnedFd) -> Result<(), (OwnedFd, Error)> {
        const ATTEMPT: &str = "cannot adopt a socket";
        if let Err(error) = self.expect_serving(ATTEMPT) {
            return Err((socket, error));
        }
        // The caller's mistake, unlike the other reasons.
        let unfit = |(socket, why): (OwnedFd, String)| (socket, Error::config(why).within(ATTEMPT));
        let stream = Stream::adopt(socket).map_err(unfit)?;
        let admitted = self.admit(stream, ChildKind::Adopted, ChildProfile::default());
        admitted.map(drop).map_err(|(stream, why)| (stream.into(), why.error.within(ATTEMPT)))
    }

    /// Makes it a child of that kind, of a listener that is called so.
    pub(super) fn admit(
        &mut self,
        stream: Stream,
        kind: ChildKind,
        profile: ChildProfile,
    ) -> Result<Key<Link>, (Stream, NotAdmitted)> {
        let peer = stream.peer();
        let who = if let Peer::Unix(who) = peer { Some(who) } else { None };
        let newcomer = Newcomer {
            kind,
            peer: peer.to_string().into(),
            who,
            profile,
            link: usize::MAX,
            secured: None,
            certificate: None,
        };
        let child = match self.core.child_admit(newcomer) {
            Ok(child) => child,
            Err(failure) => {
                return Err((stream, NotAdmitted::of(&failure, self.core.settings().children_max)));
            }
        };
        let own = who.filter(|_| kind.is_accepted());
        self.note_wanted(own.map(|who| (&stream, who.pid)));
        match self.add_link(stream, Owner::Child(child)) {
            Ok(key) => {
                self.core.set_child_link(child, super::link_of(key));
                let link = self.links.get_mut(key).expect("just inserted");
                link.conn.learn_writers(kind.is_accepted());
                if kind == ChildKind::Admin {
                    link.conn.always_ask();
                }
                link.hands_over = kind == ChildKind::Adopted && matches!(link.conn.stream(), Stream::Unix(_));
                Ok(key)
            }
            Err((stream, error)) => {
                self.core.child_gone(child);
                // The poll already has this descriptor, so a child owns it.
                let again = error.raw_os_error() == Some(Errno::EXIST.raw_os_error());
                let error = if again {
                    Error::config("already adopted")
                } else {
                    Error::refused("cannot watch it", &error)
                };
                Err((stream, NotAdmitted::system(error)))
            }
        }
    }

    /// Makes the sockets that `giver` has handed over children; `newcomers` gets their links.
    pub(super) fn take_handed(&mut self, giver: ChildKey, newcomers: &mut Vec<Key<Link>>) {
        for fd in std::mem::take(&mut self.handed.fds) {
            let stream = match Stream::adopt(fd) {
                Ok(stream) => stream,
                Err((_, why)) => {
                    log::debug!("child {giver:?} handed over a descriptor that is closed: {why}");
                    continue;
                }
            };
            if self.closed || self.core.is_draining() && !self.draining.is_under_way() {
                let _ = stream.shutdown();
                continue;
            }
            match self.admit(stream, ChildKind::Adopted, ChildProfile::default()) {
                Ok(key) => newcomers.push(key),
                Err((stream, why)) => refuse(&stream, &why),
            }
        }
    }
}

/// Why a socket does not become a child: what is told to a program that hands it over, and to the child itself.
#[derive(Debug)]
pub(super) struct NotAdmitted {
    error: Error,
    reply: Cow<'static, [u8]>,
}

impl NotAdmitted {
    pub(super) fn of(failure: &Failure, children_max: usize) -> NotAdmitted {
        let mut reply = Vec::new();
        encode::error(&mut reply, failure.line());
        let error = match failure {
            Failure::Limited(limit) => Error::limit(limit.to_string()),
            _ => Error::limit(format!("children_max is {children_max}")),
        };
        NotAdmitted { error, reply: reply.into() }
    }

    /// What the child itself is told.
    pub(super) fn reply(&self) -> &[u8] {
        &self.reply
    }

    fn system(error: Error) -> NotAdmitted {
        NotAdmitted { error, reply: Cow::Borrowed(REFUSAL) }
    }
}

/// Sends the child its error, and closes the socket for every copy.
pub(super) fn refuse(stream: &Stream, why: &NotAdmitted) {
    log::debug!(peer = stream.peer().to_string().as_str(); "a child was refused: {}", why.error);
    // A new socket has room for it; a peer that has gone does not need it.
    let _ = rustix::net::send(stream, &why.reply, SendFlags::NOSIGNAL);
    let _ = stream.shutdown();
}
