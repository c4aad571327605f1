//! Generational keys: an index into a slab and a generation. A key kept after its object has been removed (a slot of a
//! closed child, an event of the same batch) finds nothing instead of the next object in its place. Owns only the slab.

use slab::Slab;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

/// Identifies one `T` as long as it exists, and nothing after it, nor another kind of object.
pub struct Key<T> {
    index: u32,
    generation: u32,
    kind: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    /// A key no arena ever returns.
    pub const NONE: Key<T> = Key { index: u32::MAX, generation: 0, kind: PhantomData };

    /// Whether this is `NONE`.
    pub fn is_none(self) -> bool {
        self == Key::NONE
    }

    /// Its place, by which it is named to people: no other object has it at the same time.
    pub fn index(self) -> u32 {
        self.index
    }

    /// The key as one number, for a poll token. Inverse of `from_bits`.
    pub fn to_bits(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.index)
    }

    /// The key of a token.
    pub fn from_bits(bits: u64) -> Self {
        Key { index: bits as u32, generation: (bits >> 32) as u32, kind: PhantomData }
    }
}

impl<T> Default for Key<T> {
    fn default() -> Self {
        Key::NONE
    }
}
impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Key<T> {}
impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index && self.generation == other.generation
    }
}
impl<T> Eq for Key<T> {}
impl<T> Hash for Key<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.to_bits().hash(state);
    }
}
impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

/// A slab whose keys carry a generation. `K` names what the keys are for, where that is not the type itself: so a key
/// can be kept and compared by rooms that know nothing of the object.
#[derive(Debug)]
pub struct Arena<T, K = T> {
    slab: Slab<(u32, T)>,
    next_generation: u32,
    kind: PhantomData<fn() -> K>,
}

impl<T, K> Default for Arena<T, K> {
    fn default() -> Self {
        Arena { slab: Slab::new(), next_generation: 1, kind: PhantomData }
    }
}

impl<T, K> Arena<T, K> {
    /// An empty arena for the process after so many forks: its keys begin far from those of earlier processes.
    pub fn of_copy(forks: u64) -> Arena<T, K> {
        // Odd, so that no two of the first four billion are the same; the golden ratio spreads them.
        let first = (forks as u32).wrapping_mul(0x9E37_79B9).wrapping_add(1);
        Arena { slab: Slab::new(), next_generation: first.max(1), kind: PhantomData }
    }

    /// Stores `value` and returns its key, which is never used again.
    pub fn insert(&mut self, value: T) -> Key<K> {
        let generation = self.next_generation;
        // Wraps after four billion objects; by then no key of the first round is left. Zero is `NONE`.
        self.next_generation = self.next_generation.checked_add(1).unwrap_or(1);
        let index = self.slab.insert((generation, value)) as u32;
        Key { index, generation, kind: PhantomData }
    }

    /// The object, unless it has gone.
    pub fn get(&self, key: Key<K>) -> Option<&T> {
        let (generation, value) = self.slab.get(key.index as usize)?;
        (*generation == key.generation).then_some(value)
    }

    /// The object, unless it has gone.
    pub fn get_mut(&mut self, key: Key<K>) -> Option<&mut T> {
        let (generation, value) = self.slab.get_mut(key.index as usize)?;
        (*generation == key.generation).then_some(value)
    }

    /// Removes the object and returns it, unless it was removed before.
    pub fn remove(&mut self, key: Key<K>) -> Option<T> {
        self.get(key)?;
        Some(self.slab.remove(key.index as usize).1)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// Every object with its key, in index order.
    pub fn iter(&self) -> impl Iterator<Item = (Key<K>, &T)> {
        self.slab.iter().map(|(index, (generation, value))| {
            (Key { index: index as u32, generation: *generation, kind: PhantomData }, value)
        })
    }

    /// Every object, in index order.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slab.iter_mut().map(|(_, (_, value))| value)
    }

    /// The first key whose index is `index` or higher, and the index behind it.
    pub fn from(&self, index: usize) -> Option<(usize, Key<K>)> {
        // A slab has no way to begin in the middle; holes are few, since it is filled from the front.
        (index..self.slab.capacity()).find_map(|index| {
            let (generation, _) = self.slab.get(index)?;
            Some((index + 1, Key { index: index as u32, generation: *generation, kind: PhantomData }))
        })
    }

    /// Every key, collected, for passes that change the arena.
    pub fn keys(&self) -> Vec<Key<K>> {
        self.iter().map(|(key, _)| key).collect()
    }

    /// Frees unused capacity after a burst.
    pub fn shrink(&mut self) {
        self.slab.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_give_out_keys_of_their_own() {
        let first = |forks| Arena::<()>::of_copy(forks).insert(()).generation;
        assert_eq!(first(0), Arena::<()>::default().insert(()).generation);
        let mut firsts: Vec<u32> = (0..100).map(first).collect();
        firsts.sort_unstable();
        assert!(firsts.windows(2).all(|pair| pair[1] - pair[0] > 10_000_000), "{firsts:?}");
    }

    #[test]
    fn a_key_outlives_its_object_harmlessly() {
        let mut arena: Arena<&str> = Arena::default();
        let a = arena.insert("a");
        assert_eq!(arena.remove(a), Some("a"));
        let b = arena.insert("b");
        assert_eq!(a.index, b.index, "the index is reused");
        assert_eq!(arena.get(a), None, "but the old key finds nothing");
        assert_eq!(arena.get(b), Some(&"b"));
        assert_eq!(arena.get(Key::NONE), None);
        assert_eq!(Key::from_bits(b.to_bits()), b);
    }
}
