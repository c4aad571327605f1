//! How much all children and lanes hold: the bound, whom it closes, and when the program is told that memory has come
//! free. Owns no buffer; whoever changes one has it counted (`account_child`, `account_lane`).

use crate::base::clock::Millis;
use crate::base::limits;
use crate::core::broker::Broker;
use crate::core::child::Child;

/// Watches for memory that a burst has left behind.
#[derive(Debug, Default)]
pub(in crate::core) struct Trim {
    /// The most the broker has held since the program was last told that memory came free.
    peak: usize,
    told_at: Millis,
    /// Memory has come free and the program does not know yet.
    due: bool,
}

impl Trim {
    /// Looks at how much is held `now`; notes when it is much less than it was.
    pub(in crate::core) fn check(&mut self, held: usize, now: Millis) {
        if now < self.told_at + limits::TRIM_INTERVAL {
            return;
        }
        if self.peak >= held + limits::TRIM_MIN {
            *self = Trim { peak: held, told_at: now, due: true };
        }
    }
}

impl Broker {
    /// Heap bytes held, those of the children themselves included.
    pub(in crate::core) fn held(&self) -> usize {
        self.shared.env.memory + self.children.len() * std::mem::size_of::<Child>()
    }

    /// Whether much memory has come free since the last call. The allocator may still hold it: it lies
    /// between small objects that live on.
    pub fn take_trim(&mut self) -> bool {
        std::mem::take(&mut self.trim.due)
    }

    /// Over `memory_max` the largest offender is closed and named, until the rest fits. Never in the middle
    /// of an event: whoever is being served keeps what it stands on.
    pub(in crate::core) fn enforce_memory(&mut self) -> bool {
        let mut worked = false;
        self.trim.peak = self.trim.peak.max(self.held());
        while self.shared.env.memory > self.shared.env.settings.memory_max {
            let before = self.shared.env.memory;
            let child = self.children.iter().max_by_key(|(_, child)| child.footprint);
            let child = child.map(|(key, child)| (key, child.footprint, child.label()));
            let held = child.as_ref().map_or(0, |(_, held, _)| *held);
            let lane = self.shared.connections.lanes.iter().max_by_key(|(_, lane)| lane.footprint);
            if let Some((key, _)) = lane.filter(|(_, lane)| lane.footprint > held) {
                self.shared.empty_lane(key, "memory_max reached");
                self.deliver_notices();
                if self.shared.env.memory < before {
                    worked = true;
                    continue;
                }
            }
            let Some((key, _, label)) = child.filter(|_| held > 0) else { break };
            let told = self.children.get_mut(key).is_some_and(|child| self.shared.give_up_requests(child));
            self.deliver_notices();
            if !told {
                log::warn!("memory_max reached: closing child {label}, which holds {held} bytes");
                self.remove_child(key);
            }
            worked = true;
        }
        // False when there is nothing left to give: whoever runs us until we rest must come to an end.
        worked
    }
}
