//! A model of Redis: executes what arrives on its connections, in the order of arrival. Exact where the broker depends
//! on it: MULTI, WATCH, blocking commands, subscriptions. Two things a real server does not do make it a better witness: a
//! key never set holds its own name, and the value of a nonce tells where it was read: `c1n5@2.3.ann` on db 2, RESP3.

use super::access::{Access, REVOKED};
use super::encoded::{bulk, error, int, null, null_bulk, ok, pair, push_header};
use super::ledger::{Ledger, Message, Nonce};
use super::weather::{Role, Weather};
use super::wire::{Argv, full_name, nonce_in, shown, take_request};
use super::{holds, table, trace};
use crate::base::clock::Millis;
use crate::core::connection::role::LaneRole;
use crate::resp::encode;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// How many databases there are, as in Redis' own default.
const DATABASES: u32 = 16;

/// What changes the connection it runs on, or another one.
const POISON: &str = "reset quit watch monitor client|reply client|tracking client|caching client|setinfo client|kill \
     client|unblock client|pause";

const UNBLOCKED: &str = "UNBLOCKED client unblocked via CLIENT UNBLOCK";

/// A database of a server.
pub(super) type ServerDb = (usize, u32);

#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(Vec<u8>),
    List(VecDeque<Vec<u8>>),
}

/// A blocking pop without an element.
#[derive(Debug)]
pub(super) struct Blocked {
    keys: Vec<Vec<u8>>,
    /// Its place among all that wait.
    turn: u64,
    pub(super) until: Millis,
}

/// A connection, as the server knows it.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) id: i64,
    /// What the broker uses it for, which a server need not know: only to judge what arrives.
    role: Option<LaneRole>,
    pub(super) proto: u8,
    pub(super) db: u32,
    /// Which server it is connected to, and what that said it was.
    pub(super) server: usize,
    pub(super) greeted_by: Role,
    pub(super) user: String,
    /// It is that user by right: it has said a password, or needs none.
    pub(super) known: bool,
    pub(super) name: String,
    pub(super) multi: Option<Vec<Argv>>,
    multi_refused: bool,
    pub(super) spoilt: bool,
    pub(super) watched: Vec<(u32, Vec<u8>)>,
    pub(super) touched: bool,
    pub(super) blocked: Option<Blocked>,
    /// Channels, patterns, shard channels.
    pub(super) subscribed: [BTreeSet<Vec<u8>>; 3],
    pub(super) silent: bool,
    /// Redis' clock at the last command: what WAIT is about.
    offset: u64,
    /// Something other than a greeting has come.
    greeted: bool,
    selects: u32,
    pub(super) input: Vec<u8>,
    pub(super) out: Vec<u8>,
    pub(super) frozen: bool,
    /// It is of use: something was executed on it that is no greeting, or, for the control connection, COMMAND.
    pub(super) useful: bool,
}

impl Client {
    fn new(id: i64, role: Option<LaneRole>, known: bool) -> Client {
        Client { id, role, known, proto: 2, user: "default".into(), ..Client::default() }
    }

    pub(super) fn subscriptions(&self) -> usize {
        self.subscribed.iter().map(BTreeSet::len).sum()
    }

    /// What MULTI and WATCH have begun is over.
    pub(super) fn end_multi(&mut self) {
        (self.multi, self.spoilt, self.touched) = (None, false, false);
        self.watched.clear();
    }

    pub(super) fn place(&self) -> ServerDb {
        (self.server, self.db)
    }

    fn count(&self, family: usize) -> i64 {
        let counted = if family == 2 { &self.subscribed[2..] } else { &self.subscribed[..2] };
        counted.iter().map(BTreeSet::len).sum::<usize>() as i64
    }
}

