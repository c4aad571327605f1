//! Connections to the upstream while they are being established. The core sees a lane connected or failed, and
//! nothing in between; a lane has at most one attempt at a time.

use super::{Link, Loop, Owner, link_of};
use crate::base::key::Key;
use crate::config::Upstream;
use crate::core::LaneKey;
use crate::transport::resolver::{Destination, Found, Lookup, Resolver};
use crate::transport::stream::Stream;
use socket2::{SockRef, TcpKeepalive};
use std::collections::HashMap;
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
    /// Those that wait for the upstream to accept, and those that wait for its address (`None`).
    dials: HashMap<LaneKey, Option<(Key<Link>, SocketAddr)>>,
}

impl Dialler {
    pub(super) fn new(resolver: Resolver) -> Self {
        Dialler { resolver, dials: HashMap::new() }
    }

    pub(super) fn forget_all(&mut self) {
        self.dials = HashMap::new();
    }
}

impl Loop {
    /// When the loop looks names up.
    pub fn lookup(&self) -> Lookup {
        self.dialler.resolver.lookup()
    }

    /// From now on lanes are connected to `target`, if it may be another one; the core gives up attempts in progress.
    pub(super) fn redirect(&mut self, upstream: &Upstream, target: Destination) {
        let resolver = &mut self.dialler.resolver;
        if !resolver.keeps_itself_fresh() || self.core.upstream().address != upstream.address {
            *resolver = resolver.another(target);
        }
    }

    pub(super) fn dial(&mut self, lane: LaneKey) {
        if self.closed {
            return;
        }
        match self.dialler.resolver.find(self.told) {
            Found::Unix(path) => match self.begin(Stream::connect_unix(&path), Owner::Lane(lane)) {
                // It connects at once or fails.
                Ok(link) => self.core.lane_connected(lane, link_of(link)),
                Err(error) => self.core.lane_failed(lane, &error.to_string()),
            },
            Found::Tcp(address) => match self.begin(connect_tcp(address), Owner::Dial(lane)) {
                Ok(link) => {
                    self.dialler.dials.insert(lane, Some((link, address)));
                }
                Err(error) => self.dial_failed(lane, address, &error),
            },
            Found::Later => {
                self.dialler.dials.insert(lane, None);
            }
            Found::Nowhere(why) => self.core.lane_failed(lane, &why),
        }
    }

    fn begin(&mut self, stream: io::Result<Stream>, owner: Owner) -> io::Result<Key<Link>> {
        self.add_link(stream?, owner).map_err(|(_, error)| error)
    }

    fn dial_failed(&mut self, lane: LaneKey, address: SocketAddr, error: &io::Error) {
        self.dialler.resolver.blame(address);
        self.core.lane_failed(lane, &format!("{address}: {error}"));
    }

    /// The poll reports the end of an attempt, or a spurious event.
    pub(super) fn finish_dial(&mut self, key: Key<Link>) {
        let Some(link) = self.links.get_mut(key) else { return };
        let Owner::Dial(lane) = link.owner else { return };
        match link.conn.stream().is_connected() {
            Ok(false) => {}
            Ok(true) => {
                link.owner = Owner::Lane(lane);
                self.dialler.dials.remove(&lane);
                self.core.lane_connected(lane, link_of(key));
            }
            Err(error) => {
                self.close_link(key);
                if let Some(Some((_, address))) = self.dialler.dials.remove(&lane) {
                    self.dial_failed(lane, address, &error);
                }
            }
        }
    }

    /// The server that was reached is not what it must be: another address of the name may lead to one that is.
    pub(super) fn try_others(&mut self) {
        self.dialler.resolver.try_others();
    }

    pub(super) fn lose_lane(&mut self, lane: LaneKey, why: &str) {
        self.dialler.resolver.doubt();
        self.core.lane_lost(lane, why);
    }

    /// The core has given up the attempt: too slow, or no longer needed.
    pub(super) fn cancel_dial(&mut self, lane: LaneKey) {
        if let Some(Some((link, address))) = self.dialler.dials.remove(&lane) {
            self.dialler.resolver.blame(address);
            self.close_link(link);
        }
        self.core.connection_closed();
    }

    /// A resolver thread has ended: connects the lanes that waited for it, or fails them.
    pub(super) fn take_resolved(&mut self) {
        while let Some(outcome) = self.dialler.resolver.take() {
            let waiting: Vec<_> = self.dialler.dials.extract_if(|_, dial| dial.is_none()).collect();
            if let (Err(why), true) = (&outcome, waiting.is_empty()) {
                log::warn!("upstream: {why}; still using the last known address");
            }
            for (lane, _) in waiting {
                match &outcome {
                    Ok(()) => self.dial(lane),
                    Err(why) => self.core.lane_failed(lane, &why.to_string()),
                }
            }
        }
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
