//! Failovers, as sentinels make them: in one of four schedules three servers are watched by three sentinels. A replica is
//! promoted before that is announced, or after; its former master goes on for up to ten seconds, or hangs, or is gone for
//! a while. From a seed of their own, so that what else a seed plays does not depend on them.

use super::player::Player;
use super::watchers::{MASTER, SERVER_PORT, View, WATCHER_PORT, Watching};
use super::weather::Role;
use super::{Sim, trace};
use crate::base::clock::Millis;

/// Of the choice, such that seeds which were kept before there were sentinels play what they did.
const SALT: u64 = 0x5e17_0049;

const SERVERS: usize = 3;
const WATCHERS: usize = 3;

/// What sentinels do takes so long, or a little longer.
const DELAYS: [Millis; 7] = [0, 0, 5, 50, 300, 1000, 3000];
/// A former master hears that it is one when its next INFO is due: in ten seconds at the latest.
const INFO: Millis = 10_000;

/// Behind an event all sentinels have been asked after this time.
const ASKED_AGAIN: Millis = 25;

/// What is going to be.
#[derive(Debug, Clone, Copy)]
enum Planned {
    Sees {
        watcher: usize,
        view: View,
    },
    /// It carries the failover out: the epoch is new, the master is still the former one.
    Leads {
        watcher: usize,
        view: View,
    },
    Promoted {
        server: usize,
        from: usize,
    },
    Demoted {
        server: usize,
        closes: bool,
    },
    Returns {
        server: usize,
        role: Role,
    },
    Wakes {
        server: usize,
    },
}

/// How a master ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// SENTINEL FAILOVER: it goes on until it is told.
    Replaced,
    Killed,
    Stopped,
}

#[derive(Debug)]
pub(super) struct Failovers {
    pub(super) rng: fastrand::Rng,
    is_on: bool,
    /// What the sentinels have agreed upon, whether or not each has heard.
    agreed: View,
    plans: Vec<(Millis, Planned)>,
}

impl Failovers {
    pub(super) fn none() -> Failovers {
        let agreed = View { epoch: 0, server: 0 };
        Failovers { rng: fastrand::Rng::with_seed(0), is_on: false, agreed, plans: Vec::new() }
    }

    pub(super) fn of(seed: u64) -> Failovers {
        let mut rng = fastrand::Rng::with_seed(seed ^ SALT);
        let is_on = rng.u8(..4) == 0;
        Failovers { rng, is_on, ..Failovers::none() }
    }

    /// The URL of the upstream: that of its sentinels, of which at least one is named.
    pub(super) fn upstream(&mut self, plain: &str) -> String {
        if !self.is_on {
            return plain.to_owned();
        }
        let named = self.rng.usize(1..=WATCHERS);
        let seeds = (0..named).map(|at| format!("w:{}", usize::from(WATCHER_PORT) + at));
        let seeds = seeds.collect::<Vec<_>>().join(",");
        plain.replace("redis://", "redis+sentinel://").replace("sim/", &format!("{seeds}/{MASTER}/"))
    }

    fn delay(&mut self) -> Millis {
        DELAYS[self.rng.usize(..DELAYS.len())] + self.rng.u64(..3)
    }

    fn plan(&mut self, at: Millis, planned: Planned) {
        self.plans.push((at, planned));
    }

    fn next(&self) -> Option<Millis> {
        self.plans.iter().map(|(at, _)| *at).min()
    }
}

impl Sim {
    pub(super) fn begin_failovers(&mut self, failovers: Failovers) {
        self.failovers = failovers;
        if !self.failovers.is_on {
            return;
        }
        self.redis.have_servers(SERVERS);
        self.redis.serves_replicas = false;
        let epoch = self.failovers.rng.u64(..3);
        self.failovers.agreed = View { epoch, server: 0 };
        for _ in 0..WATCHERS {
            self.watchers.list.push(Watching { view: Some(self.failovers.agreed), ..Watching::default() });
        }
    }

    /// When something changes by itself: a server, or a sentinel.
    pub(super) fn next_planned(&self) -> Option<Millis> {
        self.failovers.next()
    }

    pub(super) fn advance_failovers(&mut self) {
        while let Some(at) = self.failovers.next().filter(|at| *at <= self.now) {
            let first = self.failovers.plans.iter().position(|(other, _)| *other == at);
            let (_, planned) = self.failovers.plans.remove(first.expect("the next one"));
            self.happens(planned);
        }
    }

