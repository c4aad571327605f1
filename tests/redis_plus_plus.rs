//! The redis-plus-plus example, run on Redis' own socket and on the broker's. Ignored, since Debian 12 has no package of
//! redis-plus-plus: `cargo test --test suite redis_plus_plus -- --ignored` where pkg-config finds it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::{Broker, Redis};
use tempfile::TempDir;

/// What pkg-config answers, or `None` if it does not know the library or there is no pkg-config.
fn pkg_config(args: &[&str]) -> Option<String> {
    let output = Command::new("pkg-config").args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The example in a directory of the test's own.
fn build() -> (TempDir, PathBuf) {
    assert!(pkg_config(&["--exists", "redis++"]).is_some(), "pkg-config finds no redis++");
    let directory = tempfile::Builder::new().prefix("redis-plus-plus-").tempdir().expect("a directory");
    let program = directory.path().join("redis_plus_plus");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("c-examples");
    let mut make = Command::new("make");
    make.arg("-C").arg(source).arg(format!("BUILD={}", directory.path().display())).arg("WERROR=-Werror");
    make.arg(&program);
    // What an outer make says about its own jobs and variables is not meant for this one.
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"] {
        make.env_remove(variable);
    }
    let output = make.output().expect("run make");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (directory, program)
}

fn run(program: &Path, socket: &Path, resp: &str) -> Output {
    let mut command = Command::new(program);
    command.arg(socket).arg(resp).stdin(Stdio::null());
    // The libraries may stand in a place of their own, which only pkg-config has been told.
    let places = ["redis++", "hiredis"].map(|name| pkg_config(&["--variable=libdir", name]));
    command.env("LD_LIBRARY_PATH", places.into_iter().flatten().collect::<Vec<_>>().join(":"));
    command.output().expect("run the example")
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

#[test]
#[ignore = "needs redis-plus-plus"]
fn the_example_runs_unchanged_on_the_broker() {
    let (_directory, program) = build();
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    // The hiredis of Debian 12 is older than RESP3.
    let newer = pkg_config(&["--exists", "hiredis >= 1.0.0"]).is_some();
    for resp in if newer { &["2", "3"][..] } else { &["2"] } {
        let [direct, through] = [&*redis.socket(), broker.socket()].map(|socket| {
            let output = run(&program, socket, resp);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "RESP{resp} on {}: {errors}", socket.display());
            last_line(&output)
        });
        assert!(direct.starts_with("ok: ") && direct.ends_with(" replies checked"), "{direct}");
        assert_eq!(through, direct, "RESP{resp}");
    }
}

#[test]
#[ignore = "needs redis-plus-plus"]
fn the_example_fails_on_a_wrong_reply() {
    let (_directory, program) = build();
    // A GET that also deletes what it returns.
    let redis = Redis::start_with(&["--rename-command", "GET", "", "--rename-command", "GETDEL", "GET"]);
    let broker = Broker::start(&redis, &[]);
    let output = run(&program, broker.socket(), "2");
    assert_eq!(output.status.code(), Some(1));
    assert!(last_line(&output).starts_with("failed: "), "{}", last_line(&output));
}
