//! TLS over one socket: what was read of a record that is not whole, what was sealed and not sent yet. Reads and writes the
//! socket; which edges are used up is for `conn` to note.
//!
//! Of each read all whole records are opened at once, so no plaintext is ever left behind here: what remains is less than a
//! record, of which more must come, and that makes an edge.

use super::stream::Stream;
use super::tls::{RECORD_MAX, TlsSession};
use crate::base::limits;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{SendFlags, send};
use std::io;

/// Content types of records: of TLS, and of the hello of SSL 2 that some clients still begin with.
const RECORD_TYPES: std::ops::RangeInclusive<u8> = 20..=24;
/// Bytes of what is no TLS that an error shows.
const SHOWN: usize = 60;

/// What a read of the socket says of its edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    /// As much as there was room for: there may be more.
    Full,
    /// Less than that.
    Short,
    /// Nothing now.
    Empty,
    /// The end of file, or an error: there is nothing more to read.
    Over,
}

/// What one read has brought.
#[derive(Debug)]
pub(super) enum Plain {
    /// This many bytes.
    Bytes(usize),
    /// No whole record, or none with bytes.
    Nothing,
    /// The peer sends no more.
    End,
    /// It cannot go on.
    Broken(io::Error),
}

/// How far a handshake has come.
#[derive(Debug)]
pub enum HandshakeStep {
    /// The peer's turn.
    UnderWay,
    /// The connection can be used; there may be something to read already.
    Done,
    /// It failed, for this reason.
    Failed(String),
}

/// The TLS of one connection.
#[derive(Debug)]
pub(super) struct Secure {
    session: TlsSession,
    /// The beginning of a record, and in a handshake of a message.
    carry: Vec<u8>,
    /// Plaintext that came with it.
    early: Vec<u8>,
    /// Records of which `sent` bytes have been taken by the socket.
    outgoing: Vec<u8>,
    sent: usize,
    /// The peer has said that it sends no more.
    closed: bool,
    /// No byte of the peer has come yet.
    fresh: bool,
}

impl Secure {
    pub(super) fn new(session: TlsSession) -> Secure {
        Secure {
            session,
            carry: Vec::new(),
            early: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            closed: false,
            fresh: true,
        }
    }

    pub(super) fn session(&self) -> &TlsSession {
        &self.session
    }

