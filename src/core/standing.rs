//! Lanes that stand still. A reply that is longer than what is left of `memory_max` cannot be read faster than its child takes
//! it, so where memory is short its lane is not read until the child has taken what it has. Only where nothing stands behind
//! it but what is long itself, and no new request is put there meanwhile: what is short never waits for a reader. Owns when
//! a lane stands still and when it goes on; whose a reply is is `core::reply`'s.

use crate::base::limits;
use crate::core::child::Child;
use crate::core::child::ChildState;
use crate::core::child::children::Children;
use crate::core::child::closing::CloseReason;
use crate::core::connection::slot::Slot;
use crate::core::connection::standing::Standing;
use crate::core::keys::{ChildKey, LaneKey};
use crate::core::shared::Shared;

/// When the driver may read a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneReading {
    /// At once.
    Now,
    /// It asks again in the next turn.
    NextTurn,
    /// The lane stands still. When it may be read again, its key is in `Broker::take_resumed`.
    WhenResumed,
}

impl Shared {
    #[inline]
    pub(crate) fn lane_reading(&self, key: LaneKey) -> LaneReading {
        if self.connections.standing().has(key) || self.is_about_to_go(key) {
            LaneReading::WhenResumed
        } else if self.hubs.is_delivering_of(key) || self.connections.has_unread(key) {
            LaneReading::NextTurn
        } else {
            LaneReading::Now
        }
    }

    /// Whether the connection is to go as it stands: what it says next is for another process.
    #[inline]
    fn is_about_to_go(&self, key: LaneKey) -> bool {
        self.moves.is_stilled(key) && self.connections.may_give(key)
    }

    /// A part of a long reply has been given to its child. Is memory short, the next one waits until the child has taken it.
    pub(crate) fn stand_still_if_short(&mut self, children: &Children, key: LaneKey, child: ChildKey) {
        if !self.is_short(limits::STANDING_SHORT) {
            return;
        }
        let reader = children.get(child).filter(|child| leaves_unread(child));
        let Some(taken) = reader.map(|child| child.outbox().output().consumed()) else { return };
        if self.carries_only_long(children, key) {
            self.connections.stand_still(key, Standing { child, taken, since: self.env.now });
        }
    }

    /// Lets those lanes go on whose child has taken what it had, or has gone, and all of them once there is memory again.
    pub(crate) fn resume_standing(&mut self, children: &Children) {
        if self.connections.standing().is_empty() {
            return;
        }
        let short = self.is_short(limits::STANDING_SHORT - 1);
        let waits = |standing: &Standing| short && children.get(standing.child).is_some_and(leaves_unread);
        self.connections.excuse_standing(self.env.now);
        self.connections.standing_mut().end_where(|standing| !waits(standing));
    }

    /// A child that takes next to nothing of its reply is closed: others need the memory, and stand behind it.
    pub(crate) fn look_after_standing(&mut self, children: &mut Children) {
        let now = self.env.now;
        self.connections.excuse_standing(now);
        let mut closed = Vec::new();
        for standing in self.connections.standing_mut().iter_mut() {
            // It may have gone since: then the lane goes on in this turn.
            let Some(child) = children.get(standing.child) else { continue };
            if now.saturating_sub(standing.since) < limits::STANDING_PATIENCE {
                continue;
            }
            let taken = child.outbox().output().consumed();
            if taken - standing.taken < limits::STANDING_TAKES_MIN {
                closed.push(standing.child);
            }
            (standing.taken, standing.since) = (taken, now);
        }
        for key in closed {
            if let Some(child) = children.get_mut(key) {
                CloseReason::TakesNothing.log(child);
                self.close(child);
            }
        }
    }

    /// Whether all that stands behind the reply at the front of the lane is expected to be long, too.
    fn carries_only_long(&mut self, children: &Children, key: LaneKey) -> bool {
        let Some(lane) = self.connections.known(key) else { return false };
        if lane.lease().is_some() || lane.carries_bulk() {
            return true;
        }
        let is_slow = lane.is_kept_from_others();
        let behind: Vec<Slot> =
            lane.out().entries().iter().skip(1).take(limits::STANDING_BEHIND + 1).copied().collect();
        // Nobody waits for what has no child.
        let mut is_long = |slot: &Slot| {
            children.get(slot.child).is_none_or(|child| self.expects_heavy(child, slot.command, 0))
        };
        behind.len() <= limits::STANDING_BEHIND
            && behind.iter().all(&mut is_long)
            && (is_slow || self.connections.kept_from_others() < limits::SLOW_LANES)
    }

    /// Whether so many eighths of `memory_max` are held, or more.
    fn is_short(&self, eighths: usize) -> bool {
        self.env.held() >= self.env.settings.memory_max / 8 * eighths
    }
}

/// Whether the child has yet to take something of what it has been given.
fn leaves_unread(child: &Child) -> bool {
    child.state() != ChildState::Closed && child.outbox().output().len() >= limits::STANDING_UNREAD
}
