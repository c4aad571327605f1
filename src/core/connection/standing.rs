//! Which lanes the driver does not read, each for a child that has to take more of its reply first. When a lane stands still
//! and when it goes on is decided in `core::standing`.

use crate::base::clock::Millis;
use crate::core::keys::{ChildKey, LaneKey};

/// Why a lane is not read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    /// Who has to take more of its reply.
    pub child: ChildKey,
    /// How much it had taken of all its output, and when: then it was judged last.
    pub taken: u64,
    pub since: Millis,
}

#[derive(Debug, Default)]
pub(crate) struct StandingLanes {
    lanes: Vec<(LaneKey, Standing)>,
    /// Those that may be read again, for the driver.
    resumed: Vec<LaneKey>,
}

impl StandingLanes {
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    #[inline]
    pub(crate) fn has(&self, key: LaneKey) -> bool {
        self.lanes.iter().any(|(standing, _)| *standing == key)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = LaneKey> {
        self.lanes.iter().map(|(key, _)| *key)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Standing> {
        self.lanes.iter_mut().map(|(_, standing)| standing)
    }

    pub(super) fn begin(&mut self, key: LaneKey, why: Standing) {
        if !self.has(key) {
            self.lanes.push((key, why));
        }
    }

    /// Those go on of which this is so.
    pub(crate) fn end_where(&mut self, ends: impl Fn(&Standing) -> bool) {
        let ended = self.lanes.extract_if(.., |(_, standing)| ends(standing));
        self.resumed.extend(ended.map(|(key, _)| key));
    }

    pub(crate) fn take_resumed(&mut self, into: &mut Vec<LaneKey>) {
        into.append(&mut self.resumed);
    }
}
