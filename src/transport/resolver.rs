//! Where servers are: looks host names up for a loop or a client, in /etc/hosts and by DNS, and remembers which address
//! works. Never blocks and has no thread: its sockets are registered with the poll of its owner.
//!
//! One resolver serves any number of destinations, up to a bound. Its owner calls `find` for each connection it makes and tries
//! the addresses in turn, says with `blame` which did not answer and with `doubt` that a connection was lost; passes on the
//! poll's events for which `owns` is true; calls `advance` after at most `timeout` milliseconds; and after both takes
//! with `take` whose look-ups have ended. Addresses that are known stay in use until there are others.

mod exchange;
mod files;
mod inquiry;
mod known;
mod message;
#[cfg(test)]
mod tests;

use crate::base::clock::Millis;
use crate::base::limits::NAMES_MAX;
use crate::config::endpoint::Address;
use exchange::Exchange;
use files::NameFiles;
use inquiry::{Inquiry, InquiryStep, LookUpOutcome};
use known::KnownName;
use message::is_host_name;
use mio::{Registry, Token};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Tokens of a poll that are no keys: no arena grows to this index. Waker, pipes and listeners have the numbers below.
const TOKEN_INDEX: usize = u32::MAX as usize;
const FIRST_TOKEN: usize = 1 << 31;

/// Where to connect now.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The path of a socket.
    Unix(PathBuf),
    /// Addresses, at least one: to be tried in this order.
    Tcp(VecDeque<SocketAddr>),
    /// The name is being looked up; `take` tells when that has ended.
    Later,
    /// The name cannot be looked up, with the reason.
    Nowhere(String),
}

/// A server's address as it was configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination(Location);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Location {
    Unix(PathBuf),
    Number(SocketAddr),
    Name { host: String, port: u16 },
}

/// A look-up that has taken its time and has ended, and why it has no answer if it has none.
#[derive(Debug, PartialEq, Eq)]
pub struct EndedLookUp {
    /// Whose.
    pub target: Destination,
    /// Known addresses stay in use after a failure.
    pub outcome: Result<(), String>,
}

/// What is known of destinations, and the look-ups under way.
#[derive(Debug, Default)]
pub struct Resolver {
    files: NameFiles,
    /// By the number in the token of their socket.
    names: Vec<Option<NameSlot>>,
    ended: VecDeque<EndedLookUp>,
    /// Look-ups so far, by which name servers take turns.
    turns: usize,
}

#[derive(Debug)]
struct NameSlot {
    host: String,
    port: u16,
    known: KnownName,
    asking: Option<(Inquiry, Exchange)>,
}

impl From<&Address> for Destination {
    fn from(address: &Address) -> Destination {
        Destination(match address {
            Address::Unix(path) => Location::Unix(path.clone()),
            Address::Tcp { host, port } => match host.parse::<IpAddr>() {
                Ok(ip) => Location::Number(SocketAddr::new(ip, *port)),
                Err(_) => Location::Name { host: host.clone(), port: *port },
            },
        })
    }
}

impl Resolver {
    /// Where to connect for `target` now. Begins a look-up if one is due.
    pub fn find(&mut self, target: &Destination, now: Millis, registry: &Registry) -> Found {
        let (host, port) = match &target.0 {
            Location::Unix(path) => return Found::Unix(path.clone()),
            Location::Number(address) => return Found::Tcp([*address].into()),
            Location::Name { host, port } => (host, *port),
        };
        let Some(number) = self.number(target).or_else(|| self.add(host, port)) else {
            return Found::Nowhere(format!("cannot look up {host}: {NAMES_MAX} other names are in use"));
        };
        self.begin_if_due(number, now, registry);
        let Some(slot) = self.slot(number) else { return Found::Later };
        match slot.known.addresses() {
            Some(addresses) => Found::Tcp(addresses),
            None if slot.asking.is_some() => Found::Later,
            None => Found::Nowhere(slot.why()),
        }
    }

    /// Why there is no address of `target` yet.
    pub fn why(&self, target: &Destination) -> String {
        self.name(target).map(NameSlot::why).unwrap_or_default()
    }

