//! A private in-memory `redis-server` on a unix socket in a temporary directory. It ends with this process, also if that
//! is killed; the next start removes a directory left behind by a killed process.

use super::guard::{self, Guarded};
use broker::base::error::{Error, Result};
use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const DIR_PREFIX: &str = "broker-dev-";
/// Names the owner of the directory, which locks it. The lock ends with the process, and unlike a process id it works
/// across PID namespaces that share the directory.
const PID_FILE: &str = "pid";
const LOG_FILE: &str = "redis.log";
const START_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_PAUSE: Duration = Duration::from_millis(5);
/// Longest path of a temporary directory, bytes, with which our names still fit a socket address (108 bytes).
const TEMP_PATH_MAX: usize = 64;

/// A running private Redis. Dropping it ends the server and removes the directory.
#[derive(Debug)]
pub(crate) struct DevRedis {
    process: Guarded,
    dir: TempDir,
    _lock: File,
}

impl DevRedis {
    /// Starts a server and waits until it answers.
    pub(crate) fn start() -> Result<DevRedis> {
        let program = find_server()?;
        let parent = temp_parent();
        sweep(&parent);
        let cannot = Error::attempting(format!("cannot make a directory in {}", parent.display()));
        let (dir, lock) = make_dir(&parent).map_err(cannot)?;
        let process = spawn(&program, dir.path())?;
        let mut redis = DevRedis { process, dir, _lock: lock };
        redis.wait_until_it_answers()?;
        Ok(redis)
    }

    /// A URL like the server's, if a server could be started.
    pub(crate) fn check() -> Result<String> {
        find_server().map(|_| format!("unix://{}", temp_parent().join("redis.sock").display()))
    }

    /// The directory, private to this user and removed with the server.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while ping(&self.socket()).is_err() {
            let ended = matches!(self.process.0.try_wait(), Ok(Some(_)) | Err(_));
            if ended || Instant::now() > deadline {
                let late = || format!("gave no answer within {} s", START_TIMEOUT.as_secs());
                let what = if ended { "ended".to_owned() } else { late() };
                return Err(Error::system(format!("the private redis-server {what}: {}", self.last_words())));
            }
            std::thread::sleep(POLL_PAUSE);
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = std::fs::read(self.dir.path().join(LOG_FILE)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it wrote nothing").trim().to_owned()
    }
}

fn find_server() -> Result<PathBuf> {
    guard::find_program("redis-server").ok_or_else(|| {
        Error::system("redis-server is not in PATH: install it with `apt-get install redis-server`")
    })
}

/// The directory for temporary files, or /tmp if its path does not fit a socket address or a URL.
fn temp_parent() -> PathBuf {
    let dir = std::env::temp_dir();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let fits = |text: &str| text.len() <= TEMP_PATH_MAX && text.starts_with('/') && text.bytes().all(plain);
    if dir.to_str().is_some_and(fits) { dir } else { PathBuf::from("/tmp") }
}

/// Creates the directory (mode 0700, minus the umask) with its locked pid file. The file gets its name only after it is
/// locked, so that no other start takes an unfinished directory for an abandoned one.
fn make_dir(parent: &Path) -> std::io::Result<(TempDir, File)> {
    let private = Permissions::from_mode(0o700);
    let dir = tempfile::Builder::new().prefix(DIR_PREFIX).permissions(private).tempdir_in(parent)?;
    let making = dir.path().join("pid.new");
    let mut lock = File::create_new(&making)?;
    lock.try_lock().map_err(std::io::Error::from)?;
    writeln!(lock, "{}", std::process::id())?;
    std::fs::rename(&making, dir.path().join(PID_FILE))?;
    Ok((dir, lock))
}

/// Removes the directories of this user whose owners have ended. Failures are ignored.
fn sweep(parent: &Path) {
    let Ok(entries) = parent.read_dir() else { return };
    let uid = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        let ours = entry.metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == uid);
        let named = entry.file_name().to_string_lossy().starts_with(DIR_PREFIX);
        let lock = || File::open(entry.path().join(PID_FILE));
        if ours && named && lock().is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn spawn(program: &Path, dir: &Path) -> Result<Guarded> {
    let log = || File::create(dir.join(LOG_FILE)).and_then(|log| Ok((log.try_clone()?, log)));
    let (out, err) = log().map_err(Error::attempting("cannot start the private redis-server"))?;
    let mut command = guard::command(program)?;
    command.args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
    command.args(["--unixsocketperm", "700", "--unixsocket"]).arg(dir.join("redis.sock"));
    command.arg("--dir").arg(dir);
    Guarded::spawn(command.stdin(Stdio::null()).stdout(out).stderr(err), "the private redis-server")
}

fn ping(socket: &Path) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"PING\r\n")?;
    let mut reply = [0; 7];
    stream.read_exact(&mut reply)?;
    if &reply == b"+PONG\r\n" { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_directory_without_a_living_owner_is_swept() {
        let parent = tempfile::tempdir().unwrap();
        let (living, lock) = make_dir(parent.path()).unwrap();
        let dead = parent.path().join("broker-dev-dead");
        let unfinished = parent.path().join("broker-dev-unfinished");
        let foreign = parent.path().join("other");
        for dir in [&dead, &unfinished, &foreign] {
            std::fs::create_dir(dir).unwrap();
        }
        std::fs::write(dead.join(PID_FILE), "1\n").unwrap();
        std::fs::write(foreign.join(PID_FILE), "1\n").unwrap();
        sweep(parent.path());
        assert!(living.path().exists() && unfinished.exists() && foreign.exists());
        assert!(!dead.exists());
        drop(lock);
        sweep(parent.path());
        assert!(!living.path().exists());
    }
}
