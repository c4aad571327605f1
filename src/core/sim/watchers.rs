//! Model sentinels: what each of them believes, and what it says of that on its connections, byte by byte as real ones do
//! with RESP3. They decide nothing; what they come to believe, and when, is planned in `failovers`.

use super::encoded::{bulk, error, int, ok, push_header};
use super::wire::{full_name, shown, take_request};
use super::{Sim, trace};
use crate::base::clock::Millis;
use crate::config::Address;
use crate::core::nodes::sentinels::{SentinelAction, SentinelId};
use crate::resp::encode;
use std::collections::{BTreeMap, VecDeque};

/// How the master is called.
pub(super) const MASTER: &str = "m";
/// Where servers and sentinels are: the first of each, the others behind it.
pub(super) const SERVER_PORT: u16 = 7000;
pub(super) const WATCHER_PORT: u16 = 26379;

/// Who the master is, and since which vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    pub(super) epoch: u64,
    pub(super) server: usize,
}

/// A model sentinel.
#[derive(Debug, Default)]
pub(super) struct Watching {
    /// None of a master by this name.
    pub(super) view: Option<View>,
    /// It carries out a failover: its view has the new epoch and the former master, and says so.
    pub(super) is_leading: bool,
    /// Whoever connects is refused.
    pub(super) is_gone: bool,
    /// It reads nothing.
    pub(super) is_silent: bool,
    /// It hears nothing of the others.
    pub(super) is_cut_off: bool,
}

/// What the broker knows once it has read so far.
#[derive(Debug)]
enum Telling {
    Greeting,
    View(View),
}

/// A connection of the broker to a sentinel.
#[derive(Debug)]
struct WatcherLink {
    watcher: usize,
    id: SentinelId,
    /// Still being dialled.
    dialling: Option<Millis>,
    to_watcher: Vec<u8>,
    to_broker: Vec<u8>,
    /// Bytes that the broker has read.
    read: usize,
    /// By how many bytes must have been read.
    tells: VecDeque<(usize, Telling)>,
    listens: bool,
    /// The broker has read its greeting, and last of its answers this.
    greeted: bool,
    told: Option<View>,
    /// The sentinel has closed its side.
    ended: bool,
}

/// The sentinels, where there are some.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    pub(super) list: Vec<Watching>,
    links: BTreeMap<usize, WatcherLink>,
    next_link: usize,
    /// Dials take this long.
    pub(super) dial_time: Millis,
}

fn map(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::map_header(&mut out, pairs.len(), 3);
    for (name, value) in pairs {
        out.extend([bulk(name.as_bytes()), value.clone()].concat());
    }
    out
}

fn text(value: impl ToString) -> Vec<u8> {
    bulk(value.to_string().as_bytes())
}

fn confirmations(channels: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, channel) in channels.iter().enumerate() {
        push_header(&mut out, 3, 3);
        out.extend([text("subscribe"), bulk(channel), int(at as i64 + 1)].concat());
    }
    out
}

fn run_id(watcher: usize) -> String {
    format!("id{watcher}")
}

/// The reply to SENTINEL MASTER.
fn claim(view: View, is_leading: bool) -> Vec<u8> {
    let flags = if is_leading { "master,failover_in_progress,force_failover" } else { "master" };
    map(&[
        ("name", text(MASTER)),
        ("ip", text("s")),
        ("port", text(usize::from(SERVER_PORT) + view.server)),
        ("flags", text(flags)),
        ("config-epoch", text(view.epoch)),
        ("quorum", text(2)),
    ])
}

/// The reply to SENTINEL SENTINELS. Some are known here by another name than in the URL.
fn others(watchers: impl Iterator<Item = usize>) -> Vec<u8> {
    let one = |at: usize| {
        let port = text(usize::from(WATCHER_PORT) + at);
        map(&[("ip", text(["w", "v"][at % 2])), ("port", port), ("runid", text(run_id(at)))])
    };
    let all: Vec<Vec<u8>> = watchers.map(one).collect();
    let mut out = Vec::new();
    encode::array_header(&mut out, all.len());
    out.extend(all.concat());
    out
}

