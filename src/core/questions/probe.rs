//! The probe: one connection on which the upstream is asked about users, and which is reset behind every question. Owns
//! the questions under way there, and what is known of the upstream's default user.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::core::keys::{ChildKey, LaneKey, UserId};
use crate::core::user::credentials::Password;
use crate::resp::reply;
use std::collections::VecDeque;
use zeroize::Zeroizing;

/// Who waits for an answer. A child that has given up asks under another number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    pub(crate) child: ChildKey,
    pub(crate) number: u64,
}

/// Who a child says it is.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) name: Box<[u8]>,
    pub(crate) password: Password,
    /// Where its HELLO goes on.
    pub(crate) resume: Option<u16>,
    /// Whether the user takes any password was asked before, or was known.
    pub(crate) tested: bool,
}

/// What one request on the probe is for. Answers come in the order of the requests.
///
/// Its `is_answered_by` tells a reply from that to another request, should one be missing.
#[derive(Debug)]
pub(crate) enum Proof {
    Child(Asker, ProofAbout),
    /// HELLO AUTH of a user with a random word: does it take any password?
    AnyPassword(Box<[u8]>, Password),
    /// HELLO AUTH of a user that has lost a connection: does it still exist?
    Recheck(UserId),
    /// HELLO AUTH of the user that the next requests are made as.
    As(UserId),
    /// PING without authentication: does the default user need a password?
    Default,
    /// The answer changes nothing.
    Ignore,
    Reset,
}

impl Proof {
    /// Whether this can be the answer.
    pub(crate) fn is_answered_by(&self, frame: &[u8]) -> bool {
        let is_greeting = || matches!(frame.first(), Some(b'%' | b'*'));
        match self {
            _ if reply::is_error(frame) => true,
            Proof::AnyPassword(..) | Proof::Recheck(_) | Proof::As(_) => is_greeting(),
            Proof::Child(_, ProofAbout::Claim(_)) => frame == b"+OK\r\n" || is_greeting(),
            Proof::Child(_, ProofAbout::Select(_) | ProofAbout::Multi(_)) => frame == b"+OK\r\n",
            Proof::Child(..) | Proof::Default | Proof::Ignore => frame != b"+RESET\r\n",
            Proof::Reset => frame == b"+RESET\r\n",
        }
    }
}

/// What a child's question is about. All but the first are asked as its user.
#[derive(Debug)]
pub(crate) enum ProofAbout {
    /// Its AUTH or HELLO AUTH.
    Claim(Claim),
    /// Its SELECT of this db, if there can be such a one.
    Select(Option<u32>),
    /// MULTI: may this user?
    Multi(UserId),
    /// A command of the same name as its own: does it have the right?
    Permit,
    /// Its request, which has to overtake what runs on its lanes.
    Relay,
}

/// What has become of a child's question.
#[derive(Debug)]
pub(crate) enum ProofVerdict {
    /// The connection was lost before the answer.
    Lost,
    /// The upstream did not take its user, and has said this.
    Denied(Vec<u8>),
    Answer(Vec<u8>),
}

/// The connection, and what is known of connections that have not authenticated.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    /// None where children need no proof.
    lane: Option<LaneKey>,
    /// Requests sent whose answers are to come.
    proofs: VecDeque<Proof>,
    /// Whether the upstream's default user needs no password, if that is known.
    default_open: Option<bool>,
    /// When that was last asked.
    default_asked_at: Millis,
    /// When it was last answered.
    default_told_at: Millis,
    /// The answer is still to come.
    default_asking: bool,
    /// An answer was missing: from then on each request waits for the answer to the one before.
    one_by_one: bool,
    /// Requests that wait so, and what for.
    queued: VecDeque<(Zeroizing<Vec<u8>>, Proof)>,
    /// The upstream has no RESET (Redis 6.0): one question for each connection.
    no_reset: bool,
    /// One has been asked on the present connection.
    is_used: bool,
    /// The answer to `As`, if it was a refusal.
    denied: Option<Vec<u8>>,
    /// Questions of children so far.
    number: u64,
}

impl Probe {
    pub(crate) fn open(&mut self, lane: LaneKey) {
        self.lane = Some(lane);
    }

    pub(crate) fn lane(&self) -> Option<LaneKey> {
        self.lane
    }

