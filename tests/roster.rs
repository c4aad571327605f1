//! CLIENT LIST, INFO, KILL and UNBLOCK over the broker's own children: the words are Redis', the clients are
//! the broker's, and no connection upstream is ever touched by its own id.

use crate::support::raw::pipeline;
use crate::support::{Broker, Raw, Redis, Twin, raise_open_files, request, upstream_clients, wait_until};

/// Whatever is wrong with a request is said in the same words.
#[rustfmt::skip]
const ERRORS: &[&str] = &[
    "CLIENT KILL", "CLIENT KILL nobody:1", "CLIENT KILL ID 0", "CLIENT KILL ID x", "CLIENT KILL ID -1",
    "CLIENT KILL ID 9223372036854775808", "CLIENT KILL TYPE foo", "CLIENT KILL USER nobody",
    "CLIENT KILL SKIPME", "CLIENT KILL SKIPME maybe", "CLIENT KILL ID 5 ID", "CLIENT KILL MAXAGE 5",
    "CLIENT KILL a b", "CLIENT KILL a b c", "CLIENT KILL ADDR 1 LADDR 2 TYPE normal SKIPME yes",
    "CLIENT KILL TYPE master", "CLIENT KILL TYPE slave", "CLIENT KILL TYPE replica SKIPME no",
    "CLIENT KILL ID 1 USER default", "CLIENT LIST TYPE foo", "CLIENT LIST ID", "CLIENT LIST ID x",
    "CLIENT LIST ID 1 x", "CLIENT LIST ID 0 -3", "CLIENT LIST foo", "CLIENT LIST TYPE normal x",
    "CLIENT LIST TYPE", "CLIENT LIST TYPE slave", "CLIENT LIST TYPE replica", "CLIENT LIST TYPE master",
    "CLIENT LIST TYPE pubsub", "CLIENT UNBLOCK", "CLIENT UNBLOCK x", "CLIENT UNBLOCK 1 foo",
    "CLIENT UNBLOCK x foo", "CLIENT UNBLOCK 999", "CLIENT UNBLOCK 999 ERROR", "CLIENT UNBLOCK 999 timeout",
    "CLIENT UNBLOCK 1 timeout x", "cLient unBlock 1 error x y", "CLIENT INFO x",
];

#[test]
fn errors_are_those_of_redis() {
    let twin = Twin::start();
    for resp3 in [false, true] {
        let mut pair = if resp3 { twin.pair_resp3() } else { twin.pair() };
        for line in ERRORS {
            pair.same(line);
        }
        pair.same_call(&["CLIENT", "KILL", "TYPE", "a\r\nb"]);
        pair.same_call(&["CLIENT", "KILL", "USER", "a\r\nb\0c"]);
    }
}

fn lines(raw: &mut Raw, request: &str) -> Vec<String> {
    let reply = raw.ask(request);
    reply.split("\r\n").nth(1).unwrap_or_default().lines().map(ToOwned::to_owned).collect()
}

fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let mut fields = line.split(' ').filter_map(|field| field.split_once('='));
    fields.find(|(key, _)| *key == name).map_or("", |(_, value)| value)
}

fn id(raw: &mut Raw) -> String {
    raw.ask("CLIENT ID")[1..].trim_end().to_owned()
}