impl Watchers {
    pub(super) fn links(&self) -> Vec<usize> {
        self.links.keys().copied().collect()
    }

    /// The sentinel closes its connections: one of them, or those of one sentinel.
    pub(super) fn close(&mut self, which: impl Fn(usize, usize) -> bool) {
        for (link, conn) in &mut self.links {
            conn.ended |= which(*link, conn.watcher);
        }
    }

    /// What the broker has read last on each connection that stands, and of whom.
    pub(super) fn told(&self) -> impl Iterator<Item = (usize, View)> {
        let up = self.links.values().filter(|conn| conn.greeted);
        up.filter_map(|conn| Some((conn.watcher, conn.told?)))
    }

    /// An event, to all that listen to this sentinel.
    pub(super) fn publish(&mut self, watcher: usize, channel: &str, said: &str) {
        let listens = |conn: &&mut WatcherLink| conn.watcher == watcher && conn.listens && !conn.ended;
        for conn in self.links.values_mut().filter(listens) {
            push_header(&mut conn.to_broker, 3, 3);
            conn.to_broker.extend([text("message"), text(channel), text(said)].concat());
        }
    }

    /// The sentinel comes to believe this.
    pub(super) fn see(&mut self, watcher: usize, view: View) {
        self.list[watcher].is_leading = false;
        let before = self.list[watcher].view.replace(view);
        if let Some(before) = before.filter(|before| before.server != view.server) {
            let at = |server: usize| format!("s {}", SERVER_PORT + server as u16);
            let said = format!("{MASTER} {} {}", at(before.server), at(view.server));
            self.publish(watcher, "+switch-master", &said);
        }
    }

    fn answer(&mut self, link: usize, argv: &[Vec<u8>]) {
        let Some(conn) = self.links.get_mut(&link) else { return };
        trace!("    sentinel {} is asked {}", conn.watcher, shown(argv));
        let watching = &self.list[conn.watcher];
        let is_leading = watching.is_leading;
        let view = watching.view.filter(|_| argv.get(2).is_some_and(|name| name == MASTER.as_bytes()));
        let mut telling = None;
        let reply = match (full_name(argv).as_str(), argv.get(1).map_or(&b""[..], Vec::as_slice)) {
            ("hello", _) => {
                telling = Some(Telling::Greeting);
                map(&[("server", text("redis")), ("proto", int(3)), ("mode", text("sentinel"))])
            }
            ("subscribe", _) => {
                conn.listens = true;
                confirmations(&argv[1..])
            }
            ("sentinel", b"MASTER") => {
                telling = view.filter(|_| !is_leading).map(Telling::View);
                let none = || error("ERR No such master with that name");
                view.map_or_else(none, |view| claim(view, is_leading))
            }
            ("sentinel", b"MYID") => text(run_id(conn.watcher)),
            ("sentinel", b"SENTINELS") => others((0..self.list.len()).filter(|at| *at != conn.watcher)),
            _ => ok(),
        };
        conn.to_broker.extend(reply);
        let end = conn.read + conn.to_broker.len();
        conn.tells.extend(telling.map(|telling| (end, telling)));
    }
}

impl Sim {
    pub(super) fn is_watched(&self) -> bool {
        !self.watchers.list.is_empty()
    }

    /// What the reactor does for the sentinels in a turn.
    pub(super) fn serve_watchers(&mut self) -> bool {
        let mut actions = Vec::new();
        self.broker.sentinels().take_actions(&mut actions);
        for action in &actions {
            match *action {
                SentinelAction::Connect(id) => self.dial_watcher(id),
                SentinelAction::Cancel(id) => {
                    self.watchers.links.retain(|_, conn| conn.id != id || conn.dialling.is_none())
                }
                SentinelAction::Close { link } => drop(self.watchers.links.remove(&link)),
            }
        }
        let writable: Vec<SentinelId> = self.broker.sentinels().writable().collect();
        let mut wrote = false;
        for id in writable {
            let Some((link, bytes)) = self.broker.sentinels().outgoing(id) else { continue };
            let count = bytes.len();
            let Some(conn) = self.watchers.links.get_mut(&link).filter(|conn| !conn.ended) else { continue };
            conn.to_watcher.extend_from_slice(bytes);
            self.broker.sentinels().wrote(id, count);
            wrote = true;
        }
        !actions.is_empty() || wrote
    }

