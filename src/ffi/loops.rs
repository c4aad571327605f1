//! The loops of this process, where they listen and which thread drives each, so that a call is refused that its own
//! thread would have to answer. Knows nothing of requests, and enters no loop: another thread may be at work on it.

use super::border::{Shell, this_thread};
use super::codes::BROKER_ESTATE;
use super::embed::Looping;
use super::fork::EachProcess;
use crate::client::Peering;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is known of a loop.
#[derive(Debug)]
struct KnownLoop {
    shell: &'static Shell<Looping>,
    /// Where it listens.
    urls: Vec<String>,
    /// It was given a child.
    has_adopted: bool,
}

/// Loops that this process has made and not freed. One that has followed a fork is not among them: a call on itself
/// then waits.
static LOOPS: EachProcess<Mutex<Vec<KnownLoop>>> = EachProcess::new();
/// How many, for programs that have none.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn with_loops<R>(body: impl FnOnce(&mut Vec<KnownLoop>) -> R) -> R {
    let mut loops = LOOPS.get().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let result = body(&mut loops);
    COUNT.store(loops.len(), Ordering::Release);
    result
}

pub(super) fn add(shell: &'static Shell<Looping>, urls: Vec<String>) {
    with_loops(|loops| loops.push(KnownLoop { shell, urls, has_adopted: false }));
}

pub(super) fn remove(shell: &Shell<Looping>) {
    with_loops(|loops| loops.retain(|known| !std::ptr::eq(known.shell, shell)));
}

/// It listens elsewhere now.
pub(super) fn set_urls(shell: &Shell<Looping>, urls: Vec<String>) {
    with_known(shell, |known| known.urls = urls);
}

/// It was given a child.
pub(super) fn set_adopted(shell: &Shell<Looping>) {
    with_known(shell, |known| known.has_adopted = true);
}

fn with_known(shell: &Shell<Looping>, body: impl FnOnce(&mut KnownLoop)) {
    with_loops(|loops| loops.iter_mut().find(|known| std::ptr::eq(known.shell, shell)).map(body));
}

impl KnownLoop {
    fn is_ours(&self) -> bool {
        self.shell.driver.load(Ordering::Relaxed) == this_thread()
    }

    fn is_at(&self, peering: &Peering) -> bool {
        match peering {
            Peering::Elsewhere => false,
            Peering::OwnProcess => self.has_adopted,
            Peering::At(url) => self.urls.contains(url),
        }
    }
}

/// Whether a loop that this very thread drives is at the other end of such a connection: nobody would answer a call
/// that waits.
pub(super) fn would_wait_for_itself(peering: impl FnOnce() -> Peering) -> bool {
    if COUNT.load(Ordering::Acquire) == 0 {
        return false;
    }
    let any_of_ours = with_loops(|loops| {
        loops.retain(|known| known.shell.check() != Err(BROKER_ESTATE));
        loops.iter().any(KnownLoop::is_ours)
    });
    if !any_of_ours {
        return false;
    }
    let peering = peering();
    with_loops(|loops| {
        // A socket that was given says of which process its other end is, and not of which loop.
        let certain = peering != Peering::OwnProcess || loops.iter().all(KnownLoop::is_ours);
        certain && loops.iter().any(|known| known.is_ours() && known.is_at(&peering))
    })
}
