//! Notices: what one child's request, or an event of a lane, means for other children. They are delivered when the event
//! at hand is done with the child it is about (`core::deliver`). Plain data.

use crate::base::failure::Failure;
use crate::command::{CommandId, Renumbering};
use crate::core::child::hold::{Answer, HeldLease, Hold};
use crate::core::connection::slot::Slot;
use crate::core::keys::{ChildKey, LaneKey, LeaseKind, TopicKey};
use crate::core::questions::probe::{Asker, ProofAbout, ProofVerdict};

#[derive(Debug)]
pub(crate) enum Notice {
    /// Nothing is told to a child that has ended meanwhile.
    Child(ChildKey, ChildNotice),
    /// The requests in these slots have failed.
    Failed { lane: LaneKey, slots: std::vec::IntoIter<Slot>, failure: Failure },
    /// The upstream has answered a question about a child as a user.
    Proved(Asker, ProofAbout, ProofVerdict),
    /// The child ends at once.
    Close(ChildKey),
    /// A topic's listeners end, since it is refused now.
    TopicRefused(TopicKey),
    /// The upstream has ended a subscription itself.
    TopicMoved(TopicKey),
    /// A lane that others share was lost with these requests on it.
    SharedLaneLost(Vec<(ChildKey, CommandId)>),
    /// Commands have other numbers now.
    TableChanged(Renumbering),
    /// A lane can serve no request any more.
    LoseLane(LaneKey, &'static str),
}

#[derive(Debug)]
pub(crate) enum ChildNotice {
    /// Its request at the front is looked at afresh, if this is still what it waits for.
    Lift(Hold),
    /// The upstream has answered a question about its request at the front, or never will.
    Answer(Option<Answer>),
    /// This has become of what it has asked for on the console.
    Ordered(Vec<u8>),
    /// It has come to the head of a lease queue.
    Lent(HeldLease),
    /// This is the answer to what it waits for in its group.
    Served(Vec<u8>),
    /// What it waits for in its group will not come.
    WaitFailed { failure: Failure, writes: bool },
    /// There is room for so many more bytes of its request; it holds this ticket.
    Admitted { ticket: u64, more: usize },
    /// A reply that was overdue will not come any more.
    Overdue,
    /// A reply is overdue, and it is about to be told so.
    Late,
    /// A lane that others share was lost, perhaps because of a request of this command.
    KeepApart(CommandId),
    /// The lane it had to itself is gone.
    LeaseLost { kind: LeaseKind, watching: bool },
    /// The upstream has refused what its request at the front names, for the fence of this number.
    JoinRefused(u64, Vec<u8>),
    /// The upstream has been replaced under it: it ends when it has its replies.
    Finish,
}
