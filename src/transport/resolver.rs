//! A server's address. A host name is looked up again in a short-lived thread, since the system's resolver blocks without
//! a limit; meanwhile the last known addresses are used. Inside another program once, blocking, when
//! its handle is made, and then only after a connection has failed or was lost.

use crate::base::clock::Millis;
use crate::base::error::{Error, Result};
use crate::base::fork;
use crate::base::limits;
use crate::config::endpoint::Address;
use crate::transport::wake::Wake;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread;

/// The address to connect to now.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The path of a socket.
    Unix(PathBuf),
    /// An address.
    Tcp(SocketAddr),
    /// The name is being looked up; `take` returns the answer.
    Later,
    /// The name cannot be looked up, with the reason.
    Nowhere(String),
}

type LookupResult = io::Result<Vec<SocketAddr>>;

/// Starts a thread that runs the function and ends.
pub type Start = fn(Box<dyn FnOnce() + Send>) -> io::Result<()>;

/// When names are looked up.
#[derive(Debug, Clone, Copy)]
pub enum Lookup {
    /// In a thread, whenever a connection is made.
    Always,
    /// Once by the caller, blocking; after a failure, in a thread started with this function.
    AfterFailure(Start),
}

/// A server's address, as far as it is known.
#[derive(Debug, Clone)]
pub struct Destination(Location);

#[derive(Debug, Clone)]
enum Location {
    Unix(PathBuf),
    Number(SocketAddr),
    Name(HostName),
}

/// The present knowledge of one server's address.
#[derive(Debug)]
pub struct Resolver {
    place: Location,
    lookup: Lookup,
    waker: Arc<Wake>,
    answers: (Sender<LookupResult>, Receiver<LookupResult>),
}

#[derive(Debug, Clone)]
struct HostName {
    host: String,
    port: u16,
    /// The last good answer; `present` is the one in use.
    known: Vec<SocketAddr>,
    present: usize,
    /// A connection has failed or was lost since the last look-up.
    doubted: bool,
    /// A thread is looking it up: since when, and in which process.
    asking: Option<(Millis, u64)>,
    asked: Option<Millis>,
}

/// Starts a thread with the signal mask of the caller.
pub fn start(body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    thread::Builder::new().name("broker-resolver".to_owned()).spawn(body).map(drop)
}

fn look_up(host: &str, port: u16) -> LookupResult {
    (host, port).to_socket_addrs().map(Iterator::collect)
}

impl Destination {
    /// Resolves `address`. Blocks while a name is looked up, if `lookup` says so; only then it can fail.
    pub fn find(address: &Address, lookup: Lookup) -> Result<Destination> {
        let place = match address {
            Address::Unix(path) => Location::Unix(path.clone()),
            Address::Tcp { host, port } => match host.parse::<IpAddr>() {
                Ok(ip) => Location::Number(SocketAddr::new(ip, *port)),
                Err(_) => Location::Name(HostName::new(host.clone(), *port, lookup)?),
            },
        };
        Ok(Destination(place))
    }
}

impl Resolver {
    /// A resolver of a destination found in the same way; `waker` reports answers.
    pub fn new(target: Destination, lookup: Lookup, waker: Arc<Wake>) -> Self {
        Resolver { place: target.0, lookup, waker, answers: channel() }
    }

    /// A resolver of another destination, with the same way to look names up.
    pub fn another(&self, target: Destination) -> Self {
        Resolver::new(target, self.lookup, self.waker.clone())
    }

    /// When names are looked up.
    pub fn lookup(&self) -> Lookup {
        self.lookup
    }

    /// The URL of the address in use; `None` for a name without a known address.
    pub fn url(&self) -> Option<String> {
        let address = match &self.place {
            Location::Unix(path) => return Some(format!("unix://{}", path.display())),
            Location::Number(address) => Some(*address),
            Location::Name(name) => name.address(),
        };
        address.map(|address| format!("tcp://{address}"))
    }

