//! The sockets children connect to. Binding ensures that of two brokers one wins, that no child connects before the
//! permissions are set, and that only our own files are removed. Accepts, but does not decide about connections. `files`
//! is the part of a Unix socket in the file system.

mod files;

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use mio::event::Source;
use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use self::files::{AccessOptions, LockFile, SocketFile, SocketPath};
use super::stream::Stream;
use crate::base::error::{Error, Result};
use crate::base::fds::Held;
use crate::base::fork::Maker;
use crate::base::limits::LISTEN_BACKLOG;
use crate::config::endpoint::{ListenUrl, RUN_DIR};

/// A bound, listening, non-blocking socket. Dropping it ends listening for every copy of the
/// socket and removes its files, except in a forked process, where it only closes.
#[derive(Debug)]
pub struct Listener {
    /// Declared before `socket`: see [`Held`].
    _held: Held,
    socket: Bound,
    url: String,
    maker: Maker,
    /// Dropped after listening has ended: the socket's file first, so that the next broker finds the path
    /// either taken or free.
    files: Option<(SocketFile, LockFile)>,
}

#[derive(Debug)]
enum Bound {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    fn new(socket: Bound, url: String, files: Option<(SocketFile, LockFile)>) -> Listener {
        Listener { _held: Held::new(&socket.as_fd()), socket, url, maker: Maker::here(), files }
    }

    /// Binds and listens. Resolves names and touches the file system, blocking.
    pub fn bind(url: &ListenUrl) -> Result<Listener> {
        match url {
            ListenUrl::Unix { path, .. } => bind_unix(url, path, Path::new(RUN_DIR)),
            ListenUrl::Tcp { host, port, insecure } => bind_tcp(host, *port, *insecure),
        }
        .map_err(|failure| failure.of(url))
    }

    /// Whether `bind` would succeed, apart from a broker that already listens there: performs the same steps, except
    /// listening and every step that a listening broker would notice.
    pub fn check(url: &ListenUrl) -> Result<()> {
        match url {
            ListenUrl::Unix { path, .. } => check_unix(url, path, Path::new(RUN_DIR)),
            ListenUrl::Tcp { host, port, insecure } => check_tcp(host, *port, *insecure),
        }
        .map_err(|failure| failure.of(url))
    }

    /// The next connection, or `WouldBlock`.
    pub fn accept(&self) -> io::Result<Stream> {
        let stream = match &self.socket {
            Bound::Unix(listener) => Stream::Unix(listener.accept()?.0),
            Bound::Tcp(listener) => Stream::Tcp(listener.accept()?.0),
        };
        stream.tune();
        Ok(stream)
    }

    /// Its address: no options, and the port that the system chose.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Applies the options of another URL for the same address. On failure the previous ones stay.
    pub fn apply(&self, url: &ListenUrl) -> Result<()> {
        let outcome = match (url, &self.files) {
            (ListenUrl::Unix { .. }, Some((file, _))) => {
                file.asked(&asked(url)).and_then(|access| file.set_access(&access))
            }
            (ListenUrl::Tcp { host, port, insecure }, _) => {
                allowed_addresses(host, *port, *insecure).map(drop)
            }
            (ListenUrl::Unix { .. }, None) => Ok(()),
        };
        outcome.map_err(|failure| failure.of(url))
    }

    /// Stops listening and removes the socket's files.
    pub fn close(self) {}
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.maker.is_here() {
            // Otherwise a forked copy of the socket would still take connections, and no process would accept them.
            let _ = rustix::net::shutdown(self.as_fd(), rustix::net::Shutdown::Both);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Bound::Unix(listener) => listener.as_fd(),
            Bound::Tcp(listener) => listener.as_fd(),
        }
    }
}

impl Source for Listener {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match &mut self.socket {
            Bound::Unix(listener) => listener.register(registry, token, interests),
            Bound::Tcp(listener) => listener.register(registry, token, interests),
        }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match &mut self.socket {
            Bound::Unix(listener) => listener.reregister(registry, token, interests),
            Bound::Tcp(listener) => listener.reregister(registry, token, interests),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match &mut self.socket {
            Bound::Unix(listener) => listener.deregister(registry),
            Bound::Tcp(listener) => listener.deregister(registry),
        }
    }
}

/// Why a listener could not be bound, without its name.
#[derive(Debug)]
enum ListenFailure {
    /// The URL requires something that is not allowed.
    Refused(String),
    /// The system or another process prevents it.
    System(Error),
}

