//! One TLS connection: its handshake, its records. Never touches a socket: bytes of the peer are passed in, bytes for it are
//! appended to a buffer of the caller.

use super::words::words;
use super::{ClientTls, Opened, ServerTls};
use crate::base::peer_certificate::PeerCertificate;
use crate::base::secured::Secured;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus, WriteTraffic};
use rustls::{CommonState, HandshakeKind, ProtocolVersion};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io;

/// Plaintext of one record, bytes.
const PLAIN_MAX: usize = 16 * 1024;
/// What a record adds to its plaintext at most: header, nonce, tag, type.
const RECORD_OVERHEAD: usize = 64;
/// An alert, and what belongs before it.
const ALERT_ROOM: usize = 256;

/// The keys and the state of one connection.
///
/// rustls keeps positions in the bytes that it has not done with, so those, and no others, are passed in whenever it is
/// asked: it panics otherwise. A session that has failed is not asked again.
pub struct TlsSession {
    side: Side,
    failed: bool,
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.is_client() { "client" } else { "server" };
        f.debug_struct("TlsSession").field("side", &side).finish_non_exhaustive()
    }
}

/// What both sides do alike.
trait Records {
    type Data;
    fn process<'c, 'i>(&'c mut self, wire: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(&self) -> &CommonState;
}

impl Records for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, wire: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(wire)
    }
    fn common(&self) -> &CommonState {
        self
    }
}

impl Records for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, wire: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(wire)
    }
    fn common(&self) -> &CommonState {
        self
    }
}

impl TlsSession {
    /// A connection to a server, which has not sent anything yet. `host` is whom its certificate must name, if not the host
    /// that the TLS was made for.
    pub fn client(to: &ClientTls, host: Option<&str>) -> io::Result<TlsSession> {
        to.begin(host).map(|side| TlsSession { side: Side::Client(side), failed: false })
    }

    /// A connection that a client has opened.
    pub fn server(at: &ServerTls) -> io::Result<TlsSession> {
        at.begin().map(|side| TlsSession { side: Side::Server(side), failed: false })
    }

    fn common(&self) -> &CommonState {
        match &self.side {
            Side::Client(side) => side.common(),
            Side::Server(side) => side.common(),
        }
    }

    /// Whether we have opened it.
    pub(in crate::transport) fn is_client(&self) -> bool {
        matches!(self.side, Side::Client(_))
    }

