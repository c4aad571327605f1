//! Where a client connects: reads the URL, looks names up, opens sockets. The one place of the library that reads the
//! environment: `BROKER_ENDPOINT`, when a program names no endpoint itself.

use crate::base::clock::Millis;
use crate::base::error::{Error, ErrorKind, Result};
use crate::config::{Address, ClientSettings, ListenUrl, Upstream, parse_listen, parse_upstream};
use crate::transport::resolver::{self, Found, Lookup, Resolver, Start};
use crate::transport::stream::Stream;
use crate::transport::wake::Wake;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::Arc;

/// Read when no endpoint is given.
pub const VARIABLE: &str = "BROKER_ENDPOINT";

/// What an endpoint's text says, in plain memory. `None`: to the other end of a socket that was given.
pub(super) type Place = Option<(resolver::Destination, Lookup)>;

#[derive(Debug)]
pub(super) struct Endpoint {
    /// A socket's path, or the addresses of a host.
    pub(super) resolver: Option<Resolver>,
    /// A connected socket, until it is used.
    given: Option<Stream>,
}

/// What an endpoint's text says, and the socket it gives.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) place: Place,
    pub(super) given: Option<Stream>,
    pub(super) direct: bool,
}

/// Takes the number of a connected socket that the caller gives away: `unsafe`, which only the border has.
pub type OwnFd = fn(i32) -> Option<OwnedFd>;

/// What only the border can do.
#[derive(Debug, Clone, Copy)]
pub struct Border {
    /// Takes a descriptor.
    pub own_fd: OwnFd,
    /// Starts a thread that looks a name up, once a connection has failed or was lost.
    pub start: Start,
}

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
            ErrorKind::System | ErrorKind::Limit => Unusable::Other(error),
        }
    }
}

impl Target {
    /// Reads an endpoint, whose credentials and db go into `settings` where these have none. Looks a name up, blocking.
    pub(super) fn parse(
        text: Option<&str>,
        settings: &mut ClientSettings,
        border: Border,
    ) -> std::result::Result<Target, Unusable> {
        let from_environment = if text.is_none() { std::env::var(VARIABLE).ok() } else { None };
        let text = text
            .or(from_environment.as_deref())
            .ok_or_else(|| Error::config(format!("no endpoint, and {VARIABLE} is not set")))?;
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        let direct = !matches!(scheme, Some("fd" | "tcp" | "unix"));
        let upstream = if direct { Some(redis(parse_upstream(text)?, settings)) } else { None };
        if settings.client_username.is_some() && settings.client_password.is_none() {
            // Left out, the client would be somebody else.
            return Err(Unusable::Other(Error::config("a username without a password")));
        }
        let address = match upstream {
            Some(address) => address,
            None if scheme == Some("fd") => {
                let given = Some(given(text, border.own_fd)?);
                return Ok(Target { place: None, given, direct });
            }
            None => match parse_listen(text)? {
                ListenUrl::Unix { path, .. } => Address::Unix(path),
                ListenUrl::Tcp { host, port, .. } => Address::Tcp { host, port },
            },
        };
        let lookup = Lookup::AfterFailure(border.start);
        let place = Some((resolver::Destination::find(&address, lookup)?, lookup));
        Ok(Target { place, given: None, direct })
    }
}

fn given(text: &str, own_fd: OwnFd) -> Result<Stream> {
    let wrong = |why: &str| Error::config(format!("endpoint \"{text}\": {why}"));
    let number = text.strip_prefix("fd://").and_then(|number| number.parse().ok());
    let number = number.ok_or_else(|| wrong("not fd://NUMBER"))?;
    let fd = own_fd(number).ok_or_else(|| wrong("no open descriptor"))?;
    match Stream::adopt(fd) {
        Ok(stream) => Ok(stream),
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

impl Endpoint {
    /// An endpoint there, not yet connected; `waker` tells of what is found out about a name.
    pub(super) fn new(place: Place, given: Option<Stream>, waker: &Arc<Wake>) -> Endpoint {
        let resolver = place.map(|(target, lookup)| Resolver::new(target, lookup, waker.clone()));
        Endpoint { resolver, given }
    }

    pub(super) fn is_lasting(&self) -> bool {
        self.resolver.is_some()
    }

    /// Begins to connect; with the address if that is still under way.
    pub(super) fn connect(&mut self, now: Millis) -> io::Result<(Stream, Option<SocketAddr>)> {
        let Some(resolver) = &mut self.resolver else {
            let lost = || io::Error::other("the socket that was given is lost");
            return Ok((self.given.take().ok_or_else(lost)?, None));
        };
        match resolver.find(now) {
            Found::Unix(path) => Ok((Stream::connect_unix(&path)?, None)),
            Found::Tcp(address) => {
                let begun = Stream::connect_tcp(address).inspect_err(|_| resolver.blame(address));
                Ok((begun?, Some(address)))
            }
            // A name has an address from the beginning, so this is no case of its own.
            Found::Later => Err(io::Error::other("the name is being looked up")),
            Found::Nowhere(why) => Err(io::Error::other(why)),
        }
    }

    /// That address did not answer: the next one's turn, if there are several, and the name is looked up again.
    pub(super) fn blame(&mut self, address: SocketAddr) {
        if let Some(resolver) = &mut self.resolver {
            resolver.blame(address);
        }
    }

    /// A connection was lost: a name may lead elsewhere by now.
    pub(super) fn doubt(&mut self) {
        if let Some(resolver) = &mut self.resolver {
            resolver.doubt();
        }
    }

    /// Takes what a thread has found out about the name.
    pub(super) fn take_resolved(&mut self) {
        let Some(resolver) = &mut self.resolver else { return };
        while let Some(outcome) = resolver.take() {
            if let Err(error) = outcome {
                log::warn!("endpoint: {error}; going on with the address found before");
            }
        }
    }
}
