//! A SHOW in the making: which rows it has, in what order, and how far its reply is. Owns that state; `console::run` makes it
//! go on.

use crate::core::console::cell::Cell;
use crate::core::keys::{ChildKey, LaneKey, PoolId, ProcessKey, TopicKey};
use std::collections::BTreeMap;

/// What a row is about. Fixed when a SHOW begins; it may have gone when its line is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowKey {
    /// With its CLIENT ID.
    Child(ChildKey, u64),
    Lane(LaneKey),
    Pool(PoolId),
    /// With its pid.
    Process(ProcessKey, i32),
    Topic(TopicKey),
    /// A place in a list, or a number of its own.
    Number(u64),
}

impl RowKey {
    /// The value of its first column, where it is about something that may go.
    pub(crate) fn name(self) -> Cell {
        match self {
            RowKey::Child(_, id) => id.into(),
            RowKey::Lane(lane) => lane.index().into(),
            RowKey::Pool(pool) => pool.0.into(),
            RowKey::Process(_, pid) => (pid as u64).into(),
            RowKey::Topic(topic) => topic.index().into(),
            RowKey::Number(number) => number.into(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Showing {
    /// Those not looked at yet, from `at` on.
    keys: Vec<RowKey>,
    at: usize,
    /// The rows themselves, where they were made in one step.
    made: Vec<Vec<Cell>>,
    /// Rows by the value of a column, and as they were. Built one by one, so that a sort takes no step of its own.
    sorted: BTreeMap<(Cell, usize), RowKey>,
    /// How many lines there are, and the reply without its head.
    pub(crate) rows: usize,
    pub(crate) body: Vec<u8>,
}

impl Showing {
    pub(crate) fn new(keys: Vec<RowKey>) -> Showing {
        Showing { keys, at: 0, made: Vec::new(), sorted: BTreeMap::new(), rows: 0, body: Vec::new() }
    }

    /// Of rows that are made.
    pub(crate) fn of_rows(made: Vec<Vec<Cell>>) -> Showing {
        let keys = (0..made.len() as u64).map(RowKey::Number).collect();
        Showing { made, ..Showing::new(keys) }
    }

    /// How many rows are listed.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The cells of a row that was made in the first step.
    pub(crate) fn made_row(&self, key: RowKey) -> Option<&Vec<Cell>> {
        let RowKey::Number(at) = key else { return None };
        self.made.get(usize::try_from(at).ok()?)
    }

    /// The next row that has not been looked at.
    pub(crate) fn next(&mut self) -> Option<RowKey> {
        let key = self.keys.get(self.at).copied()?;
        self.at += 1;
        Some(key)
    }

    /// Puts a row into its place among those looked at so far: numbers from the largest on, then words from the first.
    pub(crate) fn sort_in(&mut self, value: Cell, key: RowKey) {
        let value = if let Cell::Int(number) = value { Cell::Int(u64::MAX - number) } else { value };
        self.sorted.insert((value, self.at), key);
    }

    /// Takes the next of them, once all are in their places; the other way round where that is `turned`.
    pub(crate) fn next_sorted(&mut self, turned: bool) -> Option<RowKey> {
        let next = if turned { self.sorted.pop_last() } else { self.sorted.pop_first() };
        next.map(|(_, key)| key)
    }

    /// Rows that were made in one step are few.
    pub(crate) fn footprint(&self) -> usize {
        (self.keys.capacity() + self.sorted.len() * 4) * size_of::<RowKey>() + self.body.capacity()
    }
}
