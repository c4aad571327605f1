//! TLS on both sides of the broker, against a real redis-server with TLS and real clients: what is served, what is refused
//! and how that is said, and that nobody else notices. Certificates are made by the openssl command.

use crate::support::console::rows;
use crate::support::embedded::{run_until, settings};
use crate::support::native::{C99, Mode, Native};
use crate::support::raw::{Raw, request};
use crate::support::tls::{Certificates, TlsRaw, der};
use crate::support::{Broker, Redis, seeded, wait_until};
use broker::base::limits::HANDSHAKES_MAX;
use broker::config::Settings;
use broker::reactor::{Loop, RunMode};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A port that nobody has now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address").port()
}

/// A Redis with TLS that shows `NAME.pem`, and its port.
fn redis_with_tls(certs: &Certificates, name: &str, more: &[&str]) -> (Redis, u16) {
    let port = free_port();
    let files = ["tls-cert-file", "tls-key-file", "tls-ca-cert-file"].map(|option| format!("--{option}"));
    let paths =
        [certs.text(&format!("{name}.pem")), certs.text(&format!("{name}.key")), certs.text("ca.pem")];
    let port_text = port.to_string();
    let mut args = vec!["--tls-port", &port_text];
    args.extend(files.iter().zip(&paths).flat_map(|(option, path)| [option.as_str(), path.as_str()]));
    args.extend(more);
    (Redis::start_with(&args), port)
}

/// A broker with a unix socket and these listeners and settings.
fn serve(upstream: &str, listen: &[&str], settings: &[(&str, &str)]) -> Broker {
    let directory = tempfile::Builder::new().prefix("broker-tls-").tempdir().expect("a directory").keep();
    let unix = format!("unix://{}/b.sock", directory.display());
    let pairs: Vec<String> = settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut args = vec!["serve", "--upstream", upstream, "--listen", &unix];
    args.extend(listen.iter().flat_map(|url| ["--listen", url]));
    args.extend(pairs.iter().flat_map(|pair| ["--set", pair]));
    Broker::start_args(&args, 1 + listen.len())
}

/// `redis-cli --tls` at a listener.
fn redis_cli(certs: &Certificates, url: &str, more: &[&str]) -> Output {
    let port = url.rsplit(':').next().expect("a port");
    let mut cli = Command::new("redis-cli");
    cli.args(["--tls", "--cacert", &certs.text("ca.pem"), "-h", "127.0.0.1", "-p", port]).args(more);
    cli.output().expect("run redis-cli; install the package redis-tools")
}

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// How often the log says it.
fn told(broker: &Broker, words: &str) -> usize {
    broker.log().matches(words).count()
}

// ---- what is served ----------------------------------------------------------------------------------------

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn redis_cli_is_served_by_tls_in_front_of_a_redis_that_wants_certificates() {
    let certs = Certificates::new();
    let (redis, port) = redis_with_tls(&certs, "server", &["--tls-auth-clients", "yes"]);
    let (ca, cert, key) = (certs.text("ca.pem"), certs.text("client.pem"), certs.text("client.key"));
    let files = [("tls_ca_file", &*ca), ("tls_cert_file", &*cert), ("tls_key_file", &*key)];
    let listen = certs.listen("server", "&label=secure");
    let broker = serve(&format!("rediss://localhost:{port}"), &[&listen], &files);
    let url = &broker.listening()[1];
    assert_eq!(text_of(&redis_cli(&certs, url, &["SET", "k", "v"])), "OK\n");
    assert_eq!(
        text_of(&redis_cli(&certs, url, &["-3", "EVAL", "return redis.call('GET','k')", "0"])),
        "\"v\"\n".replace('"', "")
    );
    assert_eq!(redis.ask("GET k"), "$1\r\nv\r\n");
    // A long value both ways: many records, and writes that the socket refuses.
    let long = "x".repeat(3_000_000);
    let config = certs.client("ca", None);
    let mut child = TlsRaw::connect(url, &config);
    child.write(&request(&["SET", "long", &long]));
    assert_eq!(child.read(5), b"+OK\r\n");
    child.expect("GET long", &format!("$3000000\r\n{long}\r\n"));
    let mut admin = broker.connect();
    let children = admin.ask("BROKER SHOW CHILDREN");
    assert!(children.contains("secure") && children.contains("TLSv1.3/TLS13_"), "{children}");
    assert!(admin.ask("BROKER SHOW UPSTREAM").contains("TLSv1.3/TLS13_"));
    assert!(admin.ask("BROKER SHOW LANES").contains("TLSv1.3/TLS13_"));
}

