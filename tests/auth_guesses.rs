//! Wrong passwords: what they cost whoever tries them, whom they cost nothing, and what the log says.

use std::time::{Duration, Instant};

use crate::support::raw::pipeline;
use crate::support::{Broker, End, Raw, Redis, wait_until};

/// A busy machine is not what these tests are about.
const PATIENT: [(&str, &str); 2] = [("queue_timeout", "20s"), ("connect_timeout", "20s")];
const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";

/// A broker in whose eyes "open-sesame" is the password of `jobs`, judged by itself or by Redis.
fn broker(redis: &Redis, auth: &str) -> Broker {
    redis.ask("ACL SETUSER jobs on >open-sesame ~* &* +@all");
    let path = redis.directory().join("users.toml");
    let hash = redis.connect().call(&["ACL", "GETUSER", "jobs"]);
    let hash = String::from_utf8_lossy(&hash);
    let hash =
        hash.lines().find(|line| line.len() == 64).expect("Redis shows the hash of a password").to_owned();
    std::fs::write(&path, format!("[[user]]\nname='jobs'\npassword_sha256='{hash}'\n")).expect("a file");
    let path = path.to_str().expect("a path");
    let mut settings = vec![("auth", auth)];
    settings.extend((auth == "users").then_some(("auth_file", path)));
    settings.extend(PATIENT);
    Broker::start(redis, &settings)
}

/// Wrong ones on connections of their own, one after the other, and how long they took.
fn guess(broker: &Broker, count: usize) -> Duration {
    let begun = Instant::now();
    for number in 0..count {
        broker.connect().expect(&format!("AUTH jobs guess-{number}"), WRONGPASS);
    }
    begun.elapsed()
}

/// Each try waits, on whatever connection it comes, and longer the more there were where the broker judges: 100 + 200 +
/// 400 + 400 + 400 ms. Where Redis does, 100 each.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn each_wrong_password_makes_the_next_one_wait() {
    for (auth, least) in [("users", 1400), ("passthrough", 450)] {
        let redis = Redis::start();
        let broker = broker(&redis, auth);
        let took = guess(&broker, 8);
        assert!(took >= Duration::from_millis(least), "{auth}: {took:?}");
        let log = broker.log();
        let told = log.lines().filter(|line| line.contains("wrong password for user \"jobs\" by child"));
        let told: Vec<&str> = told.collect();
        assert!(!told.is_empty() && told.iter().all(|line| line.contains(&uid())), "{auth}: {log}");
        assert!(!log.contains("guess-") && !log.contains("open-sesame"), "no password is logged");
    }
}

fn uid() -> String {
    format!("pid {} uid {}", std::process::id(), rustix::process::geteuid().as_raw())
}

/// A pipeline of guesses is no way round, and holds up nobody: not the loop, not those who have said who they are,
/// not those whose password was right before.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn nobody_else_waits() {
    for auth in ["users", "passthrough"] {
        let redis = Redis::start();
        let broker = broker(&redis, auth);
        let mut honest = broker.connect();
        honest.expect("AUTH jobs open-sesame", "+OK\r\n");
        guess(&broker, 6);
        let mut guessers: Vec<Raw> = (0..20).map(|_| broker.connect()).collect();
        let tries: Vec<String> = (0..50).map(|number| format!("AUTH jobs guess-{number}")).collect();
        let tries = pipeline(&tries.iter().map(String::as_str).collect::<Vec<_>>());
        for guesser in &mut guessers {
            guesser.write(&tries);
        }
        // While those wait. Did these wait as well, it would take 120 or 30 s.
        let begun = Instant::now();
        for _ in 0..300 {
            honest.expect("GET none", "$-1\r\n");
            let mut again = broker.connect();
            again.expect("AUTH jobs open-sesame", "+OK\r\n");
            again.expect("GET none", "$-1\r\n");
        }
        assert!(begun.elapsed() < Duration::from_secs(25), "{auth}: {:?}", begun.elapsed());
        for guesser in &mut guessers {
            assert_eq!(guesser.read_text(), WRONGPASS, "{auth}");
        }
    }
}

/// A right password is let in after its wait, and one that was not said before has to wait: else the wait would tell
/// which it is.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_right_password_that_is_new_waits_and_is_let_in() {
    let redis = Redis::start();
    let broker = broker(&redis, "users");
    guess(&broker, 6);
    let begun = Instant::now();
    let mut raw = broker.connect();
    raw.expect("AUTH jobs open-sesame", "+OK\r\n");
    assert!(begun.elapsed() >= Duration::from_millis(350), "{:?}", begun.elapsed());
    raw.expect("GET none", "$-1\r\n");
    let begun = Instant::now();
    assert!(broker.connect().ask("HELLO 3 AUTH jobs open-sesame").starts_with('%'));
    assert!(broker.connect().ask("HELLO 3 AUTH jobs wrong").starts_with("-WRONGPASS"));
    assert!(begun.elapsed() >= Duration::from_millis(350), "HELLO is no way round: {:?}", begun.elapsed());
}

/// Whoever hangs up does not keep a place among the children for as long as its password would have waited.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_guess_whose_child_has_gone_is_not_waited_for() {
    let redis = Redis::start();
    let broker = broker(&redis, "users");
    guess(&broker, 6);
    wait_until("one that has gone is closed, not answered", || {
        let mut gone = broker.connect();
        gone.send("AUTH jobs x");
        gone.half_close();
        gone.try_reply() == Err(End::Closed)
    });
}
