//! Names: of children, lanes, topics, pools, users and kinds of lease. Knows nothing of what they name, so that every room
//! can keep them.

use crate::base::key::Key;
use crate::config::Settings;

/// What the keys of children name.
#[derive(Debug)]
pub enum ChildName {}
/// What the keys of lanes name.
#[derive(Debug)]
pub enum LaneName {}
/// What the keys of processes name.
#[derive(Debug)]
pub enum ProcessName {}
#[derive(Debug)]
pub(crate) enum TopicName {}
#[derive(Debug)]
pub(crate) enum GroupName {}

/// Names a child for as long as it lives, and nothing afterwards.
pub type ChildKey = Key<ChildName>;
/// Names a lane for as long as it lives, and nothing afterwards.
pub type LaneKey = Key<LaneName>;
/// Names a process of this host for as long as it is remembered.
pub type ProcessKey = Key<ProcessName>;
pub(crate) type TopicKey = Key<TopicName>;
/// Names a group of children that wait for the same element.
pub(crate) type GroupKey = Key<GroupName>;

/// What a lease is taken for; each kind has its own cap and its own line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseKind {
    /// A blocking command, until its reply; of a group, for as long as it is needed.
    Blocking,
    /// WATCH or a MULTI that cannot be queued here, until EXEC, DISCARD or UNWATCH; a look for a group.
    Transaction,
    /// A subscription, until the last one is given up or the child goes.
    Session,
}

impl LeaseKind {
    /// Every kind, in the order in which lines are served.
    pub const ALL: [LeaseKind; 3] = [LeaseKind::Transaction, LeaseKind::Session, LeaseKind::Blocking];

    /// Its name, in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            LeaseKind::Blocking => "blocking",
            LeaseKind::Transaction => "transaction",
            LeaseKind::Session => "session",
        }
    }

    /// How many leases of this kind there may be.
    pub fn cap(self, settings: &Settings) -> usize {
        match self {
            LeaseKind::Blocking => settings.leases_blocking_max,
            LeaseKind::Transaction => settings.leases_transaction_max,
            LeaseKind::Session => settings.leases_session_max,
        }
    }

    pub(crate) fn limit_name(self) -> &'static str {
        match self {
            LeaseKind::Blocking => "leases_blocking_max",
            LeaseKind::Transaction => "leases_transaction_max",
            LeaseKind::Session => "leases_session_max",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PoolId(pub u32);

/// What a connection upstream has to be, to serve a child: connections that agree in all of it are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    pub(crate) user: UserId,
    pub(crate) db: u32,
    pub(crate) proto: u8,
    pub(crate) no_touch: bool,
    /// The number of the replica that is read from; zero where the master is meant.
    pub(crate) replica: u8,
}

impl PoolKey {
    /// Of a pool that serves nobody any more and may become another.
    pub(crate) const FREE: PoolKey =
        PoolKey { user: UserId::NOBODY, db: 0, proto: 0, no_touch: false, replica: 0 };
}

/// Names a user of the upstream for as long as the broker knows it; never given again. By default `UPSTREAM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct UserId(pub(crate) u64);

impl UserId {
    /// The one in the upstream's settings.
    pub(crate) const UPSTREAM: UserId = UserId(0);
    /// The upstream's default user, who needs no password.
    pub(crate) const DEFAULT: UserId = UserId(1);
    /// Not authenticated. No connection is made for it.
    pub(crate) const NOBODY: UserId = UserId(2);
    /// Whether the upstream's default user needs a password is not known yet. No connection is made for it.
    pub(crate) const UNDECIDED: UserId = UserId(3);
    pub(crate) const FIRST: u64 = 4;
}

/// Names one of the broker's own users.
pub(crate) type AccountId = u32;
