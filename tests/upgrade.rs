//! A broker is followed by another one: children go on with it, connections are shared, and whoever fails leaves all to the
//! other.

use crate::support::raw::{End, pipeline};
use crate::support::tls::{Certificates, TlsRaw};
use crate::support::{Broker, PATIENCE, Raw, Redis, wait_until};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// The broker is followed by one with more arguments; the former has ended well.
fn follow(broker: &mut Broker, more: &[&str]) {
    let successor = broker.start_successor(more);
    let status = broker.wait_exit(PATIENCE);
    assert!(status.success(), "{status}; the log of the successor:\n{}", successor.log());
    broker.become_successor(successor);
}

fn id(child: &mut Raw) -> u64 {
    child.ask("CLIENT ID").trim_start_matches(':').trim().parse().expect("an id")
}

#[test]
fn children_go_on_with_the_successor() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    let mut plain = broker.connect();
    let mut named = broker.connect_resp3();
    assert_eq!(named.ask("CLIENT SETNAME me") + &named.ask("SELECT 3"), "+OK\r\n+OK\r\n");
    let mut half = broker.connect();
    half.expect("SET k v", "+OK\r\n");
    let before = [id(&mut plain), id(&mut named), id(&mut half)];
    half.write(b"*2\r\n$3\r\nGET\r\n$1\r\n");
    let mut queued = broker.connect();
    queued.expect("MULTI", "+OK\r\n");
    queued.expect("INCR n", "+QUEUED\r\n");
    queued.expect("CLIENT ID", "+QUEUED\r\n");
    let mut muted = broker.connect();
    muted.send("CLIENT REPLY OFF");
    let mut skipping = broker.connect();
    skipping.send("CLIENT REPLY SKIP");
    let pid = broker.pid();
    follow(&mut broker, &[]);
    assert_ne!(broker.pid(), pid);

    assert_eq!([id(&mut plain), id(&mut named)], before[..2]);
    named.expect("CLIENT GETNAME", "$2\r\nme\r\n");
    let info = named.ask("CLIENT INFO");
    assert!(info.contains(" db=3 ") && info.contains(" resp=3"), "{info}");
    half.write(b"k\r\n");
    assert_eq!(half.read_text(), "$1\r\nv\r\n");
    queued.expect("INCR n", "+QUEUED\r\n");
    let told = queued.ask("EXEC");
    assert!(told.starts_with("*3\r\n:1\r\n:") && told.ends_with("\r\n:2\r\n"), "{told}");
    muted.write(&pipeline(&["SET a 1", "CLIENT REPLY ON"]));
    assert_eq!(muted.read_text(), "+OK\r\n");
    skipping.write(&pipeline(&["SET b 1", "GET a"]));
    assert_eq!(skipping.read_text(), "$1\r\n1\r\n");
    let mut newcomer = broker.connect();
    assert!(id(&mut newcomer) > *before.iter().max().unwrap());
    assert!(broker.socket().exists());
}

/// The kernel holds some of it, the broker the rest.
#[test]
fn replies_that_a_child_has_not_read_are_not_lost() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    let mut child = broker.connect();
    let value = "v".repeat(100_000);
    child.expect(&format!("SET k {value}"), "+OK\r\n");
    let requests: Vec<String> = (0..50).map(|number| format!("ECHO {number}")).collect();
    for line in &requests {
        child.write(&pipeline(&["GET k", line]));
    }
    follow(&mut broker, &[]);
    for number in 0..50 {
        assert_eq!(child.read_reply().len(), value.len() + 11);
        let text = number.to_string();
        assert_eq!(child.read_text(), format!("${}\r\n{text}\r\n", text.len()));
    }
    child.expect("PING", "+PONG\r\n");
}

