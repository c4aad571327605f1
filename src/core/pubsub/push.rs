//! The frames of pub/sub: what a push is, how a confirmation is written, how a push reaches a child's output.

use crate::base::limits;
use crate::command::{Family, Subscribe};
use crate::core::child::closing::CloseReason;
use crate::core::child::outbox::Frame;
use crate::core::child::{Child, ChildState};
use crate::core::env::Env;
use crate::resp::{encode, reply};

/// One frame that confirms a change; without a name, that there was nothing to leave.
pub(super) fn confirmation(out: &mut Vec<u8>, proto: u8, change: Subscribe, name: Option<&[u8]>, count: u32) {
    out.extend_from_slice(if proto == 3 { b">3\r\n" } else { b"*3\r\n" });
    encode::bulk(out, change.name().as_bytes());
    match name {
        Some(name) => encode::bulk(out, name),
        None => encode::null(out, proto),
    }
    encode::int(out, i64::from(count));
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Push {
    Message(Family),
    Confirmation(Subscribe),
}

pub(super) fn push_of(frame: &[u8]) -> Option<Push> {
    let kind = reply::text(&frame[reply::element(frame, 0)?])?;
    match kind {
        b"message" => Some(Push::Message(Family::Channel)),
        b"pmessage" => Some(Push::Message(Family::Pattern)),
        b"smessage" => Some(Push::Message(Family::Shard)),
        _ => {
            let change = Subscribe::of_name(kind).filter(|change| change.name().as_bytes() == kind);
            change.map(Push::Confirmation)
        }
    }
}

/// What a push counts against a turn: it is copied unless it is long, and a child with nothing else to write is written to
/// for it.
pub(super) fn cost_of_push(child: &Child, frame: Frame<'_>) -> i64 {
    let copied = if frame.is_shared() { 0 } else { frame.bytes().len() };
    let written = if child.outbox().output().is_empty() { limits::REQUEST_COST_MIN } else { 0 };
    (limits::LOOK_COST + copied) as i64 + written
}

/// Appends a push to a child's output, within the bounds of subscribers. False if the child has to be closed.
pub(super) fn append_push(child: &mut Child, env: &mut Env, frame: Frame<'_>) -> bool {
    if child.is_deaf() || (child.state() == ChildState::Finishing && child.outbox().is_answered()) {
        // It has had its last answer.
        return true;
    }
    if child.outbox().unread() >= env.settings.subscriber_output_max {
        CloseReason::OutputMax("subscriber_output_max").log(child);
        return false;
    }
    let proto = child.session().proto;
    child.outbox_mut().push(frame, proto, &mut env.spares);
    child.outbox_mut().note_soft_limit(env.settings.subscriber_output_soft, env.now);
    if child.outbox_mut().mark() {
        env.dirty_children.push(child.key());
    }
    true
}
