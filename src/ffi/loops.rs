//! The loops of this process, their listeners and the thread that drives each, so that a call is refused that its own
//! thread would have to answer. Knows nothing of requests, and enters no loop: another thread may be using it.

use super::border::{Shell, this_thread};
use super::codes::BROKER_ESTATE;
use super::embed::broker_loop_t;
use super::fork::EachProcess;
use crate::client::Peering;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

struct KnownLoop {
    shell: &'static Shell<broker_loop_t>,
    urls: Vec<String>,
    has_adopted: bool,
}

/// Loops created here and not freed. One that has followed a fork is not among them: a call to it then waits.
static LOOPS: EachProcess<Mutex<Vec<KnownLoop>>> = EachProcess::new();
/// How many, for programs without a loop.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn with_loops<R>(body: impl FnOnce(&mut Vec<KnownLoop>) -> R) -> R {
    let mut loops = LOOPS.get().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let result = body(&mut loops);
    COUNT.store(loops.len(), Ordering::Release);
    result
}

pub(super) fn add(shell: &'static Shell<broker_loop_t>, urls: Vec<String>) {
    with_loops(|loops| loops.push(KnownLoop { shell, urls, has_adopted: false }));
}

pub(super) fn remove(shell: &Shell<broker_loop_t>) {
    with_loops(|loops| loops.retain(|known| !std::ptr::eq(known.shell, shell)));
}

pub(super) fn set_urls(shell: &Shell<broker_loop_t>, urls: Vec<String>) {
    with_known(shell, |known| known.urls = urls);
}

pub(super) fn set_adopted(shell: &Shell<broker_loop_t>) {
    with_known(shell, |known| known.has_adopted = true);
}

fn with_known(shell: &Shell<broker_loop_t>, body: impl FnOnce(&mut KnownLoop)) {
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

/// Whether the loop that would have to answer a call on such a connection is driven by this very thread.
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
        // An adopted socket has the process of its other end, but not the loop.
        let certain = peering != Peering::OwnProcess || loops.iter().all(KnownLoop::is_ours);
        certain && loops.iter().any(|known| known.is_ours() && known.is_at(&peering))
    })
}
