//! The C example, built with warnings denied and run as one of the broker's children.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use support::{Broker, Redis};
use tempfile::TempDir;

mod support;

/// The hiredis example in a directory of the test's own, so that no other build is touched.
fn build() -> (TempDir, PathBuf) {
    let directory = tempfile::Builder::new().prefix("c-examples-").tempdir().expect("a directory");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("c-examples");
    let mut make = Command::new("make");
    make.arg("-C").arg(source).arg(format!("BUILD={}", directory.path().display())).arg("WERROR=-Werror");
    // What an outer make says about its own jobs and variables is not meant for this one.
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"] {
        make.env_remove(variable);
    }
    let output = make.output().expect("run make");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let program = directory.path().join("hiredis_child");
    (directory, program)
}

fn run(program: &Path, broker: &Broker, seconds: &str) -> Output {
    let mut command = Command::new(program);
    command.arg(broker.socket()).args([seconds, "7"]).stdin(Stdio::null());
    command.output().expect("run the example")
}

/// The counts of its last line: requests, checked, mismatches, connections.
fn counts(output: &Output) -> [u64; 4] {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    let words: Vec<(&str, &str)> = line.split(' ').filter_map(|word| word.split_once('=')).collect();
    ["requests", "checked", "mismatches", "connections"].map(|name| {
        let word = words.iter().find(|(key, _)| *key == name);
        word.and_then(|(_, value)| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {line:?}"))
    })
}

#[test]
fn the_hiredis_example_gets_its_own_replies() {
    let (_directory, program) = build();
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let output = run(&program, &broker, "1");
    let [requests, checked, mismatches, connections] = counts(&output);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((mismatches, connections), (0, 1));
    // All but the DEL at the start and the one at the end.
    assert_eq!(requests, checked + 2);
    assert!(checked > 0);
}

#[test]
fn the_hiredis_example_fails_on_a_wrong_reply() {
    let (_directory, program) = build();
    let redis = Redis::start_with(&["--rename-command", "INCR", ""]);
    let broker = Broker::start(&redis, &[]);
    let output = run(&program, &broker, "0");
    let [_, checked, mismatches, _] = counts(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(0 < mismatches && mismatches < checked, "{mismatches} of {checked}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("unknown command"));
}
