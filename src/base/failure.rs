//! Failures of the broker's own: what a request is answered with when it has no reply of the upstream's. Owns their kinds,
//! their causes and the exact texts. Counters, error replies and the codes of the C interface are made from these; only
//! what another broker has sent is read by its first word.

use std::borrow::Cow;
use std::fmt;

/// What a failure means for the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Sent at least in part, and the connection was lost: executed once or not at all.
    Lost,
    /// No connection: not executed.
    Down,
    /// A limit was reached: not executed.
    Limited,
    /// No reply in time: perhaps executed.
    TimedOut,
}

impl FailureKind {
    const ALL: [FailureKind; 4] =
        [FailureKind::Lost, FailureKind::Down, FailureKind::Limited, FailureKind::TimedOut];

    /// The first word of its error.
    pub const fn code(self) -> &'static str {
        match self {
            FailureKind::Lost => "BROKERLOST",
            FailureKind::Down => "BROKERDOWN",
            FailureKind::Limited => "BROKERLIMIT",
            FailureKind::TimedOut => "BROKERTIMEOUT",
        }
    }

    /// The kind of an error from a broker; None for every other error. `line` begins behind the error's `-`.
    pub fn of_line(line: &[u8]) -> Option<FailureKind> {
        let word = line.split(|byte| matches!(byte, b' ' | b'\r')).next()?;
        FailureKind::ALL.into_iter().find(|kind| kind.code().as_bytes() == word)
    }
}

/// Why a request has no reply of the upstream's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// A connection was lost.
    Lost(Lost),
    /// There is no connection.
    Down(Down),
    /// A limit was reached.
    Limited(Limit),
    /// No reply within so many milliseconds.
    #[allow(missing_docs)]
    TimedOut { after_ms: u64 },
    /// The upstream has refused what the request needs, in its own words, or would have refused it in these.
    Refused(Vec<u8>),
}

/// Which connection was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The one that carried the request.
    Request,
    /// The one that carried the MULTI of the transaction.
    Transaction,
    /// The one that carried the child's last write, which its WAIT is about.
    LastWrite,
    /// None: the request stands behind a script that does not end, and is not waited for any more.
    #[allow(missing_docs)]
    Busy { after_ms: u64 },
    /// None: the reply was longer than may be kept, and was dropped.
    #[allow(missing_docs)]
    Reply { max_bytes: usize },
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Down {
    /// None could be made; the last refusal where one is known.
    Unreachable(Option<String>),
    /// All that `upstream_connections_max` allows are in use.
    #[allow(missing_docs)]
    AllInUse { connections_max: usize },
}

