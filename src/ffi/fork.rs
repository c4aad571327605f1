//! Detects that this process is a forked copy, without a system call, and closes there the descriptors inherited from
//! handles. Owns the page that the kernel wipes in a copy, and the fork handlers. A fork waits for nothing and nothing
//! waits for a fork: process-wide state is changed with atomics, or made anew by each process (`EachProcess`).

use super::{errno, follow, witness};
use crate::base::{fds, fork};
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, Ordering};

const WIPED: u8 = 0;
const KNOWN: u8 = 1;
/// A thread of the copy is closing the descriptors; the others wait.
const NOTICED: u8 = 2;

const PAGE: usize = 4096;

/// `KNOWN` until this process is found to be a copy. Null until `install`; never unmapped.
static MARK: AtomicPtr<AtomicU8> = AtomicPtr::new(std::ptr::null_mut());
/// Used if no page could be mapped: only the handlers detect forks then.
static UNWIPED: AtomicU8 = AtomicU8::new(KNOWN);
/// The generation that last began a fork.
static FORKING: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// This thread has detected a fork and is still handling it.
    static AT_IT: Cell<bool> = const { Cell::new(false) };
    /// errno before a fork.
    static ERRNO: Cell<c_int> = const { Cell::new(0) };
}

/// Prepares for forks, and detects an earlier one. Called before anything of a handle is created. Waits for no
/// other thread: a copy made in the middle would wait for ever.
pub(super) fn install() {
    static HANDLERS: AtomicBool = AtomicBool::new(false);
    if MARK.load(Ordering::Acquire).is_null() {
        let mark = new_mark();
        let none = std::ptr::null_mut();
        let first = MARK.compare_exchange(none, mark, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if !first && !std::ptr::eq(mark, &raw const UNWIPED) {
            // SAFETY: a page of `new_mark` that no other thread has seen: another one was faster.
            unsafe { libc::munmap(mark.cast(), PAGE) };
        }
    }
    if !HANDLERS.swap(true, Ordering::AcqRel) {
        // SAFETY: the three are functions of the C ABI that live as long as this library is loaded; glibc
        // unregisters them when it is unloaded. It fails only without memory; then the wiped page still
        // detects every fork at the first call.
        unsafe {
            libc::pthread_atfork(Some(before_fork), Some(after_fork_in_parent), Some(after_fork_in_child));
        }
    }
    // In a copy, descriptors opened from here on must not be taken for the parent's.
    generation();
}

/// A byte that reads `KNOWN`, and `WIPED` in a forked copy.
fn new_mark() -> *mut AtomicU8 {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: maps new anonymous memory; nothing else is mapped over or freed.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, access, kind, -1, 0) };
    if page == libc::MAP_FAILED {
        return (&raw const UNWIPED).cast_mut();
    }
    // SAFETY: the page was mapped above and is ours. A kernel that does not know the advice (before 4.14)
    // refuses it, which is the same as having no page.
    unsafe { libc::madvise(page, PAGE, libc::MADV_WIPEONFORK) };
    let mark = page.cast::<AtomicU8>();
    // SAFETY: inside the page mapped above, which is not known elsewhere yet.
    unsafe { mark.write(AtomicU8::new(KNOWN)) };
    mark
}

fn mark() -> Option<&'static AtomicU8> {
    // SAFETY: null, or a byte that is never unmapped. The kernel changes it only where no thread runs.
    unsafe { MARK.load(Ordering::Acquire).as_ref() }
}

/// The generation of this process. No system call; async-signal-safe.
pub(super) fn generation() -> u64 {
    if let Some(mark) = mark()
        && mark.load(Ordering::Acquire) != KNOWN
    {
        notice(mark);
    }
    fork::generation()
}

pub(super) fn count() -> u64 {
    generation() - 1
}

/// In a copy whose fork ran no handler: the first thread that gets here does the handler's work.
#[cold]
fn notice(mark: &AtomicU8) {
    if AT_IT.replace(true) {
        // A signal handler in this thread, which is already doing this.
        return;
    }
    match mark.compare_exchange(WIPED, NOTICED, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            // A signal handler may run here.
            errno::keep(|| become_copy(close_what_is_like_ours));
            mark.store(KNOWN, Ordering::Release);
        }
        Err(_) => {
            while mark.load(Ordering::Acquire) == NOTICED {
                std::thread::yield_now();
            }
        }
    }
    AT_IT.set(false);
}

