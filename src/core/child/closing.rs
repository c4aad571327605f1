//! Why the broker closes a child that has not asked for it. Owns the reasons and the line of the log that each one has;
//! closes nothing. Whoever logs one then ends the child: `close` at once, `finish` when its replies have left,
//! `finish_at_request` as Redis does where the child itself has ended the conversation, which under CLIENT REPLY OFF may be
//! never. `MemoryMax` and `DrainTimedOut` do not wait for the driver: the child is removed where they are found.

use crate::base::failure::Failure;
use crate::core::child::{Child, log_child};

/// With it comes what the line of the log says: the name of a setting, an error, a label.
#[derive(Debug)]
pub(crate) enum CloseReason<'a> {
    OutputMax(&'static str),
    InputMax(&'static str),
    MemoryMax { held_bytes: usize },
    ReplyCutShort,
    UpstreamLost(&'a Failure),
    MessageTooLong,
    StandsStill,
    TakesNothing,
    TimedOut(&'static str),
    DrainTimedOut,
    Protocol(&'a str),
    ArgumentTooLong { len_bytes: u64, setting: &'static str, max_bytes: u64 },
    RequestRefused(&'a str),
    SubscriptionRefused,
    Leak(&'a str),
    Killed { by: &'a str },
}

impl CloseReason<'_> {
    /// Each line is a place of its own in the code: how much is logged is limited by place.
    pub(crate) fn log(&self, child: &Child) {
        let (label, unread, waiting) = (child.label(), child.outbox().output().len(), child.inbox().len());
        match self {
            CloseReason::OutputMax(setting) => {
                log_child!(warn, child, "{setting} reached: closing child {label}, {unread} bytes unread");
            }
            CloseReason::InputMax(setting) => {
                log_child!(
                    warn,
                    child,
                    "{setting} reached: closing child {label}, {waiting} bytes of whose requests wait"
                );
            }
            CloseReason::MemoryMax { held_bytes } => {
                log_child!(
                    warn,
                    child,
                    "memory_max reached: closing child {label}, which holds {held_bytes} bytes"
                );
            }
            CloseReason::ReplyCutShort => {
                log_child!(
                    warn,
                    child,
                    "its upstream connection was lost in the middle of a reply: closing child {label}"
                );
            }
            CloseReason::UpstreamLost(failure) => {
                log_child!(warn, child, "on_upstream_loss: closing child {label}: {failure}");
            }
            CloseReason::MessageTooLong => {
                log_child!(
                    warn,
                    child,
                    "a message is longer than half of memory_max: closing child {label}, which misses it"
                );
            }
            CloseReason::StandsStill => {
                log_child!(
                    warn,
                    child,
                    "memory_max: closing child {label}, whose request stands still while others wait to be read"
                );
            }
            CloseReason::TakesNothing => {
                log_child!(
                    warn,
                    child,
                    "memory_max: closing child {label}, which does not take its reply while others wait for theirs"
                );
            }
            CloseReason::TimedOut(setting) => log_child!(warn, child, "{setting}: closing child {label}"),
            CloseReason::DrainTimedOut => log_child!(info, child, "drain_timeout: closing child {label}"),
            CloseReason::Protocol(error) => log_child!(warn, child, "closing child {label}: {error}"),
            CloseReason::ArgumentTooLong { len_bytes, setting, max_bytes } => log_child!(
                warn,
                child,
                "closing child {label}: an argument of {len_bytes} bytes, the server's {setting} is {max_bytes}"
            ),
            CloseReason::RequestRefused(error) => {
                log_child!(
                    warn,
                    child,
                    "the upstream refuses a request of child {label}, which is closed: {error}"
                );
            }
            CloseReason::SubscriptionRefused => {
                log_child!(warn, child, "its subscription is refused now: closing child {label}");
            }
            CloseReason::Leak(kind) => log_child!(warn, child, "leak_action: closing child {label}, {kind}"),
            CloseReason::Killed { by } => log_child!(info, child, "child {by} has closed child {label}"),
        }
    }
}
