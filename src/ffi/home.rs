//! Where a client's requests are kept: a client with sockets has its own, a client of a loop has them in the loop, a
//! session has them in its client. Resolves a handle to that place and runs functions there; decides nothing about requests.

use super::border::{Refused, Rule, Shell, shield};
use super::calls::{Calls, Due};
use super::cancel;
use super::client::{Handled, OfLoop, Own, broker_client_t, shell};
use super::codes::{BROKER_EPANIC, BROKER_ESTATE, BROKER_EUNSUPPORTED};
use super::embed::{self, Looping, broker_loop_t};
use crate::client::{ClientKey, Requests, SessionKey};
use std::ffi::c_int;

/// Access to a client's requests.
pub(super) struct HomeAccess<'a, 'b> {
    pub(super) requests: &'a mut Requests<'b>,
    pub(super) calls: &'a mut Calls,
    pub(super) session: Option<SessionKey>,
}

/// The handle that has the requests.
#[derive(Clone, Copy)]
pub(super) enum Home<'a> {
    Own(&'a Shell<Handled>, *mut broker_client_t),
    Loop(&'a Shell<Looping>, *mut broker_loop_t, ClientKey),
}

impl Home<'_> {
    pub(super) fn check_rule(self, rule: Rule) -> Result<(), c_int> {
        match self {
            Home::Own(shell, _) => shell.check_rule(rule),
            Home::Loop(shell, ..) => shell.check_rule(rule),
        }
    }

    pub(super) fn with<R>(
        self,
        session: Option<SessionKey>,
        body: impl FnOnce(HomeAccess<'_, '_>) -> Result<R, c_int>,
    ) -> Result<R, c_int> {
        match self {
            Home::Own(shell, _) => shell.borrow(|handled| match handled {
                Handled::Own(own) => own.with(session, body),
                _ => Err(BROKER_ESTATE),
            })?,
            Home::Loop(shell, _, key) => shell.borrow(|looping| {
                looping.with_client(key, |requests, calls| body(HomeAccess { requests, calls, session }))
            })??,
        }
    }
}

impl Own {
    pub(super) fn with<R>(
        &mut self,
        session: Option<SessionKey>,
        body: impl FnOnce(HomeAccess<'_, '_>) -> R,
    ) -> R {
        let calls = &mut self.calls;
        self.client.with_requests(|requests| body(HomeAccess { requests, calls, session }))
    }

    pub(super) fn next_due(&mut self, left: &mut usize) -> Option<Due> {
        let calls = &mut self.calls;
        self.client.with_requests(|requests| calls.next_due(requests, left))
    }
}

/// Resolves a handle: a session to its client, a client of a loop to the loop.
pub(super) fn find<'a>(pointer: *const broker_client_t) -> Result<(Home<'a>, Option<SessionKey>), c_int> {
    find_tenant(pointer, None)
}

/// The same, if the handle still has that serial.
pub(super) fn find_tenant<'a>(
    mut pointer: *const broker_client_t,
    mut serial: Option<u64>,
) -> Result<(Home<'a>, Option<SessionKey>), c_int> {
    let mut session = None;
    loop {
        let own = Shell::of(shell(pointer))?;
        if serial.is_some_and(|serial| serial != own.serial()) {
            return Err(BROKER_ESTATE);
        }
        own.check()?;
        let next = own.borrow(|handled| match handled {
            Handled::Own(_) => Ok(Home::Own(own, pointer.cast_mut())),
            Handled::OfLoop(of) => of.find(),
            Handled::Session(of) => Err(Err(*of)),
        })?;
        match next {
            Ok(home) => return Ok((home, session)),
            Err(Ok(code)) => return Err(code),
            Err(Err(of)) => (pointer, serial, session) = (of.of, Some(of.serial), Some(of.key)),
        }
    }
}

impl OfLoop {
    pub(super) fn find<'a, T>(&self) -> Result<Home<'a>, Result<c_int, T>> {
        let shell = Shell::of(embed::shell(self.home)).map_err(Ok)?;
        if shell.serial() != self.serial {
            return Err(Ok(BROKER_ESTATE));
        }
        shell.check().map_err(Ok)?;
        Ok(Home::Loop(shell, self.home, self.key))
    }
}

/// The gate of functions on requests, wherever these are kept.
pub(super) fn enter_at<R: Refused>(
    pointer: *const broker_client_t,
    rule: Rule,
    body: impl FnOnce(HomeAccess<'_, '_>) -> Result<R, c_int>,
) -> R {
    let previous = cancel::defer();
    // Most handles have their own requests: one check for these.
    let mut body = Some(body);
    let here = Shell::of(shell(pointer)).and_then(|own| {
        own.check()?;
        own.check_rule(rule)?;
        own.borrow(|handled| match (handled, body.take()) {
            (Handled::Own(own), Some(body)) => Ok(Some(own.with(None, body)?)),
            (_, kept) => {
                body = kept;
                Ok(None)
            }
        })?
    });
    let result = match (here, body) {
        (Ok(None), Some(body)) => shield(Err(BROKER_EPANIC), || {
            let (home, session) = find(pointer)?;
            home.check_rule(rule)?;
            home.with(session, body)
        }),
        (Ok(Some(result)), _) => Ok(result),
        (Ok(None), None) => Err(BROKER_ESTATE),
        (Err(code), _) => Err(code),
    };
    previous.restore();
    result.unwrap_or_else(R::refused)
}

/// The gate of functions that only a client with sockets has, called on the client or one of its sessions.
pub(super) fn enter_own<R: Refused>(
    pointer: *const broker_client_t,
    rule: Rule,
    body: impl FnOnce(&mut Own) -> R,
) -> R {
    let entered = shield(Err(BROKER_EPANIC), || match find(pointer)? {
        (Home::Own(shell, _), _) => {
            shell.check_rule(rule)?;
            shell.borrow(|handled| match handled {
                Handled::Own(own) => Ok(body(own)),
                _ => Err(BROKER_ESTATE),
            })?
        }
        (Home::Loop(..), _) => Err(BROKER_EUNSUPPORTED),
    });
    entered.unwrap_or_else(R::refused)
}
