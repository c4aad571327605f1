//! One schedule: children that ask at random, and a world that fails at random, both from one seed. After every step
//! everything that must hold is checked; at the end all faults stop, and whoever has asked must be answered.

use super::asking::{Asking, DBS, LISTS, nonce_of};
use super::failovers::Failovers;
use super::generator::{self, Answer, Fault, Request, Settings, Situation, Speaker};
use super::moods::Moods;
use super::reply::parse;
use super::script::Script;
use super::{Sim, holds, trace};
use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::config::parse_upstream;
use crate::config::value::{Integrity, OnUpstreamLoss, UpstreamRole};
use crate::core::connection::lane::Lane;
use crate::core::connection::role::LaneRole;
use crate::core::connection::slot::{Slot, SlotFlags, SlotKind};
use crate::resp::tests::encoded;
use std::collections::BTreeMap;

/// Rounds of 150 ms until everybody must have been answered: many may stand in line for one lease, each for as
/// long as `lease_wait_timeout`.
const ROUNDS_MAX: u32 = 600;

/// By the remainder of their seeds: schedules in which the broker is paused, reconnected and moved.
const STEERED: [u64; 3] = [4, 7, 9];

/// Settings under which no child is closed for what it does not do.
const HARMLESS: [(&str, &str); 4] = [
    ("memory_max", "1GiB"),
    ("idle_child_timeout", "0"),
    ("idle_transaction_timeout", "0"),
    ("child_output_max", "1MiB"),
];

#[derive(Debug, Default)]
pub(super) struct Played {
    pub(super) steps: u64,
    pub(super) commands: u64,
    pub(super) faults: BTreeMap<&'static str, u64>,
}

pub(super) struct Player {
    pub(super) sim: Sim,
    rng: fastrand::Rng,
    /// What the operator asks for; none in most schedules.
    steering: Option<fastrand::Rng>,
    pub(super) scripts: Vec<Script>,
    played: Played,
    pub(super) moods: Moods,
    upstream: String,
    /// Which requests this schedule prefers.
    taste: [u32; 4],
    /// Settings of this schedule may close a child for what it does not do.
    pub(super) strict: bool,
    /// Connections whose replies were tampered with, each once: one that was lost and one that was slipped in before
    /// the same canary cannot be told from the truth. Until another reply comes, nothing tells of a lost one.
    tampered: Vec<usize>,
    /// The settings close, or closed, whoever loses something with its upstream.
    closes_on_loss: bool,
    /// The second upstream is the one dialled.
    moved: bool,
    /// Children go to another process and come back, when this says so.
    mover: Option<fastrand::Rng>,
}

pub(super) fn play(seed: u64) -> Played {
    play_with(seed, None)
}

/// The same with children that go to another process in between.
pub(super) fn play_moving(seed: u64) -> Played {
    play_with(seed, Some(fastrand::Rng::with_seed(!seed)))
}

fn play_with(seed: u64, mover: Option<fastrand::Rng>) -> Played {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (settings, strict) = random_settings(&mut rng);
    let (moods, mut failovers) = (Moods::of(seed), Failovers::of(seed));
    let upstream = failovers.upstream(moods.upstream);
    let mut player = Player {
        sim: Sim::begin(&settings, &upstream, seed),
        upstream,
        moods,
        scripts: Vec::new(),
        played: Played::default(),
        taste: random_taste(&mut rng),
        strict,
        tampered: Vec::new(),
        closes_on_loss: false,
        moved: false,
        mover,
        steering: STEERED.contains(&(seed % 11)).then(|| fastrand::Rng::with_seed(seed.rotate_left(17))),
        rng,
    };
    player.sim.begin_failovers(failovers);
    player.note_policy();
    player.begin_moods();
    if seed % 4 < 2 {
        player.sim.broker.shared.groups.look_soon();
    }
    // Where sentinels watch, replicas are servers of their own.
    if seed % 16 == 10 && !player.sim.is_watched() {
        player.sim.read_from_replicas(2);
    }
    if player.rng.u8(..3) == 0 {
        player.sim.room = player.rng.usize(1..200);
    }
    if player.rng.u8(..4) > 0 {
        player.sim.settle();
    }
    for _ in 0..player.rng.usize(2..7) {
        player.newcomer();
    }
    for _ in 0..player.rng.usize(30..150) {
        player.step();
        player.played.steps += 1;
    }
    player.end();
    player.played.commands = player.sim.redis.commands;
    let followed = player.sim.sides.count() as u64;
    let moves = player.sim.moves;
    player.played.faults.extend((moves > 0).then_some(("moves made", moves)));
    player.played.faults.extend((followed > 0).then_some(("masters followed", followed)));
    player.played
}