    fn happens(&mut self, planned: Planned) {
        trace!("{} ms: {planned:?}", self.now);
        let master = self.failovers.agreed.server;
        match planned {
            Planned::Sees { watcher, view } => {
                let knows = self.watchers.list[watcher].view.is_some_and(|known| known.epoch > view.epoch);
                if !knows && !self.watchers.list[watcher].is_cut_off {
                    self.watchers.see(watcher, view);
                }
            }
            Planned::Leads { watcher, view } => {
                let watching = &mut self.watchers.list[watcher];
                let is_news = watching.view.is_some_and(|known| known.epoch < view.epoch);
                if is_news && !watching.is_cut_off {
                    (watching.view, watching.is_leading) = (Some(view), true);
                }
            }
            Planned::Promoted { server, from } if server == master => {
                self.redis.copy_data(from, server);
                let closes = self.failovers.rng.bool();
                self.promote(server, closes);
            }
            Planned::Demoted { server, closes } if server != master => self.demote(server, master, closes),
            Planned::Returns { server, role } => {
                self.redis.servers[server].is_gone = false;
                self.redis.set_role(server, if server == master { Role::Master } else { role });
                if server != master && role == Role::Replica {
                    self.redis.copy_data(master, server);
                }
            }
            Planned::Wakes { server } => self.redis.wake(server),
            // It was overtaken.
            Planned::Promoted { .. } | Planned::Demoted { .. } => {}
        }
    }

    fn end_master(&mut self, server: usize, end: End) {
        let (now, closes) = (self.now, self.failovers.rng.u8(..3) > 0);
        let away = now + 50 + self.failovers.delay();
        let told = self.failovers.rng.u64(..INFO);
        let demoted = Planned::Demoted { server, closes };
        match end {
            End::Replaced => self.failovers.plan(now + told, demoted),
            End::Killed => {
                self.crash(server);
                let role = if self.failovers.rng.bool() { Role::Master } else { Role::Replica };
                self.failovers.plan(away, Planned::Returns { server, role });
                self.failovers.plan(away + told, demoted);
            }
            End::Stopped => {
                self.hang(server);
                self.failovers.plan(away, Planned::Wakes { server });
                self.failovers.plan(away + told, demoted);
            }
        }
    }

    /// Another server becomes the master, if there is one. Returns whether there was.
    fn fail_over(&mut self, end: End) -> bool {
        let former = self.failovers.agreed;
        let fits = |server: &usize| *server != former.server && self.redis.servers[*server].runs();
        let others: Vec<usize> = (0..SERVERS).filter(fits).collect();
        let Some(server) = self.failovers.rng.choice(others) else { return false };
        self.end_master(former.server, end);
        let view = View { epoch: former.epoch + self.failovers.rng.u64(1..3), server };
        self.failovers.agreed = view;
        let decided = self.now + self.failovers.delay();
        let (before, after) = (decided, decided + self.failovers.delay());
        // An announcement may come before what it announces.
        let early = self.failovers.rng.u8(..5) == 0;
        let (promoted, told) = if early { (after, before) } else { (before, after) };
        self.failovers.plan(promoted, Planned::Promoted { server, from: former.server });
        let watcher = self.failovers.rng.usize(..WATCHERS);
        let leading = Planned::Leads { watcher, view: View { server: former.server, ..view } };
        self.failovers.plan(before, leading);
        for watcher in 0..WATCHERS {
            let at = told + if self.failovers.rng.bool() { 0 } else { self.failovers.delay() };
            self.failovers.plan(at, Planned::Sees { watcher, view });
        }
        true
    }

    /// The sentinels begin anew: their epoch is any, and each has forgotten the others' connections.
    fn rebuild_watchers(&mut self) {
        let epoch = self.failovers.rng.u64(..=self.failovers.agreed.epoch);
        let view = View { epoch, ..self.failovers.agreed };
        self.failovers.agreed = view;
        let stays = |planned: &Planned| !matches!(planned, Planned::Sees { .. } | Planned::Leads { .. });
        self.failovers.plans.retain(|(_, planned)| stays(planned));
        let at_once = self.failovers.rng.bool();
        for watcher in 0..WATCHERS {
            self.watchers.list[watcher].view = at_once.then_some(view);
            self.watchers.list[watcher].is_leading = false;
            self.watchers.close(|_, of| of == watcher);
            let at = self.now + self.failovers.delay();
            self.failovers.plan(at, Planned::Sees { watcher, view });
        }
    }

