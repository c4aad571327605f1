//! Each child pays for the memory that it causes, and no other: what is for many stands in memory once, what is read in part
//! has room or waits for it, and what cannot be kept passes through or is refused in its turn.

use std::time::Duration;

use crate::support::raw::pipeline;
use crate::support::{self, Broker, Raw, Redis, request, resident_kib, wait_until, wait_within};

const MIB: usize = 1 << 20;

/// The most memory that a process has had, KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

/// What `memory_max` promises of everything: 64 MiB beside it, and 8 KiB for each child.
fn assert_within(broker: &Broker, memory_max_mib: u64, children: u64) {
    let (peak, bound) = (peak_kib(broker.pid()), memory_max_mib * 1024 + 64 * 1024 + 8 * children);
    assert!(peak <= bound, "{peak} KiB at the peak where {bound} are allowed\n{}", broker.log());
}

/// So many copies would be several times `memory_max`. Nobody is closed: each has its message as soon as it reads.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_message_for_many_stands_in_memory_once() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("memory_max", "32MiB")]);
    let mut listeners: Vec<Raw> = (0..80).map(|_| broker.connect()).collect();
    for (number, raw) in listeners.iter_mut().enumerate() {
        if number % 2 == 1 {
            raw.ask("HELLO 3");
        }
        raw.ask("SUBSCRIBE feed");
    }
    let text = "x".repeat(5 * MIB);
    assert_eq!(redis.connect().call(&["PUBLISH", "feed", &text]), b":1\r\n");
    broker.connect().expect("ECHO on", "$2\r\non\r\n");
    for (number, raw) in listeners.iter_mut().enumerate() {
        let head = if number % 2 == 1 { ">" } else { "*" };
        let expected = format!("{head}3\r\n$7\r\nmessage\r\n$4\r\nfeed\r\n${}\r\n", text.len());
        let message = raw.read_reply();
        assert!(message.starts_with(expected.as_bytes()), "{}", support::show(&message[..60]));
        assert_eq!(message.len(), expected.len() + text.len() + 2);
    }
    assert_within(&broker, 32, 81);
}

/// A message that half of `memory_max` does not hold reaches nobody, and those who would miss it are told by their end.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_message_too_long_to_be_kept_ends_its_listeners_alone() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("memory_max", "16MiB")]);
    let (mut listener, mut other) = (broker.connect(), broker.connect());
    listener.ask("SUBSCRIBE feed");
    other.ask("SUBSCRIBE else");
    redis.connect().call(&["PUBLISH", "feed", &"x".repeat(12 * MIB)]);
    assert!(listener.is_closed());
    redis.connect().call(&["PUBLISH", "else", "short"]);
    assert_eq!(other.read_text(), "*3\r\n$7\r\nmessage\r\n$4\r\nelse\r\n$5\r\nshort\r\n");
    assert_within(&broker, 16, 2);
}

/// A reply that may not be kept passes through to a child that reads, though it fills most of `memory_max` should the child
/// be slow; the others on its lane have theirs.
#[test]
fn a_reply_longer_than_may_be_kept_passes_through() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("memory_max", "32MiB")]);
    let script = "local s = string.rep('x', 1048576) local t = {} for i = 1, 24 do t[i] = s end return t";
    for protocol in [2, 3] {
        let (mut raw, mut other) = (broker.connect(), broker.connect());
        raw.ask(&format!("HELLO {protocol}"));
        other.ask(&format!("HELLO {protocol}"));
        raw.write(&[request(&["EVAL", script, "0"]), request(&["ECHO", "behind"])].concat());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..200 {
                    let text = number.to_string();
                    other.expect(&format!("ECHO {text}"), &format!("${}\r\n{text}\r\n", text.len()));
                }
            });
            let reply = raw.read_reply();
            assert_eq!(reply.len(), "*24\r\n".len() + 24 * (MIB + "$1048576\r\n\r\n".len()));
            assert!(reply.starts_with(b"*24\r\n") && reply.ends_with(b"xx\r\n"));
        });
        assert_eq!(raw.read_text(), "$6\r\nbehind\r\n");
    }
    if !support::direct() {
        assert_within(&broker, 32, 4);
    }
}

