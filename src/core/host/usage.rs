//! What children have sent and been given, added up, and how fast that grows. Plain data.

use crate::base::clock::Millis;
use crate::base::limits;

/// Running totals of one child, or of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) requests: u64,
    /// Bytes that were read.
    pub(crate) bytes_in: u64,
    /// Bytes that were written.
    pub(crate) bytes_out: u64,
}

impl Usage {
    pub(crate) fn add(&mut self, other: &Usage) {
        self.requests += other.requests;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }

    /// What was added since there was this.
    pub(crate) fn since(&self, before: &Usage) -> Usage {
        Usage {
            requests: self.requests - before.requests,
            bytes_in: self.bytes_in - before.bytes_in,
            bytes_out: self.bytes_out - before.bytes_out,
        }
    }

    fn per_second(&self, lasted: Millis) -> Usage {
        let rate = |count: u64| count.saturating_mul(1000) / lasted.max(1);
        Usage {
            requests: rate(self.requests),
            bytes_in: rate(self.bytes_in),
            bytes_out: rate(self.bytes_out),
        }
    }
}

/// The totals at the last looks, by which the next one finds out what is done in a second. Nobody who does not look pays.
#[derive(Debug, Clone, Default)]
pub(crate) struct UsageMarks {
    /// The older of the two is at least `RATE_WINDOW` before the newer.
    older: Option<(Millis, Usage)>,
    newer: Option<(Millis, Usage)>,
}

impl UsageMarks {
    /// Looks at the totals of now. What was done in a second of late; `None` where the last look is too near or too far.
    pub(crate) fn look(&mut self, total: &Usage, now: Millis) -> Option<Usage> {
        let Some((at, _)) = self.newer.filter(|(at, _)| now - at <= limits::RATE_STALE) else {
            (self.older, self.newer) = (None, Some((now, *total)));
            return None;
        };
        if now - at >= limits::RATE_WINDOW {
            (self.older, self.newer) = (self.newer, Some((now, *total)));
        }
        let (since, before) = self.older.or(self.newer)?;
        (now - since >= limits::RATE_MIN).then(|| total.since(&before).per_second(now - since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_late_and_need_two_looks() {
        let mut marks = UsageMarks::default();
        let total = |requests| Usage { requests, bytes_in: 10 * requests, bytes_out: 0 };
        let mut look =
            |requests, now| marks.look(&total(requests), now).map(|rate| (rate.requests, rate.bytes_in));
        assert_eq!(look(100, 50_000), None);
        assert_eq!(look(110, 50_000 + limits::RATE_MIN - 1), None);
        assert_eq!(look(300, 52_000), Some((100, 1000)));
        assert_eq!(look(500, 54_000), Some((100, 1000)));
        // Ten seconds without work: what was before them is soon forgotten.
        assert_eq!(look(500, 56_000), Some((66, 666)));
        assert_eq!(look(500, 58_000), Some((0, 0)));
        assert_eq!(look(9_000, 58_001 + limits::RATE_STALE), None, "nobody has looked for long");
    }
}
