//! How far a child is read ahead of what may run. Clients write a whole pipeline before they read a reply: such a child
//! is in the middle of a write, and takes nothing before somebody has read that. Decides who is read on, how far, and
//! what is told beyond; never runs a request.

use super::broker::Broker;
use super::child::{Child, ChildKind, ChildState, Hold};
use super::timers::Timer;
use crate::base::clock::Millis;
use crate::base::key::Key;
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

impl Broker {
    /// Whether the driver may read from this child now. When it may again, the key is in `take_resumed`.
    pub fn wants_read(&self, key: Key<Child>) -> bool {
        let Some(child) = self.children.get(key) else { return false };
        // One that has enough to run for its next turn is read when it has had it.
        let has_enough = child.runnable && child.input.len() >= limits::READ_TURN;
        takes_bytes(child) && (child.state != ChildState::Open || child.hold != Hold::None || !has_enough)
    }

    /// Whether bytes of this child could be of use at all, however much it has to run.
    pub fn takes_bytes(&self, key: Key<Child>) -> bool {
        self.children.get(key).is_some_and(takes_bytes)
    }

    /// Bytes of requests that one child may have waiting: one request of the greatest size, and in any case a pipeline
    /// of a usual one.
    fn read_ahead_max(&self) -> usize {
        self.request_max().max(limits::CHILD_READ_AHEAD)
    }

    /// Adds bytes behind requests that wait. Returns false if that was too much, and the child has been told.
    pub(super) fn keep_waiting(&mut self, key: Key<Child>, bytes: &[u8]) -> bool {
        let max = self.read_ahead_max();
        let Some(child) = self.children.get_mut(key) else { return false };
        child.input.append_within(bytes, max + limits::READ_TURN);
        let too_much = child.input.len() > max
            && match child.hold {
                Hold::Output => child.ahead.bound > max,
                Hold::Element => true,
                _ => false,
            };
        if too_much {
            let max = self.settings.child_input_max;
            self.overrun(key, "child_input_max", max);
        }
        !too_much
    }

    /// A child at the bound of its read-ahead is looked at a little later: one that has taken replies meanwhile is only
    /// slow, and its socket holds it back.
    pub(super) fn watch_read_ahead(&mut self, key: Key<Child>) {
        let due = self.now + limits::READ_AHEAD_PATIENCE;
        let Some(child) = self.children.get_mut(key) else { return };
        // A local child reads and writes by turns, and is told when to go on. One whose replies stand behind one that
        // is still upstream has none to take.
        let waits = child.hold == Hold::Output && child.kind != ChildKind::Local && !child.output.is_empty();
        if waits && child.ahead.due.is_none() && child.input.len() >= child.ahead.bound {
            child.ahead.due = Some(due);
            child.ahead.taken = child.output.consumed();
            self.timers.arm(due, Timer::Child(key));
        }
    }

    /// It is time to look: a child that has taken nothing has to be read further.
    pub(super) fn read_further(&mut self, key: Key<Child>) {
        let max = self.read_ahead_max();
        let Some(child) = self.children.get_mut(key) else { return };
        if child.ahead.due.is_none_or(|due| due > self.now) {
            return;
        }
        child.ahead.due = None;
        if child.ahead.taken != child.output.consumed() || child.output.is_empty() {
            return self.watch_read_ahead(key);
        }
        // Beyond the greatest bound the next byte is one too many.
        let further = child.ahead.bound.saturating_mul(2).min(max);
        child.ahead.bound = if child.ahead.bound >= max { usize::MAX } else { further };
        if self.wants_read(key) {
            self.resume(key);
        }
    }

    /// `memory_max` is reached and this child holds most. False if that is not its requests, or nothing can be told.
    pub(super) fn give_up_requests(&mut self, key: Key<Child>) -> bool {
        let Some(child) = self.children.get(key) else { return false };
        let requests = child.input.capacity();
        // Behind a reply that is still upstream the word would come late, if ever.
        let told = child.state == ChildState::Open
            && child.replies.is_empty()
            && matches!(child.hold, Hold::None | Hold::Output);
        if !told || requests <= child.footprint / 2 {
            return false;
        }
        self.overrun(key, "memory_max", self.settings.memory_max);
        self.account_child(key);
        true
    }

    /// More of its requests wait than may: they are given up, and the child is told so behind the replies it is owed.
    pub(super) fn overrun(&mut self, key: Key<Child>, setting: &str, max: usize) {
        let Some(child) = self.children.get(key) else { return };
        let (label, held, hold) = (child.label(), child.input.len(), child.hold);
        log::warn!("{setting} reached: closing child {label}, {held} bytes of whose requests wait");
        if !matches!(hold, Hold::None | Hold::Output) {
            // Its own request is in the way of any word. Redis closes it too.
            return self.close_child(key);
        }
        self.answer_error(
            key,
            format!("BROKERLIMIT {setting} is {max} bytes, and requests waited beyond it"),
        );
        self.finish(key);
    }
}

fn takes_bytes(child: &Child) -> bool {
    match (child.state, child.hold) {
        // Nobody runs what it still sends. But it has to get rid of it before it can read what it was told.
        (ChildState::Finishing, _) => child.deaf || child.kind != ChildKind::Local,
        (ChildState::Ending, _) => false,
        (ChildState::Open, Hold::None) => true,
        (ChildState::Open, Hold::Output) => child.input.len() < child.ahead.bound,
        // Whoever it waits for may wait for the end of its write.
        (ChildState::Open, Hold::Element) => child.kind != ChildKind::Local,
        // These end by themselves: by a reply that is on its way, or in time.
        (ChildState::Open, _) => false,
    }
}
