//! `BROKER SHOW TROUBLES`: what is wrong now, as the status page, `broker top` and `broker status` tell it.

use super::{ShowTable, TableRows, columns};
use crate::core::broker::Broker;
use crate::core::console::cell::Cell;
use crate::core::status::survey::Survey;
use crate::core::status::wrong::StatusTrouble;

pub(super) const TROUBLES: ShowTable = ShowTable {
    name: "TROUBLES",
    doc: "What is wrong now, the worst first; up to three rows for each trouble. None: all is well.",
    columns: columns! {
        trouble: 7, "Its number: rows of one trouble have the same.";
        severity: 8, "critical: requests fail, or all of a kind wait; warning; notice: nobody suffers from it yet.";
        kind: 18, "What kind of trouble it is (docs/status.md).";
        since_ms: 8, "For how long it is so.";
        part: 4, "what is wrong, who it is about or who causes it, hint: what can be done.";
        text: 60, "In words.";
    },
    rows: TableRows::Whole(troubles),
};

fn troubles(broker: &mut Broker) -> Vec<Vec<Cell>> {
    let found = Survey::of_troubles(broker).troubles(broker);
    found.iter().zip(1..).flat_map(|(trouble, number)| rows_of(trouble, number)).collect()
}

fn rows_of(trouble: &StatusTrouble, number: u64) -> Vec<Vec<Cell>> {
    let parts = [("what", &trouble.what), ("who", &trouble.who), ("hint", &trouble.hint)];
    let told = parts.into_iter().filter(|(_, text)| !text.is_empty());
    let row = |(part, text): (&str, &String)| {
        vec![
            number.into(),
            trouble.severity.as_str().into(),
            trouble.kind.into(),
            trouble.since_ms.into(),
            part.into(),
            Cell::words(text),
        ]
    };
    told.map(row).collect()
}
