//! `broker.hpp` and the adapters as programs use them: each program of tests/ffi in a process of its own, and every
//! header alone in every language it is for.
//! `BROKER_TEST_ALL_MODES=1` runs the programs plainly, under valgrind and with sanitizers.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::native::{
    C99, Language, Mode, Native, check, checked_before, fingerprint, foreign_headers,
};

const CXX17: Language = Language { compiler: "c++", flags: &["-std=c++17", "-Wshadow"] };
const CXX17_PLAIN: Language =
    Language { compiler: "c++", flags: &["-std=c++17", "-Wshadow", "-fno-exceptions", "-fno-rtti"] };
const CXX20: Language = Language { compiler: "c++", flags: &["-std=c++20", "-Wshadow"] };
const CXX20_PLAIN: Language =
    Language { compiler: "c++", flags: &["-std=c++20", "-Wshadow", "-fno-exceptions", "-fno-rtti"] };
/// The library itself is not instrumented: what it does with memory of its own is not to be judged.
const CXX17_THREADS: Language =
    Language { compiler: "c++", flags: &["-std=c++17", "-Wshadow", "-fsanitize=thread"] };
/// The programs written in C, by the other compiler.
const C_AS_CXX17: Language = Language { compiler: "c++", flags: &["-x", "c++", "-std=c++17"] };
const LINK_UV: [&str; 3] = ["-x", "none", "-luv"];
const LINK_LIBEVENT: [&str; 3] = ["-x", "none", "-levent_core"];
const LINK_GLIB: [&str; 3] = ["-x", "none", "-lglib-2.0"];
const LINK_SYSTEMD: [&str; 3] = ["-x", "none", "-lsystemd"];
const LINK_HIREDIS: [&str; 3] = ["-x", "none", "-lhiredis"];
const BOOST_ASIO: Language = Language { compiler: "c++", flags: &["-std=c++17", "-DBROKER_ASIO_BOOST"] };
const STANDALONE_ASIO: Language =
    Language { compiler: "c++", flags: &["-std=c++17", "-DBROKER_ASIO_STANDALONE"] };

/// One test per program, language and the modes it runs in by default.
macro_rules! programs {
    ($($name:ident: $source:literal $language:expr, $libraries:expr, $modes:expr;)+) => {
        $(
            #[test]
            fn $name() {
                use Mode::{Plain, Sanitized, Valgrind};
                let _ = (Plain, Sanitized, Valgrind);
                check($source, $language, &$modes, &$libraries, &[]);
            }
        )+
    };
}

programs! {
    cpp_without_exceptions_and_rtti: "cpp_plain.cpp" CXX17_PLAIN, [], [Valgrind, Sanitized];
    cpp_with_exceptions_does_the_same: "cpp_plain.cpp" CXX20, [], [Plain];
    cpp_replies: "cpp_replies.cpp" CXX17, [], [Valgrind, Sanitized];
    cpp_callables: "cpp_callbacks.cpp" CXX17, [], [Valgrind, Sanitized];
    cpp_fork: "cpp_fork.cpp" CXX17, [], [Valgrind, Sanitized];
    cpp_loop: "cpp_loop.cpp" CXX17, [], [Valgrind, Sanitized];
    cpp_threads: "cpp_threads.cpp" CXX17, [], [Valgrind, Sanitized];
    cpp_threads_without_exceptions: "cpp_threads.cpp" CXX20_PLAIN, [], [Plain];
    cpp_coroutines: "cpp_coroutines.cpp" CXX20, [], [Valgrind, Sanitized];
    cpp_coroutines_without_exceptions: "cpp_coroutines.cpp" CXX20_PLAIN, [], [Plain];
    libuv: "adapter_uv.c" C99, LINK_UV, [Valgrind, Sanitized];
    libuv_in_cpp: "adapter_uv.c" C_AS_CXX17, LINK_UV, [Plain];
    libevent: "adapter_libevent.c" C99, LINK_LIBEVENT, [Valgrind, Sanitized];
    libevent_in_cpp: "adapter_libevent.c" C_AS_CXX17, LINK_LIBEVENT, [Plain];
    epoll: "adapter_epoll.c" C99, [], [Valgrind, Sanitized];
    epoll_in_cpp: "adapter_epoll.c" C_AS_CXX17, ["-x", "none"], [Plain];
    glib: "adapter_glib.c" C99, LINK_GLIB, [Valgrind, Sanitized];
    glib_in_cpp: "adapter_glib.c" C_AS_CXX17, LINK_GLIB, [Plain];
    sd_event: "adapter_sd_event.c" C99, LINK_SYSTEMD, [Valgrind, Sanitized];
    sd_event_in_cpp: "adapter_sd_event.c" C_AS_CXX17, LINK_SYSTEMD, [Plain];
    boost_asio: "adapter_asio.cpp" BOOST_ASIO, [], [Valgrind, Sanitized];
    standalone_asio: "adapter_asio.cpp" STANDALONE_ASIO, [], [Plain, Sanitized];
    adapters_come_and_go_beside_forks: "adapter_threads.c" C99, [], [Plain, Sanitized];
    formats: "format.c" C99, LINK_HIREDIS, [Valgrind, Sanitized];
    formats_in_cpp: "format.c" C_AS_CXX17, LINK_HIREDIS, [Plain];
    an_embedded_broker_beside_a_flood: "adapter_flood.c" C99, [], [Plain, Sanitized];
}