/// A child that reads nothing until the broker has done with it: what the system has not taken by then comes all the same,
/// and then the end as TLS says it. The lengths are those around what the system takes.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn the_last_bytes_of_a_slow_reader_come_before_the_end() {
    let certs = Certificates::new();
    let redis = Redis::start();
    let broker = serve(&redis.url(), &[&certs.listen("server", "")], &[]);
    let url = broker.listening()[1].clone();
    let mut admin = broker.connect();
    let mut left_over = 0;
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let config = certs.client_speaking("ca", None, versions);
        // So long that most of it stays with the broker, which says how much.
        let mut length = 16_000_000;
        for _ in 0..14 {
            admin.call(&["SET", "long", &"y".repeat(length)]);
            let mut child = TlsRaw::connect_narrow(&url, &config);
            child.write(&[request(&["GET", "long"]), request(&["QUIT"])].concat());
            let kept = wait_for_output(&mut admin);
            let header = format!("${length}\r\n");
            let reply = child.read(header.len() + length + 2 + 5);
            assert!(reply.starts_with(header.as_bytes()) && reply.ends_with(b"y\r\n+OK\r\n"));
            assert_eq!(child.end(), Ok(0), "the end is said, not only there");
            left_over += usize::from(kept == 0);
            // What the broker has sealed is not what it keeps: a little less than that is on its way when it has done.
            length = if kept == 0 { length + 9_000 } else { length.saturating_sub(kept + 8_000).max(1000) };
        }
    }
    assert!(left_over > 0, "no length was the one that this is about");
}

/// What the broker keeps for the one child with TLS once that does not change any more; nothing if the child has ended.
fn wait_for_output(admin: &mut Raw) -> usize {
    let (mut last, mut same) = (None, 0);
    loop {
        let table = admin.ask("BROKER SHOW CHILDREN");
        let Some(row) = table.lines().find(|line| line.contains("TLSv1")) else { return 0 };
        let names = table.lines().find(|line| line.contains("output_bytes")).expect("names of columns");
        let column = names.split_whitespace().position(|name| name == "output_bytes").expect("a column");
        let kept = row.split_whitespace().nth(column).and_then(|text| text.parse().ok()).unwrap_or(0);
        same = if last == Some(kept) && kept > 0 { same + 1 } else { 0 };
        last = Some(kept);
        if same == 20 {
            return kept;
        }
        // Nothing announces that the system takes no more.
        thread::sleep(Duration::from_millis(2));
    }
}

/// A TLS connection that ends without saying so is an end of input as any other: what was sent whole is run.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_child_that_ends_is_an_end_of_input() {
    let certs = Certificates::new();
    let redis = Redis::start();
    let broker = serve(&redis.url(), &[&certs.listen("server", "")], &[]);
    let config = certs.client("ca", None);
    let url = &broker.listening()[1];
    let mut child = TlsRaw::connect(url, &config);
    child.write(&[request(&["INCR", "n"]), b"*2\r\n$4\r\nINCR".to_vec()].concat());
    child.socket().shutdown(std::net::Shutdown::Write).expect("shut down");
    assert_eq!(child.read(4), b":1\r\n");
    assert_eq!(child.end(), Ok(0));
    // The same, said.
    let mut child = TlsRaw::connect(url, &config);
    child.write(&request(&["INCR", "n"]));
    child.close_notify();
    assert_eq!(child.read(4), b":2\r\n");
    assert_eq!(child.end(), Ok(0));
    wait_until("both are gone", || !broker.connect().ask("BROKER SHOW CHILDREN").contains("TLSv1"));
}

