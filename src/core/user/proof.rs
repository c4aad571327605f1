//! Questions about users, asked on the probe with the very names and passwords of children, and what the answers mean for
//! the children that asked. RESET follows each question, so that the next one does not depend on it. A password that is
//! refused here harms no other connection.

use crate::base::failure::{ErrorLine, Failure, Limit};
use crate::base::key::Key;
use crate::base::limits;
use crate::command::NO_COMMAND;
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::RoleData;
use crate::core::connection::slot::{SlotFlags, SlotKind};
use crate::core::keys::UserId;
use crate::core::notice::Notice;
use crate::core::questions::probe::{Asker, Claim, Proof, ProofOutcome, Proved};
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::core::timers::Timer;
use crate::core::user::credentials::Password;
use crate::resp::{Request, encode, reply};

/// A longer argument of SELECT is no number, bytes.
pub(crate) const SELECT_MAX: usize = 64;

pub(crate) const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

pub(crate) const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";

pub(crate) const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";

pub(crate) const RESET: &[u8] = b"*1\r\n$5\r\nRESET\r\n";

impl Shared {
    /// Makes the probe's lane and dials it. It is dialled again for as long as the broker lives.
    pub(crate) fn open_probe(&mut self) {
        let pool = self.control_pool();
        let lane = self.connections.add(Lane::new(pool, RoleData::Probe, self.env.now));
        self.probe.open(lane);
        self.connections.want(&mut self.env, lane);
    }

    fn probe_is_ready(&self) -> bool {
        self.probe.lane().is_some_and(|lane| self.connections.known(lane).is_some_and(Lane::is_ready))
    }

    /// Asks now and then whether the default user needs a password: that may change without notice.
    pub(crate) fn ask_default_again(&mut self) {
        if self.probe_is_ready() && self.probe.default_is_due(self.env.now) {
            self.ask_default();
        }
    }

    pub(super) fn ask_default(&mut self) {
        let asks = self.users.are_upstreams() && !self.probe.is_asking_default();
        if asks && self.probe_is_ready() {
            self.probe.asks_default(self.env.now);
            // A connection that is authenticated stays so, even if the user has a password by now.
            self.prove(RESET, Proof::Reset);
            self.prove(PING, Proof::Default);
        }
    }

    /// A lane of this user was lost: that is how the upstream tells that a user was deleted.
    pub(crate) fn recheck(&mut self, user: UserId) {
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

    /// A child authenticates. `request` is sent as it stands, without the options behind the password.
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
        Flow::Hold(Hold::Question)
    }

    /// Asks whether a user takes any password. Then all children with its name are one user, with whatever password.
    fn test_any_password(&mut self, name: &[u8]) {
        let word = format!("{:032x}", self.env.rng.u128(..)).into_bytes();
        let mut bytes = Vec::new();
        encode::request(&mut bytes, &[&b"HELLO"[..], b"2", b"AUTH", name, &word]);
        self.prove(&bytes, Proof::AnyPassword { name: name.into(), word: Password::new(&word) });
        self.prove(RESET, Proof::Reset);
    }

