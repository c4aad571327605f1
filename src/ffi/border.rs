//! The border every call from C crosses: is the handle one of ours, alive, of this process, not at work
//! already; and no panic ever leaves. Owns the memory of handles, which is never unmapped, so that a handle
//! used after its end is noticed. Decides nothing else.

use super::bell::ring;
use super::codes::{
    BROKER_EAGAIN, BROKER_EFORKED, BROKER_EINVAL, BROKER_EPANIC, BROKER_EREENTRANT, BROKER_ESTATE,
    BROKER_ESYS, BROKER_OK,
};
use super::fork;
use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};

/// Ended handles whose memory is not used again yet: so many more must end before a stale pointer can name
/// another living handle.
const QUARANTINE: usize = 1024;

const ENDED: u8 = 0;
const ALIVE: u8 = 1;
/// Freed inside one of its callbacks: ends when the outermost of them returns.
const ENDING: u8 = 2;

/// Where a handle lives. The memory outlives the handle.
#[derive(Debug)]
pub(super) struct Shell<T: Handle> {
    state: AtomicU8,
    poisoned: AtomicBool,
    /// Somebody is inside `inner`.
    busy: AtomicBool,
    /// Its callbacks that are running now, one inside the other, and in which thread.
    callbacks: AtomicU32,
    callback_thread: AtomicUsize,
    /// The process it belongs to.
    generation: AtomicU64,
    /// Tells one tenant of this memory from the next.
    serial: AtomicU64,
    /// For the calls that any thread may make at any time: what to write to, -1 if nothing.
    pub(super) bell: AtomicI32,
    /// The thread that drove it last, 0 before the first time.
    pub(super) driver: AtomicUsize,
    /// broker_loop_stop() has been called.
    pub(super) stopped: AtomicBool,
    /// Where the bell of this handle is, if it is another handle's: that of a session's client, of a client's loop.
    /// Handles' memory is never unmapped, so it may be read for as long as this handle lives.
    bell_of: AtomicPtr<AtomicI32>,
    /// Where what is posted to this handle waits, if it is another handle's.
    posts_of: AtomicPtr<Shell<T>>,
    /// What other threads have posted, oldest first, and how much that is.
    posts: Mutex<VecDeque<T::Post>>,
    posted: AtomicUsize,
    /// The program's own.
    pub(super) data: AtomicPtr<c_void>,
    inner: UnsafeCell<Option<T>>,
}

// SAFETY: all fields but `inner` are atomics; `inner` is only reached through `borrow`, which lets one in at
// a time. What it holds is used by one thread after the other, as the header asks.
unsafe impl<T: Handle> Sync for Shell<T> {}

/// From where a call may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Inside callbacks, too.
    Anywhere,
    /// Not from one of the handle's own callbacks.
    OutsideCallbacks,
}

/// The handles of one kind that have ended, oldest first.
pub(super) struct Ended<T: Handle>(Mutex<VecDeque<&'static Shell<T>>>);

impl<T: Handle> Ended<T> {
    pub(super) const fn new() -> Self {
        Ended(Mutex::new(VecDeque::new()))
    }
}

/// Most that may wait to be run of what was posted to one handle.
const POSTS_MAX: usize = 65_536;

/// A kind of handle.
pub(super) trait Handle: Sized + 'static {
    /// What any thread may post to it.
    type Post: std::fmt::Debug;
    /// Whether it is plain memory, as good in a forked copy as in the process that made it.
    const SURVIVES_FORK: bool = false;
    /// Where the memory of ended ones is kept.
    fn ended() -> &'static Ended<Self>;
}

impl<T: Handle> Shell<T> {
    /// Makes a living handle; the pointer is what C gets.
    pub(super) fn create(inner: T, bell: c_int) -> *mut Shell<T> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        fork::install();
        // The lock must not be copied while it is held.
        let inside = fork::enter();
        let mut ended = T::ended().0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let shell = if ended.len() > QUARANTINE { ended.pop_front() } else { None };
        drop(ended);
        drop(inside);
        let shell: &'static Shell<T> = shell.unwrap_or_else(|| Box::leak(Box::new(Shell::empty())));
        shell.poisoned.store(false, Ordering::Relaxed);
        shell.busy.store(false, Ordering::Relaxed);
        shell.callbacks.store(0, Ordering::Relaxed);
        shell.generation.store(fork::generation(), Ordering::Relaxed);
        shell.serial.store(SERIAL.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        shell.bell.store(bell, Ordering::Relaxed);
        shell.driver.store(0, Ordering::Relaxed);
        shell.stopped.store(false, Ordering::Relaxed);
        shell.bell_of.store(std::ptr::null_mut(), Ordering::Relaxed);
        shell.posts_of.store(std::ptr::null_mut(), Ordering::Relaxed);
        shell.data.store(std::ptr::null_mut(), Ordering::Relaxed);
        shell.take_posts();
        // SAFETY: the handle is not alive, so nobody is inside; `take` has left None there.
        unsafe { *shell.inner.get() = Some(inner) };
        shell.state.store(ALIVE, Ordering::Release);
        std::ptr::from_ref(shell).cast_mut()
    }

