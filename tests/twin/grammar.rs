//! From a line of `templates.txt`, or one that all three generators of requests have, to a command. Owns the templates,
//! what stands for each `$x`, and the names of the server's own COMMAND table; does not decide which line comes next.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;

use super::frames::{Frame, Parsed, parse};
use super::generator::{Command, ID, Speaker, Template, World, every_line, fill, read};
use super::manners::Manners;
use crate::support::Raw;
use crate::support::redis::is_before_7;

const TEMPLATES: &str = include_str!("templates.txt");

/// The family of what has come since Redis 7.0: its lines are said where COMMAND has what they begin with.
const NEWER: &str = "newer";
/// Before Redis 7.0 an id of 0 is everybody's, the connections of this program included.
const UNTRIED_BEFORE_7: &str = "CLIENT KILL ID ";

const SCRIPTS: &[&str] = &[
    "return ARGV[1]",
    "return {KEYS[1],ARGV[1],#ARGV}",
    "return redis.call('SET',KEYS[1],ARGV[1])",
    "return redis.call('GET',KEYS[1])",
    "return redis.pcall('INCR',KEYS[1])",
    "return redis.call('INCR',KEYS[1])",
    "return redis.call('LRANGE',KEYS[1],0,-1)",
    "return redis.call('ZRANGE',KEYS[1],0,-1,'WITHSCORES')",
    "redis.setresp(3); return redis.call('ZSCORE',KEYS[1],'a')",
    "redis.setresp(3); return redis.call('HGETALL','nosuch')",
    "return {1,2,{3,'x'},false,true,nil,7}",
    "return redis.error_reply('MY own')",
    "return redis.status_reply('FINE')",
    "return nil",
    "return 3.99",
    "return {double=3.5}",
    "return {map={a=1}}",
    "error('oops')",
    "return (",
    "redis.call('nosuch')",
    "return redis.call('BLPOP',KEYS[1],0)",
    "return redis.pcall('SUBSCRIBE','c')",
    "redis.call('SELECT',1); return redis.call('SET','insel','1')",
    "return redis.pcall('MULTI')",
    "return redis.sha1hex(ARGV[1] or '')",
    "return redis.call('TYPE',KEYS[1])",
    "return string.rep('x', 9000)",
];

/// None calls a command with a nil: Redis 8.2.3 answers with an error and ends at the next FUNCTION FLUSH.
const FUNCTIONS: &[&str] = &[
    "#!lua name=lib0\nredis.register_function('fun0', function(keys, args) return args[1] end)",
    "#!lua name=lib1\nredis.register_function('fun1', function(keys, args) return redis.call('SET', keys[1] or '', args[1] or '') end)",
    "#!lua name=lib2\nredis.register_function{function_name='fun2', callback=function(keys, args) \
     return redis.call('GET', keys[1] or '') end, flags={'no-writes'}}",
    "#!lua name=lib0\nredis.register_function('fun0', function(keys, args) return {keys, args} end)",
    "#!lua name=lib3\nbroken(",
    "no shebang",
];

