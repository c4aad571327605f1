//! A socket and the edge-trigger invariant: every edge of the poll is either used up (a read was short, a write was
//! refused) or remembered here (`unread`, not `blocked`), for its owner to handle without waiting for another one.
//!
//! A short read usually means that the socket is empty, which saves the read that would confirm it. Two exceptions: a
//! message with ancillary data (SCM_RIGHTS, credentials) ends a read, which the kernel reports if asked. Asking costs almost
//! as much as the read that is saved, so a `thrifty` connection asks only when it has reason to, and is read again after a
//! time without input. And urgent data (MSG_OOB) ends a read at its mark; the poll reports it.
//!
//! A connection that `learns_writers` says of some reads who has written what they have read (SCM_CREDENTIALS): of those at
//! the beginning, the first ones after a pause, then of one in every `WRITER_FRESH`. As long as it wants to know, a read is
//! the bytes of one process. The kernel keeps the credentials of each write then, of ours too, so it is told when not to.
//!
//! A connection with TLS reads and writes through `secure`, once `shake` says that the handshake is done; edges are noted
//! here all the same. Bytes that are sealed count as written, since they cannot be taken back.

use super::secure::{Edge, HandshakeStep, Plain, Secure};
use super::stream::Stream;
use super::tls::TlsSession;
use crate::base::clock::Millis;
use crate::base::fds::Held;
use crate::base::limits;
use crate::base::process::UnixCredentials;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::socket::MsgFlags;
use rustix::io::{Errno, ioctl_fionread, retry_on_intr};
use rustix::net::sockopt;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send,
};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// A non-blocking connection.
#[derive(Debug)]
pub struct Conn {
    /// Declared before `stream`: see [`Held`].
    held: Held,
    stream: Stream,
    token: Token,
    /// Registered for writable as well, after a refused write: always, every byte the peer reads would wake the loop.
    armed: bool,
    /// The last write was refused and no writable edge has arrived since.
    blocked: bool,
    /// There may be bytes or an end of file to read.
    unread: bool,
    /// No further edge reports the end of file, so reading continues until it is found.
    hung_up: bool,
    /// The peer sends urgent data: a short read does not mean that the socket is empty.
    urgent: bool,
    /// How many further reads ask for ancillary data; `None` means all.
    asking: Option<u32>,
    /// The last read was short, and something other than an empty socket may have made it so.
    doubtful: bool,
    /// Its reads say who has written, if they ask.
    learns_writers: bool,
    /// The kernel keeps the credentials of what is written (SO_PASSCRED).
    keeps_credentials: bool,
    /// All that can be read was written since it does: whoever is nobody to us is really another.
    all_have_credentials: bool,
    /// When a read last asked who has written.
    asked_at: Millis,
    /// Who has written the bytes of the last read; none if it did not ask, or the system did not say.
    writer: Option<UnixCredentials>,
    ended: bool,
    /// Where it is a connection with TLS.
    secure: Option<Box<Secure>>,
}

/// The result of one read.
#[derive(Debug)]
pub enum Fill {
    /// This many bytes, at the start of the buffer.
    Bytes(usize),
    /// Nothing now.
    Empty,
    /// End of file: everything the peer sent has been read.
    End,
    /// The connection is broken.
    Broken(io::Error),
}

/// The result of one write.
#[derive(Debug)]
pub enum Flush {
    /// This many bytes were written; there may be more to write.
    Wrote(usize),
    /// Nothing is left to write, or the socket is full and a writable edge will follow.
    Done,
    /// Bytes are left, but this turn's share is used up.
    TurnOver,
}

impl Conn {
    /// A connection that is not watched yet.
    pub fn new(stream: Stream) -> Conn {
        Conn {
            held: Held::new(&stream.as_fd()),
            stream,
            token: Token(usize::MAX),
            armed: false,
            blocked: false,
            unread: false,
            hung_up: false,
            urgent: false,
            asking: None,
            doubtful: false,
            learns_writers: false,
            keeps_credentials: false,
            all_have_credentials: false,
            asked_at: 0,
            writer: None,
            ended: false,
            secure: None,
        }
    }

    /// The same for many short reads. While it is doubtful, the owner calls `look_again` after a time without input.
    pub fn thrifty(stream: Stream) -> Conn {
        Conn { asking: Some(limits::ASKING_READS), ..Conn::new(stream) }
    }

