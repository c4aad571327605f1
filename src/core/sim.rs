//! The core under a driver without sockets: a virtual clock, an upstream that is a few lines of Redis, and
//! children that are byte strings. Deterministic; after every step it checks what must always hold. Test
//! code: scenarios are in `core::tests`.

use super::broker::{Action, Broker};
use super::child::{Child, ChildKind, Hold};
use super::lane::{Lane, LaneRole};
use super::lease::LeaseKind;
use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::config::{Settings, parse_upstream};
use crate::resp::{FrameLimits, Scan, Scanner, encode};
use std::collections::{BTreeMap, BTreeSet};

/// Names, arities and flags of the commands the upstream knows; `client` has subcommands.
const COMMANDS: &[(&str, i64, &str)] = &[
    ("get", 2, "readonly"),
    ("set", -3, "write"),
    ("rpush", -3, "write"),
    ("blpop", -3, "blocking"),
    ("ping", -1, ""),
    ("select", 2, ""),
    ("hello", -1, ""),
    ("reset", 1, ""),
    ("quit", -1, ""),
    ("multi", 1, ""),
    ("exec", 1, ""),
    ("discard", 1, ""),
    ("watch", -2, ""),
    ("unwatch", 1, ""),
    ("subscribe", -2, "pubsub"),
    ("unsubscribe", -1, "pubsub"),
    ("ssubscribe", -2, "pubsub"),
    ("publish", 3, "pubsub"),
];
const CLIENT: &[(&str, i64)] = &[
    ("client|id", 2),
    ("client|setname", 3),
    ("client|getname", 2),
    ("client|no-touch", 3),
    ("client|capa", -3),
    ("client|reply", 3),
    ("client|unblock", -3),
    ("client|kill", -3),
    ("client|tracking", -3),
];

/// A connection of the broker, as the upstream sees it.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) lane: Key<Lane>,
    pub(super) role: LaneRole,
    id: i64,
    proto: u8,
    input: Vec<u8>,
    out: Vec<u8>,
    /// Commands queued since MULTI.
    multi: Option<Vec<Vec<String>>>,
    watching: bool,
    /// A BLPOP without an element.
    blocked: Option<Blocked>,
    channels: BTreeSet<String>,
}

#[derive(Debug)]
struct Blocked {
    key: String,
    /// Its place among all that wait.
    turn: u64,
    until: Millis,
}

/// A child, as its process sees it.
#[derive(Debug, Default)]
struct Peer {
    key: Option<Key<Child>>,
    received: Vec<u8>,
    closed: bool,
}

/// The broker and the world around it.
pub(super) struct Sim {
    pub(super) broker: Broker,
    pub(super) now: Millis,
    peers: Vec<Peer>,
    /// By link.
    pub(super) conns: BTreeMap<usize, Conn>,
    next_link: usize,
    blocked: u64,
    /// Dials are refused.
    pub(super) refuses: bool,
    /// Sockets take no bytes.
    pub(super) full: bool,
    /// Connections of these roles execute nothing.
    pub(super) frozen: Vec<LaneRole>,
    /// These connections execute nothing.
    pub(super) silent: Vec<usize>,
    /// The cap was lowered below what is in use.
    pub(super) over_max: bool,
    /// Connections the broker gave up stay open until `let_go`.
    pub(super) lingers: bool,
    lingering: usize,
    /// So many CLIENT UNBLOCK come before the command they are meant for.
    pub(super) early_unblocks: usize,
    /// What was executed: connection and request.
    pub(super) executed: Vec<(i64, String)>,
}

impl Sim {
    pub(super) fn new(settings: &[(&str, &str)]) -> Sim {
        let mut all = Settings::default();
        for (key, value) in settings {
            all.set(key, value).expect("a setting");
        }
        let upstream = parse_upstream("redis://sim/0").expect("a URL");
        let mut sim = Sim {
            broker: Broker::new(all, upstream, 7, 0),
            now: 0,
            peers: Vec::new(),
            conns: BTreeMap::new(),
            next_link: 0,
            blocked: 0,
            refuses: false,
            full: false,
            frozen: Vec::new(),
            silent: Vec::new(),
            over_max: false,
            lingers: false,
            lingering: 0,
            early_unblocks: 0,
            executed: Vec::new(),
        };
        sim.settle();
        assert!(sim.broker.upstream_is_up());
        sim
    }

    // ---- children -------------------------------------------------------------------------------------

    pub(super) fn child(&mut self) -> usize {
        let link = self.peers.len();
        let key = self.broker.child_open(ChildKind::Local, "sim", link).expect("room for a child");
        self.peers.push(Peer { key: Some(key), ..Peer::default() });
        link
    }

