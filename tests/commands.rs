//! Commands one by one and in pipelines, in RESP2 and RESP3, against a real Redis with the same history: the
//! replies must be equal. Also what the broker answers itself and what it refuses.

use crate::support::raw::pipeline;
use crate::support::twin::without_id;
use crate::support::{self, Broker, Redis, Twin, direct, request, show};

/// One line per request, in order: later lines build on earlier ones.
#[rustfmt::skip]
const STRINGS: &[&str] = &[
    "SET a 1", "GET a", "INCR a", "INCRBY a 41", "DECR a", "DECRBY a 2", "INCRBYFLOAT a 0.5",
    "APPEND a xyz", "STRLEN a", "GETRANGE a 0 2", "SETRANGE a 1 Q", "GET a", "INCR a", "GETSET a new",
    "GETDEL a", "GET a", "SET b v NX", "SET b v NX", "SET b w XX GET", "SET b w EX 0",
    "SET b w EX 100 PX 100", "SET b w KEEPTTL", "SETNX b z", "SETEX c 100 v", "PSETEX d 100000 v",
    "MSET e 1 f 2", "MSET e", "MGET a b e f nothing", "MSETNX e 1 g 2", "GETEX b PERSIST",
    "SETBIT bits 7 1", "GETBIT bits 7", "BITCOUNT bits", "BITPOS bits 1", "BITOP NOT inv bits",
    "BITFIELD bits SET u8 0 255 GET u8 0 INCRBY u2 100 1", "BITFIELD_RO bits GET u8 0", "LCS e f",
    "LCS e f LEN", "PFADD hll a b c", "PFCOUNT hll", "PFMERGE hll2 hll", "SUBSTR b 0 1",
];

#[rustfmt::skip]
const COLLECTIONS: &[&str] = &[
    "RPUSH l a b c d", "LPUSH l z", "LPUSHX none a", "LRANGE l 0 -1", "LINDEX l 1", "LINDEX l 99", "LLEN l",
    "LINSERT l BEFORE b x", "LSET l 0 y", "LSET l 99 y", "LREM l 0 x", "LTRIM l 0 3", "LPOP l", "LPOP l 2",
    "LPOP none", "LPOP none 2", "RPOP l", "LPOS l a", "LMOVE l m LEFT RIGHT", "RPOPLPUSH l m",
    "LMPOP 1 m LEFT", "LMPOP 1 none LEFT", "SADD ints 1 2 3", "SMEMBERS ints", "SISMEMBER ints 2",
    "SMISMEMBER ints 2 9", "SCARD ints", "SADD ints2 2 3 4", "SINTER ints ints2", "SUNION ints ints2",
    "SDIFF ints ints2", "SINTERCARD 2 ints ints2", "SINTERSTORE ints3 ints ints2", "SMOVE ints ints3 1",
    "SREM ints 9 2", "SPOP none", "SRANDMEMBER none", "HSET h f1 v1 f2 v2", "HGET h f1", "HGET h none",
    "HGETALL h", "HKEYS h", "HVALS h", "HLEN h", "HMGET h f1 none f2", "HMSET h f3 v3", "HSETNX h f1 x",
    "HINCRBY h n 5", "HINCRBYFLOAT h n 0.25", "HINCRBY h f1 1", "HEXISTS h f1", "HSTRLEN h f1",
    "HDEL h f3 none", "HGETALL none", "HRANDFIELD none", "HSCAN h 0", "SSCAN ints 0",
];

