//! The end of a broker in every way that it can be asked for, under load: the exit code, what children are told last, and that
//! neither a file nor a connection to Redis is left; and how long nobody can connect while another one takes its place.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::console::rows;
use crate::support::{
    Broker, Crowd, End, PATIENCE, Raw, Redis, admin_beside, request, upstream_clients, wait_until,
};

/// How an end is asked for.
#[derive(Debug, Clone, Copy)]
enum Way {
    Sent(Signal),
    Asked(&'static str),
}

fn send(broker: &Broker, signal: Signal) {
    let pid = Pid::from_raw(broker.pid().cast_signed()).expect("a process");
    kill_process(pid, signal).expect("signal the broker");
}

/// Asks for the end. Whoever asks the console hears of it, and is let go last.
fn ask_for_end(broker: &Broker, way: Way) -> Option<Raw> {
    match way {
        Way::Sent(signal) => send(broker, signal),
        Way::Asked(words) => {
            let mut admin = Raw::unix(&admin_beside(broker.socket()));
            admin.send(words);
            return Some(admin);
        }
    }
    None
}

fn nothing_is_left(broker: &Broker, redis: &Redis, about: &str) {
    assert!(
        !broker.socket().exists() && !admin_beside(broker.socket()).exists(),
        "{about}: a socket file is left"
    );
    wait_until("no upstream connection is left", || upstream_clients(redis).is_empty());
}

/// Whatever children do, each is closed between two replies and has had all of them.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_graceful_end_under_load_cuts_no_reply() {
    for way in [
        Way::Sent(Signal::TERM),
        Way::Sent(Signal::INT),
        Way::Asked("BROKER DRAIN"),
        Way::Asked("BROKER SHUTDOWN WAIT"),
    ] {
        let redis = Redis::start();
        let mut broker = Broker::start(&redis, &[("lanes", "2")]);
        let crowd = Crowd::start(broker.socket(), &redis, 4);
        wait_until("there is load", || crowd.rounds() > 300);
        crowd.expect_close();
        let asker = ask_for_end(&broker, way);
        assert_eq!(broker.wait_exit(PATIENCE).code(), Some(0), "{way:?}");
        if let Some(mut asker) = asker {
            assert_eq!(asker.read_text(), "+OK\r\n", "{way:?}");
            assert_eq!(asker.try_reply(), Err(End::Closed), "{way:?}");
        }
        crowd.end();
        nothing_is_left(&broker, &redis, &format!("{way:?}"));
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn an_end_at_once_waits_for_nobody_and_leaves_nothing() {
    for way in [Way::Sent(Signal::QUIT), Way::Asked("BROKER SHUTDOWN")] {
        let redis = Redis::start();
        let mut broker = Broker::start(&redis, &[("drain_timeout", "1h")]);
        let mut held = hold(&broker, &redis);
        let asker = ask_for_end(&broker, way);
        assert_eq!(broker.wait_exit(PATIENCE).code(), Some(0), "{way:?}");
        if let Some(mut asker) = asker {
            assert_eq!(asker.read_text(), "+OK\r\n", "{way:?}");
        }
        assert!(held.iter_mut().all(Raw::is_closed), "{way:?}");
        nothing_is_left(&broker, &redis, &format!("{way:?}"));
    }
}

/// Children that hold something a drain waits for: a blocked command, keys that are watched, an open MULTI.
fn hold(broker: &Broker, redis: &Redis) -> Vec<Raw> {
    let mut held: Vec<Raw> = (0..3).map(|_| broker.connect()).collect();
    held[0].send("BLPOP q 0");
    held[1].expect("WATCH k", "+OK\r\n");
    held[2].expect("MULTI", "+OK\r\n");
    held[2].expect("SET m v", "+QUEUED\r\n");
    let blocked = |client: &crate::support::UpstreamClient| client.field("flags").contains('b');
    wait_until("one is blocked", || upstream_clients(redis).iter().any(blocked));
    held
}

/// Those at rest, those that only listen and those with half a request are closed at once; the others when they are done.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_drain_waits_for_what_is_under_way_and_for_nothing_else() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[("drain_timeout", "1ms")]);
    let mut held = hold(&broker, &redis);
    let [mut idle, mut listener, mut half, mut three] = std::array::from_fn(|_| broker.connect());
    idle.expect("SET other v", "+OK\r\n");
    listener.expect("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    assert!(three.ask("HELLO 3").starts_with('%'));
    three.expect("PSUBSCRIBE c*", ">3\r\n$10\r\npsubscribe\r\n$2\r\nc*\r\n:1\r\n");
    half.write(&request(&["SET", "half", "v"])[..20]);
    assert!(half.is_silent(Duration::from_millis(20)), "half a request has no answer");
    let mut asker = ask_for_end(&broker, Way::Asked("BROKER DRAIN")).expect("who asks");
    for (name, raw) in
        [("idle", &mut idle), ("listener", &mut listener), ("half", &mut half), ("three", &mut three)]
    {
        assert_eq!(raw.try_reply(), Err(End::Closed), "{name}");
    }
    assert!(Raw::try_unix(broker.socket()).is_err(), "nobody new is let in");
    assert!(asker.is_silent(Duration::from_millis(200)), "others are still there, and no time is set");
    redis.ask("RPUSH q e");
    assert_eq!(held[0].read_text(), "*2\r\n$1\r\nq\r\n$1\r\ne\r\n");
    held[1].expect("MULTI", "+OK\r\n");
    held[1].expect("GET other", "+QUEUED\r\n");
    held[1].expect("EXEC", "*1\r\n$1\r\nv\r\n");
    assert!(asker.is_silent(Duration::from_millis(50)));
    held[2].expect("EXEC", "*1\r\n+OK\r\n");
    for raw in &mut held {
        assert_eq!(raw.try_reply(), Err(End::Closed));
    }
    assert_eq!(asker.read_text(), "+OK\r\n");
    assert_eq!(broker.wait_exit(PATIENCE).code(), Some(0));
    assert_eq!(redis.ask("EXISTS half"), ":0\r\n");
    nothing_is_left(&broker, &redis, "DRAIN");
}

/// A drain without a bound gets one by the first signal, and ends at once by the second.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_signal_shortens_a_drain() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[("drain_timeout", "300ms")]);
    let mut held = hold(&broker, &redis);
    let mut asker = ask_for_end(&broker, Way::Asked("BROKER DRAIN")).expect("who asks");
    assert!(asker.is_silent(Duration::from_millis(400)), "drain_timeout does not bound it");
    send(&broker, Signal::TERM);
    assert_eq!(broker.wait_exit(PATIENCE).code(), Some(0));
    assert_eq!(asker.read_text(), "+OK\r\n", "it is told although the time was up");
    assert!(held.iter_mut().all(Raw::is_closed));
    nothing_is_left(&broker, &redis, "DRAIN, then SIGTERM");

    // The console answers meanwhile, says what is waited for, and may end it.
    let mut broker = Broker::start(&redis, &[]);
    let mut held = hold(&broker, &redis);
    let mut asker = ask_for_end(&broker, Way::Asked("BROKER DRAIN")).expect("who asks");
    wait_until("it drains", || Raw::try_unix(broker.socket()).is_err());
    let mut second = Raw::unix(&admin_beside(broker.socket()));
    assert_eq!(rows(&mut second, "UPSTREAM")[0]["state"], "draining");
    let children = rows(&mut second, "CHILDREN");
    assert_eq!(children.len(), 5, "who is waited for, and the console: {children:?}");
    assert_eq!(children.iter().filter(|row| row["waits_for"] == "drain").count(), 1, "{children:?}");
    second.expect("BROKER RELOAD", "-ERR cannot take new settings: the loop drains\r\n");
    assert!(held[0].is_silent(Duration::from_millis(20)));
    second.send("BROKER SHUTDOWN WAIT");
    held[1].expect("UNWATCH", "+OK\r\n");
    held[2].expect("DISCARD", "+OK\r\n");
    redis.ask("RPUSH q e");
    assert_eq!(held[0].read_text(), "*2\r\n$1\r\nq\r\n$1\r\ne\r\n");
    assert!(held.iter_mut().all(Raw::is_closed));
    assert_eq!((asker.read_text(), second.read_text()), ("+OK\r\n".into(), "+OK\r\n".into()));
    assert_eq!(broker.wait_exit(PATIENCE).code(), Some(0));
    nothing_is_left(&broker, &redis, "DRAIN, then SHUTDOWN WAIT");

    let mut broker = Broker::start(&redis, &[("drain_timeout", "1h")]);
    let mut held = hold(&broker, &redis);
    let mut asker = ask_for_end(&broker, Way::Asked("BROKER SHUTDOWN WAIT")).expect("who asks");
    wait_until("it drains", || Raw::try_unix(broker.socket()).is_err());
    send(&broker, Signal::TERM);
    assert!(asker.is_silent(Duration::from_millis(200)), "the first one waits as long as the order");
    send(&broker, Signal::INT);
    assert_eq!(broker.wait_exit(PATIENCE).code(), Some(0));
    assert!(asker.is_closed() && held.iter_mut().all(Raw::is_closed));
    nothing_is_left(&broker, &redis, "SHUTDOWN WAIT, then two signals");
}

/// A restart with nobody who takes the sockets over: how long nobody can connect.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_restart_with_idle_subscribers_leaves_a_short_gap() {
    let redis = Redis::start();
    let file = redis.directory().join("broker.toml");
    let socket = redis.directory().join("b.sock");
    let text = format!("upstream = '{}'\nlisten = ['unix://{}']\n", redis.url(), socket.display());
    std::fs::write(&file, text).expect("a file");
    let config = file.display().to_string();
    let start = || Broker::start_args(&["serve", "--config", &config], 1);
    let mut gaps = Vec::new();
    for _ in 0..3 {
        let mut broker = start();
        let mut subscribers: Vec<Raw> = (0..100).map(|_| broker.connect()).collect();
        for raw in &mut subscribers {
            raw.expect("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
        }
        let over = AtomicBool::new(false);
        let gap = thread::scope(|scope| {
            let prober = scope.spawn(|| probe(&socket, &over));
            broker.term();
            assert_eq!(broker.wait_exit(PATIENCE).code(), Some(0));
            let mut next = start();
            next.connect().expect("PING", "+PONG\r\n");
            over.store(true, Ordering::SeqCst);
            let gap = prober.join().expect("the prober");
            next.term();
            next.wait_exit(PATIENCE);
            gap
        });
        assert!(subscribers.iter_mut().all(Raw::is_closed));
        gaps.push(gap);
    }
    eprintln!("connects that failed, and the time between the last good one and the next: {gaps:?}");
    let least = gaps.iter().map(|(_, gap)| *gap).min().expect("a gap");
    assert!(least < Duration::from_millis(100), "{gaps:?}");
}

/// Connects again and again. How many connects failed in a row, and the time between the good ones around them.
fn probe(socket: &std::path::Path, over: &AtomicBool) -> (usize, Duration) {
    let (mut failed, mut gap, mut good) = (0, Duration::ZERO, Instant::now());
    while !over.load(Ordering::SeqCst) {
        match UnixStream::connect(socket) {
            Ok(_) => {
                gap = gap.max(good.elapsed());
                good = Instant::now();
            }
            Err(_) => failed += 1,
        }
        // As often as a busy host's programs connect, and not so often that the two brokers have no processor.
        thread::sleep(Duration::from_micros(500));
    }
    (failed, gap)
}
