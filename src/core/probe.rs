//! The probe: one connection on which the upstream is asked about users, with the very words and passwords of
//! children. It is greeted with nothing, serves nobody, and is reset behind every question, so that whoever it
//! was a moment ago means nothing for the next one. A password that is refused here harms nothing.

use super::child::{Child, Hold};
use super::dispatch::Flow;
use super::lane::{Lane, LaneRole, LaneState, SlotKind};
use super::notice::Notice;
use super::shared::Shared;
use super::timers::Timer;
use super::users::{Password, UserId};
use crate::base::clock::Millis;
use crate::base::key::Key;
use crate::base::limits;
use crate::command::NO_COMMAND;
use crate::config::value::Auth;
use crate::resp::{Request, encode};
use std::collections::VecDeque;

/// Who waits for an answer: a child, and the number of its question. A child that has given up asks under
/// another number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    child: Key<Child>,
    number: u64,
}

/// Who a child says it is.
#[derive(Debug)]
struct Claim {
    name: Box<[u8]>,
    password: Password,
    /// Where its HELLO goes on.
    resume: Option<u16>,
    /// Whether the user takes any password was asked before, or was known.
    tested: bool,
}

/// What one request on the probe is for. Answers come in the order of the requests.
#[derive(Debug)]
enum Proof {
    /// A child's AUTH or HELLO AUTH.
    Claim { asker: Asker, claim: Claim },
    /// HELLO AUTH of a user with a word that nobody has chosen: does it take any password?
    AnyPassword { name: Box<[u8]>, word: Password },
    /// HELLO AUTH of a user that has lost a connection: does it still exist?
    Recheck(UserId),
    /// HELLO AUTH of a user as whom the next requests are made.
    As(UserId),
    /// A child's SELECT, as its user.
    Select { asker: Asker, db: Option<u32> },
    /// MULTI, as a child's user.
    Multi { asker: Asker, user: UserId },
    /// A command of the same name as a child's, as its user: does it have the right?
    Permit { asker: Asker },
    /// A child's request that has to overtake what runs on its lanes, as its user.
    Relay { asker: Asker },
    /// PING as nobody: may the default user go without a password?
    Default,
    /// The answer changes nothing.
    Ignore,
    /// RESET.
    Reset,
}

/// What an answer on the probe means for the child that asked.
#[derive(Debug)]
enum Verdict {
    /// Its request is looked at again: what was asked is known now, or the connection was lost.
    Again,
    /// Its user has the right to the request at the front.
    Permitted,
    /// The db it has selected, if it has, and the answer.
    Select(Option<u32>, Vec<u8>),
    /// The answer.
    Answer(Vec<u8>),
    /// What the upstream says of its name and password.
    Claim(Claim, Vec<u8>),
}

/// A verdict and whom it is for.
#[derive(Debug)]
pub(super) struct Proved {
    asker: Asker,
    verdict: Verdict,
}

impl Proved {
    pub(super) fn child(&self) -> Key<Child> {
        self.asker.child
    }
}

/// The connection, and what is known about nobody.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// None where children need no proof.
    pub(super) lane: Option<Key<Lane>>,
    proofs: VecDeque<Proof>,
    /// Whether the upstream's default user needs no password, if that is known.
    pub(super) default_open: Option<bool>,
    /// When that was last asked, and answered.
    asked_at: Millis,
    told_at: Millis,
    /// The answer is still to come.
    asking_default: bool,
    /// The answer to `As`, if it was a refusal.
    denied: Option<Vec<u8>>,
    number: u64,
}

impl Probe {
    /// Whether `default_open` was told a moment ago.
    pub(super) fn default_is_fresh(&self, now: Millis) -> bool {
        self.told_at + limits::DEFAULT_FRESH > now
    }
}

/// A longer argument of SELECT is no number, bytes.
const SELECT_MAX: usize = 64;
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";
const RESET: &[u8] = b"*1\r\n$5\r\nRESET\r\n";

impl Shared {
    /// Makes the probe's lane and dials it. It is dialled again for as long as the broker lives.
    pub(super) fn open_probe(&mut self) {
        let pool = self.control_pool();
        let lane = self.connections.lanes.insert(Lane::new(pool, LaneRole::Probe, self.env.now));
        self.probe.lane = Some(lane);
        self.want_connection(lane);
    }

    pub(super) fn probe_is_ready(&self) -> bool {
        let lane = self.probe.lane.and_then(|lane| self.connections.lanes.get(lane));
        lane.is_some_and(|lane| lane.state == LaneState::Ready)
    }

    /// It is gone; what it had not answered is settled by `lane_lost`.
    pub(super) fn probe_lost(&mut self) {
        self.probe.default_open = None;
        self.probe.asking_default = false;
    }

