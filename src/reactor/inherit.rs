//! Listening sockets that come from another process or go on to one: systemd, the broker before this one, the broker after it.
//! Finds the URL that each is for, gives copies away, and lets the loop go on without its listeners. Reads no environment:
//! the program knows where its sockets come from.

use super::accept::Door;
use super::secrets::is_guarded;
use super::{Loop, doors};
use crate::base::error::{Error, Result};
use crate::config::{ListenUrl, Settings};
use crate::transport::listener::{InheritedSocket, SocketOwner, listening_at};
use std::os::fd::OwnedFd;

/// A listening socket that another process has made, for `Loop::with_listeners`.
#[derive(Debug)]
pub struct InheritedListener {
    /// The socket, which listens. Made non-blocking and closed on exec.
    pub socket: OwnedFd,
    /// The open lock file of a Unix socket, where its former owner has given a copy of it.
    pub lock: Option<OwnedFd>,
    /// Who has the say over it.
    pub owner: SocketOwner,
    /// Whom it is for, where that is known; it is used for nobody else then.
    pub door: Option<Door>,
}

impl InheritedListener {
    /// A URL without options for where it listens; none where no URL can say that.
    pub fn url(&self) -> Option<ListenUrl> {
        listening_at(&self.socket)
    }
}

/// A copy of a listener, for a process that is to go on with it.
#[derive(Debug)]
pub struct ListenerCopy {
    /// Whom it is for.
    pub door: Door,
    /// Its address as a URL without options, with the port that the system chose; as `Loop::listeners` has it.
    pub url: String,
    /// Who has the say over it.
    pub owner: SocketOwner,
    /// Another descriptor of the socket, closed on exec.
    pub socket: OwnedFd,
    /// Another descriptor of its lock file, which stays locked as long as one of them is open. None for a port, and for a
    /// socket of another process.
    pub lock: Option<OwnedFd>,
}

/// Sockets in search of their URLs.
#[derive(Debug, Default)]
pub(super) struct Inheritance {
    /// For each listener that the settings ask for, in their order: the socket that it has already.
    placed: Vec<Option<InheritedSocket>>,
}

impl Inheritance {
    /// Gives each URL its socket. Those that no URL asks for are closed. An error is of a socket that cannot be a listener.
    pub(super) fn place(settings: &Settings, inherited: Vec<InheritedListener>) -> Result<Inheritance> {
        let mut spare = Vec::with_capacity(inherited.len());
        for InheritedListener { socket, lock, owner, door } in inherited {
            spare.push((door, InheritedSocket::new(socket, lock, owner)?));
        }
        let wanted: Vec<(Door, &ListenUrl)> = doors(settings).collect();
        let mut placed: Vec<Option<InheritedSocket>> = wanted.iter().map(|_| None).collect();
        // Those that name their port first: port 0 takes any that is left.
        for any_port in [false, true] {
            for ((door, url), place) in wanted.iter().zip(&mut placed) {
                if spare.is_empty() || place.is_some() {
                    continue;
                }
                let fits = |(of, socket): &(Option<Door>, InheritedSocket)| {
                    of.is_none_or(|of| of == *door) && socket.is_reachable() && socket.is_at(url, any_port)
                };
                *place = spare.iter().position(fits).map(|index| spare.remove(index).1);
            }
        }
        for (_, socket) in spare {
            let why =
                if socket.is_reachable() { "no listener is wanted there" } else { "it has no file any more" };
            log::warn!("{}: the inherited socket is closed: {why}", socket.name());
            socket.discard();
        }
        Ok(Inheritance { placed })
    }

    /// The socket of the listener with this number, counted from 0 in the order of the settings.
    pub(super) fn take(&mut self, number: usize) -> Option<InheritedSocket> {
        self.placed.get_mut(number)?.take()
    }
}

impl Loop {
    /// Copies of the listeners, for the process that goes on with them. They stay this loop's: see `leave_listeners`.
    pub fn listener_copies(&self) -> Result<Vec<ListenerCopy>> {
        let copy = |listener: &super::PolledListener| {
            let url = listener.url();
            let (socket, lock) =
                listener.copies().map_err(Error::attempting(format!("cannot copy the listener {url}")))?;
            Ok(ListenerCopy { door: listener.door, url, owner: listener.owner(), socket, lock })
        };
        self.listeners.iter().map(copy).collect()
    }

    /// Closes the listeners and nothing but this process' copies of them: whoever has others goes on listening there, and has
    /// the files. Connections that wait are left to it. The loop takes no new settings afterwards; children stay.
    pub fn leave_listeners(&mut self) {
        self.keep_listeners();
        self.close_doors();
        self.listeners_left = true;
    }

    /// From now on the loop ends without ending its listeners: whoever has copies of them goes on listening there, and has
    /// the files. A drain accepts who waits at that moment, and leaves those who come later.
    pub fn keep_listeners(&mut self) {
        self.listeners_kept = true;
    }

    /// Takes over what a predecessor has lent: from now on these listeners and their files end with this loop, and have the
    /// options that the settings ask for. An error is of options that could not be set; the listeners serve all the same.
    pub fn own_listeners(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        for listener in &mut self.listeners {
            let guarded = is_guarded(self.core.settings(), &listener.asked);
            // All of them, whatever becomes of one.
            outcome = listener.own(guarded).and(outcome);
        }
        outcome
    }
}
