//! What a hostile child or a badly timed loss upstream may try: focused cases, most of them once found by
//! chance, and the bounds of sheer mass.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::raw::pipeline;
use crate::support::{self, Broker, End, Proxy, Redis, request, upstream_clients, wait_until};

const LOST: &str =
    "-BROKERLOST upstream connection lost before the reply; the command may have been executed\r\n";

/// Hangs up on the broker's connections of this name, on Redis' side.
fn kill_named(redis: &Redis, name: &str) {
    let mut raw = redis.connect();
    for client in support::redis::list_clients(&mut raw) {
        if client.name() == name {
            raw.ask(&format!("CLIENT KILL ID {}", client.field("id")));
        }
    }
}

/// A WATCH lost with its connection is not made good by a later one: the first key may have been written.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_lost_watch_outlives_a_new_one() {
    for transactions in ["shared", "leased"] {
        let redis = Redis::start();
        let broker = Broker::start(&redis, &[("transactions", transactions)]);
        let mut raw = broker.connect();
        raw.expect("WATCH a", "+OK\r\n");
        kill_named(&redis, "broker-lease");
        redis.ask("SET a theirs");
        raw.expect("WATCH b", "+OK\r\n");
        raw.expect("MULTI", "+OK\r\n");
        raw.expect("SET a mine", "+QUEUED\r\n");
        raw.expect("EXEC", "*-1\r\n");
        raw.expect("GET a", "$6\r\ntheirs\r\n");
        raw.expect("MULTI", "+OK\r\n");
        raw.expect("SET a mine", "+QUEUED\r\n");
        raw.expect("EXEC", "*1\r\n+OK\r\n");
    }
}

/// The same where a new WATCH does not come between: MULTI alone.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_lost_watch_aborts_a_leased_transaction() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("transactions", "leased")]);
    let mut raw = broker.connect();
    raw.expect("WATCH a", "+OK\r\n");
    kill_named(&redis, "broker-lease");
    raw.write(&pipeline(&["MULTI", "SET a mine", "EXEC"]));
    assert_eq!([raw.read_text(), raw.read_text(), raw.read_text()], ["+OK\r\n", "+QUEUED\r\n", "*-1\r\n"]);
    raw.expect("UNWATCH", "+OK\r\n");
    raw.write(&pipeline(&["MULTI", "SET a mine", "EXEC"]));
    assert_eq!(
        [raw.read_text(), raw.read_text(), raw.read_text()],
        ["+OK\r\n", "+QUEUED\r\n", "*1\r\n+OK\r\n"]
    );
}

/// An EXEC that was lost has ended its WATCH: the next transaction has nothing to do with it.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_lost_exec_does_not_abort_the_next_transaction() {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis);
    let broker = Broker::start_at(proxy.socket(), &[]);
    for last in ["EXEC", "DISCARD"] {
        let mut raw = broker.connect();
        raw.write(&pipeline(&["WATCH k", "MULTI", "ECHO in"]));
        assert_eq!(
            [raw.read_text(), raw.read_text(), raw.read_text()],
            ["+OK\r\n", "+OK\r\n", "+QUEUED\r\n"]
        );
        proxy.hold("broker-lease", true);
        raw.send(last);
        proxy.wait_sent("broker-lease", last.as_bytes());
        proxy.inject("broker-lease", b"?\r\n");
        assert_eq!(raw.read_text(), LOST, "{last}");
        raw.write(&pipeline(&["MULTI", "ECHO out", "EXEC"]));
        assert_eq!(
            [raw.read_text(), raw.read_text(), raw.read_text()],
            ["+OK\r\n", "+QUEUED\r\n", "*1\r\n$3\r\nout\r\n"]
        );
    }
}

/// Bytes that a child has sent and the broker has not run.
fn unrun(broker: &Broker, id: &str) -> u64 {
    let list = broker.connect().ask(&format!("CLIENT LIST ID {id}"));
    let field = list.split_whitespace().find_map(|field| field.strip_prefix("qbuf="));
    field.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no qbuf: {list}"))
}

/// A child that may not write more until its leased lane owes less is told when that lane dies.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_child_held_by_a_lane_that_dies_goes_on() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("queue_timeout", "200")]);
    let mut raw = broker.connect();
    wait_until("it has a lease", || raw.ask("WATCH k") == "+OK\r\n");
    let id = raw.ask("CLIENT ID").trim_matches([':', '\r', '\n']).to_owned();
    redis.stop();
    let value = "v".repeat(1024 * 1024);
    let mut writer = raw.writer();
    let sender = std::thread::spawn(move || {
        let set = request(&["SET", "k", &value]);
        (0..8).all(|_| writer.try_write(&set).is_ok())
    });
    wait_until("a whole request is left unsent", || unrun(&broker, &id) > 1024 * 1024);
    redis.kill();
    for number in 0..8 {
        let reply = raw.read_text();
        assert!(reply.starts_with("-BROKERLOST ") || reply.starts_with("-BROKERDOWN "), "{number}: {reply}");
    }
    assert!(sender.join().expect("the sender"));
}

