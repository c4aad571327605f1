//! Shared subscriptions: one upstream subscription for any number of children, each of which hears what it would
//! hear on a connection of its own; what Redis counts, what a loss means, what a user may not hear.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::proxy::Proxy;
use crate::support::raw::pipeline;
use crate::support::{
    self, Broker, End, Pair, Raw, Redis, Twin, request, seeded, upstream_clients, wait_until,
};
use fastrand::Rng;

fn subscriber_connections(redis: &Redis) -> usize {
    upstream_clients(redis).iter().filter(|client| client.name() == "broker-subscriber").count()
}

fn message(head: char, channel: &str, text: &str) -> String {
    format!("{head}3\r\n$7\r\nmessage\r\n${}\r\n{channel}\r\n${}\r\n{text}\r\n", channel.len(), text.len())
}

// ---- many ------------------------------------------------------------------------------------------------

/// Redis counts one of five thousand; each hears every message once and in order; one that does not read is
/// closed alone.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn five_thousand_subscribers_of_one_channel() {
    support::raise_open_files();
    let redis = Redis::start();
    let settings = [("subscriber_output_max", "1MiB"), ("subscriber_output_soft", "512KiB")];
    let broker = Broker::start(&redis, &settings);
    let mut children: Vec<Raw> = (0..5000).map(|_| broker.connect()).collect();
    for (number, raw) in children.iter_mut().enumerate() {
        if number % 2 == 1 {
            raw.send("HELLO 3");
        }
        raw.send("SUBSCRIBE feed");
    }
    for (number, raw) in children.iter_mut().enumerate() {
        if number % 2 == 1 {
            raw.read_reply();
        }
        let head = ['*', '>'][number % 2];
        assert_eq!(raw.read_text(), format!("{head}3\r\n$9\r\nsubscribe\r\n$4\r\nfeed\r\n:1\r\n"));
    }
    assert_eq!(redis.ask("PUBSUB NUMSUB feed"), "*2\r\n$4\r\nfeed\r\n:1\r\n");
    assert_eq!(subscriber_connections(&redis), 1);
    let mut publisher = broker.connect();
    let lines: Vec<String> = (0..20).map(|number| format!("PUBLISH feed {number}")).collect();
    publisher.write(&pipeline(&lines.iter().map(String::as_str).collect::<Vec<_>>()));
    (0..20).for_each(|_| assert_eq!(publisher.read_text(), ":1\r\n"));
    for number in 0..20 {
        for (index, raw) in children.iter_mut().enumerate() {
            assert_eq!(raw.read_text(), message(['*', '>'][index % 2], "feed", &number.to_string()));
        }
    }
    // One of them and another listen to more than one of them reads.
    let mut deaf = children.swap_remove(17);
    let mut keen = broker.connect();
    for raw in [&mut deaf, &mut keen] {
        raw.ask("SUBSCRIBE flood");
    }
    let payload = "x".repeat(64 * 1024);
    for _ in 0..100 {
        publisher.write(&request(&["PUBLISH", "flood", &payload]));
        assert!(keen.read_reply().len() > payload.len());
        assert_eq!(publisher.read_text(), ":1\r\n");
    }
    let (bytes, end) = deaf.read_all();
    assert_eq!(end, End::Closed);
    assert!(bytes.len() < 100 * payload.len(), "it was closed before the end");
    publisher.expect("PUBLISH feed last", ":1\r\n");
    for raw in &mut children {
        assert_eq!(raw.read_text()[1..], message('*', "feed", "last")[1..]);
        raw.send("UNSUBSCRIBE");
    }
    for raw in &mut children {
        assert_eq!(raw.read_text()[1..], "3\r\n$11\r\nunsubscribe\r\n$4\r\nfeed\r\n:0\r\n"[..]);
    }
    publisher.expect("PUBLISH feed nobody", ":0\r\n");
}

// ---- comings and goings ----------------------------------------------------------------------------------

const CHANNELS: usize = 3;

