//! Metrics and health over HTTP: what is answered to whom, that the numbers are those of the work that was done, and that
//! nobody who asks can hold up the others.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use broker::reactor::Loop;

use crate::support::broker::BINARY;
use crate::support::embedded::{run_until, settings};
use crate::support::{Broker, Http, HttpReply, Raw, Redis, seeded, wait_still, wait_until};

const TCP: (&str, &str) = ("metrics_listen", "tcp://127.0.0.1:0");
/// What Prometheus 3 sends.
const PROMETHEUS: &str = "Accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
     application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
     text/plain;version=0.0.4;q=0.3,*/*;q=0.2\r\n";
const BROWSER: &str = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n";

fn start(more: &[(&str, &str)]) -> (Redis, Broker) {
    let redis = Redis::start();
    let settings: Vec<_> = [TCP].into_iter().chain(more.iter().copied()).collect();
    let broker = Broker::start(&redis, &settings);
    until_ready_is(&broker, 200);
    (redis, broker)
}

fn metrics(broker: &Broker) -> HttpReply {
    let reply = broker.http().get("/metrics");
    assert_eq!(reply.status, 200);
    reply
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn metrics_have_the_format_that_is_asked_for() {
    let (_redis, broker) = start(&[]);
    let mut http = broker.http();
    for (accept, media) in [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        (BROWSER, "text/plain; version=0.0.4; charset=utf-8"),
        (PROMETHEUS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ] {
        let reply = http.ask("GET /metrics", accept);
        assert_eq!((reply.status, reply.field("Content-Type")), (200, media));
        let is_open = media.starts_with("application");
        assert_eq!(reply.body.ends_with("\n# EOF\n"), is_open, "{}", reply.body);
        assert_eq!(reply.body.contains("# TYPE broker_child_requests counter"), is_open);
        assert_eq!(reply.body.contains("# TYPE broker_child_requests_total counter"), !is_open);
        let version = concat!("broker_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
        assert_eq!(reply.number(version), 1.0);
        // One family after the other, each described once, and each number of the family before it.
        let mut described = BTreeSet::new();
        let mut family = "";
        for line in reply.body.lines().filter(|line| *line != "# EOF") {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                family = rest.split(' ').next().expect("a name");
                assert!(described.insert(family), "{family} twice");
            } else {
                let line = line.strip_prefix("# TYPE ").or(line.strip_prefix("# UNIT ")).unwrap_or(line);
                assert!(line.starts_with(family), "{line} after {family}");
            }
        }
        let open = |name: &'static str| if is_open { name.trim_end_matches("_total") } else { name };
        let table: BTreeSet<&str> = Loop::metrics().map(|(name, ..)| open(name)).collect();
        assert_eq!(described, table);
    }
}

/// Prometheus' own program finds nothing to complain about.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn prometheus_accepts_the_metrics() {
    let (redis, broker) = start(&[]);
    check_with_promtool(&metrics(&broker).body);
    let mut children: Vec<Raw> = (0..4).map(|_| broker.connect()).collect();
    for child in &mut children {
        child.expect("SET k v", "+OK\r\n");
        child.expect("WATCH k", "+OK\r\n");
    }
    redis.kill();
    wait_until("the connections are lost", || metrics(&broker).number("broker_upstream_losses_total") > 0.0);
    check_with_promtool(&metrics(&broker).body);
}

fn check_with_promtool(text: &str) {
    let command = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = command.expect("run promtool; scripts/deps installs it");
    child.stdin.take().expect("its input").write_all(text.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("its end");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}\n{text}", String::from_utf8_lossy(&said));
}

/// And nothing about the rules for alerts, which fire and do not fire as their tests say, nor about what the dashboard asks.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn prometheus_accepts_the_rules_and_the_dashboard() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist");
    promtool(&["check", "rules", &dist.join("prometheus/alerts.yml").display().to_string()]);
    promtool(&["test", "rules", &dist.join("prometheus/alerts_test.yml").display().to_string()]);
    let dashboard = fs::read_to_string(dist.join("grafana/broker.json")).expect("a dashboard");
    let asked: Vec<&str> =
        dashboard.lines().filter_map(|line| line.trim().strip_prefix("\"expr\": ")).collect();
    assert!(asked.len() > 30, "the expressions are found");
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, expression) in asked.iter().enumerate() {
        // A JSON string is a YAML string, too.
        let expression = expression.trim_end_matches(',').replace("$__rate_interval", "5m");
        rules += &format!("      - record: panel:{number}\n        expr: {expression}\n");
    }
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(rules.as_bytes()).expect("written");
    promtool(&["check", "rules", &file.path().display().to_string()]);
    // It can find fault.
    file.write_all(b"      - record: wrong\n        expr: rate(broker_children\n").expect("written");
    let wrong =
        Command::new("promtool").args(["check", "rules"]).arg(file.path()).output().expect("run promtool");
    assert!(!wrong.status.success(), "{wrong:?}");
}

fn promtool(args: &[&str]) {
    let output =
        Command::new("promtool").args(args).output().expect("run promtool; scripts/deps installs it");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&said));
}

/// Each command for redis-cli, curl and the broker itself on the page for whoever runs the broker works as it is printed.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_commands_of_the_page_of_operations_work() {
    let (_redis, broker) = start(&[]);
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md"));
    let page = page.expect("the page");
    let commands: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    assert!(commands.len() >= 20, "{commands:?}");
    let web = broker.metrics()[0].replace("tcp://", "http://");
    let at = format!("--timeout 20s --socket {}", broker.socket().display());
    // What is about other programs and machines.
    let is_elsewhere =
        |command: &str| command.starts_with("systemctl ") || command.ends_with("redis://10.0.0.8:6379");
    for command in commands.into_iter().filter(|command| !is_elsewhere(command)) {
        let mut victim = broker.connect();
        let id = victim.ask("CLIENT ID").trim_start_matches(':').trim_end().to_owned();
        let line = command
            .replace("/run/broker/broker.sock", &broker.socket().display().to_string())
            .replace("http://127.0.0.1:9190", &web)
            .replace("broker reload --config /etc/broker/broker.toml", &format!("{BINARY} reload {at}"))
            .replace("broker ctl ", &format!("{BINARY} ctl {at} "))
            .replace(" ID", &format!(" {id}"));
        let known = ["redis-cli -s /", "curl -s http://", BINARY];
        assert!(known.iter().any(|start| line.starts_with(start)), "{command}");
        let output = Command::new("sh").args(["-c", &line]).output().expect("run a shell");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        // Without a script there is nothing to kill.
        let is_error = ["ERR", "NOPERM", "(error)"].iter().any(|start| said.starts_with(start));
        assert!(output.status.success() && !said.is_empty() && !is_error, "{command}: {said}");
        match command.contains(" ID") {
            true => assert!(victim.is_closed(), "{command}"),
            // The next one resumes.
            false if command.ends_with(" broker pause") => {}
            false => victim.expect("PING", "+PONG\r\n"),
        }
    }
}

/// Every answer says what may not be done with it, and HEAD has all but the body.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn answers_are_complete_and_head_leaves_out_the_body() {
    let (_redis, broker) = start(&[]);
    let mut http = broker.http();
    for (path, status) in [
        ("/", 200),
        ("/status.json", 200),
        ("/metrics", 200),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/favicon.ico", 404),
    ] {
        let (get, head) = (http.get(path), http.ask(&format!("HEAD {path}"), ""));
        assert_eq!((get.status, head.status), (status, status), "{path}");
        assert!(head.body.is_empty() && !get.body.is_empty());
        for reply in [&get, &head] {
            for (field, value) in [
                ("X-Content-Type-Options", "nosniff"),
                ("Cache-Control", "no-store"),
                ("Cross-Origin-Resource-Policy", "same-origin"),
                ("Connection", "keep-alive"),
            ] {
                assert_eq!(reply.field(field), value, "{}", reply.head);
            }
            assert!(!reply.head.to_lowercase().contains("access-control"), "{}", reply.head);
        }
        // What counts requests is longer each time.
        if !["/metrics", "/status.json"].contains(&path) {
            assert_eq!(get.head, head.head);
        }
    }
    for path in ["/status.json", "/metrics", "/healthz", "/readyz"] {
        assert!(http.get("/").body.contains(path), "the page names {path}");
    }
    assert_eq!(http.get("/healthz").body, "ok\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn nothing_but_get_and_head_is_allowed() {
    let (_redis, broker) = start(&[]);
    let mut http = broker.http();
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "KILL"] {
        let reply = http.ask(&format!("{method} /metrics"), "");
        assert_eq!((reply.status, reply.field("Allow")), (405, "GET, HEAD"), "{method}");
    }
    let reply = http.ask("POST /metrics", "Content-Length: 3\r\n");
    assert_eq!((reply.status, reply.field("Connection")), (405, "close"));
    assert!(http.ends(), "what would be a body is read as nothing else");
    for (lines, status) in [
        ("Content-Length: 5\r\n", 413),
        ("Transfer-Encoding: chunked\r\n", 413),
        ("Content-Length: x\r\n", 400),
        ("Host: localhost\r\n", 400),
    ] {
        let mut http = broker.http();
        let reply = http.ask("GET /metrics", lines);
        assert_eq!((reply.status, reply.field("Connection")), (status, "close"), "{lines}");
        assert!(http.ends(), "{lines}");
    }
}

/// A page from elsewhere whose name leads here can read nothing.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn only_known_hosts_are_answered() {
    let redis = Redis::start();
    let unix = format!("unix://{}", redis.directory().join("metrics.sock").display());
    let listen = format!("tcp://127.0.0.1:0,{unix}?mode=0600");
    let broker = Broker::start(&redis, &[("metrics_listen", &listen), ("metrics_hosts", "web-1.example")]);
    until_ready_is(&broker, 200);
    let status = |url: &str, text: &str| {
        let mut http = Http::connect(url);
        http.write(text);
        http.read(true).status
    };
    let [tcp, unix] = broker.metrics() else { panic!("two addresses: {:?}", broker.metrics()) };
    for (host, expected) in [
        ("127.0.0.1", 200),
        ("127.0.0.1:9190", 200),
        ("[::1]:9190", 200),
        ("LOCALHOST:1", 200),
        ("web-1.example", 200),
        ("Web-1.Example:80", 200),
        ("evil.example", 421),
        ("evil.example:9190", 421),
        ("", 421),
    ] {
        for path in ["/", "/status.json", "/metrics", "/healthz", "/readyz", "/none"] {
            let text = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let expected = if path == "/none" && expected == 200 { 404 } else { expected };
            assert_eq!(status(tcp, &text), expected, "{host} {path}");
            let by_unix = if path == "/none" { 404 } else { 200 };
            assert_eq!(status(unix, &text), by_unix, "{host} {path}");
        }
    }
    for url in [tcp, unix] {
        assert_eq!(status(url, "GET /metrics HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status(url, "GET /metrics HTTP/1.0\r\n\r\n"), 200);
    }
    assert_eq!(status(tcp, "GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"), 421);
    let no_such =
        Broker::run(&["serve", "--upstream", &redis.url(), "--set", "metrics_listen=tcp://0.0.0.0:0"]);
    let error = String::from_utf8_lossy(&no_such.stderr).into_owned();
    assert!(no_such.status.code() == Some(2) && error.contains("?insecure=1"), "{error}");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn heads_that_are_too_long_are_refused() {
    let (_redis, broker) = start(&[]);
    let long = format!("X: {}\r\n", "x".repeat(9_000));
    let many = "x: y\r\n".repeat(70);
    // One that has no end yet, and is still being written.
    let endless = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(200_000));
    for text in [format!("GET / HTTP/1.1\r\n{long}\r\n"), format!("GET / HTTP/1.1\r\n{many}\r\n"), endless] {
        let mut http = broker.http();
        http.write(&text);
        let reply = http.read(true);
        assert_eq!((reply.status, reply.field("Connection")), (431, "close"));
        assert!(http.ends());
    }
    for (text, status) in [("PING\r\n", 400), ("GET / HTTP/2.0\r\n\r\n", 505), ("*1\r\n$4\r\nPING\r\n", 400)]
    {
        let mut http = broker.http();
        http.write(text);
        assert_eq!(http.read(true).status, status, "{text}");
        assert!(http.ends());
    }
    assert_eq!(metrics(&broker).number("broker_http_requests_total{code=\"431\"}"), 3.0);
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn requests_behind_each_other_are_answered_in_order() {
    let (_redis, broker) = start(&[]);
    let mut http = broker.http();
    let paths = ["/healthz", "/metrics", "/none", "/readyz", "/"];
    let requests: String =
        paths.map(|path| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).concat();
    for _ in 0..20 {
        http.write(&requests);
    }
    for _ in 0..20 {
        let statuses = paths.map(|_| http.read(true).status);
        assert_eq!(statuses, [200, 200, 404, 200, 200]);
    }
    // A byte at a time, and an end behind it.
    for byte in requests.as_bytes() {
        http.write([*byte]);
    }
    http.end_writing();
    assert_eq!(paths.map(|_| http.read(true).status), [200, 200, 404, 200, 200]);
    assert!(http.ends());
    let mut old = broker.http();
    old.write(
        "GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    );
    assert_eq!(
        (old.read(true).field("Connection"), old.read(true).field("Connection")),
        ("keep-alive", "close")
    );
    assert!(old.ends(), "what follows the last request is dropped");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_seventeenth_connection_is_refused() {
    let (_redis, broker) = start(&[]);
    let mut held: Vec<Http> = (0..16).map(|_| broker.http()).collect();
    for http in &mut held {
        assert_eq!(http.get("/healthz").status, 200);
    }
    let mut refused = broker.http();
    refused.write("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let reply = refused.read(true);
    assert_eq!((reply.status, reply.field("Connection")), (503, "close"));
    assert!(refused.ends());
    assert_eq!(broker.connect().ask("PING"), "+PONG\r\n", "children are served");
    held.pop();
    wait_until("the place of one that has gone is free", || {
        let mut http = broker.http();
        http.write("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        http.try_read(true).is_ok_and(|reply| reply.status == 200)
    });
}

/// Those who write or read too slowly, or say nothing, are cut off after 5 s. Others are served meanwhile.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn who_is_slow_is_cut_off() {
    let redis = Redis::start();
    let unix = format!("unix://{}", redis.directory().join("metrics.sock").display());
    let broker = Broker::start(&redis, &[("metrics_listen", &unix)]);
    let mut silent = broker.http();
    let mut slow = broker.http();
    let mut greedy = broker.http();
    let start = Instant::now();
    slow.write("GET / HTTP/1.1\r\nHost: localhost\r\nX: ");
    // More than the socket holds, asked for at once and never read.
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    greedy.write(request.repeat(150));
    let mut child = broker.connect();
    let mut worst = Duration::ZERO;
    wait_until("all three are cut off", || {
        let asked = Instant::now();
        assert_eq!(broker.http().get("/healthz").status, 200);
        child.expect("PING", "+PONG\r\n");
        worst = worst.max(asked.elapsed());
        slow.write("x");
        metrics(&broker).number("broker_http_connections") == 1.0
    });
    let lasted = start.elapsed();
    assert!(lasted >= Duration::from_millis(4_900), "{lasted:?}");
    assert!(worst < Duration::from_secs(4), "the others are not kept waiting: {worst:?}");
    assert!(silent.ends());
    assert_eq!(slow.read(true).status, 408);
    let mut answers = 0;
    while greedy.try_read(true).is_ok() {
        answers += 1;
    }
    assert!((1..150).contains(&answers), "cut off in the middle: {answers}");
    assert_eq!(metrics(&broker).number("broker_http_requests_total{code=\"408\"}"), 1.0);
}

/// Who says nothing, not all, or takes nothing is waited for without work.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn connections_that_wait_cost_no_turns() {
    let redis = Redis::start();
    let unix = format!("unix://{}", redis.directory().join("metrics.sock").display());
    let broker = Broker::start(&redis, &[("metrics_listen", &unix)]);
    let _silent = broker.http();
    let (mut slow, mut greedy) = (broker.http(), broker.http());
    slow.write("GET / HTTP/1.1\r\nHost: localhost\r\n");
    greedy.write("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(150));
    let turns = |reply: HttpReply| reply.number("broker_loop_turn_seconds_count") as u64;
    // The answers go on until nothing more is taken.
    let mut own = 0;
    wait_still("the answers are stuck", || {
        own += 1;
        metrics(&broker).number("broker_http_requests_total{code=\"200\"}") as u64 + 1 - own
    });
    let before = turns(metrics(&broker));
    // The time that is measured.
    std::thread::sleep(Duration::from_millis(500));
    let after = turns(metrics(&broker));
    assert!(after - before < 60, "{} turns", after - before);
}

/// Whatever bytes come, children and other clients are served.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn arbitrary_bytes_do_no_harm() {
    let (_redis, broker) = start(&[]);
    let mut rng = seeded();
    for _ in 0..200 {
        let mut http = broker.http();
        let mut bytes: Vec<u8> = (0..rng.usize(0..400)).map(|_| rng.u8(..)).collect();
        if rng.bool() {
            bytes.splice(..0, *b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n");
        }
        http.write(&bytes);
        http.end_writing();
        while http.try_read(true).is_ok() {}
    }
    assert_eq!(metrics(&broker).status, 200);
    assert_eq!(broker.connect().ask("PING"), "+PONG\r\n");
}

/// The numbers are those of the work that was done, neither more nor less.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn numbers_agree_with_a_counted_workload() {
    const CHILDREN: usize = 7;
    const REQUESTS: usize = 131;
    let (_redis, broker) = start(&[]);
    broker.connect().expect("SET k v", "+OK\r\n");
    let before = metrics(&broker);
    let mut children: Vec<Raw> = (0..CHILDREN).map(|_| broker.connect()).collect();
    for round in 0..REQUESTS {
        for child in &mut children {
            child.send("GET k");
            if round % 3 == 0 {
                child.send("PING");
            }
        }
        for child in &mut children {
            assert_eq!(child.read_text(), "$1\r\nv\r\n");
            if round % 3 == 0 {
                assert_eq!(child.read_text(), "+PONG\r\n");
            }
        }
    }
    let after = metrics(&broker);
    let more = |series: &str| after.number(series) - before.number(series);
    let requests = CHILDREN * (REQUESTS + REQUESTS.div_ceil(3));
    assert_eq!(more("broker_child_requests_total"), requests as f64);
    assert_eq!(more("broker_children_opened_total"), CHILDREN as f64);
    assert_eq!(after.number("broker_children"), CHILDREN as f64);
    assert_eq!(after.number("broker_requests_in_flight"), 0.0);
    assert_eq!(more("broker_request_failures_total{error=\"BROKERLOST\"}"), 0.0);
    assert_eq!(more("broker_http_requests_total{code=\"200\"}"), 1.0);
    assert_eq!(after.number("broker_lanes{role=\"shared\"}"), 1.0);
    assert_eq!(after.number("broker_lanes{role=\"control\"}"), 1.0);
    let turns = after.number("broker_loop_turn_seconds_count");
    assert!(turns > before.number("broker_loop_turn_seconds_count"));
    assert_eq!(turns, after.number("broker_loop_turn_seconds_bucket{le=\"+Inf\"}"));
    let started = Duration::from_secs_f64(after.number("broker_start_time_seconds"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    assert!(now.abs_diff(started) < Duration::from_secs(600), "{started:?} {now:?}");
}

/// What children have done is counted for their programs, and stays when they and their processes have gone.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn work_is_counted_by_program() {
    let (_redis, broker) = start(&[]);
    let own = std::env::current_exe().expect("a path");
    let family = |name: &str, program: &str| format!("broker_executable_{name}{{executable=\"{program}\"}}");
    let this = |name: &str| family(name, &own.display().to_string());
    let mut children: Vec<Raw> = (0..5).map(|_| broker.connect()).collect();
    for child in &mut children {
        child.expect("SET k v", "+OK\r\n");
        child.expect("GET k", "$1\r\nv\r\n");
    }
    wait_until("they are known", || {
        let reply = metrics(&broker);
        reply.body.contains(&this("children")) && reply.number(&this("requests_total")) == 10.0
    });
    let reply = metrics(&broker);
    assert_eq!(reply.number(&this("children")), 5.0);
    let bytes = |direction: &str| {
        let labels = format!("executable=\"{}\",direction=\"{direction}\"", own.display());
        reply.number(&format!("broker_executable_bytes_total{{{labels}}}"))
    };
    assert_eq!(bytes("out"), 5.0 * ("+OK\r\n".len() + "$1\r\nv\r\n".len()) as f64);
    assert!(bytes("in") >= 5.0 * ("SET k v\r\nGET k\r\n".len()) as f64);
    let pids = [std::process::id().to_string(), "pid".to_owned()];
    let labels = reply.body.lines().filter(|line| line.starts_with("broker_executable"));
    assert!(labels.clone().count() >= 12, "{}", reply.body);
    assert!(!labels.into_iter().any(|line| pids.iter().any(|pid| line.contains(&format!("\"{pid}")))));
    drop(children);
    // What each had done since the last look at it is added as it goes; the sum is that of all children.
    wait_until("they have gone", || {
        let reply = metrics(&broker);
        let all = ["unknown", "other", &own.display().to_string()];
        let sum: f64 = all.iter().map(|program| reply.number(&family("requests_total", program))).sum();
        reply.number(&this("children")) == 0.0 && sum == reply.number("broker_child_requests_total")
    });
    assert_eq!(metrics(&broker).number(&this("requests_total")), 10.0);
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn who_waits_for_a_lease_is_counted_and_for_how_long() {
    let (_redis, broker) = start(&[("leases_transaction_max", "1"), ("leases_blocking_max", "1")]);
    let mut first = broker.connect();
    first.expect("WATCH k", "+OK\r\n");
    let (mut second, mut third) = (broker.connect(), broker.connect());
    second.send("WATCH k");
    third.send("WATCH k");
    let waiting = "broker_lease_waiting_children{kind=\"transaction\"}";
    let longest = "broker_lease_longest_wait_seconds{kind=\"transaction\"}";
    wait_until("both wait", || metrics(&broker).number(waiting) == 2.0);
    let reply = metrics(&broker);
    assert_eq!(reply.number("broker_leases_in_use{kind=\"transaction\"}"), 1.0);
    assert_eq!(reply.number("broker_leases_max{kind=\"transaction\"}"), 1.0);
    let waited = reply.number(longest);
    wait_until("the oldest has waited longer", || metrics(&broker).number(longest) >= waited + 0.05);
    first.expect("UNWATCH", "+OK\r\n");
    assert_eq!(second.read_text(), "+OK\r\n");
    second.expect("UNWATCH", "+OK\r\n");
    assert_eq!(third.read_text(), "+OK\r\n");
    assert_eq!((metrics(&broker).number(waiting), metrics(&broker).number(longest)), (0.0, 0.0));

    // Groups wait, too: two children for one element, behind one for another.
    let mut blocked: Vec<Raw> = (0..3).map(|_| broker.connect()).collect();
    blocked[0].send("BLPOP a 0");
    wait_until("the lease is lent", || {
        metrics(&broker).number("broker_leases_in_use{kind=\"blocking\"}") == 1.0
    });
    blocked[1].send("BLPOP b 0");
    blocked[2].send("BLPOP b 0");
    wait_until("they wait", || {
        metrics(&broker).number("broker_lease_waiting_children{kind=\"blocking\"}") == 2.0
    });
    let longest = "broker_lease_longest_wait_seconds{kind=\"blocking\"}";
    wait_until("a time", || metrics(&broker).number(longest) > 0.05);
    assert_eq!(metrics(&broker).number(waiting), 0.0, "each kind has its own line");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn failures_are_counted_by_their_error() {
    let (redis, broker) = start(&[("queue_timeout", "50ms")]);
    let mut child = broker.connect();
    child.expect("SET k v", "+OK\r\n");
    redis.kill();
    let down = "broker_request_failures_total{error=\"BROKERDOWN\"}";
    wait_until("the loss is noticed", || metrics(&broker).number("broker_upstream_up") == 0.0);
    let before = metrics(&broker).number(down);
    for _ in 0..3 {
        assert!(child.ask("GET k").starts_with("-BROKERDOWN"));
    }
    let reply = metrics(&broker);
    assert_eq!(reply.number(down) - before, 3.0);
    assert!(reply.number("broker_upstream_connect_failures_total") > 0.0);
    assert!(reply.number("broker_upstream_losses_total") > 0.0);
}

// ---- health --------------------------------------------------------------------------------------------------------

/// How long it takes from now until `/readyz` has this status; the last answer's reason.
fn until_ready_is(broker: &Broker, status: u16) -> (Duration, String) {
    let (start, mut said) = (Instant::now(), String::new());
    wait_until("readiness changes", || {
        let reply = broker.http().get("/readyz");
        said = reply.body;
        assert_eq!(broker.http().get("/healthz").status, 200, "the loop turns all the same");
        reply.status == status
    });
    (start.elapsed(), said)
}

/// What a busy machine adds to a second.
const MARGIN: Duration = Duration::from_millis(2_000);

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn readiness_is_lost_within_a_second_and_comes_back() {
    let (redis, broker) = start(&[]);
    assert_eq!(until_ready_is(&broker, 200).1, "ready\n");
    redis.stop();
    let (lasted, said) = until_ready_is(&broker, 503);
    assert_eq!(said, "not ready: the upstream does not answer\n");
    assert!(lasted < Duration::from_secs(1) + MARGIN, "{lasted:?}");
    // From then on it is known at once.
    let start = Instant::now();
    assert_eq!(broker.http().get("/readyz").status, 503);
    assert!(start.elapsed() < Duration::from_millis(800), "{:?}", start.elapsed());
    redis.cont();
    assert_eq!(until_ready_is(&broker, 200).1, "ready\n");
    redis.kill();
    let (lasted, said) = until_ready_is(&broker, 503);
    assert!(said.contains("no connection to the upstream"), "{said}");
    assert!(lasted < Duration::from_secs(1) + MARGIN, "{lasted:?}");
    redis.restart();
    until_ready_is(&broker, 200);
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn an_upstream_that_may_not_serve_is_not_ready() {
    let redis = Redis::start_with(&["--replica-serve-stale-data", "no", "--save", "3600 1000000"]);
    let broker = Broker::start(&redis, &[TCP]);
    until_ready_is(&broker, 200);
    redis.ask("REPLICAOF 127.0.0.1 1");
    let (_, said) = until_ready_is(&broker, 503);
    assert!(said.starts_with("not ready: the upstream says: MASTERDOWN"), "{said}");
    redis.ask("REPLICAOF NO ONE");
    until_ready_is(&broker, 200);
    let mut direct = redis.connect();
    for batch in 0..20 {
        let values: Vec<String> = (0..50).map(|n| format!("key:{batch}:{n} value")).collect();
        direct.ask(&format!("MSET {}", values.join(" ")));
    }
    direct.expect("SAVE", "+OK\r\n");
    redis.restart_loading();
    let mut said = String::new();
    wait_until("it says that it loads", || {
        said = broker.http().get("/readyz").body;
        said.contains("LOADING")
    });
    until_ready_is(&broker, 200);
}

/// The alerts look at these, since a server that stands still keeps its connections.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_server_that_stands_still_shows_in_the_metrics() {
    let redis = Redis::start_with(&["--busy-reply-threshold", "50"]);
    let broker = Broker::start(&redis, &[TCP]);
    until_ready_is(&broker, 200);
    let mut child = broker.connect();
    child.expect("SET k v", "+OK\r\n");
    let longest = || metrics(&broker).number("broker_upstream_longest_wait_seconds");
    assert_eq!((longest(), metrics(&broker).number("broker_upstream_busy")), (0.0, 0.0));
    redis.stop();
    child.send("GET k");
    wait_until("it waits", || longest() > 0.2);
    assert_eq!(metrics(&broker).number("broker_upstream_up"), 1.0, "its connections are there");
    redis.cont();
    assert_eq!(child.read_text(), "$1\r\nv\r\n");
    wait_until("nobody waits", || longest() == 0.0);
    child.send("EVAL while\ttrue\tdo\tend 0");
    wait_until("it is busy", || metrics(&broker).number("broker_upstream_busy") == 1.0);
    broker.connect().expect("SCRIPT KILL", "+OK\r\n");
    wait_until("it is over", || metrics(&broker).number("broker_upstream_busy") == 0.0);
}

/// A script that does not end keeps everybody waiting; a user that may not PING does not.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_busy_upstream_is_not_ready_and_one_that_refuses_ping_is() {
    let redis = Redis::start_with(&["--busy-reply-threshold", "50"]);
    redis.ask("ACL SETUSER noping on >pw ~* &* +@all -ping");
    let url = format!("unix:///{}?user=noping&pass=pw", redis.socket().display());
    let without = Broker::start_url(&url, &redis.socket(), &[TCP]);
    assert_eq!(until_ready_is(&without, 200).1, "ready\n");
    let broker = Broker::start(&redis, &[TCP]);
    until_ready_is(&broker, 200);
    let mut runs = redis.connect();
    runs.send("EVAL while\u{a0}true\u{a0}do\u{a0}end 0".replace('\u{a0}', "\t").as_str());
    let (_, said) = until_ready_is(&broker, 503);
    assert!(said.contains("BUSY") || said.contains("does not answer"), "{said}");
    wait_until("it says why", || broker.http().get("/readyz").body.contains("BUSY"));
    redis.connect_plain().expect("SCRIPT KILL", "+OK\r\n");
    until_ready_is(&broker, 200);
}

/// Redis is asked for who wants to know, once for all who ask together, and for nobody else.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn nobody_pays_for_readiness_who_does_not_ask() {
    let (redis, broker) = start(&[]);
    until_ready_is(&broker, 200);
    let pings = || {
        let stats = redis.ask("INFO commandstats");
        let calls = stats.split("cmdstat_ping:calls=").nth(1).and_then(|rest| rest.split(',').next());
        calls.map_or(0, |calls| calls.parse::<u32>().expect("a number"))
    };
    // A PING of before is answered, since its answer is what was waited for.
    redis.ask("CONFIG RESETSTAT");
    let mut http = broker.http();
    // For longer than an answer is taken for a present one.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        assert_eq!((http.get("/metrics").status, http.get("/healthz").status), (200, 200));
    }
    assert_eq!(pings(), 0);
    redis.stop();
    let mut asking: Vec<Http> = (0..10).map(|_| broker.http()).collect();
    for http in &mut asking {
        http.write("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    let count = |reply: HttpReply| reply.number("broker_http_connections");
    wait_until("all have been read", || count(http.get("/metrics")) == 11.0);
    redis.cont();
    let statuses: Vec<u16> = asking.iter_mut().map(|http| http.read(true).status).collect();
    // A machine that is busy may have needed a second for this.
    assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    wait_until("the PING is answered", || pings() > 0);
    assert!(pings() <= 2, "{} for 10 who asked", pings());
}

// ---- the life of the listeners -------------------------------------------------------------------------------------

/// Connections for metrics are served in a drain, which does not wait for them.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_drain_is_told_and_waits_for_no_http() {
    let (_redis, mut broker) = start(&[]);
    let (mut http, mut idle) = (broker.http(), broker.http());
    assert_eq!((http.get("/readyz").status, idle.get("/healthz").status), (200, 200));
    let mut blocked = broker.connect();
    blocked.send("BLPOP nothing 0");
    wait_until("it blocks", || http.get("/metrics").number("broker_leases_in_use{kind=\"blocking\"}") == 1.0);
    broker.term();
    wait_until("the drain begins", || http.get("/metrics").number("broker_draining") == 1.0);
    let reply = http.get("/readyz");
    assert_eq!((reply.status, reply.body.as_str()), (503, "not ready: the broker drains\n"));
    wait_until("the address is free", || Http::try_connect(&broker.metrics()[0]).is_err());
    drop(blocked);
    assert!(broker.wait_exit(Duration::from_secs(20)).success());
    assert!(idle.ends());
}

/// A loop in a program serves metrics, too, and its listeners come and go with its settings.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn listeners_change_with_the_settings_of_a_loop() {
    let redis = Redis::start();
    let path = redis.directory().join("metrics.sock");
    let unix = format!("unix://{}", path.display());
    let mut lp = Loop::new(settings(&redis, &[TCP])).expect("the loop");
    assert_eq!((lp.listeners().len(), lp.metrics_listeners().len()), (0, 1));
    let tcp = lp.metrics_listeners()[0].clone();
    let both = format!("tcp://127.0.0.1:0,{unix}");
    lp.reload(settings(&redis, &[("metrics_listen", &both)])).expect("taken");
    assert_eq!(lp.metrics_listeners(), [tcp.clone(), unix.clone()]);
    // One that cannot be bound leaves all as it was.
    let failing = [("metrics_listen", "tcp://0.0.0.0:0"), ("metrics_hosts", "other.example")];
    lp.reload(settings(&redis, &failing)).expect_err("beyond loopback");
    assert_eq!(lp.metrics_listeners(), [tcp.clone(), unix.clone()]);
    for url in [&tcp, &unix] {
        let url = url.clone();
        let ready = move || wait_until("ready", || Http::connect(&url).get("/readyz").status == 200);
        let client = std::thread::spawn(ready);
        run_until(&mut lp, "an answer", |_| client.is_finished());
        client.join().expect("200");
    }
    lp.reload(settings(&redis, &[("metrics_hosts", "web-1.example")])).expect("taken");
    assert!(lp.metrics_listeners().is_empty() && !path.exists() && Http::try_connect(&tcp).is_err());
}
