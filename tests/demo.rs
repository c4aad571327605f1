//! `broker-demo` as a newcomer runs it: all is well and nothing stays behind. With the order of replies
//! broken on purpose, the same demo says so.

use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::end_within;
use crate::support::examples::Examples;
use tempfile::TempDir;

/// Longer than every wait inside the demo together: a demo that runs on is one that hangs.
const DEMO_LIMIT: Duration = Duration::from_secs(120);

struct Outcome {
    status: ExitStatus,
    output: String,
    errors: String,
    directory: TempDir,
}

/// Runs a demo whose temporary files have a directory of their own.
fn demo(args: &[&str]) -> Outcome {
    let directory = tempfile::Builder::new().prefix("demo-").tempdir_in("/tmp").expect("a directory");
    let mut process = Command::new(env!("CARGO_BIN_EXE_broker-demo"))
        .args(args)
        // Its C programs are those it finds here, whatever is built in the source tree.
        .current_dir(Examples::of_this_build().tree())
        .env("TMPDIR", directory.path())
        // Cargo's places may hold a library of an earlier build.
        .env_remove("LD_LIBRARY_PATH")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the demo");
    let output = read(process.stdout.take().expect("its standard output"));
    let errors = read(process.stderr.take().expect("its standard error"));
    let in_time = end_within(&mut process, DEMO_LIMIT).is_some();
    if !in_time {
        process.kill().expect("kill the demo");
    }
    let status = process.wait().expect("its status");
    // Everything the demo starts has these pipes: they end when the last of it has ended.
    let (output, errors) = (output.join().expect("text"), errors.join().expect("text"));
    eprintln!("{output}\n{errors}");
    assert!(in_time, "the demo ran on for {DEMO_LIMIT:?}");
    Outcome { status, output, errors, directory }
}

fn read(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).expect("text");
        text
    })
}

impl Outcome {
    /// The number in the row of the table that begins with `name`.
    fn row(&self, name: &str) -> u64 {
        let row = self.output.lines().find_map(|line| line.trim_start().strip_prefix(name));
        let row = row.unwrap_or_else(|| panic!("no row {name:?}"));
        let number = row.split_whitespace().next().unwrap_or_default().replace(',', "");
        number.parse().unwrap_or_else(|_| panic!("row {name:?} has no number: {row}"))
    }

    /// Nothing of it runs on, and its directory is gone.
    fn left_nothing(&self) {
        let path = self.directory.path();
        assert_eq!(users_of(path), Vec::<String>::new(), "processes of the demo are left");
        assert_eq!(path.read_dir().expect("its directory").count(), 0, "files of the demo are left");
    }
}

/// Processes that name `path` among their arguments or in their environment.
fn users_of(path: &Path) -> Vec<String> {
    let path = path.to_str().expect("plain text");
    let mut users = Vec::new();
    for entry in Path::new("/proc").read_dir().expect("/proc").flatten() {
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        if arguments.contains(path) || String::from_utf8_lossy(&read("environ")).contains(path) {
            users.push(arguments);
        }
    }
    users
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_demo_shows_that_all_is_well() {
    let outcome = demo(&["--children", "4", "--seconds", "2"]);
    outcome.left_nothing();
    assert!(outcome.status.success(), "{}", outcome.status);
    assert_eq!(outcome.errors, "");
    let kinds = "4 child processes: 1 redis (Rust), 1 redis-cli, 1 hiredis (C), 1 libbroker (C)";
    assert!(outcome.output.contains(kinds), "one of each kind");
    assert!(outcome.output.contains("   2 s "), "it shows progress");
    assert_eq!(outcome.row("mismatches"), 0);
    assert!(outcome.row("replies and messages checked") > 100);
    let (opened, counted) =
        (outcome.row("connections the children opened"), outcome.row("connections Redis itself counted"));
    assert!(opened > 4, "subscribers have a connection more: {opened}");
    let cap = broker::config::Settings::default().upstream_connections_max as u64;
    assert!((2..=cap).contains(&counted), "a lane, a control connection, leases: {counted}");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn many_children_open_many_connections_and_redis_sees_few() {
    let outcome = demo(&["--children", "60", "--seconds", "2"]);
    outcome.left_nothing();
    assert!(outcome.status.success(), "{}", outcome.status);
    assert_eq!(outcome.row("mismatches"), 0);
    let (opened, counted) =
        (outcome.row("connections the children opened"), outcome.row("connections Redis itself counted"));
    assert!(opened > 200 && counted < opened, "{opened} opened, {counted} in Redis");
}

#[cfg(feature = "sabotage")]
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_broken_order_of_replies_is_noticed() {
    let outcome = demo(&["--children", "6", "--seconds", "2", "--sabotage"]);
    outcome.left_nothing();
    assert_eq!(outcome.status.code(), Some(1));
    assert!(outcome.row("mismatches") > 0);
    assert!(outcome.output.contains("\nNot well:\n"), "the verdict");
    assert!(outcome.errors.contains(", want "), "the first wrong replies are described");
}
