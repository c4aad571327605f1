//! The status as JSON, for the page and for programs: one table of sections, each read and written in one step, once the
//! core's survey is done. Names are only ever added; docs/status.md says what they mean. Decides nothing: what is wrong is
//! the core's.

use super::Loop;
use crate::core::{Cell, Fullness, KindFigures, LaneRole, LastMinute, LeaseKind, Survey, SurveyRow};
use serde_json::{Value, json};

/// One section: its name, and how it is read.
type StatusSection = (&'static str, fn(&mut Loop, &Survey) -> Value);

static SECTIONS: &[StatusSection] = &[
    ("format", |_, _| json!(1)),
    ("broker", broker),
    ("wrong", wrong),
    ("upstream", upstream),
    ("fullness", fullness),
    ("leases", leases),
    ("last_minute", |lp, _| last_minute(&lp.core.last_minute())),
    ("totals", totals),
    ("history", |lp, _| history(lp)),
    ("processes_len", |_, survey| survey.processes_len.into()),
    ("processes", |_, survey| rows(&survey.processes)),
    ("longest_leases", |_, survey| rows(&survey.leases)),
    ("leaks_now", |lp, _| lp.core.leaks_in_all().0.into()),
    ("leaks_found", |lp, _| lp.core.leaks_in_all().1.into()),
    ("leaks", |_, survey| rows(&survey.leaks)),
    ("commands", |_, survey| rows(&survey.commands)),
];

/// A status in the making: steps of the survey, then one section in each step.
#[derive(Debug)]
pub(super) struct StatusText {
    survey: Survey,
    is_surveyed: bool,
    text: String,
    /// The sections that are written.
    written: usize,
}

impl StatusText {
    pub(super) fn new() -> StatusText {
        StatusText { survey: Survey::new(), is_surveyed: false, text: String::new(), written: 0 }
    }
}

impl Loop {
    /// One step of the survey, or one section. Once all are written: the text.
    pub(super) fn go_on_with_status(&mut self, status: &mut StatusText) -> Option<String> {
        if !status.is_surveyed {
            status.is_surveyed = status.survey.go_on(&mut self.core);
            return None;
        }
        let Some((name, read)) = SECTIONS.get(status.written) else {
            status.text.push_str("}\n");
            return Some(std::mem::take(&mut status.text));
        };
        let start = if status.written == 0 { "{\"" } else { ",\n\"" };
        let value = read(self, &status.survey).to_string();
        status.text.extend([start, name, "\":", &value]);
        status.written += 1;
        None
    }
}

fn cell(cell: &Cell) -> Value {
    match cell {
        Cell::Int(number) => (*number).into(),
        Cell::Text(text) => text.as_str().into(),
        Cell::Nothing => Value::Null,
    }
}

fn row(row: &SurveyRow) -> Value {
    row.iter().map(|(name, value)| ((*name).to_owned(), cell(value))).collect()
}

fn rows(rows: &[SurveyRow]) -> Value {
    rows.iter().map(row).collect()
}

fn broker(lp: &mut Loop, _survey: &Survey) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "uptime_ms": lp.told,
        "draining": lp.core.is_draining(),
        "paused": lp.core.paused().is_some(),
    })
}

fn wrong(lp: &mut Loop, survey: &Survey) -> Value {
    let found = survey.troubles(&mut lp.core);
    found
        .into_iter()
        .map(|trouble| {
            json!({
                "kind": trouble.kind,
                "severity": trouble.severity.as_str(),
                "what": trouble.what,
                "who": trouble.who,
                "since_ms": trouble.since_ms,
                "hint": trouble.hint,
            })
        })
        .collect()
}

fn upstream(lp: &mut Loop, _survey: &Survey) -> Value {
    let mut value = row(&Survey::upstream(&lp.core));
    let (ready, why) = lp.core.said_lately();
    (value["ready"], value["not_ready"]) = (ready.into(), why.into());
    value
}

fn of(fullness: Fullness) -> Value {
    json!({"used": fullness.used, "max": fullness.max})
}

fn fullness(lp: &mut Loop, survey: &Survey) -> Value {
    let figures = survey.figures(&lp.core);
    json!({
        "children": of(figures.children),
        "upstream_connections": of(figures.connections),
        "memory_bytes": of(figures.memory),
    })
}

fn leases(lp: &mut Loop, survey: &Survey) -> Value {
    let kind = |figures: KindFigures| {
        json!({
            "kind": figures.kind.as_str(),
            "used": figures.leases.used,
            "max": figures.leases.max,
            "waiting": figures.waiting,
            "longest_wait_ms": figures.longest_ms,
        })
    };
    let kinds: Value = LeaseKind::ALL.map(|of| kind(survey.kind_figures(&lp.core, of))).into_iter().collect();
    json!({"kinds": kinds, "idle": lp.core.leases_idle(), "lanes": lp.core.lanes_open(LaneRole::Lease)})
}