    fn empty() -> Shell<T> {
        Shell {
            state: AtomicU8::new(ENDED),
            poisoned: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            callbacks: AtomicU32::new(0),
            callback_thread: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
            serial: AtomicU64::new(0),
            bell: AtomicI32::new(-1),
            driver: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            bell_of: AtomicPtr::new(std::ptr::null_mut()),
            posts_of: AtomicPtr::new(std::ptr::null_mut()),
            posts: Mutex::new(VecDeque::new()),
            posted: AtomicUsize::new(0),
            data: AtomicPtr::new(std::ptr::null_mut()),
            inner: UnsafeCell::new(None),
        }
    }

    /// The handle behind a pointer from C.
    pub(super) fn of<'a>(pointer: *const Shell<T>) -> Result<&'a Shell<T>, c_int> {
        if pointer.is_null() || !pointer.is_aligned() {
            return Err(BROKER_EINVAL);
        }
        // SAFETY: the contract of every function is that the pointer came from the matching `_new`. Its
        // memory is never unmapped, so a pointer kept beyond its handle's end still reads a `Shell`.
        Ok(unsafe { &*pointer })
    }

    /// Whether it is alive, sound and of this process.
    pub(super) fn check(&self) -> Result<(), c_int> {
        if self.state.load(Ordering::Acquire) != ALIVE {
            return Err(BROKER_ESTATE);
        }
        if !T::SURVIVES_FORK && self.is_forked() {
            return Err(BROKER_EFORKED);
        }
        if self.poisoned.load(Ordering::Relaxed) { Err(BROKER_EPANIC) } else { Ok(()) }
    }

    /// Whether a call from where it comes is allowed.
    pub(super) fn check_rule(&self, rule: Rule) -> Result<(), c_int> {
        match rule {
            Rule::OutsideCallbacks if self.in_callback() => Err(BROKER_EREENTRANT),
            _ => Ok(()),
        }
    }

    /// Its number, unlike that of any handle before or after.
    pub(super) fn serial(&self) -> u64 {
        self.serial.load(Ordering::Relaxed)
    }

    /// Has this handle woken by another's bell. Called before the handle is handed out.
    pub(super) fn ring_at<U: Handle>(&self, other: &Shell<U>) {
        let there = other.bell_of.load(Ordering::Relaxed);
        let bell = if there.is_null() { std::ptr::from_ref(&other.bell).cast_mut() } else { there };
        self.bell_of.store(bell, Ordering::Relaxed);
    }

    /// Has what is posted to this handle wait at another. Called before the handle is handed out.
    pub(super) fn post_at(&self, other: &Shell<T>) {
        self.posts_of.store(std::ptr::from_ref(other).cast_mut(), Ordering::Relaxed);
        self.ring_at(other);
    }

    /// Wakes whoever drives it. Async-signal-safe.
    pub(super) fn ring(&self) -> c_int {
        let there = self.bell_of.load(Ordering::Relaxed);
        // SAFETY: `ring_at` has put it there: a field of a `Shell`, whose memory is never unmapped.
        let bell = if there.is_null() { &self.bell } else { unsafe { &*there } };
        let bell = bell.load(Ordering::Acquire);
        if bell < 0 {
            return BROKER_ESTATE;
        }
        ring(bell);
        BROKER_OK
    }

    /// Leaves something to be run in the thread that drives the handle, and wakes it.
    pub(super) fn post(&self, post: T::Post) -> c_int {
        let there = self.posts_of.load(Ordering::Relaxed);
        // SAFETY: as in `ring`, of `post_at`.
        let at = if there.is_null() { self } else { unsafe { &*there } };
        if let Err(code) = at.keep_post(post) {
            return code;
        }
        self.ring();
        BROKER_OK
    }

