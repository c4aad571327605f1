//! One connection that never blocks: what has come is cut into frames. Owns a socket; knows no command.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::frames::{Frame, Parsed, parse};

pub(crate) struct Link {
    stream: UnixStream,
    unread: Vec<u8>,
    pub(crate) frames: VecDeque<Frame>,
    /// The peer has closed, or sent what is no RESP.
    pub(crate) closed: bool,
}

impl Link {
    pub(crate) fn open(path: &Path) -> Link {
        let stream = UnixStream::connect(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        stream.set_nonblocking(true).expect("a socket that does not block");
        Link { stream, unread: Vec::new(), frames: VecDeque::new(), closed: false }
    }

    /// Writes all, reading meanwhile; a peer that has gone takes nothing.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(Instant::now() < deadline, "the peer takes nothing");
                    self.pump();
                    self.wait(PollFlags::IN | PollFlags::OUT, 50);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Takes what has come; whether anything had.
    pub(crate) fn pump(&mut self) -> bool {
        let mut chunk = [0u8; 64 * 1024];
        let before = (self.unread.len(), self.closed);
        while !self.closed {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.closed = true,
                Ok(length) => self.unread.extend_from_slice(&chunk[..length]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => break,
                    ErrorKind::Interrupted => {}
                    // A peer that closes with input unread resets: to a client both are the end.
                    _ => self.closed = true,
                },
            }
        }
        let progress = (self.unread.len(), self.closed) != before;
        if progress {
            self.cut();
        }
        progress
    }

    fn cut(&mut self) {
        let mut at = 0;
        while at < self.unread.len() {
            match parse(&self.unread[at..]) {
                Parsed::Whole(frame, length) => {
                    self.frames.push_back(frame);
                    at += length;
                }
                Parsed::Partial => break,
                Parsed::Garbage => {
                    let text = self.unread[at..].to_vec();
                    self.frames.push_back(Frame { kind: b'?', null: false, text, items: Vec::new() });
                    self.closed = true;
                    at = self.unread.len();
                }
            }
        }
        self.unread.drain(..at);
    }

    /// Waits for something to read, at most so many milliseconds.
    pub(crate) fn wait_readable(&self, millis: u32) {
        self.wait(PollFlags::IN, millis);
    }

    fn wait(&self, flags: PollFlags, millis: u32) {
        let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(millis) * 1_000_000 };
        let _ = poll(&mut [PollFd::new(&self.stream, flags)], Some(&limit));
    }
}
