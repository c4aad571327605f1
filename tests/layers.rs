//! The rooms of the crate: a module may use only itself and the rooms before it; only some may touch sockets,
//! time or `unsafe`. Read from the source text, so that a wrong `use` fails here and not in review.

use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up.
const ROOMS: [&str; 10] =
    ["base", "resp", "command", "config", "core", "transport", "monitor", "reactor", "client", "ffi"];

struct Source {
    /// Relative to `src/`, with `/` between parts.
    path: String,
    /// Numbered lines without comments.
    lines: Vec<(usize, String)>,
}

impl Source {
    fn room(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }
}

#[test]
fn rooms_use_only_rooms_below() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(own) = ROOMS.iter().position(|room| *room == source.room()) else { continue };
        for (number, line) in &source.lines {
            for name in crate_paths(line) {
                match ROOMS.iter().position(|room| *room == name) {
                    Some(used) if used <= own => {}
                    _ => wrong.push(format!("src/{}:{number}: crate::{name}", source.path)),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} must not reach up:\n{}", ROOMS.join(" < "), wrong.join("\n"));
}

#[test]
fn every_module_is_a_known_room() {
    let sources = sources();
    for room in ROOMS {
        assert!(sources.iter().any(|source| source.room() == room), "src/ has no room {room}");
    }
    for source in sources {
        let known = ROOMS.contains(&source.room()) || ["lib", "bin"].contains(&source.room());
        assert!(known, "src/{} is in no room of {}", source.path, ROOMS.join(", "));
    }
}

#[test]
fn only_the_driver_names_mio() {
    forbid("mio", &["reactor/", "transport/", "client/"]);
}

#[test]
fn only_the_clock_reads_time() {
    forbid("Instant", &["base/clock.rs", "bin/"]);
    forbid("SystemTime", &["base/clock.rs", "bin/"]);
}

#[test]
fn unsafe_stands_only_in_the_c_interface() {
    forbid("unsafe", &["ffi/"]);
}

/// URLs and the replies to the broker's own questions are read by the `redis` crate. Nothing else is its business but
/// the demo, where it is a client like any other.
#[test]
fn the_redis_crate_reads_urls_and_control_replies() {
    let reads = ["parse_redis_url", "parse_redis_value", "ConnectionAddr", "IntoConnectionInfo", "Value"];
    // The simulation has a module of that name.
    let exempt = ["bin/demo/", "core/sim/"];
    for source in sources().iter().filter(|source| !exempt.iter().any(|start| source.path.starts_with(start)))
    {
        for (number, line) in &source.lines {
            for name in paths_of(line, "redis") {
                assert!(reads.contains(&name.as_str()), "src/{}:{number}: redis::{name}", source.path);
            }
        }
    }
}

/// The core holds queues and states, never a connection.
#[test]
fn the_core_holds_no_socket() {
    for word in ["net", "io", "UnixStream", "TcpStream", "socket2", "mio", "rustix", "RawFd", "OwnedFd"] {
        for source in sources().iter().filter(|source| source.room() == "core") {
            for (number, line) in &source.lines {
                let standard = ["net", "io"].contains(&word);
                let found =
                    if standard { line.contains(&format!("std::{word}")) } else { has_word(line, word) };
                assert!(!found, "src/{}:{number} names {word}: {line}", source.path);
            }
        }
    }
}

/// What is said over HTTP is bytes in and bytes out.
#[test]
fn what_is_monitored_is_written_without_a_socket() {
    for source in sources().iter().filter(|source| source.room() == "monitor") {
        for (number, line) in &source.lines {
            let found = ["transport", "core", "socket2", "rustix", "TcpStream", "UnixStream", "File"];
            let found = found.iter().any(|word| has_word(line, word)) || line.contains("std::io");
            assert!(!found, "src/{}:{number}: {line}", source.path);
        }
    }
}

/// Only the program reads its arguments, the environment and signals; the library has one documented place.
#[test]
fn only_the_program_reads_arguments_and_signals() {
    for word in ["env::args", "env::args_os", "signal_hook"] {
        for source in sources().iter().filter(|source| source.room() != "bin") {
            for (number, line) in &source.lines {
                assert!(!line.contains(word), "src/{}:{number} names {word}: {line}", source.path);
            }
        }
    }
}

/// The reader of names is worth nothing if it misses the forms in use.
#[test]
fn the_reader_of_paths_sees_all_forms() {
    assert_eq!(crate_paths("use crate::base::key::Key;"), ["base"]);
    assert_eq!(crate_paths("use crate::{base::key, resp::{self, frame}, core};"), ["base", "resp", "core"]);
    assert_eq!(
        crate_paths("    let x = crate::core::lane::Lane::new(crate::base::limits::MAX);"),
        ["core", "base"]
    );
    assert_eq!(crate_paths("pub(crate) fn plain() {}"), Vec::<String>::new());
    assert_eq!(paths_of("let a = redis::cmd(\"GET\");", "redis"), ["cmd"]);
    assert!(has_word("let at = Instant::now();", "Instant") && !has_word("InstantNoodles", "Instant"));
    assert_eq!(without_comment("let a = 1; // unsafe"), "let a = 1; ");
    assert_eq!(without_comment("\"unix:///path\" // x"), "\"unix:///path\" ");
}

fn forbid(word: &str, allowed: &[&str]) {
    let (mut wrong, sources) = (Vec::new(), sources());
    for place in allowed {
        let used = sources.iter().any(|source| source.path.starts_with(place));
        assert!(used, "src/{place} may name {word}, but is not there");
    }
    for source in sources {
        if allowed.iter().any(|prefix| source.path.starts_with(prefix)) {
            continue;
        }
        let found = source.lines.iter().filter(|(_, line)| has_word(line, word) && !names_a_lint(line));
        wrong.extend(found.map(|(number, line)| format!("src/{}:{number}: {}", source.path, line.trim())));
    }
    assert!(wrong.is_empty(), "only {} may name {word}:\n{}", allowed.join(", "), wrong.join("\n"));
}

/// `#![forbid(unsafe_code)]` and its like speak about a word without using it.
fn names_a_lint(line: &str) -> bool {
    line.trim_start().starts_with("#![") || line.trim_start().starts_with("#[")
}

fn crate_paths(line: &str) -> Vec<String> {
    paths_of(line, "crate")
}

/// What stands behind `root::` in every path of a line, groups in braces included.
fn paths_of(line: &str, root: &str) -> Vec<String> {
    let mut names = Vec::new();
    let start = format!("{root}::");
    for (at, _) in line.match_indices(&start) {
        if line[..at].chars().next_back().is_some_and(is_name) {
            continue;
        }
        let rest = &line[at + start.len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(group_heads(group)),
            None => names.push(rest.chars().take_while(|c| is_name(*c)).collect()),
        }
    }
    names
}

fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut part, mut heads) = (0, String::new(), Vec::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(std::mem::take(&mut part)),
            _ if depth == 0 => part.push(c),
            _ => {}
        }
    }
    heads.push(part);
    let names = heads.iter().map(|head| head.trim().chars().take_while(|c| is_name(*c)).collect::<String>());
    names.filter(|name| !name.is_empty()).collect()
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(is_name);
        let after = line[at + word.len()..].chars().next().is_some_and(is_name);
        !before && !after
    })
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Cuts a comment; two slashes inside a string, as in a URL, stay.
fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    for (at, c) in line.char_indices() {
        match c {
            '"' if !line[..at].ends_with('\\') => quoted = !quoted,
            '/' if !quoted && line[at..].starts_with("//") => return &line[..at],
            _ => {}
        }
    }
    line
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 5, "the sources are where they are looked for");
    files.iter().map(|file| read(&root, file)).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("read src").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            collect(&entry, files);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
}

/// Joins a `use` that stretches over lines, so that its groups are seen whole.
fn read(root: &Path, file: &Path) -> Source {
    let text = fs::read_to_string(file).expect("a source file");
    let path = file.strip_prefix(root).expect("below src").to_string_lossy().replace('\\', "/");
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        let line = without_comment(line);
        match lines.last_mut() {
            Some((_, whole)) if open => {
                whole.push(' ');
                whole.push_str(line.trim());
            }
            _ => lines.push((index + 1, line.to_owned())),
        }
        let whole = &lines.last().expect("a line").1;
        let uses = whole.trim_start().trim_start_matches("pub ").starts_with("use ");
        open = uses && !whole.contains(';');
    }
    Source { path, lines }
}
