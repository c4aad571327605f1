//! A client over sockets: one poll, whose descriptor any loop can watch, and a connection for each channel. Moves bytes
//! between them and the mux; decides nothing about requests.

use super::channel::Channel;
use super::endpoint::{Begun, Endpoint, OwnFd, Place, Target, Unusable, Whereabouts};
use super::mux::{ConnectionAction, Mux, Profile};
use super::request::Fault;
use super::requests::Requests;
use crate::base::clock::{Clock, Millis};
use crate::base::error::{Error, Result};
use crate::base::fds::Held;
use crate::base::key::Key;
use crate::base::limits::{READ_TURN, WRITE_TURN};
use crate::config::ClientSettings;
use crate::transport::conn::{Conn, Fill, Flush};
use crate::transport::resolver::Resolver;
use crate::transport::secure::HandshakeStep;
use crate::transport::stream::{Peer, Stream};
use crate::transport::wake::Wake;
use mio::net::UnixStream;
use mio::{Events, Poll, Token};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

/// Tokens that are no keys: no arena grows to this index.
const TOKEN_WAKER: Token = Token(u32::MAX as usize);
const TOKEN_BELL: Token = Token(1 << 32 | u32::MAX as usize);
/// Events taken from the poll at once.
const EVENTS: usize = 64;

/// A connection and what is known of it.
#[derive(Debug)]
struct ClientLink {
    conn: Conn,
    /// Where to, while that is under way.
    connecting: Option<Connecting>,
}

#[derive(Debug)]
struct Connecting {
    address: SocketAddr,
    /// Addresses to try if this one fails.
    others: VecDeque<SocketAddr>,
}

/// What a client is connected to, as far as a loop of the same process could be that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peering {
    /// A listener's URL.
    At(String),
    /// The other end of a socket that was given was made by this process.
    OwnProcess,
    /// None of ours.
    Elsewhere,
}

/// A client of a broker, or of Redis itself; see the header's `broker_client_t`.
#[derive(Debug)]
pub struct Client {
    mux: Mux,
    net: Net,
    endpoint: Endpoint,
}

/// What a client is made from, without descriptors: enough to make it again in a forked copy of the process.
#[derive(Debug)]
pub struct Recipe {
    place: Place,
    profile: Profile,
}

impl Recipe {
    /// Whether a client made from it once more can connect.
    pub fn is_lasting(&self) -> bool {
        self.profile.lasting
    }

    /// A client of this process, behind so many forks. It knows no request or subscription of those before it.
    pub fn renew(&self, forks: u64) -> Result<Client> {
        let place = self.place.as_ref().map(Whereabouts::renewed).transpose()?;
        let recipe = Recipe { place, profile: self.profile.clone() };
        Ok(Client::begin(Net::new()?, &recipe, None, forks))
    }
}

#[derive(Debug)]
struct Net {
    /// Before `poll`: see [`Held`].
    _held: Held,
    poll: Poll,
    events: Events,
    waker: Wake,
    bell: Wake,
    links: HashMap<Key<Channel>, ClientLink>,
    clock: Clock,
    scratch: Box<[u8]>,
    /// Links with something left to read.
    unread: Vec<Key<Channel>>,
    /// Channels with something left to write.
    late: Vec<Key<Channel>>,
    /// Channels that wait for a socket to be handed over between two requests.
    handovers: Vec<Key<Channel>>,
    /// Channels that wait for the address of the endpoint, and until when; the longest first.
    waiting: VecDeque<(Key<Channel>, Millis)>,
    /// The poll has been woken and has not been asked since.
    woken: bool,
    /// Whoever drives the client is about to flush: nothing needs waking.
    attended: bool,
    /// Somebody has rung the bell, and no step has ended for it yet.
    rung: bool,
}

