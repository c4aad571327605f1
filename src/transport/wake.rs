//! A descriptor that makes a poll return, from any thread. Owns an eventfd; does not record why it was used.

use crate::base::fds::Held;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Makes one poll readable.
#[derive(Debug)]
pub struct Wake {
    /// Declared before `fd`: see [`Held`].
    held: Held,
    fd: OwnedFd,
}

impl Wake {
    /// Registers one that the poll reports as `token`, once for one or several rings.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Wake> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let held = Held::new(&fd);
        registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Wake { held, fd })
    }

    /// Makes the poll return, now or at its next call. Does nothing if the owner of the poll has moved to a forked
    /// process: the number belongs to another file here then.
    pub fn ring(&self) {
        self.held.keep_for(|| {
            // Refused if the counter is full, which makes no edge: once emptied, it accepts another.
            if rustix::io::write(&self.fd, &1u64.to_ne_bytes()).is_err() {
                self.empty();
                let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
            }
        });
    }

    /// Clears earlier rings. Needed only if another loop watches the descriptor level-triggered.
    pub fn empty(&self) {
        // Fails only if there is nothing to read.
        let _ = rustix::io::read(&self.fd, &mut [0u8; 8]);
    }
}

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
