//! The columns of each table of `broker top`: where a cell comes from, how it is written, and which columns stay where a
//! screen is narrow. Pure.

use super::model::{Sheet, SheetLine};

/// Where a cell comes from, and as what it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CellSource {
    Words(&'static str),
    Count(&'static str),
    Bytes(&'static str),
    Lasting(&'static str),
    RequestsPerSecond,
    BytesPerSecond,
}

/// One column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SheetColumn {
    pub(crate) title: &'static str,
    source: CellSource,
    /// Characters that most cells have.
    width: u16,
    /// The higher, the longer it stays where there is little room.
    rank: u8,
}

const fn column(title: &'static str, source: CellSource, width: u16, rank: u8) -> SheetColumn {
    SheetColumn { title, source, width, rank }
}

use CellSource::{Bytes, BytesPerSecond, Count, Lasting, RequestsPerSecond, Words};

const PROCESSES: &[SheetColumn] = &[
    column("pid", Count("pid"), 7, 9),
    column("program", Words("process"), 15, 8),
    column("req/s", RequestsPerSecond, 7, 7),
    column("bytes/s", BytesPerSecond, 7, 5),
    column("children", Count("children"), 8, 6),
    column("leases", Count("leases"), 6, 4),
    column("uid", Count("uid"), 6, 2),
    column("state", Words("state"), 6, 1),
    column("leak", Words("leak"), 16, 3),
    column("unit", Words("unit"), 16, 3),
];

const CHILDREN: &[SheetColumn] = &[
    column("child", Count("id"), 14, 9),
    column("pid", Count("pid"), 7, 8),
    column("program", Words("process"), 12, 6),
    column("req/s", RequestsPerSecond, 6, 6),
    column("bytes/s", BytesPerSecond, 7, 3),
    column("state", Words("state"), 9, 7),
    column("lease", Words("lease"), 11, 4),
    column("waits for", Words("waits_for"), 9, 6),
    column("wait", Lasting("waits_ms"), 6, 6),
    column("idle", Lasting("idle_ms"), 6, 5),
    column("memory", Bytes("memory_bytes"), 6, 1),
    column("command", Words("command"), 10, 6),
    column("leak", Words("leak"), 16, 2),
    column("name", Words("name"), 10, 2),
];

/// Children of one process, which is named above them.
const DETAIL: &[SheetColumn] = &[
    column("child", Count("id"), 14, 9),
    column("state", Words("state"), 9, 8),
    column("lease", Words("lease"), 11, 5),
    column("waits for", Words("waits_for"), 14, 7),
    column("wait", Lasting("waits_ms"), 6, 6),
    column("idle", Lasting("idle_ms"), 6, 6),
    column("req/s", RequestsPerSecond, 6, 4),
    column("command", Words("command"), 10, 6),
    column("bytes/s", BytesPerSecond, 7, 2),
    column("memory", Bytes("memory_bytes"), 6, 1),
    column("leak", Words("leak"), 16, 3),
    column("name", Words("name"), 10, 2),
];

const LEASES: &[SheetColumn] = &[
    column("lane", Count("lane"), 4, 9),
    column("kind", Words("kind"), 11, 8),
    column("state", Words("state"), 8, 5),
    column("held", Lasting("held_ms"), 6, 8),
    column("idle", Lasting("idle_ms"), 6, 6),
    column("child", Count("child"), 14, 4),
    column("pid", Count("pid"), 7, 7),
    column("program", Words("process"), 12, 6),
    column("waiters", Count("waiters"), 7, 2),
    column("command", Words("command"), 10, 5),
    column("unit", Words("unit"), 16, 3),
];

const LEAKS: &[SheetColumn] = &[
    column("number", Count("number"), 6, 4),
    column("kind", Words("kind"), 19, 9),
    column("state", Words("state"), 6, 7),
    column("since", Lasting("since_ms"), 6, 8),
    column("child", Count("child"), 14, 5),
    column("pid", Count("pid"), 7, 8),
    column("program", Words("process"), 12, 6),
    column("unit", Words("unit"), 14, 2),
    column("when it was found", Words("what"), 20, 3),
];

const LANES: &[SheetColumn] = &[
    column("lane", Count("lane"), 4, 9),
    column("role", Words("role"), 10, 8),
    column("state", Words("state"), 11, 7),
    column("in flight", Count("in_flight"), 9, 6),
    column("oldest", Lasting("oldest_ms"), 6, 6),
    column("held", Count("held"), 5, 3),
    column("age", Lasting("age_ms"), 6, 2),
    column("losses", Count("losses"), 6, 3),
    column("db", Count("db"), 3, 3),
    column("child", Count("child"), 14, 3),
    column("user", Words("user"), 8, 4),
    column("marks", Words("marks"), 10, 2),
];

const POOLS: &[SheetColumn] = &[
    column("pool", Count("pool"), 4, 9),
    column("user", Words("user"), 10, 8),
    column("db", Count("db"), 3, 8),
    column("proto", Count("protocol"), 5, 2),
    column("lanes", Count("lanes"), 5, 3),
    column("ready", Count("ready"), 5, 4),
    column("in flight", Count("in_flight"), 9, 3),
    column("trans", Count("transaction"), 5, 6),
    column("sess", Count("session"), 5, 6),
    column("block", Count("blocking"), 5, 6),
    column("waiting", Count("waiting"), 7, 7),
    column("longest", Lasting("maxwait_ms"), 7, 7),
    column("refusal", Words("refusal"), 10, 5),
];

const COMMANDS: &[SheetColumn] = &[
    column("command", Words("command"), 20, 9),
    column("req/s", RequestsPerSecond, 8, 8),
    column("calls", Count("calls"), 12, 7),
    column("way", Words("way"), 12, 6),
];

/// The first column always stays; the last one takes what room is left.
pub(crate) fn columns_of(sheet: Sheet, is_detail: bool) -> &'static [SheetColumn] {
    match sheet {
        Sheet::Children if is_detail => DETAIL,
        Sheet::Processes => PROCESSES,
        Sheet::Children => CHILDREN,
        Sheet::Leases => LEASES,
        Sheet::Leaks => LEAKS,
        Sheet::Lanes => LANES,
        Sheet::Pools => POOLS,
        Sheet::Commands => COMMANDS,
    }
}

/// Columns and their widths for a screen this wide: those that matter least go first, and the last one that stays takes
/// what is left.
pub(crate) fn fit(columns: &'static [SheetColumn], width: u16) -> Vec<(&'static SheetColumn, u16)> {
    let mut kept: Vec<&SheetColumn> = columns.iter().collect();
    let needed = |kept: &[&SheetColumn]| kept.iter().map(|column| column.width + 1).sum::<u16>();
    while kept.len() > 1 && needed(&kept) > width + 1 {
        let first = kept[0].title;
        let least = kept.iter().rposition(|column| {
            column.title != first
                && kept[1..].iter().all(|other| column.rank <= other.rank || other.title == first)
        });
        kept.remove(least.unwrap_or(kept.len() - 1));
    }
    let left = (width + 1).saturating_sub(needed(&kept));
    let last = kept.len() - 1;
    let widths = kept.into_iter().enumerate();
    widths
        .map(|(at, column)| (column, column.width + if at == last && column.is_words() { left } else { 0 }))
        .map(|(column, columns)| (column, columns.min(width)))
        .collect()
}

impl SheetColumn {
    /// Words stand left, numbers right.
    pub(crate) fn is_words(&self) -> bool {
        matches!(self.source, Words(_))
    }

    pub(crate) fn cell(&self, line: &SheetLine) -> String {
        let number = |column, write: fn(u64) -> String| line.row.number(column).map(write);
        let text = match self.source {
            Words(name) => Some(line.row.text(name)).filter(|text| !text.is_empty()),
            // Whoever looks for an id or a pid needs all of its digits.
            Count(name) => Some(line.row.text(name)).filter(|text| !text.is_empty()),
            Bytes(name) => number(name, |bytes| short_bytes(bytes as f64)),
            Lasting(name) => number(name, short_time),
            RequestsPerSecond => line.requests.map(short_count),
            BytesPerSecond => line.bytes.map(short_bytes),
        };
        text.unwrap_or_else(|| "-".to_owned())
    }
}

/// At most six characters.
pub(crate) fn short_count(number: f64) -> String {
    short(number, 1_000.0, ["", "k", "M", "G", "T"])
}

/// The same of bytes.
pub(crate) fn short_bytes(number: f64) -> String {
    short(number, 1_024.0, ["", "K", "M", "G", "T"])
}

fn short(number: f64, step: f64, units: [&str; 5]) -> String {
    let (mut number, mut unit) = (number, 0);
    // What would be rounded up to the next unit is of that unit.
    while number >= step - 0.5 && unit + 1 < units.len() {
        (number, unit) = (number / step, unit + 1);
    }
    let digits = usize::from(number < 9.95 && (unit > 0 || number.fract() > 0.05) && number > 0.05);
    format!("{number:.digits$}{}", units[unit])
}

/// At most six characters.
pub(crate) fn short_time(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..10_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        10_000..120_000 => format!("{}s", ms / 1_000),
        120_000..7_200_000 => format!("{}m", ms / 60_000),
        7_200_000..172_800_000 => format!("{}h", ms / 3_600_000),
        _ => format!("{}d", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(sheet: Sheet, width: u16) -> Vec<&'static str> {
        fit(columns_of(sheet, false), width).into_iter().map(|(column, _)| column.title).collect()
    }

    #[test]
    fn columns_go_by_what_they_matter_and_never_stand_beyond_the_edge() {
        assert_eq!(titles(Sheet::Processes, 40), ["pid", "program", "req/s", "children"]);
        assert_eq!(titles(Sheet::Children, 24), ["child", "pid"]);
        for sheet in Sheet::ALL {
            for width in 1..200 {
                let fitted = fit(columns_of(sheet, false), width);
                assert_eq!(fitted[0].0.title, columns_of(sheet, false)[0].title, "the first stays");
                let sum: u16 = fitted.iter().map(|(_, columns)| columns + 1).sum();
                assert!(sum <= width + 1, "{sheet:?} {width}");
            }
            assert_eq!(titles(sheet, 300).len(), columns_of(sheet, false).len());
        }
    }

    #[test]
    fn what_somebody_waits_for_is_seen_on_an_ordinary_screen() {
        for part in ["waits for", "wait", "command"] {
            assert!(titles(Sheet::Children, 80).contains(&part), "{part}: {:?}", titles(Sheet::Children, 80));
        }
        let detail: Vec<&str> =
            fit(columns_of(Sheet::Children, true), 80).iter().map(|(column, _)| column.title).collect();
        for part in ["lease", "waits for", "wait", "idle", "command"] {
            assert!(detail.contains(&part), "{part}: {detail:?}");
        }
    }

    #[test]
    fn numbers_are_short() {
        let counts =
            [0.0, 0.3, 7.0, 7.5, 42.4, 999.0, 999.6, 1_000.0, 12_345.0, 4_500_000.0].map(short_count);
        assert_eq!(counts, ["0", "0.3", "7", "7.5", "42", "999", "1.0k", "1.0k", "12k", "4.5M"]);
        assert_eq!([512.0, 1_536.0, 1e9].map(short_bytes), ["512", "1.5K", "954M"]);
        let times = [5, 4_250, 59_000, 120_000, 7_200_000, 1_000_000_000].map(short_time);
        assert_eq!(times, ["5ms", "4.2s", "59s", "2m", "2h", "11d"]);
    }
}
