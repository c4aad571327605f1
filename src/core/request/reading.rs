//! How far a child is read ahead of what may run, and what it is told beyond. Never runs a request.

use crate::base::failure::{Failure, Limit};
use crate::base::limits;
use crate::core::child::closing::CloseReason;
use crate::core::child::hold::Hold;
use crate::core::child::{Child, ChildState};
use crate::core::shared::Shared;
use crate::core::timers::Timer;

impl Shared {
    /// Bytes of requests that one child may have waiting: one request of the greatest size, and in any case a pipeline
    /// of a usual one.
    fn read_ahead_max(&self) -> usize {
        self.request_max().max(limits::CHILD_READ_AHEAD)
    }

    /// Adds bytes behind requests that wait. Returns false if that was too much, and the child has been told.
    pub(crate) fn keep_waiting(&mut self, child: &mut Child, bytes: &[u8]) -> bool {
        let max = self.read_ahead_max();
        child.inbox_mut().append_within(bytes, max + limits::READ_TURN);
        let too_much = child.inbox().len() > max
            && match child.hold() {
                Hold::OutputFull => child.ahead_mut().exceeds(max),
                Hold::BlockingReply | Hold::Element => true,
                _ => false,
            };
        if too_much {
            self.overrun(child, "child_input_max", self.env.settings.child_input_max);
        }
        !too_much
    }

    /// A child at the bound of its read-ahead is looked at a little later: one that has taken replies meanwhile is only
    /// slow, and its socket holds it back.
    pub(crate) fn watch_read_ahead(&mut self, child: &mut Child) {
        let due = self.env.now + limits::READ_AHEAD_PATIENCE;
        // A local child reads and writes by turns, and is told when to go on. One whose replies stand behind one that
        // is still upstream has none to take.
        let waits = child.hold() == Hold::OutputFull
            && !child.origin().is_local()
            && !child.outbox().output().is_empty();
        let (waiting, taken) = (child.inbox().len(), child.outbox().output().consumed());
        if waits && child.ahead_mut().watch(waiting, taken, due) {
            self.env.timers.arm(due, Timer::Child(child.key()));
        }
    }

    /// It is time to look: a child that has taken nothing has to be read further.
    pub(crate) fn read_further(&mut self, child: &mut Child) {
        let taken = child.outbox().output().consumed();
        let Some(is_stuck) = child.ahead_mut().look(taken, self.env.now) else { return };
        if !is_stuck || child.outbox().output().is_empty() {
            return self.watch_read_ahead(child);
        }
        child.ahead_mut().raise(self.read_ahead_max());
        if child.wants_read() {
            self.resume(child);
        }
    }

    /// `memory_max` is reached and this child holds most. False if that is not its requests, or nothing can be told.
    pub(crate) fn give_up_requests(&mut self, child: &mut Child) -> bool {
        let requests = child.inbox().footprint();
        // Behind a reply that is still upstream the word would come late, if ever.
        let told = child.state() == ChildState::Open
            && child.outbox().is_answered()
            && matches!(child.hold(), Hold::None | Hold::OutputFull);
        if !told || requests <= child.footprint() / 2 {
            return false;
        }
        self.overrun(child, "memory_max", self.env.settings.memory_max);
        self.account_child(child);
        true
    }

    /// More of its requests wait than may: they are given up, and the child is told so behind the replies it is owed.
    pub(crate) fn overrun(&mut self, child: &mut Child, setting: &'static str, max_bytes: usize) {
        CloseReason::InputMax(setting).log(child);
        if !matches!(child.hold(), Hold::None | Hold::OutputFull) {
            // Its own request is in the way of any word. Redis closes it too.
            return self.close(child);
        }
        self.answer_error(child, Failure::Limited(Limit::Requests { setting, max_bytes }));
        self.finish(child);
    }
}