#[derive(Default)]
pub(super) struct Redis {
    pub(super) now: Millis,
    /// By link.
    pub(super) clients: BTreeMap<usize, Client>,
    pub(super) ledger: Ledger,
    pub(super) keys: HashMap<(ServerDb, Vec<u8>), Value>,
    turns: u64,
    table: Vec<u8>,
    pub(super) early_unblocks: usize,
    /// Every request, with the id of its connection; for scenarios, which read it.
    pub(super) texts: Option<Vec<(i64, String)>>,
    pub(super) commands: u64,
    pub(super) access: Access,
    /// What each server is like; there is more than one where sentinels watch them.
    pub(super) servers: Vec<Weather>,
    /// The broker may use connections to replicas.
    pub(super) serves_replicas: bool,
    /// Connections that the broker has closed while their server hung.
    pub(super) orphans: Vec<(usize, Client)>,
    /// Connections the server closes once they have read what it has written.
    pub(super) closing: Vec<usize>,
}

impl Redis {
    pub(super) fn new() -> Redis {
        let mut redis = Redis { table: table::all(), ..Redis::default() };
        (redis.access.user, redis.serves_replicas) = ("default", true);
        redis.servers.push(Weather::new(Role::Master, 50));
        redis.witness();
        redis
    }

    pub(super) fn connect(&mut self, link: usize, role: LaneRole, server: usize) -> bool {
        let full = self.servers[server].full;
        if !full {
            let client = Client::new(1000 + link as i64, Some(role), self.access.is_open());
            self.clients.insert(link, Client { server, ..client });
        }
        !full
    }

    /// What the server of a connection is like.
    fn weather_of(&self, link: usize) -> &Weather {
        &self.servers[self.clients.get(&link).map_or(0, |client| client.server)]
    }

    pub(super) fn disconnect(&mut self, link: usize) {
        if self.clients.remove(&link).is_some() {
            self.ledger.closed.insert(link);
        }
    }

    /// An element from nobody, for whoever waits on this list.
    pub(super) fn give(&mut self, db: u32, list: &[u8]) {
        for server in 0..self.servers.len() {
            if self.servers[server].takes_writes() {
                self.push((server, db), list, &[b"e".to_vec()]);
            }
        }
    }

    /// When something here changes by itself: a blocking command gives up, a script ends.
    pub(super) fn next_expiry(&self) -> Option<Millis> {
        let awake = self.clients.values().filter(|client| !self.servers[client.server].hangs);
        let expires = awake.filter_map(|client| client.blocked.as_ref()).map(|blocked| blocked.until).min();
        let changes = self.servers.iter().filter_map(|weather| weather.next_change(self.now));
        expires.into_iter().chain(changes).min()
    }

    pub(super) fn advance(&mut self, now: Millis) {
        self.now = now;
        self.change_in_time();
        for client in self.clients.values_mut() {
            let weather = &self.servers[client.server];
            if weather.script_runs() || weather.hangs {
                // Nobody gives up meanwhile.
                continue;
            }
            if let Some(blocked) = client.blocked.take_if(|blocked| blocked.until <= now) {
                encode::null_array(&mut client.out, client.proto);
                self.ledger.truth.note_stay(&blocked.keys, |stay| stay.timed_out = true);
            }
        }
    }

    /// Executes what has arrived; whether there was anything.
    pub(super) fn serve(&mut self, link: usize) -> bool {
        let Some(client) = self.clients.get_mut(&link) else { return false };
        let mut input = std::mem::take(&mut client.input);
        let mut used = 0;
        while self.clients.get(&link).is_some_and(|client| !client.frozen && client.blocked.is_none())
            && !self.weather_of(link).is_deaf(self.now)
            && !self.weather_of(link).is_running(link)
            && !self.closing.contains(&link)
        {
            let Some((argv, len)) = take_request(&input[used..]) else { break };
            used += len;
            self.request(link, argv);
        }
        input.drain(..used);
        if let Some(client) = self.clients.get_mut(&link) {
            client.input = input;
        }
        used > 0
    }

