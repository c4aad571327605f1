//! Plays a sequence on two equal servers, one spoken to directly and one through the broker, and says where the
//! replies part. Owns the order of things: after each step the server spoken to directly has done all it will do,
//! which says how much the other side owes; only then comes the next step. Knows nothing of how steps are made.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::frames::Frame;
use super::generator::{Command, Sequence, Step};
use super::grammar::Grammar;
use super::link::Link;
use super::manners::Manners;
use super::normalise::{self, Sharing};
use super::waivers::Waivers;
use crate::support::{Raw, Twin};

/// Some of the commands of a write time out and some do not: those that do have done so by then.
const MIXED_BLOCK: Duration = Duration::from_millis(400);
/// Redis reads at most so much of a connection in one turn.
const REDIS_READ: usize = 16 * 1024;
/// Stands for a channel whose turn is by hash.
const ANY: &[u8] = b"\0any";

/// The two servers, the broker before one of them, and a way past the broker to each.
pub(crate) struct Rig {
    twin: Twin,
    direct: Raw,
    behind: Raw,
    pub(crate) sharing: Sharing,
    /// How long the broker may owe a reply.
    pub(crate) patience: Duration,
}

/// Where the two sides part.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    /// What kind: `reply`, `missing`, `extra`, `end`, `blocked`, `channels`, `data`.
    pub(crate) kind: &'static str,
    /// The command's name as the table has it, if it is about one.
    pub(crate) command: String,
    pub(crate) step: usize,
    pub(crate) direct: String,
    pub(crate) broker: String,
}

/// What a sequence did.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) difference: Option<Difference>,
    pub(crate) commands: u64,
    /// Commands that were taken as such, and how often.
    pub(crate) used: BTreeMap<String, u64>,
}

struct Conn {
    direct: Link,
    broker: Link,
    /// Commands whose replies are due.
    due: VecDeque<Vec<Vec<u8>>>,
    /// Subscriptions by family.
    names: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
    /// What EXEC will answer to.
    multi: Option<Vec<Vec<Vec<u8>>>>,
    /// Its CLIENT IDs, where the sequence names any.
    ids: [Vec<u8>; 2],
    /// It has turned tracking off. The broker tells it nothing of what it read before; Redis does, once it is on again.
    has_untracked: bool,
}

struct Player<'a> {
    rig: &'a mut Rig,
    grammar: &'a Grammar,
    waivers: &'a Waivers,
    sequence: &'a Sequence,
    conns: Vec<Option<Conn>>,
    parked: Vec<bool>,
    blocked: i64,
    channels: bool,
    /// Connections are named by their ids.
    named: bool,
    step: usize,
    outcome: Outcome,
}

type Stop = Box<Difference>;

impl Rig {
    pub(crate) fn new(twin: Twin, sharing: Sharing) -> Rig {
        let (direct, behind) = (twin.direct.connect(), twin.behind.connect());
        Rig { twin, direct, behind, sharing, patience: Duration::from_secs(15) }
    }

    /// The server's own table and samples.
    pub(crate) fn grammar(&mut self) -> Grammar {
        Grammar::of(&mut self.direct, Manners::of(&self.twin.direct))
    }

    /// What the broker alone answers to a command.
    pub(crate) fn ask_broker(&self, argv: &[Vec<u8>]) -> Vec<u8> {
        self.twin.broker.connect().call(argv)
    }

    pub(crate) fn play(&mut self, grammar: &Grammar, waivers: &Waivers, sequence: &Sequence) -> Outcome {
        let scripts = sequence.steps.iter().flat_map(|step| &step.commands).any(uses_scripts);
        let channels = sequence.steps.iter().flat_map(|step| &step.commands).any(uses_channels);
        let words = sequence.steps.iter().flat_map(|step| &step.commands).flat_map(|command| &command.argv);
        let named = words.into_iter().any(|arg| Command::named_conn(arg).is_some());
        let (conns, parked) = ((0..sequence.conns).map(|_| None).collect(), vec![false; sequence.conns]);
        let outcome = Outcome::default();
        let mut player = Player {
            rig: self,
            grammar,
            waivers,
            sequence,
            conns,
            parked,
            blocked: 0,
            channels,
            named,
            step: 0,
            outcome,
        };
        let result = player.run();
        let Player { mut outcome, conns, .. } = player;
        drop(conns);
        if let Err(difference) = result {
            outcome.difference = Some(*difference);
        }
        self.clean(scripts, channels);
        outcome
    }

