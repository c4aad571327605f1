//! The core under a driver without sockets: a virtual clock, a model Redis, children that are byte strings, and wires
//! between them that can be cut, filled and stopped at any byte. Deterministic. Scenarios are in `core::tests`, random
//! schedules in `player`.

mod access;
mod asking;
mod corpus;
mod dials;
mod driver;
mod encoded;
mod failovers;
mod fuzz;
#[path = "../../../tests/generator/mod.rs"]
mod generator;
mod invariants;
mod ledger;
mod moods;
mod moves;
mod player;
mod redis;
mod reply;
#[path = "../../../tests/support/run.rs"]
mod run;
mod schedules;
mod script;
mod servers;
mod sides;
mod table;
mod truth;
mod watchers;
mod weather;
mod wire;

use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::config::{Address, Settings, parse_upstream};
use crate::core::broker::Broker;
use crate::core::child::ChildKind;
use crate::core::child::reads::Reads;
use crate::core::connection::role::LaneRole;
use crate::core::keys::{ChildKey, LaneKey};
use crate::core::questions::control::Needed;
use crate::resp::encode;
use dials::Dials;
use failovers::Failovers;
use redis::Redis;
use sides::Sides;
use std::collections::BTreeMap;
use watchers::Watchers;

/// Says what happens, where `BROKER_SIM_TRACE` is set: for whoever looks at one failing schedule.
macro_rules! trace {
    ($($what:tt)*) => {
        if $crate::core::sim::TRACE.with(|trace| *trace) {
            eprintln!($($what)*);
        }
    };
}
use trace;

thread_local! {
    static TRACE: bool = std::env::var_os("BROKER_SIM_TRACE").is_some();
}

/// An invariant does not hold: the number as in ARCHITECTURE.md.
macro_rules! broken {
    ($number:literal, $($what:tt)*) => {
        panic!("invariant {}: {}", $number, format_args!($($what)*))
    };
}
use broken;

macro_rules! holds {
    ($number:literal, $holds:expr, $($what:tt)*) => {
        assert!($holds, "invariant {}: {}", $number, format_args!($($what)*))
    };
}
use holds;

/// A connection of the broker: the two directions of its wire. What Redis knows of it is in `Redis::clients`,
/// by the same link.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) lane: LaneKey,
    pub(super) role: LaneRole,
    /// Its db and protocol.
    of: (u32, u8),
    /// Where it leads, and how often the master had changed when it was dialled.
    server: usize,
    side: usize,
    /// Sent by the broker, not yet read by Redis.
    to_redis: Vec<u8>,
    /// Sent by Redis, not yet read by the broker.
    to_broker: Vec<u8>,
    /// Still being dialled: until when, as far as the network is concerned.
    dialling: Option<Millis>,
    /// Given up by the broker; Redis has not closed its side.
    leaving: bool,
    /// Redis has closed its side; the broker has yet to read so.
    ended: bool,
    /// Bytes its socket holds at most.
    room: usize,
    /// The broker has bytes that found no room: it is told when there is some.
    blocked: bool,
    /// Its lane has been seen ready.
    ready: bool,
    /// A line of its greeting that has come in part.
    unfinished: Vec<u8>,
    /// What its greeting was refused with so far.
    refusals: Vec<String>,
    /// The broker has given it up for what the server said.
    sent_away: bool,
    /// What it was dialled for was done and answered on it, whether or not Redis has closed it since.
    useful: bool,
}

/// A child, as its process sees it.
#[derive(Debug, Default)]
struct Peer {
    key: Option<ChildKey>,
    /// Sent, and not yet read by the broker.
    outbox: Vec<u8>,
    /// It has shut its sending side down, behind what is in the outbox.
    shut: bool,
    /// The broker has been told that there may be something to read.
    armed: bool,
    received: Vec<u8>,
    /// Bytes it still takes.
    room: usize,
    /// The broker has bytes that found no room.
    blocked: bool,
    /// It takes nothing more, and the broker has found out.
    deaf: bool,
    closed: bool,
}

pub(super) struct Sim {
    pub(super) broker: Broker,
    pub(super) now: Millis,
    peers: Vec<Peer>,
    redis: Redis,
    /// By link.
    pub(super) conns: BTreeMap<usize, Conn>,
    dials: Dials,
    watchers: Watchers,
    failovers: Failovers,
    sides: Sides,
    next_link: usize,
    pub(super) refuses: bool,
    /// Dials take this long.
    dial_time: Millis,
    /// Bytes a new connection's socket holds.
    room: usize,
    /// Sockets take no bytes.
    pub(super) full: bool,
    /// Steps of what the broker has put off that a turn has time for.
    pub(super) steps: usize,
    /// The last turn has ended before all was written.
    unsettled: bool,
    /// Connections of these roles execute nothing.
    pub(super) frozen: Vec<LaneRole>,
    /// These connections execute nothing.
    pub(super) silent: Vec<usize>,
    /// The cap was lowered below what is in use.
    pub(super) over_max: bool,
    /// Moves to another upstream that were made.
    pub(super) moves: u64,
    /// Connections the broker gave up stay open until `let_go`.
    pub(super) lingers: bool,
    /// Children read from replicas, which are the same server.
    reads_replicas: bool,
    /// Until when the listeners of a connection that is to go are waited for.
    hub_until: Option<Millis>,
}

