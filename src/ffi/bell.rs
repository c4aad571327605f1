//! Waking a handle's poll from any thread or a signal handler. Owns nothing.

use std::ffi::c_int;

/// In what `of` returns: it is a socket. No descriptor's number is as large (fs.nr_open ends below).
const SOCKET: c_int = 1 << 30;

/// The descriptor and which kind it is, in one word: one end of a socket pair, or an eventfd.
pub(super) fn of(fd: c_int) -> c_int {
    let mut found = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: only asks, and writes to a place of ours; without an answer it stays all zeros.
    let kind = unsafe {
        libc::fstat(fd, found.as_mut_ptr());
        found.assume_init().st_mode & libc::S_IFMT
    };
    if fd >= 0 && kind == libc::S_IFSOCK { fd | SOCKET } else { fd }
}

/// Makes `bell`, which `of` has returned, readable at its other side. Async-signal-safe: errno is as before. A bell that is
/// full has woken already. No thread is cancelled in here: these are the system calls themselves.
pub(super) fn ring(bell: c_int) {
    let one = 1u64.to_ne_bytes();
    let fd = bell & !SOCKET;
    // SAFETY: errno is this thread's own; both system calls take the eight bytes of `one`. The descriptor is open:
    // `Shell::ring` keeps its handle from closing it. Only sendto can keep a socket from raising SIGPIPE, and only write
    // knows an eventfd.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let (text, len) = (one.as_ptr(), one.len());
        if bell & SOCKET != 0 {
            let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
            let nobody = std::ptr::null::<libc::sockaddr>();
            libc::syscall(libc::SYS_sendto, fd, text, len, flags, nobody, 0);
        } else {
            libc::syscall(libc::SYS_write, fd, text, len);
        }
        *errno = before;
    }
}
