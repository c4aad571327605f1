//! What a broker keeps for whoever asks what is wrong: totals now and then, and whether the upstream serves, which is asked when
//! somebody wants to know. Costs nothing for a request, and wakes no loop.

use crate::base::clock::Millis;
use crate::base::log_limit::log_lines_dropped;
use crate::core::broker::Broker;
use crate::core::questions::ready::Readiness;
use crate::core::status::figures::LastMinute;

/// For so many milliseconds what the upstream has said of whether it serves is still worth telling: whoever watches asks
/// every few seconds, and is not kept waiting for the upstream's answer.
const SAID_LATELY: Millis = 5_000;

impl Broker {
    /// Keeps the totals of now, where that is due. No timer of its own: those that there are come often enough.
    #[inline]
    pub(crate) fn note_totals(&mut self) {
        if self.lately.is_due(self.shared.env.now) {
            let totals = self.failed_so_far();
            self.lately.add(self.shared.env.now, totals);
            // Once it was seen not to serve it is asked again and again, so that the end is not missed.
            if self.lately.not_ready_since.is_some() {
                self.said_lately();
            }
        }
    }

    fn failed_so_far(&self) -> LastMinute {
        let counters = &self.shared.env.counters;
        LastMinute {
            lost: counters.requests_lost,
            down: counters.requests_down,
            limited: counters.requests_limited,
            timed_out: counters.requests_timed_out,
            refused: counters.children_refused,
            log_lines_dropped: log_lines_dropped(),
        }
    }

    /// How often something went wrong within the last minute.
    pub(crate) fn last_minute(&self) -> LastMinute {
        self.lately.minute(self.shared.env.now, &self.failed_so_far())
    }

    /// Whether the upstream serves, as far as it has said lately, and why not. Has it asked.
    pub(crate) fn said_lately(&mut self) -> (Option<bool>, Option<String>) {
        let now = self.shared.env.now;
        let mut said = self.readiness(now);
        if matches!(said, Readiness::Asked { .. }) {
            said = self.readiness(now.saturating_sub(SAID_LATELY));
        }
        match said {
            Readiness::Ready => {
                self.lately.not_ready_since = None;
                (Some(true), None)
            }
            Readiness::NotReady(why) => {
                let since = self.shared.work.silent_since().unwrap_or(now);
                self.lately.not_ready_since.get_or_insert(since);
                (Some(false), Some(why))
            }
            Readiness::Asked { .. } => (None, None),
        }
    }

    /// For how long it has been seen not to serve.
    pub(crate) fn not_ready_ms(&self) -> Option<Millis> {
        self.lately.not_ready_since.map(|since| self.shared.env.now.saturating_sub(since))
    }
}

#[cfg(test)]
mod tests {
    /// The first time stays, whoever asks later.
    #[test]
    fn since_when_it_does_not_serve_is_remembered() {
        let mut broker = crate::core::tests::broker_without_redis();
        let (ready, why) = broker.said_lately();
        assert_eq!((ready, why.as_deref()), (Some(false), Some("no connection to the upstream")));
        for passed in [0, 7_000, 20_000] {
            let start = broker.shared.env.now;
            broker.advance(start + passed);
            broker.begin_turn();
        }
        assert_eq!(broker.not_ready_ms(), Some(27_000));
    }
}
