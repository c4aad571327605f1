//! The settings of runs: small bounds and short times, so that each is met, and whatever may be done in more than one
//! way. A row says from what each of the three draws; nothing to draw from is the default.

use super::Speaker;

/// Through a socket that holds one byte a greeting takes some 100 rounds of the simulation, each a millisecond once there
/// have been many: were less time allowed, lanes would be dialled for ever.
const CONNECT_TIMEOUT_MIN: &str = "150";

struct Row {
    key: &'static str,
    simulation: &'static [&'static str],
    soak: &'static [&'static str],
    twin: &'static [&'static str],
}

const fn row(
    key: &'static str,
    simulation: &'static [&'static str],
    soak: &'static [&'static str],
    twin: &'static [&'static str],
) -> Row {
    Row { key, simulation, soak, twin }
}

/// The simulation's seeds stay what they are as long as its own column does, and the order. With the soak, `integrity` is
/// what a round is about; the twin has so many warm leases that no short timeout is over before there is a lane.
const ROWS: &[Row] = &[
    row("memory_max", &["1GiB", "1GiB", "1GiB", "1MiB"], &[], &[]),
    row("idle_child_timeout", &["0", "0", "0", "900"], &[], &[]),
    row("idle_transaction_timeout", &["0", "0", "3000", "400"], &[], &[]),
    row("child_output_max", &["1MiB", "64KiB"], &[], &[]),
    row("lanes", &["1", "1", "2", "3"], &["1", "1", "2", "3"], &[]),
    row("leases_blocking_max", &["1", "2", "3", "64", "0"], &["1", "2", "4", "6"], &[]),
    row("leases_transaction_max", &["1", "2", "64"], &["1", "2", "4", "6"], &[]),
    row("leases_session_max", &["1", "2", "64"], &["1", "2", "4", "6"], &[]),
    row("leases_warm", &["0", "1", "2"], &["0", "1", "2"], &["4"]),
    row("upstream_connections_max", &["8", "9", "12", "64"], &["8", "9", "10", "12", "16", "24"], &[]),
    row("lease_wait_timeout", &["0", "200", "1500"], &["50", "400", "2000"], &[]),
    row("connect_timeout", &[CONNECT_TIMEOUT_MIN, "300"], &["200", "1000"], &[]),
    row("reconnect_backoff_max", &["10", "200"], &["10", "30"], &[]),
    row("queue_timeout", &["0", "50", "400"], &["50", "100", "300", "1000"], &[]),
    row("request_timeout", &["0", "0", "100", "700"], &["0", "0", "100", "400"], &[]),
    row("lane_stall_timeout", &["0", "200", "2000"], &["300", "1500"], &[]),
    row("upstream_idle_timeout", &["0", "300", "2000"], &["100", "1000"], &[]),
    row("upstream_lifetime", &["0", "0", "150"], &["0", "0", "300"], &[]),
    row("child_in_flight_max", &["1", "3", "64"], &["1", "3", "7", "64", "1024"], &[]),
    row(
        "transactions",
        &["shared", "shared", "leased"],
        &["shared", "shared", "shared", "leased"],
        &["shared", "shared", "shared", "leased"],
    ),
    row("integrity", &["off", "sampled", "always"], &[], &["off", "off", "off", "always"]),
    row("integrity_sample", &["1", "4"], &[], &[]),
    row(
        "pubsub",
        &["shared", "shared", "leased"],
        &["shared", "shared", "leased"],
        &["shared", "shared", "shared", "leased"],
    ),
    row("on_upstream_loss", &["error", "error", "close"], &["error"], &[]),
    row("upstream_role", &["auto", "auto", "any", "master"], &["auto", "master"], &[]),
    row("failover_grace", &["0", "50", "1000"], &[], &[]),
    row("transaction_max", &["64MiB", "1KiB"], &[], &[]),
    row("drain_timeout", &["0", "100", "500"], &[], &[]),
    row("leases_per_group_max", &["1", "2", "4"], &["1", "2", "4"], &[]),
];

/// Settings by their keys.
pub(crate) type Settings = Vec<(&'static str, &'static str)>;

/// Those of one run.
pub(crate) fn settings(rng: &mut fastrand::Rng, speaker: Speaker) -> Settings {
    let mut settings = Settings::new();
    for row in ROWS {
        let choices = match speaker {
            Speaker::Simulation => row.simulation,
            Speaker::Soak => row.soak,
            Speaker::Twin => row.twin,
        };
        if let Some(choice) = rng.choice(choices) {
            settings.push((row.key, choice));
        }
    }
    settings
}

/// What a setting of a run is.
pub(crate) fn value_of(settings: &Settings, key: &str) -> &'static str {
    let found = settings.iter().find(|(name, _)| *name == key);
    found.unwrap_or_else(|| panic!("no {key} was drawn")).1
}
