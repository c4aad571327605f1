//! SIGTERM and SIGINT: counted, so that the second one can mean "at once", and able to end a poll.

use broker::base::error::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The requests to end that have arrived.
#[derive(Debug)]
pub(crate) struct Signals {
    /// Spares a system call per turn while nothing has arrived.
    pending: Arc<AtomicBool>,
    /// One byte per signal.
    bytes: UnixStream,
    seen: usize,
}

impl Signals {
    /// Starts to watch. Each signal also writes a byte to `wake`, after it has been counted.
    pub(crate) fn watch(wake: Option<UnixStream>) -> Result<Signals> {
        Self::register(wake).map_err(|error| Error::system(format!("cannot watch for signals: {error}")))
    }

    fn register(wake: Option<UnixStream>) -> std::io::Result<Signals> {
        let (bytes, counted) = UnixStream::pair()?;
        bytes.set_nonblocking(true)?;
        let pending = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // The actions of a signal run in this order.
            pipe::register(signal, counted.try_clone()?)?;
            flag::register(signal, Arc::clone(&pending))?;
            if let Some(wake) = &wake {
                pipe::register(signal, wake.try_clone()?)?;
            }
        }
        Ok(Signals { pending, bytes, seen: 0 })
    }

    /// How many signals have arrived since the start.
    pub(crate) fn count(&mut self) -> usize {
        if self.pending.swap(false, Ordering::SeqCst) {
            self.drain();
        }
        self.seen
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
