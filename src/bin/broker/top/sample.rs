//! What the console says at one moment, and the picture that `wrong` looks at. Owns the connection and makes a new one when
//! that is lost; asks a few short tables, however many children there are. Knows no screen.

use super::client::{ConsoleAnswer, ConsoleClient, TableRow, Trouble, redis_cli};
use super::wrong::{
    Failures, LaneAge, LeakNow, LeaseHolder, LeaseUse, Person, Picture, WaitsForLease, wrong as find_wrong,
};
use crate::top::wrong::Finding;
use broker::config::{ListenUrl, parse_listen};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Rows asked for: of more than these, the first by what is looked for say enough.
const PROCESSES_MAX: usize = 500;
const WAITING_MAX: usize = 200;
const LEASES_MAX: usize = 500;
const LEAKS_MAX: usize = 200;
const LANES_MAX: usize = 16;
/// How far back it is remembered what has failed, in milliseconds.
const LATELY: u64 = 60_000;
/// Rows of STATS that count what must not happen.
const FAILURES: [&str; 6] = [
    "requests_lost",
    "requests_down",
    "requests_limited",
    "requests_timed_out",
    "children_refused",
    "log_lines_dropped",
];
/// The kinds of leases, as the console names them.
pub(crate) const LEASE_KINDS: [&str; 3] = ["transaction", "session", "blocking"];

/// The process that looks, as the broker sees it where both see the same processes.
#[cfg_attr(not(feature = "top"), allow(dead_code))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Onlooker {
    pub(crate) pid: u64,
    /// Its program: in another container the same pid is another one's.
    pub(crate) process: String,
}

#[cfg_attr(not(feature = "top"), allow(dead_code))]
impl Onlooker {
    /// This process.
    pub(crate) fn own() -> Onlooker {
        let program = std::env::current_exe().ok();
        let process = program.as_deref().and_then(|path| path.file_name()).unwrap_or_default();
        Onlooker { pid: std::process::id().into(), process: process.to_string_lossy().into_owned() }
    }

    fn is_of(&self, row: &TableRow) -> bool {
        let process = row.text("process");
        row.number("pid") == Some(self.pid) && (process.is_empty() || process == self.process)
    }
}

/// One look at a broker.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) version: TableRow,
    pub(crate) upstream: TableRow,
    pub(crate) pools: Vec<TableRow>,
    pub(crate) leases: Vec<TableRow>,
    /// Those of now.
    pub(crate) leaks: Vec<TableRow>,
    /// Children that wait for a lease, the longest wait first.
    pub(crate) waiting: Vec<TableRow>,
    pub(crate) processes: Vec<TableRow>,
    pub(crate) commands: Vec<TableRow>,
    memory: Vec<TableRow>,
    lanes: Vec<TableRow>,
    settings: HashMap<String, String>,
    /// Totals by their names; empty where the broker has no such table.
    stats: HashMap<String, u64>,
    /// redis-cli as it reaches the broker, and as it reaches the socket on which verbs are heard.
    asking: String,
    telling: String,
    /// What has failed since an earlier look, at most a minute ago.
    failures: Failures,
    /// None where the broker has no such table.
    pub(crate) latency: Option<Vec<TableRow>>,
    /// The rows of further tables, in the order in which these were asked for.
    #[cfg_attr(not(feature = "top"), allow(dead_code))]
    pub(crate) more: Vec<Vec<TableRow>>,
    /// Whose rows of processes and children are left out.
    onlooker: Option<Onlooker>,
}

/// Sums over all processes and commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) requests: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) children: u64,
    pub(crate) processes: u64,
}

/// The same per second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Speeds {
    pub(crate) requests: f64,
    pub(crate) bytes_in: f64,
    pub(crate) bytes_out: f64,
}

impl Sample {
    pub(crate) fn totals(&self) -> Totals {
        let sum = |rows: &[TableRow], column| rows.iter().map(|row| row.count(column)).sum();
        let of_processes = |column| self.others(&self.processes).map(|row| row.count(column)).sum();
        Totals {
            // Of a broker without STATS, the commands add up to it.
            requests: self.stat("requests").unwrap_or_else(|| sum(&self.commands, "calls")),
            bytes_in: of_processes("bytes_in"),
            bytes_out: of_processes("bytes_out"),
            children: of_processes("children"),
            processes: self.others(&self.processes).filter(|row| row.count("children") > 0).count() as u64,
        }
    }

