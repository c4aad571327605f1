//! What the environment says of a run: `BROKER_TEST_SEED` replays one, `BROKER_TEST_SECONDS` says how long it takes. The
//! simulation in `src/core/sim` has this file, too.

// The simulation draws no seed of its own.
#![allow(dead_code)]

/// The number a variable holds, if it holds one.
pub(crate) fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// The seed to replay, or one by chance; it is printed, so that it appears with a failure.
pub(crate) fn seed() -> u64 {
    let seed = variable("BROKER_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("replay with BROKER_TEST_SEED={seed}");
    seed
}
