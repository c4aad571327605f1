//! The owner of each open descriptor, so that a forked copy can close what it has inherited from a handle of the C
//! interface without reading that handle, whose state it must not trust. Opens and closes nothing itself. Without an
//! owner, as where that interface is not used, nothing is recorded.

use std::cell::Cell;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Descriptors from this number on are not recorded: a copy keeps them open. Linux's default maximum (fs.nr_open).
const NOTED: usize = 1 << 20;

/// A flag beside the owner: a thread is writing to the descriptor by `Held::keep_for`.
const BUSY: u32 = 1 << 31;

/// The largest owner.
pub const OWNER_MAX: u32 = BUSY - 1;

/// The owner of each descriptor, 0 for none. Zero pages until they are written to.
static OWNERS: [AtomicU32; NOTED] = [const { AtomicU32::new(0) }; NOTED];
/// No descriptor from this number on has ever been recorded.
static BEYOND: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The owner for whom this thread works.
    static OWNER: Cell<u32> = const { Cell::new(0) };
}

/// The owner for whom this thread works; 0 for none.
pub fn owner() -> u32 {
    OWNER.get()
}

/// From now on this thread works for `owner`; returns the previous one.
pub fn work_for(owner: u32) -> u32 {
    OWNER.replace(owner)
}

/// Records a descriptor as that of the owner for whom this thread works. Declared before the descriptor in its struct:
/// dropped first, so that a number can be reused only after its record is gone. A fork between opening and
/// recording, or between the drop and the close, leaves the copy one descriptor too many.
#[derive(Debug)]
pub struct Held(Option<Note>);

#[derive(Debug, Clone, Copy)]
struct Note {
    number: usize,
    owner: u32,
}

impl Held {
    /// For a descriptor that was just opened, and is closed only after this has been dropped. One that is already
    /// recorded keeps its first holder.
    pub fn new(fd: &impl AsRawFd) -> Held {
        let number = usize::try_from(fd.as_raw_fd()).ok().filter(|number| *number < NOTED);
        let Some(number) = number.filter(|_| owner() != 0) else { return Held(None) };
        let note = Note { number, owner: owner() };
        BEYOND.fetch_max(number + 1, Ordering::Relaxed);
        let noted = OWNERS[number].compare_exchange(0, note.owner, Ordering::AcqRel, Ordering::Relaxed);
        Held(noted.is_ok().then_some(note))
    }

    /// Runs `body`, which uses the descriptor for a moment in any thread, unless its owner has lost it: another file may
    /// have the number then. The owner does not lose it before `body` has returned.
    pub fn keep_for(&self, body: impl FnOnce()) {
        let Some(Note { number, owner }) = self.0 else { return body() };
        loop {
            match OWNERS[number].compare_exchange(owner, owner | BUSY, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                // Another thread is doing the same.
                Err(found) if found == owner | BUSY => std::thread::yield_now(),
                Err(_) => return,
            }
        }
        body();
        OWNERS[number].store(owner, Ordering::Release);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(Note { number, owner }) = self.0 {
            // Fails if the owner has lost it.
            let _ = OWNERS[number].compare_exchange(owner, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

/// Passes every descriptor whose owner loses it to `close`, and removes its record, in the process whose threads use them:
/// not before they have left `Held::keep_for`. Only atomics: a fork handler may call it.
pub fn release(loses: impl Fn(u32) -> bool, close: impl Fn(RawFd)) {
    for (number, noted) in noted() {
        let mut found = noted.load(Ordering::Acquire);
        while found != 0 && loses(found & !BUSY) {
            match noted.compare_exchange(found & !BUSY, 0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    close(number);
                    break;
                }
                Err(now) => found = now,
            }
            if found & BUSY != 0 {
                std::thread::yield_now();
            }
        }
    }
}

/// The same in a forked copy, which has no other threads: what a thread of the parent was using is not in use here.
/// [async-signal-safe]
pub fn release_copies(loses: impl Fn(u32) -> bool, close: impl Fn(RawFd)) {
    for (_, noted) in noted() {
        noted.fetch_and(!BUSY, Ordering::AcqRel);
    }
    release(loses, close);
}

fn noted() -> impl Iterator<Item = (RawFd, &'static AtomicU32)> {
    let beyond = BEYOND.load(Ordering::Acquire);
    OWNERS.iter().enumerate().take(beyond).map(|(number, noted)| (number as RawFd, noted))
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
        let before = work_for(OWNER_MAX);
        let held = Held::new(&a);
        work_for(OWNER_MAX - 1);
        let gone = Held::new(&b);
        drop(gone);
        let other = Held::new(&b);
        work_for(before);
        assert_eq!(closed(OWNER_MAX), [a.as_raw_fd()]);
        assert!(closed(OWNER_MAX).is_empty(), "once");
        held.keep_for(|| panic!("it is lost"));
        assert_eq!(closed(OWNER_MAX - 1), [b.as_raw_fd()]);
        drop((held, other));
    }

    #[test]
    fn a_descriptor_that_is_held_twice_is_the_first_holders() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let before = work_for(OWNER_MAX - 2);
        let held = Held::new(&a);
        drop(Held::new(&a));
        work_for(before);
        let closed = RefCell::new(Vec::new());
        release_copies(|owner| owner == OWNER_MAX - 2, |fd| closed.borrow_mut().push(fd));
        assert_eq!(closed.into_inner(), [a.as_raw_fd()]);
        drop(held);
    }

    #[test]
    fn an_owner_loses_a_descriptor_only_when_nobody_is_using_it() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        let before = work_for(OWNER_MAX - 3);
        let held = Held::new(&a);
        work_for(before);
        let used = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (begun, begins) = std::sync::mpsc::channel();
            let (going, goes) = std::sync::mpsc::channel();
            let (held, used) = (&held, &used);
            scope.spawn(move || {
                held.keep_for(|| {
                    begun.send(()).unwrap();
                    goes.recv().unwrap();
                    used.store(true, Ordering::Release);
                });
            });
            begins.recv().unwrap();
            // Asked whether it loses it, it is let go on.
            let loses = |owner| {
                let ours = owner == OWNER_MAX - 3;
                if ours {
                    let _ = going.send(());
                }
                ours
            };
            release(loses, |_| assert!(used.load(Ordering::Acquire)));
        });
        assert!(used.load(Ordering::Acquire));
    }
}
