//! The examples in c-examples/: built against the library of this cargo build, run, and checked by what they
//! print. One check for each, whichever way the examples were built.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::Signal;

use super::native::shared_library;
use super::redis::list_clients;
use super::{Broker, Raw, Redis, end_within, signal, wait_within};

/// Longer than every wait inside an example together.
const LIMIT: Duration = Duration::from_secs(120);
/// prefork.c's own cap.
const PREFORK_CAP: usize = 8;

/// A directory of built examples.
pub(crate) struct Examples {
    directory: PathBuf,
}

impl Examples {
    /// Those in `directory`, however they came there.
    pub(crate) fn in_directory(directory: impl Into<PathBuf>) -> Examples {
        Examples { directory: directory.into() }
    }

    /// All that can be built here, with the archive of this cargo build, as in the source tree, and warnings denied.
    /// Built once for each test binary.
    pub(crate) fn of_this_build() -> &'static Examples {
        static BUILT: OnceLock<Examples> = OnceLock::new();
        BUILT.get_or_init(|| {
            let tree = scratch("examples");
            let build = tree.join("c-examples/build");
            let mut make = make(&source());
            make.arg(format!("-j{}", std::thread::available_parallelism().map_or(2, usize::from)));
            make.arg(format!("BUILD={}", build.display())).arg("WERROR=-Werror");
            make.arg(format!("TREE={}", shared_library().with_extension("a").display()));
            make.args(patient_flags(&tree, &source().with_file_name("include"), "-O2"));
            make.arg("BROKER_CFLAGS=-I../include");
            succeed(&mut make);
            Examples::in_directory(build)
        })
    }

    /// What holds `c-examples/build`, as the project's own directory does.
    pub(crate) fn tree(&self) -> &Path {
        self.directory.ancestors().nth(2).expect("a directory above")
    }

    /// The path of one of them.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// One of them as a command, to run as an ordinary program does.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.program(name));
        // What cargo lets its own children find, a program of a user's has to find by itself.
        command.env_remove("LD_LIBRARY_PATH").env_remove("BROKER_ENDPOINT").stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, name: &str, args: &[&str]) -> Output {
        let mut command = self.command(name);
        let process = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        finish(process.unwrap_or_else(|error| panic!("{name}: {error}")))
    }

    /// Runs it to its end, which must be a good one and without a word on standard error; what it printed.
    pub(crate) fn output(&self, name: &str, args: &[&str]) -> String {
        good(name, &self.run(name, args))
    }

    /// Runs it against a server given by its unix socket, and compares all it prints.
    fn prints(&self, name: &str, socket: &Path, wanted: &str) {
        let output = self.output(name, &[&format!("unix://{}", socket.display())]);
        assert_eq!(output, wanted, "{name}");
    }

    /// sync.c: the types of replies, and calls without one.
    pub(crate) fn check_sync(&self, socket: &Path) {
        let wanted = "\
PING: PONG
SET: OK
GET: hello
GET: nil
INCRBY: integer 42
ZADD: integer 1
ZSCORE: double 1.5
HSET: integer 2
HGETALL: 4 elements: name Ada born 1815
LPUSH: error WRONGTYPE Operation against a key holding the wrong kind of value
bytes: 5 of 5
BLPOP: BROKER_ETIMEDOUT
SELECT: BROKER_EUNSUPPORTED
DEL: integer 5
";
        self.prints("sync", socket, wanted);
    }

    /// async_epoll.c: bursts from a loop of the program's own, and a canceled request.
    pub(crate) fn check_async_epoll(&self, socket: &Path) {
        let ticks: String = (1..=5).map(|tick| format!("tick {tick}: 100 of 100 replies right\n")).collect();
        self.prints("async_epoll", socket, &format!("connected\n{ticks}BLPOP: BROKER_ECANCELED\n"));
    }

    /// pubsub.c: every message once to each subscription, and none behind the unsubscribe.
    pub(crate) fn check_pubsub(&self, socket: &Path) {
        let output = self.output("pubsub", &[&format!("unix://{}", socket.display())]);
        let of = |who: &str| -> Vec<String> {
            let lines = output.lines().filter_map(|line| line.strip_prefix(who));
            lines.map(ToOwned::to_owned).collect()
        };
        let message = |text: &str| format!(": \"{text}\" on news.local");
        assert_eq!(of("channel"), ["first", "second", "third"].map(message));
        assert_eq!(of("pattern"), ["first", "second", "third", "fourth"].map(message));
        assert_eq!(output.lines().last(), Some("7 messages"));
    }

    /// transaction.c: one that is done, one that is refused, one that has to be tried twice.
    pub(crate) fn check_transaction(&self, socket: &Path) {
        let wanted = "\
transfer: 30 and 20
refused: ERR wrong number of arguments for 'get' command
account:a: 30
attempt 1: a watched key has changed
attempt 2: done
account:a: 200
";
        self.prints("transaction", socket, wanted);
    }

    /// hiredis_child.c and libbroker_child.c: a short work whose every reply is right; connections opened.
    pub(crate) fn check_child(&self, name: &str, socket: &Path) -> u64 {
        let output = self.output(name, &[&socket.display().to_string(), "1", "7"]);
        let [requests, checked, mismatches, connections] =
            counts(&output, ["requests", "checked", "mismatches", "connections"]);
        assert_eq!(mismatches, 0);
        // All but the DEL at the start and the one at the end.
        assert_eq!(requests, checked + 2);
        assert!(checked > 0);
        connections
    }

    /// prefork.c: whoever is killed, no reply is wrong or missing, and Redis counts few connections. How many
    /// workers were replaced.
    pub(crate) fn check_prefork(&self, redis: &Redis, requests: u64, kill_every_ms: u64) -> u64 {
        let mut command = self.command("prefork");
        command.arg(redis.url()).arg(requests.to_string()).arg(kill_every_ms.to_string());
        let mut process =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start prefork");
        let (mut eyes, mut seen) = (redis.connect(), 0);
        wait_within("prefork ends", LIMIT, || {
            seen = seen.max(list_clients(&mut eyes).len());
            process.try_wait().expect("wait for prefork").is_some()
        });
        let output = good("prefork", &process.wait_with_output().expect("its output"));
        let [workers, done, restarts, mismatches, connections, cap] =
            counts(&output, ["workers", "requests", "restarts", "mismatches", "connections", "cap"]);
        assert_eq!((workers, done, mismatches, cap), (8, requests, 0, PREFORK_CAP as u64), "{output}");
        assert!((1..=cap).contains(&connections), "{output}");
        assert!((1..=PREFORK_CAP).contains(&seen), "{seen} connections in Redis");
        restarts
    }

    /// embed_epoll.c: the program's own clients and the broker's children are served by one loop until SIGTERM.
    pub(crate) fn check_embed_epoll(&self, redis: &Redis) {
        let socket = redis.directory().join("embedded.sock");
        let mut command = self.command("embed_epoll");
        command.arg(redis.url()).arg(format!("unix://{}", socket.display()));
        let mut process =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start embed_epoll");
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let mut line = || lines.next().expect("a line").expect("text");
        assert_eq!(line(), format!("broker unix://{}", socket.display()));
        let web = line().strip_prefix("web http://").map(|url| url.trim_end_matches('/').to_owned());
        let web = web.expect("the address of the web server");
        let mut child = Raw::unix(&socket);
        for number in 1..=3 {
            assert_eq!(get(&web), format!("visit {number}\n"));
            child.expect("GET embed_epoll:visits", &format!("$1\r\n{number}\r\n"));
        }
        signal(&process, Signal::TERM);
        assert_eq!(line(), "3 visits answered");
        assert!(lines.next().is_none());
        assert_eq!(good("embed_epoll", &finish(process)), "");
        assert!(!socket.exists(), "its socket stays behind");
        redis.connect().expect("DEL embed_epoll:visits", ":1\r\n");
    }

    /// libuv.c: ten thousand requests in flight beside a timer.
    pub(crate) fn check_libuv(&self, socket: &Path) {
        let output = self.output("libuv", &[&format!("unix://{}", socket.display())]);
        assert_eq!(output, "10000 of 10000 replies right\nthe timer ticked meanwhile\n");
    }

    /// glib.c: one request after the other beside a timeout.
    pub(crate) fn check_glib(&self, socket: &Path) {
        self.prints("glib", socket, "counted to 1000\nthe timeout came meanwhile\n");
    }

    /// sd_event.c: messages beside a timer.
    pub(crate) fn check_sd_event(&self, socket: &Path) {
        self.prints("sd_event", socket, "message 1\nmessage 2\nmessage 3\n");
    }

    /// asio.cpp: a parent and a worker that it forked.
    pub(crate) fn check_asio(&self, socket: &Path) {
        self.prints("asio", socket, "counted to 2000 in two processes\n");
    }

    /// client.cpp: what broker.hpp adds.
    pub(crate) fn check_client(&self, socket: &Path) {
        let wanted = "\
answer: 42
nothing: -1
marks: Ada=36 Grace=85
refused: WRONGTYPE
timed out
no number: true
sum: 55
length: 2
news: first, second
twice: OK, 200 at attempt 2
together: 16
";
        self.prints("client", socket, wanted);
    }

    /// Every example once, but redis_plus_plus.cpp, which has tests of its own: what an installed library has
    /// to get through.
    pub(crate) fn check_all(&self, redis: &Redis, broker: &Broker) {
        let socket = broker.socket();
        self.check_sync(socket);
        self.check_async_epoll(socket);
        self.check_pubsub(socket);
        self.check_transaction(socket);
        self.check_embed_epoll(redis);
        self.check_prefork(&Redis::start(), 10_000, 50);
        self.check_child("libbroker_child", socket);
        self.check_libuv(socket);
        self.check_glib(socket);
        self.check_sd_event(socket);
        self.check_asio(socket);
        self.check_client(socket);
        self.check_child("hiredis_child", socket);
    }
}