#[rustfmt::skip]
const SORTED: &[&str] = &[
    "ZADD z 1 a 2 b 3 c", "ZADD z XX CH 5 a", "ZADD z INCR 1.5 b", "ZADD z NX INCR 1 b", "ZADD z foo x",
    "ZSCORE z a", "ZSCORE z none", "ZMSCORE z a none", "ZRANK z a", "ZREVRANK z a", "ZRANK z none",
    "ZRANGE z 0 -1", "ZRANGE z 0 -1 WITHSCORES", "ZRANGE z 1 4 BYSCORE LIMIT 0 1",
    "ZREVRANGE z 0 -1 WITHSCORES", "ZRANGEBYSCORE z -inf (5", "ZRANGEBYLEX z - +", "ZCARD z",
    "ZCOUNT z 1 3", "ZLEXCOUNT z - +", "ZINCRBY z 2 c", "ZINCRBY z inf c", "ZPOPMIN z", "ZPOPMAX z 1",
    "ZPOPMIN none", "ZADD y 1 b 9 q", "ZUNION 2 z y WITHSCORES", "ZINTER 2 z y", "ZDIFF 2 z y WITHSCORES",
    "ZUNIONSTORE u 2 z y WEIGHTS 2 3", "ZINTERSTORE i 2 z y", "ZRANGESTORE r u 0 -1", "ZREM u q none",
    "ZREMRANGEBYRANK u 0 0", "ZSCAN y 0", "ZMPOP 1 y MAX", "ZMPOP 1 none MAX", "ZRANDMEMBER none",
    "GEOADD g 13.361389 38.115556 Palermo", "GEOADD g 15.087269 37.502669 Catania",
    "GEODIST g Palermo Catania km", "GEOPOS g Palermo none", "GEOHASH g Palermo",
    "GEOSEARCH g FROMLONLAT 15 37 BYRADIUS 200 km ASC WITHDIST WITHCOORD",
    "GEOSEARCHSTORE gs g FROMLONLAT 15 37 BYRADIUS 200 km", "GEORADIUS g 15 37 200 km ASC",
];

// A stream may be named BLOCK: only the option before STREAMS blocks.
#[rustfmt::skip]
const STREAMS: &[&str] = &[
    "XADD s 1-1 f v", "XADD s 1-2 f v g w", "XADD s 1-1 f v", "XLEN s", "XRANGE s - +",
    "XREVRANGE s + - COUNT 1", "XREAD COUNT 1 STREAMS s 0", "XREAD STREAMS s $", "XREAD STREAMS none 0",
    "XREAD STREAMS s", "XGROUP CREATE s grp 0", "XGROUP CREATE s grp 0", "XGROUP CREATE none grp 0",
    "XREADGROUP GROUP grp me COUNT 1 STREAMS s >", "XREADGROUP GROUP none me STREAMS s >", "XPENDING s grp",
    "XACK s grp 1-1", "XACK s grp 1-1", "XDEL s 1-2", "XTRIM s MAXLEN 0", "XINFO STREAM none",
    "XINFO GROUPS s", "XSETID s 9-9", "XAUTOCLAIM s grp me 0 0", "XGROUP DESTROY s grp",
    "XADD BLOCK 5-5 f v", "XREAD STREAMS BLOCK 0", "XREAD COUNT 1 STREAMS BLOCK 0",
];

#[rustfmt::skip]
const GENERIC: &[&str] = &[
    "SET k v", "EXISTS k k none", "TYPE k", "TYPE none", "TTL k", "EXPIRE k 100", "PERSIST k",
    "EXPIRE none 1", "EXPIREAT k 99999999999", "EXPIRETIME k", "PEXPIRETIME k", "EXPIRE k 100 NX GT",
    "RENAME k k2", "RENAME none x", "RENAMENX k2 k3", "COPY k3 k4", "COPY k3 k4 DB 99", "MOVE k3 5",
    "MOVE k3 5", "TOUCH k4 none", "UNLINK k4 none", "DEL none", "OBJECT ENCODING none", "OBJECT HELP",
    "OBJECT REFCOUNT none", "KEYS none*", "SCAN 0 MATCH none* COUNT 1000", "SCAN abc", "RANDOMKEY x",
    "DUMP none", "RESTORE k9 0 bad", "SORT ints", "RPUSH srt 3 1 2", "SORT srt", "SORT srt DESC LIMIT 0 2",
    "SORT_RO srt", "SORT srt STORE out", "SORT srt BY", "SET intval 1", "OBJECT ENCODING intval",
    "EVAL return{1,2,{3}} 0", "EVAL return{err='x'} 0", "EVAL return(ARGV[1]) 0 arg",
    "EVAL return(redis.call('get',KEYS[1])) 1 intval", "EVALSHA 00 0", "EVAL_RO return(1) 0",
    "SCRIPT LOAD return(7)", "EVALSHA 21f5bd70f0ed37b1d10e2d3d30a4eb0f4a03c0d8 0", "SCRIPT EXISTS 00 11",
    "SCRIPT EXISTS", "FUNCTION LIST", "FCALL none 0", "FUNCTION STATS", "PUBLISH ch m", "SPUBLISH ch m", "PUBSUB CHANNELS",
    "PUBSUB NUMSUB a b", "PUBSUB NUMPAT", "PUBSUB HELP", "DBSIZE", "LASTSAVE x", "ROLE",
    "MEMORY USAGE none", "MEMORY HELP", "LATENCY LATEST", "SLOWLOG LEN", "SLOWLOG GET 0", "CONFIG GET save",
    "CONFIG GET appendonly", "CONFIG GET maxmemory-policy", "CONFIG HELP", "MODULE LIST",
    "ACL WHOAMI", "ACL CAT string x", "ACL DRYRUN default GET a", "COMMAND COUNT",
    "COMMAND INFO get nosuch", "COMMAND DOCS get", "COMMAND GETKEYS MSET a 1 b 2", "COMMAND GETKEYS PING",
    "COMMAND LIST FILTERBY PATTERN getr*", "CLUSTER INFO", "CLUSTER KEYSLOT a b", "READONLY", "READWRITE",
    "ASKING", "LOLWUT VERSION 99", "FLUSHDB BAD", "FLUSHDB", "FLUSHALL ASYNC", "DBSIZE",
];

