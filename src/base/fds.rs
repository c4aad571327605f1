//! Whose each open descriptor is: how a forked copy of the process can close what it has inherited from a handle of the C
//! interface without asking that handle, whose state it must not trust. Owns one number for each descriptor; opens and
//! closes nothing itself. Where nobody is at work, as in a program that uses the crate without that interface, nothing is
//! noted and nothing is paid.

use std::cell::Cell;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Descriptors from this number on are not noted: a copy keeps them open. Linux allows as many by default (fs.nr_open).
const NOTED: usize = 1 << 20;

/// The owner of each descriptor, 0 for nobody. Zero pages until they are written to.
static OWNERS: [AtomicU32; NOTED] = [const { AtomicU32::new(0) }; NOTED];
/// No descriptor from this number on has ever been noted.
static BEYOND: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The owner for whom this thread is at work.
    static OWNER: Cell<u32> = const { Cell::new(0) };
}

/// For whom this thread is at work; 0 for nobody.
pub fn owner() -> u32 {
    OWNER.get()
}

/// From now on this thread is at work for `owner`; for whom it was before.
pub fn work_for(owner: u32) -> u32 {
    OWNER.replace(owner)
}

/// Notes a descriptor as that of whoever this thread is at work for. Stands before the descriptor in its struct: dropped
/// first, so that a number is free for others only when it is noted no more. A fork in the moment between leaves the copy
/// a descriptor too many, never one too few.
#[derive(Debug)]
pub struct Held(Option<usize>);

impl Held {
    /// Of a descriptor that was opened just now, and is closed only after this has been dropped.
    pub fn new(fd: &impl AsRawFd) -> Held {
        Held::of(fd.as_raw_fd())
    }

    /// The same by its number.
    pub fn of(fd: RawFd) -> Held {
        let number = usize::try_from(fd).ok().filter(|number| *number < NOTED);
        let Some(number) = number.filter(|_| owner() != 0) else { return Held(None) };
        BEYOND.fetch_max(number + 1, Ordering::Relaxed);
        OWNERS[number].store(owner(), Ordering::Release);
        Held(Some(number))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(number) = self.0 {
            OWNERS[number].store(0, Ordering::Release);
        }
    }
}

/// Hands every descriptor whose owner is to lose it to `close`, and forgets them. Only atomics: a fork handler may call
/// it, and a signal handler.
pub fn release(loses: impl Fn(u32) -> bool, close: impl Fn(RawFd)) {
    let beyond = BEYOND.load(Ordering::Acquire);
    for (number, owner) in OWNERS.iter().enumerate().take(beyond) {
        let found = owner.load(Ordering::Acquire);
        if found != 0 && loses(found) {
            owner.store(0, Ordering::Release);
            close(number as RawFd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn what_is_held_for_an_owner_is_released_by_its_number() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(owner(), 0);
        drop(Held::new(&a));
        let closed = |loses: u32| {
            let closed = RefCell::new(Vec::new());
            release(|owner| owner == loses, |fd| closed.borrow_mut().push(fd));
            closed.into_inner()
        };
        // Numbers that no handle of another test has.
        let before = work_for(u32::MAX);
        let held = Held::new(&a);
        work_for(u32::MAX - 1);
        let gone = Held::new(&b);
        drop(gone);
        let other = Held::new(&b);
        work_for(before);
        assert_eq!(closed(u32::MAX), [a.as_raw_fd()]);
        assert_eq!(closed(u32::MAX), [], "once");
        assert_eq!(closed(u32::MAX - 1), [b.as_raw_fd()]);
        drop((held, other));
    }
}
