//! What an operator may ask about the broker's state, computed when asked. Changes nothing.

use crate::base::clock::Millis;
use crate::core::broker::Broker;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::LaneRole;
use crate::core::host::executables::Executable;
use crate::core::host::leaks::LeakKind;
use crate::core::keys::LeaseKind;
use crate::core::latency::Timed;
use crate::core::lease::state::Tenant;
use std::time::Duration;

/// How often requests took how long.
#[derive(Debug, Clone)]
pub struct RequestTimes {
    /// A family of commands, or a part of the way.
    pub name: &'static str,
    /// The bound of each bucket, and how many are in it and in none before it.
    pub buckets: Vec<(Duration, u64)>,
    /// How many took longer.
    pub longer: u64,
    /// All of them together.
    pub sum: Duration,
}

impl Broker {
    /// Requests that have entered a lane and wait for their reply, written or not; the broker's own
    /// questions are not counted.
    pub fn requests_in_flight(&self) -> usize {
        let lanes = self.shared.connections.lanes().filter(|(_, lane)| !lane.role().is_own());
        lanes.map(|(_, lane)| lane.owed()).sum()
    }

    /// Lanes of a role that hold a connection.
    pub fn lanes_open(&self, role: LaneRole) -> usize {
        self.shared.connections.lanes().filter(|(_, lane)| lane.role() == role && lane.is_counted()).count()
    }

    /// Leases lent: for blocking commands, for transactions, for sessions.
    pub fn leases_lent(&self) -> (usize, usize, usize) {
        let lent = |kind| self.shared.leases.lent(kind);
        (lent(LeaseKind::Blocking), lent(LeaseKind::Transaction), lent(LeaseKind::Session))
    }

    /// The same of one kind.
    pub fn leases_lent_for(&self, kind: LeaseKind) -> usize {
        self.shared.leases.lent(kind)
    }

    /// Children that wait for a lease of this kind: in a line, or in a group without a lease that serves them.
    pub fn leases_waiting_for(&self, kind: LeaseKind) -> usize {
        self.shared.waiting_for(kind)
    }

    /// How long the first child in the line for leases of this kind has waited, alone or in a group that has none.
    pub fn longest_lease_wait(&self, kind: LeaseKind) -> Millis {
        let now = self.shared.env.now;
        let since = |tenant: &Tenant| match tenant {
            Tenant::Child { key, .. } => self.children.get(*key)?.front().wait().map(|wait| wait.arrived),
            Tenant::Group(key) => self.shared.groups.get(*key)?.oldest_bare(now).map(|(_, since)| since),
            // Whoever it is for has a lease, or stands in another line.
            Tenant::Look(_) => None,
        };
        self.shared.leases.line(kind).find_map(since).map_or(0, |since| now.saturating_sub(since))
    }

    /// Connections held upstream, of any kind, as Redis counts them: those given up of which the upstream
    /// has not closed its side are among them.
    pub fn upstream_connections(&self) -> usize {
        self.shared.connections.capacity().held()
    }

    /// Bytes that wait in lanes for Redis to take them.
    pub fn lanes_output(&self) -> usize {
        self.shared.connections.lanes().map(|(_, lane): (_, &Lane)| lane.out().bytes().len()).sum()
    }

    /// Leased lanes that are connected and not lent.
    pub fn leases_idle(&self) -> usize {
        self.shared.connections.leases_idle()
    }

    /// How long requests took so far, by family of command, or in each part of their way.
    pub fn request_times(&self, families: bool) -> impl Iterator<Item = RequestTimes> {
        let timed = Timed::ALL.into_iter().filter(move |timed| timed.is_family() == families);
        timed.filter_map(|timed| {
            let (buckets, longer, sum_us) = self.shared.latency.windows(timed)?.ever();
            let buckets = buckets.map(|(bound, count)| (Duration::from_micros(bound), count)).collect();
            let name = timed.name().trim_start_matches("part:");
            Some(RequestTimes { name, buckets, longer, sum: Duration::from_micros(sum_us) })
        })
    }

    /// Requests so far that took longer than `slowlog_threshold`.
    pub fn slow_requests(&self) -> u64 {
        self.shared.latency.slow().count()
    }

    /// How long requests took of late: the last ten seconds' count, median and 99th percentile in microseconds, over all
    /// families; none if there was none.
    pub fn latency_of_late(&self) -> Option<(u64, u64, u64)> {
        let figures = self.shared.latency.of_late(self.shared.env.micros)?;
        Some((figures.count, figures.p50, figures.p99))
    }

    /// Suspected leaks of all kinds: how many there are now, and were found so far.
    pub fn leaks_in_all(&self) -> (u64, u64) {
        self.leaks().fold((0, 0), |(now, found), (_, more_now, more_found)| {
            (now + more_now as u64, found + more_found)
        })
    }

    /// Suspected leaks of each kind, by its name: how many there are now, and were found so far.
    pub fn leaks(&self) -> impl Iterator<Item = (&'static str, usize, u64)> + use<'_> {
        LeakKind::ALL.into_iter().map(|kind| {
            let (now, found) = self.shared.leaks.count(kind);
            (kind.name(), now, found)
        })
    }

    /// The executables of the processes that children belong to, or did. Children of which no process is known are of the
    /// one that is called unknown, so that all of them together are all children.
    pub(crate) fn executables(&self) -> impl Iterator<Item = (&Executable, usize)> {
        let named: usize = self.shared.processes.executables().map(Executable::children).sum();
        let nameless = self.children_len().saturating_sub(named);
        let all = self.shared.processes.executables().enumerate();
        all.map(move |(at, each)| (each, each.children() + if at == 0 { nameless } else { 0 }))
    }

    /// What the upstream keeps children waiting for: whether it answers BUSY, since a script runs that does not end; and for
    /// how long the request has waited that waits longest for a byte of its reply on a shared lane, where nothing may wait by itself.
    pub fn upstream_delay(&self) -> (bool, Millis) {
        let silent = self.shared.connections.most_silent().map(|(_, lane)| lane.silent_since());
        let longest = silent.map_or(0, |since| self.shared.env.now.saturating_sub(since));
        (self.shared.work.is_busy(), longest)
    }

    /// Heap bytes of all queues.
    pub fn memory(&self) -> usize {
        self.shared.env.held()
    }
}