/// What stands for a `$word` that is one of a few.
const WORDS: &[(&str, &[&str])] = &[
    ("f", &["f", "g", "h", "1", "", "a field"]),
    ("r", &["0", "1", "2", "-1", "1.5", "3.25e2", "-0.1", "100"]),
    ("F", &["1", "2.5", "inf", "-inf", "+inf", "1e400", "0x10", "nan", "abc", ""]),
    ("ttl", &["100", "5000", "-1", "0", "9223372036854775807", "100000"]),
    ("pttl", &["500000", "100000", "-1", "0", "9223372036854775807", "1000000"]),
    ("at", &["33177117420", "1", "0", "-5", "4102444800"]),
    ("pat", &["33177117420000", "1", "0", "-5", "4102444800000"]),
    // For SET, since a key set to expire in the past lives on until Redis comes across it.
    ("far", &["33177117420000", "0", "-5", "abc"]),
    ("id", &["0", "1-1", "2-1", "5", "10-0", "0-0", "99-99", "3-*"]),
    ("grp", &["grp", "grp", "other"]),
    ("con", &["ann", "bob"]),
    ("idle", &["0", "0", "10000000"]),
    ("ch", &["ch.a", "ch.b", "news", "ch.a"]),
    ("db", &["0", "1", "2", "3", "0", "1", "15", "16", "-1"]),
    ("type", &["string", "list", "zset", "stream", "nosuch"]),
    ("cat", &["string", "fast", "admin", "nosuch"]),
    ("word", &["me", "a-name", "x", "two words", ""]),
    ("lex", &["-", "+", "[a", "(a", "[c", "(d", "a", "["]),
    ("zr", &["-inf", "+inf", "0", "1", "(1", "2.5", "(", "abc", "100"]),
    ("lon", &["13.361389", "15.087269", "-0.5", "0", "181", "179.9"]),
    ("lat", &["38.115556", "37.502669", "51.5", "0", "86"]),
    ("rad", &["1", "200", "20000", "0", "-1", "1e9"]),
    ("unit", &["m", "km", "ft", "mi", "ly"]),
    ("bits", &["u8", "i8", "u1", "i16", "u63", "u64", "i64", "x"]),
    ("to", &["0.004", "0.01", "0.002", "0.02"]),
    ("bms", &["4", "10", "2"]),
    ("fun", &["fun0", "fun1", "fun2", "nosuch"]),
    ("lib", &["lib0", "lib1", "lib2", "nosuch"]),
];

/// What has to be made by a server before it can be said to one.
#[derive(Default)]
struct Samples {
    dumps: Vec<Vec<u8>>,
    functions: Vec<u8>,
    shas: Vec<Vec<u8>>,
}

/// A line of the templates.
struct Shape {
    /// Commands said together.
    commands: Vec<Template>,
    /// Said right behind them.
    undo: Option<Template>,
}

/// One command of the server's table.
pub(crate) struct Entry {
    /// Lower case, `container|sub`.
    pub(crate) name: String,
    pub(crate) arity: i64,
    first_key: i64,
}

/// All that can be said to the server.
pub(crate) struct Grammar {
    shapes: Vec<Shape>,
    families: BTreeMap<&'static str, Vec<usize>>,
    samples: Samples,
    pub(crate) table: Vec<Entry>,
    pub(crate) manners: Manners,
    containers: BTreeSet<String>,
    names: BTreeSet<String>,
}

