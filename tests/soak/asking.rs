//! How a worker says what the generator asks: what its words stand for, and what each request must be answered with.
//! Judges no reply.

use fastrand::Rng;

use super::generator::{self, Answer, CHANNELS, Command, Form, Request, Situation, Speaker, World};
use super::wire::bulk;
use super::worker::{Batch, Expect, KEYS, Part, Watched, Worker};
use crate::support::request;

impl World for Worker {
    fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    fn speaker(&self) -> Speaker {
        Speaker::Soak
    }

    fn word(&mut self, what: &'static str) -> Vec<u8> {
        let word = match what {
            "nonce" | "new" => self.nonce(),
            "key" => {
                let key = self.rng.usize(..KEYS);
                self.key(key)
            }
            "list" => self.list(),
            "queue" => self.queue(),
            "item" => self.value("").1,
            "watched" => format!("t:{}", self.orders.id),
            "channel" => CHANNELS[self.rng.usize(..2)].escape_ascii().to_string(),
            "waits" => self.rng.u8(1..20).to_string(),
            "timeout" => ["0.01", "0.05", "0.3", "1"][self.rng.usize(..4)].to_owned(),
            other => unreachable!("the soak says no ${other}"),
        };
        word.into_bytes()
    }

    /// Two alike could not be told from each other.
    fn marks(&mut self) -> bool {
        true
    }
}

impl Worker {
    /// One request among many, with what it must be answered with.
    pub(crate) fn plain(&mut self) -> (Vec<u8>, Expect) {
        if self.rng.u8(..25) == 0 {
            let nothing: &[u8] = if self.proto == 3 { b"%0\r\n" } else { b"*0\r\n" };
            return (request(&["HGETALL", "none"]), Expect::Part(Part::Plain(nothing.to_vec().into())));
        }
        let request = match self.rng.u8(..24) {
            0..4 => generator::about_the_connection(self),
            4..7 => generator::push(self),
            _ => generator::plain(self),
        };
        let expect = self.expect(&request);
        (self.written(request), expect)
    }

    /// One request inside of a block.
    pub(crate) fn inside(&mut self) -> (Vec<u8>, Part) {
        let request = generator::plain(self);
        let part = self.part(&request);
        (self.written(request), part)
    }

    /// A blocking pop of the worker's own queue.
    pub(crate) fn waiting(&mut self) -> (Vec<u8>, Expect) {
        let request = generator::pop(self);
        let expect = self.expect(&request);
        (self.written(request), expect)
    }

    /// Some situation, with what each of its requests must be answered with.
    pub(crate) fn situation(&mut self) -> Batch {
        let all = Situation::SELF_CONTAINED;
        let situation = all[self.rng.usize(..all.len())];
        let mut block: Option<Vec<Part>> = None;
        let mut batch = Batch::new();
        for request in generator::situation(self, situation) {
            let expect = match (request.answer, &mut block) {
                (Answer::Multi, _) => {
                    block = Some(Vec::new());
                    Expect::Multi
                }
                (Answer::Exec, _) => {
                    let parts = block.take().unwrap_or_default();
                    Expect::Exec { sequence: None, db: self.db, parts, watched: Watched::Nothing }
                }
                (_, Some(parts)) => {
                    let part = self.part(&request);
                    parts.push(part.clone());
                    Expect::Queued(part)
                }
                (_, None) => self.expect(&request),
            };
            batch.push((self.written(request), expect));
        }
        batch
    }

    /// A value for the worker's list; `part` tells two of one block apart.
    pub(crate) fn value(&mut self, part: &str) -> (u64, String) {
        let sequence = self.sequence();
        let padding = if self.rng.u8(..) == 0 { self.rng.usize(..20_000) } else { self.rng.usize(..6) };
        (sequence, format!("{}.{sequence}{part}.{}", self.orders.id, "y".repeat(padding)))
    }

    /// As bytes; now and then as a line.
    fn written(&mut self, asked: Request) -> Vec<u8> {
        let short = asked.argv.iter().map(Vec::len).sum::<usize>() < 1000;
        if !short || self.rng.u8(..24) > 0 {
            return request(&asked.argv);
        }
        let mut bytes = Vec::new();
        let form = Form::Inline(self.rng.u8(..32));
        Command { form, ..Command::new(asked.argv) }.write(&[], &mut bytes);
        bytes
    }

    /// What a request outside of a block must be answered with.
    fn expect(&self, request: &Request) -> Expect {
        match request.answer {
            Answer::Length | Answer::Pushed => Expect::Push(sequence_of(request), self.part(request)),
            Answer::Element | Answer::Moved => Expect::Pop(self.queue()),
            _ => Expect::Part(self.part(request)),
        }
    }

    fn part(&self, request: &Request) -> Part {
        let text = |what| String::from_utf8_lossy(request.said(what).unwrap_or_default()).into_owned();
        let key = || {
            let name = text("key");
            (0..KEYS).find(|key| self.key(*key) == name).expect("a key of the worker's own")
        };
        match request.answer {
            Answer::Script | Answer::Echo | Answer::Pong => Part::Nonce(bulk(&text("nonce")).into()),
            Answer::ScriptError => Part::Nonce(format!("-ERR {}\r\n", text("nonce")).into_bytes().into()),
            Answer::Pushed => Part::Nonce(bulk(&text("item")).into()),
            Answer::Length => Part::Length,
            Answer::Value => Part::Old { key: key(), new: None },
            Answer::Swapped => Part::Old { key: key(), new: Some(text("new")) },
            Answer::Stored if request.said("key").is_none() => Part::Plain(b"+OK\r\n".to_vec().into()),
            Answer::Stored => Part::Put { key: key(), new: text("new") },
            Answer::Database => Part::Plain(bulk(&format!("db{}", self.db)).into()),
            Answer::Error(start) => Part::Error(start),
            Answer::Receivers | Answer::Replicas => Part::Count,
            other => unreachable!("the soak judges no {other:?}"),
        }
    }
}

/// The number of the item that is pushed: its second word.
fn sequence_of(request: &Request) -> u64 {
    let item = String::from_utf8_lossy(request.said("item").unwrap_or_default());
    item.split('.').nth(1).and_then(|number| number.parse().ok()).expect("an item has a number")
}
