//! An upstream that changes its mind: in every other schedule rights, passwords, the role, the connections it takes,
//! what it loads and what keeps it busy change at random. From a seed of their own, so that what else a seed plays does
//! not depend on them.

use super::generator::Answer;
use super::player::Player;
use super::weather::Role;
use super::{holds, trace};
use crate::base::clock::Millis;
use crate::base::limits::BAR_PAUSE_MAX;

/// What the broker's user may lose at any moment.
const RIGHTS: &str = "select command client|unblock client|setname get set incr rpush blpop ping publish subscribe eval \
     watch unwatch exec multi discard";

/// What it may lack from the beginning.
const RIGHTS_OF_BLOCKS: [&str; 2] = ["multi", "discard"];

/// Whom the broker connects as, and by which URL.
const UPSTREAMS: [(&str, &str); 3] =
    [("default", "redis://sim/0"), ("default", "redis://:any@sim/0"), ("ann", "redis://ann:pa@sim/0")];

/// Rounds of `ROUND` ms after which a newcomer must be served as if nothing had been: the longest pause between two attempts
/// may have begun just before.
const ROUNDS_WELL: u32 = 20 + (BAR_PAUSE_MAX / ROUND) as u32;
const ROUND: Millis = 150;

pub(super) struct Moods {
    moody: bool,
    rng: fastrand::Rng,
    pub(super) upstream: &'static str,
    user: &'static str,
}

impl Moods {
    pub(super) fn of(seed: u64) -> Moods {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed_0f0d);
        let moody = rng.bool();
        let (user, upstream) = UPSTREAMS[if moody { rng.usize(..UPSTREAMS.len()) } else { 0 }];
        Moods { moody, rng, upstream, user }
    }

    /// Whether a request is marked so that it can be told from all others at the server. Blocking commands without a
    /// mark are alike and wait in one line.
    pub(super) fn marks(&mut self) -> bool {
        self.moody && self.rng.bool()
    }
}

impl Player {
    pub(super) fn begin_moods(&mut self) {
        let (moods, redis) = (&mut self.moods, &mut self.sim.redis);
        if !moods.moody {
            return;
        }
        redis.access.user = moods.user;
        let patience = [20, 100, 400][moods.rng.usize(..3)];
        redis.servers.iter_mut().for_each(|weather| weather.patience = patience);
        for name in RIGHTS_OF_BLOCKS {
            if moods.rng.u8(..12) == 0 {
                redis.set_right(name, false);
            }
        }
    }

    pub(super) fn changes_mind(&mut self) -> bool {
        let moods = &mut self.moods;
        if !moods.moody || moods.rng.bool() {
            return false;
        }
        let (choice, again) = (moods.rng.u8(..16), moods.rng.bool());
        match choice {
            0..3 => self.change_rights(),
            3 | 4 => {
                self.sim.redis.lock(again);
                self.count("password");
            }
            5 => {
                if self.sim.redis.access.user != "default" {
                    self.sim.redis.delete_user();
                    self.count("deleted user");
                }
            }
            6 | 7 => self.change_role(),
            8 => {
                self.sim.redis.servers.iter_mut().for_each(|weather| weather.full = again);
                self.count("maxclients");
            }
            9 | 10 => self.load(),
            11 | 12 => self.run_long(),
            13 => self.kill_script(),
            _ => {
                self.clear_up();
                self.count("all well");
            }
        }
        true
    }

    fn change_rights(&mut self) {
        let name = self.moods.rng.choice(RIGHTS.split(' ').collect::<Vec<_>>()).expect("there are some");
        let granted = self.moods.rng.u8(..3) == 0;
        trace!("  {name} is {}", if granted { "granted" } else { "denied" });
        self.sim.redis.set_right(name, granted);
        self.count("rights");
    }

    fn change_role(&mut self) {
        let role = [Role::Master, Role::Replica, Role::Orphan][self.moods.rng.usize(..3)];
        // Where sentinels watch, roles are theirs.
        if !self.sim.is_watched() {
            self.sim.redis.set_role(0, role);
            self.count("role");
        }
    }

    /// The server begins anew with a dataset to read.
    fn load(&mut self) {
        let duration: Millis = [30, 300, 3000][self.moods.rng.usize(..3)];
        self.restart();
        let server = self.sim.server_in_use().unwrap_or(0);
        self.sim.redis.load_for(server, duration);
        self.count("loading");
    }

    fn run_long(&mut self) {
        let Some(child) = self.one_of().filter(|child| !self.sim.peers[*child].shut) else { return };
        let script = ["loop=30", "loop=300", "loop=3000", "loop"][self.moods.rng.usize(..4)];
        self.say(child, Answer::Script, &format!("EVAL {script} 0 $"));
        self.count("script");
    }

    fn kill_script(&mut self) {
        let Some(child) = self.one_of().filter(|child| !self.sim.peers[*child].shut) else { return };
        self.say(child, Answer::Stored, "SCRIPT KILL");
        self.count("script killed");
    }

    fn say(&mut self, child: usize, answer: Answer, line: &str) {
        let mut bytes = Vec::new();
        self.put(&mut bytes, child, answer, line);
        self.sim.post(child, &bytes);
        self.sim.read_child(child, usize::MAX);
    }

    /// All is as a broker likes it.
    pub(super) fn clear_up(&mut self) {
        self.sim.redis.clear_up();
    }

    /// 13: once the upstream is well, a newcomer is soon served as if nothing had been.
    pub(super) fn serve_newcomer(&mut self) {
        if !self.moods.moody || !self.strict || self.sim.broker.is_draining() {
            return;
        }
        self.newcomer();
        let child = self.scripts.len() - 1;
        for round in 0.. {
            self.scripts[child].error = None;
            self.ask_for_everything(child);
            let script = &self.scripts[child];
            if script.error.is_none() && script.is_answered() {
                return;
            }
            let told = script.error.as_deref().unwrap_or("nothing");
            holds!(13, round <= ROUNDS_WELL, "the upstream is well and a newcomer is told {told}");
        }
    }

    fn ask_for_everything(&mut self, child: usize) {
        let requests = [
            (Answer::Pong, "PING $"),
            (Answer::Stored, "SET k1 $"),
            (Answer::Value, "GET $"),
            (Answer::Multi, "MULTI"),
            (Answer::First, "INCR $"),
            (Answer::Exec, "EXEC"),
            (Answer::Element, "BLPOP x 0"),
        ];
        let pops = self.sim.broker.settings().leases_blocking_max > 0;
        let mut bytes = Vec::new();
        for (answer, line) in requests.into_iter().take(requests.len() - usize::from(!pops)) {
            self.put(&mut bytes, child, answer, line);
        }
        self.sim.post(child, &bytes);
        (0..3).for_each(|db| self.sim.redis.give(db, b"x"));
        self.sim.pass(ROUND);
        self.listen_only();
    }
}