/// Closes the inherited descriptors, except those of handles that have followed the fork.
fn become_copy(close: fn(RawFd)) {
    fork::advance();
    follow::arrive();
    // Numbers that a handle of the parent had opened and not closed, and that nothing here will use.
    fds::release_copies(|owner| !follow::has(owner), close);
}

/// Closes a number that may be a descriptor of the library: these are all close-on-exec, and no devices. Since the fork the
/// copy has run code of the program, which may have closed the number and opened another file under it.
fn close_what_is_like_ours(fd: RawFd) {
    let mut found = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: reads only, into our own variable. Neither is a cancellation point.
    let (flags, kind) = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFD);
        libc::fstat(fd, found.as_mut_ptr());
        (flags, found.assume_init().st_mode & libc::S_IFMT)
    };
    let device = kind == libc::S_IFCHR || kind == libc::S_IFBLK;
    if flags >= 0 && flags & libc::FD_CLOEXEC != 0 && !device {
        close(fd);
    }
}

/// Unlike close(3), not a cancellation point.
fn close(fd: RawFd) {
    // SAFETY: the caller knows that nothing uses the number any more.
    unsafe { libc::syscall(libc::SYS_close, fd) };
}

extern "C" fn before_fork() {
    FORKING.store(generation(), Ordering::Release);
    if follow::depart() {
        witness::call();
    }
    ERRNO.set(errno::get());
    // `after_fork_in_parent` reads there whether the fork seems to have failed.
    errno::set(0);
}

extern "C" fn after_fork_in_parent() {
    let found = errno::get();
    let failed = matches!(found, libc::EAGAIN | libc::ENOMEM | libc::ENOSYS | libc::EPERM | libc::EINVAL);
    let forked = witness::has_child(failed);
    let left = if forked { ERRNO.get() } else { found };
    // The parent's copies of descriptors that have moved to the forked process; nothing here uses them any more.
    follow::stay(forked, |number| fds::release(|owner| owner == number, close));
    errno::set(left);
}

extern "C" fn after_fork_in_child() {
    witness::testify();
    // A handler that ran before this one may have detected the fork with a call.
    if FORKING.load(Ordering::Acquire) == fork::generation() {
        become_copy(close);
    }
    if let Some(mark) = mark() {
        mark.store(KNOWN, Ordering::Release);
    }
    errno::set(ERRNO.get());
}

/// A value that each process creates when it first needs it: a thread that does not exist here might have locked the
/// parent's. The values of earlier processes stay in place.
pub(super) struct EachProcess<T: 'static>(AtomicPtr<Made<T>>);

struct Made<T> {
    generation: u64,
    value: T,
}

// SAFETY: hands out shared references to a `T`, which may be shared.
unsafe impl<T: Sync + Send> Sync for EachProcess<T> {}

impl<T: Default> EachProcess<T> {
    pub(super) const fn new() -> Self {
        EachProcess(AtomicPtr::new(std::ptr::null_mut()))
    }

    pub(super) fn get(&self) -> &'static T {
        loop {
            let generation = generation();
            let before = self.0.load(Ordering::Acquire);
            // SAFETY: null, or one that was leaked below.
            if let Some(made) = unsafe { before.as_ref() }
                && made.generation == generation
            {
                return &made.value;
            }
            let made = Box::into_raw(Box::new(Made { generation, value: T::default() }));
            match self.0.compare_exchange(before, made, Ordering::AcqRel, Ordering::Acquire) {
                Ok(before) => keep(before.cast()),
                // SAFETY: just created, and not seen by any other thread.
                Err(_) => drop(unsafe { Box::from_raw(made) }),
            }
        }
    }
}

/// Runs `each` for all items in this process only: if one of them forks, the copy runs none of the others.
pub(super) fn each_here<T>(items: impl IntoIterator<Item = T>, each: impl Fn(T)) {
    let here = generation();
    items.into_iter().take_while(|_| generation() == here).for_each(each);
}

/// Keeps memory reachable that is not used again: the contents of the parent's handles, which must not be read.
pub(super) fn keep(memory: *const c_void) {
    struct KeptNode {
        _memory: *const c_void,
        next: *mut KeptNode,
    }
    static ALL: AtomicPtr<KeptNode> = AtomicPtr::new(std::ptr::null_mut());
    if memory.is_null() {
        return;
    }
    let kept = Box::into_raw(Box::new(KeptNode { _memory: memory, next: std::ptr::null_mut() }));
    let _ = ALL.fetch_update(Ordering::AcqRel, Ordering::Acquire, |first| {
        // SAFETY: just created; no other thread has it until the update succeeds.
        unsafe { (*kept).next = first };
        Some(kept)
    });
}
