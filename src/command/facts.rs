//! What is known of commands by their names: one row for each of which the flags that the server gives do not say
//! enough. Whoever treats a command by its name asks here, the broker and the client alike. Never looks at arguments
//! beyond a subcommand.

use super::blocking;
use super::classify::{Count, Family, Local, Pin, Route, Runs, Subscribe, Transaction};

/// What a command has to do with the state of the connection it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: it may run on a connection that others use.
    None,
    /// Opens, runs or drops a transaction.
    Transaction,
    /// Changes the watched keys.
    Watch,
    /// Changes the subscriptions.
    Subscriptions,
    /// Changes the user, the database or the name.
    Identity,
    /// Changes the protocol, or everything at once.
    Protocol,
    /// Makes a setting that can be made again on the next connection.
    Setting(Setting),
    /// Makes one of two such settings; its third word says which.
    LibrarySetting,
    /// Changes what a node of a cluster answers.
    Cluster,
    /// Changes what the next request gets.
    NextRequest,
    /// Changes which requests are answered.
    Replies,
    /// Ends its use for requests and their replies.
    Stream,
    /// The same, for replication or a debugger: never to be allowed.
    TakesOver,
    /// Shows it, asks about what was last written on it, holds up the server or ends it.
    Other,
    /// Nobody can tell: a subcommand that a newer server has, or another kind of server. Never to be allowed.
    Unknown,
}

/// A setting of a connection that a client makes again on the next one.
#[allow(missing_docs)] // Each is named after the words that make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    Tracking,
    NoEvict,
    NoTouch,
    LibName,
    LibVersion,
}

/// Where a command that waits has its timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeoutAt {
    /// The first argument, in seconds.
    First,
    /// The last argument, in seconds.
    Last,
    /// Behind the option BLOCK, in milliseconds. Without that option it does not wait.
    Block,
}

/// What is known of one command.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Full and in lower case, `client|id`. `client|*` is every subcommand that has no row.
    name: &'static str,
    /// Where it goes, whatever its flags are.
    pub(super) route: Option<Route>,
    /// Where it goes if it is refused by default and the settings allow it.
    pub(super) route_allowed: Option<Route>,
    /// It may wait for an element.
    pub(super) waits: Option<TimeoutAt>,
    /// It may change data, though no flag of Redis 7.0 says so: COMMAND hides `may_replicate`.
    pub(super) writes: bool,
    /// What it has run that its request does not name. Loading runs nothing: Redis refuses calls meanwhile.
    pub(super) runs: Runs,
    effect: Effect,
}

impl Facts {
    /// What is known of a command by its full name, `client|id`.
    pub fn of_name(name: &str) -> &'static Facts {
        match name.split_once('|') {
            Some((container, subcommand)) => Facts::of_words(&[container.as_bytes(), subcommand.as_bytes()]),
            None => Facts::of_words(&[name.as_bytes()]),
        }
    }

    /// What is known of the command that a request of these words is.
    pub fn of_words(words: &[&[u8]]) -> &'static Facts {
        let Some(name) = words.first() else { return &NOTHING };
        // Those of subcommands stand behind their command's own, and `*` before the others.
        let row = rows_with_first_letter_of(name).iter().rfind(|row| row.is_of(name, words.get(1)));
        row.unwrap_or(&NOTHING)
    }

    fn is_of(&self, name: &[u8], subcommand: Option<&&[u8]>) -> bool {
        let Some((own_name, rest)) = self.name.as_bytes().split_at_checked(name.len()) else { return false };
        match rest {
            // No client can type a subcommand in one word.
            [] => own_name.eq_ignore_ascii_case(name) && !name.contains(&b'|'),
            [b'|', own @ ..] => {
                own_name.eq_ignore_ascii_case(name)
                    && subcommand.is_some_and(|typed| own == b"*" || own.eq_ignore_ascii_case(typed))
            }
            _ => false,
        }
    }

    /// What the command has to do with the state of the connection it runs on. If anything, it must never reach one that
    /// others use, whichever way it is written. Blocking commands are told by their route.
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// Whether the command, with these words, may wait for an element.
    pub fn may_wait(&self, words: &[&[u8]]) -> bool {
        match self.waits {
            Some(TimeoutAt::Block) => blocking::stream_block(|index| words.get(index).copied()).is_some(),
            Some(TimeoutAt::First | TimeoutAt::Last) => true,
            None => false,
        }
    }
}

/// The rows in which a command may stand: a client looks every request up, and most have none.
fn rows_with_first_letter_of(name: &[u8]) -> &'static [Facts] {
    let first = name.first().map_or(u8::MAX, |letter| letter.to_ascii_lowercase().wrapping_sub(b'a'));
    let letter = usize::from(first);
    if letter < LETTERS { &ROWS[STARTS[letter]..STARTS[letter + 1]] } else { &[] }
}