    /// Both servers as new. The connections are closed already; what they held has to be gone.
    fn clean(&mut self, scripts: bool, channels: bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while blocked(&mut self.direct) + blocked(&mut self.behind) > 0
            || (channels && !(census(&mut self.direct).is_empty() && census(&mut self.behind).is_empty()))
        {
            assert!(Instant::now() < deadline, "what closed connections held is not given up");
            std::thread::sleep(Duration::from_micros(300));
        }
        for server in [&mut self.direct, &mut self.behind] {
            server.send("FLUSHALL");
            if scripts {
                server.send("SCRIPT FLUSH");
                server.send("FUNCTION FLUSH");
            }
        }
        for server in [&mut self.direct, &mut self.behind] {
            for _ in 0..if scripts { 3 } else { 1 } {
                let told = server.read_text();
                // There are no functions before Redis 7.0.
                assert!(told == "+OK\r\n" || told.contains("unknown command `FUNCTION`"), "{told}");
            }
        }
    }
}

fn uses_scripts(command: &Command) -> bool {
    let name = command.name();
    [&b"EVAL"[..], b"SCRIPT", b"FCALL", b"FUNCTION"].iter().any(|word| name.starts_with(word))
}

fn uses_channels(command: &Command) -> bool {
    command.name().ends_with(b"SUBSCRIBE")
}

/// Whether commands may wait, and for how long.
#[derive(Clone, Copy, Default)]
struct Waits {
    any: bool,
    /// One of them gives up by itself, at once.
    short: bool,
    /// One of them may wait for another connection.
    long: bool,
}

impl Waits {
    fn add(&mut self, command: &Command) {
        let (name, argv) = (command.name(), &command.argv);
        let block = argv.iter().position(|arg| arg.eq_ignore_ascii_case(b"BLOCK"));
        let timeout = match name.as_slice() {
            b"BLMPOP" | b"BZMPOP" => argv.get(1),
            _ if command.is_done_aside() => {
                (self.any, self.short) = (true, true);
                return;
            }
            b"XREAD" | b"XREADGROUP" => block.and_then(|at| argv.get(at + 1)),
            _ if command.may_block() => argv.last(),
            _ => return,
        };
        self.any = true;
        let millis = block.is_some() || name.starts_with(b"WAIT");
        let timeout = timeout.and_then(|text| std::str::from_utf8(text).ok()?.parse::<f64>().ok());
        match timeout {
            Some(timeout) if timeout > 0.0 && timeout < if millis { 500.0 } else { 0.5 } => self.short = true,
            Some(_) => self.long = true,
            None => {}
        }
    }
}

/// How many connections of a server are blocked.
fn blocked(server: &mut Raw) -> i64 {
    let info = server.ask("INFO clients");
    let line = info.lines().find_map(|line| line.strip_prefix("blocked_clients:"));
    line.expect("blocked_clients").trim().parse().expect("a number")
}

/// Which channels and patterns have subscribers.
fn census(server: &mut Raw) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    for what in ["CHANNELS", "SHARDCHANNELS"] {
        let super::frames::Parsed::Whole(frame, _) = super::frames::parse(&server.call(&["PUBSUB", what]))
        else {
            panic!("PUBSUB {what} answers an array");
        };
        names.extend(frame.items.into_iter().map(|item| [what.as_bytes(), b" ", &item.text].concat()));
    }
    let patterns = server.ask("PUBSUB NUMPAT");
    if patterns != ":0\r\n" {
        names.push(b"patterns".to_vec());
    }
    names.sort();
    names
}

