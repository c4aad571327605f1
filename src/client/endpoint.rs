//! Where a client connects: reads the URL and the files of TLS, opens sockets, has names looked up. The one place of the library
//! that reads the environment: `BROKER_ENDPOINT`, when a program names no endpoint itself; and what rustls-native-certs reads
//! to find the CAs of the system.

use crate::base::clock::Millis;
use crate::base::error::{Error, ErrorKind, Result};
use crate::config::{
    Address, ClientSettings, ListenUrl, Upstream, UpstreamPlace, parse_listen, parse_tls_endpoint,
    parse_upstream,
};
use crate::transport::resolver::{Destination, Found, Resolver};
use crate::transport::stream::Stream;
use crate::transport::tls::{ClientTls, ClientTlsFiles, TlsSession};
use mio::{Registry, Token};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{IntoRawFd, OwnedFd};

/// Read when no endpoint is given.
pub const VARIABLE: &str = "BROKER_ENDPOINT";

/// What an endpoint's text says, in plain memory. `None`: to the other end of a socket that was given.
pub(super) type Place = Option<Whereabouts>;

/// A server, and how it is spoken to.
#[derive(Debug, Clone)]
pub(super) struct Whereabouts {
    target: Destination,
    /// How connections are secured, if they are.
    tls: Option<ClientTls>,
}

impl Whereabouts {
    /// The same in a copy of the process, with nothing that another one could hold locked.
    pub(super) fn renewed(&self) -> Result<Whereabouts> {
        let tls = self.tls.as_ref().map(ClientTls::renewed).transpose()?;
        Ok(Whereabouts { tls, ..self.clone() })
    }
}

#[derive(Debug)]
pub(super) struct Endpoint {
    place: Place,
    resolver: Resolver,
    /// A connected socket, until it is used.
    given: Option<Stream>,
}

/// Where a new connection goes.
#[derive(Debug)]
pub(super) enum Begun {
    /// It stands already.
    Connected(Stream),
    /// To the first of these addresses that answers.
    Tcp(VecDeque<SocketAddr>),
    /// The name is being looked up.
    Later,
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

/// Why no client comes of an endpoint and settings.
#[derive(Debug)]
pub enum Unusable {
    /// The endpoint is none.
    Endpoint(Error),
    /// The settings do not fit together, the system refuses.
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
    /// Reads an endpoint, whose credentials and db go into `settings` where these have none. Reads the files of TLS,
    /// blocking.
    pub(super) fn parse(
        text: Option<&str>,
        settings: &mut ClientSettings,
        own_fd: OwnFd,
    ) -> std::result::Result<Target, Unusable> {
        let from_environment = if text.is_none() { std::env::var(VARIABLE).ok() } else { None };
        let text = text
            .or(from_environment.as_deref())
            .ok_or_else(|| Error::config(format!("no endpoint, and {VARIABLE} is not set")))?;
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        let direct = !matches!(scheme, Some("fd" | "tcp" | "tls" | "unix"));
        let mut by_tls = scheme == Some("tls");
        let upstream = if direct { Some(parse_upstream(text)?) } else { None };
        by_tls |= upstream.as_ref().is_some_and(|upstream| upstream.tls);
        let upstream = upstream.map(|upstream| redis(upstream, settings)).transpose()?;
        if settings.client_username.is_some() && settings.client_password.is_none() {
            // Left out, the client would be somebody else.
            return Err(Unusable::Other(Error::config("a username without a password")));
        }
        let address = match upstream {
            Some(address) => address,
            None if scheme == Some("fd") => {
                let given = Some(given(text, own_fd)?);
                return Ok(Target { place: None, given, direct });
            }
            None if by_tls => parse_tls_endpoint(text)?,
            None => match parse_listen(text)? {
                ListenUrl::Unix { path, .. } => Address::Unix(path),
                ListenUrl::Tcp { host, port, .. } => Address::Tcp { host, port },
            },
        };
        let tls = match &address {
            Address::Tcp { host, .. } if by_tls => {
                // The endpoint is one; it is settings that are wrong.
                Some(ClientTls::load(&tls_files(settings), host).map_err(Unusable::Other)?)
            }
            _ => None,
        };
        let place = Some(Whereabouts { target: Destination::from(&address), tls });
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

fn tls_files(settings: &ClientSettings) -> ClientTlsFiles<'_> {
    ClientTlsFiles {
        prefix: "client_tls_",
        ca: settings.client_tls_ca_file.as_deref(),
        cert: settings.client_tls_cert_file.as_deref(),
        key: settings.client_tls_key_file.as_deref(),
        server_name: settings.client_tls_server_name.as_deref(),
        insecure: settings.client_tls_insecure,
    }
}

/// Where it is; the rest of what the URL says goes into `settings`. A broker follows a master, a client does not.
fn redis(upstream: Upstream, settings: &mut ClientSettings) -> Result<Address> {
    let UpstreamPlace::Server(address) = upstream.place else {
        return Err(Error::config("a client follows no sentinels: name a broker that does"));
    };
    settings.client_username = settings.client_username.take().or(upstream.username);
    settings.client_password = settings.client_password.take().or(upstream.password);
    settings.client_db = settings.client_db.or(Some(upstream.db).filter(|db| *db > 0));
    Ok(address)
}

impl Endpoint {
    /// An endpoint there, not yet connected.
    pub(super) fn new(place: Place, given: Option<Stream>) -> Endpoint {
        Endpoint { place, resolver: Resolver::default(), given }
    }

