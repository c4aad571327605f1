//! What the tables of `broker top` show: which questions each one asks, how fast each row is, in what order rows stand and
//! which are left out. Pure: samples in, lines out. Asks nobody and draws nothing.

use super::client::{Figure, TableRow};
use super::sample::Sample;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet, VecDeque};

/// Samples that a speed may span: processes are accounted once a second, which beats with the interval.
const WINDOW: usize = 3;
/// Rows of children that are asked for, and while they are searched.
const CHILDREN_MAX: usize = 200;
const CHILDREN_SEARCHED: usize = 2_000;
/// Rows of other tables.
const ROWS_MAX: usize = 500;

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Sheet {
    Processes,
    Children,
    Leases,
    Leaks,
    Lanes,
    Pools,
    Commands,
}

/// By what rows are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ranking {
    Requests,
    Bytes,
    Idle,
    Leases,
    Waits,
}

impl Ranking {
    pub(crate) const ALL: [Ranking; 5] =
        [Ranking::Requests, Ranking::Bytes, Ranking::Idle, Ranking::Leases, Ranking::Waits];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Ranking::Requests => "requests/s",
            Ranking::Bytes => "bytes/s",
            Ranking::Idle => "idle",
            Ranking::Leases => "leases",
            Ranking::Waits => "waits",
        }
    }

    /// Its key.
    pub(crate) fn letter(self) -> char {
        match self {
            Ranking::Requests => 'R',
            Ranking::Bytes => 'B',
            Ranking::Idle => 'I',
            Ranking::Leases => 'L',
            Ranking::Waits => 'W',
        }
    }
}

impl Sheet {
    pub(crate) const ALL: [Sheet; 7] = [
        Sheet::Processes,
        Sheet::Children,
        Sheet::Leases,
        Sheet::Leaks,
        Sheet::Lanes,
        Sheet::Pools,
        Sheet::Commands,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Sheet::Processes => "processes",
            Sheet::Children => "children",
            Sheet::Leases => "leases",
            Sheet::Leaks => "leaks",
            Sheet::Lanes => "lanes",
            Sheet::Pools => "pools",
            Sheet::Commands => "commands",
        }
    }

    /// The orders that it has; the first one is its own.
    pub(crate) fn rankings(self) -> &'static [Ranking] {
        match self {
            Sheet::Processes => &[Ranking::Requests, Ranking::Bytes, Ranking::Leases],
            Sheet::Children => &Ranking::ALL,
            Sheet::Leases => &[Ranking::Waits, Ranking::Idle],
            Sheet::Leaks | Sheet::Lanes => &[Ranking::Waits],
            Sheet::Pools => &[Ranking::Leases, Ranking::Waits],
            Sheet::Commands => &[Ranking::Requests],
        }
    }

    /// The column that tells its rows apart.
    fn key(self) -> &'static str {
        match self {
            Sheet::Processes => "pid",
            Sheet::Children => "id",
            Sheet::Leases | Sheet::Lanes => "lane",
            Sheet::Leaks => "number",
            Sheet::Pools => "pool",
            Sheet::Commands => "command",
        }
    }
}

/// What is to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) sheet: Sheet,
    pub(crate) ranking: Ranking,
    pub(crate) is_reversed: bool,
    pub(crate) is_searched: bool,
    /// One process in detail, by its pid: then the table is that of its children.
    pub(crate) detail: Option<u64>,
}

impl Wanted {
    /// The table that rows are of.
    pub(crate) fn table(&self) -> Sheet {
        if self.detail.is_some() { Sheet::Children } else { self.sheet }
    }

    pub(crate) fn ranking(&self) -> Ranking {
        let rankings = self.table().rankings();
        if rankings.contains(&self.ranking) { self.ranking } else { rankings[0] }
    }

    fn children_max(&self) -> usize {
        if self.is_searched { CHILDREN_SEARCHED } else { CHILDREN_MAX }
    }

    /// Whether what was asked for with `self` has the rows that `other` wants.
    fn has_rows_of(&self, other: &Wanted) -> bool {
        self.sheet == other.sheet && self.detail == other.detail
    }

