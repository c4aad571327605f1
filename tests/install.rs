//! What `make install` puts where, that C programs build against it alone, and that `make uninstall` takes it away
//! again. The library is the one make builds for an install; the binary is the one under test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const VERSION: &str = env!("CARGO_PKG_VERSION");

const PROGRAM: &str = "\
#include <broker.h>
#include <stdio.h>
#include <string.h>
int main(void) {
    puts(broker_version_string());
    return strcmp(broker_version_string(), BROKER_VERSION_STRING) != 0;
}
";

const CMAKE: &str = "\
cmake_minimum_required(VERSION 3.13)
project(use_of_broker C)
find_package(broker 0.1 REQUIRED)
add_executable(shared program.c)
target_link_libraries(shared PRIVATE broker::broker)
add_executable(static program.c)
target_link_libraries(static PRIVATE broker::broker_static)
find_package(broker 99.0 QUIET)
if(broker_FOUND)
  message(FATAL_ERROR \"an older version met the request\")
endif()
";

/// An empty directory of the test's own.
fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("install").join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("a directory");
    path
}

/// Standard output of a command that must succeed.
fn run(command: &mut Command) -> String {
    // What cargo lets its own children find must not be found by programs that are installed.
    let output =
        command.env_remove("LD_LIBRARY_PATH").output().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn make(target: &str, variables: &[&str]) {
    let mut make = Command::new("make");
    make.current_dir(env!("CARGO_MANIFEST_DIR")).arg(target).args(variables);
    // What an outer make says about its own jobs and variables is not meant for this one.
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"] {
        make.env_remove(variable);
    }
    run(&mut make);
}

fn install(root: &Path, places: &[&str]) {
    static LIBRARY: OnceLock<()> = OnceLock::new();
    LIBRARY.get_or_init(|| make("target/library/libbroker.so", &[]));
    let variables = [format!("DESTDIR={}", root.display()), binary()];
    make("install", &[places, &variables.each_ref().map(String::as_str)].concat());
}

fn binary() -> String {
    format!("BUILT_BINARY={}", env!("CARGO_BIN_EXE_broker"))
}

/// The one tree that most tests only look at.
fn installed() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let root = directory("tree");
        install(&root, &[]);
        root
    })
}

fn prefix() -> PathBuf {
    installed().join("usr/local")
}

fn library() -> PathBuf {
    prefix().join(format!("lib/libbroker.so.{VERSION}"))
}

/// Every file below a directory with its mode, every link with its target.
fn contents(root: &Path) -> BTreeMap<String, String> {
    let listing = run(Command::new("find").arg(root).args(["!", "-type", "d", "-printf", "%P %m %l\\n"]));
    let lines = listing.lines().map(|line| line.split_once(' ').expect("a name and more"));
    lines
        .map(|(name, rest)| match rest.split_once(' ') {
            Some((_, target)) if !target.is_empty() => (name.to_owned(), target.to_owned()),
            _ => (name.to_owned(), rest.trim_end().to_owned()),
        })
        .collect()
}

fn pkg_config(root: &Path, libdir: &str, words: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command.env("PKG_CONFIG_PATH", root.join(libdir).join("pkgconfig")).args(words).arg("broker");
    run(&mut command).split_whitespace().map(str::to_owned).collect()
}

/// Compiles `PROGRAM`, runs it and returns what it says.
fn program(name: &str, flags: &[String], library_path: Option<&Path>) -> String {
    let directory = directory(name);
    fs::write(directory.join("program.c"), PROGRAM).expect("writable");
    let mut compiler = Command::new("cc");
    compiler
        .current_dir(&directory)
        .args(["-Wall", "-Wextra", "-Werror", "-o", "program", "program.c"])
        .args(flags);
    run(&mut compiler);
    let mut program = Command::new("env");
    if let Some(path) = library_path {
        program.arg(format!("LD_LIBRARY_PATH={}", path.display()));
    }
    run(program.arg(directory.join("program")))
}

