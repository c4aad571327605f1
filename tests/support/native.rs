//! C and C++ test programs of tests/ffi: compiled with warnings denied against the shared library of this cargo build,
//! run in a process of their own beside a private Redis and broker, plainly, under valgrind or with sanitizers. Each is
//! compiled once for all tests that run it, and again when it, one of our headers or the compiler has changed.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

use tempfile::TempDir;

use super::{Broker, Redis};

/// How a program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Plain,
    /// Under memcheck: no error, nothing lost, no descriptor left.
    Valgrind,
    /// Built with -fsanitize=address,undefined. The library itself is not: there is no stable Rust for it.
    Sanitized,
}

/// Exit codes of the checkers, unlike any of the programs' own.
const VALGRIND: &str = "99";
const SANITIZER: &str = "98";

/// A compiler and its flags.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Language {
    pub(crate) compiler: &'static str,
    pub(crate) flags: &'static [&'static str],
}

pub(crate) const C99: Language = Language { compiler: "cc", flags: &["-std=c99"] };

/// Whether every program is to run in every mode, which takes some minutes.
pub(crate) fn all_modes() -> bool {
    std::env::var_os("BROKER_TEST_ALL_MODES").is_some_and(|value| value == "1")
}

/// Where the sources are.
pub(crate) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ffi")
}

/// The libbroker.so of this cargo build.
pub(crate) fn shared_library() -> PathBuf {
    let binary = std::env::current_exe().expect("the path of this binary");
    let library = binary.with_file_name("libbroker.so");
    assert!(library.exists(), "no {}", library.display());
    library
}

/// The name by which programs ask the loader for it.
pub(crate) fn soname() -> String {
    let (major, minor) = (env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"));
    if major == "0" { format!("libbroker.so.0.{minor}") } else { format!("libbroker.so.{major}") }
}

/// Where GLib has its headers, which is not where compilers look. Not ours to warn about.
pub(crate) fn foreign_headers() -> Vec<String> {
    let output = Command::new("pkg-config").args(["--cflags-only-I", "glib-2.0"]).output();
    let output = output.expect("run pkg-config");
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    words.split_whitespace().map(|word| word.replacen("-I", "-isystem", 1)).collect()
}

/// The directory of the compiled programs, with this library under all of its names. It outlives this process.
fn library_directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("native");
        fs::create_dir_all(&directory).expect("a directory");
        for name in ["libbroker.so", &soname()] {
            let link = directory.join(format!("{name}.{}", std::process::id()));
            symlink(shared_library(), &link).expect("a link to the library");
            fs::rename(link, directory.join(name)).expect("its name");
        }
        directory
    })
}

/// A number for what a compiler is given: all headers and programs, itself and `key`.
pub(crate) fn fingerprint(compiler: &str, key: &str) -> u64 {
    static SOURCES: OnceLock<u64> = OnceLock::new();
    let sources = SOURCES.get_or_init(|| {
        let mut hasher = DefaultHasher::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut directories = vec![root.join("include"), root.join("tests/ffi")];
        while let Some(directory) = directories.pop() {
            let entries = fs::read_dir(directory).expect("a directory");
            let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
            paths.sort();
            for path in paths {
                if path.is_dir() {
                    directories.push(path);
                } else {
                    (&path, fs::read(&path).expect("a source")).hash(&mut hasher);
                }
            }
        }
        hasher.finish()
    });
    let version = Command::new(compiler).arg("--version").output().expect("run the compiler");
    let mut hasher = DefaultHasher::new();
    (sources, version.stdout, key).hash(&mut hasher);
    hasher.finish()
}

/// Whether this was found good by an earlier run. If not, and `check` does not panic, a later run will find it so.
pub(crate) fn checked_before(fingerprint: u64, check: impl FnOnce()) {
    let stamp = library_directory().join(format!("{fingerprint:016x}.good"));
    if !stamp.exists() {
        check();
        fs::write(stamp, []).expect("writable");
    }
}

/// The path of a program, compiled if no test has asked for it before.
fn build(source: &str, language: Language, mode: Mode, libraries: &[&str]) -> PathBuf {
    static PROGRAMS: Mutex<BTreeMap<u64, Arc<OnceLock<PathBuf>>>> = Mutex::new(BTreeMap::new());
    let sanitized = mode == Mode::Sanitized;
    let number = fingerprint(
        language.compiler,
        &format!("{source} {language:?} {sanitized} {libraries:?} {OPTIONS:?}"),
    );
    let program = {
        let mut programs = PROGRAMS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Arc::clone(programs.entry(number).or_default())
    };
    // Whoever comes second waits for the first.
    program.get_or_init(|| compile(number, source, language, sanitized, libraries)).clone()
}

const OPTIONS: [&str; 5] = ["-g1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"];

