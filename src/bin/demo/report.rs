//! The counts of one client process of the demo: the line it reports, which the parent parses and sums.

use crate::shared::say;
use hdrhistogram::Histogram;
use std::process::ExitCode;
use std::time::Duration;

/// Microseconds; round trips longer than a minute are counted as a minute.
const LATENCY_MAX: u64 = 60_000_000;
/// Significant digits kept of a latency.
const LATENCY_DIGITS: u8 = 2;
/// Mismatches a process describes on standard error; the rest is only counted.
const MISMATCHES_SHOWN: u64 = 3;

/// The counts of one process, or of all.
#[derive(Debug)]
pub(crate) struct Report {
    /// Commands sent whose reply was read.
    pub(crate) requests: u64,
    /// Replies compared with the only one their own request could have.
    pub(crate) checked: u64,
    pub(crate) mismatches: u64,
    /// Opened by this process.
    pub(crate) connections: u64,
    /// Round trips, in microseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Report {
    pub(crate) fn new() -> Report {
        let latency =
            Histogram::new_with_max(LATENCY_MAX, LATENCY_DIGITS).expect("constant bounds are valid");
        Report { requests: 0, checked: 0, mismatches: 0, connections: 0, latency }
    }

    /// Counts a round trip that answered `requests` commands.
    pub(crate) fn round_trip(&mut self, requests: u64, took: Duration) {
        self.requests += requests;
        self.latency.saturating_record(u64::try_from(took.as_micros()).unwrap_or(LATENCY_MAX));
    }

    /// Counts a checked reply and describes the first few that are wrong.
    pub(crate) fn check(&mut self, right: bool, describe: impl FnOnce() -> String) {
        self.checked += 1;
        if right {
            return;
        }
        self.mismatches += 1;
        if self.mismatches <= MISMATCHES_SHOWN {
            eprintln!("{}", describe());
        }
    }

    /// Ends a process: reports, and tells whether all was right.
    pub(crate) fn conclude(&self) -> ExitCode {
        say::line(&self.to_line());
        if self.mismatches == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// The line that a process reports at its end.
    fn to_line(&self) -> String {
        let Report { requests, checked, mismatches, connections, latency } = self;
        let pairs =
            latency.iter_recorded().map(|v| format!("{}:{}", v.value_iterated_to(), v.count_at_value()));
        let hist = pairs.collect::<Vec<_>>().join(",");
        format!(
            "requests={requests} checked={checked} mismatches={mismatches} connections={connections} hist={hist}"
        )
    }

    /// Reads such a line; `hist` may be missing, the other counts may not.
    pub(crate) fn from_line(line: &str) -> Option<Report> {
        let field = |name| {
            line.split_ascii_whitespace().find_map(|word: &str| word.strip_prefix(name)?.strip_prefix('='))
        };
        let mut report = Report::new();
        report.requests = field("requests")?.parse().ok()?;
        report.checked = field("checked")?.parse().ok()?;
        report.mismatches = field("mismatches")?.parse().ok()?;
        report.connections = field("connections")?.parse().ok()?;
        for pair in field("hist").unwrap_or_default().split(',').filter(|pair| !pair.is_empty()) {
            let (value, count) = pair.split_once(':')?;
            report.latency.saturating_record_n(value.parse().ok()?, count.parse().ok()?);
        }
        Some(report)
    }

    pub(crate) fn add(&mut self, other: &Report) {
        self.requests += other.requests;
        self.checked += other.checked;
        self.mismatches += other.mismatches;
        self.connections += other.connections;
        // Both have the same bounds.
        let _ = self.latency.add(&other.latency);
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_its_line() {
        let mut report = Report::new();
        report.connections = 2;
        for micros in [90, 91, 1500, 2_000_000] {
            report.round_trip(10, Duration::from_micros(micros));
        }
        report.check(true, String::new);
        let mut sum = Report::from_line(&report.to_line()).unwrap();
        assert_eq!(sum.to_line(), report.to_line());
        sum.add(&report);
        assert_eq!((sum.requests, sum.checked, sum.mismatches, sum.connections), (80, 2, 0, 4));
        assert_eq!(sum.latency.len(), 8);
        assert_eq!(sum.latency.value_at_quantile(0.5), report.latency.value_at_quantile(0.5));
    }

    #[test]
    fn a_line_without_latencies_is_enough_but_one_without_counts_is_not() {
        let report = Report::from_line("requests=5 checked=4 mismatches=0 connections=1").unwrap();
        assert_eq!((report.requests, report.latency.len()), (5, 0));
        assert!(Report::from_line("requests=5 checked=4 mismatches=0").is_none());
        assert!(Report::from_line("requests=x checked=4 mismatches=0 connections=1").is_none());
    }

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
