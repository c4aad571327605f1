//! What goes on which connection upstream, and how a connection proves that its replies are in step.

use std::time::Duration;

use crate::support::twin::without_id;
use crate::support::{Broker, Proxy, Raw, Redis, Twin, list_clients, request, wait_still, wait_until};

/// The last command on each of the broker's shared connections.
fn last_commands(redis: &Redis) -> Vec<String> {
    let clients = list_clients(&mut redis.connect());
    let lanes = clients.iter().filter(|client| client.name() == "broker-lane");
    lanes.map(|client| client.field("cmd").to_owned()).collect()
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn large_requests_and_replies_pass_on_a_lane_of_their_own() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let (mut large, mut small) = (broker.connect(), broker.connect());
    small.expect("SET small 1", "+OK\r\n");
    assert_eq!(last_commands(&redis), ["set"]);
    let value = vec![b'v'; 1 << 20];
    assert_eq!(large.call(&[b"SET", &b"large"[..], &value]), b"+OK\r\n");
    small.expect("EXISTS small", ":1\r\n");
    assert_eq!(last_commands(&redis), ["exists", "set"]);
    // The first long reply cannot be foreseen, the second is expected.
    for _ in 0..2 {
        assert_eq!(large.call(&["GET", "large"]).len(), value.len() + "$1048576\r\n\r\n".len());
    }
    small.expect("STRLEN small", ":1\r\n");
    assert_eq!(last_commands(&redis), ["strlen", "get"]);
    // In order, however the lanes change.
    let mut pipeline = Vec::new();
    for round in 0..20 {
        pipeline.extend(request(&["SET", "order", &round.to_string()]));
        pipeline.extend(request(&[b"SET", &b"large"[..], &value]));
        pipeline.extend(request(&["GET", "order"]));
    }
    let mut writer = large.writer();
    let sending = std::thread::spawn(move || writer.write(&pipeline));
    for round in 0..20 {
        assert_eq!((large.read_text(), large.read_text()), ("+OK\r\n".into(), "+OK\r\n".into()));
        let text = round.to_string();
        assert_eq!(large.read_text(), format!("${}\r\n{text}\r\n", text.len()));
    }
    sending.join().expect("all was sent");
}

/// Replies that nobody takes do not stand before everybody: a child has few requests on a lane before it is known how long
/// their replies are, and then as many as have a megabyte of them.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn few_large_replies_stand_on_a_lane_for_one_child() {
    const GREEDY: usize = 10;
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut polite = broker.connect();
    polite.expect("SET small 1", "+OK\r\n");
    assert_eq!(polite.call(&[b"SET", &b"large"[..], &vec![b'v'; 1 << 20]]), b"+OK\r\n");
    let mut greedy: Vec<Raw> = (0..GREEDY).map(|_| broker.connect()).collect();
    let pipeline = request(&["GET", "large"]).repeat(60);
    greedy.iter_mut().for_each(|child| child.write(&pipeline));
    wait_until("all of them have begun", || polite.ask("CLIENT LIST").matches(" cmd=get ").count() == GREEDY);
    polite.expect("EXISTS small", ":1\r\n");
    // They take no reply, so nothing more of them is sent, however long the test waits.
    let calls = |redis: &Redis| {
        let stats = redis.ask("INFO commandstats");
        let calls =
            stats.split("cmdstat_get:calls=").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok());
        calls.unwrap_or(0usize)
    };
    wait_still("the broker asks for no more", || calls(&redis) as u64);
    assert!(calls(&redis) <= 5 * GREEDY, "{} replies of a megabyte for {GREEDY} children", calls(&redis));
    for child in &mut greedy {
        (0..60).for_each(|_| assert_eq!(child.read_text().len(), (1 << 20) + "$1048576\r\n\r\n".len()));
    }
}

/// The server closes the connection whose reply is too long for it, and loses replies on it that it has not written. That
/// is the child's own affair from the second time on, wherever its request stood.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_command_that_has_cost_a_lane_has_one_to_itself() {
    const LOST: &str = "-BROKERLOST ";
    let redis = Redis::start_with(&["--client-output-buffer-limit", "normal 8mb 0 0"]);
    assert_eq!(redis.ask("SETRANGE large 41943040 x"), ":41943041\r\n");
    for large_is_first in [true, false] {
        let broker = Broker::start(&redis, &[]);
        let (mut large, mut small, mut looks) = (broker.connect(), broker.connect(), broker.connect());
        small.expect("SET small 1", "+OK\r\n");
        (0..20).for_each(|_| small.expect("STRLEN small", ":1\r\n"));
        for round in 0..4 {
            // Both are in the server's sockets before it reads the first of them.
            redis.stop();
            for of_large in [large_is_first, !large_is_first] {
                let (child, line, name) = match of_large {
                    true => (&mut large, "GET large", " cmd=get "),
                    false => (&mut small, "EXISTS small", " cmd=exists "),
                };
                child.send(line);
                wait_until("it is under way", || looks.ask("CLIENT LIST").contains(name));
            }
            redis.cont();
            let (large_told, told) = (large.read_text(), small.read_text());
            assert!(large_told.starts_with(LOST), "{large_told}");
            assert!(if round == 0 { told.starts_with(LOST) } else { told == ":1\r\n" }, "{round}: {told}");
            large.expect("SET other 1", "+OK\r\n");
            small.expect("STRLEN small", ":1\r\n");
        }
    }
}