    /// The tables to ask for beside those that every sample has. Few rows, however many children there are.
    pub(crate) fn questions(&self) -> Vec<String> {
        let limit = self.children_max();
        if let Some(pid) = self.detail {
            return vec![
                format!("CHILDREN WHERE pid {pid} SORT requests LIMIT {limit}"),
                format!("LEAKS WHERE pid {pid} LIMIT {CHILDREN_MAX}"),
            ];
        }
        let by = |column: &str| format!("CHILDREN SORT {column} LIMIT {limit}");
        match (self.sheet, self.ranking()) {
            // Whoever has a speed now has sent something lately.
            (Sheet::Children, Ranking::Requests) => vec![by("requests"), by("idle_ms REVERSE")],
            (Sheet::Children, Ranking::Bytes) => vec![by("bytes_out"), by("idle_ms REVERSE")],
            (Sheet::Children, Ranking::Idle) if self.is_reversed => vec![by("idle_ms REVERSE")],
            (Sheet::Children, Ranking::Idle) => vec![by("idle_ms")],
            (Sheet::Children, Ranking::Leases) => vec![by("lease")],
            (Sheet::Children, Ranking::Waits) => vec![by("waits_ms")],
            (Sheet::Leaks, _) => vec![format!("LEAKS LIMIT {ROWS_MAX}")],
            (Sheet::Lanes, _) => vec![format!("LANES SORT oldest_ms LIMIT {ROWS_MAX}")],
            (Sheet::Processes | Sheet::Leases | Sheet::Pools | Sheet::Commands, _) => Vec::new(),
        }
    }
}

/// A row and how fast it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SheetLine {
    pub(crate) key: String,
    pub(crate) row: TableRow,
    /// Per second; none where there is only one sample of it.
    pub(crate) requests: Option<f64>,
    pub(crate) bytes: Option<f64>,
}

/// Requests and bytes of a row so far.
type RowCounts = (u64, u64);

/// Counts at the time of one sample.
#[derive(Debug)]
struct CountsAt {
    sample: Sample,
    rows: HashMap<(Sheet, String), RowCounts>,
}

/// The last samples.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// The youngest last.
    samples: VecDeque<CountsAt>,
    asked: Option<Wanted>,
}

impl Model {
    /// Takes a sample, unless it was asked for before a key that has been answered since: the next one is on its way, and
    /// rows that are on the screen stay there until then.
    pub(crate) fn take_for(&mut self, wanted: &Wanted, sample: Sample, asked: Wanted) {
        if asked.has_rows_of(wanted) || !self.has(wanted) {
            self.take(sample, asked);
        }
    }

    /// Takes a sample, and what it was asked with.
    pub(crate) fn take(&mut self, sample: Sample, asked: Wanted) {
        let is_same_broker = self.latest().is_none_or(|latest| sample.seconds_since(latest).is_some());
        if !is_same_broker {
            self.samples.clear();
        }
        if self.samples.len() > WINDOW {
            self.samples.pop_front();
        }
        let rows = counts(&sample, &asked);
        self.samples.push_back(CountsAt { sample, rows });
        self.asked = Some(asked);
    }

    pub(crate) fn latest(&self) -> Option<&Sample> {
        self.samples.back().map(|counts| &counts.sample)
    }

    /// The sample that speeds of all are computed from, with the latest.
    pub(crate) fn earliest(&self) -> Option<&Sample> {
        self.samples.front().map(|counts| &counts.sample).filter(|_| self.samples.len() > 1)
    }

    /// Whether what is wanted has been asked for.
    pub(crate) fn has(&self, wanted: &Wanted) -> bool {
        self.asked.is_some_and(|asked| asked.has_rows_of(wanted))
    }

    /// The rows of what is wanted that have `search` in a text, in their order.
    pub(crate) fn lines(&self, wanted: &Wanted, search: &str) -> Vec<SheetLine> {
        let Some(sample) = self.latest().filter(|_| self.has(wanted)) else { return Vec::new() };
        let search = search.to_lowercase();
        let rows = rows_of(sample, wanted).into_iter().filter(|row| is_found(row, &search));
        let mut lines: Vec<SheetLine> = rows.map(|row| self.line(wanted.table(), row)).collect();
        let ranking = wanted.ranking();
        lines.sort_by(|a, b| order(a, b, ranking, wanted.is_reversed));
        lines
    }

    /// How many children were asked for, if there are more.
    pub(crate) fn bound(&self, wanted: &Wanted) -> Option<usize> {
        let sample = self.latest().filter(|_| self.has(wanted) && wanted.table() == Sheet::Children)?;
        let bound = self.asked?.children_max();
        sample.more.iter().any(|rows| rows.len() >= bound).then_some(bound)
    }

