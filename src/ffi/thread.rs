//! The only thread that the library starts: it looks a name up and ends. Keeps the program's signals out of it.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Starts a thread that takes no signal: the program's handlers run in its own threads.
pub(super) fn start(body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    let mut all = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: sigfillset writes one set, pthread_sigmask reads it and writes the other. A new thread inherits the mask of
    // its creator, so it takes no signal at any moment.
    let blocked = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr())
    };
    if blocked != 0 {
        return Err(io::Error::from_raw_os_error(blocked));
    }
    let started = crate::transport::resolver::start(body);
    // SAFETY: pthread_sigmask has succeeded above and written the set.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    started
}
