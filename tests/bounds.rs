//! Each bound reached, and what is said to happen there seen to happen: to the one that reached it, and to
//! nobody else.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::raw::pipeline;
use crate::support::redis::list_clients;
use crate::support::wait_until;
use crate::support::{
    self, Broker, End, Raw, Redis, raise_open_files, request, resident_kib, upstream_clients,
};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// A bystander's traffic: every reply must be its own, whatever goes on beside it.
fn bystander_is_fine(broker: &Broker, rounds: usize) {
    let mut raw = broker.connect();
    for round in 0..rounds {
        let nonce = format!("bystander-{round}");
        let bulk = format!("${}\r\n{nonce}\r\n", nonce.len());
        raw.write(&pipeline(&[&format!("SET bystander {nonce}"), "GET bystander", &format!("ECHO {nonce}")]));
        assert_eq!(raw.read_text(), "+OK\r\n");
        assert_eq!(raw.read_text(), bulk);
        assert_eq!(raw.read_text(), bulk);
    }
}

/// Sends until the peer takes no more for a while: a child that asks and does not read.
fn flood(raw: &Raw, bytes: &[u8], times: usize) {
    let mut writer = raw.writer();
    for _ in 0..times {
        if writer.try_write(bytes).is_err() {
            return;
        }
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn children_max_answers_as_redis_does() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("children_max", "5")]);
    let mut children: Vec<Raw> = (0..5).map(|_| broker.connect()).collect();
    children.iter_mut().for_each(|raw| raw.expect("PING", "+PONG\r\n"));
    for _ in 0..3 {
        let (bytes, end) = broker.connect().read_all();
        assert_eq!(String::from_utf8_lossy(&bytes), "-ERR max number of clients reached\r\n");
        assert_eq!(end, End::Closed);
    }
    let (uid, pid) = (rustix::process::geteuid().as_raw(), std::process::id());
    let told = format!("children_max is 5: refused 1 more; of 5 children uid {uid}: 5 (5 of pid {pid}");
    wait_until("it is said in the log", || broker.log().contains(&told));
    assert_eq!(broker.log().matches("children_max is 5").count(), 1, "{}", broker.log());
    children.iter_mut().for_each(|raw| raw.expect("GET none", "$-1\r\n"));
    children.pop();
    wait_until("the place is free again", || {
        let mut raw = broker.connect();
        let served = raw.try_write(b"PING\r\n").is_ok();
        served && raw.try_reply().is_ok_and(|reply| reply == b"+PONG\r\n")
    });
}

/// Above its requests in flight a child is not read; all the same the whole flood is answered, in order.
#[test]
fn child_in_flight_max_holds_back_one_child_only() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("child_in_flight_max", "16")]);
    let mut raw = broker.connect();
    raw.expect("SET n 0", "+OK\r\n");
    let bytes = pipeline(&vec!["INCR n"; 30_000]);
    std::thread::scope(|scope| {
        let mut writer = raw.writer();
        let bytes = &bytes;
        scope.spawn(move || writer.write(bytes));
        scope.spawn(|| bystander_is_fine(&broker, 200));
        for number in 1..=30_000 {
            assert_eq!(raw.read_text(), format!(":{number}\r\n"));
        }
    });
}

/// A request larger than allowed is refused and takes only its own child along.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn child_input_max_refuses_one_request() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("child_input_max", "1MiB")]);
    let mut raw = broker.connect();
    raw.call(&["SET", "fits", &"x".repeat(900_000)]);
    raw.expect("STRLEN fits", ":900000\r\n");
    let mut one = broker.connect();
    let _ = one.try_write(&request(&["SET", "large", &"x".repeat(3_000_000)]));
    let (bytes, end) = one.read_all();
    assert!(bytes.starts_with(b"-") && end == End::Closed, "{end:?} after {}", support::show(&bytes));
    // The same in many small arguments.
    let mut many = broker.connect();
    let elements = vec!["0123456789"; 200_000];
    let args: Vec<&str> = ["RPUSH", "large"].into_iter().chain(elements).collect();
    let _ = many.try_write(&request(&args));
    let (bytes, end) = many.read_all();
    assert!(bytes.starts_with(b"-") && end == End::Closed, "{end:?} after {}", support::show(&bytes));
    raw.expect("EXISTS large", ":0\r\n");
    bystander_is_fine(&broker, 50);
}

