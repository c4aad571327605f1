//! The statistics of a loop by name: one table of name, meaning and reader, from which the documentation is generated
//! too. A name ends in its unit if it has one; names are only ever added.

use super::Loop;
use crate::base::log_limit::{log_lines_dropped, log_lines_left_out};
use crate::core::{LaneRole, LeaseKind};

struct Stat {
    name: &'static str,
    doc: &'static str,
    read: fn(&Loop) -> u64,
}

/// A row without a reader is the counter of its name.
macro_rules! stats {
    (read $name:ident) => { |lp| lp.core.counters().$name };
    (read $name:ident $read:expr) => { $read };
    ($( $name:ident: $doc:literal $(, $read:expr)?; )+) => {
        static STATS: &[Stat] =
            &[$(Stat { name: stringify!($name), doc: $doc, read: stats!(read $name $($read)?) }),+];
        static NAMES: &[&str] = &[$(stringify!($name)),+];
    };
}

stats! {
    children: "Children connected now, including local and adopted ones.", |lp| lp.core.children_len() as u64;
    children_opened: "Children so far.";
    children_refused: "Children refused so far because of children_max, children_per_process_max or children_per_uid_max.";
    tls_handshakes_failed: "TLS handshakes that failed so far, of children and with Redis.",
        |lp| { let (children, upstream) = lp.handshakes.failed(); children + upstream };
    requests: "Requests run so far.";
    requests_in_flight: "Requests on lanes that wait for a reply from Redis.",
        |lp| lp.core.requests_in_flight() as u64;
    requests_lost: "Requests lost with a connection so far: answered with BROKERLOST, or their children closed.";
    requests_down: "Requests that found no connection so far: answered with BROKERDOWN, or their children closed.";
    children_lost: "Children closed so far for such requests (on_upstream_loss = close).";
    requests_limited: "Requests answered with BROKERLIMIT so far.";
    requests_timed_out: "Requests answered with BROKERTIMEOUT so far.";
    lanes_shared: "Shared lanes that have a connection.", |lp| lp.core.lanes_open(LaneRole::Shared) as u64;
    lanes_subscriber: "Connections that carry shared subscriptions.",
        |lp| lp.core.lanes_open(LaneRole::Subscriber) as u64;
    lanes_output_bytes: "Bytes of requests not yet written to Redis.", |lp| lp.core.lanes_output() as u64;
    leases_blocking: "Leased lanes in use for blocking commands.", |lp| lp.core.leases_lent().0 as u64;
    leases_transaction: "Leased lanes in use for WATCH or MULTI.", |lp| lp.core.leases_lent().1 as u64;
    leases_session: "Leased lanes in use for sessions, including subscribers with pubsub = leased.",
        |lp| lp.core.leases_lent().2 as u64;
    leases_idle: "Leased lanes kept ready and not in use.", |lp| lp.core.leases_idle() as u64;
    leases_waiting: "Children that wait for a lease.", |lp| LeaseKind::ALL.into_iter().map(|kind| lp.core.leases_waiting_for(kind) as u64).sum();
    upstream_up: "1 while Redis is known to answer, else 0.", |lp| u64::from(lp.core.upstream_is_up());
    upstream_connections: "Connections to Redis, as Redis counts them.",
        |lp| lp.core.upstream_connections() as u64;
    upstream_connects: "Attempts to connect to Redis so far.";
    upstream_connect_failures: "Of these, the failed ones.";
    upstream_losses: "Established connections to Redis that broke or had to be closed.";
    upstream_switches: "Times that all connections have left a server which is the master no more.";
    desyncs: "Of these, connections closed for replies that violate the protocol.";
    canaries: "Canaries sent so far (integrity).";
    integrity_failures: "Of these, canaries whose reply did not match; each closed a lane.";
    orphaned_replies: "Replies that arrived after their child had disconnected.";
    subscriber_gaps: "How often shared subscriptions were made again, with on_subscriber_loss = resubscribe.";
    memory_bytes: "Heap bytes of all queues, bounded by memory_max.", |lp| lp.core.memory() as u64;
    longest_step_us: "The longest step so far, in processor time: what the loop did between two looks at what else was due.",
        |lp| lp.longest_step().0.as_micros() as u64;
    longest_turn_us: "The longest turn of the loop so far, in processor time, without the wait before it.",
        |lp| lp.longest_turn().as_micros() as u64;
    leaks: "Suspected leaks now.", |lp| lp.core.leaks().map(|(_, now, _)| now as u64).sum();
    leaks_found: "Suspected leaks so far.", |lp| lp.core.leaks().map(|(.., found)| found).sum();
    log_lines_dropped: "Lines of the process' log that were lost, since its reader took no more.", |_| log_lines_dropped();
    log_lines_left_out: "Lines of the process' log that were summed up, since there were too many alike.",
        |_| log_lines_left_out();
    draining: "1 while the loop drains, else 0.", |lp| u64::from(lp.core.is_draining());
    uptime_ms: "Time since the loop was created, as of its last turn.", |lp| lp.told;
}

impl Loop {
    /// A statistic by name; `None` for an unknown name. `stat_names` lists all.
    pub fn stat(&self, name: &str) -> Option<u64> {
        STATS.iter().find(|stat| stat.name == name).map(|stat| (stat.read)(self))
    }

    /// Every name `stat` accepts.
    pub fn stat_names() -> &'static [&'static str] {
        NAMES
    }

    /// Every name with its meaning, one line each.
    pub fn stats() -> impl Iterator<Item = (&'static str, &'static str)> {
        STATS.iter().map(|stat| (stat.name, stat.doc))
    }
}
