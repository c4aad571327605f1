//! What all rounds of a run come to, and the one line that says it.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::faults::OFFSETS;
use super::generator::Fault;
use super::round::{Mode, Outcome};

/// Replies to be checked for each fault of a kind that a target asks for.
const REPLIES_PER_FAULT: u64 = 10_000;
/// Described at most.
const DESCRIBED: usize = 8;

/// What a kind of rounds comes to.
#[derive(Debug, Default)]
struct Part {
    nonces: u64,
    plain: u64,
    faults: BTreeMap<&'static str, u64>,
    kills: u64,
    deaths: BTreeMap<String, u64>,
    foreign: u64,
    detected: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Totals {
    target: u64,
    seed: u64,
    /// Rounds in which nothing may cross.
    strict: Part,
    /// Rounds in which what crosses is counted.
    counted: Part,
    offsets: [HashSet<usize>; 2],
    lost: u64,
    doubled: u64,
    leaked: u64,
    other: u64,
    writes: [u64; 2],
    samples: u64,
    peak: usize,
    described: Vec<String>,
}

impl Part {
    fn add(&mut self, outcome: &Outcome) {
        let tally = &outcome.tally;
        self.nonces += tally.nonces;
        self.plain += tally.plain;
        self.kills += outcome.kills;
        self.foreign += tally.crossed.len() as u64;
        self.detected += outcome.detected;
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
        for (state, count) in &tally.deaths {
            *self.deaths.entry(state.clone()).or_default() += count;
        }
    }

    fn faults(&self) -> String {
        let list: Vec<String> = self.faults.iter().map(|(name, count)| format!("{name} {count}")).collect();
        list.join(" ")
    }

    /// Faults that leave a reply too many, for everyone to see; one too few leaves nothing.
    fn visible(&self) -> u64 {
        [Fault::Duplicate, Fault::Inject].iter().filter_map(|kind| self.faults.get(kind.name())).sum()
    }
}

impl Totals {
    pub(crate) fn new(target: u64, rng: &fastrand::Rng) -> Totals {
        Totals { target, seed: rng.get_seed(), ..Totals::default() }
    }

    pub(crate) fn add(&mut self, mode: Mode, outcome: &Outcome) {
        if mode.nothing_crosses() {
            self.strict.add(outcome);
            self.describe("crossed", &outcome.tally.crossed);
        } else {
            self.counted.add(outcome);
        }
        self.offsets[0].extend(outcome.seen.request_offsets.iter().filter(|at| **at < OFFSETS));
        self.offsets[1].extend(outcome.seen.reply_offsets.iter().filter(|at| **at < OFFSETS));
        let verdict = &outcome.verdict;
        self.lost += verdict.lost.len() as u64;
        self.doubled += verdict.doubled.len() as u64;
        self.leaked += verdict.leaked.len() as u64;
        self.other += verdict.other.len() as u64;
        self.describe("lost", &verdict.lost);
        self.describe("doubled", &verdict.doubled);
        self.describe("leaked", &verdict.leaked);
        self.describe("wrong", &verdict.other);
        self.writes[0] += verdict.done as u64;
        self.writes[1] += verdict.open as u64;
        self.samples += outcome.samples;
        self.peak = self.peak.max(outcome.seen.peak);
        let mut round = Part::default();
        round.add(outcome);
        eprintln!(
            "{mode:?}: {} replies with nonces, {} without, {} foreign, {} detected, {}, killed {}",
            round.nonces,
            round.plain,
            round.foreign,
            round.detected,
            round.faults(),
            round.kills
        );
    }

    fn describe(&mut self, what: &str, list: &[String]) {
        let room = DESCRIBED.saturating_sub(self.described.len());
        self.described.extend(list.iter().take(room).map(|text| format!("{what}: {text}")));
    }

    pub(crate) fn failed(&self) -> bool {
        self.strict.foreign + self.lost + self.doubled + self.leaked + self.other > 0 || self.is_blind()
    }

    /// Many faults that can be seen, and none was; or none did harm where nothing stands against it.
    fn is_blind(&self) -> bool {
        let counted = &self.counted;
        counted.visible() > 30 && (counted.detected == 0 || counted.foreign == 0)
    }

    /// Whether the target asked for has been reached, in rounds where nothing may cross.
    pub(crate) fn reached(&self) -> bool {
        let (least, done) = (self.target / REPLIES_PER_FAULT, &self.strict);
        let faults = done.faults.values().all(|count| *count >= least);
        done.nonces >= self.target && done.kills >= least && faults
    }

    pub(crate) fn why(&self) -> String {
        let blind =
            if self.is_blind() { "whole replies doubled and injected, and nobody noticed\n" } else { "" };
        format!("{blind}{}", self.described.join("\n"))
    }

    /// Prints the run in one last line.
    pub(crate) fn say(&self, time: Duration) {
        let (strict, counted) = (&self.strict, &self.counted);
        let deaths: Vec<String> =
            strict.deaths.iter().map(|(state, count)| format!("{state} {count}")).collect();
        let [requests, replies] = [self.offsets[0].len(), self.offsets[1].len()];
        eprintln!(
            "soak: {} s, {} checked replies ({} more without a nonce), faults: {} (offsets of requests \
             {requests}/{OFFSETS}, of replies {replies}/{OFFSETS}), killed children {} (of these {}), writes {} \
             done {} open, cap samples {} most {}, detected {}, crossed {}, lost OKs {}, doubled writes {}, \
             leaked leases {}, other {}; where replies are only counted: {} checked, {}, detected {}, crossed {}; \
             seed {}",
            time.as_secs(),
            strict.nonces,
            strict.plain,
            strict.faults(),
            strict.kills,
            deaths.join(" "),
            self.writes[0],
            self.writes[1],
            self.samples,
            self.peak,
            strict.detected,
            strict.foreign,
            self.lost,
            self.doubled,
            self.leaked,
            self.other,
            counted.nonces,
            counted.faults(),
            counted.detected,
            counted.foreign,
            self.seed
        );
    }
}
