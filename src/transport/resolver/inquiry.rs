//! One look-up of one host name by DNS: which name is asked for now, which server, how often, how long. Knows no socket: it
//! says what to send, is told what has come or not, and says how it goes on. It ends in any case: each server is asked
//! `attempts` times for each name of the search list, and has a bounded time for it.

use super::files::NameServers;
use super::message::{DnsAnswer, RecordKind, answer, question};
use crate::base::clock::Millis;
use crate::base::limits::{ADDRESSES_MAX, RESOLVE_STRAYS};
use crate::base::seed::seed;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The addresses of a host and how many seconds they hold, or why there are none.
pub(super) type LookUpOutcome = Result<(Vec<IpAddr>, u32), String>;

/// How a look-up goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InquiryStep {
    /// More may come from the server that is being asked.
    Waiting,
    /// The next `attempt` is due, on a new socket.
    Ask,
    /// It is over.
    Ended(LookUpOutcome),
}

/// What to send, and where.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) server: SocketAddr,
    pub(super) over_tcp: bool,
    pub(super) messages: Vec<Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct Inquiry {
    servers: Arc<NameServers>,
    /// The name that is asked for now, then the others.
    names: VecDeque<String>,
    open: Vec<OpenQuestion>,
    /// The server that is asked first.
    first: usize,
    /// Servers that have failed with this name so far.
    failed: usize,
    over_tcp: bool,
    until: Millis,
    /// Messages that answered nothing in this attempt.
    strays: usize,
    found: Vec<IpAddr>,
    ttl: u32,
    /// What a server has said last instead of addresses.
    said: Option<String>,
}

/// Of the name that is asked for now.
#[derive(Debug)]
struct OpenQuestion {
    kind: RecordKind,
    id: u16,
    /// The server that is being asked has said that it cannot answer it.
    refused: bool,
}

impl Inquiry {
    /// For the addresses of `host`. `turn` chooses the first server where they take turns.
    pub(super) fn new(host: &str, servers: Arc<NameServers>, turn: usize) -> Inquiry {
        let first = if servers.rotate { turn % servers.servers.len() } else { 0 };
        let mut inquiry = Inquiry {
            names: servers.names(host).into(),
            open: Vec::new(),
            first,
            failed: 0,
            over_tcp: false,
            until: 0,
            strays: 0,
            found: Vec::new(),
            ttl: u32::MAX,
            said: None,
            servers,
        };
        inquiry.begin_name();
        inquiry
    }

    fn begin_name(&mut self) {
        let kinds = [RecordKind::A, RecordKind::Aaaa].into_iter();
        let kinds = kinds.filter(|kind| *kind == RecordKind::A || !self.servers.no_aaaa);
        self.open = kinds.map(|kind| OpenQuestion { kind, id: 0, refused: false }).collect();
        (self.failed, self.over_tcp) = (0, self.servers.over_tcp);
    }

    fn server(&self) -> SocketAddr {
        let all = &self.servers.servers;
        all[(self.first + self.failed) % all.len()]
    }

    /// What is to be sent now. The answers may take until `until`.
    pub(super) fn attempt(&mut self, now: Millis) -> Attempt {
        let before = self.failed / self.servers.servers.len();
        (self.until, self.strays) = (now + self.servers.timeout(before), 0);
        let name = self.names.front().map_or("", String::as_str);
        let mut messages = Vec::new();
        let ids = seed();
        for (number, open) in self.open.iter_mut().enumerate() {
            (open.id, open.refused) = ((ids >> (16 * number)) as u16, false);
            messages.extend(question(open.id, name, open.kind));
        }
        Attempt { server: self.server(), over_tcp: self.over_tcp, messages }
    }

    pub(super) fn until(&self) -> Millis {
        self.until
    }

    /// The server that is being asked has sent this.
    pub(super) fn heard(&mut self, message: &[u8]) -> InquiryStep {
        let name = self.names.front().map_or("", String::as_str);
        let pending = self.open.iter().enumerate().filter(|(_, open)| !open.refused);
        let mut answers = pending.map(|(at, open)| (at, answer(message, open.id, name, open.kind)));
        let Some((at, answer)) = answers.find(|(_, answer)| *answer != DnsAnswer::Stray) else {
            return self.stray();
        };
        match answer {
            DnsAnswer::Stray => return InquiryStep::Waiting,
            DnsAnswer::Truncated if self.over_tcp => return self.failed(Some("sends half an answer")),
            DnsAnswer::Truncated => {
                self.over_tcp = true;
                return InquiryStep::Ask;
            }
            DnsAnswer::Refused(words) => {
                self.note(&format!("says {words}"));
                self.open[at].refused = true;
                return self.go_on();
            }
            DnsAnswer::Addresses(addresses, ttl) => {
                let room = ADDRESSES_MAX.saturating_sub(self.found.len());
                self.found.extend(addresses.into_iter().take(room));
                self.ttl = self.ttl.min(ttl);
            }
            // Not of both families yet.
            DnsAnswer::Nothing { .. } if self.open.len() > 1 => {}
            DnsAnswer::Nothing { named } => {
                let what = if named { "it has no address" } else { "it does not exist" };
                self.note(&format!("says that {what}"));
            }
        }
        self.open.remove(at);
        self.go_on()
    }

    /// What a server cannot answer for one family is not held against the other.
    fn go_on(&mut self) -> InquiryStep {
        match &self.open[..] {
            [] => self.end_name(),
            open if open.iter().all(|open| open.refused) => self.next_server(true),
            _ => InquiryStep::Waiting,
        }
    }

    fn stray(&mut self) -> InquiryStep {
        self.strays += 1;
        if self.strays < RESOLVE_STRAYS {
            return InquiryStep::Waiting;
        }
        self.failed(Some("sends what was not asked for"))
    }

    /// The server that is being asked gives no answer, for this reason if it is not silence. What the name has of one
    /// family is not kept back for the other.
    pub(super) fn failed(&mut self, why: Option<&str>) -> InquiryStep {
        if let Some(why) = why {
            self.note(why);
        }
        self.next_server(why.is_some())
    }

    /// `speaks` if the one that has failed is not silent.
    fn next_server(&mut self, speaks: bool) -> InquiryStep {
        if !self.found.is_empty() {
            return self.end_name();
        }
        self.failed += 1;
        self.over_tcp = self.servers.over_tcp;
        if self.failed < self.servers.servers.len() * self.servers.attempts {
            return InquiryStep::Ask;
        }
        // Another name may be known to servers that cannot say anything of this one. Those that are silent are so for
        // every name.
        if speaks { self.end_name() } else { InquiryStep::Ended(Err(self.trouble())) }
    }

    fn end_name(&mut self) -> InquiryStep {
        if !self.found.is_empty() {
            return InquiryStep::Ended(Ok((std::mem::take(&mut self.found), self.ttl)));
        }
        self.names.pop_front();
        if self.names.is_empty() {
            return InquiryStep::Ended(Err(self.trouble()));
        }
        self.begin_name();
        InquiryStep::Ask
    }

    fn note(&mut self, what: &str) {
        self.said = Some(format!("{} {what}", shown(self.server())));
    }

    /// Why there are no addresses so far.
    pub(super) fn trouble(&self) -> String {
        let silent = || {
            let servers: Vec<_> = self.servers.servers.iter().copied().map(shown).collect();
            format!("no answer from {}", servers.join(", "))
        };
        self.said.clone().unwrap_or_else(silent)
    }
}

fn shown(server: SocketAddr) -> String {
    if server.port() == 53 { server.ip().to_string() } else { server.to_string() }
}
