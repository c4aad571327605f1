//! The classes a request can fall into and the decision which one it is. One hash lookup for most
//! requests, two for subcommands. Owns no table and never looks at keys.

use super::blocking;
use super::facts::{Facts, TimeoutAt};
use super::flags::Flag;
use super::policy::Base;
use super::table::{CommandId, Entry, Table};
use super::texts;
use crate::resp::Request;

/// What the table says about a request.
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'t> {
    /// The name is neither in the table nor learned. Must not reach a lane before `COMMAND INFO` of the
    /// name was asked and `Table::learn` told: it may be a renamed SELECT.
    Unknown,
    /// A known container without this subcommand.
    UnknownSubcommand,
    /// A command of the upstream.
    Known(Known<'t>),
    /// A name Redis takes for an HTTP attack: it closes the connection without a reply.
    Hangup,
}

/// A command of the upstream and the way it must go.
#[derive(Clone, Copy, Debug)]
pub struct Known<'t> {
    /// Position in the table.
    pub id: CommandId,
    /// Full canonical name in lower case, `client|id`, for arity errors too, whatever name was typed.
    pub name: &'t str,
    /// Whether the number of arguments fits. If not, `route` has no meaning: the answer is `texts::wrong_arity`.
    pub arity_ok: bool,
    /// Redis refuses it inside MULTI.
    pub no_multi: bool,
    /// Where it goes.
    pub route: Route,
}

/// What a script that a command runs may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// It runs none.
    Nothing,
    /// Commands that are not flagged as writes.
    Reads,
    /// Whatever is not flagged `noscript`.
    Anything,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Leaves no trace on a connection: any shared lane.
    Shared,
    /// Answered by the broker from the child's virtual state.
    Local(Local),
    /// Drives the child's transaction.
    Transaction(Transaction),
    /// A leased lane until the reply, which may take as long as the request's own timeout.
    Blocking(Blocking),
    /// A leased lane until the reply; the request has no timeout argument.
    Dedicated,
    /// The lane that carried the child's last write, until enough replicas have it.
    Replicas,
    /// Changes the child's subscriptions.
    Subscribe(Subscribe),
    /// Its reply counts who listens, and leaves no trace on a connection.
    Count(Count),
    /// Changes the connection it runs on: from then on the child has one to itself.
    Pin(Pin),
    /// Has to overtake what runs on the lanes, so it goes on the control connection.
    Control,
    /// Not allowed through a shared broker.
    Refused,
}

impl Route {
    /// How a request is carried out, in a word.
    pub(super) fn way_name(self) -> &'static str {
        match self {
            Route::Shared => "shared",
            Route::Local(_) => "local",
            Route::Transaction(_) => "transaction",
            Route::Blocking(_) | Route::Dedicated | Route::Pin(_) => "lease",
            Route::Replicas => "replicas",
            Route::Subscribe(_) | Route::Count(_) => "subscribe",
            Route::Control => "control",
            Route::Refused => "refused",
        }
    }
}

/// Commands the broker answers itself.
#[allow(missing_docs)] // Each is named after its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    Ping,
    /// PING of a RESP2 subscriber, which the upstream answers and the broker puts into another form.
    SubscriberPing,
    Echo,
    Quit,
    Select,
    Hello,
    Reset,
    Auth,
    ClientId,
    ClientSetname,
    ClientGetname,
    ClientSetinfo,
    ClientInfo,
    ClientNoEvict,
    ClientReply,
    ClientList,
    ClientKill,
    ClientUnblock,
    ClientGetredir,
    ClientTrackinginfo,
    ClientCaching,
    ClientNoTouch,
    ClientCapa,
    Asking,
    Readonly,
    Readwrite,
    /// ACL WHOAMI of a user that only the broker knows.
    Whoami,
    /// A subcommand that a server older than Redis 7.0 does not have, or not with these arguments: it says so when it is run.
    NoSubcommand,
}

/// Commands that open, fill or end a transaction.
#[allow(missing_docs)] // Each is named after its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
}

/// What a child has changed about its connection.
#[allow(missing_docs)] // Each is named after its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    Tracking,
    ImportSource,
    Monitor,
}

/// Where a blocking request carries its timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// Index of the timeout among the arguments; within the request.
    pub timeout: usize,
    /// How it is written.
    pub unit: TimeoutUnit,
}

/// How a blocking request writes its timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeoutUnit {
    /// Seconds, with a fraction.
    Seconds,
    /// Whole milliseconds.
    Millis,
}

