//! What callers hand in and get back: requests, transactions, outcomes. Plain data.

use super::guard;
use crate::base::failure::FailureKind;
use crate::resp::{Tree, encode};

/// Bytes of commands in one transaction: it is held whole here, on its way, and in the broker.
pub const BLOCK_MAX: usize = 64 * 1024 * 1024;

/// Something to be sent.
#[derive(Debug, Clone, Copy)]
pub enum ClientRequest<'a> {
    /// The words of a command, its name first.
    Command(&'a [&'a [u8]]),
    /// Commands to be executed together.
    Transaction(&'a Block),
}

/// The commands of a transaction.
#[derive(Debug, Clone, Default)]
pub struct Block {
    bytes: Vec<u8>,
    len: u32,
}

impl Block {
    /// Adds a command. `Ok(false)`: there is no more room. An error says why it may not stand in a transaction.
    pub fn add(&mut self, words: &[&[u8]]) -> Result<bool, &'static str> {
        guard::in_transaction(words)?;
        let size: usize = words.iter().map(|word| word.len() + 16).sum();
        if self.bytes.len() + size > BLOCK_MAX {
            return Ok(false);
        }
        encode::request(&mut self.bytes, words);
        self.len += 1;
        Ok(true)
    }
}

impl ClientRequest<'_> {
    /// Why it is none, in words.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        match self {
            ClientRequest::Command(words) if words.first().is_none_or(|name| name.is_empty()) => {
                Err("a command without a name")
            }
            ClientRequest::Transaction(block) if block.len == 0 => Err("a transaction without commands"),
            _ => Ok(()),
        }
    }

    /// Bytes of its words.
    pub(super) fn size(&self) -> usize {
        match self {
            ClientRequest::Command(words) => words.iter().map(|word| word.len()).sum(),
            ClientRequest::Transaction(block) => block.bytes.len(),
        }
    }

    /// How many it has; those to MULTI and EXEC are two.
    pub(super) fn replies(&self) -> u32 {
        match self {
            ClientRequest::Command(_) => 1,
            ClientRequest::Transaction(block) => block.len + 2,
        }
    }

    /// Appends it; the commands of a transaction between MULTI and EXEC.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            ClientRequest::Command(words) => encode::request(out, words),
            ClientRequest::Transaction(block) => {
                encode::request(out, &[b"MULTI"]);
                out.extend_from_slice(&block.bytes);
                encode::request(out, &[b"EXEC"]);
            }
        }
    }
}

/// Why there is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Never sent: not executed.
    NotSent,
    /// Sent, at least in part, and the connection broke: executed once or not at all.
    Lost,
    /// Its time is over. If it was sent, it may be executed.
    TimedOut,
    /// Given up. If it was sent, it may be executed.
    Canceled,
    /// The peer does not speak the protocol.
    Protocol,
    /// The peer refused user, password, database or name.
    Denied,
    /// A limit of the broker's was reached: not executed.
    Limit,
}

/// What became of a request.
pub type Outcome = Result<Tree, Fault>;

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It is no request.
    Invalid(&'static str),
    /// It cannot go this way; says which way it can.
    Unsupported(&'static str),
    /// Too much is waiting.
    Full(&'static str),
    /// What it was meant for has been closed.
    Closed(&'static str),
    /// The connection it was meant for is gone and does not come back.
    NotConnected(&'static str),
}

impl Refusal {
    /// The reason in words.
    pub fn words(&self) -> &'static str {
        match self {
            Refusal::Invalid(words)
            | Refusal::Unsupported(words)
            | Refusal::Full(words)
            | Refusal::Closed(words)
            | Refusal::NotConnected(words) => words,
        }
    }
}

/// What happened. `tag` is what the caller gave along.
#[derive(Debug)]
pub enum Event {
    /// A request or a subscription is over, and why if there is no reply; it is not heard of again.
    #[allow(missing_docs)]
    Done { tag: usize, outcome: Outcome },
    /// A push about a subscription: its confirmation, or a message.
    #[allow(missing_docs)]
    Message { tag: usize, push: Tree },
    /// A push that belongs to no subscription.
    Push(Tree),
    /// The main connection is there, or is not any more, and why.
    State(Option<Fault>),
}

/// The outcome of a reply: an error of the broker's own may be a fault.
pub(super) fn outcome_of(frame: &[u8]) -> Outcome {
    match fault_of(frame) {
        Some(fault) => Err(fault),
        None => Tree::parse(frame).ok_or(Fault::Protocol),
    }
}

/// The fault that an error reply of the broker's stands for; `None` for every other reply.
pub(super) fn fault_of(frame: &[u8]) -> Option<Fault> {
    let line = frame.strip_prefix(b"-")?;
    // A transaction whose MULTI could not be sent: nothing of it was executed.
    let aborted = line.strip_prefix(b"EXECABORT Transaction discarded because of: ");
    match FailureKind::of_line(aborted.unwrap_or(line))? {
        FailureKind::Lost => aborted.is_none().then_some(Fault::Lost),
        FailureKind::Down => Some(Fault::NotSent),
        FailureKind::TimedOut => Some(Fault::TimedOut),
        FailureKind::Limited => Some(Fault::Limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_own_errors_are_faults() {
        assert_eq!(fault_of(b"-BROKERLOST the connection\r\n"), Some(Fault::Lost));
        assert_eq!(fault_of(b"-BROKERDOWN\r\n"), Some(Fault::NotSent));
        assert_eq!(fault_of(b"-BROKERTIMEOUT x\r\n"), Some(Fault::TimedOut));
        assert_eq!(fault_of(b"-BROKERLIMIT x\r\n"), Some(Fault::Limit));
        let aborted = |why: &str| {
            fault_of(format!("-EXECABORT Transaction discarded because of: {why}\r\n").as_bytes())
        };
        assert_eq!(aborted("BROKERDOWN no"), Some(Fault::NotSent));
        assert_eq!(aborted("BROKERLIMIT no"), Some(Fault::Limit));
        // Not perhaps executed, but not.
        assert_eq!(aborted("BROKERLOST upstream connection lost"), None);
        for other in ["-BROKERLOSTX\r\n", "-ERR BROKERLOST\r\n", "+BROKERLOST\r\n", "$11\r\n-BROKERLOST\r\n"]
        {
            assert_eq!(fault_of(other.as_bytes()), None, "{other:?}");
        }
    }

    #[test]
    fn a_block_is_written_whole() {
        let mut block = Block::default();
        assert_eq!(block.add(&[b"INCR", b"k"]), Ok(true));
        assert!(block.add(&[b"WATCH", b"k"]).is_err());
        let mut out = Vec::new();
        let request = ClientRequest::Transaction(&block);
        request.write(&mut out);
        assert_eq!(request.replies(), 3);
        let text = "*1\r\n$5\r\nMULTI\r\n*2\r\n$4\r\nINCR\r\n$1\r\nk\r\n*1\r\n$4\r\nEXEC\r\n";
        assert_eq!(out, text.as_bytes());
    }
}