    /// The connection is gone. Each question that it had not answered is told so on its own.
    pub(crate) fn lost(&mut self) {
        (self.default_open, self.default_asking, self.denied) = (None, false, None);
        self.is_used = false;
    }

    /// The connection is closed behind a question, where it cannot be reset: what is known of the default user still holds.
    pub(crate) fn used_up(&mut self) {
        self.denied = None;
        self.is_used = false;
    }

    pub(crate) fn has_reset(&self) -> bool {
        !self.no_reset
    }

    pub(crate) fn set_reset(&mut self, has_reset: bool) {
        self.no_reset = !has_reset;
    }

    /// Whether a question may be asked on the present connection.
    pub(crate) fn is_free(&self) -> bool {
        !(self.no_reset && self.is_used)
    }

    /// A question is asked, and all that belongs to it.
    pub(crate) fn uses(&mut self) {
        self.is_used = true;
    }

    /// Whether all that was asked is answered.
    pub(crate) fn is_done(&self) -> bool {
        self.proofs.is_empty() && self.queued.is_empty()
    }

    /// Redis 8.2 answers nothing to an AUTH that it refuses and has read together with what came before it.
    pub(crate) fn go_one_by_one(&mut self) {
        self.one_by_one = true;
    }

    /// Whether a request has to wait for the answers to those before.
    pub(crate) fn is_at_work(&self) -> bool {
        self.one_by_one && !(self.proofs.is_empty() && self.queued.is_empty())
    }

    pub(crate) fn queue(&mut self, request: Zeroizing<Vec<u8>>, proof: Proof) {
        self.queued.push_back((request, proof));
    }

    /// The next request, once nothing else is under way.
    pub(crate) fn next_queued(&mut self) -> Option<(Zeroizing<Vec<u8>>, Proof)> {
        if self.proofs.is_empty() { self.queued.pop_front() } else { None }
    }

    pub(crate) fn take_queued(&mut self) -> Vec<Proof> {
        self.queued.drain(..).map(|(_, proof)| proof).collect()
    }

    pub(crate) fn sent(&mut self, proof: Proof) {
        self.proofs.push_back(proof);
    }

    pub(crate) fn answered(&mut self) -> Option<Proof> {
        debug_assert!(!self.proofs.is_empty(), "an answer on the probe to no question");
        self.proofs.pop_front()
    }

    pub(crate) fn asker(&mut self, child: ChildKey) -> Asker {
        self.number += 1;
        Asker { child, number: self.number }
    }

    /// Who a child is that has not said anything, as far as that is known at the moment.
    pub(crate) fn default_user(&self, now: Millis) -> UserId {
        match self.default_open {
            Some(true) if self.default_told_at + limits::DEFAULT_FRESH > now => UserId::DEFAULT,
            Some(false) => UserId::NOBODY,
            Some(true) | None => UserId::UNDECIDED,
        }
    }

    pub(crate) fn is_asking_default(&self) -> bool {
        self.default_asking
    }

    /// Whether to ask again: the default user may be given a password at any time.
    pub(crate) fn default_is_due(&self, now: Millis) -> bool {
        self.default_asked_at + limits::RIGHTS_FRESH <= now
    }

    pub(crate) fn asks_default(&mut self, now: Millis) {
        (self.default_asking, self.default_asked_at) = (true, now);
    }

    /// `open` is None when the answer says nothing.
    pub(crate) fn default_told(&mut self, open: Option<bool>, now: Millis) {
        (self.default_asking, self.default_told_at) = (false, now);
        self.default_open = open.or(self.default_open);
    }

    pub(crate) fn default_refused(&mut self) {
        self.default_open = Some(false);
    }

    /// The upstream has answered `As`, and with a refusal if there is one; or RESET.
    pub(crate) fn authenticated(&mut self, refusal: Option<&[u8]>) {
        self.denied = refusal.map(<[u8]>::to_vec);
    }

    pub(crate) fn verdict(&self, frame: Option<&[u8]>) -> ProofVerdict {
        match (frame, &self.denied) {
            (None, _) => ProofVerdict::Lost,
            (Some(_), Some(refusal)) => ProofVerdict::Denied(refusal.clone()),
            (Some(frame), None) => ProofVerdict::Answer(frame.to_vec()),
        }
    }
}