/// Flags for make by which the settings of an example begin with more patience than the defaults have, for a machine that
/// is busy: a broker.h below `tree` that is found before the one in `include`.
pub(crate) fn patient_flags(tree: &Path, include: &Path, optimise: &str) -> [String; 3] {
    let directory = tree.join("patient");
    let header = format!(
        "#include \"{}/broker.h\"\n#define PATIENCE_FOR_SETTINGS\n{}",
        include.display(),
        include_str!("../snippets/patience.h")
    );
    std::fs::create_dir(&directory).expect("a directory");
    std::fs::write(directory.join("broker.h"), header).expect("a header");
    let directory = directory.display();
    // The headers for C++ have the one beside them.
    let cxx = format!("CXXFLAGS={optimise} -g1 -include {directory}/broker.h");
    [format!("CPPFLAGS=-I{directory}"), format!("CFLAGS={optimise} -g1"), cxx]
}

/// The sources.
pub(crate) fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("c-examples")
}

/// An empty directory of this test binary's own.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("a directory");
    path
}

/// `make` in a directory, as a user types it.
pub(crate) fn make(directory: &Path) -> Command {
    let mut make = Command::new("make");
    make.arg("-C").arg(directory);
    // What an outer make says about its own jobs and variables is not meant for this one.
    for variable in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"] {
        make.env_remove(variable);
    }
    make
}