/// Whoever asks for it and does not read it pays for it: the lane of all goes on.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_long_reply_that_nobody_reads_ends_its_child_alone() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("memory_max", "16MiB")]);
    let script = "local s = string.rep('x', 1048576) local t = {} for i = 1, 60 do t[i] = s end return t";
    let mut other = broker.connect();
    for _ in 0..2 {
        let mut deaf = broker.connect();
        let id = deaf.ask("CLIENT ID")[1..].trim_end().to_owned();
        deaf.write(&request(&["EVAL", script, "0"]));
        // At once, or after a while in which nothing stands behind it that is not as long.
        wait_within("it is closed", Duration::from_secs(30), || {
            other.expect("ECHO on", "$2\r\non\r\n");
            let log = broker.log();
            log.lines()
                .any(|line| line.contains("memory_max") && line.contains(&format!("closing child {id}")))
        });
    }
    other.expect("ECHO on", "$2\r\non\r\n");
    assert!(!broker.log().contains("upstream connection lost"), "{}", broker.log());
    assert_within(&broker, 16, 3);
}

/// Replies that are more than `memory_max` together are read from the upstream as fast as their children take them. What is
/// short goes elsewhere meanwhile.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn whoever_reads_slowly_has_all_of_its_reply() {
    const LEN: usize = 20 * MIB;
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("memory_max", "16MiB")]);
    redis.ask(&format!("SETRANGE big {} x", LEN - 1));
    let mut other = broker.connect();
    (0..8).for_each(|_| other.expect("ECHO on", "$2\r\non\r\n"));
    let mut readers: Vec<Raw> = (0..4).map(|_| broker.connect()).collect();
    let before = resident_kib(broker.pid());
    readers.iter_mut().for_each(|raw| raw.send("GET big"));
    wait_until("memory is short", || resident_kib(broker.pid()) >= before + 11 * 1024);
    for raw in &mut readers {
        other.expect("ECHO on", "$2\r\non\r\n");
        assert_eq!(raw.read_reply().len(), "$20971520\r\n\r\n".len() + LEN);
    }
    assert_within(&broker, 16, 5);
}

/// The reply to a transaction with what only the broker can answer has to be looked at: too long for that, it is dropped, and
/// the child is told that its commands were executed.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_reply_that_has_to_be_kept_and_cannot_is_told_to_be_dropped() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("memory_max", "16MiB")]);
    let mut raw = broker.connect();
    for index in 0..12 {
        raw.call(&["SETRANGE", &format!("k{index}"), &(MIB - 1).to_string(), "x"]);
    }
    raw.ask("MULTI");
    raw.ask("CLIENT ID");
    raw.ask("INCR n");
    (0..12).for_each(|index| drop(raw.ask(&format!("GET k{index}"))));
    let told = "-BROKERLOST the reply was longer than 8388608 bytes, half of memory_max, and was dropped; the command was \
                executed\r\n";
    assert_eq!(raw.ask("EXEC"), told);
    raw.expect("GET n", "$1\r\n1\r\n");
}

/// Requests read in part hold half of `memory_max` together. The next waits; whoever stands still meanwhile is closed, so that
/// it has its turn; and nobody is told anything else.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn requests_read_in_part_wait_for_room() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("memory_max", "32MiB")]);
    let half = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$6000000\r\n{}", "x".repeat(1000));
    let mut holders: Vec<Raw> = (0..20).map(|_| broker.connect()).collect();
    holders.iter_mut().for_each(|raw| raw.write(half.as_bytes()));
    let mut honest = broker.connect();
    honest.set_patience(Duration::from_secs(60));
    assert_eq!(honest.call(&["SET", "honest", &"y".repeat(6_000_000)]), b"+OK\r\n");
    assert!(broker.log().contains("stands still while others wait"), "{}", broker.log());
    broker.connect().expect("STRLEN honest", ":6000000\r\n");
    assert_within(&broker, 32, 22);
}

/// Many at once that all go on: each is served, though together they are many times what there is.
#[test]
fn long_requests_of_many_are_all_taken() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("memory_max", "32MiB")]);
    std::thread::scope(|scope| {
        for number in 0..16 {
            let broker = &broker;
            scope.spawn(move || {
                let mut raw = broker.connect();
                raw.set_patience(Duration::from_secs(60));
                for round in 0..4 {
                    let value = format!("{round}").repeat(10_000_000);
                    assert_eq!(raw.call(&["SET", &format!("k{number}"), &value]), b"+OK\r\n");
                    raw.expect(&format!("GETRANGE k{number} 9999999 -1"), &format!("$1\r\n{round}\r\n"));
                }
            });
        }
    });
    if !support::direct() {
        assert_within(&broker, 32, 16);
    }
}

