//! One child process: its connections, what it has asked and what that must be answered with. Every reply is
//! checked byte for byte; what it does is in `steps` and
//! `messages`.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;

use super::report::{Report, Told};
use super::wire::{Conn, NoReply, bulk, bulk_text, elements};
use crate::support::ledger::{Fate, fate_of};
use crate::support::{request, show};

/// The databases in use.
pub(crate) const DBS: [usize; 3] = [0, 1, 7];
/// No answer takes longer, whatever happens: the longest stop of Redis and every timeout of the broker
/// together are well below.
pub(crate) const BOUND: Duration = Duration::from_secs(20);
/// The same where a reply may have been lost for good.
const IMPATIENT: Duration = Duration::from_secs(3);
/// Exit codes by which the run knows why a worker ended.
pub(crate) const ENDED: i32 = 0;
/// See [`ENDED`]: a reply was not its request's.
pub(crate) const CROSSED: i32 = 3;
/// The longest batch whose requests may wait for each other.
const ONE_BY_ONE_MAX: usize = 30;
/// Keys of a worker's own at any time.
pub(crate) const KEYS: usize = 6;

/// What a worker is started with; passed as text in its environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Orders {
    pub(crate) id: u32,
    pub(crate) seed: u64,
    /// Foreign replies are counted, and the worker goes on.
    pub(crate) tolerant: bool,
    pub(crate) socket: PathBuf,
}

impl Orders {
    pub(crate) fn to_text(&self) -> String {
        format!("{} {} {} {}", self.id, self.seed, u8::from(self.tolerant), self.socket.display())
    }

    pub(crate) fn from_text(text: &str) -> Option<Orders> {
        let mut words = text.splitn(4, ' ');
        Some(Orders {
            id: words.next()?.parse().ok()?,
            seed: words.next()?.parse().ok()?,
            tolerant: words.next()? == "1",
            socket: Path::new(words.next()?).to_owned(),
        })
    }
}

/// Bytes that a failure shows as text.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&show(&self.0))
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes(bytes)
    }
}

/// One value of a reply that has something of its own to be compared with.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// These bytes, the request's nonce among them.
    Nonce(Bytes),
    /// These bytes, which are the same for everyone.
    Plain(Bytes),
    /// A key's value; with `new`, which replaces it.
    Old { key: usize, new: Option<String> },
    /// `+OK` for a key's new value.
    Put { key: usize, new: String },
    /// The length of the worker's list after a push.
    Length,
    /// Any integer.
    Count,
    /// An error of Redis' that begins so.
    Error(&'static str),
}

/// What a request must be answered with, unless it is answered with one of the broker's errors.
#[derive(Clone, Debug)]
pub(crate) enum Expect {
    Part(Part),
    /// A write to the worker's list, with its sequence number.
    Push(u64, Part),
    Multi,
    Queued(Part),
    Exec {
        /// That of two pushes inside, if there are any.
        sequence: Option<u64>,
        /// Where the two writes go.
        db: usize,
        parts: Vec<Part>,
        watched: Watched,
    },
    Discard(u64),
    /// BLPOP and its like of a list that only this worker fills.
    Pop(String),
    /// BLPOP of a list that all workers fill and pop.
    Share(String),
    /// PUBLISH: the number of receivers is kept for the step.
    Published,
}

/// Whether a null is an answer to EXEC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    Nothing,
    /// Only the loss of its connection can have touched it.
    Quietly,
    /// Another connection wrote the key after WATCH was answered.
    Touched,
}

/// What a key of the worker's may hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// None of the writes is open.
    certain: bool,
    /// Every value it may hold; none is the absence of the key.
    may: Vec<Option<String>>,
}

