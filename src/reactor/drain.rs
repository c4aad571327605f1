//! The graceful end of a loop, in steps between which it serves as ever: the connections that wait are accepted, what every
//! child has sent is read, then the core takes nothing more. Decides nothing about a child.

use super::accept::Door;
use super::pace::StepKind;
use super::{Link, Loop, Owner};
use crate::base::key::Key;
use crate::base::limits;
use crate::transport::conn::Fill;
use std::collections::VecDeque;

#[derive(Debug, Default)]
pub(super) enum Draining {
    #[default]
    No,
    /// So many connections may still be accepted: no more than have waited when the drain began.
    Accepting { left: usize },
    /// These links are still to be read, and the first of them so many times.
    Reading { links: VecDeque<Key<Link>>, reads: usize },
    /// The core ends every child.
    Dismissed,
}

impl Draining {
    /// Whether it has begun, and there is something to do for it here.
    pub(super) fn is_under_way(&self) -> bool {
        matches!(self, Draining::Accepting { .. } | Draining::Reading { .. })
    }
}

impl Loop {
    /// Ends the service gracefully: accepts the waiting connections, reads what every child has sent, and closes
    /// the listeners, that of the console last. Complete requests are answered; blocked commands and open transactions have
    /// `drain_timeout`. With many children this takes some turns. `run` returns `Ok(false)` when the last child is closed.
    ///
    /// Where the program has a store (`store_children`), children at rest go there first.
    pub fn drain(&mut self) {
        if !self.begin_storing() {
            self.drain_within(None);
        }
    }

    /// As `drain`, with its own timeout in milliseconds; `None` is `drain_timeout`. A second call can
    /// only shorten it.
    pub fn drain_within(&mut self, timeout_ms: Option<u64>) {
        // One that stores drains afterwards.
        if self.closed || self.is_storing() {
            return;
        }
        self.pace.begin_turn();
        self.tell_time();
        self.end_handover();
        if !self.core.is_draining() {
            self.draining = Draining::Accepting { left: limits::LISTEN_BACKLOG as usize };
            self.listeners.iter_mut().for_each(|listener| listener.look_again());
        }
        self.core.drain(timeout_ms);
        self.pace.step(StepKind::Drain);
        self.go_on_draining();
        self.settle();
        self.pace.end_turn();
    }

    /// As much of it as a turn has room for.
    pub(super) fn go_on_draining(&mut self) {
        if let Draining::Accepting { left } = self.draining {
            let left = left.saturating_sub(self.accept_pending());
            self.draining = Draining::Accepting { left };
            for index in (0..self.listeners.len()).rev() {
                let listener = &self.listeners[index];
                if listener.door != Door::Admin && (left == 0 || !listener.may_accept()) {
                    self.close_door(index);
                }
            }
            // The console is asked what the drain waits for, and may shorten it.
            if self.listeners.iter().all(|listener| listener.door == Door::Admin) {
                let links = self.links.keys().into();
                self.draining = Draining::Reading { links, reads: limits::DRAIN_READS };
            }
        }
        if let Draining::Reading { links, reads } = &mut self.draining {
            // It is still being read meanwhile: sockets that are handed over then are taken.
            let (links, reads) = (std::mem::take(links), *reads);
            self.draining = self.read_out(links, reads);
        }
    }

    /// Reads what children have sent so far, one after the other.
    fn read_out(&mut self, mut links: VecDeque<Key<Link>>, mut reads: usize) -> Draining {
        self.pace.before(StepKind::ChildInput);
        let mut newcomers = Vec::new();
        while let Some(key) = links.front().copied() {
            if reads == 0 || !self.read_more(key, &mut newcomers) {
                links.pop_front();
                reads = limits::DRAIN_READS;
            } else {
                reads -= 1;
            }
            links.extend(newcomers.drain(..));
            self.pace.short_step(StepKind::ChildInput);
            if self.pace.has_lasted(limits::TURN_READS) && !links.is_empty() {
                return Draining::Reading { links, reads };
            }
        }
        self.core.dismiss();
        Draining::Dismissed
    }

    /// One read of a child. Whether there may be more to read; `newcomers` gets the links of the sockets it has handed over.
    fn read_more(&mut self, key: Key<Link>, newcomers: &mut Vec<Key<Link>>) -> bool {
        let Some(link) = self.links.get_mut(key) else { return false };
        let Owner::Child(child) = link.owner else { return false };
        link.conn.look_again();
        if !self.core.takes_bytes(child) {
            return false;
        }
        let fill = self.handed.fill(link, &mut self.scratch, self.told);
        let full = matches!(fill, Fill::Bytes(count) if count == self.scratch.len());
        let more = full || link.conn.unread();
        self.note_writer(key, child, &fill);
        self.child_filled(child, fill);
        self.take_handed(child, newcomers);
        more
    }
}
