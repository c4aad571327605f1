//! The status page in a real browser: what it shows in each situation, that nothing which programs choose becomes markup,
//! that it loads nothing from elsewhere, and that pages from elsewhere can read nothing. And what `/status.json` says.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::support::chromium::{RenderedPage, render};
use crate::support::native_child::{NativeChild, program};
use crate::support::{Broker, Raw, Redis, wait_until};

fn start(settings: &[(&str, &str)]) -> (Redis, Broker) {
    let redis = Redis::start();
    let all: Vec<_> =
        [("metrics_listen", "tcp://127.0.0.1:0")].into_iter().chain(settings.iter().copied()).collect();
    let broker = Broker::start(&redis, &all);
    wait_until("Redis serves", || broker.http().get("/readyz").status == 200);
    (redis, broker)
}

fn status(broker: &Broker) -> Value {
    let reply = broker.http().get("/status.json");
    assert_eq!((reply.status, reply.field("Content-Type")), (200, "application/json"));
    serde_json::from_str(&reply.body).expect("JSON")
}

/// Where the page is, as a browser names it.
fn origin(broker: &Broker) -> String {
    broker.metrics()[0].replace("tcp:", "http:")
}

/// The page as a browser shows it; it keeps to its policy, and asks for nothing but the status.
fn shown(broker: &Broker) -> RenderedPage {
    let origin = origin(broker);
    let page = render(&origin);
    assert!(!page.log.contains("Content Security Policy"), "{}", page.log);
    assert!(!page.log.contains("Uncaught"), "{}", page.log);
    let own = format!("{origin}/status.json");
    assert!(page.asked.len() >= 2 && page.asked.iter().all(|url| *url == own), "{:?}", page.asked);
    page
}