    /// The TLS of one more connection, if it is to have any.
    pub(super) fn session(&self) -> Option<io::Result<TlsSession>> {
        self.place.as_ref()?.tls.as_ref().map(|tls| TlsSession::client(tls, None))
    }

    pub(super) fn is_lasting(&self) -> bool {
        self.place.is_some()
    }

    /// The URL of where it leads now, as far as that is known; none for a socket that was given.
    pub(super) fn url(&self) -> Option<Option<String>> {
        self.place.as_ref().map(|place| self.resolver.url(&place.target))
    }

    /// Begins to connect.
    pub(super) fn connect(&mut self, now: Millis, registry: &Registry) -> io::Result<Begun> {
        let Some(place) = &self.place else {
            let lost = || io::Error::other("the socket that was given is lost");
            return Ok(Begun::Connected(self.given.take().ok_or_else(lost)?));
        };
        match self.resolver.find(&place.target, now, registry) {
            Found::Unix(path) => Ok(Begun::Connected(Stream::connect_unix(&path)?)),
            Found::Tcp(addresses) => Ok(Begun::Tcp(addresses)),
            Found::Later => Ok(Begun::Later),
            Found::Nowhere(why) => Err(io::Error::other(why)),
        }
    }

    /// That address did not answer: the next one's turn, if there are several, and the name is looked up again.
    pub(super) fn blame(&mut self, address: SocketAddr) {
        if let Some(place) = &self.place {
            self.resolver.blame(&place.target, address);
        }
    }

    /// A connection was lost: a name may lead elsewhere by now.
    pub(super) fn doubt(&mut self) {
        if let Some(place) = &self.place {
            self.resolver.doubt(&place.target);
        }
    }

    /// Why there is no address yet.
    pub(super) fn why(&self) -> String {
        self.place.as_ref().map(|place| self.resolver.why(&place.target)).unwrap_or_default()
    }

    /// The poll reports a socket of a look-up.
    pub(super) fn event(&mut self, token: Token, now: Millis, registry: &Registry) {
        self.resolver.event(token, now, registry);
    }

    /// Gives up name servers that have not answered in time.
    pub(super) fn advance(&mut self, now: Millis, registry: &Registry) {
        self.resolver.advance(now, registry);
    }

    /// Milliseconds until that is due.
    pub(super) fn timeout(&self, now: Millis) -> Option<Millis> {
        self.resolver.timeout(now)
    }

    /// What has come of a look-up since the last call: whoever waits for it may connect now, or is told why not.
    pub(super) fn take_looked_up(&mut self) -> Option<std::result::Result<(), String>> {
        std::iter::from_fn(|| self.resolver.take()).last().map(|ended| ended.outcome)
    }

    /// The end of all look-ups.
    pub(super) fn close(&mut self, registry: &Registry) {
        self.resolver.close(registry);
    }
}
