//! One connected socket, Unix or TCP, and its peer. Buffers and edge-trigger rules belong to its owner.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use super::process::peer_of;
use crate::base::process::UnixCredentials;
use mio::net::{TcpStream, UnixStream};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketType, getpeername, shutdown, sockopt};
use socket2::{SockRef, TcpKeepalive};

/// A TCP child that vanished without closing is noticed after about this time, as in Redis (`tcp-keepalive`).
const CHILD_KEEPALIVE: Duration = Duration::from_secs(300);

/// A non-blocking connection.
#[derive(Debug)]
pub enum Stream {
    /// On this host.
    Unix(UnixStream),
    /// Over the network, or loopback.
    Tcp(TcpStream),
}

impl From<Stream> for OwnedFd {
    fn from(stream: Stream) -> OwnedFd {
        match stream {
            Stream::Unix(stream) => stream.into(),
            Stream::Tcp(stream) => stream.into(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tcp(stream) => stream.as_fd(),
        }
    }
}

/// For `map_err`: the system's words.
fn words(error: Errno) -> String {
    io::Error::from(error).to_string()
}

/// The kind of a connected stream socket, Unix, IPv4 or IPv6; or why it is none.
fn family_of(socket: &OwnedFd) -> Result<AddressFamily, String> {
    match sockopt::socket_type(socket) {
        Ok(SocketType::STREAM) => {}
        Ok(_) => return Err("it is not a stream socket".to_owned()),
        Err(Errno::NOTSOCK) => return Err("it is not a socket".to_owned()),
        Err(error) => return Err(words(error)),
    }
    let family = sockopt::socket_domain(socket).map_err(words)?;
    if ![AddressFamily::UNIX, AddressFamily::INET, AddressFamily::INET6].contains(&family) {
        return Err("it is neither a unix nor a TCP socket".to_owned());
    }
    match getpeername(socket) {
        Ok(_) => Ok(family),
        Err(Errno::NOTCONN) => Err("it is not connected".to_owned()),
        Err(error) => Err(words(error)),
    }
}

impl Stream {
    /// Connects, or fails at once; also if the server's backlog is full (`WouldBlock`): no event would report room.
    pub fn connect_unix(path: &Path) -> io::Result<Stream> {
        UnixStream::connect(path).map(Stream::Unix)
    }

    /// Begins to connect; `is_connected` has the outcome. Small segments are sent at once.
    pub fn connect_tcp(address: SocketAddr) -> io::Result<Stream> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Stream::Tcp(stream))
    }

    /// Takes over a connected socket, which is unchanged if it is refused.
    pub fn adopt(socket: OwnedFd) -> Result<Stream, (OwnedFd, String)> {
        let prepared = family_of(&socket).and_then(|family| {
            rustix::io::ioctl_fionbio(&socket, true).map_err(words)?;
            rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC).map_err(words)?;
            Ok(family)
        });
        let stream = match prepared {
            Ok(AddressFamily::UNIX) => Stream::Unix(socket.into()),
            Ok(_) => Stream::Tcp(socket.into()),
            Err(why) => return Err((socket, why)),
        };
        stream.tune();
        Ok(stream)
    }

    /// Takes over a connection that another process has tuned, as it is; it is closed if it is none.
    pub fn take_over(socket: OwnedFd) -> Result<Stream, String> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(words)?;
        // Of a connection that has been reset meanwhile nobody knows the peer: its first read says so.
        match sockopt::socket_domain(&socket).map_err(words)? {
            AddressFamily::UNIX => Ok(Stream::Unix(socket.into())),
            AddressFamily::INET | AddressFamily::INET6 => Ok(Stream::Tcp(socket.into())),
            _ => Err("it is neither a unix nor a TCP socket".to_owned()),
        }
    }

    /// The options of a child's TCP connection: small segments are sent at once, and a child that vanished is noticed.
    /// Setting them fails only on a connection that has already ended, which its first read will report.
    pub fn tune(&self) {
        if let Stream::Tcp(stream) = self {
            let _ = stream.set_nodelay(true);
            let _ = SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(CHILD_KEEPALIVE));
        }
    }

    /// Shuts down both directions for every copy of the socket, forked ones too. A peer that has already gone
    /// is not a failure.
    pub fn shutdown(&self) -> io::Result<()> {
        match shutdown(self, Shutdown::Both) {
            Err(Errno::NOTCONN) => Ok(()),
            outcome => Ok(outcome?),
        }
    }

    /// Shuts down our direction; the peer reads an end of file and closes its own.
    pub fn shutdown_write(&self) -> io::Result<()> {
        Ok(shutdown(self, Shutdown::Write)?)
    }

    /// The outcome of a connect; false while it is in progress.
    pub fn is_connected(&self) -> io::Result<bool> {
        sockopt::socket_error(self)??;
        match getpeername(self) {
            Err(Errno::NOTCONN) => Ok(false),
            outcome => Ok(outcome.map(|_| true)?),
        }
    }

    /// The peer, as far as the system knows it.
    pub fn peer(&self) -> Peer {
        match self {
            Stream::Unix(stream) => peer_of(stream).map_or(Peer::Unknown, Peer::Unix),
            Stream::Tcp(stream) => stream.peer_addr().map_or(Peer::Unknown, Peer::Tcp),
        }
    }
}

/// The peer of a stream. For logs; it grants nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A process of this host, as it was when it connected.
    Unix(UnixCredentials),
    /// A network address.
    Tcp(SocketAddr),
    /// Already gone.
    Unknown,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Unix(UnixCredentials { pid: 0, uid, .. }) => write!(f, "uid {uid}"),
            Peer::Unix(UnixCredentials { pid, uid, .. }) => write!(f, "pid {pid} uid {uid}"),
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unknown => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_unix_peer_is_known_by_pid_and_uid() {
        let (a, _b) = UnixStream::pair().unwrap();
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let me = Peer::Unix(UnixCredentials { pid: std::process::id() as i32, uid, gid });
        assert_eq!(Stream::Unix(a).peer(), me);
        assert_eq!(me.to_string(), format!("pid {} uid {}", std::process::id(), rustix::process::geteuid()));
        assert_eq!(Peer::Unix(UnixCredentials { pid: 0, uid, gid }).to_string(), format!("uid {uid}"));
        assert_eq!(Peer::Unknown.to_string(), "unknown");
    }

    #[test]
    fn shutdown_ends_every_copy_of_the_socket() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let copy = a.try_clone().unwrap();
        a.set_nonblocking(true).unwrap();
        let stream = Stream::Unix(UnixStream::from_std(a));
        stream.tune();
        stream.shutdown().unwrap();
        stream.shutdown().unwrap();
        let mut byte = [0];
        assert_eq!((&copy).read(&mut byte).unwrap(), 0);
        assert_eq!((&b).read(&mut byte).unwrap(), 0);
    }
}