fn assert_shows(page: &RenderedPage, texts: &[&str]) {
    for text in texts {
        assert!(page.shows(text), "not there: {text}\n{}", page.dom);
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn where_all_is_well_the_page_says_so() {
    let (_redis, broker) = start(&[]);
    let page = shown(&broker);
    assert_shows(&page, &["Nothing is wrong.", "Redis is up", "0 of 64", "nobody waits", "None."]);
    assert_eq!(page.title(), "broker");
    assert!(
        page.shows(">Children that wait for a lease<") && !page.shows(">Latency"),
        "what is not measured is not drawn"
    );
    let policy = broker.http().get("/").field("Content-Security-Policy").to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
}

/// Who waits, for how long and for whom, the busiest process, and no word of what is in Redis.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn under_load_it_shows_who_does_and_who_waits() {
    let (_redis, broker) = start(&[("leases_transaction_max", "1"), ("lease_wait_timeout", "300s")]);
    let workers = NativeChild::start(broker.socket(), "pool", &["10", "20"], &[]);
    let mut own = broker.connect();
    own.expect("SET secret-key secret-value", "+OK\r\n");
    let mut listens = broker.connect();
    assert!(listens.ask("SUBSCRIBE secret-channel").contains("subscribe"));
    let holder = NativeChild::start(broker.socket(), "watch", &[], &[("CHILD_SETNAME", "nightly")]);
    let mut waits: Vec<Raw> = (0..3).map(|_| broker.connect()).collect();
    waits.iter_mut().for_each(|raw| raw.send("WATCH other"));
    let mut said = Value::Null;
    wait_until("rates, samples and waits", || {
        said = status(&broker);
        said["processes"][0]["requests_per_s"].as_u64().is_some_and(|rate| rate > 0)
            && said["history"]["requests_per_s"].as_array().is_some_and(|points| !points.is_empty())
            && said["leases"]["kinds"][0]["longest_wait_ms"].as_u64().is_some_and(|ms| ms > 1_000)
    });
    assert_eq!(said["processes"][0]["pid"], workers.pid(), "{said}");
    let wrong = &said["wrong"][0];
    assert_eq!(
        (&wrong["kind"], &wrong["severity"]),
        (&"leases-waiting".into(), &"critical".into()),
        "{said}"
    );
    let who = wrong["who"].as_str().expect("a text");
    let pid = format!("pid {}", holder.pid());
    for part in [&*pid, "hostchild", "\"nightly\"", "last command watch"] {
        assert!(who.contains(part), "{part}: {who}");
    }
    let page = shown(&broker);
    let pids = [workers.pid(), holder.pid()].map(|pid| format!(">{pid}</td>"));
    assert_shows(&page, &["3 children wait for a connection for a transaction", "1 of 1, full", "hostchild"]);
    assert_shows(
        &page,
        &["The only one is in use (leases_transaction_max = 1)", "Processes by requests per second"],
    );
    let own =
        said["processes"].as_array().expect("a list").iter().find(|row| row["pid"] == std::process::id());
    let held = own.and_then(|row| row["leases"].as_u64());
    assert!(held.is_some_and(|held| held <= 1), "who waits holds nothing: {said}");
    assert_eq!(said["processes_len"], 3, "the workers, the holder and this program: {said}");
    assert_shows(
        &page,
        &[&*pids[0], &*pids[1], "nightly", "last command watch", ">ping</td>", "class=\"path\""],
    );
    assert!(page.title().starts_with('('), "the title says how much is wrong: {}", page.title());
    for secret in ["secret-key", "secret-value", "secret-channel"] {
        assert!(!page.shows(secret) && !said.to_string().contains(secret), "{secret}");
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_leak_is_named_with_its_process() {
    let (_redis, broker) = start(&[("leak_threshold", "600ms")]);
    let child = NativeChild::start(broker.socket(), "multi", &[], &[("CHILD_SETNAME", "worker-7")]);
    wait_until("it is suspected", || status(&broker)["leaks_now"] == 1);
    let page = shown(&broker);
    let pid = format!("pid {}", child.pid());
    assert_shows(&page, &["Suspected leak: open-transaction.", &pid, "hostchild", "worker-7", "MULTI open"]);
    assert_shows(&page, &["BROKER KILL CHILD"]);
    drop(child);
    wait_until("it is over, and known", || {
        let said = status(&broker);
        said["leaks_now"] == 0
            && said["leaks"][0]["state"] == "gone"
            && said["wrong"] == Value::Array(Vec::new())
    });
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn without_redis_it_says_what_fails_and_since_when() {
    let (redis, broker) = start(&[("queue_timeout", "50ms")]);
    let mut child = broker.connect();
    child.expect("SET k v", "+OK\r\n");
    redis.kill();
    wait_until("the loss is noticed", || child.ask("GET k").starts_with("-BROKERDOWN"));
    let page = shown(&broker);
    assert_shows(
        &page,
        &["Redis is down", "Redis cannot be reached.", "Last attempt: ", "failed with BROKERDOWN"],
    );
    let said = status(&broker);
    assert_eq!((&said["upstream"]["state"], &said["upstream"]["ready"]), (&"down".into(), &false.into()));
    let first = &said["wrong"][0];
    assert!(first["kind"] == "upstream-down" && first["since_ms"].is_u64(), "{said}");
    redis.restart();
    wait_until("it is well again, but for the minute", || {
        let said = status(&broker);
        let kinds: Vec<_> =
            said["wrong"].as_array().expect("a list").iter().map(|one| one["kind"].clone()).collect();
        said["upstream"]["ready"] == true
            && kinds.iter().all(|kind| kind.as_str().is_some_and(|kind| kind.starts_with("failed-")))
    });
}

/// A Redis that has stopped keeps its connections, and is found out by a question that the page has the broker ask.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_redis_that_does_not_answer_is_not_ready() {
    let (redis, broker) = start(&[]);
    wait_until("it answers", || status(&broker)["upstream"]["ready"] == true);
    redis.stop();
    wait_until("it is wrong", || {
        let said = status(&broker);
        said["wrong"][0]["what"] == "Redis is not ready: the upstream does not answer."
            && said["upstream"]["ready"] == false
    });
    wait_until("it is told for how long", || {
        status(&broker)["wrong"][0]["since_ms"].as_u64().is_some_and(|ms| ms >= 500)
    });
    let hint = status(&broker)["wrong"][0]["hint"].as_str().expect("a text").to_owned();
    assert!(hint.contains("nothing answers there"), "{hint}");
    redis.cont();
    wait_until("it answers again", || status(&broker)["upstream"]["ready"] == true);
}

/// The system takes the connection to a Redis that has stopped: nobody is sent to look whether it takes connections.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_redis_that_takes_connections_and_says_nothing_is_told_from_none() {
    let redis = Redis::start();
    redis.stop();
    let broker =
        Broker::start(&redis, &[("metrics_listen", "tcp://127.0.0.1:0"), ("connect_timeout", "200ms")]);
    wait_until("an attempt has failed", || {
        let said = status(&broker);
        let wrong = &said["wrong"][0];
        wrong["kind"] == "upstream-down"
            && wrong["hint"].as_str().is_some_and(|hint| {
                hint.contains("nothing answers there") && !hint.contains("accepts connections")
            })
    });
    redis.cont();
    wait_until("it is there", || status(&broker)["upstream"]["ready"] == true);
}

/// CLIENT SETNAME and the names of programs are shown as they are, and run nothing.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn what_programs_choose_is_text() {
    const NAMES: [&str; 3] = [
        "</script><script>document.title='owned'</script>",
        "\"'><svg/onload=document.title='owned'>",
        "<img/src=x/onerror=document.title='owned'>",
    ];
    let (_redis, broker) = start(&[("leak_threshold", "600ms")]);
    let mut children: Vec<Raw> = NAMES.iter().map(|_| broker.connect()).collect();
    for (child, name) in children.iter_mut().zip(NAMES) {
        assert_eq!(child.call(&["CLIENT", "SETNAME", name]), b"+OK\r\n");
        child.expect("WATCH k", "+OK\r\n");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("<img src=x onerror=document.title='owned'>");
    std::fs::copy(program(), &file).expect("a copy of the program");
    let _own = NativeChild::start_program(&file, broker.socket(), "watch", &[], &[]);
    wait_until("all are suspected", || status(&broker)["leaks_now"] == 4);
    let page = shown(&broker);
    assert!(!page.title().contains("owned"), "{}", page.title());
    for name in NAMES {
        let text = name.replace('<', "&lt;").replace('>', "&gt;");
        assert!(page.shows(&text), "not there: {text}\n{}", page.dom);
    }
    assert_shows(&page, &["&lt;img\\x20src=x\\x20onerror=document.title='owned'&gt;"]);
    for (markup, count) in [("<script", 1), ("<img", 0), ("<svg/", 0), ("onerror=\"", 0), ("onload=\"", 0)] {
        assert_eq!(page.dom.matches(markup).count(), count, "{markup}\n{}", page.dom);
    }
}

// ---- other origins, and no broker ----------------------------------------------------------------------------------

/// Answers requests by their paths, each connection one, as long as these tests run; where `answer` has nothing to say the
/// connection is closed. Returns where.
fn serve(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
    let origin = format!("http://{}", listener.local_addr().expect("its address"));
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = Arc::clone(&answer);
            // A browser also opens connections on which it asks for nothing.
            std::thread::spawn(move || {
                let reply = asked_path(&stream).and_then(|path| answer(&path)).unwrap_or_default();
                // Who has left needs no answer.
                let _ = (&stream).write_all(reply.as_bytes());
            });
        }
    });
    origin
}

