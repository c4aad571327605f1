//! A number by chance, for jitter and the base of ids. Not for secrets.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A seed that differs between processes, and between two calls in one. Asks the system for it, once a thread; leaves
/// nothing behind that a leak checker would name, as a generator of its own per thread would.
pub fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
