//! Where a client connects: reads the URL, looks names up, opens sockets. The one place of the library that reads the
//! environment: `BROKER_ENDPOINT`, when a program names no endpoint itself.

use crate::base::error::{Error, ErrorKind, Result};
use crate::config::{Address, ClientSettings, ListenUrl, Upstream, parse_listen, parse_upstream};
use crate::transport::stream::Stream;
use mio::net::{TcpStream, UnixStream};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{IntoRawFd, OwnedFd};
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
    Given(Option<Stream>),
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

/// Why no client comes of an endpoint and settings.
#[derive(Debug)]
pub enum Unusable {
    /// The endpoint is none.
    Endpoint(Error),
    /// The settings do not fit together, a name is not found, the system refuses.
    Other(Error),
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Config => Unusable::Endpoint(error),
            ErrorKind::System => Unusable::Other(error),
        }
    }
}

type Parsed = std::result::Result<Target, Unusable>;

impl Target {
    /// Reads an endpoint; credentials and db of a `redis://` URL go into `settings` where these have none. Looks a
    /// host's name up, blocking.
    pub(super) fn parse(text: Option<&str>, settings: &mut ClientSettings, own_fd: OwnFd) -> Parsed {
        let from_environment = match text {
            Some(_) => None,
            None => std::env::var(VARIABLE).ok(),
        };
        let text = text.or(from_environment.as_deref());
        let text = text.ok_or_else(|| Error::config(format!("no endpoint, and {VARIABLE} is not set")))?;
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        let at = match scheme {
            Some("fd" | "tcp" | "unix") => None,
            _ => Some(redis(parse_upstream(text)?, settings)),
        };
        if settings.client_username.is_some() && settings.client_password.is_none() {
            // Left out, the client would be somebody else.
            return Err(Unusable::Other(Error::config("a username without a password")));
        }
        let endpoint = match (at, scheme) {
            (Some(address), _) => locate(address)?,
            (None, Some("fd")) => given(text, own_fd)?,
            (None, _) => match parse_listen(text)? {
                ListenUrl::Unix { path, .. } => Endpoint::Unix(path),
                ListenUrl::Tcp { host, port, .. } => locate(Address::Tcp { host, port })?,
            },
        };
        Ok(Target { endpoint, direct: !matches!(scheme, Some("fd" | "tcp" | "unix")) })
    }
}

fn given(text: &str, own_fd: OwnFd) -> Result<Endpoint> {
    let wrong = |why: &str| Error::config(format!("endpoint \"{text}\": {why}"));
    let number = text.strip_prefix("fd://").and_then(|number| number.parse().ok());
    let number = number.ok_or_else(|| wrong("not fd://NUMBER"))?;
    let fd = own_fd(number).ok_or_else(|| wrong("no open descriptor"))?;
    match Stream::adopt(fd) {
        Ok(stream) => Ok(Endpoint::Given(Some(stream))),
        Err((fd, why)) => {
            // The caller's still: it is only taken when a client comes of it.
            let _ = fd.into_raw_fd();
            Err(wrong(&why))
        }
    }
}

/// Where it is; the rest of what the URL says goes into `settings`.
fn redis(upstream: Upstream, settings: &mut ClientSettings) -> Address {
    settings.client_username = settings.client_username.take().or(upstream.username);
    settings.client_password = settings.client_password.take().or(upstream.password);
    settings.client_db = settings.client_db.or(Some(upstream.db).filter(|db| *db > 0));
    upstream.address
}

fn locate(address: Address) -> Result<Endpoint> {
    let (host, port) = match address {
        Address::Unix(path) => return Ok(Endpoint::Unix(path)),
        Address::Tcp { host, port } => (host, port),
    };
    let found = (host.as_str(), port).to_socket_addrs();
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

    /// The same, not yet connected; without the socket that was given, which there is but once.
    pub(super) fn anew(&self) -> Endpoint {
        match self {
            Endpoint::Unix(path) => Endpoint::Unix(path.clone()),
            Endpoint::Tcp { addresses, present } => {
                Endpoint::Tcp { addresses: addresses.clone(), present: *present }
            }
            Endpoint::Given(_) => Endpoint::Given(None),
        }
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
            Endpoint::Given(stream) => {
                let stream = stream.take();
                let lost = || io::Error::other("the socket that was given is lost");
                stream.map(|stream| (stream, false)).ok_or_else(lost)
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