    /// Whether every new connection uses the name's current address. If only a failure causes a look-up, a name that
    /// has moved away from a server that still answers is not noticed.
    pub fn keeps_itself_fresh(&self) -> bool {
        matches!(self.lookup, Lookup::Always) || !matches!(self.place, Location::Name(_))
    }

    /// The address of the next connection. Starts a look-up if one is due.
    pub fn find(&mut self, now: Millis) -> Found {
        self.forget_parents();
        let name = match &mut self.place {
            Location::Unix(path) => return Found::Unix(path.clone()),
            Location::Number(address) => return Found::Tcp(*address),
            Location::Name(name) => name,
        };
        let stale = name.asked.is_none_or(|asked| asked + limits::RESOLVE_INTERVAL <= now);
        let by = match self.lookup {
            Lookup::Always if stale || name.known.is_empty() => Some(start as Start),
            Lookup::AfterFailure(start) if stale && name.doubted => Some(start),
            _ => None,
        };
        let started = match by.filter(|_| !name.is_asking(now)) {
            Some(start) => name.ask(start, self.answers.0.clone(), Arc::downgrade(&self.waker), now),
            None => Ok(()),
        };
        match (name.address(), started) {
            (Some(address), _) => Found::Tcp(address),
            (None, Ok(())) => Found::Later,
            (None, Err(error)) => Found::Nowhere(format!("cannot look up {}: {error}", name.host)),
        }
    }

    /// `address` did not answer: use the next one, if there are several.
    pub fn blame(&mut self, address: SocketAddr) {
        if let Location::Name(name) = &mut self.place
            && name.address() == Some(address)
        {
            name.present = (name.present + 1) % name.known.len();
            name.doubted = true;
        }
    }

    /// The address in use leads to a server that is not what it must be: use the next one, and look the name up again.
    pub fn try_others(&mut self) {
        if let Location::Name(name) = &mut self.place {
            name.present = (name.present + 1) % name.known.len().max(1);
            name.doubted = true;
        }
    }

    /// A connection was lost: the name may have another address by now.
    pub fn doubt(&mut self) {
        if let Location::Name(name) = &mut self.place {
            name.doubted = true;
        }
    }

    /// Takes the answer of a thread; `None` if none has ended. An error is the reason to fail waiting connections;
    /// an earlier answer stays in use.
    pub fn take(&mut self) -> Option<Result<()>> {
        self.forget_parents();
        let answer = self.answers.1.try_recv().ok()?;
        let Location::Name(name) = &mut self.place else { return None };
        name.asking = None;
        Some(name.learn(answer))
    }

    /// In a forked copy: leaves a look-up to the parent, whose thread may have been sending its answer. The channel is
    /// neither used nor dropped again, since that could wait for the thread.
    fn forget_parents(&mut self) {
        let Location::Name(name) = &mut self.place else { return };
        if name.asking.is_some_and(|(_, process)| process != fork::generation()) {
            std::mem::forget(std::mem::replace(&mut self.answers, channel()));
            name.asking = None;
            name.doubted = true;
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.forget_parents();
    }
}

impl HostName {
    fn new(host: String, port: u16, lookup: Lookup) -> Result<HostName> {
        let (known, present) = (Vec::new(), 0);
        let mut name = HostName { host, port, known, present, doubted: false, asking: None, asked: None };
        if matches!(lookup, Lookup::AfterFailure(_)) {
            name.learn(look_up(&name.host, port))?;
        }
        Ok(name)
    }

    fn address(&self) -> Option<SocketAddr> {
        self.known.get(self.present).copied()
    }

    fn is_asking(&self, now: Millis) -> bool {
        self.asking.is_some_and(|(since, _)| now < since + limits::RESOLVE_PATIENCE)
    }