    /// A child that is closed by now has a key that names nothing.
    pub(super) fn key(&self, child: usize) -> Key<Child> {
        self.peers[child].key.unwrap_or(Key::NONE)
    }

    /// The child's process dies.
    pub(super) fn kill(&mut self, child: usize) {
        self.broker.child_gone(self.key(child));
        self.settle();
    }

    /// The child shuts its sending side down.
    pub(super) fn half_close(&mut self, child: usize) {
        self.broker.child_eof(self.key(child));
        self.settle();
    }

    /// Sends requests, one a line, in one write.
    pub(super) fn send(&mut self, child: usize, lines: &str) {
        let bytes = packed(lines);
        self.send_bytes(child, &bytes);
    }

    pub(super) fn send_bytes(&mut self, child: usize, bytes: &[u8]) {
        self.broker.child_input(self.key(child), bytes);
        self.settle();
    }

    /// What the child has received since the last call, CRLF shown as a space.
    pub(super) fn received(&mut self, child: usize) -> String {
        let bytes = std::mem::take(&mut self.peers[child].received);
        String::from_utf8_lossy(&bytes).replace("\r\n", " ").trim_end().to_owned()
    }

    pub(super) fn ask(&mut self, child: usize, lines: &str) -> String {
        self.send(child, lines);
        self.received(child)
    }

    pub(super) fn is_closed(&self, child: usize) -> bool {
        self.peers[child].closed
    }

    // ---- upstream -------------------------------------------------------------------------------------

    /// The links of a role's connections, oldest first.
    pub(super) fn links(&self, role: LaneRole) -> Vec<usize> {
        self.conns.iter().filter(|(_, conn)| conn.role == role).map(|(link, _)| *link).collect()
    }

    /// The upstream closes a connection.
    pub(super) fn lose(&mut self, link: usize) {
        let conn = self.conns.remove(&link).expect("a connection");
        self.broker.lane_lost(conn.lane, "lost by the test");
        self.settle();
    }

    /// The upstream sends bytes nobody asked for.
    pub(super) fn inject(&mut self, link: usize, bytes: &[u8]) {
        let lane = self.conns[&link].lane;
        self.broker.lane_input(lane, bytes);
        self.settle();
    }

    /// The next request of a connection is answered with these bytes.
    pub(super) fn answer_next(&mut self, link: usize, bytes: &[u8]) {
        self.next_request(link).expect("a request");
        self.inject(link, bytes);
    }

    /// The reply to the next request of a connection is lost.
    pub(super) fn swallow_next(&mut self, link: usize) {
        self.next_request(link).expect("a request");
        self.settle();
    }

    /// Lingering connections are closed by the upstream too.
    pub(super) fn let_go(&mut self) {
        self.lingers = false;
        for _ in 0..std::mem::take(&mut self.lingering) {
            self.broker.connection_closed();
        }
        self.settle();
    }

    fn serve(&mut self) -> bool {
        let mut moved = false;
        for conn in self.conns.values_mut() {
            if conn.blocked.as_ref().is_some_and(|blocked| blocked.until <= self.now) {
                conn.blocked = None;
                encode::null_array(&mut conn.out, conn.proto);
            }
        }
        for link in self.conns.keys().copied().collect::<Vec<_>>() {
            while let Some(argv) = self.next_request(link) {
                moved = true;
                let reply = self.take_request(link, argv);
                let conn = self.conns.get_mut(&link).expect("it asked");
                conn.out.extend_from_slice(&reply);
            }
        }
        for link in self.conns.keys().copied().collect::<Vec<_>>() {
            let Some(conn) = self.conns.get_mut(&link) else { continue };
            let (lane, out) = (conn.lane, std::mem::take(&mut conn.out));
            if !out.is_empty() {
                moved = true;
                self.broker.lane_input(lane, &out);
            }
        }
        moved
    }

    fn next_request(&mut self, link: usize) -> Option<Vec<String>> {
        let conn = self.conns.get_mut(&link)?;
        if self.frozen.contains(&conn.role) || self.silent.contains(&link) || conn.blocked.is_some() {
            return None;
        }
        let mut scanner = Scanner::default();
        let limits = FrameLimits { request_max: usize::MAX, authenticated: true };
        let Scan::Frame { len } = scanner.scan(&conn.input, &limits) else { return None };
        let request = scanner.request(&conn.input[..len]);
        let argv = request.args().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
        conn.input.drain(..len);
        Some(argv)
    }