impl Player<'_> {
    fn run(&mut self) -> Result<(), Stop> {
        let mut at = 0;
        while at < self.sequence.steps.len() {
            let mut until = at;
            while self.sequence.steps[until].joined && until + 1 < self.sequence.steps.len() {
                until += 1;
            }
            self.step = at;
            let steps: Vec<&Step> = self.sequence.steps[at..=until].iter().collect();
            self.round(&steps)?;
            at = until + 1;
        }
        self.end()
    }

    /// Steps of different connections that do not wait for each other.
    fn round(&mut self, steps: &[&Step]) -> Result<(), Stop> {
        let mut written = 0;
        let mut waits = Waits { any: self.blocked > 0, ..Waits::default() };
        for step in steps {
            if self.parked[step.conn] {
                // Redis would not look at it either before the reply.
                if step.close {
                    self.close(step.conn);
                }
                continue;
            }
            self.open(step.conn)?;
            let named = step.commands.iter().flat_map(|command| &command.argv);
            let named: Vec<usize> = named.filter_map(|arg| Command::named_conn(arg)).collect();
            for conn in named.into_iter().filter(|conn| *conn < self.sequence.conns) {
                self.open(conn)?;
            }
            let ids = [self.ids(0), self.ids(1)];
            step.commands.iter().for_each(|command| waits.add(command));
            let conn = self.conns[step.conn].as_mut().expect("an open connection");
            for command in step.commands.iter().filter(|command| command.is_request()) {
                self.outcome.commands += 1;
                conn.has_untracked |= ends_tracking(&command.argv);
                if !step.muted {
                    conn.due.push_back(command.argv.clone());
                } else if let Some(name) = self.grammar.full_name(&command.argv) {
                    *self.outcome.used.entry(name).or_default() += 1;
                }
            }
            for piece in step.pieces(&ids[0]) {
                written += piece.len();
                conn.direct.write(&piece);
            }
            for piece in step.pieces(&ids[1]) {
                conn.broker.write(&piece);
            }
            if step.hangup {
                self.close(step.conn);
            }
        }
        self.settle_and_compare(written, waits)?;
        let mut closes = false;
        for step in steps.iter().filter(|step| step.close) {
            self.close(step.conn);
            closes = true;
        }
        if closes {
            self.settle_and_compare(0, Waits { any: true, ..Waits::default() })?;
        }
        Ok(())
    }

    fn settle_and_compare(&mut self, written: usize, waits: Waits) -> Result<(), Stop> {
        self.settle(written);
        if waits.any {
            let before = self.blocked;
            let deadline = Instant::now() + if waits.long { MIXED_BLOCK } else { self.rig.patience };
            loop {
                self.blocked = blocked(&mut self.rig.direct);
                while waits.short && self.blocked > before && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(1));
                    self.blocked = blocked(&mut self.rig.direct);
                }
                self.settle(0);
                // Whoever has waited may have come to the next command that waits.
                if blocked(&mut self.rig.direct) == self.blocked || Instant::now() > deadline {
                    break;
                }
            }
        }
        for index in 0..self.conns.len() {
            self.await_broker(index);
            self.compare(index)?;
        }
        if waits.any {
            self.same_blocked()?;
        }
        if self.channels {
            self.same_channels()?;
        }
        Ok(())
    }

    fn open(&mut self, index: usize) -> Result<(), Stop> {
        if self.conns[index].is_some() {
            return Ok(());
        }
        let direct = Link::open(&self.rig.twin.direct.socket());
        let broker = Link::open(self.rig.twin.broker.socket());
        let mut conn = Conn {
            direct,
            broker,
            due: VecDeque::new(),
            names: BTreeMap::new(),
            multi: None,
            ids: Default::default(),
            has_untracked: false,
        };
        if self.sequence.proto == 3 {
            let hello = crate::support::request(&["HELLO", "3"]);
            conn.direct.write(&hello);
            conn.broker.write(&hello);
            conn.due.push_back(vec![b"HELLO".to_vec(), b"3".to_vec()]);
        }
        self.conns[index] = Some(conn);
        self.settle(0);
        self.await_broker(index);
        self.compare(index)?;
        if self.named { self.learn_ids(index) } else { Ok(()) }
    }

    /// Asks both sides for the connection's id.
    fn learn_ids(&mut self, index: usize) -> Result<(), Stop> {
        let Some(conn) = &mut self.conns[index] else { return Ok(()) };
        let question = crate::support::request(&["CLIENT", "ID"]);
        conn.direct.write(&question);
        conn.broker.write(&question);
        conn.due.push_back(vec![b"CLIENT".to_vec(), b"ID".to_vec()]);
        self.settle(0);
        self.await_broker(index);
        if let Some(conn) = &mut self.conns[index] {
            let id = |link: &Link| link.frames.front().map(|frame| frame.text.clone()).unwrap_or_default();
            conn.ids = [id(&conn.direct), id(&conn.broker)];
        }
        self.compare(index)
    }

    /// The ids of all connections on one side; those that are not open have none.
    fn ids(&self, side: usize) -> Vec<Vec<u8>> {
        let id = |conn: &Option<Conn>| conn.as_ref().map_or(b"0".to_vec(), |conn| conn.ids[side].clone());
        self.conns.iter().map(id).collect()
    }

    fn close(&mut self, index: usize) {
        self.conns[index] = None;
        self.parked[index] = false;
    }

    /// Returns when the server spoken to directly has done what it was told. Its answer to us comes after it has
    /// read everything written before the question; by the answer to the second one all replies are written.
    fn settle(&mut self, written: usize) {
        let mut rounds = 2 + written / REDIS_READ;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            self.rig.direct.expect("PING", "+PONG\r\n");
            let mut progress = false;
            for conn in self.conns.iter_mut().flatten() {
                progress |= conn.direct.pump();
            }
            rounds = rounds.saturating_sub(1);
            if rounds == 0 && !progress {
                return;
            }
            assert!(Instant::now() < deadline, "Redis never comes to rest");
        }
    }

    /// Waits until the broker has given as many frames as Redis, and closed if that has.
    fn await_broker(&mut self, index: usize) {
        let deadline = Instant::now() + self.rig.patience;
        let Some(conn) = &mut self.conns[index] else { return };
        loop {
            conn.broker.pump();
            let enough = conn.broker.frames.len() >= conn.direct.frames.len();
            if conn.broker.closed || (enough && !conn.direct.closed) || Instant::now() > deadline {
                return;
            }
            conn.broker.wait_readable(100);
        }
    }

    fn compare(&mut self, index: usize) -> Result<(), Stop> {
        let Some(mut conn) = self.conns[index].take() else { return Ok(()) };
        let result = self.compare_frames(&mut conn);
        let ends = (conn.direct.closed, conn.broker.closed);
        self.parked[index] = !conn.direct.closed && self.blocked > 0 && !conn.due.is_empty();
        if !conn.direct.closed {
            self.conns[index] = Some(conn);
        }
        result?;
        if ends.0 != ends.1 {
            let word = |closed| if closed { "closed" } else { "open" }.to_owned();
            return Err(self.stop("end", String::new(), word(ends.0), word(ends.1)));
        }
        Ok(())
    }

    fn compare_frames(&mut self, conn: &mut Conn) -> Result<(), Stop> {
        let mut direct: Vec<Frame> = conn.direct.frames.drain(..).collect();
        let mut broker: Vec<Frame> = conn.broker.frames.drain(..).collect();
        if conn.has_untracked {
            let texts: Vec<String> = broker.iter().map(Frame::show).collect();
            direct.retain(|frame| !is_invalidation(frame) || texts.contains(&frame.show()));
        }
        for frames in [&mut direct, &mut broker] {
            order_patterns(frames);
        }
        let owners: Vec<Owner> = direct.iter().map(|frame| self.owner(conn, frame)).collect();
        let mut left: Vec<String> = Vec::new();
        let mut right: Vec<String> = Vec::new();
        let order = |frames: &[Frame]| {
            let mut indices: Vec<usize> = (0..frames.len()).collect();
            if self.rig.sharing.pubsub || !self.grammar.manners.own_messages_come_first {
                // They come by another connection: what is of one channel has an order, and what is replied.
                indices.sort_by_key(|index| topic(&frames[*index]));
            }
            indices
        };
        for pair in order(&direct).iter().zip(order(&broker)) {
            let (owner, wanted, got) = (&owners[*pair.0], &direct[*pair.0], &broker[pair.1]);
            if owner.any_order {
                left.push(wanted.show());
                right.push(got.show());
                continue;
            }
            if !self.same(owner, wanted, got) {
                let command = self.grammar.full_name(&owner.argv).unwrap_or_default();
                let differs = self.stop("reply", command, wanted.show(), got.show());
                self.waive(differs)?;
            }
        }
        let names = |texts: &[String]| {
            let mut words: Vec<String> = texts.join(" ").split(' ').map(str::to_owned).collect();
            words.sort();
            words
        };
        if names(&left) != names(&right) {
            return Err(self.stop("reply", "unsubscribe".to_owned(), left.join(" "), right.join(" ")));
        }
        let command = |index: usize| owners.get(index).and_then(|owner| self.grammar.full_name(&owner.argv));
        if let Some(frame) = direct.get(broker.len()) {
            let command = command(broker.len()).unwrap_or_default();
            return Err(self.stop("missing", command, frame.show(), "nothing".to_owned()));
        }
        if let Some(frame) = broker.get(direct.len()) {
            return Err(self.stop("extra", String::new(), "nothing".to_owned(), frame.show()));
        }
        Ok(())
    }

    fn waive(&self, difference: Stop) -> Result<(), Stop> {
        if self.waivers.cover(&difference) { Ok(()) } else { Err(difference) }
    }

    fn same(&self, owner: &Owner, direct: &Frame, broker: &Frame) -> bool {
        let Some(queued) = &owner.queued else {
            return normalise::same(&owner.argv, direct, broker, self.rig.sharing);
        };
        (direct.kind, direct.null, &direct.text, direct.items.len())
            == (broker.kind, broker.null, &broker.text, broker.items.len())
            && direct.items.iter().zip(&broker.items).enumerate().all(|(index, (direct, broker))| {
                let argv = queued.get(index).map_or(&[][..], Vec::as_slice);
                normalise::same(argv, direct, broker, self.rig.sharing)
            })
    }

    /// Which command a frame of the direct connection answers.
    fn owner(&mut self, conn: &mut Conn, frame: &Frame) -> Owner {
        let subscribing = |argv: &Vec<Vec<u8>>| {
            argv.first().is_some_and(|name| name.to_ascii_uppercase().ends_with(b"SUBSCRIBE"))
        };
        let word = frame.push_word().map(<[u8]>::to_vec).unwrap_or_default();
        let message = matches!(word.as_slice(), b"message" | b"pmessage" | b"smessage");
        if message || (frame.kind == b'>' && !word.ends_with(b"subscribe")) {
            return Owner::default();
        }
        if word.ends_with(b"subscribe") && conn.due.front().is_some_and(subscribing) {
            let (argv, any_order) = conn.confirm(&word, &frame.items[1].text);
            self.count(&argv, frame);
            return Owner { argv, queued: None, any_order };
        }
        let argv = conn.due.pop_front().unwrap_or_default();
        self.count(&argv, frame);
        let queued = follow_multi(conn, &argv, frame);
        Owner { argv, queued, any_order: false }
    }

    fn count(&mut self, argv: &[Vec<u8>], reply: &Frame) {
        let refused = reply.kind == b'-'
            && [&b"ERR unknown"[..], b"ERR wrong number"].iter().any(|text| reply.text.starts_with(text));
        if let (false, Some(name)) = (refused, self.grammar.full_name(argv)) {
            *self.outcome.used.entry(name).or_default() += 1;
        }
    }

    fn same_blocked(&mut self) -> Result<(), Stop> {
        let deadline = Instant::now() + self.rig.patience;
        let wanted = blocked(&mut self.rig.direct);
        self.blocked = wanted;
        let mut got = blocked(&mut self.rig.behind);
        while got != wanted {
            if Instant::now() > deadline {
                return Err(self.stop("blocked", String::new(), wanted.to_string(), got.to_string()));
            }
            std::thread::sleep(Duration::from_micros(200));
            got = blocked(&mut self.rig.behind);
        }
        Ok(())
    }

    fn same_channels(&mut self) -> Result<(), Stop> {
        let deadline = Instant::now() + self.rig.patience;
        let wanted = census(&mut self.rig.direct);
        loop {
            let got = census(&mut self.rig.behind);
            if got == wanted {
                return Ok(());
            }
            if Instant::now() > deadline {
                let text = |names: &[Vec<u8>]| names.join(&b", "[..]).escape_ascii().to_string();
                return Err(self.stop("channels", String::new(), text(&wanted), text(&got)));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// One more request on each connection brings to light what came without one; then the data.
    fn end(&mut self) -> Result<(), Stop> {
        self.step = self.sequence.steps.len();
        let fence = crate::support::request(&["PING", "the fence"]);
        for index in 0..self.conns.len() {
            if let (Some(conn), false) = (&mut self.conns[index], self.parked[index]) {
                conn.due.push_back(vec![b"PING".to_vec(), b"the fence".to_vec()]);
                conn.direct.write(&fence);
                conn.broker.write(&fence);
            }
        }
        self.settle(0);
        for index in 0..self.conns.len() {
            self.await_broker(index);
            self.compare(index)?;
        }
        let made_ids = self
            .sequence
            .steps
            .iter()
            .flat_map(|step| &step.commands)
            .any(|command| command.name() == b"XADD" && command.argv.iter().any(|arg| arg == b"*"));
        if made_ids { Ok(()) } else { self.same_data() }
    }

    /// The digests of all data. Keys whose time is over may still be on their way out.
    fn same_data(&mut self) -> Result<(), Stop> {
        let deadline = Instant::now() + self.rig.patience.min(Duration::from_secs(3));
        loop {
            let (wanted, got) = (self.rig.direct.ask("DEBUG DIGEST"), self.rig.behind.ask("DEBUG DIGEST"));
            if wanted == got {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.stop("data", String::new(), wanted, got));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn stop(&self, kind: &'static str, command: String, direct: String, broker: String) -> Stop {
        Box::new(Difference { kind, command, step: self.step, direct, broker })
    }
}

/// What a frame answers.
#[derive(Default)]
struct Owner {
    argv: Vec<Vec<u8>>,
    /// EXEC: what its elements answer.
    queued: Option<Vec<Vec<Vec<u8>>>>,
    /// One of several whose order is by hash.
    any_order: bool,
}

/// One message that several patterns match comes in the order of their hashes.
fn order_patterns(frames: &mut [Frame]) {
    let is_pattern = |frame: &Frame| frame.push_word() == Some(b"pmessage");
    for run in frames.chunk_by_mut(|a, b| is_pattern(a) && is_pattern(b) && a.items[2..] == b.items[2..]) {
        run.sort();
    }
}

fn ends_tracking(argv: &[Vec<u8>]) -> bool {
    let words: Vec<Vec<u8>> = argv.iter().map(|arg| arg.to_ascii_uppercase()).collect();
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    matches!(words[..], [b"RESET"] | [b"CLIENT", b"TRACKING", b"OFF", ..])
}

fn is_invalidation(frame: &Frame) -> bool {
    frame.kind == b'>' && frame.items.first().is_some_and(|word| word.text == b"invalidate")
}

/// What a push is about: the family, and the channel or pattern.
fn topic(frame: &Frame) -> Option<(u8, &[u8])> {
    let word = frame.push_word().filter(|_| frame.kind == b'>')?;
    let family = if matches!(word[0], b'p' | b's') && !matches!(word, b"subscribe") { word[0] } else { b'c' };
    Some((family, &frame.items[1].text))
}

impl Conn {
    /// The command a confirmation belongs to: one a name, and without names one for each subscription.
    fn confirm(&mut self, word: &[u8], name: &[u8]) -> (Vec<Vec<u8>>, bool) {
        let leaves = word.ends_with(b"unsubscribe");
        let family = if leaves { word.len() - b"unsubscribe".len() } else { word.len() - b"subscribe".len() };
        let names = self.names.entry(word[..family].to_vec()).or_default();
        let front = self.due.front_mut().expect("a command that subscribes");
        if front.len() == 1 {
            front.resize(1 + names.len().max(1), ANY.to_vec());
        }
        if leaves {
            names.remove(name);
        } else {
            names.insert(name.to_vec());
        }
        let argv = front.clone();
        // What is still due of it is what is left of its names.
        front.pop();
        if front.len() == 1 {
            self.due.pop_front();
        }
        let any_order = argv.last().is_some_and(|name| name == ANY);
        (argv, any_order)
    }
}

/// Follows MULTI by the replies. Returns what EXEC's elements answer.
fn follow_multi(conn: &mut Conn, argv: &[Vec<u8>], frame: &Frame) -> Option<Vec<Vec<Vec<u8>>>> {
    let name = argv.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
    if frame.kind == b'+' && frame.text == b"QUEUED" {
        conn.multi.get_or_insert_default().push(argv.to_vec());
        return None;
    }
    match name.as_slice() {
        b"MULTI" if frame.kind == b'+' => conn.multi = Some(Vec::new()),
        b"DISCARD" if frame.kind == b'+' => conn.multi = None,
        b"RESET" if frame.kind == b'+' => {
            conn.multi = None;
            conn.names.clear();
        }
        b"EXEC" => {
            let queued = conn.multi.take();
            return queued.filter(|_| frame.kind == b'*' && !frame.null);
        }
        _ => {}
    }
    None
}
