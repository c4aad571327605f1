//! A descriptor that makes a poll return, from any thread. Owns an eventfd; says nothing about why it was woken.

use crate::base::fds::Held;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Makes one poll readable.
#[derive(Debug)]
pub struct Wake {
    /// Before `fd`: see [`Held`].
    held: Held,
    fd: OwnedFd,
}

impl Wake {
    /// One that the poll reports as `token`, once for each time or several that it was rung.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Wake> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let held = Held::new(&fd);
        registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Wake { held, fd })
    }

    /// Makes the poll return, now or when it is asked next. Does nothing where whoever polls has moved to a forked process:
    /// the number is another's here then.
    pub fn ring(&self) {
        self.held.keep_for(|| {
            // Refused by a counter that is full, which makes no edge: emptied, it takes one.
            if rustix::io::write(&self.fd, &1u64.to_ne_bytes()).is_err() {
                self.empty();
                let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
            }
        });
    }

    /// Takes back what was rung. Needed only where somebody else watches the descriptor level-triggered.
    pub fn empty(&self) {
        // Fails only when there is nothing.
        let _ = rustix::io::read(&self.fd, &mut [0u8; 8]);
    }
}

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
