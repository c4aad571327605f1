//! Every request that all three say: how it is written down, how it must be answered, how often each says it. Whoever
//! cannot judge a request says it never; the twin, which compares, says all of them.

use super::World;
use super::template::{fill, read};

/// Who says requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaker {
    Simulation,
    Twin,
    Soak,
}

/// What a request must be answered with, unless it is answered with an error that the broker may give to any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The value of `$key`.
    Value,
    /// The value that `$key` had before it has `$new`.
    Swapped,
    /// OK: `$key` has `$new`.
    Stored,
    /// The nonce, from a script.
    Script,
    /// An error that ends in the nonce.
    ScriptError,
    /// One: nobody has counted by this name before.
    First,
    /// The length of `$list`, one longer.
    Length,
    /// `$item`, which `$list` is longer by.
    Pushed,
    /// The name of the database.
    Database,
    /// An error that begins so.
    Error(&'static str),
    /// How many have received it.
    Receivers,
    /// How many replicas have the last write.
    Replicas,
    /// An element of `$queue` with its name, or null when `$timeout` seconds have passed; 0 is never.
    Element,
    /// The element alone.
    Moved,
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    Select,
    Hello,
    Reset,
    Quit,
    Named,
    Name,
    Pong,
    Echo,
    /// A confirmation for each name; of all that there are when none is named.
    Confirmations {
        family: super::Family,
        joins: bool,
    },
}

/// A request, as it is written down.
pub(crate) struct Line {
    pub(crate) says: &'static str,
    pub(crate) answer: Answer,
    /// How often among the lines of its list.
    simulation: u32,
    soak: u32,
}

const fn line(simulation: u32, soak: u32, says: &'static str, answer: Answer) -> Line {
    Line { says, answer, simulation, soak }
}

/// Requests on data that need nothing before them and leave nothing behind. The simulation's seeds stay what they are
/// as long as its own lines and their order do.
pub(crate) const PLAIN: &[Line] = &[
    line(2, 5, "GET $key", Answer::Value),
    line(1, 2, "GETSET $key $new", Answer::Swapped),
    line(1, 5, "EVAL $say 0 $nonce", Answer::Script),
    line(1, 0, "INCR $counter", Answer::First),
    line(1, 1, "SET $key $new", Answer::Stored),
    line(0, 1, "SETEX $key 1000 $new", Answer::Stored),
    line(0, 2, "SET $key $new GET", Answer::Swapped),
    line(0, 1, "GET whoami", Answer::Database),
    line(0, 1, "LPUSH whoami $nonce", Answer::Error("-WRONGTYPE ")),
    line(0, 1, "EVAL $fail 0 $nonce", Answer::ScriptError),
];

/// Lists grow by an item that nothing else is. In no block: whoever keeps account of items does so for each request.
pub(crate) const PUSHES: &[Line] = &[
    line(1, 2, "RPUSH $list $item", Answer::Length),
    line(0, 1, "EVAL $append 1 $list $item", Answer::Pushed),
];

/// About the connection it comes on.
pub(crate) const CONNECTION: &[Line] = &[
    line(3, 0, "SELECT $db", Answer::Select),
    line(2, 0, "HELLO $proto", Answer::Hello),
    line(1, 0, "RESET", Answer::Reset),
    line(1, 2, "ECHO $nonce", Answer::Echo),
    line(1, 0, "CLIENT SETNAME $me", Answer::Named),
    line(1, 0, "CLIENT GETNAME", Answer::Name),
    line(1, 1, "NOSUCH a", Answer::Error("-ERR unknown command ")),
    line(1, 1, "GET", Answer::Error("-ERR wrong number of arguments ")),
    line(1, 1, "PING", Answer::Pong),
];

/// Waits for an element.
pub(crate) const POPS: &[Line] = &[
    line(1, 1, "BLPOP $queue $timeout", Answer::Element),
    line(0, 1, "BRPOP nothing $queue $timeout", Answer::Element),
    line(0, 1, "BLMOVE $queue moved LEFT RIGHT $timeout", Answer::Moved),
];

/// All of them, for whoever says each at least once.
pub(crate) fn every_line() -> impl Iterator<Item = &'static Line> {
    [PLAIN, PUSHES, CONNECTION, POPS].into_iter().flatten()
}

impl Line {
    fn weight(&self, speaker: Speaker) -> u32 {
        match speaker {
            Speaker::Simulation => self.simulation,
            Speaker::Soak => self.soak,
            Speaker::Twin => 1,
        }
    }
}

/// A request as it is said.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) answer: Answer,
    pub(crate) argv: Vec<Vec<u8>>,
    /// What was said for each `$x`.
    said: Vec<(&'static str, Vec<u8>)>,
}

impl Request {
    /// What was said for `$what`.
    pub(crate) fn said(&self, what: &str) -> Option<&[u8]> {
        self.said.iter().find(|(name, _)| *name == what).map(|(_, word)| word.as_slice())
    }

    /// The same with a nonce before its last argument, or behind it.
    pub(crate) fn marked(mut self, world: &mut dyn World, behind: bool) -> Request {
        let nonce = world.word("nonce");
        let at = self.argv.len() - usize::from(!behind);
        self.argv.insert(at, nonce.clone());
        self.said.push(("nonce", nonce));
        self
    }

    /// Written down otherwise than in a list.
    pub(crate) fn of(answer: Answer, argv: Vec<Vec<u8>>) -> Request {
        Request { answer, argv, said: Vec::new() }
    }
}

/// What is written down, said.
pub(crate) fn request(world: &mut dyn World, says: &'static str, answer: Answer) -> Request {
    let (mut argv, mut said) = (Vec::new(), Vec::new());
    fill(&read(says), world, &mut argv, &mut said);
    Request { answer, argv, said }
}

/// Some request of a list, each as often as its line says.
pub(crate) fn some(world: &mut dyn World, lines: &[Line]) -> Request {
    let speaker = world.speaker();
    let known = || lines.iter().filter(|line| line.weight(speaker) > 0);
    let total: u32 = known().map(|line| line.weight(speaker)).sum();
    // A list of one takes nothing from chance.
    let mut left = if known().count() > 1 { world.rng().u32(..total) } else { 0 };
    let chosen = known().find(|line| {
        let here = left < line.weight(speaker);
        left = left.saturating_sub(line.weight(speaker));
        here
    });
    let line = chosen.expect("a line that its speaker says");
    request(world, line.says, line.answer)
}

/// A request on data.
pub(crate) fn plain(world: &mut dyn World) -> Request {
    world.begin();
    some(world, PLAIN)
}

/// Scripts that stand for `$x` in a line, the same for everybody.
pub(crate) fn script(what: &str) -> Option<&'static str> {
    match what {
        "say" => Some("return ARGV[1]"),
        "fail" => Some("return redis.error_reply('ERR '..ARGV[1])"),
        "append" => Some("redis.call('RPUSH', KEYS[1], ARGV[1]) return ARGV[1]"),
        _ => None,
    }
}
