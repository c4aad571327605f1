//! Wrong passwords: how long the next password from the same source waits before it is looked at. Owns the counts by
//! source, so that a new connection begins with the count of the last one. Keeps no password and authenticates no child.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::core::child::Child;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

/// Where a child comes from, as far as the system tells.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Uid(u32),
    /// Of TCP, without the port.
    Address(Box<str>),
}

impl Source {
    pub(crate) fn of(child: &Child) -> Source {
        let origin = child.origin();
        origin.uid().map_or_else(|| Source::Address(origin.address().into()), Source::Uid)
    }

    /// Processes of one uid can read each other's memory anyway: to learn at once that another's password is right tells
    /// them nothing new. Of processes behind one address that is not so.
    pub(super) fn is_one_user(&self) -> bool {
        matches!(self, Source::Uid(_))
    }
}

#[derive(Debug, Default)]
struct Record {
    /// Wrong passwords, one forgiven every `GUESS_FORGIVEN`.
    wrong: u32,
    /// Up to when that has been done.
    counted_at: Millis,
    /// Names and passwords that were right, hashed with a key of this process; the latest first.
    right: VecDeque<u64>,
}

impl Record {
    fn forgive(&mut self, now: Millis) {
        let forgiven = now.saturating_sub(self.counted_at) / limits::GUESS_FORGIVEN;
        self.wrong = self.wrong.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        self.counted_at += forgiven * limits::GUESS_FORGIVEN;
    }

    fn delay(&self, most: Millis) -> Millis {
        let over = self.wrong.checked_sub(limits::GUESSES_FREE);
        over.map_or(0, |over| (limits::GUESS_DELAY << over.min(16)).min(most))
    }
}

#[derive(Debug)]
pub(super) struct Guesses {
    most: Millis,
    sources: HashMap<Source, Record>,
    keyed: RandomState,
}

impl Guesses {
    pub(super) fn new(most: Millis) -> Guesses {
        Guesses { most, sources: HashMap::new(), keyed: RandomState::new() }
    }

    /// How long a child of this source waits before its password is looked at.
    pub(super) fn delay(&mut self, source: &Source, claim: (&[u8], &[u8]), now: Millis) -> Millis {
        let Some(record) = self.sources.get_mut(source) else { return 0 };
        record.forgive(now);
        let delay = record.delay(self.most);
        // Longer ones are never right, and hashing as much as a child may send would take too long.
        let may_be_right = claim.0.len().max(claim.1.len()) <= limits::CREDENTIAL_MAX;
        let excused = delay > 0 && may_be_right && source.is_one_user();
        if excused && record.right.contains(&self.keyed.hash_one(claim)) { 0 } else { delay }
    }

    fn record(&mut self, source: Source, now: Millis) -> &mut Record {
        if self.sources.len() >= limits::GUESS_SOURCES_MAX && !self.sources.contains_key(&source) {
            for record in self.sources.values_mut() {
                record.forgive(now);
            }
            let least = self.sources.iter().min_by_key(|(_, record)| (record.wrong, record.counted_at));
            if let Some(least) = least.map(|(source, _)| source.clone()) {
                self.sources.remove(&least);
            }
        }
        let record = self.sources.entry(source).or_default();
        record.forgive(now);
        record
    }

    pub(super) fn was_right(&mut self, source: Source, claim: (&[u8], &[u8]), now: Millis) {
        if source.is_one_user() {
            let hash = self.keyed.hash_one(claim);
            let right = &mut self.record(source, now).right;
            right.retain(|known| *known != hash);
            right.push_front(hash);
            right.truncate(limits::GUESSES_RIGHT);
        }
    }

    /// Counts a wrong one; returns how long the next one waits.
    pub(super) fn was_wrong(&mut self, source: Source, now: Millis) -> Millis {
        let most = self.most;
        let record = self.record(source, now);
        if record.wrong == 0 {
            record.counted_at = now;
        }
        record.wrong = (record.wrong + 1).min(limits::GUESSES_COUNTED);
        record.delay(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOBS: (&[u8], &[u8]) = (b"jobs", b"right");
    const BAD: (&[u8], &[u8]) = (b"jobs", b"wrong");

    #[test]
    fn the_delay_grows_with_what_was_wrong_and_is_forgiven_in_time() {
        let mut guesses = Guesses::new(limits::GUESS_DELAY_MAX);
        let source = Source::Uid(1000);
        let delays: Vec<Millis> = (0..20).map(|_| guesses.was_wrong(source.clone(), 5000)).collect();
        assert_eq!(delays[..4], [0, 0, limits::GUESS_DELAY, 2 * limits::GUESS_DELAY]);
        assert!(delays.is_sorted() && delays[19] == limits::GUESS_DELAY_MAX, "{delays:?}");
        assert_eq!(guesses.delay(&Source::Uid(33), BAD, 5000), 0, "nobody else waits");
        assert_eq!(guesses.delay(&source, BAD, 5000), limits::GUESS_DELAY_MAX);
        let later = 5000 + u64::from(limits::GUESSES_COUNTED) * limits::GUESS_FORGIVEN;
        assert_eq!(guesses.delay(&source, BAD, later), 0);
    }

    #[test]
    fn what_was_right_for_the_same_user_does_not_wait() {
        let mut guesses = Guesses::new(limits::GUESS_DELAY_MAX);
        let (source, address) = (Source::Uid(1000), Source::Address("127.0.0.1".into()));
        for from in [&source, &address] {
            guesses.was_right(from.clone(), JOBS, 0);
            for _ in 0..10 {
                guesses.was_wrong(from.clone(), 0);
            }
            assert!(guesses.delay(from, BAD, 0) > 0 && guesses.delay(from, (b"jobsr", b"ight"), 0) > 0);
        }
        assert_eq!(guesses.delay(&source, JOBS, 0), 0);
        assert!(guesses.delay(&address, JOBS, 0) > 0, "who is behind an address, nobody knows");
    }

    #[test]
    fn sources_are_bounded_and_the_worst_are_remembered() {
        let mut guesses = Guesses::new(limits::GUESS_DELAY_MAX);
        for _ in 0..10 {
            guesses.was_wrong(Source::Uid(1), 0);
        }
        for number in 0..10 * limits::GUESS_SOURCES_MAX {
            guesses.was_wrong(Source::Address(number.to_string().into()), 0);
        }
        assert_eq!(guesses.sources.len(), limits::GUESS_SOURCES_MAX);
        assert_eq!(guesses.delay(&Source::Uid(1), BAD, 0), limits::GUESS_DELAY_MAX);
    }
}
