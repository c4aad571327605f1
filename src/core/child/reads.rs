//! From which server a child reads: the master, or a replica that it keeps. Owns the choice; never which replicas there are.

use crate::base::clock::Millis;
use crate::base::limits;

#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// Its listener says that it reads from replicas.
    are_from_replicas: bool,
    /// The replica that it has been given; zero for none.
    replica: u8,
    /// It has written: until then it reads what it wrote.
    master_until: Millis,
}

impl Reads {
    pub(crate) fn of_replicas(are_from_replicas: bool) -> Reads {
        Reads { are_from_replicas, ..Reads::default() }
    }

    #[inline(always)]
    pub(crate) fn are_from_replicas(&self) -> bool {
        self.are_from_replicas
    }

    /// A write of it was answered, or what came of it is not known.
    #[inline(always)]
    pub(crate) fn wrote(&mut self, now: Millis) {
        self.master_until = now + limits::OWN_WRITES;
    }

    /// For how much longer it reads from the master.
    pub(crate) fn master_for(&self, now: Millis) -> Millis {
        self.master_until.saturating_sub(now)
    }

    pub(crate) fn set_master_for(&mut self, left: Millis, now: Millis) {
        self.master_until = now + left.min(limits::OWN_WRITES);
    }

    pub(crate) fn must_see_writes(&self, now: Millis) -> bool {
        now < self.master_until
    }

    pub(crate) fn replica(&self) -> u8 {
        self.replica
    }

    pub(crate) fn keep_to(&mut self, replica: u8) {
        self.replica = replica;
    }
}
