//! What the children of each executable have done, and how many there are now: sums that outlive the processes they are
//! of. Owns the table, which has a bound; counters in it never go down. `host::processes` feeds it; nothing reads /proc.

use crate::base::limits;
use crate::base::process::ProcessFacts;
use crate::core::host::usage::Usage;
use std::collections::HashMap;

/// The place of an executable in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExecutableId(usize);

impl ExecutableId {
    /// Of processes about which /proc says nothing.
    pub(crate) const UNKNOWN: ExecutableId = ExecutableId(0);
    /// Of all that came when the table was full.
    pub(crate) const OTHER: ExecutableId = ExecutableId(1);
}

/// What the children of an executable add up to.
#[derive(Debug, Default)]
pub(crate) struct Executable {
    name: String,
    children: usize,
    done: Usage,
}

impl Executable {
    /// Its path; `claimed:` and the name that the process gives itself where nobody may look; or `unknown`, `other`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its children now.
    pub(crate) fn children(&self) -> usize {
        self.children
    }

    /// What its children have done so far.
    pub(crate) fn done(&self) -> &Usage {
        &self.done
    }
}

/// The first so many executables that have come have places of their own for good. What comes later is in `other`, and
/// stays there: a series that begins in the middle would say that its program has just begun.
#[derive(Debug)]
pub(crate) struct Executables {
    all: Vec<Executable>,
    by_name: HashMap<String, ExecutableId>,
}

impl Default for Executables {
    fn default() -> Self {
        let fixed =
            ["unknown", "other"].map(|name| Executable { name: name.to_owned(), ..Executable::default() });
        Executables { all: fixed.into(), by_name: HashMap::new() }
    }
}

impl Executables {
    /// The place of a process of which this is known.
    pub(crate) fn place(&mut self, facts: Option<&ProcessFacts>) -> ExecutableId {
        let Some(facts) = facts else { return ExecutableId::UNKNOWN };
        let name = name_of(facts);
        if let Some(known) = self.by_name.get(&name) {
            return *known;
        }
        if self.by_name.len() >= limits::EXECUTABLES_MAX {
            return ExecutableId::OTHER;
        }
        let id = ExecutableId(self.all.len());
        self.all.push(Executable { name: name.clone(), ..Executable::default() });
        self.by_name.insert(name, id);
        id
    }

    /// Children of it have done this.
    pub(crate) fn credit(&mut self, id: ExecutableId, usage: &Usage) {
        if let Some(executable) = self.all.get_mut(id.0) {
            executable.done.add(usage);
        }
    }

    /// So many children are its own now.
    pub(crate) fn join(&mut self, id: ExecutableId, children: usize) {
        if let Some(executable) = self.all.get_mut(id.0) {
            executable.children += children;
        }
    }

    /// So many are no longer.
    pub(crate) fn leave(&mut self, id: ExecutableId, children: usize) {
        if let Some(executable) = self.all.get_mut(id.0) {
            executable.children -= children;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Executable> {
        self.all.iter()
    }
}

/// A program that was replaced while it runs keeps its name.
fn name_of(facts: &ProcessFacts) -> String {
    match &facts.exe {
        Some(exe) => exe.strip_suffix(" (deleted)").unwrap_or(exe).to_owned(),
        None => format!("claimed:{}", facts.comm),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(exe: Option<&str>, comm: &str) -> ProcessFacts {
        let (comm, exe) = (comm.to_owned(), exe.map(str::to_owned));
        ProcessFacts { comm, exe, cgroup: None, started: 1, is_exact: true }
    }

    #[test]
    fn an_executable_is_a_path_or_what_is_claimed() {
        let mut executables = Executables::default();
        let mut name = |exe: Option<&str>, comm: &str| {
            let id = executables.place(Some(&facts(exe, comm)));
            executables.all[id.0].name.clone()
        };
        assert_eq!(name(Some("/usr/bin/web"), "nginx"), "/usr/bin/web");
        assert_eq!(name(Some("/usr/bin/web (deleted)"), "web"), "/usr/bin/web");
        assert_eq!(name(None, "web"), "claimed:web");
        assert_eq!(executables.place(None), ExecutableId::UNKNOWN);
        assert_eq!(
            executables.iter().map(Executable::name).collect::<Vec<_>>(),
            ["unknown", "other", "/usr/bin/web", "claimed:web"]
        );
    }

    #[test]
    fn what_is_once_among_others_stays_there() {
        let mut executables = Executables::default();
        let paths: Vec<String> = (0..2 * limits::EXECUTABLES_MAX).map(|n| format!("/bin/{n}")).collect();
        let mut places = || -> Vec<ExecutableId> {
            paths.iter().map(|path| executables.place(Some(&facts(Some(path), "x")))).collect()
        };
        let first = places();
        assert_eq!(first.iter().filter(|id| **id == ExecutableId::OTHER).count(), limits::EXECUTABLES_MAX);
        assert!(!first[..limits::EXECUTABLES_MAX].contains(&ExecutableId::OTHER));
        assert_eq!(places(), first);
        assert_eq!(executables.all.len(), limits::EXECUTABLES_MAX + 2);
    }
}
