//! CLIENT TRACKING through the broker: a child that tracks has a connection to itself, its invalidations come
//! where Redis puts them, and nothing of it is left for anybody after it.

use crate::support::raw::pipeline;
use crate::support::{Broker, Pair, Raw, Redis, Twin, upstream_clients, wait_until};

/// Each on connections of their own.
#[rustfmt::skip]
const ALONE: &[&[&str]] = &[
    &["CLIENT TRACKING ON", "CLIENT TRACKINGINFO", "CLIENT GETREDIR", "CLIENT TRACKING OFF", "CLIENT TRACKINGINFO",
      "CLIENT GETREDIR"],
    &["CLIENT TRACKING OFF", "CLIENT TRACKING", "CLIENT TRACKING foo", "CLIENT TRACKING ON REDIRECT",
      "CLIENT TRACKING ON REDIRECT x", "CLIENT TRACKING ON REDIRECT 0", "CLIENT TRACKING ON REDIRECT 99",
      "CLIENT TRACKING ON BCAST OPTIN", "CLIENT TRACKING ON OPTIN OPTOUT", "CLIENT TRACKING ON PREFIX a",
      "CLIENT TRACKING ON REDIRECT 99 REDIRECT 98", "CLIENT TRACKING ON NONSENSE", "CLIENT TRACKINGINFO", "GET k"],
    &["CLIENT TRACKING ON OPTIN", "CLIENT CACHING YES", "GET k", "CLIENT CACHING NO", "CLIENT CACHING maybe",
      "CLIENT TRACKINGINFO", "CLIENT TRACKING ON OPTOUT", "CLIENT TRACKING OFF", "CLIENT CACHING YES"],
    &["CLIENT TRACKING ON BCAST PREFIX a PREFIX b NOLOOP", "CLIENT TRACKINGINFO", "CLIENT TRACKING ON BCAST PREFIX aa",
      "CLIENT TRACKING ON", "CLIENT TRACKING OFF", "CLIENT TRACKING ON BCAST PREFIX a PREFIX ab"],
    &["CLIENT TRACKING ON", "GET k", "MULTI", "SET n 1", "EXEC", "SELECT 3", "GET k", "SELECT 0", "WATCH k",
      "MULTI", "GET k", "EXEC", "BLPOP none 0.01", "NOSUCH", "GET", "PING", "CLIENT GETNAME", "RESET",
      "CLIENT TRACKINGINFO", "GET k"],
];

#[test]
fn a_child_that_tracks_is_answered_as_by_redis() {
    for integrity in ["off", "always"] {
        answered_as_by_redis(&Twin::start_with(&[], &[("integrity", integrity)]));
    }
}

fn answered_as_by_redis(twin: &Twin) {
    for resp3 in [false, true] {
        for lines in ALONE {
            let mut pair = if resp3 { twin.pair_resp3() } else { twin.pair() };
            pair.same("SET k v");
            for line in *lines {
                pair.same(line);
            }
        }
    }
}

/// Requests and invalidations on one connection come in one order, in one write or not.
#[test]
fn invalidations_stand_where_redis_puts_them() {
    let twin = Twin::start_with(&[], &[("integrity", "always")]);
    let mut pair = twin.pair_resp3();
    pair.same("CLIENT TRACKING ON");
    let lines = ["SET k 1", "GET k", "SET k 2", "GET k", "MULTI", "GET k", "SET k 3", "EXEC", "PING"];
    // Two of the frames are pushes: after the second SET, and after EXEC.
    let frames = pair.same_pipeline(&pipeline(&lines), lines.len() + 2);
    assert_eq!(frames.iter().filter(|frame| frame.starts_with(b">")).count(), 2);
    let mut other = twin.pair();
    for request in ["SET k 4", "FLUSHALL"] {
        pair.same("GET k");
        other.same(request);
        pair.same_replies("the invalidation", 1);
    }
    // While it waits for an element, too.
    pair.same("GET k");
    for raw in [&mut pair.direct, &mut pair.brokered] {
        raw.send("BLPOP list 0");
    }
    other.same("SET k 5");
    pair.same_replies("the invalidation", 1);
    other.same("RPUSH list x");
    pair.same_replies("the element", 1);
}

