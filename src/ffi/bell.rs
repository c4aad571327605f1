//! Waking a handle's poll from any thread or a signal handler. Owns nothing.

use std::ffi::c_int;

/// Makes `bell`, one end of a socket pair or an eventfd, readable at its other side. Async-signal-safe: errno is as
/// before. A bell that is full has woken already. No thread is cancelled in here: these are the system calls themselves.
pub(super) fn ring(bell: c_int) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: errno is this thread's own; both system calls take the eight bytes of `one`. The descriptor is open:
    // `Shell::ring` keeps its handle from closing it. Only sendto can keep a socket from raising SIGPIPE, and only write
    // knows an eventfd.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        let (text, len) = (one.as_ptr(), one.len());
        let nobody = std::ptr::null::<libc::sockaddr>();
        let sent = libc::syscall(libc::SYS_sendto, bell, text, len, flags, nobody, 0);
        if sent < 0 && *errno == libc::ENOTSOCK {
            libc::syscall(libc::SYS_write, bell, text, len);
        }
        *errno = before;
    }
}
