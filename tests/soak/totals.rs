//! What all rounds of a run come to, and the one line that says it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::faults::{Kind, OFFSETS};
use super::round::{Mode, Outcome};

/// Replies to be checked for each fault of a kind that a target asks for.
const REPLIES_PER_FAULT: u64 = 10_000;
/// Described at most.
const DESCRIBED: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Totals {
    target: u64,
    seed: u64,
    nonces: u64,
    plain: u64,
    faults: BTreeMap<&'static str, u64>,
    kills: u64,
    deaths: BTreeMap<String, u64>,
    offsets: [std::collections::HashSet<usize>; 2],
    crossed: u64,
    /// Foreign replies where they are only counted.
    tolerated: u64,
    /// Lanes closed because of what came over them; where replies are only counted, and for how many faults.
    detected: u64,
    detected_of: (u64, u64),
    lost: u64,
    doubled: u64,
    leaked: u64,
    other: u64,
    writes: [u64; 2],
    samples: u64,
    peak: usize,
    described: Vec<String>,
}

impl Totals {
    pub(crate) fn new(target: u64, rng: &fastrand::Rng) -> Totals {
        Totals { target, seed: rng.get_seed(), ..Totals::default() }
    }

    pub(crate) fn add(&mut self, mode: Mode, outcome: &Outcome) {
        let tally = &outcome.tally;
        self.nonces += tally.nonces;
        self.plain += tally.plain;
        let counted = [
            ("redis-kill", outcome.redis_kills),
            ("redis-pause", outcome.redis_pauses),
            ("child-stop", outcome.stops),
            ("child-stall", tally.stalls),
            ("child-timeout", tally.timeouts),
        ];
        for (name, count) in counted {
            *self.faults.entry(name).or_default() += count;
        }
        for kind in &outcome.seen.faults {
            *self.faults.entry(kind.name()).or_default() += 1;
        }
        self.kills += outcome.kills;
        for (state, count) in &tally.deaths {
            *self.deaths.entry(state.clone()).or_default() += count;
        }
        self.offsets[0].extend(outcome.seen.request_offsets.iter().filter(|at| **at < OFFSETS));
        self.offsets[1].extend(outcome.seen.reply_offsets.iter().filter(|at| **at < OFFSETS));
        let foreign = tally.crossed.len() as u64;
        let verdict = &outcome.verdict;
        if mode.nothing_crosses() {
            self.crossed += foreign;
            self.describe("crossed", &tally.crossed);
        } else {
            self.tolerated += foreign;
            // A reply too many is there for everyone to see; one too few leaves nothing.
            let visible = |kind: &&Kind| [Kind::Duplicate, Kind::Inject].contains(kind);
            self.detected_of.0 += outcome.detected;
            self.detected_of.1 += outcome.seen.faults.iter().filter(visible).count() as u64;
        }
        self.detected += outcome.detected;
        self.lost += verdict.lost.len() as u64;
        self.doubled += verdict.doubled.len() as u64;
        self.describe("lost", &verdict.lost);
        self.describe("doubled", &verdict.doubled);
        self.leaked += verdict.leaked.len() as u64;
        self.other += verdict.other.len() as u64;
        self.describe("leaked", &verdict.leaked);
        self.describe("wrong", &verdict.other);
        self.writes[0] += verdict.done as u64;
        self.writes[1] += verdict.open as u64;
        self.samples += outcome.samples;
        self.peak = self.peak.max(outcome.seen.peak);
        eprintln!(
            "{mode:?}: {} replies with nonces, {} without, {foreign} foreign, {} detected, {} lost, {} doubled, {} killed",
            tally.nonces,
            tally.plain,
            outcome.detected,
            verdict.lost.len(),
            verdict.doubled.len(),
            outcome.kills
        );
    }

    fn describe(&mut self, what: &str, list: &[String]) {
        let room = DESCRIBED.saturating_sub(self.described.len());
        self.described.extend(list.iter().take(room).map(|text| format!("{what}: {text}")));
    }

    pub(crate) fn failed(&self) -> bool {
        self.crossed + self.lost + self.doubled + self.leaked + self.other > 0 || self.is_blind()
    }

    /// Many faults that can be seen, and none was.
    fn is_blind(&self) -> bool {
        self.detected_of.0 == 0 && self.detected_of.1 > 30
    }

    /// Whether the target asked for has been reached.
    pub(crate) fn reached(&self) -> bool {
        let least = self.target / REPLIES_PER_FAULT;
        let faults = self.faults.values().all(|count| *count >= least);
        self.nonces >= self.target && self.kills >= least && faults
    }

    pub(crate) fn why(&self) -> String {
        self.described.join("\n")
    }

    /// Prints the run in one last line.
    pub(crate) fn say(&self, time: Duration) {
        let list = |counts: &mut dyn Iterator<Item = (String, u64)>| {
            counts.map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(" ")
        };
        let faults = list(&mut self.faults.iter().map(|(name, count)| ((*name).to_owned(), *count)));
        let deaths = list(&mut self.deaths.iter().map(|(name, count)| (name.clone(), *count)));
        eprintln!(
            "soak: {} s, {} checked replies ({} more without a nonce), faults: {faults} (request offsets \
             {}/{OFFSETS}, reply offsets {}/{OFFSETS}), killed children {} (of these {deaths}), writes {} done {} \
             open, cap samples {} most {}, detected {}, tolerated {}, crossed {}, lost OKs {}, doubled writes {}, \
             leaked leases {}, other {}, seed {}",
            time.as_secs(),
            self.nonces,
            self.plain,
            self.offsets[0].len(),
            self.offsets[1].len(),
            self.kills,
            self.writes[0],
            self.writes[1],
            self.samples,
            self.peak,
            self.detected,
            self.tolerated,
            self.crossed,
            self.lost,
            self.doubled,
            self.leaked,
            self.other,
            self.seed
        );
    }
}
