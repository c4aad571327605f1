//! Connections to the upstream and to its sentinels while they are being established. The core sees one connected or
//! failed, and nothing in between; each lane, and each sentinel, has at most one attempt at a time.

use super::{Link, Loop, Owner, link_of};
use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::config::Address;
use crate::core::{Action, LaneKey, SentinelId};
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

/// For whom a connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Caller {
    Lane(LaneKey),
    Sentinel(SentinelId),
}

/// Names that are looked up, and the attempts to connect.
#[derive(Debug, Default)]
pub(super) struct Dialler {
    resolver: Resolver,
    /// Where lanes were connected to last.
    server: Option<Destination>,
    /// How connections are secured, if they are.
    tls: Option<ClientTls>,
    dials: HashMap<Caller, Dial>,
    /// Those that wait for an address, and until when; the longest first.
    waiting: VecDeque<(Caller, Destination, Millis)>,
}

/// A connection being made.
#[derive(Debug)]
struct Dial {
    link: Key<Link>,
    target: Destination,
    /// How the target is named, which its certificate must be for where sentinels have named it.
    host: Option<String>,
    address: SocketAddr,
    /// Addresses to try if this one fails.
    others: VecDeque<SocketAddr>,
}

impl Dialler {
    pub(super) fn new(tls: Option<ClientTls>) -> Self {
        Dialler { tls, ..Dialler::default() }
    }

    /// From now on connections are secured so. Sessions stay if nothing else has changed.
    pub(super) fn secure(&mut self, tls: Option<ClientTls>) {
        let former = self.tls.take();
        self.tls = tls.map(|tls| tls.or_same(former));
    }

    /// How connections are secured now.
    pub(super) fn tls(&self) -> Option<&ClientTls> {
        self.tls.as_ref()
    }

    /// Milliseconds until `look_up_due` has something to do.
    pub(super) fn timeout(&self, now: Millis) -> Option<Millis> {
        let waiting = self.waiting.front().map(|(.., until)| until.saturating_sub(now));
        [self.resolver.timeout(now), waiting].into_iter().flatten().min()
    }
}

impl Loop {
    /// From now on connections are secured so, and the upstream's name is looked up again. The core gives up attempts in
    /// progress.
    pub(super) fn redirect(&mut self, tls: Option<ClientTls>) {
        self.dialler.secure(tls);
        if let Dialler { resolver, server: Some(server), .. } = &mut self.dialler {
            resolver.doubt(server);
        }
    }

    /// Where a connection leads, and the host as it is named; or why that is not known.
    fn destination(&mut self, caller: Caller) -> Result<(Destination, Option<String>), String> {
        let found = match caller {
            Caller::Lane(lane) => self.core.lane_address(lane).map(|(address, own)| (address.clone(), own)),
            Caller::Sentinel(id) => {
                self.core.sentinels().address_of(id).map(|address| (address.clone(), false))
            }
        };
        let Some((address, is_upstream)) = found else { return Err(self.core.sentinels().trouble()) };
        let host = if let Address::Tcp { host, .. } = &address { Some(host.clone()) } else { None };
        let target = Destination::from(&address);
        if is_upstream {
            self.leave_former(&target);
        }
        Ok((target, host))
    }

    pub(super) fn dial(&mut self, caller: Caller) {
        if self.closed {
            return;
        }
        if let Caller::Lane(lane) = caller
            && self.core.waits_for_move(lane)
        {
            return self.core.lane_failed(lane, "another upstream is being tried");
        }
        let (target, host) = match self.destination(caller) {
            Ok(found) => found,
            // It is dialled afresh when they have spoken, or given up in its time.
            Err(_) if self.core.sentinels().are_awaited() => return,
            Err(why) => return self.not_dialled(caller, None, &why),
        };
        let Dialler { resolver, waiting, .. } = &mut self.dialler;
        match resolver.find(&target, self.told, self.poll.registry()) {
            Found::Unix(path) => match self.begin(Stream::connect_unix(&path), Owner::Dial(caller)) {
                // It connects at once or fails.
                Ok(link) => self.dial_done(link, caller),
                Err(error) => self.not_dialled(caller, Some(&target), &error.to_string()),
            },
            Found::Tcp(addresses) => self.dial_one_of(caller, (target, host), addresses, String::new()),
            Found::Later => {
                // The other half is for the connection. The core's own timer would not know the reason.
                let patience = (self.core.settings().connect_timeout / 2).max(1);
                waiting.push_back((caller, target, self.told + patience));
            }
            Found::Nowhere(why) => self.not_dialled(caller, Some(&target), &why),
        }
    }

