//! The console: who may look, who may change something, what the tables say, and that nobody waits for them.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::support::broker::BINARY;
use crate::support::console::{lines, rows, said};
use crate::support::native_child::NativeChild;
use crate::support::{Broker, Raw, Redis, Running, admin_beside, show, wait_until};

const REFUSED: &str = "-NOPERM this user has no permissions to run the 'broker' command";

fn admin(broker: &Broker) -> Raw {
    Raw::unix(&admin_beside(broker.socket()))
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn every_table_is_there_in_both_protocols() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    let mut subscriber = broker.connect();
    subscriber.ask("SUBSCRIBE news");
    let mut watching = broker.connect();
    watching.expect("WATCH k", "+OK\r\n");
    raw.expect("SET k v", "+OK\r\n");
    let help = lines(&mut raw, "BROKER HELP");
    let at = help.iter().position(|line| line == "Tables:").expect("the tables") + 1;
    let tables: Vec<String> =
        help[at..].iter().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect();
    assert!(tables.len() >= 12, "{help:?}");
    let mut three = broker.connect_resp3();
    for table in &tables {
        let lines = lines(&mut raw, &format!("BROKER SHOW {table}"));
        let columns = lines[0].split_whitespace().count();
        three.send(&format!("broker show {}", table.to_lowercase()));
        let maps = String::from_utf8(three.read_reply()).unwrap();
        assert!(maps.starts_with('*'), "{table}: {}", show(maps.as_bytes()));
        if lines.len() > 1 {
            assert!(maps.contains(&format!("%{columns}\r\n")), "{table}: {}", show(maps.as_bytes()));
        }
    }
    assert_eq!(rows(&mut raw, "TOPICS")[0]["name"], "news");
    assert_eq!(rows(&mut raw, "LEASES")[0]["state"], "watching");
    assert_eq!(rows(&mut raw, "UPSTREAM")[0]["state"], "up");
    assert_eq!(rows(&mut raw, "COMMANDS WHERE command set")[0]["calls"], "1");
    let own = rows(&mut raw, &format!("PROCESSES WHERE pid {}", std::process::id()));
    assert_eq!((own[0]["children"].as_str(), own[0]["identity"].as_str()), ("4", "exact"), "{own:?}");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn rows_are_chosen_ordered_and_limited() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    let mut others: Vec<Raw> = (0..5).map(|_| broker.connect()).collect();
    for (count, other) in others.iter_mut().enumerate() {
        other.expect(&format!("CLIENT SETNAME n{count}"), "+OK\r\n");
        (0..count).for_each(|_| other.expect("PING", "+PONG\r\n"));
    }
    let names = |rows: Vec<_>| -> Vec<String> {
        rows.into_iter().map(|row: crate::support::console::Row| row["name"].clone()).collect()
    };
    assert_eq!(names(rows(&mut raw, "CHILDREN SORT requests LIMIT 3")), ["n4", "n3", "n2"]);
    assert_eq!(names(rows(&mut raw, "CHILDREN WHERE requests <3 SORT name LIMIT 2")), ["n0", "n1"]);
    let all = names(rows(&mut raw, "CHILDREN SORT name REVERSE WHERE requests >1 AND requests <5"));
    assert_eq!(all[all.len() - 3..], ["n3", "n2", "n1"], "{all:?}");
    assert!(rows(&mut raw, "CHILDREN WHERE pid 1").is_empty());
    let text = said(&mut raw, "BROKER SHOW CHILDREN SORT nothing");
    assert!(text.starts_with("-ERR no column 'nothing'; there are id, pid"), "{text}");
    for (command, error) in [
        ("BROKER", "-ERR unknown or incomplete console command"),
        ("BROKER SHOW NOTHING", "-ERR no table 'NOTHING'"),
        ("BROKER KILL CHILD x", "-ERR BROKER KILL CHILD takes an id"),
    ] {
        assert!(said(&mut raw, command).starts_with(error), "{command}");
    }
    raw.expect("MULTI", "+OK\r\n");
    raw.expect("BROKER HELP", "-ERR BROKER is not allowed in transactions\r\n");
    assert!(said(&mut raw, "EXEC").starts_with("-EXECABORT"));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn what_changes_something_is_heard_on_the_admin_socket_alone() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let (mut raw, mut victim, mut admin) = (broker.connect(), broker.connect(), admin(&broker));
    let id = said(&mut victim, "CLIENT ID").trim_start_matches(':').to_owned();
    for verb in [&format!("BROKER KILL CHILD {id}"), "BROKER SET log_level debug"] {
        let text = said(&mut raw, verb);
        assert!(text.starts_with(REFUSED) && text.contains("admin_listen"), "{verb}: {text}");
    }
    admin.expect("PING", "+PONG\r\n");
    admin.expect(&format!("BROKER KILL CHILD {id}"), "+OK\r\n");
    assert!(victim.is_closed());
    assert!(said(&mut admin, &format!("BROKER KILL CHILD {id}")).starts_with("-ERR No such client"));
    admin.expect("BROKER SET log_level debug", "+OK\r\n");
    assert_eq!(rows(&mut raw, "CONFIG WHERE key log_level")[0]["value"], "debug");
    drop(broker.connect());
    admin.expect("BROKER SET log_areas child=trace,console=debug\r\n".trim(), "+OK\r\n");
    assert!(said(&mut admin, "BROKER SET log_level loud").starts_with("-ERR log_level = \"loud\""));
    admin.expect("BROKER SET lanes 4", "+OK\r\n");
    assert_eq!(rows(&mut raw, "CONFIG WHERE key lanes")[0]["value"], "4");
    assert!(said(&mut admin, "BROKER SET auth users").starts_with("-ERR "));
    drop(broker.connect());
    let mode = std::os::unix::fs::MetadataExt::mode(
        &std::fs::metadata(format!("{}.admin", broker.socket().display())).unwrap(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

/// Who somebody is to Redis means nothing to the console: the system says who it is on this host.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn whoever_may_look_needs_no_password_of_redis() {
    let redis = Redis::start_with(&["--requirepass", "pw"]);
    let broker = Broker::start(&redis, &[("auth", "passthrough"), ("upstream_password", "pw")]);
    let mut raw = broker.connect();
    assert!(said(&mut raw, "GET k").starts_with("-NOAUTH"));
    assert_eq!(rows(&mut raw, "CHILDREN").len(), 1);
    assert_eq!(rows(&mut admin(&broker), "CHILDREN").len(), 2);
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_full_broker_lets_the_operator_in() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("children_max", "1")]);
    let mut only = broker.connect();
    only.expect("PING", "+PONG\r\n");
    assert_eq!(broker.connect().read_text().trim_end().to_owned(), "-ERR max number of clients reached");
    let mut admin = admin(&broker);
    assert_eq!(rows(&mut admin, "CHILDREN").len(), 2);
}