/// A lease taken back, its CLIENT UNBLOCK not answered yet, dies while others have had what it was taken back for.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_lease_taken_back_dies_alone() {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis);
    let settings = [("leases_blocking_max", "2"), ("lease_wait_timeout", "15s")];
    let broker = Broker::start_at(proxy.socket(), &settings);
    let blocking = || -> Vec<String> {
        let clients = upstream_clients(&redis).into_iter();
        let blocked = clients.filter(|client| client.field("flags").contains('b'));
        blocked.map(|client| client.field("id").to_owned()).collect()
    };
    let blocked = || blocking().len();
    let mut first = broker.connect();
    first.send("BLPOP x 0");
    wait_until("the first blocks", || blocked() == 1);
    let mut second = broker.connect();
    second.send("BLPOP x 0");
    wait_until("the second blocks", || blocked() == 2);
    let mut leases = blocking();
    proxy.hold("broker-control", true);
    let mut third = broker.connect();
    third.send("BLPOP y 0");
    wait_until("the youngest is unblocked", || blocked() == 1);
    let kept = blocking();
    leases.retain(|id| !kept.contains(id));
    redis.ask("RPUSH x for-first");
    assert!(first.read_text().contains("for-first"));
    // The lane of the first goes to the one that waits for y; that of the second rests until the answer comes.
    wait_until("the third blocks", || blocked() == 1);
    redis.ask("RPUSH y for-third");
    assert!(third.read_text().contains("for-third"));
    redis.ask(&format!("CLIENT KILL ID {}", leases[0]));
    wait_until("the second blocks again", || blocked() == 1);
    proxy.hold("broker-control", false);
    redis.ask("RPUSH x for-second");
    assert!(second.read_text().contains("for-second"));
    let mut both = [broker.connect(), broker.connect()];
    both.iter_mut().for_each(|raw| raw.send("BLPOP z 0"));
    wait_until("both leases are free again", || blocked() == 2);
    redis.ask("RPUSH z e e");
    both.iter_mut().for_each(|raw| assert_eq!(raw.read_text(), "*2\r\n$1\r\nz\r\n$1\r\ne\r\n"));
}

/// Whatever a script returns, the lane it shares lives on: Redis sends it, so it is a reply.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn no_script_breaks_its_lane() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let nested = |depth| format!("local t={{}} for i=2,{depth} do t={{t}} end return t");
    let scripts = [
        nested(64),
        nested(200),
        nested(7900),
        nested(20_000),
        "return {ok=string.rep('x',2000000)}".into(),
        "return {err=string.rep('x',2000000)}".into(),
        "return {ok='a\\r\\n+b'}".into(),
        "return {big_number='not one'}".into(),
        "return {big_number=''}".into(),
        "return {big_number=string.rep('1',100000)}".into(),
        "return {double=-(0/0)}".into(),
        "return {verbatim_string={format='longer', string=''}}".into(),
        "return {map={a={map={}}, b={set={}}}}".into(),
    ];
    for proto in ["2", "3"] {
        for script in &scripts {
            let (mut brokered, mut direct) = (broker.connect(), redis.connect_plain());
            let bytes =
                [request(&["HELLO", proto]), request(&["EVAL", script, "0"]), request(&["ECHO", "end"])];
            let replies = [&mut direct, &mut brokered].map(|raw| {
                raw.write(&bytes.concat());
                raw.read_reply();
                raw.read_past(b"$3\r\nend\r\n").0
            });
            assert!(replies[0] == replies[1], "RESP{proto}: {script}: {}", support::show(&replies[1]));
        }
    }
    assert!(!broker.log().contains("out of step"));
}

/// What the broker answers itself waits for the replies before it, but not without bound.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn local_replies_behind_a_stalled_one_are_bounded() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("lane_stall_timeout", "0")]);
    let mut raw = broker.connect();
    raw.expect("GET k", "$-1\r\n");
    let before = support::resident_kib(broker.pid());
    redis.stop();
    raw.send("GET k");
    let mut writer = raw.writer();
    let text = "e".repeat(1024 * 1024);
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let sender = std::thread::spawn(move || {
        let echo = request(&["ECHO", &text]);
        (0..200).all(|_| writer.try_write(&echo).is_ok_and(|()| count.fetch_add(1, Ordering::SeqCst) < 200))
    });
    support::wait_still("no more is read of it", || sent.load(Ordering::SeqCst));
    let grown = support::resident_kib(broker.pid()).saturating_sub(before);
    redis.cont();
    // A child that does not take its replies is read ahead by 64 MiB, and no more of it is run.
    assert!(grown < 96 * 1024, "{grown} KiB are held for one child");
    assert_eq!(raw.read_text(), "$-1\r\n");
    for _ in 0..200 {
        assert_eq!(raw.read_reply().len(), 1024 * 1024 + 12);
    }
    assert!(sender.join().expect("the sender"));
}

