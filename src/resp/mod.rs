//! The Redis protocol as bytes: where a request or a reply begins and ends, and how to write one.
//! Nothing here knows a command, a socket or the clock, and nothing here interprets a value.
//!
//! Both scanners share one contract. They get the bytes from the start of a frame. After `NeedMore` they get
//! the same bytes again, with more behind them, and continue where they stopped.

pub mod encode;
pub mod frame;
pub mod inbox;
pub mod inline;
pub mod reply;
pub mod tree;
pub mod value;

pub use frame::{ArgRange, FrameLimits, ProtocolError, Request, Scan, Scanner};
pub use inbox::{Frames, Inbox, SharedScanner};
pub use reply::{ReplyScan, ReplyScanner};
pub use tree::Tree;

/// What an inbox asks of a scanner, whatever that finds.
pub trait FrameScanner: Default {
    /// Whether a default one would go on as well: it is not inside a frame.
    fn is_idle(&self) -> bool;

    /// Heap bytes held.
    fn footprint(&self) -> usize;
}

#[cfg(test)]
pub(crate) mod tests;