    /// Rows of processes or children without those of whoever looks, if these are to be left out.
    pub(crate) fn others<'a>(&'a self, rows: &'a [TableRow]) -> impl Iterator<Item = &'a TableRow> {
        rows.iter().filter(|row| !self.onlooker.as_ref().is_some_and(|onlooker| onlooker.is_of(row)))
    }

    /// Whether there are more processes than were asked for, so that sums over them are too small.
    pub(crate) fn is_cut(&self) -> bool {
        self.processes.len() == PROCESSES_MAX
    }

    /// What happened since `earlier`, per second; none if the broker has started anew in between.
    pub(crate) fn speeds(&self, earlier: &Sample) -> Option<Speeds> {
        let seconds = self.seconds_since(earlier)?;
        let (now, then) = (self.totals(), earlier.totals());
        let per_second = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        Some(Speeds {
            requests: per_second(now.requests, then.requests),
            bytes_in: per_second(now.bytes_in, then.bytes_in),
            bytes_out: per_second(now.bytes_out, then.bytes_out),
        })
    }

    /// By the broker's own clock, which a busy machine does not delay; none if it has started anew in between.
    pub(crate) fn seconds_since(&self, earlier: &Sample) -> Option<f64> {
        let passed = self.version.count("uptime_ms").checked_sub(earlier.version.count("uptime_ms"))?;
        (passed > 0).then(|| passed as f64 / 1000.0)
    }

    /// p99 and maximum in microseconds, over everything, or of the slowest there is.
    pub(crate) fn latency_now(&self) -> Option<(u64, u64)> {
        let rows = self.latency.as_ref()?;
        let window = rows.first()?.text("window");
        // Where nothing was answered there is nothing to tell, and zeros would say that it was fast.
        let is_recent = |row: &&TableRow| row.text("window") == window && row.number("count") != Some(0);
        let recent: Vec<&TableRow> = rows.iter().filter(is_recent).collect();
        let all = recent.iter().find(|row| row.text("family") == "all");
        let row = all.or(recent.iter().max_by_key(|row| row.count("p99")))?;
        Some((row.count("p99"), row.count("max")))
    }

    /// A total of the broker's own.
    fn stat(&self, name: &str) -> Option<u64> {
        self.stats.get(name).copied()
    }

    /// A setting that is a number.
    fn setting(&self, key: &str) -> Option<u64> {
        self.settings.get(key)?.parse().ok()
    }

    /// How many leases of each kind are lent, and may be.
    pub(crate) fn lease_use(&self) -> Vec<LeaseUse> {
        let used = |kind| self.pools.iter().map(|pool| pool.count(kind)).sum();
        let max = |kind| self.setting(&format!("leases_{kind}_max"));
        LEASE_KINDS.map(|kind| LeaseUse { kind, used: used(kind), max: max(kind) }).into()
    }

    /// The longest wait for a lease, and how many children and groups wait.
    pub(crate) fn waits(&self) -> (u64, u64) {
        let pools = |column| self.pools.iter().map(move |pool| pool.count(column));
        let longest = self.waiting.iter().map(|row| row.count("waits_ms")).chain(pools("maxwait_ms")).max();
        (pools("waiting").sum::<u64>().max(self.waiting.len() as u64), longest.unwrap_or_default())
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        find_wrong(&self.picture())
    }

