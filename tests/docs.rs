//! The documentation that is made from the code is what the code says today.
//! `BROKER_UPDATE_DOCS=1` rewrites it instead of comparing.

use std::path::Path;

use broker::command::{Local, Policy, Route, Table, Verdict, is_never_allowed};
use broker::config::table::{KeyKind, Row};
use broker::config::{client_rows, rows};
use broker::reactor::Loop;
use broker::resp::Request;
use redis::Value;

const CONFIG_HEAD: &str = "\
<!-- Made from the table in src/config/table.rs by `BROKER_UPDATE_DOCS=1 cargo test --test tree`. -->

# Configuration

Every setting has one name, and the name is the same everywhere: in the file given with
`broker serve --config FILE`, in `--set KEY=VALUE`, and here. `broker config` prints this table,
`broker config --format toml` a file to start from. `broker serve --check` does what a start does, short of what
anybody would notice (it resolves and binds, reads the files, looks at the directories and the limit of open files), and
says in the same words what a start would refuse; whatever listens at the same places now is no failure.

The file is read first, then each `--set` in its order, then `--listen` and `--upstream`. The environment
variable `BROKER_UPSTREAM_PASSWORD`, when set, stands above every other password. Settings are read once, at
the start. Without `listen`, a broker run by root listens on `/run/broker/broker.sock`, any other on
`$XDG_RUNTIME_DIR/broker.sock`.

Times are milliseconds and sizes bytes when given as a plain number; text such as `\"250ms\"`, `\"5s\"`, `\"512KiB\"` or
`\"64MiB\"` is taken too. An unknown key, a wrong type or a value out of range ends the start with exit code 2
and one line that names the key, the value and what is allowed. The file has at most 1 MiB.

One file may serve the whole host: the keys of the C library's clients, which begin with `client_` and stand in
[c-api.md](c-api.md), may be in it. The broker checks them and does not use them; `broker_config_load()` takes all.

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
## Where children connect

A unix socket has the permissions of its URL (0660 by default) before anybody can connect. Its directory has to exist,
but for `/run/broker`, and to be one in which nobody else can put another socket in its place: it belongs to root or to
the broker's own user, and neither its group nor others may write to it, unless it is sticky as `/tmp` is. Anything else
is refused, and so is a directory above it that everybody may write and that is not sticky, or that belongs to somebody
else. Where containers share a directory, let it be sticky, and the broker listen in one below it that it owns.

A `tcp://` listener with `auth = \"broker\"` asks nobody for a password: on a loopback address every user of the host
can connect, which is said in the log at the start; beyond loopback the URL has to say `?insecure=1`.

A file with a password that every user of the host can read or change is used, and named in the log: that of
`upstream_password_file`, that of `auth_file`, and the configuration itself if a password stands in it.

## Who children are

`auth = \"broker\"`: whoever may connect is served as the upstream's user of the broker. AUTH answers as a Redis whose
default user has no password.

`auth = \"passthrough\"`: children say who they are with AUTH or HELLO, and Redis judges each time, on a connection that
serves nothing else. A child that is let in uses connections of its own user: one more shared lane for each user,
database and protocol. Another password of the same user has connections of its own, for at most 16 at a time; a user
that takes any password has one set for all but the first. They are closed five seconds
after the last child that used them, and the password is overwritten. Children begin as Redis' default user if that
needed no password at most 0.1 s ago. A right to a channel is asked for each time a child subscribes, also where others
of its user listen already. A name or password of more than 16 KiB is wrong without asking. When Redis refuses a user it had let in (it was deleted, its password changed and its connections
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
# With these goes EVAL, unless scripts_trusted = true or \"jobs\" may not run them upstream either: see below.
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

Neither list widens what the broker allows at all. EVAL in `commands_allow` lets a user do by script whatever its
upstream user may. ACL WHOAMI and CLIENT INFO name the user of the file.

Wrong passwords make whoever gives them wait: after the third from one user of this host (over TCP: one address), the
next password from there is looked at only after 0.1 s, then 0.2 s, then 0.4 s, on new connections too; always 0.1 s
with `passthrough`. One is forgiven every 5 s. A name and password that were right before for the same user of this
host do not wait, nor does a child that has been let in. A child that hangs up while it waits is closed. The log names
the child and the user, never the password.

### What is denied is denied to scripts

EVAL and FCALL call whatever the upstream lets its user call. So where `commands_deny`, of the settings or of a user in
`auth_file`, names a command that a script can call (one that COMMAND does not flag `noscript`), EVAL, EVALSHA and FCALL
are denied to the same children, and the error says because of which command. EVAL_RO, EVALSHA_RO and FCALL_RO are
denied only for commands that are no writes: they cannot call those. Loading scripts and functions is not denied, since
it runs nothing.

Two things let scripts run all the same: that the upstream's user lacks the denied commands itself, which is the sound
way to deny them (the broker's own user asks with ACL DRYRUN, again after a second; where it may not, scripts stay
denied); or `scripts_trusted = true`, in the settings or for a user of `auth_file`. What the broker refuses without
being told to denies no scripts. A module's command that runs commands has to be denied by its own name.
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
    assert!(!made.contains("<!-- stats") && !made.contains("<!-- client"), "each table has its place");
    let head = "<!-- Made by `BROKER_UPDATE_DOCS=1 cargo test --test tree` from tests/docs/c-api.md and the code. -->\n\n";
    compare("docs/c-api.md", &format!("{head}{made}"));
}

