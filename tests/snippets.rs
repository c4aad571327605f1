//! Every block of C, C++ and shell in README.md and docs/, and the examples in the comments of include/, are compiled with
//! warnings denied and run, with the servers and without them, so that no page shows code that fails or crashes when
//! copied.
//!
//! A block with a `main` is a program. A block without one names its program in a comment before it:
//!
//! ```text
//! <!-- snippet: in client -->          the file tests/snippets/client.c (.cpp), in place of SNIPPET
//! <!-- snippet: with libuv, c++20 -->  a pkg-config library; another language than C++17
//! <!-- snippet: no requests -->        works the same without servers
//! ```
//!
//! Each runs beside a Redis and a broker of its own: BROKER_ENDPOINT names the broker, and the addresses of the pages
//! are replaced by those of the two. It must end with 0 and print nothing on standard error; if the text behind it ends
//! with "prints:", its output is the block that follows. Then it runs once more with both servers gone. Of shell only
//! the syntax is checked, unless the comment says `run`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::native::shared_library;
use crate::support::{self, Broker, Redis, end_within};
use tempfile::TempDir;

/// Longer than any snippet works, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(120);
/// A library that Debian 12 does not have.
const OPTIONAL: &str = "redis++";

/// What the pages call the addresses of the broker and of Redis.
const BROKER_PATH: &str = "/run/broker/broker.sock";
const REDIS_URL: &str = "redis://127.0.0.1:6379";
/// A path where a program of theirs listens.
const LISTEN_PATH: &str = "/tmp/broker.sock";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    C,
    Cpp,
    Shell,
}

/// A fenced block, and what the page says about it.
#[derive(Debug)]
struct Snippet {
    /// `page:line` of its first line.
    place: String,
    language: Language,
    code: String,
    /// The words of the comment before it.
    marks: Vec<String>,
    prints: Option<String>,
}

impl Snippet {
    fn mark(&self, key: &str) -> Option<&str> {
        self.marks.iter().find_map(|mark| mark.strip_prefix(key)?.strip_prefix(' '))
    }

    fn has(&self, mark: &str) -> bool {
        self.marks.iter().any(|each| each == mark)
    }

