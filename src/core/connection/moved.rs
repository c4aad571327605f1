//! A connection that goes to another process as it stands, and one that comes: nothing is dialled or closed, and nobody is
//! greeted again. Only one on which nothing is asked.

use crate::core::connection::Connections;
use crate::core::connection::lane::{Lane, LaneState};
use crate::core::connection::role::RoleData;
use crate::core::env::Env;
use crate::core::keys::{LaneKey, PoolId};

impl Connections {
    /// Whether the lane has nothing but its connection, which another process could use.
    pub(crate) fn may_give(&self, key: LaneKey) -> bool {
        let is_plain = |lane: &Lane| {
            let record = lane.record();
            let is_here = !record.is_on_previous_upstream && !record.close_needed && !lane.is_former();
            lane.is_ready() && is_here && record.secured.is_none()
        };
        self.find(key).is_some_and(is_plain)
    }

    /// Whether it may go at this moment: nothing is asked, and no frame is taken in parts.
    pub(crate) fn is_at_rest(&self, key: LaneKey) -> bool {
        let rests = |lane: &Lane| lane.is_idle() && !lane.is_in_large() && lane.outgoing().is_empty();
        self.may_give(key) && !self.has_unread(key) && self.find(key).is_some_and(rests)
    }

    /// The id of its connection upstream, and what has been read of a frame that is not complete.
    pub(crate) fn image_of(&self, key: LaneKey) -> Option<(i64, Vec<u8>)> {
        let lane = self.find(key)?;
        Some((lane.record().upstream_id, lane.inbox().as_slice().to_vec()))
    }

    /// It has gone to another process, with its place.
    pub(crate) fn forget_given(&mut self, env: &mut Env, key: LaneKey) {
        if self.find(key).is_none() {
            return;
        }
        self.change_state(key, LaneState::Dormant);
        self.remove(env, key);
        self.mark_changed();
    }

    /// It comes from another process, and is ready.
    pub(crate) fn take_in(
        &mut self,
        env: &mut Env,
        (pool, role): (PoolId, RoleData),
        (link, id): (usize, i64),
        input: &[u8],
    ) -> LaneKey {
        let key = self.add(Lane::new(pool, role, env.now));
        self.change_state(key, LaneState::Connecting);
        if let Some(lane) = self.find_mut(key) {
            lane.become_ready(link, id, env.now);
            lane.note_upstream(env.upstream_number);
            lane.inbox_mut().append_within(input, usize::MAX);
        }
        self.account(env, key);
        key
    }

    /// It could not go: the driver has another handle of it.
    pub(crate) fn relink(&mut self, key: LaneKey, link: usize) {
        if let Some(lane) = self.find_mut(key) {
            lane.relink(link);
            self.mark(key);
        }
    }
}
