//! Children that do everything at once while Redis is killed, stopped and hung up on: each reply is the one
//! its request asked for or one of the broker's own errors, and what was written is what was told.
//!
//! `BROKER_TEST_SEED` replays the settings and the choices of a run, `BROKER_TEST_SECONDS` sets its length.

mod support;

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use support::leases::every_lease_is_free;
use support::ledger::{Entry, Fate, Ledger, check_ledger, fate_of};
use support::{Broker, End, Raw, Redis, request, seeded, show, upstream_clients, wait_until};

/// Workers, each with connections of its own.
const WORKERS: usize = 12;
/// The databases they use.
const DBS: [usize; 3] = [0, 1, 7];
/// No answer takes longer, whatever happens: the longest stop of Redis and every timeout of the broker
/// together are well below.
const BOUND: Duration = Duration::from_secs(20);
/// What ends a batch: everything before it has been answered then.
const FENCE: &str = "the fence";

/// What a request must be answered with, unless it is answered with one of those errors.
#[derive(Clone, Debug)]
enum Expect {
    /// Exactly this.
    Same(String),
    /// One of these.
    Among(Vec<String>),
    /// An integer.
    Number,
    /// Any error of Redis that begins so.
    Error(&'static str),
    /// RPUSH of nonces: the list's length, which only grows.
    Push {
        db: usize,
        list: String,
        nonces: Vec<String>,
    },
    /// SET: the value a later GET finds.
    Set {
        key: String,
        value: String,
    },
    Get {
        key: String,
    },
    Multi,
    Queued,
    /// EXEC of RPUSH, ECHO and RPUSH.
    Exec {
        db: usize,
        list: String,
        nonces: Vec<String>,
        echo: String,
        wrapped: bool,
        watched: Watched,
    },
    /// DISCARD, or what says that there is nothing to discard.
    Discard,
    /// BLPOP of a queue.
    Pop {
        queue: String,
    },
}

/// Whether a null is an answer to EXEC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watched {
    Nothing,
    /// Only the loss of its connection can have touched it.
    Quietly,
    /// Another connection wrote the key after WATCH was answered.
    Touched,
}

// ---- a worker --------------------------------------------------------------------------------------------

struct Worker<'a> {
    id: usize,
    rng: Rng,
    broker: &'a Broker,
    ledger: &'a Mutex<Ledger>,
    checked: &'a AtomicU64,
    /// Whether every MULTI needs a lease.
    leased: bool,
    next: u64,
    raw: Raw,
    db: usize,
    proto: u8,
    pending: VecDeque<Expect>,
    /// Values by key: what a GET may answer. Dropped when a write's fate is not known.
    values: HashMap<String, Vec<String>>,
    lengths: HashMap<String, u64>,
    /// The MULTI of the block being answered was refused: what follows it may have run without it.
    loose: bool,
    /// An EXEC without MULTI has left keys watched.
    still_watching: bool,
    /// Names of the keys whose last write is not known to have happened.
    round: u64,
    /// The last answers, for whoever has to understand a failure.
    history: VecDeque<String>,
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("worker {} (db {}, RESP{}): {:#?}", self.id, self.db, self.proto, self.history);
        }
    }
}

impl<'a> Worker<'a> {
    fn new(
        id: usize,
        seed: u64,
        broker: &'a Broker,
        ledger: &'a Mutex<Ledger>,
        checked: &'a AtomicU64,
        leased: bool,
    ) -> Self {
        Worker {
            id,
            rng: Rng::with_seed(seed),
            broker,
            ledger,
            checked,
            leased,
            next: 0,
            raw: connect(broker),
            db: 0,
            proto: 2,
            pending: VecDeque::new(),
            values: HashMap::new(),
            lengths: HashMap::new(),
            loose: false,
            still_watching: false,
            round: 0,
            history: VecDeque::new(),
        }
    }