/// Rights are those of who writes: a socket that root has opened and used is worth nothing to another user who inherits it,
/// even among many requests.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn rights_are_the_writers() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut roots = broker.connect();
    let id = said(&mut roots, "CLIENT ID").trim_start_matches(':').to_owned();
    for busy in ["1", "200"] {
        let mut child = NativeChild::start(broker.socket(), "as-another", &["65533", busy], &[]);
        for command in ["BROKER SHOW VERSION", "BROKER HELP", "BROKER SHOW CHILDREN"] {
            let text = child.tell(command);
            assert!(text.starts_with(REFUSED), "{command}: {text}");
        }
        assert_eq!(child.tell(&format!("CLIENT KILL ID {id}")), ":0", "it may not kill what is root's");
        assert_eq!(child.tell("PING"), "+PONG");
        let row = rows(&mut roots, "CHILDREN WHERE uid 65533").pop().expect("it is shown");
        assert_ne!(row["connected_by"], "-", "{row:?}");
        assert_ne!(row["pid"], row["connected_by"], "{row:?}");
    }
    roots.expect("PING", "+PONG\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn users_of_the_host_may_be_let_in() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("admin_uids", "65533")]);
    let mut child = NativeChild::start(broker.socket(), "as-another", &["65533"], &[]);
    assert_eq!(child.tell("BROKER SHOW VERSION"), "*2");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn over_tcp_there_is_no_console() {
    let redis = Redis::start();
    let broker = Broker::start_args(
        &["serve", "--listen", "tcp://127.0.0.1:0?label=web", "--upstream", &redis.url()],
        1,
    );
    let address = broker.listening()[0].trim_start_matches("tcp://").to_owned();
    let mut raw = Raw::tcp(&address);
    assert!(said(&mut raw, "BROKER HELP").starts_with(REFUSED));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_process_in_a_pid_namespace_is_named_from_outside() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("leak_threshold", "500ms")]);
    let child = NativeChild::start(broker.socket(), "pid-namespace", &[], &[]);
    let mut raw = broker.connect();
    wait_until("it is suspected", || !rows(&mut raw, "LEAKS WHERE called boxed").is_empty());
    let row = rows(&mut raw, "LEAKS WHERE called boxed").remove(0);
    assert_eq!((row["process"].as_str(), row["kind"].as_str()), ("hostchild", "open-transaction"), "{row:?}");
    assert_ne!(row["pid"], child.pid().to_string(), "its own, not that of its parent");
}

