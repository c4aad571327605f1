//! `broker status` and `broker top` beside real brokers: what they say of one that is well, of one whose Redis is down, of
//! one whose leases are held, of none; and what a person sees and does at a terminal.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::Value;

use crate::support::broker::BINARY;
use crate::support::{Broker, PATIENCE, Redis, Running, end_within, signal, wait_until};

fn status(socket: &Path, more: &[&str]) -> Output {
    let socket = socket.display().to_string();
    Broker::run(&[&["status", "--socket", &socket], more].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until `broker status` ends with this code; all that it printed then.
fn status_of(socket: &Path, code: i32, part: &str) -> String {
    let mut said = String::new();
    wait_until(&format!("status {code} with {part:?}"), || {
        let output = status(socket, &["--timeout", "10s"]);
        said = text(&output.stdout);
        output.status.code() == Some(code) && said.contains(part)
    });
    said
}

fn json_of(socket: &Path) -> Value {
    serde_json::from_slice(&status(socket, &["--json", "--timeout", "10s"]).stdout).expect("one JSON object")
}

// ---- broker status ------------------------------------------------------------------------------------

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn status_of_an_idle_broker_is_well() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut child = broker.connect();
    child.expect("SET k v", "+OK\r\n");
    let said = status_of(broker.socket(), 0, "all is well");
    for part in [" up (redis ", "children     2 of 2 processes", "leases       0 of 64 for transactions"] {
        assert!(said.contains(part), "{part}:\n{said}");
    }
    let object = json_of(broker.socket());
    assert_eq!((&object["well"], &object["answers"]), (&Value::Bool(true), &Value::Bool(true)));
    assert_eq!(object["wrong"], Value::Array(Vec::new()));
    assert_eq!(object["upstream"]["state"], "up");
    assert_eq!(object["leases"]["blocking"]["max"], 256);
    for field in ["version", "uptime_ms", "waiting", "leaks", "children", "processes", "requests", "bytes_in"]
    {
        assert!(!object[field].is_null(), "{field}: {object}");
    }
    for field in ["requests_per_s", "bytes_in_per_s", "bytes_out_per_s"] {
        assert!(object[field].is_f64(), "{field}: {object}");
    }
    assert!(object["requests"].as_u64() >= Some(1), "{object}");
}

/// Such a broker is the one that is asked about at night; it keeps waiting whoever greets it.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn status_says_that_redis_is_down() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("queue_timeout", "1h")]);
    status_of(broker.socket(), 0, "all is well");
    redis.kill();
    let said = status_of(broker.socket(), 1, "critical: Redis cannot be reached, for ");
    assert!(said.contains(": unix:///") && said.contains("fail with BROKERDOWN"), "{said}");
    let object = json_of(broker.socket());
    assert_eq!((&object["well"], &object["wrong"][0]["severity"]), (&Value::Bool(false), &"critical".into()));
    assert!(object["wrong"][0]["since_ms"].is_u64() && object["upstream"]["down_ms"].is_u64(), "{object}");
    for field in ["kind", "what", "who", "hint"] {
        assert!(object["wrong"][0][field].is_string(), "{object}");
    }
    redis.restart();
    status_of(broker.socket(), 0, "all is well");

    let never = Broker::start_at(&redis.directory().join("nobody"), &[("queue_timeout", "1h")]);
    status_of(never.socket(), 1, "Redis cannot be reached");
}

/// redis-cli, told what to do line by line.
struct Teller {
    running: Running,
    replies: BufReader<std::process::ChildStdout>,
}

impl Teller {
    fn start(socket: &Path) -> Teller {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(socket).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("start redis-cli");
        let replies = BufReader::new(process.stdout.take().expect("its output"));
        Teller { running: Running(process), replies }
    }

