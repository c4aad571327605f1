//! The commands the model Redis has, and how COMMAND tells of them: as a real 7.0.15 does.

use super::reply::{Reply, parse};
use crate::resp::encode;
use std::sync::LazyLock;

/// Full names in order; subcommands have their container before them.
const NAMES: &str = "acl acl|whoami auth blpop brpop client client|caching client|capa client|getname client|getredir \
     client|id client|info client|kill client|list client|no-evict client|no-touch client|pause client|reply \
     client|setinfo client|setname client|tracking client|trackinginfo client|unblock command command|count \
     command|info config config|get config|set dbsize del discard echo eval exec exists function function|kill get \
     getset hello incr info llen lpop lpush monitor multi ping psubscribe publish pubsub pubsub|channels \
     pubsub|numsub pubsub|shardnumsub punsubscribe quit reset rpush script script|kill select set spublish ssubscribe strlen subscribe \
     sunsubscribe unsubscribe unwatch wait watch";

/// Those of later versions, with their arity.
const LATER: [(&str, i64); 3] = [("client|capa", -3), ("client|no-touch", 3), ("client|setinfo", 4)];

struct Command {
    name: String,
    arity: i64,
    flags: Vec<String>,
    first_key: i64,
}

static COMMANDS: LazyLock<Vec<Command>> = LazyLock::new(|| {
    let (reply, _) = parse(&recorded()).expect("valid").expect("whole");
    let mut known = Vec::new();
    elements(&reply).iter().for_each(|entry| read(entry, &mut known));
    for (name, arity) in LATER {
        let flags = ["noscript", "loading", "stale"].map(str::to_owned).to_vec();
        known.push(Command { name: name.to_owned(), arity, flags, first_key: 0 });
    }
    known.retain(|known| NAMES.split(' ').any(|name| name == known.name));
    known.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(
        NAMES.split(' ').eq(known.iter().map(|known| known.name.as_str())),
        "each is known, and in its place"
    );
    known
});

/// The reply to COMMAND of a real server.
pub(super) fn recorded() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/command-7.0.15.resp");
    std::fs::read(path).expect("the reply to COMMAND")
}

fn elements(reply: &Reply) -> &[Reply] {
    let Reply::Array(elements) = reply else { panic!("no array: {reply:?}") };
    elements
}

fn read(entry: &Reply, into: &mut Vec<Command>) {
    let text = |reply: &Reply| String::from_utf8_lossy(reply.text().expect("text")).into_owned();
    let entry = elements(entry);
    let [Reply::Int(arity), Reply::Int(first_key)] = [&entry[1], &entry[3]] else {
        panic!("no numbers: {entry:?}")
    };
    into.push(Command {
        name: text(&entry[0]),
        arity: *arity,
        flags: elements(&entry[2]).iter().map(text).collect(),
        first_key: *first_key,
    });
    elements(&entry[9]).iter().for_each(|entry| read(entry, into));
}

fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|known| known.name == name)
}

pub(super) fn has_flag(name: &str, flag: &str) -> bool {
    find(name).is_some_and(|known| known.flags.iter().any(|own| own == flag))
}

/// Whether `count` arguments, the full lower-case name among them, fit; if there is such a command.
pub(super) fn accepts(name: &str, count: usize) -> Option<bool> {
    let Command { arity, .. } = find(name)?;
    Some(if *arity < 0 { count as i64 >= -arity } else { count as i64 == *arity })
}

pub(super) fn all() -> Vec<u8> {
    let mut out = Vec::new();
    let plain: Vec<_> = COMMANDS.iter().filter(|known| !known.name.contains('|')).collect();
    encode::array_header(&mut out, plain.len());
    plain.iter().for_each(|known| entry(&mut out, &known.name));
    out
}

/// One element of COMMAND or COMMAND INFO.
pub(super) fn entry(out: &mut Vec<u8>, name: &str) {
    let Some(Command { name, arity, flags, first_key }) = find(name) else {
        return out.extend_from_slice(b"*-1\r\n");
    };
    encode::array_header(out, 10);
    encode::bulk(out, name.as_bytes());
    encode::int(out, *arity);
    encode::array_header(out, flags.len());
    flags.iter().for_each(|flag| out.extend_from_slice(format!("+{flag}\r\n").as_bytes()));
    encode::int(out, *first_key);
    for _ in 4..9 {
        encode::int(out, 0);
    }
    let within =
        |other: &&Command| other.name.split_once('|').is_some_and(|(container, _)| container == name);
    let subcommands: Vec<_> = COMMANDS.iter().filter(within).collect();
    encode::array_header(out, subcommands.len());
    subcommands.iter().for_each(|known| entry(out, &known.name));
}
