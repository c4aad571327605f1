//! A random number, for jitter and the base of ids. Not for secrets.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A seed that differs between processes, and between two calls in one. The system provides it, once per thread; a leak
/// checker finds nothing, unlike with one generator per thread.
pub fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
