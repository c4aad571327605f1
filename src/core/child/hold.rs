//! A child: a process's connection to the broker, without the connection. Owns the child's queues, its
//! session and its place in every line it stands in; never touches a socket and never looks at the clock.

use crate::base::clock::Millis;
use crate::command::Popped;
use crate::core::keys::LaneKey;
use crate::core::keys::LeaseKind;

/// Why the child's next request has to wait. The request stays in the child's input, and is looked at
/// afresh when the reason has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum Hold {
    /// Nothing in the way.
    None,
    /// `child_in_flight_max` requests are upstream.
    InFlight,
    /// The next request may only run after every earlier one was answered: it goes another way.
    Drained,
    /// The child must take replies first.
    Output,
    /// The lane it uses owes its socket too much; listed in that lane's `held`.
    Lane,
    /// Waits in a lease queue.
    Lease,
    /// The lane of its last write is blocked, for another child's WAIT or another tenant.
    WaitLane,
    /// The request at the front runs on a leased lane and nothing may follow it before its reply.
    Blocked,
    /// As `Blocked`, and what it waits for is an element or a message that may never come.
    Element,
    /// The control connection was asked something on its behalf.
    Answer,
    /// Only a living upstream can tell the answer.
    Upstream,
    /// The connection for subscriptions has to answer first.
    Topics,
    /// Its password is not looked at yet, since others from there were wrong.
    Guess,
}

/// What the control connection said about the request at the front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::core) enum Answer {
    /// The upstream does not know this command either.
    UnknownCommand,
    /// What the upstream said is the answer.
    Frame(Vec<u8>),
}

/// A place in a lease queue, or the memory of having stood there: kept until the request is done.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct Wait {
    /// The line.
    pub kind: LeaseKind,
    /// Its number in the line; kept when a lease is taken back, so that nobody overtakes.
    pub ticket: u64,
    /// When the request was first looked at: a blocking command's own timeout counts from here.
    pub arrived: Millis,
    /// When the present wait began: `lease_wait_timeout` counts from here.
    pub since: Millis,
    /// When the request's own timeout passes, if it has one.
    pub expires: Option<Millis>,
    /// It has passed without a lease.
    pub in_vain: bool,
    /// What the reply is to the request that does not wait, once that is on its way.
    pub popped: Popped,
}

impl Wait {
    /// One that begins now.
    pub(in crate::core) fn new(kind: LeaseKind, now: Millis) -> Self {
        let popped = Popped::AsItIs;
        Wait { kind, ticket: 0, arrived: now, since: now, expires: None, in_vain: false, popped }
    }
}

/// The leased lane a child holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) struct HeldLease {
    /// The lane.
    pub lane: LaneKey,
    /// What it was taken for.
    pub kind: LeaseKind,
}