/// How often each child comes or goes.
fn rounds() -> usize {
    std::env::var("BROKER_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(150)
}

/// What has been published of each channel: the last number sent, and the last one answered.
#[derive(Default)]
struct Feed {
    sent: AtomicU64,
    answered: AtomicU64,
}

/// Ordinary channels first, then as many shard channels.
type Feeds = [Feed; 2 * CHANNELS];

fn name_of(channel: usize) -> String {
    if channel < CHANNELS { format!("ch{channel}") } else { format!("sh{channel}") }
}

/// Subscribes to something that carries `feeds`, and back: `SUBSCRIBE`, what it names, and which feeds.
fn choices() -> Vec<(&'static str, String, Vec<usize>)> {
    let channels = (0..CHANNELS).map(|channel| ("", name_of(channel), vec![channel]));
    let patterns = [("P", "ch*".to_owned(), (0..CHANNELS).collect()), ("P", "*1".to_owned(), vec![1])];
    let shards = (CHANNELS..2 * CHANNELS).map(|channel| ("S", name_of(channel), vec![channel]));
    channels.chain(patterns).chain(shards).collect()
}

/// One child that comes and goes, and what it has heard since: by (kind, what it named, feed).
struct Fickle<'a> {
    raw: Raw,
    feeds: &'a Feeds,
    heard: HashMap<(String, String, usize), Heard>,
}

#[derive(Clone, Copy)]
struct Heard {
    /// Answered when it asked: older than its subscription.
    floor: u64,
    /// Sent when it was confirmed: whatever comes later it has to hear.
    ceiling: u64,
    last: Option<u64>,
}

impl Fickle<'_> {
    /// Takes one frame. True if it is a confirmation.
    fn take(&mut self) -> bool {
        let frame = self.raw.read_text();
        let parts: Vec<&str> = frame.split("\r\n").collect();
        let (kind, named) = (parts[2], parts[4]);
        if kind.ends_with("subscribe") {
            return true;
        }
        let (family, channel, text) = match kind {
            "message" => ("", named, parts[6]),
            "smessage" => ("S", named, parts[6]),
            "pmessage" => ("P", parts[6], parts[8]),
            _ => panic!("neither message nor confirmation: {frame}"),
        };
        let feed: usize = channel[2..].parse().expect("a feed");
        let number: u64 = text.parse().expect("a number");
        let key = (family.to_owned(), named.to_owned(), feed);
        let heard = self.heard.get_mut(&key).unwrap_or_else(|| panic!("not subscribed to that: {frame}"));
        assert!(number > heard.floor, "published before it asked: {number}, {key:?}");
        match heard.last {
            Some(last) => assert_eq!(number, last + 1, "{key:?}"),
            None => assert!(number <= heard.ceiling + 1, "{number} is not the first since {}", heard.ceiling),
        }
        heard.last = Some(number);
        false
    }

    fn join(&mut self, (family, named, feeds): &(&str, String, Vec<usize>)) {
        let key = |feed: usize| (family.to_string(), named.clone(), feed);
        let floors: Vec<u64> =
            feeds.iter().map(|feed| self.feeds[*feed].answered.load(Ordering::SeqCst)).collect();
        let again = self.heard.contains_key(&key(feeds[0]));
        self.raw.send(&format!("{family}SUBSCRIBE {named}"));
        while !self.take() {}
        if !again {
            for (feed, floor) in feeds.iter().zip(floors) {
                let ceiling = self.feeds[*feed].sent.load(Ordering::SeqCst);
                self.heard.insert(key(*feed), Heard { floor, ceiling, last: None });
            }
        }
    }

    fn leave(&mut self, (family, named, feeds): &(&str, String, Vec<usize>)) {
        let answered: Vec<u64> =
            feeds.iter().map(|feed| self.feeds[*feed].answered.load(Ordering::SeqCst)).collect();
        self.raw.send(&format!("{family}UNSUBSCRIBE {named}"));
        while !self.take() {}
        for (feed, answered) in feeds.iter().zip(answered) {
            let Some(heard) = self.heard.remove(&(family.to_string(), named.clone(), *feed)) else {
                continue;
            };
            let last = heard.last.unwrap_or(heard.ceiling);
            assert!(last >= answered, "{answered} was published before it left {named}, {last} was its last");
        }
    }
}

