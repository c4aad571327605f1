//! Lanes as the rest of the core sees them: finding them, putting requests on them, the bytes that come and go. Owns the list
//! of lanes to be written; never how a lane gets its connection.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::config::Settings;
use crate::core::child::hold::Hold;
use crate::core::connection::Connections;
use crate::core::connection::canary::CANARY;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::{LaneRole, Traffic};
use crate::core::connection::slot::{Slot, SlotFlags, SlotKind};
use crate::core::connection::standing::{Standing, StandingLanes};
use crate::core::env::Env;
use crate::core::keys::{ChildKey, LaneKey, PoolKey};
use crate::core::notice::{ChildNotice, Notice};
use crate::core::timers::Timer;
use crate::resp::{Frames, ReplyScanner};

impl Connections {
    pub(crate) fn add(&mut self, lane: Lane) -> LaneKey {
        let is_own = lane.role().is_own();
        let key = self.lanes.insert(lane);
        if is_own {
            self.own.push(key);
        }
        key
    }

    /// A lane that may have gone: its key was kept by a child, a timer, a question or the driver.
    pub(crate) fn find(&self, key: LaneKey) -> Option<&Lane> {
        self.lanes.get(key)
    }

    pub(crate) fn find_mut(&mut self, key: LaneKey) -> Option<&mut Lane> {
        self.lanes.get_mut(key)
    }

    pub(crate) fn find_with_key(&mut self, key: LaneKey) -> Option<(&mut Lane, &PoolKey)> {
        let lane = self.lanes.get_mut(key)?;
        let pool = &self.pools[lane.pool().0 as usize];
        Some((lane, &pool.key))
    }

    pub(crate) fn known(&self, key: LaneKey) -> Option<&Lane> {
        debug_assert!(self.lanes.get(key).is_some(), "no lane {key:?}");
        self.lanes.get(key)
    }

    pub(crate) fn known_mut(&mut self, key: LaneKey) -> Option<&mut Lane> {
        debug_assert!(self.lanes.get(key).is_some(), "no lane {key:?}");
        self.lanes.get_mut(key)
    }

    pub(crate) fn lanes(&self) -> impl Iterator<Item = (LaneKey, &Lane)> {
        self.lanes.iter()
    }

    pub(crate) fn keys(&self) -> Vec<LaneKey> {
        self.lanes.keys()
    }

    pub(crate) fn keys_where(&self, holds: impl Fn(&Lane) -> bool) -> Vec<LaneKey> {
        self.lanes.iter().filter(|(_, lane)| holds(lane)).map(|(key, _)| key).collect()
    }