    fn picture(&self) -> Picture {
        // Whoever looks takes up room as well.
        let all_children = || self.processes.iter().map(|row| row.count("children")).sum();
        let up = &self.upstream;
        let held = |what: &str| {
            self.memory.iter().find(|row| row.text("what") == what).map_or(0, |row| row.count("bytes"))
        };
        let (groups_waiting, groups_wait_ms) = self.groups();
        Picture {
            address: up.text("address"),
            state: up.text("state"),
            down_ms: up.number("down_ms"),
            refusal: up.text("refusal"),
            connections: up.count("connections"),
            connections_max: up.count("connections_max"),
            refused: self.refused(),
            leases: self.lease_use(),
            waiting: self.waiting.iter().map(waits_for_lease).collect(),
            groups_waiting,
            groups_wait_ms,
            holders: self.leases.iter().map(holder).collect(),
            leaks: self.leaks.iter().map(leak).collect(),
            memory: held("queues"),
            memory_max: held("memory_max"),
            children: self.stat("children").unwrap_or_else(all_children),
            failures: self.failures.clone(),
            asking: self.asking.clone(),
            telling: self.telling.clone(),
            children_max: self.setting("children_max"),
            // One that WAIT blocks is nobody else's.
            lanes: self
                .lanes
                .iter()
                .filter(|row| !row.text("marks").contains("detached"))
                .map(lane)
                .collect(),
        }
    }

    /// Groups of children that wait for a lease are in no row of CHILDREN: what a pool counts beyond those are groups.
    fn groups(&self) -> (u64, u64) {
        let children = self.waiting.len() as u64;
        let (all, longest) = self.waits();
        let of_children = self.waiting.first().map_or(0, |row| row.count("waits_ms"));
        let is_cut = self.waiting.len() == WAITING_MAX;
        let groups = if is_cut { 0 } else { all - children };
        (groups, if groups > 0 && longest > of_children { longest } else { 0 })
    }

    /// While Redis is down every pool has the same reason, which is told once.
    fn refused(&self) -> Vec<(String, String)> {
        if self.upstream.text("state") != "up" {
            return Vec::new();
        }
        let mut refused: Vec<(String, String)> =
            self.pools.iter().map(|pool| (pool.text("user"), pool.text("refusal"))).collect();
        refused.retain(|(_, why)| !why.is_empty());
        refused.dedup();
        refused
    }
}

fn person(row: &TableRow) -> Person {
    let child = row.number("child").or_else(|| row.number("id"));
    let (pid, uid) = (row.number("pid"), row.number("uid"));
    Person { child, pid, uid, process: row.text("process"), unit: row.text("unit") }
}

fn waits_for_lease(row: &TableRow) -> WaitsForLease {
    WaitsForLease {
        kind: match row.text("wants_lease").as_str() {
            "transaction" => "transaction",
            "session" => "session",
            "blocking" => "blocking",
            _ => "",
        },
        wait_ms: row.count("waits_ms"),
    }
}

fn holder(row: &TableRow) -> LeaseHolder {
    LeaseHolder {
        kind: row.text("kind"),
        who: person(row),
        held_ms: row.count("held_ms"),
        idle_ms: row.number("idle_ms"),
        command: row.text("command"),
    }
}

fn leak(row: &TableRow) -> LeakNow {
    LeakNow {
        kind: row.text("kind"),
        who: person(row),
        since_ms: row.count("since_ms"),
        what: row.text("what"),
    }
}

fn lane(row: &TableRow) -> LaneAge {
    LaneAge { lane: row.count("lane"), in_flight: row.count("in_flight"), oldest_ms: row.count("oldest_ms") }
}

/// What the broker has counted at a time of its own clock.
#[derive(Debug, Clone, Copy)]
struct CountedAt {
    uptime_ms: u64,
    counts: [u64; FAILURES.len()],
}

/// What was counted at the looks of the last minute, the youngest last.
#[derive(Debug, Default)]
struct FailureHistory(VecDeque<CountedAt>);

impl FailureHistory {
    /// Takes a look, and says what has failed since the oldest one of the last minute.
    fn take(&mut self, uptime_ms: u64, stats: &HashMap<String, u64>) -> Failures {
        let counts = FAILURES.map(|name| stats.get(name).copied().unwrap_or_default());
        let now = CountedAt { uptime_ms, counts };
        let is_anew = self.0.back().is_some_and(|last| {
            now.uptime_ms < last.uptime_ms || last.counts.iter().zip(&counts).any(|(then, now)| now < then)
        });
        if is_anew {
            self.0.clear();
        }
        self.0.push_back(now);
        // Where looks are further apart than that, there is the last one all the same.
        while self.0.len() > 2 && uptime_ms - self.0[0].uptime_ms > LATELY {
            self.0.pop_front();
        }
        let then = self.0[0];
        let since = |at: usize| counts[at] - then.counts[at];
        Failures {
            span_ms: uptime_ms - then.uptime_ms,
            lost: since(0),
            down: since(1),
            limited: since(2),
            timed_out: since(3),
            children_refused: since(4),
            log_lines_dropped: since(5),
        }
    }
}

