//! What the upstream is at work on, as far as its answers tell: a script that does not end, a command that kept it from
//! everything else. Owns what is known of that; decides nothing about requests.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::resp::reply;

/// What the upstream says while a script is busy.
#[derive(Debug)]
struct Busy {
    /// The error, without its `-`.
    text: Vec<u8>,
    since: Millis,
}

#[derive(Debug, Default)]
pub(crate) struct Work {
    busy: Option<Busy>,
    /// A timer is set to ask again.
    watched: bool,
    /// When it was last asked whether it is busy, by a PING on the control connection.
    asked_at: Millis,
    /// That has not been answered yet.
    asking: bool,
    /// The same time, and not in doubt.
    unanswered_since: Millis,
    /// When anything was last heard from it, on any lane.
    heard_at: Millis,
    /// When it last answered anything but BUSY, on any connection.
    done_at: Millis,
    /// When it was asked that PING to which it last answered, and not with BUSY.
    idle_at: Millis,
    /// When it last answered that PING in whatever way, and why it said that it does not serve.
    answered: Option<(Millis, Option<String>)>,
}

impl Work {
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.is_some()
    }

    pub(super) fn busy_text(&self) -> Option<&[u8]> {
        self.busy.as_ref().map(|busy| busy.text.as_slice())
    }

    /// The upstream has answered BUSY. True if that is news.
    pub(super) fn became_busy(&mut self, frame: &[u8], now: Millis) -> bool {
        self.asking = false;
        let text = frame.strip_prefix(b"-").unwrap_or(frame).trim_ascii_end().to_vec();
        let since = self.busy.as_ref().map_or(now, |busy| busy.since);
        self.busy.replace(Busy { text, since }).is_none()
    }

    /// It is not busy, or nothing is known of it: the connection is another one, perhaps to another upstream.
    pub(super) fn forget(&mut self) {
        (self.busy, self.asking) = (None, false);
    }

    /// The connection is lost: what the upstream has said on it says nothing of what is there now.
    pub(super) fn lost(&mut self) {
        self.forget();
        self.answered = None;
    }

    pub(super) fn is_due(&self, now: Millis) -> bool {
        !self.is_asking() && now >= self.asked_at + limits::BUSY_PROBE
    }

    /// A timer is to ask again. False if one is set, or there is nothing to ask.
    pub(super) fn begin_watch(&mut self) -> bool {
        self.is_busy() && !std::mem::replace(&mut self.watched, true)
    }

    pub(super) fn end_watch(&mut self) {
        self.watched = false;
    }

    /// What it was told last is not so any more, perhaps: it is asked again as soon as it has answered.
    pub(super) fn doubt(&mut self) {
        self.asked_at = 0;
    }

    pub(super) fn asks(&mut self, now: Millis) {
        (self.asking, self.asked_at, self.unanswered_since) = (true, now, now);
    }

    /// The PING was answered, and not with BUSY: nothing was being executed when it arrived.
    pub(super) fn was_idle(&mut self) {
        self.idle_at = self.asked_at;
    }

    /// The PING was answered.
    pub(super) fn note_answer(&mut self, refusal: Option<String>, now: Millis) {
        self.answered = Some((now, refusal));
    }

    /// What was answered to it at that time or later: nothing, or why not.
    pub(super) fn answer_since(&self, then: Millis) -> Option<Option<&str>> {
        let (at, refusal) = self.answered.as_ref()?;
        (*at >= then).then_some(refusal.as_deref())
    }

    /// When the PING was asked that is not answered yet, if there is one.
    pub(super) fn unanswered_since(&self) -> Option<Millis> {
        self.asking.then_some(self.unanswered_since)
    }

    /// Whether it has had nothing to execute at some time since then.
    pub(crate) fn was_idle_since(&self, then: Millis) -> bool {
        self.idle_at >= then
    }

    pub(crate) fn is_asking(&self) -> bool {
        self.asking
    }

    #[inline]
    pub(crate) fn heard(&mut self, now: Millis) {
        self.heard_at = now;
    }

    /// Since when it owes the answer and is silent. While it sends anything it lives, even if the PING has to wait its
    /// turn.
    pub(crate) fn silent_since(&self) -> Option<Millis> {
        self.asking.then_some(self.asked_at.max(self.heard_at))
    }

    /// A reply has come to a command that had been at the front of its lane since `front_since`, and perhaps `delays` those
    /// behind it. True if the upstream did nothing else meanwhile for long. Proves nothing where Redis allows the command
    /// while it is busy.
    #[inline]
    pub(super) fn replied(
        &mut self,
        front_since: Millis,
        now: Millis,
        frame: &[u8],
        delays: impl FnOnce() -> bool,
        allowed_while_busy: impl FnOnce() -> bool,
    ) -> bool {
        if reply::error_code(frame) == Some(b"BUSY") {
            return false;
        }
        let time = now.saturating_sub(front_since.max(self.done_at));
        let ran_long = time >= limits::SLOW_BEFORE_OTHERS && (time >= limits::SLOW_MIN || delays());
        if self.busy.is_none() && !ran_long {
            self.done_at = now;
            return false;
        }
        if allowed_while_busy() {
            return false;
        }
        self.done_at = now;
        // Errors of rights and arity come before that of a busy script, and prove nothing.
        let was_script = self.busy.as_ref().is_some_and(|busy| front_since <= busy.since);
        if was_script || !reply::is_error(frame) {
            self.busy = None;
        }
        ran_long || was_script
    }
}