/// A child that does not read its replies is closed at its limit; nobody waits for it.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn child_output_max_closes_a_deaf_child() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("child_output_max", "2MiB")]);
    let mut raw = broker.connect();
    // So large that those asked for before it is known are too many.
    raw.call(&["SET", "big", &"x".repeat(1_000_000)]);
    let mut deaf = broker.connect();
    std::thread::scope(|scope| {
        let gets = pipeline(&vec!["GET big"; 100]);
        let deaf = &deaf;
        scope.spawn(move || flood(deaf, &gets, 5));
        scope.spawn(|| bystander_is_fine(&broker, 300));
    });
    wait_until("its end is noted", || broker.log().contains("child_output_max"));
    let (bytes, end) = deaf.read_all();
    assert_eq!(end, End::Closed);
    assert!(bytes.len() < 500 * 1_000_000, "it was closed before the last reply");
    raw.expect("STRLEN big", ":1000000\r\n");
    bystander_is_fine(&broker, 50);
}

/// A client library writes a whole pipeline before it reads the first reply, however large the replies are.
#[test]
fn a_whole_pipeline_may_be_written_before_a_reply_is_read() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    raw.call(&["SET", "value", &"x".repeat(1_000)]);
    let mut many = request(&["GET", "value"]).repeat(50_000);
    many.extend(request(&["ECHO", "end"]));
    raw.write(&many);
    for _ in 0..50_000 {
        assert_eq!(raw.read_reply().len(), 1_000 + "$1000\r\n\r\n".len());
    }
    assert_eq!(raw.read_text(), "$3\r\nend\r\n");
}

/// However many bytes of requests stand behind a reply that nobody has read yet: what Redis takes, the broker takes.
#[test]
fn a_large_pipeline_behind_a_large_reply_is_taken() {
    let twin = support::Twin::start();
    let mut pair = twin.pair();
    pair.same("SETRANGE big 3145728 x");
    let set = request(&["SET", "w", &"y".repeat(1 << 20)]);
    for raw in [&mut pair.direct, &mut pair.brokered] {
        raw.write(&pipeline(&["GET big"]));
        (0..100).for_each(|_| raw.write(&set));
        assert_eq!(raw.read_reply().len(), 3_145_729 + "$3145729\r\n\r\n".len());
        (0..100).for_each(|_| assert_eq!(raw.read_text(), "+OK\r\n"));
    }
}

/// A child that waits for an element may be in the middle of a write, before whoever it is makes the element.
#[test]
fn a_large_pipeline_behind_a_blocked_command_is_taken() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    raw.send("BLPOP q 0");
    let set = request(&["SET", "w", &"y".repeat(1 << 20)]);
    (0..30).for_each(|_| raw.write(&set));
    broker.connect().expect("RPUSH q e", ":1\r\n");
    assert_eq!(raw.read_text(), "*2\r\n$1\r\nq\r\n$1\r\ne\r\n");
    (0..30).for_each(|_| assert_eq!(raw.read_text(), "+OK\r\n"));
}

/// How far a child that takes no replies is read ahead has its bound. Beyond it the child is told, behind the replies
/// it is owed, and the log names it; nobody else notices.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_read_ahead_of_a_deaf_child_is_bounded() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("child_input_max", "1MiB")]);
    let mut raw = broker.connect();
    let id = raw.ask("CLIENT ID")[1..].trim_end().to_owned();
    let echo = request(&["ECHO", &"x".repeat(100_000)]);
    std::thread::scope(|scope| {
        let mut writer = raw.writer();
        let sender = scope.spawn(move || (0..1_500).for_each(|_| writer.write(&echo)));
        wait_until("it is read ahead", || resident_kib(broker.pid()) > 64 * 1024);
        bystander_is_fine(&broker, 200);
        assert!(resident_kib(broker.pid()) < 144 * 1024, "and no further than the bound");
        sender.join().expect("it is not left in the middle of its write");
    });
    let mut reply = raw.read_reply();
    while reply.starts_with(b"$") {
        assert_eq!(reply.len(), 100_000 + "$100000\r\n\r\n".len());
        reply = raw.read_reply();
    }
    let told = "-BROKERLIMIT child_input_max is 1048576 bytes, and requests waited beyond it\r\n";
    assert_eq!(String::from_utf8_lossy(&reply), told);
    assert!(raw.is_closed());
    let logged = format!("child_input_max reached: closing child {id} ");
    wait_until("it is said in the log", || broker.log().contains(&logged));
}

