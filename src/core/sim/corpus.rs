//! Feeds the targets of `fuzz`: every input of `tests/corpus`, then mutations of these for a while. An input
//! that makes a target panic is written beside the others, and fails every run from then on.

use super::fuzz::{TARGETS, Target};
use super::packed;
use super::run::variable;
use super::schedules::report;
use crate::base::clock::Clock;
use crate::resp::tests::words;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// Mutations of each target in a default run.
const DEFAULT: u64 = 400;
const INPUT_MAX: usize = 4096;

/// Requests that random bytes would take long to find, one a line.
const REQUESTS: &str =
    "MULTI\nEXEC\nDISCARD\nWATCH k\nBLPOP x 0\nRESET\nSELECT 3\nHELLO 3\nQUIT\nSUBSCRIBE c\nUNSUBSCRIBE";

fn directory(target: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus")).join(target)
}

fn committed(target: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(directory(target)).expect("a corpus");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("an input")).collect()
}

#[derive(Default)]
struct Done {
    inputs: u64,
    crashes: Vec<PathBuf>,
}

impl Done {
    fn feed(&mut self, target: Target, input: &[u8], replayed: bool) {
        self.inputs += 1;
        if catch_unwind(AssertUnwindSafe(|| target.1(input))).is_ok() {
            return;
        }
        let mut hasher = DefaultHasher::new();
        input.hash(&mut hasher);
        let path = directory(target.0).join(format!("crash-{:016x}", hasher.finish()));
        if !replayed {
            std::fs::write(&path, input).expect("the input can be written");
        }
        eprintln!("fuzz: {} panics at {}", target.0, path.display());
        self.crashes.push(path);
    }
}

/// `BROKER_TEST_SECONDS=n` goes on for that long, `BROKER_TEST_SEED=s` says with which mutations.
#[test]
fn any_bytes_are_survived() {
    let clock = Clock::new();
    let (seconds, seed) = (variable("BROKER_TEST_SECONDS"), variable("BROKER_TEST_SEED"));
    let seed = seed.unwrap_or_else(|| if seconds.is_some() { fastrand::u64(..1 << 40) } else { 0 });
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut done = Done::default();
    let mut corpora: Vec<Corpus> = TARGETS.iter().map(|(name, _)| Corpus::new(committed(name))).collect();
    for (target, corpus) in TARGETS.into_iter().zip(&corpora) {
        assert!(!corpus.inputs.is_empty(), "no corpus for {}", target.0);
        corpus.inputs.iter().for_each(|input| done.feed(target, input, true));
    }
    let mut rounds = 0;
    while seconds.map_or(rounds < DEFAULT, |seconds| clock.now() < seconds * 1000) && done.crashes.len() < 10
    {
        rounds += 1;
        for (target, corpus) in TARGETS.into_iter().zip(&mut corpora) {
            let input = corpus.mutation(&mut rng);
            done.feed(target, &input, false);
            corpus.keep(input);
        }
    }
    let (inputs, millis, crashes) = (done.inputs, clock.now(), done.crashes.len());
    let targets = TARGETS.map(|(name, _)| name).join(", ");
    report(format!(
        "fuzz: {inputs} inputs from seed {seed} in {millis} ms, targets: {targets}; new crashes {crashes}"
    ));
    assert!(done.crashes.is_empty(), "inputs that panic: {:?}", done.crashes);
}

/// The inputs of one target, and those found on the way that look unlike all before.
struct Corpus {
    inputs: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
    shapes: HashSet<u64>,
}

impl Corpus {
    fn new(inputs: Vec<Vec<u8>>) -> Corpus {
        let shapes = inputs.iter().map(|input| shape(input)).collect();
        let words = words().into_iter().chain(REQUESTS.lines().map(packed)).collect();
        Corpus { inputs, words, shapes }
    }

    fn pick(&self, rng: &mut fastrand::Rng) -> &[u8] {
        &self.inputs[rng.usize(..self.inputs.len())]
    }

    fn mutation(&self, rng: &mut fastrand::Rng) -> Vec<u8> {
        let mut input = self.pick(rng).to_vec();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(..=input.len());
            let end = (at + rng.usize(..16)).min(input.len());
            match rng.u8(..7) {
                0 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
                1 if at < input.len() => input[at] = rng.u8(..),
                2 => drop(input.drain(at..end)),
                3 => {
                    let piece = input[at..end].to_vec();
                    input.splice(at..at, piece);
                }
                4 => {
                    let other = self.pick(rng);
                    let from = rng.usize(..=other.len());
                    input.truncate(at);
                    input.extend_from_slice(&other[from..]);
                }
                _ => drop(input.splice(at..at, self.words[rng.usize(..self.words.len())].clone())),
            }
        }
        input.truncate(INPUT_MAX);
        input
    }

    fn keep(&mut self, input: Vec<u8>) {
        if self.inputs.len() < 4096 && self.shapes.insert(shape(&input)) {
            self.inputs.push(input);
        }
    }
}

/// Inputs of the same shape differ only in what letters and digits stand where.
fn shape(input: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    let class = |byte: &u8| match byte {
        b'0'..=b'9' => b'0',
        byte if byte.is_ascii_alphabetic() => b'a',
        0x80.. => 0x80,
        byte => *byte,
    };
    let mut classes: Vec<u8> = input.iter().map(class).collect();
    classes.dedup();
    classes.hash(&mut hasher);
    hasher.finish()
}
