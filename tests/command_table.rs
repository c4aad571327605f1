//! The command table against a real redis-server: the class of every command it lists, renamed commands,
//! and the error texts answered in its place. Each test runs a server of its own on a unix socket.

use broker::command::{self, Known, Local, Policy, Route, Table, Transaction, Verdict, texts};
use broker::resp::{Request, encode};
use redis::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::redis::{is_before_7, server_program};
use crate::support::wait_until;

/// Everything the server lists that is not in one of these goes on a shared lane.
const CLASSES: &[(&str, &str)] = &[
    (
        "local",
        "ping echo quit select hello reset auth asking readonly readwrite client|id client|setname \
         client|getname client|setinfo client|info client|no-evict client|reply client|list client|kill \
         client|unblock client|getredir client|trackinginfo client|caching client|no-touch",
    ),
    ("transaction", "multi exec discard watch unwatch"),
    ("blocking", "blpop brpop brpoplpush blmove blmpop bzpopmin bzpopmax bzmpop"),
    ("dedicated", "migrate"),
    ("count", "publish spublish pubsub|numsub pubsub|shardnumsub"),
    ("subscribe", "subscribe unsubscribe psubscribe punsubscribe ssubscribe sunsubscribe"),
    ("pin", "client|tracking"),
    ("control", "script|kill function|kill"),
    ("replicas", "wait waitaof"),
    (
        "refused",
        "monitor swapdb sync psync replconf replicaof slaveof failover shutdown debug save \
         bgsave bgrewriteaof pfdebug pfselftest restore-asking script|debug config|set config|rewrite \
         config|resetstat module|load module|loadex module|unload acl|setuser acl|deluser acl|getuser \
         acl|list acl|users acl|log acl|load acl|save client|pause client|unpause \
         cluster|addslots cluster|addslotsrange cluster|bumpepoch \
         cluster|count-failure-reports cluster|delslots cluster|delslotsrange cluster|failover \
         cluster|flushslots cluster|forget cluster|meet cluster|replicas cluster|replicate cluster|reset \
         cluster|saveconfig cluster|set-config-epoch cluster|setslot cluster|slaves",
    ),
];
/// Commands that only have subcommands.
const CONTAINERS: [&str; 17] = [
    "acl",
    "client",
    "cluster",
    "command",
    "commandlog",
    "config",
    "function",
    "latency",
    "memory",
    "module",
    "object",
    "pubsub",
    "script",
    "sentinel",
    "slowlog",
    "xgroup",
    "xinfo",
];
/// In the lists above but younger than 7.0.
const YOUNGER: [&str; 3] = ["client|setinfo", "client|no-touch", "waitaof"];
/// What other releases have that 7.0 does not, each judged by hand. What is in neither list is judged by nobody.
const OTHERS: [(&str, &str); 5] = [
    ("local", "client|capa client|setinfo client|no-touch"),
    ("pin", "client|import-source"),
    ("replicas", "waitaof"),
    (
        "refused",
        "cluster|cancelslotmigrations cluster|flushslot cluster|getslotmigrations cluster|migrateslots \
         cluster|syncslots",
    ),
    (
        "shared",
        "clusterscan cluster|myshardid cluster|slot-stats commandlog commandlog|get commandlog|help \
         commandlog|len commandlog|reset delifeq hexpire hexpireat hexpiretime hgetdel hgetex hpersist hpexpire \
         hpexpireat hpexpiretime hpttl hsetex httl msetex script|show stralgo vadd vcard vdim vemb vgetattr vinfo \
         vismember vlinks vrandmember vrem vsetattr vsim xackdel xdelex",
    ),
];
/// Redis 6 lists these, and closes whoever says them.
const HANG_UP: [&str; 2] = ["post", "host:"];
/// Replicate though they are not in the server's category @write.
const HIDDEN_WRITES: [&str; 7] = ["eval", "evalsha", "exec", "fcall", "pfcount", "publish", "spublish"];

