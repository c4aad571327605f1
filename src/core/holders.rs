//! Who holds most of what has run out: children and leases, by the user and the process they belong to. Looked up only
//! when somebody is refused, and seldom; decides nothing.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::core::broker::Broker;
use crate::core::child::origin::Origin;
use crate::core::child::origin::describe;
use crate::core::keys::LeaseKind;
use crate::core::shared::Shared;

/// When the log was last told who has the children.
#[derive(Debug, Default)]
pub(in crate::core) struct Holders {
    children_told_at: Option<Millis>,
    /// Children refused since then.
    refused: u64,
}

impl Shared {
    /// Who holds the leases of a kind, in words; as it was at most `HOLDERS_FRESH` ago.
    pub(in crate::core) fn lease_holders(&mut self, kind: LeaseKind) -> String {
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

impl Broker {
    /// A child was refused for `children_max`. The log tells who has them, now and then: at a flood of refusals a look
    /// at every child for each of them would be the worse half of it.
    pub(in crate::core) fn child_refused(&mut self) {
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
