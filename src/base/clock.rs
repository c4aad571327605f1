//! The only place that reads time. Code below the reactor gets a `Millis`, so that a simulation can own the clock.

use std::time::Instant;

/// Milliseconds since the loop's clock started. Monotonic.
pub type Millis = u64;

/// A monotonic clock with a millisecond reading.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Clock::new()
    }
}

impl Clock {
    /// Starts a clock at zero.
    pub fn new() -> Self {
        Clock { start: Instant::now() }
    }

    /// Milliseconds since the clock started.
    pub fn now(&self) -> Millis {
        self.start.elapsed().as_millis() as Millis
    }
}