fn come_and_go(broker: &Broker, feeds: &Feeds, mut rng: Rng) {
    let raw = if rng.bool() { broker.connect() } else { broker.connect_resp3() };
    let choices = choices();
    let mut child = Fickle { raw, feeds, heard: HashMap::new() };
    for _ in 0..rounds() {
        let choice = &choices[rng.usize(..choices.len())];
        if rng.bool() {
            child.join(choice);
        } else {
            child.leave(choice);
        }
    }
    for choice in &choices {
        child.leave(choice);
    }
}

fn publish_until(broker: &Broker, feeds: &Feeds, done: &AtomicBool, mut rng: Rng) {
    let mut raw = broker.connect();
    while !done.load(Ordering::SeqCst) {
        let channel = rng.usize(..feeds.len());
        let number = feeds[channel].sent.fetch_add(1, Ordering::SeqCst) + 1;
        let verb = if channel < CHANNELS { "PUBLISH" } else { "SPUBLISH" };
        let reply = raw.ask(&format!("{verb} {} {number}", name_of(channel)));
        assert!(reply.starts_with(':'), "{reply}");
        feeds[channel].answered.store(number, Ordering::SeqCst);
    }
}

/// Every message published between a confirmation and the request to leave, once and in order; none that
/// was published before the request to join, none after the confirmation of leaving.
#[test]
fn comings_and_goings_lose_and_invent_nothing() {
    let mut rng = seeded();
    let redis = Redis::start();
    let proxy = Proxy::start(&redis);
    let broker = Broker::start_at(proxy.socket(), &[]);
    let mut holding = rng.fork();
    let (feeds, done): (Feeds, _) = (Feeds::default(), AtomicBool::new(false));
    let publishing = rng.fork();
    let forks: Vec<Rng> = (0..12).map(|_| rng.fork()).collect();
    thread::scope(|scope| {
        scope.spawn(|| publish_until(&broker, &feeds, &done, publishing));
        // Messages come late: replies on other connections overtake them.
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                proxy.hold("broker-subscriber", holding.bool());
                // How long, by chance.
                thread::sleep(Duration::from_micros(holding.u64(..5_000)));
            }
            proxy.hold("broker-subscriber", false);
        });
        let children: Vec<_> =
            forks.into_iter().map(|rng| scope.spawn(|| come_and_go(&broker, &feeds, rng))).collect();
        let ended: Vec<_> = children.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::SeqCst);
        assert!(ended.iter().all(Result::is_ok), "a child has failed");
    });
    assert!(feeds.iter().all(|feed| feed.answered.load(Ordering::SeqCst) > 0), "something was published");
    assert_eq!(redis.ask("PUBSUB CHANNELS"), "*0\r\n");
    assert_eq!(redis.ask("PUBSUB SHARDCHANNELS"), "*0\r\n");
    assert_eq!(redis.ask("PUBSUB NUMPAT"), ":0\r\n");
}

// ---- as on a connection of one's own ---------------------------------------------------------------------

/// Whether anybody listens is true at any time: a confirmed child has left upstream too.
#[test]
fn nobody_is_counted_who_does_not_listen() {
    let twin = Twin::start();
    let mut other = twin.pair();
    for resp3 in [false, true] {
        let mut pair = if resp3 { twin.pair_resp3() } else { twin.pair() };
        for (join, leave) in [
            ("SUBSCRIBE a", "UNSUBSCRIBE a"),
            ("PSUBSCRIBE a*", "PUNSUBSCRIBE"),
            ("SSUBSCRIBE a", "SUNSUBSCRIBE"),
            ("SUBSCRIBE a", "RESET"),
        ] {
            for line in [join, leave] {
                pair.same(line);
                let asked = [
                    "PUBSUB CHANNELS",
                    "PUBSUB NUMSUB a b",
                    "PUBSUB NUMPAT",
                    "PUBSUB SHARDNUMSUB a",
                    "PUBLISH a x",
                    "SPUBLISH a x",
                ];
                asked.iter().for_each(|line| drop(other.same(line)));
                if line == join {
                    pair.same_replies("the message", 1);
                }
            }
        }
    }
}

