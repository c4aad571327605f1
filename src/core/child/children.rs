//! Every child there is, by key and by CLIENT ID. Owns both ways to find one and keeps them in step; knows nothing of
//! what a child does.

use crate::base::clock::Millis;
use crate::base::key::Arena;
use crate::base::limits;
use crate::command::{CommandId, NO_COMMAND, Renumbering};
use crate::core::child::Child;
use crate::core::child::origin::describe;
use crate::core::host::processes::{Process, Processes};
use crate::core::keys::{ChildKey, ChildName};
use std::collections::HashMap;
use std::ops::Deref;

/// The children. A key is the way to one; an id is only ever what somebody has typed.
#[derive(Debug, Default)]
pub(crate) struct Children {
    arena: Arena<Child, ChildName>,
    by_id: HashMap<u64, ChildKey>,
    /// Children refused since the log was last told of any, and when that was.
    refused: u64,
    refused_told_at: Option<Millis>,
}

impl Deref for Children {
    type Target = Arena<Child, ChildName>;

    fn deref(&self) -> &Self::Target {
        &self.arena
    }
}

impl Children {
    /// Stores a child and returns the only key that will ever name it.
    pub(crate) fn insert(&mut self, child: Child) -> ChildKey {
        let id = child.session().id;
        let key = self.arena.insert(child);
        if let Some(child) = self.known_mut(key) {
            child.key = key;
        }
        let before = self.by_id.insert(id, key);
        debug_assert!(before.is_none(), "two children with the id {id}");
        key
    }

    pub(crate) fn remove(&mut self, key: ChildKey) -> Option<Child> {
        let child = self.arena.remove(key)?;
        self.by_id.remove(&child.session().id);
        Some(child)
    }

    /// The child that CLIENT ID told this number. One look-up, however many children there are.
    pub(crate) fn by_id(&self, id: i64) -> Option<ChildKey> {
        self.by_id.get(&u64::try_from(id).ok()?).copied()
    }

    /// All of them by their CLIENT IDs, in no order, those that are closed and not yet removed among them.
    pub(crate) fn ids(&self) -> impl Iterator<Item = (u64, ChildKey)> {
        self.by_id.iter().map(|(id, key)| (*id, *key))
    }

    /// A child that is there.
    pub(crate) fn known(&self, key: ChildKey) -> Option<&Child> {
        debug_assert!(self.arena.get(key).is_some(), "no child {key:?}");
        self.arena.get(key)
    }

    pub(crate) fn known_mut(&mut self, key: ChildKey) -> Option<&mut Child> {
        debug_assert!(self.arena.get(key).is_some(), "no child {key:?}");
        self.arena.get_mut(key)
    }

    /// A child that may have gone: its key was kept by a slot, a timer, a list or the driver.
    pub(crate) fn get_mut(&mut self, key: ChildKey) -> Option<&mut Child> {
        self.arena.get_mut(key)
    }

    /// Whether it has just come, and the next that come may do as it does; or has gone.
    pub(crate) fn is_new(&self, key: ChildKey) -> bool {
        self.get(key).is_none_or(|child| child.sent().is_new())
    }

    /// What the command table numbers has other numbers now.
    pub(crate) fn renumber_commands(&mut self, renumbering: &Renumbering) {
        for key in self.arena.keys() {
            if let Some(child) = self.known_mut(key) {
                let last = child.last_command.map(|id| renumbering.of(id));
                child.last_command = last.filter(|id| *id != NO_COMMAND);
                child.sent.renumber_commands(renumbering);
            }
        }
    }

    /// Of requests that were lost together, perhaps because the reply to one was too long for the server, suspects those of
    /// the few children of which least is known. Each has its next lane to itself, so whoever is suspected without reason
    /// only waits for that.
    pub(crate) fn suspect_some_of(&mut self, lost: &[(ChildKey, CommandId)]) {
        let known = |(child, command): &(ChildKey, CommandId)| {
            Some((self.get(*child)?.sent().known_replies(), *child, *command))
        };
        let mut least: Vec<_> = lost.iter().filter_map(known).collect();
        least.sort_by_key(|(known, ..)| *known);
        let mut suspects: Vec<ChildKey> = Vec::new();
        for (_, key, command) in least {
            if suspects.len() < limits::SUSPECTS_MAX
                && !suspects.contains(&key)
                && let Some(child) = self.known_mut(key)
            {
                child.sent.suspect(command);
                suspects.push(key);
            }
        }
    }

    /// A child was refused for `children_max`. The log tells who has them, now and then: a look at every child for each
    /// refusal would be the worse half of a flood.
    pub(crate) fn refuse(&mut self, max: usize, now: Millis, processes: &Processes) {
        self.refused += 1;
        if self.refused_told_at.is_some_and(|told| told + limits::REFUSED_LOG_INTERVAL > now) {
            return;
        }
        self.refused_told_at = Some(now);
        let (refused, count) = (std::mem::take(&mut self.refused), self.len());
        let holders = describe(self.iter().map(|(_, child)| child.origin().holder()), &|pid| {
            processes.by_pid(pid).map(Process::name)
        });
        log::warn!("children_max is {max}: refused {refused} more; of {count} children {holders}");
    }

    /// Bytes of the children themselves, without what they hold.
    pub(crate) fn own_bytes(&self) -> usize {
        self.len() * size_of::<Child>()
    }

    pub(crate) fn shrink(&mut self) {
        self.arena.shrink();
        self.by_id.shrink_to_fit();
    }
}
