//! What a child has upstream: how many requests, and how many there may be, on which shared lane, what its last write went
//! on, and which command of it is expected to take long. Owns these alone; the requests are the lanes', and the rules of WAIT
//! are in `request::wait`.

use crate::base::limits;
use crate::command::{CommandId, NO_COMMAND, Renumbering};
use crate::core::child::window::Window;
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
    window: Window,
    /// The command that was answered at length, or late: its next replies are expected to be, too.
    heavy: Expected,
    /// The command that was answered late, perhaps because of another: once more, and it is `heavy`.
    blamed: Expected,
    /// The command with which a lane was lost, perhaps because of it: its next ones have a lane to themselves.
    apart: Expected,
}

/// Something that is expected of the next requests of a command.
#[derive(Debug, Clone, Copy)]
struct Expected {
    /// `NO_COMMAND`: it is expected of none.
    command: CommandId,
    /// So many short replies in a row, and it is no longer expected.
    patience: u16,
}

impl Expected {
    fn renumber(&mut self, renumbering: &Renumbering) {
        match renumbering.of(self.command) {
            NO_COMMAND => *self = Expected::default(),
            command => self.command = command,
        }
    }
}

impl Default for Expected {
    fn default() -> Self {
        Expected { command: NO_COMMAND, patience: 0 }
    }
}

impl Expected {
    fn note_short(&mut self, command: CommandId) {
        if self.command == command && self.patience > 0 {
            self.patience -= 1;
        }
        if self.patience == 0 {
            *self = Expected::default();
        }
    }
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

    /// How many requests may be in flight on a lane that others share.
    #[inline]
    pub(crate) fn window(&self) -> u32 {
        self.window.open()
    }

    /// Whether no more is known of its replies than of a child that has just come.
    #[inline]
    pub(crate) fn is_new(&self) -> bool {
        self.window.is_first()
    }

    /// As many may be in flight as another process has found out.
    pub(crate) fn set_window(&mut self, open: u32) {
        self.window = Window::opened(open);
    }

    /// Orders children by how much is known of their replies.
    pub(super) fn known_replies(&self) -> (u32, u32) {
        (self.window.open(), self.window.counted())
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

    #[inline]
    pub(crate) fn weigh(&mut self, command: CommandId, reply_len: usize) {
        let small = self.window.note_small(reply_len);
        if !small || (self.heavy.patience | self.blamed.patience | self.apart.patience) > 0 {
            self.weigh_closely(command, reply_len, small);
        }
    }

    #[inline(never)]
    fn weigh_closely(&mut self, command: CommandId, reply_len: usize, small: bool) {
        if !small {
            self.window.shrink(reply_len);
        }
        if reply_len >= limits::BULK_MIN {
            return self.expect_heavy(command);
        }
        self.heavy.note_short(command);
        self.blamed.note_short(command);
        self.apart.note_short(command);
    }

    pub(crate) fn expect_heavy(&mut self, command: CommandId) {
        self.heavy = Expected { command, patience: limits::BULK_PATIENCE };
    }

    /// Its reply was late, and the upstream may have been at work for others meanwhile.
    pub(crate) fn blame(&mut self, command: CommandId) {
        if self.heavy.command == command || self.blamed.command == command {
            return self.expect_heavy(command);
        }
        self.blamed = Expected { command, patience: limits::BULK_PATIENCE };
    }

    /// A lane was lost that carried this command, which may be why. One short reply shows that it is not.
    pub(crate) fn suspect(&mut self, command: CommandId) {
        if !self.goes_apart(command) {
            self.apart = Expected { command, patience: 1 };
        }
    }

    /// A lane was lost that carried nothing but this command.
    pub(crate) fn convict(&mut self, command: CommandId) {
        self.apart = Expected { command, patience: limits::APART_PATIENCE };
    }

    /// Commands have other numbers now.
    pub(super) fn renumber_commands(&mut self, renumbering: &Renumbering) {
        for expected in [&mut self.heavy, &mut self.blamed, &mut self.apart] {
            expected.renumber(renumbering);
        }
    }

    /// Whether a request of `len` bytes, or the reply to it, will take long to pass.
    #[inline]
    pub(crate) fn expects_heavy(&self, command: CommandId, len: usize) -> bool {
        len >= limits::BULK_MIN || self.heavy.command == command
    }

    /// Whether a request of this command is to have a lane to itself.
    #[inline]
    pub(crate) fn goes_apart(&self, command: CommandId) -> bool {
        self.apart.command == command
    }
}