/// Compiles one program. The optimiser sees more to warn about, and makes programs with sanitizers twice as slow to
/// compile: those are for looking at what happens.
fn compile(number: u64, source: &str, language: Language, sanitized: bool, libraries: &[&str]) -> PathBuf {
    let directory = library_directory();
    let program = directory.join(format!("{number:016x}-{source}.program"));
    if program.exists() {
        return program;
    }
    let unfinished = program.with_extension(std::process::id().to_string());
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let mut command = Command::new(language.compiler);
    command.args(language.flags).args(OPTIONS);
    if sanitized {
        command.args([
            "-O0",
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=all",
            "-fno-omit-frame-pointer",
        ]);
    } else {
        command.arg("-O1");
    }
    command
        .args(foreign_headers())
        .arg("-I")
        .arg(include)
        .arg("-I")
        .arg(sources())
        .arg("-o")
        .arg(&unfinished)
        .arg(sources().join(source));
    command.arg("-L").arg(directory).arg("-lbroker").arg(format!("-Wl,-rpath,{}", directory.display()));
    let output = command.args(libraries).arg("-pthread").output().expect("run the compiler");
    assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
    fs::rename(unfinished, &program).expect("its name");
    program
}

/// A program that has been built, and what it runs beside.
pub(crate) struct Native {
    source: String,
    mode: Mode,
    directory: TempDir,
    program: PathBuf,
    redis: Redis,
    port: u16,
    /// The programs of the plain C interface start their own, and count what Redis sees.
    broker: Option<Broker>,
}

impl Native {
    pub(crate) fn build(source: &str, language: Language, mode: Mode, libraries: &[&str]) -> Native {
        let program = build(source, language, mode, libraries);
        let directory = tempfile::Builder::new().prefix("native-").tempdir().expect("a directory");
        let port = free_port();
        let redis = Redis::start_with(&["--port", &port.to_string()]);
        let beside_one = source.starts_with("cpp_") || source.starts_with("adapter_") || source == "format.c";
        // On a machine that is busy, a lane may wait for long.
        let settings = [("connect_timeout", "200s"), ("queue_timeout", "200s")];
        let broker = beside_one.then(|| Broker::start(&redis, &settings));
        Native { source: source.to_owned(), mode, directory, program, redis, port, broker }
    }

    /// Runs it to its end; what it was and what became of it.
    fn run(&self, args: &[&str]) -> (u32, Output) {
        let child = self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.expect("run the program");
        (child.id(), child.wait_with_output().expect("its end"))
    }

    /// It as a command, with all that it asks its environment for.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = match self.mode {
            Mode::Valgrind => {
                let mut valgrind = Command::new("valgrind");
                valgrind.args(["-q", "--leak-check=full", "--show-leak-kinds=definite,indirect"]);
                valgrind.args(["--errors-for-leak-kinds=definite,indirect", "--num-callers=30"]);
                valgrind.arg("--track-fds=yes");
                valgrind.arg(format!("--error-exitcode={VALGRIND}")).arg(&self.program);
                valgrind
            }
            Mode::Plain | Mode::Sanitized => Command::new(&self.program),
        };
        let patience = if self.mode == Mode::Valgrind { "600" } else { "180" };
        let races = sources().join("tsan.supp");
        command
            .args(args)
            .env_remove("BROKER_ENDPOINT")
            // Cargo names a directory whose libbroker.so may be older.
            .env_remove("LD_LIBRARY_PATH")
            .env("BROKER_TEST_REDIS", self.redis.socket())
            .env("BROKER_TEST_REDIS_PORT", self.port.to_string())
            .env("BROKER_TEST_DIRECTORY", self.directory.path())
            .env("BROKER_TEST_BINARY", env!("CARGO_BIN_EXE_broker"))
            .env("BROKER_TEST_PATIENCE", patience)
            .env("ASAN_OPTIONS", format!("detect_leaks=1:exitcode={SANITIZER}"))
            .env(
                "TSAN_OPTIONS",
                format!("exitcode={SANITIZER}:die_after_fork=0:suppressions={}", races.display()),
            )
            .stdin(Stdio::null());
        if let Some(broker) = &self.broker {
            command.env("BROKER_TEST_ENDPOINT", format!("unix://{}", broker.socket().display()));
        }
        command
    }

    /// Runs it, which must go well.
    pub(crate) fn check(&self, args: &[&str]) -> String {
        let (process, output) = self.run(args);
        let (text, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let (source, mode) = (&self.source, self.mode);
        assert!(output.status.success(), "{source} {args:?} {mode:?}: {}\n{text}{errors}", output.status);
        let left = descriptors_left(&errors, process);
        assert!(left.is_empty(), "{source} {args:?} {mode:?}: descriptors left open: {left:?}\n{errors}");
        text.into_owned()
    }
}

/// The descriptors that this process had opened and not closed, as memcheck lists them. Those that it forked have some
/// of its own.
fn descriptors_left(errors: &str, process: u32) -> Vec<&str> {
    let start = format!("=={process}== ");
    let lines: Vec<&str> = errors.lines().filter_map(|line| line.strip_prefix(&start)).collect();
    let open =
        lines.windows(2).filter(|pair| pair[0].starts_with("Open ") && !pair[1].contains("<inherited"));
    open.map(|pair| pair[0]).collect()
}

/// Builds and runs a program in the modes given; in all of them where [`all_modes`] says so.
pub(crate) fn check(source: &str, language: Language, modes: &[Mode], libraries: &[&str], args: &[&str]) {
    let every = [Mode::Plain, Mode::Valgrind, Mode::Sanitized];
    for mode in if all_modes() { &every[..] } else { modes } {
        Native::build(source, language, *mode, libraries).check(args);
    }
}

/// Free a moment ago. Redis fails to start in the rare case that somebody else was faster, and the test says so.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}
