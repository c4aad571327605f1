//! Functions that other threads post to a handle: a list that is only appended to and taken whole, with atomics alone, so
//! that a copy made by a fork at any moment may continue to use it. Owns what is queued; runs nothing.

use super::codes::BROKER_EAGAIN;
use std::ffi::c_int;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Most functions that may be queued for one handle.
const POSTS_MAX: usize = 65_536;

/// See the module. Empty at first.
#[derive(Debug)]
pub(super) struct Posts<P> {
    /// The newest; each links to the one before it.
    newest: AtomicPtr<PostNode<P>>,
    /// How many there are, including those being added.
    count: AtomicUsize,
}

#[derive(Debug)]
struct PostNode<P> {
    post: P,
    before: *mut PostNode<P>,
}

impl<P> Posts<P> {
    pub(super) const fn new() -> Self {
        Posts { newest: AtomicPtr::new(std::ptr::null_mut()), count: AtomicUsize::new(0) }
    }

    /// Adds one. `EAGAIN` when there are too many.
    pub(super) fn add(&self, post: P) -> Result<(), c_int> {
        if self.count.fetch_add(1, Ordering::Relaxed) >= POSTS_MAX {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return Err(BROKER_EAGAIN);
        }
        let node = Box::into_raw(Box::new(PostNode { post, before: std::ptr::null_mut() }));
        let mut newest = self.newest.load(Ordering::Relaxed);
        loop {
            // SAFETY: just created; no other thread has it until the exchange succeeds.
            unsafe { (*node).before = newest };
            match self.newest.compare_exchange_weak(newest, node, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(seen) => newest = seen,
            }
        }
    }

    /// Takes those queued so far, oldest first.
    pub(super) fn take(&self) -> Vec<P> {
        let mut newest = self.newest.swap(std::ptr::null_mut(), Ordering::SeqCst);
        let mut posts = Vec::new();
        while !newest.is_null() {
            // SAFETY: leaked by `add`, and not reachable for other threads since the swap.
            let node = unsafe { Box::from_raw(newest) };
            posts.push(node.post);
            newest = node.before;
        }
        self.count.fetch_sub(posts.len(), Ordering::Relaxed);
        posts.reverse();
        posts
    }

    pub(super) fn is_empty(&self) -> bool {
        self.newest.load(Ordering::SeqCst).is_null()
    }
}
