//! The common part of all handles: whether one is alive, its process, which thread drives it, which threads are about to
//! ring or post, whether a fork moves it. All atomics, so that any thread may read it at any time, and a copy made at any
//! moment; knows nothing of the contents.

use super::bell;
use super::claim::{Doing, HandleClaim};
use super::codes::BROKER_EREENTRANT;
use super::fork;
use crate::base::clock::{Clock, Millis};
use crate::base::fds;
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};

pub(super) const ENDED: u8 = 0;
pub(super) const ALIVE: u8 = 1;
/// Freed inside one of its callbacks: ends when the outermost of them returns.
pub(super) const ENDING: u8 = 2;

/// Longest time a fork waits for threads that are posting, which takes a moment.
pub(super) const POSTED_WITHIN: Millis = 1_000;

/// The generation of a handle that has moved to a forked copy: that of no process.
pub(super) const ELSEWHERE: u64 = 0;

/// Identifies a handle that is being created: its descriptors are recorded under it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number(pub(super) u64);

impl Number {
    pub(super) fn next() -> Number {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        Number(SERIAL.fetch_add(1, Ordering::Relaxed))
    }

    /// Never 0, which means no owner. Wraps after two billion handles: a handle that lives as long shares its number with a
    /// later one, and if a fork moves one of the two, the other's descriptors move too.
    pub(super) fn owner(self) -> u32 {
        (self.0 as u32 & fds::OWNER_MAX).max(1)
    }
}

/// The common part of all handles. Any thread may read all of it at any time. At first none is there.
#[derive(Debug, Default)]
pub(super) struct HandleHead {
    pub(super) state: AtomicU8,
    pub(super) poisoned: AtomicBool,
    pub(super) claim: HandleClaim,
    /// How many of its callbacks are running, nested, and in which thread.
    pub(super) callbacks: AtomicU32,
    pub(super) callback_thread: AtomicUsize,
    /// The thread that runs a step of it, with the claim or between two uses of it, but not while it waits; 0 for none.
    pub(super) driven: AtomicUsize,
    pub(super) generation: AtomicU64,
    /// In a copy that could not make it its own: the reason. Never freed.
    pub(super) refusal: AtomicPtr<c_char>,
    /// Distinguishes successive handles in this memory, and a client from itself before a fork.
    pub(super) serial: AtomicU64,
    pub(super) number: AtomicU32,
    /// For the calls that any thread may make at any time: the descriptor to write to (`bell::of`), -1 if none.
    pub(super) bell: AtomicI32,
    pub(super) ringing: Present,
    pub(super) posting: Present,
    pub(super) data: AtomicPtr<c_void>,
    /// The handle it is a part of, whose bell wakes it: it belongs to the same process, as long as the serial is the same.
    pub(super) parent: AtomicPtr<HandleHead>,
    pub(super) parent_serial: AtomicU64,
    pub(super) follows: AtomicBool,
    /// The thread whose fork is moving it; 0 for none.
    pub(super) mover: AtomicUsize,
    pub(super) listed: AtomicBool,
    pub(super) next: AtomicPtr<HandleHead>,
}

/// The number of threads in a short operation, in the lower half; in the upper half the generation they are counted
/// in: those of the parent do not count in a copy.
#[derive(Debug, Default)]
pub(super) struct Present(AtomicU64);

impl Present {
    pub(super) fn begin(&self) {
        let generation = fork::generation() << 32;
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |seen| {
            let before = if seen & !u64::from(u32::MAX) == generation { seen } else { generation };
            Some(before + 1)
        });
    }

    pub(super) fn end(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn is_empty(&self) -> bool {
        let seen = self.0.load(Ordering::SeqCst);
        seen as u32 == 0 || seen >> 32 != fork::generation() & u64::from(u32::MAX)
    }
}

/// A thread drives a handle until this is dropped.
pub(super) struct Driving<'a>(pub(super) Option<&'a HandleHead>);

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        if let Some(head) = self.0 {
            // Fails if it has ended meanwhile, and another handle is there.
            let _ = head.driven.compare_exchange(this_thread(), 0, Ordering::Release, Ordering::Relaxed);
        }
    }
}

impl HandleHead {
    /// A new handle in this memory, not alive yet.
    pub(super) fn begin(&self, number: Number, bell: c_int) {
        self.poisoned.store(false, Ordering::Relaxed);
        self.claim.release();
        self.callbacks.store(0, Ordering::Relaxed);
        self.driven.store(0, Ordering::Relaxed);
        self.generation.store(fork::generation(), Ordering::Relaxed);
        fork::keep(self.refusal.swap(std::ptr::null_mut(), Ordering::AcqRel).cast());
        self.serial.store(number.0, Ordering::Relaxed);
        self.number.store(number.owner(), Ordering::Relaxed);
        self.data.store(std::ptr::null_mut(), Ordering::Relaxed);
        self.parent.store(std::ptr::null_mut(), Ordering::Relaxed);
        self.follows.store(false, Ordering::Relaxed);
        self.bell.store(bell::of(bell), Ordering::SeqCst);
    }

    pub(super) fn is_alive(&self) -> bool {
        self.state.load(Ordering::Acquire) == ALIVE
    }

    /// The handle it is a part of; another one may be there by now.
    pub(super) fn parent(&self) -> Option<&HandleHead> {
        // SAFETY: null, or the head of a handle, whose memory is never unmapped.
        unsafe { self.parent.load(Ordering::Relaxed).as_ref() }
    }