    fn nonce(&mut self) -> String {
        self.next += 1;
        let padding = if self.rng.u8(..) == 0 { self.rng.usize(..40_000) } else { self.rng.usize(..8) };
        format!("{}.{}.{}", self.id, self.next, "x".repeat(padding))
    }

    /// Starts over on a new connection. What had not been answered may have happened.
    fn reconnect(&mut self) {
        for expect in std::mem::take(&mut self.pending) {
            match expect {
                Expect::Push { db, list, nonces } => self.record(db, list, nonces, Fate::Maybe),
                Expect::Exec { db, list, nonces, .. } => self.record(db, list, nonces, Fate::Maybe),
                _ => {}
            }
        }
        self.raw = connect(self.broker);
        (self.db, self.proto, self.loose, self.still_watching) = (0, 2, false, false);
        self.forget_values();
    }

    /// Late writes may still happen under the old names.
    fn forget_values(&mut self) {
        self.round += 1;
        self.values.clear();
    }

    fn record(&mut self, db: usize, list: String, nonces: Vec<String>, fate: Fate) {
        if self.loose && fate != Fate::Done {
            // Without their MULTI they are writes of their own, and each may have happened.
            for nonce in nonces {
                self.enter(Entry { db, list: list.clone(), nonces: vec![nonce], fate: Fate::Maybe });
            }
            return;
        }
        self.enter(Entry { db, list, nonces, fate });
    }

    fn enter(&self, entry: Entry) {
        self.ledger.lock().expect("ledger").entries.push(entry);
    }

    // ---- sending ----------------------------------------------------------------------------------------

