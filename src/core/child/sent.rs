//! What a child has upstream: how many requests, on which shared lane, what its last write went on, and which command of it
//! is expected to take long. Owns these alone; the requests are the lanes', and the rules of WAIT are in `request::wait`.

use crate::base::limits;
use crate::command::CommandId;
use crate::core::keys::LaneKey;

/// Which connection a child's last write went on: WAIT and WAITAOF count the replicas that have what their own connection
/// wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum LastWrite {
    #[default]
    None,
    /// On this lane, while it had lost so many connections.
    On(LaneKey, u32),
    /// Perhaps executed, on a connection that is gone.
    Lost,
}

#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Slots in lanes that are this child's, seen by it or swallowed.
    in_flight: u32,
    /// Slots whose reply is overdue and was told so: until it has come, nothing may overtake what it answers.
    late: u32,
    /// The shared lane of the requests in flight, or of the last ones. Kept until they are answered.
    lane: LaneKey,
    last_write: LastWrite,
    /// The command that was answered at length, or late: its next replies are expected to be, too.
    heavy: Option<CommandId>,
    /// So many short replies in a row, and it is no longer expected.
    patience: u8,
}

impl Sent {
    pub(crate) fn begin(&mut self) {
        self.in_flight += 1;
    }

    pub(crate) fn begin_many(&mut self, count: usize) {
        self.in_flight += count as u32;
    }

    pub(crate) fn end(&mut self) {
        self.in_flight -= 1;
    }

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

    pub(crate) fn lane(&self) -> LaneKey {
        self.lane
    }

    pub(crate) fn set_lane(&mut self, lane: LaneKey) {
        self.lane = lane;
    }

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

    pub(crate) fn weigh(&mut self, command: CommandId, reply_len: usize) {
        if reply_len >= limits::BULK_MIN {
            self.expect_heavy(command);
        } else if self.heavy == Some(command) {
            self.patience -= 1;
            if self.patience == 0 {
                self.heavy = None;
            }
        }
    }

    pub(crate) fn expect_heavy(&mut self, command: CommandId) {
        (self.heavy, self.patience) = (Some(command), limits::BULK_PATIENCE);
    }

    /// Whether a request of `len` bytes, or the reply to it, will take long to pass.
    pub(crate) fn expects_heavy(&self, command: CommandId, len: usize) -> bool {
        len >= limits::BULK_MIN || self.heavy == Some(command)
    }
}
