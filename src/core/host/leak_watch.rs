//! Finds what looks like a leak: in the pass over all children that ends idle ones, and among processes at its end. Says so
//! once, in the log and in `host::leaks`, and closes the child where the settings say so. A child that is used as it should
//! be is never suspected, however many there are.

use crate::base::clock::Millis;
use crate::base::failure::Limit;
use crate::base::limits;
use crate::base::process::UnixCredentials;
use crate::config::value::LeakAction;
use crate::core::child::closing::CloseReason;
use crate::core::child::hold::Hold;
use crate::core::child::{Child, ChildState, log_child};
use crate::core::host::leaks::{LeakEnd, LeakKind, LeakSubject, Suspect};
use crate::core::keys::{LeaseKind, ProcessKey};
use crate::core::shared::Shared;

impl Shared {
    /// Looks at one child. Whether it was closed.
    pub(crate) fn look_for_leak(&mut self, child: &mut Child) -> bool {
        child.note_taken(self.env.now);
        self.credit(child);
        let subject = LeakSubject::Child(child.key());
        let (found, known) = (self.leak_of(child), child.leak());
        if found.map(|(kind, _)| kind) == known {
            return false;
        }
        self.end_leak(child, LeakEnd::Over);
        let Some((kind, since)) = found else { return false };
        child.set_leak(Some(kind));
        let (who, what) = (self.suspect(child), self.leak_in_words(child, kind, since));
        log_child!(warn, child, "suspected leak, {}: child {}: {what}", kind.name(), self.in_full(child));
        self.leaks.begin(subject, kind, since, who, what);
        let closes = self.env.settings.leak_action == LeakAction::Close;
        if closes {
            self.close_for_leak(child, kind);
        }
        closes
    }

    fn close_for_leak(&mut self, child: &mut Child, kind: LeakKind) {
        CloseReason::Leak(kind.name()).log(child);
        self.close(child);
    }

    /// What it has done is added to its process.
    fn credit(&mut self, child: &mut Child) {
        let usage = child.take_uncredited();
        self.processes.credit(child.origin().process(), &usage, self.env.now);
    }

    /// What a child looks like, and since when.
    fn leak_of(&self, child: &Child) -> Option<(LeakKind, Millis)> {
        let threshold = self.env.settings.leak_threshold;
        if threshold == 0 || child.state() != ChildState::Open || child.origin().is_local() {
            return None;
        }
        let is_old = |since: Millis| since + threshold <= self.env.now;
        let (heard, taken) = (child.last_request(), child.taken_at());
        if let Some(since) = child.stuck_since() {
            return is_old(since).then_some((LeakKind::StuckReader, since));
        }
        if !is_old(heard) || child.hold() != Hold::None || child.is_under_way() || child.is_lined_up() {
            return None;
        }
        if !child.inbox().is_empty() {
            return Some((LeakKind::HalfRequest, heard));
        }
        let lease = child.lease().map(|lease| lease.kind);
        if child.session().transaction.is_open() || lease == Some(LeaseKind::Transaction) {
            return Some((LeakKind::OpenTransaction, heard));
        }
        if lease == Some(LeaseKind::Session) && !child.is_subscribed() && is_old(taken) {
            return Some((LeakKind::UnusedLease, heard.max(taken)));
        }
        let ended = self.processes.get(child.origin().process()).and_then(|process| process.ended_at())?;
        let since = ended.max(heard);
        is_old(since).then_some((LeakKind::Orphaned, since))
    }

