//! The files of the core import each other in one direction only: names, then what each room owns, then what all share,
//! then what serves requests, then the driver's face. Read from the source text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Functions of `Broker`, the driver's face, over all files.
const BROKER_FUNCTIONS_MAX: usize = 190;

/// A module, as its path below `src/`.
type Module = Vec<String>;

/// The modules of the core with their text, tests and the simulation left out.
fn modules() -> BTreeMap<Module, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root.join("core"), &mut files);
    let mut modules = BTreeMap::new();
    for file in files {
        let path = file.strip_prefix(&root).expect("below src").with_extension("");
        let mut module: Module = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module.iter().any(|part| part == "tests" || part == "sim") {
            continue;
        }
        module.pop_if(|last| last == "mod");
        let text = fs::read_to_string(file).expect("a source file");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
        modules.insert(module, code);
    }
    assert!(modules.len() > 50, "the core is where it is looked for: {}", modules.len());
    modules
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            collect(&entry, files);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
}

/// The paths that a `use` names, its groups resolved.
fn paths(tree: &str) -> Vec<String> {
    let Some((head, group)) = tree.split_once('{') else { return vec![tree.trim().to_owned()] };
    let group = group.rsplit_once('}').map_or(group, |(group, _)| group);
    let (mut depth, mut part, mut parts) = (0, String::new(), Vec::new());
    for c in group.chars() {
        match c {
            ',' if depth == 0 => parts.push(std::mem::take(&mut part)),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                part.push(c);
            }
        }
    }
    parts.push(part);
    parts.iter().flat_map(|part| paths(part)).map(|part| format!("{}{part}", head.trim())).collect()
}

/// The modules that a module imports from.
fn imports(own: &Module, code: &str, modules: &BTreeMap<Module, String>) -> BTreeSet<Module> {
    let uses = code.split("\nuse ").skip(1).filter_map(|rest| rest.split_once(';')).map(|(tree, _)| tree);
    let mut found = BTreeSet::new();
    for path in uses.flat_map(paths) {
        let mut parts: Vec<&str> = path.split("::").map(str::trim).collect();
        let mut module: Module = match parts[0] {
            "crate" => Vec::new(),
            "super" => own.clone(),
            _ => continue,
        };
        while parts.first() == Some(&"super") {
            parts.remove(0);
            module.pop();
        }
        module.extend(parts.iter().filter(|part| **part != "crate").map(|part| (*part).to_owned()));
        while !module.is_empty() && !modules.contains_key(&module) {
            module.pop();
        }
        if module.len() > 1 && module != *own {
            found.insert(module);
        }
    }
    found
}

#[test]
fn no_files_of_the_core_import_each_other_in_a_circle() {
    let modules = modules();
    let imports: BTreeMap<&Module, BTreeSet<Module>> =
        modules.iter().map(|(module, code)| (module, imports(module, code, &modules))).collect();
    assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 200, "the imports are found");
    for start in imports.keys() {
        let (mut seen, mut next) = (BTreeSet::new(), vec![*start]);
        while let Some(module) = next.pop() {
            for used in imports.get(module).into_iter().flatten() {
                assert!(used != *start, "{start:?} is imported by {module:?}, which it imports itself");
                if seen.insert(used) {
                    next.push(used);
                }
            }
        }
    }
}

#[test]
fn the_broker_is_the_face_for_the_driver() {
    let mut functions = 0;
    for code in modules().values() {
        for block in code.split("\nimpl Broker {").skip(1) {
            let block = block.split("\n}\n").next().unwrap_or_default();
            functions +=
                block.lines().filter(|line| line.starts_with("    ") && is_function(line.trim())).count();
        }
    }
    assert!((40..=BROKER_FUNCTIONS_MAX).contains(&functions), "{functions} functions of Broker");
}

fn is_function(line: &str) -> bool {
    let line =
        line.strip_prefix("pub").map_or(line, |rest| rest.trim_start_matches(|c| c != ' ').trim_start());
    line.starts_with("fn ") || line.starts_with("const fn ")
}

#[test]
fn paths_are_resolved() {
    assert_eq!(
        paths("crate::core::{keys::{ChildKey, LaneKey}, env::Env}"),
        ["crate::core::keys::ChildKey", "crate::core::keys::LaneKey", "crate::core::env::Env"]
    );
    assert!(is_function("pub(crate) fn a() {") && is_function("fn b() {") && !is_function("pub struct C;"));
}
