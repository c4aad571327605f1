//! Where RESP values end, found byte by byte, and a connection that reads with it. Knows nothing of the crate:
//! its parser is never its own judge.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::support::End;

/// Finds the end of one value after the other in a stream that comes in any pieces. A request is a value too.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    /// Values that still have to begin before the present one is complete.
    due: usize,
    /// Bytes left of a bulk string, its CRLF included.
    body: usize,
    /// The header so far.
    line: Vec<u8>,
    begun: bool,
}

impl Scanner {
    /// Takes bytes up to the end of the present value. Returns how many, and whether it is complete; an error
    /// for what is not RESP.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(usize, bool), String> {
        let mut used = 0;
        while used < bytes.len() {
            if !self.begun {
                (self.begun, self.due) = (true, 1);
            }
            if self.body > 0 {
                let part = self.body.min(bytes.len() - used);
                self.body -= part;
                used += part;
            } else {
                let end = bytes[used..].iter().position(|byte| *byte == b'\n');
                let stop = end.map_or(bytes.len(), |end| used + end + 1);
                self.line.extend_from_slice(&bytes[used..stop]);
                used = stop;
                if !self.line.ends_with(b"\r\n") {
                    continue;
                }
                self.header()?;
                self.line.clear();
            }
            if self.due == 0 && self.body == 0 {
                self.begun = false;
                return Ok((used, true));
            }
        }
        Ok((used, false))
    }

    fn header(&mut self) -> Result<(), String> {
        let wrong = || format!("not RESP: {}", self.line.escape_ascii());
        let text = std::str::from_utf8(&self.line[1..self.line.len() - 2]).map_err(|_| wrong())?;
        let count = || text.parse::<i64>().map_err(|_| wrong());
        self.due -= 1;
        match self.line[0] {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {}
            b'$' | b'=' | b'!' => {
                if let Ok(length) = usize::try_from(count()?) {
                    self.body = length + 2;
                }
            }
            b'*' | b'~' | b'>' => self.due += usize::try_from(count()?).unwrap_or(0),
            b'%' => self.due += 2 * usize::try_from(count()?).unwrap_or(0),
            b'|' => self.due += 2 * usize::try_from(count()?).unwrap_or(0) + 1,
            _ => return Err(wrong()),
        }
        Ok(())
    }
}

/// The elements of a flat or nested array or push; none when the value is something else.
pub(crate) fn elements(frame: &[u8]) -> Option<Vec<&[u8]>> {
    let head = frame.iter().position(|byte| *byte == b'\n')? + 1;
    if !matches!(frame[0], b'*' | b'>') || frame[1] == b'-' {
        return None;
    }
    let (mut rest, mut found) = (&frame[head..], Vec::new());
    while !rest.is_empty() {
        let (length, true) = Scanner::default().take(rest).ok()? else { return None };
        found.push(&rest[..length]);
        rest = &rest[length..];
    }
    Some(found)
}

/// The text of a bulk string.
pub(crate) fn bulk_text(frame: &[u8]) -> Option<&[u8]> {
    let head = frame.iter().position(|byte| *byte == b'\n')? + 1;
    (frame[0] == b'$' && frame[1] != b'-').then(|| &frame[head..frame.len() - 2])
}

/// Text as a bulk string.
pub(crate) fn bulk(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

/// One connection to the broker.
#[derive(Debug)]
pub(crate) struct Conn {
    stream: UnixStream,
    scanner: Scanner,
    unread: Vec<u8>,
    /// Where the present value begins in `unread`, and how far it has been scanned.
    start: usize,
    scanned: usize,
    pub(crate) number: u32,
}

/// Why there is no value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoReply {
    Ended(End),
    /// These bytes are no RESP.
    Garbage(String),
}

impl Conn {
    pub(crate) fn open(path: &Path, number: u32, patience: Duration) -> Conn {
        let stream = UnixStream::connect(path).expect("connect to the broker");
        stream.set_write_timeout(Some(patience)).expect("write timeout");
        let conn =
            Conn { stream, scanner: Scanner::default(), unread: Vec::new(), start: 0, scanned: 0, number };
        conn.set_patience(patience);
        conn
    }

    pub(crate) fn set_patience(&self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).expect("read timeout");
    }

    /// Writes everything. A peer that has closed shows when its replies are read.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            let closed = matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
            assert!(closed, "write to the broker: {error}");
        }
    }

    pub(crate) fn half_close(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// The next complete value.
    pub(crate) fn reply(&mut self) -> Result<Vec<u8>, NoReply> {
        loop {
            if self.scanned < self.unread.len() {
                let taken = self.scanner.take(&self.unread[self.scanned..]);
                let (used, complete) = taken.map_err(NoReply::Garbage)?;
                self.scanned += used;
                if complete {
                    let frame = self.unread[self.start..self.scanned].to_vec();
                    self.start = self.scanned;
                    return Ok(frame);
                }
            }
            self.unread.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<(), NoReply> {
        let mut chunk = [0u8; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(NoReply::Ended(End::Closed)),
            Ok(length) => {
                self.unread.extend_from_slice(&chunk[..length]);
                Ok(())
            }
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => Ok(()),
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(NoReply::Ended(End::Silent)),
                _ => Err(NoReply::Ended(End::Closed)),
            },
        }
    }
}