#[test]
fn those_who_wait_for_an_element_are_served_in_their_order() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    let mut waiters: Vec<Raw> = Vec::new();
    for count in 1..=6 {
        let mut waiter = broker.connect();
        waiter.send("BLPOP q 0");
        waiters.push(waiter);
        let waiting = || broker.connect().ask("BROKER SHOW CHILDREN").matches("element").count();
        wait_until("it waits", || waiting() == count);
    }
    let mut ending = broker.connect();
    ending.send("BLPOP other 1.5");
    follow(&mut broker, &[]);
    let mut pusher = broker.connect();
    for (number, waiter) in waiters.iter_mut().enumerate() {
        pusher.expect(&format!("RPUSH q {number}"), ":1\r\n");
        assert_eq!(waiter.read_text(), format!("*2\r\n$1\r\nq\r\n$1\r\n{number}\r\n"));
    }
    assert_eq!(ending.read_text(), "*-1\r\n");
}

/// Whoever watches keys stays with the former broker until its EXEC.
#[test]
fn who_watches_keys_goes_when_the_transaction_has_ended() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    let mut watching = broker.connect();
    watching.expect("WATCH k", "+OK\r\n");
    let successor = broker.start_successor(&[]);
    wait_until("the successor accepts", || broker.log().contains("the successor accepts"));
    let mut other = broker.connect();
    other.expect("SET other 1", "+OK\r\n");
    watching.expect("MULTI", "+OK\r\n");
    watching.expect("SET k 1", "+QUEUED\r\n");
    watching.expect("EXEC", "*1\r\n+OK\r\n");
    assert!(broker.wait_exit(PATIENCE).success());
    watching.expect("GET k", "$1\r\n1\r\n");
    broker.become_successor(successor);
}

/// Both processes together have no more connections than there may be, as Redis counts them; and nobody who connects is
/// refused.
#[test]
fn neither_places_nor_listeners_have_a_gap() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[("upstream_connections_max", "12"), ("lanes", "4")]);
    let mut idle: Vec<Raw> = (0..200).map(|_| broker.connect()).collect();
    for (number, child) in idle.iter_mut().enumerate() {
        child.expect(&format!("SELECT {}", number % 6), "+OK\r\n");
        child.expect("SET k v", "+OK\r\n");
    }
    let (over, socket) = (AtomicBool::new(false), broker.socket().to_owned());
    thread::scope(|scope| {
        let counter = scope.spawn(|| {
            let (mut raw, mut most) = (redis.connect(), 0);
            while !over.load(Ordering::Relaxed) {
                most = most.max(raw.ask("CLIENT LIST").matches(" name=broker-").count());
            }
            most
        });
        let comers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut count = 0;
                    while !over.load(Ordering::Relaxed) {
                        let mut child = Raw::try_unix(&socket).expect("it listens");
                        child.expect("GET k", "$1\r\nv\r\n");
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for _ in 0..3 {
            follow(&mut broker, &[]);
        }
        over.store(true, Ordering::Relaxed);
        let most = counter.join().expect("it has counted");
        assert!((2..=12).contains(&most), "{most} connections");
        let came: usize = comers.into_iter().map(|comer| comer.join().expect("it was served")).sum();
        assert!(came > 30, "{came} have connected");
    });
    for child in &mut idle {
        child.expect("GET k", "$1\r\nv\r\n");
    }
}

/// Children that pipeline all the time, each of which checks every reply.
#[test]
fn pipelines_under_way_lose_nothing() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    let (over, socket) = (AtomicBool::new(false), broker.socket().to_owned());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..20)
            .map(|worker| {
                let (over, socket) = (&over, &socket);
                scope.spawn(move || {
                    let (mut child, mut count) = (Raw::unix(socket), 0u64);
                    child.expect(&format!("SELECT {}", worker % 3), "+OK\r\n");
                    while !over.load(Ordering::Relaxed) {
                        let lines: Vec<String> = (0..20)
                            .flat_map(|at| [format!("INCR n{worker}"), format!("ECHO {worker}.{at}")])
                            .collect();
                        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                        child.write(&pipeline(&lines));
                        for at in 0..20 {
                            count += 1;
                            assert_eq!(child.read_text(), format!(":{count}\r\n"));
                            let text = format!("{worker}.{at}");
                            assert_eq!(child.read_text(), format!("${}\r\n{text}\r\n", text.len()));
                        }
                    }
                    count
                })
            })
            .collect();
        for _ in 0..3 {
            follow(&mut broker, &[]);
        }
        over.store(true, Ordering::Relaxed);
        for worker in workers {
            assert!(worker.join().expect("every reply was right") > 0);
        }
    });
}

