//! The signals of the broker. SIGTERM and SIGINT are counted, so that the second one can end at once; SIGQUIT always
//! does. SIGHUP asks for a reload, SIGUSR1 for the statistics; several of one kind that have not been obeyed are one. SIGUSR2,
//! whose default action would end the process, is recorded and changes nothing. SIGXFSZ is not even recorded, and SIGPIPE is
//! ignored by every program in Rust.

use broker::base::error::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGXFSZ};
use signal_hook::{flag, low_level::pipe};
use std::ffi::c_int;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const CANNOT_WATCH: &str = "cannot watch for signals";
/// Requests to end.
const ENDING: [c_int; 3] = [SIGTERM, SIGINT, SIGQUIT];
/// Those that ask for something else, or for nothing.
const OTHERS: [c_int; 3] = [SIGHUP, SIGUSR1, SIGUSR2];

#[derive(Debug)]
pub(crate) struct Signals {
    /// Saves a system call per turn while no signal has arrived.
    pending: Arc<AtomicBool>,
    /// One byte for each request to end.
    bytes: UnixStream,
    seen: usize,
    at_once: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
    statistics: Arc<AtomicBool>,
    harmless: Arc<AtomicBool>,
}

impl Signals {
    /// Begins to watch. From now on no signal ends the process.
    pub(crate) fn watch() -> Result<Signals> {
        Self::register().map_err(Error::attempting(CANNOT_WATCH))
    }

    fn register() -> std::io::Result<Signals> {
        let (bytes, counted) = UnixStream::pair()?;
        bytes.set_nonblocking(true)?;
        let (pending, at_once, reload, statistics, harmless) = Default::default();
        let signals = Signals { pending, bytes, seen: 0, at_once, reload, statistics, harmless };
        // The actions of a signal run in this order.
        flag::register(SIGQUIT, Arc::clone(&signals.at_once))?;
        for signal in ENDING {
            pipe::register(signal, counted.try_clone()?)?;
        }
        let asked = [&signals.reload, &signals.statistics, &signals.harmless];
        for (signal, arrived) in OTHERS.into_iter().zip(asked) {
            flag::register(signal, Arc::clone(arrived))?;
        }
        for signal in all() {
            flag::register(signal, Arc::clone(&signals.pending))?;
        }
        // A log at the limit of a file's size is a failed write, not the end of the process.
        flag::register(SIGXFSZ, Arc::default())?;
        Ok(signals)
    }

    /// Makes each signal also write a byte to `pipe`, after it has been counted. Earlier ones have not written.
    pub(crate) fn wake(&self, wake: &UnixStream) -> Result<()> {
        all().try_for_each(|signal| {
            let registered = wake.try_clone().and_then(|wake| pipe::register(signal, wake));
            registered.map(drop).map_err(Error::attempting(CANNOT_WATCH))
        })
    }

    /// How many requests to end have arrived since the start.
    pub(crate) fn count(&mut self) -> usize {
        let mut bytes = [0; 64];
        let mut pending = self.pending.swap(false, Ordering::SeqCst);
        while pending {
            match self.bytes.read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => pending = false,
                Ok(count) => self.seen += count,
            }
        }
        self.seen
    }

    /// Whether one of them was SIGQUIT.
    pub(crate) fn at_once(&self) -> bool {
        self.at_once.load(Ordering::Relaxed)
    }

    /// Whether the statistics have been asked for since the last call.
    pub(crate) fn take_statistics(&self) -> bool {
        take(&self.statistics)
    }

    /// Whether a reload has been asked for since the last call.
    pub(crate) fn take_reload(&self) -> bool {
        take(&self.reload)
    }

    /// Whether SIGUSR2 has arrived since the last call.
    pub(crate) fn take_harmless(&self) -> bool {
        take(&self.harmless)
    }
}

fn take(arrived: &AtomicBool) -> bool {
    arrived.load(Ordering::Relaxed) && arrived.swap(false, Ordering::SeqCst)
}

fn all() -> impl Iterator<Item = c_int> {
    ENDING.into_iter().chain(OTHERS)
}
