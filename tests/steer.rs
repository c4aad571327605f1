//! A running broker is steered: its settings change by the file, by a signal and by the console, all or nothing; where each
//! value is from is shown; and whoever is no user any more is sent away.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::support::console::{lines, rows, said};
use crate::support::{Broker, Crowd, Raw, Redis, admin_beside, upstream_clients, wait_until};

/// SHA-256 of "p" and of "q".
const P: &str = "148de9c5a7a44d19e56cd9ae1a554bf67847afb0c58f6e12fa29ac7ddfca9940";
const Q: &str = "8e35c2cd3bf6641bdb0e2050b76932cbb2e6034a0ddacc1d9bea82a6ba57f7cf";

/// A broker that reads a file of the test's.
struct Filed {
    broker: Broker,
    file: PathBuf,
    listen: String,
    upstream: String,
}

impl Filed {
    fn start(redis: &Redis, more: &str, args: &[&str]) -> Filed {
        let file = redis.directory().join("broker.toml");
        let listen = format!("unix://{}/b.sock", redis.directory().display());
        write(&file, &redis.url(), &listen, more);
        let config = file.display().to_string();
        let broker = Broker::start_args(&[&["serve", "--config", &config], args].concat(), 1);
        Filed { broker, file, listen, upstream: redis.url() }
    }

    /// The file has these lines from now on.
    fn write(&self, more: &str) {
        write(&self.file, &self.upstream, &self.listen, more);
    }

    fn admin(&self) -> Raw {
        Raw::unix(&admin_beside(self.broker.socket()))
    }

    fn hang_up(&self) {
        let pid = Pid::from_raw(self.broker.pid().cast_signed()).expect("a process");
        kill_process(pid, Signal::HUP).expect("signal the broker");
    }
}

fn write(file: &Path, upstream: &str, listen: &str, more: &str) {
    fs::write(file, format!("upstream = '{upstream}'\nlisten = ['{listen}']\n{more}\n")).expect("a file");
}

/// A key's value and where it is from.
fn shown(raw: &mut Raw, key: &str) -> (String, String) {
    let row = rows(raw, &format!("CONFIG WHERE key {key}")).remove(0);
    (row["value"].clone(), row["source"].clone())
}

