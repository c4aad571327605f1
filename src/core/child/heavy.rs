//! Large requests and replies, kept off the lanes that small ones share: while a megabyte passes, nothing behind it
//! does. Each pool has one more shared lane for them. Owns who goes there; what travels on it is as on any other.

use crate::base::limits;
use crate::command::CommandId;
use crate::core::child::Child;

/// A child's command that was answered at length, or late: the next ones are expected to be, too.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct Heavy {
    pub(in crate::core) command: CommandId,
    /// So many short replies in a row, and it is no longer expected.
    pub(in crate::core) patience: u8,
}

impl Child {
    /// Looks at the length of a reply to `command`.
    pub(in crate::core) fn weigh(&mut self, command: CommandId, reply: usize) {
        if reply >= limits::BULK_MIN {
            self.heavy = Some(Heavy { command, patience: limits::BULK_PATIENCE });
        } else if let Some(heavy) = self.heavy.as_mut().filter(|heavy| heavy.command == command) {
            heavy.patience -= 1;
            if heavy.patience == 0 {
                self.heavy = None;
            }
        }
    }

    /// A command has kept the upstream from everything else for long.
    pub(in crate::core) fn expect_long(&mut self, command: CommandId) {
        self.heavy = Some(Heavy { command, patience: limits::BULK_PATIENCE });
    }

    /// Whether a request of `len` bytes, or the reply to it, will take long to pass.
    pub(in crate::core) fn is_bulky(&self, command: CommandId, len: usize) -> bool {
        len >= limits::BULK_MIN || self.heavy.is_some_and(|heavy| heavy.command == command)
    }
}
