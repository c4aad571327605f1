//! A script that does not end: who is told so, who waits, and who goes on afterwards.

use std::time::Duration;

use crate::support::{self, Broker, Pair, Raw, Redis, Twin, direct, upstream_clients, wait_until};

const BUSY: &str =
    "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n";
const LOST: &str =
    "-BROKERLOST upstream connection lost before the reply; the command may have been executed\r\n";
/// What `lane_stall_timeout = 1s` tells whoever has stood behind a script.
const STALLED: &str = "-BROKERLOST no reply within 1000 ms from an upstream that runs a script; the command may yet be executed\r\n";
/// Redis says BUSY after a tenth of a second instead of five.
const IMPATIENT: [&str; 2] = ["--busy-reply-threshold", "100"];

fn run_endless(raw: &mut Raw) {
    raw.write(&support::request(&["EVAL", "while true do end", "0"]));
}

/// Waits until the broker knows that the script is busy: whoever asks before stands behind it.
fn wait_for_busy(broker: &Broker, redis: &Redis) {
    wait_until("the server is busy", || match direct() {
        true => redis.connect_plain().ask("PING") == BUSY,
        false => broker.log().contains("Redis is busy running a script"),
    });
}

fn end_script(raw: &mut Raw) {
    raw.expect("SCRIPT KILL", "+OK\r\n");
}

/// What each command is answered with while a script is busy, compared with Redis itself.
#[test]
fn while_a_script_is_busy_commands_are_answered_as_by_redis() {
    let twin = Twin::start_with(&IMPATIENT, &[]);
    let mut scripts = twin.pair();
    let (mut pair, mut watching) = (twin.pair(), twin.pair());
    pair.same("SET k v");
    watching.same("WATCH k");
    run_endless(&mut scripts.direct);
    run_endless(&mut scripts.brokered);
    wait_for_busy(&twin.broker, &twin.behind);
    wait_until("so is the other", || twin.direct.connect_plain().ask("PING") == BUSY);
    for line in [
        "PING",
        "GET k",
        "GET",
        "ECHO x",
        "SELECT 1",
        "CLIENT ID",
        "CLIENT SETNAME x",
        "SUBSCRIBE c",
        "BLPOP l 0",
        "WAIT 0 0",
        "MULTI",
        "SET k w",
        "EXEC",
        "MULTI",
        "EXEC",
        "MULTI",
        "DISCARD",
        "EXEC",
        "WATCH k",
        "UNWATCH",
        "CLIENT REPLY ON",
        "CONFIG GET maxmemory",
        "RESET",
        "AUTH x",
    ] {
        pair.same(line);
    }
    watching.same("GET k");
    watching.same("MULTI");
    watching.same("EXEC");
    hello_is_answered(&mut pair);
    end_script(&mut pair.direct);
    end_script(&mut pair.brokered);
    let ended = scripts.brokered.read_text();
    assert!(ended.starts_with("-ERR") && ended.contains("SCRIPT KILL"), "{ended}");
    wait_until("it works again", || pair.brokered.ask("GET k").starts_with("$1"));
}

fn hello_is_answered(pair: &mut Pair) {
    for raw in [&mut pair.direct, &mut pair.brokered] {
        assert!(raw.ask("HELLO 3").starts_with("%7"));
    }
}

