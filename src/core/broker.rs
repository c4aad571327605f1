//! The broker without its sockets: events in, dirty lists and rare actions out. The driver (the reactor, a
//! simulation) tells it what arrived and what time it is, then flushes what is dirty and carries out the
//! actions. Owns every child and lane; does no I/O and reads no clock.

use super::ahead::ReadAhead;
use super::busy::Work;
use super::child::{Child, ChildKind, ChildState, Hold};
use super::children::Children;
use super::control::Control;
use super::dispatch::Flow;
use super::holders::Holders;
use super::lane::{Lane, LaneState};
use super::lease::{LeaseKind, Leases};
use super::memory::Relief;
use super::pool::{Places, Pool, PoolId, PoolKey};
use super::probe::Probe;
use super::pubsub::Hubs;
use super::session::Session;
use super::timers::{Timer, Timers};
use super::users::Users;
use crate::base::bytes::{ByteQueue, Spares};
use crate::base::clock::Millis;
use crate::base::key::{Arena, Key};
use crate::base::limits;
use crate::config::{Settings, Upstream};
use crate::resp::{Request, Scan, Scanner, encode};
use std::collections::{HashMap, VecDeque};

/// What only the driver can do. Rare: never one per request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Dial the upstream for this lane; answer with `lane_connected` or `lane_failed`.
    Connect(Key<Lane>),
    /// Close the lane's connection; `link` is `usize::MAX` while it is still being dialled.
    CloseLane {
        /// The lane, for an attempt that has no link yet.
        lane: Key<Lane>,
        /// The driver's handle.
        link: usize,
    },
    /// Close a child's connection; nothing is left to write.
    CloseChild {
        /// The driver's handle.
        link: usize,
    },
}

/// Running totals, for the log and for embedders.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Children accepted.
    pub children_opened: u64,
    /// Children refused for `children_max`.
    pub children_refused: u64,
    /// Requests run.
    pub requests: u64,
    /// Requests answered with BROKERLOST.
    pub requests_lost: u64,
    /// Requests answered with BROKERDOWN.
    pub requests_down: u64,
    /// Requests answered with BROKERLIMIT.
    pub requests_limited: u64,
    /// Requests answered with BROKERTIMEOUT.
    pub requests_timed_out: u64,
    /// Connections dialled to the upstream.
    pub upstream_connects: u64,
    /// Of these, those that came to nothing.
    pub upstream_connect_failures: u64,
    /// Established connections that broke or had to be closed.
    pub upstream_losses: u64,
    /// Lanes closed because their replies made no sense.
    pub desyncs: u64,
    /// Canaries sent, for `integrity`.
    pub canaries: u64,
    /// Of these, those that did not come home: a lane was closed each time.
    pub integrity_failures: u64,
    /// Replies whose child had gone.
    pub orphaned_replies: u64,
    /// Times that shared subscriptions were made again after a loss, unnoticed by their children.
    pub subscriber_gaps: u64,
}

/// The broker's state. See ARCHITECTURE.md for the line of one request through it.
#[derive(Debug)]
pub struct Broker {
    pub(super) settings: Settings,
    pub(super) upstream: Upstream,
    pub(super) now: Millis,
    pub(super) rng: fastrand::Rng,
    pub(super) children: Children,
    pub(super) lanes: Arena<Lane>,
    pub(super) pools: Vec<Pool>,
    pub(super) pool_ids: HashMap<PoolKey, PoolId>,
    pub(super) users: Users,
    pub(super) leases: Leases,
    pub(super) hubs: Hubs,
    pub(super) places: Places,
    /// Set when a connection was given up; waiters are served at the end of the event, not in its middle.
    pub(super) places_changed: bool,
    pub(super) control: Control,
    pub(super) probe: Probe,
    pub(super) work: Work,
    pub(super) holders: Holders,
    pub(super) timers: Timers,
    runnable: VecDeque<Key<Child>>,
    /// Bytes of requests, or what counts for as many, that `run` may still have run in this turn of the driver.
    budget: i64,
    /// Children that still have their turn in this one, however much has been run.
    least: usize,
    /// Children with `Hold::WaitLane`.
    pub(super) lane_waiters: Vec<Key<Child>>,
    dirty_children: Vec<Key<Child>>,
    dirty_lanes: Vec<Key<Lane>>,
    resumed: Vec<Key<Child>>,
    pub(super) actions: Vec<Action>,
    /// Heap bytes held by all children and lanes.
    pub(super) memory: usize,
    pub(super) relief: Relief,
    pub(super) spares: Spares,
    /// Finds the requests of all children, but for those of whom half a request has come.
    scanner: Scanner,
    next_id: u64,
    pub(super) draining: bool,
    /// Running totals.
    pub counters: Counters,
    /// Break the order of replies on purpose, to see the checks notice.
    #[cfg(feature = "sabotage")]
    pub sabotaged: bool,
}

