//! include/broker.h is what build.rs makes of src/ffi today, is clean in every language it is for, and tells the version
//! of Cargo.toml; every function in it crosses the border.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const COMMITTED: &str = include_str!("../include/broker.h");
/// By the build script of this very build.
const MADE: &str = include_str!(concat!(env!("OUT_DIR"), "/broker.h"));

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_committed_header_is_the_one_that_is_made() {
    assert!(
        COMMITTED == MADE,
        "include/broker.h is not what src/ffi says: build once and commit what has changed"
    );
}

#[test]
fn the_header_tells_the_version_of_the_package() {
    let version = format!("#define BROKER_VERSION_STRING \"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(COMMITTED.contains(&version));
    for (part, number) in [
        ("MAJOR", env!("CARGO_PKG_VERSION_MAJOR")),
        ("MINOR", env!("CARGO_PKG_VERSION_MINOR")),
        ("PATCH", env!("CARGO_PKG_VERSION_PATCH")),
    ] {
        assert!(COMMITTED.contains(&format!("#define BROKER_VERSION_{part} {number}\n")), "{part}");
    }
}

#[test]
fn the_header_is_clean_in_every_language() {
    for (compiler, flags) in [
        ("cc", ["-x", "c", "-std=c99"]),
        ("cc", ["-x", "c", "-std=c11"]),
        ("c++", ["-x", "c++", "-std=c++17"]),
    ] {
        let mut command = Command::new(compiler);
        command.args(flags).args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]);
        let output = command.arg(root().join("include/broker.h")).output().expect("run the compiler");
        assert!(output.status.success(), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A function that could let a panic out, or trust a pointer, would be one that does not go through the border. These
/// touch nothing but constants, atomics and, for two of them, one write.
const PLAIN: [&str; 10] = [
    "broker_strerror",
    "broker_err_name",
    "broker_version",
    "broker_fork_count",
    "broker_loop_stop",
    "broker_loop_set_data",
    "broker_loop_data",
    "broker_client_wakeup",
    "broker_client_set_data",
    "broker_client_data",
];

/// What lets a call in; `call(client` and `submit(client` are what two functions each are, `look(reply` what those that
/// read a value are.
const GATES: [&str; 10] = [
    "gate(",
    "enter(",
    "enter_waiting(",
    "enter_at(",
    "    free(",
    "making(",
    "shield(",
    "look(reply, ",
    "call(client, CallInput",
    "submit(client, CallInput",
];

#[test]
fn every_exported_function_crosses_the_border() {
    let mut seen = 0;
    for file in
        fs::read_dir(root().join("src/ffi")).expect("src/ffi").map(|entry| entry.expect("an entry").path())
    {
        let source = fs::read_to_string(&file).expect("a source file");
        for export in source.split("#[unsafe(no_mangle)]").skip(1) {
            let body = &export[..export.find("\n}\n").expect("the end of a function")];
            let name = body.split("fn ").nth(1).and_then(|rest| rest.split('(').next()).expect("a name");
            let crosses = GATES.iter().any(|gate| body.contains(gate));
            assert!(crosses || PLAIN.contains(&name), "{}: {name} does not cross the border", shown(&file));
            seen += 1;
        }
    }
    assert!(seen > 50, "the exports are found: {seen}");
}

fn shown(file: &Path) -> String {
    PathBuf::from(file.file_name().unwrap_or_default()).display().to_string()
}
