//! What `make install` puts where, that C programs build against it alone, and that `make uninstall` takes it away
//! again. The library is the one make builds for an install; the binary is the one under test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::made_library;

const VERSION: &str = env!("CARGO_PKG_VERSION");

const PROGRAM: &str = "\
#include <broker.h>
#include <stdio.h>
int main(void) {
    unsigned int version = broker_version();
    printf(\"%u.%u.%u\\n\", version >> 24, version >> 16 & 255, version >> 8 & 255);
    return version != BROKER_VERSION_HEX;
}
";

/// A library of another Rust crate's, with a panic of its own.
const OTHER: &str = "\
#[unsafe(no_mangle)]
pub extern \"C\" fn other(number: i32) -> i32 {
    std::panic::catch_unwind(|| if number == 1 { panic!(\"one\") } else { number }).unwrap_or(-1)
}
";

const BESIDE_OTHER: &str = "\
#include <broker.h>
#include <stdio.h>
int other(int number);
int main(void) {
    broker_config_t *config = broker_config_new();
    printf(\"%d %d %d\\n\", broker_config_set(config, \"lanes\", \"none\"), other(1), other(2));
    broker_config_free(config);
    return 0;
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
    made_library();
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

/// Where cargo builds, and make after it.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the directory above")
}

/// What one interface is good for: a minor version while the major one is 0.
fn series() -> String {
    let (major, minor) = (env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"));
    if major == "0" { format!("0.{minor}") } else { major.to_owned() }
}

fn soname() -> String {
    format!("libbroker.so.{}", series())
}

/// The names of a project's directory that end so.
fn names(directory: &str, end: &str) -> Vec<String> {
    let all = contents(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory));
    all.into_keys().filter(|name| name.ends_with(end) && !name.contains('/')).collect()
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

/// Compiles a program in a directory of its own.
fn compile(name: &str, compiler: &str, source: &str, flags: &[String]) -> PathBuf {
    let directory = directory(name);
    fs::write(directory.join("program.c"), source).expect("writable");
    let mut command = Command::new(compiler);
    command.current_dir(&directory).args(["-Wall", "-Wextra", "-Werror", "-o", "program"]);
    run(command
        .args(["-x", if compiler == "c++" { "c++" } else { "c" }, "program.c", "-x", "none"])
        .args(flags));
    directory.join("program")
}

/// Compiles `PROGRAM`, runs it and returns what it says.
fn program(name: &str, flags: &[String], library_path: Option<&Path>) -> String {
    let built = compile(name, "cc", PROGRAM, flags);
    let mut program = Command::new("env");
    if let Some(path) = library_path {
        program.arg(format!("LD_LIBRARY_PATH={}", path.display()));
    }
    run(program.arg(built))
}

/// The archive by its name, then what it needs.
fn archive() -> Vec<String> {
    let mut flags = pkg_config(&prefix(), "lib", &["--cflags"]);
    flags.push(prefix().join("lib/libbroker.a").display().to_string());
    let libraries = pkg_config(&prefix(), "lib", &["--static", "--libs-only-l"]);
    flags.extend(libraries.into_iter().filter(|word| word != "-lbroker"));
    flags
}

#[test]
fn every_file_is_in_its_place_and_no_other() {
    let mut expected = BTreeMap::from(
        [
            ("bin/broker", "755"),
            (&format!("lib/libbroker.so.{VERSION}"), "644"),
            (&format!("lib/{}", soname()), &format!("libbroker.so.{VERSION}")),
            ("lib/libbroker.so", &soname()),
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
            ("share/doc/broker/dist/prometheus/alerts.yml", "644"),
            ("share/doc/broker/dist/prometheus/alerts_test.yml", "644"),
            ("share/doc/broker/dist/grafana/broker.json", "644"),
        ]
        .map(|(name, mode): (&str, &str)| (name.to_owned(), mode.to_owned())),
    );
    let headers = contents(&Path::new(env!("CARGO_MANIFEST_DIR")).join("include"));
    assert!(headers.contains_key("broker.h"));
    expected.extend(headers.into_keys().map(|name| (format!("include/{name}"), "644".to_owned())));
    // What the headers refer to, by the name they give it, and the pictures in it.
    let mut pages = names("docs", ".md");
    pages.extend(names("docs", ".png"));
    assert!(pages.contains(&"c-api.md".to_owned()) && pages.contains(&"config.md".to_owned()), "{pages:?}");
    expected.extend(pages.iter().map(|name| (format!("share/doc/broker/docs/{name}"), "644".to_owned())));
    for directory in ["dist/systemd", "dist/container"] {
        let files = names(directory, "");
        assert!(files.len() > 3, "{files:?}");
        expected.extend(
            files.iter().map(|name| (format!("share/doc/broker/{directory}/{name}"), "644".to_owned())),
        );
    }
    let functions = names("dist/man", ".3");
    expected.extend(functions.iter().map(|name| (format!("share/man/man3/{name}"), "644".to_owned())));
    assert_eq!(contents(&prefix()), expected);
    assert_eq!(contents(installed()).len(), expected.len());
}

#[test]
fn the_library_exports_the_header_and_nothing_else_under_the_version() {
    let dynamic = run(Command::new("readelf").arg("-d").arg(library()));
    assert!(dynamic.contains(&format!("Library soname: [{}]", soname())), "{dynamic}");
    let symbols =
        run(Command::new("nm").args(["-D", "--defined-only", "--format=just-symbols"]).arg(library()));
    let node = format!("BROKER_{}", series());
    let of_the_node = symbols.lines().filter(|name| *name != node);
    let mut exported: Vec<&str> =
        of_the_node.map(|name| name.strip_suffix(&format!("@@{node}")).expect(name)).collect();
    exported.sort_unstable();
    let header = fs::read_to_string(prefix().join("include/broker.h")).expect("readable");
    assert_eq!(exported, declared(&header));
    assert!(exported.iter().all(|name| name.starts_with("broker_")), "{exported:?}");
}

#[test]
fn the_archive_keeps_to_itself_all_but_the_header() {
    let archive = prefix().join("lib/libbroker.a");
    let symbols =
        run(Command::new("nm").args(["-g", "--defined-only", "--format=just-symbols"]).arg(archive));
    let mut global: Vec<&str> =
        symbols.lines().filter(|line| !line.is_empty() && !line.ends_with(':')).collect();
    global.sort_unstable();
    let header = fs::read_to_string(prefix().join("include/broker.h")).expect("readable");
    assert_eq!(global, declared(&header));
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
    assert!(archive.lines().any(|name| name == "broker_version"));
    for dependency in ["clap", "signal_hook", "humantime", "ratatui", "crossterm"] {
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
    let built = target().join("libbroker/native-static-libs");
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
    assert_eq!(program("pkg-archive", &archive(), None), format!("{VERSION}\n"));
}

#[test]
fn the_archive_links_in_every_kind_of_program() {
    let size = |path: &Path| fs::metadata(path).expect("built").len();
    let plain = compile("archive-plain", "cc", PROGRAM, &[archive(), vec!["-s".to_owned()]].concat());
    for (name, compiler, flags) in [
        ("archive-cxx", "c++", &["-s"][..]),
        ("archive-static", "cc", &["-s", "-static"]),
        ("archive-static-pie", "cc", &["-s", "-static-pie"]),
        ("archive-no-pie", "cc", &["-s", "-no-pie"]),
        ("archive-collected", "cc", &["-s", "-Wl,--gc-sections"]),
    ] {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let built = compile(name, compiler, PROGRAM, &[archive(), flags].concat());
        assert_eq!(run(&mut Command::new(&built)), format!("{VERSION}\n"), "{name}");
        // One object, yet its functions stand in sections that the linker drops one by one.
        assert_eq!(name == "archive-collected", size(&built) < size(&plain) / 2, "{name}");
    }
}

#[test]
fn the_archive_links_beside_another_of_rust() {
    let directory = directory("other");
    fs::write(directory.join("other.rs"), OTHER).expect("writable");
    let mut rustc = Command::new("rustc");
    run(rustc.current_dir(&directory).args(["-O", "--edition=2024", "--crate-type=staticlib", "other.rs"]));
    let other = vec![directory.join("libother.a").display().to_string()];
    for (name, flags) in
        [("other-last", [archive(), other.clone()].concat()), ("other-first", [other, archive()].concat())]
    {
        let said = run(&mut Command::new(compile(name, "cc", BESIDE_OTHER, &flags)));
        let (refused, panics) = said.split_once(' ').expect("three numbers");
        assert!(refused.starts_with('-') && panics == "-1 2\n", "{name}: {said}");
    }
}

/// What the loader says to a program when the library is of the next minor version: the same object, under the names
/// that follow from the other number.
#[test]
fn a_program_of_this_version_does_not_start_with_the_next() {
    let flags = pkg_config(&prefix(), "lib", &["--cflags", "--libs"]);
    let program = compile("next-program", "cc", PROGRAM, &flags);
    let copy = directory("next");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    run(Command::new("cp").arg("-r").arg(root.join("scripts")).arg(&copy));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("readable");
    let this = format!("\nversion = \"{VERSION}\"");
    assert!(manifest.contains(&this));
    fs::write(copy.join("Cargo.toml"), manifest.replacen(&this, "\nversion = \"0.999.0\"", 1))
        .expect("writable");
    run(Command::new(copy.join("scripts/library")).arg(target().join("library")).arg(&copy));

    let start = || {
        let mut command = Command::new("env");
        command.arg(format!("LD_LIBRARY_PATH={}", copy.display())).arg(&program);
        let output = command.output().expect("run env");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    fs::rename(copy.join("libbroker.so"), copy.join("libbroker.so.0.999")).expect("a library");
    let (starts, said) = start();
    let missing = format!("{}: cannot open shared object file: No such file or directory", soname());
    assert!(!starts && said.contains(&missing), "{said}");
    // Nor where somebody has given it the old name.
    fs::rename(copy.join("libbroker.so.0.999"), copy.join(soname())).expect("a library");
    let (starts, said) = start();
    let missing = format!("version `BROKER_{}' not found", series());
    assert!(!starts && said.contains(&missing), "{said}");
    fs::copy(library(), copy.join(soname())).expect("a library");
    assert_eq!(start(), (true, String::new()));
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

#[test]
fn cmake_accepts_only_what_this_version_can_serve() {
    let directory = directory("cmake-versions");
    let (major, minor) = (env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"));
    let number = |part: &str| part.parse::<u32>().expect("a number");
    let (next_minor, next_major) = (number(minor) + 1, number(major) + 1);
    let mut cases: Vec<(String, bool)> =
        ["", VERSION].iter().map(|request| (request.to_string(), true)).collect();
    for (request, served) in [
        (format!("{major}.{minor}"), true),
        (format!("{VERSION} EXACT"), true),
        (format!("{major}.{minor}.9999"), false),
        (format!("{major}.{minor}.9999 EXACT"), false),
        (format!("{major}.{next_minor}"), false),
        (format!("{next_major}"), false),
        (format!("{major}.{minor}...{next_major}"), true),
        (format!("{major}...<{VERSION}"), VERSION == format!("{major}.0.0")),
        (format!("{major}.{next_minor}...{next_major}"), false),
        // While the major version is 0 no minor version serves what asks for another.
        ("0".to_owned(), major != "0" || minor == "0"),
        ("0.0".to_owned(), major != "0" || minor == "0"),
    ] {
        cases.push((request, served));
    }
    let mut text = "cmake_minimum_required(VERSION 3.19)\nproject(requests C)\n".to_owned();
    for (request, served) in &cases {
        text += &format!("unset(broker_DIR CACHE)\nfind_package(broker {request} QUIET CONFIG)\n");
        text += &format!("if(NOT \"${{broker_FOUND}}\" EQUAL {})\n", u8::from(*served));
        text += &format!("  message(SEND_ERROR \"{request}: ${{broker_FOUND}}\")\nendif()\n");
    }
    // A program of another pointer size.
    text += "set(CMAKE_SIZEOF_VOID_P 2)\nunset(broker_DIR CACHE)\nfind_package(broker QUIET CONFIG)\n";
    text += "if(broker_FOUND)\n  message(SEND_ERROR \"another size of pointers is served\")\nendif()\n";
    fs::write(directory.join("CMakeLists.txt"), text).expect("writable");
    let prefix_path = format!("-DCMAKE_PREFIX_PATH={}", prefix().display());
    run(Command::new("cmake").current_dir(&directory).args(["-S", ".", "-B", "build", &prefix_path]));
}

/// As conan and vcpkg have it: without the program, and with one of the two libraries.
#[test]
fn the_libraries_install_alone_and_cmake_takes_the_one_that_is_there() {
    let root = directory("alone");
    installed();
    let prefix = root.join("p");
    make("install-library", &[&format!("PREFIX={}", prefix.display())]);
    let found = contents(&prefix);
    assert!(found.contains_key("include/broker.h") && found.contains_key("lib/libbroker.a"), "{found:?}");
    let of_program = ["bin/", "share/man/man1", "share/doc/broker/dist"];
    assert!(!found.keys().any(|name| of_program.iter().any(|start| name.starts_with(start))), "{found:?}");

    fs::write(root.join("program.c"), PROGRAM).expect("writable");
    let text = CMAKE.lines().filter(|line| !line.contains("(static ")).collect::<Vec<_>>().join("\n");
    fs::write(root.join("CMakeLists.txt"), text).expect("writable");
    let configure = |build: &str| {
        let mut command = Command::new("cmake");
        command.current_dir(&root).args([
            "-S",
            ".",
            "-B",
            build,
            &format!("-DCMAKE_PREFIX_PATH={}", prefix.display()),
        ]);
        command
    };
    let needs_library = |build: &str| {
        run(&mut configure(build));
        run(Command::new("cmake").current_dir(&root).args(["--build", build]));
        let program = root.join(build).join("shared");
        assert_eq!(run(&mut Command::new(&program)), format!("{VERSION}\n"));
        run(Command::new("readelf").arg("-d").arg(program)).contains("libbroker.so.")
    };
    fs::remove_file(prefix.join("lib/libbroker.a")).expect("installed");
    assert!(needs_library("shared-only"));
    make("install-library", &[&format!("PREFIX={}", prefix.display())]);
    fs::remove_file(prefix.join(format!("lib/libbroker.so.{VERSION}"))).expect("installed");
    assert!(!needs_library("static-only"));
    fs::remove_file(prefix.join("lib/libbroker.a")).expect("installed");
    let output = configure("none").output().expect("run cmake");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("neither libbroker.so"), "{said}");
}

/// Cargo builds where the environment says, and make looks there.
#[test]
fn everything_is_built_where_cargo_is_told_to_build() {
    let elsewhere = directory("elsewhere");
    for goal in ["library", "install", "deb"] {
        let mut make = Command::new("make");
        make.current_dir(env!("CARGO_MANIFEST_DIR")).args(["--dry-run", goal]);
        make.env("CARGO_TARGET_DIR", &elsewhere).env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
        let plan = run(&mut make).replace(&elsewhere.display().to_string(), "ELSEWHERE");
        assert!(plan.contains("ELSEWHERE/") && !plan.contains("target/"), "{goal}: {plan}");
    }
}

#[test]
fn the_recipes_have_the_version() {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/vcpkg/redis-broker/vcpkg.json");
    let text = fs::read_to_string(recipe).expect("readable");
    assert!(text.contains(&format!("\"version\": \"{VERSION}\"")), "{text}");
}

/// Zeek's messaging library has a CMake package whose name differs by one letter's case, in a directory that CMake
/// searches for both.
#[test]
fn cmake_tells_broker_from_zeeks_broker() {
    let directory = directory("cmake-zeek");
    let theirs = directory.join("theirs/lib/cmake/Broker");
    fs::create_dir_all(&theirs).expect("a directory");
    fs::write(theirs.join("BrokerConfig.cmake"), "add_library(zeeks INTERFACE IMPORTED)\n")
        .expect("writable");
    let version = "set(PACKAGE_VERSION 2.7.0)\nset(PACKAGE_VERSION_COMPATIBLE TRUE)\n";
    fs::write(theirs.join("BrokerConfigVersion.cmake"), version).expect("writable");
    let text = format!(
        "cmake_minimum_required(VERSION 3.13)\nproject(both C)\n\
         find_package(broker {} REQUIRED)\nfind_package(Broker REQUIRED)\n\
         if(NOT broker_VERSION STREQUAL {VERSION} OR NOT Broker_VERSION STREQUAL 2.7.0 OR NOT TARGET broker::broker\n\
         OR NOT TARGET zeeks)\n  message(FATAL_ERROR \"${{broker_DIR}} ${{Broker_DIR}}\")\nendif()\n",
        series()
    );
    fs::write(directory.join("CMakeLists.txt"), text).expect("writable");
    for (build, first, second) in
        [("1", &prefix(), &directory.join("theirs")), ("2", &directory.join("theirs"), &prefix())]
    {
        let prefix_path = format!("-DCMAKE_PREFIX_PATH={};{}", first.display(), second.display());
        run(Command::new("cmake").current_dir(&directory).args(["-S", ".", "-B", build, &prefix_path]));
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
