//! A survey of the broker for who watches it: the rows of the console's tables that matter most, and the figures by which it
//! is decided what is wrong. Made in steps, each of which looks at few things, so that thousands of processes and children
//! keep nobody waiting. Owns what it has found; changes nothing but the marks by which rates are known.

use crate::base::limits;
use crate::config::value::AdminListen;
use crate::config::{ListenUrl, Settings};
use crate::core::broker::Broker;
use crate::core::console::cell::Cell;
use crate::core::console::showing::RowKey;
use crate::core::console::tables::{COMMANDS, LEAKS, LEASES, PROCESSES, ShowTable, UPSTREAM};
use crate::core::host::usage::Usage;
use crate::core::keys::{LaneKey, LeaseKind, ProcessKey};
use crate::core::status::figures::{
    Fullness, HolderFigures, KindFigures, LeakFigures, StallFigures, StatusFigures,
};
use crate::core::status::greatest::Greatest;
use crate::core::status::wrong::{StatusTrouble, wrong_now};
use std::cmp::Reverse;
use std::collections::VecDeque;

/// The cells of a row by their names.
pub(crate) type SurveyRow = Vec<(&'static str, Cell)>;

/// By what processes are weighed: requests a second of late, whether they have children now, requests so far.
type ProcessWeight = (u64, bool, u64);

/// Where a row that is still to be made belongs.
#[derive(Debug, Clone, Copy)]
enum WantedRow {
    Process(ProcessKey, Option<Usage>),
    Lease(LaneKey),
    /// It is named as one of those who hold the leases of this kind.
    Holder(LeaseKind, LaneKey),
    Leak(u64),
    Command(u64),
}

/// What was found. Each table has `STATUS_ROWS` rows at most.
#[derive(Debug)]
pub(crate) struct Survey {
    /// The processes with most requests of those looked at; none once all were.
    greatest: Option<Greatest<ProcessWeight, (ProcessKey, Option<Usage>)>>,
    /// Where in their table the look goes on.
    next: usize,
    wanted: VecDeque<WantedRow>,
    /// How many processes have children now. One whose last child has gone is remembered for a while, and not counted.
    pub(crate) processes_len: usize,
    /// The processes with most requests a second.
    pub(crate) processes: Vec<SurveyRow>,
    /// The leases that are held the longest.
    pub(crate) leases: Vec<SurveyRow>,
    /// The suspected leaks of now, then those of late.
    pub(crate) leaks: Vec<SurveyRow>,
    /// The commands that were called most.
    pub(crate) commands: Vec<SurveyRow>,
    holders: Vec<(LeaseKind, HolderFigures)>,
}

impl Survey {
    pub(crate) fn new() -> Survey {
        Survey {
            greatest: Some(Greatest::new(limits::STATUS_ROWS)),
            next: 0,
            wanted: VecDeque::new(),
            processes_len: 0,
            processes: Vec::new(),
            leases: Vec::new(),
            leaks: Vec::new(),
            commands: Vec::new(),
            holders: Vec::new(),
        }
    }

    /// Only that by which it is decided what is wrong, in one step: who holds leases, and suspected leaks.
    pub(crate) fn of_troubles(broker: &Broker) -> Survey {
        let mut survey = Survey { greatest: None, ..Survey::new() };
        survey.want_leases(broker);
        survey.wanted.retain(|row| matches!(row, WantedRow::Holder(..)));
        survey.want_leaks(broker, limits::STATUS_NAMED);
        while let Some(next) = survey.wanted.pop_front() {
            survey.make_row(broker, next);
        }
        survey
    }

    /// One step. Whether it is done.
    pub(crate) fn go_on(&mut self, broker: &mut Broker) -> bool {
        if self.greatest.is_some() {
            self.look_at_processes(broker);
            return false;
        }
        for _ in 0..limits::STATUS_ROWS_STEP {
            let Some(next) = self.wanted.pop_front() else { return true };
            self.make_row(broker, next);
        }
        self.wanted.is_empty()
    }

    fn look_at_processes(&mut self, broker: &mut Broker) {
        let now = broker.shared.env.now;
        for _ in 0..limits::STATUS_LOOKS {
            let Some((next, key)) = broker.shared.processes.from(self.next) else {
                return self.want_rows(broker);
            };
            self.next = next;
            let Some((done, rate)) = broker.shared.processes.look_at_usage(key, now) else { continue };
            let children = broker.shared.processes.get(key).map_or(0, |process| process.children());
            self.processes_len += usize::from(children > 0);
            let weight = (rate.map_or(0, |rate| rate.requests), children > 0, done.requests);
            if let Some(greatest) = &mut self.greatest {
                greatest.offer(weight, (key, rate));
            }
        }
    }

    /// All processes were looked at: decides which rows there will be.
    fn want_rows(&mut self, broker: &Broker) {
        let processes = self.greatest.take().map(Greatest::into_sorted).unwrap_or_default();
        self.wanted.extend(processes.into_iter().map(|(key, rate)| WantedRow::Process(key, rate)));
        self.want_leases(broker);
        self.want_leaks(broker, limits::STATUS_ROWS);
        let mut called = Greatest::new(limits::STATUS_ROWS);
        for id in broker.shared.commands.called() {
            called.offer(broker.shared.commands.calls(id), u64::from(id));
        }
        self.wanted.extend(called.into_sorted().into_iter().map(WantedRow::Command));
    }

    /// Those that are held the longest, of all and of each kind.
    fn want_leases(&mut self, broker: &Broker) {
        let mut longest = Greatest::new(limits::STATUS_ROWS);
        let mut of_kind = LeaseKind::ALL.map(|kind| (kind, Greatest::new(limits::STATUS_NAMED)));
        for (key, lane) in broker.shared.connections.lanes() {
            let Some(lease) = lane.lease() else { continue };
            longest.offer(Reverse(lease.since()), key);
            let own = of_kind.iter_mut().find(|(kind, _)| *kind == lease.kind() && !lease.is_over());
            if let Some((_, greatest)) = own {
                greatest.offer(Reverse(lease.since()), key);
            }
        }
        self.wanted.extend(longest.into_sorted().into_iter().map(WantedRow::Lease));
        for (kind, greatest) in of_kind {
            let keys = greatest.into_sorted().into_iter();
            self.wanted.extend(keys.map(|key| WantedRow::Holder(kind, key)));
        }
    }

    fn want_leaks(&mut self, broker: &Broker, most: usize) {
        let leaks = broker.shared.leaks.numbers();
        self.wanted.extend(leaks.into_iter().take(most).map(WantedRow::Leak));
    }

    fn make_row(&mut self, broker: &Broker, next: WantedRow) {
        match next {
            WantedRow::Process(key, rate) => {
                let Some(mut row) = row_of(&PROCESSES, broker, RowKey::Process(key, 0)) else { return };
                row.push(("requests_per_s", rate.map(|rate| rate.requests).into()));
                row.push(("bytes_in_per_s", rate.map(|rate| rate.bytes_in).into()));
                row.push(("bytes_out_per_s", rate.map(|rate| rate.bytes_out).into()));
                self.processes.push(row);
            }
            WantedRow::Lease(key) => self.leases.extend(row_of(&LEASES, broker, RowKey::Lane(key))),
            WantedRow::Holder(kind, key) => {
                let row = row_of(&LEASES, broker, RowKey::Lane(key));
                self.holders.extend(row.map(|row| (kind, holder_of(&row))));
            }
            WantedRow::Leak(number) => self.leaks.extend(row_of(&LEAKS, broker, RowKey::Number(number))),
            WantedRow::Command(id) => self.commands.extend(row_of(&COMMANDS, broker, RowKey::Number(id))),
        }
    }

    /// How the upstream is reached, as in the console.
    pub(crate) fn upstream(broker: &Broker) -> SurveyRow {
        row_of(&UPSTREAM, broker, RowKey::Number(0)).unwrap_or_default()
    }

    /// The leases of a kind, with who was found to hold them.
    pub(crate) fn kind_figures(&self, broker: &Broker, kind: LeaseKind) -> KindFigures {
        let max = kind.cap(&broker.shared.env.settings) as u64;
        let holders = self.holders.iter().filter(|(of, _)| *of == kind);
        KindFigures {
            kind,
            leases: Fullness { used: broker.leases_lent_for(kind) as u64, max },
            waiting: broker.leases_waiting_for(kind) as u64,
            longest_ms: broker.longest_lease_wait(kind),
            holders: holders.map(|(_, holder)| holder.clone()).collect(),
        }
    }

    /// What is wrong now, the worst first. Asks the upstream whether it serves.
    pub(crate) fn troubles(&self, broker: &mut Broker) -> Vec<StatusTrouble> {
        let (_, not_ready) = broker.said_lately();
        let (not_ready_ms, minute) = (broker.not_ready_ms(), broker.last_minute());
        wrong_now(&StatusFigures { not_ready, not_ready_ms, minute, ..self.figures(broker) })
    }

    /// All by which it is decided what is wrong, but for what the upstream answers and what has happened of late.
    pub(crate) fn figures(&self, broker: &Broker) -> StatusFigures {
        let (env, upstream) = (&broker.shared.env, Survey::upstream(broker));
        let fullness = |used: usize, max: usize| Fullness { used: used as u64, max: max as u64 };
        let is_now = |row: &&SurveyRow| text(row, "state") == "now";
        let leaks = self.leaks.iter().filter(is_now).take(limits::STATUS_NAMED);
        StatusFigures {
            address: text(&upstream, "address"),
            is_draining: broker.is_draining(),
            paused: broker.paused(),
            is_up: broker.upstream_is_up(),
            is_busy: broker.shared.work.is_busy(),
            down_ms: number(&upstream, "down_ms"),
            refusal: text(&upstream, "refusal"),
            stalled: stalled(broker),
            refused: refused(broker),
            admin_socket: match &env.settings.admin_listen {
                AdminListen::At(ListenUrl::Unix { path, .. }) => Some(path.clone()),
                _ => None,
            },
            settings: NAMED_SETTINGS.iter().map(|(name, unit)| named(&env.settings, name, unit)).collect(),
            kinds: LeaseKind::ALL.map(|kind| self.kind_figures(broker, kind)).into(),
            connections: fullness(broker.upstream_connections(), env.settings.upstream_connections_max),
            children: fullness(broker.children_len(), env.settings.children_max),
            memory: fullness(broker.memory(), env.settings.memory_max),
            leaks_now: broker.leaks_in_all().0,
            leaks: leaks.map(leak_of).collect(),
            ..StatusFigures::default()
        }
    }
}

/// The shared connection that has been silent for longest, if that is notable.
fn stalled(broker: &Broker) -> Option<StallFigures> {
    let (key, lane) = broker.shared.connections.most_silent()?;
    let silent_ms = broker.shared.env.now.saturating_sub(lane.silent_since());
    let is_notable = silent_ms >= limits::STALL_TOLD;
    is_notable.then(|| StallFigures { lane: key.index() as u64, silent_ms, requests: lane.owed() as u64 })
}

/// While the upstream is away all users have the same reason, which is told once. What was refused before it was there again is
/// over; what was a while ago may be, since nobody may have needed a connection since.
fn refused(broker: &Broker) -> Vec<(String, String)> {
    let shared = &broker.shared;
    let control = shared.connections.find(shared.control.lane());
    let Some(control) = control.filter(|_| broker.upstream_is_up()) else { return Vec::new() };
    let mut found: Vec<(String, String)> = Vec::new();
    for (_, pool) in shared.connections.pools().filter(|(_, pool)| !pool.is_free()) {
        let lately = shared.env.now.saturating_sub(limits::REFUSAL_TOLD);
        let Some(why) = pool.refusal_since(lately.max(control.record().connected_at)) else { continue };
        let user = shared.users.name(pool.key().user, &shared.env.upstream);
        let user = Cell::of_bytes(user).as_text();
        if !found.iter().any(|(known, _)| *known == user) {
            found.push((user, why.to_owned()));
        }
        if found.len() == limits::STATUS_NAMED {
            break;
        }
    }
    found
}

/// The settings that are told with what is wrong, and the units of their values where the text has none.
const NAMED_SETTINGS: [(&str, &str); 12] = [
    ("queue_timeout", " ms"),
    ("request_timeout", " ms"),
    ("lease_wait_timeout", " ms"),
    ("drain_timeout", " ms"),
    ("children_max", ""),
    ("children_per_process_max", ""),
    ("children_per_uid_max", ""),
    ("memory_max", ""),
    ("upstream_connections_max", ""),
    ("leases_transaction_max", ""),
    ("leases_session_max", ""),
    ("leases_blocking_max", ""),
];

/// A setting by its name, and both in words.
fn named(settings: &Settings, name: &'static str, unit: &str) -> (&'static str, String) {
    let text = settings.get_text(name).unwrap_or_default();
    (name, format!("{name} = {text}{unit}"))
}

fn row_of(table: &'static ShowTable, broker: &Broker, key: RowKey) -> Option<SurveyRow> {
    let cells = table.row(broker, key)?;
    Some(table.columns.iter().map(|column| column.name).zip(cells).collect())
}

/// The text of a cell; empty where there is nothing.
fn text(row: &SurveyRow, name: &str) -> String {
    let cell = row.iter().find(|(column, _)| *column == name);
    cell.filter(|(_, cell)| *cell != Cell::Nothing).map_or(String::new(), |(_, cell)| cell.as_text())
}

fn number(row: &SurveyRow, name: &str) -> Option<u64> {
    let cell = row.iter().find(|(column, _)| *column == name)?;
    if let Cell::Int(number) = cell.1 { Some(number) } else { None }
}

fn holder_of(row: &SurveyRow) -> HolderFigures {
    HolderFigures {
        pid: number(row, "pid"),
        process: text(row, "process"),
        unit: text(row, "unit"),
        child: number(row, "child"),
        name: text(row, "name"),
        held_ms: number(row, "held_ms").unwrap_or_default(),
        command: text(row, "command"),
        idle_ms: number(row, "idle_ms"),
    }
}

fn leak_of(row: &SurveyRow) -> LeakFigures {
    let named = [("pid ", "pid"), ("uid ", "uid"), ("", "process"), ("", "unit"), ("", "called")];
    let parts = named.iter().map(|(title, name)| (title, text(row, name)));
    let parts = parts.filter(|(_, text)| !text.is_empty()).map(|(title, text)| format!("{title}{text}"));
    LeakFigures {
        kind: text(row, "kind"),
        who: parts.collect::<Vec<_>>().join(", "),
        child: number(row, "child"),
        since_ms: number(row, "since_ms").unwrap_or_default(),
        what: text(row, "what"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::process::UnixCredentials;

    fn whole(broker: &mut Broker) -> (Survey, usize) {
        let (mut survey, mut steps) = (Survey::new(), 1);
        while !survey.go_on(broker) {
            steps += 1;
        }
        (survey, steps)
    }

    fn add_processes(broker: &mut Broker, count: u64) {
        for pid in 1..=count {
            let who = UnixCredentials { pid: pid as i32 + 100_000, uid: 33, gid: 33 };
            let now = broker.shared.env.now;
            let key = broker.shared.processes.find(who, now);
            broker.shared.processes.join(key, who.uid);
            broker.shared.processes.credit(key, &Usage { requests: pid, ..Usage::default() }, 0);
        }
    }

    #[test]
    fn many_processes_are_looked_at_in_steps_and_the_busiest_are_found() {
        let mut broker = crate::core::tests::broker_for_tables();
        add_processes(&mut broker, 3_000);
        let (survey, steps) = whole(&mut broker);
        let (others, _) = whole(&mut crate::core::tests::broker_for_tables());
        assert_eq!(survey.processes_len, 3_000 + others.processes_len);
        assert!(steps > 3_000 / limits::STATUS_LOOKS, "{steps} steps");
        let requests: Vec<_> = survey.processes.iter().map(|row| number(row, "requests")).collect();
        assert_eq!(requests, [Some(3_000), Some(2_999), Some(2_998)]);
        assert!(
            survey.processes.iter().all(|row| number(row, "requests_per_s").is_none()),
            "nobody has looked"
        );
        // Two seconds later the one at work is the first.
        let now = broker.shared.env.now + 2_000;
        broker.advance(now);
        let who = UnixCredentials { pid: 100_001, uid: 33, gid: 33 };
        let key = broker.shared.processes.find(who, now);
        broker.shared.processes.credit(key, &Usage { requests: 500, bytes_in: 4_000, bytes_out: 2 }, 0);
        let (survey, _) = whole(&mut broker);
        let first = &survey.processes[0];
        let rates =
            ["pid", "requests_per_s", "bytes_in_per_s", "bytes_out_per_s"].map(|name| number(first, name));
        assert_eq!(rates, [Some(100_001), Some(250), Some(2_000), Some(1)]);
        broker.shared.processes.leave(key, who.uid, &Usage::default(), now);
        let (survey, _) = whole(&mut broker);
        assert_eq!(survey.processes_len, 2_999 + others.processes_len, "it is remembered, and not counted");
    }

    #[test]
    fn leases_and_their_holders_are_found() {
        let mut broker = crate::core::tests::broker_for_tables();
        let now = broker.shared.env.now + 70_000;
        broker.shared.env.now = now;
        let (survey, _) = whole(&mut broker);
        let kinds: Vec<_> = survey.leases.iter().map(|row| text(row, "kind")).collect();
        assert!(
            kinds.contains(&"transaction".to_owned()) && kinds.contains(&"blocking".to_owned()),
            "{kinds:?}"
        );
        let figures = survey.figures(&broker);
        let [transaction, ..] = &figures.kinds[..] else { panic!("{figures:?}") };
        assert_eq!((transaction.kind, transaction.leases.used), (LeaseKind::Transaction, 1));
        assert_eq!(transaction.holders.len(), 1, "{transaction:?}");
        assert!(transaction.holders[0].held_ms >= 60_000 && transaction.holders[0].command == "get");
        let commands: Vec<_> = survey.commands.iter().map(|row| text(row, "command")).collect();
        assert!(commands.contains(&"watch".to_owned()), "{commands:?}");
        assert!(figures.is_up && figures.children.used == 3);
        assert!(figures.settings.contains(&("queue_timeout", "queue_timeout = 1000 ms".to_owned())));
        let has_value = |text: &str| {
            text.split(' ').nth(2).is_some_and(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        };
        assert!(figures.settings.iter().all(|(_, text)| has_value(text)), "{:?}", figures.settings);
    }

    #[test]
    fn every_table_is_bounded_whatever_there_is() {
        use crate::core::host::leaks::{LeakKind, LeakSubject, Suspect};
        let mut broker = crate::core::tests::broker_for_tables();
        add_processes(&mut broker, 50);
        for uid in 0..2 * limits::STATUS_ROWS as u32 {
            let (who, what) = (Suspect { uid: Some(uid), ..Suspect::default() }, "full".to_owned());
            broker.shared.leaks.begin(LeakSubject::Uid(uid), LeakKind::UserAtCap, 0, who, what);
        }
        let (survey, _) = whole(&mut broker);
        for rows in [&survey.processes, &survey.leases, &survey.leaks, &survey.commands] {
            assert!((1..=limits::STATUS_ROWS).contains(&rows.len()), "{rows:?}");
        }
        let figures = survey.figures(&broker);
        assert_eq!(figures.leaks_now, 2 * limits::STATUS_ROWS as u64);
        assert_eq!(figures.leaks.len(), limits::STATUS_NAMED);
        assert_eq!(figures.leaks[0].who, "uid 0");
    }
}