    /// Leaks of the process that is shown in detail.
    pub(crate) fn leaks_of_detail(&self, wanted: &Wanted) -> &[TableRow] {
        let latest = self.latest().filter(|_| wanted.detail.is_some() && self.has(wanted));
        latest.and_then(|sample| sample.more.get(1)).map_or(&[], Vec::as_slice)
    }

    /// A process with its speed.
    pub(crate) fn process(&self, pid: u64) -> Option<SheetLine> {
        let rows = &self.latest()?.processes;
        let row = rows.iter().find(|row| row.number("pid") == Some(pid))?;
        Some(self.line(Sheet::Processes, row.clone()))
    }

    fn line(&self, table: Sheet, row: TableRow) -> SheetLine {
        let key = row.text(table.key());
        let speed = self.speed(&(table, key.clone()));
        let (requests, bytes) = speed.map_or((None, None), |(requests, bytes)| (Some(requests), Some(bytes)));
        SheetLine { key, row, requests, bytes }
    }

    /// Between the latest sample and the earliest one that has the row.
    fn speed(&self, key: &(Sheet, String)) -> Option<(f64, f64)> {
        let latest = self.samples.back()?;
        let now = latest.rows.get(key)?;
        let earlier = self.samples.iter().take(self.samples.len() - 1);
        let (then, counts) = earlier.filter_map(|then| Some((then, then.rows.get(key)?))).next()?;
        let seconds = latest.sample.seconds_since(&then.sample)?;
        // A count that went back is another one's: its pid or number was used again.
        let per_second = |now: u64, then: u64| Some(now.checked_sub(then)? as f64 / seconds);
        Some((per_second(now.0, counts.0)?, per_second(now.1, counts.1)?))
    }
}

/// The rows of what is wanted, each once.
fn rows_of(sample: &Sample, wanted: &Wanted) -> Vec<TableRow> {
    let further = |at: usize| sample.more.get(at).cloned().unwrap_or_default();
    match wanted.table() {
        Sheet::Processes => sample.others(&sample.processes).cloned().collect(),
        Sheet::Leases => sample.leases.clone(),
        Sheet::Pools => sample.pools.clone(),
        Sheet::Commands => sample.commands.clone(),
        Sheet::Leaks | Sheet::Lanes => further(0),
        Sheet::Children if wanted.detail.is_some() => sample.others(&further(0)).cloned().collect(),
        Sheet::Children => {
            let mut seen = HashSet::new();
            let all = sample.more.iter().flat_map(|rows| sample.others(rows));
            all.filter(|row| seen.insert(row.text("id"))).cloned().collect()
        }
    }
}

/// What each row has done so far: of the tables that every sample has, and of the children that were asked for.
fn counts(sample: &Sample, asked: &Wanted) -> HashMap<(Sheet, String), RowCounts> {
    let bytes = |row: &TableRow| row.count("bytes_in") + row.count("bytes_out");
    let mut counts = HashMap::new();
    for row in &sample.processes {
        counts.insert((Sheet::Processes, row.text("pid")), (row.count("requests"), bytes(row)));
    }
    for row in &sample.commands {
        counts.insert((Sheet::Commands, row.text("command")), (row.count("calls"), 0));
    }
    if asked.table() == Sheet::Children {
        for row in rows_of(sample, asked) {
            counts.insert((Sheet::Children, row.text("id")), (row.count("requests"), bytes(&row)));
        }
    }
    counts
}

/// `search` is in lower case.
fn is_found(row: &TableRow, search: &str) -> bool {
    let is_number =
        |column| matches!(row.figure(column), Figure::Number(number) if number.to_string() == search);
    search.is_empty()
        || row.words().any(|words| words.to_lowercase().contains(search))
        || ["pid", "id", "child"].into_iter().any(is_number)
}

/// The largest first, unless it is reversed; what is not known last.
fn order(a: &SheetLine, b: &SheetLine, ranking: Ranking, is_reversed: bool) -> Ordering {
    let by_rank = match (rank(a, ranking), rank(b, ranking)) {
        (Some(a), Some(b)) if is_reversed => a.total_cmp(&b),
        (Some(a), Some(b)) => b.total_cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    };
    let total = |line: &SheetLine| line.row.count("requests").max(line.row.count("calls"));
    by_rank.then_with(|| total(b).cmp(&total(a)))
}