    /// What is known of a name that lanes are connected to no more is forgotten.
    fn leave_former(&mut self, target: &Destination) {
        let former = self.dialler.server.replace(target.clone());
        if let Some(former) = former.filter(|former| former != target) {
            self.dialler.resolver.forget(&former, self.poll.registry());
        }
    }

    fn not_dialled(&mut self, caller: Caller, target: Option<&Destination>, why: &str) {
        target.into_iter().for_each(|target| self.forget_other(target));
        match caller {
            Caller::Lane(lane) => self.core.lane_failed(lane, why),
            Caller::Sentinel(id) => self.core.sentinels().lost(id, why, self.told),
        }
    }

    /// The name of a sentinel or a replica is looked up for each connection.
    fn forget_other(&mut self, target: &Destination) {
        if self.dialler.server.as_ref() != Some(target) {
            self.dialler.resolver.forget(target, self.poll.registry());
        }
    }

    fn begin(&mut self, stream: io::Result<Stream>, owner: Owner) -> io::Result<Key<Link>> {
        self.add_link(stream?, owner).map_err(|(_, error)| error)
    }

    /// Connects to the first that does not fail at once; `why` is said if there is none. The attempt has
    /// `connect_timeout` for all.
    fn dial_one_of(
        &mut self,
        caller: Caller,
        (target, host): (Destination, Option<String>),
        mut addresses: VecDeque<SocketAddr>,
        mut why: String,
    ) {
        while let Some(address) = addresses.pop_front() {
            match self.begin(connect_tcp(address), Owner::Dial(caller)) {
                Ok(link) => {
                    let dial = Dial { link, target, host, address, others: addresses };
                    self.dialler.dials.insert(caller, dial);
                    return;
                }
                Err(error) => {
                    self.dialler.resolver.blame(&target, address);
                    why = format!("{address}: {error}");
                }
            }
        }
        self.not_dialled(caller, Some(&target), &why);
    }

    /// The poll reports the end of an attempt, or a spurious event.
    pub(super) fn finish_dial(&mut self, key: Key<Link>) {
        let Some(link) = self.links.get(key) else { return };
        let Owner::Dial(caller) = link.owner else { return };
        match link.conn.stream().is_connected() {
            Ok(false) => {}
            Ok(true) => match self.session_for(caller) {
                None => self.dial_done(key, caller),
                Some(Ok(session)) => {
                    if let Some(link) = self.links.get_mut(key) {
                        link.conn.begin_tls(session);
                    }
                    self.list(key);
                }
                Some(Err(error)) => {
                    self.close_link(key);
                    self.dial_broke(caller, &error.to_string());
                }
            },
            Err(error) => {
                self.close_link(key);
                self.dial_broke(caller, &error.to_string());
            }
        }
    }

    /// The TLS of a connection, if it is to have any. Where sentinels name the server, its certificate must have that name.
    fn session_for(&self, caller: Caller) -> Option<io::Result<TlsSession>> {
        self.dialler.tls.as_ref()?;
        let named = self.core.upstream().watched().is_some();
        let Dialler { tls, dials, .. } = &self.dialler;
        let host = dials.get(&caller).and_then(|dial| dial.host.as_deref()).filter(|_| named);
        tls.as_ref().map(|tls| TlsSession::client(tls, host))
    }

    /// The server that was reached is not what it must be: another address of the name may lead to one that is.
    pub(super) fn try_others(&mut self) {
        if let Dialler { resolver, server: Some(server), .. } = &mut self.dialler {
            resolver.try_others(server);
        }
    }

    /// Whether the attempt was given up in this turn: the action that says so is still to come, and another one perhaps for
    /// the next attempt.
    fn is_given_up(&self, caller: Caller) -> bool {
        let Caller::Lane(lane) = caller else { return false };
        let given_up = Action::CloseLane { lane, link: None };
        self.core.has_given_up(lane) || self.work.actions.contains(&given_up)
    }

