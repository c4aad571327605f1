//! Children judged by the broker itself (`auth = users`): the users of `auth_file`, what they may run and who they
//! are upstream; compared with a direct connection where Redis can be given the same users.

use crate::support::raw::pipeline;
use crate::support::twin::without_id;
use crate::support::{Broker, End, Pair, Raw, Redis, upstream_clients};

/// A busy machine is not what these tests are about.
const PATIENT: [(&str, &str); 2] = [("queue_timeout", "20s"), ("connect_timeout", "20s")];

/// Requests of a session, separated by semicolons.
fn lines(text: &str) -> Vec<&str> {
    text.split("; ").collect()
}

fn add_user(redis: &Redis, name: &str, rules: &str) {
    assert_eq!(redis.ask(&format!("ACL SETUSER {name} on >{name}-pw {rules}")), "+OK\r\n");
}

/// Connections of a user, as Redis sees them.
fn connections_of(redis: &Redis, name: &str) -> usize {
    upstream_clients(redis).iter().filter(|client| client.field("user") == name).count()
}

/// SHA-256 of "p" and of "q".
const P: &str = "148de9c5a7a44d19e56cd9ae1a554bf67847afb0c58f6e12fa29ac7ddfca9940";
const Q: &str = "8e35c2cd3bf6641bdb0e2050b76932cbb2e6034a0ddacc1d9bea82a6ba57f7cf";

/// A broker with these users, and the file.
fn with_users(redis: &Redis, users: &str) -> Broker {
    let path = redis.directory().join("users.toml");
    std::fs::write(&path, users).expect("a file");
    let path = path.to_str().expect("a path");
    Broker::start(redis, &[&[("auth", "users"), ("auth_file", path)][..], &PATIENT].concat())
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn users_of_the_file_are_answered_as_by_redis() {
    let (direct, behind) = (Redis::start(), Redis::start());
    direct.ask("ACL SETUSER a on >p >q ~* &* +@all -flushall");
    direct.ask("ACL SETUSER b on nopass ~* &* +@all");
    direct.ask("ACL SETUSER default off resetpass");
    let file = format!(
        "[[user]]\nname='a'\npassword_sha256=['{P}','{Q}']\ncommands_deny='flushall'\n\
         [[user]]\nname='b'\nnopass=true\n"
    );
    let broker = with_users(&behind, &file);
    let mut pair = Pair { direct: Raw::unix(&direct.socket()), brokered: broker.connect() };
    for line in lines(
        "PING; FOO; GET; HELLO 3; EXEC; AUTH p; AUTH a x; AUTH default p; AUTH x p; AUTH a; AUTH a b c; \
         AUTH a p; ACL WHOAMI; SET k v; SELECT 1; GET k; FLUSHALL; MULTI; FLUSHALL; EXEC; MULTI; ACL \
         WHOAMI; EXEC; AUTH a q; AUTH a x; ACL WHOAMI; HELLO 3 AUTH b anything FOO; ACL WHOAMI; RESET; \
         PING",
    ) {
        pair.same(line);
    }
    let lines =
        lines("AUTH a p; MULTI; GET k; FLUSHALL; EXEC; MULTI; ACL WHOAMI; EXEC; AUTH b x; ACL WHOAMI");
    pair.same_pipeline(&pipeline(&lines), lines.len());
    pair.same_with("HELLO 3 SETNAME n AUTH a q", without_id);
    pair.same("CLIENT GETNAME");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn users_of_the_file_may_be_somebody_upstream() {
    let redis = Redis::start();
    add_user(&redis, "up", "~up:* &* +@all -multi");
    let file = format!(
        "[[user]]\nname='default'\nnopass=true\ncommands_allow=['get','acl']\n\
         [[user]]\nname='a'\npassword_sha256='{P}'\nupstream_username='up'\nupstream_password='up-pw'\n\
         [[user]]\nname='c'\npassword_sha256='{P}'\nupstream_username='up'\nupstream_password='bad'\n"
    );
    let broker = with_users(&redis, &file);
    let mut raw = broker.connect();
    raw.expect("ACL WHOAMI", "$7\r\ndefault\r\n");
    raw.expect("GET k", "$-1\r\n");
    raw.expect("SET k v", "-NOPERM this user has no permissions to run the 'set' command\r\n");
    raw.expect("MULTI", "-NOPERM this user has no permissions to run the 'multi' command\r\n");
    raw.expect("AUTH p", texts_without_password());
    raw.expect("AUTH a p", "+OK\r\n");
    raw.expect("ACL WHOAMI", "$1\r\na\r\n");
    assert!(raw.ask("CLIENT INFO").contains(" user=a "));
    raw.expect("SET up:k v", "+OK\r\n");
    assert!(raw.ask("SET k v").starts_with("-NOPERM"));
    raw.expect("MULTI", "-NOPERM this user has no permissions to run the 'multi' command\r\n");
    raw.expect("SELECT 1", "+OK\r\n");
    assert_eq!(connections_of(&redis, "up"), 1);
    raw.expect("RESET", "+RESET\r\n");
    raw.expect("ACL WHOAMI", "$7\r\ndefault\r\n");
    // A password of the file that the upstream refuses: closed, as a direct connection would be.
    raw.expect("AUTH c p", "+OK\r\n");
    raw.send("GET k");
    assert_eq!(raw.try_reply(), Err(End::Closed));
    let mut again = broker.connect();
    again.expect("AUTH a p", "+OK\r\n");
    again.expect("GET up:k", "$1\r\nv\r\n");
    assert!(!broker.log().contains("up-pw"));
}

fn texts_without_password() -> &'static str {
    "-ERR AUTH <password> called without any password configured for the default user. Are you sure your \
     configuration is correct?\r\n"
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_broken_file_ends_the_start_with_one_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("users.toml");
    let check = |settings: &[String]| {
        let listen = format!("unix://{}", directory.path().join("b.sock").display());
        let mut args = vec!["serve", "--check", "--upstream", "redis://127.0.0.1:1", "--listen", &listen];
        for setting in settings {
            args.extend(["--set", setting]);
        }
        let output = Broker::run(&args);
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let users = "auth=users".to_owned();
    let said = check(std::slice::from_ref(&users));
    assert!(said.contains("auth = \"users\": allowed only with auth_file"), "{said}");
    let file = format!("auth_file={}", path.display());
    let said = check(&[users.clone(), file.clone()]);
    assert!(said.contains("users.toml\": cannot be read") && said.lines().count() == 1, "{said}");
    std::fs::write(&path, "[[user]]\nname='a'\npassword='hunter2'\n").expect("a file");
    let said = check(&[users, file]);
    assert!(said.contains("users.toml\": line 1: user \"a\": password: unknown key"), "{said}");
    assert!(!said.contains("hunter2") && said.lines().count() == 1, "{said}");
}
