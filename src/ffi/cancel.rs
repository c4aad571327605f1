//! Cancellation of threads (`pthread_cancel`): deferred inside the library, and allowed only in `FdWait::pause`. Owns
//! nothing.
//!
//! A cancelled thread unwinds its frames like an exception that must not be caught. So every frame between `pause` and the
//! function of the header has nothing to drop and catches nothing: see `border::enter_waiting`.

use super::text::millis;
use std::ffi::c_int;

/// In <pthread.h> of glibc and musl alike.
const DISABLE: c_int = 1;

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, previous: *mut c_int) -> c_int;
}

unsafe extern "C-unwind" {
    /// From the C library, declared to unwind: the `libc` crate declares that it never does.
    fn poll(fds: *mut libc::pollfd, count: libc::nfds_t, timeout: c_int) -> c_int;
}

#[derive(Debug, Clone, Copy)]
pub(super) struct CancelState(c_int);

/// Defers cancellation of this thread from here on.
pub(super) fn defer() -> CancelState {
    let mut previous = 0;
    // SAFETY: affects this thread alone, and writes to our own variable.
    unsafe { pthread_setcancelstate(DISABLE, &mut previous) };
    CancelState(previous)
}

impl CancelState {
    pub(super) fn restore(self) {
        let mut ignored = 0;
        // SAFETY: as in `defer`.
        unsafe { pthread_setcancelstate(self.0, &mut ignored) };
    }
}

/// A wait for a descriptor to become readable, for at most this many milliseconds; -1 for no limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct FdWait {
    pub(super) fd: c_int,
    pub(super) timeout_ms: c_int,
}

impl FdWait {
    /// `None`: there is nothing to wait for.
    pub(super) fn new(fd: c_int, timeout_ms: Option<u64>) -> Option<FdWait> {
        let timeout_ms = millis(timeout_ms);
        (timeout_ms != 0).then_some(FdWait { fd, timeout_ms })
    }

    /// Waits, or returns early; a cancellation point if the caller allows it.
    pub(super) fn pause(self, previous: CancelState) {
        let mut watched = libc::pollfd { fd: self.fd, events: libc::POLLIN, revents: 0 };
        previous.restore();
        // SAFETY: one variable of ours. If the thread is cancelled, this frame has nothing to drop.
        unsafe { poll(&mut watched, 1, self.timeout_ms) };
        defer();
    }
}