/// One that cannot fit is dropped as it comes, refused behind what came before it, and a MULTI is spoilt by it.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_request_that_cannot_fit_is_refused_in_its_turn() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("memory_max", "8MiB")]);
    let mut raw = broker.connect();
    let long = request(&["SET", "k", &"x".repeat(5 * MIB)]);
    let many = [&b"*1000000\r\n$4\r\nMGET\r\n"[..], &b"$1\r\nk\r\n".repeat(999_999)].concat();
    let refused = "-BROKERLIMIT the request is longer than 4194304 bytes, half of memory_max\r\n";
    for bytes in [&long, &many] {
        raw.write(&[&request(&["ECHO", "1"]), &bytes[..], &request(&["ECHO", "2"])].concat());
        assert_eq!(raw.read_text(), "$1\r\n1\r\n");
        assert_eq!(raw.read_text(), refused);
        assert_eq!(raw.read_text(), "$1\r\n2\r\n");
    }
    raw.write(&[&pipeline(&["MULTI", "SET n 1"])[..], &long, &pipeline(&["EXEC", "EXISTS k n"])].concat());
    let replies: Vec<String> = (0..5).map(|_| raw.read_text()).collect();
    assert_eq!(replies[..3], ["+OK\r\n", "+QUEUED\r\n", refused]);
    assert!(replies[3].starts_with("-EXECABORT"), "{}", replies[3]);
    assert_eq!(replies[4], ":0\r\n");
    assert_within(&broker, 8, 1);
}

/// What the broker answers itself inside an EXEC is made as the child takes it: a thousand lists of all children are one reply.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn an_exec_is_filled_in_as_it_is_read() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("memory_max", "16MiB")]);
    let others: Vec<Raw> = (0..300).map(|_| broker.connect()).collect();
    others.iter().for_each(|raw| raw.writer().expect("CLIENT SETNAME other", "+OK\r\n"));
    let mut raw = broker.connect();
    let id = raw.ask("CLIENT ID");
    let mut lines = vec!["MULTI"];
    (0..1000).for_each(|_| lines.extend(["CLIENT LIST", "INCR n", "CLIENT ID"]));
    lines.push("EXEC");
    raw.write(&pipeline(&lines));
    (0..3001).for_each(|_| assert!(raw.read_text().starts_with('+')));
    let bystander = broker.connect().ask("ECHO on");
    assert_eq!(bystander, "$2\r\non\r\n");
    let reply = raw.read_reply();
    let mut rest = &reply["*3000\r\n".len()..];
    for number in 1..=1000 {
        let digits = rest[1..].split(|byte| *byte == b'\r').next().expect("a length");
        let len: usize = std::str::from_utf8(digits).expect("digits").parse().expect("a length");
        let (list, behind) = rest[digits.len() + 3..].split_at(len);
        let named = list.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
        assert!((301..=302).contains(&named), "{named} children in list {number}");
        let expected = format!("\r\n:{number}\r\n{id}");
        assert!(behind.starts_with(expected.as_bytes()), "{}", support::show(&behind[..40]));
        rest = &behind[expected.len()..];
    }
    assert!(rest.is_empty());
    raw.expect("GET n", "$4\r\n1000\r\n");
    assert_within(&broker, 16, 302);
    assert!(resident_kib(broker.pid()) > 0);
}

/// What is queued counts as it is held, so that the bound of a transaction is met before that of memory.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn queued_commands_count_as_they_are_held() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("memory_max", "48MiB"), ("transaction_max", "16MiB")]);
    let mut ids = request(&["CLIENT", "LIST", "ID"]);
    ids.splice(..4, *b"*50003\r\n");
    ids.extend_from_slice(&b"$0\r\n\r\n".repeat(50_000));
    for (one, count) in [(request(&["CLIENT", "ID"]), 1_000_000), (ids, 500)] {
        let mut raw = broker.connect();
        raw.ask("MULTI");
        let mut refused = false;
        for _ in 0..count / 100 {
            raw.write(&one.repeat(100));
            for _ in 0..100 {
                let reply = raw.read_text();
                refused |= reply.starts_with("-BROKERLIMIT transaction_max");
                assert_eq!(reply == "+QUEUED\r\n", !refused, "{reply}");
            }
        }
        assert!(refused, "it has a bound");
        assert!(raw.ask("EXEC").starts_with("-EXECABORT"));
    }
    assert_within(&broker, 48, 2);
}

/// Names of what was never subscribed to are confirmed as the child takes the confirmations.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn leaving_a_million_channels_takes_no_more_room_than_a_few() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("memory_max", "64MiB")]);
    let mut raw = broker.connect();
    let many = [&b"*1000001\r\n$11\r\nUNSUBSCRIBE\r\n"[..], &b"$1\r\nc\r\n".repeat(1_000_000)].concat();
    raw.write(&many);
    broker.connect().expect("ECHO on", "$2\r\non\r\n");
    for _ in 0..1_000_000 {
        assert_eq!(raw.read_reply(), b"*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n");
    }
    raw.expect("ECHO end", "$3\r\nend\r\n");
    assert_within(&broker, 64, 2);
    assert!(peak_kib(broker.pid()) < 60 * 1024, "its request, and little besides");
}
