//! What becomes of a request: the values that the ways of a request hand back. Decides nothing.

use crate::command::{CommandId, Route};
use crate::core::child::hold::Hold;
use crate::resp::Request;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Answered or on its way.
    Done,
    /// So are the requests in the next so many bytes.
    DoneThrough(usize),
    /// It stays where it is and is looked at again when the reason has gone.
    Hold(Hold),
    /// A part of it is done, and the child's turn is over; it is looked at again in the next.
    More,
    /// It is about other children, and the broker runs it.
    Roster(Roster),
    Gone,
}

/// What only the broker can run, since it is about other children too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Roster {
    List,
    Kill,
    Unblock,
    /// An EXEC whose reply is filled in.
    Exec,
    /// A command of the console.
    Console,
}

/// What became of a request that found what it needs, or did not.
pub(crate) type FlowResult = Result<Flow, Flow>;

/// The request at hand and what the table knows of it, without the borrow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decided<'r> {
    pub(crate) request: &'r Request<'r>,
    pub(crate) id: CommandId,
    pub(crate) no_multi: bool,
    pub(crate) route: Route,
}

/// An integer as Redis' `string2ll` takes it: no sign but `-`, no leading zero, no space.
pub(crate) fn canonical_int(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_as_redis_takes_them() {
        for (text, number) in [("0", 0), ("-1", -1), ("15", 15)] {
            assert_eq!(canonical_int(text.as_bytes()), Some(number), "{text}");
        }
        for text in ["01", "+1", "-0", "", "9223372036854775808"] {
            assert_eq!(canonical_int(text.as_bytes()), None, "{text}");
        }
    }
}
