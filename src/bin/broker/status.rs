//! `broker status`: one look at a running broker, as text for people or one JSON object for scripts, and an exit code that
//! says whether all is well. Changes nothing.

use crate::cli::StatusArgs;
use crate::shared::say;
use crate::top::client::{Trouble, admin_of, socket_of};
use crate::top::sample::{Sample, Speeds, Totals, Watcher};
use crate::top::wrong::{Finding, is_well, lasting, micros};
use broker::base::error::Result;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

const EXIT_WRONG: u8 = 1;
const EXIT_NO_ANSWER: u8 = 2;
/// Between the two looks that requests per second are computed from: processes are accounted once a second.
const BETWEEN: Duration = Duration::from_millis(1_000);

pub(crate) fn run(args: &StatusArgs) -> Result<ExitCode> {
    let place = socket_of(args.socket.as_deref())?;
    let admin = admin_of(&place, None)?;
    let mut watcher = Watcher::new(place, admin, args.timeout);
    let looked = watcher.look(&[]).and_then(|first| {
        std::thread::sleep(BETWEEN);
        Ok((watcher.look(&[])?, first))
    });
    Ok(match looked {
        Ok((now, before)) => report(args.json, &now, now.speeds(&before)),
        Err(trouble) => {
            no_answer(args.json, &trouble);
            ExitCode::from(EXIT_NO_ANSWER)
        }
    })
}

fn report(as_json: bool, sample: &Sample, speeds: Option<Speeds>) -> ExitCode {
    let findings = sample.findings();
    let is_well = is_well(&findings);
    if as_json {
        say::line(&object(sample, speeds, &findings, is_well).to_string());
    } else {
        say::text(&in_words(sample, speeds, &findings));
    }
    if is_well { ExitCode::SUCCESS } else { ExitCode::from(EXIT_WRONG) }
}

fn no_answer(as_json: bool, trouble: &Trouble) {
    if as_json {
        let refused = matches!(trouble, Trouble::Refused(_));
        say::line(&json!({ "well": false, "answers": refused, "error": trouble.to_string() }).to_string());
    } else {
        crate::complain(&trouble.to_string());
    }
}

/// For people: the same as above the tables of `broker top`.
fn in_words(sample: &Sample, speeds: Option<Speeds>, findings: &[Finding]) -> String {
    let (up, totals) = (&sample.upstream, sample.totals());
    let mut text = String::new();
    let known = |column| Some(up.text(column)).filter(|text| !text.is_empty());
    let server = [known("server"), known("version"), known("role")];
    let server: Vec<String> = server.into_iter().flatten().collect();
    let server = if server.is_empty() { String::new() } else { format!(" ({})", server.join(" ")) };
    let uptime = lasting(sample.version.count("uptime_ms"));
    let _ = writeln!(text, "broker       {}, up for {uptime}", sample.version.text("version"));
    let _ = writeln!(text, "upstream     {} {}{server}", up.text("address"), up.text("state"));
    let speeds = speeds.unwrap_or_default();
    let _ = writeln!(
        text,
        "traffic      {:.0} requests/s, {:.0} bytes/s in, {:.0} bytes/s out",
        speeds.requests, speeds.bytes_in, speeds.bytes_out
    );
    match sample.latency_now() {
        Some((p99, max)) => _ = writeln!(text, "latency      p99 {}, max {}", micros(p99), micros(max)),
        None => text += "latency      -\n",
    }
    let least = if sample.is_cut() { "at least " } else { "" };
    let Totals { children, processes, .. } = totals;
    let of = if processes == 1 { "process" } else { "processes" };
    let _ = writeln!(text, "children     {least}{children} of {least}{processes} {of}");
    let _ = writeln!(
        text,
        "connections  {} of {} to Redis",
        up.count("connections"),
        up.count("connections_max")
    );
    for lease in sample.lease_use() {
        let max = lease.max.map_or("?".to_owned(), |max| max.to_string());
        let _ = writeln!(text, "leases       {} of {max} for {}", lease.used, of_kind(lease.kind));
    }
    let (waiting, longest) = sample.waits();
    let since = if waiting > 0 { format!(", for up to {}", lasting(longest)) } else { String::new() };
    let _ = writeln!(text, "waiting      {waiting} for a lease{since}");
    if findings.is_empty() {
        text += "all is well\n";
    }
    for finding @ Finding { severity, hint, .. } in findings {
        let _ = writeln!(text, "{}: {}", severity.name(), finding.told());
        if !hint.is_empty() {
            let _ = writeln!(text, "    {hint}");
        }
    }
    text
}