struct Server {
    process: Child,
    dir: tempfile::TempDir,
}

impl Server {
    fn start(options: &[&str]) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let process = Command::new(server_program())
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(dir.path().join("s"))
            .arg("--dir")
            .arg(dir.path())
            .args(options)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts");
        let server = Server { process, dir };
        wait_until("redis-server listens", || UnixStream::connect(server.dir.path().join("s")).is_ok());
        server
    }

    fn client(&self) -> redis::Connection {
        let url = format!("redis+unix://{}/s", self.dir.path().display());
        redis::Client::open(url).unwrap().get_connection().unwrap()
    }

    fn table(&self) -> Table {
        let reply: Value = redis::cmd("COMMAND").query(&mut self.client()).unwrap();
        Table::from_command_reply(&reply, Policy::default()).unwrap()
    }

    fn raw(&self) -> Raw {
        let stream = UnixStream::connect(self.dir.path().join("s")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Raw { stream: BufReader::new(stream) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A connection whose replies of one line are read byte for byte.
struct Raw {
    stream: BufReader<UnixStream>,
}

impl Raw {
    fn line(&mut self, args: &[Vec<u8>]) -> Vec<u8> {
        let mut request = Vec::new();
        encode::request_of(&mut request, args.iter().map(Vec::as_slice));
        self.stream.get_mut().write_all(&request).unwrap();
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).unwrap();
        line
    }

    fn words(&mut self, words: &str) -> String {
        String::from_utf8(self.line(&split(words))).unwrap()
    }
}

fn split(words: &str) -> Vec<Vec<u8>> {
    words.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

fn with_request<T>(args: &[Vec<u8>], use_it: impl FnOnce(&Request<'_>) -> T) -> T {
    let bytes = args.concat();
    let mut end = 0;
    let ranges: Vec<(u32, u32)> = args
        .iter()
        .map(|arg| {
            let start = end;
            end += arg.len() as u32;
            (start, end)
        })
        .collect();
    use_it(&Request::new(&bytes, &ranges))
}

fn known<'t>(table: &'t Table, args: &[Vec<u8>]) -> Known<'t> {
    with_request(args, |request| match table.classify(request) {
        Verdict::Known(known) => known,
        other => panic!("{args:?}: {other:?}"),
    })
}

fn class(route: Route) -> &'static str {
    match route {
        Route::Shared => "shared",
        Route::Local(_) => "local",
        Route::Transaction(_) => "transaction",
        Route::Blocking(_) => "blocking",
        Route::Dedicated => "dedicated",
        Route::Subscribe(_) => "subscribe",
        Route::Count(_) => "count",
        Route::Pin(_) => "pin",
        Route::Control => "control",
        Route::Replicas => "replicas",
        Route::Refused => "refused",
    }
}

fn names(value: &Value) -> Vec<String> {
    redis::from_redis_value_ref(value).unwrap()
}

/// Full names of what COMMAND lists with their arities, read without the table.
fn listed(reply: &Value) -> Vec<(String, i64)> {
    let Value::Array(entries) = reply else { return Vec::new() };
    let mut all = Vec::new();
    for entry in entries {
        let Value::Array(fields) = entry else { panic!("{entry:?}") };
        let (name, arity) = (&fields[0], &fields[1]);
        let name: String = redis::from_redis_value_ref(name).unwrap();
        all.push((name.to_ascii_lowercase(), redis::from_redis_value_ref(arity).unwrap()));
        // Before Redis 7.0 there are none.
        all.extend(fields.get(9).map(listed).unwrap_or_default());
    }
    all
}

#[test]
fn every_command_of_the_server_has_its_class() {
    let server = Server::start(&[]);
    let mut client = server.client();
    let reply: Value = redis::cmd("COMMAND").query(&mut client).unwrap();
    let writes: Value = redis::cmd("COMMAND")
        .arg("LIST")
        .arg("FILTERBY")
        .arg("ACLCAT")
        .arg("write")
        .query(&mut client)
        .unwrap();
    let writes = names(&writes);
    let table = server.table();
    let listed = listed(&reply);
    assert_eq!(table.ids().len(), listed.len());
    for (name, arity) in &listed {
        let mut args: Vec<Vec<u8>> = name.split('|').map(|part| part.as_bytes().to_vec()).collect();
        args.resize(args.len().max(arity.unsigned_abs() as usize), b"x".to_vec());
        // A bare container fits its arity only with a subcommand, so it never comes back as itself.
        if !name.contains('|') && listed.iter().any(|(other, _)| other.starts_with(&format!("{name}|"))) {
            args.truncate(1);
        }
        let known = known(&table, &args);
        let expected = CLASSES.iter().find(|(_, list)| list.split(' ').any(|word| word == name));
        let expected = expected.map_or("shared", |(class, _)| class);
        assert_eq!((known.name, class(known.route)), (name.as_str(), expected));
        assert_eq!(table.name(known.id), name);
        assert_eq!(known.arity_ok, args.len() as i64 == arity.abs(), "{name}");
        let write = writes.contains(name) || HIDDEN_WRITES.contains(&name.as_str());
        assert_eq!(table.is_write(known.id), write, "{name}");
        let no_multi = ["save", "sync", "psync", "shutdown"].contains(&name.as_str());
        assert_eq!(known.no_multi, no_multi, "{name}");
    }
    let mut expected = CLASSES.iter().flat_map(|(_, list)| list.split(' '));
    let missing = expected.find(|name| !YOUNGER.contains(name) && !listed.iter().any(|(n, _)| n == name));
    assert_eq!(missing, None, "a class names a command the server does not have");
}

/// The class of each command, on whatever server: a newer one may have brought what nobody has thought of.
#[test]
fn no_command_of_the_server_was_judged_by_nobody() {
    let server = Server::start(&[]);
    let reply: Value = redis::cmd("COMMAND").query(&mut server.client()).unwrap();
    let table = server.table();
    let of_7_0: BTreeSet<&str> = include_str!("docs/commands.tsv")
        .lines()
        .filter(|line| line.ends_with("\ttried"))
        .filter_map(|line| line.split('\t').next())
        .collect();
    let in_list = |name: &str| {
        let lists = CLASSES.iter().chain(&OTHERS);
        lists.filter(|(_, list)| list.split(' ').any(|word| word == name)).map(|(class, _)| *class).next()
    };
    let listed = listed(&reply);
    let names = listed.iter().map(|(name, _)| name.as_str());
    for name in names.filter(|name| !HANG_UP.contains(name) && !CONTAINERS.contains(name)) {
        let expected = in_list(name).or(of_7_0.contains(name).then_some("shared"));
        let expected = expected.unwrap_or_else(|| panic!("nobody has judged {name}"));
        let arity =
            listed.iter().find(|(other, _)| other == name).map_or(0, |(_, arity)| arity.unsigned_abs());
        let mut args: Vec<Vec<u8>> = name.split('|').map(|part| part.as_bytes().to_vec()).collect();
        args.resize(args.len().max(arity as usize), b"x".to_vec());
        assert_eq!(class(known(&table, &args).route), expected, "{name}");
    }
    // Those that an old server does not list are judged all the same, and what is none of them is answered here.
    for (expected, list) in CLASSES.iter().filter(|(class, _)| is_before_7() && *class == "refused") {
        for name in list.split(' ').filter(|name| name.contains('|')) {
            let args = [split(&name.replace('|', " ")), vec![b"x".to_vec(); 9]].concat();
            let classes: Vec<&str> =
                (2..=args.len()).map(|count| class(known(&table, &args[..count]).route)).collect();
            let stays_here = |class: &&str| class == expected || ["local", "shared"].contains(class);
            assert!(classes.contains(expected) && classes.iter().all(stays_here), "{name}: {classes:?}");
            let harmless = name.starts_with("cluster");
            assert!(harmless || !classes.contains(&"shared"), "{name}: {classes:?}");
        }
    }
}

/// Flags that decide anything, as the table built in has them.
const FLAGS: [&str; 11] = [
    "admin",
    "allow_busy",
    "blocking",
    "may_replicate",
    "module",
    "no_multi",
    "noscript",
    "only_sentinel",
    "protected",
    "pubsub",
    "write",
];

/// What the server says of its commands, in the form of the table built in.
fn rows_of(commands: &Value, into: &mut BTreeSet<String>) {
    let Value::Array(entries) = commands else { return };
    for entry in entries {
        let Value::Array(fields) = entry else { panic!("{entry:?}") };
        let text = |value: &Value| -> String { redis::from_redis_value_ref(value).unwrap() };
        let arity: i64 = redis::from_redis_value_ref(&fields[1]).unwrap();
        let mut flags = names(&fields[2]);
        flags.retain(|flag| FLAGS.contains(&flag.as_str()));
        flags.sort();
        let flags = if flags.is_empty() { "-".to_owned() } else { flags.join(",") };
        into.insert(format!("{} {arity} {flags}", text(&fields[0]).to_ascii_lowercase()));
        if let Some(subcommands) = fields.get(9) {
            rows_of(subcommands, into);
        }
    }
}

/// `BROKER_UPDATE_TABLES=1` writes what the server says, if it is one of those in the table.
#[test]
fn the_table_built_in_is_that_of_the_server() {
    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/command/builtin.txt");
    let server = Server::start(&[]);
    let mut client = server.client();
    let hello: std::collections::HashMap<String, Value> =
        redis::from_redis_value(redis::cmd("HELLO").query(&mut client).unwrap()).unwrap();
    let field = |name: &str| -> String { redis::from_redis_value_ref(&hello[name]).unwrap() };
    let release = format!("{} {}", field("server"), field("version"));
    let mut said = BTreeSet::new();
    rows_of(&redis::cmd("COMMAND").query(&mut client).unwrap(), &mut said);
    let text = std::fs::read_to_string(FILE).unwrap();
    let key = text.lines().find_map(|line| {
        line.strip_prefix("= ").and_then(|line| line.split_once(' ')).filter(|(_, name)| *name == release)
    });
    let key = key.unwrap_or_else(|| panic!("{release} is none of the releases of {FILE}")).0;
    let rows = || text.lines().filter(|line| !line.starts_with(['#', '=']));
    let own = rows().filter_map(|line| line.split_once(' ').filter(|(keys, _)| keys.contains(key)));
    let own: BTreeSet<String> = own.map(|(_, row)| row.to_owned()).collect();
    match std::env::var_os("BROKER_UPDATE_TABLES") {
        Some(_) => std::fs::write(FILE, updated(&text, key, &said)).unwrap(),
        None => assert_eq!(own, said, "BROKER_UPDATE_TABLES=1 writes it"),
    }
}

/// The table with these rows of one release.
fn updated(text: &str, key: &str, said: &BTreeSet<String>) -> String {
    let mut all: std::collections::BTreeMap<Vec<String>, BTreeSet<String>> = Default::default();
    let mut add = |row: &str, key: &str| {
        // In the order of the words of a name, so that a container stands before its subcommands.
        let mut words: Vec<String> = row.split(' ').map(str::to_owned).collect();
        words.splice(0..1, words[0].replace('|', " | ").split(' ').map(str::to_owned).collect::<Vec<_>>());
        all.entry(words).or_default().insert(key.to_owned());
    };
    for (keys, row) in
        text.lines().filter(|line| !line.starts_with(['#', '='])).filter_map(|l| l.split_once(' '))
    {
        keys.split("").filter(|other| !other.is_empty() && *other != key).for_each(|other| add(row, other));
    }
    said.iter().for_each(|row| add(row, key));
    let heads = text.lines().filter(|line| line.starts_with(['#', '='])).map(|line| format!("{line}\n"));
    let rows = all.iter().map(|(words, keys)| {
        let keys: String = keys.iter().map(String::as_str).collect();
        format!("{keys} {}\n", words.join(" ").replace(" | ", "|"))
    });
    heads.chain(rows).collect()
}

#[test]
fn timeouts_stand_where_the_server_reads_them() {
    let server = Server::start(&[]);
    let table = server.table();
    let mut raw = server.raw();
    // T is where the timeout stands; waiting for a missing key answers a null after it.
    let requests = ["blpop a b T", "brpoplpush a b T", "bzpopmin a T", "blmove a b left left T"];
    let requests = requests.iter().chain(&["blmpop T 1 a left", "bzmpop T 1 a min"]);
    let seconds = ["0.001", "1e-3", "+.002", "0x1p-9", "1e-400", "-1", "-0.5", "nan", "inf", "1e17", "x", ""];
    let streams = ["xread count 1 block T streams block 0", "xread block 50000 block T streams a 0"];
    let millis = ["1", "01", "+1", "-1", "1.0", "x"];
    for (request, timeouts) in
        requests.map(|r| (r, &seconds[..])).chain(streams.iter().map(|r| (r, &millis[..])))
    {
        for &timeout in timeouts {
            let mut args = split(request);
            let place = args.iter().position(|arg| arg == b"T").unwrap();
            args[place] = timeout.as_bytes().to_vec();
            let Route::Blocking(blocking) = known(&table, &args).route else { panic!("{request}") };
            assert_eq!(blocking.timeout, place, "{request}");
            let accepted = raw.line(&args)[0] == b'*';
            let ms = with_request(&args, |request| command::timeout_ms(request, &blocking));
            assert_eq!(ms.is_some(), accepted, "{request} with {timeout:?}");
        }
    }
    for words in
        ["xread streams block 0", "xread count 1 streams a 0", "xreadgroup group block block streams a >"]
    {
        assert_eq!(known(&table, &split(words)).route, Route::Shared, "{words}");
    }
}

#[test]
fn renamed_commands_are_learned_and_old_names_forgotten() {
    let renames =
        [("SELECT", "sel2"), ("CLIENT", "Cli2"), ("ECHO", "unused"), ("DISCARD", "echo"), ("EVAL", "")];
    let hash = "b840fc02d524045429941cc15f59e41cb7be6c52";
    let mut options = vec!["--rename-command", "CONFIG", hash];
    for (from, to) in renames {
        options.extend(["--rename-command", from, to]);
    }
    let server = Server::start(&options);
    let mut client = server.client();
    let mut table = server.table();
    let mut info = redis::cmd("COMMAND");
    info.arg("INFO");
    table.names().for_each(|name| {
        info.arg(name);
    });
    table.confirm(&info.query(&mut client).unwrap()).unwrap();

    for name in ["select", "client", "config", "discard", "eval", "sel2", hash] {
        with_request(&split(name), |r| assert!(matches!(table.classify(r), Verdict::Unknown), "{name}"));
        let info = redis::cmd("COMMAND").arg("INFO").arg(name).query(&mut client).unwrap();
        assert_eq!(table.learn(name.as_bytes(), &info), name == "sel2" || name == hash, "{name}");
    }
    let info = redis::cmd("COMMAND").arg("INFO").arg("CLI2").query(&mut client).unwrap();
    assert!(table.learn(b"CLI2", &info));

    let select = known(&table, &split("SEL2 1"));
    assert_eq!((select.name, select.route), ("select", Route::Local(Local::Select)));
    assert_eq!(known(&table, &split("cli2 id")).route, Route::Local(Local::ClientId));
    assert_eq!(known(&table, &split("cli2 reply off")).route, Route::Local(Local::ClientReply));
    assert_eq!(known(&table, &split(&format!("{hash} set a b"))).route, Route::Refused);
    assert_eq!(known(&table, &split("echo")).route, Route::Transaction(Transaction::Discard));

    let mut raw = server.raw();
    for words in ["SEL2", "cli2 id x", "cLi2 fOo", "Echo x", "select 1"] {
        let args = split(words);
        assert_eq!(Some(raw.line(&args)), local_error(&table, &args), "{words}");
    }
}

/// The reply the broker gives to a request that does not reach the upstream because it is malformed.
fn local_error(table: &Table, args: &[Vec<u8>]) -> Option<Vec<u8>> {
    let text = with_request(args, |request| match table.classify(request) {
        Verdict::Unknown => Some(texts::unknown_command(request, table.wording())),
        Verdict::UnknownSubcommand => Some(texts::unknown_subcommand(request)),
        Verdict::Known(known) if known.route == Route::Local(Local::NoSubcommand) => {
            Some(texts::no_subcommand(request.arg(0), request.arg(1)))
        }
        Verdict::Known(known) if !known.arity_ok => {
            let text = texts::wrong_arity(known.name);
            let exec = known.route == Route::Transaction(Transaction::Exec);
            Some(if exec { texts::exec_aborted(&text) } else { text }.into_bytes())
        }
        _ => None,
    })?;
    Some([b"-", &text[..], b"\r\n"].concat())
}

fn odd_word(random: &mut fastrand::Rng) -> Vec<u8> {
    let length = match random.u8(0..4) {
        0 => random.usize(0..4),
        1 => random.usize(4..40),
        2 => random.usize(110..140),
        _ => random.usize(0..300),
    };
    let odd = random.choice([&b"\r\n"[..], b"\0", b"'\"", b"%s\\", b"\t \x7f\xff", b"a"]).unwrap();
    let mut word: Vec<u8> = (0..length).map(|_| random.alphanumeric() as u8).collect();
    for byte in &mut word {
        if random.u8(0..12) == 0 {
            *byte = odd[random.usize(0..odd.len())];
        }
    }
    word
}

#[test]
fn errors_of_malformed_requests_are_the_servers() {
    let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let server = Server::start(&[]);
    let table = server.table();
    let mut raw = server.raw();
    let all: Vec<&str> = table.names().collect();
    let containers = ["client", "CONFIG", "Acl", "xinfo", "command", "script"];
    let mut compared = [0; 3];
    while compared.iter().sum::<usize>() < 400 {
        let kind = random.usize(0..3);
        let mut args = vec![match kind {
            0 => odd_word(&mut random),
            1 => containers[random.usize(0..containers.len())].as_bytes().to_vec(),
            _ => all[random.usize(0..all.len())].as_bytes().to_vec(),
        }];
        args.extend((0..random.usize(0..9)).map(|_| odd_word(&mut random)));
        if let Some(expected) = local_error(&table, &args) {
            let got = raw.line(&args);
            assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&expected), "{args:?}");
            assert_eq!(got, expected);
            compared[kind] += 1;
        }
    }
    assert!(compared.iter().all(|&count| count > 40), "{compared:?}");
}

