//! What the limit writes, what it leaves out and what it says of that.

use super::*;
use log::kv::ToValue;

/// Somebody, as the keys `child`, `pid` and `peer`.
type Keys<'a> = (Option<u64>, Option<i32>, &'a str);

const NOBODY: Keys<'static> = (None, None, "");

/// What is written for one more such line.
fn say_of(limit: &mut LogLimit, line: u32, keys: Keys<'_>, text: &str, now: Millis) -> Option<LogLine> {
    let pairs = [("child", keys.0.to_value()), ("pid", keys.1.to_value()), ("peer", keys.2.to_value())];
    let mut record = Record::builder();
    record.level(Level::Info).file_static(Some("src/a.rs")).line(Some(line)).key_values(&pairs);
    limit.admit(&record.args(format_args!("{text}")).build(), now)
}

fn say(limit: &mut LogLimit, line: u32, text: &str, now: Millis) -> Option<String> {
    say_of(limit, line, NOBODY, text, now).map(|line| line.text)
}

fn summaries(limit: &mut LogLimit, now: Millis) -> Vec<String> {
    limit.summaries(now).into_iter().map(|line| line.text).collect()
}

/// How many of `count` lines about somebody are written.
fn written(limit: &mut LogLimit, keys: Keys<'_>, count: u32) -> u32 {
    (0..count).map(|_| u32::from(say_of(limit, 1, keys, "x", 0).is_some())).sum()
}

#[test]
fn a_place_that_has_written_enough_is_summed_up() {
    let mut limit = LogLimit::default();
    let before = log_lines_left_out();
    let written = (0..1000).filter(|n| say(&mut limit, 1, &format!("no {n}"), 5).is_some()).count();
    assert_eq!(written, LOG_LINES as usize);
    assert_eq!(say(&mut limit, 2, "another place", 6).as_deref(), Some("another place"));
    assert_eq!(limit.due(), Some(5 + LOG_INTERVAL));
    assert!(summaries(&mut limit, 4 + LOG_INTERVAL).is_empty());
    let left = 1000 - u64::from(LOG_LINES);
    // Other tests leave out lines at the same time.
    assert!(log_lines_left_out() >= before + left);
    assert_eq!(
        summaries(&mut limit, 5 + LOG_INTERVAL),
        [format!("and {left} more like this in the last {} s: no {LOG_LINES}", LOG_INTERVAL / 1000)]
    );
    assert_eq!(limit.due(), None);
    (0..u64::from(LOG_LINES) + 2).for_each(|_| _ = say(&mut limit, 2, "x", 6 + LOG_INTERVAL));
    let last = limit.last_summaries(1006 + LOG_INTERVAL).pop().unwrap().text;
    assert_eq!(last, "and 2 more like this in the last 1 s: x");
    assert!(say(&mut limit, 1, "a new interval", 5 + LOG_INTERVAL).is_some());
}

#[test]
fn one_child_does_not_silence_the_line_about_another() {
    let mut limit = LogLimit::default();
    let (loud, other) = ((Some(1), Some(7), "pid 7 uid 0"), (Some(2), Some(7), "pid 7 uid 0"));
    assert_eq!(written(&mut limit, loud, 100_000), LOG_LINES);
    assert_eq!(written(&mut limit, other, 1), 1);
    let left = 100_000 - LOG_LINES;
    let line = limit.last_summaries(1000).pop().unwrap();
    assert_eq!(line.text, format!("and {left} more like this in the last 1 s: x"));
    let about_loud =
        Subject { child: Some(1), pid: Some(7), uid: None, peer: Some("pid 7 uid 0".to_owned()) };
    assert_eq!(line.subject, about_loud);
}

/// Whoever connects anew for each request is another child each time.
#[test]
fn the_children_of_one_process_or_address_share_a_budget() {
    let mut limit = LogLimit::default();
    let of_process = (0..1000).map(|id| written(&mut limit, (Some(id), Some(7), ""), 1)).sum::<u32>();
    assert_eq!(of_process, LOG_LINES_SOURCE);
    let mut of_address = 0;
    for id in 0..1000 {
        of_address += written(&mut limit, (Some(id), None, &format!("10.0.0.1:{}", 4000 + id)), 1);
    }
    assert_eq!(of_address, LOG_LINES_SOURCE);
    assert_eq!(written(&mut limit, (Some(1000), None, "10.0.0.2:4000"), 1), 1);
}