impl Sim {
    /// A broker that is connected, with so many children.
    pub(super) fn with<const CHILDREN: usize>(settings: &[(&str, &str)]) -> (Sim, [usize; CHILDREN]) {
        let mut sim = Sim::new(settings);
        let children = std::array::from_fn(|_| sim.child());
        (sim, children)
    }

    /// A broker that is connected, whose Redis writes down every request.
    /// Children are told of losses, unless the settings say otherwise: so a test sees which request has become of what.
    pub(super) fn new(settings: &[(&str, &str)]) -> Sim {
        let settings = [&[("on_upstream_loss", "error")], settings].concat();
        let mut sim = Sim::begin(&settings, "redis://sim/0", 7);
        sim.redis.texts = Some(Vec::new());
        sim.settle();
        assert!(sim.broker.upstream_is_up());
        sim
    }

    fn begin(settings: &[(&str, &str)], upstream: &str, seed: u64) -> Sim {
        let mut all = Settings::default();
        for (key, value) in settings {
            all.set(key, value).expect("a setting");
        }
        let upstream = parse_upstream(upstream).expect("a URL");
        let mut dials = Dials::default();
        dials.begin(all.reconnect_backoff_max);
        Sim {
            broker: Broker::new(all, upstream, seed, 0),
            now: 0,
            peers: Vec::new(),
            redis: Redis::new(),
            conns: BTreeMap::new(),
            dials,
            watchers: Watchers::default(),
            failovers: Failovers::none(),
            sides: Sides::default(),
            next_link: 0,
            refuses: false,
            dial_time: 0,
            room: usize::MAX,
            full: false,
            steps: usize::MAX,
            unsettled: false,
            frozen: Vec::new(),
            silent: Vec::new(),
            over_max: false,
            moves: 0,
            lingers: false,
            reads_replicas: false,
            hub_until: None,
        }
    }

    /// Children that come from now on read from so many replicas.
    pub(super) fn read_from_replicas(&mut self, count: u16) {
        self.reads_replicas = true;
        let replicas = (1..=count).map(|port| Address::Tcp { host: "replica".into(), port });
        self.broker.shared.sentinels.replicas_mut().learn(replicas.collect());
    }

    pub(super) fn child(&mut self) -> usize {
        self.child_of(ChildKind::Socket)
    }

    pub(super) fn child_of(&mut self, kind: ChildKind) -> usize {
        let link = self.peers.len();
        let key = self.broker.child_open(kind, "sim", link).expect("room for a child");
        if self.reads_replicas {
            let child = self.broker.children.known_mut(key).expect("it has just come");
            *child.reads_mut() = Reads::of_replicas(true);
        }
        self.peers.push(Peer { key: Some(key), room: usize::MAX, ..Peer::default() });
        link
    }

    /// A child that is closed by now has a key that names nothing.
    pub(super) fn key(&self, child: usize) -> ChildKey {
        self.peers[child].key.unwrap_or(Key::NONE)
    }

    pub(super) fn kill(&mut self, child: usize) {
        self.broker.child_gone(self.key(child));
        self.settle();
    }

    pub(super) fn half_close(&mut self, child: usize) {
        self.shut(child);
        self.settle();
    }

    pub(super) fn send(&mut self, child: usize, lines: &str) {
        self.send_bytes(child, &packed(lines));
    }

    pub(super) fn send_bytes(&mut self, child: usize, bytes: &[u8]) {
        self.post(child, bytes);
        self.settle();
    }

    /// What the child has received since the last call, CRLF shown as a space.
    pub(super) fn received(&mut self, child: usize) -> String {
        let bytes = std::mem::take(&mut self.peers[child].received);
        String::from_utf8_lossy(&bytes).replace("\r\n", " ").trim_end().to_owned()
    }

    /// One sends requests and hangs up, another sends some: all of it is there before the broker looks.
    pub(super) fn hang_up_before(&mut self, child: usize, lines: &str, other: usize, others: &str) {
        self.post(child, &packed(lines));
        self.shut(child);
        self.post(other, &packed(others));
        self.settle();
    }

    /// Bytes of replies the child takes from now on, before it takes no more.
    pub(super) fn set_room(&mut self, child: usize, room: usize) {
        self.peers[child].room = room;
        self.settle();
    }

    pub(super) fn unsent(&self, child: usize) -> usize {
        self.peers[child].outbox.len()
    }

    pub(super) fn ask(&mut self, child: usize, lines: &str) -> String {
        self.send(child, lines);
        self.received(child)
    }

    pub(super) fn is_closed(&self, child: usize) -> bool {
        self.peers[child].closed
    }

    fn all_links(&self) -> Vec<usize> {
        self.conns.keys().copied().collect()
    }

    /// The links of a role's connections, oldest first.
    pub(super) fn links(&self, role: LaneRole) -> Vec<usize> {
        self.conns.iter().filter(|(_, conn)| conn.role == role).map(|(link, _)| *link).collect()
    }

