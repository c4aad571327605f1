//! How long an argument the server takes: one that is longer closes the connection that carries it, and with it what
//! everybody else has on it. Asked for on connecting, and again before a request is refused here for it, since an
//! administrator may change it. Where CONFIG GET is refused nothing is known, and the server itself refuses.

use crate::core::child::Child;
use crate::core::questions::control::Control;
use crate::core::questions::control::Question;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::resp::ProtocolError;
use crate::resp::Request;

impl Shared {
    /// Asks for them, unless that is under way.
    pub(in crate::core) fn ask_upstream_limits(&mut self) {
        self.ask_fresh(Control::fresh_limits, Question::Limits);
    }

    /// They have come; or the connection was lost before.
    pub(in crate::core) fn upstream_limits_answered(&mut self, frame: Option<&[u8]>) {
        // A busy upstream says nothing of them: what was known still holds.
        if let Some(frame) = frame.filter(|frame| !frame.starts_with(b"-BUSY")) {
            self.control.limits.take(frame);
        }
        self.fresh_answered(Control::fresh_limits, frame.is_some(), None);
    }

    /// Whether a request has to be looked at for the length of its arguments.
    pub(in crate::core) fn may_be_too_long(&self, request: &Request<'_>) -> bool {
        request.bytes.len() as u64 > self.control.limits.argument
    }

    /// A request with an argument that the server would not take is answered here as the server would answer it.
    /// None: it may go on.
    pub(in crate::core) fn refuse_too_long(
        &mut self,
        child: &mut Child,
        request: &Request<'_>,
    ) -> Option<Flow> {
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
