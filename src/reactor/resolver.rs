//! The upstream's address. In a program of its own, a name is looked up in a short-lived thread, since the
//! system's resolver blocks for as long as it likes; meanwhile the addresses found last are used. Inside
//! another program no thread is ever started: the name is looked up once, beforehand. Never dials.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::config::endpoint::Address;
use crate::transport::wake::Wake;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread;

/// What to dial now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Unix(PathBuf),
    Tcp(SocketAddr),
    /// The name is being looked up; `take` will tell.
    Later,
    /// The name cannot be looked up, and why.
    Nowhere(String),
}

type Answer = io::Result<Vec<SocketAddr>>;

/// Who looks names up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lookup {
    /// A thread, whenever a connection is made.
    InThread,
    /// Whoever makes the resolver, once, blocking.
    Now,
}

#[derive(Debug)]
pub(super) struct Resolver {
    target: Target,
    lookup: Lookup,
    waker: Arc<Wake>,
    answers: (Sender<Answer>, Receiver<Answer>),
}

#[derive(Debug)]
enum Target {
    Unix(PathBuf),
    Number(SocketAddr),
    Name(Name),
}

#[derive(Debug)]
struct Name {
    host: String,
    port: u16,
    /// The last good answer; `present` is the one in use.
    known: Vec<SocketAddr>,
    present: usize,
    /// A thread is at work.
    asking: bool,
    asked: Option<Millis>,
}

impl Resolver {
    /// Fails only where a name is looked up now and has no address.
    pub(super) fn new(address: &Address, lookup: Lookup, waker: Arc<Wake>) -> Result<Self, String> {
        let target = match address {
            Address::Unix(path) => Target::Unix(path.clone()),
            Address::Tcp { host, port } => match host.parse::<IpAddr>() {
                Ok(ip) => Target::Number(SocketAddr::new(ip, *port)),
                Err(_) => Target::Name(Name::new(host.clone(), *port, lookup)?),
            },
        };
        Ok(Resolver { target, lookup, waker, answers: channel() })
    }

    /// One for another address, that looks names up in the same way.
    pub(super) fn another(&self, address: &Address) -> Result<Self, String> {
        Resolver::new(address, self.lookup, self.waker.clone())
    }

    /// Whether a name that has other addresses by now is noticed without anybody's help.
    pub(super) fn keeps_itself_fresh(&self) -> bool {
        self.lookup == Lookup::InThread || !matches!(self.target, Target::Name(_))
    }

    /// Where the next connection goes. Refreshes what is known of a name.
    pub(super) fn find(&mut self, now: Millis) -> Found {
        let name = match &mut self.target {
            Target::Unix(path) => return Found::Unix(path.clone()),
            Target::Number(address) => return Found::Tcp(*address),
            Target::Name(name) => name,
        };
        let stale = name.asked.is_none_or(|asked| asked + limits::RESOLVE_INTERVAL <= now);
        let started = if self.lookup == Lookup::InThread && !name.asking && (stale || name.known.is_empty()) {
            name.ask(self.answers.0.clone(), Arc::downgrade(&self.waker), now)
        } else {
            Ok(())
        };
        match (name.known.get(name.present), started) {
            (Some(address), _) => Found::Tcp(*address),
            (None, Ok(())) => Found::Later,
            (None, Err(error)) => Found::Nowhere(format!("cannot look up {}: {error}", name.host)),
        }
    }

    /// `address` did not answer: the next one's turn, if there are several.
    pub(super) fn blame(&mut self, address: SocketAddr) {
        if let Target::Name(name) = &mut self.target
            && name.known.get(name.present) == Some(&address)
        {
            name.present = (name.present + 1) % name.known.len();
        }
    }

    /// Takes what a thread has found; `None` when none has ended. An error is the reason to fail those who
    /// wait; an earlier answer stays in use.
    pub(super) fn take(&mut self) -> Option<Result<(), String>> {
        let answer = self.answers.1.try_recv().ok()?;
        let Target::Name(name) = &mut self.target else { return None };
        name.asking = false;
        Some(name.learn(answer))
    }
}

impl Name {
    fn new(host: String, port: u16, lookup: Lookup) -> Result<Name, String> {
        let mut name = Name { host, port, known: Vec::new(), present: 0, asking: false, asked: None };
        if lookup == Lookup::Now {
            let answer = (name.host.as_str(), port).to_socket_addrs().map(Iterator::collect);
            name.learn(answer)?;
        }
        Ok(name)
    }

