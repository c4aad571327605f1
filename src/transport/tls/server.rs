//! The side that is connected to: what it shows, which clients' certificates it takes, and how sessions are resumed. Accepts
//! nothing.

use super::files::Named;
use crate::base::error::{Error, Result};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerSessionMemoryCache, UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Sessions of TLS 1.2 clients without tickets that are kept for them to resume.
const SESSIONS: usize = 256;

/// A listener's certificate, key and the CAs of its clients.
#[derive(Debug, Clone)]
pub struct ServerTls {
    client_cas: Vec<CertificateDer<'static>>,
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// Reads the files. Blocks meanwhile.
    pub fn load(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Result<ServerTls> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let refuse = |error: rustls::Error| Error::config(format!("TLS cannot be set up: {error}"));
        let builder = builder.with_safe_default_protocol_versions().map_err(refuse)?;
        let mut client_cas = Vec::new();
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let named = Named { setting: "client_ca", path };
                client_cas = named.certificates()?;
                let mut roots = RootCertStore::empty();
                for cert in &client_cas {
                    roots.add(cert.clone()).map_err(|error| named.refuse(error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                builder.with_client_cert_verifier(verifier.build().map_err(|error| named.refuse(error))?)
            }
        };
        let shown = Named { setting: "cert", path: cert };
        let certs = shown.certificates()?;
        let key = Named { setting: "key", path: key };
        let made = builder.with_single_cert(certs, key.key()?);
        let mut config =
            made.map_err(|error| shown.refuse(format!("does not go with {:?}: {error}", key.path)))?;
        config.ticketer = ring::Ticketer::new().map_err(refuse)?;
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        Ok(ServerTls { client_cas, config: Arc::new(config) })
    }

    /// Lets clients resume their sessions of before, unless other CAs vouch for clients now: who resumes shows no
    /// certificate.
    pub fn keep_sessions_of(&mut self, former: &ServerTls) {
        if self.client_cas == former.client_cas {
            let config = Arc::make_mut(&mut self.config);
            config.ticketer = former.config.ticketer.clone();
            config.session_storage = former.config.session_storage.clone();
        }
    }

    pub(super) fn begin(&self) -> io::Result<UnbufferedServerConnection> {
        UnbufferedServerConnection::new(self.config.clone()).map_err(io::Error::other)
    }
}
