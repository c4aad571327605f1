//! How long the loop is at one thing: the longest step and turn are known, and long work is cut. Every other scenario
//! of the suite is held to the same bounds at its end (`support::broker`).

use std::cell::Cell;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::support::embedded::{run_until, settings};
use crate::support::{Broker, PATIENCE, Raw, Redis, raise_open_files, request, wait_until};
use broker::reactor::{Loop, StepKind};
use rustix::time::{ClockId, clock_gettime};

thread_local! {
    /// How long whoever logs is kept from going on.
    static DELAY: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

/// A log that takes its time, in the thread that asks for that.
struct SlowLog;

impl log::Log for SlowLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        !DELAY.get().is_zero()
    }

    fn log(&self, _: &log::Record<'_>) {
        let until = thread_time() + DELAY.get();
        while thread_time() < until {}
    }

    fn flush(&self) {}
}

/// A refused command is logged while its child is served: what takes long there is a step of that child.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_long_step_is_seen() {
    log::set_logger(&SlowLog).expect("no other log in this program");
    log::set_max_level(log::LevelFilter::Info);
    let redis = Redis::start();
    let mut lp = Loop::new(settings(&redis, &[])).expect("the loop");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    lp.adopt(theirs.into()).map_err(|(_, error)| error).expect("a child");
    let mut raw = Raw::of(ours);
    raw.send("PING");
    run_until(&mut lp, "a request", |lp| lp.stat("requests") == Some(1));
    raw.send("DEBUG SLEEP 0");
    let before = lp.longest_step().0;
    let delay = before + Duration::from_millis(20);
    DELAY.set(delay);
    run_until(&mut lp, "another", |lp| lp.stat("requests") == Some(2));
    DELAY.set(Duration::ZERO);
    let (step, kind) = lp.longest_step();
    assert!(step >= delay && step < 10 * delay, "{step:?} of {delay:?}");
    assert_eq!(kind, StepKind::ChildInput);
    assert!(lp.longest_turn() >= step, "{:?}", lp.longest_turn());
    let shown = |name| lp.stat(name).map(u128::from);
    assert_eq!(shown("longest_step_us"), Some(step.as_micros()));
    assert_eq!(shown("longest_turn_us"), Some(lp.longest_turn().as_micros()));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_statistics_are_logged_on_demand() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    raw.expect("SET k v", "+OK\r\n");
    let pace = broker.pace().expect("it says so");
    assert!(pace.step > 0 && pace.turn >= pace.step && !pace.about.is_empty(), "{pace:?}");
    let log = broker.log();
    let line = log.lines().find(|line| line.contains("statistics: children=1 ")).expect("a line");
    for name in Loop::stat_names() {
        assert!(line.contains(&format!(" {name}=")), "{name} in {line}");
    }
    raw.expect("GET k", "$1\r\nv\r\n");
}

/// `words` and so many channels.
fn of_channels(words: &[&str], count: usize) -> Vec<u8> {
    let names = (0..count).map(|number| format!("c{number}"));
    request(&words.iter().map(|word| word.to_string()).chain(names).collect::<Vec<_>>())
}

/// Each confirmation of a change of so many channels, in order, and what else comes in between.
fn confirmations(raw: &mut Raw, kind: &str, counts: impl Iterator<Item = usize>) -> Vec<String> {
    let mut others = Vec::new();
    for (number, count) in counts.enumerate() {
        loop {
            let frame = raw.read_text();
            if frame.starts_with("*3\r\n$7\r\nmessage") {
                others.push(frame);
                continue;
            }
            let name = format!("c{number}");
            let wanted =
                format!("*3\r\n${}\r\n{kind}\r\n${}\r\n{name}\r\n:{count}\r\n", kind.len(), name.len());
            assert_eq!(frame, wanted);
            break;
        }
    }
    others
}

const MANY: usize = 50_000;

