//! The broker without its sockets: events in, dirty lists and rare actions out. The driver (the reactor, a
//! simulation) tells it what arrived and what time it is, then flushes what is dirty and carries out the
//! actions. Finds the child or lane that an event is about, once, and hands it on; does no I/O and reads no clock.

/// Running totals, for the log and for embedders.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Children accepted.
    pub children_opened: u64,
    /// Children refused for `children_max`.
    pub children_refused: u64,
    /// Requests run.
    pub requests: u64,
    /// Requests answered with BROKERLOST.
    pub requests_lost: u64,
    /// Requests answered with BROKERDOWN.
    pub requests_down: u64,
    /// Requests answered with BROKERLIMIT.
    pub requests_limited: u64,
    /// Requests answered with BROKERTIMEOUT.
    pub requests_timed_out: u64,
    /// Connections dialled to the upstream.
    pub upstream_connects: u64,
    /// Of these, those that came to nothing.
    pub upstream_connect_failures: u64,
    /// Established connections that broke or had to be closed.
    pub upstream_losses: u64,
    /// Lanes closed because their replies made no sense.
    pub desyncs: u64,
    /// Canaries sent, for `integrity`.
    pub canaries: u64,
    /// Of these, those that did not come home: a lane was closed each time.
    pub integrity_failures: u64,
    /// Replies whose child had gone.
    pub orphaned_replies: u64,
    /// Times that shared subscriptions were made again after a loss, unnoticed by their children.
    pub subscriber_gaps: u64,
}

impl Counters {
    /// Counts `count` answers of the broker's own, known by the first word of their text.
    pub(in crate::core) fn failed(&mut self, text: &[u8], count: u64) {
        let counter = match text.split(|byte| *byte == b' ').next() {
            Some(b"BROKERLOST") => &mut self.requests_lost,
            Some(b"BROKERDOWN") => &mut self.requests_down,
            Some(b"BROKERLIMIT") => &mut self.requests_limited,
            Some(b"BROKERTIMEOUT") => &mut self.requests_timed_out,
            _ => return,
        };
        *counter += count;
    }
}
