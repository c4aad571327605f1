//! The log of the program: nobody floods it, nobody is hidden in it, and whoever does not take its lines holds nobody up.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::broker::BINARY;
use crate::support::raw::pipeline;
use crate::support::{Broker, PATIENCE, Raw, Redis, Running, end_within, signal, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A child cannot fill a disk by what is refused.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_child_cannot_flood_the_log() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[("log_level", "debug")]);
    let mut raw = broker.connect();
    raw.expect("PING", "+PONG\r\n");
    let before = broker.log().lines().count();
    for _ in 0..20 {
        raw.write(&pipeline(&["MONITOR"; 100]));
        (0..100).for_each(|_| assert!(raw.read_text().starts_with('-')));
    }
    // Another line, logged behind all of those.
    hang_up(broker.pid());
    wait_until("it says so", || broker.log().contains("SIGHUP"));
    let lines = broker.log().lines().count() - before;
    assert!((2..=40).contains(&lines), "{lines} lines:\n{}", broker.log());
    assert!(broker.log().contains("refused 'monitor'"));
    // How many there were is said in any case.
    broker.term();
    broker.wait_exit(PATIENCE);
    let told = |line: &str| {
        let (count, rest) = line.split_once(" and ")?.1.split_once(" more like this ")?;
        rest.contains("refused 'monitor'").then(|| count.parse::<usize>().ok()).flatten()
    };
    let written = |log: &str| log.lines().filter(|line| line.contains(" refused 'monitor'")).count();
    wait_until("all are accounted for", || {
        let log = broker.log();
        let summed: Vec<usize> = log.lines().filter_map(told).collect();
        written(&log) - summed.len() + summed.iter().sum::<usize>() == 2000
    });
}

/// SIGHUP changes nothing where no file has changed, and is logged.
fn hang_up(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process");
    kill_process(pid, Signal::HUP).expect("signal the broker");
}

/// A broker in `directory` whose standard error is `stderr`, with more of `--set`; and its socket.
fn start_with_stderr(redis: &Redis, directory: &Path, stderr: Stdio, set: &[&str]) -> (Running, PathBuf) {
    let mut command = Command::new(BINARY);
    let socket = serve_in(&mut command, redis, directory, set);
    let running = Running(command.stderr(stderr).spawn().expect("start the broker"));
    wait_until("it listens", || Raw::try_unix(&socket).is_ok());
    (running, socket)
}

/// The arguments of such a broker.
fn serve_in(command: &mut Command, redis: &Redis, directory: &Path, set: &[&str]) -> PathBuf {
    let socket = directory.join("b.sock");
    let listen = format!("unix://{}", socket.display());
    command.args(["serve", "--listen", &listen, "--upstream", &redis.url()]);
    command.args(set.iter().flat_map(|pair| ["--set", pair]));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    socket
}

/// 100,000 refusals on 50 connections that pipeline them; another child is served all the while.
fn refuse_very_many(socket: &Path) {
    const CHILDREN: usize = 50;
    const EACH: usize = 2000;
    let flooding = AtomicUsize::new(CHILDREN);
    thread::scope(|scope| {
        for _ in 0..CHILDREN {
            scope.spawn(|| {
                let (mut loud, requests) = (Raw::unix(socket), pipeline(&["MONITOR"; EACH]));
                loud.write(&requests);
                let refused = (0..EACH).filter(|_| loud.read_text().starts_with("-NOPERM")).count();
                flooding.fetch_sub(1, Ordering::SeqCst);
                assert_eq!(refused, EACH);
            });
        }
        let mut polite = Raw::unix(socket);
        loop {
            // Once more behind the last of them.
            let is_last = flooding.load(Ordering::SeqCst) == 0;
            polite.expect("SET k v", "+OK\r\n");
            polite.expect("GET k", "$1\r\nv\r\n");
            if is_last {
                break;
            }
        }
    });
}

