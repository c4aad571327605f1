//! Every module that logs belongs to an area that operators can name. Read from the source text.

use std::fs;
use std::path::{Path, PathBuf};

use broker::base::log_area::name_of;

/// Also those that pass on whom a line is about.
const MACROS: [&str; 6] =
    ["log::error!", "log::warn!", "log::info!", "log::debug!", "log::trace!", "log_child!("];

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            collect(&entry, files);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
}

/// The module of a file, as its log lines name it: those of the program stand at the root of a crate of the same name.
fn module_of(src: &Path, file: &Path) -> String {
    let program = src.join("bin/broker");
    let below = file.strip_prefix(&program).or_else(|_| file.strip_prefix(src.join("bin")));
    let path = below.or_else(|_| file.strip_prefix(src)).expect("below src").with_extension("");
    let mut parts = vec!["broker".to_owned()];
    parts.extend(path.iter().map(|part| part.to_string_lossy().into_owned()));
    parts.pop_if(|last| last == "mod");
    parts.join("::")
}

#[test]
fn every_module_that_logs_has_an_area() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    let logs = |file: &&PathBuf| {
        let text = fs::read_to_string(file).expect("a source file");
        MACROS.iter().any(|name| text.contains(name))
    };
    let modules: Vec<String> = files.iter().filter(logs).map(|file| module_of(&src, file)).collect();
    for known in ["broker::core::child::closing", "broker::serve", "broker::config"] {
        assert!(modules.iter().any(|module| module == known), "{known} logs");
    }
    let homeless: Vec<_> = modules.iter().filter(|module| name_of(module) == "other").collect();
    assert!(homeless.is_empty(), "add them to base::log_area: {homeless:?}");
}
