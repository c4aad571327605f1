//! The broker without its sockets: events in, dirty lists and rare actions out. The driver (the reactor, a
//! simulation) tells it what arrived and what time it is, then flushes what is dirty and carries out the
//! actions. Finds the child or lane that an event is about, once, and hands it on; does no I/O and reads no clock.

use crate::base::clock::Millis;
use crate::base::failure::Failure;
use crate::base::limits;
use crate::base::outgoing::Outgoing;
use crate::base::peer_certificate::PeerCertificate;
use crate::base::process::UnixCredentials;
use crate::base::secured::Secured;
use crate::command::texts;
use crate::config::sources::SettingSource;
use crate::config::{ChildProfile, ReadFrom, Settings, Upstream};
use crate::core::action::Action;
use crate::core::child::children::Children;
use crate::core::child::closing::CloseReason;
use crate::core::child::origin::Origin;
use crate::core::child::reads::Reads;
use crate::core::child::session::Session;
use crate::core::child::{Child, ChildKind};
use crate::core::counters::Counters;
use crate::core::host::leaks::LeakEnd;
use crate::core::keys::{ChildKey, LaneKey};
use crate::core::memory::Trim;
use crate::core::nodes::sentinels::Sentinels;
use crate::core::request::flow::Roster;
use crate::core::request::run::ForBroker;
use crate::core::shared::Shared;
use crate::core::standing::LaneReading;
use crate::core::status::lately::Lately;
use crate::core::sweeps::Sweep;
use crate::core::timers::Timer;
use crate::resp::{Frames, Scanner};
use std::sync::Arc;

/// A child that is about to be one.
#[derive(Debug, Clone)]
pub struct Newcomer {
    /// How it reaches the broker.
    pub kind: ChildKind,
    /// What it is called in the log.
    pub peer: Arc<str>,
    /// Who has connected it, where the system knows.
    pub who: Option<UnixCredentials>,
    /// What its listener says of it.
    pub profile: ChildProfile,
    /// The driver's handle.
    pub link: usize,
    /// How its connection is secured, where it is.
    pub secured: Option<Secured>,
    /// The certificate that it has shown, which was accepted.
    pub certificate: Option<PeerCertificate>,
}

