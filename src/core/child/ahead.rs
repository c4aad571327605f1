//! How far a child is read ahead of what may run. Clients write a whole pipeline before they read a reply: such a child
//! is in the middle of a write, and takes nothing before somebody has read that. Decides who is read on, how far, and
//! what is told beyond; never runs a request.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::core::child::Child;
use crate::core::child::ChildKind;
use crate::core::child::ChildState;
use crate::core::child::hold::Hold;

/// How far a child that takes no replies is read, and since when it has taken none.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct ReadAhead {
    /// Bytes of requests it may have waiting.
    pub(in crate::core) bound: usize,
    /// When it is looked at again; none while it is below the bound.
    pub(in crate::core) due: Option<Millis>,
    /// Bytes it had taken when it was last looked at.
    pub(in crate::core) taken: u64,
}

impl Default for ReadAhead {
    fn default() -> Self {
        ReadAhead { bound: limits::CHILD_READ_AHEAD, due: None, taken: 0 }
    }
}

impl Child {
    /// Whether it may be read now.
    pub(in crate::core) fn wants_read(&self) -> bool {
        // One that has enough to run for its next turn is read when it has had it.
        let has_enough = self.runnable && self.input.len() >= limits::READ_TURN;
        self.takes_bytes() && (self.state != ChildState::Open || self.hold != Hold::None || !has_enough)
    }

    /// Whether bytes of it could be of use at all, however much it has to run.
    pub(in crate::core) fn takes_bytes(&self) -> bool {
        match (self.state, self.hold) {
            // Nobody runs what it still sends. But it has to get rid of it before it can read what it was told.
            (ChildState::Finishing, _) => self.deaf || self.kind != ChildKind::Local,
            (ChildState::Ending | ChildState::Closed, _) => false,
            (ChildState::Open, Hold::None) => true,
            (ChildState::Open, Hold::Output) => self.input.len() < self.ahead.bound,
            // Whoever it waits for may wait for the end of its write.
            (ChildState::Open, Hold::Element) => self.kind != ChildKind::Local,
            // These end by themselves: by a reply that is on its way, or in time.
            (ChildState::Open, _) => false,
        }
    }
}
