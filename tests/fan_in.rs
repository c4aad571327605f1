//! Many children that wait for the same on a few leased lanes: how many there are, whose an element is, what a null says,
//! and that no element is lost or given twice, whoever dies.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::support::raw::pipeline;
use crate::support::{
    Broker, End, Raw, Redis, Twin, list_clients, raise_open_files, seeded, upstream_clients, wait_until,
    wait_within,
};

const LOST: &str =
    "-BROKERLOST upstream connection lost before the reply; the command may have been executed\r\n";

fn leases(redis: &Redis) -> usize {
    upstream_clients(redis).iter().filter(|client| client.name() == "broker-lease").count()
}

fn blocked(redis: &Redis) -> usize {
    upstream_clients(redis).iter().filter(|client| client.field("flags").contains('b')).count()
}

/// How many children wait, as the broker tells.
fn waiting(broker: &Broker) -> usize {
    list_clients(&mut broker.connect()).iter().filter(|client| client.field("flags").contains('b')).count()
}

/// The element of a reply to BRPOP.
fn element(reply: &str) -> &str {
    reply.split("\r\n").nth(4).unwrap_or_else(|| panic!("no element: {reply:?}"))
}

fn workers(broker: &Broker, count: usize, line: &str) -> Vec<Raw> {
    let mut workers: Vec<Raw> = (0..count).map(|_| broker.connect()).collect();
    workers.iter_mut().for_each(|raw| raw.send(line));
    wait_within("all of them wait", Duration::from_secs(60), || waiting(broker) >= count);
    workers
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_thousand_workers_share_four_connections() {
    const WORKERS: usize = 1000;
    raise_open_files();
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("children_max", "2000")]);
    let mut workers = workers(&broker, WORKERS, "BRPOP q 0");
    wait_until("four wait in Redis", || blocked(&redis) == 4);
    assert_eq!(leases(&redis), 4);
    let mut pusher = broker.connect();
    let lines: Vec<String> = (0..WORKERS).map(|element| format!("LPUSH q {element}")).collect();
    pusher.write(&pipeline(&lines.iter().map(String::as_str).collect::<Vec<_>>()));
    (0..WORKERS).for_each(|_| assert!(pusher.read_text().starts_with(':')));
    let mut seen = HashSet::new();
    for (rank, raw) in workers.iter_mut().enumerate() {
        let reply = raw.read_text();
        let number: usize = element(&reply).parse().expect("a number");
        assert!(seen.insert(number), "{number} was given twice");
        // Arrival, displaced by fewer than there are leases.
        assert!(number.abs_diff(rank) < 4, "waiter {rank} was given {number}");
    }
    assert!(leases(&redis) <= 4);
    assert_eq!(redis.ask("LLEN q"), ":0\r\n");
}

/// With one lease the order of arrival is exact, and what else differs makes another group.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn what_differs_in_a_byte_waits_for_itself() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("leases_per_group_max", "1")]);
    let mut same: Vec<Raw> = Vec::new();
    for (index, line) in ["BLPOP q 0", "BLPOP q 30", "BLPOP q 0.5e2"].into_iter().enumerate() {
        let mut raw = broker.connect();
        raw.send(line);
        wait_until("it waits", || waiting(&broker) == index + 1);
        same.push(raw);
    }
    wait_until("one of them waits in Redis", || blocked(&redis) == 1);
    let (mut other, mut resp3, mut db) = (broker.connect(), broker.connect_resp3(), broker.connect());
    other.send("blpop q 0");
    resp3.send("BLPOP q 0");
    db.expect("SELECT 1", "+OK\r\n");
    db.send("BLPOP q 0");
    let mut pop = broker.connect();
    pop.send("BLPOP q r 0");
    wait_until("each other one waits for itself", || blocked(&redis) == 5);
    for (index, raw) in same.iter_mut().enumerate() {
        redis.ask(&format!("RPUSH q {index}"));
        // Those of other groups have come later, and each lane serves one at a time.
        if index == 0 {
            assert_eq!(element(&raw.read_text()), "0");
        }
    }
    let mut others = [other.read_text(), resp3.read_text()];
    others.sort();
    assert_eq!(others.each_ref().map(|reply| element(reply).to_owned()), ["1", "2"]);
    redis.ask("RPUSH q 3 4 5");
    assert_eq!(element(&pop.read_text()), "3");
    let left: Vec<String> = same[1..].iter_mut().map(|raw| element(&raw.read_text()).to_owned()).collect();
    assert_eq!(left, ["4", "5"], "of one group in the order in which they came");
    assert!(db.is_silent(Duration::from_millis(50)));
}