#[test]
fn a_successor_that_fails_before_it_is_ready_has_changed_nothing() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    let mut child = broker.connect();
    child.expect("SET k v", "+OK\r\n");
    // The upstream says nothing.
    redis.stop();
    let mut successor = broker.start_successor(&["--set", "upgrade_timeout=1s"]);
    let status = successor.wait_exit(PATIENCE);
    assert_eq!(status.code(), Some(1), "{}", successor.log());
    let why = "cannot take over: the upstream has not answered within upgrade_timeout";
    wait_until("it says why", || successor.log().contains(why));
    redis.cont();
    child.expect("GET k", "$1\r\nv\r\n");
    broker.connect().expect("GET k", "$1\r\nv\r\n");
    wait_until("another one may follow", || broker.log().contains("the hand-over has failed"));
    follow(&mut broker, &[]);
    child.expect("GET k", "$1\r\nv\r\n");
}

#[test]
fn who_may_not_follow_is_told_why() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let admin = format!("{}.admin", broker.socket().display());
    let mut operator = Raw::unix(std::path::Path::new(&admin));
    operator.expect("BROKER TAKEOVER 999 0.1", "-ERR the hand-over has format 1 here, not 999\r\n");
    let refused = operator.ask("BROKER TAKEOVER x 0.1");
    assert!(refused.starts_with("-ERR BROKER TAKEOVER takes"), "{refused}");
    let refused = broker.connect().ask("BROKER TAKEOVER 1 0.1");
    assert!(refused.contains("on admin_listen alone"), "{refused}");
    operator.expect("PING", "+PONG\r\n");
    operator.expect("BROKER PAUSE", "+OK\r\n");
    let refused = operator.ask("BROKER TAKEOVER 1 0.1");
    assert!(refused.contains("this broker is paused"), "{refused}");
    operator.expect("BROKER RESUME", "+OK\r\n");
    let lonely = Broker::run(&[
        "serve",
        "--takeover",
        "--upstream",
        &redis.url(),
        "--listen",
        "unix:///nonexistent/b.sock",
    ]);
    assert_eq!(lonely.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&lonely.stderr).contains("no broker answers at /nonexistent/b.sock.admin")
    );
}

#[test]
fn the_broker_starts_its_successor_itself() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    let mut child = broker.connect();
    child.expect("CLIENT SETNAME me", "+OK\r\n");
    let admin = format!("{}.admin", broker.socket().display());
    let output = Broker::run(&["upgrade", "--admin", &admin]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("serves now"), "{output:?}");
    let pid: u32 = said.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("a pid");
    assert!(broker.wait_exit(PATIENCE).success());
    child.expect("CLIENT GETNAME", "$2\r\nme\r\n");
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    assert!(child.is_closed());
    wait_until("the socket goes with it", || !broker.socket().exists());
}

/// What has become of the children of a take-over in which one side was killed.
struct Outcome {
    /// Of so many the connection was closed.
    closed: usize,
    open: usize,
}

