//! What the model Redis has executed, in its order, and what children were told about it. Every request the
//! player sends carries a nonce that exists once; here each is followed from its execution to its outcome.

use super::redis::ServerDb;
use super::truth::Truth;
use super::{broken, holds};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Names one request of one child: the child in the upper half, its number in the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Nonce(u64);

impl Nonce {
    pub(super) fn new(child: usize, number: u32) -> Nonce {
        Nonce((child as u64) << 32 | u64::from(number))
    }

    pub(super) fn child(self) -> usize {
        (self.0 >> 32) as usize
    }

    /// The nonce an argument is, if it is one.
    pub(super) fn of(argument: &[u8]) -> Option<Nonce> {
        let rest = argument.strip_prefix(b"c")?;
        let at = rest.iter().position(|byte| *byte == b'n')?;
        let (child, number) = (digits(&rest[..at])?, digits(&rest[at + 1..])?);
        Some(Nonce(child << 32 | number))
    }
}

/// `c<child>n<number>`, as it stands in requests.
impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}n{}", self.child(), self.0 as u32)
    }
}

fn digits(text: &[u8]) -> Option<u64> {
    let fits = !text.is_empty() && text.len() < 10 && text.iter().all(u8::is_ascii_digit);
    fits.then(|| text.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// One execution: when in Redis' order, and on which connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Execution {
    pub(super) at: u64,
    pub(super) link: usize,
    pub(super) server: usize,
    /// Queued in a MULTI whose EXEC failed, so that it did nothing.
    pub(super) aborted: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) channel: Vec<u8>,
    pub(super) shard: bool,
    /// Where it was published, and heard.
    pub(super) server: usize,
    pub(super) nonce: Nonce,
    /// Its publisher is told exactly how many hear it: it was published on a connection that carries subscriptions.
    pub(super) is_exact: bool,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Executions so far: Redis' own clock.
    pub(super) clock: u64,
    executed: HashMap<Nonce, Execution>,
    /// Children were told that these were not executed.
    refused: HashSet<Nonce>,
    /// Left out of their EXEC, since the right to run them was taken away after they were queued.
    revoked: HashSet<Nonce>,
    /// When a key was written, by server, db and key.
    touched: HashMap<(ServerDb, Vec<u8>), Vec<u64>>,
    pub(super) published: Vec<Message>,
    /// How many children a message was heard by, and how many its publisher was told of.
    heard: HashMap<Nonce, i64>,
    counted: HashMap<Nonce, i64>,
    /// How often an element was taken by a blocking command: once by each server that has had it.
    popped: HashMap<Nonce, usize>,
    /// How often a child has received it.
    delivered: HashMap<Nonce, usize>,
    /// When each child wrote last.
    writes: HashMap<usize, u64>,
    /// The transaction a request was sent in.
    pub(super) transactions: HashMap<Nonce, u32>,
    /// Connections that one side or the other has given up.
    pub(super) closed: HashSet<usize>,
    pub(super) truth: Truth,
    /// Where a connection leads, and how often the master had changed when it was dialled.
    pub(super) sides: HashMap<usize, (usize, usize)>,
    /// The latest side on which each child has been answered, and by which server.
    answered: HashMap<usize, (usize, usize)>,
}

impl Ledger {
    pub(super) fn execution(&self, nonce: Nonce) -> Option<Execution> {
        self.executed.get(&nonce).copied()
    }

    pub(super) fn ran(&mut self, nonce: Nonce, (link, server): (usize, usize), aborted: bool) {
        self.clock += 1;
        let execution = Execution { at: self.clock, link, server, aborted };
        let before = self.executed.insert(nonce, execution);
        holds!(5, before.is_none(), "{nonce} was executed twice");
        let open = aborted || !self.refused.contains(&nonce);
        holds!(4, open, "{nonce} was executed after its child was told it had not been");
    }

    /// The request that ran last was a write. One that runs late, on a connection given up before, no WAIT speaks of.
    pub(super) fn wrote(&mut self, nonce: Nonce, link: usize) {
        if !self.closed.contains(&link) {
            self.writes.insert(nonce.child(), self.clock);
        }
    }

    pub(super) fn last_write(&self, child: usize) -> u64 {
        self.writes.get(&child).copied().unwrap_or(0)
    }

    pub(super) fn touch(&mut self, place: ServerDb, key: &[u8]) {
        self.clock += 1;
        self.touched.entry((place, key.to_vec())).or_default().push(self.clock);
    }

