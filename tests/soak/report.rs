//! What a worker process tells the run, line by line over its standard output, and what the run adds up.
//! A line counts only when its end has arrived: a worker may be killed in the middle of one.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};

use crate::support::ledger::Fate;

/// Every line of a report begins so; whatever else is printed is not ours.
const MARK: char = '@';

/// What became of a write of one or two elements to the worker's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) db: usize,
    /// 1, or 2 that belong together.
    pub(crate) parts: usize,
    pub(crate) fate: Fate,
    /// Its MULTI was refused: each part stands for itself.
    pub(crate) apart: bool,
}

/// The worker's side: lines are collected and written at the end of each step.
#[derive(Debug, Default)]
pub(crate) struct Report {
    lines: String,
    /// Replies checked that held the nonce of their request.
    pub(crate) nonces: u64,
    /// Replies checked that can hold none, such as `+OK`.
    pub(crate) plain: u64,
    pub(crate) stalls: u64,
    pub(crate) timeouts: u64,
}

impl Report {
    pub(crate) fn told(&mut self, sequence: u64, told: Told) {
        let fate = match told.fate {
            Fate::Done => 'D',
            Fate::Maybe => 'M',
            Fate::Never => 'N',
        };
        let Told { db, parts, apart, .. } = told;
        self.line(&format!("w {sequence} {db} {parts} {fate} {}", u8::from(apart)));
    }

    /// An element of a list that all workers pop.
    pub(crate) fn popped(&mut self, element: &str) {
        self.line(&format!("p {element}"));
    }

    /// The worker is about to kill itself in this state; `key` is what it leaves behind.
    pub(crate) fn dying(&mut self, state: &str, db: usize, key: &str) {
        self.line(&format!("k {state} {db} {key}"));
        self.flush();
    }

    pub(crate) fn crossed(&mut self, what: &str) {
        self.line(&format!("X {what}"));
        self.flush();
    }

    fn line(&mut self, text: &str) {
        self.lines.push(MARK);
        self.lines.push_str(text);
        self.lines.push('\n');
    }

    pub(crate) fn flush(&mut self) {
        let counted = [self.nonces, self.plain, self.stalls, self.timeouts];
        if counted.iter().any(|count| *count > 0) {
            let [nonces, plain, stalls, timeouts] = counted;
            self.line(&format!("c {nonces} {plain} {stalls} {timeouts}"));
            (self.nonces, self.plain, self.stalls, self.timeouts) = (0, 0, 0, 0);
        }
        let mut output = std::io::stdout().lock();
        // The run has gone when nobody takes it; the next turn sees that at standard input.
        let _ = output.write_all(self.lines.as_bytes()).and_then(|()| output.flush());
        self.lines.clear();
    }
}

/// What a killed worker left at the broker.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    pub(crate) db: usize,
    pub(crate) key: String,
}

/// Everything the workers of a round have told.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) nonces: u64,
    pub(crate) plain: u64,
    pub(crate) stalls: u64,
    pub(crate) timeouts: u64,
    /// By worker and sequence number.
    pub(crate) writes: HashMap<(u32, u64), Told>,
    /// Workers that killed themselves, by state.
    pub(crate) deaths: BTreeMap<String, u64>,
    /// Keys that dead workers waited on or watched.
    pub(crate) left: Vec<Left>,
    /// Elements of the lists that all workers pop.
    pub(crate) popped: Vec<String>,
    /// Foreign or impossible replies, described.
    pub(crate) crossed: Vec<String>,
}

impl Tally {
    /// Takes a line of a worker's output. None: it is not one of a report.
    fn take(&mut self, worker: u32, line: &str) -> Option<()> {
        let line = line.strip_prefix(MARK)?;
        let mut words = line.split(' ');
        match words.next()? {
            "c" => {
                let mut next = || words.next()?.parse::<u64>().ok();
                self.nonces += next()?;
                self.plain += next()?;
                self.stalls += next()?;
                self.timeouts += next()?;
            }
            "w" => {
                let sequence = words.next()?.parse().ok()?;
                let (db, parts) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                let fate = match words.next()? {
                    "D" => Fate::Done,
                    "M" => Fate::Maybe,
                    _ => Fate::Never,
                };
                let apart = words.next()? == "1";
                self.writes.insert((worker, sequence), Told { db, parts, fate, apart });
            }
            "k" => {
                *self.deaths.entry(words.next()?.to_owned()).or_default() += 1;
                let (db, key) = (words.next()?.parse().ok()?, words.next()?.to_owned());
                self.left.push(Left { db, key });
            }
            "p" => self.popped.push(words.next()?.to_owned()),
            "X" => self.crossed.push(format!("worker {worker}: {}", line.get(2..)?)),
            _ => return None,
        }
        Some(())
    }
}

/// Reads a worker's report to its end.
pub(crate) fn read_report(worker: u32, output: impl Read, mut tally: impl FnMut(&dyn Fn(&mut Tally))) {
    let mut output = BufReader::new(output);
    let mut line = String::new();
    while output.read_line(&mut line).is_ok_and(|length| length > 0) {
        if let Some(whole) = line.strip_suffix('\n') {
            tally(&|tally| {
                tally.take(worker, whole);
            });
        }
        line.clear();
    }
}
