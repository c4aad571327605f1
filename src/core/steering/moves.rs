//! UPSTREAM: how far a planned move to another server has come. Everything comes to rest; then the control connection alone leads
//! to the new server, and only if that serves do all others follow. Nothing of a child is written meanwhile, so that a server that
//! does not serve costs nobody anything but time. Plain data; the steps are in `resting`, and begun in `face`.

use crate::base::clock::Millis;
use crate::config::Upstream;

#[derive(Debug)]
pub(crate) enum MoveStage {
    /// What is in flight comes to rest.
    Settling,
    /// The new server is asked whether it serves, until a certain time.
    Trying { since: Millis, until: Millis },
    /// It does, or why it does not; the driver has not heard of it.
    Tried(Result<(), String>),
}

#[derive(Debug)]
pub(crate) struct PlannedMove {
    /// Where to; where from, once it is tried. With the number by which lanes know it.
    pub(crate) other: (Upstream, u32),
    pub(crate) stage: MoveStage,
    /// It is being tried, or was and all is not settled yet.
    pub(crate) is_elsewhere: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Moving {
    pub(crate) under_way: Option<PlannedMove>,
}

impl Moving {
    pub(crate) fn is_trying(&self) -> bool {
        self.under_way.as_ref().is_some_and(|one| matches!(one.stage, MoveStage::Trying { .. }))
    }

    /// Whether the control connection leads to the other server, and nobody else is to.
    #[inline]
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.under_way.as_ref().is_some_and(|one| one.is_elsewhere)
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }
}