    /// Servers and sentinels are as they should be.
    pub(super) fn restore(&mut self) {
        if !self.is_watched() {
            return;
        }
        self.failovers.plans.clear();
        let agreed = self.failovers.agreed;
        for server in 0..SERVERS {
            let (was_gone, hung) = (self.redis.servers[server].is_gone, self.redis.servers[server].hangs);
            self.redis.servers[server].is_gone = false;
            if hung {
                self.redis.wake(server);
            }
            if server != agreed.server && (was_gone || !self.redis.servers[server].is_replica()) {
                self.demote(server, agreed.server, true);
            }
        }
        self.promote(agreed.server, false);
        self.watchers.dial_time = 0;
        for watcher in 0..WATCHERS {
            let watching = &mut self.watchers.list[watcher];
            (watching.is_gone, watching.is_silent, watching.is_cut_off) = (false, false, false);
            self.watchers.see(watcher, agreed);
        }
    }
}

/// For scenarios.
impl Sim {
    /// A broker that is connected to the first of several servers, as its sentinels have told it.
    pub(in crate::core) fn watched<const CHILDREN: usize>(
        settings: &[(&str, &str)],
    ) -> (Sim, [usize; CHILDREN]) {
        let mut failovers = Failovers { is_on: true, ..Failovers::none() };
        let settings = [&[("on_upstream_loss", "error")], settings].concat();
        let mut sim = Sim::begin(&settings, &failovers.upstream("redis://sim/0"), 7);
        sim.begin_failovers(failovers);
        sim.redis.texts = Some(Vec::new());
        sim.pass(ASKED_AGAIN);
        assert!(sim.broker.upstream_is_up());
        let children = std::array::from_fn(|_| sim.child());
        (sim, children)
    }

    /// Another server is the master, and the sentinels have an answer on its way that says so.
    pub(in crate::core) fn elect(&mut self, server: usize) {
        let former = self.failovers.agreed;
        let view = View { epoch: former.epoch + 1, server };
        self.failovers.agreed = view;
        self.happens(Planned::Promoted { server, from: former.server });
        (0..WATCHERS).for_each(|watcher| self.happens(Planned::Sees { watcher, view }));
        for link in self.watchers.links() {
            self.hear_watcher(link, usize::MAX);
        }
        self.tick(self.now + ASKED_AGAIN);
        self.turn();
        for link in self.watchers.links() {
            self.read_watcher(link);
        }
    }

    /// What sentinels have said is read.
    pub(in crate::core) fn hear_sentinels(&mut self) {
        for link in self.watchers.links() {
            self.hear_watcher(link, usize::MAX);
        }
    }

    /// A connection is lost and a child asks, then the sentinels are heard: all before a turn that has time for one step.
    pub(in crate::core) fn lose_and_hear(&mut self, lost: usize, child: usize, lines: &str) {
        let lane = self.conns[&lost].lane;
        self.remove(lost);
        self.broker.lane_lost(lane, "lost by the test");
        self.post(child, &super::packed(lines));
        self.read_child(child, usize::MAX);
        self.hear_sentinels();
        self.steps = 1;
        self.turn();
        self.steps = usize::MAX;
        self.settle();
    }

    /// The server that each request was executed by which begins so.
    pub(in crate::core) fn servers_of(&self, start: &str) -> Vec<usize> {
        let side = |conn: &i64| self.redis.ledger.server_of((*conn - 1000) as usize);
        self.ran(start).iter().map(side).collect()
    }
}

impl Player {
    /// What happens between two steps where sentinels watch.
    pub(super) fn change_masters(&mut self) {
        if !self.sim.is_watched() {
            return;
        }
        match self.sim.failovers.rng.u8(..40) {
            0 | 1 => self.fail_over(),
            2 | 3 => self.change_watcher(),
            4 => self.speak_of_others(),
            5 => self.disagree(),
            6 => self.trouble_server(),
            7 => self.much_at_once(),
            8..25 => self.move_watcher_bytes(),
            _ => {}
        }
    }

    fn fail_over(&mut self) {
        let end = [End::Replaced, End::Killed, End::Stopped][self.sim.failovers.rng.usize(..3)];
        if self.sim.fail_over(end) {
            self.count(match end {
                End::Replaced => "failover",
                End::Killed => "master killed",
                End::Stopped => "master stopped",
            });
        }
    }

