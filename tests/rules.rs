//! What the tests themselves hold to: none passes without having checked anything, and none waits for a time where it
//! could wait for an event. Read from their source text.

use std::fs;
use std::path::{Path, PathBuf};

struct Source {
    /// Relative to `tests/`.
    path: String,
    lines: Vec<String>,
}

/// A test that has nothing to check here is ignored by an attribute, so that the summary counts it. Deeper inside, where a
/// closure or a loop may end early, nothing is said.
#[test]
fn no_test_returns_before_its_end() {
    let mut wrong = Vec::new();
    for source in sources() {
        wrong.extend(early_returns(&source.lines).iter().map(|at| format!("tests/{}:{at}", source.path)));
    }
    assert!(wrong.is_empty(), "use #[ignore], or #[cfg_attr(direct, ignore)]:\n{}", wrong.join("\n"));
}

/// Each has its reason in the line before it: the time that is measured, a chance that is drawn, or the pause between two
/// looks at what nothing announces.
#[test]
fn every_sleep_says_what_it_is_for() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.path.starts_with("twin/")) {
        let numbers = sleeps(&source.lines);
        wrong.extend(numbers.iter().map(|at| format!("tests/{}:{at}", source.path)));
    }
    assert!(
        wrong.is_empty(),
        "wait for an event, or say in a comment what is measured:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_reader_sees_what_is_forbidden() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let early = "#[test]\nfn a() {\n    if direct() {\n        return;\n    }\n    let x = f();\n}\n";
    assert_eq!(early_returns(&lines(early)), [4]);
    let bound = "#[test]\n#[cfg(x)]\nfn a() {\n    let Some(x) = build() else { return };\n}\n";
    assert_eq!(early_returns(&lines(bound)), [4]);
    let told = "#[test]\nfn a() {\n    if no_tool() {\n        return eprintln!(\"no tool\");\n    }\n}\n";
    assert_eq!(early_returns(&lines(told)), [4]);
    assert!(early_returns(&lines("fn helper() {\n    return;\n}\n")).is_empty());
    let pause = "fn a() {\n    thread::sleep(MOMENT);\n    // Measured.\n    thread::sleep(MOMENT);\n}\n";
    assert_eq!(sleeps(&lines(pause)), [2]);
}

/// Where a test leaves itself, counted from one.
fn early_returns(lines: &[String]) -> Vec<usize> {
    let (mut found, mut is_next, mut is_inside) = (Vec::new(), false, false);
    for (index, line) in lines.iter().enumerate() {
        if line.trim() == "#[test]" {
            is_next = true;
        } else if is_next && line.trim_start().starts_with("fn ") {
            (is_next, is_inside) = (false, true);
        } else if line.starts_with('}') {
            is_inside = false;
        } else if is_inside && leaves(line) {
            found.push(index + 1);
        }
    }
    found
}

fn leaves(line: &str) -> bool {
    let depth = line.len() - line.trim_start().len();
    let text = line.trim();
    depth <= 8
        && (text == "return;" || text.starts_with("return eprintln!") || text.ends_with("else { return };"))
}

fn sleeps(lines: &[String]) -> Vec<usize> {
    let has_reason = |index: usize| index > 0 && lines[index - 1].trim_start().starts_with("//");
    let calls =
        lines.iter().enumerate().filter(|(_, line)| line.contains("thread::sleep(") && !line.contains('"'));
    calls.filter(|(index, _)| !has_reason(*index)).map(|(index, _)| index + 1).collect()
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 50, "the sources are where they are looked for");
    let read = |file: &PathBuf| Source {
        path: file.strip_prefix(&root).expect("below tests").display().to_string(),
        lines: fs::read_to_string(file).expect("text").lines().map(str::to_owned).collect(),
    };
    files.iter().map(read).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("read tests").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            collect(&entry, files);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
}