const LETTERS: usize = 26;

/// Where the rows of each letter begin, and behind the last where all end.
static STARTS: [usize; LETTERS + 1] = {
    let (mut starts, mut row) = ([0; LETTERS + 1], 0);
    while row < ROWS.len() {
        starts[(ROWS[row].name.as_bytes()[0] - b'a') as usize + 1] += 1;
        row += 1;
    }
    let mut letter = 0;
    while letter < LETTERS {
        starts[letter + 1] += starts[letter];
        letter += 1;
    }
    starts
};

/// A command without a row.
static NOTHING: Facts = row("");

const fn row(name: &'static str) -> Facts {
    Facts {
        name,
        route: None,
        route_allowed: None,
        waits: None,
        writes: false,
        runs: Runs::Nothing,
        effect: Effect::None,
    }
}

const fn subscribe(family: Family, leave: bool) -> Facts {
    let change = Subscribe { family, leave };
    row(change.name()).goes(Route::Subscribe(change)).has(Effect::Subscriptions)
}

const fn count(name: &'static str, family: Family, publishes: bool) -> Facts {
    row(name).goes(Route::Count(Count { family, publishes }))
}

impl Facts {
    const fn goes(self, route: Route) -> Facts {
        Facts { route: Some(route), ..self }
    }

    const fn local(self, local: Local) -> Facts {
        self.goes(Route::Local(local))
    }

    const fn transaction(self, command: Transaction, effect: Effect) -> Facts {
        self.goes(Route::Transaction(command)).has(effect)
    }

    const fn allowed(self, route: Route) -> Facts {
        Facts { route_allowed: Some(route), ..self }
    }

    const fn has(self, effect: Effect) -> Facts {
        Facts { effect, ..self }
    }

    const fn writes(self) -> Facts {
        Facts { writes: true, ..self }
    }

    const fn runs(self, runs: Runs) -> Facts {
        Facts { runs, ..self }
    }

    const fn waits(self, timeout: TimeoutAt) -> Facts {
        Facts { waits: Some(timeout), ..self }
    }
}

use Effect::{Cluster, Identity, NextRequest, Other, Protocol, Replies, Stream, TakesOver, Unknown};
use Route::{Control, Dedicated, Refused, Replicas, Shared};
use TimeoutAt::{Block, First, Last};

