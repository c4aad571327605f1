//! Every example compiled against an installed tree alone and run: by pkg-config and by CMake, with the shared
//! and with the static library. The sources are copied away first, so that nothing of this tree is in reach.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::examples::{Examples, make, patient_flags, scratch, source, succeed};
use crate::support::made_library;
use crate::support::{Broker, Redis};

/// Programs that need libbroker.so, when they are not linked with the archive.
const OURS: [&str; 12] = [
    "sync",
    "async_epoll",
    "pubsub",
    "transaction",
    "embed_epoll",
    "prefork",
    "libbroker_child",
    "libuv",
    "glib",
    "sd_event",
    "asio",
    "client",
];

/// What `make install` has put below a directory of its own.
fn installed() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        made_library();
        let root = scratch("tree");
        let mut install = make(Path::new(env!("CARGO_MANIFEST_DIR")));
        install.arg("install").arg(format!("DESTDIR={}", root.display()));
        install.arg(format!("BUILT_BINARY={}", env!("CARGO_BIN_EXE_broker")));
        succeed(&mut install);
        root.join("usr/local")
    })
}

/// The sources in a directory of the test's own.
fn sources(name: &str) -> PathBuf {
    let copies = scratch(name);
    for entry in fs::read_dir(source()).expect("the sources").flatten() {
        if entry.path().is_file() {
            fs::copy(entry.path(), copies.join(entry.file_name())).expect("a copy");
        }
    }
    copies
}

fn pkg_config(name: &str, arg: &str) -> PathBuf {
    let (sources, library) = (sources(name), installed().join("lib"));
    let mut make = make(&sources);
    // How it is linked is looked at, not how fast it is.
    make.args(patient_flags(&sources, &installed().join("include"), "-O0"));
    make.arg("WERROR=-Werror").env("PKG_CONFIG_PATH", library.join("pkgconfig"));
    // Where the library is in no directory that the loader knows.
    make.arg(format!("LDFLAGS=-Wl,-rpath,{}", library.display())).arg(arg);
    succeed(&mut make);
    sources.join("build")
}

fn cmake(name: &str, arg: &str) -> PathBuf {
    let sources = sources(name);
    let build = sources.join("build");
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(&sources).arg("-B").arg(&build).arg(arg);
    configure.arg(format!("-DCMAKE_PREFIX_PATH={}", installed().display()));
    let [place, c, cxx] = patient_flags(&sources, &installed().join("include"), "-O0")
        .map(|flag| flag.split_once('=').map_or(String::new(), |(_, value)| value.to_owned()));
    configure.arg(format!("-DCMAKE_C_FLAGS=-Werror {place} {c}"));
    succeed(configure.arg(format!("-DCMAKE_CXX_FLAGS=-Werror {place} {cxx}")));
    succeed(Command::new("cmake").arg("--build").arg(&build));
    build
}

/// Runs all of them, after a look at what they are linked with.
fn check(build: PathBuf, shared: bool) {
    let examples = Examples::in_directory(build);
    for name in OURS {
        let output = Command::new("readelf").arg("-d").arg(examples.program(name)).output();
        let text = String::from_utf8_lossy(&output.expect("run readelf").stdout).into_owned();
        assert!(text.contains("(NEEDED)"), "{name}: {text}");
        assert_eq!(text.contains("libbroker.so."), shared, "{name}: {text}");
    }
    let redis = Redis::start();
    examples.check_all(&redis, &Broker::start(&redis, &[]));
}

#[test]
fn pkg_config_shared() {
    check(pkg_config("pkg-config-shared", "all"), true);
}

#[test]
fn pkg_config_static() {
    check(pkg_config("pkg-config-static", "STATIC=1"), false);
}

#[test]
fn cmake_shared() {
    check(cmake("cmake-shared", "-DSTATIC=OFF"), true);
}

#[test]
fn cmake_static() {
    check(cmake("cmake-static", "-DSTATIC=ON"), false);
}
