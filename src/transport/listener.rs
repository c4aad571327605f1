//! The sockets children connect to. Binding ensures that of two brokers one wins, that no child connects before the
//! permissions are set, and that only our own files are removed. Accepts, but does not decide about connections.

mod files;
mod inherited;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};
use socket2::{SockAddr, Socket, Type};

use self::files::{Access, OwnFile, SocketFile, SocketPath};
pub use self::inherited::{InheritedSocket, SocketOwner, listening_at};
use super::stream::Stream;
use crate::base::error::{Error, Result};
use crate::base::fds::Held;
use crate::base::fork::Maker;
use crate::base::limits::LISTEN_BACKLOG;
use crate::config::endpoint::{AccessOptions, ListenUrl, RUN_DIR};

/// A bound, listening, non-blocking socket. Dropping it ends listening for every copy of the socket and removes its
/// files; in a forked process, and where another process has the say over the socket, it only closes.
#[derive(Debug)]
pub struct Listener {
    /// Declared before `socket`: see [`Held`].
    _held: Held,
    socket: Socket,
    url: String,
    maker: Maker,
    owner: SocketOwner,
    /// Dropped after listening has ended.
    files: Files,
}

/// What a listener has in the file system.
#[derive(Debug)]
enum Files {
    /// It has a port.
    None,
    /// Dropped in this order: the next broker finds the path either taken or free.
    Own(SocketFile, OwnFile),
    /// The socket here is another process', with all that concerns the file.
    Others(PathBuf),
    /// They have been removed.
    Removed,
}

impl Listener {
    fn new(socket: Socket, url: String, files: Files) -> io::Result<Listener> {
        if !matches!(files, Files::None) {
            // Before anything is sent: what is sent without it has no writer.
            socket.set_passcred(true)?;
        }
        socket.listen(LISTEN_BACKLOG)?;
        let (_held, maker) = (Held::new(&socket), Maker::here());
        Ok(Listener { _held, socket, url, maker, owner: SocketOwner::Own, files })
    }

    /// Binds and listens. Resolves names and touches the file system, blocking.
    /// `guarded`: whoever connects has to show who it is, so that any address will do.
    pub fn bind(url: &ListenUrl, guarded: bool) -> Result<Listener> {
        match url {
            ListenUrl::Unix { path, access, .. } => bind_unix(path, access, Path::new(RUN_DIR)),
            ListenUrl::Tcp { host, port, insecure, .. } => {
                allowed_addresses(host, *port, *insecure || guarded).and_then(bind_tcp)
            }
        }
        .map_err(naming(url))
    }

    /// Whether `bind` would succeed, apart from a broker that already listens there: performs the same steps, except
    /// listening and every step that a listening broker would notice.
    pub fn check(url: &ListenUrl, guarded: bool) -> Result<()> {
        match url {
            ListenUrl::Unix { path, access, .. } => check_unix(path, access, Path::new(RUN_DIR)),
            ListenUrl::Tcp { host, port, insecure, .. } => {
                allowed_addresses(host, *port, *insecure || guarded).and_then(check_tcp)
            }
        }
        .map_err(naming(url))
    }

    /// Watches for connections.
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.socket.as_raw_fd()), token, Interest::READABLE)
    }

    /// The next connection, or `WouldBlock`.
    pub fn accept(&self) -> io::Result<Stream> {
        let socket = accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        let stream = match self.files {
            Files::None => Stream::Tcp(socket.into()),
            _ => Stream::Unix(socket.into()),
        };
        stream.tune();
        Ok(stream)
    }

    /// Its address: no options, and the port that the system chose.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Applies the options of another URL for the same address. On failure the previous ones stay.
    pub fn apply(&self, url: &ListenUrl, guarded: bool) -> Result<()> {
        match url {
            ListenUrl::Unix { access, .. } => match &self.files {
                Files::Own(file, _) => file.set_access(access),
                Files::Others(path) => inherited::expect_access(path, access),
                Files::None | Files::Removed => Ok(()),
            },
            ListenUrl::Tcp { host, port, insecure, .. } => {
                allowed_addresses(host, *port, *insecure || guarded).map(drop)
            }
        }
        .map_err(naming(url))
    }

    /// Removes the socket's files, so that nobody finds it any more; who has connected can still be accepted. A TCP address
    /// stays where it is, and so does what is another process'.
    pub fn retire(&mut self) {
        if self.maker.is_here() && matches!(self.files, Files::Own(..)) {
            self.files = Files::Removed;
        }
    }

    /// Stops watching, and drops it.
    pub fn close(self, registry: &Registry) {
        let _ = registry.deregister(&mut SourceFd(&self.socket.as_raw_fd()));
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.maker.is_here() && self.owner == SocketOwner::Own {
            // Otherwise a forked copy of the socket would still take connections, and no process would accept them.
            let _ = shutdown(&self.socket, Shutdown::Both);
        }
    }
}

