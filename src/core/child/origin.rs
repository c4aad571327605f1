//! A child: a process's connection to the broker, without the connection. Owns the child's queues, its
//! session and its place in every line it stands in; never touches a socket and never looks at the clock.

use crate::core::child::Child;
use crate::core::child::ChildKind;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// Where a peer comes from over TCP, without the port.
pub(in crate::core) fn address_of(peer: &str) -> &str {
    peer.rsplit_once(':').map_or(peer, |(address, _)| address)
}

/// How many are named; the others are one number.
pub(in crate::core) const NAMED: usize = 3;

/// Where a child comes from.
#[derive(Debug, Clone)]
pub(in crate::core) struct Origin {
    pub(in crate::core) kind: ChildKind,
    pub(in crate::core) uid: Option<u32>,
    pub(in crate::core) pid: Option<i32>,
    pub(in crate::core) peer: Arc<str>,
}

/// To whom a child belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::core) enum Holder<'a> {
    Program,
    Uid(u32),
    Address(&'a str),
}

impl Origin {
    /// Of no child.
    #[cfg(test)]
    pub(in crate::core) fn nobody() -> Origin {
        Origin { kind: ChildKind::Local, uid: None, pid: None, peer: "".into() }
    }

    pub(in crate::core) fn holder(&self) -> (Holder<'_>, Option<i32>) {
        match (self.kind, self.uid) {
            (ChildKind::Local, _) => (Holder::Program, None),
            (_, Some(uid)) => (Holder::Uid(uid), self.pid),
            (_, None) => (Holder::Address(address_of(&self.peer)), None),
        }
    }
}

impl Child {
    /// Where it comes from.
    pub(in crate::core) fn origin(&self) -> Origin {
        Origin { kind: self.kind, uid: self.uid, pid: self.pid, peer: Arc::clone(&self.peer) }
    }
}

/// `uid 1000: 250 (249 of pid 4242), uid 33: 6 (6 of pid 77)`.
pub(in crate::core) fn describe<'a>(held: impl Iterator<Item = (Holder<'a>, Option<i32>)>) -> String {
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
    pub(in crate::core) fn the_greatest_are_named_with_their_busiest_process() {
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
