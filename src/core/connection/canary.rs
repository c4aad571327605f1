//! Canaries: proof that a lane's replies are those of its requests. Behind a request the broker puts an ECHO of a word that no
//! other request has; if the reply in its place is not that word, replies were lost, doubled or slipped in. Owns the words and
//! the replies that are withheld until the canary behind them is answered; never what follows from a wrong answer.

use crate::core::connection::slot::Slot;

/// `*2 ECHO <word>` around the word.
const HEAD: &[u8] = b"*2\r\n$4\r\nECHO\r\n$32\r\n";

/// Where in it the command stands. PING is another one of as many letters that answers with its argument.
const NAME: std::ops::Range<usize> = 8..12;

/// Bytes of a word: two numbers in hexadecimal.
const WORD: usize = 32;

pub(super) const CANARY: usize = HEAD.len() + WORD + 2;

#[derive(Debug)]
pub(crate) struct Withheld {
    pub slot: Slot,
    pub frame: Vec<u8>,
}

#[derive(Debug, Default)]
pub(super) struct Canaries {
    /// Makes the words this lane's own; zero until there is one.
    secret: u64,
    /// By which command the last one was asked for.
    name: [u8; 4],
    /// Requests put on the lane since the last canary, a unit counting as one.
    units: u32,
    /// Replies that have come and wait for their canary, oldest first.
    withheld: Vec<Withheld>,
    withheld_bytes: usize,
}

impl Canaries {
    /// Counts one more request or unit. Says whether `every` of them have come since the last canary.
    pub(super) fn is_due(&mut self, every: u32) -> bool {
        self.units += 1;
        self.units >= every
    }

    /// The request whose last byte is at this offset of the lane.
    pub(super) fn request(&mut self, end: u64, rng: &mut fastrand::Rng, name: &[u8; 4]) -> [u8; CANARY] {
        self.units = 0;
        if self.secret == 0 {
            self.secret = rng.u64(1..);
        }
        self.name = *name;
        self.request_at(end)
    }

    /// The request of a canary that stands there now, and stood elsewhere.
    pub(super) fn request_at(&self, end: u64) -> [u8; CANARY] {
        let mut request = [0; CANARY];
        request[..HEAD.len()].copy_from_slice(HEAD);
        request[NAME].copy_from_slice(&self.name);
        request[HEAD.len()..HEAD.len() + WORD].copy_from_slice(&word(self.secret, end));
        request[CANARY - 2..].copy_from_slice(b"\r\n");
        request
    }

    /// Whether a reply is that of the canary which ends at this offset.
    pub(super) fn is_answer(&self, frame: &[u8], end: u64) -> bool {
        is_like_answer(frame) && frame[5..5 + WORD] == word(self.secret, end)
    }

    pub(super) fn withhold(&mut self, slot: Slot, frame: &[u8]) {
        let withheld = Withheld { slot, frame: frame.to_vec() };
        self.withheld_bytes += withheld.frame.capacity() + size_of::<Withheld>();
        self.withheld.push(withheld);
    }

    pub(super) fn withheld(&self) -> &[Withheld] {
        &self.withheld
    }

    pub(super) fn withheld_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.withheld.iter_mut().map(|withheld| &mut withheld.slot)
    }

    pub(super) fn take_withheld(&mut self) -> Vec<Withheld> {
        self.withheld_bytes = 0;
        std::mem::take(&mut self.withheld)
    }

    pub(super) fn footprint(&self) -> usize {
        self.withheld_bytes
    }
}

pub(super) fn is_like_answer(frame: &[u8]) -> bool {
    frame.len() == WORD + 7 && frame.starts_with(b"$32\r\n")
}

/// Of the lane's own number and the canary's end, which no other canary of the lane ever has.
fn word(secret: u64, end: u64) -> [u8; WORD] {
    let mut word = [0; WORD];
    let numbers = (u128::from(secret) << 64) | u128::from(end);
    for (at, byte) in word.iter_mut().enumerate() {
        *byte = b"0123456789abcdef"[(numbers >> (4 * (WORD - 1 - at))) as usize & 15];
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_of_its_lane_and_its_place() {
        assert_eq!(&word(0xab, 0x1234), b"00000000000000ab0000000000001234");
        assert_ne!(word(1, 2), word(1, 3));
        assert_ne!(word(1, 2), word(2, 2));
    }
}