impl Grammar {
    /// The templates, and the table and samples of a server with these manners, which is left empty.
    pub(crate) fn of(server: &mut Raw, manners: Manners) -> Grammar {
        let mut grammar = Grammar {
            shapes: Vec::new(),
            families: BTreeMap::new(),
            samples: samples(server),
            table: table(server),
            manners,
            containers: BTreeSet::new(),
            names: BTreeSet::new(),
        };
        for entry in &grammar.table {
            grammar.names.insert(entry.name.clone());
            if let Some((container, _)) = entry.name.split_once('|') {
                grammar.containers.insert(container.to_owned());
            }
        }
        let mut family = "";
        let is_tried =
            |line: &&str| !(line.is_empty() || is_before_7() && line.starts_with(UNTRIED_BEFORE_7));
        for line in TEMPLATES.lines().map(str::trim).filter(is_tried) {
            if line.starts_with("# ") {
            } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                family = name;
            } else if let Some(undo) = line.strip_prefix("+ ") {
                let last = grammar.shapes.last_mut().expect("a line to undo");
                last.undo = Some(read(undo));
            } else {
                if family == NEWER && !grammar.lists(line) {
                    continue;
                }
                let commands = line.split(" ; ").map(read).collect();
                grammar.families.entry(family).or_default().push(grammar.shapes.len());
                grammar.shapes.push(Shape { commands, undo: None });
            }
        }
        for line in every_line() {
            grammar.families.entry("common").or_default().push(grammar.shapes.len());
            grammar.shapes.push(Shape { commands: vec![read(line.says)], undo: None });
        }
        grammar
    }

    /// Whether the server has the command that a line begins with.
    fn lists(&self, line: &str) -> bool {
        let words: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        self.full_name(&words).is_some()
    }

    /// All lines of the families, one after the other.
    pub(crate) fn lines(&self, families: &[&str]) -> Vec<usize> {
        families.iter().filter_map(|family| self.families.get(family)).flatten().copied().collect()
    }

    /// Whether anything of a family is said to this server.
    pub(crate) fn has(&self, family: &str) -> bool {
        self.families.contains_key(family)
    }

    /// Some line of a family.
    pub(crate) fn pick(&self, rng: &mut Rng, family: &str) -> usize {
        *rng.choice(&self.families[family]).expect("a line")
    }

    /// Commands of a line, with keys of their own behind a prefix.
    pub(crate) fn expand(&self, rng: &mut Rng, line: usize, prefix: &str) -> Vec<Command> {
        let shape = &self.shapes[line];
        let mut commands = Vec::new();
        for template in &shape.commands {
            commands.push(Command::new(self.fill(rng, template, prefix)));
        }
        if let Some(undo) = &shape.undo {
            let mut argv = self.fill(rng, undo, prefix);
            let key = commands[0].argv[1].clone();
            for arg in &mut argv {
                if arg == b"*" {
                    arg.clone_from(&key);
                }
            }
            commands.push(Command { tied: true, ..Command::new(argv) });
        }
        commands
    }

    /// A command the templates do not know, from what the table says of it.
    pub(crate) fn by_table(&self, rng: &mut Rng, entry: &Entry) -> Command {
        let mut argv: Vec<Vec<u8>> = entry.name.split('|').map(|part| part.as_bytes().to_vec()).collect();
        let wanted = entry.arity.unsigned_abs() as usize + if entry.arity < 0 { rng.usize(..2) } else { 0 };
        while argv.len() < wanted {
            let is_key = argv.len() as i64 == entry.first_key;
            argv.push(self.value(rng, if is_key { "k" } else { "v" }, ""));
        }
        Command::new(argv)
    }

    /// The table's name of a command, unless it has none.
    pub(crate) fn full_name(&self, argv: &[Vec<u8>]) -> Option<String> {
        let name = String::from_utf8_lossy(argv.first()?).to_ascii_lowercase();
        if self.containers.contains(&name) && argv.len() > 1 {
            let full = format!("{name}|{}", String::from_utf8_lossy(&argv[1]).to_ascii_lowercase());
            return self.names.contains(&full).then_some(full);
        }
        self.names.contains(&name).then_some(name)
    }

    /// The world in which one connection speaks, with keys of its own behind a prefix.
    pub(crate) fn world<'a>(&'a self, rng: &'a mut Rng, prefix: &'a str) -> Speaking<'a> {
        Speaking { grammar: self, rng, prefix }
    }

    fn fill(&self, rng: &mut Rng, template: &Template, prefix: &str) -> Vec<Vec<u8>> {
        let mut argv = Vec::new();
        fill(template, &mut self.world(rng, prefix), &mut argv, &mut Vec::new());
        argv
    }

    /// What stands for `$what`.
    pub(crate) fn value(&self, rng: &mut Rng, what: &str, prefix: &str) -> Vec<u8> {
        if let Some(key) = key(rng, what) {
            return format!("{prefix}{key}").into_bytes();
        }
        let pick = |rng: &mut Rng, words: &[&str]| words[rng.usize(..words.len())].as_bytes().to_vec();
        if let Some((_, words)) = WORDS.iter().find(|(name, _)| *name == what) {
            return pick(rng, words);
        }
        match what {
            "v" | "new" | "item" => value(rng),
            "nonce" => format!("n{}", rng.u64(..)).into_bytes(),
            "key" | "counter" | "watched" => self.value(rng, "s", prefix),
            "list" | "queue" => self.value(rng, "l", prefix),
            "timeout" => self.value(rng, "to", prefix),
            "waits" => self.value(rng, "bms", prefix),
            "channel" => self.value(rng, "ch", prefix),
            "me" => self.value(rng, "word", prefix),
            "proto" => rng.u8(2..4).to_string().into_bytes(),
            "big" => big(rng),
            "number" => rng.i32(-20..20).to_string().into_bytes(),
            "m" => member(rng),
            "n" => rng.u8(..6).to_string().into_bytes(),
            "c" => rng.u8(1..4).to_string().into_bytes(),
            "i" => match integer(rng) {
                least if least == LEAST && !self.manners.survives_the_least_count => {
                    b"9223372036854775807".to_vec()
                }
                number => number,
            },
            "sid" => match rng.u8(..8) {
                0 => pick(rng, &["0-0", "1", "x", "7-*", "18446744073709551615-18446744073709551615"]),
                _ => format!("{}-{}", rng.u8(1..40), rng.u8(..3)).into_bytes(),
            },
            "chpat" => pick(rng, &["ch.*", "*", "n?ws", "ch.[ab]"]),
            "glob" => pick(rng, &["*", "s*", "?1", "[a-h]*", "nosuch*", "\\*"]),
            "lua" => pick(rng, SCRIPTS),
            "push" => b"return redis.call('RPUSH',KEYS[1],ARGV[1],ARGV[1])".to_vec(),
            "publish" => b"return redis.call('PUBLISH',KEYS[1],ARGV[1])".to_vec(),
            "sha" => match rng.u8(..6) {
                0 => pick(rng, &["ffffffffffffffffffffffffffffffffffffffff", "abc"]),
                _ => rng.choice(&self.samples.shas).expect("a digest").clone(),
            },
            "code" => pick(rng, FUNCTIONS),
            "dump" => match rng.u8(..8) {
                0 => b"no payload".to_vec(),
                _ => rng.choice(&self.samples.dumps).expect("a payload").clone(),
            },
            "functions" => match rng.u8(..5) {
                0 => b"no payload".to_vec(),
                _ => self.samples.functions.clone(),
            },
            "cid" => [ID, rng.u8(..4).to_string().as_bytes()].concat(),
            "name" => {
                let entry = rng.choice(&self.table).expect("a command");
                entry.name.as_bytes().to_vec()
            }
            _ => unreachable!("the templates say ${what}"),
        }
    }
}

