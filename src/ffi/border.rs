//! The border that every call from C crosses: is the handle ours, alive, of this process and not in use; no panic passes.
//! Owns the memory of handles, which is never unmapped, so that the use of a freed one is detected. In a forked copy the
//! contents of a parent's handle, which a thread may have been changing, are abandoned in place, neither read nor dropped.

use super::cancel::{self, FdWait};
use super::claim::Doing;
use super::codes::*;
use super::config::code_of;
use super::fork::{self, EachProcess};
pub(super) use super::head::this_thread;
use super::head::{ALIVE, ELSEWHERE, ENDED, ENDING, HandleHead, Number};
use super::posts::{Post, Posts};
use super::text::{copy_out, give, give_none};
use super::{bell, follow, log};
use crate::base::error::Error;
use crate::base::fds;
use std::cell::{Cell, UnsafeCell};
use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// As many more handles must end before an ended one's memory is reused, and a stale pointer finds a living one.
const QUARANTINE: usize = 1024;

thread_local! {
    /// Handles that this thread is inside of, nested.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// Log callbacks that run in this thread while a handle is claimed.
    static LOGGING: Cell<u32> = const { Cell::new(0) };
}

/// The memory of a handle, which outlives the handle. `H` is the type of the header.
pub(super) struct Shell<H: Handle> {
    head: HandleHead,
    pub(super) stopped: AtomicBool,
    /// The thread that drove it last, 0 before the first time.
    pub(super) driver: AtomicUsize,
    /// Functions posted by other threads, and the shell that queues them if it is another one.
    posts: Posts<H>,
    posts_at: AtomicPtr<Shell<H>>,
    beside: UnsafeCell<H::Beside>,
    inner: UnsafeCell<Option<H::Inner>>,
}

// SAFETY: `head` is all atomics; `inner` is only reached through `claimed`, which admits one thread at a time, and `beside`
// changes only while the handle is not alive. One thread after the other uses the contents, as the header requires.
unsafe impl<H: Handle> Sync for Shell<H> {}

/// Handles of one kind that have ended in this process, oldest first.
pub(super) type EndedHandles<H> = EachProcess<Mutex<VecDeque<&'static Shell<H>>>>;

pub(super) trait Handle: Sized + 'static {
    /// Whether it is plain memory, usable in a forked copy like in the process that created it.
    const SURVIVES_FORK: bool = false;
    type Inner;
    /// What a copy needs of it, readable there whatever another thread was doing: immutable, or atomics.
    type Beside: Default;
    fn ended() -> &'static EndedHandles<Self>;
}

/// A handle, for as long as it is the same one: others may follow in its memory.
pub(super) struct HandleRef<H: Handle> {
    shell: &'static Shell<H>,
    serial: u64,
}

impl<H: Handle> Clone for HandleRef<H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: Handle> Copy for HandleRef<H> {}

impl<H: Handle> HandleRef<H> {
    pub(super) fn new(shell: &'static Shell<H>) -> HandleRef<H> {
        HandleRef { shell, serial: shell.serial() }
    }

    pub(super) fn pointer(self) -> *mut H {
        self.shell.pointer()
    }

    pub(super) fn get(self) -> Result<&'static Shell<H>, c_int> {
        if self.shell.serial() != self.serial {
            return Err(BROKER_ESTATE);
        }
        self.shell.check().map(|()| self.shell)
    }
}

pub(super) fn is_inside() -> bool {
    DEPTH.get() > 0
}

/// Runs `body` for an owner: descriptors opened in it are recorded as the owner's.
fn at_work<R>(owner: u32, body: impl FnOnce() -> R) -> std::thread::Result<R> {
    let before = fds::work_for(owner);
    let result = catch_unwind(AssertUnwindSafe(body));
    fds::work_for(before);
    result
}

