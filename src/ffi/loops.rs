//! The loops of this process and which thread drives each, so that a call is refused that its own thread would have to
//! answer. Knows where loops listen and where a client is connected; nothing of requests.

use super::border::{Shell, this_thread};
use super::codes::BROKER_ESTATE;
use super::embed::Looping;
use super::fork::EachProcess;
use crate::client::Peering;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Loops that this process has made and not freed. One that has followed a fork is not among them: a call on itself
/// then waits.
static LOOPS: EachProcess<Mutex<Vec<&'static Shell<Looping>>>> = EachProcess::new();
/// How many, for programs that have none.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn with_loops<R>(body: impl FnOnce(&mut Vec<&'static Shell<Looping>>) -> R) -> R {
    let mut loops = LOOPS.get().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let result = body(&mut loops);
    COUNT.store(loops.len(), Ordering::Release);
    result
}

pub(super) fn add(shell: &'static Shell<Looping>) {
    with_loops(|loops| loops.push(shell));
}

pub(super) fn remove(shell: &Shell<Looping>) {
    with_loops(|loops| loops.retain(|other| !std::ptr::eq(*other, shell)));
}

/// Whether a loop that this very thread drives is at the other end of such a connection: nobody would answer a call that
/// waits. Loops of other threads are not looked into, since those are at work on them.
pub(super) fn would_wait_for_itself(peering: impl FnOnce() -> Peering) -> bool {
    if COUNT.load(Ordering::Acquire) == 0 {
        return false;
    }
    let is_ours = |shell: &&Shell<Looping>| shell.driver.load(Ordering::Relaxed) == this_thread();
    let (ours, all) = with_loops(|loops| {
        loops.retain(|shell| shell.check() != Err(BROKER_ESTATE));
        (loops.iter().copied().filter(is_ours).collect::<Vec<_>>(), loops.len())
    });
    if ours.is_empty() {
        return false;
    }
    let peering = peering();
    // A socket that was given says of which process its other end is, and not of which loop.
    let certain = peering != Peering::OwnProcess || ours.len() == all;
    certain && ours.iter().any(|shell| shell.borrow(|looping| looping.is_at(&peering)).unwrap_or(false))
}