    /// Whether a key was written after `from` and before `to`.
    pub(super) fn touched_between(&self, place: ServerDb, key: &[u8], from: u64, to: u64) -> bool {
        let touches = self.touched.get(&(place, key.to_vec()));
        touches.is_some_and(|touches| touches.iter().any(|at| (from + 1..to).contains(at)))
    }

    pub(super) fn revoked(&mut self, nonce: Nonce) {
        self.revoked.insert(nonce);
    }

    /// All of a block ran or none of it, but for what Redis itself leaves out of an EXEC.
    pub(super) fn is_whole(&self, block: &[Nonce]) -> bool {
        let ran = |nonce: &Nonce| self.executed.get(nonce).is_some_and(|execution| !execution.aborted);
        let mut allowed = block.iter().filter(|nonce| !self.revoked.contains(nonce)).map(ran);
        let first = allowed.next();
        allowed.all(|other| Some(other) == first)
    }

    /// A child got the reply: exactly one execution stands behind it.
    pub(super) fn acknowledged(&mut self, nonce: Nonce) {
        match self.executed.get(&nonce).copied() {
            Some(execution) if !execution.aborted => self.answered_by(nonce, execution),
            found => broken!(4, "{nonce} was acknowledged, and in truth: {found:?}"),
        }
    }

    pub(super) fn server_of(&self, link: usize) -> usize {
        self.sides.get(&link).copied().unwrap_or_default().0
    }

    /// 30: once the master of one side has answered a child, that of an earlier side answers it no more.
    fn answered_by(&mut self, nonce: Nonce, execution: Execution) {
        let (_, side) = self.sides.get(&execution.link).copied().unwrap_or_default();
        let last = self.answered.entry(nonce.child()).or_insert((side, execution.server));
        let in_order = side >= last.0 || execution.server == last.1;
        holds!(30, in_order, "{nonce} was answered on side {side}, and one before it on {last:?}");
        if side > last.0 {
            *last = (side, execution.server);
        }
    }

    /// A child was told that these requests were not executed.
    pub(super) fn refused(&mut self, nonces: impl IntoIterator<Item = Nonce>) {
        for nonce in nonces {
            let idle = self.executed.get(&nonce).is_none_or(|execution| execution.aborted);
            holds!(4, idle, "{nonce} was executed, and its child told otherwise");
            self.refused.insert(nonce);
        }
    }

    pub(super) fn heard(&mut self, nonce: Nonce) {
        *self.heard.entry(nonce).or_default() += 1;
    }

    pub(super) fn counted(&mut self, nonce: Nonce, count: i64) {
        self.counted.insert(nonce, count);
    }

    /// 18: as many children heard a message as its publisher was told; but for those that have gone, which may have heard
    /// it or not, by a channel and two patterns. Only where it was published behind what they had asked, and before what
    /// they asked later.
    pub(super) fn check_counts(&self, gone: i64) {
        for message in self.published.iter().filter(|message| message.is_exact) {
            let Some(counted) = self.counted.get(&message.nonce) else { continue };
            let heard = self.heard.get(&message.nonce).copied().unwrap_or(0);
            let nonce = message.nonce;
            holds!(
                18,
                (heard - counted).abs() <= 3 * gone,
                "{nonce}: {counted} were counted and {heard} heard it"
            );
        }
    }

    pub(super) fn popped(&mut self, element: &[u8]) {
        Nonce::of(element).into_iter().for_each(|nonce| *self.popped.entry(nonce).or_default() += 1);
    }

    pub(super) fn delivered(&mut self, element: &[u8]) {
        let Some(nonce) = Nonce::of(element) else { return };
        let popped = self.popped.get(&nonce).copied().unwrap_or(0);
        holds!(1, popped > 0, "{nonce} was popped by nobody and delivered");
        let delivered = self.delivered.entry(nonce).or_default();
        *delivered += 1;
        holds!(5, *delivered <= popped, "the element {nonce} was delivered twice");
    }

    pub(super) fn undelivered(&self) -> usize {
        self.popped.values().sum::<usize>() - self.delivered.values().sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonces_read_as_they_are_written() {
        let nonce = Nonce::new(3, 71);
        assert_eq!((nonce.to_string().as_str(), Nonce::of(b"c3n71")), ("c3n71", Some(nonce)));
        for other in ["", "c", "c3", "n1", "c3n", "cn1", "c3n1@0", "channel", "c1n99999999999"] {
            assert_eq!(Nonce::of(other.as_bytes()), None, "{other}");
        }
    }
}
