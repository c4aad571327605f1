//! Room for requests of which only a part has been read. Together they hold at most half of `memory_max`, each what its
//! headers announce: a child whose request does not fit is not read meanwhile, and those that wait go on in the order they
//! came. The oldest may always go on, so that one ends. One that cannot fit at all is dropped as it is read, and refused in
//! its turn. Owns who holds how much and who waits; never the bytes, which are the children's.

use crate::core::keys::ChildKey;
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug, Clone, Copy)]
pub(crate) struct IntakeWaiter {
    pub(crate) child: ChildKey,
    pub(crate) ticket: Option<u64>,
    /// Bytes that it needs beyond those it holds.
    pub(crate) more: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Intake {
    held: usize,
    holders: BTreeMap<u64, ChildKey>,
    line: VecDeque<IntakeWaiter>,
    last_ticket: u64,
}

impl Intake {
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    pub(crate) fn is_waiting(&self, child: ChildKey) -> bool {
        self.line.iter().any(|waiter| waiter.child == child)
    }

    pub(crate) fn has_waiters(&self) -> bool {
        !self.line.is_empty()
    }

    pub(crate) fn holders(&self) -> Vec<ChildKey> {
        self.holders.values().copied().collect()
    }

    /// Whether so many bytes more may be held by the holder of this ticket, or by one that holds nothing yet.
    pub(crate) fn has_room(&self, ticket: Option<u64>, more: usize, max: usize) -> bool {
        let fits = self.line.is_empty() && self.held + more <= max;
        more == 0 || fits || self.is_oldest(ticket)
    }

    pub(crate) fn wait(&mut self, waiter: IntakeWaiter) {
        self.line.push_back(waiter);
    }

    pub(crate) fn leave_line(&mut self, child: ChildKey) {
        self.line.retain(|waiter| waiter.child != child);
    }

    /// Whether nobody has held something for longer.
    fn is_oldest(&self, ticket: Option<u64>) -> bool {
        self.holders.first_key_value().is_none_or(|(oldest, _)| Some(*oldest) == ticket)
    }

    /// Returns the ticket of the holder, who may be a new one.
    pub(crate) fn grant(&mut self, child: ChildKey, ticket: Option<u64>, more: usize) -> u64 {
        self.held += more;
        ticket.unwrap_or_else(|| {
            self.last_ticket += 1;
            self.holders.insert(self.last_ticket, child);
            self.last_ticket
        })
    }

    pub(crate) fn give_back(&mut self, ticket: u64, bytes: usize) {
        self.holders.remove(&ticket);
        self.held -= bytes;
    }

    /// The next of those that wait that may go on.
    pub(crate) fn next(&mut self, max: usize) -> Option<IntakeWaiter> {
        let oldest = self.holders.first_key_value().map(|(ticket, _)| *ticket);
        let stuck = self.line.iter().position(|waiter| oldest.is_some() && waiter.ticket == oldest);
        if let Some(at) = stuck {
            return self.line.remove(at);
        }
        let fits = |waiter: &&IntakeWaiter| oldest.is_none() || self.held + waiter.more <= max;
        self.line.front().filter(fits)?;
        self.line.pop_front()
    }
}
