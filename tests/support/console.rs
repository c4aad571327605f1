//! `BROKER SHOW` as the tests read it: rows by the names of their columns, from the padded lines of RESP2.

use std::collections::BTreeMap;

use super::raw::{Raw, show};

/// One row.
pub(crate) type Row = BTreeMap<String, String>;

/// The lines of an array of bulk strings.
pub(crate) fn lines(raw: &mut Raw, command: &str) -> Vec<String> {
    raw.send(command);
    let reply = raw.read_reply();
    let text = String::from_utf8(reply).expect("text");
    assert!(text.starts_with('*'), "{command}: {}", show(text.as_bytes()));
    let mut lines = text.split("\r\n").skip(1);
    let mut found = Vec::new();
    while let (Some(head), Some(line)) = (lines.next(), lines.next()) {
        assert!(head.starts_with('$'), "{command}: {head}");
        found.push(line.to_owned());
    }
    found
}

/// The rows of a table. What is behind `SHOW` may have conditions. The last column takes the rest of its line.
pub(crate) fn rows(raw: &mut Raw, what: &str) -> Vec<Row> {
    let lines = lines(raw, &format!("BROKER SHOW {what}"));
    let names: Vec<&str> = lines[0].split_whitespace().collect();
    let row = |line: &String| {
        let mut rest = line.trim_start();
        let mut row = Row::new();
        for (at, name) in names.iter().enumerate() {
            let end = if at + 1 == names.len() { None } else { rest.find(' ') };
            let (word, others) = end.map_or((rest, ""), |end| rest.split_at(end));
            row.insert((*name).to_owned(), word.trim().to_owned());
            rest = others.trim_start();
        }
        row
    };
    lines[1..].iter().map(row).collect()
}

/// The reply to a command, without its line end.
pub(crate) fn said(raw: &mut Raw, command: &str) -> String {
    raw.ask(command).trim_end().to_owned()
}