    /// A child's SELECT: whether its user may, and whether the db exists.
    pub(crate) fn ask_select(&mut self, child: &mut Child, request: &Request<'_>, db: Option<u32>) -> Flow {
        // No number is as long, and before it is authenticated the probe may send only short arguments.
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
    pub(crate) fn ask_relay(&mut self, child: &mut Child, request: &[u8]) -> Flow {
        self.ask_as(child, |broker, asker, _| broker.prove(request, Proof::Relay { asker }))
    }

    fn ask_as(&mut self, child: &mut Child, ask: impl FnOnce(&mut Shared, Asker, UserId)) -> Flow {
        let asker = match self.asker(child) {
            Ok(asker) => asker,
            Err(flow) => return flow,
        };
        let user = child.user();
        if self.users.is_known(user) {
            let auth = self.auth_request(user);
            self.prove(&auth, Proof::As(user));
        }
        // Else as the default user, which it is after every RESET.
        ask(self, asker, user);
        self.prove(RESET, Proof::Reset);
        Flow::Hold(Hold::Question)
    }

    /// Numbers a child's question. It waits for the answer as long as for a lane, but never for less than
    /// the upstream may take to connect.
    fn asker(&mut self, child: &mut Child) -> Result<Asker, Flow> {
        if !self.probe_is_ready() {
            return Err(self.wait_for_upstream(child));
        }
        let lane = self.probe.lane().and_then(|lane| self.connections.known_mut(lane));
        if lane.is_some_and(|lane| lane.holds_back(child.key())) {
            return Err(Flow::Hold(Hold::LaneFull));
        }
        let asker = self.probe.asker(child.key());
        let latest = self.env.now + self.env.settings.queue_timeout.max(self.env.settings.connect_timeout);
        child.front_mut().ask(asker.number, latest);
        self.env.timers.arm(latest, Timer::Child(child.key()));
        Ok(asker)
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
        let Some(lane) = self.probe.lane() else { return };
        self.probe.sent(proof);
        let (env, none) = (&mut self.env, SlotFlags::NONE);
        self.connections.send(env, lane, request, Key::NONE, NO_COMMAND, SlotKind::Proof, none);
    }

    /// The child has waited long enough for an answer, which is dropped when it comes.
    pub(crate) fn proof_wait_over(&mut self, child: &mut Child) {
        child.front_mut().forget_question();
        let down = self.down_at_all();
        self.fail_front(child, down);
    }

    /// The probe is connected.
    pub(crate) fn probe_ready(&mut self) {
        self.ask_default();
        for user in self.users.suspects() {
            self.recheck(user);
        }
        self.env.notify(Notice::UpstreamAnswers);
    }

    // ---- answers --------------------------------------------------------------------------------------

    /// The answer to the oldest request; `None` when the connection was lost before it came.
    pub(crate) fn proof_answered(&mut self, frame: Option<&[u8]>) {
        let Some(proof) = self.probe.answered() else { return };
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
                self.tell(asker, ProofOutcome::Again);
            }
            (_, None) => {}
            (proof, Some(frame)) => self.proof_given(proof, frame),
        }
    }

    fn proof_given(&mut self, proof: Proof, frame: &[u8]) {
        match proof {
            Proof::Claim { asker, claim } => self.tell(asker, ProofOutcome::Claim(claim, frame.to_vec())),
            Proof::Recheck(user) => self.check_credentials(user, frame),
            Proof::As(user) => {
                self.probe.authenticated(reply::is_error(frame).then_some(frame));
                self.check_credentials(user, frame);
            }
            Proof::Select { asker, db } => {
                let answer = self.probe.verdict(frame);
                let db = db.filter(|_| answer == b"+OK\r\n");
                self.tell(asker, ProofOutcome::Select(db, answer));
            }
            Proof::Multi { asker, user } => {
                let answer = self.probe.verdict(frame);
                let refusal = reply::is_error(&answer).then_some(answer);
                self.users.set_multi(user, refusal, self.env.now);
                self.tell(asker, ProofOutcome::Again);
            }
            Proof::Permit { asker } => {
                let verdict = match self.probe.verdict(frame) {
                    refusal if self.probe.is_denied() || is_denial(&refusal) => ProofOutcome::Answer(refusal),
                    _ => ProofOutcome::Permitted,
                };
                self.tell(asker, verdict);
            }
            Proof::Relay { asker } => {
                let answer = self.probe.verdict(frame);
                self.tell(asker, ProofOutcome::Answer(answer));
            }
            Proof::Default => self.default_answered(frame),
            Proof::AnyPassword { name, word } => {
                let any = !reply::is_error(frame);
                if any || is_wrong_password(frame) {
                    self.users.set_any_password(&name, any.then_some(word), self.env.now);
                }
            }
            Proof::Ignore => {}
            Proof::Reset => {
                self.probe.reset();
                if let (Some(lane), false) = (self.probe.lane(), frame == b"+RESET\r\n") {
                    self.lane_lost(lane, "RESET was refused on the connection that proves users");
                }
            }
        }
    }

    fn tell(&mut self, asker: Asker, verdict: ProofOutcome) {
        self.env.notify(Notice::Proved(Proved { asker, verdict }));
    }

    /// The upstream has answered a question about a child, which may wait for another one by now.
    pub(crate) fn proved(&mut self, child: &mut Child, proved: Proved) {
        let Proved { asker, verdict } = proved;
        if let ProofOutcome::Claim(claim, frame) = &verdict
            && is_wrong_password(frame)
        {
            self.guessed_wrong(child, &claim.name);
        }
        if child.hold() != Hold::Question || !child.front().asks(asker.number) {
            return;
        }
        child.front_mut().forget_question();
        match verdict {
            ProofOutcome::Again => self.lift(child),
            ProofOutcome::Permitted => {
                child.front_mut().permit();
                self.lift(child);
            }
            ProofOutcome::Select(db, answer) => {
                child.session_mut().db = db.unwrap_or(child.session().db);
                self.answer_front(child, &answer);
            }
            ProofOutcome::Answer(answer) => self.answer_front(child, &answer),
            ProofOutcome::Claim(_, frame) if reply::is_error(&frame) => self.answer_front(child, &frame),
            ProofOutcome::Claim(claim, frame) => self.claim_accepted(child, &claim, &frame),
        }
    }

    fn answer_front(&mut self, child: &mut Child, frame: &[u8]) {
        child.front_mut().set_answered();
        if reply::is_error(frame) {
            child.session_mut().transaction.spoil();
        }
        self.answer(child, frame);
        self.lift(child);
    }

    fn claim_accepted(&mut self, child: &mut Child, claim: &Claim, frame: &[u8]) {
        let Claim { name, password, resume, tested } = claim;
        self.guessed_right(child, (name, password.expose()));
        let Some(user) = self.admit_user(name, password) else {
            if !tested {
                // Many passwords of one user came at once. This child asks again, now that the user is tested first.
                return self.lift(child);
            }
            let failure = Failure::Limited(Limit::Passwords { max: limits::USER_PASSWORDS_MAX });
            self.env.counters.failed(failure.kind(), 1);
            let mut refusal = Vec::new();
            encode::error(&mut refusal, failure.line());
            return self.answer_front(child, &refusal);
        };
        self.become_user(child, user, None);
        let Some(argument) = *resume else { return self.answer_front(child, frame) };
        child.front_mut().set_hello_done(argument);
        self.lift(child);
    }

    /// The user of a name and password that the upstream has accepted. Unused passwords of the same name make room.
    fn admit_user(&mut self, name: &[u8], password: &Password) -> Option<UserId> {
        let user = self.users.admit(name, password, self.env.now);
        if user.is_some() {
            return user;
        }
        self.end_user(self.users.longest_abandoned(name)?);
        self.users.admit(name, password, self.env.now)
    }

    /// Only WRONGPASS means that the user is gone or has another password.
    fn check_credentials(&mut self, user: UserId, frame: &[u8]) {
        if is_wrong_password(frame) {
            self.user_refused(user);
        }
    }

    fn default_answered(&mut self, frame: &[u8]) {
        // Of all that Redis has against a PING only an unknown name comes before the question who asks.
        let code = reply::error_code(frame);
        let refused = code.is_some_and(|code| code != b"ERR");
        let open = refused || frame.starts_with(b"+PONG");
        let closed = code == Some(b"NOAUTH");
        self.probe.default_told((open || closed).then_some(!closed), self.env.now);
        if let (Some(lane), false) = (self.probe.lane(), open || closed) {
            return self.lane_lost(lane, "PING was not answered as by Redis");
        }
        self.env.notify(Notice::UpstreamAnswers);
    }
}

/// The one refusal that means that the password is wrong, or the user is gone.
fn is_wrong_password(frame: &[u8]) -> bool {
    reply::error_code(frame) == Some(b"WRONGPASS")
}

/// Whether the user lacks the right to a command.
fn is_denial(frame: &[u8]) -> bool {
    matches!(reply::error_code(frame), Some(b"NOPERM" | b"NOAUTH"))
}
