//! The tables of the console: which rows there are, what each column is. Reads the figures of their owners, and computes
//! nothing that an owner could tell. Names of tables and columns stay.

mod children;
mod connections;
mod hosts;
mod latency;
mod settings;

use crate::core::broker::Broker;
use crate::core::console::cell::{Cell, Column};
use crate::core::console::showing::RowKey;
pub(crate) use connections::{LEASES, UPSTREAM};
pub(crate) use hosts::{LEAKS, PROCESSES};
pub(crate) use settings::COMMANDS;

/// A table.
#[derive(Debug)]
pub(crate) struct ShowTable {
    pub(crate) name: &'static str,
    /// What it shows, one line.
    pub(crate) doc: &'static str,
    pub(crate) columns: &'static [Column],
    /// Its rows now, in their order.
    pub(crate) keys: fn(&Broker) -> Vec<RowKey>,
    /// The cells of a row, one for each column; none if what it is about has gone.
    pub(crate) row: fn(&Broker, RowKey) -> Option<Vec<Cell>>,
}

pub(crate) static TABLES: &[ShowTable] = &[
    children::CHILDREN,
    connections::LANES,
    connections::LEASES,
    connections::POOLS,
    hosts::PROCESSES,
    connections::TOPICS,
    connections::UPSTREAM,
    settings::STATS_TABLE,
    settings::COMMANDS,
    latency::LATENCY,
    latency::SLOWLOG,
    hosts::LEAKS,
    settings::MEMORY,
    settings::CONFIG,
    settings::VERSION,
];

pub(crate) fn find(name: &str) -> Option<&'static ShowTable> {
    TABLES.iter().find(|table| table.name == name)
}

/// A table's columns: name, width, meaning.
macro_rules! columns {
    ($( $name:ident: $width:literal, $doc:literal; )+) => {
        &[$($crate::core::console::cell::Column { name: stringify!($name), width: $width, doc: $doc }),+]
    };
}
use columns;

fn numbers(count: usize) -> Vec<RowKey> {
    (0..count as u64).map(RowKey::Number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_every_row_has_all_columns() {
        let broker = crate::core::tests::broker_for_tables();
        for table in TABLES {
            let names: HashSet<_> = table.columns.iter().map(|column| column.name).collect();
            assert_eq!(names.len(), table.columns.len(), "{}", table.name);
            assert!(table.columns.iter().all(|column| !column.doc.is_empty()), "{}", table.name);
            for key in (table.keys)(&broker) {
                let row = (table.row)(&broker, key).unwrap_or_else(|| panic!("{} {key:?}", table.name));
                assert_eq!(row.len(), table.columns.len(), "{} {key:?}", table.name);
                if !matches!(
                    table.name,
                    "CONFIG" | "STATS" | "MEMORY" | "VERSION" | "COMMANDS" | "UPSTREAM" | "LATENCY"
                ) {
                    assert_eq!(row[0], key.name(), "{} {key:?}", table.name);
                }
            }
        }
    }
}
