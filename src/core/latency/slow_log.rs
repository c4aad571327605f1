//! Requests that took longer than `slowlog_threshold`: the youngest of them, with where the time went. Owns the entries and
//! their bound.

use crate::base::clock::Millis;
use crate::core::keys::ChildKey;
use std::collections::VecDeque;

/// One slow request. Times are microseconds.
#[derive(Debug, Clone)]
pub(crate) struct SlowRequest {
    pub(crate) number: u64,
    /// When its reply came.
    pub(crate) at: Millis,
    pub(crate) child: ChildKey,
    /// CLIENT ID; none if its child had gone.
    pub(crate) id: Option<u64>,
    pub(crate) pid: Option<i32>,
    pub(crate) process: String,
    pub(crate) name: Vec<u8>,
    pub(crate) command: String,
    /// As much of it as `slowlog_args` says.
    pub(crate) args: Vec<u8>,
    pub(crate) input_us: u64,
    pub(crate) queue_us: u64,
    pub(crate) upstream_us: u64,
    pub(crate) output_us: u64,
}

#[derive(Debug, Default)]
pub(crate) struct SlowLog {
    entries: VecDeque<SlowRequest>,
    count: u64,
}

impl SlowLog {
    pub(crate) fn add(&mut self, mut entry: SlowRequest, max: usize) {
        self.count += 1;
        entry.number = self.count;
        self.entries.push_back(entry);
        while self.entries.len() > max {
            self.entries.pop_front();
        }
    }

    /// The child of its last entry has taken so long to take its reply. False if it has none.
    pub(crate) fn add_output(&mut self, child: ChildKey, output_us: u64) -> bool {
        let last = self.entries.iter_mut().rev().find(|entry| entry.child == child);
        let unsaid = last.filter(|entry| entry.output_us == 0);
        if let Some(entry) = unsaid {
            entry.output_us = output_us;
            return true;
        }
        false
    }

    /// How many there were so far.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The numbers of those that are kept, the youngest first.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.entries.iter().rev().map(|entry| entry.number).collect()
    }

    pub(crate) fn numbered(&self, number: u64) -> Option<&SlowRequest> {
        self.entries.iter().find(|entry| entry.number == number)
    }
}