impl<H: Handle> Shell<H> {
    /// Creates a living handle. The descriptors of `inner` are recorded under its number.
    pub(super) fn create(number: Number, inner: H::Inner, bell: c_int, beside: H::Beside) -> &'static Self {
        fork::install();
        let mut ended = H::ended().get().lock().unwrap_or_else(PoisonError::into_inner);
        let shell = if ended.len() > QUARANTINE { ended.pop_front() } else { None };
        drop(ended);
        let shell: &'static Shell<H> = shell.unwrap_or_else(|| {
            Box::leak(Box::new(Shell {
                head: HandleHead::default(),
                stopped: AtomicBool::new(false),
                driver: AtomicUsize::new(0),
                posts: Posts::new(),
                posts_at: AtomicPtr::new(ptr::null_mut()),
                beside: UnsafeCell::default(),
                inner: UnsafeCell::new(None),
            }))
        });
        shell.head.begin(number, bell);
        shell.stopped.store(false, Ordering::Relaxed);
        shell.driver.store(0, Ordering::Relaxed);
        shell.posts_at.store(ptr::null_mut(), Ordering::Relaxed);
        drop(shell.posts.take());
        // SAFETY: the handle is not alive, so no thread is inside; `finish` has left None there.
        unsafe { *shell.inner.get() = Some(inner) };
        // SAFETY: as above.
        unsafe { *shell.beside.get() = beside };
        shell.head.state.store(ALIVE, Ordering::Release);
        shell
    }

    /// The handle behind a pointer from C.
    pub(super) fn of(pointer: *const H) -> Result<&'static Self, c_int> {
        let pointer = pointer.cast::<Shell<H>>();
        if pointer.is_null() || !pointer.is_aligned() {
            return Err(BROKER_EINVAL);
        }
        // SAFETY: every function requires a pointer from the matching `_new`. Its memory is never unmapped, so a
        // pointer kept beyond its handle's end still refers to a `Shell`.
        Ok(unsafe { &*pointer })
    }

    pub(super) fn pointer(&self) -> *mut H {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// Makes it a part of `parent`, whose bell wakes it and which a fork moves with it. Called before it is handed out.
    pub(super) fn belongs_to<P: Handle>(&self, parent: &'static Shell<P>) {
        self.head.parent_serial.store(parent.serial(), Ordering::Relaxed);
        self.head.parent.store(ptr::from_ref(&parent.head).cast_mut(), Ordering::Release);
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

    pub(super) fn serial(&self) -> u64 {
        self.head.serial.load(Ordering::Relaxed)
    }

    /// `EREENTRANT` while one of its callbacks is running.
    pub(super) fn check_outside_callbacks(&self) -> Result<(), c_int> {
        if self.in_callback() { Err(BROKER_EREENTRANT) } else { Ok(()) }
    }

    pub(super) fn in_callback(&self) -> bool {
        self.head.in_callback()
    }

    /// What a copy may read. For the thread that uses the handle.
    pub(super) fn beside(&self) -> &H::Beside {
        // SAFETY: changes only while the handle is not alive.
        unsafe { &*self.beside.get() }
    }

    /// Calls `body` with the contents of the handle, exclusively. A panic in it makes the handle unusable.
    pub(super) fn borrow<R>(&self, body: impl FnOnce(&mut H::Inner) -> R) -> Result<R, c_int> {
        self.claimed(Doing::Changing, body)
    }

    fn claimed<R>(&self, doing: Doing, body: impl FnOnce(&mut H::Inner) -> R) -> Result<R, c_int> {
        self.head.claim.take(doing)?;
        let result = self.work(body);
        self.head.claim.release();
        result
    }

    /// The same for a body before a wait: if it returns what to wait for, the handle stays claimed until `end_wait`, or,
    /// in a thread that is cancelled meanwhile, until the end of the thread.
    pub(super) fn borrow_to_wait(
        &'static self,
        body: impl FnOnce(&mut H::Inner) -> Option<FdWait>,
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
    fn work<R>(&self, body: impl FnOnce(&mut H::Inner) -> R) -> Result<R, c_int> {
        // SAFETY: the claim is ours, so this is the only reference to the contents.
        let Some(inner) = (unsafe { &mut *self.inner.get() }) else { return Err(BROKER_ESTATE) };
        if H::SURVIVES_FORK {
            // Plain memory opens nothing, and a log line about it can be passed on at once.
            return catch_unwind(AssertUnwindSafe(|| body(inner))).map_err(|_| self.poison());
        }
        DEPTH.set(DEPTH.get() + 1);
        let result = at_work(self.head.number.load(Ordering::Relaxed), || body(inner));
        DEPTH.set(DEPTH.get() - 1);
        if !is_inside() {
            // The handle is still claimed, so the log callback finds it in use.
            LOGGING.set(LOGGING.get() + 1);
            log::hand_over(ptr::from_ref(self).cast());
            LOGGING.set(LOGGING.get() - 1);
        }
        result.map_err(|_| self.poison())
    }

    /// After a panic: its contents are not trusted.
    fn poison(&self) -> c_int {
        self.head.poisoned.store(true, Ordering::Relaxed);
        BROKER_EPANIC
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
    pub(super) fn end(&'static self) -> Result<Option<H::Inner>, c_int> {
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
    pub(super) fn finish(&'static self) -> Option<H::Inner> {
        if self.head.state.load(Ordering::Acquire) != ENDING || self.in_callback() {
            return None;
        }
        self.head.claim.take(Doing::Changing).ok()?;
        self.finish_claimed()
    }

    fn finish_claimed(&'static self) -> Option<H::Inner> {
        self.head.silence();
        let forked = self.is_forked();
        // SAFETY: as in `work`.
        let inner = if forked { None } else { unsafe { (*self.inner.get()).take() } };
        self.head.state.store(ENDED, Ordering::Release);
        self.head.claim.release();
        if forked {
            // Its memory is not reused: the contents stay there.
            fork::keep(ptr::from_ref(self).cast());
        } else {
            H::ended().get().lock().unwrap_or_else(PoisonError::into_inner).push_back(self);
        }
        inner
    }

    /// Whether this process is a copy of the one it belongs to.
    pub(super) fn is_forked(&self) -> bool {
        let torn = H::SURVIVES_FORK && self.head.generation.load(Ordering::Relaxed) == ELSEWHERE;
        torn || !H::SURVIVES_FORK && self.head.is_forked()
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.head.poisoned.load(Ordering::Relaxed)
    }

    /// Whether a fork moves it, and its parts, to the child.
    pub(super) fn follow_fork(&'static self, on: bool) -> Result<c_int, c_int> {
        self.check()?;
        self.head.follows.store(on, Ordering::Release);
        if on {
            follow::list(&self.head);
        }
        Ok(BROKER_OK)
    }

    /// Makes a handle inherited through a fork this process's own: `make` gets what a copy may read and returns the new
    /// contents, their bell and the code; on an error nothing has changed. The old contents are abandoned. `ESTATE` in the
    /// process that created it.
    pub(super) fn adopt_after_fork(
        &self,
        make: impl FnOnce(&H::Beside) -> Result<(H::Inner, c_int, c_int), c_int>,
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
        let made = at_work(self.head.number.load(Ordering::Relaxed), || make(self.beside()));
        let made = made.unwrap_or(Err(BROKER_EPANIC));
        let made = made.map(|(inner, bell, code)| {
            self.replace(inner);
            // They were posted for the parent.
            drop(self.posts.take());
            self.head.follows.store(false, Ordering::Relaxed);
            fork::keep(self.head.refusal.swap(ptr::null_mut(), Ordering::AcqRel).cast());
            // Parts of the old handle are not parts of the new one.
            self.head.serial.store(Number::next().0, Ordering::Relaxed);
            self.head.bell.store(bell::of(bell), Ordering::SeqCst);
            self.head.generation.store(fork::generation(), Ordering::Release);
            code
        });
        self.head.claim.release();
        made
    }

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
    fn replace(&self, inner: H::Inner) {
        let place = self.inner.get();
        // SAFETY: the claim is ours. The bytes are moved unread: a thread of the parent may have been changing them.
        let previous = unsafe { ptr::read(place.cast::<MaybeUninit<Option<H::Inner>>>()) };
        fork::keep(Box::into_raw(Box::new(previous)).cast());
        // SAFETY: as above; the old contents are not dropped.
        unsafe { ptr::write(place, Some(inner)) };
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
        let at = self.head.parent().unwrap_or(&self.head);
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

    /// Queues its posts at another handle. Called before it is handed out.
    pub(super) fn post_at(&self, other: &'static Shell<H>) {
        self.posts_at.store(ptr::from_ref(other).cast_mut(), Ordering::Relaxed);
    }

    /// Posts a function for the thread that drives it, and wakes that. `EAGAIN` while a fork moves it: a function accepted
    /// then would reach neither the child nor this process. [any thread]
    pub(super) fn post(
        &'static self,
        callback: unsafe extern "C" fn(*mut H, c_int, *mut c_void),
        data: *mut c_void,
    ) -> Result<c_int, c_int> {
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
        let left = left.and_then(|()| at.posts.add(Post { callback, to: HandleRef::new(self), data }));
        if left.is_ok() {
            // If it ends at this moment, the post was accepted in time.
            let _ = self.ring(|_| ());
        }
        at.head.posting.end();
        left.map(|()| BROKER_OK)
    }

    /// The functions posted so far, oldest first.
    pub(super) fn take_posts(&self) -> Vec<Post<H>> {
        if self.has_posts() { self.posts.take() } else { Vec::new() }
    }

    pub(super) fn has_posts(&self) -> bool {
        !self.posts.is_empty()
    }

    /// Stores the program's pointer. [any thread]
    pub(super) fn set_data(&self, data: *mut c_void) -> Result<(), c_int> {
        self.check()?;
        self.head.data.store(data, Ordering::Release);
        Ok(())
    }

    /// The program's pointer; null for a handle that has ended. [any thread]
    pub(super) fn data(&self) -> *mut c_void {
        if self.head.is_alive() { self.head.data.load(Ordering::Acquire) } else { ptr::null_mut() }
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

impl<T> Refused for *const T {
    fn refused(_: c_int) -> *const T {
        ptr::null()
    }
}

impl<T> Refused for *mut T {
    fn refused(_: c_int) -> *mut T {
        ptr::null_mut()
    }
}

/// No panic passes, and no thread is cancelled inside.
pub(super) fn shield<R>(refused: R, body: impl FnOnce() -> R) -> R {
    let previous = cancel::defer();
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or(refused);
    previous.restore();
    result
}

/// The gate of every function that may fail.
pub(super) fn gate<R: Refused>(body: impl FnOnce() -> Result<R, c_int>) -> R {
    shield(Err(BROKER_EPANIC), body).unwrap_or_else(R::refused)
}

/// The gate of functions with a handle: `body` runs only if the call is allowed.
pub(super) fn enter<H: Handle, R: Refused>(
    pointer: *const H,
    body: impl FnOnce(&mut H::Inner) -> Result<R, c_int>,
) -> R {
    gate(|| {
        let shell = Shell::of(pointer)?;
        shell.check()?;
        // Checked again: another thread's fork may have moved it before it was claimed.
        shell.borrow(|inner| shell.check().and_then(|()| body(inner)))?
    })
}

/// The contents of plain memory that is only read: a copy made meanwhile finds it usable.
pub(super) fn read<H: Handle, R>(pointer: *const H, body: impl FnOnce(&H::Inner) -> R) -> Result<R, c_int> {
    let shell = Shell::of(pointer)?;
    shell.check()?;
    shell.claimed(Doing::Reading, |inner| body(inner))
}

/// The gate of functions that end a handle, if there is one.
pub(super) fn free<H: Handle>(
    pointer: *mut H,
    body: impl FnOnce(&'static Shell<H>) -> Result<(), c_int>,
) -> c_int {
    if pointer.is_null() {
        return BROKER_OK;
    }
    gate(|| Shell::of(pointer).and_then(body).map(|()| BROKER_OK))
}

/// Drives the handle through `body`; this thread may have waited on it until now.
fn drive<H: Handle, R>(
    shell: &'static Shell<H>,
    waited: bool,
    body: impl FnOnce() -> Result<R, c_int>,
) -> Result<R, c_int> {
    let driving =
        shell.check().and_then(|()| shell.check_outside_callbacks()).and_then(|()| shell.head.drive());
    if waited {
        // Not before this thread drives it, so that a fork never finds it unused in between.
        shell.head.claim.end_wait();
    }
    let _driving = driving?;
    // Checked again: another thread's fork may have moved it before this one drove it.
    shell.check()?;
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| Err(shell.poison()))
}

#[derive(Debug, Clone, Copy)]
pub(super) enum WaitStep {
    Done(c_int),
    /// Call again afterwards.
    Wait(FdWait),
}

/// The gate of functions that run callbacks and may wait: `step` gets the handle at rest, and is called, with waits in
/// between, until it is done. A thread may be cancelled in a wait and then unwinds through this frame, which therefore has
/// nothing to drop: `state` is all that a function keeps from one step to the next.
pub(super) fn enter_waiting<H: Handle, S: Copy>(
    shell: &'static Shell<H>,
    mut state: S,
    step: fn(&'static Shell<H>, &mut S) -> Result<WaitStep, c_int>,
) -> c_int {
    let previous = cancel::defer();
    let serial = shell.serial();
    let mut waited = false;
    loop {
        let same = || if shell.serial() == serial { Ok(()) } else { Err(BROKER_ESTATE) };
        let taken = drive(shell, waited, || same().and_then(|()| step(shell, &mut state)));
        match taken.unwrap_or_else(WaitStep::Done) {
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

/// Why no handle was made: the code, and the text for C.
pub(super) struct NotMade(pub(super) c_int, pub(super) String);

impl From<Error> for NotMade {
    fn from(error: Error) -> NotMade {
        let words = error.to_string();
        NotMade(code_of(&error), words)
    }
}

/// The gate of functions that create a handle, `make` with its number; its text goes to `errbuf` if it fails.
pub(super) fn making<H: Handle>(
    out: *mut *mut H,
    (errbuf, errlen): (*mut c_char, usize),
    make: impl FnOnce(Number) -> Result<&'static Shell<H>, NotMade>,
) -> c_int {
    gate(|| {
        give_none(out)?;
        copy_out("", errbuf, errlen);
        fork::install();
        let number = Number::next();
        match at_work(number.owner(), || make(number)).map_err(|_| BROKER_EPANIC)? {
            Ok(shell) => {
                give(out, shell.pointer());
                Ok(BROKER_OK)
            }
            Err(NotMade(code, words)) => {
                copy_out(&words, errbuf, errlen);
                Err(code)
            }
        }
    })
}
