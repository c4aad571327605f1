//! Whether the broker is paused, since when, and who waits to hear that all is at rest. Plain data; what follows for requests and
//! connections is in `resting`.

use crate::base::clock::Millis;
use crate::core::keys::ChildKey;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum PauseStage {
    #[default]
    Running,
    /// Nothing new is written; what is in flight is awaited.
    Settling,
    AtRest,
}

#[derive(Debug, Default)]
pub(crate) struct Pause {
    pub(super) stage: PauseStage,
    pub(super) began: Millis,
    /// When it ends by itself.
    pub(super) until: Millis,
    /// When it is looked at next; a timer that fires before is not meant.
    pub(super) due: Millis,
    /// Who waits to hear that all is at rest.
    pub(super) askers: Vec<ChildKey>,
    /// It was asked for by PAUSE, and RESUME ends it.
    pub(super) by_hand: bool,
}

impl Pause {
    /// Whether requests of children are held.
    #[inline]
    pub(crate) fn holds(&self) -> bool {
        self.stage != PauseStage::Running
    }

    /// Since when, and until when at the latest, where it does.
    pub(crate) fn times(&self) -> Option<(Millis, Millis)> {
        self.holds().then_some((self.began, self.until))
    }

    pub(crate) fn is_settling(&self) -> bool {
        self.stage == PauseStage::Settling
    }

    pub(crate) fn is_at_rest(&self) -> bool {
        self.stage == PauseStage::AtRest
    }
}