#[test]
fn every_mode_tells_of_the_same_keys() {
    let twin = Twin::start_with(&[], &[("integrity", "always")]);
    for (mode, own) in [
        ("BCAST PREFIX a", true),
        ("BCAST PREFIX a NOLOOP", false),
        ("NOLOOP", false),
        ("OPTIN", false),
        ("OPTOUT", true),
    ] {
        let mut pair = twin.pair_resp3();
        let mut other = twin.pair();
        other.same("FLUSHALL");
        pair.same(&format!("CLIENT TRACKING ON {mode}"));
        pair.same("GET a");
        for raw in [&mut pair.direct, &mut pair.brokered] {
            raw.write(&pipeline(&["SET a 1"]));
        }
        pair.same_replies("the write", if own { 2 } else { 1 });
        if mode == "OPTIN" {
            pair.same("CLIENT CACHING YES");
        }
        pair.same("GET a");
        other.same("SET a 2");
        pair.same_replies("another's write", 1);
        pair.same("CLIENT TRACKINGINFO");
    }
}

/// In RESP2 another connection hears of it, and is named by its id at the broker.
#[test]
fn invalidations_are_redirected_to_another_child() {
    for pubsub in ["shared", "leased"] {
        redirected(&Twin::start_with(&[], &[("pubsub", pubsub)]));
    }
}

fn redirected(twin: &Twin) {
    let (mut listener, mut pair, mut other) = (twin.pair(), twin.pair(), twin.pair());
    let id = |raw: &mut Raw| raw.ask("CLIENT ID")[1..].trim_end().to_owned();
    let ids = [id(&mut listener.direct), id(&mut listener.brokered)];
    listener.same("SUBSCRIBE __redis__:invalidate");
    let both = |pair: &mut Pair, request: &dyn Fn(&str) -> String, form: &dyn Fn(&str, &str) -> String| {
        let wanted = form(&pair.direct.ask(&request(&ids[0])), &ids[0]);
        assert_eq!(form(&pair.brokered.ask(&request(&ids[1])), &ids[1]), wanted);
        wanted
    };
    let plain = |reply: &str, id: &str| reply.replace(id, "ID");
    let twice = |id: &str| format!("CLIENT TRACKING ON REDIRECT {id} REDIRECT {id} NONSENSE");
    assert!(both(&mut pair, &twice, &plain).contains("single other client"));
    both(&mut pair, &|id| format!("CLIENT TRACKING ON REDIRECT {id}"), &plain);
    assert_eq!(both(&mut pair, &|_| "CLIENT GETREDIR".into(), &plain), ":ID\r\n");
    assert!(both(&mut pair, &|_| "CLIENT TRACKINGINFO".into(), &plain).contains(":ID\r\n"));
    pair.same("GET k");
    other.same("SET k 1");
    let message = listener.same_replies("the invalidation", 1).remove(0);
    assert!(String::from_utf8_lossy(&message).contains("__redis__:invalidate"));
}

/// Caching libraries read within MULTI and say there what they want to keep.
#[test]
fn caching_inside_multi_is_redis_own_affair() {
    let twin = Twin::start();
    let (mut pair, mut other) = (twin.pair_resp3(), twin.pair());
    for sequence in [
        "CLIENT TRACKING ON OPTIN; MULTI; CLIENT CACHING YES; GET k; EXEC",
        "CLIENT CACHING YES; MULTI; GET k; EXEC; MULTI; CLIENT CACHING MAYBE; CLIENT CACHING NO; GET k; EXEC",
        "CLIENT TRACKING OFF; CLIENT TRACKING ON OPTOUT; MULTI; CLIENT CACHING NO; GET l; CLIENT CACHING YES; EXEC",
    ] {
        sequence.split("; ").for_each(|line| drop(pair.same(line)));
        other.same("SET k 1");
        other.same("SET l 1");
        assert_eq!(up_to_pong(&mut pair.brokered), up_to_pong(&mut pair.direct), "after {sequence}");
    }
}

