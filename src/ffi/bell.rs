//! Waking a handle's poll from any thread or a signal handler. Owns nothing.

use std::ffi::c_int;

/// Makes `bell`, one end of a socket pair or an eventfd, readable at its other side. Async-signal-safe: errno is as
/// before. A bell that is full has woken already.
pub(super) fn ring(bell: c_int) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: errno is this thread's own; send and write are async-signal-safe and take the eight bytes of `one`. The
    // descriptor is that of a handle that is alive; should the handle end in this very moment, it is refused. Only
    // send can keep a socket from raising SIGPIPE, and only write knows an eventfd.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        if libc::send(bell, one.as_ptr().cast(), one.len(), flags) < 0 && *errno == libc::ENOTSOCK {
            libc::write(bell, one.as_ptr().cast(), one.len());
        }
        *errno = before;
    }
}
