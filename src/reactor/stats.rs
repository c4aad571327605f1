//! The numbers a loop can be asked for by name: one table of name, meaning and reader, from which the
//! documentation is made too. A name ends in its unit where it has one; only ever add to them.

use super::Loop;
use crate::core::LaneRole;

/// One number.
struct Stat {
    name: &'static str,
    doc: &'static str,
    read: fn(&Loop) -> u64,
}

macro_rules! stats {
    ($( $name:ident: $doc:literal, $read:expr; )+) => {
        static STATS: &[Stat] = &[$(Stat { name: stringify!($name), doc: $doc, read: $read }),+];
        static NAMES: &[&str] = &[$(stringify!($name)),+];
    };
}

stats! {
    children: "Children connected now, local and adopted ones included.",
        |lp| lp.core.children_len() as u64;
    children_opened: "Children so far.",
        |lp| lp.core.counters().children_opened;
    children_refused: "Children refused so far because of children_max.",
        |lp| lp.core.counters().children_refused;
    requests: "Requests run so far.",
        |lp| lp.core.counters().requests;
    requests_in_flight: "Requests on lanes that wait for Redis' reply.",
        |lp| lp.core.requests_in_flight() as u64;
    requests_lost: "Requests answered with BROKERLOST so far.",
        |lp| lp.core.counters().requests_lost;
    requests_down: "Requests answered with BROKERDOWN so far.",
        |lp| lp.core.counters().requests_down;
    requests_limited: "Requests answered with BROKERLIMIT so far.",
        |lp| lp.core.counters().requests_limited;
    requests_timed_out: "Requests answered with BROKERTIMEOUT so far.",
        |lp| lp.core.counters().requests_timed_out;
    lanes_shared: "Shared lanes that hold a connection.",
        |lp| lp.core.lanes_open(LaneRole::Shared) as u64;
    lanes_subscriber: "Connections that carry shared subscriptions.",
        |lp| lp.core.lanes_open(LaneRole::Subscriber) as u64;
    lanes_output_bytes: "Bytes of requests that wait for Redis to take them.",
        |lp| lp.core.lanes_output() as u64;
    leases_blocking: "Leased lanes lent for blocking commands.",
        |lp| lp.core.leases_lent().0 as u64;
    leases_transaction: "Leased lanes lent for WATCH or MULTI.",
        |lp| lp.core.leases_lent().1 as u64;
    leases_session: "Leased lanes lent to sessions, among them subscribers where pubsub = leased.",
        |lp| lp.core.leases_lent().2 as u64;
    leases_idle: "Leased lanes kept ready, lent to nobody.",
        |lp| lp.core.leases_idle() as u64;
    leases_waiting: "Children that wait for a lease.",
        |lp| lp.core.leases_waiting() as u64;
    upstream_up: "1 while Redis is known to answer, else 0.",
        |lp| u64::from(lp.core.upstream_is_up());
    upstream_connections: "Connections to Redis, as Redis counts them.",
        |lp| lp.core.upstream_connections() as u64;
    upstream_connects: "Connections dialled to Redis so far.",
        |lp| lp.core.counters().upstream_connects;
    upstream_connect_failures: "Of these, those that came to nothing.",
        |lp| lp.core.counters().upstream_connect_failures;
    upstream_losses: "Established connections to Redis that broke or had to be closed.",
        |lp| lp.core.counters().upstream_losses;
    desyncs: "Of these, those whose replies made no sense.",
        |lp| lp.core.counters().desyncs;
    canaries: "Canaries sent so far, for integrity.",
        |lp| lp.core.counters().canaries;
    integrity_failures: "Of these, those that did not come home; each closed a lane.",
        |lp| lp.core.counters().integrity_failures;
    orphaned_replies: "Replies that came when their child had gone.",
        |lp| lp.core.counters().orphaned_replies;
    subscriber_gaps: "Times that shared subscriptions were made again, with on_subscriber_loss = resubscribe.",
        |lp| lp.core.counters().subscriber_gaps;
    memory_bytes: "Heap bytes of all queues; memory_max bounds them.",
        |lp| lp.core.memory() as u64;
    draining: "1 once a drain has begun, else 0.",
        |lp| u64::from(lp.core.is_draining());
    uptime_ms: "Since the loop was made, as of its last turn.",
        |lp| lp.told;
}

impl Loop {
    /// A number by its name; `None` for a name there is not. All are in `stat_names`.
    pub fn stat(&self, name: &str) -> Option<u64> {
        STATS.iter().find(|stat| stat.name == name).map(|stat| (stat.read)(self))
    }

    /// Every name `stat` takes.
    pub fn stat_names() -> &'static [&'static str] {
        NAMES
    }

    /// Every name with its meaning, one line each.
    pub fn stats() -> impl Iterator<Item = (&'static str, &'static str)> {
        STATS.iter().map(|stat| (stat.name, stat.doc))
    }
}