#[rustfmt::skip]
const ERRORS: &[&str] = &[
    "GET", "GET a b", "SET a", "get", "Get A B C", "SET a b c d", "SET str text", "INCR str", "LPUSH str a",
    "HSET str f v", "SADD str a", "ZADD str 1 a", "XADD str * f v", "GETBIT str -1", "SETRANGE str -1 x",
    "HSET h f", "ZADD z", "BITOP FOO a b", "OBJECT", "OBJECT ENCODING", "OBJECT NOSUCH a", "XGROUP CREATE",
    "CONFIG GET", "CLIENT SETNAME", "CLIENT ID x", "CLIENT NOSUCH", "COMMAND GETKEYS",
    "ZRANK z a WITHSCORE", "NOSUCH", "NOSUCH a b", "nosuch|get a", "config|get save", "client|id",
    "LPOP l -1", "LMPOP 0 l LEFT", "EVAL return 1", "EVAL syntax( 0", "FCALL", "EXPIRE a", "EXPIRE a x",
    "SINTERCARD 0 a", "GETEX a FOO", "PING a b", "ECHO", "ECHO a b", "RESET x", "DISCARD x", "MULTI x",
    "EXEC", "DISCARD", "UNWATCH x", "WATCH", "HELLO 2 FOO", "AUTH", "AUTH a b c", "SUBSCRIBE", "PUBLISH a",
    "SPUBLISH", "BLPOP a", "BLPOP a x", "BLPOP a -1", "BLMPOP 0 0 a LEFT", "XREAD BLOCK",
    "XREAD BLOCK x STREAMS s 0", "XREAD BLOCK -1 STREAMS s 0",
];

/// What the broker answers itself.
#[rustfmt::skip]
const LOCAL: &[&str] = &[
    "PING", "PING hello", "ping", "ECHO hello", "SELECT 4", "SET in4 x", "SELECT 0", "GET in4", "SELECT 4",
    "GET in4", "SELECT 0", "AUTH x", "AUTH default x", "AUTH default anything", "AUTH nouser x", "UNWATCH",
    "CLIENT GETNAME", "CLIENT SETNAME me", "CLIENT GETNAME", "CLIENT SETNAME", "CLIENT SETNAME a\nb",
    "CLIENT SETNAME caf\u{e9}", "CLIENT GETNAME", "CLIENT NO-EVICT ON", "CLIENT NO-EVICT OFF",
    "CLIENT NO-EVICT maybe", "CLIENT GETREDIR", "CLIENT GETREDIR x", "CLIENT TRACKINGINFO", "CLIENT TRACKINGINFO x",
    "CLIENT CACHING YES", "CLIENT CACHING maybe", "CLIENT CACHING", "CLIENT NO-TOUCH ON", "CLIENT CAPA redirect",
    "MULTI", "CLIENT GETREDIR", "EXEC", "CLIENT SETINFO lib-name x", "CLIENT HELP", "RESET", "CLIENT GETNAME",
];

