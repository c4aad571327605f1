//! Who a child is, as Redis judges it (`auth = passthrough`): compared with a direct connection, and what becomes
//! of children whose user goes.

use crate::support::embedded::{Desk, run_until, send, settings};
use crate::support::raw::pipeline;
use crate::support::twin::{Expect, without_id};
use crate::support::{Broker, Pair, Proxy, Raw, Redis, Twin, request, seeded, upstream_clients, wait_until};

const PASSTHROUGH: (&str, &str) = ("auth", "passthrough");
const BROKERS: (&str, &str) = ("upstream_password", "pw");
/// A busy machine is not what these tests are about.
const PATIENT: [(&str, &str); 2] = [("queue_timeout", "20s"), ("connect_timeout", "20s")];
const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
const NOAUTH: &str = "-NOAUTH Authentication required.\r\n";

const KEY_REFUSED: &str =
    "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n";

/// Children say who they are, and Redis judges.
fn judged<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[PASSTHROUGH, BROKERS][..], &PATIENT, more].concat()
}

/// Two servers whose default user needs a password, and children who have to say who they are.
fn twin() -> Twin {
    Twin::start_with(&["--requirepass", "pw"], &judged(&[]))
}

/// Fresh connections that have said nothing.
fn strangers(twin: &Twin) -> Pair {
    Pair { direct: Raw::unix(&twin.direct.socket()), brokered: twin.broker.connect() }
}

fn at_both(twin: &Twin, line: &str) {
    assert!(!twin.direct.ask(line).starts_with('-'), "{line}");
    twin.behind.ask(line);
}

fn guarded() -> Redis {
    Redis::start_with(&["--requirepass", "pw"])
}

fn passthrough(redis: &Redis) -> Broker {
    Broker::start(redis, &judged(&[]))
}

/// Requests of a session, separated by semicolons.
fn lines(text: &str) -> Vec<&str> {
    text.split("; ").collect()
}

fn add_user(redis: &Redis, name: &str, rules: &str) {
    assert_eq!(redis.ask(&format!("ACL SETUSER {name} on >{name}-pw {rules}")), "+OK\r\n");
}

fn child(broker: &Broker, name: &str) -> Raw {
    let mut raw = broker.connect();
    raw.expect(&format!("AUTH {name} {name}-pw"), "+OK\r\n");
    raw
}

/// Connections of a user, as Redis sees them.
fn connections_of(redis: &Redis, name: &str) -> usize {
    upstream_clients(redis).iter().filter(|client| client.field("user") == name).count()
}

// ---- as a direct connection --------------------------------------------------------------------------------

#[test]
fn strangers_are_answered_as_by_redis() {
    let twin = twin();
    let mut pair = strangers(&twin);
    for line in lines(
        "PING; GET a; FOO a; GET; CLIENT FOO; CLIENT; CLIENT ID; EXEC; EXEC x; MULTI; DISCARD; WATCH a; \
         UNWATCH; SUBSCRIBE a; UNSUBSCRIBE; SELECT 1; BLPOP a 0; SHUTDOWN; ACL WHOAMI; HELLO; HELLO 3; \
         HELLO 3 SETNAME nm; HELLO 4; HELLO x; HELLO 3 AUTH a; HELLO 3 FOO; AUTH; AUTH a b c; AUTH bad; \
         AUTH default bad; AUTH nobody x; HELLO 3 AUTH default bad; RESET; PING; AUTH pw; PING; ACL \
         WHOAMI",
    ) {
        pair.same(line);
    }
    for line in ["QUIT", "PING"] {
        strangers(&twin).same_transcript(&pipeline(&[line, "QUIT"]), Expect::Closed);
    }
    strangers(&twin).same_transcript(b"PING\r\nGET a\r\nQUIT\r\n", Expect::Closed);
}

