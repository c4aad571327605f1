//! `BROKER SHOW STATS`, `COMMANDS`, `MEMORY`, `CONFIG`, `VERSION`: what is run, what it holds, how it is set up.

use super::{ShowTable, TableRows, columns, numbers};
use crate::base::log_limit::{log_lines_dropped, log_lines_left_out};
use crate::config::rows;
use crate::core::broker::Broker;
use crate::core::console::cell::Cell;
use crate::core::console::showing::RowKey;
use crate::core::keys::LeaseKind;

pub(crate) const COMMANDS: ShowTable = ShowTable {
    name: "COMMANDS",
    doc: "One row for each command of the server that was called: how often, and which way it goes.",
    columns: columns! {
        command: 20, "Its name.";
        calls: 12, "Requests of children so far.";
        way: 12, "shared, local, transaction, lease, replicas, subscribe, control, refused.";
    },
    rows: TableRows::Each {
        keys: |broker| broker.shared.commands.called().map(|id| RowKey::Number(id.into())).collect(),
        row: |broker, key| {
            let RowKey::Number(number) = key else { return None };
            let (id, commands) = (u16::try_from(number).ok()?, &broker.shared.commands);
            let way = commands.table()?.way_name(id)?;
            Some(vec![commands.name(id).into(), commands.calls(id).into(), way.into()])
        },
    },
};

/// A total or a number of now.
type ShownStat = (&'static str, &'static str, fn(&Broker) -> u64);

static STATS: &[ShownStat] = &[
    ("children", "Children now.", |broker| broker.children.len() as u64),
    ("processes", "Processes that have children.", |broker| broker.shared.processes.active() as u64),
    ("children_opened", "Children so far.", |broker| broker.counters().children_opened),
    ("children_refused", "Children refused so far.", |broker| broker.counters().children_refused),
    ("requests", "Requests run so far.", |broker| broker.counters().requests),
    ("requests_in_flight", "Requests that wait for a reply.", |broker| broker.requests_in_flight() as u64),
    ("requests_lost", "Answered with BROKERLOST so far.", |broker| broker.counters().requests_lost),
    ("requests_down", "Answered with BROKERDOWN so far.", |broker| broker.counters().requests_down),
    ("requests_limited", "Answered with BROKERLIMIT so far.", |broker| broker.counters().requests_limited),
    ("requests_timed_out", "Answered with BROKERTIMEOUT so far.", |broker| {
        broker.counters().requests_timed_out
    }),
    ("slow_requests", "Longer than slowlog_threshold so far.", Broker::slow_requests),
    ("leases_waiting", "Children that wait for a lease.", |broker| {
        LeaseKind::ALL.into_iter().map(|kind| broker.leases_waiting_for(kind) as u64).sum()
    }),
    ("leaks", "Suspected leaks now.", |broker| broker.leaks_in_all().0),
    ("leaks_found", "Suspected leaks so far.", |broker| broker.leaks_in_all().1),
    ("upstream_connects", "Attempts to connect to Redis so far.", |broker| {
        broker.counters().upstream_connects
    }),
    ("upstream_losses", "Connections to Redis lost so far.", |broker| broker.counters().upstream_losses),
    ("desyncs", "Connections closed for replies out of step.", |broker| broker.counters().desyncs),
    ("log_lines_dropped", "Lines of the log that its reader did not take.", |_| log_lines_dropped()),
    ("log_lines_left_out", "Lines of the log that were summed up.", |_| log_lines_left_out()),
];

pub(super) const STATS_TABLE: ShowTable = ShowTable {
    name: "STATS",
    doc: "Totals since the start, and numbers of now.",
    columns: columns! {
        name: 18, "What is counted.";
        value: 14, "How many.";
        meaning: 60, "In words.";
    },
    rows: TableRows::Each {
        keys: |_| numbers(STATS.len()),
        row: |broker, key| {
            let RowKey::Number(at) = key else { return None };
            let (name, meaning, read) = STATS.get(at as usize)?;
            Some(vec![(*name).into(), read(broker).into(), Cell::words(meaning)])
        },
    },
};

/// What holds memory, and how much.
type MemoryHolder = (&'static str, &'static str, fn(&Broker) -> usize);

static HOLDERS: &[MemoryHolder] = &[
    ("queues", "All queues of children and lanes: what memory_max bounds.", |broker| {
        broker.shared.env.held()
    }),
    ("copied", "Of these, what stands in queues of their own.", |broker| broker.shared.env.memory),
    ("shared", "Of these, long values that several queues may share.", |broker| {
        broker.shared.env.fragments.held()
    }),
    ("children", "The children themselves, without what they hold.", |broker| broker.children.own_bytes()),
    ("lanes_output", "Requests that Redis has not taken.", Broker::lanes_output),
    ("groups", "Blocking commands that groups wait with.", |broker| broker.shared.groups.footprint()),
    ("memory_max", "The setting.", |broker| broker.shared.env.settings.memory_max),
];

pub(super) const MEMORY: ShowTable = ShowTable {
    name: "MEMORY",
    doc: "Bytes of memory, by what holds them.",
    columns: columns! {
        what: 14, "What holds them.";
        bytes: 14, "How many.";
        meaning: 60, "In words.";
    },
    rows: TableRows::Each {
        keys: |_| numbers(HOLDERS.len()),
        row: |broker, key| {
            let RowKey::Number(at) = key else { return None };
            let (name, meaning, read) = HOLDERS.get(at as usize)?;
            Some(vec![(*name).into(), read(broker).into(), Cell::words(meaning)])
        },
    },
};

pub(super) const CONFIG: ShowTable = ShowTable {
    name: "CONFIG",
    doc: "Every setting in force. Passwords are not shown.",
    columns: columns! {
        key: 28, "Its name.";
        value: 24, "In force now.";
        default: 16, "What it is if it is not set.";
        reloadable: 10, "Whether it may change while the broker runs.";
        source: 11, "default, file, flag, environment, console (BROKER SET), program (that embeds the broker).";
    },
    rows: TableRows::Each {
        keys: |_| numbers(rows().len()),
        row: |broker, key| {
            let RowKey::Number(at) = key else { return None };
            let row = rows().get(at as usize)?;
            let value = broker.shared.env.settings.get_text(row.key);
            let source = broker.shared.env.sources.get(at as usize).copied().unwrap_or_default().name();
            Some(vec![row.key.into(), value.into(), row.default.into(), row.reloadable.into(), source.into()])
        },
    },
};

pub(super) const VERSION: ShowTable = ShowTable {
    name: "VERSION",
    doc: "The broker itself.",
    columns: columns! {
        name: 8, "broker.";
        version: 8, "Its version.";
        uptime_ms: 12, "Since the loop was created.";
    },
    rows: TableRows::Each {
        keys: |_| numbers(1),
        row: |broker, _| {
            Some(vec!["broker".into(), env!("CARGO_PKG_VERSION").into(), Cell::from(broker.shared.env.now)])
        },
    },
};