/// What a child calls itself and its process stands in the table as text, and forges nothing.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn names_that_children_choose_are_one_word() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let name = "<img\u{1b}[2J onerror=x>";
    let child = NativeChild::start(broker.socket(), "ping", &[], &[("CHILD_NAME", name)]);
    let mut raw = broker.connect();
    let all = lines(&mut raw, &format!("BROKER SHOW CHILDREN WHERE pid {}", child.pid()));
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all[1].chars().all(|ch| !ch.is_control()), "{all:?}");
}

/// Ten thousand rows are made in pieces, and whoever asks for something meanwhile has it.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_large_table_keeps_nobody_waiting() {
    const CHILDREN: usize = 2_000;
    let redis = Redis::start();
    crate::support::raise_open_files();
    let mut broker = Broker::start(&redis, &[]);
    let children: Vec<Raw> = (0..CHILDREN).map(|_| broker.connect()).collect();
    let (mut raw, mut other) = (broker.connect(), broker.connect());
    other.expect("PING", "+PONG\r\n");
    for query in ["CHILDREN", "CHILDREN SORT requests", "CHILDREN WHERE requests 0"] {
        raw.send(&format!("BROKER SHOW {query}"));
        other.expect("PING", "+PONG\r\n");
        let reply = String::from_utf8(raw.read_reply()).unwrap();
        let count: usize = reply[1..reply.find('\r').unwrap()].parse().unwrap();
        assert!(count > CHILDREN, "{query}: {count}");
    }
    drop(children);
    assert!(broker.pace().is_some());
}

/// The broker in a pid namespace of its own sees no pid of those outside, and takes none of its own for theirs.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn whoever_cannot_be_seen_is_named_by_user_label_and_name() {
    let redis = Redis::start();
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("b.sock");
    let listen = format!("unix://{}?label=outside", socket.display());
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--kill-child", BINARY, "serve", "--listen", &listen]);
    unshare.args(["--upstream", &redis.url(), "--set", "leak_threshold=300ms"]);
    let mut process = unshare.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("run unshare");
    let mut line = String::new();
    BufReader::new(process.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    let _process = Running(process);
    assert!(line.starts_with("listening"), "{line}");
    let mut raw = Raw::unix(&socket);
    raw.expect("CLIENT SETNAME visitor", "+OK\r\n");
    let row = rows(&mut raw, "CHILDREN").remove(0);
    let uid = rustix::process::geteuid().as_raw().to_string();
    let shown = ["pid", "uid", "label", "name", "identity", "process"].map(|column| row[column].as_str());
    assert_eq!(shown, ["-", &uid, "outside", "visitor", "unknown", "-"], "{row:?}");
    let mut leaky = Raw::unix(&socket);
    leaky.expect("MULTI", "+OK\r\n");
    wait_until("it is suspected", || rows(&mut raw, "LEAKS").iter().any(|row| row["called"] == "outside"));
}