/// Ten thousand channels in one command, every one confirmed, and left again.
#[test]
fn ten_thousand_channels_in_one_command() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let names: Vec<String> = (0..10_000).map(|number| format!("channel:{number}")).collect();
    let mut args = vec!["SUBSCRIBE"];
    args.extend(names.iter().map(String::as_str));
    let mut raw = broker.connect();
    raw.write(&request(&args));
    for (number, name) in names.iter().enumerate() {
        let wanted = format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{name}\r\n:{}\r\n", name.len(), number + 1);
        assert_eq!(raw.read_text(), wanted);
    }
    raw.write(&pipeline(&["UNSUBSCRIBE", "ECHO end"]));
    for _ in &names {
        assert!(raw.read_text().starts_with("*3\r\n$11\r\nunsubscribe\r\n"));
    }
    assert_eq!(raw.read_text(), "$3\r\nend\r\n");
}

/// EXEC of ten thousand commands, in one write and one at a time, on a shared and on a leased lane.
#[test]
fn ten_thousand_commands_in_one_transaction() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    let commands = ["INCR k"; 10_000];
    for (round, first) in ["PING", "WATCH w", "PING"].iter().enumerate() {
        raw.ask(first);
        let whole = [pipeline(&["MULTI"]), pipeline(&commands), pipeline(&["EXEC"])].concat();
        if round == 2 {
            raw.expect("MULTI", "+OK\r\n");
            commands.iter().for_each(|command| raw.expect(command, "+QUEUED\r\n"));
            raw.send("EXEC");
        } else {
            let mut writer = raw.writer();
            let sender = std::thread::spawn(move || writer.write(&whole));
            assert_eq!(raw.read_text(), "+OK\r\n");
            commands.iter().for_each(|_| assert_eq!(raw.read_text(), "+QUEUED\r\n"));
            sender.join().expect("the sender");
        }
        let values = (1..=commands.len()).map(|number| format!(":{}\r\n", round * commands.len() + number));
        assert!(raw.read_text() == format!("*10000\r\n{}", values.collect::<String>()), "round {round}");
    }
}

/// What the broker answers itself in a transaction is put in its place in one pass. A look from the start for each
/// would have taken minutes here.
#[test]
fn forty_thousand_answers_of_the_brokers_in_one_transaction() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    let id = raw.ask("CLIENT ID");
    let commands = ["CLIENT ID", "GET k"].repeat(20_000);
    raw.write(&[pipeline(&["MULTI"]), pipeline(&commands), pipeline(&["EXEC"])].concat());
    assert_eq!(raw.read_text(), "+OK\r\n");
    commands.iter().for_each(|_| assert_eq!(raw.read_text(), "+QUEUED\r\n"));
    assert!(raw.read_text() == format!("*40000\r\n{}", format!("{id}$-1\r\n").repeat(20_000)));
}

/// The same of the databases it asks for, of which the last that there is holds.
#[test]
fn forty_thousand_databases_in_one_transaction() {
    let twin = support::Twin::start();
    let mut pair = twin.pair();
    for raw in [&mut pair.direct, &mut pair.brokered] {
        let commands = [vec!["SELECT 3"], vec!["SELECT 99"; 40_000]].concat();
        raw.write(&[pipeline(&["MULTI"]), pipeline(&commands), pipeline(&["EXEC", "SET k v"])].concat());
        assert_eq!(raw.read_text(), "+OK\r\n");
        commands.iter().for_each(|_| assert_eq!(raw.read_text(), "+QUEUED\r\n"));
        let refused = "-ERR DB index is out of range\r\n".repeat(40_000);
        assert!(raw.read_text() == format!("*40001\r\n+OK\r\n{refused}"));
        assert_eq!(raw.read_text(), "+OK\r\n");
        assert!(raw.ask("CLIENT INFO").contains(" db=3 "));
    }
}

/// Requests that fill `memory_max` on a lane whose upstream takes nothing: once it does, the child is answered or told.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_lane_full_of_one_childs_requests_leaves_nobody_waiting() {
    for (earlier, junk) in [(450, 500), (600, 420), (300, 600), (700, 300)] {
        let redis = Redis::start();
        let settings = [("memory_max", "1MiB"), ("lane_stall_timeout", "0"), ("queue_timeout", "200ms")];
        let broker = Broker::start(&redis, &settings);
        let mut raw = broker.connect();
        wait_until("it has a lease", || raw.ask("WATCH k") == "+OK\r\n");
        redis.stop();
        // Either may make it the largest offender, and be cut off.
        let _ = raw.try_write(&request(&["SET", "k", &"v".repeat(earlier * 1024)]));
        let _ = raw.try_write(&request(&["SELECT", &"9".repeat(junk * 1024)]));
        let _ = raw.try_write(&request(&["ECHO", "on"]));
        redis.cont();
        for _ in 0..3 {
            match raw.try_reply() {
                Ok(reply) => assert!(b"+-$".contains(&reply[0]), "{}", support::show(&reply)),
                Err(End::Closed) => break,
                Err(End::Silent) => panic!("nothing after {earlier} and {junk} KiB:\n{}", broker.log()),
            }
        }
    }
}
