//! The calling thread's errno. Async-signal-safe.

use std::ffi::c_int;

pub(super) fn get() -> c_int {
    // SAFETY: the place is this thread's own, as long as it lives.
    unsafe { *libc::__errno_location() }
}

pub(super) fn set(number: c_int) {
    // SAFETY: as in `get`.
    unsafe { *libc::__errno_location() = number };
}

/// Leaves it as it is now, whatever `body` does.
pub(super) fn keep(body: impl FnOnce()) {
    let before = get();
    body();
    set(before);
}