/// Looks at one broker again and again, over a connection that it makes anew when it is lost.
#[derive(Debug)]
pub(crate) struct Watcher {
    place: ListenUrl,
    /// Where the broker hears a few more, once it lets no further child in.
    admin: Option<ListenUrl>,
    patience: Duration,
    client: Option<ConsoleClient>,
    /// The connection speaks RESP3.
    is_typed: bool,
    /// HELLO was not answered once; lines of text say the same.
    avoids_hello: bool,
    /// The broker has no LATENCY.
    lacks_latency: bool,
    /// Somebody waited for a lease at the last look.
    expects_waits: bool,
    history: FailureHistory,
    /// Whose own connection is left out of what it sees.
    onlooker: Option<Onlooker>,
}

impl Watcher {
    pub(crate) fn new(place: ListenUrl, admin: Option<ListenUrl>, patience: Duration) -> Watcher {
        Watcher {
            place,
            admin,
            patience,
            client: None,
            is_typed: false,
            avoids_hello: false,
            lacks_latency: false,
            expects_waits: false,
            history: FailureHistory::default(),
            onlooker: None,
        }
    }

    /// Leaves this one out of processes and children.
    #[cfg_attr(not(feature = "top"), allow(dead_code))]
    pub(crate) fn without(self, onlooker: Onlooker) -> Watcher {
        Watcher { onlooker: Some(onlooker), ..self }
    }

    /// Looks at it now; `more` are further tables, each with its conditions.
    pub(crate) fn look(&mut self, more: &[String]) -> ConsoleAnswer<Sample> {
        if self.client.is_none() {
            self.client = Some(self.connect()?);
            (self.is_typed, self.lacks_latency) = (false, false);
        }
        let outcome = self.ask_all(more);
        if matches!(outcome, Err(Trouble::NoAnswer(_))) {
            self.client = None;
        }
        outcome
    }

    fn connect(&self) -> ConsoleAnswer<ConsoleClient> {
        let refused = match self.connect_to(&self.place) {
            Err(Trouble::Refused(text)) => Trouble::Refused(text),
            outcome => return outcome,
        };
        match &self.admin {
            Some(admin) => self.connect_to(admin).map_err(|_| refused),
            None => Err(refused),
        }
    }

    /// Whether it is let in shows in the first answer.
    fn connect_to(&self, place: &ListenUrl) -> ConsoleAnswer<ConsoleClient> {
        let mut client = ConsoleClient::connect(place, self.patience)?;
        client.show("VERSION")?;
        Ok(client)
    }