/// Bytes of a record in pieces, several records in one piece: nothing waits for another edge.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn records_may_come_in_any_pieces() {
    let certs = Certificates::new();
    let redis = Redis::start();
    let broker = serve(&redis.url(), &[&certs.listen("server", "")], &[]);
    let config = certs.client("ca", None);
    let stream = TcpStream::connect(broker.listening()[1].trim_start_matches("tls://")).expect("connect");
    stream.set_nodelay(true).expect("no delay");
    let name = "localhost".try_into().expect("a name");
    let mut tls = rustls::ClientConnection::new(config, name).expect("a connection");
    let mut socket = &stream;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).expect("the handshake");
    }
    // A record for each request; all of them in one write but for the last byte.
    for _ in 0..50 {
        tls.writer().write_all(&request(&["INCR", "n"])).expect("seal");
    }
    let mut wire = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut wire).expect("seal");
    }
    let (most, last) = wire.split_at(wire.len() - 1);
    for piece in most.chunks(700) {
        socket.write_all(piece).expect("write");
    }
    let mut text = Vec::new();
    let read = |tls: &mut rustls::ClientConnection, text: &mut Vec<u8>, until: &[u8]| {
        while !text.ends_with(until) {
            tls.read_tls(&mut &stream).expect("read");
            tls.process_new_packets().expect("records");
            match tls.reader().read_to_end(text) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                outcome => panic!("{outcome:?}"),
            }
        }
    };
    read(&mut tls, &mut text, b":49\r\n");
    socket.write_all(last).expect("write");
    read(&mut tls, &mut text, b":50\r\n");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn subscribers_and_blocked_children_are_served_by_tls() {
    let certs = Certificates::new();
    let redis = Redis::start();
    let broker = serve(&redis.url(), &[&certs.listen("server", "")], &[]);
    let config = certs.client("ca", None);
    let (mut listener, mut waiter) =
        (TlsRaw::connect(&broker.listening()[1], &config), TlsRaw::connect(&broker.listening()[1], &config));
    listener.expect("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n");
    waiter.write(&request(&["BLPOP", "l", "0"]));
    wait_until("it waits", || broker.connect().ask("BROKER SHOW CHILDREN").contains("waiting"));
    let mut plain = broker.connect();
    plain.expect("PUBLISH c m", ":1\r\n");
    plain.expect("RPUSH l e", ":1\r\n");
    assert_eq!(listener.read(31), b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n");
    assert_eq!(waiter.read(18), b"*2\r\n$1\r\nl\r\n$1\r\ne\r\n");
}

// ---- what the upstream is refused for ------------------------------------------------------------------------

/// Starts a broker whose upstream is at `host` and port, and waits for the line that says why not.
fn expect_refusal(host: &str, port: u16, settings: &[(&str, &str)], words: &str) {
    let broker = serve(&format!("rediss://{host}:{port}"), &[], settings);
    wait_until(words, || told(&broker, words) > 0);
    // Others come as fast as it dials; they are no news.
    wait_until("it has dialled again", || {
        let failures = rows(&mut broker.connect(), "UPSTREAM")[0]["failures"].parse::<u64>();
        failures.is_ok_and(|count| count >= 3)
    });
    assert_eq!(told(&broker, "cannot connect to upstream"), 1, "one line says it: {}", broker.log());
    let reply = broker.connect().ask("GET k");
    assert!(reply.starts_with("-BROKERDOWN"), "{reply}");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn each_failed_check_of_the_upstream_is_named() {
    let certs = Certificates::new();
    certs.signed("old", "ca", "DNS:localhost", &["-days", "-1"]);
    let ca = certs.text("ca.pem");
    let other = certs.text("other.pem");
    let quick = [("queue_timeout", "100"), ("reconnect_backoff_max", "20")];
    let with = |file: &str, more: &[(&str, &str)]| {
        [&[("tls_ca_file", file)][..], more]
            .concat()
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect::<Vec<_>>()
    };
    let refusal = |host: &str, port: u16, pairs: Vec<(String, String)>, words: &str| {
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(k, v)| (&**k, &**v)).chain(quick).collect();
        expect_refusal(host, port, &pairs, words);
    };
    let (_redis, port) = redis_with_tls(&certs, "server", &["--tls-auth-clients", "no"]);
    refusal("localhost", port, with(&other, &[]), "of an unknown CA");
    refusal(
        "localhost",
        port,
        with(&ca, &[("tls_server_name", "elsewhere")]),
        "another name than elsewhere: it is for",
    );
    let (_strict, strict) = redis_with_tls(&certs, "server", &["--tls-auth-clients", "yes"]);
    refusal("localhost", strict, with(&ca, &[]), "it wants a certificate");
    let (_old, old) = redis_with_tls(&certs, "old", &["--tls-auth-clients", "no"]);
    refusal("localhost", old, with(&ca, &[]), "has expired");
    let plain_port = free_port().to_string();
    let _plain = Redis::start_with(&["--port", &plain_port]);
    let plain: u16 = plain_port.parse().expect("a port");
    let broker = serve(
        &format!("rediss://localhost:{plain}"),
        &[],
        &[("tls_ca_file", &ca), ("connect_timeout", "300")],
    );
    // Redis waits for the end of the line, or says something: both are told.
    wait_until("the reason", || {
        told(&broker, "does not speak TLS") + told(&broker, "no answer within 300 ms") > 0
    });
}

/// The protocol is checked, too: nothing older than TLS 1.2 is spoken, and 1.2 is.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn an_upstream_may_speak_tls_1_2() {
    let certs = Certificates::new();
    let (_redis, port) =
        redis_with_tls(&certs, "server", &["--tls-auth-clients", "no", "--tls-protocols", "TLSv1.2"]);
    let ca = certs.text("ca.pem");
    let broker = serve(&format!("rediss://127.0.0.1:{port}"), &[], &[("tls_ca_file", &*ca)]);
    broker.connect().expect("SET k v", "+OK\r\n");
    assert!(broker.connect().ask("BROKER SHOW LANES").contains("TLSv1.2/TLS_ECDHE"));
}

