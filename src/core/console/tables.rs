//! The tables of the console: which rows there are, what each column is. Reads the figures of their owners, and computes
//! nothing that an owner could tell. Names of tables and columns stay.

mod children;
mod connections;
mod hosts;
mod latency;
mod sentinels;
mod settings;
mod troubles;

use crate::core::broker::Broker;
use crate::core::console::cell::{Cell, Column};
use crate::core::console::showing::{RowKey, Showing};
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
    pub(crate) rows: TableRows,
}

/// How the rows of a table come about.
#[derive(Debug)]
pub(crate) enum TableRows {
    /// One by one, since there may be very many.
    Each {
        /// Those of now, in their order.
        keys: fn(&Broker) -> Vec<RowKey>,
        /// The cells of one, one for each column; none if what it is about has gone.
        row: fn(&Broker, RowKey) -> Option<Vec<Cell>>,
    },
    /// All in one step: they are few, and belong together.
    Whole(fn(&mut Broker) -> Vec<Vec<Cell>>),
}

impl ShowTable {
    /// The rows of now, to be made one by one, or as they are.
    pub(crate) fn begin(&self, broker: &mut Broker) -> Showing {
        match self.rows {
            TableRows::Each { keys, .. } => Showing::new(keys(broker)),
            TableRows::Whole(rows) => Showing::of_rows(rows(broker)),
        }
    }

    /// One that is made by itself.
    pub(crate) fn row(&self, broker: &Broker, key: RowKey) -> Option<Vec<Cell>> {
        match self.rows {
            TableRows::Each { row, .. } => row(broker, key),
            TableRows::Whole(_) => None,
        }
    }
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
    troubles::TROUBLES,
    sentinels::SENTINELS,
    sentinels::REPLICAS,
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
        let mut broker = crate::core::tests::broker_for_tables();
        // A broker with which nothing is wrong has no rows of one table.
        broker.shared.env.counters.requests_limited += 1;
        for table in TABLES {
            let names: HashSet<_> = table.columns.iter().map(|column| column.name).collect();
            assert_eq!(names.len(), table.columns.len(), "{}", table.name);
            assert!(table.columns.iter().all(|column| !column.doc.is_empty()), "{}", table.name);
            let mut showing = table.begin(&mut broker);
            while let Some(key) = showing.next() {
                let row = showing.made_row(key).cloned().or_else(|| table.row(&broker, key));
                let row = row.unwrap_or_else(|| panic!("{} {key:?}", table.name));
                assert_eq!(row.len(), table.columns.len(), "{} {key:?}", table.name);
                if !matches!(
                    table.name,
                    "TROUBLES"
                        | "CONFIG"
                        | "STATS"
                        | "MEMORY"
                        | "VERSION"
                        | "COMMANDS"
                        | "UPSTREAM"
                        | "LATENCY"
                ) {
                    assert_eq!(row[0], key.name(), "{} {key:?}", table.name);
                }
            }
        }
    }
}
