//! A client of bytes: writes what it is told, reads one RESP frame at a time with a parser of its own, so
//! that the crate's parser is never its own judge. Every read ends in time.

use broker::resp::encode;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Reads give up after this long: a hang is a failure with a text, not a stuck run.
const READ_TIMEOUT: Duration = Duration::from_secs(15);

/// Why no frame came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The peer closed the connection.
    Closed,
    /// Nothing came in time; the connection is still open.
    Silent,
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// One connection, and the bytes read from it that no frame has used yet.
pub(crate) struct Raw {
    stream: Stream,
    unread: Vec<u8>,
}

/// Encodes a request as an array of bulk strings.
pub(crate) fn request<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::request_of(&mut out, args.iter().map(A::as_ref));
    out
}

/// Encodes lines of words, one request per line.
pub(crate) fn pipeline(lines: &[&str]) -> Vec<u8> {
    lines.iter().flat_map(|line| request(&words(line))).collect()
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').filter(|word| !word.is_empty()).collect()
}

/// Bytes as a failing test should print them; long ones are cut.
pub(crate) fn show(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    if text.len() <= 600 { text } else { format!("{}... ({} bytes)", &text[..600], bytes.len()) }
}

impl Raw {
    /// Connects to a unix socket.
    pub(crate) fn unix(path: &Path) -> Raw {
        Raw::try_unix(path).unwrap_or_else(|error| panic!("connect {}: {error}", path.display()))
    }

    /// A client over a connected socket.
    pub(crate) fn of(stream: UnixStream) -> Raw {
        let mut raw = Raw { stream: Stream::Unix(stream), unread: Vec::new() };
        raw.set_patience(READ_TIMEOUT);
        raw
    }

