//! Programs that must not outlive this process, even if it is killed. Each is started through this binary's own
//! `with-parent`, which asks the kernel for a SIGKILL at the parent's death and then executes the program.

use super::PASSWORD_VARIABLE;
use broker::base::error::{Error, Result};
use clap::Args;
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Arguments of the hidden `with-parent`, which every program that uses this module has.
#[derive(Debug, Args)]
pub(crate) struct WithParentArgs {
    /// The process that must be the parent still.
    pub(crate) parent: i32,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub(crate) argv: Vec<OsString>,
}

/// A command that runs `program` and ends with this process. Arguments may be added.
///
/// The kernel watches the *thread* that spawns: spawn only from the main thread. The program gets its own process group,
/// so that a Ctrl-C meant for this process does not end it too early.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(own_binary()?);
    command.arg("with-parent").arg(getpid().as_raw_nonzero().to_string()).arg("--").arg(program);
    command.env_remove(PASSWORD_VARIABLE).process_group(0);
    Ok(command)
}

/// The path of this binary.
pub(crate) fn own_binary() -> Result<PathBuf> {
    std::env::current_exe()
        .map_err(|error| Error::system(format!("cannot find this program's own binary: {error}")))
}

/// Executes the program. Returns only on failure.
pub(crate) fn exec(args: &WithParentArgs) -> Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return Error::system(format!("cannot bind a process to the life of its parent: {error}"));
    }
    // A parent that died before the line above sends no signal.
    if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(args.parent) {
        return Error::system("the process that started this one has ended");
    }
    let Some((program, rest)) = args.argv.split_first() else {
        return Error::system("no program to run");
    };
    let error = Command::new(program).args(rest).exec();
    Error::system(format!("cannot run {}: {error}", program.display()))
}

/// The path of a program in PATH, if it is there.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| is_executable(file))
}

/// Whether `file` is a regular file with an execute permission.
pub(crate) fn is_executable(file: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
