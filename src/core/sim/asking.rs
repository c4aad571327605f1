//! How a child of the simulation says what the generator asks: what its words stand for, and how each answer is judged
//! by `script`. Decides neither what is asked nor whether a reply is right.

use super::generator::{Answer, Family, Request, Speaker, World};
use super::ledger::{Ledger, Nonce};
use super::moods::Moods;
use super::script::{Script, What};
use fastrand::Rng;

/// Databases children use.
pub(super) const DBS: u32 = 3;
/// Lists that blocking pops wait on.
pub(super) const LISTS: [&[u8]; 2] = [b"x", b"y"];
/// Keys that are watched.
const WATCHED: [&[u8]; 2] = [b"k1", b"k2"];

/// One child, while it asks. Each key that is not shared on purpose is a nonce, so that one reply tells whose it is.
pub(super) struct Asking<'a> {
    pub(super) rng: &'a mut Rng,
    pub(super) moods: &'a mut Moods,
    pub(super) script: &'a mut Script,
    pub(super) ledger: &'a mut Ledger,
    /// What the next request may write.
    pub(super) value: Vec<u8>,
}

impl World for Asking<'_> {
    fn rng(&mut self) -> &mut Rng {
        self.rng
    }

    fn speaker(&self) -> Speaker {
        Speaker::Simulation
    }

    fn begin(&mut self) {
        self.value = vec![b'v'; if self.rng.u8(..8) == 0 { self.rng.usize(1..3000) } else { 1 }];
    }

    fn word(&mut self, what: &'static str) -> Vec<u8> {
        match what {
            "nonce" | "key" | "counter" | "item" => self.script.nonce(self.ledger).to_string().into_bytes(),
            "new" => self.value.clone(),
            "watched" => WATCHED[self.rng.usize(..2)].to_vec(),
            "list" | "queue" => LISTS[self.rng.usize(..2)].to_vec(),
            "channel" => super::generator::CHANNELS[self.rng.usize(..2)].to_vec(),
            "timeout" => if self.rng.bool() { "0" } else { "0.15" }.into(),
            // The timeout says whose it is.
            "waits" => (self.script.child * 1000 + 1).to_string().into_bytes(),
            "db" => self.rng.u32(..DBS).to_string().into_bytes(),
            "proto" => self.rng.u8(2..4).to_string().into_bytes(),
            "me" => format!("me{}", self.rng.u8(..9)).into_bytes(),
            other => unreachable!("the simulation says no ${other}"),
        }
    }

    fn marks(&mut self) -> bool {
        self.moods.marks()
    }

    fn may_quit(&self) -> bool {
        true
    }
}

/// How a request is judged, and the nonce by which its execution is known.
pub(super) fn meant(request: &Request) -> (What, Option<Nonce>) {
    let word = |what| request.said(what).unwrap_or_default();
    let text = |what| String::from_utf8_lossy(word(what)).into_owned();
    let nonce =
        ["nonce", "key", "counter", "item"].into_iter().find_map(|what| Nonce::of(request.said(what)?));
    let what = match request.answer {
        Answer::Value | Answer::Swapped | Answer::Script => What::Value,
        Answer::Stored => What::Set,
        Answer::First => What::Incr,
        Answer::Length => What::Push,
        Answer::Receivers => What::Publish,
        Answer::Replicas => What::Wait,
        Answer::Multi => What::Multi,
        Answer::Exec => What::Exec,
        Answer::Discard => What::Discard,
        Answer::Watch => What::Watch(word("watched").to_vec()),
        Answer::Unwatch => What::Unwatch,
        Answer::Element => {
            let timeout = (word("timeout") != b"0").then_some(150);
            return (What::Pop { list: word("queue").to_vec(), timeout, stay: nonce }, None);
        }
        Answer::Select => What::Select(text("db").parse().expect("a number")),
        Answer::Hello => What::Hello(text("proto").parse().expect("a number")),
        Answer::Reset => What::Reset,
        Answer::Quit => What::Quit,
        Answer::Named => What::Name(word("me").to_vec()),
        Answer::Name => What::NameAgain,
        Answer::Pong => What::Ping,
        Answer::Echo => What::Echo,
        Answer::Error(start) if start.contains("unknown") => What::Unknown,
        Answer::Error(_) => What::Short,
        Answer::Confirmations { family, joins } => {
            let family = Family::ALL.iter().position(|known| *known == family).expect("one of them");
            What::Subscribe { family, joins, names: request.argv[1..].to_vec() }
        }
        other => unreachable!("the simulation judges no {other:?}"),
    };
    (what, nonce)
}
