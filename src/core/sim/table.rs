//! The commands the model Redis has, and how COMMAND tells of them.

use crate::resp::encode;

/// Name, arity and flags as Redis 7.0 lists them; subcommands with their container before them.
const COMMANDS: &[(&str, i64, &str)] = &[
    ("acl", -2, ""),
    ("acl|whoami", 2, "noscript loading stale"),
    ("auth", -2, "noscript loading stale fast no_auth allow_busy"),
    ("blpop", -3, "write noscript blocking"),
    ("brpop", -3, "write noscript blocking"),
    ("client", -2, ""),
    ("client|caching", 3, "noscript loading stale"),
    ("client|capa", -3, "noscript loading stale"),
    ("client|getname", 2, "noscript loading stale"),
    ("client|getredir", 2, "noscript loading stale"),
    ("client|id", 2, "noscript loading stale"),
    ("client|info", 2, "noscript loading stale"),
    ("client|kill", -3, "admin noscript loading stale"),
    ("client|list", -2, "admin noscript loading stale"),
    ("client|no-evict", 3, "admin noscript loading stale"),
    ("client|no-touch", 3, "noscript loading stale"),
    ("client|pause", -3, "admin noscript loading stale"),
    ("client|reply", 3, "noscript loading stale"),
    ("client|setinfo", 4, "noscript loading stale"),
    ("client|setname", 3, "noscript loading stale"),
    ("client|tracking", -3, "noscript loading stale"),
    ("client|trackinginfo", 2, "noscript loading stale"),
    ("client|unblock", -3, "admin noscript loading stale"),
    ("command", -1, "loading stale"),
    ("command|count", 2, "loading stale"),
    ("command|info", -2, "loading stale"),
    ("config", -2, ""),
    ("config|get", -3, "admin noscript loading stale"),
    ("config|set", -4, "admin noscript loading stale"),
    ("dbsize", 1, "readonly fast"),
    ("del", -2, "write"),
    ("discard", 1, "noscript loading stale fast allow_busy"),
    ("echo", 2, "loading stale fast"),
    ("eval", -3, "noscript stale skip_monitor no_mandatory_keys movablekeys"),
    ("exec", 1, "noscript loading stale skip_slowlog"),
    ("exists", -2, "readonly fast"),
    ("function", -2, ""),
    ("function|kill", 2, "noscript allow_busy"),
    ("get", 2, "readonly fast"),
    ("getset", 3, "write denyoom fast"),
    ("hello", -1, "noscript loading stale fast no_auth allow_busy"),
    ("incr", 2, "write denyoom fast"),
    ("info", -1, "loading stale"),
    ("llen", 2, "readonly fast"),
    ("lmpop", -4, "write movablekeys"),
    ("lpop", -2, "write fast"),
    ("lpush", -3, "write denyoom fast"),
    ("monitor", 1, "admin noscript loading stale"),
    ("multi", 1, "noscript loading stale fast allow_busy"),
    ("ping", -1, "fast"),
    ("psubscribe", -2, "pubsub noscript loading stale"),
    ("publish", 3, "pubsub loading stale fast"),
    ("pubsub", -2, ""),
    ("pubsub|channels", -2, "pubsub loading stale"),
    ("pubsub|numsub", -2, "pubsub loading stale"),
    ("punsubscribe", -1, "pubsub noscript loading stale"),
    ("quit", -1, "noscript loading stale fast no_auth allow_busy"),
    ("reset", 1, "noscript loading stale fast no_auth allow_busy"),
    ("rpush", -3, "write denyoom fast"),
    ("script", -2, ""),
    ("script|kill", 2, "noscript allow_busy"),
    ("select", 2, "loading stale fast"),
    ("set", -3, "write denyoom"),
    ("spublish", 3, "pubsub loading stale fast"),
    ("ssubscribe", -2, "pubsub noscript loading stale"),
    ("strlen", 2, "readonly fast"),
    ("subscribe", -2, "pubsub noscript loading stale"),
    ("sunsubscribe", -1, "pubsub noscript loading stale"),
    ("unsubscribe", -1, "pubsub noscript loading stale"),
    ("unwatch", 1, "noscript loading stale fast allow_busy"),
    ("wait", 3, "noscript"),
    ("watch", -2, "noscript loading stale fast allow_busy"),
];

/// Whether the command has the flag.
pub(super) fn has_flag(name: &str, flag: &str) -> bool {
    let found = COMMANDS.iter().find(|(known, ..)| *known == name);
    found.is_some_and(|(_, _, flags)| flags.split(' ').any(|own| own == flag))
}

/// The arity of a command by its full lower-case name.
pub(super) fn arity(name: &str) -> Option<i64> {
    COMMANDS.iter().find(|(known, ..)| *known == name).map(|(_, arity, _)| *arity)
}

/// Whether `count` arguments, the name among them, fit.
pub(super) fn accepts(arity: i64, count: usize) -> bool {
    if arity < 0 { count as i64 >= -arity } else { count as i64 == arity }
}

/// The reply to COMMAND.
pub(super) fn all() -> Vec<u8> {
    let mut out = Vec::new();
    let plain: Vec<_> = COMMANDS.iter().filter(|(name, ..)| !name.contains('|')).collect();
    encode::array_header(&mut out, plain.len());
    plain.iter().for_each(|(name, ..)| entry(&mut out, name));
    out
}

/// One element of COMMAND or COMMAND INFO.
pub(super) fn entry(out: &mut Vec<u8>, name: &str) {
    let Some((name, arity, flags)) = COMMANDS.iter().find(|(known, ..)| *known == name) else {
        return out.extend_from_slice(b"*-1\r\n");
    };
    encode::array_header(out, 10);
    encode::bulk(out, name.as_bytes());
    encode::int(out, *arity);
    let flags: Vec<&str> = flags.split_whitespace().collect();
    encode::array_header(out, flags.len());
    flags.iter().for_each(|flag| out.extend_from_slice(format!("+{flag}\r\n").as_bytes()));
    for _ in 3..9 {
        encode::int(out, 0);
    }
    let within = |other: &str| other.split_once('|').is_some_and(|(container, _)| container == *name);
    let subcommands: Vec<_> = COMMANDS.iter().filter(|(other, ..)| within(other)).collect();
    encode::array_header(out, subcommands.len());
    subcommands.iter().for_each(|(name, ..)| entry(out, name));
}
