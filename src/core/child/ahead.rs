//! How far a child that takes no replies is read ahead. Clients write a whole pipeline before they read a reply: such a
//! client is in the middle of a write and takes nothing before the rest of it has been read. Owns the bound and the next
//! look; `request::reading` decides.

use crate::base::clock::Millis;
use crate::base::limits;

#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadAhead {
    /// Bytes of requests it may have waiting; none: as many as it sends, to be told that they are too many.
    bound: Option<usize>,
    /// When it is looked at again; none while it is below the bound.
    due: Option<Millis>,
    /// Bytes it had taken when it was last looked at.
    taken: u64,
}

impl Default for ReadAhead {
    fn default() -> Self {
        ReadAhead { bound: Some(limits::CHILD_READ_AHEAD), due: None, taken: 0 }
    }
}

impl ReadAhead {
    pub(super) fn allows(&self, waiting: usize) -> bool {
        self.bound.is_none_or(|bound| waiting < bound)
    }

    pub(crate) fn exceeds(&self, max: usize) -> bool {
        self.bound.is_none_or(|bound| bound > max)
    }

    /// Has a child with so many bytes waiting looked at when that is `due`. False if it need not be, or will be.
    pub(crate) fn watch(&mut self, waiting: usize, taken: u64, due: Millis) -> bool {
        let begins = self.due.is_none() && !self.allows(waiting);
        if begins {
            (self.due, self.taken) = (Some(due), taken);
        }
        begins
    }

    /// Whether the child has taken nothing since it was last looked at, once the next look is due. That is over then.
    pub(crate) fn look(&mut self, taken: u64, now: Millis) -> Option<bool> {
        self.due.take_if(|due| *due <= now).map(|_| self.taken == taken)
    }

    /// It is read further: twice as far, and beyond `max` one byte too many.
    pub(crate) fn raise(&mut self, max: usize) {
        let raised = |bound: usize| (bound < max).then(|| bound.saturating_mul(2).min(max));
        self.bound = self.bound.and_then(raised);
    }
}
