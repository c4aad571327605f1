//! Where children come from: over which way, from which address, user and process of the host. Sums up who holds most
//! of something scarce; decides nothing.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// How a child reaches the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChildKind {
    /// A connection accepted from a listener.
    #[default]
    Socket,
    /// Requests of the program that embeds the loop.
    Local,
    /// A connected descriptor handed over by the embedding program.
    Adopted,
}

/// How many are named; the others are one number.
const NAMED: usize = 3;

#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    kind: ChildKind,
    /// As which user of this host it connected; known of unix sockets alone.
    uid: Option<u32>,
    /// Which process of this host it was when it connected, in the broker's own pid namespace.
    pid: Option<i32>,
    peer: Arc<str>,
}

/// To whom a child belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Holder<'a> {
    Program,
    Uid(u32),
    Address(&'a str),
}

impl Origin {
    pub(crate) fn new(kind: ChildKind, peer: Arc<str>) -> Self {
        Origin { kind, peer, ..Origin::default() }
    }

    pub(crate) fn set_process(&mut self, uid: u32, pid: i32) {
        (self.uid, self.pid) = (Some(uid), Some(pid));
    }

    pub(crate) fn uid(&self) -> Option<u32> {
        self.uid
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        self.pid
    }

    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// Whether it is the program that embeds the loop.
    pub(crate) fn is_local(&self) -> bool {
        self.kind == ChildKind::Local
    }

    /// Its address over TCP, without the port.
    pub(crate) fn address(&self) -> &str {
        self.peer.rsplit_once(':').map_or(&self.peer, |(address, _)| address)
    }

    /// To whom the child belongs, and the process.
    pub(crate) fn holder(&self) -> (Holder<'_>, Option<i32>) {
        match (self.kind, self.uid) {
            (ChildKind::Local, _) => (Holder::Program, None),
            (_, Some(uid)) => (Holder::Uid(uid), self.pid),
            (_, None) => (Holder::Address(self.address()), None),
        }
    }
}

/// `uid 1000: 250 (249 of pid 4242), uid 33: 6 (6 of pid 77)`.
pub(crate) fn describe<'a>(held: impl Iterator<Item = (Holder<'a>, Option<i32>)>) -> String {
    let mut by_process: HashMap<(Holder<'_>, Option<i32>), usize> = HashMap::new();
    for holder in held {
        *by_process.entry(holder).or_default() += 1;
    }
    let mut by_holder: HashMap<Holder<'_>, (usize, (usize, Option<i32>))> = HashMap::new();
    for ((holder, pid), count) in by_process {
        let (total, most) = by_holder.entry(holder).or_default();
        *total += count;
        *most = (*most).max((count, pid));
    }
    let mut ranked: Vec<_> = by_holder.into_iter().collect();
    ranked.sort_by_key(|(holder, (total, _))| (std::cmp::Reverse(*total), *holder));
    let mut text = String::new();
    for (holder, (total, (most, pid))) in ranked.iter().take(NAMED) {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = match holder {
            Holder::Program => write!(text, "{comma}this program: {total}"),
            Holder::Uid(uid) => write!(text, "{comma}uid {uid}: {total}"),
            Holder::Address(address) => write!(text, "{comma}{address}: {total}"),
        };
        if let Some(pid) = pid {
            let _ = write!(text, " ({most} of pid {pid})");
        }
    }
    let others: usize = ranked.iter().skip(NAMED).map(|(_, (total, _))| total).sum();
    if others > 0 {
        let _ = write!(text, ", others: {others}");
    }
    if text.is_empty() { "nobody".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    pub(crate) fn the_greatest_are_named_with_their_busiest_process() {
        let uid = |uid, pid, count| std::iter::repeat_n((Holder::Uid(uid), Some(pid)), count);
        let of = |address, count| std::iter::repeat_n((Holder::Address(address), None), count);
        let held = uid(33, 7, 6).chain(uid(1000, 1, 1)).chain(uid(1000, 4242, 249)).chain(of("10.0.0.1", 3));
        assert_eq!(
            describe(held.chain(of("10.0.0.2", 1)).chain(std::iter::once((Holder::Program, None)))),
            "uid 1000: 250 (249 of pid 4242), uid 33: 6 (6 of pid 7), 10.0.0.1: 3, others: 2"
        );
        assert_eq!(describe(std::iter::empty()), "nobody");
    }
}