fn line(row: &Row) -> String {
    let default = match (row.default, row.unit) {
        ("", _) => "-".to_owned(),
        (number, "ms") if number != "0" => format!("`{number}` ms"),
        (text, _) => format!("`{text}`"),
    };
    let allowed = match row.kind {
        KeyKind::Url | KeyKind::Listen | KeyKind::Choice => code_words(&row.allowed()),
        KeyKind::Bytes => format!("{} to {}", size(row.min), size(row.max)),
        KeyKind::Milliseconds => format!("{} to {} ms", row.min, row.max),
        KeyKind::Count | KeyKind::Text | KeyKind::Password => row.allowed(),
        KeyKind::Commands => row.allowed().replace('|', "\\|"),
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
    assert!(found == made, "{name} is not what the code says: BROKER_UPDATE_DOCS=1 cargo test --test tree");
}

// ---- commands ------------------------------------------------------------------------------------------------------

/// One line of tests/docs/commands.tsv.
struct Command<'t> {
    name: &'t str,
    since: &'t str,
    arity: i64,
    flags: Vec<&'t str>,
    known: &'t str,
}

fn commands() -> Vec<Command<'static>> {
    let lines = include_str!("docs/commands.tsv").lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [name, since, arity, flags, known] = fields[..] else { panic!("{line}: not five fields") };
            let arity = arity.parse().unwrap_or_else(|_| panic!("{line}: no arity"));
            Command { name, since, arity, flags: flags.split_whitespace().collect(), known }
        })
        .collect()
}

/// The reply to COMMAND of a server that has them all.
fn reply(commands: &[Command<'_>]) -> Value {
    let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
    let entry = |command: &Command<'_>, subcommands| {
        let flags = command.flags.iter().map(|flag| Value::SimpleString((*flag).to_owned())).collect();
        let mut fields = vec![text(command.name), Value::Int(command.arity), Value::Array(flags)];
        fields.resize(9, Value::Int(0));
        fields.push(Value::Array(subcommands));
        Value::Array(fields)
    };
    let container = |name: &str| name.split_once('|').map(|(container, _)| container.to_owned());
    let of = |name: &str| -> Vec<Value> {
        let own = commands.iter().filter(|sub| container(sub.name).as_deref() == Some(name));
        own.map(|sub| entry(sub, Vec::new())).collect()
    };
    let mut entries: Vec<Value> = Vec::new();
    for command in commands.iter().filter(|command| !command.name.contains('|')) {
        entries.push(entry(command, of(command.name)));
    }
    // Some are only known by their subcommands.
    let names: std::collections::BTreeSet<String> =
        commands.iter().filter_map(|sub| container(sub.name)).collect();
    for name in names.iter().filter(|name| commands.iter().all(|command| command.name != **name)) {
        let command = Command { name, since: "", arity: -2, flags: Vec::new(), known: "" };
        entries.push(entry(&command, of(name)));
    }
    Value::Array(entries)
}

fn route(table: &Table, args: &[&str]) -> Route {
    let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
    for arg in args {
        let start = bytes.len() as u32;
        bytes.extend_from_slice(arg.as_bytes());
        ranges.push((start, bytes.len() as u32));
    }
    match table.classify(&Request::new(&bytes, &ranges)) {
        Verdict::Known(known) if known.arity_ok => known.route,
        verdict => panic!("{args:?}: {verdict:?}"),
    }
}

