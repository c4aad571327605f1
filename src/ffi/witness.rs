//! Whether a fork has created a child. The parent's fork handler is not told, and another handler may have changed errno.
//! So the child writes to memory that both share. Owns that memory, from before a fork until after it.

use super::errno;
use crate::base::clock::{Clock, Millis};
use std::cell::Cell;
use std::ffi::c_long;
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};

/// How long the parent waits for the child's write, if it has other children and the fork seems to have failed.
const PATIENCE: Millis = 1_000;
/// Bytes mapped; the kernel rounds it up to a page.
const SIZE: usize = 1;

thread_local! {
    /// Of this thread's current fork. Null outside of one, and if there was no memory.
    static WORD: Cell<*mut AtomicU8> = const { Cell::new(ptr::null_mut()) };
}

/// Before a fork.
pub(super) fn call() {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: maps new zeroed memory; nothing else is mapped over or freed.
    let word = unsafe { libc::mmap(ptr::null_mut(), SIZE, access, kind, -1, 0) };
    WORD.set(if word == libc::MAP_FAILED { ptr::null_mut() } else { word.cast() });
}

/// In the child.
pub(super) fn testify() {
    with_word(|word| word.store(1, Ordering::Release));
}

/// In the parent: whether there is a child; errno says that the fork `failed` or that it did not.
pub(super) fn has_child(failed: bool) -> bool {
    with_word(|word| !failed || is_written(word)).unwrap_or(!failed)
}

fn with_word<R>(body: impl FnOnce(&AtomicU8) -> R) -> Option<R> {
    let place = WORD.replace(ptr::null_mut());
    // SAFETY: null, or mapped by `call` and not yet unmapped.
    let result = body(unsafe { place.as_ref() }?);
    // SAFETY: as above; there are no references to it any more.
    unsafe { libc::munmap(place.cast(), SIZE) };
    Some(result)
}

/// Waits for the write of a child that may not exist.
fn is_written(word: &AtomicU8) -> bool {
    let clock = Clock::new();
    loop {
        // Checked first: a child that has ended since has written before.
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
    // SAFETY: writes to our own variable, and reaps no child. Unlike waitid(3) it is not a cancellation point.
    let asked =
        unsafe { libc::syscall(libc::SYS_waitid, libc::P_ALL, 0, info.as_mut_ptr(), options, nothing) };
    asked < 0 && errno::get() == libc::ECHILD
}

/// One millisecond, without a cancellation point.
fn rest() {
    let time = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    let (nobody, no_mask) = (ptr::null_mut::<libc::pollfd>(), ptr::null::<libc::sigset_t>());
    let (count, size): (c_long, c_long) = (0, 0);
    // SAFETY: reads our own variable, and watches nothing.
    unsafe { libc::syscall(libc::SYS_ppoll, nobody, count, ptr::from_ref(&time), no_mask, size) };
}