/// All buffers together: at the cap the largest offender goes, and the log names it.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn memory_max_closes_the_largest_offender() {
    let redis = Redis::start();
    let settings = [("memory_max", "32MiB"), ("child_output_max", "1GiB")];
    let broker = Broker::start(&redis, &settings);
    let mut raw = broker.connect();
    raw.call(&["SET", "small", &"x".repeat(1_000_000)]);
    raw.call(&["SET", "big", &"x".repeat(12_000_000)]);
    // One that holds a little, and one that takes all it can.
    let mut small = broker.connect();
    small.write(&pipeline(&["GET small"; 3]));
    let mut hog = broker.connect();
    let id = hog.ask("CLIENT ID");
    let gets = pipeline(&vec!["GET big"; 200]);
    flood(&hog, &gets, 1);
    wait_until("the offender is named", || {
        let log = broker.log();
        log.lines().any(|line| line.contains("memory_max") && line.contains(id[1..].trim_end()))
    });
    assert!(hog.is_closed());
    for _ in 0..3 {
        assert_eq!(small.read_reply().len(), 1_000_000 + "$1000000\r\n\r\n".len());
    }
    bystander_is_fine(&broker, 100);
    assert!(resident_kib(broker.pid()) < 200 * 1024, "memory stays near its bound");
}

/// Half requests count as well: many children, each holding a frame it never ends.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn memory_max_counts_half_frames() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("memory_max", "16MiB")]);
    let half = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4000000\r\n{}", "x".repeat(3_000_000));
    let mut holders: Vec<Raw> = Vec::new();
    for _ in 0..10 {
        let mut raw = broker.connect();
        let _ = raw.try_write(half.as_bytes());
        holders.push(raw);
    }
    wait_until("an offender is named", || broker.log().contains("memory_max"));
    bystander_is_fine(&broker, 100);
}

/// Every mix of databases, protocols and leases under a cap far too small: it is never exceeded, and every
/// request is answered.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn upstream_connections_max_is_never_exceeded() {
    let redis = Redis::start();
    let settings = [
        ("upstream_connections_max", "10"),
        ("queue_timeout", "15000"),
        ("lease_wait_timeout", "15000"),
        ("leases_blocking_max", "64"),
    ];
    let broker = Broker::start(&redis, &settings);
    let (done, most) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut direct = redis.connect();
            while !done.load(Ordering::SeqCst) {
                most.fetch_max(list_clients(&mut direct).len(), Ordering::SeqCst);
            }
        });
        let children: Vec<_> = (0..32)
            .map(|number| {
                let broker = &broker;
                scope.spawn(move || mixed_work(broker, number))
            })
            .collect();
        let outcomes: Vec<_> = children.into_iter().map(|child| child.join()).collect();
        done.store(true, Ordering::SeqCst);
        assert!(outcomes.iter().all(Result::is_ok), "every request is answered");
    });
    let most = most.load(Ordering::SeqCst);
    assert!((3..=10).contains(&most), "Redis counted up to {most} connections");
}