    /// The URL of the address that is tried first now; `None` for a name without a known address.
    pub fn url(&self, target: &Destination) -> Option<String> {
        let address = match &target.0 {
            Location::Unix(path) => return Some(format!("unix://{}", path.display())),
            Location::Number(address) => Some(*address),
            Location::Name { .. } => self.name(target)?.known.first(),
        };
        address.map(|address| format!("tcp://{address}"))
    }

    /// `address` did not answer: the next one is tried first, and the name is looked up again.
    pub fn blame(&mut self, target: &Destination, address: SocketAddr) {
        if let Some(slot) = self.number(target).and_then(|number| self.slot(number)) {
            slot.known.blame(address);
        }
    }

    /// The address in use leads to a server that is not what it must be: use the next one, and look the name up again.
    pub fn try_others(&mut self, target: &Destination) {
        if let Some(slot) = self.number(target).and_then(|number| self.slot(number)) {
            match slot.known.first() {
                Some(first) => slot.known.blame(first),
                None => slot.known.doubt(),
            }
        }
    }

    /// A connection to this address of `target` stands.
    pub fn note_used(&mut self, target: &Destination, address: SocketAddr) {
        if let Some(slot) = self.number(target).and_then(|number| self.slot(number)) {
            slot.known.note_used(address);
        }
    }

    /// Whether the address that was in use is none of the name's any more, since this was asked last.
    pub fn take_moved(&mut self, target: &Destination) -> bool {
        self.number(target).and_then(|number| self.slot(number)).is_some_and(|slot| slot.known.take_moved())
    }

    /// A connection was lost: the name may have another address by now.
    pub fn doubt(&mut self, target: &Destination) {
        if let Some(slot) = self.number(target).and_then(|number| self.slot(number)) {
            slot.known.doubt();
        }
    }

    /// `target` is no longer connected to.
    pub fn forget(&mut self, target: &Destination, registry: &Registry) {
        if let Some(number) = self.number(target) {
            self.remove(number, registry);
        }
    }

    /// The end of all look-ups, and of what is known.
    pub fn close(&mut self, registry: &Registry) {
        (0..self.names.len()).for_each(|number| self.remove(number, registry));
        self.ended.clear();
    }

    fn remove(&mut self, number: usize, registry: &Registry) {
        let slot = self.names.get_mut(number).and_then(Option::take);
        if let Some((_, exchange)) = slot.and_then(|slot| slot.asking) {
            exchange.close(registry);
        }
    }

    /// Whether an event with this token is of one of its sockets.
    pub fn owns(token: Token) -> bool {
        token.0 & TOKEN_INDEX == TOKEN_INDEX && token.0 >> 32 >= FIRST_TOKEN
    }

    /// The poll has reported this token, perhaps late.
    pub fn event(&mut self, token: Token, now: Millis, registry: &Registry) {
        let number = (token.0 >> 32).wrapping_sub(FIRST_TOKEN);
        loop {
            let Some((inquiry, exchange)) = self.slot(number).and_then(|slot| slot.asking.as_mut()) else {
                return;
            };
            let step = match exchange.next() {
                Ok(None) => return,
                Ok(Some(message)) => inquiry.heard(&message),
                Err(error) => inquiry.failed(Some(&refused(&error))),
            };
            // A new socket has events of its own.
            if step != InquiryStep::Waiting {
                return self.go_on(number, step, now, registry);
            }
        }
    }

    /// Gives up name servers that have not answered in time, and looks up again what is in doubt.
    pub fn advance(&mut self, now: Millis, registry: &Registry) {
        for number in 0..self.names.len() {
            let Some(slot) = self.slot(number).filter(|slot| slot.due().is_some_and(|due| due <= now)) else {
                continue;
            };
            match &mut slot.asking {
                Some((inquiry, _)) => {
                    let step = inquiry.failed(None);
                    self.go_on(number, step, now, registry);
                }
                None => self.begin_if_due(number, now, registry),
            }
        }
    }

    /// Milliseconds until `advance` has something to do.
    pub fn timeout(&self, now: Millis) -> Option<Millis> {
        let due = self.names.iter().flatten().filter_map(NameSlot::due).min();
        due.map(|due| due.saturating_sub(now))
    }

    /// The next look-up that has ended.
    pub fn take(&mut self) -> Option<EndedLookUp> {
        self.ended.pop_front()
    }

