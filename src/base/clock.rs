//! The only place that reads time. Code below the reactor gets a `Millis`, so that a simulation can own the clock.

use nix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant, SystemTime};

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

    /// Microseconds since the clock started.
    pub fn micros(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// Milliseconds since the clock started.
    pub fn now(&self) -> Millis {
        self.start.elapsed().as_millis() as Millis
    }
}

/// The time of day, since 1970: for what is read elsewhere. It may jump.
pub fn time_of_day() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Milliseconds since the system was started, the same in all its processes. Monotonic.
pub fn time_of_system() -> Millis {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    time.as_millis() as Millis
}

/// The processor time of the calling thread is asked for at most this often: it takes a system call.
const SAMPLE_AFTER: Duration = Duration::from_micros(500);

/// Measures stretches of work one after the other, by the processor time of the thread, since a machine that is busy may
/// give the processor to others in the middle of any. What it says of a stretch is too much by `SAMPLE_AFTER` at most,
/// and never too little.
#[derive(Debug)]
pub struct Stopwatch {
    origin: Instant,
    /// Where the present stretch began, in nanoseconds since `origin`: it is subtracted from very often.
    at: u64,
    sampled_at: u64,
    /// The thread's processor time then.
    sample: Duration,
}

impl Default for Stopwatch {
    fn default() -> Self {
        Stopwatch { origin: Instant::now(), at: 0, sampled_at: 0, sample: thread_time() }
    }
}

impl Stopwatch {
    /// A stretch begins. What has passed since the last one ended belongs to none. Returns where it begins.
    pub fn begin(&mut self) -> Mark {
        self.at = self.nanos();
        self.sample_if_old();
        Mark { at: self.at, sample: self.sample }
    }

    /// A stretch ends and the next one begins. Returns the processor time of the one that ends.
    #[inline]
    pub fn split(&mut self) -> Duration {
        let now = self.nanos();
        let lasted = Duration::from_nanos(now - std::mem::replace(&mut self.at, now));
        let before = self.sample;
        if self.sample_if_old() { lasted.min(self.sample.saturating_sub(before)) } else { lasted }
    }

    /// How long ago this was when the present stretch began.
    #[inline]
    pub fn since(&self, mark: &Mark) -> Duration {
        Duration::from_nanos(self.at - mark.at)
    }

    /// The processor time from there to where the present stretch began.
    pub fn used_since(&mut self, mark: &Mark) -> Duration {
        let lasted = self.since(mark);
        if lasted < SAMPLE_AFTER {
            return lasted;
        }
        (self.sampled_at, self.sample) = (self.at, thread_time());
        lasted.min(self.sample.saturating_sub(mark.sample))
    }

    #[inline]
    fn nanos(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    #[inline]
    fn sample_if_old(&mut self) -> bool {
        let old = self.at - self.sampled_at >= SAMPLE_AFTER.as_nanos() as u64;
        if old {
            (self.sampled_at, self.sample) = (self.at, thread_time());
        }
        old
    }
}

/// A point in time that a [`Stopwatch`] has been at.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    at: u64,
    sample: Duration,
}

/// Zero where there is no such clock.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Works for so long, however busy the machine is.
#[cfg(test)]
pub(crate) fn spin(time: Duration) {
    let start = thread_time();
    while thread_time() - start < time {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_is_measured_by_what_the_thread_has_worked() {
        let mut watch = Stopwatch::default();
        let mark = watch.begin();
        spin(Duration::from_millis(5));
        let worked = watch.split();
        assert!(worked >= Duration::from_millis(5), "{worked:?}");
        // The sleep stands for a processor that others have.
        std::thread::sleep(Duration::from_millis(50));
        let slept = watch.split();
        assert!(slept < Duration::from_millis(5), "{slept:?}");
        assert!(watch.since(&mark) >= Duration::from_millis(55));
        let used = watch.used_since(&mark);
        assert!(used >= Duration::from_millis(5) && used < Duration::from_millis(50), "{used:?}");
    }
}
