//! A change of the ABI cannot pass `make abi-check`: shown on a copy of the sources, built with debug information
//! and compared with the description that is committed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The sources in a directory that is always the same, so that only what has changed is built again.
fn copy() -> PathBuf {
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("abi-sources");
    let _ = fs::remove_dir_all(&copy);
    fs::create_dir_all(&copy).expect("a directory");
    for entry in fs::read_dir(env!("CARGO_MANIFEST_DIR")).expect("the project") {
        let entry = entry.expect("readable");
        if !["target", ".git"].iter().any(|skipped| entry.file_name() == *skipped) {
            run(Command::new("cp").arg("-r").arg(entry.path()).arg(&copy));
        }
    }
    copy
}

fn run(command: &mut Command) {
    let (succeeds, text) = outcome(command);
    assert!(succeeds, "{command:?}: {text}");
}

/// What `make abi-check` makes of the copy: whether it passes, and all that it says.
fn check(copy: &Path) -> (bool, String) {
    let mut make = Command::new("make");
    make.arg("abi-check").current_dir(copy).env("CARGO_TARGET_DIR", built()).env("CARGO_NET_OFFLINE", "true");
    // What an outer make says about its own jobs and variables is not meant for this one.
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"] {
        make.env_remove(variable);
    }
    outcome(&mut make)
}

fn outcome(command: &mut Command) -> (bool, String) {
    let output = command.output().expect("run it");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Where the copy is built.
fn built() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("abi-build")
}

#[test]
fn a_changed_parameter_fails_the_check() {
    let copy = copy();
    let (passes, text) = check(&copy);
    assert!(passes, "{text}");

    // A function that the packages' symbols file does not have, which `make abi` writes with the present version.
    let path = copy.join("dist/deb/symbols");
    let symbols = fs::read_to_string(&path).expect("readable");
    let (line, other) = (symbols.lines().last().expect("a function"), "dist/deb/symbols. If this is meant");
    fs::write(&path, symbols.replace(&format!("{line}\n"), "")).expect("writable");
    let (passes, text) = check(&copy);
    assert!(!passes && text.contains(&format!("+{line}")) && text.contains(other), "{text}");
    fs::write(&path, &symbols).expect("writable");

    let path = copy.join("src/ffi/codes.rs");
    let source = fs::read_to_string(&path).expect("readable");
    let (head, body) =
        ("fn broker_strerror(code: c_int) -> *const c_char {\n", "let code = code as c_int;\n");
    assert!(source.contains(head), "{head} is not there to be changed");
    let changed = source.replace(head, &format!("{}{body}", head.replace("c_int", "i64")));
    fs::write(&path, changed).expect("writable");
    let (passes, text) = check(&copy);
    assert!(!passes && text.contains("broker_strerror"), "{text}");
    assert!(text.contains("type size changed from 32 to 64"), "{text}");

    // Without debug information nothing of this would be seen.
    let stripped = copy.join("stripped");
    let library = stripped.join("abi/libbroker.so");
    fs::create_dir_all(stripped.join("abi")).expect("a directory");
    run(Command::new("strip").arg("-o").arg(library).arg(built().join("abi/libbroker.so")));
    let mut script = Command::new(copy.join("scripts/abi"));
    let (passes, text) = outcome(script.arg("check").env("CARGO_TARGET_DIR", &stripped));
    assert!(!passes && text.contains("debug information for 0 of "), "{text}");
}

#[test]
fn every_parameter_of_the_header_is_described() {
    let read = |name| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("readable");
    let (header, description) = (read("include/broker.h"), read("abi/broker.abi"));
    let mut described = 0;
    for function in description.split("<function-decl name='").skip(1) {
        let name = function.split('\'').next().expect("a name");
        let parameters =
            function.split("</function-decl>").next().unwrap_or_default().matches("<parameter ").count();
        assert_eq!(parameters, declared_parameters(&header, name), "{name}");
        described += 1;
    }
    assert!(described > 0);
}

/// How many parameters a function has in the header, where it stands at the start of a line, after its type.
fn declared_parameters(header: &str, name: &str) -> usize {
    let mut mentions = header.match_indices(name).filter_map(|(at, _)| {
        let line = header[..at].rsplit('\n').next()?;
        let list = header[at + name.len()..].strip_prefix('(')?.split(");").next()?;
        (!line.is_empty() && !line.starts_with([' ', '/'])).then_some(list)
    });
    let list = mentions.next().unwrap_or_else(|| panic!("{name} is not in the header"));
    if list == "void" { 0 } else { list.split(',').count() }
}
