//! The sentinels of one master, and whom to believe. One voice is enough, since an epoch is only won by a vote: the highest
//! one heard from any sentinel names the master, and neither an event nor the role of a server does. Owns the sentinels, the
//! address in use and its epoch. No I/O and no clock: the driver connects what `take_actions` names.

use crate::base::clock::Millis;
use crate::base::limits;
use crate::config::endpoint::{Address, WatchedMaster};
use crate::core::nodes::replicas::Replicas;
use crate::core::nodes::sentinel::{Contact, MasterClaim, NamedSentinel, Sentinel, SentinelNews};
use crate::resp::{ReplyScanner, SharedScanner};

/// Names a sentinel to the driver. Never reused.
pub type SentinelId = u32;

/// What the driver does for the sentinels. Rare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SentinelAction {
    /// Connect to `address_of` it; answer with `connected` or `lost`.
    Connect(SentinelId),
    /// Give up the attempt.
    Cancel(SentinelId),
    /// Close this connection.
    Close {
        /// The driver's handle.
        link: usize,
    },
}

/// Another server is the master from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MasterChange {
    pub(crate) former: Option<Address>,
    pub(crate) address: Address,
    pub(crate) epoch: u64,
    /// Who has said so.
    pub(crate) told_by: Address,
    /// The sentinels have begun anew: the epoch is lower than before.
    pub(crate) rebuilt: bool,
}

/// The sentinels of one master.
#[derive(Debug, Default)]
pub struct Sentinels {
    /// None where the upstream is named by its own address.
    watched: Option<WatchedMaster>,
    list: Vec<(SentinelId, Sentinel)>,
    next_id: SentinelId,
    /// The claim in use, who has made it and since when it is.
    current: Option<(MasterClaim, Address, Millis)>,
    change: Option<MasterChange>,
    /// Until when all are asked once a second.
    doubt_until: Millis,
    /// All are asked at once.
    asks_all: bool,
    /// Children read from replicas, so these are asked for.
    wants_replicas: bool,
    replicas: Replicas,
    actions: Vec<SentinelAction>,
    scanner: SharedScanner<ReplyScanner>,
}