/// The lines that Redis and the broker show, in what does not depend on who shows them.
#[test]
fn lines_have_redis_fields_and_the_childs_state() {
    let twin = Twin::start();
    let (mut first, mut second) = (twin.pair(), twin.pair_resp3());
    second.same("CLIENT SETNAME second");
    second.same("SELECT 3");
    second.same("GET nothing");
    let mut third = twin.pair();
    third.same("MULTI");
    third.same("SET a b");
    let mut fourth = twin.pair();
    fourth.same("SUBSCRIBE a b");
    let mut fifth = twin.pair();
    fifth.same("NOSUCH");
    let mut sixth = twin.pair();
    for raw in [&mut sixth.direct, &mut sixth.brokered] {
        raw.send("BLPOP nothing 0");
    }
    let keep = ["name", "flags", "db", "sub", "psub", "ssub", "multi", "cmd", "user", "redir", "resp"];
    let shape = |raw: &mut Raw| -> Vec<String> {
        let lines = lines(raw, "CLIENT LIST");
        let shown = lines.iter().filter(|line| !field(line, "name").starts_with("broker"));
        shown
            .map(|line| {
                let fields = line.split(' ').filter_map(|field| field.split_once('='));
                let shown = fields.map(|(key, value)| match keep.contains(&key) {
                    true => format!("{key}={value}"),
                    false => key.to_owned(),
                });
                shown.collect::<Vec<_>>().join(" ")
            })
            .collect()
    };
    wait_until("both know that the sixth is blocked", || {
        let blocked = |raw: &mut Raw| shape(raw).iter().any(|line| line.contains("cmd=blpop"));
        blocked(&mut first.direct) && blocked(&mut first.brokered)
    });
    let wanted = shape(&mut first.direct);
    assert_eq!(wanted.len(), 6, "{wanted:?}");
    // What the others sent last without waiting for an answer may not have been read yet.
    wait_until("the lists agree", || shape(&mut first.brokered) == shape(&mut first.direct));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn lists_are_chosen_by_id_and_type() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut asker = broker.connect();
    let mut others: Vec<Raw> = (0..3).map(|_| broker.connect()).collect();
    let ids: Vec<String> = others.iter_mut().map(id).collect();
    others[2].ask("SUBSCRIBE ch");
    let of = |lines: Vec<String>| lines.iter().map(|line| field(line, "id").to_owned()).collect::<Vec<_>>();
    assert_eq!(of(lines(&mut asker, "CLIENT LIST TYPE pubsub")), ids[2..]);
    assert_eq!(of(lines(&mut asker, "CLIENT LIST TYPE normal"))[1..], ids[..2]);
    let chosen = format!("CLIENT LIST ID {} 77 {}", ids[1], ids[0]);
    assert_eq!(of(lines(&mut asker, &chosen)), [ids[1].clone(), ids[0].clone()]);
    assert_eq!(lines(&mut asker, "CLIENT LIST").len(), 4, "the broker's own connections are not shown");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_child_kills_others_and_itself_but_no_connection_upstream() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut killer = broker.connect();
    killer.expect("SET k v", "+OK\r\n");
    let upstream: Vec<String> = upstream_clients(&redis).iter().map(|c| c.field("id").to_owned()).collect();
    assert!(!upstream.is_empty());
    for id in &upstream {
        killer.expect(&format!("CLIENT KILL ID {id}"), ":0\r\n");
    }
    let mut victim = broker.connect();
    let victims_id = id(&mut victim);
    killer.expect(&format!("CLIENT KILL ID {victims_id}"), ":1\r\n");
    assert!(victim.is_closed());
    killer.expect(&format!("CLIENT KILL ID {victims_id}"), ":0\r\n");
    // Everybody with one address: all come from this process.
    let mut victims: Vec<Raw> = (0..3).map(|_| broker.connect()).collect();
    for victim in &mut victims {
        victim.ask("PING");
    }
    let address = field(&lines(&mut killer, "CLIENT INFO")[0], "addr").to_owned();
    killer.expect(&format!("CLIENT KILL ADDR {address} SKIPME yes"), ":3\r\n");
    assert!(victims.iter_mut().all(Raw::is_closed));
    // A subscriber, one that blocks, and one that watches keys.
    let mut subscriber = broker.connect();
    subscriber.ask("SUBSCRIBE ch");
    let mut blocked = broker.connect();
    blocked.send("BLPOP none 0");
    let mut watching = broker.connect();
    watching.expect("WATCH k", "+OK\r\n");
    wait_until("the pop waits upstream", || {
        upstream_clients(&redis).iter().any(|client| client.field("cmd") == "blpop")
    });
    killer.expect("CLIENT KILL TYPE pubsub", ":1\r\n");
    killer.expect("CLIENT KILL TYPE normal", ":2\r\n");
    assert!(subscriber.is_closed() && blocked.is_closed() && watching.is_closed());
    wait_until("nothing of them is left upstream", || {
        let clients = upstream_clients(&redis);
        clients.iter().all(|client| client.field("cmd") != "blpop" && client.field("sub") == "0")
    });
    // Itself: the reply comes first.
    killer.expect("GET k", "$1\r\nv\r\n");
    let own = id(&mut killer);
    killer.write(&pipeline(&["GET k", &format!("CLIENT KILL ID {own} SKIPME no"), "GET k"]));
    let (bytes, _) = killer.read_all();
    assert_eq!(String::from_utf8_lossy(&bytes), "$1\r\nv\r\n:1\r\n");
    let mut old = broker.connect();
    old.write(&pipeline(&[&format!("CLIENT KILL {address}"), "PING"]));
    let (bytes, _) = old.read_all();
    assert_eq!(String::from_utf8_lossy(&bytes), "+OK\r\n");
    broker.connect().expect("GET k", "$1\r\nv\r\n");
}

