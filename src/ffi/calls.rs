//! The callbacks of one client: those of its requests and subscriptions until their outcome is known, of its pushes and
//! its state, and the text of its last failure. Owns the callbacks that C has registered; returns what is due, and
//! runs nothing itself.

use super::client::{Callback, PushCallback, StateCallback, broker_client_t};
use super::codes::*;
use super::embed::{broker_req_t, give_req};
use super::reply::Owned;
use super::text::own_words;
use crate::client::{ClientRequest, Event, Family, Fault, Outcome, Refusal, Requests, SessionKey};
use slab::Slab;
use std::ffi::{CString, c_int, c_void};

/// A callback, its data, and the handle it was registered on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) callback: Callback,
    pub(super) data: *mut c_void,
    pub(super) handle: *mut broker_client_t,
}

/// A callback of any kind that is due.
#[derive(Debug)]
pub(super) enum Due {
    Reply(Call, c_int, Option<Owned>),
    Push((PushCallback, *mut c_void), *mut broker_client_t, Owned),
    State((StateCallback, *mut c_void), *mut broker_client_t, c_int, c_int),
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
            }
        }
    }
}

/// See the module. A request carries the number of its callback here.
#[derive(Debug)]
pub(super) struct Calls {
    /// The client; its sessions have handles of their own.
    handle: *mut broker_client_t,
    calls: Slab<Option<Call>>,
    /// The request of a call function, and its outcome once it is known.
    waited: Option<(usize, Option<Outcome>)>,
    pub(super) on_push: Option<(PushCallback, *mut c_void)>,
    pub(super) on_state: Option<(StateCallback, *mut c_void)>,
    pub(super) words: CString,
}

impl Default for Calls {
    fn default() -> Self {
        Calls {
            handle: std::ptr::null_mut(),
            calls: Slab::new(),
            waited: None,
            on_push: None,
            on_state: None,
            words: CString::default(),
        }
    }
}

impl Calls {
    pub(super) fn set_handle(&mut self, handle: *mut broker_client_t) {
        self.handle = handle;
    }

    pub(super) fn handle(&self) -> *mut broker_client_t {
        self.handle
    }

    /// Stores why a request was refused; returns its code.
    pub(super) fn refuse(&mut self, refusal: &Refusal) -> c_int {
        self.words = own_words(refusal.words());
        code_of_refusal(refusal)
    }

    /// Stores the callback while `begin` submits with its tag, and removes it if that is refused. Returns the tag and the
    /// number of the request.
    fn begin(
        &mut self,
        call: Option<Call>,
        begin: impl FnOnce(usize) -> Result<u64, Refusal>,
    ) -> Result<(usize, u64), c_int> {
        let tag = self.calls.insert(call);
        match begin(tag) {
            Ok(id) => Ok((tag, id)),
            Err(refusal) => {
                self.calls.try_remove(tag);
                Err(self.refuse(&refusal))
            }
        }
    }

    /// Submits a request for C.
    pub(super) fn submit(
        &mut self,
        requests: &mut Requests<'_>,
        to: Option<SessionKey>,
        request: &ClientRequest<'_>,
        patience: u64,
        req: *mut broker_req_t,
        call: Call,
    ) -> c_int {
        let begun = self.begin(Some(call), |tag| requests.submit(to, request, patience, tag));
        named(begun, req)
    }

    /// Submits a request whose outcome a call function waits for, one at a time; returns its tag.
    pub(super) fn submit_waiting(
        &mut self,
        requests: &mut Requests<'_>,
        to: Option<SessionKey>,
        request: &ClientRequest<'_>,
        patience: u64,
    ) -> Result<usize, c_int> {
        let (tag, _) = self.begin(None, |tag| requests.submit(to, request, patience, tag))?;
        self.waited = Some((tag, None));
        Ok(tag)
    }

    /// Subscribes for C.
    pub(super) fn subscribe(
        &mut self,
        requests: &mut Requests<'_>,
        family: Family,
        name: &[u8],
        req: *mut broker_req_t,
        call: Call,
    ) -> c_int {
        let begun = self.begin(Some(call), |tag| requests.subscribe(family, name, tag));
        named(begun, req)
    }

    /// The outcome a call function waits for, if it has arrived.
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
                Some(call) => Some(due(call, outcome)),
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
            Event::SubscriptionOver { tag, outcome } => Some(due(self.calls.try_remove(tag)??, outcome)),
            Event::Push(push) => {
                self.on_push.map(|callback| Due::Push(callback, self.handle, Owned::new(push)))
            }
            Event::State { connected, reason } => {
                let reason = reason.map_or(BROKER_OK, code_of_fault);
                let connected = c_int::from(connected);
                self.on_state.map(|callback| Due::State(callback, self.handle, connected, reason))
            }
        }
    }
}

/// Stores the number of the new request for C.
fn named(begun: Result<(usize, u64), c_int>, req: *mut broker_req_t) -> c_int {
    match begun {
        Ok((_, id)) => {
            give_req(req, id);
            BROKER_OK
        }
        Err(code) => code,
    }
}

fn due(call: Call, outcome: Outcome) -> Due {
    match outcome {
        Ok(tree) => Due::Reply(call, BROKER_OK, Some(Owned::new(tree))),
        Err(fault) => Due::Reply(call, code_of_fault(fault), None),
    }
}

/// The code of an outcome.
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

/// The code of a refusal.
fn code_of_refusal(refusal: &Refusal) -> c_int {
    match refusal {
        Refusal::Invalid(_) => BROKER_EINVAL,
        Refusal::Unsupported(_) => BROKER_EUNSUPPORTED,
        Refusal::Full(_) => BROKER_EAGAIN,
        Refusal::Closed(_) => BROKER_ESTATE,
        Refusal::NotConnected(_) => BROKER_ECONN,
    }
}
