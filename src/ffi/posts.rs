//! Functions that other threads post to a handle: a list that is only appended to and taken whole, with atomics alone, so
//! that a copy made by a fork at any moment may continue to use it. Owns what is queued.

use super::border::{Handle, HandleRef};
use super::codes::*;
use super::fork;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Most functions that may be queued for one handle.
const POSTS_MAX: usize = 65_536;

/// A posted function. Those of a session are kept by its client.
pub(super) struct Post<H: Handle> {
    pub(super) callback: unsafe extern "C" fn(*mut H, c_int, *mut c_void),
    pub(super) to: HandleRef<H>,
    pub(super) data: *mut c_void,
}

impl<H: Handle> Post<H> {
    /// Runs it; its session may have been freed since.
    pub(super) fn run(self) {
        let ended = self.to.get().is_err_and(|code| code == BROKER_ESTATE);
        self.call(if ended { BROKER_ECANCELED } else { BROKER_OK });
    }

    pub(super) fn cancel(self) {
        self.call(BROKER_ECANCELED);
    }

    fn call(self, status: c_int) {
        // SAFETY: so the program allowed it to be called, in the handle's thread; its memory is never unmapped.
        unsafe { (self.callback)(self.to.pointer(), status, self.data) }
    }
}

/// Runs posted functions until `run` refuses one: the handle has ended in it, and the remaining ones are told so, before
/// those posted later. A forked copy runs none of the parent's.
pub(super) fn run_all<H: Handle, E>(
    posts: Vec<Post<H>>,
    mut run: impl FnMut(Post<H>) -> Result<(), E>,
) -> Result<(), E> {
    let generation = fork::generation();
    let mut posts = posts.into_iter();
    while let Some(post) = posts.next() {
        if let Err(stopped) = run(post) {
            if fork::generation() == generation {
                fork::each_here(posts, Post::cancel);
            }
            return Err(stopped);
        }
    }
    Ok(())
}

/// See the module. Empty at first.
pub(super) struct Posts<H: Handle> {
    /// The newest; each links to the one before it.
    newest: AtomicPtr<PostNode<H>>,
    /// How many there are, including those being added.
    count: AtomicUsize,
}

struct PostNode<H: Handle> {
    post: Post<H>,
    before: *mut PostNode<H>,
}

impl<H: Handle> Posts<H> {
    pub(super) const fn new() -> Self {
        Posts { newest: AtomicPtr::new(std::ptr::null_mut()), count: AtomicUsize::new(0) }
    }

    /// Adds one. `EAGAIN` when there are too many.
    pub(super) fn add(&self, post: Post<H>) -> Result<(), c_int> {
        if self.count.fetch_add(1, Ordering::Relaxed) >= POSTS_MAX {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return Err(BROKER_EAGAIN);
        }
        let node = Box::into_raw(Box::new(PostNode { post, before: std::ptr::null_mut() }));
        let _ = self.newest.fetch_update(Ordering::SeqCst, Ordering::Relaxed, |newest| {
            // SAFETY: just created; no other thread has it until the update succeeds.
            unsafe { (*node).before = newest };
            Some(node)
        });
        Ok(())
    }

    /// Takes those queued so far, oldest first.
    pub(super) fn take(&self) -> Vec<Post<H>> {
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
