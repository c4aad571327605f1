//! What children say and what becomes of rights with `auth = passthrough`, where one connection asks for all: nothing
//! a child says closes it, users who take any password are one user, and what Redis takes away it has taken away.

use std::time::Instant;

use crate::support::{Broker, Raw, Redis, upstream_clients, wait_until};

const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";

/// A broker whose children Redis judges; its own user is the default one with the password "pw".
fn passthrough(redis: &Redis) -> Broker {
    let settings = [("auth", "passthrough"), ("upstream_password", "pw")];
    // A busy machine is not what these tests are about.
    Broker::start(redis, &[&settings[..], &[("queue_timeout", "20s"), ("connect_timeout", "20s")]].concat())
}

fn guarded() -> Redis {
    Redis::start_with(&["--requirepass", "pw"])
}

fn set_user(redis: &Redis, rules: &str) {
    assert_eq!(redis.ask(&format!("ACL SETUSER {rules}")), "+OK\r\n");
}

fn lanes_of(redis: &Redis, name: &str) -> usize {
    let clients = upstream_clients(redis);
    clients.iter().filter(|client| client.field("user") == name && client.name() == "broker-lane").count()
}

fn let_in(broker: &Broker, name: &str, password: &str) -> Raw {
    let mut raw = broker.connect();
    raw.expect(&format!("AUTH {name} {password}"), "+OK\r\n");
    raw
}

/// Redis closes a connection that is nobody for a long argument, and the one that asks for children is nobody.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn nothing_a_child_says_closes_the_connection_that_asks() {
    let redis = guarded();
    set_user(&redis, "u on >p ~* &* +@all");
    let broker = passthrough(&redis);
    let long = "x".repeat(20_000);
    let (mut brokered, mut direct) = (let_in(&broker, "u", "p"), Raw::unix(&redis.socket()));
    direct.expect("AUTH u p", "+OK\r\n");
    for args in [
        &["AUTH", "u", &long][..],
        &["AUTH", &long, "p"],
        &["AUTH", &long],
        &["HELLO", "3", "AUTH", "u", &long],
        &["HELLO", "3", "SETNAME", "n", "AUTH", &long, "p"],
        &["SELECT", &long],
    ] {
        let said = brokered.call(args);
        assert_eq!(said, direct.call(args), "{} with a long argument", args[0]);
    }
    // Inline requests have no such limit.
    let mut stranger = broker.connect();
    stranger.write(format!("AUTH u {long}\r\n").as_bytes());
    assert_eq!(stranger.read_text(), WRONGPASS);
    brokered.expect("SET k v", "+OK\r\n");
    // Who has been let in as the default user stays so when it gets a password; the connection that asks does not.
    let open = Redis::start();
    let behind = passthrough_open(&open);
    let mut raw = behind.connect();
    raw.expect("GET none", "$-1\r\n");
    set_user(&open, "default resetpass >pw");
    for _ in 0..3 {
        assert!(raw.call(&["SELECT", &long]).starts_with(b"-"));
    }
    for log in [broker.log(), behind.log()] {
        assert!(!log.contains("connection lost"), "{log}");
    }
}

