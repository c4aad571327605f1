//! What servers do not all take alike and the broker takes in one way, so that it cannot be said to each of them. Each is
//! asked of the server at hand, whatever its name and version, but for what would end it. Owns these questions; the plan leaves out what the answers
//! say, and nothing else.

use std::time::Duration;

use crate::support::redis::release;
use crate::support::{End, Redis, request};

/// Of one server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    /// An AUTH that is refused is answered whatever has been answered before it. Redis 8.2 says nothing where a reply is
    /// still to be written, and EXEC's reply then lacks an element (`addAuthErrReply` in its acl.c).
    pub(crate) always_refuses_auth: bool,
    /// Does not look at the bytes that end a header or a bulk string. Valkey does, and closes; the broker puts them right.
    pub(crate) takes_sloppy_framing: bool,
    /// A NUL in a header hides its line, as in Redis and the broker.
    pub(crate) stops_at_nul: bool,
    /// Refuses an inline word that goes on behind its quotes, as Redis and the broker do. Valkey 9 joins the two.
    pub(crate) refuses_joined_quotes: bool,
    /// Tells of bytes that are no request when the command that waits before them is done. Redis 8.2 does so only when
    /// more bytes come, and leaves the connection open until then.
    pub(crate) ends_behind_a_wait: bool,
    /// What a RESP3 connection publishes to itself comes before the reply to PUBLISH. Redis 8.2 and Valkey send it behind,
    /// where the broker may have answered the next request itself by then: its place among replies is no one's promise.
    pub(crate) own_messages_come_first: bool,
    /// Survives the least of all integers as the count of HRANDFIELD and ZRANDMEMBER (CVE-2023-22458).
    pub(crate) survives_the_least_count: bool,
}

/// Quotes that a word goes on behind.
pub(crate) const JOINED_QUOTES: &[u8] = b"GET 'a'b\r\n";
/// A header with a NUL.
pub(crate) const NUL_IN_HEADER: &[u8] = b"*2\r\n$3\r\nGET\r\n\x00x\r\n";

/// Long enough for a server that has come to bytes that are no request to say so.
const MOMENT: Duration = Duration::from_millis(500);

impl Manners {
    /// Asks a server that has no passwords; what is asked leaves nothing there.
    pub(crate) fn of(server: &Redis) -> Manners {
        let auth = [request(&["PING"]), request(&["AUTH", "nobody", "x"])].concat();
        let header_end = b"*1\r\n$4\r\nPINGxy".to_vec();
        Manners {
            always_refuses_auth: said(server, &auth).contains("-WRONGPASS "),
            takes_sloppy_framing: said(server, &header_end).starts_with("+PONG"),
            stops_at_nul: said(server, NUL_IN_HEADER).is_empty(),
            refuses_joined_quotes: said(server, JOINED_QUOTES).contains("unbalanced"),
            ends_behind_a_wait: ends_behind_a_wait(server),
            own_messages_come_first: own_messages_come_first(server),
            survives_the_least_count: survives_the_least_count(release()),
        }
    }
}

fn ends_behind_a_wait(server: &Redis) -> bool {
    let mut raw = server.connect_plain();
    raw.write(&[&request(&["BLPOP", "nothing", "0.01"]), &b"*-\r\n"[..]].concat());
    assert_eq!(raw.read_text(), "*-1\r\n", "the wait is over");
    raw.set_patience(MOMENT);
    raw.is_closed()
}

fn own_messages_come_first(server: &Redis) -> bool {
    let mut raw = server.connect_plain();
    for line in ["HELLO 3", "SUBSCRIBE a"] {
        raw.ask(line);
    }
    raw.ask("PUBLISH a text").starts_with('>')
}

/// Mended in 6.0.17, 6.2.9 and 7.0.8.
fn survives_the_least_count(release: &str) -> bool {
    let Some(version) = release.strip_prefix("redis-") else { return true };
    let numbers: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
    let mended = match numbers[..] {
        [6, 0, patch] => patch >= 17,
        [6, 2, patch] => patch >= 9,
        [7, 0, patch] => patch >= 8,
        _ => true,
    };
    assert_eq!(numbers.len(), 3, "{release}");
    mended
}

/// All that a server answers on a connection of its own, which ends with these bytes.
fn said(server: &Redis, bytes: &[u8]) -> String {
    let mut raw = server.connect_plain();
    raw.write(bytes);
    raw.half_close();
    let (said, end) = raw.read_all();
    assert_eq!(end, End::Closed, "the server goes on where its client has ended");
    String::from_utf8_lossy(&said).into_owned()
}
