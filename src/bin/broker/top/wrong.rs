//! What is wrong with a broker now, as it says itself (`BROKER SHOW TROUBLES`), and how times are written. Decides nothing: the
//! status page says the same.

use super::client::TableRow;

/// How bad it is. A notice is nothing wrong: it is what will be, if it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    Notice,
    Warning,
    Critical,
}

impl Severity {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Severity::Notice => "notice",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }

    /// One that is not known is not passed over.
    fn of_name(name: &str) -> Severity {
        let all = [Severity::Notice, Severity::Critical];
        all.into_iter().find(|severity| severity.name() == name).unwrap_or(Severity::Warning)
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// In a word that stays.
    pub(crate) kind: String,
    /// A sentence.
    pub(crate) what: String,
    /// Who causes it; empty where that is nobody in particular.
    pub(crate) who: String,
    /// For how long, in milliseconds.
    pub(crate) since_ms: Option<u64>,
    /// What to do; may be empty.
    pub(crate) hint: String,
}

impl Finding {
    /// All but the hint, in one sentence without its full stop.
    pub(crate) fn told(&self) -> String {
        let mut text = self.what.trim_end_matches('.').to_owned();
        if let Some(ms) = self.since_ms {
            text += &format!(", for {}", lasting(ms));
        }
        if !self.who.is_empty() {
            text += &format!(": {}", self.who);
        }
        text
    }
}

/// The rows of the table, which name the parts of a trouble one after the other.
pub(crate) fn findings_of(rows: &[TableRow]) -> Vec<Finding> {
    let mut found: Vec<(u64, Finding)> = Vec::new();
    for row in rows {
        let number = row.count("trouble");
        if found.last().is_none_or(|(last, _)| *last != number) {
            let finding = Finding {
                severity: Severity::of_name(&row.text("severity")),
                kind: row.text("kind"),
                what: String::new(),
                who: String::new(),
                since_ms: row.number("since_ms"),
                hint: String::new(),
            };
            found.push((number, finding));
        }
        let Some((_, finding)) = found.last_mut() else { continue };
        match row.text("part").as_str() {
            "what" => finding.what = row.text("text"),
            "who" => finding.who = row.text("text"),
            "hint" => finding.hint = row.text("text"),
            _ => {}
        }
    }
    found.into_iter().map(|(_, finding)| finding).collect()
}

/// Whether it is well enough to let everybody sleep.
pub(crate) fn is_well(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.severity == Severity::Notice)
}

/// Microseconds; milliseconds and seconds where these are read more easily.
pub(crate) fn micros(micros: u64) -> String {
    match micros {
        0..=10_000 => format!("{micros}us"),
        10_001..=10_000_000 => format!("{}ms", micros / 1_000),
        _ => format!("{}s", micros / 1_000_000),
    }
}

/// Milliseconds as a person says them.
pub(crate) fn lasting(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        10_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} days", ms / 86_400_000),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A row of the table.
    pub(crate) fn row(number: &str, severity: &str, since: &str, part: &str, text: &str) -> TableRow {
        let cells = [
            ("trouble", number),
            ("severity", severity),
            ("kind", "leases-waiting"),
            ("since_ms", since),
            ("part", part),
            ("text", text),
        ];
        TableRow::of(&cells)
    }

    #[test]
    fn rows_of_one_number_are_one_finding() {
        let found = findings_of(&[
            row("1", "critical", "4200", "what", "2 children wait."),
            row("1", "critical", "4200", "who", "held by pid 44"),
            row("1", "critical", "4200", "hint", "All are in use."),
            row("2", "notice", "-", "what", "All 8 connections are in use."),
            row("3", "strange", "-", "what", "Something else."),
        ]);
        let told: Vec<_> = found.iter().map(Finding::told).collect();
        assert_eq!(
            told,
            ["2 children wait, for 4.2 s: held by pid 44", "All 8 connections are in use", "Something else"]
        );
        let severities: Vec<_> = found.iter().map(|finding| finding.severity).collect();
        assert_eq!(severities, [Severity::Critical, Severity::Notice, Severity::Warning]);
        assert_eq!((found[0].hint.as_str(), found[1].since_ms), ("All are in use.", None));
        assert!(!is_well(&found) && is_well(&found[1..2]) && is_well(&[]) && !is_well(&found[2..]));
    }

    #[test]
    fn latencies_are_written_in_a_unit_that_suits_them() {
        let said = [0, 850, 10_000, 10_001, 250_999, 10_000_000, 10_000_001, 61_000_000].map(micros);
        assert_eq!(said, ["0us", "850us", "10000us", "10ms", "250ms", "10000ms", "10s", "61s"]);
    }

    #[test]
    fn times_are_said_as_people_do() {
        let said = [0, 999, 1_000, 9_999, 10_000, 119_999, 120_000, 7_200_000, 172_800_000].map(lasting);
        assert_eq!(
            said,
            ["0 ms", "999 ms", "1.0 s", "9.9 s", "10 s", "119 s", "2 min", "2 h", "2 days"]
                .map(str::to_owned)
        );
    }
}