fn same_lines(twin: &Twin, lines: &[&str]) {
    for resp3 in [false, true] {
        let mut pair = if resp3 { twin.pair_resp3() } else { twin.pair() };
        pair.same("FLUSHALL");
        for line in lines {
            pair.same(line);
        }
    }
}

#[test]
fn data_commands_are_the_same() {
    let twin = Twin::start();
    same_lines(&twin, STRINGS);
    same_lines(&twin, COLLECTIONS);
    same_lines(&twin, SORTED);
    same_lines(&twin, STREAMS);
    same_lines(&twin, GENERIC);
}

#[test]
fn errors_are_the_same() {
    let twin = Twin::start();
    same_lines(&twin, ERRORS);
}

#[test]
fn local_commands_are_the_same() {
    let twin = Twin::start();
    same_lines(&twin, LOCAL);
    let mut pair = twin.pair();
    pair.same_call(&["CLIENT", "SETNAME", ""]);
    pair.same_call(&["CLIENT", "SETNAME", "a b"]);
    pair.same_call(&["PING", ""]);
    pair.same_call(&["ECHO", ""]);
    pair.same_call(&[&b"ECHO"[..], b"\0\r\n\xff"]);
}

/// What is one argument too many has a text of its own, and before Redis 7.0 another one.
#[test]
fn an_argument_too_many_is_refused_as_by_redis() {
    let twin = Twin::start();
    twin.pair().same("CLIENT UNBLOCK 1 ERROR x");
}

/// The same requests in one write: one reply each, in order.
#[test]
fn whole_lists_in_one_write_are_the_same() {
    let twin = Twin::start();
    for resp3 in [false, true] {
        for lines in [STRINGS, COLLECTIONS, SORTED, STREAMS, ERRORS, LOCAL] {
            let mut pair = if resp3 { twin.pair_resp3() } else { twin.pair() };
            pair.same("FLUSHALL");
            pair.same_pipeline(&pipeline(lines), lines.len());
        }
    }
}

#[test]
fn replies_without_an_order_are_the_same_when_sorted() {
    let twin = Twin::start();
    for resp3 in [false, true] {
        let mut pair = if resp3 { twin.pair_resp3() } else { twin.pair() };
        pair.same("SADD words red green blue yellow");
        pair.same_sorted("SMEMBERS words");
        pair.same("MSET k1 a k2 b k3 c");
        pair.same_sorted("KEYS k*");
        pair.same_sorted("COMMAND LIST");
        pair.same_sorted("COMMAND DOCS");
        pair.same_sorted("COMMAND");
        pair.same_sorted("CONFIG GET *max*");
    }
}

