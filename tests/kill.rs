//! Child processes killed in the middle of everything: nothing of theirs stays upstream, nothing of theirs
//! reaches anyone else.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::raw::pipeline;
use crate::support::{self, Broker, Raw, Redis, list_clients, request, upstream_clients, wait_until};

/// Which part a process of this test binary plays, and the socket it plays it on.
const PART: &str = "BROKER_TEST_PART";
const SOCKET: &str = "BROKER_TEST_SOCKET";
const PARTS: [&str; 8] =
    ["multi", "multi-leased", "watch", "watch-multi", "blpop", "subscribe", "half-frame", "half-bulk"];

#[test]
#[ignore = "what the processes that get killed run"]
fn child_process() {
    let part = std::env::var(PART).expect("the part that it plays");
    let socket = std::env::var(SOCKET).expect("the socket that it plays it on");
    let mut raw = Raw::unix(Path::new(&socket));
    let own = format!("dead:{}", std::process::id());
    let lines: Vec<String> = match part.as_str() {
        "multi" => vec!["MULTI".into(), format!("SET {own} 1")],
        "multi-leased" => vec!["MULTI".into(), "SELECT 1".into(), format!("SET {own} 1")],
        "watch" => vec!["WATCH shared".into(), "GET shared".into()],
        "watch-multi" => vec!["WATCH shared".into(), "MULTI".into(), format!("SET {own} 1")],
        "subscribe" => vec!["SUBSCRIBE news".into()],
        _ => vec!["PING".into()],
    };
    for line in &lines {
        let reply = raw.ask(line);
        assert!(!reply.starts_with('-'), "{line}: {reply}");
    }
    match part.as_str() {
        "blpop" => raw.send("BLPOP queue 0"),
        "half-frame" => raw.write(&request(&["SET", &own, "1"])[..15]),
        "half-bulk" => raw.write(format!("*3\r\n$3\r\nSET\r\n$4\r\ndead\r\n$1000000\r\n{own}").as_bytes()),
        _ => {}
    }
    // Through the test harness' own capture: standard error belongs to the parent.
    eprintln!("\nchild-ready");
    loop {
        std::thread::park();
    }
}

fn spawn_child(part: &str, socket: &Path) -> Child {
    let mut child = support::this_program(module_path!(), "child_process")
        .arg("--ignored")
        .env(PART, part)
        .env(SOCKET, socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start a child process");
    let output = BufReader::new(child.stderr.take().expect("its standard error"));
    let ready = output.lines().map_while(Result::ok).any(|line| line.contains("child-ready"));
    assert!(ready, "the {part} process got ready");
    child
}

fn kill(child: &mut Child) {
    child.kill().expect("kill a child process");
    child.wait().expect("reap a child process");
}

/// Runs checks on a connection of its own until told to stop: each reply must be that of its own request.
fn check_until(broker: &Broker, number: usize, stop: &AtomicBool) -> usize {
    let mut raw = broker.connect();
    let mut checked = 0;
    while !stop.load(Ordering::SeqCst) {
        let nonce = format!("{number}-{checked}");
        let bulk = format!("${}\r\n{nonce}\r\n", nonce.len());
        raw.write(&pipeline(&[
            &format!("SET checker:{number} {nonce}"),
            &format!("GET checker:{number}"),
            &format!("ECHO {nonce}"),
            "MULTI",
            &format!("GET checker:{number}"),
            "EXEC",
        ]));
        let wanted = ["+OK\r\n", &bulk, &bulk, "+OK\r\n", "+QUEUED\r\n", &format!("*1\r\n{bulk}")];
        for reply in wanted {
            assert_eq!(raw.read_text(), reply);
        }
        checked += 1;
    }
    checked
}

/// A hundred processes killed in every state, while others check each of their replies.
#[test]
fn a_hundred_killed_processes_leave_no_trace() {
    let redis = Redis::start();
    let settings = [("leases_blocking_max", "32"), ("leases_transaction_max", "64")];
    let broker = Broker::start(&redis, &settings);
    let stop = AtomicBool::new(false);
    broker.connect().expect("SET shared 1", "+OK\r\n");
    std::thread::scope(|scope| {
        let checkers: Vec<_> = (0..3)
            .map(|number| {
                let (broker, stop) = (&broker, &stop);
                scope.spawn(move || check_until(broker, number, stop))
            })
            .collect();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| kill_in_waves(&broker)));
        stop.store(true, Ordering::SeqCst);
        for checker in checkers {
            assert!(checker.join().expect("a checker") > 0);
        }
        outcome.expect("the processes were started and killed");
    });
    upstream_is_idle(&redis);
    let mut raw = broker.connect();
    raw.expect("KEYS dead*", "*0\r\n");
    raw.expect("PUBLISH news x", ":0\r\n");
    raw.expect("RPUSH queue left", ":1\r\n");
    raw.expect("LPOP queue", "$4\r\nleft\r\n");
    raw.expect("WATCH shared", "+OK\r\n");
    raw.write(&pipeline(&["MULTI", "GET shared", "EXEC"]));
    let replies: Vec<String> = (0..3).map(|_| raw.read_text()).collect();
    assert_eq!(replies, ["+OK\r\n", "+QUEUED\r\n", "*1\r\n$1\r\n1\r\n"]);
}

