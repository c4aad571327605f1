//! Which children are about to go to another process, and where the search for the next ones goes on. Owns that list; what
//! moves and when is `handover::give`'s.

use crate::core::keys::{ChildKey, LaneKey, UserId};

/// The subscriptions of one user that are about to go.
#[derive(Debug)]
pub(crate) struct MovingHub {
    pub(super) user: UserId,
    pub(super) lane: LaneKey,
    /// Who listens and has not been taken out.
    pub(super) listeners: Vec<ChildKey>,
}

#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// They run no further request. Some of them may have gone since.
    pub(super) moving: Vec<ChildKey>,
    /// Where among the children the search goes on.
    pub(super) next: usize,
    /// Children are to go: who could, and begins to listen, does so elsewhere.
    pub(super) is_under_way: bool,
    /// Those who wait for that.
    pub(super) held: Vec<ChildKey>,
    /// Subscriptions that are about to go.
    pub(super) hub: Option<MovingHub>,
    /// Their connection is not read.
    pub(super) is_still: bool,
    /// Those whose requests would have stood on it meanwhile.
    still_for: Vec<ChildKey>,
    /// It may be read again, for the driver.
    resumed: Option<LaneKey>,
    /// Users whose subscriptions could not be taken.
    pub(super) kept_hubs: Vec<UserId>,
}

impl Moves {
    /// Whether this connection is not read, since it is about to go.
    #[inline]
    pub(crate) fn is_stilled(&self, lane: LaneKey) -> bool {
        self.is_still && self.hub.as_ref().is_some_and(|hub| hub.lane == lane)
    }

    /// The child's request would stand on this connection: it waits until that has gone, or has come back.
    pub(crate) fn wait_while_stilled(&mut self, lane: LaneKey, child: ChildKey) -> bool {
        let waits = self.is_stilled(lane);
        if waits {
            self.still_for.push(child);
        }
        waits
    }

    /// The connection has gone, or is read again. Who has waited for that.
    pub(super) fn end_stillness(&mut self) -> Vec<ChildKey> {
        self.is_still = false;
        std::mem::take(&mut self.still_for)
    }

    /// Unless it is still.
    pub(super) fn let_read_on(&mut self) {
        if !self.is_still {
            self.resumed = self.hub.as_ref().map(|hub| hub.lane);
        }
    }

    pub(crate) fn take_resumed(&mut self, into: &mut Vec<LaneKey>) {
        into.extend(self.resumed.take());
    }
}