/// In the order of their names.
static ROWS: &[Facts] = &[
    row("acl|dryrun").goes(Shared),
    row("asking").local(Local::Asking).has(Cluster),
    row("auth").local(Local::Auth).has(Identity),
    row("blmove").waits(Last),
    row("blmpop").waits(First),
    row("blpop").waits(Last),
    row("brpop").waits(Last),
    row("brpoplpush").waits(Last),
    row("bzmpop").waits(First),
    row("bzpopmax").waits(Last),
    row("bzpopmin").waits(Last),
    // Whatever a newer server adds here changes or shows the connection it runs on.
    row("client|*").goes(Refused).has(Unknown),
    row("client|caching").local(Local::ClientCaching).has(NextRequest),
    row("client|capa").local(Local::ClientCapa).has(Other),
    row("client|getname").local(Local::ClientGetname).has(Other),
    row("client|getredir").local(Local::ClientGetredir).has(Other),
    row("client|help").goes(Shared),
    row("client|id").local(Local::ClientId).has(Other),
    row("client|import-source").goes(Route::Pin(Pin::ImportSource)).has(Other),
    row("client|info").local(Local::ClientInfo).has(Other),
    row("client|kill").local(Local::ClientKill).has(Other),
    row("client|list").local(Local::ClientList).has(Other),
    row("client|no-evict").local(Local::ClientNoEvict).has(Effect::Setting(Setting::NoEvict)),
    row("client|no-touch").local(Local::ClientNoTouch).has(Effect::Setting(Setting::NoTouch)),
    // Pausing the lanes pauses nobody's reply.
    row("client|pause").goes(Refused).allowed(Control),
    row("client|reply").local(Local::ClientReply).has(Replies),
    row("client|setinfo").local(Local::ClientSetinfo).has(Effect::LibrarySetting),
    row("client|setname").local(Local::ClientSetname).has(Identity),
    row("client|tracking").goes(Route::Pin(Pin::Tracking)).has(Effect::Setting(Setting::Tracking)),
    row("client|trackinginfo").local(Local::ClientTrackinginfo).has(Other),
    row("client|unblock").local(Local::ClientUnblock).has(Other),
    row("client|unpause").goes(Refused).allowed(Control),
    // Flagged admin or pubsub, as the others below are, yet they only read or reset statistics.
    row("commandlog|*").goes(Shared),
    row("config|get").goes(Shared),
    row("debug").has(Other),
    row("debug|*").has(Other),
    row("discard").transaction(Transaction::Discard, Effect::Transaction),
    row("echo").local(Local::Echo),
    row("eval").runs(Runs::Anything).writes(),
    row("eval_ro").runs(Runs::Reads),
    row("evalsha").runs(Runs::Anything).writes(),
    row("evalsha_ro").runs(Runs::Reads),
    row("exec").transaction(Transaction::Exec, Effect::Transaction).writes(),
    row("fcall").runs(Runs::Anything).writes(),
    row("fcall_ro").runs(Runs::Reads),
    row("function|kill").goes(Control),
    row("hello").local(Local::Hello).has(Protocol),
    row("hotkeys|get").goes(Shared),
    row("latency|*").goes(Shared),
    // Blocks the whole server and its own connection for as long as the other server takes.
    row("migrate").goes(Dedicated),
    row("module|list").goes(Shared),
    // Of a connection, though no flag shows it. So are the others below that are refused.
    row("monitor").goes(Refused).allowed(Route::Pin(Pin::Monitor)).has(Stream),
    row("multi").transaction(Transaction::Multi, Effect::Transaction),
    row("pfcount").writes(),
    row("ping").local(Local::Ping),
    subscribe(Family::Pattern, false),
    row("psync").has(TakesOver),
    count("publish", Family::Channel, true).writes(),
    row("pubsub|*").goes(Shared),
    count("pubsub|numsub", Family::Channel, false),
    count("pubsub|shardnumsub", Family::Shard, false),
    subscribe(Family::Pattern, true),
    row("quit").local(Local::Quit).has(Stream),
    row("readonly").local(Local::Readonly).has(Cluster),
    row("readwrite").local(Local::Readwrite).has(Cluster),
    row("replconf").has(TakesOver),
    row("reset").local(Local::Reset).has(Protocol),
    row("restore-asking").goes(Refused),
    row("script|debug").goes(Refused).has(TakesOver),
    row("script|kill").goes(Control),
    row("select").local(Local::Select).has(Identity),
    row("sentinel").goes(Refused).has(Unknown),
    row("sentinel|*").goes(Refused).has(Unknown),
    // Across databases, as SWAPDB is.
    row("sflush").goes(Refused),
    // The lanes may be busy with the very thing that is to end.
    row("shutdown").allowed(Control).has(Other),
    row("slowlog|*").goes(Shared),
    count("spublish", Family::Shard, true).writes(),
    subscribe(Family::Shard, false),
    subscribe(Family::Channel, false),
    subscribe(Family::Shard, true),
    row("swapdb").goes(Refused),
    row("sync").has(TakesOver),
    subscribe(Family::Channel, true),
    row("unwatch").transaction(Transaction::Unwatch, Effect::Watch),
    row("wait").goes(Replicas).has(Other),
    row("waitaof").goes(Replicas).has(Other),
    row("watch").transaction(Transaction::Watch, Effect::Watch),
    row("xread").waits(Block),
    row("xreadgroup").waits(Block),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found() {
        assert!(ROWS.windows(2).all(|pair| pair[0].name < pair[1].name), "in order, none twice");
        for row in ROWS {
            assert_eq!(Facts::of_name(row.name).name, row.name);
            let is_container = |name: &str| ROWS.iter().any(|row| row.name.starts_with(&format!("{name}|")));
            let rest = format!("{}|*", row.name);
            // A row of the command's own would else be taken for that of any subcommand without one.
            assert_eq!(is_container(row.name), ROWS.iter().any(|row| row.name == rest), "{rest}");
        }
    }

    #[test]
    fn names_are_found_as_typed() {
        let found =
            |line: &str| Facts::of_words(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>()).name;
        assert_eq!(found("Client ID"), "client|id");
        assert_eq!(found("CLIENT new-thing x"), "client|*");
        assert_eq!(found("client"), "", "only of its subcommands");
        assert_eq!(found("debug"), "debug");
        assert_eq!(found("debug sleep 0"), "debug|*");
        assert_eq!(found("script load x"), "", "nothing is known of it");
        assert_eq!(found("get client"), "");
        assert_eq!(found("xread block 0"), "xread");
        assert_eq!(found("select 1"), "select");
        assert_eq!(found("client|id"), "", "no name that can be typed");
        assert_eq!(found("client a-subcommand-of-a-length-that-no-row-has"), "client|*");
        assert_eq!(found("a-command-of-a-length-that-no-row-has"), "");
        assert_eq!(Facts::of_words(&[]).name, "");
    }
}