/// What comes before the reply to a PING sent now, and that.
fn up_to_pong(raw: &mut Raw) -> Vec<String> {
    raw.send("PING");
    let mut frames = Vec::new();
    while frames.last().is_none_or(|frame| frame != "+PONG\r\n") {
        frames.push(raw.read_text());
    }
    frames
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_child_without_a_connection_is_no_goal() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let (mut raw, mut other) = (broker.connect(), broker.connect());
    let id = other.ask("CLIENT ID")[1..].trim_end().to_owned();
    let text = "-ERR The client ID you want redirect to does not exist\r\n";
    raw.expect(&format!("CLIENT TRACKING ON REDIRECT {id}"), text);
    // Nor is an id of the upstream.
    let upstream = upstream_clients(&redis).first().map(|client| client.field("id").to_owned());
    raw.expect(&format!("CLIENT TRACKING ON REDIRECT {}", upstream.expect("a lane")), text);
    raw.expect("GET k", "$-1\r\n");
    // One that tracks itself is.
    other.expect("CLIENT TRACKING ON", "+OK\r\n");
    raw.expect(&format!("CLIENT TRACKING ON REDIRECT {id}"), "+OK\r\n");
    raw.expect("CLIENT GETREDIR", &format!(":{id}\r\n"));
}

fn tracking(redis: &Redis) -> usize {
    upstream_clients(redis).iter().filter(|client| client.field("flags").contains('t')).count()
}

/// The lane goes by the child's name, and ends with what it was for.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn nothing_of_it_is_left_upstream() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("leases_session_max", "1"), ("lease_wait_timeout", "700")]);
    let mut raw = broker.connect_resp3();
    raw.expect("CLIENT SETNAME tracker", "+OK\r\n");
    for end in ["CLIENT TRACKING OFF", "RESET", "", "CLIENT TRACKING ON NONSENSE"] {
        raw.expect("CLIENT TRACKING ON", "+OK\r\n");
        assert_eq!(tracking(&redis), 1);
        let named = |redis: &Redis| upstream_clients(redis).iter().any(|client| client.name() == "tracker");
        assert!(end.contains("NONSENSE") || end.is_empty() || named(&redis));
        let reply = broker.connect().ask("CLIENT TRACKING ON");
        assert!(reply.starts_with("-BROKERLIMIT"), "{reply}");
        match end {
            "" => raw = broker.connect_resp3(),
            "CLIENT TRACKING ON NONSENSE" => {
                raw.expect(end, "-ERR syntax error\r\n");
                raw.expect("CLIENT GETREDIR", ":0\r\n");
                raw.expect("CLIENT TRACKING OFF", "+OK\r\n");
            }
            _ => drop(raw.ask(end)),
        }
        wait_until("its lane is closed", || tracking(&redis) == 0 && !named(&redis));
        if end == "RESET" {
            raw.expect("CLIENT SETNAME tracker", "+OK\r\n");
        }
    }
    raw.expect("CLIENT TRACKING ON", "+OK\r\n");
}

/// A lost connection has taken the server's memory of what was read with it: the child must hear of that.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_child_ends_with_its_lane() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let (mut raw, mut other) = (broker.connect_resp3(), broker.connect());
    raw.expect("CLIENT TRACKING ON", "+OK\r\n");
    other.expect("PING", "+PONG\r\n");
    let clients = upstream_clients(&redis);
    let lane = clients.iter().find(|client| client.field("flags").contains('t')).expect("its lane");
    redis.ask(&format!("CLIENT KILL ID {}", lane.field("id")));
    assert!(raw.is_closed());
    other.expect("PING", "+PONG\r\n");
}

/// To track is no transaction left open.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn idle_transactions_end_and_tracking_goes_on() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("idle_transaction_timeout", "50")]);
    let mut raw = broker.connect_resp3();
    raw.expect("CLIENT TRACKING ON", "+OK\r\n");
    let mut watching = broker.connect();
    watching.expect("WATCH k", "+OK\r\n");
    assert!(watching.is_closed());
    raw.expect("CLIENT GETREDIR", ":0\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn inside_multi_it_is_refused() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    raw.expect("MULTI", "+OK\r\n");
    raw.expect("CLIENT TRACKING ON", "-ERR CLIENT TRACKING inside MULTI is not supported by the broker\r\n");
    assert!(raw.ask("EXEC").starts_with("-EXECABORT"));
    assert_eq!(tracking(&redis), 0);
}