    /// Whether nothing can be sent or received yet.
    pub(in crate::transport) fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// What has been agreed on, after the handshake.
    pub fn secured(&self) -> Secured {
        let common = self.common();
        let protocol = match common.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLS",
        };
        let cipher = common.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let resumed = common.handshake_kind() == Some(HandshakeKind::Resumed);
        Secured { protocol, cipher: cipher.unwrap_or("unknown"), resumed }
    }

    /// What stands in the peer's certificate, if it has shown one.
    pub fn peer_certificate(&self) -> Option<PeerCertificate> {
        let der = self.common().peer_certificates()?.first()?;
        let parsed = webpki::EndEntityCert::try_from(der).ok()?;
        let spki_sha256 = Sha256::digest(parsed.subject_public_key_info().as_ref()).into();
        Some(PeerCertificate { spki_sha256, uris: parsed.valid_uri_names().map(str::to_owned).collect() })
    }

    /// Takes records from `wire`, as many as are whole: their plaintext goes to `plain`, which is as long as `wire` at least,
    /// and answers to the end of `out`. Stops where the handshake ends.
    pub(in crate::transport) fn open(
        &mut self,
        wire: &mut [u8],
        plain: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Opened {
        if self.failed {
            return Opened { failure: Some("TLS has failed before".to_owned()), ..Opened::default() };
        }
        let opened = match &mut self.side {
            Side::Client(side) => open(side, wire, plain, out),
            Side::Server(side) => open(side, wire, plain, out),
        };
        self.failed = opened.failure.is_some();
        opened
    }

    /// Appends the records of `bytes` to `out`. Only after the handshake. `rest` is what `open` has left. Returns how many
    /// bytes of it are done with.
    pub(in crate::transport) fn seal(
        &mut self,
        bytes: &[u8],
        rest: &mut [u8],
        out: &mut Vec<u8>,
    ) -> io::Result<usize> {
        self.say(rest, out, |traffic, out| match traffic {
            TlsTraffic::Client(traffic) => encrypt(traffic, bytes, out),
            TlsTraffic::Server(traffic) => encrypt(traffic, bytes, out),
        })
    }

    /// Appends that we send no more, if that can be said. `rest` as for `seal`; nothing is asked of the session again.
    pub(in crate::transport) fn seal_end(&mut self, rest: &mut [u8], out: &mut Vec<u8>) {
        let _ = self.say(rest, out, |traffic, out| {
            append(out, ALERT_ROOM, |room| match traffic {
                TlsTraffic::Client(traffic) => traffic.queue_close_notify(room).ok(),
                TlsTraffic::Server(traffic) => traffic.queue_close_notify(room).ok(),
            });
            Ok(())
        });
        self.failed = true;
    }

    fn say(
        &mut self,
        rest: &mut [u8],
        out: &mut Vec<u8>,
        body: impl FnOnce(&mut TlsTraffic<'_, '_>, &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<usize> {
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let said = match &mut self.side {
            Side::Client(side) => {
                say(side, rest, out, |traffic, out| body(&mut TlsTraffic::Client(traffic), out))
            }
            Side::Server(side) => {
                say(side, rest, out, |traffic, out| body(&mut TlsTraffic::Server(traffic), out))
            }
        };
        self.failed = said.is_err();
        said
    }
}

/// The right to send, of either side.
enum TlsTraffic<'t, 'c> {
    Client(&'t mut WriteTraffic<'c, ClientConnectionData>),
    Server(&'t mut WriteTraffic<'c, ServerConnectionData>),
}

fn open<S: Records>(side: &mut S, wire: &mut [u8], plain: &mut [u8], out: &mut Vec<u8>) -> Opened {
    let mut opened = Opened::default();
    let was_handshaking = side.common().is_handshaking();
    loop {
        let UnbufferedStatus { discard, state, .. } = side.process(&mut wire[opened.used..]);
        let goes_on = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(Ok(record)) = traffic.next_record() {
                    let end = opened.plain + record.payload.len();
                    match plain.get_mut(opened.plain..end) {
                        Some(room) => room.copy_from_slice(record.payload),
                        None => {
                            opened.failure = Some("TLS: more than there is room for".to_owned());
                            return opened;
                        }
                    }
                    opened.plain = end;
                }
                true
            }
            Ok(ConnectionState::EncodeTlsData(data)) => {
                encode(data, out);
                true
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                // It stands in `out`, whose owner sends it before anything else.
                data.done();
                true
            }
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                opened.closed = true;
                false
            }
            Ok(_) => false,
            Err(error) => {
                opened.failure = Some(words(&error));
                false
            }
        };
        opened.used += discard;
        if opened.failure.is_some() {
            take_alert(side, out);
        }
        // What stands behind the handshake is for whoever reads the connection then.
        let over = was_handshaking && !side.common().is_handshaking() && !side.common().wants_write();
        if !goes_on || over {
            return opened;
        }
    }
}

/// What rustls wants to tell the peer of a failure. As long as it has something to say, it looks at no bytes.
fn take_alert<S: Records>(side: &mut S, out: &mut Vec<u8>) {
    while side.common().wants_write()
        && let Ok(ConnectionState::EncodeTlsData(data)) = side.process(&mut []).state
    {
        encode(data, out);
    }
}

/// Says what is due, then lets `body` do so. Returns how many bytes of `rest` are done with.
fn say<S: Records>(
    side: &mut S,
    rest: &mut [u8],
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut WriteTraffic<'_, S::Data>, &mut Vec<u8>) -> io::Result<()>,
) -> io::Result<usize> {
    let mut used = 0;
    loop {
        let UnbufferedStatus { discard, state, .. } = side.process(&mut rest[used..]);
        used += discard;
        match state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => return body(&mut traffic, out).map(|()| used),
            Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out),
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            // The peer sends no more; it may well read.
            Ok(ConnectionState::PeerClosed) => {}
            Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(error) => return Err(io::Error::other(words(&error))),
        }
    }
}

fn encrypt<D>(traffic: &mut WriteTraffic<'_, D>, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let room = bytes.len() + bytes.len().div_ceil(PLAIN_MAX) * RECORD_OVERHEAD;
    let mut failure = None;
    append(out, room, |room| traffic.encrypt(bytes, room).map_err(|error| failure = Some(error)).ok());
    match failure {
        None => Ok(()),
        Some(error) => Err(io::Error::other(format!("TLS: {error}"))),
    }
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, out: &mut Vec<u8>) {
    let mut room = ALERT_ROOM;
    // It is told how much it needs, once.
    for _ in 0..2 {
        let before = out.len();
        out.resize(before + room, 0);
        let encoded = data.encode(&mut out[before..]);
        out.truncate(before + *encoded.as_ref().unwrap_or(&0));
        match encoded {
            Err(EncodeError::InsufficientSize(needed)) => room = needed.required_size,
            _ => return,
        }
    }
}

