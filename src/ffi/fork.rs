//! Notices that this process is a forked copy, without a system call, and keeps a fork in one thread from
//! catching a handle half-way through a change in another. Owns the page that the kernel wipes in a forked
//! copy, and the count of threads that are inside a handle; knows nothing of what a handle is.

use std::cell::Cell;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// Counts the forks between the first process and this one; what a handle belongs to.
static GENERATION: AtomicU64 = AtomicU64::new(1);
/// A byte that reads 1 until this process turns out to be a copy. Null until `install`.
static MARK: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
/// Threads inside a handle in the lower half, forks about to happen in the upper.
static INSIDE: AtomicU64 = AtomicU64::new(0);
const FORK: u64 = 1 << 32;

thread_local! {
    /// How often this thread is counted in `INSIDE`.
    static OWN: Cell<u64> = const { Cell::new(0) };
}

/// Prepares for forks to come. Called before the first handle is made.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        MARK.store(new_mark(), Ordering::Release);
        // SAFETY: the three are functions of the C ABI that live as long as this library is loaded; glibc
        // forgets them by itself when it is unloaded. Failing only for want of memory, it leaves the wiped
        // page, which tells of every fork but does not keep other threads out of handles meanwhile.
        unsafe {
            libc::pthread_atfork(Some(before_fork), Some(after_fork_in_parent), Some(after_fork_in_child));
        }
    });
}

/// A byte set to 1 that a forked copy reads as 0. It stays for the life of the process.
fn new_mark() -> *mut u8 {
    const SIZE: usize = 4096;
    // SAFETY: asks for fresh anonymous memory; nothing else is mapped over or freed.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        // `after_fork_in_child` clears this one just as well; only a raw clone() goes unnoticed.
        return Box::leak(Box::new(1u8));
    }
    // SAFETY: the page was mapped above and is ours. A kernel too old to know the advice (before 4.14)
    // refuses it, which leaves the same as above.
    unsafe { libc::madvise(page, SIZE, libc::MADV_WIPEONFORK) };
    let mark = page.cast::<u8>();
    // SAFETY: inside the page mapped above; nobody else knows of it yet.
    unsafe { mark.write(1) };
    mark
}

/// The generation of this very process. No system call; also from a signal handler.
pub(super) fn generation() -> u64 {
    let mark = MARK.load(Ordering::Acquire);
    // SAFETY: null, or a byte that is never unmapped. Volatile, since the kernel changes it behind our back.
    if !mark.is_null() && unsafe { mark.read_volatile() } == 0 {
        // Whoever was inside a handle stayed behind in the parent.
        INSIDE.store(OWN.get(), Ordering::Relaxed);
        GENERATION.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above; a copy starts with one thread, which is this one.
        unsafe { mark.write_volatile(1) };
    }
    GENERATION.load(Ordering::Relaxed)
}

/// Held while a handle is being changed: a fork in another thread waits for its end.
#[derive(Debug)]
pub(super) struct Inside(());

/// Enters; waits while another thread is about to fork, unless this one is inside already.
pub(super) fn enter() -> Inside {
    loop {
        let seen = INSIDE.load(Ordering::Relaxed);
        if seen >= FORK && OWN.get() == 0 {
            std::thread::yield_now();
        } else if INSIDE.compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            OWN.set(OWN.get() + 1);
            return Inside(());
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        OWN.set(OWN.get().saturating_sub(1));
        INSIDE.fetch_sub(1, Ordering::Release);
    }
}

/// Whether this thread is inside a handle.
pub(super) fn is_inside() -> bool {
    OWN.get() > 0
}

extern "C" fn before_fork() {
    INSIDE.fetch_add(FORK, Ordering::Acquire);
    // Changes take microseconds: they neither wait for a socket nor run callbacks.
    while INSIDE.load(Ordering::Acquire) % FORK > OWN.get() {
        std::thread::yield_now();
    }
}

extern "C" fn after_fork_in_parent() {
    INSIDE.fetch_sub(FORK, Ordering::Release);
}

extern "C" fn after_fork_in_child() {
    INSIDE.store(OWN.get(), Ordering::Relaxed);
    let mark = MARK.load(Ordering::Acquire);
    if !mark.is_null() {
        // SAFETY: a byte that is never unmapped; a copy starts with one thread, which is this one.
        unsafe { mark.write_volatile(0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// Else the copy would have a handle half-way through a change, and nobody to finish it.
    #[test]
    fn a_fork_waits_until_no_other_thread_is_inside() {
        install();
        let forked = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let inside = enter();
            scope.spawn(|| {
                // SAFETY: the copy does nothing but end.
                let copy = unsafe { libc::fork() };
                if copy == 0 {
                    // SAFETY: runs nothing of this process'.
                    unsafe { libc::_exit(0) };
                }
                forked.store(true, Ordering::Release);
                // SAFETY: waits for the copy made above.
                unsafe { libc::waitpid(copy, std::ptr::null_mut(), 0) };
            });
            while INSIDE.load(Ordering::Acquire) < FORK && !forked.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            assert!(!forked.load(Ordering::Acquire), "it is held up");
            drop(inside);
        });
        assert!(forked.load(Ordering::Acquire), "and goes on");
    }
}