    fn request(&mut self, link: usize, argv: Argv) {
        self.commands += 1;
        let name = full_name(&argv);
        let serves_replicas = self.serves_replicas;
        let client = self.client(link);
        let (id, role, useful) = (client.id, client.role, is_use(client.role, &name));
        let greets = is_greeting(&name) || (name == "multi" && !client.greeted);
        let serves = serves_replicas || client.greeted_by == Role::Master || greets;
        holds!(31, serves || role.is_none_or(LaneRole::is_own), "a replica is asked {}", shown(&argv));
        trace!("    redis {link} ({:?}) runs {}", client.role, shown(&argv));
        watch_for_poison(client, &name, &argv);
        if let Some(texts) = &mut self.texts {
            texts.push((id, shown(&argv)));
        }
        let refused = self.refusal(link, &name, &argv);
        // A refusal is the answer of a server that works, but is of no use to the control connection.
        let useful = useful && (refused.is_none() || role != Some(LaneRole::Control));
        let client = self.client(link);
        client.multi_refused = match name.as_str() {
            "multi" => refused.is_some(),
            "exec" => false,
            _ => client.multi_refused,
        };
        let reply = match refused {
            Some(text) => Redis::reject(self.client(link), &name, &text),
            None => self.admitted(link, &name, argv),
        };
        let clock = self.ledger.clock;
        let client = self.client(link);
        client.offset = clock;
        client.useful |= useful;
        if !client.silent {
            client.out.extend_from_slice(&reply);
        }
    }

    fn client(&mut self, link: usize) -> &mut Client {
        self.clients.get_mut(&link).expect("a connection that is open")
    }

    /// 22: WAIT speaks of what its own connection has done last; that must not be older than the child's last
    /// write. The timeout tells whose it is.
    fn check_wait(&self, link: usize, argv: &[Vec<u8>]) {
        let child = String::from_utf8_lossy(&argv[2]).parse::<usize>().unwrap_or(0) / 1000;
        let (known, written) = (self.clients[&link].offset, self.ledger.last_write(child));
        // What arrives on a connection given up is answered to nobody.
        let knows = known >= written || self.ledger.closed.contains(&link);
        holds!(22, knows, "WAIT of child {child} knows of {known} where it wrote at {written}");
    }

    fn admitted(&mut self, link: usize, name: &str, argv: Argv) -> Vec<u8> {
        let Some(client) = self.clients.get_mut(&link) else { return Vec::new() };
        let at_once = matches!(name, "exec" | "discard" | "multi" | "watch" | "quit" | "reset");
        if let Some(queued) = &mut client.multi
            && !at_once
        {
            queued.push(argv);
            return b"+QUEUED\r\n".to_vec();
        }
        match name {
            "multi" if client.multi.is_some() => error("ERR MULTI calls can not be nested"),
            "watch" if client.multi.is_some() => error("ERR WATCH inside MULTI is not allowed"),
            "exec" if client.multi.is_none() => error("ERR EXEC without MULTI"),
            "discard" if client.multi.is_none() => error("ERR DISCARD without MULTI"),
            "exec" => self.exec(link),
            _ => {
                if name == "wait" {
                    self.check_wait(link, &argv);
                }
                self.note(link, &argv, false);
                self.run(link, name, &argv)
            }
        }
    }

    /// Writes the request's nonce down, if it has one.
    fn note(&mut self, link: usize, argv: &[Vec<u8>], aborted: bool) {
        if let Some(nonce) = nonce_in(argv) {
            let server = self.client(link).server;
            self.ledger.ran(nonce, (link, server), aborted);
            if !aborted && matches!(full_name(argv).as_str(), "set" | "getset" | "incr" | "rpush") {
                self.ledger.wrote(nonce, link);
            }
        }
    }

