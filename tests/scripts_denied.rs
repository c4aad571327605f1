//! Scripts and `commands_deny`: what is refused to a child it cannot do by EVAL or FCALL either, unless the upstream
//! refuses it as well or the settings trust scripts.

use crate::support::raw::pipeline;
use crate::support::{Broker, Raw, Redis, wait_until};

/// A busy machine is not what these tests are about.
const PATIENT: [(&str, &str); 2] = [("queue_timeout", "20s"), ("connect_timeout", "20s")];
/// SHA-256 of "p".
const P: &str = "148de9c5a7a44d19e56cd9ae1a554bf67847afb0c58f6e12fa29ac7ddfca9940";
/// Every command that runs a script, and whether it is a read-only one. Argument separators are double spaces.
const SCRIPTS: [(&str, bool); 6] = [
    ("EVAL  return 1  0", false),
    ("EVALSHA  e0e1f9fabfc9d4800c877a703b823ac0578ff8db  0", false),
    ("FCALL  f  0", false),
    ("EVAL_RO  return 1  0", true),
    ("EVALSHA_RO  e0e1f9fabfc9d4800c877a703b823ac0578ff8db  0", true),
    ("FCALL_RO  g  0", true),
];

fn call(raw: &mut Raw, line: &str) -> String {
    let args: Vec<&str> = line.split("  ").collect();
    String::from_utf8_lossy(&raw.call(&args)).into_owned()
}

/// A Redis that knows the scripts.
fn redis() -> Redis {
    let redis = Redis::start();
    let library = "#!lua name=l\nredis.register_function('f', function() return 1 end)\n\
                   redis.register_function{function_name='g', callback=function() return 1 end, \
                   flags={'no-writes'}}";
    let mut raw = redis.connect();
    assert_eq!(raw.call(&["FUNCTION", "LOAD", library]), b"$1\r\nl\r\n");
    assert_eq!(raw.call(&["SCRIPT", "LOAD", "return 1"]).len(), 47);
    redis
}

fn with_users(redis: &Redis, users: &str, more: &[(&str, &str)]) -> Broker {
    let path = redis.directory().join("users.toml");
    std::fs::write(&path, users).expect("a file");
    let path = path.to_str().expect("a path");
    Broker::start(redis, &[&[("auth", "users"), ("auth_file", path)][..], &PATIENT, more].concat())
}

fn user(fields: &str) -> String {
    format!("[[user]]\nname='jobs'\npassword_sha256='{P}'\n{fields}\n")
}

fn jobs(broker: &Broker) -> Raw {
    let mut raw = broker.connect();
    raw.expect("AUTH jobs p", "+OK\r\n");
    raw
}

#[track_caller]
fn refused(said: &str, command: &str, denied: &str) {
    let text = format!(
        "-NOPERM this user has no permissions to run the '{command}' command: commands_deny has '{denied}', which a \
         script can call (scripts_trusted = true would let it)\r\n"
    );
    assert_eq!(said, text);
}

