//! The processes of this host that children belong to: what is known of each, and what its children add up to, which it
//! passes on to the table of their executables. Owns both tables; whoever drives the core looks them up (`wanted`) and tells when one has ended. Reads no /proc.

use crate::base::clock::Millis;
use crate::base::key::Arena;
use crate::base::limits;
use crate::base::process::{ProcessFacts, UnixCredentials};
use crate::core::host::executables::{Executable, ExecutableId, Executables};
use crate::core::host::usage::{Usage, UsageMarks};
use crate::core::keys::{ProcessKey, ProcessName};
use std::collections::{HashMap, VecDeque};

/// What is known of a process beside its numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Knowledge {
    /// It is being looked up.
    #[default]
    NotYet,
    /// /proc says nothing of it.
    Nothing,
    Facts(ProcessFacts),
}

#[derive(Debug)]
pub(crate) struct Process {
    who: UnixCredentials,
    known: Knowledge,
    /// Children that are counted for it, and those that it has connected and another one uses.
    children: usize,
    connected: usize,
    /// What its children have done, as of the last look at them.
    done: Usage,
    /// Where that is summed up; none as long as it is being looked up.
    executable: Option<ExecutableId>,
    /// What it had done when somebody looked.
    marks: UsageMarks,
    first_seen: Millis,
    /// When a child of it was last seen to have done something.
    busy_at: Millis,
    /// Since when nobody is of it.
    unused_since: Millis,
    /// When it was found to have ended.
    ended_at: Option<Millis>,
    growth: Growth,
}

/// How the number of a process' children has changed of late.
#[derive(Debug, Default)]
struct Growth {
    /// When the present window began, and how many there were then.
    window_began: Millis,
    children_then: usize,
    /// When the last windows began, the oldest first, and in how many in a row it has grown.
    began: [Millis; limits::GROWTH_WINDOWS],
    grown: usize,
    /// Of its children from before these windows, those that were counted in the present pass, and the unused ones.
    old: u32,
    unused: u32,
}

impl Growth {
    /// The present window may be over.
    fn look(&mut self, children: usize, now: Millis, window: Millis) {
        if self.window_began + window > now {
            return;
        }
        self.grown = if children > self.children_then { self.grown + 1 } else { 0 };
        self.began.rotate_left(1);
        self.began[limits::GROWTH_WINDOWS - 1] = self.window_began;
        (self.window_began, self.children_then) = (now, children);
    }

    fn is_long(&self) -> bool {
        self.grown >= limits::GROWTH_WINDOWS
    }

    fn is_suspect(&self) -> bool {
        self.is_long() && self.unused >= limits::GROWTH_UNUSED_MIN && self.unused >= self.old.div_ceil(2)
    }
}

impl Process {
    pub(crate) fn who(&self) -> UnixCredentials {
        self.who
    }

    pub(crate) fn facts(&self) -> Option<&ProcessFacts> {
        if let Knowledge::Facts(facts) = &self.known { Some(facts) } else { None }
    }

    /// Its children now.
    pub(crate) fn children(&self) -> usize {
        self.children
    }

    /// What its children have done, as of the last look at them.
    pub(crate) fn done(&self) -> &Usage {
        &self.done
    }

    pub(crate) fn busy_at(&self) -> Millis {
        self.busy_at
    }

    pub(crate) fn first_seen(&self) -> Millis {
        self.first_seen
    }

    /// Of its children from before it began to grow, how many there are, and how many were unused since.
    pub(crate) fn old_children(&self) -> (u32, u32) {
        (self.growth.old, self.growth.unused)
    }

    pub(crate) fn ended_at(&self) -> Option<Millis> {
        self.ended_at
    }

    fn is_unused(&self) -> bool {
        self.children == 0 && self.connected == 0
    }

    /// What its program is called, as far as is known: the last part of its path, or the name that it gives itself.
    pub(crate) fn name(&self) -> &str {
        let Some(facts) = self.facts() else { return "?" };
        let file = facts.exe.as_deref().and_then(|exe| exe.rsplit('/').next());
        file.filter(|file| !file.is_empty()).unwrap_or(&facts.comm)
    }

    /// Whether the name is what the process says of itself, since nobody may look at its program.
    pub(crate) fn is_claimed(&self) -> bool {
        self.facts().is_some_and(|facts| facts.exe.is_none())
    }

    /// Its unit of systemd, its container, or else its control group.
    pub(crate) fn unit(&self) -> &str {
        self.facts().and_then(|facts| facts.cgroup.as_deref()).map_or("", unit_of)
    }
}