    /// Asks now and then whether the default user needs a password: that may change, and nobody tells.
    pub(super) fn ask_default_again(&mut self) {
        if self.probe_is_ready() && self.probe.asked_at + limits::RIGHTS_FRESH <= self.env.now {
            self.ask_default();
        }
    }

    pub(super) fn ask_default(&mut self) {
        let asks = self.users.mode == Auth::Passthrough && !self.probe.asking_default;
        if asks && self.probe_is_ready() {
            self.probe.asking_default = true;
            self.probe.asked_at = self.env.now;
            // A connection that was let in stays so, whatever has changed since.
            self.prove(RESET, Proof::Reset);
            self.prove(PING, Proof::Default);
        }
    }

    /// A lane of this user was lost: that is how the upstream tells that a user was deleted.
    pub(super) fn recheck(&mut self, user: UserId) {
        if !self.users.is_known(user) {
            if user == UserId::DEFAULT {
                self.ask_default();
            }
            return;
        }
        let ready = self.probe_is_ready();
        self.users.set_suspect(user, !ready);
        if ready {
            let auth = self.auth_request(user);
            self.prove(&auth, Proof::Recheck(user));
            self.prove(RESET, Proof::Reset);
        }
    }

    // ---- what children ask ----------------------------------------------------------------------------

    /// A child says who it is. `request` is sent as it stands, but for what is said behind the password.
    pub(super) fn ask_claim(
        &mut self,
        child: &mut Child,
        request: &[&[u8]],
        claim: (&[u8], &[u8]),
        resume: Option<u16>,
    ) -> Flow {
        let asker = match self.asker(child) {
            Ok(asker) => asker,
            Err(flow) => return flow,
        };
        let mut bytes = zeroize::Zeroizing::new(Vec::new());
        encode::request(&mut bytes, request);
        if self.users.is_worth_a_test(claim.0, claim.1, self.env.now) {
            self.test_any_password(claim.0);
        }
        let tested = self.users.is_named(claim.0);
        let claim = Claim { name: claim.0.into(), password: Password::new(claim.1), resume, tested };
        self.prove(&bytes, Proof::Claim { asker, claim });
        self.prove(RESET, Proof::Reset);
        Flow::Hold(Hold::Answer)
    }

    /// Asks whether a user takes any password: then whoever is that user is the same one, whatever it has said.
    fn test_any_password(&mut self, name: &[u8]) {
        let word = format!("{:032x}", self.env.rng.u128(..)).into_bytes();
        let mut bytes = Vec::new();
        encode::request(&mut bytes, &[&b"HELLO"[..], b"2", b"AUTH", name, &word]);
        self.prove(&bytes, Proof::AnyPassword { name: name.into(), word: Password::new(&word) });
        self.prove(RESET, Proof::Reset);
    }

    /// A child's SELECT: whether its user may, and whether the db exists.
    pub(super) fn ask_select(&mut self, child: &mut Child, request: &Request<'_>, db: Option<u32>) -> Flow {
        // No number is as long, and as nobody the probe may not say more than a little.
        let argument = request.arg(1);
        let argument = if argument.len() > SELECT_MAX { b"x" } else { argument };
        let mut bytes = Vec::new();
        encode::request(&mut bytes, &[request.arg(0), argument]);
        self.ask_as(child, |broker, asker, _| broker.prove(&bytes, Proof::Select { asker, db }))
    }

    /// Whether a child's user may MULTI: in a block, a MULTI that is refused would let what follows it run
    /// one by one.
    pub(super) fn ask_multi(&mut self, child: &mut Child) -> Flow {
        self.ask_as(child, |broker, asker, user| {
            broker.prove(MULTI, Proof::Multi { asker, user });
            broker.prove(DISCARD, Proof::Ignore);
        })
    }

    /// Whether a child's user may run a command that the broker carries out itself: `harmless` is one that does
    /// nothing.
    pub(super) fn ask_permit(&mut self, child: &mut Child, harmless: &[&[u8]]) -> Flow {
        let mut request = Vec::new();
        encode::request(&mut request, harmless);
        self.ask_as(child, |broker, asker, _| broker.prove(&request, Proof::Permit { asker }))
    }

    /// A child's SCRIPT KILL or FUNCTION KILL: on the lane that runs the script it would stand behind it.
    pub(super) fn ask_relay(&mut self, child: &mut Child, request: &[u8]) -> Flow {
        self.ask_as(child, |broker, asker, _| broker.prove(request, Proof::Relay { asker }))
    }