#[test]
fn large_values_pass_both_ways() {
    let twin = Twin::start();
    let mut pair = twin.pair();
    for size in [0, 1, 16_383, 16_384, 65_536, 1_000_000, 5_000_000] {
        let value: Vec<u8> =
            (0..size).map(|at: u32| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        pair.same_call(&[&b"SET"[..], b"big", &value]);
        let reply = pair.same_call(&["GET", "big"]);
        assert!(reply.len() > value.len());
    }
    let many: Vec<String> = (0..50_000).map(|number| number.to_string()).collect();
    let args: Vec<&str> = ["RPUSH", "many"].into_iter().chain(many.iter().map(String::as_str)).collect();
    pair.same_call(&args);
    pair.same_call(&["LRANGE", "many", "0", "-1"]);
}

#[test]
fn hello_answers_as_redis_does() {
    let twin = Twin::start();
    let mut pair = twin.pair();
    for line in [
        "HELLO",
        "HELLO 3",
        "HELLO",
        "HELLO 2",
        "HELLO 4",
        "HELLO 1",
        "HELLO abc",
        "HELLO 3 SETNAME",
        "HELLO 3 FOO",
        "HELLO 3 AUTH default",
        "HELLO 3 AUTH default x SETNAME nm",
        "HELLO 3 AUTH nouser x",
        "HELLO 3 SETNAME odd FOO",
        "HELLO 2 SETNAME odd AUTH nouser x",
        "HELLO 2 AUTH nouser x AUTH default x SETNAME odd SETNAME three",
        "HELLO 3 AUTH nouser x FOO",
        "HELLO 2 SETNAME two",
        "HELLO 99999999999999999999",
    ] {
        pair.same_with(line, without_id);
        pair.same("CLIENT GETNAME");
        pair.same("HGETALL nothing");
    }
    pair.same_call(&["HELLO", "3", "SETNAME", "a b"]);
    pair.same("HGETALL nothing");
}

/// Before Redis 7.2 options take effect one by one, and what stood before the failing one stays.
#[test]
fn a_failing_hello_keeps_what_the_server_keeps() {
    let twin = Twin::start();
    let mut pair = twin.pair();
    let reply = pair.same("HELLO 3 SETNAME nm AUTH u bad");
    assert!(reply.starts_with("-WRONGPASS"), "{reply}");
    pair.same("CLIENT GETNAME");
    assert_eq!(pair.same("GET nothing"), "$-1\r\n", "still RESP2");
}

#[test]
fn reset_starts_over() {
    let twin = Twin::start();
    let mut pair = twin.pair_resp3();
    for line in ["CLIENT SETNAME me", "SELECT 5", "SET five 5", "MULTI", "SET never x", "RESET"] {
        pair.same(line);
    }
    assert_eq!(pair.same("GET nothing"), "$-1\r\n", "RESP2 again");
    for line in ["CLIENT GETNAME", "EXISTS five", "EXISTS never", "EXEC", "PING"] {
        pair.same(line);
    }
    pair.same("WATCH w");
    pair.same("SET w 1");
    pair.same("RESET");
    pair.same("MULTI");
    pair.same("EXEC");
}

/// Ids differ from Redis', and from each other.
#[test]
fn every_child_has_its_own_id() {
    let twin = Twin::start();
    let mut ids = Vec::new();
    for _ in 0..20 {
        let mut raw = twin.broker.connect();
        let reply = raw.ask("CLIENT ID");
        let id: u64 = reply[1..].trim_end().parse().expect("a number");
        let hello = raw.ask("HELLO 2");
        assert!(hello.contains(&format!("$2\r\nid\r\n:{id}\r\n")), "HELLO names the same id: {hello}");
        let info = raw.ask("CLIENT INFO");
        assert!(info.contains(&format!("id={id} ")), "CLIENT INFO names the same id: {info}");
        ids.push(id);
    }
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "increasing: {ids:?}");
}

/// CLIENT INFO has Redis' fields, and the child's own state in them.
#[test]
fn client_info_shows_the_childs_state() {
    let twin = Twin::start();
    let mut pair = twin.pair_resp3();
    pair.same("CLIENT SETNAME me");
    pair.same("SELECT 7");
    let shape = |reply: &str| {
        let line = reply.split("\r\n").nth(1).unwrap_or_default();
        let keep = ["name", "db", "sub", "psub", "multi", "user", "resp"];
        let fields =
            line.trim().trim_start_matches("txt:").split(' ').filter_map(|field| field.split_once('='));
        let fields = fields
            .map(|(key, value)| if keep.contains(&key) { format!("{key}={value}") } else { key.into() });
        format!("{}{}", &reply[..1], fields.collect::<Vec<_>>().join(" "))
    };
    pair.same_with("CLIENT INFO", shape);
    let mut pair = twin.pair();
    pair.same_with("CLIENT INFO", shape);
}

