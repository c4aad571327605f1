//! Connections to the upstream while they are being established. The core sees a lane connected or failed, and
//! nothing in between; a lane has at most one attempt at a time.

use super::{Link, Loop, Owner, link_of};
use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::core::LaneKey;
use crate::transport::resolver::{Destination, Found, Resolver};
use crate::transport::stream::Stream;
use crate::transport::tls::{ClientTls, TlsSession};
use mio::Token;
use socket2::{SockRef, TcpKeepalive};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// An idle upstream connection is probed after this time, then at this interval, and closed after this many probes, or
/// when written bytes stay unacknowledged for `USER_TIMEOUT`: a host that vanished is noticed in 30 s.
const KEEPALIVE_TIME: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// The upstream's address, and the attempts to connect lanes.
#[derive(Debug)]
pub(super) struct Dialler {
    resolver: Resolver,
    target: Destination,
    /// How connections are secured, if they are.
    tls: Option<ClientTls>,
    dials: HashMap<LaneKey, Dial>,
    /// Lanes that wait for the address, and until when; the longest first.
    waiting: VecDeque<(LaneKey, Millis)>,
}

/// A connection being made.
#[derive(Debug)]
struct Dial {
    link: Key<Link>,
    address: SocketAddr,
    /// Addresses to try if this one fails.
    others: VecDeque<SocketAddr>,
}

impl Dialler {
    pub(super) fn new(target: Destination, tls: Option<ClientTls>) -> Self {
        let (resolver, dials, waiting) = (Resolver::default(), HashMap::new(), VecDeque::new());
        Dialler { resolver, target, tls, dials, waiting }
    }

    /// From now on connections are secured so. Sessions stay if nothing else has changed.
    pub(super) fn secure(&mut self, tls: Option<ClientTls>) {
        let former = self.tls.take();
        self.tls = tls.map(|tls| tls.or_same(former));
    }

    /// Milliseconds until `look_up_due` has something to do.
    pub(super) fn timeout(&self, now: Millis) -> Option<Millis> {
        let waiting = self.waiting.front().map(|(_, until)| until.saturating_sub(now));
        [self.resolver.timeout(now), waiting].into_iter().flatten().min()
    }
}

impl Loop {
    /// From now on lanes are connected to `target`, which may be the same: then its name is looked up again. The core gives
    /// up attempts in progress.
    pub(super) fn redirect(&mut self, target: Destination, tls: Option<ClientTls>) {
        self.dialler.secure(tls);
        let dialler = &mut self.dialler;
        if dialler.target == target {
            dialler.resolver.doubt(&target);
        } else {
            dialler.resolver.forget(&dialler.target, self.poll.registry());
            dialler.target = target;
        }
    }

    pub(super) fn dial(&mut self, lane: LaneKey) {
        if self.closed {
            return;
        }
        let Dialler { resolver, target, waiting, .. } = &mut self.dialler;
        match resolver.find(target, self.told, self.poll.registry()) {
            Found::Unix(path) => match self.begin(Stream::connect_unix(&path), Owner::Lane(lane)) {
                // It connects at once or fails.
                Ok(link) => self.core.lane_connected(lane, link_of(link), None),
                Err(error) => self.core.lane_failed(lane, &error.to_string()),
            },
            Found::Tcp(addresses) => self.dial_one_of(lane, addresses, String::new()),
            Found::Later => {
                // The other half is for the connection; and who waits no longer is told what for.
                let patience = (self.core.settings().connect_timeout / 2).max(1);
                waiting.push_back((lane, self.told + patience));
            }
            Found::Nowhere(why) => self.core.lane_failed(lane, &why),
        }
    }

    fn begin(&mut self, stream: io::Result<Stream>, owner: Owner) -> io::Result<Key<Link>> {
        self.add_link(stream?, owner).map_err(|(_, error)| error)
    }

    /// Connects to the first that does not fail at once; `why` is said if there is none. The attempt has
    /// `connect_timeout` for all.
    fn dial_one_of(&mut self, lane: LaneKey, mut addresses: VecDeque<SocketAddr>, mut why: String) {
        while let Some(address) = addresses.pop_front() {
            match self.begin(connect_tcp(address), Owner::Dial(lane)) {
                Ok(link) => {
                    self.dialler.dials.insert(lane, Dial { link, address, others: addresses });
                    return;
                }
                Err(error) => {
                    self.blame(address);
                    why = format!("{address}: {error}");
                }
            }
        }
        self.core.lane_failed(lane, &why);
    }

