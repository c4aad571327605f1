//! An upstream that sends connections away for a reason that does not pass by itself: a password, a right, too many clients,
//! a kind of server that is not served. From then on one lane at a time tries, ever less often, and all others are parked.
//! Once one has been let in the next may try at once; the bar is gone when no parked lane is left to try. Owns whose turn it is,
//! and the last such refusal; never what children are told.

use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::base::limits;
use crate::core::keys::LaneKey;
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

/// Why an attempt to connect has failed.
#[derive(Debug, Clone)]
pub(super) struct LastRefusal {
    pub(super) text: String,
    pub(super) at: Millis,
    /// It was told in the log.
    pub(super) is_told: bool,
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

impl Bar {
    pub(super) fn is_up(&self) -> bool {
        self.is_up
    }

    pub(super) fn trying(&self) -> LaneKey {
        self.trying
    }

    pub(super) fn is_due(&self, now: Millis) -> bool {
        now >= self.due
    }

    /// Why everybody is sent away, while that is so.
    pub(super) fn refusal(&self) -> Option<&LastRefusal> {
        self.last.as_ref().filter(|_| self.is_up)
    }

    /// Whether that was said before, and not long ago.
    pub(super) fn remembers(&self, text: &str, now: Millis) -> bool {
        let last = self.last.as_ref();
        last.is_some_and(|last| last.text == text && last.at + limits::BAR_MEMORY > now)
    }

    /// A lane dials: while the bar is up it tries for all.
    pub(super) fn begins_to_dial(&mut self, key: LaneKey) {
        if self.is_up {
            self.trying = key;
        }
    }

    /// The upstream has sent a lane away. Lanes that had dialled before hear the same. Returns how many have been in a row.
    pub(super) fn note(&mut self, key: LaneKey, refusal: LastRefusal, now: Millis) -> u32 {
        let before = self.last.replace(refusal).filter(|last| last.at + limits::BAR_MEMORY > now);
        if before.is_none() {
            self.refusals = 0;
        }
        if !self.is_up || self.trying == key {
            self.refusals = self.refusals.saturating_add(1);
        }
        self.refusals
    }

    /// Nobody tries before then; returns when somebody may.
    pub(super) fn raise(&mut self, due: Millis) -> Millis {
        (self.is_up, self.trying) = (true, Key::NONE);
        self.due = self.due.max(due);
        self.due
    }

    /// The lane has been let in: the next one may try. False if it did not try for the others.
    pub(super) fn let_in(&mut self, key: LaneKey, now: Millis) -> bool {
        let tried = self.is_up && self.trying == key;
        if tried {
            (self.trying, self.due) = (Key::NONE, now);
        }
        tried
    }

    pub(super) fn lower(&mut self) {
        (self.is_up, self.trying, self.due) = (false, Key::NONE, 0);
    }

    /// What was said holds no more.
    pub(super) fn forget(&mut self) {
        (self.refusals, self.last) = (0, None);
        self.lower();
    }
}
