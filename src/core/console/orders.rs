//! Commands of the console that the core cannot carry out itself: they are the driver's, or the program's around it. Owns
//! the line of those that nobody has taken yet, and how they are answered; never what they do.

use crate::core::keys::ChildKey;
use crate::resp::encode;
use std::collections::VecDeque;
use std::fmt;

/// What the driver is asked for.
#[derive(Clone, PartialEq, Eq)]
pub enum Order {
    /// Read the configuration again.
    Reload,
    /// Change one setting.
    Set {
        /// The key.
        key: String,
        /// Its new text, which may be a password.
        value: String,
    },
    /// Take back what `Set` has done to it.
    Unset {
        /// The key.
        key: String,
    },
    /// Move to another server.
    Upstream {
        /// Its URL, which may hold a password.
        url: String,
    },
    /// Take no further child, and end once all have been let go.
    Drain,
    /// End.
    Shutdown {
        /// Within `drain_timeout`, instead of at once.
        waits: bool,
    },
    /// Start a successor and hand everything over to it.
    Upgrade,
    /// Hand everything over to the process that asks.
    TakeOver {
        /// The number of the format that it reads.
        format: u64,
        /// Its version, for the log.
        version: String,
    },
}

/// Without what may be a password.
impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Order {
    /// The word it is asked for with.
    pub fn name(&self) -> &'static str {
        match self {
            Order::Reload => "RELOAD",
            Order::Set { .. } => "SET",
            Order::Unset { .. } => "UNSET",
            Order::Upstream { .. } => "UPSTREAM",
            Order::Drain => "DRAIN",
            Order::Shutdown { .. } => "SHUTDOWN",
            Order::Upgrade => "UPGRADE",
            Order::TakeOver { .. } => "TAKEOVER",
        }
    }
}

/// What became of an order: lines of text, none of which means OK; or why it was not carried out, and that nothing has changed.
pub type OrderOutcome = Result<Vec<String>, String>;

/// Orders that the driver has not taken.
#[derive(Debug, Default)]
pub(crate) struct Orders(VecDeque<(ChildKey, Order)>);

impl Orders {
    /// The child waits for the answer, so there is at most one of each.
    pub(crate) fn push(&mut self, asker: ChildKey, order: Order) {
        self.0.push_back((asker, order));
    }

    pub(crate) fn pop(&mut self) -> Option<(ChildKey, Order)> {
        self.0.pop_front()
    }
}

/// The reply that this outcome is.
pub(crate) fn frame_of(outcome: OrderOutcome) -> Vec<u8> {
    let mut frame = Vec::new();
    match outcome {
        Ok(lines) if lines.is_empty() => frame.extend_from_slice(b"+OK\r\n"),
        Ok(lines) => {
            encode::array_header(&mut frame, lines.len());
            lines.iter().for_each(|line| encode::bulk(&mut frame, line.as_bytes()));
        }
        Err(why) => encode::error(&mut frame, format!("ERR {why}")),
    }
    frame
}