    fn ask_as(&mut self, child: &mut Child, ask: impl FnOnce(&mut Shared, Asker, UserId)) -> Flow {
        let asker = match self.asker(child) {
            Ok(asker) => asker,
            Err(flow) => return flow,
        };
        let user = child.user;
        if self.users.is_known(user) {
            let auth = self.auth_request(user);
            self.prove(&auth, Proof::As(user));
        }
        // Else as the default user, which it is after every RESET.
        ask(self, asker, user);
        self.prove(RESET, Proof::Reset);
        Flow::Hold(Hold::Answer)
    }

    /// Numbers a child's question. It waits for the answer as long as for a lane, but never for less than
    /// the upstream may take to connect.
    fn asker(&mut self, child: &mut Child) -> Result<Asker, Flow> {
        if !self.probe_is_ready() {
            return Err(self.wait_for_upstream(child));
        }
        if let Some(lane) = self.probe.lane.and_then(|lane| self.connections.lanes.get_mut(lane))
            && lane.out.len() >= limits::LANE_WINDOW
        {
            lane.held.push(child.key);
            return Err(Flow::Hold(Hold::Lane));
        }
        self.probe.number += 1;
        let number = self.probe.number;
        let latest = self.env.now + self.env.settings.queue_timeout.max(self.env.settings.connect_timeout);
        child.proof = Some(number);
        let until = *child.upstream_until.insert(latest);
        self.env.timers.arm(until, Timer::Child(child.key));
        Ok(Asker { child: child.key, number })
    }

    fn auth_request(&self, user: UserId) -> zeroize::Zeroizing<Vec<u8>> {
        let said = self.users.get(user, &self.env.upstream);
        let mut bytes = zeroize::Zeroizing::new(Vec::new());
        let (name, password) = (said.name.unwrap_or(b"default"), said.password.unwrap_or_default());
        // As lanes are greeted: AUTH may be renamed.
        encode::request(&mut bytes, &[&b"HELLO"[..], b"2", b"AUTH", name, password]);
        bytes
    }

    fn prove(&mut self, request: &[u8], proof: Proof) {
        let Some(lane) = self.probe.lane else { return };
        self.probe.proofs.push_back(proof);
        self.send(lane, request, Key::NONE, NO_COMMAND, SlotKind::Proof, 0);
    }

    /// The child has waited long enough for an answer, which finds nobody when it comes.
    pub(super) fn proof_wait_over(&mut self, child: &mut Child) {
        child.proof = None;
        let down = self.down_at_all();
        self.fail_front(child, &down);
    }
}

impl Shared {
    /// The probe's connection stands.
    pub(super) fn probe_ready(&mut self) {
        self.ask_default();
        for user in self.users.suspects() {
            self.recheck(user);
        }
        self.env.notices.push_back(Notice::UpstreamAnswers);
    }

    // ---- answers --------------------------------------------------------------------------------------

    /// The answer to the oldest request; `None` when the connection was lost before it came.
    pub(super) fn proof_answered(&mut self, frame: Option<&[u8]>) {
        let Some(proof) = self.probe.proofs.pop_front() else { return };
        match (proof, frame) {
            (Proof::Recheck(user), None) => self.users.set_suspect(user, true),
            (
                Proof::Claim { asker, .. }
                | Proof::Select { asker, .. }
                | Proof::Multi { asker, .. }
                | Proof::Permit { asker }
                | Proof::Relay { asker },
                None,
            ) => {
                // Nothing has changed: its request is looked at afresh.
                self.tell(asker, Verdict::Again);
            }
            (_, None) => {}
            (proof, Some(frame)) => self.proof_given(proof, frame),
        }
    }

    fn proof_given(&mut self, proof: Proof, frame: &[u8]) {
        match proof {
            Proof::Claim { asker, claim } => self.tell(asker, Verdict::Claim(claim, frame.to_vec())),
            Proof::Recheck(user) => self.check_credentials(user, frame),
            Proof::As(user) => {
                self.probe.denied = (frame.first() == Some(&b'-')).then(|| frame.to_vec());
                self.check_credentials(user, frame);
            }
            Proof::Select { asker, db } => {
                let answer = self.probe.denied.clone().unwrap_or_else(|| frame.to_vec());
                let db = db.filter(|_| answer == b"+OK\r\n");
                self.tell(asker, Verdict::Select(db, answer));
            }
            Proof::Multi { asker, user } => {
                let answer = self.probe.denied.as_deref().unwrap_or(frame);
                let refusal = (answer.first() == Some(&b'-')).then(|| answer.to_vec());
                self.users.set_multi(user, refusal, self.env.now);
                self.tell(asker, Verdict::Again);
            }
            Proof::Permit { asker } => {
                let refused = frame.starts_with(b"-NOPERM") || frame.starts_with(b"-NOAUTH");
                let verdict = if refused || self.probe.denied.is_some() {
                    Verdict::Answer(self.probe.denied.clone().unwrap_or_else(|| frame.to_vec()))
                } else {
                    Verdict::Permitted
                };
                self.tell(asker, verdict);
            }
            Proof::Relay { asker } => {
                let answer = self.probe.denied.clone().unwrap_or_else(|| frame.to_vec());
                self.tell(asker, Verdict::Answer(answer));
            }
            Proof::Default => self.default_answered(frame),
            Proof::AnyPassword { name, word } => {
                if frame.first() != Some(&b'-') || frame.starts_with(b"-WRONGPASS") {
                    let any = frame.first() != Some(&b'-');
                    self.users.set_any_password(&name, any.then_some(word), self.env.now);
                }
            }
            Proof::Ignore => {}
            Proof::Reset => {
                self.probe.denied = None;
                if let (Some(lane), false) = (self.probe.lane, frame == b"+RESET\r\n") {
                    self.lane_lost(lane, "RESET was refused on the connection that proves users");
                }
            }
        }
    }

