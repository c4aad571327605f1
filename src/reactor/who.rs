//! Who the children are: tells the core who has written, looks up the processes it wants to know, a few in each turn, and
//! finds out which of them have ended. Owns the kernel's handles of those that wait to be looked up; decides no right.

use super::{Link, Loop};
use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::base::limits;
use crate::core::{ChildKey, ProcessKey};
use crate::transport::conn::Fill;
use crate::transport::process::{exists, handle_of_peer, is_at_work, look_up};
use crate::transport::stream::Stream;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;

#[derive(Debug, Default)]
pub(super) struct Lookups {
    line: VecDeque<(ProcessKey, i32, Option<OwnedFd>)>,
    handles: usize,
    /// Where the look at whether processes are still there goes on, and when the next one begins.
    checked: usize,
    due: Millis,
    /// Where the closer look goes on, and how many have had one this time.
    read: usize,
    read_now: usize,
}

impl Lookups {
    /// Whether there is more to look up, or to look at, than one turn has done.
    pub(super) fn is_waiting(&self) -> bool {
        !self.line.is_empty() || self.checked > 0
    }

    fn next(&mut self) -> Option<(ProcessKey, i32, Option<OwnedFd>)> {
        let next = self.line.pop_front()?;
        self.handles -= usize::from(next.2.is_some());
        Some(next)
    }
}

impl Loop {
    /// Takes over what the core wants to know. `peer` is the connection of the process of
    /// this pid, if it has made that itself.
    pub(super) fn note_wanted(&mut self, peer: Option<(&Stream, i32)>) {
        while let Some((key, pid)) = self.core.next_wanted_process() {
            let has_room = self.lookups.handles < limits::PROCESS_HANDLES;
            let own = peer.filter(|(_, of)| *of == pid && has_room);
            let handle = own.and_then(|(stream, _)| handle_of_peer(stream));
            self.lookups.handles += usize::from(handle.is_some());
            self.lookups.line.push_back((key, pid, handle));
        }
    }

    /// Tells the core who has written what was read last. On a busy connection that is known now and then.
    #[inline]
    pub(super) fn note_writer(&mut self, key: Key<Link>, child: ChildKey, fill: &Fill) {
        if !matches!(fill, Fill::Bytes(_)) {
            return;
        }
        let Some(link) = self.links.get_mut(key) else { return };
        let writer = link.conn.writer();
        if writer.is_some() || link.knows_writer {
            link.knows_writer = writer.is_some();
            self.core.child_written_by(child, writer);
            self.note_wanted(None);
        }
    }

    /// Looks up some of the processes in line, and now and then whether all are still there.
    pub(super) fn look_up_processes(&mut self) {
        for _ in 0..limits::LOOK_UPS_TURN {
            let Some((key, pid, handle)) = self.lookups.next() else { break };
            self.core.process_found(key, look_up(pid, handle.as_ref()).ok());
        }
        if self.lookups.due <= self.told {
            self.check_processes();
        }
    }

    fn check_processes(&mut self) {
        for _ in 0..limits::PROCESSES_CHECKED_TURN {
            let Some((next, key, pid, _)) = self.core.process_from(self.lookups.checked) else {
                (self.lookups.checked, self.lookups.read_now) = (0, 0);
                self.lookups.due = self.told + limits::PROCESSES_CHECKED;
                return;
            };
            self.lookups.checked = next;
            if !exists(pid) {
                self.core.process_ended(key);
            }
            self.check_closely();
        }
    }

    /// The next one in turn, as long as some may be read this time.
    fn check_closely(&mut self) {
        if self.lookups.read_now == limits::PROCESSES_READ {
            return;
        }
        self.lookups.read_now += 1;
        let Some((next, key, pid, began)) = self.core.process_from(self.lookups.read) else {
            self.lookups.read = 0;
            return;
        };
        self.lookups.read = next;
        if began.is_some_and(|began| !is_at_work(pid, began)) {
            self.core.process_ended(key);
        }
    }
}