/// Settings with small bounds; and whether a child that does nothing wrong is never closed under them.
fn random_settings(rng: &mut fastrand::Rng) -> (Settings, bool) {
    let settings = generator::settings(rng, Speaker::Simulation);
    let strict = HARMLESS.iter().all(|(key, value)| generator::value_of(&settings, key) == *value);
    (settings, strict)
}

/// Every fifth schedule is mostly about subscriptions.
fn random_taste(rng: &mut fastrand::Rng) -> [u32; 4] {
    if rng.u8(..5) == 0 { [12, 13, 13, 0] } else { std::array::from_fn(|_| rng.u32(..16)) }
}

impl Player {
    fn note_policy(&mut self) {
        let settings = self.sim.broker.settings();
        self.closes_on_loss |= settings.on_upstream_loss == OnUpstreamLoss::Close;
        self.sim.redis.serves_replicas |= settings.upstream_role == UpstreamRole::Any;
    }

    /// Nobody comes to a broker that drains.
    pub(super) fn newcomer(&mut self) {
        if self.sim.broker.is_draining() {
            return;
        }
        let child = self.sim.child();
        let mut script = Script::new(child, self.sim.redis.access.user);
        script.may_close = !self.strict;
        self.scripts.push(script);
    }

    pub(super) fn one_of(&mut self) -> Option<usize> {
        let open: Vec<usize> = (0..self.scripts.len()).filter(|child| !self.sim.is_closed(*child)).collect();
        (!open.is_empty()).then(|| open[self.rng.usize(..open.len())])
    }

    fn a_link(&mut self) -> Option<usize> {
        let links = self.sim.all_links();
        (!links.is_empty()).then(|| links[self.rng.usize(..links.len())])
    }

    fn step(&mut self) {
        match self.rng.u32(..100) {
            0..45 => self.talk(),
            45..65 => self.move_bytes(),
            65..80 => self.sim.settle(),
            80..90 => {
                let duration = if self.rng.u8(..8) == 0 { 2000 } else { 120 };
                let now = self.sim.now + self.rng.u64(1..duration);
                self.pass_until(now);
            }
            _ if self.changes_mind() => {}
            _ => self.fault(),
        }
        self.move_children();
        self.steer();
        self.change_masters();
        self.sim.turn();
        // What is put off is not told to everybody yet, and what is not written yet has not been measured.
        if self.sim.steps == usize::MAX || !(self.sim.unsettled || self.sim.broker.has_work()) {
            self.sim.check();
        }
        self.listen();
    }

    /// Some children are to go to another process, or nobody any more; those that have come to rest go.
    fn move_children(&mut self) {
        let Some(rng) = &mut self.mover else { return };
        match rng.u8(..8) {
            0..3 => self.sim.begin_moves(rng.usize(1..6)),
            3 => self.sim.end_moves(),
            _ => {}
        }
        if rng.bool() {
            let listeners = self.sim.move_hub(rng.u8(..4) > 0) as u64;
            if listeners > 0 {
                *self.played.faults.entry("moved listeners").or_default() += listeners;
            }
        }
        let moved = self.sim.move_rested() as u64;
        if moved > 0 {
            *self.played.faults.entry("moved children").or_default() += moved;
        }
    }

