//! An HTTP client of bytes: writes what it is told, reads one answer at a time by its Content-Length. Every read ends in
//! time.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::PATIENCE;

trait Socket: Read + Write {
    fn end_writing(&self) -> io::Result<()>;
    fn wait_at_most(&self, limit: Duration) -> io::Result<()>;
}

impl Socket for TcpStream {
    fn end_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn wait_at_most(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))
    }
}

impl Socket for UnixStream {
    fn end_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn wait_at_most(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))
    }
}

/// One connection, and what was read from it and used by no answer yet.
pub(crate) struct Http {
    socket: Box<dyn Socket>,
    unread: Vec<u8>,
}

/// One answer.
#[derive(Debug)]
pub(crate) struct HttpReply {
    pub(crate) status: u16,
    /// The status line and the fields.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl HttpReply {
    /// The value of a field, empty where there is none.
    pub(crate) fn field(&self, name: &str) -> &str {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }

    /// The number of a series, by its name and labels as they are written.
    pub(crate) fn number(&self, series: &str) -> f64 {
        let numbers = self.body.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let numbers: Vec<f64> = numbers.map(|text| text.parse().expect("a number")).collect();
        assert_eq!(numbers.len(), 1, "{series} in\n{}", self.body);
        numbers[0]
    }
}

impl Http {
    /// Connects to `tcp://host:port` or `unix:///path`.
    pub(crate) fn connect(url: &str) -> Http {
        Http::try_connect(url).unwrap_or_else(|error| panic!("connect {url}: {error}"))
    }

    /// The same, or why not.
    pub(crate) fn try_connect(url: &str) -> io::Result<Http> {
        let socket: Box<dyn Socket> = match url.strip_prefix("tcp://") {
            Some(address) => Box::new(TcpStream::connect(address)?),
            None => Box::new(UnixStream::connect(url.strip_prefix("unix://").expect("a URL"))?),
        };
        socket.wait_at_most(PATIENCE)?;
        Ok(Http { socket, unread: Vec::new() })
    }

    /// Writes bytes. Who is not listened to any more is told so by what it reads.
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.socket.write_all(bytes.as_ref());
    }

    /// Nothing more will be written.
    pub(crate) fn end_writing(&self) {
        self.socket.end_writing().expect("shut down");
    }

    /// The next answer, which has a body unless it is one to HEAD.
    pub(crate) fn read(&mut self, has_body: bool) -> HttpReply {
        self.try_read(has_body).expect("an answer")
    }

    /// The same, or how the connection has ended.
    pub(crate) fn try_read(&mut self, has_body: bool) -> io::Result<HttpReply> {
        let end = loop {
            match self.unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                Some(end) => break end,
                None => self.read_more()?,
            }
        };
        let head = String::from_utf8(self.unread.drain(..end + 4).collect()).expect("text");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let mut reply = HttpReply { status, head, body: String::new() };
        let length: usize = reply.field("Content-Length").parse().expect("a length");
        if has_body {
            while self.unread.len() < length {
                self.read_more()?;
            }
            reply.body = String::from_utf8(self.unread.drain(..length).collect()).expect("text");
        }
        Ok(reply)
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        let count = loop {
            match self.socket.read(&mut chunk) {
                // Other tests of this process have signals handled.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.unread.extend_from_slice(&chunk[..count]);
        Ok(())
    }

    /// Asks for a page with these further lines in the head.
    pub(crate) fn ask(&mut self, request: &str, lines: &str) -> HttpReply {
        self.write(format!("{request} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n"));
        self.read(!request.starts_with("HEAD "))
    }

    /// GETs a page.
    pub(crate) fn get(&mut self, path: &str) -> HttpReply {
        self.ask(&format!("GET {path}"), "")
    }

    /// Whether the connection ends with nothing more to read.
    pub(crate) fn ends(&mut self) -> bool {
        self.unread.is_empty()
            && self.read_more().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
    }
}
