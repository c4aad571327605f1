//! What the console says at one moment. Owns the connection and makes a new one when that is lost; asks a few short tables,
//! however many children there are. Knows no screen.

use super::client::{ConsoleAnswer, ConsoleClient, TableRow, Trouble};
use super::wrong::{Finding, findings_of};
use broker::config::ListenUrl;
use std::collections::HashMap;
use std::time::Duration;

/// Rows asked for: of more than these, the first by what is looked for say enough.
const PROCESSES_MAX: usize = 500;
const LEASES_MAX: usize = 500;
const LEAKS_MAX: usize = 200;
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
    pub(crate) processes: Vec<TableRow>,
    pub(crate) commands: Vec<TableRow>,
    troubles: Vec<TableRow>,
    settings: HashMap<String, String>,
    /// Totals by their names.
    stats: HashMap<String, u64>,
    pub(crate) latency: Vec<TableRow>,
    /// The rows of further tables, in the order in which these were asked for.
    #[cfg_attr(not(feature = "top"), allow(dead_code))]
    pub(crate) more: Vec<Vec<TableRow>>,
    /// Whose rows of processes and children are left out.
    onlooker: Option<Onlooker>,
}

/// Leases of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseUse {
    /// transaction, session, blocking.
    pub(crate) kind: &'static str,
    pub(crate) used: u64,
    /// As it is set; none where that is not known.
    pub(crate) max: Option<u64>,
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
        let of_processes = |column| self.others(&self.processes).map(|row| row.count(column)).sum();
        Totals {
            requests: self.stats.get("requests").copied().unwrap_or_default(),
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
        let rows = &self.latency;
        let window = rows.first()?.text("window");
        // Where nothing was answered there is nothing to tell, and zeros would say that it was fast.
        let is_recent = |row: &&TableRow| row.text("window") == window && row.number("count") != Some(0);
        let recent: Vec<&TableRow> = rows.iter().filter(is_recent).collect();
        let all = recent.iter().find(|row| row.text("family") == "all");
        let row = all.or(recent.iter().max_by_key(|row| row.count("p99")))?;
        Some((row.count("p99"), row.count("max")))
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

    /// How many children and commands wait for a lease, and the longest wait.
    pub(crate) fn waits(&self) -> (u64, u64) {
        let pools = |column| self.pools.iter().map(move |pool| pool.count(column));
        (pools("waiting").sum(), pools("maxwait_ms").max().unwrap_or_default())
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        findings_of(&self.troubles)
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
    /// Whose own connection is left out of what it sees.
    onlooker: Option<Onlooker>,
}

impl Watcher {
    pub(crate) fn new(place: ListenUrl, admin: Option<ListenUrl>, patience: Duration) -> Watcher {
        Watcher { place, admin, patience, client: None, is_typed: false, avoids_hello: false, onlooker: None }
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
            self.is_typed = false;
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
        tables.extend_from_slice(more);
        let mut answers = client.show_all(&tables)?.into_iter();
        let mut next = || answers.next().unwrap_or_else(|| Ok(Vec::new()));
        Ok(Sample {
            version: first(next()?),
            upstream: first(next()?),
            troubles: next()?,
            pools: next()?,
            leases: next()?,
            leaks: next()?,
            processes: next()?,
            commands: next()?,
            settings: settings(&next()?),
            stats: stats(&next()?),
            latency: next()?,
            more: answers.collect::<Result<_, _>>()?,
            onlooker: self.onlooker.clone(),
        })
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
        "TROUBLES".to_owned(),
        "POOLS".to_owned(),
        format!("LEASES SORT held_ms LIMIT {LEASES_MAX}"),
        format!("LEAKS WHERE state now SORT since_ms LIMIT {LEAKS_MAX}"),
        format!("PROCESSES SORT requests LIMIT {PROCESSES_MAX}"),
        "COMMANDS".to_owned(),
        "CONFIG".to_owned(),
        "STATS".to_owned(),
        "LATENCY".to_owned(),
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
    use crate::top::wrong::tests::row as trouble_row;

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
            processes: Vec::new(),
            commands: Vec::new(),
            troubles: Vec::new(),
            settings: [setting("leases_transaction_max", "1"), setting("leases_session_max", "32")].into(),
            stats: HashMap::new(),
            latency: Vec::new(),
            more: Vec::new(),
            onlooker: None,
        }
    }

    /// The same as it is seen by whoever is left out.
    #[cfg(feature = "top")]
    pub(crate) fn seen_by(onlooker: Onlooker, sample: Sample) -> Sample {
        Sample { onlooker: Some(onlooker), ..sample }
    }

    /// The same after so many requests.
    #[cfg(feature = "top")]
    pub(crate) fn after_requests(count: u64, sample: Sample) -> Sample {
        Sample { stats: [("requests".to_owned(), count)].into(), ..sample }
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
        let row = |part: &str, text: &str| trouble_row("1", "critical", "4200", part, text);
        sample.troubles = vec![
            row("what", "2 children wait for a connection for a transaction (WATCH, MULTI)."),
            row("who", "held by pid 44 (worker, web.service) child 12 for 9 s, last command watch"),
            row("hint", "The only one is in use (leases_transaction_max = 1)."),
        ];
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
    fn what_is_wrong_is_what_the_broker_says() {
        let sample = sample_with_waits(5);
        let findings = sample.findings();
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].severity, Severity::Critical);
        assert!(findings[0].who.starts_with("held by pid 44"), "{findings:?}");
        assert_eq!(sample.waits(), (2, 4_200));
    }

    #[test]
    fn speeds_are_of_two_samples_and_a_new_broker_begins_anew() {
        let (mut earlier, mut later) = (sample(1_000), sample(3_000));
        let process = |bytes: &str| TableRow::of(&[("bytes_in", bytes), ("children", "2")]);
        // Not those that the commands add up to: some are no command's.
        later.commands = vec![TableRow::of(&[("calls", "1000")])];
        earlier.stats = stats_of(&[("requests", "10")]);
        later.stats = stats_of(&[("requests", "35"), ("children", "9")]);
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
    fn who_looks_is_left_out_of_the_totals() {
        let mut sample = sample(1_000);
        let process = |pid, process, children| {
            TableRow::of(&[("pid", pid), ("process", process), ("children", children), ("bytes_in", "10")])
        };
        sample.processes = vec![process("7", "worker", "2"), process("8", "broker", "1")];
        assert_eq!((sample.totals().children, sample.totals().processes), (3, 2));
        sample.onlooker = Some(Onlooker { pid: 8, process: "broker".to_owned() });
        let totals = sample.totals();
        assert_eq!((totals.children, totals.processes, totals.bytes_in), (2, 1, 10));
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
        sample.latency.clone_from(&rows);
        assert_eq!(sample.latency_now(), Some((60, 95)));
        sample.latency = vec![rows[0].clone(), row("write", "1s", "71", "80")];
        assert_eq!(sample.latency_now(), Some((71, 80)));
        let none = [("family", "read"), ("window", "10s"), ("count", "0"), ("p99", "0"), ("max", "0")];
        sample.latency = vec![TableRow::of(&none)];
        assert_eq!(sample.latency_now(), None, "nothing was answered");
    }
}
