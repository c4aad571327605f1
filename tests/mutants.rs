//! The invariants of ARCHITECTURE.md, and the mutants that break one each (`make mutants` shows that the test named in a
//! mutant fails). Here only that they agree: every invariant has a test that exists and one to three mutants, every number
//! in use is an invariant's, and every mutant applies to the code as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One file of tests/mutants.
struct Mutant {
    name: String,
    text: String,
}

impl Mutant {
    fn field(&self, name: &str) -> &str {
        let start = format!("{name}: ");
        let line = self.text.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("{} has no line `{start}`", self.name))
    }

    fn invariant(&self) -> u32 {
        let text = self.field("invariant");
        text.parse().unwrap_or_else(|_| panic!("{}: invariant {text}", self.name))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn mutants() -> Vec<Mutant> {
    let entries = std::fs::read_dir(root().join("tests/mutants")).expect("tests/mutants");
    let read = |path: PathBuf| Mutant {
        name: path.file_name().expect("a name").to_string_lossy().into_owned(),
        text: std::fs::read_to_string(&path).expect("text"),
    };
    entries.map(|entry| read(entry.expect("an entry").path())).collect()
}

/// The list of ARCHITECTURE.md: by number, the tests in the parentheses that end an invariant.
fn invariants() -> BTreeMap<u32, Vec<String>> {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let (_, list) = page.split_once("\n## Invariants\n").expect("a list of invariants");
    let mut found: BTreeMap<u32, String> = BTreeMap::new();
    let mut open = None;
    for line in list.lines().take_while(|line| !line.starts_with("## ")) {
        let begins = line.split_once(". ").and_then(|(number, _)| number.parse().ok());
        open = begins.or(open.filter(|_| line.starts_with("   ")));
        if let Some(number) = open {
            found.entry(number).or_default().push_str(line);
        }
    }
    let tests = |text: &String| {
        let (_, names) = text.rsplit_once(" (").unwrap_or_default();
        names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    found.iter().map(|(number, text)| (*number, tests(text))).collect()
}

/// Every Rust file below `folders`: its path and its text.
fn sources(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = std::fs::read_to_string(&path).expect("text");
                found.push((path, text));
            }
        }
    }
    found
}

#[test]
fn every_mutant_applies_and_names_a_test() {
    let check = Command::new(root().join("scripts/mutants")).arg("--check").output().expect("run the script");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    let sources = sources(&["src", "tests"]);
    for mutant in mutants() {
        let command = mutant.field("caught by");
        assert!(command.contains("cargo test "), "{}: {command}", mutant.name);
        let test = format!("fn {}(", command.rsplit([' ', ':']).next().unwrap_or_default());
        assert!(sources.iter().any(|(_, text)| text.contains(&test)), "{}: no {test}", mutant.name);
        assert!(!mutant.field("breaks").is_empty());
    }
}

#[test]
fn every_invariant_has_a_test_and_a_mutant() {
    let (invariants, sources, mutants) = (invariants(), sources(&["src", "tests"]), mutants());
    let numbers: Vec<u32> = invariants.keys().copied().collect();
    assert_eq!(numbers, (1..=numbers.len() as u32).collect::<Vec<_>>(), "numbered without a gap");
    for (number, tests) in &invariants {
        assert!(!tests.is_empty(), "invariant {number} names no test");
        for test in tests {
            let line = format!("fn {test}(");
            assert!(
                sources.iter().any(|(_, text)| text.contains(&line)),
                "invariant {number}: no test {test}"
            );
        }
        let own = mutants.iter().filter(|mutant| mutant.invariant() == *number).count();
        assert!((1..=3).contains(&own), "invariant {number} has {own} mutants");
    }
    for mutant in &mutants {
        let number = mutant.invariant();
        assert!(invariants.contains_key(&number), "{} breaks no invariant of the list", mutant.name);
        assert!(mutant.name.starts_with(&format!("{number:02}-")), "{} is {number}", mutant.name);
    }
}

/// What the simulation says is broken, and what comments call by number.
#[test]
fn every_number_in_use_is_an_invariant() {
    let invariants = invariants();
    let mut used = BTreeSet::new();
    for (path, text) in sources(&["src", "tests"]) {
        let text = text.to_ascii_lowercase();
        for start in ["broken!(", "holds!(", "invariant "] {
            for (at, _) in text.match_indices(start) {
                let rest = text[at + start.len()..].trim_start();
                let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                let Ok(number) = rest[..digits].parse::<u32>() else { continue };
                assert!(invariants.contains_key(&number), "{}: invariant {number}", path.display());
                used.insert(number);
            }
        }
    }
    assert!(used.len() > 15, "the simulation was read: {used:?}");
}
