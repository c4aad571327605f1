//! Programs in C that play children (tests/host_programs/child.c): compiled once, run with their standard input held open,
//! ended by its end or by a signal.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

/// The compiled program; every user of this host may run it.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host_programs/child.c");
        let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("child.{}", std::process::id()));
        let program = made.with_file_name("hostchild");
        let mut cc = Command::new("cc");
        cc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-o"]).arg(&made).arg(source);
        assert!(cc.status().expect("run cc").success(), "child.c does not compile");
        // In one step: another process of these tests may be running it.
        std::fs::rename(&made, &program).expect("put it in its place");
        program
    })
}

/// One of them at work.
pub(crate) struct NativeChild {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl NativeChild {
    /// Starts one; returns once it is ready.
    pub(crate) fn start(
        socket: &Path,
        mode: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> NativeChild {
        NativeChild::start_program(program(), socket, mode, arguments, variables)
    }

    /// The same of a copy of the program.
    pub(crate) fn start_program(
        program: &Path,
        socket: &Path,
        mode: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> NativeChild {
        let mut command = Command::new(program);
        command.arg(mode).arg(socket).args(arguments).envs(variables.iter().copied());
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start a child");
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().expect("its output"));
        let mut child = NativeChild { process, input, output };
        assert_eq!(child.line(), "ready");
        child
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The next line that it prints; empty at its end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("its output");
        line.trim_end().to_owned()
    }

    /// Gives it a line, and returns the one that it prints then.
    pub(crate) fn tell(&mut self, line: &str) -> String {
        writeln!(self.input.as_mut().expect("its input"), "{line}").expect("its input");
        self.line()
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("kill a child of ours");
        self.process.wait().expect("its status");
    }
}

impl Drop for NativeChild {
    fn drop(&mut self) {
        // The end of its input ends it, and the copies that it has left behind.
        self.input = None;
        let mut rest = String::new();
        while self.output.read_line(&mut rest).is_ok_and(|count| count > 0) {}
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
