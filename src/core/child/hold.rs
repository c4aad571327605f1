//! Why a child's next request waits, and what it waits with: its place in a lease queue, its lease. Data only; the rules
//! are in `request` and `lease`.

use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::core::keys::{GroupKey, LaneKey, LeaseKind};

/// Why the child's next request has to wait. The request stays in the child's input, and is looked at
/// afresh when the reason has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Hold {
    #[default]
    None,
    /// As many of its requests are upstream as may be: `child_in_flight_max`, what its replies leave room for, or its share of
    /// a deep lane.
    InFlightMax,
    /// Its earlier requests must be answered first: this one goes another way.
    OwnReplies,
    /// It must take replies first.
    OutputFull,
    /// The lane's socket must take bytes first. The child is listed in that lane's `held`.
    LaneFull,
    LeaseQueue,
    /// An element, with others that wait for the same.
    Element,
    /// The lane of its last write is blocked by another child's WAIT, or leased.
    WriteLane,
    /// The request at the front is upstream, and nothing may follow it before its reply.
    Reply,
    /// As `Reply`, for a request that may block for as long as it likes.
    BlockingReply,
    /// The upstream was asked a question about the request at the front.
    Question,
    /// Only a connected upstream can answer.
    Upstream,
    /// The connection for subscriptions must answer first.
    Subscription,
    /// Its request has come in part, and there is no room for the rest.
    Intake,
    /// Its password is not checked yet, since others from the same source were wrong.
    AuthDelay,
    /// The broker is paused.
    Paused,
    /// It begins to listen, and the connection for that is elsewhere: it follows.
    Moving,
    /// The driver was asked to carry it out, or a pause has to begin.
    Order,
    /// It has asked for a drain, and is let go last.
    Drain,
}

/// What the control connection said about the request at the front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The upstream does not know this command either.
    UnknownCommand,
    Frame(Vec<u8>),
}

/// A place in a lease queue or in a group, or the memory of having stood there: kept until the request is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    pub kind: LeaseKind,
    /// Its number in the line, or in its group.
    pub ticket: u64,
    /// When the request was first looked at.
    pub arrived: Millis,
    /// When the present wait began: `lease_wait_timeout` counts from here.
    pub since: Millis,
    /// The group in which it waits for an element; none otherwise.
    pub group: GroupKey,
    /// It has waited in another process, and its place there counts here. Its own time ends then.
    pub moved: Option<Millis>,
}

impl Wait {
    pub(crate) fn new(kind: LeaseKind, now: Millis) -> Self {
        Wait { kind, ticket: 0, arrived: now, since: now, group: Key::NONE, moved: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeldLease {
    pub lane: LaneKey,
    pub kind: LeaseKind,
}
