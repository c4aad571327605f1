//! What a request is and what to do with it: the upstream's own command table, our static rules on top
//! of it, and the exact texts of the errors the broker answers in Redis' place. Never sends anything.

pub mod texts;

mod blocking;
mod builtin;
mod classify;
mod facts;
mod flags;
mod names;
mod policy;
mod table;

pub use blocking::{WaitRequest, timeout_ms};
pub use classify::{
    Blocking, Count, Family, Known, Local, Pin, Route, Runs, Subscribe, TimeoutUnit, Transaction, Verdict,
};
pub use facts::{Effect, Facts, Setting};
pub use policy::{Policy, is_never_allowed};
pub(crate) use table::Renumbering;
pub use table::{CommandId, NO_COMMAND, Table};

/// A request as the scanner would hand it over, for the tests of this room.
#[cfg(test)]
pub(crate) fn with_request<T>(args: &[&[u8]], use_it: impl FnOnce(&crate::resp::Request<'_>) -> T) -> T {
    let mut bytes = Vec::new();
    let mut ranges = Vec::new();
    for arg in args {
        let start = bytes.len() as u32;
        bytes.extend_from_slice(arg);
        ranges.push((start, bytes.len() as u32));
    }
    use_it(&crate::resp::Request::new(&bytes, &ranges))
}