#[test]
fn however_many_there_are_a_place_writes_so_much_and_names_as_many_as_it_can() {
    let mut limit = LogLimit::default();
    let total: u32 = (0..10_000).map(|n| written(&mut limit, (Some(n), Some(n as i32), ""), 20)).sum();
    let own = LOG_LINES_PLACE.div_ceil(LOG_LINES);
    assert_eq!(total, LOG_LINES_PLACE + LOG_SOURCES_MAX as u32 - own);
    assert!(limit.places[&("src/a.rs", 1)].written_about.len() <= 2 * (total as usize));
    let text = limit.last_summaries(0).pop().unwrap().text;
    assert!(text.starts_with(&format!("and {} more", 200_000 - total)), "{text}");
    assert!(text.contains(&format!(", of more than {LOG_PEERS_COUNTED} peers: x")), "{text}");
}

/// Those that are too many to be told apart are not silent either, while the place may write.
#[test]
fn further_processes_share_one_budget() {
    let mut limit = LogLimit::default();
    for pid in 0..LOG_SOURCES_MAX as i32 {
        assert_eq!(written(&mut limit, (None, Some(pid), ""), 1), 1);
    }
    let further: u32 = (1000..2000).map(|pid| written(&mut limit, (None, Some(pid), ""), 1)).sum();
    assert_eq!(further, LOG_LINES);
    assert_eq!(written(&mut limit, (None, Some(3), ""), 1), 1);
}

#[test]
fn a_summary_about_many_says_how_many() {
    let mut limit = LogLimit::default();
    for child in 1..=37 {
        written(&mut limit, (Some(child), Some(child as i32), ""), LOG_LINES + 1);
    }
    let line = limit.last_summaries(2000).pop().unwrap();
    assert!(line.text.contains(" more like this in the last 2 s, of 37 peers: x"), "{}", line.text);
    assert_eq!(line.subject, Subject::default());
}

/// A line now and then is never left out, whatever there was before.
#[test]
fn a_quiet_place_always_has_its_budget() {
    let mut limit = LogLimit::default();
    for n in 0..100 {
        assert!(say(&mut limit, 1, "now and then", n * LOG_INTERVAL).is_some());
    }
    assert_eq!(limit.due(), None);
}

#[test]
fn nothing_left_out_goes_unsaid() {
    let mut limit = LogLimit::default();
    let (mut written, mut told) = (0, 0);
    for n in 0..10_000_u64 {
        let now = n * LOG_INTERVAL / 1000;
        told += count_of(summaries(&mut limit, now));
        written += u64::from(say(&mut limit, 1, "x", now).is_some());
    }
    told += count_of(summaries(&mut limit, 1000 * LOG_INTERVAL));
    assert_eq!(written + told, 10_000);
    assert!(written <= 11 * u64::from(LOG_LINES), "{written}");
}

fn count_of(lines: Vec<String>) -> u64 {
    lines.iter().map(|line| line.split(' ').nth(1).unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn a_long_text_is_cut_between_characters() {
    let mut limit = LogLimit::default();
    let text = say(&mut limit, 1, &"\u{e9}".repeat(LOG_LINE_MAX), 0).unwrap();
    assert!(text.len() <= LOG_LINE_MAX + 3 && text.ends_with("\u{e9}..."));
}

#[test]
fn trace_shows_everything() {
    let mut limit = LogLimit::default();
    for _ in 0..1000 {
        let mut record = Record::builder();
        record.level(Level::Trace).file_static(Some("src/a.rs")).line(Some(1));
        assert!(limit.admit(&record.args(format_args!("x")).build(), 0).is_some());
    }
}

/// As the macros of `log` pass them on.
#[test]
fn a_line_says_whom_it_is_about_and_where_it_stands() {
    let mut limit = LogLimit::default();
    let pairs = [("child", 5_u64.to_value()), ("uid", 33_u32.to_value()), ("pid", None::<i32>.to_value())];
    let mut record = Record::builder();
    record.level(Level::Warn).target("broker::core::lease").file_static(Some("src/a.rs")).line(Some(9));
    let line = limit.admit(&record.key_values(&pairs).args(format_args!("x")).build(), 0).unwrap();
    let subject = Subject { child: Some(5), uid: Some(33), ..Subject::default() };
    let (area, file) = ("lease", "src/a.rs");
    assert_eq!(line, LogLine { level: Level::Warn, text: "x".to_owned(), area, subject, file, line: 9 });
}
