//! Subscriptions. With `pubsub = shared` one connection of a user carries the subscriptions of all its children, each
//! channel, pattern and shard channel (a *topic*) once; with `pubsub = leased` each child has a lane of its own.
//!
//! A request about shared subscriptions stays at the front of its child's input until the connection has answered a
//! *fence*, a PING sent behind everything the request needs. So each child stands, in the order of the upstream, where it
//! would with a connection of its own: it hears everything published after its confirmation and until it has left, and
//! nothing from before or after.

pub(crate) mod counted;
pub(crate) mod counts;
pub(crate) mod glob;
pub(crate) mod hubs;
pub(crate) mod leased;
pub(crate) mod own;
pub(crate) mod push;
pub(crate) mod topics;
pub(crate) mod upstream;

/// How the connection of a user's subscriptions was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SubscriberLoss {
    /// It broke, after so many failed attempts in a row.
    Broken { failures: u32 },
    /// The upstream has been replaced.
    UpstreamReplaced,
}
