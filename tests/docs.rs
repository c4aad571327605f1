//! The documentation that is made from the code is what the code says today.
//! `BROKER_UPDATE_DOCS=1` rewrites it instead of comparing.

use std::path::Path;

use broker::config::table::{Kind, Row};
use broker::config::{client_rows, rows};
use broker::reactor::Loop;

const CONFIG_HEAD: &str = "\
<!-- Made from the table in src/config/table.rs by `BROKER_UPDATE_DOCS=1 cargo test --test docs`. -->

# Configuration

Every setting has one name, and the name is the same everywhere: in the file given with
`broker serve --config FILE`, in `--set KEY=VALUE`, and here. `broker config` prints this table,
`broker config --format toml` a file to start from, and `broker serve --check` says whether a configuration
is acceptable without starting anything.

The file is read first, then each `--set` in its order, then `--listen` and `--upstream`. The environment
variable `BROKER_UPSTREAM_PASSWORD`, when set, stands above every other password. Settings are read once, at
the start. Without `listen`, a broker run by root listens on `/run/broker/broker.sock`, any other on
`$XDG_RUNTIME_DIR/broker.sock`.

Times are milliseconds and sizes bytes when given as a plain number; text such as `\"250ms\"`, `\"5s\"`, `\"512KiB\"` or
`\"64MiB\"` is taken too. An unknown key, a wrong type or a value out of range ends the start with exit code 2
and one line that names the key, the value and what is allowed.

```toml
upstream = \"redis://redis.example:6379/0\"
upstream_password_file = \"/etc/broker/password\"
listen = [\"unix:///run/broker/broker.sock?mode=0660&group=www-data\", \"tcp://127.0.0.1:6380\"]
queue_timeout = \"500ms\"
```

| Key | Default | Allowed | Meaning |
|---|---|---|---|
";

const CONFIG_TAIL: &str = "
## Who children are

`auth = \"broker\"`: whoever may connect is served as the upstream's user of the broker. AUTH answers as a Redis whose
default user has no password.

`auth = \"passthrough\"`: children say who they are with AUTH or HELLO, and Redis judges each time, on a connection that
serves nothing else. A child that is let in uses connections of its own user: one more shared lane for each user,
database and protocol. Another password of the same user has connections of its own. They are closed five seconds
after the last child that used them, and the password is overwritten. Children begin as Redis' default user if that
needs no password. When Redis refuses a user it had let in (it was deleted, its password changed and its connections
were closed), all children that are that user are closed. The broker's own connections stay those of `upstream_username`.
With `integrity`, every user needs the right to ECHO.

`auth = \"users\"`: the broker judges, from `auth_file`, which is read at the start:

```toml
[[user]]
name = \"reports\"
# SHA-256 of the password, as `printf %s 'password' | sha256sum` prints it; or a list of them.
password_sha256 = \"5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8\"
# The only commands it may run; a container means all its subcommands. AUTH, HELLO, QUIT and RESET are always there.
commands_allow = [\"get\", \"mget\", \"scan\", \"config|get\"]

[[user]]
name = \"jobs\"
password_sha256 = \"5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8\"
commands_deny = [\"flushall\", \"flushdb\"]
# As whom its requests go upstream, if not as the broker's own user.
upstream_username = \"jobs\"
upstream_password = \"secret\"

# Who children are that have said nothing. Without such a user they have to AUTH.
[[user]]
name = \"default\"
nopass = true
commands_allow = [\"ping\"]
```

Neither list widens what the broker allows at all. ACL WHOAMI and CLIENT INFO name the user of the file.
";

#[test]
fn the_configuration_page_is_the_table() {
    let lines: String = rows().iter().map(line).collect();
    compare("docs/config.md", &format!("{CONFIG_HEAD}{lines}{CONFIG_TAIL}"));
}

#[test]
fn the_users_of_the_page_are_users() {
    let example = CONFIG_TAIL.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&file, example.expect("an example")).expect("written");
    let mut settings = broker::config::Settings::default();
    settings.set("auth", "users").expect("a choice");
    settings.set("auth_file", file.path().to_str().expect("a path")).expect("a path");
    assert_eq!(settings.accounts().expect("acceptable").len(), 3);
}

#[test]
fn the_example_of_the_page_is_a_configuration() {
    let example = CONFIG_HEAD.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    let mut settings = broker::config::Settings::default();
    settings.load_toml(example.expect("an example"), "example").expect("acceptable");
    settings.validate().expect("keys that agree");
}

#[test]
fn the_page_of_the_c_library_has_the_tables_of_the_code() {
    let stats = Loop::stats().map(|(name, doc)| format!("| `{name}` | {doc} |\n"));
    let stats = format!("| Name | Meaning |\n|---|---|\n{}", stats.collect::<String>());
    let keys: String = client_rows().iter().map(line).collect();
    let keys = format!("| Key | Default | Allowed | Meaning |\n|---|---|---|---|\n{keys}");
    let made = include_str!("docs/c-api.md")
        .replace("<!-- stats -->\n", &stats)
        .replace("<!-- client keys -->\n", &keys);
    assert!(!made.contains("<!-- "), "each table has its place");
    let head = "<!-- Made by `BROKER_UPDATE_DOCS=1 cargo test --test docs` from tests/docs/c-api.md and the code. -->\n\n";
    compare("docs/c-api.md", &format!("{head}{made}"));
}

fn line(row: &Row) -> String {
    let default = match (row.default, row.unit) {
        ("", _) => "-".to_owned(),
        (number, "ms") if number != "0" => format!("`{number}` ms"),
        (text, _) => format!("`{text}`"),
    };
    let allowed = match row.kind {
        Kind::Url | Kind::Listen | Kind::Choice => code_words(&row.allowed()),
        Kind::Bytes => format!("{} to {}", size(row.min), size(row.max)),
        Kind::Milliseconds => format!("{} to {} ms", row.min, row.max),
        Kind::Count | Kind::Text | Kind::Password => row.allowed(),
        Kind::Commands => row.allowed().replace('|', "\\|"),
    };
    format!("| `{}` | {default} | {allowed} | {} |\n", row.key, row.doc)
}

/// A number of bytes in the largest unit that divides it.
fn size(bytes: u64) -> String {
    let units = ["GiB", "MiB", "KiB"].into_iter().zip([1 << 30, 1 << 20, 1 << 10]);
    let mut fitting = units.filter(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    fitting.next().map_or_else(|| bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit))
}

/// Words that are typed as they stand, set as code: URLs with brackets would be links.
fn code_words(text: &str) -> String {
    let is_prose = |word: &str| matches!(word, "or" | "of" | "up" | "to") || word.parse::<u64>().is_ok();
    let word = |word: &str| match word.strip_suffix(',') {
        Some(bare) => format!("`{bare}`,"),
        None if is_prose(word) => word.to_owned(),
        None => format!("`{word}`"),
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

fn compare(name: &str, made: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("BROKER_UPDATE_DOCS").is_some_and(|value| value == "1") {
        return std::fs::write(&path, made).expect("write the page");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == made, "{name} is not what the code says: BROKER_UPDATE_DOCS=1 cargo test --test docs");
}