#[test]
fn strangers_may_send_little() {
    let twin = twin();
    for case in [&b"*11\r\n"[..], b"*2\r\n$4\r\nAUTH\r\n$16385\r\n"] {
        let said = strangers(&twin).same_transcript(case, Expect::Closed);
        assert!(said.starts_with(b"-ERR Protocol error: unauthenticated"), "{}", said.escape_ascii());
    }
    let words = ["x"; 20].join(" ");
    let mut pair = strangers(&twin);
    let both = pipeline(&["AUTH pw", &format!("DEL {words}"), &format!("ECHO {}", "y".repeat(20_000))]);
    pair.same_pipeline(&both, 3);
    pair.same_transcript(&pipeline(&["RESET", &format!("DEL {words}")]), Expect::Closed);
}

#[test]
fn auth_and_hello_are_answered_as_by_redis() {
    let twin = twin();
    at_both(&twin, "ACL SETUSER u on >p >q ~* &* +@all");
    let mut pair = strangers(&twin);
    for line in lines(
        "AUTH u p; ACL WHOAMI; AUTH u bad; ACL WHOAMI; AUTH u q; ACL WHOAMI; AUTH pw; ACL WHOAMI; HELLO 3 \
         SETNAME nm AUTH u bad; CLIENT GETNAME; ACL WHOAMI; HELLO 3 AUTH u p FOO; ACL WHOAMI; CLIENT \
         GETNAME; HELLO 2 AUTH u p AUTH default bad; ACL WHOAMI; SELECT 3; SELECT 99; SELECT x; SET k v; \
         AUTH default pw; GET k; RESET; GET k",
    ) {
        pair.same(line);
    }
    let mut pair = strangers(&twin);
    pair.same_with("HELLO 3 SETNAME a AUTH u p SETNAME b", without_id);
    for line in ["CLIENT GETNAME", "ACL WHOAMI", "GET none", "PING", "ECHO e", "RESET", "PING"] {
        pair.same(line);
    }
    at_both(&twin, "ACL SETUSER u off");
    pair.same("AUTH u p");
    pair.same("AUTH pw");
}

#[test]
fn a_pipeline_meets_the_user_that_was_named_before_it() {
    let twin = twin();
    for name in ["u", "v"] {
        at_both(&twin, &format!("ACL SETUSER {name} on >p ~{name}* &* +@all"));
    }
    let lines = lines(
        "GET u1; AUTH u bad; GET u1; AUTH u p; SET u1 x; SET v1 x; ACL WHOAMI; AUTH v p; GET u1; SET v1 \
         y; AUTH v bad; GET v1; MULTI; GET v1; GET u1; EXEC; MULTI; SET v1 z; EXEC; RESET; GET v1; AUTH u \
         p; GET u1; ACL WHOAMI",
    );
    strangers(&twin).same_pipeline(&pipeline(&lines), lines.len());
    // Command by command, what a key forbids is told at EXEC.
    let mut pair = strangers(&twin);
    for line in lines.iter().map(|line| if *line == "GET u1" { "GET v1" } else { line }) {
        pair.same(line);
    }
}

#[test]
fn answers_that_nobody_wants_are_not_given() {
    let twin = twin();
    at_both(&twin, "ACL SETUSER u on >p ~* &* +@all -client|kill");
    let session = lines(
        "AUTH pw; CLIENT REPLY SKIP; AUTH u p; ACL WHOAMI; CLIENT REPLY OFF; AUTH u bad; AUTH pw; SELECT 3; \
         CLIENT REPLY ON; ACL WHOAMI; AUTH u p; CLIENT REPLY SKIP; SELECT 99; CLIENT REPLY SKIP; CLIENT KILL ID 1; \
         CLIENT REPLY SKIP; HELLO 3 AUTH default pw; ACL WHOAMI",
    );
    strangers(&twin).same_transcript(&pipeline(&session), Expect::Open);
    // Whoever is nobody may not even say that it wants no answers.
    strangers(&twin).same_pipeline(&pipeline(&["CLIENT REPLY OFF", "PING", "AUTH pw", "PING"]), 4);
}