    fn leak_in_words(&self, child: &Child, kind: LeakKind, since: Millis) -> String {
        let seconds = (self.env.now - since) / 1000;
        let command = self.last_command_name(child);
        match kind {
            LeakKind::OpenTransaction => {
                let lease = child.lease().and_then(|lease| self.connections.find(lease.lane));
                let watches = lease.and_then(|lane| lane.lease()).is_some_and(|lease| lease.is_watching());
                let what = match (child.session().transaction.is_open(), watches) {
                    (true, true) => "MULTI and WATCH",
                    (true, false) => "MULTI",
                    _ => "WATCH",
                };
                let held =
                    child.lease().map_or(String::new(), |held| format!(", holds lane {}", held.lane.index()));
                format!("{what} open{held}, nothing sent for {seconds} s, last command '{command}'")
            }
            LeakKind::UnusedLease => {
                let lane = child.lease().map_or(0, |held| held.lane.index());
                format!("holds lane {lane} for a session, unused for {seconds} s, last command '{command}'")
            }
            LeakKind::StuckReader => {
                let (channels, patterns, shards) = child.subscription_counts();
                let unread = child.outbox().output().len();
                format!(
                    "has taken nothing for {seconds} s, {unread} bytes wait, {} subscriptions, last command '{command}'",
                    channels + patterns + shards
                )
            }
            LeakKind::HalfRequest => {
                format!("{} bytes of a request came, and none for {seconds} s", child.inbox().len())
            }
            LeakKind::Orphaned => {
                format!("its process has ended, another keeps it open and has sent nothing for {seconds} s")
            }
            _ => format!("idle for {seconds} s, last command '{command}'"),
        }
    }

    /// `5 (pid 4242 uid 33, worker, web.service, name "jobs")`.
    pub(crate) fn in_full(&self, child: &Child) -> String {
        let who = self.suspect(child);
        let mut text = format!("{} ({}", child.session().id, child.origin().peer());
        if let Some(writer) =
            child.origin().writer().last().filter(|who| Some(*who) != child.origin().connector())
        {
            text += &format!(", used by pid {} uid {}", writer.pid, writer.uid);
        }
        for part in [&who.process, &who.unit] {
            if !part.is_empty() {
                text += &format!(", {part}");
            }
        }
        if let Some(label) = child.origin().label() {
            text += &format!(", label {label}");
        }
        if !child.session().name.is_empty() {
            text += &format!(", name {:?}", String::from_utf8_lossy(&child.session().name));
        }
        text + ")"
    }

    fn suspect(&self, child: &Child) -> Suspect {
        let origin = child.origin();
        let (user, process) = (origin.user(), self.processes.get(origin.process()));
        let address = if user.is_some() { "" } else { origin.address() };
        let name = String::from_utf8_lossy(&child.session().name);
        let called = [address, origin.label().unwrap_or_default(), &name];
        let called = called.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        Suspect {
            child: Some(child.session().id),
            pid: user.map(|who| who.pid).filter(|pid| *pid != 0),
            uid: user.map(|who| who.uid),
            process: process.map_or(String::new(), |process| process.name().to_owned()),
            unit: process.map_or(String::new(), |process| process.unit().to_owned()),
            called,
        }
    }

    /// A child is closed for having been idle for longer than it may.
    pub(crate) fn note_idle(&mut self, child: &Child) {
        let since = child.last_request();
        let what = self.leak_in_words(child, LeakKind::Idle, since);
        let who = self.suspect(child);
        self.leaks.begin_ended(LeakKind::Idle, since, who, what, self.env.now);
    }

    /// What a child was suspected of has come to this end.
    pub(crate) fn end_leak(&mut self, child: &mut Child, end: LeakEnd) {
        if let Some(kind) = child.leak() {
            child.set_leak(None);
            self.leaks.end(LeakSubject::Child(child.key()), kind, end, self.env.now);
        }
    }

    /// Counts a child for its process, in the pass at whose end processes are looked at. Whether it was closed: an unused
    /// connection of one that grows.
    pub(crate) fn look_for_growth(&mut self, child: &mut Child) -> bool {
        let process = child.origin().process();
        let Some(begun) = self.processes.growth_of(process) else { return false };
        if child.opened() >= begun || child.origin().is_local() {
            return false;
        }
        let is_unused = child.last_request() < begun && !child.is_subscribed() && !child.is_under_way();
        self.processes.count_old(process, is_unused);
        let grows = self.leaks.has(LeakSubject::Process(process), LeakKind::Growing);
        let closes = is_unused && grows && self.env.settings.leak_action == LeakAction::Close;
        if closes {
            CloseReason::Leak(LeakKind::Growing.name()).log(child);
            self.close(child);
        }
        closes
    }