    fn tell(&mut self, asker: Asker, verdict: Verdict) {
        self.env.notices.push_back(Notice::Proved(Proved { asker, verdict }));
    }

    /// The upstream has answered a question about a child, which may wait for another one by now.
    pub(super) fn proved(&mut self, child: &mut Child, proved: Proved) {
        let Proved { asker, verdict } = proved;
        if let Verdict::Claim(claim, frame) = &verdict
            && frame.starts_with(b"-WRONGPASS")
        {
            self.guessed_wrong(child, &claim.name);
        }
        if child.hold != Hold::Answer || child.proof != Some(asker.number) {
            return;
        }
        child.proof = None;
        match verdict {
            Verdict::Again => self.lift(child),
            Verdict::Permitted => {
                child.permitted = true;
                self.lift(child);
            }
            Verdict::Select(db, answer) => {
                child.session.db = db.unwrap_or(child.session.db);
                self.answer_front(child, &answer);
            }
            Verdict::Answer(answer) => self.answer_front(child, &answer),
            Verdict::Claim(_, frame) if frame.first() == Some(&b'-') => self.answer_front(child, &frame),
            Verdict::Claim(claim, frame) => self.claim_accepted(child, &claim, &frame),
        }
    }

    fn answer_front(&mut self, child: &mut Child, frame: &[u8]) {
        child.front_done = true;
        if let (Some(b'-'), Some(queued)) = (frame.first(), child.session.transaction.queued_mut()) {
            queued.dirty = true;
        }
        self.answer(child, frame);
        self.lift(child);
    }

    fn claim_accepted(&mut self, child: &mut Child, claim: &Claim, frame: &[u8]) {
        let Claim { name, password, resume, tested } = claim;
        self.guessed_right(child, (name, password.expose()));
        let Some(user) = self.admit_user(name, password) else {
            if !tested {
                // All of them came at once: this one asks again, now that it is known to be worth a test.
                return self.lift(child);
            }
            let text =
                format!("BROKERLIMIT {} passwords of this user are in use", limits::USER_PASSWORDS_MAX);
            self.env.counters.failed(text.as_bytes(), 1);
            let mut refusal = Vec::new();
            encode::error(&mut refusal, text);
            return self.answer_front(child, &refusal);
        };
        self.become_user(child, user, None);
        let Some(argument) = *resume else { return self.answer_front(child, frame) };
        child.hello_done = argument;
        self.lift(child);
    }

    /// The user that a name and password stand for, which the upstream has accepted. Those that nobody uses any more
    /// make room.
    fn admit_user(&mut self, name: &[u8], password: &Password) -> Option<UserId> {
        let user = self.users.admit(name, password, self.env.now);
        if user.is_some() {
            return user;
        }
        self.end_user(self.users.longest_abandoned(name)?);
        self.users.admit(name, password, self.env.now)
    }

    /// Only these words mean that nobody may be this user any more.
    fn check_credentials(&mut self, user: UserId, frame: &[u8]) {
        if frame.starts_with(b"-WRONGPASS") {
            self.user_refused(user);
        }
    }

    fn default_answered(&mut self, frame: &[u8]) {
        self.probe.asking_default = false;
        self.probe.told_at = self.env.now;
        // Of all that Redis has against a PING only an unknown name comes before the question who asks.
        let refused = frame.first() == Some(&b'-') && !frame.starts_with(b"-ERR");
        if frame.starts_with(b"-NOAUTH") {
            self.probe.default_open = Some(false);
        } else if refused || frame.starts_with(b"+PONG") {
            self.probe.default_open = Some(true);
        } else if let Some(lane) = self.probe.lane {
            return self.lane_lost(lane, "PING was not answered as by Redis");
        }
        self.env.notices.push_back(Notice::UpstreamAnswers);
    }
}
