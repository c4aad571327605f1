//! Why the broker closes a child that has not asked for it. Owns the reasons and the line of the log that each one has;
//! closes nothing.

use crate::core::child::Child;

#[derive(Debug)]
pub(crate) enum CloseReason<'a> {
    OutputMax(&'static str),
    InputMax(&'static str),
    /// `memory_max` is reached, and it holds more than the others: so many bytes.
    MemoryMax { held_bytes: usize },
    TimedOut(&'static str),
    DrainTimedOut,
    /// It breaks the protocol, as the error says that it is answered.
    Protocol(&'a str),
    /// An argument of so many bytes is longer than the setting of the server allows.
    ArgumentTooLong { len_bytes: u64, setting: &'static str, max_bytes: u64 },
    RequestRefused(&'a str),
    SubscriptionRefused,
    Killed { by: &'a str },
}

impl CloseReason<'_> {
    /// Each line is a place of its own in the code: how much is logged is limited by place.
    pub(crate) fn log(&self, child: &Child) {
        let label = child.label();
        match self {
            CloseReason::OutputMax(setting) => {
                let held = child.outbox().len();
                log::warn!("{setting} reached: closing child {label}, {held} bytes unread");
            }
            CloseReason::InputMax(setting) => {
                let held = child.inbox().len();
                log::warn!("{setting} reached: closing child {label}, {held} bytes of whose requests wait");
            }
            CloseReason::MemoryMax { held_bytes } => {
                log::warn!("memory_max reached: closing child {label}, which holds {held_bytes} bytes");
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
            CloseReason::Killed { by } => log::info!("child {by} has closed child {label}"),
        }
    }
}
