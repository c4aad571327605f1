//! What must hold besides the replies: writes are where they were said to be, nothing of a dead child is left
//! upstream, and the broker never holds more connections than it may.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::report::{Left, Tally};
use super::worker::DBS;
use crate::support::ledger::Fate;
use crate::support::redis::{UpstreamClient, list_clients};
use crate::support::{Raw, Redis, upstream_clients, wait_until};

/// Samples in a row that must agree before too many connections are believed: on a busy machine the proxy or Redis
/// may be slow to see the end of a connection that the broker closed before it opened the next. What the broker
/// itself holds is counted by the proxy at each new connection, without such allowance.
const SAMPLES: usize = 25;

/// What is still there after so long stays.
const REST: Duration = Duration::from_secs(2);

/// What was found wrong.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Writes said to be done that are not there.
    pub(crate) lost: Vec<String>,
    /// Writes that are there twice, or although they were refused, or in part, or elsewhere.
    pub(crate) doubled: Vec<String>,
    pub(crate) leaked: Vec<String>,
    pub(crate) other: Vec<String>,
    /// Writes compared.
    pub(crate) done: usize,
    pub(crate) open: usize,
}

// ---- the ledger ------------------------------------------------------------------------------------------

/// Where a value was found.
type Place = (usize, usize);

/// Compares what workers were told of their writes with what Redis holds.
pub(crate) fn check_ledger(redis: &Redis, tally: &Tally, verdict: &mut Verdict) {
    let held = read_lists(redis, verdict);
    let mut popped = HashSet::new();
    for element in tally.popped.iter().filter(|element| !popped.insert(*element)) {
        verdict.doubled.push(format!("{element:.80} was popped twice"));
    }
    for ((worker, sequence), told) in &tally.writes {
        let names: &[&str] = if told.parts == 2 { &["a", "b"] } else { &[""] };
        let found: Vec<Option<&Place>> =
            names.iter().map(|part| held.get(&(*worker, format!("{sequence}{part}")))).collect();
        let there = found.iter().flatten().count();
        let label = format!("worker {worker}, write {sequence} in db {}: {told:?}, found {found:?}", told.db);
        match told.fate {
            _ if told.apart => {}
            Fate::Done if there < names.len() => verdict.lost.push(label.clone()),
            Fate::Never if there > 0 => verdict.doubled.push(label.clone()),
            Fate::Maybe if there == 1 && names.len() == 2 => verdict.doubled.push(label.clone()),
            _ => {}
        }
        if found.iter().flatten().any(|(db, _)| *db != told.db) {
            verdict.other.push(format!("in another db: {label}"));
        }
        if let ([Some((_, first)), Some((_, second))], false) = (&found[..], told.apart)
            && first + 1 != *second
        {
            verdict.other.push(format!("a transaction was taken apart: {label}"));
        }
        verdict.done += usize::from(told.fate == Fate::Done);
        verdict.open += usize::from(told.fate == Fate::Maybe);
    }
}

fn read_lists(redis: &Redis, verdict: &mut Verdict) -> HashMap<(u32, String), Place> {
    let mut raw = redis.connect();
    let mut held = HashMap::new();
    for db in DBS {
        raw.expect(&format!("SELECT {db}"), "+OK\r\n");
        for list in texts(&raw.ask("KEYS l:*")) {
            let owner = list.strip_prefix("l:").and_then(|id| id.parse::<u32>().ok());
            for (index, value) in texts(&raw.ask(&format!("LRANGE {list} 0 -1"))).iter().enumerate() {
                let mut words = value.split('.');
                let worker = words.next().and_then(|id| id.parse::<u32>().ok());
                let (Some(worker), Some(write)) = (worker, words.next()) else {
                    verdict.other.push(format!("{value:.80} in {list}"));
                    continue;
                };
                if Some(worker) != owner {
                    verdict.other.push(format!("{value:.80} in {list}"));
                }
                if let Some(before) = held.insert((worker, write.to_owned()), (db, index)) {
                    verdict.doubled.push(format!("{value:.80}: at {before:?} and {:?}", (db, index)));
                }
            }
        }
    }
    held
}

/// The bulk strings of an array.
fn texts(reply: &str) -> Vec<String> {
    let found = super::wire::elements(reply.as_bytes()).unwrap_or_default();
    let text = |frame| Some(String::from_utf8_lossy(super::wire::bulk_text(frame)?).into_owned());
    found.into_iter().filter_map(text).collect()
}

// ---- what the dead leave ---------------------------------------------------------------------------------

/// After a quiet moment no connection upstream is in any state but that of its kind, nothing is subscribed,
/// and what is pushed to a list that a dead child waited for stays there.
pub(crate) fn check_traces(redis: &Redis, left: &[Left], verdict: &mut Verdict) {
    let mut raw = redis.connect();
    let mut waited = Vec::new();
    for Left { db, key } in left.iter().filter(|left| left.key != "none") {
        raw.expect(&format!("SELECT {db}"), "+OK\r\n");
        // Whoever still waits gets it, whoever still watches is marked.
        if raw.ask(&format!("RPUSH {key} stays")) == ":1\r\n" {
            waited.push((db, key));
        }
    }
    for db in DBS {
        raw.expect(&format!("SELECT {db}"), "+OK\r\n");
        for key in texts(&raw.ask("KEYS w:*")) {
            raw.ask(&format!("SET {key} touched"));
        }
    }
    for (db, key) in waited {
        raw.expect(&format!("SELECT {db}"), "+OK\r\n");
        if raw.ask(&format!("LLEN {key}")) != ":1\r\n" {
            verdict.leaked.push(format!("a dead child's command took the element of {key}"));
        }
    }
    // A connection may just be greeting Redis, an end of a subscription on its way.
    let deadline = Instant::now() + REST;
    loop {
        let found = traces(&mut raw);
        if found.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            return verdict.leaked.extend(found);
        }
        // Between two looks.
        thread::sleep(Duration::from_millis(10));
    }
}

