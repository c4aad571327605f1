//! How a child of the simulation says what the generator asks: what its words stand for, and how each answer is judged
//! by `script`. Decides neither what is asked nor whether a reply is right.

use super::generator::{Answer, Request, Speaker, World};
use super::ledger::{Ledger, Nonce};
use super::moods::Moods;
use super::script::Script;
use crate::base::clock::Millis;
use fastrand::Rng;

pub(super) const DBS: u32 = 3;
pub(super) const LISTS: [&[u8]; 2] = [b"x", b"y"];
/// What a blocking pop waits that does not wait for ever: 0.15 seconds.
pub(super) const POP_TIMEOUT: Millis = 150;
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

/// The nonce by which the execution of a request is known. A blocking pop is executed whenever there is an element.
pub(super) fn nonce_of(request: &Request) -> Option<Nonce> {
    let mut said = ["nonce", "key", "counter", "item"].into_iter().filter_map(|what| request.said(what));
    said.find_map(Nonce::of).filter(|_| request.answer != Answer::Element)
}
