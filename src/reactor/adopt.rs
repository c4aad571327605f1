//! Adopted connections: handed over by the program, or by a child that was itself handed over, so that a forked worker
//! with one inherited socket can open more without a path on disk. Accepts nothing.

use super::{Link, Loop, Owner};
use crate::base::error::Error;
use crate::base::key::Key;
use crate::base::limits;
use crate::core::{ChildKey, ChildKind};
use crate::transport::conn::Fill;
use crate::transport::stream::{Peer, Stream};
use rustix::io::Errno;
use rustix::net::SendFlags;
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

    pub(super) fn fill(&mut self, link: &mut Link, buffer: &mut [u8]) -> Fill {
        if !link.hands_over {
            return link.conn.fill(buffer);
        }
        let before = self.fds.len();
        let fill = link.conn.fill_and_take(buffer, &mut self.fds);
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
        let admitted = self.admit(stream, ChildKind::Adopted);
        admitted.map(drop).map_err(|(stream, error)| (stream.into(), error.within(ATTEMPT)))
    }

    pub(super) fn admit(&mut self, stream: Stream, kind: ChildKind) -> Result<Key<Link>, (Stream, Error)> {
        let peer = stream.peer();
        let Some(child) = self.core.child_open(kind, &peer.to_string(), usize::MAX) else {
            let max = self.core.settings().children_max;
            return Err((stream, Error::limit(format!("children_max is {max}"))));
        };
        if let Peer::Unix { pid, uid } = peer {
            self.core.set_child_process(child, uid, pid);
        }
        match self.add_link(stream, Owner::Child(child)) {
            Ok(key) => {
                self.core.set_child_link(child, super::link_of(key));
                let link = self.links.get_mut(key).expect("just inserted");
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
                Err((stream, error))
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
            match self.admit(stream, ChildKind::Adopted) {
                Ok(key) => newcomers.push(key),
                Err((stream, error)) => refuse(&stream, &error),
            }
        }
    }
}

/// Sends the error that Redis sends, and closes the socket for every copy.
pub(super) fn refuse(stream: &Stream, why: &Error) {
    log::debug!(peer = stream.peer().to_string().as_str(); "a child was refused: {why}");
    // A new socket has room for it; a peer that has gone does not need it.
    let _ = rustix::net::send(stream, REFUSAL, SendFlags::NOSIGNAL);
    let _ = stream.shutdown();
}