    fn tell(&mut self, line: &str) -> String {
        let input = self.running.0.stdin.as_mut().expect("its input");
        input.write_all(format!("{line}\n").as_bytes()).expect("write");
        let mut reply = String::new();
        self.replies.read_line(&mut reply).expect("a reply");
        reply
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn status_names_who_holds_what_others_wait_for() {
    let redis = Redis::start();
    let settings = [("leases_transaction_max", "1"), ("lease_wait_timeout", "1h")];
    let broker = Broker::start(&redis, &settings);
    let mut holder = Teller::start(broker.socket());
    assert_eq!(holder.tell("WATCH k"), "OK\n");
    let pid = holder.running.0.id();
    let mut waiters = [broker.connect(), broker.connect()];
    waiters.iter_mut().for_each(|waiter| waiter.send("WATCH k"));

    let said = status_of(broker.socket(), 1, "2 children wait for a connection for a transaction");
    assert!(said.contains(&format!(": held by pid {pid} (redis-cli")), "{said}");
    assert!(said.contains(", last command watch"), "{said}");
    let object = json_of(broker.socket());
    let finding = &object["wrong"][0];
    assert!(
        finding["who"].as_str().is_some_and(|who| who.starts_with(&format!("held by pid {pid} ("))),
        "{object}"
    );
    assert!(
        finding["hint"].as_str().is_some_and(|hint| hint.contains(".admin BROKER KILL CHILD ")),
        "{object}"
    );
    assert_eq!(
        (&object["waiting"]["count"], &object["leases"]["transaction"]["used"]),
        (&2.into(), &1.into())
    );

    drop(holder);
    drop(waiters);
    status_of(broker.socket(), 0, "all is well");
}

/// Then the admin socket has room for a few more.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn status_is_told_where_no_further_child_is_let_in() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("children_max", "1")]);
    let mut child = broker.connect();
    child.expect("SET k v", "+OK\r\n");
    let said =
        status_of(broker.socket(), 1, "critical: children_max = 1 is reached: 2 children are connected");
    assert!(said.contains("BROKER SHOW PROCESSES SORT children LIMIT 10"), "{said}");
    child.expect("GET k", "$1\r\nv\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn status_without_a_broker_has_a_code_of_its_own() {
    let place = tempfile::tempdir().expect("a directory");
    let socket = place.path().join("b.sock");
    let none = status(&socket, &[]);
    assert_eq!((none.status.code(), none.stdout.len()), (Some(2), 0));
    assert!(text(&none.stderr).contains("cannot connect to "), "{}", text(&none.stderr));
    // One that hangs takes connections, and answers nothing.
    let _listener = UnixListener::bind(&socket).expect("listen");
    let silent = status(&socket, &["--timeout", "100ms"]);
    assert_eq!(silent.status.code(), Some(2));
    assert!(text(&silent.stderr).contains("no answer within 100 ms"), "{}", text(&silent.stderr));
    let object: Value =
        serde_json::from_slice(&status(&socket, &["--timeout", "100ms", "--json"]).stdout).expect("JSON");
    assert_eq!((&object["well"], &object["answers"]), (&Value::Bool(false), &Value::Bool(false)));
    assert!(object["error"].as_str().is_some_and(|error| error.contains("no answer")), "{object}");
    for wrong in [&["status", "--bogus"][..], &["status", "--socket", "h:6379"], &["status"]] {
        assert_eq!(Broker::run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

// ---- broker top ---------------------------------------------------------------------------------------

/// What a terminal shows: as much of one as `broker top` uses.
#[derive(Debug)]
struct Glass {
    cells: Vec<Vec<char>>,
    row: usize,
    column: usize,
    is_alternate: bool,
    has_cursor: bool,
    /// How often a colour was chosen.
    colours: usize,
    /// Bytes of a sequence that has not ended.
    pending: Vec<u8>,
    /// What a person sees: never a picture that is half drawn.
    shown: String,
}

impl Glass {
    fn new(width: usize, height: usize) -> Glass {
        let cells = vec![vec![' '; width]; height];
        let (row, column, colours, pending) = Default::default();
        Glass {
            cells,
            row,
            column,
            is_alternate: false,
            has_cursor: true,
            colours,
            pending,
            shown: String::new(),
        }
    }

    fn picture(&self) -> String {
        let lines = self.cells.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned());
        lines.collect::<Vec<_>>().join("\n")
    }

    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match (self.pending.as_slice(), byte) {
                ([], 0x1b) => self.pending.push(*byte),
                ([], b'\r') => self.column = 0,
                ([], b'\n') => self.row += 1,
                ([], _) => self.put(*byte as char),
                ([_], b'[') => self.pending.push(*byte),
                // A sequence of another kind, which says nothing about what is seen.
                ([_], _) => self.pending.clear(),
                (_, b'@'..=b'~') => {
                    let parameters = text(&self.pending[2..]);
                    self.obey(&parameters, *byte);
                    self.pending.clear();
                }
                _ => self.pending.push(*byte),
            }
        }
    }

    fn put(&mut self, letter: char) {
        if let Some(cell) = self.cells.get_mut(self.row).and_then(|row| row.get_mut(self.column)) {
            *cell = letter;
        }
        self.column += 1;
    }

    fn obey(&mut self, parameters: &str, command: u8) {
        let numbers: Vec<usize> = parameters.split(';').map(|number| number.parse().unwrap_or(1)).collect();
        match (command, parameters) {
            (b'H', _) => {
                self.row = numbers[0] - 1;
                self.column = numbers.get(1).map_or(0, |column| column - 1);
            }
            (b'J', "2") => self.cells.iter_mut().for_each(|row| row.fill(' ')),
            (b'm', _) if parameters.contains("38;") => self.colours += 1,
            (b'h' | b'l', "?1049") => self.is_alternate = command == b'h',
            (b'l', "?2026") => self.shown = self.picture(),
            (b'h' | b'l', "?25") => self.has_cursor = command == b'h',
            _ => {}
        }
    }
}

/// `broker top` at a terminal of its own.
struct Seat {
    /// The side of the person.
    keyboard: File,
    /// The terminal itself, to look at its settings.
    terminal: OwnedFd,
    glass: Arc<Mutex<Glass>>,
    process: Child,
}

impl Seat {
    fn start(socket: &Path, size: (u16, u16), more: &[&str]) -> Seat {
        Seat::start_with(socket, size, more, true)
    }

    fn start_with(socket: &Path, (width, height): (u16, u16), more: &[&str], has_colours: bool) -> Seat {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo terminal");
        grantpt(&keyboard).expect("its other side");
        unlockpt(&keyboard).expect("its other side");
        let name = ptsname(&keyboard, Vec::new()).expect("its name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open(name, flags, Mode::empty()).expect("open it");
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&terminal, size).expect("a size");
        // In a session of its own, or the terminal of the tests would be asked for its size.
        let end = || Stdio::from(terminal.try_clone().expect("a copy"));
        let process = Command::new("setsid")
            .args(["--ctty", BINARY, "top", "--interval", "100ms", "--socket"])
            .arg(socket)
            .args(more)
            .env("TERM", "xterm-256color")
            .env("NO_COLOR", if has_colours { "" } else { "1" })
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("start broker top");
        let glass = Arc::new(Mutex::new(Glass::new(width.into(), height.into())));
        let (mut reader, seen) = (File::from(keyboard), Arc::clone(&glass));
        let keyboard = reader.try_clone().expect("a copy");
        thread::spawn(move || {
            let mut piece = [0; 4096];
            // It ends with an error when the last other side is closed.
            while let Ok(len @ 1..) = reader.read(&mut piece) {
                seen.lock().expect("not poisoned").take(&piece[..len]);
            }
        });
        Seat { keyboard, terminal, glass, process }
    }

    fn text(&self) -> String {
        self.glass.lock().expect("not poisoned").shown.clone()
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("press keys");
    }

    /// Waits until all parts are on the screen, and these others are not.
    fn shows(&self, parts: &[&str], not: &[&str]) {
        let mut seen = String::new();
        let holds = crate::support::comes_true(PATIENCE, || {
            seen = self.text();
            parts.iter().all(|part| seen.contains(part)) && !not.iter().any(|part| seen.contains(part))
        });
        assert!(holds, "waited in vain for {parts:?} without {not:?}:\n{seen}");
    }

    fn is_as_before(&self) -> bool {
        let modes = tcgetattr(&self.terminal).expect("its settings").local_modes;
        let glass = self.glass.lock().expect("not poisoned");
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
            && !glass.is_alternate
            && glass.has_cursor
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program() -> String {
    let path = std::env::current_exe().expect("our own path");
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn top_shows_who_is_connected_and_obeys_keys() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let (mut child, mut other) = (broker.connect(), broker.connect());
    child.expect("CLIENT SETNAME look-for-me", "+OK\r\n");
    other.expect("SET k v", "+OK\r\n");
    let mut seat = Seat::start(broker.socket(), (120, 40), &[]);
    let (own, pid) = (program(), std::process::id().to_string());
    seat.shows(&["redis up", "all is well", "[1 processes]", &pid, &own[..10]], &[]);
    assert!(!seat.is_as_before(), "it has the terminal for itself");

    seat.press("2");
    seat.shows(&["[2 children]", "2 rows", "waits for"], &[]);
    seat.press("/look-for");
    seat.shows(&["search: look-for_", "1 row "], &[]);
    seat.press("\r");
    seat.shows(&["/look-for", "1 row "], &["search:"]);
    seat.press("\r");
    seat.shows(&[&format!("process {pid}"), "Esc back"], &[]);
    seat.press("\x1b");
    seat.shows(&["[2 children]", "1 row "], &["Esc back"]);

    seat.press("k");
    seat.shows(&["close child ", "? y or n"], &[]);
    seat.press("n");
    seat.shows(&["q quit"], &["y or n"]);
    child.expect("PING", "+PONG\r\n");
    seat.press("k");
    seat.shows(&["? y or n"], &[]);
    seat.press("y");
    seat.shows(&[" is closed"], &[]);
    assert!(child.is_closed());
    other.expect("PING", "+PONG\r\n");
    seat.press("ld");
    seat.shows(&["the log's level is debug"], &[]);

    seat.press("p");
    seat.shows(&["PAUSED"], &[]);
    seat.press("?");
    seat.shows(&["close the child of the row"], &[]);
    seat.press("xp");
    seat.shows(&["q quit"], &["PAUSED"]);
    seat.press("q");
    let status = end_within(&mut seat.process, PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", seat.text());
    wait_until("the terminal is as before", || seat.is_as_before());
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn top_steers_the_broker_after_a_question() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    let mut child = broker.connect();
    child.expect("SET k v", "+OK\r\n");
    let mut seat = Seat::start(broker.socket(), (120, 40), &[]);
    seat.shows(&["redis up"], &[]);
    seat.press("b");
    seat.shows(&["broker: r reload  p pause  u resume  c reconnect  d drain"], &[]);
    seat.press("r");
    seat.shows(&["read the configuration again? y or n"], &[]);
    seat.press("n");
    seat.shows(&["q quit"], &["y or n"]);
    assert!(!broker.log().contains("RELOAD"));
    seat.press("bry");
    seat.shows(&["nothing has changed"], &[]);
    seat.press("bd");
    seat.shows(&["drain: let everybody go and END the broker? y or n"], &[]);
    child.expect("GET k", "$1\r\nv\r\n");
    seat.press("y");
    assert_eq!(broker.wait_exit(PATIENCE).code(), Some(0));
    assert!(child.is_closed());
    seat.shows(&["everybody has been let go: the broker ends"], &[]);
    seat.press("q");
    end_within(&mut seat.process, PATIENCE).expect("it ends");
}

/// Redis is back, and all looks well but for what has failed meanwhile.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn requests_that_have_failed_are_said_to_be_wrong() {
    let redis = Redis::start();
    // Long enough that nothing fails on a busy machine before Redis is gone: it would be said for a minute.
    let broker = Broker::start(&redis, &[("queue_timeout", "2s")]);
    status_of(broker.socket(), 0, "all is well");
    let mut child = broker.connect();
    child.expect("SET k v", "+OK\r\n");
    let seat = Seat::start(broker.socket(), (120, 40), &[]);
    seat.shows(&["redis up", "all is well"], &[]);
    redis.kill();
    status_of(broker.socket(), 1, "Redis cannot be reached");
    child.send("GET k");
    assert!(child.read_text().starts_with("-BROKERDOWN"));
    redis.restart();
    seat.shows(&["redis up", "1 request failed with BROKERDOWN in the last "], &["all is well"]);
}

/// The broker's own text says why.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn top_says_why_a_verb_is_refused() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let _child = broker.connect();
    // The ordinary socket hears no verbs.
    let ordinary = broker.socket().display().to_string();
    let mut seat = Seat::start(broker.socket(), (120, 40), &["--admin", &ordinary]);
    seat.shows(&["redis up", "all is well"], &[]);
    seat.press("2");
    seat.shows(&["[2 children]", "1 row "], &[]);
    seat.press("ky");
    seat.shows(&["what changes something is heard on admin_listen alone"], &[]);
    drop(seat);
    let nowhere = broker.directory().join("none").display().to_string();
    let mut seat = Seat::start(broker.socket(), (80, 24), &["--admin", &nowhere]);
    seat.shows(&["redis up"], &[]);
    seat.press("le");
    seat.shows(&["cannot connect to "], &[]);
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn top_says_since_when_there_is_no_answer_and_recovers() {
    let redis = Redis::start();
    let socket = redis.directory().join("b.sock");
    let listen = format!("unix://{}", socket.display());
    let args = ["serve", "--listen", &listen, "--upstream", &redis.url(), "--set", "log_level=info"];
    let mut broker = Broker::start_args(&args, 1);
    let seat = Seat::start(&socket, (80, 24), &["--timeout", "1s"]);
    seat.shows(&["redis up", "all is well"], &[]);

    let send = |broker: &Broker, signal| {
        let pid = rustix::process::Pid::from_raw(broker.pid().cast_signed()).expect("a process");
        rustix::process::kill_process(pid, signal).expect("signal the broker");
    };
    send(&broker, Signal::STOP);
    seat.shows(&["!! no answer for ", "no answer within 1000 ms; trying again"], &["all is well"]);
    send(&broker, Signal::CONT);
    seat.shows(&["redis up", "all is well"], &["no answer"]);

    broker.kill();
    seat.shows(&["!! no answer for ", "cannot connect to "], &["all is well"]);
    let broker = Broker::start_args(&args, 1);
    seat.shows(&["redis up", "all is well"], &["no answer"]);

    redis.kill();
    seat.shows(&["redis down", "!! Redis cannot be reached"], &["all is well"]);
    redis.restart();
    seat.shows(&["redis up", "all is well"], &["redis down"]);
    drop((seat, broker));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn top_gives_the_terminal_back_when_a_signal_ends_it() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    for ending in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut seat = Seat::start(broker.socket(), (40, 12), &[]);
        seat.shows(&["redis up", "[1 processes]"], &[]);
        signal(&seat.process, ending);
        let status = end_within(&mut seat.process, PATIENCE).expect("it ends");
        assert_eq!(status.signal(), Some(ending.as_raw()), "{status:?}");
        wait_until("the terminal is as before", || seat.is_as_before());
    }
}

/// It may be there before the broker is.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn top_uses_colours_where_they_are_wanted() {
    let place = tempfile::tempdir().expect("a directory");
    for has_colours in [true, false] {
        let seat = Seat::start_with(&place.path().join("b.sock"), (80, 24), &[], has_colours);
        seat.shows(&["!! no answer for ", "cannot connect to "], &[]);
        assert_eq!(seat.glass.lock().expect("not poisoned").colours > 0, has_colours);
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn top_without_a_terminal_points_to_status() {
    let output = Broker::run(&["top", "--socket", "/nowhere/b.sock"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("broker status"), "{}", text(&output.stderr));
}
