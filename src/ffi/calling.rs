//! The call functions: a request and the wait for its outcome, in steps between which a thread may be cancelled. Owns what
//! is kept from one step to the next, which has nothing to drop.

use super::border::{self, Handle, Shell, WaitStep, enter_waiting, shield};
use super::calls::code_of_fault;
use super::client::broker_client_t;
use super::codes::*;
use super::embed::{self, Looping};
use super::home::{Home, find};
use super::loops;
use super::own::{finish_step, look_and_wait, with_own};
use super::reply::{Owned, broker_reply_t};
use super::text::{give, own_words, patience, words};
use super::transaction::broker_transaction_t;
use crate::client::{ClientRequest, Peering, SessionKey};
use std::ffi::{c_char, c_int};

/// The input of a call function. Pointers of the caller: nothing to drop.
#[derive(Clone, Copy)]
pub(super) enum CallInput {
    Words { argc: usize, argv: *const *const c_char, argvlen: *const usize },
    Transaction(*const broker_transaction_t),
}

impl CallInput {
    pub(super) fn with<R>(self, body: impl FnOnce(&ClientRequest<'_>) -> R) -> Result<R, c_int> {
        match self {
            CallInput::Words { argc, argv, argvlen } => {
                Ok(body(&ClientRequest::Command(&words(argc, argv, argvlen)?)))
            }
            CallInput::Transaction(block) => {
                border::read(block, |block| body(&ClientRequest::Transaction(block)))
            }
        }
    }
}

/// What a call function keeps from one step to the next.
#[derive(Clone, Copy)]
struct Calling {
    home: Home,
    session: Option<SessionKey>,
    asked: CallInput,
    patience: u64,
    out: *mut *mut broker_reply_t,
    /// The tag of the request, once it is submitted, and the serial of the handle.
    tag: Option<(usize, u64)>,
    waited: bool,
}

/// Submits and waits, running callbacks meanwhile. Nothing to drop in this frame: see `enter_waiting`.
pub(super) fn call(
    pointer: *mut broker_client_t,
    asked: CallInput,
    timeout_ms: c_int,
    out: *mut *mut broker_reply_t,
) -> c_int {
    give(out, std::ptr::null_mut());
    let begun = || {
        let (home, session) = find(pointer)?;
        let patience = patience(timeout_ms)?;
        home.check_answerable()?;
        Ok(Calling { home, session, asked, patience, out, tag: None, waited: false })
    };
    match shield(Err(BROKER_EPANIC), begun) {
        Ok(calling) => match calling.home {
            Home::Own(shell) => enter_waiting(shell, calling, go_on_calling),
            Home::Loop(shell, _) => enter_waiting(shell, calling, go_on_calling),
        },
        Err(code) => code,
    }
}

impl Calling {
    fn submit(&self) -> Result<usize, c_int> {
        self.asked.with(|request| {
            self.home.attend(true)?;
            let submitted = self.home.with(self.session, |at| {
                let ask = |tag| at.requests.submit(self.session, request, self.patience, tag);
                Ok(at.calls.begin(None, ask)?.0)
            });
            submitted.inspect_err(|_| {
                // Requests submitted by callbacks meanwhile are sent too.
                let _ = self.home.attend(false);
            })
        })?
    }

    /// The tag of the request, which is submitted now if it is not yet.
    fn tag(&mut self, serial: u64) -> Result<usize, c_int> {
        match self.tag {
            // A callback has forked, and created the client anew here.
            Some((_, of)) if of != serial => Err(BROKER_EFORKED),
            Some((tag, _)) => Ok(tag),
            None => Ok(self.tag.insert((self.submit()?, serial)).0),
        }
    }

    fn take_outcome(&self, tag: usize) -> Result<Option<WaitStep>, c_int> {
        let tree = match self.home.with(None, |at| Ok(at.calls.take_waited(tag))).map_err(ended)? {
            Some(outcome) => outcome.map_err(code_of_fault)?,
            None => return Ok(None),
        };
        if !self.out.is_null() {
            give(self.out, Owned::new(tree).into_raw());
        }
        Ok(Some(WaitStep::Done(BROKER_OK)))
    }
}

/// The result of a call when a callback has freed the client.
fn ended(code: c_int) -> c_int {
    if code == BROKER_ESTATE { BROKER_ECANCELED } else { code }
}

fn go_on_calling<H: Handle>(shell: &'static Shell<H>, calling: &mut Calling) -> Result<WaitStep, c_int> {
    let tag = calling.tag(shell.serial())?;
    if let Home::Loop(shell, _) = calling.home {
        embed::drive(shell);
    }
    loop {
        if !std::mem::take(&mut calling.waited) {
            if let Some(done) = calling.take_outcome(tag)? {
                return Ok(done);
            }
            let wait = match calling.home {
                Home::Own(shell) => look_and_wait(shell, None)?,
                Home::Loop(shell, _) => shell.borrow_to_wait(Looping::next_wait)?,
            };
            if let Some(wait) = wait {
                calling.waited = true;
                return Ok(WaitStep::Wait(wait));
            }
        }
        let stepped = match calling.home {
            Home::Own(shell) => finish_step(shell).map(drop),
            Home::Loop(shell, _) => embed::turn(shell).map(drop),
        };
        stepped.map_err(ended)?;
        calling.tag(shell.serial())?;
    }
}

impl Home {
    /// Whether any other thread can answer a call.
    fn check_answerable(self) -> Result<(), c_int> {
        let Home::Own(shell) = self else { return Ok(()) };
        let peering = || with_own(shell, |own| own.client.peering()).unwrap_or(Peering::Elsewhere);
        if !loops::would_wait_for_itself(peering) {
            return Ok(());
        }
        let words = "this thread runs the loop that would have to answer; use a client of that loop";
        with_own(shell, |own| own.calls.words = own_words(words))?;
        Err(BROKER_EREENTRANT)
    }

    /// Records that the caller drives the client, or no longer does: while it does, no wakeup is needed.
    fn attend(self, on: bool) -> Result<(), c_int> {
        let Home::Own(shell) = self else { return Ok(()) };
        with_own(shell, |own| if on { own.client.attend() } else { own.client.end_step() })
    }
}
