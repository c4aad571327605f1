//! The number of forks between the first process and this one, and whether an object was created in this process.
//! `ffi::fork` detects forks and raises the count; nothing here detects one by itself.

use std::sync::atomic::{AtomicU64, Ordering};

use super::fds;

/// The generation of objects created by this process; 1 in the first process, never 0.
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// The generation, as far as detected.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// This process has been found to be a copy.
pub fn advance() {
    GENERATION.fetch_add(1, Ordering::AcqRel);
}

/// The process that created an object whose end others would notice: a socket's file, a connection.
#[derive(Debug, Clone, Copy)]
pub struct Maker {
    /// `None`: a handle of the C interface. Its contents are never dropped in a copy, and may move there.
    process: Option<(u64, u32)>,
}

impl Maker {
    /// This process.
    pub fn here() -> Maker {
        let process = (fds::owner() == 0).then(|| (generation(), std::process::id()));
        Maker { process }
    }

    /// Whether this process is the one.
    pub fn is_here(self) -> bool {
        self.process.is_none_or(|process| process == (generation(), std::process::id()))
    }
}