/// The broker's state. See ARCHITECTURE.md for the line of one request through it.
#[derive(Debug)]
pub struct Broker {
    pub(crate) children: Children,
    pub(crate) shared: Shared,
    pub(crate) trim: Trim,
    pub(crate) lately: Lately,
    next_id: u64,
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
            children: Children::default(),
            shared: Shared::new(settings, upstream, rng, now),
            trim: Trim::default(),
            lately: Lately::default(),
            next_id,
            #[cfg(feature = "sabotage")]
            sabotaged: false,
        };
        broker.shared.env.timers.arm(now, Timer::Janitor);
        broker.shared.open_control();
        broker.begin_turn();
        broker
    }

    /// Tells the time more closely, before `advance` tells it: how long requests take is measured with it.
    pub fn tell_micros(&mut self, micros: u64) {
        let Shared { latency, connections, env, .. } = &mut self.shared;
        latency.count_alike(env.micros);
        connections.note_pushed(env);
        self.shared.env.micros = self.shared.env.micros.max(micros);
    }

    /// Tells the broker what time it is, and lets what is due happen.
    pub fn advance(&mut self, now: Millis) {
        self.shared.env.now = self.shared.env.now.max(now);
        self.tell_micros(self.shared.env.now * 1000);
        self.shared.env.timers.advance();
        let connect_timeout = self.shared.env.settings.connect_timeout;
        self.shared.sentinels.advance(self.shared.env.now, connect_timeout);
        self.fire_timers();
    }

    /// Lets timers that are due fire, as many as one step has room for. Whether there were any.
    fn fire_timers(&mut self) -> bool {
        let mut fired = false;
        for _ in 0..limits::TIMERS_STEP {
            if self.shared.env.has_notices() {
                break;
            }
            let Some(timer) = self.shared.env.timers.pop_due(self.shared.env.now) else { break };
            fired = true;
            match timer {
                Timer::Lane(key, number) => self.shared.lane_timer(key, number),
                Timer::Child(key) => {
                    if let Some(child) = self.children.get_mut(key) {
                        self.shared.child_timer(child);
                    }
                }
                Timer::Group(key) => self.shared.group_timer(key),
                Timer::Overdue(key) => {
                    self.shared.expire_unwritten(key);
                    self.shared.time_out_written(key);
                }
                Timer::Held(key) => self.shared.connections.account(&mut self.shared.env, key),
                Timer::Leases => self.shared.pump_leases(),
                Timer::Bar => self.shared.connections.mark_changed(),
                Timer::Yield => self.shared.serve_waiting(),
                Timer::Busy => self.shared.busy_timer(),
                Timer::Former => self.shared.end_former(),
                Timer::Role => self.shared.recheck_role(),
                Timer::Pause => self.shared.pause_timer(),
                Timer::Janitor => self.janitor(),
                Timer::Drain => self.shared.env.sweeps.begin(Sweep::DrainTimedOut),
            }
            self.deliver_notices();
        }
        fired
    }

    /// Milliseconds until something is due; `None` when nothing is. Zero while work is deferred.
    pub fn timeout(&self) -> Option<Millis> {
        let env = &self.shared.env;
        let connections = &self.shared.connections;
        let delivering = self.shared.hubs.is_delivering();
        if env.has_deferred() || connections.is_changed() || connections.is_any_unread() || delivering {
            return Some(0);
        }
        let timer = env.timers.next_at().map(|at| at.saturating_sub(env.now));
        [timer, self.shared.sentinels.timeout(env.now)].into_iter().flatten().min()
    }

    /// Whether anything was left that `run` or the driver has to do.
    pub fn has_work(&self) -> bool {
        let env = &self.shared.env;
        let connections = &self.shared.connections;
        env.timers.has_due(env.now)
            || env.has_deferred()
            || connections.is_any_unread()
            || connections.is_changed()
            || self.shared.hubs.is_delivering()
            || !env.actions.is_empty()
    }

    /// The driver begins a turn: as much is run in it as in every other. What is left over waits for the next, so that
    /// whoever has sent something in between is heard.
    pub fn begin_turn(&mut self) {
        self.shared.turn.begin();
        self.shared.env.begin_turn();
        self.note_totals();
    }

    /// Goes on with what was deferred: the turn of a child in line, a piece of a sweep, lanes that wait for a place. Call
    /// it after the events of a turn and before flushing, again and again while it returns true.
    pub fn run(&mut self) -> bool {
        // Before all else: a turn may end with any step, and then lanes are written.
        if self.shared.follow_master() || self.shared.env.has_notices() {
            self.deliver_notices();
            return true;
        }
        self.shared.follow_replicas();
        if let Some(key) = self.shared.connections.next_unread() {
            self.lane_input(key, &[]);
            return true;
        }
        if self.fire_timers() || self.shared.turn.has_room() && self.run_next() {
            return true;
        }
        if self.shared.connections.take_changed() {
            self.shared.serve_waiting();
            self.shared.pump_leases();
            self.shared.connections.lower_bar_if_unused(self.shared.env.now);
            self.deliver_notices();
            return true;
        }
        self.shared.resume_standing(&self.children);
        if self.go_on_delivering() || self.enforce_memory() {
            return true;
        }
        let changed = !self.is_session_in_multi() && self.shared.note_rest() || self.go_on_moving();
        self.deliver_notices();
        changed
    }

    /// The turn of the next child in line, or of the sweep under way: by turns, where there are both.
    fn run_next(&mut self) -> bool {
        let env = &mut self.shared.env;
        let sweeps = !env.sweeps.is_empty() && (env.runnable.is_empty() || !self.shared.turn.swept);
        let child = if sweeps { None } else { env.runnable.pop_front() };
        if !sweeps && child.is_none() {
            return false;
        }
        self.shared.turn.least = self.shared.turn.least.saturating_sub(1);
        self.shared.turn.swept = sweeps;
        match child {
            Some(key) => self.run_child(key, &[]),
            None => self.sweep(),
        }
        self.deliver_notices();
        true
    }

    /// A child has connected. `None`: there are `children_max` already; tell it so and close.
    pub fn child_open(&mut self, kind: ChildKind, peer: &str, link: usize) -> Option<ChildKey> {
        let newcomer = Newcomer {
            kind,
            peer: peer.into(),
            who: None,
            profile: ChildProfile::default(),
            link,
            secured: None,
            certificate: None,
        };
        self.child_admit(newcomer).ok()
    }

    /// The same of a child of which more is known. The error is to be told to it.
    pub fn child_admit(&mut self, newcomer: Newcomer) -> Result<ChildKey, Failure> {
        let Newcomer { kind, peer, who, profile, link, secured, certificate } = newcomer;
        let capped = who.filter(|_| kind == ChildKind::Socket).and_then(|who| self.shared.child_cap(who));
        let env = &mut self.shared.env;
        let spared = if kind == ChildKind::Admin { limits::ADMIN_CHILDREN } else { 0 };
        if self.children.len() >= env.settings.children_max + spared {
            env.counters.children_refused += 1;
            let max = env.settings.children_max;
            self.children.refuse(max, env.now, &self.shared.processes);
            return Err(texts::MAX_CLIENTS.into());
        }
        if let Some(limit) = capped {
            env.counters.children_refused += 1;
            return Err(self.shared.refuse_for_cap(limit, who));
        }
        env.counters.children_opened += 1;
        self.next_id += 1;
        let session = Session::new(self.next_id, env.upstream.db);
        let certified = certificate.and_then(|certificate| self.shared.users.certified(&certificate));
        let reads = Reads::of_replicas(profile.reads == ReadFrom::Replica);
        let origin = Origin::new(kind, peer).with_profile(profile).with_secured(secured, certified);
        let key = self.children.insert(Child::new(session, origin, link, env.now));
        if let Some(child) = self.children.known_mut(key) {
            *child.reads_mut() = reads;
            self.shared.become_first_user(child);
            if let Some(who) = who {
                self.shared.identify(child, who);
            }
        }
        Ok(key)
    }

    /// Bytes have arrived from a child.
    pub fn child_input(&mut self, key: ChildKey, bytes: &[u8]) {
        // What the driver has read of one that was closed in the same turn is of no interest.
        let Some(child) = self.children.get_mut(key).filter(|child| !child.is_finished()) else { return };
        if child.hear(bytes.len(), self.shared.env.now) && !self.shared.env.has_notices() {
            self.run_child(key, bytes);
        } else {
            // One that stands in line has its turn when that comes.
            let runs = !child.is_lined_up();
            let goes_on = self.shared.keep_waiting(child, bytes);
            child.note_kept(self.shared.env.micros);
            if goes_on && runs {
                self.run_child(key, &[]);
            } else {
                self.shared.account_child(child);
            }
        }
        self.deliver_notices();
    }

    /// Runs what a child has sent: what waits in its inbox or, where none does, `fresh` bytes. Later, while not all have been
    /// told of what has happened: it would go on with a lane that is gone, and its request with it.
    pub(crate) fn run_child(&mut self, key: ChildKey, fresh: &[u8]) {
        // One that is listed as runnable may have gone since.
        let Some(mut child) = self.children.get_mut(key) else { return };
        if self.shared.env.has_notices() {
            debug_assert!(fresh.is_empty(), "fresh bytes that nobody keeps");
            self.shared.account_child(child);
            return self.shared.nudge(child);
        }
        if fresh.is_empty() {
            child.take_turn();
        }
        let mut frames = child.inbox_mut().begin(fresh, &mut self.shared.turn.scanner);
        self.shared.turn.credit = child.begin_turn();
        if let Some(asked) = self.shared.run_requests(child, &mut frames) {
            self.run_roster(key, asked, &mut frames);
            let Some(again) = self.children.known_mut(key) else { return };
            child = again;
        }
        self.shared.end_run(child, frames);
        if fresh.is_empty() && child.wants_read() {
            self.shared.resume(child);
        }
    }

    /// Goes on with a run that has come to a request about other children.
    fn run_roster(&mut self, key: ChildKey, asked: ForBroker, frames: &mut Frames<'_, Scanner>) {
        let mut asked = Some(asked);
        while let Some((roster, len)) = asked {
            let request = frames.request();
            let flow = match roster {
                Roster::Kill => self.kill(key, &request),
                Roster::Unblock => self.unblock(key, &request),
                Roster::List => self.list(key, &request),
                Roster::Exec => self.fill_in(key),
                Roster::Console => self.run_console(key, &request),
            };
            let Some(child) = self.children.known_mut(key) else { return };
            asked = self.shared.go_on(child, frames, flow, len);
        }
    }

    /// The child will send nothing more; everything it sent has been handed over.
    pub fn child_eof(&mut self, key: ChildKey) {
        let Some(child) = self.children.get_mut(key) else { return };
        child.end_input();
        self.shared.let_go_if_blocked(child);
        self.run_child(key, &[]);
        self.deliver_notices();
    }

    /// The child has hung up, perhaps with bytes still unread. Only a child that is not being read needs
    /// this: one blocked on a key is let go at once, as Redis does, so that no element is popped for it.
    /// One that is held for another reason is let go should it come to block later.
    pub fn child_hangup(&mut self, key: ChildKey) {
        let Some(child) = self.children.get_mut(key) else { return };
        child.hang_up();
        self.shared.let_go_if_blocked(child);
        self.deliver_notices();
    }

    /// The child's connection is gone in both directions.
    pub fn child_gone(&mut self, key: ChildKey) {
        self.remove_child(key);
        self.deliver_notices();
    }

    /// The driver's handle and the bytes on their way to a child.
    pub fn child_output(&mut self, key: ChildKey) -> Option<(usize, &mut Outgoing)> {
        let child = self.children.get_mut(key)?;
        Some((child.link(), child.outbox_mut().take()))
    }

    /// The driver has written what it could.
    pub fn child_flushed(&mut self, key: ChildKey) {
        let Some(child) = self.children.get_mut(key) else { return };
        self.shared.flushed(child);
        self.deliver_notices();
    }

    /// The id of the child that has come last.
    pub(crate) fn last_id(&self) -> u64 {
        self.next_id
    }

    /// This id has been given out: those that come have higher ones.
    pub(crate) fn continue_ids(&mut self, id: u64) {
        self.next_id = self.next_id.max(id);
    }

    /// Takes a child out at once. Its slots stay in their lanes: their replies find nobody.
    pub(crate) fn remove_child(&mut self, key: ChildKey) {
        let Some(child) = self.forget_child(key) else { return };
        self.shared.env.actions.push(Action::CloseChild { link: child.link() });
        if let Some(lease) = child.lease() {
            self.shared.abandon_lease(lease.lane);
        }
    }

    /// The same, and its connection stays as it is.
    pub(crate) fn forget_child(&mut self, key: ChildKey) -> Option<Child> {
        let mut child = self.children.remove(key)?;
        self.shared.leave_line(&mut child);
        self.shared.drop_topics(&mut child);
        self.shared.release_claim(&mut child);
        self.shared.env.memory -= child.footprint();
        self.shared.users.leave(child.user(), self.shared.env.now);
        self.shared.end_leak(&mut child, LeakEnd::Gone);
        self.shared.forget_identity(&mut child);
        Some(child)
    }

    /// Moves the actions since the last call into `into`. Not while requests that were lost on a connection are still to be
    /// answered: the replies of the next one would come before their errors.
    pub fn take_actions(&mut self, into: &mut impl Extend<Action>) {
        if self.shared.env.has_notices() {
            return;
        }
        into.extend(self.shared.env.actions.drain(..));
    }

    /// Whether the core has given up the attempt to connect this lane, though the driver has not been told yet.
    pub fn has_given_up(&self, lane: LaneKey) -> bool {
        self.shared.env.actions.contains(&Action::CloseLane { lane, link: None })
    }

    /// Moves the keys of children with something to write into `into`.
    pub fn take_dirty_children(&mut self, into: &mut impl Extend<ChildKey>) {
        into.extend(self.shared.env.dirty_children.drain(..));
    }

    /// Moves the keys of lanes with something to write into `into`.
    pub fn take_dirty_lanes(&mut self, into: &mut impl Extend<LaneKey>) {
        self.shared.connections.take_dirty(&mut self.shared.env, into);
    }

    /// Moves the keys of those that may be read again into `children` and `lanes`.
    pub fn take_resumed(&mut self, children: &mut Vec<ChildKey>, lanes: &mut Vec<LaneKey>) {
        children.append(&mut self.shared.env.resumed);
        self.shared.connections.standing_mut().take_resumed(lanes);
        self.shared.moves.take_resumed(lanes);
    }

    /// Whether the driver may read from this child now. When it may again, the key is in `take_resumed`.
    #[inline]
    pub fn wants_read(&self, key: ChildKey) -> bool {
        self.children.get(key).is_some_and(Child::wants_read)
    }

    /// When the driver may read from this lane.
    #[inline]
    pub fn lane_reading(&self, key: LaneKey) -> LaneReading {
        self.shared.lane_reading(key)
    }

    /// Whether bytes of this child could be of use at all, however much it has to run.
    pub fn takes_bytes(&self, key: ChildKey) -> bool {
        self.children.get(key).is_some_and(Child::takes_bytes)
    }

    /// The driver's handle of a child.
    pub fn child_link(&self, key: ChildKey) -> Option<usize> {
        self.children.get(key).map(|child| child.link())
    }

    /// Sets the driver's handle of a child, where it is known only after `child_open`.
    pub fn set_child_link(&mut self, key: ChildKey, link: usize) {
        if let Some(child) = self.children.get_mut(key) {
            child.set_link(link);
        }
    }

    /// How many children there are.
    pub fn children_len(&self) -> usize {
        self.children.len()
    }

    /// The sentinels that name the master, for the driver of their connections.
    pub fn sentinels(&mut self) -> &mut Sentinels {
        &mut self.shared.sentinels
    }

    /// The upstream that is dialled now.
    pub fn upstream(&self) -> &Upstream {
        &self.shared.env.upstream
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.shared.env.settings
    }

    /// Where each setting is from, in the order of the table.
    pub fn set_sources(&mut self, sources: Vec<SettingSource>) {
        self.shared.env.sources = sources;
    }

    /// Running totals.
    pub fn counters(&self) -> &Counters {
        &self.shared.env.counters
    }

    /// Whether the upstream is known to answer.
    pub fn upstream_is_up(&self) -> bool {
        self.shared.upstream_is_up()
    }

    /// Whether much memory has come free since the last call. The allocator may still hold it: it lies
    /// between small objects that live on.
    pub fn take_trim(&mut self) -> bool {
        self.trim.take_due()
    }

    /// Over `memory_max` the child that holds most is closed and named, until the rest fits. Lanes are not touched: what
    /// stands there is of many children, and has its own bounds. Never in the middle of an event: whoever is being served
    /// keeps what it stands on.
    pub(crate) fn enforce_memory(&mut self) -> bool {
        let mut worked = false;
        let (held, max) = (self.shared.env.held(), self.shared.env.settings.memory_max);
        self.trim.rise(held + self.children.own_bytes());
        self.shared.connections.set_window(if held < max / 2 {
            limits::LANE_WINDOW
        } else {
            limits::LANE_WINDOW_SHORT
        });
        while self.shared.env.held() > max {
            let held = self.children.iter().map(|(key, child)| (child.holds_bytes(), key));
            let Some((held_bytes, key)) = held.max_by_key(|(held, _)| *held).filter(|(held, _)| *held > 0)
            else {
                break;
            };
            let told = self.children.get_mut(key).is_some_and(|child| self.shared.give_up_requests(child));
            self.deliver_all_notices();
            if !told {
                if let Some(child) = self.children.get(key) {
                    CloseReason::MemoryMax { held_bytes }.log(child);
                }
                self.remove_child(key);
            }
            worked = true;
        }
        // False when there is nothing left to give: whoever runs us until we rest must come to an end.
        worked
    }

    /// A drain begins, which ends with the last child. Blocked commands, those waiting for a lease and open transactions
    /// have `patience`, by default `drain_timeout`; so have children that do not take what they are owed. A
    /// second call can only shorten it. Requests are taken until `dismiss`.
    pub fn drain(&mut self, patience: Option<Millis>) {
        let env = &mut self.shared.env;
        let due = env.now.saturating_add(patience.unwrap_or(env.settings.drain_timeout));
        env.timers.arm(due, Timer::Drain);
        env.draining = true;
        self.shared.stop_move("the broker drains");
        self.shared.resume_all("the broker drains");
    }

    /// Stops taking requests: what has been handed over complete is answered, then each child is closed.
    pub fn dismiss(&mut self) {
        self.shared.env.dismissing = true;
        self.shared.env.sweeps.begin(Sweep::Drain);
    }

    /// Whether a drain has begun.
    pub fn is_draining(&self) -> bool {
        self.shared.env.draining
    }

    /// Whether a drain has come to its end: nobody is left but at the console, who is owed nothing.
    pub fn is_drained(&self) -> bool {
        let env = &self.shared.env;
        env.draining
            && (self.children.is_empty()
                || env.dismissing && self.children.iter().all(|(_, child)| child.is_idle_admin()))
    }

    /// Closes every child and lane at once.
    pub fn close_all(&mut self) {
        self.shared.env.draining = true;
        self.shared.env.sweeps.clear();
        for key in self.children.keys() {
            self.remove_child(key);
        }
        self.shared.connections.close_all(&mut self.shared.env);
        self.deliver_all_notices();
    }
}