    /// The pass over the children is over: looks at what they add up to.
    pub(crate) fn look_at_processes(&mut self) {
        let threshold = self.env.settings.leak_threshold;
        for (subject, kind) in self.leaks.of_many() {
            self.end_leak_of_many(subject, kind);
        }
        if threshold == 0 {
            return;
        }
        // Those that are old have had a window before these.
        let window = (threshold / (limits::GROWTH_WINDOWS as u64 + 1)).max(1);
        for key in self.processes.growing(self.env.now, window) {
            let subject = LeakSubject::Process(key);
            let Some(process) = self.processes.get(key) else { continue };
            if self.leaks.has(subject, LeakKind::Growing) {
                continue;
            }
            let (old, unused) = process.old_children();
            let what = format!(
                "{} connections, more in each of {} windows of {window} ms, while {unused} of {old} older ones were unused",
                process.children(),
                limits::GROWTH_WINDOWS
            );
            self.begin_leak_of_process(key, LeakKind::Growing, what);
        }
    }

    fn end_leak_of_many(&mut self, subject: LeakSubject, kind: LeakKind) {
        let settings = &self.env.settings;
        let below = |held: usize, max: usize| max == 0 || held < max;
        let process = |key: ProcessKey| self.processes.get(key).filter(|process| process.children() > 0);
        let end = match (subject, kind) {
            (LeakSubject::Process(key), _) if process(key).is_none() => LeakEnd::Gone,
            (LeakSubject::Process(key), LeakKind::Growing) if !self.processes.grows(key) => LeakEnd::Over,
            (LeakSubject::Process(key), LeakKind::ProcessAtCap)
                if below(
                    process(key).map_or(0, |process| process.children()),
                    settings.children_per_process_max,
                ) =>
            {
                LeakEnd::Over
            }
            (LeakSubject::Process(key), LeakKind::LeasesAtCap)
                if below(self.leases_of(key), settings.leases_per_process_max) =>
            {
                LeakEnd::Over
            }
            (LeakSubject::Uid(uid), _)
                if below(self.processes.children_of_uid(uid), settings.children_per_uid_max) =>
            {
                LeakEnd::Over
            }
            _ => return,
        };
        self.leaks.end(subject, kind, end, self.env.now);
    }

    fn begin_leak_of_process(&mut self, key: ProcessKey, kind: LeakKind, what: String) {
        let Some(process) = self.processes.get(key) else { return };
        let UnixCredentials { pid, uid, .. } = process.who();
        let who = Suspect {
            child: None,
            pid: Some(pid),
            uid: Some(uid),
            process: process.name().to_owned(),
            unit: process.unit().to_owned(),
            called: String::new(),
        };
        let comma = if who.unit.is_empty() { "" } else { ", " };
        log::warn!(
            pid, uid;
            "suspected leak, {}: pid {pid} uid {uid} ({}{comma}{}): {what}",
            kind.name(),
            who.process,
            who.unit
        );
        self.leaks.begin(LeakSubject::Process(key), kind, self.env.now, who, what);
    }

    /// A process or user has met its cap.
    pub(crate) fn note_cap(&mut self, limit: &Limit, process: ProcessKey, uid: u32) {
        let kind = match limit {
            Limit::Holder { setting: "children_per_process_max", .. } => LeakKind::ProcessAtCap,
            Limit::Holder { setting: "leases_per_process_max", .. } => LeakKind::LeasesAtCap,
            _ => LeakKind::UserAtCap,
        };
        let subject =
            if kind == LeakKind::UserAtCap { LeakSubject::Uid(uid) } else { LeakSubject::Process(process) };
        if self.leaks.has(subject, kind) {
            return;
        }
        if kind != LeakKind::UserAtCap {
            return self.begin_leak_of_process(process, kind, limit.to_string());
        }
        log::warn!("suspected leak, {}: {limit}", kind.name());
        let who = Suspect { uid: Some(uid), ..Suspect::default() };
        self.leaks.begin(subject, kind, self.env.now, who, limit.to_string());
    }
}