    /// Puts a whole request and its slot on a lane, and sees to it that the lane gets connected.
    pub(crate) fn send(&mut self, env: &mut Env, key: LaneKey, bytes: &[u8], slot: Slot) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return debug_assert!(false, "a request for a lane that is gone");
        };
        match env.long_part(bytes) {
            Some(fragment) => lane.push_fragment(fragment, slot, &env.moment()),
            None => lane.push(bytes, slot, &env.moment()),
        }
        if lane.mark_dirty() {
            self.dirty.push(key);
        }
        if lane.is_dormant() {
            self.want(env, key);
            return self.account(env, key);
        }
        lane.account(&mut env.memory);
    }

    /// Nothing has been asked for a while: what was kept to tell where the time of requests went is given back.
    pub(crate) fn forget_times(&mut self, env: &mut Env) {
        for key in self.keys() {
            if let Some(lane) = self.lanes.get_mut(key) {
                lane.forget_times();
                lane.account(&mut env.memory);
            }
        }
    }

    /// The same for many at once.
    pub(crate) fn send_all(
        &mut self,
        env: &mut Env,
        key: LaneKey,
        bytes: &[u8],
        slots: impl Iterator<Item = (usize, Slot)>,
    ) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return debug_assert!(false, "requests for a lane that is gone");
        };
        lane.push_all(bytes, slots, &env.moment());
        self.mark(key);
        if self.known(key).is_some_and(Lane::is_dormant) {
            self.want(env, key);
        }
        self.account(env, key);
    }

    /// Whether a child has to wait until the lane has less to write.
    pub(crate) fn holds_back(&mut self, key: LaneKey, child: ChildKey) -> bool {
        let window = self.window;
        self.known_mut(key).is_some_and(|lane| lane.holds_back(child, window))
    }

    /// Whether a child that has just come has to wait until the lane has fewer requests of such.
    pub(crate) fn holds_newcomer(&mut self, key: LaneKey, child: ChildKey) -> bool {
        self.known_mut(key).is_some_and(|lane| lane.holds_newcomer(child))
    }

    /// Bytes that lanes may have to write before children wait.
    pub(crate) fn set_window(&mut self, window: usize) {
        self.window = window;
    }

    pub(crate) fn mark(&mut self, key: LaneKey) {
        if self.lanes.get_mut(key).is_some_and(Lane::mark_dirty) {
            self.dirty.push(key);
        }
    }

    /// The shared lane whose next request has waited longest without a byte of its reply. One that WAIT blocks is nobody else's.
    pub(crate) fn most_silent(&self) -> Option<(LaneKey, &Lane)> {
        let is_meant = |lane: &Lane| {
            lane.is_shared() && lane.is_ready() && !lane.is_detached() && lane.front().is_some()
        };
        self.lanes().filter(|(_, lane)| is_meant(lane)).min_by_key(|(_, lane)| lane.silent_since())
    }

    /// The clock is about to move, or it is looked at what there is to write: notes when that was put on the lanes.
    pub(crate) fn note_pushed(&mut self, env: &mut Env) {
        for key in &self.dirty {
            // It may have gone since.
            if let Some(lane) = self.lanes.get_mut(*key) {
                lane.note_pushed(env.micros);
                lane.account(&mut env.memory);
            }
        }
    }

    pub(crate) fn take_dirty(&mut self, env: &mut Env, into: &mut impl Extend<LaneKey>) {
        self.note_pushed(env);
        for key in &self.dirty {
            if let Some(lane) = self.lanes.get_mut(*key) {
                lane.clear_dirty();
            }
        }
        into.extend(self.dirty.drain(..));
    }

    /// Brings the memory total up to date with a lane, which may have gone. Children that it held back go on.
    pub(crate) fn account(&mut self, env: &mut Env, key: LaneKey) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.account(&mut env.memory);
            let_held_go(env, key, lane);
        }
    }

    /// The child is closed: see `Lane::forsake`. The lane may have gone.
    pub(crate) fn forsake(&mut self, key: LaneKey, child: ChildKey) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.forsake(child);
        }
    }

    /// Bytes have arrived. None, if they are those of a connection given up before.
    pub(crate) fn begin_input<'a>(
        &mut self,
        key: LaneKey,
        bytes: &'a [u8],
        now: Millis,
    ) -> Option<Frames<'a, ReplyScanner>> {
        let lane = self.lanes.get_mut(key).filter(|lane| lane.link().is_some())?;
        lane.note_input(now);
        Some(lane.inbox_mut().begin(bytes, &mut self.scanner))
    }

    /// The lane whose bytes are being read, if they are still those of its connection.
    pub(crate) fn input_of(&mut self, key: LaneKey) -> Option<&mut Lane> {
        self.lanes.get_mut(key).filter(|lane| lane.inbox().is_in_use())
    }

    pub(crate) fn end_input(&mut self, env: &mut Env, key: LaneKey, frames: Frames<'_, ReplyScanner>) {
        // What was in them may have removed the lane.
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.inbox_mut().end(frames, &mut self.scanner, &mut env.spares);
            lane.account(&mut env.memory);
            let_held_go(env, key, lane);
        }
    }

    /// Not all replies that have been read of this lane are taken: it goes on in a next step.
    pub(crate) fn note_unread(&mut self, key: LaneKey) {
        // What was taken may have ended its connection.
        if self.input_of(key).is_some() && !self.unread.contains(&key) {
            self.unread.push_back(key);
        }
    }

    pub(crate) fn next_unread(&mut self) -> Option<LaneKey> {
        self.unread.pop_front()
    }

    /// Whether it was noted.
    pub(crate) fn forget_unread(&mut self, key: LaneKey) -> bool {
        let at = self.unread.iter().position(|unread| *unread == key);
        at.map(|at| self.unread.remove(at)).is_some()
    }

    pub(crate) fn has_unread(&self, key: LaneKey) -> bool {
        !self.unread.is_empty() && self.unread.contains(&key)
    }

    pub(crate) fn is_any_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    pub(crate) fn standing(&self) -> &StandingLanes {
        &self.standing
    }

    pub(crate) fn standing_mut(&mut self) -> &mut StandingLanes {
        &mut self.standing
    }

    /// The lane is not to be read, and takes no request that is expected to be short.
    pub(crate) fn stand_still(&mut self, key: LaneKey, why: Standing) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.set_slow();
            self.standing.begin(key, why);
        }
    }

    /// A very long reply passes on the lane: what is short goes elsewhere meanwhile, if another connection may be opened and
    /// not too many lanes are slow already.
    pub(crate) fn keep_short_off(&mut self, settings: &Settings, key: LaneKey) {
        let has_room =
            self.kept_from_others() < limits::SLOW_LANES && self.has_room(settings, LaneRole::Shared);
        if let Some(lane) = self.lanes.get_mut(key).filter(|lane| has_room && lane.takes(Traffic::Ordinary)) {
            lane.set_slow();
        }
    }

    /// Lanes that stand still are not silent: nobody listens.
    pub(crate) fn excuse_standing(&mut self, now: Millis) {
        for key in self.standing.keys() {
            // It may have gone since.
            if let Some(lane) = self.lanes.get_mut(key) {
                lane.note_input(now);
            }
        }
    }

    /// How many lanes have another in their place for what is short.
    pub(crate) fn kept_from_others(&self) -> usize {
        self.lanes.iter().filter(|(_, lane)| lane.is_kept_from_others()).count()
    }

    /// By which command canaries are asked for from now on.
    pub(crate) fn set_canary(&mut self, name: &'static [u8; 4]) {
        self.canary = name;
    }

    pub(crate) fn send_canary(&mut self, env: &mut Env, key: LaneKey) {
        let name = self.canary;
        let Some(lane) = self.known_mut(key) else { return };
        let end = lane.out().bytes().appended() + CANARY as u64;
        let canary = lane.canaries_mut().request(end, &mut env.rng, name);
        env.counters.canaries += 1;
        self.send(env, key, &canary, Slot::own(SlotKind::Canary));
    }

    /// A push behind replies that are withheld waits with them: it came after them. False when there are none.
    pub(crate) fn withhold_push(&mut self, key: LaneKey, frame: &[u8], now: Millis) -> bool {
        let Some(lane) = self.known_mut(key).filter(|lane| !lane.withheld().is_empty()) else { return false };
        // No child waits for it: where its lane is lost, it is lost.
        let (stamp, flags) = (now as u32, SlotFlags::TIMED_OUT);
        lane.canaries_mut().withhold(Slot { stamp, flags, ..Slot::own(SlotKind::Push) }, frame);
        true
    }

    pub(crate) fn wait_for_lane(&mut self, child: ChildKey) {
        self.lane_waiters.push(child);
    }

    /// A lane is free again: the children that wait for one look whether it is theirs.
    pub(crate) fn wake_lane_waiters(&mut self, env: &mut Env) {
        for child in self.lane_waiters.drain(..) {
            env.notify(Notice::Child(child, ChildNotice::Lift(Hold::WriteLane)));
        }
    }

    /// Children that wait for full lanes look at their requests afresh: there is another answer now.
    pub(crate) fn lift_all_held(&mut self, env: &mut Env) {
        for key in self.lanes.keys() {
            let held = self.lanes.get_mut(key).map(Lane::take_held);
            lift(env, held.into_iter().flatten());
        }
    }
}

/// Lets go as many as a lane has room for, if each has one request. Some of them may have nothing for it any more: the next
/// ones are let go with the next reply, and when time is told next.
fn let_held_go(env: &mut Env, key: LaneKey, lane: &mut Lane) {
    if lane.has_room_for_held() {
        lift(env, lane.take_next_held());
        if lane.has_room_for_held() {
            env.timers.arm(env.now, Timer::Held(key));
        }
    }
}

pub(super) fn lift(env: &mut Env, held: impl Iterator<Item = ChildKey>) {
    for child in held {
        env.notify(Notice::Child(child, ChildNotice::Lift(Hold::LaneFull)));
    }
}