    fn take_request(&mut self, link: usize, argv: Vec<String>) -> Vec<u8> {
        let name = argv[0].to_ascii_uppercase();
        let Some(conn) = self.conns.get_mut(&link) else { return Vec::new() };
        self.executed.push((conn.id, argv.join(" ")));
        let free = ["SUBSCRIBE", "UNSUBSCRIBE", "PING", "RESET", "QUIT"];
        if conn.proto == 2 && !conn.channels.is_empty() && !free.contains(&name.as_str()) {
            return b"-ERR Can't execute in this context\r\n".to_vec();
        }
        if let Some(queued) = &mut conn.multi
            && !matches!(name.as_str(), "EXEC" | "DISCARD" | "MULTI" | "WATCH")
        {
            queued.push(argv);
            return b"+QUEUED\r\n".to_vec();
        }
        match name.as_str() {
            "EXEC" => {
                let Some(queued) = conn.multi.take() else { return b"-ERR EXEC without MULTI\r\n".to_vec() };
                conn.watching = false;
                let mut out = Vec::new();
                encode::array_header(&mut out, queued.len());
                for argv in queued {
                    let blocks = argv[0].eq_ignore_ascii_case("BLPOP");
                    let reply = if blocks { b"*-1\r\n".to_vec() } else { self.run(link, &argv) };
                    out.extend_from_slice(&reply);
                }
                out
            }
            "MULTI" | "WATCH" if conn.multi.is_some() => b"-ERR inside MULTI\r\n".to_vec(),
            "DISCARD" if conn.multi.is_none() => b"-ERR DISCARD without MULTI\r\n".to_vec(),
            _ => self.run(link, &argv),
        }
    }

    fn run(&mut self, link: usize, argv: &[String]) -> Vec<u8> {
        let Some(conn) = self.conns.get_mut(&link) else { return Vec::new() };
        let arg = |index: usize| argv.get(index).map_or("", String::as_str);
        let mut out = Vec::new();
        match argv[0].to_ascii_uppercase().as_str() {
            "HELLO" | "COMMAND" | "CLIENT" => return self.run_broker(link, argv),
            "SUBSCRIBE" | "UNSUBSCRIBE" | "PUBLISH" => return self.run_pubsub(link, argv),
            "MULTI" => {
                conn.multi = Some(Vec::new());
                out.extend_from_slice(b"+OK\r\n");
            }
            "DISCARD" | "UNWATCH" => {
                (conn.multi, conn.watching) = (None, false);
                out.extend_from_slice(b"+OK\r\n");
            }
            "WATCH" => {
                conn.watching = true;
                out.extend_from_slice(b"+OK\r\n");
            }
            "BLPOP" => {
                self.blocked += 1;
                let seconds: f64 = arg(2).parse().expect("a timeout");
                let until = if seconds > 0.0 { self.now + (seconds * 1000.0) as u64 } else { Millis::MAX };
                conn.blocked = Some(Blocked { key: arg(1).to_owned(), turn: self.blocked, until });
            }
            "RPUSH" => {
                self.feed(arg(1), arg(2));
                out.extend_from_slice(b":1\r\n");
            }
            "PING" if argv.len() > 1 => encode::bulk(&mut out, arg(1).as_bytes()),
            "PING" => out.extend_from_slice(b"+PONG\r\n"),
            "ECHO" => encode::bulk(&mut out, arg(1).as_bytes()),
            // A reply that tells which request it answers.
            "GET" => encode::bulk(&mut out, arg(1).as_bytes()),
            _ => out.extend_from_slice(b"+OK\r\n"),
        }
        out
    }

    /// What only the broker itself asks.
    fn run_broker(&mut self, link: usize, argv: &[String]) -> Vec<u8> {
        let Some(conn) = self.conns.get_mut(&link) else { return Vec::new() };
        let arg = |index: usize| argv.get(index).map_or("", String::as_str);
        let mut out = Vec::new();
        match (argv[0].to_ascii_uppercase().as_str(), arg(1).to_ascii_uppercase().as_str()) {
            ("HELLO", proto) => {
                conn.proto = proto.parse().expect("a protocol");
                encode::map_header(&mut out, 2, conn.proto);
                encode::bulk(&mut out, b"proto");
                encode::int(&mut out, i64::from(conn.proto));
                encode::bulk(&mut out, b"id");
                encode::int(&mut out, conn.id);
            }
            ("COMMAND", "INFO") => {
                encode::array_header(&mut out, argv.len() - 2);
                argv[2..].iter().for_each(|name| command_entry(&mut out, name));
            }
            ("COMMAND", _) => {
                encode::array_header(&mut out, COMMANDS.len() + 1);
                COMMANDS.iter().for_each(|(name, ..)| command_entry(&mut out, name));
                command_entry(&mut out, "client");
            }
            ("CLIENT", "UNBLOCK") if self.early_unblocks > 0 => {
                self.early_unblocks -= 1;
                out.extend_from_slice(b":0\r\n");
            }
            ("CLIENT", "UNBLOCK") => {
                let id: i64 = arg(2).parse().expect("an id");
                let target = self.conns.values_mut().find(|conn| conn.id == id && conn.blocked.is_some());
                encode::int(&mut out, i64::from(target.is_some()));
                if let Some(target) = target {
                    target.blocked = None;
                    encode::null_array(&mut target.out, target.proto);
                }
            }
            _ => out.extend_from_slice(b"+OK\r\n"),
        }
        out
    }