/// Requests and what each must be answered with.
pub(crate) type Batch = Vec<(Vec<u8>, Expect)>;

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) orders: Orders,
    pub(crate) rng: Rng,
    pub(crate) report: Report,
    pub(crate) main: Conn,
    /// The second connection: it feeds lists and touches keys.
    pub(crate) side: Option<Conn>,
    pub(crate) sub: Option<super::messages::Subscriber>,
    pub(crate) db: usize,
    pub(crate) proto: u8,
    opened: u32,
    next: u64,
    /// Counts the names of keys: new ones are taken when it is open what the old ones hold.
    pub(crate) round: u64,
    known: Vec<Known>,
    /// The last length told of the worker's list in each db.
    lengths: [u64; DBS.len()],
    pub(crate) pending: VecDeque<(Vec<u8>, Expect)>,
    /// The MULTI of the block being answered was refused: what follows it may have run without it.
    pub(crate) loose: bool,
    /// The session is not what it was taken for: time for a new connection, once all has been answered.
    stale: bool,
    /// A foreign reply came, which is only counted: nothing more can be told from this connection.
    spoilt: bool,
    /// Counts the publisher's names: a new one is taken when a message may still come late.
    pub(crate) epoch: u64,
    pub(crate) patience: Duration,
    pub(crate) fed: Vec<String>,
    pub(crate) receivers: Vec<Option<u64>>,
    /// The last requests with their replies, for whoever has to understand a failure.
    history: VecDeque<(Vec<u8>, Vec<u8>)>,
}

/// Runs as a worker until standard input ends.
pub(crate) fn run(orders: Orders) -> ! {
    // The harness has begun a line of its own.
    let _ = std::io::stdout().write_all(b"\n");
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        flag.store(true, Ordering::SeqCst);
    });
    let mut worker = Worker::new(orders);
    worker.reopen();
    while !stop.load(Ordering::SeqCst) {
        worker.step();
        worker.report.flush();
    }
    std::process::exit(ENDED);
}

impl Worker {
    fn new(orders: Orders) -> Worker {
        let patience = if orders.tolerant { IMPATIENT } else { BOUND };
        let main = Conn::open(&orders.socket, 0, patience);
        Worker {
            rng: Rng::with_seed(orders.seed),
            orders,
            report: Report::default(),
            main,
            side: None,
            sub: None,
            db: 0,
            proto: 2,
            opened: 0,
            next: 0,
            round: 0,
            known: Vec::new(),
            lengths: [0; DBS.len()],
            pending: VecDeque::new(),
            loose: false,
            stale: false,
            spoilt: false,
            epoch: 0,
            patience,
            fed: Vec::new(),
            receivers: Vec::new(),
            history: VecDeque::new(),
        }
    }

    /// A name nothing else bears, in this run or after a restart of Redis.
    pub(crate) fn nonce(&mut self) -> String {
        self.next += 1;
        let padding = if self.rng.u8(..) == 0 { self.rng.usize(..30_000) } else { self.rng.usize(..8) };
        format!("n{}.{}.{}", self.orders.id, self.next, "x".repeat(padding))
    }

