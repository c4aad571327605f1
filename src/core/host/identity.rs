//! Whose a child is: who has connected it, who writes, and what a process or user of this host may have. Keeps the counts
//! of `host::processes` in step with the children; decides no right (`core::child::origin`).

use crate::base::failure::{Failure, Limit};
use crate::base::process::{ProcessFacts, UnixCredentials};
use crate::core::broker::Broker;
use crate::core::child::Child;
use crate::core::child::origin::Writer;
use crate::core::host::processes::Process;
use crate::core::keys::{ChildKey, LeaseKind, ProcessKey};
use crate::core::lease::state::Tenant;
use crate::core::shared::Shared;

impl Shared {
    /// Which cap a further child of these credentials would exceed, and who holds how many.
    pub(crate) fn child_cap(&self, who: UnixCredentials) -> Option<Limit> {
        let (of_pid, of_uid) =
            (self.processes.children_of_pid(who.pid), self.processes.children_of_uid(who.uid));
        let (process_max, uid_max) =
            (self.env.settings.children_per_process_max, self.env.settings.children_per_uid_max);
        if process_max > 0 && of_pid >= process_max {
            let holder = self.process_in_words(who.pid);
            return Some(Limit::Holder {
                setting: "children_per_process_max",
                max: process_max,
                holder,
                held: of_pid,
            });
        }
        let holder = format!("uid {}", who.uid);
        (uid_max > 0 && of_uid >= uid_max).then_some(Limit::Holder {
            setting: "children_per_uid_max",
            max: uid_max,
            holder,
            held: of_uid,
        })
    }

    /// A child was refused for its cap, which is noted.
    pub(crate) fn refuse_for_cap(&mut self, limit: Limit, who: Option<UnixCredentials>) -> Failure {
        if let Some(who) = who {
            let process = self.processes.find(who, self.env.now);
            self.note_cap(&limit, process, who.uid);
        }
        Failure::Limited(limit)
    }

    /// How many leases of its own a process has; those for blocking commands are shared.
    pub(crate) fn leases_held(&self, process: ProcessKey) -> usize {
        let is_its = |tenant: &Tenant| tenant.process() == process;
        let lent = self.connections.lanes().filter_map(|(_, lane)| lane.lease());
        lent.filter(|lease| lease.kind() != LeaseKind::Blocking && is_its(lease.tenant())).count()
    }

    /// The same with those that it waits for.
    pub(crate) fn leases_of(&self, process: ProcessKey) -> usize {
        self.leases_held(process) + self.leases.waiting_of(|tenant| tenant.process() == process)
    }

    /// Whether the child's process may have one more lease of its own.
    pub(crate) fn check_lease_cap(&mut self, child: &Child, kind: LeaseKind) -> Result<(), Failure> {
        let max = self.env.settings.leases_per_process_max;
        let process = child.origin().process();
        if max == 0 || kind == LeaseKind::Blocking || process.is_none() {
            return Ok(());
        }
        let held = self.leases_of(process);
        if held < max {
            return Ok(());
        }
        let who = self.processes.get(process).map(|process| process.who());
        let holder = self.process_in_words(who.map_or(0, |who| who.pid));
        let limit = Limit::Holder { setting: "leases_per_process_max", max, holder, held };
        self.note_cap(&limit, process, who.map_or(0, |who| who.uid));
        Err(Failure::Limited(limit))
    }

    /// `pid 4242 (worker)`.
    pub(crate) fn process_in_words(&self, pid: i32) -> String {
        match self.processes.by_pid(pid).map(Process::name) {
            Some(name) if name != "?" => format!("pid {pid} ({name})"),
            _ => format!("pid {pid}"),
        }
    }

    /// The system has said who has connected a child.
    pub(crate) fn identify(&mut self, child: &mut Child, who: UnixCredentials) {
        let process = self.processes.find(who, self.env.now);
        self.processes.join(process, who.uid);
        child.origin_mut().set_connector(who);
        child.origin_mut().set_process(process);
    }

    /// The system has said who has written what was just read; or it was not asked.
    pub(crate) fn note_writer(&mut self, child: &mut Child, who: Option<UnixCredentials>) {
        let (before, alone) = (child.origin().writer(), child.inbox().is_empty());
        let writer = match (who, before) {
            (Some(who), _) if alone => Writer::Sure(who),
            (Some(who), Writer::Sure(same)) if same == who => Writer::Sure(who),
            (Some(who), _) => Writer::Last(who),
            (None, Writer::Sure(who)) => Writer::Last(who),
            (None, before) => before,
        };
        let user = child.origin().user();
        child.origin_mut().set_writer(writer);
        if let Some(who) = who.filter(|who| user != Some(*who)) {
            self.hand_over(child, user, who);
        }
    }

    /// From now on the child is counted for another process than before.
    fn hand_over(&mut self, child: &mut Child, before: Option<UnixCredentials>, who: UnixCredentials) {
        let (from, now) = (child.origin().process(), self.env.now);
        let process = self.processes.find(who, now);
        self.processes.join(process, who.uid);
        if child.origin().connected_by().is_none() && !from.is_none() {
            self.processes.keep(from);
            child.origin_mut().set_connected_by(from);
        }
        if let Some(before) = before {
            let usage = child.take_uncredited();
            self.processes.leave(from, before.uid, &usage, now);
        }
        child.origin_mut().set_process(process);
    }

    /// The child has gone.
    pub(crate) fn forget_identity(&mut self, child: &mut Child) {
        let (process, connected_by) = (child.origin().process(), child.origin().connected_by());
        let usage = child.take_uncredited();
        match child.origin().user() {
            Some(who) => self.processes.leave(process, who.uid, &usage, self.env.now),
            None => self.processes.credit(process, &usage, self.env.now),
        }
        if !connected_by.is_none() {
            self.processes.let_go(connected_by, self.env.now);
        }
    }
}

impl Broker {
    /// Says who has written the bytes that come next from a child; `None`: the system was not asked, or does not know.
    pub fn child_written_by(&mut self, key: ChildKey, who: Option<UnixCredentials>) {
        if let Some(child) = self.children.get_mut(key) {
            self.shared.note_writer(child, who);
        }
    }

    /// Takes the next process that is to be looked up; its pid.
    pub fn next_wanted_process(&mut self) -> Option<(ProcessKey, i32)> {
        self.shared.processes.next_wanted()
    }

    /// What was found of a process; `None`: nothing.
    pub fn process_found(&mut self, key: ProcessKey, facts: Option<ProcessFacts>) {
        self.shared.processes.told(key, facts);
    }

    /// The process at this place of the table, its pid, when it began where that is known, and where to go on; `None` at
    /// the end of the table.
    pub fn process_from(&self, index: usize) -> Option<(usize, ProcessKey, i32, Option<u64>)> {
        let (next, key) = self.shared.processes.from(index)?;
        let process = self.shared.processes.get(key)?;
        Some((next, key, process.who().pid, process.facts().map(|facts| facts.started)))
    }

    /// There is no process of this pid any more.
    pub fn process_ended(&mut self, key: ProcessKey) {
        self.shared.processes.ended(key, self.shared.env.now);
    }
}
