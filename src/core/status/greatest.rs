//! The greatest of very many, found one by one: a heap that never holds more than are wanted.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Keeps those with the greatest weights; of equal ones the first.
#[derive(Debug)]
pub(crate) struct Greatest<W: Ord, T> {
    /// The least of them on top. The number of arrival makes each entry unique, so that `T` need not be ordered.
    heap: BinaryHeap<Reverse<Weighed<W, T>>>,
    max: usize,
    seen: u64,
}

#[derive(Debug)]
struct Weighed<W, T> {
    weight: W,
    arrival: Reverse<u64>,
    value: T,
}

impl<W: Ord, T> PartialEq for Weighed<W, T> {
    fn eq(&self, other: &Self) -> bool {
        self.arrival == other.arrival
    }
}

impl<W: Ord, T> Eq for Weighed<W, T> {}

impl<W: Ord, T> PartialOrd for Weighed<W, T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<W: Ord, T> Ord for Weighed<W, T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (&self.weight, self.arrival).cmp(&(&other.weight, other.arrival))
    }
}

impl<W: Ord, T> Greatest<W, T> {
    pub(crate) fn new(max: usize) -> Self {
        Greatest { heap: BinaryHeap::new(), max, seen: 0 }
    }

    pub(crate) fn offer(&mut self, weight: W, value: T) {
        self.seen += 1;
        self.heap.push(Reverse(Weighed { weight, arrival: Reverse(self.seen), value }));
        if self.heap.len() > self.max {
            self.heap.pop();
        }
    }

    /// Those that are left, the greatest first.
    pub(crate) fn into_sorted(self) -> Vec<T> {
        self.heap.into_sorted_vec().into_iter().map(|Reverse(weighed)| weighed.value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_are_kept_in_order_and_no_more() {
        let mut greatest = Greatest::new(3);
        for (weight, name) in [(1, 'a'), (5, 'b'), (3, 'c'), (5, 'd'), (3, 'e'), (0, 'f')] {
            greatest.offer(weight, name);
            assert!(greatest.heap.len() <= 3);
        }
        assert_eq!(greatest.into_sorted(), ['b', 'd', 'c']);
        let mut none = Greatest::new(0);
        none.offer(1, 'a');
        assert!(none.into_sorted().is_empty());
    }
}