fn asked_path(stream: &TcpStream) -> Option<String> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    lines.find(|line| line.is_empty())?;
    Some(path)
}

/// A page from elsewhere that tries every way in, and writes down how far it came.
const STRANGER: &str = r#"<!doctype html><title>elsewhere</title><body><script>
const tell = (name, text) => { const p = document.createElement("p"); p.textContent = name + ": " + text; document.body.append(p); };
const attempt = (name, options) => fetch("BROKER/status.json", options)
    .then(async (reply) => tell(name, "read " + reply.type + " " + (await reply.text()).length), () => tell(name, "refused"));
attempt("cors", {});
attempt("no-cors", { mode: "no-cors" });
const load = (tag, name, url) => {
    const element = document.createElement(tag);
    element.onload = () => tell(name, "loaded");
    element.onerror = () => tell(name, "refused");
    element.src = url;
    document.body.append(element);
};
load("script", "script", "BROKER/status.json");
load("img", "image", "BROKER/status.json");
const frame = document.createElement("iframe");
frame.src = "BROKER/";
document.body.append(frame);
</script>"#;

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_page_from_elsewhere_can_read_nothing() {
    let (_redis, broker) = start(&[]);
    let body = STRANGER.replace("BROKER", &origin(&broker));
    let page = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let elsewhere = serve(move |_| Some(page.clone()));
    let page = render(&elsewhere);
    assert_shows(&page, &["cors: refused", "no-cors: refused", "script: refused", "image: refused"]);
    assert!(!page.shows("uptime_ms"), "{}", page.dom);
    assert!(page.log.contains("frame-ancestors"), "the frame is refused by the policy: {}", page.log);
    let metrics = broker.http().get("/metrics");
    assert!(metrics.number("broker_http_requests_total{code=\"403\"}") >= 4.0, "{}", metrics.body);
}

/// The page stays as it was, says that nobody answers, and since when.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_broker_that_has_gone_is_noticed() {
    let (redis, broker) = start(&[]);
    wait_until("it is ready", || status(&broker)["upstream"]["ready"] == true);
    let recorded = |path: &str| {
        let reply = broker.http().get(path);
        reply.head.replace("Connection: keep-alive", "Connection: close") + &reply.body
    };
    let (page, first) = (recorded("/"), recorded("/status.json"));
    drop((broker, redis));
    let first = Mutex::new(Some(first));
    let page = render(&serve(move |path| match path {
        "/" => Some(page.clone()),
        _ => first.lock().expect("nobody has panicked").take(),
    }));
    assert_shows(
        &page,
        &["The broker does not answer since ", "What is shown is from then.", "Nothing is wrong."],
    );
    assert_shows(&page, &["class=\"stale\"", "no answer for ", ">the broker does not answer</p>"]);
    assert!(!page.shows("Failed to fetch"), "{}", page.dom);
}

/// What the page is made of is in the answer, for whoever has no browser.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn who_asks_for_the_status_is_looked_at() {
    let (_redis, broker) = start(&[]);
    let mut http = broker.http();
    for (site, code) in [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)] {
        assert_eq!(
            http.ask("GET /status.json", &format!("Sec-Fetch-Site: {site}\r\n")).status,
            code,
            "{site}"
        );
    }
    let reply = http.get("/status.json");
    assert!(!reply.head.to_lowercase().contains("access-control"), "{}", reply.head);
    let head = http.ask("HEAD /status.json", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let mut stranger = broker.http();
    stranger.write("GET /status.json HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert_eq!(stranger.read(true).status, 421);
}