    fn ask_all(&mut self, more: &[String]) -> ConsoleAnswer<Sample> {
        self.greet()?;
        let Some(client) = &mut self.client else {
            return Err(Trouble::NoAnswer("not connected".to_owned()));
        };
        let mut tables = questions();
        let waits = format!("CHILDREN WHERE waits_for lease SORT waits_ms LIMIT {WAITING_MAX}");
        // Who waits is sought among all children, so only where somebody does.
        if self.expects_waits {
            tables.push(waits.clone());
        }
        tables.extend_from_slice(more);
        if !self.lacks_latency {
            tables.push("LATENCY".to_owned());
        }
        let mut answers = client.show_all(&tables)?;
        let asked = if self.lacks_latency { None } else { answers.pop() };
        let latency = match asked {
            Some(Err(Trouble::Refused(text))) if text.starts_with("ERR no table") => None,
            Some(answer) => Some(answer?),
            None => None,
        };
        self.lacks_latency = latency.is_none();
        let mut answers = answers.into_iter();
        let mut next = || answers.next().unwrap_or_else(|| Ok(Vec::new()));
        let mut sample = Sample {
            version: first(next()?),
            upstream: first(next()?),
            pools: next()?,
            leases: next()?,
            leaks: next()?,
            processes: next()?,
            commands: next()?,
            memory: next()?,
            lanes: next()?,
            settings: settings(&next()?),
            stats: match next() {
                Err(Trouble::Refused(text)) if text.starts_with("ERR no table") => HashMap::new(),
                rows => stats(&rows?),
            },
            asking: redis_cli(&self.place),
            telling: String::new(),
            failures: Failures::default(),
            waiting: if self.expects_waits { next()? } else { Vec::new() },
            latency,
            more: answers.collect::<Result<_, _>>()?,
            onlooker: self.onlooker.clone(),
        };
        sample.telling = match sample.settings.get("admin_listen").map_or("", String::as_str) {
            "" => self.admin.as_ref().map_or(String::new(), redis_cli),
            "none" => String::new(),
            url => parse_listen(url).map_or(String::new(), |url| redis_cli(&url)),
        };
        let is_waited = sample.pools.iter().any(|pool| pool.count("waiting") > 0);
        if is_waited && !self.expects_waits {
            // Both of the same moment, or whoever was served in between would be taken for a group.
            let mut answers = client.show_all(&["POOLS".to_owned(), waits])?.into_iter();
            let mut next = || answers.next().unwrap_or_else(|| Ok(Vec::new()));
            (sample.pools, sample.waiting) = (next()?, next()?);
        }
        self.expects_waits = is_waited;
        if !sample.stats.is_empty() {
            sample.failures = self.history.take(sample.version.count("uptime_ms"), &sample.stats);
        }
        Ok(sample)
    }

    /// A broker that has not heard of Redis keeps whoever greets it waiting, and those are asked for at night.
    fn greet(&mut self) -> ConsoleAnswer<()> {
        let Some(client) = self.client.as_mut().filter(|_| !self.is_typed && !self.avoids_hello) else {
            return Ok(());
        };
        if first(client.show("UPSTREAM")?).text("state") == "up" {
            self.avoids_hello = true;
            client.speak_resp3()?;
            (self.is_typed, self.avoids_hello) = (true, false);
        }
        Ok(())
    }
}

/// The tables of every sample, in the order of its fields. Each has few rows, however many children there are.
fn questions() -> Vec<String> {
    vec![
        "VERSION".to_owned(),
        "UPSTREAM".to_owned(),
        "POOLS".to_owned(),
        format!("LEASES SORT held_ms LIMIT {LEASES_MAX}"),
        format!("LEAKS WHERE state now SORT since_ms LIMIT {LEAKS_MAX}"),
        format!("PROCESSES SORT requests LIMIT {PROCESSES_MAX}"),
        "COMMANDS".to_owned(),
        "MEMORY".to_owned(),
        format!("LANES WHERE role shared SORT oldest_ms LIMIT {LANES_MAX}"),
        "CONFIG".to_owned(),
        "STATS".to_owned(),
    ]
}

/// The row of a table that has one.
fn first(rows: Vec<TableRow>) -> TableRow {
    rows.into_iter().next().unwrap_or_default()
}

fn settings(rows: &[TableRow]) -> HashMap<String, String> {
    rows.iter().map(|row| (row.text("key"), row.text("value"))).collect()
}