fn kill_in_waves(broker: &Broker) {
    let mut rng = support::seeded();
    let mut started = 0;
    while started < 100 {
        let wave = 20.min(100 - started);
        let mut children: Vec<Child> =
            (0..wave).map(|at| spawn_child(PARTS[(started + at) % PARTS.len()], broker.socket())).collect();
        rng.shuffle(&mut children);
        children.iter_mut().for_each(kill);
        started += wave;
    }
}

/// No connection beyond lanes, control and warm leases, and none in any state but the plain one.
fn upstream_is_idle(redis: &Redis) {
    if support::direct() {
        wait_until("the dead are gone", || upstream_clients(redis).is_empty());
        return;
    }
    let mut seen = String::new();
    wait_until("upstream is as before the first child", || {
        let clients = upstream_clients(redis);
        seen = format!("{clients:#?}");
        let plain = clients.iter().all(|client| {
            let quiet =
                client.field("sub") == "0" && client.field("psub") == "0" && client.field("multi") == "-1";
            quiet && ["N", "U"].contains(&client.field("flags"))
        });
        let leases = clients.iter().filter(|client| client.name() == "broker-lease").count();
        let others = clients.len() - leases;
        // One lane per (db, protocol) used, one control connection and one for subscriptions; `leases_warm`
        // is 1 per pool of the former.
        plain && leases <= 2 && others <= 4
    });
    eprintln!("upstream at rest: {seen}");
}

/// Dead and living poppers of one list: every element comes to a living one or stays.
#[test]
fn elements_come_to_the_living_or_stay() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut dead: Vec<Child> = (0..10).map(|_| spawn_child("blpop", broker.socket())).collect();
    // Of a broker the poppers share a few connections.
    let waiting = || {
        let clients = list_clients(&mut broker.connect());
        clients.iter().filter(|client| client.field("flags").contains('b')).count()
    };
    wait_until("all are blocked", || waiting() == 10);
    let mut living: Vec<Raw> = (0..5).map(|_| broker.connect()).collect();
    living.iter_mut().for_each(|raw| raw.send("BLPOP queue 0"));
    wait_until("the living too", || waiting() == 15);
    dead.iter_mut().for_each(kill);
    wait_until("the dead ones' waits are over", || waiting() == 5);
    let mut pusher = broker.connect();
    for element in 0..8 {
        assert!(pusher.ask(&format!("RPUSH queue e{element}")).starts_with(':'));
    }
    let mut got: Vec<String> = living.iter_mut().map(|raw| raw.read_text()).collect();
    got.iter_mut().for_each(|reply| *reply = reply.split("\r\n").nth(4).expect("an element").to_owned());
    let left = pusher.ask("LRANGE queue 0 -1");
    got.extend(left.split("\r\n").filter(|part| part.starts_with('e')).map(str::to_owned));
    let distinct: HashSet<&String> = got.iter().collect();
    assert_eq!((got.len(), distinct.len()), (8, 8), "{got:?}");
}

/// A process killed while a flood of replies is on its way to it: the flood goes nowhere else.
#[test]
fn replies_to_the_dead_are_swallowed() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut checker = broker.connect();
    checker.call(&["SET", "big", &"x".repeat(100_000)]);
    for round in 0..30 {
        let mut raw = broker.connect();
        let lines: Vec<&str> = std::iter::repeat_n("GET big", 50).collect();
        raw.write(&pipeline(&lines));
        if round % 3 == 0 {
            drop(raw.read_reply());
        }
        drop(raw);
        checker.expect(&format!("ECHO {round}"), &format!("${}\r\n{round}\r\n", round.to_string().len()));
        checker.expect("STRLEN big", ":100000\r\n");
        checker.expect(&format!("SET round {round}"), "+OK\r\n");
    }
    assert!(checker.is_silent(Duration::from_millis(100)), "nothing that was not asked for");
    if !support::direct() {
        let others = upstream_clients(&redis).iter().filter(|client| client.name() != "broker-lease").count();
        assert!(others <= 2, "one lane and one control connection: {others}");
    }
}