    fn exec(&mut self, link: usize) -> Vec<u8> {
        let Some(client) = self.clients.get_mut(&link) else { return Vec::new() };
        let queued = client.multi.take().unwrap_or_default();
        let (spoilt, touched, proto) = (client.spoilt, client.touched, client.proto);
        client.end_multi();
        self.check_block(&queued);
        if spoilt {
            return error("EXECABORT Transaction discarded because of previous errors.");
        }
        if touched {
            queued.iter().for_each(|argv| self.note(link, argv, true));
            return null(proto);
        }
        let mut out = Vec::new();
        encode::array_header(&mut out, queued.len());
        for argv in queued {
            let name = full_name(&argv);
            if self.forbids(&self.clients[&link], &name).is_some() {
                out.extend_from_slice(&error(REVOKED));
                nonce_in(&argv).into_iter().for_each(|nonce| self.ledger.revoked(nonce));
                continue;
            }
            self.note(link, &argv, false);
            let reply = match name.as_str() {
                "blpop" | "brpop" => {
                    let place = self.clients[&link].place();
                    let (keys, now) = (&argv[1..argv.len() - 1], self.now);
                    let popped = self.pop_any(place, keys, name == "blpop");
                    if popped.is_none() {
                        self.ledger.truth.note_stay(keys, |stay| stay.looked = Some(now));
                    }
                    popped.map_or_else(|| null(proto), |(key, element)| pair(key, &element))
                }
                // None is so long that others would be told of it.
                "eval" => bulk(&self.tagged(link, &argv[3])),
                _ => self.run(link, &name, &argv),
            };
            out.extend_from_slice(&reply);
        }
        out
    }

    /// Nothing of another child, and nothing of another transaction, stands between MULTI and EXEC.
    fn check_block(&self, queued: &[Argv]) {
        let owner = |nonce: Nonce| Some((nonce.child(), *self.ledger.transactions.get(&nonce)?));
        let owners: BTreeSet<_> = queued.iter().filter_map(|argv| owner(nonce_in(argv)?)).collect();
        holds!(8, owners.len() < 2, "one EXEC ran commands of {owners:?} (child, transaction)");
    }

    fn run(&mut self, link: usize, name: &str, argv: &[Vec<u8>]) -> Vec<u8> {
        let Some(client) = self.clients.get_mut(&link) else { return Vec::new() };
        let (place, db) = (client.place(), client.db);
        let arg = |index: usize| argv.get(index).map_or(&b""[..], Vec::as_slice);
        match name {
            "ping" if argv.len() == 1 => b"+PONG\r\n".to_vec(),
            "ping" | "echo" => bulk(arg(1)),
            "get" => bulk(&self.value(link, arg(1))),
            "eval" if arg(1).starts_with(b"loop") => {
                self.begin_script(link, argv);
                Vec::new()
            }
            "eval" => bulk(&self.tagged(link, arg(3))),
            "set" | "getset" => {
                let before = self.value(link, arg(1));
                self.write(place, arg(1), arg(2));
                if name == "set" { ok() } else { bulk(&before) }
            }
            "incr" => {
                let before = String::from_utf8_lossy(&self.value(link, arg(1))).parse().unwrap_or(0i64);
                self.write(place, arg(1), (before + 1).to_string().as_bytes());
                int(before + 1)
            }
            "rpush" => int(self.push(place, arg(1), &argv[2..])),
            "blpop" | "brpop" => self.block(link, place, argv, name == "blpop"),
            "multi" | "discard" | "watch" | "unwatch" => {
                match name {
                    "multi" => client.multi = Some(Vec::new()),
                    "watch" => client.watched.extend(argv[1..].iter().map(|key| (db, key.clone()))),
                    // Outside of MULTI, UNWATCH ends nothing but the watches.
                    _ => client.end_multi(),
                }
                ok()
            }
            "publish" | "spublish" => {
                let on_topics_lane = client.role == Some(LaneRole::Subscriber);
                let message = (arg(1), arg(2), name == "spublish");
                self.publish(place.0, message, on_topics_lane)
            }
            "pubsub|numsub" => self.subscribers(place.0, &argv[2..], 0),
            "pubsub|shardnumsub" => self.subscribers(place.0, &argv[2..], 2),
            "wait" => int(0),
            "script|kill" => self.kill_script(link),
            "function|kill" => error("NOTBUSY No scripts in execution right now."),
            _ if name.contains("subscribe") => self.subscribe(link, name, argv),
            _ => self.run_connection(link, name, argv),
        }
    }