    fn blame(&mut self, address: SocketAddr) {
        let Dialler { resolver, target, .. } = &mut self.dialler;
        resolver.blame(target, address);
    }

    /// The poll reports the end of an attempt, or a spurious event.
    pub(super) fn finish_dial(&mut self, key: Key<Link>) {
        let Some(link) = self.links.get_mut(key) else { return };
        let Owner::Dial(lane) = link.owner else { return };
        match link.conn.stream().is_connected() {
            Ok(false) => {}
            Ok(true) => match self.dialler.tls.as_ref().map(TlsSession::client) {
                None => self.dial_done(key, lane),
                Some(Ok(session)) => {
                    link.conn.begin_tls(session);
                    self.list(key);
                }
                Some(Err(error)) => {
                    self.close_link(key);
                    self.dial_broke(lane, &error.to_string());
                }
            },
            Err(error) => {
                self.close_link(key);
                self.dial_broke(lane, &error.to_string());
            }
        }
    }

    /// The server that was reached is not what it must be: another address of the name may lead to one that is.
    pub(super) fn try_others(&mut self) {
        let Dialler { resolver, target, .. } = &mut self.dialler;
        resolver.try_others(target);
    }

    /// The lane can be used.
    pub(super) fn dial_done(&mut self, key: Key<Link>, lane: LaneKey) {
        let Some(link) = self.links.get_mut(key) else { return };
        link.owner = Owner::Lane(lane);
        let secured = link.conn.session().map(TlsSession::secured);
        if let Some(secured) = secured {
            let resumed = if secured.resumed { ", resumed" } else { "" };
            log::debug!("connection to the upstream secured: {secured}{resumed}");
        }
        self.dialler.dials.remove(&lane);
        self.core.lane_connected(lane, link_of(key), secured);
    }

    /// Its connection is gone before it could be used: the next address is tried.
    pub(super) fn dial_broke(&mut self, lane: LaneKey, why: &str) {
        if let Some(Dial { address, others, .. }) = self.dialler.dials.remove(&lane) {
            self.blame(address);
            self.dial_one_of(lane, others, format!("{address}: {why}"));
        }
    }

    pub(super) fn lose_lane(&mut self, lane: LaneKey, why: &str) {
        let Dialler { resolver, target, .. } = &mut self.dialler;
        resolver.doubt(target);
        self.core.lane_lost(lane, why);
    }

    /// The core has given up the attempt: too slow, or no longer needed.
    pub(super) fn cancel_dial(&mut self, lane: LaneKey) {
        self.dialler.waiting.retain(|(waiting, _)| *waiting != lane);
        if let Some(Dial { link, address, .. }) = self.dialler.dials.remove(&lane) {
            self.blame(address);
            self.close_link(link);
        }
        self.core.connection_closed();
    }

    /// The poll reports a socket of a look-up.
    pub(super) fn look_up_event(&mut self, token: Token) {
        self.dialler.resolver.event(token, self.told, self.poll.registry());
        self.take_resolved();
    }

    /// Gives up what has waited long enough: name servers, and lanes that wait for them.
    pub(super) fn look_up_due(&mut self) {
        let Dialler { resolver, target, .. } = &mut self.dialler;
        if resolver.take_moved(target) {
            self.core.upstream_moved();
        }
        if self.dialler.timeout(self.told) != Some(0) {
            return;
        }
        self.dialler.resolver.advance(self.told, self.poll.registry());
        self.take_resolved();
        while let Some((lane, until)) = self.dialler.waiting.front().copied()
            && until <= self.told
        {
            self.dialler.waiting.pop_front();
            let why = self.dialler.resolver.why(&self.dialler.target);
            self.core.lane_failed(lane, &why);
        }
    }

    /// Look-ups have ended: connects the lanes that waited for them, or fails them.
    fn take_resolved(&mut self) {
        while let Some(ended) = self.dialler.resolver.take() {
            if ended.target != self.dialler.target {
                continue;
            }
            for (lane, _) in std::mem::take(&mut self.dialler.waiting) {
                match &ended.outcome {
                    Ok(()) => self.dial(lane),
                    Err(why) => self.core.lane_failed(lane, why),
                }
            }
        }
    }

    /// The end of all attempts, whose links are closed.
    pub(super) fn forget_dials(&mut self) {
        self.dialler.resolver.close(self.poll.registry());
        self.dialler.dials = HashMap::new();
        self.dialler.waiting = VecDeque::new();
    }
}

fn connect_tcp(address: SocketAddr) -> io::Result<Stream> {
    let stream = Stream::connect_tcp(address)?;
    let socket = SockRef::from(&stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES))?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(stream)
}
