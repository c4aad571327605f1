//! Which way a command goes: on the connection that all requests share, on one of its own, or nowhere, because it
//! would change the shared connection under the feet of others. Knows no names: these are facts of `command`.

use crate::command::{Effect, Facts, Setting};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    Shared,
    /// The same, and once accepted it is part of what every new connection begins with.
    Setting(Setting),
    /// On a connection of its own for as long as it waits.
    Blocking,
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
pub(super) fn shared(words: &[&[u8]]) -> Result<Connection, &'static str> {
    let facts = Facts::of_words(words);
    match facts.effect() {
        Effect::Transaction => Err(TRANSACTION),
        Effect::Watch => Err(WATCH),
        Effect::Identity => Err(SETTING),
        Effect::Cluster => Err(CLUSTER),
        Effect::NextRequest => Err(REPLIES),
        Effect::Setting(setting) => Ok(Connection::Setting(setting)),
        Effect::LibrarySetting => Ok(library_setting(words).map_or(Connection::Shared, Connection::Setting)),
        effect => {
            on_own_connection(effect)?;
            Ok(if facts.may_wait(words) { Connection::Blocking } else { Connection::Shared })
        }
    }
}

/// Whether a command may go on the caller's own connection: afterwards replies must still match requests.
pub(super) fn session(words: &[&[u8]]) -> Result<(), &'static str> {
    on_own_connection(Facts::of_words(words).effect())
}

fn on_own_connection(effect: Effect) -> Result<(), &'static str> {
    match effect {
        Effect::Subscriptions => Err(SUBSCRIBE),
        Effect::Stream | Effect::TakesOver => Err(STREAM),
        Effect::Replies => Err(REPLIES),
        Effect::Protocol => Err(SETTING),
        _ => Ok(()),
    }
}

pub(super) fn in_transaction(words: &[&[u8]]) -> Result<(), &'static str> {
    match shared(words) {
        Ok(Connection::Shared | Connection::Blocking) => Ok(()),
        Ok(Connection::Setting(_)) | Err(_) => Err(NESTED),
    }
}

/// What CLIENT SETINFO sets; none if that is nothing known.
fn library_setting(words: &[&[u8]]) -> Option<Setting> {
    let attribute = words.get(2)?;
    let settings = [(&b"LIB-NAME"[..], Setting::LibName), (b"LIB-VER", Setting::LibVersion)];
    settings.into_iter().find(|(name, _)| attribute.eq_ignore_ascii_case(name)).map(|(_, setting)| setting)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of `text` that are of another way than this.
    fn others(text: &'static str, way: fn(&[&[u8]]) -> bool) -> Vec<&'static str> {
        let words = |line: &'static str| line.split(' ').map(str::as_bytes).collect::<Vec<_>>();
        text.split("; ").filter(|line| !way(&words(line))).collect()
    }

    fn is_shared(words: &[&[u8]]) -> bool {
        shared(words) == Ok(Connection::Shared)
    }

    fn is_blocking(words: &[&[u8]]) -> bool {
        shared(words) == Ok(Connection::Blocking)
    }

    #[test]
    fn what_others_would_notice_is_refused() {
        let refused = "multi; Exec; WATCH k; SELECT 1; hello 3; CLIENT setname x; CLIENT REPLY OFF; quit";
        assert_eq!(others(refused, |words| shared(words).is_err()), [""; 0]);
        assert_eq!(others(refused, |words| in_transaction(words).is_err()), [""; 0]);
        let taken = "GET k; CLIENT ID; SCRIPT LOAD x; XREAD COUNT 1 STREAMS BLOCK 0; averylongcommandname x";
        assert_eq!(others(taken, is_shared), [""; 0]);
        let tracking = |words: &[&[u8]]| shared(words) == Ok(Connection::Setting(Setting::Tracking));
        assert_eq!(others("client tracking on", tracking), [""; 0]);
    }

    #[test]
    fn what_waits_goes_its_own_way() {
        let waiting = "BLPOP k 0; xread block 0 streams s $; XREADGROUP GROUP g c BLOCK 1 STREAMS s >";
        assert_eq!(others(waiting, is_blocking), [""; 0]);
        let in_block = others(waiting, |words| in_transaction(words).is_ok());
        assert_eq!(in_block, [""; 0], "in a transaction nothing waits");
    }

    /// A group or a stream may have the name of an option: the server reads them where options end.
    #[test]
    fn block_is_an_option_only_where_the_server_reads_one() {
        let names = "XREADGROUP GROUP block c STREAMS s >; XREADGROUP GROUP g block STREAMS s >; \
                     XREAD STREAMS block 0; XREAD COUNT block STREAMS s 0; XREAD COUNT 1 BLOCK";
        assert_eq!(others(names, is_shared), [""; 0]);
        let options = "XREADGROUP GROUP streams c BLOCK 0 STREAMS s >; \
                       XREADGROUP GROUP block block NOACK block 1 STREAMS block >";
        assert_eq!(others(options, is_blocking), [""; 0]);
    }

    #[test]
    fn a_session_takes_what_concerns_it_alone() {
        let taken = "WATCH k; MULTI; SELECT 3; BLPOP k 0; CLIENT TRACKING ON";
        assert_eq!(others(taken, |words| session(words).is_ok()), [""; 0]);
        let refused = "SUBSCRIBE c; CLIENT REPLY SKIP; MONITOR; RESET; script debug yes";
        assert_eq!(others(refused, |words| session(words).is_err()), [""; 0]);
    }
}
