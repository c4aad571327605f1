//! Questions about users, asked on the probe with the very names and passwords of children, and what the answers mean for
//! the children that asked. A password that is refused here harms no other connection.

use crate::base::failure::{Failure, Limit};
use crate::base::limits;
use crate::core::child::Child;
use crate::core::child::hold::Hold;
use crate::core::connection::bar::is_too_many;
use crate::core::connection::lane::Lane;
use crate::core::connection::role::RoleData;
use crate::core::connection::slot::{Slot, SlotKind};
use crate::core::keys::UserId;
use crate::core::notice::Notice;
use crate::core::questions::probe::{Asker, Claim, Proof, ProofAbout, ProofVerdict};
use crate::core::request::flow::Flow;
use crate::core::shared::Shared;
use crate::core::sweeps::Sweep;
use crate::core::timers::Timer;
use crate::core::user::credentials::Password;
use crate::resp::{Request, encode, reply};
use zeroize::Zeroizing;

/// A longer argument of SELECT is no number, bytes.
const SELECT_MAX: usize = 64;

impl Shared {
    /// Dials the probe, for as long as the broker lives.
    pub(crate) fn open_probe(&mut self) {
        let pool = self.control_pool();
        let lane = self.connections.add(Lane::new(pool, RoleData::Probe, self.env.now));
        self.probe.open(lane);
        self.connections.want(&mut self.env, lane);
    }