#[test]
fn fixed_texts_are_the_servers() {
    let server = Server::start(&[]);
    let mut raw = server.raw();
    let mut same = |words: &str, text: &str| assert_eq!(raw.words(words), format!("-{text}\r\n"), "{words}");
    same("exec", texts::EXEC_WITHOUT_MULTI);
    same("discard", texts::DISCARD_WITHOUT_MULTI);
    same("select 16", texts::DB_OUT_OF_RANGE);
    same("select 9999999999", texts::INT_OUT_OF_RANGE);
    same("select x", texts::NOT_AN_INTEGER);
    same("hello x", texts::HELLO_VERSION);
    same("hello 4", texts::HELLO_UNSUPPORTED);
    same("hello 3 auth a b", texts::WRONGPASS);
    same("hello 3 setname \u{e9}", texts::CLIENT_NAME);
    same("client setname a\tb", texts::CLIENT_NAME);
    same("auth a b", texts::WRONGPASS);
    same("auth a", texts::AUTH_WITHOUT_PASSWORD);
    same("auth a b c", texts::SYNTAX);
    same("client no-evict x", texts::SYNTAX);
    same("asking", texts::CLUSTER_DISABLED);
    let option = String::from_utf8(texts::hello_option(b"f\ro\n\0o")).unwrap();
    same("hello 3 f\ro\n\0o", &option);

    raw.words("multi");
    let mut same = |words: &str, text: &str| assert_eq!(raw.words(words), format!("-{text}\r\n"), "{words}");
    same("multi", texts::MULTI_NESTED);
    same("watch a", texts::WATCH_INSIDE_MULTI);
    same("save", texts::NOT_INSIDE_MULTI);
    same("exec", texts::EXECABORT_PREVIOUS);

    assert_eq!(raw.words("acl setuser limited on >p +@all -client|id"), "+OK\r\n");
    assert_eq!(raw.words("auth limited p"), "+OK\r\n");
    assert_eq!(raw.words("client id"), format!("-{}\r\n", texts::refused("client|id")));
    assert_eq!(raw.words("config set requirepass p"), "+OK\r\n");
    let mut raw = server.raw();
    assert_eq!(raw.words("ping"), format!("-{}\r\n", texts::NOAUTH));
    assert_eq!(raw.words("hello 3"), format!("-{}\r\n", texts::HELLO_NOAUTH));
    assert_eq!(raw.words("exec"), format!("-{}\r\n", texts::exec_aborted(texts::NOAUTH)));
    assert_eq!(raw.words("PosT\0x"), "", "closed without a word");
}

