//! The border that every call from C crosses. It checks that the handle is one of ours, alive, of this process and not in
//! use; no panic passes it. Owns the memory of handles, which is never unmapped, so that the use of a freed handle is
//! detected. Decides nothing else.
//!
//! In a forked copy the contents of a parent's handle are neither read nor dropped, since another thread may have been
//! changing them: they are abandoned in place. Their descriptors are closed by number (`base::fds`).

use super::cancel::{self, FdWait};
use super::claim::Doing;
use super::codes::{
    BROKER_EAGAIN, BROKER_EFORKED, BROKER_EINVAL, BROKER_EPANIC, BROKER_EREENTRANT, BROKER_ESTATE, BROKER_OK,
};
use super::fork::{self, EachProcess};
pub(super) use super::head::this_thread;
use super::head::{ALIVE, ELSEWHERE, ENDED, ENDING, HandleHead, Number};
use super::posts::Posts;
use super::{bell, follow, log};
use crate::base::fds;
use std::cell::{Cell, UnsafeCell};
use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Ended handles whose memory is not reused yet: this many more must end before a stale pointer can refer to
/// another living handle.
const QUARANTINE: usize = 1024;

thread_local! {
    /// Handles that this thread is inside of, nested.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// Log callbacks that run in this thread while a handle is claimed.
    static LOGGING: Cell<u32> = const { Cell::new(0) };
}

/// The memory of a handle, which outlives the handle.
#[derive(Debug)]
pub(super) struct Shell<T: Handle> {
    head: HandleHead,
    /// broker_loop_stop() has been called.
    pub(super) stopped: AtomicBool,
    /// The thread that drove it last, 0 before the first time.
    pub(super) driver: AtomicUsize,
    /// Functions posted by other threads, and the shell that queues them if it is another one.
    posts: Posts<T::Post>,
    posts_at: AtomicPtr<Shell<T>>,
    beside: UnsafeCell<T::Beside>,
    inner: UnsafeCell<Option<T>>,
}

// SAFETY: `head` is all atomics; `inner` is only reached through `borrow`, which admits one thread at a time, and `beside`
// changes only while the handle is not alive. One thread after the other uses the contents, as the header requires.
unsafe impl<T: Handle> Sync for Shell<T> {}

/// Where a call is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Also inside callbacks.
    Anywhere,
    /// Not inside the handle's own callbacks.
    OutsideCallbacks,
}

/// Handles of one kind that have ended in this process, oldest first.
pub(super) struct Ended<T: Handle>(EachProcess<Mutex<VecDeque<&'static Shell<T>>>>);

impl<T: Handle> Ended<T> {
    pub(super) const fn new() -> Self {
        Ended(EachProcess::new())
    }
}

/// A kind of handle.
pub(super) trait Handle: Sized + 'static {
    /// Whether it is plain memory, usable in a forked copy like in the process that created it.
    const SURVIVES_FORK: bool = false;
    /// The functions that any thread may post to it.
    type Post;
    /// What a copy needs of it, readable there whatever another thread was doing: immutable, or atomics.
    type Beside: Default + std::fmt::Debug;
    /// Where ended handles are kept.
    fn ended() -> &'static Ended<Self>;
}

/// This thread works for an owner until this is dropped.
struct AtWork(u32);

impl AtWork {
    fn begin(owner: u32) -> AtWork {
        AtWork(fds::work_for(owner))
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        fds::work_for(self.0);
    }
}

/// Inside a handle, as long as this lives.
struct Within {
    _at_work: AtWork,
}

