//! How long an argument the server takes: one that is longer closes the connection that carries it, and with it what
//! everybody else has on it. Asked for on connecting, and again before a request is refused here for it, since an
//! administrator may change it. Where CONFIG GET is refused nothing is known, and the server itself refuses.

use super::child::Child;
use super::control::{Control, Question};
use super::dispatch::Flow;
use super::fresh::Fresh;
use super::shared::Shared;
use crate::resp::{ProtocolError, Request, value};
use redis::Value;

/// What Redis reads an argument into has room for its CRLF too.
const CRLF: u64 = 2;

/// What was last heard.
#[derive(Debug)]
pub(super) struct UpstreamLimits {
    /// `proto-max-bulk-len` and `client-query-buffer-limit`, in bytes; `u64::MAX` where nothing is known.
    bulk: u64,
    query: u64,
    /// The lesser, as a bound on one argument.
    argument: u64,
    fresh: Fresh,
}

impl Default for UpstreamLimits {
    fn default() -> Self {
        let most = u64::MAX;
        UpstreamLimits { bulk: most, query: most, argument: most, fresh: Fresh::default() }
    }
}

impl UpstreamLimits {
    /// What `CONFIG GET` has answered; nothing is known after an error.
    fn take(&mut self, frame: &[u8]) {
        let pairs = value::parse(frame).and_then(value::pairs).unwrap_or_default();
        let number = |wanted: &str| {
            let of = |(name, number): &(Value, Value)| {
                let named = value::text(name).is_some_and(|name| name == wanted);
                named.then(|| value::text(number)?.parse::<u64>().ok()).flatten()
            };
            pairs.iter().find_map(of).filter(|number| *number > 0).unwrap_or(u64::MAX)
        };
        (self.bulk, self.query) = (number("proto-max-bulk-len"), number("client-query-buffer-limit"));
        self.argument = self.bulk.min(self.query.saturating_sub(CRLF));
    }
}

impl Control {
    fn fresh_limits(&mut self) -> &mut Fresh {
        &mut self.limits.fresh
    }
}

impl Shared {
    /// Asks for them, unless that is under way.
    pub(super) fn ask_upstream_limits(&mut self) {
        self.ask_fresh(Control::fresh_limits, Question::Limits);
    }

    /// They have come; or the connection was lost before.
    pub(super) fn upstream_limits_answered(&mut self, frame: Option<&[u8]>) {
        // A busy upstream says nothing of them: what was known still holds.
        if let Some(frame) = frame.filter(|frame| !frame.starts_with(b"-BUSY")) {
            self.control.limits.take(frame);
        }
        self.fresh_answered(Control::fresh_limits, frame.is_some(), None);
    }

    /// Whether a request has to be looked at for the length of its arguments.
    pub(super) fn may_be_too_long(&self, request: &Request<'_>) -> bool {
        request.bytes.len() as u64 > self.control.limits.argument
    }

    /// A request with an argument that the server would not take is answered here as the server would answer it.
    /// None: it may go on.
    pub(super) fn refuse_too_long(&mut self, child: &mut Child, request: &Request<'_>) -> Option<Flow> {
        if !self.may_be_too_long(request) {
            return None;
        }
        let limit = self.control.limits.argument;
        let longest = request.args().map(|arg| arg.len() as u64).max().unwrap_or(0);
        if longest <= limit {
            return None;
        }
        if let Err(flow) = self.await_fresh(child, Control::fresh_limits, Question::Limits) {
            return Some(flow);
        }
        let known = &self.control.limits;
        let (name, bytes) = if longest > known.bulk {
            ("proto-max-bulk-len", known.bulk)
        } else {
            ("client-query-buffer-limit", known.query)
        };
        let label = child.label();
        log::warn!("closing child {label}: an argument of {longest} bytes, the server's {name} is {bytes}");
        if longest > known.bulk {
            self.answer(child, &ProtocolError::InvalidBulkLength.reply());
        } else {
            // Redis closes without a word.
            self.answer_error(child, format!("ERR Protocol error: the server's {name} is {bytes} bytes"));
        }
        self.finish_at_request(child);
        Some(Flow::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lesser_of_the_two_bounds_an_argument() {
        let mut known = UpstreamLimits::default();
        known.take(b"%2\r\n$18\r\nproto-max-bulk-len\r\n$3\r\n100\r\n$25\r\nclient-query-buffer-limit\r\n$3\r\n101\r\n");
        assert_eq!((known.bulk, known.query, known.argument), (100, 101, 99));
        known.take(b"%1\r\n$18\r\nproto-max-bulk-len\r\n$3\r\n100\r\n");
        assert_eq!(known.argument, 100);
        for nothing in
            [&b"-NOPERM this user\r\n"[..], b"%0\r\n", b"%1\r\n$18\r\nproto-max-bulk-len\r\n$1\r\nx\r\n"]
        {
            known.take(nothing);
            assert!(known.argument > u64::from(u32::MAX), "{nothing:?}");
        }
    }
}
