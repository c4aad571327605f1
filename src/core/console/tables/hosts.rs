//! `BROKER SHOW PROCESSES` and `LEAKS`: who the children are, and who does not give back what it has.

use super::{ShowTable, TableRows, columns};
use crate::core::broker::Broker;
use crate::core::console::cell::Cell;
use crate::core::console::showing::RowKey;
use crate::core::host::leaks::{LeakKind, LeakSubject};

pub(crate) const PROCESSES: ShowTable = ShowTable {
    name: "PROCESSES",
    doc: "One row for each process of this host that has children, or had some in the last minute.",
    columns: columns! {
        pid: 7, "In the broker's pid namespace.";
        uid: 6, "Effective user.";
        gid: 6, "Effective group.";
        process: 16, "Its program's file name, or the name it gives itself.";
        unit: 24, "Its systemd unit, container or control group.";
        identity: 8, "exact, inexact, claimed, unknown: as for children.";
        state: 7, "alive, or ended: then others hold its connections.";
        children: 8, "Children now.";
        leases: 6, "Leases for transactions and sessions that it has.";
        requests: 12, "Requests of its children so far, at most a second old, as are the next two.";
        bytes_in: 14, "Bytes they have sent.";
        bytes_out: 14, "Bytes they have taken.";
        known_ms: 10, "Since it was first seen.";
        leak: 16, "What it is suspected of.";
        exe: 40, "Path of its program; none where the broker may not look.";
        cgroup: 40, "Its control group.";
        idle_ms: 9, "Since one of its children was last seen to have done something.";
    },
    rows: TableRows::Each {
        keys: |broker| {
            let mut keys: Vec<_> = broker
                .shared
                .processes
                .iter()
                .map(|(key, process)| RowKey::Process(key, process.who().pid))
                .collect();
            keys.sort_unstable_by_key(|key| if let RowKey::Process(_, pid) = key { *pid } else { 0 });
            keys
        },
        row: process_row,
    },
};

fn process_row(broker: &Broker, key: RowKey) -> Option<Vec<Cell>> {
    let RowKey::Process(key, _) = key else { return None };
    let shared = &broker.shared;
    let process = shared.processes.get(key)?;
    let (who, facts, done) = (process.who(), process.facts(), process.done());
    let identity = match facts {
        None => "unknown",
        Some(_) if process.is_claimed() => "claimed",
        Some(facts) if facts.is_exact => "exact",
        Some(_) => "inexact",
    };
    Some(vec![
        (who.pid as u64).into(),
        who.uid.into(),
        who.gid.into(),
        Some(process.name()).filter(|name| *name != "?").into(),
        process.unit().into(),
        identity.into(),
        if process.ended_at().is_some() { "ended" } else { "alive" }.into(),
        process.children().into(),
        shared.leases_held(key).into(),
        done.requests.into(),
        done.bytes_in.into(),
        done.bytes_out.into(),
        (shared.env.now - process.first_seen()).into(),
        shared.leaks.kind_of(LeakSubject::Process(key)).map(LeakKind::name).into(),
        facts.and_then(|facts| facts.exe.as_deref()).into(),
        facts.and_then(|facts| facts.cgroup.as_deref()).into(),
        shared.env.now.saturating_sub(process.busy_at()).into(),
    ])
}

pub(crate) const LEAKS: ShowTable = ShowTable {
    name: "LEAKS",
    doc: "What is suspected of being a leak, and below it what was lately.",
    columns: columns! {
        number: 6, "In the order in which they were found.";
        kind: 19, "What it looks like.";
        state: 6, "now; over (used or given back), gone (its child has), closed (by leak_action).";
        since_ms: 9, "For how long it has been so, or had been when it ended.";
        child: 8, "CLIENT ID; none where it is about a process or a user.";
        pid: 7, "Its process.";
        uid: 6, "Its user.";
        process: 16, "Its program.";
        unit: 24, "Its systemd unit, container or control group.";
        called: 24, "Its address over TCP, its listener's label, its CLIENT SETNAME.";
        what: 60, "The facts.";
    },
    rows: TableRows::Each {
        keys: |broker| broker.shared.leaks.numbers().into_iter().map(RowKey::Number).collect(),
        row: leak_row,
    },
};

fn leak_row(broker: &Broker, key: RowKey) -> Option<Vec<Cell>> {
    let RowKey::Number(number) = key else { return None };
    let leak = broker.shared.leaks.numbered(number)?;
    let until = leak.ended.map_or(broker.shared.env.now, |(at, _)| at);
    let who = &leak.who;
    Some(vec![
        leak.number.into(),
        leak.kind.name().into(),
        leak.ended.map_or("now", |(_, end)| end.name()).into(),
        until.saturating_sub(leak.since).into(),
        who.child.into(),
        who.pid.map(|pid| pid as u64).into(),
        who.uid.into(),
        who.process.as_str().into(),
        who.unit.as_str().into(),
        who.called.as_str().into(),
        Cell::words(&leak.what),
    ])
}
