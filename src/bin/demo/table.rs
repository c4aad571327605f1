//! The end of the demo: prints the counts of the children and of Redis, and whether every check passed.

use crate::crew::Crew;
use crate::observer::Observer;
use crate::report::grouped;
use crate::shared::say;
use std::process::ExitCode;
use std::time::Duration;

/// Prints the table and the verdict. `cap` is the broker's; without one there is no broker.
pub(crate) fn show(
    crew: &Crew,
    observer: &Observer,
    took: Duration,
    cap: Option<usize>,
    mut failures: Vec<String>,
) -> ExitCode {
    let total = crew.total();
    let counted = observer.connections_max();
    let rate = total.requests as f64 / took.as_secs_f64().max(0.001);
    let quantile = |at| format!("{:.2} ms", total.latency.value_at_quantile(at) as f64 / 1000.0);
    let shown = grouped(counted as u64);
    let counted_note = match cap {
        Some(cap) => format!("{shown} (lanes, leases and control; upstream_connections_max is {cap})"),
        None => format!("{shown} (no broker between)"),
    };
    let rows = [
        ("requests", grouped(total.requests)),
        ("requests/s", grouped(rate as u64)),
        ("round trip p50", quantile(0.5)),
        ("round trip p99", quantile(0.99)),
        ("replies and messages checked", grouped(total.checked)),
        ("mismatches", grouped(total.mismatches)),
        ("connections the children opened", grouped(total.connections)),
        ("connections Redis itself counted", counted_note),
    ];
    say::line(&format!("\n{}", crew.kinds()));
    for (name, value) in rows {
        say::line(&format!("  {name:<34}{value}"));
    }
    if total.mismatches > 0 {
        let count = grouped(total.mismatches);
        failures.insert(0, format!("{count} of the replies checked did not belong to the request"));
    }
    if total.requests == 0 {
        failures.push("no request was made".to_owned());
    }
    if cap.is_some_and(|cap| counted > cap) {
        failures.push("Redis counted more connections than the cap allows".to_owned());
    }
    if failures.is_empty() {
        say::line("\nAll was well: every reply went to the child that had asked.");
        return ExitCode::SUCCESS;
    }
    say::line("\nNot well:");
    for failure in failures {
        say::line(&format!("  {failure}"));
    }
    ExitCode::FAILURE
}