    /// The thread holds the waker only while it wakes: a process forked meanwhile has no such thread, and must not
    /// have its descriptor. It holds nothing else of its caller, which may be gone before the thread ends.
    fn ask(
        &mut self,
        start: Start,
        to: Sender<LookupResult>,
        waker: Weak<Wake>,
        now: Millis,
    ) -> io::Result<()> {
        let (host, port) = (self.host.clone(), self.port);
        // Also without a thread: the next attempt is not before the next interval.
        self.asked = Some(now);
        start(Box::new(move || {
            // Either fails only if the loop is gone, and then nothing waits for this.
            let _ = to.send(look_up(&host, port));
            let _ = waker.upgrade().map(|waker| waker.ring());
        }))?;
        self.asking = Some((now, fork::generation()));
        self.doubted = false;
        Ok(())
    }

    fn learn(&mut self, answer: LookupResult) -> Result<()> {
        let found = match answer {
            Ok(found) if !found.is_empty() => found,
            Ok(_) => return Err(Error::system(format!("{} has no address", self.host))),
            Err(error) => return Err(Error::refused(format!("cannot look up {}", self.host), &error)),
        };
        // The address that works now is kept, wherever the new answer lists it.
        let used = self.address();
        self.present = found.iter().position(|one| Some(*one) == used).unwrap_or(0);
        self.known = found;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll, Token};

    fn resolver(host: &str, lookup: Lookup) -> (Poll, Resolver) {
        let (poll, resolver) = resolver_with(host, lookup);
        (poll, resolver.unwrap())
    }

    fn resolver_with(host: &str, lookup: Lookup) -> (Poll, Result<Resolver>) {
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Wake::new(poll.registry(), Token(0)).unwrap());
        let target = Destination::find(&Address::Tcp { host: host.to_owned(), port: 7 }, lookup);
        (poll, target.map(|target| Resolver::new(target, lookup, waker)))
    }

    fn name(resolver: &mut Resolver) -> &mut HostName {
        let Location::Name(name) = &mut resolver.place else { panic!("a name") };
        name
    }

    fn addresses(text: &[&str]) -> Vec<SocketAddr> {
        text.iter().map(|one| one.parse().unwrap()).collect()
    }

    #[test]
    fn numbers_need_no_thread() {
        for (host, shown) in [("127.0.0.1", "127.0.0.1:7"), ("::1", "[::1]:7")] {
            let (_poll, mut resolver) = resolver(host, Lookup::Always);
            assert_eq!(resolver.find(0), Found::Tcp(shown.parse().unwrap()));
            assert!(resolver.take().is_none());
        }
    }

    #[test]
    fn a_name_wakes_the_poll_when_it_is_known() {
        let (mut poll, mut resolver) = resolver("localhost", Lookup::Always);
        assert_eq!(resolver.find(0), Found::Later);
        assert_eq!(resolver.find(0), Found::Later, "one thread is enough");
        poll.poll(&mut Events::with_capacity(1), None).unwrap();
        assert_eq!(resolver.take(), Some(Ok(())));
        assert!(matches!(resolver.find(1), Found::Tcp(address) if address.ip().is_loopback()));
        assert!(resolver.take().is_none());
    }

    #[test]
    fn a_name_that_works_needs_no_thread() {
        let (_poll, mut resolver) = resolver("localhost", Lookup::AfterFailure(start));
        for now in [0, limits::RESOLVE_INTERVAL, 1_000_000] {
            assert!(matches!(resolver.find(now), Found::Tcp(address) if address.ip().is_loopback()));
            assert!(name(&mut resolver).asking.is_none());
        }
        let (_poll, refused) = resolver_with("no.such.name.invalid", Lookup::AfterFailure(start));
        assert!(refused.unwrap_err().to_string().starts_with("cannot look up no.such.name.invalid: "));
    }