fn stats(rows: &[TableRow]) -> HashMap<String, u64> {
    rows.iter().filter_map(|row| Some((row.text("name"), row.number("value")?))).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::top::wrong::Severity;

    /// A broker as it is described by the rows that differ from those of an idle one.
    pub(crate) fn sample(uptime_ms: u64) -> Sample {
        let upstream = [
            ("address", "redis://h:6379/0"),
            ("state", "up"),
            ("server", "redis"),
            ("version", "7.0.15"),
            ("role", "master"),
            ("connections", "2"),
            ("connections_max", "384"),
        ];
        let setting = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        Sample {
            version: TableRow::of(&[("version", "0.1.0"), ("uptime_ms", &uptime_ms.to_string())]),
            upstream: TableRow::of(&upstream),
            pools: vec![TableRow::of(&[("pool", "1"), ("user", "default"), ("transaction", "1")])],
            leases: Vec::new(),
            leaks: Vec::new(),
            waiting: Vec::new(),
            processes: Vec::new(),
            commands: Vec::new(),
            memory: Vec::new(),
            lanes: Vec::new(),
            settings: [setting("leases_transaction_max", "1"), setting("leases_session_max", "32")].into(),
            stats: HashMap::new(),
            asking: "redis-cli -s /run/b.sock".to_owned(),
            telling: "redis-cli -s /run/b.sock.admin".to_owned(),
            failures: Failures::default(),
            latency: None,
            more: Vec::new(),
            onlooker: None,
        }
    }

    /// The same as it is seen by whoever is left out.
    #[cfg(feature = "top")]
    pub(crate) fn seen_by(onlooker: Onlooker, sample: Sample) -> Sample {
        Sample { onlooker: Some(onlooker), ..sample }
    }

    /// Children that wait for a transaction while a process keeps its own open.
    pub(crate) fn sample_with_waits(uptime_ms: u64) -> Sample {
        let mut sample = sample(uptime_ms);
        sample.pools[0] = TableRow::of(&[
            ("pool", "1"),
            ("user", "default"),
            ("transaction", "1"),
            ("waiting", "2"),
            ("maxwait_ms", "4200"),
        ]);
        let waiter =
            |ms: &str| TableRow::of(&[("id", "9"), ("wants_lease", "transaction"), ("waits_ms", ms)]);
        sample.waiting = vec![waiter("4200"), waiter("300")];
        sample.leases = vec![TableRow::of(&[
            ("lane", "3"),
            ("kind", "transaction"),
            ("held_ms", "9100"),
            ("idle_ms", "20"),
            ("child", "12"),
            ("pid", "44"),
            ("process", "worker"),
            ("unit", "web.service"),
            ("command", "watch"),
        ])];
        sample
    }

    #[test]
    fn waits_and_who_causes_them_are_found_in_the_tables() {
        let findings = sample_with_waits(5).findings();
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].severity, Severity::Critical);
        assert_eq!(
            findings[0].what,
            "2 children wait for a lease of kind transaction for 4.2 s; held by pid 44 (worker, web.service), \
             since 9.1 s, last command watch, idle for 20 ms"
        );
        assert_eq!(findings[0].hint, "leases_transaction_max allows 1");
    }

    #[test]
    fn a_wait_is_of_the_kind_that_the_broker_names_and_of_no_other() {
        let kind = |cells: &[(&str, &str)]| waits_for_lease(&TableRow::of(cells)).kind;
        for name in LEASE_KINDS {
            assert_eq!(kind(&[("wants_lease", name), ("lease", "blocking")]), name);
        }
        assert_eq!(kind(&[("waits_for", "lease"), ("command", "watch")]), "");
        assert_eq!(kind(&[("wants_lease", "-")]), "");
        let findings = sample_with_waits(5).findings();
        assert!(findings.iter().all(|finding| !finding.what.contains("blocking")), "{findings:?}");
    }

    #[test]
    fn what_pools_count_beyond_children_are_groups() {
        let mut sample = sample_with_waits(5);
        assert_eq!(sample.groups(), (0, 0));
        sample.waiting.pop();
        sample.pools[0] = TableRow::of(&[("waiting", "4"), ("maxwait_ms", "5000")]);
        assert_eq!(sample.groups(), (3, 5000));
        sample.waiting = vec![TableRow::default(); WAITING_MAX];
        assert_eq!(sample.groups(), (0, 0), "how many children wait is not known then");
    }

    #[test]
    fn speeds_are_of_two_samples_and_a_new_broker_begins_anew() {
        let (mut earlier, mut later) = (sample(1_000), sample(3_000));
        let process = |bytes: &str| TableRow::of(&[("bytes_in", bytes), ("children", "2")]);
        earlier.commands = vec![TableRow::of(&[("calls", "10")])];
        later.commands = vec![TableRow::of(&[("calls", "30")]), TableRow::of(&[("calls", "5")])];
        (earlier.processes, later.processes) = (vec![process("100")], vec![process("500"), process("100")]);
        let speeds = later.speeds(&earlier).unwrap();
        assert_eq!((speeds.requests, speeds.bytes_in, speeds.bytes_out), (12.5, 250.0, 0.0));
        assert_eq!(earlier.speeds(&later), None);
        assert_eq!((later.totals().children, later.totals().processes), (4, 2));
    }

    fn stats_of(rows: &[(&str, &str)]) -> HashMap<String, u64> {
        let rows: Vec<TableRow> =
            rows.iter().map(|(name, value)| TableRow::of(&[("name", name), ("value", value)])).collect();
        stats(&rows)
    }

    #[test]
    fn failures_are_those_of_the_last_minute() {
        let mut history = FailureHistory::default();
        let mut take = |uptime_ms, down: &str| {
            let failures = history.take(uptime_ms, &stats_of(&[("requests_down", down), ("children", "3")]));
            (failures.down, failures.span_ms)
        };
        assert_eq!(take(1_000, "7"), (0, 0), "what failed before the first look is not known to be of late");
        assert_eq!(take(2_000, "9"), (2, 1_000));
        assert_eq!(take(61_500, "9"), (0, 59_500), "the first look is more than a minute ago");
        assert_eq!(take(62_500, "10"), (1, 1_000));
        assert_eq!(take(200_000, "12"), (2, 137_500), "there is no other look to compare with");
        assert_eq!(take(500, "1"), (0, 0), "another broker");
        assert_eq!(take(900, "4"), (3, 400));
        assert_eq!(take(9_000, "2"), (0, 0), "another one that has run for longer");
    }

    #[test]
    fn requests_are_those_that_the_broker_has_counted() {
        let (mut earlier, mut later) = (sample(1_000), sample(3_000));
        later.commands = vec![TableRow::of(&[("calls", "1000")])];
        earlier.stats = stats_of(&[("requests", "10")]);
        later.stats = stats_of(&[("requests", "30"), ("children", "9")]);
        assert_eq!(later.speeds(&earlier).map(|speeds| speeds.requests), Some(10.0));
        assert_eq!(later.picture().children, 9);
    }

    #[test]
    fn who_looks_is_left_out_of_the_totals_and_takes_up_room() {
        let mut sample = sample(1_000);
        let process = |pid, process, children| {
            TableRow::of(&[("pid", pid), ("process", process), ("children", children), ("bytes_in", "10")])
        };
        sample.processes = vec![process("7", "worker", "2"), process("8", "broker", "1")];
        assert_eq!((sample.totals().children, sample.totals().processes), (3, 2));
        sample.onlooker = Some(Onlooker { pid: 8, process: "broker".to_owned() });
        let totals = sample.totals();
        assert_eq!((totals.children, totals.processes, totals.bytes_in), (2, 1, 10));
        assert_eq!(sample.picture().children, 3);
        sample.processes[1] = process("8", "cron", "1");
        assert_eq!(sample.totals().processes, 2, "the same pid in another container");
        assert_eq!(Onlooker::own().pid, u64::from(std::process::id()));
    }

    #[test]
    fn latency_is_shown_where_the_broker_knows_it() {
        let mut sample = sample(1);
        assert_eq!(sample.latency_now(), None);
        let row = |family, window, p99, max| {
            TableRow::of(&[("family", family), ("window", window), ("p99", p99), ("max", max)])
        };
        let rows =
            vec![row("read", "1s", "70", "90"), row("all", "1s", "60", "95"), row("all", "60s", "9", "9")];
        sample.latency = Some(rows.clone());
        assert_eq!(sample.latency_now(), Some((60, 95)));
        sample.latency = Some(vec![rows[0].clone(), row("write", "1s", "71", "80")]);
        assert_eq!(sample.latency_now(), Some((71, 80)));
        let none = [("family", "read"), ("window", "10s"), ("count", "0"), ("p99", "0"), ("max", "0")];
        sample.latency = Some(vec![TableRow::of(&none)]);
        assert_eq!(sample.latency_now(), None, "nothing was answered");
    }
}
