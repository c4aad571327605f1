//! The client processes of the demo: starts them, releases them, reads their output and waits for them.

use crate::cli::DemoArgs;
use crate::report::Report;
use crate::shared::guard::{self, Guarded};
use broker::base::error::{Error, Result};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// All children must be connected by then.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq, Eq)]
struct ChildProgram {
    name: &'static str,
    /// The example that does this kind's work. It starts to work at once.
    example: Option<&'static str>,
}

/// In the order in which a small crew includes them. hiredis reports only at its end.
static PROGRAMS: [ChildProgram; 4] = [
    ChildProgram { name: "redis (Rust)", example: None },
    ChildProgram { name: "redis-cli", example: None },
    ChildProgram { name: "hiredis (C)", example: Some("hiredis_child") },
    ChildProgram { name: "libbroker (C)", example: Some("libbroker_child") },
];

/// The example of this name, if it has been built: in the source tree, or next to this binary.
fn find_example(name: &str) -> Option<PathBuf> {
    let beside = guard::own_binary().ok().and_then(|binary| Some(binary.parent()?.join(name)));
    let built = std::path::absolute(Path::new("c-examples/build").join(name)).ok();
    built.into_iter().chain(beside).find(|file| guard::is_executable(file))
}

struct Member {
    kind: &'static ChildProgram,
    process: Guarded,
    progress: u64,
    report: Option<Report>,
    output_open: bool,
}

/// A line of the member with this index; `None` at the end of its output.
type CrewEvent = (usize, Option<String>);

pub(crate) struct Crew {
    members: Vec<Member>,
    /// The examples, which have no start line to wait for.
    waiting: Vec<(&'static ChildProgram, Command)>,
    ready: usize,
    sender: Sender<CrewEvent>,
    events: Receiver<CrewEvent>,
}

impl Crew {
    /// Starts the children and waits until all are connected. They do not work yet.
    pub(crate) fn start(args: &DemoArgs, socket: &Path) -> Result<Crew> {
        // The first child uses Rust; the other kinds replace one child each if their program exists.
        let mut ring = args.children;
        let redis_cli = ring > 1 && guard::find_program("redis-cli").is_some();
        ring -= u32::from(redis_cli);
        let mut examples = Vec::new();
        for kind in &PROGRAMS {
            if ring > 1
                && let Some(program) = kind.example.and_then(find_example)
            {
                ring -= 1;
                examples.push((kind, program));
            }
        }
        let (sender, events) = channel();
        let mut crew = Crew { members: Vec::new(), waiting: Vec::new(), ready: 0, sender, events };
        for id in 0..ring {
            crew.spawn(&PROGRAMS[0], own("child", args, socket, id, ring)?)?;
        }
        if redis_cli {
            crew.spawn(&PROGRAMS[1], own("redis-cli", args, socket, ring, ring)?)?;
        }
        crew.wait_until_ready()?;
        for (id, (kind, program)) in (ring + 1..).zip(examples) {
            let mut command = guard::command(program)?;
            command.arg(socket).arg(args.seconds.to_string()).arg(id.to_string());
            crew.waiting.push((kind, command));
        }
        Ok(crew)
    }

    fn spawn(&mut self, kind: &'static ChildProgram, mut command: Command) -> Result<()> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Guarded::spawn(&mut command, &format!("child process {}", kind.name))?;
        let (id, sender) = (self.members.len(), self.sender.clone());
        process.read_lines(move |line| drop(sender.send((id, line))))?;
        self.members.push(Member { kind, process, progress: 0, report: None, output_open: true });
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while self.ready < self.members.len() {
            if self.members.iter().any(|member| !member.output_open) {
                return Err(Error::system("a child could not start; its own line above gives the reason"));
            }
            if Instant::now() >= deadline {
                let (ready, all) = (self.ready, self.members.len());
                return Err(Error::system(format!("only {ready} of {all} children connected in time")));
            }
            self.next_event(deadline);
        }
        Ok(())
    }

    pub(crate) fn go(&mut self) -> Result<()> {
        for member in &mut self.members {
            // A child that has ended is reported at the end.
            let _ = member.process.0.stdin.as_mut().map(|input| input.write_all(b"go\n"));
        }
        for (kind, command) in std::mem::take(&mut self.waiting) {
            self.spawn(kind, command)?;
        }
        Ok(())
    }

    /// Reads what the children report, for this long.
    pub(crate) fn listen(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while self.is_working() && self.next_event(deadline) {}
    }

    /// Whether any child may still report something.
    pub(crate) fn is_working(&self) -> bool {
        self.members.iter().any(|member| member.output_open)
    }

    pub(crate) fn progress(&self) -> u64 {
        self.members.iter().map(|member| member.progress).sum()
    }

    /// Waits for the children to end, and ends those that do not. Returns what failed.
    pub(crate) fn finish(&mut self, timeout: Duration) -> Vec<String> {
        for member in &mut self.members {
            drop(member.process.0.stdin.take());
        }
        let deadline = Instant::now() + timeout;
        self.listen(timeout);
        let mut failures = Vec::new();
        for (id, member) in self.members.iter_mut().enumerate() {
            let status = member.process.end_within(deadline.saturating_duration_since(Instant::now()));
            let failure = match status {
                None => "did not end".to_owned(),
                Some(status) if !status.success() => format!("ended with {status}"),
                Some(_) if member.report.is_none() => "did not report".to_owned(),
                Some(_) => continue,
            };
            failures.push(format!("child {id}, {}, {failure}", member.kind.name));
        }
        failures
    }

    pub(crate) fn total(&self) -> Report {
        let mut total = Report::new();
        self.members.iter().filter_map(|member| member.report.as_ref()).for_each(|report| total.add(report));
        total
    }

    pub(crate) fn kinds(&self) -> String {
        let started = self.members.iter().map(|member| member.kind);
        let kinds: Vec<_> = started.chain(self.waiting.iter().map(|(kind, _)| *kind)).collect();
        let counts =
            PROGRAMS.iter().map(|kind| (kinds.iter().filter(|other| **other == kind).count(), kind.name));
        let parts = counts.filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}"));
        format!("{} child processes: {}", kinds.len(), parts.collect::<Vec<_>>().join(", "))
    }

    /// Handles one event; false at the deadline.
    fn next_event(&mut self, deadline: Instant) -> bool {
        match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((id, Some(line))) => self.take_line(id, &line),
            Ok((id, None)) => self.members[id].output_open = false,
            Err(_) => return false,
        }
        true
    }

    fn take_line(&mut self, id: usize, line: &str) {
        let member = &mut self.members[id];
        if line == "ready" {
            self.ready += 1;
        } else if let Some(progress) = line.strip_prefix("progress ") {
            member.progress = progress.parse().unwrap_or(member.progress);
        } else if let Some(report) = Report::from_line(line) {
            member.progress = report.requests;
            member.report = Some(report);
        }
    }
}

fn own(verb: &str, args: &DemoArgs, socket: &Path, id: u32, ring: u32) -> Result<Command> {
    let mut command = guard::command(guard::own_binary()?)?;
    command.arg(verb).arg(socket).args([args.seconds, id, ring].map(|number| number.to_string()));
    Ok(command)
}
