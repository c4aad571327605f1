//! Which way a command goes: on the connection that all requests share, on one of its own, or nowhere, because it
//! would change the shared connection under the feet of others. Knows names only; a server may know more of them.

use crate::command;

/// Where a command may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// With all others.
    Shared,
    /// The same, and once accepted it is part of what every new connection begins with.
    Tracked(Tracked),
    /// On a connection of its own for as long as it waits.
    Blocking,
}

/// Settings of a connection that a command makes and a new connection has to make again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tracked {
    Tracking,
    NoEvict,
    NoTouch,
    LibName,
    LibVersion,
}

const TRANSACTION: &str = "MULTI, EXEC and DISCARD: use a transaction, which is submitted whole";
const WATCH: &str = "WATCH and UNWATCH: use a session, which has a connection of its own";
const SUBSCRIBE: &str = "subscriptions: use the subscribe function, which keeps them through reconnects";
const SETTING: &str = "SELECT, AUTH, HELLO, RESET and CLIENT SETNAME: use the client_... settings, which are made again \
                       on every connection";
const REPLIES: &str = "CLIENT REPLY and CLIENT CACHING: they change what the next requests of others get";
const STREAM: &str =
    "QUIT, MONITOR, SYNC, PSYNC, REPLCONF and SCRIPT DEBUG: they end the connection's use for requests";
const CLUSTER: &str = "ASKING, READONLY and READWRITE: they change what the next requests of others get";
const NESTED: &str = "a transaction holds neither transactions nor what changes a connection";

/// The way of a command that shares its connection.
pub(super) fn shared(words: &[&[u8]]) -> Result<Way, &'static str> {
    let name = Name::of(words.first().copied());
    match name.as_str() {
        "MULTI" | "EXEC" | "DISCARD" => Err(TRANSACTION),
        "WATCH" | "UNWATCH" => Err(WATCH),
        "SELECT" | "AUTH" | "HELLO" | "RESET" => Err(SETTING),
        "ASKING" | "READONLY" | "READWRITE" => Err(CLUSTER),
        "CLIENT" => client(words),
        "BLPOP" | "BRPOP" | "BRPOPLPUSH" | "BLMOVE" | "BLMPOP" | "BZPOPMIN" | "BZPOPMAX" | "BZMPOP" => {
            Ok(Way::Blocking)
        }
        "XREAD" | "XREADGROUP" if command::stream_blocks(words) => Ok(Way::Blocking),
        _ => session(words).map(|()| Way::Shared),
    }
}

/// Whether a command may go on a connection that is the caller's alone: all but those after which replies no longer
/// match requests.
pub(super) fn session(words: &[&[u8]]) -> Result<(), &'static str> {
    let (name, sub) = (Name::of(words.first().copied()), Name::of(words.get(1).copied()));
    match (name.as_str(), sub.as_str()) {
        ("SUBSCRIBE" | "UNSUBSCRIBE" | "PSUBSCRIBE" | "PUNSUBSCRIBE" | "SSUBSCRIBE" | "SUNSUBSCRIBE", _) => {
            Err(SUBSCRIBE)
        }
        ("QUIT" | "MONITOR" | "SYNC" | "PSYNC" | "REPLCONF", _) | ("SCRIPT", "DEBUG") => Err(STREAM),
        ("CLIENT", "REPLY") => Err(REPLIES),
        ("HELLO" | "RESET", _) => Err(SETTING),
        _ => Ok(()),
    }
}

/// Whether a command may stand in a transaction.
pub(super) fn in_transaction(words: &[&[u8]]) -> Result<(), &'static str> {
    match shared(words) {
        Ok(Way::Shared | Way::Blocking) => Ok(()),
        Ok(Way::Tracked(_)) | Err(_) => Err(NESTED),
    }
}

