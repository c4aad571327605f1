//! TLS in a build without it: no value of these types exists, and URLs that ask for it are refused before they are needed
//! (`config::endpoint`).

use super::{ClientTlsFiles, Opened};
use crate::base::error::{Error, Result};
use crate::base::peer_certificate::PeerCertificate;
use crate::base::secured::Secured;
use crate::config::endpoint::WITHOUT_TLS;
use std::io;
use std::path::Path;

/// How to connect to one server.
#[derive(Debug, Clone)]
pub enum NoClientTls {}

/// A listener's certificate, key and the CAs of its clients.
#[derive(Debug, Clone)]
pub enum NoServerTls {}

/// The keys and the state of one connection.
#[derive(Debug)]
pub enum NoSession {}

impl NoClientTls {
    /// Fails.
    pub fn load(_files: &ClientTlsFiles<'_>, _host: &str) -> Result<NoClientTls> {
        Err(Error::config(WITHOUT_TLS))
    }

    /// Never called.
    pub fn renewed(&self) -> Result<NoClientTls> {
        match *self {}
    }

    /// Never called.
    #[must_use]
    pub fn or_same(self, _former: Option<NoClientTls>) -> NoClientTls {
        self
    }

    /// Never called.
    pub fn server_name(&self) -> String {
        match *self {}
    }
}

impl NoServerTls {
    /// Fails.
    pub fn load(_cert: &Path, _key: &Path, _client_ca: Option<&Path>) -> Result<NoServerTls> {
        Err(Error::config(WITHOUT_TLS))
    }

    /// Never called.
    pub fn keep_sessions_of(&mut self, _former: &NoServerTls) {
        match *self {}
    }
}

impl NoSession {
    /// Never called.
    pub fn client(to: &NoClientTls, _host: Option<&str>) -> io::Result<NoSession> {
        match *to {}
    }

    /// Never called.
    pub fn server(at: &NoServerTls) -> io::Result<NoSession> {
        match *at {}
    }

    pub(in crate::transport) fn is_client(&self) -> bool {
        match *self {}
    }

    pub(in crate::transport) fn is_handshaking(&self) -> bool {
        match *self {}
    }

    /// Never called.
    pub fn secured(&self) -> Secured {
        match *self {}
    }

    /// Never called.
    pub fn peer_certificate(&self) -> Option<PeerCertificate> {
        match *self {}
    }

    pub(in crate::transport) fn open(&mut self, _: &mut [u8], _: &mut [u8], _: &mut Vec<u8>) -> Opened {
        match *self {}
    }

    pub(in crate::transport) fn seal(
        &mut self,
        _: &[u8],
        _: &mut [u8],
        _: &mut Vec<u8>,
    ) -> io::Result<usize> {
        match *self {}
    }

    pub(in crate::transport) fn seal_end(&mut self, _: &mut [u8], _: &mut Vec<u8>) {
        match *self {}
    }
}