fn is_from(raw: &mut Raw, key: &str, value: &str, source: &str) {
    assert_eq!(shown(raw, key), (value.to_owned(), source.to_owned()), "{key}");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_reload_says_what_has_changed_and_keeps_what_the_console_has_set() {
    let redis = Redis::start();
    let broker = Filed::start(&redis, "lanes = 2\nslowlog_max = 5", &["--set", "slowlog_max=6"]);
    let mut admin = broker.admin();
    is_from(&mut admin, "lanes", "2", "file");
    is_from(&mut admin, "slowlog_max", "6", "flag");
    is_from(&mut admin, "ping", "upstream", "default");
    assert_eq!(lines(&mut admin, "BROKER RELOAD"), ["nothing has changed"]);

    admin.expect("BROKER SET lanes 5", "+OK\r\n");
    is_from(&mut admin, "lanes", "5", "console");
    broker.write("lanes = 3\nslowlog_max = 9\nleases_warm = 4\nlog_level = 'error'");
    let said_lines = lines(&mut admin, "BROKER RELOAD");
    let expected =
        ["leases_warm: 1 -> 4", "log_level: info -> error", "kept as the console has set them: lanes"];
    assert_eq!(said_lines, expected);
    let lines = ["changed: leases_warm: 1 -> 4; log_level: info -> error", expected[2]];
    wait_until("the log has them", || lines.iter().all(|line| broker.broker.log().contains(line)));
    is_from(&mut admin, "lanes", "5", "console");
    is_from(&mut admin, "leases_warm", "4", "file");
    admin.expect("BROKER UNSET lanes", "+OK\r\n");
    is_from(&mut admin, "lanes", "3", "file");
    assert_eq!(said(&mut admin, "BROKER UNSET lanes"), "-ERR lanes is not set by the console");
    assert!(!broker.broker.log().contains("UNSET"), "the log has its new level");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_signal_reloads_and_many_of_them_are_few() {
    let redis = Redis::start();
    let broker = Filed::start(&redis, "", &[]);
    let mut admin = broker.admin();
    broker.write("lanes = 4");
    (0..200).for_each(|_| broker.hang_up());
    wait_until("it is read", || shown(&mut admin, "lanes").0 == "4");
    let reads = || broker.broker.log().matches("SIGHUP: reading").count();
    assert!(reads() < 100, "{} reloads for 200 signals", reads());
    broker.write("lanes = 4\nqueue_timeout = '7s'\nlanes = 5");
    broker.hang_up();
    wait_until("it is refused", || broker.broker.log().contains("the former settings go on"));
    let log = broker.broker.log();
    assert!(log.contains(" error ") && log.contains("broker.toml:5: lanes: duplicate key"), "{log}");
    is_from(&mut admin, "lanes", "4", "file");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn what_cannot_be_reloaded_is_named_and_nothing_changes() {
    let redis = Redis::start();
    let broker = Filed::start(&redis, "", &[]);
    let mut admin = broker.admin();
    let elsewhere = format!("admin_listen = 'unix://{}/x.admin'", redis.directory().display());
    let users = redis.directory().join("users.toml");
    fs::write(&users, "[[user]]\nname='a'\nnopass=true").expect("a file");
    broker.write(&format!("lanes = 4\n{elsewhere}\nauth = 'users'\nauth_file = '{}'", users.display()));
    assert_eq!(
        said(&mut admin, "BROKER RELOAD"),
        "-ERR admin_listen, auth cannot change while the broker runs"
    );
    is_from(&mut admin, "lanes", "1", "default");
    let pid = Pid::from_raw(broker.broker.pid().cast_signed());
    let few = Rlimit { current: Some(12_000), maximum: Some(12_000) };
    prlimit(pid, Resource::Nofile, few).expect("a lower limit");
    for (set, error) in [
        ("auth users", "-ERR auth cannot change while the broker runs"),
        ("lane 4", "-ERR unknown key \"lane\"; did you mean \"lanes\"?"),
        ("lanes 0", "-ERR lanes = \"0\": out of range"),
        ("children_max 20000", "-ERR children_max 20000 + upstream_connections_max 384 + "),
        ("lanes 1024", "-ERR lanes = \"1024\": allowed is at most upstream_connections_max (384)"),
        ("listen tcp://10.1.2.3:0", "-ERR tcp://10.1.2.3:0: 10.1.2.3 is not a loopback address"),
        ("upstream_password_file /nowhere", "-ERR upstream_password_file = \"/nowhere\": cannot be read"),
    ] {
        let text = said(&mut admin, &format!("BROKER SET {set}"));
        assert!(text.starts_with(error), "{set}: {text}");
    }
    fs::remove_file(&broker.file).expect("it was there");
    let text = said(&mut admin, "BROKER RELOAD");
    assert!(text.starts_with("-ERR cannot read the configuration "), "{text}");
    for key in ["lanes", "upstream_password_file"] {
        assert_eq!(shown(&mut admin, key).1, "default", "{key}");
    }
    Raw::unix(broker.broker.socket()).expect("SET k v", "+OK\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn no_password_is_shown_and_none_goes_to_another_server() {
    const SECRET: &str = "hunter2-never-shown";
    let redis = Redis::start();
    let other = Redis::start();
    redis.ask(&format!("ACL SETUSER app on >{SECRET} >other-word ~* &* +@all"));
    let more = format!("upstream_username = 'app'\nupstream_password = '{SECRET}'");
    let broker = Filed::start(&redis, &more, &[]);
    let mut admin = broker.admin();
    admin.expect("BROKER SET upstream_password other-word", "+OK\r\n");
    is_from(&mut admin, "upstream_password", "***", "console");
    Raw::unix(broker.broker.socket()).expect("SET k v", "+OK\r\n");
    let text = said(&mut admin, &format!("BROKER SET upstream {}", other.url()));
    assert!(text.starts_with("-ERR upstream: a stored password would be sent to another server"), "{text}");
    assert!(
        said(&mut admin, "BROKER SET upstream redis://:hunter2-never-shown@").starts_with("-ERR upstream = ")
    );
    let log = broker.broker.log();
    assert!(log.contains("upstream_password: *** -> ***"), "{log}");
    assert!(!log.contains(SECRET) && !log.contains("other-word"), "{log}");
}

/// Of many lines from one place the log leaves some out: not of these.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_log_has_every_change_however_many_there_are() {
    let redis = Redis::start();
    let broker = Filed::start(&redis, "", &[]);
    let counts = ["lanes", "leases_warm", "leases_session_max", "slowlog_max", "integrity_sample"];
    let times = rows_of_times();
    let more: Vec<String> = counts.iter().map(|key| format!("{key} = 3")).chain(times.clone()).collect();
    broker.write(&more.join("\n"));
    let answered = lines(&mut broker.admin(), "BROKER RELOAD");
    assert!(answered.len() == more.len() && more.len() > 15, "{answered:?}");
    wait_until("all are there", || {
        let log = broker.broker.log();
        answered.iter().all(|line| log.contains(line))
    });
}

/// Another value for each key that is a time.
fn rows_of_times() -> impl Iterator<Item = String> + Clone {
    let of_start = |key: &str| ["queue_timeout", "connect_timeout"].contains(&key);
    let times = broker::config::rows().iter().filter(|row| row.unit == "ms");
    times.filter(move |row| !of_start(row.key)).map(|row| format!("{} = {}", row.key, row.min + 77))
}

/// What stands in a file belongs to the settings, though no key is another one.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_password_file_is_read_again() {
    let redis = Redis::start();
    redis.ask("ACL SETUSER app on >one ~* &* +@all");
    let word = redis.directory().join("word");
    fs::write(&word, "one").expect("a file");
    let more = format!("upstream_username = 'app'\nupstream_password_file = '{}'", word.display());
    let broker = Filed::start(&redis, &more, &[]);
    let mut raw = broker.broker.connect();
    raw.expect("SET k v", "+OK\r\n");
    let ids = || -> Vec<String> {
        upstream_clients(&redis).iter().map(|client| client.field("id").to_owned()).collect()
    };
    let before = ids();
    redis.ask("ACL SETUSER app on resetpass >two");
    fs::write(&word, "two").expect("a file");
    let mut admin = broker.admin();
    let said_lines = lines(&mut admin, "BROKER RELOAD");
    assert_eq!(said_lines, [format!("upstream_password_file: something else stands in {word:?}")]);
    wait_until("every connection is another one", || {
        let now = ids();
        !now.is_empty() && now.iter().all(|id| !before.contains(id))
    });
    raw.expect("GET k", "$1\r\nv\r\n");
    assert_eq!(lines(&mut admin, "BROKER RELOAD"), ["nothing has changed"]);
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn users_that_are_gone_are_sent_away_and_others_stay() {
    let redis = Redis::start();
    let users = redis.directory().join("users.toml");
    let user = |name: &str, more: &str| format!("[[user]]\nname='{name}'\n{more}\n");
    let pw = |hash: &str| format!("password_sha256='{hash}'");
    let write = |users_of: &[String]| fs::write(&users, users_of.concat()).expect("a file");
    write(&[
        user("gone", &pw(P)),
        user("kept", &pw(P)),
        user("other", &pw(P)),
        user("wider", &format!("{}\ncommands_deny='get'", pw(P))),
    ]);
    let more = format!("auth = 'users'\nauth_file = '{}'", users.display());
    let broker = Filed::start(&redis, &more, &[]);
    let child = |name: &str, word: &str| {
        let mut raw = broker.broker.connect();
        raw.expect(&format!("AUTH {name} {word}"), "+OK\r\n");
        raw
    };
    let [mut gone, mut kept, mut other, mut wider] =
        ["gone", "kept", "other", "wider"].map(|name| child(name, "p"));
    let mut listener = child("gone", "p");
    listener.expect("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    assert!(said(&mut wider, "GET k").starts_with("-NOPERM"));
    write(&[
        user("kept", &format!("password_sha256=['{Q}','{P}']")),
        user("new", &pw(Q)),
        user("wider", &pw(P)),
        user("other", &pw(Q)),
    ]);
    let mut admin = broker.admin();
    let said_lines = lines(&mut admin, "BROKER RELOAD");
    let expected = [
        format!("auth_file: something else stands in {users:?}"),
        "auth_file: users added: new".to_owned(),
        "auth_file: users with other rights: kept, wider".to_owned(),
        "auth_file: users with other credentials: other".to_owned(),
        "auth_file: users gone: gone".to_owned(),
    ];
    assert_eq!(said_lines, expected);
    assert!(gone.is_closed() && other.is_closed() && listener.is_closed());
    kept.expect("SET k v", "+OK\r\n");
    wider.expect("GET k", "$1\r\nv\r\n");
    for (name, word, reply) in
        [("gone", "p", "-WRONGPASS"), ("other", "p", "-WRONGPASS"), ("new", "q", "+OK")]
    {
        let text = said(&mut broker.broker.connect(), &format!("AUTH {name} {word}"));
        assert!(text.starts_with(reply), "{name}: {text}");
    }
    child("other", "q").expect("ACL WHOAMI", "$5\r\nother\r\n");
    fs::write(&users, "[[user]]").expect("a file");
    assert!(said(&mut admin, "BROKER RELOAD").starts_with("-ERR auth_file = "));
    kept.expect("GET k", "$1\r\nv\r\n");
}

/// Who has connected to a listener is served though it goes.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_listener_that_goes_serves_who_has_come() {
    // More than are accepted in one turn.
    const WAITING: usize = 500;
    let redis = Redis::start();
    let second = redis.directory().join("second.sock");
    let broker = Filed::start(&redis, "", &[]);
    let both = format!("{}', 'unix://{}", broker.listen, second.display());
    let mut admin = broker.admin();
    for round in 0..4 {
        write(&broker.file, &broker.upstream, &both, "");
        lines(&mut admin, "BROKER RELOAD");
        let mut before = Raw::unix(&second);
        before.expect("PING", "+PONG\r\n");
        // The broker is stopped, so that they wait when it reads the order.
        let pid = Pid::from_raw(broker.broker.pid().cast_signed()).expect("a process");
        kill_process(pid, Signal::STOP).expect("stop it");
        broker.write("");
        admin.send("BROKER RELOAD");
        let mut waiting: Vec<Raw> = (0..WAITING).map(|_| Raw::unix(&second)).collect();
        waiting.iter_mut().for_each(|raw| raw.send(&format!("INCR n{round}")));
        kill_process(pid, Signal::CONT).expect("let it go on");
        for raw in &mut waiting {
            assert!(raw.read_text().starts_with(':'));
        }
        admin.read_reply();
        before.expect("PING", "+PONG\r\n");
        assert!(!second.exists());
        assert_eq!(redis.ask(&format!("INCR n{round}")), format!(":{}\r\n", WAITING + 1));
    }
}

/// Without a file there are the flags, and the files that they name.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_broker_in_the_terminal_reloads_its_flags() {
    let broker =
        Broker::start_args(&["serve", "--dev", "--listen", "tcp://127.0.0.1:0", "--set", "lanes=2"], 1);
    let address = broker.listening()[0].strip_prefix("tcp://").expect("an address").to_owned();
    let pid = Pid::from_raw(broker.pid().cast_signed()).expect("a process");
    kill_process(pid, Signal::HUP).expect("signal the broker");
    wait_until("it has read them", || broker.log().contains("nothing has changed"));
    let mut raw = Raw::tcp(&address);
    raw.set_patience(Duration::from_secs(20));
    raw.expect("SET k v", "+OK\r\n");
}

/// Twenty reloads with other pools and other listeners, while children of every kind check each reply.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn reloads_under_load_fail_no_request() {
    let redis = Redis::start();
    let broker = Filed::start(&redis, "", &[]);
    let mut admin = broker.admin();
    let crowd = Crowd::start(broker.broker.socket(), &redis, 4);
    let extra = |number: usize| redis.directory().join(format!("extra-{number}.sock"));
    for round in 0..20 {
        let before = crowd.rounds();
        let listen = match round % 3 {
            0 => broker.listen.clone(),
            kind => format!("{}', 'unix://{}", broker.listen, extra(kind).display()),
        };
        let (lanes, blocking, transactions) = (1 + round % 4, 3 + round % 5, 1 + round % 3);
        let more = format!(
            "lanes = {lanes}\nleases_blocking_max = {blocking}\nleases_transaction_max = {transactions}\n\
             leases_warm = {}\nleases_per_group_max = {lanes}\nlease_wait_timeout = '20s'\nqueue_timeout = '{}s'\n\
             slowlog_max = {}\nmetrics_listen = [{}]\ncommands_deny = 'flushall'\nupstream_connections_max = {}",
            round % 2,
            10 + round,
            1 + round,
            if round % 2 == 0 { "'tcp://127.0.0.1:0'" } else { "" },
            30 - round % 7,
        );
        write(&broker.file, &broker.upstream, &listen, &more);
        assert!(lines(&mut admin, "BROKER RELOAD").len() > 4, "round {round}");
        for kind in [1, 2] {
            assert_eq!(
                Raw::try_unix(&extra(kind)).is_ok(),
                round % 3 == kind,
                "listener {kind}, round {round}"
            );
        }
        wait_until("the load goes on", || crowd.rounds() > before + 100);
    }
    let rounds = crowd.end();
    for name in ["requests_lost", "requests_down", "requests_limited", "upstream_losses", "desyncs"] {
        assert_eq!(rows(&mut admin, &format!("STATS WHERE name {name}"))[0]["value"], "0", "{name}");
    }
    eprintln!("{rounds} rounds");
}