fn mixed_work(broker: &Broker, number: usize) {
    let resp3 = number % 2 == 1;
    let mut raw = if resp3 { broker.connect_resp3() } else { broker.connect() };
    let null = if resp3 { "_\r\n" } else { "*-1\r\n" };
    for round in 0..8 {
        raw.expect(&format!("SELECT {}", (number + round) % 8), "+OK\r\n");
        raw.expect(&format!("SET own:{number} {round}"), "+OK\r\n");
        raw.expect(&format!("GET own:{number}"), &format!("$1\r\n{round}\r\n"));
        match number % 4 {
            0 | 1 => {
                raw.expect(&format!("WATCH own:{number}"), "+OK\r\n");
                raw.write(&pipeline(&["MULTI", &format!("INCR own:{number}"), "EXEC"]));
                assert_eq!(raw.read_text(), "+OK\r\n");
                assert_eq!(raw.read_text(), "+QUEUED\r\n");
                assert_eq!(raw.read_text(), format!("*1\r\n:{}\r\n", round + 1));
            }
            _ => raw.expect("BLPOP none 0.02", null),
        }
    }
}

/// At the cap of WATCH leases the next waits, and is told when none comes free.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn leases_transaction_max_queues_and_tells() {
    let redis = Redis::start();
    let settings = [("leases_transaction_max", "3"), ("lease_wait_timeout", "1500")];
    let broker = Broker::start(&redis, &settings);
    let mut holders: Vec<Raw> = (0..3).map(|_| broker.connect()).collect();
    holders.iter_mut().for_each(|raw| raw.expect("WATCH k", "+OK\r\n"));
    let mut late = broker.connect();
    let reply = late.ask("WATCH k");
    assert!(reply.starts_with("-BROKERLIMIT "), "{reply}");
    let (uid, pid) = (rustix::process::geteuid().as_raw(), std::process::id());
    assert!(reply.contains(&format!("held by uid {uid}: 3 (3 of pid {pid}, suite-")), "{reply}");
    late.expect("GET k", "$-1\r\n");
    let leases = upstream_clients(&redis).iter().filter(|client| client.name() == "broker-lease").count();
    assert!(leases <= 4, "three in use and one warm: {leases}");
    // One who waits gets the lease that comes free.
    late.send("WATCH k");
    holders[0].expect("UNWATCH", "+OK\r\n");
    assert_eq!(late.read_text(), "+OK\r\n");
    late.expect("MULTI", "+OK\r\n");
    late.expect("EXEC", "*0\r\n");
}

/// More users of WATCH than leases: all get through.
#[test]
fn leases_transaction_max_lets_everyone_through() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("leases_transaction_max", "2"), ("lease_wait_timeout", "15000")]);
    std::thread::scope(|scope| {
        for number in 0..20 {
            let broker = &broker;
            scope.spawn(move || {
                let mut raw = broker.connect();
                for round in 1..=10 {
                    raw.expect(&format!("WATCH k{number}"), "+OK\r\n");
                    raw.expect("MULTI", "+OK\r\n");
                    raw.expect(&format!("INCR k{number}"), "+QUEUED\r\n");
                    raw.expect("EXEC", &format!("*1\r\n:{round}\r\n"));
                }
            });
        }
    });
}

/// Blocked poppers have a cap of their own and never take the leases of transactions.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn leases_blocking_max_leaves_transactions_alone() {
    let redis = Redis::start();
    let settings =
        [("leases_blocking_max", "2"), ("leases_transaction_max", "2"), ("lease_wait_timeout", "10000")];
    let broker = Broker::start(&redis, &settings);
    let mut crowd: Vec<Raw> = (0..20).map(|_| broker.connect()).collect();
    crowd.iter_mut().for_each(|raw| raw.send("BLPOP l 0"));
    wait_until("the cap is reached", || leases(&redis) >= 2);
    let mut raw = broker.connect();
    raw.expect("WATCH k", "+OK\r\n");
    raw.write(&pipeline(&["MULTI", "RPUSH l e", "EXEC"]));
    let replies: Vec<String> = (0..3).map(|_| raw.read_text()).collect();
    assert_eq!(replies, ["+OK\r\n", "+QUEUED\r\n", "*1\r\n:1\r\n"]);
    assert!(leases(&redis) <= 5, "two, two and one warm: {}", leases(&redis));
    for _ in 1..20 {
        raw.ask("RPUSH l e");
    }
    crowd.iter_mut().for_each(|raw| assert_eq!(raw.read_text(), "*2\r\n$1\r\nl\r\n$1\r\ne\r\n"));
}