/// It stands in the line of commands that may wait for ever. It is none: its child may say that it sends no more, and has
/// its answer all the same.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_suspected_command_is_answered_though_its_child_sends_no_more() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("leases_blocking_max", "1"), ("lease_wait_timeout", "30s")]);
    let (mut suspect, mut looks) = (broker.connect(), broker.connect());
    suspect.expect("SET k v", "+OK\r\n");
    redis.stop();
    suspect.send("GET k");
    wait_until("it is under way", || looks.ask("CLIENT LIST").contains(" cmd=get "));
    redis.kill();
    assert!(suspect.read_text().starts_with("-BROKERLOST "));
    redis.restart();
    wait_until("the upstream is back", || looks.ask("SET k v") == "+OK\r\n");
    // It lists its commands in another order now.
    wait_until("its commands are known", || broker.log().matches(" is up").count() == 2);
    let mut blocked = broker.connect();
    blocked.send("BLPOP none 0");
    wait_until("the one lease is in use", || redis.ask("INFO clients").contains("blocked_clients:1"));
    suspect.send("GET k");
    suspect.half_close();
    assert!(
        suspect.is_silent(Duration::from_millis(200)),
        "it waits for the lease, longer than a command that blocks would"
    );
    looks.expect("RPUSH none e", ":1\r\n");
    assert_eq!(suspect.read_text(), "$1\r\nv\r\n");
    assert!(suspect.is_closed());
}

/// The connection it has to itself may then not be asked for an ECHO any more.
#[test]
fn a_subscriber_may_change_its_protocol_under_canaries() {
    let twin = Twin::start_with(&[], &[("integrity", "always"), ("pubsub", "leased")]);
    let mut pair = twin.pair_resp3();
    pair.same("SUBSCRIBE c");
    pair.same_with("HELLO 2", without_id);
    pair.same("PING");
    pair.same("UNSUBSCRIBE c");
    pair.same("GET none");
}

#[test]
fn with_a_canary_behind_every_request_all_reads_the_same() {
    let twin = Twin::start_with(&[], &[("integrity", "always")]);
    for mut pair in [twin.pair(), twin.pair_resp3()] {
        pair.same("SET k v");
        pair.same("GET k");
        pair.same("NOSUCH");
        pair.same("LPUSH k v");
        pair.same("SELECT 3");
        pair.same("SET k in3");
        pair.same_pipeline(b"MULTI\r\nGET k\r\nINCR k\r\nEXEC\r\nGET k\r\nSELECT 0\r\nGET k\r\n", 7);
        pair.same("WATCH k");
        pair.same("MULTI");
        pair.same("GET k");
        pair.same("NOSUCH");
        pair.same("EXEC");
        pair.same("MULTI");
        pair.same("SELECT 1");
        pair.same("GET k");
        pair.same("EXEC");
        pair.same("RPUSH list a b");
        pair.same("BLPOP list 0");
        pair.same("BLPOP list 0");
        pair.same("BLPOP list 0.01");
        pair.same("EVAL return{ARGV[1],2} 0 x");
        pair.same("WAIT 0 1");
        pair.same("SUBSCRIBE c");
        pair.same("UNSUBSCRIBE c");
        pair.same("GET k");
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_frame_slipped_in_is_noticed_and_given_to_nobody() {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis);
    let broker = Broker::start_at(proxy.socket(), &[("integrity", "always")]);
    let (mut one, mut other) = (broker.connect(), broker.connect());
    one.expect("SET one 1", "+OK\r\n");
    other.expect("SET other 2", "+OK\r\n");
    for (round, frame) in ["$1\r\n7\r\n", ":7\r\n", "$-1\r\n", "-ERR not yours\r\n"].iter().enumerate() {
        proxy.hold("broker-lane", true);
        one.send(&format!("MGET one one{round}"));
        proxy.wait_sent("broker-lane", format!("one{round}").as_bytes());
        other.send(&format!("MGET other other{round}"));
        proxy.wait_sent("broker-lane", format!("other{round}").as_bytes());
        proxy.inject("broker-lane", frame.as_bytes());
        proxy.hold("broker-lane", false);
        for child in [&mut one, &mut other] {
            let reply = child.read_text();
            assert!(reply.starts_with("-BROKERLOST "), "{frame:?}: {reply}");
        }
        one.expect("GET one", "$1\r\n1\r\n");
        other.expect("GET other", "$1\r\n2\r\n");
    }
    wait_until("the log tells", || broker.log().contains("integrity: a canary did not come home"));
}
