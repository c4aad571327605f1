//! What looks like a leak now, and what did lately: who, what, since when. Owns the records; finding them is
//! `host::leak_watch`'s. Closes nobody.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::core::keys::{ChildKey, ProcessKey};
use std::collections::{HashMap, VecDeque};

/// What looks like a leak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LeakKind {
    /// A MULTI or WATCH is open, and nothing is sent.
    OpenTransaction,
    /// A lease for a session is neither used nor given anything.
    UnusedLease,
    /// It takes nothing of what waits for it.
    StuckReader,
    /// A request has come in part, and no byte more comes.
    HalfRequest,
    /// It was idle for longer than `idle_child_timeout`.
    Idle,
    /// The process it belongs to has ended, and a forked copy keeps its connection open without using it.
    Orphaned,
    /// A process opens more and more connections while older ones of it stay unused.
    Growing,
    /// A process has `children_per_process_max` children, and wants more.
    ProcessAtCap,
    /// A user has `children_per_uid_max` children, and wants more.
    UserAtCap,
    /// A process has `leases_per_process_max` leases, and wants more.
    LeasesAtCap,
}

impl LeakKind {
    pub(crate) const ALL: [LeakKind; 10] = [
        LeakKind::OpenTransaction,
        LeakKind::UnusedLease,
        LeakKind::StuckReader,
        LeakKind::HalfRequest,
        LeakKind::Idle,
        LeakKind::Orphaned,
        LeakKind::Growing,
        LeakKind::ProcessAtCap,
        LeakKind::UserAtCap,
        LeakKind::LeasesAtCap,
    ];

    /// In the log, in tables and in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            LeakKind::OpenTransaction => "open-transaction",
            LeakKind::UnusedLease => "unused-lease",
            LeakKind::StuckReader => "stuck-reader",
            LeakKind::HalfRequest => "half-request",
            LeakKind::Idle => "idle-child",
            LeakKind::Orphaned => "orphaned-connection",
            LeakKind::Growing => "growing-process",
            LeakKind::ProcessAtCap => "process-at-cap",
            LeakKind::UserAtCap => "uid-at-cap",
            LeakKind::LeasesAtCap => "leases-at-cap",
        }
    }
}

/// Whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LeakSubject {
    Child(ChildKey),
    Process(ProcessKey),
    Uid(u32),
}

/// How one has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeakEnd {
    /// By itself: it is used again, or was given back.
    Over,
    /// Its child, or the last one of its process, has gone.
    Gone,
    /// The broker has closed it.
    Closed,
}

impl LeakEnd {
    pub(crate) fn name(self) -> &'static str {
        match self {
            LeakEnd::Over => "over",
            LeakEnd::Gone => "gone",
            LeakEnd::Closed => "closed",
        }
    }
}

/// Who it was, in words of the moment when it was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Suspect {
    /// CLIENT ID; none where it is about a process or a user.
    pub(crate) child: Option<u64>,
    pub(crate) pid: Option<i32>,
    pub(crate) uid: Option<u32>,
    pub(crate) process: String,
    pub(crate) unit: String,
    /// Its address, its listener's label, the name it has given itself.
    pub(crate) called: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Leak {
    pub(crate) number: u64,
    pub(crate) kind: LeakKind,
    pub(crate) who: Suspect,
    pub(crate) what: String,
    pub(crate) since: Millis,
    pub(crate) ended: Option<(Millis, LeakEnd)>,
}

#[derive(Debug, Default)]
pub(crate) struct Leaks {
    current: HashMap<(LeakSubject, LeakKind), Leak>,
    /// The youngest last.
    past: VecDeque<Leak>,
    /// How many there are now, kept or not, and were found so far, by kind.
    now: [usize; LeakKind::ALL.len()],
    found: [u64; LeakKind::ALL.len()],
}

impl Leaks {
    /// What is suspected of it, or the first of that.
    pub(crate) fn kind_of(&self, subject: LeakSubject) -> Option<LeakKind> {
        LeakKind::ALL.into_iter().find(|kind| self.has(subject, *kind))
    }

    pub(crate) fn has(&self, subject: LeakSubject, kind: LeakKind) -> bool {
        self.current.contains_key(&(subject, kind))
    }