/// Children ask and check while `kills` lets one side of a take-over die; then each of them says whether it goes on.
fn children_outlive(broker: &Broker, children: usize, kills: impl FnOnce()) -> Outcome {
    let (over, socket) = (AtomicBool::new(false), broker.socket());
    let closed: Vec<bool> = thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let over = &over;
                scope.spawn(move || {
                    let mut own: Vec<(Raw, u64, bool)> =
                        (0..children / 4).map(|_| (Raw::unix(socket), 0, false)).collect();
                    let mut last_round = false;
                    while !last_round {
                        last_round = over.load(Ordering::Relaxed);
                        for (at, (child, count, closed)) in
                            own.iter_mut().enumerate().filter(|(_, (.., closed))| !closed)
                        {
                            let (key, echo) = (format!("n{worker}.{at}"), format!("{worker}.{at}.{count}"));
                            let lines = [format!("INCR {key}"), format!("ECHO {echo}")];
                            let asked = child.try_write(&pipeline(&[&lines[0], &lines[1]]));
                            let told = asked.map_err(|_| End::Closed).and_then(|()| child.try_reply());
                            // What was asked of a process that has died may have been done.
                            let told = told.and_then(|reply| Ok((reply, child.try_reply()?)));
                            match told {
                                Ok((counted, echoed)) => {
                                    *count += 1;
                                    assert_eq!(counted, format!(":{count}\r\n").into_bytes());
                                    assert_eq!(echoed, format!("${}\r\n{echo}\r\n", echo.len()).into_bytes());
                                }
                                Err(End::Closed) => *closed = true,
                                Err(End::Silent) => panic!("a reply is owed by a process that lives"),
                            }
                        }
                    }
                    own.into_iter().map(|(.., closed)| closed).collect::<Vec<bool>>()
                })
            })
            .collect();
        let played = catch_unwind(AssertUnwindSafe(|| {
            wait_until("all are there", || {
                lines_of(&broker.connect().ask("BROKER SHOW CHILDREN")) > children
            });
            kills();
        }));
        over.store(true, Ordering::Relaxed);
        let closed = workers.into_iter().flat_map(|worker| worker.join().expect("every reply was right"));
        let closed = closed.collect();
        played.unwrap_or_else(|panic| resume_unwind(panic));
        closed
    });
    let count = closed.iter().filter(|closed| **closed).count();
    Outcome { closed: count, open: closed.len() - count }
}

/// How many lines an answer of the console has, with its header.
fn lines_of(answer: &str) -> usize {
    answer.strip_prefix('*').and_then(|rest| rest.split("\r\n").next()?.parse().ok()).unwrap_or_default()
}

fn number_before(log: &str, words: &str) -> usize {
    let line =
        log.lines().rfind(|line| line.contains(words)).unwrap_or_else(|| panic!("no '{words}' in:\n{log}"));
    let before = line.split(words).next().unwrap_or_default();
    before.rsplit([' ', ',']).find_map(|word| word.parse().ok()).expect("a number")
}

const CHILDREN: usize = 320;

/// The steps at which one side dies: two by chance in the suite, and all twenty where all is asked for.
fn steps() -> Vec<u32> {
    match std::env::var("BROKER_TEST_UPGRADE") {
        Ok(_) => (1..=20).collect(),
        Err(_) => {
            let mut rng = crate::support::seeded();
            vec![rng.u32(1..=8), rng.u32(9..=20)]
        }
    }
}

#[test]
fn a_successor_that_is_killed_takes_only_what_it_was_given() {
    let redis = Redis::start();
    for step in steps() {
        redis.ask("FLUSHALL");
        let mut broker = Broker::start(&redis, &[]);
        let outcome = children_outlive(&broker, CHILDREN, || {
            let mut successor = broker.start_successor(&["--sabotage-handover", &step.to_string()]);
            let status = successor.wait_exit(PATIENCE);
            assert_eq!(status.signal(), Some(9), "step {step}: {status}, {}", successor.log());
            // The first step may be over before the broker has been asked.
            let knows =
                || broker.log().contains("the hand-over has failed") || !broker.log().contains("takes over");
            wait_until("the broker has noticed", knows);
            broker.connect().expect("PING", "+PONG\r\n");
        });
        let log = broker.log();
        let gone = if log.contains("had gone") { number_before(&log, " children had gone") } else { 0 };
        assert_eq!((outcome.closed, outcome.open), (gone, CHILDREN - gone), "step {step}:\n{log}");
        follow(&mut broker, &[]);
        broker.connect().expect("PING", "+PONG\r\n");
    }
}

