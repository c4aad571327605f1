//! Canaries: proof that a lane's replies are those of its requests. Behind a request the broker puts an ECHO of a word
//! that no other request has; if the reply in its place is not that word, replies were lost, doubled or slipped in, and
//! the lane is closed. With `integrity = always` one stands behind every request, and no reply is given to a child
//! before the canary behind it has come home. Owns the word and the withheld replies.

use crate::core::connection::lane::Slot;

/// `*2 ECHO <word>` around the word.
pub(in crate::core) const HEAD: &[u8] = b"*2\r\n$4\r\nECHO\r\n$32\r\n";

/// Bytes of a word: two numbers in hexadecimal.
pub(in crate::core) const WORD: usize = 32;

pub(in crate::core) const CANARY: usize = HEAD.len() + WORD + 2;

/// A reply that waits for the canary behind it.
#[derive(Debug)]
pub(in crate::core) struct Withheld {
    pub(in crate::core) slot: Slot,
    pub(in crate::core) frame: Vec<u8>,
}

/// The word of the canary that ends at this offset of the lane: the lane's own number and the offset, which no other
/// canary of the lane ever has.
pub(in crate::core) fn word(secret: u64, end: u64) -> [u8; WORD] {
    let mut word = [0; WORD];
    let numbers = (u128::from(secret) << 64) | u128::from(end);
    for (at, byte) in word.iter_mut().enumerate() {
        *byte = b"0123456789abcdef"[(numbers >> (4 * (WORD - 1 - at))) as usize & 15];
    }
    word
}

pub(in crate::core) fn is_like_canary(frame: &[u8]) -> bool {
    frame.len() == WORD + 7 && frame.starts_with(b"$32\r\n")
}

/// Whether a reply is that of the canary which ends at this offset.
pub(in crate::core) fn is_canary(frame: &[u8], secret: u64, end: u64) -> bool {
    is_like_canary(frame) && frame[5..5 + WORD] == word(secret, end)
}

impl Withheld {
    /// Heap bytes held.
    pub(in crate::core) fn footprint(&self) -> usize {
        self.frame.capacity() + std::mem::size_of::<Withheld>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::key::Key;
    use crate::core::connection::lane::FLAG_QUEUED;
    use crate::core::connection::lane::Lane;
    use crate::core::connection::lane::LaneRole;
    use crate::core::connection::lane::SlotKind;
    use crate::core::keys::PoolId;
    use crate::core::shared::Shared;

    #[test]
    pub(in crate::core) fn a_word_is_of_its_lane_and_its_place() {
        assert_eq!(&word(0xab, 0x1234), b"00000000000000ab0000000000001234");
        assert_ne!(word(1, 2), word(1, 3));
        assert_ne!(word(1, 2), word(2, 2));
    }

    #[test]
    pub(in crate::core) fn where_no_canary_can_stand_few_replies_are_believed() {
        let believed = |kind: SlotKind, flags: u8, frame: &[u8]| {
            let mut lane = Lane::new(PoolId(0), LaneRole::Lease, 0);
            lane.push(b"request", Key::NONE, 0, kind, flags, 0);
            Shared::is_plausible(lane.front().expect("a slot"), frame)
        };
        assert!(believed(SlotKind::Subscribe, 0, b"-ERR wrong\r\n"), "a subscription may be refused");
        assert!(!believed(SlotKind::Subscribe, 0, b"$1\r\nx\r\n"), "it is confirmed by pushes");
        assert!(believed(SlotKind::Multi, FLAG_QUEUED, b"+OK\r\n"));
        assert!(!believed(SlotKind::Multi, FLAG_QUEUED, b"+QUEUED\r\n"));
        assert!(believed(SlotKind::Relay, FLAG_QUEUED, b"+QUEUED\r\n"));
        assert!(!believed(SlotKind::Relay, FLAG_QUEUED, b"+OK\r\n"));
        assert!(believed(SlotKind::Relay, 0, b"$1\r\nx\r\n"), "its canary will tell");
    }
}
