//! What the core asks of its driver: connections to open and to close. Never bytes; those are in the queues of children and
//! lanes.

use crate::core::keys::LaneKey;

/// What only the driver can do. Rare: never one per request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Dial the upstream for this lane; answer with `lane_connected` or `lane_failed`.
    Connect(LaneKey),
    /// Close the lane's connection.
    CloseLane {
        /// The lane, for an attempt that has no link yet.
        lane: LaneKey,
        /// The driver's handle; none while it is still being dialled.
        link: Option<usize>,
    },
    /// The upstream's name has led to a server that is not what it must be: look it up again, and dial another of its
    /// addresses next.
    TryOthers,
    /// All is at rest for a move to another upstream: `try_upstream` is to be called.
    TryUpstream,
    /// It is known whether that serves: see `move_verdict`.
    UpstreamTried,
    /// From now on say of each read of a child who has written it.
    AskWriter {
        /// The driver's handle.
        link: usize,
    },
    /// Close a child's connection; nothing is left to write.
    CloseChild {
        /// The driver's handle.
        link: usize,
    },
}