/// Over TCP nobody is known, and so touches nobody who is.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn children_over_tcp_kill_no_child_of_the_host() {
    let redis = Redis::start();
    let directory = redis.directory().join("b.sock");
    let listen = format!("unix://{}", directory.display());
    let url = redis.url();
    let args = ["serve", "--upstream", &url, "--listen", &listen, "--listen", "tcp://127.0.0.1:0"];
    let broker = Broker::start_args(&args, 2);
    let tcp =
        broker.listening().iter().find_map(|url| url.strip_prefix("tcp://")).expect("a port").to_owned();
    let (mut on_host, mut remote, mut other) = (Raw::unix(&directory), Raw::tcp(&tcp), Raw::tcp(&tcp));
    let (host_id, other_id) = (id(&mut on_host), id(&mut other));
    let remote_id = id(&mut remote);
    remote.expect(&format!("CLIENT KILL ID {host_id}"), ":0\r\n");
    on_host.expect(&format!("CLIENT KILL ID {remote_id}"), ":0\r\n");
    let address = field(&lines(&mut on_host, "CLIENT INFO")[0], "addr").to_owned();
    remote.expect(&format!("CLIENT KILL {address}"), "-ERR No such client\r\n");
    remote.expect(&format!("CLIENT KILL ID {other_id}"), ":1\r\n");
    assert!(other.is_closed());
    on_host.expect("PING", "+PONG\r\n");
}

#[test]
fn unblocked_children_hear_what_redis_says() {
    let twin = Twin::start();
    for resp3 in [false, true] {
        for (reason, request) in [
            ("TIMEOUT", "BLPOP none 0"),
            ("ERROR", "BLPOP none 0"),
            ("", "BZPOPMIN none 0"),
            ("timeout", "BLMOVE none other LEFT RIGHT 0"),
            ("error", "XREAD BLOCK 0 STREAMS none $"),
        ] {
            let mut pair = if resp3 { twin.pair_resp3() } else { twin.pair() };
            let mut other = twin.pair();
            let ids = [id(&mut pair.direct), id(&mut pair.brokered)];
            for raw in [&mut pair.direct, &mut pair.brokered] {
                raw.write(&pipeline(&[request, "PING"]));
            }
            for (asker, id) in [(&mut other.direct, &ids[0]), (&mut other.brokered, &ids[1])] {
                wait_until("it is blocked", || {
                    let line = lines(asker, &format!("CLIENT LIST ID {id}"));
                    field(&line[0], "flags").contains('b')
                });
                asker.expect(&format!("CLIENT UNBLOCK {id} {reason}"), ":1\r\n");
                asker.expect(&format!("CLIENT UNBLOCK {id} {reason}"), ":0\r\n");
            }
            pair.same_replies(request, 2);
        }
    }
}

/// What a child has asked for before comes first: the element it gave reaches the one it then closes or unblocks.
#[test]
fn what_was_asked_before_comes_first() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut asker = broker.connect();
    for (end, told) in [("CLIENT KILL ID", ":1\r\n"), ("CLIENT UNBLOCK", ":0\r\n")] {
        for round in 0..10 {
            let mut popper = broker.connect();
            let popper_id = id(&mut popper);
            popper.send("BLPOP l 0");
            wait_until("it is blocked", || redis.ask("INFO clients").contains("blocked_clients:1"));
            asker.write(&pipeline(&["RPUSH l e", &format!("{end} {popper_id}"), "LLEN l"]));
            let replies: Vec<String> = (0..3).map(|_| asker.read_text()).collect();
            assert_eq!(replies, [":1\r\n", told, ":0\r\n"], "{end}, round {round}");
        }
    }
}