/// Which limit was reached.
#[allow(missing_docs)] // Each field is the value of the limit that its variant names, or how long was waited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limit {
    /// Requests that wait, by this setting.
    Requests { setting: &'static str, max_bytes: usize },
    /// A request longer than half of `memory_max`.
    Request { max_bytes: usize },
    /// A reply longer than `child_output_max`.
    ChildOutput { max_bytes: usize },
    /// A transaction longer than `transaction_max`.
    Transaction { max_bytes: usize },
    /// Subscriptions of one child.
    Subscriptions { max: usize },
    /// Passwords of one user that are in use at a time.
    Passwords { max: usize },
    /// The lane that carried the child's last write is not free for its WAIT.
    LastWriteBusy { after_ms: u64 },
    /// No leased connection came free, and what is known of the cause.
    Lease { after_ms: u64, why: Shortage },
    /// A process or user of this host has as many of something as the setting of this name allows it.
    Holder { setting: &'static str, max: usize, holder: String, held: usize },
    /// No connection for subscriptions came free, and what is known of the cause.
    Subscriber { after_ms: u64, why: Shortage },
}

/// Why no connection of a kind came free.
#[allow(missing_docs)] // Said of each variant as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shortage {
    /// Nothing is known.
    Unknown,
    /// The setting of this name allows none.
    NoneAllowed { setting: &'static str },
    /// As many as the setting of this name allows are lent, to the holders in words; so many children wait besides.
    AllLent { setting: &'static str, max: usize, waiting: usize, holders: String },
    /// The last attempt to connect was refused.
    Refused(String),
    /// All that `upstream_connections_max` allows are in use; so many children wait besides.
    AllInUse { connections_max: usize, waiting: usize },
    /// Only so many of `upstream_connections_max` may be leased.
    AllLeased { max: usize },
}

impl Failure {
    /// A connection was lost with the request on it.
    pub const LOST: Failure = Failure::Lost(Lost::Request);

    /// What it means for the request; None where the upstream has answered, or could have.
    pub fn kind(&self) -> Option<FailureKind> {
        match self {
            Failure::Lost(_) => Some(FailureKind::Lost),
            Failure::Down(_) => Some(FailureKind::Down),
            Failure::Limited(_) => Some(FailureKind::Limited),
            Failure::TimedOut { .. } => Some(FailureKind::TimedOut),
            Failure::Refused(_) => None,
        }
    }

    /// The line of the error reply, without its `-`.
    pub fn line(&self) -> Cow<'_, [u8]> {
        match self {
            Failure::Refused(text) => text.into(),
            _ => self.to_string().into_bytes().into(),
        }
    }
}

/// An error that is Redis' own.
impl<T: Into<Vec<u8>>> From<T> for Failure {
    fn from(text: T) -> Failure {
        Failure::Refused(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(kind) = self.kind() {
            write!(f, "{} ", kind.code())?;
        }
        match self {
            Failure::Lost(Lost::Request) => {
                f.write_str("upstream connection lost before the reply; the command may have been executed")
            }
            Failure::Lost(Lost::Transaction) => f.write_str("upstream connection lost"),
            Failure::Lost(Lost::LastWrite) => {
                f.write_str("the connection that carried the last write was lost; its replicas are not known")
            }
            Failure::Lost(Lost::Busy { after_ms }) => write!(
                f,
                "no reply within {after_ms} ms from an upstream that runs a script; the command may yet be executed"
            ),
            Failure::Lost(Lost::Reply { max_bytes }) => {
                write!(
                    f,
                    "the reply was longer than {max_bytes} bytes, half of memory_max, and was dropped; "
                )?;
                f.write_str("the command was executed")
            }
            Failure::Down(why) => {
                f.write_str("no upstream connection; the command was not executed")?;
                match why {
                    Down::Unreachable(None) => Ok(()),
                    Down::Unreachable(Some(refusal)) => write!(f, "; last attempt: {refusal}"),
                    Down::AllInUse { connections_max } => {
                        write!(f, "; all {connections_max} of upstream_connections_max are in use")
                    }
                }
            }
            Failure::Limited(limit) => limit.fmt(f),
            Failure::TimedOut { after_ms } => {
                write!(f, "no reply within {after_ms} ms; the command may have been executed")
            }
            Failure::Refused(text) => f.write_str(&String::from_utf8_lossy(text)),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Requests { setting, max_bytes } => {
                write!(f, "{setting} is {max_bytes} bytes, and requests waited beyond it")
            }
            Limit::Request { max_bytes } => {
                write!(f, "the request is longer than {max_bytes} bytes, half of memory_max")
            }
            Limit::ChildOutput { max_bytes } => {
                write!(f, "child_output_max is {max_bytes} bytes, and the reply longer")
            }
            Limit::Transaction { max_bytes } => write!(f, "transaction_max is {max_bytes} bytes"),
            Limit::Subscriptions { max } => write!(f, "a child has at most {max} subscriptions"),
            Limit::Passwords { max } => write!(f, "{max} passwords of this user are in use"),
            Limit::Holder { setting, max, holder, held } => {
                write!(f, "{setting} is {max}: {holder} has {held}")
            }
            Limit::LastWriteBusy { after_ms } => {
                write!(f, "the connection that carried the last write is busy for {after_ms} ms")
            }
            Limit::Lease { after_ms, why } => write!(f, "no leased connection within {after_ms} ms{why}"),
            Limit::Subscriber { after_ms, why } => {
                write!(f, "no connection for subscriptions within {after_ms} ms{why}")
            }
        }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shortage::Unknown => Ok(()),
            Shortage::NoneAllowed { setting } => write!(f, ": {setting} is 0, raise it"),
            Shortage::AllLent { setting, max, waiting, holders } => write!(
                f,
                ": {setting} is {max} and all are lent, {waiting} more wait; raise it for more; held by {holders}"
            ),
            Shortage::Refused(refusal) => write!(f, "; last attempt: {refusal}"),
            Shortage::AllInUse { connections_max, waiting } => write!(
                f,
                ": upstream_connections_max is {connections_max} and all are in use, {waiting} more wait; raise it \
                 for more"
            ),
            Shortage::AllLeased { max } => write!(f, ": {max} of upstream_connections_max may be leased"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_read_as_it_is_written() {
        let down = Failure::Down(Down::Unreachable(Some("refused".into())));
        let lease = Limit::Lease { after_ms: 50, why: Shortage::NoneAllowed { setting: "leases_max" } };
        let timed_out = Failure::TimedOut { after_ms: 7 };
        for failure in [Failure::LOST, down, Failure::Limited(lease), timed_out] {
            let kind = failure.kind();
            assert!(kind.is_some());
            assert_eq!(FailureKind::of_line(failure.to_string().as_bytes()), kind, "{failure}");
        }
        let refused = Failure::from("NOPERM no");
        assert_eq!(FailureKind::of_line(refused.to_string().as_bytes()), None);
        assert_eq!(FailureKind::of_line(b"BROKERLOST\r\n"), Some(FailureKind::Lost));
        assert_eq!(FailureKind::of_line(b"BROKERLOSTX"), None);
    }

    #[test]
    fn the_words_are_the_documented_ones() {
        let none = Failure::Down(Down::Unreachable(None)).to_string();
        assert_eq!(none, "BROKERDOWN no upstream connection; the command was not executed");
        let waited = Limit::Lease { after_ms: 400, why: Shortage::Refused("ERR full".into()) };
        assert_eq!(
            Failure::Limited(waited).to_string(),
            "BROKERLIMIT no leased connection within 400 ms; last attempt: ERR full"
        );
    }
}
