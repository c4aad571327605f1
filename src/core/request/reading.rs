//! How far a child is read ahead of what may run. Clients write a whole pipeline before they read a reply: such a child
//! is in the middle of a write, and takes nothing before somebody has read that. Decides who is read on, how far, and
//! what is told beyond; never runs a request.

use crate::base::limits;
use crate::core::child::Child;
use crate::core::child::ChildState;
use crate::core::child::hold::Hold;
use crate::core::shared::Shared;
use crate::core::timers::Timer;

impl Shared {
    /// Bytes of requests that one child may have waiting: one request of the greatest size, and in any case a pipeline
    /// of a usual one.
    fn read_ahead_max(&self) -> usize {
        self.request_max().max(limits::CHILD_READ_AHEAD)
    }

    /// Adds bytes behind requests that wait. Returns false if that was too much, and the child has been told.
    pub(in crate::core) fn keep_waiting(&mut self, child: &mut Child, bytes: &[u8]) -> bool {
        let max = self.read_ahead_max();
        child.input.append_within(bytes, max + limits::READ_TURN);
        let too_much = child.input.len() > max
            && match child.hold {
                Hold::OutputFull => child.ahead.bound > max,
                Hold::BlockingReply => true,
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
    pub(in crate::core) fn watch_read_ahead(&mut self, child: &mut Child) {
        let due = self.env.now + limits::READ_AHEAD_PATIENCE;
        // A local child reads and writes by turns, and is told when to go on. One whose replies stand behind one that
        // is still upstream has none to take.
        let waits = child.hold == Hold::OutputFull && !child.is_local() && !child.output.is_empty();
        if waits && child.ahead.due.is_none() && child.input.len() >= child.ahead.bound {
            child.ahead.due = Some(due);
            child.ahead.taken = child.output.consumed();
            self.env.timers.arm(due, Timer::Child(child.key));
        }
    }

    /// It is time to look: a child that has taken nothing has to be read further.
    pub(in crate::core) fn read_further(&mut self, child: &mut Child) {
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
    pub(in crate::core) fn give_up_requests(&mut self, child: &mut Child) -> bool {
        let requests = child.input.capacity();
        // Behind a reply that is still upstream the word would come late, if ever.
        let told = child.state == ChildState::Open
            && child.replies.is_empty()
            && matches!(child.hold, Hold::None | Hold::OutputFull);
        if !told || requests <= child.footprint / 2 {
            return false;
        }
        self.overrun(child, "memory_max", self.env.settings.memory_max);
        self.account_child(child);
        true
    }

    /// More of its requests wait than may: they are given up, and the child is told so behind the replies it is owed.
    pub(in crate::core) fn overrun(&mut self, child: &mut Child, setting: &str, max: usize) {
        let (label, held, hold) = (child.label(), child.input.len(), child.hold);
        log::warn!("{setting} reached: closing child {label}, {held} bytes of whose requests wait");
        if !matches!(hold, Hold::None | Hold::OutputFull) {
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