fn name_of(line: &str) -> String {
    line.split("  ").next().unwrap_or_default().to_lowercase()
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn what_a_user_may_not_run_its_scripts_do_not_run() {
    let redis = redis();
    let broker = with_users(&redis, &user("commands_deny=['flushall','config']"), &[]);
    let mut raw = jobs(&broker);
    for (line, reads) in SCRIPTS {
        let said = call(&mut raw, line);
        if reads {
            assert_eq!(said, ":1\r\n", "a read-only script cannot write: {line}");
        } else {
            refused(&said, &name_of(line), "flushall");
        }
    }
    // In a transaction, whole or by and by, and with watched keys, which is on a connection of its own.
    raw.write(&pipeline(&["MULTI", "EVAL 1 0", "EXEC"]));
    let said = [raw.read_text(), raw.read_text(), raw.read_text()];
    refused(&said[1], "eval", "flushall");
    assert!(said[0] == "+OK\r\n" && said[2].starts_with("-EXECABORT"), "{said:?}");
    for begin in [&["MULTI"][..], &["WATCH k", "MULTI"]] {
        begin.iter().for_each(|line| raw.expect(line, "+OK\r\n"));
        refused(&call(&mut raw, "FCALL  f  0"), "fcall", "flushall");
        assert!(raw.ask("EXEC").starts_with("-EXECABORT"));
    }
    // Loading runs nothing.
    assert_eq!(call(&mut raw, "SCRIPT  LOAD  return 2").len(), 47);
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn commands_deny_of_the_settings_holds_for_scripts_of_everybody() {
    let redis = redis();
    let denied = [("commands_deny", "keys,flushall")];
    let broker = Broker::start(&redis, &[&denied[..], &PATIENT].concat());
    let mut raw = broker.connect();
    for (line, reads) in SCRIPTS {
        // KEYS is no write: a read-only script can call it. FLUSHALL is another one's reason.
        let said = call(&mut raw, line);
        let denied = if reads || said.contains("'keys'") { "keys" } else { "flushall" };
        refused(&said, &name_of(line), denied);
    }
    // What no script can call, and what is refused by default, deny none.
    for settings in [&[("commands_deny", "config|get,script,monitor")][..], &[]] {
        let broker = Broker::start(&redis, &[settings, &PATIENT].concat());
        let mut raw = broker.connect();
        SCRIPTS.iter().for_each(|(line, _)| assert_eq!(call(&mut raw, line), ":1\r\n", "{line}"));
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn scripts_trusted_lets_them_run() {
    let redis = redis();
    let denied = "commands_deny='flushall'";
    for (fields, more) in [
        (format!("{denied}\nscripts_trusted=true"), &[][..]),
        (denied.to_owned(), &[("scripts_trusted", "true")]),
    ] {
        let broker = with_users(&redis, &user(&fields), more);
        let mut raw = jobs(&broker);
        SCRIPTS.iter().for_each(|(line, _)| assert_eq!(call(&mut raw, line), ":1\r\n", "{line}"));
        assert!(raw.ask("FLUSHALL").starts_with("-NOPERM"));
    }
}

/// The upstream has the last word, and may change its mind.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn what_the_upstreams_user_lacks_no_script_can_call() {
    let redis = redis();
    redis.ask("ACL SETUSER up on >uppw ~* &* +@all -flushall");
    let upstream = "commands_deny=['flushall','swapdb']\nupstream_username='up'\nupstream_password='uppw'";
    let broker = with_users(&redis, &user(upstream), &[]);
    let mut raw = jobs(&broker);
    refused(&call(&mut raw, "EVAL  return 1  0"), "eval", "swapdb");
    redis.ask("ACL SETUSER up -swapdb");
    wait_until("what the upstream said is asked again", || call(&mut raw, "EVAL  return 1  0") == ":1\r\n");
    raw.write(&pipeline(&["MULTI", "FCALL f 0", "EXEC"]));
    assert_eq!(
        [raw.read_text(), raw.read_text(), raw.read_text()],
        ["+OK\r\n", "+QUEUED\r\n", "*1\r\n:1\r\n"]
    );
    // Rights to some keys only are rights.
    redis.ask("ACL SETUSER up resetkeys ~some:* +flushall");
    wait_until("so is what it may", || call(&mut raw, "EVAL  return 1  0").contains("has 'flushall'"));
    redis.restart();
    wait_until("a new upstream knows nothing of it", || {
        redis.ask("ACL SETUSER up on >uppw ~* &* +@all -flushall -swapdb");
        let mut raw = broker.connect();
        raw.ask("AUTH jobs p") == "+OK\r\n" && {
            raw.send("EVAL 1 0");
            raw.try_reply().is_ok_and(|reply| reply.starts_with(b"-ERR") || reply.starts_with(b":"))
        }
    });
}

/// A user that may not ask for the rights of others is told nothing, and nothing is let through.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn where_rights_cannot_be_asked_for_scripts_are_refused() {
    let redis = redis();
    redis.ask("ACL SETUSER up on >uppw ~* &* +@all -acl -flushall");
    let broker = Broker::start(
        &redis,
        &[
            &[("upstream_username", "up"), ("upstream_password", "uppw"), ("commands_deny", "flushall")][..],
            &PATIENT,
        ]
        .concat(),
    );
    let mut raw = broker.connect();
    refused(&call(&mut raw, "EVAL  return 1  0"), "eval", "flushall");
}