    /// The whole program, with every address replaced.
    fn program(&self, redis: &Redis, broker: &Broker, directory: &Path) -> String {
        let whole = match self.mark("in") {
            Some(name) => {
                let extension = if self.language == Language::C { "c" } else { "cpp" };
                let path = root().join("tests/snippets").join(name).with_extension(extension);
                let frame = fs::read_to_string(&path).unwrap_or_else(|_| panic!("{}: no {name}", self.place));
                assert_eq!(frame.matches("SNIPPET").count(), 1, "{name} has one place for a snippet");
                let before = frame.lines().find_map(|line| line.strip_suffix("SNIPPET")).unwrap_or_default();
                frame.replace("SNIPPET", self.code.replace('\n', &format!("\n{before}")).trim())
            }
            None => self.code.clone(),
        };
        let is_complete = self.language == Language::Shell || whole.contains("main(");
        assert!(is_complete, "{}: a part of which program? See tests/snippets.rs", self.place);
        whole
            .replace(BROKER_PATH, &broker.socket().display().to_string())
            .replace(REDIS_URL, &redis.url())
            .replace(LISTEN_PATH, &directory.join("own.sock").display().to_string())
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages, as paths below the root.
fn pages() -> Vec<String> {
    let docs =
        root().join("docs").read_dir().expect("docs").map(|entry| entry.expect("an entry").file_name());
    let docs = docs.map(|name| format!("docs/{}", name.into_string().expect("text")));
    let mut pages: Vec<String> = docs.filter(|page| page.ends_with(".md")).collect();
    pages.push("README.md".to_owned());
    pages.sort();
    pages
}

/// All blocks of a page that are to be checked.
fn snippets(page: &str) -> Vec<Snippet> {
    let text = fs::read_to_string(root().join(page)).expect("a page");
    let lines: Vec<&str> = text.lines().collect();
    let (mut found, mut at): (Vec<Snippet>, usize) = (Vec::new(), 0);
    // The text since the last block.
    let mut between = String::new();
    while at < lines.len() {
        let Some(language) = lines[at].strip_prefix("```") else {
            between.push_str(lines[at]);
            between.push('\n');
            at += 1;
            continue;
        };
        let length = lines[at + 1..].iter().take_while(|line| !line.starts_with("```")).count();
        let code: String = lines[at + 1..at + 1 + length].iter().map(|line| format!("{line}\n")).collect();
        if let Some(language) = checked(language) {
            let (place, marks) = (format!("{page}:{}", at + 2), marks(&between));
            found.push(Snippet { place, language, code, marks, prints: None });
        } else if language == "text" && between.trim_end().ends_with("prints:") {
            found.last_mut().expect("something that prints").prints = Some(code);
        }
        between.clear();
        at += length + 2;
    }
    found
}

/// Headers with an example in their first comment, its frame in tests/snippets, and the library it needs.
const HEADERS: [(&str, &str, Option<&str>); 9] = [
    ("broker.hpp", "header_broker", None),
    ("broker/shared_client.hpp", "header_shared_client", None),
    ("broker/format.h", "header_format", None),
    ("broker/adapters/epoll.h", "header_epoll", None),
    ("broker/adapters/uv.h", "header_uv", Some("libuv")),
    ("broker/adapters/libevent.h", "header_libevent", Some("libevent_core")),
    ("broker/adapters/glib.h", "header_glib", Some("glib-2.0")),
    ("broker/adapters/sd_event.h", "header_sd_event", Some("libsystemd")),
    ("broker/adapters/asio.hpp", "header_asio", None),
];

/// The example of a header: the lines of its first comment that are indented like code.
fn example((header, frame, library): (&str, &str, Option<&str>)) -> Snippet {
    let text = fs::read_to_string(root().join("include").join(header)).expect("a header");
    let comment = text.lines().take_while(|line| line.starts_with("//") || !line.trim().ends_with("*/"));
    let indented = |line: &str| {
        let code = line.strip_prefix(" *     ").or_else(|| line.strip_prefix("//   "))?;
        Some(format!("{code}\n"))
    };
    let code: String =
        comment.take_while(|line| !line.starts_with("#include")).filter_map(indented).collect();
    assert!(!code.is_empty(), "{header} has an example");
    let language = if header.ends_with(".hpp") { Language::Cpp } else { Language::C };
    let library = library.map(|library| format!("with {library}"));
    let marks = [Some(format!("in {frame}")), library].into_iter().flatten().collect();
    Snippet { place: format!("include/{header}"), language, code, marks, prints: None }
}

fn checked(language: &str) -> Option<Language> {
    match language {
        "c" => Some(Language::C),
        "cpp" | "c++" => Some(Language::Cpp),
        "sh" => Some(Language::Shell),
        _ => None,
    }
}

/// The words of a comment that stands at the very end of `text`.
fn marks(text: &str) -> Vec<String> {
    let comment = text.trim_end().lines().last().and_then(|line| line.strip_prefix("<!-- snippet: "));
    let words = comment.and_then(|line| line.strip_suffix(" -->")).unwrap_or_default();
    words.split(", ").filter(|word| !word.is_empty()).map(ToOwned::to_owned).collect()
}

/// What pkg-config answers.
fn flags(library: &str) -> Vec<String> {
    let output =
        Command::new("pkg-config").args(["--cflags", "--libs", library]).output().expect("pkg-config");
    assert!(output.status.success(), "pkg-config does not find {library}: see scripts/deps");
    let text = String::from_utf8_lossy(&output.stdout).replace("-I", "-isystem ");
    text.split_whitespace().map(ToOwned::to_owned).collect()
}

/// Compiles a program.
fn compile(snippet: &Snippet, source: &str, directory: &Path, patient: bool) -> PathBuf {
    let libraries = snippet.mark("with").map(flags).unwrap_or_default();
    for name in ["libbroker.so", "libbroker.so.0", "libbroker.so.0.1"] {
        std::os::unix::fs::symlink(shared_library(), directory.join(name)).expect("a link to the library");
    }
    let cpp = snippet.language == Language::Cpp;
    let (path, program) = (directory.join(if cpp { "p.cpp" } else { "p.c" }), directory.join("program"));
    let source = if patient { with_patience(source) } else { source.to_owned() };
    fs::write(&path, source).expect("write the program");
    let mut command = Command::new(if cpp { "c++" } else { "cc" });
    if cpp {
        command.arg(if snippet.has("c++20") { "-std=c++20" } else { "-std=c++17" });
    }
    command.args(["-Wall", "-Wextra", "-Werror", "-pthread", "-I"]).arg(root().join("include"));
    if patient {
        command.arg("-I").arg(root().join("tests/snippets"));
    }
    command.arg("-o").arg(&program).arg(&path).arg("-L").arg(directory).arg("-lbroker");
    command.arg(format!("-Wl,-rpath,{}", directory.display())).args(libraries);
    let output = command.output().expect("run the compiler");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}:\n{words}", snippet.place);
    program
}

/// The program with tests/snippets/patience.h as soon as it has the library's header.
fn with_patience(source: &str) -> String {
    let both = "#include <broker.h>\n#include <patience.h>\n";
    let c = source.replacen("#include <broker.h>\n", both, 1);
    c.replacen("#include <broker.hpp>", &format!("{both}#include <broker.hpp>"), 1)
}

/// Compiles and runs one.
fn check(snippet: &Snippet) {
    if snippet.language == Language::Shell && !snippet.has("run") {
        let syntax = Command::new("sh").args(["-n", "-c", &snippet.code]).output().expect("run a shell");
        return assert!(syntax.status.success(), "{}: {syntax:?}", snippet.place);
    }
    let directory = tempfile::Builder::new().prefix("snippet-").tempdir().expect("a directory");
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    let source = snippet.program(&redis, &broker, directory.path());
    let mut command = if snippet.language == Language::Shell {
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", &source]);
        shell
    } else {
        Command::new(compile(snippet, &source, directory.path(), true))
    };
    command.current_dir(directory.path()).env_remove("LD_LIBRARY_PATH");
    let endpoint = format!("unix://{}", broker.socket().display());
    let output = run(command.env("BROKER_ENDPOINT", &endpoint), &directory, &snippet.place);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let good = output.status.success() && errors.is_empty();
    assert!(good, "{}: {}\n{text}{errors}", snippet.place, output.status);
    if let Some(wanted) = &snippet.prints {
        assert_eq!(text.trim_end(), wanted.trim_end(), "{}", snippet.place);
    }
    broker.term();
    broker.wait_exit(support::PATIENCE);
    drop(redis);
    check_failure(snippet, &mut command, &directory, &text);
}

/// Without a broker and without Redis a program neither crashes nor hangs, and does not pretend to have worked: `good` is
/// what it printed with them. C++ may end in an exception that it does not catch.
fn check_failure(snippet: &Snippet, command: &mut Command, directory: &TempDir, good: &str) {
    let output = run(command.env("SNIPPET_WITHOUT_SERVERS", "1"), directory, &snippet.place);
    let errors = String::from_utf8_lossy(&output.stderr);
    let thrown = snippet.language == Language::Cpp && errors.contains("terminate called after throwing");
    let place = &snippet.place;
    assert!(output.status.code().is_some() || thrown, "{place} without servers: {}\n{errors}", output.status);
    let unchanged = output.status.success() && errors.is_empty() && output.stdout == good.as_bytes();
    let asks_nobody = snippet.has("no requests") || snippet.mark("in") == Some("declarations");
    assert!(asks_nobody || !unchanged, "{place} without servers: it pretends that all went well");
}

/// To its end; its output goes into files, since it may be of any length.
fn run(command: &mut Command, directory: &TempDir, place: &str) -> Output {
    let [out, err] = ["out", "err"].map(|name| directory.path().join(name));
    let file = |path: &Path| fs::File::create(path).expect("a file");
    command.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err));
    let mut process: Child = command.spawn().unwrap_or_else(|error| panic!("{place}: {error}"));
    let status = end_within(&mut process, LIMIT).unwrap_or_else(|| {
        process.kill().expect("end a snippet");
        process.wait().expect("its end");
        panic!("{place}: it ran on for {LIMIT:?}: {}", fs::read_to_string(&err).unwrap_or_default())
    });
    let read = |path: &Path| fs::read(path).expect("its output");
    Output { status, stdout: read(&out), stderr: read(&err) }
}

