//! HTTP connections in the loop: at most one request of each at a time is read, answered and written, within bounds of time
//! and memory. They are no children, and the loop ends without waiting for them. What is said is `monitor`'s.

use super::metrics::Scrape;
use super::pace::StepKind;
use super::status::StatusText;
use super::{Link, Loop, Owner};
use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::base::limits;
use crate::core::Readiness;
use crate::monitor::answer::{Content, JSON, PLAIN, answer, plain};
use crate::monitor::page::StatusPage;
use crate::monitor::request::{self, HttpRequest, Page};
use crate::monitor::{Hosts, HttpStatus};
use crate::transport::conn::{Fill, Flush};
use crate::transport::stream::Stream;
use rustix::net::SendFlags;

/// How the answer to a request is to be given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    head_only: bool,
    keeps: bool,
}

#[derive(Debug)]
enum HttpState {
    /// The head of a request is awaited.
    Listens,
    /// The upstream has been asked whether it serves.
    Asks { since: Millis, manner: Manner },
    /// The metrics are being written, some in each turn.
    Scrapes { scrape: Scrape, manner: Manner },
    /// The same of the status.
    Surveys { status: Box<StatusText>, manner: Manner },
    /// An answer is on its way.
    Answers { bytes: Vec<u8>, written: usize, keeps: bool },
    /// The last answer has been written; what the client still sends is dropped, so that it can read that.
    Leaves,
}

#[derive(Debug)]
struct HttpConnection {
    link: Key<Link>,
    state: HttpState,
    /// What has come of requests that are not answered yet; longer than a head by one read at most.
    input: Vec<u8>,
    /// A line of it has come to its end since it was last looked at.
    has_line: bool,
    /// Nothing more will come.
    ended: bool,
    /// When the state it is in has lasted too long.
    due: Millis,
}

impl HttpConnection {
    fn reads(&self) -> bool {
        matches!(self.state, HttpState::Listens | HttpState::Leaves)
    }

    fn take(&mut self, bytes: &[u8], now: Millis) {
        if matches!(self.state, HttpState::Leaves) {
            return;
        }
        if self.input.is_empty() {
            self.due = now + limits::HTTP_PATIENCE;
        }
        self.input.extend_from_slice(bytes);
        // A head is looked at once a line, not once a byte.
        self.has_line |= bytes.contains(&b'\n') || self.input.len() >= limits::HTTP_HEAD_MAX;
    }

    fn listen(&mut self, now: Millis) {
        self.state = HttpState::Listens;
        self.has_line = !self.input.is_empty();
        self.due = now + limits::HTTP_PATIENCE;
    }

    /// Whether there is something to do for it now, apart from what is due.
    fn is_busy(&self, link: &Link) -> bool {
        match &self.state {
            HttpState::Listens => self.has_line || link.conn.unread() || self.ended,
            HttpState::Scrapes { .. } | HttpState::Surveys { .. } => true,
            HttpState::Answers { .. } => !link.conn.blocked(),
            HttpState::Leaves => link.conn.unread() || self.ended,
            HttpState::Asks { .. } => false,
        }
    }
}

/// The HTTP connections, and how often each status was answered.
#[derive(Debug, Default)]
pub(super) struct Http {
    connections: Vec<HttpConnection>,
    /// How many there are, those that are being served too.
    held: usize,
    /// Made for the first who asks for it. It is no static: a fork may come while one is made.
    page: Option<StatusPage>,
    answered: [u64; HttpStatus::ALL.len()],
}

impl Http {
    pub(super) fn forget_all(&mut self) {
        (self.connections, self.held) = (Vec::new(), 0);
    }

    pub(super) fn connections_len(&self) -> usize {
        self.held
    }

    pub(super) fn answered(&self) -> impl Iterator<Item = (HttpStatus, u64)> {
        HttpStatus::ALL.iter().copied().zip(self.answered)
    }

    fn count(&mut self, status: HttpStatus) {
        self.answered[status as usize] += 1;
    }
}

impl Loop {
    /// A connection at one of `metrics_listen`.
    pub(super) fn admit_http(&mut self, stream: Stream) {
        if self.http.held >= limits::HTTP_CONNECTIONS {
            return self.refuse_http(&stream);
        }
        match self.add_link(stream, Owner::Http) {
            Ok(link) => {
                let due = self.told + limits::HTTP_PATIENCE;
                let (state, input) = (HttpState::Listens, Vec::new());
                let connection = HttpConnection { link, state, input, has_line: false, ended: false, due };
                self.http.connections.push(connection);
                self.http.held += 1;
            }
            Err((_, error)) => log::debug!("an HTTP connection was refused: {error}"),
        }
    }