    fn run_pubsub(&mut self, link: usize, argv: &[String]) -> Vec<u8> {
        let Some(conn) = self.conns.get_mut(&link) else { return Vec::new() };
        let arg = |index: usize| argv.get(index).map_or("", String::as_str);
        let mut out = Vec::new();
        match argv[0].to_ascii_uppercase().as_str() {
            "SUBSCRIBE" | "UNSUBSCRIBE" => {
                let joins = argv[0].eq_ignore_ascii_case("subscribe");
                for channel in &argv[1..] {
                    let _ = if joins {
                        conn.channels.insert(channel.clone())
                    } else {
                        conn.channels.remove(channel)
                    };
                    push_header(&mut out, conn.proto);
                    encode::bulk(&mut out, argv[0].to_ascii_lowercase().as_bytes());
                    encode::bulk(&mut out, channel.as_bytes());
                    encode::int(&mut out, conn.channels.len() as i64);
                }
            }
            _ => {
                let listening = self.conns.values_mut().filter(|conn| conn.channels.contains(arg(1)));
                let mut count = 0;
                for conn in listening {
                    count += 1;
                    push_header(&mut conn.out, conn.proto);
                    encode::bulk(&mut conn.out, b"message");
                    encode::bulk(&mut conn.out, arg(1).as_bytes());
                    encode::bulk(&mut conn.out, arg(2).as_bytes());
                }
                encode::int(&mut out, count);
            }
        }
        out
    }

    /// The longest waiter on `key` gets the element.
    fn feed(&mut self, key: &str, value: &str) {
        let waiting =
            self.conns.values_mut().filter(|conn| conn.blocked.as_ref().is_some_and(|b| b.key == key));
        if let Some(conn) = waiting.min_by_key(|conn| conn.blocked.as_ref().map(|blocked| blocked.turn)) {
            conn.blocked = None;
            encode::array_header(&mut conn.out, 2);
            encode::bulk(&mut conn.out, key.as_bytes());
            encode::bulk(&mut conn.out, value.as_bytes());
        }
    }

    // ---- the driver -----------------------------------------------------------------------------------

    /// Lets time pass, stopping wherever something is due.
    pub(super) fn pass(&mut self, duration: Millis) {
        let end = self.now + duration;
        while self.now < end {
            let due =
                self.conns.values().filter_map(|conn| conn.blocked.as_ref()).map(|blocked| blocked.until);
            let step = due.min().map_or(duration, |due| due.saturating_sub(self.now));
            let step = step.min(self.broker.timeout().unwrap_or(duration)).max(1);
            self.now = (self.now + step).min(end);
            self.broker.advance(self.now);
            self.settle();
        }
    }

    /// Carries everything out until nothing moves.
    pub(super) fn settle(&mut self) {
        let mut turns = 0;
        loop {
            turns += 1;
            assert!(turns < 10_000, "the broker never comes to rest");
            let mut moved = false;
            while self.broker.run() {
                moved = true;
            }
            moved |= self.carry_out_actions();
            moved |= self.flush();
            moved |= self.serve();
            if !moved {
                return self.check();
            }
        }
    }

    fn carry_out_actions(&mut self) -> bool {
        let mut actions = Vec::new();
        self.broker.take_actions(&mut actions);
        for action in &actions {
            match *action {
                Action::Connect(lane) if self.refuses => self.broker.lane_failed(lane, "refused"),
                Action::Connect(lane) => {
                    self.next_link += 1;
                    let link = self.next_link;
                    let role = self.broker.lanes.get(lane).expect("a lane to dial").role;
                    let (id, proto) = (1000 + link as i64, 2);
                    self.conns.insert(link, Conn::new(lane, role, id, proto));
                    self.broker.lane_connected(lane, link);
                }
                Action::CloseLane { link, .. } => {
                    if self.conns.remove(&link).is_some() && self.lingers {
                        self.lingering += 1;
                    } else {
                        self.broker.connection_closed();
                    }
                }
                Action::CloseChild { link } => self.peers[link].closed = true,
            }
        }
        !actions.is_empty()
    }