    /// From now on reads may say who has written what they have read. Only Unix sockets do; of what was sent before, the
    /// system may not know it.
    /// A socket that was accepted has the option of its listener (`is_set`).
    pub fn learn_writers(&mut self, is_set: bool) {
        let is_unix = matches!(self.stream, Stream::Unix(_));
        self.learns_writers = is_unix && (is_set || sockopt::set_socket_passcred(&self.stream, true).is_ok());
        self.keeps_credentials = self.learns_writers;
        self.all_have_credentials = is_set;
    }

    /// Whether the credentials of what is written are kept from now on.
    fn keep_credentials(&mut self, keeps: bool) {
        if self.learns_writers && self.keeps_credentials != keeps {
            let done = sockopt::set_socket_passcred(&self.stream, keeps);
            self.keeps_credentials = if done.is_ok() { keeps } else { self.keeps_credentials };
            self.all_have_credentials = false;
        }
    }

    /// Each read says who has written, whatever that takes.
    pub fn always_ask(&mut self) {
        self.asking = None;
        self.keep_credentials(true);
    }

    /// Who has written the bytes of the last read; none if it did not ask, or the system did not say.
    pub fn writer(&self) -> Option<UnixCredentials> {
        self.writer
    }

    /// Whether reads say who has written.
    pub fn learns(&self) -> bool {
        self.learns_writers
    }