    /// Writes bytes, now and then cut in two.
    fn write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while self.rng.u8(..4) == 0 && rest.len() > 1 {
            let (now, later) = rest.split_at(self.rng.usize(1..rest.len()));
            self.raw.write(now);
            rest = later;
            match self.rng.u8(..3) {
                0 => {}
                1 => thread::yield_now(),
                _ => thread::sleep(Duration::from_micros(self.rng.u64(..2000))),
            }
        }
        self.raw.write(rest);
    }

    /// Writes requests whole, or one at a time with each reply awaited.
    fn run(&mut self, batch: Vec<(Vec<u8>, Expect)>) -> bool {
        if self.rng.u8(..3) == 0 {
            let mut kept = true;
            for (bytes, expect) in batch {
                self.pending.push_back(expect);
                self.write(&bytes);
                kept &= self.collect();
            }
            return kept;
        }
        let bytes: Vec<u8> = batch.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
        self.pending.extend(batch.into_iter().map(|(_, expect)| expect));
        self.write(&bytes);
        if self.rng.u8(..24) == 0 {
            // Gone before the replies, or with some of them read.
            for _ in 0..self.rng.usize(..=self.pending.len() / 2) {
                self.answer_one();
            }
            self.reconnect();
            return false;
        }
        // One that waits for an element is let go when it half-closes, as Redis does.
        let waits = self.pending.iter().any(|expect| matches!(expect, Expect::Pop { .. }));
        if !waits && self.rng.u8(..24) == 0 {
            self.raw.half_close();
            self.collect();
            assert!(self.raw.is_closed(), "half-closed and everything answered");
            self.reconnect();
            return false;
        }
        self.collect()
    }

    /// Reads every reply due. False if the session had to be given up.
    fn collect(&mut self) -> bool {
        let mut kept = true;
        while !self.pending.is_empty() {
            kept &= self.answer_one();
        }
        kept
    }

    /// Reads one reply and checks it. False: an error of the broker's.
    fn answer_one(&mut self) -> bool {
        let Some(expect) = self.pending.pop_front() else { return true };
        let reply = match self.raw.try_reply() {
            Ok(reply) => String::from_utf8_lossy(&reply).into_owned(),
            Err(end) => panic!("worker {}: {end:?} instead of {expect:?}", self.id),
        };
        self.note(&expect, &reply);
        self.check(expect, &reply)
    }

    fn note(&mut self, what: &dyn std::fmt::Debug, reply: &str) {
        self.checked.fetch_add(1, Ordering::Relaxed);
        self.history.push_back(format!("{what:.60?} <- {reply:.60?}"));
        if self.history.len() > 20 {
            self.history.pop_front();
        }
    }

    // ---- checking ---------------------------------------------------------------------------------------

    fn check(&mut self, expect: Expect, reply: &str) -> bool {
        let fate = fate_of(reply);
        let wrong = |expect: &dyn std::fmt::Debug| -> ! {
            panic!("worker {}: {} answers {expect:?}", self.id, show(reply.as_bytes()))
        };
        match expect {
            Expect::Same(wanted) if fate.is_some() || wanted == reply => {}
            Expect::Among(wanted) if fate.is_some() || wanted.iter().any(|text| text == reply) => {}
            Expect::Number if fate.is_some() || reply.starts_with(':') => {}
            Expect::Error(prefix) if fate.is_some() || reply.starts_with(prefix) => {}
            Expect::Push { db, list, nonces } => self.check_push(db, list, nonces, reply, fate),
            Expect::Set { key, value } => match fate {
                None if reply == "+OK\r\n" => drop(self.values.insert(key, vec![value])),
                Some(Fate::Never) => {}
                Some(_) => self.values.entry(key).or_insert_with(|| vec![String::new()]).push(value),
                None => wrong(&(key, value)),
            },
            Expect::Get { key } if fate.is_none() => {
                let known = self.values.get(&key).cloned().unwrap_or_else(|| vec![String::new()]);
                let null = if self.proto == 3 { "_\r\n" } else { "$-1\r\n" };
                let fits =
                    |value: &String| if value.is_empty() { reply == null } else { reply == bulk(value) };
                if !known.iter().any(fits) {
                    wrong(&(key, known));
                }
            }
            Expect::Get { .. } => {}
            Expect::Multi if fate.is_some() => self.loose = true,
            Expect::Multi if reply == "+OK\r\n" => self.loose = false,
            Expect::Queued if fate.is_some() || reply == "+QUEUED\r\n" || self.loose => {}
            Expect::Exec { .. } => self.check_exec(expect, reply, fate),
            Expect::Discard => {
                let loose = std::mem::take(&mut self.loose);
                if fate.is_none() && reply != "+OK\r\n" && !loose {
                    wrong(&"DISCARD");
                }
            }
            Expect::Pop { queue } if fate.is_none() => self.check_pop(&queue, reply),
            Expect::Pop { .. } => {}
            expect => wrong(&expect),
        }
        fate.is_none()
    }

    fn check_push(&mut self, db: usize, list: String, nonces: Vec<String>, reply: &str, fate: Option<Fate>) {
        if fate.is_none() {
            let length: u64 =
                reply.strip_prefix(':').and_then(|text| text.trim_end().parse().ok()).unwrap_or_else(|| {
                    panic!("worker {}: RPUSH {list} answers {}", self.id, show(reply.as_bytes()))
                });
            self.check_length(&list, length);
        }
        self.record(db, list, nonces, fate.unwrap_or(Fate::Done));
    }

    fn check_length(&mut self, list: &str, length: u64) {
        let before = self.lengths.insert(list.to_owned(), length).unwrap_or(0);
        assert!(length > before, "worker {}: {list} went from {before} to {length}", self.id);
    }

    fn check_exec(&mut self, expect: Expect, reply: &str, fate: Option<Fate>) {
        let Expect::Exec { db, list, nonces, echo, wrapped, watched } = expect else { return };
        let null = ["*-1\r\n", "_\r\n"][usize::from(self.proto == 3)];
        if let Some(fate) = fate {
            self.record(db, list, nonces, fate);
        } else if reply == null && (watched != Watched::Nothing || self.still_watching) {
            self.record(db, list, nonces, Fate::Never);
        } else if self.loose && reply.starts_with("-ERR EXEC without MULTI") {
            self.record(db, list, nonces, Fate::Maybe);
            // As in Redis, it leaves the keys watched.
            (self.loose, self.still_watching) = (false, true);
            return;
        } else {
            assert_ne!(watched, Watched::Touched, "EXEC although the key was written: {reply}");
            let (start, end) = if wrapped { ("*5\r\n+OK\r\n:", "+OK\r\n") } else { ("*3\r\n:", "") };
            let length = reply.strip_prefix(start).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
            let length: u64 =
                length.unwrap_or_else(|| panic!("EXEC {list} answers {}", show(reply.as_bytes())));
            let wanted = format!("{start}{length}\r\n{}:{}\r\n{end}", bulk(&echo), length + 1);
            assert_eq!(reply, wanted, "EXEC of worker {}", self.id);
            self.check_length(&list, length);
            self.lengths.insert(list.clone(), length + 1);
            self.record(db, list, nonces, Fate::Done);
        }
        (self.loose, self.still_watching) = (false, false);
    }

    fn check_pop(&mut self, queue: &str, reply: &str) {
        if reply == "*-1\r\n" || reply == "_\r\n" {
            return;
        }
        let head = format!("*2\r\n{}", bulk(queue));
        let element = reply.strip_prefix(&head).and_then(|rest| rest.split("\r\n").nth(1));
        let element = element.unwrap_or_else(|| panic!("BLPOP {queue} answers {}", show(reply.as_bytes())));
        let fresh = self.ledger.lock().expect("ledger").popped.insert(element.to_owned());
        assert!(fresh, "{} was popped twice", show(element.as_bytes()));
    }

    // ---- what they do -----------------------------------------------------------------------------------

    /// One request among many, with what it must be answered with.
    fn plain(&mut self) -> (Vec<u8>, Expect) {
        let nonce = self.nonce();
        let own = Expect::Same(bulk(&nonce));
        match self.rng.u8(..12) {
            0 => (request(&["ECHO", &nonce]), own),
            1 => (request(&["PING", &nonce]), own),
            2 => (request(&["EVAL", "return ARGV[1]", "0", &nonce]), own),
            3 => (format!("ECHO {nonce}\r\n").into_bytes(), own),
            4 | 5 => {
                let key = format!("k:{}:{}:{}:{}", self.id, self.db, self.round, self.rng.u8(..3));
                (request(&["SET", &key, &nonce]), Expect::Set { key, value: nonce })
            }
            6 | 7 => {
                let key = format!("k:{}:{}:{}:{}", self.id, self.db, self.round, self.rng.u8(..3));
                (request(&["GET", &key]), Expect::Get { key })
            }
            8 => (request(&["GET", "whoami"]), Expect::Same(bulk(&format!("db{}", self.db)))),
            9 => (
                request(&["HGETALL", "none"]),
                Expect::Same(["*0\r\n", "%0\r\n"][usize::from(self.proto == 3)].into()),
            ),
            10 => (request(&["LPUSH", "whoami", &nonce]), Expect::Error("-WRONGTYPE ")),
            _ => {
                let list = self.list();
                let bytes = request(&["RPUSH", &list, &nonce]);
                (bytes, Expect::Push { db: self.db, list, nonces: vec![nonce] })
            }
        }
    }

    fn list(&self) -> String {
        format!("l:{}:{}", self.id, self.db)
    }

    fn pipeline(&mut self) {
        let many = if self.rng.u8(..16) == 0 { 300 } else { 12 };
        let batch = (0..self.rng.usize(1..many)).map(|_| self.plain()).collect();
        self.run(batch);
    }

    /// The commands of a block, with MULTI and EXEC.
    fn block(&mut self, watched: Watched) -> Vec<(Vec<u8>, Expect)> {
        let (list, echo, nonces) = (self.list(), self.nonce(), vec![self.nonce(), self.nonce()]);
        // Should MULTI be refused for want of a lease, a SELECT would run on its own.
        let wrapped = !self.leased && self.rng.u8(..4) == 0;
        let (away, back) = (DBS[self.rng.usize(..DBS.len())], self.db);
        let mut batch = vec![(request(&["MULTI"]), Expect::Multi)];
        let mut queue = |args: &[&str]| batch.push((request(args), Expect::Queued));
        if wrapped {
            queue(&["SELECT", &away.to_string()]);
        }
        queue(&["RPUSH", &list, &nonces[0]]);
        queue(&["ECHO", &echo]);
        queue(&["RPUSH", &list, &nonces[1]]);
        if wrapped {
            queue(&["SELECT", &back.to_string()]);
        }
        let db = if wrapped { away } else { back };
        // Lists are named after their worker and db: the lengths of another db are another list's.
        let list = if db == back { list } else { format!("{list}@{db}") };
        if !self.leased && self.rng.u8(..8) == 0 {
            batch.push((request(&["DISCARD"]), Expect::Discard));
            self.enter(Entry { db, list, nonces, fate: Fate::Never });
        } else {
            batch.push((request(&["EXEC"]), Expect::Exec { db, list, nonces, echo, wrapped, watched }));
        }
        batch
    }

    fn transaction(&mut self) {
        let mut batch = self.block(Watched::Nothing);
        batch.push(self.plain());
        self.run(batch);
    }

    fn watch(&mut self) {
        let key = format!("w:{}", self.id);
        let watch = (request(&["WATCH", &key]), Expect::Same("+OK\r\n".into()));
        if !self.run(vec![watch]) {
            return;
        }
        let mut watched = Watched::Quietly;
        match self.rng.u8(..7) {
            0 => {
                let mut other = connect(self.broker);
                let there = other.ask(&format!("SELECT {}", self.db)) == "+OK\r\n";
                let value = self.nonce();
                if there && other.call(&["SET", &key, &value]) == b"+OK\r\n" {
                    watched = Watched::Touched;
                }
            }
            1 => {
                self.run(vec![(request(&["UNWATCH"]), Expect::Same("+OK\r\n".into()))]);
                return;
            }
            2 => {
                // A second WATCH does not undo the first one's loss.
                self.run(vec![(request(&["WATCH", "other"]), Expect::Same("+OK\r\n".into()))]);
            }
            3 if self.rng.bool() => return self.reconnect(),
            4 => self.hello(),
            5 => self.select(),
            _ => {}
        }
        let mut batch = vec![self.plain()];
        batch.extend(self.block(watched));
        self.run(batch);
    }

    fn select(&mut self) {
        let db = DBS[self.rng.usize(..DBS.len())];
        let whoami = DBS.iter().map(|db| bulk(&format!("db{db}"))).collect();
        let select = request(&["SELECT", &db.to_string()]);
        if self.rng.bool() {
            // What follows in the same write is already in the new db, unless SELECT was refused.
            let bytes = [select, request(&["GET", "whoami"])].concat();
            self.write(&bytes);
            let reply = self.raw.read_text();
            let wanted = if reply == "+OK\r\n" {
                Expect::Same(bulk(&format!("db{db}")))
            } else {
                Expect::Among(whoami)
            };
            self.pending.push_back(wanted);
            self.collect();
            self.moved(db, &reply);
        } else {
            self.write(&select);
            let reply = self.raw.read_text();
            self.note(&"SELECT", &reply);
            self.moved(db, &reply);
        }
    }

    fn moved(&mut self, db: usize, reply: &str) {
        match reply {
            "+OK\r\n" => self.db = db,
            _ if fate_of(reply).is_some() => self.reconnect(),
            _ => panic!("SELECT {db} answers {reply}"),
        }
    }

    fn hello(&mut self) {
        let proto = 2 + self.rng.u8(..2);
        let bytes = [request(&["HELLO", &proto.to_string()]), request(&["GET", "none"])].concat();
        self.write(&bytes);
        let reply = self.raw.read_text();
        self.note(&"HELLO", &reply);
        if fate_of(&reply).is_some() {
            return self.reconnect();
        }
        assert!(reply.starts_with(if proto == 3 { "%7\r\n" } else { "*14\r\n" }), "HELLO {proto}: {reply}");
        self.proto = proto;
        self.pending.push_back(Expect::Same(if proto == 3 { "_\r\n" } else { "$-1\r\n" }.into()));
        self.collect();
    }

    fn reset(&mut self) {
        if self.rng.bool() {
            let plain = self.plain();
            self.run(vec![plain]);
        }
        self.write(&request(&["RESET"]));
        assert_eq!(self.raw.read_text(), "+RESET\r\n", "RESET of worker {}", self.id);
        (self.db, self.proto, self.still_watching) = (0, 2, false);
    }

    fn pop(&mut self) {
        let queue = format!("q:{}", self.rng.u8(..3));
        let nonce = self.nonce();
        let timeout = ["0.01", "0.05", "0.3", "1"][self.rng.usize(..4)];
        let mut batch = Vec::new();
        if self.rng.u8(..3) > 0 {
            batch.push((request(&["RPUSH", &queue, &nonce]), Expect::Number));
        }
        batch.push((request(&["BLPOP", &queue, timeout]), Expect::Pop { queue }));
        batch.push(self.plain());
        self.run(batch);
    }

    /// Subscribes, publishes over a second connection, and reads each message once and in order. A
    /// subscriber may be closed at any time: its connection upstream was lost.
    fn subscribe(&mut self) {
        let mut subscriber = connect(self.broker);
        if self.rng.bool() && !subscriber.ask("HELLO 3").starts_with('%') {
            return;
        }
        let channels: Vec<String> =
            (0..self.rng.usize(1..20)).map(|n| format!("ch:{}:{n}", self.id)).collect();
        let mut args = vec!["SUBSCRIBE"];
        args.extend(channels.iter().map(String::as_str));
        subscriber.write(&request(&args));
        for _ in &channels {
            match subscriber.try_reply() {
                Ok(reply) if reply.starts_with(b"-BROKER") => return,
                Ok(reply) => assert!(reply[1..].starts_with(b"3\r\n$9\r\nsubscribe\r\n"), "{}", show(&reply)),
                Err(end) => return assert_eq!(end, End::Closed, "a subscription is answered"),
            }
        }
        for _ in 0..self.rng.usize(..4) {
            let nonce = self.nonce();
            let channel = &channels[self.rng.usize(..channels.len())];
            self.write(&request(&["PUBLISH", channel, &nonce]));
            let reply = self.raw.read_text();
            assert!([":0\r\n", ":1\r\n"].contains(&&*reply) || fate_of(&reply).is_some(), "PUBLISH: {reply}");
            if reply != ":1\r\n" {
                return;
            }
            let wanted = format!("3\r\n$7\r\nmessage\r\n{}{}", bulk(channel), bulk(&nonce));
            match subscriber.try_reply() {
                Ok(reply) => assert_eq!(show(&reply[1..]), show(wanted.as_bytes())),
                Err(end) => return assert_eq!(end, End::Closed, "a message was published"),
            }
        }
        if self.rng.bool() {
            self.unsubscribe(subscriber, channels.len());
        }
    }

    fn unsubscribe(&mut self, mut subscriber: Raw, channels: usize) {
        // The connection may be closed before it takes anything more.
        let _ = subscriber.try_write(&[request(&["UNSUBSCRIBE"]), request(&["ECHO", FENCE])].concat());
        for _ in 0..channels {
            match subscriber.try_reply() {
                Ok(reply) if reply.starts_with(b"-BROKER") => return,
                Ok(reply) => {
                    assert!(reply[1..].starts_with(b"3\r\n$11\r\nunsubscribe\r\n"), "{}", show(&reply))
                }
                Err(end) => return assert_eq!(end, End::Closed, "an unsubscription is answered"),
            }
        }
        match subscriber.try_reply() {
            Ok(reply) => assert_eq!(show(&reply), show(bulk(FENCE).as_bytes())),
            Err(end) => assert_eq!(end, End::Closed, "what follows an unsubscription is answered"),
        }
    }

    /// Goes away in the middle of a frame, of a wait, or with a great many replies unread.
    fn vanish(&mut self) {
        match self.rng.u8(..5) {
            0 => {
                let whole = self.plain().0;
                let cut = self.rng.usize(..whole.len());
                self.write(&whole[..cut]);
            }
            1 => self.write(&request(&["BLPOP", "nobody pushes", "0"])),
            2 => self.write(&[request(&["MULTI"]), request(&["SET", "vanished", "1"])].concat()),
            3 => self.write(&[request(&["WATCH", "vanished"]), request(&["MULTI"])].concat()),
            _ => {
                let asked = request(&["EVAL", "return string.rep('y', 20000)", "0"]).repeat(200);
                self.write(&asked);
                thread::sleep(Duration::from_millis(self.rng.u64(..20)));
            }
        }
        self.reconnect();
    }

    fn step(&mut self) {
        match self.rng.u8(..32) {
            0..9 => self.pipeline(),
            9..14 => self.transaction(),
            14..18 => self.watch(),
            18..20 => self.select(),
            20..22 => self.hello(),
            22 => self.reset(),
            23..27 => self.pop(),
            27..29 => self.subscribe(),
            29..31 => self.vanish(),
            _ => self.reconnect(),
        }
        assert!(self.pending.is_empty());
    }
}

