//! One word for one thing: no two types in `src/` have one name. Read from the source text. Models and fixtures of unit
//! tests (`core/sim`, `tests.rs`) are not counted: they name what they stand for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The files of `directory` and below that end in `.rs`.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of src/") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn is_test_support(path: &str) -> bool {
    path.starts_with("core/sim/") || path.ends_with("tests.rs") || path.contains("/tests/")
}

/// The type that a line of source declares. Associated types are indented and have no name of their own.
fn declared(line: &str) -> Option<&str> {
    let mut code = line.trim_start();
    let indented = code.len() < line.len();
    if let Some(rest) = code.strip_prefix("pub") {
        code = match rest.strip_prefix('(') {
            Some(scope) => scope.split_once(") ")?.1,
            None => rest.strip_prefix(' ')?,
        };
    }
    let (keyword, rest) = code.split_once(' ')?;
    let is_type = match keyword {
        "struct" | "enum" | "union" => true,
        "type" => !indented,
        _ => false,
    };
    let end = rest.find(|next: char| !next.is_alphanumeric() && next != '_').unwrap_or(rest.len());
    (is_type && end > 0).then(|| &rest[..end])
}

#[test]
fn no_two_types_have_one_name() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut declarations: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files {
        let path = file.strip_prefix(&src).expect("a path below src/").display().to_string();
        if is_test_support(&path) {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a source file");
        for (number, name) in
            text.lines().enumerate().filter_map(|(at, line)| Some((at + 1, declared(line)?)))
        {
            declarations.entry(name.to_owned()).or_default().push(format!("src/{path}:{number}"));
        }
    }
    assert!(declarations.len() > 200, "the types are found: {}", declarations.len());
    let twice: Vec<(&String, &Vec<String>)> =
        declarations.iter().filter(|(_, places)| places.len() > 1).collect();
    let twice: Vec<String> =
        twice.iter().map(|(name, places)| format!("{name}: {}", places.join(", "))).collect();
    assert!(twice.is_empty(), "types of one name:\n{}", twice.join("\n"));
}

#[test]
fn declarations_are_found() {
    assert_eq!(declared("pub(crate) struct Lane<T> {"), Some("Lane"));
    assert_eq!(declared("    enum Kind {"), Some("Kind"));
    assert_eq!(declared("pub struct Key(u64);"), Some("Key"));
    assert_eq!(declared("pub(super) type Answer<T> = Result<T, String>;"), Some("Answer"));
    assert_eq!(declared("    type Beside = ();"), None);
    assert_eq!(declared("/// struct Lane"), None);
    assert_eq!(declared("pub fn lane() {"), None);
}
