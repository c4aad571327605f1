//! The side that connects: whom it trusts, what it shows, and the sessions it may resume. Opens no connection.

use super::ClientTlsFiles;
use super::files::Named;
use crate::base::error::{Error, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{UnbufferedClientConnection, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::io;
use std::sync::Arc;

/// How to connect to one server. A copy shares the sessions that may be resumed.
#[derive(Debug, Clone)]
pub struct ClientTls {
    made_of: Arc<Material>,
    config: Arc<ClientConfig>,
}

/// What the files and settings say, in plain memory.
#[derive(Debug, PartialEq, Eq)]
struct Material {
    trusted: Trusted,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    name: ServerName<'static>,
    /// The name is not that of the URL, but one that was set.
    is_name_set: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Trusted {
    /// CAs of the system.
    System(Vec<CertificateDer<'static>>),
    /// CAs and servers of `tls_ca_file`.
    File(Vec<CertificateDer<'static>>),
    Anybody,
}

impl ClientTls {
    /// Reads the files; `host` is the one of the URL. Blocks meanwhile.
    pub fn load(files: &ClientTlsFiles<'_>, host: &str) -> Result<ClientTls> {
        let setting = |name: &str| format!("{}{name}", files.prefix);
        let (ca, cert, key) = (setting("ca_file"), setting("cert_file"), setting("key_file"));
        let trusted = match files.ca {
            _ if files.insecure => Trusted::Anybody,
            Some(path) => Trusted::File(Named { setting: &ca, path }.certificates()?),
            None => Trusted::System(system_certificates(&ca)?),
        };
        let identity = match (files.cert, files.key) {
            (Some(path), Some(key_path)) => {
                let certs = Named { setting: &cert, path }.certificates()?;
                Some((certs, Named { setting: &key, path: key_path }.key()?))
            }
            (None, None) => None,
            (_, None) => return Err(Error::config(format!("{cert}: allowed only together with {key}"))),
            (None, _) => return Err(Error::config(format!("{key}: allowed only together with {cert}"))),
        };
        let name = files.server_name.unwrap_or(host);
        let no_name = |_| Error::config(format!("{name:?} is no name that a certificate can have"));
        let name = ServerName::try_from(name.to_owned()).map_err(no_name)?;
        ClientTls::make(Arc::new(Material {
            trusted,
            identity,
            name,
            is_name_set: files.server_name.is_some(),
        }))
        .map_err(|why| Error::config(format!("{cert} and {key}: {why}")))
    }

    /// The same with no session to resume, and nothing that another process could hold locked.
    pub fn renewed(&self) -> Result<ClientTls> {
        ClientTls::make(self.made_of.clone()).map_err(Error::config)
    }

    /// As before, if it is made of the same: what sessions there are can be resumed.
    #[must_use]
    pub fn or_same(self, former: Option<ClientTls>) -> ClientTls {
        former.filter(|former| former.made_of == self.made_of).unwrap_or(self)
    }

    /// The name that the server's certificate must have.
    pub fn server_name(&self) -> String {
        self.made_of.name.to_str().into_owned()
    }

    fn make(made_of: Arc<Material>) -> std::result::Result<ClientTls, String> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match &made_of.trusted {
            Trusted::Anybody => Arc::new(Anybody(provider.clone())),
            Trusted::System(certs) => Arc::new(Trust::new(certs, &[], &provider)?),
            Trusted::File(certs) => Arc::new(Trust::new(certs, certs, &provider)?),
        };
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let config = match &made_of.identity {
            Some((certs, key)) => {
                let made = builder.with_client_auth_cert(certs.clone(), key.clone_key());
                made.map_err(|error| error.to_string())?
            }
            None => builder.with_no_client_auth(),
        };
        Ok(ClientTls { made_of, config: Arc::new(config) })
    }

    /// A connection to `host`, or else to the one of the URL. A name that was set stands above both.
    pub(super) fn begin(&self, host: Option<&str>) -> io::Result<UnbufferedClientConnection> {
        let name = match host.filter(|_| !self.made_of.is_name_set) {
            Some(host) => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
            None => self.made_of.name.clone(),
        };
        UnbufferedClientConnection::new(self.config.clone(), name).map_err(io::Error::other)
    }
}

fn system_certificates(setting: &str) -> Result<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
        let way = format!("set {setting}, or install ca-certificates");
        return Err(Error::config(format!("this system has no certificates of CAs{why}; {way}")));
    }
    Ok(found.certs)
}

/// What webpki has against a certificate that nobody has signed: its times first, then whether it is a CA's.
fn objection(cert: &CertificateDer<'_>, now: UnixTime) -> Option<webpki::Error> {
    let usage = webpki::KeyUsage::server_auth();
    let parsed = webpki::EndEntityCert::try_from(cert);
    let verified = parsed.and_then(|parsed| {
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        parsed.verify_for_usage(algorithms, &[], &[], now, usage, None, None).map(drop)
    });
    verified.err()
}

/// Trusts CAs, and the very certificates of some servers, CA or not: a server that signs its own certificate often says that
/// it is a CA, which no server's certificate else may. Its times and its name must fit all the same.
#[derive(Debug)]
struct Trust {
    /// None if no certificate is that of a CA.
    by_ca: Option<Arc<WebPkiServerVerifier>>,
    servers: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    fn new(
        certs: &[CertificateDer<'static>],
        servers: &[CertificateDer<'static>],
        provider: &Arc<CryptoProvider>,
    ) -> std::result::Result<Trust, String> {
        let now = UnixTime::now();
        // Whoever has the key of a server must not sign for others, whatever the time is: that is checked first.
        let is_server = |cert: &&CertificateDer<'_>| {
            let in_its_time = match objection(cert, now) {
                Some(webpki::Error::CertExpired { not_after, .. }) => objection(cert, not_after),
                Some(webpki::Error::CertNotValidYet { not_before, .. }) => objection(cert, not_before),
                objection => objection,
            };
            let is_ca = matches!(
                in_its_time,
                Some(webpki::Error::CaUsedAsEndEntity | webpki::Error::UnsupportedCertVersion)
            );
            servers.contains(cert) && !is_ca
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certs.iter().filter(|cert| !is_server(cert)).cloned());
        let by_ca = match roots.is_empty() {
            true => None,
            false => {
                let builder = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone());
                Some(builder.build().map_err(|error| error.to_string())?)
            }
        };
        Ok(Trust { by_ca, servers: servers.to_vec(), provider: provider.clone() })
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if !self.servers.contains(end_entity) {
            let Some(by_ca) = &self.by_ca else { return Err(CertificateError::UnknownIssuer.into()) };
            return by_ca.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        }
        match objection(end_entity, now) {
            Some(webpki::Error::CertExpired { .. }) => return Err(CertificateError::Expired.into()),
            Some(webpki::Error::CertNotValidYet { .. }) => return Err(CertificateError::NotValidYet.into()),
            _ => {}
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// `tls_insecure`: the server must have the key of the certificate that it shows, whatever that says.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
