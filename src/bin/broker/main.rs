//! The standalone broker: reads argv, the environment and signals, which the library never does, and maps an outcome to
//! an exit code: 0 success, 1 a system call failed, 2 invalid configuration. `broker status`, `broker ctl` and `broker reload` have codes of their own.
#![forbid(unsafe_code)]

mod cli;
mod ctl;
mod fd_store;
mod journal;
mod keys;
mod layers;
mod logger;
#[cfg(test)]
mod man;
mod render;
mod scrub;
mod serve;
#[path = "../shared/mod.rs"]
mod shared;
mod signals;
mod status;
mod stderr;
mod systemd;
mod takeover;
mod top;

use broker::base::error::{Error, ErrorKind};
use clap::Parser;
use cli::{Cli, Verb};
use shared::{guard, say};
use std::io::Write;
use std::process::ExitCode;

const EXIT_SYSTEM: u8 = 1;
const EXIT_CONFIG: u8 = 2;

fn main() -> ExitCode {
    let verb = match Cli::try_parse() {
        Ok(cli) => cli.verb,
        Err(error) => return usage(&error),
    };
    let outcome = match verb {
        Verb::Serve(args) => serve::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Config(args) => keys::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Top(args) => top::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Upgrade(args) => ctl::upgrade(&args),
        Verb::Ctl(args) => ctl::run(&args),
        Verb::Reload(args) => ctl::reload(&args),
        Verb::WithParent(args) => Err(guard::exec(&args)),
    };
    outcome.unwrap_or_else(|error| fail(&error))
}

/// Prints clap's error in one line. Help and version are not errors.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        say::text(&error.to_string());
        return ExitCode::SUCCESS;
    }
    complain(&format!("{} (see broker --help)", cli::one_line(error)));
    ExitCode::from(EXIT_CONFIG)
}

fn fail(error: &Error) -> ExitCode {
    complain(&error.to_string());
    ExitCode::from(match error.kind() {
        ErrorKind::Config => EXIT_CONFIG,
        ErrorKind::System | ErrorKind::Limit => EXIT_SYSTEM,
    })
}

/// One line on standard error. Where it takes none, the exit code says as much as it can.
fn complain(why: &str) {
    let _ = writeln!(std::io::stderr(), "broker: {why}");
}
