//! `BROKER SHOW SENTINELS`: who names the master, and what each of them says.

use super::{ShowTable, TableRows, columns};
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
