//! The signals of the broker. SIGTERM and SIGINT are counted, so that the second one can end at once; SIGQUIT always
//! does. SIGHUP, SIGUSR1 and SIGUSR2, whose default action would end the process, are recorded and change nothing. Owns
//! the counts; the caller acts on them.

use broker::base::error::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::{flag, low_level::pipe};
use std::ffi::c_int;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Signals that are ignored, but would by default end the process.
const HARMLESS: [(c_int, &str); 3] = [(SIGHUP, "SIGHUP"), (SIGUSR1, "SIGUSR1"), (SIGUSR2, "SIGUSR2")];

/// The signals that have arrived.
#[derive(Debug)]
pub(crate) struct Signals {
    watched: Vec<c_int>,
    /// Saves a system call per turn while no signal has arrived.
    pending: Arc<AtomicBool>,
    /// One byte for each request to end.
    bytes: UnixStream,
    seen: usize,
    at_once: Arc<AtomicBool>,
    harmless: Vec<(&'static str, Arc<AtomicBool>)>,
}

impl Signals {
    /// Begins to watch the requests to end.
    pub(crate) fn watch() -> Result<Signals> {
        Self::register().map_err(cannot_watch)
    }

    fn register() -> std::io::Result<Signals> {
        let (bytes, counted) = UnixStream::pair()?;
        bytes.set_nonblocking(true)?;
        let pending = Arc::new(AtomicBool::new(false));
        let at_once = Arc::new(AtomicBool::new(false));
        let watched = vec![SIGTERM, SIGINT, SIGQUIT];
        for &signal in &watched {
            // The actions of a signal run in this order.
            if signal == SIGQUIT {
                flag::register(signal, Arc::clone(&at_once))?;
            }
            pipe::register(signal, counted.try_clone()?)?;
            flag::register(signal, Arc::clone(&pending))?;
        }
        Ok(Signals { watched, pending, bytes, seen: 0, at_once, harmless: Vec::new() })
    }

    /// Watches the ignored signals too. From now on they do not end the process.
    pub(crate) fn watch_harmless(&mut self) -> Result<()> {
        for (signal, name) in HARMLESS {
            let flag = Arc::new(AtomicBool::new(false));
            flag::register(signal, Arc::clone(&flag)).map_err(cannot_watch)?;
            flag::register(signal, Arc::clone(&self.pending)).map_err(cannot_watch)?;
            self.watched.push(signal);
            self.harmless.push((name, flag));
        }
        Ok(())
    }

    /// Makes each signal also write a byte to `pipe`, after it has been counted. Earlier ones have not written.
    pub(crate) fn wake(&self, wake: &UnixStream) -> Result<()> {
        for &signal in &self.watched {
            wake.try_clone().and_then(|wake| pipe::register(signal, wake)).map_err(cannot_watch)?;
        }
        Ok(())
    }

    /// How many requests to end have arrived since the start.
    pub(crate) fn count(&mut self) -> usize {
        if self.pending.swap(false, Ordering::SeqCst) {
            self.drain();
        }
        self.seen
    }

    /// Whether one of them was SIGQUIT.
    pub(crate) fn at_once(&self) -> bool {
        self.at_once.load(Ordering::Relaxed)
    }

    /// The names of ignored signals that have arrived since the last call.
    pub(crate) fn take_harmless(&self) -> impl Iterator<Item = &'static str> {
        let arrived =
            |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::SeqCst);
        self.harmless.iter().filter(move |(_, flag)| arrived(flag)).map(|(name, _)| *name)
    }

    fn drain(&mut self) {
        let mut bytes = [0; 64];
        loop {
            match self.bytes.read(&mut bytes) {
                Ok(0) => return,
                Ok(n) => self.seen += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

fn cannot_watch(error: std::io::Error) -> Error {
    Error::system(format!("cannot watch for signals: {error}"))
}