/// The words of an ACL; where no setting allows the command, why.
fn refusal(name: &str) -> String {
    let text = format!("-NOPERM this user has no permissions to run the '{name}' command");
    match name {
        "sync" | "psync" | "replconf" | "script|debug" => {
            format!(
                "{text}: it takes a connection over, and the broker's are shared; connect to the server itself\r\n"
            )
        }
        _ => text + "\r\n",
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn refusals_have_the_exact_text() {
    let redis = Redis::start();
    let broker = support::Broker::start(&redis, &[]);
    let mut raw = broker.connect();
    let refused = [
        "SHUTDOWN",
        "SHUTDOWN NOSAVE",
        "DEBUG SLEEP 0",
        "DEBUG JMAP",
        "REPLICAOF NO ONE",
        "SLAVEOF NO ONE",
        "FAILOVER",
        "SYNC",
        "PSYNC ? -1",
        "REPLCONF ACK 0",
        "SAVE",
        "BGSAVE",
        "BGREWRITEAOF",
        "MONITOR",
        "SWAPDB 0 1",
        "PFDEBUG ENCODING k",
        "PFSELFTEST",
        "RESTORE-ASKING k 0 v",
    ];
    for line in refused {
        let name = line.split(' ').next().expect("a name").to_lowercase();
        raw.expect(line, &refusal(&name));
    }
    let refused_subcommands = [
        "CONFIG SET maxmemory 1mb",
        "CONFIG REWRITE",
        "CONFIG RESETSTAT",
        "MODULE LOAD x",
        "MODULE UNLOAD x",
        "ACL SETUSER u on",
        "ACL DELUSER u",
        "ACL LOAD",
        "ACL SAVE",
        "ACL LOG",
        "ACL LIST",
        "ACL USERS",
        "ACL GETUSER default",
        "SCRIPT DEBUG YES",
        "CLIENT PAUSE 1000",
        "CLIENT UNPAUSE",
        "CLUSTER RESET",
        "CLUSTER MEET a 1",
        "CLUSTER FORGET a",
        "CLUSTER FAILOVER",
    ];
    for line in refused_subcommands {
        let mut words = line.split(' ').map(str::to_lowercase);
        let name = format!("{}|{}", words.next().expect("a container"), words.next().expect("a subcommand"));
        raw.expect(line, &refusal(&name));
    }
    raw.expect("CONFIG SET maxmemory", "-ERR wrong number of arguments for 'config|set' command\r\n");
    raw.expect("PING", "+PONG\r\n");
    raw.expect("CONFIG GET maxmemory", "*2\r\n$9\r\nmaxmemory\r\n$1\r\n0\r\n");
}

/// Test suites run these freely; neither may hurt a lane.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn flushall_and_client_kill_leave_the_lanes_alone() {
    let redis = Redis::start();
    let broker = support::Broker::start(&redis, &[]);
    let (mut raw, mut other) = (broker.connect(), broker.connect());
    other.expect("SET k v", "+OK\r\n");
    let before = support::upstream_clients(&redis);
    for (line, killed) in [
        ("CLIENT KILL ID 1", 0),
        ("CLIENT KILL TYPE normal", 1),
        ("CLIENT KILL USER default", 0),
        ("CLIENT KILL SKIPME yes", 0),
    ] {
        raw.expect(line, &format!(":{killed}\r\n"));
    }
    assert!(other.is_closed());
    let mut other = broker.connect();
    raw.expect("FLUSHALL", "+OK\r\n");
    other.expect("GET k", "$-1\r\n");
    let after = support::upstream_clients(&redis);
    let ids = |list: &[support::UpstreamClient]| {
        list.iter().map(|one| one.field("id").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&before), ids(&after), "the same upstream connections");
}

/// Requests that change their own connection's ground, in one write with what depends on them.
#[test]
fn pipelines_keep_their_order_over_barriers() {
    let twin = Twin::start();
    let sequences: [&[&str]; 9] = [
        &["SET k zero", "SELECT 1", "GET k", "SET k one", "SELECT 0", "GET k", "SELECT 1", "GET k"],
        &["RPUSH q a", "BLPOP q 1", "GET none", "LLEN q"],
        &["SET a 1", "PING", "GET a", "ECHO x", "INCR a", "PING y", "GET a"],
        &["GET none", "HELLO 9", "HGETALL none", "SELECT 99", "GET none"],
        &["SET w 1", "WATCH w", "SET w 2", "MULTI", "GET w", "EXEC", "GET w"],
        &["BLPOP none 0.05", "SET after 1", "GET after", "BLPOP none 0.05", "PING"],
        &["MULTI", "INCR n", "EXEC", "SELECT 2", "MULTI", "INCR n", "EXEC", "SELECT 0", "GET n"],
        &["CLIENT SETNAME a", "GET none", "CLIENT GETNAME", "RESET", "CLIENT GETNAME", "GET none"],
        &["RPUSH q2 1 2 3", "BLPOP q2 0", "BRPOP q2 0", "BLMOVE q2 q3 LEFT LEFT 0", "LRANGE q3 0 -1"],
    ];
    for lines in sequences {
        for _ in 0..5 {
            twin.pair().same_pipeline(&pipeline(lines), lines.len());
        }
        twin.pair().same("FLUSHALL");
    }
}

/// HELLO 3 in the middle of a pipeline: earlier replies in RESP2, later ones in RESP3.
#[test]
fn the_protocol_changes_in_order() {
    let twin = Twin::start();
    let mut pair = twin.pair();
    let lines = ["HSET h f v", "HGETALL h", "GET none"];
    pair.same_pipeline(&pipeline(&lines), 3);
    pair.same_with("HELLO 3", without_id);
    pair.same_pipeline(&pipeline(&["HGETALL h", "GET none", "RESET", "HGETALL h", "GET none"]), 5);
    let mixed = pipeline(&["HGETALL h", "HELLO 3", "HGETALL h", "HELLO 2", "HGETALL h"]);
    pair.direct.write(&mixed);
    pair.brokered.write(&mixed);
    for _ in 0..5 {
        let texts = [pair.direct.read_text(), pair.brokered.read_text()];
        assert_eq!(without_id(&texts[0]), without_id(&texts[1]));
    }
}

/// Long random pipelines of both kinds: each reply belongs to its own request.
#[test]
fn random_pipelines_are_answered_in_order() {
    let twin = Twin::start();
    let mut rng = support::seeded();
    for round in 0..20 {
        let mut pair = twin.pair();
        let mut bytes = Vec::new();
        let count = rng.usize(50..400);
        for index in 0..count {
            let key = format!("key{}", rng.u8(0..8));
            let nonce = format!("{round}-{index}");
            let args: Vec<&str> = match rng.u8(0..9) {
                0 => vec!["SET", &key, &nonce],
                1 => vec!["GET", &key],
                2 => vec!["ECHO", &nonce],
                3 => vec!["PING"],
                4 => vec!["EVAL", "return ARGV[1]", "0", &nonce],
                5 => vec!["SELECT", if rng.bool() { "0" } else { "1" }],
                6 => vec!["APPEND", &key, "x"],
                7 => vec!["NOSUCH", &nonce],
                _ => vec!["CLIENT", "GETNAME"],
            };
            bytes.extend(request(&args));
        }
        pair.same_pipeline(&bytes, count);
    }
}

/// Redis' own COMMAND does not show a renamed command under its name: what `sel2` does must be found out
/// before it goes anywhere near a shared lane.
#[test]
fn a_renamed_select_moves_only_its_own_child() {
    let twin = Twin::start_with(&["--rename-command", "SELECT", "sel2"], &[]);
    let mut other = twin.broker.connect();
    other.expect("SET here zero", "+OK\r\n");
    let mut pair = twin.pair();
    pair.same("SET here zero");
    for line in ["SEL2 3", "GET here", "SET here three", "SELECT 3", "sel2 99", "sel2", "sel2 x", "GET here"]
    {
        pair.same(line);
    }
    other.expect("GET here", "$4\r\nzero\r\n");
    let mut third = twin.broker.connect();
    third.expect("GET here", "$4\r\nzero\r\n");
    pair.same_pipeline(&pipeline(&["GET here", "sel2 0", "GET here", "sel2 3", "GET here"]), 5);
}

/// The first SELECT of another database may stand in a MULTI, and the connections of that database need its name too.
#[test]
fn a_renamed_select_may_come_first_in_a_transaction() {
    let renamed = ["--rename-command", "SELECT", "sel2", "--rename-command", "CLIENT", "cl2"];
    let twin = Twin::start_with(&renamed, &[]);
    let mut pair = twin.pair();
    for line in ["MULTI", "sel2 3", "SET here three", "EXEC", "GET here", "cl2 NO-EVICT OFF", "GET here"] {
        pair.same(line);
    }
    // Nobody says it again after a restart.
    twin.direct.restart();
    twin.behind.restart();
    let mut direct = twin.direct.connect_plain();
    direct.expect("sel2 3", "+OK\r\n");
    if !support::direct() {
        support::wait_until("the broker is back", || !pair.brokered.ask("SET here again").starts_with('-'));
        pair.brokered.expect("GET here", "$5\r\nagain\r\n");
    }
}

/// Many children side by side in their own databases and protocols never see each other's.
#[test]
fn databases_and_protocols_stay_apart() {
    let redis = Redis::start();
    let broker = support::Broker::start(&redis, &[]);
    let mut children: Vec<_> = (0..32)
        .map(|number| {
            let mut raw = if number % 2 == 0 { broker.connect() } else { broker.connect_resp3() };
            raw.expect(&format!("SELECT {}", number % 8), "+OK\r\n");
            raw
        })
        .collect();
    for round in 0..30 {
        for (number, raw) in children.iter_mut().enumerate() {
            raw.write(&pipeline(&[
                &format!("SET own:{number} {number}-{round}"),
                &format!("GET own:{number}"),
                &format!("SET db {}", number % 8),
                "GET db",
                "HGETALL none",
            ]));
        }
        for (number, raw) in children.iter_mut().enumerate() {
            let nonce = format!("{number}-{round}");
            assert_eq!(raw.read_text(), "+OK\r\n");
            assert_eq!(raw.read_text(), format!("${}\r\n{nonce}\r\n", nonce.len()));
            assert_eq!(raw.read_text(), "+OK\r\n");
            assert_eq!(raw.read_text(), format!("$1\r\n{}\r\n", number % 8));
            let empty = if number % 2 == 0 { "*0\r\n" } else { "%0\r\n" };
            assert_eq!(raw.read_text(), empty);
        }
    }
    if !direct() {
        let lanes = support::upstream_clients(&redis);
        let shared = lanes.iter().filter(|client| client.name() == "broker-lane").count();
        assert!(shared <= 16, "8 databases in 2 protocols need 16 lanes, not {shared}: {lanes:#?}");
    }
}

/// Binary data and a flood of tiny requests over TCP-like chunks: nothing is lost at buffer borders.
#[test]
fn replies_larger_than_buffers_keep_their_borders() {
    let twin = Twin::start();
    let mut pair = twin.pair();
    let value = vec![b'\r'; 40_000];
    pair.same_call(&[&b"SET"[..], b"cr", &value]);
    let many: Vec<u8> = (0..200)
        .flat_map(|index| {
            let mut part = request(&["GET", "cr"]);
            part.extend(request(&["ECHO", &index.to_string()]));
            part
        })
        .collect();
    let mut writer = (pair.direct.writer(), pair.brokered.writer());
    std::thread::scope(|scope| {
        scope.spawn(|| writer.0.write(&many));
        scope.spawn(|| writer.1.write(&many));
        let replies = pair.same_replies("many", 400);
        assert_eq!(show(&replies[399]), "$3\\r\\n199\\r\\n");
    });
}

/// What a script returns is passed on however odd it is: nested as deep as Lua's stack holds, and a big number
/// that is none. A lane lost over it would take other children's requests along.
#[test]
fn odd_replies_of_scripts_are_the_same() {
    const SCRIPTS: [&str; 5] = [
        "local a={}; a[1]=a; return a",
        "local a={}; a[1]=a; a[2]=1; return a",
        "redis.setresp(3); return {big_number='123\r\n123'}",
        "redis.setresp(3); return {big_number=''}",
        "redis.setresp(3); local a={}; a.map={}; a.map['k']=a; return a",
    ];
    let twin = Twin::start();
    for mut pair in [twin.pair(), twin.pair_resp3()] {
        let mut other = twin.broker.connect();
        for script in SCRIPTS {
            other.send("INCR others");
            pair.same_call(&["EVAL", script, "0"]);
            assert!(other.read_text().starts_with(':'), "{script}");
        }
    }
}

/// The db of the upstream URL is where children begin, and where RESET takes them back to.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_db_of_the_upstream_url_is_home() {
    let redis = Redis::start();
    let mut direct = redis.connect();
    direct.expect("SELECT 3", "+OK\r\n");
    direct.expect("SET where three", "+OK\r\n");
    let broker = Broker::start_url(&format!("{}?db=3", redis.url()), &redis.socket(), &[]);
    let mut raw = broker.connect();
    raw.expect("GET where", "$5\r\nthree\r\n");
    raw.expect("SELECT 0", "+OK\r\n");
    raw.expect("GET where", "$-1\r\n");
    raw.expect("RESET", "+RESET\r\n");
    raw.expect("GET where", "$5\r\nthree\r\n");
}