    /// Registers it with the poll. A `connecting` one is also watched for writable, which reports the outcome;
    /// until then a write counts as refused.
    pub fn register(&mut self, registry: &Registry, token: Token, connecting: bool) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.stream.as_fd().as_raw_fd()), token, interest(connecting))?;
        self.token = token;
        self.armed = connecting;
        self.blocked = connecting;
        Ok(())
    }

    /// Records an event of the poll.
    pub fn observe(&mut self, event: &Event) {
        self.hung_up |= event.is_read_closed() || event.is_error();
        self.urgent |= event.is_priority();
        if event.is_readable() || self.hung_up {
            self.unread = !self.ended;
        }
        if event.is_writable() || event.is_write_closed() || event.is_error() {
            self.blocked = false;
        }
    }

    /// Whether there may be something to read.
    pub fn unread(&self) -> bool {
        self.unread
    }

    /// Whether the peer has hung up, perhaps with bytes still unread.
    pub fn hung_up(&self) -> bool {
        self.hung_up
    }

    /// Whether the end of file has been read.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Whether a write would be refused.
    pub fn blocked(&self) -> bool {
        self.blocked
    }

    /// The connection cannot send any more: input from before that is read to its end.
    pub fn hang(&mut self) {
        self.hung_up = true;
        self.unread = !self.ended;
        self.blocked = true;
    }

    /// Whether the last read may have left bytes behind that `unread` does not reflect.
    pub fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// Clears the doubt: there may be bytes to read, and the next reads ask.
    pub fn look_again(&mut self) {
        self.unread = !self.ended;
        self.doubtful = false;
        self.asking = self.asking.map(|_| limits::ASKING_READS);
        self.keep_credentials(true);
    }

    /// The stream of a connection that is not watched.
    pub fn into_stream(self) -> Stream {
        drop(self.held);
        self.stream
    }

    /// Whether its peer is on this host, on a unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self.stream, Stream::Unix(_))
    }

    /// The stream itself.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// One read. Call again while `unread`, but not before all other connections had a turn. The system closes descriptors
    /// that arrive with the bytes.
    pub fn fill(&mut self, buffer: &mut [u8], now: Millis) -> Fill {
        if self.secure.is_some() {
            return self.fill_secure(buffer);
        }
        let size = buffer.len();
        let is_unix = self.is_unix();
        if self.is_writer_stale(now) {
            self.keep_credentials(true);
        }
        let asks = is_unix && (self.asking != Some(0) || self.keeps_credentials);
        self.writer = None;
        let outcome = match asks {
            true if self.learns_writers => self.receive_and_learn(buffer, now),
            true => receive(&self.stream, buffer, &mut RecvAncillaryBuffer::default()),
            false => {
                retry_on_intr(|| rustix::io::read(&self.stream, &mut *buffer)).map(|count| (count, false))
            }
        };
        let short = matches!(outcome, Ok((count, _)) if 0 < count && count < size);
        self.doubtful = is_unix && short && !asks;
        self.all_have_credentials |= self.keeps_credentials && outcome == Err(Errno::AGAIN);
        // A read ends where another process has written, too.
        let cut_short = matches!(outcome, Ok((_, true))) || short && self.has_more_of_another();
        self.asking = self.asking.map(|left| match cut_short {
            true => limits::ASKING_READS,
            false => left.saturating_sub(1),
        });
        if self.asking == Some(0) && self.writer.is_some() {
            self.keep_credentials(false);
        }
        self.note(outcome.map(|(count, _)| count), size, cut_short)
    }

    #[inline]
    fn is_writer_stale(&self, now: Millis) -> bool {
        self.learns_writers && now.saturating_sub(self.asked_at) >= limits::WRITER_FRESH
    }

    /// Whether bytes are left behind a short read, which one of several writers may have ended.
    fn has_more_of_another(&self) -> bool {
        self.keeps_credentials && ioctl_fionread(&self.stream).is_ok_and(|left| left > 0)
    }

    fn receive_and_learn(&mut self, buffer: &mut [u8], now: Millis) -> Result<(usize, bool), Errno> {
        let read = receive_from(&self.stream, buffer, MsgFlags::empty())?;
        self.writer = read.writer.filter(|writer| self.all_have_credentials || !is_nobody(*writer));
        if self.writer.is_some() {
            self.asked_at = now;
        }
        Ok((read.bytes, read.truncated))
    }

    /// As `fill`, and appends descriptors that arrive with the bytes to `taken`: at most
    /// `limits::HANDED_READ`; the system closes the rest.
    pub fn fill_and_take(&mut self, buffer: &mut [u8], taken: &mut Vec<OwnedFd>, now: Millis) -> Fill {
        self.writer = None;
        if self.is_writer_stale(now) {
            self.keep_credentials(true);
        }
        let hides = self.keeps_credentials && self.peek_at_writer(now);
        if hides {
            // The read may bring bytes of several writers then.
            self.writer = None;
            let _ = sockopt::set_socket_passcred(&self.stream, false);
        }
        const CREDENTIALS: usize = rustix::cmsg_space!(ScmCredentials(1));
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(limits::HANDED_READ)) + CREDENTIALS];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let size = buffer.len();
        let outcome = receive(&self.stream, buffer, &mut control);
        if hides {
            let _ = sockopt::set_socket_passcred(&self.stream, true);
        }
        let mut cut_short = false;
        for message in control.drain() {
            // UnixCredentials are not looked at: where they are wanted they have been peeked at.
            match message {
                RecvAncillaryMessage::ScmRights(fds) => {
                    cut_short = true;
                    taken.extend(fds);
                }
                _ => cut_short |= !self.learns_writers,
            }
        }
        self.asking =
            self.asking.map(|left| if cut_short { limits::ASKING_READS } else { left.saturating_sub(1) });
        let short = matches!(outcome, Ok((count, _)) if 0 < count && count < size);
        cut_short |= short && self.has_more_of_another();
        if self.asking == Some(0) && self.writer.is_some() {
            self.keep_credentials(false);
        }
        let truncated = matches!(outcome, Ok((_, true)));
        if truncated {
            log::debug!("descriptors handed over were lost: too many at once, or too many open here");
        }
        self.note(outcome.map(|(count, _)| count), size, cut_short || truncated)
    }

    /// Learns who has written what the next read returns: a read that takes descriptors has no value for the credentials
    /// of a process that cannot be seen. Whether that is who has written: then the read must not be told of them.
    fn peek_at_writer(&mut self, now: Millis) -> bool {
        let peeked = receive_from(&self.stream, &mut [0], MsgFlags::MSG_PEEK);
        let writer = peeked.ok().and_then(|read| read.writer);
        self.writer = writer.filter(|writer| !is_nobody(*writer));
        if self.writer.is_some() {
            self.asked_at = now;
        }
        writer.is_some_and(|writer| writer.pid == 0)
    }

    /// Decides what follows from a read into a buffer of `size`. `cut_short`: ancillary data ended the read.
    fn note(&mut self, outcome: Result<usize, Errno>, size: usize, cut_short: bool) -> Fill {
        self.unread = false;
        match outcome {
            Ok(count) if count > 0 => {
                // Later bytes make an edge of their own, except after a hang-up, whose edge has already arrived.
                self.unread = count == size || self.hung_up || self.urgent || cut_short;
                Fill::Bytes(count)
            }
            Err(Errno::AGAIN) => Fill::Empty,
            over => {
                self.ended = true;
                over.map_or_else(|error| Fill::Broken(error.into()), |_| Fill::End)
            }
        }
    }

    /// One write of `bytes`, as far as the socket and the rest of this turn's share, `left`, allow. After a refused
    /// one, a writable edge follows.
    #[inline]
    pub fn flush_some(&mut self, registry: &Registry, bytes: &[u8], left: &mut usize) -> io::Result<Flush> {
        if self.blocked {
            return Ok(Flush::Done);
        }
        if bytes.is_empty() {
            return self.flush_nothing(registry);
        }
        if *left == 0 {
            return Ok(Flush::TurnOver);
        }
        if self.secure.is_some() {
            return self.flush_secure(registry, bytes, left);
        }
        // Never raises SIGPIPE, which an embedding program may not ignore as Rust's own start-up code does.
        match retry_on_intr(|| send(&self.stream, &bytes[..bytes.len().min(*left)], SendFlags::NOSIGNAL)) {
            Ok(count) => {
                *left -= count;
                Ok(Flush::Wrote(count))
            }
            Err(Errno::AGAIN) => {
                self.refused(registry)?;
                Ok(Flush::Done)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Registering again reports present readiness as a new edge, so none is lost in between.
    fn arm(&mut self, registry: &Registry, writable: bool) -> io::Result<()> {
        if self.armed != writable {
            let fd = self.stream.as_fd().as_raw_fd();
            registry.reregister(&mut SourceFd(&fd), self.token, interest(writable))?;
            self.armed = writable;
        }
        Ok(())
    }

    /// Nothing new is to be written. What is sealed already goes first.
    fn flush_nothing(&mut self, registry: &Registry) -> io::Result<Flush> {
        if !self.has_unsent() || self.send_sealed(registry)? {
            self.arm(registry, false)?;
        }
        Ok(Flush::Done)
    }

    /// From now on this is a connection with TLS, which begins with a handshake.
    pub fn begin_tls(&mut self, session: TlsSession) {
        self.secure = Some(Box::new(Secure::new(session)));
    }

    /// The TLS of the connection, if it has any.
    pub fn session(&self) -> Option<&TlsSession> {
        self.secure.as_ref().map(|secure| secure.session())
    }

    /// Whether bytes that count as written wait for the socket.
    pub fn has_unsent(&self) -> bool {
        self.secure.as_ref().is_some_and(|secure| secure.has_unsent())
    }

    /// One step of the handshake. Call again while `unread`, but not before all other connections had a turn. `scratch` is
    /// as long as for `fill`.
    pub fn shake(&mut self, registry: &Registry, scratch: &mut [u8]) -> HandshakeStep {
        let Some(secure) = &mut self.secure else { return HandshakeStep::Done };
        let (outcome, edge) = secure.shake(&self.stream, self.unread, scratch);
        self.note_edge(edge);
        let is_full = matches!(outcome, HandshakeStep::UnderWay | HandshakeStep::Done) && self.has_unsent();
        if is_full && let Err(error) = self.refused(registry) {
            return HandshakeStep::Failed(error.to_string());
        }
        outcome
    }

    fn note_edge(&mut self, edge: Edge) {
        self.unread = match edge {
            Edge::Full => true,
            Edge::Short => self.hung_up || self.urgent,
            Edge::Empty | Edge::Over => false,
        };
        self.ended |= edge == Edge::Over;
    }

    fn fill_secure(&mut self, buffer: &mut [u8]) -> Fill {
        self.writer = None;
        let Some(secure) = &mut self.secure else { return Fill::Empty };
        let (mut plain, mut edge) = secure.fill(&self.stream, buffer);
        for _ in 1..limits::TLS_READS {
            let may_be_more = edge == Edge::Full || edge == Edge::Short && self.hung_up;
            if !matches!(plain, Plain::Nothing) || !may_be_more {
                break;
            }
            (plain, edge) = secure.fill(&self.stream, buffer);
        }
        self.note_edge(edge);
        match plain {
            Plain::Bytes(count) => Fill::Bytes(count),
            Plain::Nothing => Fill::Empty,
            Plain::End => Fill::End,
            Plain::Broken(error) => Fill::Broken(error),
        }
    }

    fn flush_secure(&mut self, registry: &Registry, bytes: &[u8], left: &mut usize) -> io::Result<Flush> {
        if self.has_unsent() && !self.send_sealed(registry)? {
            return Ok(Flush::Done);
        }
        let Some(secure) = &mut self.secure else { return Ok(Flush::Done) };
        let count = bytes.len().min(*left).min(limits::SEAL_MAX);
        secure.seal(&bytes[..count])?;
        if self.send_sealed(registry).is_err() {
            // A record may have left whole: what was sealed counts as written, and the end is found by the next read.
            self.hang();
        }
        *left -= count;
        Ok(Flush::Wrote(count))
    }

    /// True if all has gone that was sealed.
    fn send_sealed(&mut self, registry: &Registry) -> io::Result<bool> {
        let Some(secure) = &mut self.secure else { return Ok(true) };
        let sent = secure.send(&self.stream)?;
        if !sent {
            self.refused(registry)?;
        }
        Ok(sent)
    }

    /// The socket is full: a writable edge will follow.
    fn refused(&mut self, registry: &Registry) -> io::Result<()> {
        self.blocked = true;
        self.arm(registry, true)
    }

    /// Ends our direction; the peer reads an end and closes its own.
    pub fn end_writing(&mut self) -> io::Result<()> {
        if let Some(secure) = &mut self.secure {
            secure.end(&self.stream);
        }
        self.stream.shutdown_write()
    }

    /// Deregisters, and nothing else: the socket goes to another owner, perhaps in another process. Not one with TLS.
    pub fn release(self, registry: &Registry) -> Stream {
        debug_assert!(self.secure.is_none(), "the keys of its TLS stay here");
        let _ = registry.deregister(&mut SourceFd(&self.stream.as_fd().as_raw_fd()));
        self.into_stream()
    }

    /// Deregisters, shuts down and closes, in this order: a forked copy may keep the socket open, and would
    /// otherwise make events for a token that is no longer ours.
    pub fn close(mut self, registry: &Registry) {
        if let Some(secure) = &mut self.secure {
            secure.end(&self.stream);
        }
        let _ = registry.deregister(&mut SourceFd(&self.stream.as_fd().as_raw_fd()));
        let _ = self.stream.shutdown();
    }
}

/// Bytes of a control message with credentials, and where its parts are: a `cmsghdr` (length, level, type), a `ucred`.
const CREDENTIALS_LEN: usize = size_of::<libc::cmsghdr>() + size_of::<libc::ucred>();

/// Room for the credentials of a writer and for nothing else: the system closes descriptors that come along.
#[repr(align(8))]
struct CredentialsBuffer([u8; CREDENTIALS_LEN.next_multiple_of(size_of::<usize>())]);

struct ReadOnce {
    bytes: usize,
    /// Descriptors came along, and there was no room for them.
    truncated: bool,
    writer: Option<UnixCredentials>,
}

fn receive_from(stream: &Stream, buffer: &mut [u8], flags: MsgFlags) -> Result<ReadOnce, Errno> {
    let mut control = CredentialsBuffer([0; _]);
    let fd = stream.as_fd().as_raw_fd();
    let (bytes, truncated) = loop {
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
        match nix::sys::socket::recvmsg::<()>(fd, &mut parts, Some(&mut control.0), flags) {
            Ok(message) => break (message.bytes, message.flags.contains(MsgFlags::MSG_CTRUNC)),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(Errno::from_raw_os_error(error as i32)),
        }
    };
    Ok(ReadOnce { bytes, truncated, writer: credentials_in(&control.0) })
}

fn credentials_in(control: &[u8]) -> Option<UnixCredentials> {
    let word = |at: usize| control.get(at..at + 4)?.try_into().ok().map(i32::from_ne_bytes);
    let len = usize::from_ne_bytes(control.get(..size_of::<usize>())?.try_into().ok()?);
    let header = size_of::<usize>();
    let is_them = len == CREDENTIALS_LEN
        && word(header)? == libc::SOL_SOCKET
        && word(header + 4)? == libc::SCM_CREDENTIALS;
    let (pid, uid, gid) = (word(header + 8)?, word(header + 12)?, word(header + 16)?);
    is_them.then_some(UnixCredentials { pid, uid: uid as u32, gid: gid as u32 })
}

/// Whether these are what the system says of bytes that came before anybody wanted to know.
fn is_nobody(writer: UnixCredentials) -> bool {
    const OVERFLOW_ID: u32 = 65534;
    writer == UnixCredentials { pid: 0, uid: OVERFLOW_ID, gid: OVERFLOW_ID }
}

/// A read that asks for ancillary data: returns how many bytes, and whether data arrived that `control` has no room for.
fn receive(
    stream: &Stream,
    buffer: &mut [u8],
    control: &mut RecvAncillaryBuffer<'_>,
) -> Result<(usize, bool), Errno> {
    let mut parts = [IoSliceMut::new(buffer)];
    let received = retry_on_intr(|| recvmsg(stream, &mut parts, control, RecvFlags::CMSG_CLOEXEC))?;
    Ok((received.bytes, received.flags.contains(ReturnFlags::CTRUNC)))
}

/// Urgent data is requested, so that the poll reports where reads end early.
fn interest(writable: bool) -> Interest {
    let readable = Interest::READABLE | Interest::PRIORITY;
    if writable { readable | Interest::WRITABLE } else { readable }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::net::UnixStream;
    use mio::{Events, Poll};
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::time::Duration;

    const TOKEN: Token = Token(7);

    fn pair() -> (Poll, Conn, std::os::unix::net::UnixStream) {
        let poll = Poll::new().unwrap();
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let mut conn = Conn::new(Stream::Unix(UnixStream::from_std(near)));
        conn.register(poll.registry(), TOKEN, false).unwrap();
        (poll, conn, far)
    }

    /// Polls once; how many events there were.
    fn observe(poll: &mut Poll, conn: &mut Conn) -> usize {
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        for event in &events {
            conn.observe(event);
        }
        events.iter().count()
    }

    fn fill(conn: &mut Conn, buffer: &mut [u8], take: bool) -> Fill {
        if take { conn.fill_and_take(buffer, &mut Vec::new(), 0) } else { conn.fill(buffer, 0) }
    }

    #[test]
    fn a_short_read_ends_it_and_a_full_one_does_not() {
        let (mut poll, mut conn, mut far) = pair();
        far.write_all(b"12345").unwrap();
        assert_eq!(observe(&mut poll, &mut conn), 1);
        let mut buffer = [0; 4];
        assert!(matches!(conn.fill(&mut buffer, 0), Fill::Bytes(4)));
        assert!(conn.unread(), "the edge is used up, a byte is left");
        assert_eq!(observe(&mut poll, &mut conn), 0);
        assert!(matches!(conn.fill(&mut buffer, 0), Fill::Bytes(1)));
        assert!(!conn.unread());
        assert!(matches!(conn.fill(&mut buffer, 0), Fill::Empty));
    }

    /// Bytes and the end of file in one edge: a short read must not be the last.
    #[test]
    fn the_end_is_found_behind_the_last_bytes() {
        let (mut poll, mut conn, mut far) = pair();
        far.write_all(b"bye").unwrap();
        drop(far);
        observe(&mut poll, &mut conn);
        assert!(conn.hung_up());
        let mut buffer = [0; 64];
        assert!(matches!(conn.fill(&mut buffer, 0), Fill::Bytes(3)));
        assert!(conn.unread());
        assert!(matches!(conn.fill(&mut buffer, 0), Fill::End));
        observe(&mut poll, &mut conn);
        assert!(!conn.unread(), "an end is read once");
    }

    #[test]
    fn writable_is_watched_only_after_a_refused_write() {
        let (mut poll, mut conn, mut far) = pair();
        let mut left = usize::MAX;
        while let Flush::Wrote(_) = conn.flush_some(poll.registry(), &[0; 1 << 16], &mut left).unwrap() {}
        let sent = usize::MAX - left;
        assert!(conn.blocked());
        observe(&mut poll, &mut conn);
        assert!(conn.blocked());
        let mut taken = vec![0; sent];
        far.read_exact(&mut taken).unwrap();
        assert_eq!(observe(&mut poll, &mut conn), 1);
        assert!(!conn.blocked());
        assert!(conn.armed);
        conn.flush_some(poll.registry(), b"", &mut left).unwrap();
        far.write_all(b"x").unwrap();
        assert_eq!(observe(&mut poll, &mut conn), 1);
        assert!(!conn.armed);
    }

    #[test]
    fn a_peer_that_has_gone_is_an_error_not_a_signal() {
        let (mut poll, mut conn, far) = pair();
        far.shutdown(Shutdown::Both).unwrap();
        let error = conn.flush_some(poll.registry(), b"x", &mut 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        conn.hang();
        assert!(matches!(conn.fill(&mut [0; 8], 0), Fill::End));
        observe(&mut poll, &mut conn);
        conn.close(poll.registry());
    }

    /// Reads as the loop does: while the connection says that there may be more.
    fn read_on(conn: &mut Conn, take: bool) -> Vec<u8> {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 64]);
        while conn.unread() {
            match fill(conn, &mut buffer, take) {
                Fill::Bytes(count) => bytes.extend_from_slice(&buffer[..count]),
                Fill::Empty => {}
                other => panic!("{other:?}"),
            }
        }
        bytes
    }

    fn send_with_descriptor(far: &std::os::unix::net::UnixStream, bytes: &[u8]) {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, sendmsg};
        let fds = [std::os::fd::AsFd::as_fd(far)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let sent = sendmsg(far, &[io::IoSlice::new(bytes)], &mut control, SendFlags::empty());
        assert_eq!(sent, Ok(bytes.len()));
    }

    /// A message with descriptors ends a read, whatever has come behind it.
    #[test]
    fn what_comes_behind_descriptors_is_read_on_the_same_edge() {
        for take in [false, true] {
            let (mut poll, mut conn, mut far) = pair();
            far.write_all(b"a").unwrap();
            for _ in 0..3 {
                send_with_descriptor(&far, b"b");
            }
            far.write_all(b"c").unwrap();
            assert_eq!(observe(&mut poll, &mut conn), 1);
            assert_eq!(read_on(&mut conn, take), b"abbbc");
            assert_eq!(observe(&mut poll, &mut conn), 0);
        }
    }

    /// A thrifty connection leaves them, knows that it may have, and has them when it looks again; then it asks.
    #[test]
    fn a_thrifty_connection_finds_what_it_left_when_it_looks_again() {
        let (mut poll, conn, mut far) = pair();
        let mut conn = Conn { asking: Some(limits::ASKING_READS), ..conn };
        for _ in 0..limits::ASKING_READS {
            assert!(!conn.is_doubtful());
            far.write_all(b"x").unwrap();
            observe(&mut poll, &mut conn);
            assert_eq!(read_on(&mut conn, false), b"x");
        }
        (0..3).for_each(|_| send_with_descriptor(&far, b"a"));
        observe(&mut poll, &mut conn);
        assert_eq!(read_on(&mut conn, false), b"a");
        assert!(conn.is_doubtful());
        conn.look_again();
        assert_eq!(read_on(&mut conn, false), b"aa");
        (0..3).for_each(|_| send_with_descriptor(&far, b"b"));
        observe(&mut poll, &mut conn);
        assert_eq!(read_on(&mut conn, false), b"bbb");
        // Looking where nothing was left leaves no doubt.
        conn.look_again();
        assert_eq!(read_on(&mut conn, false), b"");
        assert!(!conn.is_doubtful());
    }

    /// The same where the socket asks who sends: writers are not mixed in one read.
    #[test]
    fn what_comes_behind_credentials_is_read_on_the_same_edge() {
        for take in [false, true] {
            let (mut poll, mut conn, mut far) = pair();
            rustix::net::sockopt::set_socket_passcred(conn.stream(), true).unwrap();
            far.write_all(b"a").unwrap();
            assert_eq!(observe(&mut poll, &mut conn), 1);
            assert!(matches!(fill(&mut conn, &mut [0; 64], take), Fill::Bytes(1)) && conn.unread());
            assert_eq!(read_on(&mut conn, take), b"");
        }
    }

    /// Another process writes to the socket that this one has connected.
    fn write_as_another(far: &std::os::unix::net::UnixStream, text: &str) -> i32 {
        let mut writer = std::process::Command::new("printf");
        let stdout = OwnedFd::from(far.try_clone().unwrap());
        let mut writer = writer.arg(text).stdout(stdout).spawn().unwrap();
        let pid = writer.id() as i32;
        assert!(writer.wait().unwrap().success());
        pid
    }

    #[test]
    fn who_writes_is_known_of_each_read_that_asks() {
        let me = std::process::id() as i32;
        let writer_of = |conn: &Conn| conn.writer().map(|who| who.pid);
        for take in [false, true] {
            let (mut poll, conn, mut far) = pair();
            let mut conn = Conn { asking: Some(1), ..conn };
            far.write_all(b"?").unwrap();
            conn.learn_writers(false);
            assert!(conn.learns());
            observe(&mut poll, &mut conn);
            assert!(matches!(fill(&mut conn, &mut [0; 64], take), Fill::Bytes(1)));
            assert_eq!(writer_of(&conn), None, "it was sent before anybody wanted to know");
            conn.look_again();
            far.write_all(b"a").unwrap();
            let other = write_as_another(&far, "b");
            observe(&mut poll, &mut conn);
            assert!(matches!(fill(&mut conn, &mut [0; 64], take), Fill::Bytes(1)));
            assert_eq!(writer_of(&conn), Some(me));
            assert!(conn.unread(), "a read ends where another has written");
            assert!(matches!(fill(&mut conn, &mut [0; 64], take), Fill::Bytes(1)));
            assert_eq!(writer_of(&conn), Some(other));
        }
    }

    #[test]
    fn a_busy_connection_is_asked_now_and_then() {
        let (mut poll, conn, mut far) = pair();
        let mut conn = Conn { asking: Some(0), ..conn };
        conn.learn_writers(false);
        let mut asked = Vec::new();
        for now in 1..=3 * limits::WRITER_FRESH {
            far.write_all(b"x").unwrap();
            observe(&mut poll, &mut conn);
            assert!(matches!(conn.fill(&mut [0; 64], now), Fill::Bytes(1)));
            asked.extend(conn.writer().map(|_| now));
        }
        // The first that comes once it is wanted again was sent before that.
        assert_eq!(asked, [1, limits::WRITER_FRESH + 2, 2 * limits::WRITER_FRESH + 3]);
    }

    /// Descriptors that nobody wants do not come in, with or without credentials.
    #[test]
    fn descriptors_are_closed_where_none_are_wanted() {
        let (mut poll, mut conn, far) = pair();
        conn.learn_writers(false);
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        send_with_descriptor(&far, b"a");
        let before = open();
        observe(&mut poll, &mut conn);
        assert!(matches!(conn.fill(&mut [0; 64], 0), Fill::Bytes(1)) && conn.unread());
        assert_eq!(conn.writer().map(|who| who.pid), Some(std::process::id() as i32));
        // Other tests open and close some meanwhile; a leak would be one for each message.
        (0..100).for_each(|_| {
            send_with_descriptor(&far, b"a");
            conn.fill(&mut [0; 64], 0);
        });
        assert!(open() < before + 90);
    }

    #[test]
    fn what_comes_behind_urgent_data_is_read_on_the_same_edge() {
        let (mut poll, mut conn, far) = pair();
        let unix = socket2::Socket::from(OwnedFd::from(far));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        far.set_nodelay(true).unwrap();
        let near = listener.accept().unwrap().0;
        near.set_nonblocking(true).unwrap();
        let mut over_tcp = Conn::new(Stream::Tcp(mio::net::TcpStream::from_std(near)));
        over_tcp.register(poll.registry(), TOKEN, false).unwrap();
        let tcp = socket2::Socket::from(OwnedFd::from(far));

        for (conn, far) in [(&mut conn, unix), (&mut over_tcp, tcp)] {
            far.send(b"a").unwrap();
            // Linux has it for unix sockets since 5.15, if it is built with it.
            match far.send_out_of_band(b"!") {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => continue,
                sent => sent.map(drop).unwrap(),
            }
            far.send(b"b").unwrap();
            // Loopback delivers what was sent before the next look.
            while !conn.unread() {
                observe(&mut poll, conn);
            }
            assert_eq!(read_on(conn, false), b"ab");
        }
    }

    /// What the edge-trigger rule saves: ordinary bytes cost one read.
    #[test]
    fn ordinary_bytes_are_read_once() {
        for take in [false, true] {
            let (mut poll, mut conn, mut far) = pair();
            for _ in 0..3 {
                far.write_all(b"12").unwrap();
            }
            assert_eq!(observe(&mut poll, &mut conn), 1);
            assert!(matches!(fill(&mut conn, &mut [0; 64], take), Fill::Bytes(6)) && !conn.unread());
        }
    }
}