impl Net {
    fn new() -> Result<Net> {
        let refused = |error| Error::refused("cannot create a poll", &error);
        let poll = Poll::new().map_err(refused)?;
        let held = Held::new(&poll);
        let waker = Wake::new(poll.registry(), TOKEN_WAKER).map_err(refused)?;
        let bell = Wake::new(poll.registry(), TOKEN_BELL).map_err(refused)?;
        Ok(Net {
            _held: held,
            poll,
            events: Events::with_capacity(EVENTS),
            waker,
            bell,
            links: HashMap::new(),
            clock: Clock::new(),
            scratch: vec![0; READ_TURN].into_boxed_slice(),
            unread: Vec::new(),
            late: Vec::new(),
            handovers: Vec::new(),
            waiting: VecDeque::new(),
            woken: false,
            attended: false,
            rung: false,
        })
    }
}

impl Client {
    /// A client of `endpoint`, which begins to connect, and how to make it again.
    pub fn new(
        endpoint: Option<&str>,
        mut settings: ClientSettings,
        own_fd: OwnFd,
    ) -> std::result::Result<(Client, Recipe), Unusable> {
        let net = Net::new()?;
        let Target { place, given, direct } = Target::parse(endpoint, &mut settings, own_fd)?;
        let profile = Profile { settings, direct, eager: true, lasting: given.is_none() };
        let recipe = Recipe { place, profile };
        Ok((Client::begin(net, &recipe, given, 0), recipe))
    }

    fn begin(net: Net, recipe: &Recipe, given: Option<Stream>, forks: u64) -> Client {
        let endpoint = Endpoint::new(recipe.place.clone(), given);
        let mux = Mux::new(recipe.profile.clone(), 0, forks);
        let mut client = Client { mux, net, endpoint };
        client.flush();
        client
    }

