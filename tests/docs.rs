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

Every setting has one name, used everywhere: in the file given with `broker serve --config FILE`, in
`--set KEY=VALUE`, and on this page. `broker config` prints this table; `broker config --format toml` prints a file to
start from. `broker serve --check` performs the steps of a start that have no visible effect: it resolves and binds the
addresses, reads the files, and checks the directories and the limit of open files. It reports what a start would
refuse, with the same messages. Another process that already listens at the same addresses is not reported as a failure.

The file is read first, then each `--set` in the order given, then `--listen` and `--upstream`. The environment
variable `BROKER_UPSTREAM_PASSWORD`, when set, overrides every other password. Settings are read at the start, and again when
somebody asks for it (SIGHUP, `broker reload`): all keys but `auth` and `admin_listen` can change while the broker runs.
`broker ctl SET key value` changes one until a restart ([operations.md](operations.md#steering)). Without `listen`, a broker run by
root listens on `/run/broker/broker.sock`, any other on `$XDG_RUNTIME_DIR/broker.sock`; where systemd has passed sockets, they are
the listeners.

A plain number is milliseconds for a time and bytes for a size; text such as `\"250ms\"`, `\"5s\"`, `\"512KiB\"` or
`\"64MiB\"` is accepted too. For an unknown key, a wrong type or a value out of range, the broker exits with code 2
and one line that names the key, the value and what is allowed. The file may have at most 1 MiB.

One file can serve the whole host: it may also contain the keys of the C library's clients, which begin with `client_`
and are listed in [c-api.md](c-api.md). The broker checks them and does not use them; `broker_config_load()` reads both.

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
## What is logged

`log_areas` gives areas of the broker a level of their own, in both directions: `upstream=debug,child=error`. The area of
a line is the part of the broker that it comes from; `log_format = \"json\"` shows it. A line of level `trace` is never
left out. Of every other kind of line, ten are logged in ten seconds about one child, 30 about all children of one process
or network address, and 100 about all of them; beyond that a process or address that has had none still has one. A line at
the end of the ten seconds says how many were left out, and about how many peers.

With `json`, each line is one object with `time`, `level`, `area` and `message`, and, where the line is about a child,
`child` (its CLIENT ID), `pid`, `uid` and `peer`, as far as they are known. With `journal`, the same is sent to
`/run/systemd/journal/socket` as the fields `MESSAGE`, `PRIORITY`, `BROKER_AREA`, `BROKER_CHILD`, `BROKER_PID`,
`BROKER_UID` and `BROKER_PEER`, together with `CODE_FILE`, `CODE_LINE` and `SYSLOG_IDENTIFIER=broker`:
`journalctl BROKER_PID=4242` shows the lines about one process. Without that socket, the broker writes lines such as
`<4>text` to standard error.

The broker never waits for standard error or the journal. Lines that find no room (256 KiB wait for standard error) are
dropped, and a line says how many as soon as there is room again.

## Host names

The name in `upstream`, or in the endpoint of a client of the library, is looked up in `/etc/hosts`, then by DNS, at the
servers of `/etc/resolv.conf`. `nsswitch.conf` and its modules (mDNS, LDAP, systemd's own) are not used; systemd-resolved
is, where `/etc/resolv.conf` leads to it. Both files are read again when they change. Of resolv.conf count `nameserver`
(three; none of one link, `%eth0`), `search` and `domain` (six), and the options `ndots`, `timeout`, `attempts`, `rotate`,
`use-vc` and `no-aaaa`. Without `timeout` a server has half a second, and twice as long each time it is asked again;
without `attempts` that is three times.

The broker goes on meanwhile, whatever the name servers do. All addresses of a name, up to 32, are tried in turn, the one
that worked last first. The name is looked up again when its answer is too old, and after a connection to it has failed or
was lost, at most once a second (the names of sentinels and replicas: for each connection); until there is another answer the last one is used. While there is none, requests wait
`queue_timeout`, and the error says why the name has no address. Names in `listen` are resolved once, by the system.

## Where children connect

A unix socket has the permissions of its URL (0660 by default) before any process can connect. Its directory must
exist, except `/run/broker`, which is created. No other user may be able to replace the socket: the directory must belong
to root or to the broker's own user, and must not be writable for its group or others, unless it is sticky like `/tmp`.
Otherwise the broker refuses it. It also refuses a path with a parent directory that is writable for everyone and not
sticky, or that belongs to another user. If containers share a directory, make it sticky and let the broker listen in a
subdirectory that it owns.

A `tcp://` listener with `auth = \"broker\"` has no password. On a loopback address every user of the host can connect;
the broker logs a warning at the start. Beyond loopback the URL must contain `?insecure=1`. A `tls://` listener is allowed
there if clients have to show a certificate (`client_ca`) or a password: [tls.md](tls.md).

If every user of the host can read or change a file with a password, the broker uses it and logs a warning. This applies
to `upstream_password_file`, to `auth_file`, and to the configuration file if it contains a password.

## Metrics and health

`metrics_listen` names addresses for HTTP, with the same options and rules as `listen`; without it there are none.
`tls://` is not among them. [metrics.md](metrics.md) lists what is served there. `metrics_hosts` lists names that clients may use for the broker,
besides IP addresses and `localhost`.

## How children authenticate

`auth = \"broker\"`: every child that can connect is served as the broker's upstream user. AUTH is answered as by a
Redis whose default user has no password.

`auth = \"passthrough\"`: children authenticate with AUTH or HELLO. Redis verifies the credentials each time, on a
connection that is used for nothing else. An authenticated child uses connections of its own user: one more shared lane
for each user, database and protocol. Each password of a user has its own connections, for at most 16 passwords at a
time; a user that accepts any password has one set of connections for all but the first password. Connections are closed
five seconds after the last child that used them has gone, and the password is then overwritten in memory. A new child is
Redis' default user if that user needed no password at most 0.1 s ago. The permission for a channel is checked each time
a child subscribes, even if other children of the same user have subscribed already. A name or password of more than
16 KiB is rejected without asking Redis. When Redis refuses a user it had accepted (because the user was deleted, or its
password was changed and its connections closed), all children of that user are closed. The broker's own connections
keep using `upstream_username`. With `integrity`, every user needs the permission for ECHO.

`auth = \"users\"`: the broker verifies credentials against `auth_file`, which is read at the start and at each reload.
Children of a user that is gone then, or has lost a password or certificate, are closed.

```toml
[[user]]
name = \"reports\"
# SHA-256 of the password, as `printf %s 'password' | sha256sum` prints it; or a list of them.
password_sha256 = \"5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8\"
# The only commands it may run; a container name means all its subcommands. AUTH, HELLO, QUIT and RESET are always allowed.
commands_allow = [\"get\", \"mget\", \"scan\", \"config|get\"]

[[user]]
name = \"jobs\"
password_sha256 = \"5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8\"
# EVAL is denied too, unless scripts_trusted = true or the upstream user \"jobs\" may not run these commands: see below.
commands_deny = [\"flushall\", \"flushdb\"]
# The upstream user of its requests; the default is the broker's own user.
upstream_username = \"jobs\"
upstream_password = \"secret\"

# Whoever shows a certificate with this key is this user, at a tls:// listener with client_ca (docs/tls.md).
[[user]]
name = \"web\"
certificate_spki_sha256 = \"7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730\"

# The user of children that have not authenticated. Without a user of this name, children have to AUTH.
[[user]]
name = \"default\"
nopass = true
commands_allow = [\"ping\"]
```

Neither list allows a command that the broker refuses. With EVAL in `commands_allow`, a user's scripts may do whatever
its upstream user may. ACL WHOAMI and CLIENT INFO show the user name of the file.

Wrong passwords delay further attempts. Attempts are counted per user of this host (over TCP: per address). After the
third wrong password, the next one is checked only after 0.1 s, then 0.2 s, then 0.4 s, on new connections too; with
`passthrough` the delay is always 0.1 s. The count drops by one every 5 s. A name and password that were accepted before
for the same user of this host are not delayed, nor is a child that is already authenticated. A child that hangs up
during the delay is closed. The log names the child and the user, never the password.

### Denied commands and scripts

EVAL and FCALL can call every command that the upstream allows its user. If `commands_deny`, in the settings or for a
user in `auth_file`, names a command that a script can call (one that COMMAND does not flag `noscript`), then EVAL,
EVALSHA and FCALL are denied to the same children, and the error names that command. EVAL_RO, EVALSHA_RO and FCALL_RO are
denied only for commands that do not write, because they cannot call writing ones. Loading scripts and functions is not
denied, since it runs nothing.

Scripts are allowed in two cases. First, if the upstream's user lacks the denied commands itself. This is the reliable
way to deny them. (The broker's own user checks it with ACL DRYRUN, and again after a second; if it may not run ACL
DRYRUN, scripts stay denied.) Second, with `scripts_trusted = true`, in the settings or for a user of `auth_file`.
Commands that the broker refuses by default do not deny scripts. A module's command that itself runs commands must be
denied by its own name.
";

#[test]
fn the_configuration_page_is_the_table() {
    let lines: String = rows().iter().map(line).collect();
    compare("docs/config.md", &format!("{CONFIG_HEAD}{lines}{CONFIG_TAIL}"));
}

#[test]
fn the_page_of_the_console_has_its_tables() {
    let mut tables = String::new();
    for (name, doc, columns) in broker::core::console_tables() {
        tables += &format!("### {name}\n\n{doc}\n\n| column | meaning |\n|---|---|\n");
        columns.iter().for_each(|(column, doc)| tables += &format!("| `{column}` | {doc} |\n"));
        tables += "\n";
    }
    let made = include_str!("docs/console.md").replace("<!-- tables -->\n", tables.trim_end());
    assert!(!made.contains("<!-- tables"), "the tables have their place");
    let head = "<!-- Made by `BROKER_UPDATE_DOCS=1 cargo test --test tree` from tests/docs/console.md and the code. -->\n\n";
    compare("docs/console.md", &format!("{head}{made}\n"));
}

#[test]
fn the_users_of_the_page_are_users() {
    let example = CONFIG_TAIL.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&file, example.expect("an example")).expect("written");
    let mut settings = broker::config::Settings::default();
    settings.set("auth", "users").expect("a choice");
    settings.set("auth_file", file.path().to_str().expect("a path")).expect("a path");
    assert_eq!(settings.accounts().expect("acceptable").len(), 4);
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

#[test]
fn the_page_of_metrics_has_the_table_of_the_code() {
    let mut names = std::collections::BTreeSet::new();
    let row = |(name, kind, labels, help): (&str, &str, &[&str], &str)| {
        assert!(name.starts_with("broker_") && names.insert(name.to_owned()), "{name}");
        assert!(help.ends_with('.') && !help.contains(['|', '\n']), "{name}: {help}");
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", "))
    };
    let rows: String = Loop::metrics().map(row).collect();
    let made = include_str!("docs/metrics.md").replace(
        "<!-- metrics -->\n",
        &format!("| Name | Type | Labels | Meaning |\n|---|---|---|---|\n{rows}"),
    );
    assert!(!made.contains("<!-- metrics"), "the table has its place");
    let head = "<!-- Made by `BROKER_UPDATE_DOCS=1 cargo test --test tree` from tests/docs/metrics.md and the code. -->\n\n";
    compare("docs/metrics.md", &format!("{head}{made}"));
}

fn line(row: &Row) -> String {
    let default = match (row.default, row.unit) {
        ("", _) => "-".to_owned(),
        (number, "ms") if number != "0" => format!("`{number}` ms"),
        (text, _) => format!("`{text}`"),
    };
    let allowed = match row.kind {
        KeyKind::Url | KeyKind::Listen | KeyKind::Uids | KeyKind::Choice => code_words(&row.allowed()),
        KeyKind::Bytes => format!("{} to {}", size(row.min), size(row.max)),
        KeyKind::Milliseconds => format!("{} to {} ms", row.min, row.max),
        KeyKind::Count | KeyKind::Text | KeyKind::Password | KeyKind::Areas | KeyKind::Hosts => row.allowed(),
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
    assert!(found == made, "{name} differs from the code: BROKER_UPDATE_DOCS=1 cargo test --test tree");
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
            ("shared or leased lane", "BLOCK may wait without a limit")
        }
        Route::Shared => ("shared lane", "changes no state of its connection"),
        Route::Local(Local::Ping) => ("shared lane", "answered by the upstream, unless `ping = local`"),
        Route::Local(local) => ("broker", why_local(local)),
        Route::Transaction(_) => ("transaction", "commands between MULTI and EXEC must be written together"),
        Route::Blocking(_) => ("leased lane", "may wait without a limit"),
        Route::Dedicated => ("leased lane", "keeps its connection busy for long"),
        Route::Replicas => ("lane of its writes", "asks about the connection's own last write"),
        Route::Subscribe(_) => ("subscription", "receives messages without a request"),
        Route::Count(_) => ("shared or subscriber lane", "counts each child that listens"),
        Route::Pin(_) => ("kept lane", "changes the connection it runs on"),
        Route::Control => ("control connection", "must not wait behind the script it is to end"),
        Route::Refused => why_refused(command),
    }
}

