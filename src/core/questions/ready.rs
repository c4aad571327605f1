//! Whether the upstream serves now, for whoever decides by it where requests go. It is asked with the PING of `busy`, and
//! only while somebody wants to know: nobody who does not ask pays for it. What the broker remembers is no answer.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::core::broker::Broker;
use crate::core::questions::control::Said;
use crate::core::shared::Shared;
use crate::resp::reply;

/// Whether requests are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// The upstream has just answered.
    Ready,
    /// Why not, in words.
    NotReady(String),
    /// It has been asked; without its answer it is not ready at this time.
    Asked {
        /// On the clock of the core.
        until: Millis,
    },
}

/// Errors that are about PING itself, or about who asks: whoever answers so serves others.
const ABOUT_PING: [&[u8]; 2] = [b"NOPERM", b"ERR"];

impl Shared {
    /// The PING was answered, or its connection was lost before.
    pub(super) fn note_readiness(&mut self, said: Said<'_>) {
        let Some(frame) = said.frame() else { return };
        let serves = reply::error_code(frame).is_none_or(|code| ABOUT_PING.contains(&code));
        let text = || reply::error_text(frame).unwrap_or_default().to_string();
        self.work.note_answer((!serves).then(text), self.env.now);
    }
}

impl Broker {
    /// Whether the upstream serves, for who has asked at `since`. It is asked, if it has said nothing since shortly before.
    pub fn readiness(&mut self, since: Millis) -> Readiness {
        let shared = &mut self.shared;
        let not_ready = |why: &str| Readiness::NotReady(why.to_owned());
        if shared.env.draining {
            return not_ready("the broker drains");
        }
        if !shared.control_is_ready() {
            return not_ready("no connection to the upstream");
        }
        if shared.commands.table().is_none() {
            return not_ready("the upstream has not said yet which commands it has");
        }
        match shared.work.answer_since(since.saturating_sub(limits::READY_FRESH)) {
            Some(None) => return Readiness::Ready,
            Some(Some(why)) => return Readiness::NotReady(format!("the upstream says: {why}")),
            None => {}
        }
        let now = shared.env.now;
        let asked = shared.work.unanswered_since().unwrap_or_else(|| {
            shared.ask_probe();
            now
        });
        let until = asked + limits::READY_PATIENCE;
        if until <= now {
            return not_ready("the upstream does not answer");
        }
        Readiness::Asked { until }
    }
}
