//! The plain figures by which it is decided what is wrong: no child, no lane, nothing that asks anybody. `survey` fills them in,
//! `wrong` judges them.

use crate::base::clock::Millis;
use crate::core::keys::LeaseKind;
use std::path::PathBuf;

/// Milliseconds of waiting for a lease that are still ordinary: it is given back within them as a rule.
pub(super) const WAIT_ORDINARY: Millis = 1_000;

/// How much of something is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fullness {
    /// So much is used now.
    pub used: u64,
    /// So much may be used.
    pub max: u64,
}

impl Fullness {
    pub(super) fn is_full(self) -> bool {
        self.max > 0 && self.used >= self.max
    }

    pub(super) fn is_above(self, percent: u64) -> bool {
        self.max > 0 && u128::from(self.used) * 100 >= u128::from(self.max) * u128::from(percent)
    }
}

/// Who has a lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HolderFigures {
    /// Its process, where it is known.
    pub pid: Option<u64>,
    /// The program.
    pub process: String,
    /// Its unit or container.
    pub unit: String,
    /// CLIENT ID; none where children share the lease.
    pub child: Option<u64>,
    /// CLIENT SETNAME.
    pub name: String,
    /// For how long.
    pub held_ms: Millis,
    /// The last command of the child.
    pub command: String,
    /// How long ago it has last sent something, where it is known.
    pub idle_ms: Option<Millis>,
}

/// The leases of one kind.
#[derive(Debug, Clone)]
pub struct KindFigures {
    /// Which.
    pub kind: LeaseKind,
    /// How many are lent, of how many.
    pub leases: Fullness,
    /// Children that wait for one.
    pub waiting: u64,
    /// How long the first of them has waited.
    pub longest_ms: Millis,
    /// Who has had one for longest.
    pub holders: Vec<HolderFigures>,
}

impl KindFigures {
    pub(super) fn has_notable_wait(&self) -> bool {
        self.waiting > 0 && self.longest_ms >= WAIT_ORDINARY
    }
}

/// A leak that is suspected now.
#[derive(Debug, Clone, Default)]
pub struct LeakFigures {
    /// What it looks like, in a word.
    pub kind: String,
    /// Who it is about, in words.
    pub who: String,
    /// CLIENT ID, where it is about one child.
    pub child: Option<u64>,
    /// For how long.
    pub since_ms: Millis,
    /// The facts.
    pub what: String,
}

/// A shared connection that is silent while requests wait on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StallFigures {
    /// Its lane.
    pub lane: u64,
    /// For how long it has, without a byte of its reply.
    pub silent_ms: Millis,
    /// Requests on this connection.
    pub requests: u64,
}

/// How often something has happened within the last minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LastMinute {
    /// Requests that ended in BROKERLOST.
    pub lost: u64,
    /// In BROKERDOWN.
    pub down: u64,
    /// In BROKERLIMIT.
    pub limited: u64,
    /// In BROKERTIMEOUT.
    pub timed_out: u64,
    /// Connections of children that were refused.
    pub refused: u64,
    /// Log lines that nobody took.
    pub log_lines_dropped: u64,
}

/// Everything by which it is decided what is wrong.
#[derive(Debug, Clone, Default)]
pub struct StatusFigures {
    /// Where Redis is.
    pub address: String,
    /// The broker ends.
    pub is_draining: bool,
    /// Since how many milliseconds it is paused, and in how many it resumes by itself.
    pub paused: Option<(Millis, Millis)>,
    /// The control connection is there.
    pub is_up: bool,
    /// A script runs that does not end.
    pub is_busy: bool,
    /// For how long there has been no connection.
    pub down_ms: Option<Millis>,
    /// Why the last attempt to connect failed.
    pub refusal: String,
    /// Why Redis does not serve, as far as is known.
    pub not_ready: Option<String>,
    /// For how long it has not been ready.
    pub not_ready_ms: Option<Millis>,
    /// The shared connection whose next request waits the longest, if that is notable.
    pub stalled: Option<StallFigures>,
    /// Some users whose connections Redis refuses, and why.
    pub refused: Vec<(String, String)>,
    /// The admin socket, where there is one.
    pub admin_socket: Option<PathBuf>,
    /// Settings by their names, as `queue_timeout = 1000 ms`.
    pub settings: Vec<(&'static str, String)>,
    /// The leases by kind.
    pub kinds: Vec<KindFigures>,
    /// Connections to Redis.
    pub connections: Fullness,
    /// Children.
    pub children: Fullness,
    /// Bytes of all queues.
    pub memory: Fullness,
    /// Suspected leaks now.
    pub leaks_now: u64,
    /// Some of them.
    pub leaks: Vec<LeakFigures>,
    /// What has happened of late.
    pub minute: LastMinute,
}