    fn keep_post(&self, post: T::Post) -> Result<(), c_int> {
        // The lock must not be copied by a fork while it is held.
        let _inside = fork::enter();
        let mut posts = self.posts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Under the lock: whoever ends the handle takes all posts after it has said so.
        self.check()?;
        if posts.len() >= POSTS_MAX {
            return Err(BROKER_EAGAIN);
        }
        posts.push_back(post);
        self.posted.store(posts.len(), Ordering::Release);
        Ok(())
    }

    /// What has been posted by now.
    pub(super) fn take_posts(&self) -> VecDeque<T::Post> {
        if self.posted.load(Ordering::Acquire) == 0 {
            return VecDeque::new();
        }
        let _inside = fork::enter();
        let mut posts = self.posts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.posted.store(0, Ordering::Relaxed);
        std::mem::take(&mut *posts)
    }

    /// The program's own pointer; null for a handle that has ended.
    pub(super) fn kept_data(&self) -> *mut c_void {
        match self.state.load(Ordering::Acquire) {
            ALIVE => self.data.load(Ordering::Acquire),
            _ => std::ptr::null_mut(),
        }
    }

    /// Whether anything has been posted that has not been taken.
    pub(super) fn has_posts(&self) -> bool {
        self.posted.load(Ordering::Acquire) > 0
    }

    /// Whether one of its callbacks is running.
    pub(super) fn in_callback(&self) -> bool {
        self.callbacks.load(Ordering::Relaxed) > 0
    }

    /// Lets `body` at what the handle holds, alone and not across a fork. A panic in it poisons the handle.
    pub(super) fn borrow<R>(&self, body: impl FnOnce(&mut T) -> R) -> Result<R, c_int> {
        self.borrow_while(fork::enter, body)
    }

    /// The same for a body that waits and changes nothing meanwhile: a fork elsewhere need not wait for it.
    pub(super) fn borrow_waiting<R>(&self, body: impl FnOnce(&mut T) -> R) -> Result<R, c_int> {
        self.borrow_while(|| (), body)
    }

    fn borrow_while<G, R>(
        &self,
        guard: impl FnOnce() -> G,
        body: impl FnOnce(&mut T) -> R,
    ) -> Result<R, c_int> {
        if self.busy.swap(true, Ordering::Acquire) {
            return Err(BROKER_EREENTRANT);
        }
        let guard = guard();
        // SAFETY: `busy` was false and is ours now, so this is the only reference to what is inside.
        let inner = unsafe { &mut *self.inner.get() };
        let result = match inner {
            Some(inner) => catch_unwind(AssertUnwindSafe(|| body(inner))).map_err(|_| {
                self.poisoned.store(true, Ordering::Relaxed);
                BROKER_EPANIC
            }),
            None => Err(BROKER_ESTATE),
        };
        drop(guard);
        self.busy.store(false, Ordering::Release);
        result
    }

    /// Runs a callback of C's, during which the handle may be used and freed. False: stop what you are doing,
    /// the handle has ended or this process is no longer the one it belongs to.
    pub(super) fn call_out(&self, callback: impl FnOnce()) -> bool {
        let serial = self.serial();
        let generation = self.generation.load(Ordering::Relaxed);
        self.callbacks.fetch_add(1, Ordering::Relaxed);
        self.callback_thread.store(this_thread(), Ordering::Relaxed);
        callback();
        self.callbacks.fetch_sub(1, Ordering::Relaxed);
        self.serial() == serial
            && self.state.load(Ordering::Relaxed) == ALIVE
            && generation == fork::generation()
            && generation == self.generation.load(Ordering::Relaxed)
    }

    /// Ends the handle and hands out what it held; later when one of its callbacks is running: then `None`,
    /// and whoever runs callbacks calls `finish` after the last of them.
    pub(super) fn end(&self) -> Result<Option<T>, c_int> {
        if self.state.load(Ordering::Acquire) != ALIVE {
            return Err(BROKER_ESTATE);
        }
        if self.is_forked() {
            self.forget_other_threads();
        }
        if self.busy.load(Ordering::Acquire) {
            return Err(BROKER_EREENTRANT);
        }
        self.state.store(ENDING, Ordering::Relaxed);
        Ok(self.finish())
    }

