//! How far a child is read ahead of what may run. Clients write a whole pipeline before they read a reply: such a child
//! is in the middle of a write, and takes nothing before somebody has read that. Decides who is read on, how far, and
//! what is told beyond; never runs a request.

use super::child::{Child, ChildKind, ChildState, Hold};
use super::shared::Shared;
use super::timers::Timer;
use crate::base::clock::Millis;
use crate::base::limits;

/// How far a child that takes no replies is read, and since when it has taken none.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadAhead {
    /// Bytes of requests it may have waiting.
    bound: usize,
    /// When it is looked at again; none while it is below the bound.
    due: Option<Millis>,
    /// Bytes it had taken when it was last looked at.
    taken: u64,
}

impl Default for ReadAhead {
    fn default() -> Self {
        ReadAhead { bound: limits::CHILD_READ_AHEAD, due: None, taken: 0 }
    }
}

impl Shared {
    /// Bytes of requests that one child may have waiting: one request of the greatest size, and in any case a pipeline
    /// of a usual one.
    fn read_ahead_max(&self) -> usize {
        self.request_max().max(limits::CHILD_READ_AHEAD)
    }

    /// Adds bytes behind requests that wait. Returns false if that was too much, and the child has been told.
    pub(super) fn keep_waiting(&mut self, child: &mut Child, bytes: &[u8]) -> bool {
        let max = self.read_ahead_max();
        child.input.append_within(bytes, max + limits::READ_TURN);
        let too_much = child.input.len() > max
            && match child.hold {
                Hold::Output => child.ahead.bound > max,
                Hold::Element => true,
                _ => false,
            };
        if too_much {
            let max = self.env.settings.child_input_max;
            self.overrun(child, "child_input_max", max);
        }
        !too_much
    }

    /// A child at the bound of its read-ahead is looked at a little later: one that has taken replies meanwhile is only
    /// slow, and its socket holds it back.
    pub(super) fn watch_read_ahead(&mut self, child: &mut Child) {
        let due = self.env.now + limits::READ_AHEAD_PATIENCE;
        // A local child reads and writes by turns, and is told when to go on. One whose replies stand behind one that
        // is still upstream has none to take.
        let waits = child.hold == Hold::Output && child.kind != ChildKind::Local && !child.output.is_empty();
        if waits && child.ahead.due.is_none() && child.input.len() >= child.ahead.bound {
            child.ahead.due = Some(due);
            child.ahead.taken = child.output.consumed();
            self.env.timers.arm(due, Timer::Child(child.key));
        }
    }

    /// It is time to look: a child that has taken nothing has to be read further.
    pub(super) fn read_further(&mut self, child: &mut Child) {
        let max = self.read_ahead_max();
        if child.ahead.due.is_none_or(|due| due > self.env.now) {
            return;
        }
        child.ahead.due = None;
        if child.ahead.taken != child.output.consumed() || child.output.is_empty() {
            return self.watch_read_ahead(child);
        }
        // Beyond the greatest bound the next byte is one too many.
        let further = child.ahead.bound.saturating_mul(2).min(max);
        child.ahead.bound = if child.ahead.bound >= max { usize::MAX } else { further };
        if child.wants_read() {
            self.resume(child);
        }
    }

    /// `memory_max` is reached and this child holds most. False if that is not its requests, or nothing can be told.
    pub(super) fn give_up_requests(&mut self, child: &mut Child) -> bool {
        let requests = child.input.capacity();
        // Behind a reply that is still upstream the word would come late, if ever.
        let told = child.state == ChildState::Open
            && child.replies.is_empty()
            && matches!(child.hold, Hold::None | Hold::Output);
        if !told || requests <= child.footprint / 2 {
            return false;
        }
        self.overrun(child, "memory_max", self.env.settings.memory_max);
        self.account_child(child);
        true
    }

    /// More of its requests wait than may: they are given up, and the child is told so behind the replies it is owed.
    pub(super) fn overrun(&mut self, child: &mut Child, setting: &str, max: usize) {
        let (label, held, hold) = (child.label(), child.input.len(), child.hold);
        log::warn!("{setting} reached: closing child {label}, {held} bytes of whose requests wait");
        if !matches!(hold, Hold::None | Hold::Output) {
            // Its own request is in the way of any word. Redis closes it too.
            return self.close(child);
        }
        self.answer_error(
            child,
            format!("BROKERLIMIT {setting} is {max} bytes, and requests waited beyond it"),
        );
        self.finish(child);
    }
}

impl Child {
    /// Whether it may be read now.
    pub(super) fn wants_read(&self) -> bool {
        // One that has enough to run for its next turn is read when it has had it.
        let has_enough = self.runnable && self.input.len() >= limits::READ_TURN;
        self.takes_bytes() && (self.state != ChildState::Open || self.hold != Hold::None || !has_enough)
    }

    /// Whether bytes of it could be of use at all, however much it has to run.
    pub(super) fn takes_bytes(&self) -> bool {
        match (self.state, self.hold) {
            // Nobody runs what it still sends. But it has to get rid of it before it can read what it was told.
            (ChildState::Finishing, _) => self.deaf || self.kind != ChildKind::Local,
            (ChildState::Ending | ChildState::Closed, _) => false,
            (ChildState::Open, Hold::None) => true,
            (ChildState::Open, Hold::Output) => self.input.len() < self.ahead.bound,
            // Whoever it waits for may wait for the end of its write.
            (ChildState::Open, Hold::Element) => self.kind != ChildKind::Local,
            // These end by themselves: by a reply that is on its way, or in time.
            (ChildState::Open, _) => false,
        }
    }
}
