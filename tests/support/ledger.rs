//! What children wrote, what they were told of it, and whether Redis agrees: each write that was answered well
//! is there exactly once, one whose fate was left open at most once, one refused not at all.

use std::collections::{HashMap, HashSet};

use super::{Redis, show};

/// What a child was told of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It happened, once.
    Done,
    /// It happened once or not at all.
    Maybe,
    /// It did not happen.
    Never,
}

/// One write: nonces pushed to a list of their own worker, all of them together or none.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) db: usize,
    pub(crate) list: String,
    pub(crate) nonces: Vec<String>,
    pub(crate) fate: Fate,
}

/// Everything written, everything popped.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) entries: Vec<Entry>,
    pub(crate) popped: HashSet<String>,
}

/// What a reply says of the write it answers; none when it is not an error that may come at any time.
pub(crate) fn fate_of(reply: &str) -> Option<Fate> {
    let maybe = ["-BROKERLOST ", "-BROKERTIMEOUT "];
    let never = ["-BROKERDOWN ", "-BROKERLIMIT ", "-LOADING ", "-EXECABORT "];
    if maybe.iter().any(|word| reply.starts_with(word)) {
        return Some(Fate::Maybe);
    }
    never.iter().any(|word| reply.starts_with(word)).then_some(Fate::Never)
}

/// Compares what children were told with what Redis holds.
pub(crate) fn check_ledger(redis: &Redis, ledger: &Ledger, dbs: &[usize]) {
    let mut raw = redis.connect();
    let mut held: HashMap<(usize, String), Vec<String>> = HashMap::new();
    for &db in dbs {
        raw.ask(&format!("SELECT {db}"));
        for list in elements(&raw.ask("KEYS l:*")) {
            let values = elements(&raw.ask(&format!("LRANGE {list} 0 -1")));
            held.insert((db, list), values);
        }
    }
    let mut places: HashMap<&str, (usize, &str, usize)> = HashMap::new();
    for ((db, list), values) in &held {
        for (index, value) in values.iter().enumerate() {
            let twice = places.insert(value, (*db, list, index));
            assert!(twice.is_none(), "{} was written twice: {twice:?}, {db} {list}", show(value.as_bytes()));
        }
    }
    let (mut done, mut maybe) = (0, 0);
    for entry in &ledger.entries {
        let found: Vec<_> = entry.nonces.iter().map(|nonce| places.remove(nonce.as_str())).collect();
        let there = found.iter().filter(|place| place.is_some()).count();
        let fits = match entry.fate {
            Fate::Done => there == entry.nonces.len(),
            Fate::Maybe => there == 0 || there == entry.nonces.len(),
            Fate::Never => there == 0,
        };
        let label = show(entry.nonces[0].as_bytes());
        assert!(fits, "{label} in {}: {:?}, but found {found:?}", entry.list, entry.fate);
        let name = entry.list.split('@').next().unwrap_or_default();
        for (db, list, _) in found.iter().flatten() {
            assert!(*db == entry.db && *list == name, "{label} belongs to {} {name}: {found:?}", entry.db);
        }
        if let [Some(first), Some(second)] = found[..] {
            assert_eq!(first.2 + 1, second.2, "{label}: a transaction was taken apart");
        }
        done += usize::from(entry.fate == Fate::Done);
        maybe += usize::from(entry.fate == Fate::Maybe);
    }
    assert!(places.is_empty(), "nobody wrote {places:?}");
    eprintln!("{done} writes done, {maybe} perhaps, {} popped", ledger.popped.len());
    assert!(done > 0 && !ledger.popped.is_empty(), "there was something to check");
}

/// The bulk strings of an array.
fn elements(reply: &str) -> Vec<String> {
    reply.split("\r\n").skip(2).step_by(2).map(str::to_owned).filter(|text| !text.is_empty()).collect()
}