/// A server that signs its own certificate is trusted by that very certificate, whether it calls itself a CA or not.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_certificate_in_the_ca_file_is_trusted_itself() {
    let certs = Certificates::new();
    for (name, is_ca) in [("selfca", "TRUE"), ("selfleaf", "FALSE")] {
        certs.self_signed(name, &format!("basicConstraints=critical,CA:{is_ca}"));
        // Its own names stand in none of these.
        let own = format!("{name}-named");
        let (key, cert) = (format!("{own}.key"), format!("{own}.pem"));
        let extension = format!("basicConstraints=critical,CA:{is_ca}");
        let mut args =
            vec!["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        args.extend(["-days", "2", "-subj", "/CN=localhost", "-addext", &extension]);
        args.extend(["-addext", "subjectAltName=DNS:localhost", "-keyout", &key, "-out", &cert]);
        certs.openssl(&args);
        let (_redis, port) = redis_with_tls(&certs, &own, &["--tls-auth-clients", "no"]);
        let file = certs.text(&cert);
        let url = format!("rediss://localhost:{port}");
        let broker = serve(&url, &[], &[("tls_ca_file", &*file)]);
        broker.connect().expect("SET k v", "+OK\r\n");
        // Its name is checked all the same, and the certificate of another server does not vouch for it.
        let quick = [("queue_timeout", "100"), ("tls_ca_file", &*file), ("tls_server_name", "elsewhere")];
        expect_refusal("localhost", port, &quick, "another name than elsewhere");
        let another = certs.text(&format!("{name}.pem"));
        let quick = [("queue_timeout", "100"), ("tls_ca_file", &*another)];
        let words = if is_ca == "TRUE" { "certificate is that of a CA" } else { "of an unknown CA" };
        expect_refusal("localhost", port, &quick, words);
    }
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn what_is_not_checked_is_warned_of() {
    let certs = Certificates::new();
    let (_redis, port) = redis_with_tls(&certs, "other", &["--tls-auth-clients", "no"]);
    let broker = serve(&format!("rediss://127.0.0.1:{port}"), &[], &[("tls_insecure", "true")]);
    broker.connect().expect("SET k v", "+OK\r\n");
    assert_eq!(told(&broker, "is not checked"), 1);
}

/// Later connections to the upstream cost no certificate.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn sessions_with_the_upstream_are_resumed() {
    let certs = Certificates::new();
    let (redis, port) = redis_with_tls(&certs, "server", &["--tls-auth-clients", "no"]);
    let ca = certs.text("ca.pem");
    let settings = [("tls_ca_file", &*ca), ("log_level", "debug")];
    let broker = serve(&format!("rediss://localhost:{port}"), &[], &settings);
    broker.connect().expect("SET k v", "+OK\r\n");
    redis.ask("CLIENT KILL TYPE normal");
    wait_until("a session is resumed", || {
        broker.connect().ask("GET k");
        told(&broker, ", resumed") > 0
    });
}

/// An upstream whose connection is cut has perhaps not said all; a child is told so.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn an_upstream_that_ends_without_saying_so_is_lost() {
    let certs = Certificates::new();
    let (redis, port) = redis_with_tls(&certs, "server", &["--tls-auth-clients", "no"]);
    let (relay, streams) = relay_to(port);
    let ca = certs.text("ca.pem");
    let broker = serve(&format!("rediss://localhost:{relay}"), &[], &[("tls_ca_file", &*ca)]);
    let mut child = broker.connect();
    child.expect("SET k v", "+OK\r\n");
    redis.stop();
    child.send("GET k");
    wait_until("it is written", || {
        broker.connect().ask("BROKER SHOW CHILDREN").lines().any(|line| line.contains(" get "))
    });
    for stream in streams.lock().expect("streams").drain(..) {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let reply = child.read_reply();
    assert!(reply.starts_with(b"-BROKERLOST"), "{}", reply.escape_ascii());
    wait_until("the log says how", || told(&broker, "without a close_notify") > 0);
    redis.cont();
}

