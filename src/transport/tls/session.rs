//! One TLS connection: its handshake, its records. Never touches a socket: bytes of the peer are passed in, bytes for it are
//! appended to a buffer of the caller.

use super::words::words;
use super::{ClientTls, Opened, ServerTls};
use crate::base::peer_certificate::PeerCertificate;
use crate::base::secured::Secured;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncryptError, UnbufferedStatus};
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
pub struct Session(Side);

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.is_client() { "client" } else { "server" };
        f.debug_struct("Session").field("side", &side).finish_non_exhaustive()
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

impl Session {
    /// A connection to a server, which has not sent anything yet.
    pub fn client(to: &ClientTls) -> io::Result<Session> {
        to.begin().map(Side::Client).map(Session)
    }

    /// A connection that a client has opened.
    pub fn server(at: &ServerTls) -> io::Result<Session> {
        at.begin().map(Side::Server).map(Session)
    }

    fn common(&self) -> &CommonState {
        match &self.0 {
            Side::Client(side) => side.common(),
            Side::Server(side) => side.common(),
        }
    }

    /// Whether we have opened it.
    pub(in crate::transport) fn is_client(&self) -> bool {
        matches!(self.0, Side::Client(_))
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
        match &mut self.0 {
            Side::Client(side) => open(side, wire, plain, out),
            Side::Server(side) => open(side, wire, plain, out),
        }
    }

    /// Appends the records of `bytes` to `out`. Only after the handshake.
    pub(in crate::transport) fn seal(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match &mut self.0 {
            Side::Client(side) => seal(side, bytes, out),
            Side::Server(side) => seal(side, bytes, out),
        }
    }

    /// Appends that we send no more, if that can be said yet.
    pub(in crate::transport) fn seal_end(&mut self, out: &mut Vec<u8>) {
        match &mut self.0 {
            Side::Client(side) => seal_end(side, out),
            Side::Server(side) => seal_end(side, out),
        }
    }
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
                    plain[opened.plain..end].copy_from_slice(record.payload);
                    opened.plain = end;
                }
                true
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                append(out, PLAIN_MAX + RECORD_OVERHEAD, |room| data.encode(room).ok());
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

/// What rustls wants to tell the peer of a failure.
fn take_alert<S: Records>(side: &mut S, out: &mut Vec<u8>) {
    while let Ok(state) = side.process(&mut []).state {
        match state {
            ConnectionState::EncodeTlsData(mut data) => {
                append(out, PLAIN_MAX + RECORD_OVERHEAD, |room| data.encode(room).ok());
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            _ => return,
        }
    }
}

fn seal<S: Records>(side: &mut S, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    loop {
        match side.process(&mut []).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                let room = bytes.len() + bytes.len().div_ceil(PLAIN_MAX) * RECORD_OVERHEAD;
                let mut failure = None;
                append(out, room, |room| {
                    traffic.encrypt(bytes, room).map_err(|error| failure = Some(error)).ok()
                });
                return match failure {
                    None => Ok(()),
                    Some(EncryptError::InsufficientSize(_)) => Err(io::Error::other("a record is too long")),
                    Some(EncryptError::EncryptExhausted) => {
                        Err(io::Error::other("the keys have been used too often"))
                    }
                };
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                append(out, PLAIN_MAX + RECORD_OVERHEAD, |room| data.encode(room).ok());
            }
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            // The peer sends no more; it may well read.
            Ok(ConnectionState::PeerClosed) => {}
            Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(error) => return Err(io::Error::other(words(&error))),
        }
    }
}

fn seal_end<S: Records>(side: &mut S, out: &mut Vec<u8>) {
    if let Ok(ConnectionState::WriteTraffic(mut traffic)) = side.process(&mut []).state {
        append(out, ALERT_ROOM, |room| traffic.queue_close_notify(room).ok());
    }
}

/// Lets `write` fill up to `room` bytes behind those of `out`, and keeps as many as it says.
fn append(out: &mut Vec<u8>, room: usize, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
    let before = out.len();
    out.resize(before + room, 0);
    let written = write(&mut out[before..]).unwrap_or(0);
    out.truncate(before + written);
}