/// Puts the address before the text of an error.
fn naming(url: &ListenUrl) -> impl FnOnce(Error) -> Error {
    let name = match url {
        ListenUrl::Unix { path, .. } => ListenUrl::unix(path).to_string(),
        ListenUrl::Tcp { .. } => url.to_string(),
    };
    |error| error.within(name)
}

fn taken(why: impl Into<String>) -> Error {
    Error::system(why).numbered(Errno::ADDRINUSE.raw_os_error())
}

/// The addresses of a name, if children may connect there.
fn allowed_addresses(host: &str, port: u16, insecure: bool) -> Result<Vec<SocketAddr>> {
    let addresses: Vec<SocketAddr> =
        (host, port).to_socket_addrs().map_err(Error::attempting("cannot resolve the name"))?.collect();
    // All of them: the resolver chooses which one is bound.
    let beyond = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback());
    if let Some(address) = beyond
        && !insecure
    {
        return Err(Error::config(format!(
            "{} is not a loopback address: every process that connects there gets the broker's rights to Redis, \
             or its metrics; listen on 127.0.0.1 or a unix:// path, or add ?insecure=1 to allow it; \
             tls:// is allowed with client_ca, too, or with auth = \"users\" or \"passthrough\"",
            address.ip()
        )));
    }
    Ok(addresses)
}

fn bind_tcp(addresses: Vec<SocketAddr>) -> Result<Listener> {
    first_that_binds(addresses, |address| {
        let socket = bound_socket(&address.into())?;
        let bound = socket.local_addr()?.as_socket().unwrap_or(address);
        Listener::new(socket, format!("tcp://{bound}"), Files::None)
    })
}

/// A port in use is `taken`: most likely by the broker that this configuration is meant for.
fn check_tcp(addresses: Vec<SocketAddr>) -> Result<()> {
    first_that_binds(addresses, |address| match bound_socket(&address.into()) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        outcome => outcome.map(drop),
    })
}

fn first_that_binds<T>(addresses: Vec<SocketAddr>, bind: impl Fn(SocketAddr) -> io::Result<T>) -> Result<T> {
    let mut last = Error::system("the name has no address");
    for address in addresses {
        match bind(address) {
            Ok(bound) => return Ok(bound),
            Err(error) => last = Error::attempting(format!("cannot listen on {address}"))(error),
        }
    }
    Err(last)
}

/// A socket with this address, which does not listen yet.
fn bound_socket(address: &SockAddr) -> io::Result<Socket> {
    let socket = Socket::new(address.domain(), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if !address.is_unix() {
        // A restarted broker must not wait until connections of the old one have left TIME_WAIT.
        socket.set_reuse_address(true)?;
    }
    socket.bind(address)?;
    Ok(socket)
}

fn bind_unix(path: &Path, asked: &AccessOptions, creatable: &Path) -> Result<Listener> {
    let place = SocketPath::open(path, creatable)?;
    let lock = place.lock()?;
    place.clear()?;
    let (socket, file) = place.bind(asked)?;
    let url = ListenUrl::unix(path).to_string();
    Listener::new(socket, url, Files::Own(file, lock)).map_err(Error::attempting("cannot listen"))
}

fn check_unix(path: &Path, asked: &AccessOptions, creatable: &Path) -> Result<()> {
    if files::will_be_created(path, creatable) {
        return Access::asked(asked, (0, 0)).map(drop);
    }
    SocketPath::open(path, creatable)?.check(asked)
}

#[cfg(test)]
mod tests;