    fn refuse_http(&mut self, stream: &Stream) {
        self.http.count(HttpStatus::Unavailable);
        // What has come is read: left unread, it would have the system throw the answer away.
        let _ = rustix::io::read(stream, &mut *self.scratch);
        // A new socket has room for it; a client that has gone does not need it.
        let _ = rustix::net::send(stream, &plain(HttpStatus::Unavailable, false, false), SendFlags::NOSIGNAL);
        let _ = stream.shutdown();
    }

    /// Milliseconds until an HTTP connection has to be looked at without an event.
    pub(super) fn http_timeout(&self, now: Millis) -> Option<Millis> {
        let wait = |connection: &HttpConnection| match self.links.get(connection.link) {
            Some(link) if connection.is_busy(link) => 0,
            _ => connection.due.saturating_sub(now),
        };
        self.http.connections.iter().map(wait).min()
    }

    /// Does for each HTTP connection what there is to do, but no more than one step of it, and for one of them at least,
    /// however long the turn has lasted.
    pub(super) fn serve_http(&mut self) {
        if self.http.connections.is_empty() {
            return;
        }
        self.pace.before(StepKind::Http);
        let mut connections = std::mem::take(&mut self.http.connections);
        // By turns the first.
        connections.rotate_left(1);
        let mut is_first = true;
        connections.retain_mut(|connection| {
            let Some(link) = self.links.get(connection.link) else {
                self.http.held -= 1;
                return false;
            };
            let asks = matches!(connection.state, HttpState::Asks { .. });
            let is_idle = !asks && !connection.is_busy(link) && connection.due > self.told;
            if is_idle || !is_first && self.pace.has_lasted(limits::TURN_READS) {
                return true;
            }
            is_first = false;
            let stays = self.serve_connection(connection);
            self.pace.step(StepKind::Http);
            if !stays {
                self.close_link(connection.link);
                self.http.held -= 1;
            }
            stays
        });
        self.http.connections = connections;
    }

    /// Whether it goes on.
    fn serve_connection(&mut self, connection: &mut HttpConnection) -> bool {
        if connection.due <= self.told && !self.forgive(connection) {
            return false;
        }
        if connection.reads() && !self.read_http(connection) {
            return false;
        }
        self.work_on(connection);
        let is_over = connection.ended && !connection.has_line && connection.reads();
        !is_over && self.write_http(connection)
    }

    /// It has been too slow. Whether it may go on all the same: to be told so, or because it is not what is slow.
    fn forgive(&mut self, connection: &mut HttpConnection) -> bool {
        match connection.state {
            HttpState::Asks { .. } => true,
            HttpState::Listens if !connection.input.is_empty() => {
                let manner = Manner { head_only: false, keeps: false };
                self.answer_plain(connection, HttpStatus::TooSlow, manner);
                true
            }
            _ => false,
        }
    }

    /// One read. False if the connection is broken.
    fn read_http(&mut self, connection: &mut HttpConnection) -> bool {
        let Some(link) = self.links.get_mut(connection.link).filter(|link| link.conn.unread()) else {
            return true;
        };
        match link.conn.fill(&mut self.scratch[..limits::HTTP_HEAD_MAX], self.told) {
            Fill::Bytes(count) => connection.take(&self.scratch[..count], self.told),
            Fill::Empty => {}
            Fill::End => connection.ended = true,
            Fill::Broken(_) => return false,
        }
        self.note_read(connection.link);
        true
    }

