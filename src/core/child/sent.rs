//! What a child has upstream: how many requests, on which shared lane, and what its last write went on. Owns these counts
//! alone; the requests are the lanes'.

use crate::base::key::Key;
use crate::core::child::heavy::Heavy;
use crate::core::child::last_write::LastWrite;
use crate::core::keys::LaneKey;

/// A child's requests upstream.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Slots in lanes that are this child's, seen by it or swallowed.
    in_flight: u32,
    /// Slots whose reply is overdue and was told so: until it has come, nothing may overtake what it answers.
    late: u32,
    /// The shared lane its requests in flight are on. Kept until they are answered.
    lane: LaneKey,
    last_write: LastWrite,
    heavy: Heavy,
}

impl Sent {
    pub(super) fn new() -> Self {
        Sent { in_flight: 0, late: 0, lane: Key::NONE, last_write: LastWrite::None, heavy: Heavy::default() }
    }

    /// A request has been put on a lane.
    pub(crate) fn begin(&mut self) {
        self.in_flight += 1;
    }

    /// One of them is answered, or will not be.
    pub(crate) fn end(&mut self) {
        self.in_flight -= 1;
    }

    /// How many are not.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// A reply is overdue. Its request is about to be answered without it.
    pub(crate) fn begin_late(&mut self) {
        self.late += 1;
    }

    /// An overdue reply has come, or will not come any more.
    pub(crate) fn end_late(&mut self) {
        self.late -= 1;
    }

    pub(crate) fn has_late(&self) -> bool {
        self.late > 0
    }

    /// Whether a lane still carries requests of it, so that the next one must go the same way or wait.
    pub(crate) fn is_under_way(&self) -> bool {
        self.in_flight > 0 || self.late > 0
    }

    /// The shared lane of the requests in flight, or of the last ones.
    pub(crate) fn lane(&self) -> LaneKey {
        self.lane
    }

    pub(crate) fn set_lane(&mut self, lane: LaneKey) {
        self.lane = lane;
    }

    /// What a WAIT would be about.
    pub(crate) fn last_write(&self) -> LastWrite {
        self.last_write
    }

    pub(crate) fn set_last_write(&mut self, write: LastWrite) {
        self.last_write = write;
    }

    /// Whatever it has written cannot be waited for any more.
    pub(crate) fn lose_writes(&mut self) {
        if self.last_write != LastWrite::None {
            self.last_write = LastWrite::Lost;
        }
    }

    /// The command whose replies have been large of late.
    pub(crate) fn heavy(&self) -> &Heavy {
        &self.heavy
    }

    pub(crate) fn heavy_mut(&mut self) -> &mut Heavy {
        &mut self.heavy
    }
}