/// The same where the default user needs no password.
fn passthrough_open(redis: &Redis) -> Broker {
    let settings = [("auth", "passthrough"), ("queue_timeout", "20s"), ("connect_timeout", "20s")];
    Broker::start(redis, &settings)
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_user_that_takes_any_password_is_one_user() {
    let redis = guarded();
    set_user(&redis, "u on nopass ~* &* +@all");
    let broker = passthrough(&redis);
    let mut raw = broker.connect();
    let began = Instant::now();
    for number in 0..100 {
        raw.expect(&format!("AUTH u p{number}"), "+OK\r\n");
        raw.expect("GET none", "$-1\r\n");
    }
    // That any password is taken is believed for a second and then seen anew, on a connection with the word of that
    // moment.
    let seen_anew = usize::try_from(began.elapsed().as_secs()).expect("a test is short");
    let lanes = lanes_of(&redis, "u");
    assert!(lanes <= 2 + seen_anew, "{lanes} connections");
    // Many at once, before the first of them is known.
    set_user(&redis, "v on nopass ~* &* +@all");
    let mut crowd: Vec<Raw> = (0..60).map(|_| broker.connect()).collect();
    for (number, raw) in crowd.iter_mut().enumerate() {
        raw.send(&format!("AUTH v p{number}"));
        raw.send("GET none");
    }
    for raw in &mut crowd {
        assert_eq!((raw.read_text(), raw.read_text()), ("+OK\r\n".to_owned(), "$-1\r\n".to_owned()));
    }
    let lanes = lanes_of(&redis, "v");
    assert!(lanes <= 17, "{lanes} connections");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_user_that_gets_a_password_again_is_who_knows_it() {
    let redis = guarded();
    set_user(&redis, "u on nopass ~* &* +@all");
    let broker = passthrough(&redis);
    let mut children: Vec<Raw> = ["a", "b", "c"].iter().map(|word| let_in(&broker, "u", word)).collect();
    children.iter_mut().for_each(|raw| raw.expect("SET k v", "+OK\r\n"));
    set_user(&redis, "u resetpass >right");
    broker.connect().expect("AUTH u d", WRONGPASS);
    children.iter_mut().for_each(|raw| raw.expect("GET k", "$1\r\nv\r\n"));
    // Known as one of those who take any password for a moment; on its own after that.
    wait_until("the right password has connections of its own", || {
        let before = lanes_of(&redis, "u");
        let_in(&broker, "u", "right").expect("GET k", "$1\r\nv\r\n");
        lanes_of(&redis, "u") > before
    });
    let mut right = let_in(&broker, "u", "right");
    right.expect("GET k", "$1\r\nv\r\n");
    redis.ask("CLIENT KILL USER u");
    for raw in &mut children {
        assert!(raw.is_closed(), "nobody goes on with a word that is none");
    }
    wait_until("the right one goes on", || {
        right.send("GET k");
        right.try_reply().is_ok_and(|reply| reply == b"$1\r\nv\r\n")
    });
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn passwords_of_one_user_in_use_at_once_are_bounded() {
    let redis = guarded();
    let passwords: Vec<String> = (0..18).map(|number| format!(">p{number}")).collect();
    set_user(&redis, &format!("u on {} ~* &* +@all", passwords.join(" ")));
    let broker = passthrough(&redis);
    let mut children: Vec<Raw> = (0..16).map(|number| let_in(&broker, "u", &format!("p{number}"))).collect();
    let mut late = broker.connect();
    late.expect("AUTH u p16", "-BROKERLIMIT 16 passwords of this user are in use\r\n");
    late.expect("AUTH u p3", "+OK\r\n");
    drop(children.pop());
    wait_until("the one that nobody uses any more makes room", || {
        broker.connect().ask("AUTH u p17") == "+OK\r\n"
    });
    children.iter_mut().for_each(|raw| raw.expect("GET none", "$-1\r\n"));
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn who_joins_a_topic_has_the_right_to_it_at_that_moment() {
    let redis = guarded();
    set_user(&redis, "u on >p ~* &* +@all");
    let broker = passthrough(&redis);
    let mut first = let_in(&broker, "u", "p");
    for (line, verb, name) in [
        ("SUBSCRIBE c", "subscribe", "c"),
        ("PSUBSCRIBE c*", "psubscribe", "c*"),
        ("SSUBSCRIBE s", "ssubscribe", "s"),
    ] {
        assert!(first.ask(line).contains(name));
        set_user(&redis, &format!("u -{verb}"));
        let mut late = let_in(&broker, "u", "p");
        late.expect(line, &format!("-NOPERM this user has no permissions to run the '{verb}' command\r\n"));
        // It has none of it, may go on and ask again.
        late.expect("GET none", "$-1\r\n");
        assert_eq!(redis.ask("PUBLISH cc m"), format!(":{}\r\n", u8::from(verb != "subscribe")));
        if verb != "subscribe" {
            assert!(first.read_text().contains("pmessage"));
        }
        set_user(&redis, &format!("u +{verb}"));
        assert!(late.ask(line).contains(name));
        assert!(
            late.ask(&format!("UN{line}").replace("UNPSUB", "PUNSUB").replace("UNSSUB", "SUNSUB"))
                .contains(name)
        );
    }
    // Those who had it before have kept it.
    redis.ask("SPUBLISH s m");
    assert!(first.read_text().contains("smessage"));
    // Of several names one refusal is the answer, and the next request has nothing of it.
    set_user(&redis, "u resetchannels &c* &s &other");
    let mut late = let_in(&broker, "u", "p");
    assert!(late.ask("SUBSCRIBE other").contains("other"));
    assert_eq!(late.ask("SUBSCRIBE c forbidden"), late_refusal());
    assert!(late.ask("SUBSCRIBE c").contains(":2\r\n"));
}

fn late_refusal() -> String {
    "-NOPERM this user has no permissions to access one of the channels used as arguments\r\n".to_owned()
}
