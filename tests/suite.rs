//! The integration tests in one program: each subject is a module, named as its file. `cargo test --test suite NAME`
//! runs those whose path contains NAME. One program, because every other links the whole crate once more, and because
//! tests that wait then run beside those that work.
//!
//! Not here: what is also run for long in a build of its own (`twin`, `soak`), and what only reads the tree (`tree`).

mod support;

// Redis as children see it.
mod blocking;
mod client_reply;
mod command_table;
mod commands;
mod modules;
mod protocol;
mod protocol_scanner;
mod pubsub;
mod pubsub_counts;
mod pubsub_shared;
mod redis_benchmark;
mod redis_cli;
mod redis_plus_plus;
mod scripts_denied;
mod tracking;
mod transactions;
mod transactions_denied;
mod wait;

// Children, lanes, leases and users.
mod adversary;
mod auth;
mod auth_changes;
mod auth_guesses;
mod auth_users;
mod bounds;
mod busy;
mod console;
mod failure;
mod fan_in;
mod health;
mod kill;
mod lanes;
mod leaks;
mod memory;
mod memory_share;
mod monitor;
mod name_lookups;
mod pace;
mod pause;
mod policy;
mod reasons;
mod rights;
mod roles;
mod roster;
mod sentinel;
mod status_page;
mod tls;
mod upgrade;
mod upkeep;
mod upstream_loss;

// The program.
mod ctl;
#[cfg(feature = "demo")]
mod demo;
mod host;
mod inherit;
mod lifecycle;
mod log;
mod reload;
mod service;
mod service_store;
mod shutdown;
mod steer;
mod steering;
mod top;

// The library.
mod c_examples;
mod costs;
mod cxx;
mod embed;
mod embed_process;
mod ffi;
mod reactor;

// What is published: the ABI, what is installed, packages, units, images, the programs of the pages.
mod abi;
mod container;
mod install;
mod install_examples;
mod packages;
mod packages_service;
mod snippets;
mod units;

/// By its name it runs before all others: it takes one processor for a minute, and what is installed and packed waits
/// for it.
#[test]
fn a_first_thing_is_the_library_of_make() {
    support::made_library();
}

/// The same for the examples.
#[test]
fn a_first_thing_are_the_examples() {
    support::examples::Examples::of_this_build();
}