    /// Ends a handle that was freed in one of its callbacks, once none is running.
    pub(super) fn finish(&self) -> Option<T> {
        if self.state.load(Ordering::Acquire) != ENDING || self.in_callback() {
            return None;
        }
        if self.busy.swap(true, Ordering::Acquire) {
            return None;
        }
        self.bell.store(-1, Ordering::Relaxed);
        // SAFETY: as in `borrow_while`.
        let inner = unsafe { (*self.inner.get()).take() };
        self.state.store(ENDED, Ordering::Release);
        self.busy.store(false, Ordering::Release);
        if let Ok(shell) = Shell::of(std::ptr::from_ref(self)) {
            let _inside = fork::enter();
            T::ended().0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push_back(shell);
        }
        inner
    }

    /// Whether this process is a copy of the one it belongs to.
    pub(super) fn is_forked(&self) -> bool {
        self.generation.load(Ordering::Relaxed) != fork::generation()
    }

    /// Whether it has a bug behind it: what it holds is not to be trusted.
    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Relaxed)
    }

    /// Makes a handle inherited through a fork this process' own. `renew` turns what it held into what it
    /// will hold; where it returns `ESYS` it has changed nothing, and the handle stays the parent's, so that
    /// nothing of the parent's can be used. In the process that made it: `ESTATE`.
    pub(super) fn adopt_after_fork(&self, renew: impl FnOnce(&mut T) -> c_int) -> Result<c_int, c_int> {
        if self.state.load(Ordering::Acquire) != ALIVE {
            return Err(BROKER_ESTATE);
        }
        if self.poisoned.load(Ordering::Relaxed) {
            return Err(BROKER_EPANIC);
        }
        let generation = fork::generation();
        if self.generation.load(Ordering::Relaxed) == generation {
            return Err(BROKER_ESTATE);
        }
        if fork::is_inside() {
            return Err(BROKER_EREENTRANT);
        }
        self.forget_other_threads();
        let code = self.borrow(renew)?;
        if code != BROKER_ESYS {
            self.generation.store(generation, Ordering::Relaxed);
        }
        Ok(code)
    }

    /// In a forked copy: the threads that were at work on the handle do not exist here, and `fork` has seen
    /// to it that none of them was half-way through a change.
    fn forget_other_threads(&self) {
        if fork::is_inside() {
            return;
        }
        self.busy.store(false, Ordering::Relaxed);
        if self.callback_thread.load(Ordering::Relaxed) != this_thread() {
            self.callbacks.store(0, Ordering::Relaxed);
        }
    }
}

/// Tells threads apart; the same in a forked copy as in the thread that forked.
pub(super) fn this_thread() -> usize {
    thread_local!(static PLACE: u8 = const { 0 });
    PLACE.with(|place| std::ptr::from_ref(place).addr())
}

/// What a function returns when the border turns the call away.
pub(super) trait Refused {
    fn refused(code: c_int) -> Self;
}

impl Refused for c_int {
    fn refused(code: c_int) -> c_int {
        code
    }
}

impl Refused for *const c_char {
    fn refused(_: c_int) -> *const c_char {
        std::ptr::null()
    }
}

/// The gate of every function on a handle: `body` runs only if the call is in order.
pub(super) fn enter<T: Handle, R: Refused>(
    pointer: *const Shell<T>,
    rule: Rule,
    body: impl FnOnce(&mut T) -> R,
) -> R {
    let passed = Shell::of(pointer).and_then(|shell| {
        shell.check()?;
        shell.check_rule(rule)?;
        shell.borrow(body)
    });
    passed.unwrap_or_else(R::refused)
}

/// The gate of functions that run callbacks: `body` gets the handle itself, and borrows what it needs when it
/// needs it.
pub(super) fn enter_dispatching<T: Handle>(
    pointer: *const Shell<T>,
    body: impl FnOnce(&Shell<T>) -> Result<c_int, c_int>,
) -> c_int {
    let passed = Shell::of(pointer).and_then(|shell| {
        shell.check()?;
        shell.check_rule(Rule::OutsideCallbacks)?;
        catch_unwind(AssertUnwindSafe(|| body(shell))).unwrap_or_else(|_| {
            shell.poisoned.store(true, Ordering::Relaxed);
            Err(BROKER_EPANIC)
        })
    });
    passed.unwrap_or_else(|code| code)
}

/// The gate of functions without a handle of their own: no panic leaves.
pub(super) fn shield<R>(refused: R, body: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(refused)
}
