//! Makes `include/broker.h` from `src/ffi` and gives the shared library its SONAME. The header is written only
//! where it differs, so that a build of an unchanged tree leaves the tree alone; a tree that cannot be written
//! to is left alone as well. `tests/header.rs` compares.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// In the order of the header.
const SOURCES: [&str; 7] = ["codes", "log", "config", "reply", "transaction", "embed", "client"];

fn main() {
    println!("cargo:rerun-if-changed=cbindgen.toml");
    println!("cargo:rerun-if-changed=src/ffi");
    println!("cargo:rerun-if-changed=include/broker.h");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CARGO_FEATURE_CAPI");
    ignore_tests();
    name_library();
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let made = header(&root);
    let out = Path::new(&variable("OUT_DIR")).join("broker.h");
    fs::write(&out, &made).expect("write into OUT_DIR");
    let committed = root.join("include/broker.h");
    if fs::read_to_string(&committed).ok().as_deref() != Some(&made) {
        // A source tree may be read-only; then the test that compares says what is wrong.
        let _ = fs::create_dir_all(root.join("include"));
        let _ = fs::write(&committed, &made);
    }
}

/// With `BROKER_TEST_DIRECT=1` the tests run against Redis itself; those about the broker are then ignored, and counted as
/// such. An attribute decides that when they are compiled.
fn ignore_tests() {
    println!("cargo:rerun-if-env-changed=BROKER_TEST_DIRECT");
    println!("cargo:rustc-check-cfg=cfg(direct)");
    if env::var_os("BROKER_TEST_DIRECT").is_some_and(|value| value == "1") {
        println!("cargo:rustc-cfg=direct");
    }
}

/// The SONAME, made from the version in Cargo.toml as `scripts/names` makes it: a minor version may change the interface
/// while the major one is 0. cargo-c, which builds with the feature `capi`, passes one of its own, by the same rule.
fn name_library() {
    let elf = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system != "macos" && system != "windows");
    if elf && env::var_os("CARGO_FEATURE_CAPI").is_none() {
        let major = variable("CARGO_PKG_VERSION_MAJOR");
        let series = match major.as_str() {
            "0" => format!("0.{}", variable("CARGO_PKG_VERSION_MINOR")),
            _ => major,
        };
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libbroker.so.{series}");
    }
}

fn header(root: &Path) -> String {
    let mut config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("read cbindgen.toml");
    config.after_includes = Some(version() + ARGV);
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(root.join("src/ffi").join(source).with_extension("rs"));
    }
    let mut text = Vec::new();
    builder.generate().expect("make the header").write(&mut text);
    in_parentheses(&String::from_utf8(text).expect("a header is text"))
}

/// Macros of negative numbers, so that they are safe in any expression.
fn in_parentheses(header: &str) -> String {
    let line = |line: &str| match line.strip_prefix("#define ").and_then(|rest| rest.split_once(' ')) {
        Some((name, value)) if value.starts_with('-') => format!("#define {name} ({value})\n"),
        _ => format!("{line}\n"),
    };
    header.lines().map(line).collect()
}

/// A macro with arguments, which cbindgen cannot make.
const ARGV: &str = "
#ifndef __cplusplus
/* The arguments argc, argv and argvlen for the words of a command: BROKER_ARGV(\"SET\", \"key\", value). Each word is a
 * string that ends at its NUL. C only; C++ has broker.hpp. */
#define BROKER_ARGV(...) \\
    (sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *)), (const char *const[]){__VA_ARGS__}, NULL
#endif
";

/// The version macros, from Cargo.toml.
fn version() -> String {
    let number = |part: &str| variable(&format!("CARGO_PKG_VERSION_{part}"));
    let (major, minor, patch) = (number("MAJOR"), number("MINOR"), number("PATCH"));
    format!(
        "\n/* The version of this header; broker_version() is that of the library. */\n\
         #define BROKER_VERSION_MAJOR {major}\n\
         #define BROKER_VERSION_MINOR {minor}\n\
         #define BROKER_VERSION_PATCH {patch}\n\
         #define BROKER_VERSION_STRING \"{major}.{minor}.{patch}\"\n\
         /* 0xMMmmpp00: one number per version, in order. */\n\
         #define BROKER_VERSION_HEX \\\n    \
         ((BROKER_VERSION_MAJOR << 24) | (BROKER_VERSION_MINOR << 16) | (BROKER_VERSION_PATCH << 8))\n"
    )
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