/// How the table treats a command, and why, in a few words.
fn treatment(table: &Table, command: &Command<'_>) -> (&'static str, &'static str) {
    let mut args: Vec<&str> = command.name.split('|').collect();
    args.resize(args.len().max(command.arity.unsigned_abs() as usize), "1");
    let mut blocking = vec![args[0], "block", "0", "streams"];
    blocking.resize(args.len().max(6), "1");
    match route(table, &args) {
        Route::Shared if command.name.starts_with("xread") => {
            assert!(matches!(route(table, &blocking), Route::Blocking(_)), "{}", command.name);
            ("shared or leased lane", "BLOCK may wait as long as it likes")
        }
        Route::Shared => ("shared lane", "leaves nothing behind on its connection"),
        Route::Local(Local::Ping) => ("shared lane", "is answered by the upstream, unless `ping = local`"),
        Route::Local(local) => ("broker", why_local(local)),
        Route::Transaction(_) => ("transaction", "what stands between MULTI and EXEC must stand together"),
        Route::Blocking(_) => ("leased lane", "may wait as long as it likes"),
        Route::Dedicated => ("leased lane", "keeps its connection busy for long"),
        Route::Replicas => ("lane of its writes", "asks about the connection's own last write"),
        Route::Subscribe(_) => ("subscription", "messages come without being asked for"),
        Route::Pin(_) => ("kept lane", "changes the connection it runs on"),
        Route::Control => ("control connection", "must not stand behind the script it is to end"),
        Route::Refused => why_refused(command),
    }
}

fn why_local(local: Local) -> &'static str {
    match local {
        Local::Ping | Local::SubscriberPing | Local::Echo => "asks for no data",
        Local::Quit => "ends the child's connection, not a lane",
        Local::Select => "each child has its own database; no shared lane ever changes its",
        Local::Hello => "each child has its own protocol; the rest the upstream is asked for at that moment",
        Local::Reset => "what the child has goes, with the lanes it has to itself",
        Local::Auth => "a lane is the upstream user's and stays it",
        Local::ClientList | Local::ClientInfo | Local::ClientKill | Local::ClientUnblock => {
            "clients are the broker's own children"
        }
        Local::ClientReply => "replies of a lane are many children's: unwanted ones are dropped here",
        Local::ClientGetredir | Local::ClientTrackinginfo | Local::ClientCaching => {
            "who does not track has no such state; who does has a lane of its own, and is answered there"
        }
        Local::ClientNoTouch => "the child's requests go on lanes of that kind",
        Local::ClientCapa => "nothing follows from it here",
        Local::ClientNoEvict => "eviction is about connections, and lanes are the broker's",
        Local::Asking | Local::Readonly | Local::Readwrite => "answered as by a server that is no cluster",
        _ => "each child has its own",
    }
}

fn why_refused(command: &Command<'_>) -> (&'static str, &'static str) {
    let name = command.name;
    if is_never_allowed(name) {
        let why = if name.starts_with("sentinel") {
            "a Sentinel is no upstream"
        } else {
            "takes its connection over"
        };
        return ("never", why);
    }
    let why = match name {
        "monitor" => "shows everybody's requests",
        "swapdb" | "sflush" => "moves the data of other children's databases",
        "restore-asking" => "is between the nodes of a cluster",
        "client|pause" | "client|unpause" => "acts on every client at once",
        _ if command.flags.contains(&"admin") => "acts on the server, or shows what is its administrator's",
        _ => "acts on the server",
    };
    ("refused", why)
}

#[test]
fn the_page_of_commands_is_what_the_table_says() {
    let commands = commands();
    let table = Table::from_command_reply(&reply(&commands), Policy::default()).expect("a table");
    let mut made = "| Command | Since | Known | Treatment | Why |\n|---|---|---|---|---|\n".to_owned();
    let mut count = std::collections::BTreeMap::<&str, usize>::new();
    let is_container = |name: &str| {
        commands.iter().any(|command| command.name.strip_prefix(name).is_some_and(|sub| sub.starts_with('|')))
    };
    let shown: Vec<&Command<'_>> = commands.iter().filter(|command| !is_container(command.name)).collect();
    for command in &shown {
        let (how, why) = treatment(&table, command);
        *count.entry(how).or_default() += 1;
        let name = command.name.replace('|', " ").to_uppercase();
        made += &format!("| {name} | {} | {} | {how} | {why} |\n", command.since, command.known);
    }
    let tried = shown.iter().filter(|command| command.known == "tried").count();
    let counts: Vec<String> = count.iter().map(|(how, count)| format!("{count} {how}")).collect();
    let made = format!(
        "{} commands and subcommands, {tried} of them tried: {}.\n\n{made}",
        shown.len(),
        counts.join(", ")
    );
    let page = include_str!("docs/commands.md");
    for how in count.keys() {
        assert!(page.contains(&format!("\n| {how} | ")), "the page does not say what {how} means");
    }
    let page = page.replace("<!-- commands -->\n", &made);
    let head = "<!-- Made by `BROKER_UPDATE_DOCS=1 cargo test --test tree` from tests/docs/commands.{md,tsv} and the code. -->\n\n";
    compare("docs/commands.md", &format!("{head}{page}"));
}
