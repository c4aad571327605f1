//! Cancellation of threads (`pthread_cancel`): deferred inside the library, and acted upon only in `FdWait::pause`. Owns
//! nothing.
//!
//! A cancelled thread leaves its frames as an exception does that nobody may catch. So every frame between `pause` and the
//! function of the header has nothing to drop and catches nothing: see `border::enter_waiting`.

use std::ffi::c_int;

/// In <pthread.h> of glibc and musl alike.
const DISABLE: c_int = 1;

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, former: *mut c_int) -> c_int;
}

unsafe extern "C-unwind" {
    /// The one of the C library, declared as what it is: the `libc` crate says that it never unwinds.
    fn poll(fds: *mut libc::pollfd, count: libc::nfds_t, timeout: c_int) -> c_int;
}

/// What the caller had chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Former(c_int);

/// From here on this thread is not cancelled.
pub(super) fn defer() -> Former {
    let mut former = 0;
    // SAFETY: concerns this thread alone, and writes to a place of ours.
    unsafe { pthread_setcancelstate(DISABLE, &mut former) };
    Former(former)
}

impl Former {
    /// As it was before `defer`.
    pub(super) fn restore(self) {
        let mut ignored = 0;
        // SAFETY: as in `defer`.
        unsafe { pthread_setcancelstate(self.0, &mut ignored) };
    }
}

/// A wait for a descriptor to become readable, for so many milliseconds at most; -1 for ever.
#[derive(Debug, Clone, Copy)]
pub(super) struct FdWait {
    pub(super) fd: c_int,
    pub(super) timeout_ms: c_int,
}

impl FdWait {
    /// `None`: there is nothing to wait for.
    pub(super) fn new(fd: c_int, timeout_ms: Option<u64>) -> Option<FdWait> {
        let timeout_ms = timeout_ms.map_or(-1, |timeout| c_int::try_from(timeout).unwrap_or(c_int::MAX));
        (timeout_ms != 0).then_some(FdWait { fd, timeout_ms })
    }

    /// Waits, or returns early; cancelled as the caller has chosen.
    pub(super) fn pause(self, former: Former) {
        let mut watched = libc::pollfd { fd: self.fd, events: libc::POLLIN, revents: 0 };
        former.restore();
        // SAFETY: one place of ours. Where the thread is cancelled, this frame has nothing to drop.
        unsafe { poll(&mut watched, 1, self.timeout_ms) };
        defer();
    }
}
