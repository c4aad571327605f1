//! What is for whoever runs the broker agrees: the alert rules, the dashboard and docs/operations.md name only metrics that
//! the broker has, and each alert has its section in the page.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use broker::reactor::Loop;
use serde_json::Value;

const PAGE: &str = "docs/operations.md";
const ALERTS: &str = "dist/prometheus/alerts.yml";
const RULE_TESTS: &str = "dist/prometheus/alerts_test.yml";
const DASHBOARD: &str = "dist/grafana/broker.json";

fn text(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect(name)
}

/// The names of all series: those of a histogram have three ends.
fn series() -> BTreeSet<String> {
    let ends = |kind: &str| if kind == "histogram" { &["_bucket", "_sum", "_count", ""][..] } else { &[""] };
    Loop::metrics()
        .flat_map(|(name, kind, ..)| ends(kind).iter().map(move |end| format!("{name}{end}")))
        .collect()
}

/// The words of a text that begin as the names of metrics do.
fn metrics_named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("broker_")).collect()
}

/// An alert: its name, and the lines that are about it.
fn alerts(rules: &str) -> Vec<(&str, &str)> {
    let of_one = rules.split("- alert: ").skip(1);
    of_one.map(|rule| rule.split_once('\n').expect("lines")).collect()
}

/// What is written behind a key of a rule.
fn field<'t>(rule: &'t str, key: &str) -> &'t str {
    let line = rule.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
    line.unwrap_or_default()
}

/// Every expression of the dashboard, and what asks for it.
fn expressions(panel: &Value) -> Vec<&str> {
    let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    targets.iter().map(|target| target["expr"].as_str().expect("an expression")).collect()
}

#[test]
fn only_metrics_that_exist_are_named() {
    let known = series();
    for (name, at_least) in [(PAGE, 15), (ALERTS, 20), (RULE_TESTS, 20), (DASHBOARD, 30)] {
        let text = text(name);
        let named = metrics_named(&text);
        assert!(named.len() >= at_least, "{name} names {named:?}");
        let wrong: Vec<&&str> = named.iter().filter(|word| !known.contains(**word)).collect();
        assert!(wrong.is_empty(), "{name} names what is no metric: {wrong:?}");
    }
}

#[test]
fn each_alert_says_what_it_is_and_has_its_section() {
    let (rules, page) = (text(ALERTS), text(PAGE));
    let alerts = alerts(&rules);
    for (name, rule) in &alerts {
        assert!(["{severity: page}", "{severity: ticket}"].contains(&field(rule, "labels")), "{name}");
        for key in ["summary", "description"] {
            assert!(field(rule, key).trim_end_matches('\'').ends_with('.'), "{name} has a {key}");
        }
        let anchor = format!("{PAGE}#{}", name.to_lowercase());
        assert_eq!(field(rule, "runbook"), anchor);
        assert_eq!(page.matches(&format!("\n### {name}\n")).count(), 1, "{PAGE} has a section {name}");
    }
    let part = page.split("\n## The alerts\n").nth(1).and_then(|rest| rest.split("\n## ").next());
    let sections =
        part.expect("the part about alerts").lines().filter(|line| line.starts_with("### ")).count();
    assert_eq!(sections, alerts.len(), "no section without an alert");
}

#[test]
fn the_rules_are_tried_in_both_directions() {
    let (rules, tests) = (text(ALERTS), text(RULE_TESTS));
    let names: Vec<&str> = alerts(&rules).into_iter().map(|(name, _)| name).collect();
    let fires = |name: &&&str| {
        tests.contains(&format!("        alertname: {name}\n        exp_alerts:\n          - "))
    };
    let fire = names.iter().filter(fires).count();
    assert!(fire >= 15, "{fire} of {} alerts are seen to fire", names.len());
    assert!(tests.matches("exp_alerts: []").count() >= 5);
}

/// Links of the page lead to headings of it, and to files.
#[test]
fn the_links_of_the_page_lead_somewhere() {
    let page = text(PAGE);
    let heading = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        title.chars().filter(|c| c.is_alphanumeric() || *c == ' ').collect::<String>().replace(' ', "-")
    };
    let headings: BTreeSet<String> =
        page.lines().filter(|line| line.starts_with("##")).map(heading).collect();
    let links: Vec<&str> = page.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(links.len() > 30 && headings.len() > 30);
    for link in links {
        match link.strip_prefix('#') {
            Some(anchor) => assert!(headings.contains(anchor), "{link} leads nowhere"),
            None => {
                let file = link.split('#').next().unwrap_or(link);
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(file);
                assert!(path.exists(), "{link} leads nowhere");
            }
        }
    }
}

/// Tables and columns that are named outside of the commands, which a test of the suite runs.
#[test]
fn the_tables_of_the_page_exist() {
    let page = text(PAGE);
    let mut tables = 0;
    for after in page.split("`BROKER SHOW ").skip(1) {
        let words: Vec<&str> = after.split('`').next().unwrap_or_default().split_whitespace().collect();
        let Some((name, order)) = words.split_first().filter(|(name, _)| **name != "...") else { continue };
        let table = broker::core::console_tables().find(|(table, ..)| *table == *name);
        let (_, _, columns) = table.unwrap_or_else(|| panic!("no table {name}"));
        let columns: Vec<&str> = columns.into_iter().map(|(column, _)| column).collect();
        match order {
            [] => {}
            ["SORT", column] => assert!(columns.contains(column), "{name} has no column {column}"),
            _ => panic!("{words:?}"),
        }
        tables += 1;
    }
    assert!(tables >= 8, "{tables} tables");
}

#[test]
fn the_dashboard_asks_whom_its_user_chooses() {
    let dashboard: Value = serde_json::from_str(&text(DASHBOARD)).expect("JSON");
    assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 38), "that of Grafana 10");
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let names: Vec<&str> = variables.iter().filter_map(|each| each["name"].as_str()).collect();
    assert_eq!(names, ["datasource", "instance"]);
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "each has a number of its own");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = &panel["title"];
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let asked = expressions(panel);
        assert!(
            !asked.is_empty() && !panel["description"].as_str().unwrap_or_default().is_empty(),
            "{title}"
        );
        assert!(asked.iter().all(|each| each.contains("instance=~\"$instance\"")), "{title}: {asked:?}");
    }
    assert_eq!(panels[0]["title"], "What is wrong now");
}

#[test]
fn names_are_found_in_text() {
    let found = metrics_named("rate(broker_a_total{x=\"y\"}[5m])\n`broker_b`, xbroker_c broker.sock");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["broker_a_total", "broker_b"]);
    let rules = "groups:\n  - alert: One\n    expr: x\n    labels: {a: b}\n  - alert: Two\n    expr: y\n";
    assert_eq!(
        alerts(rules).iter().map(|(name, rule)| (*name, field(rule, "expr"))).collect::<Vec<_>>(),
        [("One", "x"), ("Two", "y")]
    );
}
