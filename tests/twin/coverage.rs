//! Which commands were said. Owns the lists of those that cannot be compared; everything else in the server's table
//! is expected.

use std::collections::BTreeMap;

use super::grammar::Grammar;
use super::play::Rig;

/// Refused by the broker, as documented. That they are is asked in every run.
const REFUSED: &[&str] = &[
    "acl|deluser",
    "acl|getuser",
    "acl|list",
    "acl|load",
    "acl|log",
    "acl|save",
    "acl|setuser",
    "acl|users",
    "bgrewriteaof",
    "bgsave",
    "client|pause",
    "client|unpause",
    "cluster|addslots",
    "cluster|addslotsrange",
    "cluster|bumpepoch",
    "cluster|cancelslotmigrations",
    "cluster|count-failure-reports",
    "cluster|delslots",
    "cluster|delslotsrange",
    "cluster|failover",
    "cluster|flushslot",
    "cluster|flushslots",
    "cluster|forget",
    "cluster|getslotmigrations",
    "cluster|meet",
    "cluster|migrateslots",
    "cluster|replicas",
    "cluster|replicate",
    "cluster|reset",
    "cluster|saveconfig",
    "cluster|set-config-epoch",
    "cluster|setslot",
    "cluster|slaves",
    "cluster|syncslots",
    "config|resetstat",
    "config|rewrite",
    "config|set",
    "debug",
    "failover",
    "module|load",
    "module|loadex",
    "module|unload",
    "monitor",
    "pfdebug",
    "pfselftest",
    "psync",
    "replconf",
    "replicaof",
    "restore-asking",
    "save",
    "script|debug",
    "shutdown",
    "slaveof",
    "swapdb",
    "sync",
];
/// What Redis 6 lists though it closes whoever says it.
const ENDS: &[&str] = &["host:", "post"];
const TABLE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/twin-coverage.txt");

#[derive(Default)]
pub(crate) struct Coverage {
    used: BTreeMap<String, u64>,
    expected: Vec<String>,
}

impl Coverage {
    /// Learns from the server's table what has to be said.
    pub(crate) fn expect(&mut self, rig: &mut Rig, grammar: &Grammar) {
        if !self.expected.is_empty() {
            return;
        }
        for entry in &grammar.table {
            let name = entry.name.as_str();
            let is_container = grammar.table.iter().any(|other| other.name.starts_with(&format!("{name}|")));
            if REFUSED.contains(&name) {
                let mut argv: Vec<Vec<u8>> = name.split('|').map(|part| part.as_bytes().to_vec()).collect();
                argv.resize(entry.arity.unsigned_abs() as usize, b"x".to_vec());
                let reply = rig.ask_broker(&argv);
                assert!(
                    reply.starts_with(b"-NOPERM"),
                    "{name} is listed as refused: {}",
                    reply.escape_ascii()
                );
            } else if !is_container && !ENDS.contains(&name) {
                self.expected.push(entry.name.clone());
            }
        }
    }

    pub(crate) fn add(&mut self, used: &BTreeMap<String, u64>) {
        for (name, times) in used {
            *self.used.entry(name.clone()).or_default() += times;
        }
    }

    pub(crate) fn expected(&self) -> usize {
        self.expected.len()
    }

    pub(crate) fn used(&self) -> usize {
        self.expected.iter().filter(|name| self.used.contains_key(*name)).count()
    }

    /// Writes the table beside the other build products; returns what was never said.
    pub(crate) fn write(&self) -> Vec<String> {
        let mut text = String::new();
        for name in &self.expected {
            text.push_str(&format!("{name}\t{}\n", self.used.get(name).copied().unwrap_or(0)));
        }
        std::fs::write(TABLE, text).expect("write the coverage table");
        eprintln!("coverage table: {TABLE}");
        self.missing()
    }

    /// What has to be said and was not.
    pub(crate) fn missing(&self) -> Vec<String> {
        self.expected.iter().filter(|name| !self.used.contains_key(*name)).cloned().collect()
    }
}
