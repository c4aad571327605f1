//! PAUSE, RESUME, RECONNECT and UPSTREAM: whatever happens to Redis meanwhile, children see nothing of it but time.

use crate::support::console::{rows, said};
use crate::support::{Broker, Raw, Redis, admin_beside, upstream_clients, wait_until};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn admin(broker: &Broker) -> Raw {
    wait_until("the upstream", || broker.log().contains("is up"));
    Raw::unix(&admin_beside(broker.socket()))
}

/// Waits until so many children wait for the end of a pause.
fn wait_held(admin: &mut Raw, count: usize) {
    wait_until("children that are held", || rows(admin, "CHILDREN WHERE waits_for pause").len() == count);
}

/// Who is connected to Redis, but for the broker's own questions.
fn ids(redis: &Redis) -> Vec<String> {
    upstream_clients(redis).iter().map(|client| client.field("id").to_owned()).collect()
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn requests_wait_for_the_end_of_a_pause_and_are_answered_in_order() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("ping", "local")]);
    let (mut child, mut other, mut admin, mut look) =
        (broker.connect(), broker.connect_resp3(), admin(&broker), broker.connect());
    child.expect("SET k 1", "+OK\r\n");
    admin.expect("BROKER PAUSE", "+OK\r\n");
    child.write(b"INCR k\r\nINCR k\r\nGET k\r\n");
    other.send("MULTI");
    wait_held(&mut look, 2);
    assert_eq!(redis.ask("GET k"), "$1\r\n1\r\n", "nothing was written");
    let mut third = broker.connect();
    third.expect("PING", "+PONG\r\n");
    third.expect("CLIENT SETNAME new", "+OK\r\n");
    assert_eq!(said(&mut admin, "BROKER PAUSE 60000"), "+OK", "it is paused already");
    admin.expect("BROKER RESUME", "+OK\r\n");
    assert_eq!(child.read_text() + &child.read_text() + &child.read_text(), ":2\r\n:3\r\n$1\r\n3\r\n");
    assert_eq!(other.read_text(), "+OK\r\n");
    assert_eq!(said(&mut admin, "BROKER RESUME"), "-ERR the broker is not paused");
    assert!(said(&mut admin, "BROKER PAUSE 0").starts_with("-ERR "));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_pause_waits_for_what_is_in_flight_and_lets_transactions_finish() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let (mut slow, mut watching, mut queueing, mut admin, mut look) =
        (broker.connect(), broker.connect(), broker.connect(), admin(&broker), broker.connect());
    watching.expect("WATCH w", "+OK\r\n");
    queueing.expect("MULTI", "+OK\r\n");
    queueing.expect("INCR q", "+QUEUED\r\n");
    slow.write(b"EVAL \"for i = 1, 2e7 do end return redis.call('INCR', 's')\" 0\r\n");
    wait_until("the script", || !rows(&mut look, "LANES WHERE in_flight >0").is_empty());
    admin.send("BROKER PAUSE");
    assert_eq!(slow.read_text(), ":1\r\n");
    queueing.send("EXEC");
    wait_held(&mut look, 1);
    assert!(admin.is_silent(Duration::from_millis(30)), "a transaction is open");
    watching.expect("MULTI", "+OK\r\n");
    watching.expect("INCR w", "+QUEUED\r\n");
    watching.expect("EXEC", "*1\r\n:1\r\n");
    assert_eq!(admin.read_text(), "+OK\r\n");
    watching.send("WATCH w");
    wait_held(&mut look, 2);
    admin.expect("BROKER RESUME", "+OK\r\n");
    assert_eq!((queueing.read_text(), watching.read_text()), ("*1\r\n:1\r\n".into(), "+OK\r\n".into()));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn nobody_sees_redis_restart_during_a_pause() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("queue_timeout", "50"), ("lease_wait_timeout", "50")]);
    let (mut admin, mut look) = (admin(&broker), broker.connect());
    let mut children: Vec<Raw> = (0..8).map(|_| broker.connect()).collect();
    let mut popping = broker.connect();
    popping.send("BLPOP list 0");
    wait_until("the blocked pop", || rows(&mut look, "CHILDREN WHERE waits_for element").len() == 1);
    for child in &mut children {
        child.expect("INCR n", &format!(":{}\r\n", redis.ask("GET n")[4..].trim().parse().unwrap_or(0) + 1));
    }
    admin.expect("BROKER PAUSE", "+OK\r\n");
    let blocked = || upstream_clients(&redis).iter().filter(|one| one.field("flags").contains('b')).count();
    assert_eq!(blocked(), 0, "it was taken back");
    redis.kill();
    for (at, child) in children.iter_mut().enumerate() {
        let text = if at % 2 == 0 { format!("SET k{at} {at}") } else { format!("BLPOP l{at} 0.1") };
        child.send(&text);
    }
    wait_held(&mut look, children.len());
    // Longer than anybody would have waited for a connection.
    std::thread::sleep(Duration::from_millis(200));
    redis.restart();
    admin.expect("BROKER RESUME", "+OK\r\n");
    for (at, child) in children.iter_mut().enumerate() {
        assert_eq!(child.read_text(), if at % 2 == 0 { "+OK\r\n" } else { "*-1\r\n" }, "child {at}");
    }
    redis.ask("RPUSH list one");
    assert_eq!(popping.read_text(), "*2\r\n$4\r\nlist\r\n$3\r\none\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn blocked_pops_are_served_after_a_pause_in_their_order() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let (mut admin, mut look) = (admin(&broker), broker.connect());
    let mut popping: Vec<Raw> = Vec::new();
    for at in 0..6 {
        let mut child = broker.connect();
        child.send("BLPOP list 0");
        wait_until("the blocked pop", || rows(&mut look, "CHILDREN WHERE waits_for element").len() == at + 1);
        popping.push(child);
    }
    let mut short = broker.connect();
    short.send("BRPOP nothing 0.05");
    let mut reading = broker.connect();
    reading.send("XREAD BLOCK 0 STREAMS stream $");
    wait_until("the reader", || rows(&mut look, "CHILDREN WHERE command xread").len() == 1);
    admin.expect("BROKER PAUSE", "+OK\r\n");
    // What comes during the pause stays where it is, but for whoever waits for what comes from now on.
    let values: Vec<String> = (0..6).map(|at| at.to_string()).collect();
    redis.ask(&format!("RPUSH list {}", values.join(" ")));
    redis.ask("XADD stream 1-1 f v");
    assert!(reading.read_text().starts_with("*1\r\n*2\r\n$6\r\nstream"));
    assert_eq!(redis.ask("LLEN list"), ":6\r\n");
    admin.expect("BROKER RESUME", "+OK\r\n");
    for (at, child) in popping.iter_mut().enumerate() {
        assert_eq!(child.read_text(), format!("*2\r\n$4\r\nlist\r\n$1\r\n{at}\r\n"));
    }
    assert_eq!(short.read_text(), "*-1\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_pause_ends_by_itself() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("pause_timeout", "200")]);
    let (mut child, mut watching, mut admin) = (broker.connect(), broker.connect(), admin(&broker));
    child.expect("SET k v", "+OK\r\n");
    admin.expect("BROKER PAUSE", "+OK\r\n");
    child.expect("GET k", "$1\r\nv\r\n");
    wait_until("the line", || broker.log().contains("the pause ends by itself after"));
    watching.expect("WATCH w", "+OK\r\n");
    let began = Instant::now();
    let said = said(&mut admin, "BROKER PAUSE 100");
    assert!(said.starts_with("-ERR resumed before all was at rest"), "{said}");
    assert!(began.elapsed() >= Duration::from_millis(100));
    child.expect("GET k", "$1\r\nv\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_drain_ends_a_pause() {
    let redis = Redis::start();
    let mut broker = Broker::start(&redis, &[]);
    let (mut child, mut admin, mut look) = (broker.connect(), admin(&broker), broker.connect());
    admin.expect("BROKER PAUSE", "+OK\r\n");
    child.send("SET k v");
    wait_held(&mut look, 1);
    broker.term();
    assert_eq!(child.read_text(), "+OK\r\n");
    assert!(broker.wait_exit(Duration::from_secs(20)).success());
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn reconnect_replaces_every_connection_and_loses_nothing() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("on_subscriber_loss", "resubscribe")]);
    let (mut child, mut watching, mut popping, mut subscriber, mut admin) =
        (broker.connect(), broker.connect(), broker.connect(), broker.connect(), admin(&broker));
    child.expect("SET k v", "+OK\r\n");
    watching.expect("WATCH w", "+OK\r\n");
    popping.send("BLPOP list 0");
    subscriber.ask("SUBSCRIBE news");
    wait_until("the blocked pop", || {
        upstream_clients(&redis).iter().any(|one| one.field("flags").contains('b'))
    });
    let before = ids(&redis);
    admin.expect("BROKER RECONNECT", "+OK\r\n");
    for round in 0..50 {
        child.expect("INCR n", &format!(":{}\r\n", round + 1));
    }
    watching.expect("MULTI", "+OK\r\n");
    watching.expect("INCR w", "+QUEUED\r\n");
    watching.expect("EXEC", "*1\r\n:1\r\n");
    wait_until("other connections", || ids(&redis).iter().all(|id| !before.contains(id)));
    redis.ask("RPUSH list one");
    assert_eq!(popping.read_text(), "*2\r\n$4\r\nlist\r\n$3\r\none\r\n");
    wait_until("the subscription", || redis.ask("PUBLISH news hello") == ":1\r\n");
    assert!(subscriber.read_text().ends_with("hello\r\n"));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_move_leads_everybody_to_another_server() {
    let (from, to) = (Redis::start(), Redis::start());
    from.ask("SET who from");
    to.ask("SET who to");
    let broker = Broker::start(&from, &[]);
    let (mut child, mut popping, mut admin) = (broker.connect(), broker.connect(), admin(&broker));
    child.expect("GET who", "$4\r\nfrom\r\n");
    popping.send("BLPOP list 0");
    wait_until("the blocked pop", || {
        upstream_clients(&from).iter().any(|one| one.field("flags").contains('b'))
    });
    admin.expect(&format!("BROKER UPSTREAM {}", to.url()), "+OK\r\n");
    child.expect("GET who", "$2\r\nto\r\n");
    to.ask("RPUSH list one");
    assert_eq!(popping.read_text(), "*2\r\n$4\r\nlist\r\n$3\r\none\r\n");
    wait_until("nobody at the former one", || upstream_clients(&from).is_empty());
    let mut look = broker.connect();
    assert_eq!(rows(&mut look, "CONFIG WHERE key upstream")[0]["value"], format!("{}?db=0", to.url()));
    // In a pause that was asked for: it goes on.
    admin.expect("BROKER PAUSE", "+OK\r\n");
    child.send("GET who");
    wait_held(&mut look, 1);
    admin.expect(&format!("BROKER UPSTREAM {}", from.url()), "+OK\r\n");
    wait_held(&mut look, 1);
    admin.expect("BROKER RESUME", "+OK\r\n");
    assert_eq!(child.read_text(), "$4\r\nfrom\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_server_that_does_not_serve_is_not_moved_to() {
    let from = Redis::start();
    from.ask("SET who from");
    let settings = [("connect_timeout", "500"), ("on_subscriber_loss", "close")];
    let broker = Broker::start(&from, &settings);
    let (mut child, mut subscriber, mut admin) = (broker.connect(), broker.connect(), admin(&broker));
    subscriber.ask("SUBSCRIBE news");
    child.expect("GET who", "$4\r\nfrom\r\n");
    let mut busy = broker.connect();
    busy.expect("SELECT 15", "+OK\r\n");
    busy.expect("GETDEL nothing", "$-1\r\n");
    let before = ids(&from).len();
    let mut refused = |url: &str, why: &str| {
        let over = AtomicBool::new(false);
        let said = std::thread::scope(|scope| {
            // What the other server knows or does not is nothing to a child.
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    busy.expect("GETDEL nothing", "$-1\r\n");
                    busy.expect("SELECT 15", "+OK\r\n");
                }
            });
            let said = said(&mut admin, &format!("BROKER UPSTREAM {url}"));
            over.store(true, Ordering::SeqCst);
            said
        });
        assert!(said.starts_with("-ERR not moved: ") && said.contains(why), "{url}: {said}");
        child.expect("GET who", "$4\r\nfrom\r\n");
    };
    let nobody = from.directory().join("nobody.sock");
    refused(&format!("unix://{}", nobody.display()), "No such file");
    let replica = Redis::start();
    replica.ask("REPLICAOF 127.0.0.1 1");
    refused(&replica.url(), "a replica");
    let locked = Redis::start_with(&["--requirepass", "secret"]);
    refused(&locked.url(), "NOAUTH");
    let hangs = Redis::start();
    hangs.stop();
    refused(&hangs.url(), "");
    hangs.cont();
    let loading = Redis::start_with(&["--rename-command", "GETDEL", ""]);
    let mut direct = loading.connect();
    for batch in 0..40 {
        let values: Vec<String> = (0..50).map(|number| format!("key:{batch}:{number} value")).collect();
        direct.ask(&format!("MSET {}", values.join(" ")));
    }
    direct.expect("SAVE", "+OK\r\n");
    drop(direct);
    loading.restart_loading();
    refused(&loading.url(), "LOADING");
    assert!(said(&mut admin, "BROKER UPSTREAM http://x").starts_with("-ERR "));
    wait_until("as many connections as before", || ids(&from).len() == before);
    from.ask("PUBLISH news still");
    assert!(subscriber.read_text().ends_with("still\r\n"), "nobody was closed");
}
