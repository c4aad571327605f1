//! The replicas that sentinels name as sound, for children that read from them. Each has a number: children and pools keep
//! to one, which another replica stands in for while it cannot be used, or the master. Owns which is used; never who reads.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::config::endpoint::Address;

#[derive(Debug, Default)]
pub(crate) struct Replicas {
    /// The first has the number 1. Numbers are kept: another replica may get that of one that is gone.
    list: Vec<Replica>,
    /// The number that was given last.
    given: usize,
    /// Pools may lead elsewhere since this was taken.
    changed: bool,
}

#[derive(Debug)]
struct Replica {
    /// None, if it is named no more.
    address: Option<Address>,
    /// It has failed: it is not used before then.
    barred_until: Millis,
}

impl Replica {
    fn usable(&self, now: Millis) -> Option<&Address> {
        self.address.as_ref().filter(|_| self.barred_until <= now)
    }
}

impl Replicas {
    /// These are sound, and no others.
    pub(crate) fn learn(&mut self, found: Vec<Address>) {
        // What has rested is looked at again even if all are as they were.
        self.changed |= !(self.list.is_empty() && found.is_empty());
        for one in &mut self.list {
            if one.address.as_ref().is_some_and(|address| !found.contains(address)) {
                one.address = None;
            }
        }
        for address in found.into_iter().take(limits::REPLICAS_MAX) {
            if self.list.iter().any(|one| one.address.as_ref() == Some(&address)) {
                continue;
            }
            let new = Replica { address: Some(address), barred_until: 0 };
            match self.list.iter().position(|one| one.address.is_none()) {
                Some(free) => self.list[free] = new,
                None if self.list.len() < limits::REPLICAS_MAX => self.list.push(new),
                None => {}
            }
        }
    }

    /// Another server is the master: which replicas are its own is not known yet.
    pub(super) fn forget(&mut self) {
        self.learn(Vec::new());
    }

    /// Whether pools may lead elsewhere since the last call.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(crate) fn is_changed(&self) -> bool {
        self.changed
    }

    /// A replica for a child that has none, each in turn; zero if there is none.
    pub(crate) fn give(&mut self, now: Millis) -> u8 {
        let count = self.list.len();
        let next = (1..=count).map(|step| (self.given + step - 1) % count + 1);
        let found = next.into_iter().find(|number| self.list[number - 1].usable(now).is_some());
        self.given = found.unwrap_or(self.given);
        found.unwrap_or_default() as u8
    }

    /// Who answers for this number, and where; none if that is the master.
    pub(crate) fn serving(&self, number: u8, now: Millis) -> Option<(u8, &Address)> {
        let (count, first) = (self.list.len(), usize::from(number).checked_sub(1)?);
        let mut by_turns = (0..count).map(|step| (first + step) % count);
        by_turns.find_map(|at| Some((at as u8 + 1, self.list[at].usable(now)?)))
    }

    /// It cannot be reached, or says that it cannot answer.
    pub(crate) fn bar(&mut self, number: u8, now: Millis) {
        if let Some(one) = usize::from(number).checked_sub(1).and_then(|at| self.list.get_mut(at)) {
            one.barred_until = now + limits::REPLICA_REST;
        }
    }

    /// Those that are named, by their numbers, and whether each is used.
    pub(crate) fn list(&self, now: Millis) -> impl Iterator<Item = (u8, &Address, bool)> {
        self.list.iter().enumerate().filter_map(move |(at, one)| {
            Some((at as u8 + 1, one.address.as_ref()?, one.usable(now).is_some()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Address {
        Address::Tcp { host: "h".into(), port }
    }

    fn serving(replicas: &Replicas, number: u8, now: Millis) -> Option<Address> {
        replicas.serving(number, now).map(|(_, address)| address.clone())
    }

    #[test]
    fn each_is_given_in_turn_and_stands_in_for_another() {
        let mut replicas = Replicas::default();
        assert_eq!((replicas.give(0), serving(&replicas, 1, 0)), (0, None));
        replicas.learn(vec![at(1), at(2), at(3)]);
        assert_eq!([(); 4].map(|()| replicas.give(0)), [1, 2, 3, 1]);
        replicas.bar(2, 0);
        assert_eq!(serving(&replicas, 2, 0), Some(at(3)));
        assert_eq!((replicas.give(0), replicas.give(0)), (3, 1), "not one that has just failed");
        assert_eq!(serving(&replicas, 2, limits::REPLICA_REST), Some(at(2)));
        [1, 2, 3].into_iter().for_each(|number| replicas.bar(number, 0));
        assert_eq!(serving(&replicas, 2, 0), None, "the master answers");
    }

    #[test]
    fn numbers_are_kept() {
        let mut replicas = Replicas::default();
        replicas.learn(vec![at(1), at(2)]);
        replicas.learn(vec![at(3), at(2)]);
        assert_eq!((serving(&replicas, 1, 0), serving(&replicas, 2, 0)), (Some(at(3)), Some(at(2))));
        replicas.learn(vec![at(2)]);
        assert_eq!(serving(&replicas, 1, 0), Some(at(2)));
        replicas.learn((0..40).map(at).collect());
        assert_eq!(replicas.list(0).count(), limits::REPLICAS_MAX);
        replicas.forget();
        assert_eq!((serving(&replicas, 2, 0), replicas.give(0)), (None, 0));
    }
}