/// Nobody reads its standard error, which is full from the start; then somebody does.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_log_that_nobody_reads_holds_nobody_up() {
    let redis = Redis::start();
    let place = tempfile::tempdir().expect("a directory");
    let (mut pipe_reader, mut pipe_writer) = std::io::pipe().expect("a pipe");
    let (mut socket_reader, mut socket_writer) = UnixStream::pair().expect("a socket pair");
    fill(&mut pipe_writer);
    fill(&mut socket_writer);
    let cases: [(&str, &mut dyn Read, Stdio); 2] = [
        ("pipe", &mut pipe_reader, pipe_writer.into()),
        ("socket", &mut socket_reader, OwnedFd::from(socket_writer).into()),
    ];
    for (name, reader, stderr) in cases {
        let directory = place.path().join(name);
        fs::create_dir(&directory).expect("a directory");
        let (_broker, socket) = start_with_stderr(&redis, &directory, stderr, &["log_level=debug"]);
        let (mut loud, mut polite) = (Raw::unix(&socket), Raw::unix(&socket));
        for _ in 0..100 {
            assert!(loud.ask("MONITOR").starts_with('-'));
        }
        polite.expect("SET k v", "+OK\r\n");
        polite.expect("GET k", "$1\r\nv\r\n");
        let (mut text, mut piece) = (Vec::new(), [0; 4096]);
        while !String::from_utf8_lossy(&text).contains("refused 'monitor'") {
            let count = reader.read(&mut piece).expect("read what it logs");
            assert_ne!(count, 0, "{name}: {}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&piece[..count]);
        }
    }
}

/// Writes until nothing more goes in.
fn fill(writer: &mut (impl Write + AsFd)) {
    rustix::io::ioctl_fionbio(writer.as_fd(), true).expect("non-blocking");
    // From large to small: a socket takes small ones after it has refused large ones.
    for size in [4096, 64, 1] {
        while writer.write(&vec![b'.'; size]).is_ok() {}
    }
    rustix::io::ioctl_fionbio(writer.as_fd(), false).expect("blocking");
}

/// A pipe that is full from the start, more lines than wait for it, then a reader: it hears how many are missing.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn nobody_notices_a_log_that_overflows_but_its_reader() {
    const CHILDREN: usize = 3000;
    let (redis, place) = (Redis::start(), tempfile::tempdir().expect("a directory"));
    let (mut reader, mut writer) = std::io::pipe().expect("a pipe");
    fill(&mut writer);
    // Two lines that are never left out, by the library that polls, for each child that comes and goes.
    let (broker, socket) = start_with_stderr(&redis, place.path(), writer.into(), &["log_areas=other=trace"]);
    refuse_very_many(&socket);
    for _ in 0..CHILDREN {
        Raw::unix(&socket).expect("PING", "+PONG\r\n");
    }
    refuse_very_many(&socket);
    let (mut text, mut piece) = (String::new(), [0; 4096]);
    let registered = |line: &&str| line.contains(" registering event source with poller");
    let lost_in = |line: &str| {
        let told = line.ends_with(" lines lost: standard error accepted no more");
        if told { line.split_whitespace().nth(2)?.parse::<usize>().ok() } else { None }
    };
    // A short line may find room where a long one did not, so losses are told in several parts.
    let (seen, lost) = loop {
        let count = reader.read(&mut piece).expect("read what it logs");
        assert_ne!(count, 0, "{text}");
        text += std::str::from_utf8(&piece[..count]).expect("text");
        let lost: usize = text.lines().filter_map(lost_in).sum();
        let seen = text.lines().filter(registered).count();
        if lost > 0 && seen + lost >= CHILDREN {
            break (seen, lost);
        }
    };
    assert!(seen > 0, "{seen} seen, {lost} lost");
    // What comes now comes.
    hang_up(broker.0.id());
    while !text.contains("SIGHUP") {
        let count = reader.read(&mut piece).expect("read what it logs");
        text += std::str::from_utf8(&piece[..count]).expect("text");
    }
}