/// One connection, while it speaks.
pub(crate) struct Speaking<'a> {
    grammar: &'a Grammar,
    rng: &'a mut Rng,
    prefix: &'a str,
}

impl World for Speaking<'_> {
    fn rng(&mut self) -> &mut Rng {
        self.rng
    }

    fn speaker(&self) -> Speaker {
        Speaker::Twin
    }

    fn word(&mut self, what: &'static str) -> Vec<u8> {
        self.grammar.value(self.rng, what, self.prefix)
    }
}

/// A key: mostly of the kind the command wants.
fn key(rng: &mut Rng, kind: &str) -> Option<String> {
    const KINDS: &[&str] = &["s", "b", "h", "l", "t", "z", "x", "g", "p"];
    match kind {
        "xa" => return Some("xa".to_owned()),
        "vs" => return Some(format!("v{}", rng.u8(..2))),
        _ => {}
    }
    if kind != "k" && !KINDS.contains(&kind) {
        return None;
    }
    if rng.u8(..60) == 0 {
        return Some(rng.choice(["", "a key", "\r\n$3\r\n", "{tag}x", "*"]).expect("a key").to_owned());
    }
    let kind = if kind == "k" || rng.u8(..16) == 0 { KINDS[rng.usize(..KINDS.len())] } else { kind };
    if kind == "s" && rng.u8(..8) == 0 {
        return Some(rng.choice(["w_a", "w_b", "w_1"]).expect("a key").to_owned());
    }
    Some(format!("{kind}{}", rng.u8(..3)))
}