#[test]
fn the_session_knows_its_subscriptions() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut raw = broker.connect_resp3();
    raw.write(&pipeline(&["SUBSCRIBE a b", "PSUBSCRIBE c*", "SSUBSCRIBE d"]));
    (0..4).for_each(|_| drop(raw.read_reply()));
    let info = raw.ask("CLIENT INFO");
    assert!(info.contains(" flags=PU ") && info.contains(" sub=2 psub=1 "), "{info}");
    raw.write(&pipeline(&["UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"]));
    (0..4).for_each(|_| drop(raw.read_reply()));
    let info = raw.ask("CLIENT INFO");
    assert!(info.contains(" flags=U ") && info.contains(" sub=0 psub=0 "), "{info}");
}

/// HELLO of a subscriber, and the counts of mixed families.
#[test]
fn forms_and_counts_are_the_same() {
    let twin = Twin::start();
    let mut pair = twin.pair();
    pair.same("SUBSCRIBE a");
    pair.same("HELLO 3");
    pair.same_pipeline(&pipeline(&["PSUBSCRIBE p* q*", "SSUBSCRIBE s", "UNSUBSCRIBE", "UNSUBSCRIBE"]), 5);
    pair.same_pipeline(&pipeline(&["PUNSUBSCRIBE p* p* x", "SUNSUBSCRIBE t s", "PING", "PING x"]), 7);
    // An EXEC that is refused for its context forgets the watched keys.
    let mut pair = twin.pair();
    pair.same_pipeline(&pipeline(&["SET w 1", "WATCH w", "SUBSCRIBE a", "EXEC", "UNSUBSCRIBE"]), 5);
    twin.pair().same("SET w 2");
    pair.same_pipeline(&pipeline(&["MULTI", "GET w", "EXEC"]), 3);
    let mut pair = twin.pair_resp3();
    pair.same_pipeline(&pipeline(&["WATCH k", "SUBSCRIBE a", "MULTI", "SET k v", "EXEC", "GET k"]), 6);
    pair.same("MULTI");
    pair.same("EXEC x");
    pair.same_with("HELLO 2", support::twin::without_id);
    for line in ["EXEC", "EXEC x", "MULTI", "DISCARD", "CONFIG GET save", "CLIENT NO-EVICT on", "EVAL x 0"] {
        pair.same(line);
    }
    pair.same_call(&[&b"SUBSCRIBE"[..], b"\0\r\n", b""]);
    pair.same_replies("the second name", 1);
    twin.pair().same_call(&[&b"PUBLISH"[..], b"", b"\r\n"]);
    pair.same_replies("a message on a channel without a name", 1);
}

/// Where the upstream has renamed the commands, it is asked by its own names.
#[test]
fn renamed_commands_work() {
    let renamed = ["--rename-command", "SUBSCRIBE", "sub2", "--rename-command", "UNSUBSCRIBE", "unsub2"];
    let twin = Twin::start_with(&renamed, &[]);
    let mut pair = twin.pair();
    pair.same("SUBSCRIBE a");
    pair.same_pipeline(
        &pipeline(&["Sub2 a b", "PSUBSCRIBE c", "GET k", "unsub2 b a", "PUNSUBSCRIBE", "GET k"]),
        8,
    );
    twin.pair().same("PUBSUB CHANNELS");
}

#[test]
fn keyspace_notifications_are_messages() {
    let twin = Twin::start();
    for redis in [&twin.direct, &twin.behind] {
        redis.ask("CONFIG SET notify-keyspace-events KEA");
    }
    let mut pair = twin.pair();
    pair.same("PSUBSCRIBE __keyevent@3__:*");
    let mut other = twin.pair();
    other.same("SELECT 3");
    for line in ["SET k v", "LPUSH l a", "DEL k l"] {
        other.same(line);
    }
    pair.same_replies("the events", 4);
}