/// The table says whether an option of HELLO applies though a later one is refused.
#[test]
fn hello_is_read_as_the_table_says() {
    let server = Server::start(&[]);
    let mut raw = server.raw();
    assert!(raw.words("HELLO 2 SETNAME one OTHER").starts_with("-ERR Syntax error in HELLO"));
    let unnamed = raw.words("CLIENT GETNAME") == "$-1\r\n";
    assert_eq!(unnamed, server.table().reads_hello_whole());
}

/// A MULTI and a WATCH inside MULTI spoil it where the server flags them so.
#[test]
fn what_may_not_be_in_a_transaction_spoils_it() {
    let server = Server::start(&[]);
    for words in ["multi", "watch a"] {
        let mut raw = server.raw();
        assert_eq!(raw.words("multi"), "+OK\r\n");
        assert!(raw.words(words).starts_with("-ERR "), "{words}");
        let spoilt = raw.words("exec").starts_with("-EXECABORT");
        assert_eq!(spoilt, known(&server.table(), &split(words)).no_multi, "{words}");
    }
}

/// What the page of commands calls tried is this server's own table.
#[test]
fn the_commands_of_the_page_are_the_servers() {
    let server = Server::start(&[]);
    let reply: Value = redis::cmd("COMMAND").query(&mut server.client()).unwrap();
    let listed: BTreeSet<String> = include_str!("docs/commands.tsv")
        .lines()
        .filter_map(|line| line.strip_suffix("\ttried"))
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            format!("{} {} {}", fields[0], fields[2], fields[3])
        })
        .collect();
    let mut own = BTreeSet::new();
    describe(&reply, &mut own);
    assert_eq!(listed, own);
}

fn describe(commands: &Value, into: &mut BTreeSet<String>) {
    let items = |value: &Value| match value {
        Value::Array(items) | Value::Set(items) => items.clone(),
        value => panic!("{value:?}"),
    };
    for command in items(commands) {
        let fields = items(&command);
        let (name, arity): (String, i64) = (
            redis::from_redis_value(fields[0].clone()).unwrap(),
            redis::from_redis_value(fields[1].clone()).unwrap(),
        );
        let mut flags: Vec<String> = redis::from_redis_value(fields[2].clone()).unwrap();
        flags.sort();
        into.insert(format!("{name} {arity} {}", flags.join(" ")));
        describe(&fields[9], into);
    }
}