/// One of the six subscription commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Which set of subscriptions.
    pub family: Family,
    /// Whether it leaves the set instead of joining it.
    pub leave: bool,
}

/// A command whose reply counts listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Which names it counts them by: channels or shard channels.
    pub family: Family,
    /// Whether it publishes to the one channel that it names. Else it asks about all that it names.
    pub publishes: bool,
}

/// The three independent sets of subscriptions of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// SUBSCRIBE and UNSUBSCRIBE.
    Channel,
    /// PSUBSCRIBE and PUNSUBSCRIBE.
    Pattern,
    /// SSUBSCRIBE and SUNSUBSCRIBE.
    Shard,
}

impl Subscribe {
    /// The name of the command, and of what confirms it.
    pub const fn name(self) -> &'static str {
        match (self.family, self.leave) {
            (Family::Channel, false) => "subscribe",
            (Family::Channel, true) => "unsubscribe",
            (Family::Pattern, false) => "psubscribe",
            (Family::Pattern, true) => "punsubscribe",
            (Family::Shard, false) => "ssubscribe",
            (Family::Shard, true) => "sunsubscribe",
        }
    }

    /// The command of that name.
    pub fn of_name(name: &[u8]) -> Option<Subscribe> {
        match Facts::of_words(&[name]).route {
            Some(Route::Subscribe(change)) => Some(change),
            _ => None,
        }
    }
}

impl Table {
    /// Decides what to do with a request. Never allocates.
    pub fn classify<'t>(&'t self, request: &Request<'_>) -> Verdict<'t> {
        let typed = request.arg(0);
        let Some((id, entry)) = self.find(typed) else {
            return if texts::hangs_up(typed) { Verdict::Hangup } else { Verdict::Unknown };
        };
        let Some(subcommands) = entry.subcommands.as_ref().filter(|_| request.argc() > 1) else {
            return Verdict::Known(known(id, entry, request));
        };
        let found = self.find_in(subcommands, request.arg(1));
        let found = found.map(|(id, entry)| known(id, entry, request));
        match found {
            _ if self.is_before_7() => judge_before_7(found, (id, entry), request),
            Some(known) => Verdict::Known(known),
            None => Verdict::UnknownSubcommand,
        }
    }
}

/// Containers of which no subcommand, whichever an old release has, does anything to its connection or to others. CLUSTER does
/// nothing at all where there is no cluster.
const HARMLESS: [&str; 9] =
    ["cluster", "command", "latency", "memory", "object", "pubsub", "slowlog", "xgroup", "xinfo"];

/// Before Redis 7.0 a container itself says what is wrong with a subcommand, when it is run. So where that does no harm it is
/// asked.
fn judge_before_7<'t>(
    found: Option<Known<'t>>,
    (id, container): (CommandId, &'t Entry),
    request: &Request<'_>,
) -> Verdict<'t> {
    match found {
        Some(known) if known.arity_ok => Verdict::Known(known),
        _ if HARMLESS.contains(&&*container.name) => Verdict::Known(Known {
            id,
            name: &container.name,
            arity_ok: container.accepts(request.argc()),
            no_multi: false,
            route: Route::Shared,
        }),
        _ => Verdict::Known(Known {
            id,
            name: &container.name,
            arity_ok: true,
            no_multi: false,
            route: Route::Local(Local::NoSubcommand),
        }),
    }
}

#[inline(always)]
fn known<'t>(id: CommandId, entry: &'t Entry, request: &Request<'_>) -> Known<'t> {
    let arity_ok = entry.accepts(request.argc());
    let route = match entry.base {
        Base::Fixed(route) => route,
        // Redis answers a wrong arity at once, so nothing would block.
        _ if !arity_ok => Route::Shared,
        Base::Waits(TimeoutAt::First) => Route::Blocking(Blocking { timeout: 1, unit: TimeoutUnit::Seconds }),
        Base::Waits(TimeoutAt::Last) => {
            Route::Blocking(Blocking { timeout: request.argc() - 1, unit: TimeoutUnit::Seconds })
        }
        Base::Waits(TimeoutAt::Block) => {
            blocking::stream_block(|index| request.get(index)).map_or(Route::Shared, Route::Blocking)
        }
    };
    let no_multi = entry.flags.has(Flag::NoMulti);
    Known { id, name: &entry.name, arity_ok, no_multi, route }
}