    /// The thread holds the waker only while it wakes: a process forked meanwhile has no such thread, and
    /// must not have its descriptor.
    fn ask(&mut self, to: Sender<Answer>, waker: Weak<Wake>, now: Millis) -> io::Result<()> {
        let (host, port) = (self.host.clone(), self.port);
        let thread = thread::Builder::new().name("broker-resolver".to_owned());
        thread.spawn(move || {
            let answer = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
            // Either fails only when the loop has gone, and then nobody waits for this.
            let _ = to.send(answer);
            let _ = waker.upgrade().map(|waker| waker.ring());
        })?;
        self.asking = true;
        self.asked = Some(now);
        Ok(())
    }

    fn learn(&mut self, answer: Answer) -> Result<(), String> {
        let found = match answer {
            Ok(found) if !found.is_empty() => found,
            Ok(_) => return Err(format!("{} has no address", self.host)),
            Err(error) => return Err(format!("cannot look up {}: {error}", self.host)),
        };
        // Whichever works now is kept, wherever the new answer lists it.
        let present = self.known.get(self.present);
        self.present = present.and_then(|used| found.iter().position(|one| one == used)).unwrap_or(0);
        self.known = found;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll, Token};

    fn resolver(host: &str) -> (Poll, Resolver) {
        let (poll, resolver) = resolver_with(host, Lookup::InThread);
        (poll, resolver.unwrap())
    }

    fn resolver_with(host: &str, lookup: Lookup) -> (Poll, Result<Resolver, String>) {
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Wake::new(poll.registry(), Token(0)).unwrap());
        (poll, Resolver::new(&Address::Tcp { host: host.to_owned(), port: 7 }, lookup, waker))
    }

    fn addresses(text: &[&str]) -> Vec<SocketAddr> {
        text.iter().map(|one| one.parse().unwrap()).collect()
    }

    #[test]
    fn numbers_need_no_thread() {
        for (host, shown) in [("127.0.0.1", "127.0.0.1:7"), ("::1", "[::1]:7")] {
            let (_poll, mut resolver) = resolver(host);
            assert_eq!(resolver.find(0), Found::Tcp(shown.parse().unwrap()));
            assert!(resolver.take().is_none());
        }
    }

    #[test]
    fn a_name_wakes_the_poll_when_it_is_known() {
        let (mut poll, mut resolver) = resolver("localhost");
        assert_eq!(resolver.find(0), Found::Later);
        assert_eq!(resolver.find(0), Found::Later, "one thread is enough");
        poll.poll(&mut Events::with_capacity(1), None).unwrap();
        assert_eq!(resolver.take(), Some(Ok(())));
        assert!(matches!(resolver.find(1), Found::Tcp(address) if address.ip().is_loopback()));
        assert!(resolver.take().is_none());
    }

    #[test]
    fn a_name_looked_up_beforehand_needs_no_thread() {
        let (_poll, resolver) = resolver_with("localhost", Lookup::Now);
        let mut resolver = resolver.unwrap();
        assert!(matches!(resolver.find(0), Found::Tcp(address) if address.ip().is_loopback()));
        let Target::Name(name) = &resolver.target else { panic!("a name") };
        assert!(!name.asking);
        let (_poll, refused) = resolver_with("no.such.name.invalid", Lookup::Now);
        assert!(refused.unwrap_err().starts_with("cannot look up no.such.name.invalid: "));
    }

    #[test]
    fn the_last_good_answer_outlives_a_failed_refresh() {
        let (_poll, mut resolver) = resolver("a.name");
        let Target::Name(name) = &mut resolver.target else { panic!("a name") };
        let (one, two) = ("10.0.0.1:7", "10.0.0.2:7");
        name.asked = Some(0);
        name.learn(Ok(addresses(&[one, two]))).unwrap();
        assert!(name.learn(Err(io::Error::other("no network"))).unwrap_err().contains("a.name: no network"));
        assert!(name.learn(Ok(Vec::new())).is_err());
        assert_eq!(resolver.find(0), Found::Tcp(one.parse().unwrap()));

        resolver.blame(one.parse().unwrap());
        resolver.blame(one.parse().unwrap());
        assert_eq!(resolver.find(0), Found::Tcp(two.parse().unwrap()), "blamed once, not twice");
        let Target::Name(name) = &mut resolver.target else { panic!("a name") };
        name.learn(Ok(addresses(&["10.0.0.3:7", two]))).unwrap();
        assert_eq!(resolver.find(0), Found::Tcp(two.parse().unwrap()), "what works is kept");
    }
}
