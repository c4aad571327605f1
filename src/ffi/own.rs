//! A client with sockets: the steps of its processing, and its end. Owns the order in which callbacks run.

use super::border::Shell;
use super::calls::{Calls, Due};
use super::cancel::FdWait;
use super::client::broker_client_t;
use super::codes::*;
use super::config::fail;
use super::fork;
use super::home::{Keeper, home_of};
use super::log;
use super::posts::{Post, run_all};
use crate::client::Client;
use std::ffi::c_int;
use std::os::fd::AsRawFd;

pub(super) struct Own {
    pub(super) client: Client,
    pub(super) calls: Calls,
}

impl Own {
    fn next_due(&mut self, left: &mut usize) -> Option<Due> {
        self.client.with_requests(|requests| self.calls.next_due(requests, left))
    }
}

pub(super) fn with_own<R>(
    shell: &Shell<broker_client_t>,
    body: impl FnOnce(&mut Own) -> R,
) -> Result<R, c_int> {
    shell.borrow(|own| own.as_mut().map(|own| body(own)).ok_or(BROKER_ESTATE))?
}

/// The first half of a step: everything that has arrived is read before anything is written, so that no request is sent
/// on a connection whose end of file has already arrived. Returns what to wait for, at most `limit` milliseconds;
/// `None`: continue at once.
pub(super) fn look_and_wait(
    shell: &'static Shell<broker_client_t>,
    limit: Option<u64>,
) -> Result<Option<FdWait>, c_int> {
    if limit == Some(0) {
        return Ok(None);
    }
    look(shell)?;
    shell.borrow_to_wait(|own| {
        let client = &mut own.as_mut()?.client;
        FdWait::new(client.as_raw_fd(), client.patience(limit))
    })
}

/// The second half: reads, writes, runs callbacks. Returns how many ran.
pub(super) fn finish_step(shell: &'static Shell<broker_client_t>) -> Result<c_int, c_int> {
    look(shell)?;
    let ran = run_posts(shell)? + deliver(shell)?;
    with_own(shell, |own| own.client.end_step())?;
    Ok(ran)
}

fn look(shell: &Shell<broker_client_t>) -> Result<(), c_int> {
    with_own(shell, |own| {
        log::tell_left_out();
        own.client.work().map_err(|error| fail(&mut own.calls.words, &error))
    })?
}

/// Runs the functions posted so far; returns how many.
fn run_posts(shell: &'static Shell<broker_client_t>) -> Result<c_int, c_int> {
    let mut ran = 0;
    let run = |post: Post<_>| {
        ran += 1;
        if shell.call_out(|| post.run()) { Ok(()) } else { Err(()) }
    };
    if run_all(shell.take_posts(), run).is_err() {
        end_freed(shell)?;
    }
    Ok(ran)
}

/// Runs the callbacks that were due when this began; those they cause are due in the next step. Returns how many ran.
fn deliver(shell: &'static Shell<broker_client_t>) -> Result<c_int, c_int> {
    let mut ran = 0;
    let mut left = with_own(shell, |own| own.client.with_requests(|requests| requests.events()))?;
    while let Some(due) = with_own(shell, |own| own.next_due(&mut left))? {
        ran += 1;
        if !shell.call_out(|| due.call()) {
            end_freed(shell)?;
            break;
        }
    }
    Ok(ran)
}

/// A callback has freed the handle, which ends when the outermost callback has returned. No error if the callback has
/// forked and this is the copy, in which the handle was created anew.
fn end_freed(shell: &'static Shell<broker_client_t>) -> Result<(), c_int> {
    let silent = shell.is_forked();
    if let Some(own) = shell.finish() {
        conclude(shell, own, silent);
    }
    shell.check()
}

/// The last callbacks of a handle of any kind that has ended; it already returns BROKER_ESTATE. What it keeps is closed
/// before: if one of the callbacks forks, the copy has nothing left to close a second time.
pub(super) fn conclude(shell: &'static Shell<broker_client_t>, own: Option<Box<Own>>, silent: bool) {
    let mut dues = match (own, shell.beside().keeper) {
        // After a panic the state is not trusted: descriptors are closed and nothing else is done.
        (Some(own), _) if silent => return drop(own),
        (Some(mut own), _) => {
            own.client.close();
            let mut all = usize::MAX;
            std::iter::from_fn(|| own.next_due(&mut all)).collect()
        }
        (None, Keeper::Loop(keeper, key)) if !silent => {
            let ended = keeper.get().and_then(|home| {
                let in_callback = home.in_callback();
                home.borrow(|looping| looping.end_client(key, in_callback))
            });
            ended.unwrap_or_default()
        }
        (None, Keeper::Client(keeper, key)) if !silent => {
            let closed = keeper.get().and_then(home_of).and_then(|(home, _)| {
                home.with(None, |at| {
                    at.requests.close_session(key);
                    Ok(())
                })
            });
            // Its client has ended, and the session with it.
            let _ = closed;
            Vec::new()
        }
        // What it belonged to has ended before it.
        (None, _) => Vec::new(),
    };
    dues.extend(shell.take_posts().into_iter().map(Due::Canceled));
    fork::each_here(dues, Due::call);
}