    fn work_on(&mut self, connection: &mut HttpConnection) {
        match &mut connection.state {
            HttpState::Listens if std::mem::take(&mut connection.has_line) => {
                let is_unix = self.links.get(connection.link).is_some_and(|link| link.conn.is_unix());
                let names = &self.core.settings().metrics_hosts;
                let hosts = if is_unix { Hosts::Any } else { Hosts::Named(names) };
                if let Some(asked) = request::read(&connection.input, hosts) {
                    connection.input.drain(..asked.len);
                    self.begin_answer(connection, asked);
                }
            }
            HttpState::Asks { since, manner } => {
                let (since, manner) = (*since, *manner);
                self.answer_ready(connection, since, manner);
            }
            HttpState::Scrapes { scrape, manner } => {
                let manner = *manner;
                if let Some((media, text)) = self.go_on_scraping(scrape) {
                    self.answer_with(connection, HttpStatus::Fine, Content::new(media, &text), manner);
                }
            }
            HttpState::Surveys { status, manner } => {
                let manner = *manner;
                if let Some(text) = self.go_on_with_status(status) {
                    self.answer_with(connection, HttpStatus::Fine, Content::new(JSON, &text), manner);
                }
            }
            HttpState::Listens | HttpState::Answers { .. } | HttpState::Leaves => {}
        }
    }

    fn begin_answer(&mut self, connection: &mut HttpConnection, asked: HttpRequest) {
        let manner = Manner { head_only: asked.head_only, keeps: asked.keeps };
        match asked.page {
            Ok(Page::Index) => {
                let page = self.http.page.take().unwrap_or_else(StatusPage::new);
                self.answer_with(connection, HttpStatus::Fine, page.content(), manner);
                self.http.page = Some(page);
            }
            Ok(Page::Status) => {
                let status = Box::new(StatusText::new());
                connection.state = HttpState::Surveys { status, manner };
                connection.due = self.told + limits::HTTP_PATIENCE;
            }
            Ok(Page::Health) => self.answer_plain(connection, HttpStatus::Fine, manner),
            Ok(Page::Ready) => self.answer_ready(connection, self.told, manner),
            Ok(Page::Metrics(format)) => {
                connection.state = HttpState::Scrapes { scrape: Scrape::new(format), manner };
                connection.due = self.told + limits::HTTP_PATIENCE;
            }
            Err(status) => self.answer_plain(connection, status, manner),
        }
    }

    /// Says whether the upstream serves, or waits for what it says to that.
    fn answer_ready(&mut self, connection: &mut HttpConnection, since: Millis, manner: Manner) {
        match self.core.readiness(since) {
            Readiness::Ready => {
                self.answer_with(connection, HttpStatus::Fine, Content::new(PLAIN, "ready\n"), manner);
            }
            Readiness::NotReady(why) => {
                let body = format!("not ready: {why}\n");
                let content = Content::new(PLAIN, &body);
                self.answer_with(connection, HttpStatus::Unavailable, content, manner);
            }
            Readiness::Asked { until } => {
                connection.state = HttpState::Asks { since, manner };
                connection.due = until;
            }
        }
    }

    fn answer_plain(&mut self, connection: &mut HttpConnection, status: HttpStatus, manner: Manner) {
        self.begin_writing(connection, status, plain(status, manner.head_only, manner.keeps), manner);
    }

    fn answer_with(
        &mut self,
        connection: &mut HttpConnection,
        status: HttpStatus,
        content: Content<'_>,
        manner: Manner,
    ) {
        let bytes = answer(status, content, manner.head_only, manner.keeps);
        self.begin_writing(connection, status, bytes, manner);
    }

    fn begin_writing(
        &mut self,
        connection: &mut HttpConnection,
        status: HttpStatus,
        bytes: Vec<u8>,
        manner: Manner,
    ) {
        self.http.count(status);
        connection.state = HttpState::Answers { bytes, written: 0, keeps: manner.keeps };
        connection.due = self.told + limits::HTTP_PATIENCE;
    }

    /// A turn's share of the answer. False if the connection is broken.
    fn write_http(&mut self, connection: &mut HttpConnection) -> bool {
        let HttpState::Answers { bytes, written, keeps } = &mut connection.state else { return true };
        let Some(link) = self.links.get_mut(connection.link) else { return false };
        let mut left = limits::WRITE_TURN;
        loop {
            match link.conn.flush_some(self.poll.registry(), &bytes[*written..], &mut left) {
                Ok(Flush::Wrote(count)) => *written += count,
                Ok(Flush::Done | Flush::TurnOver) => break,
                Err(_) => return false,
            }
        }
        if *written < bytes.len() {
            return true;
        }
        if *keeps {
            connection.listen(self.told);
            return true;
        }
        connection.state = HttpState::Leaves;
        connection.has_line = false;
        connection.input = Vec::new();
        connection.due = self.told + limits::HTTP_LINGER;
        !connection.ended && link.conn.stream().shutdown_write().is_ok()
    }
}