#[test]
fn rights_are_the_users_own() {
    let twin = twin();
    at_both(&twin, "ACL SETUSER u on >p ~* &* +@all -multi -select -client -ping -script|kill -swapdb");
    at_both(&twin, "ACL SETUSER v on >p ~* &* +@all -exec");
    let lines = lines(
        "AUTH u p; PING; ECHO e; SELECT 1; SELECT x; SELECT 99; SET k v; GET k; SCRIPT KILL; FUNCTION \
         KILL; MULTI; SET k w; EXEC; HELLO 3 AUTH v p; ACL WHOAMI; SELECT 1; GET k; SELECT 0; SCRIPT KILL",
    );
    let mut pair = strangers(&twin);
    for line in lines {
        pair.same_with(line, without_id);
    }
    // A whole block whose MULTI is refused runs one by one, as it does without the broker.
    let mut pair = strangers(&twin);
    pair.same("AUTH u p");
    pair.same_pipeline(&pipeline(&["MULTI", "SET k x", "GET k", "EXEC", "GET k"]), 5);
}

#[test]
fn a_default_user_without_a_password_is_who_children_begin_as() {
    let twin = Twin::start_with(&[], &[&[PASSTHROUGH][..], &PATIENT].concat());
    let mut pair = strangers(&twin);
    for line in lines(
        "ACL WHOAMI; SET k v; MULTI; GET k; EXEC; SELECT 1; SELECT 99; SELECT 0; WATCH k; MULTI; GET k; EXEC; \
         SCRIPT KILL; AUTH x; AUTH default x; ACL WHOAMI; AUTH nobody x; ACL WHOAMI; SELECT 2; GET k; MULTI; GET k; EXEC; RESET; GET k",
    ) {
        pair.same(line);
    }
    at_both(&twin, "CONFIG SET requirepass secret");
    pair.same("GET k");
    wait_until("new children have to say who they are", || twin.broker.connect().ask("PING") == NOAUTH);
    let mut pair = strangers(&twin);
    for line in ["PING", "AUTH x", "AUTH secret", "GET k"] {
        pair.same(line);
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_upstreams_url_may_name_a_db_that_a_user_may_not_select() {
    let redis = guarded();
    add_user(&redis, "u", "~* &* +@all -select");
    let url = format!("{}?db=3", redis.url());
    let broker = Broker::start_url(&url, &redis.socket(), &judged(&[]));
    let mut raw = child(&broker, "u");
    let refused = "-NOPERM this user has no permissions to run the 'select' command\r\n";
    for line in ["GET k", "WATCH k", "GET k", "BLPOP k 0"] {
        raw.expect(line, refused);
    }
    redis.ask("ACL SETUSER u +select");
    raw.expect("SET k v", "+OK\r\n");
}

// ---- who is whom -------------------------------------------------------------------------------------------

#[test]
fn a_wrong_password_never_succeeds_while_lanes_of_the_right_user_exist() {
    let redis = guarded();
    add_user(&redis, "u", "~* &* +@all");
    let broker = passthrough(&redis);
    let mut right = child(&broker, "u");
    right.expect("SET k secret", "+OK\r\n");
    right.expect("WATCH k", "+OK\r\n");
    right.expect("UNWATCH", "+OK\r\n");
    let mut strangers: Vec<Raw> = (0..20).map(|_| broker.connect()).collect();
    let wrong =
        ["AUTH u u-pwx", "AUTH u up", "AUTH u U-PW", "AUTH v u-pw", "AUTH u-pw", "HELLO 3 AUTH u bad"];
    for round in 0..12 {
        right.send("AUTH u u-pw");
        right.send("GET k");
        for stranger in &mut strangers {
            stranger.write(&pipeline(&[wrong[round % wrong.len()], "GET k", "ACL WHOAMI"]));
        }
        assert_eq!(right.read_text(), "+OK\r\n");
        assert_eq!(right.read_text(), "$6\r\nsecret\r\n");
        for stranger in &mut strangers {
            assert_eq!(stranger.read_text(), WRONGPASS);
            assert_eq!(stranger.read_text(), NOAUTH);
            assert_eq!(stranger.read_text(), NOAUTH);
        }
    }
}

#[test]
fn two_users_never_see_each_others_rights() {
    let mut rng = seeded();
    let redis = guarded();
    let names = ["a", "b"];
    for name in names {
        add_user(&redis, name, &format!("~{name}:* &* +@all"));
    }
    let broker = Broker::start(&redis, &judged(&[("lanes", "2"), ("upstream_connections_max", "8")]));
    let mut children: Vec<(Raw, usize)> = (0..8).map(|at| (child(&broker, names[at % 2]), at % 2)).collect();
    let (mut asked, mut refused) = (0, 0);
    while asked < 10_000 {
        let mut expected = Vec::new();
        for (raw, user) in &mut children {
            let mut wanted = Vec::new();
            let mut lines = Vec::new();
            for _ in 0..rng.usize(1..8) {
                let (own, key) = (names[*user], rng.usize(..2));
                match rng.u8(..12) {
                    0 => {
                        lines.push("ACL WHOAMI".to_owned());
                        wanted.push(format!("$1\r\n{own}\r\n"));
                    }
                    1 => {
                        *user = 1 - *user;
                        lines.push(format!("AUTH {0} {0}-pw", names[*user]));
                        wanted.push("+OK\r\n".to_owned());
                    }
                    // A wrong password has to wait.
                    2 if rng.u8(..16) == 0 => {
                        lines.push(format!("AUTH {0} {0}bad", names[1 - *user]));
                        wanted.push(WRONGPASS.to_owned());
                    }
                    3 => {
                        lines.extend([format!("WATCH {own}:k"), "UNWATCH".to_owned()]);
                        wanted.extend(["+OK\r\n".to_owned(), "+OK\r\n".to_owned()]);
                    }
                    _ => {
                        lines.push(format!("SET {}:k {own}", names[key]));
                        wanted.push(if key == *user {
                            "+OK\r\n".to_owned()
                        } else {
                            refused += 1;
                            KEY_REFUSED.to_owned()
                        });
                    }
                }
            }
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            raw.write(&pipeline(&lines));
            asked += wanted.len();
            expected.push(wanted);
        }
        for ((raw, _), wanted) in children.iter_mut().zip(expected) {
            for reply in wanted {
                assert_eq!(raw.read_text(), reply);
            }
        }
    }
    assert!(refused > 1_000, "{refused} refusals in {asked} requests");
}

/// Lanes are greeted with their own user's password, and never hear a child's.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn no_lane_ever_hears_a_childs_auth() {
    let redis = guarded();
    add_user(&redis, "u", "~* &* +@all");
    let proxy = Proxy::start(&redis);
    let settings = judged(&[("pubsub", "leased"), ("log_level", "trace")]);
    let broker = Broker::start_at(proxy.socket(), &settings);
    let mut raw = broker.connect();
    for line in [
        "AUTH u u-pw",
        "GET k",
        "WATCH k",
        "AUTH u not-it",
        "MULTI",
        "AUTH u u-pw",
        "EXEC",
        "UNWATCH",
        "AUTH pw",
    ] {
        raw.ask(line);
    }
    raw.write(&pipeline(&[
        "GET k",
        "AUTH u not-it",
        "GET k",
        "HELLO 2 AUTH u u-pw",
        "GET k",
        "SUBSCRIBE c",
        "AUTH u u-pw",
    ]));
    for _ in 0..7 {
        raw.read_reply();
    }
    raw.ask("HELLO 2 AUTH u u-pw");
    for name in ["broker-lane", "broker-lease", "broker-control"] {
        let sent = proxy.sent(name);
        assert!(!sent.is_empty(), "{name}");
        for sent in sent {
            let text = String::from_utf8_lossy(&sent).into_owned();
            assert!(text.matches("AUTH").count() <= 1 && !text.contains("not-it"), "{name}: {text}");
            assert!(text.find("AUTH").is_none_or(|at| at < 30), "only its own greeting: {text}");
        }
    }
    let log = broker.log();
    assert!(!log.contains("u-pw") && !log.contains("not-it"), "{log}");
}

/// Connections are cut under way; nobody is let in who should not be, and nobody's rights change.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn rights_hold_while_connections_are_cut() {
    let mut rng = seeded();
    let redis = guarded();
    let names = ["a", "b"];
    for name in names {
        add_user(&redis, name, &format!("~{name}:* &* +@all"));
    }
    let broker = passthrough(&redis);
    let mut children: Vec<(Raw, usize)> = (0..6).map(|at| (child(&broker, names[at % 2]), at % 2)).collect();
    let mut killer = redis.connect();
    let (mut told, mut cuts, mut failed) = (0, 0, 0);
    while told < 3_000 {
        if rng.u8(..4) == 0 {
            let clients = upstream_clients(&redis);
            let victim = &clients[rng.usize(..clients.len())];
            cuts += usize::from(killer.ask(&format!("CLIENT KILL ID {}", victim.field("id"))) == ":1\r\n");
        }
        let mut asked = Vec::new();
        for (raw, user) in &mut children {
            let (own, other) = (names[*user], names[1 - *user]);
            let line = match rng.u8(..8) {
                0 => format!("AUTH {other} {own}-pw"),
                1 => format!("AUTH {other} {other}-pw"),
                2 => "ACL WHOAMI".to_owned(),
                3 | 4 => format!("SET {other}:k x"),
                _ => format!("SET {own}:k x"),
            };
            raw.send(&line);
            asked.push(line);
        }
        for ((raw, user), line) in children.iter_mut().zip(asked) {
            let reply = raw.try_reply().unwrap_or_else(|end| panic!("{line}: {end:?}"));
            let reply = String::from_utf8_lossy(&reply).into_owned();
            told += 1;
            if reply.starts_with("-BROKER") {
                failed += 1;
                continue;
            }
            let (own, other) = (names[*user], names[1 - *user]);
            let wanted = match line.as_str() {
                _ if line == format!("AUTH {other} {own}-pw") => WRONGPASS.to_owned(),
                _ if line.starts_with("AUTH") => {
                    *user = 1 - *user;
                    "+OK\r\n".to_owned()
                }
                "ACL WHOAMI" => format!("$1\r\n{own}\r\n"),
                _ if line.starts_with(&format!("SET {other}")) => KEY_REFUSED.to_owned(),
                _ => "+OK\r\n".to_owned(),
            };
            assert_eq!(reply, wanted, "{line}");
        }
    }
    assert!(cuts > 50 && failed < told / 2, "{cuts} cuts, {failed} of {told} failed");
}

