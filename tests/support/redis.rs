//! A real redis-server of the test's own: private directory, unix socket, ended by its process id.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock};

use rustix::process::Signal;
use tempfile::TempDir;

use super::raw::Raw;
use super::{signal, wait_until};

/// The name under which the tests' own connections to Redis stand in CLIENT LIST.
const OWN_NAME: &str = "test-direct";

/// The server that the tests run: `BROKER_TEST_REDIS_SERVER`, else the redis-server in PATH.
pub(crate) fn server_program() -> PathBuf {
    std::env::var_os("BROKER_TEST_REDIS_SERVER").map_or_else(|| PathBuf::from("redis-server"), PathBuf::from)
}

/// Whether that server is older than Redis 7.0: what has come since cannot be tried with it.
pub(crate) fn is_before_7() -> bool {
    release().starts_with("redis-6.")
}

/// Its kind and version, as tests/servers.txt names it: `redis-7.0.15`, `valkey-8.1.8`.
pub(crate) fn release() -> &'static str {
    static RELEASE: OnceLock<String> = OnceLock::new();
    RELEASE.get_or_init(|| {
        let output = Command::new(server_program()).arg("--version").output();
        let text = String::from_utf8(output.expect("a server that tells its version").stdout).expect("text");
        let kind = text.split_whitespace().next().expect("its kind").to_lowercase();
        let version = text.split_whitespace().find_map(|word| word.strip_prefix("v=")).expect("v=");
        format!("{kind}-{version}")
    })
}

/// A running redis-server.
pub(crate) struct Redis {
    directory: TempDir,
    args: Vec<String>,
    password: Option<String>,
    process: Mutex<Option<Child>>,
}

impl Redis {
    /// An empty Redis without persistence.
    pub(crate) fn start() -> Redis {
        Redis::start_with(&[])
    }

    /// The same with more arguments; later ones win over the harness' own.
    pub(crate) fn start_with(args: &[&str]) -> Redis {
        let password = args.iter().position(|arg| *arg == "--requirepass").map(|at| args[at + 1].to_owned());
        let redis = Redis {
            directory: tempfile::Builder::new().prefix("redis-").tempdir().expect("a directory"),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            password,
            process: Mutex::new(None),
        };
        redis.launch();
        redis
    }

    /// A Redis whose data survives SIGKILL: each write is in the file before its reply is sent. Only with
    /// `always` is that so: else Redis may serve a connection that it has been waiting to write to in the same turn in
    /// which it has read a request from it, and write the file after that (`installClientWriteHandler` in its
    /// networking.c).
    pub(crate) fn start_durable() -> Redis {
        Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    fn launch(&self) {
        self.launch_with(&[]);
    }

    fn launch_with(&self, more: &[&str]) {
        let output = File::create(self.directory.path().join("log")).expect("a log file");
        let child = Command::new(server_program())
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--slowlog-log-slower-than", "-1"])
            .arg("--unixsocket")
            .arg(self.socket())
            .arg("--dir")
            .arg(self.directory.path())
            .args(&self.args)
            .args(more)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a handle"))
            .stderr(output)
            .spawn()
            .expect("start redis-server; install the package redis-server");
        *self.process() = Some(child);
        wait_until("redis-server answers", || self.answers());
    }

    fn answers(&self) -> bool {
        let Ok(mut raw) = Raw::try_unix(&self.socket()) else { return false };
        raw.try_write(b"PING\r\n").is_ok()
            && raw.try_reply().is_ok_and(|reply| {
                [&b"+PONG"[..], b"-NOAUTH", b"-LOADING"].iter().any(|text| reply.starts_with(text))
            })
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Path of its socket; the same after a restart.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Its private directory, for whatever else the test wants to keep.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The URL the broker dials.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// A connection of the test's own; [`upstream_clients`] does not count it.
    pub(crate) fn connect(&self) -> Raw {
        let mut raw = self.connect_plain();
        raw.expect(&format!("CLIENT SETNAME {OWN_NAME}"), "+OK\r\n");
        raw
    }

    /// A connection exactly as a client would open it.
    pub(crate) fn connect_plain(&self) -> Raw {
        let mut raw = Raw::unix(&self.socket());
        if let Some(password) = &self.password {
            raw.expect(&format!("AUTH {password}"), "+OK\r\n");
        }
        raw
    }

    /// Asks Redis itself, on a connection of its own.
    pub(crate) fn ask(&self, line: &str) -> String {
        self.connect().ask(line)
    }

    /// The same while sentinels may change its role, which ends its connections: none if that was one of them.
    pub(crate) fn try_ask(&self, line: &str) -> Option<String> {
        Raw::try_unix(&self.socket()).ok()?.try_ask(line)
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.process().take() {
            child.kill().expect("kill redis-server");
            child.wait().expect("reap redis-server");
        }
    }

    /// Starts it again on the same socket.
    pub(crate) fn restart(&self) {
        self.kill();
        // The socket file outlives SIGKILL; without it a connection cannot meet the dead server.
        let _ = std::fs::remove_file(self.socket());
        self.launch();
    }

    /// Starts it again on the same socket, so slow to load what it has saved that a test sees it load: a second for each
    /// 500 keys.
    pub(crate) fn restart_loading(&self) {
        self.kill();
        let _ = std::fs::remove_file(self.socket());
        self.launch_with(&["--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024"]);
    }

    /// Stops it from running (SIGSTOP); its sockets stay open.
    pub(crate) fn stop(&self) {
        signal(self.process().as_ref().expect("redis-server runs"), Signal::STOP);
    }

    /// Lets it run again.
    pub(crate) fn cont(&self) {
        signal(self.process().as_ref().expect("redis-server runs"), Signal::CONT);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(mut child) = self.process().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One line of Redis' CLIENT LIST.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamClient {
    /// The whole line.
    pub(crate) line: String,
}

impl UpstreamClient {
    /// A field of the line, empty when it is not there.
    pub(crate) fn field(&self, name: &str) -> &str {
        let mut fields = self.line.split(' ').filter_map(|field| field.split_once('='));
        fields.find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }

    /// The connection's name.
    pub(crate) fn name(&self) -> &str {
        self.field("name")
    }
}

/// What Redis itself counts as connected, without the tests' own connections.
pub(crate) fn upstream_clients(redis: &Redis) -> Vec<UpstreamClient> {
    list_clients(&mut redis.connect())
}

/// The same over a connection already there, for tests that sample often.
pub(crate) fn list_clients(raw: &mut Raw) -> Vec<UpstreamClient> {
    let reply = raw.ask("CLIENT LIST");
    let lines = reply.lines().filter(|line| line.starts_with("id="));
    let clients = lines.map(|line| UpstreamClient { line: line.to_owned() });
    clients.filter(|client| client.name() != OWN_NAME).collect()
}