/// Passes bytes to a port of this host and back; the sides of those who connect, to cut them.
fn relay_to(port: u16) -> (u16, Arc<Mutex<Vec<TcpStream>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let own = listener.local_addr().expect("its address").port();
    let streams = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&streams);
    thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { return };
            let [near_copy, far_copy, cut] =
                [&near, &far, &near].map(|side| side.try_clone().expect("a copy"));
            kept.lock().expect("streams").push(cut);
            thread::spawn(move || std::io::copy(&mut &near_copy, &mut &far_copy));
            thread::spawn(move || std::io::copy(&mut &far, &mut &near));
        }
    });
    (own, streams)
}

// ---- what children are refused for -----------------------------------------------------------------------------

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn each_failed_check_of_a_child_is_named_and_others_are_served() {
    let certs = Certificates::new();
    certs.signed("late", "ca", "URI:spiffe://tests/late", &["-days", "-1"]);
    certs.signed("stranger", "other", "URI:spiffe://tests/client", &["-days", "2"]);
    let redis = Redis::start();
    let listen = [
        certs.listen("server", &format!("&client_ca={}", certs.text("ca.pem"))),
        "tcp://127.0.0.1:0".to_owned(),
    ];
    let broker = serve(&redis.url(), &[&listen[0], &listen[1]], &[("metrics_listen", "tcp://127.0.0.1:0")]);
    let (secure, plain) = (broker.listening()[1].clone(), broker.listening()[2].clone());
    let mut child = TlsRaw::connect(&secure, &certs.client("ca", Some("client")));
    for (shown, words) in [
        (None, "no client certificate was shown"),
        (Some("late"), "the peer's certificate has expired"),
        (Some("stranger"), "of an unknown CA"),
    ] {
        // With TLS 1.3 a client believes itself connected until it reads.
        let refused =
            TlsRaw::try_connect(&secure, &certs.client("ca", shown)).and_then(|mut raw| raw.line_of("PING"));
        assert!(refused.is_err(), "{shown:?}: {refused:?}");
        wait_until(words, || told(&broker, words) == 1);
    }
    // A client that does not trust us says why.
    assert!(TlsRaw::try_connect(&secure, &certs.client("other", Some("client"))).is_err());
    wait_until("its reason", || told(&broker, "it does not know the CA of our certificate") == 1);
    let port = secure.rsplit(':').next().expect("a port");
    let mut old = Command::new("openssl");
    old.args([
        "s_client",
        "-tls1_1",
        "-cipher",
        "DEFAULT@SECLEVEL=0",
        "-connect",
        &format!("127.0.0.1:{port}"),
    ]);
    assert!(!old.output().expect("run openssl").status.success());
    wait_until("the version", || {
        told(&broker, "protocol version: the peer speaks neither TLS 1.2 nor 1.3") == 1
    });
    let mut raw = Raw::tcp(secure.trim_start_matches("tls://"));
    raw.send("PING");
    assert!(raw.try_reply().is_err());
    wait_until("plaintext is named", || told(&broker, "plaintext on a TLS port") == 1);
    let refused = TlsRaw::try_connect(&plain.replace("tcp:", "tls:"), &certs.client("ca", None));
    assert!(refused.is_err());
    wait_until("TLS is named", || told(&broker, "TLS on a plaintext port") == 1);
    child.expect("SET k v", "+OK\r\n");
    let counted = broker.http().get("/metrics").body;
    assert!(counted.contains("broker_tls_handshake_failures_total{side=\"child\"} 6"), "{counted}");
}

/// Who may listen where: what everybody on a network could use has to be asked for.
#[test]
fn beyond_loopback_tls_needs_a_guard() {
    let certs = Certificates::new();
    let with = |options: &str, pairs: &[(&str, &str)]| {
        let mut settings = Settings::default();
        settings.set("upstream", "redis://127.0.0.1:1").expect("a URL");
        settings
            .set("listen", &certs.listen("server", options).replace("127.0.0.1", "0.0.0.0"))
            .expect("a URL");
        pairs.iter().for_each(|(key, value)| settings.set(key, value).expect("a setting"));
        Loop::check(&settings).map_err(|error| error.to_string())
    };
    let refused = with("", &[]).expect_err("nobody is checked");
    assert!(refused.contains("not a loopback address") && refused.contains("client_ca"), "{refused}");
    with("&insecure=1", &[]).expect("it was asked for");
    with(&format!("&client_ca={}", certs.text("ca.pem")), &[]).expect("a certificate is needed");
    with("", &[("auth", "passthrough")]).expect("a password is needed");
    // Files are read: what does not fit is refused before anything listens.
    let wrong = certs.listen("server", "").replace("server.key", "client.key");
    let mut settings = Settings::default();
    settings.set("upstream", "redis://127.0.0.1:1").expect("a URL");
    settings.set("listen", &wrong).expect("a URL");
    let error = Loop::check(&settings).expect_err("another key").to_string();
    assert!(error.contains("does not go with"), "{error}");
}

