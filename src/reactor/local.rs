//! Children without a socket: the requests of the program that runs the loop. They go into the core as a
//! socket's bytes do and come out of it when the program asks for them. Runs no request and calls nobody
//! back: what has happened waits in a list of events.

use super::Loop;
use crate::base::key::Key;
use crate::base::limits;
use crate::core::ChildKey;
use crate::core::ChildKind;

/// How the log and CLIENT INFO name such a child.
const PEER: &str = "local";
/// Set in the core's `link` of such a child. A socket's link has an index in these bits, and no arena grows
/// to this one.
const LOCAL: usize = 1 << 30;

/// Names a child of the program itself, and nothing after it has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Local(Key<Seat>);

/// What has happened to a local child since it was last asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalEvent {
    /// Output has been added for `local_read`.
    Readable(Local),
    /// `local_write` has refused bytes and would take some now.
    Writable(Local),
    /// The broker has closed it; the name is of no more use.
    Closed(Local),
}

/// A local child in the loop.
#[derive(Debug)]
pub(super) struct Seat {
    child: ChildKey,
    /// `Readable` is in the list.
    readable: bool,
    /// `local_write` has refused bytes since the last `Writable`.
    refused: bool,
    /// The program has gone from it: what it asked for is still done, and the replies are thrown away.
    left: bool,
}

/// Whether the core's `link` is a local child's, and whose.
pub(super) fn local_of(link: usize) -> Option<Local> {
    // All bits set: no link yet.
    (link & LOCAL != 0 && link != usize::MAX).then(|| Local(Key::from_bits((link & !LOCAL) as u64)))
}

impl Loop {
    /// Opens a child for the program's own requests. `None` at `children_max`, and when the loop drains or
    /// is closed.
    pub fn local_open(&mut self) -> Option<Local> {
        if !self.is_serving() {
            return None;
        }
        let child = self.core.child_open(ChildKind::Local, PEER, usize::MAX)?;
        let seat = self.seats.insert(Seat { child, readable: false, refused: false, left: false });
        self.core.set_child_link(child, seat.to_bits() as usize | LOCAL);
        Some(Local(seat))
    }

    /// Hands over bytes of requests, complete or not. Returns how many were taken: a bounded number per
    /// call, and zero while the child may not be read (too many requests in flight, replies not taken). A
    /// refusal is followed by `Writable` as soon as that has changed.
    pub fn local_write(&mut self, local: Local, bytes: &[u8]) -> usize {
        let Some(seat) = self.seats.get_mut(local.0).filter(|seat| !seat.left) else { return 0 };
        let child = seat.child;
        let count = bytes.len().min(limits::READ_TURN);
        if count == 0 {
            return 0;
        }
        if !self.core.wants_read(child) {
            seat.refused = true;
            return 0;
        }
        // The loop may have slept for long: the age of a request counts from now.
        self.tell_time();
        self.core.child_input(child, &bytes[..count]);
        self.disturb();
        count
    }

    /// Shows the output that waits, if any, and drops from its front as many bytes as `take` returns. The
    /// rest stays; only output that comes later makes another `Readable`.
    pub fn local_read(&mut self, local: Local, take: impl FnOnce(&[u8]) -> usize) {
        let Some(seat) = self.seats.get(local.0).filter(|seat| !seat.left) else { return };
        let child = seat.child;
        let Some((_, output)) = self.core.child_output(child) else { return };
        if output.is_empty() {
            return;
        }
        let taken = take(output.as_slice()).min(output.len());
        output.consume(taken);
        self.core.child_flushed(child);
        if self.core.has_work() {
            self.disturb();
        }
    }

    /// Appends what has happened since the last call, each at most once.
    pub fn local_events(&mut self, into: &mut Vec<LocalEvent>) {
        for event in self.local_events.drain(..) {
            match event {
                LocalEvent::Readable(local) => {
                    let seat = self.seats.get_mut(local.0).filter(|seat| !seat.left);
                    let Some(seat) = seat else { continue };
                    seat.readable = false;
                }
                LocalEvent::Writable(local) => {
                    if self.seats.get(local.0).is_none_or(|seat| seat.left) {
                        continue;
                    }
                }
                LocalEvent::Closed(_) => {}
            }
            into.push(event);
        }
    }

    /// The program is done with the child, as a process that hangs up: complete requests are still run,
    /// nobody sees their replies. No event of it follows.
    pub fn local_close(&mut self, local: Local) {
        let Some(seat) = self.seats.get_mut(local.0).filter(|seat| !seat.left) else { return };
        seat.left = true;
        let child = seat.child;
        self.tell_time();
        self.core.child_eof(child);
        self.flush_local(local, child);
        self.disturb();
    }

    /// The core has output for it: the program is told, or nobody is left to want it.
    pub(super) fn flush_local(&mut self, local: Local, child: ChildKey) {
        let Some((_, output)) = self.core.child_output(child) else { return };
        let Some(seat) = self.seats.get_mut(local.0) else { return };
        if seat.left {
            output.consume(output.len());
        } else if !output.is_empty() && !std::mem::replace(&mut seat.readable, true) {
            self.local_events.push(LocalEvent::Readable(local));
        }
        self.core.child_flushed(child);
    }

    /// The core would read it again.
    pub(super) fn local_resumed(&mut self, local: Local) {
        if let Some(seat) = self.seats.get_mut(local.0)
            && std::mem::take(&mut seat.refused)
        {
            self.local_events.push(LocalEvent::Writable(local));
        }
    }

    /// The core has closed it.
    pub(super) fn local_closed(&mut self, local: Local) {
        if self.seats.remove(local.0).is_some_and(|seat| !seat.left) {
            self.local_events.push(LocalEvent::Closed(local));
        }
    }

    /// Whether it takes new children, but for `children_max`: neither closed nor draining.
    pub fn is_serving(&self) -> bool {
        !self.closed && !self.core.is_draining()
    }

    /// Makes the descriptor readable and the timeout zero: something outside of the loop wants a turn.
    pub fn wake(&mut self) {
        self.disturb();
    }

    /// There is work that no event announces. Whoever sleeps on the descriptor is woken, once a turn; within
    /// a turn it is done before the next sleep anyway.
    pub(super) fn disturb(&mut self) {
        self.unsettled = true;
        if !self.turning && !std::mem::replace(&mut self.woken, true) {
            self.waker.ring();
        }
    }
}
