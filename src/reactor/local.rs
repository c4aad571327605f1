//! Children without a socket: the requests of the program that runs the loop. Their bytes enter the core like those of a
//! socket, and the program reads the replies. Runs no request and no callback: events are queued in a list.

use super::Loop;
use crate::base::key::{Arena, Key};
use crate::base::limits;
use crate::core::{ChildKey, ChildKind};

/// The address of such a child in the log and in CLIENT INFO.
const PEER: &str = "local";
/// Set in the core's `link` of such a child. The link of a socket has an index in these bits, and no arena grows
/// to this one.
const LOCAL: usize = 1 << 30;

/// Identifies a child of the program itself; identifies nothing once that is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LocalKey(Key<LocalChild>);

/// What has happened to a local child since the last call of `local_events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalEvent {
    /// Output has been added for `local_read`.
    Readable(LocalKey),
    /// `local_write` has refused bytes and would accept some now.
    Writable(LocalKey),
    /// The broker has closed it; the key is invalid from now on.
    Closed(LocalKey),
}

/// A local child in the loop.
#[derive(Debug)]
pub(super) struct LocalChild {
    child: ChildKey,
    /// `Readable` is in the list.
    readable: bool,
    /// `local_write` has refused bytes since the last `Writable`.
    refused: bool,
    /// The program has closed it: its requests still run, and the replies are dropped.
    left: bool,
}

/// The local child of the core's `link`, if it is one.
pub(super) fn local_of(link: usize) -> Option<LocalKey> {
    // All bits set: no link yet.
    (link & LOCAL != 0 && link != usize::MAX).then(|| LocalKey(Key::from_bits((link & !LOCAL) as u64)))
}

/// A child that the program has not closed.
fn alive(locals: &mut Arena<LocalChild>, local: LocalKey) -> Option<&mut LocalChild> {
    locals.get_mut(local.0).filter(|entry| !entry.left)
}

impl Loop {
    /// Opens a child for the program's own requests. `None` at `children_max`, and when the loop drains or
    /// is closed.
    pub fn local_open(&mut self) -> Option<LocalKey> {
        if !self.is_serving() {
            return None;
        }
        let child = self.core.child_open(ChildKind::Local, PEER, usize::MAX)?;
        let entry = self.locals.insert(LocalChild { child, readable: false, refused: false, left: false });
        self.core.set_child_link(child, entry.to_bits() as usize | LOCAL);
        Some(LocalKey(entry))
    }

    /// Writes bytes of requests, complete or not. Returns how many were taken: a bounded number per
    /// call, and zero while the child may not be read (too many requests in flight, replies not read). A
    /// refusal is followed by `Writable` when that has changed.
    pub fn local_write(&mut self, local: LocalKey, bytes: &[u8]) -> usize {
        let Some(entry) = alive(&mut self.locals, local) else { return 0 };
        let child = entry.child;
        let count = bytes.len().min(limits::READ_TURN);
        if count == 0 {
            return 0;
        }
        if !self.core.wants_read(child) {
            entry.refused = true;
            return 0;
        }
        // The loop may have slept for long: the age of a request counts from now.
        self.tell_time();
        self.core.child_input(child, &bytes[..count]);
        self.wake();
        count
    }

    /// Passes the queued output to `take`, if there is any, stretch by stretch, and drops as many bytes from its front as
    /// `take` returns. Where that is less than it was given, the rest stays; only further output makes another `Readable`.
    pub fn local_read(&mut self, local: LocalKey, mut take: impl FnMut(&[u8]) -> usize) {
        let Some(entry) = alive(&mut self.locals, local) else { return };
        let child = entry.child;
        let output = self.core.child_output(child).map(|(_, output)| output);
        let Some(output) = output.filter(|output| !output.is_empty()) else { return };
        while !output.is_empty() {
            let given = output.front().len();
            let taken = take(output.front()).min(given);
            output.consume(taken);
            if taken < given {
                break;
            }
        }
        self.core.child_flushed(child);
        if self.core.has_work() {
            self.wake();
        }
    }

    /// Appends what has happened since the last call, each at most once.
    pub fn local_events(&mut self, into: &mut Vec<LocalEvent>) {
        for event in self.local_events.drain(..) {
            let is_due = match event {
                LocalEvent::Readable(local) => {
                    alive(&mut self.locals, local).map(|entry| entry.readable = false).is_some()
                }
                LocalEvent::Writable(local) => alive(&mut self.locals, local).is_some(),
                LocalEvent::Closed(_) => true,
            };
            if is_due {
                into.push(event);
            }
        }
    }

    /// Closes the child from the program's side, like a process that hangs up: complete requests still run,
    /// and their replies are dropped. No event of it follows.
    pub fn local_close(&mut self, local: LocalKey) {
        let Some(entry) = alive(&mut self.locals, local) else { return };
        entry.left = true;
        let child = entry.child;
        self.tell_time();
        self.core.child_eof(child);
        self.flush_local(local, child);
        self.wake();
    }

    /// The core has output for it: tells the program, or drops the output of a child the program has closed.
    pub(super) fn flush_local(&mut self, local: LocalKey, child: ChildKey) {
        let Some((_, output)) = self.core.child_output(child) else { return };
        let Some(entry) = self.locals.get_mut(local.0) else { return };
        if entry.left {
            output.consume(output.len());
        } else if !output.is_empty() && !std::mem::replace(&mut entry.readable, true) {
            self.local_events.push(LocalEvent::Readable(local));
        }
        self.core.child_flushed(child);
    }

    pub(super) fn local_resumed(&mut self, local: LocalKey) {
        if let Some(entry) = self.locals.get_mut(local.0)
            && std::mem::take(&mut entry.refused)
        {
            self.local_events.push(LocalEvent::Writable(local));
        }
    }

    pub(super) fn local_closed(&mut self, local: LocalKey) {
        if self.locals.remove(local.0).is_some_and(|entry| !entry.left) {
            self.local_events.push(LocalEvent::Closed(local));
        }
    }

    /// Whether it accepts new children, apart from `children_max`: neither closed nor draining.
    pub fn is_serving(&self) -> bool {
        !self.closed && !self.core.is_draining() && !self.is_storing()
    }

    /// Makes the descriptor readable and the timeout zero: there is work that no event announces. Wakes a thread that
    /// sleeps on the descriptor, once a turn; within a turn the work is done before the next sleep anyway.
    pub fn wake(&mut self) {
        self.unsettled = true;
        if !self.turning && !std::mem::replace(&mut self.woken, true) {
            self.waker.ring();
        }
    }
}
