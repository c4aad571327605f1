//! Children of every kind that use a broker without end and check each reply: what they were told is what they have done, in
//! order, and nobody else's. They end when they are told to, or at a close where one is expected.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::raw::{End, Raw, pipeline, request};
use super::{PATIENCE, Redis};

/// Why a child has ended: it was closed between two replies, or something is wrong.
enum Halt {
    Closed,
    Wrong(String),
}

type Step = Result<(), Halt>;

/// What all children share.
#[derive(Default)]
struct Common {
    stop: AtomicBool,
    may_close: AtomicBool,
    /// A subscriber that is closed comes back.
    may_lose_subscribers: AtomicBool,
    subscribers_lost: AtomicU64,
    /// Rounds that went well.
    rounds: AtomicU64,
    /// Where the socket of the Redis behind the broker is, and how often that has changed or may have restarted.
    redis: RwLock<(PathBuf, u64)>,
}

/// All of them.
pub(crate) struct Crowd {
    common: Arc<Common>,
    threads: Vec<(String, JoinHandle<Result<(), String>>)>,
}

/// One of them.
struct Player {
    raw: Raw,
    /// Of nobody else.
    name: String,
    round: u64,
    /// Beside the broker: the number of where it is, and the connection.
    redis: (u64, Raw),
    socket: PathBuf,
    common: Arc<Common>,
}

/// One round of a player.
type Play = fn(&mut Player) -> Step;

const KINDS: [(&str, Play); 7] = [
    ("plain", Player::plain),
    ("pipelining", Player::pipelined),
    ("resp3", Player::resp3),
    ("multi", Player::multi),
    ("blocking", Player::blocking),
    ("subscriber", Player::subscriber),
    ("halves", Player::halves),
];

impl Crowd {
    /// So many of each kind, behind this socket.
    pub(crate) fn start(socket: &Path, redis: &Redis, of_each: usize) -> Crowd {
        let common = Common { redis: RwLock::new((redis.socket(), 0)), ..Common::default() };
        let crowd = Crowd { common: Arc::new(common), threads: Vec::new() };
        (0..of_each).flat_map(|number| KINDS.map(|kind| (number, kind))).fold(crowd, |mut crowd, one| {
            let (number, (kind, play)) = one;
            let name = format!("{kind}:{number}");
            let player = Player::new(socket.to_owned(), name.clone(), Arc::clone(&crowd.common));
            let thread = thread::spawn(move || player.play(play));
            crowd.threads.push((name, thread));
            crowd
        })
    }

    /// Rounds so far.
    pub(crate) fn rounds(&self) -> u64 {
        self.common.rounds.load(Ordering::Relaxed)
    }

    /// From now on a close between two replies is no failure.
    pub(crate) fn expect_close(&self) {
        self.common.may_close.store(true, Ordering::SeqCst);
    }

    /// Whether subscribers may be closed from now on: they come back.
    pub(crate) fn may_lose_subscribers(&self, may: bool) {
        self.common.may_lose_subscribers.store(may, Ordering::SeqCst);
    }

    /// How many were.
    pub(crate) fn subscribers_lost(&self) -> u64 {
        self.common.subscribers_lost.load(Ordering::SeqCst)
    }

    /// While this is held nothing is written to Redis beside the broker. It may restart, and another one may be put in its
    /// place.
    pub(crate) fn hold_redis(&self) -> RwLockWriteGuard<'_, (PathBuf, u64)> {
        let mut held = self.common.redis.write().unwrap_or_else(PoisonError::into_inner);
        held.1 += 1;
        held
    }

    /// Ends them, and fails for each of them that has seen anything wrong. Returns how many rounds went well.
    pub(crate) fn end(self) -> u64 {
        self.common.stop.store(true, Ordering::SeqCst);
        let outcomes = self.threads.into_iter().map(|(name, thread)| {
            let outcome = thread.join().unwrap_or_else(|_| Err("it has panicked".to_owned()));
            outcome.err().map(|why| format!("{name}: {why}"))
        });
        let wrong: Vec<String> = outcomes.flatten().collect();
        assert!(wrong.is_empty(), "{} children have failed:\n{}", wrong.len(), wrong.join("\n"));
        self.common.rounds.load(Ordering::SeqCst)
    }
}

impl Player {
    fn new(socket: PathBuf, name: String, common: Arc<Common>) -> Player {
        let place = common.redis.read().unwrap_or_else(PoisonError::into_inner).clone();
        let redis = (place.1, Raw::unix(&place.0));
        let raw = Player::connect(&socket, &name);
        Player { raw, name, round: 0, redis, socket, common }
    }

    fn connect(socket: &Path, name: &str) -> Raw {
        let mut raw = Raw::unix(socket);
        raw.set_patience(PATIENCE);
        match name.split(':').next() {
            Some("resp3") => assert!(raw.ask("HELLO 3").starts_with('%')),
            Some("subscriber") => {
                assert!(raw.ask(&format!("SUBSCRIBE all {name}")).starts_with("*3"));
                assert!(raw.read_text().starts_with("*3"));
            }
            _ => {}
        }
        raw
    }

    fn play(mut self, step: Play) -> Result<(), String> {
        while !self.common.stop.load(Ordering::SeqCst) {
            self.round += 1;
            match step(&mut self) {
                Ok(()) => drop(self.common.rounds.fetch_add(1, Ordering::Relaxed)),
                Err(Halt::Closed) if self.comes_back() => {}
                Err(Halt::Closed) if self.common.may_close.load(Ordering::SeqCst) => return Ok(()),
                Err(Halt::Closed) => return Err(format!("closed in round {}", self.round)),
                Err(Halt::Wrong(why)) => return Err(format!("round {}: {why}", self.round)),
            };
        }
        Ok(())
    }