    /// The connection can be used.
    pub(super) fn dial_done(&mut self, key: Key<Link>, caller: Caller) {
        let dial = self.dialler.dials.remove(&caller);
        if self.is_given_up(caller) {
            return self.close_link(key);
        }
        let Some(link) = self.links.get_mut(key) else { return };
        link.owner = match caller {
            Caller::Lane(lane) => Owner::Lane(lane),
            Caller::Sentinel(id) => Owner::Sentinel(id),
        };
        let secured = link.conn.session().map(TlsSession::secured);
        if let Some(secured) = secured {
            let resumed = if secured.resumed { ", resumed" } else { "" };
            log::debug!("connection to the upstream secured: {secured}{resumed}");
        }
        if let Some(Dial { target, address, .. }) = &dial {
            self.dialler.resolver.note_used(target, *address);
            self.forget_other(target);
        }
        match caller {
            Caller::Lane(lane) => {
                self.core.lane_connected(lane, link_of(key), secured);
            }
            Caller::Sentinel(id) => self.core.sentinels().connected(id, link_of(key), self.told),
        }
    }

    /// Its connection is gone before it could be used: the next address is tried.
    pub(super) fn dial_broke(&mut self, caller: Caller, why: &str) {
        let dial = self.dialler.dials.remove(&caller);
        if self.is_given_up(caller) {
            return;
        }
        if let Some(Dial { target, host, address, others, .. }) = dial {
            self.dialler.resolver.blame(&target, address);
            self.dial_one_of(caller, (target, host), others, format!("{address}: {why}"));
        }
    }

    pub(super) fn lose_lane(&mut self, lane: LaneKey, why: &str) {
        if let Dialler { resolver, server: Some(server), .. } = &mut self.dialler {
            resolver.doubt(server);
        }
        self.core.lane_lost(lane, why);
    }

    /// The core has given up the attempt: too slow, or no longer needed.
    pub(super) fn cancel_dial(&mut self, caller: Caller) {
        let at = self.dialler.waiting.iter().position(|(waiting, ..)| *waiting == caller);
        let waits = at.and_then(|at| self.dialler.waiting.remove(at));
        let mut left = waits.map(|(_, target, _)| target);
        if let Some(Dial { link, target, address, .. }) = self.dialler.dials.remove(&caller) {
            self.dialler.resolver.blame(&target, address);
            self.close_link(link);
            left = Some(target);
        }
        left.iter().for_each(|target| self.forget_other(target));
        if let Caller::Lane(_) = caller {
            self.core.connection_closed();
        }
    }

    /// The poll reports a socket of a look-up.
    pub(super) fn look_up_event(&mut self, token: Token) {
        self.dialler.resolver.event(token, self.told, self.poll.registry());
        self.follow_name();
        self.take_resolved();
    }

    /// Where the name leads elsewhere by now, nothing more is written where it led.
    fn follow_name(&mut self) {
        if let Dialler { resolver, server: Some(server), .. } = &mut self.dialler
            && resolver.take_moved(server)
        {
            self.core.upstream_moved();
        }
    }

    /// Gives up what has waited long enough: name servers, and those that wait for them.
    pub(super) fn look_up_due(&mut self) {
        self.follow_name();
        if self.dialler.timeout(self.told) != Some(0) {
            return;
        }
        self.dialler.resolver.advance(self.told, self.poll.registry());
        self.follow_name();
        self.take_resolved();
        while let Some((_, _, until)) = self.dialler.waiting.front()
            && *until <= self.told
            && let Some((caller, target, _)) = self.dialler.waiting.pop_front()
        {
            let why = self.dialler.resolver.why(&target);
            self.not_dialled(caller, Some(&target), &why);
        }
    }

    /// Look-ups have ended: connects those that waited for them, or fails them.
    fn take_resolved(&mut self) {
        while let Some(ended) = self.dialler.resolver.take() {
            for (caller, target, until) in std::mem::take(&mut self.dialler.waiting) {
                match &ended.outcome {
                    _ if target != ended.target => self.dialler.waiting.push_back((caller, target, until)),
                    Ok(()) => self.dial(caller),
                    Err(why) => self.not_dialled(caller, Some(&target), why),
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
