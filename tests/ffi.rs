//! The C interface as C programs use and misuse it: each program of tests/ffi in a process of its own.
//! `BROKER_TEST_ALL_MODES=1` runs all of them plainly, under valgrind and with sanitizers.

use crate::support::native::{C99, Mode, Native, check};

/// `BROKER_TEST_SEED` replays a random run; the program prints its seed.
fn seed() -> String {
    std::env::var("BROKER_TEST_SEED").unwrap_or_default()
}

/// One test per program, with the modes it runs in by default.
macro_rules! programs {
    ($($name:ident: $source:literal $args:expr, $modes:expr;)+) => {
        $(
            #[test]
            fn $name() {
                use Mode::{Plain, Sanitized, Valgrind};
                let _ = (Plain, Sanitized, Valgrind);
                check($source, C99, &$modes, &[], &$args);
            }
        )+
    };
}

programs! {
    null_is_refused_by_every_function: "every_function.c" ["null"], [Valgrind, Sanitized];
    a_closed_handle_is_noticed_by_every_function: "every_function.c" ["closed"], [Valgrind, Sanitized];
    callbacks_may_do_what_the_header_says: "every_function.c" ["callback"], [Valgrind, Sanitized];
    a_forked_copy_is_noticed_by_every_function: "every_function.c" ["forked"], [Plain, Sanitized];
    a_second_thread_is_noticed_by_every_function: "every_function.c" ["threads"], [Valgrind, Sanitized];
    no_function_acts_on_a_cancellation: "every_function.c" ["cancel"], [Plain, Valgrind];
    requests_have_one_outcome_under_faults: "faults.c" [], [Plain, Sanitized];
    names_that_move_and_look_ups_that_hang: "names.c" [], [Plain, Valgrind];
    replies_freed_once_too_often: "replies.c" [], [Plain, Valgrind];
    errors_of_the_broker_are_codes: "errors.c" [], [Plain, Sanitized];
    endpoints_of_every_kind: "endpoints.c" [], [Plain, Valgrind];
    transactions_and_sessions: "transactions.c" [], [Plain, Valgrind];
    subscriptions: "pubsub.c" [], [Plain, Sanitized];
    ten_thousand_requests_in_flight: "volume.c" [], [Plain];
    the_broker_embedded: "embed.c" [], [Plain, Sanitized];
    forks_in_last_callbacks: "fork_last.c" [], [Plain, Sanitized];
    clients_of_a_loop: "own_client.c" [], [Valgrind, Sanitized];
    what_other_threads_post: "posts.c" [], [Plain, Sanitized];
    a_step_ends: "steps.c" [], [Plain, Sanitized];
    a_client_forked_in_every_state: "fork_client.c" [], [Plain, Sanitized];
    sockets_handed_to_a_client: "descriptors.c" [], [Plain, Sanitized];
    arguments_at_their_edges: "arguments.c" [], [Valgrind, Sanitized];
    everything_at_once_by_chance: "chaos.c" [seed().as_str()], [Plain, Sanitized];
    a_loop_forked_in_every_state: "fork_loop.c" [], [Plain, Sanitized];
    forks_from_a_second_thread: "fork_threads.c" [], [Plain];
    workers_of_a_program_with_the_library: "fork_workers.c" [], [Plain, Sanitized];
    handles_that_follow_a_fork: "fork_follow.c" [], [Plain, Sanitized];
    threads_that_are_cancelled: "cancel.c" [], [Plain, Valgrind];
}

/// Only a build with the test-only feature can provoke a panic.
#[cfg(feature = "sabotage")]
#[test]
fn a_caught_panic_poisons_the_handle() {
    check("every_function.c", C99, &[Mode::Valgrind, Mode::Sanitized], &[], &["panic"]);
}

/// No function is forgotten by the programs that call every one.
#[test]
fn every_function_of_the_header_is_called() {
    let header = include_str!("../include/broker.h");
    let code: Vec<&str> = header.lines().filter(|line| !line.starts_with([' ', '/', '*'])).collect();
    let named = code.iter().filter(|line| line.contains('(') && !line.starts_with(['#', 't']));
    let mut named: Vec<&str> = named
        .filter_map(|line| line.split('(').next()?.split([' ', '*']).next_back())
        .filter(|name| name.starts_with("broker_"))
        .collect();
    let list = Native::build("every_function.c", C99, Mode::Plain, &[]).check(&["list"]);
    let mut called: Vec<&str> = list.lines().collect();
    named.sort_unstable();
    called.sort_unstable();
    assert!(named.len() > 50, "the header is read rightly: {named:?}");
    assert_eq!(named, called);
}
