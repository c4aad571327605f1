//! What all children share: connections, leases, users, subscriptions, and what is known of the upstream. A function
//! that serves one child has that child and this, so it can touch no other child: what others are to hear is a notice
//! (`core::notice`), which the broker delivers once the child at hand is done.

use super::broker::{Action, Counters};
use super::busy::Work;
use super::child::Child;
use super::control::Control;
use super::holders::LeaseHolders;
use super::lane::Lane;
use super::lease::Leases;
use super::notice::Notice;
use super::pool::{Places, Pool, PoolId, PoolKey};
use super::probe::Probe;
use super::pubsub::Hubs;
use super::timers::Timers;
use super::users::Users;
use crate::base::bytes::Spares;
use crate::base::clock::Millis;
use crate::base::key::{Arena, Key};
use crate::base::limits;
use crate::config::{Settings, Upstream};
use crate::resp::Scanner;
use std::collections::{HashMap, VecDeque};

/// What every part needs: the time, the settings, timers, counters, and the lists the driver takes.
#[derive(Debug)]
pub(super) struct Env {
    pub(super) settings: Settings,
    pub(super) upstream: Upstream,
    pub(super) now: Millis,
    pub(super) rng: fastrand::Rng,
    pub(super) timers: Timers,
    pub(super) counters: Counters,
    pub(super) spares: Spares,
    pub(super) actions: Vec<Action>,
    pub(super) notices: VecDeque<Notice>,
    pub(super) runnable: VecDeque<Key<Child>>,
    pub(super) dirty_children: Vec<Key<Child>>,
    pub(super) resumed: Vec<Key<Child>>,
    /// Heap bytes held by all children and lanes.
    pub(super) memory: usize,
    pub(super) draining: bool,
}

/// Every lane and pool.
#[derive(Debug, Default)]
pub(super) struct Connections {
    pub(super) lanes: Arena<Lane>,
    pub(super) pools: Vec<Pool>,
    pub(super) pool_ids: HashMap<PoolKey, PoolId>,
    pub(super) places: Places,
    /// Set when a connection was given up; waiters are served at the end of the event, not in its middle.
    pub(super) places_changed: bool,
    pub(super) dirty_lanes: Vec<Key<Lane>>,
    /// Children with `Hold::WaitLane`.
    pub(super) lane_waiters: Vec<Key<Child>>,
}

/// What one turn of the driver may still run, and of the child whose turn it is.
#[derive(Debug)]
pub(super) struct Turn {
    /// Bytes of requests, or what counts for as many, that may still be run in this turn of the driver.
    pub(super) budget: i64,
    /// Children that still have their turn in this one, however much has been run.
    least: usize,
    /// What the child at hand had to spend when its turn began.
    pub(super) credit: i64,
    /// Finds the requests of all children, but for those of whom half a request has come.
    pub(super) scanner: Scanner,
}

impl Turn {
    fn new() -> Self {
        Turn { budget: limits::RUN_TURN, least: limits::RUN_LEAST, credit: 0, scanner: Scanner::default() }
    }

    pub(super) fn begin(&mut self) {
        (self.budget, self.least) = (limits::RUN_TURN, limits::RUN_LEAST);
    }

    pub(super) fn has_room(&self) -> bool {
        self.budget > 0 || self.least > 0
    }

    pub(super) fn take_one(&mut self) {
        self.least = self.least.saturating_sub(1);
    }
}

/// What all children share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) turn: Turn,
    pub(super) env: Env,
    pub(super) connections: Connections,
    pub(super) control: Control,
    pub(super) probe: Probe,
    pub(super) users: Users,
    pub(super) leases: Leases,
    pub(super) hubs: Hubs,
    pub(super) work: Work,
    pub(super) lease_holders: LeaseHolders,
}

impl Shared {
    pub(super) fn new(settings: Settings, upstream: Upstream, rng: fastrand::Rng, now: Millis) -> Self {
        Shared {
            users: Users::new(settings.auth),
            env: Env {
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
            },
            turn: Turn::new(),
            connections: Connections::default(),
            control: Control::default(),
            probe: Probe::default(),
            leases: Leases::default(),
            hubs: Hubs::default(),
            work: Work::default(),
            lease_holders: LeaseHolders::default(),
        }
    }
}
