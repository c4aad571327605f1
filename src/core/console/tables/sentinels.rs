//! `BROKER SHOW SENTINELS`, `REPLICAS`: who names the master, what each of them says, and which replicas are read from.

use super::{ShowTable, TableRows, columns};
use crate::config::Address;
use crate::core::broker::Broker;
use crate::core::console::cell::Cell;
use crate::core::nodes::sentinel::Sentinel;

pub(super) const SENTINELS: ShowTable = ShowTable {
    name: "SENTINELS",
    doc: "One row for each sentinel that is asked for the master, where the upstream is named by sentinels.",
    columns: columns! {
        sentinel: 24, "Its address.";
        state: 10, "up; connecting; down: it is connected to again after a while.";
        seed: 4, "yes: it stands in the URL; no: another one has named it.";
        master: 24, "Where the master is, by what it said last.";
        epoch: 6, "The configuration epoch of that: the highest one is believed.";
        heard_ms: 8, "Since it said so.";
        trouble: 40, "Why it is down, or what it has refused.";
    },
    rows: TableRows::Whole(sentinels),
};

fn sentinels(broker: &mut Broker) -> Vec<Vec<Cell>> {
    let now = broker.shared.env.now;
    let row = |sentinel: &Sentinel| {
        let claim = sentinel.claim();
        vec![
            sentinel.address().to_string().into(),
            sentinel.state().into(),
            if sentinel.is_seed() { "yes" } else { "no" }.into(),
            claim.map(|(address, _)| address.to_string()).into(),
            claim.map(|(_, epoch)| epoch).into(),
            sentinel.heard_at().map(|at| now.saturating_sub(at)).into(),
            Cell::words(sentinel.trouble()),
        ]
    };
    broker.shared.sentinels.list().map(|(_, sentinel)| row(sentinel)).collect()
}

pub(super) const REPLICAS: ShowTable = ShowTable {
    name: "REPLICAS",
    doc: "One row for each replica that sentinels name as sound, where a listener has ?read=replica.",
    columns: columns! {
        replica: 7, "Its number.";
        address: 24, "Where it is.";
        state: 6, "used; resting: it has failed just now, and another one or the master answers for it.";
        ready: 5, "Connections to it.";
        in_flight: 9, "Requests on them without a reply.";
    },
    rows: TableRows::Whole(replicas),
};

fn replicas(broker: &mut Broker) -> Vec<Vec<Cell>> {
    let shared = &broker.shared;
    let row = |(number, address, is_used): (u8, &Address, bool)| {
        let lanes = || {
            shared.connections.lanes().filter(move |(_, lane)| lane.leads_to() == number && lane.is_ready())
        };
        vec![
            u64::from(number).into(),
            address.to_string().into(),
            if is_used { "used" } else { "resting" }.into(),
            lanes().count().into(),
            lanes().map(|(_, lane)| lane.owed()).sum::<usize>().into(),
        ]
    };
    shared.sentinels.replicas().list(shared.env.now).map(row).collect()
}