/// Five hundred that begin a handshake and go no further: each has its time, and nobody else waits for them.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn slow_handshakes_are_given_up_and_harm_nobody() {
    let certs = Certificates::new();
    let redis = Redis::start();
    let broker = serve(&redis.url(), &[&certs.listen("server", "")], &[]);
    let url = broker.listening()[1].clone();
    let config = certs.client("ca", None);
    let mut children = (broker.connect(), TlsRaw::connect(&url, &config));
    let mut half =
        rustls::ClientConnection::new(config.clone(), "localhost".try_into().expect("a name")).expect("one");
    let mut hello = Vec::new();
    half.write_tls(&mut hello).expect("a hello");
    let begun = Instant::now();
    let mut slow: Vec<TcpStream> = (0..500)
        .map(|_| {
            let mut stream = TcpStream::connect(url.trim_start_matches("tls://")).expect("connect");
            stream.write_all(&hello[..hello.len() / 2]).expect("half of it");
            stream
        })
        .collect();
    let mut served = 0;
    let mut is_open = |stream: &TcpStream| {
        stream.set_nonblocking(true).expect("an option");
        matches!((&*stream).read(&mut [0; 8]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    };
    while !slow.is_empty() {
        children.0.expect("INCR plain", &format!(":{}\r\n", served + 1));
        children.1.expect("INCR secure", &format!(":{}\r\n", served + 1));
        TlsRaw::connect(&url, &config).expect("PING", "+PONG\r\n");
        served += 1;
        slow.retain(&mut is_open);
        assert!(begun.elapsed() < Duration::from_secs(60), "{} are still there", slow.len());
    }
    assert!(begun.elapsed() >= Duration::from_secs(4), "each has its time");
    assert!(told(&broker, "not done within 5000 ms") <= 35, "lines are limited: {}", broker.log());
    assert!(told(&broker, "not done within 5000 ms") > 0);
}

/// A hello with anything changed, cut or put in between, and bytes of no meaning behind a handshake.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn whatever_comes_instead_of_tls_is_survived() {
    let certs = Certificates::new();
    let redis = Redis::start();
    let broker = serve(&redis.url(), &[&certs.listen("server", "")], &[]);
    let url = broker.listening()[1].clone();
    let config = certs.client("ca", None);
    let mut rng = seeded();
    let hello = || {
        let name = "localhost".try_into().expect("a name");
        let mut client = rustls::ClientConnection::new(config.clone(), name).expect("one");
        let mut hello = Vec::new();
        client.write_tls(&mut hello).expect("a hello");
        hello
    };
    for _ in 0..400 {
        let mut bytes = hello();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(0..bytes.len());
            match rng.u8(0..5) {
                0 => bytes[at] = rng.u8(..),
                1 => bytes[at] ^= 1 << rng.u8(0..8),
                2 => bytes.truncate(at.max(1)),
                3 => bytes.insert(at, rng.u8(..)),
                _ => bytes.extend(hello()),
            }
        }
        let mut stream = TcpStream::connect(url.trim_start_matches("tls://")).expect("connect");
        let cut = rng.usize(0..=bytes.len());
        // The broker may have heard enough.
        let _ = stream.write_all(&bytes[..cut]).and_then(|()| stream.write_all(&bytes[cut..]));
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    for _ in 0..100 {
        let child = TlsRaw::connect(&url, &config);
        let mut record = vec![rng.u8(20..25), 3, 3, 0, rng.u8(0..60)];
        record.extend((0..rng.usize(0..80)).map(|_| rng.u8(..)));
        child.socket().write_all(&record).expect("write");
        child.socket().shutdown(std::net::Shutdown::Write).expect("shut down");
        let _ = child.socket().read_to_end(&mut Vec::new());
    }
    wait_until("all have gone", || !broker.connect().ask("BROKER SHOW CHILDREN").contains("TLSv1"));
    TlsRaw::connect(&url, &config).expect("PING", "+PONG\r\n");
}

