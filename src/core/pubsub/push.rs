//! Shared subscriptions: one connection of a user's own carries every subscription of all its children, each
//! channel, pattern and shard channel once. Owns the topics and who listens to them; decides what the
//! connection is asked and when a child is answered. What travels on the connection is `pubsub::upstream`'s.
//!
//! A child's request stays at the front of its input until the connection has answered a *fence*, a PING sent
//! behind whatever the request needs. So each child stands, in the order of the upstream, where it would with
//! a connection of its own: it hears what was published after its confirmation and nothing from before it,
//! and everything from before it left.

use crate::command::Family;
use crate::command::Subscribe;
use crate::resp::encode;
use crate::resp::reply;

pub(in crate::core) fn index(family: Family) -> usize {
    match family {
        Family::Channel => 0,
        Family::Pattern => 1,
        Family::Shard => 2,
    }
}

/// The name of a confirmation, which is that of the command.
pub(in crate::core) fn verb(change: Subscribe) -> &'static [u8] {
    match (change.family, change.leave) {
        (Family::Channel, false) => b"subscribe",
        (Family::Pattern, false) => b"psubscribe",
        (Family::Shard, false) => b"ssubscribe",
        (Family::Channel, true) => b"unsubscribe",
        (Family::Pattern, true) => b"punsubscribe",
        (Family::Shard, true) => b"sunsubscribe",
    }
}

/// One frame that confirms a change; without a name, that there was nothing to leave.
pub(in crate::core) fn confirmation(
    out: &mut Vec<u8>,
    proto: u8,
    change: Subscribe,
    name: Option<&[u8]>,
    count: u32,
) {
    out.extend_from_slice(if proto == 3 { b">3\r\n" } else { b"*3\r\n" });
    encode::bulk(out, verb(change));
    match name {
        Some(name) => encode::bulk(out, name),
        None => encode::null(out, proto),
    }
    encode::int(out, i64::from(count));
}

/// What a pub/sub frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum Push {
    Message(Family),
    Confirmation(Subscribe),
}

pub(in crate::core) fn push_of(frame: &[u8]) -> Option<Push> {
    let kind = reply::text(&frame[reply::element(frame, 0)?])?;
    let change = |family, leave| Some(Push::Confirmation(Subscribe { family, leave }));
    match kind {
        b"message" => Some(Push::Message(Family::Channel)),
        b"pmessage" => Some(Push::Message(Family::Pattern)),
        b"smessage" => Some(Push::Message(Family::Shard)),
        b"subscribe" => change(Family::Channel, false),
        b"psubscribe" => change(Family::Pattern, false),
        b"ssubscribe" => change(Family::Shard, false),
        b"unsubscribe" => change(Family::Channel, true),
        b"punsubscribe" => change(Family::Pattern, true),
        b"sunsubscribe" => change(Family::Shard, true),
        _ => None,
    }
}