#[test]
fn a_broker_that_is_killed_leaves_what_it_has_sent_to_its_successor() {
    let redis = Redis::start();
    // At the first it has not even answered: there is nobody to follow.
    for step in steps().into_iter().map(|step| step + 1) {
        redis.ask("FLUSHALL");
        let mut broker = Broker::start_flagged(&redis, &["--sabotage-handover", &step.to_string()]);
        let mut follower = None;
        let socket = broker.socket().to_owned();
        let outcome = {
            let follower = &mut follower;
            children_outlive(&broker, CHILDREN, || {
                let successor = broker.start_successor(&[]);
                wait_until("it is alone", || successor.log().contains("everything has been taken over"));
                Raw::unix(&socket).expect("PING", "+PONG\r\n");
                *follower = Some(successor);
            })
        };
        let successor = follower.expect("it was started");
        let log = successor.log();
        let kept = number_before(&log, " children with it");
        assert_eq!(broker.wait_exit(PATIENCE).signal(), Some(9), "step {step}: {}", broker.log());
        assert_eq!((outcome.open, outcome.closed), (kept, CHILDREN - kept), "step {step}:\n{log}");
        broker.become_successor(successor);
    }
}

/// The number of a message, which ends in `.number`.
fn number_of(message: &str) -> u64 {
    message.trim_end().rsplit('.').next().and_then(|number| number.parse().ok()).expect("a number")
}

/// Every message is heard once and in order, while its listeners go from one process to the next.
#[test]
fn subscribers_hear_every_message_once() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    let (over, socket) = (AtomicBool::new(false), broker.socket().to_owned());
    let filler = "x".repeat(3000);
    // Redis closes a subscriber that is too far behind, and a build for tests is slow.
    let heard = AtomicU64::new(0);
    thread::scope(|scope| {
        let mut listeners = Vec::new();
        for number in 0..120 {
            let mut child = Raw::unix(&socket);
            if number % 3 == 0 {
                assert!(child.ask("HELLO 3").starts_with('%'));
            }
            let pattern = number % 2 == 0;
            let confirmed = child.ask(if pattern { "PSUBSCRIBE c*" } else { "SUBSCRIBE c1 c2" });
            assert!(confirmed.contains("subscribe"), "{confirmed}");
            if !pattern {
                child.read_text();
            }
            let heard = &heard;
            listeners.push(scope.spawn(move || {
                let mut next = 1;
                loop {
                    let message = child.read_text();
                    if message.contains("the-end") {
                        return next - 1;
                    }
                    assert!(message.contains("message\r\n"), "{message}");
                    assert_eq!(number_of(&message), next, "one was lost or heard twice");
                    heard.fetch_max(next, Ordering::Relaxed);
                    next += 1;
                }
            }));
        }
        let publisher = scope.spawn(|| {
            let (mut raw, mut count) = (redis.connect(), 0u64);
            while !over.load(Ordering::Relaxed) {
                while count > heard.load(Ordering::Relaxed) + 200 {
                    thread::yield_now();
                }
                count += 1;
                let text = format!("{filler}.{count}");
                assert!(raw.ask(&format!("PUBLISH c{} {text}", 1 + count % 2)).starts_with(':'));
            }
            (count, raw)
        });
        for _ in 0..3 {
            follow(&mut broker, &[]);
        }
        over.store(true, Ordering::Relaxed);
        let (count, mut raw) = publisher.join().expect("it has published");
        let served = raw.ask("PUBSUB NUMSUB c1 c2");
        assert_eq!(served, "*4\r\n$2\r\nc1\r\n:1\r\n$2\r\nc2\r\n:1\r\n", "one connection for all");
        raw.ask("PUBLISH c1 the-end");
        for listener in listeners {
            assert_eq!(listener.join().expect("it heard all"), count);
        }
    });
    // What is subscribed to, and left, goes on as ever.
    let mut child = broker.connect();
    assert!(child.ask("SUBSCRIBE c1").contains("subscribe"));
    broker.connect().expect("PUBLISH c1 m", ":1\r\n");
    assert_eq!(child.read_text(), "*3\r\n$7\r\nmessage\r\n$2\r\nc1\r\n$1\r\nm\r\n");
}