    pub(crate) fn sequence(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    // ---- connections ------------------------------------------------------------------------------------

    /// A connection in the given db and protocol; the broker's errors are tried again.
    pub(crate) fn open(&mut self, db: usize, proto: u8) -> Conn {
        loop {
            self.opened += 1;
            let mut conn = Conn::open(&self.orders.socket, self.opened, self.patience);
            let hello = request(&["HELLO", &proto.to_string()]);
            let select = request(&["SELECT", &db.to_string()]);
            conn.write(&[hello, select].concat());
            let greeting = self.take(&mut conn, b"HELLO, SELECT");
            let selected = self.take(&mut conn, b"HELLO, SELECT");
            if greeting.starts_with(if proto == 3 { b"%7" } else { b"*14" }) && selected == b"+OK\r\n" {
                return conn;
            }
            for reply in [&greeting, &selected] {
                let fine = reply.starts_with(b"%7") || reply.starts_with(b"*14") || reply == b"+OK\r\n";
                if !fine && fate_of(&String::from_utf8_lossy(reply)).is_none() {
                    self.foreign(conn.number, b"HELLO, SELECT", reply, "a greeting");
                }
            }
        }
    }

    /// Starts over on a new connection. What had not been answered may have happened.
    pub(crate) fn reopen(&mut self) {
        for (_, expect) in std::mem::take(&mut self.pending) {
            match expect {
                // It may be refused, and the block come apart.
                Expect::Multi => self.loose = true,
                Expect::Push(sequence, _) => self.told(sequence, 1, Fate::Maybe),
                Expect::Exec { sequence, db, .. } => self.told_in(db, sequence, 2, Fate::Maybe),
                _ => {}
            }
        }
        let db = DBS[self.rng.usize(..DBS.len())];
        self.proto = 2 + self.rng.u8(..2);
        self.main = self.open(db, self.proto);
        self.settle_in(db);
    }

    /// A session of which everything is known again.
    pub(crate) fn settle_in(&mut self, db: usize) {
        self.db = db;
        (self.loose, self.stale, self.spoilt) = (false, false, false);
        self.side = None;
        self.forget();
    }

    /// Late writes may still happen under the old names.
    pub(crate) fn forget(&mut self) {
        self.round += 1;
        self.fed.clear();
        self.known = vec![Known { certain: true, may: vec![None] }; KEYS];
    }

    pub(crate) fn key(&self, key: usize) -> String {
        format!("k:{}:{}:{key}", self.orders.id, self.round)
    }

    pub(crate) fn list(&self) -> String {
        format!("l:{}", self.orders.id)
    }

    /// The list that it pops from.
    pub(crate) fn queue(&self) -> String {
        format!("q:{}:{}", self.orders.id, self.round)
    }

    pub(crate) fn told(&mut self, sequence: impl Into<Option<u64>>, parts: usize, fate: Fate) {
        self.told_in(self.db, sequence, parts, fate);
    }

    /// The same of writes in that db. Without its MULTI, a block with a SELECT may have written in either.
    fn told_in(&mut self, db: usize, sequence: impl Into<Option<u64>>, parts: usize, fate: Fate) {
        let Some(sequence) = sequence.into() else { return };
        if self.loose && db != self.db {
            return;
        }
        self.report.told(sequence, Told { db, parts, fate, apart: self.loose });
    }

    // ---- asking -----------------------------------------------------------------------------------------

    /// Writes bytes, now and then cut in two.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while self.rng.u8(..8) == 0 && rest.len() > 1 {
            let (now, later) = rest.split_at(self.rng.usize(1..rest.len()));
            self.main.write(now);
            rest = later;
            std::thread::yield_now();
        }
        self.main.write(rest);
    }

    pub(crate) fn send(&mut self, batch: Batch) {
        let bytes: Vec<u8> = batch.iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
        self.pending.extend(batch);
        self.write(&bytes);
    }

    /// Sends a batch and reads what it is answered: at once, or one request when the one before it has been answered.
    pub(crate) fn run(&mut self, batch: Batch) {
        if batch.len() > ONE_BY_ONE_MAX || self.rng.u8(..4) > 0 {
            self.send(batch);
        } else {
            for request in batch {
                self.send(vec![request]);
                self.answer();
                if self.spoilt {
                    break;
                }
            }
        }
        self.collect();
    }

    /// Reads every reply due, and starts over where the session has suffered.
    pub(crate) fn collect(&mut self) {
        while !self.pending.is_empty() && !self.spoilt {
            self.answer();
        }
        if self.spoilt || self.stale {
            self.reopen();
        } else if self.known.iter().any(|known| !known.certain) {
            self.forget();
        }
    }

    /// Reads and checks one reply.
    pub(crate) fn answer(&mut self) {
        let Some((asked, _)) = self.pending.front() else { return };
        let label = asked[..asked.len().min(400)].to_vec();
        match self.main.reply() {
            Ok(reply) => self.answered(&reply),
            Err(end) => self.gave_up(&label, &end),
        }
    }

    pub(crate) fn answered(&mut self, reply: &[u8]) {
        let Some((asked, expect)) = self.pending.pop_front() else { return };
        if !self.check(&expect, reply) {
            self.foreign(self.main.number, &asked, reply, &format!("{expect:?}"));
        }
        self.history.push_back((asked, reply[..reply.len().min(100)].to_vec()));
        if self.history.len() > 16 {
            self.history.pop_front();
        }
    }

    /// One request with one answer, between the batches. False: an error of the broker's, or a foreign reply.
    pub(crate) fn ask(&mut self, args: &[&str], wanted: &[&str]) -> bool {
        let bytes = request(args);
        self.write(&bytes);
        self.await_start(&bytes, wanted)
    }

    /// Reads a reply that must begin as one of `wanted`, or be an error of the broker's: then false.
    pub(crate) fn await_start(&mut self, asked: &[u8], wanted: &[&str]) -> bool {
        let reply = match self.main.reply() {
            Ok(reply) => reply,
            Err(end) => {
                self.gave_up(asked, &end);
                return false;
            }
        };
        let fits = wanted.iter().any(|wanted| reply.starts_with(wanted.as_bytes()));
        if !fits && fate_of(&String::from_utf8_lossy(&reply)).is_none() {
            self.foreign(self.main.number, asked, &reply, &format!("{wanted:?}"));
        }
        self.report.plain += 1;
        fits
    }

    /// A reply outside the ordinary line, for connections that are being opened.
    pub(crate) fn take(&mut self, conn: &mut Conn, asked: &[u8]) -> Vec<u8> {
        match conn.reply() {
            Ok(reply) => {
                self.report.plain += 1;
                reply
            }
            Err(end) => {
                self.gave_up(asked, &end);
                b"-BROKERLOST this was the end of it\r\n".to_vec()
            }
        }
    }

    /// No reply where one is due is as wrong as a foreign one.
    pub(crate) fn gave_up(&mut self, asked: &[u8], end: &NoReply) {
        self.foreign(self.main.number, asked, format!("{end:?}").as_bytes(), "an answer");
    }

    /// The reply is not its request's: the run has failed, unless it only counts them.
    pub(crate) fn foreign(&mut self, connection: u32, asked: &[u8], reply: &[u8], wanted: &str) {
        let (id, db, proto) = (self.orders.id, self.db, self.proto);
        let asked = show(asked);
        let reply = show(reply);
        self.report.crossed(&format!(
            "connection {connection}, db {db}, RESP{proto}: {asked} answers {reply}, want {wanted}"
        ));
        if !self.orders.tolerant {
            let before: String = self
                .history
                .iter()
                .map(|(asked, reply)| format!("    {} <- {}\n", show_head(asked), show(reply)))
                .collect();
            // In one piece: other workers may write too.
            let text = format!(
                "CROSSED: worker {id}, connection {connection}, db {db}, RESP{proto}\n  request {asked}\n  \
                 reply   {reply}\n  wanted  {wanted}\n  before:\n{before}"
            );
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
            std::process::exit(CROSSED);
        }
        self.spoilt = true;
    }

    // ---- checking ---------------------------------------------------------------------------------------

    /// Whether a reply is one that its request may have.
    fn check(&mut self, expect: &Expect, reply: &[u8]) -> bool {
        let fate = if reply.starts_with(b"-") { fate_of(&String::from_utf8_lossy(reply)) } else { None };
        match expect {
            Expect::Part(part) => self.check_part(part, reply, fate),
            Expect::Push(sequence, part) => {
                let fits = self.check_part(part, reply, fate);
                if fits {
                    self.told(*sequence, 1, fate.unwrap_or(Fate::Done));
                }
                fits
            }
            Expect::Multi => {
                self.loose = fate.is_some();
                self.stale |= self.loose;
                self.plainly(fate.is_some() || reply == b"+OK\r\n")
            }
            Expect::Queued(part) => {
                if reply == b"+QUEUED\r\n" {
                    return self.plainly(true);
                }
                fate.is_some() || self.loose && self.check_part(part, reply, None)
            }
            Expect::Exec { .. } => self.check_exec(expect, reply, fate),
            Expect::Discard(sequence) => {
                let loose = self.loose && reply.starts_with(b"-ERR DISCARD without MULTI");
                self.told(*sequence, 2, if self.loose { Fate::Maybe } else { Fate::Never });
                self.plainly(fate.is_some() || reply == b"+OK\r\n" || loose)
            }
            Expect::Pop(list) => self.check_pop(list, reply, fate),
            Expect::Share(list) => self.check_shared_pop(list, reply, fate),
            Expect::Published => {
                let count = fate.is_none().then(|| number(reply)).flatten();
                self.epoch += u64::from(fate.is_some());
                self.receivers.push(count);
                self.plainly(fate.is_some() || count.is_some())
            }
        }
    }

    fn plainly(&mut self, fits: bool) -> bool {
        self.report.plain += u64::from(fits);
        fits
    }

    fn check_part(&mut self, part: &Part, reply: &[u8], fate: Option<Fate>) -> bool {
        if let Some(fate) = fate {
            self.left_open(part, fate);
            return self.plainly(true);
        }
        let (fits, nonce) = match part {
            Part::Nonce(wanted) => (reply == wanted.0, true),
            Part::Plain(wanted) => (reply == wanted.0, false),
            Part::Count => (number(reply).is_some(), false),
            Part::Error(start) => (reply.starts_with(start.as_bytes()), false),
            Part::Old { key, new } => {
                let fits = self.known[*key].may.iter().any(|value| match value {
                    Some(value) => reply == bulk(value),
                    None => reply == null(self.proto),
                });
                if let (true, Some(new)) = (fits, new) {
                    self.known[*key].put(new);
                }
                (fits, reply.len() > 5)
            }
            Part::Put { key, new } => {
                self.known[*key].put(new);
                (reply == b"+OK\r\n", false)
            }
            Part::Length => {
                let length = number(reply).unwrap_or(0);
                let last = DBS.iter().position(|db| *db == self.db).map(|at| &mut self.lengths[at]);
                let grown = last.is_some_and(|last| std::mem::replace(last, length) < length);
                (grown, false)
            }
        };
        if fits {
            *(if nonce { &mut self.report.nonces } else { &mut self.report.plain }) += 1;
        }
        fits
    }

    /// A request was answered with an error of the broker's: its write may have happened, or may still.
    fn left_open(&mut self, part: &Part, fate: Fate) {
        if let (Fate::Maybe, Part::Put { key, new } | Part::Old { key, new: Some(new) }) = (fate, part) {
            let known = &mut self.known[*key];
            known.certain = false;
            known.may.push(Some(new.clone()));
        }
    }

    fn check_exec(&mut self, exec: &Expect, reply: &[u8], fate: Option<Fate>) -> bool {
        let Expect::Exec { sequence, db, parts, watched } = exec else { return false };
        let (sequence, db, watched) = (*sequence, *db, *watched);
        if self.loose {
            self.told_in(db, sequence, 2, Fate::Maybe);
            // Only the reply of MULTI may have been lost.
            parts.iter().for_each(|part| self.left_open(part, Fate::Maybe));
            return self.plainly(fate.is_some() || reply.starts_with(b"-ERR EXEC without MULTI"));
        }
        if let Some(fate) = fate {
            self.told_in(db, sequence, 2, fate);
            parts.iter().for_each(|part| self.left_open(part, fate));
            return self.plainly(true);
        }
        if [&b"*-1\r\n"[..], b"_\r\n"].contains(&reply) {
            self.told_in(db, sequence, 2, Fate::Never);
            return self.plainly(watched != Watched::Nothing);
        }
        let Some(found) = elements(reply) else { return false };
        let fits = watched != Watched::Touched
            && found.len() == parts.len()
            && parts.iter().zip(found).all(|(part, element)| self.check_part(part, element, None));
        if fits {
            self.told_in(db, sequence, 2, Fate::Done);
        }
        fits
    }

    /// Whoever else has popped the element is known when all have told what they got.
    fn check_shared_pop(&mut self, list: &str, reply: &[u8], fate: Option<Fate>) -> bool {
        if fate.is_some() || reply == b"*-1\r\n" || reply == null(self.proto) {
            return self.plainly(true);
        }
        let Some([name, element]) = elements(reply).and_then(|found| <[&[u8]; 2]>::try_from(found).ok())
        else {
            return false;
        };
        let Some(element) = bulk_text(element).filter(|_| name == bulk(list)) else { return false };
        self.report.popped(&String::from_utf8_lossy(&element[..element.len().min(40)]));
        self.plainly(true)
    }

    fn check_pop(&mut self, list: &str, reply: &[u8], fate: Option<Fate>) -> bool {
        if fate.is_some() || reply == b"*-1\r\n" || reply == null(self.proto) {
            return self.plainly(true);
        }
        // BLMOVE answers with the element alone.
        let found = elements(reply).unwrap_or_default();
        let (name, element) = match found[..] {
            [name, element] => (name.to_vec(), element),
            _ => (bulk(list), reply),
        };
        let element = bulk_text(element).map(|text| String::from_utf8_lossy(text).into_owned());
        let place = self.fed.iter().position(|fed| Some(fed) == element.as_ref());
        let Some(place) = place.filter(|_| name == bulk(list)) else { return false };
        self.fed.swap_remove(place);
        self.report.nonces += 1;
        true
    }
}

impl Known {
    fn put(&mut self, value: &str) {
        if self.certain {
            self.may.clear();
        }
        self.may.push(Some(value.to_owned()));
    }
}

/// The null of a missing key.
pub(crate) fn null(proto: u8) -> &'static [u8] {
    if proto == 3 { b"_\r\n" } else { b"$-1\r\n" }
}

fn number(reply: &[u8]) -> Option<u64> {
    std::str::from_utf8(reply).ok()?.strip_prefix(':')?.trim_end().parse().ok()
}

fn show_head(bytes: &[u8]) -> String {
    show(&bytes[..bytes.len().min(100)])
}