/// Timeouts are each waiter's own, and those without one go on.
#[test]
fn each_has_its_own_timeout() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut patient = workers(&broker, 20, "BLPOP q 0");
    let begun = Instant::now();
    let mut hasty: Vec<Raw> = (0..40).map(|_| broker.connect()).collect();
    for (index, raw) in hasty.iter_mut().enumerate() {
        raw.send(&format!("BLPOP q 0.{}", 1 + index % 4));
    }
    for (index, raw) in hasty.iter_mut().enumerate() {
        assert_eq!(raw.read_text(), "*-1\r\n");
        let least = Duration::from_millis(100 * (1 + index as u64 % 4));
        assert!(begun.elapsed() >= least, "{index} was told after {:?}", begun.elapsed());
    }
    let mut pusher = broker.connect();
    for (index, raw) in patient.iter_mut().enumerate() {
        pusher.ask(&format!("RPUSH q {index}"));
        assert!(raw.read_text().starts_with("*2\r\n$1\r\nq\r\n"));
    }
}

/// A null where CLIENT UNBLOCK cannot be had: the command is looked at inside a MULTI, in all its forms.
#[test]
fn a_null_is_told_after_a_look() {
    let twin = Twin::start_with(&[], &[("leases_blocking_max", "0"), ("lease_wait_timeout", "20s")]);
    for resp3 in [false, true] {
        let mut pair = if resp3 { twin.pair_resp3() } else { twin.pair() };
        pair.same("FLUSHALL");
        for line in [
            "BLPOP none 0.02",
            "BRPOPLPUSH none x 0.02",
            "BLMOVE none x LEFT RIGHT 0.02",
            "BLMPOP 0.02 1 none LEFT",
            "BZPOPMIN none 0.02",
            "BZMPOP 0.02 1 none MIN",
            "XREAD BLOCK 20 STREAMS none $",
            "RPUSH l a b c",
            "ZADD z 1 m",
            "BLPOP none l 0.02",
            "BLMOVE l x LEFT RIGHT 0.02",
            "BZPOPMAX z 0.02",
            "BZPOPMAX l 0.02",
            "LRANGE l 0 -1",
        ] {
            pair.same(line);
        }
    }
}

/// The upstream's user loses CLIENT UNBLOCK, or MULTI: one of the two is enough. Without both nobody says null.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn without_a_right_there_is_another_way() {
    for (rights, told) in [
        ("-client|unblock", "*-1\r\n"),
        ("-multi", "*-1\r\n"),
        ("-client|unblock -multi", "-NOPERM this user has no permissions to run the 'multi' command\r\n"),
    ] {
        let redis = Redis::start();
        redis.connect().expect(&format!("ACL SETUSER meek on >pw ~* &* +@all {rights}"), "+OK\r\n");
        let settings = [
            ("upstream_username", "meek"),
            ("upstream_password", "pw"),
            ("leases_per_group_max", "1"),
            ("lease_wait_timeout", "300"),
        ];
        let broker = Broker::start(&redis, &settings);
        let (mut patient, mut hasty) = (broker.connect(), broker.connect());
        patient.send("BLPOP q 0");
        wait_until("one waits in Redis", || blocked(&redis) == 1);
        hasty.send("BLPOP q 0.05");
        assert_eq!(hasty.read_text(), told, "{rights}");
        redis.ask("RPUSH q e");
        assert_eq!(patient.read_text(), "*2\r\n$1\r\nq\r\n$1\r\ne\r\n", "{rights}");
    }
}

/// An error is one waiter's; the others go on.
#[test]
fn an_error_is_the_waiters_own() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("leases_per_group_max", "2")]);
    redis.ask("SET q text");
    let mut told = 0;
    for _ in 0..5 {
        told += usize::from(broker.connect().ask("BLPOP q 0").starts_with("-WRONGTYPE "));
    }
    assert_eq!(told, 5);
    redis.ask("DEL q");
    let mut workers = workers(&broker, 5, "BLPOP q 0");
    redis.ask("RPUSH q 0 1 2 3 4");
    let mut seen: Vec<String> = workers.iter_mut().map(|raw| element(&raw.read_text()).to_owned()).collect();
    seen.sort();
    assert_eq!(seen, ["0", "1", "2", "3", "4"]);
}