fn value(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(..20) {
        0 => Vec::new(),
        1 => b"two words".to_vec(),
        2 => b"\r\n+OK\r\n".to_vec(),
        3 => (0..rng.usize(1..40)).map(|_| rng.u8(..)).collect(),
        4 => vec![b'y'; rng.usize(50..700)],
        5..9 => rng.i16(..).to_string().into_bytes(),
        _ => format!("v{}", rng.u16(..)).into_bytes(),
    }
}

/// Around the sizes at which Redis, sockets and the broker begin to do otherwise.
fn big(rng: &mut Rng) -> Vec<u8> {
    let size = *rng.choice(&[4096usize, 16_384, 32_768, 65_536]).expect("a size");
    vec![b'a' + rng.u8(..26); size + rng.usize(..3) - 1]
}

fn member(rng: &mut Rng) -> Vec<u8> {
    const MEMBERS: &[&str] = &["a", "b", "c", "d", "1", "2", "3", "10", "-5", "", "a b", "caf\u{e9}"];
    match rng.u8(..24) {
        0 => vec![b'z'; rng.usize(60..140)],
        _ => MEMBERS[rng.usize(..MEMBERS.len())].as_bytes().to_vec(),
    }
}

const LEAST: &[u8] = b"-9223372036854775808";

fn integer(rng: &mut Rng) -> Vec<u8> {
    const ODD: &[&str] = &[
        "9223372036854775807",
        "-9223372036854775808",
        "9223372036854775808",
        "abc",
        "",
        "1.5",
        "01",
        "+1",
        " 1",
        "4294967296",
    ];
    match rng.u8(..12) {
        0 => ODD[rng.usize(..ODD.len())].as_bytes().to_vec(),
        _ => rng.i8(-4..8).to_string().into_bytes(),
    }
}

// ---- what the server says ----------------------------------------------------------------------------------

fn table(server: &mut Raw) -> Vec<Entry> {
    let reply = server.call(&["COMMAND"]);
    let Parsed::Whole(frame, _) = parse(&reply) else { panic!("COMMAND answers an array") };
    let mut table = Vec::new();
    for command in &frame.items {
        enter(command, &mut table);
        for sub in command.items.get(9).map_or(&[][..], |subs| &subs.items) {
            enter(sub, &mut table);
        }
    }
    table.sort_by(|a, b| a.name.cmp(&b.name));
    table
}

fn enter(command: &Frame, table: &mut Vec<Entry>) {
    let number = |index: usize| command.items[index].int().expect("a number");
    let name = String::from_utf8_lossy(&command.items[0].text).to_ascii_lowercase();
    table.push(Entry { name, arity: number(1), first_key: number(3) });
}

fn samples(server: &mut Raw) -> Samples {
    let mut samples = Samples::default();
    for line in [
        "SET d 12",
        "SET e text",
        "RPUSH l a b",
        "ZADD z 1 a 2.5 b",
        "HSET h f v",
        "SADD t 1 2",
        "XADD x 1-1 f v",
    ] {
        server.ask(line);
    }
    for key in ["d", "e", "l", "z", "h", "t", "x"] {
        samples.dumps.push(bulk(&server.call(&["DUMP", key])));
    }
    for script in SCRIPTS {
        let reply = server.call(&["SCRIPT", "LOAD", script]);
        if reply.starts_with(b"$") {
            samples.shas.push(bulk(&reply));
        }
    }
    let mut lines = vec!["FLUSHALL", "SCRIPT FLUSH"];
    // There are none before Redis 7.0.
    if !server.call(&["FUNCTION", "LOAD", FUNCTIONS[0]]).starts_with(b"-") {
        samples.functions = bulk(&server.call(&["FUNCTION", "DUMP"]));
        lines.push("FUNCTION FLUSH");
    }
    for line in lines {
        server.expect(line, "+OK\r\n");
    }
    samples
}

fn bulk(reply: &[u8]) -> Vec<u8> {
    match parse(reply) {
        Parsed::Whole(frame, _) if frame.kind == b'$' => frame.text,
        _ => panic!("a bulk string is due: {}", crate::support::show(reply)),
    }
}
