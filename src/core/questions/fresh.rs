//! Answers that must be younger than the request they are for: what HELLO tells of the upstream (it may become a replica),
//! and how long an argument it takes (a longer one closes the lane, and loses what other children have on it).
//! One question serves all whose requests came before it. Where CONFIG GET is refused the server itself refuses.

use crate::command::texts;
use crate::core::child::Child;
use crate::core::child::closing::CloseReason;
use crate::core::child::hold::Hold;
use crate::core::connection::handshake::parse_greeting;
use crate::core::questions::control::{Needed, Question, Said};
use crate::core::questions::known::BULK_SETTING;
use crate::core::questions::own_rights::OwnRight;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::resp::{ProtocolError, Request, encode, value};

impl Shared {
    /// Whether the answer is younger than the request at the front; if not, the child waits for one that is.
    pub(crate) fn await_fresh(&mut self, child: &mut Child, needed: Needed) -> Result<(), Flow> {
        let asked = self.control.asked();
        let before = child.front_mut().asked_before(asked);
        if self.control.fresh(needed).is_younger(before) {
            return Ok(());
        }
        if !self.control_is_ready() {
            return Err(self.wait_for_upstream(child));
        }
        self.control.fresh(needed).wait(child.key());
        self.ask_fresh(needed);
        Err(Flow::Hold(Hold::Question))
    }

    /// Asks, unless that is under way.
    pub(crate) fn ask_fresh(&mut self, needed: Needed) {
        let number = self.control.asked() + 1;
        if self.control_is_ready() && self.control.fresh(needed).begin(number) {
            self.ask(Question::Fresh(needed));
        }
    }

    /// It was answered, or the connection was lost before. A child whose request has come meanwhile asks again.
    fn fresh_answered(&mut self, needed: Needed, is_answer: bool, told: Said<'_>) {
        for child in self.control.fresh(needed).end(is_answer) {
            self.give_refusal(child, told);
        }
    }

    /// The upstream's own greeting, with this child's protocol and id in it.
    pub(crate) fn greeting(&self, child: &Child) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(greeting) = self.control.greeting() else { return out };
        let proto = child.session().proto;
        encode::map_header(&mut out, greeting.pairs.len(), proto);
        for (name, value) in &greeting.pairs {
            encode::bulk(&mut out, name.as_bytes());
            match name.as_str() {
                "proto" => encode::int(&mut out, i64::from(proto)),
                "id" => encode::int(&mut out, child.session().id as i64),
                _ => value::write(&mut out, value, proto),
            }
        }
        out
    }

    pub(super) fn greeting_answered(&mut self, said: Said<'_>) {
        let greeting = if let Said::Reply(frame) = said { parse_greeting(frame) } else { None };
        let is_answer = greeting.map(|greeting| self.control.set_greeting(greeting)).is_some();
        self.fresh_answered(Needed::Greeting, is_answer, said);
        if is_answer {
            self.note_role();
        }
        if let (Said::Reply(_), false) = (said, is_answer) {
            // Asked again at once, it would say the same.
            self.lane_lost(self.control.lane(), "HELLO was not answered with a map");
        }
    }

    pub(super) fn upstream_limits_answered(&mut self, said: Said<'_>) {
        // A busy upstream says nothing of them: what was known still holds.
        if let Said::Reply(frame) | Said::Refused(frame) = said {
            self.control.set_limits(frame);
            self.control.own_rights_mut().set(OwnRight::ConfigGet, texts::is_lack(frame));
        }
        self.fresh_answered(Needed::Limits, said.frame().is_some(), Said::Nothing);
    }

    /// Whether a request has to be looked at for the length of its arguments.
    pub(crate) fn may_be_too_long(&self, request: &Request<'_>) -> bool {
        request.bytes.len() as u64 > self.control.limits().harmless_max()
    }

    /// Answers a request with too long an argument as the server would answer it. None: it may go on.
    pub(crate) fn refuse_too_long(&mut self, child: &mut Child, request: &Request<'_>) -> Option<Flow> {
        if !self.may_be_too_long(request) {
            return None;
        }
        if !self.control.limits().takes(request.argc()) {
            self.answer(child, &ProtocolError::InvalidMultibulkLength.reply());
            self.finish_at_request(child);
            return Some(Flow::Done);
        }
        let limit = self.control.limits().argument_max();
        let longest = request.args().map(|arg| arg.len() as u64).max().unwrap_or(0);
        if longest <= limit {
            return None;
        }
        if let Err(flow) = self.await_fresh(child, Needed::Limits) {
            return Some(flow);
        }
        let (setting, max_bytes) = self.control.limits().exceeded_by(longest);
        CloseReason::ArgumentTooLong { len_bytes: longest, setting, max_bytes }.log(child);
        if setting == BULK_SETTING {
            self.answer(child, &ProtocolError::InvalidBulkLength.reply());
        } else {
            // Redis closes without a word.
            let text = format!("ERR Protocol error: the server's {setting} is {max_bytes} bytes");
            self.answer_error(child, text);
        }
        self.finish_at_request(child);
        Some(Flow::Done)
    }
}
