//! Waking a handle's poll from any thread or a signal handler. Owns nothing.

use super::errno;
use std::ffi::c_int;

/// A flag in the result of `of`: it is a socket. No descriptor number is as large (fs.nr_open is below).
const SOCKET: c_int = 1 << 30;

/// The descriptor and its kind, in one word: one end of a socket pair, or an eventfd.
pub(super) fn of(fd: c_int) -> c_int {
    let mut found = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: reads only, into our own variable, which stays zero on failure.
    let kind = unsafe {
        libc::fstat(fd, found.as_mut_ptr());
        found.assume_init().st_mode & libc::S_IFMT
    };
    if fd >= 0 && kind == libc::S_IFSOCK { fd | SOCKET } else { fd }
}

/// Makes `bell`, a result of `of`, readable at its other side. Async-signal-safe: errno is unchanged. A full bell has
/// already woken. Not a cancellation point: these are the system calls themselves.
pub(super) fn ring(bell: c_int) {
    let one = 1u64.to_ne_bytes();
    let fd = bell & !SOCKET;
    let (text, len) = (one.as_ptr(), one.len());
    // SAFETY: both system calls take the eight bytes of `one`. The descriptor is open: `Shell::ring` keeps its handle from
    // closing it. Only sendto can keep a socket from raising SIGPIPE, and only write works on an eventfd.
    errno::keep(|| unsafe {
        if bell & SOCKET != 0 {
            let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
            let nobody = std::ptr::null::<libc::sockaddr>();
            libc::syscall(libc::SYS_sendto, fd, text, len, flags, nobody, 0);
        } else {
            libc::syscall(libc::SYS_write, fd, text, len);
        }
    });
}
