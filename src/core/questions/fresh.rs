//! Answers of the upstream that must be younger than the request they are for: one question on the control connection
//! for all whose requests had arrived before it was asked. Owns who waits; the answers belong to `greeting` and
//! `upstream_limits`.

use crate::core::child::Child;
use crate::core::child::hold::Answer;
use crate::core::child::hold::Hold;
use crate::core::questions::control::Control;
use crate::core::questions::control::Question;
use crate::core::questions::known::Fresh;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;

/// Which of them.
pub(in crate::core) type Which = fn(&mut Control) -> &mut Fresh;

impl Shared {
    /// Whether the answer is younger than the request at the front; if not, the child waits for one that is.
    pub(in crate::core) fn await_fresh(
        &mut self,
        child: &mut Child,
        which: Which,
        question: Question,
    ) -> Result<(), Flow> {
        let asked = self.control.asked;
        let before = *child.asked_before.get_or_insert(asked);
        if which(&mut self.control).answered > before {
            return Ok(());
        }
        if !self.control_is_ready() {
            return Err(self.wait_for_upstream(child));
        }
        which(&mut self.control).waiting.push(child.key);
        self.ask_fresh(which, question);
        Err(Flow::Hold(Hold::Answer))
    }

    /// Asks, unless that is under way.
    pub(in crate::core) fn ask_fresh(&mut self, which: Which, question: Question) {
        let number = self.control.asked + 1;
        if which(&mut self.control).under_way.is_none() && self.control_is_ready() {
            which(&mut self.control).under_way = Some(number);
            self.ask(question);
        }
    }

    /// It was answered, or the connection was lost before; `refusal` is what those who wait are told instead of going
    /// on. Whose request has come meanwhile asks again.
    pub(in crate::core) fn fresh_answered(&mut self, which: Which, is_answer: bool, refusal: Option<&[u8]>) {
        let fresh = which(&mut self.control);
        let number = fresh.under_way.take();
        if let Some(number) = number.filter(|_| is_answer) {
            fresh.answered = number;
        }
        for child in std::mem::take(&mut fresh.waiting) {
            self.give_answer(child, refusal.map(|frame| Answer::Frame(frame.to_vec())));
        }
    }
}