fn rank(line: &SheetLine, ranking: Ranking) -> Option<f64> {
    let first = |columns: &[&str]| columns.iter().find_map(|column| line.row.number(column));
    let number = match ranking {
        Ranking::Requests => return line.requests,
        Ranking::Bytes => return line.bytes,
        Ranking::Idle => first(&["idle_ms"]),
        Ranking::Waits => first(&["waits_ms", "maxwait_ms", "held_ms", "since_ms", "oldest_ms"]),
        Ranking::Leases => first(&["leases"]).or_else(|| lent(&line.row)),
    };
    number.map(|number| number as f64)
}

/// Leases of a pool, or whether a child has one.
fn lent(row: &TableRow) -> Option<u64> {
    let kinds = super::sample::LEASE_KINDS.map(|kind| row.number(kind));
    if kinds.iter().any(Option::is_some) {
        return Some(kinds.into_iter().flatten().sum());
    }
    (!row.text("lease").is_empty()).then_some(1)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::sample::Onlooker;
    use super::super::sample::tests::{sample, seen_by};
    use super::*;

    pub(crate) fn wanted(sheet: Sheet) -> Wanted {
        let ranking = sheet.rankings()[0];
        Wanted { sheet, ranking, is_reversed: false, is_searched: false, detail: None }
    }

    fn process(pid: u64, name: &str, requests: u64) -> TableRow {
        let (pid, requests) = (pid.to_string(), requests.to_string());
        TableRow::of(&[("pid", &pid), ("process", name), ("requests", &requests), ("bytes_in", &requests)])
    }

    fn keys(model: &Model, wanted: &Wanted, search: &str) -> Vec<String> {
        model.lines(wanted, search).into_iter().map(|line| line.key).collect()
    }

    /// Two samples, two seconds apart.
    fn two() -> (Model, Wanted) {
        let (mut model, wanted) = (Model::default(), wanted(Sheet::Processes));
        for (at, [a, b, c]) in [(1_000, [500, 10, 0]), (3_000, [500, 50, 0])] {
            let mut sample = sample(at);
            sample.processes = vec![process(1, "idle", a), process(2, "Worker", b)];
            if at > 1_000 {
                sample.processes.push(process(3, "new", c + 7));
            }
            model.take(sample, wanted);
        }
        (model, wanted)
    }

    #[test]
    fn speeds_come_from_two_samples_and_the_fastest_stands_first() {
        let (model, wanted) = two();
        let lines = model.lines(&wanted, "");
        let speeds: Vec<_> = lines.iter().map(|line| (line.key.as_str(), line.requests)).collect();
        assert_eq!(speeds, [("2", Some(20.0)), ("1", Some(0.0)), ("3", None)]);
        let reversed = Wanted { is_reversed: true, ..wanted };
        assert_eq!(keys(&model, &reversed, ""), ["1", "2", "3"], "what is not known stays last");
        assert_eq!(model.process(2).and_then(|line| line.bytes), Some(20.0));
    }

    #[test]
    fn a_pid_that_is_used_again_and_a_broker_that_begins_anew_have_no_speed() {
        let (mut model, wanted) = two();
        let mut later = sample(4_000);
        later.processes = vec![process(1, "another", 3)];
        model.take(later, wanted);
        assert_eq!(model.lines(&wanted, "")[0].requests, None);
        let mut anew = sample(100);
        anew.processes = vec![process(1, "another", 900)];
        model.take(anew, wanted);
        assert_eq!((model.lines(&wanted, "")[0].requests, model.samples.len()), (None, 1));
    }

    #[test]
    fn speeds_span_a_few_samples_and_no_more() {
        let (mut model, wanted) = two();
        for at in 4..20 {
            let mut sample = sample(at * 1_000);
            sample.processes = vec![process(2, "worker", 50 + if at < 19 { 0 } else { 30 })];
            model.take(sample, wanted);
        }
        assert_eq!(model.samples.len(), WINDOW + 1);
        assert_eq!(model.lines(&wanted, "")[0].requests, Some(10.0));
    }

    #[test]
    fn a_search_looks_into_texts_and_finds_numbers_whole() {
        let (model, wanted) = two();
        assert_eq!(keys(&model, &wanted, "WORK"), ["2"]);
        assert_eq!(keys(&model, &wanted, "e"), ["2", "1", "3"]);
        assert_eq!(keys(&model, &wanted, "3"), ["3"]);
        assert_eq!(keys(&model, &wanted, "50"), [""; 0]);
    }

    #[test]
    fn children_of_two_questions_are_shown_once() {
        let (mut model, wanted) = (Model::default(), wanted(Sheet::Children));
        assert_eq!(
            wanted.questions(),
            ["CHILDREN SORT requests LIMIT 200", "CHILDREN SORT idle_ms REVERSE LIMIT 200"]
        );
        let child = |id: &str, lease: &str| TableRow::of(&[("id", id), ("lease", lease), ("idle_ms", id)]);
        let mut sample = sample(1_000);
        sample.more = vec![vec![child("1", "-"), child("2", "session")], vec![child("2", "session")]];
        model.take(sample, wanted);
        assert_eq!(keys(&model, &wanted, ""), ["1", "2"]);
        let by_lease = Wanted { ranking: Ranking::Leases, ..wanted };
        assert_eq!(keys(&model, &by_lease, ""), ["2", "1"]);
        let by_idle = Wanted { ranking: Ranking::Idle, ..wanted };
        assert_eq!(keys(&model, &by_idle, ""), ["2", "1"]);
        assert_eq!(model.bound(&wanted), None);
        let other = Wanted { sheet: Sheet::Lanes, ..wanted };
        assert!(!model.has(&other) && model.lines(&other, "").is_empty(), "not asked for yet");
    }

    /// Enter, and Esc before the process in detail has come: the rows must not go again.
    #[test]
    fn an_answer_that_comes_too_late_leaves_the_rows_on_the_screen() {
        let (mut model, wanted) = two();
        let detail = Wanted { detail: Some(2), ..wanted };
        model.take_for(&wanted, sample(4_000), detail);
        assert_eq!(keys(&model, &wanted, ""), ["2", "1", "3"]);
        // Somebody who presses keys faster than the broker answers sees how it is all the same.
        model.take_for(&detail, sample(5_000), Wanted { sheet: Sheet::Lanes, ..wanted });
        assert_eq!(model.latest().map(|latest| latest.version.count("uptime_ms")), Some(5_000));
    }

    #[test]
    fn who_looks_is_in_no_table() {
        let onlooker = || Onlooker { pid: 2, process: "broker".to_owned() };
        let (mut model, processes) = (Model::default(), wanted(Sheet::Processes));
        let mut looked = sample(1_000);
        looked.processes = vec![process(1, "worker", 5), process(2, "broker", 9)];
        model.take(seen_by(onlooker(), looked), processes);
        assert_eq!(keys(&model, &processes, ""), ["1"]);
        let children = wanted(Sheet::Children);
        let child = |id: &str, pid: &str| TableRow::of(&[("id", id), ("pid", pid), ("process", "broker")]);
        let mut looked = sample(2_000);
        looked.more = vec![vec![child("10", "1"), child("11", "2")], vec![child("11", "2")]];
        model.take(seen_by(onlooker(), looked), children);
        assert_eq!(keys(&model, &children, ""), ["10"]);
    }

    #[test]
    fn that_there_are_more_children_is_known() {
        let (mut model, wanted) = (Model::default(), wanted(Sheet::Children));
        let mut sample = sample(1_000);
        sample.more = vec![vec![TableRow::default(); CHILDREN_MAX]];
        model.take(sample, wanted);
        assert_eq!(model.bound(&wanted), Some(CHILDREN_MAX));
    }

    /// Each question has a LIMIT: with ten thousand children a look is as short as with ten.
    #[test]
    fn every_question_is_bounded() {
        for sheet in Sheet::ALL {
            for ranking in Ranking::ALL {
                for (is_searched, detail) in [(false, None), (true, None), (false, Some(7))] {
                    let wanted = Wanted { sheet, ranking, is_reversed: true, is_searched, detail };
                    assert!(wanted.questions().iter().all(|words| words.contains(" LIMIT ")), "{wanted:?}");
                    assert!(wanted.table().rankings().contains(&wanted.ranking()));
                }
            }
        }
    }

    #[test]
    fn a_process_in_detail_has_its_children_and_its_leaks() {
        let mut model = Model::default();
        let detail = Wanted { detail: Some(44), ..wanted(Sheet::Processes) };
        assert!(detail.questions()[0].starts_with("CHILDREN WHERE pid 44"));
        let mut sample = sample(1_000);
        sample.more = vec![vec![TableRow::of(&[("id", "5")])], vec![TableRow::of(&[("kind", "idle-child")])]];
        model.take(sample, detail);
        assert_eq!(keys(&model, &detail, ""), ["5"]);
        assert_eq!(model.leaks_of_detail(&detail).len(), 1);
        assert!(model.leaks_of_detail(&wanted(Sheet::Processes)).is_empty());
    }
}