    /// Connects to a unix socket, or says why not.
    pub(crate) fn try_unix(path: &Path) -> io::Result<Raw> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.set_write_timeout(Some(READ_TIMEOUT))?;
        Ok(Raw { stream: Stream::Unix(stream), unread: Vec::new() })
    }

    /// Connects to `host:port`.
    pub(crate) fn tcp(address: &str) -> Raw {
        let stream = TcpStream::connect(address).expect("connect over TCP");
        stream.set_read_timeout(Some(READ_TIMEOUT)).expect("read timeout");
        stream.set_write_timeout(Some(READ_TIMEOUT)).expect("write timeout");
        stream.set_nodelay(true).expect("no delay");
        Raw { stream: Stream::Tcp(stream), unread: Vec::new() }
    }

    /// How long a read may wait.
    pub(crate) fn set_patience(&mut self, limit: Duration) {
        match &self.stream {
            Stream::Unix(stream) => stream.set_read_timeout(Some(limit)),
            Stream::Tcp(stream) => stream.set_read_timeout(Some(limit)),
        }
        .expect("read timeout");
    }

    /// A second handle on the same connection, for a thread that only writes.
    pub(crate) fn writer(&self) -> Raw {
        let stream = match &self.stream {
            Stream::Unix(stream) => Stream::Unix(stream.try_clone().expect("clone the socket")),
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone().expect("clone the socket")),
        };
        Raw { stream, unread: Vec::new() }
    }

    /// Writes all bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes).unwrap_or_else(|error| panic!("write {}: {error}", show(bytes)));
    }

    /// Writes all bytes unless the peer is gone.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tcp(stream) => stream.write_all(bytes),
        }
    }

    /// Sends one request given as words.
    pub(crate) fn send(&mut self, line: &str) {
        self.write(&request(&words(line)));
    }

    /// Sends one request given as words and returns its reply.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.send(line);
        let reply = self.try_reply().unwrap_or_else(|end| panic!("no reply to {line}: {end:?}"));
        String::from_utf8_lossy(&reply).into_owned()
    }

    /// The same; none if the peer is gone.
    pub(crate) fn try_ask(&mut self, line: &str) -> Option<String> {
        self.try_write(&request(&words(line))).ok()?;
        Some(String::from_utf8_lossy(&self.try_reply().ok()?).into_owned())
    }

    /// Sends one request of any bytes and returns its reply.
    pub(crate) fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Vec<u8> {
        self.write(&request(args));
        self.read_reply()
    }

    /// Asks and compares the whole reply.
    #[track_caller]
    pub(crate) fn expect(&mut self, line: &str, reply: &str) {
        let got = self.ask(line);
        assert_eq!(got, reply, "reply to {line}");
    }

    /// Reads one complete frame.
    #[track_caller]
    pub(crate) fn read_reply(&mut self) -> Vec<u8> {
        self.try_reply().unwrap_or_else(|end| panic!("{end:?} where a reply was due"))
    }

    /// Reads one complete frame as text.
    #[track_caller]
    pub(crate) fn read_text(&mut self) -> String {
        String::from_utf8_lossy(&self.read_reply()).into_owned()
    }

    /// Reads one complete frame, or says why there is none.
    pub(crate) fn try_reply(&mut self) -> Result<Vec<u8>, End> {
        loop {
            if let Some(length) = frame_length(&self.unread, 0) {
                return Ok(self.unread.drain(..length).collect());
            }
            self.fill()?;
        }
    }

    /// Reads until the peer closes or falls silent; returns all bytes and how it ended.
    pub(crate) fn read_all(&mut self) -> (Vec<u8>, End) {
        loop {
            if let Err(end) = self.fill() {
                return (std::mem::take(&mut self.unread), end);
            }
        }
    }

    /// Reads until the bytes end in `tail` (kept), the peer closes or falls silent.
    pub(crate) fn read_past(&mut self, tail: &[u8]) -> (Vec<u8>, Option<End>) {
        while !self.unread.ends_with(tail) {
            if let Err(end) = self.fill() {
                return (std::mem::take(&mut self.unread), Some(end));
            }
        }
        (std::mem::take(&mut self.unread), None)
    }

    /// Whether nothing arrives for a moment: for the few assertions that something does not happen.
    pub(crate) fn is_silent(&mut self, moment: Duration) -> bool {
        self.set_patience(moment);
        let silent = self.unread.is_empty() && self.fill() == Err(End::Silent);
        self.set_patience(READ_TIMEOUT);
        silent
    }

    /// Whether the peer closes, whatever it sends before.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.read_all().1 == End::Closed
    }

    /// Ends the sending half.
    pub(crate) fn half_close(&mut self) {
        match &self.stream {
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
        }
        .expect("half-close");
    }

    fn fill(&mut self) -> Result<(), End> {
        let mut chunk = [0u8; 64 * 1024];
        let read = match &mut self.stream {
            Stream::Unix(stream) => stream.read(&mut chunk),
            Stream::Tcp(stream) => stream.read(&mut chunk),
        };
        match read {
            Ok(0) => Err(End::Closed),
            Ok(length) => {
                self.unread.extend_from_slice(&chunk[..length]);
                Ok(())
            }
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => Ok(()),
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(End::Silent),
                // A peer that closes with input unread resets the connection; to a client both are the end.
                _ => Err(End::Closed),
            },
        }
    }
}

/// Length of the complete frame at `at`, or none while bytes are missing. Panics on what is not RESP.
fn frame_length(bytes: &[u8], at: usize) -> Option<usize> {
    let mut position = at;
    // Frames still to read at this place; aggregates add theirs.
    let mut due = 1usize;
    while due > 0 {
        let rest = bytes.get(position..)?;
        let line = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let kind = rest[0];
        let count = || {
            let digits = std::str::from_utf8(&rest[1..line]).expect("a length");
            digits.parse::<i64>().unwrap_or_else(|_| panic!("not a length: {}", show(&rest[..line])))
        };
        position += line + 2;
        due -= 1;
        match kind {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {}
            b'$' | b'=' | b'!' => {
                if let Ok(length) = usize::try_from(count()) {
                    position += length + 2;
                }
            }
            b'*' | b'~' | b'>' => due += usize::try_from(count()).unwrap_or(0),
            b'%' => due += 2 * usize::try_from(count()).unwrap_or(0),
            // Attributes come before the frame they belong to.
            b'|' => due += 2 * usize::try_from(count()).unwrap_or(0) + 1,
            _ => panic!("not RESP: {}", show(rest)),
        }
        if position > bytes.len() {
            return None;
        }
    }
    Some(position - at)
}
