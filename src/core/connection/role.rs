//! What a lane is for, and what only such a lane has. Knows nothing of its connection.

use crate::core::keys::LeaseKind;
use crate::core::lease::state::LeaseState;

/// What a lane is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneRole {
    /// The broker's own questions: COMMAND, SELECT checks, CLIENT UNBLOCK, probes.
    Control,
    /// Pipelined for all children of its pool.
    Shared,
    /// Bound to one child at a time.
    Lease,
    /// Carries the shared subscriptions of one user's children.
    Subscriber,
    /// Questions about users, with the passwords of children.
    Probe,
}

impl LaneRole {
    /// Every role.
    pub const ALL: [LaneRole; 5] =
        [LaneRole::Control, LaneRole::Shared, LaneRole::Lease, LaneRole::Subscriber, LaneRole::Probe];

    /// Its name, in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            LaneRole::Control => "control",
            LaneRole::Shared => "shared",
            LaneRole::Lease => "lease",
            LaneRole::Subscriber => "subscriber",
            LaneRole::Probe => "probe",
        }
    }

    pub(super) fn client_name(self) -> &'static str {
        match self {
            LaneRole::Control => "broker-control",
            LaneRole::Shared => "broker-lane",
            LaneRole::Lease => "broker-lease",
            LaneRole::Subscriber => "broker-subscriber",
            LaneRole::Probe => "broker-probe",
        }
    }

    /// Whether it takes one of the connection slots that leases share.
    pub(crate) fn counts_as_lease(self) -> bool {
        matches!(self, LaneRole::Lease | LaneRole::Subscriber)
    }

    /// Whether its connection is the broker's own and stays open, whatever children do.
    pub(crate) fn is_own(self) -> bool {
        matches!(self, LaneRole::Control | LaneRole::Probe)
    }
}

/// What the children of a pool put on a shared lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Requests as they come.
    Ordinary,
    /// Requests that take long to pass.
    Bulk,
    /// The commands of transactions, each behind a MULTI that has been accepted before (`core::transaction::armed`).
    Blocks,
}

/// The same, with what only such a lane has.
#[derive(Debug)]
pub(crate) enum RoleData {
    Control,
    Shared {
        traffic: Traffic,
        /// A WAIT blocks it: no other requests are put on it meanwhile.
        detached: bool,
        /// More of them than `lanes`: no child begins to use it, and it goes once nothing is on it.
        surplus: bool,
    },
    Lease {
        lease: Option<LeaseState>,
        /// The kind of lease it was opened for, but for one that is kept warm.
        opened_for: Option<LeaseKind>,
    },
    Subscriber {
        /// The subscriptions of its user's children need it.
        listened: bool,
    },
    Probe,
}

impl RoleData {
    pub(crate) fn shared(traffic: Traffic) -> RoleData {
        RoleData::Shared { traffic, detached: false, surplus: false }
    }

    pub(crate) fn name(&self) -> LaneRole {
        match self {
            RoleData::Control => LaneRole::Control,
            RoleData::Shared { .. } => LaneRole::Shared,
            RoleData::Lease { .. } => LaneRole::Lease,
            RoleData::Subscriber { .. } => LaneRole::Subscriber,
            RoleData::Probe => LaneRole::Probe,
        }
    }
}