    /// How many there are now, and were found so far.
    pub(crate) fn count(&self, kind: LeakKind) -> (usize, u64) {
        (self.now[kind as usize], self.found[kind as usize])
    }

    /// One was found. False if there is no room to keep it: then it is counted, and named in the log alone.
    pub(crate) fn begin(
        &mut self,
        subject: LeakSubject,
        kind: LeakKind,
        since: Millis,
        who: Suspect,
        what: String,
    ) -> bool {
        self.found[kind as usize] += 1;
        let number = self.found.iter().sum();
        // Children, of which there may be very many, leave room for processes and users.
        let is_child = matches!(subject, LeakSubject::Child(_));
        let max = if is_child { limits::LEAKS_KEPT - limits::LEAKS_OF_MANY } else { limits::LEAKS_KEPT };
        let has_room = self.current.len() < max;
        self.now[kind as usize] += usize::from(has_room || is_child);
        if has_room {
            self.current.insert((subject, kind), Leak { number, kind, who, what, since, ended: None });
        }
        has_room
    }

    pub(crate) fn end(&mut self, subject: LeakSubject, kind: LeakKind, end: LeakEnd, now: Millis) {
        let leak = self.current.remove(&(subject, kind));
        if leak.is_some() || matches!(subject, LeakSubject::Child(_)) {
            self.now[kind as usize] -= 1;
        }
        if let Some(leak) = leak {
            self.remember(Leak { ended: Some((now, end)), ..leak });
        }
    }

    /// One that was over as soon as it was found.
    pub(crate) fn begin_ended(
        &mut self,
        kind: LeakKind,
        since: Millis,
        who: Suspect,
        what: String,
        now: Millis,
    ) {
        self.found[kind as usize] += 1;
        let number = self.found.iter().sum();
        self.remember(Leak { number, kind, who, what, since, ended: Some((now, LeakEnd::Closed)) });
    }

    fn remember(&mut self, leak: Leak) {
        if self.past.len() == limits::LEAKS_PAST {
            self.past.pop_front();
        }
        self.past.push_back(leak);
    }

    /// Those of processes and users now, with what they are about.
    pub(crate) fn of_many(&self) -> Vec<(LeakSubject, LeakKind)> {
        let of_many = self.current.keys().filter(|(subject, _)| !matches!(subject, LeakSubject::Child(_)));
        of_many.copied().collect()
    }

    /// The numbers of all that are known, those of now first.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        let mut now: Vec<u64> = self.current.values().map(|leak| leak.number).collect();
        now.sort_unstable();
        now.extend(self.past.iter().rev().map(|leak| leak.number));
        now
    }

    pub(crate) fn numbered(&self, number: u64) -> Option<&Leak> {
        let all = self.current.values().chain(&self.past);
        all.into_iter().find(|leak| leak.number == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_is_remembered_for_a_while() {
        let mut leaks = Leaks::default();
        let begin = |leaks: &mut Leaks, uid| {
            leaks.begin(LeakSubject::Uid(uid), LeakKind::UserAtCap, 5, Suspect::default(), String::new())
        };
        assert!(begin(&mut leaks, 1));
        assert_eq!(leaks.kind_of(LeakSubject::Uid(1)), Some(LeakKind::UserAtCap));
        assert_eq!(leaks.count(LeakKind::UserAtCap), (1, 1));
        leaks.end(LeakSubject::Uid(1), LeakKind::UserAtCap, LeakEnd::Over, 9);
        leaks.end(LeakSubject::Uid(2), LeakKind::UserAtCap, LeakEnd::Over, 9);
        assert_eq!((leaks.count(LeakKind::UserAtCap), leaks.numbers()), ((0, 1), vec![1]));
        assert_eq!(leaks.numbered(1).and_then(|leak| leak.ended), Some((9, LeakEnd::Over)));
        for uid in 0..2 * limits::LEAKS_PAST as u32 {
            begin(&mut leaks, uid);
            leaks.end(LeakSubject::Uid(uid), LeakKind::UserAtCap, LeakEnd::Gone, 9);
        }
        assert_eq!(leaks.numbers().len(), limits::LEAKS_PAST);
        assert!(leaks.numbered(1).is_none());
        assert!((0..=limits::LEAKS_KEPT as u32).any(|uid| !begin(&mut leaks, uid)), "there is a bound");
    }
}