    fn flush(&mut self) -> bool {
        let mut moved = false;
        self.broker.take_dirty_lanes(&mut Vec::new());
        for (link, conn) in &mut self.conns {
            let Some((to, bytes)) = self.broker.lane_outgoing(conn.lane) else { continue };
            if to != *link || bytes.is_empty() || self.full {
                continue;
            }
            moved = true;
            let count = bytes.len();
            conn.input.extend_from_slice(bytes);
            self.broker.lane_wrote(conn.lane, count);
            self.broker.lane_flushed(conn.lane);
        }
        let mut children = Vec::new();
        self.broker.take_dirty_children(&mut children);
        for key in children {
            moved = true;
            if let Some((link, output)) = self.broker.child_output(key) {
                self.peers[link].received.extend_from_slice(output.as_slice());
                output.consume(output.len());
                self.broker.child_flushed(key);
            }
        }
        moved
    }

    /// What holds whenever the broker is at rest.
    fn check(&self) {
        let broker = &self.broker;
        let open = broker.lanes.iter().filter(|(_, lane)| lane.holds_place()).count();
        assert_eq!(broker.places.open, open, "places.open");
        assert_eq!(broker.places.closing, self.lingering, "places.closing");
        let counted = self.conns.len() + self.lingering;
        let fits = counted <= broker.settings().upstream_connections_max;
        assert!(fits || self.over_max, "{counted} connections");
        for kind in LeaseKind::ALL {
            let leases = broker.lanes.iter().filter_map(|(_, lane)| lane.lease.as_ref());
            let count = leases.filter(|lease| lease.kind == kind).count();
            assert_eq!(broker.leases.line_ref(kind).in_use, count, "{kind:?} in use");
        }
        for (key, lane) in broker.lanes.iter() {
            if let Some(lease) = lane.lease.as_ref().filter(|lease| !lease.over) {
                let held = broker.children.get(lease.child).and_then(|child| child.lease);
                assert_eq!(
                    held.map(|held| held.lane),
                    Some(key),
                    "a leased lane whose child does not know it"
                );
            }
        }
        for (key, child) in broker.children.iter() {
            let stuck = match child.hold {
                Hold::Drained => !child.is_under_way(),
                Hold::InFlight | Hold::Blocked | Hold::Element => child.in_flight == 0,
                Hold::Lane => !broker.lanes.iter().any(|(_, lane)| lane.held.contains(&key)),
                Hold::Lease => child.lease.is_some() || child.wait.is_none(),
                _ => false,
            };
            assert!(!stuck, "nothing will ever end {:?}", child.hold);
            if let Some(held) = child.lease {
                assert!(broker.lanes.get(held.lane).is_some(), "a child holds a lane that is gone");
            }
        }
        let children: usize = broker.children.iter().map(|(_, child)| child.footprint).sum();
        let lanes: usize = broker.lanes.iter().map(|(_, lane)| lane.footprint).sum();
        assert_eq!(broker.memory, children + lanes, "memory");
    }
}

impl Conn {
    fn new(lane: Key<Lane>, role: LaneRole, id: i64, proto: u8) -> Conn {
        Conn {
            lane,
            role,
            id,
            proto,
            input: Vec::new(),
            out: Vec::new(),
            multi: None,
            watching: false,
            blocked: None,
            channels: BTreeSet::new(),
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

fn push_header(out: &mut Vec<u8>, proto: u8) {
    out.extend_from_slice(if proto == 3 { b">3\r\n" } else { b"*3\r\n" });
}

fn command_entry(out: &mut Vec<u8>, name: &str) {
    let plain = COMMANDS.iter().find(|(known, ..)| *known == name);
    let sub = CLIENT.iter().find(|(known, _)| *known == name);
    let (arity, flags) = match (plain, sub) {
        (Some((_, arity, flags)), _) => (*arity, *flags),
        (_, Some((_, arity))) => (*arity, ""),
        _ if name == "client" => (-2, ""),
        _ => return out.extend_from_slice(b"*-1\r\n"),
    };
    encode::array_header(out, 10);
    encode::bulk(out, name.as_bytes());
    encode::int(out, arity);
    encode::array_header(out, 1);
    encode::simple(out, flags);
    for _ in 3..9 {
        encode::int(out, 0);
    }
    let subcommands = if name == "client" { CLIENT } else { &[] };
    encode::array_header(out, subcommands.len());
    subcommands.iter().for_each(|(name, _)| command_entry(out, name));
}
