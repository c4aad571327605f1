//! What every part needs for an event: the time, the settings, timers, counters, and the lists that are emptied when the
//! event is over. Decides nothing.

use crate::base::bytes::Spares;
use crate::base::clock::Millis;
use crate::base::limits;
use crate::base::outgoing::{Fragment, Ledger};
use crate::config::sources::SettingSource;
use crate::config::value::SlowlogArgs;
use crate::config::{Settings, Upstream};
use crate::core::action::Action;
use crate::core::counters::Counters;
use crate::core::keys::ChildKey;
use crate::core::notice::Notice;
use crate::core::steering::standstill::Standstill;
use crate::core::sweeps::Sweeps;
use crate::core::timers::Timers;
use crate::resp::{Scanner, SharedScanner};
use std::collections::VecDeque;

#[derive(Debug)]
pub(crate) struct Env {
    pub(crate) settings: Settings,
    /// Where each of them is from, in the order of the table; the driver says so.
    pub(crate) sources: Vec<SettingSource>,
    pub(crate) upstream: Upstream,
    /// Tells the present upstream from earlier ones, to which connections may still lead.
    pub(crate) upstream_number: u32,
    upstreams: u32,
    pub(crate) now: Millis,
    /// The same time, microseconds.
    pub(crate) micros: u64,
    /// For how long the request at hand has stood in its child's input.
    pub(crate) input_us: u64,
    pub(crate) rng: fastrand::Rng,
    pub(crate) timers: Timers,
    pub(crate) counters: Counters,
    pub(crate) spares: Spares,
    pub(crate) actions: Vec<Action>,
    notices: VecDeque<Notice>,
    pub(crate) sweeps: Sweeps,
    pub(crate) standstill: Standstill,
    pub(crate) runnable: VecDeque<ChildKey>,
    /// Children that go on in the next turn of the driver: others are heard in between.
    later: Vec<ChildKey>,
    pub(crate) dirty_children: Vec<ChildKey>,
    pub(crate) resumed: Vec<ChildKey>,
    /// Heap bytes held by all children and lanes, but for what stands in fragments.
    pub(crate) memory: usize,
    pub(crate) fragments: Ledger,
    /// The request at hand, or the block of a transaction, if it is long: whatever takes a long part of it shares it.
    pub(crate) request: Option<Fragment>,
    /// The same of the reply at hand.
    pub(crate) reply: Option<Fragment>,
    /// As which user of this host the broker runs, where the driver has said so.
    pub(crate) own_uid: Option<u32>,
    pub(crate) draining: bool,
    /// What children had sent when the drain began has been read: each ends once that is run.
    pub(crate) dismissing: bool,
}

impl Env {
    pub(crate) fn new(settings: Settings, upstream: Upstream, rng: fastrand::Rng, now: Millis) -> Self {
        Env {
            settings,
            sources: Vec::new(),
            upstream,
            upstream_number: 0,
            upstreams: 0,
            now,
            micros: now * 1000,
            input_us: 0,
            rng,
            timers: Timers::default(),
            counters: Counters::default(),
            spares: Spares::default(),
            actions: Vec::new(),
            notices: VecDeque::new(),
            sweeps: Sweeps::default(),
            standstill: Standstill::default(),
            runnable: VecDeque::new(),
            later: Vec::new(),
            dirty_children: Vec::new(),
            resumed: Vec::new(),
            memory: 0,
            fragments: Ledger::default(),
            request: None,
            reply: None,
            own_uid: None,
            draining: false,
            dismissing: false,
        }
    }

    /// The number of an upstream to come: larger than those of all that there were.
    pub(crate) fn next_upstream_number(&mut self) -> u32 {
        self.upstreams += 1;
        self.upstreams
    }

    /// For how long somebody has waited since then, as far as it counts.
    #[inline]
    pub(crate) fn waited(&self, since: Millis) -> Millis {
        self.now.saturating_sub(since).saturating_sub(self.standstill.within(since, self.now))
    }

    /// When somebody who waits since then will have waited for so long; later than now during a pause.
    pub(crate) fn wait_ends(&self, since: Millis, limit: Millis) -> Millis {
        let ends = since.saturating_add(limit).saturating_add(self.standstill.within(since, self.now));
        if self.standstill.is_on() { ends.max(self.now + limits::PAUSED_TIMER) } else { ends }
    }

