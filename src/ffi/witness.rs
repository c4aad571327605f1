//! Whether a fork has made a child. The parent's handler is told by nobody, and errno may be what another handler has left
//! there: so the child writes to memory that the two share. Owns that memory, from before a fork until after it.

use crate::base::clock::{Clock, Millis};
use std::cell::Cell;
use std::ffi::c_long;
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};

/// How long the parent waits for the child's word, where it has other children and the fork seems to have failed.
const PATIENCE: Millis = 1_000;
/// What is mapped; the kernel rounds it up to a page.
const SIZE: usize = 1;

thread_local! {
    /// Of the fork that this thread is in. Null outside of one, and where there was no memory.
    static WORD: Cell<*mut AtomicU8> = const { Cell::new(ptr::null_mut()) };
}

/// Before a fork.
pub(super) fn call() {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: asks for fresh memory of zeros; nothing else is mapped over or freed.
    let word = unsafe { libc::mmap(ptr::null_mut(), SIZE, access, kind, -1, 0) };
    WORD.set(if word == libc::MAP_FAILED { ptr::null_mut() } else { word.cast() });
}

/// In the child.
pub(super) fn testify() {
    with_word(|word| word.store(1, Ordering::Release));
}

/// In the parent: whether there is a child, where errno says that the fork `failed` or that it did not.
pub(super) fn has_child(failed: bool) -> bool {
    with_word(|word| !failed || is_written(word)).unwrap_or(!failed)
}

fn with_word<R>(body: impl FnOnce(&AtomicU8) -> R) -> Option<R> {
    let place = WORD.replace(ptr::null_mut());
    // SAFETY: null, or mapped by `call` and not yet unmapped.
    let result = body(unsafe { place.as_ref() }?);
    // SAFETY: as above; nobody has a reference to it any more.
    unsafe { libc::munmap(place.cast(), SIZE) };
    Some(result)
}

/// Waits for the word of a child that may not exist.
fn is_written(word: &AtomicU8) -> bool {
    let clock = Clock::new();
    loop {
        // Asked first: a child that has ended since has written before.
        let childless = is_childless();
        if word.load(Ordering::Acquire) != 0 {
            return true;
        }
        if childless || clock.now() > PATIENCE {
            return false;
        }
        rest();
    }
}

/// Whether this process has no child at all.
fn is_childless() -> bool {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    let nothing = ptr::null_mut::<libc::rusage>();
    // SAFETY: writes to a place of ours, and reaps nobody. Unlike waitid(3) no place where a thread is cancelled.
    let asked =
        unsafe { libc::syscall(libc::SYS_waitid, libc::P_ALL, 0, info.as_mut_ptr(), options, nothing) };
    // SAFETY: errno is this thread's own.
    asked < 0 && unsafe { *libc::__errno_location() } == libc::ECHILD
}

/// A millisecond, in which no thread is cancelled.
fn rest() {
    let time = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    let (nobody, no_mask) = (ptr::null_mut::<libc::pollfd>(), ptr::null::<libc::sigset_t>());
    let (count, size): (c_long, c_long) = (0, 0);
    // SAFETY: reads a place of ours, and watches nothing.
    unsafe { libc::syscall(libc::SYS_ppoll, nobody, count, ptr::from_ref(&time), no_mask, size) };
}
