//! Children that are closed since something of theirs was lost with their lane's connection. What of their requests had
//! not left is dropped before the next connection is used: to a child that was closed nothing is done any more, and it may
//! ask for the same again elsewhere. Never closes a child.

use crate::base::pipeline::Pipeline;
use crate::core::connection::canary::Canaries;
use crate::core::connection::slot::{Slot, SlotKind};
use crate::core::keys::ChildKey;
use std::collections::HashSet;

#[derive(Debug, Default)]
pub(super) struct Forsaken(Vec<ChildKey>);

impl Forsaken {
    pub(super) fn add(&mut self, child: ChildKey) {
        self.0.push(child);
    }

    /// Takes what these children have asked for off the lane, of which nothing has left. False if there is nothing.
    pub(super) fn leave(&mut self, out: &mut Pipeline<Slot>, canaries: &Canaries) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let children: HashSet<ChildKey> = std::mem::take(&mut self.0).into_iter().collect();
        let keeps = |slot: &Slot| !children.contains(&slot.child);
        if out.entries().iter().all(keeps) {
            return false;
        }
        // A canary's word is made of where it stands.
        let again = |slot: &Slot, end: u64| {
            (slot.kind == SlotKind::Canary).then(|| canaries.request_at(end).to_vec())
        };
        out.retain_units(keeps, again, |slot, end| Slot { end, ..slot });
        true
    }
}
