//! The callbacks of one client: those of its requests and subscriptions until their outcome is known, of its pushes and
//! its state, and the text of its last failure. Owns the callbacks that C has registered; returns what is due, and
//! runs nothing itself.

use super::border::Shell;
use super::client::broker_client_t;
use super::codes::*;
use super::posts::Post;
use super::reply::{Owned, broker_reply_t};
use super::text::own_words;
use crate::client::{Event, Fault, Outcome, Refusal, Requests};
use slab::Slab;
use std::cell::UnsafeCell;
use std::ffi::{CString, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

pub(super) type Callback =
    unsafe extern "C" fn(*mut broker_client_t, c_int, *const broker_reply_t, *mut c_void);
pub(super) type PushCallback = unsafe extern "C" fn(*mut broker_client_t, *const broker_reply_t, *mut c_void);
pub(super) type StateCallback = unsafe extern "C" fn(*mut broker_client_t, c_int, c_int, *mut c_void);

/// A callback that a forked copy can read, even if a thread was setting it at the fork: of two cells, the unused one is
/// written, and only then made the used one.
pub(super) struct CallbackCell<C> {
    places: [UnsafeCell<Option<(C, *mut c_void)>>; 2],
    used: AtomicUsize,
}

impl<C> Default for CallbackCell<C> {
    fn default() -> Self {
        CallbackCell { places: [UnsafeCell::new(None), UnsafeCell::new(None)], used: AtomicUsize::new(0) }
    }
}

impl<C: Copy> CallbackCell<C> {
    /// The caller has claimed the handle.
    pub(super) fn set(&self, callback: Option<(C, *mut c_void)>) {
        let other = 1 - self.used.load(Ordering::Relaxed);
        // SAFETY: no other thread reads this cell before `used` names it, and one thread at a time sets.
        unsafe { *self.places[other].get() = callback };
        self.used.store(other, Ordering::Release);
    }

    /// The caller has claimed the handle, or this is a forked copy, where no other thread sets.
    pub(super) fn get(&self) -> Option<(C, *mut c_void)> {
        // SAFETY: written completely before `used` named it.
        unsafe { *self.places[self.used.load(Ordering::Acquire)].get() }
    }
}

/// A callback, its data, and the handle it was registered on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) callback: Callback,
    pub(super) data: *mut c_void,
    pub(super) handle: *mut broker_client_t,
}

pub(super) enum Due {
    Reply(Call, c_int, Option<Owned>),
    Push((PushCallback, *mut c_void), *mut broker_client_t, Owned),
    State((StateCallback, *mut c_void), *mut broker_client_t, c_int, c_int),
    /// A posted function that will not run.
    Canceled(Post<broker_client_t>),
}

impl Due {
    pub(super) fn call(self) {
        // SAFETY: this is how the program allowed each function to be called, in the thread that uses the client.
        unsafe {
            match self {
                Due::Reply(call, status, reply) => {
                    let reply = reply.as_ref().map_or(std::ptr::null(), Owned::borrowed);
                    (call.callback)(call.handle, status, reply, call.data);
                }
                Due::Push((callback, data), handle, push) => callback(handle, push.borrowed(), data),
                Due::State((callback, data), handle, connected, reason) => {
                    callback(handle, connected, reason, data);
                }
                Due::Canceled(post) => post.cancel(),
            }
        }
    }
}

/// See the module. A request carries the number of its callback here.
pub(super) struct Calls {
    /// The client; its sessions have handles of their own.
    pub(super) handle: &'static Shell<broker_client_t>,
    calls: Slab<Option<Call>>,
    /// The request of a call function, and its outcome once it is known.
    waited: Option<(usize, Option<Outcome>)>,
    pub(super) words: CString,
}

impl Calls {
    pub(super) fn new(handle: &'static Shell<broker_client_t>) -> Calls {
        Calls { handle, calls: Slab::new(), waited: None, words: CString::default() }
    }

    /// Stores why a request was refused; returns its code.
    pub(super) fn refuse(&mut self, refusal: &Refusal) -> c_int {
        self.words = own_words(refusal.words());
        match refusal {
            Refusal::Invalid(_) => BROKER_EINVAL,
            Refusal::Unsupported(_) => BROKER_EUNSUPPORTED,
            Refusal::Full(_) => BROKER_EAGAIN,
            Refusal::Closed(_) => BROKER_ESTATE,
            Refusal::NotConnected(_) => BROKER_ECONN,
        }
    }

    /// Stores the callback while `begin` submits with its tag, and removes it if that is refused. Without a callback, a call
    /// function waits for the outcome, one at a time. Returns the tag and the number of the request.
    pub(super) fn begin(
        &mut self,
        call: Option<Call>,
        begin: impl FnOnce(usize) -> Result<u64, Refusal>,
    ) -> Result<(usize, u64), c_int> {
        let tag = self.calls.insert(call);
        let begun = begin(tag).map_err(|refusal| {
            self.calls.try_remove(tag);
            self.refuse(&refusal)
        });
        if call.is_none() && begun.is_ok() {
            self.waited = Some((tag, None));
        }
        Ok((tag, begun?))
    }

    /// The outcome a call function waits for, if it has arrived.
    pub(super) fn take_waited(&mut self, tag: usize) -> Option<Outcome> {
        self.waited.take_if(|(waited, outcome)| *waited == tag && outcome.is_some())?.1
    }

    /// The next callback within the next `left` events.
    pub(super) fn next_due(&mut self, requests: &mut Requests<'_>, left: &mut usize) -> Option<Due> {
        while *left > 0 {
            *left -= 1;
            if let Some(due) = self.take(requests.next_event()?) {
                return Some(due);
            }
        }
        None
    }

    /// The callback of an event. `None`: there is none, or a call function takes the outcome.
    pub(super) fn take(&mut self, event: Event) -> Option<Due> {
        match event {
            Event::Done { tag, outcome } => match self.calls.try_remove(tag)? {
                Some(call) => Some(match outcome {
                    Ok(tree) => Due::Reply(call, BROKER_OK, Some(Owned::new(tree))),
                    Err(fault) => Due::Reply(call, code_of_fault(fault), None),
                }),
                None => {
                    // Not if its call function has stopped waiting.
                    if let Some((waited, place)) = &mut self.waited
                        && *waited == tag
                    {
                        *place = Some(outcome);
                    }
                    None
                }
            },
            Event::Message { tag, push } => {
                let call = (*self.calls.get(tag)?)?;
                Some(Due::Reply(call, BROKER_OK, Some(Owned::new(push))))
            }
            Event::Push(push) => {
                let on_push = self.handle.beside().on_push.get();
                on_push.map(|callback| Due::Push(callback, self.handle.pointer(), Owned::new(push)))
            }
            Event::State(lost) => {
                let connected = c_int::from(lost.is_none());
                let reason = lost.map_or(BROKER_OK, code_of_fault);
                let handle = self.handle.pointer();
                let on_state = self.handle.beside().on_state.get();
                on_state.map(|callback| Due::State(callback, handle, connected, reason))
            }
        }
    }
}

pub(super) fn code_of_fault(fault: Fault) -> c_int {
    match fault {
        Fault::NotSent => BROKER_ECONN,
        Fault::Lost => BROKER_ELOST,
        Fault::TimedOut => BROKER_ETIMEDOUT,
        Fault::Canceled => BROKER_ECANCELED,
        Fault::Protocol => BROKER_EPROTO,
        Fault::Denied => BROKER_EAUTH,
        Fault::Limit => BROKER_ELIMIT,
    }
}