// ---- loss ------------------------------------------------------------------------------------------------

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_loss_closes_subscribers_and_nobody_else() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut subscribers: Vec<Raw> = (0..20).map(|_| broker.connect()).collect();
    for raw in &mut subscribers {
        raw.ask("SUBSCRIBE c");
    }
    let mut other = broker.connect();
    other.expect("SET k v", "+OK\r\n");
    assert_eq!(redis.ask("CLIENT KILL TYPE pubsub"), ":1\r\n");
    for raw in &mut subscribers {
        assert!(raw.is_closed());
    }
    other.expect("GET k", "$1\r\nv\r\n");
    assert_eq!(other.ask("SUBSCRIBE c"), "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_loss_can_be_healed_in_silence() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("on_subscriber_loss", "resubscribe")]);
    let mut subscribers: Vec<Raw> = (0..20).map(|_| broker.connect()).collect();
    for raw in &mut subscribers {
        raw.ask("SUBSCRIBE c");
    }
    let mut publisher = broker.connect();
    for round in 0..5 {
        if round == 3 {
            redis.kill();
            redis.restart();
        } else {
            assert_eq!(redis.ask("CLIENT KILL TYPE pubsub"), ":1\r\n");
        }
        wait_until("it is subscribed again", || redis.ask("PUBSUB NUMSUB c").ends_with(":1\r\n"));
        wait_until("it is published", || publisher.ask(&format!("PUBLISH c {round}")) == ":1\r\n");
        for raw in &mut subscribers {
            assert_eq!(raw.read_text(), message('*', "c", &round.to_string()));
        }
    }
    wait_until("the log tells of it", || broker.log().matches("may have missed messages").count() == 5);
}

/// A frozen upstream owes a subscriber nothing; it is noticed all the same.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_frozen_upstream_is_noticed() {
    let redis = Redis::start();
    let settings = [("lane_stall_timeout", "300"), ("connect_timeout", "200")];
    let broker = Broker::start(&redis, &settings);
    let mut raw = broker.connect();
    raw.ask("SUBSCRIBE c");
    redis.stop();
    let closed = raw.is_closed();
    redis.cont();
    assert!(closed);
}

// ---- rights ----------------------------------------------------------------------------------------------

/// Both servers with a user who may hear little, the broker's own.
fn restricted(settings: &[(&str, &str)]) -> Twin {
    let user = ["--user", "few", "on", ">secret", "~*", "+@all", "resetchannels", "&fine*"];
    let mut all = vec![("upstream_username", "few"), ("upstream_password", "secret")];
    all.extend(settings);
    Twin::start_with(&user, &all)
}

fn restricted_pair(twin: &Twin) -> Pair {
    let mut pair = twin.pair();
    assert_eq!(pair.direct.ask("AUTH few secret"), "+OK\r\n");
    pair
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_channel_that_may_not_be_heard_is_refused() {
    let twin = restricted(&[]);
    let mut pair = restricted_pair(&twin);
    for line in ["SUBSCRIBE denied", "PSUBSCRIBE f*", "SSUBSCRIBE denied", "SUBSCRIBE fine denied fine2"] {
        assert!(pair.same(line).starts_with("-NOPERM"));
        pair.same("GET none");
    }
    twin.pair().same("PUBSUB CHANNELS");
    pair.same("SUBSCRIBE fine");
    assert!(pair.same("SUBSCRIBE fine denied").starts_with("-NOPERM"));
    pair.same("PING");
    let mut publisher = Pair { direct: twin.direct.connect(), brokered: twin.behind.connect() };
    publisher.same("PUBLISH fine x");
    pair.same_replies("the message", 1);
    pair.same("UNSUBSCRIBE denied");
    pair.same("UNSUBSCRIBE");
}

/// Rights taken away end the subscriptions, as Redis ends them.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_right_taken_away_ends_the_subscription() {
    for mode in ["close", "resubscribe"] {
        let twin = restricted(&[("on_subscriber_loss", mode)]);
        let (mut listens, mut other) = (restricted_pair(&twin), restricted_pair(&twin));
        listens.same("SUBSCRIBE fine");
        other.same("GET none");
        for redis in [&twin.direct, &twin.behind] {
            assert_eq!(redis.ask("ACL SETUSER few resetchannels"), "+OK\r\n");
        }
        assert!(listens.direct.is_closed());
        assert!(listens.brokered.is_closed(), "{mode}");
        other.same("GET none");
        assert!(other.same("SUBSCRIBE fine").starts_with("-NOPERM"));
    }
}