fn last_minute(minute: &LastMinute) -> Value {
    json!({
        "BROKERLOST": minute.lost,
        "BROKERDOWN": minute.down,
        "BROKERLIMIT": minute.limited,
        "BROKERTIMEOUT": minute.timed_out,
        "children_refused": minute.refused,
        "log_lines_dropped": minute.log_lines_dropped,
    })
}

fn totals(lp: &mut Loop, _survey: &Survey) -> Value {
    let counters = lp.core.counters();
    json!({
        "requests": counters.requests,
        "requests_in_flight": lp.core.requests_in_flight(),
        "BROKERLOST": counters.requests_lost,
        "BROKERDOWN": counters.requests_down,
        "BROKERLIMIT": counters.requests_limited,
        "BROKERTIMEOUT": counters.requests_timed_out,
        "children_opened": counters.children_opened,
        "children_refused": counters.children_refused,
    })
}

/// In columns: a third of the bytes that objects would have.
fn history(lp: &mut Loop) -> Value {
    let points: Vec<_> = lp.history.points(lp.told).collect();
    // Three digits behind the point are enough for a chart.
    let short = |rate: f64| (rate * 1000.0).round() / 1000.0;
    let column = |read: &dyn Fn(usize) -> Value| (0..points.len()).map(read).collect::<Value>();
    json!({
        "age_ms": column(&|at| points[at].age_ms.into()),
        "requests_per_s": column(&|at| short(points[at].requests_per_s).into()),
        "failures_per_s": column(&|at| short(points[at].failures_per_s).into()),
        "children": column(&|at| points[at].children.into()),
        "waiting": column(&|at| points[at].waiting.into()),
        "turn_us": column(&|at| (points[at].turn.as_micros() as u64).into()),
        "p50_us": column(&|at| points[at].latency.p50_us.into()),
        "p99_us": column(&|at| points[at].latency.p99_us.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn idle_loop() -> Loop {
        let mut settings = Settings::default();
        settings.set("upstream", "unix:///nonexistent/redis.sock").unwrap();
        settings.set("metrics_listen", "tcp://127.0.0.1:0").unwrap();
        Loop::new(settings).unwrap()
    }

    fn status(lp: &mut Loop) -> (Value, usize) {
        let (mut status, mut steps) = (StatusText::new(), 0);
        loop {
            steps += 1;
            if let Some(text) = lp.go_on_with_status(&mut status) {
                return (serde_json::from_str(&text).expect("JSON"), steps);
            }
        }
    }

    #[test]
    fn a_status_is_written_in_steps_and_says_what_is_wrong() {
        let mut lp = idle_loop();
        let (value, steps) = status(&mut lp);
        assert!(steps > SECTIONS.len());
        for (name, _) in SECTIONS {
            assert!(!value[name].is_null(), "{name}: {value}");
        }
        assert_eq!(value.as_object().unwrap().len(), SECTIONS.len());
        let (first, upstream) = (&value["wrong"][0], &value["upstream"]);
        assert_eq!(first["kind"], "upstream-down", "{value}");
        assert_eq!((&upstream["state"], &upstream["ready"]), (&json!("down"), &json!(false)), "{value}");
        assert_eq!(upstream["not_ready"], "no connection to the upstream");
        assert_eq!(value["leases"]["kinds"][0]["kind"], "transaction");
    }

    /// The names of all fields, but for those of rows, which are columns of the console.
    fn names(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, inner)| {
                found.push(name.clone());
                names(inner, found);
            }),
            Value::Array(items) => items.iter().for_each(|item| names(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_field_has_its_place_in_the_page_of_the_documentation() {
        let mut lp = idle_loop();
        lp.sample_history();
        let (value, _) = status(&mut lp);
        let upstream = Survey::upstream(&lp.core);
        let mut found = Vec::new();
        names(&value, &mut found);
        let of_console = |name: &String| upstream.iter().any(|(column, _)| column == name);
        found.retain(|name| !of_console(name));
        assert!(found.len() > 40, "{found:?}");
        let page = include_str!("../../docs/status.md");
        for name in
            found.iter().map(String::as_str).chain(["requests_per_s", "bytes_in_per_s", "bytes_out_per_s"])
        {
            assert!(page.contains(&format!("`{name}`")), "docs/status.md does not name {name}");
        }
    }

    #[test]
    fn samples_are_taken_where_somebody_may_ask_and_wake_nobody() {
        let mut lp = idle_loop();
        let timeout = lp.timeout();
        lp.sample_history();
        lp.sample_history();
        assert_eq!(lp.timeout(), timeout);
        lp.told += 5_000;
        lp.sample_history();
        let (value, _) = status(&mut lp);
        assert_eq!(value["history"]["age_ms"], json!([0]), "{value}");
        assert_eq!(value["history"]["p50_us"], json!([null]));
        let mut without = lp.settings().clone();
        without.set("metrics_listen", "").unwrap();
        lp.reload(without).unwrap();
        lp.told += 5_000;
        lp.sample_history();
        assert_eq!(status(&mut lp).0["history"]["age_ms"], json!([]));
    }
}