fn client(words: &[&[u8]]) -> Result<Way, &'static str> {
    let (sub, attribute) = (Name::of(words.get(1).copied()), Name::of(words.get(2).copied()));
    match (sub.as_str(), attribute.as_str()) {
        ("SETNAME", _) => Err(SETTING),
        ("REPLY" | "CACHING", _) => Err(REPLIES),
        ("TRACKING", _) => Ok(Way::Tracked(Tracked::Tracking)),
        ("NO-EVICT", _) => Ok(Way::Tracked(Tracked::NoEvict)),
        ("NO-TOUCH", _) => Ok(Way::Tracked(Tracked::NoTouch)),
        ("SETINFO", "LIB-NAME") => Ok(Way::Tracked(Tracked::LibName)),
        ("SETINFO", "LIB-VER") => Ok(Way::Tracked(Tracked::LibVersion)),
        _ => Ok(Way::Shared),
    }
}

/// A word in upper case; none of those looked for is longer.
struct Name {
    bytes: [u8; 16],
    len: usize,
}

impl Name {
    fn of(word: Option<&[u8]>) -> Name {
        let mut name = Name { bytes: [0; 16], len: 0 };
        if let Some(word) = word
            && word.len() <= name.bytes.len()
        {
            name.len = word.len();
            name.bytes[..name.len].copy_from_slice(word);
            name.bytes[..name.len].make_ascii_uppercase();
        }
        name
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<&[u8]> {
        line.split(' ').map(str::as_bytes).collect()
    }

    #[test]
    fn what_others_would_notice_is_refused() {
        for line in [
            "multi",
            "Exec",
            "WATCH k",
            "SELECT 1",
            "hello 3",
            "CLIENT setname x",
            "CLIENT REPLY OFF",
            "quit",
        ] {
            assert!(shared(&words(line)).is_err(), "{line}");
            assert!(in_transaction(&words(line)).is_err(), "{line}");
        }
        for line in
            ["GET k", "CLIENT ID", "SCRIPT LOAD x", "XREAD COUNT 1 STREAMS BLOCK 0", "averylongcommandname x"]
        {
            assert_eq!(shared(&words(line)), Ok(Way::Shared), "{line}");
        }
        assert_eq!(shared(&words("client tracking on")), Ok(Way::Tracked(Tracked::Tracking)));
    }

    #[test]
    fn what_waits_goes_its_own_way() {
        for line in ["BLPOP k 0", "xread block 0 streams s $", "XREADGROUP GROUP g c BLOCK 1 STREAMS s >"] {
            assert_eq!(shared(&words(line)), Ok(Way::Blocking), "{line}");
            assert!(in_transaction(&words(line)).is_ok(), "in a transaction nothing waits");
        }
    }

    /// A group or a stream may have the name of an option: the server reads them where options end.
    #[test]
    fn block_is_an_option_only_where_the_server_reads_one() {
        for line in [
            "XREADGROUP GROUP block c STREAMS s >",
            "XREADGROUP GROUP g block STREAMS s >",
            "XREAD STREAMS block 0",
            "XREAD COUNT block STREAMS s 0",
            "XREAD COUNT 1 BLOCK",
        ] {
            assert_eq!(shared(&words(line)), Ok(Way::Shared), "{line}");
        }
        for line in [
            "XREADGROUP GROUP streams c BLOCK 0 STREAMS s >",
            "XREADGROUP GROUP block block NOACK block 1 STREAMS block >",
        ] {
            assert_eq!(shared(&words(line)), Ok(Way::Blocking), "{line}");
        }
    }

    #[test]
    fn a_session_takes_what_concerns_it_alone() {
        for line in ["WATCH k", "MULTI", "SELECT 3", "BLPOP k 0", "CLIENT TRACKING ON"] {
            assert!(session(&words(line)).is_ok(), "{line}");
        }
        for line in ["SUBSCRIBE c", "CLIENT REPLY SKIP", "MONITOR", "RESET", "script debug yes"] {
            assert!(session(&words(line)).is_err(), "{line}");
        }
    }
}
