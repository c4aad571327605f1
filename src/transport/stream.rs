//! One connected socket, Unix or TCP, and who is at its other end. Reads and writes what it is told;
//! buffers and edge-trigger rules are the business of whoever holds it.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

/// A non-blocking connection.
#[derive(Debug)]
pub enum Stream {
    /// On this host.
    Unix(UnixStream),
    /// Over the network, or loopback.
    Tcp(TcpStream),
}

/// Calls the same method on either kind.
macro_rules! either {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self {
            Stream::Unix($stream) => $call,
            Stream::Tcp($stream) => $call,
        }
    };
}

impl Stream {
    /// Ends both directions for every copy of the socket, forked ones too. A peer that has already gone
    /// is no failure.
    pub fn shutdown(&self) -> io::Result<()> {
        match either!(self, stream => stream.shutdown(Shutdown::Both)) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    /// Ends our direction; the peer reads an end of file and closes its own.
    pub fn shutdown_write(&self) -> io::Result<()> {
        either!(self, stream => stream.shutdown(Shutdown::Write))
    }

    /// Sends small segments at once. Nothing to do for a Unix socket.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        match self {
            Stream::Unix(_) => Ok(()),
            Stream::Tcp(stream) => stream.set_nodelay(nodelay),
        }
    }

    /// The failure of a connect that was under way, if there was one. Reading it clears it.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        either!(self, stream => stream.take_error())
    }

    /// `NotConnected` while a connect is under way.
    pub fn check_connected(&self) -> io::Result<()> {
        either!(self, stream => stream.peer_addr().map(drop))
    }

    /// Who is at the other end, as far as the system can tell.
    pub fn peer(&self) -> Peer {
        match self {
            Stream::Unix(stream) => match rustix::net::sockopt::socket_peercred(stream) {
                Ok(peer) => Peer::Unix { pid: peer.pid.as_raw_nonzero().get(), uid: peer.uid.as_raw() },
                Err(_) => Peer::Unknown,
            },
            Stream::Tcp(stream) => stream.peer_addr().map_or(Peer::Unknown, Peer::Tcp),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        either!(self, stream => stream.read(buf))
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        either!(self, stream => stream.read_vectored(bufs))
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        either!(self, stream => stream.write(buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        either!(self, stream => stream.write_vectored(bufs))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for Stream {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        either!(self, stream => stream.register(registry, token, interests))
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        either!(self, stream => stream.reregister(registry, token, interests))
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        either!(self, stream => stream.deregister(registry))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(self, stream => stream.as_fd())
    }
}

/// Who is at the other end of a stream. For logs and the console; it grants nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A process of this host, as it was when it connected.
    Unix {
        /// Its number in the broker's own pid namespace.
        pid: i32,
        /// Its effective user.
        uid: u32,
    },
    /// A network address.
    Tcp(SocketAddr),
    /// Gone already, or in a pid namespace that the broker cannot see.
    Unknown,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Unix { pid, uid } => write!(f, "pid {pid} uid {uid}"),
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unknown => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unix_peer_is_known_by_pid_and_uid() {
        let (a, _b) = UnixStream::pair().unwrap();
        let me = Peer::Unix { pid: std::process::id() as i32, uid: rustix::process::geteuid().as_raw() };
        assert_eq!(Stream::Unix(a).peer(), me);
        assert_eq!(me.to_string(), format!("pid {} uid {}", std::process::id(), rustix::process::geteuid()));
        assert_eq!(Peer::Unknown.to_string(), "unknown");
    }

    #[test]
    fn shutdown_ends_every_copy_of_the_socket() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let copy = a.try_clone().unwrap();
        a.set_nonblocking(true).unwrap();
        let stream = Stream::Unix(UnixStream::from_std(a));
        stream.set_nodelay(true).unwrap();
        stream.shutdown().unwrap();
        stream.shutdown().unwrap();
        let mut byte = [0];
        assert_eq!((&copy).read(&mut byte).unwrap(), 0);
        assert_eq!((&b).read(&mut byte).unwrap(), 0);
    }
}