    /// Whether sealed bytes wait for the socket.
    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.outgoing.len()
    }

    /// One read, and what it brings.
    pub(super) fn fill(&mut self, stream: &Stream, buffer: &mut [u8]) -> (Plain, Edge) {
        if !self.early.is_empty() {
            let early = std::mem::take(&mut self.early);
            buffer[..early.len()].copy_from_slice(&early);
            return (Plain::Bytes(early.len()), Edge::Full);
        }
        if self.closed {
            return (Plain::End, Edge::Over);
        }
        // Plaintext is shorter than its records, so what was read always has room.
        let (plain, wire) = buffer.split_at_mut(buffer.len() / 2);
        let kept = self.carry.len();
        debug_assert!(kept <= RECORD_MAX && wire.len() > kept);
        wire[..kept].copy_from_slice(&self.carry);
        let room = wire.len() - kept;
        let (count, edge) = match retry_on_intr(|| rustix::io::read(stream, &mut wire[kept..])) {
            Ok(0) => return (self.truncated(), Edge::Over),
            Ok(count) => (count, if count == room { Edge::Full } else { Edge::Short }),
            Err(Errno::AGAIN) => return (Plain::Nothing, Edge::Empty),
            Err(error) => return (Plain::Broken(error.into()), Edge::Over),
        };
        let opened = self.session.open(&mut wire[..kept + count], plain, &mut self.outgoing);
        self.keep(&wire[opened.used..kept + count]);
        self.closed |= opened.closed;
        if let Some(why) = opened.failure {
            let _ = self.send(stream);
            return (Plain::Broken(io::Error::other(why)), Edge::Over);
        }
        if self.carry.len() >= RECORD_MAX {
            return (Plain::Broken(io::Error::other("TLS: a record is too long")), Edge::Over);
        }
        match opened.plain {
            0 if self.closed => (Plain::End, Edge::Over),
            0 => (Plain::Nothing, edge),
            // The end is found by the next look.
            count if self.closed => (Plain::Bytes(count), Edge::Full),
            count => (Plain::Bytes(count), edge),
        }
    }

    fn keep(&mut self, rest: &[u8]) {
        self.carry.clear();
        if rest.is_empty() {
            // An idle connection has no buffer.
            self.carry = Vec::new();
        } else {
            self.carry.extend_from_slice(rest);
        }
    }

    /// The socket has ended, and nobody has said that all was sent. A server's replies may be cut short then, by anybody on
    /// the way; of a child's requests only whole ones are run, as without TLS.
    fn truncated(&self) -> Plain {
        if self.session.is_client() {
            return Plain::Broken(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "TLS: the connection has ended without a close_notify",
            ));
        }
        Plain::End
    }

    /// One step of the handshake: sends what is due and, if `reads`, takes what has come. `buffer` is as long as for `fill`.
    pub(super) fn shake(&mut self, stream: &Stream, reads: bool, buffer: &mut [u8]) -> (HandshakeStep, Edge) {
        let mut edge = Edge::Empty;
        if reads {
            let before = self.carry.len();
            self.carry.resize(before + limits::HANDSHAKE_READ, 0);
            let read = retry_on_intr(|| rustix::io::read(stream, &mut self.carry[before..]));
            self.carry.truncate(before + read.unwrap_or(0));
            edge = match read {
                Ok(0) => {
                    return (
                        HandshakeStep::Failed("closed by the peer in the handshake".to_owned()),
                        Edge::Over,
                    );
                }
                Ok(count) if count == limits::HANDSHAKE_READ => Edge::Full,
                Ok(_) => Edge::Short,
                Err(Errno::AGAIN) => Edge::Empty,
                Err(error) => return (HandshakeStep::Failed(io::Error::from(error).to_string()), Edge::Over),
            };
        }
        if let Some(why) = self.first_bytes_wrong() {
            return (HandshakeStep::Failed(why), Edge::Over);
        }
        let opened = self.session.open(&mut self.carry, buffer, &mut self.outgoing);
        self.carry.drain(..opened.used);
        let sent = self.send(stream);
        if let Some(why) = opened.failure {
            return (HandshakeStep::Failed(why), Edge::Over);
        }
        if opened.closed || self.carry.len() > limits::HANDSHAKE_MAX {
            let why =
                if opened.closed { "ended by the peer in the handshake" } else { "a message is too long" };
            return (HandshakeStep::Failed(why.to_owned()), Edge::Over);
        }
        if let Err(error) = sent {
            return (HandshakeStep::Failed(error.to_string()), Edge::Over);
        }
        if self.session.is_handshaking() {
            return (HandshakeStep::UnderWay, edge);
        }
        match self.take_early(opened.plain, buffer) {
            Some(why) => (HandshakeStep::Failed(why), Edge::Over),
            None => {
                (HandshakeStep::Done, if self.early.is_empty() && !self.closed { edge } else { Edge::Full })
            }
        }
    }

    /// What came with the end of the handshake is opened, too: what remains is less than a record, as ever. Why it cannot be.
    fn take_early(&mut self, plain: usize, buffer: &mut [u8]) -> Option<String> {
        let opened = self.session.open(&mut self.carry, &mut buffer[plain..], &mut self.outgoing);
        self.carry.drain(..opened.used);
        self.closed = opened.closed;
        self.early = buffer[..plain + opened.plain].to_vec();
        let too_long = self.carry.len() >= RECORD_MAX;
        opened.failure.or_else(|| too_long.then(|| "a record is too long".to_owned()))
    }

    /// Why the first bytes of the peer are no TLS.
    fn first_bytes_wrong(&mut self) -> Option<String> {
        let first = self.carry.first().filter(|_| self.fresh).copied()?;
        self.fresh = false;
        if RECORD_TYPES.contains(&first) || first & 0x80 != 0 {
            return None;
        }
        let line = self.carry.split(|byte| b"\r\n".contains(byte)).next().unwrap_or_default();
        let shown = line[..line.len().min(SHOWN)].escape_ascii();
        Some(match self.session.is_client() {
            true => format!("the server does not speak TLS at this port: it says \"{shown}\""),
            false => "plaintext on a TLS port".to_owned(),
        })
    }

    /// Seals `bytes`, of which the socket may have taken nothing yet.
    pub(super) fn seal(&mut self, bytes: &[u8]) -> io::Result<()> {
        let used = self.session.seal(bytes, &mut self.carry, &mut self.outgoing)?;
        self.carry.drain(..used);
        Ok(())
    }

    /// Says that we send no more, as far as the socket takes that now.
    pub(super) fn end(&mut self, stream: &Stream) {
        if !self.has_unsent() && !self.session.is_handshaking() {
            self.session.seal_end(&mut self.carry, &mut self.outgoing);
            let _ = self.send(stream);
        }
    }

    /// Sends what is sealed. True if all of it has gone, false if the socket is full.
    pub(super) fn send(&mut self, stream: &Stream) -> io::Result<bool> {
        while self.has_unsent() {
            // Never raises SIGPIPE, as in `conn`.
            match retry_on_intr(|| send(stream, &self.outgoing[self.sent..], SendFlags::NOSIGNAL)) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        self.sent = 0;
        self.outgoing.clear();
        if self.outgoing.capacity() > limits::TLS_KEPT {
            self.outgoing = Vec::new();
        }
        Ok(true)
    }
}