// ---- order ------------------------------------------------------------------------------------------------

/// Redis has answered what it has read when it confirms a subscription: no message stands before those replies, however
/// soon it is published. On one connection of the child's own it is the same.
#[test]
fn a_message_stands_behind_what_was_asked_before_its_confirmation() {
    let redis = Redis::start();
    for mode in ["shared", "leased"] {
        let broker = Broker::start(&redis, &[("pubsub", mode)]);
        let mut publisher = redis.connect();
        for round in 0..200 {
            let (channel, list) = (format!("ch{round}"), format!("{mode}{round}"));
            let mut raw = broker.connect_resp3();
            let push = format!("LPUSH {list} x");
            let subscribe = format!("SUBSCRIBE {channel}");
            raw.write(&pipeline(&[&subscribe, &push, &push, &push, "ECHO END"]));
            let confirmed = raw.read_text();
            assert!(confirmed.starts_with(">3\r\n$9\r\nsubscribe"), "{confirmed}");
            publisher.ask(&format!("PUBLISH {channel} hello"));
            let replies: Vec<String> = (0..5).map(|_| raw.read_text()).collect();
            let hello = message('>', &channel, "hello");
            assert_eq!(
                replies,
                [":1\r\n", ":2\r\n", ":3\r\n", "$3\r\nEND\r\n", &hello],
                "round {round}, {mode}"
            );
        }
    }
}

/// Nothing that may itself wait, or that is read later, keeps a message back.
#[test]
fn a_message_waits_for_nothing_that_waits() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    let mut publisher = redis.connect();
    let mut raw = broker.connect_resp3();
    raw.write(&pipeline(&["SUBSCRIBE a", "ECHO 1", "BLPOP q 0", "ECHO 2"]));
    assert!(raw.read_text().contains("subscribe"));
    assert_eq!(raw.read_text(), "$1\r\n1\r\n");
    publisher.ask("PUBLISH a behind-a-block");
    assert_eq!(raw.read_text(), message('>', "a", "behind-a-block"));
    publisher.ask("RPUSH q e");
    assert_eq!(raw.read_text(), "*2\r\n$1\r\nq\r\n$1\r\ne\r\n");
    assert_eq!(raw.read_text(), "$1\r\n2\r\n");
    // Half a request has been read with the subscription; its end comes late.
    let (half, rest) = (request(&["SUBSCRIBE", "b"]), request(&["ECHO", "later"]));
    raw.write(&[&half[..], &rest[..10]].concat());
    assert!(raw.read_text().contains("subscribe"));
    publisher.ask("PUBLISH b first");
    assert_eq!(raw.read_text(), message('>', "b", "first"));
    raw.write(&rest[10..]);
    assert_eq!(raw.read_text(), "$5\r\nlater\r\n");
    // What was published before it is left comes before the confirmation of that.
    raw.write(&pipeline(&["SUBSCRIBE c", "UNSUBSCRIBE c", "ECHO end"]));
    let seen: Vec<String> = (0..3).map(|_| raw.read_text()).collect();
    assert!(seen[0].contains("subscribe") && seen[1].contains("unsubscribe"), "{seen:?}");
    assert_eq!(seen[2], "$3\r\nend\r\n");
}
