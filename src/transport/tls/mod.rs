//! TLS without sockets: what a side of a connection shows and asks for, read from files (`client`, `server`), and one
//! connection's keys and records (`session`). Bytes go in and come out; who reads and writes them is `transport::secure`.
//! In a build without the feature `tls` the same names stand in `without`, and nothing can be made of them.

#[cfg(feature = "tls")]
mod client;
#[cfg(feature = "tls")]
mod files;
#[cfg(feature = "tls")]
mod server;
#[cfg(feature = "tls")]
mod session;
#[cfg(feature = "tls")]
mod words;

#[cfg(not(feature = "tls"))]
mod without;

#[cfg(not(feature = "tls"))]
pub use self::without::{NoClientTls as ClientTls, NoServerTls as ServerTls, NoSession as TlsSession};
#[cfg(feature = "tls")]
pub use self::{client::ClientTls, server::ServerTls, session::TlsSession};

/// What of TLS the settings of one side say: for the upstream `tls_*`, for a client of the library `client_tls_*`.
#[derive(Debug, Clone, Copy)]
pub struct ClientTlsFiles<'a> {
    /// How the keys begin: `tls_` or `client_tls_`; for errors.
    pub prefix: &'static str,
    /// Certificates of the CAs that are trusted, and of servers; the system's CAs when `None`.
    pub ca: Option<&'a std::path::Path>,
    /// Our certificate, with those that lead to its CA behind it.
    pub cert: Option<&'a std::path::Path>,
    /// The key of that certificate.
    pub key: Option<&'a std::path::Path>,
    /// The name that the server's certificate must have, if not the one in the URL.
    pub server_name: Option<&'a str>,
    /// Any certificate will do.
    pub insecure: bool,
}

/// What reading some bytes has led to.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// Bytes of records that are done with.
    pub(super) used: usize,
    /// Bytes of plaintext.
    pub(super) plain: usize,
    /// The peer has said that it sends no more.
    pub(super) closed: bool,
    /// Why this cannot go on.
    pub(super) failure: Option<String>,
}

/// Longest record with its header, bytes: TLS 1.2 lets the ciphertext be 2048 bytes longer than the 16 KiB of plaintext.
pub(super) const RECORD_MAX: usize = 5 + 16 * 1024 + 2048;
