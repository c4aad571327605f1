//! A server with FalkorDB, a module whose queries run on threads of its own and block their connection meanwhile, for no
//! time that they name. Run by `make test-servers`, which has such a server; `BROKER_TEST_MODULE` is the path of the module.

use std::thread;

use broker::command::{Policy, Route, Table, Verdict};
use broker::resp::Request;
use redis::Value;

use crate::support::raw::pipeline;
use crate::support::{self, Broker, Raw, Redis, Twin, upstream_clients};

/// Queries of each child.
const ROUNDS: usize = 60;
/// Takes far longer than the test, which ends it by leaving.
const LONG: &str = "UNWIND range(1, 100000) AS a UNWIND range(1, 100000) AS b RETURN count(a + b)";

fn module() -> String {
    std::env::var("BROKER_TEST_MODULE").expect("BROKER_TEST_MODULE, as scripts/test-servers sets it")
}

fn query(raw: &mut Raw, graph: &str, text: &str) -> String {
    raw.write(&support::request(&["GRAPH.QUERY", graph, text]));
    without_statistics(&raw.read_text())
}

/// Without what a query tells of how it went.
fn without_statistics(reply: &str) -> String {
    let by_chance =
        |line: &&str| !line.contains("execution time: ") && !line.starts_with("Cached execution: ");
    reply.split("\r\n").filter(by_chance).collect::<Vec<_>>().join(" ")
}

/// What the console says of how a command of the module is carried out.
fn way(raw: &mut Raw, command: &str) -> String {
    let shown = raw.ask("BROKER SHOW COMMANDS");
    let row =
        shown.lines().find(|line| line.contains(command)).unwrap_or_else(|| panic!("{command}: {shown}"));
    row.split_whitespace().last().expect("a column").to_owned()
}

#[test]
#[ignore = "needs a server with its module: make test-servers"]
fn each_command_of_the_module_has_its_class() {
    let redis = Redis::start_with(&["--loadmodule", &module()]);
    let client = redis::Client::open(format!("redis+unix://{}", redis.socket().display()));
    let mut client = client.expect("a URL").get_connection().expect("a connection");
    let reply: Value = redis::cmd("COMMAND").query(&mut client).expect("COMMAND");
    let table = Table::from_command_reply(&reply, Policy::default()).expect("a table");
    let words = ["LIST", "FILTERBY", "MODULE", "graph"];
    let names: Vec<String> = redis::cmd("COMMAND").arg(&words).query(&mut client).expect("COMMAND LIST");
    assert!(names.len() > 10 && names.contains(&"graph.QUERY".to_owned()), "{names:?}");
    for name in names {
        let info: Vec<Vec<Value>> =
            redis::cmd("COMMAND").arg(&["INFO", &name]).query(&mut client).expect("COMMAND INFO");
        let flags: Vec<String> = redis::from_redis_value_ref(&info[0][2]).expect("flags");
        let blocks = flags.iter().any(|flag| flag == "blocking");
        let range = [(0, name.len() as u32)];
        let Verdict::Known(known) = table.classify(&Request::new(name.as_bytes(), &range)) else {
            panic!("{name} is not known")
        };
        assert_eq!(known.route, if blocks { Route::Dedicated } else { Route::Shared }, "{name}");
        assert_eq!(table.name_as_told(known.id), name);
    }
}

#[test]
#[ignore = "needs a server with its module: make test-servers"]
fn queries_of_two_children_at_once_are_answered_as_directly() {
    let twin = Twin::start_with(&["--loadmodule", &module()], &[]);
    thread::scope(|scope| {
        for child in 0..2 {
            let twin = &twin;
            scope.spawn(move || {
                let mut pair = twin.pair();
                let graph = format!("g{child}");
                for round in 0..ROUNDS {
                    for text in [
                        format!("CREATE (:P {{child: {child}, n: {round}}})-[:K]->(:P {{n: -{round}}})"),
                        "MATCH (p:P)-[:K]->(q:P) RETURN p.child, p.n, q.n ORDER BY p.n".to_owned(),
                        format!("no query {round}"),
                    ] {
                        let wanted = query(&mut pair.direct, &graph, &text);
                        let got = query(&mut pair.brokered, &graph, &text);
                        assert_eq!(got, wanted, "broker (left) and Redis (right) on {text}");
                        assert_eq!(wanted.starts_with('-'), text.starts_with("no"), "{wanted}");
                    }
                    // In one write with what goes on a shared connection, and inside of MULTI.
                    let (set, get) = (format!("SET k{child} {round}"), format!("GET k{child}"));
                    let asked = format!("GRAPH.RO_QUERY {graph} RETURN({round})");
                    let lines = [set.as_str(), &asked, &get, "MULTI", &asked, &get, "EXEC", &get];
                    let bytes = pipeline(&lines);
                    pair.direct.write(&bytes);
                    pair.brokered.write(&bytes);
                    for line in lines {
                        let [wanted, got] = [&mut pair.direct, &mut pair.brokered]
                            .map(|raw| without_statistics(&raw.read_text()));
                        assert_eq!(got, wanted, "broker (left) and Redis (right) on {line}");
                    }
                }
            });
        }
    });
}

/// A query holds up nobody else, and ends with its child.
#[test]
#[ignore = "needs a server with its module: make test-servers"]
fn a_long_query_has_a_lease() {
    let redis = Redis::start_with(&["--loadmodule", &module()]);
    let broker = Broker::start(&redis, &[]);
    let mut waiting = broker.connect();
    let mut other = broker.connect();
    query(&mut other, "g", "CREATE (:P)");
    other.ask("GRAPH.LIST");
    assert_eq!(
        (way(&mut other, "graph.query"), way(&mut other, "graph.list")),
        ("lease".into(), "shared".into())
    );

    waiting.write(&support::request(&["GRAPH.QUERY", "g", LONG]));
    let blocked = || {
        let clients = upstream_clients(&redis);
        clients.iter().filter(|client| client.field("flags").contains('b')).count()
    };
    support::wait_until("the query runs on a leased connection", || {
        let clients = upstream_clients(&redis);
        clients.iter().any(|client| client.name() == "broker-lease" && client.field("flags").contains('b'))
    });
    other.expect("SET a 1", "+OK\r\n");
    assert!(query(&mut other, "h", "RETURN 7").contains(":7"), "another query has another lease");
    assert_eq!(blocked(), 1, "the long one still runs");
    drop(waiting);
    support::wait_until("the lease ends with its child", || blocked() == 0);
}
