//! Which thread is inside a handle: one at a time, distinguished from threads that no longer exist. Owns the word that
//! records it; knows nothing of the contents.

use super::codes::{BROKER_EFORKED, BROKER_EREENTRANT};
use super::fork;
use std::cell::Cell;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU64, Ordering};

const FREE: u64 = 0;
/// The thread waits and changes nothing. If it is cancelled there, it never returns.
const WAITING: u64 = 1 << 63;
/// The thread only reads: a copy of the process finds nothing half-changed.
const READING: u64 = 1 << 62;
/// In the bits below: the generation of the process, and the number of the thread.
const GENERATION: u64 = (1 << 30) - 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Changing,
    Reading,
}

/// See the module. Free at first.
#[derive(Debug, Default)]
pub(super) struct HandleClaim(AtomicU64);

impl HandleClaim {
    /// Enters: `EREENTRANT` if a thread is inside, `EFORKED` in a copy if one of the parent was changing something.
    pub(super) fn take(&self, doing: Doing) -> Result<(), c_int> {
        let own = mine() | if doing == Doing::Reading { READING } else { 0 };
        let mut seen = FREE;
        loop {
            match self.0.compare_exchange(seen, own, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(found) => seen = found,
            }
            let of_copy = (seen ^ own) >> 32 & GENERATION != 0;
            // A waiting thread can only get here if it was cancelled and this is one of its cleanup handlers.
            let left = seen & WAITING != 0 && seen as u32 == own as u32;
            if seen != FREE && of_copy && seen & (READING | WAITING) == 0 {
                return Err(BROKER_EFORKED);
            }
            if seen != FREE && !of_copy && !left {
                return Err(BROKER_EREENTRANT);
            }
        }
    }

    /// The same in a copy, whatever the parent's threads were doing.
    pub(super) fn take_over(&self) -> Result<(), c_int> {
        let seen = self.0.load(Ordering::Acquire);
        if seen != FREE && (seen ^ mine()) >> 32 & GENERATION == 0 {
            return Err(BROKER_EREENTRANT);
        }
        let taken = self.0.compare_exchange(seen, mine(), Ordering::Acquire, Ordering::Relaxed);
        taken.map(drop).map_err(|_| BROKER_EREENTRANT)
    }

    pub(super) fn release(&self) {
        self.0.store(FREE, Ordering::Release);
    }

    /// The thread inside waits from now on: `end_wait`, or the end of the thread, releases the claim. The claim itself must
    /// not be dropped before. A thread that waits twice was cancelled in the first wait and runs a cleanup handler, or it
    /// is in a signal handler: the first claim is released here.
    pub(super) fn begin_wait(&'static self) {
        // Refused in a thread that is ending, which can no longer be cancelled.
        let previous = WAITED.try_with(|waited| waited.0.replace(Some(self))).ok().flatten();
        self.0.store(mine() | WAITING, Ordering::Release);
        if let Some(previous) = previous.filter(|previous| !std::ptr::eq(*previous, self)) {
            previous.release_wait();
        }
    }

    pub(super) fn end_wait(&self) {
        let _ = WAITED.try_with(|waited| {
            if waited.0.get().is_some_and(|claim| std::ptr::eq(claim, self)) {
                waited.0.set(None);
            }
        });
        self.release_wait();
    }

    /// Fails if this thread no longer waits: it has used the handle since, and left it.
    fn release_wait(&self) {
        let _ = self.0.compare_exchange(mine() | WAITING, FREE, Ordering::Release, Ordering::Relaxed);
    }
}

/// The claim on which a thread waits: released when the thread ends there, before it can be joined.
struct Waited(Cell<Option<&'static HandleClaim>>);

thread_local! {
    static WAITED: Waited = const { Waited(Cell::new(None)) };
    /// The generation of this thread's number, and the number.
    static THREAD: Cell<(u64, u32)> = const { Cell::new((0, 0)) };
}

impl Drop for Waited {
    fn drop(&mut self) {
        if let Some(claim) = self.0.take() {
            claim.release_wait();
        }
    }
}

/// The value this thread writes into a claim.
fn mine() -> u64 {
    let generation = fork::generation();
    let (of, mut thread) = THREAD.get();
    if of != generation {
        // SAFETY: reads only.
        thread = unsafe { libc::gettid() } as u32;
        THREAD.set((generation, thread));
    }
    (generation & GENERATION) << 32 | u64::from(thread)
}