    /// Time passes and nothing else moves, but every timer fires at its own moment.
    pub(super) fn pass_until(&mut self, end: Millis) {
        while self.sim.now < end {
            let due = self.sim.broker.timeout().map_or(end, |wait| self.sim.now + wait.max(1));
            let due = due.min(self.sim.redis.next_expiry().unwrap_or(end).max(self.sim.now + 1));
            let due = due.min(self.sim.next_planned().unwrap_or(end).max(self.sim.now + 1));
            self.sim.tick(due.min(end));
            self.sim.turn();
        }
    }

    fn some_bytes(&mut self) -> usize {
        if self.rng.bool() { usize::MAX } else { self.rng.usize(1..40) }
    }

    fn move_bytes(&mut self) {
        if self.rng.u8(..4) == 0 {
            self.whole_frame();
        }
        let limit = self.some_bytes();
        match (self.rng.u8(..3), self.a_link(), self.one_of()) {
            (0, Some(link), _) => drop(self.sim.read_redis(link, limit)),
            (1, Some(link), _) => drop(self.sim.read_lane(link, limit)),
            (_, _, Some(child)) => drop(self.sim.read_child(child, limit)),
            _ => {}
        }
    }

    /// Hands every child what has come for it.
    fn listen(&mut self) {
        self.listen_only();
        for script in self.scripts.iter_mut().filter(|script| script.gives_up) {
            script.may_close = true;
            self.sim.broker.child_gone(self.sim.key(script.child));
        }
        self.sim.redis.ledger.truth.listened();
        if self.sim.peers.iter().filter(|peer| !peer.closed).count() < 2 {
            self.newcomer();
        }
    }

    pub(super) fn talk(&mut self) {
        let Some(child) = self.one_of() else { return };
        let mut bytes = Vec::new();
        for _ in 0..self.rng.usize(1..5) {
            self.ask(child, &mut bytes);
        }
        if !self.sim.peers[child].shut {
            self.sim.post(child, &bytes);
            let limit = self.some_bytes();
            self.sim.read_child(child, limit);
        }
    }

    fn ask(&mut self, child: usize, bytes: &mut Vec<u8>) {
        let taste = self.taste[self.rng.usize(..4)];
        let situation = if self.rng.bool() { taste } else { self.rng.u32(..16) };
        let situation = Situation::ALL[situation as usize];
        let (script, ledger) = (&mut self.scripts[child], &mut self.sim.redis.ledger);
        let (rng, moods) = (&mut self.rng, &mut self.moods);
        let mut asking = Asking { rng, moods, script, ledger, value: Vec::new() };
        for request in generator::situation(&mut asking, situation) {
            bytes.extend(encoded(&request.argv));
            let nonce = nonce_of(&request);
            asking.script.asks(request, nonce, asking.ledger);
        }
    }

    /// One request of a child, with a nonce as its last argument where there is a `$` at the end of the line.
    pub(super) fn put(&mut self, bytes: &mut Vec<u8>, child: usize, answer: Answer, line: &str) {
        let (script, ledger) = (&mut self.scripts[child], &mut self.sim.redis.ledger);
        let nonce = line.ends_with('$').then(|| script.nonce(ledger));
        let line = nonce.map_or(line.to_owned(), |nonce| line.replace('$', &nonce.to_string()));
        let argv = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        let request = Request::of(answer, argv);
        bytes.extend(encoded(&request.argv));
        script.asks(request, nonce, ledger);
    }

    pub(super) fn count(&mut self, fault: &'static str) {
        trace!("{} ms: {fault}", self.sim.now);
        *self.played.faults.entry(fault).or_default() += 1;
    }

    /// Counts a fault; by this chance it comes or goes.
    fn chance_of(&mut self, fault: &'static str) -> &mut fastrand::Rng {
        self.count(fault);
        &mut self.rng
    }