// ---- the end of a user -------------------------------------------------------------------------------------

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_deleted_user_loses_its_children_and_nobody_else_does() {
    let redis = guarded();
    for name in ["u", "v"] {
        add_user(&redis, name, "~* &* +@all");
    }
    let broker = passthrough(&redis);
    let (mut idle, mut blocked, mut other) = (child(&broker, "u"), child(&broker, "u"), child(&broker, "v"));
    let mut subscriber = child(&broker, "u");
    idle.expect("SET k v", "+OK\r\n");
    blocked.send("BLPOP none 0");
    subscriber.send("SUBSCRIBE c");
    subscriber.read_reply();
    other.expect("SET k w", "+OK\r\n");
    wait_until("u blocks", || upstream_clients(&redis).iter().any(|c| c.field("cmd") == "blpop"));
    redis.ask("ACL DELUSER u");
    assert!(idle.is_closed(), "though it asked nothing");
    assert!(blocked.is_closed() && subscriber.is_closed());
    other.expect("GET k", "$1\r\nw\r\n");
    wait_until("nothing of u is left", || connections_of(&redis, "u") == 0);
    let mut again = broker.connect();
    again.expect("AUTH u u-pw", WRONGPASS);
    again.expect("GET k", NOAUTH);
    add_user(&redis, "u", "~* &* +@all");
    again.expect("AUTH u u-pw", "+OK\r\n");
    again.expect("GET k", "$1\r\nw\r\n");
}