    /// Lends what may be asked of it. What was asked makes the descriptor readable, so that the loop sends it.
    pub fn with_requests<R>(&mut self, body: impl FnOnce(&mut Requests<'_>) -> R) -> R {
        let (mux, clock) = (&mut self.mux, &self.net.clock);
        let mut requests = Requests { mux, clock, open: true, moved: false };
        let result = body(&mut requests);
        if requests.moved {
            self.wake();
        }
        result
    }

    /// What to write eight bytes to, from any thread, to make the descriptor readable.
    pub fn bell(&self) -> RawFd {
        self.net.bell.as_raw_fd()
    }

    /// How long a loop may sleep before the next `work`, in milliseconds; `None` is until the descriptor is readable.
    pub fn timeout(&self) -> Option<Millis> {
        let net = &self.net;
        let unread = net.unread.iter().any(|key| net.links.get(key).is_some_and(|link| link.conn.unread()));
        if unread || net.rung || !net.late.is_empty() {
            return Some(0);
        }
        let now = net.clock.now();
        let waiting = net.waiting.front().map(|(_, until)| until.saturating_sub(now));
        [self.mux.timeout(now), self.endpoint.timeout(now), waiting].into_iter().flatten().min()
    }

    /// What it is connected to.
    pub fn peering(&self) -> Peering {
        if let Some(url) = self.endpoint.url() {
            return url.map_or(Peering::Elsewhere, Peering::At);
        }
        match self.net.links.get(&self.mux.main).map(|link| link.conn.stream().peer()) {
            Some(Peer::Unix(peer)) if peer.pid.unsigned_abs() == std::process::id() => Peering::OwnProcess,
            _ => Peering::Elsewhere,
        }
    }

    /// Whoever drives the client will `work` or `end_step` next: until then nothing submitted needs to wake it.
    pub fn attend(&mut self) {
        self.net.attended = true;
    }

    /// How long whoever waits for the descriptor next may do so, at most `limit`; `None` is until it is readable.
    pub fn patience(&mut self, limit: Option<Millis>) -> Option<Millis> {
        self.net.attended = false;
        [limit, self.timeout()].into_iter().flatten().min()
    }

    /// Reads what has come, lets happen what is due, writes what can be written; never waits. The callbacks are due then,
    /// and after them `end_step`.
    pub fn work(&mut self) -> Result<()> {
        self.net.attended = false;
        if let Err(error) = self.net.poll.poll(&mut self.net.events, Some(Duration::ZERO))
            && error.kind() != io::ErrorKind::Interrupted
        {
            return Err(Error::refused("cannot poll", &error));
        }
        self.net.woken = false;
        self.mux.advance(self.net.clock.now());
        self.look_up_due();
        let unread = std::mem::take(&mut self.net.unread);
        let events = std::mem::replace(&mut self.net.events, Events::with_capacity(0));
        for event in &events {
            match event.token() {
                // It has ended the wait.
                TOKEN_WAKER => {}
                TOKEN_BELL => {
                    // Emptied, or a level-triggered watcher of the outer loop would spin.
                    self.net.bell.empty();
                    self.net.rung = true;
                }
                token if Resolver::owns(token) => {
                    self.endpoint.event(token, self.mux.now, self.net.poll.registry());
                    self.take_looked_up();
                }
                Token(bits) => self.take_event(Key::from_bits(bits as u64), event),
            }
        }
        self.net.events = events;
        self.net.events.clear();
        for key in unread {
            match self.net.links.get(&key).is_some_and(|link| link.connecting.is_some()) {
                true => self.shake(key),
                false => self.read(key),
            }
        }
        self.flush();
        self.net.attended = true;
        Ok(())
    }

    /// Writes what callbacks have submitted. A bell that was rung has ended this step and ends no other.
    pub fn end_step(&mut self) {
        (self.net.attended, self.net.rung) = (false, false);
        self.flush();
    }

    /// Carries out what the mux wants done, and writes.
    fn flush(&mut self) {
        self.mux.advance(self.net.clock.now());
        let mut dirty = std::mem::take(&mut self.net.late);
        loop {
            let actions = self.mux.take_actions();
            let moved = !actions.is_empty();
            for action in actions {
                match action {
                    ConnectionAction::Connect(key) => self.connect(key),
                    ConnectionAction::Close(key) => self.give_up(key),
                }
            }
            self.mux.take_dirty(&mut dirty);
            if dirty.is_empty() && !moved {
                break;
            }
            for key in dirty.drain(..) {
                self.write(key);
            }
            self.hand_over();
        }
    }

    /// Makes the descriptor readable, once, until the next `work`.
    fn wake(&mut self) {
        if !self.net.attended && !std::mem::replace(&mut self.net.woken, true) {
            self.net.waker.ring();
        }
    }

    fn connect(&mut self, key: Key<Channel>) {
        if !self.endpoint.is_lasting() && key != self.mux.main {
            self.net.handovers.push(key);
            return self.hand_over();
        }
        match self.endpoint.connect(self.mux.now, self.net.poll.registry()) {
            Ok(Begun::Connected(stream)) => {
                if let Err(error) = self.add(key, stream, None) {
                    self.not_connected(key, &error.to_string());
                }
            }
            Ok(Begun::Tcp(addresses)) => self.connect_one_of(key, addresses, String::new()),
            Ok(Begun::Later) => {
                // The other half is for the connection. The mux' own timer would not know the reason.
                let patience = (self.mux.connect_timeout() / 2).max(1);
                self.net.waiting.push_back((key, self.mux.now + patience));
            }
            Err(error) => self.not_connected(key, &error.to_string()),
        }
    }

    /// Connects to the first that does not fail at once; `why` is said if there is none. All have `client_connect_timeout`.
    fn connect_one_of(&mut self, key: Key<Channel>, mut addresses: VecDeque<SocketAddr>, mut why: String) {
        while let Some(address) = addresses.pop_front() {
            let connecting = Some(Connecting { address, others: addresses.clone() });
            match Stream::connect_tcp(address).and_then(|stream| self.add(key, stream, connecting)) {
                Ok(()) => return,
                Err(error) => {
                    self.endpoint.blame(address);
                    why = error.to_string();
                }
            }
        }
        self.not_connected(key, &why);
    }

    fn not_connected(&mut self, key: Key<Channel>, why: &str) {
        self.mux.failed(key, &format!("cannot connect: {why}"));
    }

    /// Gives up what has waited long enough: name servers, and channels that wait for them.
    fn look_up_due(&mut self) {
        let now = self.mux.now;
        self.endpoint.advance(now, self.net.poll.registry());
        self.take_looked_up();
        while let Some((key, until)) = self.net.waiting.front().copied()
            && until <= now
        {
            self.net.waiting.pop_front();
            let why = self.endpoint.why();
            self.not_connected(key, &why);
        }
    }

    /// The channels that have waited for a look-up connect, or learn why not.
    fn take_looked_up(&mut self) {
        let Some(outcome) = self.endpoint.take_looked_up() else { return };
        for (key, _) in std::mem::take(&mut self.net.waiting) {
            match &outcome {
                Ok(()) => self.connect(key),
                Err(why) => self.not_connected(key, why),
            }
        }
    }

    /// The mux wants it no more: what is still under way has taken too long.
    fn give_up(&mut self, key: Key<Channel>) {
        if let Some(connecting) = self.net.links.get(&key).and_then(|link| link.connecting.as_ref()) {
            self.endpoint.blame(connecting.address);
        }
        self.close_link(key);
    }

    fn add(&mut self, key: Key<Channel>, stream: Stream, connecting: Option<Connecting>) -> io::Result<()> {
        let mut conn = Conn::new(stream);
        conn.register(self.net.poll.registry(), Token(key.to_bits() as usize), connecting.is_some())?;
        let stands = connecting.is_none();
        self.net.links.insert(key, ClientLink { conn, connecting });
        if stands {
            self.mux.connected(key);
        }
        Ok(())
    }

    /// Gives one end of a new socket pair to the process at the other end of the given one: how a client that has but
    /// one socket gets more. The empty line it travels with is no request.
    fn hand_over(&mut self) {
        let main = self.mux.main;
        if self.net.handovers.is_empty() || !self.mux.is_between_requests(main) {
            return;
        }
        for key in std::mem::take(&mut self.net.handovers) {
            match self.hand_over_one(main) {
                Ok(Some(stream)) => {
                    if let Err(error) = self.add(key, stream, None) {
                        self.mux.failed(key, &error.to_string());
                    }
                }
                Ok(None) => self.net.handovers.push(key),
                Err(error) => self.mux.failed(key, &format!("cannot hand a socket over: {error}")),
            }
        }
    }

    /// `None`: not now.
    fn hand_over_one(&mut self, main: Key<Channel>) -> io::Result<Option<Stream>> {
        let Some(link) = self.net.links.get(&main) else { return Ok(None) };
        if link.conn.blocked() {
            return Ok(None);
        }
        let (near, far) = std::os::unix::net::UnixStream::pair()?;
        near.set_nonblocking(true)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [far.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let line = IoSlice::new(b"\r\n");
        match rustix::net::sendmsg(link.conn.stream(), &[line], &mut ancillary, SendFlags::NOSIGNAL) {
            // A line of which one byte has left would have to be ended before the next request.
            Ok(2) => Ok(Some(Stream::Unix(UnixStream::from_std(near)))),
            Ok(_) => Err(io::Error::other("the socket took half a line")),
            Err(error) => Err(error.into()),
        }
    }

    fn close_link(&mut self, key: Key<Channel>) {
        self.net.handovers.retain(|waiting| *waiting != key);
        self.net.waiting.retain(|(waiting, _)| *waiting != key);
        if let Some(link) = self.net.links.remove(&key) {
            link.conn.close(self.net.poll.registry());
        }
    }

    fn take_event(&mut self, key: Key<Channel>, event: &mio::event::Event) {
        let Some(link) = self.net.links.get_mut(&key) else { return };
        link.conn.observe(event);
        if link.connecting.is_some() {
            if link.conn.session().is_some() {
                self.shake(key);
            } else if !link.conn.blocked() {
                self.finish_connecting(key);
            }
        } else if event.is_writable() {
            self.net.late.push(key);
        }
        self.read(key);
    }

    /// The system reports the end of an attempt, or a spurious event.
    fn finish_connecting(&mut self, key: Key<Channel>) {
        let Some(link) = self.net.links.get_mut(&key) else { return };
        match link.conn.stream().is_connected() {
            Ok(false) => {}
            Ok(true) => match self.endpoint.session() {
                None => {
                    link.connecting = None;
                    self.mux.connected(key);
                }
                Some(Ok(session)) => {
                    link.conn.begin_tls(session);
                    self.shake(key);
                }
                Some(Err(error)) => self.attempt_failed(key, &error.to_string()),
            },
            Err(error) => self.attempt_failed(key, &error.to_string()),
        }
    }

    /// A step of a TLS handshake.
    fn shake(&mut self, key: Key<Channel>) {
        let Some(link) = self.net.links.get_mut(&key) else { return };
        match link.conn.shake(self.net.poll.registry(), &mut self.net.scratch) {
            HandshakeStep::UnderWay if link.conn.unread() => self.net.unread.push(key),
            HandshakeStep::UnderWay => {}
            HandshakeStep::Done => {
                link.connecting = None;
                if link.conn.unread() {
                    self.net.unread.push(key);
                }
                self.mux.connected(key);
            }
            HandshakeStep::Failed(why) => self.attempt_failed(key, &format!("TLS: {why}")),
        }
    }

    /// The attempt has come to nothing: the next address of the name is tried.
    fn attempt_failed(&mut self, key: Key<Channel>, why: &str) {
        let connecting = self.net.links.get_mut(&key).and_then(|link| link.connecting.take());
        self.close_link(key);
        let Some(Connecting { address, others }) = connecting else { return };
        self.endpoint.blame(address);
        self.connect_one_of(key, others, why.to_owned());
    }

    /// One read: whoever sends without end does not keep others waiting.
    fn read(&mut self, key: Key<Channel>) {
        let Some(link) = self.net.links.get_mut(&key) else { return };
        if link.connecting.is_some() || !link.conn.unread() || self.net.unread.contains(&key) {
            return;
        }
        let fill = link.conn.fill(&mut self.net.scratch, 0);
        if link.conn.unread() {
            self.net.unread.push(key);
        }
        match fill {
            Fill::Bytes(count) => self.mux.input(key, &self.net.scratch[..count]),
            Fill::Empty => {}
            Fill::End => self.broken(key, "closed by the peer"),
            Fill::Broken(error) => self.broken(key, &error.to_string()),
        }
    }

    fn broken(&mut self, key: Key<Channel>, why: &str) {
        self.endpoint.doubt();
        self.close_link(key);
        self.mux.lost(key, why);
    }

    fn write(&mut self, key: Key<Channel>) {
        let mut left = WRITE_TURN;
        loop {
            let link = self.net.links.get_mut(&key).filter(|link| link.connecting.is_none());
            let Some(link) = link else { return };
            let bytes = self.mux.outgoing(key);
            match link.conn.flush_some(self.net.poll.registry(), bytes, &mut left) {
                Ok(Flush::Wrote(count)) => self.mux.wrote(key, count),
                Ok(Flush::Done) => return,
                Ok(Flush::TurnOver) => return self.net.late.push(key),
                Err(_) => {
                    // Replies may have come before it broke: they are read first, up to the end.
                    link.conn.hang();
                    return self.net.unread.push(key);
                }
            }
        }
    }

    /// Cancels everything and closes every connection; the events tell.
    pub fn close(&mut self) {
        self.mux.end(Fault::Canceled);
        for key in self.net.links.keys().copied().collect::<Vec<_>>() {
            self.close_link(key);
        }
        self.net.waiting.clear();
        self.endpoint.close(self.net.poll.registry());
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.net.poll.as_raw_fd()
    }
}