    fn number(&self, target: &Destination) -> Option<usize> {
        let Location::Name { host, port } = &target.0 else { return None };
        let is_it = |slot: &NameSlot| slot.port == *port && slot.host == *host;
        self.names.iter().position(|slot| slot.as_ref().is_some_and(is_it))
    }

    fn name(&self, target: &Destination) -> Option<&NameSlot> {
        self.names.get(self.number(target)?)?.as_ref()
    }

    fn slot(&mut self, number: usize) -> Option<&mut NameSlot> {
        self.names.get_mut(number)?.as_mut()
    }

    fn add(&mut self, host: &str, port: u16) -> Option<usize> {
        let number = self.names.iter().position(Option::is_none).unwrap_or(self.names.len());
        if number >= NAMES_MAX {
            return None;
        }
        if number == self.names.len() {
            self.names.push(None);
        }
        let known = KnownName::default();
        self.names[number] = Some(NameSlot { host: host.to_owned(), port, known, asking: None });
        Some(number)
    }

    fn begin_if_due(&mut self, number: usize, now: Millis, registry: &Registry) {
        let Some(slot) = self.names.get_mut(number).and_then(Option::as_mut) else { return };
        if slot.asking.is_some() || !slot.known.begin_if_due(now) {
            return;
        }
        let found = self.files.hosts(&slot.host);
        if !found.is_empty() {
            return slot.learn(Ok((found, 0)), now);
        }
        if !is_host_name(&slot.host) {
            return slot.learn(Err("it is no name of a host".to_owned()), now);
        }
        self.turns = self.turns.wrapping_add(1);
        let inquiry = Inquiry::new(&slot.host, self.files.servers(), self.turns);
        if let Some(outcome) = ask(slot, inquiry, token_of(number), now, registry) {
            slot.learn(outcome, now);
        }
    }

    /// Carries out what a look-up under way needs next.
    fn go_on(&mut self, number: usize, step: InquiryStep, now: Millis, registry: &Registry) {
        let Some(slot) = self.names.get_mut(number).and_then(Option::as_mut) else { return };
        let Some((inquiry, exchange)) = slot.asking.take() else { return };
        let outcome = match step {
            InquiryStep::Waiting => {
                slot.asking = Some((inquiry, exchange));
                return;
            }
            InquiryStep::Ask => {
                exchange.close(registry);
                ask(slot, inquiry, token_of(number), now, registry)
            }
            InquiryStep::Ended(outcome) => {
                exchange.close(registry);
                Some(outcome)
            }
        };
        let Some(outcome) = outcome else { return };
        slot.learn(outcome, now);
        let target = Destination(Location::Name { host: slot.host.clone(), port: slot.port });
        let outcome = if slot.known.first().is_some() { Ok(()) } else { Err(slot.why()) };
        self.ended.push_back(EndedLookUp { target, outcome });
    }
}

impl NameSlot {
    fn due(&self) -> Option<Millis> {
        match &self.asking {
            Some((inquiry, _)) => Some(inquiry.until()),
            None => self.known.due(),
        }
    }

    fn learn(&mut self, outcome: LookUpOutcome, now: Millis) {
        self.known.learn(&self.host, self.port, outcome, now);
    }

    fn why(&self) -> String {
        let trouble = match &self.asking {
            Some((inquiry, _)) => inquiry.trouble(),
            None => self.known.refusal().to_owned(),
        };
        format!("cannot look up {}: {trouble}", self.host)
    }
}

fn token_of(number: usize) -> Token {
    Token((FIRST_TOKEN + number) << 32 | TOKEN_INDEX)
}

fn refused(error: &std::io::Error) -> String {
    format!("cannot be asked: {error}")
}

/// Asks the next server that can be asked; returns the outcome if there is none.
fn ask(
    slot: &mut NameSlot,
    inquiry: Inquiry,
    token: Token,
    now: Millis,
    registry: &Registry,
) -> Option<LookUpOutcome> {
    let mut inquiry = inquiry;
    loop {
        match Exchange::open(&inquiry.attempt(now), registry, token) {
            Ok(exchange) => {
                slot.asking = Some((inquiry, exchange));
                return None;
            }
            Err(error) => match inquiry.failed(Some(&refused(&error))) {
                InquiryStep::Ended(outcome) => return Some(outcome),
                InquiryStep::Ask | InquiryStep::Waiting => {}
            },
        }
    }
}
