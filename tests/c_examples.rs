//! The examples in c-examples/, built with warnings denied, each run and its output checked: through the broker,
//! and straight against Redis where the program does not care.

use crate::support::examples::{Examples, counts, source};
use crate::support::{Broker, Redis};

/// Runs a check through a broker, and again on Redis' own socket.
fn with_and_without_a_broker(check: impl Fn(&Examples, &std::path::Path)) {
    let examples = Examples::of_this_build();
    let redis = Redis::start();
    let broker = Broker::start(&redis, &[]);
    check(examples, broker.socket());
    check(examples, &redis.socket());
}

#[test]
fn sync_shows_replies_and_errors() {
    with_and_without_a_broker(Examples::check_sync);
}

#[test]
fn async_epoll_gets_its_replies_in_order() {
    with_and_without_a_broker(Examples::check_async_epoll);
}

#[test]
fn libuv_has_ten_thousand_requests_in_flight() {
    with_and_without_a_broker(Examples::check_libuv);
}

#[test]
fn glib_counts_beside_a_timeout() {
    with_and_without_a_broker(Examples::check_glib);
}

#[test]
fn sd_event_gets_messages_beside_a_timer() {
    with_and_without_a_broker(Examples::check_sd_event);
}

#[test]
fn asio_counts_in_a_parent_and_a_worker() {
    with_and_without_a_broker(Examples::check_asio);
}

#[test]
fn pubsub_gets_every_message() {
    with_and_without_a_broker(Examples::check_pubsub);
}

#[test]
fn transactions_are_atomic_or_optimistic() {
    with_and_without_a_broker(Examples::check_transaction);
}

#[test]
fn the_cpp_client_gets_its_replies_as_types() {
    with_and_without_a_broker(Examples::check_client);
}

#[test]
fn embed_epoll_serves_web_clients_and_children() {
    Examples::of_this_build().check_embed_epoll(&Redis::start());
}

#[test]
fn prefork_loses_no_reply_though_workers_are_killed() {
    let restarts = Examples::of_this_build().check_prefork(&Redis::start(), 40_000, 100);
    assert!(restarts > 0, "nobody was killed");
}

#[test]
fn prefork_replaces_workers_faster_than_they_get_far() {
    let restarts = Examples::of_this_build().check_prefork(&Redis::start(), 20_000, 25);
    assert!(restarts > 2, "only {restarts} were killed");
}

#[test]
fn the_hiredis_example_gets_its_own_replies() {
    with_and_without_a_broker(|examples, socket| {
        assert_eq!(examples.check_child("hiredis_child", socket), 1);
    });
}

#[test]
fn the_libbroker_example_gets_its_own_replies() {
    with_and_without_a_broker(|examples, socket| {
        examples.check_child("libbroker_child", socket);
    });
}

#[test]
fn the_libbroker_example_opens_as_many_connections_as_it_says() {
    let redis = Redis::start();
    let mut eyes = redis.connect();
    let mut received = || -> u64 {
        let stats = eyes.ask("INFO stats");
        let count = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        count.and_then(|count| count.trim().parse().ok()).expect("a count")
    };
    let before = received();
    let opened = Examples::of_this_build().check_child("libbroker_child", &redis.socket());
    assert_eq!(received() - before, opened);
}

/// Both notice that a reply is not the one their request had to get.
#[test]
fn a_wrong_reply_is_noticed() {
    let examples = Examples::of_this_build();
    let redis = Redis::start_with(&["--rename-command", "INCR", ""]);
    let broker = Broker::start(&redis, &[]);
    let socket = broker.socket().display().to_string();
    for name in ["hiredis_child", "libbroker_child"] {
        let output = examples.run(name, &[&socket, "0", "7"]);
        let text = String::from_utf8_lossy(&output.stdout);
        let [checked, mismatches] = counts(&text, ["checked", "mismatches"]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(0 < mismatches && mismatches < checked, "{name}: {mismatches} of {checked}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("unknown command"), "{name}");
    }
}

#[test]
fn the_readme_lists_every_example() {
    let readme = source().with_file_name("README.md");
    let readme = std::fs::read_to_string(readme).expect("the README");
    for entry in source().read_dir().expect("the sources").flatten() {
        let name = entry.file_name().into_string().expect("plain text");
        let listed = readme.contains(&format!("| [{name}](c-examples/{name}) |"));
        let is_program = name.ends_with(".c") || name.ends_with(".cpp");
        assert_eq!(listed, is_program, "{name}");
    }
}

#[test]
fn prefork_notices_wrong_replies() {
    let redis = Redis::start_with(&["--rename-command", "GET", ""]);
    // Nobody is killed: whoever follows a worker begins with a SET, and so asks for fewer GETs.
    let output = Examples::of_this_build().run("prefork", &[&redis.url(), "800", "3600000"]);
    let [requests, mismatches] = counts(&String::from_utf8_lossy(&output.stdout), ["requests", "mismatches"]);
    assert_eq!((output.status.code(), requests, mismatches), (Some(1), 800, 400));
}

#[test]
fn prefork_notices_more_connections_than_its_cap() {
    let redis = Redis::start();
    let foreign: Vec<_> = (0..8).map(|_| redis.connect()).collect();
    let output = Examples::of_this_build().run("prefork", &[&redis.url(), "800"]);
    let [mismatches, connections] =
        counts(&String::from_utf8_lossy(&output.stdout), ["mismatches", "connections"]);
    assert_eq!((output.status.code(), mismatches), (Some(1), 0));
    assert!(connections > foreign.len() as u64, "{connections}");
}
