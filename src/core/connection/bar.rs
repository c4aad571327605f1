//! An upstream that sends connections away for a reason that does not pass by itself: a password, a right, too many clients,
//! a kind of server that is not served. From then on one lane at a time tries, ever less often, and all others are parked.
//! Once one has been let in the next may try at once; the bar is gone when nobody waits behind it. Owns whose turn it is,
//! and the last such refusal; never what children are told.

use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::base::limits;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::LaneRole;
use crate::core::connection::{Connections, LastRefusal};
use crate::core::env::Env;
use crate::core::keys::LaneKey;
use crate::core::timers::Timer;
use crate::resp::reply;

/// Codes of refusals that stay as they are until somebody changes something: what else a server says to a greeting, that
/// it loads its data or runs a script, it soon says no more.
const LASTING: [&[u8]; 6] = [b"ERR", b"NOAUTH", b"WRONGPASS", b"NOPERM", b"NOPROTO", b"DENIED"];

/// Whether the refusal of a greeting is of that kind.
pub(crate) fn is_lasting(frame: &[u8]) -> bool {
    reply::error_code(frame).is_some_and(|code| LASTING.contains(&code))
}

/// Whether this is what a server with too many connections says to the next one, whatever that has asked.
pub(crate) fn is_too_many(frame: &[u8]) -> bool {
    frame.starts_with(b"-ERR max number of clients")
}

#[derive(Debug)]
pub(super) struct Bar {
    is_up: bool,
    /// Who tries, or tried last.
    trying: LaneKey,
    /// When the next may try.
    due: Millis,
    /// Refusals, each later than the pause that was to follow the one before.
    refusals: u32,
    /// The last one. It is remembered for `limits::BAR_MEMORY`, though somebody has been let in since.
    last: Option<LastRefusal>,
}

impl Default for Bar {
    fn default() -> Self {
        Bar { is_up: false, trying: Key::NONE, due: 0, refusals: 0, last: None }
    }
}

impl Connections {
    fn somebody_tries(&self) -> bool {
        self.lanes.get(self.bar.trying).is_some_and(Lane::is_connecting)
    }

    /// Whether a lane may dial now: always, unless the upstream has sent one away.
    pub(crate) fn may_dial(&self, now: Millis) -> bool {
        !self.bar.is_up || (now >= self.bar.due && !self.somebody_tries())
    }

    /// The same of one of this role. A probe is let in before it has said anything, so it cannot try for the others.
    pub(super) fn may_dial_as(&self, role: LaneRole, now: Millis) -> bool {
        self.may_dial(now) && !(self.bar.is_up && role == LaneRole::Probe)
    }

    pub(super) fn is_barred(&self) -> bool {
        self.bar.is_up
    }

    /// A lane dials: while the bar is up it tries for all.
    pub(super) fn begins_to_dial(&mut self, key: LaneKey) {
        if self.bar.is_up {
            self.bar.trying = key;
        }
    }

    /// Why the upstream sends everybody away, while it does.
    pub(super) fn bar_refusal(&self) -> Option<&LastRefusal> {
        self.bar.last.as_ref().filter(|_| self.bar.is_up)
    }

    /// Whether that was said before, and not long ago.
    pub(super) fn is_old_refusal(&self, text: &str, now: Millis) -> bool {
        let last = self.bar.last.as_ref();
        last.is_some_and(|last| last.text == text && last.at + limits::BAR_MEMORY > now)
    }

    /// The upstream has sent a lane away for good, for the time being. Lanes that had dialled before hear the same.
    pub(super) fn raise_bar(&mut self, env: &mut Env, key: LaneKey, failures: u32, refusal: LastRefusal) {
        let bar = &mut self.bar;
        let before = bar.last.replace(refusal).filter(|last| last.at + limits::BAR_MEMORY > env.now);
        if before.is_none() {
            bar.refusals = 0;
        }
        if !bar.is_up || bar.trying == key {
            bar.refusals = bar.refusals.saturating_add(1);
        }
        let pause = env.pause(bar.refusals.max(failures), limits::BAR_PAUSE_MAX);
        bar.due = bar.due.max(env.now + pause);
        (bar.is_up, bar.trying) = (true, Key::NONE);
        env.timers.arm(bar.due, Timer::Bar);
    }

    /// A lane has been let in: the next one may try.
    pub(super) fn let_in(&mut self, key: LaneKey, now: Millis) {
        if self.bar.is_up && self.bar.trying == key {
            (self.bar.trying, self.bar.due) = (Key::NONE, now);
            self.capacity.changed = true;
        }
    }

    /// A lane could not even reach the upstream, which has gone or moved: what it said before may not be so any more.
    pub(super) fn not_reached(&mut self, key: LaneKey) {
        if self.bar.is_up && self.bar.trying == key {
            self.lower_bar();
        }
    }

    /// What was said holds no more: other settings, another upstream.
    pub(crate) fn forget_bar(&mut self) {
        (self.bar.refusals, self.bar.last) = (0, None);
        self.lower_bar();
    }

    /// Whoever may dial and wants to has had its turn: if nobody tries, nobody waits.
    pub(crate) fn lower_bar_if_unused(&mut self, now: Millis) {
        if self.bar.is_up && self.may_dial(now) {
            self.lower_bar();
        }
    }

    fn lower_bar(&mut self) {
        (self.bar.is_up, self.bar.trying, self.bar.due) = (false, Key::NONE, 0);
        self.capacity.changed = true;
    }
}
