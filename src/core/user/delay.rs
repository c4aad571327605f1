//! Wrong passwords: how long whoever has given some waits before the next is looked at. Owns the counts by where
//! children come from, so that a new connection begins with those of the last; keeps no password and lets nobody in.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::config::value::Auth;
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::core::timers::Timer;
use crate::core::user::guesses::Source;

impl Shared {
    /// Whether the child's password may be looked at now. It waits before it is, not afterwards: whoever hangs up
    /// and comes again would not wait for the answer.
    pub(in crate::core) fn may_guess(
        &mut self,
        child: &mut Child,
        claim: (&[u8], &[u8]),
    ) -> Result<(), Flow> {
        let (now, most) = (self.env.now, self.guess_delay_max());
        let due = match child.guess_at {
            Some(due) => due,
            None => now + self.users.guesses.delay(&Source::of(child), claim, most, now),
        };
        if due <= now {
            return Ok(());
        }
        child.guess_at = Some(due);
        self.env.timers.arm(due, Timer::Child(child.key));
        Err(Flow::Hold(Hold::Guess))
    }

    /// Where Redis judges, and has no such delay itself, it only keeps the turn of others at the probe.
    fn guess_delay_max(&self) -> Millis {
        if self.users.mode == Auth::Passthrough { limits::GUESS_DELAY } else { limits::GUESS_DELAY_MAX }
    }

    pub(in crate::core) fn guessed_right(&mut self, child: &mut Child, claim: (&[u8], &[u8])) {
        self.users.guesses.was_right(Source::of(child), claim, self.env.now);
    }

    pub(in crate::core) fn guessed_wrong(&mut self, child: &mut Child, name: &[u8]) {
        let delay = self.users.guesses.was_wrong(Source::of(child), self.guess_delay_max(), self.env.now);
        let name = String::from_utf8_lossy(&name[..name.len().min(64)]);
        let label = child.label();
        log::warn!(
            "wrong password for user {name:?} by child {label}; the next one from there waits {delay} ms"
        );
    }
}
