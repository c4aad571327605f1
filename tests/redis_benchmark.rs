//! redis-benchmark as a child: all of its default tests, plain and pipelined, over unix sockets and TCP,
//! without one error.

use std::process::{Command, Output, Stdio};

use crate::support::{Broker, Redis};

/// Commands among redis-benchmark's default tests; each has one line in its CSV.
const DEFAULT_TESTS: usize = 20;

fn benchmark(args: &[&str]) -> Output {
    let mut command = Command::new("redis-benchmark");
    command.args(args).args(["-n", "2000", "-c", "50", "--csv"]).stdin(Stdio::null());
    command.output().expect("run redis-benchmark; install the package redis-tools")
}

/// Runs it and refuses every line that is neither the head nor a test's result.
#[track_caller]
fn runs_without_error(args: &[&str]) {
    let output = benchmark(args);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?}: {}: {text}{errors}", output.status);
    assert_eq!(errors, "", "{args:?}");
    let mut lines = text.lines();
    assert!(lines.next().is_some_and(|head| head.starts_with("\"test\",\"rps\"")), "{args:?}: {text}");
    let results: Vec<&str> = lines.collect();
    assert_eq!(results.len(), DEFAULT_TESTS, "{args:?}: {text}");
    for line in results {
        let rate = line.split("\",\"").nth(1).and_then(|rate| rate.parse::<f64>().ok());
        assert!(rate.is_some_and(|rate| rate > 0.0), "{args:?}: {line}");
    }
}

#[test]
fn all_default_tests_run_without_an_error() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let socket = broker.socket().to_str().expect("plain text");
    runs_without_error(&["-s", socket, "-P", "1"]);
    runs_without_error(&["-s", socket, "-P", "16"]);
}

#[test]
fn a_database_of_its_own_is_used_for_all_of_it() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let socket = broker.socket().to_str().expect("plain text");
    runs_without_error(&["-s", socket, "-P", "16", "--dbnum", "3"]);
    assert_eq!(redis.ask("DBSIZE"), ":0\r\n", "nothing went to database 0");
    let mut third = redis.connect();
    third.expect("SELECT 3", "+OK\r\n");
    assert_ne!(third.ask("DBSIZE"), ":0\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn tcp_is_no_different() {
    let redis = Redis::start();
    let url = redis.url();
    let broker = Broker::start_args(&["serve", "--upstream", &url, "--listen", "tcp://127.0.0.1:0"], 1);
    let port = broker.listening()[0].rsplit(':').next().expect("a port").to_owned();
    runs_without_error(&["-h", "127.0.0.1", "-p", &port, "-P", "1"]);
    runs_without_error(&["-h", "127.0.0.1", "-p", &port, "-P", "16", "--dbnum", "3"]);
}
