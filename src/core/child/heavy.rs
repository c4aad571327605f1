//! Which command of a child is expected to take long: its replies were large of late, or late. Owns that expectation;
//! `connection` owns the lane it leads to.

use crate::base::limits;
use crate::command::CommandId;

/// The command that was answered at length, or late, if there is one: its next replies are expected to be, too.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Heavy {
    command: Option<CommandId>,
    /// So many short replies in a row, and it is no longer expected.
    patience: u8,
}

impl Heavy {
    /// Takes the length of a reply to `command` into account.
    pub(crate) fn weigh(&mut self, command: CommandId, reply_len: usize) {
        if reply_len >= limits::BULK_MIN {
            self.expect(command);
        } else if self.command == Some(command) {
            self.patience -= 1;
            if self.patience == 0 {
                self.command = None;
            }
        }
    }

    /// The replies to `command` are expected to be long or late.
    pub(crate) fn expect(&mut self, command: CommandId) {
        *self = Heavy { command: Some(command), patience: limits::BULK_PATIENCE };
    }

    /// Whether a request of `len` bytes, or the reply to it, will take long to pass.
    pub(crate) fn expects(&self, command: CommandId, len: usize) -> bool {
        len >= limits::BULK_MIN || self.command == Some(command)
    }
}