/// No space, or no more of it for this process: the broker serves, and ends as it should.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_log_without_space_ends_nothing() {
    let (redis, place) = (Redis::start(), tempfile::tempdir().expect("a directory"));
    let file = place.path().join("log");
    let full = OpenOptions::new().write(true).open("/dev/full").expect("a full device");
    let limited = File::create(&file).expect("a file");
    for (name, limit, stderr) in
        [("full", "", Stdio::from(full)), ("limited", "ulimit -f 0;", limited.into())]
    {
        let directory = place.path().join(name);
        fs::create_dir(&directory).expect("a directory");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{limit} exec \"$0\" \"$@\""), BINARY]);
        let socket = serve_in(&mut command, &redis, &directory, &["log_level=debug"]);
        let mut broker = Running(command.stderr(stderr).spawn().expect("start the broker"));
        wait_until("it listens", || Raw::try_unix(&socket).is_ok());
        refuse_very_many(&socket);
        signal(&broker.0, Signal::TERM);
        let status = end_within(&mut broker.0, PATIENCE).expect("it ends");
        assert_eq!(status.code(), Some(0), "{name}");
    }
    assert_eq!(fs::metadata(&file).expect("the file").len(), 0);
}

/// The reason cannot be said, but its kind can.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_start_that_is_refused_has_its_exit_code_without_a_log() {
    for args in [&["serve", "--no-such-flag"][..], &["serve", "--upstream", "nonsense"]] {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("a full device");
        let mut command = Command::new(BINARY);
        let status = command.args(args).stderr(full).status().expect("run the broker");
        assert_eq!(status.code(), Some(2), "{args:?}");
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn one_child_does_not_hide_another() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let (mut loud, mut quiet) = (broker.connect(), broker.connect());
    let [loud_id, quiet_id] = [&mut loud, &mut quiet].map(id_of);
    loud.write(&pipeline(&["MONITOR"; 2000]));
    (0..2000).for_each(|_| assert!(loud.read_text().starts_with('-')));
    assert!(quiet.ask("MONITOR").starts_with('-'));
    let lines = |id: u64| {
        let words = format!(" info  refused 'monitor' of child {id} (pid {} ", std::process::id());
        broker.log().lines().filter(|line| line.contains(&words)).count()
    };
    wait_until("both are named", || lines(loud_id) > 0 && lines(quiet_id) == 1);
    assert_eq!(lines(loud_id), 10);
}

fn id_of(raw: &mut Raw) -> u64 {
    raw.ask("CLIENT ID").trim_start_matches(':').trim_end().parse().expect("a number")
}

/// Also where a child has chosen the words.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn json_says_what_a_line_is_about() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("log_format", "json"), ("auth", "passthrough")]);
    let mut raw = broker.connect();
    let id = id_of(&mut raw);
    assert!(raw.ask("MONITOR").starts_with('-'));
    raw.call(&["AUTH", "na\n\"me\\", "wrong"]);
    wait_until("it is logged", || broker.log().contains("wrong password") && broker.log().ends_with('\n'));
    let log = broker.log();
    let objects: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let find = |words: &str| {
        let message = |object: &&Value| object["message"].as_str().is_some_and(|text| text.contains(words));
        objects.iter().find(message).unwrap_or_else(|| panic!("{words}: {log}"))
    };
    let (pid, uid) = (std::process::id(), rustix::process::geteuid().as_raw());
    for (words, area, level) in [("refused 'monitor'", "request", "info"), ("wrong password", "user", "warn")]
    {
        let line = find(words);
        assert_eq!((line["area"].as_str(), line["level"].as_str()), (Some(area), Some(level)));
        let peer = format!("pid {pid} uid {uid}");
        let subject = json!({ "child": id, "pid": pid, "uid": uid, "peer": peer });
        for key in ["child", "pid", "uid", "peer"] {
            assert_eq!(line[key], subject[key], "{line}");
        }
    }
    let up = find("is up");
    assert!(up["time"].is_string() && up["area"] == "questions" && up.get("child").is_none(), "{up}");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn an_area_is_logged_at_its_own_level() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("log_level", "error"), ("log_areas", "request=info,program=info")]);
    assert!(broker.connect().ask("MONITOR").starts_with('-'));
    hang_up(broker.pid());
    wait_until("both areas log", || broker.log().contains("SIGHUP"));
    assert!(broker.log().contains("refused 'monitor'"));
    assert!(!broker.log().contains("is up"), "{}", broker.log());
    let output = Broker::run(&["serve", "--dev", "--set", "log_areas=lanes=debug"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("unknown area; allowed area=level") && said.contains("upstream"), "{said}");
}