// ---- clients of the library ----------------------------------------------------------------------------------

/// Of a broker's listener that wants certificates, and of Redis itself.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn clients_of_the_library_speak_tls() {
    let certs = Certificates::new();
    let (redis, port) = redis_with_tls(&certs, "server", &["--tls-auth-clients", "yes"]);
    let listen = certs.listen("server", &format!("&client_ca={}", certs.text("ca.pem")));
    let broker = serve(&redis.url(), &[&listen], &[]);
    let files = ["ca.pem", "client.pem", "client.key"].map(|name| certs.text(name));
    for endpoint in [&broker.listening()[1], &format!("rediss://localhost:{port}")] {
        // Valgrind does not follow ring's vector instructions.
        for mode in [Mode::Plain, Mode::Sanitized] {
            let program = Native::build("tls.c", C99, mode, &[]);
            program.check(&[endpoint, &files[0], &files[1], &files[2]]);
        }
    }
}

/// More than there may be: those who dawdle give way to those who come, before their time is over.
#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn idle_guests_give_way_to_newcomers() {
    let certs = Certificates::new();
    let redis = Redis::start();
    let broker = serve(&redis.url(), &[&certs.listen("server", "")], &[]);
    let url = broker.listening()[1].clone();
    let connect = |_| TcpStream::connect(url.trim_start_matches("tls://")).expect("connect");
    let idle: Vec<TcpStream> = (0..HANDSHAKES_MAX + 20).map(connect).collect();
    let config = certs.client("ca", None);
    TlsRaw::connect(&url, &config).expect("PING", "+PONG\r\n");
    assert!(told(&broker, "too slow while others waited") > 0, "{}", broker.log());
    assert_eq!(told(&broker, "not done within"), 0, "it has not waited for the time of others");
    drop(idle);
}

// ---- users by certificate ------------------------------------------------------------------------------------

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_certificate_names_a_user_by_its_key_or_a_uri_and_never_by_its_subject() {
    let certs = Certificates::new();
    certs.signed("byuri", "ca", "DNS:x,URI:spiffe://tests/app", &["-days", "2"]);
    certs.signed("nearly", "ca", "URI:spiffe://tests/app2", &["-days", "2"]);
    let redis = Redis::start();
    let users = certs.path("users.toml");
    let spki = certs.spki_sha256("client");
    let text = format!(
        "[[user]]\nname = 'key'\ncertificate_spki_sha256 = '{spki}'\ncommands_deny = 'flushall'\n\
         [[user]]\nname = 'uri'\ncertificate_uri = ['spiffe://tests/app', 'spiffe://tests/none']\n\
         [[user]]\nname = 'nearly'\ncertificate_uri = 'spiffe://tests/nobody'\n\
         [[user]]\nname = 'p'\npassword_sha256 = '148de9c5a7a44d19e56cd9ae1a554bf67847afb0c58f6e12fa29ac7ddfca9940'\n"
    );
    fs::write(&users, text).expect("a file");
    let listen = certs.listen("server", &format!("&client_ca={}", certs.text("ca.pem")));
    let file = users.display().to_string();
    let broker = serve(&redis.url(), &[&listen], &[("auth", "users"), ("auth_file", &file)]);
    let url = &broker.listening()[1];
    let configs = ["client", "byuri", "nearly"].map(|name| certs.client("ca", Some(name)));
    // The second time the session is resumed, and the certificate is that of before.
    for round in 0..2 {
        let mut child = TlsRaw::connect(url, &configs[0]);
        child.expect("ACL WHOAMI", "$3\r\nkey\r\n");
        assert_eq!(child.is_resumed(), round == 1);
        assert!(child.line_of("FLUSHALL").expect("a reply").starts_with("-NOPERM"));
        child.expect("AUTH p p", "+OK\r\n");
        child.expect("ACL WHOAMI", "$1\r\np\r\n");
        child.expect("RESET", "+RESET\r\n");
        child.expect("ACL WHOAMI", "$3\r\nkey\r\n");
    }
    TlsRaw::connect(url, &configs[1]).expect("ACL WHOAMI", "$3\r\nuri\r\n");
    // Its subject is the name of a user, its URI is longer than another's.
    let mut child = TlsRaw::connect(url, &configs[2]);
    assert!(child.line_of("GET k").expect("a reply").starts_with("-NOAUTH"));
    child.expect("AUTH p p", "+OK\r\n");
    // No password makes anybody a user that has none.
    assert!(child.line_of("AUTH key x").expect("a reply").starts_with("-WRONGPASS"));
    broker.connect().expect("GET k", "-NOAUTH Authentication required.\r\n");
}

