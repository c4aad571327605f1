//! Names that commands go by, whatever their case. Owns the look-up that every request begins with; knows nothing of
//! what a name stands for.

use super::table::{CommandId, NAME_MAX};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Bytes of a name that fits into one number with its length.
const SHORT_MAX: usize = 15;

/// Names to ids. Nearly every name is short, and found by one number.
#[derive(Debug, Default)]
pub(super) struct Names {
    short: HashMap<u128, CommandId, BuildHasherDefault<NameHasher>>,
    /// Lower case.
    long: HashMap<Box<[u8]>, CommandId, BuildHasherDefault<NameHasher>>,
}

/// A short name in lower case, its length in the last byte; none for a longer one.
fn packed(name: &[u8]) -> Option<u128> {
    let mut bytes = [0; SHORT_MAX + 1];
    bytes[..SHORT_MAX].get_mut(..name.len())?.copy_from_slice(name);
    bytes[SHORT_MAX] = name.len() as u8;
    Some(lower(u128::from_le_bytes(bytes)))
}

/// Sixteen bytes with `A` to `Z` in lower case, all at once: the high bit of each byte says whether it is one of them.
fn lower(word: u128) -> u128 {
    const ONES: u128 = u128::from_le_bytes([1; 16]);
    let low = word & (ONES * 0x7f);
    let from_a = low + ONES * (0x80 - b'A' as u128);
    let beyond_z = low + ONES * (0x7f - b'Z' as u128);
    let is_upper = from_a & !beyond_z & !word & (ONES * 0x80);
    word | (is_upper >> 2)
}

impl Names {
    /// The command that `typed` names. Never allocates.
    #[inline(always)]
    pub(super) fn get(&self, typed: &[u8]) -> Option<CommandId> {
        if let Some(packed) = packed(typed) {
            return self.short.get(&packed).copied();
        }
        let mut buffer = [0; NAME_MAX];
        let lower = buffer.get_mut(..typed.len())?;
        lower.copy_from_slice(typed);
        lower.make_ascii_lowercase();
        self.long.get(&*lower).copied()
    }

    /// Lets a command go by this name too.
    pub(super) fn insert(&mut self, name: &[u8], id: CommandId) {
        match packed(name) {
            Some(packed) => drop(self.short.insert(packed, id)),
            None => drop(self.long.insert(name.to_ascii_lowercase().into_boxed_slice(), id)),
        }
    }

    /// No command goes by this name any more.
    pub(super) fn remove(&mut self, name: &[u8]) {
        match packed(name) {
            Some(packed) => drop(self.short.remove(&packed)),
            None => drop(self.long.remove(&*name.to_ascii_lowercase())),
        }
    }

    /// Any name of a command, in lower case.
    pub(super) fn name_of(&self, id: CommandId) -> Option<Vec<u8>> {
        let short = self.short.iter().find(|(_, named)| **named == id).map(|(packed, _)| {
            let bytes = packed.to_le_bytes();
            bytes[..usize::from(bytes[SHORT_MAX])].to_vec()
        });
        short.or_else(|| self.long.iter().find(|(_, named)| **named == id).map(|(name, _)| name.to_vec()))
    }
}

/// Multiplies eight bytes at a time. Need not be safe against chosen keys: all are names the server knows.
#[derive(Debug, Default)]
struct NameHasher(u64);

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0xf135_7aea_2e62_a9c5);
    }

    fn write_u128(&mut self, word: u128) {
        self.write_u64(word as u64);
        self.write_u64((word >> 64) as u64);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        // The product's high bits are the well mixed ones; the map picks buckets by the low ones.
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_byte_is_put_into_lower_case_as_ascii_is() {
        for byte in 0..=u8::MAX {
            let bytes =
                [byte, b'Z', 0xff, b'@', byte, b'[', b'a', 0, byte, b'A', b'z', b'{', 0x80, 1, 0x7f, byte];
            let lowered = lower(u128::from_le_bytes(bytes)).to_le_bytes();
            assert_eq!(lowered, bytes.map(|byte| byte.to_ascii_lowercase()));
        }
    }

    #[test]
    fn names_of_any_length_and_case_are_told_apart() {
        let mut names = Names::default();
        let all: [&[u8]; 6] =
            [b"get", b"getex", b"zrangebyscore", b"zrevrangebyscore", b"", b"zremrangebyscore"];
        for (id, name) in all.iter().enumerate() {
            names.insert(&name.to_ascii_uppercase(), id as CommandId);
        }
        for (id, name) in all.iter().enumerate() {
            assert_eq!(names.get(name), Some(id as CommandId));
            assert_eq!(names.get(&name.to_ascii_uppercase()), Some(id as CommandId));
            assert_eq!(names.name_of(id as CommandId), Some(name.to_vec()));
        }
        // A byte more, even one that looks like padding, is another name.
        assert_eq!(names.get(b"get\0"), None);
        assert_eq!(names.get(&[b'x'; NAME_MAX + 1]), None);
        names.remove(b"GET");
        names.remove(b"ZREVRANGEBYSCORE");
        assert_eq!((names.get(b"get"), names.get(b"zrevrangebyscore")), (None, None));
    }
}