/// Redis does it in one go. Here whoever else asks is heard meanwhile, and the child gets the same.
#[test]
fn a_request_with_very_many_channels_is_cut() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let (mut raw, mut other) = (broker.connect(), broker.connect());
    raw.write(&of_channels(&["SUBSCRIBE"], MANY));
    other.expect("GET a", "$-1\r\n");
    assert!(confirmations(&mut raw, "subscribe", 1..=MANY).is_empty());
    for name in [0, MANY / 2, MANY - 1] {
        other.expect(&format!("PUBLISH c{name} m"), ":1\r\n");
        assert!(raw.read_text().ends_with("$1\r\nm\r\n"));
    }
    raw.write(&of_channels(&["UNSUBSCRIBE"], MANY));
    confirmations(&mut raw, "unsubscribe", (0..MANY).rev());
    other.expect("PUBLISH c0 m", ":0\r\n");
    raw.expect("GET a", "$-1\r\n");
    // All at once, whatever their names.
    raw.write(&of_channels(&["SUBSCRIBE"], MANY));
    confirmations(&mut raw, "subscribe", 1..=MANY);
    raw.send("UNSUBSCRIBE");
    for left in (0..MANY).rev() {
        assert!(raw.read_text().ends_with(&format!(":{left}\r\n")));
    }
    raw.write(&of_channels(&["SUBSCRIBE"], MANY));
    confirmations(&mut raw, "subscribe", 1..=MANY);
    raw.expect("RESET", "+RESET\r\n");
    other.expect("PUBLISH c1 m", ":0\r\n");
    raw.expect("GET a", "$-1\r\n");
}

/// What a child leaves behind that dies with very many channels, or while it asks for them, is given back in the end.
#[test]
fn a_child_with_very_many_channels_may_die() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut other = broker.connect();
    let channels = |redis: &Redis| redis.connect().ask("PUBSUB CHANNELS");
    for confirmed in [MANY, 1, 0] {
        let mut raw = broker.connect();
        raw.write(&of_channels(&["SUBSCRIBE"], MANY));
        confirmations(&mut raw, "subscribe", 1..=confirmed);
        drop(raw);
        wait_until("all is left", || channels(&redis) == "*0\r\n");
        other.expect("PUBLISH c0 m", ":0\r\n");
    }
}

/// Many children at once: those who end, those who are killed, a connection that all of them waited on.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn what_concerns_all_children_is_cut() {
    raise_open_files();
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[("children_max", "3000")]);
    let mut children: Vec<Raw> = (0..2_000).map(|_| broker.connect()).collect();
    let ask = |children: &mut [Raw], line: &str, reply: &str| {
        children.iter_mut().for_each(|child| child.send(line));
        children.iter_mut().for_each(|child| assert!(child.read_text().starts_with(reply), "{line}"));
    };
    ask(&mut children, "SET k v", "+OK");
    redis.kill();
    ask(&mut children, "CLIENT ID", ":");
    children.iter_mut().for_each(|child| child.send("GET k"));
    redis.restart();
    children.iter_mut().for_each(|child| assert_eq!(child.read_text(), "$-1\r\n"));
    let mut killer = broker.connect();
    killer.expect("CLIENT KILL TYPE normal SKIPME yes", ":2000\r\n");
    assert!(children.iter_mut().all(Raw::is_closed));
    let mut children: Vec<Raw> = (0..2_000).map(|_| broker.connect()).collect();
    ask(&mut children, "GET k", "$-1");
    let pace = broker.pace();
    children.iter_mut().for_each(|child| child.send("SET k v"));
    broker.term();
    children.iter_mut().for_each(|child| assert_eq!(child.read_text(), "+OK\r\n"));
    assert!(children.iter_mut().all(Raw::is_closed));
    assert_eq!(broker.wait_exit(PATIENCE).code(), Some(0));
    assert!(pace.is_some());
}

#[test]
fn a_very_long_transaction_is_sent_at_once() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let (mut raw, count) = (broker.connect(), 50_000);
    raw.expect("MULTI", "+OK\r\n");
    raw.write(&request(&["INCR", "n"]).repeat(count));
    (0..count).for_each(|_| assert_eq!(raw.read_text(), "+QUEUED\r\n"));
    raw.send("EXEC");
    let wanted: String = (1..=count).map(|number| format!(":{number}\r\n")).collect();
    assert_eq!(raw.read_text(), format!("*{count}\r\n{wanted}"));
}
