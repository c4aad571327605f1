//! How often something took how long, in fixed buckets: for metrics. Allocates nothing and asks no clock.

use std::time::Duration;

/// Times counted by length.
#[derive(Debug, Clone)]
pub struct Distribution<const N: usize> {
    /// The longest of each bucket; they grow.
    bounds: &'static [Duration; N],
    counts: [u64; N],
    longer: u64,
    sum: Duration,
}

impl<const N: usize> Distribution<N> {
    /// Nothing counted yet.
    pub const fn new(bounds: &'static [Duration; N]) -> Self {
        Distribution { bounds, counts: [0; N], longer: 0, sum: Duration::ZERO }
    }

    /// Counts one. The shortest are the cheapest to count.
    #[inline]
    pub fn note(&mut self, length: Duration) {
        self.sum += length;
        match self.bounds.iter().position(|bound| length <= *bound) {
            Some(bucket) => self.counts[bucket] += 1,
            None => self.longer += 1,
        }
    }

    /// The bound of each bucket, and how many are in it and in none before it.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        self.bounds.iter().copied().zip(self.counts)
    }

    /// How many were longer than every bound.
    pub fn longer(&self) -> u64 {
        self.longer
    }

    /// How long all were together.
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_length_is_in_one_bucket() {
        static BOUNDS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(5)];
        let mut lengths = Distribution::new(&BOUNDS);
        [0, 1, 2, 5, 6, 100].map(Duration::from_millis).into_iter().for_each(|length| lengths.note(length));
        assert_eq!(lengths.buckets().map(|(_, count)| count).collect::<Vec<_>>(), [2, 2]);
        assert_eq!((lengths.longer(), lengths.sum()), (2, Duration::from_millis(114)));
    }
}
