//! Programs that must not outlive this process, even if it is killed. Each is started through this binary's own
//! `with-parent`, which asks the kernel for a SIGKILL at the parent's death and then executes the program.

use super::PASSWORD_VARIABLE;
use broker::base::error::{Error, Result};
use clap::Args;
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Interval at which the end of a process is checked.
const WAIT_PAUSE: Duration = Duration::from_millis(5);
/// A thread that reads output only splits lines.
const READER_STACK: usize = 64 * 1024;

/// Arguments of the hidden `with-parent`, which every program that uses this module has.
#[derive(Debug, Args)]
pub(crate) struct WithParentArgs {
    /// The process that must be the parent still.
    pub(crate) parent: i32,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub(crate) argv: Vec<OsString>,
}

/// A command that runs `program` and ends with this process. The kernel watches the *thread* that spawns: spawn only from
/// the main thread. It has its own process group, so that a Ctrl-C meant for this process does not end it too early.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(own_binary()?);
    command.arg("with-parent").arg(getpid().as_raw_nonzero().to_string()).arg("--").arg(program);
    command.env_remove(PASSWORD_VARIABLE).process_group(0);
    Ok(command)
}

pub(crate) fn own_binary() -> Result<PathBuf> {
    std::env::current_exe().map_err(Error::attempting("cannot find this program's own binary"))
}

/// A running process, which does not outlive this value.
#[derive(Debug)]
pub(crate) struct Guarded(pub(crate) Child);

impl Guarded {
    /// Starts what the command says; `name` is for the error.
    pub(crate) fn spawn(command: &mut Command, name: &str) -> Result<Guarded> {
        command.spawn().map(Guarded).map_err(Error::attempting(format!("cannot start {name}")))
    }

    /// Passes each line of its standard output to `take`, in a thread that reads on to the end, so that the process never
    /// writes to a closed pipe; then `None`.
    pub(crate) fn read_lines(&mut self, mut take: impl FnMut(Option<String>) + Send + 'static) -> Result<()> {
        let output = self.0.stdout.take().ok_or_else(|| Error::system("a process has no output"))?;
        let read = move || {
            let lines = BufReader::new(output).lines().map_while(std::result::Result::ok);
            lines.for_each(|line| take(Some(line)));
            take(None);
        };
        let thread = std::thread::Builder::new().stack_size(READER_STACK).spawn(read);
        thread.map(drop).map_err(Error::attempting("cannot start a thread"))
    }

    /// Waits for its end; a process that takes longer is killed and `None`.
    pub(crate) fn end_within(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(WAIT_PAUSE),
                _ => break self.end(),
            }
        }
        None
    }

    /// Has no effect on a process that has been waited for.
    pub(crate) fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.end();
    }
}

/// Executes the program. Returns only on failure.
pub(crate) fn exec(args: &WithParentArgs) -> Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return Error::refused("cannot bind a process to the life of its parent", &error.into());
    }
    // A parent that died before the line above sends no signal.
    if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(args.parent) {
        return Error::system("the process that started this one has ended");
    }
    let Some((program, rest)) = args.argv.split_first() else {
        return Error::system("no program to run");
    };
    let error = Command::new(program).args(rest).exec();
    Error::refused(format!("cannot run {}", program.display()), &error)
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