/// Lets `write` fill up to `room` bytes behind those of `out`, and keeps as many as it says.
fn append(out: &mut Vec<u8>, room: usize, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
    let before = out.len();
    out.resize(before + room, 0);
    let written = write(&mut out[before..]).unwrap_or(0);
    out.truncate(before + written);
}

#[cfg(test)]
mod tests {
    use super::super::ClientTlsFiles;
    use super::*;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ServerConfig, ServerConnection, crypto::ring};
    use std::io::Read;
    use std::process::Command;
    use std::sync::Arc;

    /// Ours, and rustls' own server, which cuts what it says into records of a few bytes.
    fn pair() -> (TlsSession, ServerConnection) {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        openssl.args(["-days", "2", "-subj", "/CN=x", "-addext", "subjectAltName=DNS:localhost"]);
        let made = openssl.arg("-keyout").arg(path("key")).arg("-out").arg(path("cert")).output().unwrap();
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let cert = CertificateDer::from_pem_file(path("cert")).unwrap();
        let mut config =
            builder.with_single_cert(vec![cert], PrivateKeyDer::from_pem_file(path("key")).unwrap()).unwrap();
        config.max_fragment_size = Some(32);
        config.ticketer = ring::Ticketer::new().unwrap();
        let ca = Some(path("cert"));
        let files = ClientTlsFiles {
            prefix: "tls_",
            ca: ca.as_deref(),
            cert: None,
            key: None,
            server_name: None,
            insecure: false,
        };
        let to = ClientTls::load(&files, "localhost").unwrap();
        (TlsSession::client(&to, None).unwrap(), ServerConnection::new(Arc::new(config)).unwrap())
    }

    fn tell(server: &mut ServerConnection, bytes: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let mut piece = &bytes[..];
            let read = server.read_tls(&mut piece).unwrap();
            bytes.drain(..read);
            server.process_new_packets().unwrap();
        }
    }

    fn said(server: &mut ServerConnection) -> Vec<u8> {
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        wire
    }

    /// A ticket of which a part is here: rustls remembers where, so nothing may be sealed without that part at hand.
    #[test]
    fn what_is_sealed_may_stand_in_the_middle_of_a_message() {
        let (mut client, mut server) = pair();
        let (mut out, mut wire, mut plain) = (Vec::new(), Vec::new(), vec![0; 64 * 1024]);
        while client.is_handshaking() {
            // A byte at a time: what is not whole stays.
            let opened = client.open(&mut wire, &mut plain, &mut out);
            assert_eq!((opened.failure, opened.plain), (None, 0));
            wire.drain(..opened.used);
            tell(&mut server, &mut out);
            wire.extend(said(&mut server));
        }
        let tickets = std::mem::take(&mut wire);
        assert!(tickets.len() > 200, "{}", tickets.len());
        for cut in [1, 40, 60, 100, tickets.len() - 60, tickets.len() - 1] {
            let (mut client, mut server) = pair();
            let (mut out, mut wire) = (Vec::new(), Vec::new());
            while client.is_handshaking() {
                let opened = client.open(&mut wire, &mut plain, &mut out);
                wire.drain(..opened.used);
                tell(&mut server, &mut out);
                wire.extend(said(&mut server));
            }
            let last = wire.split_off(cut.min(wire.len()));
            let opened = client.open(&mut wire, &mut plain, &mut out);
            wire.drain(..opened.used);
            let used = client.seal(b"hello", &mut wire, &mut out).unwrap();
            wire.drain(..used);
            wire.extend(last);
            let opened = client.open(&mut wire, &mut plain, &mut out);
            assert_eq!((opened.failure, opened.used), (None, wire.len()));
            tell(&mut server, &mut out);
            let mut heard = [0; 5];
            server.reader().read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"hello");
        }
    }

    /// What was said of a failure leads to nothing more, whatever comes.
    #[test]
    fn a_session_that_has_failed_is_not_asked_again() {
        let (mut client, _) = pair();
        let (mut out, mut plain) = (Vec::new(), vec![0; 1024]);
        client.open(&mut [], &mut plain, &mut out);
        let opened = client.open(&mut b"\x16\x03\x03\x00\x04\x63\x00\x00\x00".to_vec(), &mut plain, &mut out);
        assert!(opened.failure.is_some());
        assert!(out.windows(2).any(|bytes| bytes == [21, 3]), "the peer is told: {out:?}");
        assert!(client.open(&mut [], &mut plain, &mut out).failure.is_some());
        assert_eq!(client.seal(b"x", &mut [], &mut out).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        client.seal_end(&mut [], &mut out);
    }
}