impl Within {
    fn begin(owner: u32) -> Within {
        DEPTH.set(DEPTH.get() + 1);
        Within { _at_work: AtWork::begin(owner) }
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Whether this thread is inside a handle.
pub(super) fn is_inside() -> bool {
    DEPTH.get() > 0
}

impl<T: Handle> Shell<T> {
    /// Creates a living handle; C gets the pointer.
    pub(super) fn create(inner: T, bell: c_int) -> *mut Shell<T> {
        Shell::create_as(Number::next(), inner, bell, T::Beside::default())
    }

    /// The same with the number that `making` has assigned.
    pub(super) fn create_as(number: Number, inner: T, bell: c_int, beside: T::Beside) -> *mut Shell<T> {
        fork::install();
        let mut ended = T::ended().0.get().lock().unwrap_or_else(PoisonError::into_inner);
        let shell = if ended.len() > QUARANTINE { ended.pop_front() } else { None };
        drop(ended);
        let shell: &'static Shell<T> = shell.unwrap_or_else(|| Box::leak(Box::new(Shell::empty())));
        shell.head.begin(number, bell);
        shell.stopped.store(false, Ordering::Relaxed);
        shell.driver.store(0, Ordering::Relaxed);
        shell.posts_at.store(std::ptr::null_mut(), Ordering::Relaxed);
        drop(shell.posts.take());
        // SAFETY: the handle is not alive, so no thread is inside; `finish` has left None there.
        unsafe { *shell.inner.get() = Some(inner) };
        // SAFETY: as above.
        unsafe { *shell.beside.get() = beside };
        shell.head.state.store(ALIVE, Ordering::Release);
        std::ptr::from_ref(shell).cast_mut()
    }

    fn empty() -> Shell<T> {
        Shell {
            head: HandleHead::new(),
            stopped: AtomicBool::new(false),
            driver: AtomicUsize::new(0),
            posts: Posts::new(),
            posts_at: AtomicPtr::new(std::ptr::null_mut()),
            beside: UnsafeCell::new(T::Beside::default()),
            inner: UnsafeCell::new(None),
        }
    }

    /// The handle behind a pointer from C.
    pub(super) fn of<'a>(pointer: *const Shell<T>) -> Result<&'a Shell<T>, c_int> {
        if pointer.is_null() || !pointer.is_aligned() {
            return Err(BROKER_EINVAL);
        }
        // SAFETY: every function requires a pointer from the matching `_new`. Its memory is never unmapped, so a
        // pointer kept beyond its handle's end still refers to a `Shell`.
        Ok(unsafe { &*pointer })
    }

    /// Makes it a part of `parent`: a fork that moves `parent` moves it too.
    pub(super) fn belongs_to<P: Handle>(&self, parent: &'static Shell<P>) {
        self.head.parent_serial.store(parent.serial(), Ordering::Relaxed);
        self.head.parent.store(std::ptr::from_ref(&parent.head).cast_mut(), Ordering::Release);
    }

    /// Whether it is alive, usable and of this process.
    pub(super) fn check(&self) -> Result<(), c_int> {
        if !self.head.is_alive() {
            return Err(BROKER_ESTATE);
        }
        if self.is_forked() {
            return Err(BROKER_EFORKED);
        }
        if self.head.is_orphan() {
            return Err(BROKER_ESTATE);
        }
        if self.is_poisoned() { Err(BROKER_EPANIC) } else { Ok(()) }
    }

    /// Whether a call is allowed here.
    pub(super) fn check_rule(&self, rule: Rule) -> Result<(), c_int> {
        match rule {
            Rule::OutsideCallbacks if self.in_callback() => Err(BROKER_EREENTRANT),
            _ => Ok(()),
        }
    }

    /// Its serial number, unique in the process.
    pub(super) fn serial(&self) -> u64 {
        self.head.serial.load(Ordering::Relaxed)
    }

    /// Whether one of its callbacks is running.
    pub(super) fn in_callback(&self) -> bool {
        self.head.in_callback()
    }

    /// What a copy may read. For the thread that uses the handle.
    pub(super) fn beside(&self) -> &T::Beside {
        // SAFETY: changes only while the handle is not alive.
        unsafe { &*self.beside.get() }
    }

    /// Calls `body` with the contents of the handle, exclusively. A panic in it makes the handle unusable.
    pub(super) fn borrow<R>(&self, body: impl FnOnce(&mut T) -> R) -> Result<R, c_int> {
        self.head.claim.take(Doing::Changing)?;
        let result = self.work(body);
        self.head.claim.release();
        result
    }

    /// The same for a body that only reads: a copy made meanwhile finds the handle usable.
    pub(super) fn borrow_reading<R>(&self, body: impl FnOnce(&T) -> R) -> Result<R, c_int> {
        self.head.claim.take(Doing::Reading)?;
        let result = self.work(|inner| body(inner));
        self.head.claim.release();
        result
    }

    /// The same for a body before a wait: if it returns what to wait for, the handle stays claimed until `end_wait`, or,
    /// in a thread that is cancelled meanwhile, until the end of the thread.
    pub(super) fn borrow_to_wait(
        &'static self,
        body: impl FnOnce(&mut T) -> Option<FdWait>,
    ) -> Result<Option<FdWait>, c_int> {
        self.head.claim.take(Doing::Changing)?;
        let result = self.work(body);
        match result {
            Ok(Some(_)) => self.head.claim.begin_wait(),
            _ => self.head.claim.release(),
        }
        result
    }

    /// With the handle claimed.
    fn work<R>(&self, body: impl FnOnce(&mut T) -> R) -> Result<R, c_int> {
        // SAFETY: the claim is ours, so this is the only reference to the contents.
        let Some(inner) = (unsafe { &mut *self.inner.get() }) else { return Err(BROKER_ESTATE) };
        // Plain memory opens nothing, and a log line about it can be passed on at once.
        let within = (!T::SURVIVES_FORK).then(|| Within::begin(self.head.number.load(Ordering::Relaxed)));
        let result = catch_unwind(AssertUnwindSafe(|| body(inner)));
        if within.is_some() {
            drop(within);
            self.hand_over_log();
        }
        result.map_err(|_| {
            self.head.poisoned.store(true, Ordering::Relaxed);
            BROKER_EPANIC
        })
    }

    /// Passes on the lines logged inside. The handle is still claimed, so the log callback finds it in use.
    fn hand_over_log(&self) {
        if !is_inside() {
            LOGGING.set(LOGGING.get() + 1);
            log::hand_over(std::ptr::from_ref(self).cast());
            LOGGING.set(LOGGING.get() - 1);
        }
    }

    /// Runs a callback of C, which may use and free the handle. False means that the caller must stop: the handle has
    /// ended, or this process is no longer the one it belongs to.
    pub(super) fn call_out(&self, callback: impl FnOnce()) -> bool {
        let serial = self.serial();
        let home = self.head.home();
        self.head.callbacks.fetch_add(1, Ordering::Relaxed);
        self.head.callback_thread.store(this_thread(), Ordering::Relaxed);
        callback();
        self.head.callbacks.fetch_sub(1, Ordering::Relaxed);
        self.serial() == serial
            && self.head.is_alive()
            && home == fork::generation()
            && home == self.head.home()
    }

    /// Ends the handle and returns its contents. `None` while one of its callbacks runs: whoever runs callbacks then
    /// calls `finish` after the last of them. Always `None` in a forked copy.
    pub(super) fn end(&self) -> Result<Option<T>, c_int> {
        if !self.head.is_alive() {
            return Err(BROKER_ESTATE);
        }
        if self.is_forked() {
            self.take_over()?;
        } else {
            match self.head.claim.take(Doing::Changing) {
                // In a copy, the contents may be what a thread of the parent was changing.
                Err(BROKER_EFORKED) => {
                    self.take_over()?;
                    self.head.generation.store(ELSEWHERE, Ordering::Relaxed);
                }
                taken => taken?,
            }
            if !self.head.is_alive() {
                self.head.claim.release();
                return Err(BROKER_ESTATE);
            }
        }
        self.head.state.store(ENDING, Ordering::Release);
        if self.in_callback() {
            self.head.claim.release();
            return Ok(None);
        }
        Ok(self.finish_claimed())
    }

    /// Ends a handle that was freed in one of its callbacks, once none is running.
    pub(super) fn finish(&self) -> Option<T> {
        if self.head.state.load(Ordering::Acquire) != ENDING || self.in_callback() {
            return None;
        }
        self.head.claim.take(Doing::Changing).ok()?;
        self.finish_claimed()
    }

    fn finish_claimed(&self) -> Option<T> {
        self.head.silence();
        if self.is_forked() {
            self.head.state.store(ENDED, Ordering::Release);
            self.head.claim.release();
            // Its memory is not reused: the contents stay there.
            fork::keep(std::ptr::from_ref(self).cast());
            return None;
        }
        // SAFETY: as in `work`.
        let inner = unsafe { (*self.inner.get()).take() };
        self.head.state.store(ENDED, Ordering::Release);
        self.head.claim.release();
        if let Ok(shell) = Shell::of(std::ptr::from_ref(self)) {
            T::ended().0.get().lock().unwrap_or_else(PoisonError::into_inner).push_back(shell);
        }
        inner
    }

    /// Whether this process is a copy of the one it belongs to.
    pub(super) fn is_forked(&self) -> bool {
        let torn = T::SURVIVES_FORK && self.head.generation.load(Ordering::Relaxed) == ELSEWHERE;
        torn || !T::SURVIVES_FORK && self.head.is_forked()
    }

    /// Whether a panic has happened in it: its contents are not trusted.
    pub(super) fn is_poisoned(&self) -> bool {
        self.head.poisoned.load(Ordering::Relaxed)
    }

    /// Whether a fork moves it, and its parts, to the child.
    pub(super) fn follow_fork(&'static self, on: bool) -> c_int {
        let set = || {
            self.check()?;
            self.head.follows.store(on, Ordering::Release);
            if on {
                follow::list(&self.head);
            }
            Ok(BROKER_OK)
        };
        set().unwrap_or_else(|code: c_int| code)
    }

    /// Makes a handle inherited through a fork this process's own: `make` gets what a copy may read and returns the new
    /// contents, their bell and the code; on an error nothing has changed. The old contents are abandoned. `ESTATE` in the
    /// process that created it.
    pub(super) fn adopt_after_fork(
        &self,
        make: impl FnOnce(&T::Beside) -> Result<(T, c_int, c_int), c_int>,
    ) -> Result<c_int, c_int> {
        if !self.head.is_alive() {
            return Err(BROKER_ESTATE);
        }
        if self.is_poisoned() {
            return Err(BROKER_EPANIC);
        }
        if !self.is_forked() {
            return Err(BROKER_ESTATE);
        }
        if self.head.home() == ELSEWHERE {
            return Err(BROKER_EFORKED);
        }
        self.take_over()?;
        let at_work = AtWork::begin(self.head.number.load(Ordering::Relaxed));
        let made = catch_unwind(AssertUnwindSafe(|| make(self.beside()))).unwrap_or(Err(BROKER_EPANIC));
        drop(at_work);
        let made = made.map(|(inner, bell, code)| {
            self.replace(inner);
            // They were posted for the parent.
            drop(self.posts.take());
            self.head.follows.store(false, Ordering::Relaxed);
            fork::keep(self.head.refusal.swap(std::ptr::null_mut(), Ordering::AcqRel).cast());
            // Parts of the old handle are not parts of the new one.
            self.head.serial.store(Number::next().0, Ordering::Relaxed);
            self.head.bell.store(bell::of(bell), Ordering::SeqCst);
            self.head.generation.store(fork::generation(), Ordering::Release);
            code
        });
        self.head.claim.release();
        made
    }

    /// Stores why a copy could not make it its own.
    pub(super) fn set_refusal(&self, words: CString) {
        let present = self.refusal();
        // SAFETY: null, or such a text, which is never freed.
        if !present.is_null() && unsafe { CStr::from_ptr(present) } == words.as_c_str() {
            // At most one copy is kept for a program that retries without end.
            return;
        }
        let before = self.head.refusal.swap(words.into_raw(), Ordering::AcqRel);
        fork::keep(before.cast());
    }

    /// Why a copy could not make it its own; null if it has not tried.
    pub(super) fn refusal(&self) -> *const c_char {
        self.head.refusal.load(Ordering::Acquire)
    }

    /// Replaces the contents and keeps the old ones untouched.
    fn replace(&self, inner: T) {
        let place = self.inner.get();
        // SAFETY: the claim is ours. The bytes are moved unread: another thread of the parent may have been changing
        // what they mean.
        let previous = unsafe { std::ptr::read(place.cast::<MaybeUninit<Option<T>>>()) };
        fork::keep(Box::into_raw(Box::new(previous)).cast());
        // SAFETY: as above; the old contents are not dropped.
        unsafe { std::ptr::write(place, Some(inner)) };
    }

    /// In a forked copy: claims it, whatever the parent's threads were doing; they do not exist here.
    fn take_over(&self) -> Result<(), c_int> {
        if is_inside() || LOGGING.get() > 0 {
            return Err(BROKER_EREENTRANT);
        }
        self.head.claim.take_over()?;
        self.head.forget_threads();
        Ok(())
    }

    /// Makes its descriptor readable. [any thread, async-signal-safe]
    pub(super) fn ring(&self, before: impl FnOnce(&Self)) -> Result<(), c_int> {
        // SAFETY: null, or the head of a handle, whose memory is never unmapped.
        let at = unsafe { self.head.rings.load(Ordering::Relaxed).as_ref() }.unwrap_or(&self.head);
        at.ringing.begin();
        let rung = self.check().and_then(|()| match at.bell.load(Ordering::SeqCst) {
            -1 => Err(BROKER_ESTATE),
            bell => {
                before(self);
                bell::ring(bell);
                Ok(())
            }
        });
        at.ringing.end();
        rung
    }

    /// Lets the bell of another handle wake it. Called before it is handed out.
    pub(super) fn ring_at<U: Handle>(&self, other: &'static Shell<U>) {
        let there = other.head.rings.load(Ordering::Relaxed);
        let at = if there.is_null() { std::ptr::from_ref(&other.head).cast_mut() } else { there };
        self.head.rings.store(at, Ordering::Relaxed);
    }

    /// Queues its posts at another handle, whose bell wakes it. Called before it is handed out.
    pub(super) fn post_at(&self, other: &'static Shell<T>) {
        self.posts_at.store(std::ptr::from_ref(other).cast_mut(), Ordering::Relaxed);
        self.ring_at(other);
    }

    /// Posts a function for the thread that drives it, and wakes that. `EAGAIN` while a fork moves it: a function accepted
    /// then would reach neither the child nor this process. [any thread]
    pub(super) fn post(&self, post: T::Post) -> Result<(), c_int> {
        self.check()?;
        // SAFETY: null, or a handle, whose memory is never unmapped.
        let at = unsafe { self.posts_at.load(Ordering::Relaxed).as_ref() }.unwrap_or(self);
        // Also checked before: a fork waits until no thread is counted.
        if at.head.is_departing() {
            return Err(BROKER_EAGAIN);
        }
        // Ending the handle waits for the counted threads before it takes the posts.
        at.head.posting.begin();
        let left = if at.head.is_departing() { Err(BROKER_EAGAIN) } else { at.check() };
        let left = left.and_then(|()| at.posts.add(post));
        if left.is_ok() {
            // If it ends at this moment, the post was accepted in time.
            let _ = self.ring(|_| ());
        }
        at.head.posting.end();
        left
    }

    /// The functions posted so far, oldest first.
    pub(super) fn take_posts(&self) -> Vec<T::Post> {
        if self.posts.is_empty() { Vec::new() } else { self.posts.take() }
    }

    /// Whether posted functions wait.
    pub(super) fn has_posts(&self) -> bool {
        !self.posts.is_empty()
    }

    /// Stores the program's pointer. [any thread]
    pub(super) fn set_data(&self, data: *mut c_void) -> c_int {
        match self.check() {
            Ok(()) => {
                self.head.data.store(data, Ordering::Release);
                BROKER_OK
            }
            Err(code) => code,
        }
    }

    /// The program's pointer; null for a handle that has ended. [any thread]
    pub(super) fn data(&self) -> *mut c_void {
        if self.head.is_alive() { self.head.data.load(Ordering::Acquire) } else { std::ptr::null_mut() }
    }
}

/// The result of a function when the border refuses the call.
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

/// The gate of every function with a handle: `body` runs only if the call is allowed.
pub(super) fn enter<T: Handle, R: Refused>(
    pointer: *const Shell<T>,
    rule: Rule,
    body: impl FnOnce(&mut T) -> R,
) -> R {
    enter_beside(pointer, rule, |inner, _| body(inner))
}

/// The same for functions that change what a copy may read.
pub(super) fn enter_beside<T: Handle, R: Refused>(
    pointer: *const Shell<T>,
    rule: Rule,
    body: impl FnOnce(&mut T, &T::Beside) -> R,
) -> R {
    let previous = cancel::defer();
    let passed = Shell::of(pointer).and_then(|shell| {
        shell.check()?;
        shell.check_rule(rule)?;
        // Checked again: another thread's fork may have moved it before it was claimed.
        shell.borrow(|inner| shell.check().map(|()| body(inner, shell.beside())))?
    });
    previous.restore();
    passed.unwrap_or_else(R::refused)
}

/// The gate of functions that run callbacks: `body` gets the handle itself, and borrows the contents when it
/// needs them.
pub(super) fn enter_dispatching<T: Handle>(
    pointer: *const Shell<T>,
    body: impl FnOnce(&'static Shell<T>) -> Result<c_int, c_int>,
) -> c_int {
    let previous = cancel::defer();
    let code = dispatch(pointer, false, body);
    previous.restore();
    code.unwrap_or_else(|code| code)
}

/// Drives the handle through `body`; this thread may have waited on it until now.
fn dispatch<T: Handle, R>(
    pointer: *const Shell<T>,
    waited: bool,
    body: impl FnOnce(&'static Shell<T>) -> Result<R, c_int>,
) -> Result<R, c_int> {
    let shell = Shell::of(pointer)?;
    let driving = shell
        .check()
        .and_then(|()| shell.check_rule(Rule::OutsideCallbacks))
        .and_then(|()| shell.head.drive());
    if waited {
        // Not before this thread drives it, so that a fork never finds it unused in between.
        shell.head.claim.end_wait();
    }
    let _driving = driving?;
    // Checked again: another thread's fork may have moved it before this one drove it.
    shell.check()?;
    catch_unwind(AssertUnwindSafe(|| body(shell))).unwrap_or_else(|_| {
        shell.head.poisoned.store(true, Ordering::Relaxed);
        Err(BROKER_EPANIC)
    })
}

/// The result of one step of a function that waits.
#[derive(Debug, Clone, Copy)]
pub(super) enum WaitStep {
    Done(c_int),
    /// Call again afterwards.
    Wait(FdWait),
}

/// The gate of functions that run callbacks and wait: `step` is called, with waits in between, until it is done. A thread
/// may be cancelled in a wait and then unwinds through this frame, which therefore has nothing to drop: `state` is all that
/// a function keeps from one step to the next.
pub(super) fn enter_waiting<T: Handle, S: Copy>(
    pointer: *const Shell<T>,
    mut state: S,
    step: fn(&'static Shell<T>, &mut S) -> Result<WaitStep, c_int>,
) -> c_int {
    let previous = cancel::defer();
    let serial = serial_of(pointer);
    let mut waited = false;
    loop {
        match take_step(pointer, serial, waited, &mut state, step) {
            WaitStep::Done(code) => {
                previous.restore();
                return code;
            }
            WaitStep::Wait(wait) => {
                wait.pause(previous);
                waited = true;
            }
        }
    }
}

fn take_step<T: Handle, S: Copy>(
    pointer: *const Shell<T>,
    serial: u64,
    waited: bool,
    state: &mut S,
    step: fn(&'static Shell<T>, &mut S) -> Result<WaitStep, c_int>,
) -> WaitStep {
    let same = |shell: &Shell<T>| shell.serial() == serial;
    let taken =
        dispatch(pointer, waited, |shell| if same(shell) { step(shell, state) } else { Err(BROKER_ESTATE) });
    taken.unwrap_or_else(WaitStep::Done)
}

fn serial_of<T: Handle>(pointer: *const Shell<T>) -> u64 {
    Shell::of(pointer).map_or(0, |shell| shell.serial())
}

/// The gate of functions that create a handle: descriptors they open are recorded under its number.
pub(super) fn making(body: impl FnOnce(Number) -> c_int) -> c_int {
    shield(BROKER_EPANIC, || {
        fork::install();
        let number = Number::next();
        let _at_work = AtWork::begin(number.owner());
        body(number)
    })
}

/// The gate of functions without a handle of their own: no panic passes, and no thread is cancelled.
pub(super) fn shield<R>(refused: R, body: impl FnOnce() -> R) -> R {
    let previous = cancel::defer();
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or(refused);
    previous.restore();
    result
}