/// One that waits for a lane of the broker's is unblocked all the same.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn unblocked_in_the_brokers_own_line() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("leases_blocking_max", "1")]);
    let (mut first, mut asker) = (broker.connect(), broker.connect());
    first.send("BLPOP none 0");
    for (request, reason, reply) in [
        ("BLPOP none 0", "TIMEOUT", "*-1\r\n"),
        ("BLPOP none 0", "ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n"),
    ] {
        let mut second = broker.connect();
        let waiting = id(&mut second);
        second.write(&pipeline(&[request, "PING"]));
        wait_until("it stands in the line", || {
            let line = lines(&mut asker, &format!("CLIENT LIST ID {waiting}"));
            field(&line[0], "flags").contains('b')
        });
        asker.expect(&format!("CLIENT UNBLOCK {waiting} {reason}"), ":1\r\n");
        assert_eq!(second.read_text(), reply);
        assert_eq!(second.read_text(), "+PONG\r\n");
    }
    // And whoever has the lane keeps it.
    asker.expect("RPUSH none x", ":1\r\n");
    assert_eq!(first.read_text(), "*2\r\n$4\r\nnone\r\n$1\r\nx\r\n");
}

/// Ids of the upstream mean nothing here: nobody is unblocked by them.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn ids_of_the_upstream_name_nobody() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let (mut blocked, mut asker) = (broker.connect(), broker.connect());
    blocked.send("BLPOP list 0");
    let upstream = |redis: &Redis| {
        let clients = upstream_clients(redis);
        clients
            .iter()
            .find(|client| client.field("cmd") == "blpop")
            .map(|client| client.field("id").to_owned())
    };
    wait_until("it waits upstream", || upstream(&redis).is_some());
    asker.expect(&format!("CLIENT UNBLOCK {}", upstream(&redis).expect("seen")), ":0\r\n");
    asker.expect("RPUSH list x", ":1\r\n");
    assert_eq!(blocked.read_text(), "*2\r\n$4\r\nlist\r\n$1\r\nx\r\n");
}

/// A lane whose command was unblocked is clean, and never lent before the answer came.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn unblocking_and_popping_at_once_loses_nothing() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("leases_blocking_max", "2")]);
    let (mut asker, mut pusher) = (broker.connect(), broker.connect());
    let mut popped = 0;
    let mut popper = broker.connect();
    let popper_id = id(&mut popper);
    for round in 0..300 {
        popper.send("BLPOP q 0");
        asker.send(&format!("CLIENT UNBLOCK {popper_id}"));
        pusher.expect(&format!("RPUSH q {round}"), ":1\r\n");
        let unblocked = asker.read_text() == ":1\r\n";
        let reply = popper.read_text();
        assert_eq!(reply == "*-1\r\n", unblocked, "round {round}: {reply}");
        popped += usize::from(!unblocked);
        let left = if unblocked { 1 } else { 0 };
        pusher.expect("LLEN q", &format!(":{left}\r\n"));
        pusher.ask("DEL q");
    }
    eprintln!("{popped} of 300 popped");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn inside_multi_only_looking_is_possible() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    raw.expect("MULTI", "+OK\r\n");
    raw.expect("CLIENT LIST", "+QUEUED\r\n");
    let reply = raw.ask("EXEC");
    assert!(reply.starts_with("*1\r\n$") && reply.contains(" cmd=exec "), "{reply}");
    for line in ["CLIENT KILL ID 1", "CLIENT UNBLOCK 1"] {
        raw.expect("MULTI", "+OK\r\n");
        assert!(raw.ask(line).ends_with("inside MULTI is not supported by the broker\r\n"));
        assert!(raw.ask("EXEC").starts_with("-EXECABORT"));
    }
}

/// An id is looked up, not looked for among all children: that would have taken minutes here.
#[test]
fn a_million_ids_beside_many_children() {
    raise_open_files();
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut children: Vec<Raw> = (0..1_500).map(|_| broker.connect()).collect();
    let newest = children.last_mut().map(id).expect("a child");
    let mut raw = broker.connect();
    let mut args = vec!["CLIENT", "LIST", "ID"];
    args.extend(std::iter::repeat_n("999999999999", 1_000_000));
    args.push(&newest);
    let bytes = request(&args);
    raw.write(&bytes);
    let list = raw.read_text();
    assert_eq!(list.matches(" fd=").count(), 1);
    assert!(list.contains(&format!("id={newest} ")), "{list}");
}
