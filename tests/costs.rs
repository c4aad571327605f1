//! What handles cost in descriptors, memory and system calls is what docs/costs.md says.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::support::native::{C99, Mode, Native};
use crate::support::{Broker, Redis};

/// A row of a table of the page: its cells by its first.
fn rows(first_heading: &str) -> BTreeMap<String, Vec<String>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/costs.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let table = page.split_once(&format!("| {first_heading} |")).expect("the table").1;
    let lines = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells =
        |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    lines.map(cells).map(|mut cells| (cells.remove(0), cells)).collect()
}

/// The number that a cell begins with.
fn number(cell: &str) -> f64 {
    cell.split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no number: {cell}"))
}

/// The program and what it asks its environment for.
struct Measured {
    program: Native,
    redis: Redis,
    broker: Broker,
}

impl Measured {
    fn new() -> Measured {
        let redis = Redis::start();
        // On a machine that is busy, a lane may wait for long.
        let broker = Broker::start(&redis, &[("connect_timeout", "200s"), ("queue_timeout", "200s")]);
        Measured { program: Native::build("costs.c", C99, Mode::Plain, &[]), redis, broker }
    }

    fn command(&self, what: &str) -> Command {
        let mut command = self.program.command(&[what]);
        command.env("BROKER_TEST_REDIS", self.redis.socket());
        command.env("BROKER_TEST_ENDPOINT", format!("unix://{}", self.broker.socket().display()));
        command
    }
}

fn good(command: &mut Command) -> String {
    let output = command.output().expect("run it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn descriptors_and_memory_are_those_of_the_page() {
    // On a machine that is busy, a queue may have grown by what has not been taken yet: now for one row, now for another.
    let mut wrong = unlike_the_page(&measure());
    for _ in 0..4 {
        if wrong.is_empty() {
            return;
        }
        let again = unlike_the_page(&measure());
        wrong.retain(|row, _| again.contains_key(row));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn measure() -> String {
    good(&mut Measured::new().command("memory"))
}

/// Lines of the program that the page does not agree with, by the row that each is about.
fn unlike_the_page(measured: &str) -> BTreeMap<String, String> {
    let page = rows("One more");
    assert_eq!(measured.lines().count(), page.len());
    let differs = |line: &&str| {
        let cells: Vec<&str> = line.split('|').collect();
        let row = page.get(cells[0]).unwrap_or_else(|| panic!("{} is not on the page", cells[0]));
        let descriptors = (number(cells[1]) - number(&row[0])).abs();
        // The page rounds, and queues grow by doubling.
        let (is, said) = (number(cells[2]) / 1024.0, number(&row[1]));
        descriptors >= 0.05 || is >= 1.3 * said + 0.3 || is <= 0.7 * said - 0.3
    };
    let wrong = measured.lines().filter(differs);
    wrong.map(|line| (line.split('|').next().unwrap_or_default().to_owned(), line.to_owned())).collect()
}

/// How many system calls the program makes between its two marks on standard error, as strace sees it.
fn system_calls(measured: &Measured, mode: &str) -> f64 {
    let trace = tempfile::NamedTempFile::new().expect("a file");
    let plain = measured.command(mode);
    let mut strace = Command::new("strace");
    strace.arg("-o").arg(trace.path()).arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    good(&mut strace);
    let text = std::fs::read_to_string(trace.path()).expect("a trace");
    let from_the_first = text.lines().skip_while(|line| !line.contains("\"begin\""));
    from_the_first.skip(1).take_while(|line| !line.contains("\"end\"")).count() as f64
}

#[test]
fn system_calls_are_those_of_the_page() {
    let page = rows("For 1000 requests");
    let measured = Measured::new();
    for (how, mode) in
        [("broker_client_call()", "calls"), ("broker_client_submit()", "pipeline"), ("a loop", "own")]
    {
        let counted = system_calls(&measured, mode);
        let (row, cells) = page.iter().find(|(name, _)| name.contains(how)).expect("a row");
        // A reply that comes a moment later, or in two pieces, costs one or two more.
        let said = number(&cells[0]);
        assert!(counted < 1.5 * said && counted > 0.7 * said, "{row}: {counted} instead of {said}");
    }
}
