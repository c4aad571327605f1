//! Why the broker closes a child that has not asked for it. Owns the reasons and the line of the log that each one has;
//! closes nothing. Whoever logs one then ends the child: `close` at once, `finish` when its replies have left,
//! `finish_at_request` as Redis does where the child itself has ended the conversation, which under CLIENT REPLY OFF may be
//! never. `MemoryMax` and `DrainTimedOut` do not wait for the driver: the child is removed where they are found.

use crate::core::child::Child;

/// With it comes what the line of the log says: the name of a setting, an error, a label.
#[derive(Debug)]
pub(crate) enum CloseReason<'a> {
    OutputMax(&'static str),
    InputMax(&'static str),
    MemoryMax { held_bytes: usize },
    ReplyCutShort,
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
                log::warn!("{setting} reached: closing child {label}, {unread} bytes unread");
            }
            CloseReason::InputMax(setting) => {
                log::warn!(
                    "{setting} reached: closing child {label}, {waiting} bytes of whose requests wait"
                );
            }
            CloseReason::MemoryMax { held_bytes } => {
                log::warn!("memory_max reached: closing child {label}, which holds {held_bytes} bytes");
            }
            CloseReason::ReplyCutShort => {
                log::warn!(
                    "its upstream connection was lost in the middle of a reply: closing child {label}"
                );
            }
            CloseReason::MessageTooLong => {
                log::warn!(
                    "a message is longer than half of memory_max: closing child {label}, which misses it"
                );
            }
            CloseReason::StandsStill => {
                log::warn!(
                    "memory_max: closing child {label}, whose request stands still while others wait to be read"
                );
            }
            CloseReason::TakesNothing => {
                log::warn!(
                    "memory_max: closing child {label}, which does not take its reply while others wait for theirs"
                );
            }
            CloseReason::TimedOut(setting) => log::warn!("{setting}: closing child {label}"),
            CloseReason::DrainTimedOut => log::info!("drain_timeout: closing child {label}"),
            CloseReason::Protocol(error) => log::warn!("closing child {label}: {error}"),
            CloseReason::ArgumentTooLong { len_bytes, setting, max_bytes } => log::warn!(
                "closing child {label}: an argument of {len_bytes} bytes, the server's {setting} is {max_bytes}"
            ),
            CloseReason::RequestRefused(error) => {
                log::warn!("the upstream refuses a request of child {label}, which is closed: {error}");
            }
            CloseReason::SubscriptionRefused => {
                log::warn!("its subscription is refused now: closing child {label}");
            }
            CloseReason::Leak(kind) => log::warn!("leak_action: closing child {label}, {kind}"),
            CloseReason::Killed { by } => log::info!("child {by} has closed child {label}"),
        }
    }
}