/// All at once, as many at a time as there are processors; says everything that is wrong.
#[test]
fn every_snippet_of_every_page_and_header_works() {
    let mut all: Vec<Snippet> = pages().iter().flat_map(|page| snippets(page)).collect();
    all.extend(HEADERS.map(example));
    all.retain(|snippet| snippet.mark("with") != Some(OPTIONAL));
    assert!(all.len() > 10, "the snippets are found: {}", all.len());
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(String::new()));
    let work = || {
        while let Some(snippet) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Err(why) = std::panic::catch_unwind(|| check(snippet)) else { continue };
            let words = why.downcast_ref::<String>().map_or("it panics", String::as_str);
            *failures.lock().expect("no panic while it is held") += &format!("{words}\n\n");
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().expect("no panic while it was held");
    assert!(failures.is_empty(), "{failures}");
}

#[test]
#[ignore = "needs redis-plus-plus"]
fn every_snippet_with_redis_plus_plus_works() {
    let mut all: Vec<Snippet> = pages().iter().flat_map(|page| snippets(page)).collect();
    all.retain(|snippet| snippet.mark("with") == Some(OPTIONAL));
    assert!(!all.is_empty());
    all.iter().for_each(check);
}

#[test]
fn a_snippet_that_does_not_work_is_noticed() {
    let snippet = |code: &str, prints: Option<&str>| Snippet {
        place: "here".to_owned(),
        language: Language::C,
        code: code.to_owned(),
        marks: vec!["no requests".to_owned()],
        prints: prints.map(ToOwned::to_owned),
    };
    let hello = "#include <stdio.h>\nint main(void) { puts(\"a\"); return 0; }\n";
    check(&snippet(hello, Some("a\n")));
    for bad in [
        snippet("int main(void) { return 1; }", None),
        snippet("int main(void) { int unused; return 0; }", None),
        snippet("puts(\"no program\");", None),
        snippet(hello, Some("b\n")),
        Snippet { marks: Vec::new(), ..snippet(hello, Some("a\n")) },
    ] {
        assert!(std::panic::catch_unwind(|| check(&bad)).is_err(), "{bad:?}");
    }
}

/// What a reader tries first meets no key, or no broker, on the first attempt.
#[test]
fn the_first_program_of_the_readme_survives_a_missing_key_and_a_failed_connect() {
    let all = snippets("README.md");
    let first = all.iter().find(|each| each.language == Language::C && each.code.contains("main("));
    let first = first.expect("a whole program");
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    let outcome = |broker: &Broker, patient: bool| {
        let scratch = tempfile::Builder::new().prefix("snippet-").tempdir().expect("a directory");
        let source = first.program(&redis, broker, scratch.path());
        let program = compile(first, &source, scratch.path(), patient);
        let output = run(Command::new(&program).env_remove("LD_LIBRARY_PATH"), &scratch, &first.place);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(outcome(&broker, true), (Some(0), "(nil)\n".to_owned(), String::new()));
    redis.connect().expect("SET key value", "+OK\r\n");
    assert_eq!(outcome(&broker, true), (Some(0), "value\n".to_owned(), String::new()));
    broker.term();
    broker.wait_exit(support::PATIENCE);
    let (code, text, words) = outcome(&broker, false);
    assert_eq!((code, text.as_str()), (Some(1), ""));
    assert!(words.contains("No such file") || words.contains("refused"), "{words}");
}
