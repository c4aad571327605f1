//! Handles that move to the child of a fork: `broker_loop_follow_fork`, `broker_client_follow_fork`. Owns the list of
//! handles that have ever been set to follow; knows nothing of their contents.

use super::head::HandleHead;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The last one added. Handles' memory is never unmapped, and none leaves the list.
static LAST: AtomicPtr<HandleHead> = AtomicPtr::new(std::ptr::null_mut());

pub(super) fn list(head: &'static HandleHead) {
    if head.listed.swap(true, Ordering::AcqRel) {
        return;
    }
    let own = std::ptr::from_ref(head).cast_mut();
    let _ = LAST.fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| {
        head.next.store(last, Ordering::Relaxed);
        Some(own)
    });
}

fn all() -> impl Iterator<Item = &'static HandleHead> {
    let mut next = LAST.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: null, or a handle's head, whose memory is never unmapped.
        let head = unsafe { next.as_ref() }?;
        next = head.next.load(Ordering::Relaxed);
        Some(head)
    })
}

/// Before a fork in this thread: takes the handles that follow and are not in use. Returns whether there are any.
pub(super) fn depart() -> bool {
    all().for_each(HandleHead::depart);
    all().any(HandleHead::is_moving)
}

/// In the parent: the moved handles are gone, and `close` gets the number of each. Without a child they stay.
pub(super) fn stay(forked: bool, close: impl Fn(u32)) {
    all().filter(|head| head.is_moving()).for_each(|head| head.stay(forked, &close));
}

pub(super) fn arrive() {
    all().for_each(|head| head.arrive(crate::base::fork::generation()));
}

/// Whether the handle of this number belongs to this process.
pub(super) fn has(number: u32) -> bool {
    all().any(|head| head.is_home(number, crate::base::fork::generation()))
}