impl Broker {
    /// A broker for one upstream. `seed` drives jitter and the base of CLIENT ID; a simulation repeats it.
    pub fn new(settings: Settings, upstream: Upstream, seed: u64, now: Millis) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        // Ids of two incarnations must differ: each counts from a random base of its own.
        let next_id = rng.u64(limits::CHILD_ID_BASE);
        let mut broker = Broker {
            users: Users::new(settings.auth),
            settings,
            upstream,
            now,
            rng,
            children: Children::default(),
            lanes: Arena::default(),
            pools: Vec::new(),
            pool_ids: HashMap::new(),
            leases: Leases::default(),
            hubs: Hubs::default(),
            places: Places::default(),
            places_changed: false,
            control: Control::default(),
            probe: Probe::default(),
            work: Work::default(),
            holders: Holders::default(),
            timers: Timers::default(),
            runnable: VecDeque::new(),
            budget: limits::RUN_TURN,
            least: limits::RUN_LEAST,
            lane_waiters: Vec::new(),
            dirty_children: Vec::new(),
            dirty_lanes: Vec::new(),
            resumed: Vec::new(),
            actions: Vec::new(),
            memory: 0,
            relief: Relief::default(),
            spares: Spares::default(),
            scanner: Scanner::default(),
            next_id,
            draining: false,
            counters: Counters::default(),
            #[cfg(feature = "sabotage")]
            sabotaged: false,
        };
        broker.timers.arm(now, Timer::Janitor);
        broker.open_control();
        broker
    }

    // ---- time -----------------------------------------------------------------------------------------

    /// Tells the broker what time it is, and lets what is due happen.
    pub fn advance(&mut self, now: Millis) {
        self.now = self.now.max(now);
        while let Some(timer) = self.timers.pop_due(self.now) {
            match timer {
                Timer::Lane(key, number) => self.lane_timer(key, number),
                Timer::Child(key) => self.child_timer(key),
                Timer::Leases => self.pump_leases(),
                Timer::Places => self.serve_places(),
                Timer::Janitor => self.janitor(),
                Timer::Drain => self.end_drain(),
            }
        }
    }

    /// Milliseconds until something is due; `None` when nothing is. Zero while work is deferred.
    pub fn timeout(&self) -> Option<Millis> {
        if !self.runnable.is_empty() || self.places_changed {
            return Some(0);
        }
        self.timers.next_at().map(|at| at.saturating_sub(self.now))
    }

    /// Whether anything was left that `run` or the driver has to do.
    pub fn has_work(&self) -> bool {
        !self.runnable.is_empty() || self.places_changed || !self.actions.is_empty()
    }

    /// The driver begins a turn: as much is run in it as in every other. What is left over waits for the next, so that
    /// whoever has sent something in between is heard.
    pub fn begin_turn(&mut self) {
        self.budget = limits::RUN_TURN;
        self.least = limits::RUN_LEAST;
    }

    /// Runs what was deferred: children whose hold has been lifted, lanes that wait for a place. Call once
    /// per turn, after the events and before flushing; again while it returns true.
    pub fn run(&mut self) -> bool {
        let mut worked = false;
        while (self.budget > 0 || self.least > 0)
            && let Some(key) = self.runnable.pop_front()
        {
            worked = true;
            self.least = self.least.saturating_sub(1);
            self.run_buffered(key);
        }
        if std::mem::take(&mut self.places_changed) {
            worked = true;
            self.serve_places();
            self.pump_leases();
        }
        worked | self.enforce_memory()
    }

    // ---- children -------------------------------------------------------------------------------------

    /// A child has connected. `None`: there are `children_max` already; tell it so and close.
    pub fn child_open(&mut self, kind: ChildKind, peer: &str, link: usize) -> Option<Key<Child>> {
        if self.children.len() >= self.settings.children_max {
            self.child_refused();
            return None;
        }
        self.counters.children_opened += 1;
        self.next_id += 1;
        let session = Session::new(self.next_id, self.upstream.db);
        Some(self.seat(Child::new(session, kind, peer.into(), link, self.now)))
    }

    /// Bytes have arrived from a child.
    pub fn child_input(&mut self, key: Key<Child>, bytes: &[u8]) {
        let Some(child) = self.children.get_mut(key) else { return };
        if child.state == ChildState::Finishing {
            return;
        }
        child.last_request = self.now;
        if !child.input.is_empty() || child.hold != Hold::None {
            // One that stands in line has its turn when that comes.
            let runs = !child.runnable;
            if self.keep_waiting(key, bytes) && runs {
                self.run_buffered(key);
            }
            return;
        }
        let (used, at_least) = self.run_turn(key, bytes);
        let Some(child) = self.children.get_mut(key) else { return };
        let rest = &bytes[used..];
        if !rest.is_empty() && child.state != ChildState::Finishing {
            child.input.adopt(&mut self.spares);
            child.input.reserve(at_least.clamp(rest.len(), rest.len() + limits::READ_TURN));
            child.input.append(rest);
        }
        self.after_run(key);
    }

    /// The child will send nothing more; everything it sent has been handed over.
    pub fn child_eof(&mut self, key: Key<Child>) {
        let Some(child) = self.children.get_mut(key) else { return };
        child.eof = true;
        if child.state == ChildState::Open {
            child.set_state(ChildState::Ending);
        }
        self.let_go_if_blocked(key);
        self.run_buffered(key);
    }

    /// The child has hung up, perhaps with bytes still unread. Only a child that is not being read needs
    /// this: one blocked on a key is let go at once, as Redis does, so that no element is popped for it.
    /// One that is held for another reason is let go should it come to block later.
    pub fn child_hangup(&mut self, key: Key<Child>) {
        if let Some(child) = self.children.get_mut(key) {
            child.hung = true;
        }
        self.let_go_if_blocked(key);
    }

    /// Closes a child that waits for what nobody would take, once it has its earlier replies. A
    /// request that has only just come may be answered at once, as Redis would answer it before it looks
    /// at the end of file: it has a moment.
    pub(super) fn let_go_if_blocked(&mut self, key: Key<Child>) {
        let Some(child) = self.children.get(key) else { return };
        if !(child.eof || child.hung) || !child.output.is_empty() || !self.waits_in_vain(key) {
            return;
        }
        let due = child.wait.map_or(0, |wait| wait.arrived + limits::BLOCKED_END_GRACE);
        if due <= self.now {
            self.close_child(key);
        } else {
            self.timers.arm(due, Timer::Child(key));
        }
    }

    fn waits_in_vain(&self, key: Key<Child>) -> bool {
        let Some(child) = self.children.get(key) else { return false };
        match child.hold {
            Hold::Lease => child.wait.is_some_and(|wait| wait.kind == LeaseKind::Blocking),
            // Else those who hang up to try another password at once would fill the broker.
            Hold::Element | Hold::Guess => true,
            _ => false,
        }
    }

    /// The child's connection is gone in both directions.
    pub fn child_gone(&mut self, key: Key<Child>) {
        self.close_child(key);
    }

    /// The driver's handle and the bytes on their way to a child.
    pub fn child_output(&mut self, key: Key<Child>) -> Option<(usize, &mut ByteQueue)> {
        self.children.get_mut(key).map(|child| (child.link, &mut child.output))
    }

    /// The driver has written what it could.
    pub fn child_flushed(&mut self, key: Key<Child>) {
        let Some(child) = self.children.get_mut(key) else { return };
        let left = child.output.len();
        child.output.retire(&mut self.spares);
        if left < self.settings.subscriber_output_soft {
            child.over_soft_since = None;
        }
        if child.hold == Hold::Output && child.unread() < limits::CHILD_OUTPUT_PAUSE / 2 {
            self.lift(key);
        }
        self.watch_read_ahead(key);
        self.account_child(key);
        self.close_if_finished(key);
        self.let_go_if_blocked(key);
    }

    // ---- running requests -----------------------------------------------------------------------------

    /// The hold is over: the child's next request is looked at afresh.
    pub(super) fn lift(&mut self, key: Key<Child>) {
        let Some(child) = self.children.get_mut(key) else { return };
        child.hold = Hold::None;
        self.nudge(key);
    }

    /// Has the child looked at again at the end of the event, held or not.
    pub(super) fn nudge(&mut self, key: Key<Child>) {
        let Some(child) = self.children.get_mut(key) else { return };
        if !child.runnable {
            child.runnable = true;
            self.runnable.push_back(key);
        }
    }

    pub(super) fn run_buffered(&mut self, key: Key<Child>) {
        let Some(child) = self.children.get_mut(key) else { return };
        child.runnable = false;
        let mut input = std::mem::take(&mut child.input);
        let (used, _) = self.run_turn(key, input.as_slice());
        let Some(child) = self.children.get_mut(key) else { return };
        input.consume(used);
        input.retire(&mut self.spares);
        if child.state != ChildState::Finishing {
            child.input = input;
        }
        self.after_run(key);
        if self.wants_read(key) {
            self.resumed.push(key);
        }
    }

    /// One turn of a child, by deficit round robin: it runs requests while it has credit. With more to run
    /// it stands in line again, behind all who have something to run. Returns as `run_requests`.
    fn run_turn(&mut self, key: Key<Child>, bytes: &[u8]) -> (usize, usize) {
        let Some(child) = self.children.get_mut(key) else { return (0, 0) };
        child.credit = (child.credit + limits::CHILD_TURN).min(limits::CHILD_TURN);
        let credit = child.credit;
        let ran = self.run_requests(key, bytes);
        let left = self.children.get(key).map_or(0, |child| child.credit);
        self.budget -= (credit - left).max(limits::REQUEST_COST_MIN);
        let Some(child) = self.children.get_mut(key) else { return ran };
        if child.hold == Hold::None && child.credit <= 0 && ran.0 < bytes.len() {
            self.nudge(key);
        } else {
            child.credit = 0;
        }
        ran
    }

    /// Runs complete requests until one has to wait, the child's credit is used up or none is left. Returns
    /// how many bytes are done with, and how many the unfinished request at their end will need at least.
    fn run_requests(&mut self, key: Key<Child>, bytes: &[u8]) -> (usize, usize) {
        let Some(child) = self.children.get_mut(key) else { return (0, 0) };
        let mut scanner = match child.scanner.take() {
            Some(scanner) => *scanner,
            None => std::mem::take(&mut self.scanner),
        };
        let (mut used, mut at_least) = (0, 0);
        while used < bytes.len() && self.may_run(key) {
            match scanner.scan(&bytes[used..], &self.frame_limits(key)) {
                Scan::NeedMore { at_least: needed } => {
                    at_least = needed;
                    break;
                }
                Scan::Empty { len } => {
                    used += self.pay(key, len);
                    scanner.reset();
                    if let Some(child) = self.children.get_mut(key) {
                        child.session.request_done();
                    }
                }
                Scan::Frame { len } => {
                    let request = scanner.request(&bytes[used..used + len]);
                    match self.run_one(key, &request, &bytes[used + len..]) {
                        Flow::Done => used += self.pay(key, len),
                        Flow::DoneThrough(more) => used += self.pay(key, len + more),
                        Flow::Hold(hold) => {
                            self.hold(key, hold);
                            break;
                        }
                        Flow::More => break,
                        Flow::Gone => return (used, 0),
                    }
                    scanner.reset();
                }
                Scan::Error { error, .. } => {
                    let reply = error.reply();
                    let text = String::from_utf8_lossy(&reply[1..]);
                    let label = self.children.get(key).map(Child::label).unwrap_or_default();
                    log::warn!("closing child {label}: {}", text.trim_end());
                    self.answer(key, &reply);
                    self.finish_at_request(key);
                    break;
                }
            }
        }
        if scanner.is_idle() {
            self.scanner = scanner;
        } else if let Some(child) = self.children.get_mut(key) {
            child.scanner = Some(Box::new(scanner));
        }
        (used, at_least)
    }

    /// A request of so many bytes has been run, or a frame without one.
    fn pay(&mut self, key: Key<Child>, len: usize) -> usize {
        self.charge(key, len.max(limits::REQUEST_COST_MIN as usize));
        len
    }

    /// The request at hand costs its child's turn so much, in bytes of requests that take as long.
    pub(super) fn charge(&mut self, key: Key<Child>, cost: usize) {
        if let Some(child) = self.children.get_mut(key) {
            child.credit -= cost as i64;
        }
    }

    /// One complete request: skipped if it was answered while it waited, else dispatched.
    fn run_one(&mut self, key: Key<Child>, request: &Request<'_>, rest: &[u8]) -> Flow {
        let Some(child) = self.children.get(key) else { return Flow::Gone };
        if child.front_done {
            self.front_is_done(key);
            return Flow::Done;
        }
        let flow = self.dispatch(key, request, rest);
        if matches!(flow, Flow::Done | Flow::DoneThrough(_)) {
            self.counters.requests += 1;
            self.front_is_done(key);
        }
        flow
    }

    /// Whether the child's next request may be looked at; puts it on hold when a bound is reached.
    fn may_run(&mut self, key: Key<Child>) -> bool {
        let in_flight_max = self.settings.child_in_flight_max as u32;
        let Some(child) = self.children.get_mut(key) else { return false };
        if child.state == ChildState::Finishing || child.hold != Hold::None || child.credit <= 0 {
            return false;
        }
        if child.in_flight >= in_flight_max {
            child.hold = Hold::InFlight;
        } else if child.unread() >= limits::CHILD_OUTPUT_PAUSE {
            child.hold = Hold::Output;
            child.ahead = ReadAhead::default();
        }
        child.hold == Hold::None
    }

    fn hold(&mut self, key: Key<Child>, hold: Hold) {
        let Some(child) = self.children.get_mut(key) else { return };
        child.hold = hold;
        if hold == Hold::Drained && child.late > 0 {
            // What it waits for has been waited for long enough.
            let patience = self.settings.request_timeout.max(self.settings.queue_timeout);
            let until = *child.upstream_until.get_or_insert(self.now + patience);
            self.timers.arm(until, Timer::Child(key));
        }
    }

    /// What follows every run: a child that will send no more ends, bounds are checked.
    fn after_run(&mut self, key: Key<Child>) {
        if self.draining && !self.watches_keys(key) {
            let Some(child) = self.children.get_mut(key) else { return };
            if child.state == ChildState::Open && child.hold == Hold::None {
                child.set_state(ChildState::Ending);
            }
        }
        let Some(child) = self.children.get_mut(key) else { return };
        // One that stands in line has more to run, or is looked at again in any case.
        if child.state == ChildState::Ending && child.hold == Hold::None && !child.runnable {
            self.finish(key);
        }
        self.watch_read_ahead(key);
        self.account_child(key);
        self.close_if_finished(key);
        self.let_go_if_blocked(key);
    }

    /// Runs no further request of this child; it is closed when its replies have left.
    pub(super) fn finish(&mut self, key: Key<Child>) {
        self.leave_line(key);
        let Some(child) = self.children.get_mut(key) else { return };
        child.set_state(ChildState::Finishing);
        child.hold = Hold::None;
        child.input = ByteQueue::default();
        self.drop_topics(key);
        self.mark_child(key);
        if self.wants_read(key) {
            self.resume(key);
        }
    }

    /// The same at the child's own request (QUIT, or one that is none). Redis closes when the last reply has
    /// been written; where there is none to write, it never does.
    pub(super) fn finish_at_request(&mut self, key: Key<Child>) {
        if let Some(child) = self.children.get_mut(key) {
            child.deaf = child.session.is_muted() && child.replies.is_silent() && child.output.is_empty();
        }
        self.finish(key);
    }

    fn close_if_finished(&mut self, key: Key<Child>) {
        let Some(child) = self.children.get(key) else { return };
        if child.deaf && !child.eof && !self.draining {
            return;
        }
        if child.state == ChildState::Finishing && child.replies.is_empty() && child.output.is_empty() {
            self.close_child(key);
        }
    }

    /// Ends a child at once. Its slots stay in their lanes as tombstones: their replies find nobody.
    pub(super) fn close_child(&mut self, key: Key<Child>) {
        self.leave_line(key);
        self.drop_topics(key);
        let Some(child) = self.children.remove(key) else { return };
        self.memory -= child.footprint;
        self.users.leave(child.user, self.now);
        self.actions.push(Action::CloseChild { link: child.link });
        if let Some(lease) = child.lease {
            self.abandon_lease(lease.lane);
        }
    }

    // ---- answers --------------------------------------------------------------------------------------

    /// Answers the request at hand, behind everything before it; unless its child wants no reply.
    pub(super) fn answer(&mut self, key: Key<Child>, bytes: &[u8]) {
        if self.children.get(key).is_some_and(|child| !child.session.is_muted()) {
            self.confirm(key, bytes);
        }
    }

    /// The same for what is no reply but a push, and reaches a child under CLIENT REPLY OFF too.
    pub(super) fn confirm(&mut self, key: Key<Child>, bytes: &[u8]) {
        if let Some(child) = self.children.get_mut(key) {
            child.say(bytes, &mut self.spares);
            self.mark_child(key);
        }
    }

    /// The same with a reply so long that it had better not be copied.
    pub(super) fn answer_whole(&mut self, key: Key<Child>, reply: Vec<u8>) {
        match self.children.get_mut(key) {
            Some(child)
                if child.output.is_empty() && child.replies.is_empty() && !child.session.is_muted() =>
            {
                child.output.fill(reply);
                self.mark_child(key);
            }
            _ => self.answer(key, &reply),
        }
    }

    /// Answers the request at hand with an error.
    pub(super) fn answer_error(&mut self, key: Key<Child>, text: impl AsRef<[u8]>) {
        self.counters.failed(text.as_ref(), 1);
        let mut reply = Vec::with_capacity(128);
        encode::error(&mut reply, text);
        self.answer(key, &reply);
    }

    // ---- for the driver -------------------------------------------------------------------------------

    pub(super) fn mark_child(&mut self, key: Key<Child>) {
        if let Some(child) = self.children.get_mut(key)
            && !child.dirty
        {
            child.dirty = true;
            self.dirty_children.push(key);
        }
    }

    pub(super) fn mark_lane(&mut self, key: Key<Lane>) {
        if let Some(lane) = self.lanes.get_mut(key)
            && !lane.dirty
        {
            lane.dirty = true;
            self.dirty_lanes.push(key);
        }
    }

    /// Moves the actions since the last call into `into`.
    pub fn take_actions(&mut self, into: &mut Vec<Action>) {
        into.append(&mut self.actions);
    }

    /// Moves the keys of children with something to write into `into`.
    pub fn take_dirty_children(&mut self, into: &mut Vec<Key<Child>>) {
        into.append(&mut self.dirty_children);
        for key in into {
            if let Some(child) = self.children.get_mut(*key) {
                child.dirty = false;
            }
        }
    }

    /// Moves the keys of lanes with something to write into `into`.
    pub fn take_dirty_lanes(&mut self, into: &mut Vec<Key<Lane>>) {
        into.append(&mut self.dirty_lanes);
        for key in into {
            if let Some(lane) = self.lanes.get_mut(*key) {
                lane.dirty = false;
            }
        }
    }

    /// The child may be read again.
    pub(super) fn resume(&mut self, key: Key<Child>) {
        self.resumed.push(key);
    }

    /// Moves the keys of children that may be read again into `into`.
    pub fn take_resumed(&mut self, into: &mut Vec<Key<Child>>) {
        into.append(&mut self.resumed);
    }

    /// The driver's handle of a child.
    pub fn child_link(&self, key: Key<Child>) -> Option<usize> {
        self.children.get(key).map(|child| child.link)
    }

    /// Sets the driver's handle of a child, where it is known only after `child_open`.
    pub fn set_child_link(&mut self, key: Key<Child>, link: usize) {
        if let Some(child) = self.children.get_mut(key) {
            child.link = link;
        }
    }

    /// How many children there are.
    pub fn children_len(&self) -> usize {
        self.children.len()
    }

    /// The upstream that is dialled now.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    // ---- memory ---------------------------------------------------------------------------------------

    /// Brings the memory total up to date with one child.
    pub(super) fn account_child(&mut self, key: Key<Child>) {
        if let Some(child) = self.children.get_mut(key) {
            let measured = child.measure();
            self.memory = self.memory + measured - child.footprint;
            child.footprint = measured;
        }
    }

    /// Brings the memory total up to date with one lane.
    pub(super) fn account_lane(&mut self, key: Key<Lane>) {
        if let Some(lane) = self.lanes.get_mut(key) {
            let measured = lane.measure();
            self.memory = self.memory + measured - lane.footprint;
            lane.footprint = measured;
            if !lane.held.is_empty() && lane.out.len() < limits::LANE_WINDOW / 2 {
                // It owes its socket less: the children that waited for that go on.
                let held = std::mem::take(&mut lane.held);
                self.lift_held(held);
            }
        }
    }

    /// Children that waited for a lane look at their request afresh.
    pub(super) fn lift_held(&mut self, held: Vec<Key<Child>>) {
        for child in held {
            if self.children.get(child).is_some_and(|child| child.hold == Hold::Lane) {
                self.lift(child);
            }
        }
    }

    // ---- draining -------------------------------------------------------------------------------------

    /// Stops taking requests: what has been handed over complete is answered, then each child is closed.
    /// Blocked commands, those waiting for a lease and transactions that watch keys have `patience`, by default
    /// `drain_timeout`; so have children that do not take what they are owed. A second call can only shorten it.
    pub fn drain(&mut self, patience: Option<Millis>) {
        let due = self.now.saturating_add(patience.unwrap_or(self.settings.drain_timeout));
        self.timers.arm(due, Timer::Drain);
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        for key in self.children.keys() {
            self.run_buffered(key);
        }
    }

    fn end_drain(&mut self) {
        for key in self.children.keys() {
            if let Some(child) = self.children.get(key) {
                log::info!("drain_timeout: closing child {}", child.label());
            }
            self.close_child(key);
        }
    }

    /// Whether a drain has begun.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether a drain has come to its end.
    pub fn is_drained(&self) -> bool {
        self.draining && self.children.is_empty()
    }

    /// Closes every child and lane at once.
    pub fn close_all(&mut self) {
        self.draining = true;
        for key in self.children.keys() {
            self.close_child(key);
        }
        for key in self.lanes.keys() {
            self.drop_connection(key);
            if let Some(lane) = self.lanes.remove(key) {
                self.memory -= lane.footprint;
            }
        }
        debug_assert_eq!(self.places.open, 0, "a connection was leaked");
    }

    /// Whether the upstream is known to answer.
    pub fn upstream_is_up(&self) -> bool {
        self.lanes.get(self.control.lane).is_some_and(|lane| lane.state == LaneState::Ready)
    }
}