    fn probe_is_ready(&self) -> bool {
        let ready = |lane| self.connections.known(lane).is_some_and(Lane::is_ready);
        self.probe.is_free() && self.probe.lane().is_some_and(ready)
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
            if self.probe.has_reset() {
                self.prove(&[b"RESET"], Proof::Reset);
            }
            self.prove(&[b"PING"], Proof::Default);
            self.probe.uses();
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
            self.prove_user(user, Proof::Recheck(user));
            self.end_question();
        }
    }

    /// Asks whether a user takes any password. Then all children with its name are one user, with whatever password.
    fn test_any_password(&mut self, name: &[u8]) {
        let word = format!("{:032x}", self.env.rng.u128(..)).into_bytes();
        let proof = Proof::AnyPassword(name.into(), Password::new(&word));
        self.prove(&[b"HELLO", b"2", b"AUTH", name, &word], proof);
        if self.probe.has_reset() {
            self.prove(&[b"RESET"], Proof::Reset);
        }
    }

    /// A child's SELECT: whether its user may, and whether the db exists.
    pub(crate) fn ask_select(&mut self, child: &mut Child, request: &Request<'_>, db: Option<u32>) -> Flow {
        // No number is as long, and before it is authenticated the probe may send only short arguments.
        let argument = request.arg(1);
        let argument = if argument.len() > SELECT_MAX { b"x" } else { argument };
        self.ask_for(child, &[request.arg(0), argument], ProofAbout::Select(db))
    }

    /// A child's SCRIPT KILL or FUNCTION KILL: on the lane that runs the script it would stand behind it.
    pub(crate) fn ask_relay(&mut self, child: &mut Child, request: &Request<'_>) -> Flow {
        let args: Vec<&[u8]> = request.args().collect();
        self.ask_for(child, &args, ProofAbout::Relay)
    }

    /// Asks for a child: who it says it is, or something as its user. It waits for the answer as long as for a lane, but
    /// never for less than the upstream may take to connect.
    pub(super) fn ask_for(&mut self, child: &mut Child, request: &[&[u8]], about: ProofAbout) -> Flow {
        if !self.probe_is_ready() {
            return self.wait_for_upstream(child);
        }
        if self.probe.lane().is_some_and(|lane| self.connections.holds_back(lane, child.key())) {
            return Flow::Hold(Hold::LaneFull);
        }
        let asker = self.probe.asker(child.key());
        let latest = self.env.now + self.env.settings.queue_timeout.max(self.env.settings.connect_timeout);
        child.front_mut().ask(asker.number, self.env.now, latest);
        self.env.timers.arm(latest, Timer::Child(child.key()));
        match &about {
            ProofAbout::Claim(Claim { name, password, .. })
                if self.users.is_worth_a_test(name, password.expose(), self.env.now) =>
            {
                self.test_any_password(name);
            }
            ProofAbout::Claim(_) => {}
            _ if self.users.is_known(child.user()) => {
                self.prove_user(child.user(), Proof::As(child.user()));
            }
            // As the default user, which the probe is after every RESET.
            _ => {}
        }
        let opens_multi = matches!(about, ProofAbout::Multi(_));
        self.prove(request, Proof::Child(asker, about));
        if opens_multi {
            self.prove(&[b"DISCARD"], Proof::Ignore);
        }
        self.end_question();
        Flow::Hold(Hold::Question)
    }

    /// Who the connection was for this question means nothing to the next one.
    fn end_question(&mut self) {
        if self.probe.has_reset() {
            self.prove(&[b"RESET"], Proof::Reset);
        }
        self.probe.uses();
    }

    /// The connection cannot be reset, and all that was asked on it is answered: the next question has another one.
    fn renew_probe(&mut self) {
        let Some(lane) = self.probe.lane().filter(|_| self.probe.is_done() && !self.probe.is_free()) else {
            return;
        };
        self.probe.used_up();
        self.connections.drop_connection(&mut self.env, lane);
        self.connections.want(&mut self.env, lane);
    }

    /// Becomes this user, as lanes are greeted: AUTH may be renamed.
    fn prove_user(&mut self, user: UserId, proof: Proof) {
        let said = self.users.get(user, &self.env.upstream);
        let (name, password) = (said.name.unwrap_or(b"default"), said.password.unwrap_or_default());
        let request = request_of(&[b"HELLO", b"2", b"AUTH", name, password]);
        self.send_proof(request, proof);
    }

    fn prove(&mut self, request: &[&[u8]], proof: Proof) {
        self.send_proof(request_of(request), proof);
    }

    fn send_proof(&mut self, request: Zeroizing<Vec<u8>>, proof: Proof) {
        if self.probe.is_at_work() {
            return self.probe.queue(request, proof);
        }
        self.put_proof(&request, proof);
    }

    fn put_proof(&mut self, request: &[u8], proof: Proof) {
        let Some(lane) = self.probe.lane() else { return };
        self.probe.sent(proof);
        self.connections.send(&mut self.env, lane, request, Slot::own(SlotKind::Proof));
    }

    /// The child has waited long enough for an answer, which is dropped when it comes.
    pub(crate) fn proof_wait_over(&mut self, child: &mut Child) {
        child.front_mut().forget_question();
        let down = self.down_at_all();
        self.fail_front(child, down);
    }

    pub(crate) fn probe_ready(&mut self) {
        // One that was made for the next question must not be used up at once.
        if self.probe.has_reset() || self.probe.default_is_due(self.env.now) {
            self.ask_default();
        }
        for user in self.users.suspects() {
            self.recheck(user);
        }
        self.env.sweeps.begin(Sweep::UpstreamAnswers);
    }

    /// The answer to the oldest request; `None` when the connection was lost before it came.
    pub(crate) fn proof_answered(&mut self, frame: Option<&[u8]>) {
        let Some(proof) = self.probe.answered() else { return };
        if frame.is_some_and(is_too_many) {
            return self.probe_barred(proof, frame.unwrap_or_default());
        }
        if frame.is_some_and(|frame| !proof.is_answered_by(frame)) {
            return self.probe_out_of_step(proof);
        }
        self.take_proof(proof, frame);
        if frame.is_some() {
            if let Some((request, proof)) = self.probe.next_queued() {
                self.put_proof(&request, proof);
            }
            self.renew_probe();
        }
    }

    /// An answer has not come, and this one is of another request: nobody may be taken for somebody by it.
    fn probe_out_of_step(&mut self, proof: Proof) {
        self.probe.go_one_by_one();
        self.take_proof(proof, None);
        if let Some(lane) = self.probe.lane() {
            self.lane_lost(lane, "an answer is missing on the connection that proves users");
        }
    }

    /// The connection is gone, and with it what waited for it. What had been sent is told so with its slots.
    pub(crate) fn probe_lost(&mut self) {
        self.probe.lost();
        for proof in self.probe.take_queued() {
            self.take_proof(proof, None);
        }
    }

    /// The upstream has more connections than it may, and says so to whatever is asked first.
    fn probe_barred(&mut self, proof: Proof, frame: &[u8]) {
        self.take_proof(proof, None);
        let Some(lane) = self.probe.lane() else { return };
        let (pool, why) = (self.control_pool(), reply::error_text(frame).unwrap_or_default());
        self.note_refusal(pool, &why);
        self.bar_others(lane, pool, 0);
        self.lane_lost(lane, &why);
    }

    fn take_proof(&mut self, proof: Proof, frame: Option<&[u8]>) {
        match (proof, frame) {
            (Proof::Child(asker, about), frame) => {
                let verdict = self.probe.verdict(frame);
                if let (ProofAbout::Multi(user), ProofVerdict::Denied(said) | ProofVerdict::Answer(said)) =
                    (&about, &verdict)
                {
                    let refusal = reply::is_error(said).then(|| said.clone());
                    self.users.set_multi(*user, refusal, self.env.now);
                }
                if let (ProofAbout::Relay, ProofVerdict::Answer(said)) = (&about, &verdict) {
                    self.kill_answered(said);
                }
                self.env.notify(Notice::Proved(asker, about, verdict));
            }
            (Proof::Recheck(user), None) => self.users.set_suspect(user, true),
            (Proof::Recheck(user), Some(frame)) => self.check_credentials(user, frame),
            (Proof::As(user), Some(frame)) => {
                self.probe.authenticated(reply::is_error(frame).then_some(frame));
                self.check_credentials(user, frame);
            }
            (Proof::Default, Some(frame)) => self.default_answered(frame),
            (Proof::AnyPassword(name, word), Some(frame)) => {
                let any = !reply::is_error(frame);
                if any || is_wrong_password(frame) {
                    self.users.set_any_password(&name, any.then_some(word), self.env.now);
                }
            }
            (Proof::Reset, Some(frame)) => {
                self.probe.authenticated(None);
                if frame.starts_with(b"-ERR unknown command") {
                    self.probe.set_reset(false);
                } else if let (Some(lane), false) = (self.probe.lane(), frame == b"+RESET\r\n") {
                    self.lane_lost(lane, "RESET was refused on the connection that proves users");
                }
            }
            (Proof::Ignore, Some(_)) | (_, None) => {}
        }
    }

    /// The upstream has answered a question about a child, which may wait for another one by now.
    pub(crate) fn proved(
        &mut self,
        child: &mut Child,
        asker: Asker,
        about: ProofAbout,
        verdict: ProofVerdict,
    ) {
        if let (ProofAbout::Claim(claim), ProofVerdict::Answer(frame)) = (&about, &verdict)
            && is_wrong_password(frame)
        {
            self.guessed_wrong(child, &claim.name);
        }
        if child.hold() != Hold::Question || !child.front().asks(asker.number) {
            return;
        }
        child.front_mut().forget_question();
        match (about, verdict) {
            // It is looked at again: nothing has changed, or what was asked is known now.
            (_, ProofVerdict::Lost) | (ProofAbout::Multi(_), _) => self.lift(child),
            (ProofAbout::Claim(claim), ProofVerdict::Answer(frame)) if !reply::is_error(&frame) => {
                self.claim_accepted(child, &claim, &frame);
            }
            (ProofAbout::Permit, ProofVerdict::Answer(frame)) if !is_denial(&frame) => {
                child.front_mut().permit();
                self.lift(child);
            }
            (about, ProofVerdict::Denied(said) | ProofVerdict::Answer(said)) => {
                if let (ProofAbout::Select(Some(db)), b"+OK\r\n") = (about, said.as_slice()) {
                    child.session_mut().db = db;
                }
                self.answer_front(child, &said);
            }
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
            return self.fail_front(child, failure);
        };
        self.become_user(child, user, None);
        let Some(argument) = *resume else { return self.answer_front(child, frame) };
        child.front_mut().set_arguments_done(argument.into());
        self.lift(child);
    }

    /// The user of a name and password that the upstream has accepted. Unused passwords of the same name make room.
    fn admit_user(&mut self, name: &[u8], password: &Password) -> Option<UserId> {
        self.users.admit(name, password, self.env.now).or_else(|| {
            self.end_user(self.users.longest_abandoned(name)?);
            self.users.admit(name, password, self.env.now)
        })
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
        self.env.sweeps.begin(Sweep::UpstreamAnswers);
    }
}

/// There may be a password in it.
fn request_of(argv: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::new());
    encode::request(&mut bytes, argv);
    bytes
}

/// The one refusal that means that the password is wrong, or the user is gone.
fn is_wrong_password(frame: &[u8]) -> bool {
    reply::error_code(frame) == Some(b"WRONGPASS")
}

fn is_denial(frame: &[u8]) -> bool {
    matches!(reply::error_code(frame), Some(b"NOPERM" | b"NOAUTH"))
}
