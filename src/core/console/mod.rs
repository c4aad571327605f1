//! The console: `BROKER SHOW ...` for whoever operates the broker, from any client. Owns the words, the tables and their
//! columns; every figure is somebody else's. Never looks at a key or a value of Redis.

/// Every table for the documentation: its name, what it shows, its columns and what they mean.
pub fn console_tables()
-> impl Iterator<Item = (&'static str, &'static str, Vec<(&'static str, &'static str)>)> {
    tables::TABLES.iter().map(|table| {
        let columns = table.columns.iter().map(|column| (column.name, column.doc)).collect();
        (table.name, table.doc, columns)
    })
}

pub(crate) mod cell;
mod killing;
pub(crate) mod orders;
pub(crate) mod parse;
pub(crate) mod run;
pub(crate) mod showing;
pub(crate) mod tables;