fn of_kind(kind: &str) -> &str {
    match kind {
        "transaction" => "transactions",
        "session" => "sessions",
        _ => "blocking commands",
    }
}

/// For scripts. Names stay; further ones may come.
fn object(sample: &Sample, speeds: Option<Speeds>, findings: &[Finding], is_well: bool) -> Value {
    let (up, totals, (waiting, longest)) = (&sample.upstream, sample.totals(), sample.waits());
    let text = |column| Some(up.text(column)).filter(|text| !text.is_empty());
    let leases: serde_json::Map<String, Value> = sample
        .lease_use()
        .into_iter()
        .map(|lease| (lease.kind.to_owned(), json!({ "used": lease.used, "max": lease.max })))
        .collect();
    let wrong: Vec<Value> = findings.iter().map(finding).collect();
    let latency = sample.latency_now().map(|(p99, max)| json!({ "p99_us": p99, "max_us": max }));
    json!({
        "well": is_well,
        "answers": true,
        "wrong": wrong,
        "version": sample.version.text("version"),
        "uptime_ms": sample.version.count("uptime_ms"),
        "upstream": {
            "address": text("address"),
            "state": text("state"),
            "down_ms": up.number("down_ms"),
            "refusal": text("refusal"),
            "server": text("server"),
            "version": text("version"),
            "role": text("role"),
            "connections": up.count("connections"),
            "connections_max": up.count("connections_max"),
        },
        "leases": leases,
        "waiting": { "count": waiting, "longest_ms": longest },
        "leaks": sample.leaks.len(),
        "children": totals.children,
        "processes": totals.processes,
        "requests": totals.requests,
        "bytes_in": totals.bytes_in,
        "bytes_out": totals.bytes_out,
        "requests_per_s": speeds.map(|speeds| speeds.requests),
        "bytes_in_per_s": speeds.map(|speeds| speeds.bytes_in),
        "bytes_out_per_s": speeds.map(|speeds| speeds.bytes_out),
        "latency": latency,
    })
}

fn finding(finding: &Finding) -> Value {
    json!({
        "kind": finding.kind,
        "severity": finding.severity.name(),
        "what": finding.what,
        "who": finding.who,
        "since_ms": finding.since_ms,
        "hint": finding.hint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::sample::tests::{sample, sample_with_waits};

    #[test]
    fn an_idle_broker_is_told_in_a_few_lines() {
        let text = in_words(&sample(5_000), None, &[]);
        for line in [
            "broker       0.1.0, up for 5.0 s",
            "upstream     redis://h:6379/0 up (redis 7.0.15 master)",
            "connections  2 of 384 to Redis",
            "leases       1 of 1 for transactions",
            "leases       0 of ? for blocking commands",
            "waiting      0 for a lease",
            "all is well",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
    }

    #[test]
    fn what_is_wrong_stands_below_with_what_to_do() {
        let sample = sample_with_waits(5_000);
        let text = in_words(&sample, None, &sample.findings());
        assert!(
            text.contains("\nwaiting      2 for a lease, for up to 4.2 s\ncritical: 2 children wait"),
            "{text}"
        );
        assert!(text.contains("(WATCH, MULTI), for 4.2 s: held by pid 44 (worker, web.service)"), "{text}");
        assert!(text.ends_with("\n    The only one is in use (leases_transaction_max = 1).\n"), "{text}");
        let object = object(&sample, None, &sample.findings(), false);
        assert_eq!(object["wrong"][0]["severity"], "critical");
        assert_eq!(object["leases"]["transaction"], json!({ "used": 1, "max": 1 }));
        assert_eq!(object["waiting"], json!({ "count": 2, "longest_ms": 4200 }));
        assert_eq!(object["requests_per_s"], Value::Null);
    }
}