// ---- resumption and reload -----------------------------------------------------------------------------------

/// Runs the loop in this thread as long as `body` takes in another one.
fn run_beside<T: Send>(lp: &mut Loop, body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let other = scope.spawn(body);
        while !other.is_finished() {
            lp.wait_at_most(Some(5)).expect("a look");
            lp.work().expect("the work");
        }
        other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn sessions_of_children_are_resumed() {
    let certs = Certificates::new();
    let redis = Redis::start();
    let mut lp = Loop::new(settings(&redis, &[("listen", &certs.listen("server", ""))])).expect("the loop");
    let url = lp.listeners()[0].clone();
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let config = certs.client_speaking("ca", None, versions);
        let resumed = run_beside(&mut lp, || {
            [0, 1].map(|_| {
                let mut child = TlsRaw::connect(&url, &config);
                // Tickets of TLS 1.3 come behind the handshake.
                child.expect("PING", "+PONG\r\n");
                child.is_resumed()
            })
        });
        assert_eq!(resumed, [false, true]);
    }
}

#[test]
fn certificates_change_and_nobody_is_dropped() {
    let certs = Certificates::new();
    certs.signed("next", "ca", "DNS:localhost", &["-days", "2"]);
    let redis = Redis::start();
    let ca = certs.text("cas.pem");
    fs::copy(certs.path("ca.pem"), &ca).expect("a file");
    for end in ["pem", "key"] {
        fs::copy(certs.path(&format!("server.{end}")), certs.path(&format!("live.{end}"))).expect("a file");
    }
    let listen = certs.listen("live", &format!("&client_ca={ca}"));
    let own = settings(&redis, &[("listen", &listen)]);
    let mut lp = Loop::new(own.clone()).expect("the loop");
    let url = lp.listeners()[0].clone();
    let config = certs.client("ca", Some("client"));
    let connect = |config: &Arc<rustls::ClientConfig>| {
        let mut child = TlsRaw::connect(&url, config);
        child.expect("PING", "+PONG\r\n");
        child
    };
    let mut first = run_beside(&mut lp, || connect(&config));
    assert_eq!(first.shown(), der(&certs.path("server.pem")));
    // A key that is no key: refused, and all is as before.
    fs::write(certs.path("live.key"), "no key").expect("a file");
    let refused = lp.reload(own.clone()).expect_err("no key").to_string();
    assert!(refused.contains("live.key") && refused.contains("no private key"), "{refused}");
    let again = run_beside(&mut lp, || connect(&config));
    assert!(again.is_resumed());
    for end in ["pem", "key"] {
        fs::copy(certs.path(&format!("next.{end}")), certs.path(&format!("live.{end}"))).expect("a file");
    }
    lp.reload(own.clone()).expect("another certificate");
    let fresh = certs.client("ca", Some("client"));
    let second = run_beside(&mut lp, || connect(&fresh));
    assert_eq!(second.shown(), der(&certs.path("next.pem")));
    assert!(run_beside(&mut lp, || connect(&config)).is_resumed(), "the same CAs vouch for clients");
    run_beside(&mut lp, || first.expect("PING", "+PONG\r\n"));
    // Who vouches for clients is another now: no session of before opens the door.
    fs::copy(certs.path("other.pem"), &ca).expect("a file");
    lp.reload(own).expect("another CA");
    let refused = run_beside(&mut lp, || {
        TlsRaw::try_connect(&url, &config).and_then(|mut child| child.line_of("PING"))
    });
    assert!(refused.is_err(), "{refused:?}");
    run_beside(&mut lp, || first.expect("PING", "+PONG\r\n"));
    run_until(&mut lp, "the refused one is gone", |lp| lp.children_len() <= 4);
    lp.run(RunMode::NoWait).expect("a turn");
}

#[test]
#[cfg_attr(direct, ignore = "about the broker itself")]
fn a_key_that_everybody_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    let certs = Certificates::new();
    let redis = Redis::start();
    fs::set_permissions(certs.path("server.key"), fs::Permissions::from_mode(0o644)).expect("a mode");
    let broker = serve(&redis.url(), &[&certs.listen("server", "")], &[]);
    wait_until("the warning", || {
        told(&broker, "every user of this host can read this key, its mode is 0644") == 1
    });
}