    fn run_connection(&mut self, link: usize, name: &str, argv: &[Vec<u8>]) -> Vec<u8> {
        let Some(client) = self.clients.get_mut(&link) else { return Vec::new() };
        let place = client.place();
        let arg = |index: usize| String::from_utf8_lossy(argv.get(index).map_or(&b""[..], Vec::as_slice));
        match name {
            "hello" => self.hello(link, argv),
            "auth" => {
                let pair = argv.get(argv.len() - 2..).unwrap_or_default();
                self.authenticate(link, pair).map_or_else(|refused| refused, |()| ok())
            }
            "select" => match arg(1).parse::<u32>() {
                Ok(db) if db < DATABASES => {
                    client.db = db;
                    ok()
                }
                _ => error("ERR DB index is out of range"),
            },
            "client|setname" => {
                client.name = arg(2).into_owned();
                ok()
            }
            "client|getname" if client.name.is_empty() => null_bulk(client.proto),
            "client|getname" => bulk(client.name.as_bytes()),
            "client|reply" => {
                client.silent = arg(2).eq_ignore_ascii_case("off");
                if client.silent { Vec::new() } else { ok() }
            }
            "client|unblock" => self.unblock(place.0, arg(2).parse().unwrap_or(0), &arg(3)),
            "reset" => {
                let fresh = Client::new(client.id, client.role, self.access.is_open());
                let Client { input, out, greeted, server, greeted_by, .. } = std::mem::take(client);
                *client = Client { input, out, greeted, server, greeted_by, ..fresh };
                b"+RESET\r\n".to_vec()
            }
            "command" => self.table.clone(),
            "command|info" => {
                let mut out = Vec::new();
                encode::array_header(&mut out, argv.len() - 2);
                (2..argv.len()).for_each(|index| table::entry(&mut out, &arg(index).to_ascii_lowercase()));
                out
            }
            "config|get" => b"*0\r\n".to_vec(),
            _ => ok(),
        }
    }

    fn value(&self, link: usize, key: &[u8]) -> Vec<u8> {
        let place = self.clients.get(&link).map_or((0, 0), Client::place);
        match self.keys.get(&(place, key.to_vec())) {
            Some(Value::Text(text)) => text.clone(),
            Some(Value::List(_)) => Vec::new(),
            None => self.tagged(link, key),
        }
    }

    /// A nonce, and where it was read; any other text as it is.
    pub(super) fn tagged(&self, link: usize, text: &[u8]) -> Vec<u8> {
        match self.clients.get(&link) {
            Some(client) if Nonce::of(text).is_some() => {
                let place = format!("@{}.{}.{}", client.db, client.proto, client.user);
                [text, place.as_bytes()].concat()
            }
            _ => text.to_vec(),
        }
    }

    fn write(&mut self, place: ServerDb, key: &[u8], text: &[u8]) {
        self.keys.insert((place, key.to_vec()), Value::Text(text.to_vec()));
        self.touch(place, key);
    }

    pub(super) fn touch(&mut self, place: ServerDb, key: &[u8]) {
        self.ledger.touch(place, key);
        for client in self.clients.values_mut().filter(|client| client.server == place.0) {
            client.touched |= client.watched.iter().any(|(of, watched)| *of == place.1 && watched == key);
        }
    }

    fn push(&mut self, place: ServerDb, key: &[u8], elements: &[Vec<u8>]) -> i64 {
        let value = self.keys.entry((place, key.to_vec())).or_insert(Value::List(VecDeque::new()));
        let Value::List(list) = value else { return 0 };
        list.extend(elements.iter().cloned());
        let len = list.len() as i64;
        self.ledger.truth.list_is_empty(place, key, false);
        self.touch(place, key);
        self.feed(place, key);
        len
    }

