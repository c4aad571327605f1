//! What every part needs for an event: the time, the settings, timers, counters, and the lists that are emptied when the
//! event is over. Decides nothing.

use crate::base::bytes::Spares;
use crate::base::clock::Millis;
use crate::base::limits;
use crate::config::Settings;
use crate::config::Upstream;
use crate::core::action::Action;
use crate::core::counters::Counters;
use crate::core::keys::ChildKey;
use crate::core::notice::Notice;
use crate::core::timers::Timers;
use crate::resp::Scanner;
use std::collections::VecDeque;

/// What every part needs: the time, the settings, timers, counters, and the lists the driver takes.
#[derive(Debug)]
pub(in crate::core) struct Env {
    pub(in crate::core) settings: Settings,
    pub(in crate::core) upstream: Upstream,
    pub(in crate::core) now: Millis,
    pub(in crate::core) rng: fastrand::Rng,
    pub(in crate::core) timers: Timers,
    pub(in crate::core) counters: Counters,
    pub(in crate::core) spares: Spares,
    pub(in crate::core) actions: Vec<Action>,
    notices: VecDeque<Notice>,
    pub(in crate::core) runnable: VecDeque<ChildKey>,
    pub(in crate::core) dirty_children: Vec<ChildKey>,
    pub(in crate::core) resumed: Vec<ChildKey>,
    /// Heap bytes held by all children and lanes.
    pub(in crate::core) memory: usize,
    pub(in crate::core) draining: bool,
}

impl Env {
    /// The delay before the next attempt, doubling from `BACKOFF_FIRST`, jittered so that many brokers do
    /// not knock at once.
    pub(in crate::core) fn backoff(&mut self, failures: u32) -> Millis {
        let max = self.settings.reconnect_backoff_max.max(1);
        let base = (limits::BACKOFF_FIRST << failures.min(16)).min(max);
        base - self.rng.u64(0..=base / 2)
    }
}

impl Env {
    pub(in crate::core) fn new(
        settings: Settings,
        upstream: Upstream,
        rng: fastrand::Rng,
        now: Millis,
    ) -> Self {
        Env {
            settings,
            upstream,
            now,
            rng,
            timers: Timers::default(),
            counters: Counters::default(),
            spares: Spares::default(),
            actions: Vec::new(),
            notices: VecDeque::new(),
            runnable: VecDeque::new(),
            dirty_children: Vec::new(),
            resumed: Vec::new(),
            memory: 0,
            draining: false,
        }
    }

    /// Has other children told, once the event at hand is done with its own.
    pub(in crate::core) fn notify(&mut self, notice: Notice) {
        self.notices.push_back(notice);
    }

    pub(in crate::core) fn next_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Takes back the first such notice that is not delivered yet.
    pub(in crate::core) fn take_back(&mut self, is_meant: impl Fn(&Notice) -> bool) -> Option<Notice> {
        let at = self.notices.iter().position(is_meant)?;
        self.notices.remove(at)
    }
}

/// What one turn of the driver may still run, and of the child whose turn it is.
#[derive(Debug)]
pub(in crate::core) struct Turn {
    /// Bytes of requests, or what counts for as many, that may still be run in this turn of the driver.
    pub(in crate::core) budget: i64,
    /// Children that still have their turn in this one, however much has been run.
    pub(in crate::core) least: usize,
    /// What the child at hand had to spend when its turn began.
    pub(in crate::core) credit: i64,
    /// Finds the requests of all children, except where a child's last request is incomplete.
    pub(in crate::core) scanner: Scanner,
}

impl Turn {
    pub(in crate::core) fn new() -> Self {
        Turn { budget: limits::RUN_TURN, least: limits::RUN_LEAST, credit: 0, scanner: Scanner::default() }
    }

    pub(in crate::core) fn begin(&mut self) {
        (self.budget, self.least) = (limits::RUN_TURN, limits::RUN_LEAST);
    }

    pub(in crate::core) fn has_room(&self) -> bool {
        self.budget > 0 || self.least > 0
    }

    pub(in crate::core) fn take_one(&mut self) {
        self.least = self.least.saturating_sub(1);
    }
}