    fn is_of(&self, parent: &HandleHead) -> bool {
        parent.serial.load(Ordering::Relaxed) == self.parent_serial.load(Ordering::Relaxed)
    }

    /// The process it belongs to: its own, or that of the handle it is a part of.
    pub(super) fn home(&self) -> u64 {
        let parent = self.parent().filter(|parent| self.is_of(parent));
        parent.unwrap_or(self).generation.load(Ordering::Acquire)
    }

    pub(super) fn is_orphan(&self) -> bool {
        self.parent().is_some_and(|parent| !parent.is_alive() || !self.is_of(parent))
    }

    /// Whether this process is a copy of the one it belongs to.
    pub(super) fn is_forked(&self) -> bool {
        self.home() != fork::generation()
    }

    /// Callbacks of the parent's other threads do not run in a copy.
    pub(super) fn in_callback(&self) -> bool {
        self.callbacks.load(Ordering::Relaxed) > 0
            && (self.callback_thread.load(Ordering::Relaxed) == this_thread() || !self.is_forked())
    }

    /// Stops ringing, and waits for threads that are about to ring or to post; they never wait themselves.
    pub(super) fn silence(&self) {
        self.bell.store(-1, Ordering::SeqCst);
        while !self.ringing.is_empty() || !self.posting.is_empty() {
            std::thread::yield_now();
        }
    }

    /// Makes this thread its driver, unless another one is: `EREENTRANT`. Whoever has the claim knows who drives.
    pub(super) fn drive(&self) -> Result<Driving<'_>, c_int> {
        match self.driven.load(Ordering::Relaxed) {
            0 => {}
            thread if thread == this_thread() => return Ok(Driving(None)),
            _ => return Err(BROKER_EREENTRANT),
        }
        self.claim.take(Doing::Reading)?;
        let taken = self.driven.compare_exchange(0, this_thread(), Ordering::Relaxed, Ordering::Relaxed);
        self.claim.release();
        taken.map(|_| Driving(Some(self))).map_err(|_| BROKER_EREENTRANT)
    }

    pub(super) fn is_driven_elsewhere(&self) -> bool {
        let thread = self.driven.load(Ordering::Relaxed);
        thread != 0 && thread != this_thread()
    }

    /// In a copy: drops what the parent's other threads were doing.
    pub(super) fn forget_threads(&self) {
        if self.callback_thread.load(Ordering::Relaxed) != this_thread() {
            self.callbacks.store(0, Ordering::Relaxed);
        }
        if self.is_driven_elsewhere() {
            self.driven.store(0, Ordering::Relaxed);
        }
    }

    /// This thread is about to fork: takes the handle, if it follows and no other thread uses it. Posts from here on are
    /// refused, so that all accepted ones move with it.
    pub(super) fn depart(&self) {
        let follows = self.follows.load(Ordering::Relaxed) && self.is_alive() && !self.is_forked();
        let sound = follows && !self.poisoned.load(Ordering::Relaxed);
        // Also checked before: the thread that drives it must not find it claimed.
        if !sound || self.is_at_work_elsewhere() || self.claim.take(Doing::Changing).is_err() {
            return;
        }
        self.mover.store(this_thread(), Ordering::SeqCst);
        if self.is_at_work_elsewhere() || !self.outlasts_posts() {
            self.mover.store(0, Ordering::Release);
            self.claim.release();
        }
    }

    pub(super) fn is_at_work_elsewhere(&self) -> bool {
        let called = self.in_callback() && self.callback_thread.load(Ordering::Relaxed) != this_thread();
        called || self.is_driven_elsewhere()
    }

    /// Waits for threads that are posting. False if that takes far too long: this thread's own post is interrupted by the
    /// signal handler that forks.
    pub(super) fn outlasts_posts(&self) -> bool {
        let clock = Clock::new();
        while !self.posting.is_empty() {
            if clock.now() > POSTED_WITHIN {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    /// Whether the fork of some thread is moving it.
    pub(super) fn is_departing(&self) -> bool {
        self.mover.load(Ordering::SeqCst) != 0
    }

    /// Whether this thread's fork is moving it.
    pub(super) fn is_moving(&self) -> bool {
        self.mover.load(Ordering::Acquire) == this_thread()
    }

    pub(super) fn stay(&self, forked: bool, close: impl Fn(u32)) {
        if forked {
            self.generation.store(ELSEWHERE, Ordering::Release);
            self.silence();
            close(self.number.load(Ordering::Relaxed));
        }
        self.mover.store(0, Ordering::Release);
        self.claim.release();
    }

    /// In the copy: it belongs to this process if the fork that made this copy was moving it.
    pub(super) fn arrive(&self, generation: u64) {
        if self.is_moving() {
            self.generation.store(generation, Ordering::Release);
            self.forget_threads();
            self.claim.release();
        }
        self.mover.store(0, Ordering::Release);
    }

    /// Whether it has this number and belongs to that process.
    pub(super) fn is_home(&self, number: u32, generation: u64) -> bool {
        self.number.load(Ordering::Relaxed) == number
            && self.is_alive()
            && self.generation.load(Ordering::Relaxed) == generation
    }
}

/// Identifies threads; the same in a forked copy as in the thread that forked.
pub(super) fn this_thread() -> usize {
    thread_local!(static PLACE: u8 = const { 0 });
    PLACE.with(|place| std::ptr::from_ref(place).addr())
}
