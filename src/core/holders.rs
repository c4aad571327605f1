//! Who holds most of what has run out: children and leases, by the user and the process they belong to. Looked up only
//! when somebody is refused, and seldom; decides nothing.

use super::broker::Broker;
use super::child::{Child, ChildKind, address_of};
use super::lease::LeaseKind;
use super::shared::Shared;
use crate::base::clock::Millis;
use crate::base::limits;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// How many are named; the others are one number.
const NAMED: usize = 3;

/// Where a child comes from.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    kind: ChildKind,
    uid: Option<u32>,
    pid: Option<i32>,
    peer: Arc<str>,
}

/// To whom a child belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Holder<'a> {
    Program,
    Uid(u32),
    Address(&'a str),
}

impl Origin {
    /// Of no child.
    #[cfg(test)]
    pub(super) fn nobody() -> Origin {
        Origin { kind: ChildKind::Local, uid: None, pid: None, peer: "".into() }
    }

    fn holder(&self) -> (Holder<'_>, Option<i32>) {
        match (self.kind, self.uid) {
            (ChildKind::Local, _) => (Holder::Program, None),
            (_, Some(uid)) => (Holder::Uid(uid), self.pid),
            (_, None) => (Holder::Address(address_of(&self.peer)), None),
        }
    }
}

impl Child {
    /// Where it comes from.
    pub(super) fn origin(&self) -> Origin {
        Origin { kind: self.kind, uid: self.uid, pid: self.pid, peer: Arc::clone(&self.peer) }
    }
}

/// Who had the leases of a kind when that was last found out.
pub(super) type LeaseHolders = [Option<(Millis, String)>; 3];

/// When the log was last told who has the children.
#[derive(Debug, Default)]
pub(super) struct Holders {
    children_told_at: Option<Millis>,
    /// Children refused since then.
    refused: u64,
}

/// `uid 1000: 250 (249 of pid 4242), uid 33: 6 (6 of pid 77)`.
fn describe<'a>(held: impl Iterator<Item = (Holder<'a>, Option<i32>)>) -> String {
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

impl Shared {
    /// Who holds the leases of a kind, in words; as it was at most `HOLDERS_FRESH` ago.
    pub(super) fn lease_holders(&mut self, kind: LeaseKind) -> String {
        let at = LeaseKind::ALL.iter().position(|other| *other == kind).unwrap_or_default();
        if let Some((told, text)) = &self.lease_holders[at]
            && told + limits::HOLDERS_FRESH > self.env.now
        {
            return text.clone();
        }
        let leases = self.connections.lanes.iter().filter_map(|(_, lane)| lane.lease.as_ref());
        let of_kind = leases.filter(|lease| lease.kind == kind && !lease.over);
        let text = describe(of_kind.map(|lease| lease.origin.holder()));
        self.lease_holders[at] = Some((self.env.now, text.clone()));
        text
    }
}

impl Shared {}

impl Broker {
    /// A child was refused for `children_max`. The log tells who has them, now and then: at a flood of refusals a look
    /// at every child for each of them would be the worse half of it.
    pub(super) fn child_refused(&mut self) {
        self.shared.env.counters.children_refused += 1;
        self.holders.refused += 1;
        if self
            .holders
            .children_told_at
            .is_some_and(|told| told + limits::REFUSED_LOG_INTERVAL > self.shared.env.now)
        {
            return;
        }
        self.holders.children_told_at = Some(self.shared.env.now);
        let (refused, max) =
            (std::mem::take(&mut self.holders.refused), self.shared.env.settings.children_max);
        let (count, holders) = (self.children.len(), self.child_holders());
        log::warn!("children_max is {max}: refused {refused} more; of {count} children {holders}");
    }

    /// Who holds the children, in words.
    fn child_holders(&self) -> String {
        let origins: Vec<Origin> = self.children.iter().map(|(_, child)| child.origin()).collect();
        describe(origins.iter().map(Origin::holder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_are_named_with_their_busiest_process() {
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