/// The part of a control group's path that an operator knows it by: the deepest service, scope or container in it. The
/// root says nothing.
fn unit_of(path: &str) -> &str {
    let is_container = |part: &str| part.len() >= 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope") || is_container(part);
    path.rsplit('/').find(is_unit).unwrap_or(if path == "/" { "" } else { path })
}

#[derive(Debug, Default)]
pub(crate) struct Processes {
    arena: Arena<Process, ProcessName>,
    /// The one that has this pid now.
    by_pid: HashMap<i32, ProcessKey>,
    /// Children of each user.
    by_uid: HashMap<u32, usize>,
    /// To be looked up.
    wanted: VecDeque<(ProcessKey, i32)>,
    /// Those that nobody is of any more, by when that began. They are kept for a while: programs that connect for each
    /// request would be looked up each time.
    unused: VecDeque<(Millis, ProcessKey)>,
    executables: Executables,
}

impl Processes {
    /// The executables of all processes so far.
    pub(crate) fn executables(&self) -> impl Iterator<Item = &Executable> {
        self.executables.iter()
    }

    pub(crate) fn get(&self, key: ProcessKey) -> Option<&Process> {
        self.arena.get(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ProcessKey, &Process)> {
        self.arena.iter()
    }

    /// How many have children.
    pub(crate) fn active(&self) -> usize {
        self.arena.iter().filter(|(_, process)| process.children > 0).count()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.arena.len()
    }

    /// Where a look at each goes on: the next of them from this place in the table.
    pub(crate) fn from(&self, index: usize) -> Option<(usize, ProcessKey)> {
        self.arena.from(index)
    }

    /// How many children a user has.
    pub(crate) fn children_of_uid(&self, uid: u32) -> usize {
        self.by_uid.get(&uid).copied().unwrap_or_default()
    }

    /// How many children the process has that has this pid now.
    pub(crate) fn children_of_pid(&self, pid: i32) -> usize {
        self.by_pid.get(&pid).and_then(|key| self.get(*key)).map_or(0, Process::children)
    }

    pub(crate) fn by_pid(&self, pid: i32) -> Option<&Process> {
        self.by_pid.get(&pid).and_then(|key| self.get(*key))
    }

    /// The process of these credentials; none where it cannot be seen.
    pub(crate) fn find(&mut self, who: UnixCredentials, now: Millis) -> ProcessKey {
        if who.pid == 0 {
            return ProcessKey::default();
        }
        let found = self.by_pid.get(&who.pid).copied();
        let fresh = |process: &&Process| {
            let unused_for = now.saturating_sub(process.unused_since);
            process.ended_at.is_none() && !(process.is_unused() && unused_for >= limits::PID_REUSE_MIN)
        };
        match found.filter(|key| self.arena.get(*key).as_ref().is_some_and(fresh)) {
            Some(key) => {
                if let Some(process) = self.arena.get_mut(key) {
                    process.who = who;
                }
                key
            }
            None => self.begin(who, now),
        }
    }

    fn begin(&mut self, who: UnixCredentials, now: Millis) -> ProcessKey {
        let process = Process {
            who,
            known: Knowledge::NotYet,
            children: 0,
            connected: 0,
            done: Usage::default(),
            executable: None,
            marks: UsageMarks::default(),
            first_seen: now,
            busy_at: now,
            unused_since: now,
            ended_at: None,
            growth: Growth { window_began: now, ..Growth::default() },
        };
        let key = self.arena.insert(process);
        self.by_pid.insert(who.pid, key);
        self.wanted.push_back((key, who.pid));
        if self.wanted.len() > limits::PROCESSES_WANTED
            && let Some((left_out, _)) = self.wanted.pop_front()
        {
            self.told(left_out, None);
        }
        key
    }

    /// Takes the next process that is to be looked up, and its pid.
    pub(crate) fn next_wanted(&mut self) -> Option<(ProcessKey, i32)> {
        self.wanted.pop_front()
    }

    /// What /proc says of it. What its children have done before belongs to its executable, too.
    pub(crate) fn told(&mut self, key: ProcessKey, facts: Option<ProcessFacts>) {
        let Some(process) = self.arena.get_mut(key) else { return };
        let executable = self.executables.place(facts.as_ref());
        match process.executable.replace(executable) {
            Some(before) => self.executables.leave(before, process.children),
            None => self.executables.credit(executable, &process.done),
        }
        self.executables.join(executable, process.children);
        process.known = facts.map_or(Knowledge::Nothing, Knowledge::Facts);
    }

    /// What a process has done in all, and in a second of late if that is known.
    pub(crate) fn look_at_usage(&mut self, key: ProcessKey, now: Millis) -> Option<(Usage, Option<Usage>)> {
        let process = self.arena.get_mut(key)?;
        Some((process.done, process.marks.look(&process.done, now)))
    }

    /// There is no such process any more.
    pub(crate) fn ended(&mut self, key: ProcessKey, now: Millis) {
        if let Some(process) = self.arena.get_mut(key) {
            process.ended_at.get_or_insert(now);
        }
    }

    /// What a child of it has done. A child that is of no process that could be seen is of an unknown executable.
    pub(crate) fn credit(&mut self, key: ProcessKey, usage: &Usage, now: Millis) {
        if *usage == Usage::default() {
            return;
        }
        let Some(process) = self.arena.get_mut(key) else {
            return self.executables.credit(ExecutableId::UNKNOWN, usage);
        };
        process.done.add(usage);
        process.busy_at = now;
        if let Some(executable) = process.executable {
            self.executables.credit(executable, usage);
        }
    }

    /// Since when a process grows, if for long enough: its children from before that are counted.
    pub(crate) fn growth_of(&self, key: ProcessKey) -> Option<Millis> {
        self.get(key).filter(|process| process.growth.is_long()).map(|process| process.growth.began[0])
    }

    pub(crate) fn count_old(&mut self, key: ProcessKey, is_unused: bool) {
        if let Some(process) = self.arena.get_mut(key) {
            process.growth.old += 1;
            process.growth.unused += u32::from(is_unused);
        }
    }

    /// All children were counted: those processes that have grown for long enough while older connections were unused.
    pub(crate) fn growing(&mut self, now: Millis, window: Millis) -> Vec<ProcessKey> {
        let mut suspects = Vec::new();
        for key in self.arena.keys() {
            let Some(process) = self.arena.get_mut(key) else { continue };
            if process.growth.is_suspect() {
                suspects.push(key);
            }
            process.growth.look(process.children, now, window);
        }
        suspects
    }

    /// Whether it still grows.
    pub(crate) fn grows(&self, key: ProcessKey) -> bool {
        self.get(key).is_some_and(|process| process.growth.is_long())
    }

    /// A pass over all children begins.
    pub(crate) fn begin_count(&mut self) {
        self.arena.values_mut().for_each(|process| (process.growth.old, process.growth.unused) = (0, 0));
    }

    /// A child is counted for this process, of this user.
    pub(crate) fn join(&mut self, key: ProcessKey, uid: u32) {
        *self.by_uid.entry(uid).or_default() += 1;
        if let Some(process) = self.arena.get_mut(key) {
            process.children += 1;
            process.executable.inspect(|executable| self.executables.join(*executable, 1));
        }
    }

    /// It is so no longer, and has done this meanwhile.
    pub(crate) fn leave(&mut self, key: ProcessKey, uid: u32, usage: &Usage, now: Millis) {
        if let Some(count) = self.by_uid.get_mut(&uid) {
            *count -= 1;
            if *count == 0 {
                self.by_uid.remove(&uid);
            }
        }
        self.credit(key, usage, now);
        if let Some(process) = self.arena.get_mut(key) {
            process.children -= 1;
            process.executable.inspect(|executable| self.executables.leave(*executable, 1));
        }
        self.note_unused(key, now);
    }

    /// A child that this process has connected is used by another one.
    pub(crate) fn keep(&mut self, key: ProcessKey) {
        if let Some(process) = self.arena.get_mut(key) {
            process.connected += 1;
        }
    }

    /// That child has gone.
    pub(crate) fn let_go(&mut self, key: ProcessKey, now: Millis) {
        if let Some(process) = self.arena.get_mut(key) {
            process.connected -= 1;
        }
        self.note_unused(key, now);
    }

    fn note_unused(&mut self, key: ProcessKey, now: Millis) {
        let Some(process) = self.arena.get_mut(key).filter(|process| process.is_unused()) else { return };
        process.unused_since = now;
        self.unused.push_back((now, key));
        self.forget_unused(now);
    }

    /// Forgets those that nobody has been of for a while, or of which there are too many.
    pub(crate) fn forget_unused(&mut self, now: Millis) {
        while let Some((since, key)) = self.unused.front().copied() {
            let is_over = since + limits::PROCESS_KEPT <= now || self.unused.len() > limits::PROCESSES_UNUSED;
            let still =
                self.get(key).is_some_and(|process| process.is_unused() && process.unused_since == since);
            if still && !is_over {
                return;
            }
            self.unused.pop_front();
            if still {
                self.remove(key);
            }
        }
    }

    fn remove(&mut self, key: ProcessKey) {
        let Some(process) = self.arena.remove(key) else { return };
        if process.executable.is_none() {
            self.executables.credit(ExecutableId::UNKNOWN, &process.done);
        }
        let pid = process.who.pid;
        if self.by_pid.get(&pid) == Some(&key) {
            self.by_pid.remove(&pid);
        }
    }

    pub(crate) fn shrink(&mut self) {
        self.arena.shrink();
        self.by_pid.shrink_to_fit();
        self.by_uid.shrink_to_fit();
        self.wanted.shrink_to_fit();
        self.unused.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(pid: i32) -> UnixCredentials {
        UnixCredentials { pid, uid: 33, gid: 33 }
    }

    fn facts(exe: Option<&str>, cgroup: Option<&str>) -> ProcessFacts {
        let text = |text: &str| text.to_owned();
        ProcessFacts {
            comm: text("claims"),
            exe: exe.map(text),
            cgroup: cgroup.map(text),
            started: 1,
            is_exact: true,
        }
    }

    #[test]
    fn children_are_counted_by_process_and_by_user() {
        let mut processes = Processes::default();
        let (a, b) = (processes.find(who(7), 0), processes.find(who(8), 0));
        assert_eq!(processes.find(who(7), 5), a);
        for key in [a, a, b] {
            processes.join(key, 33);
        }
        assert_eq!((processes.children_of_pid(7), processes.children_of_uid(33)), (2, 3));
        let usage = Usage { requests: 4, ..Usage::default() };
        processes.leave(a, 33, &usage, 9);
        assert_eq!((processes.children_of_pid(7), processes.children_of_uid(33)), (1, 2));
        assert_eq!(processes.get(a).unwrap().done().requests, 4);
        assert!(processes.find(who(0), 0).is_none());
    }

    #[test]
    fn a_pid_that_comes_again_after_a_while_is_another_process() {
        let mut processes = Processes::default();
        let first = processes.find(who(7), 0);
        processes.join(first, 33);
        processes.leave(first, 33, &Usage::default(), 100);
        assert_eq!(processes.find(who(7), 100 + limits::PID_REUSE_MIN - 1), first);
        let second = processes.find(who(7), 100 + limits::PID_REUSE_MIN);
        assert_ne!(second, first);
        processes.join(second, 33);
        processes.ended(second, 0);
        assert_ne!(processes.find(who(7), 1), second, "that one has ended");
        processes.forget_unused(100 + limits::PROCESS_KEPT);
        assert!(processes.get(first).is_none() && processes.get(second).is_some());
    }

    #[test]
    fn what_is_unused_or_wanted_is_bounded() {
        let mut processes = Processes::default();
        for pid in 1..=(2 * limits::PROCESSES_UNUSED as i32) {
            let key = processes.find(who(pid), 0);
            processes.join(key, 33);
            processes.leave(key, 33, &Usage::default(), 0);
        }
        assert_eq!(processes.len(), limits::PROCESSES_UNUSED);
        assert!(processes.wanted.len() <= limits::PROCESSES_WANTED);
        assert_eq!(processes.by_pid.len(), processes.len());
    }

    fn totals(processes: &Processes) -> (usize, Usage) {
        let mut sum = (0, Usage::default());
        for executable in processes.executables() {
            sum.0 += executable.children();
            sum.1.add(executable.done());
        }
        sum
    }

    /// Some of the processes are known at once, some after their children have gone, some never.
    #[test]
    fn executables_are_few_and_their_totals_exact_whatever_comes() {
        const CHILDREN: i32 = 10_000;
        const NAMES: i32 = 3_000;
        let (mut processes, mut credited, mut before) = (Processes::default(), Usage::default(), Vec::new());
        for pid in 1..=CHILDREN {
            let key = processes.find(who(pid), 0);
            processes.join(key, 33);
            let usage = Usage { requests: pid as u64, bytes_in: 7, bytes_out: 1 };
            processes.credit(key, &usage, 0);
            let path = format!("/usr/bin/program-{}", pid % NAMES);
            let facts = facts(Some(&*path).filter(|_| pid % 5 != 0), None);
            match pid % 4 {
                0 => processes.told(key, None),
                1 => {}
                _ => processes.told(key, Some(facts.clone())),
            }
            credited.add(&usage);
            if pid % 3 == 0 {
                processes.leave(key, 33, &usage, 0);
                credited.add(&usage);
            }
            if pid % 8 == 1 {
                processes.told(key, Some(facts));
            }
            if pid % 1_000 == 0 {
                let now: Vec<Usage> = processes.executables().map(|each| *each.done()).collect();
                for (then, now) in before.iter().zip(&now) {
                    now.since(then);
                }
                before = now;
            }
        }
        // Whoever was not looked up in time stays without a name.
        processes.forget_unused(limits::PROCESS_KEPT);
        let waiting: Vec<ProcessKey> = processes
            .iter()
            .filter(|(_, process)| process.executable.is_none())
            .map(|(key, _)| key)
            .collect();
        waiting.into_iter().for_each(|key| processes.told(key, None));
        assert_eq!(processes.executables().count(), limits::EXECUTABLES_MAX + 2);
        let names: std::collections::BTreeSet<&str> = processes.executables().map(Executable::name).collect();
        assert_eq!(names.len(), limits::EXECUTABLES_MAX + 2);
        assert_eq!(totals(&processes), ((CHILDREN - CHILDREN / 3) as usize, credited));
        assert!(
            ["unknown", "other", "claimed:claims", "/usr/bin/program-2"]
                .iter()
                .all(|name| names.contains(name)),
            "{names:?}"
        );
    }

    #[test]
    fn what_was_done_before_the_name_was_known_belongs_to_it() {
        let mut processes = Processes::default();
        let key = processes.find(who(7), 0);
        processes.join(key, 33);
        let usage = Usage { requests: 4, ..Usage::default() };
        processes.credit(key, &usage, 0);
        assert_eq!(totals(&processes), (0, Usage::default()), "nobody's as yet");
        processes.told(key, Some(facts(Some("/usr/bin/web"), None)));
        processes.leave(key, 33, &usage, 0);
        processes.credit(ProcessKey::default(), &usage, 0);
        let of = |processes: &Processes, name: &str| {
            processes.executables().find(|each| each.name() == name).map(|each| each.done().requests)
        };
        assert_eq!((of(&processes, "/usr/bin/web"), of(&processes, "unknown")), (Some(8), Some(4)));
        processes.forget_unused(limits::PROCESS_KEPT);
        assert_eq!((processes.len(), of(&processes, "/usr/bin/web")), (0, Some(8)));
    }

    #[test]
    fn one_that_grows_is_suspected_if_older_children_are_unused() {
        let mut processes = Processes::default();
        let key = processes.find(who(7), 0);
        let mut suspected = Vec::new();
        for window in 1..=8 {
            (0..10).for_each(|_| processes.join(key, 33));
            processes.begin_count();
            if let Some(since) = processes.growth_of(key) {
                assert_eq!(since, (window - 1 - limits::GROWTH_WINDOWS as u64) * 100);
                (0..20).for_each(|at| processes.count_old(key, window == 5 || at < 9));
            }
            let found = processes.growing(window * 100, 100);
            suspected.extend(found.iter().map(|_| window));
        }
        assert_eq!(suspected, [5]);
        assert!(processes.grows(key));
        processes.growing(900, 100);
        assert!(!processes.grows(key), "no more than before");
    }

    #[test]
    fn names_are_those_of_the_program_or_are_claimed() {
        let mut processes = Processes::default();
        let key = processes.find(who(7), 0);
        assert_eq!(processes.next_wanted(), Some((key, 7)));
        assert_eq!(processes.get(key).unwrap().name(), "?");
        processes.told(key, Some(facts(Some("/usr/bin/web"), Some("/system.slice/web.service/sub"))));
        let process = processes.get(key).unwrap();
        assert_eq!((process.name(), process.unit(), process.is_claimed()), ("web", "web.service", false));
        processes.told(key, Some(facts(None, None)));
        let process = processes.get(key).unwrap();
        assert_eq!((process.name(), process.unit(), process.is_claimed()), ("claims", "", true));
    }

    #[test]
    fn a_unit_is_the_deepest_that_has_a_name() {
        let id = "0123456789abcdef".repeat(4);
        for (path, unit) in [
            ("/user.slice/user-1.slice/session-3.scope", "session-3.scope"),
            ("/system.slice/docker-abc.scope", "docker-abc.scope"),
            (&format!("/docker/{id}"), &*id),
            ("/", ""),
            ("/plain/group", "/plain/group"),
        ] {
            assert_eq!(unit_of(path), unit);
        }
    }
}