#[test]
fn every_file_is_in_its_place_and_no_other() {
    let major = VERSION.split('.').next().expect("a version");
    let mut expected = BTreeMap::from(
        [
            ("bin/broker", "755"),
            (&format!("lib/libbroker.so.{VERSION}"), "644"),
            (&format!("lib/libbroker.so.{major}"), &format!("libbroker.so.{VERSION}")),
            ("lib/libbroker.so", &format!("libbroker.so.{major}")),
            ("lib/libbroker.a", "644"),
            ("lib/pkgconfig/broker.pc", "644"),
            ("lib/cmake/broker/brokerConfig.cmake", "644"),
            ("lib/cmake/broker/brokerConfigVersion.cmake", "644"),
            ("share/man/man1/broker.1", "644"),
            ("share/man/man5/broker.toml.5", "644"),
            ("share/doc/broker/README.md", "644"),
            ("share/doc/broker/CHANGELOG.md", "644"),
            ("share/doc/broker/LICENSE", "644"),
            ("share/doc/broker/LICENSE-APACHE", "644"),
            ("share/doc/broker/LICENSE-MIT", "644"),
        ]
        .map(|(name, mode): (&str, &str)| (name.to_owned(), mode.to_owned())),
    );
    let headers = contents(&Path::new(env!("CARGO_MANIFEST_DIR")).join("include"));
    assert!(headers.contains_key("broker.h"));
    expected.extend(headers.into_keys().map(|name| (format!("include/{name}"), "644".to_owned())));
    assert_eq!(contents(&prefix()), expected);
    assert_eq!(contents(installed()).len(), expected.len());
}

#[test]
fn the_library_exports_the_header_and_nothing_else() {
    let dynamic = run(Command::new("readelf").arg("-d").arg(library()));
    let major = VERSION.split('.').next().expect("a version");
    assert!(dynamic.contains(&format!("Library soname: [libbroker.so.{major}]")), "{dynamic}");
    let symbols =
        run(Command::new("nm").args(["-D", "--defined-only", "--format=just-symbols"]).arg(library()));
    let mut exported: Vec<&str> = symbols.lines().collect();
    exported.sort_unstable();
    let header = fs::read_to_string(prefix().join("include/broker.h")).expect("readable");
    assert_eq!(exported, declared(&header));
    assert!(exported.iter().all(|name| name.starts_with("broker_")), "{exported:?}");
}

/// The functions of a header: names before a parenthesis, outside comments.
fn declared(header: &str) -> Vec<&str> {
    let code =
        header.split("/*").flat_map(|part| part.split_once("*/").map_or(part, |(_, code)| code).lines());
    let mut names: Vec<&str> =
        code.filter(|line| !line.starts_with([' ', '#'])).filter_map(declaration).collect();
    names.sort_unstable();
    names
}

fn declaration(line: &str) -> Option<&str> {
    let (before, _) = line.split_once('(')?;
    let name = before.rsplit([' ', '*']).next()?;
    name.starts_with("broker_").then_some(name)
}

#[test]
fn what_is_installed_is_stripped_and_without_the_programs_dependencies() {
    for file in [library(), prefix().join("bin/broker")] {
        let sections = run(Command::new("readelf").args(["-S", "--wide"]).arg(&file));
        assert!(
            !sections.contains(".debug_info") && !sections.contains(".symtab"),
            "{}: {sections}",
            file.display()
        );
    }
    let archive =
        run(Command::new("nm").args(["--format=just-symbols"]).arg(prefix().join("lib/libbroker.a")));
    assert!(archive.lines().any(|name| name == "broker_version_string"));
    for dependency in ["clap", "signal_hook", "hdrhistogram", "serde_json"] {
        assert!(!archive.contains(dependency), "{dependency}");
    }
}

#[test]
fn the_binary_runs_and_tells_its_version() {
    let said = run(Command::new(prefix().join("bin/broker")).arg("--version"));
    assert_eq!(said, format!("broker {VERSION}\n"));
}

