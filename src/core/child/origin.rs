//! Where children come from: over which way, from which address, user and process of the host. Sums up who holds most
//! of something scarce; decides nothing.

use crate::base::process::UnixCredentials;
use crate::base::secured::Secured;
use crate::config::ChildProfile;
use crate::core::keys::{AccountId, ProcessKey};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// How a child reaches the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChildKind {
    /// A connection accepted from a listener.
    #[default]
    Socket,
    /// Requests of the program that embeds the loop.
    Local,
    /// A connected descriptor handed over by the embedding program.
    Adopted,
    /// A connection accepted from `admin_listen`.
    Admin,
}

impl ChildKind {
    /// Whether it may be the one that a process of this host has connected itself.
    pub fn is_accepted(self) -> bool {
        matches!(self, ChildKind::Socket | ChildKind::Admin)
    }
}

/// How many are named; the others are one number.
const NAMED: usize = 3;

/// Who has written what is in a child's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Writer {
    /// Nothing has said so yet.
    #[default]
    Unknown,
    /// The last to say so; there may be bytes of another process.
    Last(UnixCredentials),
    /// All of it is this one's.
    Sure(UnixCredentials),
}

impl Writer {
    pub(crate) fn last(self) -> Option<UnixCredentials> {
        match self {
            Writer::Unknown => None,
            Writer::Last(who) | Writer::Sure(who) => Some(who),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    kind: ChildKind,
    /// Who has connected it, or made the pair of sockets that it is one end of; known of unix sockets alone.
    connector: Option<UnixCredentials>,
    writer: Writer,
    /// The process that it is counted for: who writes, or as long as that is not known who has connected.
    process: ProcessKey,
    /// Who has connected, if that is another process.
    connected_by: ProcessKey,
    peer: Arc<str>,
    profile: ChildProfile,
    /// How its connection is secured, where it is.
    secured: Option<Secured>,
    /// Whom its certificate names.
    certified: Option<AccountId>,
}

/// To whom a child belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Holder<'a> {
    Program,
    Uid(u32),
    Address(&'a str),
}

impl Origin {
    pub(crate) fn new(kind: ChildKind, peer: Arc<str>) -> Self {
        Origin { kind, peer, ..Origin::default() }
    }

    pub(crate) fn with_profile(self, profile: ChildProfile) -> Self {
        Origin { profile, ..self }
    }

    pub(crate) fn with_secured(self, secured: Option<Secured>, certified: Option<AccountId>) -> Self {
        Origin { secured, certified, ..self }
    }

    /// Whom its certificate names: it is this user until it says another one.
    pub(crate) fn certified(&self) -> Option<AccountId> {
        self.certified
    }

    pub(crate) fn secured(&self) -> Option<Secured> {
        self.secured
    }

    pub(crate) fn kind(&self) -> ChildKind {
        self.kind
    }

    /// Whether it has come to `admin_listen`.
    pub(crate) fn is_admin(&self) -> bool {
        self.kind == ChildKind::Admin
    }

    /// What its listener is called.
    pub(crate) fn label(&self) -> Option<&str> {
        self.profile.label.as_deref()
    }

    pub(crate) fn connector(&self) -> Option<UnixCredentials> {
        self.connector
    }

    pub(crate) fn set_connector(&mut self, who: UnixCredentials) {
        self.connector = Some(who);
    }

    pub(crate) fn writer(&self) -> Writer {
        self.writer
    }

    pub(crate) fn set_writer(&mut self, writer: Writer) {
        self.writer = writer;
    }

    /// The process that it is counted for.
    pub(crate) fn process(&self) -> ProcessKey {
        self.process
    }

    pub(crate) fn set_process(&mut self, process: ProcessKey) {
        self.process = process;
    }

    /// Who has connected it, if that is not the process that it is counted for.
    pub(crate) fn connected_by(&self) -> ProcessKey {
        self.connected_by
    }

    pub(crate) fn set_connected_by(&mut self, process: ProcessKey) {
        self.connected_by = process;
    }

    /// Who it is counted for: the last known to have written, or else who has connected.
    pub(crate) fn user(&self) -> Option<UnixCredentials> {
        self.writer.last().or(self.connector)
    }

    /// The user of this host with whose rights its requests are run. Of an adopted socket, the one who has made it is
    /// seldom the one who uses it.
    pub(crate) fn uid(&self) -> Option<u32> {
        let connector = self.connector.filter(|_| self.kind.is_accepted());
        self.writer.last().or(connector).map(|who| who.uid)
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        self.user().map(|who| who.pid).filter(|pid| *pid != 0)
    }

    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// Whether it is the program that embeds the loop.
    pub(crate) fn is_local(&self) -> bool {
        self.kind == ChildKind::Local
    }

    /// Its address over TCP, without the port.
    pub(crate) fn address(&self) -> &str {
        self.peer.rsplit_once(':').map_or(&self.peer, |(address, _)| address)
    }

    /// To whom the child belongs, and the process.
    pub(crate) fn holder(&self) -> (Holder<'_>, Option<i32>) {
        match (self.kind, self.user()) {
            (ChildKind::Local, _) => (Holder::Program, None),
            (_, Some(who)) => (Holder::Uid(who.uid), (who.pid != 0).then_some(who.pid)),
            (_, None) => (Holder::Address(self.address()), None),
        }
    }
}

/// `uid 1000: 250 (249 of pid 4242, web), uid 33: 6 (6 of pid 77)`. `name` knows what processes are called.
pub(crate) fn describe<'a>(
    held: impl Iterator<Item = (Holder<'a>, Option<i32>)>,
    name: &dyn Fn(i32) -> Option<&'a str>,
) -> String {
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
            let _ = match name(*pid).filter(|name| *name != "?") {
                Some(name) => write!(text, " ({most} of pid {pid}, {name})"),
                None => write!(text, " ({most} of pid {pid})"),
            };
        }
    }
    let others: usize = ranked.iter().skip(NAMED).map(|(_, (total, _))| total).sum();
    if others > 0 {
        let _ = write!(text, ", others: {others}");
    }
    if text.is_empty() { "nobody".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    pub(crate) fn the_greatest_are_named_with_their_busiest_process() {
        let uid = |uid, pid, count| std::iter::repeat_n((Holder::Uid(uid), Some(pid)), count);
        let of = |address, count| std::iter::repeat_n((Holder::Address(address), None), count);
        let held = uid(33, 7, 6).chain(uid(1000, 1, 1)).chain(uid(1000, 4242, 249)).chain(of("10.0.0.1", 3));
        assert_eq!(
            describe(held.chain(of("10.0.0.2", 1)).chain(std::iter::once((Holder::Program, None))), &|pid| {
                (pid == 7).then_some("web")
            }),
            "uid 1000: 250 (249 of pid 4242), uid 33: 6 (6 of pid 7, web), 10.0.0.1: 3, others: 2"
        );
        assert_eq!(describe(std::iter::empty(), &|_| None), "nobody");
    }
}
