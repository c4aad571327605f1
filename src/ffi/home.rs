//! Where a client's requests are kept: a client with sockets has its own, a client of a loop has them in the loop, a
//! session has them in its client. Resolves a handle to that place and runs functions there; decides nothing about requests.

use super::border::{EndedHandles, Handle, HandleRef, Refused, Shell, gate};
use super::calls::{CallbackCell, Calls, PushCallback, StateCallback};
use super::client::broker_client_t;
use super::codes::*;
use super::embed::broker_loop_t;
use super::head::Number;
use super::own::{Own, with_own};
use crate::client::{ClientKey, Recipe, Requests, SessionKey};
use std::ffi::c_int;

impl Handle for broker_client_t {
    /// `None` where another handle keeps the requests.
    type Inner = Option<Box<Own>>;
    type Beside = Beside;
    fn ended() -> &'static EndedHandles<Self> {
        static ENDED: EndedHandles<broker_client_t> = EndedHandles::new();
        &ENDED
    }
}

/// What never changes, and what broker_client_after_fork() creates a client from.
#[derive(Default)]
pub(super) struct Beside {
    pub(super) keeper: Keeper,
    /// Of a client with sockets.
    pub(super) recipe: Option<Recipe>,
    pub(super) on_push: CallbackCell<PushCallback>,
    pub(super) on_state: CallbackCell<StateCallback>,
}

/// Who keeps the requests of a handle.
#[derive(Clone, Copy, Default)]
pub(super) enum Keeper {
    /// The handle itself, a client with sockets.
    #[default]
    Itself,
    Loop(HandleRef<broker_loop_t>, ClientKey),
    Client(HandleRef<broker_client_t>, SessionKey),
}

impl Keeper {
    pub(super) fn create(self) -> &'static Shell<broker_client_t> {
        Shell::create(Number::next(), None, -1, Beside { keeper: self, ..Beside::default() })
    }
}

pub(super) struct HomeAccess<'a, 'b> {
    pub(super) requests: &'a mut Requests<'b>,
    pub(super) calls: &'a mut Calls,
    pub(super) session: Option<SessionKey>,
}

impl HomeAccess<'_, '_> {
    pub(super) fn no_session(&self) -> Result<(), c_int> {
        if self.session.is_some() { Err(BROKER_EUNSUPPORTED) } else { Ok(()) }
    }
}

/// The handle that has the requests.
#[derive(Clone, Copy)]
pub(super) enum Home {
    Own(&'static Shell<broker_client_t>),
    Loop(&'static Shell<broker_loop_t>, ClientKey),
}

impl Home {
    /// Checked again once it is claimed: another thread's fork may have moved it before.
    pub(super) fn with<R>(
        self,
        session: Option<SessionKey>,
        body: impl FnOnce(HomeAccess<'_, '_>) -> Result<R, c_int>,
    ) -> Result<R, c_int> {
        match self {
            Home::Own(shell) => with_own(shell, |Own { client, calls }| {
                shell.check()?;
                client.with_requests(|requests| body(HomeAccess { requests, calls, session }))
            })?,
            Home::Loop(shell, key) => shell.borrow(|looping| {
                shell.check()?;
                looping.with_client(key, |requests, calls| body(HomeAccess { requests, calls, session }))
            })??,
        }
    }
}

/// Resolves a handle: a session to its client, a client of a loop to the loop.
pub(super) fn find(pointer: *const broker_client_t) -> Result<(Home, Option<SessionKey>), c_int> {
    let shell = Shell::of(pointer)?;
    shell.check()?;
    home_of(shell)
}

/// The same for a handle that has been checked.
pub(super) fn home_of(shell: &'static Shell<broker_client_t>) -> Result<(Home, Option<SessionKey>), c_int> {
    match shell.beside().keeper {
        Keeper::Itself => Ok((Home::Own(shell), None)),
        Keeper::Loop(keeper, key) => Ok((Home::Loop(keeper.get()?, key), None)),
        Keeper::Client(keeper, key) => Ok((home_of(keeper.get()?)?.0, Some(key))),
    }
}

/// The client with sockets that a handle is, or is a session of.
pub(super) fn find_own(pointer: *const broker_client_t) -> Result<&'static Shell<broker_client_t>, c_int> {
    match find(pointer)?.0 {
        Home::Own(shell) => Ok(shell),
        Home::Loop(..) => Err(BROKER_EUNSUPPORTED),
    }
}

/// The gate of functions on requests, wherever these are kept.
pub(super) fn enter_at<R: Refused>(
    pointer: *const broker_client_t,
    body: impl FnOnce(HomeAccess<'_, '_>) -> Result<R, c_int>,
) -> R {
    gate(|| {
        let (home, session) = find(pointer)?;
        home.with(session, body)
    })
}
