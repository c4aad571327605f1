//! Who may dial while the upstream sends connections away for good: one lane at a time, by `connection::bar`. Moves the bar with
//! what becomes of that lane; never dials.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::core::connection::Connections;
use crate::core::connection::bar::{Bar, LastRefusal};
use crate::core::connection::lane::Lane;
use crate::core::connection::role::LaneRole;
use crate::core::env::Env;
use crate::core::keys::LaneKey;
use crate::core::timers::Timer;

impl Connections {
    pub(super) fn bar(&self) -> &Bar {
        &self.bar
    }

    #[cfg(test)]
    pub(crate) fn is_barred(&self) -> bool {
        self.bar.is_up()
    }

    /// Whether a lane may dial now: always, unless the upstream has sent one away.
    pub(crate) fn may_dial(&self, now: Millis) -> bool {
        let somebody_tries = || self.lanes.get(self.bar.trying()).is_some_and(Lane::is_connecting);
        !self.bar.is_up() || (self.bar.is_due(now) && !somebody_tries())
    }

    /// The same of one of this role. A probe is let in before it has said anything, so it cannot try for the others.
    pub(super) fn may_dial_as(&self, role: LaneRole, now: Millis) -> bool {
        self.may_dial(now) && !(self.bar.is_up() && role == LaneRole::Probe)
    }

    /// The upstream has sent a lane away for good, for the time being, after so many failures of its own.
    pub(super) fn raise_bar(&mut self, env: &mut Env, key: LaneKey, failures: u32, refusal: LastRefusal) {
        let refusals = self.bar.note(key, refusal, env.now);
        let pause = env.pause(refusals.max(failures), limits::BAR_PAUSE_MAX);
        env.timers.arm(self.bar.raise(env.now + pause), Timer::Bar);
    }

    /// A lane has been let in: the next one may try.
    pub(super) fn let_in(&mut self, key: LaneKey, now: Millis) {
        self.capacity.changed |= self.bar.let_in(key, now);
    }

    /// A lane could not even reach the upstream, which has gone or moved: what it said before may not be so any more.
    pub(super) fn not_reached(&mut self, key: LaneKey) {
        if self.bar.is_up() && self.bar.trying() == key {
            self.bar.lower();
            self.capacity.changed = true;
        }
    }

    /// There are other settings, or another upstream.
    pub(crate) fn forget_bar(&mut self) {
        self.bar.forget();
        self.capacity.changed = true;
    }

    /// Whoever is parked has had its turn: if nobody tries, nobody was. Those that back off find no bar when their pause is
    /// over, and the first of them that is sent away raises it again.
    pub(crate) fn lower_bar_if_unused(&mut self, now: Millis) {
        if self.bar.is_up() && self.may_dial(now) {
            self.bar.lower();
            self.capacity.changed = true;
        }
    }
}