    fn fault(&mut self) {
        match self.rng.u8(..20) {
            0..3 => self.cut(),
            3 if self.rng.bool() => self.garbage(),
            3 => self.whole_frame(),
            4 => self.freeze(),
            5 => self.sim.frozen.clear(),
            6 => self.sim.full = self.chance_of("full").bool(),
            7 => {
                self.sim.room = if self.rng.bool() { usize::MAX } else { self.rng.usize(1..200) };
                let room = self.sim.room;
                self.sim.conns.values_mut().for_each(|conn| conn.room = room);
                self.count("narrow");
            }
            8 => self.sim.refuses = self.chance_of("refused").u8(..3) == 0,
            9 => self.sim.dial_time = [0, 5, 500][self.chance_of("slow dial").usize(..3)],
            10 => {
                if let Some(link) = self.a_link() {
                    self.sim.silent.push(link);
                    self.count("silent");
                }
            }
            11 => self.sim.silent.clear(),
            12 => self.sim.lingers = self.chance_of("lingering").bool(),
            13 => self.end_leaving(),
            14 => self.sim.redis.early_unblocks = self.chance_of("early unblock").usize(..3),
            15 => self.restart(),
            16 => self.reload(),
            17 => self.leave(),
            18 => self.stall(),
            _ if self.rng.u8(..6) == 0 => self.drain(),
            _ => self.sim.steps = [usize::MAX, 1, 3][self.chance_of("short turns").usize(..3)],
        }
    }

    /// A connection breaks: what was on its way is lost from some byte on, in both directions.
    fn cut(&mut self) {
        let Some(link) = self.a_link() else { return };
        let kept = self.rng.usize(..60);
        self.cut_link(link, kept);
        self.count("cut");
    }

    pub(super) fn cut_link(&mut self, link: usize, kept: usize) {
        let arrives = self.rng.usize(..60);
        self.sim.read_redis(link, arrives);
        let Some(conn) = self.sim.conns.get_mut(&link) else { return };
        conn.to_redis.clear();
        conn.to_broker.truncate(kept);
        conn.ended = true;
        self.sim.redis.disconnect(link);
        self.sim.end_leaving(link);
    }

    /// The server is gone and back: every connection is lost at once.
    pub(super) fn restart(&mut self) {
        self.sim.all_links().into_iter().for_each(|link| self.cut_link(link, 20));
        self.count("restart");
    }

    /// 16: bytes that are no reply, or a reply nobody asked for.
    fn garbage(&mut self) {
        let Some(link) = self.a_link() else { return };
        let Some(lane) = self.lane_between_replies(link) else { return };
        let conn = &self.sim.conns[&link];
        if !conn.to_broker.is_empty() || conn.leaving || conn.ended {
            return;
        }
        let (key, idle) = (conn.lane, !lane.has_written());
        let bytes: &[u8] = if idle && self.rng.bool() { b"+nobody asked\r\n" } else { b"@\r\n" };
        self.sim.broker.lane_input(key, bytes);
        let closed = self.sim.broker.lane_link(key) != Some(link);
        holds!(16, closed, "a reply that cannot be was taken");
        self.count("garbage");
    }

    /// The lane of a connection that is in use and has been read to the end of a reply.
    fn lane_between_replies(&self, link: usize) -> Option<&Lane> {
        let lane = self.sim.broker.shared.connections.find(self.sim.conns[&link].lane)?;
        (lane.link() == Some(link) && lane.is_ready() && lane.inbox().is_empty()).then_some(lane)
    }

    /// A whole reply is lost, doubled or slipped in: valid to any reader, and noticed with `integrity = always`.
    fn whole_frame(&mut self) {
        let Some(link) = self.a_link() else { return };
        let always = self.sim.broker.settings().integrity == Integrity::Always;
        let proves = |slot: &Slot| matches!(slot.kind, SlotKind::Canary | SlotKind::Arming);
        let is_guarded = |slot: &Slot| slot.flags.has(SlotFlags::GUARDED) || proves(slot);
        let all_guarded = |lane: &Lane| lane.out().entries().iter().all(is_guarded);
        let guarded = self.lane_between_replies(link).is_some_and(all_guarded);
        let conn = self.sim.conns.get_mut(&link).expect("just picked");
        if conn.role != LaneRole::Shared || !always || !guarded || self.tampered.contains(&link) {
            return;
        }
        let Ok(Some((_, len))) = parse(&conn.to_broker) else { return };
        let frame = conn.to_broker[..len].to_vec();
        match Fault::FRAMES[usize::from(self.rng.u8(..3))] {
            Fault::Lose => drop(conn.to_broker.drain(..len)),
            Fault::Duplicate => drop(conn.to_broker.splice(0..0, frame)),
            _ => drop(conn.to_broker.splice(0..0, b"$4\r\nc0n1\r\n".iter().copied())),
        }
        self.tampered.push(link);
        self.count("whole frame");
    }