#[test]
fn pkg_config_knows_how_to_link() {
    let ask = |words: &[&str]| pkg_config(&prefix(), "lib", words);
    let libdir = prefix().join("lib");
    assert_eq!(ask(&["--modversion"]), [VERSION]);
    // What rustc says, but for what the C compiler adds itself.
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/library/native-static-libs");
    let libraries = format!("-lbroker {}", fs::read_to_string(built).expect("written by the build"));
    let libraries: Vec<&str> = libraries.split_whitespace().filter(|word| *word != "-lgcc_s").collect();
    assert!(libraries.contains(&"-lc"), "{libraries:?}");
    assert_eq!(ask(&["--static", "--libs-only-l"]), libraries);

    let said = program("pkg-shared", &ask(&["--cflags", "--libs"]), Some(&libdir));
    assert_eq!(said, format!("{VERSION}\n"));

    // All of the program, the C library included.
    let whole = [vec!["-static".to_owned()], ask(&["--static", "--cflags", "--libs"])].concat();
    assert_eq!(program("pkg-static", &whole, None), format!("{VERSION}\n"));

    // libbroker alone, beside a shared C library.
    let mut archive = ask(&["--cflags"]);
    archive.push(libdir.join("libbroker.a").display().to_string());
    archive.extend(ask(&["--static", "--libs-only-l"]).into_iter().filter(|word| word != "-lbroker"));
    assert_eq!(program("pkg-archive", &archive, None), format!("{VERSION}\n"));
}

#[test]
fn cmake_finds_both_libraries() {
    let directory = directory("cmake");
    fs::write(directory.join("program.c"), PROGRAM).expect("writable");
    fs::write(directory.join("CMakeLists.txt"), CMAKE).expect("writable");
    let prefix_path = format!("-DCMAKE_PREFIX_PATH={}", prefix().display());
    run(Command::new("cmake").current_dir(&directory).args(["-S", ".", "-B", "build", &prefix_path]));
    run(Command::new("cmake").current_dir(&directory).args(["--build", "build"]));
    let needed = |name: &str| {
        let path = directory.join("build").join(name);
        assert_eq!(run(&mut Command::new(&path)), format!("{VERSION}\n"));
        run(Command::new("readelf").arg("-d").arg(path)).contains("libbroker.so.")
    };
    assert!(needed("shared"));
    assert!(!needed("static"));
}

#[test]
fn the_man_pages_render_without_a_warning() {
    for page in ["man1/broker.1", "man5/broker.toml.5"] {
        let mut man = Command::new("man");
        man.args(["--warnings=w", "--local-file"]).arg(prefix().join("share/man").join(page));
        let output = man.env("LC_ALL", "C").output().expect("run man");
        assert!(output.status.success() && output.stdout.len() > 1000);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}

/// As a Debian package has it: the libraries one directory further down.
#[test]
fn every_place_can_be_chosen() {
    let root = directory("chosen");
    let places = ["PREFIX=/usr", "LIBDIR=/usr/lib/some-linux-gnu", "INCLUDEDIR=/usr/include/broker-0"];
    install(&root, &[&places[..], &["BINDIR=/usr/sbin", "MANDIR=/man", "DOCDIR=/doc"]].concat());
    let found = contents(&root);
    for name in ["usr/sbin/broker", "usr/include/broker-0/broker.h", "man/man1/broker.1", "doc/LICENSE"] {
        assert!(found.contains_key(name), "{name} is not in {found:?}");
    }
    let flags = pkg_config(&root, "usr/lib/some-linux-gnu", &["--cflags", "--libs"]);
    let said = program("chosen-program", &flags, Some(&root.join("usr/lib/some-linux-gnu")));
    assert_eq!(said, format!("{VERSION}\n"));
}

#[test]
fn uninstall_leaves_nothing_but_what_others_put_there() {
    let root = directory("gone");
    let destination = format!("DESTDIR={}", root.display());
    let foreign = root.join("usr/local/share/doc/broker/theirs");
    install(&root, &[]);
    fs::write(&foreign, "").expect("writable");
    make("uninstall", &[&destination]);
    assert_eq!(contents(&root).into_keys().collect::<Vec<_>>(), ["usr/local/share/doc/broker/theirs"]);

    fs::remove_file(&foreign).expect("still there");
    install(&root, &[]);
    make("uninstall", &[&destination]);
    let left = run(Command::new("find").arg(&root).args(["-name", "*broker*"]));
    assert_eq!(left, "");
    assert_eq!(contents(&root), BTreeMap::new());
}