/// Of one client for many threads, no access is unordered.
#[test]
fn cpp_threads_without_a_race() {
    Native::build("cpp_threads.cpp", CXX17_THREADS, Mode::Plain, &[]).check(&[]);
}

/// A program that includes nothing but this header compiles without a warning.
fn compiles_alone(header: &str, compiler: &str, flags: &[&str]) {
    let what = fingerprint(compiler, &format!("{header} alone {flags:?}"));
    checked_before(what, || compile_alone(header, compiler, flags));
}

fn compile_alone(header: &str, compiler: &str, flags: &[&str]) {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let mut command = Command::new(compiler);
    command.args(flags).args(["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]);
    command.args(foreign_headers()).arg("-fsyntax-only").arg("-I").arg(&include);
    command.arg("-include").arg(include.join(header));
    let output = command.arg("/dev/null").output().expect("run the compiler");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{header}, {compiler} {flags:?}:\n{words}");
}

#[test]
fn each_header_compiles_alone_in_every_language() {
    let strict: [&[&str]; 5] = [
        &["-x", "c++", "-std=c++17"],
        &["-x", "c++", "-std=c++17", "-fno-exceptions", "-fno-rtti"],
        &["-x", "c++", "-std=c++20"],
        &["-x", "c++", "-std=c++20", "-fno-exceptions"],
        &["-x", "c++", "-std=c++23"],
    ];
    for flags in strict {
        let parts = ["reply.hpp", "command.hpp", "request.hpp", "crowd.hpp", "shared_client.hpp"];
        compiles_alone("broker.hpp", "c++", flags);
        for part in parts {
            compiles_alone(&format!("broker/{part}"), "c++", flags);
        }
    }
    let adapters = ["uv", "libevent", "epoll", "glib", "sd_event", "handle"];
    let adapters = adapters.map(|name| format!("broker/adapters/{name}.h"));
    for header in adapters.iter().map(String::as_str).chain(["broker/format.h"]) {
        compiles_alone(header, "c++", &["-x", "c++", "-std=c++17", "-fno-exceptions", "-fno-rtti"]);
        compiles_alone(header, "cc", &["-x", "c", "-std=c11", "-D_POSIX_C_SOURCE=200809L"]);
        compiles_alone(header, "cc", &["-x", "c", "-std=c99", "-D_POSIX_C_SOURCE=200112L"]);
        compiles_alone(header, "cc", &["-x", "c", "-std=gnu99", "-Wformat=2"]);
        if !header.contains("uv") && !header.contains("sd_event") {
            // libuv's own header does not compile so; the other needs a clock.
            compiles_alone(header, "cc", &["-x", "c", "-std=c99"]);
        }
    }
    for asio in ["-DBROKER_ASIO_BOOST", "-DBROKER_ASIO_STANDALONE", "-DASIO_STANDALONE", "-DNO_CHOICE"] {
        for standard in ["-std=c++17", "-std=c++20"] {
            compiles_alone("broker/adapters/asio.hpp", "c++", &["-x", "c++", standard, asio]);
        }
    }
}

/// What the compiler says of a program that asks for this.
fn words_of_compiler(statement: &str) -> String {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let program = format!(
        "#include <broker.hpp>\n#include <filesystem>\nvoid ask(broker::client& client) {{ {statement} }}\n"
    );
    let mut command = Command::new("c++");
    command.args(["-x", "c++", "-std=c++17", "-fsyntax-only", "-I"]).arg(include).arg("-");
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut compiler = command.spawn().expect("run the compiler");
    let mut input = compiler.stdin.take().expect("its input");
    input.write_all(program.as_bytes()).expect("hand it the program");
    drop(input);
    let output = compiler.wait_with_output().expect("its words");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A path is a range of paths, without an end.
#[test]
fn the_compiler_refuses_a_path_as_a_word() {
    let words = words_of_compiler("client.call<void>(\"SET\", \"p\", std::filesystem::path(\"x\"));");
    assert!(words.contains("pass its string()"), "{words}");
    assert_eq!(
        words_of_compiler("client.call<void>(\"SET\", \"p\", std::filesystem::path(\"x\").string());"),
        ""
    );
}

/// Every header that is installed is one of those above, or broker.h.
#[test]
fn no_header_is_forgotten() {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let this = include_str!("cxx.rs");
    for directory in [include.clone(), include.join("broker"), include.join("broker/adapters")] {
        for entry in directory.read_dir().expect("the headers").flatten() {
            let name = entry.file_name().into_string().expect("plain text");
            let stem = name.trim_end_matches(".h");
            let named = this.contains(&name) || this.contains(&format!("\"{stem}\""));
            assert!(entry.path().is_dir() || name == "broker.h" || named, "{name}");
        }
    }
}