/// Without a lease kept warm, nothing of the broker's own would meet the refusal.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_deleted_user_is_missed_without_being_asked_for() {
    let redis = guarded();
    add_user(&redis, "u", "~* &* +@all");
    let broker = passthrough(&redis);
    let mut idle = child(&broker, "u");
    idle.expect("SET k v", "+OK\r\n");
    redis.ask("ACL DELUSER u");
    assert!(idle.is_closed());
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn each_password_stands_or_falls_with_its_own() {
    let redis = guarded();
    add_user(&redis, "u", "~* &* +@all >new");
    let broker = passthrough(&redis);
    let (mut old, mut new) = (child(&broker, "u"), broker.connect());
    new.expect("AUTH u new", "+OK\r\n");
    for raw in [&mut old, &mut new] {
        raw.expect("SET k v", "+OK\r\n");
    }
    assert_eq!(connections_of(&redis, "u"), 2, "one for each password");
    redis.ask("ACL SETUSER u <u-pw");
    old.expect("GET k", "$1\r\nv\r\n");
    redis.ask("CLIENT KILL USER u");
    assert!(old.is_closed());
    new.expect("AUTH u new", "+OK\r\n");
    new.expect("GET k", "$1\r\nv\r\n");
    redis.ask("ACL SETUSER u off");
    new.expect("GET k", "$1\r\nv\r\n");
    redis.ask("CLIENT KILL USER u");
    assert!(new.is_closed());
    assert!(!broker.log().contains("u-pw"), "no password is logged");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_channel_taken_away_ends_exactly_that_users_subscriptions() {
    for pubsub in ["shared", "leased"] {
        lose_a_channel(pubsub);
    }
}

fn lose_a_channel(pubsub: &str) {
    let redis = guarded();
    for name in ["u", "v"] {
        add_user(&redis, name, "~* &* +@all");
    }
    let broker = Broker::start(&redis, &judged(&[("pubsub", pubsub)]));
    let mut subscribers: Vec<Raw> = ["u", "u", "v", "v"].map(|name| child(&broker, name)).into();
    for subscriber in &mut subscribers {
        subscriber.send("SUBSCRIBE news");
        subscriber.read_reply();
    }
    let mut plain = child(&broker, "u");
    plain.expect("GET none", "$-1\r\n");
    redis.ask("ACL SETUSER u resetchannels");
    for subscriber in &mut subscribers[..2] {
        assert!(subscriber.is_closed());
    }
    redis.ask("PUBLISH news m");
    for subscriber in &mut subscribers[2..] {
        assert_eq!(subscriber.read_text(), "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\nm\r\n");
    }
    plain.expect("GET none", "$-1\r\n");
    let mut late = child(&broker, "u");
    let text = late.ask("SUBSCRIBE news");
    assert!(text.starts_with("-NOPERM"), "{text}");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn nothing_of_a_user_survives_its_last_child() {
    let redis = guarded();
    add_user(&redis, "u", "~* &* +@all");
    let broker = passthrough(&redis);
    let own = || upstream_clients(&redis).len();
    wait_until("the broker has its own two", || own() == 2);
    let mut raw = child(&broker, "u");
    raw.expect("SET k v", "+OK\r\n");
    raw.expect("WATCH k", "+OK\r\n");
    assert!(connections_of(&redis, "u") >= 2);
    let info = raw.ask("CLIENT INFO");
    assert!(info.contains(" user=u ") && !info.contains("u-pw"), "{info}");
    drop(raw);
    wait_until("its connections are closed", || own() == 2);
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn many_users_share_a_few_places() {
    let redis = guarded();
    let broker = Broker::start(&redis, &judged(&[("upstream_connections_max", "8")]));
    let mut children: Vec<Raw> = Vec::new();
    let mut most = 0;
    for number in 0..60 {
        let name = format!("user{number}");
        add_user(&redis, &name, "~* &* +@all");
        let mut raw = child(&broker, &name);
        raw.expect("ACL WHOAMI", &format!("${}\r\n{name}\r\n", name.len()));
        raw.expect("WATCH k", "+OK\r\n");
        raw.expect("UNWATCH", "+OK\r\n");
        most = most.max(upstream_clients(&redis).len());
        children.push(raw);
    }
    for (number, raw) in children.iter_mut().enumerate() {
        let name = format!("user{number}");
        raw.expect("ACL WHOAMI", &format!("${}\r\n{name}\r\n", name.len()));
    }
    assert!(most <= 8, "{most} connections");
}

// ---- sessions ----------------------------------------------------------------------------------------------

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn what_was_watched_as_somebody_else_is_lost() {
    let redis = guarded();
    for name in ["u", "v"] {
        add_user(&redis, name, "~* &* +@all");
    }
    let broker = passthrough(&redis);
    let mut raw = child(&broker, "u");
    raw.expect("WATCH k", "+OK\r\n");
    raw.expect("AUTH v bad", WRONGPASS);
    raw.expect("AUTH u u-pw", "+OK\r\n");
    raw.expect("MULTI", "+OK\r\n");
    raw.expect("PING", "+QUEUED\r\n");
    raw.expect("EXEC", "*1\r\n+PONG\r\n");
    raw.expect("WATCH k", "+OK\r\n");
    raw.expect("AUTH v v-pw", "+OK\r\n");
    raw.expect("ACL WHOAMI", "$1\r\nv\r\n");
    raw.expect("MULTI", "+OK\r\n");
    raw.expect("PING", "+QUEUED\r\n");
    raw.expect("EXEC", "*-1\r\n");
    raw.expect("MULTI", "+OK\r\n");
    raw.expect("AUTH u u-pw", "-ERR AUTH inside MULTI is not supported by the broker\r\n");
    raw.expect("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n");
    raw.expect("ACL WHOAMI", "$1\r\nv\r\n");
}

#[test]
fn a_subscriber_stays_who_it_is() {
    let twin = twin();
    at_both(&twin, "ACL SETUSER u on >p ~* &* +@all");
    let mut pair = strangers(&twin);
    for line in [
        "AUTH pw",
        "SUBSCRIBE c",
        "AUTH u p",
        "HELLO 3",
        "HELLO 3 AUTH u p",
        "PING",
        "UNSUBSCRIBE c",
        "AUTH u p",
    ] {
        pair.same(line);
    }
    pair.same("ACL WHOAMI");
}

/// Where Redis would let it, the broker does not: its subscriptions and its tracked keys are another user's.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn who_subscribes_or_tracks_stays_who_it_is_in_resp3() {
    let twin = twin();
    at_both(&twin, "ACL SETUSER u on >p ~* &* +@all");
    let mut raw = twin.broker.connect();
    raw.ask("HELLO 3 AUTH u p");
    raw.send("SUBSCRIBE c");
    raw.read_reply();
    let refused = "-ERR AUTH while subscribed or tracking is not supported by the broker\r\n";
    raw.expect("AUTH default pw", refused);
    raw.expect("HELLO 3 AUTH default pw", refused);
    raw.expect("ACL WHOAMI", "$1\r\nu\r\n");
    let mut tracking = twin.broker.connect();
    tracking.ask("HELLO 3 AUTH u p");
    tracking.expect("CLIENT TRACKING ON", "+OK\r\n");
    tracking.expect("AUTH default pw", refused);
    tracking.expect("CLIENT TRACKING OFF", "+OK\r\n");
    tracking.expect("AUTH default pw", "+OK\r\n");
}

#[test]
fn children_are_listed_and_killed_by_their_users() {
    let twin = twin();
    for name in ["u", "v"] {
        at_both(&twin, &format!("ACL SETUSER {name} on >p ~* &* +@all"));
    }
    let (mut u, mut v) = (strangers(&twin), strangers(&twin));
    u.same("AUTH u p");
    v.same("AUTH v p");
    u.same("CLIENT KILL USER v");
    assert!(v.direct.is_closed() && v.brokered.is_closed());
    for line in ["CLIENT KILL USER v", "CLIENT KILL USER u", "CLIENT KILL USER u SKIPME yes", "ACL WHOAMI"] {
        u.same(line);
    }
    let list = u.brokered.ask("CLIENT LIST");
    assert!(list.contains(" user=u ") && !list.contains(" user=v "), "{list}");
    at_both(&twin, "ACL SETUSER u -client");
    for line in
        lines("CLIENT LIST; CLIENT KILL USER u; CLIENT UNBLOCK 5; MULTI; CLIENT LIST; EXEC; ACL WHOAMI")
    {
        u.same(line);
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn an_upstream_that_does_not_answer_lets_nobody_in() {
    let redis = guarded();
    add_user(&redis, "u", "~* &* +@all");
    let broker = Broker::start(&redis, &judged(&[("queue_timeout", "200ms"), ("connect_timeout", "200ms")]));
    let mut raw = broker.connect();
    wait_until("the upstream is known", || raw.ask("AUTH u u-pw") == "+OK\r\n");
    wait_until("its lane is connected", || raw.ask("GET k") == "$-1\r\n");
    let mut other = broker.connect();
    other.expect("PING", NOAUTH);
    redis.stop();
    let down = "-BROKERDOWN no upstream connection; the command was not executed";
    assert!(other.ask("AUTH u u-pw").starts_with(down));
    // The answer to the one comes while the other is waited for.
    other.send("AUTH default bad");
    redis.cont();
    let reply = other.read_text();
    assert!(reply == WRONGPASS || reply.starts_with(down), "{reply}");
    // Those answers, when they come at last, mean nothing.
    other.expect("GET k", NOAUTH);
    wait_until("it answers again", || other.ask("AUTH default bad") == WRONGPASS);
    other.expect("ACL WHOAMI", NOAUTH);
    redis.kill();
    assert!(other.ask("AUTH u u-pw").starts_with(down));
    redis.restart();
    // Users made at run time are gone with the server.
    assert!(raw.is_closed());
    wait_until("the broker is back", || broker.connect().ask("AUTH pw") == "+OK\r\n");
    other.expect("AUTH u u-pw", WRONGPASS);
    other.expect("AUTH pw", "+OK\r\n");
    other.expect("ACL WHOAMI", "$7\r\ndefault\r\n");
}

/// The program that embeds a loop is trusted; whoever connects to it is not.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn local_children_are_the_brokers_own_user() {
    let redis = guarded();
    let pairs = judged(&[]);
    let mut lp = broker::reactor::Loop::new(settings(&redis, &pairs)).expect("a loop");
    let mut desk = Desk::default();
    let local = lp.local_open().expect("a local child");
    send(&mut lp, local, "ACL WHOAMI\r\n");
    desk.expect(&mut lp, local, "$7\r\ndefault\r\n");
    send(&mut lp, local, "RESET\r\nGET k\r\n");
    desk.expect(&mut lp, local, "+RESET\r\n$-1\r\n");
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    lp.adopt(theirs.into()).expect("adopted");
    ours.set_nonblocking(true).expect("non-blocking");
    let mut said = Vec::new();
    std::io::Write::write_all(&mut &ours, b"PING\r\n").expect("written");
    run_until(&mut lp, "the adopted child is answered", |_| {
        let _ = std::io::Read::read_to_end(&mut &ours, &mut said);
        said == NOAUTH.as_bytes()
    });
}

#[test]
fn long_passwords_and_names_are_bytes() {
    let twin = twin();
    let password = "\u{e9}\u{1}".repeat(300);
    for redis in [&twin.direct, &twin.behind] {
        let hashed = redis.connect().call(&[
            &b"ACL"[..],
            b"SETUSER",
            b"u\xff",
            b"on",
            &[b">", password.as_bytes()].concat(),
            b"~*",
            b"+@all",
        ]);
        assert_eq!(hashed, b"+OK\r\n");
    }
    let mut pair = strangers(&twin);
    let claim = request(&[&b"AUTH"[..], b"u\xff", password.as_bytes()]);
    pair.same_pipeline(&[claim, pipeline(&["ACL WHOAMI", "SET k v"])].concat(), 3);
}