    /// A subscriber that was closed, as it may be, is one again.
    fn comes_back(&mut self) -> bool {
        let is_meant = self.name.starts_with("subscriber:");
        let may = is_meant && self.common.may_lose_subscribers.load(Ordering::SeqCst);
        if may {
            self.common.subscribers_lost.fetch_add(1, Ordering::SeqCst);
            self.raw = Player::connect(&self.socket, &self.name);
        }
        may
    }

    /// Asks the Redis behind the broker, beside it.
    fn ask_redis(&mut self, line: &str) {
        let place = self.common.redis.read().unwrap_or_else(PoisonError::into_inner);
        if self.redis.0 != place.1 {
            self.redis = (place.1, Raw::unix(&place.0));
        }
        self.redis.1.send(line);
        self.redis.1.read_reply();
    }

    fn write(&mut self, bytes: &[u8]) -> Step {
        self.raw.try_write(bytes).map_err(|_| Halt::Closed)
    }

    fn ask(&mut self, line: &str, expected: &str) -> Step {
        let words: Vec<&str> = line.split(' ').collect();
        self.write(&request(&words))?;
        self.hear(line, expected)
    }

    fn hear(&mut self, line: &str, expected: &str) -> Step {
        match self.raw.try_reply() {
            Ok(reply) if reply == expected.as_bytes() => Ok(()),
            Ok(reply) => {
                let reply = super::show(&reply);
                Err(Halt::Wrong(format!("{line}: {reply}, and not {}", super::show(expected.as_bytes()))))
            }
            Err(End::Silent) => Err(Halt::Wrong(format!("{line}: no reply"))),
            Err(End::Closed) => match self.raw.read_all().0 {
                rest if rest.is_empty() => Err(Halt::Closed),
                rest => Err(Halt::Wrong(format!("{line}: half a reply, {}", super::show(&rest)))),
            },
        }
    }

    fn plain(&mut self) -> Step {
        let round = self.round;
        self.ask(&format!("INCR {}", self.name), &format!(":{round}\r\n"))
    }

    fn pipelined(&mut self) -> Step {
        let words: Vec<String> = (0..20).map(|at| format!("{}:{}:{at}", self.name, self.round)).collect();
        let lines: Vec<String> = words.iter().map(|word| format!("ECHO {word}")).collect();
        self.write(&pipeline(&lines.iter().map(String::as_str).collect::<Vec<_>>()))?;
        words.iter().try_for_each(|word| self.hear("ECHO", &format!("${}\r\n{word}\r\n", word.len())))
    }

    fn resp3(&mut self) -> Step {
        let value = self.round.to_string();
        self.write(&request(&["HSET", &self.name, "f", &value]))?;
        self.hear("HSET", if self.round == 1 { ":1\r\n" } else { ":0\r\n" })?;
        let all = format!("%1\r\n$1\r\nf\r\n${}\r\n{value}\r\n", value.len());
        self.ask(&format!("HGETALL {}", self.name), &all)
    }

    fn multi(&mut self) -> Step {
        let (name, round) = (self.name.clone(), self.round);
        if round.is_multiple_of(3) {
            self.ask(&format!("WATCH {name}"), "+OK\r\n")?;
        }
        self.ask("MULTI", "+OK\r\n")?;
        self.ask(&format!("INCR {name}"), "+QUEUED\r\n")?;
        // It stays open for a while, as those of real programs do.
        thread::sleep(Duration::from_millis(2));
        self.ask(&format!("ECHO {name}"), "+QUEUED\r\n")?;
        self.ask("EXEC", &format!("*2\r\n:{round}\r\n${}\r\n{name}\r\n", name.len()))
    }

    fn blocking(&mut self) -> Step {
        let (name, value) = (self.name.clone(), self.round.to_string());
        self.write(&request(&["BLPOP", &name, "0"]))?;
        // Most of the time it waits when the element comes.
        thread::sleep(Duration::from_millis(self.round % 3));
        self.ask_redis(&format!("RPUSH {name} {value}"));
        let element = format!("${}\r\n{name}\r\n${}\r\n{value}\r\n", name.len(), value.len());
        self.hear("BLPOP", &format!("*2\r\n{element}"))
    }

    fn subscriber(&mut self) -> Step {
        let (name, value) = (self.name.clone(), self.round.to_string());
        self.ask_redis(&format!("PUBLISH {name} {value}"));
        let message =
            format!("*3\r\n$7\r\nmessage\r\n${}\r\n{name}\r\n${}\r\n{value}\r\n", name.len(), value.len());
        self.hear("a message", &message)?;
        // It listens most of the time.
        thread::sleep(Duration::from_millis(1));
        Ok(())
    }

    fn halves(&mut self) -> Step {
        let (name, value) = (self.name.clone(), self.round.to_string());
        let bytes = request(&["GETSET", &name, &value]);
        let at = 1 + self.round as usize % (bytes.len() - 1);
        self.write(&bytes[..at])?;
        // Long enough for the broker to read the half.
        thread::sleep(Duration::from_millis(2));
        self.write(&bytes[at..])?;
        let former = (self.round - 1).to_string();
        let former =
            if self.round == 1 { "$-1\r\n".into() } else { format!("${}\r\n{former}\r\n", former.len()) };
        self.hear("GETSET", &former)
    }
}