/// Connections and channels that say something of a child.
fn traces(raw: &mut Raw) -> Vec<String> {
    let clients = list_clients(raw);
    let odd = clients.into_iter().filter(|client| !is_plain(client)).map(|client| client.line);
    let mut found: Vec<String> = odd.collect();
    for question in ["PUBSUB CHANNELS", "PUBSUB SHARDCHANNELS"] {
        let reply = raw.ask(question);
        if reply != "*0\r\n" {
            found.push(format!("{question}: {reply:.200}"));
        }
    }
    found
}

/// Whether nothing of any child is on a connection. The broker's own command may be under way.
fn is_plain(client: &UpstreamClient) -> bool {
    let none = |name: &str| client.field(name) == "0";
    ["broker-control", "broker-lane", "broker-lease", "broker-subscriber"].contains(&client.name())
        && is_idle(client)
        && client.field("multi") == "-1"
        && none("sub")
        && none("psub")
        && none("ssub")
        && client.field("user") == "default"
        && DBS.iter().any(|db| client.field("db") == db.to_string())
}

/// No flag but that of a connection over a unix socket: not blocked, not in MULTI, no watched key touched.
fn is_idle(client: &UpstreamClient) -> bool {
    ["N", "U"].contains(&client.field("flags"))
}

/// Waits until the broker has done what it owes to those who have gone.
pub(crate) fn wait_quiet(redis: &Redis, most: usize) {
    wait_until("the broker comes to rest", || {
        let clients = upstream_clients(redis);
        let leases = clients.iter().filter(|client| client.name() == "broker-lease").count();
        leases <= most && clients.iter().all(is_idle)
    });
}

// ---- caps ------------------------------------------------------------------------------------------------

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    pub(crate) connections: usize,
    /// Of these, waiting for an element.
    pub(crate) blocked: usize,
    /// Of these, subscribed.
    pub(crate) subscribed: usize,
}

/// Samples what Redis counts until told to stop; how often, and what exceeded the caps. `ghosts` are
/// connections that the broker has lost and Redis may still count.
pub(crate) fn watch_caps(
    redis: &Redis,
    ghosts: impl Fn() -> usize,
    caps: Caps,
    stop: &AtomicBool,
) -> (u64, Vec<String>) {
    let (mut samples, mut wrong, mut in_row) = (0, Vec::new(), 0);
    let mut raw = None;
    while !stop.load(Ordering::SeqCst) {
        // Between two samples.
        thread::sleep(Duration::from_millis(10));
        let before = ghosts();
        let Some(clients) = sample(redis, &mut raw) else { continue };
        let ghosts = before.max(ghosts());
        samples += 1;
        let blocked = clients.iter().filter(|client| client.field("flags").contains('b')).count();
        let subscribed = clients.iter().filter(|client| client.field("sub") != "0").count();
        let exceeded = clients.len() > caps.connections + ghosts
            || blocked > caps.blocked + ghosts
            || subscribed > caps.subscribed + ghosts;
        in_row = if exceeded { in_row + 1 } else { 0 };
        if in_row >= SAMPLES {
            let count = clients.len();
            let state = |client: &UpstreamClient| {
                ["name", "age", "idle", "flags", "cmd"].map(|field| client.field(field)).join(" ")
            };
            let list: Vec<String> = clients.iter().map(state).collect();
            wrong.push(format!(
                "{count} connections, {blocked} blocked, {subscribed} subscribed, {ghosts} cut: {caps:?}: {list:?}"
            ));
            in_row = 0;
        }
    }
    (samples, wrong)
}

/// The broker's connections as Redis sees them; none while Redis is away.
fn sample(redis: &Redis, raw: &mut Option<Raw>) -> Option<Vec<UpstreamClient>> {
    if raw.is_none() {
        let mut fresh = Raw::try_unix(&redis.socket()).ok()?;
        fresh.try_write(b"CLIENT SETNAME test-direct\r\n").ok()?;
        fresh.try_reply().ok()?;
        *raw = Some(fresh);
    }
    let there = raw.as_mut()?;
    let reply = there.try_write(b"CLIENT LIST\r\n").ok().and_then(|()| there.try_reply().ok());
    let Some(reply) = reply.filter(|reply| reply.starts_with(b"$")) else {
        *raw = None;
        return None;
    };
    let text = String::from_utf8_lossy(&reply).into_owned();
    let lines = text.lines().filter(|line| line.starts_with("id="));
    let clients = lines.map(|line| UpstreamClient { line: line.to_owned() });
    // The harness asks a Redis that it has started with PING, which the broker never begins with.
    let own = |client: &UpstreamClient| {
        client.name() == "test-direct" || client.name().is_empty() && client.field("cmd") == "ping"
    };
    Some(clients.filter(|client| !own(client)).collect())
}