    fn freeze(&mut self) {
        let roles = [LaneRole::Shared, LaneRole::Lease, LaneRole::Control, LaneRole::Subscriber];
        self.sim.frozen = roles.into_iter().filter(|_| self.rng.bool()).collect();
        self.count("paused");
    }

    fn end_leaving(&mut self) {
        for link in self.sim.all_links() {
            // What is read on one may close others: it may be the end of their user.
            if self.sim.conns.get(&link).is_some_and(|conn| conn.leaving) {
                // What had been written is executed all the same, or not.
                let limit = self.some_bytes();
                self.sim.read_redis(link, limit);
                self.sim.end_leaving(link);
            }
        }
    }

    fn reload(&mut self) {
        if self.sim.broker.shared.moving.is_under_way() {
            // The driver refuses it.
            return;
        }
        let mut settings = self.sim.broker.settings().clone();
        let (others, _) = random_settings(&mut self.rng);
        for (key, value) in others.iter().filter(|(key, _)| HARMLESS.iter().all(|(kept, _)| kept != key)) {
            settings.set(key, value).expect("a setting");
        }
        self.sim.over_max |= settings.upstream_connections_max < self.sim.redis.clients.len();
        if self.rng.u8(..4) == 0 {
            // Subscribers are closed.
            self.moved = !self.moved;
        }
        let backoff_max = self.sim.broker.settings().reconnect_backoff_max;
        self.sim.dials.begin(backoff_max.min(settings.reconnect_backoff_max));
        let own = &self.upstream;
        // Sentinels are those of one master, wherever that is.
        let url = if self.moved {
            own.replace("@sim/", "@other/").replace("//sim/", "//other/")
        } else {
            own.clone()
        };
        self.sim.broker.reload(settings, parse_upstream(&url).expect("a URL"));
        self.note_policy();
        // Those above the cap take no place from whoever needs none of theirs.
        let broker = &self.sim.broker;
        self.sim.over_max |= broker.shared.connections.has_lease_too_many(broker.settings());
        self.count("reload");
    }

    /// The operator pauses, resumes, reconnects or moves the broker, or not.
    fn steer(&mut self) {
        if self.sim.broker.shared.pause.is_at_rest() {
            self.count("steps at rest");
        }
        let Some(choice) = self.steering.as_mut().map(|rng| rng.u8(..60)) else { return };
        match choice {
            0..3 => {
                let timeout = self.steering.as_mut().map(|rng| rng.u64(1..3_000));
                self.sim.broker.shared.ask_for_pause(Key::NONE, timeout);
                self.count("PAUSE");
            }
            3..6 => {
                self.sim.broker.shared.resume_by("operator").unwrap_or_default();
                self.count("RESUME");
            }
            6 => {
                self.sim.expect_dials();
                self.sim.broker.shared.reconnect();
                self.count("RECONNECT");
            }
            7 => self.begin_move(),
            _ => {}
        }
    }

    fn begin_move(&mut self) {
        let host = if self.moved { "//sim/" } else { "//other/" };
        let url = self.upstream.replace("@sim/", &host.replace("//", "@")).replace("//sim/", host);
        // Whether it is made turns out later; what is told apart by the name leads to the same server.
        if self.sim.broker.begin_move(parse_upstream(&url).expect("a URL")).is_ok() {
            self.count("UPSTREAM");
        }
    }

    fn leave(&mut self) {
        let Some(child) = self.one_of() else { return };
        self.scripts[child].may_close = true;
        if self.rng.bool() {
            self.sim.break_off(child);
            self.count("killed child");
        } else {
            self.sim.shut(child);
            self.sim.read_child(child, usize::MAX);
            self.count("half-closed child");
        }
        self.newcomer();
    }

