//! Everything an operator does to a running broker, one after the other, while children of every kind check each reply. By
//! default a little of each; `make steering` does as much as a long life brings.

use crate::support::broker::BINARY;
use crate::support::console::{lines, rows, said};
use crate::support::native::{C99, Mode, Native};
use crate::support::run::variable;
use crate::support::{Crowd, PATIENCE, Raw, Redis, admin_beside, is_running, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Programs that use the library, each with a counter of its own.
struct Programs(Vec<Child>);

impl Programs {
    fn start(socket: &Path, count: u64) -> Programs {
        let native = Native::build("steered.c", C99, Mode::Plain, &[]);
        let endpoint = format!("unix://{}", socket.display());
        let start = |number: u64| {
            let mut command: Command = native.command(&[&endpoint, &format!("library:{number}")]);
            let program = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            program.spawn().expect("start a program")
        };
        Programs((0..count).map(start).collect())
    }

    /// Ends them. Returns how often they have counted.
    fn end(self) -> u64 {
        let counted = self.0.into_iter().map(|mut program| {
            drop(program.stdin.take());
            let (mut errors, mut output) = (String::new(), BufReader::new(program.stdout.take().unwrap()));
            let status = program.wait().expect("its end");
            program.stderr.take().unwrap().read_to_string(&mut errors).expect("text");
            assert!(status.success(), "a program of the library: {status}: {errors}");
            let mut line = String::new();
            output.read_line(&mut line).expect("ready");
            line.clear();
            output.read_line(&mut line).expect("a count");
            line.trim().parse::<u64>().expect("a number")
        });
        counted.sum()
    }
}

/// The program as an operator has it: a file that the next version replaces, and a process that its successor follows.
struct Daemon {
    program: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    pid: u32,
    first: Child,
}

impl Daemon {
    fn start(directory: &Path, config: &Path) -> Daemon {
        let (program, log) = (directory.join("broker"), directory.join("log"));
        std::fs::copy(BINARY, &program).expect("install the program");
        let mut command = Command::new(&program);
        command.arg("serve").arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::null());
        let first = command.stderr(File::create(&log).expect("a log")).spawn().expect("start the broker");
        let socket = directory.join("b.sock");
        wait_until("it listens", || Raw::try_unix(&socket).is_ok());
        Daemon { program, socket, log, pid: first.id(), first }
    }

    fn admin(&self) -> Raw {
        let mut admin = Raw::unix(&admin_beside(&self.socket));
        admin.set_patience(PATIENCE);
        admin
    }

    /// Another build takes the place of the file, and a process of it that of the process.
    fn upgrade(&mut self, build: &Path) {
        let next = self.program.with_extension("next");
        std::fs::copy(build, &next).expect("write the next version");
        std::fs::rename(&next, &self.program).expect("put it in its place");
        let said = lines(&mut self.admin(), "BROKER UPGRADE");
        let successor = said[0].split(' ').nth(1).and_then(|pid| pid.parse().ok());
        let former = std::mem::replace(&mut self.pid, successor.unwrap_or_else(|| panic!("{said:?}")));
        let own = self.first.id();
        wait_until("the former process has ended", || {
            if former == own {
                self.first.try_wait().expect("its status").is_some_and(|status| status.success())
            } else {
                !is_running(former)
            }
        });
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.pid as i32) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.first.wait();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

struct Steered {
    daemon: Daemon,
    crowd: Crowd,
    programs: Programs,
    /// The one in use, and the one that is to be moved to.
    redis: [Redis; 2],
    config: PathBuf,
    children: u64,
}

impl Steered {
    /// Every child goes on.
    fn goes_on(&self) {
        let enough = self.crowd.rounds() + 20 * self.children;
        wait_until("the load goes on", || self.crowd.rounds() > enough);
    }

    fn reload(&self, round: u64) {
        let extra = self.redis[0].directory().join("extra.sock");
        let socket = self.daemon.socket.display();
        let listen = if round.is_multiple_of(2) {
            format!("'unix://{socket}', 'unix://{}'", extra.display())
        } else {
            format!("'unix://{socket}'")
        };
        let text = config(
            &listen,
            &self.redis[0].url(),
            &format!(
                "lanes = {}\nleases_blocking_max = {}\nleases_warm = {}",
                1 + round % 4,
                30 + round,
                round % 3
            ),
        );
        std::fs::write(&self.config, text).expect("write the configuration");
        assert!(lines(&mut self.daemon.admin(), "BROKER RELOAD").len() > 1, "reload {round}");
        assert_eq!(Raw::try_unix(&extra).is_ok(), round.is_multiple_of(2), "its listener, reload {round}");
    }

    /// Redis restarts while nothing is written.
    fn restart_redis(&self) {
        self.crowd.may_lose_subscribers(true);
        let mut admin = self.daemon.admin();
        assert_eq!(said(&mut admin, "BROKER PAUSE"), "+OK");
        let held = self.crowd.hold_redis();
        self.redis[0].ask("SAVE");
        self.redis[0].restart();
        // Longer than anybody would wait for a connection.
        std::thread::sleep(Duration::from_secs(2));
        wait_until("Redis", || self.redis[0].try_ask("PING").is_some_and(|reply| reply == "+PONG\r\n"));
        drop(held);
        assert_eq!(said(&mut admin, "BROKER RESUME"), "+OK");
        self.goes_on();
        self.crowd.may_lose_subscribers(false);
    }

    /// The other Redis follows the one in use.
    fn follow(&self) {
        let port = self.redis[0].ask("CONFIG GET port");
        let port = port.split("\r\n").nth(4).expect("a port").to_owned();
        self.redis[1].ask(&format!("REPLICAOF 127.0.0.1 {port}"));
        wait_until("a replica", || self.redis[1].ask("INFO replication").contains("master_link_status:up"));
    }

    fn offset(redis: &Redis, field: &str) -> String {
        let info = redis.ask("INFO replication");
        let line = info.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        line.split(':').nth(1).unwrap_or_default().trim().to_owned()
    }

    /// To a replica that becomes the master meanwhile; with PAUSE and RESUME, or in one step to one that takes writes.
    fn move_upstream(&mut self, by_hand: bool) {
        self.follow();
        self.crowd.may_lose_subscribers(true);
        let mut admin = self.daemon.admin();
        let url = self.redis[1].url();
        if by_hand {
            assert_eq!(said(&mut admin, "BROKER PAUSE"), "+OK");
        } else {
            assert_eq!(said(&mut admin, "BROKER SET upstream_role any"), "+OK");
            self.redis[1].ask("CONFIG SET replica-read-only no");
        }
        let mut held = self.crowd.hold_redis();
        if by_hand {
            wait_until("the replica has everything", || {
                Steered::offset(&self.redis[0], "master_repl_offset:")
                    == Steered::offset(&self.redis[1], "slave_repl_offset:")
            });
            self.redis[1].ask("REPLICAOF NO ONE");
        }
        assert_eq!(said(&mut admin, &format!("BROKER UPSTREAM {url}")), "+OK");
        held.0 = self.redis[1].socket();
        drop(held);
        if by_hand {
            assert_eq!(said(&mut admin, "BROKER RESUME"), "+OK");
        } else {
            self.redis[1].ask("REPLICAOF NO ONE");
            assert_eq!(said(&mut admin, "BROKER UNSET upstream_role"), "+OK");
        }
        self.redis.swap(0, 1);
        self.goes_on();
        self.crowd.may_lose_subscribers(false);
    }
}

fn config(listen: &str, upstream: &str, more: &str) -> String {
    format!(
        "upstream = '{upstream}'\nlisten = [{listen}]\nqueue_timeout = '20s'\nlease_wait_timeout = '20s'\n\
         idle_transaction_timeout = '60s'\nleases_transaction_max = 64\nupgrade_timeout = '5s'\n{more}\n"
    )
}

fn redis() -> Redis {
    let port = crate::support::native::free_port().to_string();
    Redis::start_with(&["--port", &port, "--repl-diskless-sync-delay", "0"])
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn whatever_the_operator_does_children_see_nothing_but_time() {
    let many = |name: &str, otherwise: u64| variable(name).unwrap_or(otherwise);
    let of_each = many("BROKER_STEERING_OF_EACH", 2);
    let redis = [redis(), redis()];
    let directory = tempfile::Builder::new().prefix("broker-").tempdir().expect("a directory");
    let (config_path, socket) = (directory.path().join("broker.toml"), directory.path().join("b.sock"));
    let text = config(&format!("'unix://{}'", socket.display()), &redis[0].url(), "");
    std::fs::write(&config_path, text).expect("write the configuration");
    let daemon = Daemon::start(directory.path(), &config_path);
    let crowd = Crowd::start(&socket, &redis[0], of_each as usize);
    let programs = Programs::start(&socket, of_each.div_ceil(4));
    let children = 7 * of_each;
    let mut steered = Steered { daemon, crowd, programs, redis, config: config_path, children };
    steered.goes_on();
    for round in 0..many("BROKER_STEERING_RELOADS", 2) {
        steered.reload(round);
        steered.goes_on();
    }
    let other =
        std::env::var_os("BROKER_STEERING_OTHER").map_or_else(|| PathBuf::from(BINARY), PathBuf::from);
    for round in 0..many("BROKER_STEERING_UPGRADES", 1) {
        // There, and back.
        steered.daemon.upgrade(if round % 5 == 1 { &other } else { Path::new(BINARY) });
        steered.goes_on();
    }
    assert_eq!(steered.crowd.subscribers_lost(), 0, "by reloads and upgrades");
    steered.restart_redis();
    let lost_by_restart = steered.crowd.subscribers_lost();
    steered.move_upstream(true);
    steered.move_upstream(false);
    let lost = steered.crowd.subscribers_lost();
    assert!(lost_by_restart <= of_each && lost <= 3 * of_each, "{lost_by_restart}, {lost} subscribers lost");
    let mut admin = steered.daemon.admin();
    for name in ["requests_lost", "requests_down", "requests_limited", "requests_timed_out", "desyncs"] {
        assert_eq!(rows(&mut admin, &format!("STATS WHERE name {name}"))[0]["value"], "0", "{name}");
    }
    let rounds = steered.crowd.end();
    eprintln!(
        "{rounds} rounds of {children} children, {} of programs, {lost} subscribers lost as they may be",
        steered.programs.end()
    );
}