    fn pop(&mut self, place: ServerDb, key: &[u8], left: bool) -> Option<Vec<u8>> {
        let Some(Value::List(list)) = self.keys.get_mut(&(place, key.to_vec())) else { return None };
        let element = if left { list.pop_front() } else { list.pop_back() };
        if list.is_empty() {
            self.keys.remove(&(place, key.to_vec()));
            self.ledger.truth.list_is_empty(place, key, true);
        }
        if element.is_some() {
            self.touch(place, key);
        }
        element
    }

    /// The longest waiters on a key get its elements.
    fn feed(&mut self, place: ServerDb, key: &[u8]) {
        loop {
            let waits = |client: &Client| {
                client.place() == place
                    && client.blocked.as_ref().is_some_and(|blocked| blocked.keys.iter().any(|of| of == key))
            };
            let waiting = self.clients.iter().filter(|(_, client)| waits(client));
            let first = waiting.min_by_key(|(_, client)| client.blocked.as_ref().map(|blocked| blocked.turn));
            let Some(link) = first.map(|(link, _)| *link) else { return };
            let Some(element) = self.pop(place, key, true) else { return };
            self.ledger.popped(&element);
            let client = self.clients.get_mut(&link).expect("just found");
            client.blocked = None;
            client.out.extend_from_slice(&pair(key, &element));
        }
    }

    /// An element of the first of these lists that has one, for a command that takes it from there.
    fn pop_any<'a>(
        &mut self,
        place: ServerDb,
        keys: &'a [Vec<u8>],
        left: bool,
    ) -> Option<(&'a [u8], Vec<u8>)> {
        let (key, element) = keys.iter().find_map(|key| Some((key, self.pop(place, key, left)?)))?;
        self.ledger.popped(&element);
        Some((key, element))
    }

    fn block(&mut self, link: usize, place: ServerDb, argv: &[Vec<u8>], left: bool) -> Vec<u8> {
        let (keys, timeout) = (&argv[1..argv.len() - 1], &argv[argv.len() - 1]);
        if let Some((key, element)) = self.pop_any(place, keys, left) {
            return pair(key, &element);
        }
        let Ok(seconds) = String::from_utf8_lossy(timeout).parse::<f64>() else {
            return error("ERR timeout is not a float or out of range");
        };
        self.turns += 1;
        let until = if seconds > 0.0 {
            self.now.saturating_add((seconds * 1000.0).ceil() as u64)
        } else {
            Millis::MAX
        };
        self.ledger.truth.note_stay(keys, |stay| stay.stood = true);
        if let Some(client) = self.clients.get_mut(&link) {
            client.blocked = Some(Blocked { keys: keys.to_vec(), turn: self.turns, until });
        }
        Vec::new()
    }

    fn unblock(&mut self, server: usize, id: i64, how: &str) -> Vec<u8> {
        // That one asks only whether it may.
        if self.early_unblocks > 0 && id != 0 {
            self.early_unblocks -= 1;
            return int(0);
        }
        let is_meant = |client: &&mut Client| client.server == server && client.id == id;
        let target = self.clients.values_mut().find(is_meant).filter(|client| client.blocked.is_some());
        let Some(target) = target else { return int(0) };
        target.blocked = None;
        let is_error = how.eq_ignore_ascii_case("error");
        let told = if is_error { error(UNBLOCKED) } else { null(target.proto) };
        target.out.extend_from_slice(&told);
        int(1)
    }

    fn subscribe(&mut self, link: usize, name: &str, argv: &[Vec<u8>]) -> Vec<u8> {
        let Some(client) = self.clients.get_mut(&link) else { return Vec::new() };
        let (family, joins) = match name {
            "subscribe" | "unsubscribe" => (0, name == "subscribe"),
            "psubscribe" | "punsubscribe" => (1, name == "psubscribe"),
            _ => (2, name == "ssubscribe"),
        };
        let all = client.subscribed[family].iter().filter(|_| argv.len() == 1);
        let names: Vec<_> = argv[1..].iter().chain(all).cloned().collect();
        let mut out = Vec::new();
        let mut confirm = |client: &Client, channel: &[u8]| {
            push_header(&mut out, client.proto, 3);
            out.extend([bulk(name.as_bytes()), channel.to_vec(), int(client.count(family))].concat());
        };
        if names.is_empty() {
            confirm(client, &null_bulk(client.proto));
        }
        for channel in names {
            let told = bulk(&channel);
            let set = &mut client.subscribed[family];
            let _ = if joins { set.insert(channel) } else { set.remove(&channel) };
            confirm(client, &told);
        }
        out
    }

    fn subscribers(&self, server: usize, names: &[Vec<u8>], family: usize) -> Vec<u8> {
        let mut out = Vec::new();
        encode::array_header(&mut out, 2 * names.len());
        for name in names {
            let listens =
                |client: &&Client| client.server == server && client.subscribed[family].contains(name);
            encode::bulk(&mut out, name);
            encode::int(&mut out, self.clients.values().filter(listens).count() as i64);
        }
        out
    }

    fn publish(
        &mut self,
        server: usize,
        (channel, payload, shard): (&[u8], &[u8], bool),
        on_topics_lane: bool,
    ) -> Vec<u8> {
        if let Some(nonce) = Nonce::of(payload) {
            // Redis counts a connection that the broker has given up until it has noticed that.
            let mut given_up = self.ledger.closed.iter().filter_map(|link| self.clients.get(link));
            let listens = |client: &Client| client.subscribed.iter().any(|names| !names.is_empty());
            let is_exact = on_topics_lane && !given_up.any(listens);
            self.ledger.published.push(Message { channel: channel.to_vec(), shard, server, nonce, is_exact });
        }
        let mut count = 0;
        for client in self.clients.values_mut().filter(|client| client.server == server) {
            let (own, kind): (usize, &[u8]) = if shard { (2, b"smessage") } else { (0, b"message") };
            if client.subscribed[own].contains(channel) {
                count += 1;
                push_header(&mut client.out, client.proto, 3);
                [kind, channel, payload].iter().for_each(|part| encode::bulk(&mut client.out, part));
            }
            for pattern in client.subscribed[1].iter().filter(|pattern| !shard && matches(pattern, channel)) {
                count += 1;
                push_header(&mut client.out, client.proto, 4);
                let parts = [&b"pmessage"[..], pattern, channel, payload];
                parts.iter().for_each(|part| encode::bulk(&mut client.out, part));
            }
        }
        int(count)
    }
}