fn leases(redis: &Redis) -> usize {
    upstream_clients(redis).iter().filter(|client| client.name() == "broker-lease").count()
}

/// A queued MULTI has its bound: the request beyond it is refused, and with it the transaction.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn transaction_max_refuses_the_rest() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("transaction_max", "64KiB")]);
    let mut raw = broker.connect();
    raw.expect("MULTI", "+OK\r\n");
    let value = "x".repeat(20_000);
    let replies: Vec<Vec<u8>> = (0..5).map(|_| raw.call(&["SET", "large", &value])).collect();
    assert_eq!(replies[0], b"+QUEUED\r\n");
    assert!(replies[4].starts_with(b"-"), "{}", support::show(&replies[4]));
    assert!(raw.ask("EXEC").starts_with("-EXECABORT "));
    raw.expect("EXISTS large", ":0\r\n");
    bystander_is_fine(&broker, 20);
}

/// A lease held by an idle WATCH starves others: its child is closed in time.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn idle_transaction_timeout_closes_the_holder() {
    let redis = Redis::start();
    let settings = [
        ("idle_transaction_timeout", "300"),
        ("leases_transaction_max", "1"),
        ("lease_wait_timeout", "15000"),
    ];
    let broker = Broker::start(&redis, &settings);
    let mut holder = broker.connect();
    holder.expect("WATCH k", "+OK\r\n");
    let mut next = broker.connect();
    next.expect("WATCH k", "+OK\r\n");
    assert!(holder.is_closed());
    next.expect("UNWATCH", "+OK\r\n");
    // Without a transaction a child may idle as long as it likes: longer than one that has begun later, and is closed.
    let mut later = broker.connect();
    later.expect("WATCH k", "+OK\r\n");
    assert!(later.is_closed());
    next.expect("PING", "+PONG\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn idle_child_timeout_closes_idle_children_only() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("idle_child_timeout", "2s")]);
    let (mut idle, mut busy, mut waiter) = (broker.connect(), broker.connect(), broker.connect());
    idle.expect("PING", "+PONG\r\n");
    waiter.send("BLPOP l 0");
    wait_until("the idle one is closed", || {
        busy.expect("GET none", "$-1\r\n");
        broker.log().contains("idle_child_timeout")
    });
    assert!(idle.is_closed());
    busy.expect("RPUSH l e", ":1\r\n");
    assert_eq!(waiter.read_text(), "*2\r\n$1\r\nl\r\n$1\r\ne\r\n", "one who waits is not idle");
}

/// Surplus lanes do not outlive their use.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn upstream_idle_timeout_closes_surplus_lanes() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("upstream_idle_timeout", "300")]);
    let mut raw = broker.connect();
    for db in 0..8 {
        raw.expect(&format!("SELECT {db}"), "+OK\r\n");
        raw.expect("SET k v", "+OK\r\n");
    }
    raw.expect("SELECT 0", "+OK\r\n");
    wait_until("unused lanes are closed", || upstream_clients(&redis).len() <= 4);
    raw.expect("SELECT 7", "+OK\r\n");
    raw.expect("GET k", "$1\r\nv\r\n");
}

/// With `pubsub = leased` subscribers hold session leases: the one too many is told, and gets in once another has left.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn leases_session_max_queues_and_tells() {
    let redis = Redis::start();
    let settings = [("pubsub", "leased"), ("leases_session_max", "3"), ("lease_wait_timeout", "1500")];
    let broker = Broker::start(&redis, &settings);
    let mut subscribers: Vec<Raw> = (0..3).map(|_| broker.connect()).collect();
    for raw in &mut subscribers {
        raw.expect("SUBSCRIBE a", "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    }
    let mut late = broker.connect();
    let reply = late.ask("SUBSCRIBE a");
    assert!(reply.starts_with("-BROKERLIMIT "), "{reply}");
    let (uid, pid) = (rustix::process::geteuid().as_raw(), std::process::id());
    assert!(reply.contains(&format!("held by uid {uid}: 3 (3 of pid {pid}, suite-")), "{reply}");
    late.expect("GET none", "$-1\r\n");
    subscribers.pop();
    wait_until("a place is free", || late.ask("SUBSCRIBE a").starts_with("*3\r\n"));
    broker.connect().expect("PUBLISH a x", ":3\r\n");
}

/// A frame a byte at a time, over a long while: others do not notice, and it is answered in the end.
#[test]
fn a_slow_writer_delays_nobody() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut slow = broker.connect();
    let bytes = pipeline(&["SET slow value", "GET slow"]);
    for byte in &bytes {
        slow.write(&[*byte]);
        bystander_is_fine(&broker, 5);
    }
    assert_eq!(slow.read_text(), "+OK\r\n");
    assert_eq!(slow.read_text(), "$5\r\nvalue\r\n");
}

