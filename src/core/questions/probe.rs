//! The probe: one connection on which the upstream is asked about users, with the very words and passwords of
//! children. It is greeted with nothing, serves nobody, and is reset behind every question, so that whoever it
//! was a moment ago means nothing for the next one. A password that is refused here harms nothing.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::core::keys::ChildKey;
use crate::core::keys::LaneKey;
use crate::core::keys::UserId;
use crate::core::user::Password;
use std::collections::VecDeque;

/// Who waits for an answer: a child, and the number of its question. A child that has given up asks under
/// another number.
#[derive(Debug, Clone, Copy)]
pub(in crate::core) struct Asker {
    pub(in crate::core) child: ChildKey,
    pub(in crate::core) number: u64,
}

/// Who a child says it is.
#[derive(Debug)]
pub(in crate::core) struct Claim {
    pub(in crate::core) name: Box<[u8]>,
    pub(in crate::core) password: Password,
    /// Where its HELLO goes on.
    pub(in crate::core) resume: Option<u16>,
    /// Whether the user takes any password was asked before, or was known.
    pub(in crate::core) tested: bool,
}

/// What one request on the probe is for. Answers come in the order of the requests.
#[derive(Debug)]
pub(in crate::core) enum Proof {
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
pub(in crate::core) enum Outcome {
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
pub(in crate::core) struct Proved {
    pub(in crate::core) asker: Asker,
    pub(in crate::core) verdict: Outcome,
}

impl Proved {
    pub(in crate::core) fn child(&self) -> ChildKey {
        self.asker.child
    }
}

/// The connection, and what is known about nobody.
#[derive(Debug, Default)]
pub(in crate::core) struct Probe {
    /// None where children need no proof.
    pub(in crate::core) lane: Option<LaneKey>,
    pub(in crate::core) proofs: VecDeque<Proof>,
    /// Whether the upstream's default user needs no password, if that is known.
    pub(in crate::core) default_open: Option<bool>,
    /// When that was last asked, and answered.
    pub(in crate::core) asked_at: Millis,
    pub(in crate::core) told_at: Millis,
    /// The answer is still to come.
    pub(in crate::core) asking_default: bool,
    /// The answer to `As`, if it was a refusal.
    pub(in crate::core) denied: Option<Vec<u8>>,
    pub(in crate::core) number: u64,
}

impl Probe {
    /// Whether `default_open` was told a moment ago.
    pub(in crate::core) fn default_is_fresh(&self, now: Millis) -> bool {
        self.told_at + limits::DEFAULT_FRESH > now
    }
}
