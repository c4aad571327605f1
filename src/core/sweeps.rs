//! What is under way for all children or topics, one after the other: each kind of work, and how far it has come. Owns the
//! line of such works; never what is done to a child (`core::sweep`).

use crate::core::keys::{PoolKey, UserId};
use crate::core::pubsub::SubscriberLoss;
use std::collections::VecDeque;

/// A work over all children. Children that come while it is under way may be visited or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sweep {
    /// What they have sent is run, and no more.
    Drain,
    /// A drain has lasted long enough.
    DrainTimedOut,
    /// Those that have been idle for too long end.
    Timeouts,
    /// New settings hold for those that wait, too.
    SettingsChanged,
    /// A pause is over: those that were held go on.
    Resumed,
    /// Those that wait for a living upstream look again.
    UpstreamAnswers,
    /// The upstream refuses the password of this user: all that are it end.
    UserRefused(UserId),
    /// All that are a user which `auth_file` does not have any more end.
    AccountsGone,
    /// Those that wait for a lease of this pool are told what the upstream has said.
    PoolRefused(PoolKey, String),
    /// The subscriptions of this user have lost their connection. Those who listen end, or are counted.
    SubscribersLost { user: UserId, loss: SubscriberLoss, closes: bool },
    /// The connection that carries a user's subscriptions is ready, and what is listened to was asked for: so are fences.
    HubReady(UserId),
    /// The same: what is listened to is asked for. Visits topics.
    HubTopics(UserId),
    /// The connection is lost, and with it all that was asked for. Visits topics.
    LostTopics(UserId),
    /// What children have left behind that ended with very many topics is given back.
    Leftovers,
    /// The upstream has told of its commands. Visits commands.
    CommandTable,
}

#[derive(Debug)]
pub(crate) struct SweepUnderWay {
    pub(crate) sweep: Sweep,
    /// Where in the arena it goes on.
    pub(crate) next: usize,
    /// How many children it was about so far.
    pub(crate) met: usize,
}

/// Those under way, in order; the first of them is worked at.
#[derive(Debug, Default)]
pub(crate) struct Sweeps {
    line: VecDeque<SweepUnderWay>,
}

impl Sweeps {
    /// Unless one stands in line already that is to do just the same.
    pub(crate) fn begin(&mut self, sweep: Sweep) {
        if !self.line.iter().any(|other| other.next == 0 && other.sweep == sweep) {
            self.line.push_back(SweepUnderWay { sweep, next: 0, met: 0 });
        }
    }

    /// Unless one that is to do just the same is under way or stands in line. Whether it begins.
    pub(crate) fn begin_once(&mut self, sweep: Sweep) -> bool {
        let begins = !self.line.iter().any(|other| other.sweep == sweep);
        if begins {
            self.begin(sweep);
        }
        begins
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    pub(crate) fn take(&mut self) -> Option<SweepUnderWay> {
        self.line.pop_front()
    }

    /// It has not come to its end: it goes on before the others.
    pub(crate) fn put_back(&mut self, under_way: SweepUnderWay) {
        self.line.push_front(under_way);
    }

    /// Whether the listeners of this user are still to be seen to, before there may be another connection for them.
    pub(crate) fn is_lost(&self, hub: UserId) -> bool {
        let of_hub = |sweep: &Sweep| match sweep {
            Sweep::SubscribersLost { user, .. } | Sweep::LostTopics(user) => *user == hub,
            _ => false,
        };
        self.line.iter().any(|under_way| of_hub(&under_way.sweep))
    }

    pub(crate) fn clear(&mut self) {
        self.line.clear();
    }
}