/// A large request that arrives slowly must not hold a shared lane while it does.
#[test]
fn a_huge_half_frame_delays_nobody() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut slow = broker.connect();
    let bytes = request(&["SET", "huge", &"x".repeat(8_000_000)]);
    let (head, tail) = bytes.split_at(bytes.len() - 10);
    slow.write(head);
    bystander_is_fine(&broker, 100);
    slow.write(tail);
    assert_eq!(slow.read_text(), "+OK\r\n");
    slow.expect("STRLEN huge", ":8000000\r\n");
}

/// Out of file descriptors: children wait in the backlog, those inside go on, and as soon as some leave the
/// waiting ones are served. The limit is taken away while the broker runs.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn emfile_never_deafens_the_listener() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut inside: Vec<Raw> = (0..10).map(|_| broker.connect()).collect();
    inside.iter_mut().for_each(|raw| raw.expect("SET k v", "+OK\r\n"));
    let pid = Pid::from_raw(i32::try_from(broker.pid()).expect("a pid")).expect("not zero");
    let open =
        std::fs::read_dir(format!("/proc/{}/fd", broker.pid())).expect("its descriptors").count() as u64;
    let limit = Rlimit { current: Some(open + 4), maximum: Some(open + 4) };
    prlimit(Some(pid), Resource::Nofile, limit).expect("lower its limit");
    let mut waiting: Vec<Raw> = (0..20).map(|_| broker.connect()).collect();
    waiting.iter_mut().for_each(|raw| raw.send("GET k"));
    for raw in &mut inside {
        raw.expect("GET k", "$1\r\nv\r\n");
    }
    let before = cpu_ticks(broker.pid());
    // The time over which its work is measured.
    std::thread::sleep(Duration::from_millis(300));
    let spent = cpu_ticks(broker.pid()) - before;
    assert!(spent < 25, "it does not spin over the failed accept: {spent} ticks of 10 ms in 300 ms");
    // Each one that is served leaves and makes room for the next.
    inside.clear();
    let served = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for mut raw in waiting {
            let served = &served;
            scope.spawn(move || {
                assert_eq!(raw.read_text(), "$1\r\nv\r\n");
                served.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    assert_eq!(served.load(Ordering::SeqCst), 20);
    bystander_is_fine(&broker, 20);
}

/// User and system time of a process in clock ticks.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let field = |index: usize| fields[index].parse::<u64>().expect("a number");
    field(11) + field(12)
}

/// A thousand children connect at once and all are active: every reply is right, and Redis sees a handful of
/// connections.
#[test]
fn a_thousand_children_share_a_handful_of_connections() {
    raise_open_files();
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut children: Vec<Raw> = Vec::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..250).map(|_| broker.connect()).collect::<Vec<_>>())).collect();
        for thread in threads {
            children.extend(thread.join().expect("250 connections"));
        }
    });
    let mut most = 0;
    for round in 0..5 {
        for (number, raw) in children.iter_mut().enumerate() {
            raw.write(&pipeline(&[
                &format!("SET own:{number} {number}-{round}"),
                &format!("GET own:{number}"),
                &format!("ECHO {round}"),
            ]));
        }
        most = most.max(upstream_clients(&redis).len());
        for (number, raw) in children.iter_mut().enumerate() {
            let nonce = format!("{number}-{round}");
            assert_eq!(raw.read_text(), "+OK\r\n");
            assert_eq!(raw.read_text(), format!("${}\r\n{nonce}\r\n", nonce.len()));
            assert_eq!(raw.read_text(), format!("$1\r\n{round}\r\n"));
        }
    }
    if !support::direct() {
        assert!(most <= 4, "one lane, one control connection, warm leases: {most}");
    }
}