    fn change_watcher(&mut self) {
        let rng = &mut self.sim.failovers.rng;
        let (watcher, choice, again) = (rng.usize(..WATCHERS), rng.u8(..6), rng.bool());
        let watching = &mut self.sim.watchers.list[watcher];
        match choice {
            0 => {
                watching.is_gone = again;
                self.sim.watchers.close(|_, of| of == watcher && again);
                self.count("sentinel gone");
            }
            1 => {
                watching.is_silent = again;
                self.count("sentinel silent");
            }
            2 | 3 => {
                watching.is_cut_off = again;
                if !again {
                    let (now, view) = (self.sim.now, self.sim.failovers.agreed);
                    let at = now + self.sim.failovers.delay();
                    self.sim.failovers.plan(at, Planned::Sees { watcher, view });
                }
                self.count("sentinel cut off");
            }
            4 => {
                let links = self.sim.watchers.links();
                if let Some(cut) = self.sim.failovers.rng.choice(links) {
                    self.sim.watchers.close(|link, _| link == cut);
                    self.count("sentinel connection cut");
                }
            }
            _ => {
                let time = self.sim.failovers.delay();
                self.sim.watchers.dial_time = time;
                self.count("slow dial of sentinels");
            }
        }
    }

    /// Events that say nothing of this master, or nothing new.
    fn speak_of_others(&mut self) {
        let rng = &mut self.sim.failovers.rng;
        let (watcher, choice) = (rng.usize(..WATCHERS), rng.u8(..3));
        let at = |server: usize| format!("s {}", usize::from(SERVER_PORT) + server);
        let (channel, said) = match choice {
            0 => ("+switch-master", format!("other {} {}", at(0), at(1))),
            1 => ("+switch-master", format!("{MASTER} {} {}", at(0), at(1))),
            _ => ("+reboot", format!("master {MASTER} {}", at(0))),
        };
        self.sim.watchers.publish(watcher, channel, &said);
        self.count("sentinel event");
    }

    /// Sentinels that begin anew; or one that was configured with another server.
    fn disagree(&mut self) {
        let any_cut_off = self.sim.watchers.list.iter().any(|watching| watching.is_cut_off);
        if self.sim.failovers.rng.bool() {
            if !any_cut_off {
                self.sim.rebuild_watchers();
                self.count("sentinels rebuilt");
            }
            return;
        }
        let (rng, agreed) = (&mut self.sim.failovers.rng, self.sim.failovers.agreed);
        let (watcher, server) = (rng.usize(..WATCHERS), rng.usize(..SERVERS));
        let agree = self.sim.watchers.list.iter().all(|watching| watching.view == Some(agreed));
        if agree {
            self.sim.watchers.list[watcher].view = Some(View { server, ..agreed });
            let at = self.sim.now + 1000 + self.sim.failovers.delay();
            self.sim.failovers.plan(at, Planned::Sees { watcher, view: agreed });
            self.count("sentinel of its own opinion");
        }
    }

    /// A server hangs for a while, or is gone, and nothing follows from that.
    fn trouble_server(&mut self) {
        let rng = &mut self.sim.failovers.rng;
        let (server, hangs) = (rng.usize(..SERVERS), rng.bool());
        let weather = &self.sim.redis.servers[server];
        if !weather.runs() {
            return;
        }
        let (role, at) = (weather.role, self.sim.now + 50 + self.sim.failovers.delay());
        if hangs {
            self.sim.hang(server);
            self.sim.failovers.plan(at, Planned::Wakes { server });
        } else {
            self.sim.crash(server);
            self.sim.failovers.plan(at, Planned::Returns { server, role });
        }
        self.count("server in trouble");
    }

    /// Connections break, children ask and sentinels tell what they know, all in one turn that has no time for much.
    fn much_at_once(&mut self) {
        if self.sim.failovers.rng.bool() {
            self.fail_over();
        }
        (0..4).for_each(|_| self.talk());
        self.sim.turn();
        let soon = self.sim.now + ASKED_AGAIN;
        self.pass_until(soon);
        for link in self.sim.watchers.links() {
            self.sim.read_watcher(link);
        }
        for link in self.sim.all_links() {
            if self.sim.failovers.rng.u8(..4) == 0 {
                self.cut_link(link, 0);
                self.sim.read_lane(link, usize::MAX);
            }
        }
        self.talk();
        for link in self.sim.watchers.links() {
            self.sim.hear_watcher(link, usize::MAX);
        }
        if self.sim.failovers.rng.bool() {
            self.sim.steps = 1;
        }
        self.count("much at once");
    }

    fn move_watcher_bytes(&mut self) {
        let links = self.sim.watchers.links();
        let rng = &mut self.sim.failovers.rng;
        let Some(link) = rng.choice(links) else { return };
        let limit = if rng.bool() { usize::MAX } else { rng.usize(1..60) };
        if rng.bool() {
            self.sim.read_watcher(link);
        } else {
            self.sim.hear_watcher(link, limit);
        }
    }
}