    /// The delay before the next attempt, doubling from `BACKOFF_FIRST`, jittered so that many brokers do
    /// not knock at once.
    pub(crate) fn backoff(&mut self, failures: u32) -> Millis {
        self.pause(failures, self.settings.reconnect_backoff_max.max(1))
    }

    /// The same up to `max`.
    pub(crate) fn pause(&mut self, failures: u32, max: Millis) -> Millis {
        let base = (limits::BACKOFF_FIRST << failures.min(16)).min(max);
        base - self.rng.u64(0..=base / 2)
    }

    /// The part of the request at hand that these bytes are, if they are long enough not to be copied.
    #[inline]
    pub(crate) fn long_part(&self, bytes: &[u8]) -> Option<Fragment> {
        let request = self.request.as_ref().filter(|_| bytes.len() >= limits::FRAGMENT_MIN)?;
        request.part_at(bytes)
    }

    /// The moment at which a request is put on a lane.
    #[inline]
    pub(crate) fn moment(&self) -> Moment {
        let keeps_prefix =
            self.settings.slowlog_threshold > 0 && self.settings.slowlog_args != SlowlogArgs::None;
        Moment { now: self.now, input_us: self.input_us, keeps_prefix }
    }

    /// From how many microseconds on a request is slow.
    #[inline]
    pub(crate) fn slow_us(&self) -> u64 {
        match self.settings.slowlog_threshold {
            0 => u64::MAX,
            threshold => threshold * 1000,
        }
    }

    /// Heap bytes of all queues.
    pub(crate) fn held(&self) -> usize {
        self.memory + self.fragments.held()
    }

    /// Has other children told, once the event at hand is done with its own.
    pub(crate) fn notify(&mut self, notice: Notice) {
        self.notices.push_back(notice);
    }

    pub(crate) fn next_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// It is not delivered in full: the next to go on with.
    pub(crate) fn put_back(&mut self, notice: Notice) {
        self.notices.push_front(notice);
    }

    pub(crate) fn has_notices(&self) -> bool {
        !self.notices.is_empty()
    }

    /// Has a child go on in the next turn of the driver.
    pub(crate) fn go_on_later(&mut self, child: ChildKey) {
        self.later.push(child);
    }

    /// Those that were to go on in this turn stand in line from now on.
    pub(crate) fn begin_turn(&mut self) {
        self.runnable.extend(self.later.drain(..));
    }

    /// Whether there is work that no event announces.
    pub(crate) fn has_deferred(&self) -> bool {
        !(self.runnable.is_empty()
            && self.later.is_empty()
            && self.sweeps.is_empty()
            && self.notices.is_empty())
    }

    /// Takes back the first such notice that is not delivered yet.
    pub(crate) fn take_back(&mut self, is_meant: impl Fn(&Notice) -> bool) -> Option<Notice> {
        let at = self.notices.iter().position(is_meant)?;
        self.notices.remove(at)
    }
}

/// When a request is put on a lane, and what is to be known of it later.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moment {
    pub(crate) now: Millis,
    /// For how long it has stood in its child's input, microseconds.
    pub(crate) input_us: u64,
    /// Its first bytes are kept, should it turn out to be slow.
    pub(crate) keeps_prefix: bool,
}

/// What one turn of the driver may still run, and of the child whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Bytes of requests, or what counts for as many, that may still be run in this turn of the driver.
    pub(crate) budget: i64,
    /// Children that still have their turn in this one, however much has been run.
    pub(crate) least: usize,
    /// The last to have its turn was a sweep, so it is a child's.
    pub(crate) swept: bool,
    /// Bytes of pushes, or what counts for as many, that may still be given to children in this turn.
    pub(crate) pushes: i64,
    /// What the child at hand had to spend when its turn began.
    pub(crate) credit: i64,
    /// Finds the requests of all children, except where a child's last request is incomplete.
    pub(crate) scanner: SharedScanner<Scanner>,
}

impl Turn {
    pub(crate) fn begin(&mut self) {
        (self.budget, self.least) = (limits::RUN_TURN, limits::RUN_LEAST);
        self.pushes = limits::PUSH_TURN;
    }

    /// What may be spent on the rows of one table beyond its child's turn: more in a turn in which much has been run.
    pub(crate) fn credit_for_rows(&self) -> i64 {
        (limits::RUN_TURN - self.budget).max(0) / limits::ROWS_SHARE
    }

    pub(crate) fn has_room(&self) -> bool {
        self.budget > 0 || self.least > 0
    }
}