    /// The address found first is that of a server that is gone.
    #[test]
    fn a_name_that_fails_is_looked_up_again() {
        let gone: SocketAddr = "192.0.2.1:7".parse().unwrap();
        for lost in [false, true] {
            let (mut poll, mut resolver) = resolver("localhost", Lookup::AfterFailure(start));
            name(&mut resolver).known = vec![gone];
            if lost {
                resolver.doubt()
            } else {
                resolver.blame(gone)
            }
            assert_eq!(resolver.find(5), Found::Tcp(gone), "meanwhile");
            poll.poll(&mut Events::with_capacity(1), None).unwrap();
            assert_eq!(resolver.take(), Some(Ok(())));
            assert!(matches!(resolver.find(6), Found::Tcp(address) if address.ip().is_loopback()));
            resolver.doubt();
            resolver.find(5 + limits::RESOLVE_INTERVAL - 1);
            assert!(name(&mut resolver).asking.is_none(), "not so soon");
            resolver.find(5 + limits::RESOLVE_INTERVAL);
            assert!(name(&mut resolver).asking.is_some());
        }
    }

    #[test]
    fn without_a_thread_the_old_addresses_are_tried() {
        fn none(_: Box<dyn FnOnce() + Send>) -> io::Result<()> {
            Err(io::Error::other("no threads"))
        }
        let (_poll, mut resolver) = resolver("localhost", Lookup::AfterFailure(none));
        resolver.doubt();
        assert!(matches!(resolver.find(0), Found::Tcp(_)));
        assert!(name(&mut resolver).asking.is_none() && name(&mut resolver).doubted);
    }

    /// What a fork leaves of a look-up under way is its mark, and nobody at work.
    #[test]
    fn an_answer_that_never_comes_is_not_waited_for() {
        fn never(_: Box<dyn FnOnce() + Send>) -> io::Result<()> {
            Ok(())
        }
        let (mut poll, mut resolver) = resolver("localhost", Lookup::AfterFailure(never));
        resolver.doubt();
        resolver.find(0);
        resolver.lookup = Lookup::AfterFailure(start);
        resolver.doubt();
        resolver.find(limits::RESOLVE_PATIENCE - 1);
        assert_eq!(name(&mut resolver).asking, Some((0, fork::generation())), "it may come yet");
        name(&mut resolver).asking = Some((0, 0));
        resolver.find(limits::RESOLVE_PATIENCE - 1);
        poll.poll(&mut Events::with_capacity(1), None).unwrap();
        assert_eq!(resolver.take(), Some(Ok(())), "another process' was given up at once");
        name(&mut resolver).asking = Some((0, fork::generation()));
        resolver.doubt();
        resolver.find(2 * limits::RESOLVE_PATIENCE);
        poll.poll(&mut Events::with_capacity(1), None).unwrap();
        assert_eq!(resolver.take(), Some(Ok(())), "and any in the end");
    }

    #[test]
    fn the_last_good_answer_outlives_a_failed_refresh() {
        let (_poll, mut resolver) = resolver("a.name", Lookup::Always);
        let name = name(&mut resolver);
        let (one, two) = ("10.0.0.1:7", "10.0.0.2:7");
        name.asked = Some(0);
        name.learn(Ok(addresses(&[one, two]))).unwrap();
        let error = name.learn(Err(io::Error::other("no network"))).unwrap_err().to_string();
        assert!(error.contains("a.name: no network"), "{error}");
        assert!(name.learn(Ok(Vec::new())).is_err());
        assert_eq!(resolver.find(0), Found::Tcp(one.parse().unwrap()));

        resolver.blame(one.parse().unwrap());
        resolver.blame(one.parse().unwrap());
        assert_eq!(resolver.find(0), Found::Tcp(two.parse().unwrap()), "blamed once, not twice");
        self::name(&mut resolver).learn(Ok(addresses(&["10.0.0.3:7", two]))).unwrap();
        assert_eq!(resolver.find(0), Found::Tcp(two.parse().unwrap()), "what works is kept");
    }
}
