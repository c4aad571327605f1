//! The mutants: patches that break one invariant each (`make mutants` shows that the test named in a patch fails). Here
//! only that they are what they claim: they apply, their tests exist, no invariant of docs/invariants.md is without
//! one, and that page names nothing that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One patch of tests/mutants.
struct Mutant {
    name: String,
    path: PathBuf,
    text: String,
}

impl Mutant {
    fn field(&self, name: &str) -> &str {
        let start = format!("# {name}: ");
        let line = self.text.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("{} has no line `{start}`", self.name))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn mutants() -> Vec<Mutant> {
    let entries = std::fs::read_dir(root().join("tests/mutants")).expect("tests/mutants");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut mutants: Vec<Mutant> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "patch"))
        .map(|path| Mutant {
            name: path.file_stem().expect("a name").to_string_lossy().into_owned(),
            text: std::fs::read_to_string(&path).expect("text"),
            path,
        })
        .collect();
    mutants.sort_by(|a, b| a.name.cmp(&b.name));
    mutants
}

/// The rows of docs/invariants.md: number, and the names in backticks in the column of tests and of mutants.
fn rows() -> BTreeMap<u32, (BTreeSet<String>, BTreeSet<String>)> {
    let page = std::fs::read_to_string(root().join("docs/invariants.md")).expect("docs/invariants.md");
    let mut rows = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let Ok(number) = cells[0].parse() else { continue };
        let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        rows.insert(number, (names(cells[2]), names(cells[3])));
    }
    rows
}

/// Every file with tests.
fn sources() -> String {
    let mut text = String::new();
    let mut folders = vec![root().join("src"), root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                text.push_str(&std::fs::read_to_string(path).expect("text"));
            }
        }
    }
    text
}

#[test]
fn every_mutant_applies_and_names_a_test() {
    let sources = sources();
    for mutant in mutants() {
        let mut check = Command::new("git");
        check.arg("apply").arg("--check").arg(&mutant.path).current_dir(root());
        let output = check.output().expect("run git");
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{} does not apply: {why}", mutant.name);
        let command = mutant.field("caught by");
        assert!(command.contains("cargo test "), "{}: {command}", mutant.name);
        let test = command.rsplit([' ', ':']).next().unwrap_or_default();
        assert!(sources.contains(&format!("fn {test}(")), "{}: no test {test}", mutant.name);
        assert!(!mutant.field("breaks").is_empty());
    }
}

#[test]
fn every_invariant_has_a_test_and_a_mutant() {
    let (rows, sources) = (rows(), sources());
    let mutants = mutants();
    assert!(rows.len() >= 18, "the page was read: {} rows", rows.len());
    for (number, (tests, broken_by)) in &rows {
        assert!(!tests.is_empty() && !broken_by.is_empty(), "invariant {number}");
        for test in tests {
            assert!(sources.contains(&format!("fn {test}(")), "invariant {number}: no test {test}");
        }
        let own = mutants.iter().filter(|mutant| mutant.field("invariant") == number.to_string());
        let own: BTreeSet<String> = own.map(|mutant| mutant.name.clone()).collect();
        assert_eq!(&own, broken_by, "invariant {number}: what is in tests/mutants, and what the page says");
    }
    let numbers: BTreeSet<String> = rows.keys().map(u32::to_string).collect();
    for mutant in &mutants {
        assert!(
            numbers.contains(mutant.field("invariant")),
            "{} breaks no invariant of the page",
            mutant.name
        );
    }
}