/// A connection of its own to Redis cannot be left to others: it stays until the child gives it up.
#[test]
fn who_has_a_lane_for_good_is_let_go_in_time() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[("upgrade_timeout", "1s"), ("drain_timeout", "1s")]);
    let mut tracking = broker.connect_resp3();
    tracking.expect("CLIENT TRACKING ON", "+OK\r\n");
    let mut plain = broker.connect();
    plain.expect("SET k v", "+OK\r\n");
    follow(&mut broker, &[]);
    assert!(tracking.is_closed());
    plain.expect("GET k", "$1\r\nv\r\n");
}

/// What the console has set holds on, with the process that follows.
#[test]
fn what_the_console_has_set_goes_on() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    let admin = format!("{}.admin", broker.socket().display());
    let mut operator = Raw::unix(std::path::Path::new(&admin));
    assert!(operator.ask("BROKER SET lanes 3").starts_with(['+', '*']));
    follow(&mut broker, &[]);
    let shown = operator.ask("BROKER SHOW CONFIG WHERE key lanes");
    assert!(shown.contains(" 3 "), "{shown}");
}

/// Listeners count what is published while `kills` lets one side of a take-over die. Whoever is not closed has heard all of it,
/// once and in order. How many were closed.
fn listeners_outlive(redis: &Redis, broker: &Broker, kills: impl FnOnce()) -> usize {
    let (over, heard, socket) = (AtomicBool::new(false), AtomicU64::new(0), broker.socket());
    thread::scope(|scope| {
        let listeners: Vec<_> = (0..90)
            .map(|number| {
                let (mut child, heard) = (Raw::unix(socket), &heard);
                let confirmed = child.ask(if number % 2 == 0 { "PSUBSCRIBE c*" } else { "SUBSCRIBE c1" });
                assert!(confirmed.contains("subscribe"), "{confirmed}");
                scope.spawn(move || {
                    let mut next = 1;
                    while let Ok(message) = child.try_reply() {
                        let message = String::from_utf8_lossy(&message).into_owned();
                        if message.contains("the-end") {
                            return Some(next - 1);
                        }
                        assert_eq!(number_of(&message), next, "one was lost or heard twice");
                        heard.fetch_max(next, Ordering::Relaxed);
                        next += 1;
                    }
                    None
                })
            })
            .collect();
        let publisher = scope.spawn(|| {
            let (mut raw, mut count) = (redis.connect(), 0u64);
            while !over.load(Ordering::Relaxed) {
                if count > heard.load(Ordering::Relaxed) + 50 {
                    thread::yield_now();
                    continue;
                }
                count += 1;
                raw.ask(&format!("PUBLISH c1 m.{count}"));
            }
            raw.ask("PUBLISH c1 the-end");
            count
        });
        let played = catch_unwind(AssertUnwindSafe(kills));
        over.store(true, Ordering::Relaxed);
        let count = publisher.join().expect("it has published");
        let heard: Vec<Option<u64>> =
            listeners.into_iter().map(|listener| listener.join().expect("in order")).collect();
        played.unwrap_or_else(|panic| resume_unwind(panic));
        assert!(heard.iter().flatten().all(|heard| *heard == count), "{count}: {heard:?}");
        heard.iter().filter(|heard| heard.is_none()).count()
    })
}

#[test]
fn subscribers_outlive_either_side() {
    let redis = Redis::start();
    for step in steps() {
        let broker = Broker::start(&redis, &[]);
        let closed = listeners_outlive(&redis, &broker, || {
            let mut successor = broker.start_successor(&["--sabotage-handover", &step.to_string()]);
            // A take-over of subscriptions alone has fewer steps: it may live.
            wait_until("it has ended, or all has", || {
                successor.has_ended() || successor.log().contains("everything has been taken over")
            });
            drop(successor);
        });
        assert!(
            [0, 90].contains(&closed),
            "step {step}: {closed} of those who share a connection were closed"
        );
    }
    for step in steps().into_iter().map(|step| step + 1) {
        let mut broker = Broker::start_flagged(&redis, &["--sabotage-handover", &step.to_string()]);
        let mut follower = None;
        listeners_outlive(&redis, &broker, || {
            let successor = broker.start_successor(&[]);
            wait_until("it is alone", || successor.log().contains("everything has been taken over"));
            follower = Some(successor);
        });
        broker.wait_exit(PATIENCE);
        broker.become_successor(follower.expect("it was started"));
    }
}