impl ListenFailure {
    fn system(why: impl Into<String>) -> ListenFailure {
        ListenFailure::System(Error::system(why))
    }

    /// Another process has the address.
    fn taken(why: impl Into<String>) -> ListenFailure {
        ListenFailure::System(Error::system(why).numbered(Errno::ADDRINUSE.raw_os_error()))
    }
}

impl ListenFailure {
    fn of(self, url: &ListenUrl) -> Error {
        let name = match url {
            ListenUrl::Unix { path, .. } => ListenUrl::unix(path).to_string(),
            ListenUrl::Tcp { .. } => url.to_string(),
        };
        match self {
            ListenFailure::Refused(why) => Error::config(format!("{name}: {why}")),
            ListenFailure::System(error) => error.within(name),
        }
    }
}

type Attempt<T> = std::result::Result<T, ListenFailure>;

/// For `map_err`: names the attempt that failed.
fn attempting(what: impl fmt::Display) -> impl FnOnce(io::Error) -> ListenFailure {
    move |error| ListenFailure::System(Error::refused(what, &error))
}

/// The addresses of a name, if children may connect there.
fn allowed_addresses(host: &str, port: u16, insecure: bool) -> Attempt<Vec<SocketAddr>> {
    let addresses: Vec<SocketAddr> =
        (host, port).to_socket_addrs().map_err(attempting("cannot resolve the name"))?.collect();
    // All of them: the resolver chooses which one is bound.
    let beyond = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback());
    if let Some(address) = beyond
        && !insecure
    {
        return Err(ListenFailure::Refused(format!(
            "{} is not a loopback address: every process that connects there gets the broker's rights to Redis; \
             listen on 127.0.0.1 or a unix:// path, or add ?insecure=1 to allow it",
            address.ip()
        )));
    }
    Ok(addresses)
}

fn bind_tcp(host: &str, port: u16, insecure: bool) -> Attempt<Listener> {
    first_that_binds(host, port, insecure, |address| {
        let socket = tcp_socket(address)?;
        socket.listen(LISTEN_BACKLOG)?;
        let listener = TcpListener::from_std(socket.into());
        let url = format!("tcp://{}", listener.local_addr()?);
        Ok(Listener::new(Bound::Tcp(listener), url, None))
    })
}

/// A port in use is `taken`: most likely by the broker that this configuration is meant for.
fn check_tcp(host: &str, port: u16, insecure: bool) -> Attempt<()> {
    first_that_binds(host, port, insecure, |address| match tcp_socket(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        outcome => outcome.map(drop),
    })
}

fn first_that_binds<T>(
    host: &str,
    port: u16,
    insecure: bool,
    mut bind: impl FnMut(SocketAddr) -> io::Result<T>,
) -> Attempt<T> {
    let addresses = allowed_addresses(host, port, insecure)?;
    let mut last = ListenFailure::system("the name has no address");
    for address in addresses {
        match bind(address) {
            Ok(bound) => return Ok(bound),
            Err(error) => last = attempting(format!("cannot listen on {address}"))(error),
        }
    }
    Err(last)
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // A restarted broker must not wait until connections of the old one have left TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn bind_unix(url: &ListenUrl, path: &Path, creatable: &Path) -> Attempt<Listener> {
    let place = SocketPath::open(path, creatable)?;
    let lock = LockFile::acquire(&place)?;
    place.clear()?;
    let (socket, file) = place.bind(&asked(url))?;
    socket.listen(LISTEN_BACKLOG).map_err(attempting("cannot listen"))?;
    let listener = std::os::unix::net::UnixListener::from(OwnedFd::from(socket));
    let socket = Bound::Unix(UnixListener::from_std(listener));
    Ok(Listener::new(socket, ListenUrl::unix(path).to_string(), Some((file, lock))))
}

fn check_unix(url: &ListenUrl, path: &Path, creatable: &Path) -> Attempt<()> {
    if files::will_be_created(path, creatable) {
        return asked(url).access((0, 0)).map(drop);
    }
    SocketPath::open(path, creatable)?.check(&asked(url))
}

/// The access options of a URL.
fn asked(url: &ListenUrl) -> AccessOptions<'_> {
    match url {
        ListenUrl::Unix { mode, user, group, .. } => {
            AccessOptions { mode: *mode, user: user.as_deref(), group: group.as_deref() }
        }
        ListenUrl::Tcp { .. } => AccessOptions { mode: None, user: None, group: None },
    }
}

#[cfg(test)]
mod tests;
