//! Running totals of what the core has done, for the log, for metrics and for programs that embed it. Knows no cause and
//! draws no conclusion.

use crate::base::failure::FailureKind;

/// Running totals, for the log and for embedders.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Children accepted.
    pub children_opened: u64,
    /// Children refused for `children_max`, `children_per_process_max` or `children_per_uid_max`.
    pub children_refused: u64,
    /// Children closed since what they had asked for was lost with an upstream connection, or found none.
    pub children_lost: u64,
    /// Requests run.
    pub requests: u64,
    /// Requests lost with a connection: answered with BROKERLOST, or their children closed.
    pub requests_lost: u64,
    /// Requests that found no connection: answered with BROKERDOWN, or their children closed.
    pub requests_down: u64,
    /// Requests answered with BROKERLIMIT.
    pub requests_limited: u64,
    /// Requests answered with BROKERTIMEOUT.
    pub requests_timed_out: u64,
    /// Connections dialled to the upstream.
    pub upstream_connects: u64,
    /// Of these, those that failed.
    pub upstream_connect_failures: u64,
    /// Established connections that broke or had to be closed.
    pub upstream_losses: u64,
    /// Times that a server was left since it is the master no more.
    pub upstream_switches: u64,
    /// Lanes closed because their replies made no sense.
    pub desyncs: u64,
    /// Canaries sent, for `integrity`.
    pub canaries: u64,
    /// Of these, those whose reply did not match: a lane was closed each time.
    pub integrity_failures: u64,
    /// Replies whose child was gone.
    pub orphaned_replies: u64,
    /// Times that shared subscriptions were made again after a loss, unnoticed by their children.
    pub subscriber_gaps: u64,
}

impl Counters {
    /// Counts answers of the broker's own. What the upstream could have answered is not counted.
    pub(crate) fn failed(&mut self, kind: Option<FailureKind>, count: u64) {
        let counter = match kind {
            Some(FailureKind::Lost) => &mut self.requests_lost,
            Some(FailureKind::Down) => &mut self.requests_down,
            Some(FailureKind::Limited) => &mut self.requests_limited,
            Some(FailureKind::TimedOut) => &mut self.requests_timed_out,
            None => return,
        };
        *counter += count;
    }
}