    fn dial_watcher(&mut self, id: SentinelId) {
        let Some(Address::Tcp { port, .. }) = self.broker.sentinels().address_of(id) else { return };
        let watcher = usize::from(*port - WATCHER_PORT);
        self.watchers.next_link += 1;
        let (link, now) = (self.watchers.next_link, self.now);
        let conn = WatcherLink {
            watcher,
            id,
            dialling: Some(now + self.watchers.dial_time),
            to_watcher: Vec::new(),
            to_broker: Vec::new(),
            read: 0,
            tells: VecDeque::new(),
            listens: false,
            greeted: false,
            told: None,
            ended: false,
        };
        self.watchers.links.insert(link, conn);
        self.finish_watcher_dials();
    }

    pub(super) fn finish_watcher_dials(&mut self) -> bool {
        let now = self.now;
        let due = self.watchers.links.iter_mut().filter_map(|(link, conn)| {
            conn.dialling.take_if(|due| *due <= now).map(|_| (*link, conn.id, conn.watcher))
        });
        let due: Vec<_> = due.collect();
        for &(link, id, watcher) in &due {
            if self.watchers.list[watcher].is_gone {
                self.watchers.links.remove(&link);
                self.broker.sentinels().lost(id, "refused", now);
            } else {
                self.broker.sentinels().connected(id, link, now);
            }
        }
        !due.is_empty()
    }

    /// A sentinel reads a connection and answers.
    pub(super) fn read_watcher(&mut self, link: usize) -> bool {
        let Some(conn) = self.watchers.links.get_mut(&link) else { return false };
        if conn.ended || conn.dialling.is_some() || self.watchers.list[conn.watcher].is_silent {
            return false;
        }
        let bytes = std::mem::take(&mut conn.to_watcher);
        let mut used = 0;
        while let Some((argv, len)) = take_request(&bytes[used..]) {
            used += len;
            self.watchers.answer(link, &argv);
        }
        let conn = self.watchers.links.get_mut(&link).expect("as before");
        conn.to_watcher = bytes[used..].to_vec();
        used > 0
    }

    /// The broker reads a connection to a sentinel, at most so many bytes.
    pub(super) fn hear_watcher(&mut self, link: usize, limit: usize) -> bool {
        let Some(conn) = self.watchers.links.get_mut(&link) else { return false };
        let (id, now) = (conn.id, self.now);
        if self.broker.sentinels().outgoing(id).map(|(link, _)| link) != Some(link) {
            // The core has just given this connection up, or it is being dialled.
            return false;
        }
        let count = conn.to_broker.len().min(limit);
        if count == 0 {
            if conn.ended {
                self.watchers.links.remove(&link);
                self.broker.sentinels().lost(id, "closed by the sentinel", now);
                return true;
            }
            return false;
        }
        let bytes: Vec<u8> = conn.to_broker.drain(..count).collect();
        conn.read += count;
        let mut told = None;
        while conn.tells.front().is_some_and(|(end, _)| *end <= conn.read) {
            match conn.tells.pop_front().expect("there is one").1 {
                Telling::Greeting => conn.greeted = true,
                Telling::View(view) => told = Some(view),
            }
        }
        if let Some(view) = told {
            trace!("sentinel {} has told {view:?}", conn.watcher);
            conn.told = Some(view);
        }
        self.broker.sentinels().input(id, &bytes, now);
        self.note_told(told);
        true
    }
}
