//! The call functions: a request and the wait for its outcome, in steps between which a thread may be cancelled. Owns what
//! is kept from one step to the next, which has nothing to drop.

use super::border::{Rule, Shell, WaitStep, enter_waiting, shield};
use super::calls::code_of_fault;
use super::client::{Handled, broker_client_t, finish_step, look_and_wait, shell, with_own};
use super::codes::*;
use super::embed::{self, Looping};
use super::home::{Home, find};
use super::loops;
use super::reply::{Owned, broker_reply_t, hand_out};
use super::text::{own_words, patience, words};
use super::transaction::{self, broker_transaction_t};
use crate::client::{ClientRequest, Peering, SessionKey};
use std::ffi::{c_char, c_int};

/// The input of a call function. Pointers of the caller: nothing to drop.
#[derive(Clone, Copy)]
pub(super) enum CallInput {
    Words { argc: usize, argv: *const *const c_char, argvlen: *const usize },
    Transaction(*const broker_transaction_t),
}

/// What a call function keeps from one step to the next.
#[derive(Clone, Copy)]
struct Calling<'a> {
    home: Home<'a>,
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
    match shield(Err(BROKER_EPANIC), || begin_calling(pointer, asked, timeout_ms, out)) {
        Ok(calling) => match calling.home {
            Home::Own(_, root) => enter_waiting(shell(root), calling, go_on_calling),
            Home::Loop(_, home, _) => enter_waiting(embed::shell(home), calling, go_on_calling_in_loop),
        },
        Err(code) => code,
    }
}

fn begin_calling<'a>(
    pointer: *mut broker_client_t,
    asked: CallInput,
    timeout_ms: c_int,
    out: *mut *mut broker_reply_t,
) -> Result<Calling<'a>, c_int> {
    let (home, session) = find(pointer)?;
    home.check_rule(Rule::OutsideCallbacks)?;
    let patience = patience(timeout_ms)?;
    home.check_answerable()?;
    Ok(Calling { home, session, asked, patience, out, tag: None, waited: false })
}

impl Calling<'_> {
    /// Submits the input; returns its tag.
    fn submit(&self) -> Result<usize, c_int> {
        match self.asked {
            CallInput::Words { argc, argv, argvlen } => {
                self.submit_request(&ClientRequest::Command(&words(argc, argv, argvlen)?))
            }
            CallInput::Transaction(transaction) => transaction::read(transaction, |block| {
                self.submit_request(&ClientRequest::Transaction(block))
            })?,
        }
    }

    fn submit_request(&self, request: &ClientRequest<'_>) -> Result<usize, c_int> {
        self.home.attend(true)?;
        let submitted = self.home.with(self.session, |at| {
            at.calls.submit_waiting(at.requests, self.session, request, self.patience)
        });
        submitted.inspect_err(|_| {
            // Requests submitted by callbacks meanwhile are sent too.
            let _ = self.home.attend(false);
        })
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

    /// Done, if the outcome is there.
    fn take_outcome(&self, tag: usize) -> Result<Option<WaitStep>, c_int> {
        match self.home.with(None, |at| Ok(at.calls.take_waited(tag))).map_err(ended)? {
            Some(Ok(tree)) => Ok(Some(WaitStep::Done(hand_out(Owned::new(tree), self.out)))),
            Some(Err(fault)) => Err(code_of_fault(fault)),
            None => Ok(None),
        }
    }
}

/// The result of a call when a callback has freed the client.
fn ended(code: c_int) -> c_int {
    if code == BROKER_ESTATE { BROKER_ECANCELED } else { code }
}

fn go_on_calling(shell: &'static Shell<Handled>, calling: &mut Calling<'_>) -> Result<WaitStep, c_int> {
    let tag = calling.tag(shell.serial())?;
    loop {
        if !std::mem::take(&mut calling.waited) {
            if let Some(done) = calling.take_outcome(tag)? {
                return Ok(done);
            }
            if let Some(wait) = look_and_wait(shell, None)? {
                calling.waited = true;
                return Ok(WaitStep::Wait(wait));
            }
        }
        finish_step(shell).map_err(ended)?;
        calling.tag(shell.serial())?;
    }
}

fn go_on_calling_in_loop(
    shell: &'static Shell<Looping>,
    calling: &mut Calling<'_>,
) -> Result<WaitStep, c_int> {
    let Home::Loop(_, pointer, _) = calling.home else { return Err(BROKER_ESTATE) };
    embed::drive(shell);
    let tag = calling.tag(shell.serial())?;
    loop {
        if !std::mem::take(&mut calling.waited) {
            if let Some(done) = calling.take_outcome(tag)? {
                return Ok(done);
            }
            if let Some(wait) = shell.borrow_to_wait(Looping::next_wait)? {
                calling.waited = true;
                return Ok(WaitStep::Wait(wait));
            }
        }
        embed::turn(shell, pointer).map_err(ended)?;
    }
}

impl Home<'_> {
    /// Whether any other thread can answer a call.
    fn check_answerable(self) -> Result<(), c_int> {
        let Home::Own(shell, _) = self else { return Ok(()) };
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
        let Home::Own(shell, _) = self else { return Ok(()) };
        with_own(shell, |own| if on { own.client.attend() } else { own.client.end_step() })
    }
}