    fn stall(&mut self) {
        let Some(child) = self.one_of() else { return };
        let room = if self.rng.bool() { usize::MAX } else { self.rng.usize(..50) };
        self.scripts[child].dawdles = true;
        self.sim.peers[child].room = room;
        self.count("stalled child");
    }

    fn drain(&mut self) {
        self.scripts.iter_mut().for_each(|script| script.may_close = true);
        self.sim.broker.drain(None);
        self.sim.broker.dismiss();
        self.count("drain");
    }

    /// All is well again: whoever waits is served or told.
    fn end(&mut self) {
        self.mover = None;
        self.sim.broker.keep_hub(None);
        self.sim.end_moves();
        self.clear_up();
        self.sim.redis.servers.iter_mut().for_each(|weather| weather.swift = true);
        let sim = &mut self.sim;
        (sim.full, sim.refuses, sim.dial_time, sim.room) = (false, false, 0, usize::MAX);
        sim.steps = usize::MAX;
        sim.redis.early_unblocks = 0;
        sim.frozen.clear();
        sim.silent.clear();
        sim.conns.values_mut().for_each(|conn| conn.room = usize::MAX);
        sim.peers.iter_mut().for_each(|peer| peer.room = usize::MAX);
        sim.let_go();
        sim.restore();
        for link in std::mem::take(&mut self.tampered) {
            self.cut_link(link, 0);
        }
        for round in 0.. {
            if self.all_answered() {
                break;
            }
            let waits = self.scripts.iter().filter_map(Script::waits_for);
            holds!(13, round < ROUNDS_MAX, "somebody is never answered: {:?}", waits.collect::<Vec<_>>());
            self.feed();
            self.sim.pass(150);
            self.listen_only();
        }
        self.sim.settle();
        self.listen_only();
        let ledger = &self.sim.redis.ledger;
        let server = self.sim.server_in_use().unwrap_or(0);
        self.scripts.iter().for_each(|script| script.check_end(ledger, server));
        let gone = self.scripts.iter().filter(|script| script.gives_up || self.sim.is_closed(script.child));
        ledger.check_counts(gone.count() as i64);
        let lost: usize = self.scripts.iter().map(|script| script.lost_pops).sum();
        let popped = ledger.undelivered();
        // What came to one that has given up was not looked at.
        let delivered = popped <= lost || self.scripts.iter().any(|script| script.gives_up);
        holds!(5, delivered, "{popped} elements were popped and not delivered, {lost} may be lost");
        self.go_home();
        self.serve_newcomer();
    }

    pub(super) fn listen_only(&mut self) {
        for script in &mut self.scripts {
            let bytes = std::mem::take(&mut self.sim.peers[script.child].received);
            script.receive(&bytes, &mut self.sim.redis.ledger);
            if self.sim.peers[script.child].closed {
                script.closed(self.closes_on_loss);
            }
        }
    }

    fn all_answered(&self) -> bool {
        self.scripts.iter().all(|script| script.is_answered() || self.sim.peers[script.child].closed)
    }

    fn feed(&mut self) {
        for db in 0..DBS {
            LISTS.into_iter().for_each(|list| self.sim.redis.give(db, list));
        }
    }

    /// Every child leaves: nothing of any of them stays.
    fn go_home(&mut self) {
        // What stands on a lane during a pause is not given up.
        self.sim.broker.shared.resume_all("everybody leaves");
        for script in &mut self.scripts {
            script.may_close = true;
            self.sim.broker.child_gone(self.sim.key(script.child));
        }
        self.sim.settle();
        // What they left on lanes that are not connected is given up in its time.
        self.sim.pass(2000);
        let (lent, left) = (self.sim.broker.leases_lent(), self.sim.broker.requests_in_flight());
        let gone = lent == (0, 0, 0) && left == 0 && self.sim.broker.children_len() == 0;
        holds!(6, gone, "without children, leases {lent:?} are lent and {left} requests under way");
    }
}
