//! Where a client connects: reads the URL, looks names up, opens sockets. The one place of the library that reads the
//! environment: `BROKER_ENDPOINT`, when a program names no endpoint itself.

use crate::base::error::{Error, Result};
use crate::config::{Address, ClientSettings, ListenUrl, Upstream, parse_listen, parse_upstream};
use crate::transport::stream::Stream;
use mio::net::{TcpStream, UnixStream};
use rustix::fs::OFlags;
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketType};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Read when no endpoint is given.
pub const VARIABLE: &str = "BROKER_ENDPOINT";

/// Where to connect.
#[derive(Debug)]
pub(super) enum Endpoint {
    /// A socket's path.
    Unix(PathBuf),
    /// Addresses of one host; `present` is the one in use.
    Tcp { addresses: Vec<SocketAddr>, present: usize },
    /// A connected socket, until it is used.
    Given(Option<OwnedFd>),
}

/// What an endpoint's text says.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    /// Straight to Redis.
    pub(super) direct: bool,
}

/// A number that the caller says is a connected socket it gives away: turning it into an owner takes `unsafe`, which
/// only the border has.
pub type OwnFd = fn(i32) -> Option<OwnedFd>;

impl Target {
    /// Reads an endpoint; credentials and db of a `redis://` URL go into `settings` where these have none. Looks a
    /// host's name up, blocking.
    pub(super) fn parse(text: Option<&str>, settings: &mut ClientSettings, own_fd: OwnFd) -> Result<Target> {
        let from_environment = match text {
            Some(_) => None,
            None => std::env::var(VARIABLE).ok(),
        };
        let text = text.or(from_environment.as_deref());
        let text = text.ok_or_else(|| Error::config(format!("no endpoint, and {VARIABLE} is not set")))?;
        match text.split_once("://").map(|(scheme, _)| scheme) {
            Some("fd") => given(text, own_fd),
            Some("tcp") | Some("unix") => match parse_listen(text)? {
                ListenUrl::Unix { path, .. } => Ok(Target { endpoint: Endpoint::Unix(path), direct: false }),
                ListenUrl::Tcp { host, port, .. } => {
                    Ok(Target { endpoint: look_up(&host, port)?, direct: false })
                }
            },
            _ => redis(parse_upstream(text)?, settings),
        }
    }
}

fn given(text: &str, own_fd: OwnFd) -> Result<Target> {
    let wrong = |why: &str| Error::config(format!("endpoint \"{text}\": {why}"));
    let number = text.strip_prefix("fd://").and_then(|number| number.parse().ok());
    let number = number.ok_or_else(|| wrong("not fd://NUMBER"))?;
    let fd = own_fd(number).ok_or_else(|| wrong("no open descriptor"))?;
    match prepare(&fd) {
        Ok(()) => Ok(Target { endpoint: Endpoint::Given(Some(fd)), direct: false }),
        Err(error) => {
            // The caller's still: it is only taken when a client comes of it.
            std::mem::forget(fd);
            Err(wrong(&error.to_string()))
        }
    }
}

/// A connected stream socket, made non-blocking and close-on-exec.
fn prepare(fd: &OwnedFd) -> io::Result<()> {
    if rustix::net::sockopt::socket_type(fd)? != SocketType::STREAM {
        return Err(io::Error::other("not a stream socket"));
    }
    rustix::net::getpeername(fd)?;
    rustix::fs::fcntl_setfl(fd, rustix::fs::fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
    rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
    Ok(())
}

fn redis(upstream: Upstream, settings: &mut ClientSettings) -> Result<Target> {
    settings.client_username = settings.client_username.take().or(upstream.username);
    settings.client_password = settings.client_password.take().or(upstream.password);
    settings.client_db = settings.client_db.or(Some(upstream.db).filter(|db| *db > 0));
    let endpoint = match upstream.address {
        Address::Unix(path) => Endpoint::Unix(path),
        Address::Tcp { host, port } => look_up(&host, port)?,
    };
    Ok(Target { endpoint, direct: true })
}

fn look_up(host: &str, port: u16) -> Result<Endpoint> {
    let found = (host, port).to_socket_addrs();
    let found = found.map_err(|error| Error::system(format!("cannot look up {host}: {error}")))?;
    let addresses: Vec<SocketAddr> = found.collect();
    if addresses.is_empty() {
        return Err(Error::system(format!("{host} has no address")));
    }
    Ok(Endpoint::Tcp { addresses, present: 0 })
}

impl Endpoint {
    /// Whether a lost connection can be made again.
    pub(super) fn is_lasting(&self) -> bool {
        !matches!(self, Endpoint::Given(_))
    }

    /// Begins to connect; whether that is still under way.
    pub(super) fn connect(&mut self) -> io::Result<(Stream, bool)> {
        match self {
            Endpoint::Unix(path) => Ok((Stream::Unix(UnixStream::connect(path)?), false)),
            Endpoint::Tcp { addresses, present } => {
                let stream = TcpStream::connect(addresses[*present])?;
                stream.set_nodelay(true)?;
                Ok((Stream::Tcp(stream), true))
            }
            Endpoint::Given(fd) => {
                let fd = fd.take().ok_or_else(|| io::Error::other("the socket that was given is lost"))?;
                Ok((stream_of(fd)?, false))
            }
        }
    }

    /// That address did not answer: the next one's turn, if there are several.
    pub(super) fn blame(&mut self) {
        if let Endpoint::Tcp { addresses, present } = self {
            *present = (*present + 1) % addresses.len();
        }
    }
}

fn stream_of(fd: OwnedFd) -> io::Result<Stream> {
    match rustix::net::sockopt::socket_domain(&fd)? {
        AddressFamily::UNIX => Ok(Stream::Unix(UnixStream::from_std(fd.into()))),
        AddressFamily::INET | AddressFamily::INET6 => Ok(Stream::Tcp(TcpStream::from_std(fd.into()))),
        _ => Err(io::Error::other("neither a unix nor a TCP socket")),
    }
}