/// What stood behind the script before anybody knew of it waits, and is told when it has waited for too long. The
/// script's own child keeps its reply, and nobody gets another's.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn who_stands_behind_a_script_is_told_in_time() {
    let redis = Redis::start_with(&IMPATIENT);
    let broker = Broker::start(&redis, &[("lane_stall_timeout", "1s")]);
    let (mut script, mut behind, mut block, mut queued, mut admin) =
        (broker.connect(), broker.connect(), broker.connect(), broker.connect(), broker.connect());
    admin.expect("SET k v", "+OK\r\n");
    queued.expect("MULTI", "+OK\r\n");
    queued.expect("INCR n", "+QUEUED\r\n");
    // All in the server's socket before it reads the first of them.
    redis.stop();
    run_endless(&mut script);
    script.send("ECHO mine");
    script.send("TYPE k");
    behind.send("INCR n");
    behind.send("TYPE k");
    block.write(&support::raw::pipeline(&["MULTI", "INCR n", "EXEC"]));
    queued.send("EXEC");
    wait_until("the broker has read them", || {
        let children = admin.ask("CLIENT LIST");
        children.matches(" cmd=type ").count() == 2 && children.matches(" cmd=exec ").count() == 2
    });
    redis.cont();
    wait_for_busy(&broker, &redis);
    (0..2).for_each(|_| assert_eq!(behind.read_text(), STALLED));
    (0..3).for_each(|_| assert_eq!(block.read_text(), STALLED));
    // It came on a connection that the script does not run on, which says so at once.
    assert!(queued.read_text().starts_with("-EXECABORT Transaction discarded because of: BUSY "));
    // They ask on, and are answered as others are.
    behind.expect("GET k", BUSY);
    queued.expect("GET k", BUSY);
    assert!(script.is_silent(Duration::from_millis(100)));
    // Who stands behind it may end it as well as anybody.
    end_script(&mut behind);
    assert!(script.read_text().starts_with("-ERR"), "the script's own reply");
    assert_eq!(script.read_text(), "$4\r\nmine\r\n");
    assert_eq!(script.read_text(), "+string\r\n");
    for child in [&mut behind, &mut block, &mut queued] {
        wait_until("it is served again", || child.ask("GET k") == "$1\r\nv\r\n");
        child.expect("ECHO mine", "$4\r\nmine\r\n");
    }
    // What was told to be lost may have been executed: it was, once each.
    admin.expect("GET n", "$1\r\n2\r\n");
}

/// A write that CLIENT PAUSE delays holds up those behind it on its lane, though the server has nothing else to do.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_command_that_waits_does_not_hold_a_shared_lane() {
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[("lane_stall_timeout", "1s")]);
    let (mut writer, mut reader, mut looks) = (broker.connect(), broker.connect(), broker.connect());
    reader.expect("SET k v", "+OK\r\n");
    assert_eq!(redis.ask("CLIENT PAUSE 600000 WRITE"), "+OK\r\n");
    writer.send("INCR n");
    wait_until("the write is under way", || looks.ask("CLIENT LIST").contains(" cmd=incr "));
    reader.expect("GET k", LOST);
    assert_eq!(writer.read_text(), LOST);
    reader.expect("GET k", "$1\r\nv\r\n");
    assert_eq!(redis.ask("CLIENT UNPAUSE"), "+OK\r\n");
    wait_until("nothing is in the way", || writer.ask("INCR m").starts_with(':'));
}

/// Without the time that a lane may stall, nobody is told; the requests are answered when the script has ended.
#[test]
fn what_stood_behind_a_script_is_answered_after_it() {
    let redis = Redis::start_with(&IMPATIENT);
    let broker = Broker::start(&redis, &[]);
    let (mut script, mut behind, mut admin) = (broker.connect(), broker.connect(), broker.connect());
    admin.expect("SET k v", "+OK\r\n");
    redis.stop();
    run_endless(&mut script);
    behind.send("INCR n");
    if !direct() {
        wait_until("the broker has read it", || admin.ask("CLIENT LIST").contains(" cmd=incr "));
    }
    redis.cont();
    wait_for_busy(&broker, &redis);
    end_script(&mut admin);
    assert!(script.read_text().starts_with("-ERR"));
    let reply = behind.read_text();
    assert!(reply == ":1\r\n" || direct() && reply == BUSY, "{reply}");
}

/// A script that ran long is expected to do so again, and has a lane apart from what others ask.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_script_that_ran_long_goes_on_a_lane_apart() {
    let redis = Redis::start_with(&IMPATIENT);
    let broker = Broker::start(&redis, &[]);
    let (mut script, mut other) = (broker.connect(), broker.connect());
    other.expect("SET k v", "+OK\r\n");
    let lanes = || upstream_clients(&redis).iter().filter(|client| client.name() == "broker-lane").count();
    run_endless(&mut script);
    wait_for_busy(&broker, &redis);
    end_script(&mut other);
    assert!(script.read_text().starts_with("-ERR"));
    assert_eq!(lanes(), 1);
    script.write(&support::request(&["EVAL", "return 1", "0"]));
    assert_eq!(script.read_text(), ":1\r\n");
    assert_eq!(lanes(), 2, "the next one has a lane of its own");
    other.expect("GET k", "$1\r\nv\r\n");
}