    /// What was executed: connection and request.
    pub(super) fn executed(&self) -> &[(i64, String)] {
        self.redis.texts.as_deref().unwrap_or_default()
    }

    /// Which connection ran each request that begins so, in order.
    pub(super) fn ran(&self, start: &str) -> Vec<i64> {
        let begun = self.executed().iter().filter(|(_, request)| request.starts_with(start));
        begun.map(|(conn, _)| *conn).collect()
    }

    /// So many CLIENT UNBLOCK come before the command they are meant for.
    pub(super) fn early_unblocks(&mut self) -> &mut usize {
        &mut self.redis.early_unblocks
    }

    /// The oldest of them.
    pub(super) fn link(&self, role: LaneRole) -> usize {
        self.links(role)[0]
    }

    pub(super) fn lose(&mut self, link: usize) {
        let lane = self.conns[&link].lane;
        self.remove(link);
        self.broker.lane_lost(lane, "lost by the test");
        self.settle();
    }

    pub(super) fn lose_one(&mut self, role: LaneRole) {
        self.lose(self.link(role));
    }

    /// The operator gives the broker another upstream and other settings.
    pub(super) fn reload(&mut self, url: &str, changes: &[(&str, &str)]) {
        let mut settings = self.broker.settings().clone();
        for (key, value) in changes {
            settings.set(key, value).expect("a setting");
        }
        self.broker.reload(settings, parse_upstream(url).expect("a URL"));
        self.settle();
    }

    /// Goes on in small steps until this holds, which it returns, or nothing moves any more.
    pub(super) fn go_on_until(&mut self, holds: impl Fn(&Broker) -> bool) -> bool {
        for _ in 0..1_000 {
            self.turn();
            if holds(&self.broker) {
                return true;
            }
            for link in self.all_links() {
                self.read_redis(link, usize::MAX);
                self.read_lane(link, usize::MAX);
            }
        }
        false
    }

    pub(super) fn thaw(&mut self) {
        self.frozen.clear();
        self.silent.clear();
        self.settle();
    }

    pub(super) fn deny(&mut self, name: &'static str) {
        self.redis.set_right(name, false);
    }

    /// The upstream has another password: whoever is connected stays so.
    pub(super) fn change_password(&mut self) {
        self.redis.lock(true);
    }

    /// No further connection is let in.
    pub(super) fn take_no_more(&mut self) {
        self.redis.servers[0].full = true;
    }

    /// Whatever stood in the way is gone.
    pub(super) fn clear_up(&mut self) {
        self.redis.clear_up();
    }

    /// A script that has run for so long is said to be busy.
    pub(super) fn say_busy_after(&mut self, patience: Millis) {
        self.redis.servers[0].patience = patience;
    }

    pub(super) fn become_master(&mut self) {
        self.redis.set_role(0, weather::Role::Master);
    }

    /// The broker asks, on its control connection, who that leads to.
    pub(super) fn tell_role(&mut self) {
        self.broker.shared.ask_fresh(Needed::Greeting);
        self.settle();
    }

    pub(super) fn become_replica(&mut self) {
        self.redis.set_role(0, weather::Role::Replica);
        self.settle();
    }

    pub(super) fn inject(&mut self, link: usize, bytes: &[u8]) {
        let lane = self.conns[&link].lane;
        self.broker.lane_input(lane, bytes);
        self.settle();
    }

    /// The next request of a silent connection is answered with these bytes.
    pub(super) fn answer_next(&mut self, link: usize, bytes: &[u8]) {
        self.drop_request(link);
        self.inject(link, bytes);
    }

    /// The reply to the next request of a silent connection is lost.
    pub(super) fn swallow_next(&mut self, link: usize) {
        self.drop_request(link);
        self.settle();
    }

    fn drop_request(&mut self, link: usize) {
        let conn = self.conns.get_mut(&link).expect("a connection");
        let (_, len) = wire::take_request(&conn.to_redis).expect("a request");
        conn.to_redis.drain(..len);
    }

    /// Lingering connections are closed by the upstream too.
    pub(super) fn let_go(&mut self) {
        self.lingers = false;
        self.all_links().into_iter().for_each(|link| self.end_leaving(link));
        self.settle();
    }

    /// Lets time pass, stopping wherever something is due.
    pub(super) fn pass(&mut self, duration: Millis) {
        let end = self.now + duration;
        while self.now < end {
            let step = self.redis.next_expiry().map_or(duration, |due| due.saturating_sub(self.now));
            let step = step.min(self.next_planned().map_or(duration, |due| due.saturating_sub(self.now)));
            let step = step.min(self.broker.timeout().unwrap_or(duration)).max(1);
            self.tick((self.now + step).min(end));
            self.settle();
        }
    }
}

/// Requests, one a line, arguments parted by spaces.
pub(super) fn packed(lines: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines.lines() {
        let argv: Vec<&[u8]> = line.split_whitespace().map(str::as_bytes).collect();
        encode::request(&mut bytes, &argv);
    }
    bytes
}