/// Whoever a child is to Redis, or to the broker, it is afterwards.
#[test]
fn users_stay_who_they_are() {
    let redis = Redis::start_with(&["--requirepass", "pw"]);
    redis.ask("ACL SETUSER ann on >secret ~ann* +@all");
    let mut broker = Broker::start(&redis, &[("auth", "passthrough"), ("upstream_password", "pw")]);
    let mut ann = broker.connect();
    ann.expect("AUTH ann secret", "+OK\r\n");
    let mut nobody = broker.connect();
    assert!(nobody.ask("GET k").starts_with("-NOAUTH"));
    let mut owner = broker.connect();
    owner.expect("AUTH pw", "+OK\r\n");
    owner.expect("SET other 1", "+OK\r\n");
    follow(&mut broker, &[]);
    ann.expect("SET ann1 v", "+OK\r\n");
    assert!(ann.ask("GET other").starts_with("-NOPERM"), "her rights are hers");
    ann.expect("ACL WHOAMI", "$3\r\nann\r\n");
    owner.expect("GET other", "$1\r\n1\r\n");
    assert!(nobody.ask("GET other").starts_with("-NOAUTH"));
    redis.ask("ACL DELUSER ann");
    assert!(ann.is_closed(), "who is removed is sent away");
    assert!(!broker.log().contains("secret"));
}

#[test]
fn who_may_come_in_is_changed_by_a_reload_and_not_by_an_upgrade() {
    let redis = Redis::start();
    let directory = tempfile::tempdir().expect("a directory");
    let (both, one) = (directory.path().join("both.toml"), directory.path().join("one.toml"));
    // Of ann-pw and bob-pw.
    let ann = "[[user]]\nname = 'ann'\npassword_sha256 = '8f33833fa807eed369067c921eb17f63da076bee801611245c4ad015916fed1b'\n";
    let bob = "[[user]]\nname = 'bob'\npassword_sha256 = 'a023c4e07c00f0beb6f452a7da3699d38b42c3527ff00d9a9c65a65f254e768f'\n";
    std::fs::write(&both, format!("{ann}{bob}")).expect("a file");
    std::fs::write(&one, ann).expect("a file");
    for file in [&both, &one] {
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("its mode");
    }
    let auth_file = both.display().to_string();
    let settings = [
        ("auth", "users"),
        ("auth_file", auth_file.as_str()),
        ("upgrade_timeout", "1s"),
        ("drain_timeout", "1s"),
    ];
    let mut broker = Broker::start(&redis, &settings);
    let [mut ann, mut bob] = ["ann", "bob"].map(|name| {
        let mut child = broker.connect();
        child.expect(&format!("AUTH {name} {name}-pw"), "+OK\r\n");
        child
    });
    let other_file = format!("auth_file={}", one.display());
    for (others, key) in [
        (["--set", &other_file].as_slice(), "auth_file"),
        (&["--set", "upstream_username=u", "--set", "upstream_password=p"], "upstream_username"),
    ] {
        let mut successor = broker.start_successor(others);
        assert_eq!(successor.wait_exit(PATIENCE).code(), Some(2), "{}", successor.log());
        let why = format!("cannot take over: {key} is not what it is there");
        wait_until("it says why", || successor.log().contains(&why));
    }
    ann.expect("ACL WHOAMI", "$3\r\nann\r\n");
    bob.expect("ACL WHOAMI", "$3\r\nbob\r\n");
    wait_until("another one may follow", || broker.log().contains("the hand-over has failed"));
    follow(&mut broker, &[]);
    ann.expect("ACL WHOAMI", "$3\r\nann\r\n");
    bob.expect("ACL WHOAMI", "$3\r\nbob\r\n");
}