/// A pattern with at most one star, at its end.
pub(super) fn matches(pattern: &[u8], channel: &[u8]) -> bool {
    pattern.strip_suffix(b"*").map_or(pattern == channel, |start| channel.starts_with(start))
}

/// Whether a connection that runs this does what it was dialled for.
fn is_use(role: Option<LaneRole>, name: &str) -> bool {
    if role == Some(LaneRole::Control) { name == "command|info" } else { !is_greeting(name) }
}

fn is_greeting(name: &str) -> bool {
    matches!(name, "hello" | "auth" | "select" | "client|setname" | "client|no-touch")
}

/// What must never reach a connection that children share; and, for all of them, a greeting out of place.
fn watch_for_poison(client: &mut Client, name: &str, argv: &[Vec<u8>]) {
    if client.role != Some(LaneRole::Shared) {
        return;
    }
    let greets = is_greeting(name) || name == "client|no-evict";
    let poison = greets && client.greeted
        || POISON.split(' ').any(|poison| poison == name)
        || name.contains("subscribe")
        || (name == "unwatch" && client.multi.is_none() && !client.multi_refused)
        || (name.starts_with('b') && name.ends_with("pop") && client.multi.is_none());
    // A block in one piece whose MULTI was refused runs as it would for anybody.
    let whole = client.multi.is_some() || client.multi_refused || !matches!(name, "exec" | "discard");
    holds!(8, whole, "half a block on a shared lane: {}", shown(argv));
    client.selects += u32::from(name == "select");
    client.greeted |= !greets;
    holds!(11, !poison && client.selects < 2, "on a shared lane: {}", shown(argv));
}