impl Sentinels {
    /// From now on these are asked, or none. The same ones, of the same master, are kept.
    pub(crate) fn watch(&mut self, watched: Option<&WatchedMaster>, now: Millis) {
        if self.watched.as_ref() == watched {
            return;
        }
        let ids: Vec<SentinelId> = self.list.iter().map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.remove(id));
        (self.watched, self.current, self.change) = (watched.cloned(), None, None);
        self.doubt_until = now + limits::SENTINEL_DOUBT;
        self.replicas.forget();
        for address in watched.map(|watched| watched.seeds.clone()).unwrap_or_default() {
            self.add(Sentinel::new(address, true, now));
        }
    }

    /// Whether children read from replicas.
    pub(crate) fn want_replicas(&mut self, wants: bool) {
        self.wants_replicas = wants;
        if !wants {
            self.replicas.forget();
        }
    }

    pub(crate) fn replicas(&self) -> &Replicas {
        &self.replicas
    }

    pub(crate) fn replicas_mut(&mut self) -> &mut Replicas {
        &mut self.replicas
    }

    fn add(&mut self, sentinel: Sentinel) {
        self.next_id += 1;
        self.list.push((self.next_id, sentinel));
    }

    fn remove(&mut self, id: SentinelId) {
        if let Some(at) = self.list.iter().position(|(other, _)| *other == id) {
            let (_, sentinel) = self.list.remove(at);
            match sentinel.contact {
                Contact::Up { link, .. } => self.actions.push(SentinelAction::Close { link }),
                Contact::Dialling { .. } => self.actions.push(SentinelAction::Cancel(id)),
                Contact::Resting { .. } => {}
            }
        }
    }

    fn find(&mut self, id: SentinelId) -> Option<&mut Sentinel> {
        self.list.iter_mut().find(|(other, _)| *other == id).map(|(_, sentinel)| sentinel)
    }

    /// Whether sentinels name the master.
    pub(crate) fn is_watching(&self) -> bool {
        self.watched.is_some()
    }

    /// Where the master is; none before one has been named.
    pub(crate) fn master(&self) -> Option<&Address> {
        self.current.as_ref().map(|(claim, ..)| &claim.address)
    }

    pub(crate) fn epoch(&self) -> Option<u64> {
        self.current.as_ref().map(|(claim, ..)| claim.epoch)
    }

    /// Since when this address has been the master's.
    pub(crate) fn since(&self) -> Option<Millis> {
        self.current.as_ref().map(|(.., since)| *since)
    }

    pub(crate) fn list(&self) -> impl Iterator<Item = (SentinelId, &Sentinel)> {
        self.list.iter().map(|(id, sentinel)| (*id, sentinel))
    }

    /// Whether the master may be named any moment: no sentinel has failed or refused yet.
    pub fn are_awaited(&self) -> bool {
        self.is_watching()
            && self.current.is_none()
            && self.list.iter().all(|(_, one)| one.trouble().is_empty())
    }

    /// Why no master is known, in words.
    pub fn trouble(&self) -> String {
        let name = self.watched.as_ref().map_or("", |watched| &watched.name);
        let said =
            self.list.iter().map(|(_, sentinel)| sentinel).find(|sentinel| !sentinel.trouble().is_empty());
        match said {
            Some(sentinel) => format!(
                "no sentinel has named the master {name:?}: {}: {}",
                sentinel.address,
                sentinel.trouble()
            ),
            None => format!("no sentinel has named the master {name:?}"),
        }
    }

    /// The master may not be what it was: a connection is lost, a dial was refused, a server says that it is a replica.
    pub(crate) fn doubt(&mut self, now: Millis) {
        if self.is_watching() {
            self.doubt_until = now + limits::SENTINEL_DOUBT;
            self.asks_all = true;
        }
    }

    /// Takes the change that has been decided since the last call.
    pub(crate) fn take_change(&mut self) -> Option<MasterChange> {
        self.change.take()
    }

    // ---- the driver's side ------------------------------------------------------------------------------

    /// Moves what the driver is to do into `into`.
    pub fn take_actions(&mut self, into: &mut Vec<SentinelAction>) {
        into.append(&mut self.actions);
    }

    /// Where a sentinel is.
    pub fn address_of(&self, id: SentinelId) -> Option<&Address> {
        self.list.iter().find(|(other, _)| *other == id).map(|(_, sentinel)| &sentinel.address)
    }

    /// The connection to a sentinel stands.
    pub fn connected(&mut self, id: SentinelId, link: usize, now: Millis) {
        let is_meant = |sentinel: &Sentinel| matches!(sentinel.contact, Contact::Dialling { .. });
        let found = self.list.iter_mut().find(|(other, sentinel)| *other == id && is_meant(sentinel));
        match (found, &self.watched) {
            (Some((_, sentinel)), Some(watched)) => sentinel.connected(link, watched, now),
            _ => self.actions.push(SentinelAction::Close { link }),
        }
    }

    /// It could not be made, or has ended.
    pub fn lost(&mut self, id: SentinelId, why: &str, now: Millis) {
        let Some(sentinel) = self.find(id) else { return };
        let is_news = sentinel.is_up() || sentinel.trouble() != why;
        let level = if is_news { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "sentinel {}: {why}", sentinel.address);
        sentinel.lost(why, now);
    }

    /// What may be written to it, and the driver's handle.
    pub fn outgoing(&self, id: SentinelId) -> Option<(usize, &[u8])> {
        self.list.iter().find(|(other, _)| *other == id).and_then(|(_, sentinel)| sentinel.outgoing())
    }

    /// So many bytes of that were written.
    pub fn wrote(&mut self, id: SentinelId, count: usize) {
        if let Some(sentinel) = self.find(id) {
            sentinel.wrote(count);
        }
    }

    /// Those with something to write.
    pub fn writable(&self) -> impl Iterator<Item = SentinelId> {
        let has_bytes = |sentinel: &Sentinel| sentinel.outgoing().is_some_and(|(_, bytes)| !bytes.is_empty());
        self.list.iter().filter(move |(_, sentinel)| has_bytes(sentinel)).map(|(id, _)| *id)
    }

    /// Bytes have come from a sentinel.
    pub fn input(&mut self, id: SentinelId, bytes: &[u8], now: Millis) {
        let Some(watched) = &self.watched else { return };
        let Some((_, sentinel)) = self.list.iter_mut().find(|(other, _)| *other == id) else { return };
        match sentinel.input(bytes, &watched.name, &mut self.scanner, now) {
            Err(why) => {
                if let Some(link) = sentinel.link() {
                    self.actions.push(SentinelAction::Close { link });
                }
                self.lost(id, &why, now);
            }
            Ok(news) => {
                for one in news {
                    match one {
                        SentinelNews::MayHaveSwitched => self.doubt(now),
                        SentinelNews::Others(others) => self.learn(others, now),
                        SentinelNews::Replicas(found) => self.learn_replicas(id, found),
                        SentinelNews::Master => self.judge(id, now),
                        SentinelNews::UnderWay(claim) => self.note_under_way(id, claim, now),
                    }
                }
                self.forget_doubles(id);
            }
        }
    }

    /// Sentinels that another one knows. What stands in the URL by a name, and answers there, needs no second connection.
    fn learn(&mut self, others: Vec<NamedSentinel>, now: Millis) {
        for NamedSentinel { address, run_id } in others {
            let is_same = |one: &Sentinel| one.is_up() && one.is_same_as(run_id.as_deref());
            let mut all = self.list.iter_mut().map(|(_, one)| one);
            if let Some(known) = all.find(|one| one.address == address || is_same(one)) {
                known.named_at = now;
            } else if self.list.len() < limits::SENTINELS_MAX {
                let mut sentinel = Sentinel::new(address, false, now);
                sentinel.run_id = run_id;
                self.add(sentinel);
            }
        }
    }

    /// This one has said something. Known by two addresses, it is kept at one: where it stands in the URL, else where it
    /// answered first. But while it has said different things at the two, which of them is the newer one is not known.
    fn forget_doubles(&mut self, id: SentinelId) {
        let Some(run_id) = self.find(id).and_then(|one| one.run_id.clone()) else { return };
        let mut same: Vec<_> =
            self.list().filter(|(_, one)| one.is_up() && one.is_same_as(Some(&run_id))).collect();
        same.sort_by_key(|(other, one)| (!one.is_seed, *other == id));
        let Some((_, kept)) = same.first().copied() else { return };
        let is_double = |one: &Sentinel| !one.is_seed && (one.claim.is_none() || one.claim == kept.claim);
        let doubles = same.iter().skip(1).filter(|(_, one)| is_double(one)).map(|(id, _)| *id);
        for double in doubles.collect::<Vec<_>>() {
            self.remove(double);
        }
    }

    /// How many there are of them, each once though it has two addresses.
    fn count(&self, is_meant: impl Fn(&Sentinel) -> bool) -> usize {
        let mut counted: Vec<&Sentinel> = Vec::new();
        for (_, one) in self.list.iter().filter(|(_, one)| is_meant(one)) {
            if !counted.iter().any(|known| known.is_same_as(one.run_id.as_deref())) {
                counted.push(one);
            }
        }
        counted.len()
    }

    /// Replicas of the master in use. One that was cut off knows those of another.
    fn learn_replicas(&mut self, id: SentinelId, found: Vec<Address>) {
        let Some((_, teller)) = self.list.iter().find(|(other, _)| *other == id) else { return };
        if self.wants_replicas && teller.claim.as_ref() == self.current.as_ref().map(|(claim, ..)| claim) {
            self.replicas.learn(found);
        }
    }

    /// What is due: connections to make, questions to ask, those that say nothing.
    pub(crate) fn advance(&mut self, now: Millis, connect_timeout: Millis) {
        let Some(watched) = &self.watched else { return };
        let asks_all = std::mem::take(&mut self.asks_all);
        let doubts = now < self.doubt_until || self.current.is_none();
        let mut silent = Vec::new();
        for (id, sentinel) in &mut self.list {
            match sentinel.contact {
                Contact::Resting { until } if until <= now => {
                    sentinel.contact = Contact::Dialling { until: now + connect_timeout };
                    self.actions.push(SentinelAction::Connect(*id));
                }
                Contact::Dialling { until } if until <= now => {
                    self.actions.push(SentinelAction::Cancel(*id));
                    silent.push((*id, format!("no answer within {connect_timeout} ms")));
                }
                Contact::Up { link, .. } if sentinel.is_silent(now) => {
                    self.actions.push(SentinelAction::Close { link });
                    silent.push((*id, "it does not answer".to_owned()));
                }
                Contact::Up { greeted: true, .. } => {
                    let pause = pause(*id, sentinel, doubts);
                    let least = sentinel.asked_at + if asks_all { limits::SENTINEL_ASK_MIN } else { pause };
                    if least <= now {
                        sentinel.ask_master(&watched.name, now);
                        if self.wants_replicas {
                            sentinel.ask_replicas(&watched.name, now);
                        }
                        if !doubts {
                            sentinel.ask_others(&watched.name, now);
                        }
                    } else if asks_all {
                        // Asked just before: a moment later.
                        self.asks_all = true;
                    }
                }
                _ => {}
            }
        }
        silent.iter().for_each(|(id, why)| self.lost(*id, why, now));
        let is_gone = |sentinel: &Sentinel| {
            !sentinel.is_seed && !sentinel.is_up() && sentinel.named_at + limits::SENTINEL_FORGET <= now
        };
        let gone: Vec<_> = self.list().filter(|(_, sentinel)| is_gone(sentinel)).map(|(id, _)| id).collect();
        gone.into_iter().for_each(|id| self.remove(id));
    }

    /// Milliseconds until `advance` has something to do.
    pub(crate) fn timeout(&self, now: Millis) -> Option<Millis> {
        self.watched.as_ref()?;
        if !self.actions.is_empty() || self.change.is_some() || self.replicas.is_changed() {
            return Some(0);
        }
        let doubts = now < self.doubt_until || self.current.is_none();
        let due = self.list.iter().map(|(id, sentinel)| {
            let asked = self.asks_all.then_some(limits::SENTINEL_ASK_MIN);
            sentinel.due(asked.unwrap_or_else(|| pause(*id, sentinel, doubts)))
        });
        due.map(|at| at.saturating_sub(now)).min()
    }

    // ---- whom to believe --------------------------------------------------------------------------------

    /// A sentinel has said who the master is.
    fn judge(&mut self, id: SentinelId, now: Millis) {
        let Some((_, teller)) = self.list.iter().find(|(other, _)| *other == id) else { return };
        let (Some(claim), told_by) = (teller.claim.clone(), teller.address.clone()) else { return };
        let Some((current, ..)) = &self.current else { return self.accept(claim, told_by, false, now) };
        if claim.epoch == current.epoch && claim.address != current.address {
            return self.settle_tie(claim, told_by, now);
        }
        if claim.epoch > current.epoch {
            return self.accept(claim, told_by, false, now);
        }
        if claim.epoch < current.epoch && self.all_say(claim.epoch) {
            log::warn!(
                "sentinels of {} have begun anew: epoch {} follows {}",
                self.watched.as_ref().map_or("", |watched| &watched.name),
                claim.epoch,
                current.epoch
            );
            self.accept(claim, told_by, true, now);
        }
    }

    /// A sentinel has named the master that it is about to replace. Where none is known it is used, until any other word.
    fn note_under_way(&mut self, id: SentinelId, claim: MasterClaim, now: Millis) {
        let Some(told_by) = self.address_of(id).filter(|_| self.current.is_none()).cloned() else { return };
        self.accept(MasterClaim { epoch: 0, ..claim }, told_by, false, now);
    }

    /// Every sentinel that answers, and more than half of those known, say this epoch: one that has won a vote is heard
    /// before.
    fn all_say(&self, epoch: u64) -> bool {
        let answers = |one: &Sentinel| one.is_up() && one.claim.is_some();
        let says = |one: &Sentinel| one.claim.as_ref().is_some_and(|claim| claim.epoch == epoch);
        self.list.iter().filter(|(_, one)| answers(one)).all(|(_, one)| says(one))
            && self.count(answers) * 2 > self.count(|_| true)
    }

    /// Two addresses with the same epoch: sentinels that were each configured with another one. Most of those that answer
    /// decide, else what is in use stays.
    fn settle_tie(&mut self, claim: MasterClaim, told_by: Address, now: Millis) {
        let votes =
            |wanted: &MasterClaim| self.count(|one| one.is_up() && one.claim.as_ref() == Some(wanted));
        let Some((current, ..)) = &self.current else { return };
        let (other, kept) = (votes(&claim), votes(current));
        log::warn!(
            "sentinels disagree with epoch {}: {other} say {}, {kept} say {}",
            claim.epoch,
            claim.address,
            current.address
        );
        if other > kept {
            self.accept(claim, told_by, false, now);
        }
    }

    fn accept(&mut self, claim: MasterClaim, told_by: Address, rebuilt: bool, now: Millis) {
        let former = self.master().cloned();
        if former.as_ref() == Some(&claim.address) {
            if let Some((current, ..)) = &mut self.current {
                current.epoch = claim.epoch;
            }
            return;
        }
        self.replicas.forget();
        self.change = Some(MasterChange {
            // Of two changes in a row the first has not been carried out.
            former: self.change.take().map_or(former, |first| first.former),
            address: claim.address.clone(),
            epoch: claim.epoch,
            told_by: told_by.clone(),
            rebuilt,
        });
        self.current = Some((claim, told_by, now));
    }
}

/// How long a sentinel is not asked again. Not all at the same moment.
fn pause(id: SentinelId, sentinel: &Sentinel, doubts: bool) -> Millis {
    if doubts || !sentinel.hears_events() {
        return limits::SENTINEL_DOUBT_POLL;
    }
    limits::SENTINEL_POLL + u64::from(id % 8) * limits::SENTINEL_POLL_STEP
}

#[cfg(test)]
mod tests;