/// CLIENT UNBLOCK and KILL are about a waiter, never about the lane that others share with it.
#[test]
fn unblock_and_kill_act_on_the_waiter() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("leases_per_group_max", "2")]);
    let mut asker = broker.connect();
    let mut crowd: VecDeque<(String, Raw)> = VecDeque::new();
    for index in 0..6 {
        let mut raw = broker.connect();
        let id = raw.ask("CLIENT ID").trim().trim_start_matches(':').to_owned();
        raw.send("BLPOP q 0");
        wait_until("it waits", || waiting(&broker) == index + 1);
        crowd.push_back((id, raw));
    }
    let unblocked = "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n";
    for (index, reason, told) in
        [(4, "TIMEOUT", "*-1\r\n"), (3, "ERROR", unblocked), (0, "TIMEOUT", "*-1\r\n")]
    {
        let (id, mut raw) = crowd.remove(index).expect("one of the crowd");
        asker.expect(&format!("CLIENT UNBLOCK {id} {reason}"), ":1\r\n");
        assert_eq!(raw.read_text(), told);
        asker.expect(&format!("CLIENT UNBLOCK {id}"), ":0\r\n");
    }
    let (id, mut raw) = crowd.remove(1).expect("one of the crowd");
    asker.expect(&format!("CLIENT KILL ID {id}"), ":1\r\n");
    assert!(raw.is_closed());
    asker.expect("RPUSH q first second third", ":3\r\n");
    for ((_, raw), wanted) in crowd.iter_mut().zip(["first", "second"]) {
        assert!(raw.read_text().contains("q"), "{wanted}");
    }
    asker.expect("LLEN q", ":1\r\n");
}

/// Workers come, pop, die and time out; Redis is killed and comes back. What was pushed has come to one worker, is there, or
/// may be lost with a worker that died or was told so.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn workers_that_die_and_a_redis_that_restarts_double_nothing() {
    let redis = Redis::start_durable();
    let broker = Broker::start(&redis, &[("queue_timeout", "20s"), ("lease_wait_timeout", "20s")]);
    let (mut rng, mut pusher) = (seeded(), redis.connect());
    let mut crowd: Vec<Raw> = workers(&broker, 60, "BRPOP q 0");
    let (mut pushed, mut may_be_lost) = (0, 0);
    let mut given: HashSet<String> = HashSet::new();
    for round in 0..30 {
        if round % 5 == 4 {
            // More than there are workers: lanes take many of them at once.
            let many: String = (pushed..pushed + 150).map(|number| format!(" e{number}")).collect();
            push(&mut pusher, &format!("LPUSH q{many}"));
            pushed += 150;
            may_be_lost += take_turns(&mut crowd, &mut given);
        }
        if round % 10 == 9 {
            redis.kill();
            redis.restart();
            pusher = redis.connect();
        }
        for _ in 0..rng.usize(1..15) {
            push(&mut pusher, &format!("LPUSH q e{pushed}"));
            pushed += 1;
        }
        for _ in 0..rng.usize(..4) {
            // Whatever was on its way to it goes with it.
            drop(crowd.swap_remove(rng.usize(..crowd.len())));
            may_be_lost += 1;
            let mut raw = broker.connect();
            raw.send(if rng.bool() { "BRPOP q 0" } else { "BRPOP q 0.2" });
            crowd.push(raw);
        }
        may_be_lost += take_turns(&mut crowd, &mut given);
    }
    let last: String = (0..crowd.len()).map(|number| format!(" last{number}")).collect();
    push(&mut pusher, &format!("LPUSH q{last}"));
    let deadline = Instant::now() + Duration::from_secs(60);
    while given.iter().filter(|element| element.starts_with("last")).count() == 0 {
        assert!(Instant::now() < deadline, "nobody is served any more");
        may_be_lost += take_turns(&mut crowd, &mut given);
    }
    let left = redis.ask("LRANGE q 0 -1");
    let left = left.split("\r\n").filter(|part| part.starts_with('e')).count();
    let served = given.iter().filter(|element| element.starts_with('e')).count();
    let missing = pushed - served.min(pushed) - left;
    assert!(missing <= may_be_lost, "{missing} of {pushed} are missing, {may_be_lost} may be");
}

/// Once Redis has read its file.
fn push(pusher: &mut Raw, line: &str) {
    wait_until("it is pushed", || {
        let reply = pusher.ask(line);
        assert!(reply.starts_with(':') || reply.starts_with("-LOADING "), "{reply}");
        reply.starts_with(':')
    });
}

/// Reads what has come; whoever is answered asks again. Returns how many were told that an element may be lost.
fn take_turns(crowd: &mut [Raw], given: &mut HashSet<String>) -> usize {
    let mut lost = 0;
    for raw in crowd {
        raw.set_patience(Duration::from_millis(1));
        match raw.try_reply() {
            Err(End::Closed) => panic!("a worker was closed"),
            Err(_) => continue,
            Ok(reply) => {
                let text = String::from_utf8_lossy(&reply).into_owned();
                if text == LOST {
                    lost += 1;
                } else if text != "*-1\r\n" && !text.starts_with("-LOADING ") {
                    assert!(given.insert(element(&text).to_owned()), "given twice: {text}");
                }
                raw.send("BRPOP q 0");
            }
        }
    }
    lost
}
