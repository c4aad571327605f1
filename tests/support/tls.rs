//! Certificates of a test's own, made by the openssl command in a private directory, and a client with TLS that knows
//! nothing of the crate.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion,
};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::raw::request;

/// A directory with CAs and what they have signed.
pub(crate) struct Certificates {
    directory: TempDir,
}

impl Certificates {
    /// With the CAs `ca` and `other`, and certificates by `ca`: `server` for localhost and 127.0.0.1, and `client`.
    pub(crate) fn new() -> Certificates {
        let directory = tempfile::Builder::new().prefix("tls-").tempdir().expect("a directory");
        let made = Certificates { directory };
        made.self_signed("ca", "basicConstraints=critical,CA:TRUE");
        made.self_signed("other", "basicConstraints=critical,CA:TRUE");
        made.signed("server", "ca", "DNS:localhost,IP:127.0.0.1", &["-days", "2"]);
        made.signed("client", "ca", "URI:spiffe://tests/client", &["-days", "2"]);
        made
    }

    /// A file in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The same as text.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A certificate that signs itself, `NAME.pem`, and its key, `NAME.key`.
    pub(crate) fn self_signed(&self, name: &str, extension: &str) {
        let subject = format!("/CN={name}");
        let mut args =
            vec!["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        args.extend(["-days", "2", "-subj", &subject, "-addext", extension]);
        let (key, cert) = (format!("{name}.key"), format!("{name}.pem"));
        args.extend(["-keyout", &key, "-out", &cert]);
        self.openssl(&args);
        self.restrict(&key);
    }

    /// A certificate that `ca` has signed, with these alternative names.
    pub(crate) fn signed(&self, name: &str, ca: &str, alternatives: &str, times: &[&str]) {
        let file = |end: &str| format!("{name}.{end}");
        let (subject, key, csr, ext, cert) =
            (format!("/CN={name}"), file("key"), file("csr"), file("ext"), file("pem"));
        fs::write(self.path(&ext), format!("subjectAltName={alternatives}\n")).expect("a file");
        let mut args = vec!["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        args.extend(["-subj", &subject, "-keyout", &key, "-out", &csr]);
        self.openssl(&args);
        let (ca_cert, ca_key) = (format!("{ca}.pem"), format!("{ca}.key"));
        let mut args =
            vec!["x509", "-req", "-in", &csr, "-CA", &ca_cert, "-CAkey", &ca_key, "-CAcreateserial"];
        args.extend(["-extfile", &ext, "-out", &cert]);
        args.extend(times);
        self.openssl(&args);
        self.restrict(&key);
    }

    fn restrict(&self, key: &str) {
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(self.path(key), mode).expect("a mode");
    }

    /// Runs openssl in the directory; what it says.
    pub(crate) fn openssl(&self, args: &[&str]) -> String {
        let output = Command::new("openssl").args(args).current_dir(self.directory.path()).output();
        let output = output.expect("run openssl; install the package openssl");
        assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// SHA-256 of the public key of `NAME.pem` as openssl makes it, in hexadecimal.
    pub(crate) fn spki_sha256(&self, name: &str) -> String {
        let (cert, der) = (format!("{name}.pem"), format!("{name}.spki"));
        let key = self.openssl(&["x509", "-in", &cert, "-noout", "-pubkey"]);
        fs::write(self.path("spki.pem"), key).expect("a file");
        self.openssl(&["pkey", "-pubin", "-in", "spki.pem", "-outform", "der", "-out", &der]);
        let digest = self.openssl(&["dgst", "-sha256", "-r", &der]);
        digest.split(' ').next().unwrap_or_default().to_owned()
    }

    /// The URL of a listener that shows `NAME.pem`, with more options.
    pub(crate) fn listen(&self, name: &str, options: &str) -> String {
        let (cert, key) = (self.text(&format!("{name}.pem")), self.text(&format!("{name}.key")));
        format!("tls://127.0.0.1:0?cert={cert}&key={key}{options}")
    }

    /// A client that trusts `CA.pem` and shows a certificate if it has one.
    pub(crate) fn client(&self, ca: &str, shown: Option<&str>) -> Arc<ClientConfig> {
        self.client_speaking(ca, shown, rustls::DEFAULT_VERSIONS)
    }

    /// The same with some versions of TLS.
    pub(crate) fn client_speaking(
        &self,
        ca: &str,
        shown: Option<&str>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let read = |name: &str| {
            let path = self.path(&format!("{name}.pem"));
            let certs = CertificateDer::pem_file_iter(path).expect("a file");
            certs.map(|cert| cert.expect("a certificate")).collect::<Vec<_>>()
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(read(ca));
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder =
            builder.with_protocol_versions(versions).expect("versions").with_root_certificates(roots);
        Arc::new(match shown {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).expect("a key");
                builder.with_client_auth_cert(read(name), key).expect("a certificate")
            }
        })
    }
}

/// One connection with TLS.
pub(crate) struct TlsRaw(StreamOwned<ClientConnection, TcpStream>);

impl TlsRaw {
    /// Connects to `tls://host:port` and ends the handshake, or says why not.
    pub(crate) fn try_connect(url: &str, config: &Arc<ClientConfig>) -> io::Result<TlsRaw> {
        let address =
            url.strip_prefix("tls://").and_then(|rest| rest.split('?').next()).expect("a tls:// URL");
        TlsRaw::over(TcpStream::connect(address)?, config)
    }

    /// Connects as one that has little room for what it does not read.
    pub(crate) fn connect_narrow(url: &str, config: &Arc<ClientConfig>) -> TlsRaw {
        let address: SocketAddr = url.trim_start_matches("tls://").parse().expect("an address");
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(16 * 1024).expect("an option");
        socket.connect(&address.into()).expect("connect");
        TlsRaw::over(socket.into(), config).expect("a handshake")
    }

    fn over(stream: TcpStream, config: &Arc<ClientConfig>) -> io::Result<TlsRaw> {
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").expect("a name");
        let connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(TlsRaw(stream))
    }

    /// The same of one that works.
    pub(crate) fn connect(url: &str, config: &Arc<ClientConfig>) -> TlsRaw {
        TlsRaw::try_connect(url, config).unwrap_or_else(|error| panic!("connect {url}: {error}"))
    }

    /// Sends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("write");
        self.0.flush().expect("write");
    }

    /// The next bytes, as many as there are to be.
    pub(crate) fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).expect("read");
        bytes
    }

    /// Sends one request given as words, and compares the whole reply.
    #[track_caller]
    pub(crate) fn expect(&mut self, line: &str, reply: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        self.write(&request(&words));
        let mut got = vec![0; reply.len()];
        let read = self.0.read_exact(&mut got);
        assert!(read.is_ok() && got == reply.as_bytes(), "{line}: {}", String::from_utf8_lossy(&got));
    }

    /// Sends one request; the first line of its reply, or an empty one at the end.
    pub(crate) fn line_of(&mut self, line: &str) -> io::Result<String> {
        let words: Vec<&str> = line.split(' ').collect();
        self.0.write_all(&request(&words))?;
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(b"\n") && self.0.read(&mut byte)? == 1 {
            text.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
    }

    /// How the next read ends, where nothing more is to come.
    pub(crate) fn end(&mut self) -> Result<usize, ErrorKind> {
        self.0.read(&mut [0; 64]).map_err(|error| error.kind())
    }

    /// Whether it has resumed a session of before.
    pub(crate) fn is_resumed(&self) -> bool {
        self.0.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The socket below.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.0.sock
    }

    /// The certificate that the server has shown.
    pub(crate) fn shown(&self) -> Vec<u8> {
        self.0.conn.peer_certificates().expect("a certificate")[0].to_vec()
    }

    /// Says that it sends no more.
    pub(crate) fn close_notify(&mut self) {
        self.0.conn.send_close_notify();
        while self.0.conn.wants_write() {
            self.0.conn.write_tls(&mut self.0.sock).expect("write");
        }
    }
}

/// The DER of a certificate in a PEM file.
pub(crate) fn der(path: &Path) -> Vec<u8> {
    CertificateDer::from_pem_file(path).expect("a certificate").to_vec()
}