fn why_local(local: Local) -> &'static str {
    match local {
        Local::Ping | Local::SubscriberPing | Local::Echo => "needs no data",
        Local::Quit => "ends the child's connection, not a lane",
        Local::Select => "each child has its own database; a shared lane never changes its database",
        Local::Hello => {
            "each child has its own protocol; the server's part of the reply is requested from the upstream"
        }
        Local::Reset => "resets the child's state and closes the leased lanes it keeps",
        Local::Auth => "the user of a lane never changes",
        Local::ClientList | Local::ClientInfo | Local::ClientKill | Local::ClientUnblock => {
            "clients are the broker's own children"
        }
        Local::ClientReply => "a lane carries replies of many children: the broker drops the unwanted ones",
        Local::ClientGetredir | Local::ClientTrackinginfo | Local::ClientCaching => {
            "a child that does not track has no such state; one that does is answered on its own lane"
        }
        Local::ClientNoTouch => "the child's requests use lanes with the same setting",
        Local::ClientCapa => "it has no effect in the broker",
        Local::ClientNoEvict => "eviction is about connections, and lanes are the broker's",
        Local::Asking | Local::Readonly | Local::Readwrite => "answered as by a server that is no cluster",
        _ => "each child has its own",
    }
}

fn why_refused(command: &Command<'_>) -> (&'static str, &'static str) {
    let name = command.name;
    if is_never_allowed(name) {
        let why = if name.starts_with("sentinel") {
            "a Sentinel is not an upstream"
        } else {
            "takes over its connection"
        };
        return ("never", why);
    }
    let why = match name {
        "monitor" => "shows the requests of all children",
        "swapdb" | "sflush" => "moves the data of other children's databases",
        "restore-asking" => "is used between cluster nodes",
        "client|pause" | "client|unpause" => "acts on all clients",
        _ if command.flags.contains(&"admin") => {
            "acts on the server, or shows information for its administrator"
        }
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
        assert!(page.contains(&format!("\n| {how} | ")), "the page does not explain {how}");
    }
    let page = page.replace("<!-- commands -->\n", &made);
    let head = "<!-- Made by `BROKER_UPDATE_DOCS=1 cargo test --test tree` from tests/docs/commands.{md,tsv} and the code. -->\n\n";
    compare("docs/commands.md", &format!("{head}{page}"));
}