/// One that hangs keeps what it was given, and nothing else: neither those who were on their way, nor newcomers.
#[test]
fn a_successor_that_hangs_holds_nobody_but_its_own() {
    let redis = Redis::start();
    redis.ask("SET k v");
    let broker = Broker::start(&redis, &[]);
    let mut children: Vec<Raw> = (0..CHILDREN).map(|_| broker.connect()).collect();
    children.iter_mut().for_each(|child| child.expect("GET k", "$1\r\nv\r\n"));
    let successor = broker.start_successor(&["--sabotage-handover", "-22"]);
    wait_until("it is given up", || broker.log().contains("the successor does not go on"));
    let gone = number_before(&broker.log(), " children had gone");
    assert!((1..CHILDREN).contains(&gone), "it stops in the middle: {gone}");
    children.iter_mut().for_each(|child| child.send("GET k"));
    wait_until("it accepts again", || broker.log().contains("this process accepts again"));
    broker.connect().expect("GET k", "$1\r\nv\r\n");
    let (mut answered, mut silent) = (0, Vec::new());
    for mut child in children {
        child.set_patience(Duration::from_millis(if silent.len() < gone { 20 } else { 20_000 }));
        match child.try_reply() {
            Ok(reply) => answered += usize::from(reply == b"$1\r\nv\r\n"),
            Err(_) => silent.push(child),
        }
    }
    assert_eq!((answered, silent.len()), (CHILDREN - gone, gone));
    successor.go_on();
    for mut child in silent {
        child.set_patience(PATIENCE);
        assert_eq!(child.read_text(), "$1\r\nv\r\n", "its own are served when it wakes up");
    }
}

/// A pair of which the former has a child that stays: the process that it is, the one that follows, the child.
fn pair_with_a_child_that_stays(redis: &Redis) -> (Broker, Broker, Raw) {
    let broker = Broker::start(redis, &[("drain_timeout", "1s")]);
    let mut watching = broker.connect();
    watching.expect("WATCH k", "+OK\r\n");
    let successor = broker.start_successor(&[]);
    wait_until("the successor accepts", || broker.log().contains("the successor accepts"));
    (broker, successor, watching)
}

#[test]
fn either_side_may_be_asked_to_end_meanwhile() {
    let redis = Redis::start();
    let (mut broker, successor, mut watching) = pair_with_a_child_that_stays(&redis);
    broker.term();
    assert!(broker.wait_exit(PATIENCE).success());
    assert!(watching.is_closed());
    wait_until("it is alone", || successor.log().contains("everything has been taken over"));
    broker.connect().expect("PING", "+PONG\r\n");
    broker.become_successor(successor);

    let (mut broker, mut successor, mut watching) = pair_with_a_child_that_stays(&redis);
    successor.term();
    assert!(successor.wait_exit(PATIENCE).success());
    assert!(broker.wait_exit(PATIENCE).success(), "it has no listeners any more");
    assert!(watching.is_closed() && !broker.socket().exists());
}

/// Whoever would have to be served with keys that are a library's own is served where it is, for a while.
#[test]
fn children_over_tls_stay_and_are_let_go_at_the_end_of_a_reply() {
    let redis = Redis::start();
    let certificates = Certificates::new();
    let listen = certificates.listen("server", "");
    let flags = ["--listen", &listen, "--set", "upgrade_timeout=2s", "--set", "drain_timeout=1s"];
    let mut broker = Broker::start_flagged(&redis, &flags);
    let url = broker.listening()[1].clone();
    let mut child = TlsRaw::connect(&url, &certificates.client("ca", None));
    child.expect("SET k v", "+OK\r\n");
    let successor = broker.start_successor(&[]);
    wait_until("the successor accepts", || broker.log().contains("the successor accepts"));
    child.expect("GET k", "$1\r\nv\r\n");
    let mut newcomer = TlsRaw::connect(&url, &certificates.client("ca", None));
    newcomer.expect("GET k", "$1\r\nv\r\n");
    assert!(broker.wait_exit(PATIENCE).success());
    assert_eq!(child.end(), Ok(0), "closed as TLS has it");
    newcomer.expect("GET k", "$1\r\nv\r\n");
    broker.become_successor(successor);
}