/// What the server would not read closes the child that sends it, with the server's own words, and nobody else's request
/// is lost for it.
#[test]
fn an_argument_the_server_would_not_take_is_its_childs_own_affair() {
    for limit in ["proto-max-bulk-len", "client-query-buffer-limit"] {
        let redis = Redis::start_with(&[&format!("--{limit}"), "1mb"]);
        let broker = Broker::start(&redis, &[]);
        let mut other = broker.connect();
        other.expect("SET k v", "+OK\r\n");
        let large = "x".repeat(400_000);
        for _ in 0..20 {
            let mut raw = broker.connect();
            other.write(&support::request(&["SET", "fine", &large]));
            let _ = raw.try_write(&support::request(&["SET", "big", &"x".repeat(1_100_000)]));
            let (told, end) = raw.read_all();
            assert_eq!(end, support::End::Closed);
            if !support::direct() {
                let told = String::from_utf8_lossy(&told);
                let wanted = if limit == "proto-max-bulk-len" { "invalid bulk length" } else { limit };
                assert!(told.starts_with("-ERR Protocol error: ") && told.contains(wanted), "{told}");
            }
            assert_eq!(other.read_text(), "+OK\r\n");
        }
        // As long as it may be, and no longer.
        let mut raw = broker.connect();
        let most = (1 << 20) - if limit == "proto-max-bulk-len" { 0 } else { 2 };
        assert_eq!(raw.call(&["SET", "k", &"x".repeat(most)]), b"+OK\r\n");
        let _ = raw.try_write(&support::request(&["SET", "k", &"x".repeat(most + 1)]));
        assert!(raw.is_closed());
        redis.ask(&format!("CONFIG SET {limit} 2mb"));
        let mut raw = broker.connect();
        assert_eq!(raw.call(&["SET", "k", &"x".repeat(1_100_000)]), b"+OK\r\n", "the limit was raised");
    }
}

/// Where the server does not tell its limits, it refuses itself: in its own words, to the child it means.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn an_unknown_limit_is_told_by_the_server() {
    let redis = Redis::start_with(&["--proto-max-bulk-len", "1mb", "--rename-command", "CONFIG", ""]);
    let broker = Broker::start(&redis, &[]);
    for _ in 0..5 {
        let mut raw = broker.connect();
        let _ = raw.try_write(&support::request(&["SET", "big", &"x".repeat(3 << 20)]));
        let (told, end) = raw.read_all();
        assert_eq!(end, support::End::Closed);
        assert_eq!(String::from_utf8_lossy(&told), "-ERR Protocol error: invalid bulk length\r\n");
    }
    assert!(!broker.log().contains("out of step"), "{}", broker.log());
    broker.connect().expect("SET k v", "+OK\r\n");
}

/// As large as a value may be, by the defaults here as there. One byte more is refused, and the log says so.
#[test]
fn a_value_of_the_greatest_size_passes() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    // Its bytes go from the child to the lane in one piece.
    broker.allow_long_steps();
    let mut raw = broker.connect();
    raw.set_patience(Duration::from_secs(60));
    let most = 512 << 20;
    let mut set = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${most}\r\n").into_bytes();
    set.resize(set.len() + most, b'x');
    set.extend_from_slice(b"\r\n");
    raw.write(&set);
    assert_eq!(raw.read_text(), "+OK\r\n");
    raw.expect("STRLEN k", &format!(":{most}\r\n"));
    let _ = raw.try_write(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", most + 1).as_bytes());
    assert_eq!(raw.read_text(), "-ERR Protocol error: invalid bulk length\r\n");
    assert!(raw.is_closed());
    if !support::direct() {
        wait_until("the log says so", || broker.log().contains("Protocol error: invalid bulk length"));
    }
}