/// Runs a command that must succeed.
pub(crate) fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{text}{errors}");
}

/// The numbers of the line that `name=number` words make, the last one of the output.
pub(crate) fn counts<const N: usize>(output: &str, names: [&str; N]) -> [u64; N] {
    let line = output.lines().last().unwrap_or_default();
    let words: Vec<(&str, &str)> = line.split(' ').filter_map(|word| word.split_once('=')).collect();
    names.map(|name| {
        let word = words.iter().find(|(key, _)| *key == name);
        word.and_then(|(_, value)| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {line:?}"))
    })
}

fn good(name: &str, output: &Output) -> String {
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && errors.is_empty(), "{name}: {}\n{text}{errors}", output.status);
    text.into_owned()
}

/// Waits for a process whose output fits into its pipes; one that hangs is ended.
fn finish(mut process: Child) -> Output {
    if end_within(&mut process, LIMIT).is_none() {
        process.kill().expect("end an example");
        let output = process.wait_with_output().expect("its output");
        panic!("it ran on for {LIMIT:?}: {output:?}");
    }
    process.wait_with_output().expect("its output")
}

/// The body of a web page.
fn get(address: &str) -> String {
    let mut web = TcpStream::connect(address).expect("connect to the web server");
    web.set_read_timeout(Some(super::PATIENCE)).expect("a timeout");
    web.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("send a request");
    let mut page = String::new();
    web.read_to_string(&mut page).expect("a page");
    page.split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_else(|| panic!("no page: {page:?}"))
}