fn connect(broker: &Broker) -> Raw {
    let mut raw = broker.connect();
    raw.set_patience(BOUND);
    raw
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

// ---- the run ---------------------------------------------------------------------------------------------

type Settings = Vec<(&'static str, &'static str)>;

fn number(settings: &Settings, key: &str) -> usize {
    let value = settings.iter().find(|(name, _)| *name == key).expect(key).1;
    value.parse().expect("a number")
}

/// Settings drawn for a run: everything is small, so that every bound is met.
fn draw_settings(rng: &mut Rng) -> Settings {
    let mut settings = Vec::new();
    let mut pick = |key, choices: &[&'static str]| settings.push((key, choices[rng.usize(..choices.len())]));
    pick("upstream_connections_max", &["8", "9", "10", "12"]);
    pick("lanes", &["1", "2", "3"]);
    pick("leases_blocking_max", &["1", "2", "4"]);
    pick("leases_transaction_max", &["1", "2", "4"]);
    pick("leases_session_max", &["1", "2", "4"]);
    pick("leases_warm", &["0", "1", "2"]);
    pick("request_timeout", &["0", "0", "100", "400"]);
    pick("queue_timeout", &["50", "300", "1000"]);
    pick("lease_wait_timeout", &["50", "400", "2000"]);
    pick("upstream_lifetime", &["0", "200"]);
    pick("upstream_idle_timeout", &["100", "1000"]);
    pick("child_in_flight_max", &["1", "3", "64", "1024"]);
    pick("connect_timeout", &["200", "1000"]);
    pick("reconnect_backoff_max", &["20", "200"]);
    pick("lane_stall_timeout", &["300", "1500"]);
    pick("transactions", &["shared", "shared", "leased"]);
    pick("pubsub", &["shared", "shared", "leased"]);
    pick("integrity", &["off", "off", "sampled", "always"]);
    settings
}

/// Kills, stops and hangs up on Redis until the time is over; leaves it running.
fn torment(redis: &Redis, rng: &mut Rng, until: Instant) {
    while Instant::now() < until {
        thread::sleep(Duration::from_millis(rng.u64(50..500)));
        match rng.u8(..8) {
            0 => {
                redis.kill();
                thread::sleep(Duration::from_millis(rng.u64(..600)));
                redis.restart();
            }
            1 | 2 => {
                redis.stop();
                thread::sleep(Duration::from_millis(rng.u64(10..800)));
                redis.cont();
            }
            3 => drop(redis.ask("CLIENT KILL TYPE pubsub")),
            4 | 5 => kill_some(redis, rng),
            _ => drop(redis.ask("CLIENT KILL TYPE normal")),
        }
    }
}

/// Hangs up on a random part of the broker's connections.
fn kill_some(redis: &Redis, rng: &mut Rng) {
    let mut raw = redis.connect();
    for client in support::redis::list_clients(&mut raw) {
        if rng.bool() {
            raw.ask(&format!("CLIENT KILL ID {}", client.field("id")));
        }
    }
}

fn seconds() -> u64 {
    std::env::var("BROKER_TEST_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8)
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn chaos() {
    let mut rng = seeded();
    let settings = draw_settings(&mut rng);
    eprintln!("{settings:?}");
    let redis = Redis::start_durable();
    for db in DBS {
        let mut raw = redis.connect();
        raw.expect(&format!("SELECT {db}"), "+OK\r\n");
        raw.expect(&format!("SET whoami db{db}"), "+OK\r\n");
    }
    let mut broker = Broker::start(&redis, &settings);
    wait_until("the broker knows its upstream", || broker.connect().ask("GET whoami") == bulk("db0"));
    let leased = settings.contains(&("transactions", "leased"));
    let (ledger, checked, stop) = (Mutex::default(), AtomicU64::new(0), AtomicBool::new(false));
    let until = Instant::now() + Duration::from_secs(seconds());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|id| {
                let (seed, broker, ledger, checked, stop) = (rng.u64(..), &broker, &ledger, &checked, &stop);
                scope.spawn(move || {
                    let mut worker = Worker::new(id, seed, broker, ledger, checked, leased);
                    while !stop.load(Ordering::SeqCst) {
                        worker.step();
                    }
                    worker.reconnect();
                })
            })
            .collect();
        torment(&redis, &mut rng, until);
        stop.store(true, Ordering::SeqCst);
        for worker in workers {
            worker.join().expect("a worker");
        }
    });
    eprintln!("{} replies checked", checked.load(Ordering::Relaxed));
    afterwards(&redis, &mut broker, &settings, &ledger.into_inner().expect("ledger"));
}

// ---- afterwards ------------------------------------------------------------------------------------------

fn afterwards(redis: &Redis, broker: &mut Broker, settings: &Settings, ledger: &Ledger) {
    wait_until("the broker answers", || broker.connect().ask("GET whoami") == bulk("db0"));
    every_lease_is_free(broker, |key| number(settings, key));
    let (max, warm) = (number(settings, "upstream_connections_max"), number(settings, "leases_warm"));
    let leases = || upstream_clients(redis).iter().filter(|client| client.name() == "broker-lease").count();
    wait_until("leases return to the warm ones", || leases() <= warm * DBS.len() * 2);
    wait_until("the cap holds", || upstream_clients(redis).len() <= max);
    check_ledger(redis, ledger, &DBS);
    let log = broker.log();
    assert!(!log.contains("panicked"), "the broker panicked");
    assert!(!log.contains("out of step"), "a lane was desynchronised");
    let socket = broker.socket().to_owned();
    broker.term();
    assert!(broker.wait_exit(BOUND).success(), "SIGTERM ends it well");
    assert!(!socket.exists(), "the socket file is removed");
    wait_until("no connection is left upstream", || upstream_clients(redis).is_empty());
}
