//! Who waits for what: the callbacks of requests and subscriptions until their outcome is known. Owns what C gave
//! to be called; calls nothing by itself.

use super::codes::*;
use super::reply::{Owned, broker_reply_t};
use crate::client::{Event, Fault, Outcome, Refusal};
use slab::Slab;
use std::ffi::{c_int, c_void};

/// A callback and its data.
#[derive(Debug, Clone, Copy)]
struct Call<C> {
    callback: C,
    data: *mut c_void,
}

/// The callbacks of one handle. A request carries the number under which its callback stands here.
#[derive(Debug)]
pub(super) struct Calls<C> {
    calls: Slab<Option<Call<C>>>,
    /// The request of a call function, and its outcome once it is known.
    waited: Option<(usize, Option<Outcome>)>,
}

impl<C> Default for Calls<C> {
    fn default() -> Self {
        Calls { calls: Slab::new(), waited: None }
    }
}

/// A callback that is due.
#[derive(Debug)]
pub(super) struct Delivery<C> {
    call: Call<C>,
    status: c_int,
    reply: Option<Owned>,
}

impl<C: Copy> Delivery<C> {
    /// Hands callback, status, reply and data to `run`, which calls.
    pub(super) fn call(self, run: impl FnOnce(C, c_int, *const broker_reply_t, *mut c_void)) {
        let reply = self.reply.as_ref().map_or(std::ptr::null(), Owned::borrowed);
        run(self.call.callback, self.status, reply, self.call.data);
    }
}

impl<C: Copy> Calls<C> {
    /// Keeps a callback; the number names it.
    pub(super) fn reserve(&mut self, callback: C, data: *mut c_void) -> usize {
        self.calls.insert(Some(Call { callback, data }))
    }

    /// The same for a call function, which waits for the outcome itself. One at a time.
    pub(super) fn reserve_waiting(&mut self) -> usize {
        let tag = self.calls.insert(None);
        self.waited = Some((tag, None));
        tag
    }

    /// The request was refused, or its outcome is of no interest any more.
    pub(super) fn forget(&mut self, tag: usize) {
        self.calls.try_remove(tag);
        self.waited.take_if(|(waited, _)| *waited == tag);
    }

    /// The outcome a call function waits for, once it is there.
    pub(super) fn take_waited(&mut self, tag: usize) -> Option<Outcome> {
        match &mut self.waited {
            Some((waited, outcome @ Some(_))) if *waited == tag => {
                let outcome = outcome.take();
                self.waited = None;
                outcome
            }
            _ => None,
        }
    }

    /// What an event means for C. `None`: nothing to call, or a call function has it now.
    pub(super) fn complete(&mut self, event: Event) -> Option<Delivery<C>> {
        match event {
            Event::Done { tag, outcome } => match self.calls.try_remove(tag)? {
                Some(call) => Some(Self::delivery(call, outcome)),
                None => {
                    // Not if its call function has given up waiting.
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
                Some(Delivery { call, status: BROKER_OK, reply: Some(Owned::new(push)) })
            }
            Event::SubscriptionOver { tag, outcome } => {
                Some(Self::delivery(self.calls.try_remove(tag)??, outcome))
            }
            Event::Push(_) | Event::State { .. } => None,
        }
    }

    fn delivery(call: Call<C>, outcome: Outcome) -> Delivery<C> {
        match outcome {
            Ok(tree) => Delivery { call, status: BROKER_OK, reply: Some(Owned::new(tree)) },
            Err(fault) => Delivery { call, status: code_of_fault(fault), reply: None },
        }
    }
}

/// The code of what became of a request.
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

/// The code of why a request was not taken.
pub(super) fn code_of_refusal(refusal: &Refusal) -> c_int {
    match refusal {
        Refusal::Invalid(_) => BROKER_EINVAL,
        Refusal::Unsupported(_) => BROKER_EUNSUPPORTED,
        Refusal::Full(_) => BROKER_EAGAIN,
        Refusal::Closed(_) => BROKER_ESTATE,
        Refusal::NotConnected(_) => BROKER_ECONN,
    }
}
