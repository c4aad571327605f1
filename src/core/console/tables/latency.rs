//! `BROKER SHOW LATENCY` and `SLOWLOG`: where the time goes.

use super::{ShowTable, TableRows, columns};
use crate::core::broker::Broker;
use crate::core::console::cell::Cell;
use crate::core::console::showing::RowKey;
use crate::core::latency::Timed;
use crate::core::latency::windows::Span;

pub(super) const LATENCY: ShowTable = ShowTable {
    name: "LATENCY",
    doc: "How long requests took of late, by family of command, and in which part of the way. Without what waits for an element.",
    columns: columns! {
        family: 14, "read, write, script, transaction, pubsub, other: from a request's arrival to its reply. part:input: in its child's input; part:queue: until it was written; part:upstream: until the reply came; part:output: until a child that was slow had taken it.";
        window: 6, "The last 10 seconds, minute, 15 minutes.";
        count: 10, "How many.";
        p50: 9, "Half of them took as long at most, microseconds of the loop's clock, which is read once a turn; within 6 %, as are the others.";
        p99: 9, "99 of 100.";
        p999: 9, "999 of 1000.";
        max: 9, "The longest.";
    },
    rows: TableRows::Each {
        keys: |broker| {
            let known = |timed: &Timed| broker.shared.latency.windows(*timed).is_some();
            let timed = Timed::ALL.into_iter().filter(known);
            let spans = Span::ALL.len() as u64;
            timed
                .flat_map(|timed| (0..spans).map(move |span| RowKey::Number(timed as u64 * spans + span)))
                .collect()
        },
        row: latency_row,
    },
};

fn latency_row(broker: &Broker, key: RowKey) -> Option<Vec<Cell>> {
    let RowKey::Number(number) = key else { return None };
    let spans = Span::ALL.len() as u64;
    let timed = *Timed::ALL.get((number / spans) as usize)?;
    let span = Span::ALL[(number % spans) as usize];
    let figures = broker.shared.latency.windows(timed)?.figures(span, broker.shared.env.micros);
    Some(vec![
        timed.name().into(),
        span.name().into(),
        figures.count.into(),
        figures.p50.into(),
        figures.p99.into(),
        figures.p999.into(),
        figures.max.into(),
    ])
}

pub(super) const SLOWLOG: ShowTable = ShowTable {
    name: "SLOWLOG",
    doc: "The last requests that took longer than slowlog_threshold, the youngest first, and where the time went.",
    columns: columns! {
        number: 6, "In the order in which they were answered.";
        ago_ms: 9, "Since the reply came.";
        child: 8, "CLIENT ID.";
        pid: 7, "Its process.";
        process: 16, "Its program.";
        name: 12, "CLIENT SETNAME.";
        command: 16, "The command.";
        input_us: 9, "Microseconds in the child's input.";
        queue_us: 9, "Until it was written.";
        upstream_us: 11, "Until its reply came.";
        output_us: 9, "Until the child had taken it; 0 if it took it at once.";
        args: 30, "What of it slowlog_args shows; nothing if very many requests were under way.";
    },
    rows: TableRows::Each {
        keys: |broker| broker.shared.latency.slow().numbers().into_iter().map(RowKey::Number).collect(),
        row: slow_row,
    },
};

fn slow_row(broker: &Broker, key: RowKey) -> Option<Vec<Cell>> {
    let RowKey::Number(number) = key else { return None };
    let slow = broker.shared.latency.slow().numbered(number)?;
    Some(vec![
        slow.number.into(),
        (broker.shared.env.now - slow.at).into(),
        slow.id.into(),
        slow.pid.map(|pid| pid as u64).into(),
        slow.process.as_str().into(),
        Cell::of_bytes(&slow.name),
        slow.command.as_str().into(),
        slow.input_us.into(),
        slow.queue_us.into(),
        slow.upstream_us.into(),
        slow.output_us.into(),
        Cell::of_bytes(&slow.args),
    ])
}
